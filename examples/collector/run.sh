#!/usr/bin/env bash
# Runs the simulated board, the collector and the plant. Its exit code is the plant's. Ports: OCEMS_BOARD_PORT,
# OCEMS_OTLP_PORT, OCEMS_HEALTH_PORT. OCEMS_LIVE is the time for which the plant sends live samples.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
board=127.0.0.1:${OCEMS_BOARD_PORT:-8750}
health=127.0.0.1:${OCEMS_HEALTH_PORT:-13133}
export OCEMS_OTLP_PORT=${OCEMS_OTLP_PORT:-4318} OCEMS_HEALTH_PORT=${OCEMS_HEALTH_PORT:-13133}
export OCEMS_STATE=$work/state OCEMS_PUBLIC_KEY_FILE=$work/keys/public.pem
export OCEMS_ENDPOINT=http://$board/v1.0/industry/data
# The test tokens of registry.yaml.
export OCEMS_TOKEN_ETP=test-token-etp-0000000000000000000000000001
export OCEMS_TOKEN_STACK_1=test-token-stack-00000000000000000000000002
export OCEMS_TOKEN_STACK_2=test-token-stack-00000000000000000000000003

pids=()
finish() {
	code=$?
	trap - EXIT INT TERM
	trap '' PIPE
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	if [ "$code" -ne 0 ]; then
		for log in simulator collector; do
			[ -s "$work/$log.log" ] || continue
			echo "--- the last lines of $log.log" >&2 || true
			tail -n 40 "$work/$log.log" >&2 || true
		done
	fi
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

await() { # URL pid name
	for _ in $(seq 100); do
		kill -0 "$2" 2>/dev/null || { echo "the $3 has stopped" >&2; return 1; }
		curl -fsS -m 2 -o /dev/null "$1" 2>/dev/null && return 0
		sleep 0.2
	done
	echo "the $3 does not answer at $1" >&2
	return 1
}

cd "$work"
mkdir -p "$OCEMS_STATE"
(cd "$root" && "${GO:-go}" build -o "$work/plant" ./test/plant)
"$root/bin/ocems" keygen --out "$work/keys" >/dev/null

"$root/bin/ocems" simulate --listen "$board" --registry "$here/registry.yaml" --private-key "$work/keys/private.pem" >simulator.log 2>&1 &
pids+=($!)
await "http://$board/received" "${pids[0]}" simulator

"${OCEMS_COLLECTOR:-$root/bin/otelcol-ocems}" --config "$here/config.yaml" >collector.log 2>&1 &
pids+=($!)
await "http://$health/" "${pids[1]}" collector

# In the background, so that the shell handles a signal immediately.
"$work/plant" --otlp "http://127.0.0.1:$OCEMS_OTLP_PORT/v1/metrics" --received "http://$board/received" \
	--live "${OCEMS_LIVE:-30s}" --deadline 3m &
pids+=($!)
wait "${pids[2]}"

#!/usr/bin/env bash
# Runs the simulated board, Telegraf and the plant. Its exit code is the plant's.
#
#	run.sh [--telegraf BINARY] [--config FILE] [--collector FILE]
#
# telegraf-execd and telegraf-otlp call this script with their own Telegraf and configuration. --collector also starts a collector.
# Ports: OCEMS_BOARD_PORT, OCEMS_MODBUS_PORT, OCEMS_OTLP_PORT. OCEMS_LIVE is the time for which readings are served.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
telegraf=$root/bin/telegraf-ocems-small config=$here/telegraf.conf collector=
while [ $# -gt 0 ]; do
	case $1 in
	--telegraf) telegraf=$2 ;;
	--config) config=$2 ;;
	--collector) collector=$2 ;;
	*) echo "unknown option $1" >&2; exit 2 ;;
	esac
	shift 2
done
work=$(mktemp -d)
board=127.0.0.1:${OCEMS_BOARD_PORT:-8750}
export OCEMS_MODBUS=127.0.0.1:${OCEMS_MODBUS_PORT:-1502} OCEMS_OTLP_PORT=${OCEMS_OTLP_PORT:-4317}
export OCEMS_STATE=$work/state OCEMS_PUBLIC_KEY_FILE=$work/keys/public.pem OCEMS_HISTORY=$work/history.influx OCEMS_RAW=$work/raw.json
export OCEMS_ENDPOINT=http://$board/v1.0/industry/data OCEMS_BIN=$root/bin OCEMS_EXAMPLE=$(dirname "$config")
# The test tokens of registry.yaml.
export OCEMS_TOKEN_ETP=test-token-etp-0000000000000000000000000001
export OCEMS_TOKEN_FLOW=test-token-flow-000000000000000000000000002
export OCEMS_TOKEN_STACK=test-token-stack-00000000000000000000000003

pids=()
finish() {
	code=$?
	trap - EXIT INT TERM
	trap '' PIPE
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	if [ "$code" -ne 0 ]; then
		for log in simulator collector telegraf; do
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

await() { # pid name command...
	pid=$1 name=$2
	shift 2
	for _ in $(seq 100); do
		kill -0 "$pid" 2>/dev/null || { echo "the $name has stopped" >&2; return 1; }
		"$@" 2>/dev/null && return 0
		sleep 0.2
	done
	echo "the $name does not answer after 20 s" >&2
	return 1
}
listens() { exec 3<>"/dev/tcp/${1%:*}/${1#*:}" && exec 3>&-; }

cd "$work"
mkdir -p "$OCEMS_STATE"
(cd "$root" && "${GO:-go}" build -o "$work/plant" ./test/modbusplant)
"$root/bin/ocems" keygen --out "$work/keys" >/dev/null

"$root/bin/ocems" simulate --listen "$board" --registry "$here/registry.yaml" --private-key "$work/keys/private.pem" >simulator.log 2>&1 &
pids+=($!)
await $! simulator listens "$board"

if [ -n "$collector" ]; then
	"$root/bin/otelcol-ocems" --config "$collector" >collector.log 2>&1 &
	pids+=($!)
	await $! collector listens "127.0.0.1:$OCEMS_OTLP_PORT"
fi

"$work/plant" --modbus "$OCEMS_MODBUS" --history "$OCEMS_HISTORY" --raw "$OCEMS_RAW" --received "http://$board/received" \
	--live "${OCEMS_LIVE:-70s}" &
plant=$!
pids+=("$plant")
await "$plant" plant listens "$OCEMS_MODBUS"

"$telegraf" --config "$config" >telegraf.log 2>&1 &
pids+=($!)

# The first process to end must be the plant.
code=0
wait -n -p ended || code=$?
[ "$ended" = "$plant" ] || { echo "a process has stopped before the plant" >&2; exit 1; }
exit "$code"

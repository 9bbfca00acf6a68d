#!/usr/bin/env bash
# consumer.sh USER WORKER [anew]: creates the worker's consumer in the user's partition if it does not exist. With anew it
# deletes the consumer first, so that the worker reads the whole stream again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
user=$1 worker=$2
nats() {
	"${OCEMS_NATS_CLI:-nats}" --server "$OCEMS_NATS" --tlsca "$OCEMS_CERTS/ca.pem" --tlscert "$OCEMS_CERTS/$user.pem" --tlskey "$OCEMS_CERTS/$user-key.pem" "$@"
}
if [ "${3:-}" = anew ]; then # brokers that cannot answer now must not make it keep the old one
	answer=$(nats consumer rm -f READINGS "$worker" 2>&1) || case $answer in
	*"consumer not found"*) ;;
	*) # the request may still be under way, and would later delete a consumer that is created now
		echo "$answer" >&2 || true
		sleep 20
		exit 1
		;;
	esac
elif nats consumer info READINGS "$worker" >/dev/null 2>&1; then
	exit 0
fi
config=$(mktemp)
trap 'rm -f "$config"' EXIT
sed "s/@WORKER@/$worker/g" "${OCEMS_CONSUMER:-$here/consumer.json}" >"$config"
nats consumer add READINGS --config "$config" >/dev/null

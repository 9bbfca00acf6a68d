#!/usr/bin/env bash
# Creates each partition's stream and the consumers of its two workers. It does not change existing ones.
#
#	OCEMS_NATS=tls://nats-1:4222,tls://nats-2:4222,tls://nats-3:4222 OCEMS_CERTS=/etc/ocems/certs setup.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
config=$(mktemp)
trap 'rm -f "$config"' EXIT
stream() { # user file
	nats() {
		"${OCEMS_NATS_CLI:-nats}" --server "$OCEMS_NATS" --tlsca "$OCEMS_CERTS/ca.pem" --tlscert "$OCEMS_CERTS/$1.pem" --tlskey "$OCEMS_CERTS/$1-key.pem" "${@:2}"
	}
	nats "$1" stream info READINGS >/dev/null 2>&1 || nats "$1" stream add --config "$2" >/dev/null
}
stream admin-gateways "$here/gateway.json"
for partition in $(grep -o '^  PART_[0-9]*' "$here/accounts.conf" | grep -o '[0-9]*'); do
	sed "s/@PARTITION@/$partition/g" "$here/stream.json" >"$config"
	stream "admin-$partition" "$config"
	for worker in a b; do "$here/consumer.sh" "admin-$partition" "$worker"; done
done

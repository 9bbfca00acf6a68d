#!/usr/bin/env bash
# Starts a worker. A worker without a state reads the stream from its beginning, because the readings that it acknowledged were
# lost with the state.
#
#	OCEMS_NATS, OCEMS_CERTS, OCEMS_PARTITION, OCEMS_WORKER, OCEMS_STATE, OCEMS_DEVICES_FILE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -e "$OCEMS_STATE/state.db" ]; then
	"$here/consumer.sh" "worker-$OCEMS_PARTITION-$OCEMS_WORKER" "$OCEMS_WORKER" anew
fi
if [ "$OCEMS_WORKER" = b ]; then export OCEMS_DELAY=${OCEMS_DELAY:-5m}; fi
exec "${OCEMS_TELEGRAF:-telegraf}" --config "$here/worker.conf"

#!/usr/bin/env bash
# Runs the example telegraf-modbus with a stock Telegraf that sends OTLP to a collector.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../telegraf-modbus/run.sh" --telegraf "$here/../../bin/tools/telegraf" --config "$here/telegraf.conf" --collector "$here/collector.yaml"

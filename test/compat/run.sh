#!/usr/bin/env bash
# Builds the components into current versions of both hosts, sends a day through each to a simulated board, and prints the
# counts of the board. COMPAT selects rows: COMPAT="collector-0.149.0 telegraf-1.40.1". Logs are in dist/compat.
set -euo pipefail
cd "$(dirname "$0")/../.."
make=${MAKE:-make} go=${GO:-go} out=dist/compat
mkdir -p $out bin/compat
failed=0

# wanted NAME
wanted() { [ -z "${COMPAT:-}" ] || [[ " $COMPAT " == *" $1 "* ]]; }

# row HOST VERSION BINARY COMMAND... runs the command and prints its last line as a table row.
row() {
	local name=$1 version=$2 binary=$3 log=$out/$1-$2.log counts
	shift 3
	"$@" </dev/null >"$log" 2>&1 || { failed=1 name="$name: FAILED, see $log"; }
	counts=$(sed -n 's/^demo: devices=[0-9]* accepted=\([0-9]*\) rejected=\([0-9]*\) missing=\([0-9]*\)$/\1 | \2 | \3/p' "$log")
	echo "| $name | $version | $($go version "$binary" | sed 's/.*: go//') | ${counts:-- | - | -} |"
}

# build LOG COMMAND...
build() {
	local log=$1
	shift
	("$@") </dev/null >"$log" 2>&1 || { failed=1; tail -n 20 "$log" >&2; return 1; }
}

echo "| host | version | Go | accepted | rejected | missing |"
echo "|---|---|---|---|---|---|"

# For each collector: its version, the versions of its stable modules and of contrib, and the newest compatible host metrics
# receiver.
while read -r version stable contrib hostmetrics; do
	wanted "collector-$version" || continue
	cat >"$out/collector-$version.yaml" <<-YAML
		dist: {name: collector-$version, output_path: $out/collector-$version}
		receivers:
		  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v$version
		  - gomod: github.com/open-telemetry/opentelemetry-collector-contrib/receiver/hostmetricsreceiver v$hostmetrics
		processors:
		  - gomod: github.com/ocems-io/ocems v0.0.0
		    import: github.com/ocems-io/ocems/processor/ocemsslotprocessor
		exporters:
		  - gomod: github.com/ocems-io/ocems v0.0.0
		    import: github.com/ocems-io/ocems/exporter/ocemsexporter
		extensions:
		  - gomod: github.com/ocems-io/ocems v0.0.0
		    import: github.com/ocems-io/ocems/extension/ocemsstorage
		  - gomod: github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension v$contrib
		providers:
		  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v$stable
		  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v$stable
		  - gomod: go.opentelemetry.io/collector/confmap/provider/yamlprovider v$stable
		replaces:
		  - github.com/ocems-io/ocems => $PWD
	YAML
	build "$out/collector-$version.build.log" "$make" "bin/tools/builder-$version" &&
		build "$out/collector-$version.build.log" "bin/tools/builder-$version" --config "$out/collector-$version.yaml" || continue
	row collector "$version" "$out/collector-$version/collector-$version" \
		env OCEMS_COLLECTOR="$PWD/$out/collector-$version/collector-$version" examples/collector/run.sh
done <<-VERSIONS
	0.149.0 1.55.0 0.149.0 0.149.0
	0.162.0 1.68.0 0.162.0 0.160.0
	0.165.0 1.71.0 0.165.1 0.160.0
VERSIONS

# For each Telegraf: its version, its toolchain, and modules that not every proxy serves. The plugins that are built here do
# not need these modules.
while read -r version toolchain unneeded; do
	wanted "telegraf-$version" || continue
	telegraf() {
		local copy=dist/telegraf-$version
		export GOTOOLCHAIN=$toolchain
		"$make" "$copy/plugins/outputs/all/ocems.go" TELEGRAF_VERSION="$version" TELEGRAF_COPY="$copy"
		for module in $unneeded; do "$go" mod edit -droprequire "$module" "$copy/go.mod"; done
		"$make" telegraf-small TELEGRAF_VERSION="$version" TELEGRAF_COPY="$copy" TELEGRAF_SMALL="bin/compat/telegraf-$version"
	}
	build "$out/telegraf-$version.build.log" telegraf || continue
	row telegraf "$version" "bin/compat/telegraf-$version" examples/telegraf-modbus/run.sh --telegraf "$PWD/bin/compat/telegraf-$version"
	# The same with the external plugin.
	row ocems-telegraf "$version" bin/ocems-telegraf examples/telegraf-modbus/run.sh --telegraf "$PWD/bin/compat/telegraf-$version" \
		--config "$PWD/examples/telegraf-execd/telegraf.conf"
done <<-VERSIONS
	1.38.3 local
	1.39.3 local
	1.40.1 go1.27.3 github.com/lxc/incus/v7 github.com/seancfoley/ipaddress-go github.com/snowflakedb/gosnowflake/v2 github.com/tdrn-org/go-fritzsmarthome github.com/tdrn-org/go-hue
VERSIONS
exit $failed

# make test   all tests, with the race detector
# make build  bin/ocems, the operator's tool, and bin/otelcol-ocems, a collector with both components
# make demo   a whole day through that collector into a simulated CPCB server, each value checked
# make demo-telegraf  the same through a Telegraf with the output built in, which reads instruments by Modbus
# make telegraf  bin/telegraf-ocems, a Telegraf with every plugin and outputs.ocems; it takes a quarter of an hour.
#             TELEGRAF_TAGS="custom,inputs.modbus,..." makes bin/telegraf-ocems-custom, with these plugins
# make test-telegraf  the tests of a Telegraf as a process, with the plugins of the examples
# make bench  the benchmarks of the parts that a hub with thousands of devices waits for
GO ?= go

.PHONY: test
test: build
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	OCEMS_COLLECTOR=$(CURDIR)/bin/otelcol-ocems $(GO) test -race ./...

SOURCES := go.mod go.sum $(shell find cmd/ocems exporter ocems processor -type f -not -name '*_test.go' 2>/dev/null)

.PHONY: build
build: bin/ocems bin/otelcol-ocems

bin/ocems: $(SOURCES)
	$(GO) build -o $@ ./cmd/ocems

# The builder at exactly the version of the components it is given.
bin/tools/builder:
	GOBIN=$(CURDIR)/bin/tools $(GO) install go.opentelemetry.io/collector/cmd/builder@v0.149.0

bin/otelcol-ocems: builder-config.yaml $(SOURCES) | bin/tools/builder
	bin/tools/builder --config builder-config.yaml
	install dist/otelcol-ocems $@

.PHONY: demo
demo: build
	examples/collector/run.sh

# A Telegraf with what the examples use, with the output and as InfluxData ships it.
TELEGRAF_VERSION := 1.38.3
EXAMPLE_TAGS := custom,inputs.exec,inputs.file,inputs.http_listener_v2,inputs.internal,inputs.modbus,inputs.tail,outputs.execd,outputs.file,outputs.opentelemetry,processors.converter,processors.enum,parsers.influx,serializers.influx,serializers.json,secretstores.docker
TELEGRAF_SOURCES := $(SOURCES) $(filter-out %_test.go,$(wildcard cmd/telegraf/*.go)) cmd/telegraf/go.mod cmd/telegraf/go.sum $(shell find plugins -type f -not -name '*_test.go' 2>/dev/null)
TELEGRAF_BUILD = cd cmd/telegraf && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X github.com/influxdata/telegraf/internal.Version=$(TELEGRAF_VERSION)"

.PHONY: telegraf telegraf-small telegraf-stock telegraf-external test-telegraf
telegraf:
	$(TELEGRAF_BUILD) -tags "$(TELEGRAF_TAGS)" -o $(CURDIR)/bin/telegraf-ocems$(if $(TELEGRAF_TAGS),-custom) .

telegraf-small: bin/telegraf-ocems-small
bin/telegraf-ocems-small: $(TELEGRAF_SOURCES)
	$(TELEGRAF_BUILD) -tags "$(EXAMPLE_TAGS)" -o $(CURDIR)/$@ .

telegraf-stock: bin/tools/telegraf
bin/tools/telegraf:
	CGO_ENABLED=0 GOBIN=$(CURDIR)/bin/tools $(GO) install -trimpath -tags "$(EXAMPLE_TAGS)" github.com/influxdata/telegraf/cmd/telegraf@v$(TELEGRAF_VERSION)

telegraf-external: bin/ocems-telegraf
bin/ocems-telegraf: $(TELEGRAF_SOURCES) $(wildcard cmd/ocems-telegraf/*.go)
	$(GO) build -o $@ ./cmd/ocems-telegraf

# The tag spares the tests the compilation of every plugin.
test-telegraf: telegraf-small
	cd cmd/telegraf && $(GO) vet -tags custom . && OCEMS_TELEGRAF=$(CURDIR)/bin/telegraf-ocems-small $(GO) test -count=1 -parallel 8 -tags custom .

.PHONY: demo-telegraf
demo-telegraf: bin/ocems telegraf-small
	examples/telegraf-modbus/run.sh

.PHONY: bench
bench:
	$(GO) test -run '^$$' -bench . ./ocems/slot ./ocems/payload ./ocems/seal ./exporter/... ./processor/...

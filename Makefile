# make test   all tests, with the race detector
# make build  bin/ocems, the operator's tool, and bin/otelcol-ocems, a collector with both components
# make demo   a whole day through that collector into a simulated CPCB server, each value checked
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

.PHONY: bench
bench:
	$(GO) test -run '^$$' -bench . ./ocems/slot ./ocems/payload ./ocems/seal ./exporter/... ./processor/...

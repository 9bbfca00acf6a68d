GO ?= go

# The Go command records the version of the main module in a program. A collector and Telegraf have another main module, so
# the linker sets our version (ocems/version).
TAG := $(shell git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null)
COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
DATE := $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
VERSION := $(or $(TAG:v%=%),$(if $(COMMIT),0.0.0-$(subst T,,$(subst Z,,$(subst :,,$(subst -,,$(DATE)))))-$(COMMIT)),devel)
STAMP := -X github.com/ocems-io/ocems/ocems/version.stamp=v$(VERSION),$(COMMIT),$(DATE)

# help prints the texts behind ## at the targets.
.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The slowest packages come first, so that none of them runs alone at the end.
.PHONY: test
test: build telegraf-small telegraf-stock telegraf-external ## run the tests with the race detector
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	OCEMS_BIN=$(CURDIR)/bin OCEMS_COLLECTOR=$(CURDIR)/bin/otelcol-ocems OCEMS_TELEGRAF=$(CURDIR)/bin/telegraf-ocems-small \
		OCEMS_TELEGRAF_STOCK=$(CURDIR)/bin/tools/telegraf OCEMS_TELEGRAF_EXTERNAL=$(CURDIR)/bin/ocems-telegraf $(GO) test -race ./test/hosts ./ocems/engine ./test/docs ./...

SOURCES := go.mod go.sum $(shell find cmd/ocems cmd/internal exporter extension ocems processor -type f -not -name '*_test.go' 2>/dev/null)

.PHONY: build
build: bin/ocems bin/otelcol-ocems ## bin/ocems, the tool, and bin/otelcol-ocems, a collector with all components

bin/ocems: $(SOURCES) $(shell find plugins -type f -not -name '*_test.go' 2>/dev/null)
	$(GO) build -o $@ ./cmd/ocems

# The builder must have exactly the version of the components.
BUILDER := bin/tools/builder-$(shell sed -n 's|.*/receiver/otlpreceiver v||p' builder-config.yaml)
bin/tools/builder-%:
	GOBIN=$(CURDIR)/bin/tools/$* $(GO) install go.opentelemetry.io/collector/cmd/builder@v$*
	mv bin/tools/$*/builder $@ && rmdir bin/tools/$*

COLLECTOR_VERSION := $(VERSION)$(if $(COMMIT),+$(COMMIT).$(subst :,,$(subst -,,$(DATE))))
bin/otelcol-ocems: builder-config.yaml $(SOURCES) | $(BUILDER)
	sed 's/^  version: .*/  version: $(COLLECTOR_VERSION)/' builder-config.yaml >bin/builder-config.yaml
	$(BUILDER) --config bin/builder-config.yaml --ldflags "-s -w $(STAMP)"
	install dist/otelcol-ocems $@

.PHONY: demo
demo: build ## send a whole day through the collector to a simulated board and check each value
	examples/collector/run.sh

# The cluster's brokers and their command-line tool, for examples/cluster.
.PHONY: demo-cluster test-cluster
bin/tools/nats-server:
	CGO_ENABLED=0 GOBIN=$(CURDIR)/bin/tools $(GO) install -trimpath github.com/nats-io/nats-server/v2@v2.15.2
bin/tools/nats:
	CGO_ENABLED=0 GOBIN=$(CURDIR)/bin/tools $(GO) install -trimpath github.com/nats-io/natscli/nats@v0.5.0

demo-cluster: telegraf-small bin/tools/nats-server bin/tools/nats ## run examples/cluster with 300 devices, kill a broker and a worker and delete their disks
	cd test/cluster && $(GO) build -o $(CURDIR)/bin/demo-cluster ./demo
	bin/demo-cluster -root $(CURDIR)

test-cluster: telegraf-small bin/tools/nats-server bin/tools/nats ## test examples/cluster: acknowledgement, replays, the gateway
	cd test/cluster && $(GO) vet ./... && $(GO) test -count=1 .

# TORTURE_CLUSTER="-faults 200 -seed 7" is a long run.
TORTURE_CLUSTER ?= -faults 4
.PHONY: torture-cluster
torture-cluster: telegraf-small bin/tools/nats-server bin/tools/nats ## run examples/cluster with faults of brokers, workers and network; TORTURE_CLUSTER="-faults 200" is a long run
	cd test/cluster && $(GO) vet ./... && $(GO) test -count=1 ./torture && $(GO) build -o $(CURDIR)/bin/torture-cluster ./torture
	bin/torture-cluster $(TORTURE_CLUSTER)

# A copy of Telegraf's module, in a folder that git ignores, with one more file that registers the output. This file is made
# last, so that an incomplete copy is made again. Telegraf's go.mod gets the versions that this module needs higher; go.sum has
# the checksums of both.
TELEGRAF_VERSION := $(shell sed -n 's|^[[:space:]]*github.com/influxdata/telegraf v||p' go.mod)
EXAMPLE_TAGS := custom,inputs.exec,inputs.file,inputs.http_listener_v2,inputs.internal,inputs.kafka_consumer,inputs.modbus,inputs.mqtt_consumer,inputs.nats_consumer,inputs.opcua,inputs.tail,outputs.execd,outputs.file,outputs.kafka,outputs.nats,outputs.opentelemetry,outputs.prometheus_client,processors.converter,processors.enum,processors.starlark,parsers.csv,parsers.influx,parsers.json_v2,parsers.value,serializers.influx,serializers.json,secretstores.docker
TELEGRAF_SOURCES := $(SOURCES) $(shell find plugins -type f -not -name '*_test.go' 2>/dev/null)
TELEGRAF_COPY := dist/telegraf
TELEGRAF_OUTPUT = $(TELEGRAF_COPY)/plugins/outputs/all/ocems.go
TELEGRAF_BUILD = cd $(TELEGRAF_COPY) && CGO_ENABLED=0 $(GO) build -mod=mod -trimpath -ldflags "-s -w -X github.com/influxdata/telegraf/internal.Version=$(TELEGRAF_VERSION) -X github.com/influxdata/telegraf/internal.Branch=ocems-$(VERSION) -X github.com/influxdata/telegraf/internal.Commit=$(COMMIT)-$(DATE) $(STAMP)"

$(TELEGRAF_OUTPUT): go.mod go.sum Makefile
	rm -rf $(TELEGRAF_COPY)
	mkdir -p $(dir $(TELEGRAF_COPY))
	cp -R "$$($(GO) mod download -json github.com/influxdata/telegraf@v$(TELEGRAF_VERSION) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" $(TELEGRAF_COPY)
	chmod -R u+w $(TELEGRAF_COPY)
	cat go.sum >>$(TELEGRAF_COPY)/go.sum
	cd $(TELEGRAF_COPY) && $(GO) mod edit -require github.com/ocems-io/ocems@v0.0.0 -replace github.com/ocems-io/ocems=../..
	printf '//go:build !custom || outputs || outputs.ocems\n\npackage all\n\nimport _ "github.com/ocems-io/ocems/plugins/outputs/ocems" // register plugin\n' >$@

.PHONY: telegraf telegraf-small telegraf-stock telegraf-external test-telegraf
telegraf: $(TELEGRAF_OUTPUT) ## bin/telegraf-ocems, with every plugin; takes 15 minutes; TELEGRAF_TAGS="custom,inputs.modbus,..." builds bin/telegraf-ocems-custom
	$(TELEGRAF_BUILD) -tags "$(TELEGRAF_TAGS),migrations,outputs.ocems" -o $(CURDIR)/bin/telegraf-ocems$(if $(TELEGRAF_TAGS),-custom)$$($(GO) env GOEXE) ./cmd/telegraf

TELEGRAF_SMALL := bin/telegraf-ocems-small
telegraf-small: $(TELEGRAF_SMALL) ## bin/telegraf-ocems-small, with the plugins of the examples
$(TELEGRAF_SMALL): $(TELEGRAF_OUTPUT) $(TELEGRAF_SOURCES)
	$(TELEGRAF_BUILD) -tags "$(EXAMPLE_TAGS),migrations,outputs.ocems" -o $(CURDIR)/$@ ./cmd/telegraf

telegraf-stock: bin/tools/telegraf ## bin/tools/telegraf, the same without outputs.ocems
bin/tools/telegraf: Makefile
	CGO_ENABLED=0 GOBIN=$(CURDIR)/bin/tools $(GO) install -trimpath -tags "$(EXAMPLE_TAGS)" github.com/influxdata/telegraf/cmd/telegraf@v$(TELEGRAF_VERSION)

telegraf-external: bin/ocems-telegraf ## bin/ocems-telegraf, the external plugin for a stock Telegraf
bin/ocems-telegraf: $(TELEGRAF_SOURCES) $(wildcard cmd/ocems-telegraf/*.go)
	$(GO) build -o $@ ./cmd/ocems-telegraf

test-telegraf: telegraf-small ## test Telegraf as a separate process
	OCEMS_TELEGRAF=$(CURDIR)/bin/telegraf-ocems-small $(GO) test -count=1 -parallel 8 ./test/telegraf

.PHONY: demo-telegraf
demo-telegraf: bin/ocems telegraf-small ## send a whole day through Telegraf, which reads instruments over Modbus
	examples/telegraf-modbus/run.sh

.PHONY: compat
compat: bin/ocems telegraf-external ## build the components into current versions of both hosts, and send a day through each; takes half an hour
	test/compat/run.sh

# TORTURE="-kills 120 -seed 7" is a long run. The seed repeats the choices of an earlier run.
TORTURE ?= -kills 4
.PHONY: torture strace
strace:
	@command -v strace >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends strace; } || \
		echo "left out: the test of a power cut, because strace is not available here"

torture: build telegraf-small telegraf-external strace ## run every host with kills, full disks and a faulty board; TORTURE="-kills 120" is a long run
	$(GO) build -o bin/torture ./test/torture
	OCEMS_BIN=$(CURDIR)/bin $(GO) test -count=1 ./test/torture
	bin/torture $(TORTURE)

STREAMS ?= 20000
.PHONY: streams
streams: ## compare all hosts with a simple reference on random streams; STREAMS=1000000 is a long run
	$(GO) test -count=1 -timeout 0 -v -run '^TestStreams$$' ./test/hosts -streams $(STREAMS)

# Before Go 1.27 a target may end with "context deadline exceeded" at its time limit. This is not a finding (go.dev/issue/75804).
FUZZTIME ?= 5s
.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME=5s
	@set -e; grep -rl --include='*_test.go' --exclude-dir=dist '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r d; do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$d/*_test.go | cut -c6-); do \
			echo "$$d $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$d >bin/fuzz.log 2>&1 || \
				{ grep -q "^ *context deadline exceeded" bin/fuzz.log && ! grep -q "Failing input\|panic" bin/fuzz.log; } || { cat bin/fuzz.log; exit 1; }; \
		done; done

bin/tools/staticcheck:
	GOBIN=$(CURDIR)/bin/tools $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
bin/tools/govulncheck:
	GOBIN=$(CURDIR)/bin/tools $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: lint
lint: bin/tools/staticcheck bin/tools/govulncheck ## run staticcheck, and govulncheck if its database can be reached
	bin/tools/staticcheck ./...
	@out=$$(bin/tools/govulncheck ./... 2>&1) && echo "$$out" | tail -1 || { case $$out in \
		*"fetching vulnerabilities"*) echo "govulncheck: cannot reach its database from here";; \
		*) echo "$$out"; exit 1;; esac; }

.PHONY: bench
bench: ## run the benchmarks
	$(GO) test -run '^$$' -bench . ./ocems/slot ./ocems/delivery ./ocems/payload ./ocems/seal ./ocems/report ./exporter/... ./plugins/...

.PHONY: bench-intake
bench-intake: ## compare the CPU time of taking readings with Telegraf's influxdb_v2 and the collector's interval processor
	cd test/intake && $(GO) vet . && $(GO) test -v -run TestPlant -bench . -benchtime 20x -timeout 30m .

# HUB="-devices 20000 -delay 10ms -settle 5s -scenarios worst" is the large hub on a slow disk; bin/hub -h lists the options.
HUB ?=
.PHONY: bench-hub bench-growth
bench-hub: build telegraf-external strace ## compare whole hosts with 2,000 devices with a bare loop; HUB="-devices 20000" is a large hub
	$(GO) build -o bin/hub ./test/hub
	bin/hub $(HUB)

# CLUSTER="-rounds 3" runs each case three times; bin/cluster-bench -h lists the options.
CLUSTER ?=
.PHONY: bench-cluster
bench-cluster: telegraf-small bin/tools/nats-server bin/tools/nats ## measure brokers and workers of examples/cluster: CPU per message, reading and slot; disk; memory
	cd test/cluster && $(GO) vet ./... && $(GO) build -o $(CURDIR)/bin/cluster-bench ./bench
	bin/cluster-bench -root $(CURDIR) $(CLUSTER)

GROWTH ?= 4000
bench-growth: ## fail if twice the devices, series, waiting slots or trail costs more than 2.3 times; GROWTH=10000 is a long run
	$(GO) build -o bin/hub ./test/hub
	bin/hub -growth -from $(GROWTH)

# Prometheus and Alertmanager are extracted from Debian's packages, because an installation would start services. Alertmanager
# finds its templates only in /usr/share, so it runs in a namespace where this is the package's directory.
bin/tools/prometheus bin/tools/amtool &:
	@command -v dpkg-deb >/dev/null || { echo "this is not Debian: put prometheus, promtool, prometheus-alertmanager and amtool into bin/tools" >&2; exit 1; }
	@d=$$(mktemp -d) && trap 'rm -rf $$d' EXIT && chmod 755 $$d && cd $$d && p="prometheus prometheus-alertmanager" && \
		{ apt-get -q download $$p || { apt-get -q update && apt-get -q download $$p; }; } && dpkg-deb -x prometheus_*.deb . && \
		mkdir -p $(CURDIR)/bin/tools/alertmanager.d && dpkg-deb -x prometheus-alertmanager_*.deb $(CURDIR)/bin/tools/alertmanager.d && \
		install usr/bin/promtool usr/bin/prometheus $(CURDIR)/bin/tools/alertmanager.d/usr/bin/amtool $(CURDIR)/bin/tools
	@printf '#!/bin/sh\nexec unshare -rm sh -c '"'"'mount --bind "$$0/share" /usr/share && exec "$$0/bin/prometheus-alertmanager" "$$@"'"'"' "$$(dirname "$$0")/alertmanager.d/usr" "$$@"\n' >bin/tools/prometheus-alertmanager
	@chmod 755 bin/tools/prometheus-alertmanager

.PHONY: test-monitoring
test-monitoring: build telegraf-small bin/tools/prometheus bin/tools/amtool ## test the alerts and dashboards of examples/monitoring with a real Prometheus and Alertmanager
	OCEMS_PROMETHEUS=$(CURDIR)/bin/tools OCEMS_BIN=$(CURDIR)/bin OCEMS_COLLECTOR=$(CURDIR)/bin/otelcol-ocems \
		OCEMS_TELEGRAF=$(CURDIR)/bin/telegraf-ocems-small $(GO) test -race -count=1 ./examples/monitoring

.PHONY: test-kafka
test-kafka: build telegraf-small ## test examples/kafka against a broker in process
	cd test/kafka && $(GO) vet . && OCEMS_COLLECTOR=$(CURDIR)/bin/otelcol-ocems OCEMS_TELEGRAF=$(CURDIR)/bin/telegraf-ocems-small $(GO) test -count=1 .

# chromium installs Debian's Chromium if CHROMIUM does not exist and the user is root.
CHROMIUM ?= /usr/bin/chromium
.PHONY: chromium test-browser screenshots
chromium:
	@[ -x "$(CHROMIUM)" ] || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } || \
		{ echo "$(CHROMIUM) does not exist: install Chromium, or give its path in CHROMIUM=" >&2; exit 1; }

test-browser: bin/ocems chromium ## test the pages in a real Chromium; CHROMIUM=PATH names another one
	cd test/browser && $(GO) vet . && CHROMIUM=$(CHROMIUM) OCEMS_BIN=$(CURDIR)/bin $(GO) test -count=1 .

screenshots: chromium ## make the pictures of docs/images
	cd test/browser && $(GO) run . -chromium $(CHROMIUM) -out $(CURDIR)/docs/images

# dist/packages has the files that examples/install describes. A platform is linux-amd64, linux-arm64, linux-arm7 or windows-amd64.
PACKAGE_VERSION ?= $(or $(TAG:v%=%),0.1.0)
PLATFORMS ?= linux-$(shell $(GO) env GOARCH)
PACKAGE_TAGS := $(EXAMPLE_TAGS),inputs.directory_monitor,inputs.http,inputs.opcua_listener,processors.rename,processors.scale,secretstores.systemd
PROGRAMS := $(PLATFORMS:%=dist/programs/%)
PLATFORM = export GOOS=$(word 1,$(subst -, ,$*)) ARCH=$(word 2,$(subst -, ,$*)) CGO_ENABLED=0 GOARM=7; export GOARCH=$${ARCH%7} EXE=$$([ $$GOOS = linux ] || echo .exe)
IMAGES := $(filter dist/programs/linux-%,$(PROGRAMS))
.PHONY: man packages archives images release-files test-packages test-install test-archives
man: bin/ocems bin/ocems-telegraf ## manual pages in dist/man, and completion for each shell in dist/completion
	rm -rf dist/man dist/completion && mkdir -p dist/completion
	bin/ocems man dist/man
	bin/ocems-telegraf --man dist/man
	gzip -9n dist/man/*.1
	for s in bash zsh fish powershell; do bin/ocems completion $$s >dist/completion/ocems.$$s || exit 1; done

bin/tools/nfpm:
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
bin/tools/crane:
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/google/go-containerregistry/cmd/crane@v0.22.1
bin/tools/cyclonedx-gomod:
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

.SECONDARY: $(PROGRAMS) # otherwise make deletes them as intermediate files
dist/programs/%: $(TELEGRAF_OUTPUT) $(TELEGRAF_SOURCES) bin/otelcol-ocems
	rm -rf $@ && mkdir -p $@.part
	$(PLATFORM); $(GO) build -trimpath -ldflags "-s -w $(STAMP)" -o $@.part/ ./cmd/ocems ./cmd/ocems-telegraf
	sed -i 's|^\(\s*Version: *\)".*"|\1"$(COLLECTOR_VERSION)"|' dist/main.go # it may be of an earlier commit
	$(PLATFORM); cd dist && $(GO) build -trimpath -ldflags "-s -w $(STAMP)" -o $(CURDIR)/$@.part/otelcol-ocems$$EXE .
	$(PLATFORM); $(TELEGRAF_BUILD) -tags "$(PACKAGE_TAGS),migrations,outputs.ocems" -o $(CURDIR)/$@.part/telegraf-ocems$$EXE ./cmd/telegraf
	mv $@.part $@

# The pages, the examples and the files that the pages link to, in the directories of this repository.
DOCUMENTATION := git ls-files -z LICENSE go.mod builder-config.yaml '*.md' '*/metadata.yaml' '*/sample.conf' docs examples ':!*.go' ':!ocems'
DOC ?= dist/doc
.PHONY: documentation
documentation:
	rm -rf $(DOC) && mkdir -p $(DOC) && $(DOCUMENTATION) | xargs -0 cp --parents -t $(DOC) && chmod -R u=rwX,go=rX $(DOC)

packages: $(IMAGES:dist/programs/%=package-%) ## make Debian packages and RPMs in dist/packages; PLATFORMS="linux-amd64 linux-arm7" for several
package-%: dist/programs/% bin/tools/nfpm man documentation
	mkdir -p dist/packages
	$(PLATFORM); export BIN=$< VERSION=$(PACKAGE_VERSION); for p in deb rpm; do bin/tools/nfpm package -f examples/install/nfpm.yaml -p $$p -t dist/packages || exit 1; done

# Archives are reproducible: the same files give the same archive.
archives: $(PLATFORMS:%=archive-%) ## make .tar.gz and .zip of the programs in dist/packages
archive-%: dist/programs/%
	@rm -rf dist/archive/$* && d=dist/archive/$*/ocems-$(PACKAGE_VERSION)-$* && mkdir -p $$d dist/packages && cp $</* $$d && \
		$(DOCUMENTATION) | xargs -0 cp --parents -t $$d && touch -d '$(DATE)' $$(find $$d)
	$(PLATFORM); cd dist/archive/$* && f=../../packages/ocems-$(PACKAGE_VERSION)-$* && case $$GOOS in \
		windows) rm -f $$f.zip; find * | LC_ALL=C sort | TZ=UTC0 zip -qX9@ $$f.zip;; \
		*) tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w -c * | gzip -9n >$$f.tar.gz;; esac
	rm -r dist/archive/$*

images: $(IMAGES:dist/programs/%=image-%) ## make container images in dist/packages, for docker load or podman load
image-%: dist/programs/% bin/tools/crane bin/tools/ca-certificates.crt
	$(PLATFORM); VERSION=$(PACKAGE_VERSION) DATE=$(DATE) examples/install/images.sh $<

# Mozilla's CA certificates from Debian's package, without those that only this machine trusts.
bin/tools/ca-certificates.crt:
	@command -v dpkg-deb >/dev/null || { echo "this is not Debian: put a file of CA certificates at $@" >&2; exit 1; }
	@d=$$(mktemp -d) && trap 'rm -rf $$d' EXIT && chmod 755 $$d && cd $$d && { apt-get -q download ca-certificates || { apt-get -q update && apt-get -q download ca-certificates; }; } && \
		dpkg-deb -x ca-certificates_*.deb . && mkdir -p $(CURDIR)/bin/tools && cat usr/share/ca-certificates/mozilla/*.crt >$(CURDIR)/$@

# A CycloneDX SBOM for each program, read from the program itself. There this module has the name of its folder, so sed corrects it.
release-files: packages archives images bin/tools/cyclonedx-gomod ## make all files of a release in dist/packages, with SBOMs and SHA256SUMS
	cd dist/programs && for f in $(PLATFORMS:%=%/*); do p=$$(basename $${f%.exe}); o=../packages/$$p-$(PACKAGE_VERSION)-$$(dirname $$f).cdx.json; \
		case $$p in telegraf-ocems) v=$(TELEGRAF_VERSION);; *) v=$(PACKAGE_VERSION);; esac; \
		../../bin/tools/cyclonedx-gomod bin -json -std -version v$$v -output $$o $$f || exit 1; \
		sed -E -i 's|pkg:golang/\.\./(\.\.)?@\(devel\)|pkg:golang/github.com/ocems-io/ocems@v$(PACKAGE_VERSION)|g; /"name": "\.\.\/(\.\.)?",/{s|"\.\./(\.\.)?"|"github.com/ocems-io/ocems"|;n;s|\(devel\)|v$(PACKAGE_VERSION)|}' $$o; done
	cd dist/packages && rm -f SHA256SUMS && sha256sum * >../SHA256SUMS && mv ../SHA256SUMS .

.PHONY: release
release: ## publish the files of a release tag on GitHub
	@test -n "$(TAG)" || { echo "HEAD has no tag such as v1.2.3" >&2; exit 1; }
	rm -rf dist/packages
	$(MAKE) release-files PLATFORMS="linux-amd64 linux-arm64 linux-arm7 windows-amd64"
	gh release create $(TAG) --verify-tag --title $(TAG) --notes "See CHANGELOG.md." dist/packages/*

# Mosquitto, for examples/mqtt, is extracted from Debian's packages, because an installation would start a service.
MOSQUITTO_PACKAGES := mosquitto mosquitto-clients libmosquitto1 libcjson1 libdlt2 libwebsockets17 libwrap0 libev4 libuv1
bin/tools/mosquitto:
	@command -v dpkg-deb >/dev/null || { echo "this is not Debian: install mosquitto" >&2; exit 1; }
	@d=$$(mktemp -d) && trap 'rm -rf $$d' EXIT && chmod 755 $$d && cd $$d && { apt-get -q download $(MOSQUITTO_PACKAGES) || { apt-get -q update && apt-get -q download $(MOSQUITTO_PACKAGES); }; } && \
		mkdir -p $(CURDIR)/bin/tools/mosquitto.d && for f in *.deb; do dpkg-deb -x $$f $(CURDIR)/bin/tools/mosquitto.d; done
	@for p in bin/mosquitto_pub bin/mosquitto_passwd sbin/mosquitto; do f=bin/tools/$${p#*/}; \
		printf '#!/bin/sh\nd=$$(dirname "$$0")/mosquitto.d/usr\nLD_LIBRARY_PATH=$$(echo "$$d"/lib/*-linux-gnu*) exec "$$d/%s" "$$@"\n' $$p >$$f; chmod 755 $$f; done

# The test runs in namespaces, so that this machine is not changed. It needs root and systemd's package.
test-packages: packages ## install the Debian package in namespaces and test it; needs root
	OCEMS_PACKAGE=$(CURDIR)/dist/packages/ocems_$(PACKAGE_VERSION)_$(shell $(GO) env GOARCH).deb $(GO) test -count=1 ./examples/install

# A Debian as it is after its installation. Go does not look into a folder whose name begins with "_".
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
bin/_debian:
	@command -v debootstrap >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends debootstrap debian-archive-keyring; }
	$(SUDO) rm -rf $@.part
	$(SUDO) debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,sudo bookworm $@.part
	$(SUDO) mv $@.part $@

test-install: packages telegraf-stock $(BUILDER) bin/_debian ## time the first accepted slot on a fresh Debian: of the package, a stock Telegraf, a collector of one's own; needs root or sudo
	$(GO) test -c -o bin/install.test ./examples/install
	cd examples/install && $(SUDO) env PATH="$$PATH" OCEMS_DEBIAN=$(CURDIR)/bin/_debian OCEMS_BUILDER=$(CURDIR)/$(BUILDER) OCEMS_TELEGRAF_STOCK=$(CURDIR)/bin/tools/telegraf \
		OCEMS_PACKAGE=$(CURDIR)/dist/packages/ocems_$(PACKAGE_VERSION)_$(shell $(GO) env GOARCH).deb $(CURDIR)/bin/install.test -test.v -test.run '^TestFirstSlot'

test-archives: release-files ## test the archives, images, SBOMs and checksums in dist/packages
	OCEMS_RELEASE=$(CURDIR)/dist/packages $(GO) test -count=1 -run TestRelease ./examples/install

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"
)

const listenAgain = 5 * time.Second // after the address was in use

// checkAddress refuses an address that is not HOST:PORT.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--metrics-listen: %q is not a host and a port; nearest: 127.0.0.1:9274", address)
	}
	return nil
}

// serveMetrics serves /metrics until ctx ends. If the address is in use it retries; slots are reported meanwhile.
func serveMetrics(ctx context.Context, address string, log telegraf.Logger) {
	for logged := false; ; logged = true {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
				_ = writeMetrics(w, selfstat.Metrics())
			})
			server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
			defer context.AfterFunc(ctx, func() { _ = server.Close() })()
			_ = server.Serve(listener)
			return
		}
		if !logged {
			log.Errorf("--metrics-listen: metrics are not available until the address is free: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenAgain):
		}
	}
}

// writeMetrics writes Prometheus' text format, with the names that outputs.prometheus_client gives to inputs.internal's.
func writeMetrics(w io.Writer, metrics []telegraf.Metric) error {
	families := map[string][]string{}
	for _, m := range metrics {
		if !strings.HasPrefix(m.Name(), "internal_ocems") {
			continue
		}
		var labels []string
		for _, tag := range m.TagList() { // sorted
			labels = append(labels, fmt.Sprintf(`%s="%s"`, tag.Key, escape.Replace(tag.Value)))
		}
		for _, field := range m.FieldList() {
			name := m.Name() + "_" + field.Key
			families[name] = append(families[name], fmt.Sprintf("%s{%s} %v\n", name, strings.Join(labels, ","), field.Value))
		}
	}
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(families)) {
		fmt.Fprintf(&b, "# HELP %s Telegraf collected metric\n# TYPE %s untyped\n", name, name)
		slices.Sort(families[name])
		for _, line := range families[name] {
			b.WriteString(line)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

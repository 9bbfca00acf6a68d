package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	"github.com/ocems-io/ocems/cmd/ocems/internal/doctor"
	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
)

// hostFlags select a host's configuration.
type hostFlags struct {
	configs, environment, sets []string
	host                       *string
}

func newHostFlags(c *cobra.Command) *hostFlags {
	h := &hostFlags{}
	flags := c.Flags()
	flags.StringArrayVar(&h.configs, "config", nil, "`file` or directory of the host's configuration, or a collector's URI, as on the host's command line; may be repeated")
	flags.StringArrayVar(&h.sets, "set", nil, "`key=value` as on the collector's command line; may be repeated")
	flags.StringArrayVar(&h.environment, "env-file", nil, "`file` with the environment of the service, lines of NAME=value; may be repeated")
	h.host = cli.Word(c, "host", "", "program that reads the configuration; by default detected from the files", "telegraf", "ocems-telegraf", "collector")
	return h
}

var hostNames = map[string]hostconfig.Host{"": "", "telegraf": hostconfig.Telegraf, "ocems-telegraf": hostconfig.External, "collector": hostconfig.Collector}

// load reads the configuration, and returns a lookup in the environment it was read with.
func (h *hostFlags) load() (*hostconfig.Config, func(string) (string, bool), error) {
	if len(h.configs) == 0 {
		return nil, nil, errors.New("--config: missing")
	}
	environment := map[string]string{}
	for _, path := range h.environment {
		if err := readEnvironment(path, environment); err != nil {
			return nil, nil, fmt.Errorf("--env-file: %w", err)
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := environment[name]; ok {
			return v, true
		}
		return os.LookupEnv(name)
	}
	cfg, err := hostconfig.Load(h.configs, hostconfig.Options{Environment: environment, Set: h.sets, Host: hostNames[*h.host]})
	if err != nil {
		return nil, nil, fmt.Errorf("--config: %w", err)
	}
	return cfg, lookup, nil
}

// readEnvironment reads a file in the format of systemd's EnvironmentFile. No error quotes a line, since it may hold a token.
func readEnvironment(path string, into map[string]string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("%s: line %d is not NAME=value", path, n)
		}
		value = strings.TrimSpace(value)
		if q := len(value) - 1; q > 0 && value[0] == value[q] && slices.Contains([]byte(`"'`), value[0]) {
			value = value[1:q]
		}
		into[name] = value
	}
	return lines.Err()
}

func doctorCommand(s std) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "find what would keep a host's slots from the board",
		Long: `ocems doctor checks the configuration of Telegraf, ocems-telegraf or a collector: keys, devices, tokens, parameters, units.
It checks the server's name, route, certificate and clock, and on this machine the directories, free space, the audit trail,
open windows and waiting slots. The host's own code reads the configuration, so a configuration that the host refuses fails
here too. Plugins and components that are not in this program are listed as not checked. It sends no reading, only one GET
to the endpoint. Run it as the service's user, with the service's environment.

Each line is ok, warning, failed or skipped; the next line says what to do. A clock that is off by 30s is a warning, by 5m a
failure. The exit code is 0 if no check failed, even with warnings.`,
		Example: `  sudo -u telegraf ocems doctor --config /etc/telegraf/telegraf.conf --config /etc/telegraf/telegraf.d --env-file /etc/default/telegraf
  sudo -u ocems ocems doctor --config /etc/ocems/collector.yaml`,
		Args: cli.AtMost(0, ""),
	}
	flags := c.Flags()
	host := newHostFlags(c)
	asJSON := flags.Bool("json", false, "print JSON")
	offline := flags.Bool("offline", false, "skip the checks that need the network")
	timeout := flags.Duration("timeout", 10*time.Second, "longest `time` of each step over the network")
	c.RunE = func(*cobra.Command, []string) error {
		if *timeout <= 0 {
			return fmt.Errorf("--timeout: %s must be more than 0: nearest 10s", *timeout)
		}
		bar := newProgress(s.err)
		defer bar.clear()
		bar.step("reading the configuration")
		cfg, lookup, err := host.load()
		if err != nil {
			return err
		}
		report := doctor.Run(c.Context(), cfg, doctor.Options{Offline: *offline, Timeout: *timeout, Lookup: lookup, Progress: bar.step})
		bar.clear()
		write := report.Text
		if *asJSON {
			write = report.JSON
		}
		var text bytes.Buffer
		err = write(&text)
		if err == nil {
			err = paint(s.out, text.Bytes())
		}
		if err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
		if report.Failed > 0 {
			return errFaults
		}
		return nil
	}
	return c
}

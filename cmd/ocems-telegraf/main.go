// Command ocems-telegraf is outputs.ocems as an external plugin, for a Telegraf as it is: outputs.execd starts it and
// writes line protocol to its standard input. A metric is durable before the next is read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/outputs"

	_ "github.com/ocems-io/ocems/plugins/outputs/ocems"
)

const name = "ocems"

var version = "dev"

// readTime is what execd has to read the error. Once the process has ended, execd may close the pipe first.
const readTime = 200 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // execd restarts the plugin itself; its end of the log may go first
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ocems-telegraf:", err)
		time.Sleep(readTime)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (err error) {
	flags := flag.NewFlagSet("ocems-telegraf", flag.ContinueOnError)
	flags.SetOutput(errOut)
	file := flags.String("config", "", "`file` with [[outputs.ocems]] as in a configuration of Telegraf")
	check := flags.Bool("check", false, "check the configuration and stop")
	sample := flags.Bool("sample-config", false, "print a configuration and stop")
	metrics := flags.String("metrics-listen", "", "`address` that shows metrics to Prometheus, such as 127.0.0.1:9274")
	show := flags.Bool("version", false, "print the version and stop")
	debug := flags.Bool("debug", false, "log debug messages")
	quiet := flags.Bool("quiet", false, "log errors only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	case *show:
		fmt.Fprintln(out, "ocems-telegraf", version)
		return nil
	case *sample:
		fmt.Fprint(out, outputs.Outputs[name]().SampleConfig())
		return nil
	case *file == "":
		return errors.New("--config: missing; give the file with [[outputs.ocems]]")
	}
	if *metrics != "" {
		if err := checkAddress(*metrics); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	blocks, err := load(data, *file)
	if err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	level := telegraf.Info
	if *debug {
		level = telegraf.Debug
	} else if *quiet {
		level = telegraf.Error
	}
	sinks := &streams{out: out, err: errOut}
	var plugins []telegraf.Output
	states := map[string]int{}
	for _, b := range blocks {
		log := &log{streams: sinks, level: level, alias: b.alias}
		if b.level != telegraf.None {
			log.level = b.level
		}
		b.plugin.Log = log
		if err := b.plugin.Init(); err != nil {
			return fmt.Errorf("%s: line %d: outputs.%s: %w", *file, b.line, name, err)
		}
		if b.plugin.StateDirectory != "" {
			dir, err := filepath.Abs(b.plugin.StateDirectory)
			if err != nil {
				return fmt.Errorf("%s: line %d: state_directory: %w", *file, b.line, err)
			}
			if states[dir] != 0 {
				return fmt.Errorf("%s: line %d: state_directory: %q is that of the block of line %d too; give each its own",
					*file, b.line, b.plugin.StateDirectory, states[dir])
			}
			states[dir] = b.line
		}
		plugins = append(plugins, b.plugin)
	}
	if *check {
		fmt.Fprintf(out, "%s: %d outputs are well configured\n", *file, len(plugins))
		return nil
	}
	var opened []telegraf.Output
	defer func() { err = errors.Join(err, closeAll(opened)) }()
	for i, p := range plugins {
		if err := p.Connect(); err != nil {
			return fmt.Errorf("%s: line %d: outputs.%s: %w", *file, blocks[i].line, name, err)
		}
		opened = append(opened, p)
	}
	if *metrics != "" {
		shown, stop := context.WithCancel(context.Background())
		var serving sync.WaitGroup
		serving.Go(func() { serveMetrics(shown, *metrics, &log{streams: sinks, level: level}) })
		defer serving.Wait()
		defer stop()
	}
	return feed(ctx, in, plugins, &log{streams: sinks, level: level})
}

// closeAll closes side by side: each may wait for a request in flight, and execd does not wait for their sum.
func closeAll(plugins []telegraf.Output) error {
	errs := make([]error, len(plugins))
	var closing sync.WaitGroup
	for i, p := range plugins {
		closing.Go(func() { errs[i] = p.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

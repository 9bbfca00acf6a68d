// Command ocems-telegraf is outputs.ocems as an external plugin of an unmodified Telegraf: outputs.execd starts it and writes
// line protocol to its standard input. Each read is durable before the next one.
package main

import (
	"context"
	"errors"
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
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ocems-io/ocems/cmd/internal/cli"
	_ "github.com/ocems-io/ocems/plugins/outputs/ocems"
)

const name = "ocems"

// readTime is the time for execd to read the error. After the process has ended, execd may close the pipe before it reads.
const readTime = 200 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // execd restarts the plugin itself; execd may close its end of the log first
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ocems-telegraf:", err)
		time.Sleep(readTime)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	o := &options{}
	c := &cobra.Command{
		Use: "ocems-telegraf", Short: "the output ocems as an external plugin of an unmodified Telegraf",
		Long: `ocems-telegraf is Telegraf's output ocems as a separate program. outputs.execd starts it and writes metrics to its standard
input. It makes the 15-minute slots, keeps them on disk and sends them to the CPCB. The exit code is 1 after an error.`,
		Example: `  ocems-telegraf --config /etc/telegraf/ocems.conf --check
  ocems-telegraf --sample-config >/etc/telegraf/ocems.conf`,
		Args: cli.AtMost(0, ""),
	}
	flags := c.Flags()
	flags.StringVar(&o.file, "config", "", "`file` with [[outputs.ocems]] as in Telegraf's configuration (required)")
	flags.BoolVar(&o.check, "check", false, "check the configuration and exit")
	sample := flags.Bool("sample-config", false, "print a sample configuration and exit")
	flags.StringVar(&o.metrics, "metrics-listen", "", "`address` on which Prometheus reads metrics, such as 127.0.0.1:9274")
	flags.BoolVar(&o.debug, "debug", false, "log debug messages")
	flags.BoolVar(&o.quiet, "quiet", false, "log errors only")
	// Telegraf and the shim of its external plugins have these flags. An output is not polled.
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "usage" {
			name = "sample-config"
		}
		return pflag.NormalizedName(name)
	})
	flags.Duration("poll_interval", time.Second, "no effect")
	flags.Bool("poll_interval_disabled", false, "no effect")
	_ = flags.MarkHidden("poll_interval")
	_ = flags.MarkHidden("poll_interval_disabled")
	manual := flags.String("man", "", "write the manual page into this `directory`")
	_ = flags.MarkHidden("man") // for the packages
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case *manual != "":
			return cli.Man(c, *manual)
		case *sample:
			fmt.Fprint(out, outputs.Outputs[name]().SampleConfig())
			return nil
		case o.file == "":
			return errors.New("--config: missing; give the file with [[outputs.ocems]]")
		}
		return o.run(c.Context(), in, out, errOut)
	}
	cli.Prepare(c)
	c.SetArgs(twoDashes(args))
	c.SetOut(out)
	c.SetErr(errOut)
	return c.ExecuteContext(ctx)
}

// twoDashes turns -config into --config: programs with Telegraf's shim accept both.
func twoDashes(args []string) (all []string) {
	for _, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			a = "-" + a
		}
		all = append(all, a)
	}
	return all
}

// options are the flags of a run.
type options struct {
	file, metrics       string
	check, debug, quiet bool
}

func (o *options) run(ctx context.Context, in io.Reader, out, errOut io.Writer) (err error) {
	if o.metrics != "" {
		if err := checkAddress(o.metrics); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	blocks, err := load(data, o.file)
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	level := telegraf.Info
	if o.debug {
		level = telegraf.Debug
	} else if o.quiet {
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
			return fmt.Errorf("%s: line %d: outputs.%s: %w", o.file, b.line, name, err)
		}
		if b.plugin.StateDirectory != "" {
			dir, err := filepath.Abs(b.plugin.StateDirectory)
			if err != nil {
				return fmt.Errorf("%s: line %d: state_directory: %w", o.file, b.line, err)
			}
			if states[dir] != 0 {
				return fmt.Errorf("%s: line %d: state_directory: %q is also that of the block in line %d; give each block its own",
					o.file, b.line, b.plugin.StateDirectory, states[dir])
			}
			states[dir] = b.line
		}
		plugins = append(plugins, b.plugin)
	}
	if o.check {
		fmt.Fprintf(out, "%s: the configuration is valid; outputs: %d\n", o.file, len(plugins))
		return nil
	}
	var opened []telegraf.Output
	defer func() { err = errors.Join(err, closeAll(opened)) }()
	for i, p := range plugins {
		if err := p.Connect(); err != nil {
			return fmt.Errorf("%s: line %d: outputs.%s: %w", o.file, blocks[i].line, name, err)
		}
		opened = append(opened, p)
	}
	if o.metrics != "" {
		shown, stop := context.WithCancel(context.Background())
		var serving sync.WaitGroup
		serving.Go(func() { serveMetrics(shown, o.metrics, &log{streams: sinks, level: level}) })
		defer serving.Wait()
		defer stop()
	}
	return feed(ctx, in, plugins, &log{streams: sinks, level: level})
}

// closeAll closes in parallel: each may wait for a request in flight, and execd does not wait for the sum of the waits.
func closeAll(plugins []telegraf.Output) error {
	errs := make([]error, len(plugins))
	var closing sync.WaitGroup
	for i, p := range plugins {
		closing.Go(func() { errs[i] = p.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}

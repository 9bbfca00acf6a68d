// Command ocems is the operator's tool beside the Telegraf output and the collector exporter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/ocems-io/ocems/ocems/spec"
)

// command is one subcommand. Its error is exit code 1, or 2 when it is a usageError.
type command struct {
	name, about string
	run         func(context.Context, std, []string) error
}

var commands = []command{
	{"simulate", "run a CPCB server of the OCEMS API for tests", simulate},
	{"keygen", "make a key pair for a simulated industry", keygen},
	{"decode", "decrypt a request body and list its faults", decode},
	{"report", "say from audit trails what became of each slot", reportSlots},
	{"doctor", "say what would keep a host's slots from the board", examine},
	{"status", "say whether a host reports, and each parameter of its devices", showStatus},
	{"serve", "show the same, and each device's last 7 days, on a page", servePage},
	{"preview", "show the next request of each device as it waits on disk", preview},
}

// std is what a subcommand reads from and writes to.
type std struct {
	in       io.Reader
	out, err io.Writer
}

// exitCode ends the program with that code, after all that is to be said was printed.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a mistake in the command line.
type usageError struct{ error }

// errFaults says that what was to be found has been printed: exit code 1 without another message.
var errFaults = errors.New("faults")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, std{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run returns the exit code: 0 done, 1 failed or faults found, 2 a mistake in the command line.
func run(ctx context.Context, s std, args []string) int {
	err := dispatch(ctx, s, args)
	var usage usageError
	var code exitCode
	switch {
	case errors.As(err, &code):
		return int(code)
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errFaults):
		return 1
	}
	fmt.Fprintln(s.err, "ocems:", err)
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

func dispatch(ctx context.Context, s std, args []string) error {
	var names []string
	for _, c := range commands {
		names = append(names, c.name)
	}
	if len(args) == 0 {
		return usageError{fmt.Errorf("a subcommand is missing: one of %s", strings.Join(names, ", "))}
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		fmt.Fprintln(s.out, "usage: ocems SUBCOMMAND [--flag VALUE]...")
		for _, c := range commands {
			fmt.Fprintf(s.out, "  %-10s %s\n", c.name, c.about)
		}
		return nil
	}
	for _, c := range commands {
		if c.name == args[0] {
			if err := c.run(ctx, s, args[1:]); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			return nil
		}
	}
	return usageError{fmt.Errorf("unknown subcommand %q: nearest %s", args[0], strings.Join(spec.Nearest(args[0], names), ", "))}
}

// parse reads the flags, and at most `positional` arguments after them.
func parse(flags *flag.FlagSet, s std, args []string, positional int) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(s.out, "flags of ocems %s:\n", flags.Name())
		flags.SetOutput(s.out)
		flags.PrintDefaults()
		return err
	}
	if err != nil {
		if _, name, unknown := strings.Cut(err.Error(), "not defined: -"); unknown {
			var names []string
			flags.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
			err = fmt.Errorf("unknown flag --%s: nearest --%s", name, strings.Join(spec.Nearest(name, names), ", --"))
		}
		return usageError{err}
	}
	if flags.NArg() > positional {
		return usageError{fmt.Errorf("unexpected argument %q: flags come first, then at most %d file", flags.Arg(positional), positional)}
	}
	return nil
}

// Command ocems is the operator's tool beside the Telegraf output and the collector exporter.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ocems-io/ocems/cmd/internal/cli"
)

// exitCodes is in the help and in docs/tool.md.
const exitCodes = `Exit codes of every verb:

    0  done, and nothing is wrong
    1  a problem was found and printed: a check of doctor failed, a body has faults,
       an audit trail does not verify, status warns
    2  status only: slots are missing, or the host does not run or cannot be judged
    3  no result: a mistake in the command line, or something cannot be read, written or
       reached`

// The codes of status are those of monitoring plug-ins.
const (
	exitFaults  = 1
	exitUnknown = 3
)

// exit ends the program with this code, and prints the error unless it is nil.
type exit struct {
	code int
	error
}

// errFaults means that the verb has printed what it found.
var errFaults = exit{code: exitFaults}

func (e exit) Error() string {
	if e.error == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.error.Error()
}

// std is what a verb reads from and writes to.
type std struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, std{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run returns the exit code.
func run(ctx context.Context, s std, args []string) int {
	root := newRoot(s)
	root.SetArgs(verbFirst(root, args))
	verb, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code, e := exitUnknown, exit{}
	if errors.As(err, &e) {
		code = e.code
	}
	if code == exitUnknown || e.error != nil {
		fmt.Fprintf(s.err, "%s: %v\n", strings.ReplaceAll(verb.CommandPath(), " ", ": "), err)
	}
	return code
}

func newRoot(s std) *cobra.Command {
	root := &cobra.Command{
		Use:   "ocems VERB",
		Short: "the operator's tool beside a Telegraf or a collector that reports to the CPCB",
		Long: `ocems is the operator's tool beside a Telegraf or a collector that reports to India's CPCB. It finds what would keep slots
from the board, shows what a host is doing, and reports the outcome of each slot.

` + exitCodes,
		Example: `  sudo -u telegraf ocems doctor --config /etc/telegraf/telegraf.conf
  ocems status /var/lib/ocems
  ocems help report`,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // the error names the unknown verb, not its flags
		RunE:               func(*cobra.Command, []string) error { return nil },
	}
	root.AddCommand(doctorCommand(s), statusCommand(s), serveCommand(s), previewCommand(s), reportCommand(s),
		simulateCommand(s), keygenCommand(s), decodeCommand(s), completionCommand(s), versionCommand(s), manCommand())
	root.Args = func(_ *cobra.Command, args []string) error { return noVerb(root, args) }
	root.SetHelpCommand(&cobra.Command{
		Use: "help [VERB]", Short: "show what a verb does, with its flags and examples", Example: "  ocems help doctor",
		RunE: func(_ *cobra.Command, args []string) error {
			verb, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = noVerb(root, rest)
			}
			if err != nil {
				return err
			}
			return verb.Help()
		},
	})
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	cli.Prepare(root)
	return root
}

func noVerb(root *cobra.Command, args []string) error {
	var verbs []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	if len(args) == 0 {
		return fmt.Errorf("the verb is missing: one of %s", strings.Join(verbs, ", "))
	}
	return fmt.Errorf("unknown verb %q: %s", args[0], cli.Nearest(args[0], verbs, "one of "+strings.Join(verbs, ", ")))
}

// verbFirst moves the verb to the front. A flag that takes a value in one verb takes a value in all.
func verbFirst(root *cobra.Command, args []string) []string {
	for i := 0; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "--")
		switch {
		case !strings.HasPrefix(args[i], "-"):
			return slices.Concat(args[i:i+1], args[:i], args[i+1:])
		case isFlag && slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return takesValue(c.Flags().Lookup(name)) }):
			i++
		}
	}
	return args
}

func takesValue(f *pflag.Flag) bool { return f != nil && f.NoOptDefVal == "" }

func completionCommand(s std) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "print the completion of verbs and flags for bash, zsh, fish or powershell", ValidArgs: shells,
		Example: `  ocems completion bash >/etc/bash_completion.d/ocems
  ocems completion zsh >"${fpath[1]}/_ocems"
  ocems completion fish >~/.config/fish/completions/ocems.fish
  ocems completion powershell | Out-String | Invoke-Expression`,
		Args: cli.AtMost(1, "shell"),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			write := map[string]func() error{
				"bash":       func() error { return root.GenBashCompletionV2(s.out, true) },
				"zsh":        func() error { return root.GenZshCompletion(s.out) },
				"fish":       func() error { return root.GenFishCompletion(s.out, true) },
				"powershell": func() error { return root.GenPowerShellCompletionWithDesc(s.out) },
			}
			if len(args) == 0 {
				return fmt.Errorf("the shell is missing: one of %s", strings.Join(shells, ", "))
			}
			if write[args[0]] == nil {
				return fmt.Errorf("unknown shell %q: %s", args[0], cli.Nearest(args[0], shells, "one of "+strings.Join(shells, ", ")))
			}
			return write[args[0]]()
		},
	}
}

func versionCommand(s std) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version, its commit and the commit's date", Example: "  ocems version", Args: cli.AtMost(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(s.out, "ocems", c.Root().Version)
			return err
		},
	}
}

// manCommand is for the packages.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "write the manual pages", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return cli.Man(c.Root(), args[0]) },
	}
}

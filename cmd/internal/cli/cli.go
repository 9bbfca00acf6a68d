// Package cli has what the command lines of our programs share: error texts for mistakes, --version, and manual pages.
package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/version"
)

// The help lists the verbs in the order in which they were added.
func init() { cobra.EnableCommandSorting = false }

// Prepare gives a program's command our usage text and our error texts. The caller prints the error of its execution.
func Prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = version.Read().String()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetUsageTemplate(strings.NewReplacer(
		"{{if .HasAvailableSubCommands}}\n  {{.CommandPath}} [command]{{end}}", "",
		"Available Commands:", "Verbs:",
		"{{.CommandPath}} [command] --help\" for more information about a command.", "{{.CommandPath}} VERB --help\" for the flags and examples of a verb.",
		"{{.LocalFlags.FlagUsages |", "{{.LocalFlags.FlagUsagesWrapped 120 |",
	).Replace(root.UsageTemplate()))
}

func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &unknown):
		name := cmp.Or(unknown.GetSpecifiedShortnames(), unknown.GetSpecifiedName())
		dashes := "--"
		if unknown.GetSpecifiedShortnames() != "" {
			dashes = "-"
		}
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, "--"+f.Name)
			}
		})
		return fmt.Errorf("unknown flag %s%s: %s", dashes, name, Nearest(name, names, c.CommandPath()+" --help lists them"))
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		if w, ok := f.Value.(*word); ok {
			return fmt.Errorf("--%s: %q is unknown: %s", f.Name, invalid.GetValue(), Nearest(invalid.GetValue(), w.words, "one of "+strings.Join(w.words, ", ")))
		}
		kind := strings.Replace(f.Value.Type(), "int", "whole number", 1)
		return fmt.Errorf("--%s: %q is not a %s; example: %s", f.Name, invalid.GetValue(), kind, f.DefValue)
	case errors.As(err, &missing):
		return fmt.Errorf("--%s: the value is missing", missing.GetSpecifiedName())
	}
	return err
}

// Nearest names the candidates that resemble the given word. Without one it returns the text otherwise.
func Nearest(given string, candidates []string, otherwise string) string {
	if near := spec.Alike(given, candidates); len(near) > 0 {
		return "nearest " + strings.Join(near, ", ")
	}
	return otherwise
}

// Word defines a flag whose value is one of the given words.
func Word(c *cobra.Command, name, standard, usage string, words ...string) *string {
	w := &word{standard, words}
	c.Flags().Var(w, name, usage)
	_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	return &w.given
}

type word struct {
	given string
	words []string
}

func (w *word) String() string { return w.given }
func (w *word) Type() string   { return strings.Join(w.words, "|") }

func (w *word) Set(s string) error {
	if w.given = s; !slices.Contains(w.words, s) {
		return errors.New("unknown")
	}
	return nil
}

// AtMost accepts at most n arguments of a kind.
func AtMost(n int, kind string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		if n == 0 {
			return fmt.Errorf("unexpected argument %q: it takes flags only", args[0])
		}
		return fmt.Errorf("unexpected argument %q: it takes at most %d %s", args[n], n, kind)
	}
}

// Man writes the manual pages of a program and its verbs into a directory. Their date is the commit's, so that a build is
// reproducible.
func Man(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	i := version.Read()
	header := &doc.GenManHeader{Section: "1", Source: root.Name() + " " + i.Version, Manual: "OCEMS"}
	if day, err := time.Parse(time.RFC3339, i.Date); err == nil {
		header.Date = &day
	}
	root.DisableAutoGenTag = true
	return doc.GenManTree(root, header, dir)
}

package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/seal"
)

// Status is how a check came out.
type Status string

// The outcomes of a check. What is Skipped could not be found out.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Check is one thing that was looked at. Its texts hold no token, no key and no password.
type Check struct {
	Output string `json:"output,omitempty"` // of which it is; "" for the host as a whole
	Name   string `json:"check"`
	Status Status `json:"status"`
	Text   string `json:"text"`
	Do     string `json:"do,omitempty"` // what mends it
}

// Report is all that was found.
type Report struct {
	Host     hostconfig.Host `json:"host"`
	Files    []string        `json:"files"`
	Checks   []Check         `json:"checks"`
	Failed   int             `json:"failed"`
	Warnings int             `json:"warnings"`
}

// Options is how to look.
type Options struct {
	// Offline leaves out all that needs the network.
	Offline bool
	// Timeout is for each step over the network, 10 s when 0; the host's own when that is shorter.
	Timeout time.Duration
	// Lookup finds the proxy variables of the environment; os.LookupEnv when nil.
	Lookup func(string) (string, bool)
	// Progress is told what is looked at next; may be nil.
	Progress func(format string, args ...any)
}

// Run makes all checks of a configuration, in an order in which the first failure is the first to mend.
func Run(ctx context.Context, cfg *hostconfig.Config, opt Options) *Report {
	if opt.Timeout <= 0 {
		opt.Timeout = 10 * time.Second
	}
	if opt.Lookup == nil {
		opt.Lookup = os.LookupEnv
	}
	if opt.Progress == nil {
		opt.Progress = func(string, ...any) {}
	}
	e := &examination{opt: opt, report: &Report{Host: cfg.Host, Files: cfg.Files, Checks: []Check{}}}
	e.user(cfg)
	for _, f := range cfg.Faults {
		e.add("configuration", statusOf(f.Severity), f.Do, "%s", f.Text)
	}
	if len(cfg.Unset) > 0 {
		e.add("environment", Warning, "set them here too, or give the service's own: --env-file FILE, such as systemd's EnvironmentFile",
			"not set: %s", strings.Join(cfg.Unset, ", "))
	}
	for i, o := range cfg.Outputs {
		e.output = o.Name
		if len(cfg.Outputs) > 1 {
			e.output += " (" + o.Where + ")"
		}
		opt.Progress("%s: checking the configuration", e.output)
		reg := e.configuration(o, cfg.Outputs[:i])
		if !o.Slots {
			opt.Progress("%s: asking the endpoint", e.output)
			e.network(ctx, o)
		}
		opt.Progress("%s: looking at its directories and the audit trail", e.output)
		e.disk(o, reg)
		e.trail(o)
		opt.Progress("%s: looking at what waits", e.output)
		e.outbox(ctx, o, reg)
	}
	return e.report
}

type examination struct {
	opt    Options
	report *Report
	output string
}

// password is what stands before the host of a URL.
var password = regexp.MustCompile(`[^/\s"@]+@`)

func (e *examination) add(name string, s Status, do, format string, args ...any) {
	clean := func(text string) string {
		return strings.Map(func(r rune) rune { // a certificate's names and a server's words are shown, and never obeyed
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				return ' '
			}
			return r
		}, password.ReplaceAllString(text, "xxxxx@"))
	}
	switch s {
	case Failed:
		e.report.Failed++
	case Warning:
		e.report.Warnings++
	}
	e.report.Checks = append(e.report.Checks, Check{e.output, name, s, clean(fmt.Sprintf(format, args...)), clean(do)})
}

func statusOf(s hostconfig.Severity) Status {
	switch s {
	case hostconfig.Failed:
		return Failed
	case hostconfig.Warning:
		return Warning
	}
	return Skipped
}

// configuration says what is wrong with an output's keys, or that nothing is. The registry is nil where devices are faulty.
func (e *examination) configuration(o *hostconfig.Output, before []*hostconfig.Output) *registry.Registry {
	already := e.report.Failed
	for _, f := range o.Faults {
		e.add("configuration", statusOf(f.Severity), f.Do, "%s", f.Text)
	}
	e.meant(o)
	e.across(o, before)
	reg, err := registry.New(o.Names)
	if err != nil {
		reg, _ = o.Registry() // the devices may be right where the secrets are not
	}
	if e.report.Failed == already {
		devices, parameters := 0, 0
		if reg != nil {
			devices = len(reg.Devices())
		}
		for _, d := range o.Names.Devices {
			parameters += len(d.Parameters)
		}
		tokens := ", each with a token"
		if o.Slots {
			tokens = ""
		}
		text := fmt.Sprintf("%s: devices %d%s; parameters mapped %d", o.Where, devices, tokens, parameters)
		switch {
		case o.Slots:
			e.add("configuration", OK, "", "%s; it delivers to no board itself, and hands its slots to %s", text, cmp.Or(next(o), "nobody"))
		case o.DryRun:
			e.add("configuration", Warning, "set dry_run to false once its log is right", "%s; dry_run is set: nothing is sent", text)
		default:
			e.add("configuration", OK, "", "%s", text)
		}
	}
	if !o.Slots {
		e.tokens(o, reg)
		e.keys(o)
		e.signature(o)
	}
	return reg
}

// signature says which time the signature carries.
func (e *examination) signature(o *hostconfig.Output) {
	what := "time of the request; if the board answers 10 or 113 although token and key are right, try the other"
	if o.Signature == options.SignatureTimes[1] {
		what = "time of the slot"
	}
	e.add("signature", OK, "", "signature_time %q: %s", o.Signature, what)
}

// tokens warns of those that look cut or mistyped. It shows none.
func (e *examination) tokens(o *hostconfig.Output, reg *registry.Registry) {
	why := map[string]string{}
	if reg != nil {
		for _, d := range reg.Devices() {
			why[d.DeviceID] = d.OddToken
		}
	}
	for _, d := range o.Names.Devices { // also where the registry has no tokens, since something is wrong
		if token := strings.TrimSpace(d.TokenID.Reveal()); !strings.HasPrefix(token, "$") {
			why[d.DeviceID] = cmp.Or(why[d.DeviceID], registry.OddToken(token))
		}
	}
	var odd []string
	for _, id := range slices.Sorted(maps.Keys(why)) {
		if why[id] != "" {
			odd = append(odd, id+" ("+why[id]+")")
		}
	}
	if odd != nil {
		e.add("tokens", Warning, "compare them with the board's e-mail",
			"neither 32 hex digits nor 44 characters of base64, as the board's usually are: %s", list(odd))
	}
}

// list names the first few of many.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// keys shows the public keys' fingerprints, by which the board can tell them.
func (e *examination) keys(o *hostconfig.Output) {
	seen := map[string]bool{}
	show := func(inline registry.Secret, file string) {
		text := inline.Reveal()
		if file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				return // a fault already
			}
			text = string(b)
		}
		if strings.TrimSpace(text) == "" || seen[text] {
			return
		}
		seen[text] = true
		key, err := seal.ParsePublicKey(text)
		if err != nil {
			return
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return
		}
		sum := sha256.Sum256(der)
		from := "inline"
		if file != "" {
			from = file
		}
		bits := key.N.BitLen()
		line := fmt.Sprintf("RSA, %d bits, SHA-256 %s (%s)", bits, hex.EncodeToString(sum[:]), from)
		if bits < 2048 {
			e.add("public key", Warning, "ask the board for a key of 2048 bits", "%s: small", line)
		} else {
			e.add("public key", OK, "", "%s", line)
		}
	}
	if !hostconfig.IsStandIn(o.Names.PublicKey) {
		show(o.Names.PublicKey, o.Names.PublicKeyFile)
	}
	for _, d := range o.Names.Devices {
		if !hostconfig.IsStandIn(d.PublicKey) {
			show(d.PublicKey, d.PublicKeyFile)
		}
	}
}

// Text writes the report for a person: a line a check, and under each what is to be done.
func (r *Report) Text(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: %s\n", r.Host, strings.Join(r.Files, ", "))
	output := ""
	for _, c := range r.Checks {
		if c.Output != output {
			output = c.Output
			fmt.Fprintf(&b, "\n%s\n", output)
		}
		fmt.Fprintf(&b, "%-8s %-13s %s\n", c.Status, c.Name, c.Text)
		if c.Do != "" && c.Status != OK {
			fmt.Fprintf(&b, "%-8s %-13s -> %s\n", "", "", c.Do)
		}
	}
	fmt.Fprintf(&b, "\nfailed %d, warnings %d; no reading was sent\n", r.Failed, r.Warnings)
	_, err := w.Write(b.Bytes())
	return err
}

// JSON writes the report for a machine.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

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

// Status is the outcome of a check.
type Status string

// The outcomes of a check. Skipped means that it could not be made.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Check is one check. Its texts hold no token, no key and no password.
type Check struct {
	Output string `json:"output,omitempty"` // whose check this is; "" for the host as a whole
	Name   string `json:"check"`
	Status Status `json:"status"`
	Text   string `json:"text"`
	Do     string `json:"do,omitempty"` // the cure
}

// Report has all checks.
type Report struct {
	Host     hostconfig.Host `json:"host"`
	Files    []string        `json:"files"`
	Checks   []Check         `json:"checks"`
	Failed   int             `json:"failed"`
	Warnings int             `json:"warnings"`
}

// Options are the options of Run.
type Options struct {
	// Offline skips the checks that need the network.
	Offline bool
	// Timeout limits each step over the network, 10 s when 0; the host's own timeout applies if it is shorter.
	Timeout time.Duration
	// Lookup finds the proxy variables of the environment; os.LookupEnv when nil.
	Lookup func(string) (string, bool)
	// Progress gets the next step; may be nil.
	Progress func(format string, args ...any)
}

// Run makes all checks of a configuration, ordered so that the first failure is the first to fix.
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
		e.add("environment", Warning, "set them here too, or give the service's file: --env-file FILE, such as systemd's EnvironmentFile",
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
		opt.Progress("%s: checking its directories and the audit trail", e.output)
		e.disk(o, reg)
		e.trail(o)
		opt.Progress("%s: reading the waiting slots", e.output)
		e.outbox(ctx, o, reg)
	}
	return e.report
}

type examination struct {
	opt    Options
	report *Report
	output string
}

// password is the user part of a URL.
var password = regexp.MustCompile(`[^/\s"@]+@`)

func (e *examination) add(name string, s Status, do, format string, args ...any) {
	clean := func(text string) string {
		return strings.Map(func(r rune) rune { // control characters in a certificate's or server's text must not reach a terminal
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

// configuration reports the faults of an output's keys. The registry is nil if devices are faulty.
func (e *examination) configuration(o *hostconfig.Output, before []*hostconfig.Output) *registry.Registry {
	already := e.report.Failed
	for _, f := range o.Faults {
		e.add("configuration", statusOf(f.Severity), f.Do, "%s", f.Text)
	}
	e.meant(o)
	e.across(o, before)
	reg, err := registry.New(o.Names)
	if err != nil {
		reg, _ = o.Registry() // the devices may be right even if the secrets are wrong
	}
	if e.report.Failed == already {
		devices, parameters := 0, 0
		if reg != nil {
			devices = len(reg.Devices())
			e.abroad(reg.Devices())
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
		case devices == 0:
			e.add("configuration", Warning, "add the devices", "%s: no device is configured, so no reading is reported", o.Where)
		case o.Slots:
			e.add("configuration", OK, "", "%s; it does not deliver to the board, it passes its slots to %s", text, cmp.Or(next(o), "no exporter"))
		case o.DryRun:
			e.add("configuration", Warning, "set dry_run to false when its log is right", "%s; dry_run is set: nothing is sent", text)
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

// signature shows which time the signature has.
func (e *examination) signature(o *hostconfig.Output) {
	what := "time of the request; if the board answers 10 or 113 although token and key are right, try \"slot\""
	if o.Signature == options.SignatureTimes[1] {
		what = "time of the slot"
	}
	e.add("signature", OK, "", "signature_time %q: %s", o.Signature, what)
}

// tokens warns of tokens that look truncated or mistyped. It shows no token.
func (e *examination) tokens(o *hostconfig.Output, reg *registry.Registry) {
	why := map[string]string{}
	if reg != nil {
		for _, d := range reg.Devices() {
			why[d.DeviceID] = d.OddToken
		}
	}
	for _, d := range o.Names.Devices { // a registry made despite faults has no tokens
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
			"the board's tokens usually have 32 hex digits or 44 characters of base64; these have not: %s", list(odd))
	}
}

// list shows at most 5 names.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// keys shows the public keys' fingerprints, so that the board can identify them.
func (e *examination) keys(o *hostconfig.Output) {
	seen := map[string]bool{}
	show := func(inline registry.Secret, file string) {
		text := inline.Reveal()
		if file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				return // already reported as a fault
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
			e.add("public key", Warning, "ask the board for a key of 2048 bits or more", "%s: too short to be secure", line)
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

// Text writes the report for a person: one line for each check, with the cure below it.
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

// JSON writes the report for programs.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

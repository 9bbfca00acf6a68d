// Package docs_test compares the documentation with the programs: it runs its commands, checks its configurations and follows
// its links.
package docs_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The paths of the repository and its pages, relative to this directory.
const (
	root = "../../"
	docs = root + "docs/"
)

// block is a fenced block of a page, or a directive without a block: an HTML comment on its own line.
type block struct {
	page, section string // section is the heading above it
	line          int
	about         string // the comment on the line before it
	language      string // "" for a directive without a block
	text          string
}

var indented = regexp.MustCompile(`^    [^ *0-9|-]`)

// blocks reads the blocks of a page. A comment belongs to the block that begins on the next line.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(root + page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	about, section := "", ""
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		switch {
		case open != nil && strings.TrimSpace(line) == "```":
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			open = &block{page, section, i + 1, about, strings.TrimPrefix(strings.TrimSpace(line), "```"), ""}
			about = ""
		default:
			if indented.MatchString(line) && (i == 0 || strings.TrimSpace(lines[i-1]) == "") {
				t.Errorf("%s:%d: a block without a fence, which this test does not see", page, i+1)
			}
			if about != "" { // a directive without a block
				all = append(all, block{page, section, i, about, "", ""})
				about = ""
			}
			if m := regexp.MustCompile(`^<!-- (.*) -->$`).FindStringSubmatch(line); m != nil {
				about = m[1]
			}
			if h := strings.TrimLeft(line, "#"); h != line {
				section = strings.TrimSpace(h)
			}
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block has no end", page, open.line)
	}
	return all
}

// Every block has a language that this test checks.
func TestBlocksAreOfAKindThatIsChecked(t *testing.T) {
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			switch language, _, _ := strings.Cut(b.language, " "); language {
			case "sh", "text", "toml", "yaml", "json", "":
			default:
				t.Errorf("%s:%d: a block of %q: this test checks sh, text, toml, yaml and json", page, b.line, b.language)
			}
		}
	}
}

// The commands of the other pages run anywhere, on a machine where the host is a service, or in a clone. Otherwise a comment
// says why they do not run.
func TestCommands(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		if page == "docs/getting-started.md" { // see TestGettingStarted
			continue
		}
		all := blocks(t, page)
		t.Run(page, func(t *testing.T) {
			clones := map[int]<-chan ran{}
			for _, b := range all {
				if b.about == "clone" {
					clones[b.line] = clone(t, b)
				}
			}
			t.Parallel()
			var w *walk
			section := ""
			for _, b := range all {
				if w != nil && b.section != section {
					w.said = "" // text of another section is not the output of this command
				}
				section = b.section
				switch {
				case b.language == "sh" || w != nil && (b.language == "text" || strings.HasPrefix(b.about, "not run: ")):
					if w == nil {
						w = newWalk(t, "ocems", "otelcol-ocems", "telegraf-ocems-small")
					}
					if clones[b.line] == nil {
						w.step(b)
						continue
					}
					said := <-clones[b.line]
					if said.err != nil { // with other tests in parallel, Telegraf may miss a poll, which changes a mean
						t.Logf("%s:%d: again, alone: %v: %s", page, b.line, said.err, said.out)
						said = <-clone(t, b)
					}
					if w.said = said.out; said.err != nil {
						t.Errorf("%s:%d: %v: %s", page, b.line, said.err, said.out)
					}
				case b.language == "json" && !json.Valid([]byte(b.text)):
					t.Errorf("%s:%d: this is not JSON", page, b.line)
				case (b.language == "toml" || b.language == "yaml") && strings.HasPrefix(page, "docs/"):
					t.Errorf("%s:%d: a configuration that no program checks", page, b.line)
				}
			}
		})
	}
}

// All names in commands exist, also in commands that are not run: targets of make, packages and scripts of the repository,
// built programs, commands and flags of ocems. A service's user is the user of its configuration.
func TestCommandsNameWhatIsThere(t *testing.T) {
	makefile, err := os.ReadFile(root + "Makefile")
	if err != nil {
		t.Fatal(err)
	}
	tool := program(t, "ocems")
	help := map[string]string{}
	for _, page := range pages(t) {
		text, err := os.ReadFile(root + page)
		if err != nil {
			t.Fatal(err)
		}
		commands := ""
		for _, b := range blocks(t, page) {
			if b.language == "sh" {
				commands += b.text
				if out, err := exec.Command("bash", "-n", "-c", b.text).CombinedOutput(); err != nil {
					t.Errorf("%s:%d: %s", page, b.line, out)
				}
			}
		}
		inline := strings.ReplaceAll(strings.Join(inCode.FindAllString(fenced.ReplaceAllString(string(text), ""), -1), "\n"), "`", "")
		commands = strings.ReplaceAll(commands, "\\\n", "") + inline
		for line := range strings.Lines(commands) {
			line, _, _ = strings.Cut(line, " #")
			wrong := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s: %s: %s", page, strings.TrimSpace(line), fmt.Sprintf(format, args...))
			}
			if m := regexp.MustCompile(`^(?:sudo )?(?:[A-Z]+=\S+ )*make((?: [a-z][a-z/-]*)+)`).FindStringSubmatch(line); m != nil {
				for _, target := range strings.Fields(m[1]) {
					if !regexp.MustCompile(`(?m)^([\w/ -]+ )?` + target + `( [\w/ -]+)?&?:`).Match(makefile) {
						wrong("the Makefile has no target %s", target)
					}
				}
			}
			for _, m := range regexp.MustCompile(`(?:^| )(?:\./)?((?:examples|cmd|test|ocems|plugins)/[\w./-]+)`).FindAllStringSubmatch(line, -1) {
				if _, err := os.Stat(root + strings.TrimSuffix(m[1], "/...")); err != nil && strings.Contains(commands, "go ") {
					wrong("%s does not exist", m[1])
				}
			}
			for _, m := range regexp.MustCompile(`\bbin/((?:tools/)?[\w-]+)`).FindAllStringSubmatch(line, -1) {
				if !regexp.MustCompile(`bin/`+m[1]+`\b`).Match(makefile) && m[1] != "plant" && !strings.HasPrefix(m[1], "telegraf-ocems") {
					wrong("nothing makes bin/%s", m[1])
				}
			}
			if m := regexp.MustCompile(`sudo -u (\w+) .*/etc/(\w+)/`).FindStringSubmatch(line); m != nil && m[1] != m[2] {
				wrong("the user %s and the configuration of %s", m[1], m[2])
			}
			line = regexp.MustCompile(`sudo -u \w+ `).ReplaceAllString(line, "")
			for _, m := range regexp.MustCompile(`(?:^|[ /])ocems ([a-z]+)( [^|>&]*)?`).FindAllStringSubmatch(line, -1) {
				if _, known := help[m[1]]; !known {
					out, _ := exec.Command(tool, m[1], "--help").CombinedOutput()
					help[m[1]] = string(out)
				}
				if strings.Contains(help[m[1]], "unknown command") {
					wrong("ocems has no command %s", m[1])
					continue
				}
				for _, flag := range regexp.MustCompile(` -(-[a-z-]+)`).FindAllStringSubmatch(m[2], -1) {
					if !regexp.MustCompile(`(?m)^ +-?` + flag[1] + `\b`).MatchString(help[m[1]]) {
						wrong("ocems %s has no flag -%s", m[1], flag[1])
					}
				}
			}
		}
	}
}

// The values in the table of byte orders are right.
func TestByteOrders(t *testing.T) {
	text, err := os.ReadFile(docs + "troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `((?:[0-9A-F]{2} ?){4})` \\| (\\S+) \\| `byte_order = \"([A-D]{4})\"` \\|$").FindAllStringSubmatch(string(text), -1)
	if len(rows) != 4 {
		t.Fatalf("the table has %d orders, want 4", len(rows))
	}
	for _, row := range rows {
		sent, err := hex.DecodeString(strings.ReplaceAll(row[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%.2g", math.Float32frombits(binary.BigEndian.Uint32(sent))); got != row[2] && row[3] != "ABCD" {
			t.Errorf("%s read as ABCD is %s, not %s", row[1], got, row[2])
		}
		var right [4]byte
		for i, place := range row[3] {
			right[place-'A'] = sent[i]
		}
		if got := math.Float32frombits(binary.BigEndian.Uint32(right[:])); got != 110.5 {
			t.Errorf("%s read as %s is %v, not 110.5", row[1], row[3], got)
		}
	}
}

// pages returns all pages of the repository, relative to its root.
func pages(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.IsDir() && filepath.Ext(path) == ".md":
			list = append(list, strings.TrimPrefix(filepath.ToSlash(path), root))
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		t.Fatalf("the pages: %v, %v", list, err)
	}
	return list
}

// program returns the path of a program in the directory OCEMS_BIN.
func program(t *testing.T, name string) string {
	t.Helper()
	bin := os.Getenv("OCEMS_BIN")
	if bin == "" {
		t.Skip("OCEMS_BIN does not name the directory of the built programs")
	}
	path, err := filepath.Abs(filepath.Join(bin, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: %v", name, err)
	}
	return path
}

// until polls, because another process does the work.
func until(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Text that differs between runs. The order matters.
var varying = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z| IST)?`), "TIME"},
	{regexp.MustCompile(`\d{8}T\d{6}\.\d+`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{64}`), "HASH"},
	{regexp.MustCompile(`\b\d{13,19}\b`), "STAMP"},
	{regexp.MustCompile(`-?\b(\d+(\.\d+)?(ns|µs|ms|s|m|h))+\b`), "DURATION"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`device_\w+`), "DEVICE"},
	{regexp.MustCompile(`"n":\d+`), "NUMBER"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

func plain(line string) string {
	for _, v := range varying {
		line = v.pattern.ReplaceAllString(line, v.word)
	}
	return strings.TrimSpace(line)
}

// shown reports whether got has the lines of want in order, and returns the first missing line. In want, "…" is any text.
func shown(want, got string) (missing string, ok bool) {
	lines := strings.Split(got, "\n")
	for _, line := range strings.Split(want, "\n") {
		if line = strings.TrimSpace(line); line == "" || line == "…" {
			continue
		}
		at := slices.IndexFunc(lines, func(l string) bool { return like(line, l) })
		if at < 0 {
			return line, false
		}
		lines = lines[at+1:]
	}
	return "", true
}

// like reports whether a line is like want, except varying text.
func like(want, line string) bool {
	parts := strings.Split(plain(want), "…")
	if line = plain(line); len(parts) == 1 {
		return parts[0] == line
	}
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(line)
}

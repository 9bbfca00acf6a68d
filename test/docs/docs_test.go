// Package docs_test holds the documentation to what the programs do: it runs its commands, checks its configurations and
// follows its links.
package docs_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
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

// The repository and its pages, seen from here.
const (
	root = "../../"
	docs = root + "docs/"
)

// block is a fenced block of a page, or a directive without one: an HTML comment on a line of its own.
type block struct {
	page, section string // section is the heading above it
	line          int
	about         string // the comment on the line before it
	language      string // "" for a directive alone
	text          string
}

// blocks reads a page. A comment belongs to the block that begins on the next line.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(docs + page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	about, section := "", ""
	for i, line := range strings.Split(string(text), "\n") {
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
			if about != "" { // it was alone
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

// Every block says what it is, so that none stays unchecked for lack of a word.
func TestBlocksAreOfAKindThatIsChecked(t *testing.T) {
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			switch b.language {
			case "sh", "text", "toml", "yaml", "json", "":
			default:
				t.Errorf("%s:%d: a block of %q: this test checks sh, text, toml, yaml and json", page, b.line, b.language)
			}
		}
	}
}

// The commands of the other pages run anywhere, or say why they do not.
func TestCommands(t *testing.T) {
	for _, page := range pages(t) {
		if page == "getting-started.md" { // see TestGettingStarted
			continue
		}
		said := ""
		for _, b := range blocks(t, page) {
			switch {
			case strings.HasPrefix(b.about, "not run: "):
				said = ""
			case b.language == "sh":
				out, err := exec.Command("bash", "-eu", "-c", b.text).CombinedOutput()
				if said = string(out); err != nil {
					t.Errorf("%s:%d: %v: %s", page, b.line, err, out)
				}
			case b.language == "text" && said != "":
				if missing, ok := shown(b.text, said); !ok || plain(b.text) == "" {
					t.Errorf("%s:%d: not printed: %s\n%s", page, b.line, missing, said)
				}
			case b.language == "json" && !json.Valid([]byte(b.text)):
				t.Errorf("%s:%d: this is no JSON", page, b.line)
			case b.language == "toml" || b.language == "yaml":
				t.Errorf("%s:%d: a configuration that no program checks", page, b.line)
			}
		}
	}
}

// The table of byte orders is arithmetic.
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

func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(docs + "*.md")
	if err != nil || len(list) == 0 {
		t.Fatalf("the pages: %v, %v", list, err)
	}
	for i, path := range list {
		list[i] = filepath.Base(path)
	}
	return list
}

// program is the path of one in the directory OCEMS_BIN.
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

// until polls: what is waited for is done by another process.
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

// What differs from run to run. The order counts.
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

// shown reports the first line of want that is in no line of got after the one before. In want, "…" is any text.
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

// like reports whether a line is what want shows, but for what varies.
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

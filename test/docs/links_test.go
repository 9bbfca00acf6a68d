package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	inCode  = regexp.MustCompile("`[^`\n]*`")
)

// Every link inside the repository leads to an existing file, and to an existing heading if it names one.
func TestLinks(t *testing.T) {
	count := 0
	for _, page := range pages(t) {
		count += follow(t, root+page)
	}
	if count < 20 {
		t.Errorf("%d links found: too few", count)
	}
}

// The links also lead somewhere in a package and in an archive, which have the documentation without the source code.
func TestLinksOfPackages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "doc")
	if out, err := exec.Command("make", "-s", "-C", root, "documentation", "DOC="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "test"), 0o755); err != nil { // contributing leads to the tests' source code
		t.Fatal(err)
	}
	count := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			count += follow(t, path)
		}
		return err
	})
	if err != nil || count < 20 {
		t.Errorf("%d links found: %v", count, err)
	}
}

// follow checks the links of a page inside the repository and counts them.
func follow(t *testing.T, path string) (count int) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range link.FindAllStringSubmatch(inCode.ReplaceAllString(fenced.ReplaceAllString(string(text), ""), ""), -1) {
		if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
			continue
		}
		count++
		file, anchor, _ := strings.Cut(m[1], "#")
		target := path
		if file != "" {
			target = filepath.Join(filepath.Dir(path), file)
		}
		if _, err := os.Stat(target); err != nil {
			t.Errorf("%s: the link %s leads nowhere", path, m[1])
		} else if anchor != "" && !anchors(t, target)[anchor] {
			t.Errorf("%s: the link %s: %s has no such heading", path, m[1], target)
		}
	}
	return count
}

// anchors returns the anchors of a page's headings, by GitHub's rule.
func anchors(t *testing.T, page string) map[string]bool {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
		list[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(m[1]))] = true
	}
	return list
}

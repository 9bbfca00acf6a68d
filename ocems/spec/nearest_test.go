package spec

import (
	"slices"
	"testing"
)

// A candidate without similarity is not suggested.
func TestAlike(t *testing.T) {
	words := []string{"doctor", "status", "serve", "report", "--token-file", "--tls-cert", "--format", "--from"}
	for given, want := range map[string][]string{
		"doctr":           {"doctor"},
		"stauts":          {"status"},
		"rep":             {"report"},
		"formt":           {"--format"},
		"token":           {"--token-file"},
		"tls_cert":        {"--tls-cert"},
		"passwort-file":   nil,
		"xylophone":       nil,
		"frobnicate-file": nil,
		"":                nil,
		"--":              nil,
	} {
		if got := Alike(given, words); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

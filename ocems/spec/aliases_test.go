package spec

import (
	"strings"
	"testing"
)

// This test needs the unexported alias table, because if two units claim a spelling, the map keeps any one of them.
func TestAliasesAreOfOneUnit(t *testing.T) {
	folded := map[string]string{}
	for _, u := range units {
		f := foldUnit(u)
		if other, twice := folded[f]; twice {
			t.Errorf("catalogue units %q and %q both fold to %q", other, u, f)
		}
		folded[f] = u
	}
	for key, spellings := range unitSpellings {
		if !IsUnit(key) {
			t.Errorf("aliases of %q, which is not in the catalogue", key)
		}
		for _, s := range strings.Fields(spellings) {
			f := foldUnit(s)
			if other, twice := folded[f]; twice && other != key {
				t.Errorf("%q is both %q and %q", s, other, key)
			}
			folded[f] = key
			if got, err := ResolveUnit(s); err != nil || got != key {
				t.Errorf("ResolveUnit(%q) = %q, %v, want %q", s, got, err, key)
			}
		}
	}
}

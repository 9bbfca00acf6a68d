package spec

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

const nearestCount = 3

// Nearest returns at most three of the candidates, most similar first: the same except case and punctuation, then candidates
// that have its words or words with this beginning, then candidates that share a word, then by edit distance.
func Nearest(s string, candidates []string) []string {
	named := make([]named, len(candidates))
	for i, c := range candidates {
		named[i].key = c
	}
	return nearest(s, named)
}

// Alike returns those of Nearest that may be the correct form of s: at most about a third of the letters is wrong, or words
// of both make up half of the letters.
func Alike(s string, candidates []string) []string {
	return slices.DeleteFunc(Nearest(s, candidates), func(c string) bool {
		a, b, cost := letters(s), letters(c), compare(s, c)
		words := cost[0] < shares || cost[0] == shares && -2*cost[1] >= len(a)
		return a == "" || !words && 3*distance(a, b) > max(len(a), len(b))+2
	})
}

type named struct{ key, name string }

func nearestParameters(s string) []string {
	all := make([]named, len(parameters))
	for i, p := range parameters {
		all[i] = named{p.Key, p.Name}
	}
	return nearest(s, all)
}

// nearestUnits returns the unit that differs from s only in case; or units of the quantity that s measures; or units of which
// s is a spelling with few mistakes. A suggested unit of another quantity would be harmful.
func nearestUnits(s string) (out []string) {
	f := foldUnit(s)
	if key, ok := foldedUnits[f]; ok {
		return []string{key}
	}
	given := letters(s)
	if len(given) > 64 { // no unit is so long
		return nil
	}
	if quantity := quantityOf(s); quantity != "" {
		out = slices.Clone(families[quantity])
		like := func(u string) int { return min(distance(given, letters(u)), 2) } // less similar units stay in the order of use
		slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(like(a), like(b)) })
		return out[:min(nearestCount, len(out))]
	}
	most := len(given) / 4
	best := map[string]int{}
	for _, known := range []map[string]string{foldedUnits, unitAliases} {
		for spelling, key := range known {
			d := distance(given, letters(spelling))
			if before, found := best[key]; d <= most && len(given) > 1 && (!found || d < before) {
				best[key] = d
			}
		}
	}
	out = slices.SortedFunc(maps.Keys(best), func(a, b string) int { return cmp.Or(cmp.Compare(best[a], best[b]), cmp.Compare(a, b)) })
	return out[:min(nearestCount, len(out))]
}

func nearest(s string, all []named) []string {
	if r := []rune(s); len(r) > 64 { // no key is so long
		s = string(r[:64])
	}
	type scored struct {
		key  string
		cost unlikeness
	}
	var list []scored
	for _, n := range all {
		cost := compare(s, n.key)
		if n.name != "" {
			byName := compare(s, n.name)
			if byName[0] < differs { // if words match, the key counts more than its name
				byName[0]++
			}
			if slices.Compare(byName[:], cost[:]) < 0 {
				cost = byName
			}
		}
		list = append(list, scored{n.key, cost})
	}
	slices.SortStableFunc(list, func(a, b scored) int { return slices.Compare(a.cost[:], b.cost[:]) })
	out := make([]string, 0, nearestCount)
	for _, l := range list[:min(nearestCount, len(list))] {
		out = append(out, l.key)
	}
	return out
}

// unlikeness is 0 for equal words. It has the kind of likeness first, then the criteria within this kind, most important first.
type unlikeness [5]int

const (
	equal   = 0 // except case and punctuation
	begins  = 2 // each given word is a word of the candidate or begins one: "flow", "stack temp"
	within  = 4 // each word of the candidate is given: "cod_mgl"
	shares  = 6 // some words are the same: "outlet flow"
	differs = 8
)

func compare(given, candidate string) unlikeness {
	a, b := letters(given), letters(candidate)
	if a == b {
		return unlikeness{equal}
	}
	gave, has := words(given), words(candidate)
	first, inexact, shared := -1, 0, 0 // first: index of the candidate's word that equals the first given word or begins with it
	unmatched, left := 0, slices.Clone(has)
	for i, w := range gave {
		at := slices.Index(left, w)
		if at < 0 {
			at = slices.IndexFunc(left, func(h string) bool { return h != "" && strings.HasPrefix(h, w) })
			inexact++
		}
		if at < 0 {
			unmatched++
			continue
		}
		if i == 0 {
			first = at
		}
		if left[at] = ""; len(w) > 1 {
			shared += len(w)
		}
	}
	slices.Sort(gave)
	slices.Sort(has)
	edits := distance(strings.Join(gave, ""), strings.Join(has, "")) // the words in any order
	switch {
	case unmatched == 0 && len(gave) > 0:
		return unlikeness{begins, len(has) - len(gave), inexact, min(max(first, 0), 1), len(b)}
	case len(b) > 1 && !slices.ContainsFunc(has, func(h string) bool { return !slices.Contains(gave, h) }):
		return unlikeness{within, -len(b), edits}
	case shared > 0:
		return unlikeness{shares, -shared, edits}
	}
	return unlikeness{differs, distance(a, b)}
}

// words returns the folded words of s.
func words(s string) []string {
	return strings.FieldsFunc(fold(strings.Map(func(r rune) rune {
		if strings.ContainsRune(separators, r) {
			return '/'
		}
		return r
	}, s)), func(r rune) bool { return r == '/' })
}

// letters returns the words of s joined.
func letters(s string) string { return strings.Join(words(s), "") }

const separators = "_- .()&/\u00a0\t"

// fold is foldUnit for any text, where "per" is not a division, as in "temperature".
func fold(s string) string {
	return unitFolder.Replace(strings.ToLower(unitFolder.Replace(strings.ToLower(s))))
}

// distance returns the Levenshtein distance of two words.
func distance(a, b string) int {
	ra, rb := []rune(a), []rune(b)
	row := make([]int, len(rb)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range ra {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range rb {
			change := diagonal
			if x != y {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(rb)]
}

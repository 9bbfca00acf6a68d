package spec

import (
	"cmp"
	"slices"
	"strings"
)

const nearestCount = 3

// Nearest returns at most three of the candidates, those most like s first: the same but for case and punctuation,
// then those that hold s or are held by it, then by edit distance.
func Nearest(s string, candidates []string) []string {
	named := make([]named, len(candidates))
	for i, c := range candidates {
		named[i].key = c
	}
	return nearest(s, named)
}

type named struct{ key, name string }

func nearestParameters(s string) []string {
	all := make([]named, len(parameters))
	for i, p := range parameters {
		all[i] = named{p.Key, p.Name}
	}
	return nearest(s, all)
}

func nearestUnits(s string) []string {
	out := make([]string, 0, nearestCount)
	if key, ok := foldedUnits[foldUnit(s)]; ok {
		out = append(out, key)
	}
	for _, u := range Nearest(s, units) {
		if len(out) < nearestCount && !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

func nearest(s string, all []named) []string {
	want := letters(s)
	type scored struct {
		key  string
		cost int
	}
	var list []scored
	for _, n := range all {
		cost := likeness(want, letters(n.key))
		if n.name != "" {
			cost = min(cost, likeness(want, letters(n.name)))
		}
		list = append(list, scored{n.key, cost})
	}
	slices.SortStableFunc(list, func(a, b scored) int { return cmp.Compare(a.cost, b.cost) })
	out := make([]string, 0, nearestCount)
	for _, l := range list[:min(nearestCount, len(list))] {
		out = append(out, l.key)
	}
	return out
}

// likeness is 0 for equal words and grows with their difference. One word within the other costs less than a change.
func likeness(a, b string) int {
	if a == b {
		return 0
	}
	if a != "" && b != "" && (strings.Contains(b, a) || strings.Contains(a, b)) {
		return 1 + abs(len(a)-len(b))/2
	}
	return 2 * distance(a, b)
}

func abs(n int) int { return max(n, -n) }

// letters keeps what identifies a word: letters, digits, % and /, in lower case and without superscripts.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("_- .()&", r) {
			return -1
		}
		return r
	}, foldUnit(s))
}

// distance is the Levenshtein distance of two words.
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

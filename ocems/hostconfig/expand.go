package hostconfig

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// expandYAML puts ${env:NAME}, ${env:NAME:-default}, ${NAME}, ${file:path} and ${yaml:text} in as the collector does: in
// values only, the result again, and $$ becomes $. What another provider would give is left as it is and said so.
func (r *reader) expandYAML(n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			r.expandYAML(n.Content[i])
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, c := range n.Content {
			r.expandYAML(c)
		}
	case yaml.ScalarNode:
		if strings.Contains(n.Value, "$") {
			r.expandScalar(n)
		}
	}
}

// expanded is a style, of which YAML has none like it, of a value that was put in whole: it may be of any type.
const expanded yaml.Style = 1 << 30

func (r *reader) expandScalar(n *yaml.Node) {
	const most = 1000 // expansions of one value, as in the collector
	for range most {
		uri := findURI(n.Value)
		if uri == "" {
			break
		}
		text, ok := r.retrieve(n, uri)
		if !ok {
			return
		}
		if uri != n.Value {
			n.Value = strings.ReplaceAll(n.Value, uri, text)
			continue
		}
		// A value that is all of it may be of any type; where text is wanted, it is taken as it is written.
		var got yaml.Node
		if err := yaml.Unmarshal([]byte(text), &got); err == nil && got.Kind == yaml.DocumentNode && got.Content[0].Kind != yaml.ScalarNode {
			line := n.Line
			*n = *got.Content[0]
			n.Line = line
			r.expandYAML(n)
			return
		}
		n.Value, n.Style, n.Tag = text, expanded, "!!str"
		if got.Kind == yaml.DocumentNode {
			n.Tag = got.Content[0].ShortTag()
		} else if text == "" {
			n.Tag = "!!null"
		}
	}
	n.Value = strings.ReplaceAll(n.Value, "$$", "$")
}

// findURI finds the first ${...} that is not escaped by a $ before it, the innermost where they are nested.
func findURI(s string) string {
	end := strings.Index(s, "}")
	if end < 0 {
		return ""
	}
	begin := strings.LastIndex(s[:end+1], "${")
	if begin < 0 {
		return findURI(s[end+1:])
	}
	escapes := 0
	for i := begin - 1; i >= 0 && s[i] == '$'; i-- {
		escapes++
	}
	if escapes%2 == 1 {
		return ""
	}
	return s[begin : end+1]
}

var environmentName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (r *reader) retrieve(n *yaml.Node, uri string) (text string, ok bool) {
	scheme, rest, found := strings.Cut(uri[2:len(uri)-1], ":")
	if !found {
		scheme, rest = "env", scheme
	} else if environmentName.MatchString(scheme) && strings.HasPrefix(rest, "-") { // ${NAME:-default}: the collector wants env: before it
		r.fault(Failed, fmt.Sprintf("write ${env:%s:%s}", scheme, rest), "line %d: ${%s:-...} is no environment variable to the collector", n.Line, scheme)
		return "", false
	}
	switch scheme {
	case "env":
		name, byDefault, has := strings.Cut(rest, ":-")
		if !environmentName.MatchString(name) {
			r.fault(Failed, "write ${env:NAME} or ${env:NAME:-default}", "line %d: environment variable %q has an invalid name", n.Line, name)
			return "", false
		}
		v, set := r.lookup(name)
		if !set && !has {
			r.cfg.Unset = append(r.cfg.Unset, name)
		}
		if !set {
			v = byDefault
		}
		return v, true
	case "file":
		data, err := os.ReadFile(rest)
		if err != nil {
			r.fault(Failed, "mend the path or the permissions", "line %d: %v", n.Line, err)
			return "", false
		}
		return string(data), true
	case "yaml":
		return rest, true
	}
	r.fault(Unchecked, "", "line %d: ${%s:...} is not read here", n.Line, scheme)
	return "", false
}

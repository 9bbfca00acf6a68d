package hostconfig

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/influxdata/toml/ast"
)

// isOwn reports that a file holds nothing but [[outputs.ocems]] without Telegraf's own options.
func isOwn(root *ast.Table) bool {
	if !isOwnGroup(root) {
		return false
	}
	return !slices.ContainsFunc(blocksOf(root, nil), func(b *telegrafBlock) bool {
		return b.table == nil || slices.ContainsFunc(hostOptions, func(key string) bool { return b.table.Fields[key] != nil })
	})
}

func isOwnGroup(root *ast.Table) bool {
	group, ok := root.Fields["outputs"].(*ast.Table)
	return ok && len(root.Fields) == 1 && len(group.Fields) == 1 && group.Fields["ocems"] != nil
}

// external reads a file of ocems-telegraf, which holds [[outputs.ocems]] and nothing else.
func (t *telegrafReader) external(s source, root *ast.Table) {
	if !isOwnGroup(root) {
		t.fault(Failed, "edit "+s.name, "%s: only [[outputs.ocems]] belongs into a file of ocems-telegraf", s.name)
	}
	t.variables(root)
	for _, b := range blocksOf(root, s.data) {
		if b.kind != "outputs" || b.name != "ocems" {
			continue
		}
		if err := eachString(b.table, externalVariable); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				do := "edit " + s.name
				if strings.Contains(line, "is not set") {
					do = "set the variable, or run this with the environment of the service: --env-file FILE"
				}
				t.fault(Failed, do, "%s: %s", s.name, line)
			}
		}
		t.ownBlock(s, b, External)
		o := t.cfg.Outputs[len(t.cfg.Outputs)-1]
		for _, key := range hostOptions {
			if b.table.Fields[key] != nil {
				o.failed("%q is Telegraf's own: set it in the [[outputs.execd]] block", key)
			}
		}
	}
}

var (
	variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)
	lone     = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)$`)
)

// externalVariable finds in a value what ocems-telegraf refuses beyond what Telegraf does, in its words.
func externalVariable(s *ast.String) error {
	if m := lone.FindStringSubmatch(s.Value); m != nil {
		return fmt.Errorf("write ${%s}; $%s alone is not expanded", m[1], m[1])
	}
	if strings.Contains(s.Value, "@{") {
		return errors.New("secret stores are Telegraf's; use ${VARIABLE} or a key that ends with _file")
	}
	for _, m := range variable.FindAllStringSubmatch(s.Value, -1) {
		if _, set := os.LookupEnv(m[1]); !set && m[2] == "" {
			return fmt.Errorf("the environment variable %s is not set", m[1])
		}
	}
	return nil
}

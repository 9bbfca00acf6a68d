package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// GitHub's workflows run only targets of the Makefile and .ci/run, which also run elsewhere.
func TestWorkflows(t *testing.T) {
	makefile, err := os.ReadFile(root + "Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(root + ".github/workflows/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("the workflows: %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w struct {
			Jobs map[string]struct{ Steps []struct{ Run, Uses string } }
		}
		if err := yaml.Unmarshal(text, &w); err != nil || len(w.Jobs) == 0 {
			t.Errorf("%s: no jobs: %v", file, err)
		}
		for _, job := range w.Jobs {
			for _, step := range job.Steps {
				target, isMake := strings.CutPrefix(step.Run, "make ")
				target, _, _ = strings.Cut(target, " ")
				known := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(makefile)
				if step.Uses == "" && step.Run != ".ci/run" && !(isMake && target != "" && known) {
					t.Errorf("%s: %q is neither a target of the Makefile nor .ci/run", file, step.Run)
				}
			}
		}
	}
}

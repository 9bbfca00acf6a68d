package hosts

import (
	"flag"
	"os"
	"testing"
)

// TestMain runs more tests in parallel than there are processors, because they mostly wait for windows to close.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

package wallclock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestClock sets off the clock of this program, started again, which says its wall time and for how long it has run.
func TestClock(t *testing.T) {
	const child = "OCEMS_WALLCLOCK_CHILD"
	if os.Getenv(child) != "" {
		for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			fmt.Println(time.Now().UnixMilli(), time.Since(begun).Milliseconds())
		}
	}
	c := exec.Command(os.Args[0], "-test.run=^TestClock$")
	c.Env = append(os.Environ(), child+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	k, err := Start(c, -3*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		k.Close()
	})
	lines := bufio.NewScanner(out)
	for _, offset := range []time.Duration{-3 * time.Hour, 5 * time.Hour, 0} {
		k.Set(offset)
		for range 20 { // some are older
			if !lines.Scan() {
				t.Fatal("it has ended")
			}
		}
		var wall, ran int64
		if _, err := fmt.Sscan(lines.Text(), &wall, &ran); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(time.UnixMilli(wall)) - offset; off.Abs() > time.Minute {
			t.Errorf("the process's clock is %s from where it was set", off)
		}
		if ran < 0 || ran > time.Minute.Milliseconds() {
			t.Errorf("its monotonic clock says %d ms", ran)
		}
	}
}

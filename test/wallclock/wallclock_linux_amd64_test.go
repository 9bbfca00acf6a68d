package wallclock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestClock starts this program again, changes its clock, and reads its wall time and running time from its output.
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
		for range 20 { // some lines are older
			if !lines.Scan() {
				t.Fatal("it has ended")
			}
		}
		var wall, ran int64
		if _, err := fmt.Sscan(lines.Text(), &wall, &ran); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(time.UnixMilli(wall)) - offset; off.Abs() > time.Minute {
			t.Errorf("the process's clock differs by %s from the set time", off)
		}
		if ran < 0 || ran > time.Minute.Milliseconds() {
			t.Errorf("its monotonic clock says %d ms", ran)
		}
	}
}

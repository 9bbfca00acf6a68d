package delivery

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

// If a hub's key is refused, thousands of devices are held within seconds. One check covers all outages, so few checks
// are needed.
func TestOutagesOfAHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Delivery{wake: make(signal, 1), noted: make(signal, 1)}
		d.cfg.Trail = &audit.Trail{}
		for i := range 5000 {
			d.mu.Lock()
			d.outageBegins(fmt.Sprint(i), time.Now(), "115", "")
			d.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		looks := 0
		for wait := d.checkOutages(); wait != forever; wait = d.checkOutages() {
			looks++
			time.Sleep(wait)
		}
		if looks > 10 {
			t.Errorf("looked %d times", looks)
		}
	})
}

package hosts

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/test/board"
)

// TestHangingDevices: with max_concurrency 1, the slots of one device arrive while the requests of three others hang.
func TestHangingDevices(t *testing.T) {
	t.Parallel()
	const slots = 4
	x := row{name: "hanging", devices: slices.Repeat(cod(func(*parameter) {}), 4)}
	for n := range slots {
		x.want = append(x.want, want{device: "hanging.4", slot: n + 1, value: 100})
	}
	x.complete()
	var batch []reading
	for i := range x.devices {
		d := &x.devices[i]
		d.parameters[0].tags = map[string]string{tag: d.id}
		batch = append(batch, tagged(each(1, times(15*slots-1, 100)...), tag, d.id)...)
	}
	var wanted []string
	for _, w := range x.want {
		wanted = append(wanted, w.String())
	}
	for name, start := range adapters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plant{devices: x.devices, options: map[string]any{"max_concurrency": 1, "settle": "1ms"}}
			b := board.New(t, p.stations()...)
			for _, d := range p.devices[:3] {
				w := httptest.NewRecorder()
				b.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost/faults", strings.NewReader(`{"device":"`+d.id+`","latency":"1m"}`)))
				require.Less(t, w.Code, 300, w.Body)
			}
			at := newPlace(t, b.URL, b.PublicKey)
			newAdapter(t, at, start(p, at)).send(batch)
			end := time.Now().Add(20 * time.Second)
			for len(b.Received().Readings) < slots && time.Now().Before(end) {
				time.Sleep(20 * time.Millisecond)
			}
			require.ElementsMatch(t, wanted, received(b))
		})
	}
}

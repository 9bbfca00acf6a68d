package delivery_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/ocems/store"
)

// peephole is a store through which a test damages values.
type peephole struct {
	store.Store
	spoil func(key string, value []byte) []byte
}

func (p *peephole) Get(ctx context.Context, key string) ([]byte, error) {
	v, err := p.Store.Get(ctx, key)
	if p.spoil != nil {
		v = p.spoil(key, append([]byte(nil), v...))
	}
	return v, err
}

func TestQueues(t *testing.T) {
	disk := &peephole{Store: store.NewMemory()}
	if queues, err := delivery.Queues(t.Context(), disk); queues != nil || err != nil {
		t.Fatal(queues, err)
	}
	d, err := delivery.New(t.Context(), delivery.Config{Delivery: options.DefaultDelivery(), Client: &http.Client{}, Store: disk, Logger: slog.New(slog.DiscardHandler),
		Lookup: func(string) (delivery.Target, bool) { return delivery.Target{}, false }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(t.Context())
	end, _ := spec.Window(time.Now(), spec.SlotLength)
	before := end.Add(-spec.SlotLength)
	one := func(device string, at time.Time, flag spec.Flag) payload.Record {
		return payload.Record{StationID: "s", DeviceID: device, Readings: []payload.Reading{{Parameter: "so2", Value: 1.5, Unit: "ppm", Stamp: at, Flag: flag}}}
	}
	if err := d.Put(t.Context(), []payload.Record{one("dev_2", end, 'U'), one("dev_2", before, 'U'), one("dev_1", end, 'U'), one("dev_1", end, 'C')}); err != nil {
		t.Fatal(err)
	}
	queues, err := delivery.Queues(t.Context(), disk)
	if want := []delivery.Queue{{Device: "dev_1", Stamps: []time.Time{end}}, {Device: "dev_2", Stamps: []time.Time{before, end}}}; err != nil || !reflect.DeepEqual(queues, want) {
		t.Errorf("%v, %+v, want %+v", err, queues, want)
	}

	latitude := 19.076
	records, err := delivery.Requests(t.Context(), disk, "dev_1", end, delivery.Target{StationID: "s1", DeviceID: "dev_1", Latitude: &latitude})
	if err != nil || len(records) != 2 {
		t.Fatalf("%v, %+v", err, records)
	}
	for i, flag := range []string{"U", "C"} {
		text, err := records[i].Marshal()
		if err != nil || !strings.Contains(string(text), `"flag":"`+flag+`"`) || !strings.Contains(string(text), `"stationId":"s1"`) || !strings.Contains(string(text), `"latitude":19.076`) {
			t.Errorf("%v, %s", err, text)
		}
	}
	if _, err := delivery.Requests(t.Context(), disk, "dev_1", before, delivery.Target{}); err == nil {
		t.Error("a request of a slot that does not wait")
	}

	disk.spoil = func(key string, v []byte) []byte {
		if strings.HasSuffix(key, "/dev_1") && len(v) > 0 {
			v[3] ^= 0xff
		}
		return v
	}
	queues, err = delivery.Queues(t.Context(), disk)
	if err != nil || len(queues) != 2 || queues[0].Err == nil || len(queues[0].Stamps) != 0 || queues[1].Err != nil || !strings.Contains(queues[0].Err.Error(), "dev_1") {
		t.Errorf("%v, %+v", err, queues)
	}
	if _, err := delivery.Requests(t.Context(), disk, "dev_1", end, delivery.Target{}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	broken := errors.New("a disk that is gone")
	if _, err := delivery.Queues(t.Context(), gone{error: broken}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func (p *peephole) Range(ctx context.Context, prefix string, visit func(string, []byte) error) error {
	return p.Store.Range(ctx, prefix, func(key string, value []byte) error {
		if p.spoil != nil {
			value = p.spoil(key, append([]byte(nil), value...))
		}
		return visit(key, value)
	})
}

type gone struct {
	store.Store
	error
}

func (g gone) Get(context.Context, string) ([]byte, error) { return nil, g.error }
func (g gone) Range(context.Context, string, func(string, []byte) error) error {
	return g.error
}

package delivery_test

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/spec"
)

// peephole is a store through which a test spoils values.
type peephole struct {
	delivery.Store
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
	store := &peephole{Store: delivery.NewMemoryStore()}
	if queues, err := delivery.Queues(t.Context(), store, []string{"dev_1"}); queues != nil || err != nil {
		t.Fatal(queues, err)
	}
	d, err := delivery.New(t.Context(), delivery.Config{Endpoint: "http://127.0.0.1:1/", Client: &http.Client{}, Store: store,
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
	if err := d.Put(t.Context(), one("dev_2", end, 'U'), one("dev_2", before, 'U'), one("dev_1", end, 'U'), one("dev_1", end, 'C')); err != nil {
		t.Fatal(err)
	}
	queues, err := delivery.Queues(t.Context(), store, []string{"dev_1", "dev_3"})
	if want := []delivery.Queue{{Device: "dev_1", Stamps: []time.Time{end}}, {Device: "dev_2", Stamps: []time.Time{before, end}}}; err != nil || !reflect.DeepEqual(queues, want) {
		t.Errorf("%v, %+v, want %+v", err, queues, want)
	}

	latitude := 19.076
	records, err := delivery.Requests(t.Context(), store, "dev_1", end, delivery.Target{StationID: "s1", Latitude: &latitude})
	if err != nil || len(records) != 2 {
		t.Fatalf("%v, %+v", err, records)
	}
	for i, flag := range []string{"U", "C"} {
		text, err := records[i].Marshal()
		if err != nil || !strings.Contains(string(text), `"flag":"`+flag+`"`) || !strings.Contains(string(text), `"stationId":"s1"`) || !strings.Contains(string(text), `"latitude":19.076`) {
			t.Errorf("%v, %s", err, text)
		}
	}
	if _, err := delivery.Requests(t.Context(), store, "dev_1", before, delivery.Target{}); err == nil {
		t.Error("a request of a slot that does not wait")
	}

	// The list of devices is lost, and an index cut: the rest is found, and the device named.
	store.spoil = func(key string, v []byte) []byte {
		switch {
		case key == "outbox/devices":
			return nil
		case strings.HasSuffix(key, "index/dev_2"):
			v[len(v)-1]++
		}
		return v
	}
	queues, err = delivery.Queues(t.Context(), store, []string{"dev_1", "dev_2"})
	if err != nil || len(queues) != 2 || queues[0].Err != nil || queues[1].Err == nil || !strings.Contains(queues[1].Err.Error(), "dev_2") {
		t.Errorf("%v, %+v", err, queues)
	}
	store.spoil = func(key string, v []byte) []byte {
		if strings.Contains(key, "slot/") && len(v) > 0 {
			v[3] ^= 0xff
		}
		return v
	}
	if _, err := delivery.Requests(t.Context(), store, "dev_1", end, delivery.Target{}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	broken := errors.New("a disk that is gone")
	if _, err := delivery.Queues(t.Context(), gone{broken}, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type gone struct{ error }

func (g gone) Get(context.Context, string) ([]byte, error) { return nil, g.error }

package audit_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

// The readings of one slot are found among many, whatever the length of the lines and wherever a block of the file ends.
func TestDelivered(t *testing.T) {
	trail, err := audit.Open(filepath.Join(t.TempDir(), "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	entry := func(o audit.Outcome, device string, slot int, value float64, detail string) audit.Entry {
		stamp := at.Add(time.Duration(slot) * 15 * time.Minute)
		return audit.Entry{Time: stamp.Add(time.Minute), Outcome: o, Device: device, Stamp: stamp.UnixMilli(), Detail: detail,
			Readings: []audit.Reading{{Parameter: "cod", Value: value, Unit: "mg/L", Flag: "U"}}}
	}
	var all []audit.Entry
	for i := range 2000 {
		all = append(all, entry(audit.Delivered, "a", i, float64(i), fmt.Sprintf("%0*d", i%700, 0)), entry(audit.Delivered, "b", i, -1, ""))
	}
	all = append(all, entry(audit.Expired, "a", 1999, 7, ""), entry(audit.Delivered, "a", 1999, 8, ""))
	if err := trail.Append(all...); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		device string
		slot   int
		want   []float64
	}{{"a", 1999, []float64{8, 1999}}, {"a", 1234, []float64{1234}}, {"b", 7, []float64{-1}}, {"a", 0, []float64{0}}, {"c", 7, nil}, {"a", 2000, nil}, {"a", -100, nil}} {
		found, err := trail.Delivered(c.device, at.Add(time.Duration(c.slot)*15*time.Minute).UnixMilli())
		var got []float64
		for _, r := range found {
			got = append(got, r.Value)
		}
		if err != nil || len(got) != len(c.want) || len(got) == 1 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s, slot %d: %v, %v, want %v", c.device, c.slot, got, err, c.want)
		}
	}
}

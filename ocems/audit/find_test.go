package audit_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
)

// The readings of one slot are found among many, for any length of lines and any position of a block's end.
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

// Recent reads recent lines once, across closed files, and then only new ones; after a new file it reads all again.
func TestRecent(t *testing.T) {
	trail, err := audit.Open(filepath.Join(t.TempDir(), "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	add := func(device string, from, slots int) {
		t.Helper()
		if err := trail.Append(day(device, from, slots)...); err != nil {
			t.Fatal(err)
		}
	}
	const slots = 3000 // more than a block has
	for from := 0; from < slots; from += 10 {
		add("a", from, 10)
		add("b", from, 10)
		if from+10 == slots/3 {
			turn(t, trail)
		}
	}
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(1500 * 15 * time.Minute)
	var at audit.Position
	seen, anew := map[int64]int{}, 0
	read := func(wantNew, wantAnew int) {
		t.Helper()
		before := len(seen)
		if at, err = audit.Recent(trail.Path(), "a", since, at, func() { anew++; clear(seen); before = 0 }, func(e *audit.Entry) {
			if e.Device != "a" || len(e.Readings) != 7 {
				t.Errorf("a line of %q with %d readings", e.Device, len(e.Readings))
			}
			seen[e.Stamp]++
		}); err != nil {
			t.Fatal(err)
		}
		if len(seen)-before != wantNew || anew != wantAnew {
			t.Errorf("%d new lines, want %d; read anew %d times, want %d", len(seen)-before, wantNew, anew, wantAnew)
		}
		for stamp, n := range seen {
			if n != 1 {
				t.Fatalf("%d was read %d times", stamp, n)
			}
		}
	}
	first := func() {
		t.Helper()
		if at, err = audit.Recent(trail.Path(), "a", since, at, func() { anew++; clear(seen) }, func(e *audit.Entry) { seen[e.Stamp]++ }); err != nil {
			t.Fatal(err)
		}
		for i := 1500; i < slots; i++ {
			if seen[since.Add(time.Duration(i-1500)*15*time.Minute).UnixMilli()] != 1 {
				t.Fatalf("slot %d was not read once", i)
			}
		}
		if len(seen) >= slots {
			t.Errorf("%d lines were read, also those of long ago", len(seen))
		}
	}
	first()
	read(0, 1)
	add("b", slots, 5)
	read(0, 1)
	add("a", slots, 5)
	read(5, 1)
	info, err := os.Stat(trail.Path())
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(trail.Path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"n":99999,"device":"a"`); err != nil { // a line that is being written
		t.Fatal(err)
	}
	file.Close()
	read(0, 1)
	if err := os.Truncate(trail.Path(), info.Size()); err != nil {
		t.Fatal(err)
	}
	turn(t, trail)
	first()
	if anew != 2 {
		t.Errorf("read anew %d times after a new file, want 2", anew)
	}
	if _, err := audit.Recent(filepath.Join(t.TempDir(), "none.jsonl"), "a", since, audit.Position{}, func() {}, func(*audit.Entry) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a trail that is not there: %v", err)
	}
}

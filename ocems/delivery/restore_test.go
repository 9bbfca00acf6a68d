package delivery_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
)

// openStore is a store that a test can look into, damage, and fill up.
type openStore struct {
	mu   sync.Mutex
	m    map[string][]byte
	full bool
	bad  string // a key on a bad sector
}

func newOpenStore() *openStore { return &openStore{m: map[string][]byte{}} }

func (s *openStore) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == s.bad {
		return nil, errors.New("input/output error")
	}
	return s.m[key], nil
}

func (s *openStore) spoil(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = key
}

func (s *openStore) Batch(_ context.Context, ops []delivery.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return errors.New("no space left on device")
	}
	for _, op := range ops {
		if op.Value == nil {
			delete(s.m, op.Key)
		} else {
			s.m[op.Key] = op.Value
		}
	}
	return nil
}

func (s *openStore) fill(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *openStore) set(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value == nil {
		delete(s.m, key)
	} else {
		s.m[key] = value
	}
}

// keys returns the keys with a prefix, in order.
func (s *openStore) keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(s.m)) {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	return out
}

func (s *openStore) copy() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m)
}

func both() []string { return []string{"a", "b"} }

// kept fills an outbox with three slots of device a and two of b, stops it, and lets damage do its work.
func kept(t *testing.T, name string, devices func() []string, f func(*plant, *openStore)) {
	store := newOpenStore()
	run(t, name, registry, func(c *delivery.Config) { c.Store, c.Devices = store, devices }, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 3; i++ {
			p.put("a", at(15*i), cod(float64(i)))
		}
		z := so2(0)
		z.Flag = 'Z'
		p.put("b", at(15).Add(30*time.Second), z)
		p.put("b", at(30), so2(2))
		p.stop()
		f(p, store)
	})
}

func TestDamagedStoreLosesNothingThatCanBeRead(t *testing.T) {
	slotOfA := func(s *openStore) string { return s.keys("outbox/slot/a/")[1] }
	for _, c := range []struct {
		name    string
		key     func(*openStore) string
		value   func(was []byte) []byte // nil: the key is lost
		devices func() []string
		waiting int
	}{
		{"list of garbage", func(*openStore) string { return "outbox/devices" }, func([]byte) []byte { return []byte("garbage") }, both, 5},
		{"list cut", func(*openStore) string { return "outbox/devices" }, func(b []byte) []byte { return b[:7] }, both, 5},
		{"list empty", func(*openStore) string { return "outbox/devices" }, func([]byte) []byte { return []byte{} }, both, 5},
		{"list lost", func(*openStore) string { return "outbox/devices" }, nil, both, 5},
		{"list that can still be read", func(*openStore) string { return "outbox/devices" },
			func(b []byte) []byte { return append(slices.Clone(b[:len(b)-1]), b[len(b)-1]^1) }, nil, 5},
		{"index of garbage", func(*openStore) string { return "outbox/index/a" }, func([]byte) []byte { return []byte("garbage") }, nil, 5},
		{"index cut", func(*openStore) string { return "outbox/index/a" }, func(b []byte) []byte { return b[:5] }, nil, 5},
		{"index empty", func(*openStore) string { return "outbox/index/b" }, func([]byte) []byte { return []byte{} }, nil, 5},
		{"index lost", func(*openStore) string { return "outbox/index/b" }, nil, nil, 5},
		{"slot of garbage", slotOfA, func([]byte) []byte { return []byte("garbage") }, nil, 4},
		{"slot empty", slotOfA, func([]byte) []byte { return []byte{} }, nil, 4},
		{"slot altered", slotOfA, func(b []byte) []byte { b = slices.Clone(b); b[10] ^= 1; return b }, nil, 4},
	} {
		kept(t, c.name, c.devices, func(p *plant, s *openStore) {
			key := c.key(s)
			var damaged []byte
			if c.value != nil {
				damaged = c.value(s.copy()[key])
			}
			s.set(key, damaged)
			p.log.Reset()
			p.start()
			p.want("waiting", p.d.Stats().Slots, c.waiting)
			if copies := s.keys("damaged/"); c.value != nil {
				if len(copies) != 1 || !strings.HasPrefix(copies[0], "damaged/"+key+"/") || !bytes.Equal(s.copy()[copies[0]], damaged) {
					t.Errorf("kept as %q, want the value under damaged/%s/", copies, key)
				}
				line := p.log.String()
				if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "key="+key) || !strings.Contains(line, fmt.Sprint("bytes=", len(damaged))) || strings.Contains(line, "garbage") {
					t.Errorf("the log does not name key and size alone: %s", line)
				}
			} else if len(copies) != 0 {
				t.Errorf("what is lost is kept as %q", copies)
			}
			notes := 0
			p.trailOf(func(e audit.Entry) {
				if e.Outcome == audit.Recovered && strings.Contains(e.Detail, key) {
					notes++
				}
			})
			p.want("notes in the trail", notes, len(s.keys("damaged/")))
			p.stop()
			p.log.Reset()
			p.net.unplug(false)
			p.start()
			time.Sleep(time.Minute)
			if strings.Contains(p.log.String(), "damaged") {
				t.Errorf("the second start still finds damage: %s", p.log)
			}
			want := []string{"a/cod@00:15:00=1U", "a/cod@00:30:00=2U", "a/cod@00:45:00=3U", "b/so2@00:30:00=2U"} // Z is not scheduled
			if c.waiting == 4 {
				want = slices.Delete(want, 1, 2)
			}
			got := p.received()
			slices.Sort(got)
			p.want("received", got, want)
			p.want("left in the store", len(s.keys("outbox/slot/")), 0)
			p.stop()
			p.start()
			p.want("waiting after all", p.d.Stats().Slots, 0)
		})
	}
}

func (p *plant) trailOf(visit func(audit.Entry)) {
	p.t.Helper()
	text, err := os.ReadFile(p.trail)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := audit.Verify(bytes.NewReader(text), func(e audit.Entry) {
		if e.Outcome == "" {
			p.t.Errorf("line %d has no outcome", e.Number)
		}
		visit(e)
	}); err != nil {
		p.t.Fatal(err)
	}
}

// Whatever byte of the store changes: the start goes on, and no slot is lost but the one that was hit.
func TestEveryAlteredByteOfTheStore(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		whole := s.copy()
		for _, key := range slices.Sorted(maps.Keys(whole)) {
			for i := range whole[key] {
				for _, change := range []byte{0x01, 0x10, 0xff} {
					s.m = maps.Clone(whole)
					s.m[key] = slices.Clone(s.m[key])
					s.m[key][i] ^= change
					p.log.Reset()
					p.start()
					least := 5
					switch {
					case strings.HasPrefix(key, "outbox/slot/"):
						least = 4
					case key == "outbox/devices":
						least = 0 // without a registry a name can be lost until its device has new readings
					}
					if n := p.d.Stats().Slots; n < least || n > 5 {
						t.Fatalf("byte %d of %s: %d slots wait, want %d\n%s", i, key, n, least, p.log)
					}
					if len(s.keys("damaged/"+key)) != 1 {
						t.Fatalf("byte %d of %s: the value is not kept", i, key)
					}
					p.stop()
				}
			}
		}
	})
}

// A device that a lost list named is found again when it has new readings: they must not replace what waits.
func TestLostListIsHealedByTheNextPut(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		s.set("outbox/devices", []byte("garbage"))
		p.start()
		p.want("waiting", p.d.Stats().Slots, 0)
		p.put("a", at(60), cod(4))
		p.want("waiting", p.d.Stats().Slots, 4)
		p.stop()
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/cod@00:30:00=2U", "a/cod@00:45:00=3U", "a/cod@01:00:00=4U"})
	})
}

// What was damaged while the outbox ran neither stops other readings nor comes back.
func TestDamageInTheRunningStore(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		p.start()
		keys := s.keys("outbox/slot/a/")
		s.set(keys[0], []byte("garbage"))
		s.set(keys[2], []byte("garbage"))
		s.fill(true)
		for range 2 {
			if err := p.d.Put(context.Background(), payload.Record{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{
				{Parameter: "bod", Value: 7, Unit: "mg/L", Flag: 'U', Stamp: at(45)}}}); err == nil {
				t.Error("a full store took readings")
			}
		}
		s.fill(false)
		p.put("a", at(45), bod(7))
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		got := p.received()
		slices.Sort(got)
		p.want("received", got, []string{"a/bod@00:45:00=7U", "a/cod@00:30:00=2U", "b/so2@00:30:00=2U"})
		p.want("kept", len(s.keys("damaged/outbox/slot/a/")), 2)
		p.want("left in the store", len(s.keys("outbox/slot/")), 0)
		p.want("notes in the log", strings.Count(p.log.String(), "a value of the outbox is damaged"), 2)
		notes := 0
		p.trailOf(func(e audit.Entry) {
			if e.Outcome == audit.Recovered {
				notes++
			}
		})
		p.want("notes in the trail", notes, 2)
	})
}

func TestDamageInAFullStore(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		s.set("outbox/index/a", []byte("garbage"))
		s.fill(true)
		p.start()
		p.want("waiting", p.d.Stats().Slots, 5)
		p.want("the damaged index stays where it is", string(s.copy()["outbox/index/a"]), "garbage")
		s.fill(false)
		p.put("b", at(60), so2(3))
		p.want("kept", len(s.keys("damaged/outbox/index/a/")), 1)
		notes := 0
		p.trailOf(func(e audit.Entry) {
			if e.Outcome == audit.Recovered {
				notes++
			}
		})
		p.want("notes", notes, 1)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.put("b", at(45), so2(4))
		time.Sleep(time.Minute)
		p.stop()
		p.start()
		p.want("waiting after all", p.d.Stats().Slots, 0)
	})
}

func TestNewerStateIsLeftAlone(t *testing.T) {
	newer := func([]byte) []byte {
		b := []byte{3, 'x'}
		return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	for _, key := range []string{"outbox/devices", "outbox/index/a", "outbox/slot/a/"} {
		kept(t, key, both, func(p *plant, s *openStore) {
			s.set("outbox/index/b", []byte("garbage")) // met before, and written no more than the rest
			s.set(s.keys(key)[0], newer(nil))
			before := s.copy()
			d, err := delivery.New(context.Background(), p.cfg)
			if err == nil {
				d.Close(context.Background())
			}
			if err == nil || !strings.Contains(err.Error(), "newer version") {
				t.Fatalf("New = %v, want an error that says that a newer version wrote the state", err)
			}
			if !maps.EqualFunc(before, s.copy(), bytes.Equal) {
				t.Error("the newer state was changed")
			}
		})
	}
}

// Version 1 had no checksums, and a bare list of devices.
func TestStateOfVersion1IsRead(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		for key, value := range s.copy() {
			if value = slices.Clone(value[:len(value)-4]); key == "outbox/devices" {
				value = value[1:]
			} else {
				value[0] = 1
			}
			s.set(key, value)
		}
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("received", len(p.received()), 4)
		p.want("kept as damaged", len(s.keys("damaged/")), 0)
	})
}

func TestSlotThatTheStoreLost(t *testing.T) {
	kept(t, "", nil, func(p *plant, s *openStore) {
		s.set(s.keys("outbox/slot/a/")[0], nil)
		p.net.unplug(false)
		p.start()
		time.Sleep(time.Minute)
		p.want("received", len(p.received()), 3)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 3, audit.Recovered: 0, audit.Rejected: 1})
		if err := p.d.Put(context.Background(), payload.Record{StationID: "s-a", DeviceID: "a"}); err == nil {
			t.Error("a record without readings was taken")
		}
	})
}

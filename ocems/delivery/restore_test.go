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
	"testing/synctest"
	"time"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/store"
)

// openStore is a store that a test can read, damage, and fill up.
type openStore struct {
	mu sync.Mutex
	*store.Memory
	full bool
	bad  string // a key whose reads fail
}

func newOpenStore() *openStore { return &openStore{Memory: store.NewMemory()} }

func (s *openStore) Get(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == s.bad {
		return nil, errors.New("input/output error")
	}
	return s.Memory.Get(ctx, key)
}

func (s *openStore) Batch(ctx context.Context, ops ...store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return errors.New("no space left on device")
	}
	return s.Memory.Batch(ctx, ops...)
}

func (s *openStore) spoil(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = key
}

func (s *openStore) fill(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *openStore) set(key string, value []byte) {
	_ = s.Memory.Batch(context.Background(), store.Op{Key: key, Value: value})
}

func (s *openStore) copy() map[string][]byte {
	out := map[string][]byte{}
	_ = s.Range(context.Background(), "", func(key string, value []byte) error {
		out[key] = bytes.Clone(value)
		return nil
	})
	return out
}

// keys returns the keys with a prefix in order.
func (s *openStore) keys(prefix string) (out []string) {
	_ = s.Range(context.Background(), prefix, func(key string, _ []byte) error {
		out = append(out, key)
		return nil
	})
	return slices.DeleteFunc(out, func(key string) bool { return key == "sending" }) // without the key that marks a run
}

func (s *openStore) drop(prefix string) {
	for _, key := range s.keys(prefix) {
		s.set(key, nil)
	}
}

// slots returns the keys of a device's slots, oldest first.
func (s *openStore) slots(device string) []string {
	return slices.DeleteFunc(s.keys("outbox/"), func(key string) bool { return !strings.HasSuffix(key, "/"+device) })
}

// kept fills an outbox with three slots of device a and two of b, stops it, and damages the store.
func kept(t *testing.T, name string, f func(*plant, *openStore)) {
	s := newOpenStore()
	run(t, name, registry, func(c *delivery.Config) { c.Store = s }, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 3; i++ {
			p.put("a", at(15*i), cod(float64(i)))
		}
		z := so2(0)
		z.Flag = 'Z'
		p.put("b", at(15).Add(30*time.Second), z)
		p.put("b", at(30), so2(2))
		p.stop()
		f(p, s)
	})
}

// recovered counts the Recovered entries in the trail.
func (p *plant) recovered() (n int) {
	p.t.Helper()
	p.trailOf(func(e audit.Entry) {
		if e.Outcome == audit.Recovered {
			n++
		}
	})
	return n
}

func TestDamagedSlotIsKeptAndTheRestGoesOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		value func(was []byte) []byte
	}{
		{"garbage", func([]byte) []byte { return []byte("garbage") }},
		{"empty", func([]byte) []byte { return []byte{} }},
		{"cut", func(b []byte) []byte { return b[:5] }},
		{"altered", func(b []byte) []byte { b = slices.Clone(b); b[10] ^= 1; return b }},
	} {
		kept(t, c.name, func(p *plant, s *openStore) {
			key := s.slots("a")[1]
			damaged := c.value(s.copy()[key])
			s.set(key, damaged)
			p.log.Reset()
			p.net.unplug(false)
			p.start()
			time.Sleep(time.Minute)
			p.want("waiting", p.d.Stats().Slots, 0)
			copies := s.keys("damaged/outbox/20000101T003000.000/a/")
			if len(copies) != 1 || !bytes.Equal(s.copy()[copies[0]], damaged) {
				t.Errorf("kept as %q", s.keys("damaged/"))
			}
			line := p.log.String()
			if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, copies[0]) || !strings.Contains(line, fmt.Sprint(len(damaged), " bytes")) || strings.Contains(line, "garbage") {
				t.Errorf("the log does not name key and size alone: %s", line)
			}
			p.want("notes in the trail", p.recovered(), 1)
			p.stop()
			p.log.Reset()
			p.start()
			time.Sleep(time.Minute)
			if strings.Contains(p.log.String(), "damaged") {
				t.Errorf("the second start still finds damage: %s", p.log)
			}
			got := p.received()
			slices.Sort(got)
			p.want("received", got, []string{"a/cod@00:15:00=1U", "a/cod@00:45:00=3U", "b/so2@00:15:30=0Z", "b/so2@00:30:00=2U"}) // Z is not scheduled
			p.stop()
			p.want("left in the store", len(s.keys("outbox/"))+len(s.keys("index/")), 0)
		})
	}
}

func TestForeignKeyIsKept(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		s.set("outbox/x", []byte("garbage"))
		s.drop("index/")
		p.start()
		p.want("waiting", p.d.Stats().Slots, 5)
		p.want("kept", len(s.keys(`damaged/"outbox/x"/`)), 1)
	})
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

// For any altered byte of the store, the start continues, and only the slot with that byte is lost.
func TestEveryAlteredByteOfTheStore(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		before := s.copy()
		for key, value := range before {
			for i := range value {
				for _, change := range []byte{0x01, 0x10, 0xff} {
					damaged := slices.Clone(value)
					damaged[i] ^= change
					s.set(key, damaged)
					waiting, kept := 5, 0
					if !strings.HasPrefix(key, "index/") {
						s.drop("index/") // so that all values are read
						waiting, kept = 4, 1
					}
					p.log.Reset()
					p.start()
					p.want("waiting", p.d.Stats().Slots, waiting)
					if n := len(s.keys("damaged/")); n != kept {
						t.Fatalf("byte %d of %q: values kept: %d", i, key, n)
					}
					p.stop()
					s.drop("")
					for key, value := range before {
						s.set(key, value)
					}
				}
			}
		}
	})
}

// Damage while the outbox runs does not stop other readings, and is reported once.
func TestDamageInTheRunningStore(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		p.start()
		synctest.Wait() // the oldest slot was tried
		keys := s.slots("a")
		s.set(keys[0], []byte("garbage"))
		s.set(keys[2], []byte("garbage"))
		s.fill(true)
		more := payload.Record{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{
			{Parameter: "bod", Value: 7, Unit: "mg/L", Flag: 'U', Stamp: at(45)}}}
		for range 2 {
			if err := p.d.Put(context.Background(), []payload.Record{more}); err == nil {
				t.Error("a full store took readings")
			}
		}
		s.fill(false)
		p.put("a", at(45), bod(7))
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		got := p.received()
		slices.Sort(got)
		p.want("received", got, []string{"a/bod@00:45:00=7U", "a/cod@00:30:00=2U", "b/so2@00:15:30=0Z", "b/so2@00:30:00=2U"})
		p.want("kept", len(s.keys("damaged/outbox/")), 2)
		p.stop()
		p.want("left in the store", len(s.keys("outbox/")), 0)
		p.want("notes in the log", strings.Count(p.log.String(), "cannot read a slot of the outbox"), 2)
		p.want("notes in the trail", p.recovered(), 2)
	})
}

func TestDamageInAFullStore(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		key := s.slots("a")[0]
		s.set(key, []byte("garbage"))
		s.fill(true)
		p.start()
		p.want("waiting", p.d.Stats().Slots, 5)
		p.want("the damaged value stays where it is", string(s.copy()[key]), "garbage")
		s.fill(false)
		p.put("a", at(15), bod(1)) // at the same key
		p.want("kept", len(s.keys("damaged/outbox/")), 1)
		p.want("notes", p.recovered(), 1)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", slices.Contains(p.received(), "a/bod@00:15:00=1U"), true)
		p.stop()
		p.start()
		p.want("waiting after all", p.d.Stats().Slots, 0)
	})
}

func TestStateOfAnotherVersionIsLeftAlone(t *testing.T) {
	framed := func(version byte) []byte {
		b := []byte{version, 'x'}
		return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	for _, c := range []struct {
		name, want string
		set        func(*openStore)
	}{
		{"newer", "newer version", func(s *openStore) { s.set(s.keys("index/")[1], framed(5)) }},
		{"newer, without an index", "newer version", func(s *openStore) {
			s.set(s.slots("b")[0], framed(5))
			s.drop("index/")
		}},
	} {
		kept(t, c.name, func(p *plant, s *openStore) {
			s.set(s.slots("a")[0], []byte("garbage")) // found first, and left unchanged like the others
			c.set(s)
			before := s.copy()
			d, err := delivery.New(context.Background(), p.cfg)
			if err == nil {
				d.Close(context.Background())
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("New = %v, want an error that says that a %s wrote the state", err, c.want)
			}
			if !maps.EqualFunc(before, s.copy(), bytes.Equal) {
				t.Error("the state was changed")
			}
		})
	}
}

func TestSlotThatTheStoreLost(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		p.start()
		synctest.Wait()
		s.set(s.slots("a")[0], nil)
		p.net.unplug(false)
		time.Sleep(10 * time.Minute)
		p.want("received", len(p.received()), 4)
		p.want("waiting", p.d.Stats().Slots, 0)
		p.want("outcomes", p.outcomes(), map[audit.Outcome]int{audit.Delivered: 4, audit.Recovered: 0})
		if err := p.d.Put(context.Background(), []payload.Record{{StationID: "s-a", DeviceID: "a"}}); err == nil {
			t.Error("a record without readings was taken")
		}
	})
}

// The host's operations and its readings are written together or not at all.
func TestPutWithOperations(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		disk.set("samples/1", []byte("a batch"))
		record := payload.Record{StationID: "s-a", DeviceID: "a", Readings: []payload.Reading{cod(1)}}
		record.Readings[0].Stamp = at(15)
		with := []store.Op{{Key: "open/0", Value: []byte("aligner")}, {Key: "samples/1"}}
		disk.fill(true)
		if err := p.d.Put(context.Background(), []payload.Record{record}, with...); err == nil {
			t.Error("a full store took readings")
		}
		p.want("keys after an error", disk.keys(""), []string{"samples/1"})
		p.want("waiting after an error", p.d.Stats().Slots, 0)
		disk.fill(false)
		if err := p.d.Put(context.Background(), []payload.Record{record}, with...); err != nil {
			t.Error(err)
		}
		p.want("keys", disk.keys("open/"), []string{"open/0"})
		p.want("slots", len(disk.slots("a")), 1)
		if err := p.d.Put(context.Background(), nil, store.Op{Key: "open/0"}, store.Op{Key: "open/1", Value: []byte("x")}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		p.stop()
		p.want("keys once it is delivered", disk.keys(""), []string{"device/a", "open/1"})
	})
}

// A Put whose context has ended has written nothing.
func TestPutGivenUp(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk }, func(p *plant) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for range 50 {
			if err := p.d.Put(ctx, nil, store.Op{Key: "x", Value: []byte("x")}); err == nil {
				disk.set("x", nil)
			}
		}
		time.Sleep(time.Second)
		p.want("keys", disk.keys("x"), []string{})
	})
}

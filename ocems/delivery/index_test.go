package delivery_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/store"
)

// recorder is a store that keeps its content after each write. Some writes fail.
type recorder struct {
	*openStore
	fails func() bool
	mu    sync.Mutex
	after []map[string][]byte
}

func (s *recorder) Batch(ctx context.Context, ops ...store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails() {
		return fmt.Errorf("no space left on device")
	}
	err := s.openStore.Batch(ctx, ops...)
	s.after = append(s.after, s.copy())
	return err
}

// kill makes all further writes fail.
func (s *recorder) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = func() bool { return true }
}

func memoryOf(content map[string][]byte) *openStore {
	s := newOpenStore()
	for key, value := range content {
		s.set(key, value)
	}
	return s
}

// stored returns what the outbox itself holds, without slots that have left.
func stored(t *testing.T, s store.Store) map[string][]time.Time {
	t.Helper()
	queues, err := delivery.Queues(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]time.Time{}
	for _, q := range queues {
		if all[q.Device] = q.Stamps; q.Err != nil {
			t.Error(q.Err)
		}
	}
	return all
}

// For any sequence of Puts and answers, and a kill at any point, a start finds by the index exactly what the outbox
// holds.
func TestIndexAgreesWithTheOutbox(t *testing.T) {
	for seed := range uint64(6) {
		run(t, fmt.Sprint(seed), registry, nil, func(p *plant) {
			r := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			pick := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return r.IntN(n)
			}
			chance := func(n int) bool { return pick(n) == 0 }
			var full atomic.Bool
			board := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				text := `{"status":1}`
				switch {
				case chance(10):
					w.WriteHeader(500)
				case chance(10):
					text = `{"status":111}`
				case chance(10):
					text = `{"status":119}`
				case chance(20):
					text = `{"status":113}`
				}
				_, _ = io.WriteString(w, text)
			})
			p.mu.Lock()
			p.server = board
			p.mu.Unlock()
			var disk *recorder
			begin := func(s *openStore) {
				disk = &recorder{openStore: s, fails: func() bool { return full.Load() && chance(2) }}
				p.cfg.Store = disk
				p.start()
			}
			p.stop()
			noWait(&p.cfg)
			begin(newOpenStore())
			var all []map[string][]byte
			for range 150 {
				full.Store(chance(5))
				now := time.Now().Truncate(15 * time.Minute)
				var records []payload.Record
				for range 1 + pick(6) {
					rs := []payload.Reading{cod(1), bod(2)}[pick(2):]
					stamp := now.Add(-15 * time.Minute * time.Duration(pick(8)))
					if chance(4) {
						rs = rs[:1]
						rs[0].Flag, stamp = 'Z', stamp.Add(30*time.Second*time.Duration(pick(30)))
					}
					for i := range rs {
						rs[i].Stamp = stamp
					}
					device := string(rune('a' + pick(4)))
					records = append(records, payload.Record{StationID: "s-" + device, DeviceID: device, Readings: rs})
				}
				_ = p.d.Put(context.Background(), records)
				time.Sleep(time.Duration(pick(40)) * time.Second)
				switch synctest.Wait(); {
				case chance(10): // a kill
					disk.kill()
					all = append(all, disk.after...)
					old := p.d
					begin(memoryOf(disk.copy()))
					now, cancel := context.WithCancel(context.Background())
					cancel()
					old.Close(now)
				case chance(20):
					p.stop()
					all = append(all, disk.after...)
					begin(memoryOf(disk.copy()))
				}
				synctest.Wait()
				want, count, oldest := stored(p.t, disk), 0, time.Time{}
				for _, stamps := range want {
					if count += len(stamps); oldest.IsZero() || stamps[0].Before(oldest) {
						oldest = stamps[0]
					}
				}
				if got := delivery.Waiting(p.d); !reflect.DeepEqual(got, want) {
					p.t.Fatalf("waiting %v, the outbox holds %v", got, want)
				}
				if s := p.d.Stats(); s.Slots != count || !s.Oldest.Equal(oldest) {
					p.t.Fatalf("%d slots since %s, want %d since %s", s.Slots, s.Oldest, count, oldest)
				}
			}
			full.Store(false)
			cfg := p.cfg
			cfg.Logger, cfg.Trail, cfg.DryRun = slog.New(slog.DiscardHandler), nil, true
			for i, content := range append(all, disk.after...) {
				s := memoryOf(content)
				want := stored(p.t, s)
				cfg.Store = s
				d, err := delivery.New(context.Background(), cfg)
				if err != nil {
					p.t.Fatal(err)
				}
				if got := delivery.Waiting(d); !reflect.DeepEqual(got, want) {
					p.t.Fatalf("a start after write %d finds %v, the outbox holds %v", i, got, want)
				}
				d.Close(context.Background())
			}
			if strings.Contains(p.log.String(), "rebuilding the index of the outbox") || strings.Contains(p.log.String(), "cannot read a slot of the outbox") {
				p.t.Errorf("the index was damaged: %s", p.log)
			}
		})
	}
}

// A damaged or lost index is rebuilt, once.
func TestIndexIsMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*openStore)
	}{
		{"lost", func(s *openStore) { s.drop("index/") }},
		{"a value", func(s *openStore) { s.set(s.keys("index/")[1], []byte("garbage")) }},
		{"an empty value", func(s *openStore) { s.set(s.keys("index/")[1], []byte{}) }},
		{"a key", func(s *openStore) {
			key := s.keys("index/")[1]
			s.set(key[:8], s.copy()[key])
			s.set(key, nil)
		}},
		{"a key, off the grid", func(s *openStore) {
			key := s.keys("index/")[1]
			s.set(strings.Replace(key, key[6:14], key[6:13]+"\x01", 1), s.copy()[key])
			s.set(key, nil)
		}},
	} {
		kept(t, c.name, func(p *plant, s *openStore) {
			want := stored(p.t, s)
			c.damage(s)
			s.fill(true)
			p.log.Reset()
			p.start()
			p.want("waiting", delivery.Waiting(p.d), want)
			s.fill(false)
			p.put("c", at(45), cod(3)) // the index is rebuilt in the same transaction
			p.stop()
			p.want("notes", strings.Count(p.log.String(), "rebuilding the index of the outbox"), 1)
			want["c"] = []time.Time{at(45).Local()}
			p.start()
			p.want("waiting after a second start", delivery.Waiting(p.d), want)
			p.want("notes after a second start", strings.Count(p.log.String(), "rebuilding the index of the outbox"), 1)
		})
	}
}

// Damage to the index while the outbox runs is found by the next start, and nothing is lost.
func TestDamageInTheRunningIndex(t *testing.T) {
	kept(t, "", func(p *plant, s *openStore) {
		p.start()
		for _, key := range s.keys("index/") {
			s.set(key, []byte("garbage"))
		}
		p.net.unplug(false)
		time.Sleep(2 * time.Minute)
		p.net.unplug(true)
		p.put("a", at(60), cod(4)) // the delivered slots leave
		p.stop()
		p.start()
		p.want("waiting", delivery.Waiting(p.d), map[string][]time.Time{"a": {at(60).Local()}})
		p.want("notes", strings.Count(p.log.String(), "rebuilding the index of the outbox"), 1)
		p.want("faults", strings.Contains(p.log.String(), "cannot read a slot of the outbox"), false)
	})
}

// The file recovered from a damaged one has no index.
func TestIndexOfADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open := func() *store.File {
		file, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := open()
	run(t, "", registry, func(c *delivery.Config) { c.Store = file }, func(p *plant) {
		p.net.unplug(true)
		for i := 1; i <= 3; i++ {
			r := cod(float64(i))
			r.Statistic = fmt.Sprint("slot number ", i)
			p.put("a", at(15*i), r)
		}
		p.stop()
		file.Close()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte("slot number 2"), []byte("slot number 7")), 0o600); err != nil {
			t.Fatal(err)
		}
		file = open()
		defer func() { file.Close() }()
		p.want("damage", strings.Contains(file.Damage(), "is damaged"), true)
		p.cfg.Store = file
		p.net.unplug(false)
		p.start()
		p.want("notes", strings.Count(p.log.String(), "rebuilding the index of the outbox"), 1)
		time.Sleep(time.Minute)
		p.want("received", p.received(), []string{"a/cod@00:15:00=1U", "a/cod@00:45:00=3U"})
		p.stop()
	})
}

// A backlog is sent evenly after a restart too, and its slots take only their bits in memory.
func TestBacklogIsSentEvenly(t *testing.T) {
	disk := newOpenStore()
	run(t, "", registry, func(c *delivery.Config) { c.Store = disk; c.MaxConcurrency = 1; noWait(c) }, func(p *plant) {
		p.net.unplug(true)
		const devices, slots = 5, 40
		for i := range slots {
			for n := range devices {
				p.put(string(rune('a'+n)), at(15*i).Add(-24*time.Hour), cod(1))
			}
		}
		p.stop()
		board := newBoard(time.Second, func(string) bool { return false })
		p.server = board
		p.net.unplug(false)
		p.start()
		p.want("known", delivery.Known(p.d) <= 1, true)
		for range 20 {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			least, most := slots, 0
			board.mu.Lock()
			for n := range devices {
				stored := len(board.stored[string(rune('a'+n))])
				least, most = min(least, stored), max(most, stored)
			}
			board.mu.Unlock()
			if most-least > 1 {
				p.t.Fatalf("of one device %d slots are stored, of another %d", most, least)
			}
		}
	})
}

// Slots that are parked for one refused parameter take only their bits in memory, and are tried in turn.
func TestParkedSlotsCostBits(t *testing.T) {
	run(t, "", registry, noWait, func(p *plant) {
		for i := range 20 {
			r := cod(1)
			r.Parameter = "unheard_of"
			p.put("a", at(15*i).Add(-24*time.Hour), r)
		}
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		p.want("waiting", p.d.Stats().Slots, 20)
		p.want("known", delivery.Known(p.d), 0)
	})
}

package ocems

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/ocems/delivery"
	"github.com/ocems-io/ocems/ocems/spec"
)

// manyKeys is a state with more keys than a page holds, and the page of each.
func manyKeys(t *testing.T, dir string) (pages map[string]int) {
	s, damage, err := openState(dir)
	require.NoError(t, err)
	require.Empty(t, damage)
	for round := range 3 { // pages become free
		var ops []delivery.Op
		for i := range 1000 {
			ops = append(ops, delivery.Op{Key: fmt.Sprintf("outbox/slot/dev/%05d", i), Value: bytes.Repeat([]byte{byte(round)}, 40)})
		}
		require.NoError(t, s.Batch(context.Background(), ops))
	}
	pages = map[string]int{}
	require.NoError(t, s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketName).ForEach(func(k, _ []byte) error {
			pages[string(k)] = int(uintptr(unsafe.Pointer(&k[0]))-s.db.Info().Data) / s.db.Info().PageSize
			return nil
		})
	}))
	require.NoError(t, s.close())
	return pages
}

// Damage in several places costs what stands there and nothing between them.
func TestSeveralDamagedPages(t *testing.T) {
	dir := t.TempDir()
	pages := manyKeys(t, dir)
	numbers := map[int]bool{}
	for _, p := range pages {
		numbers[p] = true
	}
	require.Greater(t, len(numbers), 10)
	bad := map[int]bool{pages["outbox/slot/dev/00200"]: true, pages["outbox/slot/dev/00500"]: true, pages["outbox/slot/dev/00800"]: true}
	require.Len(t, bad, 3)
	change(t, filepath.Join(dir, stateFile), func(b []byte) []byte {
		for p := range bad {
			clear(b[p*os.Getpagesize() : (p+1)*os.Getpagesize()])
		}
		return b
	})
	s, damage, err := openState(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.close()) })
	assert.Contains(t, damage, "at 3 places it cannot be read")
	lost := 0
	for k, p := range pages {
		v, err := s.Get(context.Background(), k)
		require.NoError(t, err)
		switch {
		case bad[p]:
			lost++
		default:
			assert.NotNil(t, v, "%s is on page %d, which is whole", k, p)
		}
	}
	assert.Positive(t, lost)
}

// A list of free pages that names one in use is damage before anything is overwritten.
func TestFreePageInUse(t *testing.T) {
	dir := t.TempDir()
	pages := manyKeys(t, dir)
	put(t, dir, func(b *bolt.Bucket) error { return nil }) // with a list of free pages, as earlier versions kept one
	change(t, filepath.Join(dir, stateFile), func(b []byte) []byte {
		size := os.Getpagesize()
		meta := b[16:]
		if txid := func(m []byte) uint64 { return binary.LittleEndian.Uint64(m[48:]) }; txid(b[size+16:]) > txid(meta) {
			meta = b[size+16:]
		}
		list := b[int(binary.LittleEndian.Uint64(meta[32:]))*size:]
		count := int(binary.LittleEndian.Uint16(list[10:]))
		require.Positive(t, count)
		ids := make([]uint64, count)
		for i := range ids {
			ids[i] = binary.LittleEndian.Uint64(list[16+8*i:])
		}
		ids[0] = uint64(pages["outbox/slot/dev/00500"])
		slices.Sort(ids)
		for i, id := range ids {
			binary.LittleEndian.PutUint64(list[16+8*i:], id)
		}
		return b
	})
	s, damage, err := openState(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.close()) })
	assert.Contains(t, damage, fmt.Sprintf("page %d is in use and free", pages["outbox/slot/dev/00500"]))
	for k := range pages {
		v, err := s.Get(context.Background(), k)
		require.NoError(t, err)
		assert.NotNil(t, v, k)
	}
}

// put writes into the state of a plugin that does not run.
func put(t *testing.T, dir string, f func(b *bolt.Bucket) error) {
	db, err := bolt.Open(filepath.Join(dir, stateFile), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket(bucketName)) }))
	require.NoError(t, db.Close())
}

// Where the journal begins is not known: all of it counts, and no sample is lost.
func TestDamagedJournalKey(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	at := hoursAgo(2)
	o, _ := open(t, slow(settings(b, dir))+oneDevice)
	write(t, o, at, 1)
	require.NoError(t, o.Close())
	o, _ = open(t, slow(settings(b, dir))+oneDevice)
	write(t, o, at.Add(time.Second), 3)
	killed := asKilled(t, o)
	require.NoError(t, o.Close())
	put(t, killed, func(b *bolt.Bucket) error {
		v := bytes.Clone(b.Get([]byte(journalKey)))
		v[3] ^= 1 // far beyond the journal that there is
		return b.Put([]byte(journalKey), v)
	})
	o, logs := open(t, settings(b, killed)+oneDevice)
	assert.Contains(t, logs.text("E"), "key of where the journal begins is damaged")
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	require.NoError(t, o.Close())
}

// A damaged part of the open slots is kept under another key, and named once.
func TestDamagedOpenSlots(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	b.down.Store(true)
	o, _ := open(t, slow(settings(b, dir))+oneDevice+`
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "ph"
    unit = "pH"
`)
	at := hoursAgo(2)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(at, "cod", 1.0), modbus(at, "ph", 7.0)}))
	require.NoError(t, o.Close())
	var entry string
	var value []byte
	put(t, dir, func(b *bolt.Bucket) error {
		c := b.Cursor()
		for k, v := c.Seek([]byte(slotsPrefix + "shard")); bytes.HasPrefix(k, []byte(slotsPrefix+"shard")); k, v = c.Next() {
			if bytes.Contains(v, []byte("cod")) {
				entry, value = string(k), bytes.Clone(v)
			}
		}
		require.NotEmpty(t, entry)
		value[len(value)/2] ^= 1
		return b.Put([]byte(entry), value)
	})
	o, logs := open(t, slow(settings(b, dir))+oneDevice)
	assert.Contains(t, logs.text("E"), "A part of the saved slots is damaged and left out")
	assert.Equal(t, 1, o.aligner.Stats().Open)
	require.NoError(t, o.Close())
	put(t, dir, func(b *bolt.Bucket) error {
		k, v := b.Cursor().Seek([]byte(damagedPrefix + entry))
		assert.Contains(t, string(k), damagedPrefix+entry)
		assert.Contains(t, logs.text("E"), string(k))
		assert.Equal(t, value, v)
		assert.Nil(t, b.Get([]byte(entry)))
		return nil
	})
	o, logs = open(t, slow(settings(b, dir))+oneDevice)
	assert.Empty(t, logs.text("E"))
	require.NoError(t, o.Close())
}

func TestMissingState(t *testing.T) {
	t.Parallel()
	b, dir := startBoard(t), t.TempDir()
	at := hoursAgo(2)
	o, _ := open(t, slow(settings(b, dir))+oneDevice)
	write(t, o, at, 1, 3)
	killed := asKilled(t, o)
	require.NoError(t, o.Close())
	require.NoError(t, os.Remove(filepath.Join(killed, stateFile)))
	o, logs := open(t, settings(b, killed)+oneDevice)
	assert.Contains(t, logs.text("E"), "is missing beside its journal")
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	require.NoError(t, o.Close())
}

func TestNotConnected(t *testing.T) {
	b := startBoard(t)
	for _, align := range []string{"true", "false"} {
		o, _ := load(t, settings(b, t.TempDir())+"align = "+align+oneDevice)
		require.NoError(t, o.Init())
		batch := []telegraf.Metric{modbus(hoursAgo(1), "cod", 1.0), modbus(hoursAgo(1), "cod", "x")}
		assert.ErrorContains(t, o.Write(batch), "not connected")
		require.NoError(t, o.Close())
		require.NoError(t, o.Connect())
		require.NoError(t, o.Write(batch))
		require.NoError(t, o.Close())
		assert.ErrorContains(t, o.Write(batch), "not connected")
		require.NoError(t, o.Connect()) // as Telegraf may, and the window is still there
		assert.Equal(t, align == "true", o.aligner.Stats().Open == 1)
		require.NoError(t, o.Close())
	}
}

// What a restart leaves out because of a smaller max_series is named.
func TestFewerSeriesAfterARestart(t *testing.T) {
	b, dir := startBoard(t), t.TempDir()
	second := `
  [[outputs.ocems.device.parameter]]
    metric = "modbus"
    field = "ph"
    unit = "pH"
`
	o, _ := open(t, slow(settings(b, dir))+oneDevice+second)
	require.NoError(t, o.Write([]telegraf.Metric{modbus(hoursAgo(1), "cod", 1.0), modbus(hoursAgo(1), "ph", 7.0)}))
	killed := asKilled(t, o)
	require.NoError(t, o.Close())
	_, logs := open(t, slow(settings(b, killed))+"max_series = 1\n"+oneDevice+second)
	assert.Contains(t, logs.text("E"), "1 samples of the journal are left out: max_series")
}

// A flood of one thing to say neither fills the log nor silences another.
func TestOnceIsBounded(t *testing.T) {
	b := startBoard(t)
	o, logs := open(t, settings(b, t.TempDir())+oneDevice)
	var batch []telegraf.Metric
	for i := range 500 {
		batch = append(batch, modbus(hoursAgo(1), "cod", fmt.Sprintf("text %d \"quoted\"", i)))
	}
	require.NoError(t, o.Write(batch))
	assert.Equal(t, 1, strings.Count(logs.text("W"), "Refused a sample"))
	for i := range 2 * mostSaid {
		o.once(fmt.Sprint("ignored\x00", i))
	}
	assert.False(t, o.once("ignored\x00one more"))
	assert.True(t, o.once("device\x00dev_2"))
	assert.False(t, o.once("device\x00dev_2"))
	assert.Less(t, len(o.said), mostSaid+20)
}

// Without an audit file each refusal is in the log with its values, as often as it happens.
func TestRefusalsWithoutATrail(t *testing.T) {
	b := startBoard(t)
	text := strings.Replace(settings(b, ""), "state_directory", "# state_directory", 1)
	o, logs := open(t, strings.Replace(text, "http://", "http://plant:secret-password@", 1)+oneDevice)
	ahead := time.Now().Add(time.Hour)
	for i := range 3 {
		require.NoError(t, o.Write([]telegraf.Metric{modbus(ahead, "cod", 40+float64(i))}))
	}
	for i := range 3 {
		assert.Contains(t, logs.text("W"), fmt.Sprintf("readings=[{cod %d mg/L U false}]", 40+i))
	}
	for _, m := range selfstat.Metrics() {
		endpoint, _ := m.GetTag("endpoint")
		assert.NotContains(t, endpoint, "secret-password")
	}
	assert.NotContains(t, logs.text(""), "secret-password")
	require.NoError(t, o.Close())
}

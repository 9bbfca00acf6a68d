package ocems

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/spec"
)

// TestFullDisk refuses what it cannot keep, says what to do, takes the same batch once there is room, and counts it once.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, logs := open(t, slow(settings(b, filepath.Join(dir, "state")))+oneDevice+`    statistic = "sum"`)
	at := hoursAgo(2)
	write(t, o, at, 1)

	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	var batch []telegraf.Metric // of more than the page that the journal has begun
	for i := range 2000 {
		batch = append(batch, modbus(at.Add(time.Duration(i%900)*time.Second), "cod", 5.0))
	}
	for range 3 {
		err := o.Write(batch)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "see that the state_directory \""+o.StateDirectory+"\" can be written and has free space")
	}
	assert.EqualValues(t, 1, o.stats.samples.Get())
	killed := asKilled(t, o)

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, o.Write(batch))
	assert.EqualValues(t, 2001, o.stats.samples.Get())
	healed := asKilled(t, o)
	require.NoError(t, o.Close())
	assert.Empty(t, logs.text("E"))

	for dir, want := range map[string]string{
		killed: "cod 1 mg/L U ", // nothing of the batch
		healed: "cod 10001 mg/L U ",
	} {
		b := startBoard(t)
		o, _ := open(t, settings(b, dir)+oneDevice)
		assert.Equal(t, []string{want + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
		require.NoError(t, o.Close())
	}
}

// TestFullDiskAtClosing holds closed slots until they are saved: none goes out before, and no sample comes in.
func TestFullDiskAtClosing(t *testing.T) {
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, logs := open(t, settings(b, filepath.Join(dir, "state"))+oneDevice)
	at := hoursAgo(2)
	write(t, o, at, 1, 3)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	require.Eventually(t, func() bool { return logs.text("E") != "" }, 15*time.Second, 20*time.Millisecond)
	assert.Contains(t, logs.text("E"), "Closed slots are held until it works again")
	require.ErrorIs(t, o.Write([]telegraf.Metric{modbus(at.Add(spec.SlotLength), "cod", 9.0)}), syscall.ENOSPC)
	assert.Zero(t, b.received(t).Requests)
	require.NoError(t, os.Remove(ballast))
	write(t, o, at.Add(spec.SlotLength), 9)
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength)), "cod 9 mg/L U " + clock(at.Add(2*spec.SlotLength))}, b.await(t, 2))
	require.Eventually(t, func() bool { return strings.Contains(logs.text("I"), "Slots are saved and handed over again") },
		15*time.Second, 20*time.Millisecond)
	require.NoError(t, o.Close())
}

// TestFullDiskOverAWindowsEnd puts what was refused into the slot that it belongs to, though the slot's time is over.
func TestFullDiskOverAWindowsEnd(t *testing.T) {
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, _ := open(t, settings(b, filepath.Join(dir, "state"))+oneDevice+`    statistic = "sum"`)
	at := hoursAgo(2)
	ballast := filepath.Join(dir, "ballast")
	var batch []telegraf.Metric
	for i := range 2000 {
		batch = append(batch, modbus(at.Add(time.Duration(i%900)*time.Second), "cod", 5.0))
	}
	write(t, o, at, 1)
	fill(t, ballast)
	require.ErrorIs(t, o.Write(batch), syscall.ENOSPC)
	time.Sleep(4 * time.Second) // settle is 1 s
	require.Zero(t, b.received(t).Requests)
	require.NoError(t, os.Remove(ballast))
	require.NoError(t, o.Write(batch))
	assert.Equal(t, []string{"cod 10001 mg/L U " + clock(at.Add(spec.SlotLength))}, b.await(t, 1))
	assert.Empty(t, outcomes(trail(t, o.StateDirectory), audit.Late))
	require.NoError(t, o.Close())
}

// smallDisk is a directory on a file system of its own.
func smallDisk(t testing.TB, size string) string {
	dir := t.TempDir()
	if err := syscall.Mount("ocems-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("only root mounts a small disk: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

// fill takes all that the file system of name has.
func fill(t testing.TB, name string) {
	file, err := os.Create(name)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
}

// A full disk fails each append, leaves no segments behind, and is over when there is space again.
func TestJournalOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m")
	j, _, err := openJournal(dir, 0, func([]byte) {})
	require.NoError(t, err)
	require.NoError(t, j.append([]byte("before")))

	filler := filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 64<<10))
	}
	require.NoError(t, file.Close())
	large := bytes.Repeat([]byte("x"), 32<<10)
	for range 300 {
		err := j.append(large)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "writing the journal: ")
	}
	numbers, err := segments(dir)
	require.NoError(t, err)
	assert.Len(t, numbers, 1)
	contents, damage := readJournal(t, dir)
	assert.Equal(t, []string{"before"}, contents)
	assert.Empty(t, damage)

	require.NoError(t, os.Remove(filler))
	require.NoError(t, j.append(large))
	require.NoError(t, j.close())
	contents, damage = readJournal(t, dir)
	assert.Equal(t, []string{"before", string(large)}, contents)
	assert.Empty(t, damage)
}

// Close does not wait for a disk: what was answered and cannot be noted is asked for again after the restart.
func TestCloseOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "2m")
	b, state := startBoard(t), filepath.Join(dir, "state")
	b.down.Store(true)
	o, _ := open(t, settings(b, state)+oneDevice)
	at := hoursAgo(2)
	write(t, o, at, 1, 3)
	require.Eventually(t, func() bool { return o.delivery.Stats().Slots == 1 }, 15*time.Second, 20*time.Millisecond)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	b.down.Store(false)
	b.await(t, 1)
	begun := time.Now()
	err := o.Close()
	t.Log(err)
	assert.Less(t, time.Since(begun), 5*time.Second)
	require.NoError(t, os.Remove(ballast))

	o, _ = open(t, settings(b, state)+oneDevice)
	require.Eventually(t, func() bool { return o.delivery.Stats().Slots == 0 }, 15*time.Second, 20*time.Millisecond)
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength))}, b.words(t))
	entries := trail(t, state)
	assert.Len(t, append(outcomes(entries, audit.Delivered), outcomes(entries, audit.AlreadyStored)...), 1)
	require.NoError(t, o.Close())
}

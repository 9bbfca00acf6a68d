package ocems

import (
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

// On a full disk Write refuses the batch and says what to do. It accepts the same batch when there is space, and counts it once.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, logs := open(t, slow(settings(b, filepath.Join(dir, "state")))+oneDevice+`    statistic = "sum"`)
	at := hoursAgo(2)
	write(t, o, at, 1)

	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	batch := large(at)
	for range 3 {
		err := o.Write(batch)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "make sure that the state_directory \""+o.StateDirectory+"\" is writable and has free space")
	}
	assert.EqualValues(t, 1, o.engine.Stats().Taken)
	killed := asKilled(t, o)

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, o.Write(batch))
	assert.EqualValues(t, 2001, o.engine.Stats().Taken)
	healed := asKilled(t, o)
	require.NoError(t, o.Close())
	assert.Equal(t, 1, strings.Count(logs.text("E"), "\n"), "one line when it begins: %s", logs.text("E"))

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

// The first start on a full disk succeeds, so that Telegraf and its other outputs start. The state opens when there is space.
func TestFirstStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	o, logs := open(t, settings(b, filepath.Join(dir, "state"))+oneDevice)
	assert.Contains(t, logs.text("E"), "no space left on device; free space on its disk")
	batch := []telegraf.Metric{modbus(hoursAgo(2), "cod", 5.0)}
	require.ErrorContains(t, o.Write(batch), "no space left on device; free space on its disk; the readings stay with Telegraf")
	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return o.Write(batch) == nil }, 15*time.Second, 20*time.Millisecond)
	b.await(t, 1)
	require.NoError(t, o.Close())

	fill(t, ballast) // the state exists now, so the start writes nothing
	o, logs = open(t, settings(b, filepath.Join(dir, "state"))+oneDevice)
	assert.Empty(t, logs.text("E"))
	require.NoError(t, o.Close())
}

// fillBlock fills the last disk block of the trail, so that no further line fits into it.
func fillBlock(t *testing.T, path string) {
	trail, err := audit.Open(path)
	require.NoError(t, err)
	require.NoError(t, trail.Append(audit.Entry{Outcome: audit.Recovered})) // also writes the line that waits for the next one
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, trail.Append(audit.Entry{Outcome: audit.Recovered, Detail: strings.Repeat("x", 3800-int(info.Size()))}))
	require.NoError(t, trail.Close())
}

// On a full disk a slot still closes, in the pages that its readings free. Its outcome waits until the trail can be written.
func TestFullDiskAtClosing(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, logs := open(t, settings(b, filepath.Join(dir, "state"))+oneDevice)
	at := hoursAgo(2)
	require.NoError(t, o.Write(large(at)))
	fillBlock(t, filepath.Join(o.StateDirectory, "audit.jsonl"))
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	want := []string{"cod 5 mg/L U " + clock(at.Add(spec.SlotLength))}
	assert.Equal(t, want, b.await(t, 1))
	require.Eventually(t, func() bool { return strings.Contains(logs.text("E"), "Cannot write the outbox or the audit trail") },
		15*time.Second, 20*time.Millisecond)
	assert.Empty(t, outcomes(trail(t, o.StateDirectory), audit.Delivered))
	assert.Equal(t, 1, o.engine.Stats().Outbox.Slots)
	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 0 }, 15*time.Second, 20*time.Millisecond)
	assert.Len(t, outcomes(trail(t, o.StateDirectory), audit.Delivered), 1)
	assert.Equal(t, want, b.words(t))
	require.NoError(t, o.Close())
}

// A batch that was refused because of a full disk still gets into its slot, even if the window's end has passed.
func TestFullDiskOverAWindowsEnd(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "1m")
	b := startBoard(t)
	o, _ := open(t, settings(b, filepath.Join(dir, "state"))+oneDevice+`    statistic = "sum"`)
	at := hoursAgo(2)
	ballast := filepath.Join(dir, "ballast")
	batch := large(at)
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

// large is a batch that needs more than the free pages of the file. All readings are in one window, none at its start.
func large(at time.Time) (batch []telegraf.Metric) {
	for i := range 2000 {
		batch = append(batch, modbus(at.Add(time.Duration(i+1)*400*time.Millisecond), "cod", 5.0))
	}
	return batch
}

// smallDisk makes a directory with its own small file system.
func smallDisk(t testing.TB, size string) string {
	dir := t.TempDir()
	if err := syscall.Mount("ocems-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("only root can mount a small disk: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

// fill uses all free space of the file system of name.
func fill(t testing.TB, name string) {
	file, err := os.Create(name)
	require.NoError(t, err)
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
}

// Close does not wait for a disk. An outcome that cannot be written is asked for again after the restart.
func TestCloseOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "2m")
	b, state := startBoard(t), filepath.Join(dir, "state")
	b.down.Store(true)
	o, _ := open(t, settings(b, state)+oneDevice)
	at := hoursAgo(2)
	write(t, o, at, 1, 3)
	require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 1 }, 15*time.Second, 20*time.Millisecond)
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
	require.Eventually(t, func() bool { return o.engine.Stats().Outbox.Slots == 0 }, 15*time.Second, 20*time.Millisecond)
	assert.Equal(t, []string{"cod 2 mg/L U " + clock(at.Add(spec.SlotLength))}, b.words(t))
	entries := trail(t, state)
	assert.Len(t, append(outcomes(entries, audit.Delivered), outcomes(entries, audit.AlreadyStored)...), 1)
	require.NoError(t, o.Close())
}

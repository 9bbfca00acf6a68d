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

	"github.com/ocems-io/ocems/ocems/spec"
)

// TestFullDisk refuses what it cannot keep, says what to do, takes the same batch once there is room, and counts it once.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("ocems-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a file system of 1 MiB needs root: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
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
	dir := t.TempDir()
	if err := syscall.Mount("ocems-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a file system of 1 MiB needs root: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, 0)) })
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

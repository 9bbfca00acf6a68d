package wallclock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Clock changes one process's wall clock, like a step of the machine's clock. Its monotonic clock is not changed. Go reads the
// time through the kernel's vDSO, so no library can be replaced. Instead the process's own copy of the vDSO page is changed to
// code that asks the kernel and adds an offset, which follows the code.
type Clock struct {
	mem *os.File
	at  int64 // position of the offset in mem: 8 bytes, in s
}

// steppedClock replaces __vdso_clock_gettime(edi: clock, rsi: *timespec).
var steppedClock = []byte{
	0xb8, 0xe4, 0, 0, 0, // mov eax, 228: clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi: 0 is the wall clock
	0x75, 0x0a, // jne ret
	0x48, 0x8b, 0x0d, 0x0c, 0, 0, 0, // mov rcx, [rip+12]
	0x48, 0x01, 0x0e, // add [rsi], rcx: the seconds
	0xc3,                   // ret
	0, 0, 0, 0, 0, 0, 0, 0, // padding up to 30
}

const offsetAt = 30 // position of the offset, at the end of steppedClock

// Start starts c. Its wall clock is wrong by offset from its first instruction on.
func Start(c *exec.Cmd, offset time.Duration) (_ *Clock, err error) {
	runtime.LockOSThread() // ptrace identifies its tracer by the thread
	defer runtime.UnlockOSThread()
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Ptrace = true
	if err := c.Start(); err != nil {
		return nil, err
	}
	pid := c.Process.Pid
	defer func() {
		if err != nil {
			_ = c.Process.Kill()
		}
		err = errors.Join(err, syscall.PtraceDetach(pid))
	}()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		return nil, fmt.Errorf("waiting for the start of %s: %v, %v", c.Path, status, err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	at, err := vdsoClock(pid, mem)
	if err != nil {
		return nil, errors.Join(err, mem.Close())
	}
	k := &Clock{mem, at + offsetAt}
	if _, err := mem.WriteAt(steppedClock, at); err != nil {
		return nil, errors.Join(fmt.Errorf("writing to the vDSO: %w", err), mem.Close())
	}
	k.Set(offset)
	return k, nil
}

// vdsoClock returns the address of __vdso_clock_gettime in a process.
func vdsoClock(pid int, mem *os.File) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || !strings.Contains(line, "[vdso]") {
			continue
		}
		image := make([]byte, to-from)
		if _, err := mem.ReadAt(image, from); err != nil {
			return 0, fmt.Errorf("reading the vDSO: %w", err)
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, fmt.Errorf("reading the vDSO: %w", err)
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, fmt.Errorf("reading the vDSO: %w", err)
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + int64(s.Value), nil
			}
		}
	}
	return 0, errors.New("the process has no __vdso_clock_gettime")
}

// Set makes the process's wall clock jump to the machine's clock plus offset. It does nothing for an ended process.
func (k *Clock) Set(offset time.Duration) {
	_, _ = k.mem.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(offset/time.Second)), k.at)
}

// Close releases the process's memory file and does not change the process.
func (k *Clock) Close() { _ = k.mem.Close() }

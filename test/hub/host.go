package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocems-io/ocems/ocems/spec"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	publicKey = "ocems/seal/testdata/industry_test_public.pem"
	grace     = time.Second // short, so that the windows close by settle
	rest      = 300 * time.Millisecond
	tail      = 2 * time.Second // wait after the last slot, until outcomes are on disk
	patience  = 3 * time.Minute // limit for the slots of a boundary
)

// process is a running host.
type process struct {
	command *exec.Cmd
	exited  chan struct{}
	stdin   *os.File // for the external plugin
	port    string   // for the collector
	trace   string   // file with its syncs
	log     string
}

var configs = map[string]string{
	"exporter": `receivers:
  otlp:
    protocols:
      http:
        endpoint: @PORT@
exporters:
  ocems:
    endpoint: @URL@
    public_key_file: @KEY@
    storage: ocems_storage
    audit_file: @DIR@/audit.jsonl
    devices_file: @DIR@/devices.csv
    timestamps: source
    grace: @GRACE@
    settle: @SETTLE@
    spread: @SPREAD@
extensions:
  ocems_storage:
    directory: @DIR@/state
service:
  extensions: [ocems_storage]
  pipelines:
    metrics:
      receivers: [otlp]
      exporters: [ocems]
  telemetry:
    metrics:
      level: none
`,
	"output": `[[outputs.ocems]]
  endpoint = "@URL@"
  public_key_file = "@KEY@"
  state_directory = "@DIR@/state"
  audit_file = "@DIR@/audit.jsonl"
  devices_file = "@DIR@/devices.csv"
  timestamps = "source"
  grace = "@GRACE@"
  settle = "@SETTLE@"
  spread = "@SPREAD@"
`,
}

var programs = map[string]string{"exporter": "otelcol-ocems", "output": "ocems-telegraf"}

// start starts a host in a new directory, and waits until it is idle and knows the server's time.
func (p *plan) start(name string, s scenario, server *sink, dir string) (*process, error) {
	bin, err := filepath.Abs(filepath.Join(p.bin, programs[name]))
	if err != nil {
		return nil, err
	}
	key, err := filepath.Abs(publicKey)
	if err != nil {
		return nil, err
	}
	port, err := loopback.Free()
	if err != nil {
		return nil, err
	}
	config := strings.NewReplacer("@PORT@", port, "@URL@", server.url+dataPath, "@KEY@", key, "@DIR@", dir, "@GRACE@", grace.String(),
		"@SETTLE@", p.settle.String(), "@SPREAD@", p.spread.String()).Replace(configs[name])
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600), writeDevices(filepath.Join(dir, "devices.csv"), p.devices)); err != nil {
		return nil, err
	}
	h := &process{exited: make(chan struct{}), port: port, log: filepath.Join(dir, "host.log")}
	argv := []string{bin, "--config", filepath.Join(dir, "config")}
	if s.traced { // a grandchild traces, so that the child is the host; only these system calls stop it
		h.trace = filepath.Join(dir, "trace")
		tracer := []string{"strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-s", "0", "-o", h.trace, "-e", "trace=fsync,fdatasync,msync,pwrite64"}
		if s.delayed {
			tracer = append(tracer, "-e", fmt.Sprintf("inject=fsync,fdatasync,msync:delay_exit=%d", p.delay.Microseconds()))
		}
		argv = append(tracer, argv...)
	}
	log, err := os.Create(h.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h.command = exec.Command(argv[0], argv[1:]...)
	h.command.Stdout, h.command.Stderr = log, log
	if name == "output" {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		h.command.Stdin, h.stdin = r, w
	}
	if err := h.command.Start(); err != nil {
		return nil, err
	}
	go func() { _ = h.command.Wait(); close(h.exited) }()
	asked := 0
	for end := time.Now().Add(time.Minute); asked == 0; time.Sleep(50 * time.Millisecond) {
		if err := server.get("/asked", &asked); err != nil {
			return nil, err
		}
		select {
		case <-h.exited:
			return nil, fmt.Errorf("it has ended; see %s", h.log)
		default:
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("it does not ask the server for the time; see %s", h.log)
		}
	}
	for before := time.Duration(-1); h.cpu()-before > rest/20; {
		before = h.cpu()
		time.Sleep(rest)
	}
	return h, nil
}

func writeDevices(path string, n int) error {
	list := []byte("station_id,device_id,token_id\n")
	for i := range n {
		list = fmt.Appendf(list, "%s,%s,%s\n", station(i), deviceID(i), token(i))
	}
	return os.WriteFile(path, list, 0o600)
}

func (h *process) stop() error {
	_ = h.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
		return nil
	case <-time.After(30 * time.Second):
		_ = h.command.Process.Kill()
		<-h.exited
		return errors.New("it did not end within 30 s of SIGTERM")
	}
}

// cpu returns the CPU time of all threads of the process, including ended ones, in nanoseconds.
func (h *process) cpu() time.Duration {
	const sched = 2 // CPUCLOCK_SCHED of the kernel: the clock of another process
	var t unix.Timespec
	_ = unix.ClockGettime(int32(^h.command.Process.Pid<<3|sched), &t)
	return time.Duration(t.Nano())
}

// dirtied returns the kernel's count of bytes that the process has written to its disks. A write of 4 kB to a file counts as
// the whole folio of the page cache, which on ext4 can be megabytes.
func (h *process) dirtied() int { return h.number("io", "write_bytes:") }

// peak returns the largest memory of the process, in kB.
func (h *process) peak() int { return h.number("status", "VmHWM:") }

func (h *process) number(file, key string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.command.Process.Pid, file))
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == key {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}

// traced returns the number of syncs that began between two times, and the bytes written to files.
func (h *process) traced(from, to time.Time) (syncs, bytes int, err error) {
	f, err := os.Open(h.trace)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // thread, time, call; a call that is interrupted by another has a second line with its result
		if len(fields) < 3 {
			continue
		}
		seconds, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return 0, 0, err
		}
		if at := time.Unix(0, int64(seconds*1e9)); at.Before(from) || !at.Before(to) {
			continue
		}
		if strings.Contains(fields[2], "sync(") {
			syncs++
		} else if n, err := strconv.Atoi(fields[len(fields)-1]); err == nil && strings.Contains(lines.Text(), "pwrite64") {
			bytes += n
		}
	}
	return syncs, bytes, lines.Err()
}

// feed sends all readings of a window, and returns when the host has accepted them.
func (h *process) feed(p *plan, start time.Time) error {
	for minute := range minutes {
		at := start.Add(time.Duration(minute) * time.Minute)
		if h.stdin == nil {
			if err := feedOTLP("http://"+h.port+"/v1/metrics", p.devices, p.batch, at, minute); err != nil {
				return err
			}
			continue
		}
		if _, err := h.stdin.Write(lines(p.devices, at, minute)); err != nil {
			return err
		}
	}
	for h.stdin != nil {
		raw, err := h.stdin.SyscallConn()
		if err != nil {
			return err
		}
		left, fault := 0, error(nil)
		if err := raw.Control(func(fd uintptr) { left, fault = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil || fault != nil {
			return errors.Join(err, fault)
		}
		if left == 0 { // the last readings are being written to disk
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(rest)
	return nil
}

// measure runs one host through the boundaries of a scenario.
func (p *plan) measure(name string, s scenario) (rows []row, err error) {
	c := p.conduct(s)
	server, err := startSink(c)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	dir, err := os.MkdirTemp(p.dir, "hub-*")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	h, err := p.start(name, s, server, dir)
	if err != nil {
		return nil, err
	}
	for n := range p.boundaries {
		r, wrong := p.boundary(h, server, c, n)
		if err = wrong; err != nil {
			break
		}
		r.Host, r.Scenario, r.Traced = name, s.name, s.traced
		rows = append(rows, r)
	}
	if err = errors.Join(err, h.stop()); err == nil {
		err = os.RemoveAll(dir)
	}
	return rows, err
}

func (p *plan) boundary(h *process, server *sink, c conduct, n int) (r row, err error) {
	start := windowStart(n)
	stamp := start.Add(spec.SlotLength).UnixMilli()
	expected := 0
	for i := range p.devices {
		if c.answers(i) {
			expected++
		}
	}
	readings := float64(p.devices * len(parameters) * minutes)

	idle := h.cpu()
	time.Sleep(time.Second)
	idle = h.cpu() - idle // per second
	used := func(from, to time.Duration, wall time.Duration) float64 {
		return (to - from - time.Duration(float64(idle)*wall.Seconds())).Seconds() * 1e6
	}

	began, cpu := time.Now(), h.cpu()
	if err := h.feed(p, start); err != nil {
		return r, fmt.Errorf("feeding: %w", err)
	}
	fed, fedCPU, fedDirtied := time.Now(), h.cpu(), h.dirtied()

	var a account
	for a.Posted < expected && time.Since(fed) < patience {
		time.Sleep(50 * time.Millisecond)
		if err := server.get(fmt.Sprintf("/account?stamp=%d", stamp), &a); err != nil {
			return r, err
		}
		if a.Posted > 0 && a.First.Before(fed) {
			return r, errors.New("a window closed before the last reading: raise -settle or -batch")
		}
	}
	time.Sleep(tail)
	if err := server.get(fmt.Sprintf("/account?stamp=%d", stamp), &a); err != nil {
		return r, err
	}
	ended, endCPU, endDirtied := time.Now(), h.cpu(), h.dirtied()
	slots := float64(expected)
	r = row{Boundary: n + 1, Slots: expected, CPU: used(fedCPU, endCPU, ended.Sub(fed)) / slots, Rate: slots / a.Last.Sub(a.First).Seconds(),
		Wall: a.Last.Sub(fed.Add(-rest).Add(p.settle)).Seconds(), Dirtied: float64(endDirtied-fedDirtied) / slots, Peak: float64(h.peak()) / 1024,
		TakeCPU: used(cpu, fedCPU, fed.Sub(began)) / readings, Idle: idle.Seconds() * 1e3, Wrong: expected - a.Posted + a.Twice + a.Short}
	if h.trace != "" {
		syncs, bytes, err := h.traced(fed, ended)
		if err != nil {
			return r, err
		}
		r.Syncs, r.Written = float64(syncs)/slots*500, float64(bytes)/slots
		if r.TakeSyncs, bytes, err = h.traced(began, fed); err != nil {
			return r, err
		}
		r.TakeWritten = float64(bytes) / readings
	}
	return r, nil
}

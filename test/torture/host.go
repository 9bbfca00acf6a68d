package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ocems-io/ocems/test/wallclock"
	"golang.org/x/sys/unix"
)

// host says how one of the four hosts is started and fed, and how to find out what it has accepted.
type host struct {
	name   string
	config string // text of the configuration; @NAME@ is replaced
	argv   func(bin, dir string) []string
	dial   bool // it listens for metrics
	// handsOver: slots go from one component with a state to another. A kill in between passes them on twice.
	handsOver bool
	feed      func(p *process, ms []metric) answer
	// took returns how many of the metrics that were fed to this process, in order, certainly survive a kill now.
	took func(p *process) int
}

// answer is a host's answer to fed metrics.
type answer int

const (
	took answer = iota
	refused
	unsure
)

// process is one run of a host.
type process struct {
	host    *host
	dir     string
	port    string
	command *exec.Cmd
	stdin   *os.File
	stuck   bool // it no longer reads
	exited  chan struct{}
	fed     int // number of metrics
	sure    int // number of metrics that a collector has acknowledged or the external plugin has read
	clock   *wallclock.Clock
}

const line = `plant,instance=%d,ocems_device_id=%s,ocems_flag=%s,ocems_unit=mg/L cod=%v,bod=%v %d`

func lines(ms []metric) []byte {
	var b bytes.Buffer
	for _, m := range ms {
		fmt.Fprintf(&b, line+"\n", m.instance, m.device, m.sentAs(), m.cod, m.bod, m.at.UnixNano())
	}
	return b.Bytes()
}

// Short waits, so that most windows close before the host is killed.
const (
	grace  = "300ms"
	settle = "300ms"
)

var outputBlock = `[[outputs.ocems]]
  endpoint = "https://@FRONT@/v1.0/industry/data"
  tls_ca = "@DIR@/ca.pem"
  state_directory = "@STATE@"
  audit_file = "@DISK@/audit.jsonl"
  audit_rotate_mb = 1
  public_key_file = "@DIR@/keys/public.pem"
  timeout = "5s"
  grace = "` + grace + `"
  calibration_grace = "` + grace + `"
  settle = "` + settle + `"
  timestamps = "source"
  coalesce = "0s"
  spread = "0s"
  initial_backoff = "50ms"
  max_backoff = "200ms"
  hold_interval = "200ms"
` + each(`  [[outputs.ocems.device]]
    station_id = "@STATION@"
    device_id = "@ID@"
    token_id = "@TOKEN@"
`)

var hosts = map[string]*host{
	"telegraf": {
		name: "telegraf", dial: true,
		argv: func(bin, dir string) []string {
			return []string{filepath.Join(bin, "telegraf-ocems-small"), "--config", filepath.Join(dir, "config")}
		},
		config: `[agent]
  interval = "100ms"
  flush_interval = "100ms"
  round_interval = false
  metric_buffer_limit = 1000000
  omit_hostname = true
[[inputs.http_listener_v2]]
  service_address = "tcp://@PORT@"
  paths = ["/"]
  data_format = "influx"
[[inputs.internal]]
  collect_memstats = false
[[outputs.file]]
  files = ["@DIR@/internal.json"]
  data_format = "json"
  namepass = ["internal_ocems"]
` + outputBlock,
		feed: func(p *process, ms []metric) answer {
			resp, err := http.Post("http://"+p.port+"/", "text/plain", bytes.NewReader(lines(ms)))
			if err != nil {
				return unsure
			}
			defer resp.Body.Close()
			if resp.StatusCode >= 300 {
				return refused
			}
			return took
		},
		took: func(p *process) int { // its own counters
			text, _ := os.ReadFile(filepath.Join(p.dir, "internal.json"))
			best := 0
			for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
				var m struct{ Fields map[string]float64 }
				if json.Unmarshal(s.Bytes(), &m) == nil {
					f := m.Fields
					best = max(best, int(f["samples"]+f["samples_duplicate"]+f["samples_late"]+f["samples_refused"])/2)
				}
			}
			return best
		},
	},
	"external": {
		name: "external",
		argv: func(bin, dir string) []string {
			return []string{filepath.Join(bin, "ocems-telegraf"), "--config", filepath.Join(dir, "config")}
		},
		config: outputBlock,
		feed: func(p *process, ms []metric) answer {
			before := p.fed - len(ms)
			held, _ := waiting(p.stdin)
			_ = p.stdin.SetWriteDeadline(time.Now().Add(patience))
			if _, err := p.stdin.Write(lines(ms)); err != nil {
				p.stuck = true // maybe in the middle of a line
				return unsure
			}
			// Metrics are durable before the next read. If these bytes are read from a pipe that was empty, all metrics before them are
			// durable.
			if n, err := waiting(p.stdin); err == nil && n == 0 && held == 0 {
				p.sure = max(p.sure, before)
			}
			return took
		},
		took: func(p *process) int { return p.sure },
	},
	"exporter": collector("exporter", ""),
	"edge":     collector("edge", slotProcessor),
}

const aligning = `    storage: ocems_storage
    audit_file: @DISK@/audit.jsonl
    audit_rotate_mb: 1
    grace: ` + grace + `
    calibration_grace: ` + grace + `
    settle: ` + settle + `
    timestamps: source
`

var slotProcessor = `processors:
  ocems_slot:
` + aligning + `    devices:
` + each(`      - {station_id: @STATION@, device_id: @ID@}
`)

// collector is a host whose exporter aligns, or whose processor does.
func collector(name, processors string) *host {
	with := ""
	if processors != "" {
		with = "      processors: [ocems_slot]\n"
	}
	return &host{
		name: name, dial: true, handsOver: processors != "",
		argv: func(bin, dir string) []string {
			return []string{filepath.Join(bin, "otelcol-ocems"), "--config", filepath.Join(dir, "config")}
		},
		config: `receivers:
  otlp:
    protocols:
      http:
        endpoint: @PORT@
` + processors + `exporters:
  ocems:
    endpoint: https://@FRONT@/v1.0/industry/data
    http:
      timeout: 5s
      tls:
        ca_file: @DIR@/ca.pem
    public_key_file: @DIR@/keys/public.pem
` + aligning + `    coalesce: 0s
    spread: 0s
    initial_backoff: 50ms
    max_backoff: 200ms
    hold_interval: 200ms
    devices:
` + each(`      - {station_id: @STATION@, device_id: @ID@, token_id: @TOKEN@}
`) + `extensions:
  ocems_storage:
    directory: @STATE@
service:
  extensions: [ocems_storage]
  pipelines:
    metrics:
      receivers: [otlp]
` + with + `      exporters: [ocems]
  telemetry:
    metrics:
      level: none
`,
		feed: func(p *process, ms []metric) answer {
			resp, err := http.Post("http://"+p.port+"/v1/metrics", "application/json", bytes.NewReader(otlp(ms)))
			if err != nil {
				return unsure
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return refused
			}
			p.sure = p.fed
			return took
		},
		took: func(p *process) int { return p.sure },
	}
}

// patience is how long a host may leave its pipe full, because its disk may be full.
const patience = 4 * time.Second

// waiting returns the number of bytes in a pipe. It does not use Fd, because writes would then block without a deadline.
func waiting(pipe *os.File) (n int, err error) {
	raw, err := pipe.SyscallConn()
	if err == nil {
		fault := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		err = errors.Join(err, fault)
	}
	return n, err
}

// otlp writes metrics as OTLP in JSON. Each point has its own metric, so that they keep the order of the samples.
func otlp(ms []metric) []byte {
	type object = map[string]any
	var resources []object
	var list []object
	for i, m := range ms {
		attributes := []object{
			{"key": "ocems.device.id", "value": object{"stringValue": m.device}},
			{"key": "ocems.flag", "value": object{"stringValue": m.sentAs()}},
		}
		for _, v := range []struct {
			name  string
			value float64
		}{{"bod", m.bod}, {"cod", m.cod}} {
			list = append(list, object{"name": v.name, "unit": "mg/L", "gauge": object{"dataPoints": []object{
				{"timeUnixNano": fmt.Sprint(m.at.UnixNano()), "asDouble": v.value, "attributes": attributes}}}})
		}
		if i == len(ms)-1 || ms[i+1].instance != m.instance {
			resources = append(resources, object{
				"resource":     object{"attributes": []object{{"key": "service.instance.id", "value": object{"stringValue": fmt.Sprint(m.instance)}}}},
				"scopeMetrics": []object{{"metrics": list}}})
			list = nil
		}
	}
	text, _ := json.Marshal(object{"resourceMetrics": resources})
	return text
}

// start starts a run whose wall clock is wrong by offset, and waits until it accepts metrics.
func (v *victim) start(offset time.Duration) (*process, error) {
	p := &process{host: v.host, dir: v.dir, port: v.port, exited: make(chan struct{})}
	_ = os.Remove(filepath.Join(v.dir, "internal.json"))
	argv := v.host.argv(v.bin, v.dir)
	p.command = exec.Command(argv[0], argv[1:]...)
	p.command.Stdout, p.command.Stderr = v.log, v.log
	var pipe *os.File
	if !v.host.dial {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.command.Stdin, p.stdin, pipe = r, w, r
	}
	v.noteLines()
	if v.abrupt || v.lives == 0 {
		v.lives++
	}
	v.abrupt = false
	v.board.lies.lifeEnds(v.fedUntil().Truncate(15 * time.Minute).Add(15 * time.Minute).UnixMilli())
	began := time.Now()
	var err error
	p.clock, err = wallclock.Start(p.command, offset)
	if pipe != nil {
		_ = pipe.Close()
	}
	if err != nil {
		return nil, err
	}
	v.process = p
	go func() { _ = p.command.Wait(); close(p.exited) }()
	if v.host.dial {
		err = until(20*time.Second, func() bool {
			c, err := net.Dial("tcp", p.port)
			if err == nil {
				_ = c.Close()
			}
			return err == nil || p.dead()
		})
		if err != nil || p.dead() {
			return nil, errors.New("it does not start; see host.log")
		}
	}
	v.recovery = append(v.recovery, time.Since(began))
	return p, nil
}

func (p *process) dead() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// stop ends a run with a signal and returns how long this took.
func (p *process) stop(s os.Signal) time.Duration {
	began := time.Now()
	_ = p.command.Process.Signal(s)
	<-p.exited
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	p.clock.Close()
	return time.Since(began)
}

func (v *victim) writeConfig() error {
	text := strings.NewReplacer("@FRONT@", v.board.front, "@DIR@", v.dir, "@DISK@", v.disk, "@STATE@", v.state, "@PORT@", v.port).Replace(v.host.config)
	return os.WriteFile(filepath.Join(v.dir, "config"), []byte(text), 0o600)
}

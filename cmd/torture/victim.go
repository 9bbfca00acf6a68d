package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// device is one of the plant's. The tokens are for tests only.
type device struct{ id, station, token string }

var devices = func() (list []device) {
	for i := range 6 {
		n := string(rune('a' + i))
		list = append(list, device{"dev_" + n, "station_" + n, fmt.Sprintf("test-token-%s-%032d", n, i)})
	}
	return list
}()

// each writes text once for every device, with @ID@, @STATION@ and @TOKEN@ put in.
func each(text string) string {
	var b strings.Builder
	for _, d := range devices {
		b.WriteString(strings.NewReplacer("@ID@", d.id, "@STATION@", d.station, "@TOKEN@", d.token).Replace(text))
	}
	return b.String()
}

var registry = "stations:\n" + each(`  - id: @STATION@
    devices:
      - {id: @ID@, token: @TOKEN@, parameters: {cod: [mg/L], bod: [mg/L]}, calibrations: [{from: -192h, to: 24h}]}
`)

const (
	step      = 10 * time.Second // of event time between samples
	batchSize = 6                // steps fed at once
	stateSize = 64 << 20
	furthest  = 6 * time.Hour // that a clock jumps
)

// metric is what one device shows at one time: two samples.
type metric struct {
	device, flag string
	at           time.Time
	cod, bod     float64
}

// gap says that of the metrics lo to hi, some number at the end may not have been taken.
type gap struct{ lo, hi int }

// victim is a host under torture.
type victim struct {
	host            *host
	bin, dir, state string
	port            string
	kill            int // wanted
	drain           time.Duration
	board           *board
	log             *os.File
	random          *rand.Rand
	mounted         bool

	fed      []metric
	steps    int // of event time
	gaps     []gap
	began    time.Time // of event time
	kills    int
	recovery []time.Duration
	excused  map[place]bool // not yet at the board when the state was damaged
	untold   map[place]bool // at the board by then, and the answer was still to be had again
	broken   int            // metrics fed by then: a host may have forgotten which of their windows it had closed
	last     *received

	mu    sync.Mutex
	kinds map[string]int
}

func newVictim(o options, name, dir string, seed uint64) (*victim, error) {
	h, ok := hosts[name]
	if !ok {
		return nil, errors.New("no such host; there are collector, telegraf, external")
	}
	v := &victim{host: h, bin: o.bin, dir: dir, state: filepath.Join(dir, "state"), kill: o.kills, drain: o.settle,
		random: rand.New(rand.NewPCG(seed, 1)), kinds: map[string]int{}, began: time.Now().Add(-156 * time.Hour).Truncate(15 * time.Minute)}
	if err := os.MkdirAll(v.state, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", v.state, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", stateSize)); err == nil {
		v.mounted = true
	} else {
		log.Printf("%s: no disk of its own (%v): it will not be filled", name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "registry.yaml"), []byte(registry), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command(filepath.Join(o.bin, "ocems"), "keygen", "--out", filepath.Join(dir, "keys")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("keygen: %w: %s", err, out)
	}
	var err error
	if v.log, err = os.Create(filepath.Join(dir, "host.log")); err != nil {
		return nil, err
	}
	if v.board, err = startBoard(o.bin, dir, filepath.Join(dir, "registry.yaml")); err != nil {
		return nil, err
	}
	if v.port, err = freePort(); err != nil {
		return nil, err
	}
	return v, v.writeConfig()
}

func (v *victim) end() {
	v.board.stop()
	v.log.Close()
	if v.mounted {
		_ = exec.Command("cp", "-a", v.state, v.dir+"/state-at-the-end").Run() // for the search for secrets, and for people
		_ = syscall.Unmount(v.state, 0)
	}
}

// next makes the metrics of the next minute of event time.
func (v *victim) next() []metric {
	var out []metric
	for range batchSize {
		at := v.began.Add(time.Duration(v.steps) * step)
		v.steps++
		for i, d := range devices {
			m := metric{device: d.id, flag: "U", at: at, cod: v.value(), bod: v.value()}
			if i == 1 && at.Unix()/900%8 == 3 {
				m.flag = "Z"
			}
			out = append(out, m)
		}
	}
	if n := v.random.IntN(40 * 90); n < v.steps-batchSize && v.random.IntN(8) == 0 { // one that comes late, or would
		at := v.began.Add(time.Duration(v.steps-batchSize-n)*step + time.Second)
		out = append(out, metric{device: devices[0].id, flag: "U", at: at, cod: v.value(), bod: v.value()})
	}
	v.fed = append(v.fed, out...)
	return out
}

func (v *victim) value() float64 { return float64(v.random.IntN(1_000_000)) / 1024 }

// exhausted reports that the fed time has come near to now, or to what a clock that is late takes for now.
func (v *victim) exhausted() bool {
	return time.Since(v.began.Add(time.Duration(v.steps)*step)) < furthest+time.Hour
}

// jump is how far a machine's clock is off: not at all, or by up to hours to either side.
func (v *victim) jump() time.Duration {
	if v.random.IntN(2) == 0 {
		return 0
	}
	v.count("clock jump")
	return v.between(-furthest, furthest)
}

func (v *victim) feed(p *process, length time.Duration) {
	for end := time.Now().Add(length); time.Now().Before(end) && !p.dead() && !v.exhausted(); {
		ms := v.next()
		p.fed += len(ms)
		if v.random.IntN(20) == 0 {
			p.clock.set(v.jump())
		}
		if !p.host.feed(p, ms) {
			v.gaps = append(v.gaps, gap{len(v.fed) - len(ms), len(v.fed)})
		}
		time.Sleep(time.Duration(20+v.random.IntN(40)) * time.Millisecond)
	}
}

func (v *victim) between(low, high time.Duration) time.Duration {
	return low + time.Duration(v.random.Int64N(int64(high-low)))
}

// torture kills, stops and starts the host while the board misbehaves, and then lets both recover.
func (v *victim) torture() error {
	stopFaults, faultsDone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(faultsDone)
		v.misbehave(stopFaults)
	}()
	err := v.lives()
	close(stopFaults)
	<-faultsDone
	v.board.mode.Store(good)
	v.board.reset.Store(false)
	if err == nil {
		err = v.board.faults(nil)
	}
	if err != nil {
		return err
	}
	// The last life: what waits goes out.
	p, err := v.start(0)
	if err != nil {
		return err
	}
	began := time.Now()
	_ = until(v.drain, func() bool {
		time.Sleep(2 * time.Second)
		r := v.judge()
		return r.lost == 0 && (r.damaged == 0 || time.Since(began) > 10*time.Second) // what waits in a mended state goes out too
	})
	if took := p.stop(syscall.SIGTERM); took > 10*time.Second {
		return fmt.Errorf("it took %s to stop", took)
	}
	v.judge() // takes the board's account, before it is gone
	return nil
}

func (v *victim) lives() error {
	for v.kills < v.kill {
		base := len(v.fed)
		p, err := v.start(v.jump())
		if err != nil {
			return err
		}
		v.feed(p, v.between(200*time.Millisecond, 2*time.Second))
		if v.mounted && v.random.IntN(4) == 0 {
			v.fillDisk(p)
		}
		if v.kills == 1 {
			if err := v.second(); err != nil {
				return err
			}
		}
		if v.random.IntN(5) == 0 {
			if took := p.stop(syscall.SIGTERM); took > 10*time.Second {
				return fmt.Errorf("it took %s to stop", took)
			}
		} else {
			sure := base + min(p.host.took(p), p.fed)
			p.stop(syscall.SIGKILL)
			v.gaps = append(v.gaps, gap{sure, len(v.fed)})
		}
		v.kills++
		if v.mounted && v.kills == 2 {
			if err := v.readOnly(); err != nil {
				return err
			}
		}
		if v.kills == v.kill*3/4 {
			if err := v.damage(); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillDisk leaves no room for a while, in which the host is fed on.
func (v *victim) fillDisk(p *process) {
	v.count("disk full")
	balloon := filepath.Join(v.state, "balloon")
	f, err := os.Create(balloon)
	if err != nil {
		return
	}
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = f.Write(block)
	}
	_ = f.Close()
	free := time.AfterFunc(v.between(500*time.Millisecond, 1500*time.Millisecond), func() { _ = os.Remove(balloon) })
	v.feed(p, time.Second)
	free.Reset(0)
	_ = until(10*time.Second, func() bool { _, err := os.Stat(balloon); return err != nil })
	// A collector killed before it could save again would lose more than the last checkpoint interval, as it says.
	v.feed(p, 4*time.Second)
}

// second starts another process on the same state, which must end by itself and do no harm.
func (v *victim) second() error {
	v.count("second process")
	text, err := os.ReadFile(filepath.Join(v.dir, "config"))
	if err != nil {
		return err
	}
	other, err := freePort()
	if err != nil {
		return err
	}
	config := strings.NewReplacer(v.port, other, "audit.jsonl", "audit-2.jsonl", "slots.jsonl", "slots-2.jsonl", "internal.json", "internal-2.json").Replace(string(text))
	dir := filepath.Join(v.dir, "second")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		return err
	}
	return v.refused(dir, "a second process on the same state")
}

// readOnly starts the host on a state that it cannot write: it must end by itself and leave it as it is.
func (v *victim) readOnly() error {
	v.count("read-only state")
	if err := syscall.Mount("", v.state, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	err := v.refused(v.dir, "a process on a read-only state")
	return errors.Join(err, syscall.Mount("", v.state, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", stateSize)))
}

// refused starts the host with the configuration in dir and expects it to give up.
func (v *victim) refused(dir, what string) error {
	argv := v.host.argv(v.bin, dir)
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr = v.log, v.log
	if _, err := c.StdinPipe(); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			return fmt.Errorf("%s ended as if all were well", what)
		}
		return nil
	case <-time.After(40 * time.Second):
		_ = c.Process.Kill()
		<-ended
		return fmt.Errorf("%s went on", what)
	}
}

// damage truncates or overwrites a state file of a host that does not run. What was neither at the board nor in the
// trail by then may be lost, and the host must say so.
func (v *victim) damage() error {
	v.count("damaged state")
	got, err := v.board.received()
	if err != nil {
		return err
	}
	v.excused, v.broken = map[place]bool{}, len(v.fed)
	for p := range v.windows() {
		v.excused[p] = true
	}
	named := map[place]bool{}
	entries, _ := trail(filepath.Join(v.dir, "audit.jsonl"))
	for _, e := range entries {
		for _, x := range e.Readings {
			named[place{e.Device, x.Parameter, x.Flag, e.Stamp}] = true
		}
	}
	v.untold = map[place]bool{}
	for _, r := range got.Readings {
		p := place{r.Device, r.Parameter, r.Flag, r.Timestamp}
		delete(v.excused, p)
		v.untold[p] = !named[p]
	}
	var files []string
	list, err := os.ReadDir(v.state)
	if err != nil {
		return err
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() > 0 && e.Name() != "audit.jsonl" {
			files = append(files, filepath.Join(v.state, e.Name()))
		}
	}
	name := files[v.random.IntN(len(files))]
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if v.random.IntN(2) == 0 {
		log.Printf("%s: %s is cut in half", v.host.name, filepath.Base(name))
		return os.Truncate(name, info.Size()/2)
	}
	log.Printf("%s: a part of %s is overwritten", v.host.name, filepath.Base(name))
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(v.random.Uint32())
	}
	_, err = f.WriteAt(noise[:min(int64(len(noise)), info.Size())], v.random.Int64N(max(info.Size()-4096, 1)))
	return err
}

var statuses = []int{0, 10, 102, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 999}

// misbehave makes the board do so until stop.
func (v *victim) misbehave(stop <-chan struct{}) {
	random := rand.New(rand.NewPCG(v.random.Uint64(), 2))
	for {
		wait := time.Duration(50+random.IntN(150)) * time.Millisecond
		select {
		case <-stop:
			v.left()
			return
		case <-time.After(wait):
		}
		v.left()
		count := 1 + random.IntN(6)
		fault := map[string]any{"count": count}
		kind := ""
		switch random.IntN(12) {
		case 0:
			kind = "slow"
			fault["latency"] = fmt.Sprintf("%dms", 50+random.IntN(600))
		case 1:
			kind = "http 5xx"
			fault["http_status"] = 500 + random.IntN(5)
		case 2:
			kind = "http 429"
			fault["http_status"], fault["retry_after"] = 429, 1
		case 3:
			kind = "http 4xx"
			fault["http_status"] = []int{401, 403, 404, 413}[random.IntN(4)]
		case 4:
			kind = "html"
			fault["html"], fault["http_status"] = true, 200
		case 5:
			kind = "closed"
			fault["close"] = true
		case 6:
			kind = "half a body"
			fault["half"] = true
		case 7:
			kind = "reply lost after it was stored"
			fault["close"], fault["after_store"] = true, true
		case 8:
			kind = "server's clock"
			fault["clock_offset"] = fmt.Sprintf("%dh", random.IntN(7)-3)
		case 9:
			kind = "certificate"
			v.board.mode.Store(int32(expired + random.IntN(2)))
			v.board.cut()
			time.Sleep(time.Duration(200+random.IntN(400)) * time.Millisecond)
			v.board.mode.Store(good)
		case 10:
			kind = "reset"
			v.board.reset.Store(true)
			v.board.cut()
			time.Sleep(time.Duration(200+random.IntN(400)) * time.Millisecond)
			v.board.reset.Store(false)
		default:
			kind = "status"
			if fault["status"] = statuses[random.IntN(len(statuses))]; random.IntN(4) == 0 {
				fault["status"] = []int{111, 112, 117}[random.IntN(3)] // those that end a reading's way
			}
		}
		if kind == "certificate" || kind == "reset" {
			v.count(kind)
			continue
		}
		v.mu.Lock()
		v.kinds[kind] += count
		v.mu.Unlock()
		if err := v.board.faults([]map[string]any{fault}); err != nil {
			log.Printf("%s: %v", v.host.name, err)
		}
	}
}

// left takes the faults that met no request out of the count, and clears them.
func (v *victim) left() {
	resp, err := http.Get(v.board.url + "/faults")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var list []struct {
		Count int `json:"count"`
	}
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return
	}
	v.mu.Lock()
	for _, f := range list {
		v.kinds["unmet"] += f.Count
	}
	v.mu.Unlock()
	_ = v.board.faults(nil)
}

func (v *victim) count(kind string) {
	v.mu.Lock()
	v.kinds[kind]++
	v.mu.Unlock()
}

func (v *victim) faults() (n int) {
	for kind, c := range v.kinds {
		if kind == "unmet" {
			n -= c
		} else {
			n += c
		}
	}
	return n
}

func (v *victim) tally() string {
	text, _ := json.Marshal(v.kinds)
	return strings.NewReplacer(`"`, "", "{", "", "}", "").Replace(string(text))
}

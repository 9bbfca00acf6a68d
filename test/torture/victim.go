package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ocems-io/ocems/test/loopback"
)

// device is a device of the plant. The tokens are for tests only.
type device struct{ id, station, token string }

var devices = func() (list []device) {
	for i := range 6 {
		n := string(rune('a' + i))
		list = append(list, device{"dev_" + n, "station_" + n, fmt.Sprintf("test-token-%s-%032d", n, i)})
	}
	return list
}()

// each repeats text for every device, and replaces @ID@, @STATION@ and @TOKEN@.
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
	step      = 10 * time.Second // event time between samples
	batchSize = 6                // steps in one batch
	diskSize  = 64 << 20
	furthest  = 240 * time.Hour // largest jump of a clock
	hours     = 6 * time.Hour   // largest usual jump
	oldest    = 157 * time.Hour // largest age of a fed metric: it may come some hours late, and after 7 days it is too old
)

// metric has the values of one device at one time: two samples.
type metric struct {
	device, flag string
	at           time.Time
	cod, bod     float64
	instance     int // instance of its sender
	contradicts  bool
	as           string // a flag that differs from the first one of its time
}

func (m metric) sentAs() string { return cmp.Or(m.as, m.flag) }

// gap says that some of the last metrics between lo and hi may not have been accepted.
type gap struct{ lo, hi int }

// victim is a host under torture.
type victim struct {
	host        *host
	bin, dir    string
	disk, state string // its own file system, with the trail; the state directory on it
	port        string
	kill        int // wanted number of kills
	drain       time.Duration
	board       *board
	process     *process // the last run
	log         *os.File
	// choices are for events, values for fed metrics. They are separate, so that a run with fewer metrics does not change the next.
	choices, values *rand.Rand
	mounted         bool

	fed        []metric // in order, with repetitions
	kept       []metric // refused; will be fed again
	instance   int      // instance of the sender
	full       bool     // the disk is full
	odd        map[time.Time]bool
	steps      int // steps of event time
	gaps       []gap
	began      time.Time // start of event time
	kills      int
	recovery   []time.Duration
	drained    time.Duration  // from the last fault until no slot was missing
	lives      int            // number of runs
	abrupt     bool           // the last run did not end by itself
	wrongClock bool           // the clock of this run jumps
	wrongDate  atomic.Bool    // the board's clock jumps; never both, because a host cannot detect two wrong clocks
	lived      map[string]int // run in which a line of the trail was written, by its hash; without the lines of the last run
	excused    map[place]bool // not yet at the board when the state was damaged
	untold     map[place]bool // at the board when the state was damaged, but the host did not have the answer
	untrue     bool           // the trail was damaged
	brokenLife int            // the last run before the damage
	logged     int            // bytes of the log at the damage
	cut        string         // the damaged file, if the host must detect it
	broken     int            // metrics fed before the damage; a host may have forgotten which of their windows it had closed
	over       bool           // it has ended, so the trail is complete
	last       *received

	events map[string]int // by kind: events of the host
	faults map[string]int // by kind: requests with a faulty answer, and times when the board could not be reached
}

func newVictim(o options, name, dir string, seed uint64) (*victim, error) {
	h, ok := hosts[name]
	if !ok {
		return nil, errors.New("unknown host; give telegraf, external, exporter or edge")
	}
	v := &victim{host: h, bin: o.bin, dir: dir, disk: filepath.Join(dir, "disk"), state: filepath.Join(dir, "disk", "state"), kill: o.kills, drain: o.settle,
		choices: rand.New(rand.NewPCG(seed, 1)), values: rand.New(rand.NewPCG(seed, 3)), lived: map[string]int{}, odd: map[time.Time]bool{}, events: map[string]int{}, faults: map[string]int{}, began: time.Now().Add(-156 * time.Hour).Truncate(15 * time.Minute)}
	if err := os.MkdirAll(v.disk, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", v.disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err == nil {
		v.mounted = true
	} else {
		log.Printf("%s: cannot mount its own disk (%v): the disk will not be filled", name, err)
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
	if v.port, err = loopback.Free(); err != nil {
		return nil, err
	}
	return v, v.writeConfig()
}

func (v *victim) end() {
	if v.process != nil && !v.process.dead() { // only after an error
		v.process.stop(syscall.SIGKILL)
	}
	v.board.stop()
	v.log.Close()
	if v.mounted {
		kept := v.disk + "-kept" // for the judge and for people
		_ = exec.Command("cp", "-a", v.disk, kept).Run()
		_ = syscall.Unmount(v.disk, 0)
		_ = os.Remove(v.disk)
		_ = os.Rename(kept, v.disk)
	}
}

// next returns the metrics of the next minute of event time.
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
	if n := v.values.IntN(40 * 90); n < v.steps-batchSize && v.values.IntN(8) == 0 { // a metric that comes late, or may
		at := v.began.Add(time.Duration(v.steps-batchSize-n)*step + time.Second)
		if !v.odd[at] {
			out = append(out, metric{device: devices[0].id, flag: "U", at: at, cod: v.value(), bod: v.value()})
		}
		v.odd[at] = true
	}
	return out
}

func (v *victim) value() float64 { return float64(v.values.IntN(1_000_000)) / 1024 }

// exhausted reports whether the event time is near the current time, or near the time of a clock that is behind.
func (v *victim) exhausted() bool {
	return v.age() < hours+time.Hour
}

// fedUntil returns the event time of the last metric.
func (v *victim) fedUntil() time.Time { return v.began.Add(time.Duration(v.steps) * step) }

func (v *victim) age() time.Duration { return time.Since(v.fedUntil()) }

// jump returns the error of a machine's clock: none, up to hours, or up to days, in both directions.
func (v *victim) jump() time.Duration {
	if !v.wrongClock || v.choices.IntN(2) == 0 {
		return 0
	}
	if v.choices.IntN(2) == 0 {
		v.events["clock jump"]++
		return v.between(-hours, hours)
	}
	v.events["clock jump of days"]++
	for {
		by := v.between(-furthest, furthest)
		switch ahead := v.age() + by; { // relative to the fed metrics
		case ahead > -time.Hour && ahead < hours: // for this clock the metrics would be live
		case v.host.handsOver && (ahead < 0 || ahead > oldest): // no server corrects a processor whose clock makes the metrics future or too old
		default:
			return by
		}
	}
}

// feed feeds some minutes of event time.
func (v *victim) feed(p *process, minutes int) {
	for ; minutes > 0 && !p.dead() && !p.stuck && !v.exhausted(); minutes-- {
		ms := v.kept
		if ms == nil {
			ms = v.another(v.next())
		}
		if p.fed == 0 {
			ms = append(v.afterKill(), ms...)
		}
		v.kept = nil
		v.fed = append(v.fed, ms...)
		p.fed += len(ms)
		if v.choices.IntN(20) == 0 {
			p.clock.Set(v.jump())
		}
		switch p.host.feed(p, ms) {
		case refused: // a sender keeps the metrics
			v.kept, v.fed = ms, v.fed[:len(v.fed)-len(ms)]
			p.fed -= len(ms)
			v.events["refused batch"]++
		case unsure:
			v.gaps = append(v.gaps, gap{len(v.fed) - len(ms), len(v.fed)})
		}
		time.Sleep(time.Duration(20+v.choices.IntN(40)) * time.Millisecond)
	}
}

func (v *victim) between(low, high time.Duration) time.Duration {
	return low + time.Duration(v.choices.Int64N(int64(high-low)))
}

// torture kills, stops and starts the host while the board misbehaves, and then lets both recover.
func (v *victim) torture() error {
	seed := v.choices.Uint64()
	stopFaults := make(chan struct{})
	var faults sync.WaitGroup
	faults.Go(func() { v.misbehave(rand.New(rand.NewPCG(seed, 2)), stopFaults) })
	faults.Go(func() { v.lie(rand.New(rand.NewPCG(seed, 4)), stopFaults) })
	err := v.ordeal()
	close(stopFaults)
	faults.Wait()
	for kind, n := range v.board.lies.met {
		v.faults[kind] += n
	}
	v.board.mode.Store(good)
	v.board.reset.Store(false)
	if err == nil {
		err = v.board.faults(nil)
	}
	if err != nil {
		return err
	}
	// In the last run all waiting slots are delivered. Slots that are new to the board show that a 111 can be trusted again.
	v.wrongClock = false
	p, err := v.start(0)
	if err != nil {
		return err
	}
	v.feed(p, 20)
	began := time.Now()
	_ = until(v.drain, func() bool {
		time.Sleep(2 * time.Second)
		r := v.judge()
		return r.lost == 0 && (r.damaged == 0 || time.Since(began) > 10*time.Second) // slots in a repaired state are delivered too
	})
	v.drained = time.Since(began)
	if took := p.stop(syscall.SIGTERM); took > 10*time.Second {
		return fmt.Errorf("it took %s to stop", took)
	}
	v.over = true
	v.judge() // reads the board's data before the board ends
	return nil
}

func (v *victim) ordeal() error {
	for life := 1; v.kills < v.kill; life++ {
		base := len(v.fed)
		if v.full {
			v.freeDisk()
		}
		clocks := v.choices.IntN(3)
		v.wrongClock = clocks == 0
		v.wrongDate.Store(clocks == 1)
		p, err := v.start(v.jump())
		if err != nil {
			return err
		}
		v.feed(p, 5+v.choices.IntN(60))
		if v.excused == nil && !p.dead() && !p.stuck && (life == 3 || v.choices.IntN(8) == 0) { // the files that are kept after a damage stay
			if err := v.takeAway(p); err != nil {
				return err
			}
		}
		if v.mounted && v.choices.IntN(4) == 0 {
			v.fillDisk(p)
		}
		if life == 2 {
			if err := v.second(); err != nil {
				return err
			}
		}
		if v.choices.IntN(5) == 0 {
			v.events["SIGTERM"]++
			sure := base + min(p.host.took(p), p.fed)
			if took := p.stop(syscall.SIGTERM); took > 10*time.Second {
				return fmt.Errorf("it took %s to stop", took)
			}
			if v.full { // metrics that the host could only keep in memory are lost
				v.gaps = append(v.gaps, gap{sure, len(v.fed)})
			}
		} else {
			sure := base + min(p.host.took(p), p.fed)
			by := syscall.SIGKILL
			if v.choices.IntN(8) == 0 {
				by = syscall.SIGQUIT // the log gets the stacks of all goroutines
				v.events["SIGQUIT"]++
			}
			p.stop(by)
			v.gaps = append(v.gaps, gap{sure, len(v.fed)})
			v.kills++
			v.abrupt = true
		}
		damage := v.excused == nil && v.kills >= v.kill*3/4
		if life == 2 || damage || v.kills >= v.kill { // the next steps need disk space; a short run did not wait for it
			if v.full {
				v.freeDisk().Reset(0)
			}
			_ = until(10*time.Second, v.roomy)
		}
		if v.mounted && life == 2 {
			if err := v.readOnly(); err != nil {
				return err
			}
		}
		if damage {
			if err := v.damage(); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillDisk fills the disk for a while, and continues to feed the host.
func (v *victim) fillDisk(p *process) {
	v.events["disk full"]++
	f, err := os.Create(v.balloon())
	if err != nil {
		return
	}
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = f.Write(block)
	}
	_ = f.Close()
	if v.choices.IntN(3) == 0 { // the disk is full when the host ends and when it starts again
		v.full = true
		v.feed(p, 25)
		return
	}
	free := v.freeDisk()
	v.feed(p, 25)
	free.Reset(0)
	_ = until(10*time.Second, v.roomy)
	if v.choices.IntN(2) == 0 { // otherwise the kill may come while a host still waits for refused metrics
		v.feed(p, 100)
	}
}

// freeDisk frees the disk after a while.
func (v *victim) freeDisk() *time.Timer {
	v.full = false
	return time.AfterFunc(v.between(500*time.Millisecond, 1500*time.Millisecond), func() { _ = os.Remove(v.balloon()) })
}

// balloon returns the path of the file that fills the disk.
func (v *victim) balloon() string { return filepath.Join(v.disk, "balloon") }

func (v *victim) roomy() bool {
	_, err := os.Stat(v.balloon())
	return err != nil
}

// second starts another process on the same state. It must end by itself and change nothing.
func (v *victim) second() error {
	v.events["second process"]++
	text, err := os.ReadFile(filepath.Join(v.dir, "config"))
	if err != nil {
		return err
	}
	other, err := loopback.Free()
	if err != nil {
		return err
	}
	config := strings.NewReplacer(v.port, other, "audit.jsonl", "audit-2.jsonl", "internal.json", "internal-2.json").Replace(string(text))
	dir := filepath.Join(v.dir, "second")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		return err
	}
	return v.refused(dir, "a second process on the same state", "")
}

// readOnly starts the host on a state that it cannot write. It must end by itself, or wait until the disk works, and leave the
// state unchanged.
func (v *victim) readOnly() error {
	v.events["read-only state"]++
	var err error
	_ = until(5*time.Second, func() bool { // a large file that was just removed keeps the disk busy
		err = syscall.Mount("", v.disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		return err == nil
	})
	if err != nil {
		return err
	}
	err = v.refused(v.dir, "a process on a read-only state", "No reading is accepted")
	return errors.Join(err, syscall.Mount("", v.disk, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", diskSize)))
}

// refused starts the host with the configuration in dir. It must exit with an error, or log that it waits.
func (v *victim) refused(dir, what, waits string) error {
	before, err := v.log.Stat()
	if err != nil {
		return err
	}
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
	slow := until(40*time.Second, func() bool { return len(ended) > 0 || waits != "" && v.says(before, waits) })
	if len(ended) > 0 {
		if err := <-ended; err == nil {
			return fmt.Errorf("%s ended without an error", what)
		}
		return nil
	}
	_ = c.Process.Kill()
	<-ended
	if slow != nil {
		return fmt.Errorf("%s did not end", what)
	}
	return nil
}

// says reports whether the new part of the host's log has a text.
func (v *victim) says(before os.FileInfo, text string) bool {
	log, _ := os.ReadFile(v.log.Name())
	return strings.Contains(string(log[min(before.Size(), int64(len(log))):]), text)
}

// damage truncates or overwrites a state file of a stopped host. Readings that are neither at the board nor in the trail at
// that time may be lost. The host must log this.
func (v *victim) damage() error {
	v.events["damaged state"]++
	v.abrupt = true
	got, err := v.board.received()
	if err != nil {
		return err
	}
	v.excused, v.broken, v.brokenLife = map[place]bool{}, len(v.fed), v.lives
	for p := range v.windows() {
		v.excused[p] = true
	}
	if info, err := v.log.Stat(); err == nil {
		v.logged = int(info.Size())
	}
	named := map[place]bool{}
	entries, _ := trail(filepath.Join(v.disk, "audit.jsonl"))
	for _, e := range entries {
		for _, x := range e.Readings {
			if !slices.Contains(final, e.Outcome) {
				continue
			}
			named[place{e.Device, x.Parameter, x.Flag, e.Stamp}] = true
		}
	}
	v.untold = map[place]bool{}
	for _, r := range got.Readings {
		p := place{r.Device, r.Parameter, r.Flag, r.Timestamp}
		delete(v.excused, p)
		v.untold[p] = !named[p]
	}
	told := filepath.Join(v.disk, "audit.jsonl")
	text, err := os.ReadFile(told)
	if err == nil {
		v.noteLines()
		err = os.WriteFile(filepath.Join(v.dir, beforeDamage), text, 0o600) // the disk may be full
	}
	if err != nil {
		return err
	}
	files := []string{told}
	list, err := stateFiles(v.state)
	if err != nil {
		return err
	}
	for _, name := range list {
		if info, err := os.Stat(name); err == nil && info.Size() > 0 {
			files = append(files, name)
		}
	}
	name := files[v.choices.IntN(len(files))]
	if name == told { // the other files are complete, and its lines are in the copy
		v.untrue, v.excused, v.untold, v.broken = true, map[place]bool{}, map[place]bool{}, 0
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if v.choices.IntN(2) == 0 {
		log.Printf("%s: %s is cut in half", v.host.name, filepath.Base(name))
		if name != told && used(name) > info.Size()/2 { // otherwise only unused pages are lost
			v.cut = name
		}
		return os.Truncate(name, info.Size()/2)
	}
	log.Printf("%s: part of %s is overwritten", v.host.name, filepath.Base(name))
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(v.choices.Uint32())
	}
	_, err = f.WriteAt(noise[:min(int64(len(noise)), info.Size())], v.choices.Int64N(max(info.Size()-4096, 1)))
	return err
}

// used returns the number of bytes of a bbolt file that were ever used.
func used(name string) (n int64) {
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0
	}
	defer db.Close()
	_ = db.View(func(tx *bolt.Tx) error { n = tx.Size(); return nil })
	return n
}

// tally returns counts by kind as text, and their sum.
func tally(counts map[string]int) (text string, sum int) {
	b, _ := json.Marshal(counts)
	for _, n := range counts {
		sum += n
	}
	return strings.NewReplacer(`"`, "", "{", "", "}", "").Replace(string(b)), sum
}

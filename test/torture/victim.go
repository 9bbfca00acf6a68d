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
	diskSize  = 64 << 20
	furthest  = 240 * time.Hour // that a clock jumps
	hours     = 6 * time.Hour   // that it jumps mostly
	oldest    = 157 * time.Hour // age of what is fed: a reading may come some hours late, and after 7 days is too old
)

// metric is what one device shows at one time: two samples.
type metric struct {
	device, flag string
	at           time.Time
	cod, bod     float64
	instance     int // of its sender
	contradicts  bool
	as           string // another flag than the first of its time
}

func (m metric) sentAs() string { return cmp.Or(m.as, m.flag) }

// gap says that of the metrics lo to hi, some number at the end may not have been taken.
type gap struct{ lo, hi int }

// victim is a host under torture.
type victim struct {
	host        *host
	bin, dir    string
	disk, state string // of its own, with the trail, and the directory there that it makes
	port        string
	kill        int // wanted
	drain       time.Duration
	board       *board
	process     *process // of the last life
	log         *os.File
	// Of what happens, and of what is fed. They are apart, so that a life that was fed less does not change the next one.
	choices, values *rand.Rand
	mounted         bool

	fed        []metric // in this order, again and again
	kept       []metric // refused, to be fed again
	instance   int      // of the sender
	full       bool     // the disk is
	odd        map[time.Time]bool
	steps      int // of event time
	gaps       []gap
	began      time.Time // of event time
	kills      int
	recovery   []time.Duration
	drained    time.Duration  // from the last fault until nothing was missing
	lives      int            // from one kill to the next
	abrupt     bool           // the last life did not end by itself
	wrongClock bool           // this life's clock jumps
	wrongDate  atomic.Bool    // or the board's does: no host can tell two wrong clocks from a right one
	lived      map[string]int // the life in which a line of the trail was written, by its hash; not yet those of the last life
	excused    map[place]bool // not yet at the board when the state was damaged
	untold     map[place]bool // at the board by then, and the answer was still to be had again
	untrue     bool           // the trail was damaged
	brokenLife int            // the last one before
	logged     int            // bytes of the log by then
	cut        string         // the file that was damaged, where that must be seen
	broken     int            // metrics fed by then: a host may have forgotten which of their windows it had closed
	over       bool           // it runs no more, so that the trail has everything
	last       *received

	events map[string]int // by kind: what happened to the host
	faults map[string]int // by kind: requests that the board misbehaved to, and times when it could not be reached
}

func newVictim(o options, name, dir string, seed uint64) (*victim, error) {
	h, ok := hosts[name]
	if !ok {
		return nil, errors.New("no such host; there are telegraf, external, exporter, edge")
	}
	v := &victim{host: h, bin: o.bin, dir: dir, disk: filepath.Join(dir, "disk"), state: filepath.Join(dir, "disk", "state"), kill: o.kills, drain: o.settle,
		choices: rand.New(rand.NewPCG(seed, 1)), values: rand.New(rand.NewPCG(seed, 3)), lived: map[string]int{}, odd: map[time.Time]bool{}, events: map[string]int{}, faults: map[string]int{}, began: time.Now().Add(-156 * time.Hour).Truncate(15 * time.Minute)}
	if err := os.MkdirAll(v.disk, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", v.disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err == nil {
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
	if v.process != nil && !v.process.dead() { // after an error
		v.process.stop(syscall.SIGKILL)
	}
	v.board.stop()
	v.log.Close()
	if v.mounted {
		kept := v.disk + "-kept" // for the judge, and for people
		_ = exec.Command("cp", "-a", v.disk, kept).Run()
		_ = syscall.Unmount(v.disk, 0)
		_ = os.Remove(v.disk)
		_ = os.Rename(kept, v.disk)
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
	if n := v.values.IntN(40 * 90); n < v.steps-batchSize && v.values.IntN(8) == 0 { // one that comes late, or would
		at := v.began.Add(time.Duration(v.steps-batchSize-n)*step + time.Second)
		if !v.odd[at] {
			out = append(out, metric{device: devices[0].id, flag: "U", at: at, cod: v.value(), bod: v.value()})
		}
		v.odd[at] = true
	}
	return out
}

func (v *victim) value() float64 { return float64(v.values.IntN(1_000_000)) / 1024 }

// exhausted reports that the fed time has come near to now, or to what a clock that is late takes for now.
func (v *victim) exhausted() bool {
	return v.age() < hours+time.Hour
}

// fedUntil is the event time up to which there is something.
func (v *victim) fedUntil() time.Time { return v.began.Add(time.Duration(v.steps) * step) }

func (v *victim) age() time.Duration { return time.Since(v.fedUntil()) }

// jump is how far a machine's clock is off: not at all, by up to hours or by up to days to either side.
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
		switch ahead := v.age() + by; { // of what is fed
		case ahead > -time.Hour && ahead < hours: // by such a clock it would be live
		case v.host.handsOver && (ahead < 0 || ahead > oldest): // nobody tells a processor that it is neither future nor past
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
		case refused: // a sender keeps it
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
	// The last life: what waits goes out. Slots that are new to the board show that a 111 can be believed again.
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
		return r.lost == 0 && (r.damaged == 0 || time.Since(began) > 10*time.Second) // what waits in a mended state goes out too
	})
	v.drained = time.Since(began)
	if took := p.stop(syscall.SIGTERM); took > 10*time.Second {
		return fmt.Errorf("it took %s to stop", took)
	}
	v.over = true
	v.judge() // takes the board's account, before it is gone
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
		if v.excused == nil && !p.dead() && !p.stuck && (life == 3 || v.choices.IntN(8) == 0) { // what is kept of a damage stays where it is
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
			if v.full { // what the host had to keep in memory is lost
				v.gaps = append(v.gaps, gap{sure, len(v.fed)})
			}
		} else {
			sure := base + min(p.host.took(p), p.fed)
			by := syscall.SIGKILL
			if v.choices.IntN(8) == 0 {
				by = syscall.SIGQUIT // every goroutine's stack goes to the log
				v.events["SIGQUIT"]++
			}
			p.stop(by)
			v.gaps = append(v.gaps, gap{sure, len(v.fed)})
			v.kills++
			v.abrupt = true
		}
		damage := v.excused == nil && v.kills >= v.kill*3/4
		if life == 2 || damage || v.kills >= v.kill { // what follows needs room, which a short life did not wait for
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

// fillDisk leaves no room for a while, in which the host is fed on.
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
	if v.choices.IntN(3) == 0 { // it is full when the host ends, and when it begins again
		v.full = true
		v.feed(p, 25)
		return
	}
	free := v.freeDisk()
	v.feed(p, 25)
	free.Reset(0)
	_ = until(10*time.Second, v.roomy)
	if v.choices.IntN(2) == 0 { // else the kill may come while a host still waits for what it had to refuse
		v.feed(p, 100)
	}
}

// freeDisk makes room again, in a while.
func (v *victim) freeDisk() *time.Timer {
	v.full = false
	return time.AfterFunc(v.between(500*time.Millisecond, 1500*time.Millisecond), func() { _ = os.Remove(v.balloon()) })
}

// balloon is the file that fills the disk.
func (v *victim) balloon() string { return filepath.Join(v.disk, "balloon") }

func (v *victim) roomy() bool {
	_, err := os.Stat(v.balloon())
	return err != nil
}

// second starts another process on the same state, which must end by itself and do no harm.
func (v *victim) second() error {
	v.events["second process"]++
	text, err := os.ReadFile(filepath.Join(v.dir, "config"))
	if err != nil {
		return err
	}
	other, err := freePort()
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

// readOnly starts the host on a state that it cannot write: it must end by itself, or wait for a disk that is well, and
// leave it as it is.
func (v *victim) readOnly() error {
	v.events["read-only state"]++
	var err error
	_ = until(5*time.Second, func() bool { // a large file that was just removed keeps it busy
		err = syscall.Mount("", v.disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		return err == nil
	})
	if err != nil {
		return err
	}
	err = v.refused(v.dir, "a process on a read-only state", "No reading is taken")
	return errors.Join(err, syscall.Mount("", v.disk, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", diskSize)))
}

// refused starts the host with the configuration in dir and expects it to give up, or to say that it waits.
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
			return fmt.Errorf("%s ended as if all were well", what)
		}
		return nil
	}
	_ = c.Process.Kill()
	<-ended
	if slow != nil {
		return fmt.Errorf("%s went on", what)
	}
	return nil
}

// says reports that the host's log has a text after what it had before.
func (v *victim) says(before os.FileInfo, text string) bool {
	log, _ := os.ReadFile(v.log.Name())
	return strings.Contains(string(log[min(before.Size(), int64(len(log))):]), text)
}

// damage truncates or overwrites a state file of a host that does not run. What was neither at the board nor in the
// trail by then may be lost, and the host must say so.
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
	if name == told { // all else is whole, and what it said is in the copy
		v.untrue, v.excused, v.untold, v.broken = true, map[place]bool{}, map[place]bool{}, 0
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if v.choices.IntN(2) == 0 {
		log.Printf("%s: %s is cut in half", v.host.name, filepath.Base(name))
		if name != told && used(name) > info.Size()/2 { // else only what it had grown by is gone
			v.cut = name
		}
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
		noise[i] = byte(v.choices.Uint32())
	}
	_, err = f.WriteAt(noise[:min(int64(len(noise)), info.Size())], v.choices.Int64N(max(info.Size()-4096, 1)))
	return err
}

// used is how many bytes of a bbolt file have held anything.
func used(name string) (n int64) {
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0
	}
	defer db.Close()
	_ = db.View(func(tx *bolt.Tx) error { n = tx.Size(); return nil })
	return n
}

// tally is counts by their kinds, and their sum.
func tally(counts map[string]int) (text string, sum int) {
	b, _ := json.Marshal(counts)
	for _, n := range counts {
		sum += n
	}
	return strings.NewReplacer(`"`, "", "{", "", "}", "").Replace(string(b)), sum
}

package doctor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// leastFree is the free space below which doctor warns, whatever the slots need: other programs write too.
const leastFree = 1 << 30

// Bytes of a slot in the outbox and later in the audit trail: measured with bbolt, whose pages are half full, and rounded
// up.
const (
	slotBytes        = 400
	readingBytes     = 100
	lineBytes        = 400
	lineByReading    = 90
	unmapped         = 10 // parameters of a device without configured parameters
	slotsOfSevenDays = spec.SlotsKept
)

// user checks the user of this process: permissions depend on it.
func (e *examination) user(cfg *hostconfig.Config) {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	for _, o := range cfg.Outputs {
		if o.State == nil {
			continue
		}
		if owner, ok := ownerOf(o.State.Directory); ok && owner != name {
			e.add("user", Warning, fmt.Sprintf("run this as the user of the service: sudo -u %s ocems doctor ...", owner),
				"this runs as %s, but %s belongs to %s: the service's permissions may differ", name, o.State.Directory, owner)
			return
		}
	}
	if runtime.GOOS != "windows" && os.Geteuid() == 0 {
		service := "telegraf"
		if cfg.Host == hostconfig.Collector {
			service = "ocems"
		}
		e.add("user", Warning, fmt.Sprintf("run this as the user of the service, unless that is root: sudo -u %s ocems doctor ...", service),
			"this runs as %s, which can write where the service may not", name)
		return
	}
	e.add("user", OK, "", "this runs as %s: it must be the user of the service", name)
}

// disk checks the directories that must be writable.
func (e *examination) disk(o *hostconfig.Output, reg *registry.Registry) {
	need := needs(o, reg)
	if s := o.State; s != nil {
		e.directory(s.Key, s.Directory, s.Create, true, need)
	}
	if dir := filepath.Dir(o.AuditFile); o.AuditFile != "" && (o.State == nil || dir != filepath.Clean(o.State.Directory)) {
		e.directory("audit_file", dir, true, false, need)
	}
}

// needs is the size of outbox and trail after 7 days without the board.
func needs(o *hostconfig.Output, reg *registry.Registry) (bytes int64) {
	mapped := map[string]int{}
	for _, d := range o.Names.Devices {
		mapped[strings.TrimSpace(d.DeviceID)] = len(d.Parameters)
	}
	devices := len(mapped)
	if reg != nil {
		devices = len(reg.Devices())
		for _, d := range reg.Devices() {
			mapped[d.DeviceID] += 0
		}
	}
	parameters := 0
	for _, n := range mapped {
		if n == 0 {
			n = unmapped
		}
		parameters += n
	}
	return int64(slotsOfSevenDays) * (int64(devices)*(slotBytes+lineBytes) + int64(parameters)*(readingBytes+lineByReading))
}

func (e *examination) directory(key, dir string, create, private bool, need int64) {
	shown := dir
	if !filepath.IsAbs(dir) {
		if a, err := filepath.Abs(dir); err == nil {
			shown = a + " (relative to the working directory, and the service may have another one)"
		}
	}
	info, err := os.Stat(dir)
	exists := dir
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for errors.Is(err, fs.ErrNotExist) && exists != filepath.Dir(exists) {
			exists = filepath.Dir(exists)
			info, err = os.Stat(exists)
		}
		if !create {
			e.add("disk", Failed, "create it with the service's user as owner, or set create_directory: true", "%s: %s does not exist, and create_directory is not set", key, shown)
			return
		}
	case err == nil && !info.IsDir():
		e.add("disk", Failed, "give a directory", "%s: %s is not a directory", key, shown)
		return
	}
	if err == nil {
		err = writable(exists)
	}
	if err != nil {
		do := "chown it to the service's user, or mount it writable"
		if exists != dir { // the directory above is not the service's
			do = "create it, and chown it to the service's user"
		}
		e.add("disk", Failed, do, "%s: %s: %v", key, shown, err)
		return
	}
	var notes []string
	week := "7 days without the board take about " + size(need)
	if need == 0 {
		week = "the number of devices is not known"
	}
	add := func(s Status, do, format string, args ...any) {
		e.add("disk", s, do, key+": "+shown+": "+format, args...)
	}
	if exists == dir {
		notes = append(notes, "writable")
		if mode := info.Mode().Perm(); runtime.GOOS != "windows" && private && mode&0o027 != 0 {
			add(Warning, "chmod 700 "+dir, "mode %04o: other users can read or change what waits for the board", mode)
		} else if runtime.GOOS != "windows" {
			notes = append(notes, fmt.Sprintf("mode %04o", mode))
		}
	} else {
		notes = append(notes, "does not exist yet, and can be created in "+exists)
	}
	v, err := volumeOf(exists)
	if err != nil {
		e.add("disk", Skipped, "", "%s: %s: cannot read free space and file system: %v", key, shown, err)
	} else {
		if v.unsafe != "" {
			add(Warning, "put it on a local disk", "on %s: %s", v.kind, v.unsafe)
		}
		switch {
		case v.free < uint64(need):
			add(Failed, "free space, or put it on a larger disk", "%s free, and %s", size(int64(v.free)), week)
		case v.free < leastFree:
			add(Warning, "free space: other programs write there too", "%s free; %s", size(int64(v.free)), week)
		default:
			notes = append(notes, fmt.Sprintf("%s free, %s", size(int64(v.free)), week))
		}
	}
	e.add("disk", OK, "", "%s: %s: %s", key, shown, strings.Join(notes, ", "))
}

// writable makes a file and removes it: permissions alone do not show a read-only mount.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".ocems-doctor-")
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return fmt.Errorf("it cannot be written: %w", p.Err)
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

type volume struct {
	kind   string
	free   uint64 // bytes, for a user that is not root
	unsafe string // why a state must not be kept here, "" if it may
}

func size(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v < 1024 {
			break
		}
		v, unit = v/1024, u
	}
	if unit == "B" || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// trail checks the end of an audit trail. It takes no lock, since the host holds it.
func (e *examination) trail(o *hostconfig.Output) {
	if o.AuditFile == "" {
		return
	}
	last, err := lastLine(o.AuditFile)
	closed, faults, wrong := audit.Look(o.AuditFile)
	err = cmp.Or(err, wrong)
	in := ""
	switch {
	case closed == 1:
		in = ", with 1 closed file"
	case closed > 1:
		in = fmt.Sprintf(", with %d closed files", closed)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && closed > 0:
		e.add("audit trail", OK, "", "%s: does not exist%s; the host continues from there", o.AuditFile, in)
	case errors.Is(err, fs.ErrNotExist):
		e.add("audit trail", OK, "", "%s: does not exist yet", o.AuditFile)
	case errors.Is(err, errEmpty):
		e.add("audit trail", OK, "", "%s: empty", o.AuditFile)
	case errors.Is(err, fs.ErrPermission):
		e.add("audit trail", Failed, "run this as the service's user, which must own the file", "%v", err)
	case err != nil:
		e.add("audit trail", Failed, "move the file away and keep it; the host starts a new one", "%s: %v", o.AuditFile, err)
	case len(faults) > 0:
		e.add("audit trail", Warning, "keep the files: ocems report --verify reads their intact parts", "%s", strings.Join(faults, "; "))
	default:
		e.add("audit trail", OK, "", "%s%s: %d lines, the last of %s: %s (ocems report verifies it)", o.AuditFile, in, last.Number,
			spec.ISTString(last.Time.Truncate(time.Second)), last.Outcome)
	}
}

var errEmpty = errors.New("empty")

// longestLine is longer than an entry with every parameter, in bytes: a file of another kind is not read whole.
const longestLine = 1 << 20

func lastLine(path string) (entry audit.Entry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return entry, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return entry, err
	}
	var tail string
	for at := end; at > 0; {
		n := min(at, 64<<10)
		at -= n
		block := make([]byte, n)
		if _, err := f.ReadAt(block, at); err != nil {
			return entry, err
		}
		tail = string(block) + tail
		if len(tail) > longestLine {
			return entry, errors.New("not an audit trail: a line at its end is longer than 1 MiB")
		}
		last := strings.LastIndexByte(tail, '\n')
		if last < 0 {
			continue
		}
		before := strings.LastIndexByte(tail[:last], '\n')
		if before < 0 && at > 0 {
			continue
		}
		if json.Unmarshal([]byte(tail[before+1:last]), &entry) != nil || entry.Number == 0 {
			return entry, errors.New("the last line is not a line of an audit trail: the host sets a damaged trail aside, and does not start if this is another file")
		}
		return entry, nil
	}
	return entry, errEmpty
}

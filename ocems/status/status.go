// Package status is the status of a host and of each parameter that it must report. The host writes it into files beside its
// state; the tools read the files and leave the state alone. A file may be a minute older than the state, and a power cut may
// destroy it: only the tools depend on it.
package status

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Version is the format version of the files.
const Version = 1

// Host is a host and its devices. Times are UTC.
type Host struct {
	Version  int       `json:"version"`
	Written  time.Time `json:"written"`
	Started  time.Time `json:"started"`
	Before   time.Time `json:"ran_before,omitzero"` // last time at which the previous process is known to have run
	Stopped  bool      `json:"stopped,omitempty"`   // a clean stop, at Written
	Software string    `json:"software"`            // name and version
	Process  int       `json:"process"`             // process id
	Endpoint string    `json:"endpoint,omitempty"`
	Slots    bool      `json:"slots,omitempty"` // a processor: it passes slots on and does not deliver to the board
	DryRun   bool      `json:"dry_run,omitempty"`
	Trail    string    `json:"audit_file,omitempty"` // absolute

	Stamp   string   `json:"stamp"`                  // which bound of its window stamps a slot: start or end
	Grace   float64  `json:"grace_seconds"`          // from a window's end until its slot is made, about
	Within  float64  `json:"expected_after_seconds"` // from a window's end until its slot is expected at the board
	Clock   Clock    `json:"clock"`
	Board   Board    `json:"board"`
	Trouble string   `json:"trouble,omitempty"` // of the whole host, for a person
	Waiting int      `json:"slots_waiting"`
	Files   int      `json:"files,omitempty"` // number of files with devices; 0: the devices are in this file
	Devices []Device `json:"devices,omitempty"`
	// Set by [Host.JudgeAll].
	Verdict *Verdict `json:"verdict,omitempty"`
	Next    *Next    `json:"next,omitempty"`
}

// Settled is how long a host must run to count as started.
const Settled = 10 * time.Second

// RanUntil is the last time at which the host is known to have run.
func (h *Host) RanUntil() time.Time {
	if h.Written.Sub(h.Started) < Settled && !h.Before.IsZero() {
		return h.Before
	}
	return h.Written
}

// Clock is the machine's clock.
type Clock struct {
	Trusted bool    `json:"trusted"`
	Skew    float64 `json:"server_ahead_seconds"` // as last measured
	Trouble string  `json:"trouble,omitempty"`
}

// Board is the server.
type Board struct {
	Reachable bool       `json:"reachable"`
	Reason    string     `json:"reason,omitempty"`          // why it is not reachable
	Answered  *time.Time `json:"answered,omitempty"`        // the last answer
	Latency   float64    `json:"latency_seconds,omitempty"` // median of the last answers
}

// Device is one configured device.
type Device struct {
	Station    string      `json:"station"`
	ID         string      `json:"device"`
	Waiting    int         `json:"slots_waiting,omitempty"`
	Oldest     *time.Time  `json:"oldest_waiting,omitempty"` // stamp
	Runs       [][2]int64  `json:"waiting_runs,omitempty"`   // first and last stamp of each run of waiting slots, in milliseconds
	Held       string      `json:"held,omitempty"`           // why all its slots wait: a status code of the board, or another hold reason
	Apart      string      `json:"apart,omitempty"`          // why some of its slots wait apart, as in Held
	Detail     string      `json:"detail,omitempty"`         // the board's answer to slots that are held, wait apart or are tried again
	Since      *time.Time  `json:"held_since,omitempty"`
	Answered   *time.Time  `json:"answered,omitempty"` // the last answer of the board
	Parameters []Parameter `json:"parameters"`
	// Of a device without entries, when a reading last came.
	Read  time.Time `json:"last_reading,omitzero"`    // of a parameter, even if it was left out
	Other time.Time `json:"last_other_name,omitzero"` // with a name that is no parameter, to the hour
}

// Any is the Parameter of a device without entries of which no parameter is known, although a reading is expected: it is one
// of few devices, or one came within the last 7 days, perhaps with another name or left out.
const Any = "(any parameter)"

// Parameter is one parameter that a device must report.
type Parameter struct {
	Parameter  string     `json:"parameter"`
	Diagnostic bool       `json:"diagnostic,omitempty"`
	Unit       string     `json:"unit,omitempty"`
	Due        time.Time  `json:"due_since"` // start of the first window whose slot is due
	Reading    *Reading   `json:"reading,omitempty"`
	Slot       *Slot      `json:"slot,omitempty"`          // the last one made
	Delivered  *time.Time `json:"delivered,omitempty"`     // stamp of the newest slot at the board
	Already    bool       `json:"already,omitempty"`       // the board already had it, for example from another sender
	Refused    *Refusal   `json:"refused,omitempty"`       // why its slots wait
	Undecided  *Undecided `json:"undecided,omitempty"`     // slots that wait for a person to decide
	Rejected   *Refusal   `json:"rejected,omitempty"`      // of the last slot that the board rejected
	Excluded   []Excluded `json:"excluded,omitempty"`      // readings that are in no slot: the last of each reason within a day
	Calibrated *time.Time `json:"calibrated,omitempty"`    // stamp of the last point of a calibration
	Upstream   bool       `json:"made_upstream,omitempty"` // its slots are made upstream and arrive later
	Never      string     `json:"never,omitempty"`         // if no reading has ever arrived: what arrived instead
	Flat       *Flat      `json:"flat,omitempty"`
	Beyond     string     `json:"beyond,omitempty"`  // the limit that the last slot exceeds
	Verdict    *Verdict   `json:"verdict,omitempty"` // set by [Host.JudgeAll]
}

// Next is the current slot.
type Next struct {
	Stamp  time.Time `json:"stamp"`
	Leaves time.Time `json:"leaves"` // when it is made
}

// Reading is the last one of a parameter.
type Reading struct {
	At     time.Time `json:"at"`
	Value  float64   `json:"value"`
	Behind float64   `json:"behind_seconds,omitempty"` // how long after its time it arrived, if such readings go on after the end of their slot
}

// Slot is the last slot of a parameter.
type Slot struct {
	Stamp   time.Time `json:"stamp"`
	Value   float64   `json:"value"`
	Flag    string    `json:"flag"`
	Samples int       `json:"samples,omitempty"`
}

// Refusal is why the board refuses, and since when.
type Refusal struct {
	Reason string    `json:"reason"` // a status code, or another hold reason
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
}

// Undecided are slots with too few readings, which wait for a person to decide.
type Undecided struct {
	Slots  int       `json:"slots"`
	Oldest time.Time `json:"oldest"` // stamp
	Why    string    `json:"why"`
}

// Excluded are readings of one slot that were left out.
type Excluded struct {
	Reason string    `json:"reason"`
	Count  int       `json:"count"`
	Stamp  time.Time `json:"stamp"`
	Detail string    `json:"detail,omitempty"`
	Noted  time.Time `json:"noted"`
}

// Flat is how long all readings have been equal, to the last digit.
type Flat struct {
	Since time.Time `json:"since"`
	Slots int       `json:"slots"`
	Alert float64   `json:"alert_after_seconds"` // flat_line_after; 0: not set
}

// perFile is how many devices one file has.
const perFile = 500

// Files is the number of files for the devices; 0 if they fit into the host's own file.
func Files(devices int) int {
	if devices <= perFile {
		return 0
	}
	return (devices + perFile - 1) / perFile
}

// FileOf is the index of a device's file among n.
func FileOf(device string, n int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(device))
	return int(h.Sum32() % uint32(max(n, 1)))
}

const suffix = ".status.json"

// Path is the status file of a state file.
func Path(state string) string { return strings.TrimSuffix(state, ".db") + suffix }

func part(path string, i int) string {
	return fmt.Sprintf("%s.%04d%s", strings.TrimSuffix(path, suffix), i, suffix)
}

// partOf is the index of a file of devices, by its name, or -1.
func partOf(path string) int {
	name := strings.TrimSuffix(path, suffix)
	digits := name[strings.LastIndexByte(name, '.')+1:]
	if n, err := strconv.ParseUint(digits, 10, 31); err == nil && fmt.Sprintf("%04d", n) == digits {
		return int(n)
	}
	return -1
}

// Write replaces the host's own file, and removes files of devices that it no longer has.
func (h *Host) Write(path string) error {
	h.Version = Version
	if err := replace(path, h); err != nil {
		return err
	}
	for i := h.Files; os.Remove(part(path, i)) == nil; i++ {
	}
	return nil
}

// WriteDevices replaces the i-th file of devices.
func WriteDevices(path string, i int, devices []Device) error { return replace(part(path, i), devices) }

// On Windows a file that is open for reading cannot be replaced, and a file that is being replaced cannot be opened.
const (
	tries    = 5
	tryAgain = 20 * time.Millisecond
)

// retry calls do until it succeeds, at most tries times.
func retry(do func() error) (err error) {
	for n := range tries {
		if n > 0 {
			time.Sleep(tryAgain)
		}
		if err = do(); err == nil {
			return nil
		}
	}
	return err
}

const newSuffix = ".new" // a new file has it until it replaces the old one

// replace is atomic for readers, and not synced.
func replace(path string, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path+newSuffix, append(text, '\n'), 0o600)
	}
	if err == nil {
		err = retry(func() error { return os.Rename(path+newSuffix, path) })
	}
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

// Read reads a host's files. The error wraps [fs.ErrNotExist] if there are none.
func Read(path string) (*Host, error) {
	h := &Host{}
	if err := read(path, h); err != nil {
		return nil, err
	}
	if h.Version != Version {
		return nil, fmt.Errorf("reading the status: %s has version %d, this program reads version %d", path, h.Version, Version)
	}
	for i := range h.Files {
		var more []Device
		if err := read(part(path, i), &more); errors.Is(err, fs.ErrNotExist) {
			continue // not written yet
		} else if err != nil {
			return nil, err
		}
		h.Devices = append(h.Devices, more...)
	}
	slices.SortFunc(h.Devices, func(a, b Device) int { return strings.Compare(a.ID, b.ID) })
	return h, nil
}

// Modified is when a host last wrote one of its files, zero without files. The host writes them in order.
func Modified(path string) (last time.Time) {
	info, err := os.Stat(path)
	for i := 0; err == nil; i++ {
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
		info, err = os.Stat(part(path, i))
	}
	return last
}

// read reads a whole file. It waits a little for a file that is being written; otherwise a missing file is an error
// immediately.
func read(path string, v any) error {
	var missing error
	err := retry(func() error {
		_, err := os.Stat(path + newSuffix)
		comes := err == nil
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && !comes {
			missing = err
			return nil
		}
		if err == nil {
			err = json.Unmarshal(text, v)
		}
		return err
	})
	if err = cmp.Or(err, missing); err != nil {
		return fmt.Errorf("reading the status: %w", err)
	}
	return nil
}

// Find lists the hosts' files in a directory and its direct subdirectories.
func Find(directory string) (paths []string, err error) {
	for _, below := range []string{"", "*"} {
		found, err := filepath.Glob(filepath.Join(directory, below, "*"+suffix+"*")) // also new files that are about to replace one
		if err != nil {
			return nil, fmt.Errorf("finding the status files: %w", err)
		}
		for _, path := range found {
			path = strings.TrimSuffix(path, newSuffix)
			if !strings.HasSuffix(path, suffix) || partOf(path) >= 0 || slices.Contains(paths, path) {
				continue
			}
			if retry(func() error { _, err := os.Stat(path); return err }) == nil {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

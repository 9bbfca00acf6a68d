// Package status is what a host tells about itself and about each parameter that it is to report. The host writes it into
// files beside its state; the tools read them and leave the state alone. A file may lag behind the state by a minute, and a
// power cut may cost it: nothing but the tools depends on it.
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

// Version is that of the files.
const Version = 1

// Host is a host and its devices. Times are UTC.
type Host struct {
	Version  int       `json:"version"`
	Written  time.Time `json:"written"`
	Started  time.Time `json:"started"`
	Before   time.Time `json:"ran_before,omitzero"` // when the life before is known to have run last
	Stopped  bool      `json:"stopped,omitempty"`   // in order; Written is when
	Software string    `json:"software"`            // name and version
	Process  int       `json:"process"`             // its id
	Endpoint string    `json:"endpoint,omitempty"`
	Slots    bool      `json:"slots,omitempty"` // a processor: it hands slots on, and delivers to no board itself
	DryRun   bool      `json:"dry_run,omitempty"`
	Trail    string    `json:"audit_file,omitempty"` // absolute

	Stamp   string   `json:"stamp"`                  // which bound of its window stamps a slot: start or end
	Grace   float64  `json:"grace_seconds"`          // a slot is made so long after the end of its window, about
	Within  float64  `json:"expected_after_seconds"` // and is expected at the board so long after it
	Clock   Clock    `json:"clock"`
	Board   Board    `json:"board"`
	Trouble string   `json:"trouble,omitempty"` // of the host as a whole, for a person
	Waiting int      `json:"slots_waiting"`
	Files   int      `json:"files,omitempty"` // that have the devices; 0: they are in this one
	Devices []Device `json:"devices,omitempty"`
	// Of [Host.JudgeAll].
	Verdict *Verdict `json:"verdict,omitempty"`
	Next    *Next    `json:"next,omitempty"`
}

// Settled is after how long a host counts as started: what fails within it has not run.
const Settled = 10 * time.Second

// RanUntil is when a host is known to have run last.
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
	Reason    string     `json:"reason,omitempty"`          // why it is not
	Answered  *time.Time `json:"answered,omitempty"`        // the last answer
	Latency   float64    `json:"latency_seconds,omitempty"` // median of the last answers
}

// Device is one configured device.
type Device struct {
	Station    string      `json:"station"`
	ID         string      `json:"device"`
	Waiting    int         `json:"slots_waiting,omitempty"`
	Oldest     *time.Time  `json:"oldest_waiting,omitempty"` // stamp
	Runs       [][2]int64  `json:"waiting_runs,omitempty"`   // stamps of the first and last slot of each run that waits, in milliseconds
	Held       string      `json:"held,omitempty"`           // why all its slots wait: a status of the board, or another hold reason
	Apart      string      `json:"apart,omitempty"`          // why some of its slots wait apart, in the same words
	Detail     string      `json:"detail,omitempty"`         // what the board answered
	Since      *time.Time  `json:"held_since,omitempty"`
	Answered   *time.Time  `json:"answered,omitempty"` // the last answer of the board
	Parameters []Parameter `json:"parameters"`
}

// Parameter is one parameter that a device is to report.
type Parameter struct {
	Parameter  string     `json:"parameter"`
	Diagnostic bool       `json:"diagnostic,omitempty"`
	Unit       string     `json:"unit,omitempty"`
	Due        time.Time  `json:"due_since"` // the first window of which a slot is due begins here
	Reading    *Reading   `json:"reading,omitempty"`
	Slot       *Slot      `json:"slot,omitempty"`          // the last one made
	Delivered  *time.Time `json:"delivered,omitempty"`     // newest stamp that the board has
	Already    bool       `json:"already,omitempty"`       // it had that before, as from another sender
	Refused    *Refusal   `json:"refused,omitempty"`       // its slots wait for this
	Undecided  *Undecided `json:"undecided,omitempty"`     // slots that wait for a person to decide
	Rejected   *Refusal   `json:"rejected,omitempty"`      // the last slot that was given up
	Excluded   []Excluded `json:"excluded,omitempty"`      // readings that are in no slot, the last of each reason in a day
	Calibrated *time.Time `json:"calibrated,omitempty"`    // stamp of the last point of a calibration
	Upstream   bool       `json:"made_upstream,omitempty"` // its slots are made upstream, and come later
	Never      string     `json:"never,omitempty"`         // no reading ever came, and what came instead
	Flat       *Flat      `json:"flat,omitempty"`
	Beyond     string     `json:"beyond,omitempty"`  // the last slot is beyond a limit: which
	Verdict    *Verdict   `json:"verdict,omitempty"` // of [Host.JudgeAll]
}

// Next is the slot that is measured now.
type Next struct {
	Stamp  time.Time `json:"stamp"`
	Leaves time.Time `json:"leaves"` // when it is made
}

// Reading is the last one of a parameter.
type Reading struct {
	At    time.Time `json:"at"`
	Value float64   `json:"value"`
}

// Slot is the last slot of a parameter.
type Slot struct {
	Stamp   time.Time `json:"stamp"`
	Value   float64   `json:"value"`
	Flag    string    `json:"flag"`
	Samples int       `json:"samples,omitempty"`
}

// Refusal is what the board said, for how long.
type Refusal struct {
	Reason string    `json:"reason"` // a status, or another hold reason
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
}

// Undecided are slots of too few readings, which wait for a person to decide.
type Undecided struct {
	Slots  int       `json:"slots"`
	Oldest time.Time `json:"oldest"` // stamp
	Why    string    `json:"why"`
}

// Excluded are readings of one slot.
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
	Alert float64   `json:"alert_after_seconds"` // flat_line_after; 0: nobody asked
}

// perFile is how many devices one file has.
const perFile = 500

// Files is how many files the devices of a host take; 0 for those that are in the host's own.
func Files(devices int) int {
	if devices <= perFile {
		return 0
	}
	return (devices + perFile - 1) / perFile
}

// FileOf is the place of a device's file among n.
func FileOf(device string, n int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(device))
	return int(h.Sum32() % uint32(max(n, 1)))
}

const suffix = ".status.json"

// Path is where the host with a state file writes.
func Path(state string) string { return strings.TrimSuffix(state, ".db") + suffix }

func part(path string, i int) string {
	return fmt.Sprintf("%s.%04d%s", strings.TrimSuffix(path, suffix), i, suffix)
}

// partOf is the number of a file of devices by its name, or -1.
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

// On Windows a file that somebody reads keeps its name, and one that is being replaced cannot be opened.
const (
	tries    = 5
	tryAgain = 20 * time.Millisecond
)

// retry does something until it succeeds or has failed too often.
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

const anew = ".new" // is written, and then replaces the file of before

// replace is atomic for those that read, and not synced.
func replace(path string, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path+anew, append(text, '\n'), 0o600)
	}
	if err == nil {
		err = retry(func() error { return os.Rename(path+anew, path) })
	}
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}

// Read reads a host's files. The error wraps [fs.ErrNotExist] where no host has written any.
func Read(path string) (*Host, error) {
	h := &Host{}
	if err := read(path, h); err != nil {
		return nil, err
	}
	if h.Version != Version {
		return nil, fmt.Errorf("reading the status: %s is of version %d, and this program reads %d", path, h.Version, Version)
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

// Modified is when a host last wrote one of its files, zero where there is none. It writes them in their order.
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

// read reads a file whole. It waits a little for one that is being written; one that is not there, and is not about to be,
// is missing at once.
func read(path string, v any) error {
	var missing error
	err := retry(func() error {
		_, err := os.Stat(path + anew)
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

// Find lists the hosts' files in a directory and in those right below it.
func Find(directory string) (paths []string, err error) {
	for _, below := range []string{"", "*"} {
		found, err := filepath.Glob(filepath.Join(directory, below, "*"+suffix+"*")) // with what is about to replace one
		if err != nil {
			return nil, fmt.Errorf("looking for the status: %w", err)
		}
		for _, path := range found {
			path = strings.TrimSuffix(path, anew)
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

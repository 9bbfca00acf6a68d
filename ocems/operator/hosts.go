package operator

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/status"
)

const (
	findAgain  = time.Minute
	judgeAgain = 2 * time.Second // however many pages are open
)

// Host is a host in JSON.
type Host struct {
	Name string `json:"name"`
	*status.Host
	Fault string `json:"fault,omitempty"` // why there is no status
}

// Device is a device of a host.
type Device struct {
	Host int `json:"host"` // index among the hosts
	*status.Device
	Level status.Level `json:"level"` // of its worst parameter
}

// Status is the answer of GET /status.json.
type Status struct {
	Time    time.Time    `json:"time"`
	Level   status.Level `json:"level"` // of the worst host
	Text    string       `json:"text"`
	Cure    string       `json:"cure,omitempty"`
	Hosts   []Host       `json:"hosts"`
	Devices []Device     `json:"devices"` // of the page, those that need a person first
	Total   int          `json:"devices_total"`
	Matched int          `json:"devices_matched"` // devices that match ?find=
	Wrong   int          `json:"devices_wrong"`   // of all, those that need a person
	Page    int          `json:"page"`
	Pages   int          `json:"pages"`
}

type deviceKey struct {
	host   int
	device string
}

// known is a device with its host.
type known struct {
	Device
	host *status.Host
}

// judged is the state of all hosts at one time.
type judged struct {
	hosts   []Host
	devices map[deviceKey]*known
	sorted  []*known
}

// hosts reads the status files of hosts that have changed.
type hosts struct {
	find func() ([]Source, error)

	mu      sync.Mutex
	sources []Source
	found   time.Time
	files   map[string]*file
	judged  *judged
	at      time.Time
}

// file is the content of a host's files when they were last read.
type file struct {
	modified time.Time
	host     *status.Host
	err      error
}

// read returns the current state. Callers must not change it.
func (h *hosts) read(now time.Time) (*judged, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sources == nil || now.Sub(h.found).Abs() >= findAgain {
		sources, err := h.find()
		if err != nil && h.sources == nil {
			return nil, err
		}
		if err == nil { // otherwise keep the previous list: somebody may be editing the configuration
			h.sources = sources
		}
		h.found = now
	}
	if h.judged != nil && now.Sub(h.at).Abs() < judgeAgain {
		return h.judged, nil
	}
	files := map[string]*file{}
	j := &judged{devices: map[deviceKey]*known{}}
	for i, s := range h.sources {
		x := Host{Name: s.Name}
		f := h.files[s.Path]
		if modified := status.Modified(s.Path); f == nil || f.err != nil || !f.modified.Equal(modified) {
			f = &file{modified: modified}
			f.host, f.err = Read(s)
		}
		files[s.Path] = f
		if f.err != nil {
			x.Fault = f.err.Error()
			j.hosts = append(j.hosts, x)
			continue
		}
		whole := *f.host // a copy, which gets the verdicts of this time
		whole.Devices = slices.Clone(whole.Devices)
		for i := range whole.Devices {
			whole.Devices[i].Parameters = slices.Clone(whole.Devices[i].Parameters)
		}
		whole.JudgeAll(now)
		for k := range whole.Devices {
			d := &known{Device{i, &whole.Devices[k], status.OK}, &whole}
			for _, p := range d.Parameters {
				d.Level = max(d.Level, p.Verdict.Level)
			}
			if d.Held != "" {
				d.Level = status.Failed
			}
			j.devices[deviceKey{i, d.ID}] = d
			j.sorted = append(j.sorted, d)
		}
		head := whole
		head.Devices = nil
		x.Host = &head
		j.hosts = append(j.hosts, x)
	}
	slices.SortStableFunc(j.sorted, func(a, b *known) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(a.Station, b.Station), cmp.Compare(a.ID, b.ID))
	})
	h.files, h.judged, h.at = files, j, now
	return j, nil
}

// Read reads the status of a host.
func Read(s Source) (*status.Host, error) {
	if s.Path == "" {
		return nil, errors.New("it keeps its state in memory and writes no status: configure a place on disk")
	}
	h, err := status.Read(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("it has not run yet: there is no %s", s.Path)
	}
	return h, err
}

// page is the n-th page of the devices that contain a text, case-insensitively, in the station, the device, a parameter or the
// class of its verdict.
func (j *judged) page(find string, n int, now time.Time) Status {
	s := Status{Time: now.UTC(), Hosts: j.hosts, Devices: []Device{}, Total: len(j.sorted)}
	s.Level, s.Text, s.Cure = j.light()
	find = strings.ToLower(strings.TrimSpace(find))
	var list []*known
	for _, d := range j.sorted {
		if d.Level != status.OK {
			s.Wrong++
		}
		if d.matches(find) {
			list = append(list, d)
		}
	}
	s.Matched, s.Pages = len(list), max(1, (len(list)+perPage-1)/perPage)
	s.Page = min(n, s.Pages)
	for _, d := range list[(s.Page-1)*perPage : min(s.Page*perPage, len(list))] {
		s.Devices = append(s.Devices, d.Device)
	}
	return s
}

func (d *known) matches(find string) bool {
	has := func(text string) bool { return strings.Contains(strings.ToLower(text), find) }
	return find == "" || has(d.Station) || has(d.ID) || slices.ContainsFunc(d.Parameters, func(p status.Parameter) bool {
		return has(p.Parameter) || has(string(p.Verdict.Class))
	})
}

// light is the verdict on the plant: that of its worst host.
func (j *judged) light() (worst status.Level, text, cure string) {
	level := func(h Host) status.Level {
		if h.Host == nil {
			return status.Failed
		}
		return h.Verdict.Level
	}
	for i, h := range j.hosts {
		if i > 0 && level(h) <= worst {
			continue
		}
		worst = level(h)
		if h.Host == nil {
			text, cure = "No status: "+h.Fault+".", ""
		} else {
			text, cure = h.Verdict.Text, h.Verdict.Cure
		}
		if len(j.hosts) > 1 && worst != status.OK {
			text = h.Name + ": " + text
		}
	}
	return worst, text, cure
}

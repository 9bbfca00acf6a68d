package doctor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ocems-io/ocems/cmd/ocems/internal/hostconfig"
	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/spec"
)

// collection is how long an input may take to read its instruments: the usual time-out. Its readings have the time at which
// the collection began.
const collection = 5 * time.Second

// meant warns of values that are valid but hardly intended.
func (e *examination) meant(o *hostconfig.Output) {
	warn := func(do, format string, args ...any) { e.add("configuration", Warning, do, format, args...) }
	if t, key := o.Client.Timeout, o.Client.TimeoutKey; t > 0 && t < options.ShortTimeout {
		warn("set "+key+" to 30s or more", "%s: %s is short: the server is slow just after a quarter of an hour, and may have stored a request that timed out", key, t)
	}
	switch {
	case o.State != nil:
	case slices.ContainsFunc(o.Faults, func(f hostconfig.Fault) bool { return strings.HasPrefix(f.Text, "storage: ") }): // it is set, and wrong
	case o.Host == hostconfig.Collector:
		warn("name an ocems_storage extension as storage", "storage: not set: open windows and finished slots are in memory only, and a restart loses them")
	default:
		warn("set state_directory", "state_directory: not set: open and waiting slots are in memory only, and a restart loses them")
	}
	if o.AuditFile == "" {
		warn("set audit_file", "audit_file: not set: final outcomes go to the log only")
	}
	if b := o.Buffer; b != nil {
		if grace, longest := o.Rules.Grace, b.Flush+b.Jitter; o.Align && longest+min(b.Interval, collection) > grace {
			warn(fmt.Sprintf("set flush_interval to 10s and flush_jitter to 0s, or grace to %s or more", longest+collection),
				"flush_interval %s, flush_jitter %s and a collection of %s together exceed grace, %s: readings arrive after their slot has closed, and are late",
				b.Flush, b.Jitter, min(b.Interval, collection), grace)
		}
		if b.Limit < 10*b.Batch {
			warn(fmt.Sprintf("set metric_buffer_limit to %d or more: metrics per second times the seconds that a repair of the disk may take", 10*b.Batch),
				"metric_buffer_limit: %d holds less than ten batches of %d (metric_batch_size): while the state_directory cannot be written, Telegraf drops the oldest readings", b.Limit, b.Batch)
		}
	}
	for _, d := range o.Names.Devices {
		for _, p := range d.Parameters {
			parameter := cmp.Or(strings.TrimSpace(p.Parameter), strings.TrimSpace(p.Field), strings.TrimSpace(p.Metric))
			if p.Unit == "" && o.Host != hostconfig.Collector {
				warn("set unit, unless the input sets the tag", "device %q: parameter %q has no unit: a reading without the tag %s is refused", d.DeviceID, parameter, o.Names.Words.Unit)
			}
			unit, err := spec.ResolveUnit(p.Unit)
			if quantity, fits := spec.Measures(parameter, unit); err == nil && !fits && !p.AllowUnlisted {
				warn("check parameter and unit: one of them belongs to another instrument", "device %q: parameter %q has the unit %q, a unit of %s; its quantity is %s",
					d.DeviceID, parameter, p.Unit, spec.Quantity(unit), quantity)
			}
		}
	}
	shown := map[string]bool{}
	for _, s := range o.Behind {
		if do, text := held(s); text != "" && !shown[s.Kind+s.ID.String()] {
			shown[s.Kind+s.ID.String()] = true
			warn(do, "service.pipelines.%s: %s behind %s %s", s.Pipeline, s.ID, strings.TrimPrefix(o.Name, "processors."), text)
		}
	}
}

// abroad warns of devices that are not in India.
func (e *examination) abroad(devices []*registry.Device) {
	var text string
	n := 0
	for _, d := range devices {
		if d.Latitude == nil || d.Longitude == nil {
			continue
		}
		if x, y := *d.Latitude, *d.Longitude; x < 6 || x > 38 || y < 68 || y > 98 {
			if n++; n == 1 {
				text = fmt.Sprintf("device %q: latitude %v and longitude %v are not in India", d.DeviceID, x, y)
				if y >= 6 && y <= 38 && x >= 68 {
					text += "; they are swapped"
				}
			}
		}
	}
	if n > 1 {
		text += fmt.Sprintf(", and %s likewise", spec.Counted(n-1, "more device"))
	}
	if n > 0 {
		e.add("configuration", Warning, "give both in degrees, such as latitude 19.07 and longitude 72.88", "%s", text)
	}
}

var (
	// mayChange are processors that change or drop metrics.
	mayChange = []string{"attributes", "cumulativetodelta", "deltatocumulative", "deltatorate", "filter", "groupbyattrs", "interval",
		"metricsgeneration", "metricstarttime", "metricstransform", "probabilistic_sampler", "transform"}
	// withoutQueue are exporters that have no queue by default.
	withoutQueue = []string{"debug", "file", "nop", "ocems", "prometheus"}
)

// held reports a component that may lose finished slots: the processor forgets a slot once the next component has accepted it.
func held(s hostconfig.Stage) (do, text string) {
	kind := s.ID.Type().String()
	switch {
	case kind == "batch":
		return "move it before ocems_slot, or remove it", "holds finished slots in memory, and a crash loses them"
	case s.Kind == "processors" && slices.Contains(mayChange, kind):
		return "move it before ocems_slot", "may change or drop finished slots"
	case s.Kind == "processors":
		return "", ""
	}
	queue, given := s.Keys["sending_queue"]
	keys, _ := queue.(map[string]any)
	switch {
	case !given && slices.Contains(withoutQueue, kind):
	case fmt.Sprint(keys["enabled"]) == "false", fmt.Sprint(keys["wait_for_result"]) == "true", keys["storage"] != nil:
	default:
		return "set enabled: false or a storage in its sending_queue: edit " + s.Where,
			"has a sending_queue that holds finished slots in memory, and a crash loses them"
	}
	return "", ""
}

// next lists the exporters that get a processor's slots.
func next(o *hostconfig.Output) string {
	var names []string
	for _, s := range o.Behind {
		if s.Kind == "exporters" && !slices.Contains(names, s.ID.String()) {
			names = append(names, s.ID.String())
		}
	}
	return strings.Join(names, ", ")
}

// across finds state directories and devices that several outputs share.
func (e *examination) across(o *hostconfig.Output, before []*hostconfig.Output) {
	devices := map[string]string{}
	for _, other := range before {
		if o.Host != hostconfig.Collector && o.State != nil && other.State != nil && same(o.State.Directory, other.State.Directory) {
			e.add("configuration", Failed, "give each output a state_directory of its own", "state_directory: %q is also that of the output at %s", o.State.Directory, other.Where)
		}
		for _, d := range other.Names.Devices {
			if !other.Slots {
				devices[strings.TrimSpace(d.DeviceID)] = other.Where
			}
		}
	}
	for _, d := range o.Names.Devices {
		id := strings.TrimSpace(d.DeviceID)
		if where := devices[id]; where != "" && !o.Slots {
			delete(devices, id)
			e.add("configuration", Warning, "keep the device in one output, or set shared_device for it", "device %q is also in the output at %s: the board gets its slots twice, and answers 111", id, where)
		}
	}
}

func same(a, b string) bool {
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}

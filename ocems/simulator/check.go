package simulator

import (
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

// device is one registered device, ready for checking requests.
type device struct {
	registry           *Registry
	id, station, token string
	body               *seal.Body
	parameters         map[string][]string
	calibrations       []Calibration

	// Under the lock of the Server.
	readings   []int // indexes in Server.readings
	last       int64 // time of the last request, milliseconds since the Unix epoch
	lastStored bool  // its readings are stored, by this or an earlier request
}

func (r *Registry) newDevice(station string, d Device) (*device, error) {
	id, token := strings.TrimSpace(d.ID), strings.TrimSpace(d.Token)
	if id == "" {
		return nil, errors.New("id: empty")
	}
	body, err := seal.NewBody(token)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if err := r.checkKeys(d); err != nil {
		return nil, err
	}
	for i, c := range d.Calibrations {
		if c.To.Before(c.From) {
			return nil, fmt.Errorf("calibrations[%d]: to %s is before from %s", i, spec.ISTString(c.To), spec.ISTString(c.From))
		}
	}
	return &device{registry: r, id: id, station: station, token: token, body: body, parameters: d.Parameters, calibrations: d.Calibrations}, nil
}

// Reading is one stored reading, as GET /received gives it.
type Reading struct {
	Station    string      `json:"station"`
	Device     string      `json:"device"`
	Parameter  string      `json:"parameter"`
	Value      json.Number `json:"value"` // as sent
	Unit       string      `json:"unit"`
	Timestamp  int64       `json:"timestamp"` // milliseconds since the Unix epoch
	Flag       string      `json:"flag"`
	Diagnostic bool        `json:"diagnostic"`  // came in diag_params
	ReceivedAt int64       `json:"received_at"` // milliseconds since the Unix epoch, without a fault's clock_offset
}

func (r *Reading) calibration() bool { return len(r.Flag) == 1 && spec.Flag(r.Flag[0]).Calibration() }

func (r *Reading) key() storedKey {
	return storedKey{r.Device, r.Parameter, r.Diagnostic, r.Timestamp, r.calibration()}
}

func (r *Reading) name() string {
	return fmt.Sprintf("%s of %s", short(r.Parameter), spec.ISTString(time.UnixMilli(r.Timestamp)))
}

// authenticate checks the headers (spec 2.3). The reason is that of a status other than success.
func authenticate(h http.Header, key *rsa.PrivateKey, devices map[string]*device) (d *device, status spec.Status, reason string) {
	signature, id := strings.TrimSpace(h.Get("signature")), strings.TrimSpace(h.Get("X-Device-Id"))
	switch {
	case signature == "":
		return nil, spec.StatusNoSignature, "the header signature is missing"
	case id == "":
		return nil, spec.StatusNoDeviceID, "the header X-Device-Id is missing"
	case key == nil:
		return nil, spec.StatusNoPublicKey, "the simulator was started without a private key"
	case devices[id] == nil:
		return nil, spec.StatusDeviceNotRegistered, "X-Device-Id is not in the registry"
	}
	d = devices[id]
	token, _, err := seal.Unsign(key, signature)
	if err != nil {
		return nil, spec.StatusInvalidDetails, "the signature was not made with this industry's public key"
	}
	if subtle.ConstantTimeCompare([]byte(token), []byte(d.token)) != 1 {
		return nil, spec.StatusInvalidDetails, "the signature has another token than the device's"
	}
	return d, spec.StatusSuccess, ""
}

// sealed is a decrypted body. The device is nil if the header names none. The text is nil if the device's token does not
// decrypt the body.
type sealed struct {
	device *device
	text   []byte
	doc    payload.Document
	reason string // why there is no text or no doc
}

// open decrypts a body for the device that the header names.
func (s *Server) open(id string, body []byte) sealed {
	o := sealed{device: s.devices[id]}
	if o.device == nil {
		return o
	}
	var err error
	if o.text, err = o.device.body.Open(body); err != nil {
		o.reason = err.Error()
	} else if o.doc, err = payload.Decode(o.text); err != nil {
		o.reason = err.Error()
	}
	return o
}

// points returns all readings of the body, of any device.
func (o *sealed) points() []*point {
	var points []*point
	for _, station := range o.doc.Data {
		for _, one := range station.Devices {
			points = appendPoints(points, one.Params, false)
			points = appendPoints(points, one.DiagParams, true)
		}
	}
	return points
}

// point is a reading in the payload, before the checks.
type point struct {
	payload.Point
	diagnostic bool
	stamp      time.Time
	stampErr   error
}

// at names a reading whose parameter was checked.
func (p *point) at() string { return p.Parameter + " of " + spec.ISTString(p.stamp) }

// key is the key under which a point of the device is stored.
func (d *device) key(p *point) storedKey {
	return storedKey{d.id, p.Parameter, p.diagnostic, p.stamp.UnixMilli(), p.calibration()}
}

func (p *point) calibration() bool { return len(p.Flag) == 1 && spec.Flag(p.Flag[0]).Calibration() }

// read checks the body (spec 2.4), each check over all readings before the next check. It returns the readings if all pass,
// otherwise the reason. It does not check for duplicates.
func (d *device) read(opened sealed, stations map[string]bool, now time.Time) ([]Reading, spec.Status, string) {
	doc := opened.doc
	switch {
	case opened.reason != "":
		return nil, spec.StatusNotEncrypted, opened.reason
	case len(doc.Data) > 1:
		return nil, spec.StatusSeveralStations, fmt.Sprintf("%d stations in one payload", len(doc.Data))
	case len(doc.Data) == 0:
		return nil, spec.StatusInvalidDetails, "no station in the payload"
	}
	station := strings.TrimSpace(doc.Data[0].StationID)
	if !stations[station] {
		return nil, spec.StatusInvalidStation, fmt.Sprintf("station %q is not in the registry", short(station))
	}
	for _, one := range doc.Data[0].Devices {
		if id := strings.TrimSpace(one.DeviceID); id != d.id || station != d.station {
			return nil, spec.StatusNoStationDeviceMatch, fmt.Sprintf("the payload has device %q of station %q, X-Device-Id is device %q of station %q",
				short(id), short(station), d.id, d.station)
		}
	}
	points := opened.points()
	if len(points) == 0 {
		return nil, spec.StatusInvalidDetails, "no reading in the payload"
	}
	for _, check := range []struct {
		ok     func(*point) bool
		status spec.Status
		why    func(*point) string
	}{
		{d.takesParameter, spec.StatusInvalidParameter, d.whyParameter},
		{d.takesUnit, spec.StatusInvalidUnit, d.whyUnit},
		{validFlag, spec.StatusInvalidDetails, func(p *point) string {
			return fmt.Sprintf("%s: flag %q is not one of %s", p.Parameter, short(p.Flag), spec.Flags)
		}},
		{validValue, spec.StatusInvalidDetails, func(p *point) string {
			return fmt.Sprintf("%s: value %s is not a number without an exponent", p.Parameter, short(string(p.Value)))
		}},
		{func(p *point) bool { return p.stampErr != nil || !p.stamp.Before(now.Add(-spec.MaxAge)) }, spec.StatusTooOld,
			func(p *point) string { return p.at() + " is older than 7 days" }},
		{func(p *point) bool { return p.stampErr != nil || !p.stamp.After(now) }, spec.StatusFuture,
			func(p *point) string { return p.at() + " is after the board's " + spec.ISTString(now) }},
		{func(p *point) bool {
			return p.stampErr == nil && spec.Aligned(p.stamp, spec.Flag(p.Flag[0]).Length())
		}, spec.StatusNotSlot, func(p *point) string {
			if p.stampErr != nil {
				return p.Parameter + ": " + p.stampErr.Error()
			}
			return fmt.Sprintf("%s is not on the grid of %s", p.at(), spec.Flag(p.Flag[0]).Length())
		}},
		{func(p *point) bool { return !p.calibration() || d.calibrates(p.stamp) }, spec.StatusNoCalibration,
			func(p *point) string { return "no calibration is scheduled for " + p.at() }},
	} {
		for _, p := range points {
			if !check.ok(p) {
				return nil, check.status, check.why(p)
			}
		}
	}
	readings := make([]Reading, len(points))
	for i, p := range points {
		readings[i] = Reading{Station: station, Device: d.id, Parameter: p.Parameter, Value: json.Number(p.Value), Unit: p.Unit,
			Timestamp: p.stamp.UnixMilli(), Flag: p.Flag, Diagnostic: p.diagnostic}
	}
	return readings, spec.StatusSuccess, ""
}

func appendPoints(points []*point, from []payload.Point, diagnostic bool) []*point {
	for _, p := range from {
		p.Parameter, p.Unit, p.Flag = strings.TrimSpace(p.Parameter), strings.TrimSpace(p.Unit), strings.TrimSpace(p.Flag)
		stamp, err := p.Stamp()
		points = append(points, &point{p, diagnostic, stamp, err})
	}
	return points
}

func (d *device) takesParameter(p *point) bool {
	_, listed := d.parameters[p.Parameter]
	return d.registry.takesParameter(p.Parameter) && (listed || d.parameters == nil)
}

func (d *device) takesUnit(p *point) bool {
	units := d.parameters[p.Parameter]
	return d.registry.takesUnit(p.Unit) && (len(units) == 0 || slices.Contains(units, p.Unit))
}

func (d *device) whyParameter(p *point) string {
	key := short(p.Parameter)
	if _, err := spec.LookupParameter(key); err != nil && !d.registry.takesParameter(p.Parameter) {
		return err.Error()
	}
	return fmt.Sprintf("%q is not a parameter of the device: nearest ", key) + strings.Join(spec.Nearest(key, slices.Sorted(maps.Keys(d.parameters))), ", ")
}

func (d *device) whyUnit(p *point) string {
	if units := d.parameters[p.Parameter]; len(units) > 0 {
		return fmt.Sprintf("%s: unit %q is not accepted for this device: nearest %s", p.Parameter, short(p.Unit), strings.Join(units, ", "))
	}
	key := short(p.Unit)
	resolved, err := spec.ResolveUnit(key)
	if err != nil {
		return p.Parameter + ": " + err.Error()
	}
	return fmt.Sprintf("%s: unit %q must be written %q", p.Parameter, key, resolved)
}

func validFlag(p *point) bool { return len(p.Flag) == 1 && spec.Flag(p.Flag[0]).Valid() }

// validValue accepts JSON numbers without an exponent, as payload.Validate does.
func validValue(p *point) bool {
	text := string(p.Value)
	if text == "" || text[0] != '-' && (text[0] < '0' || text[0] > '9') || strings.ContainsAny(text, "eE") {
		return false
	}
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

func (d *device) calibrates(t time.Time) bool {
	return slices.ContainsFunc(d.calibrations, func(c Calibration) bool { return !t.Before(c.From) && !t.After(c.To) })
}

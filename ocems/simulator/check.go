package simulator

import (
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
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
	return &device{r, id, station, token, body, d.Parameters, d.Calibrations}, nil
}

// Reading is one stored reading, as GET /received gives it.
type Reading struct {
	Station    string      `json:"station"`
	Device     string      `json:"device"`
	Parameter  string      `json:"parameter"`
	Value      json.Number `json:"value"` // as it was sent
	Unit       string      `json:"unit"`
	Timestamp  int64       `json:"timestamp"` // milliseconds since the Unix epoch
	Flag       string      `json:"flag"`
	Diagnostic bool        `json:"diagnostic"`  // came in diag_params
	ReceivedAt int64       `json:"received_at"` // milliseconds since the Unix epoch, without a fault's clock_offset
}

// authenticate makes the checks of the headers (spec 2.3).
func authenticate(h http.Header, key *rsa.PrivateKey, devices map[string]*device) (*device, spec.Status) {
	signature, id := strings.TrimSpace(h.Get("signature")), strings.TrimSpace(h.Get("X-Device-Id"))
	switch {
	case signature == "":
		return nil, spec.StatusNoSignature
	case id == "":
		return nil, spec.StatusNoDeviceID
	case key == nil:
		return nil, spec.StatusNoPublicKey
	case devices[id] == nil:
		return nil, spec.StatusDeviceNotRegistered
	}
	d := devices[id]
	token, _, err := seal.Unsign(key, signature)
	if err != nil || subtle.ConstantTimeCompare([]byte(token), []byte(d.token)) != 1 {
		return nil, spec.StatusInvalidDetails
	}
	return d, spec.StatusSuccess
}

// point is an entry of the payload on its way to a Reading.
type point struct {
	payload.Point
	diagnostic bool
	stamp      time.Time
	stampErr   error
}

func (p *point) calibration() bool { return len(p.Flag) == 1 && spec.Flag(p.Flag[0]).Calibration() }

// read makes the checks of the body (spec 2.4) in the simulator's order, each over all readings before the next, and
// returns the readings when they all pass. It does not look for duplicates.
func (d *device) read(body []byte, stations map[string]bool, now time.Time) ([]Reading, spec.Status) {
	text, err := d.body.Open(body)
	if err != nil {
		return nil, spec.StatusNotEncrypted
	}
	doc, err := payload.Decode(text)
	switch {
	case err != nil:
		return nil, spec.StatusNotEncrypted
	case len(doc.Data) > 1:
		return nil, spec.StatusSeveralStations
	case len(doc.Data) == 0:
		return nil, spec.StatusInvalidDetails
	}
	station := strings.TrimSpace(doc.Data[0].StationID)
	if !stations[station] {
		return nil, spec.StatusInvalidStation
	}
	var points []*point
	for _, one := range doc.Data[0].Devices {
		if strings.TrimSpace(one.DeviceID) != d.id || station != d.station {
			return nil, spec.StatusNoStationDeviceMatch
		}
		points = appendPoints(points, one.Params, false)
		points = appendPoints(points, one.DiagParams, true)
	}
	if len(points) == 0 {
		return nil, spec.StatusInvalidDetails
	}
	for _, check := range []struct {
		ok     func(*point) bool
		status spec.Status
	}{
		{d.takesParameter, spec.StatusInvalidParameter},
		{d.takesUnit, spec.StatusInvalidUnit},
		{validFlag, spec.StatusInvalidDetails},
		{validValue, spec.StatusInvalidDetails},
		{func(p *point) bool { return p.stampErr != nil || !p.stamp.Before(now.Add(-spec.MaxAge)) }, spec.StatusTooOld},
		{func(p *point) bool { return p.stampErr != nil || !p.stamp.After(now) }, spec.StatusFuture},
		{func(p *point) bool {
			return p.stampErr == nil && spec.Aligned(p.stamp, spec.Flag(p.Flag[0]).Length())
		}, spec.StatusNotSlot},
		{func(p *point) bool { return !p.calibration() || d.calibrates(p.stamp) }, spec.StatusNoCalibration},
	} {
		for _, p := range points {
			if !check.ok(p) {
				return nil, check.status
			}
		}
	}
	readings := make([]Reading, len(points))
	for i, p := range points {
		readings[i] = Reading{Station: station, Device: d.id, Parameter: p.Parameter, Value: json.Number(p.Value), Unit: p.Unit,
			Timestamp: p.stamp.UnixMilli(), Flag: p.Flag, Diagnostic: p.diagnostic}
	}
	return readings, spec.StatusSuccess
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

func validFlag(p *point) bool { return len(p.Flag) == 1 && spec.Flag(p.Flag[0]).Valid() }

// validValue takes JSON numbers without an exponent, as payload.Validate does.
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

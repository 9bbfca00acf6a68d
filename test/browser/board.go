package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/simulator"
)

const (
	etp, stack1, stack2 = "device_etp_1", "device_stack_1", "device_stack_2"
	effluent, boilers   = "station_etp_outlet", "station_boiler_house"
)

// sender sends a device's records like the product.
type sender struct {
	url    string
	key    *rsa.PublicKey
	tokens map[string]string // by device
	client http.Client
}

func (s *sender) send(r payload.Record, now time.Time) (status int, err error) {
	text, err := r.Marshal()
	if err != nil {
		return 0, err
	}
	body, err := seal.Seal(s.tokens[r.DeviceID], text)
	if err != nil {
		return 0, err
	}
	signature, err := seal.Sign(s.key, s.tokens[r.DeviceID], now)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequest(http.MethodPost, s.url+"/v1.0/industry/data", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header["signature"] = []string{signature}
	request.Header.Set("X-Device-Id", r.DeviceID)
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	reply, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	var out struct{ Status *int }
	if json.Unmarshal(reply, &out) != nil || out.Status == nil {
		return 0, fmt.Errorf("HTTP %d: %s", answer.StatusCode, reply)
	}
	return *out.Status, nil
}

// plant returns the registry of the demonstration, with new tokens.
func plant(calibrations ...simulator.Calibration) (registry *simulator.Registry, tokens map[string]string) {
	tokens = map[string]string{}
	device := func(id string, parameters map[string][]string, calibrations ...simulator.Calibration) simulator.Device {
		tokens[id] = rand.Text()
		return simulator.Device{ID: id, Token: tokens[id], Parameters: parameters, Calibrations: calibrations}
	}
	return &simulator.Registry{Stations: []simulator.Station{
		{ID: effluent, Devices: []simulator.Device{device(etp, map[string][]string{"cod": {"mg/L"}, "bod": {"mg/L"}, "tss": {"mg/L"}, "ph": {"pH"}}, calibrations...)}},
		{ID: boilers, Devices: []simulator.Device{
			device(stack1, map[string][]string{"so2": {"mg/Nm³"}, "pm": {"mg/Nm³"}}),
			device(stack2, map[string][]string{"so2": {"mg/Nm³"}, "pm": {"mg/Nm³"}})}},
	}}, tokens
}

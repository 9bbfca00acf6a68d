package simulator_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/ocems/spec"
)

func text(t *testing.T, server *httptest.Server, path string) (*http.Response, string) {
	t.Helper()
	resp, err := server.Client().Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func read[T any](t *testing.T, server *httptest.Server, path string) (out T) {
	t.Helper()
	resp, body := text(t, server, path)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: HTTP %d %s: %s", path, resp.StatusCode, resp.Header.Get("Content-Type"), body)
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("%s: %v in %s", path, err, body)
	}
	return out
}

func (q request) at(stamp time.Time) request { q.stamp = stamp; return q }

func letter(t *testing.T, c simulator.Calendar, stamp time.Time) string {
	t.Helper()
	for _, d := range c.Days {
		if i := (stamp.UnixMilli() - d.First) / spec.SlotLength.Milliseconds(); i >= 0 && i < 96 && stamp.UnixMilli() >= d.First {
			return d.Slots[i : i+1]
		}
	}
	t.Fatalf("%s is in no row", stamp)
	return ""
}

func TestCalendar(t *testing.T) {
	server := start(t, nil)
	back := func(n int) time.Time { return slot.Add(-time.Duration(n) * spec.SlotLength) }
	cod := func(q request) request { q.parameter, q.unit, q.value = "cod", "mg/L", "31.50"; return q }
	both := func(stamp time.Time) {
		good().at(stamp).want(t, server, 1)
		cod(good().at(stamp)).want(t, server, 1)
	}
	wrong := func(q request) request { q.unit = "mg/l"; return q }

	both(slot)
	good().at(back(1)).want(t, server, 1)
	wrong(cod(good().at(back(2)))).want(t, server, 110)
	wrong(cod(good().at(back(3)))).want(t, server, 110)
	both(back(3)) // and corrected
	both(back(4))
	good().at(back(4)).want(t, server, 111) // sent again: still delivered
	fault(t, server, `{"count":1,"http_status":503}`)
	_, _, _ = cod(good().at(back(9))).send(server)
	fault(t, server, `{"count":1,"status":1}`) // the sender gets status 1, but nothing is stored
	cod(good().at(back(10))).want(t, server, 1)
	fault(t, server, `{"count":2,"close":true,"after_store":true}`)
	_, _, _ = good().at(back(11)).send(server)
	_, _, _ = cod(good().at(back(11))).send(server)
	text(t, server, "/") // remaining faults do not apply to it
	for _, p := range []func(request) request{func(q request) request { return q }, cod} {
		for _, flag := range []string{"C", "Z"} {
			q := p(good().at(now.Add(-90 * time.Minute).Truncate(30 * time.Second)))
			if q.flag = flag; flag == "Z" {
				q.stamp = q.stamp.Add(30 * time.Second)
			}
			q.want(t, server, 1)
		}
	}

	c := read[simulator.Calendar](t, server, "/console/calendar?device=dev_1")
	calibrated := time.Date(2026, 2, 10, 10, 45, 0, 0, spec.IST) // the slot of 10:37:30 and 10:38
	for _, want := range []struct {
		stamp        time.Time
		letter, name string
	}{
		{slot, "D", "whole"}, {back(1), "P", "one of two parameters"}, {back(2), "R", "refused"}, {back(3), "D", "refused, then stored"},
		{back(4), "D", "stored, then sent again"}, {calibrated, "C", "calibration"}, {back(6), "M", "nothing"}, {back(9), "R", "HTTP 503"},
		{back(10), "M", "success that a fault told"}, {back(11), "D", "reply lost"},
		{slot.Add(spec.SlotLength), "-", "not due"}, {slot.Add(-spec.MaxAge), "-", "too old"}, {back(12), "-", "before the first that arrived"},
	} {
		if got := letter(t, c, want.stamp); got != want.letter {
			t.Errorf("%s: %s, want %s", want.name, got, want.letter)
		}
	}
	if len(c.Days) != 8 || c.Days[0].Date != "2026-02-10" || c.Days[7].Date != "2026-02-03" {
		t.Errorf("days %+v", c.Days)
	}
	for _, d := range c.Days {
		if len(d.Slots) != 96 {
			t.Errorf("%s has %d slots", d.Date, len(d.Slots))
		}
	}
	if c.Cells["D"] != 4 || c.Cells["P"] != 1 || c.Cells["R"] != 2 || c.Cells["C"] != 1 || c.Cells["M"] != 4 {
		t.Errorf("cells %v", c.Cells)
	}
	if fmt.Sprint(c.Parameters) != `[{cod mg/L false false} {ph pH false false}]` {
		t.Errorf("parameters %+v", c.Parameters)
	}
	if want := fmt.Sprint([6]any{float64(slot.UnixMilli()), 0., 31.5, "U", float64(slot.UnixMilli()), float64(now.UnixMilli())}); !slices.ContainsFunc(c.Readings, func(r [6]any) bool { return fmt.Sprint(r) == want }) {
		t.Errorf("no %s in %v", want, c.Readings)
	}
	if len(c.Refused) != 2 || c.Refused[0][3] != 503. || c.Refused[0][4] != nil || c.Refused[1][4] != 110. {
		t.Errorf("refused %v", c.Refused)
	}

	oldest := slot.Add(-spec.MaxAge + spec.SlotLength)
	both(oldest)
	c = read[simulator.Calendar](t, server, "/console/calendar?device=dev_1")
	if c.Cells["M"] != spec.SlotsKept-9 || letter(t, c, oldest) != "D" || letter(t, c, back(12)) != "M" {
		t.Errorf("with the oldest: cells %v", c.Cells)
	}

	one := read[simulator.Calendar](t, server, "/console/calendar?device=dev_1&parameter=ph")
	if letter(t, one, back(1)) != "D" || letter(t, one, back(2)) != "M" || len(one.Refused) != 0 {
		t.Errorf("ph alone: %+v", one)
	}
	if resp, body := text(t, server, "/console/calendar?device=dev1"); resp.StatusCode != 404 || !strings.Contains(body, `"dev1" is not in the registry: nearest dev_1`) {
		t.Errorf("HTTP %d %s", resp.StatusCode, body)
	}
}

// A slot is not missing at the moment of its stamp.
func TestCalendarDue(t *testing.T) {
	for after, want := range map[time.Duration]string{0: "-", time.Minute: "-", 2 * time.Minute: "M"} {
		server := start(t, func(c *simulator.Config) { c.Now = func() time.Time { return slot.Add(after) } })
		good().at(slot.Add(-spec.SlotLength)).want(t, server, 1)
		if got := letter(t, read[simulator.Calendar](t, server, "/console/calendar?device=dev_1"), slot); got != want {
			t.Errorf("%s after the stamp: %s, want %s", after, got, want)
		}
	}
}

// If the registry has a device's parameters, a complete slot has all of them, even before they were sent once.
func TestCalendarOfRegistryParameters(t *testing.T) {
	server := start(t, nil)
	q := good()
	q.device, q.header, q.token, q.signToken = "dev_2", "dev_2", "token-of-dev-2", "token-of-dev-2"
	q.want(t, server, 1)
	c := read[simulator.Calendar](t, server, "/console/calendar?device=dev_2")
	if len(c.Parameters) != 2 || letter(t, c, slot) != "P" {
		t.Errorf("%s %+v", letter(t, c, slot), c.Parameters)
	}
	// A key that was always refused does not make other slots incomplete.
	q.parameter, q.unit, q.value, q.stamp = "cod", "mg/L", "3", slot
	q.want(t, server, 1)
	q.parameter, q.stamp = "COD", slot.Add(-spec.SlotLength)
	q.want(t, server, 119)
	c = read[simulator.Calendar](t, server, "/console/calendar?device=dev_2")
	if letter(t, c, slot) != "D" || letter(t, c, slot.Add(-spec.SlotLength)) != "R" {
		t.Errorf("%s, %s", letter(t, c, slot), letter(t, c, slot.Add(-spec.SlotLength)))
	}
}

func TestRequests(t *testing.T) {
	server := start(t, nil)
	for _, c := range []struct {
		name         string
		change       func(*request)
		fault        string
		http, status int // status -1 is none
		meaning      string
		reason       string
		payload      string
	}{
		{name: "good", http: 200, status: 1, meaning: "Success", payload: `"value": 7.20, "unit": "pH", "timestamp": 1770705000000, "flag": "U" }`},
		{name: "sent again", http: 200, status: 111, reason: "ph of 2026-02-10 12:00:00 IST is already stored", payload: "7.20"},
		{name: "unit", change: func(q *request) { q.parameter, q.unit = "cod", "mg/l" }, http: 200, status: 110, reason: `cod: unit "mg/l" must be written "mg/L"`, payload: "mg/l"},
		{name: "parameter", change: func(q *request) { q.parameter = "PH" }, http: 200, status: 119, reason: `unknown parameter "PH": nearest "ph"`},
		{name: "future", change: func(q *request) { q.stamp = slot.Add(time.Hour) }, http: 200, status: 118, reason: "ph of 2026-02-10 13:00:00 IST is after the board's 2026-02-10 12:07:30 IST"},
		{name: "signature of another device", change: func(q *request) { q.signToken = "token-of-dev-2" }, http: 200, status: 10, reason: "the signature has another token than the device's", payload: "7.20"},
		{name: "sealed under another token", change: func(q *request) { q.token = "token-of-dev-2" }, http: 200, status: 109, reason: "encrypted with another token"},
		{name: "HTTP", fault: `{"count":1,"http_status":429,"retry_after":30}`, http: 429, status: -1, reason: "fault: HTTP 429 Too Many Requests, Retry-After 30 s", payload: "7.20"},
		{name: "HTML", fault: `{"count":1,"html":true}`, http: 200, status: -1, reason: "fault: answers HTML"},
		{name: "status", fault: `{"count":1,"status":102}`, http: 200, status: 102, reason: "fault: status 102 (", payload: "7.20"},
		{name: "status outside v1.5", fault: `{"count":1,"status":108}`, http: 200, status: 108, meaning: "not a status of API v1.5", reason: "fault: status 108"},
		{name: "clock", fault: `{"count":1,"clock_offset":"-1h"}`, http: 200, status: 118, reason: "fault: clock -3600 s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.fault != "" {
				fault(t, server, c.fault)
			}
			q := good()
			if c.change != nil {
				c.change(&q)
			}
			if _, _, err := q.send(server); err != nil {
				t.Fatal(err)
			}
			list := read[[]simulator.Request](t, server, "/console/requests")
			r := read[simulator.Request](t, server, fmt.Sprintf("/console/requests/%d", len(list)))
			if last := list[len(list)-1]; last.ID != r.ID || last.Payload != "" || last.Reason != r.Reason {
				t.Errorf("the list has %+v, the request is %+v", last, r)
			}
			status := -1
			if r.Status != nil {
				status = *r.Status
			}
			if r.Device != "dev_1" || r.Station != "station_1" || r.Time != now.UnixMilli() || r.HTTP != c.http || status != c.status ||
				!strings.Contains(r.Meaning, c.meaning) || !strings.Contains(r.Reason, c.reason) || !strings.Contains(r.Payload, c.payload) || r.Stored != (status == 1) {
				t.Errorf("status %d, %+v", status, r)
			}
			if c.name == "good" && (r.Readings != 1 || r.First != slot.UnixMilli() || r.Last != slot.UnixMilli() || r.Reason != "") {
				t.Errorf("%+v", r)
			}
		})
	}
	for _, path := range []string{"/console/requests/0", "/console/requests/-1", "/console/requests/9999", "/console/requests/x"} {
		if resp, _ := text(t, server, path); resp.StatusCode != 404 {
			t.Errorf("%s: HTTP %d", path, resp.StatusCode)
		}
	}
}

// Memory does not grow with the number or size of requests, nor with names that senders invent.
func TestConsoleBounds(t *testing.T) {
	server := start(t, nil)
	var entries []string
	for i := range 9000 {
		entries = append(entries, fmt.Sprintf(`{"parameter":"p%04d","value":1,"unit":"%%","timestamp":%d,"flag":"U"}`, i, slot.UnixMilli()))
	}
	body := `{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[` + strings.Join(entries, ",") + `]}]}]}`
	for i := range 12 { // 108,000 refused names
		q := good()
		q.json = strings.ReplaceAll(body, `"p`, fmt.Sprintf(`"p%d_`, i))
		q.json = strings.ReplaceAll(q.json, fmt.Sprintf(`"p%d_arameter"`, i), `"parameter"`)
		q.json = strings.ReplaceAll(q.json, fmt.Sprintf(`"p%d_arams"`, i), `"params"`)
		q.want(t, server, spec.StatusInvalidParameter)
	}
	c := read[simulator.Calendar](t, server, "/console/calendar?device=dev_1")
	if len(c.Refused) != 100_000 || c.Parameters[0].Parameter != "p0_8000" {
		t.Errorf("%d refused are kept, the first %+v", len(c.Refused), c.Parameters[0])
	}
	large := read[simulator.Request](t, server, "/console/requests/12")
	if !large.Cut || len(large.Payload) > 32<<10 || large.Readings != 9000 {
		t.Errorf("%d bytes, cut %v, %d readings", len(large.Payload), large.Cut, large.Readings)
	}
	q := good()
	q.header, q.body = strings.Repeat("x", 5000), "nonsense"
	for range 1000 {
		q.want(t, server, spec.StatusDeviceNotRegistered)
	}
	list := read[[]simulator.Request](t, server, "/console/requests")
	if len(list) != 1000 || list[0].ID != 13 || list[999].ID != 1012 || len(list[0].Device) > 110 {
		t.Errorf("%d requests are kept, the first %+v", len(list), list[0])
	}
	if resp, _ := text(t, server, "/console/requests/12"); resp.StatusCode != 404 {
		t.Errorf("HTTP %d for a request that is over", resp.StatusCode)
	}
}

func TestKeep(t *testing.T) {
	clock, mu := now, sync.Mutex{}
	server := start(t, func(c *simulator.Config) {
		c.Keep = 8 * 24 * time.Hour
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	})
	step := func(to time.Time) { mu.Lock(); clock = to; mu.Unlock() }
	third := good()
	third.station, third.device, third.header, third.token, third.signToken = "station_2", "dev_3", "dev_3", "token-of-dev-3", "token-of-dev-3"
	good().want(t, server, 1)
	third.at(slot).want(t, server, 1)
	step(now.Add(24 * time.Hour))
	good().at(slot.Add(24*time.Hour)).want(t, server, 1)
	if got := received(t, server, ""); len(got.Readings) != 3 {
		t.Fatalf("%d readings", len(got.Readings))
	}
	step(now.Add(8*24*time.Hour + time.Hour))
	third.at(slot.Add(8*24*time.Hour)).want(t, server, 1)
	got := received(t, server, "")
	if len(got.Readings) != 2 || got.Accepted != 4 || got.Readings[0].Timestamp != slot.Add(24*time.Hour).UnixMilli() {
		t.Errorf("%+v", got)
	}
	for device, stamp := range map[string]time.Time{"dev_1": slot.Add(24 * time.Hour), "dev_3": slot.Add(8 * 24 * time.Hour)} {
		c := read[simulator.Calendar](t, server, "/console/calendar?device="+device)
		if len(c.Readings) != 1 || c.Readings[0][0] != float64(stamp.UnixMilli()) || letter(t, c, stamp) != "D" {
			t.Errorf("%s: readings %v", device, c.Readings)
		}
	}
	registry, _ := simulator.ParseRegistry([]byte(registryYAML), now)
	if _, err := simulator.New(simulator.Config{Registry: registry, Keep: time.Hour}); err == nil || !strings.Contains(err.Error(), "keep: 1h0m0s is less than") {
		t.Error(err)
	}
}

func TestDevices(t *testing.T) {
	registry := &simulator.Registry{}
	for i := range 40 {
		station := simulator.Station{ID: fmt.Sprintf("station_%02d", i)}
		for k := range 500 {
			station.Devices = append(station.Devices, simulator.Device{ID: fmt.Sprintf("dev_%02d_%03d", i, k), Token: fmt.Sprintf("token-%d-%d", i, k)})
		}
		registry.Stations = append(registry.Stations, station)
	}
	server := start(t, func(c *simulator.Config) { c.Registry = registry })
	type list struct {
		Total, Matched int
		Devices        []struct{ Station, Device string }
	}
	for search, want := range map[string]struct {
		matched, shown int
		first          string
	}{"": {20000, 200, "dev_00_000"}, "DEV_07_49": {10, 10, "dev_07_490"}, "station_39": {500, 200, "dev_39_000"}, "none": {0, 0, ""}} {
		got := read[list](t, server, "/console/devices?search="+url.QueryEscape(search))
		first := ""
		if len(got.Devices) > 0 {
			first = got.Devices[0].Device
		}
		if got.Total != 20000 || got.Matched != want.matched || len(got.Devices) != want.shown || first != want.first {
			t.Errorf("%q: %d of %d, %d shown, first %s", search, got.Matched, got.Total, len(got.Devices), first)
		}
	}
	q := good()
	q.station, q.device, q.header, q.token, q.signToken = "station_07", "dev_07_490", "dev_07_490", "token-7-490", "token-7-490"
	q.want(t, server, 1)
	q.want(t, server, 111)
	if _, body := text(t, server, "/console/devices?search=dev_07_490"); !strings.Contains(body,
		fmt.Sprintf(`"requests":2,"accepted":1,"rejected":0,"duplicates":1,"last":%d,"last_stored":true`, now.UnixMilli())) {
		t.Error(body)
	}
}

// 111 means that a slot is already stored, or that a stamp is off the grid; a fault may answer it to any request.
func TestLastStored(t *testing.T) {
	for _, duplicates := range []string{simulator.DuplicatesByParameter, simulator.DuplicatesBySlot} {
		t.Run(duplicates, func(t *testing.T) {
			server := start(t, func(c *simulator.Config) { c.Duplicates = duplicates })
			want := func(stored bool) {
				t.Helper()
				if _, body := text(t, server, "/console/devices?search=dev_1"); !strings.Contains(body, fmt.Sprintf(`"last_stored":%v`, stored)) {
					t.Errorf("want %v: %s", stored, body)
				}
			}
			good().at(slot.Add(-time.Minute)).want(t, server, 111)
			want(false)
			fault(t, server, `{"count":1,"status":111}`)
			good().want(t, server, 111)
			want(false)
			good().want(t, server, 1)
			want(true)
			good().want(t, server, 111)
			want(true)
			q := good()
			q.json = strings.ReplaceAll(`{"data":[{"stationId":"station_1","device_data":[{"deviceId":"dev_1","params":[
				{"parameter":"ph","value":7,"unit":"pH","timestamp":T,"flag":"U"},{"parameter":"cod","value":7,"unit":"mg/L","timestamp":T,"flag":"U"}]}]}]}`, "T,", fmt.Sprint(slot.UnixMilli())+",")
			q.want(t, server, 111) // and cod is not stored
			want(false)
			if c := read[simulator.Calendar](t, server, "/console/calendar?device=dev_1"); letter(t, c, slot) != "P" || len(c.Refused) != 1 { // cod
				t.Errorf("%s, refused %v", letter(t, c, slot), c.Refused)
			}
		})
	}
}

// Requests are found by the device's id, even if it is long.
func TestLongID(t *testing.T) {
	id := strings.Repeat("logger_of_the_plant_", 20)
	server := start(t, func(c *simulator.Config) {
		c.Registry = &simulator.Registry{Stations: []simulator.Station{{ID: "station_1", Devices: []simulator.Device{{ID: id, Token: "token-of-dev-1"}}}}}
	})
	q := good()
	q.device, q.header = id, id
	q.want(t, server, 1)
	q.header = id + "_2"
	q.want(t, server, spec.StatusDeviceNotRegistered)
	list := read[[]simulator.Request](t, server, "/console/requests")
	if list[0].Device != id || list[0].Station != "station_1" || len(list[1].Device) > 110 || list[1].Station != "" {
		t.Errorf("%+v", list)
	}
}

// events reads an event stream of the console.
type events struct {
	resp  *http.Response
	lines *bufio.Scanner
}

func listen(t *testing.T, url string) *events {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/console/events", nil)
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	return &events{resp, lines}
}

type update struct {
	Requests []simulator.Request
	Skipped  int
	Faults   []struct {
		ID    int
		About string
		Fault simulator.Fault
	}
	Totals struct{ Requests, Accepted, Rejected, Duplicates int }
}

func (e *events) next(t *testing.T) (u update) {
	t.Helper()
	for e.lines.Scan() {
		if data, ok := strings.CutPrefix(e.lines.Text(), "data: "); ok {
			if err := json.Unmarshal([]byte(data), &u); err != nil {
				t.Fatal(err)
			}
			return u
		}
	}
	t.Fatalf("the stream has ended: %v", e.lines.Err())
	return u
}

func TestEvents(t *testing.T) {
	server := start(t, nil)
	good().want(t, server, 1) // before the stream, so not new
	e := listen(t, server.URL)
	if kind := e.resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatal(kind)
	}
	if u := e.next(t); len(u.Requests) != 0 || u.Totals.Accepted != 1 || u.Faults == nil {
		t.Fatalf("first %+v", u)
	}
	good().want(t, server, 111)
	u := e.next(t)
	if len(u.Requests) != 1 || *u.Requests[0].Status != 111 || u.Totals.Duplicates != 1 || u.Faults != nil {
		t.Fatalf("request %+v", u)
	}
	fault(t, server, `{"device":"dev_1","count":1,"half":true}`)
	if u = e.next(t); len(u.Faults) != 1 || u.Faults[0].About != "sends half of the answer" || u.Faults[0].Fault.Count != 1 {
		t.Fatalf("fault %+v", u)
	}
	_, _, _ = good().send(server)
	for gone := false; !gone; gone = u.Faults != nil && len(u.Faults) == 0 {
		u = e.next(t)
	}
}

// A browser that does not read delays no request. It gets the newest requests when it reads again.
func TestSlowEvents(t *testing.T) {
	server := start(t, nil)
	e := listen(t, server.URL)
	e.next(t)
	q := good()
	q.header, q.body = "dev_9", "nonsense"
	const sent = 3000
	begin := time.Now()
	for range sent {
		q.want(t, server, spec.StatusDeviceNotRegistered)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("%d requests took %s", sent, took)
	}
	seen, skipped := 0, 0
	for seen+skipped < sent {
		u := e.next(t)
		if len(u.Requests) > 1000 {
			t.Fatalf("%d requests in one event", len(u.Requests))
		}
		seen += len(u.Requests)
		skipped += u.Skipped
	}
	if seen+skipped != sent {
		t.Errorf("%d seen, %d skipped", seen, skipped)
	}
}

func TestManyEvents(t *testing.T) {
	server := start(t, nil)
	var open []*events
	for range 64 {
		open = append(open, listen(t, server.URL))
	}
	e := listen(t, server.URL)
	body, _ := io.ReadAll(e.resp.Body)
	if e.resp.StatusCode != 503 || !strings.Contains(string(body), "64 consoles are open") {
		t.Fatalf("HTTP %d %s", e.resp.StatusCode, body)
	}
	open[0].resp.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); ; { // until the server notices
		if e := listen(t, server.URL); e.resp.StatusCode == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed stream stays taken")
		}
	}
}

// A server shuts down with consoles open, both just after an event and when nothing is new.
func TestShutdownEndsEvents(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Second} {
		t.Run(idle.String(), func(t *testing.T) { shutdownEndsEvents(t, idle) })
	}
}

func shutdownEndsEvents(t *testing.T, idle time.Duration) {
	registry, _ := simulator.ParseRegistry([]byte(registryYAML), now)
	s, err := simulator.New(simulator.Config{Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	server.RegisterOnShutdown(s.Close)
	go func() { _ = server.Serve(listener) }()
	e := listen(t, "http://"+listener.Addr().String())
	e.next(t)
	time.Sleep(idle)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	begin := time.Now()
	if err := server.Shutdown(ctx); err != nil || time.Since(begin) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	for e.lines.Scan() {
	}
	if err := e.lines.Err(); err != nil {
		t.Errorf("the stream was torn: %v", err)
	}
	s.Close() // a second Close is allowed
}

func TestRemoveFault(t *testing.T) {
	server := start(t, nil)
	fault(t, server, `[{"http_status":500},{"device":"dev_2","status":10},{"half":true}]`)
	type view struct {
		ID    int
		About string
	}
	list := read[[]view](t, server, "/console/faults")
	if len(list) != 3 || list[1].About != "status "+spec.StatusInvalidDetails.String() {
		t.Fatalf("%+v", list)
	}
	remove := func(id any) int {
		r, _ := http.NewRequest(http.MethodDelete, fmt.Sprintf("%s/faults/%v", server.URL, id), nil)
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := remove(list[0].ID); code != 204 {
		t.Error(code)
	}
	if code := remove(list[0].ID); code != 404 {
		t.Errorf("twice: HTTP %d", code)
	}
	if code := remove("x"); code != 404 {
		t.Errorf("x: HTTP %d", code)
	}
	left := read[[]view](t, server, "/console/faults")
	if len(left) != 2 || left[0].ID != list[1].ID || left[1].ID != list[2].ID {
		t.Errorf("%+v", left)
	}
	if _, body := text(t, server, "/faults"); strings.TrimSpace(body) != `[{"device":"dev_2","count":0,"status":10},{"count":0,"half":true}]` {
		t.Error(body)
	}
}

// A page of another site must not change anything; programs other than browsers may.
func TestCrossSite(t *testing.T) {
	server := start(t, nil)
	host := strings.TrimPrefix(server.URL, "http://")
	for _, c := range []struct {
		name    string
		headers map[string]string
		refused bool
	}{
		{"another site", map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://example.com"}, true},
		{"another port of this host", map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, true},
		{"an old browser", map[string]string{"Origin": "https://example.com"}, true},
		{"the console", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://" + host}, false},
		{"an old browser with the console", map[string]string{"Origin": "http://" + host}, false},
		{"curl", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, call := range []struct{ method, path string }{{"POST", "/faults"}, {"DELETE", "/faults"}, {"DELETE", "/faults/1"}, {"POST", "/v1.0/industry/data"}} {
				r, _ := http.NewRequest(call.method, server.URL+call.path, strings.NewReader(`{"device":"dev_2","http_status":500}`))
				for k, v := range c.headers {
					r.Header.Set(k, v)
				}
				resp, err := server.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if refused := resp.StatusCode == http.StatusForbidden; refused != c.refused {
					t.Errorf("%s %s: HTTP %d", call.method, call.path, resp.StatusCode)
				}
			}
		})
	}
	if n := len(read[[]simulator.Request](t, server, "/console/requests")); n != 3 {
		t.Errorf("%d requests came through, want the 3 of the console and curl", n)
	}
}

// A foreign name whose DNS points here can read and change nothing; the API accepts every name.
func TestForeignHost(t *testing.T) {
	server := start(t, func(c *simulator.Config) { c.Hosts = []string{"board.plant.example"} })
	for host, open := range map[string]bool{"": true, "localhost:8750": true, "console.localhost": true, "127.0.0.1": true, "[::1]:8750": true, "simulator:80": true,
		"Board.plant.example:8750": true, "evil.example": false, "evil.example:8750": false, "127.0.0.1.evil.example": false, "board.plant.example.": false} {
		for _, call := range []struct {
			method, path, origin string
			open                 bool
		}{{"GET", "/", "", open}, {"GET", "/received", "", open}, {"GET", "/faults", "", open}, {"GET", "/console/requests", "", open}, {"POST", "/faults", "", open},
			{"DELETE", "/faults", "", open}, {"POST", "/v1.0/industry/data", "", true}, {"GET", "/received", "https://example.com", false}, {"GET", "/received", "null", false}} {
			r, _ := http.NewRequest(call.method, server.URL+call.path, strings.NewReader(`{"device":"dev_2","http_status":500}`))
			r.Host = host
			if call.origin != "" {
				r.Header.Set("Origin", call.origin)
			}
			resp, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if refused := resp.StatusCode == http.StatusForbidden; refused == call.open {
				t.Errorf("%s %s of %q from %q: HTTP %d", call.method, call.path, host, call.origin, resp.StatusCode)
			}
		}
	}
}

// Loggers with mixed-up columns send tokens as identifiers and values.
func TestNoTokenIsShown(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	server := start(t, func(c *simulator.Config) { c.Logger = slog.New(slog.NewTextHandler(&locked{mu: &mu, w: &log}, nil)) })
	e := listen(t, server.URL)
	for _, change := range []func(*request){
		func(*request) {},
		func(q *request) { q.header = "token-of-dev-1" },
		func(q *request) { q.header = "token-of-dev-2"; q.signature = "-" },
		func(q *request) { q.station = "token-of-dev-1" },
		func(q *request) { q.device = "token-of-dev-3" },
		func(q *request) { q.parameter = "token-of-dev-2" },
		func(q *request) { q.unit = "token-of-dev-1" },
		func(q *request) { q.flag = "token-of-dev-1" },
		func(q *request) { q.value = `"token-of-dev-1"` },
		func(q *request) { q.value = `"Bearer token-of-dev-1."` },
		func(q *request) {
			q.json = `{"data":[{"stationId":"station_1","token":"\u0074oken-of-dev-1","o\u0074her":"x token\u002dof-dev-1"}]}`
		},
		func(q *request) { q.json = `no JSON with token-of-dev-1 in it` },
		func(q *request) { q.json = "token-of-dev-1" },
	} {
		q := good()
		change(&q)
		if _, _, err := q.send(server); err != nil {
			t.Fatal(err)
		}
	}
	list := read[[]simulator.Request](t, server, "/console/requests")
	paths := []string{"/", "/received", "/faults", "/console/about", "/console/faults", "/console/requests", "/console/devices", "/console/devices?search=token-of-dev-1",
		"/console/calendar?device=dev_1", "/console/calendar?device=dev_2", "/console/calendar?device=token-of-dev-1", "/console/console.js"}
	for _, r := range list {
		paths = append(paths, fmt.Sprintf("/console/requests/%d", r.ID))
	}
	token := regexp.MustCompile(`(?i)token(-|\\u002d)of-dev|\\u0074oken`)
	for _, path := range paths {
		if _, body := text(t, server, path); token.MatchString(body) {
			t.Errorf("%s: %s", path, body)
		}
	}
	if _, body := text(t, server, "/console/requests/9"); !strings.Contains(body, "(a token)") {
		t.Errorf("nothing was there to hide: %s", body)
	}
	for u := (update{}); u.Totals.Requests < len(list); {
		u = e.next(t)
		if text, _ := json.Marshal(u); token.Match(text) {
			t.Errorf("event %s", text)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if token.Match(log.Bytes()) || !strings.Contains(log.String(), "(a token)") {
		t.Errorf("log %s", &log)
	}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.w.Write(p) }

func TestPage(t *testing.T) {
	server := start(t, nil)
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/console/console.css": "text/css; charset=utf-8",
		"/console/console.js": "text/javascript; charset=utf-8", "/webui/webui.css": "text/css; charset=utf-8", "/webui/webui.js": "text/javascript; charset=utf-8", "/webui/icon.svg": "image/svg+xml", "/console/about": "application/json"} {
		resp, body := text(t, server, path)
		csp := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != kind || !strings.Contains(csp, "default-src 'none'; script-src 'self'; style-src 'self'") ||
			strings.Contains(csp, "unsafe") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: HTTP %d %v", path, resp.StatusCode, resp.Header)
		}
		if elsewhere := regexp.MustCompile(`(https?:)?//[a-z0-9]+\.[a-z.]+[^ ]*`).FindString(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", "")); elsewhere != "" {
			t.Errorf("%s names another host: %s", path, elsewhere)
		}
		for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(body, sink) {
				t.Errorf("%s has %s", path, sink)
			}
		}
	}
	if resp, _ := text(t, server, "/console/other"); resp.StatusCode != 404 {
		t.Errorf("HTTP %d for what is not there", resp.StatusCode)
	}
}

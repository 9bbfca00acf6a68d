package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/ocems-io/ocems/ocems/spec"
)

// The parameters of a device. All have the same unit, so that one line of line protocol holds all.
var parameters = []string{"so2", "pm", "co", "hcl", "hf", "ammonia", "tvoc"}

const (
	unit    = "mg/Nm³"
	minutes = 15 // readings per parameter and slot
	senders = 16 // of OTLP, in parallel
)

func deviceID(i int) string { return fmt.Sprintf("dev_%06d", i) }
func station(i int) string  { return fmt.Sprintf("station_%04d", i/10) }
func token(i int) string    { return fmt.Sprintf("%032x", i+1) }

func numberOf(device string) string {
	return strings.TrimLeft(strings.TrimPrefix(device, "dev_"), "0")
}

// value returns one reading with two decimals, as instruments send it.
func value(device, parameter, minute int) float64 {
	return float64(4000+(device%50)*20+parameter*300+minute*25) / 100
}

// windowStart returns the start of the window of a boundary. It was a day ago, so that the window closes immediately.
func windowStart(boundary int) time.Time {
	return time.Now().Add(-24 * time.Hour).Truncate(4 * time.Hour).Add(time.Duration(boundary) * spec.SlotLength)
}

// otlp returns one minute of some devices. Each device is a resource.
func otlp(from, to int, at time.Time, minute int) ([]byte, error) {
	md := pmetric.NewMetrics()
	for i := from; i < to; i++ {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("ocems.device.id", deviceID(i))
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		for j, parameter := range parameters {
			m := metrics.AppendEmpty()
			m.SetName(parameter)
			m.SetUnit(unit)
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(at))
			p.SetDoubleValue(value(i, j, minute))
		}
	}
	return pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
}

// feedOTLP posts one minute of all devices, and returns when all requests are answered.
func feedOTLP(url string, devices, batch int, at time.Time, minute int) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		last error
		next = make(chan int)
	)
	for range senders {
		wg.Go(func() {
			for from := range next {
				body, err := otlp(from, min(from+batch, devices), at, minute)
				if err == nil {
					err = postOTLP(url, body)
				}
				if err != nil {
					mu.Lock()
					last = err
					mu.Unlock()
				}
			}
		})
	}
	for from := 0; from < devices; from += batch {
		next <- from
	}
	close(next)
	wg.Wait()
	return last
}

func postOTLP(url string, body []byte) error {
	resp, err := http.Post(url, "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the collector answers %s: %s", resp.Status, text)
	}
	return nil
}

// lines returns one minute of all devices in line protocol, one line per device.
func lines(devices int, at time.Time, minute int) []byte {
	var b []byte
	for i := range devices {
		b = fmt.Appendf(b, "stack,ocems_device_id=%s,ocems_unit=%s ", deviceID(i), unit)
		for j, parameter := range parameters {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(b, parameter...)
			b = append(b, '=')
			b = strconv.AppendFloat(b, value(i, j, minute), 'f', -1, 64)
		}
		b = append(b, ' ')
		b = strconv.AppendInt(b, at.UnixNano(), 10)
		b = append(b, '\n')
	}
	return b
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

const bareWindows = 8

// leastBare is how many slots the bare loop posts at least, in rounds, of which the first makes the connections.
const leastBare = 30_000

// bare runs the bare loop as a process, against a server of each latency.
func (p *plan) bare(slow bool) ([]row, error) {
	var rows []row
	for _, c := range []conduct{{}, {Latency: p.latency}} {
		if c.Latency > 0 && !slow {
			continue
		}
		s, err := startSink(c)
		if err != nil {
			return nil, err
		}
		command := exec.Command(os.Args[0], "-bare", s.url+dataPath, "-devices", fmt.Sprint(p.devices))
		command.Stderr = os.Stderr
		out, err := command.Output()
		s.stop()
		if err != nil {
			return nil, fmt.Errorf("the bare loop: %w", err)
		}
		var measured []row
		if err := json.Unmarshal(out, &measured); err != nil {
			return nil, fmt.Errorf("the bare loop: %w", err)
		}
		for _, r := range measured {
			r.Scenario, r.Slow = scenarios[0].name, c.Latency > 0
			if r.Slow {
				r.Scenario = scenarios[1].name
			}
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// bareLoop posts a slot of each device in each round, and prints the rows.
func bareLoop(url string, devices int) error {
	text, err := os.ReadFile(publicKey)
	if err != nil {
		return err
	}
	key, err := seal.ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	bodies := make([]*seal.Body, devices)
	for i := range bodies {
		if bodies[i], err = seal.NewBody(token(i)); err != nil {
			return err
		}
	}
	workers := options.DefaultDelivery().MaxConcurrency
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: workers, MaxIdleConnsPerHost: workers}}
	var rows []row
	for n := range leastBare/devices + 3 {
		stamp := windowStart(n % bareWindows).Add(spec.SlotLength)
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			last error
			next = make(chan int)
		)
		cpu, begun := ownCPU(), time.Now()
		for range workers {
			wg.Go(func() {
				for i := range next {
					if err := post(client, url, i, bodies[i], func(at time.Time) (string, error) { return seal.Sign(key, token(i), at) }, stamp); err != nil {
						mu.Lock()
						last = err
						mu.Unlock()
					}
				}
			})
		}
		for i := range devices {
			next <- i
		}
		close(next)
		wg.Wait()
		wall := time.Since(begun).Seconds()
		if last != nil {
			return last
		}
		rows = append(rows, row{Host: "bare", Boundary: n + 1, Slots: devices, CPU: float64((ownCPU() - cpu).Nanoseconds()) / 1e3 / float64(devices),
			Rate: float64(devices) / wall, Wall: wall})
	}
	return json.NewEncoder(os.Stdout).Encode(rows)
}

func post(client *http.Client, url string, device int, body *seal.Body, sign func(time.Time) (string, error), stamp time.Time) error {
	record := payload.Record{StationID: station(device), DeviceID: deviceID(device), Readings: make([]payload.Reading, len(parameters))}
	for j, parameter := range parameters {
		record.Readings[j] = payload.Reading{Parameter: parameter, Value: value(device, j, 7), Unit: unit, Stamp: stamp, Flag: spec.FlagNormal}
	}
	text, err := record.Marshal()
	if err != nil {
		return err
	}
	signature, err := sign(time.Now())
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body.Seal(text)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header["signature"] = []string{signature}
	req.Header.Set("X-Device-Id", record.DeviceID)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct{ Status int }{}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != 1 {
		return fmt.Errorf("the server answers status %d, %w", answer.Status, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return nil
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ocems-io/ocems/ocems/options"
	"github.com/ocems-io/ocems/ocems/payload"
	"github.com/ocems-io/ocems/ocems/seal"
	"github.com/ocems-io/ocems/ocems/spec"
)

// bareRounds returns how often the bare loop posts a slot of each device: once to open the connections, and then for the
// measurements from which the median is taken.
func bareRounds(devices int, c conduct) int {
	if c.Latency > 0 {
		return 2
	}
	return 4 + 16_000/devices
}

// bare runs the bare loop as a process, against a server with the scenario's latency that refuses nothing.
func (p *plan) bare(s scenario) (row, error) {
	c := conduct{Latency: p.conduct(s).Latency}
	server, err := startSink(c)
	if err != nil {
		return row{}, err
	}
	defer server.stop()
	command := exec.Command(os.Args[0], "-bare", server.url+dataPath, "-devices", fmt.Sprint(p.devices), "-boundaries", fmt.Sprint(bareRounds(p.devices, c)))
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return row{}, fmt.Errorf("the bare loop: %w", err)
	}
	var rounds []row
	if err := json.Unmarshal(out, &rounds); err != nil {
		return row{}, fmt.Errorf("the bare loop: %w", err)
	}
	slices.SortFunc(rounds, func(a, b row) int { return cmp.Compare(a.CPU, b.CPU) })
	r := rounds[len(rounds)/2]
	r.Host, r.Scenario = "bare", s.name
	return r, nil
}

// bareLoop posts a slot of each device in each round, and prints a row for each round except the first.
func bareLoop(url string, devices, rounds int) error {
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
	stamp := windowStart(0).Add(spec.SlotLength)
	for n := range rounds {
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
		if n == 0 {
			continue
		}
		rows = append(rows, row{Slots: devices, CPU: float64((ownCPU() - cpu).Nanoseconds()) / 1e3 / float64(devices),
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

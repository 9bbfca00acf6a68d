// Package mqtt_test kills a Telegraf while analysers publish to a real broker.
package mqtt_test

import (
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/ocems/simulator"
	"github.com/ocems-io/ocems/test/board"
	"github.com/ocems-io/ocems/test/loopback"
)

const (
	quarter  = 15 * time.Minute
	password = "pa55word-of-the-plant"
)

// tool is the path of a program of Mosquitto: in bin/tools, or installed.
func tool(t *testing.T, name string) string {
	for _, path := range []string{filepath.Join(os.Getenv("OCEMS_BIN"), "tools", name), "/usr/sbin/" + name, "/usr/bin/" + name} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	t.Skipf("%s is not here: make bin/tools/mosquitto gets it, or install it", name)
	return ""
}

func run(t *testing.T, input string, argv ...string) {
	t.Helper()
	command := exec.Command(argv[0], argv[1:]...)
	command.Stdin = strings.NewReader(input)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", argv[0], err, out)
	}
}

func TestMessagesWaitForAKilledTelegraf(t *testing.T) {
	telegraf := board.Built(t, "OCEMS_TELEGRAF")
	mosquitto, publish := tool(t, "mosquitto"), tool(t, "mosquitto_pub")
	dir, address := t.TempDir(), loopback.Addr(t)
	host, port, _ := strings.Cut(address, ":")
	server := board.New(t, simulator.Station{ID: "station_1234", Devices: []simulator.Device{{ID: "device_5678", Token: "8d97c71e68c2f4eee5fb254fccb49773",
		Calibrations: []simulator.Calibration{{From: time.Now().Add(-3 * time.Hour), To: time.Now()}}}}})
	board.Write(t, filepath.Join(dir, "token"), "8d97c71e68c2f4eee5fb254fccb49773")
	passwords := filepath.Join(dir, "passwords")
	run(t, "", tool(t, "mosquitto_passwd"), "-b", "-c", passwords, "telegraf", password)
	brokerConfig := board.Config(t, "mosquitto.conf", dir, "1883 127.0.0.1", port+" "+host, "/etc/mosquitto/passwords", passwords,
		"/var/lib/mosquitto/", dir+"/", "persistence true", "log_type all\nuser root\npersistence true")
	broker := board.Start(t, dir, nil, mosquitto, "-c", brokerConfig)
	board.Listens(t, address)
	config := board.Config(t, "telegraf.conf", dir, "127.0.0.1:1883", address, "/var/lib/ocems", dir, "/etc/ocems/public.pem", server.PublicKey,
		"/etc/ocems/tokens/device_5678", filepath.Join(dir, "token"),
		// Shorter waits for the test, and the address of its board.
		"[[outputs.ocems]]", "[[outputs.ocems]]\n  spread = \"0s\"\n  coalesce = \"1s\"\n  settle = \"8s\"\n  endpoint = \""+server.URL+`"`)
	start := func() *board.Program {
		return board.Start(t, dir, []string{"OCEMS_MQTT_PASSWORD=" + password}, telegraf, "--debug", "--config", config)
	}

	b := time.Now().Truncate(quarter).Add(-2 * quarter)
	a := b.Add(-quarter)
	sums, counts := map[time.Time]float64{}, map[time.Time]float64{}
	send := func(from, to time.Time) {
		t.Helper()
		var lines strings.Builder
		for at := from; at.Before(to); at = at.Add(time.Second) {
			cod := 80 + float64(at.Sub(a)/time.Second)/10
			fmt.Fprintf(&lines, `{"time":"%s","status":"OK","cod":%v,"ph":7.5}`+"\n", at.In(time.FixedZone("IST", 19800)).Format("2006-01-02T15:04:05.000Z07:00"), cod)
			sums[at.Truncate(quarter)] += cod
			counts[at.Truncate(quarter)]++
		}
		run(t, lines.String(), publish, "-h", host, "-p", port, "-u", "telegraf", "-P", password, "-q", "1", "-t", "plant/etp/analyser", "-l")
	}
	// The broker retains a message for new subscribers, and the analyser sends it again: it is one reading.
	run(t, `{"time":"`+a.Format(time.RFC3339)+`","status":"OK","cod":80,"ph":7.5}`, publish, "-h", host, "-p", port, "-u", "telegraf", "-P", password, "-q", "1", "-t", "plant/etp/analyser", "-r", "-s")
	program := start()
	board.Until(t, "Telegraf has subscribed", func() bool { return strings.Contains(broker.Log(), "Sending SUBACK to ocems") })
	send(a, a.Add(quarter/2))
	run(t, `{"time":"`+b.Format(time.RFC3339)+`","status":"FAULT","cod":999,"ph":99}`+"\n"+"no JSON\n",
		publish, "-h", host, "-p", port, "-u", "telegraf", "-P", password, "-q", "1", "-t", "plant/etp/analyser", "-l")
	board.Until(t, "the messages are acknowledged", func() bool {
		return strings.Count(broker.Log(), "Received PUBACK from ocems") >= int(quarter/2/time.Second)
	})
	program.Kill()
	send(a.Add(quarter/2), b.Add(quarter)) // more than the 1000 messages that the broker keeps by default
	start()
	server.Arrive(4)
	want := map[string]float64{}
	for begin, sum := range sums {
		want[board.Key("cod", begin.Add(quarter), "U")], want[board.Key("ph", begin.Add(quarter), "U")] = sum/counts[begin], 7.5
	}
	same := func(x, y float64) bool { return math.Abs(x-y) <= 5e-7*y }
	trail, err := os.ReadFile(filepath.Join(dir, "telegraf", "audit.jsonl"))
	if err != nil || !strings.Contains(string(trail), `"reason":"bad_flag","count":1`) {
		t.Errorf("%v: the trail has no line for the unknown status: %s", err, trail)
	}
	if got := server.Values(); !maps.EqualFunc(got, want, same) {
		t.Errorf("the board has %v, want %v", got, want)
	}
}

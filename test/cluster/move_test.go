package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ocems-io/ocems/test/judge"
)

// single is the machine that moves: a Telegraf that loggers post to.
type single struct {
	process
	b         *bench
	client    *http.Client
	gateway   string // gateway.conf
	direct    string // the same without the brokers
	listens   string
	toTheHost string // host.conf
	boardAt   string // as the host sees it: a way that can be cut
	way       net.Listener
}

func newSingle(b *bench) *single {
	ports, err := freePorts(2)
	b.must(err)
	s := &single{b: b, listens: ports[0], boardAt: ports[1], gateway: filepath.Join(b.Root, "examples/cluster/gateway.conf"),
		toTheHost: filepath.Join(b.Root, "examples/cluster/host.conf"), direct: filepath.Join(b.Dir, "direct.conf")}
	text, err := os.ReadFile(s.gateway)
	b.must(err)
	before, _, ok := strings.Cut(string(text), "[[outputs.nats]]")
	if !ok {
		b.t.Fatal("gateway.conf has no outputs.nats")
	}
	b.must(os.WriteFile(s.direct, []byte(before), 0o600))
	own := strings.Replace(b.Board.URL, strings.Split(b.Board.URL, "/")[2], s.boardAt, 1)
	s.process = process{name: "host", dir: b.Dir, env: append(b.environment(), "OCEMS_ENDPOINT="+own, "OCEMS_GATEWAY="+s.listens,
		"OCEMS_HOST_STATE="+filepath.Join(b.Dir, "host"), "OCEMS_HOST_GRACE=2s", "OCEMS_HOST_SETTLE=3s")}
	ca, err := os.ReadFile(filepath.Join(b.certs, "ca.pem"))
	b.must(err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(b.certs, "gateway.pem"), filepath.Join(b.certs, "gateway-key.pem"))
	b.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	b.t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			b.t.Error(err)
		}
		if b.t.Failed() {
			b.t.Logf("the end of the log of the host:\n%s", s.tail())
		}
	})
	return s
}

// run starts it anew with these configurations.
func (s *single) run(configs ...string) {
	s.b.t.Helper()
	s.b.must(s.Stop())
	s.argv = []string{filepath.Join(s.b.Root, "bin/telegraf-ocems-small")}
	for _, c := range configs {
		s.argv = append(s.argv, "--config", c)
	}
	s.b.must(s.Start())
	s.b.until("the host listens", func() bool {
		c, err := net.DialTimeout("tcp", s.listens, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// reach lets the host reach the board.
func (s *single) reach() {
	s.b.t.Helper()
	var err error
	s.way, err = net.Listen("tcp", s.boardAt)
	s.b.must(err)
	board := strings.Split(s.b.Board.URL, "/")[2]
	go func() {
		for {
			c, err := s.way.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				to, err := net.Dial("tcp", board)
				if err != nil {
					return
				}
				defer to.Close()
				go func() { _, _ = io.Copy(to, c); _ = to.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(c, to)
			}()
		}
	}()
}

// lose lets no new connection of the host reach the board. Those that it has are used up with its next restart.
func (s *single) lose() { s.b.must(s.way.Close()) }

// post posts so many minutes of readings of all devices as their loggers do, each until it is taken.
func (s *single) post(minutes int) {
	s.b.t.Helper()
	for range minutes {
		var text []byte
		for i, d := range s.b.Devices {
			text = append(text, "stack,ocems_device_id="+d.ID+",ocems_unit="+unit+" "...)
			for j, parameter := range parameters {
				if j > 0 {
					text = append(text, ',')
				}
				v := value(i, j, s.b.from)
				text = strconv.AppendFloat(append(text, parameter+"="...), v, 'f', -1, 64)
				s.b.samples = append(s.b.samples, judge.Sample{Station: d.Station, Device: d.ID, Parameter: parameter, Unit: unit, At: s.b.from, Value: v, Flag: "U"})
			}
			text = append(strconv.AppendInt(append(text, ' '), s.b.from.UnixNano(), 10), '\n')
		}
		s.b.until("the host takes readings", func() bool {
			resp, err := s.client.Post("https://"+s.listens+"/write", "text/plain", bytes.NewReader(text))
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			return resp.StatusCode/100 == 2
		})
		s.b.from = s.b.from.Add(time.Minute)
	}
	s.b.to = s.b.from.Truncate(judge.Slot)
}

// outcomes are the host's.
func (s *single) outcomes() Outcomes {
	s.b.t.Helper()
	o, err := (&Worker{State: filepath.Join(s.b.Dir, "host")}).Outcomes()
	s.b.must(err)
	return o
}

// TestMove moves a single machine to the cluster as docs/scale.md says, with slots that wait for the board. The board has
// each slot once, of all its readings, although publishing begins and the host ends in the middle of a slot.
func TestMove(t *testing.T) {
	b := newBench(t, 20, 0, quick)
	s := newSingle(b)
	perSlot := len(b.Devices) * len(parameters)

	s.run(s.direct, s.toTheHost) // as before, but for shared_device
	s.post(60)
	time.Sleep(6 * time.Second) // its windows close; the board is out of reach

	s.post(7)
	time.Sleep(2 * time.Second) // a flush
	s.run(s.gateway, s.toTheHost)
	s.post(8 + 45) // the stream begins in the middle of a slot
	s.reach()
	s.b.until("the host has delivered what waited", func() bool { return s.outcomes().Delivered >= 7*perSlot })

	b.must(b.StartWorkers())
	s.post(60)
	workers := func(count func(Outcomes) int) (n int) {
		for _, w := range b.Workers {
			o, err := w.Outcomes()
			b.must(err)
			n += count(o)
		}
		return n
	}
	stored := func(o Outcomes) int { return o.Stored }
	b.until("both workers are told that the board has a whole slot", func() bool { return workers(stored) >= 2*4*perSlot })
	if n := workers(func(o Outcomes) int { return o.Delivered }); n > 0 {
		t.Errorf("the workers delivered %d readings while the host was first", n)
	}

	t.Log("the host loses the board, the workers do not")
	s.lose()
	s.run(s.gateway, s.toTheHost)
	s.post(60)
	b.until("the workers deliver", func() bool { return workers(func(o Outcomes) int { return o.Delivered }) >= 3*perSlot })
	s.reach()
	b.until("the host is told so", func() bool { o := s.outcomes(); return o.Stored >= 3*perSlot })

	s.post(7)
	time.Sleep(2 * time.Second)
	s.run(s.gateway) // it is a gateway now; the window that was open here goes no further
	s.post(8 + 45 + 6)
	b.judged()
}

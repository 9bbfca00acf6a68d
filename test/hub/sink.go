package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/ocems-io/ocems/ocems/seal"
)

// conduct is the server's behaviour. Held and hanging devices are those whose number is a multiple of each.
type conduct struct {
	Latency       time.Duration
	Held, Hanging bool
}

// One of each devices is held or hangs.
const each = 20

func (c conduct) answers(device int) bool { return !(c.Held || c.Hanging) || device%each != 0 }

// account counts one slot of all devices at the server.
type account struct {
	Posted int // devices whose slot arrived
	Twice  int // posts after the first of a device
	Short  int // posts that lack a parameter or cannot be decrypted
	First  time.Time
	Last   time.Time
	seen   map[int]bool
}

// server is a minimal board for measurements. It is a separate process, so that its CPU does not count for the host.
type server struct {
	mu      sync.Mutex
	conduct conduct
	bodies  map[int]*seal.Body
	slots   map[int64]*account
	asked   int // GETs, with which a host asks for the time
}

// serve runs the server until its standard input ends, and prints its address.
func serve() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	s := &server{bodies: map[int]*seal.Body{}, slots: map[int64]*account{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /conduct", func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conduct = conduct{}
		_ = json.NewDecoder(r.Body).Decode(&s.conduct)
		s.slots, s.asked = map[int64]*account{}, 0
	})
	mux.HandleFunc("GET /account", func(w http.ResponseWriter, r *http.Request) {
		stamp, _ := strconv.ParseInt(r.URL.Query().Get("stamp"), 10, 64)
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(s.account(stamp))
	})
	mux.HandleFunc("GET /asked", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprint(w, s.asked)
	})
	mux.HandleFunc(dataPath, s.data)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(l, mux)
}

func (s *server) account(stamp int64) *account {
	a := s.slots[stamp]
	if a == nil {
		a = &account{seen: map[int]bool{}}
		s.slots[stamp] = a
	}
	return a
}

const dataPath = "/v1.0/industry/data"

func (s *server) data(w http.ResponseWriter, r *http.Request) {
	sealed, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	device, _ := strconv.Atoi(numberOf(r.Header.Get("X-Device-Id")))
	s.mu.Lock()
	c := s.conduct
	if r.Method == http.MethodGet {
		s.asked++
	}
	s.mu.Unlock()
	time.Sleep(c.Latency)
	switch {
	case r.Method == http.MethodGet:
	case c.answers(device):
		s.take(device, sealed)
	case c.Hanging:
		<-r.Context().Done()
		return
	default:
		_, _ = io.WriteString(w, `{"status":102,"msg":"Invalid token"}`)
		return
	}
	_, _ = io.WriteString(w, `{"status":1,"msg":"success"}`)
}

var stampKey = []byte(`"timestamp":`)

// take counts a slot. It decrypts the body and reads only what it counts.
func (s *server) take(device int, sealed []byte) {
	now := time.Now()
	s.mu.Lock()
	body := s.bodies[device]
	if body == nil {
		body, _ = seal.NewBody(token(device))
		s.bodies[device] = body
	}
	s.mu.Unlock()
	text, _ := body.Open(sealed)
	stamp := int64(0)
	if at := bytes.Index(text, stampKey); at >= 0 {
		digits, _, _ := bytes.Cut(text[at+len(stampKey):], []byte(","))
		stamp, _ = strconv.ParseInt(string(digits), 10, 64)
	}
	whole := bytes.Count(text, []byte(`"parameter":`)) == len(parameters)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(stamp)
	if a.First.IsZero() {
		a.First = now
	}
	a.Last = now
	if !whole {
		a.Short++
	}
	if a.seen[device] {
		a.Twice++
		return
	}
	a.seen[device] = true
	a.Posted++
}

// sink is the measurement's handle of the running server.
type sink struct {
	url     string
	command *exec.Cmd
	stdin   io.Closer
}

func startSink(c conduct) (*sink, error) {
	s := &sink{command: exec.Command(os.Args[0], "-sink")}
	s.command.Stderr = os.Stderr
	stdin, err := s.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	s.stdin = stdin
	var address string
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	s.url = "http://" + address
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	resp, err := http.Post(s.url+"/conduct", "application/json", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return s, resp.Body.Close()
}

func (s *sink) stop() {
	_ = s.stdin.Close()
	_ = s.command.Wait()
}

func (s *sink) get(path string, into any) error {
	resp, err := http.Get(s.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	serializer "github.com/influxdata/telegraf/plugins/serializers/influx"
)

// recorder is an output that records its metrics, or fails.
type recorder struct {
	mu    sync.Mutex
	fails func() error
	tries int
	took  []string
}

func (*recorder) SampleConfig() string { return "" }
func (*recorder) Connect() error       { return nil }
func (*recorder) Close() error         { return nil }

func (r *recorder) Write(metrics []telegraf.Metric) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	if r.fails != nil {
		if err := r.fails(); err != nil {
			return err
		}
	}
	for _, m := range metrics {
		r.took = append(r.took, spell(m))
	}
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.took)
}

func spell(m telegraf.Metric) string {
	f := m.Fields()
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", m.Name(), m.Tags())
	for _, k := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(&b, " %q=%#v", k, f[k])
	}
	fmt.Fprintf(&b, " %d", m.Time().UnixNano())
	return b.String()
}

type lines struct{ out, err bytes.Buffer }

func (l *lines) log() *log {
	return &log{streams: &streams{out: &l.out, err: &l.err}, level: telegraf.Debug}
}

// pieces is an input whose reads have the sizes that next returns.
type pieces struct {
	rest []byte
	next func(left int) int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(len(p.rest), p.next(len(p.rest)))])
	p.rest = p.rest[n:]
	return n, nil
}

func whole(left int) int { return left }

// fed returns the metrics and the log of a feed of an input.
func fed(t testing.TB, in io.Reader) (took []string, logged string) {
	t.Helper()
	r, l := &recorder{}, &lines{}
	if err := feed(t.Context(), in, []telegraf.Output{r}, l.log()); err != nil {
		t.Error(err)
	}
	return r.took, l.err.String()
}

// written is metrics as Telegraf writes them, with difficult cases: texts of several lines that look like metrics, quotes,
// backslashes, and special characters in names and tags.
func written(t testing.TB) (wire []byte, want []string) {
	t.Helper()
	at := time.Unix(1764000000, 0)
	metrics := []telegraf.Metric{
		metric.New("etp", nil, map[string]any{"cod": 42.5}, at),
		metric.New("etp", map[string]string{"line": `a"b`, "k\\x": "v\\ w=,"}, map[string]any{"cod": 1.0, "note": "two\nlines"}, at),
		metric.New("log", nil, map[string]any{"text": "x\netp cod=666 1764000000000000000\ny"}, at),
		metric.New("log", map[string]string{"t": `="`}, map[string]any{"text": `quote " backslash \ both \" end\`, "n": int64(7)}, at),
		metric.New(`odd ,"name`, map[string]string{"a": "b\nc"}, map[string]any{`field "=`: "=\"\n#\n\n", "ok": true}, at),
		metric.New("#comment?", nil, map[string]any{"v": 1.0}, at),
		metric.New("etp", nil, map[string]any{"cod": 43.5, "unit": "µg/m³"}, at.Add(time.Second)),
	}
	s := &serializer.Serializer{}
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	parser := &influx.Parser{}
	if err := parser.Init(); err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		b, err := s.Serialize(m)
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, b...)
		back, err := parser.Parse(b)
		if err != nil {
			continue // a name that begins with # reads as a comment
		}
		for _, m := range back {
			want = append(want, spell(m))
		}
	}
	if len(want) != len(metrics)-1 {
		t.Fatalf("of %d metrics, %d come back from %s", len(metrics), len(want), wire)
	}
	return wire, want
}

func TestLinesSplitAnywhereGiveTheSameMetrics(t *testing.T) {
	wire, want := written(t)
	random := rand.New(rand.NewPCG(1, 2))
	cuts := func(name string, next func(left int) int) {
		t.Helper()
		took, logged := fed(t, &pieces{wire, next})
		if logged != "" || !slices.Equal(took, want) {
			t.Fatalf("%s: logged %q\n got %q\nwant %q", name, logged, took, want)
		}
	}
	cuts("whole", whole)
	cuts("bytes", func(int) int { return 1 })
	for i := 1; i < len(wire); i++ {
		cuts(fmt.Sprintf("at %d", i), func(left int) int {
			if left == len(wire) {
				return i
			}
			return left
		})
	}
	for i := range 200 {
		cuts(fmt.Sprintf("random %d", i), func(left int) int { return min(left, 1+random.IntN(40)) })
	}
}

func FuzzFeed(f *testing.F) {
	wire, _ := written(f)
	f.Add(wire, []byte{7, 1, 30})
	f.Add([]byte("a b=\"c\nd e=1 1\nf g=\"h\" 1\n\xff\x00=\"\\\n"), []byte{1})
	f.Add([]byte("a b=1 1\n# c=\"\n\n  d e=2 1\n"), []byte{3})
	f.Add([]byte("a,t=\\\\ u=\" b=1 1\nc d=2 1\n"), []byte{2})
	untimed := regexp.MustCompile(` \d{19}$`) // a metric without a time gets the time at which it is read
	f.Fuzz(func(t *testing.T, wire, cuts []byte) {
		i := 0
		some := func(int) int {
			i++
			return 1 + int(cuts[i%len(cuts)])
		}
		if len(cuts) == 0 {
			some = whole
		}
		one, _ := fed(t, &pieces{wire, whole})
		many, _ := fed(t, &pieces{wire, some})
		for _, took := range [][]string{one, many} {
			for i := range took {
				took[i] = untimed.ReplaceAllString(took[i], "")
			}
		}
		if !slices.Equal(one, many) {
			t.Errorf("%q:\nwhole %q\napart %q", wire, one, many)
		}
	})
}

func TestBadLinesAreSkipped(t *testing.T) {
	good := "etp cod=1 1764000000000000000\n"
	for _, c := range []struct {
		name, bad string
		report    string
	}{
		{"no field", "etp cod\n", `Lines skipped: 1; reason for the last: metric parse error: expected field at 2:8: "etp cod"`},
		{"control characters", "etp \x1b[2Jcod=\r\x00 1\n", `\x1b[2J`},
		{"not UTF-8", "\xff\xfe cod\n", `\xff\xfe`},
		{"JSON", `{"fields":{"cod":1},"name":"etp"}` + "\n", "Lines skipped: 1"},
		{"text that another closes", "etp note=\"abc\netp cod=2 1\netp note=\"x\" 1\n", "Lines skipped: 1"},
		{"too long", "etp note=\"" + strings.Repeat("x", longest) + "\",cod=3 1\n", `Lines skipped: 1; reason for the last: it is longer than 16777215 bytes: "etp note=\"xxx`},
		{"too long with newlines", "etp note=\"" + strings.Repeat("\netp cod=4 1"+strings.Repeat(" ", 1000), longest/1000) + "\",cod=3 1\n", "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{64 << 10, chunk} {
				took, got := fed(t, &pieces{[]byte(good + c.bad + good), func(int) int { return size }})
				if len(took) != 2 {
					t.Errorf("took %q", took)
				}
				if !strings.Contains(got, c.report) || strings.Count(got, "\n") != 1 || len(got) > 1000 ||
					strings.ContainsFunc(strings.TrimSuffix(got, "\n"), func(r rune) bool { return r < ' ' }) {
					t.Errorf("logged %q", got)
				}
			}
		})
	}
}

func TestLongLineIsTaken(t *testing.T) {
	long := "etp note=\"" + strings.Repeat("x", 15<<20) + "\",cod=3 1764000000000000000\n"
	bad := strings.Replace(long, "cod=3", "cod=", 1)
	rest := strings.Repeat("etp cod=1 1\n", 10_000) // these take half a minute if the buffer stays large
	for _, c := range []struct {
		wire    string
		metrics int
	}{{long + rest, 10_001}, {bad + rest, 10_000}} {
		took, logged := fed(t, &pieces{[]byte(c.wire), func(int) int { return 64 << 10 }})
		if len(took) != c.metrics || strings.Contains(took[0], `"cod"=3 `) != (logged == "") {
			t.Errorf("took %d, logged %.200s", len(took), logged)
		}
	}
}

func TestLineThatNeverEndsIsBounded(t *testing.T) {
	for _, part := range []string{"x", `\"`, "x\netp cod=1 1\n", "bad \\"} {
		in := &endless{begin: "etp note=\"", repeat: part, left: 50 << 20}
		took, logged := fed(t, in)
		if len(took) > 0 || strings.Count(logged, "\n") > 2 || !strings.Contains(logged, "longer than") {
			t.Errorf("%q: took %d, logged %.300q", part, len(took), logged)
		}
		if in.most > 40<<20 {
			t.Errorf("%q: %d MiB in use", part, in.most>>20)
		}
	}
}

// endless repeats a text, and records the memory in use.
type endless struct {
	begin, repeat string
	left, most    int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	e.most = max(e.most, int(m.HeapAlloc))
	n := copy(p, e.begin)
	if e.begin = ""; n == 0 {
		for n+len(e.repeat) <= len(p) {
			n += copy(p[n:], e.repeat)
		}
	}
	e.left -= n
	return n, nil
}

func TestLastLineWithoutEndIsNotTaken(t *testing.T) {
	for _, last := range []string{"etp cod=12", "etp cod=12.5 1", "etp note=\"a\nb"} {
		took, logged := fed(t, strings.NewReader("etp cod=12.5 1\n"+last))
		if len(took) != 1 || !strings.Contains(logged, fmt.Sprintf("it has no newline at its end, so it may be cut off: %q", last)) {
			t.Errorf("took %q, logged %q", took, logged)
		}
	}
}

func TestReportsOfBadLinesAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lines{}
		in, out := memoryPipe(t)
		done := make(chan error)
		go func() { done <- feed(t.Context(), in, []telegraf.Output{&recorder{}}, l.log()) }()
		write := func(text string) {
			fmt.Fprint(out, text)
			synctest.Wait()
		}
		write(strings.Repeat("bad\n", 1000))
		if n := strings.Count(l.err.String(), "\n"); n != badFirst {
			t.Errorf("%d reports", n)
		}
		l.err.Reset()
		time.Sleep(badEvery)
		write("bad\n")
		if got := l.err.String(); !strings.HasPrefix(got, "Lines skipped: 996; ") {
			t.Errorf("logged %q", got)
		}
		l.err.Reset()
		write("bad\nbad\n")
		out.Close()
		if err := <-done; err != nil || l.err.String() != "2 more lines were skipped\n" {
			t.Errorf("%v, logged %q", err, l.err.String())
		}
	})
}

// memoryPipe is a buffered pipe that works with a fake clock; the kernel's pipe does not.
func memoryPipe(t *testing.T) (*io.PipeReader, *io.PipeWriter) {
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	return r, w
}

// A kill between two reads loses no line of the first.
func TestWhatWasReadIsWrittenBeforeTheNextRead(t *testing.T) {
	wire, want := written(t)
	wire = bytes.Repeat(wire, 20)
	r, read := &recorder{}, 0
	parser := &influx.Parser{}
	if err := parser.Init(); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	in := &pieces{wire, func(left int) int {
		whole := wire[:1+bytes.LastIndexByte(wire[:read], '\n')]
		if before, _ := parser.Parse(whole); r.count() < len(before) { // no metric if the line ends inside a text
			t.Errorf("after %d bytes %d metrics of %d are written", read, r.count(), len(before))
		}
		n := min(left, 1+random.IntN(300))
		read += n
		return n
	}}
	if err := feed(t.Context(), in, []telegraf.Output{r}, (&lines{}).log()); err != nil || r.count() != 20*len(want) {
		t.Errorf("%v, %d taken", err, r.count())
	}
}

func TestFailingWriteHoldsThePipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(5 * time.Minute)
		slow := &recorder{fails: func() error {
			if time.Now().Before(until) {
				return errors.New("no space left")
			}
			return nil
		}}
		healthy, l := &recorder{}, &lines{}
		in, out := memoryPipe(t)
		done := make(chan error)
		go func() { done <- feed(t.Context(), in, []telegraf.Output{slow, healthy}, l.log()) }()
		go func() {
			for i := range 100 {
				fmt.Fprintf(out, "etp cod=%d %d\n", i, i)
			}
			out.Close()
		}()
		time.Sleep(4 * time.Minute)
		if healthy.count() != 1 || slow.count() != 0 {
			t.Errorf("%d and %d metrics are taken while nothing should be read", healthy.count(), slow.count())
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if slow.count() != 100 || !slices.Equal(slow.took, healthy.took) {
			t.Errorf("%d and %d metrics are taken", slow.count(), healthy.count())
		}
		if time.Since(until) > lastRetry {
			t.Errorf("taken %s after it worked again", time.Since(until))
		}
		if got := l.err.String(); got != "1 metrics cannot be stored; reading has stopped until they can: no space left\n" {
			t.Errorf("errors %q", got)
		}
		if got := l.out.String(); got != "1 waiting metrics are stored\n" {
			t.Errorf("information %q", got)
		}
	})
}

func TestStopWhileWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := &recorder{fails: func() error { return errors.New("no space left") }}
		healthy, l := &recorder{}, &lines{}
		in, out := memoryPipe(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- feed(ctx, in, []telegraf.Output{failing, healthy}, l.log()) }()
		go func() {
			for i := range 30 {
				fmt.Fprintf(out, "etp cod=%d %d\n", i, i)
			}
		}()
		time.Sleep(10 * time.Second)
		told := time.Now()
		stop()
		err := <-done
		if err == nil || err.Error() != "1 metrics were read but could not be stored: no space left" { // Telegraf keeps 29
			t.Errorf("error %v", err)
		}
		if healthy.count() != 1 {
			t.Errorf("the other output has %d", healthy.count())
		}
		if took := time.Since(told); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestReadError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := memoryPipe(t)
		r := &recorder{}
		go func() {
			fmt.Fprint(out, "etp cod=1 1\n")
			out.CloseWithError(errors.New("it broke"))
		}()
		err := feed(t.Context(), in, []telegraf.Output{r}, (&lines{}).log())
		if err == nil || err.Error() != "reading metrics: it broke" || r.count() != 1 {
			t.Errorf("%v, %d taken", err, r.count())
		}
	})
}

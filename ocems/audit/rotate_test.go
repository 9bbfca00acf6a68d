package audit_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ocems-io/ocems/ocems/audit"
	"github.com/ocems-io/ocems/ocems/payload"
)

// day makes outcomes of 7 parameters for each slot, with values of full precision.
func day(device string, from, slots int) (list []audit.Entry) {
	status := 1
	for i := from; i < from+slots; i++ {
		stamp := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 15 * time.Minute)
		e := audit.Entry{Time: stamp.Add(40 * time.Second), Outcome: audit.Delivered, Station: "station_1", Device: device, Stamp: stamp.UnixMilli(), Status: &status}
		for k, p := range []string{"cod", "bod", "tss", "ph", "flow", "so2", "no2"} {
			v := 20*float64(k) + 3*rand.NormFloat64()
			e.Readings = append(e.Readings, audit.Readings([]payload.Reading{{Parameter: p, Value: v, Unit: "mg/L", Flag: 'U', Samples: 15, Min: v - rand.Float64(), Max: v + rand.Float64()}})...)
		}
		list = append(list, e)
	}
	return list
}

// turn makes a trail close its file.
func turn(t testing.TB, trail *audit.Trail) {
	t.Helper()
	failed := make(chan error, 1)
	trail.Rotate(audit.Rotation{Size: 1, Failed: func(err error) { failed <- err }})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := trail.Check(); err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(trail.Path())
		if list := closed(t, trail); bytes.Count(text, []byte("\n")) == 1 && bytes.Contains(text, []byte(`"continued"`)) && !slices.ContainsFunc(list, isRaw) {
			break
		}
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("not closed: %v", closed(t, trail))
		}
	}
	trail.Rotate(audit.Rotation{})
}

func isRaw(path string) bool { return !strings.HasSuffix(path, ".zst") }

func closed(t testing.TB, trail *audit.Trail) []string {
	list, _ := filepath.Glob(trail.Path() + ".0*")
	return slices.DeleteFunc(list, func(s string) bool { return strings.HasSuffix(s, ".anew") })
}

// whole reads a set of files, checks that they are one chain, and returns all lines that are not about the trail
// itself.
func whole(t testing.TB, path string) (list []audit.Entry) {
	t.Helper()
	files, err := audit.Files(path)
	if err != nil {
		t.Fatal(err)
	}
	var before *audit.File
	for _, name := range files {
		f, err := audit.Scan(name, func(e *audit.Entry, verified bool) {
			if !verified {
				t.Errorf("%s: line %d is not verified", name, e.Number)
			}
			if e.Day == nil && e.Outcome != audit.Continued && e.Outcome != audit.Closed {
				e.Number, e.Previous = 0, ""
				list = append(list, *e)
			}
		})
		if err != nil || f.Fault != "" {
			t.Fatalf("%s: %v %s", name, err, f.Fault)
		}
		if before == nil && f.First > 1 {
			t.Errorf("the first file begins with line %d", f.First)
		}
		if before != nil {
			if fault, _ := f.Follows(before); fault != "" {
				t.Fatalf("%s: %s", name, fault)
			}
		}
		before = &f
	}
	return list
}

func open(t testing.TB, path string) *audit.Trail {
	t.Helper()
	trail, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return trail
}

func appendTo(t testing.TB, trail *audit.Trail, list ...audit.Entry) {
	t.Helper()
	if err := trail.Append(list...); err != nil {
		t.Fatal(err)
	}
}

// A trail of several files is one chain, any zstd tool can read it, and delivered readings are found in each file.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	trail := open(t, path)
	var want []audit.Entry
	for i := range 3 {
		list := append(day("a", 500*i, 500), day("b", 500*i, 500)...)
		want = append(want, list...)
		appendTo(t, trail, list...)
		turn(t, trail)
		if i == 1 { // the chain continues after a restart
			trail.Close()
			trail = open(t, path)
		}
	}
	defer trail.Close()
	want = append(want, day("c", 0, 1)...)
	appendTo(t, trail, want[len(want)-1])
	if got := whole(t, path); !reflect.DeepEqual(got, want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	text := ""
	for _, name := range closed(t, trail) {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info.Mode(), err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		lines, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		text += string(lines)
	}
	end, _ := os.ReadFile(path)
	n := strings.Count(text+string(end), "\n")
	if lines := strings.Split(text+string(end), "\n"); !strings.HasPrefix(lines[n-1], fmt.Sprintf(`{"n":%d,`, n)) {
		t.Errorf("%d lines in all, the last is %s", n, lines[n-1])
	}
	for _, e := range want {
		if rs, err := trail.Delivered(e.Device, e.Stamp); err != nil || !reflect.DeepEqual(rs, e.Readings) {
			t.Fatalf("%s %d: %v %v, want %v", e.Device, e.Stamp, rs, err, e.Readings)
		}
	}
}

// Simulates a kill with each state of the files between two steps: from each of them the trail continues the same
// chain, with no line lost or doubled.
func TestRotationThatIsKilled(t *testing.T) {
	const name = "audit.jsonl"
	for step, kill := range map[string]func(t *testing.T, before, after string){
		"in the summary": func(t *testing.T, before, after string) {
			text := unpacked(t, filepath.Join(after, name+".000000000001.zst"))
			at := bytes.Index(text, []byte(`"outcome":"day"`))
			put(t, before, name, text[:at+300])
		},
		"in the summary, in its last line": func(t *testing.T, before, after string) {
			text := unpacked(t, filepath.Join(after, name+".000000000001.zst"))
			put(t, before, name, text[:len(text)-20])
		},
		"behind the summary": func(t *testing.T, before, after string) {
			put(t, before, name, unpacked(t, filepath.Join(after, name+".000000000001.zst")))
		},
		"in the new file": func(t *testing.T, before, after string) {
			put(t, before, name, unpacked(t, filepath.Join(after, name+".000000000001.zst")))
			put(t, before, name+".anew", []byte(`{"n":`))
		},
		"between two names of the old file": func(t *testing.T, before, after string) {
			put(t, before, name, unpacked(t, filepath.Join(after, name+".000000000001.zst")))
			put(t, before, name+".anew", get(t, after, name))
			if err := os.Link(filepath.Join(before, name), filepath.Join(before, name+".000000000001")); err != nil {
				t.Skip(err)
			}
		},
		"between two names, where a file has one": func(t *testing.T, before, after string) {
			os.Remove(filepath.Join(before, name))
			put(t, before, name+".anew", get(t, after, name))
			put(t, before, name+".000000000001", unpacked(t, filepath.Join(after, name+".000000000001.zst")))
		},
		"behind the new name": func(t *testing.T, before, after string) {
			put(t, before, name, get(t, after, name))
			put(t, before, name+".000000000001", unpacked(t, filepath.Join(after, name+".000000000001.zst")))
		},
		"in the compressed file": func(t *testing.T, before, after string) {
			put(t, before, name, get(t, after, name))
			put(t, before, name+".000000000001", unpacked(t, filepath.Join(after, name+".000000000001.zst")))
			put(t, before, name+".000000000001.zst.anew", get(t, after, name+".000000000001.zst")[:900])
		},
		"before the old file is removed": func(t *testing.T, before, after string) {
			put(t, before, name, get(t, after, name))
			put(t, before, name+".000000000001", unpacked(t, filepath.Join(after, name+".000000000001.zst")))
			put(t, before, name+".000000000001.zst", get(t, after, name+".000000000001.zst"))
		},
		"after all": func(t *testing.T, before, after string) {
			put(t, before, name, get(t, after, name))
			put(t, before, name+".000000000001.zst", get(t, after, name+".000000000001.zst"))
		},
	} {
		t.Run(step, func(t *testing.T) {
			before, after := t.TempDir(), t.TempDir()
			list := day("a", 0, 300)
			first := open(t, filepath.Join(after, name))
			appendTo(t, first, list...)
			first.Close()
			put(t, before, name, get(t, after, name))
			first = open(t, filepath.Join(after, name))
			turn(t, first)
			first.Close()

			kill(t, before, after)
			path := filepath.Join(before, name)
			if step != "in the summary" && step != "in the summary, in its last line" { // readers do not need a host
				if got := whole(t, path); !reflect.DeepEqual(got, list) {
					t.Errorf("before the start: %d lines, want %d", len(got), len(list))
				}
			}
			trail := open(t, path)
			more := day("b", 0, 3)
			appendTo(t, trail, more...)
			turn(t, trail)
			appendTo(t, trail, more[:1]...)
			trail.Close()
			want := append(append(list, more...), more[0])
			got := slices.DeleteFunc(whole(t, path), func(e audit.Entry) bool { return e.Outcome == audit.Recovered })
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%d lines, want %d", len(got), len(want))
			}
			files, _ := filepath.Glob(path + "*")
			if left := slices.DeleteFunc(files, func(s string) bool { return s == path || strings.HasSuffix(s, ".zst") }); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

func put(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func unpacked(t *testing.T, path string) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	text, err := d.DecodeAll(get(t, filepath.Dir(path), filepath.Base(path)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return withPrevious(text)
}

// withPrevious inserts the hash of the line before into the lines of a compressed file.
func withPrevious(text []byte) (out []byte) {
	previous := ""
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `,"prev":"`) {
			line = strings.Replace(line, `,"sum":"`, `,"prev":"`+previous+`","sum":"`, 1)
		}
		out, previous = append(out, line...), fmt.Sprintf("%x", sha256.Sum256([]byte(strings.TrimSuffix(line, "\n"))))
	}
	return out
}

// A process that is killed again and again while it appends and rotates loses no appended line. Meanwhile no other
// process can open its trail.
func TestRotationOfAProcessThatIsKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	appended, life := 0, 0
	closed := func() int { files, _ := audit.Files(path); return len(files) }
	for ; life < 8; life++ {
		p := exec.Command(os.Args[0])
		p.Env = append(os.Environ(), holder+"="+path, rotator+"=1")
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		p.Stdout = out
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); len(get(t, filepath.Dir(out.Name()), "out")) == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		files, since, end := closed(), time.Now(), time.Now().Add(time.Duration(50+37*life)*time.Millisecond)
		for time.Now().Before(end) {
			if life%2 == 1 && closed() == files && time.Since(since) < time.Minute { // every second run closes a file, on a slow disk too
				end = time.Now().Add(time.Duration(37*life) * time.Millisecond)
			}
			if other, err := audit.Open(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
				p.Process.Kill()
				t.Fatalf("a second process: %v, %v", other, err)
			}
		}
		p.Process.Kill()
		p.Wait()
		appended += bytes.Count(get(t, filepath.Dir(out.Name()), "out"), []byte("\n"))
		out.Close()
	}
	trail := open(t, path)
	turn(t, trail)
	trail.Close()
	got := slices.DeleteFunc(whole(t, path), func(e audit.Entry) bool { return e.Outcome == audit.Recovered })
	if len(got) < 10*appended || len(got) > 10*(appended+life) || appended == 0 {
		t.Errorf("%d lines of 10 x %d that were appended", len(got), appended)
	}
	for i, e := range got { // each run begins at 0
		if i > 0 && e.Stamp != 0 && e.Stamp != got[i-1].Stamp+1 {
			t.Fatalf("line %d: %d after %d", i, e.Stamp, got[i-1].Stamp)
		}
	}
	if n := closed(); n < 4 {
		t.Errorf("%d files", n)
	}
}

// rotator makes the second process append and rotate continuously.
const rotator = "OCEMS_TEST_ROTATES_TRAIL"

func rotate(trail *audit.Trail) {
	trail.Rotate(audit.Rotation{Size: 20_000, Failed: func(err error) { panic(err) }})
	for n := int64(0); ; {
		list := make([]audit.Entry, 10)
		for i := range list {
			list[i] = audit.Entry{Outcome: audit.Delivered, Device: "d", Stamp: n, Detail: "x"}
			n++
		}
		err := trail.Append(list...)
		fmt.Println("appended")
		if err := errors.Join(err, trail.Check()); err != nil {
			panic(err)
		}
	}
}

// The rules of when a file is closed.
func TestRotationIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		by    audit.Rotation
		times []time.Time
		want  bool
	}{
		"small":             {audit.Rotation{Size: 1e6, Monthly: true}, []time.Time{time.Now(), time.Now()}, false},
		"large":             {audit.Rotation{Size: 300}, []time.Time{time.Now(), time.Now()}, true},
		"of a month before": {audit.Rotation{Monthly: true}, []time.Time{time.Now().AddDate(0, 0, -40), time.Now()}, true},
		"not by month":      {audit.Rotation{Size: 1e6}, []time.Time{time.Now().AddDate(0, 0, -40), time.Now()}, false},
		"empty":             {audit.Rotation{Size: 1, Monthly: true}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			trail := open(t, path)
			for _, at := range c.times {
				appendTo(t, trail, audit.Entry{Time: at, Outcome: audit.Late})
			}
			trail.Rotate(c.by)
			for range 100 {
				if err := trail.Check(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			trail.Close()
			if files, _ := audit.Files(path); (len(files) > 1) != c.want || len(files) > 2 {
				t.Errorf("%v", files)
			}
		})
	}
}

// A trail that is removed while a file is closed, or is missing or damaged at the start, continues the last closed
// file.
func TestChainGoesOnFromAClosedFile(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(path string) error
		lost int // number of lost lines
	}{
		"removed": {os.Remove, 1},
		"damaged": {func(path string) error {
			return os.WriteFile(path, []byte("{\"n\":9,\"outcome\":\"late\"}\nx\n"), 0o600)
		}, 1},
		"emptied":          {func(path string) error { return os.Truncate(path, 0) }, 1},
		"cut in its first": {func(path string) error { return os.Truncate(path, 7) }, 1},
		"left alone":       {func(string) error { return nil }, 0},
	} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", running ", running), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "audit.jsonl")
				trail := open(t, path)
				list := day("a", 0, 100)
				appendTo(t, trail, list[:99]...)
				turn(t, trail)
				appendTo(t, trail, list[99])
				if !running {
					trail.Close()
				}
				if err := c.do(path); err != nil {
					t.Fatal(err)
				}
				want := list[:100-c.lost]
				if running {
					if err := trail.Check(); (err == nil) != (c.lost == 0) {
						t.Fatal(err)
					}
					if name == "removed" { // it is written again from the open file
						want = list
					}
				} else {
					trail = open(t, path)
				}
				appendTo(t, trail, list[0])
				turn(t, trail)
				trail.Close()
				want = append(slices.Clone(want), list[0])
				got := slices.DeleteFunc(whole(t, path), func(e audit.Entry) bool { return e.Outcome == audit.Recovered })
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%d lines, want %d", len(got), len(want))
				}
			})
		}
	}
}

// Damage to a compressed file loses only the damaged part. The rest is read but not verified.
func TestDamageOfACompressedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	trail := open(t, path)
	list := day("a", 0, 8000)
	appendTo(t, trail, list...)
	turn(t, trail)
	defer trail.Close()
	name := closed(t, trail)[0]
	good := get(t, filepath.Dir(name), filepath.Base(name))
	if f, days, ok, err := audit.ScanSummary(name); err != nil || !ok || len(days) != 84 || f.Lines != 8000+84+1 {
		t.Fatalf("%+v, %d days, %t, %v", f, len(days), ok, err)
	}
	for what, c := range map[string]struct {
		change func(text []byte) []byte
		least  int // fewest lines that are read
		fault  string
		sums   bool
	}{
		"a byte in the middle": {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, 5000, "cannot be read", true},
		"noise":                {func(b []byte) []byte { copy(b[len(b)/2:], bytes.Repeat([]byte("noise"), 2000)); return b }, 4000, "cannot be read", true},
		"zeros at the head":    {func(b []byte) []byte { copy(b, make([]byte, 100)); return b }, 5000, "after line 0", false},
		"cut":                  {func(b []byte) []byte { return b[:len(b)/2] }, 2000, "cannot be read", false},
		"a byte at the end":    {func(b []byte) []byte { b[len(b)-9] ^= 1; return b }, 8000, "cannot be read", false},
		"all":                  {func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }, 0, "cannot be read", false},
	} {
		t.Run(what, func(t *testing.T) {
			put(t, filepath.Dir(name), filepath.Base(name), c.change(bytes.Clone(good)))
			verified, n := 0, 0
			f, err := audit.Scan(name, func(e *audit.Entry, whole bool) {
				if whole {
					verified++
				}
				if e.Outcome == audit.Delivered {
					n++
				}
			})
			if err != nil || !strings.Contains(f.Fault, c.fault) || n < c.least || f.Verified != verified {
				t.Errorf("%+v, %d lines, %d verified, %v", f, n, verified, err)
			}
			if _, _, ok, err := audit.ScanSummary(name); err != nil || ok != c.sums {
				t.Errorf("sums %t, %v", ok, err)
			}
			if _, err := trail.Delivered("a", list[7999].Stamp); err != nil {
				t.Error(err)
			}
		})
	}
}

// If any byte of the summary changes, the summary is not used.
func TestAlteredSums(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	trail := open(t, path)
	appendTo(t, trail, day("a", 0, 100)...)
	turn(t, trail)
	name := closed(t, trail)[0]
	trail.Close()
	text := unpacked(t, name)
	at := bytes.Index(text, []byte(`"outcome":"day"`))
	for range 50 {
		changed := bytes.Clone(text)
		i := at + rand.IntN(len(text)-at-1)
		if changed[i] ^= 1; changed[i] == '\n' {
			continue
		}
		other := filepath.Join(t.TempDir(), "audit.jsonl")
		put(t, filepath.Dir(other), "audit.jsonl.000000000001", changed)
		again := open(t, other)
		for end := time.Now().Add(10 * time.Second); len(closed(t, again)) > 0 && isRaw(closed(t, again)[0]) && time.Now().Before(end); {
			again.Rotate(audit.Rotation{})
			again.Check()
			time.Sleep(time.Millisecond)
		}
		again.Close()
		if _, _, ok, err := audit.ScanSummary(other + ".000000000001.zst"); ok || err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

// Other files with the name of a closed file are not overwritten: the trail continues in its file.
func TestClosedFileOfAnotherTrail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	trail := open(t, path)
	defer trail.Close()
	appendTo(t, trail, day("a", 0, 3)...)
	put(t, filepath.Dir(path), "audit.jsonl.000000000001.zst", []byte("mine"))
	failed := make(chan error, 1)
	trail.Rotate(audit.Rotation{Size: 1, Failed: func(err error) { failed <- err }})
	if err := trail.Check(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !strings.Contains(err.Error(), "audit.jsonl.000000000001.zst belongs to another trail: move it away") {
		t.Error(err)
	}
	appendTo(t, trail, day("a", 3, 1)...)
	if text := get(t, filepath.Dir(path), "audit.jsonl.000000000001.zst"); string(text) != "mine" {
		t.Errorf("%q", text)
	}
}

// A hole or noise in the trail does not make a search slower than reading it.
func TestDeliveredOverDamage(t *testing.T) {
	for name, fill := range map[string][]byte{"zeros": {0}, "noise": []byte("x")} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			trail := open(t, path)
			list := day("a", 0, 3)
			appendTo(t, trail, list[0])
			trail.Close()
			f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			const hole = 64 << 20
			if fill[0] == 0 {
				info, _ := f.Stat()
				err = f.Truncate(info.Size() + hole)
			} else {
				_, err = f.Write(bytes.Repeat(fill, hole))
			}
			line := strings.TrimSuffix(string(get(t, filepath.Dir(path), filepath.Base(path))[:bytes.IndexByte(get(t, filepath.Dir(path), filepath.Base(path)), '\n')]), "\n")
			_, err2 := f.WriteString(strings.Replace(line, `"device":"a"`, `"device":"b"`, 1) + "\n" + strings.Replace(line, `"device":"a"`, `"device":"c"`, 1) + "\n")
			if err := errors.Join(err, err2, f.Close()); err != nil {
				t.Fatal(err)
			}
			trail = open(t, path)
			defer trail.Close()
			begun := time.Now()
			for device, want := range map[string]int{"a": 7, "c": 7} {
				if rs, err := trail.Delivered(device, list[0].Stamp); err != nil || len(rs) != want {
					t.Errorf("%s: %v %v", device, rs, err)
				}
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("after %s", took)
			}
		})
	}
}

// A delivered slot of 7 parameters takes at most 150 bytes in the year's archive; a search for one in 7 days of a hub
// is fast.
func BenchmarkClosedTrail(b *testing.B) {
	for _, devices := range []int{1, 1000} {
		b.Run(fmt.Sprint(devices, " devices"), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "audit.jsonl")
			trail := open(b, path)
			defer trail.Close()
			slots := min(20_000, 100_000/devices)
			for from := 0; from < slots; from += 96 {
				var list []audit.Entry
				for d := range devices {
					list = append(list, day(fmt.Sprintf("device_%05d", d), from, min(96, slots-from))...)
				}
				slices.SortStableFunc(list, func(a, b audit.Entry) int { return a.Time.Compare(b.Time) })
				appendTo(b, trail, list...)
			}
			begun := time.Now()
			turn(b, trail)
			b.ReportMetric(time.Since(begun).Seconds(), "s/close")
			info, err := os.Stat(closed(b, trail)[0])
			if err != nil {
				b.Fatal(err)
			}
			each := float64(info.Size()) / float64(slots*devices)
			stamp := day("", slots/2, 1)[0].Stamp
			for b.Loop() {
				if rs, err := trail.Delivered("device_00000", stamp); err != nil || len(rs) != 7 {
					b.Fatal(rs, err)
				}
			}
			b.ReportMetric(each, "B/slot")
			if each > 150 {
				b.Errorf("%.0f bytes a slot", each)
			}
		})
	}
}

package ocems

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"

	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
	"github.com/ocems-io/ocems/ocems/spec"
)

// series is what a slot is made for. All readings that name the same parameter of a device are one series.
type series struct {
	device, parameter, unit string
	diagnostic              bool
}

type sample struct {
	series
	statistic slot.Statistic
	at        time.Time
	value     float64
	flag      spec.Flag
}

// metric names the fields of one metric.
func (o *OCEMS) metric(b *batch, m telegraf.Metric) {
	attr := func(key string) (string, bool) {
		if v, ok := m.GetTag(key); ok {
			return v, true
		}
		if v, ok := m.GetField(key); ok {
			if text, ok := v.(string); ok {
				return text, true
			}
		}
		return "", false
	}
	for _, f := range m.FieldList() {
		if f.Key == "ocems_flag" || f.Key == "ocems_unit" || f.Key == "ocems_device_id" {
			continue
		}
		matches, err := o.registry.Resolve(registry.Metric{Name: m.Name(), Field: f.Key, Attr: attr})
		if err != nil {
			o.unresolved(b, m, f, err)
		} else if len(matches) == 0 {
			b.ignored++
			if o.once("ignored\x00" + m.Name() + "\x00" + f.Key) {
				o.Log.Debugf("Ignored: field %q of metric %q is no parameter of any device", f.Key, m.Name())
			}
		}
		for _, match := range matches {
			x := sample{
				series: series{match.Device.DeviceID, match.Parameter, match.Unit, match.Diagnostic},
				at:     m.Time(), flag: match.Flag,
			}
			if x.value, err = o.number(f.Value); err != nil { // NaN then, which no audit line shows as a value
				o.refuse(b, x, err.Error())
				continue
			}
			x.statistic, _ = slot.ParseStatistic(match.Statistic) // checked at the start
			if match.Statistic == "" && m.Type() == telegraf.Counter {
				x.statistic = slot.Last
			}
			b.samples = append(b.samples, x)
		}
	}
}

// number is NaN beside an error: what was not read has no value.
func (o *OCEMS) number(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		return float64(v), nil
	case uint64:
		return float64(v), nil
	case bool:
		if !o.BoolsAsNumbers {
			return math.NaN(), fmt.Errorf("the value is %t: set bools_as_numbers = true to take it as 0 or 1", v)
		}
		if v {
			return 1, nil
		}
		return 0, nil
	case string:
		if !o.StringsAsNumbers {
			return math.NaN(), fmt.Errorf("the value is the text %.40q: set strings_as_numbers = true where it is a number", v)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		if err != nil {
			return math.NaN(), fmt.Errorf("the value is the text %.40q, which is no number", v)
		}
		return n, nil
	}
	return math.NaN(), fmt.Errorf("the value is of type %T, which is no number", v)
}

// seriesCodec writes a series into the checkpoint.
type seriesCodec struct{}

func (seriesCodec) Append(dst []byte, s series) []byte {
	diagnostic := byte(0)
	if s.diagnostic {
		diagnostic = 1
	}
	dst = append(dst, diagnostic)
	for _, text := range []string{s.device, s.parameter, s.unit} {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	return dst
}

var errSeries = errors.New("reading the name of a series: damaged")

func (seriesCodec) Read(src []byte) (s series, err error) {
	if len(src) == 0 || src[0] > 1 {
		return s, errSeries
	}
	s.diagnostic, src = src[0] == 1, src[1:]
	for _, text := range []*string{&s.device, &s.parameter, &s.unit} {
		n, size := binary.Uvarint(src)
		if size <= 0 || n > uint64(len(src)-size) {
			return s, errSeries
		}
		*text, src = string(src[size:size+int(n)]), src[size+int(n):]
	}
	if len(src) > 0 {
		return s, errSeries
	}
	return s, nil
}

// encodeSamples writes a frame of the journal: when the samples came, the series once each, the samples.
func encodeSamples(now time.Time, samples []sample) []byte {
	index := make(map[series]uint64, len(samples))
	names := make([]byte, 0, 32*len(samples))
	var name []byte
	body := make([]byte, 0, 24*len(samples))
	last := int64(0)
	for _, x := range samples {
		n, known := index[x.series]
		if !known {
			n = uint64(len(index))
			index[x.series] = n
			name = seriesCodec{}.Append(name[:0], x.series)
			names = binary.AppendUvarint(names, uint64(len(name)))
			names = append(names, name...)
		}
		at := x.at.Unix() // and its nanoseconds apart: a wrong time may be too far away to count them
		body = binary.AppendUvarint(body, n)
		body = append(body, byte(x.statistic), byte(x.flag))
		body = binary.AppendVarint(body, at-last)
		body = binary.AppendUvarint(body, uint64(x.at.Nanosecond()))
		body = binary.LittleEndian.AppendUint64(body, math.Float64bits(x.value))
		last = at
	}
	out := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+10+len(names)+len(body)), uint64(now.UnixNano()))
	out = binary.AppendUvarint(out, uint64(len(index)))
	out = append(out, names...)
	return append(out, body...)
}

var errSamples = errors.New("reading samples: damaged")

func decodeSamples(b []byte) (now time.Time, samples []sample, err error) {
	if len(b) < 8 {
		return now, nil, errSamples
	}
	now, b = time.Unix(0, int64(binary.LittleEndian.Uint64(b))), b[8:]
	count, size := binary.Uvarint(b)
	if size <= 0 || count > uint64(len(b)) {
		return now, nil, errSamples
	}
	b = b[size:]
	var names []series
	for range count {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return now, nil, errSamples
		}
		name, err := seriesCodec{}.Read(b[size : size+int(n)])
		if err != nil {
			return now, nil, err
		}
		names, b = append(names, name), b[size+int(n):]
	}
	last := int64(0)
	for len(b) > 0 {
		n, size := binary.Uvarint(b)
		if size <= 0 || n >= count || len(b) < size+2 {
			return now, nil, errSamples
		}
		x := sample{series: names[n], statistic: slot.Statistic(b[size]), flag: spec.Flag(b[size+1])}
		b = b[size+2:]
		delta, size := binary.Varint(b)
		if size <= 0 {
			return now, nil, errSamples
		}
		b = b[size:]
		nanos, size := binary.Uvarint(b)
		if size <= 0 || nanos >= uint64(time.Second) || len(b) < size+8 {
			return now, nil, errSamples
		}
		last += delta
		x.at, x.value = time.Unix(last, int64(nanos)), math.Float64frombits(binary.LittleEndian.Uint64(b[size:]))
		samples, b = append(samples, x), b[size+8:]
	}
	return now, samples, nil
}

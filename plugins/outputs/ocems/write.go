package ocems

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/influxdata/telegraf"

	"github.com/ocems-io/ocems/ocems/engine"
	"github.com/ocems-io/ocems/ocems/registry"
	"github.com/ocems-io/ocems/ocems/slot"
)

// Write returns when the readings are durable. An error means that no reading was accepted, and that Telegraf may write the
// same batch again. A refused reading is not an error, because it would block the rest of the batch.
func (o *OCEMS) Write(metrics []telegraf.Metric) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.engine == nil {
		return fmt.Errorf("%w; the readings stay with Telegraf", cmp.Or(o.fault, errors.New("the output is not connected")))
	}
	b := o.engine.NewBatch()
	b.Fill(func() {
		var key []byte
		for _, m := range metrics {
			key = o.add(b, m, key[:0])
		}
	})
	if err := b.Commit(context.Background()); err != nil {
		return fmt.Errorf("%w; the readings stay with Telegraf: make sure that the state_directory %q is writable and has free space", err, o.StateDirectory)
	}
	return nil
}

// add hands the fields of a metric to the engine.
func (o *OCEMS) add(b *engine.Batch, m telegraf.Metric, key []byte) []byte {
	fields := m.FieldList()
	key = engine.AppendText(append(key, byte(m.Type())), m.Name())
	key = binary.AppendUvarint(key, uint64(len(m.TagList())))
	for _, t := range m.TagList() {
		key = engine.AppendText(engine.AppendText(key, t.Key), t.Value)
	}
	for _, f := range fields {
		if text, ok := f.Value.(string); ok && b.Asks(f.Key) {
			key = engine.AppendText(engine.AppendText(key, f.Key), text)
		}
	}
	b.Metric(key)
	end, bare := len(key), true
	for _, f := range fields {
		if ours(f.Key) {
			continue
		}
		bare = false
		value, err := o.number(f.Value)
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		key = append(key[:end], f.Key...)
		b.AddAs(key[end:], m.Time(), value, fault, 0, func() engine.Reading { return reading(m, f.Key) })
	}
	if bare {
		b.Bare(reading(m, ""))
	}
	return key
}

// reading returns the description of a field: everything except time and value.
func reading(m telegraf.Metric, field string) engine.Reading {
	attr := func(key string) (string, bool) {
		if v, ok := m.GetTag(key); ok {
			return v, true
		}
		v, _ := m.GetField(key)
		text, ok := v.(string)
		return text, ok
	}
	r := engine.Reading{Metric: registry.Metric{Name: m.Name(), Field: field, Attr: attr}, Source: source(m)}
	if m.Type() == telegraf.Counter {
		r.Statistic = slot.Last
	}
	return r
}

// ours reports whether a tag or field describes the readings of its metric.
func ours(key string) bool {
	return key == "ocems_flag" || key == "ocems_unit" || key == "ocems_device_id"
}

// source identifies the sender by the metric's tags.
func source(m telegraf.Metric) engine.Source {
	id := uint64(0)
	for _, t := range m.TagList() {
		if !ours(t.Key) {
			id += engine.SourcePart(t.Key, t.Value)
		}
	}
	return engine.Source{ID: id, Text: func() string {
		var words []string
		for _, t := range m.TagList() {
			if !ours(t.Key) {
				words = append(words, engine.SourceWord(t.Key, t.Value))
			}
		}
		return strings.Join(words, " ")
	}}
}

// number returns NaN together with an error, because an unread value is unknown.
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
			return math.NaN(), fmt.Errorf("the value is the text %.40q: set strings_as_numbers = true if it is a number", v)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		if err != nil {
			return math.NaN(), fmt.Errorf("the value is the text %.40q, which is not a number", v)
		}
		return n, nil
	}
	return math.NaN(), fmt.Errorf("the value is of type %T, which is not a number", v)
}

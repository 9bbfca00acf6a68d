package ocemsslotprocessor

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// The attributes that carry a sample's flag, and the mark of a finished slot. None of them is part of an identity.
const (
	flagAttribute    = "ocems.flag"
	flagAttributeAlt = "ocems_flag"
	samplesAttribute = "ocems.samples"
)

// maxDepth is how deep values are nested in a key; what is deeper is kept as its JSON text.
const maxDepth = 16

type keyValue struct {
	key   string
	value pcommon.Value
}

// keyEncoder writes a series' identity: resource attributes, scope, metric, point attributes, each of which can be
// replaced without writing those before it anew. Attributes are sorted, so that equal series have equal keys. Its
// memory is used again.
type keyEncoder struct {
	b       []byte
	list    []keyValue
	collect func(k string, v pcommon.Value) bool
}

func newKeyEncoder() *keyEncoder {
	e := &keyEncoder{}
	e.collect = func(k string, v pcommon.Value) bool {
		e.list = append(e.list, keyValue{k, v})
		return true
	}
	return e
}

func ignored(key string) bool {
	return key == flagAttribute || key == flagAttributeAlt || key == samplesAttribute
}

func (e *keyEncoder) string(s string) {
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
}

// attributes writes a map. At depth 0 those that are not of the identity are left out.
func (e *keyEncoder) attributes(m pcommon.Map, depth int) {
	from := len(e.list)
	m.Range(e.collect)
	list := e.list[from:]
	slices.SortStableFunc(list, func(a, b keyValue) int { return strings.Compare(a.key, b.key) })
	n := 0
	for i, a := range list { // of a key that stands twice the first counts
		if depth == 0 && ignored(a.key) || i > 0 && list[i-1].key == a.key {
			continue
		}
		n++
	}
	e.b = binary.AppendUvarint(e.b, uint64(n))
	for i := range list {
		if depth == 0 && ignored(list[i].key) || i > 0 && list[i-1].key == list[i].key {
			continue
		}
		e.string(list[i].key)
		e.value(list[i].value, depth+1)
	}
	e.list = e.list[:from]
}

func (e *keyEncoder) value(v pcommon.Value, depth int) {
	t := v.Type()
	if depth > maxDepth && (t == pcommon.ValueTypeMap || t == pcommon.ValueTypeSlice) {
		e.b = append(e.b, byte(pcommon.ValueTypeStr))
		e.string(v.AsString())
		return
	}
	e.b = append(e.b, byte(t))
	switch t {
	case pcommon.ValueTypeStr:
		e.string(v.Str())
	case pcommon.ValueTypeBool:
		if v.Bool() {
			e.b = append(e.b, 1)
		} else {
			e.b = append(e.b, 0)
		}
	case pcommon.ValueTypeInt:
		e.b = binary.LittleEndian.AppendUint64(e.b, uint64(v.Int()))
	case pcommon.ValueTypeDouble:
		e.b = binary.LittleEndian.AppendUint64(e.b, math.Float64bits(v.Double()))
	case pcommon.ValueTypeBytes:
		e.b = binary.AppendUvarint(e.b, uint64(v.Bytes().Len()))
		for i := range v.Bytes().Len() {
			e.b = append(e.b, v.Bytes().At(i))
		}
	case pcommon.ValueTypeSlice:
		e.b = binary.AppendUvarint(e.b, uint64(v.Slice().Len()))
		for i := range v.Slice().Len() {
			e.value(v.Slice().At(i), depth+1)
		}
	case pcommon.ValueTypeMap:
		e.attributes(v.Map(), depth)
	}
}

// identity is what a key says.
type identity struct {
	resource            pcommon.Map
	scope, scopeVersion string
	scopeAttributes     pcommon.Map
	metric, unit        string
	attributes          pcommon.Map
	prefixLen           int // of the key: the resource and the scope
}

var errKey = errors.New("the key of a series is damaged")

func decodeKey(key string) (identity, error) {
	d := keyDecoder{s: key}
	id := identity{resource: pcommon.NewMap(), scopeAttributes: pcommon.NewMap(), attributes: pcommon.NewMap()}
	d.attributes(id.resource, 0)
	id.scope, id.scopeVersion = d.string(), d.string()
	d.attributes(id.scopeAttributes, 0)
	id.prefixLen = len(key) - len(d.s)
	id.metric, id.unit = d.string(), d.string()
	d.attributes(id.attributes, 0)
	if d.bad || d.s != "" {
		return identity{}, errKey
	}
	return id, nil
}

type keyDecoder struct {
	s   string
	bad bool
}

func (d *keyDecoder) fail() { d.s, d.bad = "", true }

func (d *keyDecoder) take(n uint64) string {
	if n > uint64(len(d.s)) {
		d.fail()
		return ""
	}
	out := d.s[:n]
	d.s = d.s[n:]
	return out
}

// count reads a length; nothing is longer than the bytes that are left.
func (d *keyDecoder) count() uint64 {
	var b [binary.MaxVarintLen64]byte
	v, n := binary.Uvarint(b[:copy(b[:], d.s)])
	if n <= 0 || n > 1 && b[n-1] == 0 { // only the shortest form is equal to itself
		d.fail()
		return 0
	}
	d.s = d.s[n:]
	if v > uint64(len(d.s)) {
		d.fail()
		return 0
	}
	return v
}

func (d *keyDecoder) string() string { return d.take(d.count()) }

func (d *keyDecoder) fixed() uint64 {
	s := d.take(8)
	if d.bad {
		return 0
	}
	return binary.LittleEndian.Uint64([]byte(s))
}

func (d *keyDecoder) attributes(m pcommon.Map, depth int) {
	before := ""
	for i, n := uint64(0), d.count(); i < n && !d.bad; i++ {
		key := d.string()
		if i > 0 && key <= before || depth == 0 && ignored(key) {
			d.fail()
			return
		}
		before = key
		d.value(m.PutEmpty(key), depth+1)
	}
}

func (d *keyDecoder) value(v pcommon.Value, depth int) {
	t := d.take(1)
	if d.bad {
		return
	}
	switch kind := pcommon.ValueType(t[0]); kind {
	case pcommon.ValueTypeEmpty:
	case pcommon.ValueTypeStr:
		v.SetStr(d.string())
	case pcommon.ValueTypeBool:
		switch d.take(1) {
		case "\x00":
			v.SetBool(false)
		case "\x01":
			v.SetBool(true)
		default:
			d.fail()
		}
	case pcommon.ValueTypeInt:
		v.SetInt(int64(d.fixed()))
	case pcommon.ValueTypeDouble:
		v.SetDouble(math.Float64frombits(d.fixed()))
	case pcommon.ValueTypeBytes:
		v.SetEmptyBytes().FromRaw([]byte(d.string()))
	case pcommon.ValueTypeSlice, pcommon.ValueTypeMap:
		if depth > maxDepth {
			d.fail()
			return
		}
		if kind == pcommon.ValueTypeMap {
			d.attributes(v.SetEmptyMap(), depth)
			return
		}
		list := v.SetEmptySlice()
		for n := d.count(); n > 0 && !d.bad; n-- {
			d.value(list.AppendEmpty(), depth+1)
		}
	default:
		d.fail()
	}
}

// keyCodec is the aligner's view of keys.
type keyCodec struct{}

func (keyCodec) Append(dst []byte, key string) []byte { return append(dst, key...) }

func (keyCodec) Read(src []byte) (string, error) {
	key := string(src)
	_, err := decodeKey(key)
	return key, err
}

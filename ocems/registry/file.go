package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/ocems-io/ocems/ocems/spec"
)

// version identifies a state of the devices_file. It has the time, so that the token files of a touched file are read again.
// It has the content's checksum, because the content may change within the resolution of the time.
type version struct {
	modified time.Time
	sum      [sha256.Size]byte
}

func (v version) is(o version) bool { return v.modified.Equal(o.modified) && v.sum == o.sum }

func readVersion(path string) ([]byte, version, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // a read of a FIFO, for example, may never return
		return nil, version{}, fmt.Errorf("%s is not a regular file; name one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, version{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, version{}, err
	}
	data, err := io.ReadAll(f)
	return data, version{info.ModTime(), sha256.Sum256(data)}, err
}

func readDevices(path string) ([]source, version, error) {
	data, v, err := readVersion(path)
	if err != nil {
		return nil, v, err
	}
	list, err := parseDevices(path, data)
	return list, v, err
}

// asUTF8 converts a text that a Windows editor has saved to UTF-8 without byte order mark.
func asUTF8(data []byte) []byte {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	}
	var units []uint16
	for data = data[2:]; len(data) > 1; data = data[2:] {
		units = append(units, order.Uint16(data))
	}
	return []byte(string(utf16.Decode(units)))
}

// parseDevices reads a devices_file. With an error it also returns the readable devices, so that all mistakes are found
// together.
func parseDevices(path string, data []byte) ([]source, error) {
	data = asUTF8(data)
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		return parseCSV(path, data)
	case ".yaml", ".yml":
		return parseYAML(path, data)
	}
	return nil, fmt.Errorf("%s is neither .csv, .yaml nor .yml; save a workbook as CSV UTF-8", path)
}

var columns = []string{"station_id", "device_id", "token_id", "token_id_file", "latitude", "longitude", "public_key", "public_key_file", "shared_device", "delay", "timestamps", "reading_stamp", "formerly"}

// parseCSV shows no cell in an error, because in a shifted row any cell may be the token. It accepts the CSV of spreadsheets:
// semicolons or tabs, a first line sep=;, blank rows, empty columns at the end, and column names in any case.
func parseCSV(path string, data []byte) ([]source, error) {
	switch {
	case bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("\xd0\xcf\x11\xe0")):
		return nil, fmt.Errorf("%s: this is a spreadsheet workbook; save it as CSV UTF-8", path)
	case bytes.ContainsRune(data, 0):
		return nil, fmt.Errorf("%s: this text is not UTF-8; save it as CSV UTF-8", path)
	}
	comma, skipped := separator(&data)
	r := csv.NewReader(bytes.NewReader(data))
	r.TrimLeadingSpace, r.Comma, r.FieldsPerRecord = true, comma, -1
	header, err := r.Read()
	for err == nil && blank(header) {
		header, err = r.Read()
	}
	if err == io.EOF {
		return nil, fmt.Errorf("%s:1: the file is empty; the first row names the columns: %s", path, strings.Join(columns, ","))
	}
	if err != nil {
		return nil, csvError(path, skipped, err)
	}
	line := lineAt(r) + skipped
	for i := range header {
		header[i] = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(header[i])), " ", "_")
	}
	for len(header) > 0 && header[len(header)-1] == "" {
		header = header[:len(header)-1]
	}
	if !slices.Contains(header, "device_id") {
		nearly := strings.NewReplacer("_", "", "-", "")
		if i := slices.IndexFunc(header, func(name string) bool { return strings.Trim(nearly.Replace(name), " .") == "deviceid" }); i >= 0 {
			return nil, fmt.Errorf("%s:%d: column %q is unknown; nearest: device_id", path, line, header[i])
		}
		return nil, fmt.Errorf("%s:%d: no column device_id; the first row names the columns: %s", path, line, strings.Join(columns, ","))
	}
	var faults []error
	for i, name := range header {
		if !slices.Contains(columns, name) {
			faults = append(faults, fmt.Errorf("%s:%d: column %q is unknown; nearest: %s", path, line, name, strings.Join(spec.Nearest(name, columns), ", ")))
		} else if slices.Contains(header[:i], name) {
			faults = append(faults, fmt.Errorf("%s:%d: column %q is given twice", path, line, name))
		}
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	var list []source
	for {
		row, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			faults = append(faults, csvError(path, skipped, err))
			break
		}
		if blank(row) {
			continue
		}
		line := lineAt(r) + skipped
		if n := len(header); len(row) < n || !blank(row[n:]) {
			faults = append(faults, fmt.Errorf("%s:%d: wrong number of fields: %d, but the first row has %d; put a cell that contains %q in quotes", path, line, len(row), n, comma))
			continue
		}
		src := source{words: Collector, at: func(key string) string { return fmt.Sprintf("%s:%d: %s", path, line, key) }}
		for i, name := range header {
			if err := src.set(name, strings.TrimSpace(row[i])); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", src.at(name), err))
			}
		}
		list = append(list, src)
	}
	return list, errors.Join(faults...)
}

// separator removes a first line such as sep=; and finds the separator of the cells in the first row. skipped is the number
// of removed lines.
func separator(data *[]byte) (comma rune, skipped int) {
	first, rest, _ := bytes.Cut(*data, []byte("\n"))
	if mark, ok := bytes.CutPrefix(bytes.ToLower(bytes.Trim(first, "\" \r\t")), []byte("sep=")); ok && len(mark) == 1 {
		*data = rest
		return rune(mark[0]), 1
	}
	for _, c := range []rune{';', '\t'} {
		if bytes.ContainsRune(first, c) && !bytes.ContainsRune(first, ',') {
			return c, 0
		}
	}
	return ',', 0
}

func blank(row []string) bool {
	return !slices.ContainsFunc(row, func(cell string) bool { return strings.TrimSpace(cell) != "" })
}

func lineAt(r *csv.Reader) int {
	line, _ := r.FieldPos(0)
	return line
}

func csvError(path string, skipped int, err error) error {
	if p := (*csv.ParseError)(nil); errors.As(err, &p) {
		return fmt.Errorf("%s:%d: %w", path, p.Line+skipped, p.Err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

func (d *DeviceConfig) set(column, cell string) error {
	degrees := func(to **Number) error {
		if cell == "" {
			return nil
		}
		if *to = new(Number); (*to).UnmarshalText([]byte(cell)) != nil { // such as 19,076 or 19°4'N
			return errors.New("not a number of degrees; write it with a point, such as 19.076")
		}
		return nil
	}
	switch column {
	case "station_id":
		d.StationID = cell
	case "device_id":
		d.DeviceID = cell
	case "token_id":
		d.TokenID = Secret(cell)
	case "token_id_file":
		d.TokenIDFile = cell
	case "latitude":
		return degrees(&d.Latitude)
	case "longitude":
		return degrees(&d.Longitude)
	case "public_key":
		d.PublicKey = Secret(cell)
	case "public_key_file":
		d.PublicKeyFile = cell
	case "shared_device":
		return truth(&d.SharedDevice, cell)
	case "delay":
		if cell != "" {
			d.Delay = new(Duration)
			err := d.Delay.UnmarshalText([]byte(cell))
			if _, number := strconv.ParseFloat(cell, 64); err != nil && number != nil {
				err = errors.New("not a duration such as 30s or 5m")
			}
			return err
		}
	case "formerly":
		if cell != "" {
			d.Formerly = strings.Split(cell, ";")
		}
	case "timestamps":
		return oneOf(&d.Timestamps, cell, Timestamps)
	case "reading_stamp":
		return oneOf(&d.ReadingStamp, cell, readingStamps)
	}
	return nil
}

func oneOf(to *string, cell string, values []string) error {
	if cell != "" && !slices.Contains(values, cell) {
		return fmt.Errorf("neither %q nor %q; nearest: %s", values[0], values[1], spec.Nearest(cell, values)[0])
	}
	*to = cell
	return nil
}

func truth(to **bool, cell string) error {
	if cell == "" {
		return nil
	}
	v, err := strconv.ParseBool(strings.ToLower(cell))
	if err != nil {
		return errors.New("neither true nor false")
	}
	*to = &v
	return nil
}

var (
	yamlQuote = regexp.MustCompile("`[^`]*`")
	yamlType  = regexp.MustCompile(`(line \d+: )?field (\S+) not found in type .*`)
	yamlLine  = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)
)

func parseYAML(path string, data []byte) ([]source, error) {
	var doc struct {
		Devices []DeviceConfig `yaml:"devices"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(&doc)
	if err == nil && dec.Decode(new(yaml.Node)) != io.EOF {
		err = errors.New("a second document; keep one")
	}
	var root yaml.Node
	noKeys := yaml.Unmarshal(data, &root) == nil && len(root.Content) > 0 && root.Content[0].Kind != yaml.MappingNode
	if err == io.EOF || err == nil && doc.Devices == nil || noKeys {
		err = errors.New("line 1: no list of `devices:`")
		return nil, yamlError(path, err.Error(), false)
	}
	if t := (*yaml.TypeError)(nil); errors.As(err, &t) {
		var faults []error
		for _, text := range t.Errors {
			faults = append(faults, yamlError(path, text, true))
		}
		return nil, errors.Join(faults...)
	}
	if err != nil {
		return nil, yamlError(path, err.Error(), true)
	}
	var sources []source
	for i, d := range doc.Devices {
		sources = append(sources, source{d, func(key string) string {
			key = Collector.device(i, key)
			return fmt.Sprintf("%s:%d: %s", path, lineOf(&root, key), key)
		}, Collector})
	}
	return sources, nil
}

// yamlError converts the decoder's text to the form file:line, and removes the values that it quotes.
func yamlError(path, text string, hide bool) error {
	if hide {
		text = yamlQuote.ReplaceAllString(text, "the value")
	}
	if m := yamlType.FindStringSubmatch(text); m != nil {
		keys := slices.Concat(columns, []string{"devices", "parameters", "metric", "field", "attributes", "parameter", "unit",
			"statistic", "decimals", "diagnostic", "allow_unlisted", "valid_min", "valid_max", "invalid_values", "max_step",
			"min_coverage", "below_min_coverage", "flat_line_after", "limit_low", "limit_high"})
		text = fmt.Sprintf("%skey %q is unknown; nearest: %s", m[1], m[2], strings.Join(spec.Nearest(m[2], keys), ", "))
	}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s:%s: %s", path, m[1], text[len(m[0]):])
	}
	return fmt.Errorf("%s: %s", path, strings.TrimPrefix(text, "yaml: "))
}

// lineOf finds the line of a key such as devices[0].parameters[1].unit, or of its parent if the key is missing.
func lineOf(n *yaml.Node, key string) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	line := max(n.Line, 1)
	for _, word := range strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		i, err := strconv.Atoi(word)
		switch {
		case n.Kind == yaml.SequenceNode && err == nil && i < len(n.Content):
			n = n.Content[i]
			line = n.Line
		case n.Kind == yaml.MappingNode:
			at := -1
			for k := 0; k+1 < len(n.Content); k += 2 {
				if n.Content[k].Value == word {
					at = k
				}
			}
			if at < 0 {
				return line
			}
			line, n = n.Content[at].Line, n.Content[at+1]
		default:
			return line
		}
	}
	return line
}

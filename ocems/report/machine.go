package report

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// JSON writes the report as one indented object, with times in IST.
func (r *Report) JSON(w io.Writer) error { return writeJSON(w, r) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

var csvHeader = []string{"station", "device", "parameter", "diagnostic", "unit", "period_first", "period_last",
	"expected", "delivered", "delivered_late", "already_stored", "waiting", "refused", "refused_code", "rejected", "expired", "excluded", "missing", "missing_host_off",
	"calibration", "delivered_percent", "unverified",
	"longest_gap_first", "longest_gap_last", "longest_gap_slots", "late_samples", "refused_samples",
	"calibration_points_delivered", "calibration_points_rejected", "calibration_points_expired",
	"last_calibration", "readings_left_out", "trails_verified", "made", "software", "verdict"}

// CSV writes a header and one line for each device and parameter, with times in IST.
func (r *Report) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	lines := [][]string{csvHeader}
	if r.Board != nil {
		lines[0] = append(slices.Clone(csvHeader), "board_same", "board_only_there", "board_only_here", "board_other_value")
	}
	first, last := "", ""
	if r.Period != nil {
		first, last = r.Period.First.Format(time.RFC3339), r.Period.Last.Format(time.RFC3339)
	}
	for _, d := range r.Devices {
		for _, p := range d.Parameters {
			share, gapFirst, gapLast, gapSlots := "", "", "", 0
			if p.Share != nil {
				share = strconv.FormatFloat(*p.Share, 'f', 2, 64)
			}
			if g := p.LongestGap; g != nil {
				gapFirst, gapLast, gapSlots = g.First.Format(time.RFC3339), g.Last.Format(time.RFC3339), g.Slots
			}
			calibrated := ""
			if p.Calibrated != nil {
				calibrated = p.Calibrated.Format(time.RFC3339)
			}
			n := strconv.Itoa
			lines = append(lines, []string{cell(d.Station), cell(d.ID), cell(p.Parameter), strconv.FormatBool(p.Diagnostic), cell(p.Unit), first, last,
				n(p.Expected), n(p.Delivered), n(p.Late), n(p.AlreadyStored), n(p.Waiting), n(p.Refused), p.Code, n(p.Rejected), n(p.Expired), n(p.Excluded), n(p.Missing),
				n(p.HostOff), n(p.Calibration), share, n(p.Unverified),
				gapFirst, gapLast, n(gapSlots), n(p.Samples.Late), n(p.Samples.Refused),
				n(p.Points.Delivered), n(p.Points.Rejected), n(p.Points.Expired), calibrated, cell(p.leftOut()),
				strconv.FormatBool(r.Verified), r.Made.Format(time.RFC3339), r.Software, r.Verdict})
			if r.Board != nil {
				var x BoardCounts
				if i := slices.IndexFunc(r.Board.Parameters, func(x BoardCounts) bool { return x.Device == d.ID && x.Parameter == p.Parameter }); i >= 0 && !p.Diagnostic {
					x = r.Board.Parameters[i]
				}
				lines[len(lines)-1] = append(lines[len(lines)-1], n(x.Same), n(x.OnlyThere), n(x.OnlyHere), n(x.Other))
			}
		}
	}
	return out.WriteAll(lines)
}

// cell keeps a text of an altered trail from becoming a formula in a spreadsheet.
func cell(text string) string {
	if _, number := strconv.ParseFloat(text, 64); number == nil || text == "" || !strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return text
	}
	return "'" + text
}

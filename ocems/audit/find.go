package audit

import (
	"bytes"
	"fmt"
	"time"
)

// clockMargin is by how much the clock may have been behind a slot when it was delivered.
const clockMargin = time.Hour

// Delivered returns the readings of a device and stamp that the trail has as delivered or already stored. It reads from the end back to an
// hour before the stamp.
func (t *Trail) Delivered(device string, stamp int64) (found []Reading, err error) {
	t.mu.Lock()
	file, end := t.file, t.size
	t.mu.Unlock()
	mark := fmt.Appendf(nil, `"stamp":%d,`, stamp)
	oldest := time.UnixMilli(stamp).Add(-clockMargin)
	var rest []byte // the end of a line whose beginning is in the block before
	for at := end; at > 0; {
		n := min(at, 256<<10)
		at -= n
		block := make([]byte, n, int(n)+len(rest))
		if _, err := file.ReadAt(block, at); err != nil {
			return nil, fmt.Errorf("reading the audit trail: %w", err)
		}
		block = append(block, rest...)
		begin := 0
		if at > 0 {
			begin = bytes.IndexByte(block, '\n') + 1
			rest = block[:begin]
			if begin == 0 {
				rest = block
				continue
			}
		}
		lines := bytes.Split(block[begin:], []byte("\n"))
		for _, line := range lines {
			if !bytes.Contains(line, mark) {
				continue
			}
			if e, ok := entry(line); ok && (e.Outcome == Delivered || e.Outcome == AlreadyStored) && e.Device == device && e.Stamp == stamp {
				found = append(found, e.Readings...)
			}
		}
		if e, ok := entry(lines[0]); ok && e.Time.Before(oldest) {
			break
		}
	}
	return found, nil
}

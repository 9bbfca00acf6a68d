// Package calendar says what a slot of a parameter counts as, and which letter a slot of several parameters has in the
// calendars of ocems report and ocems serve.
package calendar

// Class is the outcome of a slot of a parameter.
type Class uint8

// The classes. From Stored on the slot has reached the board.
const (
	Outside Class = iota // not expected
	Missing
	Excluded // no slot was made because its readings were left out
	Waiting
	Refused // by the board: it waits
	Expired
	Rejected
	Stored // the board had it already
	Late   // delivered more than audit.LateAfter after its stamp
	Delivered
	Calibration // all its 30-second points were delivered
)

func (c Class) String() string {
	return [...]string{"not due", "missing", "excluded", "waiting", "refused by the board", "expired", "rejected", "already stored", "delivered late", "delivered",
		"calibration"}[c]
}

// The letters of a calendar. A cell stands for all parameters of the device.
const (
	LetterOutside     = '-'
	LetterDelivered   = 'D'
	LetterPartly      = 'P'
	LetterMissing     = 'M'
	LetterExcluded    = 'X'
	LetterWaiting     = 'W'
	LetterRefused     = 'B'
	LetterRejected    = 'R'
	LetterExpired     = 'E'
	LetterCalibration = 'C'
	LetterUnverified  = '?'
)

// lost are the letters of slots of which no parameter has reached the board, the most urgent first.
var lost = []struct {
	class  Class
	letter byte
}{{Refused, LetterRefused}, {Rejected, LetterRejected}, {Expired, LetterExpired}, {Waiting, LetterWaiting}, {Excluded, LetterExcluded}, {Missing, LetterMissing}}

// Counts are the parameters of a slot, by class.
type Counts [Calibration + 1]int

// Letter is the letter of the slot.
func (n *Counts) Letter() byte {
	due, reached := 0, 0
	for c, parameters := range n {
		if Class(c) > Outside {
			due += parameters
		}
		if Class(c) >= Stored {
			reached += parameters
		}
	}
	switch {
	case due == 0:
		return LetterOutside
	case n[Calibration] == due:
		return LetterCalibration
	case reached == due:
		return LetterDelivered
	case reached > 0:
		return LetterPartly
	}
	for _, l := range lost {
		if n[l.class] > 0 {
			return l.letter
		}
	}
	return LetterMissing
}

// Letter is the letter of a slot of one parameter.
func (c Class) Letter() byte {
	var n Counts
	n[c]++
	return n.Letter()
}

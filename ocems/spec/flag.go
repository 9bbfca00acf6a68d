package spec

import "strings"

// Flag is the operation mode of a reading (spec 2.4.1, 2.4.3). The spec explains U, C and Z; it lists M, F and D without a
// meaning. The plant's flag is passed through and never guessed.
type Flag byte

// The flags of spec 2.4.1.
const (
	FlagNormal          Flag = 'U'
	FlagCalibration     Flag = 'C'
	FlagM               Flag = 'M'
	FlagF               Flag = 'F'
	FlagZeroCalibration Flag = 'Z'
	FlagD               Flag = 'D'
)

// Flags lists the flags in the order of the spec.
const Flags = "UCMFZD"

// ParseFlag parses a flag. It ignores case and surrounding white space. An empty text is U.
func ParseFlag(s string) (Flag, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return FlagNormal, nil
	}
	if up := strings.ToUpper(s); len(up) == 1 && strings.Contains(Flags, up) {
		return Flag(up[0]), nil
	}
	return 0, &UnknownError{Kind: "flag", Value: s, Nearest: func() []string { return nearestFlag(s) }}
}

// Valid reports whether the flag is one of the six.
func (f Flag) Valid() bool { return f != 0 && strings.IndexByte(Flags, byte(f)) >= 0 }

// Calibration reports whether readings with this flag are sent every 30 seconds, during a calibration that the board has
// scheduled. They are never part of a 15-minute average (spec 2.4.3).
func (f Flag) Calibration() bool { return f == FlagCalibration || f == FlagZeroCalibration }

func (f Flag) String() string { return string(rune(f)) }

// nearestFlag returns the flag with the first letter of the word ("zero" is Z).
func nearestFlag(s string) []string {
	words := map[string]string{"NORMAL": "U", "OK": "U", "USUAL": "U", "VALID": "U"}
	up := strings.ToUpper(s)
	if f, ok := words[up]; ok {
		return []string{f}
	}
	if strings.Contains(Flags, up[:1]) {
		return []string{up[:1]}
	}
	return strings.Split(Flags, "")
}

package registry

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	// tokenForm matches the known forms of the board's tokens: 32 hex digits or 44 characters of base64.
	tokenForm = regexp.MustCompile(`^([0-9a-fA-F]{32}|[A-Za-z0-9+/_-]{43}=)$`)
	// asNumber matches a text that a spreadsheet has changed into a number. It does not match a token of hex digits with one e.
	asNumber = regexp.MustCompile(`^[+-]?[0-9]([.,][0-9]+)?E[+-][0-9]{2,3}$`)
	// label matches the text before a token if a whole line was copied.
	label = regexp.MustCompile(`(?i)^(token[ _-]?id|token|x-device-token|bearer|key)\s*([:=]\s*|\s)`)
)

// mistaken returns why a text is not a token, and what to do, or "". It shows nothing of the text.
func mistaken(token string) string {
	switch {
	case strings.ContainsRune(token, 0) || strings.HasPrefix(token, "\xff\xfe") || strings.HasPrefix(token, "\xfe\xff"):
		return "the file is UTF-16; save it as UTF-8"
	case !utf8.ValidString(token):
		return "it is not UTF-8; copy the token from the board's e-mail again"
	case asNumber.MatchString(token):
		return "a spreadsheet has changed it into a number, such as 1.23E+31, and the token is lost; copy it again into a column with the format Text"
	case label.MatchString(token):
		return "it begins with a name such as token=; give only the part behind it"
	case strings.ContainsAny(token, "\r\n"):
		return "it has several lines; give the token alone, on one line"
	case strings.ContainsFunc(token, invisible):
		return "it contains an invisible character, such as a zero-width space; type the token, or copy it as plain text"
	case strings.ContainsFunc(token, unicode.IsSpace):
		return "it contains a space; give the token alone"
	case strings.Trim(token, "\"'`<>“”‘’") != token:
		return "it is in quotes or brackets; remove them"
	}
	return ""
}

func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u00a0' || r == '\u2060' || r == '\u3164'
}

// OddToken returns why a token does not have a known form of the board's tokens, or "". It shows nothing of the token.
func OddToken(token string) string {
	switch n := len(token); {
	case tokenForm.MatchString(token):
		return ""
	case token == "":
		return ""
	case n == 31 || n == 43 && !strings.HasSuffix(token, "="):
		return "a character is missing"
	case n < 32:
		return "it is too short"
	case n > 44:
		return "it is too long"
	}
	return "its characters or its length differ"
}

package registry

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

const (
	shortestHidden = 4  // characters; a shorter token would be found in every text
	longestEscape  = 12 // characters; longer text is not an escape
	mostEscaped    = 3  // times; an escape may itself be escaped
)

// hider finds tokens in a text of a server. It finds them in any case, in both alphabets of base64, without padding, with
// escaped characters as in URLs, JSON and HTML, and encoded in base64.
type hider struct {
	tokens  map[string]bool // folded
	starts  map[[2]byte]bool
	lengths []int // of tokens, the longest first
}

func newHider() *hider { return &hider{tokens: map[string]bool{}, starts: map[[2]byte]bool{}} }

func (h *hider) add(token string) {
	whole := len(token) / 3 * 3 // the base64 of these bytes does not depend on the text after them
	for _, form := range []string{strings.TrimRight(token, "="), base64.StdEncoding.EncodeToString([]byte(token[:whole]))} {
		if len(form) < shortestHidden {
			continue
		}
		text := []byte(form)
		for i, c := range text {
			text[i] = foldToken(c)
		}
		h.tokens[string(text)], h.starts[[2]byte(text)] = true, true
		if i, found := slices.BinarySearchFunc(h.lengths, len(text), func(a, b int) int { return b - a }); !found {
			h.lengths = slices.Insert(h.lengths, i, len(text))
		}
	}
}

// hide replaces every token in text. It searches before and after unescaping, because the beginning of a token may complete
// an escape before it.
func (h *hider) hide(text []byte) []byte {
	for times := range mostEscaped + 1 {
		if len(h.tokens) == 0 || times > 0 && !bytes.ContainsAny(text, `%\&`) {
			break
		}
		text = h.replace(text, unescape(text, times))
	}
	return text
}

// replace replaces the tokens of p in the text from which p was made.
func (h *hider) replace(text []byte, p plainText) []byte {
	var out []byte
	done := 0 // bytes of text
	for i := 0; i+1 < len(p.text); i++ {
		if !h.starts[[2]byte(p.text[i:])] {
			continue
		}
		for _, n := range h.lengths {
			if i+n > len(p.text) || !h.tokens[string(p.text[i:i+n])] {
				continue
			}
			end := i + n
			for end < len(p.text) && p.text[end] == '=' {
				end++
			}
			out = append(append(out, text[done:p.from[i]]...), "(the token)"...)
			done, i = p.from[end], end-1
			break
		}
	}
	if done == 0 {
		return text
	}
	return append(out, text[done:]...)
}

// plainText is a folded text without escapes. from has the original position of each character and of the end.
type plainText struct {
	text []byte
	from []int
}

func unescape(text []byte, times int) plainText {
	p := plainText{bytes.Clone(text), make([]int, len(text)+1)}
	for i := range p.from {
		p.from[i] = i
	}
	for range times {
		p.once()
	}
	for i, c := range p.text {
		p.text[i] = foldToken(c)
	}
	return p
}

// once replaces one level of escapes.
func (p *plainText) once() {
	n := 0
	for i := 0; i < len(p.text); n++ {
		c, size := escaped(p.text[i:min(i+longestEscape, len(p.text))])
		p.text[n], p.from[n] = c, p.from[i]
		i += size
	}
	p.from[n] = p.from[len(p.text)]
	p.text, p.from = p.text[:n], p.from[:n+1]
}

// escaped returns the first character of b, which is not empty, and the number of bytes that encode it.
func escaped(b []byte) (c byte, size int) {
	number := func(at, end, base, size int) (byte, int) {
		if end > len(b) || end <= at {
			return b[0], 1
		}
		n, err := strconv.ParseUint(string(b[at:end]), base, 7)
		if err != nil {
			return b[0], 1
		}
		return byte(n), size
	}
	switch {
	case b[0] == '%':
		return number(1, 3, 16, 3)
	case b[0] == '\\' && len(b) > 1:
		switch b[1] {
		case '/':
			return '/', 2
		case 'x':
			return number(2, 4, 16, 4)
		case 'u':
			return number(2, 6, 16, 6)
		}
	case b[0] == '&' && len(b) > 3 && b[1] == '#':
		end := bytes.IndexByte(b, ';')
		if b[2] == 'x' || b[2] == 'X' {
			return number(3, end, 16, end+1)
		}
		return number(2, end, 10, end+1)
	}
	return b[0], 1
}

// foldToken maps upper and lower case, and both alphabets of base64, to one form.
func foldToken(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '+':
		return '-'
	case c == '/':
		return '_'
	}
	return c
}

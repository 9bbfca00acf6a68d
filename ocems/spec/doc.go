// Package spec holds the facts of India's OCEMS REST API v1.5: the parameter keys (annexe 3.1), the unit keys
// (annexe 3.2), the status codes (3.3), the flags (2.4.3), and the arithmetic of 15-minute slots with the rules of
// how old and how new a reading may be (2.4.3).
//
// The three annexes are embedded CSV files and are used exactly as they are printed: `Nh3-n` has a capital N and
// `n03-n` a digit zero, because the server compares keys byte for byte.
package spec

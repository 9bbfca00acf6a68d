// Package spec holds the facts of India's OCEMS REST API v1.5: the parameter keys (annexe 3.1), the unit keys (annexe 3.2),
// the status codes (3.3), the flags (2.4.3), the 15-minute slots, and the limits for the age of a reading (2.4.3).
//
// The three annexes are embedded CSV files, exactly as printed, because the server compares keys byte by byte: `Nh3-n` has
// a capital N and `n03-n` a digit zero.
package spec

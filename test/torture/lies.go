package main

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// lies are the false answers that the front gives in place of the board: statuses that are not true of a slot, no answer, and a
// wrong Date.
type lies struct {
	mu     sync.Mutex
	status map[string]int  // by device: the answer to its requests
	silent map[string]bool // devices whose requests hang until the host gives up
	stores bool            // their requests still reach the board
	off    time.Duration   // error of the Date in every answer, also to a GET

	told     map[place]bool // had a status that is not true
	doubtful map[place]bool // was sent, and the host may not have the whole answer
	waits    int64          // slots up to this stamp may have waited at the end of a run, and are in doubt
	met      map[string]int // by kind
}

func newLies() *lies {
	return &lies{status: map[string]int{}, silent: map[string]bool{}, told: map[place]bool{}, doubtful: map[place]bool{}, met: map[string]int{}}
}

// set changes the answers.
func (l *lies) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// none ends all false answers.
func (l *lies) none() {
	l.set(func() {
		clear(l.status)
		clear(l.silent)
		l.off = 0
	})
}

// cut records that answers may have been lost in transit.
func (l *lies) cut() { l.set(func() { maps.Copy(l.doubtful, l.told) }) }

// lifeEnds records that a host has ended in which slots up to a stamp may have waited.
func (l *lies) lifeEnds(stamp int64) { l.set(func() { l.waits = max(l.waits, stamp) }) }

// date makes an answer's Date wrong.
func (l *lies) date(h http.Header) {
	l.set(func() {
		if l.off != 0 {
			h.Set("Date", time.Now().Add(l.off).UTC().Format(http.TimeFormat))
			l.met["Date"]++
		}
	})
}

// answer answers a request in place of the board, or returns false. It sends a false 111 only for a slot that is not in doubt.
// For a slot in doubt the host must accept 111, so the board would cause the loss of the slot.
func (l *lies) answer(w http.ResponseWriter, r *http.Request, board http.Handler) bool {
	asked, err := open(r)
	if err != nil || len(asked) == 0 {
		return false // the board reports the fault
	}
	device := asked[0].device
	l.mu.Lock()
	status, silent, stores := l.status[device], l.silent[device], l.stores
	if status == 111 && slices.ContainsFunc(asked, func(p place) bool { return l.doubtful[p] || p.stamp <= l.waits }) {
		status = 0
	}
	switch {
	case silent:
		l.met["silence"]++
	case status != 0:
		l.met[fmt.Sprintf("untrue %d", status)]++
		for _, p := range asked {
			l.told[p] = true
		}
	}
	if silent || status == 0 {
		l.doubt(asked)
	}
	l.mu.Unlock()
	switch {
	case silent:
		if stores {
			board.ServeHTTP(httptest.NewRecorder(), r)
		}
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case status == 0:
		return false
	}
	l.date(w.Header())
	w.Header().Set("Content-Type", "application/json")
	_, err = fmt.Fprintf(w, `{"msg": "untrue", "status": %d}`, status)
	if err != nil || http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
		l.set(func() { l.doubt(asked) })
	}
	return true
}

func (l *lies) doubt(asked []place) {
	for _, p := range asked {
		l.doubtful[p] = true
	}
}

// open returns the values in a request (spec 2.4). The body is base64 of AES-256-ECB with the SHA-256 of the device's token.
// After open the request can be read again.
func open(r *http.Request) (asked []place, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	i := slices.IndexFunc(devices, func(d device) bool { return d.id == r.Header.Get("X-Device-Id") })
	if i < 0 {
		return nil, nil
	}
	key := sha256.Sum256([]byte(devices[i].token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	text, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil {
		return nil, err
	}
	for rest := text; len(rest) >= aes.BlockSize; rest = rest[aes.BlockSize:] {
		block.Decrypt(rest, rest)
	}
	var doc struct {
		Data []struct {
			Devices []struct {
				Params []struct {
					Parameter, Flag string
					Timestamp       int64
				}
			} `json:"device_data"`
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != nil { // without the padding
		return nil, err
	}
	for _, s := range doc.Data {
		for _, d := range s.Devices {
			for _, x := range d.Params {
				asked = append(asked, place{devices[i].id, x.Parameter, x.Flag, x.Timestamp})
			}
		}
	}
	return asked, nil
}

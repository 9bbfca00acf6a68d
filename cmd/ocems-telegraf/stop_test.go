package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdata/telegraf"
)

// steady is an input that always has another line.
type steady struct{ lines int }

func (s *steady) Read(p []byte) (int, error) {
	s.lines++
	return copy(p, fmt.Sprintf("etp cod=1 %d\n", s.lines)), nil
}

func TestStopTakesAllThatWasRead(t *testing.T) {
	for try := range 50 {
		synctest.Test(t, func(t *testing.T) {
			in := &steady{}
			r := &recorder{fails: func() error { time.Sleep(time.Duration(300+try) * time.Millisecond); return nil }} // a slow disk
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			if err := feed(ctx, in, []telegraf.Output{r}, (&lines{}).log()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if r.count() != in.lines {
				t.Errorf("read %d metrics, took %d", in.lines, r.count())
			}
		})
	}
}

// At the stop the state is tried once more, in case it can be written again, before waiting metrics are given up.
func TestStopTriesOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		healed := time.Now().Add(20 * time.Second) // between the attempts after 15 and 31 seconds
		r := &recorder{fails: func() error {
			if time.Now().Before(healed) {
				return errors.New("no space left")
			}
			return nil
		}}
		in, out := memoryPipe(t)
		ctx, stop := context.WithTimeout(t.Context(), 25*time.Second)
		defer stop()
		go fmt.Fprint(out, "etp cod=1 1\n")
		if err := feed(ctx, in, []telegraf.Output{r}, (&lines{}).log()); err != nil || r.count() != 1 {
			t.Errorf("%v, %d taken", err, r.count())
		}
	})
}

// Telegraf keeps metrics that a failing program has not read, and writes them to the next one.
func TestStopReadsNoMoreThanItCanKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &steady{}
		r := &recorder{fails: func() error { return errors.New("no space left") }}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		err := feed(ctx, in, []telegraf.Output{r}, (&lines{}).log())
		if synctest.Wait(); err == nil || in.lines != 1 {
			t.Errorf("%v, %d lines read", err, in.lines)
		}
	})
}

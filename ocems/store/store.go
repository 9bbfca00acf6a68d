// Package store keeps the state of a host: keys in the order of their bytes, written in transactions that are on disk
// before they return. [Open] is one bbolt file; [NewMemory] forgets everything when the process ends.
package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// Store is what the engine and the outbox need of the state. It is safe for concurrent use.
type Store interface {
	// Get returns the value of a key, or nil when there is none. It is a read transaction and never syncs.
	Get(ctx context.Context, key string) ([]byte, error)
	// Range calls visit for each key that begins with prefix, in order, until visit returns an error, which it returns.
	// The value is valid until visit returns. What is written meanwhile, by visit too, it may find or not.
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	// Batch carries out all operations or none, durably before it returns. Concurrent batches share one sync.
	Batch(ctx context.Context, ops ...Op) error
	// Check sees that the next start will find what is stored, and mends it where it would not: because the file was
	// removed, renamed or replaced while the host ran. The error says what was found and done. As long as it cannot be
	// mended, Batch is refused. It is to be called every second or so.
	Check() error
}

// Op sets a key, or deletes it when Value is nil. A key has 1 to 32768 bytes.
type Op struct {
	Key   string
	Value []byte
}

// check finds what bbolt does not take, before it can make other batches fail.
func check(ops []Op) error {
	for _, op := range ops {
		if n := len(op.Key); n == 0 || n > bolt.MaxKeySize {
			return fmt.Errorf("a key of %d bytes: it must have 1 to %d", n, bolt.MaxKeySize)
		}
		if n := len(op.Value); n > bolt.MaxValueSize {
			return fmt.Errorf("key %q: a value of %d bytes: at most %d are possible", op.Key, n, bolt.MaxValueSize)
		}
	}
	return nil
}

// Memory is a [Store] that forgets everything when the process ends.
type Memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{m: map[string][]byte{}} }

var _ Store = (*Memory)(nil)

// Get implements [Store].
func (s *Memory) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.m[key]), nil
}

// Range implements [Store].
func (s *Memory) Range(_ context.Context, prefix string, visit func(key string, value []byte) error) error {
	found := map[string][]byte{}
	s.mu.Lock()
	for key, value := range s.m {
		if strings.HasPrefix(key, prefix) {
			found[key] = value
		}
	}
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if err := visit(key, found[key]); err != nil {
			return err
		}
	}
	return nil
}

// Batch implements [Store].
func (s *Memory) Batch(_ context.Context, ops ...Op) error {
	if err := check(ops); err != nil {
		return fmt.Errorf("writing the state in memory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		if op.Value == nil {
			delete(s.m, op.Key)
		} else {
			s.m[op.Key] = bytes.Clone(op.Value)
		}
	}
	return nil
}

// Check implements [Store].
func (s *Memory) Check() error { return nil }

// Forgets tells a Memory from a [Store] that another process finds again.
func (s *Memory) Forgets() {}

// Package store keeps the state of a host: keys ordered by their bytes, written in transactions that are on disk before
// they return. [Open] opens one bbolt file; [NewMemory] keeps the state in memory only.
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

// Store is what the engine and the outbox need from the state. It is safe for concurrent use.
type Store interface {
	// Get returns the value of a key, or nil if there is none. It is a read transaction and never syncs.
	Get(ctx context.Context, key string) ([]byte, error)
	// Range calls visit for each key with the prefix, in order. If visit returns an error, Range stops and returns it.
	// The value is valid until visit returns. Range may or may not see what is written meanwhile, also by visit.
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	// Batch carries out all operations or none, and returns when they are durable. Concurrent batches share one sync.
	Batch(ctx context.Context, ops ...Op) error
	// Check verifies that the next start will find the stored state. If the file was removed, renamed or replaced while
	// the host ran, Check repairs that. The error says what was found and done. Until the fault is repaired, Batch is
	// refused. Call Check about every second.
	Check() error
}

// Derived begins the keys of values that can be rebuilt from other entries. They are not recovered from a damaged file,
// because they may not agree with the rest.
const Derived = "index/"

// Op sets a key, or deletes it when Value is nil. A key has 1 to 32768 bytes.
type Op struct {
	Key   string
	Value []byte
}

// check finds operations that bbolt refuses, before they make other batches fail.
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

// Forgets marks a [Store] whose state is lost when the process ends.
func (s *Memory) Forgets() {}

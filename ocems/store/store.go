// Package store keeps the state of a host: keys in the order of their bytes, written in transactions that are on disk
// before they return. [Open] is one bbolt file; [NewMemory] forgets everything when the process ends.
package store

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Store is what the engine and the outbox need of the state. It is safe for concurrent use.
type Store interface {
	// Get returns the value of a key, or nil when there is none. It is a read transaction and never syncs.
	Get(ctx context.Context, key string) ([]byte, error)
	// Range calls visit for each key that begins with prefix, in order, until visit returns an error, which it returns.
	// The value is valid until visit returns.
	Range(ctx context.Context, prefix string, visit func(key string, value []byte) error) error
	// Batch carries out all operations or none, durably before it returns. Concurrent batches share one sync.
	Batch(ctx context.Context, ops ...Op) error
}

// Op sets a key, or deletes it when Value is nil.
type Op struct {
	Key   string
	Value []byte
}

// Memory is a [Store] that forgets everything when the process ends.
type Memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{m: map[string][]byte{}} }

// Get implements [Store].
func (s *Memory) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key], nil
}

// Range implements [Store].
func (s *Memory) Range(_ context.Context, prefix string, visit func(key string, value []byte) error) error {
	s.mu.Lock()
	m := maps.Clone(s.m)
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := visit(key, m[key]); err != nil {
			return err
		}
	}
	return nil
}

// Batch implements [Store].
func (s *Memory) Batch(_ context.Context, ops ...Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		if op.Value == nil {
			delete(s.m, op.Key)
		} else {
			s.m[op.Key] = slices.Clone(op.Value)
		}
	}
	return nil
}

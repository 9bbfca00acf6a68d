package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/ocems-io/ocems/ocems/store/place"
)

// Reasons why a file is not opened. The file stays unchanged.
var (
	ErrInUse = errors.New("it is in use by another process or component; stop that one, or give each a directory of its own")
	ErrNewer = errors.New("it was written by a newer version; use that version, or another directory")
	ErrOlder = errors.New("it was written by an earlier version; let that version deliver what waits in it, then move the file away")
)

// The entries have their own bucket, so that no key can collide with the format's. The format is where earlier versions
// look for theirs, so that they refuse this file instead of starting an empty state in it.
var (
	entriesBucket = []byte("state")
	formatBucket  = []byte("ocems")
	formatKey     = []byte("format")
)

// format must be raised when an earlier version cannot read what this one writes, and when the version of any value
// changes: an older value would count as damaged.
const format = 8

// olderBucket is the bucket of the collector's file_storage.
const olderBucket = "default"

// File is a [Store] in one bbolt file.
type File struct {
	path   string
	damage string
	copied string // directory of the copy, for a [Snapshot]

	open sync.RWMutex // guards handle, which Check replaces
	handle

	mu      sync.Mutex // guards waiting
	waiting []*batch
	write   sync.Mutex // its holder writes all waiting batches
	size    int64      // of the file at the last Check
	lost    error      // why Batch is refused

	unsynced bool // the last transaction is in effect, but may not be on disk
}

var _ Store = (*File)(nil)

// Open opens the file at path, or creates it with mode 0600 and its directory with mode 0700. The readable part of a
// damaged file goes into a new file in its place; see [File.Damage]. The error wraps [ErrInUse], [ErrNewer], [ErrOlder]
// or a system error; the file is then unchanged.
func Open(path string) (*File, error) {
	h, damage, err := openSound(path)
	f := &File{path: path, handle: h, damage: damage}
	if err == nil {
		if err = f.begin(); err != nil {
			err = errors.Join(err, h.db.Close())
		}
	}
	if cure := place.Cure(err); cure != "" {
		err = fmt.Errorf("%w; %s", err, cure)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the state %s: %w", path, err)
	}
	return f, nil
}

// openSound checks a file, repairs it if needed, and opens it.
func openSound(path string) (h handle, damage string, err error) {
	dir := filepath.Dir(path)
	if err := place.MakeDir(dir); err != nil {
		return h, "", err
	}
	info, missing := os.Stat(path)
	switch {
	case errors.Is(missing, fs.ErrNotExist):
	case missing != nil:
		return h, "", missing
	case !info.Mode().IsRegular(): // for example a directory, which would be kept aside as damaged
		return h, "", errors.New("it is not a regular file; name another file")
	case info.Size() == 0:
		damage = fmt.Sprintf("%s is empty: what it held is lost", path)
	default:
		found, err := look(path)
		if err == nil {
			err = found.refusal()
		}
		if err == nil && found.damage != nil {
			damage, err = replace(path, found.damage)
		}
		if err != nil {
			return h, "", err
		}
	}
	h, err = open(path, false)
	if err == nil && missing != nil {
		if err = place.SyncDir(dir); err != nil {
			_ = h.db.Close()
		}
	}
	if err = known(err); err != nil {
		if missing != nil && !errors.Is(err, ErrInUse) {
			_ = os.Remove(path) // the incomplete new file would count as damaged
		}
		return handle{}, "", err
	}
	return h, damage, nil
}

// begin writes the format into a file without one: a new file, or a damaged one that lost it.
func (f *File) begin() error {
	begun := false
	err := guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(formatBucket)
			begun = b != nil && b.Get(formatKey) != nil && tx.Bucket(entriesBucket) != nil
			return nil
		})
	})
	if err != nil || begun {
		return err
	}
	return f.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(formatBucket)
		if err != nil {
			return err
		}
		if err := b.Put(formatKey, []byte{format}); err != nil {
			return err
		}
		_, err = tx.CreateBucketIfNotExists(entriesBucket)
		return err
	})
}

// Damage says what [Open] found damaged, where the damaged file is kept and how many entries were recovered. For an
// intact file it is "".
func (f *File) Damage() string { return f.damage }

// Path is the path of the file.
func (f *File) Path() string { return f.path }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

// sealed appends to a value the checksum of key and value. bbolt has no checksum of entries, and a damaged key would
// count as another key.
func sealed(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(value), sum(key, value))
}

func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func unsealed(value []byte) []byte { return value[:max(len(value)-sumSize, 0)] }

func sound(key, value []byte) bool {
	n := len(value) - sumSize
	return n >= 0 && binary.BigEndian.Uint32(value[n:]) == sum(key, value[:n])
}

// Get implements [Store].
func (f *File) Get(_ context.Context, key string) (value []byte, err error) {
	err = f.view(func(b *bolt.Bucket) error {
		if v := b.Get([]byte(key)); v != nil {
			value = append([]byte{}, unsealed(v)...)
		}
		return nil
	})
	return value, err
}

// rangeBytes is how many bytes Range holds in memory.
const rangeBytes = 1 << 20

// Range implements [Store]. No transaction is open while visit runs: bbolt waits for the end of read transactions
// before it grows the file, so a Batch in visit would wait for ever.
func (f *File) Range(_ context.Context, prefix string, visit func(key string, value []byte) error) error {
	type entry struct {
		key   string
		value []byte
	}
	for from := []byte(prefix); from != nil; {
		var entries []entry
		err := f.view(func(b *bolt.Bucket) error {
			size := 0
			c := b.Cursor()
			k, v := c.Seek(from)
			for ; bytes.HasPrefix(k, []byte(prefix)) && k != nil && size < rangeBytes; k, v = c.Next() {
				entries = append(entries, entry{string(k), bytes.Clone(unsealed(v))})
				size += len(k) + len(v)
			}
			from = bytes.Clone(k) // nil after the last
			return nil
		})
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			if err := visit(e.key, e.value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *File) view(fn func(*bolt.Bucket) error) error {
	f.open.RLock()
	defer f.open.RUnlock()
	err := guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(entriesBucket)
			if b == nil {
				return nil
			}
			return fn(b)
		})
	})
	return f.failed("reading", err)
}

// batch is one call of Batch. The holder of File.write owns done and err.
type batch struct {
	ops  []Op
	done bool
	err  error
}

// Batch implements [Store]. The end of the context does not cancel it.
func (f *File) Batch(_ context.Context, ops ...Op) error {
	if err := check(ops); err != nil {
		return f.failed("writing", err)
	}
	if len(ops) == 0 {
		return nil
	}
	b := &batch{ops: ops}
	f.mu.Lock()
	f.waiting = append(f.waiting, b)
	f.mu.Unlock()

	f.write.Lock()
	defer f.write.Unlock()
	if !b.done { // else another call has written it together with its own
		f.mu.Lock()
		all := f.waiting
		f.waiting = nil
		f.mu.Unlock()
		f.commit(all)
	}
	return f.failed("writing", b.err)
}

// commit writes all batches in one transaction. If that fails, it writes each alone, the smallest first: on a full
// disk, deletions still succeed. It stops after the first failure, because bbolt reads the whole file after each one.
func (f *File) commit(all []*batch) {
	err := f.lost
	if err == nil {
		err = f.apply(all...)
	}
	if err != nil && f.lost == nil && len(all) > 1 {
		slices.SortStableFunc(all, func(a, b *batch) int { return cmp.Compare(a.size(), b.size()) })
		err = nil
		for _, b := range all {
			if err == nil {
				err = f.apply(b)
			}
			b.done, b.err = true, err
		}
		return
	}
	for _, b := range all {
		b.done, b.err = true, err
	}
}

func (b *batch) size() (n int) {
	for _, op := range b.ops {
		n += len(op.Value)
	}
	return n
}

func (f *File) apply(batches ...*batch) error {
	return f.update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(entriesBucket)
		for _, b := range batches {
			for _, op := range inOrder(b.ops) {
				var err error
				if op.Value == nil {
					err = bucket.Delete([]byte(op.Key))
				} else {
					err = bucket.Put([]byte(op.Key), sealed([]byte(op.Key), op.Value))
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// inOrder sorts operations by key; those of one key keep their order. bbolt then finds the next place near the last
// one.
func inOrder(ops []Op) []Op {
	byKey := func(a, b Op) int { return cmp.Compare(a.Key, b.Key) }
	if slices.IsSortedFunc(ops, byKey) {
		return ops
	}
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, byKey)
	return ops
}

// update is bbolt's Update with two differences. After a panic, bbolt would read the whole damaged file in a goroutine
// whose panic ends the process; update does not. A transaction whose last sync failed is in effect but may not be on
// disk: update makes it durable with an empty transaction before it writes anything else.
func (f *File) update(fn func(*bolt.Tx) error) error {
	return guard(func() error {
		if f.unsynced {
			if _, err := f.transact(func(*bolt.Tx) error { return nil }); err != nil {
				return err
			}
			f.unsynced = false
		}
		id, err := f.transact(fn)
		if err == nil || f.newest() != id {
			return err
		}
		_, err = f.transact(func(*bolt.Tx) error { return nil })
		f.unsynced = err != nil
		return err
	})
}

func (f *File) transact(fn func(*bolt.Tx) error) (id int, err error) {
	tx, err := f.db.Begin(true)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing is left to roll back after a commit
	id = tx.ID()
	if err := fn(tx); err != nil {
		return id, err
	}
	return id, tx.Commit()
}

// newest is the number of the last transaction in effect.
func (f *File) newest() (id int) {
	_ = f.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil })
	return id
}

// Check implements [Store]. The open file still has everything, so it is written again from there.
func (f *File) Check() error {
	f.write.Lock()
	defer f.write.Unlock()
	info, err := f.file.Stat()
	if err != nil {
		return f.failed("looking for", err)
	}
	if info.Size() < f.size {
		f.lost = errors.New("it was cut while the host ran: restart the host, which keeps what it can read")
		return f.failed("looking for", f.lost)
	}
	f.size = info.Size()
	f.lost = place.Lost(info, f.path)
	if err = f.lost; err != nil {
		kept, wrong := f.renew()
		if f.lost = wrong; wrong != nil {
			f.lost = fmt.Errorf("%w, and it cannot be written there again: %w", err, wrong)
			return f.failed("looking for", f.lost)
		}
		done := fmt.Sprintf("%v; the whole file is written there again, and nothing is lost", err)
		if kept != "" {
			done += "; the other file is kept as " + kept
		}
		err = place.Mended(done)
	}
	return f.failed("looking for", err)
}

// renew copies the open file to its path while nobody writes it, and continues with the copy.
func (f *File) renew() (kept string, err error) {
	if err := place.MakeDir(filepath.Dir(f.path)); err != nil {
		return "", err
	}
	fresh := f.path + ".anew"
	defer func() {
		if err != nil {
			_ = os.Remove(fresh)
		}
	}()
	to, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, io.NewSectionReader(f.file, 0, f.size))
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return "", err
	}
	h, err := open(fresh, false)
	if err != nil {
		return "", err
	}
	if kept, err = place.Take(fresh, f.path); err != nil {
		return "", errors.Join(err, h.db.Close())
	}
	old := f.db
	f.open.Lock()
	f.handle = h
	f.open.Unlock()
	_ = old.Close() // no longer in use
	return kept, nil
}

func (f *File) failed(doing string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fmt.Errorf("%s the state %s: it is closed", doing, f.path)
	case errors.Is(err, berrors.ErrDatabaseReadOnly):
		return fmt.Errorf("%s the state %s: this is a copy of it", doing, f.path)
	case err != nil:
		return fmt.Errorf("%s the state %s: %w", doing, f.path, err)
	}
	return nil
}

// Close closes the file when the batches in progress are written. A second Close does nothing.
func (f *File) Close() error {
	f.write.Lock()
	defer f.write.Unlock()
	err := f.db.Close()
	if f.copied != "" {
		err = errors.Join(err, os.RemoveAll(f.copied))
	}
	return err
}

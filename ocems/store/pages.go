package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
)

// The form of a file of bbolt: pages, each with a header, in the byte order of the machine. The first two are meta
// pages, of which the one with the higher transaction counts.
const (
	magic   = 0xED0CDAED
	version = 2

	branchPage, leafPage, metaPage, freelistPage = 0x01, 0x02, 0x04, 0x10
	pageHeader                                   = 16 // id 8, flags 2, count 2, overflow 4
	element                                      = 16 // of a branch: pos 4, ksize 4, pgid 8; of a leaf: flags 4, pos 4, ksize 4, vsize 4
	bucketEntry                                  = 0x01
	bucketHeader                                 = 16        // root 8, sequence 8
	noFreelist                                   = 1<<64 - 1 // of the meta page: it is not kept in the file
	maxMeta                                      = 64 << 10  // largest page size
)

var order = binary.NativeEndian

type reader struct {
	file     *os.File
	pageSize uint64
	pages    uint64 // the first page beyond those in use
	seen     map[uint64]bool
	free     map[uint64]bool
	entry    func(bucket, k, v []byte)
	fault    func(error) error
}

// read reads every page that can be reached, from the file and not from mapped memory, so that it may end anywhere. It
// hands the entries to entry, each bucket before its own with a nil key, and each damage to fault, after which it goes on
// beside it if that returns nil.
func read(path string, entry func(bucket, k, v []byte), fault func(error) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := &reader{file: file, seen: map[uint64]bool{}, free: map[uint64]bool{}, entry: entry, fault: fault}
	root, freelist, err := r.meta()
	if err != nil {
		return err
	}
	if info, err := file.Stat(); err != nil {
		return err
	} else if uint64(info.Size()) < r.pages*r.pageSize { // bbolt maps what there is, and reads free pages beyond it once they are used again
		if err := fault(fmt.Errorf("it ends before its %d pages do", r.pages)); err != nil {
			return err
		}
	}
	for id := range uint64(2) { // bbolt takes a meta page by its sum, and trips over its header later
		head := make([]byte, pageHeader)
		if _, err := file.ReadAt(head, int64(id*r.pageSize)); err != nil || order.Uint64(head) != id || order.Uint16(head[8:]) != metaPage {
			if err := fault(fmt.Errorf("page %d has a damaged header", id)); err != nil {
				return err
			}
		}
	}
	if freelist != noFreelist {
		if err := r.freelist(freelist); err != nil {
			if err := fault(err); err != nil {
				return err
			}
		}
	}
	return r.tree(root, nil, nil, nil)
}

func (r *reader) meta() (root, freelist uint64, err error) {
	head := make([]byte, pageHeader+64)
	err = errors.New("it has no valid meta page")
	var newest uint64
	take := func(at int64) {
		if _, e := r.file.ReadAt(head, at); e != nil {
			return
		}
		m := head[pageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:56])
		if order.Uint32(m) != magic || order.Uint32(m[4:]) != version || order.Uint64(m[56:]) != sum.Sum64() {
			return
		}
		if id := order.Uint64(m[48:]); err != nil || id > newest {
			newest, err = id, nil
			r.pageSize, root, freelist, r.pages = uint64(order.Uint32(m[8:])), order.Uint64(m[16:]), order.Uint64(m[32:]), order.Uint64(m[40:])
		}
	}
	take(0)
	for size := int64(512); size <= maxMeta; size *= 2 { // the second is one page on, and the first may not say how far that is
		take(size)
	}
	return root, freelist, err
}

// page reads a page with its overflow, which nothing else may be part of.
func (r *reader) page(id uint64) (text []byte, flags uint16, count int, err error) {
	head := make([]byte, pageHeader)
	if id < 2 || id >= r.pages {
		return nil, 0, 0, fmt.Errorf("page %d is not one of %d", id, r.pages)
	}
	if _, err := r.file.ReadAt(head, int64(id*r.pageSize)); err != nil {
		return nil, 0, 0, ended(id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || id+overflow >= r.pages {
		return nil, 0, 0, fmt.Errorf("page %d has a damaged header", id)
	}
	for n := id; n <= id+overflow; n++ {
		if r.seen[n] {
			return nil, 0, 0, fmt.Errorf("page %d is in use twice", n)
		}
		if r.seen[n] = true; r.free[n] {
			if err := r.fault(fmt.Errorf("page %d is in use and free", n)); err != nil {
				return nil, 0, 0, err
			}
		}
	}
	text = make([]byte, (overflow+1)*r.pageSize)
	if _, err := r.file.ReadAt(text, int64(id*r.pageSize)); err != nil {
		return nil, 0, 0, ended(id, err)
	}
	return text, order.Uint16(head[8:]), int(order.Uint16(head[10:])), nil
}

// ended keeps a file that is too short apart from a disk that does not read.
func ended(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("it ends before page %d does", id)
	}
	return fmt.Errorf("reading page %d: %w", id, err)
}

func (r *reader) freelist(id uint64) error {
	text, flags, count, err := r.page(id)
	if err != nil {
		return fmt.Errorf("the list of free pages: %w", err)
	}
	ids := text[pageHeader:]
	n := uint64(count)
	if count == 0xFFFF { // the count is the first of them
		n, ids = order.Uint64(ids), ids[8:]
	}
	if flags != freelistPage || n > uint64(len(ids)/8) {
		return fmt.Errorf("the list of free pages: page %d has a damaged header", id)
	}
	for i := range n {
		r.free[order.Uint64(ids[8*i:])] = true
	}
	return nil
}

// tree reads the pages from id down, whose keys must be from low on and below high. Buckets are in the tree of the file
// itself, where bucket is nil, and entries in theirs.
func (r *reader) tree(id uint64, bucket, low, high []byte) error {
	text, flags, count, err := r.page(id)
	if err != nil {
		return r.fault(err)
	}
	return r.elements(id, text, flags, count, bucket, low, high)
}

func (r *reader) elements(id uint64, text []byte, flags uint16, count int, bucket, low, high []byte) error {
	damaged := fmt.Errorf("page %d is damaged", id)
	if flags != leafPage && flags != branchPage || pageHeader+count*element > len(text) {
		return r.fault(damaged)
	}
	if count == 0 && (flags == branchPage || low != nil) { // bbolt takes an empty page out, unless it is a root
		return r.fault(damaged)
	}
	type item struct{ head, key, rest []byte }
	var items []item
	for i := range count {
		head := text[pageHeader+i*element:]
		pos, size := order.Uint32(head), order.Uint32(head[4:])
		if flags == leafPage {
			pos, size = order.Uint32(head[4:]), order.Uint32(head[8:])
		}
		end := uint64(pos) + uint64(size)
		if size == 0 || size > bolt.MaxKeySize || end > uint64(len(head)) || bytes.Compare(head[pos:end], low) < 0 || high != nil && bytes.Compare(head[pos:end], high) >= 0 ||
			len(items) > 0 && bytes.Compare(items[len(items)-1].key, head[pos:end]) >= 0 {
			if err := r.fault(damaged); err != nil {
				return err
			}
			continue
		}
		items = append(items, item{head, head[pos:end], head[end:]})
	}
	for i, x := range items {
		var err error
		if flags == branchPage {
			next := high
			if i+1 < len(items) {
				next = items[i+1].key
			}
			err = r.tree(order.Uint64(x.head[8:]), bucket, x.key, next)
		} else if size := uint64(order.Uint32(x.head[12:])); size > uint64(len(x.rest)) {
			err = r.fault(damaged)
		} else if isBucket := order.Uint32(x.head)&bucketEntry != 0; isBucket != (bucket == nil) {
			err = r.fault(damaged)
		} else if isBucket {
			r.entry(x.key, nil, nil)
			err = r.inBucket(id, x.key, x.rest[:size])
		} else {
			r.entry(bucket, x.key, x.rest[:size])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inBucket reads a bucket: a page of the file, or a small one within the value.
func (r *reader) inBucket(id uint64, bucket, value []byte) error {
	if len(value) >= bucketHeader {
		if root := order.Uint64(value); root != 0 {
			return r.tree(root, bucket, nil, nil)
		}
		if page := value[bucketHeader:]; len(page) >= pageHeader {
			return r.elements(id, page, order.Uint16(page[8:]), int(order.Uint16(page[10:])), bucket, nil, nil)
		}
	}
	return r.fault(fmt.Errorf("page %d is damaged", id))
}

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// The format of a bbolt file: pages, each with a header, in the byte order of the machine. The first two are meta
// pages; the one with the higher transaction is valid.
const (
	magic   = 0xED0CDAED
	version = 2

	branchPage, leafPage, metaPage, freelistPage = 0x01, 0x02, 0x04, 0x10
	pageHeader                                   = 16 // id 8, flags 2, count 2, overflow 4
	element                                      = 16 // of a branch: pos 4, ksize 4, pgid 8; of a leaf: flags 4, pos 4, ksize 4, vsize 4
	bucketEntry                                  = 0x01
	bucketHeader                                 = 16        // root 8, sequence 8
	noFreelist                                   = 1<<64 - 1 // in the meta page: the free list is not in the file
	maxMeta                                      = 64 << 10  // largest page size
)

var order = binary.NativeEndian

type reader struct {
	file     *os.File
	pageSize uint64
	pages    uint64          // first page beyond those in use
	used     map[uint64]bool // pages that were read, with their overflow
	began    map[uint64]bool // first pages that were read
	free     map[uint64]bool
	entry    func(bucket, k, v []byte) // its arguments are valid until it returns
	fault    func(error)
	buffer   []byte       // for the current page
	items    []item       // reused for leaf pages of entries
	lost     []span       // unreadable ranges
	leaves   map[int]bool // depths of leaves with entries: all leaves of a tree have the same depth
}

// item is a page's part of an entry, or of a reference to another page.
type item struct{ head, key, rest []byte }

// span is a range of the keys of a bucket, or of the bucket names if bucket is nil. If high is nil, it has no end.
type span struct {
	bucket, low, high []byte
	depth             int  // of the page
	hidden            bool // the page cannot be found, and may be intact
}

func (s span) has(key []byte) bool {
	return bytes.Compare(key, s.low) >= 0 && (s.high == nil || bytes.Compare(key, s.high) < 0)
}

// holds reports whether an entry may be in the lost range.
func (s span) holds(bucket, k []byte) bool {
	return s.bucket == nil && s.has(bucket) || bytes.Equal(s.bucket, bucket) && s.has(k)
}

// read reads every page that can be reached. It reads the file and not mapped memory, so that the file may end
// anywhere. It passes entries to entry, with each bucket first under a nil key. It passes damage to fault and
// continues. Lost entries are searched in the state before the last transaction, whose pages are not overwritten yet.
// An error means that nothing in the file is readable.
func read(path string, entry func(bucket, k, v []byte), fault func(error)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	newest, before, err := metaPages(file)
	if err != nil {
		return err
	}
	r := newest.reader(file, entry, fault)
	if info, err := file.Stat(); err != nil {
		return err
	} else if uint64(info.Size()) < r.pages*r.pageSize { // bbolt maps the existing part, and reads free pages beyond it when they are reused
		fault(fmt.Errorf("it is too short for its %d pages", r.pages))
	}
	for id := range uint64(2) { // bbolt checks a meta page by its sum only, and fails later because of its header
		head := make([]byte, pageHeader)
		if _, err := file.ReadAt(head, int64(id*r.pageSize)); err != nil || order.Uint64(head) != id || order.Uint16(head[8:]) != metaPage {
			fault(fmt.Errorf("page %d has a damaged header", id))
		}
	}
	if newest.freelist != noFreelist {
		if err := r.freelist(newest.freelist); err != nil {
			fault(err)
		}
	}
	r.tree(newest.root, span{})
	if len(r.lost) == 0 {
		return nil
	}
	if before == nil {
		before = newest
	}
	had := map[string]bool{}
	first := func(bucket, k []byte) bool {
		name := fmt.Sprintf("%q/%q", bucket, k)
		new := !had[name]
		had[name] = true
		return new
	}
	again := newest.reader(file, func(bucket, k, _ []byte) { first(bucket, k) }, func(error) {})
	again.tree(newest.root, span{})
	fill := func(lost []span) func(bucket, k, v []byte) {
		return func(bucket, k, v []byte) {
			if k == nil || slices.ContainsFunc(lost, func(s span) bool { return s.holds(bucket, k) }) && first(bucket, k) {
				entry(bucket, k, v)
			}
		}
	}
	old := before.reader(file, fill(r.lost), func(error) {})
	old.tree(before.root, span{})
	hidden := slices.DeleteFunc(slices.Clone(r.lost), func(s span) bool { return !s.hidden && s.bucket != nil && r.leaves[s.depth] })
	for id := uint64(2); id < r.pages && len(hidden) > 0; id++ { // pages that only a damaged page leads to, from all transactions whose pages remain
		if !r.used[id] && !old.used[id] {
			r.stray(id, fill(hidden))
		}
	}
	return nil
}

// stray reads a page to which no page leads, if it has entries.
func (r *reader) stray(id uint64, entry func(bucket, k, v []byte)) {
	head := make([]byte, pageHeader)
	if _, err := r.file.ReadAt(head, int64(id*r.pageSize)); err != nil || order.Uint64(head) != id || order.Uint16(head[8:]) != leafPage {
		return
	}
	s := *r
	s.entry, s.fault = entry, func(error) {}
	s.tree(id, span{bucket: entriesBucket})
}

// meta is the content of a meta page.
type meta struct{ pageSize, pages, root, freelist, transaction uint64 }

func (m *meta) reader(file *os.File, entry func(bucket, k, v []byte), fault func(error)) *reader {
	return &reader{file: file, pageSize: m.pageSize, pages: m.pages, used: map[uint64]bool{}, began: map[uint64]bool{}, free: map[uint64]bool{},
		leaves: map[int]bool{}, entry: entry, fault: fault}
}

// metaPages reads both meta pages. before is nil if only one is readable.
func metaPages(file *os.File) (newest, before *meta, err error) {
	err = errors.New("it has no valid meta page")
	for size := int64(256); size <= maxMeta; size *= 2 { // the second is one page after the first, which may not tell the page size
		at := size
		if size == 256 {
			at = 0
		}
		head := make([]byte, pageHeader+64)
		if _, e := file.ReadAt(head, at); e != nil {
			if !errors.Is(e, io.EOF) {
				err = fmt.Errorf("reading its beginning: %w", e)
			}
			continue
		}
		m := head[pageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:56])
		if order.Uint32(m) != magic || order.Uint32(m[4:]) != version || order.Uint64(m[56:]) != sum.Sum64() {
			continue
		}
		x := &meta{uint64(order.Uint32(m[8:])), order.Uint64(m[40:]), order.Uint64(m[16:]), order.Uint64(m[32:]), order.Uint64(m[48:])}
		if newest == nil || x.transaction > newest.transaction {
			newest, before = x, newest
		} else {
			before = x
		}
	}
	if newest != nil {
		err = nil
	}
	return newest, before, err
}

// page reads a page with its overflow, which no other page may use. The text is valid until the next page is read.
func (r *reader) page(id uint64) (text []byte, flags uint16, count int, err error) {
	if id < 2 || id >= r.pages {
		return nil, 0, 0, fmt.Errorf("page %d is not one of %d", id, r.pages)
	}
	if r.buffer == nil {
		r.buffer = make([]byte, r.pageSize)
	}
	head := r.buffer // usually the whole page
	n, err := r.file.ReadAt(head, int64(id*r.pageSize))
	if n < pageHeader {
		return nil, 0, 0, ended(id, err)
	}
	if r.began[id] {
		return nil, 0, 0, fmt.Errorf("page %d is in use twice", id)
	}
	r.began[id] = true
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || id+overflow >= r.pages {
		r.fault(fmt.Errorf("page %d has a damaged header", id))
		overflow = min(overflow, r.pages-1-id)
	}
	for n := id; n <= id+overflow; n++ {
		if r.used[n] {
			r.fault(fmt.Errorf("page %d is in use twice", n))
		}
		if r.used[n] = true; r.free[n] {
			r.fault(fmt.Errorf("page %d is in use and free", n))
		}
	}
	if text = head; overflow > 0 {
		text = make([]byte, (overflow+1)*r.pageSize)
		n, err = r.file.ReadAt(text, int64(id*r.pageSize))
	}
	if err != nil {
		r.fault(ended(id, err))
		text = text[:n]
	}
	return text, order.Uint16(head[8:]), int(order.Uint16(head[10:])), nil
}

// ended distinguishes a file that is too short from a read error of the disk.
func ended(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("it ends before the end of page %d", id)
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
	if count == 0xFFFF { // the first id is then the count
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

// tree reads the pages from id downwards, whose keys must be in a span. Buckets are in the tree of the file itself,
// with a span without bucket; entries are in the tree of their bucket.
func (r *reader) tree(id uint64, s span) {
	text, flags, count, err := r.page(id)
	if err != nil {
		r.fault(err)
		s.hidden = true
		r.lost = append(r.lost, s)
		return
	}
	if s.bucket == nil || flags != leafPage { // pages below are read before this text is done
		text = bytes.Clone(text)
	}
	r.elements(id, text, flags, count, s)
}

// elements reads a page. From a damaged page it takes all that can be verified: an entry by its checksum, and a page by
// its content.
func (r *reader) elements(id uint64, text []byte, flags uint16, count int, s span) {
	damaged := false
	damage := func() {
		if !damaged {
			r.fault(fmt.Errorf("page %d is damaged", id))
			r.lost = append(r.lost, s)
		}
		damaged = true
	}
	if flags != leafPage && flags != branchPage || count == 0 && (flags == branchPage || s.low != nil) { // bbolt removes empty pages, except roots
		damage()
	}
	place := func(i int) (head []byte, pos, size uint64) {
		head = text[pageHeader+i*element:]
		if flags == branchPage {
			return head, uint64(order.Uint32(head)), uint64(order.Uint32(head[4:]))
		}
		return head, uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[8:]))
	}
	room := max(len(text)-pageHeader, 0) / element
	if count > 0 && room > 0 { // the first key follows the last element
		if _, pos, _ := place(0); pos != uint64(count)*element {
			damage()
			count = max(count, int(min(pos/element, uint64(room))))
		}
	}
	if count > room {
		damage()
		count = room
	}
	var items []item
	if s.bucket != nil && flags == leafPage {
		items = r.items[:0]
	}
	var last []byte
	for i := range count {
		head, pos, size := place(i)
		if size == 0 || size > bolt.MaxKeySize || pos+size > uint64(len(head)) {
			damage()
			if flags == branchPage {
				items = append(items, item{head: head})
			}
			continue
		}
		x := item{head, head[pos : pos+size], head[pos+size:]}
		if !s.has(x.key) || i > 0 && bytes.Compare(last, x.key) >= 0 {
			damage()
		}
		last = x.key
		items = append(items, x)
	}
	if flags == branchPage {
		for i, x := range items {
			below := s
			below.depth++
			if !damaged {
				below.low = x.key
				if i+1 < len(items) {
					below.high = items[i+1].key
				}
			}
			r.tree(order.Uint64(x.head[8:]), below)
		}
		return
	}
	if !damaged && bytes.Equal(s.bucket, entriesBucket) {
		r.leaves[s.depth] = true
	}
	if s.bucket != nil {
		r.items = items
	}
	for _, x := range items {
		size, isBucket := uint64(order.Uint32(x.head[12:])), order.Uint32(x.head)&bucketEntry != 0
		switch {
		case size > uint64(len(x.rest)) || isBucket != (s.bucket == nil):
			damage()
		case isBucket:
			r.entry(x.key, nil, nil)
			r.inBucket(id, x.key, x.rest[:size])
		case bytes.Equal(s.bucket, entriesBucket) && !sound(x.key, x.rest[:size]):
			damage()
		default:
			r.entry(s.bucket, x.key, x.rest[:size])
		}
	}
}

// inBucket reads a bucket: a page of the file, or a small page inside the value.
func (r *reader) inBucket(id uint64, bucket, value []byte) {
	if len(value) >= bucketHeader {
		if root := order.Uint64(value); root != 0 {
			r.tree(root, span{bucket: bucket})
			return
		}
		if page := value[bucketHeader:]; len(page) >= pageHeader {
			r.elements(id, page, order.Uint16(page[8:]), int(order.Uint16(page[10:])), span{bucket: bucket})
			return
		}
	}
	r.fault(fmt.Errorf("page %d is damaged", id))
	r.lost = append(r.lost, span{bucket: bucket})
}

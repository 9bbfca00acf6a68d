package store

import bolt "go.etcd.io/bbolt"

// OpenBucket is [Open] for a caller that keeps a bucket and a format of its own, and mends as Open does.
//
// Deprecated: it serves the state of Telegraf's output until that is a [File].
func OpenBucket(path string) (db *bolt.DB, damage string, err error) {
	return openSound(path, func(*contents) error { return nil })
}

// SnapshotBucket is [Snapshot] of a file with another bucket.
//
// Deprecated: it serves what looks at such files until these are [File]s.
func SnapshotBucket(path, bucket string) (*File, error) {
	return snapshot(path, []byte(bucket), func(*contents) error { return nil })
}

package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ocems-io/ocems/ocems/store"
)

func set(key, value string) store.Op { return store.Op{Key: key, Value: []byte(value)} }

// keys returns the keys that Range visits, in its order.
func keys(t *testing.T, s store.Store, prefix string) (list []string) {
	require.NoError(t, s.Range(t.Context(), prefix, func(key string, value []byte) error {
		assert.NotNil(t, value, "%q", key)
		list = append(list, key)
		return nil
	}))
	return list
}

func TestStore(t *testing.T) {
	for _, kind := range []struct {
		name string
		open func(t *testing.T) (s store.Store, reopen func() store.Store)
	}{
		{"memory", func(*testing.T) (store.Store, func() store.Store) {
			s := store.NewMemory()
			return s, func() store.Store { return s }
		}},
		{"file", func(t *testing.T) (store.Store, func() store.Store) {
			path := filepath.Join(t.TempDir(), "made", "here", "state.db")
			f, err := store.Open(path)
			require.NoError(t, err)
			assert.Empty(t, f.Damage())
			t.Cleanup(func() { assert.NoError(t, f.Close()) })
			return f, func() store.Store {
				require.NoError(t, f.Close())
				f, err = store.Open(path)
				require.NoError(t, err)
				assert.Empty(t, f.Damage())
				return f
			}
		}},
	} {
		for _, test := range []struct {
			name string
			run  func(t *testing.T, s store.Store, reopen func() store.Store)
		}{
			{"get", func(t *testing.T, s store.Store, reopen func() store.Store) {
				require.NoError(t, s.Batch(t.Context(), set("a", "1"), set("empty", ""), set("b", "2"), set("b", "3"), set("c", "4"), store.Op{Key: "c"}))
				require.NoError(t, s.Batch(t.Context(), store.Op{Key: "absent"}))
				require.NoError(t, s.Batch(t.Context()))
				for range 2 {
					for key, want := range map[string][]byte{"a": []byte("1"), "empty": {}, "b": []byte("3"), "c": nil, "absent": nil} {
						got, err := s.Get(t.Context(), key)
						require.NoError(t, err)
						assert.Equal(t, want, got, key)
					}
					assert.Equal(t, []string{"a", "b", "empty"}, keys(t, s, ""))
					s = reopen()
				}
			}},
			{"a value is the reader's own", func(t *testing.T, s store.Store, _ func() store.Store) {
				written := []byte("value")
				require.NoError(t, s.Batch(t.Context(), store.Op{Key: "a", Value: written}))
				written[0] = 'V'
				got, err := s.Get(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, "value", string(got))
				got[0] = 'V'
				got, err = s.Get(t.Context(), "a")
				require.NoError(t, err)
				assert.Equal(t, "value", string(got))
			}},
			{"binary keys", func(t *testing.T, s store.Store, _ func() store.Store) {
				all := []string{"\x00", "\x00\x00", "a\xfe", "a\xff", "a\xff\x00", "a\xff\xff", "a\xff\xff\x01", "b", "\xff", "\xff\xff"}
				var ops []store.Op
				for i := len(all) - 1; i >= 0; i-- {
					ops = append(ops, set(all[i], ""))
				}
				require.NoError(t, s.Batch(t.Context(), ops...))
				assert.Equal(t, all, keys(t, s, ""))
				assert.Equal(t, all[:2], keys(t, s, "\x00"))
				assert.Equal(t, all[3:7], keys(t, s, "a\xff"))
				assert.Equal(t, all[5:7], keys(t, s, "a\xff\xff"))
				assert.Equal(t, all[8:], keys(t, s, "\xff"))
				assert.Empty(t, keys(t, s, "a\xff\xff\xff"))
			}},
			{"a key that cannot be", func(t *testing.T, s store.Store, _ func() store.Store) {
				for _, key := range []string{"", strings.Repeat("k", 32769)} {
					require.ErrorContains(t, s.Batch(t.Context(), set("a", "1"), set(key, "1")), "it must have 1 to 32768")
				}
				assert.Empty(t, keys(t, s, ""), "all or nothing")
				long := strings.Repeat("k", 32768)
				require.NoError(t, s.Batch(t.Context(), set(long, "1")))
				assert.Equal(t, []string{long}, keys(t, s, long))
			}},
			{"range over much", func(t *testing.T, s store.Store, _ func() store.Store) {
				var want []string
				for i := range 300 {
					want = append(want, fmt.Sprintf("many/%03d", i))
					require.NoError(t, s.Batch(t.Context(), set(want[i], strings.Repeat("v", i*100))))
				}
				require.NoError(t, s.Batch(t.Context(), set("many", ""), set("many0", "")))
				assert.Equal(t, want, keys(t, s, "many/"))
			}},
			{"visit ends a range", func(t *testing.T, s store.Store, _ func() store.Store) {
				require.NoError(t, s.Batch(t.Context(), set("a", ""), set("b", "")))
				stop, calls := errors.New("stop"), 0
				assert.Equal(t, stop, s.Range(t.Context(), "", func(string, []byte) error { calls++; return stop }))
				assert.Equal(t, 1, calls)
			}},
			{"visit writes", func(t *testing.T, s store.Store, _ func() store.Store) {
				for i := range 100 {
					require.NoError(t, s.Batch(t.Context(), set(fmt.Sprintf("old/%02d", i), "")))
				}
				require.NoError(t, s.Range(t.Context(), "old/", func(key string, _ []byte) error {
					return s.Batch(t.Context(), store.Op{Key: key}, set("new/"+key, strings.Repeat("v", 100_000))) // the file grows
				}))
				assert.Empty(t, keys(t, s, "old/"))
				assert.Len(t, keys(t, s, "new/"), 100)
			}},
			{"concurrent batches", func(t *testing.T, s store.Store, reopen func() store.Store) {
				const writers, writes = 16, 20
				var wg sync.WaitGroup
				for w := range writers {
					wg.Go(func() {
						for i := range writes {
							mine := fmt.Sprintf("%02d/%02d", w, i)
							if !assert.NoError(t, s.Batch(t.Context(), set("a/"+mine, mine), set("b/"+mine, mine), set("last", mine))) {
								return
							}
							got, err := s.Get(t.Context(), "b/"+mine)
							assert.NoError(t, err)
							assert.Equal(t, mine, string(got))
						}
					})
				}
				wg.Wait()
				s = reopen()
				assert.Len(t, keys(t, s, "a/"), writers*writes)
				assert.Len(t, keys(t, s, "b/"), writers*writes)
			}},
		} {
			t.Run(kind.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				s, reopen := kind.open(t)
				test.run(t, s, reopen)
			})
		}
	}
}

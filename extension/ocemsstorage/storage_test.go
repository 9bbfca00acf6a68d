package ocemsstorage_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/xconfmap"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ocems = component.MustNewID("ocems")

func load(values map[string]any) (component.Config, error) {
	cfg := ocemsstorage.NewFactory().CreateDefaultConfig()
	if err := confmap.NewFromStringMap(values).Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, xconfmap.Validate(cfg)
}

func create(t *testing.T, values map[string]any) (storage.Extension, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	factory := ocemsstorage.NewFactory()
	set := extension.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	set.Logger = zap.New(core)
	cfg, err := load(values)
	require.NoError(t, err)
	e, err := factory.Create(t.Context(), set, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, e.Shutdown(context.Background())) })
	return e.(storage.Extension), logs
}

func start(t *testing.T, dir string) (storage.Extension, *observer.ObservedLogs) {
	e, logs := create(t, map[string]any{"directory": dir})
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	return e, logs
}

func open(t *testing.T, e storage.Extension) storage.Client {
	c, err := e.GetClient(t.Context(), component.KindExporter, ocems, "")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close(context.Background())) })
	return c
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name   string
		values map[string]any
		want   string
	}{
		{"no directory", nil, "directory: not set; name a directory"},
		{"empty directory", map[string]any{"directory": ""}, "directory: not set; name a directory"},
		{"unknown key", map[string]any{"directory": "x", "folder": "x"}, "folder"},
		{"all", map[string]any{"directory": "x", "create_directory": false}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := load(test.values); test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
			}
		})
	}
}

func TestCreateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	e, _ := create(t, map[string]any{"directory": dir, "create_directory": false})
	require.ErrorContains(t, e.Start(t.Context(), componenttest.NewNopHost()), "create it, or set create_directory: true")
	e, _ = start(t, dir)
	open(t, e)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestClient(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	e, logs := start(t, dir)
	c := open(t, e)
	require.NoError(t, c.Set(ctx, "a", []byte("1")))
	require.NoError(t, c.Set(ctx, "nothing", nil))
	require.NoError(t, c.Set(ctx, "gone", []byte("1")))
	require.NoError(t, c.Delete(ctx, "gone"))
	require.NoError(t, c.Delete(ctx, "absent"))
	for range 2 {
		for key, want := range map[string][]byte{"a": []byte("1"), "nothing": {}, "gone": nil, "absent": nil} {
			got, err := c.Get(ctx, key)
			require.NoError(t, err)
			assert.Equal(t, want, got, key)
		}
		require.NoError(t, c.Close(ctx))
		require.NoError(t, c.Close(ctx))
		c = open(t, e)
	}

	// The operations of a batch are done in order, also gets.
	gets := []*storage.Operation{storage.GetOperation("a"), storage.GetOperation("a"), storage.GetOperation("b"), storage.GetOperation("a")}
	gets[2].Value = []byte("of before")
	require.NoError(t, c.Batch(ctx, gets[0], storage.SetOperation("a", []byte("2")), gets[1], gets[2], storage.DeleteOperation("a"), gets[3], storage.SetOperation("a", nil)))
	assert.Equal(t, [][]byte{[]byte("1"), []byte("2"), nil, nil}, [][]byte{gets[0].Value, gets[1].Value, gets[2].Value, gets[3].Value})
	require.ErrorContains(t, c.Batch(ctx, storage.SetOperation("b", nil), &storage.Operation{Key: "c", Type: 9}), `key "c": there is no operation type 9`)
	assert.Equal(t, []string{"a", "nothing"}, list(t, c, ""), "all or nothing")

	require.NoError(t, c.Close(ctx))
	require.ErrorContains(t, c.Set(ctx, "a", nil), "it is closed")
	assert.Empty(t, logs.All())
}

func list(t *testing.T, c any, prefix string) (keys []string) {
	r := c.(interface {
		Range(context.Context, string, func(string, []byte) error) error
	})
	require.NoError(t, r.Range(t.Context(), prefix, func(key string, _ []byte) error {
		keys = append(keys, key)
		return nil
	}))
	return keys
}

// A read that synced would write to the file first.
func TestReadsDoNotWrite(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	e, _ := start(t, dir)
	c := open(t, e)
	require.NoError(t, c.Set(ctx, "a", []byte("1")))
	name := filepath.Join(dir, "exporter_ocems_")
	before, err := os.ReadFile(name)
	require.NoError(t, err)
	_, err = c.Get(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, c.Batch(ctx, storage.GetOperation("a"), storage.GetOperation("b")))
	assert.Equal(t, []string{"a"}, list(t, c, ""))
	after, err := os.ReadFile(name)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

func TestEachComponentHasAFile(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	e, _ := start(t, dir)
	long := strings.Repeat("x", 250)
	names := []string{}
	for i, of := range []struct {
		kind     component.Kind
		id       component.ID
		name     string
		fileName string
	}{
		{component.KindExporter, ocems, "", "exporter_ocems_"},
		{component.KindProcessor, ocems, "", "processor_ocems_"},
		{component.KindExporter, component.MustNewIDWithName("ocems", "plant"), "", "exporter_ocems_plant"},
		{component.KindExporter, component.MustNewIDWithName("ocems", "plant"), "metrics", "exporter_ocems_plant_metrics"},
		{component.KindExporter, component.MustNewIDWithName("ocems", "../a~b/ü"), "", "exporter_ocems_..~002Fa~007Eb~002F~00FC"},
		{component.KindExporter, component.MustNewIDWithName("ocems", long), "", ""},
		{component.KindExporter, component.MustNewIDWithName("ocems", long+"y"), "", ""},
	} {
		c, err := e.GetClient(ctx, of.kind, of.id, of.name)
		require.NoError(t, err)
		require.NoError(t, c.Set(ctx, fmt.Sprint(i), nil))
		assert.Equal(t, []string{fmt.Sprint(i)}, list(t, c, ""))
		require.NoError(t, c.Close(ctx))
		if of.fileName != "" {
			names = append(names, of.fileName)
		}
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 7)
	for _, name := range names {
		assert.FileExists(t, filepath.Join(dir, name))
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	e, _ := start(t, dir)
	c := open(t, e)
	other, _ := start(t, dir) // like another process, because the lock belongs to the open file
	for _, e := range []storage.Extension{e, other} {
		_, err := e.GetClient(t.Context(), component.KindExporter, ocems, "")
		require.ErrorIs(t, err, store.ErrInUse)
		assert.ErrorContains(t, err, fmt.Sprintf("directory: opening the state %s: it is in use by another process or component; stop that one, or give each a directory", filepath.Join(dir, "exporter_ocems_")))
	}
	require.NoError(t, c.Close(t.Context()))
	open(t, other)
}

func TestEarlierVersionsFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "exporter_ocems_"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("default"))
		return err
	}))
	require.NoError(t, db.Close())
	e, _ := start(t, dir)
	_, err = e.GetClient(t.Context(), component.KindExporter, ocems, "")
	require.ErrorIs(t, err, store.ErrOlder)
}

func TestDamageIsLogged(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100+i) }
	e, logs := start(t, dir)
	c := open(t, e)
	for i := range 200 {
		require.NoError(t, c.Set(ctx, fmt.Sprintf("key/%03d", i), value(i)))
	}
	require.NoError(t, c.Close(ctx))
	assert.Empty(t, logs.All())

	name := filepath.Join(dir, "exporter_ocems_")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	for from := 0; ; { // every page that contains it, in use or free
		at := bytes.Index(text[from:], append([]byte("key/100"), value(100)...))
		if at < 0 {
			break
		}
		page := (from + at) / os.Getpagesize() * os.Getpagesize()
		copy(text[page+16:], bytes.Repeat([]byte{0xff}, 64))
		from = page + os.Getpagesize()
	}
	require.NoError(t, os.WriteFile(name, text, 0o600))

	e, logs = start(t, dir)
	c = open(t, e)
	told := logs.FilterLevelExact(zap.ErrorLevel).All()
	require.Len(t, told, 1)
	aside, err := filepath.Glob(name + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	assert.Contains(t, told[0].ContextMap()["damage"], aside[0])
	assert.Equal(t, "ocems", told[0].ContextMap()["component"])
	got := len(list(t, c, "key/"))
	assert.Greater(t, got, 100)
	assert.Less(t, got, 200)
	require.NoError(t, c.Set(ctx, "after", []byte("it still works")))
	require.NoError(t, c.Close(ctx))

	e, logs = start(t, dir)
	open(t, e)
	assert.Empty(t, logs.All(), "nothing is logged twice")
}

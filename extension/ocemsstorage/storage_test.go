package ocemsstorage_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ocems = component.MustNewID("ocems")

func load(t *testing.T, values map[string]any) *ocemsstorage.Config {
	cfg := ocemsstorage.NewFactory().CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(values).Unmarshal(cfg))
	require.NoError(t, xconfmap.Validate(cfg))
	return cfg.(*ocemsstorage.Config)
}

func start(t *testing.T, dir string) (storage.Extension, *observer.ObservedLogs, error) {
	core, logs := observer.New(zap.InfoLevel)
	factory := ocemsstorage.NewFactory()
	set := extension.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	set.Logger = zap.New(core)
	e, err := factory.Create(context.Background(), set, load(t, map[string]any{"directory": dir}))
	require.NoError(t, err)
	return e.(storage.Extension), logs, e.Start(context.Background(), componenttest.NewNopHost())
}

func open(t *testing.T, e storage.Extension) storage.Client {
	client, err := e.GetClient(context.Background(), component.KindExporter, ocems, "")
	require.NoError(t, err)
	return client
}

func end(t *testing.T, e storage.Extension, client storage.Client) {
	require.NoError(t, client.Close(context.Background()))
	require.NoError(t, e.Shutdown(context.Background()))
}

func TestDefaults(t *testing.T) {
	cfg := load(t, map[string]any{"directory": "/var/lib/ocems"})
	assert.True(t, cfg.FSync)
	dir := filepath.Join(t.TempDir(), "made", "here")
	e, _, err := start(t, dir)
	require.NoError(t, err)
	end(t, e, open(t, e))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestDamagedFileIsMended(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100+i) }
	e, logs, err := start(t, dir)
	require.NoError(t, err)
	client := open(t, e)
	for i := range 200 {
		require.NoError(t, client.Set(ctx, fmt.Sprintf("key/%03d", i), value(i)))
	}
	end(t, e, client)
	assert.Empty(t, logs.All())
	other := filepath.Join(dir, "audit.jsonl")
	require.NoError(t, os.WriteFile(other, []byte("no database"), 0o600))

	name := filepath.Join(dir, "exporter_ocems_")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	at := bytes.Index(text, append([]byte("key/100"), value(100)...)) / os.Getpagesize() * os.Getpagesize()
	copy(text[at+16:], bytes.Repeat([]byte{0xff}, 64))
	require.NoError(t, os.WriteFile(name, text, 0o600))

	e, logs, err = start(t, dir)
	require.NoError(t, err)
	told := logs.FilterLevelExact(zap.ErrorLevel).All()
	require.Len(t, told, 1)
	aside, err := filepath.Glob(name + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	assert.Contains(t, told[0].ContextMap()["damage"], aside[0])
	kept, err := os.ReadFile(aside[0])
	require.NoError(t, err)
	assert.Equal(t, text, kept)
	untouched, err := os.ReadFile(other)
	require.NoError(t, err)
	assert.Equal(t, "no database", string(untouched))

	client = open(t, e)
	got := 0
	for i := range 200 {
		v, err := client.Get(ctx, fmt.Sprintf("key/%03d", i))
		require.NoError(t, err)
		if v != nil {
			assert.Equal(t, value(i), v)
			got++
		}
	}
	assert.Greater(t, got, 100)
	assert.Less(t, got, 200)
	require.NoError(t, client.Set(ctx, "after", []byte("it works on")))
	end(t, e, client)

	e, logs, err = start(t, dir) // what was set aside is left alone, and nothing is told twice
	require.NoError(t, err)
	assert.Empty(t, logs.All())
	end(t, e, open(t, e))
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	e, _, err := start(t, dir)
	require.NoError(t, err)
	client := open(t, e)
	_, _, err = start(t, dir)
	require.ErrorContains(t, err, fmt.Sprintf("directory: %q is in use by another process; give each collector its own", dir))
	end(t, e, client)
}

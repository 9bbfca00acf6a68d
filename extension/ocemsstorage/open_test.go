package ocemsstorage_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/ocems-io/ocems/extension/ocemsstorage"
	"github.com/ocems-io/ocems/ocems/store"
)

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

// plain hands out clients that cannot list their keys.
type plain struct {
	component.Component
	closed bool
}

func (p *plain) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return &closing{storage.NewNopClient(), p}, nil
}

type closing struct {
	storage.Client
	of *plain
}

func (c *closing) Close(context.Context) error { c.of.closed = true; return nil }

func TestOpen(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	e, _ := start(t, dir)
	id := component.MustNewID("ocems_storage")
	h := host{id: e}
	s, err := ocemsstorage.Open(ctx, h, id, component.KindExporter, ocems)
	require.NoError(t, err)
	_, err = ocemsstorage.Open(ctx, h, id, component.KindExporter, ocems)
	require.ErrorIs(t, err, store.ErrInUse)
	assert.ErrorContains(t, err, `storage: opening "ocems_storage": directory: opening the state `)

	require.NoError(t, s.Batch(ctx, store.Op{Key: "a", Value: []byte{}}, store.Op{Key: "b", Value: []byte("1")}, store.Op{Key: "c", Value: []byte("1")}, store.Op{Key: "b"}))
	for key, want := range map[string][]byte{"a": {}, "b": nil, "c": []byte("1")} {
		got, err := s.Get(ctx, key)
		require.NoError(t, err)
		assert.Equal(t, want, got, key)
	}
	assert.Equal(t, []string{"a", "c"}, list(t, s, ""))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.Error(t, s.Batch(ctx, store.Op{Key: "a"}))
}

func TestOpenRefuses(t *testing.T) {
	e, _ := start(t, t.TempDir())
	other := &plain{}
	id := component.MustNewID
	h := host{id("ocems_storage"): e, id("file_storage"): other, id("network"): nil}
	for _, test := range []struct {
		storage component.ID
		host    host
		want    string
	}{
		{id("file_storage"), h, `storage: "file_storage" cannot list its keys; use an ocems_storage extension`},
		{id("network"), h, `storage: the extension "network" is not a storage extension; use an ocems_storage extension`},
		{id("ocems_storag"), h, `storage: there is no extension "ocems_storag" in service.extensions; nearest: ocems_storage, file_storage`},
		{id("ocems_storage"), host{}, `storage: there is no extension "ocems_storage"; add it to service.extensions`},
	} {
		s, err := ocemsstorage.Open(t.Context(), test.host, test.storage, component.KindExporter, ocems)
		require.EqualError(t, err, test.want)
		assert.Nil(t, s)
	}
	assert.True(t, other.closed)
}

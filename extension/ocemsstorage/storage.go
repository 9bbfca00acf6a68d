// Package ocemsstorage is the collector's extension of type `ocems_storage`: file_storage, which syncs each write and,
// before a component opens its file, mends that file if it is damaged. file_storage on its own ends the collector at a
// damaged page, at each start again; its `recreate` does not help there, since bbolt panics in a goroutine of its own.
package ocemsstorage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/boltfile"
)

// Config is that of file_storage. `fsync` and `create_directory` are on, and `directory_permissions` are 0700.
type Config struct {
	filestorage.Config `mapstructure:",squash"`
}

// NewFactory makes the factory of the extension `ocems_storage`.
func NewFactory() extension.Factory {
	inner := filestorage.NewFactory()
	defaults := func() component.Config {
		cfg := *inner.CreateDefaultConfig().(*filestorage.Config)
		cfg.FSync, cfg.CreateDirectory, cfg.DirectoryPermissions = true, true, "0700"
		return &Config{cfg}
	}
	create := func(ctx context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
		files := cfg.(*Config).Config
		log := set.Logger.WithOptions(zap.AddStacktrace(zap.DPanicLevel))
		set.ID = component.NewIDWithName(inner.Type(), set.ID.Name())
		e, err := inner.Create(ctx, set, &files)
		if err != nil {
			return nil, err
		}
		return &mender{e.(storage.Extension), files.Directory, log}, nil
	}
	return extension.NewFactory(component.MustNewType("ocems_storage"), defaults, create, component.StabilityLevelAlpha)
}

type mender struct {
	storage.Extension
	directory string
	log       *zap.Logger
}

// What file_storage calls the file of a component, and what is called after one.
var (
	ofComponent = regexp.MustCompile(`^(receiver|processor|exporter|extension|connector)_`)
	asideOrNew  = regexp.MustCompile(`\.(damaged-.*|new|backup)$`)
)

var bucket = []byte("default") // file_storage's

// Start mends what is damaged: no component has opened its file yet.
func (m *mender) Start(ctx context.Context, host component.Host) error {
	entries, err := os.ReadDir(m.directory)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !ofComponent.MatchString(e.Name()) || asideOrNew.MatchString(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		damage, err := boltfile.Mend(filepath.Join(m.directory, e.Name()), bucket)
		switch {
		case errors.Is(err, boltfile.ErrInUse):
			return fmt.Errorf("directory: %q is in use by another process; give each collector its own", m.directory)
		case err != nil:
			return fmt.Errorf("directory: looking through the storage of %s: %w", e.Name(), err)
		case damage != "":
			m.log.Error("the storage of a component was damaged: what can be read of it goes on", zap.String("damage", damage))
		}
	}
	return m.Extension.Start(ctx, host)
}

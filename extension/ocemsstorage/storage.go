// Package ocemsstorage is the collector's extension of type `ocems_storage`: the disk of the OCEMS exporter and processor.
// Each component has its own file, a [store.File], behind the collector's storage interface. The client also has Range, so
// that a component finds its data without its own list of keys. [Open] returns both.
package ocemsstorage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/ocems-io/ocems/ocems/store"
)

// Config is the extension's configuration.
type Config struct {
	// Directory contains one file per component.
	Directory string `mapstructure:"directory"`

	// CreateDirectory creates the directory, mode 0700, if it does not exist.
	CreateDirectory bool `mapstructure:"create_directory"`
}

// Validate implements xconfmap.Validator.
func (c *Config) Validate() error {
	if c.Directory == "" {
		return errors.New("directory: not set; name a directory on a disk that survives a restart, such as /var/lib/ocems/storage")
	}
	return nil
}

// NewFactory returns the factory of the extension `ocems_storage`.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("ocems_storage"),
		func() component.Config { return &Config{CreateDirectory: true} },
		func(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			// An error is about a file, so a stack trace does not help.
			return &files{*cfg.(*Config), set.Logger.WithOptions(zap.AddStacktrace(zap.DPanicLevel))}, nil
		},
		component.StabilityLevelAlpha,
	)
}

type files struct {
	cfg Config
	log *zap.Logger
}

var _ storage.Extension = (*files)(nil)

// Start implements component.Component.
func (e *files) Start(context.Context, component.Host) error {
	if e.cfg.CreateDirectory {
		return nil // the first file creates it
	}
	info, err := os.Stat(e.cfg.Directory)
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a directory")
	}
	if err != nil {
		return fmt.Errorf("directory: looking for %q: %w; create it, or set create_directory: true", e.cfg.Directory, err)
	}
	return nil
}

// Shutdown implements component.Component. The components close their own clients.
func (e *files) Shutdown(context.Context) error { return nil }

// GetClient implements storage.Extension.
func (e *files) GetClient(_ context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	file, err := store.Open(filepath.Join(e.cfg.Directory, FileName(kind, id, name)))
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	if damage := file.Damage(); damage != "" {
		e.log.Error("The storage of a component was damaged; it continues with the readable part", zap.Stringer("component", id), zap.String("damage", damage))
	}
	return &client{file}, nil
}

// maxName leaves space for the suffix of a damaged file's name, on file systems with a limit of 255 bytes.
const maxName = 200

// FileName returns the name of a component's file in the directory. It has the form that file_storage uses, so that the file
// of an earlier version is found and refused, not ignored.
func FileName(kind component.Kind, id component.ID, name string) string {
	raw := fmt.Sprintf("%s_%s_%s", strings.ToLower(kind.String()), id.Type(), id.Name())
	if name != "" {
		raw += "_" + name
	}
	var safe strings.Builder
	for _, c := range raw {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c) {
			safe.WriteRune(c)
		} else {
			fmt.Fprintf(&safe, "~%04X", c)
		}
	}
	if safe.Len() > maxName {
		sum := sha256.Sum256([]byte(safe.String()))
		return hex.EncodeToString(sum[:])
	}
	return safe.String()
}

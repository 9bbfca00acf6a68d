// Package version says which build of this project a program is: with --version, in status files, in the audit trail and
// to the server. It reads what the Go command has recorded in the program.
package version

import (
	"fmt"
	"runtime/debug"
	"strings"
)

const module = "github.com/ocems-io/ocems"

// stamp is "version,commit,date". The Makefile sets it where the main module is another one, a collector of the builder or
// Telegraf: what the Go command records there is about that module.
var stamp string

// Info is one build. Commit and Date are "" where they are not known.
type Info struct {
	Version string // of a release that of its tag, such as 1.2.3; "devel" where it is not known
	Commit  string
	Date    string // of the commit, RFC 3339
}

// Read returns the build of this program.
func Read() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return read(info, stamp)
}

func read(info *debug.BuildInfo, stamp string) Info {
	i := Info{Version: "devel"}
	if parts := strings.Split(stamp, ","); len(parts) == 3 {
		i.Commit, i.Date = parts[1], parts[2]
		i.set(parts[0])
		return i
	}
	for _, m := range info.Deps {
		if m.Path == module && m.Replace == nil {
			i.set(m.Version)
		}
	}
	if info.Main.Path != module {
		return i
	}
	i.set(info.Main.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.time":
			i.Date = s.Value
		}
	}
	return i
}

func (i *Info) set(version string) {
	if rest, ok := strings.CutPrefix(version, "v"); ok {
		i.Version = rest
	}
}

// String is what --version prints after a program's name.
func (i Info) String() string {
	if i.Commit == "" {
		return i.Version
	}
	return fmt.Sprintf("%s (commit %.12s, %s)", i.Version, i.Commit, i.Date)
}

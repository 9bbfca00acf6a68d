package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// takeAway removes, renames or replaces files of the running host, like a careless person or program. The host must log this
// and restore the files with all accepted readings. The judge allows no loss.
func (v *victim) takeAway(p *process) error {
	state, err := stateFiles(v.state)
	if err != nil {
		return err
	}
	told := filepath.Join(v.disk, "audit.jsonl")
	gone := filepath.Join(v.disk, fmt.Sprintf("gone-%d", time.Now().UnixNano())) // a life may lose several
	kinds := []struct {
		what  string
		files []string // must exist again
		do    func() error
	}{
		{"state files removed", state, func() error { return forEach(state, os.Remove) }},
		{"state files replaced", state, func() error { return forEach(state, replace) }},
		{"state directory renamed", state, func() error { return os.Rename(v.state, gone) }},
		{"state directory removed", state, func() error { return os.RemoveAll(v.state) }},
		{"trail removed", []string{told}, func() error { return os.Remove(told) }},
		{"trail renamed", []string{told}, func() error { return os.Rename(told, gone) }},
		{"trail replaced", []string{told}, func() error { return replace(told) }},
	}
	kind := kinds[v.choices.IntN(len(kinds))]
	before, err := v.log.Stat()
	if err != nil {
		return err
	}
	if err := kind.do(); err != nil {
		return err
	}
	v.events[kind.what]++
	v.feed(p, 20)
	err = until(15*time.Second, func() bool {
		there := forEach(kind.files, func(name string) error { _, err := os.Stat(name); return err }) == nil
		return p.dead() || there && v.says(before, "while the host ran")
	})
	if err != nil || p.dead() {
		return fmt.Errorf("%s: the host does not restore the files, or does not log it", kind.what)
	}
	return nil
}

// stateFiles returns the files of a host's state, without files that it has set aside and files that it writes for tools.
func stateFiles(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(d.Name(), ".replaced-") && !strings.Contains(d.Name(), ".status.json") {
			list = append(list, path)
		}
		return err
	})
	return list, err
}

func replace(name string) (err error) {
	_ = until(10*time.Second, func() bool { // the disk may have been full just now
		err = os.WriteFile(name+".other", []byte("other\n"), 0o600)
		return err == nil
	})
	if err != nil {
		return err
	}
	return os.Rename(name+".other", name)
}

func forEach(names []string, do func(string) error) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, do(name))
	}
	return errors.Join(errs...)
}

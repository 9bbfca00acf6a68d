//go:build !linux

package doctor

import "errors"

func volumeOf(string) (volume, error) { return volume{}, errors.New("available on Linux only") }

func ownerOf(string) (string, bool) { return "", false }

//go:build !unix

package registry

func noCore() {}

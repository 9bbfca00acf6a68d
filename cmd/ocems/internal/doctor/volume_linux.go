package doctor

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// fileSystems are those on which a state must not be kept, by the numbers of statfs(2).
var fileSystems = map[uint32][2]string{
	0x6969:     {"nfs", "a network file system may lose locks and syncs"},
	0xff534d42: {"cifs", "a network file system may lose locks and syncs"},
	0xfe534d42: {"smb2", "a network file system may lose locks and syncs"},
	0x517b:     {"smb", "a network file system may lose locks and syncs"},
	0x01021997: {"9p", "a network file system may lose locks and syncs"},
	0x5346414f: {"afs", "a network file system may lose locks and syncs"},
	0x00c36400: {"ceph", "a network file system may lose locks and syncs"},
	0x01021994: {"tmpfs", "it is in memory, and a restart of the machine loses all of it"},
	0x858458f6: {"ramfs", "it is in memory, and a restart of the machine loses all of it"},
	0x73717368: {"squashfs", "it is read-only"},
}

func volumeOf(dir string) (volume, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return volume{}, err
	}
	known := fileSystems[uint32(s.Type)]
	return volume{kind: known[0], unsafe: known[1], free: s.Bavail * uint64(s.Bsize)}, nil
}

// ownerOf is the name of a file's owner.
func ownerOf(path string) (string, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return "", false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false
	}
	if u, err := user.LookupId(strconv.Itoa(int(s.Uid))); err == nil {
		return u.Username, true
	}
	return fmt.Sprintf("#%d", s.Uid), true
}

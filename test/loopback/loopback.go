// Package loopback gives a test an address for a program that it starts.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// held are sockets that keep each address until this process ends.
var held struct {
	sync.Mutex
	list []net.PacketConn
}

// Free returns an address of this machine at which no program listens. Until this process ends, no outgoing connection gets
// it, since its port is below theirs, and no second call of Free, in any process: it is held by a socket for UDP. So a
// program may stop and listen again at its address.
func Free() (string, error) {
	for tries := 0; ; tries++ {
		free := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		err := hold(free)
		if err == nil || tries == 1000 {
			return free, err
		}
	}
}

// Addr is Free for a test.
func Addr(t testing.TB) string {
	t.Helper()
	free, err := Free()
	if err != nil {
		t.Fatal(err)
	}
	return free
}

func hold(free string) error {
	mine, err := net.ListenPacket("udp", free)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", free)
	if err != nil {
		mine.Close()
		return err
	}
	held.Lock()
	defer held.Unlock()
	held.list = append(held.list, mine)
	return l.Close()
}

package cluster

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
)

// Network gives each broker and worker its own address, in a network namespace behind a port of a bridge, so that it can be
// cut off. It needs root and Linux. With a nil Network all processes use the loopback.
type Network struct{ parts int }

// The bridge has the address of the board and the feeder. The addresses of brokers and workers follow.
const (
	bridge    = "ocems0"
	subnet    = "10.77.0."
	mostParts = 16
)

// NewNetwork makes the bridge in the network namespace of this process.
func NewNetwork() (*Network, error) {
	return &Network{}, ip("link set lo up", "link add "+bridge+" type bridge", "addr add "+subnet+"1/24 dev "+bridge, "link set "+bridge+" up")
}

// join gives a process its address.
func (n *Network) join(p *process) (host string, err error) {
	if n == nil {
		return "127.0.0.1", nil
	}
	n.parts++
	host = fmt.Sprint(subnet, 1+n.parts)
	p.in = []string{"ip", "netns", "exec", p.name}
	return host, ip("netns add "+p.name, "link add "+p.name+" type veth peer name eth0 netns "+p.name, "link set "+p.name+" master "+bridge+" up",
		"-n "+p.name+" addr add "+host+"/24 dev eth0", "-n "+p.name+" link set eth0 up", "-n "+p.name+" link set lo up")
}

// Cut cuts off the network of a process that has its own address.
func (p *process) Cut() error { return ip("link set " + p.name + " down") }

// Heal undoes Cut.
func (p *process) Heal() error { return ip("link set " + p.name + " up") }

func (n *Network) board() string {
	if n == nil {
		return "127.0.0.1"
	}
	return subnet + "1"
}

func (n *Network) addresses() []net.IP {
	list := []net.IP{net.IPv4(127, 0, 0, 1)}
	for i := range mostParts {
		list = append(list, net.ParseIP(fmt.Sprint(subnet, 1+i)))
	}
	return list
}

// ip runs commands of iproute2.
func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

package install_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// boot makes a machine in namespaces: a root under an overlay that takes all changes, no network but its own loopback, a
// /dev with nothing of this machine's, and systemd as its first process.
const boot = `
set -e
echo $$ >"$2/cgroup.procs"
exec unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child=KILL --propagation private sh -ec '
mount -t tmpfs tmpfs "$1" # an overlay does not stand on an overlay
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir="$4",upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for d in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $d; done
chmod 1777 tmp
mkdir dev/pts dev/shm tmp/host
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for d in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 dev/${d%:*} c 1 ${d#*:}; done
mknod -m 666 dev/tty c 5 0
mount --bind "$3" tmp/host
ip link set lo up
mkdir .old
pivot_root . .old
umount -l .old
mount --make-rshared / # as on any machine with systemd: credentials are mounted
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target
' sh "$@"
`

// machine is a machine in namespaces, in which a package can be installed and its services run.
type machine struct {
	t   *testing.T
	pid string // of its systemd
}

// newMachine gives one whose files are those of root, and in which dir is /tmp/host.
func newMachine(t *testing.T, root, dir string) *machine {
	if os.Geteuid() != 0 {
		t.Skip("only root can make the machine that the package is installed in")
	}
	for _, program := range []string{"unshare", "nsenter", "ip", "dpkg", "systemd-analyze"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not here", program)
		}
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	group := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			if group, err = os.MkdirTemp(f[1], "ocems-install-test-"); err != nil {
				t.Skipf("no group for the processes of the machine: %v", err)
			}
			break
		}
	}
	if group == "" {
		t.Skip("no cgroup2 is mounted here, which systemd wants")
	}
	var said bytes.Buffer
	base := t.TempDir()
	command := exec.Command("sh", "-c", boot, "sh", base, group, dir, root)
	command.Dir, command.Stdout, command.Stderr = base, &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			var groups []string
			_ = filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			for i := len(groups) - 1; i >= 0; i-- {
				_ = os.Remove(groups[i])
			}
			if _, err := os.Stat(group); err != nil {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%s cannot be removed", group)
				return
			}
		}
	})
	m := &machine{t: t}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Skipf("no machine can be made here: %v: %s", err, said.String())
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", command.Process.Pid))
		if f := strings.Fields(string(children)); len(f) > 0 {
			m.pid = f[0]
			if state, _ := m.try("systemctl", "is-system-running"); strings.Contains(state, "running") || strings.Contains(state, "degraded") {
				return m
			}
		}
		if time.Now().After(end) {
			t.Fatalf("systemd is not up within 30 s: %s", said.String())
		}
	}
}

// try runs a command in the machine.
func (m *machine) try(argv ...string) (string, error) {
	command := exec.Command("nsenter", append([]string{"--target", m.pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, argv...)...)
	out, err := command.CombinedOutput()
	return string(out), err
}

func (m *machine) run(argv ...string) string {
	m.t.Helper()
	out, err := m.try(argv...)
	if err != nil {
		m.t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return out
}

func (m *machine) sh(script string) string {
	m.t.Helper()
	return m.run("sh", "-ec", script)
}

func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			journal, _ := m.try("journalctl", "-n", "60", "--no-pager")
			m.t.Fatalf("not within 60 s: %s\n%s", what, journal)
		}
	}
}

// property is a property of a unit, as systemctl show prints it.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "-p", name, unit))
}

func (m *machine) mainPID(unit string) int {
	pid, err := strconv.Atoi(m.property(unit, "MainPID"))
	if err != nil {
		m.t.Fatal(err)
	}
	return pid
}

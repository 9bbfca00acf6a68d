#!/bin/sh
# Makes the two images of a platform from its directory of programs: make images. They have no base image and no shell. crane
# needs a registry between its steps: it uses its own, in memory, on this machine only.
set -eu
cd "$(dirname "$0")/../.."
programs=$1
crane=bin/tools/crane
platform=$GOOS/$GOARCH
[ "$GOARCH" != arm ] || platform=$platform/v7
work=$(mktemp -d)
mkfifo "$work/log"
$crane registry serve --address 127.0.0.1:0 2>"$work/log" &
exec 3<"$work/log"
trap 'kill $!; rm -rf "$work"' EXIT
registry=
while [ -z "$registry" ] && read -r line <&3; do
	case $line in *"serving on"*) registry=127.0.0.1:${line##*[ :]} ;; esac
done

image() { # image NAME CONFIGURATION COMMAND...
	name=$1 config=$2
	shift 2
	root=$work/$name
	mkdir -p "$root/usr/bin" "$root/etc/ocems/tokens" "$root/etc/ssl/certs" "$root/usr/share/doc/ocems" "$root/var/lib/ocems" "$root/tmp"
	install "$programs/ocems" "$programs/$name" "$root/usr/bin"
	install -m 644 "examples/install/etc/$config" "$root/etc/ocems"
	install -m 644 bin/tools/ca-certificates.crt "$root/etc/ssl/certs"
	install -m 644 LICENSE "$root/usr/share/doc/ocems"
	chmod 755 "$root"
	chmod 1777 "$root/tmp"
	chmod 700 "$root/var/lib/ocems"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="$DATE" --exclude=./var/lib/ocems -C "$root" -cf "$work/layer.tar" .
	tar --owner=65532 --group=65532 --numeric-owner --mtime="$DATE" -C "$root" -rf "$work/layer.tar" ./var/lib/ocems
	$crane append --oci-empty-base -f "$work/layer.tar" -t "$registry/$name"
	$crane mutate "$registry/$name" --set-platform "$platform" --user 65532:65532 --workdir /var/lib/ocems \
		--label "org.opencontainers.image.source=https://github.com/ocems-io/ocems" --label "org.opencontainers.image.version=$VERSION" \
		--label org.opencontainers.image.licenses=Apache-2.0 \
		--entrypoint "/usr/bin/$name" --cmd "$(IFS=,; echo "$*")" \
		-t "ocems/$name:$VERSION" -o "dist/packages/$name-$VERSION-$GOOS-$ARCH.image.tar"
}

mkdir -p dist/packages
image otelcol-ocems collector.yaml --config /etc/ocems/collector.yaml
image telegraf-ocems telegraf.conf --strict-env-handling --config /etc/ocems/telegraf.conf

#!/bin/sh
# dpkg says `remove` or `upgrade`, rpm how many versions stay.
set -e
case $1 in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now otelcol-ocems.service telegraf-ocems.service
	fi
	;;
esac

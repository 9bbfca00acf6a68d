#!/bin/sh
# /var/lib/ocems stays, even at a purge: it holds what was not sent yet and the account of what was.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi

#!/bin/sh
# Of both packages. Nothing is enabled or started: first comes the configuration. After an upgrade what ran runs again, as
# the new version; a stop costs no slot.
set -e
systemd-sysusers /usr/lib/sysusers.d/ocems.conf
# A file of the directory belongs to its group, whoever makes it.
chgrp ocems /etc/ocems/tokens
chmod 2750 /etc/ocems/tokens
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart otelcol-ocems.service telegraf-ocems.service
fi

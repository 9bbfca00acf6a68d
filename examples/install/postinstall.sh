#!/bin/sh
# For both packages. It enables and starts nothing, because the configuration comes first. After an upgrade, a service that ran
# runs again with the new version. A stop loses no slot.
set -e
systemd-sysusers /usr/lib/sysusers.d/ocems.conf
# A new file gets the group of the directory, whichever user creates it.
chgrp ocems /etc/ocems/tokens
chmod 2750 /etc/ocems/tokens
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart otelcol-ocems.service telegraf-ocems.service
fi

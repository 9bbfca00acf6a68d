#!/bin/sh
# Plays an analyser: prints a reading of now, or with --hour the readings of the last hour.
reading() { # reading SECONDS
	i=$(($1 / 10 % 90))
	echo "etp_analyser cod=$((100 + i / 5)).$((i % 5))5,bod=14.$((i % 10)),ph=7.$((i / 10)) $1000000000"
}
now=$(date +%s)
[ "${1:-}" != --hour ] || for i in $(seq 360 -1 1); do reading $((now - 10 * i)); done
reading "$now"

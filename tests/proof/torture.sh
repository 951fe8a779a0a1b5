#!/usr/bin/env bash
# All that the command line can do, under fire: runs of all kinds on few keys, at random,
# killed, stopped and continued, in waves, for two minutes or an hour. What is judged, and
# by what means, is told at the head of torture.c. SEED repeats all choices.
#
#	torture.sh [quick|long] [OPTION...]
#
#   TORTURE_SECONDS   for so long
#   TORTURE_SLACK     how many times slower than usual it may be, as under a sanitizer

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"

seconds=${TORTURE_SECONDS:-$([ "$size" = quick ] && echo 115 || echo 3600)}
compile torture tests/proof/torture.c
export KEYLOCK_DIR=$work/keys TMPDIR=$work

# A cleaner that goes about as systemd-tmpfiles(8) does, to whom all is old here: what is
# sticky is passed over, an empty folder goes.
while sleep 0.02; do
	find "$KEYLOCK_DIR" -type f ! -perm -1000 -delete
	rmdir "$KEYLOCK_DIR"
done 2>/dev/null &
cleaner=$!
at_end() { kill "$cleaner"; }

# What all that is played has: files of the judge, a pipe that nobody reads any more.
mkfifo "$work/pipe"
exec 200<>"$work/judge" 201<>"$work/witness" 202<>"$work/pipe" 203>&1
head -c 65536 /dev/zero >&202
ulimit -c 0

# The file system that never answers is mounted where nobody else sees it.
torture=("$work/torture" -s "$seed" "$@" "$keylock" "$seconds")
if [ -c /dev/fuse ] && unshare -m true 2>/dev/null; then
	compile deadfuse tests/tools/deadfuse.c
	mkdir "$work/dead"
	# shellcheck disable=SC2016
	torture=(unshare -m bash -c '
		"$0/deadfuse" "$0/dead" >"$0/said" & fuse=$!
		until [ -s "$0/said" ] || ! kill -0 "$fuse"; do sleep 0.01; done
		TORTURE_DEAD=$0/dead "$@"
		status=$?
		kill "$fuse"
		exit "$status"' "$work" "${torture[@]}")
else
	echo 'torture: without a file system that never answers'
fi
"${torture[@]}" >/dev/null 2>&1

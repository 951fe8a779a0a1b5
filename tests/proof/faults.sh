#!/usr/bin/env bash
# What keylock does when the system fails it, call by call:
#
#	faults.sh [quick|long [SCENARIO...]]
#
# Every system call that keylock makes, in each of some fifty ways to run it (taken
# and free keys, -s, -F, -j, -k, -A, -R, -r, --hold, --list, --pin and so on), is
# made to fail by strace, one after the other, with the errors of its manual page
# (once, and from then on) and with storms of EINTR; reads and writes are cut short;
# and SIGKILL, SIGTERM and SIGTSTP come at it. Each time
#
#  - the outcome is a right result or a line that says why, with a right status: never
#    silence, never a wrong 0, never a wait without end;
#  - the command never runs without its lock: another process sees so by flock(2);
#  - the key is free afterwards: the next run with -n gets it, and leaves no file;
#  - a record of -A or -R is there where the command did not end by itself, and
#    one that stays says so.
#
# quick has a few of these faults, by the seed that it prints; with SCENARIOs, all of one
# error at each call, in rotation; long has all errors. What the real thing can do (a full
# file system, limits, old kernels) is in refused.bats.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"

python=/usr/bin/python3
[ -x "$python" ] || python=python3
needs strace "$python"
if ! strace -o /dev/null true 2>/dev/null; then
	echo 'faults: skipped: strace may not trace here'
	exit 0
fi
compile witness tests/proof/witness.c
cp "$keylock" "$work/keylock" || exit 1
SEED=$seed "$python" tests/proof/faults.py "$size" "$work/keylock" "$work/witness" "$work/run" "$@"

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
#  - the outcome is a right result or one clear line with the right status: never
#    silence, never a wrong 0, never a wait without end;
#  - the command never runs without its lock: another process sees so by flock(2);
#  - the key is free afterwards: the next run with -n gets it, and leaves no file;
#  - a record of -A or -R is there where the command did not end by itself, and
#    one that stays says so.
#
# quick has at each call one of its errors, in rotation; long has all of them. The
# scenarios, the table of errors and what counts as right are in faults.py. What the
# real thing can do (a full file system, limits, old kernels) is in refused.bats.
#
# The last line has the figures. KEYLOCK names another binary.

set -u
cd "$(dirname "$0")/../.." || exit 1
unset KEYLOCK_DIR KEYLOCK_KEY KEYLOCK_ABANDONED

size=${1:-quick}
[ $# -eq 0 ] || shift
case $size in
quick | long) ;;
*)
	echo 'usage: faults.sh [quick|long [SCENARIO...]]' >&2
	exit 64
	;;
esac
python=/usr/bin/python3
[ -x "$python" ] || python=python3
for tool in strace "$python"; do
	command -v "$tool" >/dev/null || {
		echo "faults: skipped: needs $tool"
		exit 0
	}
done
if ! strace -o /dev/null true 2>/dev/null; then
	echo 'faults: skipped: strace may not trace here'
	exit 0
fi
keylock=${KEYLOCK:-./keylock}
[ -x "$keylock" ] || make -s keylock || exit 1

# On tmpfs where there is one: fsync(2) of a disk takes its time.
base=/dev/shm
[ -w "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/keylock-faults.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
"${CC:-cc}" -std=c11 -D_GNU_SOURCE= -O1 -static -o "$work/witness" tests/proof/witness.c 2>/dev/null ||
	"${CC:-cc}" -std=c11 -D_GNU_SOURCE= -O1 -o "$work/witness" tests/proof/witness.c || exit 1
cp "$keylock" "$work/keylock" || exit 1
"$python" tests/proof/faults.py "$size" "$work/keylock" "$work/witness" "$work/run" "$@"

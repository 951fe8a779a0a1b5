#!/usr/bin/env bash
# What keylock does when the system fails it, call by call: faults.py says what is shown.
#
#	faults.sh [quick|long [SCENARIO...]]
#
# quick has a few of the faults, by the seed that it prints; with SCENARIOs, all of one
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

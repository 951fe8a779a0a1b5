#!/usr/bin/env bash
#
# torture.sh [quick|long] [OPTION...] - all that the command line can do, under fire
#
# Runs of all kinds on few keys, at random, killed, stopped and continued, in waves:
# 60,000 runs, or 1,000,000. What is judged, and by what means, is told at the head of
# tests/proof/torture.c; so are its OPTIONs, as -s SEED, which repeats all choices. The
# first fault ends it, and is shown with the fewest runs that still have it. Ends with a
# line of figures.
#
#   KEYLOCK         the binary (default: the one beside tests/)
#   TORTURE_SLACK   how many times slower than usual it may be, as under a sanitizer

set -u
cd "$(dirname "$0")/../.." || exit 1
case ${1:-quick} in
quick) runs=60000 ;;
long) runs=1000000 ;;
*)
	echo 'usage: torture.sh [quick|long] [OPTION...]' >&2
	exit 64
	;;
esac
[ $# -eq 0 ] || shift
keylock=${KEYLOCK:-$PWD/keylock}
[ -x "$keylock" ] || {
	echo "torture: $keylock: no such program; run make first" >&2
	exit 1
}

# On tmpfs where there is one, as /run is.
base=/dev/shm
[ -d "$base" ] && [ -w "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/torture.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# A static one starts sooner, as so many of them do.
cc -O2 -static -o "$work/torture" tests/proof/torture.c 2>/dev/null ||
	cc -O2 -o "$work/torture" tests/proof/torture.c || exit
KEYLOCK_DIR=$work/keys TMPDIR=$work "$work/torture" "$@" "$keylock" "$runs"

#!/usr/bin/env bash
#
# torture.sh [quick|long] - alone, in turn, no debris, crash-honest, under fire
#
# Contenders of all kinds on few keys, killed, stopped and continued at random, in
# waves: 100,000 runs, or 1,000,000. What is judged, and by what means, is told at
# the head of tests/proof/torture.c. Ends with a line of figures, which has the seed; the
# order in which the kernel runs the processes is not repeated by it.
#
#   KEYLOCK   the binary (default: the one beside tests/)

set -u
cd "$(dirname "$0")/../.." || exit 1
case ${1:-quick} in
quick) runs=100000 ;;
long) runs=1000000 ;;
*)
	echo 'usage: torture.sh [quick|long]' >&2
	exit 64
	;;
esac
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

# A static one starts sooner, as 100,000 of them do.
cc -O2 -static -o "$work/torture" tests/proof/torture.c 2>/dev/null ||
	cc -O2 -o "$work/torture" tests/proof/torture.c || exit
KEYLOCK_DIR=$work/keys TMPDIR=$work "$work/torture" "$keylock" "$runs"

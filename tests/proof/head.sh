# shellcheck shell=bash disable=SC2034
# What the proofs begin with, sourced with their arguments: "size" is quick or long, and
# is taken off them; "seed" is of what is drawn, SEED where it is set, else always the same
# one in quick, so that it fails by what was changed alone; "name" is the proof's; "keylock" is the binary (KEYLOCK, or the one
# beside tests/), "work" a folder on tmpfs where one lets programs run, that is removed
# at the end, after what `at_end` does. A proof says in its last line what it found.

set -u
cd "$(dirname "$0")/../.." || exit 1
exec </dev/null
unset KEYLOCK_DIR KEYLOCK_KEY KEYLOCK_ABANDONED
export LC_ALL=C

name=$(basename "$0" .sh)
size=${1:-quick}
[ $# -eq 0 ] || shift
[[ $size =~ ^(quick|long)$ ]] || {
	echo "usage: $name.sh [quick|long] [ARGUMENT...]" >&2
	exit 64
}

seed=${SEED:-901}
[ "$size" = quick ] || seed=${SEED:-$(date +%s)}

keylock=${KEYLOCK:-$PWD/keylock}
[ -x "$keylock" ] || make -s keylock || exit 1
# The suites take KEYLOCK for the binary that they test.
unset KEYLOCK

at_end() { :; }
for base in /dev/shm "${TMPDIR:-/tmp}"; do
	work=$(mktemp -d "$base/$name.XXXXXX") && cp /bin/true "$work" && "$work/true" && break
	rm -rf "$work"
	work=
done 2>/dev/null
[ -n "$work" ] || exit 1
chmod 755 "$work"
trap 'at_end; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# needs TOOL...: skips the proof where one of them is not there; "root" is who runs it.
needs() {
	local tool
	for tool; do
		if [ "$tool" = root ] && [ "$(id -u)" = 0 ]; then
			continue
		fi
		command -v "$tool" >/dev/null || {
			echo "$name: skipped: needs $tool"
			exit 0
		}
	done
}

# compile NAME FILE: a C program of the tests, static where it can be, since it starts sooner.
compile() {
	cc -std=c11 -D_GNU_SOURCE= -O2 -static -o "$work/$1" "$2" 2>/dev/null ||
		cc -std=c11 -D_GNU_SOURCE= -O2 -o "$work/$1" "$2" || exit
}

# suites BINARY FILE...: those suites with that keylock, what failed to standard output;
# the number of tests that passed to "passed".
suites() {
	local binary=$1 jobs=() status=0
	shift
	! parallel --version 2>/dev/null | grep -q GNU || jobs=(--jobs 4 --no-parallelize-within-files)
	KEYLOCK=$binary KEYLOCK_TEST_LIMIT=240 bats ${jobs[@]+"${jobs[@]}"} "$@" >"$work/bats.log" 2>&1 ||
		status=1
	passed=$(grep '^ok' "$work/bats.log" | grep -vc '# skip')
	[ "$status" -eq 0 ] || sed -n '/^not ok/,/^ok/p' "$work/bats.log" | grep -v '^ok' | head -n 100
	return "$status"
}

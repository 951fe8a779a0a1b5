#!/usr/bin/env bash
# The longer proofs, each of which prints a line of figures:
#
#	proof.sh [quick|long] [PART...]
#
# PARTs: torture (contenders killed and stopped at random), mutants (keylocks that
# were broken on purpose, each of which must be found out), model (the protocol's
# model), guard (system calls and instructions of the plain path). Without one: all
# of them. Ends with "N passed, N failed" and fails when anything failed.

set -u
cd "$(dirname "$0")/.." || exit 1
unset KEYLOCK_DIR KEYLOCK_KEY

size=${1:-quick}
[ $# -eq 0 ] || shift
case $size in
quick) runs=100000 ;;
long) runs=1000000 ;;
*)
	echo "usage: proof.sh [quick|long] [torture|mutants|model|guard]..." >&2
	exit 64
	;;
esac
[ $# -gt 0 ] || set -- torture mutants model guard

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

verdict() {
	if [ "$1" -eq 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $2"
	fi
}

build_driver() {
	[ -x "$work/torture" ] || cc -O2 -o "$work/torture" tests/torture.c
}

# torture KEYLOCK RUNS [PARALLEL]: on tmpfs where there is one.
torture() {
	local base=/dev/shm dir status=0
	[ -w "$base" ] || base=$work
	dir=$(mktemp -d "$base/keylock-proof.XXXXXX") || return
	KEYLOCK_DIR=$dir/d TMPDIR=$dir "$work/torture" "$@" || status=$?
	rm -rf "$dir"
	return "$status"
}

# test_of KEYLOCK FILE PATTERN: the bats tests of a file whose names match.
test_of() {
	KEYLOCK=$1 bats --filter "$3" "tests/$2.bats" >"$work/bats.log" 2>&1
}

# mutant NAME SUBSTITUTION DETECTOR...: builds keylock.c with that change (perl's,
# over lines) and passes when one of the detectors, run with it, fails.
mutant() {
	local name=$1 change=$2 binary=$work/keylock.$1 detector
	shift 2
	perl -0pe "$change" keylock.c >"$work/$name.c"
	if cmp -s keylock.c "$work/$name.c"; then
		echo "mutant $name: the change does not fit the source any more"
		verdict 1 "mutant $name"
		return
	fi
	if ! cc -O1 -std=c11 -w -o "$binary" "$work/$name.c"; then
		verdict 1 "mutant $name does not build"
		return
	fi
	for detector; do
		# shellcheck disable=SC2086 # a detector is a line of words
		if ! eval "${detector//KEYLOCK/\"$binary\"}" >"$work/$name.log" 2>&1; then
			echo "mutant $name: found out by $detector"
			verdict 0
			return
		fi
	done
	echo "mutant $name: not found out"
	verdict 1 "mutant $name"
}

# What finds the mutants out finds nothing in keylock itself.
control() {
	local detector status=0
	for detector; do
		# shellcheck disable=SC2086
		if ! eval "${detector//KEYLOCK/"$PWD/keylock"}" >"$work/control.log" 2>&1; then
			echo "control: keylock itself is found out by $detector"
			cat "$work/control.log" "$work/bats.log" 2>/dev/null
			status=1
		fi
	done
	[ "$status" -ne 0 ] || echo "control: keylock itself passes what finds the mutants out"
	verdict "$status" control
}

mutants() {
	build_driver || return 1
	control "test_of KEYLOCK waiting 'replaced|200 waiters|stream of arrivals'" \
		"test_of KEYLOCK lifetime 'stays taken|nobody ever'" \
		"test_of KEYLOCK record 'leaves the record|records'" "torture KEYLOCK 5000"
	# Who takes a lock does not see whether the file still has its name.
	# shellcheck disable=SC2016 # perl's variables
	mutant no-recheck 's/(lockfile_is_current\(const struct directory.*?\n\{\n)/$1\treturn true;\n/s' \
		"test_of KEYLOCK waiting 'replaced'" "torture KEYLOCK 20000"
	# Who leaves removes the file though others wait for it.
	mutant tidy-blind 's/if \(!error && byte_held\(fd, F_WRLCK, PRESENCE, 0\) < 0 && fstat/if (!error && fstat/' \
		"test_of KEYLOCK waiting '200 waiters|stream of arrivals'" "torture KEYLOCK 20000"
	# The name goes after the lock and the gate.
	# shellcheck disable=SC2016
	mutant late-unlink 's/(\tunlinkat\(directory->fd, name, 0\);)(.*?\tclose\(fd\);\n)/\tlate = true;$2\tif (late) { usleep(200); unlinkat(directory->fd, name, 0); }\n/s; s/(\nlockfile_tidy\([^{]*\{\n)/$1\tbool late = false;\n/' \
		"torture KEYLOCK 20000"
	# The lock is let go while the command runs.
	# shellcheck disable=SC2016
	mutant early-unlock 's/(\tforward_early\(child\);\n)/$1\tflock(command->locks[0].fd, LOCK_UN);\n/' \
		"test_of KEYLOCK lifetime 'stays taken|nobody ever'" "torture KEYLOCK 5000"
	# Nobody draws a ticket: the kernel lets newcomers in.
	# shellcheck disable=SC2016
	mutant no-tickets 's/(\nticket_draw\([^{]*\{\n)/$1\treturn 0;\n/; s/if \(!ahead\)\n\t\t\treturn 0;/return 0;/' \
		"test_of KEYLOCK waiting '200 waiters|stream of arrivals'"
	# The file is emptied when it is opened, a record with it.
	mutant truncate 's/LOCKFILE_FLAGS = O_RDWR/LOCKFILE_FLAGS = O_RDWR | O_TRUNC/' \
		"test_of KEYLOCK record 'leaves the record|records'"
}

for part; do
	case $part in
	torture)
		build_driver && torture ./keylock "$runs"
		verdict $? torture
		;;
	mutants) mutants ;;
	model)
		if command -v spin >/dev/null; then
			tests/model.sh "$size"
			verdict $? model
		else
			echo "model: skipped: spin is not installed"
		fi
		;;
	guard)
		tests/guard.sh
		verdict $? guard
		;;
	*)
		echo "proof.sh: $part: no such part" >&2
		exit 64
		;;
	esac
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

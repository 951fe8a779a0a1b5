#!/usr/bin/env bats
# Single attacks of a stranger in a directory that others may write to, each with its
# outcome. All of them at once, at random, are in proof/hostile.sh.

# shellcheck disable=SC2030,SC2031,SC2154 # the helper's variables, in tests that are subshells
load helper

# open_directory: one that others may write to, and so lock files in.
open_directory() {
	mkdir -m 1777 "$KEYLOCK_DIR"
	chmod 1777 "$KEYLOCK_DIR"
}

@test "-r: a mark that anybody can make for process 1 is no ancestor's lock" {
	local option
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	KEYLOCK_DIR=$public/dir
	open_directory
	hold key
	# 2^61 and 2^62: that process 1 has taken the lock, exclusively or shared.
	for option in 2305843009213693953 4611686018427387905; do
		keep reader="$option"
		run_it as_user 61111 "$public/keylock" -r -w 0.3 key touch "$public/ran"
		expect_taken 75
		run_it as_user 61111 "$public/keylock" -r -s -w 0.3 key touch "$public/ran"
		expect_taken 75
		# Nor does it make waiting look endless.
		run_it as_user 61111 "$public/keylock" -w 0.3 key touch "$public/ran"
		expect_taken 75
		stop_keeping
	done
	[ ! -e "$public/ran" ]
	let_go
	[ "$(files)" = 0 ]
}

@test "-r: a stranger's mark makes no shared lock of an ancestor's exclusive one, nor the reverse" {
	local keep
	keep=$(probe keep)
	open_directory
	# In the command: MODE BASE KEEP KEYLOCK INNER-OPTION…
	# shellcheck disable=SC2016
	local script='
		"$2" "$KEYLOCK_DIR/key" reader=$(($1 + PPID)) >"$0" 3>&- 4>&- &
		until grep -q kept "$0"; do sleep 0.01; done
		shift 2
		"$@"
		status=$?
		kill $!
		exit $status'
	run_keylock key bash -c "$script" "$BATS_TEST_TMPDIR/kept" $((1 << 62)) "$keep" \
		"$KEYLOCK" -r key touch "$BATS_TEST_TMPDIR/ran"
	expect 0
	[ -e "$BATS_TEST_TMPDIR/ran" ]
	rm "$BATS_TEST_TMPDIR/ran"
	run_keylock -s key bash -c "$script" "$BATS_TEST_TMPDIR/kept" $((1 << 61)) "$keep" \
		"$KEYLOCK" -r key touch "$BATS_TEST_TMPDIR/ran"
	expect 78
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

waits() {
	"$KEYLOCK" --list --json key | grep -q '"waiting":1,'
}

@test "who has waited for a key does not change the time of another's file that is linked there" {
	local option waiter first
	open_directory
	echo precious >"$BATS_TEST_TMPDIR/precious"
	touch -d '2026-01-01 00:00:00 UTC' "$BATS_TEST_TMPDIR/precious"
	ln "$BATS_TEST_TMPDIR/precious" "$KEYLOCK_DIR/key"
	ln "$BATS_TEST_TMPDIR/precious" "$KEYLOCK_DIR/key%s2"
	for option in -x -s; do
		hold key
		"$KEYLOCK" "$option" key true 3>&- 4>&- &
		waiter=$!
		wait_for 20 waits
		let_go
		wait "$waiter"
	done
	rm "$KEYLOCK_DIR/key%s2"
	hold -j 2 key
	first=$holder
	hold -j 2 key
	"$KEYLOCK" -j 2 key true 3>&- 4>&- &
	waiter=$!
	wait_for 20 waits
	let_go "$first"
	wait "$waiter"
	let_go
	[ "$(stat -c '%Y %s' "$BATS_TEST_TMPDIR/precious")" = '1767225600 9' ]
	[ "$(ls -A "$KEYLOCK_DIR")" = key ]
}

# at_rest PID: it has slept for a while, past the tries that come soon after an event.
at_rest() {
	local before
	before=$(switches "$1")
	sleep 0.3
	[ "$(switches "$1")" = "$before" ]
}

@test "a slot's file that a stranger unlocks without closing it does not keep the slot" {
	local name waiter
	need flock
	open_directory
	# Both slots are another program's, which keeps its descriptors.
	for name in key key%s2; do
		(umask 0 && : >"$KEYLOCK_DIR/$name")
	done
	exec 8<>"$KEYLOCK_DIR/key" 9<>"$KEYLOCK_DIR/key%s2"
	flock -n 8
	flock -n 9
	"$KEYLOCK" -j 2 key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- 8>&- 9>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	wait_for 20 at_rest "$waiter"
	flock -u 9
	wait_for 20 test -e "$BATS_TEST_TMPDIR/ran"
	wait "$waiter"
	exec 8>&- 9>&-
}

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

@test "P1 alone: a stranger's locks on bytes are no ancestor's, and keep one waiting as a holder does" {
	local option byte
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	KEYLOCK_DIR=$public/dir
	open_directory
	hold key
	# Presence, guests, those of slots, tickets, and far above.
	for byte in 1 2 3 4 999 1000 2305843009213693953 4611686018427387905; do
		keep reader="$byte"
		for option in -r '-r -s' -x; do
			# shellcheck disable=SC2086
			run_it as_user 61111 env KEYLOCK_KEY=key "$public/keylock" -w 0.1 $option key touch "$public/ran"
			expect_taken 75
		done
		stop_keeping
	done
	[ ! -e "$public/ran" ]
	let_go
	[ "$(files)" = 0 ]
}

@test "P9 never stuck: a ticket or presence that another program locks is waited for, and no longer" {
	local what options
	mkdir -m 700 "$KEYLOCK_DIR"
	for what in ticket=1 ticket=2 reader=1000 ticket=1000 reader=2; do
		keep "$what"
		for options in -n '-w 0.1' '-w 0.1 -j 2'; do
			# Another slot is had beside a first one that is taken.
			[[ $what == *1000 || $options != *-j* ]] || continue
			# shellcheck disable=SC2086
			run_keylock $options key touch "$BATS_TEST_TMPDIR/ran"
			expect_taken 75
		done
		stop_keeping
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		run_keylock -w 20 key true
		expect 0
	done
	[ "$(files)" = 0 ]
}

@test "P9 never stuck: a slot whose gate somebody stopped in counts as taken, the others are had" {
	local stopped keep options
	keep=$(probe keep)
	mkdir -m 700 "$KEYLOCK_DIR"
	"$keep" "$KEYLOCK_DIR/key%s2" gate >"$BATS_TEST_TMPDIR/kept" 3>&- 4>&- &
	stopped=$!
	wait_for 20 grep -q kept "$BATS_TEST_TMPDIR/kept"
	for options in -n '-w 20'; do
		# shellcheck disable=SC2086
		run_keylock $options -j 2 key "$KEYLOCK" --list --json key
		expect 0
		[[ $output == *'"state":"held","mode":"exclusive","slot":1'* ]]
		# shellcheck disable=SC2086
		run_keylock $options -j 3 key "$KEYLOCK" -n -j 3 key "$KEYLOCK" -n -j 3 key true
		expect 75
	done
	hold -j 2 key
	run_keylock -n -j 2 key true
	expect_taken 75
	run_keylock -w 0.2 -j 2 key true
	expect_taken 75
	"$KEYLOCK" -j 2 key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	kill -KILL "$stopped"
	wait $!
	[ -e "$BATS_TEST_TMPDIR/ran" ]
	let_go
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

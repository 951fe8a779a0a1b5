# Single attacks of a stranger in a directory that others may write to, each with its
# outcome. All of them at once, at random, are in proof/hostile.sh.

# shellcheck disable=SC2030,SC2031,SC2086,SC2154 # options split on purpose; the helper's variables
load helper

setup() {
	keylock_setup
	ran=$work/ran
}

# open_directory: one that others may write to, and so lock files in.
open_directory() {
	mkdir "$KEYLOCK_DIR"
	chmod 1777 "$KEYLOCK_DIR"
}

# start_waiter ARG…: starts a keylock in the background. Sets waiter when it waits.
start_waiter() {
	"$KEYLOCK" "$@" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

@test "P1 alone: a stranger's locks on bytes are no ancestor's, and keep one waiting as a holder does" {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	KEYLOCK_DIR=$public/dir
	open_directory
	hold key
	# Presence, guests, tickets, and others, up to far above.
	for byte in 1 2 3 999 1000 2305843009213693953 4611686018427387905; do
		keep reader="$byte"
		for option in -r '-r -s' -x; do
			it_quiet 75 as_user 61111 env KEYLOCK_KEY=key "$public/keylock" -w 0.1 $option key touch "$public/ran"
		done
		stop_keeping
	done
	[ ! -e "$public/ran" ]
	let_go
	[ "$(files)" = 0 ]
}

@test "P9 never stuck: a ticket or presence that another program locks is waited for, and no longer" {
	for what in ticket=1 ticket=2 reader=1000 ticket=1000 reader=2; do
		keep "$what"
		for options in -n '-w 0.1' '-w 0.1 -j 2'; do
			# Another slot is had beside a first one that is taken.
			[[ $what == *1000 || $options != *-j* ]] || continue
			quiet 75 $options key touch "$ran"
		done
		stop_keeping
		[ ! -e "$ran" ]
		gives 0 -w 20 key true
	done
	[ "$(files)" = 0 ]
}

@test "who has waited for a key does not change the time of another's file that is linked there" {
	precious=$work/precious
	open_directory
	echo precious >"$precious"
	touch -d '2026-01-01 00:00:00 UTC' "$precious"
	ln "$precious" "$KEYLOCK_DIR/key"
	ln "$precious" "$KEYLOCK_DIR/key%s2"
	for option in -x -s; do
		hold key
		start_waiter "$option" key true
		let_go
		ended_with "$waiter" 0
	done
	rm "$KEYLOCK_DIR/key%s2"
	hold -j 2 key
	first=$holder
	hold -j 2 key
	start_waiter -j 2 key true
	let_go "$first"
	ended_with "$waiter" 0
	let_go
	[ "$(stat -c '%Y %s' "$precious")" = '1767225600 9' ]
	[ "$(ls -A "$KEYLOCK_DIR")" = key ]
}

# at_rest PID: it has slept for a while, past the tries that come soon after an event.
at_rest() {
	local before
	before=$(switches "$1")
	sleep 0.3
	[ "$(switches "$1")" = "$before" ]
}

# Both slots are another program's, which keeps its descriptors 8 and 9; one waits for them.
slots_of_another() {
	need flock
	open_directory
	(umask 0 && : >"$KEYLOCK_DIR/key" && : >"$KEYLOCK_DIR/key%s2")
	exec 8<>"$KEYLOCK_DIR/key" 9<>"$KEYLOCK_DIR/key%s2"
	flock -n 8
	flock -n 9
	start_waiter -j 2 key touch "$ran" 8>&- 9>&-
}

@test "P2 a slot's file that a stranger unlocks without closing it does not keep the slot" {
	slots_of_another
	wait_for 20 at_rest "$waiter"
	flock -u 9
	ended_with "$waiter" 0
	[ -e "$ran" ]
	exec 8>&- 9>&-
}

@test "P2 nor does it where one has waited for longer than a second, and looks no more" {
	slots_of_another
	sleep 1.3
	flock -u 8
	wait_for 5 is_dead "$waiter"
	[ -e "$ran" ]
	exec 8>&- 9>&-
}

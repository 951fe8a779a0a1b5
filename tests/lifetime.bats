#!/usr/bin/env bats
# How long a lock lives: as long as the command, whoever is killed, and not longer.
# shellcheck disable=SC2016,SC2154 # the inner shells' own variables; the helper's variables

load helper

taken() {
	run_keylock -n key touch "$BATS_TEST_TMPDIR/ran"
	[ "$status" = 75 ] && [ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

free() {
	run_keylock -n key true
	[ "$status" = 0 ]
}

# Runs keylock with these options and a command that leaves a daemon behind and exits 5. Sets
# daemon, its pid. Standard output is the daemon's as well, as with a careless script.
leave_daemon() {
	run_keylock "$@" key sh -c 'sleep 1000 & echo $! >"$0"; exit 5' "$BATS_TEST_TMPDIR/daemon"
	expect 5
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
	in_state "$daemon" RSD
}

end_daemon() {
	kill -KILL "$daemon"
	wait_for 20 is_dead "$daemon"
}

@test "the key is free and its file gone when the command has ended" {
	hold key
	taken
	[ "$(files)" = 1 ]
	let_go
	expect 0
	[ "$(files)" = 0 ]
	free
	[ "$(files)" = 0 ]
}

@test "keylock is killed: the key stays taken until the command has ended" {
	for mode in -x -s; do
		hold "$mode" key
		kill -KILL "$holder"
		status=0
		wait "$holder" || status=$?
		expect 137
		taken
		in_state "$held" RSD
		kill -KILL "$held"
		wait_for 20 is_dead "$held"
		# The first run finds the key free, and takes the dead one's file away.
		free
		[ "$(files)" = 0 ]
	done
}

@test "keylock is killed: who waits is served at once when the command ends" {
	hold key
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	local waiter=$!
	wait_for 20 has_ticket "$waiter"
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	taken
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	has_ticket "$waiter"
	kill -KILL "$held"
	wait "$waiter"
	[ -e "$BATS_TEST_TMPDIR/served" ]
	[ "$(files)" = 0 ]
}

@test "keylock is killed: the key stays taken while a child of the command's runs" {
	"$KEYLOCK" key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; wait' \
		"$BATS_TEST_TMPDIR/child" 3>&- 4>&- &
	local wrapper=$! child command
	wait_for 20 test -e "$BATS_TEST_TMPDIR/child"
	child=$(cat "$BATS_TEST_TMPDIR/child")
	command=$(parent "$child")
	kill -KILL "$wrapper"
	kill -KILL "$command"
	wait_for 20 is_dead "$command"
	taken
	kill -KILL "$child"
	wait_for 20 is_dead "$child"
	free
	[ "$(files)" = 0 ]
}

@test "a daemon left behind does not hold the key" {
	for mode in -x -s; do
		leave_daemon "$mode"
		[ "$(files)" = 0 ]
		free
		in_state "$daemon" RSD
		end_daemon
	done
}

@test "a daemon left behind does not hold up who waits" {
	"$KEYLOCK" key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"
		until [ -e "$0.go" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR/daemon" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/daemon"
	"$KEYLOCK" key true 3>&- 4>&- &
	local second=$!
	wait_for 20 has_ticket "$second"
	touch "$BATS_TEST_TMPDIR/daemon.go"
	wait "$first"
	wait "$second"
	in_state "$(cat "$BATS_TEST_TMPDIR/daemon")" RSD
	[ "$(files)" = 0 ]
}

@test "-l: the key is taken until the daemon has ended" {
	for option in -l --linger; do
		leave_daemon "$option"
		taken
		in_state "$daemon" RSD
		end_daemon
		free
		[ "$(files)" = 0 ]
	done
}

@test "-l without a daemon: free when the command has ended" {
	run_keylock -l key sh -c 'exit 5'
	expect 5
	free
	[ "$(files)" = 0 ]
}

@test "-F: the command is keylock's own process and holds the key to its end" {
	for option in -F --no-fork; do
		hold "$option" key
		[ "$holder" = "$held" ]
		taken
		let_go
		expect 0
		free
		[ "$(files)" = 0 ]
	done
}

@test "-F: the key is taken while any process that inherited it runs" {
	leave_daemon -F
	taken
	end_daemon
	free
	[ "$(files)" = 0 ]
}

@test "-o: the command does not have the lock, keylock alone holds it" {
	hold -o key
	taken
	# The limit that the manual states: without the descriptor nothing holds the key any more.
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	free
	in_state "$held" RSD
	kill -KILL "$held"
	wait_for 20 is_dead "$held"
	free
	[ "$(files)" = 0 ]
}

@test "a script that uses the descriptors 3 to 9 does not give the key away" {
	cat >"$BATS_TEST_TMPDIR/script" <<-'END'
		exec 3>/dev/null 4>/dev/null 5>/dev/null 6>/dev/null 7>/dev/null 8>/dev/null
		exec 9<"$0"
		exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9<&-
		exec 3>/dev/null 9<"$0"
		echo $$ >"$0.new"
		mv "$0.new" "$0.pid"
		exec sleep 1000
	END
	for shell in sh bash; do
		command -v "$shell" >/dev/null || continue
		rm -f "$BATS_TEST_TMPDIR/script.pid"
		"$KEYLOCK" key "$shell" "$BATS_TEST_TMPDIR/script" 3>&- 4>&- &
		local wrapper=$! command
		wait_for 20 test -e "$BATS_TEST_TMPDIR/script.pid"
		command=$(cat "$BATS_TEST_TMPDIR/script.pid")
		kill -KILL "$wrapper"
		wait "$wrapper" 2>/dev/null || :
		taken
		in_state "$command" RSD
		kill -KILL "$command"
		wait_for 20 is_dead "$command"
		free
		[ "$(files)" = 0 ]
	done
}

@test "a process stopped inside the gate delays the end by a moment only" {
	local begin took
	hold key
	keep gate
	begin=$(milliseconds)
	let_go
	took=$(($(milliseconds) - begin))
	expect 0
	echo "keylock ended after $took ms"
	[ "$took" -lt 2000 ]
	stop_keeping
	free
	[ "$(files)" = 0 ]
}

@test "the lock is let go though a process is stopped inside the gate" {
	hold key
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	local waiter=$!
	wait_for 20 has_ticket "$waiter"
	keep gate
	let_go
	wait_for 20 test -e "$BATS_TEST_TMPDIR/served"
	stop_keeping
	wait "$waiter"
	free
	[ "$(files)" = 0 ]
}

@test "nobody ever runs beside another, whoever is killed" {
	local alone seconds=2
	[ -z "${KEYLOCK_LONG-}" ] || seconds=30
	alone=$(probe alone)
	# On a loaded machine longer, until enough was tried.
	while :; do
		run_it "$alone" "$BATS_TEST_TMPDIR/witness" "$seconds" 8 "$KEYLOCK" key
		expect 0
		[[ $output =~ ^runs=([0-9]+)\ kills=([0-9]+)\ overlaps=([0-9]+)\ stuck=([0-9]+)$ ]]
		[ "${BASH_REMATCH[3]}" = 0 ]
		[ "${BASH_REMATCH[4]}" = 0 ]
		[ "${BASH_REMATCH[1]}" -lt 50 ] || [ "${BASH_REMATCH[2]}" -lt 20 ] || break
		seconds=$((2 * seconds))
		[ "$seconds" -le 40 ]
	done
	free
	[ "$(files)" = 0 ]
}

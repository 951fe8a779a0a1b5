#!/usr/bin/env bats
# How long a lock lives: as long as the command, whoever is killed, and not longer.

# The words of a case are split on purpose (SC2086); the inner shells' and the helper's variables.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2154
load helper

setup() {
	keylock_setup
	child=$BATS_TEST_TMPDIR/child
}

taken() {
	run_keylock -n key touch "$BATS_TEST_TMPDIR/ran"
	[ "$status" = 75 ] && [ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

free() {
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

# Runs keylock with these options and a command that leaves a daemon behind and ends as END says.
# Sets daemon, its pid. Standard output is the daemon's as well, as with a careless script.
leave_daemon() {
	local end=$1
	shift
	run_keylock "$@" sh -c 'sleep 1000 & echo $! >"$0"; '"$end" "$child"
	daemon=$(cat "$child")
	in_state "$daemon" RSD
}

end_it() {
	kill -KILL "$1"
	wait_for 20 is_dead "$1"
}

@test "P2 the key is free and its file gone when the command has ended" {
	local option
	for option in -x -s -l -F --no-fork; do
		hold "$option" key
		# With -F the command is keylock's own process.
		case $option in
		-F | --no-fork) [ "$holder" = "$held" ] ;;
		*) [ "$holder" != "$held" ] ;;
		esac
		taken
		[ "$(files)" = 1 ]
		let_go
		expect 0
		case $option in
		-F | --no-fork) ;;
		*) [ "$(files)" = 0 ] ;;
		esac
		free
	done
	run_keylock -l key sh -c 'exit 5'
	expect 5
	free
}

@test "P1 keylock is killed: the key stays taken until the command has ended, and who waits is next" {
	local mode waiter
	for mode in -x -s; do
		hold "$mode" key
		kill -KILL "$holder"
		ended_with "$holder" 137
		taken
		in_state "$held" RSD
		"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
		waiter=$!
		wait_for 20 has_ticket "$waiter"
		[ ! -e "$BATS_TEST_TMPDIR/served" ]
		end_it "$held"
		wait "$waiter"
		rm "$BATS_TEST_TMPDIR/served"
		[ "$(files)" = 0 ]
		# Without a waiter the first run finds the key free, and takes the dead one's file away.
		hold "$mode" key
		kill -KILL "$holder"
		wait "$holder" 2>/dev/null || :
		end_it "$held"
		free
	done
}

@test "P1 keylock is killed, then the command: the key stays taken while a child of the command's runs" {
	local wrapper command
	"$KEYLOCK" key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; wait' "$child" 3>&- 4>&- &
	wrapper=$!
	wait_for 20 test -e "$child"
	child=$(cat "$child")
	command=$(parent "$child")
	kill -KILL "$wrapper"
	end_it "$command"
	taken
	end_it "$child"
	free
}

@test "P2 a command that ended by itself leaves a daemon, and no key, behind" {
	local end mode
	for end in 0 5 128 193 255; do
		for mode in -x -s -j2 '-k other'; do
			leave_daemon "exit $end" $mode key
			expect "$end"
			in_state "$daemon" RSD
			free
			end_it "$daemon"
		done
	done
}

@test "P2 a command that died leaves the key to what it left running" {
	local end mode
	# Of a signal, or as a shell says it.
	for end in 'kill -KILL $$' 'kill -TERM $$' 'exit 129' 'exit 192'; do
		for mode in -x -s '-k other' -A; do
			leave_daemon "$end" $mode key
			[ "$status" -ge 129 ]
			taken
			[ "$mode" != '-k other' ] || ! "$KEYLOCK" -n other true
			end_it "$daemon"
			[ "$mode" != -A ] || "$KEYLOCK" --forget key
			"$KEYLOCK" -n other true
			free
		done
		# Who waits is told for whom.
		leave_daemon "$end" key
		run_keylock -v -n key true
		expect_message 75 "pid $daemon (sleep)"
		end_it "$daemon"
		# Denied the key, it holds nothing up.
		leave_daemon "$end" -o key
		free
		end_it "$daemon"
		leave_daemon "$end" -j 1 key
		run_keylock -n -j 1 key true
		expect 75
		end_it "$daemon"
		free
	done
}

@test "P2 a daemon left behind does not hold up who waits" {
	local first second
	"$KEYLOCK" key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"
		until [ -e "$0.go" ]; do sleep 0.01; done' "$child" 3>&- 4>&- &
	first=$!
	wait_for 20 test -e "$child"
	"$KEYLOCK" key true 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"
	touch "$child.go"
	wait "$first"
	wait "$second"
	in_state "$(cat "$child")" RSD
	[ "$(files)" = 0 ]
}

@test "-l, -F: the key is taken until the last process that inherited it has ended" {
	local option
	for option in -l --linger -F; do
		leave_daemon 'exit 5' "$option" key
		expect 5
		taken
		in_state "$daemon" RSD
		end_it "$daemon"
		free
	done
}

@test "-l, -F: who closes the descriptors that it does not know has not inherited" {
	local option
	for option in -l -F; do
		run_keylock "$option" key bash -c 'for fd in /proc/$$/fd/*; do
				fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"
			done
			sleep 1000 & echo $! >"$0"' "$child"
		expect 0
		in_state "$(cat "$child")" RSD
		free
		end_it "$(cat "$child")"
	done
}

@test "-o: the command does not have the lock, keylock alone holds it" {
	hold -o key
	taken
	# The limit that the manual states: without the descriptor nothing holds the key any more.
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	free
	in_state "$held" RSD
	end_it "$held"
	free
}

@test "P1 a script that uses the descriptors 3 to 9 does not give the key away" {
	local shell wrapper command
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
		rm -f "$BATS_TEST_TMPDIR/script.pid"
		"$KEYLOCK" key "$shell" "$BATS_TEST_TMPDIR/script" 3>&- 4>&- &
		wrapper=$!
		wait_for 20 test -e "$BATS_TEST_TMPDIR/script.pid"
		command=$(cat "$BATS_TEST_TMPDIR/script.pid")
		kill -KILL "$wrapper"
		wait "$wrapper" 2>/dev/null || :
		taken
		in_state "$command" RSD
		end_it "$command"
		free
	done
}

@test "P9 a process stopped inside the gate delays the end by a moment only, and the next not at all" {
	local begin took waiter
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

	hold key
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	keep gate
	let_go
	wait_for 20 test -e "$BATS_TEST_TMPDIR/served"
	stop_keeping
	wait "$waiter"
	free
}

@test "P1 nobody ever runs beside another, whoever is killed" {
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
}

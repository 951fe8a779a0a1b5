#!/usr/bin/env bats
# Several keys: all or none, in one order, under one deadline.
# shellcheck disable=SC2016,SC2154 # inner shells' own variables; the helper's variables

load helper

taken() {
	local key
	for key; do
		run_keylock -n "$key" touch "$BATS_TEST_TMPDIR/ran"
		expect 75
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	done
}

free() {
	local key
	for key; do
		run_keylock -n "$key" true
		expect 0
	done
}

is_taken() {
	! "$KEYLOCK" -n "$1" true
}

# Starts keylock with these options and keys in the background; sets waiter. The command adds a
# line to "served".
contend() {
	"$KEYLOCK" "$@" sh -c 'echo >>"$0"' "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	waiter=$!
}

@test "P2 the command runs while all keys are held, and they are free when it has ended" {
	local key
	hold -k b --key c a
	taken a b c
	[ "$(files)" = 3 ]
	for key in a b c; do
		run_keylock --who "$key"
		[ "$output" = "$holder" ]
	done
	let_go
	expect 0
	[ "$(files)" = 0 ]
	free a b c
	# Another key is another lock.
	hold -k b a
	free c
	let_go
}

@test "P1 all or none: with one key taken nothing runs and nothing else is held" {
	local key arguments
	for key in a b c; do
		hold "$key"
		for arguments in '-n -k b -k c a' '-w 0.1 -k a -k b c' '-w0 -k c -k a b'; do
			# shellcheck disable=SC2086
			run_keylock $arguments touch "$BATS_TEST_TMPDIR/ran"
			expect_taken 75
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
			[ "$(files)" = 1 ]
		done
		run_keylock -n -E 9 -k a -k b c touch "$BATS_TEST_TMPDIR/ran"
		expect_taken 9
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		let_go
	done
	[ "$(files)" = 0 ]
}

@test "-v and -W name the key that was not had" {
	hold b
	run_keylock -v -n -k c -k b a true
	expect_message 75 "b: taken: pid $holder"
	touch -d '1 hour ago' "$("$KEYLOCK" --path b)"
	run_keylock -n -W 10m -k c -k b a true
	expect_message 75 "b: taken: pid $holder" 'held for 1h0m'
	let_go
}

@test "keys are taken in the order of their files' names, however they are named" {
	local arguments
	hold b
	for arguments in '-k b -k c a' '-k c -k b a' '-k a -k b c' '-k a -k c b'; do
		# shellcheck disable=SC2086
		contend $arguments
		wait_for 20 has_ticket "$waiter"
		echo "waiting: $arguments"
		taken a
		free c
		kill -TERM "$waiter"
		ended_with "$waiter" 143
		[ "$(files)" = 1 ]
	done
	let_go
	# The slash is after the plus, but its file's name is before it.
	hold +
	for arguments in '-k + /' '-k / +'; do
		# shellcheck disable=SC2086
		contend $arguments
		wait_for 20 has_ticket "$waiter"
		taken /
		kill -TERM "$waiter"
		ended_with "$waiter" 143
	done
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
}

@test "P9 -w: one time for all keys together" {
	local begin took
	hold a
	local first=$holder
	hold b
	begin=$(milliseconds)
	contend -w 2 -k a b
	wait_for 20 has_ticket "$waiter"
	# The first is had after 1.5 s, and there is half a second left for the second.
	sleep "$(((begin + 1500 - $(milliseconds)) / 1000)).$(((begin + 1500 - $(milliseconds)) % 1000 / 100))"
	let_go "$first"
	ended_with "$waiter" 75
	took=$(($(milliseconds) - begin))
	echo "took $took ms"
	[ "$took" -ge 2000 ]
	[ "$took" -lt 3400 ]
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	free a
	taken b
	[ "$(files)" = 1 ]
}

@test "a key named twice is taken once" {
	local mode
	for mode in -x -s; do
		run_keylock -n "$mode" -k a -k b -k b -k a a sh -c 'ls -A "$KEYLOCK_DIR" | wc -l'
		expect 0
		[ "$output" = 2 ]
		[ "$(files)" = 0 ]
	done
	# Two keys whose long names differ only at the end are two.
	local long
	printf -v long '%0300d' 0
	run_keylock -n -k "${long}1" "${long}2" sh -c 'ls -A "$KEYLOCK_DIR" | wc -l'
	[ "$output" = 2 ]
}

@test "-s: all keys are shared" {
	hold -s -k b a
	local first=$holder
	hold -s -k c b
	run_keylock -s -n -k b -k c a true
	expect 0
	taken a b c
	run_keylock -n -k d b true
	expect 75
	let_go "$first"
	free a
	taken b c
	let_go
	free a b c
	[ "$(files)" = 0 ]
}

@test "KEYLOCK_KEY lists the keys, one a line, KEY first" {
	run_keylock -k b -k c a printenv KEYLOCK_KEY
	[ "$output" = $'a\nb\nc' ]
	run_keylock -k a -k c b printenv KEYLOCK_KEY
	[ "$output" = $'b\na\nc' ]
	# One that is named twice is named once.
	run_keylock -k b -k a -k b a printenv KEYLOCK_KEY
	[ "$output" = $'a\nb' ]
	run_keylock -s -k 'x y' '*' printenv KEYLOCK_KEY
	[ "$output" = $'*\nx y' ]
	# A newline in a key is not told from one between two keys.
	run_keylock -k $'b\nc' a printenv KEYLOCK_KEY
	[ "$output" = $'a\nb\nc' ]
	run_keylock -F -k b a printenv KEYLOCK_KEY
	[ "$output" = $'a\nb' ]
	# What came from an outer run is not added to.
	run_keylock -k b a "$KEYLOCK" c printenv KEYLOCK_KEY
	[ "$output" = c ]
}

@test "keys that are too long for the environment are not in it, and the command runs" {
	local one two option
	# Each fits, both together are longer than the kernel lets a variable be.
	printf -v one '%090000d' 1
	printf -v two '%090000d' 2
	for option in -x -F -o; do
		run_keylock "$option" -k "$one" "$two" sh -c 'echo "${KEYLOCK_KEY-unset}"'
		expect 0
		[ "$output" = unset ]
	done
	[ "$(files)" = 0 ]
}

@test "a hundred keys" {
	local i arguments=()
	for i in {1..99}; do
		arguments+=(-k "key $i")
	done
	run_keylock -n "${arguments[@]}" 'key 0' sh -c 'ls -A "$KEYLOCK_DIR" | wc -l
		"$KEYLOCK" -n "key 0" true || echo "$?"; "$KEYLOCK" -n "key 57" true || echo "$?"
		"$KEYLOCK" -n "key 99" true || echo "$?"; "$KEYLOCK" -n "key 100" true || echo "$?"
		printenv KEYLOCK_KEY | wc -l'
	expect 0
	[ "$output" = $'100\n75\n75\n75\n100' ]
	[ "$(files)" = 0 ]
	# With the last of them taken all others are given back.
	hold 'key 99'
	run_keylock -n "${arguments[@]}" 'key 0' true
	expect 75
	[ "$(files)" = 1 ]
}

@test "more keys than descriptors: refused, and nothing is kept" {
	local i arguments=()
	for i in {1..99}; do
		arguments+=(-k "key $i")
	done
	run_it sh -c 'ulimit -n 60 && exec "$@"' sh "$KEYLOCK" "${arguments[@]}" 'key 0' \
		touch "$BATS_TEST_TMPDIR/ran"
	expect_message 71
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 0 ]
}

@test "P1 keylock is killed: all keys stay taken until the command has ended" {
	local option
	for option in -x -s; do
		hold "$option" -k b -k c a
		kill -KILL "$holder"
		wait "$holder" 2>/dev/null || :
		taken a b c
		kill -KILL "$held"
		wait_for 20 is_dead "$held"
		free a b c
		[ "$(files)" = 0 ]
	done
}

@test "P2 a daemon left behind holds none of the keys, with -l and -F all" {
	local option daemon
	for option in -x -l -F; do
		run_keylock "$option" -k b a sh -c 'sleep 1000 & echo $! >"$0"; exit 5' \
			"$BATS_TEST_TMPDIR/daemon"
		expect 5
		daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
		case $option in
		-x)
			[ "$(files)" = 0 ]
			free a b
			;;
		*) taken a b ;;
		esac
		in_state "$daemon" RSD
		kill -KILL "$daemon"
		wait_for 20 is_dead "$daemon"
		free a b
		[ "$(files)" = 0 ]
	done
}

@test "P9 a signal while waiting for a later key gives the earlier ones back" {
	hold b
	contend -k a -k c b
	wait_for 20 has_ticket "$waiter"
	taken a
	# Stopped, it keeps nothing; continued, it begins anew.
	kill -TSTP "$waiter"
	wait_for 20 in_state "$waiter" T
	free a c
	kill -CONT "$waiter"
	wait_for 20 is_taken a
	wait_for 20 has_ticket "$waiter"
	kill -HUP "$waiter"
	ended_with "$waiter" 129
	free a
	[ "$(files)" = 1 ]
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
}

@test "P4 who waits for several keys gets them in the end, whoever is killed in between" {
	hold a
	local first=$holder
	hold c
	contend -k b -k c a
	local dead=$waiter
	wait_for 20 has_ticket "$dead"
	contend -k b -k c a
	wait_for 20 has_ticket "$waiter"
	let_go "$first"
	wait_for 20 is_taken b
	kill -KILL "$dead"
	wait "$dead" 2>/dev/null || :
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	let_go
	ended_with "$waiter" 0
	[ "$(wc -l <"$BATS_TEST_TMPDIR/served")" = 1 ]
	[ "$(files)" = 0 ]
}

@test "-k with nothing, too much or without a command is a mistake" {
	local long
	run_keylock -k '' a touch "$BATS_TEST_TMPDIR/ran"
	expect_message 64
	run_keylock -k a '' touch "$BATS_TEST_TMPDIR/ran"
	expect_message 64
	run_keylock -k
	expect_message 64 -k
	run_keylock -k a b
	expect_message 64
	printf -v long '%0131001d' 0
	run_keylock -k "$long" a touch "$BATS_TEST_TMPDIR/ran"
	expect_message 64
	for action in --list --who --path --pin --forget; do
		run_keylock "$action" -k b a
		expect_message 64 -k
	done
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 0 ]
}

@test "P1 400 random sets of keys: none beside another that has a key in common" {
	local sets count=400
	[ -z "${KEYLOCK_LONG-}" ] || count=8000
	sets=$(probe sets)
	run_it "$sets" "$BATS_TEST_TMPDIR/witness" "$count" 12 "$KEYLOCK"
	expect 0
	[[ $output =~ ^runs=([0-9]+)\ gave_up=([0-9]+)\ others=0\ together=([0-9]+)\ overlaps=0\ stuck=0$ ]]
	# Each ran or gave up, and enough of each for it to have been a test.
	[ $((BASH_REMATCH[1] + BASH_REMATCH[2])) = "$count" ]
	[ "${BASH_REMATCH[1]}" -ge $((count / 2)) ]
	[ "${BASH_REMATCH[3]}" -ge 1 ]
	[ "$(files)" = 0 ]
}

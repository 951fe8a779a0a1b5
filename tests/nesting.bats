#!/usr/bin/env bats
# Runs within runs: who would wait for itself is told so, or runs under the ancestor's lock.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154,SC2178 # inner shells' own variables; the helper's variables

load helper

taken() {
	run_keylock -n "$@" touch "$BATS_TEST_TMPDIR/ran"
	[ "$status" = 75 ] && [ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

free() {
	run_keylock -n "$@" true
	expect 0
}

# Runs keylock with these arguments up to "--" under an outer keylock with those after it, which is
# keylock's options and KEY. In between comes $between, a command prefix. Sets status, output and
# stderr to the inner one's, and outer to the outer keylock's pid, which the inner's command is not
# to know.
nested() {
	local inner=()
	while [ "$1" != -- ]; do
		inner+=("$1")
		shift
	done
	shift
	rm -f "$BATS_TEST_TMPDIR/outer" "$BATS_TEST_TMPDIR/ran"
	run_keylock "$@" sh -c 'echo "$PPID" >"$0/outer"; "$@"' \
		"$BATS_TEST_TMPDIR" "${between[@]}" "$KEYLOCK" "${inner[@]}"
	outer=$(cat "$BATS_TEST_TMPDIR/outer")
}

expect_told() {
	expect_message 78 "$1" "pid $outer," ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 0 ]
}

@test "the key is held by an ancestor: 78 at once, naming the ancestor and -r" {
	local between=() begin
	begin=$(milliseconds)
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	# However long it would wait.
	nested -w 1h key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	nested -E 9 -w 1h key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	[ $(($(milliseconds) - begin)) -lt 10000 ]
}

@test "an outer shared lock is told as well, to an exclusive run" {
	local between=()
	nested key touch "$BATS_TEST_TMPDIR/ran" -- -s key
	expect_told key
	nested -s key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
}

@test "another key than the ancestor's is just locked" {
	local between=()
	nested other echo ran -- key
	expect 0
	[ "$output" = ran ]
	nested other "$KEYLOCK" third echo ran -- key
	expect 0
	[ "$output" = ran ]
}

@test "-n does not wait, so a key that an ancestor holds is just taken" {
	local between=()
	nested -n key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_taken 75
	nested -w0 -E 9 key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_taken 9
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	nested -n -r key echo ran -- key
	expect 0
	[ "$output" = ran ]
}

@test "a whole chain of processes in between changes nothing" {
	local between=(sh -c 'sh -c "$0 \"\$@\"; exit \$?" sh "$@"; exit $?' env)
	between=(sh -c '"$@"; exit $?' sh bash -c '"$@"; exit $?' bash setsid -w env nice)
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	between=("$KEYLOCK" second sh -c '"$@"; exit $?' sh "$KEYLOCK" third)
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
}

@test "also where descriptors and environment were given up in between" {
	local between
	between=("$(probe bare)")
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	between=("$(probe bare)" "$(command -v sh)" -c '"$@"; exit $?' sh)
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	between=()
	nested key touch "$BATS_TEST_TMPDIR/ran" -- -o key
	expect_told key
	between=("$(probe bare)")
	nested -r key echo ran -- key
	expect 0
	[ "$output" = ran ]
	nested -r key echo ran -- -o key
	expect 0
	[ "$output" = ran ]
}

@test "also through Python's subprocess, which closes descriptors" {
	local between
	need python3
	between=(python3 -c 'import subprocess, sys
sys.exit(subprocess.run(sys.argv[1:], close_fds=True).returncode)')
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_told key
	nested -r key echo ran -- key
	expect 0
	[ "$output" = ran ]
}

@test "an ancestor that became its command (-F) is an ancestor all the same" {
	local between=() start
	# With sh -c it is the ancestor, or this process itself.
	for start in 'exec "$@"' '"$@"; exit $?'; do
		rm -f "$BATS_TEST_TMPDIR/outer"
		run_keylock -F key sh -c 'echo $$ >"$0/outer"; '"$start" "$BATS_TEST_TMPDIR" \
			"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
		outer=$(cat "$BATS_TEST_TMPDIR/outer")
		expect_message 78 key ' -r '
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		run_keylock -F key sh -c "$start" sh "$KEYLOCK" -r key echo ran
		expect 0
		[ "$output" = ran ]
	done
	run_keylock -F key sh -c '"$@"; exit $?' sh "$(probe bare)" "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
	expect_message 78 key ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	# Without a process in between nobody has the key any more.
	run_keylock -F key "$(probe bare)" "$KEYLOCK" -n key echo ran
	expect 0
	free key
	[ "$(files)" = 0 ]
}

@test "a killed keylock's command is an ancestor by its descriptor" {
	"$KEYLOCK" key sh -c 'echo $$ >"$0/pid.new"; mv "$0/pid.new" "$0/pid"
		until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -w 20 key touch "$0/ran" 2>"$0/said"; echo $? >"$0/inner"
		"$KEYLOCK" -w 20 -r key touch "$0/nested"; echo $? >"$0/second"' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local keylock=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/pid"
	kill -KILL "$keylock"
	wait "$keylock" 2>/dev/null || :
	taken key
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/second"
	cat "$BATS_TEST_TMPDIR/said"
	[ "$(cat "$BATS_TEST_TMPDIR/inner")" = 78 ]
	grep -q '^keylock: key: .* -r ' "$BATS_TEST_TMPDIR/said"
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(cat "$BATS_TEST_TMPDIR/second")" = 0 ]
	[ -e "$BATS_TEST_TMPDIR/nested" ]
	wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/pid")"
	free key
	[ "$(files)" = 0 ]
}

@test "also where the ancestor is another user's, as under sudo" {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	export KEYLOCK_DIR=$public/dir
	local between=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
	# The copy, which that user may execute.
	local KEYLOCK=$public/keylock
	# Whose pid it is cannot be seen then, but that the descriptor was inherited.
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_message 78 key ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	nested -r key echo ran -- key
	expect 0
	[ "$output" = ran ]
	[ "$(files)" = 0 ]
}

@test "-r runs at once under the ancestor's lock" {
	local between=() option
	for option in -r --reentrant; do
		nested "$option" key sh -c 'echo "$KEYLOCK_KEY"; exit 5' -- key
		expect 5
		[ "$output" = key ]
		[ "$(files)" = 0 ]
	done
	nested -r key "$KEYLOCK" -r key "$KEYLOCK" -r key echo ran -- key
	expect 0
	[ "$output" = ran ]
	[ "$(files)" = 0 ]
	# Without an ancestor it is an option without an effect.
	run_keylock -r key echo ran
	expect 0
	[ "$output" = ran ]
	hold key
	taken -r key
	run_keylock -r -w 0.1 key touch "$BATS_TEST_TMPDIR/ran"
	expect_taken 75
	let_go
}

@test "-r passes those who wait, and does not let them in" {
	"$KEYLOCK" key sh -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -r key sh -c "[ ! -e \"\$0/waiter\" ] && echo >\"\$0/nested\"" "$0"
		[ ! -e "$0/waiter" ]' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/waiter" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	[ -e "$BATS_TEST_TMPDIR/nested" ]
	wait $!
	[ -e "$BATS_TEST_TMPDIR/waiter" ]
	[ "$(files)" = 0 ]
}

@test "a nested run left in the background keeps the key until it has ended" {
	local outer=-x inner=-x options
	for options in '-x -x' '-s -s' '-x -s'; do
		read -r outer inner <<<"$options"
		rm -f "$BATS_TEST_TMPDIR"/{inner,go,waiter}
		"$KEYLOCK" "$outer" key sh -c '
			"$KEYLOCK" "$1" -r key sh -c "echo \$PPID >\"\$0/inner.new\"
				mv \"\$0/inner.new\" \"\$0/inner\"
				until [ -e \"\$0/go\" ]; do sleep 0.01; done" "$0" &
			until [ -e "$0/inner" ]; do sleep 0.01; done; exit 5' \
			"$BATS_TEST_TMPDIR" "$inner" 3>&- 4>&- &
		local first=$!
		wait_for 20 test -e "$BATS_TEST_TMPDIR/inner"
		taken key
		[ "$outer" = -s ] || taken -s key
		"$KEYLOCK" key sh -c '[ -e "$0/go" ] && touch "$0/waiter"' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
		local waiter=$!
		wait_for 20 has_ticket "$waiter"
		# The outer command has ended.
		wait_for 20 eval '[ "$(ps -o pid= --ppid '"$first"' | wc -l)" = 0 ] || is_dead '"$first"
		taken key
		in_state "$(cat "$BATS_TEST_TMPDIR/inner")" RSD
		touch "$BATS_TEST_TMPDIR/go"
		wait "$waiter"
		[ -e "$BATS_TEST_TMPDIR/waiter" ]
		status=0
		wait "$first" || status=$?
		expect 5
		[ "$(files)" = 0 ]
	done
}

@test "Ctrl-Z stops a keylock that waits for a nested run to end, and the key stays taken" {
	"$(probe inherit)" -d "$KEYLOCK" key sh -c '
		"$KEYLOCK" -r key sh -c "echo >\"\$0/inner\"
			until [ -e \"\$0/go\" ]; do sleep 0.01; done" "$0" &
		until [ -e "$0/inner" ]; do sleep 0.01; done; exit 5' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local first=$! signal
	wait_for 20 test -e "$BATS_TEST_TMPDIR/inner"
	wait_for 20 eval '[ "$(ps -o pid= --ppid '"$first"' | wc -l)" = 0 ]'
	for signal in TSTP TTIN; do
		kill -"$signal" "$first"
		wait_for 20 in_state "$first" T
		taken key
		kill -CONT "$first"
		wait_for 20 in_state "$first" S
	done
	taken key
	touch "$BATS_TEST_TMPDIR/go"
	status=0
	wait "$first" || status=$?
	expect 5
	[ "$(files)" = 0 ]
}

@test "keylock is killed under a nested run: the key stays taken until that has ended" {
	"$KEYLOCK" key "$(probe bare)" "$KEYLOCK" -r key sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"
		exec sleep 1000' "$BATS_TEST_TMPDIR/inner" 3>&- 4>&- &
	local outer=$! inner
	wait_for 20 test -e "$BATS_TEST_TMPDIR/inner"
	inner=$(parent "$(cat "$BATS_TEST_TMPDIR/inner")")
	# What the inner one has does not come from the outer's descriptor: that was closed.
	kill -TERM "$inner"
	status=0
	wait "$outer" || status=$?
	expect 143
	free key
	[ "$(files)" = 0 ]
}

@test "a daemon that outlived its ancestor's hold is not covered" {
	local inner
	run_keylock key sh -c '(until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -r key touch "$0/inner"; echo $? >"$0/status") &' "$BATS_TEST_TMPDIR"
	expect 0
	free key
	# Somebody else has it now, and the daemon waits for its turn.
	hold key
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 blocked "$("$KEYLOCK" --path key)"
	run_keylock --list --json key
	[[ $output == *'"waiting":1'* ]]
	[ ! -e "$BATS_TEST_TMPDIR/inner" ]
	let_go
	wait_for 20 test -s "$BATS_TEST_TMPDIR/status"
	[ "$(cat "$BATS_TEST_TMPDIR/status")" = 0 ]
	[ -e "$BATS_TEST_TMPDIR/inner" ]
	[ "$(files)" = 0 ]
}

@test "a daemon that has the ancestor's open description is not covered by another's hold of the file" {
	# The file is the same one all the time, since somebody holds it shared.
	hold -s key
	local other=$holder
	run_keylock -s key sh -c '(until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -n -r key touch "$0/inner"; echo $? >"$0/status") &' "$BATS_TEST_TMPDIR"
	expect 0
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/status"
	[ "$(cat "$BATS_TEST_TMPDIR/status")" = 75 ]
	[ ! -e "$BATS_TEST_TMPDIR/inner" ]
	let_go "$other"
}

@test "shared inside shared needs no -r" {
	local between=()
	nested -s key echo ran -- -s key
	expect 0
	[ "$output" = ran ]
	nested -s key "$KEYLOCK" -s key echo ran -- -s key
	expect 0
	[ "$output" = ran ]
	nested -n -s key echo ran -- -s key
	expect 0
	[ "$(files)" = 0 ]
}

@test "shared inside shared while an exclusive one waits in between" {
	"$KEYLOCK" -s key sh -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -s key touch "$0/told"; echo $? >"$0/without"
		"$KEYLOCK" -s -r key touch "$0/nested"; echo $? >"$0/with"' "$BATS_TEST_TMPDIR" \
		2>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/waiter" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	wait $!
	cat "$BATS_TEST_TMPDIR/said"
	# Behind the exclusive one it would wait for itself; past it only by -r.
	[ "$(cat "$BATS_TEST_TMPDIR/without")" = 78 ]
	[ ! -e "$BATS_TEST_TMPDIR/told" ]
	[ "$(cat "$BATS_TEST_TMPDIR/with")" = 0 ]
	[ -e "$BATS_TEST_TMPDIR/nested" ]
	[ -e "$BATS_TEST_TMPDIR/waiter" ]
	[ "$(files)" = 0 ]
}

@test "exclusive inside shared: 78 with -r, too" {
	local between=() option
	for option in -x -r -rx; do
		nested "$option" key touch "$BATS_TEST_TMPDIR/ran" -- -s key
		expect_message 78 key "pid $outer"
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		[ "$(files)" = 0 ]
	done
	# Also where others share it.
	hold -s key
	nested -r key touch "$BATS_TEST_TMPDIR/ran" -- -s key
	expect_message 78 key "pid $outer"
	let_go
}

@test "several keys, one of which an ancestor holds" {
	local between=()
	nested -k b -k c a touch "$BATS_TEST_TMPDIR/ran" -- b
	expect_told b
	nested -k b -k c a touch "$BATS_TEST_TMPDIR/ran" -- -k d b
	expect_told b
	nested -r -k b -k c a sh -c 'for key in a b c; do "$KEYLOCK" -n "$key" true; echo $?; done' -- b
	expect 0
	[ "$output" = $'75\n75\n75' ]
	# After the nested run the outer one still has its key, and the others are free.
	run_keylock b sh -c '"$KEYLOCK" -r -k b a true; "$KEYLOCK" -n b true; echo $?
		"$KEYLOCK" -n a true; echo $?'
	[ "$output" = $'75\n0' ]
	[ "$(files)" = 0 ]
}

@test "a slot that an ancestor holds: told when there is no other, covered by -r" {
	local between=()
	nested -j 2 key echo ran -- -j 2 key
	expect 0
	[ "$output" = ran ]
	between=("$KEYLOCK" -j 2 key)
	nested -j 2 key touch "$BATS_TEST_TMPDIR/ran" -- -j 2 key
	expect_message 78 key ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	nested -j 2 -r key echo ran -- -j 2 key
	expect 0
	[ "$output" = ran ]
	# At once, too.
	nested -n -j 2 -r key echo ran -- -j 2 key
	expect 0
	[ "$output" = ran ]
	nested -n -j 2 key touch "$BATS_TEST_TMPDIR/ran" -- -j 2 key
	expect_taken 75
	[ "$(files)" = 0 ]
}

@test "--hold under an ancestor's lock" {
	local between=()
	nested --hold key -- key
	expect_told key
	nested -r --hold key -- key
	expect 0
	[ "$output" = locked ]
	[ "$(files)" = 0 ]
}

@test "a key held by no ancestor but by a child or a sibling is waited for" {
	# A child holds it: this process itself may wait.
	run_it sh -c '"$KEYLOCK" key sh -c "echo >\"\$0/begun\"; sleep 0.3" "$0" &
		until [ -e "$0/begun" ]; do sleep 0.01; done
		"$KEYLOCK" -w 20 key echo ran' "$BATS_TEST_TMPDIR"
	expect 0
	[ "$output" = ran ]
	rm "$BATS_TEST_TMPDIR/begun"
	# A sibling does, both under another key.
	run_keylock other sh -c '"$KEYLOCK" key sh -c "echo >\"\$0/begun\"; sleep 0.3" "$0" &
		until [ -e "$0/begun" ]; do sleep 0.01; done
		"$KEYLOCK" -w 20 key echo ran' "$BATS_TEST_TMPDIR"
	expect 0
	[ "$output" = ran ]
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "a nested run while the holder before its ancestor is still leaving" {
	local options first
	for options in -x '-x -r' '-s -r'; do
		: >"$BATS_TEST_TMPDIR/said"
		rm -f "$BATS_TEST_TMPDIR"/{begun,ran}
		# Byte 2 is what a holder keeps while it leaves.
		keep ticket=2
		"$KEYLOCK" "${options%% *}" key sh -c 'echo >"$0/begun"; "$KEYLOCK" -w 10 $1 key touch "$0/ran"' \
			"$BATS_TEST_TMPDIR" "$options" 2>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
		first=$!
		wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
		# It may be told, or run, at once, or as soon as the other has left.
		sleep 0.1
		stop_keeping
		status=0
		wait "$first" || status=$?
		cat "$BATS_TEST_TMPDIR/said"
		if [ "$options" = -x ]; then
			expect 78
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		else
			expect 0
			[ -e "$BATS_TEST_TMPDIR/ran" ]
		fi
	done
}

@test "under load no nested run is turned away, and none slips in after its ancestor" {
	local alone
	alone=$(probe alone)
	# Each run is an outer and a nested one; the nested does what must not overlap.
	cat >"$BATS_TEST_TMPDIR/twice" <<-'END'
		#!/bin/sh
		options='' inner=-x
		while [ "${1#-}" != "$1" ]; do
			[ "$1" != -s ] || inner=-s
			options="$options $1"
			shift
		done
		key=$1
		shift
		exec "$KEYLOCK" $options "$key" "$KEYLOCK" -r "$inner" "$key" "$@"
	END
	chmod +x "$BATS_TEST_TMPDIR/twice"
	run_it "$alone" "$BATS_TEST_TMPDIR/witness" 2 6 "$BATS_TEST_TMPDIR/twice" key
	expect 0
	[[ $output =~ ^runs=([0-9]+)\ kills=([0-9]+)\ overlaps=([0-9]+)\ stuck=([0-9]+)$ ]]
	[ "${BASH_REMATCH[1]}" -ge 30 ]
	[ "${BASH_REMATCH[3]}" = 0 ]
	[ "${BASH_REMATCH[4]}" = 0 ]
}

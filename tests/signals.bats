#!/usr/bin/env bats
# Signals to keylock, and what of the caller's signals and timers reaches the command.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

# A shell that is not interactive starts its background processes with INT and QUIT ignored:
# "inherit -d" makes all signals what they are at a prompt, and then execs.

# Starts a keylock command in the background, sets keylock and watcher. ended_as checks how it ended.
start_ended() {
	local file=$BATS_TEST_TMPDIR/end inherit ended
	inherit=$(probe inherit)
	ended=$(probe ended)
	rm -f "$file" "$file.pid"
	"$inherit" -d "$ended" "$file" sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0.pid"; exec "$@"' \
		"$file" "$@" 3>&- 4>&- &
	watcher=$!
	wait_for 20 test -e "$file.pid"
	keylock=$(cat "$file.pid")
}

ended_as() {
	local how
	wait "$watcher"
	how=$(cat "$BATS_TEST_TMPDIR/end")
	echo "ended: $how"
	[ "$how" = "$1" ]
}

# Starts keylock with the recorder (see recorder.c) as its command. Sets keylock and recorder.
start_recorder() {
	log=$BATS_TEST_TMPDIR/log
	# In a group of its own: with -g the recorder sends to its group.
	start_ended "$(probe inherit)" -g "$KEYLOCK" key "$(probe recorder)" "$log" "$@"
	wait_for 20 has_lines 1 "$log"
	read -r _ recorder <"$log"
	recorded=1
}

# Sends keylock a signal and waits until the command has got one more.
send() {
	kill -"$1" "$keylock"
	recorded=$((recorded + 1))
	wait_for 20 has_lines "$recorded" "$log"
}

# Ends the recorder by a signal that keylock does not see. What keylock was sent before is with the
# recorder by then, since keylock takes one signal after the other, the lowest number first.
end_recorder() {
	send TERM
	kill -RTMAX "$recorder"
	ended_as 'exit 7'
}

# Makes a shell function's command run under a taken key: starts it in the background, lets it wait,
# lets the holder go.
after_waiting() {
	hold key
	"$@" >"$BATS_TEST_TMPDIR/waited" 3>&- 4>&- &
	local pid=$!
	wait_for 20 has_ticket "$pid"
	let_go
	status=0
	wait "$pid" || status=$?
	output=$(cat "$BATS_TEST_TMPDIR/waited")
}

@test "TERM, HUP, INT, USR1 and ALRM reach the command once" {
	local i signal expected
	start_recorder
	expected="ready $recorder"
	for i in {1..10}; do
		for signal in TERM HUP INT USR1 ALRM; do
			send "$signal"
			expected+=$'\n'"$(kill -l "$signal") process"
		done
	done
	end_recorder
	expected+=$'\n'"$(kill -l TERM) process"$'\n'"$(kill -l RTMAX) process"
	diff - "$log" <<<"$expected"
	[ "$(files)" = 0 ]
}

@test "every other signal that can be caught reaches the command once" {
	local signal expected
	start_recorder
	expected="ready $recorder"
	# Not KILL, STOP and CHLD, and not 32 and 33, which are the C library's own.
	for signal in {1..8} {10..16} 18 {20..31} {34..64}; do
		send "$signal"
		expected+=$'\n'"$signal process"
		# The last real-time signal ends the recorder.
	done
	ended_as 'exit 7'
	diff - "$log" <<<"$expected"
}

@test "a signal that queues up reaches the command as often as it was sent" {
	local i
	start_recorder
	# A second one of a lower signal can be lost in a queue of one, and nobody could tell.
	for i in {1..10}; do
		kill -RTMIN+5 "$keylock"
	done
	wait_for 20 has_lines 11 "$log"
	end_recorder
	[ "$(grep -c "^$(kill -l RTMIN+5) " "$log")" = 10 ]
}

@test "what the command sends to its whole group is not sent back to it" {
	local i
	start_recorder -g
	for i in {1..20}; do
		# Makes it send USR1 to the group, keylock included.
		send USR2
		recorded=$((recorded + 1))
		wait_for 20 has_lines "$recorded" "$log"
		# What would come back would have come before this one, whose number is higher.
		send TERM
	done
	end_recorder
	[ "$(grep -c "^$(kill -l USR1) " "$log")" = 20 ]
	[ "$(grep -c "^$(kill -l USR2) " "$log")" = 20 ]
}

@test "keylock ends after the command, with its status" {
	local signal
	for signal in TERM HUP INT; do
		start_ended "$KEYLOCK" key sh -c 'trap "echo >\"$0.got\"" '"$signal"'
			echo >"$0.ready"
			until [ -e "$0.go" ]; do sleep 0.01; done
			exit 9' "$BATS_TEST_TMPDIR/$signal"
		wait_for 20 test -e "$BATS_TEST_TMPDIR/$signal.ready"
		kill -"$signal" "$keylock"
		wait_for 20 test -e "$BATS_TEST_TMPDIR/$signal.got"
		in_state "$keylock" RSD
		run_keylock -n key true
		expect 75
		touch "$BATS_TEST_TMPDIR/$signal.go"
		ended_as 'exit 9'
		[ "$(files)" = 0 ]
	done
}

@test "the command dies of the signal, and keylock of the same" {
	local signal
	for signal in TERM HUP INT USR1 ALRM RTMIN; do
		start_ended "$KEYLOCK" key sh -c 'echo >"$0.$1"; exec sleep 1000' \
			"$BATS_TEST_TMPDIR/ready" "$signal"
		wait_for 20 test -e "$BATS_TEST_TMPDIR/ready.$signal"
		kill -"$signal" "$keylock"
		ended_as "signal $(kill -l "$signal")"
		[ "$(files)" = 0 ]
	done
}

@test "a signal that comes early is not lost" {
	run_it "$(probe early)" "$(kill -l TERM)" 500 "$KEYLOCK" key sleep 1000
	expect 0
	[ "$output" = 'worked=500 stuck=0 odd=0' ]
	# No command has been left running, no file either.
	[ -z "$(left_over)" ]
	[ "$(files)" = 0 ]
}

@test "the command stops: keylock stops, too, and continues it" {
	hold key
	kill -STOP "$held"
	wait_for 20 in_state "$holder" T
	run_keylock -n key true
	expect 75
	kill -CONT "$holder"
	wait_for 20 in_state "$held" S
	wait_for 20 in_state "$holder" S
	let_go
	expect 0
	[ "$(files)" = 0 ]
}

@test "SIGSTOP and SIGCONT to the whole group leave nobody stopped" {
	local i inherit
	inherit=$(probe inherit)
	# A shell that forks would not do: it cannot stop while its child is stopped before its exec.
	"$inherit" -g "$KEYLOCK" key sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0.pid"
		exec sleep 1000' "$BATS_TEST_TMPDIR/c" 3>&- 4>&- &
	local wrapper=$! command
	wait_for 20 test -e "$BATS_TEST_TMPDIR/c.pid"
	command=$(cat "$BATS_TEST_TMPDIR/c.pid")
	for i in {1..20}; do
		kill -STOP -- "-$wrapper"
		wait_for 20 in_state "$wrapper" T
		wait_for 20 in_state "$command" T
		kill -CONT -- "-$wrapper"
		wait_for 20 in_state "$wrapper" SRD
		wait_for 20 in_state "$command" SRD
	done
	kill -TERM "$command"
	status=0
	wait "$wrapper" || status=$?
	expect 143
}

@test "Ctrl-Z stops keylock at every moment of its start" {
	local early option
	early=$(probe early)
	for option in -x -F; do
		run_it "$early" "$(kill -l TSTP)" 300 "$KEYLOCK" "$option" key sleep 1000
		expect 0
		[ "$output" = 'worked=300 stuck=0 odd=0' ]
	done
}

@test "Ctrl-Z stops a waiter at every moment of its start" {
	local early option
	early=$(probe early)
	hold key
	for option in -x -w100; do
		run_it "$early" "$(kill -l TSTP)" 300 "$KEYLOCK" "$option" key touch "$BATS_TEST_TMPDIR/ran"
		expect 0
		[ "$output" = 'worked=300 stuck=0 odd=0' ]
	done
	let_go
	expect 0
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# --- what the command inherits ---

@test "mask, dispositions and umask reach the command as they were" {
	local inherit what how expected
	inherit=$(probe inherit)
	for what in '' '-b all' '-i all' '-b all -i all' '-b 14 -i 14' '-b 15 -i 1 -i 2' '-i 17' \
		'-b 17 -b 18 -b 20' '-u 0' '-u 0777'; do
		# shellcheck disable=SC2086
		run_it "$inherit" -d $what "$inherit"
		expect 0
		expected=$output
		for how in '' -F -o -l -s -n '-w 100' '-w 100 -F'; do
			# shellcheck disable=SC2086
			run_it "$inherit" -d $what "$KEYLOCK" $how key "$inherit"
			expect 0
			[ "$output" = "$expected" ]
		done
		# The shell may change something itself: dash takes SIGCHLD back.
		# shellcheck disable=SC2086
		run_it "$inherit" -d $what sh -c "exec '$inherit'"
		expect 0
		expected=$output
		# shellcheck disable=SC2086
		run_it "$inherit" -d $what "$KEYLOCK" key -c "exec '$inherit'"
		expect 0
		[ "$output" = "$expected" ]
	done
	[ "$(files)" = 0 ]
}

@test "mask, dispositions and umask reach the command as they were after waiting" {
	local inherit what how expected
	inherit=$(probe inherit)
	for what in '' '-b all' '-i all' '-b 14 -i 14 -u 0777'; do
		# shellcheck disable=SC2086
		run_it "$inherit" -d $what "$inherit"
		expect 0
		expected=$output
		for how in '' -F '-w 100' '-w 100 -F' '-w 100 -s'; do
			echo "caller: $what, keylock $how"
			# shellcheck disable=SC2086
			after_waiting "$inherit" -d $what "$KEYLOCK" $how key "$inherit"
			expect 0
			diff - <(echo "$output") <<<"$expected"
		done
	done
	[ "$(files)" = 0 ]
}

@test "nohup: an ignored SIGHUP stays ignored" {
	local inherit
	need nohup
	run_it nohup "$KEYLOCK" key sh -c 'kill -HUP $$; echo alive'
	expect 0
	[ "$output" = alive ]
	run_it nohup "$KEYLOCK" -F key sh -c 'kill -HUP $$; echo alive'
	expect 0
	[ "$output" = alive ]
	# keylock itself does not die of it either, running a command or waiting.
	inherit=$(probe inherit)
	"$inherit" -d -i 1 "$KEYLOCK" key sh -c 'echo >"$0.ready"
		until [ -e "$0.go" ]; do sleep 0.01; done; exit 9' "$BATS_TEST_TMPDIR/c" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/c.ready"
	"$inherit" -d -i 1 "$KEYLOCK" key sh -c 'exit 8' 3>&- 4>&- &
	local second=$!
	wait_for 20 has_ticket "$second"
	kill -HUP "$first" "$second"
	has_ticket "$second"
	touch "$BATS_TEST_TMPDIR/c.go"
	status=0
	wait "$first" || status=$?
	expect 9
	status=0
	wait "$second" || status=$?
	expect 8
}

@test "SIGCHLD ignored by the caller: the status is passed on all the same" {
	local inherit
	inherit=$(probe inherit)
	run_it "$inherit" -d -i 17 "$KEYLOCK" key sh -c 'exit 9'
	expect 9
	run_it "$inherit" -d -b 17 "$KEYLOCK" key sh -c 'exit 9'
	expect 9
	run_it "$inherit" -d -b all -i all "$KEYLOCK" key sh -c 'exit 9'
	expect 9
}

@test "an alarm set by the caller reaches the command" {
	local inherit
	inherit=$(probe inherit)
	# With a process in between it comes by way of keylock,
	start_ended "$inherit" -a 200 "$KEYLOCK" key sleep 1000
	ended_as "signal $(kill -l ALRM)"
	[ "$(files)" = 0 ]
	start_ended "$inherit" -a 500 "$KEYLOCK" key sh -c 'trap "exit 9" ALRM
		while :; do sleep 0.01; done'
	ended_as 'exit 9'
	# and without one it is the command's own.
	run_it "$inherit" -d -a 100000 "$KEYLOCK" -F key "$inherit" -A
	expect 0
	[[ $output -gt 50000 && $output -le 100000 ]]
	run_it "$inherit" -d -a 100000 "$KEYLOCK" -w 10 -F key "$inherit" -A
	expect 0
	[[ $output -gt 50000 && $output -le 100000 ]]
	run_it "$inherit" -d "$KEYLOCK" -w 10 -F key "$inherit" -A
	[ "$output" = 0 ]
}

@test "an alarm set by the caller reaches the command after waiting" {
	local inherit how
	inherit=$(probe inherit)
	for how in -F '-w 100 -F'; do
		# shellcheck disable=SC2086
		after_waiting "$inherit" -d -a 100000 "$KEYLOCK" $how key "$inherit" -A
		expect 0
		[[ $output -gt 50000 && $output -le 100000 ]]
	done
}

@test "an alarm set by the caller ends a waiter, unless it is ignored or blocked" {
	local inherit how begin took
	inherit=$(probe inherit)
	keep flock
	for how in '' '-w 100'; do
		# shellcheck disable=SC2086
		start_ended "$inherit" -a 200 "$KEYLOCK" $how key touch "$BATS_TEST_TMPDIR/ran"
		ended_as "signal $(kill -l ALRM)"
	done
	for how in '-i 14' '-b 14'; do
		begin=$(milliseconds)
		# shellcheck disable=SC2086
		run_it "$inherit" -d $how -a 50 "$KEYLOCK" -w 0.3 key touch "$BATS_TEST_TMPDIR/ran"
		took=$(($(milliseconds) - begin))
		expect 75
		[ "$took" -ge 300 ]
	done
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# --- signals to a waiter ---

@test "a waiter dies of a signal, gives up its place, and leaves no file" {
	local signal
	ulimit -c 0
	for signal in INT TERM HUP QUIT USR1 USR2 ALRM PIPE VTALRM XCPU SEGV RTMIN RTMIN+3; do
		hold key
		start_ended "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
		wait_for 20 has_ticket "$keylock"
		kill -"$signal" "$keylock"
		ended_as "signal $(kill -l "$signal")"
		[ "$(files)" = 1 ]
		let_go
		expect 0
		[ "$(files)" = 0 ]
	done
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

@test "the signal that keylock wakes itself with is as good as any other to a waiter" {
	local inherit how
	inherit=$(probe inherit)
	hold key
	start_ended "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
	wait_for 20 has_ticket "$keylock"
	kill -RTMAX "$keylock"
	ended_as 'signal 64'
	# Ignored or blocked by the caller, it ends nobody.
	for how in '-i 64' '-b 64'; do
		# shellcheck disable=SC2086
		start_ended "$inherit" -d $how "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
		wait_for 20 has_ticket "$keylock"
		kill -RTMAX "$keylock"
		# Not pending any more: it has been taken. The first that ends decides how.
		wait_for 20 grep -q '^ShdPnd:.[0-7]' "/proc/$keylock/status"
		kill -TERM "$keylock"
		ended_as 'signal 15'
	done
	let_go
	[[ ! -e $BATS_TEST_TMPDIR/ran && $(files) == 0 ]]
}

@test "a waiter killed by TERM does not hold up those behind it" {
	local inherit first second
	inherit=$(probe inherit)
	hold key
	"$inherit" -d "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
	first=$!
	wait_for 20 has_ticket "$first"
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"
	kill -TERM "$first"
	status=0
	wait "$first" || status=$?
	expect 143
	has_ticket "$second"
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	let_go
	wait "$second"
	[ -e "$BATS_TEST_TMPDIR/served" ]
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 0 ]
}

@test "a signal to a waiter is noticed whenever it comes" {
	local early option
	early=$(probe early)
	hold key
	for option in -x -w100; do
		run_it "$early" "$(kill -l TERM)" 300 "$KEYLOCK" "$option" key touch \
			"$BATS_TEST_TMPDIR/ran"
		expect 0
		[ "$output" = 'worked=300 stuck=0 odd=0' ]
	done
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	let_go
	expect 0
	[ "$(files)" = 0 ]
}

@test "a waiter that is killed while the key becomes free leaves no file" {
	local i inherit waiter
	inherit=$(probe inherit)
	for i in {1..25}; do
		hold key
		"$inherit" -d "$KEYLOCK" key sleep 1000 3>&- 4>&- &
		waiter=$!
		wait_for 20 has_ticket "$waiter"
		if [ $((i % 2)) = 0 ]; then
			kill -KILL "$held"
			kill -TERM "$waiter"
		else
			kill -TERM "$waiter"
			kill -KILL "$held"
		fi
		status=0
		wait "$waiter" || status=$?
		expect 143
		status=0
		wait "$holder" || status=$?
		expect 137
		[ "$(files)" = 0 ]
	done
}

@test "signals that are ignored by default do not cost a waiter its place" {
	local before waiter
	hold key
	"$KEYLOCK" key sh -c 'exit 9' 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	before=$(ticket "$waiter")
	for signal in WINCH CONT URG CHLD; do
		kill -"$signal" "$waiter"
	done
	kill -STOP "$waiter"
	wait_for 20 in_state "$waiter" T
	kill -CONT "$waiter"
	wait_for 20 in_state "$waiter" S
	[ "$(ticket "$waiter")" = "$before" ]
	let_go
	status=0
	wait "$waiter" || status=$?
	expect 9
}

@test "TSTP to a waiter in a group that cannot be stopped does not hang it" {
	local i inherit waiter
	need setsid
	inherit=$(probe inherit)
	hold key
	# The kernel does not stop an orphaned group by a signal that a terminal could send.
	setsid "$inherit" -d "$KEYLOCK" key sh -c 'exit 9' 3>&- 4>&- &
	waiter=$!
	for i in {1..10}; do
		wait_for 20 has_ticket "$waiter"
		kill -TSTP "$waiter"
	done
	wait_for 20 has_ticket "$waiter"
	let_go
	status=0
	wait "$waiter" || status=$?
	expect 9
	[ "$(files)" = 0 ]
}

@test "CONT that comes while a waiter still gives its place up is not lost" {
	keep flock
	local holds=$keeper
	start_ended "$(probe inherit)" -g "$KEYLOCK" key sh -c 'exit 9'
	wait_for 20 has_ticket "$keylock"
	# With the gate closed giving up takes 100 ms.
	keep gate
	kill -TSTP "$keylock"
	wait_for 20 eval '! has_ticket "$keylock"'
	kill -CONT "$keylock"
	stop_keeping
	keeper=$holds
	stop_keeping
	ended_as 'exit 9'
	[ "$(files)" = 0 ]
}

@test "TSTP in the moment in which a leaving holder's way is free does not change the status" {
	local i
	for i in {1..6}; do
		rm -f "$BATS_TEST_TMPDIR/go"
		start_ended "$(probe inherit)" -g "$KEYLOCK" key sh -c \
			'until [ -e "$0" ]; do sleep 0.01; done; exit 9' "$BATS_TEST_TMPDIR/go"
		wait_for 20 test -e "$KEYLOCK_DIR/key"
		# Byte 2 is what nested runs, and a holder that leaves, have.
		keep ticket=2 "stop=$keylock"
		: >"$BATS_TEST_TMPDIR/go"
		wait_for 20 blocked "$KEYLOCK_DIR/key"
		kill -USR1 "$keeper"
		wait_for 20 eval 'in_state "$keylock" T || ! kill -0 "$keylock" 2>/dev/null'
		kill -CONT "$keylock" || :
		ended_as 'exit 9'
		stop_keeping
	done
}

# Stopped for good, and not for a moment by a tracer.
stays_stopped() {
	local i
	for i in {1..10}; do
		in_state "$1" Tt || return
		sleep 0.01
	done
}

@test "TSTP just as the key is had, with a holder before that still leaves: queues anew" {
	need strace
	keep ticket=2
	start_ended "$(probe inherit)" -g strace -D -qq -o /dev/null -e trace=flock \
		-e inject=flock:signal=TSTP:when=1 "$KEYLOCK" key sh -c 'exit 9'
	wait_for 20 stays_stopped "$keylock"
	stop_keeping
	kill -CONT "$keylock"
	ended_as 'exit 9'
}

# --- special commands and callers ---

@test "process 1 of a pid namespace ends with 128+N" {
	local file=$BATS_TEST_TMPDIR/end inherit unshare signal
	need unshare
	inherit=$(probe inherit)
	if unshare -p --fork true 2>/dev/null; then
		unshare=(unshare -p --fork --kill-child)
	elif unshare -Urp --fork true 2>/dev/null; then
		unshare=(unshare -Urp --fork --kill-child)
	else
		skip 'may not make a pid namespace'
	fi
	for signal in TERM KILL SEGV HUP; do
		run_it ended "$file" "$inherit" -d "${unshare[@]}" "$KEYLOCK" key sh -c "kill -$signal \$\$"
		[ "$(cat "$file")" = "exit $((128 + $(kill -l "$signal")))" ]
	done
	run_it ended "$file" "$inherit" -d "${unshare[@]}" "$KEYLOCK" key sh -c 'exit 9'
	[ "$(cat "$file")" = 'exit 9' ]
	[ "$(files)" = 0 ]
}

@test "a script without #! is run by the shell" {
	local script=$BATS_TEST_TMPDIR/a-script option
	printf 'echo "$0" "$#" "$1" "$2"\nexit 9\n' >"$script"
	chmod 755 "$script"
	for option in -x -F -o; do
		run_keylock "$option" key "$script" 'a b' ''
		expect 9
		[ "$output" = "$script 2 a b " ]
		[ "$stderr" = '' ]
		PATH=$BATS_TEST_TMPDIR:$PATH run_keylock "$option" key a-script 'a b' ''
		expect 9
		[ "$output" = "$script 2 a b " ]
	done
}

#!/usr/bin/env bats
# Signals to keylock, and what of the caller's signals and timers reaches the command.

# The words of a case are split on purpose (SC2086); inner shells' and the helper's variables.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2153,SC2154
load helper

# A shell that is not interactive starts its background processes with INT and QUIT ignored:
# "inherit -d" makes all signals what they are at a prompt, and then execs.
setup() {
	keylock_setup
	inherit=$(probe inherit)
	ran=$BATS_TEST_TMPDIR/ran
}

# Starts a keylock command in the background, sets keylock and watcher. ended_as checks how it ended.
start_ended() {
	local file=$BATS_TEST_TMPDIR/end ended
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
	start_ended "$inherit" -g "$KEYLOCK" key "$(probe recorder)" "$log" "$@"
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

# Runs a command under a taken key: starts it in the background, lets it wait, lets the holder go.
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

# Starts keylock, sends it SIGNAL as it starts, a few hundred times; see early.py.
at_every_moment() {
	run_it python3 "$BATS_TEST_DIRNAME/tools/early.py" "$(kill -l "$1")" 250 "$KEYLOCK" "${@:2}"
	expect 0
	[ "$output" = 'worked=250 stuck=0 odd=0' ]
}

@test "P6 each signal that can be caught reaches the command once, TERM and the like again and again" {
	local i signal expected
	start_recorder
	expected="ready $recorder"
	for i in {1..10}; do
		for signal in TERM HUP INT USR1 ALRM; do
			send "$signal"
			expected+=$'\n'"$(kill -l "$signal") process"
		done
	done
	# Not KILL, STOP and CHLD, and not 32 and 33, which are the C library's own; the last real-time
	# signal ends the recorder.
	for signal in {1..8} {10..16} 18 {20..31} {34..64}; do
		send "$signal"
		expected+=$'\n'"$signal process"
	done
	ended_as 'exit 7'
	diff - "$log" <<<"$expected"
	[ "$(files)" = 0 ]
}

@test "P6 a signal that queues up reaches the command as often as it was sent" {
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

@test "P6 what the command sends to its whole group is not sent back to it" {
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

@test "P6 keylock ends after the command, with its status, or dies of the same signal" {
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
	for signal in TERM HUP INT USR1 ALRM RTMIN; do
		start_ended "$KEYLOCK" key sh -c 'echo >"$0.$1"; exec sleep 1000' "$ran" "$signal"
		wait_for 20 test -e "$ran.$signal"
		kill -"$signal" "$keylock"
		ended_as "signal $(kill -l "$signal")"
		[ "$(files)" = 0 ]
	done
}

@test "P6 a signal that comes while the command starts is not lost, and Ctrl-Z stops keylock then" {
	need python3
	at_every_moment TERM key sleep 1000
	# No command has been left running, no file either.
	[[ -z $(left_over) && $(files) == 0 ]]
	at_every_moment TSTP key sleep 1000
	at_every_moment TSTP -F key sleep 1000
}

@test "P9 a signal to a waiter is noticed whenever it comes, and Ctrl-Z stops it" {
	local signal
	need python3
	hold key
	for signal in TERM TSTP; do
		at_every_moment "$signal" key touch "$ran"
		at_every_moment "$signal" -w100 key touch "$ran"
	done
	[ ! -e "$ran" ]
	let_go
	expect 0
	[ "$(files)" = 0 ]
}

@test "P6 the command stops as at a terminal: keylock stops, too, and continues it" {
	local signal
	for signal in TSTP TTIN TTOU; do
		# In a group that a shell could continue: the kernel stops no other by these signals.
		start_ended "$inherit" -g "$KEYLOCK" key sh -c 'mkfifo "$0"; exec 8<>"$0"
			echo $$ >"$0.new"; mv "$0.new" "$0.pid"; read -r _ <&8' "$ran.$signal"
		wait_for 20 test -e "$ran.$signal.pid"
		held=$(cat "$ran.$signal.pid")
		kill -"$signal" "$held"
		wait_for 20 in_state "$held" T
		wait_for 20 in_state "$keylock" T
		run_keylock -n key true
		expect 75
		kill -CONT "$keylock"
		wait_for 20 in_state "$held" S
		wait_for 20 in_state "$keylock" S
		echo 1<>"$ran.$signal"
		ended_as 'exit 0'
		[ "$(files)" = 0 ]
	done
}

@test "P2 a command that is stopped by SIGSTOP and continued alone: keylock ends with it" {
	hold key
	kill -STOP "$held"
	wait_for 20 in_state "$held" T
	run_keylock -n key true
	expect 75
	kill -CONT "$held"
	wait_for 20 in_state "$held" S
	echo 1<>"$BATS_TEST_TMPDIR/holder.$holder"
	wait_for 20 is_dead "$holder"
	ended_with "$holder" 0
	[ "$(files)" = 0 ]
}

@test "P6 SIGSTOP and SIGCONT to the whole group leave nobody stopped" {
	local i command
	# A shell that forks would not do: it cannot stop while its child is stopped before its exec.
	"$inherit" -g "$KEYLOCK" key sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0.pid"
		exec sleep 1000' "$ran" 3>&- 4>&- &
	local wrapper=$!
	wait_for 20 test -e "$ran.pid"
	command=$(cat "$ran.pid")
	for i in {1..20}; do
		kill -STOP -- "-$wrapper"
		wait_for 20 in_state "$wrapper" T
		wait_for 20 in_state "$command" T
		kill -CONT -- "-$wrapper"
		wait_for 20 in_state "$wrapper" SRD
		wait_for 20 in_state "$command" SRD
	done
	kill -TERM "$command"
	ended_with "$wrapper" 143
}

# --- what the command inherits ---

# A command that prints its mask, what it ignores, and its umask; it changes none of them itself.
show=(grep -E '^(SigBlk|SigIgn|Umask)' /proc/self/status)

@test "P6 mask, dispositions and umask reach the command as they were, after waiting, too" {
	local what how expected
	for what in '' '-b all' '-i all' '-b all -i all' '-b 14 -i 14 -u 0777' '-b 15 -i 1 -i 2' '-i 17' \
		'-b 17 -b 18 -b 20' '-u 0'; do
		run_it "$inherit" -d $what "${show[@]}"
		expect 0
		[ "$(wc -l <<<"$output")" = 3 ]
		expected=$output
		for how in '' -F -o -l -s -n '-w 100' '-w 100 -F'; do
			run_it "$inherit" -d $what "$KEYLOCK" $how key "${show[@]}"
			expect 0
			[ "$output" = "$expected" ]
		done
		case $what in
		'' | '-b all' | '-i all' | *-u*777)
			for how in '' -F '-w 100' '-w 100 -F' '-w 100 -s'; do
				echo "after waiting, caller: $what, keylock $how"
				after_waiting "$inherit" -d $what "$KEYLOCK" $how key "${show[@]}"
				expect 0
				diff - <(echo "$output") <<<"$expected"
			done
			;;
		esac
		# The shell may change something itself: dash takes SIGCHLD back.
		run_it "$inherit" -d $what sh -c "exec $(printf '%q ' "${show[@]}")"
		expected=$output
		run_it "$inherit" -d $what "$KEYLOCK" key -c "exec $(printf '%q ' "${show[@]}")"
		expect 0
		[ "$output" = "$expected" ]
	done
	[ "$(files)" = 0 ]
}

@test "P6 nohup: an ignored SIGHUP stays ignored, by keylock, too, running or waiting" {
	local option first second
	need nohup
	for option in -x -F; do
		run_it nohup "$KEYLOCK" "$option" key sh -c 'kill -HUP $$; echo alive'
		expect 0
		[ "$output" = alive ]
	done
	"$inherit" -d -i 1 "$KEYLOCK" key sh -c 'echo >"$0.ready"
		until [ -e "$0.go" ]; do sleep 0.01; done; exit 9' "$ran" 3>&- 4>&- &
	first=$!
	wait_for 20 test -e "$ran.ready"
	"$inherit" -d -i 1 "$KEYLOCK" key sh -c 'exit 8' 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"
	kill -HUP "$first" "$second"
	has_ticket "$second"
	touch "$ran.go"
	ended_with "$first" 9
	ended_with "$second" 8
}

@test "P6 SIGCHLD ignored or blocked by the caller: the status is passed on all the same" {
	local how
	for how in '-i 17' '-b 17' '-b all -i all'; do
		run_it "$inherit" -d $how "$KEYLOCK" key sh -c 'exit 9'
		expect 9
	done
}

@test "P6 an alarm set by the caller reaches the command, after waiting, too" {
	local how
	# With a process in between it comes by way of keylock,
	start_ended "$inherit" -a 200 "$KEYLOCK" key sleep 1000
	ended_as "signal $(kill -l ALRM)"
	[ "$(files)" = 0 ]
	start_ended "$inherit" -a 500 "$KEYLOCK" key sh -c 'trap "exit 9" ALRM
		while :; do sleep 0.01; done'
	ended_as 'exit 9'
	# and without one it is the command's own.
	for how in -F '-w 10 -F'; do
		run_it "$inherit" -d -a 100000 "$KEYLOCK" $how key "$inherit" -A
		expect 0
		[[ $output -gt 50000 && $output -le 100000 ]]
		after_waiting "$inherit" -d -a 100000 "$KEYLOCK" $how key "$inherit" -A
		expect 0
		[[ $output -gt 50000 && $output -le 100000 ]]
		run_it "$inherit" -d "$KEYLOCK" $how key "$inherit" -A
		[ "$output" = 0 ]
	done
}

@test "P9 an alarm set by the caller ends a waiter, unless it is ignored or blocked" {
	local how begin took
	keep flock
	for how in '' '-w 100'; do
		start_ended "$inherit" -a 200 "$KEYLOCK" $how key touch "$ran"
		ended_as "signal $(kill -l ALRM)"
	done
	for how in '-i 14' '-b 14'; do
		begin=$(milliseconds)
		run_it "$inherit" -d $how -a 50 "$KEYLOCK" -w 0.3 key touch "$ran"
		took=$(($(milliseconds) - begin))
		expect 75
		[ "$took" -ge 300 ]
	done
	[ ! -e "$ran" ]
}

# --- signals to a waiter ---

@test "P9 a waiter dies of a signal, gives up its place, and leaves no file" {
	local signal
	ulimit -c 0
	# Those that are caught while waiting, and of the others some.
	for signal in HUP INT QUIT PIPE ALRM TERM USR1 USR2 XCPU PWR VTALRM SEGV RTMIN RTMIN+3; do
		hold key
		start_ended "$KEYLOCK" key touch "$ran"
		wait_for 20 has_ticket "$keylock"
		kill -"$signal" "$keylock"
		ended_as "signal $(kill -l "$signal")"
		[ "$(files)" = 1 ]
		let_go
		expect 0
		[ "$(files)" = 0 ]
	done
	[ ! -e "$ran" ]
}

@test "P4 a waiter killed by TERM does not hold up those behind it" {
	local first second
	hold key
	"$inherit" -d "$KEYLOCK" key touch "$ran" 3>&- 4>&- &
	first=$!
	wait_for 20 has_ticket "$first"
	"$KEYLOCK" key touch "$ran.served" 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"
	kill -TERM "$first"
	ended_with "$first" 143
	has_ticket "$second"
	[ ! -e "$ran.served" ]
	let_go
	wait "$second"
	[[ -e $ran.served && ! -e $ran && $(files) == 0 ]]
}

@test "P3 a waiter that is killed while the key becomes free leaves no file" {
	local i waiter
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
		ended_with "$waiter" 143
		ended_with "$holder" 137
		[ "$(files)" = 0 ]
	done
}

@test "P4 signals that are ignored by default do not cost a waiter its place" {
	local before signal waiter
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
	ended_with "$waiter" 9
}

@test "P9 TSTP to a waiter in a group that cannot be stopped does not hang it" {
	local i waiter
	need setsid
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
	ended_with "$waiter" 9
	[ "$(files)" = 0 ]
}

@test "P4 TSTP to one that waits for guests to leave: it stops, and queues anew" {
	# Somebody runs under an ancestor that has gone: the lock is free, and still not to be had.
	keep reader=2
	start_ended "$inherit" -g "$KEYLOCK" key sh -c 'exit 9'
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	kill -TSTP "$keylock"
	wait_for 20 in_state "$keylock" T
	[ -z "$(ticket "$keylock")" ]
	kill -CONT "$keylock"
	wait_for 20 has_ticket "$keylock"
	stop_keeping
	ended_as 'exit 9'
	[ "$(files)" = 0 ]
}

@test "P1 who queues anew knows nothing any more of what it had found in its first wait" {
	local outer inner other
	hold b
	# The nested run has a's leave, and waits for b; then it is nested no more, and is stopped.
	"$KEYLOCK" -o a sh -c '"$0" -g "$KEYLOCK" -r -k a b touch "$1" &
		echo $! >"$1.new"; mv "$1.new" "$1.pid"
		until [ -e "$1.go" ]; do sleep 0.01; done' "$inherit" "$ran" 3>&- 4>&- &
	outer=$!
	wait_for 20 test -e "$ran.pid"
	inner=$(cat "$ran.pid")
	wait_for 20 has_ticket "$inner"
	touch "$ran.go"
	wait_for 20 is_dead "$outer"
	ended_with "$outer" 0
	"$KEYLOCK" a sh -c 'echo >"$0"; until [ -e "$0.go" ]; do sleep 0.01; done' "$ran.other" 3>&- 4>&- &
	other=$!
	wait_for 20 has_ticket "$other"
	kill -TSTP "$inner"
	# Where no shell could continue it, it does not stop.
	wait_for 20 test -e "$ran.other"
	kill -CONT "$inner"
	wait_for 20 has_ticket "$inner"
	let_go
	has_ticket "$inner"
	[ ! -e "$ran" ]
	touch "$ran.other.go"
	ended_with "$other" 0
	wait_for 20 test -e "$ran"
	wait_for 20 is_dead "$inner"
	[ "$(files)" = 0 ]
}

@test "P6 process 1 of a pid namespace ends with 128+N" {
	local file=$BATS_TEST_TMPDIR/end unshare signal
	need unshare
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

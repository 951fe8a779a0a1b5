# Signals to keylock, and what of the caller's signals and timers reaches the command.

load helper

inherit=$tools/inherit.py

# Starts a command line in the background, sets keylock, its pid. ended_as checks how it ended.
start_ended() {
	rm -f "$work/end" "$work/end.pid"
	"$tools/ended.py" "$work/end" "$@" 3>&- 4>&- &
	watcher=$!
	wait_for 20 test -s "$work/end.pid"
	keylock=$(cat "$work/end.pid")
}

ended_as() {
	wait "$watcher"
	echo "ended: $(cat "$work/end")"
	[ "$(cat "$work/end")" = "$1" ]
}

# start_job ARG…: start_ended a keylock, returns when its command runs, which does what it is told, and has
# no child: a shell cannot stop while its child is stopped before its exec.
start_job() {
	new_hold
	start_ended "$@" "${obeys[@]}"
	has_begun
}

# Starts keylock in the background as a shell with job control would. Sets waiter when it waits.
start_waiter() {
	line_up_by "$inherit" -d "$@"
}

# Starts keylock with the recorder (see recorder.py) as its command. Sets keylock and recorder.
start_recorder() {
	log=$work/log recorded=1
	# In a group of its own: with -g the recorder sends to its group.
	start_ended "$inherit" -g "$KEYLOCK" key "$tools/recorder.py" "$log" "$@"
	wait_for 20 has_lines 1 "$log"
	read -r _ recorder <"$log"
}

# Sends keylock a signal and waits until the command has got one more, or so many. What keylock was sent
# before is with the recorder by then, since keylock takes one signal after the other, the lowest number
# first.
send() {
	kill -"$1" "$keylock"
	recorded=$((recorded + ${2-1}))
	wait_for 20 has_lines "$recorded" "$log"
}

# it_prints for a command line under a taken key: it waits in the background, and the holder lets it go.
prints_after_waiting() {
	hold key
	start_waiter "${@:2}" >"$out"
	let_go
	ended_with "$waiter" 0
	diff - "$out" <<<"$1"
}

# Starts keylock, sends it SIGNAL as it starts, a few hundred times; see early.py.
at_every_moment() {
	it_prints 'worked=250 stuck=0 odd=0' python3 "$tools/early.py" "$(kill -l "$1")" 250 "$KEYLOCK" "${@:2}"
}

# --- signals to one that runs ---

@test "P6 each signal that can be caught reaches the command once, one that queues up as often as it was sent" {
	start_recorder
	expected="ready $recorder"
	for i in {1..10}; do
		for signal in TERM HUP INT USR1 ALRM; do
			send "$signal"
			expected+=$'\n'"$(kill -l "$signal") process"
		done
	done
	# A second one of a lower signal can be lost in a queue of one, and nobody could tell.
	for i in {1..9}; do
		kill -RTMIN+5 "$keylock"
	done
	send RTMIN+5 10
	expected+=$(printf "\n$(kill -l RTMIN+5) process%.0s" {1..10})
	# Not KILL, STOP and CHLD, and not 32 and 33, which are the C library's own; the last real-time
	# signal ends the recorder.
	for signal in {1..8} {10..16} 18 {20..31} {34..64}; do
		[ "$signal" != 64 ] || taken key
		send "$signal"
		expected+=$'\n'"$signal process"
	done
	ended_as 'exit 7'
	diff - "$log" <<<"$expected"
}

@test "P6 what the command sends to its whole group is not sent back to it" {
	start_recorder -g
	for i in {1..20}; do
		# Makes it send USR1 to the group, keylock included.
		send USR2 2
		# What would come back would have come before this one, whose number is higher.
		send TERM
	done
	kill -RTMAX "$recorder"
	ended_as 'exit 7'
	[ "$(grep -c "^$(kill -l USR1) " "$log")" = 20 ]
	[ "$(grep -c "^$(kill -l USR2) " "$log")" = 20 ]
}

@test "P6 a signal that comes while the command starts is not lost, and Ctrl-Z stops keylock then" {
	at_every_moment TERM key sleep 1000
	[[ -z $(left_over) && $(files) == 0 ]]
	at_every_moment TSTP key sleep 1000
	at_every_moment TSTP -F key sleep 1000
	free key
}

@test "P9 a signal to a waiter is noticed whenever it comes, and Ctrl-Z stops it" {
	hold key
	for signal in TERM TSTP; do
		at_every_moment "$signal" key touch "$ran"
		at_every_moment "$signal" -w100 key touch "$ran"
	done
	not_run
	let_go
	expect 0
}

@test "P6 SIGSTOP and SIGCONT, to the command alone or to the whole group, leave nobody stopped" {
	start_job "$inherit" -g "$KEYLOCK" key
	kill -STOP "$held"
	wait_for 20 in_state "$held" T
	taken key
	kill -CONT "$held"
	tell "$held" let_go 'exit 9'
	ended_as 'exit 9'
	start_job "$inherit" -g "$KEYLOCK" key
	for i in {1..20}; do
		for what in STOP=T CONT=SRD; do
			kill -"${what%=*}" -- "-$keylock"
			for pid in "$keylock" "$held"; do
				wait_for 20 in_state "$pid" "${what#*=}"
			done
		done
	done
	tell "$held" let_go 'exit 9'
	ended_as 'exit 9'
}

# --- what the command inherits ---

@test "P6 mask, dispositions and umask reach the command as they were, after waiting, too" {
	show=(grep -E '^(SigBlk|SigIgn|Umask)' /proc/self/status)
	for what in '' '-b all' '-i all' '-b all -i all' '-b 14 -i 14 -u 0777' '-i 17 -u 0' \
		'-b 15 -b 17 -b 18 -b 20 -i 1 -i 2'; do
		run_it "$inherit" -d $what "${show[@]}"
		[ "$(wc -l <<<"$output")" = 3 ]
		expected=$output
		hows=('' -F)
		case $what in
		'' | '-b all' | '-i all' | *-u*777)
			hows+=(-o -l -s -n '-w 100' '-w 100 -F')
			for how in '' -F '-w 100' '-w 100 -F' '-w 100 -s'; do
				echo "after waiting, caller: $what, keylock $how"
				prints_after_waiting "$expected" $what "$KEYLOCK" $how key "${show[@]}"
			done
			;;
		esac
		for how in "${hows[@]}"; do
			it_prints "$expected" "$inherit" -d $what "$KEYLOCK" $how key "${show[@]}"
		done
		# The shell may change something itself: dash takes SIGCHLD back.
		run_it "$inherit" -d $what sh -c "exec $(printf '%q ' "${show[@]}")"
		it_prints "$output" "$inherit" -d $what "$KEYLOCK" key -c "exec $(printf '%q ' "${show[@]}")"
		it_gives 9 "$inherit" -d $what "$KEYLOCK" key sh -c 'exit 9'
	done
}

@test "P6 nohup: an ignored SIGHUP stays ignored, by keylock, too, running or waiting" {
	hold_by "$inherit" -d -i 1 "$KEYLOCK" key
	start_waiter -i 1 "$KEYLOCK" key sh -c 'exit 8'
	kill -HUP "$holder" "$waiter"
	has_ticket "$waiter"
	let_go "$holder" 'exit 9'
	expect 9
	ended_with "$waiter" 8
}

@test "P6 an alarm set by the caller reaches the command, after waiting, too" {
	# With a process in between it comes by way of keylock,
	start_ended "$inherit" -a 200 "$KEYLOCK" key sleep 1000
	ended_as "signal $(kill -l ALRM)"
	[ "$(files)" = 0 ]
	start_ended "$inherit" -a 500 "$KEYLOCK" key sh -c 'trap "exit 9" ALRM; while :; do sleep 0.01; done'
	ended_as 'exit 9'
	# and without one it is the command's own.
	for how in -F '-w 10 -F'; do
		hold key
		start_waiter -a 100000 "$KEYLOCK" $how key "$inherit" -A >"$work/waited"
		let_go
		ended_with "$waiter" 0
		it_gives 0 "$inherit" -d -a 100000 "$KEYLOCK" $how key "$inherit" -A
		for left in "$output" "$(cat "$work/waited")"; do
			[[ $left -gt 50000 && $left -le 100000 ]]
		done
		it_prints 0 "$inherit" -d "$KEYLOCK" $how key "$inherit" -A
		free key
	done
}

@test "P9 an alarm set by the caller ends a waiter, unless it is ignored or blocked" {
	keep flock
	for how in '' '-w 100'; do
		start_ended "$inherit" -a 200 "$KEYLOCK" $how key touch "$ran"
		ended_as "signal $(kill -l ALRM)"
	done
	for how in '-i 14' '-b 14'; do
		gives_up_after 300 "$inherit" -d $how -a 50 "$KEYLOCK" -w 0.3 key
	done
}

# --- signals to a waiter ---

@test "P4 P9 a waiter dies of a signal, gives up its place to those behind it, and leaves no file" {
	waiter=''
	ulimit -c 0
	hold key
	for signal in TERM HUP INT QUIT PIPE ALRM USR1 USR2 XCPU PWR VTALRM SEGV RTMIN RTMIN+3; do
		start_ended "$KEYLOCK" key touch "$ran"
		wait_for 20 has_ticket "$keylock"
		[ -n "$waiter" ] || start_waiter "$KEYLOCK" key touch "$served"
		kill -"$signal" "$keylock"
		ended_as "signal $(kill -l "$signal")"
		[ "$(files)" = 1 ]
	done
	has_ticket "$waiter"
	let_go
	ended_with "$waiter" 0
	[ -e "$served" ]
}

@test "P3 a waiter that is killed while the key becomes free leaves no file" {
	for i in {1..25}; do
		hold key
		start_waiter "$KEYLOCK" key sleep 1000
		[ $((i % 2)) = 0 ] || kill -TERM "$waiter"
		kill -KILL "$held"
		[ $((i % 2)) = 1 ] || kill -TERM "$waiter"
		ended_with "$waiter" 143
		ended_with "$holder" 137
		[ "$(files)" = 0 ]
	done
}

@test "P9 TSTP to a waiter in a group that cannot be stopped does not hang it" {
	need setsid
	hold key
	# The kernel does not stop an orphaned group by a signal that a terminal could send.
	start_waiter setsid "$KEYLOCK" key sh -c 'exit 9'
	for i in {1..10}; do
		kill -TSTP "$waiter"
		wait_for 20 has_ticket "$waiter"
	done
	let_go
	ended_with "$waiter" 9
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
}

@test "P1 who queues anew knows nothing any more of what it had found in its first wait" {
	hold b
	b=$holder
	# The nested run has a's leave, and waits for b; then it is nested no more, and is stopped.
	hold -o a
	starts "$holder" "'$inherit' -g \"\$KEYLOCK\" -r -k a b touch \"\$served\""
	nested=$started
	wait_for 20 has_ticket "$nested"
	let_go
	new_hold
	line_up a "${obeys[@]}"
	kill -TSTP "$nested"
	has_begun
	# Where no shell could continue it, it does not stop.
	kill -CONT "$nested"
	wait_for 20 has_ticket "$nested"
	let_go "$b"
	has_ticket "$nested"
	[ ! -e "$served" ]
	tell "$held" let_go exit
	wait_for 20 test -e "$served"
	wait_for 20 is_dead "$nested"
}

@test "P6 process 1 of a pid namespace ends with 128+N" {
	need unshare
	if unshare -p --fork true 2>/dev/null; then
		unshare=(unshare -p --fork --kill-child)
	elif unshare -Urp --fork true 2>/dev/null; then
		unshare=(unshare -Urp --fork --kill-child)
	else
		skip 'may not make a pid namespace'
	fi
	while read -r expected how; do
		run_it "$tools/ended.py" "$work/end" "${unshare[@]}" "$KEYLOCK" key sh -c "$how"
		[ "$(cat "$work/end")" = "exit $expected" ]
	done <<-'END'
		143 kill -TERM $$
		137 kill -KILL $$
		139 kill -SEGV $$
		129 kill -HUP $$
		9 exit 9
	END
}

@test "P9 a signal that comes between the last look for one and the sleep is not slept over" {
	need strace
	hold key
	# The calls by which signals are let in and kept out return half a second late.
	strace -qq -o /dev/null -e trace=rt_sigprocmask -e inject=rt_sigprocmask:delay_exit=500000 \
		"$KEYLOCK" key touch "$ran" 3>&- 4>&- &
	waiter=$!
	wait_for 20 eval 'keylock=$(children "$waiter") && has_ticket "$keylock"'
	# TERM is let in, kept out for the look after a second, and let in again.
	for blocked in 0 1 0; do
		wait_for 20 eval '[ $((0x$(sed -n "s/^SigBlk:.//p" "/proc/$keylock/status") >> 14 & 1)) = $blocked ]'
	done
	kill -TERM "$keylock"
	wait_for 20 is_dead "$keylock"
	let_go
}

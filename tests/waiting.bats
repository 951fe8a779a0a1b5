#!/usr/bin/env bats
# Waiting: in turn, asleep, and no longer than -w says.

# The words of a case are split on purpose (SC2086); inner shells' and the helper's variables.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2153,SC2154
load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
}

# Starts a keylock with these options whose command adds NAME to the file "order" and then, when
# there is a file "slow", waits until there is a file NAME.end. Returns at once; sets waiter.
contend() {
	local name=$1
	shift
	"$KEYLOCK" "$@" key sh -c 'cd "$1" && echo "$0" >>order
		[ ! -e slow ] || until [ -e "$0.end" ]; do sleep 0.01; done' \
		"$name" "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	waiter=$!
}

# The same, but returns when it has its place in the line.
queue() {
	contend "$@"
	wait_for 20 has_ticket "$waiter"
}

last_is() {
	[ "$(tail -n 1 "$BATS_TEST_TMPDIR/order" 2>/dev/null)" = "$1" ]
}

past() {
	[ "$(milliseconds)" -gt "$1" ]
}

# Runs COMMAND, which is to be a keylock that gives up after MILLISECONDS: not before, and not much
# later, although the machine may be busy.
gives_up_after() {
	local wait=$1 begin took
	shift
	begin=$(milliseconds)
	run_it "$@" touch "$ran"
	took=$(($(milliseconds) - begin))
	echo "took $took ms"
	expect 75
	[ ! -e "$ran" ]
	[ "$took" -ge "$wait" ]
	[ "$took" -lt $((wait + 2000)) ]
}

@test "P4 200 waiters run in the order in which they came" {
	local i expected='' waiters=() ends=()
	hold key
	for i in {1..200}; do
		case $i in
		# Long enough for this one to have its place, which is not what is tested.
		150) queue "$i" -w 1 ;;
		*) queue "$i" ;;
		esac
		waiters[i]=$waiter ends[i]=0
		[[ $i == 50 || $i == 150 ]] || expected+=${expected:+ }$i
	done
	kill -KILL "${waiters[50]}"
	ends[50]=137 ends[150]=75
	ended_with "${waiters[150]}" 75
	# This one sleeps through its turn. The others have to wait for it.
	kill -STOP "${waiters[120]}"
	wait_for 20 in_state "${waiters[120]}" T
	order_is ''
	let_go
	wait_for 20 last_is 119
	run_keylock -n key true
	expect 75
	last_is 119
	kill -CONT "${waiters[120]}"
	unset 'waiters[150]'
	for i in "${!waiters[@]}"; do
		ended_with "${waiters[i]}" "${ends[i]}"
	done
	order
	order_is "$expected"
	[ "$(files)" = 0 ]
}

@test "P4 in a stream of arrivals nobody is served before one that came earlier" {
	local arrivals count=1500 others=500 keylock
	[ -z "${KEYLOCK_LONG-}" ] || others=$count
	arrivals=$(probe arrivals)
	# With what beginning and ending takes, each holds for about those 2 ms: so there is a line,
	# and the next one comes at any point of a hand-over.
	run_it "$arrivals" "$BATS_TEST_TMPDIR/served" "$count" 2000 1800 "$KEYLOCK" key
	expect 0
	[[ $output =~ ^served=$count\ waited=([0-9]+)\ barged=([0-9]+)\ late=([0-9]+)$ ]]
	[ "${BASH_REMATCH[2]}" = 0 ]
	[ "${BASH_REMATCH[1]}" -ge 10 ]
	[ "$(files)" = 0 ]
	keylock=$output
	if command -v flock >/dev/null; then
		run_it "$arrivals" "$BATS_TEST_TMPDIR/served" "$others" 2000 1800 \
			flock "$BATS_TEST_TMPDIR/lock"
		echo "# keylock: $keylock; flock(1): $output" >&3
	fi
}

@test "P4 an exclusive waiter is served though shared holders keep coming; P1 it is alone, they hold together" {
	local name first exclusive others=()
	touch "$BATS_TEST_TMPDIR/slow"
	contend s0 -s
	first=$waiter
	wait_for 20 order_is s0
	queue x
	exclusive=$waiter
	for name in s1 s2 s3; do
		queue "$name" -s
		others+=("$waiter")
	done
	# With -n, too, nobody passes one that waits.
	run_keylock -n -s key true
	expect 75
	order_is s0
	touch "$BATS_TEST_TMPDIR/s0.end"
	ended_with "$first" 0
	wait_for 20 order_is 's0 x'
	run_keylock -n -s key true
	expect 75
	order_is 's0 x'
	touch "$BATS_TEST_TMPDIR/x.end"
	ended_with "$exclusive" 0
	# And then all of them at the same time: none has been told to end.
	wait_for 20 has_lines 5 "$BATS_TEST_TMPDIR/order"
	queue last
	for name in 1 2 3; do
		run_keylock -n key true
		expect 75
		has_ticket "$waiter"
		touch "$BATS_TEST_TMPDIR/s$name.end"
		ended_with "${others[name - 1]}" 0
	done
	touch "$BATS_TEST_TMPDIR/last.end"
	ended_with "$waiter" 0
	last_is last
	[ "$(files)" = 0 ]
}

switches_of() {
	local pid
	for pid; do
		switches "$pid"
	done
}

# rest PID...: for two seconds none of them is put on a processor.
rest() {
	local before
	before=$(switches_of "$@")
	sleep 2
	[[ -n $before && $(switches_of "$@") == "$before" ]]
}

@test "P5 a waiter sleeps: no context switch in two seconds" {
	local options waiters=()
	hold key
	for options in '' '-w 100' -s '-s -w 1h'; do
		queue any $options
		waiters+=("$waiter")
	done
	# First in line with a time-out, under a key of its own.
	hold other
	"$KEYLOCK" -w 100 other true 3>&- 4>&- &
	wait_for 20 has_ticket $!
	waiters+=("$!")
	# After a second of waiting keylock may take its one look at who is before it.
	wait_for 20 rest "${waiters[@]}"
	for waiter in "${waiters[@]}"; do
		in_state "$waiter" S
	done
}

@test "P9 -n -s beside 1,000 others never fails on a key that only shared holders have" {
	hold -s key
	run_it "$(probe crowd)" 1000 "$KEYLOCK" -n -s key true
	expect 0
	[ "$output" = '0 1000' ]
	let_go
	expect 0
	[ "$(files)" = 0 ]
	# And where the file comes and goes beside them.
	run_it "$(probe crowd)" 300 "$KEYLOCK" -n -s key true
	[ "$output" = '0 300' ]
	[ "$(files)" = 0 ]
}

@test "P9 -w 0.2 ends after 0.2 s, and -n at once, at each place where acquiring can wait" {
	local what option inherit
	inherit=$(probe inherit)
	for what in flock ticket=1000 'ticket=1000 flock presence' gate 'gate flock' reader=2 \
		'gate ticket=5000 flock presence' replace=1 replace=30; do
		echo "kept: $what"
		keep $what
		gives_up_after 200 "$KEYLOCK" -w 0.2 key
		gives_up_after 200 "$KEYLOCK" -s -w 200ms key
		# Where the caller has blocked and ignored every signal, SIGALRM, too.
		gives_up_after 200 "$inherit" -b all -i all "$KEYLOCK" -w 0.2 key
		for option in -n -w0 -sn; do
			case $what in
			# Nobody has the key.
			gate | replace*) ;;
			*) gives_up_after 0 "$KEYLOCK" "$option" key ;;
			esac
		done
		stop_keeping
	done
	rm -f "$KEYLOCK_DIR"/*.other
	# What was kept has left its file; the next run takes it away.
	run_keylock key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "P9 -w 0.2 ends after 0.2 s behind holders and waiters, whatever signals come that it need not die of" {
	hold key
	gives_up_after 500 sh -c 'while kill -WINCH $$ && kill -CONT $$; do sleep 0.02; done 2>/dev/null &
		exec "$KEYLOCK" -w 0.5 key "$@"' -
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	gives_up_after 200 "$KEYLOCK" -s -w 0.2 key
	queue first
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	# One that was stopped in its turn is no reason to wait longer.
	kill -STOP "$waiter"
	let_go
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	kill -CONT "$waiter"
	ended_with "$waiter" 0
	[ "$(files)" = 0 ]
}

@test "P6 -w: what is left of the time does not disturb the command" {
	local mode waiters=()
	hold key
	for mode in -s -sF; do
		"$KEYLOCK" -w 1.5 $mode key sh -c 'sleep 1.6; echo undisturbed >"$0"' "$ran.$mode" 3>&- 4>&- &
		waiters+=("$!")
		wait_for 20 has_ticket "$!"
	done
	let_go
	for waiter in "${waiters[@]}"; do
		ended_with "$waiter" 0
	done
	[[ -s $ran.-s && -s $ran.-sF ]]
}

@test "P9 -n waits for the gate a moment at most, and then has the key past it" {
	local begin
	keep gate
	begin=$(milliseconds)
	hold -n key
	[ $(($(milliseconds) - begin)) -lt 2000 ]
	gives_up_after 0 "$KEYLOCK" -n key
	let_go
	[ $(($(milliseconds) - begin)) -lt 5000 ]
	stop_keeping
}

@test "P1 -n past the gate of one who was stopped as it tidied: the file is not taken away" {
	local first inode
	need strace
	"$KEYLOCK" key sh -c 'echo >"$0"; until [ -e "$0.go" ]; do sleep 0.01; done' "$ran.first" 3>&- 4>&- &
	first=$!
	wait_for 20 test -e "$ran.first"
	# Each flock(2) from now on is a step later: to unlock, and then, in the gate, to tidy.
	strace -qq -o /dev/null -e trace=flock -e inject=flock:delay_enter=1500000 -p "$first" 3>&- 4>&- &
	wait_for 20 grep -q 'TracerPid:.[1-9]' "/proc/$first/status"
	touch "$ran.first.go"
	wait_for 20 eval 'grep -q "OFDLCK .* WRITE .* 0 0$" /proc/$first/fdinfo/*'
	hold -n key
	inode=$(stat -c %i "$KEYLOCK_DIR/key")
	gives_up_after 0 "$KEYLOCK" -n key
	ended_with "$first" 0
	[ "$(stat -c %i "$KEYLOCK_DIR/key")" = "$inode" ]
	gives_up_after 0 "$KEYLOCK" -n key
	let_go
	[ "$(files)" = 0 ]
}

@test "P3 a waiter whose time is up when the key has become free leaves no file" {
	local begin
	hold key
	begin=$(milliseconds)
	contend late -w 1
	# Whoever lets go leaves the file to one that has a ticket. That one is stopped until its
	# time is up.
	wait_for 20 has_ticket "$waiter"
	kill -STOP "$waiter"
	wait_for 20 in_state "$waiter" T
	let_go
	wait_for 20 past $((begin + 1500))
	kill -CONT "$waiter"
	status=0
	wait "$waiter" || status=$?
	# Taking the free key would be right as well.
	[[ $status = 75 || $status = 0 ]]
	[ "$(files)" = 0 ]
}

@test "P9 a standard error that nobody reads keeps nobody waiting" {
	local full=$BATS_TEST_TMPDIR/full words first second
	mkfifo "$full"
	exec 7<>"$full"
	dd if=/dev/zero of="$full" oflag=nonblock bs=4096 2>/dev/null || :
	for words in '-v key true' '-v -F key true' '-v -n key true'; do
		run_it timeout -k 1 20 sh -c 'exec "$KEYLOCK" "$@" 2>"$0"' "$full" $words
		expect 0
	done
	hold key
	run_it timeout -k 1 20 sh -c 'exec "$KEYLOCK" -v -n key true 2>"$0"' "$full"
	expect 75
	gives_up_after 200 timeout -k 1 20 sh -c 'exec "$KEYLOCK" -v -w 0.2 key "$@" 2>"$0"' "$full"
	# One that waits is not deaf, and neither it nor its message holds up the next.
	"$KEYLOCK" -v key touch "$ran" 2>"$full" 3>&- 4>&- &
	first=$!
	wait_for 20 has_ticket "$first"
	"$KEYLOCK" -v key touch "$ran.second" 2>"$full" 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"
	kill -TERM "$first"
	wait_for 20 is_dead "$first"
	let_go
	wait_for 20 is_dead "$second"
	ended_with "$first" 143
	ended_with "$second" 0
	[[ -e $ran.second && ! -e $ran && $(files) == 0 ]]
	# Who cannot run its command can be ended, too.
	"$KEYLOCK" key / 2>"$full" 3>&- 4>&- &
	first=$!
	wait_for 20 eval 'kill -TERM "$first" 2>/dev/null; is_dead "$first"'
}

@test "P1 while the gate is closed nobody comes to the key in turn, and nobody's end takes the file away" {
	hold key
	keep gate
	let_go
	expect 0
	[ "$(files)" = 1 ]
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	[ "$(files)" = 1 ]
	stop_keeping
	run_keylock key true
	[ "$(files)" = 0 ]
}

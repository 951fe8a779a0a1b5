# Waiting: in turn, asleep, and no longer than -w says.

load helper

last_is() {
	[ "$(order | sed 's/.* //')" = "$1" ]
}

# in_order COUNT OPTION…: so many that wait with these options are served in the order in which they came,
# whatever becomes of some of them.
in_order() {
	local count=$1 expected='' waiters=()
	local killed=$((count / 4)) slow=$((count * 3 / 5)) late=$((count * 3 / 4))
	shift
	hold "$@" key
	for ((i = 1; i <= count; i++)); do
		queue "$i" "$@" $([ "$i" != "$late" ] || echo -w 1)
		waiters[i]=$waiter
		[[ $i == 1 || $i == "$killed" || $i == "$late" ]] || expected+=${expected:+ }$i
	done
	# The first in line, without which the second is it, and one in the middle.
	kill -KILL "${waiters[1]}"
	kill -TERM "${waiters[killed]}"
	ended_with "${waiters[1]}" 137
	ended_with "${waiters[killed]}" 143
	ended_with "${waiters[late]}" 75
	kill -STOP "${waiters[slow]}"
	wait_for 20 in_state "${waiters[slow]}" T
	taken "$@" key
	order_is ''
	let_go
	wait_for 20 last_is $((slow - 1))
	taken "$@" key
	last_is $((slow - 1))
	kill -CONT "${waiters[slow]}"
	for i in $expected; do
		ended_with "${waiters[i]}" 0
	done
	order_is "$expected"
}

@test "P4 200 waiters run in the order in which they came" {
	in_order 200
}

@test "P4 80 who wait for a slot run in the order in which they came" {
	hold -j 2 key
	first=$holder
	in_order 80 -j 2
	let_go "$first"
}

# stream COUNT COMMAND…: in a stream of so many arrivals at this lock command, 1 ms apart. Beginning and
# ending takes longer: so there is a line, and the next one comes at any point of a hand-over.
stream() {
	it_gives 0 python3 "$tools/arrivals.py" "$work/served" "$1" 1000 "${@:2}"
	echo "# ${*:2}: $output" >&3
}

@test "P4 in a stream of arrivals, at a key and at slots, nobody is served before one that came earlier" {
	count=$(size 200 3000) others=$(size 500 1500)
	stream 1500 "$KEYLOCK" key
	[[ $output =~ ^served=1500\ waited=([0-9]+)\ barged=0\ late=[0-9]+$ && ${BASH_REMATCH[1]} -ge 10 ]]
	[ "$(files)" = 0 ]
	hold -j 2 key
	stream "$count" "$KEYLOCK" -j 2 key
	[[ $output =~ ^served=$count\ waited=([0-9]+)\ barged=0\ late=[0-9]+$ && ${BASH_REMATCH[1]} -ge 20 ]]
	let_go
	[ "$(files)" = 0 ]
	! command -v flock >/dev/null || stream "$others" flock "$work/lock"
}

@test "P4 an exclusive waiter is served though shared holders keep coming; P1 it is alone, they hold together" {
	slow() {
		line_up "${@:2}" key sh -c 'echo "$0" >>"$work/order"
			until [ -e "$work/$0.end" ]; do sleep 0.01; done' "$1"
	}
	others=()
	hold -s key
	slow x
	exclusive=$waiter
	for name in 1 2 3; do
		slow "$name" -s
		others+=("$waiter")
	done
	taken -s key
	order_is ''
	let_go
	wait_for 20 order_is x
	taken -s key
	touch "$work/x.end"
	ended_with "$exclusive" 0
	# And then all of them at the same time: none has been told to end.
	wait_for 20 has_lines 4 "$work/order"
	queue last
	for name in 1 2 3; do
		taken key
		has_ticket "$waiter"
		touch "$work/$name.end"
		ended_with "${others[name - 1]}" 0
	done
	ended_with "$waiter" 0
	last_is last
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
	waiters=()
	hold key
	for options in '' '-w 100' -s '-s -w 1h'; do
		queue any $options
		waiters+=("$waiter")
	done
	# First in line with a time-out, under a key of its own.
	hold other
	line_up -w 100 other true
	waiters+=("$waiter")
	# After a second of waiting keylock may take its one look at who is before it.
	wait_for 20 rest "${waiters[@]}"
	for waiter in "${waiters[@]}"; do
		in_state "$waiter" S
	done
}

@test "P9 -n beside many others never fails on a key that only shared holders have, or that has slots for all" {
	hold -s key
	crowd 1000 '0 1000' -n -s key true
	let_go
	[ "$(files)" = 0 ]
	crowd 100 '0 100' -n -s key true
	crowd 100 '0 100' -n -j 200 key true
}

@test "P9 -w 0.2 ends after 0.2 s, and -n at once, at each place where acquiring can wait" {
	# Tickets and presence may also be another program's, and on bytes that mean nothing.
	for what in flock writer=1000 'writer=1000 flock presence' gate 'gate flock' reader=2 writer=1 writer=2 \
		'gate writer=5000 flock presence' reader=1000 'flock writer=4611686018427387905' replace=1 replace=30; do
		echo "kept: $what"
		keep $what
		gives_up_after 200 "$KEYLOCK" -w 0.2 key
		gives_up_after 200 "$KEYLOCK" -s -w 200ms key
		gives_up_after 200 env --block-signal --ignore-signal "$KEYLOCK" -w 0.2 key
		# Where the first slot is taken and nobody waits, another one is had.
		[[ $what != *er=1000 ]] || gives_up_after 100 "$KEYLOCK" -w 0.1 -j 2 key
		for option in -n -w0 -sn; do
			case $what in
			gate | replace*) ;;
			*) gives_up_after 0 "$KEYLOCK" "$option" key ;;
			esac
		done
		stop_keeping
	done
	rm -f "$KEYLOCK_DIR"/*.other
	gives 0 key true
}

@test "P9 -w 0.2 ends after 0.2 s behind holders and waiters, whatever signals come that it need not die of" {
	hold key
	gives_up_after 500 sh -c 'while kill -WINCH $$ && kill -CONT $$; do sleep 0.02; done 2>/dev/null &
		exec "$KEYLOCK" -w 0.5 key "$@"' -
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	gives_up_after 200 "$KEYLOCK" -s -w 0.2 key
	queue first
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	kill -STOP "$waiter"
	let_go
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	kill -CONT "$waiter"
	ended_with "$waiter" 0
}

@test "P9 where a file system numbers a file anew at each look, -n, -w and signals end the wait" {
	need strace
	# glibc looks at descriptors by the call that looks up names, with "" for a name.
	strace -qq -o "$work/calls" -e trace='?newfstatat,?statx' "$KEYLOCK" key true
	! grep -q '""' "$work/calls" || skip 'this libc has no call of its own for descriptors'
	strange=(strace -D -qq -o /dev/null -e trace='?newfstatat,?fstatat64'
		-e inject='?newfstatat,?fstatat64:error=ENOENT' "$KEYLOCK")
	it_quiet 75 timeout -s KILL 10 "${strange[@]}" -w 0.2 key touch "$ran"
	it_quiet 75 timeout -s KILL 10 "${strange[@]}" -n key touch "$ran"
	it_quiet 75 timeout -s KILL 10 "${strange[@]}" -w 0.2 --pin key
	for words in "key touch $ran" "-j 2 key touch $ran" '--pin key'; do
		"$tools/inherit.py" -d "${strange[@]}" $words 3>&- 4>&- &
		endless=$!
		wait_for 20 test -e "$KEYLOCK_DIR/key"
		kill -TERM "$endless"
		ended_with "$endless" 143
		not_run
		# What it made stays where its name cannot be looked up.
		rm -f "$KEYLOCK_DIR"/key*
	done
}

@test "P6 -w: what is left of the time does not disturb the command" {
	waiters=()
	hold key
	for mode in -s -sF; do
		line_up -w 1.5 $mode key sh -c 'sleep 1.6; echo undisturbed >"$0"' "$ran.$mode"
		waiters+=("$waiter")
	done
	let_go
	for waiter in "${waiters[@]}"; do
		ended_with "$waiter" 0
	done
	[[ -s $ran.-s && -s $ran.-sF ]]
	free key
}

@test "P9 -n waits for the gate a moment at most, and then has the key past it" {
	keep gate
	within 0 2000 hold -n key
	gives_up_after 0 "$KEYLOCK" -n key
	within 0 3000 let_go
}

@test "P1 -n past the gate of one who was stopped as it tidied: the file is not taken away" {
	need strace
	hold key
	first=$holder
	# Each flock(2) from now on is a step later: to unlock, and then, in the gate, to tidy.
	strace -qq -o /dev/null -e trace=flock -e inject=flock:delay_enter=1500000 -p "$first" 3>&- 4>&- &
	wait_for 20 grep -q 'TracerPid:.[1-9]' "/proc/$first/status"
	tell "$first" let_go exit
	wait_for 20 eval 'grep -q "OFDLCK .* WRITE .* 0 0$" /proc/$first/fdinfo/*'
	hold -n key
	inode=$(stat -c %i "$KEYLOCK_DIR/key")
	gives_up_after 0 "$KEYLOCK" -n key
	ended_with "$first" 0
	[ "$(stat -c %i "$KEYLOCK_DIR/key")" = "$inode" ]
	gives_up_after 0 "$KEYLOCK" -n key
	let_go
}

@test "P3 a waiter whose time is up when the key has become free leaves no file" {
	hold key
	begin=$(milliseconds)
	# Whoever lets go leaves the file to one that has a ticket. That one is stopped until its
	# time is up.
	queue late -w 1
	kill -STOP "$waiter"
	wait_for 20 in_state "$waiter" T
	let_go
	wait_for 20 eval '[ "$(milliseconds)" -gt $((begin + 1500)) ]'
	kill -CONT "$waiter"
	status=0
	wait "$waiter" || status=$?
	# Taking the free key would be right as well.
	[[ $status = 75 || $status = 0 ]]
}

@test "P9 a standard error that nobody reads keeps nobody waiting" {
	full_pipe
	into_full=(timeout -k 1 20 sh -c 'exec "$KEYLOCK" "$@" 2>"$0"' "$full")
	for words in '-v key true' '-v -F key true' '-v -n key true'; do
		it_gives 0 "${into_full[@]}" $words
	done
	hold key
	it_gives 75 "${into_full[@]}" -v -n key true
	gives_up_after 200 "${into_full[@]}" -v -w 0.2 key
	# One that waits is not deaf, and neither it nor its message holds up the next.
	line_up -v key touch "$ran" 2>"$full"
	first=$waiter
	line_up -v key touch "$served" 2>"$full"
	kill -TERM "$first"
	wait_for 20 is_dead "$first"
	let_go
	wait_for 20 is_dead "$waiter"
	ended_with "$first" 143
	ended_with "$waiter" 0
	[ -e "$served" ]
	# Nor one that has no timer to cut its message short, in the line or holding.
	no_timer=(timeout -k 1 20 bash -c 'ulimit -S -i 0; exec "$KEYLOCK" "$@" 2>"$0"' "$full")
	it_gives 0 "${no_timer[@]}" -v key true
	hold key
	it_gives 71 "${no_timer[@]}" key touch "$ran"
	let_go
	# Nor --pin, which has the gate.
	prints "$KEYLOCK_DIR/key" --pin key
	ln "$KEYLOCK_DIR/key" "$work/other"
	it_gives 77 "${into_full[@]}" --pin key
	rm "$work/other"
	"$KEYLOCK" --pin key >"$full" 3>&- 4>&- &
	first=$!
	wait_for 20 in_state "$first" S
	gives 0 -w 10 key true
	kill -TERM "$first"
	ended_with "$first" 143
	# Who does not run its command can be ended, too.
	for words in 'key /' '-d /no/where/at/all key true' '-Q'; do
		"$KEYLOCK" $words 2>"$full" 3>&- 4>&- &
		first=$!
		wait_for 20 eval 'kill -TERM "$first" 2>/dev/null; is_dead "$first"'
	done
}

@test "P1 while the gate is closed nobody comes to the key in turn, and nobody's end takes the file away" {
	hold key
	keep gate
	within 0 2000 let_go
	expect 0
	[ "$(files)" = 1 ]
	gives_up_after 200 "$KEYLOCK" -w 0.2 key
	[ "$(files)" = 1 ]
	stop_keeping
	free key
}

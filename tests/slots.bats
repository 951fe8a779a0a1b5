# Slots: at most N at once, in turn, asleep, and had at once when one becomes free.

load helper

# hold_slots COUNT ARG…: so many holders more, in the array holders.
hold_slots() {
	local i
	for ((i = 0; i < $1; i++)); do
		hold "${@:2}"
		holders+=("$holder")
	done
}

# All of them end well, and nothing is left.
end_holders() {
	local i
	for i in "${holders[@]}"; do
		let_go "$i"
		expect 0
	done
	[ "$(files)" = 0 ]
}

# began_at_once NAME: it waits, and has begun within a second since $begin (microseconds); 50 ms is what is
# promised of a machine that has nothing else to do.
began_at_once() {
	ended_with "$waiter" 0
	at=$(sed -n "s/^$1 //p" "$work/order")
	echo "$1: had after $(((at - begin) / 1000)) ms"
	[ $((at - begin)) -lt 1000000 ]
}

microseconds() {
	echo "${EPOCHREALTIME/[.,]/}"
}

@test "P1 -j N: N hold at once and not one more; without -j it is 1, and the larger N counts" {
	for n in 1 2 3 7; do
		holders=()
		hold_slots "$n" -n --slots "$n" key
		taken -j "$n" key
		let_go "${holders[n / 2]}"
		free -j "$n" key
		hold -n -j "$n" key
		holders[n / 2]=$holder
		taken -j "$n" key
		end_holders
	done
	holders=()
	hold_slots 1 key
	taken -j 1 key
	hold_slots 3 -n -j 4 key
	for n in 1 2 4; do
		taken -j "$n" key
	done
	taken key
	hold_slots 1 -n -j 5 key
	taken -j 4 key
	end_holders
}

@test "slots of one key are not those of another; a thousand are one file where one is used" {
	printf -v long '%0300d' 0
	for key in key "$long"; do
		hold_slots 2 -j 2 "$key"
		taken -j 2 "$key"
		free -j 2 other
		free -j 2 "$key%s2"
	done
	[ "$(files)" = 4 ]
	prints 1 -j 1000 third sh -c 'ls "$KEYLOCK_DIR" | grep -c third'
	end_holders
}

@test "P9 -n, -w, -E, -v and -W of a key all whose slots are taken" {
	hold_slots 2 -j 2 key
	gives_up_after 200 "$KEYLOCK" -w 0.2 -j 2 key
	for words in '7 -E7 -w0.1' '75 -W10m -n' '0 -E0 -n'; do
		quiet "${words%% *}" ${words#* } -j 2 key touch "$ran"
	done
	fails 75 'key: taken: pid ' -v -n -j 2 key touch "$ran"
	touch -d '1 hour ago' "$KEYLOCK_DIR"/*
	run_keylock -W 10m -n -j 2 key touch "$ran"
	expect_message 75 'key: taken: pid ' 'held for 1h0m'
	queue first -j 2
	taken -w 0.2 -j 2 key
	order_is ''
}

@test "P4 nobody passes one who waits, though a slot is free" {
	hold_slots 2 -j 2 key
	queue first -j 2
	first=$waiter
	kill -STOP "$first"
	wait_for 20 in_state "$first" T
	let_go
	taken -j 2 key
	queue second -j 2
	taken -j 2 key
	order_is ''
	kill -CONT "$first"
	ended_with "$first" 0
	ended_with "$waiter" 0
	order_is 'first second'
}

@test "P1 who comes to a file that has lost its name stands in the line of the new one" {
	keep gate
	"$KEYLOCK" -j 2 key true 3>&- 4>&- &
	late=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	rm "$KEYLOCK_DIR/key"
	hold_slots 2 -j 2 key
	stop_keeping
	wait_for 10 eval '"$KEYLOCK" --list --json key | grep -q "\"waiting\":1,"'
	let_go "${holders[0]}"
	ended_with "$late" 0
	let_go
}

@test "P9 a slot whose gate somebody stopped in is taken, and no more than that" {
	hold_slots 1 -j 3 key
	keep_at "$KEYLOCK_DIR/key%s2" gate
	# The third is to be had; then all are taken.
	hold_slots 1 -n -j 3 key
	[ -e "$KEYLOCK_DIR/key%s3" ]
	taken -j 3 key
	taken -w 0.2 -j 3 key
	queue one -j 3
	begin=$(microseconds)
	let_go "${holders[0]}"
	began_at_once one
	hold -n -j 3 key
	queue two -j 3
	begin=$(microseconds)
	stop_keeping
	began_at_once two
}

@test "P9 a signal ends or stops one that waits for a slot" {
	hold_slots 2 -j 2 key
	queue first -j 2
	first=$waiter
	queue second -j 2
	kill -TSTP "$first"
	wait_for 20 in_state "$first" T
	let_go
	ended_with "$waiter" 0
	order_is second
	hold -j 2 key
	kill -CONT "$first"
	wait_for 20 has_ticket "$first"
	for signal in TERM INT HUP; do
		line_up_by "$tools/inherit.py" -d "$KEYLOCK" -j 2 key true
		kill "-$signal" "$waiter"
		ended_with "$waiter" $((128 + $(kill -l "$signal")))
	done
	order_is second
	let_go
	ended_with "$first" 0
	order_is 'second first'
}

@test "P4 after a stop while -k waits for the second key the first is queued for by its own name" {
	hold -j 2 a
	hold_slots 2 -j 2 b
	line_up_by "$tools/inherit.py" -g "$KEYLOCK" -j 2 -k a b true
	both=$waiter
	kill -TSTP "$both"
	wait_for 20 in_state "$both" T
	# Both slots of a are taken: what the stopped one had, too.
	hold -j 2 a
	kill -CONT "$both"
	wait_for 20 has_ticket "$both"
	[ -z "$(find "$KEYLOCK_DIR" -name '*%s*%s*')" ]
	"$KEYLOCK" --list --json a | grep '"waiting":1'
	let_go
	kill -TERM "$both"
	ended_with "$both" 143
}

@test "P5 who waits for a slot sleeps, also when others have come and gone; the first in line looks once a second" {
	firsts=() others=() slept=()
	# Three that are first in line, each of its own keys: whatever it did before it sleeps.
	for group in 1 2 3; do
		export KEYLOCK_DIR=$work/dir$group
		hold_slots 2 -j 2 key
		case $group in
		1) queue first -j 2 ;;
		2)
			# This one has slept behind another before.
			queue before -j 2
			before=$waiter
			KEYLOCK_KEY=key queue first -j 2 -w 100
			kill -KILL "$before"
			;;
		3) queue first -j 2 -w 100 -k another ;;
		esac
		firsts+=("$waiter")
		taken -j 2 key
		queue second -j 2 -w "${group}h"
		others+=("$waiter")
	done
	# After a second of waiting keylock may take its one look at who is before it.
	sleep 3
	for i in "${firsts[@]}" "${others[@]}"; do
		slept[i]=$(switches "$i")
		[ "${slept[i]}" -gt 0 ]
	done
	sleep 2
	for i in "${firsts[@]}" "${others[@]}"; do
		slept[i]=$(($(switches "$i") - slept[i]))
		echo "$i: ${slept[i]}"
		in_state "$i" S
	done
	for i in "${others[@]}"; do
		[ "${slept[i]}" = 0 ]
	done
	for i in "${firsts[@]}"; do
		[ "${slept[i]}" -le 12 ]
	done
}

# hand_over HOW: a slot that becomes free in this way is had at once by the first in line.
hand_over() {
	local how=$1
	for round in 1 2 3; do
		case $how in
		daemon) hold_with_daemon -j 2 key ;;
		in_place) hold -j 2 -F key ;;
		linger) leave_daemon 'exit 5' -j 2 -l key ;;
		*) hold -j 2 key ;;
		esac
		queue "$how$round" -j 2
		begin=$(microseconds)
		case $how in
		ended | daemon) let_go ;;
		killed) kill -KILL "$holder" "$held" ;;
		in_place) kill -KILL "$holder" ;;
		linger) kill -KILL "$daemon" ;;
		keylock_first)
			# keylock alone: the command has the slot to its own end.
			kill_hard "$holder"
			taken -j 2 key
			in_state "$held" RSD
			begin=$(microseconds)
			kill -KILL "$held"
			;;
		esac
		began_at_once "$how$round"
		[ "$how" != daemon ] || in_state "$daemon" RSD
	done
}

@test "P2 a slot is had at once, however its holder ends, though it leaves a daemon behind" {
	hold -j 2 key
	for how in ended daemon killed keylock_first in_place linger; do
		hand_over "$how"
	done
}

@test "P2 with no inotify instance left, and without what sets times, slots are had as well" {
	"$tools/refuse.py" 'inotify_init1=24' true || skip 'no seccomp here'
	export REAL=$KEYLOCK tools
	printf '#!/bin/sh\nexec "$tools/refuse.py" inotify_init1=24,utimensat=38 "$REAL" "$@"\n' >"$work/keylock"
	chmod +x "$work/keylock"
	KEYLOCK=$work/keylock
	hold_slots 2 -j 2 key
	taken -w 0.2 -j 2 key
	let_go
	hand_over ended
}

@test "P3 files of slots whose holders were killed go with the first run that comes after" {
	hold_slots 1 -j 3 key
	first=$held
	hold_slots 1 -j 3 key
	kill_hard "${holders[0]}" "$first"
	[ "$(files)" = 2 ]
	# The second slot's holder leaves the first's file, too, whose line it has used.
	let_go
	[ "$(files)" = 0 ]
	hold_slots 2 -j 3 key
	kill_hard "$holder" "$held"
	let_go "${holders[2]}"
	gives 0 -j 3 key true
}

@test "a slot's file that is not safe to use is refused, the first one's and another's" {
	mkdir -m 700 "$KEYLOCK_DIR"
	ln -s nowhere "$KEYLOCK_DIR/key"
	fails 77 "$KEYLOCK_DIR/key:" -j 2 key touch "$ran"
	mv "$KEYLOCK_DIR/key" "$KEYLOCK_DIR/key%s2"
	hold -j 2 key
	fails 77 "$KEYLOCK_DIR/key%s2:" -j 2 key touch "$ran"
	let_go
	[ "$(readlink "$KEYLOCK_DIR/key%s2")" = nowhere ]
	[ "$(files)" = 1 ]
}

@test "-k with -j: a slot of each key" {
	hold_slots 1 -j 2 -k b a
	hold_slots 1 -j 2 -k c b
	taken -j 2 b
	taken -j 2 -k b a
	free -j 2 -k c a
	line_up -j 2 -k a b touch "$served"
	# It has the second slot of a by now.
	taken -j 2 a
	[ ! -e "$served" ]
	let_go
	ended_with "$waiter" 0
	[ -e "$served" ]
	let_go "${holders[0]}"
}

@test "--list and --who show each slot that is held, and who waits" {
	hold_slots 3 -j 3 key
	queue first -j 3
	queue second -j 3
	run_keylock --list --json key
	mapfile -t lines <"$out"
	[[ ${lines[0]} == *'"slot":1,"pids":['"${holders[0]}"'],'*'"waiting":2,'* ]]
	[[ ${lines[2]} == *'"slot":3,"pids":['"${holders[2]}"'],'*'/key%s3"}' ]]
	[ "${#lines[@]}" = 3 ]
	# The key's own slot is free: it has no line of its own for that.
	let_go "${holders[0]}"
	ended_with "$waiter" 0
	prints "${holders[1]}"$'\n'"${holders[2]}" --who key
	run_keylock --list key
	[ "$(wc -l <"$out")" = 3 ]
}

# all_slots N: after all that, all are to be had.
all_slots() {
	holders=()
	# Not -n: a daemon of a killed keylock may have the slot for a moment.
	hold_slots "$1" -w 20 -j "$1" key
	taken -j "$1" key
	end_holders
}

@test "P1 many at a few slots: never more, and never fewer while somebody waits" {
	count=$(size 80 500)
	stress "$count" "$count" <<<'-j 4 key : 10000 n 0 1 2 3'
	[[ ${found[runs]} == "$count" && ${found[most]} == 4 && ${found[low_ms]} -lt 1000 && $(files) == 0 ]]
	all_slots 4
}

@test "P1 slots while daemons are left behind, and holders and waiters are killed" {
	count=$(size 300 6000)
	printf '%s\n' '-j 3 key : 1000 '{n,nd}' 0 1 2' >"$work/kinds"
	stress "$count" 12 <"$work/kinds"
	[[ ${found[runs]} == "$count" && ${found[most]} == 3 && $(files) == 0 ]]
	all_slots 3
	stress -k $((2 * count)) 12 <"$work/kinds"
	[[ ${found[runs]} -ge $count && ${found[kills]} -ge $((count / 10)) && ${found[most]} == 3 ]]
	all_slots 3
}

@test "P2 a thousand slots, all taken, and one who waits" {
	need_long
	for i in {1..1000}; do
		"$KEYLOCK" -F -j 1000 key sleep 1000 3>&- 4>&- &
		[ "$i" != 500 ] || one=$!
	done
	wait_for 50 eval '! "$KEYLOCK" -n -j 1000 key true'
	queue w -j 1000
	begin=$(microseconds)
	kill -KILL "$one"
	began_at_once w
}

# It has slept for a while, past the tries that come soon after an event.
at_rest() {
	before=$(switches "$waiter")
	sleep 0.3
	[ "$(switches "$waiter")" = "$before" ]
}

@test "P2 a slot's file that a stranger unlocks without closing it keeps nobody, who looks no more after a second either" {
	for fd in 8 9; do
		free key
		exec 8>>"$KEYLOCK_DIR/key" 9>>"$KEYLOCK_DIR/key%s2"
		flock -n 8
		flock -n 9
		line_up -j 2 key touch "$served" 8>&- 9>&-
		wait_for 20 at_rest
		[ "$fd" = 9 ] || sleep 1
		flock -u "$fd"
		wait_for 5 is_dead "$waiter"
		rm "$served"
	done
}

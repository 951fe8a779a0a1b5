#!/usr/bin/env bats
# Slots: at most N at once, in turn, asleep, and had at once when one becomes free.

# The words of a case are split on purpose (SC2086); inner shells' own variables; the helper's variables.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2154
load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
	took=()
}

# Succeeds when no slot of N is free.
full() {
	run_keylock -n -j "$1" key touch "$ran"
	[ "$status" = 75 ] && [ ! -e "$ran" ]
}

free() {
	run_keylock -n -j "$1" key true
	expect 0
}

# Starts a keylock whose command adds NAME and the time to the file "order" and ends; returns when it
# has its place in the line. Sets waiter.
queue() {
	local name=$1
	shift
	"$KEYLOCK" "$@" key bash -c 'echo "$0 ${EPOCHREALTIME/[.,]/}" >>"$1"' \
		"$name" "$BATS_TEST_TMPDIR/order" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

# Fails when NAME began more than a second after $begin (microseconds); 50 ms is what is promised of
# a machine that has nothing else to do. Notes the time in took.
began_at_once() {
	local at
	wait_for 20 grep -q "^$1 " "$BATS_TEST_TMPDIR/order"
	at=$(sed -n "s/^$1 //p" "$BATS_TEST_TMPDIR/order")
	took+=($(((at - begin) / 1000)))
	echo "$1: had after ${took[-1]} ms"
	[ "${took[-1]}" -lt 1000 ]
}

# Says how long all of these hand-overs took.
say_took() {
	echo "# $1: had after ${took[*]} ms" >&3
	took=()
}

microseconds() {
	echo "${EPOCHREALTIME/[.,]/}"
}

@test "P1 -j N: N hold at once and not one more" {
	local n i holders
	for n in 1 2 3 7; do
		holders=()
		for ((i = 0; i < n; i++)); do
			hold -n --slots "$n" key
			holders+=("$holder")
		done
		full "$n"
		# Whichever of them ends, there is room for one.
		let_go "${holders[i / 2]}"
		expect 0
		free "$n"
		hold -n -j "$n" key
		holders[i / 2]=$holder
		full "$n"
		for holder in "${holders[@]}"; do
			let_go "$holder"
		done
		[ "$(files)" = 0 ]
	done
}

@test "slots of one key are not those of another; a thousand slots are one file where one is used" {
	local long
	hold -j 2 key
	hold -j 2 key
	full 2
	run_keylock -n -j 2 'key%s2' true
	expect 0
	run_keylock -n -j 2 other true
	expect 0
	printf -v long '%0300d' 0
	hold -j 3 "$long"
	hold -j 3 "$long"
	run_keylock -n -j 3 "$long" sh -c 'ls -A "$KEYLOCK_DIR" | wc -l; "$KEYLOCK" -n -j 3 "$0" true || echo $?' "$long"
	[ "$output" = $'5\n75' ]
	run_keylock -d "$BATS_TEST_TMPDIR/dir2" -j 1000 key ls -A "$BATS_TEST_TMPDIR/dir2"
	expect 0
	[ "$output" = key ]
	[ "$(files "$BATS_TEST_TMPDIR/dir2")" = 0 ]
}

@test "P9 -n, -w, -E, -v and -W of a key all whose slots are taken" {
	local begin took option
	hold -j 2 key
	hold -j 2 key
	full 2
	for option in '75 -w0.2' '7 -E7 -w0.2'; do
		begin=$(milliseconds)
		run_keylock ${option#* } -j 2 key touch "$ran"
		took=$(($(milliseconds) - begin))
		expect_taken "${option%% *}"
		[[ $took -ge 200 && $took -lt 2200 ]]
	done
	run_keylock -E 0 -n -j 2 key touch "$ran"
	expect_taken 0
	run_keylock -v -n -j 2 key touch "$ran"
	expect_message 75 'key: taken: pid '
	run_keylock -W 10m -n -j 2 key touch "$ran"
	expect_taken 75
	touch -d '1 hour ago' "$KEYLOCK_DIR"/*
	run_keylock -W 10m -n -j 2 key touch "$ran"
	expect_message 75 'key: taken: pid ' 'held for 1h0m'
	# Behind one that waits, too.
	queue first -j 2
	run_keylock -w 0.2 -j 2 key touch "$ran"
	expect_taken 75
	[ ! -e "$ran" ]
	order_is ''
}

@test "-n beside many others is not turned away while there are slots for all" {
	run_it "$(probe crowd)" 200 "$KEYLOCK" -n -j 300 key true
	expect 0
	[ "$output" = '0 200' ]
	[ "$(files)" = 0 ]
}

@test "P4 who waits for a slot is served in the order of arrival" {
	local i stays expected='' waiters=()
	hold -j 2 key
	stays=$holder
	hold -j 2 key
	# One slot stays taken, so all pass through the other one by one.
	for i in {1..80}; do
		case $i in
		60) queue "$i" -j 2 -w 1 ;;
		*) queue "$i" -j 2 ;;
		esac
		waiters[i]=$waiter
		case $i in
		1 | 40 | 60) ;;
		*) expected+=${expected:+ }$i ;;
		esac
	done
	# Without the first in line the second watches.
	kill -KILL "${waiters[1]}"
	ended_with "${waiters[1]}" 137
	kill -TERM "${waiters[40]}"
	ended_with "${waiters[40]}" 143
	ended_with "${waiters[60]}" 75
	full 2
	order_is ''
	let_go
	for i in "${!waiters[@]}"; do
		case $i in
		1 | 40 | 60) ;;
		*) ended_with "${waiters[i]}" 0 ;;
		esac
	done
	order
	order_is "$expected"
	let_go "$stays"
	[ "$(files)" = 0 ]
}

@test "P4 nobody passes one who waits, though a slot is free" {
	local stays first
	hold -j 2 key
	stays=$holder
	hold -j 2 key
	queue first -j 2
	first=$waiter
	# This one sleeps through its turn.
	kill -STOP "$first"
	wait_for 20 in_state "$first" T
	let_go
	full 2
	queue second -j 2
	full 2
	order_is ''
	kill -CONT "$first"
	ended_with "$first" 0
	ended_with "$waiter" 0
	order_is 'first second'
	let_go "$stays"
	[ "$(files)" = 0 ]
}

@test "P1 who comes to a file that has lost its name stands in the line of the new one" {
	local late first
	keep gate
	"$KEYLOCK" -j 2 key true 3>&- 4>&- &
	late=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	rm "$KEYLOCK_DIR/key"
	hold -j 2 key
	first=$holder
	hold -j 2 key
	stop_keeping
	wait_for 10 eval '"$KEYLOCK" --list --json key | grep -q "\"waiting\":1,"'
	let_go "$first"
	ended_with "$late" 0
	let_go
	[ "$(files)" = 0 ]
}

@test "P9 a slot whose gate somebody stopped in is taken, and no more than that" {
	local first begin said=$BATS_TEST_TMPDIR/said
	hold -j 3 key
	first=$holder
	"$(probe keep)" "$KEYLOCK_DIR/key%s2" gate >"$said" 3>&- 4>&- &
	# shellcheck disable=SC2034 # for stop_keeping
	keeper=$!
	wait_for 20 grep -q kept "$said"
	# The third is to be had, at once; then all are taken.
	hold -n -j 3 key
	[ -e "$KEYLOCK_DIR/key%s3" ]
	full 3
	run_keylock -w 0.2 -j 3 key touch "$ran"
	expect_taken 75
	# Who waits gets the one that becomes free, or that one when its gate does.
	queue one -j 3
	begin=$(microseconds)
	let_go "$first"
	began_at_once one
	ended_with "$waiter" 0
	hold -n -j 3 key
	queue two -j 3
	begin=$(microseconds)
	stop_keeping
	began_at_once two
	ended_with "$waiter" 0
}

@test "P4 in a stream of arrivals at slots nobody is served before one that came earlier" {
	local arrivals count=200
	[ -z "${KEYLOCK_LONG-}" ] || count=3000
	arrivals=$(probe arrivals)
	hold -j 2 key
	run_it "$arrivals" "$BATS_TEST_TMPDIR/begun" "$count" 2000 1000 "$KEYLOCK" -j 2 key
	expect 0
	[[ $output =~ ^served=$count\ waited=([0-9]+)\ barged=([0-9]+)\ late=([0-9]+)$ ]]
	[ "${BASH_REMATCH[2]}" = 0 ]
	[ "${BASH_REMATCH[1]}" -ge 20 ]
	let_go
	[ "$(files)" = 0 ]
}

@test "P9 a signal ends or stops one that waits for a slot" {
	local stays first signal
	hold -j 2 key
	stays=$holder
	hold -j 2 key
	queue first -j 2
	first=$waiter
	queue second -j 2
	kill -TSTP "$first"
	wait_for 20 in_state "$first" T
	# It has given its place away.
	let_go
	ended_with "$waiter" 0
	order_is second
	hold -j 2 key
	kill -CONT "$first"
	wait_for 20 has_ticket "$first"
	order_is second
	for signal in TERM INT HUP; do
		"$(probe inherit)" -d "$KEYLOCK" -j 2 key true 3>&- 4>&- &
		wait_for 20 has_ticket $!
		kill "-$signal" $!
		ended_with $! $((128 + $(kill -l "$signal")))
	done
	let_go
	ended_with "$first" 0
	order_is 'second first'
	let_go "$stays"
	[ "$(files)" = 0 ]
}

@test "P4 after a stop while -k waits for the second key the first is queued for by its own name" {
	local both first
	hold -j 2 a
	hold -j 2 b
	hold -j 2 b
	"$(probe inherit)" -g "$KEYLOCK" -j 2 -k a b true 3>&- 4>&- &
	both=$!
	wait_for 20 has_ticket "$both"
	kill -TSTP "$both"
	wait_for 20 in_state "$both" T
	# Both slots of a are taken: what the stopped one had, too.
	hold -j 2 a
	first=$holder
	kill -CONT "$both"
	wait_for 20 has_ticket "$both"
	find "$KEYLOCK_DIR" -name '*%s*%s*' | grep . && return 1
	"$KEYLOCK" --list --json a
	[ "$("$KEYLOCK" --list --json a | grep -c '"waiting":1')" -ge 1 ]
	let_go "$first"
	kill -TERM "$both"
	wait "$both" || :
}

@test "P5 who waits for a slot sleeps; the first in line looks once a second" {
	local i group ahead waiters=() before=() after=()
	# Three that are first in line, each of keys of its own: whatever it has done before it sleeps.
	for group in 1 2 3; do
		export KEYLOCK_DIR=$BATS_TEST_TMPDIR/dir$group
		hold -j 2 key
		hold -j 2 key
		case $group in
		1) queue first -j 2 ;;
		2)
			# This one has slept behind another before.
			queue before -j 2
			ahead=$waiter
			KEYLOCK_KEY=key queue first -j 2 -w 100
			kill -KILL "$ahead"
			;;
		3) queue first -j 2 -w 100 -k another ;;
		esac
		waiters+=("$waiter")
		[ "$group" = 1 ] || continue
		queue second -j 2
		waiters+=("$waiter")
		queue third -j 2 -w 1h
		waiters+=("$waiter")
	done
	# After a second of waiting keylock may take its one look at who is before it.
	sleep 3
	for i in "${!waiters[@]}"; do
		before[i]=$(switches "${waiters[i]}")
	done
	sleep 2
	for i in "${!waiters[@]}"; do
		after[i]=$(switches "${waiters[i]}")
	done
	echo "before: ${before[*]}, after: ${after[*]}"
	for i in 1 2; do
		[ "${before[i]}" -gt 0 ]
		[ "${before[i]}" = "${after[i]}" ]
		in_state "${waiters[i]}" S
	done
	for i in 0 3 4; do
		[ "${before[i]}" -gt 0 ]
		# Each time it looks at two slots.
		[ $((after[i] - before[i])) -le 12 ]
	done
}

# The ways in which a slot becomes free, from HOW, with the first in line waiting.
hand_over() {
	local how=$1 i daemon first
	for i in 1 2 3; do
		rm -f "$BATS_TEST_TMPDIR"/daemon*
		case $how in
		left)
			"$KEYLOCK" -j 2 key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"
				until [ -e "$0.go" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR/daemon" 3>&- 4>&- &
			first=$!
			wait_for 20 test -e "$BATS_TEST_TMPDIR/daemon"
			daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
			;;
		in_place) hold -j 2 -F key ;;
		*) hold -j 2 key ;;
		esac
		queue "$how$i" -j 2
		begin=$(microseconds)
		case $how in
		ended) let_go ;;
		killed) kill -KILL "$holder" "$held" ;;
		in_place) kill -KILL "$holder" ;;
		left) touch "$BATS_TEST_TMPDIR/daemon.go" ;;
		keylock_first)
			# keylock alone: the command has the slot to its own end.
			kill -KILL "$holder"
			wait "$holder" 2>/dev/null || :
			full 2
			in_state "$held" RSD
			begin=$(microseconds)
			kill -KILL "$held"
			;;
		esac
		began_at_once "$how$i"
		ended_with "$waiter" 0
		[ "$how" != left ] || ended_with "$first" 0
		[ "$how" != left ] || in_state "$daemon" RSD
	done
	say_took "$how"
}

@test "P2 a slot is had at once when its command ends, also when it leaves a daemon behind" {
	hold -j 2 key
	hand_over ended
	# 10 ms of it may be the test.
	hand_over left
	let_go
}

@test "P2 a slot is had at once when its holder is killed" {
	hold -j 2 key
	hand_over keylock_first
	hand_over killed
	hand_over in_place
}

@test "P2 with the user's inotify instances used up slots work all the same" {
	local uid=61234 watchers begin i user
	need_root
	need setpriv
	user=(setpriv --reuid="$uid" --regid="$uid" --clear-groups)
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	cp "$(probe watchers)" "$public/watchers"
	chmod 755 "$public"/*
	mkdir "$public/dir"
	chown "$uid" "$public/dir"
	export KEYLOCK_DIR=$public/dir
	: >"$BATS_TEST_TMPDIR/used"
	"${user[@]}" "$public/watchers" >"$BATS_TEST_TMPDIR/used" 3>&- 4>&- &
	watchers=$!
	started "$watchers"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/used"
	grep -q 'used up' "$BATS_TEST_TMPDIR/used" || skip 'more instances than descriptors'
	chmod 777 "$public"
	touch "$public/order"
	chmod 666 "$public/order"
	ln -s "$public/order" "$BATS_TEST_TMPDIR/order"
	for i in 1 2 3; do
		mkfifo -m 666 "$public/$i.fifo"
		# The fifo is opened for both, so that neither side ever waits in open().
		"${user[@]}" "$public/keylock" -j 2 key sh -c \
			'exec 8<>"$0.fifo"; read -r _ <&8' "$public/$i" 3>&- 4>&- &
		wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" -ge '"$((i > 1 ? 2 : 1))"' ]'
		[ "$i" -gt 1 ] || continue
		"${user[@]}" "$public/keylock" -j 2 key bash -c \
			'echo "w$0 ${EPOCHREALTIME/[.,]/}" >>"$1"' "$i" "$public/order" 3>&- 4>&- &
		waiter=$!
		wait_for 20 has_ticket "$waiter"
		# It polls indeed.
		[ ! -e "/proc/$waiter/fd" ] || ! find "/proc/$waiter/fd" -printf '%l\n' | grep -q inotify
		begin=$(microseconds)
		echo 1<>"$public/$i.fifo"
		ended_with "$waiter" 0
		began_at_once "w$i"
	done
	say_took 'without inotify'
	echo 1<>"$public/1.fifo"
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "P2 a daemon left behind with -l or -F keeps the slot to its end, without it not" {
	local option daemon begin
	hold -j 2 key
	for option in -x -l -F; do
		run_keylock "$option" -j 2 key sh -c 'sleep 1000 & echo $! >"$0"; exit 5' \
			"$BATS_TEST_TMPDIR/daemon"
		expect 5
		daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
		in_state "$daemon" RSD
		case $option in
		-x) free 2 ;;
		*)
			full 2
			queue "w$option" -j 2
			;;
		esac
		begin=$(microseconds)
		kill -KILL "$daemon"
		[ "$option" = -x ] || began_at_once "w$option"
		[ "$option" = -x ] || ended_with "$waiter" 0
		wait_for 20 is_dead "$daemon"
		free 2
	done
	let_go
	free 2
	[ "$(files)" = 0 ]
}

@test "P3 files of slots whose holders were killed go with the first run that comes after" {
	local first
	hold -j 3 key
	first=$holder
	hold -j 3 key
	kill -KILL "$first" "$(descendants "$first" | tail -n 1)"
	wait "$first" 2>/dev/null || :
	[ "$(files)" = 2 ]
	# The second slot's holder leaves the first's file, too, whose line it has used.
	let_go
	[ "$(files)" = 0 ]
	hold -j 3 key
	first=$holder
	hold -j 3 key
	kill -KILL "$holder" "$held"
	wait "$holder" 2>/dev/null || :
	wait_for 20 is_dead "$held"
	let_go "$first"
	run_keylock -j 3 key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "a slot's file that is not safe to use is refused, the first one's and another's" {
	mkdir -m 700 "$KEYLOCK_DIR"
	ln -s nowhere "$KEYLOCK_DIR/key"
	run_keylock -j 2 key touch "$ran"
	expect_message 77 "$KEYLOCK_DIR/key:"
	rm "$KEYLOCK_DIR/key"
	ln -s nowhere "$KEYLOCK_DIR/key%s2"
	hold -j 2 key
	run_keylock -j 2 key touch "$ran"
	expect_message 77 "$KEYLOCK_DIR/key%s2:"
	[ ! -e "$ran" ]
	let_go
	[ "$(readlink "$KEYLOCK_DIR/key%s2")" = nowhere ]
	[ "$(files)" = 1 ]
}

@test "-k with -j: a slot of each key" {
	local first
	hold -j 2 -k b a
	first=$holder
	hold -j 2 -k c b
	# Of b both slots are taken, of a and c one.
	run_keylock -n -j 2 b true
	expect 75
	run_keylock -n -j 2 -k b a true
	expect 75
	run_keylock -n -j 2 -k c a true
	expect 0
	"$KEYLOCK" -j 2 -k a b touch "$ran.served" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	# It has the second slot of a by now.
	run_keylock -n -j 2 a true
	expect 75
	[ ! -e "$ran.served" ]
	let_go
	ended_with "$waiter" 0
	[ -e "$ran.served" ]
	let_go "$first"
	[ "$(files)" = 0 ]
}

@test "--list and --who show each slot that is held, and who waits" {
	local first third
	hold -j 3 key
	first=$holder
	hold -j 3 key
	run_keylock --who key
	expect 0
	[ "$(sort -n <<<"$output")" = "$(printf '%s\n' "$first" "$holder" | sort -n)" ]
	run_keylock --list
	expect 0
	[ "$(wc -l <<<"$output")" = 3 ]
	[[ $output == *"$first"*"$holder"* ]]
	run_keylock --list --json key
	expect 0
	[ "$(wc -l <<<"$output")" = 2 ]
	[[ $output == *'"slot":1,"pids":['"$first"']'*'"slot":2,"pids":['"$holder"']'* ]]
	[[ ${output##*$'\n'} == '{"key":"key","state":"held","mode":"exclusive",'*/key%s2* ]]
	third=$holder
	hold -j 3 key
	queue w -j 3
	queue v -j 3
	run_keylock --list --json key
	[[ ${output%%$'\n'*} == *'"waiting":2'* ]]
	# The key's own slot is free: it still has a line of its own for none.
	let_go "$first"
	ended_with "$waiter" 0
	run_keylock --list --json
	[ "$(wc -l <<<"$output")" = 2 ]
	[[ $output == *"[$third]"*"[$holder]"* ]]
	run_keylock --who key
	[ "$output" = "$third"$'\n'"$holder" ]
}

@test "a run without -j is a run with one slot, and of two numbers the larger one holds" {
	local i
	hold key
	# It is alone in the first of four.
	run_keylock -n -j 1 key true
	expect 75
	for i in 1 2 3; do
		hold -n -j 4 key
	done
	full 4
	full 2
	run_keylock -n key true
	expect 75
	hold -n -j 5 key
	full 5
	full 4
}

@test "-j with what is no number of slots, or does not go with it" {
	local value
	for value in 0 1001 x '' -1 1.5 2x ' 2' +2 99999999999999999999; do
		run_keylock -j "$value" key touch "$ran"
		expect_message 64 -j
	done
	for value in '-j 2 -s' '-s -j 2' '-j 2 -A' '-R -j 2' '-j 1 -s' '-j1 -A'; do
		run_keylock $value key touch "$ran"
		expect_message 64 -j
	done
	run_keylock -j
	expect_message 64 -j
	[ ! -e "$ran" ]
	[ "$(files)" = 0 ]
	# The last mode counts: this is exclusive.
	run_keylock -s -x -j 2 key true
	expect 0
}

# stress [OPTION…] COUNT WORKERS HOLD SLOTS: fails when the probe slotted saw too many at once, or
# too few, or nothing at all.
stress() {
	local options=() slots=${*: -1} count=${*: -4:1}
	rm -f "$BATS_TEST_TMPDIR/witness" # it counts on
	while [ $# -gt 4 ]; do
		options+=("$1")
		shift
	done
	run_it "$(probe slotted)" "${options[@]}" "$BATS_TEST_TMPDIR/witness" "$@" "$KEYLOCK" key
	expect 0
	[[ $output =~ ^runs=([0-9]+)\ kills=([0-9]+)\ excess=0\ most=$slots\ low_ms=([0-9]+)\ low_share=([0-9]+)\ ms=([0-9]+)\ others=0\ stuck=0$ ]]
	echo "# $output" >&3
	case ${options[*]} in
	*-k*)
		[ "${BASH_REMATCH[1]}" -ge $((count / 2)) ]
		[ "${BASH_REMATCH[2]}" -ge $((count / 10)) ]
		;;
	*)
		[ "${BASH_REMATCH[1]}" = "$count" ]
		[ "${BASH_REMATCH[3]}" -lt 1000 ]
		[ "$(files)" = 0 ]
		;;
	esac
}

# All three slots can be had, and then nothing is left of what was killed.
no_traces() {
	local i holders=()
	for i in 1 2 3; do
		# Not -n: a daemon of a killed keylock may have the slot for a moment.
		hold -w 20 -j 3 key
		holders+=("$holder")
	done
	full 3
	for i in "${holders[@]}"; do
		let_go "$i"
		expect 0
	done
	[ "$(files)" = 0 ]
}

@test "P1 many at a few slots: never more, and never fewer while somebody waits" {
	stress 80 80 10000 4
	[ -z "${KEYLOCK_LONG-}" ] || stress 500 500 20000 4
}

@test "P1 slots while daemons are left behind, and holders and waiters are killed" {
	local count=300
	[ -z "${KEYLOCK_LONG-}" ] || count=6000
	stress -d "$count" 12 1000 3
	stress -k "$count" 12 1500 3
	no_traces
	stress -k -d "$count" 12 1000 3
	no_traces
}

@test "a thousand slots, all taken, and one who waits" {
	local i one begin
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
	ended_with "$waiter" 0
}

#!/usr/bin/env bats
# Cycles: commands that hold keys and wait for each other's. One of them is told, the others go on.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' own variables; the helper's variables

load helper

# party NAME HOLD... -- WANT...: in the background, "keylock HOLD..." whose command, when there is a
# file "go" or NAME.go, runs "keylock WANT... true". Notes the inner one's status in NAME.status, what it says
# in NAME.said and when it ended in NAME.at; what comes of the outer one can be had with "ends". Sets
# parties and, when it has its keys, returns.
party() {
	local name=$1 hold=()
	shift
	while [ "$1" != -- ]; do
		hold+=("$1")
		shift
	done
	shift
	"$KEYLOCK" "${hold[@]}" bash -c 'dir=$0 name=$1; shift; echo $$ >"$dir/$name.pid"
		echo >"$dir/$name.begun"
		until [ -e "$dir/go" ] || [ -e "$dir/$name.go" ]; do sleep 0.01; done
		"$@" 2>"$dir/$name.said"; status=$?
		echo "$((${EPOCHREALTIME/[.,]/} / 1000))" >"$dir/$name.at"
		echo "$status" >"$dir/$name.status"; exit "$status"' \
		"$BATS_TEST_TMPDIR" "$name" ${between[@]+"${between[@]}"} "$KEYLOCK" "$@" true 3>&- 4>&- &
	parties+=("$name")
	outer[$name]=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/$name.begun"
}

# Lets the parties go for each other's keys, and waits until all have ended: exactly one with 78,
# having named a cycle of LENGTH links, the others with 0, and nothing is left.
close_cycle() {
	local name begin told='' others=0 at length=$1
	begin=$(milliseconds)
	touch "$BATS_TEST_TMPDIR/go"
	for name in "${parties[@]}"; do
		wait_for 30 test -s "$BATS_TEST_TMPDIR/$name.status"
		status=$(cat "$BATS_TEST_TMPDIR/$name.status")
		echo "$name: $status $(cat "$BATS_TEST_TMPDIR/$name.said")"
		case $status in
		78) told+=${told:+ }$name ;;
		0) others=$((others + 1)) ;;
		esac
	done
	[[ -n $told && $told != *' '* ]]
	[ "$others" = $((${#parties[@]} - 1)) ]
	for name in "${parties[@]}"; do
		status=0
		wait "${outer[$name]}" || status=$?
		[ "$name" = "$told" ] || expect 0
	done
	[ "$(files)" = 0 ]
	at=$(cat "$BATS_TEST_TMPDIR/$told.at")
	took=$((at - begin))
	echo "told after $took ms"
	# Two seconds are promised; the rest is for a machine that is busy with other things.
	[ "$took" -lt 4000 ]
	said=$(cat "$BATS_TEST_TMPDIR/$told.said")
	[ "$(wc -l <"$BATS_TEST_TMPDIR/$told.said")" = 1 ]
	[[ $said == keylock:\ * ]]
	[ "$(grep -o 'by pid [0-9]*' <<<"$said" | wc -l)" = "$length" ]
	[ "$(grep -o ', which waits for ' <<<"$said" | wc -l)" = $((length - 1)) ]
}

# The message names KEY as held by that party's outer keylock.
names_held() {
	[[ $said == *"$1 held by pid ${outer[$2]}"* ]] || {
		echo "$1 held by pid ${outer[$2]} is not named"
		return 1
	}
}

prepare() {
	parties=() between=() said=''
	declare -gA outer=()
	rm -f "$BATS_TEST_TMPDIR"/*.{status,said,at,begun,pid,go} "$BATS_TEST_TMPDIR/go"
}

@test "two scripts that lock each other's key" {
	prepare
	party one a -- b
	party two b -- a
	close_cycle 2
	echo "# told $took ms after the cycle closed" >&3
	names_held b two
	names_held a one
	[[ $said == *' by pid '*', which waits for '* ]]
}

@test "again and again, and always exactly one is told" {
	local i rounds=2
	[ -z "${KEYLOCK_LONG-}" ] || rounds=15
	for ((i = 0; i < rounds; i++)); do
		prepare
		party one a -- b
		party two b -- a
		close_cycle 2
	done
}

@test "three scripts" {
	prepare
	party one a -- b
	party two b -- c
	party three c -- a
	close_cycle 3
	names_held b two
	names_held c three
	names_held a one
	# In the order of the cycle: who holds what the one before waits for.
	case $said in
	*'b held by '*'c held by '*'a held by '* | *'c held by '*'a held by '*'b held by '* | *'a held by '*'b held by '*'c held by '*) ;;
	*) false ;;
	esac
}

@test "five scripts" {
	local i names=(a b c d e)
	prepare
	for i in 0 1 2 3 4; do
		party "p$i" "${names[i]}" -- "${names[(i + 1) % 5]}"
	done
	close_cycle 5
	for i in 0 1 2 3 4; do
		names_held "${names[i]}" "p$i"
	done
}

@test "two cycles at once, and both are broken" {
	local name statuses=''
	prepare
	party one a -- b
	party two b -- a
	party three c -- d
	party four d -- c
	touch "$BATS_TEST_TMPDIR/go"
	for name in one two three four; do
		wait_for 30 test -s "$BATS_TEST_TMPDIR/$name.status"
		statuses+="$(cat "$BATS_TEST_TMPDIR/$name.status") "
	done
	case $statuses in
	'78 0 78 0 ' | '78 0 0 78 ' | '0 78 78 0 ' | '0 78 0 78 ') ;;
	*)
		echo "$statuses"
		false
		;;
	esac
}

@test "through -k: one that holds several, one that wants several" {
	prepare
	party one -k x a -- b
	party two -k y b -- -k z a
	close_cycle 2
	prepare
	party one a -- -k 0 b
	party two b -- -k 1 a
	close_cycle 2
	prepare
	party one -k b -k c a -- d
	party two d -- -k e -k b f
	close_cycle 2
}

@test "through one -k alone, which has the first of its keys and waits for the second" {
	local status_of_k
	prepare
	party two c -- a
	# It gets a, and then waits for c, being a descendant of nobody.
	"$KEYLOCK" -k c a true 2>"$BATS_TEST_TMPDIR/k.said" 3>&- 4>&- &
	local k=$!
	wait_for 20 has_ticket "$k"
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 30 test -s "$BATS_TEST_TMPDIR/two.status"
	status_of_k=0
	wait "$k" || status_of_k=$?
	cat "$BATS_TEST_TMPDIR"/*.said
	case "$status_of_k $(cat "$BATS_TEST_TMPDIR/two.status")" in
	'78 0')
		said=$(cat "$BATS_TEST_TMPDIR/k.said")
		;;
	'0 78')
		said=$(cat "$BATS_TEST_TMPDIR/two.said")
		;;
	*) false ;;
	esac
	names_held c two
	[[ $said == *"a held by pid $k"* ]]
	wait "${outer[two]}" || :
	[ "$(files)" = 0 ]
}

@test "through waiters that are not first in line" {
	local i waiters=()
	prepare
	party one a -- b
	party two b -- a
	# These come first, and know of no cycle: they hold nothing.
	for i in 1 2 3; do
		"$KEYLOCK" a true 3>&- 4>&- &
		waiters+=($!)
		wait_for 20 has_ticket $!
		"$KEYLOCK" b true 3>&- 4>&- &
		waiters+=($!)
		wait_for 20 has_ticket $!
	done
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 30 test -s "$BATS_TEST_TMPDIR/one.status"
	wait_for 30 test -s "$BATS_TEST_TMPDIR/two.status"
	for i in "${waiters[@]}"; do
		ended_with "$i" 0
	done
	cat "$BATS_TEST_TMPDIR"/*.said
	case "$(cat "$BATS_TEST_TMPDIR/one.status" "$BATS_TEST_TMPDIR/two.status" | paste -sd ' ')" in
	'78 0' | '0 78') ;;
	*) false ;;
	esac
	wait "${outer[one]}" || :
	wait "${outer[two]}" || :
	[ "$(files)" = 0 ]
}

@test "through the line itself: behind an exclusive waiter, before whom there is a shared holder" {
	# Two would share a with third, were it not for the exclusive one before it.
	prepare
	party third -s a -- p
	party two p -- -s a
	"$KEYLOCK" a true 3>&- 4>&- &
	local exclusive=$!
	wait_for 20 has_ticket "$exclusive"
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 30 test -s "$BATS_TEST_TMPDIR/third.status"
	wait_for 30 test -s "$BATS_TEST_TMPDIR/two.status"
	cat "$BATS_TEST_TMPDIR"/*.said
	case "$(cat "$BATS_TEST_TMPDIR/third.status" "$BATS_TEST_TMPDIR/two.status" | paste -sd ' ')" in
	'78 0' | '0 78') ;;
	*) false ;;
	esac
	ended_with "$exclusive" 0
	wait "${outer[third]}" || :
	wait "${outer[two]}" || :
	[ "$(files)" = 0 ]
}

@test "with processes, other keys and a closed descriptor in between" {
	prepare
	between=(env nice sh -c '"$@"; exit $?' sh)
	party one a -- b
	between=("$KEYLOCK" other sh -c '"$@"; exit $?' sh)
	party two b -- c
	between=("$(probe bare)")
	party three c -- a
	close_cycle 3
}

@test "shared locks can be in a cycle, too" {
	prepare
	party one -s a -- b
	party two -s b -- a
	close_cycle 2
}

@test "where a time-out comes first there is nothing to tell" {
	prepare
	party one a -- -w 0.3 b
	party two b -- a
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/two.status"
	[ "$(cat "$BATS_TEST_TMPDIR/one.status")" = 75 ]
	[ "$(cat "$BATS_TEST_TMPDIR/two.status")" = 0 ]
	[ ! -s "$BATS_TEST_TMPDIR/one.said" ]
	[ ! -s "$BATS_TEST_TMPDIR/two.said" ]
}

@test "a cycle that closes after a long wait is told as well" {
	prepare
	party one a -- b
	party two b -- a
	touch "$BATS_TEST_TMPDIR/one.go"
	# One has looked, seen no cycle, and does not look again.
	sleep 1.5
	[ ! -e "$BATS_TEST_TMPDIR/one.status" ]
	close_cycle 2
	[ "$(cat "$BATS_TEST_TMPDIR/two.status")" = 78 ]
}

@test "no false alarm: long lines at several keys, taken in one order" {
	local i waiters=() name seconds
	# Each holds some keys and waits, longer than a second, for later ones.
	for i in {1..24}; do
		case $((i % 6)) in
		0) set -- "$KEYLOCK" a "$KEYLOCK" b "$KEYLOCK" c ;;
		1) set -- "$KEYLOCK" -k b a "$KEYLOCK" c ;;
		2) set -- "$KEYLOCK" a "$KEYLOCK" -k c b ;;
		3) set -- "$KEYLOCK" -s a "$KEYLOCK" c ;;
		4) set -- "$KEYLOCK" b "$KEYLOCK" -s c ;;
		5) set -- "$KEYLOCK" -k c -k a b ;;
		esac
		seconds=0.05
		[ "$i" -gt 6 ] || seconds=0.4
		"$@" sleep "$seconds" 2>>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
		waiters+=($!)
	done
	for name in "${waiters[@]}"; do
		status=0
		wait "$name" || status=$?
		cat "$BATS_TEST_TMPDIR/said"
		expect 0
	done
	[ ! -s "$BATS_TEST_TMPDIR/said" ]
	[ "$(files)" = 0 ]
}

@test "no false alarm among hundreds" {
	local round i waiters=() pid
	need_long
	for ((round = 0; round < 3; round++)); do
		waiters=()
		for i in {1..200}; do
			case $((RANDOM % 5)) in
			0) set -- "$KEYLOCK" a "$KEYLOCK" b "$KEYLOCK" c "$KEYLOCK" d ;;
			1) set -- "$KEYLOCK" -k b a "$KEYLOCK" -s -k d c ;;
			2) set -- "$KEYLOCK" -s b "$KEYLOCK" -k d c ;;
			3) set -- "$KEYLOCK" -w 60 a "$KEYLOCK" -w 60 d ;;
			4) set -- "$KEYLOCK" c "$KEYLOCK" d ;;
			esac
			"$@" sleep 0.02 2>>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
			waiters+=($!)
		done
		for pid in "${waiters[@]}"; do
			status=0
			wait "$pid" || status=$?
			cat "$BATS_TEST_TMPDIR/said"
			expect 0
		done
	done
	[ ! -s "$BATS_TEST_TMPDIR/said" ]
	[ "$(files)" = 0 ]
}

@test "who holds no key and descends from no holder does not look: nothing in /proc is read" {
	need strace
	hold key
	# Two seconds of waiting, after one of which others look.
	run_it strace -f -o "$BATS_TEST_TMPDIR/trace" "$KEYLOCK" -w 1.5 key true
	expect 75
	[ -s "$BATS_TEST_TMPDIR/trace" ]
	[ "$(grep -c '"/proc"' "$BATS_TEST_TMPDIR/trace")" = 0 ]
	# And who does so looks then, and not before.
	run_keylock other strace -f -o "$BATS_TEST_TMPDIR/trace" "$KEYLOCK" -w 0.7 key true
	expect 75
	[ "$(grep -c '"/proc"' "$BATS_TEST_TMPDIR/trace")" = 0 ]
	run_keylock other strace -f -o "$BATS_TEST_TMPDIR/trace" "$KEYLOCK" -w 2 key true
	expect 75
	[ "$(grep -c '"/proc"' "$BATS_TEST_TMPDIR/trace")" = 1 ]
}

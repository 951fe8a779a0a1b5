#!/usr/bin/env bats
# Cycles: commands that hold keys and wait for each other's. One of them is told, the others go on.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' own variables; the helper's variables

load helper

# party NAME HOLD... -- WANT...: in the background, "keylock HOLD..." whose command, when there is a
# file "go" or NAME.go, runs "keylock WANT... true". Notes the inner one's status in NAME.status and what
# it says in NAME.said. Sets parties and, when it has its keys, returns.
party() {
	local name=$1 hold=()
	shift
	while [ "$1" != -- ]; do
		hold+=("$1")
		shift
	done
	shift
	"$KEYLOCK" "${hold[@]}" bash -c 'dir=$0 name=$1; shift
		echo >"$dir/$name.begun"
		until [ -e "$dir/go" ] || [ -e "$dir/$name.go" ]; do sleep 0.01; done
		"$@" 2>"$dir/$name.said"; status=$?
		echo "$status" >"$dir/$name.status"; exit "$status"' \
		"$BATS_TEST_TMPDIR" "$name" ${between[@]+"${between[@]}"} "$KEYLOCK" "$@" true 3>&- 4>&- &
	parties+=("$name")
	outer[$name]=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/$name.begun"
}

# Lets the parties go for each other's keys, and waits until all have ended: exactly one with 78,
# having named a cycle of LENGTH links, the others with 0, and nothing is left. Sets told and said.
close_cycle() {
	local name others=0 length=$1
	told=''
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
	rm -f "$BATS_TEST_TMPDIR"/*.{status,said,begun,go} "$BATS_TEST_TMPDIR/go"
}

# one_told NAME...: exactly one of these parties ends with 78, the others with 0.
one_told() {
	local name ends=()
	for name; do
		wait_for 30 test -s "$BATS_TEST_TMPDIR/$name.status"
		ends+=("$(cat "$BATS_TEST_TMPDIR/$name.status")")
		cat "$BATS_TEST_TMPDIR/$name.said"
	done
	[ "$(printf '%s\n' "${ends[@]}" | sort -n | paste -sd ' ')" = "$(printf '0 %.0s' $(seq 2 $#))78" ]
}

@test "P9 never stuck: of scripts that lock each other's keys one is told, and the cycle named in its order" {
	local i count names=(a b c d e)
	for count in 2 2 3 5; do
		prepare
		for ((i = 0; i < count; i++)); do
			party "p$i" "${names[i]}" -- "${names[(i + 1) % count]}"
		done
		close_cycle "$count"
		for ((i = 0; i < count; i++)); do
			names_held "${names[i]}" "p$i"
		done
		[[ $count = 2 || $said =~ (a.*b.*c|b.*c.*a|c.*a.*b) ]]
	done
}

@test "P9 never stuck: also with -k, -s, -j, another program's processes and keys, or a closed descriptor in the cycle" {
	local one two parties=() between=()
	while IFS='|' read -r one two; do
		echo "== $one, $two"
		prepare
		# shellcheck disable=SC2086
		party one $one
		# shellcheck disable=SC2086
		party two $two
		close_cycle 2
	done <<-'CASES'
		-k x a -- b|-k y b -- -k z a
		a -- -k 0 b|b -- -k 1 a
		-k b -k c a -- d|d -- -k e -k b f
		-s a -- b|-s b -- a
		-j 1 a -- b|b -- -j 1 a
	CASES
	prepare
	between=(env nice sh -c '"$@"; exit $?' sh)
	party one a -- b
	between=("$KEYLOCK" other sh -c '"$@"; exit $?' sh)
	party two b -- c
	between=("$(probe bare)")
	party three c -- a
	close_cycle 3
}

@test "P9 never stuck: two cycles at once, and both are broken" {
	prepare
	party one a -- b
	party two b -- a
	party three c -- d
	party four d -- c
	touch "$BATS_TEST_TMPDIR/go"
	one_told one two
	one_told three four
}

@test "P9 never stuck: through one -k alone, which has the first of its keys and waits for the second" {
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

@test "P9 never stuck: through waiters that are not first in line" {
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
	one_told one two
	for i in "${waiters[@]}"; do
		ended_with "$i" 0
	done
	wait "${outer[one]}" || :
	wait "${outer[two]}" || :
	[ "$(files)" = 0 ]
}

@test "P9 never stuck: through the line itself: behind an exclusive waiter, before whom there is a shared holder" {
	# Two would share a with third, were it not for the exclusive one before it.
	prepare
	party third -s a -- p
	party two p -- -s a
	"$KEYLOCK" a true 3>&- 4>&- &
	local exclusive=$!
	wait_for 20 has_ticket "$exclusive"
	touch "$BATS_TEST_TMPDIR/go"
	one_told third two
	ended_with "$exclusive" 0
	wait "${outer[third]}" || :
	wait "${outer[two]}" || :
	[ "$(files)" = 0 ]
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

@test "P9 never stuck: a cycle that closes after a long wait is told as well" {
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

@test "P9 never stuck: a cycle through a guest, whose host has ended, is told" {
	prepare
	party two b -- a
	# Its outer run has ended; it holds a as its guest.
	"$KEYLOCK" -l -o a sh -c '"$KEYLOCK" -r a sh -c "echo >\"\$0/begun\"; until [ -e \"\$0/go\" ]; do sleep 0.01; done
			\"\$KEYLOCK\" b true 2>\"\$0/one.said\"; echo \$? >\"\$0/one.status\"" "$0" &
		until [ -e "$0/begun" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR" 3>&- 4>&-
	touch "$BATS_TEST_TMPDIR/go"
	one_told one two
	wait "${outer[two]}" || :
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "no false alarm: long lines at several keys, taken in one order" {
	local i waiters=() name seconds count=24
	[ -z "${KEYLOCK_LONG-}" ] || count=200
	# Each holds some keys and waits, longer than a second, for later ones.
	for ((i = 1; i <= count; i++)); do
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

@test "P5 asleep: who holds no key and descends from no holder does not look: nothing in /proc is read" {
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
	[ "$(grep -c '"/proc"' "$BATS_TEST_TMPDIR/trace")" -ge 1 ]
}

@test "P9 never stuck: among 2,000 waiters a look for cycles costs less than a second and heeds the deadline" {
	local crowd i user system
	need_long
	crowd=$(probe crowd)
	hold key
	"$crowd" 2000 "$KEYLOCK" key true >/dev/null 3>&- 4>&- &
	crowd=$!
	wait_for 50 eval '[ "$("$KEYLOCK" --list --json key | sed "s/.*waiting.:\([0-9]*\).*/\1/")" = 2000 ]'
	# What it uses of a processor, which another load does not make more.
	TIMEFORMAT='%U %S'
	{ time run_keylock other "$KEYLOCK" -w 1.5 key true; } 2>"$BATS_TEST_TMPDIR/used"
	cat "$BATS_TEST_TMPDIR/used"
	expect 75
	read -r user system < <(tail -n 1 "$BATS_TEST_TMPDIR/used")
	i=$((10#${user/./} + 10#${system/./}))
	[ "$i" -lt 1000 ]
	let_go
	wait "$crowd"
	[ "$(files)" = 0 ]
}

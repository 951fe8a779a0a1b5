# Cycles: commands that hold keys and wait for each other's. One of them is told, the others go on.

load helper

setup() {
	keylock_setup
	prepare
}

prepare() {
	parties=() between=()
	declare -gA outer=() wants=()
	rm -f "$work"/{one,two,three,four,k,p?}
}

# party NAME HOLD... -- WANT...: "keylock HOLD..." whose command, when it goes, runs "keylock WANT... true",
# and ends. When it has its keys, returns.
party() {
	local name=$1 words=()
	shift
	while [ "$1" != -- ]; do
		words+=("$1")
		shift
	done
	hold "${words[@]}"
	parties+=("$name")
	outer[$name]=$holder
	printf -v "wants[$name]" '%q ' "${between[@]}" "$KEYLOCK" "${@:2}" true
}

go() {
	local name
	for name; do
		tell "${outer[$name]}" "$name" "${wants[$name]}"
		tell "${outer[$name]}" let_go exit
	done
}

# one_told NAME...: exactly one of these parties ends with 78, in one line, the others with 0. Sets said.
one_told() {
	local name told=''
	for name; do
		wait_for 30 test -s "$work/$name"
		echo "$name: $(cat "$work/$name" "$work/$name.said")"
		case $(cat "$work/$name") in
		78) told+=$name ;;
		*) answered "$name" 0 ;;
		esac
		wait "${outer[$name]}" || :
	done
	said=$(cat "$work/$told.said")
	[[ $said == 'keylock: '* && $said != *$'\n'* ]]
}

# close_cycle [LENGTH]: lets the parties go for each other's keys: one is told, of a cycle of LENGTH links.
close_cycle() {
	go "${parties[@]}"
	one_told "${parties[@]}"
	all_gone
	[ -n "${1-}" ] || return 0
	[ "$(grep -o 'by pid [0-9]*' <<<"$said" | wc -l)" = "$1" ]
	[ "$(grep -o ', which waits for ' <<<"$said" | wc -l)" = $(($1 - 1)) ]
}

# The message names KEY as held by that party's outer keylock.
names_held() {
	echo "expected: $1 held by pid ${outer[$2]}"
	[[ $said == *"$1 held by pid ${outer[$2]}"* ]]
}

@test "P9 never stuck: of scripts that lock each other's keys one is told, and the cycle named in its order" {
	names=(a b c d e)
	for count in 2 3 5; do
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

@test "P9 never stuck: also with -k, -s, -j, and through the line, where others came first who hold nothing" {
	while IFS='|' read -r length one two line; do
		echo "== $one, $two, $line"
		prepare
		waiters=()
		party one $one
		party two $two
		for key in $line; do
			line_up "$key" true
			waiters+=("$waiter")
		done
		close_cycle $length
		for waiter in "${waiters[@]}"; do
			ended_with "$waiter" 0
		done
	done <<-'CASES'
		2|-k x a -- b|-k y b -- -k z a|
		2|a -- -k 0 b|b -- -k 1 a|
		2|-k b -k c a -- d|d -- -k e -k b f|
		2|-s a -- b|-s b -- a|
		2|-j 1 a -- b|b -- -j 1 a|
		|a -- b|b -- a|a b a b a b
		|-s a -- p|p -- -s a|a
	CASES
}

@test "P9 never stuck: also with other programs, keys and closed descriptors in between; two cycles at once" {
	between=(env nice sh -c '"$@"; exit $?' sh)
	party one a -- b
	between=("$KEYLOCK" other sh -c '"$@"; exit $?' sh)
	party two b -- c
	between=("$tools/bare.py")
	party three c -- a
	close_cycle 3
	prepare
	party one a -- b
	party two b -- a
	party three c -- d
	party four d -- c
	go one two three four
	one_told one two
	one_told three four
}

# k_ends: the party k is a keylock without a party's command, the last waiter: notes its end.
k_ends() {
	status=0
	wait "${outer[k]}" || status=$?
	echo "$status" >"$work/k"
}

@test "P9 never stuck: through one -k alone, which has the first of its keys and waits for the second" {
	party two c -- a
	# It gets a, and then waits for c, being a descendant of nobody.
	line_up -k c a true 2>"$work/k.said"
	outer[k]=$waiter
	go two
	k_ends
	one_told k two
	names_held c two
	names_held a k
}

@test "P9 never stuck: a cycle that one -k alone closes, when all others have looked, is told" {
	party two c -- a
	hold b
	line_up -k b -k c a true 2>"$work/k.said"
	outer[k]=$waiter
	go two
	sleep 1.5
	[ ! -e "$work/two" ]
	let_go
	k_ends
	expect 78
	one_told k two
}

@test "where a time-out comes first there is nothing to tell" {
	party one a -- -w 0.3 b
	party two b -- a
	go one two
	answered two 0
	answered one 75
	[[ ! -s $work/one.said && ! -s $work/two.said ]]
}

@test "P9 never stuck: a cycle that closes after a long wait is told as well" {
	party one a -- b
	party two b -- a
	go one
	# One has looked, seen no cycle, and does not look again.
	sleep 1.5
	[ ! -e "$work/one" ]
	go two
	one_told one two
	answered two 78
}

@test "P9 never stuck: a cycle through a guest, whose host has ended, is told" {
	party two b -- a
	hold -l -o a
	hold_under "$holder" "$KEYLOCK" -r a
	let_go
	outer[one]=$held wants[one]='keylock b true' parties+=(one)
	close_cycle
}

@test "P9 never stuck, and no false alarm: long lines at several keys, taken in one order" {
	waiters=() count=$(size 24 200)
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
		"$@" sleep "$seconds" 2>>"$work/said" 3>&- 4>&- &
		waiters+=($!)
	done
	for waiter in "${waiters[@]}"; do
		ended_with "$waiter" 0
	done
	cat "$work/said"
	[ ! -s "$work/said" ]
}

@test "no false alarm: who waits for one of several slots does not wait for each of their holders" {
	party two -j 2 b -- a
	hold -j 2 b
	slot=$holder
	party one a -- -j 2 b
	go one two
	sleep 2.5
	[ ! -e "$work/one" ]
	let_go "$slot"
	answered two 0
	answered one 0
}

@test "P5 asleep: who holds no key and descends from no holder does not look: nothing in /proc is read" {
	need strace
	hold key
	# Two seconds of waiting, after one of which others look; and who does so looks then, and not
	# before.
	for case in '0|strace|1.5' "0|$KEYLOCK other strace|0.7" "1|$KEYLOCK other strace|2"; do
		IFS='|' read -r looks command seconds <<<"$case"
		it_gives 75 $command -f -o "$work/trace" "$KEYLOCK" -w "$seconds" key true
		[ -s "$work/trace" ]
		count=$(grep -c '"/proc"' "$work/trace") || :
		[[ $count -ge $looks && ($looks != 0 || $count == 0) ]]
	done
}

@test "P9 never stuck: among 2,000 waiters a look for cycles costs less than a second and heeds the deadline" {
	need_long
	hold key
	python3 "$tools/crowd.py" 2000 "$KEYLOCK" key true >/dev/null 3>&- 4>&- &
	crowd=$!
	wait_for 50 eval '[ "$("$KEYLOCK" --list --json key | sed "s/.*waiting.:\([0-9]*\).*/\1/")" = 2000 ]'
	# What it uses of a processor, which another load does not make more.
	TIMEFORMAT='%U %S'
	{ time gives 75 other "$KEYLOCK" -w 1.5 key true; } 2>"$work/used"
	cat "$work/used"
	read -r user system < <(tail -n 1 "$work/used")
	[ $((10#${user/./} + 10#${system/./})) -lt 1000 ]
	let_go
	wait "$crowd"
}

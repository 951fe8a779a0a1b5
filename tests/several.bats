# Several keys: all or none, in one order, under one deadline. Their life is in lifetime.bats.

load helper

# each taken KEY…, each free KEY…: so is each of them.
each() {
	local is=$1 key
	shift
	for key; do
		"$is" "$key" || return
	done
}

# contend OPTION… KEY: line_up with a command that adds a line to "served".
contend() {
	line_up "$@" sh -c 'echo >>"$served"'
}

@test "P1 all keys are held while the command runs; with one taken nothing runs and none is held" {
	hold -k b --key c a
	each taken a b c
	[ "$(files)" = 3 ]
	for key in a b c; do
		prints "$holder" --who "$key"
	done
	let_go
	expect 0
	for key in a b c; do
		hold "$key"
		for words in '75 -n -k b -k c a' '75 -w 0.1 -k a -k b c' '75 -w0 -k c -k a b' \
			'9 -n -E 9 -k a -k b c'; do
			quiet "${words%% *}" ${words#* } touch "$ran"
			[ "$(files)" = 1 ]
		done
		fails 75 "$key: taken: pid $holder" -v -n -k c -k b a true
		touch -d '1 hour ago' "$KEYLOCK_DIR/$key"
		run_keylock -n -W 10m -k c -k b a true
		expect_message 75 "$key: taken: pid $holder" 'held for 1h0m'
		let_go
	done
}

@test "keys are taken in the order of their files' names, however they are named" {
	hold b
	# The slash is after the plus, but its file's name is before it.
	hold +
	for words in 'a -k b -k c a' 'a -k c -k b a' 'a -k a -k b c' 'a -k a -k c b' \
		'/ -k + /' '/ -k / +'; do
		contend ${words#* }
		taken "${words%% *}"
		free c
		kill -TERM "$waiter"
		ended_with "$waiter" 143
		[ "$(files)" = 2 ]
	done
	[ ! -e "$served" ]
}

@test "P9 -w: one time for all keys together" {
	hold a
	first=$holder
	hold b
	begin=$(milliseconds)
	contend -w 2 -k a b
	# The first is had after 1.5 s, and there is half a second left for the second.
	wait_for 20 eval '[ "$(milliseconds)" -ge $((begin + 1500)) ]'
	let_go "$first"
	ended_with "$waiter" 75
	passed=$(($(milliseconds) - begin))
	echo "took $passed ms"
	[[ $passed -ge 2000 && $passed -lt 3400 && ! -e $served ]]
}

@test "-s: all keys are shared" {
	hold -s -k b a
	first=$holder
	hold -s -k c b
	free -s -k b -k c a
	each taken a b c
	taken -k d b
	let_go "$first"
	free a
	each taken b c
	let_go
}

@test "KEYLOCK_KEY is KEY, the first where there are several, unless that is too long" {
	while IFS='|' read -r words one; do
		prints "$one" $words printenv KEYLOCK_KEY
	done <<-'KEYS'
		-k b -k c a|a
		-n -k b -k a b|b
		-F -k b a|a
		-s -k x ~|~
	KEYS
	prints c -k b a "$KEYLOCK" c printenv KEYLOCK_KEY
	prints $'a\nc' -k b $'a\nc' printenv KEYLOCK_KEY
	# Arguments and environment may take a quarter of the stack: --auto has all twice.
	printf -v one '%0100000d' 1
	for words in -x -F -o; do
		run_it bash -c 'ulimit -s 768 && exec "$KEYLOCK" "$@"' bash "$words" --auto \
			sh -c 'echo "${KEYLOCK_KEY-unset}"' "$one"
		expect 0
		[ "$output" = unset ]
	done
}

@test "a hundred keys; with fewer descriptors it is 71, and nothing is kept" {
	words=()
	for i in {1..99}; do
		words+=(-k "key $i")
	done
	prints $'100\n75\n75\n75\n1' -n "${words[@]}" 'key 0' sh -c 'ls -A "$KEYLOCK_DIR" | wc -l
		for key in 0 57 99 100; do "$KEYLOCK" -n "key $key" true || echo "$?"; done
		printenv KEYLOCK_KEY | wc -l'
	hold 'key 99'
	taken "${words[@]}" 'key 0'
	[ "$(files)" = 1 ]
	let_go
	it_fails 71 '' sh -c 'ulimit -n 60 && exec "$@"' sh "$KEYLOCK" "${words[@]}" 'key 0' touch "$ran"
}

@test "P9 a signal while waiting for a later key gives the earlier ones back" {
	hold b
	contend -k a -k c b
	taken a
	kill -TSTP "$waiter"
	wait_for 20 in_state "$waiter" T
	each free a c
	kill -CONT "$waiter"
	wait_for 20 taken a
	wait_for 20 has_ticket "$waiter"
	kill -HUP "$waiter"
	ended_with "$waiter" 129
	free a
	[ ! -e "$served" ]
}

@test "P4 who waits for several keys gets them in the end, whoever is killed in between" {
	hold a
	first=$holder
	hold c
	contend -k b -k c a
	dead=$waiter
	contend -k b -k c a
	let_go "$first"
	wait_for 20 taken b
	kill_hard "$dead"
	[ ! -e "$served" ]
	let_go
	ended_with "$waiter" 0
	[ "$(wc -l <"$served")" = 1 ]
}

# Six keys, of each run one to four, in any order.
kinds() {
	local modes=(x x s) options=('' '' '' '' -n -w0.02) keys mode
	for _ in {1..200}; do
		mode=${modes[RANDOM % 3]}
		mapfile -t keys < <(shuf -n $((1 + RANDOM % 4)) -e 0 1 2 3 4 5)
		echo "-$mode ${options[RANDOM % 6]}$(printf ' -k %s' "${keys[@]}") ${keys[0]} : 1500 $mode ${keys[*]}"
	done
}

@test "P1 random sets of keys: none beside another that has a key in common" {
	count=$(size 400 8000)
	stress "$count" 12 < <(kinds)
	# Each ran or gave up, and enough of each for it to have been a test.
	[ $((found[runs] + found[gave_up])) = "$count" ]
	[[ ${found[runs]} -ge $((count / 2)) && ${found[together]} -ge 1 ]]
}

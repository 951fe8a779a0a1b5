#!/usr/bin/env bats
# Keys for other programs: --hold for a section of code in another language, --pin and --forget for
# programs with an flock(2) of their own, and --auto, where the command is the key.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

# hold_it [OPTION]...: a keylock --hold as a child with an input and an output that are ours. Returns
# when it said "locked". Sets holder; its input is descriptor 5, its output is read from 6.
hold_it() {
	start_hold "$@"
	read -rt 20 word <&6
	[ "$word" = locked ]
}

start_hold() {
	rm -f "$BATS_TEST_TMPDIR"/hold.in "$BATS_TEST_TMPDIR"/hold.out
	mkfifo "$BATS_TEST_TMPDIR"/hold.in "$BATS_TEST_TMPDIR"/hold.out
	"$KEYLOCK" "$@" --hold key <"$BATS_TEST_TMPDIR/hold.in" >"$BATS_TEST_TMPDIR/hold.out" \
		2>"$BATS_TEST_TMPDIR/hold.err" 3>&- 4>&- &
	holder=$!
	exec 5>"$BATS_TEST_TMPDIR/hold.in" 6<"$BATS_TEST_TMPDIR/hold.out"
}

taken() {
	run_keylock -q -n key touch "$BATS_TEST_TMPDIR/ran"
	[ "$status" = 75 ] && [ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# The input ends and all is over: the holder has ended with STATUS and said nothing more, the key is
# free, no file is left.
is_over() {
	exec 5>&-
	ended_with "$holder" "$1"
	[ ! -s "$BATS_TEST_TMPDIR/hold.err" ]
	run_keylock -n -A key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "--hold: prints locked, holds until its input ends, exits 0" {
	hold_it
	taken
	[ "$("$KEYLOCK" --who key)" = "$holder" ]
	# What it reads does not matter.
	head -c 100000 /dev/zero >&5
	printf 'done\nsomething else\n' >&5
	taken
	# Stopped and continued it still holds.
	kill -TSTP "$holder"
	wait_for 20 in_state "$holder" T
	taken
	kill -CONT "$holder"
	wait_for 20 in_state "$holder" S
	taken
	exec 5>&-
	wait_for 20 is_dead "$holder"
	[ -z "$(timeout 20 cat <&6)" ]
	is_over 0
}

@test "--hold: an input that cannot stay open is no hold, nor is an output that is closed" {
	local input
	echo >"$BATS_TEST_TMPDIR/regular"
	for input in '</dev/null' '<&-' "<'$BATS_TEST_TMPDIR/regular'" "<>'$BATS_TEST_TMPDIR/regular'"; do
		run_it sh -c "exec \"\$KEYLOCK\" --hold key $input"
		expect_message 64 input
		run_it sh -c "exec \"\$KEYLOCK\" -A -k other --hold key $input"
		expect_message 64 input
	done
	# As every script's background job has it.
	run_it sh -c '"$KEYLOCK" --hold key & wait $!'
	expect_message 64 input
	for output in '>&-' '>/dev/full'; do
		run_it sh -c "exec \"\$KEYLOCK\" --hold key </dev/zero $output"
		[ "$status" != 0 ]
		expect_message "$status" 'standard output'
	done
	[ "$(files)" = 0 ]
}

@test "--hold: a signal ends it, and it dies of that signal" {
	local signal
	for signal in INT TERM HUP; do
		# A shell's background jobs ignore INT.
		mkfifo "$BATS_TEST_TMPDIR/$signal"
		env --default-signal=INT "$(probe ended)" "$BATS_TEST_TMPDIR/end.$signal" "$KEYLOCK" --hold key \
			<>"$BATS_TEST_TMPDIR/$signal" >"$out" 3>&- 4>&- &
		holder=$!
		wait_for 20 grep -q locked "$out"
		taken
		kill -"$signal" "$("$KEYLOCK" --who key)"
		wait "$holder" || :
		[ "$(cat "$BATS_TEST_TMPDIR/end.$signal")" = "signal $(kill -l "$signal")" ]
		[ "$(files)" = 0 ]
	done
}

@test "P9 --hold: whose output nobody reads any more lets go; a full one keeps it from nothing" {
	local end full=$BATS_TEST_TMPDIR/full
	hold_it
	taken
	exec 6<&-
	wait_for 20 is_dead "$holder"
	is_over 0

	mkfifo "$full"
	exec 7<>"$full"
	dd if=/dev/zero of="$full" oflag=nonblock bs=4096 2>/dev/null || :
	for end in signal input; do
		"$KEYLOCK" --hold key <"$BATS_TEST_TMPDIR/hold.in" >"$full" 3>&- 4>&- &
		holder=$!
		exec 5>"$BATS_TEST_TMPDIR/hold.in"
		wait_for 20 taken
		case $end in
		signal) kill -TERM "$holder" ;;
		input) exec 5>&- ;;
		esac
		wait_for 20 is_dead "$holder"
		exec 5>&-
		[ "$(files)" = 0 ]
	done
}

@test "P2 --hold: a program that is killed lets go" {
	local program lock
	mkfifo "$BATS_TEST_TMPDIR/never"
	cat >"$BATS_TEST_TMPDIR/program" <<-'SCRIPT'
		coproc lock { exec "$KEYLOCK" --hold key; }
		read -r word <&"${lock[0]}"
		echo "$word $lock_PID" >"$1.new"
		mv "$1.new" "$1"
		read -r _ <>"$2"
	SCRIPT
	bash "$BATS_TEST_TMPDIR/program" "$BATS_TEST_TMPDIR/said" "$BATS_TEST_TMPDIR/never" 3>&- 4>&- &
	program=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/said"
	read -r _ lock <"$BATS_TEST_TMPDIR/said"
	[ "$("$KEYLOCK" --who key)" = "$lock" ]
	taken
	kill -KILL "$program"
	wait "$program" 2>/dev/null || :
	wait_for 20 is_dead "$lock"
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "P4 --hold: waits in line, and says locked only then; -n, -w and -E tell a taken key by the status" {
	local first words
	hold key
	first=$holder
	for words in '75 -n' '75 -w0.05' '9 -nE9'; do
		run_it sh -c 'exec "$KEYLOCK" "$0" --hold key </dev/zero' "${words#* }"
		expect_taken "${words% *}"
	done
	start_hold
	wait_for 20 has_ticket "$holder"
	read -rt 0.1 word <&6 && false
	let_go "$first"
	read -rt 20 word <&6
	[ "$word" = locked ]
	taken
	is_over 0
}

@test "--hold: shared, several keys, slots" {
	hold_it -s
	run_keylock -n -s key true
	expect 0
	taken
	is_over 0

	hold_it -k one -k two
	run_keylock -n two true
	expect 75
	run_keylock -n one true
	expect 75
	taken
	is_over 0

	hold_it -j 2
	run_keylock -n -j 2 key true
	expect 0
	hold -j 2 key
	run_keylock -n -j 2 key true
	expect 75
	let_go
	holder=$("$KEYLOCK" --who key)
	exec 5>&-
	wait_for 20 is_dead "$holder"
	[ "$(files)" = 0 ]
}

@test "P8 --hold -A: input that ends without the line done leaves the key in doubt" {
	local i
	hold_it -A
	# Not as a part of a line, and not as the last but one.
	printf 'done\nnot done\ndone' >&5
	exec 5>&-
	wait "$holder"
	run_it sh -c 'exec "$KEYLOCK" -A --hold key </dev/zero'
	expect_message 76 'key: the last holder died in the middle: ' cause=input-ended
	run_keylock --forget key
	expect 0

	hold_it -A
	echo "done" >&5
	is_over 0

	# Whichever of the caller's two pipes closes first, even before the word.
	for i in {1..60}; do
		hold_it -A
		case $((i % 3)) in
		0)
			echo "done" >&5
			exec 6<&-
			;;
		1)
			exec 6<&-
			echo "done" >&5 || :
			;;
		2)
			kill -STOP "$holder"
			echo "done" >&5
			exec 6<&-
			kill -CONT "$holder"
			;;
		esac 2>/dev/null
		exec 5>&-
		ended_with "$holder" 0
		[ "$(files)" = 0 ]
	done
}

@test "--hold with what does not go with it" {
	local option
	for option in -F -o -a; do
		run_it sh -c 'exec "$KEYLOCK" "$0" --hold key </dev/zero' "$option"
		expect_message 64
	done
	run_keylock --hold
	expect_message 64 'no KEY'
	run_keylock --hold key true
	expect_message 64 true
	[ ! -e "$KEYLOCK_DIR" ]
}

# --- pin and forget ---

@test "--pin: makes the file, prints its path, and the file stays" {
	local path inode
	run_keylock --pin key
	expect 0
	path=$output
	[ "$path" = "$("$KEYLOCK" --path key)" ]
	[ ! -s "$path" ]
	inode=$(stat -c %i "$path")
	run_keylock key true
	run_keylock -A key true
	run_keylock -n -s key true
	run_keylock --pin key
	expect 0
	[ "$output" = "$path" ]
	[[ $(files) == 1 && $(stat -c %i "$path") == "$inode" ]]
	# A key that is held can be pinned, and one that is waited for.
	hold other
	run_keylock --pin other
	expect 0
	let_go
	[ "$(files)" = 2 ]
}

@test "P9 --pin waits while another is in the gate; a signal ends that" {
	local pinning
	keep gate
	"$(probe inherit)" -d "$KEYLOCK" --pin key >"$out" 3>&- 4>&- &
	pinning=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	kill -TERM "$pinning"
	ended_with "$pinning" 143
	[[ ! -s $out && ! -x $KEYLOCK_DIR/key ]]
	"$KEYLOCK" --pin key >"$out" 3>&- 4>&- &
	pinning=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	[ ! -s "$out" ]
	stop_keeping
	wait "$pinning"
	[ "$(cat "$out")" = "$KEYLOCK_DIR/key" ]
	run_keylock --list key
	[[ $output == *pinned* ]]
}

@test "a stranger's file is neither pinned nor forgotten" {
	local path
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	export KEYLOCK_DIR=$public/dir
	hold key
	run_it as_user 65534 "$public/keylock" --pin key
	expect_message 73 "$KEYLOCK_DIR/key"
	let_go
	[ "$(files)" = 0 ]
	path=$("$KEYLOCK" --pin key)
	run_it as_user 65534 "$public/keylock" --forget key
	expect_message 73 "$path"
	[ -x "$path" ]
	# One's own is.
	run_it as_user 65534 "$public/keylock" --pin own
	expect 0
	run_it as_user 65534 "$public/keylock" --forget own
	expect_taken 0
	[ "$(files)" = 1 ]
}

@test "--forget: takes the pin away and the file with it, when nobody holds the key; -w waits for that" {
	local path forgetting
	path=$("$KEYLOCK" --pin key)
	hold key
	run_keylock --forget key
	expect_taken 75
	run_keylock -w 0.05 --forget key
	expect_taken 75
	"$KEYLOCK" -w 50 --forget key 3>&- 4>&- &
	forgetting=$!
	wait_for 20 has_ticket "$forgetting"
	[ -e "$path" ]
	let_go
	wait "$forgetting"
	[ "$(files)" = 0 ]
	"$KEYLOCK" --pin key
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
	# There is nothing to forget, and nothing is made.
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
}

@test "P1 a pinned key is shared with flock(1)'s descriptor form in a shell script" {
	need flock
	local mode script=$BATS_TEST_TMPDIR/script fifo=$BATS_TEST_TMPDIR/fifo
	cat >"$script" <<-'SCRIPT'
		exec 9<>"$("$KEYLOCK" --pin key)" || exit
		flock -n 9 || exit 5
		echo has
		[ ! -p "$1" ] || read -r _ <>"$1"
	SCRIPT
	run_it bash "$script" none
	expect 0
	for mode in -x -s; do
		hold "$mode" key
		run_it bash "$script" none
		expect 5
		let_go
	done

	mkfifo "$fifo"
	bash "$script" "$fifo" >"$out" 3>&- 4>&- &
	holder=$!
	wait_for 20 grep -q has "$out"
	# What the script holds, keylock finds taken, and waits for.
	run_keylock -n -s key true
	expect 75
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/served" 3>&- 4>&- &
	waiter=$!
	# Its ticket: in a container /proc/locks shows nothing behind a flock(1) that has ended.
	wait_for 20 has_ticket "$waiter"
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	kill -KILL "$holder"
	wait "$waiter"
	[ -e "$BATS_TEST_TMPDIR/served" ]
	[ "$(files)" = 1 ]
}

@test "P1 a pinned key is shared with Python's fcntl.flock" {
	need python3
	local mode script=$BATS_TEST_TMPDIR/script
	cat >"$script" <<-'SCRIPT'
		import fcntl, os, subprocess, sys
		keylock = os.environ["KEYLOCK"]
		path = subprocess.check_output([keylock, "--pin", "key"]).decode()[:-1]
		with open(path, "a") as file:
		    try:
		        fcntl.flock(file, getattr(fcntl, sys.argv[1]) | fcntl.LOCK_NB)
		    except BlockingIOError:
		        sys.exit(5)
		    print(*[subprocess.call([keylock, "-n", wish, "key", "true"]) for wish in ("-x", "-s")])
	SCRIPT
	run_it python3 "$script" LOCK_EX
	[ "$output" = '75 75' ]
	run_it python3 "$script" LOCK_SH
	[ "$output" = '75 0' ]
	hold key
	run_it python3 "$script" LOCK_SH
	expect 5
	let_go
	hold -s key
	run_it python3 "$script" LOCK_EX
	expect 5
	run_it python3 "$script" LOCK_SH
	[ "$output" = '75 0' ]
	let_go
	run_keylock --forget key
	expect 0
	[ "$(files)" = 0 ]
}

# --- auto ---

@test "--auto: the same command is taken, another one is not" {
	local script='echo >"$0.runs"; read -r _ <>"$0"'
	mkfifo "$BATS_TEST_TMPDIR/fifo"
	"$KEYLOCK" --auto sh -c "$script" "$BATS_TEST_TMPDIR/fifo" 3>&- 4>&- &
	holder=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/fifo.runs"
	run_keylock -n -a sh -c "$script" "$BATS_TEST_TMPDIR/fifo"
	expect 75
	run_keylock -n -a -- sh -c "$script" "$BATS_TEST_TMPDIR/fifo"
	expect 75
	run_keylock -n -a sh -c 'echo ran'
	expect 0
	[ "$output" = ran ]
	echo >"$BATS_TEST_TMPDIR/fifo"
	wait "$holder"
	[ "$(files)" = 0 ]
}

@test "--auto: different argument vectors are different keys" {
	need python3
	# Each line of keys is that of one argument vector, run under the key that --auto gave it.
	run_it python3 -c 'import itertools, os, subprocess
show = ["sh", "-c", "printf %s \"$KEYLOCK_KEY\""]
words = ["", "a", " ", "\\", "a b", "\\ ", " \\", "\n"]
vectors = [list(vector) for length in range(4) for vector in itertools.product(words[:8 if length < 3 else 4], repeat=length)]
keys = {subprocess.check_output([os.environ["KEYLOCK"], "-a", *show, *vector]) for vector in vectors}
print(len(vectors), len(keys))'
	expect 0
	[ "${output% *}" = "${output#* }" ]
	[ "${output% *}" -gt 100 ]
	# The pair that is easy to get wrong.
	"$KEYLOCK" -a sh -c 'sleep 1000' 3>&- 4>&- &
	wait_for 20 eval '"$KEYLOCK" --list | grep -q held'
	run_keylock -n -a sh '-c sleep' 1000
	[ "$status" != 75 ]
	run_keylock -n -a sh -c 'sleep 1000'
	expect 75
	[ "$(files)" = 1 ]
}

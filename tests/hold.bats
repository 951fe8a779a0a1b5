#!/usr/bin/env bats
# Keys for other programs: --hold for a section of code in another language, --pin for programs with
# an flock(2) of their own, and --auto, where the command is the key.

# Inner shells' own variables; words that are split on purpose; the helper's variables.
# shellcheck disable=SC2016,SC2030,SC2031,SC2059,SC2086,SC2153,SC2154
load helper

setup() {
	keylock_setup
	in=$BATS_TEST_TMPDIR/hold.in said=$BATS_TEST_TMPDIR/hold.out
}

# start_hold [OPTION]...: a keylock --hold as a child. Its input is our descriptor 5, its output is
# read from 6. Sets holder.
start_hold() {
	rm -f "$in" "$said"
	mkfifo "$in" "$said"
	"$KEYLOCK" "$@" --hold key <"$in" >"$said" 2>"$in.err" 3>&- 4>&- &
	holder=$!
	exec 5>"$in" 6<"$said"
}

# hold_it [OPTION]...: the same; returns when it said "locked".
hold_it() {
	start_hold "$@"
	read -rt 20 word <&6
	[ "$word" = locked ]
}

# The input ends and all is over: the holder has ended with STATUS and said nothing more, the key is
# free, no file is left.
is_over() {
	exec 5>&-
	ended_with "$holder" "$1"
	[ ! -s "$in.err" ]
	gives 0 -n -A key true
	[ "$(files)" = 0 ]
}

@test "--hold: prints locked, holds until its input ends, exits 0" {
	hold_it
	taken key
	[ "$("$KEYLOCK" --who key)" = "$holder" ]
	# What it reads does not matter.
	head -c 100000 /dev/zero >&5
	printf 'done\nsomething else\n' >&5
	# Stopped and continued it still holds.
	kill -TSTP "$holder"
	wait_for 20 in_state "$holder" T
	taken key
	kill -CONT "$holder"
	wait_for 20 in_state "$holder" S
	taken key
	exec 5>&-
	wait_for 20 is_dead "$holder"
	[ -z "$(timeout 20 cat <&6)" ]
	is_over 0
}

@test "--hold: 64 where its input cannot stay open, or with what does not go with it" {
	local input output options
	echo >"$in"
	mkfifo "$said"
	# The last one is a pipe whose writer has closed it, as cron's jobs have it.
	for input in '</dev/null' '<&-' "<'$in'" "<>'$in'" "5<>'$said' <'$said' 5>&-"; do
		for options in '' '-A -k other'; do
			run_it sh -c "exec \"\$KEYLOCK\" $options --hold key $input"
			expect_message 64 input
		done
	done
	for options in '-F --hold key' '-o --hold key' '-a --hold key' --hold '--hold key true'; do
		run_it sh -c 'exec "$KEYLOCK" "$@" </dev/zero' - $options
		expect_message 64
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

@test "P9 --hold: a signal ends it, and it dies of that signal" {
	local signal
	mkfifo "$in"
	for signal in INT TERM HUP; do
		: >"$out"
		# A shell's background jobs ignore INT.
		env --default-signal=INT "$(probe ended)" "$said" "$KEYLOCK" --hold key \
			<>"$in" >"$out" 3>&- 4>&- &
		holder=$!
		wait_for 20 grep -q locked "$out"
		kill -"$signal" "$("$KEYLOCK" --who key)"
		wait "$holder" || :
		[ "$(cat "$said")" = "signal $(kill -l "$signal")" ]
		[ "$(files)" = 0 ]
	done
}

@test "P9 --hold: a full output keeps it from nothing" {
	local end full=$BATS_TEST_TMPDIR/full
	mkfifo "$full" "$in"
	exec 7<>"$full"
	dd if=/dev/zero of="$full" oflag=nonblock bs=4096 2>/dev/null || :
	for end in signal input; do
		"$KEYLOCK" --hold key <"$in" >"$full" 3>&- 4>&- &
		holder=$!
		exec 5>"$in"
		wait_for 20 taken key
		[ "$end" = input ] || kill -TERM "$holder"
		[ "$end" = signal ] || exec 5>&-
		wait_for 20 is_dead "$holder"
		exec 5>&-
		[ "$(files)" = 0 ]
	done
}

@test "P2 --hold: a program that is killed lets go, and with -A leaves the key in doubt" {
	local option caller lock program=$BATS_TEST_TMPDIR/program
	mkfifo "$in"
	cat >"$program" <<-'SCRIPT'
		coproc lock { exec "$KEYLOCK" "$3" --hold key; }
		read -r word <&"${lock[0]}"
		echo "$word $lock_PID" >"$1.new"
		mv "$1.new" "$1"
		read -r _ <>"$2"
	SCRIPT
	for option in -x -A; do
		rm -f "$said"
		bash "$program" "$said" "$in" "$option" 3>&- 4>&- &
		caller=$!
		wait_for 20 test -e "$said"
		read -r _ lock <"$said"
		[ "$("$KEYLOCK" --who key)" = "$lock" ]
		taken key
		kill_hard "$caller"
		wait_for 20 is_dead "$lock"
		[ "$option" = -A ] || [ "$(files)" = 0 ]
	done
	run_keylock -A key true
	expect_message 76 "pid=$lock" cause=input-ended
}

@test "P4 --hold: waits in line, and says locked only then; -n, -w and -E go with it" {
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
	taken key
	is_over 0
}

@test "P5 --hold: who has waited for the key sleeps while it holds" {
	local first before
	hold key
	first=$holder
	start_hold
	wait_for 20 has_ticket "$holder"
	let_go "$first"
	read -rt 20 word <&6
	# When the look would have been due that is made after a second.
	sleep 1.2
	before=$(switches "$holder")
	sleep 0.5
	[ "$(switches "$holder")" = "$before" ]
	is_over 0
}

@test "--hold: shared, several keys, slots" {
	hold_it -s
	free -s key
	taken key
	is_over 0

	hold_it -k one -k two
	taken one
	taken two
	taken key
	is_over 0

	hold_it -j 2
	free -j 2 key
	taken key
	is_over 0
}

@test "P8 --hold with -A or -R: without the line done the key is left in doubt" {
	local input option i
	for option in -A -R; do
		for input in 'done\n' 'what\never\ndone\n'; do
			run_it sh -c 'printf "$1" | "$KEYLOCK" "$0" --hold key' "$option" "$input"
			expect 0
			[[ $output == locked && $(files) == 0 ]]
		done
		for input in don 'done?\n' ' done\n' 'DONE\n' 'done\nnot done\ndone' \
			'donedone\n' 'undone\n'; do
			run_it sh -c 'printf "$1" | "$KEYLOCK" "$0" --hold key' "$option" "$input"
			[ "$output" = locked ]
			run_it sh -c 'exec "$KEYLOCK" -A --hold key </dev/zero'
			expect_message 76 'key: the last holder died in the middle: ' input-ended
			run_keylock --forget key
		done
	done
	# Piece by piece, as programs with buffers write it.
	hold_it -A
	printf 'do' >&5
	sleep 0.1
	echo ne >&5
	is_over 0
	# Whichever of the caller's two pipes closes first, even before the word.
	for i in {1..60}; do
		hold_it -A
		[ $((i % 3)) != 0 ] || exec 6<&-
		[ $((i % 3)) != 1 ] || kill -STOP "$holder"
		echo "done" >&5 || :
		exec 6<&-
		kill -CONT "$holder" || :
		exec 5>&-
		ended_with "$holder" 0
		[ "$(files)" = 0 ]
	done 2>/dev/null
}

# --- pin; --forget is in record.bats ---

@test "--pin: makes the file, prints its path, and the file stays" {
	local inode words
	gives 0 --pin key
	[[ $output == "$("$KEYLOCK" --path key)" && ! -s $output ]]
	inode=$(stat -c %i "$output")
	for words in -x -A '-n -s'; do
		gives 0 $words key true
	done
	run_keylock --pin key
	[[ $output == "$KEYLOCK_DIR/key" && $(stat -c %i "$output") == "$inode" ]]
	# A key that is held can be pinned.
	hold other
	gives 0 --pin other
	let_go
	[ "$(files)" = 2 ]
}

@test "P9 --pin waits while another is in the gate, as long as -w says; a signal ends that, or stops it" {
	local pinning
	keep gate
	run_keylock -w 0.1 --pin key
	expect_taken 75
	"$(probe inherit)" -d "$KEYLOCK" --pin key >"$said" 3>&- 4>&- &
	pinning=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	kill -TERM "$pinning"
	ended_with "$pinning" 143
	[[ ! -s $said && ! -x $KEYLOCK_DIR/key ]]
	"$KEYLOCK" --pin key >"$said" 3>&- 4>&- &
	pinning=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	[ ! -s "$said" ]
	kill -TSTP "$pinning"
	wait_for 20 in_state "$pinning" T
	kill -CONT "$pinning"
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	stop_keeping
	ended_with "$pinning" 0
	[ "$(cat "$said")" = "$KEYLOCK_DIR/key" ]
	run_keylock --list key
	[[ $output == *pinned* ]]
}

@test "a stranger's file is neither pinned nor forgotten" {
	public_keylock
	hold key
	run_it as_user 65534 "$public/keylock" --pin key
	expect_message 73 "$KEYLOCK_DIR/key"
	let_go
	[ "$(files)" = 0 ]
	"$KEYLOCK" --pin key
	run_it as_user 65534 "$public/keylock" --forget key
	expect_message 73 "$KEYLOCK_DIR/key"
	[ -x "$KEYLOCK_DIR/key" ]
	# One's own is.
	run_it as_user 65534 "$public/keylock" --pin own
	expect 0
	run_it as_user 65534 "$public/keylock" --forget own
	expect_taken 0
	[ "$(files)" = 1 ]
}

@test "P1 other programs' flock(2) and keylock exclude each other, the file pinned or not" {
	local mode other path words script=$BATS_TEST_TMPDIR/script
	need flock
	path=$("$KEYLOCK" --path key)
	for mode in -x -s; do
		hold "$mode" key
		for other in -x -s; do
			run_it flock -n "$other" "$path" true
			[ "$mode$other" = -s-s ] || expect 1
			[ "$mode$other" != -s-s ] || expect 0
		done
		let_go
	done
	[ "$(files)" = 0 ]
	cat >"$script" <<-'SCRIPT'
		[ "$1" = any ] || "$KEYLOCK" --pin key || exit
		exec 9<>"$3" || exit
		flock "$2" 9 && echo has
		exec sleep 1000
	SCRIPT
	for words in 'any -x' 'any -s' 'pinned -x' 'pinned -s'; do
		# What a script holds in its own way, keylock finds taken, and leaves there.
		: >>"$path"
		: >"$said"
		bash "$script" $words "$path" >"$said" 3>&- 4>&- &
		holder=$!
		wait_for 20 grep -q has "$said"
		taken key
		taken -w 0.1 key
		case $words in
		*-x) taken -s key ;;
		*-s) free -s key ;;
		esac
		line_up key touch "$ran.served"
		[ ! -e "$ran.served" ]
		[ "$path" -ef "/proc/$holder/fd/9" ]
		kill_hard "$holder"
		ended_with "$waiter" 0
		rm "$ran.served"
		case $words in
		any*) [ "$(files)" = 0 ] ;;
		pinned*) [ -x "$path" ] ;;
		esac
	done
}

# --- auto ---

@test "--auto: the same command is taken, another one is not" {
	local script='echo >"$0.runs"; read -r _ <>"$0"' option
	mkfifo "$in"
	"$KEYLOCK" --auto sh -c "$script" "$in" 3>&- 4>&- &
	wait_for 20 test -e "$in.runs"
	for option in -a '-a --'; do
		gives 75 -n $option sh -c "$script" "$in"
	done
	prints ran -n -a sh -c 'echo ran'
	echo >"$in"
	ended_with $! 0
	[ "$(files)" = 0 ]
}

@test "--auto: different argument vectors are different keys" {
	need python3
	# Each line of keys is that of one argument vector, run under the key that --auto gave it.
	run_it python3 -c 'import itertools, os, subprocess
show = ["sh", "-c", "printf %s \"$KEYLOCK_KEY\""]
words = ["", "a", " ", "\\", "a b", "\\ ", " \\", "\n"]
vectors = [list(vector) for length in range(4)
    for vector in itertools.product(words[:8 if length < 3 else 4], repeat=length)]
keylock = [os.environ["KEYLOCK"], "-a", *show]
print(len(vectors), len({subprocess.check_output([*keylock, *vector]) for vector in vectors}))'
	expect 0
	[ "${output% *}" = "${output#* }" ]
	[ "${output% *}" -gt 100 ]
}

@test "--pin leaves a file alone that is not keylock's own, or has another name: 77" {
	mkdir -m 700 "$KEYLOCK_DIR"
	echo precious >"$KEYLOCK_DIR/foreign"
	: >"$KEYLOCK_DIR/linked"
	ln "$KEYLOCK_DIR/linked" "$BATS_TEST_TMPDIR/other"
	chmod 640 "$KEYLOCK_DIR"/*
	for key in foreign linked; do
		run_keylock --pin "$key"
		expect_message 77 "$KEYLOCK_DIR/$key: "
		[ "$(stat -c %a "$KEYLOCK_DIR/$key")" = 640 ]
	done
}

@test "P6 --hold: a stop signal that came ignored is ignored" {
	trap '' TSTP
	hold_it
	trap - TSTP
	kill -TSTP "$holder"
	sleep 0.1
	in_state "$holder" S
	exec 5>&-
	is_over 0
}

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

# All is over: the holder has ended with STATUS and said nothing more, the key is free, no file is left.
is_over() {
	status=0
	wait "$holder" || status=$?
	expect "$1"
	run_it cat "$BATS_TEST_TMPDIR/hold.err"
	[ -z "$output" ]
	run_keylock -n key true
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
	exec 5>&-
	wait_for 20 is_dead "$holder"
	[ -z "$(timeout 20 cat <&6)" ]
	is_over 0
}

@test "--hold: without an input it ends at once" {
	run_keylock --hold key
	expect 0
	[[ $output == locked && ! -s $err ]]
	"$KEYLOCK" --hold key <&- >"$out"
	[ "$(cat "$out")" = locked ]
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

@test "--hold: an output that nobody reads any more lets go" {
	hold_it
	taken
	exec 6<&-
	is_over 0
	exec 5>&-
}

@test "--hold: an output that is closed already is no hold" {
	"$KEYLOCK" --hold key >&- 2>"$err" && false
	status=$?
	[[ $status != 0 && $(cat "$err") == 'keylock: '* ]]
	"$KEYLOCK" --hold key >/dev/full 2>"$err" && false
	[[ $(cat "$err") == 'keylock: standard output: '* ]]
	[ "$(files)" = 0 ]
}

@test "--hold: a program that is killed lets go" {
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

@test "--hold: stopped and continued at a terminal, it still holds" {
	hold_it
	kill -TSTP "$holder"
	wait_for 20 in_state "$holder" T
	taken
	kill -CONT "$holder"
	wait_for 20 in_state "$holder" S
	taken
	exec 5>&-
	is_over 0
}

@test "--hold: waits in line, and says locked only then" {
	hold key
	local first=$holder
	start_hold
	wait_for 20 has_ticket "$holder"
	read -rt 0.1 word <&6 && false
	let_go "$first"
	read -rt 20 word <&6
	[ "$word" = locked ]
	taken
	exec 5>&-
	is_over 0
}

@test "--hold: a taken key is told by the status, -n, -w and -E" {
	hold key
	run_keylock -n --hold key
	expect_taken 75
	run_keylock -w 0.05 --hold key
	expect_taken 75
	run_keylock -n -E 9 --hold key
	expect_taken 9
	let_go
}

@test "--hold: shared, several keys, slots" {
	hold_it -s
	run_keylock -n -s key true
	expect 0
	taken
	exec 5>&-
	is_over 0

	hold_it -k one -k two
	run_keylock -n two true
	expect 75
	taken
	exec 5>&-
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

@test "--hold -A: input that ends without the line done leaves the key in doubt" {
	hold_it -A
	# Not as a part of a line, and not as the last but one.
	printf 'done\nnot done\ndone' >&5
	exec 5>&-
	wait "$holder"
	run_keylock -A --hold key
	expect_message 76 'key: the last holder died in the middle: ' cause=input-ended
	run_keylock --forget key
	expect 0

	hold_it -A
	echo "done" >&5
	exec 5>&-
	is_over 0

	hold_it -A
	echo "done" >&5
	kill -TERM "$holder"
	exec 5>&-
	wait "$holder" || :
	run_keylock -A key true
	# It may have seen the input's end before the signal or after it, but not neither.
	[[ $status == 0 || $status == 76 ]]
}

@test "--hold with what does not go with it" {
	local option
	for option in -F -o -a; do
		run_keylock "$option" --hold key
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

@test "--pin waits while another is in the gate; a signal ends that" {
	local pinning
	keep gate
	"$(probe inherit)" -d "$KEYLOCK" --pin key >"$out" 3>&- 4>&- &
	pinning=$!
	wait_for 20 blocked "$KEYLOCK_DIR/key"
	kill -TERM "$pinning"
	status=0
	wait "$pinning" || status=$?
	expect 143
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

@test "--forget: takes the pin away and the file with it, when nobody holds the key" {
	local path
	path=$("$KEYLOCK" --pin key)
	hold key
	run_keylock --forget key
	expect_taken 75
	run_keylock -w 0.05 --forget key
	expect_taken 75
	let_go
	[ -e "$path" ]
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
	# There is nothing to forget, and nothing is made.
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
}

@test "--forget -w: waits for the holder" {
	local forgetting
	"$KEYLOCK" --pin key >/dev/null
	hold key
	"$KEYLOCK" -w 50 --forget key 3>&- 4>&- &
	forgetting=$!
	wait_for 20 has_ticket "$forgetting"
	[ "$(files)" = 1 ]
	let_go
	wait "$forgetting"
	[ "$(files)" = 0 ]
}

@test "a pinned key is shared with flock(1)'s descriptor form in a shell script" {
	need flock
	local script=$BATS_TEST_TMPDIR/script fifo=$BATS_TEST_TMPDIR/fifo
	cat >"$script" <<-'SCRIPT'
		exec 9<>"$("$KEYLOCK" --pin key)" || exit
		flock -n 9 || exit 5
		echo has
		[ ! -p "$1" ] || read -r _ <>"$1"
	SCRIPT
	run_it bash "$script" none
	expect 0
	hold key
	run_it bash "$script" none
	expect 5
	let_go
	hold -s key
	run_it bash "$script" none
	expect 5
	let_go

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
	wait_for 20 eval 'grep -q "OFDLCK .*WRITE .* 1000 1000" "/proc/$waiter/fdinfo/"* 2>/dev/null'
	[ ! -e "$BATS_TEST_TMPDIR/served" ]
	kill -KILL "$holder"
	wait "$waiter"
	[ -e "$BATS_TEST_TMPDIR/served" ]
	[ "$(files)" = 1 ]
}

@test "a pinned key is shared with Python's fcntl.flock" {
	need python3
	local script=$BATS_TEST_TMPDIR/script program
	cat >"$script" <<-'SCRIPT'
		import fcntl, os, subprocess, sys
		keylock = os.environ["KEYLOCK"]
		path = subprocess.check_output([keylock, "--pin", "key"]).decode()[:-1]
		mode = getattr(fcntl, sys.argv[1])
		with open(path, "a") as file:
		    try:
		        fcntl.flock(file, mode | fcntl.LOCK_NB)
		    except BlockingIOError:
		        sys.exit(5)
		    print(*[subprocess.call([keylock, "-n", wish, "key", "true"]) for wish in ("-x", "-s")], flush=True)
		    if len(sys.argv) > 2:
		        os.execlp("sleep", "sleep", "0")
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
	mkfifo "$BATS_TEST_TMPDIR/fifo"
	"$KEYLOCK" --auto sh -c 'echo >"$0.runs"; read -r _ <>"$0"' "$BATS_TEST_TMPDIR/fifo" 3>&- 4>&- &
	holder=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/fifo.runs"
	run_keylock -n -a sh -c 'echo >"$0.runs"; read -r _ <>"$0"' "$BATS_TEST_TMPDIR/fifo"
	expect 75
	run_keylock -n -a -- sh -c 'echo >"$0.runs"; read -r _ <>"$0"' "$BATS_TEST_TMPDIR/fifo"
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

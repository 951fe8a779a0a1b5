# Keys for other programs: --hold for a section of code in another language, --pin for programs with
# an flock(2) of their own, and --auto, where the command is the key.

load helper

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
	says_locked
}

says_locked() {
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
	head -c 100000 /dev/zero >&5
	printf 'done\nsomething else\n' >&5
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
	echo >"$in"
	mkfifo "$said"
	# The last one is a pipe whose writer has closed it, as cron's jobs have it.
	for input in '</dev/null' '<&-' "<'$in'" "<>'$in'" "5<>'$said' <'$said' 5>&-"; do
		for options in '' '-A -k other'; do
			it_fails 64 input sh -c "exec \"\$KEYLOCK\" $options --hold key $input"
		done
	done
	for options in '-F --hold key' '-o --hold key' '-a --hold key' --hold '--hold key true'; do
		it_fails 64 '' sh -c 'exec "$KEYLOCK" "$@" </dev/zero' - $options
	done
	it_fails 64 input sh -c '"$KEYLOCK" --hold key & wait $!'
	for output in '>&-' '>/dev/full'; do
		run_it sh -c "exec \"\$KEYLOCK\" --hold key </dev/zero $output"
		[ "$status" != 0 ]
		expect_message "$status" 'standard output'
	done
}

@test "P9 --hold: a signal ends it, and it dies of that signal; a full output keeps it from nothing" {
	full_pipe
	mkfifo "$in"
	for end in 'signal 2' 'signal 15' 'signal 1' 'exit 0'; do
		"$tools/ended.py" "$said" "$KEYLOCK" --hold key <"$in" >"$full" 3>&- 4>&- &
		exec 5>"$in"
		wait_for 20 eval '"$KEYLOCK" --who key >/dev/null'
		[ "$end" = 'exit 0' ] || kill -"${end#* }" "$("$KEYLOCK" --who key)"
		[ "$end" != 'exit 0' ] || exec 5>&-
		wait $!
		exec 5>&-
		[ "$(cat "$said")" = "$end" ]
		[ "$(files)" = 0 ]
	done
}

@test "P2 --hold: a program that is killed lets go, and with -A leaves the key in doubt" {
	cat >"$work/program" <<-'SCRIPT'
		coproc lock { exec "$KEYLOCK" "$1" --hold key; }
		read -r word <&"${lock[0]}"
		echo "$lock_PID" >"$work/lock"
		sleep 1000; :
	SCRIPT
	for option in -x -A; do
		rm -f "$work/lock"
		bash "$work/program" "$option" 3>&- 4>&- &
		wait_for 20 test -s "$work/lock"
		lock=$(cat "$work/lock")
		prints "$lock" --who key
		taken key
		kill_hard $!
		wait_for 20 is_dead "$lock"
		[ "$option" = -A ] || [ "$(files)" = 0 ]
	done
	run_keylock -A key true
	expect_message 76 "pid=$lock" cause=input-ended
}

@test "P4 P5 --hold: waits in line, says locked only then, and sleeps from then on; -n, -w and -E go with it" {
	hold key
	first=$holder
	for words in '75 -n' '75 -w0.05' '9 -nE9'; do
		it_quiet "${words% *}" sh -c 'exec "$KEYLOCK" "$0" --hold key </dev/zero' "${words#* }"
	done
	start_hold
	wait_for 20 has_ticket "$holder"
	read -rt 0.1 word <&6 && false
	let_go "$first"
	says_locked
	taken key
	# When the look would have been due that is made after a second.
	sleep 1.2
	before=$(switches "$holder")
	sleep 0.5
	[ "$(switches "$holder")" = "$before" ]
	is_over 0
}

@test "--hold: shared, several keys, slots" {
	while read -r free taken options; do
		hold_it $options
		for key in ${taken//,/ }; do
			taken "$key"
		done
		[ "$free" = - ] || free ${free//,/ } key
		is_over 0
	done <<-'FORMS'
		-s key -s
		- one,two,key -k one -k two
		-j,2 key -j 2
	FORMS
}

@test "P8 --hold with -A or -R: without the line done the key is left in doubt" {
	for option in -A -R; do
		for input in 'done\n' 'what\never\ndone\n'; do
			it_gives 0 sh -c 'printf "$1" | "$KEYLOCK" "$0" --hold key' "$option" "$input"
			[[ $output == locked && $(files) == 0 ]]
		done
		for input in don 'done?\n' ' done\n' 'DONE\n' 'done\nnot done\ndone' \
			'donedone\n' 'undone\n'; do
			it_prints locked sh -c 'printf "$1" | "$KEYLOCK" "$0" --hold key' "$option" "$input"
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

@test "--pin: makes the file, prints its path, and the file stays" {
	gives 0 --pin key
	[[ $output == "$("$KEYLOCK" --path key)" && ! -s $output ]]
	inode=$(stat -c %i "$output")
	for words in -x -A '-n -s'; do
		gives 0 $words key true
	done
	run_keylock --pin key
	[[ $output == "$KEYLOCK_DIR/key" && $(stat -c %i "$output") == "$inode" ]]
	hold other
	gives 0 --pin other
	let_go
	[ "$(files)" = 2 ]
}

@test "P9 --pin waits while another is in the gate, as long as -w says; a signal ends that, or stops it" {
	keep gate
	quiet 75 -w 0.1 --pin key
	for end in TERM TSTP; do
		"$tools/inherit.py" -d "$KEYLOCK" --pin key >"$said" 3>&- 4>&- &
		pinning=$!
		wait_for 20 blocked "$lockfile"
		[[ ! -s $said && ! -x $lockfile ]]
		kill -"$end" "$pinning"
		[ "$end" = TSTP ] || ended_with "$pinning" 143
	done
	wait_for 20 in_state "$pinning" T
	kill -CONT "$pinning"
	wait_for 20 blocked "$lockfile"
	stop_keeping
	ended_with "$pinning" 0
	[ "$(cat "$said")" = "$lockfile" ]
	gives 0 --list key
	[[ $output == *pinned* ]]
}

@test "a stranger's file is neither pinned nor forgotten" {
	public_keylock
	hold key
	it_fails 73 "$KEYLOCK_DIR/key" as_user 65534 "$public/keylock" --pin key
	let_go
	[ "$(files)" = 0 ]
	"$KEYLOCK" --pin key
	it_fails 73 "$KEYLOCK_DIR/key" as_user 65534 "$public/keylock" --forget key
	[ -x "$KEYLOCK_DIR/key" ]
	it_gives 0 as_user 65534 "$public/keylock" --pin own
	it_quiet 0 as_user 65534 "$public/keylock" --forget own
	[ "$(files)" = 1 ]
}

@test "P1 other programs' flock(2) and keylock exclude each other, the file pinned or not" {
	for modes in '1 -x -x' '1 -x -s' '1 -s -x' '0 -s -s'; do
		read -r ends mode other <<<"$modes"
		hold "$mode" key
		it_gives "$ends" flock -n "$other" "$lockfile" true
		let_go
	done
	[ "$(files)" = 0 ]
	for words in 'any -x' 'any -s' 'pinned -x' 'pinned -s'; do
		# What a script holds in its own way, keylock finds taken, and leaves there.
		: >>"$lockfile"
		[ "${words% *}" = any ] || "$KEYLOCK" --pin key
		exec 9<>"$lockfile"
		flock "${words#* }" 9
		taken key
		quiet 75 -w 0.1 key touch "$ran"
		case $words in
		*-x) taken -s key ;;
		*-s) free -s key ;;
		esac
		line_up key touch "$served" 9>&-
		[ ! -e "$served" ]
		[ "$lockfile" -ef /proc/$$/fd/9 ]
		exec 9>&-
		ended_with "$waiter" 0
		rm "$served"
		case $words in
		any*) [ "$(files)" = 0 ] ;;
		pinned*) [ -x "$lockfile" ] ;;
		esac
	done
}

@test "--auto: the same command is taken, another one is not" {
	hold_by "$KEYLOCK" --auto
	for option in -a '-a --'; do
		gives 75 -n $option "${obeys[@]}"
	done
	prints ran -n -a sh -c 'echo ran'
	let_go
}

@test "--auto: different argument vectors are different keys" {
	# Each line of keys is that of one argument vector, run under the key that --auto gave it.
	it_gives 0 python3 -c 'import itertools, os, subprocess
show = ["sh", "-c", "printf %s \"$KEYLOCK_KEY\""]
words = ["", "a", " ", "\\", "a b", "\\ ", " \\", "\n"]
vectors = [list(vector) for length in range(4)
    for vector in itertools.product(words[:8 if length < 3 else 4], repeat=length)]
keylock = [os.environ["KEYLOCK"], "-a", *show]
print(len(vectors), len({subprocess.check_output([*keylock, *vector]) for vector in vectors}))'
	[ "${output% *}" = "${output#* }" ]
	[ "${output% *}" -gt 100 ]
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

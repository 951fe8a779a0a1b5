# Runs within runs: who would wait for itself is told so, or runs under the ancestor's lock.

load helper

setup() {
	keylock_setup
	between=() start='"$@"; exit $?' bare=$tools/bare.py
}

# nested INNER OUTER COMMAND...: runs "keylock INNER key COMMAND..." under "keylock OUTER key". In between
# comes $between, a command prefix, which a shell runs by $start. Sets what run_keylock does to the inner
# one's, and outer to a pattern: the pid of the outer one, or of the shell.
nested() {
	local inner=$1 host=$2
	rm -f "$work/outer" "$ran"
	run_keylock $host key sh -c 'echo "($PPID|$$)" >"$0/outer"; '"$start" "$work" \
		"${between[@]}" "$KEYLOCK" $inner key "${@:3}"
	outer=$(cat "$work/outer")
	[[ $host == *-F* || $(files) == 0 ]]
}

# ends HOW INNER OUTER: the inner one runs, or is told that waiting would never end and of -r, or is told
# that it would never end with -r either, or ends with status HOW and without a word.
ends() {
	nested "$2" "$3" touch "$ran"
	case $1 in
	runs)
		expect 0
		rm "$ran"
		;;
	told) expect_message 78 ' -r ' ;;
	never) expect_message 78 ;;
	*) expect_taken "$1" ;;
	esac
	not_run
	[[ $1 != [tn]* || $stderr =~ ^'keylock: key: '.*("pid "$outer,|inherited) ]]
}

@test "P9 never stuck: a key that an ancestor holds is 78, naming the ancestor and -r, and with -r runs" {
	for inner in '' '-w 1h' '-E 9 -w 1h' -s '-k b -k c'; do
		ends told "$inner" ''
	done
	for inner in -r --reentrant '-n -r' '-r -s' '-r -j 1' '-r -k b -k c' "-r key $KEYLOCK -r" \
		"other $KEYLOCK third $KEYLOCK -r"; do
		ends runs "$inner" ''
	done
	for host in -s -o '-k d' -F; do
		ends told '' "$host"
		[ "$host" = -s ] || ends runs -r "$host"
	done
	for inner in -s '-n -s' '-r -s'; do
		ends runs "$inner" -s
	done
	ends 75 -n ''
	ends 9 '-w0 -E 9' ''
	ends runs '-j 2' '-j 2'
	nested -r '' sh -c 'echo "$KEYLOCK_KEY"; exit 5'
	expect 5
	[ "$output" = key ]
	# Without an ancestor it is an option without an effect.
	prints ran -r key echo ran
	hold key
	taken -r key
	quiet 75 -r -w 0.1 key touch "$ran"
}

@test "P1 alone: exclusive inside shared is 78 with -r, too" {
	for option in -x -r -rx; do
		ends never "$option" -s
	done
	hold -s key
	fails 78 key -s key "$KEYLOCK" -r key touch "$ran"
}

@test "P9 never stuck: whatever is between the ancestor and the nested run" {
	chains=(
		"sh -c '\"\$@\"; exit \$?' sh bash -c '\"\$@\"; exit \$?' bash setsid -w env nice"
		"'$KEYLOCK' second sh -c '\"\$@\"; exit \$?' sh '$KEYLOCK' third"
		"$bare"
		"$bare $(command -v sh) -c '\"\$@\"; exit \$?' sh"
		'env -u KEYLOCK_KEY'
	)
	# A pid namespace without a /proc of its own, where getppid(2) numbers differently.
	[ "$(id -u)" != 0 ] || chains+=('unshare --pid --fork')
	for chain in "${chains[@]}"; do
		eval "between=($chain)"
		ends told '' ''
		for host in '' -o -F; do
			ends runs -r "$host"
		done
	done
	between=() start='exec "$@"'
	ends told '' -F
	ends runs -r -F
	# Input that stays open, as --hold needs it.
	start='sleep 1 | "$@"'
	nested --hold ''
	expect_message 78 ' -r '
	nested '-r --hold' ''
	[[ $status == 0 && $output == locked ]]
}

@test "P9 never stuck: a killed keylock's command is an ancestor by its descriptor; so is who had to wait" {
	hold key
	kill_hard "$holder"
	told "$held" 78 'keylock -w 20 key touch "$ran"'
	grep -q '^keylock: key: .* -r ' "$work/told.said"
	told "$held" 0 'keylock -w 20 -r key true'
	kill_hard "$held"
	free key
	hold key
	line_up key sh -c '"$KEYLOCK" -r -w 1 key touch "$served"'
	let_go
	ended_with "$waiter" 0
	[ -e "$served" ]
}

@test "P9 never stuck: also where the ancestor is another user's, as under sudo" {
	public_keylock
	between=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
	KEYLOCK=$public/keylock
	# Whose pid it is cannot be seen then, but that the descriptor was inherited.
	nested '' '' touch "$KEYLOCK_DIR/ran"
	expect_message 78 key ' -r '
	nested -r '' echo ran
	[[ $status == 0 && $output == ran ]]
}

@test "P9 never stuck: a script that took the lock by flock(1) on its own descriptor is told, not let in" {
	path=$("$KEYLOCK" --pin key)
	for options in '' -r -s; do
		# As a shell's child, and in its place.
		for start in '"$@"' 'exec "$@"'; do
			it_fails 78 key sh -c 'exec 9>>"$0"; flock 9; '"$start" "$path" "$KEYLOCK" -w 20 $options key touch "$ran"
		done
	done
}

@test "P4 in turn: a nested run passes those who wait only by -r, shared or not, and does not let them in" {
	for mode in -x -s; do
		hold "$mode" key
		line_up key touch "$served"
		told "$holder" 78 "keylock $mode key touch \"\$ran\""
		told "$holder" 0 "keylock $mode -r key true"
		[ ! -e "$served" ]
		let_go
		ended_with "$waiter" 0
		rm "$served"
		[ "$(files)" = 0 ]
	done
}

@test "several keys, one of which an ancestor holds: the others are the nested run's own" {
	nested '-r -k b -k a' '' sh -c 'for key in key a b; do "$KEYLOCK" -n "$key" true; echo $?; done'
	expect 0
	[ "$output" = $'75\n75\n75' ]
	prints $'75\n0' b sh -c '"$KEYLOCK" -r -k b a true; "$KEYLOCK" -n b true; echo $?
		"$KEYLOCK" -n a true; echo $?'
}

@test "slots that ancestors hold: told when there is no other, covered by -r; waited for where a stranger the other has" {
	between=("$KEYLOCK" -j 2 key)
	nested '-j 2' '-j 2' touch "$ran"
	expect_message 78 key ' -r '
	ends runs '-j 2 -r' '-j 2'
	ends runs '-n -j 2 -r' '-j 2'
	ends 75 '-n -j 2' '-j 2'
	hold -j 2 key
	quiet 75 -j 2 key "$KEYLOCK" -w 0.3 -j 2 key touch "$ran"
}

@test "a key held by no ancestor but by a child or a sibling is waited for" {
	for under in '' "$KEYLOCK other"; do
		rm -f "$work/begun"
		it_prints ran $under sh -c '"$KEYLOCK" key sh -c "echo >\"\$work/begun\"; sleep 0.3" &
			until [ -e "$work/begun" ]; do sleep 0.01; done
			"$KEYLOCK" -w 20 key echo ran'
	done
}

# --- guests ---

# leave_guest OUTER [BEFORE [INNER]]: under a run with these options a nested one, "keylock -r INNER key",
# in the background. Sets outer, and guest, the pid of the nested one's command. BEFORE comes before the
# nested one; "timers" stands for: the outer one has no timer.
leave_guest() {
	local host=("$KEYLOCK" $1 key) before=()
	case ${2-} in
	bare) before=("$bare") ;;
	guest) before=("$KEYLOCK" -r -l -o key) ;;
	timers)
		host=(bash -c 'ulimit -S -i 0; exec "$@"' - "${host[@]}")
		before=(bash -c 'ulimit -S -i "$(ulimit -H -i)"; exec "$@"' -)
		;;
	esac
	rm -f "$ran"
	hold_by "${host[@]}"
	outer=$holder
	hold_under "$outer" "${before[@]}" "$KEYLOCK" -r ${3-} key
	guest=$held
}

guest_ends() {
	tell "$guest" guest_ends 'exit 0'
	wait_for 20 is_dead "$guest"
}

# The guest's own keylock ends, too.
guest_is_over() {
	nested=$(parent "$guest")
	guest_ends
	wait_for 20 is_dead "$nested"
}

# nobody_comes OPTIONS...: not at once, and not in turn; and the next one when the guest has ended.
nobody_comes() {
	local intruder
	for intruder; do
		quiet 75 $intruder key touch "$ran"
	done
	line_up key touch "$served"
	in_state "$guest" RSD
	[ ! -e "$served" ]
	guest_ends
	ended_with "$waiter" 0
	rm "$served"
	all_gone
}


@test "P1 alone: a nested run is alone whatever became of the run that it was started under" {
	# The last column is a signal to the outer keylock after its command's end.
	while IFS='|' read -r host before inner last after; do
		echo "== $host, $before, $inner, $last, $after"
		leave_guest "$host" "$before" "$inner"
		tell "$outer" let_go "${last:-:}; exit 5"
		if [ -n "$after" ]; then
			wait_for 20 eval '[ -z "$(children "$outer")" ] || is_dead "$outer"'
			kill -s "$after" "$outer" 2>/dev/null || :
		fi
		wait_for 20 is_dead "$outer"
		[ -n "$last$after" ] || ended_with "$outer" 5
		case $inner in
		*-s) nobody_comes -n '-n -r' ;;
		*) nobody_comes -n '-n -s' '-n -r' '-n -j 1' '-n -k another' '-w 0.1' '-s -w 0.1' ;;
		esac
	done <<-'FORMS'
		||||
		-s||-s||
		-x||-s||
		-l -o||||
		-o||||TERM
		||||TERM
		-l|bare|||
		-F|bare|||
		-o|||kill -KILL $PPID|
		|bare||kill -KILL $PPID|
		-o|||kill -KILL $$|
		-j 1||||TERM
		-j 1 -o|||kill -KILL $PPID|
		-l -o||-j 1||
		-k other -l -o||||
		-l -o|guest|||
		-l -o|guest||kill -KILL $!|
		-o|timers|||
		-l|timers|||
	FORMS
}

@test "P2 a nested run that is ended frees the key, and its host ends as it did" {
	leave_guest '' bare
	kill -TERM "$(parent "$guest")"
	let_go "$outer" 'wait $!; exit $?'
	expect 143
	free key
}

@test "P2 P3 a nested run that outlives its host keeps the key to its end, for flock(1) too, and no longer" {
	for options in -x '-j 1' '-j 2' '-k other' -s; do
		leave_guest "$options" '' "$([ "$options" != -s ] || echo -s)"
		let_go "$outer" 'exit 5'
		expect 5
		[ "$options" = '-j 2' ] || taken key
		it_gives 1 flock -n "$KEYLOCK_DIR/key" touch "$ran"
		guest_is_over
		all_gone
	done
}

@test "P2 beside such a run, or where the host died, what else the host left keeps the key as with -l" {
	for end in 5 137; do
		leave_guest ''
		starts "$outer" 'sleep 1000'
		let_go "$outer" "exit $end"
		expect "$end"
		guest_is_over
		taken key
		kill "$started"
		wait_for 20 free key
	done
}

@test "P2 P3 one that gives up for another key, or stops, frees that of its host that has ended" {
	hold other
	stranger=$holder
	for end in 1 TERM TSTP; do
		hold key
		options='-r -k key'
		[ "$end" != 1 ] || options+=' -w 1'
		tell "$holder" nested '"$KEYLOCK" '"$options"' other touch "$served" & echo $!'
		answered nested 0
		nested=$(cat "$work/nested.said")
		wait_for 20 has_ticket "$nested"
		let_go
		taken key
		[ "$end" = 1 ] || kill -s "$end" "$nested"
		[ "$end" != TSTP ] || wait_for 20 in_state "$nested" T
		wait_for 20 free key
		[ "$(files)" = 1 ]
	done
	kill -CONT "$nested"
	let_go "$stranger"
	wait_for 20 is_dead "$nested"
	[ -e "$served" ]
	all_gone
}

@test "P9 never stuck: what a guest runs finds the guest as its ancestor" {
	for options in '-l -o' '-j 1 -l -o'; do
		leave_guest "$options"
		let_go "$outer"
		for case in -x=78 -r=0 '-n -r=0' -n=75 '-s -r=0'; do
			told "$guest" "${case#*=}" "keylock -w 20 ${case%=*} key true"
		done
		guest_ends
		all_gone
	done
}

@test "P1 alone: a daemon that outlived its ancestor's hold is not covered by another's" {
	for mode in -x -s; do
		hold "$mode" key
		first=$holder
		hold_under "$first"
		daemon=$held
		# Shared, the file stays the same.
		[ "$mode" = -x ] || hold -s key
		let_go "$first"
		[ "$mode" = -s ] || hold key
		told "$daemon" 75 'keylock -n -r key touch "$ran"'
		let_go
	done
}

@test "P1 alone: the slot of a guest whose host has ended is nobody else's" {
	# The other slot is taken.
	hold -j 2 key
	first=$holder
	leave_guest '-j 2 -l -o' '' '-j 2'
	let_go "$outer"
	for options in -n '-w 0.2'; do
		quiet 75 $options -j 2 key touch "$ran"
	done
	guest_ends
	gives 0 -w 5 -j 2 key true
	let_go "$first"
}

@test "P1 alone: a shared nested run that has passed one who waits has a lock of its own" {
	hold -s key
	line_up key touch "$served"
	hold_under "$holder" "$KEYLOCK" -r -s key
	guest=$held
	let_go
	# Where nothing kept it, it would run by now.
	sleep 0.3
	has_ticket "$waiter"
	[ ! -e "$served" ]
	guest_ends
	ended_with "$waiter" 0
}

# --- proofs ---

@test "P1 alone: a number is no proof: a holder in another pid namespace, which has an ancestor's pid there" {
	number=$$
	need unshare
	public_keylock 700
	chown 61111 "$KEYLOCK_DIR"
	# That ancestor is one which the user 61111 may not look into.
	mkfifo -m 666 "$public/end"
	unshare --pid --fork bash -c 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
		setpriv --reuid=61111 --regid=61111 --clear-groups -- "$0/keylock" key sh -c "exec 8<>\"\$0/end\"
			echo \$PPID >\"\$0/new\"; mv \"\$0/new\" \"\$0/begun\"; read -r _ <&8" "$0"
		:' "$public" "$number" 3>&- 4>&- &
	wait_for 20 test -e "$public/begun"
	[ "$(cat "$public/begun")" = "$number" ]
	for options in '-w 0.3 -r' '-w 0.3 -r -s' '-w 0.3' '-w 1.3'; do
		it_quiet 75 as_user 61111 env KEYLOCK_KEY=key "$public/keylock" $options key touch "$ran"
	done
	run_it as_user 61111 "$public/keylock" --list --json key
	[[ $output == *'"state":"held"'* && $output != *"[$number]"* ]]
	echo 1<>"$public/end"
	wait $!
}

@test "P1 alone: a pid namespace without its own /proc does not make a stranger an ancestor" {
	need_root
	need unshare
	hold key
	# In there, the parent of keylock has the number that the holder has here.
	it_prints $'75\n75' unshare --pid --fork bash -c 'echo $(($0 - 1)) >/proc/sys/kernel/ns_last_pid
		bash -c "[ \$\$ = $0 ] || exit 9; \"\$KEYLOCK\" -n -r key true; echo \$?
			KEYLOCK_KEY=key \"\$KEYLOCK\" -w 0.3 key true; echo \$?"; :' "$holder"
}

@test "P1 alone: the file of the same number, elsewhere or mounted over the ancestor's, is not the ancestor's" {
	# What the ancestor's command does where both directories are.
	cat >"$work/scene" <<-'END'
		inode=$(stat -c %i "$1/key")
		eval "$3"
		"$KEYLOCK" -d "$2" key sh -c 'echo >"$work/begun"; until [ -e "$work/end" ]; do sleep 0.01; done' &
		until [ -e "$work/begun" ]; do sleep 0.01; done
		[ "$(stat -c %i "$2/key")" = "$inode" ] && echo same
		"$KEYLOCK" -n -r -d "$2" key true; echo $?
		"$KEYLOCK" -w 0.2 -d "$2" key true; echo $?
		echo >"$work/end"; wait
		# Free, it is taken and not only visited.
		"$KEYLOCK" -w 20 -r -d "$2" key "$KEYLOCK" -n -d "$2" key true; echo $?
	END
	while IFS='|' read -r one two first over; do
		rm -f "$work"/{begun,end}
		it_prints $'same\n75\n75\n75' private_root bash -c 'mount -t tmpfs none /mnt && eval "$1" || exit 9
			"$KEYLOCK" -d "$2" key bash "$work/scene" "${@:2}"' - "$first" "$one" "$two" "$over"
	done <<-'FORMS'
		/mnt/a|/mnt/b|mkdir /mnt/a /mnt/b && mount -t tmpfs none /mnt/a && mount -t tmpfs none /mnt/b|:
		/mnt|/mnt|:|mount -t tmpfs none /mnt
	FORMS
}

@test "P1 alone: an ancestor holds by presence beside the lock or the guests' byte, by nothing else" {
	path=$("$KEYLOCK" --pin key)
	for case in 'flock reader=1|0' 'reader=1 reader=2|0' 'flock reader=1 reader=2|0' 'flock|75' \
		'flock reader=2|75' 'reader=2|75' 'flock posix=shared|75' 'posix=shared reader=2|75' \
		'flock reader=all|75' 'reader=all|75'; do
		it_gives "${case#*|}" python3 "$tools/keep.py" "$path" ${case%|*} -- \
			"$KEYLOCK" -n -r key true
	done
	# Beside them it is for nobody else.
	it_gives 75 python3 "$tools/keep.py" "$path" reader=1 reader=2 -- "$KEYLOCK" -n key true
}

# --- stopped at any step ---

# stop_at CALL N: sets stopping to what, before a command, stops it just after its Nth CALL. What
# strace sees is in the file "trace".
stop_at() {
	need strace
	rm -f "$work/trace" "$ran"
	stopping=(strace -qq -o "$work/trace" -e trace='fcntl,flock,?clone,?vfork'
		-e inject="$1:signal=SIGSTOP:when=$2")
}

is_stopped() {
	grep -qs '^--- stopped by SIGSTOP' "$work/trace"
}

# Waits until strace, $tracer, has stopped it, or it has ended before.
stops_or_ends() {
	wait_for 20 eval 'is_stopped || is_dead "$tracer"'
}

goes_on() {
	kill -CONT $(children "$tracer")
}

# nested_stops MODE OPTION...: has a nested run with these options stop there, under the holder. Sets outer,
# and tracer, the pid of strace.
nested_stops() {
	outer=$holder
	starts "$outer" "$(printf '%q ' "${stopping[@]}" "$KEYLOCK" "$@" key touch "$ran")"
	tracer=$started
}

# has_presence [LINES]: the traced one has taken presence by its last LINES calls.
has_presence() {
	grep -v '^-' "$work/trace" | tail -n "${1:-1}" |
		grep -q 'F_OFD_SETLKW\?, {l_type=F_RDLCK, .*l_start=1, .* = 0$'
}

@test "P1 alone: a nested run whose ancestor's file becomes nameless meanwhile does not run by it" {
	# Up to the call by which it takes presence, the last before it compares file and name. How many
	# those are is different each time: where a byte is closed it tries again.
	for step in '-x fcntl' '-s fcntl' '-s flock'; do
		read -r mode call <<<"$step"
		for ((n = 1; ; n++)); do
			stop_at "$call" "$n"
			hold "$mode" key
			nested_stops -n -r "$mode"
			wait_for 20 is_stopped
			if has_presence 1000 && ! has_presence; then
				goes_on
				let_go "$outer" 'wait $!'
				[ "$call" != flock ] || break
				n=$((n - 2))
				continue
			fi
			rm "$KEYLOCK_DIR/key"
			hold -n key
			goes_on
			told "$outer" 75 'wait $!'
			not_run
			let_go "$outer"
			let_go
			[ "$(files)" = 0 ]
			! has_presence 1000 || break
		done
	done
}

@test "P1 alone: a nested run whose ancestor has let go meanwhile does not run beside the next one" {
	# The file stays: comparing it and its name shows nothing.
	"$KEYLOCK" --pin key
	# Each time that it has opened the file, the last time after its first look for ancestors.
	for ((n = 1; ; n++)); do
		stop_at openat "$n"
		stopping+=(-e trace=openat -P key)
		hold key
		nested_stops -n -r
		stops_or_ends
		# Too late: it has run, and tidies.
		[ ! -e "$ran" ] || break
		let_go "$outer"
		hold -n key
		goes_on
		wait_for 20 is_dead "$tracer"
		not_run
		let_go
	done
	[ "$n" -gt 3 ]
	! is_stopped || goes_on
	rm "$ran"
}

@test "P4 in turn: a shared nested run whose ancestor has let go, before or after it had its shared lock, is in nobody's way" {
	# Up to the request for a lock that comes after that for the guests' byte.
	for ((n = 1, locked = 0; !locked; n++)); do
		stop_at flock "$n"
		hold -s key
		line_up key touch "$served"
		nested_stops -s -r
		wait_for 20 is_stopped
		locked=$(grep -c 'l_type=F_RDLCK, .*l_start=2,' "$work/trace") || :
		let_go "$outer"
		goes_on
		ended_with "$waiter" 0
		wait_for 20 rm "$ran"
		rm "$served"
		all_gone
	done
}

# at_each_stop LOCKS STOPPED OVER: stops a run at its first, second, ... fcntl(2), until it ends before
# that; where its command has ended and it has those locks calls STOPPED meanwhile, and OVER when it has
# ended. Fails where that is never so, or a file is left.
at_each_stop() {
	met=0
	for n in {1..30}; do
		stop_at fcntl "$n"
		"${stopping[@]}" "$KEYLOCK" key true 3>&- 4>&- &
		tracer=$!
		stops_or_ends
		is_stopped || break
		locks=$(sed -nE 's/^lock:.* ([A-Z]+) +ADVISORY +([A-Z]+) .*:[0-9]+ /\1 \2 /p' \
			/proc/$(children "$tracer")/fdinfo/*)
		over=:
		if grep -q '^clone\|^vfork' "$work/trace" && [ "$locks" = "$1" ]; then
			over=$3
			met=$((met + 1))
			"$2"
		fi
		goes_on
		wait_for 20 is_dead "$tracer"
		"$over"
		[ "$(files)" = 0 ]
	done
	[ "$met" -gt 0 ]
}

@test "P1 alone: a file whose removal stopped half way stays a guest's who came meanwhile" {
	guest_comes() {
		leave_guest '-n -o'
		tell "$outer" let_go 'kill -KILL $PPID; exit'
		wait_for 20 is_dead "$outer"
	}
	guest_stays() {
		nobody_comes -n '-n -s' '-n -r'
	}
	# It has the gate, which -n goes past.
	at_each_stop 'OFDLCK WRITE 0 0' guest_comes guest_stays
}

@test "P1 alone: one who was stopped as it came to tidy does not take the next one's file away" {
	next_comes() {
		gives 0 -n key true
		hold -n key
	}
	next_stays() {
		taken key
		let_go
	}
	# It has let go and has no gate yet.
	at_each_stop '' next_comes next_stays
}

@test "P1 alone: under load no nested run is turned away, and none slips in after its ancestor" {
	# The nested one does what must not overlap.
	stress -k 2s 6 < <(for kind in '-x:-x key : 400 x 0' '-x:-x key : 400 xd 0' '-n:-x key : 400 x 0' \
		'-l:-x key : 400 xd 0' '-F:-x key : 400 x 0' '-s:-s key : 400 s 0' '-s -n:-s key : 400 sd 0' \
		'-s -F:-s key : 400 s 0' '-s -w0.003:-s key : 400 s 0' '-w0.003:-x key : 400 x 0'; do
		echo "${kind%%:*} key $KEYLOCK -r ${kind#*:}"
	done)
	[ "${found[runs]}" -ge 5 ]
	# Of the killed a file may be left until one more has had the key.
	gives 0 -w 20 key true
}

#!/usr/bin/env bats
# Runs within runs: who would wait for itself is told so, or runs under the ancestor's lock.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2153,SC2154,SC2178 # words are split on purpose

load helper

setup() {
	keylock_setup
	work=$BATS_TEST_TMPDIR
	ran=$work/ran
	between=() start='"$@"; exit $?'
}

not_run() {
	[ ! -e "$ran" ] || {
		echo 'the command was run'
		return 1
	}
}

taken() {
	run_keylock "$@" touch "$ran"
	expect 75
	not_run
}

free() {
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

# nested INNER OUTER COMMAND...: runs "keylock INNER key COMMAND..." under "keylock OUTER key". In
# between comes $between, a command prefix, which a shell runs by $start. Sets status, output and
# stderr to the inner one's, and outer to a pattern: the pid of the outer one, or of the shell.
nested() {
	local inner=$1 host=$2
	shift 2
	rm -f "$work/outer" "$ran"
	run_keylock $host key sh -c 'echo "($PPID|$$)" >"$0/outer"; '"$start" "$work" \
		${between[@]+"${between[@]}"} "$KEYLOCK" $inner key "$@"
	outer=$(cat "$work/outer")
	[[ $host == *-F* || $(files) == 0 ]]
}

# ends HOW INNER OUTER: the inner one runs, or is told that waiting would never end and of -r, or is
# told that it would never end with -r either, or ends with status HOW and without a word.
ends() {
	nested "$2" "$3" touch "$ran"
	case $1 in
	runs)
		expect 0
		[ -e "$ran" ]
		return
		;;
	told) expect_message 78 ' -r ' ;;
	never) expect_message 78 ;;
	*) expect_taken "$1" ;;
	esac
	not_run
	[[ $1 == [0-9]* || $stderr =~ ^'keylock: key: '.*("pid "$outer,|inherited) ]]
}

@test "P9 never stuck: a key that an ancestor holds is 78, naming the ancestor and -r, and with -r runs" {
	local inner host
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
	# Who does not wait is not told, and who has another way is not stopped.
	ends 75 -n ''
	ends 9 '-w0 -E 9' ''
	ends runs '-j 2' '-j 2'
	nested -r '' sh -c 'echo "$KEYLOCK_KEY"; exit 5'
	expect 5
	[ "$output" = key ]
	# Without an ancestor it is an option without an effect.
	run_keylock -r key echo ran
	expect 0
	[ "$output" = ran ]
	hold key
	taken -n -r key
	taken -r -w 0.1 key
	let_go
}

@test "P1 alone: exclusive inside shared is 78 with -r, too" {
	local option
	for option in -x -r -rx; do
		ends never "$option" -s
	done
	# Also where others share it.
	hold -s key
	run_keylock -s key "$KEYLOCK" -r key touch "$ran"
	expect_message 78 key
	not_run
	let_go
}

@test "P9 never stuck: whatever is between the ancestor and the nested run" {
	local host chain chains=(
		"sh -c '\"\$@\"; exit \$?' sh bash -c '\"\$@\"; exit \$?' bash setsid -w env nice"
		"'$KEYLOCK' second sh -c '\"\$@\"; exit \$?' sh '$KEYLOCK' third"
		# Descriptors and environment given up.
		"$(probe bare)"
		"$(probe bare) $(command -v sh) -c '\"\$@\"; exit \$?' sh"
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
	# The command that is in keylock's place is the nested run itself.
	between=() start='exec "$@"'
	ends told '' -F
	ends runs -r -F
	# Input that is a pipe which is still open, as --hold needs it.
	start='sleep 1 | "$@"'
	nested --hold ''
	expect_message 78 ' -r '
	nested '-r --hold' ''
	expect 0
	[ "$output" = locked ]
}

@test "P9 never stuck: a killed keylock's command is an ancestor by its descriptor" {
	"$KEYLOCK" key sh -c 'kill -KILL "$PPID"
		"$KEYLOCK" -w 20 key touch "$0" 2>"$0.said"; echo $? >"$0.inner"
		"$KEYLOCK" -w 20 -r key true; echo $? >"$0.second"' "$ran" 3>&- 4>&- || :
	wait_for 20 test -s "$ran.second"
	cat "$ran.said"
	[ "$(cat "$ran.inner" "$ran.second")" = $'78\n0' ]
	grep -q '^keylock: key: .* -r ' "$ran.said"
	not_run
	wait_for 20 free
}

@test "P9 never stuck: also where the ancestor is another user's, as under sudo" {
	public_keylock
	between=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
	# The copy, which that user may execute.
	local KEYLOCK=$public/keylock
	# Whose pid it is cannot be seen then, but that the descriptor was inherited.
	nested '' '' touch "$public/dir/ran"
	expect_message 78 key ' -r '
	nested -r '' echo ran
	expect 0
	[ "$output" = ran ]
}

@test "P9 never stuck: a script that took the lock by flock(1) on its own descriptor is told, not let in" {
	local options path
	need flock
	path=$("$KEYLOCK" --pin key)
	for options in '' -r -s; do
		# As a shell's child, and in its place.
		for start in '"$@"' 'exec "$@"'; do
			run_it sh -c 'exec 9>>"$0"; flock 9; '"$start" "$path" "$KEYLOCK" -w 20 $options key touch "$ran"
			expect_message 78 key
			not_run
		done
	done
}

@test "P4 in turn: a nested run passes those who wait only by -r, shared or not, and does not let them in" {
	local mode first
	for mode in -x -s; do
		rm -f "$work"/{begun,go,waiter,nested}
		"$KEYLOCK" "$mode" key sh -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
			"$KEYLOCK" "$1" key touch "$0/ran"; echo $? >"$0/without"
			"$KEYLOCK" "$1" -r key sh -c "[ ! -e \"\$0/waiter\" ] && echo >\"\$0/nested\"" "$0"
			[ ! -e "$0/waiter" ]' "$work" "$mode" 2>"$work/said" 3>&- 4>&- &
		first=$!
		wait_for 20 test -e "$work/begun"
		"$KEYLOCK" key touch "$work/waiter" 3>&- 4>&- &
		wait_for 20 has_ticket $!
		touch "$work/go"
		ended_with "$first" 0
		ended_with $! 0
		[ "$(cat "$work/without")" = 78 ]
		[[ -e $work/nested && -e $work/waiter ]]
		not_run
		[ "$(files)" = 0 ]
	done
}

@test "several keys, one of which an ancestor holds: the others are the nested run's own" {
	nested '-r -k b -k a' '' sh -c 'for key in key a b; do "$KEYLOCK" -n "$key" true; echo $?; done'
	expect 0
	[ "$output" = $'75\n75\n75' ]
	# After the nested run the outer one still has its key, and the others are free.
	run_keylock b sh -c '"$KEYLOCK" -r -k b a true; "$KEYLOCK" -n b true; echo $?
		"$KEYLOCK" -n a true; echo $?'
	[ "$output" = $'75\n0' ]
	[ "$(files)" = 0 ]
}

@test "a slot that an ancestor holds: told when there is no other, covered by -r" {
	between=("$KEYLOCK" -j 2 key)
	nested '-j 2' '-j 2' touch "$ran"
	expect_message 78 key ' -r '
	not_run
	ends runs '-j 2 -r' '-j 2'
	ends runs '-n -j 2 -r' '-j 2'
	ends 75 '-n -j 2' '-j 2'
}

@test "a key held by no ancestor but by a child or a sibling is waited for" {
	local under
	for under in '' "$KEYLOCK other"; do
		rm -f "$work/begun"
		run_it $under sh -c '"$KEYLOCK" key sh -c "echo >\"\$0/begun\"; sleep 0.3" "$0" &
			until [ -e "$0/begun" ]; do sleep 0.01; done
			"$KEYLOCK" -w 20 key echo ran' "$work"
		expect 0
		[ "$output" = ran ]
	done
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

# --- guests ---

# leave_guest OUTER [BEFORE [INNER [LAST]]]: a nested run, "keylock -r INNER key", is left in the
# background by an outer run with these options, whose command, once it may go (host_ends), does
# LAST. Sets outer and guest, the pid of the guest's command, which ends by guest_ends. BEFORE is
# what comes before the nested one; "timers" stands for: the outer one has no timer.
leave_guest() {
	local before=()
	case ${2-} in
	bare) before=("$(probe bare)") ;;
	guest) before=("$KEYLOCK" -r -l -o key) ;;
	timers) before=(bash -c 'ulimit -S -i "$(ulimit -H -i)"; exec "$@"' -) ;;
	esac
	rm -f "$work"/{guest,guest.go,host.go} "$ran"
	mkfifo "$work/guest.go" "$work/host.go"
	(
		[ "${2-}" != timers ] || ulimit -S -i 0
		exec "$KEYLOCK" $1 key bash -c 'exec 7<>"$0/host.go"; last=$1; shift; "$@" 7>&- &
			until [ -e "$0/guest" ]; do sleep 0.01; done; read -r _ <&7; eval "$last"' \
			"$work" "${4-exit 5}" ${before[@]+"${before[@]}"} "$KEYLOCK" -r ${3-} key sh -c \
			'exec 8<>"$0/guest.go"; echo $$ >"$0/guest.new"; mv "$0/guest.new" "$0/guest"
				read -r _ <&8' "$work"
	) 3>&- 4>&- &
	outer=$!
	started "$outer"
	wait_for 20 test -e "$work/guest"
	guest=$(cat "$work/guest")
}

host_ends() {
	echo 1<>"$work/host.go"
}

guest_ends() {
	echo 1<>"$work/guest.go"
	wait_for 20 is_dead "$guest"
}

# nobody_comes OPTIONS...: not at once, and not in turn; and the next one comes when the guest has
# ended.
nobody_comes() {
	local intruder
	for intruder; do
		taken $intruder key
	done
	"$KEYLOCK" key touch "$ran" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	in_state "$guest" RSD
	not_run
	guest_ends
	ended_with $! 0
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "P1 alone: a nested run is alone whatever became of the run that it was started under" {
	local host before inner last after
	# The last column: a signal to the outer keylock after its command's end.
	while IFS='|' read -r host before inner last after; do
		echo "== $host, $before, $inner, $last, $after"
		leave_guest "$host" "$before" "$inner" "${last:-exit 5}"
		host_ends
		if [ -n "$after" ]; then
			wait_for 20 eval '[ -z "$(cat "/proc/$outer/task/$outer/children")" ] || is_dead "$outer"'
			kill -s "$after" "$outer" 2>/dev/null || :
		fi
		wait_for 20 is_dead "$outer"
		nobody_comes -n '-n -s' '-n -r' '-n -j 1' '-n -k another' '-w 0.1' '-s -w 0.1'
	done <<-'FORMS'
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

@test "P2 the outer run ends with its command, and flock(1) finds the key taken while the guest runs" {
	local options
	need flock
	for options in '-x|' '-s|-s' '-x|-s'; do
		leave_guest "${options%|*}" '' "${options#*|}"
		host_ends
		ended_with "$outer" 5
		run_it flock -n "$KEYLOCK_DIR/key" touch "$ran"
		expect 1
		nobody_comes -n
	done
}

@test "P2 a nested run that is ended frees the key, and its host ends as it did" {
	leave_guest '' bare '' 'wait $!; exit $?'
	kill -TERM "$(parent "$guest")"
	host_ends
	ended_with "$outer" 143
	free
}

@test "P9 never stuck: what a guest runs finds the guest as its ancestor" {
	local options
	for options in '-l -o' '-j 1 -l -o'; do
		rm -f "$work"/{go,*.status}
		run_keylock $options key sh -c '"$KEYLOCK" -r key sh -c "echo >\"\$0/guest.status\"
				until [ -e \"\$0/go\" ]; do sleep 0.01; done
				for option in -x -r \"-n -r\" -n \"-s -r\"; do
					\"\$KEYLOCK\" -w 20 \$option key true 2>/dev/null; echo \$?
				done >\"\$0/new\"; mv \"\$0/new\" \"\$0/all.status\"" "$0" &
			until [ -e "$0/guest.status" ]; do sleep 0.01; done' "$work"
		expect 0
		touch "$work/go"
		wait_for 20 test -e "$work/all.status"
		[ "$(paste -sd ' ' "$work/all.status")" = '78 0 0 75 0' ]
		wait_for 20 eval '[ "$(files)" = 0 ]'
	done
}

@test "P1 alone: a daemon that outlived its ancestor's hold is not covered by another's" {
	local mode
	for mode in -x -s; do
		rm -f "$work"/{go,status}
		# Shared, the file stays the same.
		[ "$mode" = -x ] || hold -s key
		run_keylock "$mode" key sh -c '(until [ -e "$0/go" ]; do sleep 0.01; done
			"$KEYLOCK" -n -r key touch "$0/ran"; echo $? >"$0/status") &' "$work"
		expect 0
		[ "$mode" = -s ] || hold key
		touch "$work/go"
		wait_for 20 test -s "$work/status"
		[ "$(cat "$work/status")" = 75 ]
		not_run
		let_go
	done
}

# --- proofs ---

@test "P1 alone: a number is no proof: a holder in another pid namespace, which has an ancestor's pid there" {
	local options number=$$
	need_root
	need setpriv unshare
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 700 "$public/dir"
	chown 61111 "$public/dir"
	chmod 777 "$public"
	export KEYLOCK_DIR=$public/dir
	# That ancestor is one which the user 61111 may not look into.
	mkfifo -m 666 "$public/end"
	unshare --pid --fork bash -c 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
		setpriv --reuid=61111 --regid=61111 --clear-groups -- "$0/keylock" key sh -c "exec 8<>\"\$0/end\"
			echo \$PPID >\"\$0/new\"; mv \"\$0/new\" \"\$0/begun\"; read -r _ <&8" "$0"
		:' "$public" "$number" 3>&- 4>&- &
	wait_for 20 test -e "$public/begun"
	[ "$(cat "$public/begun")" = "$number" ]
	for options in '-w 0.3 -r' '-w 0.3 -r -s' '-w 0.3' '-w 1.3'; do
		run_it as_user 61111 env KEYLOCK_KEY=key "$public/keylock" $options key touch "$public/dir/ran"
		expect_taken 75
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
	run_it unshare --pid --fork bash -c 'echo $(($0 - 1)) >/proc/sys/kernel/ns_last_pid
		bash -c "[ \$\$ = $0 ] || exit 9; \"\$KEYLOCK\" -n -r key true; echo \$?
			KEYLOCK_KEY=key \"\$KEYLOCK\" -w 0.3 key true; echo \$?"; :' "$holder"
	expect 0
	[ "$output" = $'75\n75' ]
	let_go
}

@test "P1 alone: the file of the same number on another file system is not the ancestor's" {
	need unshare
	run_it private_root bash -c 'mount -t tmpfs none /mnt && mkdir /mnt/one /mnt/two &&
		mount -t tmpfs none /mnt/one && mount -t tmpfs none /mnt/two &&
		mkdir -m 700 /mnt/one/d /mnt/two/d || exit 9
		mkfifo /mnt/end
		"$KEYLOCK" -d /mnt/two/d key sh -c "exec 8<>/mnt/end; echo >/mnt/begun; read -r _ <&8" &
		until [ -e /mnt/begun ]; do sleep 0.01; done
		"$KEYLOCK" -d /mnt/one/d key bash -c "
			[ \$(stat -c %i /mnt/one/d/key) = \$(stat -c %i /mnt/two/d/key) ] && echo same
			\"\$KEYLOCK\" -n -r -d /mnt/two/d key true; echo \$?
			\"\$KEYLOCK\" -w 0.2 -d /mnt/two/d key true; echo \$?
			echo >/mnt/end; wait
			\"\$KEYLOCK\" -w 20 -r -d /mnt/two/d key \"\$KEYLOCK\" -n -d /mnt/two/d key true; echo \$?"'
	expect 0
	# Free, it is taken and not only visited.
	[ "$output" = $'same\n75\n75\n75' ]
}

@test "P1 alone: an ancestor holds by presence beside the lock or the guests' byte, by nothing else" {
	local case path
	need python3
	path=$("$KEYLOCK" --pin key)
	cat >"$work/ancestor" <<-'END'
		import fcntl, os, struct, subprocess, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		for lock in sys.argv[2].split():
		    kind, _, at = lock.partition(":")
		    if kind == "flock":
		        fcntl.flock(fd, fcntl.LOCK_EX)
		    elif kind == "posix":
		        fcntl.lockf(fd, fcntl.LOCK_SH)
		    else:
		        start, length = (0, 0) if at == "all" else (int(at), 1)
		        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0))
		sys.exit(subprocess.run(sys.argv[3:], close_fds=True).returncode)
	END
	for case in 'flock ofd:1=0' 'ofd:1 ofd:2=0' 'flock ofd:1 ofd:2=0' 'flock=75' 'flock ofd:2=75' 'ofd:2=75' \
		'flock posix:all=75' 'posix:all ofd:2=75' 'flock ofd:all=75' 'ofd:all=75'; do
		run_it python3 "$work/ancestor" "$path" "${case%=*}" "$KEYLOCK" -n -r key true
		expect "${case#*=}"
	done
	# Beside them it is for nobody else.
	run_it python3 "$work/ancestor" "$path" 'ofd:1 ofd:2' "$KEYLOCK" -n key true
	expect 75
}

# --- stopped at any step ---

# stop_at CALL N: sets stopping to what, before a command, stops it just after its Nth CALL. What
# strace sees is in the file "trace".
stop_at() {
	rm -f "$work"/{trace,tracer,status,go,begun} "$ran"
	touch "$work/start"
	stopping=(strace -qq -o "$work/trace" -e trace='fcntl,flock,?clone,?vfork'
		-e inject="$1:signal=SIGSTOP:when=$2")
}

is_stopped() {
	[ -e "$work/tracer" ] && grep -qs '^--- stopped by SIGSTOP' "$work/trace"
}

# The process that strace runs.
traced() {
	local tracer
	tracer=$(cat "$work/tracer")
	tr -d ' ' <"/proc/$tracer/task/$tracer/children"
}

goes_on() {
	kill -CONT "$(traced)"
}

# nested_stops MODE OPTION...: has a nested run with these options stop there, under an outer run
# with MODE; it comes when there is the file "start". The outer command ends with it, or when there
# is the file "go". Sets outer.
nested_stops() {
	local mode=$1
	shift
	"$KEYLOCK" "$mode" key bash -c 'echo >"$0/begun"; until [ -e "$0/start" ]; do sleep 0.01; done
		"$@" & echo $! >"$0/new"; mv "$0/new" "$0/tracer"
		until [ -e "$0/status" ] || [ -e "$0/go" ]; do
			sleep 0.01
			kill -0 $! 2>/dev/null || { wait $!; echo $? >"$0/status"; }
		done' "$work" "${stopping[@]}" "$KEYLOCK" "$@" key touch "$ran" 3>&- 4>&- &
	outer=$!
	started "$outer"
	wait_for 20 test -e "$work/begun"
}

# has_presence [LINES]: the traced one has taken presence by its last LINES calls.
has_presence() {
	grep -v '^-' "$work/trace" | tail -n "${1:-1}" |
		grep -q 'F_OFD_SETLKW\?, {l_type=F_RDLCK, .*l_start=1, .* = 0$'
}

@test "P1 alone: a nested run whose ancestor's file becomes nameless meanwhile does not run by it" {
	local mode call n step stopping outer
	need strace
	# Up to the call by which it takes presence, the last before it compares file and name. How many
	# those are is different each time: where a byte is closed it tries again.
	for step in '-x fcntl' '-s fcntl' '-s flock'; do
		read -r mode call <<<"$step"
		for ((n = 1; ; n++)); do
			stop_at "$call" "$n"
			nested_stops "$mode" -n -r "$mode"
			wait_for 20 is_stopped
			if has_presence 1000 && ! has_presence; then
				# Too late.
				goes_on
				ended_with "$outer" 0
				[ "$call" != flock ] || break
				n=$((n - 2))
				continue
			fi
			rm "$KEYLOCK_DIR/key"
			hold -n key
			goes_on
			wait_for 20 test -s "$work/status"
			[ "$(cat "$work/status")" = 75 ]
			not_run
			ended_with "$outer" 0
			let_go
			[ "$(files)" = 0 ]
			! has_presence 1000 || break
		done
	done
}

@test "P4 in turn: a shared nested run whose ancestor has let go meanwhile is in nobody's way" {
	local stopping outer waiter
	need strace
	stop_at flock 1
	rm "$work/start"
	nested_stops -s -r -s
	"$KEYLOCK" key touch "$work/waiter" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	touch "$work/start"
	wait_for 20 is_stopped
	touch "$work/go"
	wait_for 20 is_dead "$outer"
	goes_on
	ended_with "$waiter" 0
	wait_for 20 test -e "$ran"
	[ -e "$work/waiter" ]
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

# at_each_stop LOCKS STOPPED OVER: stops a run at its first, second, ... fcntl(2), until it ends before
# that; where its command has ended and it has those locks calls STOPPED meanwhile, and OVER when it has
# ended. Fails where that is never so, or a file is left.
at_each_stop() {
	local n met=0 right stopping tracer locks
	need strace
	for n in {1..30}; do
		stop_at fcntl "$n"
		"${stopping[@]}" "$KEYLOCK" key true 3>&- 4>&- &
		tracer=$!
		echo "$tracer" >"$work/tracer"
		wait_for 20 eval 'is_stopped || is_dead "$tracer"'
		is_stopped || break
		locks=$(sed -nE 's/^lock:.* ([A-Z]+) +ADVISORY +([A-Z]+) .*:[0-9]+ /\1 \2 /p' "/proc/$(traced)"/fdinfo/*)
		right=no
		if grep -q '^clone\|^vfork' "$work/trace" && [ "$locks" = "$1" ]; then
			right=yes
			met=$((met + 1))
			"$2"
		fi
		goes_on
		wait_for 20 is_dead "$tracer"
		[ "$right" = no ] || "$3"
		[ "$(files)" = 0 ]
	done
	[ "$met" -gt 0 ]
}

@test "P1 alone: a file whose removal stopped half way stays a guest's who came meanwhile" {
	guest_comes() {
		leave_guest '-n -o' '' '' 'kill -KILL $PPID'
		host_ends
		wait_for 20 is_dead "$outer"
	}
	guest_stays() {
		nobody_comes -n '-n -s' '-n -r'
	}
	# It has the gate, which -n goes past.
	at_each_stop 'OFDLCK WRITE 0 0' guest_comes guest_stays
}

@test "P1 alone: under load no nested run is turned away, and none slips in after its ancestor" {
	local alone
	alone=$(probe alone)
	# Each run is an outer and a nested one; the nested does what must not overlap.
	cat >"$work/twice" <<-'END'
		#!/bin/sh
		options='' inner=-x
		while [ "${1#-}" != "$1" ]; do
			[ "$1" != -s ] || inner=-s
			options="$options $1"
			shift
		done
		key=$1
		shift
		exec "$KEYLOCK" $options "$key" "$KEYLOCK" -r "$inner" "$key" "$@"
	END
	chmod +x "$work/twice"
	run_it "$alone" "$work/witness" 2 6 "$work/twice" key
	expect 0
	[[ $output =~ ^runs=([0-9]+)\ kills=([0-9]+)\ overlaps=0\ stuck=0$ ]]
	[ "${BASH_REMATCH[1]}" -ge 5 ]
}

# daemon OPTIONS COMMAND: a run leaves a daemon behind, whose pid is in $work/daemon, and a nested run
# that outlives it until $work/go is there. Returns when it has ended.
daemon() {
	"$KEYLOCK" $1 key sh -c '
		(echo >"$0/lives"; exec sleep 1000) & echo $! >"$0/daemon"
		("$KEYLOCK" -r key sh -c "echo >\"\$0/guest\"; until [ -e \"\$0/go\" ]; do sleep .01; done" "$0"
			echo >"$0/left") &
		until [ -e "$0/guest" ] && [ -e "$0/lives" ]; do sleep .01; done
		'"$2" "$work" 3>&- 4>&-
}

@test "P2 P3 a nested run that outlives its host keeps the key to its end, for flock(1) too, and no longer" {
	local options
	for options in '' '-j 1' '-j 2' '-k other'; do
		daemon "$options" 'exit 0'
		[ "$options" = '-j 2' ] || {
			taken -n key
			! flock -n "$KEYLOCK_DIR/key" true
		}
		touch "$work/go"
		wait_for 20 eval '"$KEYLOCK" -n key true'
		wait_for 20 eval '[ "$(files)" = 0 ]'
		kill "$(cat "$work/daemon")"
		rm -f "$work"/{go,guest,lives}
	done
}

@test "P2 where the host died the daemon that it left keeps the key, whatever becomes of the nested run" {
	daemon '' 'exit 137' || :
	touch "$work/go"
	wait_for 20 test -e "$work/left"
	taken -n key
	kill "$(cat "$work/daemon")"
	wait_for 20 free
}

@test "P2 who asks to be a guest while the host lets go, and is none, keeps nothing" {
	"$KEYLOCK" key sh -c 'sleep 1000 & echo $! >"$0/daemon"; until [ -e "$0/go" ]; do sleep .01; done' \
		"$work" 3>&- 4>&- &
	holder=$!
	wait_for 20 eval '[ -n "$("$KEYLOCK" --who key)" ]'
	keep reader=2
	touch "$work/go"
	ended_with "$holder" 0
	stop_keeping
	free
	kill "$(cat "$work/daemon")"
}

@test "P1 alone: a nested run whose ancestor has let go meanwhile does not run beside the next one" {
	local n stopping outer
	need strace
	# The file stays: comparing it and its name shows nothing.
	"$KEYLOCK" --pin key
	# Each time that it has opened the file, the last time after its first look for ancestors.
	for ((n = 1; ; n++)); do
		stop_at openat "$n"
		stopping+=(-e trace=openat -P key)
		nested_stops -x -n -r
		wait_for 20 eval 'is_stopped || [ -s "$work/status" ]'
		# Too late: it has run, and tidies.
		[ ! -e "$ran" ] || break
		touch "$work/go"
		ended_with "$outer" 0
		hold -n key
		goes_on
		wait_for 20 is_dead "$(cat "$work/tracer")"
		not_run
		let_go
	done
	[ "$n" -gt 3 ]
	! is_stopped || goes_on
	ended_with "$outer" 0
}

@test "P1 alone: the file of the same path and number, mounted over the ancestor's, is not the ancestor's" {
	need unshare
	run_it private_root bash -c 'mount -t tmpfs none /mnt || exit 9
		"$KEYLOCK" -d /mnt key bash -c "
			inode=\$(stat -c %i /mnt/key); mount -t tmpfs none /mnt
			\"\$KEYLOCK\" -d /mnt key sh -c \"echo >\\\"\\\$0\\\"; until [ -e \\\"\\\$0.end\\\" ]; do sleep 0.01; done\" \"\$0\" &
			until [ -e \"\$0\" ]; do sleep 0.01; done
			[ \$(stat -c %i /mnt/key) = \$inode ] && echo same
			\"\$KEYLOCK\" -n -r -d /mnt key true; echo \$?
			\"\$KEYLOCK\" -w 0.2 -d /mnt key true; echo \$?
			echo >\"\$0.end\"; wait" "$0"' "$work/begun"
	expect 0
	[ "$output" = $'same\n75\n75' ]
}

@test "P2 the last guest lets its host's lock go, though a daemon has inherited that" {
	leave_guest '' '' '' 'sleep 1000 & echo $! >"$0/daemon"; exit 5'
	host_ends
	ended_with "$outer" 5
	taken -n key
	guest_ends
	in_state "$(cat "$work/daemon")" RSD
	run_keylock -w 5 key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "P1 alone: the slot of a guest whose host has ended is nobody else's" {
	local options
	# With the other slot taken it does not have one of its own.
	hold -j 2 key
	leave_guest '-j 2 -l -o' '' '-j 2'
	host_ends
	wait_for 20 is_dead "$outer"
	for options in -n '-w 0.2'; do
		taken $options -j 2 key
	done
	guest_ends
	run_keylock -w 5 -j 2 key true
	expect 0
	let_go
	[ "$(files)" = 0 ]
}

@test "P1 alone: a shared nested run that has passed one who waits has a lock of its own" {
	local outer waiter
	"$KEYLOCK" -s key bash -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -r -s key sh -c "echo >\"\$0/guest\"; until [ -e \"\$0/end\" ]; do sleep 0.01; done" "$0" &
		until [ -e "$0/guest" ]; do sleep 0.01; done' "$work" 3>&- 4>&- &
	outer=$!
	wait_for 20 test -e "$work/begun"
	"$KEYLOCK" key touch "$ran" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	touch "$work/go"
	ended_with "$outer" 0
	# Where nothing kept it, it would run by now.
	sleep 0.3
	has_ticket "$waiter"
	not_run
	touch "$work/end"
	ended_with "$waiter" 0
	[ "$(files)" = 0 ]
}

@test "slots of which an ancestor holds one and a stranger the other are waited for" {
	hold -j 2 key
	run_keylock -j 2 key "$KEYLOCK" -w 0.3 -j 2 key touch "$ran"
	expect_taken 75
	not_run
	let_go
}

@test "P1 alone: one who was stopped as it came to tidy does not take the next one's file away" {
	next_comes() {
		run_keylock -n key true
		hold -n key
	}
	next_stays() {
		taken -n key
		let_go
	}
	# It has let go and has no gate yet.
	at_each_stop '' next_comes next_stays
}

@test "P4 in turn: nor is one that had its shared lock when its ancestor let go" {
	local n locked=0 stopping outer waiter
	need strace
	# The request for a lock that comes after that for the guests' byte.
	for ((n = 1; !locked; n++)); do
		stop_at flock "$n"
		rm -f "$work"/{start,waiter}
		nested_stops -s -r -s
		"$KEYLOCK" key touch "$work/waiter" 3>&- 4>&- &
		waiter=$!
		wait_for 20 has_ticket "$waiter"
		touch "$work/start"
		wait_for 20 is_stopped
		locked=$(grep -c 'l_type=F_RDLCK, .*l_start=2,' "$work/trace") || :
		touch "$work/go"
		wait_for 20 is_dead "$outer"
		goes_on
		wait_for 20 is_dead "$waiter"
		wait_for 20 test -e "$ran"
		[ -e "$work/waiter" ]
		wait_for 20 eval '[ "$(files)" = 0 ]'
	done
}

@test "P9 never stuck: who had to wait for the key is an ancestor as well" {
	hold key
	line_up key sh -c '"$KEYLOCK" -r -w 1 key touch "$0"' "$ran"
	let_go
	ended_with "$waiter" 0
	[ -e "$ran" ]
}

@test "P1 alone: what a host left behind that has ended is not covered beside a nested run that goes on" {
	"$KEYLOCK" key sh -c '
		(until [ -e "$0/ended" ]; do sleep .01; done
		exec "$KEYLOCK" -r key sh -c "echo >\"\$0/second\"" "$0") &
		"$KEYLOCK" -r key sh -c "echo >\"\$0/guest\"; until [ -e \"\$0/go\" ]; do sleep .01; done
			[ -e \"\$0/second\" ] || echo >\"\$0/alone\"" "$0" &
		until [ -e "$0/guest" ]; do sleep .01; done' "$work" 3>&- 4>&-
	touch "$work/ended"
	wait_for 20 eval '[[ $("$KEYLOCK" --list --json key) == *"\"waiting\":1"* ]]'
	touch "$work/go"
	wait_for 20 test -e "$work/second"
	[ -e "$work/alone" ]
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "P2 what a host left behind that has ended gets the key also when the nested run beside it is killed" {
	"$KEYLOCK" key sh -c '
		(until [ -e "$0/ended" ]; do sleep .01; done; "$KEYLOCK" -r key sh -c "echo >\"\$0/second\"" "$0"; :) &
		"$KEYLOCK" -r key sh -c "echo \$PPID >\"\$0/guest\"; exec sleep 1000" "$0" &
		until [ -s "$0/guest" ]; do sleep .01; done' "$work" 3>&- 4>&-
	touch "$work/ended"
	wait_for 20 eval '[[ $("$KEYLOCK" --list --json key) == *"\"waiting\":1"* ]]'
	kill -KILL $(pgrep -P "$(cat "$work/guest")") "$(cat "$work/guest")"
	wait_for 20 test -e "$work/second"
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

#!/usr/bin/env bats
# Runs within runs: who would wait for itself is told so, or runs under the ancestor's lock.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154,SC2178 # inner shells' own variables; the helper's variables

load helper

taken() {
	run_keylock "$@" touch "$BATS_TEST_TMPDIR/ran"
	[[ $status = 75 && ! -e $BATS_TEST_TMPDIR/ran ]]
}

# Runs keylock with these arguments up to "--" under an outer keylock with those after it, which is
# keylock's options and KEY. In between comes $between, a command prefix. Sets status, output and
# stderr to the inner one's, and outer to the outer keylock's pid, which the inner's command is not
# to know.
nested() {
	local inner=()
	while [ "$1" != -- ]; do
		inner+=("$1")
		shift
	done
	shift
	rm -f "$BATS_TEST_TMPDIR/outer" "$BATS_TEST_TMPDIR/ran"
	run_keylock "$@" sh -c 'echo "$PPID" >"$0/outer"; "$@"' \
		"$BATS_TEST_TMPDIR" ${between[@]+"${between[@]}"} "$KEYLOCK" "${inner[@]}"
	outer=$(cat "$BATS_TEST_TMPDIR/outer")
	[ "$(files)" = 0 ]
}

# told INNER... -- OUTER...: waiting would never end, which is said of the outer keylock.
told() {
	local inner=()
	while [ "$1" != -- ]; do
		inner+=("$1")
		shift
	done
	nested "${inner[@]}" touch "$BATS_TEST_TMPDIR/ran" "$@"
	expect_message 78 "${!#}" "pid $outer," ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# covered INNER... -- OUTER...: it runs.
covered() {
	local inner=()
	while [ "$1" != -- ]; do
		inner+=("$1")
		shift
	done
	nested "${inner[@]}" echo ran "$@"
	expect 0
	[ "$output" = ran ]
}

@test "P9 never stuck: a key that an ancestor holds is 78, naming the ancestor and -r, and with -r runs" {
	local between=() options inner host
	# However long it would wait; shared holds as well.
	for options in ' | ' '-w 1h|' '-E 9 -w 1h|' '-s|' '|-s' '|-o' '|-k d' '-k b -k c|'; do
		read -ra inner <<<"${options%|*}"
		read -ra host <<<"${options#*|}"
		told ${inner[@]+"${inner[@]}"} key -- ${host[@]+"${host[@]}"} key
	done
	for options in '-r|' '--reentrant|' '-n -r|' '-r -s|' '-r -s|-s' '-s|-s' '-n -s|-s' '-r|-o' '-r -j 1|' '-r -k b -k c|'; do
		read -ra inner <<<"${options%|*}"
		read -ra host <<<"${options#*|}"
		covered "${inner[@]}" key -- ${host[@]+"${host[@]}"} key
	done
	covered -r key "$KEYLOCK" -r key "$KEYLOCK" -r key -- key
	# Another key is just locked.
	covered other "$KEYLOCK" third -- key
	nested -r key sh -c 'echo "$KEYLOCK_KEY"; exit 5' -- key
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

@test "-n does not wait, so without -r a key that an ancestor holds is just taken" {
	local between=()
	nested -n key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_taken 75
	nested -w0 -E 9 key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_taken 9
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

@test "P9 never stuck: whatever is between the ancestor and the nested run" {
	local between chains=(
		"sh -c '\"\$@\"; exit \$?' sh bash -c '\"\$@\"; exit \$?' bash setsid -w env nice"
		"'$KEYLOCK' second sh -c '\"\$@\"; exit \$?' sh '$KEYLOCK' third"
		# Descriptors and environment given up.
		"$(probe bare)"
		"$(probe bare) $(command -v sh) -c '\"\$@\"; exit \$?' sh"
		"env -u KEYLOCK_KEY"
	) chain
	! command -v python3 >/dev/null || chains+=("python3 -c 'import subprocess, sys
sys.exit(subprocess.run(sys.argv[1:], close_fds=True).returncode)'")
	# A pid namespace without a /proc of its own, where getppid(2) numbers differently.
	[ "$(id -u)" != 0 ] || chains+=('unshare --pid --fork')
	for chain in "${chains[@]}"; do
		eval "between=($chain)"
		told key -- key
		covered -r key -- key
		covered -r key -- -o key
	done
}

@test "an ancestor that became its command (-F) is an ancestor all the same" {
	local start
	# With sh -c it is the ancestor, or this process itself.
	for start in 'exec "$@"' '"$@"; exit $?' 'bare=$1; shift; "$bare" "$@"; exit $?'; do
		set --
		[[ $start != bare* ]] || set -- "$(probe bare)"
		run_keylock -F key sh -c "$start" sh "$@" "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
		expect_message 78 key ' -r '
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		run_keylock -F key sh -c "$start" sh "$@" "$KEYLOCK" -r key echo ran
		expect 0
		[ "$output" = ran ]
	done
	# Without a process in between nobody has the key any more.
	run_keylock -F key "$(probe bare)" "$KEYLOCK" -n key echo ran
	expect 0
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "a killed keylock's command is an ancestor by its descriptor" {
	"$KEYLOCK" key sh -c 'echo $$ >"$0/pid.new"; mv "$0/pid.new" "$0/pid"
		until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -w 20 key touch "$0/ran" 2>"$0/said"; echo $? >"$0/inner"
		"$KEYLOCK" -w 20 -r key touch "$0/nested"; echo $? >"$0/second"' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local keylock=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/pid"
	kill -KILL "$keylock"
	wait "$keylock" 2>/dev/null || :
	taken -n key
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/second"
	cat "$BATS_TEST_TMPDIR/said"
	[ "$(cat "$BATS_TEST_TMPDIR/inner" "$BATS_TEST_TMPDIR/second")" = $'78\n0' ]
	grep -q '^keylock: key: .* -r ' "$BATS_TEST_TMPDIR/said"
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ -e "$BATS_TEST_TMPDIR/nested" ]
	wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/pid")"
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "also where the ancestor is another user's, as under sudo" {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	export KEYLOCK_DIR=$public/dir
	local between=(setpriv --reuid=65534 --regid=65534 --clear-groups --)
	# The copy, which that user may execute.
	local KEYLOCK=$public/keylock
	# Whose pid it is cannot be seen then, but that the descriptor was inherited.
	nested key touch "$BATS_TEST_TMPDIR/ran" -- key
	expect_message 78 key ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	covered -r key -- key
}

@test "P9 never stuck: a script that took the lock by flock(1) on its own descriptor is told, not let in" {
	local options start
	need flock
	"$KEYLOCK" --pin key >"$BATS_TEST_TMPDIR/path"
	for options in '' -r -s; do
		# As a shell's child, and in its place.
		for start in '"$@"' 'exec "$@"'; do
			# shellcheck disable=SC2086
			run_it sh -c 'exec 9>>"$0"; flock 9; '"$start" "$(cat "$BATS_TEST_TMPDIR/path")" \
				"$KEYLOCK" -w 20 $options key touch "$BATS_TEST_TMPDIR/ran"
			expect_message 78 key
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		done
	done
}

@test "P4 in turn: -r passes those who wait, and does not let them in" {
	"$KEYLOCK" key sh -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -r key sh -c "[ ! -e \"\$0/waiter\" ] && echo >\"\$0/nested\"" "$0"
		[ ! -e "$0/waiter" ]' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/waiter" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	[ -e "$BATS_TEST_TMPDIR/nested" ]
	wait $!
	[ -e "$BATS_TEST_TMPDIR/waiter" ]
	[ "$(files)" = 0 ]
}

@test "P4 in turn: shared inside shared while an exclusive one waits in between" {
	"$KEYLOCK" -s key sh -c 'echo >"$0/begun"; until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -s key touch "$0/told"; echo $? >"$0/without"
		"$KEYLOCK" -s -r key touch "$0/nested"; echo $? >"$0/with"' "$BATS_TEST_TMPDIR" \
		2>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
	local first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/waiter" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	wait $!
	cat "$BATS_TEST_TMPDIR/said"
	# Behind the exclusive one it would wait for itself; past it only by -r.
	[ "$(cat "$BATS_TEST_TMPDIR/without" "$BATS_TEST_TMPDIR/with")" = $'78\n0' ]
	[[ ! -e $BATS_TEST_TMPDIR/told && -e $BATS_TEST_TMPDIR/nested && -e $BATS_TEST_TMPDIR/waiter ]]
	[ "$(files)" = 0 ]
}

@test "P1 alone: exclusive inside shared is 78 with -r, too" {
	local between=() option
	for option in -x -r -rx; do
		nested "$option" key touch "$BATS_TEST_TMPDIR/ran" -- -s key
		expect_message 78 key "pid $outer"
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	done
	# Also where others share it.
	hold -s key
	run_keylock -s key "$KEYLOCK" -r key touch "$BATS_TEST_TMPDIR/ran"
	expect_message 78 key
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	let_go
}

@test "several keys, one of which an ancestor holds: the others are the nested run's own" {
	local between=()
	nested -r -k b -k c a sh -c 'for key in a b c; do "$KEYLOCK" -n "$key" true; echo $?; done' -- b
	expect 0
	[ "$output" = $'75\n75\n75' ]
	# After the nested run the outer one still has its key, and the others are free.
	run_keylock b sh -c '"$KEYLOCK" -r -k b a true; "$KEYLOCK" -n b true; echo $?
		"$KEYLOCK" -n a true; echo $?'
	[ "$output" = $'75\n0' ]
	[ "$(files)" = 0 ]
}

@test "a slot that an ancestor holds: told when there is no other, covered by -r" {
	local between=()
	covered -j 2 key -- -j 2 key
	between=("$KEYLOCK" -j 2 key)
	nested -j 2 key touch "$BATS_TEST_TMPDIR/ran" -- -j 2 key
	expect_message 78 key ' -r '
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	covered -j 2 -r key -- -j 2 key
	covered -n -j 2 -r key -- -j 2 key
	nested -n -j 2 key touch "$BATS_TEST_TMPDIR/ran" -- -j 2 key
	expect_taken 75
}

@test "--hold under an ancestor's lock" {
	local between=()
	between=(sh -c 'true | "$@"' -)
	nested --hold key -- key
	expect_message 78 key "pid $outer," ' -r '
	nested -r --hold key -- key
	expect 0
	[ "$output" = locked ]
}

@test "a key held by no ancestor but by a child or a sibling is waited for" {
	local under
	for under in '' "$KEYLOCK other"; do
		rm -f "$BATS_TEST_TMPDIR/begun"
		# shellcheck disable=SC2086
		run_it $under sh -c '"$KEYLOCK" key sh -c "echo >\"\$0/begun\"; sleep 0.3" "$0" &
			until [ -e "$0/begun" ]; do sleep 0.01; done
			"$KEYLOCK" -w 20 key echo ran' "$BATS_TEST_TMPDIR"
		expect 0
		[ "$output" = ran ]
	done
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

# --- guests ---

# A nested run, "keylock -r $inner key", is left in the background by an outer run with these
# options, whose command, once it may go (guest_host_ends), does $last. Sets outer and guest, the
# pid of the guest's command, which ends by guest_ends. $between comes before the nested one.
leave_guest() {
	local inner_options
	rm -f "$BATS_TEST_TMPDIR"/{guest,guest.go,host.go,ran}
	mkfifo "$BATS_TEST_TMPDIR/guest.go" "$BATS_TEST_TMPDIR/host.go"
	read -ra inner_options <<<"-r ${inner-}"
	(
		# No timer is to be had.
		[ "${prefix-}" != timers ] || ulimit -S -i 0
		exec "$KEYLOCK" "$@" key bash -c 'exec 7<>"$0/host.go"; last=$1; shift; "$@" 7>&- &
		until [ -e "$0/guest" ]; do sleep 0.01; done; read -r _ <&7; eval "$last"' \
		"$BATS_TEST_TMPDIR" "${last-exit 5}" ${between[@]+"${between[@]}"} \
		"$KEYLOCK" "${inner_options[@]}" key sh -c 'exec 8<>"$0/guest.go"; echo $$ >"$0/guest.new"
			mv "$0/guest.new" "$0/guest"; read -r _ <&8' "$BATS_TEST_TMPDIR"
	) 3>&- 4>&- &
	outer=$!
	started "$outer"
	wait_for 20 test -e "$BATS_TEST_TMPDIR/guest"
	guest=$(cat "$BATS_TEST_TMPDIR/guest")
}

guest_host_ends() {
	echo 1<>"$BATS_TEST_TMPDIR/host.go"
}

guest_ends() {
	echo 1<>"$BATS_TEST_TMPDIR/guest.go"
	wait_for 20 is_dead "$guest"
}

# nobody_comes: not at once, and not in turn; and the next one comes when the guest has ended.
nobody_comes() {
	local intruder waiter
	for intruder in -n '-n -s' '-n -r' '-n -j 1' '-n -k another' '-w 0.1' '-s -w 0.1'; do
		# shellcheck disable=SC2086
		taken $intruder key
	done
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	in_state "$guest" RSD
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	guest_ends
	wait "$waiter"
	[ -e "$BATS_TEST_TMPDIR/ran" ]
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "P1 alone: a nested run is alone whatever became of the run that it was started under" {
	local options between prefix inner last after
	# The outer's options, what is before the nested run, what the outer's command does at its
	# end, a signal to the outer keylock after that.
	while IFS='|' read -r options prefix inner last after; do
		echo "== $options, $prefix, $inner, $last, $after"
		case $prefix in
		bare) between=("$(probe bare)") ;;
		guest) between=("$KEYLOCK" -r -l -o key) ;;
		timers) between=(bash -c 'ulimit -S -i "$(ulimit -H -i)"; exec "$@"' -) ;;
		*) between=() ;;
		esac
		read -ra options <<<"$options"
		leave_guest ${options[@]+"${options[@]}"}
		guest_host_ends
		if [ -n "$after" ]; then
			wait_for 20 eval '[ -z "$(cat "/proc/$outer/task/$outer/children")" ] || is_dead "$outer"'
			kill -s "$after" "$outer" 2>/dev/null || :
		fi
		wait_for 20 is_dead "$outer"
		wait "$outer" 2>/dev/null || :
		nobody_comes
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

@test "P2: the outer run ends with its command, and flock(1) finds the key taken while the guest runs" {
	local options path
	need flock
	path=$("$KEYLOCK" --path key)
	for options in '-x ' '-s -s' '-x -s'; do
		local inner=${options#* }
		leave_guest "${options% *}"
		"$KEYLOCK" key sh -c '[ -e "$0/over" ] && touch "$0/ran"' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
		local waiter=$!
		wait_for 20 has_ticket "$waiter"
		guest_host_ends
		wait_for 20 is_dead "$outer"
		ended_with "$outer" 5
		run_it flock -n "$path" touch "$BATS_TEST_TMPDIR/ran"
		expect 1
		taken -n key
		in_state "$guest" RSD
		touch "$BATS_TEST_TMPDIR/over"
		guest_ends
		wait "$waiter"
		[ -e "$BATS_TEST_TMPDIR/ran" ]
		rm "$BATS_TEST_TMPDIR/over"
		[ "$(files)" = 0 ]
	done
}

@test "P2: a nested run that is ended frees the key, and its host ends as it did" {
	local between=() last='wait $!; exit $?'
	between=("$(probe bare)")
	leave_guest
	kill -TERM "$(parent "$guest")"
	guest_host_ends
	ended_with "$outer" 143
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "P9 never stuck: what a guest runs finds the guest as its ancestor" {
	local options
	for options in '-l -o' '-j 1 -l -o'; do
		rm -f "$BATS_TEST_TMPDIR"/{go,*.status}
		# shellcheck disable=SC2086
		run_keylock $options key sh -c '"$KEYLOCK" -r key sh -c "echo >\"\$0/guest.status\"
				until [ -e \"\$0/go\" ]; do sleep 0.01; done
				for option in -x -r \"-n -r\" -n \"-s -r\"; do
					\"\$KEYLOCK\" -w 20 \$option key true 2>/dev/null; echo \$?
				done >\"\$0/new\"; mv \"\$0/new\" \"\$0/all.status\"" "$0" &
			until [ -e "$0/guest.status" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR"
		expect 0
		touch "$BATS_TEST_TMPDIR/go"
		wait_for 20 test -e "$BATS_TEST_TMPDIR/all.status"
		[ "$(paste -sd ' ' "$BATS_TEST_TMPDIR/all.status")" = '78 0 0 75 0' ]
		wait_for 20 eval '[ "$(files)" = 0 ]'
	done
}

@test "a daemon that outlived its ancestor's hold is not covered" {
	run_keylock key sh -c '(until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -r key touch "$0/inner"; echo $? >"$0/status") &' "$BATS_TEST_TMPDIR"
	expect 0
	run_keylock -n key true
	expect 0
	# Somebody else has it now, and the daemon waits for its turn.
	hold key
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 blocked "$("$KEYLOCK" --path key)"
	run_keylock --list --json key
	[[ $output == *'"waiting":1'* ]]
	[ ! -e "$BATS_TEST_TMPDIR/inner" ]
	let_go
	wait_for 20 test -s "$BATS_TEST_TMPDIR/status"
	[ "$(cat "$BATS_TEST_TMPDIR/status")" = 0 ]
	[ -e "$BATS_TEST_TMPDIR/inner" ]
	[ "$(files)" = 0 ]
	# Nor by another's hold of the same file, which stays the same while somebody shares it.
	rm "$BATS_TEST_TMPDIR"/{go,status,inner}
	hold -s key
	run_keylock -s key sh -c '(until [ -e "$0/go" ]; do sleep 0.01; done
		"$KEYLOCK" -n -r key touch "$0/inner"; echo $? >"$0/status") &' "$BATS_TEST_TMPDIR"
	expect 0
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/status"
	[ "$(cat "$BATS_TEST_TMPDIR/status")" = 75 ]
	[ ! -e "$BATS_TEST_TMPDIR/inner" ]
	let_go
}

# --- proofs ---

@test "P1 alone: a number is no proof: a holder in another pid namespace, and a pid that is used again" {
	local namespace number
	need_root
	need setpriv unshare
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 700 "$public/dir"
	chown 61111 "$public/dir"
	chmod 777 "$public"
	export KEYLOCK_DIR=$public/dir
	# Its pid there is that of an ancestor of ours, which the user 61111 may not look into.
	number=$$
	mkfifo -m 666 "$public/end"
	unshare --pid --fork bash -c 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
		setpriv --reuid=61111 --regid=61111 --clear-groups -- "$0/keylock" key sh -c "exec 8<>\"\$0/end\"; echo \$PPID >\"\$0/new\"; mv \"\$0/new\" \"\$0/begun\"; read -r _ <&8" "$0"
		:' "$public" "$number" 3>&- 4>&- &
	namespace=$!
	started "$namespace"
	wait_for 20 test -e "$public/begun"
	[ "$(cat "$public/begun")" = "$number" ]
	for options in -r '-r -s' -x; do
		# shellcheck disable=SC2086
		run_it as_user 61111 env KEYLOCK_KEY=key "$public/keylock" -w 0.3 $options key touch "$public/dir/ran"
		expect_taken 75
	done
	run_it as_user 61111 "$public/keylock" -w 1.3 key touch "$public/dir/ran"
	expect_taken 75
	run_it as_user 61111 "$public/keylock" --who key
	expect 0
	[[ $'\n'$output$'\n' != *$'\n'$number$'\n'* ]]
	run_it as_user 61111 "$public/keylock" --list --json key
	[[ $output == *'"state":"held"'* && $output != *"[$number]"* ]]
	# Root is told the holder's pid as it is here.
	run_keylock --who key
	holder=$(cat "/proc/$namespace/task/$namespace/children")
	holder=${holder% }
	[ "$output" = "$(cut -d ' ' -f 1 "/proc/$holder/task/$holder/children")" ]
	echo 1<>"$public/end"
	wait "$namespace"
	# A keylock is killed, its command goes on, and its pid is another's, an ancestor's of ours.
	rm "$public/begun"
	run_it private_root unshare --pid --fork --mount-proc bash -c '
		setpriv --reuid=61111 --regid=61111 --clear-groups -- "$0/keylock" key sh -c "echo >\"\$0/begun\"; exec sleep 600" "$0" &
		killed=$!
		until [ -e "$0/begun" ]; do sleep 0.01; done
		kill -KILL "$killed"
		wait "$killed" 2>/dev/null
		for option in -x -r; do
			echo $((killed - 1)) >/proc/sys/kernel/ns_last_pid
			bash -c "[ \$\$ = $killed ] || exit 9
				setpriv --reuid=61111 --regid=61111 --clear-groups -- env KEYLOCK_KEY=key \
					\"\$0/keylock\" -w 0.3 $option key touch \"\$0/dir/ran\"; exit \$?" "$0"
			echo $?
		done' "$public"
	[ "$output" = $'75\n75' ]
	[ ! -e "$public/dir/ran" ]
}

@test "P1 alone: a pid namespace without its own /proc does not make a stranger an ancestor" {
	need_root
	need unshare
	hold key
	# In there, the parent of keylock has the number that the holder has here.
	run_it unshare --pid --fork bash -c 'echo $(($0 - 1)) >/proc/sys/kernel/ns_last_pid
		bash -c "[ \$\$ = $0 ] || exit 9; \"\$KEYLOCK\" -n -r key true; echo \$?
			\"\$KEYLOCK\" -w 0.3 -r key true; echo \$?
			KEYLOCK_KEY=key \"\$KEYLOCK\" -w 0.3 key true; echo \$?"; :' "$holder"
	expect 0
	[ "$output" = $'75\n75\n75' ]
	let_go
}

@test "P1 alone: the file of the same number on another file system is not the ancestor's" {
	need unshare
	run_it private_root bash -c 'mount -t tmpfs none /mnt && mkdir /mnt/one /mnt/two &&
		mount -t tmpfs none /mnt/one && mount -t tmpfs none /mnt/two && mkdir -m 700 /mnt/one/d /mnt/two/d || exit 9
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
	local case
	need python3
	"$KEYLOCK" --pin key >"$BATS_TEST_TMPDIR/path"
	cat >"$BATS_TEST_TMPDIR/ancestor" <<-'END'
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
		run_it python3 "$BATS_TEST_TMPDIR/ancestor" "$(cat "$BATS_TEST_TMPDIR/path")" "${case%=*}" \
			"$KEYLOCK" -n -r key true
		expect "${case#*=}"
	done
	# Beside them it is for nobody else.
	run_it python3 "$BATS_TEST_TMPDIR/ancestor" "$(cat "$BATS_TEST_TMPDIR/path")" 'ofd:1 ofd:2' \
		"$KEYLOCK" -n key true
	expect 75
}

# --- stopped at any step ---

# stop_at CALL N: sets stopping to what, before a command, stops it just after its Nth CALL. What
# strace sees is in the file "trace".
stop_at() {
	rm -f "$BATS_TEST_TMPDIR"/{trace,tracer,status,ran,go,begun}
	touch "$BATS_TEST_TMPDIR/start"
	stopping=(strace -qq -o "$BATS_TEST_TMPDIR/trace" -e trace='fcntl,flock,?clone,?vfork'
		-e inject="$1:signal=SIGSTOP:when=$2")
}

is_stopped() {
	[ -e "$BATS_TEST_TMPDIR/tracer" ] && grep -qs '^--- stopped by SIGSTOP' "$BATS_TEST_TMPDIR/trace"
}

# The process that strace runs.
traced() {
	local tracer
	tracer=$(cat "$BATS_TEST_TMPDIR/tracer")
	tr -d ' ' <"/proc/$tracer/task/$tracer/children"
}

goes_on() {
	kill -CONT "$(traced)"
}

# Has a nested run with these options stop there, under an outer run with $mode; it comes when there
# is the file "start". The outer command ends with it, or when there is the file "go". Sets outer.
nested_stops() {
	"$KEYLOCK" "$mode" key bash -c 'echo >"$0/begun"; until [ -e "$0/start" ]; do sleep 0.01; done
		"$@" & echo $! >"$0/new"; mv "$0/new" "$0/tracer"
		until [ -e "$0/status" ] || [ -e "$0/go" ]; do
			sleep 0.01
			kill -0 $! 2>/dev/null || { wait $!; echo $? >"$0/status"; }
		done' "$BATS_TEST_TMPDIR" "${stopping[@]}" "$KEYLOCK" "$@" key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
	outer=$!
	started "$outer"
	wait_for 20 test -e "$BATS_TEST_TMPDIR/begun"
}

@test "P1 alone: a nested run whose ancestor's file becomes nameless meanwhile does not run by it" {
	local mode call last n stopping outer
	need strace
	for mode in -x -s; do
		for call in fcntl flock; do
			# The last of its calls that takes a lock before its command.
			stop_at "$call" 1000
			"$KEYLOCK" "$mode" key "${stopping[@]}" "$KEYLOCK" -n -r "$mode" key true
			last=$(awk -v call="$call" '/^(clone|vfork)/ { exit }
				$0 ~ "^" call "\\(" { n++ } /F_OFD_SETLK, {l_type=F_RDLCK|LOCK_SH/ { last = n }
				END { print last + 0 }' "$BATS_TEST_TMPDIR/trace")
			echo "$mode, $call: $last"
			[[ $last -gt 0 || $mode$call == -xflock ]]
			for ((n = 1; n <= last; n++)); do
				stop_at "$call" "$n"
				nested_stops -n -r "$mode"
				wait_for 20 is_stopped
				rm "$KEYLOCK_DIR/key"
				hold -n key
				goes_on
				wait_for 20 test -s "$BATS_TEST_TMPDIR/status"
				[ "$(cat "$BATS_TEST_TMPDIR/status")" = 75 ]
				[ ! -e "$BATS_TEST_TMPDIR/ran" ]
				wait "$outer"
				let_go
				[ "$(files)" = 0 ]
			done
		done
	done
}

@test "P4 in turn: a shared nested run whose ancestor has let go meanwhile is in nobody's way" {
	local mode=-s stopping outer waiter
	need strace
	stop_at flock 1
	rm "$BATS_TEST_TMPDIR/start"
	nested_stops -r -s
	"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/waiter" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	touch "$BATS_TEST_TMPDIR/start"
	wait_for 20 is_stopped
	touch "$BATS_TEST_TMPDIR/go"
	wait_for 20 is_dead "$outer"
	goes_on
	wait_for 20 test -e "$BATS_TEST_TMPDIR/waiter"
	wait_for 20 test -e "$BATS_TEST_TMPDIR/ran"
	wait "$waiter"
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

@test "P1 alone: a file whose removal stopped half way stays a guest's who came meanwhile" {
	local n met=0 stopping between=() last='kill -KILL $PPID'
	need strace
	for n in {1..30}; do
		stop_at fcntl "$n"
		"${stopping[@]}" "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/tidier" 3>&- 4>&- &
		echo $! >"$BATS_TEST_TMPDIR/tracer"
		wait_for 20 eval 'is_stopped || is_dead '$!
		is_stopped || break
		# Its command has ended, and it has the gate, which -n goes past.
		if grep -q '^clone\|^vfork' "$BATS_TEST_TMPDIR/trace" &&
			[ "$(sed -nE 's/^lock:.* ([A-Z]+) +ADVISORY +([A-Z]+) .*:[0-9]+ /\1 \2 /p' "/proc/$(traced)"/fdinfo/*)" = 'OFDLCK WRITE 0 0' ]; then
			met=$((met + 1))
			leave_guest -n -o
			guest_host_ends
			wait_for 20 is_dead "$outer"
			goes_on
			wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/tracer")"
			nobody_comes
		else
			goes_on
			wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/tracer")"
		fi
		[ "$(files)" = 0 ]
	done
	[ "$met" -gt 0 ]
}

@test "who gives up its place and queues anew finds out anew whether an ancestor holds" {
	local inner
	hold b
	"$KEYLOCK" a bash -c '"$@" & echo $! >"$0/new"; mv "$0/new" "$0/inner"
		until [ -e "$0/go" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR" "$(probe inherit)" -d \
		"$KEYLOCK" -r -A -k b a sh -c 'echo $$ >"$0/new"; mv "$0/new" "$0/ran"; exec sleep 600' \
		"$BATS_TEST_TMPDIR" 3>&- 4>&- &
	local outer=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/inner"
	inner=$(cat "$BATS_TEST_TMPDIR/inner")
	wait_for 20 has_ticket "$inner"
	# It has a by its ancestor and waits for b.
	kill -TSTP "$inner"
	wait_for 20 in_state "$inner" T
	touch "$BATS_TEST_TMPDIR/go"
	wait "$outer"
	run_keylock -n a true
	expect 0
	kill -CONT "$inner"
	wait_for 20 has_ticket "$inner"
	let_go
	wait_for 20 test -e "$BATS_TEST_TMPDIR/ran"
	# Both are its own now, and so is the record of each.
	[[ -s $KEYLOCK_DIR/a && -s $KEYLOCK_DIR/b ]]
	run_keylock -n a true
	expect 75
	kill "$(cat "$BATS_TEST_TMPDIR/ran")"
	wait_for 20 is_dead "$inner"
	run_keylock -A a true
	expect 76
}

@test "P1 alone: under load no nested run is turned away, and none slips in after its ancestor" {
	local alone
	alone=$(probe alone)
	# Each run is an outer and a nested one; the nested does what must not overlap.
	cat >"$BATS_TEST_TMPDIR/twice" <<-'END'
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
	chmod +x "$BATS_TEST_TMPDIR/twice"
	run_it "$alone" "$BATS_TEST_TMPDIR/witness" 2 6 "$BATS_TEST_TMPDIR/twice" key
	expect 0
	[[ $output =~ ^runs=([0-9]+)\ kills=([0-9]+)\ overlaps=0\ stuck=0$ ]]
	[ "${BASH_REMATCH[1]}" -ge 30 ]
}

# How keylock ends: the command's own status and death, and each failure of keylock's own.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154), the words of a case are split on purpose (SC2086).
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2154
load helper

# A command that leaves a trace when it runs, to prove that it did not.
setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
}

# ended_as HOW KEYLOCK-ARG…: what keylock ends with, "exit N" or "signal N".
ended_as() {
	local how=$1
	shift
	# Whoever started the tests in the background has INT and QUIT ignored.
	run_it ended "$BATS_TEST_TMPDIR/how" env --default-signal "$KEYLOCK" "$@"
	[ "$(cat "$BATS_TEST_TMPDIR/how")" = "$how" ]
}

# fails STATUS TEXT ARG…: that status, one line that has TEXT, and the command has not run.
fails() {
	local status_wanted=$1 text=$2
	shift 2
	run_it "$@"
	expect_message "$status_wanted" "$text"
	[ ! -e "$ran" ]
}

@test "P6 the command's exit status is keylock's, all 256 of them" {
	run_it sh -c 'for n in $(seq 0 255); do
		"$KEYLOCK" job7 sh -c "exit $n"
		got=$?
		[ "$got" = "$n" ] || echo "$n became $got"
	done'
	expect 0
	[[ -z $output && -z $stderr && $(files) == 0 ]]
}

@test "P6 the command's death by a signal is keylock's, without a second core" {
	local signal number
	cd "$BATS_TEST_TMPDIR"
	ulimit -c unlimited 2>/dev/null || :
	for signal in HUP INT QUIT ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM XCPU VTALRM SYS RTMIN; do
		number=$(kill -l "$signal")
		ended_as "signal $number" job7 sh -c "kill -$number \$\$; exit 9"
	done
	[ "$(files)" = 0 ]
	# And a shell's word for a death stays an exit.
	for number in 129 137 143 192 255; do
		ended_as "exit $number" job7 sh -c "exit $number"
	done
}

@test "P6 status and death are the command's with -F, -o, -l, -s, -n, -w, -k and -c as well" {
	local option
	for option in -F -o -l -s -n -w9 -kother; do
		ended_as 'exit 37' "$option" job7 sh -c 'exit 37'
		ended_as 'signal 15' "$option" job7 sh -c 'kill -TERM $$'
	done
	ended_as 'exit 38' job7 -c 'exit 38'
	ended_as 'signal 15' job7 -c 'kill -TERM $$'
}

@test "71: the system has no descriptor, process or timer left" {
	local limit
	need_plain
	# With 10 or fewer the lock cannot get a descriptor of 10 or above.
	for limit in 3 4 5 6 7 8 9 10; do
		fails 71 '' sh -c "ulimit -n $limit; exec \"\$KEYLOCK\" job7 touch '$ran'"
	done
	run_it sh -c "ulimit -n 24; exec \"\$KEYLOCK\" job7 true"
	expect 0
	[ "$(files)" = 0 ]

	# A timer counts as a signal that waits to be delivered. Who need not wait needs none.
	run_it bash -c 'ulimit -i 0; exec "$KEYLOCK" -w 2 job7 true'
	expect 0
	hold job7
	fails 71 'ulimit -i' bash -c 'ulimit -i 0; exec "$KEYLOCK" -w 2 job7 touch "$0"' "$ran"
	let_go

	need_root # to become somebody who has no other process
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	fails 71 '' as_user 61111 bash -c \
		"ulimit -u 1; exec '$public/keylock' -d '$public/dir' job7 touch '$public/dir/ran'"
	[ "$(files "$public/dir")" = 0 ]
}

@test "73: the directory or the lockfile cannot be made" {
	fails 73 "$BATS_TEST_TMPDIR/none/dir" "$KEYLOCK" -d "$BATS_TEST_TMPDIR/none/dir" job7 touch "$ran"
	# Only the last component is made, so not even a part of it is there.
	[ ! -e "$BATS_TEST_TMPDIR/none" ]
	# /proc is a directory that nobody can make a file in, root included.
	fails 73 /proc "$KEYLOCK" -d /proc job7 touch "$ran"
	fails 73 /mnt private_root sh -c 'mount -t tmpfs -o nr_inodes=1 none /mnt &&
		exec "$KEYLOCK" -d /mnt job7 touch "$0"' "$ran"
}

@test "75: the key is taken; -E gives another status, 0 and 255 included" {
	local number
	hold job7
	for number in '' 0 1 77 255; do
		run_keylock -n ${number:+-E "$number"} job7 touch "$ran"
		expect_taken "${number:-75}"
		run_keylock -w 0.02 ${number:+-E "$number"} job7 touch "$ran"
		expect_taken "${number:-75}"
	done
	[ ! -e "$ran" ]
	let_go
	expect 0
	[ "$(files)" = 0 ]
	# It is not for the command's status.
	run_keylock -n -E 3 job7 sh -c 'exit 75'
	expect 75
	run_keylock -n -E 3 job7 true
	expect 0
}

@test "77: the lockfile is a symbolic link" {
	mkdir "$KEYLOCK_DIR"
	ln -s "$BATS_TEST_TMPDIR/target" "$KEYLOCK_DIR/job7"
	fails 77 "$KEYLOCK_DIR" "$KEYLOCK" job7 touch "$ran"
	[ ! -e "$BATS_TEST_TMPDIR/target" ]
}

@test "126: the command cannot be executed; 127: it is not found" {
	local command option
	echo 'echo ran' >"$BATS_TEST_TMPDIR/plain"
	for option in -x -F -o; do
		for command in "$BATS_TEST_TMPDIR/plain" "$BATS_TEST_TMPDIR" /; do
			fails 126 "$command" "$KEYLOCK" "$option" job7 "$command"
		done
		for command in no-such-command-here ./no-such-command "$BATS_TEST_TMPDIR/none" ''; do
			fails 127 "$command" "$KEYLOCK" "$option" job7 "$command"
		done
	done
	fails 127 sh env PATH=/var/empty "$KEYLOCK" job7 sh
	# Not that the command is not found, since it is there.
	printf '#!/no/such/interpreter\n' >"$BATS_TEST_TMPDIR/script"
	chmod +x "$BATS_TEST_TMPDIR/script"
	fails 127 interpreter "$KEYLOCK" job7 "$BATS_TEST_TMPDIR/script"
	[[ $stderr == *"$BATS_TEST_TMPDIR/script"* ]]
	run_keylock -n job7 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "126 and 127 along PATH: what can be executed is found behind what cannot" {
	local path=$BATS_TEST_TMPDIR/first:$BATS_TEST_TMPDIR/second
	mkdir "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/second"
	echo 'exit 3' >"$BATS_TEST_TMPDIR/first/odd-command"
	fails 126 odd-command env PATH="$path" "$KEYLOCK" job7 odd-command
	printf '#!/bin/sh\nexit 4\n' >"$BATS_TEST_TMPDIR/second/odd-command"
	chmod +x "$BATS_TEST_TMPDIR/second/odd-command"
	run_it env PATH="$path" "$KEYLOCK" job7 odd-command
	expect 4
	ln -s endless-link "$BATS_TEST_TMPDIR/first/endless-link"
	fails 126 endless-link env PATH="$path" "$KEYLOCK" job7 endless-link
	run_it env -u PATH "$KEYLOCK" job7 sh -c 'exit 6'
	expect 6
	[ "$(files)" = 0 ]
}

@test "127, not 126, though PATH names a folder that this user may not search" {
	local closed=$BATS_TEST_TMPDIR/closed try=(env "PATH=$BATS_TEST_TMPDIR/closed:/usr/bin:/bin" "$KEYLOCK")
	mkdir -m 000 "$closed"
	if [ "$(id -u)" = 0 ]; then
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		mkdir -m 777 "$public/dir"
		KEYLOCK_DIR=$public/dir/keys
		chmod 700 "$closed"
		try=(as_user 12345:12345 "${try[@]:0:2}" "$public/keylock")
	fi
	fails 127 'no-such-command: command not found' "${try[@]}" job7 no-such-command
	run_it "${try[@]}" job7 sh -c 'exit 5'
	expect 5
	fails 126 'Permission denied' "${try[@]}" job7 "$closed/no-such-command"
}

@test "P6 a script without #! is run by /bin/sh, 126 where that cannot be executed" {
	local option script=$BATS_TEST_TMPDIR/a-script
	printf 'echo "$0" "$#" "$1" "$2"\nexit 9\n' >"$script"
	chmod +x "$script"
	for option in -x -F -o; do
		run_keylock "$option" job7 "$script" 'a b' ''
		expect 9
		[[ $output == "$script 2 a b " && -z $stderr ]]
		run_it env PATH="$BATS_TEST_TMPDIR:$PATH" "$KEYLOCK" "$option" job7 a-script 'a b' ''
		expect 9
		[[ $output == "$script 2 a b " && -z $stderr ]]
	done
	# The script is named, not the shell, which was not asked for.
	fails 126 "$script" private_root bash -c \
		'mount --bind /dev/null "$(readlink -f /bin/sh)" && exec "$KEYLOCK" job7 "$0"' "$script"
	[ "$(files)" = 0 ]
}

@test "126: the arguments are too long for a smaller stack" {
	# The environment grows by KEYLOCK_KEY, which may be the little that is too much. Never
	# may the command be left out without a word.
	local size
	for size in 60000 61000 62000 63000 64000 65000 65500; do
		run_it bash -c 'ulimit -s 512; printf -v key %065000d 0; printf -v long "%0${1}d" 0
			exec env -i KEYLOCK_DIR="$KEYLOCK_DIR" "$KEYLOCK" "$key" /bin/echo "$long"' - "$size"
		case $status in
		0) [ "${#output}" = "$size" ] ;;
		126) [[ -z $output && -n $stderr ]] ;; # from bash, env or keylock, whose arguments grow
		*) false ;;
		esac
	done
	[ "$(files)" = 0 ]
}

@test "P6 5,000 variables in the environment reach the command, though the stack is small" {
	local option
	for option in -x -F; do
		run_it bash -c 'for i in {1..5000}; do vars+=("v$i="); done; ulimit -s 128
			exec env -i "${vars[@]}" KEYLOCK_DIR="$KEYLOCK_DIR" "$KEYLOCK" "$0" job7 env' "$option"
		expect 0
		[ "$(grep -c '^v' "$out")" = 5000 ]
	done
}

@test "what cannot be printed is not answered with 0" {
	local option
	[ -w /dev/full ] || skip 'needs /dev/full'
	for option in --help --version '--path job7'; do
		run_it sh -c 'exec "$KEYLOCK" "$@" >/dev/full' - $option
		[ "$status" -ne 0 ]
		expect_message "$status"
	done
}

@test "P6 a standard error that is closed, full or has no reader changes no status and does not reach the command" {
	local gone='exec 2> >(:); wait $!; exec env --default-signal=PIPE "$KEYLOCK" "$@"' waiter
	hold job7
	for where in '&-' /dev/full; do
		run_it sh -c "exec \"\$KEYLOCK\" -n -v job7 true 2>$where"
		expect 75
		run_it sh -c "exec \"\$KEYLOCK\" -v other sh -c 'exit 8' 2>$where"
		expect 8
	done
	run_it bash -c "$gone" - -v -n job7 true
	expect 75
	run_it bash -c "$gone" - -n job7
	expect 64
	# With -F a SIGPIPE that is still pending would be the command's death.
	bash -c "$gone" - -F -v job7 sh -c 'exit 3' 3>&- 4>&- &
	waiter=$!
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	let_go
	ended_with "$waiter" 3
}

@test "P6 a log that has reached the limit of its size is no signal to the command" {
	local mode waiter
	head -c 5000 /dev/zero >"$BATS_TEST_TMPDIR/log"
	for mode in -x -F; do
		hold job7
		bash -c 'ulimit -f 1; exec 2>>"$0"; exec env --default-signal=XFSZ "$@"' "$BATS_TEST_TMPDIR/log" \
			"$KEYLOCK" "$mode" -v job7 sh -c 'sleep 0.1; exit 8' 3>&- 4>&- &
		waiter=$!
		wait_for 20 blocked "$KEYLOCK_DIR/job7"
		let_go
		ended_with "$waiter" 8
	done
}

# How keylock ends: the command's own status and death, and each failure of keylock's own.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
load helper

# A command that leaves a trace when it runs, to prove that it did not.
setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
}

not_run() {
	[ ! -e "$ran" ] || {
		echo 'the command was run'
		return 1
	}
}

@test "the command's exit status is keylock's, all 256 of them" {
	run_it sh -c 'for n in $(seq 0 255); do
		"$KEYLOCK" job7 sh -c "exit $n"
		got=$?
		[ "$got" = "$n" ] || echo "$n became $got"
	done'
	expect 0
	[ -z "$output" ]
	[ -z "$stderr" ]
	[ "$(files)" = 0 ]
}

@test "the command's death by a signal is keylock's, without a second core" {
	cd "$BATS_TEST_TMPDIR"
	ulimit -c unlimited 2>/dev/null || :
	local signal number ended
	ended=$(probe ended)
	for signal in HUP INT QUIT ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM XCPU VTALRM SYS RTMIN; do
		number=$(kill -l "$signal")
		# Whoever started the tests in the background has INT and QUIT ignored.
		run_it env --default-signal "$ended" how "$KEYLOCK" job7 sh -c "kill -$number \$\$; exit 9"
		expect 0
		[ "$(cat how)" = "signal $number" ]
	done
	[ "$(files)" = 0 ]
}

@test "an exit status above 128 stays an exit status" {
	local number
	for number in 129 137 143 192 255; do
		run_it ended "$BATS_TEST_TMPDIR/how" "$KEYLOCK" job7 sh -c "exit $number"
		[ "$(cat "$BATS_TEST_TMPDIR/how")" = "exit $number" ]
	done
}

@test "status and death are the command's with -F, -o, -l, -s, -n, -w and -c as well" {
	local option
	for option in -F -o -l -s -n -w9; do
		run_keylock "$option" job7 sh -c 'exit 37'
		expect 37
		run_it ended "$BATS_TEST_TMPDIR/how" "$KEYLOCK" "$option" job7 sh -c 'kill -TERM $$'
		[ "$(cat "$BATS_TEST_TMPDIR/how")" = 'signal 15' ]
	done
	run_keylock job7 -c 'exit 38'
	expect 38
	run_it ended "$BATS_TEST_TMPDIR/how" "$KEYLOCK" job7 -c 'kill -TERM $$'
	[ "$(cat "$BATS_TEST_TMPDIR/how")" = 'signal 15' ]
}

@test "64: a fault in the command line" {
	run_keylock
	expect_message 64
	[ ! -e "$KEYLOCK_DIR" ]
}

@test "71: the system has no descriptor left" {
	local limit
	need_plain
	# With 10 or fewer the lock cannot get a descriptor of 10 or above.
	for limit in 3 4 5 6 7 8 9 10; do
		run_it sh -c "ulimit -n $limit; exec \"\$KEYLOCK\" job7 touch '$ran'"
		expect_message 71
		not_run
	done
	run_it sh -c "ulimit -n 24; exec \"\$KEYLOCK\" job7 touch '$ran'"
	expect 0
	[ -e "$ran" ]
	[ "$(files)" = 0 ]
}

@test "71: the system has no process left" {
	need_root # to become somebody who has no other process
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	run_it as_user 61111 bash -c "ulimit -u 1; exec '$public/keylock' -d '$public/dir' job7 touch '$public/dir/ran'"
	expect_message 71
	[ ! -e "$public/dir/ran" ]
	[ "$(files "$public/dir")" = 0 ]
}

@test "73: the directory cannot be made" {
	KEYLOCK_DIR=$BATS_TEST_TMPDIR/none/dir
	run_keylock job7 touch "$ran"
	expect_message 73 "$KEYLOCK_DIR"
	not_run
	# Only the last component is made, so not even a part of it is there.
	[ ! -e "$BATS_TEST_TMPDIR/none" ]
}

@test "73: the lockfile cannot be made" {
	# /proc is a directory that nobody can make a file in, root included.
	KEYLOCK_DIR=/proc
	run_keylock job7 touch "$ran"
	expect_message 73 /proc
	not_run
}

@test "73: no space for the lockfile" {
	run_it private_root sh -c 'mount -t tmpfs -o nr_inodes=1 none /mnt &&
		exec "$KEYLOCK" -d /mnt job7 touch "$0"' "$ran"
	expect_message 73 /mnt
	not_run
}

@test "75: the key is taken, and -n does not wait" {
	hold job7
	run_keylock -n job7 touch "$ran"
	expect_taken 75
	not_run
	let_go
	expect 0
	[ "$(files)" = 0 ]
}

@test "75: the key was not had in time" {
	hold job7
	run_keylock -w 0.05 job7 touch "$ran"
	expect_taken 75
	not_run
	let_go
	expect 0
	[ "$(files)" = 0 ]
}

@test "-E gives the status for a taken key, 0 and 255 included" {
	hold job7
	local number
	for number in 0 1 77 255; do
		run_keylock -n -E "$number" job7 touch "$ran"
		expect_taken "$number"
		run_keylock -w 0.02 -E "$number" job7 touch "$ran"
		expect_taken "$number"
	done
	not_run
	let_go
	# It is not for the command's status.
	run_keylock -n -E 3 job7 sh -c 'exit 75'
	expect 75
	run_keylock -n -E 3 job7 true
	expect 0
}

@test "77: the lockfile is a symbolic link" {
	mkdir "$KEYLOCK_DIR"
	ln -s "$BATS_TEST_TMPDIR/target" "$KEYLOCK_DIR/job7"
	run_keylock job7 touch "$ran"
	expect_message 77 "$KEYLOCK_DIR"
	not_run
	[ ! -e "$BATS_TEST_TMPDIR/target" ]
}

@test "126: the command cannot be executed" {
	local command option
	echo 'echo ran' >"$BATS_TEST_TMPDIR/plain"
	for command in "$BATS_TEST_TMPDIR/plain" "$BATS_TEST_TMPDIR" /; do
		for option in -x -F -o; do
			run_keylock "$option" job7 "$command"
			expect_message 126 "$command"
		done
	done
	run_keylock -n job7 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "126: what PATH has cannot be executed, but a later one that can is found" {
	mkdir "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/second"
	echo 'exit 3' >"$BATS_TEST_TMPDIR/first/odd-command"
	run_it env PATH="$BATS_TEST_TMPDIR/first:$BATS_TEST_TMPDIR/second" "$KEYLOCK" job7 odd-command
	expect_message 126 odd-command
	printf '#!/bin/sh\nexit 4\n' >"$BATS_TEST_TMPDIR/second/odd-command"
	chmod +x "$BATS_TEST_TMPDIR/second/odd-command"
	run_it env PATH="$BATS_TEST_TMPDIR/first:$BATS_TEST_TMPDIR/second" "$KEYLOCK" job7 odd-command
	expect 4
}

@test "126: a command along PATH is a link to itself" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	ln -s endless-link "$BATS_TEST_TMPDIR/bin/endless-link"
	run_it env PATH="$BATS_TEST_TMPDIR/bin:$PATH" "$KEYLOCK" job7 endless-link
	expect_message 126 endless-link
	[ "$(files)" = 0 ]
}

@test "126: a script without #! where /bin/sh cannot be executed" {
	echo "echo ran >'$ran'" >"$BATS_TEST_TMPDIR/script"
	chmod +x "$BATS_TEST_TMPDIR/script"
	run_it private_root bash -c 'mount --bind /dev/null "$(readlink -f /bin/sh)" && exec "$KEYLOCK" job7 "$0"' \
		"$BATS_TEST_TMPDIR/script"
	# The script is named, not the shell, which was not asked for.
	expect_message 126 "$BATS_TEST_TMPDIR/script"
	not_run
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

@test "127, not 126, though PATH names a folder that this user may not search" {
	local closed=$BATS_TEST_TMPDIR/closed try=()
	mkdir -m 700 "$closed"
	if [ "$(id -u)" = 0 ]; then
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		mkdir -m 777 "$public/dir"
		KEYLOCK_DIR=$public/dir/keys
		try=(as_user 12345:12345 env PATH="$closed:/usr/bin:/bin" "$public/keylock")
	else
		chmod 000 "$closed"
		try=(env PATH="$closed:/usr/bin:/bin" "$KEYLOCK")
	fi
	run_it "${try[@]}" job7 no-such-command
	expect_message 127 'no-such-command: command not found'
	run_it "${try[@]}" job7 sh -c 'exit 5'
	expect 5
	run_it "${try[@]}" job7 "$closed/no-such-command"
	expect_message 126 'Permission denied'
}

@test "127: the command is not found" {
	local command option
	for command in no-such-command-here ./no-such-command "$BATS_TEST_TMPDIR/none"; do
		for option in -x -F -o; do
			run_keylock "$option" job7 "$command"
			expect_message 127 "$command"
		done
	done
	run_keylock job7 ''
	expect_message 127
	run_it env PATH=/var/empty "$KEYLOCK" job7 sh
	expect_message 127 sh
	run_keylock -n job7 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "127: the interpreter that a script names is not found" {
	printf '#!/no/such/interpreter\n' >"$BATS_TEST_TMPDIR/script"
	chmod +x "$BATS_TEST_TMPDIR/script"
	run_keylock job7 "$BATS_TEST_TMPDIR/script"
	# Not that the command is not found, since it is there.
	expect_message 127 "$BATS_TEST_TMPDIR/script" interpreter
	[ "$(files)" = 0 ]
}

@test "a script without #! is run by /bin/sh" {
	echo 'echo "script $1 $2"; exit 5' >"$BATS_TEST_TMPDIR/script"
	chmod +x "$BATS_TEST_TMPDIR/script"
	local option
	for option in -x -F -o; do
		run_keylock "$option" job7 "$BATS_TEST_TMPDIR/script" 'a b' c
		expect 5
		[ "$output" = 'script a b c' ]
		run_it env PATH="$BATS_TEST_TMPDIR:$PATH" "$KEYLOCK" "$option" job7 script 1 2
		expect 5
		[ "$output" = 'script 1 2' ]
	done
}

@test "without PATH a command is found where the system has its own" {
	run_it env -u PATH "$KEYLOCK" job7 sh -c 'exit 6'
	expect 6
}

@test "what cannot be printed is not answered with 0" {
	local option
	[ -w /dev/full ] || skip 'needs /dev/full'
	for option in --help --version '--path job7'; do
		# shellcheck disable=SC2086
		run_it sh -c 'exec "$KEYLOCK" "$@" >/dev/full' - $option
		[ "$status" -ne 0 ]
		expect_message "$status"
	done
}

@test "a closed or full standard error changes no status" {
	hold job7
	run_it sh -c 'exec "$KEYLOCK" -n job7 true 2>&-'
	expect 75
	run_it sh -c 'exec "$KEYLOCK" -n job7 true 2>/dev/full'
	expect 75
	run_it sh -c 'exec "$KEYLOCK" -v other sh -c "exit 8" 2>/dev/full'
	expect 8
}

@test "a standard error that nobody reads any more changes no status and does not reach the command" {
	local gone='exec 2> >(:); wait $!; exec env --default-signal=PIPE "$KEYLOCK" "$@"' waiter
	hold job7
	run_it bash -c "$gone" - -v -n job7 true
	expect 75
	run_it bash -c "$gone" - -n job7
	expect 64
	# With -F a SIGPIPE that is still pending would be the command's death.
	bash -c "$gone" - -F -v job7 sh -c 'exit 3' 3>&- 4>&- &
	waiter=$!
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	let_go
	status=0
	wait "$waiter" || status=$?
	expect 3
}

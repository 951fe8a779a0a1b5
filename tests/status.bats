# How keylock ends: with the command's own status and death, else 126 and 127; -E. What the system
# refuses is in refused.bats.

load helper

# ended_as HOW KEYLOCK-ARG…: what keylock ends with, "exit N" or "signal N".
ended_as() {
	run_it "$tools/ended.py" "$work/how" "$KEYLOCK" "${@:2}"
	[ "$(cat "$work/how")" = "$1" ]
}

# executable FILE TEXT
executable() {
	printf "$2" >"$1"
	chmod +x "$1"
}

@test "P6 the command's exit status is keylock's, all 256 of them" {
	it_gives 0 sh -c 'for n in $(seq 0 255); do
		"$KEYLOCK" job7 sh -c "exit $n"
		got=$?
		[ "$got" = "$n" ] || echo "$n became $got"
	done'
	[[ -z $output && -z $stderr && $(files) == 0 ]]
}

@test "P6 the command's death by a signal is keylock's, without a second core" {
	cd "$work"
	ulimit -c unlimited 2>/dev/null || :
	for signal in HUP INT QUIT ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM XCPU VTALRM SYS \
		RTMIN; do
		number=$(kill -l "$signal")
		ended_as "signal $number" job7 sh -c "kill -$number \$\$; exit 9"
	done
	for number in 129 137 143 192 255; do
		ended_as "exit $number" job7 sh -c "exit $number"
	done
}

@test "P6 status and death are the command's with each option that goes with one" {
	for option in -F -o -l -s -n -w9 -kother -j2 -A -R -r -v -E3; do
		ended_as 'exit 75' "$option" job7 sh -c 'exit 75'
		ended_as 'signal 15' "$option" job7 sh -c 'kill -TERM $$'
	done
	ended_as 'exit 38' job7 -c 'exit 38'
	ended_as 'signal 15' job7 -c 'kill -TERM $$'
}

@test "126: the command cannot be executed; 127: it is not found" {
	path=$work
	echo 'echo ran' >"$path/plain"
	for option in -x -F -o; do
		for command in "$path/plain" "$path" /; do
			fails 126 "$command" "$option" job7 "$command"
		done
		for command in no-such-command-here ./no-such-command "$path/none" ''; do
			fails 127 "$command" "$option" job7 "$command"
		done
	done
	executable "$path/script" '#!/no/such/interpreter\n'
	fails 127 interpreter job7 "$path/script"
	[[ $stderr == *"$path/script"* ]]
}

@test "126 and 127 along PATH: what can be executed is found behind what cannot" {
	one=$work/one two=$work/two
	try=(env "PATH=$work/one:$work/two" "$KEYLOCK" job7)
	mkdir "$one" "$two"
	echo 'exit 3' >"$one/odd-command"
	it_fails 126 odd-command "${try[@]}" odd-command
	executable "$two/odd-command" '#!/bin/sh\nexit 4\n'
	it_gives 4 "${try[@]}" odd-command
	ln -s endless-link "$one/endless-link"
	it_fails 126 endless-link "${try[@]}" endless-link
	it_fails 127 sh "${try[@]}" sh
	it_gives 6 env -u PATH "$KEYLOCK" job7 sh -c 'exit 6'
}

@test "127, not 126, though PATH names a folder that this user may not search" {
	closed=$work/closed
	try=(env "PATH=$closed:/usr/bin:/bin" "$KEYLOCK" job7)
	mkdir -m 000 "$closed"
	if [ "$(id -u)" = 0 ]; then
		public_keylock
		chmod 700 "$closed"
		try=(as_user 12345:12345 "${try[@]:0:2}" "$public/keylock" job7)
	fi
	it_fails 127 'no-such-command: command not found' "${try[@]}" no-such-command
	it_gives 5 "${try[@]}" sh -c 'exit 5'
	it_fails 126 'Permission denied' "${try[@]}" "$closed/no-such-command"
}

@test "P6 a script without #! is run by /bin/sh, 126 where that cannot be executed" {
	script=$work/a-script
	executable "$script" 'echo "$0" "$#" "$1" "$2"\nexit 9\n'
	for option in -x -F -o; do
		for name in "$script" a-script; do
			PATH=$work:$PATH run_keylock "$option" job7 "$name" 'a b' ''
			expect 9
			[[ $output == "$script 2 a b " && -z $stderr ]]
		done
	done
	# The script is named, not the shell, which was not asked for.
	it_fails 126 "$script" private_root bash -c \
		'mount --bind /dev/null "$(realpath /bin/sh)"; exec "$KEYLOCK" job7 "$0"' "$script"
}

@test "P6 on a small stack the command runs with a large environment, or one line says why not" {
	for option in -F -x; do
		it_gives 0 bash -c 'for i in {1..5000}; do vars+=("v$i="); done; ulimit -s 128
			exec env -i "${vars[@]}" "$KEYLOCK" -d "$KEYLOCK_DIR" "$0" x env' "$option"
		[ "$(grep -c '^v' "$out")" = 5000 ]
	done
	# The environment grows by KEYLOCK_KEY, which may be the little that is too much.
	for size in 60000 61000 62000 63000 64000 65000 65500; do
		run_it bash -c 'ulimit -s 512; printf -v key %065000d 0; printf -v long "%0${1}d" 0
			exec env -i "$KEYLOCK" -d "$KEYLOCK_DIR" "$key" /bin/echo "$long"' - "$size"
		case $status in
		0) [ "${#output}" = "$size" ] ;;
		126) [[ -z $output && -n $stderr ]] ;; # from bash, env or keylock
		*) false ;;
		esac
	done
}

@test "P6 a standard error that is closed, full or has no reader changes no status and no command" {
	log=$work/log
	gone='exec 2> >(:); wait $!; exec env --default-signal=PIPE "$KEYLOCK" "$@"'
	limited='ulimit -f 1; exec 2>>"$0"; exec env --default-signal=XFSZ "$KEYLOCK" "$@"'
	hold job7
	for where in '&-' /dev/full; do
		it_gives 75 sh -c "exec \"\$KEYLOCK\" -n -v job7 true 2>$where"
		it_gives 8 sh -c "exec \"\$KEYLOCK\" -v other sh -c 'exit 8' 2>$where"
	done
	it_gives 75 bash -c "$gone" - -v -n job7 true
	it_gives 64 bash -c "$gone" - -n job7
	let_go
	# With -F a SIGPIPE that is still pending would be the command's death, as would be the
	# SIGXFSZ of a log that has reached the limit of its size.
	head -c 5000 /dev/zero >"$log"
	for words in -x -F; do
		for where in "$gone" "$limited"; do
			hold job7
			bash -c "$where" "$log" "$words" -v job7 \
				sh -c 'sleep 0.1; exit 3' 3>&- 4>&- &
			waiter=$!
			wait_for 20 blocked "$KEYLOCK_DIR/job7"
			let_go
			ended_with "$waiter" 3
			free job7
		done
	done
}

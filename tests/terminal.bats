#!/usr/bin/env bats
# Job control and the keys of a real terminal.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

setup() {
	keylock_setup
	cd "$BATS_TEST_TMPDIR" || return
	# A command that writes its pid to NAME.run and ends with status 9 when it is told to go. It
	# does not fork while it waits: a shell cannot stop while its child is stopped before its exec.
	cat >job <<-'END'
		mkfifo $1.go
		exec 8<>$1.go
		echo $$ >$1.new
		mv $1.new $1.run
		read -r _ <&8
		exit 9
	END
}

teardown() {
	show_screen
	keylock_teardown
}

# Waits until job NAME runs; sets command, its pid, and keylock.
job_runs() {
	wait_for 20 test -e "$1.run"
	command=$(cat "$1.run")
	keylock=$(parent "$command")
}

# Ends job NAME.
go() {
	echo 1<>"$1.go"
}

both_in_state() {
	wait_for 20 in_state "$keylock" "$1"
	wait_for 20 in_state "$command" "$1"
}

# The shell wrote this status to the file.
wrote() {
	wait_for 20 test -s "$1"
	[ "$(cat "$1")" = "$2" ] || {
		echo "$1 says $(cat "$1"), not $2"
		return 1
	}
}

# The last child of the shell in the terminal that is a keylock.
waiter_of_shell() {
	local pid
	for pid in $(<"/proc/$pane/task/$pane/children"); do
		has_ticket "$pid" || continue
		waiter=$pid
		return 0
	done
	return 1
}

@test "Ctrl-Z, fg and bg work on a running command" {
	terminal_shell
	type_line '"$KEYLOCK" key sh job a; echo $? >stopped'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-z
	both_in_state T
	# keylock stopped by the same signal, TSTP.
	wrote stopped 148
	wait_for 20 at_prompt
	run_keylock -n key true
	expect 75

	type_line bg
	both_in_state SRD
	wait_for 20 at_prompt
	type_line 'fg; echo $? >stopped2'
	wait_for 20 in_front "$keylock"
	press C-z
	both_in_state T
	wrote stopped2 148

	wait_for 20 at_prompt
	type_line 'fg; echo $? >ended'
	both_in_state SRD
	wait_for 20 in_front "$keylock"
	go a
	wrote ended 9
	[ "$(files)" = 0 ]
}

@test "fg and bg work on a command that stops itself" {
	terminal_shell
	local signal number
	for signal in STOP TSTP; do
		# keylock stops by what the kernel ignores where no shell would continue it.
		number=$(kill -l TSTP)
		type_line '"$KEYLOCK" key sh -c "kill -'"$signal"' \$\$; . ./job '"$signal"'" job '"$signal"'; echo $? >stopped.'"$signal"
		wrote "stopped.$signal" $((128 + number))
		wait_for 20 at_prompt
		[ ! -e "$signal.run" ]
		if [ "$signal" = STOP ]; then
			type_line 'fg; echo $? >ended.'"$signal"
		else
			type_line 'bg; wait %1; echo $? >ended.'"$signal"
		fi
		job_runs "$signal"
		go "$signal"
		wrote "ended.$signal" 9
		wait_for 20 at_prompt
	done
	[ "$(files)" = 0 ]
}

@test "a background command that reads the terminal stops, fg lets it read" {
	terminal_shell
	type_line '"$KEYLOCK" key sh -c "echo \$\$ >r.new; mv r.new r.run; read -r word; echo \$word >word" &'
	job_runs r
	both_in_state T
	wait_for 20 at_prompt
	type_line fg
	wait_for 20 in_front "$keylock"
	type_line hello
	wrote word hello
	wait_for 20 at_prompt
	[ "$(files)" = 0 ]
}

@test "one Ctrl-C is one SIGINT to the command" {
	local i expected
	# A shell without job control: it does not mind a keylock that is stopped for a moment.
	terminal sh -c 'trap : INT QUIT WINCH; "$KEYLOCK" key "$1" "$2/log"; echo $? >"$2/ended"' sh \
		"$(probe recorder)" "$BATS_TEST_TMPDIR"
	wait_for 20 has_lines 1 log
	read -r _ command <log
	keylock=$(parent "$command")
	for i in {1..5}; do
		# Two signals that meet become one, and nobody could tell: so keylock comes late.
		kill -STOP "$keylock"
		wait_for 20 in_state "$keylock" T
		press C-c
		wait_for 20 grep -q "^2 " log
		press C-\\
		wait_for 20 grep -q "^3 " log
		tm resize-window -x $((100 + i))
		wait_for 20 grep -q "^28 " log
		kill -CONT "$keylock"
		wait_for 20 grep -q "^18 " log
		# keylock takes the lowest first: what it passes on would be there before this one.
		kill -SYS "$keylock"
		wait_for 20 grep -q "^31 " log
		expected=$'2 kernel\n3 kernel\n28 kernel\n18 process\n31 process'
		diff - <(sed 1d log) <<<"$expected"
		echo "ready $command" >log
	done
	kill -RTMAX "$command"
	wrote ended 7
	[ "$(files)" = 0 ]
}

@test "Ctrl-C breaks a shell's loop around keylock" {
	terminal_shell
	type_line 'for i in 1 2 3; do echo $i >>loops; "$KEYLOCK" key sh job a; done'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-c
	wait_for 20 at_prompt
	type_line 'echo $? >ended'
	wrote ended 130
	[ "$(cat loops)" = 1 ]

	# A script's loop, too.
	rm a.run a.go
	type_line 'bash -c '\''for i in 1 2 3; do echo $i >>loops2; "$KEYLOCK" key sh job a; done'\'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-c
	wait_for 20 at_prompt
	type_line 'echo $? >ended2'
	wrote ended2 130
	[ "$(cat loops2)" = 1 ]
	[ "$(files)" = 0 ]
}

@test "Ctrl-C breaks a shell's loop around a waiting keylock" {
	terminal_shell
	hold key
	type_line 'for i in 1 2 3; do echo $i >>loops; "$KEYLOCK" key sh job a; done'
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
	press C-c
	wait_for 20 is_dead "$waiter"
	wait_for 20 at_prompt
	type_line 'echo $? >ended'
	wrote ended 130
	[ "$(cat loops)" = 1 ]
	let_go
	[ ! -e a.run ]
	[ "$(files)" = 0 ]
}

@test "the window is closed with keylock as session leader: the command gets one SIGHUP" {
	local recorder
	recorder=$(probe recorder)
	terminal "$KEYLOCK" key "$recorder" "$BATS_TEST_TMPDIR/log"
	wait_for 20 has_lines 1 log
	read -r _ command <log
	keylock=$pane
	[ "$(parent "$command")" = "$keylock" ]
	close_window
	wait_for 20 grep -q '^1 ' log
	in_state "$keylock" RSD
	run_keylock -n key true
	expect 75
	kill -TERM "$keylock"
	wait_for 20 grep -q '^15 ' log
	[ "$(grep -c '^1 ' log)" = 1 ]
	kill -RTMAX "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

@test "the window is closed with keylock as session leader: the command ends" {
	terminal "$KEYLOCK" key sh "$BATS_TEST_TMPDIR/job" "$BATS_TEST_TMPDIR/a"
	job_runs a
	[ "$keylock" = "$pane" ]
	close_window
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

@test "the window is closed with a waiting keylock as session leader: it leaves the line" {
	hold key
	terminal "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
	wait_for 20 has_ticket "$pane"
	close_window
	wait_for 20 is_dead "$pane"
	let_go
	[ ! -e ran ]
	[ "$(files)" = 0 ]
}

@test "the window of a shell with a running keylock is closed: the command ends" {
	terminal_shell
	type_line '"$KEYLOCK" key sh job a'
	job_runs a
	close_window
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

@test "Ctrl-Z on a waiter: those behind it go on, after fg it is served in its new turn" {
	local first second third
	# Who is served writes its name to order.
	terminal_shell
	hold key
	first=$holder
	type_line '"$KEYLOCK" key sh -c "echo stopped >>order; exit 9"; echo $? >status'
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
	"$KEYLOCK" key sh -c 'echo second >>order; exec sh job second' 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"

	press C-z
	wait_for 20 in_state "$waiter" T
	# By TSTP's default action.
	wrote status 148
	wait_for 20 at_prompt
	[ -z "$(ticket "$waiter")" ]
	let_go "$first"
	wait_for 20 test -e second.run
	[ "$(cat order)" = second ]

	# It came before third, and comes after it now.
	"$KEYLOCK" key sh -c 'echo third >>order' 3>&- 4>&- &
	third=$!
	wait_for 20 has_ticket "$third"
	in_state "$waiter" T
	type_line 'fg; echo $? >status2'
	wait_for 20 has_ticket "$waiter"
	"$KEYLOCK" key sh -c 'echo fourth >>order' 3>&- 4>&- &
	local fourth=$!
	wait_for 20 has_ticket "$fourth"
	go second
	wrote status2 9
	status=0
	wait "$second" || status=$?
	expect 9
	wait "$third"
	wait "$fourth"
	[ "$(paste -sd ' ' order)" = 'second third stopped fourth' ]
	[ "$(files)" = 0 ]
}

@test "Ctrl-Z on the only waiter: the key is as if it were not there" {
	local first
	terminal_shell
	hold key
	first=$holder
	type_line '"$KEYLOCK" -w 100 key sh job a; echo $? >status'
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
	press C-z
	wrote status 148
	let_go "$first"
	[ "$(files)" = 0 ]
	run_keylock -n key true
	expect 0
	wait_for 20 at_prompt
	type_line 'fg; echo $? >status2'
	job_runs a
	[ "$keylock" = "$waiter" ]
	run_keylock -n key true
	expect 75
	go a
	wrote status2 9
	[ "$(files)" = 0 ]
}

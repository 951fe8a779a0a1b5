#!/usr/bin/env bats
# Job control and the keys of a real terminal.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

setup() {
	keylock_setup
	cd "$BATS_TEST_TMPDIR" || return
	# A command that writes its pid to NAME.run and ends with status 9 when it is told to go. It has
	# no child from then on: a shell puts off a Ctrl-C until its child has ended, and cannot stop
	# while its child is stopped before its exec.
	cat >job <<-'END'
		mkfifo $1.go
		exec 8<>$1.go
		echo $$ >$1.run
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
	wait_for 20 test -s "$1.run"
	command=$(cat "$1.run")
	keylock=$("$KEYLOCK" --who key)
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

# The shell has its prompt again, and says STATUS of what it ran last.
says() {
	wait_for 20 at_prompt
	rm -f said
	type_line 'echo $? >said'
	wrote said "$1"
}

taken() {
	run_keylock -n key true
	expect 75
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

@test "P6 Ctrl-Z, fg and bg work on a running command" {
	terminal_shell
	type_line '"$KEYLOCK" key sh job a; echo $? >stopped'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-z
	both_in_state T
	# keylock stopped by the same signal, TSTP.
	wrote stopped 148
	wait_for 20 at_prompt
	taken

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

@test "P6 a command that stops itself, or reads in the background, stops keylock, fg and bg go on" {
	local how
	terminal_shell
	for how in fg bg; do
		type_line '"$KEYLOCK" key sh -c "kill -TSTP \$\$; . ./job '$how'" job '$how'; echo $? >stopped.'$how
		wrote "stopped.$how" 148
		wait_for 20 at_prompt
		[ ! -e "$how.run" ]
		case $how in
		fg) type_line 'fg; echo $? >ended.fg' ;;
		bg) type_line 'bg; wait %1; echo $? >ended.bg' ;;
		esac
		job_runs "$how"
		go "$how"
		wrote "ended.$how" 9
		wait_for 20 at_prompt
	done
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

@test "P6 one Ctrl-C is one SIGINT to the command" {
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

@test "P6 one Ctrl-C is one SIGINT, too, where keylock has not yet seen that the command runs" {
	need strace
	terminal sh -c 'trap : INT; strace -DD -qq -o "$2/trace" -e trace=clone,vfork \
		-e inject=clone,vfork:delay_exit=2000000 "$KEYLOCK" key "$1" "$2/log"; echo $? >"$2/ended"' sh \
		"$(probe recorder)" "$BATS_TEST_TMPDIR"
	wait_for 20 has_lines 1 log
	read -r _ command <log
	press C-c
	wait_for 20 grep -q "^2 " log
	# What comes by way of keylock comes behind the delay, and the lower number first.
	kill -SYS "$(parent "$command")"
	wait_for 20 grep -q "^31 " log
	[ "$(grep -c '^2 ' log)" = 1 ]
	kill -RTMAX "$command"
	wrote ended 7
}

@test "P6 Ctrl-C breaks a loop around keylock, of a shell, a script, and while it waits" {
	terminal_shell
	type_line 'for i in 1 2 3; do echo $i >>loops; "$KEYLOCK" key sh job a; done'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-c
	says 130
	[ "$(cat loops)" = 1 ]

	rm a.run a.go
	type_line 'bash -c '\''for i in 1 2 3; do echo $i >>loops2; "$KEYLOCK" key sh job a; done'\'
	job_runs a
	wait_for 20 in_front "$keylock"
	press C-c
	says 130
	[ "$(cat loops2)" = 1 ]
	[ "$(files)" = 0 ]

	rm a.run a.go
	hold key
	type_line 'for i in 1 2 3; do echo $i >>loops3; "$KEYLOCK" key sh job a; done'
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
	press C-c
	wait_for 20 is_dead "$waiter"
	says 130
	[ "$(cat loops3)" = 1 ]
	let_go
	[ ! -e a.run ]
	[ "$(files)" = 0 ]
}

# In a process group of its own the command gets nothing of the terminal's but by way of keylock.
@test "P6 Ctrl-C and Ctrl-\\ end a command in a process group of its own, Ctrl-Z stops it" {
	local name=0 key wrapper wrappers=('timeout 100 sh job' 'setsid sh job' 'setsid -w sh job')
	terminal_shell
	for wrapper in "${wrappers[@]}"; do
		for key in C-c C-\\; do
			name=$((name + 1))
			type_line "\"\$KEYLOCK\" key $wrapper $name"
			job_runs "$name"
			press "$key"
			wait_for 20 is_dead "$command"
			case $key in
			C-c) says 130 ;;
			*) says 131 ;;
			esac
			[ "$(files)" = 0 ]
		done
	done

	type_line '"$KEYLOCK" key timeout 100 sh job z; echo $? >stopped'
	job_runs z
	press C-z
	wrote stopped 148
	both_in_state T
	wait_for 20 at_prompt
	taken
	type_line 'fg; echo $? >stopped2'
	both_in_state SRD
	wait_for 20 in_front "$keylock"
	press C-z
	wrote stopped2 148
	wait_for 20 at_prompt
	type_line 'bg; wait %1; echo $? >ended'
	both_in_state SRD
	go z
	wrote ended 9
	wait_for 20 at_prompt

	# Who has left the session cannot be stopped so (setsid(1)), but ended.
	type_line '"$KEYLOCK" key setsid sh job s'
	job_runs s
	press C-z
	press C-c
	says 130
	[ "$(files)" = 0 ]
}

@test "P6 Ctrl-C ends a command that has a terminal of its own, or is a shell with job control" {
	need script
	terminal_shell
	# $SHELL runs the command there, and may be nologin(8). The status is script's word, not keylock's:
	# it need not have its child's when the terminal's other end closes first.
	type_line 'SHELL=/bin/sh "$KEYLOCK" key script -qec "sh job t" /dev/null'
	job_runs t
	press C-c
	wait_for 20 is_dead "$keylock"
	is_dead "$command"
	close_window
	# From a shell that does not move the terminal's foreground itself.
	terminal sh -c '"$KEYLOCK" key bash --norc -ic "sh job i"; echo $? >ended'
	job_runs i
	wait_for 20 in_front "$command"
	press C-c
	wrote ended 130
	[ "$(files)" = 0 ]
}

@test "P6 the window is closed with keylock as session leader: the command gets one SIGHUP, and ends" {
	terminal "$KEYLOCK" key "$(probe recorder)" "$BATS_TEST_TMPDIR/log"
	wait_for 20 has_lines 1 log
	read -r _ command <log
	keylock=$pane
	[ "$(parent "$command")" = "$keylock" ]
	close_window
	wait_for 20 grep -q '^1 ' log
	in_state "$keylock" RSD
	taken
	kill -TERM "$keylock"
	wait_for 20 grep -q '^15 ' log
	[ "$(grep -c '^1 ' log)" = 1 ]
	kill -RTMAX "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]

	terminal "$KEYLOCK" key sh "$BATS_TEST_TMPDIR/job" "$BATS_TEST_TMPDIR/a"
	job_runs a
	[ "$keylock" = "$pane" ]
	close_window
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

@test "P9 the window is closed with a waiting keylock as session leader: it leaves the line" {
	hold key
	terminal "$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran"
	wait_for 20 has_ticket "$pane"
	close_window
	wait_for 20 is_dead "$pane"
	let_go
	[ ! -e ran ]
	[ "$(files)" = 0 ]
}

@test "P6 the window of a shell with a running keylock is closed: the command ends" {
	terminal_shell
	type_line '"$KEYLOCK" key sh job a'
	job_runs a
	close_window
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

@test "P4 Ctrl-Z on a waiter: those behind it go on, after fg it is served in its new turn" {
	local first second third fourth
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
	order_is second

	# It came before third, and comes after it now.
	"$KEYLOCK" key sh -c 'echo third >>order' 3>&- 4>&- &
	third=$!
	wait_for 20 has_ticket "$third"
	in_state "$waiter" T
	type_line 'fg; echo $? >status2'
	wait_for 20 has_ticket "$waiter"
	"$KEYLOCK" key sh -c 'echo fourth >>order' 3>&- 4>&- &
	fourth=$!
	wait_for 20 has_ticket "$fourth"
	go second
	wrote status2 9
	ended_with "$second" 9
	wait "$third"
	wait "$fourth"
	order_is 'second third stopped fourth'
	[ "$(files)" = 0 ]
}

@test "P3 Ctrl-Z on the only waiter: the key is as if it were not there" {
	terminal_shell
	hold key
	type_line '"$KEYLOCK" -w 100 key sh job a; echo $? >status'
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
	press C-z
	wrote status 148
	let_go
	[ "$(files)" = 0 ]
	run_keylock -n key true
	expect 0
	wait_for 20 at_prompt
	type_line 'fg; echo $? >status2'
	job_runs a
	[ "$keylock" = "$waiter" ]
	taken
	go a
	wrote status2 9
	[ "$(files)" = 0 ]
}

@test "P6 --hold in the background stops when something is typed, as any reader does, and keeps the key" {
	terminal_shell
	type_line '"$KEYLOCK" --hold key & true'
	wait_for 20 test -e "$KEYLOCK_DIR/key"
	wait_for 20 eval '"$KEYLOCK" --who key >who'
	keylock=$(cat who)
	type_line 'true >typed'
	wait_for 20 test -e typed
	wait_for 20 in_state "$keylock" T
	taken
	type_line 'fg; echo $? >ended'
	wait_for 20 in_front "$keylock"
	taken
	press C-d
	wrote ended 0
	[ "$(files)" = 0 ]
}

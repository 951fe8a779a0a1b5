# Job control and the keys of a real terminal.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

setup() {
	keylock_setup
	cd "$work" || return
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

# type_job NAME COMMAND: types COMMAND under the key, as job NAME.
type_job() {
	rm -f "$1".*
	type_line "\"\$KEYLOCK\" key $2 $1"
	job_runs "$1"
}

# Ends job NAME.
go() {
	echo 1<>"$1.go"
}

both_in_state() {
	wait_for 20 in_state "$keylock" "$1"
	wait_for 20 in_state "$command" "$1"
}

# The shell has its prompt again, and says STATUS of what it ran last.
says() {
	wait_for 20 at_prompt
	rm -f said
	type_line 'echo $? >said'
	wait_for 20 test -s said
	[ "$(cat said)" = "$1" ] || {
		echo "said $(cat said), not $1"
		return 1
	}
}

taken() {
	gives 75 -n key true
}

both_ended() {
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
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

waits_in_front() {
	wait_for 20 waiter_of_shell
	wait_for 20 in_front "$waiter"
}

@test "P6 Ctrl-Z, fg and bg work on a running command, in a process group of its own, too" {
	terminal_shell
	for wrapper in '' 'timeout 100'; do
		type_job a "$wrapper sh job"
		wait_for 20 eval 'in_front "$keylock" || in_front "$command"'
		press C-z
		# keylock stopped by the same signal, TSTP.
		both_in_state T
		says 148
		taken
		type_line bg
		both_in_state SRD
		wait_for 20 at_prompt
		type_line fg
		wait_for 20 in_front "$keylock"
		press C-z
		both_in_state T
		says 148
		type_line fg
		both_in_state SRD
		wait_for 20 in_front "$keylock"
		go a
		says 9
		[ "$(files)" = 0 ]
	done
}

@test "P6 a command that stops itself, or reads in the background, stops keylock, fg and bg go on" {
	terminal_shell
	for how in TSTP TTIN TTOU; do
		type_line '"$KEYLOCK" key sh -c "kill -'$how' \$\$; . ./job '$how'" job '$how''
		says $((128 + $(kill -l "$how")))
		[ ! -e "$how.run" ]
		taken
		case $how in
		TSTP) type_line fg ;;
		*) type_line 'bg; wait %1' ;;
		esac
		job_runs "$how"
		go "$how"
		says 9
	done
	type_line '"$KEYLOCK" key sh -c "echo \$\$ >r.run; read -r word; echo \$word >word" &'
	job_runs r
	both_in_state T
	wait_for 20 at_prompt
	type_line fg
	wait_for 20 in_front "$keylock"
	type_line hello
	wait_for 20 grep -q hello word
	both_ended
}

# Starts keylock with the recorder (see recorder.c) in a terminal, by a shell without job control: it does
# not mind a keylock that is stopped for a moment. Sets command and keylock.
start_recorder() {
	terminal sh -c 'trap : INT QUIT WINCH; '"$1"' "$KEYLOCK" key "$1" "$2/log"; echo $? >"$2/said"' sh \
		"$(probe recorder)" "$work"
	wait_for 20 has_lines 1 log
	read -r _ command <log
	keylock=$(parent "$command")
}

@test "P6 one Ctrl-C is one SIGINT to the command" {
	start_recorder ''
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
	wait_for 20 grep -qx 7 said
	[ "$(files)" = 0 ]
}

@test "P6 one Ctrl-C is one SIGINT, too, where keylock has not yet seen that the command runs" {
	need strace
	start_recorder "strace -DD -qq -o trace -e trace=clone,vfork -e inject=clone,vfork:delay_exit=2000000"
	press C-c
	wait_for 20 grep -q "^2 " log
	# What comes by way of keylock comes behind the delay, and the lower number first.
	kill -SYS "$keylock"
	wait_for 20 grep -q "^31 " log
	[ "$(grep -c '^2 ' log)" = 1 ]
	kill -RTMAX "$command"
	wait_for 20 grep -qx 7 said
}

@test "P6 Ctrl-C breaks a loop around keylock, of a shell, a script, and while it waits" {
	loop='for i in 1 2 3; do echo $i >>loops; "$KEYLOCK" key sh job a; done'
	terminal_shell
	echo "$loop; exit 9" >script
	for how in shell script waiting; do
		rm -f a.* loops
		[ $how != waiting ] || hold key
		case $how in
		script) type_line 'bash script' ;;
		*) type_line "$loop" ;;
		esac
		if [ $how = waiting ]; then
			waits_in_front
			keylock=$waiter command=$waiter
		else
			job_runs a
			wait_for 20 in_front "$keylock"
		fi
		press C-c
		wait_for 20 is_dead "$keylock"
		says 130
		[ "$(cat loops)" = 1 ]
		[ $how != waiting ] || let_go
		both_ended
	done
	[ ! -e a.run ]
}

# In a process group of its own the command gets nothing of the terminal's but by way of keylock.
@test "P6 Ctrl-C and Ctrl-\\ end a command in a process group of its own" {
	terminal_shell
	for wrapper in 'timeout 100' setsid 'setsid -w'; do
		type_job a "$wrapper sh job"
		press C-c
		both_ended
		says 130
		type_job a "$wrapper sh job"
		press C-\\
		both_ended
		says 131
	done
	# Who has left the session cannot be stopped so (setsid(1)), but ended.
	type_job a 'setsid sh job'
	press C-z
	press C-c
	both_ended
	says 130
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
	wait_for 20 grep -qx 130 ended
	[ "$(files)" = 0 ]
}

@test "P6 the window is closed, with keylock or a shell as session leader: the command gets one SIGHUP, and ends" {
	terminal "$KEYLOCK" key "$(probe recorder)" "$work/log"
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
	both_ended

	terminal "$KEYLOCK" key sh job a
	job_runs a
	[ "$keylock" = "$pane" ]
	close_window
	both_ended

	terminal_shell
	type_job b 'sh job'
	close_window
	both_ended
}

@test "P9 the window is closed with a waiting keylock as session leader: it leaves the line" {
	hold key
	terminal "$KEYLOCK" key touch "$work/ran"
	wait_for 20 has_ticket "$pane"
	close_window
	wait_for 20 is_dead "$pane"
	let_go
	[ ! -e ran ]
	[ "$(files)" = 0 ]
}

@test "P4 Ctrl-Z on a waiter: those behind it go on, after fg it is served in its new turn" {
	# Who is served writes its name to order.
	terminal_shell
	hold key
	first=$holder
	type_line '"$KEYLOCK" key sh -c "echo stopped >>order; exit 9"'
	waits_in_front
	"$KEYLOCK" key sh -c 'echo second >>order; exec sh job second' 3>&- 4>&- &
	second=$!
	wait_for 20 has_ticket "$second"

	press C-z
	wait_for 20 in_state "$waiter" T
	# By TSTP's default action.
	says 148
	[ -z "$(ticket "$waiter")" ]
	let_go "$first"
	wait_for 20 test -s second.run
	order_is second

	# It came before third, and comes after it now.
	"$KEYLOCK" key sh -c 'echo third >>order' 3>&- 4>&- &
	third=$!
	wait_for 20 has_ticket "$third"
	in_state "$waiter" T
	type_line fg
	wait_for 20 has_ticket "$waiter"
	"$KEYLOCK" key sh -c 'echo fourth >>order' 3>&- 4>&- &
	fourth=$!
	wait_for 20 has_ticket "$fourth"
	go second
	says 9
	ended_with "$second" 9
	wait "$third"
	wait "$fourth"
	order_is 'second third stopped fourth'
	[ "$(files)" = 0 ]
}

@test "P3 Ctrl-Z on the only waiter: the key is as if it were not there" {
	terminal_shell
	hold key
	type_line '"$KEYLOCK" -w 100 key sh job a'
	waits_in_front
	press C-z
	says 148
	let_go
	[ "$(files)" = 0 ]
	gives 0 -n key true
	type_line fg
	job_runs a
	[ "$keylock" = "$waiter" ]
	go a
	says 9
	[ "$(files)" = 0 ]
}

@test "P6 --hold in the background stops when something is typed, as any reader does, and keeps the key" {
	terminal_shell
	type_line '"$KEYLOCK" --hold key & true'
	wait_for 20 eval '"$KEYLOCK" --who key >who'
	keylock=$(cat who)
	# The shell may have read what is typed before keylock has woken for it.
	stops_when_typed() {
		type_line true
		in_state "$keylock" T
	}
	wait_for 20 stops_when_typed
	taken
	type_line fg
	wait_for 20 in_front "$keylock"
	taken
	press C-d
	says 0
	[ "$(files)" = 0 ]
}

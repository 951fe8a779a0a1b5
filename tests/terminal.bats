# Job control and the keys of a real terminal.

load helper

setup() {
	keylock_setup
	recorder=$tools/recorder.py
	cd "$work" || return
}

teardown() {
	[ ! -S "$work/tmux" ] || tm capture-pane -p | sed -n '/./s/^/screen: /p'
	keylock_teardown
}

# type_job [WRAPPER [BEFORE]]: types "BEFORE keylock key WRAPPER COMMAND", where COMMAND does what it is
# told. Has no child from when it runs: a shell puts off a Ctrl-C until its child has ended.
type_job() {
	new_hold
	type_line "${2-} \"\$KEYLOCK\" key ${1-} ${obeys[*]}"
	job_runs
}

# Waits until the job runs; sets command, its pid, and keylock.
job_runs() {
	has_begun
	command=$held
	keylock=$("$KEYLOCK" --who key)
}

go() {
	tell "$command" let_go 'exit 9'
}

both_in_state() {
	wait_for 20 in_state "$keylock" "$1"
	wait_for 20 in_state "$command" "$1"
}

both_ended() {
	wait_for 20 is_dead "$command"
	wait_for 20 is_dead "$keylock"
	[ "$(files)" = 0 ]
}

# The shell has its prompt again, and says STATUS of what it ran last.
says() {
	wait_for 20 at_prompt
	rm -f said
	type_line 'echo $? >said'
	wait_for 20 test -s said
	echo "said $(cat said)"
	[ "$(cat said)" = "$1" ]
}

# Sets waiter: the last child of the shell in the terminal that waits for a key. It is in the foreground.
waits_in_front() {
	wait_for 20 eval 'waiter=$(for pid in $(children "$pane"); do ! has_ticket "$pid" || echo "$pid"; done)
		[ -n "$waiter" ]'
	wait_for 20 in_front "$waiter"
}

@test "P6 Ctrl-Z, fg and bg work on a running command, in a process group of its own, too" {
	terminal_shell
	for wrapper in '' 'timeout 100'; do
		type_job "$wrapper"
		wait_for 20 eval 'in_front "$keylock" || in_front "$command"'
		press C-z
		# keylock stopped by the same signal, TSTP.
		both_in_state T
		says 148
		taken key
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
		go
		says 9
		[ "$(files)" = 0 ]
	done
}

@test "P6 a command that stops itself, or reads in the background, stops keylock, fg and bg go on" {
	terminal_shell
	for how in TSTP TTIN TTOU; do
		new_hold
		type_line "\"\$KEYLOCK\" key sh -c 'kill -$how \$\$; exec \"\$@\"' - ${obeys[*]}"
		says $((128 + $(kill -l "$how")))
		[ ! -e "$base.pid" ]
		taken key
		case $how in
		TSTP) type_line fg ;;
		*) type_line 'bg; wait %1' ;;
		esac
		job_runs
		go
		says 9
	done
	type_line '"$KEYLOCK" key sh -c "echo \$\$ >pid; read -r word; echo \$word >word" &'
	wait_for 20 test -s pid
	command=$(cat pid) keylock=$("$KEYLOCK" --who key)
	both_in_state T
	wait_for 20 at_prompt
	type_line fg
	wait_for 20 in_front "$keylock"
	type_line hello
	wait_for 20 grep -q hello word
	both_ended
}

# Starts keylock with the recorder (see recorder.py) in a terminal, by a shell without job control: it does
# not mind a keylock that is stopped for a moment. Sets command and keylock.
start_recorder() {
	terminal sh -c 'trap : INT QUIT WINCH; '"$1"' "$KEYLOCK" key "$1" log; echo $? >said' sh "$recorder"
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
		diff - <(sed 1d log) <<<$'2 kernel\n3 kernel\n28 kernel\n18 process\n31 process'
		echo "ready $command" >log
	done
	kill -RTMAX "$command"
	wait_for 20 grep -qx 7 said
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
	terminal_shell
	for how in shell script waiting; do
		new_hold
		echo "for i in 1 2 3; do echo \$i >>loops; \"\$KEYLOCK\" key ${obeys[*]}; done" >script
		rm -f loops
		waiting=$base
		[ $how != waiting ] || hold key
		case $how in
		script) type_line 'bash script' ;;
		*) type_line "$(cat script)" ;;
		esac
		if [ $how = waiting ]; then
			waits_in_front
			keylock=$waiter command=$waiter
		else
			job_runs
			wait_for 20 in_front "$keylock"
		fi
		press C-c
		wait_for 20 is_dead "$keylock"
		says 130
		[ "$(cat loops)" = 1 ]
		[ $how != waiting ] || let_go
		both_ended
	done
	[ ! -e "$waiting.pid" ]
}

# In a process group of its own the command gets nothing of the terminal's but by way of keylock.
@test "P6 Ctrl-C and Ctrl-\\ end a command in a process group of its own" {
	terminal_shell
	for wrapper in 'timeout 100' setsid 'setsid -w'; do
		for key in C-c=130 C-\\=131; do
			type_job "$wrapper"
			press "${key%=*}"
			both_ended
			says "${key#*=}"
		done
	done
	# Who has left the session cannot be stopped so (setsid(1)), but ended.
	type_job setsid
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
	new_hold
	type_line "SHELL=/bin/sh \"\$KEYLOCK\" key script -qec '${obeys[*]}' /dev/null"
	job_runs
	press C-c
	wait_for 20 is_dead "$keylock"
	is_dead "$command"
	tm kill-window
	# From a shell that does not move the terminal's foreground itself.
	new_hold
	terminal sh -c '"$KEYLOCK" key bash --norc -ic "$1"; echo $? >ended' - "${obeys[*]}"
	job_runs
	wait_for 20 in_front "$command"
	press C-c
	wait_for 20 grep -qx 130 ended
}

# tm kill-window does what a click on the window's cross does.
@test "P6 the window is closed, with keylock or a shell as session leader: the command gets one SIGHUP, and ends" {
	terminal "$KEYLOCK" key "$recorder" log
	wait_for 20 has_lines 1 log
	read -r _ command <log
	keylock=$pane
	[ "$(parent "$command")" = "$keylock" ]
	tm kill-window
	wait_for 20 grep -q '^1 ' log
	in_state "$keylock" RSD
	taken key
	kill -TERM "$keylock"
	wait_for 20 grep -q '^15 ' log
	[ "$(grep -c '^1 ' log)" = 1 ]
	kill -RTMAX "$command"
	both_ended

	new_hold
	terminal "$KEYLOCK" key "${obeys[@]}"
	job_runs
	[ "$keylock" = "$pane" ]
	tm kill-window
	both_ended

	terminal_shell
	type_job
	tm kill-window
	both_ended
}

@test "P9 the window is closed with a waiting keylock as session leader: it leaves the line" {
	hold key
	terminal "$KEYLOCK" key touch "$ran"
	wait_for 20 has_ticket "$pane"
	tm kill-window
	wait_for 20 is_dead "$pane"
	let_go
}

@test "P4 Ctrl-Z on a waiter: those behind it go on, after fg it is served in its new turn" {
	terminal_shell
	hold key
	first=$holder
	type_line '"$KEYLOCK" key sh -c "echo stopped >>order; exit 9"'
	waits_in_front
	stopped=$waiter
	new_hold
	line_up key sh -c 'echo second >>order; exec "$@"' - "${obeys[@]}"
	second=$waiter
	press C-z
	wait_for 20 in_state "$stopped" T
	says 148
	[ -z "$(ticket "$stopped")" ]
	let_go "$first"
	has_begun
	order_is second
	queue third
	third=$waiter
	in_state "$stopped" T
	type_line fg
	wait_for 20 has_ticket "$stopped"
	queue fourth
	tell "$held" let_go 'exit 9'
	says 9
	ended_with "$second" 9
	ended_with "$third" 0
	ended_with "$waiter" 0
	order_is 'second third stopped fourth'
}

@test "P3 Ctrl-Z on the only waiter: the key is as if it were not there" {
	terminal_shell
	hold key
	new_hold
	type_line "\"\$KEYLOCK\" -w 100 key ${obeys[*]}"
	waits_in_front
	press C-z
	says 148
	let_go
	[ "$(files)" = 0 ]
	free key
	type_line fg
	job_runs
	[ "$keylock" = "$waiter" ]
	go
	says 9
}

@test "P6 --hold in the background stops when something is typed, as any reader does, and keeps the key" {
	terminal_shell
	type_line '"$KEYLOCK" --hold key & true'
	wait_for 20 eval 'keylock=$("$KEYLOCK" --who key)'
	# The shell may have read what is typed before keylock has woken for it.
	wait_for 20 eval 'type_line true; in_state "$keylock" T'
	taken key
	type_line fg
	wait_for 20 in_front "$keylock"
	taken key
	press C-d
	says 0
}

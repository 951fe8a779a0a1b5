# How long a lock lives: as long as the command, whoever is killed, and not longer.

load helper

# all_taken OPTIONS, all_free OPTIONS: so are the keys that a run with these options and KEY "key" takes.
all_taken() {
	taken key
	[[ $1 != '-k other'* ]] || taken other
}

all_free() {
	free key
	[[ $1 != '-k other'* ]] || free other
	[ "$(files)" = 0 ]
}

@test "P2 the keys are free and their files gone when the command has ended" {
	for option in -x -s '-k other' -l -F --no-fork; do
		hold $option key
		all_taken "$option"
		# With -F the command is keylock's own process, and nobody tidies.
		case $option in
		-F | --no-fork) [ "$holder" = "$held" ] ;;
		*) [ "$holder" != "$held" ] ;;
		esac
		let_go
		expect 0
		[[ $holder == "$held" || $(files) == 0 ]]
		all_free "$option"
	done
}

@test "P1 keylock is killed: its command has the keys until it has ended, then who waits" {
	for option in -x -s '-k other' '-k other -s'; do
		hold $option key
		kill_hard "$holder"
		all_taken "$option"
		in_state "$held" RSD
		line_up $option -x key touch "$served"
		[ ! -e "$served" ]
		kill_hard "$held"
		ended_with "$waiter" 0
		rm "$served"
		[ "$(files)" = 0 ]
		hold $option key
		kill_hard "$holder" "$held"
		all_free "$option"
	done
}

@test "P2 a command that ended by itself leaves a daemon, and no key, behind" {
	for end in 0 5 128 193 255; do
		for option in -x -s -j2 '-k other'; do
			leave_daemon "exit $end" $option key
			expect "$end"
			[ "$(files)" = 0 ]
			all_free "$option"
			kill_hard "$daemon"
		done
	done
	hold_with_daemon key
	line_up key true
	let_go
	ended_with "$waiter" 0
	in_state "$daemon" RSD
}

@test "P2 a command that died leaves the keys to what it left running" {
	# Of a signal, or as a shell says it, or because keylock was told to end.
	for end in 'kill -KILL $$' 'kill -TERM $$' '(kill $PPID); wait' 'exit 129' 'exit 192'; do
		for option in -x -s '-k other' '-j 1' -A; do
			leave_daemon "$end" $option key
			[ "$status" -ge 129 ]
			all_taken "$option"
			prints "$daemon" --who key
			# Who waits is told for whom, and comes when that has ended.
			line_up -v $option -x key touch "$served" 2>"$said"
			wait_for 20 grep -q "key: waiting for pid $daemon (sleep)" "$said"
			[ ! -e "$served" ]
			kill_hard "$daemon"
			if [ "$option" = -A ]; then
				ended_with "$waiter" 76
				run_keylock --forget key
			else
				ended_with "$waiter" 0
				rm "$served"
			fi
			all_free "$option"
		done
		leave_daemon "$end" -o key
		all_free -x
		kill_hard "$daemon"
		leave_daemon "$end" -j 2 key
		gives 75 -n -j 2 key "$KEYLOCK" -n -j 2 key true
		free -j 2 key
		kill_hard "$daemon"
		free key
	done
}

@test "-l, -F: the keys are taken until the last process that inherited them has ended" {
	for option in -l --linger -F '-k other -l' '-k other -F' '-j 1 -l' '-j 1 -F'; do
		leave_daemon 'exit 5' $option key
		expect 5
		all_taken "$option"
		in_state "$daemon" RSD
		kill_hard "$daemon"
		all_free "$option"
		# Who closes the descriptors that it does not know has not inherited.
		gives 0 $option key bash -c 'for fd in /proc/$$/fd/*; do
				fd=${fd##*/}
				[ "$fd" -lt 3 ] || eval "exec $fd>&-"
			done
			sleep 1000 & echo $! >"$0"' "$work/daemon"
		all_free "$option"
		kill_hard "$(cat "$work/daemon")"
	done
}

@test "-o: the command does not have the lock, keylock alone holds it" {
	hold -o key
	taken key
	# The limit that the manual states: without the descriptor nothing holds the key any more.
	kill_hard "$holder"
	all_free -x
	in_state "$held" RSD
}

@test "P1 a script that uses the descriptors 3 to 9 does not give the key away" {
	cat >"$work/script" <<-'END'
		exec 3>/dev/null 4>/dev/null 5>/dev/null 6>/dev/null 7>/dev/null 8>/dev/null
		exec 9<"$0"
		exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9<&-
		exec 3>/dev/null 9<"$0"
		exec "$@"
	END
	for shell in sh bash; do
		hold_by "$KEYLOCK" key "$shell" "$work/script"
		kill_hard "$holder"
		taken key
		kill_hard "$held"
		all_free -x
	done
}

@test "P9 one who stopped inside the gate does not hold up who waits" {
	hold key
	line_up key touch "$served"
	keep gate
	let_go
	wait_for 20 test -e "$served"
	stop_keeping
	ended_with "$waiter" 0
	all_free -x
}

@test "P1 nobody ever runs beside another, whoever is killed" {
	seconds=$(size 2 30)
	# On a loaded machine longer, until enough was tried.
	while :; do
		stress -k "${seconds}s" 8 <<-'KINDS'
			-x key : 400 x 0
			-x key : 400 xd 0
			-n key : 400 x 0
			-l key : 400 x 0
			-l key : 400 xd 0
			-F key : 400 x 0
			-s key : 400 s 0
			-s key : 400 sd 0
			-s -n key : 400 s 0
			-s -F key : 400 s 0
			-s -w0.003 key : 400 s 0
			-w0.003 key : 400 x 0
		KINDS
		[ "${found[runs]}" -lt 50 ] || [ "${found[kills]}" -lt 20 ] || break
		seconds=$((2 * seconds))
		[ "$seconds" -le 40 ]
	done
	all_free -x
}

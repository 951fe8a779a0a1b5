# Keys left in doubt: who comes next is told that the last holder died in the middle.

load helper

# leave_in_doubt [SIGNAL [KEY]]: a command under -A dies of that. Keeps a copy for unchanged.
leave_in_doubt() {
	run_keylock -A "${2-key}" sh -c 'kill -"$0" $$' "${1-KILL}"
	cp "$KEYLOCK_DIR/${2-key}" "$saved"
	[ -s "$saved" ]
}

unchanged() {
	cmp "$lockfile" "$saved"
}

# in_doubt WORDS TEXT…: -A with these options and this key is refused, with each TEXT.
in_doubt() {
	run_keylock -A $1 touch "$ran"
	expect_message 76 --forget "${@:2}"
	[[ ! -e $ran && $stderr != *[[:cntrl:]]* ]]
}

forget() {
	quiet 0 --forget "${1-key}"
}

# Nothing is in doubt: -A runs, and nothing is left.
clean() {
	prints ran -A key echo ran
	[ "$(files)" = 0 ]
}

# A field of the record, without the blanks that fill it up.
field() {
	sed -nE "s/.* $1=([^ ]*).*/\1/p" "$lockfile"
}

# Writes the bytes of printf's format into a lockfile with the sticky bit of keylock's own.
write_record() {
	mkdir -m 700 "$KEYLOCK_DIR" 2>/dev/null || :
	printf "$1" >"$lockfile"
	chmod 1600 "$lockfile"
}

since='[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z'

@test "P8 while the command runs each key has a record: one line of 192 bytes" {
	for option in -A --refuse-abandoned -R --recover; do
		before=$(date +%s)
		TZ=Asia/Tokyo hold "$option" -k b key
		line="^keylock1 pid=$holder since=$since cause=killed command=sh +$"
		for key in b key; do
			[ "$(wc -lc <"$KEYLOCK_DIR/$key" | tr -s ' ')" = ' 1 192' ]
			[[ $(cat "$KEYLOCK_DIR/$key") =~ $line ]]
		done
		at=$(date -d "$(field since)" +%s)
		[[ $at -ge $before && $at -le $(date +%s) ]]
		let_go
		[ "$(files)" = 0 ]
	done
}

@test "the record has the command's name, cut between characters, and not its arguments" {
	printf -v e 'é%.0s' {1..100}
	for name in charge.sh 'charge card' $'new\nline' $'\e[31mred' $'\xff\xfe' \
		'command= cause=x' "$(printf '%0250d' 0)" "$e" "x$e"; do
		path=$work/$name
		printf 'cat "$KEYLOCK_DIR/key"; kill -KILL $$\n' >"$path"
		chmod +x "$path"
		gives 137 -A key "$path" secret-password
		[[ $(wc -lc <"$lockfile" | tr -s ' ') == ' 1 192' && $output != *secret* ]]
		case $name in
		*é*)
			[[ $output == *" command=${name:0:100}"* ]]
			iconv -f UTF-8 -t UTF-8 "$lockfile"
			;;
		charge.sh) [[ $output =~ \ command=charge.sh\ *$ ]] ;;
		esac
		in_doubt key cause=signal-9 command=
		forget
	done
	run_keylock -A key -c 'cat "$KEYLOCK_DIR/key"'
	[[ $output =~ \ command=sh\ *$ ]]
	[ "$(files)" = 0 ]
}

@test "P8 an end by itself settles, one of a signal or with 129 to 192 leaves in doubt" {
	for option in -A -R; do
		for code in 0 1 5 75 127 128 193 255; do
			gives "$code" "$option" key sh -c "exit $code"
			[ "$(files)" = 0 ]
		done
		while read -r code cause how; do
			gives "$code" "$option" key sh -c "$how; echo >\"\$0\"" "$ran"
			[ "$(field cause)" = "$cause" ]
			in_doubt key 'key: ' \
				"pid=$(field pid) since=$(field since) cause=$cause command=sh"
			quiet 76 -q -A key touch "$ran"
			forget
			clean
		done <<-'ENDS'
			143 signal-15 kill -TERM $$
			137 signal-9 kill -KILL $$
			134 signal-6 kill -ABRT $$
			129 signal-1 kill -HUP $$
			139 signal-11 kill -SEGV $$
			129 exit-129 exit 129
			137 exit-137 exit 137
			192 exit-192 exit 192
		ENDS
	done
	hold -A key
	kill -TERM "$holder"
	ended_with "$holder" 143
	in_doubt key "pid=$holder" cause=signal-15
}

@test "P8 a killed keylock leaves the record, whether its command dies, too, or ends well" {
	for option in -A -R; do
		hold "$option" key
		line_up -A key touch "$ran" 2>"$saved"
		kill_hard "$holder" "$held"
		ended_with "$waiter" 76
		grep 'cause=killed' "$saved"
		in_doubt key "pid=$holder since=" ' cause=killed command=sh'
		in_doubt key
		forget
	done
	hold -A key
	kill_hard "$holder"
	taken -A key
	let_go
	in_doubt '-w 20 key' "pid=$holder" cause=killed
}

@test "P8 -R runs the command and tells it, and the command's end decides" {
	export KEYLOCK_ABANDONED=stale
	for option in -A -R '-s -A' '-s -R' -x; do
		prints unset $option key sh -c 'echo "${KEYLOCK_ABANDONED-unset}"'
	done
	leave_in_doubt
	prints unset key sh -c 'echo "${KEYLOCK_ABANDONED-unset}"'
	prints "pid=$(field pid) since=$(field since) cause=signal-9 command=sh" \
		-R key printenv KEYLOCK_ABANDONED
	[ "$(files)" = 0 ]
	# Again, and it dies, too: meanwhile and afterwards it is its own record that stands there.
	hold -A key
	kill_hard "$holder" "$held"
	run_keylock -R key sh -c \
		'printenv KEYLOCK_ABANDONED; cat "$KEYLOCK_DIR/key"; echo $PPID; kill -TERM $$'
	expect 143
	[[ $output == "pid=$holder since="*" cause=killed command=sh"$'\n'* ]]
	[[ $output == *$'\nkeylock1 pid='*' cause=killed'* ]]
	[ "$(field pid) $(field cause)" = "${output##*$'\n'} signal-15" ]
	gives 3 -R key sh -c 'exit 3'
	clean
}

@test "P8 a run without -A and -R leaves the record as it is, however it ends" {
	leave_in_doubt
	for option in -x -s -l -F -o '-j 2' '-n -k a' '-n -k z'; do
		prints ran $option key echo ran
		unchanged
		gives 137 $option key sh -c 'kill -KILL $$'
		unchanged
	done
	in_doubt key
}

@test "P8 -s with -A or -R looks, and neither leaves nor clears" {
	for end in '-A kill -KILL $$' '-R exit 137'; do
		gives 137 -s "${end%% *}" key sh -c "cat \"\$KEYLOCK_DIR/key\"; ${end#* }"
		[[ -z $output && $(files) == 0 ]]
	done
	hold -A -s key
	kill_hard "$holder" "$held"
	clean
	leave_in_doubt
	in_doubt '-s key'
	gives 0 -R -s key printenv KEYLOCK_ABANDONED
	[[ $output == "pid="*" cause=signal-9 command=sh" ]]
	unchanged
}

@test "P8 a command that could not be executed leaves the old record as it was, and no new one" {
	fails 127 '' -R key no-such-command
	fails 126 '' -R key "$work"
	[ "$(files)" = 0 ]
	leave_in_doubt
	fails 127 '' -R key no-such-command
	fails 126 '' -R key "$work"
	unchanged
	in_doubt key
}

@test "P8 what is no record counts as one, torn, foreign or huge; an empty file does not" {
	odd=()
	write_record ''
	clean
	run_keylock -A key sh -c 'cat "$KEYLOCK_DIR/key"'
	good=$output
	fields='pid=1 since=2026-11-24T23:26:16Z cause=killed command=sh'
	for content in "${fields/1/x}" "${fields/1/-1}" "${fields/1/}" "${fields/2026-*Z/}" \
		"${fields/killed/}" "${fields/since/until}" "${fields/ cause/cause}" \
		"${fields/command=sh/}" "${fields/sh/$'\e'[31m}" "${fields/sh/$'\x7f'}" \
		"${fields/killed/killed$'\n'}"; do
		printf -v content 'keylock1 %-182s\n' "$content"
		[ "${#content}" = 192 ]
		odd+=("$content")
	done
	for content in k "${good:0:20}" "${good:0:191}" "$good" "$good"' \n' "$good"'\n\n' '\n' \
		' ' '\0' 'pid\n' "${good/keylock1/keylock2}"'\n' "${good/keylock1/keylock}"'\n' \
		"${good/pid=/pid=x}"'\n' "${good/since=/when_=}"'\n' "${good/cause=/\\033[31}"'\n' \
		"${good/cause=/\\0aus\\0}"'\n' "$(printf '%0192d' 0)" "$(printf '%01000d' 0)" \
		'\377\376\375\n' 'keylock1\n' 'keylock1 pid= since= cause= command=\n' \
		'hello, world\n' "${odd[@]}"; do
		write_record "$content"
		cp "$lockfile" "$saved"
		in_doubt key cause=unreadable
		fails 127 '' -R key no-such-command
		free key
		unchanged
		gives 0 -R key printenv KEYLOCK_ABANDONED
		[[ $output == *cause=unreadable* && $output != *$'\n'* && $(files) == 0 ]]
	done
	write_record x
	truncate -s 10G "$lockfile"
	in_doubt key cause=unreadable
	[ "$(stat -c %s "$lockfile")" = 10737418240 ]
	gives 137 -R key sh -c 'kill -KILL $$'
	in_doubt key cause=signal-9
}

@test "P8 a file that is not keylock's own, or has another name, is never written to: 77" {
	for content in '' 'precious\n' 'keylock\n' 'keylock2 pid=1\n' '#!/bin/sh\n'; do
		for options in -A -R '-s -A' '-R -k a' '-A -k z' --forget --pin -x; do
			for how in linked foreign; do
				[ "$how$content" != foreign ] || continue
				write_record "$content"
				cp "$lockfile" "$saved"
				case $how in
				linked) ln -f "$lockfile" "$served" ;;
				foreign) chmod -t "$lockfile" && ln -sf "$lockfile" "$served" ;;
				esac
				case $options in
				# Who does not write does not mind.
				-x) free key ;;
				--*) fails 77 "$lockfile: " "$options" key ;;
				*) fails 77 "$lockfile: " $options key touch "$ran" ;;
				esac
				cmp "$served" "$saved"
				[ "$how $(stat -Lc %a "$served")" != "$how 1700" ]
				# Nor is another key of the same run left in doubt.
				[ "$(files)" -le 1 ]
				rm "$served"
			done
		done
	done
	for content in 'keylock1 ' 'keylock1 pid=\n'; do
		printf "$content" >"$lockfile"
		in_doubt key
		forget
	done
	[ "$(files)" = 0 ]
}

@test "P8 a record that cannot be written: 73, and nothing is run" {
	# The limit is for our own files as well, so the message goes through a pipe.
	for options in -A -R '-A -k a' '-R -k z'; do
		run_it sh -c '{ (ulimit -f 0 && exec "$KEYLOCK" "$@" key mkdir "$0")
			echo "status $?"; } 2>&1 | cat' "$ran" $options
		[[ $output == "keylock: $KEYLOCK_DIR/"*$'\nstatus 73' && $(wc -l <"$out") == 2 ]]
		[ "$(files)" = 0 ]
	done
	for options in -x '-s -A'; do
		it_gives 0 sh -c 'ulimit -f 0 && exec "$KEYLOCK" "$@"' - $options key true
	done
}

@test "P8 with several keys each has its own record, and one in doubt is enough" {
	hold -A -k b a
	kill_hard "$holder" "$held"
	in_doubt b 'b: ' "pid=$holder"
	in_doubt a 'a: ' "pid=$holder"
	forget a
	in_doubt '-k b -k c a' 'b: '
	# Of the others none is left in doubt for it, nor for being named twice.
	[ "$(files)" = 1 ]
	gives 0 -A -k a -k a a true
	leave_in_doubt KILL a
	leave_in_doubt TERM c
	run_keylock -R -k b -k c a printenv KEYLOCK_ABANDONED
	[[ $output == *' cause=signal-9 '*$'\n'"pid=$holder "*' cause=signal-15 '* ]]
	[[ $(wc -l <"$out") == 3 && $(files) == 0 ]]
}

@test "P8 the record is settled when the command ends, whatever daemon it leaves" {
	for option in -x -o -l; do
		leave_daemon 'exit 5' "$option" -A key
		expect 5
		[ ! -s "$lockfile" ]
		case $option in
		-l) taken key ;;
		*) clean ;;
		esac
		kill_hard "$daemon"
		clean
	done
	leave_daemon 'kill -TERM $$' -A -l key
	taken key
	[ "$(field cause)" = signal-15 ]
	kill_hard "$daemon"
	in_doubt key
}

@test "P8 with -r the outer run's end decides, and its record alone is kept" {
	gives 137 -A key sh -c '"$KEYLOCK" -r -A key true; echo $?; cat "$KEYLOCK_DIR/key"; kill -KILL $$'
	[[ $output == 0$'\n'keylock1* ]]
	in_doubt key
	prints inner -R key sh -c '"$KEYLOCK" -r -A key echo inner
		"$KEYLOCK" -r -R key printenv KEYLOCK_ABANDONED; exit 0'
	[ "$(files)" = 0 ]
	# The inner one dies, the outer sees to it and ends well, with a record or without.
	for outer in -A -x; do
		gives 0 "$outer" key sh -c '"$KEYLOCK" -r -A key sh -c "kill -KILL \$\$"; exit 0'
		[[ -z $output && $(files) == 0 ]]
	done
}

@test "P8 keylock ends only its own record" {
	for next in held dead; do
		hold -A key
		first=$holder
		told "$first" 0 'bash -c "for fd in /proc/self/fd/*; do
			[ \$fd -ef \$KEYLOCK_DIR/key ] && flock -u \${fd##*/}
		done; :"'
		case $next in
		held) hold -n -R key ;;
		dead) run_keylock -n -R key sh -c 'kill -KILL $$' ;;
		esac
		other=$(field pid)
		[ "$other" != "$first" ]
		let_go "$first"
		expect 0
		if [ "$next" = held ]; then
			taken key
			kill_hard "$holder" "$held"
		fi
		in_doubt key "pid=$other"
		forget
	done
}

@test "--forget takes record and pin away; a held key is 75, -w waits; nothing there is 0, and what does not go with it 64" {
	forget
	[ ! -e "$lockfile" ]
	leave_in_doubt KILL another
	leave_in_doubt
	"$KEYLOCK" --pin key
	in_doubt key
	for words in '-r key' '-s key' '-j 2 key' '-j 1 key' '' 'a b'; do
		fails 64 '' --forget $words
	done
	for mode in -s -x; do
		hold "$mode" key
		for words in '75 -x' '9 -E 9' '75 -w 0.2'; do
			quiet "${words%% *}" ${words#* } --forget key
		done
		[[ -s $lockfile && -x $lockfile ]]
		[ "$mode" = -x ] || let_go
	done
	line_up -w 60 --forget key
	let_go
	ended_with "$waiter" 0
	[ ! -e "$lockfile" ]
	in_doubt another
	"$KEYLOCK" --pin key
	gives 0 -A key true
	[ -x "$lockfile" ]
	forget
	[ "$(files)" = 1 ]
}

# The calls that write or sync, that lock with flock, and that run something, one a line, of the
# first process, keylock.
calls() {
	local first trace=$work/trace traced=%process,write,writev,pwrite64,pwritev
	traced+=',flock,ftruncate,?ftruncate64,fsync,fdatasync,sync_file_range,msync,syncfs,sync'
	run_it strace -f -qq -e signal=none -o "$trace" -e "trace=$traced" "$KEYLOCK" "$@"
	first=$(sed -n '1s/ .*//p' "$trace")
	sed -nE "s/^($first +|[0-9]+ +(execve)).*/&/p" "$trace" |
		sed -E 's/^[0-9]+ +//; s/^(<\.\.\. )?([a-z0-9_]+).*/\2/; s/^(ftruncate)64$/\1/' |
		paste -sd ' ' | tee "$work/calls"
}

has_calls() {
	grep -Eq "$1" "$work/calls"
}

has_no_calls() {
	[ "$(grep -Ec "$1" "$work/calls")" = 0 ]
}

@test "P8 the record is on disk before the command starts, and its end before keylock lets go" {
	runs='(vfork|clone) ((vfork|clone) )?execve .*wait4.*'
	ended='ftruncate fdatasync flock'
	writes='^execve flock pwrite64 (ftruncate )?fdatasync'
	need strace
	for option in -A -R; do
		calls "$option" key true
		# A new file: its name is brought to disk, too. The first execve is keylock's own.
		has_calls "$writes fsync (fsync )?$runs (flock )?$ended .*exit_group"
	done
	calls -A key sh -c 'kill -KILL $$'
	has_calls 'wait4.* flock pwrite64 (ftruncate )?fdatasync flock'
	calls -A key true
	has_no_calls 'pwrite64|ftruncate|sync'
	calls -R key true
	has_calls "$writes $runs $ended "
}

@test "P8 without -A and -R nothing is written and nothing synced" {
	need strace
	for option in -x -s -l -o -F '-j 2' '-k b' '-w 5' -r '-s -A' '-s -R'; do
		calls $option key true
		expect 0
		has_no_calls 'write|ftruncate|sync'
		has_calls execve
	done
}

@test "P8 killed at any time: never is a key clean whose command was in the middle" {
	clean=0 doubt=0 rounds=$(size 60 1000)
	for ((i = 0; i < rounds; i++)); do
		rm -f "$work"/{charged,written}
		# In a group of its own, so that keylock and its command are killed at once.
		setsid "$KEYLOCK" -A key sh -c \
			'echo >"$0/charged"; sleep 0.002; echo >"$0/written"' "$work" 3>&- 4>&- &
		keylock=$!
		sleep "0.0$((RANDOM % 2))$((RANDOM % 10))"
		kill -KILL -- "-$keylock" 2>/dev/null || :
		wait "$keylock" 2>/dev/null || :
		status=0
		"$KEYLOCK" -q -w 20 -A key true || status=$?
		if [ "$status" = 0 ]; then
			clean=$((clean + 1))
			[ ! -e "$work/charged" ] || [ -e "$work/written" ]
		else
			expect 76
			doubt=$((doubt + 1))
			forget
		fi
	done
	echo "clean: $clean, in doubt: $doubt"
	[[ $doubt -ge 1 && $clean -ge 1 && $(files) == 0 ]]
}

#!/usr/bin/env bats
# Keys left in doubt: who comes next is told that the last holder died in the middle.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' own variables; the helper's variables

load helper

# Leaves the key in doubt with this cause: killed, or a signal's name.
leave_in_doubt() {
	case $1 in
	killed)
		hold -A "${2-key}"
		kill_both
		;;
	*)
		run_keylock -A "${2-key}" sh -c 'kill -"$0" $$' "$1"
		expect $((128 + $(kill -l "$1")))
		;;
	esac
	[ -s "$KEYLOCK_DIR/${2-key}" ]
}

in_doubt() {
	run_keylock -A "$@" touch "$BATS_TEST_TMPDIR/ran"
	expect_message 76
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# Nothing is in doubt: -A runs, and nothing is left.
clean() {
	run_keylock -A "$@" echo ran
	expect 0
	[ "$output" = ran ]
	[ "$(files)" = 0 ]
}

record() {
	tr -d '\0' <"$KEYLOCK_DIR/${1-key}"
}

# A field of the record, without the blanks that fill it up.
field() {
	record "${2-key}" | sed -nE "s/.* $1=([^ ]*).*/\1/p"
}

# Writes the bytes of printf's format into the lockfile of the key "key", which has the sticky bit
# that keylock gives its files.
write_record() {
	mkdir -m 700 "$KEYLOCK_DIR" 2>/dev/null || :
	# shellcheck disable=SC2059
	printf "$1" >"$KEYLOCK_DIR/key"
	chmod 1600 "$KEYLOCK_DIR/key"
}

# Kills the holder and its command.
kill_both() {
	kill -KILL "$holder" "$held"
	wait "$holder" 2>/dev/null || :
	wait_for 20 is_dead "$held"
}

checksum() {
	sha256sum <"$KEYLOCK_DIR/key"
}

is_taken() {
	! "$KEYLOCK" -n key true
}

since='[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z'

@test "P8 crash-honest: the record: one line of 192 bytes, as the manual says, while the command runs" {
	local option before after at
	for option in -A --refuse-abandoned -R --recover; do
		before=$(date +%s)
		TZ=Asia/Tokyo hold "$option" key
		after=$(date +%s)
		[ "$(stat -c %s "$KEYLOCK_DIR/key")" = 192 ]
		[ "$(wc -l <"$KEYLOCK_DIR/key")" = 1 ]
		[[ $(record) =~ ^keylock1\ pid=$holder\ since=$since\ cause=killed\ command=sh\ +$ ]]
		at=$(date -d "$(field since)" +%s)
		[[ $at -ge $before && $at -le $after ]]
		let_go
		[ "$(files)" = 0 ]
	done
}

@test "without -A and -R nothing is written" {
	local option
	for option in -x -s -l -o -F '-j 2'; do
		# shellcheck disable=SC2086
		hold $option key
		[ ! -s "$KEYLOCK_DIR/key" ]
		let_go
		[ "$(files)" = 0 ] || run_keylock key true
	done
}

@test "the record has the command's name and not its arguments" {
	local name
	run_keylock -A key /bin/sh -c 'cat "$KEYLOCK_DIR/key"' secret-password
	[[ $output =~ \ command=sh\ *$ ]]
	run_keylock -A key -c 'cat "$KEYLOCK_DIR/key"'
	[[ $output =~ \ command=sh\ *$ ]]
	for name in 'charge card' $'new\nline' $'\e[31mred' $'\xff\xfe' 'command= cause=x' \
		"$(printf '%0250d' 0)"; do
		ln -s /bin/sh "$BATS_TEST_TMPDIR/$name"
		run_keylock -A key "$BATS_TEST_TMPDIR/$name" -c 'kill -KILL $$'
		expect 137
		[ "$(stat -c %s "$KEYLOCK_DIR/key")" = 192 ]
		[ "$(wc -l <"$KEYLOCK_DIR/key")" = 1 ]
		run_keylock -A key true
		expect_message 76 cause=signal-9 command=
		[[ $stderr != *[[:cntrl:]]* ]]
		run_keylock --forget key
		expect 0
	done
	[ "$(files)" = 0 ]
}

@test "a command's long name is cut in the record, but no character is" {
	local name
	for name in "$(printf 'é%.0s' {1..100})" "x$(printf 'é%.0s' {1..100})"; do
		printf '#!/bin/sh\ncat "$KEYLOCK_DIR/key"\n' >"$BATS_TEST_TMPDIR/$name"
		chmod +x "$BATS_TEST_TMPDIR/$name"
		run_keylock -A key "$BATS_TEST_TMPDIR/$name"
		expect 0
		[ "$(wc -c <"$out")" = 192 ]
		[[ $output == *"command=${name:0:100}"* ]]
		iconv -f UTF-8 -t UTF-8 "$out"
		rm "$BATS_TEST_TMPDIR/$name"
	done
}

@test "P8 crash-honest: what a command's end means: by itself it settles, of a signal or with 129 to 192 it leaves" {
	local option code signal
	for option in -A -R; do
		for code in 0 1 5 75 127 128 193 255; do
			run_keylock "$option" key sh -c "exit $code"
			expect "$code"
			[ "$(files)" = 0 ]
		done
		for signal in TERM KILL ABRT HUP SEGV; do
			ended "$BATS_TEST_TMPDIR/end" "$KEYLOCK" "$option" key sh -c "kill -$signal \$\$; echo not reached >\"\$0\"" "$BATS_TEST_TMPDIR/ran"
			[[ $(cat "$BATS_TEST_TMPDIR/end") == "signal $(kill -l "$signal")"* ]]
			[ "$(field cause)" = "signal-$(kill -l "$signal")" ]
			run_keylock -A key touch "$BATS_TEST_TMPDIR/ran"
			expect_message 76 "key: " "pid=$(field pid) since=$(field since) cause=signal-$(kill -l "$signal") command=sh" --forget
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
			run_keylock --forget key
			expect 0
		done
	done
	for code in 129 137 143 192; do
		run_keylock -A key sh -c "exit $code"
		expect "$code"
		in_doubt key
		[[ $stderr == *"cause=exit-$code"* ]]
		run_keylock --forget key
		expect 0
	done
	clean key
	hold -A key
	kill -TERM "$holder"
	ended_with "$holder" 143
	run_keylock -A key true
	expect_message 76 "pid=$holder" cause=signal-15
}

@test "P8 crash-honest: a killed keylock leaves the record, whether its command dies with it or ends well" {
	local option
	for option in -A -R; do
		hold "$option" key
		kill_both
		in_doubt key
		[[ $stderr == *"pid=$holder since="*" cause=killed command=sh"*--forget* ]]
		run_keylock --forget key
	done
	hold -A key
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	run_keylock -n -A key touch "$BATS_TEST_TMPDIR/ran"
	expect_taken 75
	echo 1<>"$BATS_TEST_TMPDIR/holder.$holder"
	wait_for 20 is_dead "$held"
	in_doubt -w 20 key
	[[ $stderr == *"pid=$holder"*cause=killed* ]]
}

@test "P2: what a died command left running keeps the key until it has ended; what ended by itself does not" {
	local options how left names
	# The options, what the script does at its end, by what it is ended from outside.
	while IFS='|' read -r options how names; do
		echo "== $options, $how"
		rm -f "$BATS_TEST_TMPDIR"/{left,ran}
		# shellcheck disable=SC2086
		"$KEYLOCK" $options key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; eval "$1"; wait' \
			"$BATS_TEST_TMPDIR/left" "$how" 3>&- 4>&- &
		holder=$!
		wait_for 20 test -e "$BATS_TEST_TMPDIR/left"
		left=$(cat "$BATS_TEST_TMPDIR/left")
		[ -n "$how" ] || kill "$holder"
		wait "$holder" 2>/dev/null || :
		in_state "$left" RSD
		for name in $names; do
			run_keylock -n "$name" touch "$BATS_TEST_TMPDIR/ran"
			expect_taken 75
			run_keylock --who "${name##* }"
			[ "$output" = "$left" ]
		done
		# Who waits is told of it, and comes when it ends.
		# shellcheck disable=SC2086
		"$KEYLOCK" -v ${options/-s/-x} key touch "$BATS_TEST_TMPDIR/ran" 2>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
		if [ -n "$names" ]; then
			wait_for 20 has_ticket $!
			wait_for 20 grep -q "waiting for pid $left (sleep)" "$BATS_TEST_TMPDIR/said"
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
			kill -KILL "$left"
		fi
		status=0
		wait $! || status=$?
		case $options in
		*-A*) expect 76 && run_keylock --forget key ;;
		*) expect 0 && [ -e "$BATS_TEST_TMPDIR/ran" ] ;;
		esac
		kill -KILL "$left" 2>/dev/null || :
		[ "$(files)" = 0 ]
	done <<-'FORMS'
		-x||key
		-s||key
		-x|kill -KILL $$|key
		-x|exit 137|key
		-A||key
		-k another||key another
		-j 1||key
		-x|exit 3|
		-x|exit 128|
		-o|kill -KILL $$|
	FORMS
	# Of slots, its own alone.
	run_keylock -j 2 key sh -c 'sleep 1000 & echo $! >"$0"; kill -TERM $$' "$BATS_TEST_TMPDIR/left"
	run_keylock -n -j 2 key "$KEYLOCK" -n -j 2 key true
	expect 75
	run_keylock -n -j 2 key true
	expect 0
	kill -KILL "$(cat "$BATS_TEST_TMPDIR/left")"
}

@test "P8 crash-honest: who waits while the holder dies in the middle is told as well" {
	hold -A key
	"$KEYLOCK" -A key touch "$BATS_TEST_TMPDIR/ran" 2>"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
	wait_for 20 has_ticket $!
	kill -KILL "$holder" "$held"
	status=0
	wait $! || status=$?
	expect 76
	grep -q 'cause=killed' "$BATS_TEST_TMPDIR/said"
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	# And so is everybody after it, until it is settled.
	in_doubt key
	in_doubt key
}

@test "-q says nothing, the status says it" {
	leave_in_doubt KILL
	run_keylock -q -A key touch "$BATS_TEST_TMPDIR/ran"
	expect_taken 76
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

@test "P8 crash-honest: -R runs the command and tells it, and the command's end decides" {
	local before
	leave_in_doubt KILL
	before="pid=$(field pid) since=$(field since) cause=signal-9 command=sh"
	run_keylock -R key printenv KEYLOCK_ABANDONED
	expect 0
	[ "$output" = "$before" ]
	[ "$(files)" = 0 ]
	# Again, and it dies, too: it is its own record that is left.
	leave_in_doubt killed
	run_keylock -R key sh -c 'printenv KEYLOCK_ABANDONED; echo $PPID; kill -TERM $$'
	expect 143
	[[ $output == "pid=$holder since="*" cause=killed command=sh"$'\n'* ]]
	[ "$(field pid)" = "${output##*$'\n'}" ]
	[ "$(field cause)" = signal-15 ]
	# Meanwhile its own record stands for it.
	run_keylock -R key sh -c 'cat "$KEYLOCK_DIR/key"; exit 137'
	[[ $output == "keylock1 pid="*" cause=killed command=sh"* ]]
	run_keylock -R key sh -c 'exit 3'
	expect 3
	[ "$(files)" = 0 ]
	clean key
}

@test "KEYLOCK_ABANDONED is not set where there is nothing to say" {
	local option
	export KEYLOCK_ABANDONED=stale
	for option in -A -R '-s -A' '-s -R' -x; do
		# shellcheck disable=SC2086
		run_keylock $option key printenv KEYLOCK_ABANDONED
		expect 1
		[ -z "$output" ]
	done
	leave_in_doubt KILL
	run_keylock key printenv KEYLOCK_ABANDONED
	expect 1
}

@test "P8 crash-honest: a run without -A and -R leaves the record as it is" {
	local before option
	leave_in_doubt KILL
	before=$(checksum)
	for option in -x -s -l -F -o '-j 2' '-n -k a' '-n -k z'; do
		# shellcheck disable=SC2086
		run_keylock $option key echo ran
		expect 0
		[ "$output" = ran ]
		[ "$(checksum)" = "$before" ]
		# shellcheck disable=SC2086
		run_keylock $option key sh -c 'kill -KILL $$'
		expect 137
		[ "$(checksum)" = "$before" ]
	done
	run_keylock --hold key
	[ "$(checksum)" = "$before" ]
	in_doubt key
}

@test "-s looks, and neither leaves nor clears" {
	local before
	# It leaves none.
	run_keylock -A -s key sh -c 'kill -KILL $$'
	expect 137
	[ "$(files)" = 0 ]
	run_keylock -R -s key sh -c 'cat "$KEYLOCK_DIR/key"; exit 137'
	expect 137
	[ -z "$output" ]
	[ "$(files)" = 0 ]
	hold -A -s key
	kill_both
	clean key
	# It sees one, and clears it not.
	leave_in_doubt KILL
	before=$(checksum)
	in_doubt -s key
	[ "$(checksum)" = "$before" ]
	run_keylock -R -s key printenv KEYLOCK_ABANDONED
	expect 0
	[[ $output == "pid="*" cause=signal-9 command=sh" ]]
	[ "$(checksum)" = "$before" ]
	in_doubt key
}

@test "a command that could not be executed leaves the old record as it was" {
	local before
	printf 'no program\n' >"$BATS_TEST_TMPDIR/file"
	# Where there was none, none is left.
	run_keylock -A key no-such-command
	expect_message 127
	[ "$(files)" = 0 ]
	run_keylock -R key "$BATS_TEST_TMPDIR/file"
	expect_message 126
	[ "$(files)" = 0 ]
	leave_in_doubt KILL
	before=$(checksum)
	run_keylock -R key no-such-command
	expect_message 127
	[ "$(checksum)" = "$before" ]
	run_keylock -R key "$BATS_TEST_TMPDIR/file"
	expect_message 126
	[ "$(checksum)" = "$before" ]
	in_doubt key
}

@test "what is no record counts as one: torn, foreign, binary, huge" {
	local content before good fields odd=()
	run_keylock -A key sh -c 'cat "$KEYLOCK_DIR/key"'
	good=$output
	# Of a record's length, too.
	fields='pid=1 since=2026-11-24T23:26:16Z cause=killed command=sh'
	for content in "${fields/1/x}" "${fields/1/-1}" "${fields/1/}" "${fields/2026-11-24T23:26:16Z/}" \
		"${fields/killed/}" "${fields/since/until}" "${fields/ cause/cause}" "${fields/command=sh/}" \
		"${fields/sh/$'\e'[31m}" "${fields/sh/$'\x7f'}" "${fields/killed/killed$'\n'}"; do
		printf -v content 'keylock1 %-182s\n' "$content"
		[ "${#content}" = 192 ]
		odd+=("$content")
	done
	for content in k "${good:0:20}" "${good:0:191}" "$good" "$good"' \n' "$good"'\n\n' '\n' ' ' '\0' \
		'pid\n' "${good/keylock1/keylock2}"'\n' "${good/keylock1/keylock}"'\n' "${good/pid=/pid=x}"'\n' \
		"${good/since=/when_=}"'\n' "${good/cause=/\\033[31}"'\n' "${good/cause=/\\0aus\\0}"'\n' \
		"$(printf '%0192d' 0)" "$(printf '%01000d' 0)" '\377\376\375\n' \
		'keylock1\n' 'keylock1 pid= since= cause= command=\n' 'hello, world\n' "${odd[@]}"; do
		write_record "$content"
		before=$(checksum)
		run_keylock -A key touch "$BATS_TEST_TMPDIR/ran"
		expect_message 76 cause=unreadable --forget
		[[ $stderr != *[[:cntrl:]]* ]]
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		[ "$(checksum)" = "$before" ]
		run_keylock -R key no-such-command
		expect_message 127
		[ "$(checksum)" = "$before" ]
		run_keylock key true
		expect 0
		[ "$(checksum)" = "$before" ]
		run_keylock -R key printenv KEYLOCK_ABANDONED
		expect 0
		[[ $output == *cause=unreadable* && $output != *$'\n'* ]]
		[ "$(files)" = 0 ]
	done
}

@test "a huge file is no record, and is not read in" {
	local before
	write_record x
	truncate -s 10G "$KEYLOCK_DIR/key"
	run_keylock -A key true
	expect_message 76 cause=unreadable
	[ "$(stat -c %s "$KEYLOCK_DIR/key")" = 10737418240 ]
	run_keylock --list key
	expect 0
	[[ $output == *abandoned* ]]
	# One that dies over it leaves its own record, in full.
	run_keylock -R key sh -c 'kill -KILL $$'
	expect 137
	run_keylock -A key true
	expect_message 76 cause=signal-9
	# And one that is killed at least something that is not clean.
	write_record x
	truncate -s 1G "$KEYLOCK_DIR/key"
	hold -R key
	kill_both
	in_doubt key
	run_keylock --forget key
	expect 0
	[ "$(files)" = 0 ]
}

@test "P8 crash-honest: a foreign file that happens to bear the key's name is never written to: 77" {
	local content options
	mkdir -m 700 "$KEYLOCK_DIR"
	for content in 'precious\n' 'keylock\n' 'keylock2 pid=1\n' '#!/bin/sh\n'; do
		# shellcheck disable=SC2059
		printf "$content" >"$KEYLOCK_DIR/key"
		for options in -A -R --forget '-A -s' '-R -k a' '-A -k z'; do
			if [ "$options" = --forget ]; then
				run_keylock --forget key
			else
				# shellcheck disable=SC2086
				run_keylock $options key touch "$BATS_TEST_TMPDIR/ran"
			fi
			expect_message 77 "$KEYLOCK_DIR/key: "
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
			# shellcheck disable=SC2059
			[ "$(cat "$KEYLOCK_DIR/key")" = "$(printf "$content")" ]
		done
	done
	run_keylock key true
	expect 0
	[ "$(cat "$KEYLOCK_DIR/key")" = '#!/bin/sh' ]
	# With the version word or empty it is keylock's, whatever made it so.
	for content in 'keylock1 ' 'keylock1 pid=\n'; do
		# shellcheck disable=SC2059
		printf "$content" >"$KEYLOCK_DIR/key"
		in_doubt key
		run_keylock --forget key
		expect 0
	done
	[ "$(files)" = 0 ]
}

@test "a command without a first line #! has its own name in its record, and a failed one leaves none" {
	printf 'cat "$KEYLOCK_DIR/key"; kill -KILL $$\n' >"$BATS_TEST_TMPDIR/charge.sh"
	chmod +x "$BATS_TEST_TMPDIR/charge.sh"
	run_keylock -A key "$BATS_TEST_TMPDIR/charge.sh" one two
	expect 137
	[[ $output =~ \ command=charge.sh\ *$ ]]
	[ "$(field command)" = charge.sh ]
	[ "$(field cause)" = signal-9 ]
	run_keylock -n -A key true
	expect_message 76 command=charge.sh
}

@test "an empty file is no record" {
	write_record ''
	clean key
}

@test "a file with another name is not written to: 77" {
	local options content
	for options in -A -R '-s -A' '-R -k a' '-A -k z'; do
		for content in '' precious; do
			write_record ''
			ln -f "$KEYLOCK_DIR/key" "$BATS_TEST_TMPDIR/other"
			printf %s "$content" >"$BATS_TEST_TMPDIR/other"
			# shellcheck disable=SC2086
			run_keylock $options key touch "$BATS_TEST_TMPDIR/ran"
			expect_message 77 "$KEYLOCK_DIR/key: "
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
			[ "$(cat "$BATS_TEST_TMPDIR/other")" = "$content" ]
			# Another key of the same run is not left in doubt.
			run_keylock -A -k a z true
			expect 0
		done
	done
	echo precious >"$BATS_TEST_TMPDIR/other"
	run_keylock --forget key
	expect_message 77 "$KEYLOCK_DIR/key"
	[ "$(cat "$BATS_TEST_TMPDIR/other")" = precious ]
	# Who does not write does not mind.
	run_keylock key echo ran
	expect 0
	[ "$(cat "$BATS_TEST_TMPDIR/other")" = precious ]
	rm "$BATS_TEST_TMPDIR/other"
	run_keylock --forget key
	expect 0
	[ "$(files)" = 0 ]
}

@test "what cannot be written: 73, and nothing is run" {
	local options
	# The limit is for our own files as well, so the message goes through a pipe.
	for options in -A -R '-A -k a' '-R -k z'; do
		# shellcheck disable=SC2086
		run_it sh -c '{ (ulimit -f 0 && exec "$KEYLOCK" "$@" key mkdir "$0"); echo "status $?"; } 2>&1 | cat' \
			"$BATS_TEST_TMPDIR/ran" $options
		[[ $output == "keylock: $KEYLOCK_DIR/"*$'\nstatus 73' ]]
		[ "$(wc -l <"$out")" = 2 ]
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		[ "$(files)" = 0 ]
	done
	run_it sh -c 'ulimit -f 0 && exec "$KEYLOCK" key true'
	expect 0
}

@test "a full tmpfs: 73 with -A, no difference without" {
	private_root bash -c '
		set -e
		mount -t tmpfs -o size=64k none /mnt
		export KEYLOCK_DIR=/mnt/dir
		"$KEYLOCK" key true
		dd if=/dev/zero of=/mnt/fill bs=4k 2>/dev/null || :
		for option in -A -R; do
			status=0
			"$KEYLOCK" "$option" key touch "$0/ran" 2>"$0/said" || status=$?
			cat "$0/said"
			[ "$status" = 73 ]
			grep -q "^keylock: /mnt/dir/key: No space left" "$0/said"
			[ ! -e "$0/ran" ]
			[ "$(ls -A /mnt/dir)" = "" ]
		done
		[ "$("$KEYLOCK" key echo ran)" = ran ]
		[ "$("$KEYLOCK" -s -A key echo ran)" = ran ]
		# A record that is there already has its room.
		rm /mnt/fill
		"$KEYLOCK" -A key sh -c "kill -KILL \$\$" || :
		dd if=/dev/zero of=/mnt/fill bs=4k 2>/dev/null || :
		[ "$("$KEYLOCK" -R key echo ran)" = ran ]
		[ "$(ls -A /mnt/dir)" = "" ]
	' "$BATS_TEST_TMPDIR"
}

@test "with several keys each has its own record" {
	local key
	hold -A -k b a
	for key in a b; do
		[[ $(record $key) =~ ^keylock1\ pid=$holder\ since=$since\ cause=killed\ command=sh\ +$ ]]
	done
	kill_both
	for key in a b; do
		run_keylock -A "$key" touch "$BATS_TEST_TMPDIR/ran"
		expect_message 76 "$key: " "pid=$holder"
	done
	run_keylock --forget a
	expect 0
	run_keylock -A a true
	expect 0
	in_doubt b
	# One in doubt is enough, and of the others none is left in doubt for it.
	run_keylock -A -k b -k c a touch "$BATS_TEST_TMPDIR/ran"
	expect_message 76 "b: "
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 1 ]
	run_keylock -A a true
	expect 0
	run_keylock -R -k b -k c a printenv KEYLOCK_ABANDONED
	expect 0
	[[ $output == "pid=$holder since="*" cause=killed command=sh" && $output != *$'\n'* ]]
	[ "$(files)" = 0 ]
	# A line for each that is in doubt.
	leave_in_doubt KILL a
	leave_in_doubt TERM c
	run_keylock -R -k b -k c a printenv KEYLOCK_ABANDONED
	[[ $output == pid=*' cause=signal-9 command=sh'$'\n'pid=*' cause=signal-15 command=sh' ]]
	[ "$(wc -l <"$out")" = 2 ]
	[ "$(files)" = 0 ]
	# Each named twice has one.
	run_keylock -A -k a -k a a true
	expect 0
	[ "$(files)" = 0 ]
}

@test "with --hold the line done ends the record" {
	local input option
	for option in -A -R; do
		run_it sh -c 'echo done | "$KEYLOCK" "$0" --hold key' "$option"
		expect 0
		[ "$output" = locked ]
		[ "$(files)" = 0 ]
		run_it sh -c 'printf "what\never\ndone\n" | "$KEYLOCK" "$0" --hold key' "$option"
		expect 0
		[ "$(files)" = 0 ]
	done
	for input in '' 'don' 'done?\n' ' done\n' 'DONE\n' 'done\nnot yet\n' 'donedone\n' 'undone\n'; do
		run_it sh -c 'printf "$0" | "$KEYLOCK" -A --hold key' "$input"
		[ "$output" = locked ]
		run_keylock -A key touch "$BATS_TEST_TMPDIR/ran"
		expect_message 76 cause=input-ended
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		run_it sh -c 'true | "$KEYLOCK" -A --hold key'
		expect_message 76
		run_keylock --forget key
	done
	# Word by word, as programs with buffers write it.
	run_it sh -c '{ printf do; sleep 0.1; printf ne; sleep 0.1; echo; } | "$KEYLOCK" -A --hold key'
	[ "$(files)" = 0 ]
}

@test "with --hold a caller that is killed leaves the record, and so does a killed keylock" {
	local caller keylock
	mkfifo "$BATS_TEST_TMPDIR/fifo"
	sh -c 'exec 8>"$0"; exec sleep 1000' "$BATS_TEST_TMPDIR/fifo" 3>&- 4>&- &
	caller=$!
	"$KEYLOCK" -A --hold key <"$BATS_TEST_TMPDIR/fifo" >"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
	keylock=$!
	wait_for 20 grep -q locked "$BATS_TEST_TMPDIR/said"
	kill -KILL "$caller"
	wait "$keylock" || :
	wait "$caller" 2>/dev/null || :
	run_keylock -A key true
	expect_message 76 "pid=$keylock" cause=input-ended
	run_keylock --forget key
	expect 0
	: >"$BATS_TEST_TMPDIR/said"
	# Open for both, the input does not end.
	"$KEYLOCK" -A --hold key <>"$BATS_TEST_TMPDIR/fifo" >"$BATS_TEST_TMPDIR/said" 3>&- 4>&- &
	keylock=$!
	wait_for 20 grep -q locked "$BATS_TEST_TMPDIR/said"
	kill -TERM "$keylock"
	status=0
	wait "$keylock" || status=$?
	expect 143
	in_doubt key
}

@test "with -l the record is settled when the command ends, not when the daemon does" {
	run_keylock -A -l key sh -c 'sleep 1000 & echo $! >"$0"' "$BATS_TEST_TMPDIR/daemon"
	expect 0
	is_taken
	[ ! -s "$KEYLOCK_DIR/key" ]
	kill -KILL "$(cat "$BATS_TEST_TMPDIR/daemon")"
	wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/daemon")"
	clean key
	run_keylock -A -l key sh -c 'sleep 1000 & echo $! >"$0"; kill -TERM $$' "$BATS_TEST_TMPDIR/daemon"
	expect 143
	is_taken
	[ "$(field cause)" = signal-15 ]
	kill -KILL "$(cat "$BATS_TEST_TMPDIR/daemon")"
	wait_for 20 is_dead "$(cat "$BATS_TEST_TMPDIR/daemon")"
	in_doubt key
}

@test "with -r the outer one decides" {
	# The inner one ends well, the outer does not.
	run_keylock -A key sh -c '"$KEYLOCK" -r -A key true; echo $?; cat "$KEYLOCK_DIR/key"; kill -KILL $$'
	expect 137
	[[ $output == 0$'\n'keylock1* ]]
	in_doubt key
	# The outer one is told already, and the inner runs.
	run_keylock -R key sh -c '"$KEYLOCK" -r -A key echo inner; "$KEYLOCK" -r -R key printenv KEYLOCK_ABANDONED
		exit 0'
	expect 0
	[ "$output" = inner ]
	[ "$(files)" = 0 ]
	# The inner one dies, the outer sees to it and ends well.
	run_keylock -A key sh -c '"$KEYLOCK" -r -A key sh -c "kill -KILL \$\$"; exit 0'
	expect 0
	[ "$(files)" = 0 ]
	# The outer one keeps no record, and so there is none.
	run_keylock key sh -c '"$KEYLOCK" -r -A key sh -c "kill -KILL \$\$"; exit 0'
	expect 0
	[ "$(files)" = 0 ]
}

@test "a daemon left behind, and -o, do not keep the record from being ended" {
	local option
	for option in -x -o; do
		run_keylock "$option" -A key sh -c 'sleep 1000 & echo $! >"$0"' "$BATS_TEST_TMPDIR/daemon"
		expect 0
		in_state "$(cat "$BATS_TEST_TMPDIR/daemon")" RSD
		[ "$(files)" = 0 ]
		clean key
	done
}

# A command unlocks the description that it shares with keylock, first, and goes on until "go".
command_unlocks() {
	need flock
	"$KEYLOCK" -A key bash -c 'for fd in /proc/self/fd/*; do
			[ "$(readlink "$fd")" != "$KEYLOCK_DIR/key" ] || flock -u "${fd##*/}"
		done
		echo >"$0/unlocked"; until [ -e "$0/go" ]; do sleep 0.01; done' "$BATS_TEST_TMPDIR" 3>&- 4>&- &
	first=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/unlocked"
}

@test "P8 crash-honest: keylock ends only its own record" {
	local first
	command_unlocks
	hold -n -R key
	[ "$(field pid)" = "$holder" ]
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	[ "$(field pid)" = "$holder" ]
	is_taken
	kill_both
	run_keylock -A key true
	expect_message 76 "pid=$holder"
}

@test "keylock does not end another's record that a dead one left meanwhile" {
	local first other
	command_unlocks
	run_keylock -n -R key sh -c 'kill -KILL $$'
	expect 137
	other=$(field pid)
	[ "$other" != "$first" ]
	touch "$BATS_TEST_TMPDIR/go"
	wait "$first"
	run_keylock -A key true
	expect_message 76 "pid=$other" cause=signal-9
}

@test "--forget clears the record; 75 while the key is held, 0 when there was nothing" {
	local begin
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
	leave_in_doubt KILL
	run_keylock --forget key
	expect_taken 0
	[ "$(files)" = 0 ]
	clean key
	leave_in_doubt KILL
	hold key
	run_keylock --forget key
	expect_taken 75
	[ -s "$KEYLOCK_DIR/key" ]
	run_keylock -E 9 --forget key
	expect_taken 9
	begin=$(milliseconds)
	run_keylock -w 0.2 --forget key
	expect_taken 75
	[ $(($(milliseconds) - begin)) -ge 200 ]
	[ -s "$KEYLOCK_DIR/key" ]
	# And with -w it waits, and then does it.
	"$KEYLOCK" -w 60 --forget key 3>&- 4>&- &
	wait_for 20 has_ticket $!
	let_go
	wait $!
	[ "$(files)" = 0 ]
	clean key
	# Who shares the key holds it.
	hold -s key
	run_keylock --forget key
	expect_taken 75
	let_go
}

@test "--forget of another key, and of one that is pinned" {
	leave_in_doubt KILL a
	leave_in_doubt KILL b
	run_keylock --forget a
	expect 0
	in_doubt b
	run_keylock --pin b
	expect 0
	in_doubt b
	run_keylock --list b
	[[ $output == *abandoned* ]]
	run_keylock --forget b
	expect 0
	[ "$(files)" = 0 ]
	run_keylock --pin c
	expect 0
	run_keylock -A c true
	expect 0
	[ "$(files)" = 1 ]
	run_keylock --forget c
	expect 0
	[ "$(files)" = 0 ]
	run_keylock --forget
	expect_message 64
	run_keylock --forget a b
	expect_message 64
}

@test "options that do not go with a record, or with --forget: 64" {
	local options
	leave_in_doubt KILL
	for options in -r -s '-j 2' '-j 1'; do
		# shellcheck disable=SC2086
		run_keylock $options --forget key
		expect_message 64
		[ -s "$KEYLOCK_DIR/key" ]
	done
	run_keylock --forget key
	for options in '-A -F' '-R -F' '-F -A' '-A -j 2' '-j 1 -R' '-A -R' '-R -A'; do
		# shellcheck disable=SC2086
		run_keylock $options key touch "$BATS_TEST_TMPDIR/ran"
		expect_message 64
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	done
	[ "$(files)" = 0 ]
}

# The calls that write or sync, that lock with flock, and that run something, one a line.
calls() {
	run_it strace -f -qq -e signal=none -e 'trace=%process,write,writev,pwrite64,pwritev,ftruncate,?ftruncate64,fsync,fdatasync,sync_file_range,flock,msync,syncfs,sync' \
		-o "$BATS_TEST_TMPDIR/trace" "$KEYLOCK" "$@"
	# Only what the first process, keylock, does.
	local first
	first=$(sed -n '1s/ .*//p' "$BATS_TEST_TMPDIR/trace")
	sed -nE "s/^($first +|[0-9]+ +(execve)).*/&/p" "$BATS_TEST_TMPDIR/trace" |
		sed -E 's/^[0-9]+ +//; s/^(<\.\.\. )?([a-z0-9_]+).*/\2/; s/^ftruncate64$/ftruncate/' | paste -sd ' ' | tee "$BATS_TEST_TMPDIR/calls"
}

@test "the record is on disk before the command starts, and its end before keylock lets go" {
	local option
	need strace
	for option in -A -R; do
		calls "$option" key true
		# A new file: its name is brought to disk, too. The first execve is keylock's own.
		grep -Eq '^execve flock pwrite64 (ftruncate )?fdatasync fsync (fsync )?(vfork|clone) ((vfork|clone) )?execve .*wait4.* (flock )?ftruncate fdatasync flock .*exit_group' "$BATS_TEST_TMPDIR/calls"
	done
	calls -A key sh -c 'kill -KILL $$'
	grep -Eq 'wait4.* flock pwrite64 (ftruncate )?fdatasync flock' "$BATS_TEST_TMPDIR/calls"
	calls -A key true
	# It is refused without anything having been written.
	! grep -Eq 'pwrite64|ftruncate|sync' "$BATS_TEST_TMPDIR/calls" || false
	calls -R key true
	grep -Eq '^execve flock pwrite64 (ftruncate )?fdatasync (vfork|clone) ((vfork|clone) )?execve .*wait4.* ftruncate fdatasync flock ' "$BATS_TEST_TMPDIR/calls"
}

@test "without -A and -R nothing is written and nothing synced" {
	local option
	need strace
	for option in -x -s -l -o '-j 2' '-k b' '-w 5' -r -s\ -A -s\ -R; do
		# shellcheck disable=SC2086
		calls $option key true
		expect 0
		! grep -Eq 'write|ftruncate|sync' "$BATS_TEST_TMPDIR/calls" || false
		grep -q execve "$BATS_TEST_TMPDIR/calls"
	done
}

@test "P8 crash-honest: killed at any time: never is a key clean whose command was in the middle" {
	local i keylock clean=0 doubt=0 rounds=60 inherit
	[ -z "${KEYLOCK_LONG-}" ] || rounds=1000
	inherit=$(probe inherit)
	for ((i = 0; i < rounds; i++)); do
		rm -f "$BATS_TEST_TMPDIR"/{charged,written}
		# In a group of its own, so that keylock and its command are killed at once.
		"$inherit" -g "$KEYLOCK" -A key sh -c 'echo >"$0/charged"; sleep 0.002; echo >"$0/written"' \
			"$BATS_TEST_TMPDIR" 3>&- 4>&- &
		keylock=$!
		sleep "0.0$((RANDOM % 2))$((RANDOM % 10))"
		kill -KILL -- "-$keylock" 2>/dev/null || :
		wait "$keylock" 2>/dev/null || :
		status=0
		"$KEYLOCK" -q -w 20 -A key true || status=$?
		case $status in
		0)
			clean=$((clean + 1))
			[ ! -e "$BATS_TEST_TMPDIR/charged" ] || [ -e "$BATS_TEST_TMPDIR/written" ]
			;;
		76)
			doubt=$((doubt + 1))
			run_keylock --forget key
			expect 0
			;;
		*)
			echo "status $status"
			false
			;;
		esac
	done
	echo "clean: $clean, in doubt: $doubt"
	[ "$doubt" -ge 1 ]
	[ "$clean" -ge 1 ]
	[ "$(files)" = 0 ]
}

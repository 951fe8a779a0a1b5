# The command line: what is refused, what is taken, and what each option changes.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154), one run reads what another program writes (SC2094).
# shellcheck disable=SC2016,SC2030,SC2031,SC2094,SC2154
load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
}

# refused ARG…: status 64, one line, nothing run, nothing made.
refused() {
	run_keylock "$@"
	expect_message 64
	[ ! -e "$ran" ]
	[ ! -e "$KEYLOCK_DIR" ]
}

@test "refused: no KEY" {
	refused
	refused -n
	refused --
	refused -w 1 -v
}

@test "refused: an empty KEY" {
	refused '' touch "$ran"
	refused -- '' touch "$ran"
	refused '' -c "touch $ran"
	refused --path ''
}

@test "refused: no COMMAND" {
	refused job7
	refused job7 --
	refused -n job7
	refused job7 -c
}

@test "refused: an unknown option" {
	refused -Z job7 touch "$ran"
	refused --frobnicate job7 touch "$ran"
	refused -nZ job7 touch "$ran"
	refused --nonblock=1 job7 touch "$ran"
	# It is named.
	[[ $stderr == *nonblock* ]]
	refused --frobnicate job7 touch "$ran"
	[[ $stderr == *frobnicate* ]]
	refused -Z job7 touch "$ran"
	[[ $stderr == *Z* ]]
}

@test "refused: an option without its value" {
	local option
	for option in -w -E -d --wait --conflict-exit-code --dir; do
		refused "$option"
	done
}

@test "refused: a TIME that is none" {
	local time
	for time in '' x 1x -1 nan 1e400 inf infinity 0x10 ' 1' '1 ' +1 1.2.3 . s ms '1 s' 1msx -0.5 \
		1,5 1e400s 999999999999999999999999d 9223372037 9223372036.9 --; do
		refused -w "$time" job7 touch "$ran"
		refused --timeout="$time" job7 touch "$ran"
		# What is refused is quoted, so that it can be found in a long line.
		[[ $stderr == *"$time"* ]]
	done
}

@test "a TIME that is finer than a nanosecond is not 0" {
	local time
	hold job7
	for time in 0 0.0000000000 0.0000000000d; do
		run_keylock -v -w "$time" job7 true
		expect_message 75 'job7: taken'
	done
	for time in 0.0000000001 0.0000000001ms 0.00000000000000001d; do
		run_keylock -v -w "$time" job7 true
		expect 75
		[[ $stderr == *'job7: not had in time'* ]]
	done
	let_go
}

@test "refused: an exit status that is none" {
	local number
	for number in '' x -1 256 99999999999999999999 +1 ' 1' '1 ' 1x 0x1 1.0 1e1 18446744073709551616; do
		refused -n -E "$number" job7 touch "$ran"
		refused --conflict-exit-code="$number" job7 touch "$ran"
		[[ $stderr == *"$number"* ]]
	done
}

@test "refused: -F with -o, in any order and spelling" {
	refused -F -o job7 touch "$ran"
	refused -oF job7 touch "$ran"
	refused --close --no-fork job7 touch "$ran"
}

@test "refused: a relative directory" {
	cd "$BATS_TEST_TMPDIR"
	local dir
	for dir in lock ./lock ../lock . ''; do
		refused -d "$dir" job7 touch "$ran"
		refused --dir="$dir" --path job7
		[ ! -e lock ]
	done
	export KEYLOCK_DIR=lock
	refused job7 touch "$ran"
}

@test "refused: more than one KEY for --path, or a COMMAND" {
	refused --path
	refused --path job7 touch "$ran"
}

@test "refused: options that do not go together" {
	refused --list --who job7
	[[ $stderr == *'only one of'* ]]
	refused --pin --forget job7
	refused --hold --path job7
	refused --json job7 touch "$ran"
	refused --json --who job7
	refused --auto --path job7
}

@test "refused: an option behind KEY, where a command of that name is hardly meant" {
	refused job7 -n touch "$ran"
	[[ $stderr == *'-n: '* ]]
	refused job7 --wait=1 touch "$ran"
}

@test "a command line that is refused is refused though the key is taken" {
	hold job7
	run_keylock -n -w x job7 true
	expect_message 64
	run_keylock -q -E 256 job7 true
	expect_message 64
}

@test "taken: a TIME in each unit" {
	local time
	for time in 0 0.5 .5 1 500ms 10s 5m 2h 1d 00; do
		run_keylock -w "$time" job7 true
		expect 0
		[ -z "$stderr" ]
	done
}

@test "-w: gives up after TIME, not before and not long after" {
	hold job7
	local time start took
	for time in 0.2 200ms; do
		start=$(milliseconds)
		run_keylock -w "$time" job7 touch "$ran"
		took=$(($(milliseconds) - start))
		expect_taken 75
		[ "$took" -ge 200 ]
		# The machine may be busy; a wrong unit would be 1000 times off.
		[ "$took" -lt 10000 ]
	done
	start=$(milliseconds)
	run_keylock -w 1m -n job7 touch "$ran"
	expect_taken 75
	run_keylock -w 0 job7 touch "$ran"
	expect_taken 75
	run_keylock --wait=0ms job7 touch "$ran"
	expect_taken 75
	[ $(($(milliseconds) - start)) -lt 10000 ]
	[ ! -e "$ran" ]
}

# waits ARG…: fails unless keylock waits for the held key and then runs.
waits() {
	local waiter
	"$KEYLOCK" "$@" job7 sh -c "echo done >'$ran'" 3>&- 4>&- &
	waiter=$!
	started "$waiter"
	# Where it gave up instead, it is gone before it could wait.
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	[ ! -e "$ran" ]
	let_go
	wait "$waiter"
	[ -s "$ran" ]
	rm "$ran"
}

@test "the last of -n and -w wins" {
	hold job7
	run_keylock -w 60 -n job7 touch "$ran"
	expect_taken 75
	run_keylock -n -w 0.1 -n job7 touch "$ran"
	expect_taken 75
	waits -n -w 60
}

@test "-n in all its spellings does not wait" {
	hold job7
	local option
	for option in -n --nb --nonblock --nonblocking; do
		run_keylock "$option" job7 touch "$ran"
		expect_taken 75
	done
	[ ! -e "$ran" ]
}

@test "-w in all its spellings" {
	local option
	for option in '-w 60' -w60 '--wait 60' --wait=60 '--timeout 60s' --timeout=60000ms; do
		hold job7
		# shellcheck disable=SC2086
		waits $option
	done
}

@test "the last of -s and -x wins" {
	hold -s job7
	run_keylock -n -x -s job7 true
	expect 0
	run_keylock -n -xs job7 true
	expect 0
	run_keylock -n -s -x job7 touch "$ran"
	expect_taken 75
	[ ! -e "$ran" ]
	let_go
	hold -s -x job7
	run_keylock -n -s job7 touch "$ran"
	expect_taken 75
	[ ! -e "$ran" ]
}

@test "-s and -x in all their spellings; exclusive is the default" {
	local option
	for option in -s --shared; do
		hold "$option" job7
		run_keylock -n --shared job7 true
		expect 0
		run_keylock -n job7 true
		expect 75
		let_go
	done
	for option in -x -e --exclusive -v; do
		hold "$option" job7
		run_keylock -n -s job7 true
		expect 75
		let_go
	done
	[ "$(files)" = 0 ]
}

@test "-E in all its spellings" {
	hold job7
	local option
	for option in '-E 9' -E9 '--conflict-exit-code 9' --conflict-exit-code=9; do
		# shellcheck disable=SC2086
		run_keylock -n $option job7 touch "$ran"
		expect_taken 9
	done
}

@test "-F: the command is in keylock's place" {
	local option
	for option in -F --no-fork; do
		run_it sh -c 'echo $$; exec "$KEYLOCK" "$0" job7 sh -c "echo \$\$"' "$option"
		expect 0
		[ "${output%%$'\n'*}" = "${output##*$'\n'}" ]
	done
	run_it sh -c 'echo $$; exec "$KEYLOCK" job7 sh -c "echo \$\$; exit 0"'
	[ "${output%%$'\n'*}" != "${output##*$'\n'}" ]
}

@test "-d: overrides KEYLOCK_DIR" {
	local option other=$BATS_TEST_TMPDIR/other
	for option in "-d $other" "-d$other" "--dir $other" "--dir=$other"; do
		# shellcheck disable=SC2086
		run_keylock $option --path job7
		expect 0
		[ "$output" = "$other/job7" ]
		[ ! -e "$other" ]
	done
	run_keylock -d "$other" job7 ls -A "$other"
	expect 0
	[ "$output" = job7 ]
	[ ! -e "$KEYLOCK_DIR" ]
	hold job7
	run_keylock -n -d "$other" job7 true
	expect 0
	run_keylock -d "$other" -n -d "$KEYLOCK_DIR" job7 true
	expect 75
}

@test "-c: the script is run by /bin/sh, whatever SHELL is" {
	local option
	for option in -c --command; do
		run_it env SHELL=/bin/false "$KEYLOCK" job7 "$option" 'echo "$KEYLOCK_KEY" "$((1 + 1))"; exit 3'
		expect 3
		[ "$output" = 'job7 2' ]
	done
	run_keylock job7 -c 'readlink /proc/$$/exe; :'
	[ "$output" = "$(readlink -f /bin/sh)" ]
}

@test "options end at KEY: the rest is the command's, word for word" {
	run_keylock job7 printf '[%s]' a '' 'b c' -n -- '*' $'x\ny'
	expect 0
	[ "$output" = $'[a][][b c][-n][--][*][x\ny]' ]
	run_keylock job7 -- printf '[%s]' -w x --help
	expect 0
	[ "$output" = '[-w][x][--help]' ]
	run_keylock -- job7 -- echo --
	expect 0
	[ "$output" = -- ]
	run_keylock job7 sh -c 'echo "$0" "$1"' -v --frobnicate
	expect 0
	[ "$output" = '-v --frobnicate' ]
}

@test "a KEY that begins with - stands after --" {
	run_keylock -- -n sh -c 'ls -A "$KEYLOCK_DIR"'
	expect 0
	[ "$output" = -n ]
	run_keylock -- -- echo ran
	expect 0
	[ "$output" = ran ]
}

@test "-c after -- belongs to the command" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\necho "command -c: $1"\n' >"$BATS_TEST_TMPDIR/bin/-c"
	chmod +x "$BATS_TEST_TMPDIR/bin/-c"
	run_it env PATH="$BATS_TEST_TMPDIR/bin:$PATH" "$KEYLOCK" job7 -- -c x
	expect 0
	[ "$output" = 'command -c: x' ]
}

@test "a run without trouble says nothing, and standard output is the command's alone" {
	run_keylock job7 echo hello
	expect 0
	[ "$output" = hello ]
	[ -z "$stderr" ]
	run_keylock -v job7 echo hello
	expect 0
	[ "$output" = hello ]
	run_it sh -c 'printf 1; echo in | "$KEYLOCK" job7 cat; printf 3'
	[ "$output" = $'1in\n3' ]
	[ -z "$stderr" ]
}

@test "a taken key is told by the status alone, with -q too" {
	hold job7
	local option
	for option in -x -q --quiet; do
		run_keylock "$option" -n job7 touch "$ran"
		expect_taken 75
		run_keylock "$option" -w 0.05 job7 touch "$ran"
		expect_taken 75
	done
	[ ! -e "$ran" ]
}

@test "-q: errors of usage and of the system are still told" {
	run_keylock -q -d "$BATS_TEST_TMPDIR/none/none" job7 true
	expect_message 73 "$BATS_TEST_TMPDIR/none/none"
	PATH=/usr/bin:/bin
	run_keylock -q job7 no-such-command-here
	expect_message 127 no-such-command-here
	run_keylock -q -w x job7 true
	expect_message 64
}

@test "-v: says why not, in one line on standard error that names the key" {
	hold job7
	local option
	for option in -v --verbose; do
		run_keylock "$option" -n job7 touch "$ran"
		expect_message 75 job7
		run_keylock "$option" -w 0.05 job7 touch "$ran"
		[ "$status" = 75 ]
		[ ! -s "$out" ]
		# What it says while it waits comes before; all of it is keylock's.
		[[ $stderr == *job7* ]]
		run_it grep -v '^keylock: ' "$err"
		expect 1
	done
	[ ! -e "$ran" ]
}

@test "-v: whatever it says is said before the command starts" {
	local waiter
	hold job7
	: >"$err"
	"$KEYLOCK" -v -w 60 job7 cp "$err" "$ran" >"$out" 2>"$err" 3>&- 4>&- &
	waiter=$!
	started "$waiter"
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	let_go
	wait "$waiter"
	[ ! -s "$out" ]
	cmp "$err" "$ran"
}

@test "the last of -v and -q wins" {
	hold job7
	run_keylock -v -q -n job7 true
	expect_taken 75
	run_keylock -q -v -n job7 true
	expect_message 75 job7
}

@test "a long option may be shortened as long as only one is meant" {
	hold job7
	run_keylock --nonbl job7 touch "$ran"
	expect_taken 75
	run_keylock --wai=0.01 --confl 9 job7 touch "$ran"
	expect_taken 9
	let_go
	[ "$(files)" = 0 ]
	# wait and who, shared and slots, hold and help.
	rmdir "$KEYLOCK_DIR"
	refused --w 1 job7 touch "$ran"
	refused --s job7 touch "$ran"
	refused --h
}

@test "an empty KEYLOCK_DIR is none" {
	run_it env -u KEYLOCK_DIR "$KEYLOCK" --path job7
	expect 0
	local default=$output
	run_it env KEYLOCK_DIR= "$KEYLOCK" --path job7
	expect 0
	[ "$output" = "$default" ]
}

@test "--auto without a command is refused" {
	refused --auto
	refused -a --
}

@test "-h and -V: on standard output, 0, nothing made" {
	local option
	for option in -h --help -V --version; do
		run_keylock "$option"
		expect 0
		[ -n "$output" ]
		[ -z "$stderr" ]
		[ ! -e "$KEYLOCK_DIR" ]
	done
	run_keylock --version
	[[ $output =~ ^keylock\ [0-9]+(\.[0-9]+)*$ ]]
	# Whatever else is asked for; the first one wins.
	run_keylock --version --list --help
	expect 0
	[[ $output =~ ^keylock\ [0-9]+(\.[0-9]+)*$ ]]
	run_keylock --list --help --who
	expect 0
	[[ $output == Usage:* ]]
	run_keylock --help
	local word
	for word in KEY COMMAND --exclusive --shared --nonblock --wait --conflict-exit-code --no-fork --close \
		--linger --command --dir --path --verbose --quiet --help --version; do
		[[ $output == *"$word"* ]]
	done
}

@test "the command alone decides when its input's writer and its output's reader see it closed" {
	local runner writer
	mkfifo "$BATS_TEST_TMPDIR/in" "$BATS_TEST_TMPDIR/out.fifo" "$BATS_TEST_TMPDIR/go"
	"$KEYLOCK" job7 sh -c 'exec 8<>"$0"; echo hello; exec <&- >&-; read -r _ <&8' "$BATS_TEST_TMPDIR/go" \
		<"$BATS_TEST_TMPDIR/in" >"$BATS_TEST_TMPDIR/out.fifo" 3>&- 4>&- &
	runner=$!
	started "$runner"
	env --default-signal=PIPE yes >"$BATS_TEST_TMPDIR/in" 2>/dev/null 3>&- 4>&- &
	writer=$!
	started "$writer"
	# Where keylock kept its own, these would last until the command ends.
	run_it cat "$BATS_TEST_TMPDIR/out.fifo"
	expect 0
	[ "$output" = hello ]
	wait_for 20 is_dead "$writer"
	kill -0 "$runner"
	[ "$(files)" = 1 ]
	echo 1<>"$BATS_TEST_TMPDIR/go"
	wait "$runner"
}

@test "no descriptor of keylock's is in the way, whichever of 0, 1, 2 are closed" {
	local closed mode probe
	probe=$(probe descriptors)
	for closed in '' '<&-' '>&-' '2>&-' '<&- >&-' '<&- 2>&-' '>&- 2>&-' '<&- >&- 2>&-'; do
		# What the command has without keylock is what it must have with it.
		run_it bash -c "exec \"\$@\" $closed" - "$probe" "$BATS_TEST_TMPDIR/without"
		expect 0
		for mode in -x -F -v; do
			run_it bash -c "exec \"\$@\" $closed" - "$KEYLOCK" "$mode" job7 "$probe" "$BATS_TEST_TMPDIR/with"
			expect 0
			# Exactly one more: the lock, at 10 or above.
			run_it diff "$BATS_TEST_TMPDIR/without" "$BATS_TEST_TMPDIR/with"
			[[ $output =~ ^[0-9]+a[0-9]+$'\n'\>\ ([0-9]+)\ $KEYLOCK_DIR/job7$ ]]
			[ "${BASH_REMATCH[1]}" -ge 10 ]
			# It had its lock to the end, and let it go.
			[ "$mode" = -F ] || [ "$(files)" = 0 ]
		done
		for mode in -o -os; do
			run_it bash -c "exec \"\$@\" $closed" - "$KEYLOCK" "$mode" job7 "$probe" "$BATS_TEST_TMPDIR/with"
			expect 0
			diff "$BATS_TEST_TMPDIR/with" "$BATS_TEST_TMPDIR/without"
		done
	done
	rm -f "$KEYLOCK_DIR/job7"
}

@test "the command gets one descriptor of keylock's with -s and -l, none with --close" {
	local mode probe
	probe=$(probe descriptors)
	run_it "$probe" "$BATS_TEST_TMPDIR/without"
	for mode in -s -l -n -w9; do
		run_keylock "$mode" job7 "$probe" "$BATS_TEST_TMPDIR/with"
		expect 0
		run_it diff "$BATS_TEST_TMPDIR/without" "$BATS_TEST_TMPDIR/with"
		[[ $output =~ ^[0-9]+a[0-9]+$'\n'\>\ ([0-9]+)\ $KEYLOCK_DIR/job7$ ]]
		[ "${BASH_REMATCH[1]}" -ge 10 ]
	done
	run_keylock --close job7 "$probe" "$BATS_TEST_TMPDIR/with"
	diff "$BATS_TEST_TMPDIR/without" "$BATS_TEST_TMPDIR/with"
	[ "$(files)" = 0 ]
}

@test "keylock's own lock is none of 0, 1, 2 when they came in closed" {
	local closed fd where runner
	for closed in '2>&-' '<&- >&- 2>&-'; do
		rm -f "$ran"
		bash -c "exec \"\$@\" $closed" - "$KEYLOCK" job7 \
			sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' "$ran" 3>&- 4>&- &
		runner=$!
		started "$runner"
		wait_for 20 test -s "$ran"
		ls -l "/proc/$runner/fd"
		for fd in 0 1 2; do
			where=$(readlink "/proc/$runner/fd/$fd") || continue
			[[ $where != "$KEYLOCK_DIR"* ]]
		done
		kill "$(cat "$ran")"
		wait "$runner" || :
		[ "$(files)" = 0 ]
	done
}

@test "descriptors that the caller has at 10 and above stay the caller's" {
	local probe
	probe=$(probe descriptors)
	# One redirection an exec: with several, bash drops those above the first.
	run_it bash -c 'exec 10</dev/zero; exec 11</dev/full; exec 12</dev/null; exec 13</dev/zero
		exec "$KEYLOCK" job7 "$0" "$1"' "$probe" "$BATS_TEST_TMPDIR/with"
	expect 0
	cat "$BATS_TEST_TMPDIR/with"
	grep -qx '10 /dev/zero' "$BATS_TEST_TMPDIR/with"
	grep -qx '11 /dev/full' "$BATS_TEST_TMPDIR/with"
	grep -qx '12 /dev/null' "$BATS_TEST_TMPDIR/with"
	grep -qx '13 /dev/zero' "$BATS_TEST_TMPDIR/with"
	[ "$(grep -c " $KEYLOCK_DIR/" "$BATS_TEST_TMPDIR/with")" = 1 ]
}

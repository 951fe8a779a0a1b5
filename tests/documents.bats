# README, manual page, --help and code say the same, and what the README and the manual page show is
# what happens: each transcript in them is run.
#
# A transcript is an indented block in which lines that begin with "$ " are commands and the others
# what they print on a terminal. It is run by one shell on a terminal, in an empty folder, with
# keylock on PATH and an empty KEYLOCK_DIR. In what it shows
#
#	812			stands for any number, as of a process
#	held for 9s		stands for any duration
#	2026-11-24T23:26:16Z	stands for any time
#	two blanks and more	stand for any number of them from two on
#
# A line that ends in a blank and a backslash goes on in the next. "$ cat FILE" shows a file that is
# made before. After a command that ends in "&" the next one comes when its keylock runs its command
# or waits. What the shell itself says about jobs is left out.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
load helper

setup() {
	keylock_setup
	top=$BATS_TEST_DIRNAME/..
	page=$top/keylock.1 readme=$top/README
}

# compare WHAT: has tools/documents.py compare the documents and the code.
compare() {
	need python3
	"$KEYLOCK" --help | python3 "$BATS_TEST_DIRNAME/tools/documents.py" "$1" "$top"
}

# plain: roff's escapes, as far as the page uses them, as what they show.
plain() {
	sed -e "s/\\\\(aq/'/g" -e 's/\\(dq/"/g' -e 's/\\-/-/g' -e 's/\\&//g' -e 's/\\e/\\/g'
}

# --- options, statuses, messages ---

@test "the options of the code, of the manual page and of --help are the same" {
	compare options
}

@test "each option of the manual page is taken by keylock" {
	local names name value
	while read -r names; do
		case $names in
		*--wait* | *--warn-held* | *--slots* | *--key*) value=(1) ;;
		*--conflict-exit-code*) value=(3) ;;
		*--dir*) value=("$BATS_TEST_TMPDIR/other") ;;
		*) value=() ;;
		esac
		for name in $names; do
			run_keylock "$name" ${value[@]+"${value[@]}"} key
			[[ $stderr != *'no such option'* ]]
		done
	done < <(sed -n 's/^\.It \(Fl .*\)/\1/p' "$page" | sed 's/ Ar [a-z]*//g; s/Fl /-/g; s/ ,//g' | grep -v command)
	run_keylock key -c 'exit 7'
	expect 7
	run_keylock key --command 'exit 7'
	expect 7
}

@test "the exit statuses of code, header comment, --help, manual page and README are the same" {
	compare statuses
}

@test "each message of the code is in the manual page, and each of the manual page in the code, word for word" {
	compare messages
}

# --- transcripts ---

# blocks FILE FOLDER: writes each transcript of FILE to a file of its own in FOLDER.
blocks() {
	mkdir -p "$2"
	case $1 in
	*.1) plain <"$1" | awk '/^\.Ed/ { on = 0; print "" } on { print "    " $0 } /^\.Bd -literal/ { on = 1 }' ;;
	*) cat "$1" ;;
	esac | awk -v folder="$2" '
		/^    / { block = block substr($0, 5) "\n"; next }
		{ done() }
		END { done() }
		function done() {
			if (block ~ /(^|\n)\$ /)
				printf "%s", block >(folder "/" sprintf("%03d", ++count))
			block = ""
		}'
}

# begun PID: whether it has come to rest as a keylock, which waits or runs its command, or is gone.
begun() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
	[[ $stat == *'(keylock) S '* ]]
}

# mark NUMBER LINES: what the shell of a transcript runs after each command. Waits for what the
# command has put in the background, and for the LINES that it is to print; keeps $?.
mark() {
	local kept=$? round
	if [ "$!" != "$last" ]; then
		last=$!
		round=0
		until begun "$last" && [ "$(wc -l <"$printed")" -ge "$2" ]; do
			[ $((round += 1)) -le 2000 ] || break
			sleep 0.01
		done
	fi
	echo "-- after command $1"
	return "$kept"
}

# play BLOCK: runs a transcript; fails, showing the difference, unless it prints what it shows.
play() {
	local work=$BATS_TEST_TMPDIR/play line more command='' number=0 to_print=0 wrong=0 i
	rm -rf "$work"
	mkdir -p "$work/bin" "$work/here"
	ln -s "$KEYLOCK" "$work/bin/keylock"
	: >"$work/expected"
	{
		declare -f begun mark
		printf 'printed=%q last=\n' "$work/printed"
		# shellcheck disable=SC2094
		while IFS= read -r line; do
			while [[ $line == *$' \\' ]] && read -r more; do
				line=${line%\\}$more
			done
			if [[ $line == '$ '* ]]; then
				[ -z "$command" ] || printf 'mark %d %d\n' "$number" "$to_print"
				[ "$number" = 0 ] || echo "-- after command $number" >>"$work/expected"
				[ "$number" = 0 ] || to_print=$((to_print + 1))
				number=$((number + 1)) command=${line#'$ '}
				printf '%s\n' "$command"
				[[ $command != 'cat '* ]] || : >"$work/here/${command#cat }"
			else
				printf '%s\n' "$line" >>"$work/expected"
				to_print=$((to_print + 1))
				[[ $command != 'cat '* ]] || printf '%s\n' "$line" >>"$work/here/${command#cat }"
			fi
		done <"$1"
		printf 'mark %d %d\n' "$number" "$to_print"
		echo "-- after command $number" >>"$work/expected"
	} >"$work/script"
	(
		cd "$work/here" || exit
		export KEYLOCK_DIR=$work/dir PATH=$work/bin:$PATH
		exec script -qefc "bash ../script" /dev/null >"$work/printed" 2>&1 3>&- 4>&-
	) || :
	end_left_over
	sed -E -e 's/\r$//' -e '/^(Terminated|Killed)$/d' -e 's/   */  /g' \
		-e '/^\.\.\/script: line [0-9]+: +[0-9]+ [A-Z][a-z]+ /d' "$work/printed" >"$work/actual"
	mapfile -t expected < <(sed -e 's/[][\.*^$+?(){}|]/\\&/g' -e 's/   */  /g' \
		-e 's/\<812\>/[0-9]+/g' -e 's/held for 9s/held for ([0-9]+[dhms])+/g' \
		-e 's/2026-11-24T23:26:16Z/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z/g' "$work/expected")
	mapfile -t actual <"$work/actual"
	[ ${#expected[@]} = ${#actual[@]} ] || wrong=1
	for i in "${!expected[@]}"; do
		[[ ${actual[i]-} =~ ^${expected[i]}$ ]] || wrong=1
	done
	[ "$wrong" = 0 ] || {
		echo 'this transcript does not print what it shows:'
		cat "$1"
		diff -u --label shown --label printed "$work/expected" "$work/actual"
		return 1
	}
}

play_all() {
	local block wrong=0
	blocks "$1" "$BATS_TEST_TMPDIR/blocks"
	for block in "$BATS_TEST_TMPDIR"/blocks/*; do
		play "$block" || wrong=$((wrong + 1))
	done
	[ "$wrong" = 0 ]
}

@test "the transcripts of the README print what they show" {
	need script flock
	play_all "$readme"
	[ "$(cat "$BATS_TEST_TMPDIR"/blocks/* | grep -c '^\$ ')" -ge 15 ]
}

@test "the examples of the manual page print what they show" {
	need script
	play_all "$page"
	[ "$(cat "$BATS_TEST_TMPDIR"/blocks/* | grep -c '^\$ ')" -ge 8 ]
}

@test "a transcript that is wrong is noticed" {
	need script
	local work=$BATS_TEST_TMPDIR/wrong text
	mkdir "$work"
	printf '%s\n' '$ keylock key echo one' one >"$work/right"
	play "$work/right"
	for text in 'one more line' 'two' ''; do
		{
			echo '$ keylock key echo one'
			[ "$text" != 'one more line' ] || echo one
			[ -z "$text" ] || echo "$text"
		} >"$work/block"
		run play "$work/block"
		[ "$status" = 1 ]
	done
	# The status of the command before, and what runs in the background, are seen, too.
	printf '%s\n' '$ keylock key sleep 600 &' '$ keylock -q -n key true' '$ echo $?' 75 >"$work/right"
	play "$work/right"
	printf '%s\n' '$ keylock key true' '$ keylock -n key true' '$ echo $?' 75 >"$work/block"
	run play "$work/block"
	[ "$status" = 1 ]
	printf '%s\n' '$ keylock key echo 5 held for 3m2s, one '$'\\' 'line' '5 held for 3m2s, '$'\\' 'one line' |
		sed -e 's/^5 held for 3m2s/812 held for 9s/' >"$work/right"
	play "$work/right"
	printf '%s\n' '$ keylock key echo x held for 3m2s' '812 held for 9s' >"$work/block"
	run play "$work/block"
	[ "$status" = 1 ]
}

@test "a line for crontab runs the job, and is silent and 0 while it runs" {
	local file line bin=$BATS_TEST_TMPDIR/bin seen=0
	mkdir "$bin"
	ln -s "$KEYLOCK" "$bin/keylock"
	printf '#!/bin/sh\necho reported\n' >"$bin/report"
	chmod +x "$bin/report"
	for file in "$readme" "$page"; do
		line=$(sed -n 's|^ *\*/5 \* \* \* \* /usr/local/bin/keylock |keylock |p' "$file")
		[ -n "$line" ] && [[ $line != *$'\n'* ]]
		line=$bin/${line//\/usr\/local\/bin/"$bin"}
		run_it env -i PATH=/usr/bin:/bin KEYLOCK_DIR="$KEYLOCK_DIR" /bin/sh -c "$line"
		expect 0
		[ "$output" = reported ]
		hold report
		run_it env -i PATH=/usr/bin:/bin KEYLOCK_DIR="$KEYLOCK_DIR" /bin/sh -c "$line"
		expect 0
		[ -z "$output$stderr" ]
		let_go
		seen=$((seen + 1))
	done
	[ "$seen" = 2 ]
}

@test "the script of the manual page that wraps itself runs once at a time" {
	local script=$BATS_TEST_TMPDIR/script
	plain <"$page" | sed -n '/^#!\/bin\/sh$/,/^\.Ed/{/^\.Ed/!p;}' >"$script"
	[ -s "$script" ]
	mkdir "$BATS_TEST_TMPDIR/bin"
	ln -s "$KEYLOCK" "$BATS_TEST_TMPDIR/bin/keylock"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	run_it sh "$script"
	expect 0
	[ "$output" = 'nobody else is here' ]
	hold nightly
	run_it sh "$script"
	expect 75
	[ -z "$output" ]
	let_go
}

# --- set-up and CI ---

@test "the README has two set-up lines that can be pasted" {
	mapfile -t lines < <(grep -n 'apt-get' "$readme")
	[ ${#lines[@]} = 2 ]
	mapfile -t lines < <(grep '^sudo apt-get update && sudo apt-get install -y [a-z0-9+. -]* && make' "$readme")
	[ ${#lines[@]} = 2 ]
	[[ ${lines[0]} =~ ' && make && ./keylock hello echo "alone"'$ ]]
	[[ ${lines[1]} =~ ' && make check'$ ]]
	# They stand in the first screen.
	[[ $(head -n 30 "$readme") == *"${lines[0]}"*"${lines[1]}"* ]]
}

# The scene of .ci/run: every tool that it calls notes the call instead, in order.
scene() {
	local tool
	tree=$BATS_TEST_TMPDIR/tree bin=$BATS_TEST_TMPDIR/fakes calls=$BATS_TEST_TMPDIR/calls
	mkdir -p "$tree" "$bin"
	cp -R "$top/.ci" "$readme" "$tree"
	for tool in apt-get make setpriv chown "$@"; do
		printf '#!/bin/sh\necho "%s $*" >>%q\n' "$tool" "$calls" >"$bin/$tool"
	done
	printf '#!/bin/sh\necho "./keylock $*" >>%q\n' "$calls" >"$tree/keylock"
	chmod +x "$bin"/* "$tree/keylock"
	: >"$calls"
}

@test ".ci/run runs the set-up lines of the README, with sudo and without, and sums up" {
	[ -f "$top/.ci/run" ] || skip 'no .ci in this tree'
	local packages
	packages=$(sed -n 's/.*apt-get install -y \(.*\) && make check$/\1/p' "$readme")
	[ -n "$packages" ]
	# The lines are the README's and stand nowhere else.
	run_it grep -F -e "$packages" -e 'musl-tools' "$top/.ci/run"
	[ -z "$output" ]

	scene
	printf '#!/bin/sh\necho "sudo $*" >>%q\n"$@"\n' "$calls" >"$bin/sudo"
	chmod +x "$bin/sudo"
	run_it env PATH="$bin:$PATH" bash "$tree/.ci/run"
	expect 0
	[[ $output =~ $'\n'[0-9]+' passed, 0 failed, '[0-9]+' skipped'$ ]]
	[[ $(cat "$calls") == *"./keylock hello echo alone"*"
sudo apt-get install -y $packages
apt-get install -y $packages
make check
"* ]]
	# Those two run side by side.
	[[ $(cat "$calls") == *'make lint'* && $(cat "$calls") == *'make check-long'* ]]

	if [ "$(id -u)" = 0 ]; then
		scene
		rm -f "$bin/sudo"
		run_it env PATH="$bin:/usr/bin:/bin" bash "$tree/.ci/run"
		expect 0
		[[ $(cat "$calls") == *"apt-get install -y $packages
make check
"* ]]
	fi
}

@test ".ci/run fails when a step fails" {
	[ -f "$top/.ci/run" ] || skip 'no .ci in this tree'
	local step
	for step in check lint check-long proof; do
		scene sudo
		printf '#!/bin/sh\n"$@"\n' >"$bin/sudo"
		printf '#!/bin/sh\n[ "$1" != %s ]\n' "$step" >"$bin/make"
		run_it env PATH="$bin:$PATH" bash "$tree/.ci/run"
		expect 1
		[[ $output =~ $'\n'[0-9]+' passed, '[1-9][0-9]*' failed, '[0-9]+' skipped'$ ]]
	done
	# A test that fails is counted and named, though the run goes on.
	scene sudo
	printf '#!/bin/sh\n"$@"\n' >"$bin/sudo"
	printf '#!/bin/sh\n%s\n' '[ "$1" != check ] || { echo "ok 1 a"; echo "ok 2 b # skip c"; echo "not ok 3 d"; exit 1; }' \
		>"$bin/make"
	run_it env PATH="$bin:$PATH" bash "$tree/.ci/run"
	expect 1
	[[ $output == *$'\nnot ok 3 d\n'* && $output != *$'\n'*' passed, 0 failed'* ]]
}

# --- form ---

@test "the manual page is clean under mandoc's lint" {
	need mandoc
	run_it mandoc "$page"
	expect 0
	# Which manuals this machine has is no matter of the page.
	mandoc -Tlint -Wstyle "$page" 2>/dev/null | grep -v 'referenced manual not found' >"$BATS_TEST_TMPDIR/lint" || :
	cat "$BATS_TEST_TMPDIR/lint"
	[ ! -s "$BATS_TEST_TMPDIR/lint" ]
}

@test "the manual page has its sections, the README is plain text of 80 columns" {
	local section
	for section in NAME SYNOPSIS DESCRIPTION ENVIRONMENT FILES 'EXIT STATUS' EXAMPLES DIAGNOSTICS \
		'SEE ALSO' CAVEATS 'SECURITY CONSIDERATIONS'; do
		grep -qx "\.Sh $section" "$page"
	done
	for section in 'Lock file' Waiting Signals; do
		grep -qx "\.Ss $section" "$page"
	done
	run_it awk '!/^sudo apt-get/ && length($0) > 80' "$readme"
	[ -z "$output" ]
	run_it grep -nE '^#|^```|\*\*|\[[^]]*\]\(' "$readme"
	[ -z "$output" ]
}

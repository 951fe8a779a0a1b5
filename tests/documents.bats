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

load helper

setup() {
	keylock_setup
	top=$BATS_TEST_DIRNAME/..
	page=$top/keylock.1 readme=$top/README
}

# compare WHAT: has tools/documents.py compare the documents and the code.
compare() {
	"$KEYLOCK" --help | python3 "$tools/documents.py" "$1" "$top"
}

# plain: roff's escapes, as far as the page uses them, as what they show.
plain() {
	sed -e "s/\\\\(aq/'/g" -e 's/\\(dq/"/g' -e 's/\\-/-/g' -e 's/\\&//g' -e 's/\\e/\\/g'
}

@test "the options of the code, of the manual page and of --help are the same" {
	compare options
}

@test "each option of the manual page is taken by keylock" {
	while read -r name; do
		run_keylock "$name" 1
		# This one comes after KEY.
		[[ $stderr != *'no such option'* || $name == -c || $name == --command ]]
	done < <(sed -n 's/^\.It Fl/Fl/p' "$page" | grep -o 'Fl [^ ]*' | sed 's/Fl /-/')
}

@test "the exit statuses of code, header comment, --help, manual page and README are the same" {
	compare statuses
}

@test "each message of the code is in the manual page, and each of the manual page in the code, word for word" {
	compare messages
}

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
	local place=$work/play line more command='' number=0 to_print=0 wrong=0 i
	rm -rf "$place"
	mkdir -p "$place/bin" "$place/here"
	ln -s "$KEYLOCK" "$place/bin/keylock"
	: >"$place/expected"
	{
		declare -f begun mark
		printf 'printed=%q last=\n' "$place/printed"
		while IFS= read -r line; do
			while [[ $line == *$' \\' ]] && read -r more; do
				line=${line%\\}$more
			done
			if [[ $line == '$ '* ]]; then
				[ -z "$command" ] || printf 'mark %d %d\n' "$number" "$to_print"
				[ "$number" = 0 ] || echo "-- after command $number" >>"$place/expected"
				[ "$number" = 0 ] || to_print=$((to_print + 1))
				number=$((number + 1)) command=${line#'$ '}
				printf '%s\n' "$command"
				[[ $command != 'cat '* ]] || : >"$place/here/${command#cat }"
			else
				printf '%s\n' "$line" >>"$place/expected"
				to_print=$((to_print + 1))
				[[ $command != 'cat '* ]] || printf '%s\n' "$line" >>"$place/here/${command#cat }"
			fi
		done <"$1"
		printf 'mark %d %d\n' "$number" "$to_print"
		echo "-- after command $number" >>"$place/expected"
	} >"$place/script"
	(
		cd "$place/here" || exit
		export KEYLOCK_DIR=$place/dir PATH=$place/bin:$PATH
		exec script -qefc "bash ../script" /dev/null >"$place/printed" 2>&1 3>&- 4>&-
	) || :
	end_left_over
	sed -E -e 's/\r$//' -e '/^(Terminated|Killed)$/d' -e 's/   */  /g' \
		-e '/^\.\.\/script: line [0-9]+: +[0-9]+ [A-Z][a-z]+ /d' "$place/printed" >"$place/actual"
	mapfile -t expected < <(sed -e 's/[][\.*^$+?(){}|]/\\&/g' -e 's/   */  /g' \
		-e 's/\<812\>/[0-9]+/g' -e 's/held for 9s/held for ([0-9]+[dhms])+/g' \
		-e 's/2026-11-24T23:26:16Z/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z/g' "$place/expected")
	mapfile -t actual <"$place/actual"
	[ ${#expected[@]} = ${#actual[@]} ] || wrong=1
	for i in "${!expected[@]}"; do
		[[ ${actual[i]-} =~ ^${expected[i]}$ ]] || wrong=1
	done
	[ "$wrong" = 0 ] || {
		echo 'this transcript does not print what it shows:'
		cat "$1"
		diff -u --label shown --label printed "$place/expected" "$place/actual"
		return 1
	}
}

play_all() {
	local block wrong=0
	blocks "$1" "$work/blocks"
	for block in "$work"/blocks/*; do
		play "$block" || wrong=$((wrong + 1))
	done
	[ "$wrong" = 0 ]
}

@test "the transcripts of the README print what they show" {
	need script
	play_all "$readme"
	[ "$(cat "$work"/blocks/* | grep -c '^\$ ')" -ge 15 ]
}

@test "the examples of the manual page print what they show" {
	need script
	play_all "$page"
	[ "$(cat "$work"/blocks/* | grep -c '^\$ ')" -ge 8 ]
}

@test "a transcript that is wrong is noticed" {
	need script
	# Lines that it prints, and their order; the status of the command before; what runs in the
	# background; numbers, durations, and a line that goes on in the next.
	while IFS='|' read -r wanted block; do
		echo -e "$block" >"$work/block"
		run play "$work/block" </dev/null
		[ "$status" = "$wanted" ]
	done <<-'BLOCKS'
		0|$ keylock key echo one\none
		1|$ keylock key echo one\none\none more line
		1|$ keylock key echo one\ntwo
		1|$ keylock key echo one
		0|$ keylock key sleep 600 &\n$ keylock -q -n key true\n$ echo $?\n75
		1|$ keylock key true\n$ keylock -n key true\n$ echo $?\n75
		0|$ keylock key echo 5 held for 3m2s, one \\\nline\n812 held for 9s, \\\none line
		1|$ keylock key echo x held for 3m2s\n812 held for 9s
	BLOCKS
}

@test "what the manual page shows of crontab and of a script that wraps itself is the README's, whose run is tested" {
	seen=0
	while IFS= read -r line; do
		grep -qxF "    $line" "$readme"
		seen=$((seen + 1))
	done < <(plain <"$page" | sed -n '/^\*\/5 /p; /^#!\/bin\/sh$/,/^\.Ed/{/^\.Ed/!p;}')
	[ "$seen" = 4 ]
}

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

# scene MAKE: runs .ci/run with tools that note how they are called, and with this body of make.
scene() {
	local tool
	[ -f "$top/.ci/run" ] || skip 'no .ci in this tree'
	tree=$work/tree bin=$work/fakes calls=$work/calls
	mkdir -p "$tree" "$bin"
	cp -R "$top/.ci" "$readme" "$tree"
	for tool in apt-get setpriv chown make sudo; do
		printf '#!/bin/sh\necho "%s $*" >>%q\n' "$tool" "$calls" >"$bin/$tool"
	done
	printf '#!/bin/sh\necho "./keylock $*" >>%q\n' "$calls" >"$tree/keylock"
	echo '"$@"' >>"$bin/sudo"
	printf '%s\n' "$1" >>"$bin/make"
	chmod +x "$bin"/* "$tree/keylock"
	[ -z "${without_sudo-}" ] || rm "$bin/sudo"
	: >"$calls"
	run_it env PATH="$bin:/usr/bin:/bin" bash "$tree/.ci/run"
}

@test ".ci/run runs the set-up lines of the README, with sudo and without, and sums up; it fails when a step fails" {
	packages=$(sed -n 's/.*apt-get install -y \(.*\) && make check$/\1/p' "$readme")
	[ -n "$packages" ]
	for without_sudo in yes ''; do
		[[ -z $without_sudo || $(id -u) == 0 ]] || continue
		scene 'echo "ok 1 a"; echo "ok 2 b # skip c"'
		expect 0
		[[ $output =~ $'\n'[0-9]+' passed, 0 failed, '[1-9][0-9]*' skipped'$ ]]
		[[ $(cat "$calls") == *"./keylock hello echo alone"*"
apt-get install -y $packages
make check
"*'make check-long'* ]]
	done
	for step in check lint check-long proof; do
		scene '[ "$1" != '"$step"' ] || { echo "not ok 3 d"; exit 1; }'
		expect 1
		[[ $output =~ $'\n'[0-9]+' passed, '[1-9][0-9]*' failed, '[0-9]+' skipped'$ ]]
		[[ $output == *$'\nnot ok 3 d\n'* ]]
	done
}

@test "P10 readable: keylock.c, its functions and its comments keep their measures" {
	# Lines at most, those of code, of a function, of the median one; comments at least, in per cent.
	read -r lines code longest median comments <<<'3500 2650 60 16 13'
	ctags --version 2>/dev/null | grep -q 'Universal Ctags' || skip 'needs universal-ctags'
	ctags -x --_xformat='%n %e %N' --kinds-C=f "$top/keylock.c" | awk '{ print $2 - $1 + 1, $3 }' | sort -n >"$work/sizes"
	run_it awk '{ text = $0; sub(/^[ \t]+/, "", text) }
		inside || text ~ /^\/\*/ { comments++; inside = text !~ /\*\//; next }
		text != "" && text !~ /^\/\// { code++ }
		END { print NR, code, int(comments * 100 / NR) }' "$top/keylock.c"
	read -r is_lines is_code is_comments <<<"$output"
	is_median=$(sed -n "$((($(wc -l <"$work/sizes") + 1) / 2))s/ .*//p" "$work/sizes")
	echo "median $is_median, longest $(tail -n 1 "$work/sizes")"
	[[ $is_lines -le $lines && $is_code -le $code && $is_comments -ge $comments ]]
	[[ $(wc -l <"$work/sizes") -ge 100 && $is_median -le $median && $(sed -n '$s/ .*//p' "$work/sizes") -le $longest ]]
}

@test "the README is plain text of 80 columns" {
	run_it awk '!/^sudo apt-get/ && length($0) > 80' "$readme"
	[ -z "$output" ]
	run_it grep -nE '^#|^```|\*\*|\[[^]]*\]\(' "$readme"
	[ -z "$output" ]
}

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
	source=$top/keylock.c page=$top/keylock.1 readme=$top/README
}

# agree NAME FILE NAME FILE: fails unless both files have the same lines.
agree() {
	sort -u "$2" >"$2.sorted"
	sort -u "$4" >"$4.sorted"
	[ -s "$2.sorted" ] || {
		echo "nothing found in $1"
		return 1
	}
	diff -U 0 --label "$1" --label "$3" "$2.sorted" "$4.sorted"
}

# plain: roff's escapes, as far as the page uses them, as what they show.
plain() {
	sed -e "s/\\\\(aq/'/g" -e 's/\\(dq/"/g' -e 's/\\-/-/g' -e 's/\\&//g' -e 's/\\e/\\/g'
}

# --- options ---

# Each prints an option a line: its spellings in order, and ARG where it takes a value.

ordered() {
	local names arg
	while read -r names; do
		arg=''
		[[ " $names " != *' ARG '* ]] || arg=' ARG'
		# shellcheck disable=SC2086
		echo "$(printf '%s\n' ${names//ARG/} | LC_ALL=C sort | paste -sd ' ')$arg"
	done
}

options_of_code() {
	awk '
		# A row of the table: its name, its letter, whether it takes a value.
		match($0, /^[ \t]+[{]"[a-z-]+", (\047.\047|[A-Z_]+), [01]/) {
			split($0, part, /[",{}\047 ]+/)
			if (length(part[3]) == 1)
				add(part[3], "-" part[3])
			add(part[3], "--" part[2])
			if (part[4] == 1)
				argument[part[3]] = 1
		}
		# A letter that stands for another.
		match($0, /option == \047[a-z]\047 \|\| option == \047[a-z]\047/) {
			split(substr($0, RSTART), part, "\047")
			add(part[2], "-" part[4])
		}
		END {
			for (key in names)
				print names[key] (key in argument ? " ARG" : "")
		}
		function add(key, name) {
			if (!((key, name) in had))
				names[key] = names[key] " " name
			had[key, name] = 1
		}' "$source" | ordered
}

options_of_page() {
	sed -n 's/^\.It \(Fl .*\)/\1/p' "$page" |
		sed -e 's/ Ar [a-z]*/ ARG/g' -e 's/Fl /-/g' -e 's/ , / /g' | tr -s ' ' | ordered
}

options_of_help() {
	"$KEYLOCK" --help | awk '
		function done() {
			if (item == "")
				return
			head = item
			sub(/^ +/, "", head)
			sub(/  .*/, "", head)
			names = ""
			while (match(head, /(^| )--?[a-zA-Z][a-z-]*/)) {
				names = names " " substr(head, RSTART, RLENGTH)
				head = substr(head, RSTART + RLENGTH)
			}
			argument = head ~ /^ [A-Z]+/ ? " ARG" : ""
			if (match(item, /\(also [^)]*\)/)) {
				also = substr(item, RSTART + 6, RLENGTH - 7)
				gsub(/,/, "", also)
				names = names " " also
			}
			print names argument
			item = ""
		}
		/^  (    )?-/ { done(); item = $0; next }
		/^                    / && item != "" { item = item " " $0; next }
		{ done() }' | ordered
}

@test "the options of the code, of the manual page and of --help are the same" {
	local work=$BATS_TEST_TMPDIR
	options_of_code >"$work/code"
	options_of_page >"$work/page"
	options_of_help >"$work/help"
	[ "$(wc -l <"$work/code")" -ge 15 ]
	# The tables were read as they are meant.
	grep -qx -- '--timeout --wait -w ARG' "$work/code"
	grep -qx -- '--exclusive -e -x' "$work/code"
	grep -qx -- '--command -c ARG' "$work/code"
	agree 'the code' "$work/code" 'the manual page' "$work/page"
	agree 'the code' "$work/code" '--help' "$work/help"
}

@test "each option of the manual page is taken by keylock" {
	local names name value
	while read -r names; do
		value=()
		case $names in
		*--wait*) value=(1) ;;
		*--conflict-exit-code*) value=(3) ;;
		*--dir*) value=("$BATS_TEST_TMPDIR/other") ;;
		*) [[ $names != *ARG ]] || value=(1) ;;
		esac
		for name in ${names%ARG}; do
			run_keylock "$name" ${value[@]+"${value[@]}"} key
			[[ $stderr != *'no such option'* || $name == -c || $name == --command ]]
		done
	done < <(options_of_page)
	run_keylock key -c 'exit 7'
	expect 7
	run_keylock key --command 'exit 7'
	expect 7
}

# --- exit statuses ---

@test "the exit statuses of code, header comment, --help, manual page and README are the same" {
	local work=$BATS_TEST_TMPDIR
	sed -n '/^\/\* Results that leave keylock/,/^};/s/.* = \([0-9]*\),/\1/p' "$source" >"$work/code"
	sed -n '/^ \* Exit statuses/,/^ \* The order/s/^ \*   \([0-9]*\) .*/\1/p' "$source" >"$work/header"
	"$KEYLOCK" --help | sed -n '/^Exit status/,$p' | grep -oE '(^| )[0-9]+ +[A-Za-z-]' |
		grep -oE '[0-9]+' >"$work/help"
	sed -n '/^\.Sh EXIT STATUS/,/^\.Sh EXAMPLES/s/^\.It \([1-9][0-9]*\)$/\1/p' "$page" >"$work/page"
	sed -n '/^Exit status$/,/^What is guaranteed/s/^    \([1-9][0-9]*\)  .*/\1/p' "$readme" >"$work/readme"
	[ "$(wc -l <"$work/code")" -ge 7 ]
	agree 'the code' "$work/code" 'the header comment' "$work/header"
	agree 'the code' "$work/code" '--help' "$work/help"
	agree 'the code' "$work/code" 'the manual page' "$work/page"
	agree 'the code' "$work/code" 'the README' "$work/readme"
}

# --- messages ---

# literals: the string literals of the code, neighbours joined, as FUNCTION<tab>N<tab>TEXT, where
# TEXT is argument N of FUNCTION, counted from 0; FUNCTION is - where there is none.
literals() {
	awk '
		{ text = text $0 "\n" }
		END {
			n = length(text)
			i = 1
			while (i <= n) {
				c = substr(text, i, 1)
				if (substr(text, i, 2) == "/*") {
					i += index(substr(text, i), "*/") + 1
				} else if (c == "#" && substr(text, i - 1, 1) == "\n") {
					i += index(substr(text, i), "\n")
				} else if (c == "\047") {
					i += substr(text, i + 1, 1) == "\\" ? 4 : 3
				} else if (c == "\"") {
					i = string(i)
				} else if (c == "(") {
					call[++depth] = word
					place[depth] = 0
					word = ""
					i++
				} else if (c == ")") {
					depth--
					word = ""
					i++
				} else if (c == ",") {
					place[depth]++
					word = ""
					i++
				} else if (c ~ /[A-Za-z0-9_]/) {
					word = word c
					i++
					if (substr(text, i, 1) !~ /[A-Za-z0-9_(]/)
						word = ""
				} else {
					word = ""
					i++
				}
			}
		}
		# Reads the literal at i and those right after it, prints them, returns what comes next.
		function string(i, out, c) {
			do {
				for (i++; (c = substr(text, i, 1)) != "\""; i++) {
					out = out c
					if (c == "\\")
						out = out substr(text, ++i, 1)
				}
				i++
				while (substr(text, i, 1) ~ /[ \t\n]/)
					i++
				# A conversion that is a macro.
				if (match(substr(text, i, 20), /^PRI[a-z0-9]+[ \t\n]*"/)) {
					out = out "d"
					i += RLENGTH - 1
				}
			} while (substr(text, i, 1) == "\"")
			print (call[depth] == "" ? "-" : call[depth]) "\t" place[depth] "\t" out
			return i
		}' "$source"
}

# messages: those that are a message or a part of one: what is given to a function that says
# something, and all that reads like words.
messages() {
	literals | awk -F '\t' '
		{ words = $3; gsub(/%[a-z]*/, "", words) }
		# What --help prints, and what is read.
		$3 ~ /^(Usage: keylock| +-|\\nExit status:)/ || $1 == "sscanf" { next }
		$1 ~ /^(say|directory_failure|directory_unsafe|lockfile_failure)$/ && words ~ /[a-z]/ { print; next }
		words ~ /[a-z] [a-z]/ { print }'
}

# heads: the messages that the manual page lists.
heads() {
	sed -n '/^\.Sh DIAGNOSTICS/,/^\.Sh SEE ALSO/s/^\.It \(.*\)/\1/p' "$page" | plain
}

@test "each message of the code is in the manual page, word for word" {
	local from place text pattern where missing=0 seen=0
	heads >"$BATS_TEST_TMPDIR/heads"
	sed -n '/^\.Sh DIAGNOSTICS/,/^\.Sh SEE ALSO/s/^\(\.[A-Z][a-z] \)*//p' "$page" | plain |
		paste -sd ' ' >"$BATS_TEST_TMPDIR/text"
	while IFS=$'\t' read -r from place text; do
		# The letter of an option is an OPTION in the page.
		pattern=$(sed -e 's/[][\.*^$+?(){}|]/\\&/g' -e 's/^-%c/.+/' \
			-e 's/\(%[0-9]*[a-z]*[\.]*\)\{1,\}/.+/g' <<<"$text")
		case $from$place in
		# A whole message is one of the list; a part of one is told of there.
		say1) where=heads pattern="^keylock: $pattern\$" ;;
		*) where=text ;;
		esac
		[ -n "$text" ]
		seen=$((seen + 1))
		grep -qE -- "$pattern" "$BATS_TEST_TMPDIR/$where" || {
			echo "not in DIAGNOSTICS: $text"
			missing=$((missing + 1))
		}
	done < <(messages)
	echo "$seen messages, $missing missing"
	[ "$seen" -ge 25 ] && [ "$missing" = 0 ]
}

@test "each message of the manual page is in the code, word for word" {
	local head rest fragment wrong=0
	# The words between the values, the longest first; some are values in the code.
	{
		messages
		literals | awk -F '\t' '$3 ~ /^[a-z][a-z][a-z][a-z]+$/'
	} | cut -f 3- | sed 's/%[0-9]*[a-z]*/\n/g' | grep '[A-Za-z]' |
		awk '{ print length($0) "\t" $0 }' | sort -rn | cut -f 2- >"$BATS_TEST_TMPDIR/fragments"
	while IFS= read -r head; do
		[[ $head == 'keylock: '* ]]
		rest=${head#keylock: }
		while IFS= read -r fragment; do
			rest=${rest//"$fragment"/}
		done <"$BATS_TEST_TMPDIR/fragments"
		# What is left are the values.
		[[ $rest =~ ^[A-Z0-9:/\'\(\)\ -]*$ ]] || {
			echo "not in the code: $head (what is left: $rest)"
			wrong=$((wrong + 1))
		}
	done < <(heads)
	[ "$(heads | wc -l)" -ge 25 ] && [ "$wrong" = 0 ]
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
"*'make lint'*'make check-long'* ]]

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

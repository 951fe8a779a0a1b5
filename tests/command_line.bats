# The command line: what is refused, what is taken, and what each option changes.

load helper

# refused TEXT ARG…: status 64, one line that has TEXT, nothing run, nothing made.
refused() {
	fails 64 "$@"
	[ ! -e "$KEYLOCK_DIR" ]
}

@test "refused: no KEY, no COMMAND, an unknown option, a value too few or too many, what does not go together" {
	for words in '' -n -- '-w 1 -v' job7 'job7 --' '-n job7' 'job7 -c' --path --auto '-a --' \
		-w --wait -E --conflict-exit-code -d --dir '--w 1 job7' '--s job7' --h \
		'--pin --forget job7' '--hold --path job7' '--json --who job7' '--auto --path job7'; do
		refused '' $words
	done
	for words in '-F -o job7' '-oF job7' '--close --no-fork job7' '--path job7' '--hold job7' \
		'--json job7' 'job7 --wait=1'; do
		refused '' $words touch "$ran"
	done
	# An option behind KEY, where a command of that name is hardly meant.
	for words in 'Z -Z job7' 'Z -nZ job7' 'frobnicate --frobnicate job7' 'nonblock --nonblock=1 job7' \
		'-n: job7 -n'; do
		refused $words touch "$ran"
	done
	refused 'only one of' --list --who job7
	refused '' '' touch "$ran"
	refused '' -- '' touch "$ran"
	refused '' '' -c "touch $ran"
	refused '' --path ''
	cd "$work"
	for dir in lock ./lock ../lock . ''; do
		refused '' -d "$dir" job7 touch "$ran"
		refused '' --dir="$dir" --path job7
		[ ! -e lock ]
	done
	KEYLOCK_DIR=lock refused '' job7 touch "$ran"
}

@test "refused: -k, -j, -A and -R with nothing, too much, or what does not go with them" {
	printf -v long '%0131001d' 0
	for words in '' "$long"; do
		refused '' -k "$words" a touch "$ran"
		refused '' -k a "$words" touch "$ran"
	done
	refused '' -k a b
	for action in --list --who --path --pin --forget; do
		refused -k "$action" -k b a
	done
	for value in 0 1001 x '' -1 1.5 2x ' 2' +2 99999999999999999999; do
		refused -j -j "$value" key touch "$ran"
	done
	for words in '-j 2 -s' '-s -j 2' '-j 2 -A' '-R -j 2' '-j 1 -s' '-j1 -A'; do
		refused -j $words key touch "$ran"
	done
	for words in '-A -F' '-R -F' '-F -A' '-A -j 2' '-j 1 -R' '-A -R' '-R -A'; do
		refused '' $words key touch "$ran"
	done
	refused -k -k
	refused -j -j
	# The last mode counts: this is exclusive.
	gives 0 -s -x -j 2 key true
}

@test "refused, and quoted: a TIME and an exit status that are none, though the key is taken" {
	for value in '' x 1x -1 nan 1e400 inf infinity 0x10 ' 1' '1 ' +1 1.2.3 . s ms '1 s' 1msx -0.5 \
		1,5 1e400s 999999999999999999999999d 9223372037 9223372036.9 --; do
		refused '' -w "$value" job7 touch "$ran"
		refused "$value" --timeout="$value" job7 touch "$ran"
	done
	for value in '' x -1 256 99999999999999999999 +1 ' 1' '1 ' 1x 0x1 1.0 1e1 18446744073709551616; do
		refused '' -n -E "$value" job7 touch "$ran"
		refused "$value" --conflict-exit-code="$value" job7 touch "$ran"
	done
	hold job7
	for value in '-n -w x' '-q -E 256'; do
		fails 64 '' $value job7 true
	done
}

@test "P9 -w, -n and -E in all their spellings, shortened ones too, a TIME in each unit; the last of -n and -w wins" {
	for words in 0 0.5 .5 1 500ms 10s 5m 2h 1d 00; do
		quiet 0 -w "$words" job7 true
	done
	hold job7
	for words in -n --nb --nonblock --nonblocking '-w 1m -n' '-w 0' --wait=0ms '-n -w 0.1 -n' \
		'-w 0.0000000000' '-w 0.0000000000d'; do
		fails 75 'job7: taken' -v $words job7 touch "$ran"
	done
	for words in '-w 0.01' -w.01 '--wait 0.01' --wait=0.01 '--timeout 0.01s' --timeout=10ms --wai=0.01 '-n -w 0.01' \
		'-w 0.0000000001' '-w 0.0000000001ms' '-w 0.00000000000000001d'; do
		gives 75 -v $words job7 touch "$ran"
		[[ $stderr == *'job7: not had in time'* ]]
	done
	for words in '-E 9' -E9 '--conflict-exit-code 9' --conflict-exit-code=9 '--confl 9' '-E 0' \
		'-E 1' '-E 77' -E255; do
		quiet "${words##*[ =E]}" -n $words job7 touch "$ran"
		quiet "${words##*[ =E]}" -w 0.02 $words job7 touch "$ran"
	done
	quiet 75 -w 0.02 job7 touch "$ran"
}

@test "-s and -x in all their spellings; exclusive is the default, the last one wins" {
	for words in '|' '-x|' '-e|' '--exclusive|' '-s -x|' '-s|shared' '--shared|shared' '-xs|shared'; do
		hold ${words%|*} job7
		others=75
		[ -z "${words#*|}" ] || others=0
		for mode in -s --shared --shar '-x -s'; do
			quiet "$others" -n $mode job7 true
		done
		for mode in '' '-s -x'; do
			quiet 75 -n $mode job7 touch "$ran"
		done
		let_go
	done
}

@test "-d: overrides KEYLOCK_DIR, an empty one of which is none" {
	other=$work/other
	for option in "-d $other" "-d$other" "--dir $other" "--dir=$other" "-d /none -d $other"; do
		prints "$other/job7" $option --path job7
		[ ! -e "$other" ]
	done
	prints job7 -d "$other" job7 ls -A "$other"
	[ ! -e "$KEYLOCK_DIR" ]
	hold job7
	gives 0 -n -d "$other" job7 true
	it_gives 0 env -u KEYLOCK_DIR "$KEYLOCK" --path job7
	default=$output
	KEYLOCK_DIR='' prints "$default" --path job7
}

@test "-c: the script is run by /bin/sh, whatever SHELL is" {
	for option in -c --command; do
		it_gives 3 env SHELL=/bin/false "$KEYLOCK" job7 "$option" 'echo "$KEYLOCK_KEY" "$((1 + 1))"; exit 3'
		[ "$output" = 'job7 2' ]
	done
	prints "$(readlink -f /bin/sh)" job7 -c 'readlink /proc/$$/exe; :'
	mkdir "$work/bin"
	printf '#!/bin/sh\necho "command -c: $1"\n' >"$work/bin/-c"
	chmod +x "$work/bin/-c"
	it_prints 'command -c: x' env PATH="$work/bin:$PATH" "$KEYLOCK" job7 -- -c x
}

@test "P6 options end at KEY: the rest is the command's, word for word; so is standard output, without trouble" {
	prints $'[a][][b c][-n][--][*][x\ny]' job7 printf '[%s]' a '' 'b c' -n -- '*' $'x\ny'
	prints '[-w][x][--help]' job7 -- printf '[%s]' -w x --help
	prints -- -- job7 -- echo --
	prints '-v --frobnicate' job7 sh -c 'echo "$0" "$1"' -v --frobnicate
	prints -n -- -n sh -c 'ls -A "$KEYLOCK_DIR"'
	prints ran -- -- echo ran
	prints ran -q job7 echo ran
	run_it sh -c 'printf 1; echo in | "$KEYLOCK" job7 cat; printf 3'
	[[ $output == $'1in\n3' && -z $stderr ]]
}

@test "a taken key is told by the status alone, with -q too; errors are told with -q as well" {
	hold job7
	for option in -x -q --quiet '-v -q'; do
		quiet 75 $option -n job7 touch "$ran"
		quiet 75 $option -w 0.05 job7 touch "$ran"
	done
	let_go
	fails 73 "$work/none/none" -q -d "$work/none/none" job7 true
	fails 127 no-such-command-here -q job7 no-such-command-here
}

@test "-v: says why not, and how long it took, in lines on standard error that name the key" {
	hold job7
	for option in -v --verbose '-q -v'; do
		fails 75 job7 $option -n job7 touch "$ran"
	done
	# Whatever it says is said before the command starts, so that a log can be read.
	: >"$err"
	line_up -v -w 60 job7 cp "$err" "$work/said" >"$out" 2>"$err"
	let_go
	ended_with "$waiter" 0
	[ ! -s "$out" ]
	cmp "$err" "$work/said"
	[ "$(grep -c '^keylock: job7: ' "$err")" = 2 ]
	# As flock -v does, where there was nothing to wait for, too.
	for option in -v -vn -vF '-v -j 2' '-v -k other'; do
		fails 0 job7 $option job7 true
		[[ $stderr =~ took\ 0\.[0-9]{3}\ s ]]
	done
}

@test "-h and -V: on standard output, 0, nothing made, whatever else is asked for; the first one wins" {
	for words in -h --help '--list --help --who' '-h -V'; do
		gives 0 $words
		[[ $output == Usage:* && -z $stderr && ! -e $KEYLOCK_DIR ]]
	done
	for words in -V --version '--version --list --help'; do
		gives 0 $words
		[[ $output =~ ^keylock\ [0-9]+(\.[0-9]+)*$ && -z $stderr && ! -e $KEYLOCK_DIR ]]
	done
}

@test "P6 the command alone decides when its input's writer and its output's reader see it closed" {
	mkfifo "$work/in" "$work/out.fifo" "$work/go"
	"$KEYLOCK" job7 sh -c 'exec 8<>"$0"; echo hello; exec <&- >&-; read -r _ <&8' "$work/go" \
		<"$work/in" >"$work/out.fifo" 3>&- 4>&- &
	runner=$!
	env --default-signal=PIPE yes >"$work/in" 2>/dev/null 3>&- 4>&- &
	writer=$!
	# Where keylock kept its own, these would last until the command ends.
	it_prints hello cat "$work/out.fifo"
	wait_for 20 is_dead "$writer"
	kill -0 "$runner"
	[ "$(files)" = 1 ]
	echo 1<>"$work/go"
	wait "$runner"
}

# What a command does that writes a line "NUMBER TARGET" for each of its descriptors to FILE; the
# shell itself opens none, and must not become the find.
lister=(sh -c 'find "/proc/$$/fd" -mindepth 1 -fprintf "$0" "%f %l\n"; sort -no "$0" "$0"
	find "/proc/$PPID/fd" -name "[012]" -lname "$KEYLOCK_DIR/*"')

# one_more: the command had exactly one more than without keylock: the lock, at 10 or above.
one_more() {
	run_it diff "$work/without" "$work/with"
	[[ $output =~ ^[0-9]+a[0-9]+$'\n'\>\ ([0-9]+)\ $KEYLOCK_DIR/job7$ ]]
	[ "${BASH_REMATCH[1]}" -ge 10 ]
}

@test "P6 no descriptor of keylock's is in the way, whichever of 0, 1, 2 are closed" {
	for closed in '' '<&-' '>&-' '2>&-' '<&- >&-' '<&- 2>&-' '>&- 2>&-' '<&- >&- 2>&-'; do
		it_gives 0 bash -c "exec \"\$@\" $closed" - "${lister[@]}" "$work/without"
		for mode in -F -x -v -s -l -n -w9 -o -os --close; do
			[[ -z $closed || $mode == -[xvoF]* ]] || continue
			it_gives 0 bash -c "exec \"\$@\" $closed" - "$KEYLOCK" "$mode" job7 "${lister[@]}" "$work/with"
			[ -z "$output" ]
			case $mode in
			-o* | --close) diff "$work/with" "$work/without" ;;
			*) one_more ;;
			esac
			[ "$mode" = -F ] || [ "$(files)" = 0 ]
		done
	done
}

@test "P6 descriptors that the caller has at 10 and above stay the caller's" {
	expected=$'10 /dev/zero\n11 /dev/full\n12 /dev/null\n13 /dev/zero'
	# One redirection an exec: with several, bash drops those above the first.
	it_gives 0 bash -c 'exec 10</dev/zero; exec 11</dev/full; exec 12</dev/null; exec 13</dev/zero
		exec "$KEYLOCK" job7 "$@"' - "${lister[@]}" "$work/with"
	diff <(grep '^1[0-3] ' "$work/with") - <<<"$expected"
	[ "$(grep -c " $KEYLOCK_DIR/" "$work/with")" = 1 ]
}

# shellcheck shell=bash
# What all tests of keylock share. A test file begins with "load helper" and has from then on:
#
# The binary under test, $KEYLOCK (default: the keylock beside tests/), an empty $KEYLOCK_DIR of the
# test's own (not made yet), umask 022, standard input /dev/null, and $ran, the name of a file that
# commands make which must not run.
#
#	run_keylock ARG…	runs "$KEYLOCK" ARG…; run_it COMMAND… runs anything. Sets status,
#				output and stderr (without trailing newlines), leaves the bytes in
#				$out and $err, prints all of it, so that a failed test can be read.
#				Returns 0. Does not wait for daemons.
#	expect STATUS		fails unless the last run had STATUS.
#	expect_message STATUS [TEXT…]
#				and unless it wrote exactly one line, "keylock: …", that contains
#				each TEXT, on standard error.
#	expect_taken STATUS	and unless it wrote nothing at all, as it does for a taken key.
#	gives STATUS ARG…	runs keylock ARG…, and fails unless it has STATUS;
#	prints OUTPUT ARG…	unless it has status 0 and that output;
#	fails STATUS TEXT ARG…	as expect_message, and when there is $ran.
#	taken ARG…, free ARG…	whether keylock -n ARG… is refused in silence, or runs.
#	wait_for SECONDS COMMAND…
#				runs COMMAND each 10 ms until it succeeds; fails after SECONDS.
#	started PID…		teardown ends these and their descendants. Needed only for what has
#				another environment (env -i): whatever else the test started,
#				daemons included, teardown finds by $BATS_TEST_TMPDIR in it.
#	left_over		prints the pids of what the test started and what still runs; not in
#				a pipe, whose other end it would see.
#	hold [OPTION…] KEY	starts a keylock in the background, returns when its command runs.
#				Sets holder (keylock's pid) and held (the command's pid).
#	hold_with_daemon [OPTION…] KEY
#				the same; the command has started a daemon. Sets daemon, its pid.
#	let_go [PID]		ends the command of that holder (default: the last one) by itself,
#				waits for keylock, sets status to keylock's.
#	line_up ARG…		starts keylock ARG… in the background, returns when it has its place
#				in the line. Sets waiter.
#	leave_daemon END ARG…	runs keylock ARG… with a shell that leaves a daemon behind and then
#				does END. Sets daemon.
#	kill_hard PID…		kills these and waits until they are dead.
#	ended_with PID STATUS	waits for PID, and fails unless that was its exit status.
#	has_ticket PID		keylock PID has its place in the line.
#	in_state PID LETTERS	the process is in one of these states (see proc(5)).
#	blocked FILE [NUMBER]	NUMBER (default: 1) requests or more sleep in the kernel for a lock
#				of FILE.
#	has_lines N FILE	FILE has N lines at least.
#	order, order_is NAMES	prints, or compares, what is first in each line of "order" in
#				$BATS_TEST_TMPDIR, where commands note that they run.
#	parent PID		prints the pid of its parent.
#	switches PID		prints how often the process has been put on a processor.
#	milliseconds		prints the time, for differences.
#	files [DIR]		prints the number of entries of DIR (default: $KEYLOCK_DIR), hidden
#				ones included; 0 when there is no DIR.
#	keep WHAT…		somebody keeps these locks on the lockfile of the key "key"; see
#				keep.c. Sets keeper, to be ended with "stop_keeping".
#	probe NAME		prints the path of the compiled tests/tools/NAME.c.
#	ended FILE COMMAND…	runs COMMAND, writes "exit N" or "signal N" to FILE ("signal N core"
#				with a core): what a shell's $? cannot tell apart.
#	need TOOL…, need_root, need_long, need_plain
#				skip the test, saying why; need_long unless KEYLOCK_LONG is set,
#				need_plain where KEYLOCK_INSTRUMENTED is, since sanitizers want
#				descriptors and memory of their own.
#	public_folder		sets public to a new empty folder that every user may enter.
#	public_keylock		there is also a copy of keylock in it, and $KEYLOCK_DIR, for all to
#				use; skips unless as_user can be used.
#	private_root COMMAND…	runs COMMAND as root of an own mount namespace, an ordinary user as
#				root of an own user namespace; skips where neither may be.
#	as_user UID[:GID[,GID…]] COMMAND…
#				runs COMMAND as that user (needs root), without an entry in passwd.
#
# and a real terminal, which is a tmux of the test's own:
#
#	terminal COMMAND ARG…	COMMAND, with an argument at least, in a window. Sets pane, its pid.
#	terminal_shell		the same with an interactive bash in $BATS_TEST_TMPDIR.
#	type_line TEXT		types TEXT and Enter.
#	press KEY…		types keys by tmux's names, such as C-z.
#	at_prompt		the shell has its terminal back from the job in the foreground.
#	in_front PID		the process is in the terminal's foreground.
#	close_window		what a click on the window's cross does.
#	show_screen		prints what the terminal shows. For teardown.
#
# A test file with a setup or teardown of its own calls keylock_setup and keylock_teardown there.
# A test that takes longer than $KEYLOCK_TEST_LIMIT seconds (default 60) has all that it started
# killed, and so fails instead of hanging. KEYLOCK_LONG=1 asks for the long forms of tests.

bats_require_minimum_version 1.5.0

KEYLOCK=${KEYLOCK:-$BATS_TEST_DIRNAME/../keylock}
case $KEYLOCK in
/*) ;;
*) KEYLOCK=$PWD/$KEYLOCK ;;
esac
export KEYLOCK

keylock_setup() {
	umask 022
	unset KEYLOCK_KEY KEYLOCK_ABANDONED
	export LC_ALL=C
	export KEYLOCK_DIR=$BATS_TEST_TMPDIR/dir
	out=$BATS_TEST_TMPDIR/out err=$BATS_TEST_TMPDIR/err ran=$BATS_TEST_TMPDIR/ran
	status='' output='' stderr='' holder='' held='' public=''
	test_started=() test_folders=()
	exec </dev/null
	[ -x "$KEYLOCK" ] || {
		echo "no binary $KEYLOCK: run make first"
		return 1
	}
	start_watchdog "${KEYLOCK_TEST_LIMIT:-60}"
}

keylock_teardown() {
	kill -KILL "$watchdog" 2>/dev/null || :
	end_left_over
	local folder
	for folder in ${test_folders[@]+"${test_folders[@]}"}; do
		rm -rf -- "$folder"
	done
}

setup() {
	keylock_setup
}

teardown() {
	keylock_teardown
}

# --- running ---

run_keylock() {
	run_it "$KEYLOCK" "$@"
}

run_it() {
	# skip says nothing where bats's own descriptors are closed, as they are below.
	[ "$1" != private_root ] || need_private_root
	status=0
	# 3 and 4 are bats's own: a daemon that kept them would keep bats from ending.
	"$@" >"$out" 2>"$err" 3>&- 4>&- || status=$?
	output=$(tr -d '\0' <"$out")
	stderr=$(tr -d '\0' <"$err")
	local words
	printf -v words ' %q' "$@"
	printf '$%s\nstatus: %s\n' "$(shorten "$words")" "$status"
	[ -z "$output" ] || printf 'output: %s\n' "$(shorten "$output")"
	[ -z "$stderr" ] || printf 'stderr: %s\n' "$(shorten "$stderr")"
}

shorten() {
	if [ ${#1} -gt 2000 ]; then
		printf '%s…(%d bytes)…%s' "${1:0:900}" "${#1}" "${1: -900}"
	else
		printf '%s' "$1"
	fi
}

expect() {
	[ "$status" = "$1" ] || {
		echo "status $status, not $1"
		return 1
	}
}

expect_message() {
	expect "$1"
	shift
	[ ! -s "$out" ] || {
		echo 'standard output is not empty'
		return 1
	}
	[[ $(wc -l <"$err") -eq 1 && $stderr != *$'\n'* && $stderr == 'keylock: '?* ]] || {
		echo 'not exactly one line "keylock: …"'
		return 1
	}
	local text
	for text; do
		[[ ${stderr#keylock: } == *"$text"* ]] || {
			printf 'the message does not name %s\n' "$text"
			return 1
		}
	done
}

expect_taken() {
	expect "$1"
	[[ ! -s $out && ! -s $err ]] || {
		echo 'something was written'
		return 1
	}
}

gives() {
	local wanted=$1
	shift
	run_keylock "$@"
	expect "$wanted"
}

prints() {
	local wanted=$1
	shift
	gives 0 "$@"
	[ "$output" = "$wanted" ]
}

fails() {
	local wanted=$1 text=$2
	shift 2
	run_keylock "$@"
	expect_message "$wanted" "$text"
	[ ! -e "$ran" ]
}

wait_for() {
	local end=$(($(milliseconds) + $1 * 1000)) seconds=$1
	shift
	until "$@"; do
		[ "$(milliseconds)" -lt "$end" ] || {
			echo "not within $seconds s: $*"
			return 1
		}
		sleep 0.01
	done
}

milliseconds() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

hold() {
	local base
	base=$(mktemp -u "$BATS_TEST_TMPDIR/hold.XXXXXX")
	mkfifo "$base.fifo"
	# The fifo is opened for both, so that neither side ever waits in open().
	# shellcheck disable=SC2016
	"$KEYLOCK" "$@" sh -c "${hold_first-}"'
		exec 8<>"$0.fifo"; echo $$ >"$0.new"; mv "$0.new" "$0.pid"; read -r _ <&8' \
		"$base" 3>&- 4>&- &
	holder=$!
	started "$holder"
	wait_for 20 test -e "$base.pid"
	# shellcheck disable=SC2034
	held=$(cat "$base.pid")
	ln -s "$base.fifo" "$BATS_TEST_TMPDIR/holder.$holder"
}

hold_with_daemon() {
	# shellcheck disable=SC2016
	local hold_first='sleep 1000 & echo $! >"$BATS_TEST_TMPDIR/daemon"'
	hold "$@"
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
}

let_go() {
	local who=${1:-$holder}
	echo 1<>"$BATS_TEST_TMPDIR/holder.$who"
	status=0
	wait "$who" || status=$?
}

line_up() {
	"$KEYLOCK" "$@" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

leave_daemon() {
	local end=$1
	shift
	# The daemon has the output, too, as a careless script's.
	# shellcheck disable=SC2016
	run_keylock "$@" sh -c 'sleep 1000 & echo $! >"$0"; '"$end" "$BATS_TEST_TMPDIR/daemon"
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
	in_state "$daemon" RSD
}

taken() {
	run_keylock -n "$@" touch "$ran"
	[[ $status == 75 && ! -s $out && ! -s $err && ! -e $ran ]]
}

free() {
	gives 0 -n "$@" true
}

kill_hard() {
	local pid
	kill -KILL "$@"
	for pid; do
		wait "$pid" 2>/dev/null || :
		wait_for 20 is_dead "$pid"
	done
}

ended_with() {
	status=0
	wait "$1" 2>/dev/null || status=$?
	expect "$2"
}

order() {
	cut -d ' ' -f 1 "$BATS_TEST_TMPDIR/order" 2>/dev/null | paste -sd ' '
}

order_is() {
	[ "$(order)" = "$1" ]
}

switches() {
	local name value sum=0
	while read -r name value; do
		case $name in
		*voluntary_ctxt_switches:) sum=$((sum + value)) ;;
		esac
	done <"/proc/$1/status"
	echo "$sum"
}

blocked() {
	local inode
	inode=$(stat -c %i "$1" 2>/dev/null) || return
	# By inode alone: on btrfs the device there is not stat's.
	[ "$(grep -c -- "-> .*:$inode " /proc/locks)" -ge "${2:-1}" ]
}

files() {
	local dir=${1:-$KEYLOCK_DIR}
	if [ -d "$dir/" ]; then
		find "$dir/" -mindepth 1 -maxdepth 1 -printf . | wc -c
	else
		echo 0
	fi
}

probe() {
	local binary=$BATS_RUN_TMPDIR/probes/$1
	if [ ! -x "$binary" ]; then
		mkdir -p "$BATS_RUN_TMPDIR/probes"
		# bats -j runs tests side by side: whoever comes second must not see half a file.
		"${CC:-cc}" -std=c11 -D_GNU_SOURCE= -O1 -Wall -Wextra -pthread \
			-o "$binary.$BASHPID" "$BATS_TEST_DIRNAME/tools/$1.c" >&2 || return
		mv "$binary.$BASHPID" "$binary"
	fi
	printf '%s\n' "$binary"
}

ended() {
	local program
	program=$(probe ended)
	"$program" "$@"
}

# --- processes ---

has_ticket() {
	[ -n "$(ticket "$1")" ]
}

ticket() {
	sed -nE 's/^lock:.* OFDLCK +ADVISORY +WRITE .* ([0-9]{4,}) [0-9]+$/\1/p' \
		/proc/"$1"/fdinfo/* 2>/dev/null || :
}

# Prints the fields of /proc/PID/stat from the state on: state, parent, group, session,
# terminal, the terminal's foreground group.
stat_of() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return
	printf '%s\n' "${stat##*) }"
}

in_state() {
	local stat
	stat=$(stat_of "$1") && [[ $stat == [$2]* ]]
}

is_dead() {
	local stat
	! stat=$(stat_of "$1") || [[ $stat == [ZX]* ]]
}

parent() {
	stat_of "$1" | cut -d ' ' -f 2
}

has_lines() {
	[ -e "$2" ] && [ "$(wc -l <"$2")" -ge "$1" ]
}

keep() {
	local path said=$BATS_TEST_TMPDIR/kept keep
	keep=$(probe keep)
	path=$("$KEYLOCK" --path key)
	mkdir -m 700 "$KEYLOCK_DIR" 2>/dev/null || :
	: >"$said"
	"$keep" "$path" "$@" >"$said" 3>&- 4>&- &
	keeper=$!
	started "$keeper"
	wait_for 20 grep -q kept "$said"
}

stop_keeping() {
	kill_hard "$keeper"
}

# --- a terminal ---

tm() {
	# A daemon with bats's descriptors would keep bats from ending.
	tmux -S "$BATS_TEST_TMPDIR/tmux" "$@" 3>&- 4>&-
}

terminal() {
	need tmux
	tm -f /dev/null new-session -d -x 120 -y 30 -- "$@"
	pane=$(tm display-message -p '#{pane_pid}')
}

terminal_shell() {
	terminal env -C "$BATS_TEST_TMPDIR" HISTFILE=/dev/null 'PS1=ready> ' \
		bash --norc --noprofile -i
	type_line 'true >shell'
	wait_for 20 test -e "$BATS_TEST_TMPDIR/shell"
	wait_for 20 at_prompt
}

press() {
	tm send-keys "$@"
}

type_line() {
	tm send-keys -l -- "$1"
	tm send-keys Enter
}

at_prompt() {
	in_front "$pane"
}

in_front() {
	local group foreground
	read -r _ _ group _ _ foreground _ <<<"$(stat_of "$1")"
	[[ -n $group && $group == "$foreground" ]]
}

close_window() {
	tm kill-window
}

show_screen() {
	[ ! -S "$BATS_TEST_TMPDIR/tmux" ] || tm capture-pane -p | sed -n '/./s/^/screen: /p'
}

# --- what a test needs ---

need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || skip "needs $tool"
	done
}

need_root() {
	[ "$(id -u)" = 0 ] || skip 'needs root'
}

need_long() {
	[ -n "${KEYLOCK_LONG-}" ] || skip 'takes long: set KEYLOCK_LONG=1'
}

need_plain() {
	[ -z "${KEYLOCK_INSTRUMENTED-}" ] || skip 'needs a keylock without instruments'
}

private_root() {
	need_private_root
	unshare_root "$@"
}

# A try of its own, so that only a missing permission skips, and not a fault of the test.
need_private_root() {
	need unshare
	unshare_root mount -t tmpfs none /mnt 2>/dev/null || skip 'may not mount here'
}

unshare_root() {
	local how=(unshare --mount)
	[ "$(id -u)" = 0 ] || how+=(--map-root-user)
	"${how[@]}" -- "$@"
}

public_folder() {
	public=$(mktemp -d /tmp/keylock-test.XXXXXX)
	test_folders+=("$public")
	chmod 755 "$public"
}

public_keylock() {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	export KEYLOCK_DIR=$public/dir
}

as_user() {
	local uid=${1%%:*} gids=${1#*:} groups
	shift
	groups=--clear-groups
	[[ $gids != *,* ]] || groups=--groups=${gids#*,}
	setpriv --reuid="$uid" --regid="${gids%%,*}" "$groups" -- "$@"
}

# --- ending what the test started, and nothing else ---

# The start time makes sure that a pid still is the process that it was.
start_time() {
	stat_of "$1" | cut -d ' ' -f 20
}

started() {
	local pid
	for pid; do
		test_started+=("$pid $(start_time "$pid")")
	done
}

marked() (
	# What looks must not have in its own environment what it looks for.
	export -n BATS_TEST_TMPDIR
	grep -lzxsF -- "BATS_TEST_TMPDIR=$BATS_TEST_TMPDIR" /proc/[0-9]*/environ | cut -d / -f 3
)

descendants() {
	local pid
	for pid; do
		echo "$pid"
		# shellcheck disable=SC2046
		descendants $(cat "/proc/$pid/task"/*/children 2>/dev/null)
	done
}

left_over() (
	export -n BATS_TEST_TMPDIR
	for entry in ${test_started[@]+"${test_started[@]}"}; do
		[[ $(start_time "${entry% *}") != "${entry#* }" ]] || descendants "${entry% *}"
	done >"$BATS_TEST_TMPDIR/descendants"
	marked | sort -un - "$BATS_TEST_TMPDIR/descendants" | while read -r pid; do
		is_dead "$pid" || echo "$pid"
	done
)

# A killed keylock may let a waiter begin, which makes new processes: look again until none is left.
end_left_over() {
	local pids round
	for round in {1..200}; do
		pids=$(left_over)
		[ -n "$pids" ] || return 0
		# shellcheck disable=SC2086
		kill -KILL $pids 2>/dev/null || :
		[ "$round" -lt 3 ] || sleep 0.02
	done
	echo "still there: $pids"
	return 1
}

start_watchdog() {
	local fifo=$BATS_TEST_TMPDIR/watchdog
	mkfifo "$fifo"
	(
		# read with a time-out needs no process of its own that would have to be ended, too.
		read -rt "$1" _ <>"$fifo" || :
		echo "the test took longer than $1 s: ending what it started"
		for pid in $(marked); do
			kill -KILL "$pid" 2>/dev/null || :
		done
	) 3>&- 4>&- &
	watchdog=$!
	# Not a job: neither a bare wait nor the jobs table of a test is to see it.
	disown "$watchdog"
}

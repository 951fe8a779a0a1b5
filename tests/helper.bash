# shellcheck shell=bash
# What all tests of keylock share. A test file begins with "load helper" and has from then on the binary
# under test, $KEYLOCK (default: the keylock beside tests/), an empty $KEYLOCK_DIR of the test's own (not
# made yet), umask 022, standard input /dev/null, $work, a folder, and in it the names of two files that
# commands make: $ran, of one that must not run, and $served. Each test is a process of its own: its
# variables need no "local".
#
# A test file with a setup or teardown of its own calls keylock_setup and keylock_teardown there. Teardown
# fails a test that has left $ran, or the file of a key that nobody has. It finds what a test has started,
# daemons included, by $BATS_TEST_TMPDIR in its environment. A test that takes longer than
# $KEYLOCK_TEST_LIMIT seconds (default 60) has all that killed, and so fails instead of hanging.
# KEYLOCK_LONG=1 asks for the long forms of tests.

bats_require_minimum_version 1.5.0

KEYLOCK=${KEYLOCK:-$BATS_TEST_DIRNAME/../keylock}
case $KEYLOCK in
/*) ;;
*) KEYLOCK=$PWD/$KEYLOCK ;;
esac
export KEYLOCK
tools=$BATS_TEST_DIRNAME/tools

keylock_setup() {
	umask 022
	unset KEYLOCK_KEY KEYLOCK_ABANDONED
	export LC_ALL=C
	work=$BATS_TEST_TMPDIR
	export KEYLOCK_DIR=$work/dir
	in=$work/in out=$work/out err=$work/err ran=$work/ran served=$work/served
	said=$work/said saved=$work/saved lockfile=$KEYLOCK_DIR/key
	export work ran served
	status='' output='' stderr='' holder='' held='' public=''
	test_folders=()
	exec </dev/null
	[ -x "$KEYLOCK" ] || {
		echo "no binary $KEYLOCK: run make first"
		return 1
	}
	# In which many of the tools are written.
	need python3 flock
	start_watchdog "${KEYLOCK_TEST_LIMIT:-60}"
}

keylock_teardown() {
	local wrong=''
	kill -KILL "$watchdog" 2>/dev/null || :
	if [[ -n $BATS_TEST_COMPLETED && -z $BATS_TEST_SKIPPED ]]; then
		wait_for 10 no_debris && not_run || wrong=yes
	fi
	end_left_over
	[ ${#test_folders[@]} = 0 ] || rm -rf -- "${test_folders[@]}"
	[ -z "$wrong" ]
}

# P3, whatever a test was about: of a key that nobody has there is no file, unless it is pinned or in doubt.
# Only keylock's own files have the sticky bit.
no_debris() {
	debris=$(find "$KEYLOCK_DIR" -type f -empty -perm -1000 ! -perm -100 \
		-exec flock -n {} true \; -print 2>/dev/null)
	[ -z "$debris" ]
}

setup() {
	keylock_setup
}

teardown() {
	keylock_teardown
}

# --- one run, and what it must do ---

run_keylock() {
	run_it "$KEYLOCK" "$@"
}

# run_it COMMAND…: sets status, output and stderr (without trailing newlines), leaves the bytes in $out and
# $err, and prints all of it, so that a failed test can be read. Returns 0. Does not wait for daemons.
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
	printf '$%.2000s\nstatus: %s\noutput: %.2000s\nstderr: %.2000s\n' "$words" "$status" "$output" "$stderr"
}

expect() {
	echo "expected: status $1"
	[ "$status" = "$1" ]
}

not_run() {
	[ ! -e "$ran" ]
}

# expect_message STATUS [TEXT…]: the last run had STATUS and wrote exactly one line, "keylock: …", that
# contains each TEXT, on standard error.
expect_message() {
	local text
	expect "$1"
	[ ! -s "$out" ]
	[[ $(wc -l <"$err") -eq 1 && $stderr != *$'\n'* && $stderr == 'keylock: '?* ]]
	for text in "${@:2}"; do
		echo "expected: a message with $text"
		[[ ${stderr#keylock: } == *"$text"* ]]
	done
}

# expect_taken STATUS: it wrote nothing at all, as it does for a taken key.
expect_taken() {
	expect "$1" && [[ ! -s $out && ! -s $err ]]
}

# gives STATUS ARG…, prints OUTPUT ARG…, quiet STATUS ARG…, fails STATUS TEXT ARG…: a run of keylock has
# this status; or 0 and this output and no message; or writes nothing; or one line with TEXT; of the last
# two none made $ran. With it_ before the name, of any command.
gives() {
	it_gives "$1" "$KEYLOCK" "${@:2}"
}

prints() {
	it_prints "$1" "$KEYLOCK" "${@:2}"
}

quiet() {
	it_quiet "$1" "$KEYLOCK" "${@:2}"
}

fails() {
	it_fails "$1" "$2" "$KEYLOCK" "${@:3}"
}

it_gives() {
	run_it "${@:2}"
	expect "$1"
}

it_prints() {
	it_gives 0 "${@:2}"
	[[ $output == "$1" && ! -s $err ]]
}

it_quiet() {
	run_it "${@:2}"
	expect_taken "$1" && not_run
}

it_fails() {
	run_it "${@:3}"
	expect_message "$1" "$2"
	not_run
}

# taken ARG…, free ARG…: whether keylock -n ARG… is refused in silence, or runs.
taken() {
	quiet 75 -n "$@" touch "$ran"
}

free() {
	gives 0 -n "$@" true
}

# wait_for SECONDS COMMAND…: runs COMMAND each 10 ms until it succeeds; fails after SECONDS.
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

# within LEAST MOST COMMAND…: COMMAND takes so many milliseconds.
within() {
	local begin took
	begin=$(milliseconds)
	"${@:3}"
	took=$(($(milliseconds) - begin))
	echo "took $took ms"
	[[ $took -ge $1 && $took -lt $2 ]]
}

# gives_up_after MILLISECONDS COMMAND…: a keylock that gives up: not before, and not much later, although
# the machine may be busy.
gives_up_after() {
	within "$1" $(($1 + 2000)) it_gives 75 "${@:2}" touch "$ran"
	not_run
}

# files [DIR]: prints the number of entries of DIR (default: $KEYLOCK_DIR), hidden ones included.
files() {
	find "${1:-$KEYLOCK_DIR}/" -mindepth 1 -maxdepth 1 -printf . 2>/dev/null | wc -c
}

all_gone() {
	wait_for 20 eval '[ "$(files)" = 0 ]'
}

# --- holders and waiters ---

# hold [OPTION…] KEY: starts a keylock in the background, returns when its command runs, a shell that does
# what it is told. Sets holder (keylock's pid) and held (the command's pid).
hold() {
	hold_by "$KEYLOCK" "$@"
}

# hold_by COMMAND…: the same by this command line of keylock's.
hold_by() {
	new_hold
	"$@" "${obeys[@]}" 3>&- 4>&- &
	holder=$!
	has_begun
	ln -sf "$base" "$work/holder.$holder"
}

# hold_under PID COMMAND…: the same in the background of that holder's command, where COMMAND may be none;
# sets held alone.
hold_under() {
	local words
	new_hold
	printf -v words '%q ' "${@:2}" "${obeys[@]}"
	tell "$1" start "$words&"
	has_begun
}

new_hold() {
	base=$(mktemp -u "$work/hold.XXXXXX")
	mkfifo -m 666 "$base"
	# The fifo is opened for both, so that neither side ever waits in open().
	cat >"$work/obey" <<-'END'
		keylock() { "$KEYLOCK" "$@"; }
		exec 8<>"$1"
		echo $$ >"$1.new"; mv "$1.new" "$1.pid"
		while read -r name <&8; do
			. "$work/$name.do" >"$work/$name.said" 2>&1
			echo $? >"$1.new"; mv "$1.new" "$work/$name"
		done
	END
	chmod 644 "$work/obey"
	obeys=(sh "$work/obey" "$base")
}

has_begun() {
	wait_for 20 test -e "$base.pid"
	held=$(cat "$base.pid")
	ln -sf "$base" "$work/holder.$held"
}

# tell PID NAME COMMAND: the command of that holder (its pid or its keylock's) runs COMMAND. What it says
# goes to the file NAME.said and then its status to NAME.
tell() {
	rm -f "$work/$2" "$work/$2.said"
	echo "$3" >"$work/$2.do"
	chmod 644 "$work/$2.do"
	echo "$2" 1<>"$work/holder.$1"
}

# answered NAME STATUS: what was told NAME has ended so.
answered() {
	wait_for 20 test -e "$work/$1"
	cat "$work/$1.said"
	[ "$(cat "$work/$1")" = "$2" ]
}

# told PID STATUS COMMAND: both; what it says is in $work/told.said.
told() {
	tell "$1" told "$3"
	answered told "$2"
}

# starts PID COMMAND: has it start COMMAND in the background. Sets started, its pid.
starts() {
	told "$1" 0 "$2 & echo \$!"
	started=$(cat "$work/told.said")
}

# let_go [PID [END]]: the command of that holder (default: the last one) ends by END, "exit"; waits for
# keylock and sets status to keylock's.
let_go() {
	local who=${1:-$holder}
	tell "$who" let_go "${2:-exit 0}"
	status=0
	wait "$who" 2>/dev/null || status=$?
}

# hold_with_daemon [OPTION…] KEY: hold, and the command has started a daemon. Sets daemon, its pid.
hold_with_daemon() {
	hold "$@"
	starts "$holder" 'sleep 1000'
	daemon=$started
}

# leave_daemon END ARG…: runs keylock ARG… with a shell that leaves a daemon behind and then does END. Sets
# daemon.
leave_daemon() {
	local end=$1
	shift
	# The daemon has the output, too, as a careless script's.
	run_keylock "$@" sh -c 'sleep 1000 & echo $! >"$0"; '"$end" "$work/daemon"
	daemon=$(cat "$work/daemon")
	in_state "$daemon" RSD
}

# line_up ARG…: starts keylock ARG… in the background, returns when it has its place in the line. Sets
# waiter.
line_up() {
	line_up_by "$KEYLOCK" "$@"
}

line_up_by() {
	"$@" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

kill_hard() {
	local pid
	kill -KILL "$@"
	for pid; do
		wait "$pid" 2>/dev/null || :
		wait_for 20 is_dead "$pid"
	done
}

# ended_with PID STATUS: waits for PID, and fails unless that was its exit status.
ended_with() {
	status=0
	wait "$1" 2>/dev/null || status=$?
	expect "$2"
}

# queue NAME OPTION…: line_up for the key "key" with a command that adds NAME and the time in microseconds
# to the file "order".
queue() {
	line_up "${@:2}" key sh -c 'echo "$0 $(date +%s%6N)" >>"$work/order"' "$1"
}

# order, order_is NAMES: prints, or compares, what is first in each line of "order".
order() {
	cut -d ' ' -f 1 "$work/order" 2>/dev/null | paste -sd ' '
}

order_is() {
	[ "$(order)" = "$1" ]
}

# crowd COUNT ENDS ARG…: keylock ARG… so many times at once; ENDS is how they end (see crowd.py).
crowd() {
	it_prints "$2" python3 "$tools/crowd.py" "$1" "$KEYLOCK" "${@:3}"
}

# stress [-k] LIMIT WORKERS <<KINDS: the probe stress, which starts what it is told by lines "ARG… : HOLD
# MODE BYTE…"; fails where it finds an overlap or an odd end. Sets found, its figures by name.
stress() {
	local stress word
	stress=$(probe stress)
	rm -f "$work/witness" # it counts on
	it_gives 0 "$stress" "${@:1:$#-2}" "$work/witness" "${@: -2}" \
		< <(tr -s ' ' | sed "s|^|$KEYLOCK |; s| : | $stress -p $work/witness |")
	declare -gA found=()
	for word in $output; do
		found[${word%%=*}]=${word#*=}
	done
	[[ ${found[overlaps]} == 0 && ${found[others]} == 0 && ${found[stuck]} == 0 ]]
}

# keep WHAT…: somebody keeps these locks on the lockfile of the key "key"; see keep.py. Sets keeper, to be
# ended with "stop_keeping".
keep() {
	mkdir -m 700 "$KEYLOCK_DIR" 2>/dev/null || :
	keep_at "$("$KEYLOCK" --path key)" "$@"
}

keep_at() {
	: >"$work/kept"
	python3 "$tools/keep.py" "$@" >"$work/kept" 3>&- 4>&- &
	keeper=$!
	wait_for 20 grep -q kept "$work/kept"
}

stop_keeping() {
	kill_hard "$keeper"
}

# full_pipe: makes a pipe that takes nothing more, the fifo $full; our descriptor 7 keeps it open.
full_pipe() {
	full=$work/full
	mkfifo "$full"
	exec 7<>"$full"
	dd if=/dev/zero of="$full" oflag=nonblock bs=4096 2>/dev/null || :
}

# --- processes ---

# has_ticket PID: keylock PID has its place in the line.
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

# in_state PID LETTERS: the process is in one of these states (see proc(5)).
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

# Prints the children of a process of one thread.
children() {
	tr -s ' ' '\n' <"/proc/$1/task/$1/children"
}

# switches PID: prints how often the process has been put on a processor.
switches() {
	awk '/voluntary_ctxt_switches/ { sum += $2 } END { print sum }' "/proc/$1/status"
}

# blocked FILE [NUMBER]: NUMBER (default: 1) requests or more sleep in the kernel for a lock of FILE.
blocked() {
	local inode
	inode=$(stat -c %i "$1" 2>/dev/null) || return
	# By inode alone: on btrfs the device there is not stat's.
	[ "$(grep -c -- "-> .*:$inode " /proc/locks)" -ge "${2:-1}" ]
}

has_lines() {
	[ -e "$2" ] && [ "$(wc -l <"$2")" -ge "$1" ]
}

# --- a real terminal, which is a tmux of the test's own ---

tm() {
	# A daemon with bats's descriptors would keep bats from ending.
	tmux -S "$work/tmux" "$@" 3>&- 4>&-
}

# terminal COMMAND ARG…: COMMAND, with an argument at least, in a window. Sets pane, its pid.
terminal() {
	need tmux
	tm -f /dev/null new-session -d -x 120 -y 30 -- "$@"
	pane=$(tm display-message -p '#{pane_pid}')
}

# The same with an interactive bash in $work.
terminal_shell() {
	terminal env -C "$work" HISTFILE=/dev/null 'PS1=ready> ' bash --norc --noprofile -i
	type_line 'true >shell'
	wait_for 20 test -e "$work/shell"
	wait_for 20 at_prompt
}

# press KEY…: types keys by tmux's names, such as C-z.
press() {
	tm send-keys "$@"
}

type_line() {
	tm send-keys -l -- "$1"
	tm send-keys Enter
}

# The shell has its terminal back from the job in the foreground.
at_prompt() {
	in_front "$pane"
}

in_front() {
	local group foreground
	read -r _ _ group _ _ foreground _ <<<"$(stat_of "$1")"
	[[ -n $group && $group == "$foreground" ]]
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

# size SHORT LONG: prints how many, in short tests and in long ones.
size() {
	[ -z "${KEYLOCK_LONG-}" ] || shift
	echo "$1"
}

# Sanitizers want descriptors and memory of their own.
need_plain() {
	[ -z "${KEYLOCK_INSTRUMENTED-}" ] || skip 'needs a keylock without instruments'
}

# probe NAME: prints the path of the compiled tests/tools/NAME.c.
probe() {
	local binary=$BATS_RUN_TMPDIR/probes/$1
	if [ ! -x "$binary" ]; then
		mkdir -p "$BATS_RUN_TMPDIR/probes"
		# bats -j runs tests side by side: whoever comes second must not see half a file.
		"${CC:-cc}" -std=c11 -D_GNU_SOURCE= -O1 -Wall -Wextra -pthread \
			-o "$binary.$BASHPID" "$tools/$1.c" >&2 || return
		mv "$binary.$BASHPID" "$binary"
	fi
	printf '%s\n' "$binary"
}

# private_root COMMAND…: runs COMMAND as root of an own mount namespace, an ordinary user as root of an own
# user namespace; run_it skips the test where neither may be.
private_root() {
	local how=(unshare --mount)
	[ "$(id -u)" = 0 ] || how+=(--map-root-user)
	"${how[@]}" -- "$@"
}

# A try of its own, so that only a missing permission skips, and not a fault of the test.
need_private_root() {
	need unshare
	private_root mount -t tmpfs none /mnt 2>/dev/null || skip 'may not mount here'
}

# public_keylock [MODE]: sets public to a folder in which every user may write, with a copy of keylock and
# $KEYLOCK_DIR in it, which has that mode (default: 1777); it is $work from then on. Skips unless as_user
# can be used.
public_keylock() {
	need_root
	need setpriv
	public_folder
	chmod 1777 "$public"
	cp "$KEYLOCK" "$public/keylock"
	work=$public ran=$public/ran KEYLOCK_DIR=$public/dir
	mkdir "$KEYLOCK_DIR"
	chmod "${1-1777}" "$KEYLOCK_DIR"
}

public_folder() {
	public=$(mktemp -d /tmp/keylock-test.XXXXXX)
	test_folders+=("$public")
	chmod 755 "$public"
}

# as_user UID[:GID[,GID…]] COMMAND…: runs COMMAND as that user, without an entry in passwd.
as_user() {
	local uid=${1%%:*} gids=${1#*:} groups=--clear-groups
	[[ $gids != *,* ]] || groups=--groups=${gids#*,}
	setpriv --reuid="$uid" --regid="${gids%%,*}" "$groups" -- "${@:2}"
}

# --- ending what the test started, and nothing else ---

# Prints the pids of what the test started and what still runs; not in a pipe, whose other end it would see.
left_over() (
	# What looks must not have in its own environment what it looks for.
	export -n BATS_TEST_TMPDIR
	grep -lzxsF -- "BATS_TEST_TMPDIR=$BATS_TEST_TMPDIR" /proc/[0-9]*/environ | cut -d / -f 3
)

# A killed keylock may let a waiter begin, which makes new processes: look again until none is left.
end_left_over() {
	local pids round
	for round in {1..200}; do
		pids=$(left_over)
		[ -n "$pids" ] || return 0
		kill -KILL $pids 2>/dev/null || :
		[ "$round" -lt 3 ] || sleep 0.02
	done
	echo "still there: $pids"
	return 1
}

start_watchdog() {
	mkfifo "$work/watchdog"
	(
		# read with a time-out needs no process of its own that would have to be ended, too.
		read -rt "$1" _ <>"$work/watchdog" || :
		echo "the test took longer than $1 s: ending what it started"
		kill -KILL $(left_over) 2>/dev/null || :
	) 3>&- 4>&- &
	watchdog=$!
	# Not a job: neither a bare wait nor the jobs table of a test is to see it.
	disown "$watchdog"
}

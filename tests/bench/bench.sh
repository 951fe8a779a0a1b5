#!/usr/bin/env bash
#
# bench.sh - how fast keylock is, beside the other lock commands
#
# Prints three tables: keylock against its goals, the same on the file system
# of the build directory, and keylock against every lock command that is
# installed. Nothing is installed; what is missing is named. Absolute times
# depend on the machine and its mood, ratios hardly: both sides of a row are
# run in turn by tests/bench/bench.c, and the ratio is the median over the pairs.
#
#   KEYLOCK      the binary (default: the build directory's)
#   BENCH_DIR    where the lockfiles lie (default: /dev/shm)
#   BENCH_SIZE   quick: fewer runs, under 40 seconds
#   CC           compiler for the two programs beside this (default: musl-gcc, else cc)

set -u
# What is measured runs in the caller's locale: loading it is a good part of
# what some of the commands cost. This script itself speaks C.
if [ -n "${LC_ALL-}" ]; then
	environment=(env "LC_ALL=$LC_ALL")
else
	environment=(env -u LC_ALL)
fi
locale=${LC_ALL:-${LANG:-C}}
LC_ALL=C
export LC_ALL

here=$(cd "$(dirname "$0")" && pwd) || exit 1
top=$(cd "$here/../.." && pwd) || exit 1
keylock=${KEYLOCK:-$top/keylock}

case ${BENCH_SIZE:-full} in
quick)
	single=150 crowds=2 queues=1 crowd=200 slot_crowd=10 handovers=30 window=2000
	files=2000 keys=1000 lists=3 tool_runs=20 tool_crowd=20 tool_turns=10
	slow_turns=0 patience=2
	;;
full)
	single=1000 crowds=10 queues=3 crowd=500 slot_crowd=500 handovers=200 window=10000
	files=100000 keys=10000 lists=20 tool_runs=300 tool_crowd=50 tool_turns=50
	slow_turns=1 patience=6
	;;
*)
	echo "bench: BENCH_SIZE is quick or not set" >&2
	exit 64
	;;
esac
waiters=100 # to a kind
settle=2500 # ms: a waiter has looked round once, after a second

# ---- Ground ----

fail() {
	echo "bench: $*" >&2
	exit 1
}

[ -x "$keylock" ] || fail "$keylock: no such program; run make first"

# Programs and messages may not lie on /dev/shm: it is often mounted noexec.
build=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX") || exit 1
shm=$(mktemp -d "${BENCH_DIR:-/dev/shm}/bench.XXXXXX") || exit 1
disk=$(mktemp -d "$top/.bench.XXXXXX") || exit 1
trap 'rm -rf "$build" "$shm" "$disk"' EXIT
trap 'exit 1' HUP INT TERM

exec </dev/null
unset KEYLOCK_DIR KEYLOCK_KEY
export PARALLEL_HOME="$shm/parallel" # where sem keeps its locks
mkdir "$PARALLEL_HOME"
: >"$PARALLEL_HOME/will-cite"

cc=${CC:-$(command -v musl-gcc || echo cc)}
compile() { # FILE NAME: static where the C library can be linked so
	"$cc" -std=c11 -O2 -static -o "$build/$2" "$1" 2>/dev/null ||
		"$cc" -std=c11 -O2 -o "$build/$2" "$1" || fail "$1 does not compile"
}
echo 'int main(void) { return 0; }' >"$build/true.c"
compile "$here/bench.c" bench
compile "$here/floor.c" floor
compile "$build/true.c" true
# A copy, so that a build meanwhile does not end in half a measure.
cp "$keylock" "$build/keylock" || exit 1
keylock=$build/keylock
true=$build/true
floor=$build/floor

# Runs tests/bench/bench.c; after LIMIT seconds it and what it started are ended.
drive() { # LIMIT MODE...
	timeout -k 1 "$1" "${environment[@]}" "$build/bench" "${@:2}" 2>"$build/error"
	local status=$?
	[ "$status" -ne 124 ] || echo "not through after $1 s" >"$build/error"
	return "$status"
}

has() { # ARGUMENT...: does this keylock know these options?
	"$keylock" "$@" >/dev/null 2>&1 </dev/null
	[ $? -ne 64 ]
}

count_files() { # DIRECTORY
	find "$1" -type f | wc -l
}

type_of() { # DIRECTORY: its file system
	{ findmnt -n -o FSTYPE -T "$1" 2>/dev/null || stat -f -c %T "$1"; } | tail -n 1
}

libc_of() { # PROGRAM
	local interpreter
	interpreter=$(readelf -lW "$1" 2>/dev/null | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
	if ! command -v readelf >/dev/null; then
		echo 'libc unknown (no readelf)'
	elif [ -n "$interpreter" ]; then
		echo "dynamic, $interpreter"
	elif readelf -SW "$1" | grep -q '\.note\.ABI-tag'; then
		echo 'static, glibc'
	else
		echo 'static, musl'
	fi
}

# ---- Rows ----

met=0 unmet=0 unmeasured=0

row() { # MEASURE RUNS KEYLOCK OTHER FLOOR RATIO GOAL VERDICT
	printf '%-57s %7s %11s %11s %11s %6s %9s  %s\n' "$@" | sed 's/ *$//'
}

judge() { # VALUE GOAL: sets verdict
	if [ -z "$2" ]; then
		verdict=''
	elif awk -v value="$1" -v goal="$2" 'BEGIN { exit !(value <= goal) }'; then
		verdict=met
		met=$((met + 1))
	else
		verdict='NOT met'
		unmet=$((unmet + 1))
	fi
}

missing() { # MEASURE GOAL WHY
	unmeasured=$((unmeasured + 1))
	row "$1" - - - - - "${2:+<= $2}" "$3"
}

broken() { # MEASURE GOAL
	missing "$1" "$2" "failed: $(head -n 1 "$build/error")"
}

# A row of keylock and another, run in turn; with a third side, the floor. Its
# time, and keylock's ratio to it, stay in floor_time and floor_ratio.
compare() { # MEASURE RUNS GOAL LIMIT MODE...
	local measure=$1 runs=$2 goal=$3 output mine other ratio
	floor_time='' floor_ratio=''
	if ! output=$(drive "${@:4}"); then
		broken "$measure" "$goal"
		return
	fi
	{
		read -r mine _
		read -r other ratio
		read -r floor_time floor_ratio
	} <<<"$output"
	ratio=$(printf '%.3f' "$ratio")
	judge "$ratio" "$goal"
	row "$measure" "$runs" "$(ms "$mine")" "$(ms "$other")" "$(ms "$floor_time")" \
		"$ratio" "${goal:+<= $goal}" "$verdict"
}

ms() { # TIME
	if [ -n "$1" ]; then printf '%.3f ms' "$1"; else echo -; fi
}

compare_single() { # MEASURE GOAL :: KEYLOCK... :: OTHER...
	compare "$1" "$single" "$2" 120 pair "$single" "${@:3}"
}

heading() {
	row 'measure : against' runs keylock other floor ratio goal ''
	row "$(printf '%057d' 0 | tr 0 -)" ------- ----------- ----------- ----------- ------ --------- -------
}

# ---- Measures ----

# What the core costs, with the lockfiles in DIRECTORY; goals only where asked for.
core() { # DIRECTORY GOALS?
	local dir=$1 file=$1/flock ratio
	local mine=("$keylock" -d "$dir/keys")
	goal() { [ "$2" = no ] || echo "$1"; }
	mkdir -p "$dir/keys"
	compare_single "KEY true, key free : flock FILE true" "$(goal 0.28 "$2")" \
		:: "${mine[@]}" key "$true" :: flock "$file" "$true" :: "$floor" "$file" "$true"
	if [ -n "$floor_ratio" ]; then
		ratio=$(printf '%.3f' "$floor_ratio")
		judge "$ratio" "$(goal 1.10 "$2")"
		row "KEY true, key free : floor (same runs)" "$single" '' '' '' "$ratio" \
			"$([ "$2" = no ] || echo '<= 1.10')" "$verdict"
	fi
	if [ "$2" = yes ]; then
		empty_environment
		system_true
	fi
	compare_single "-F KEY true : flock -F FILE true" "$(goal 0.25 "$2")" \
		:: "${mine[@]}" -F key "$true" :: flock -F "$file" "$true"
	compare "$crowd contenders at once on one key : flock" "${crowds}x$crowd" "$(goal 0.28 "$2")" \
		120 crowd "$crowds" "$crowd" :: "${mine[@]}" key "$true" :: flock "$file" "$true" \
		:: "$floor" "$file" "$true"
	compare "$crowd waiters let go at once, until all have run : flock" "${queues}x$crowd" '' \
		120 queue "$queues" "$crowd" :: "${mine[@]}" key :: flock "$file" :: "$floor" "$file"
	compare "end of a holder to start of the next command : flock" "$handovers" "$(goal 0.50 "$2")" \
		120 handover "$handovers" :: "${mine[@]}" key :: flock "$file" :: "$floor" "$file"
}

# As cron starts it, no locale is to be loaded.
empty_environment() {
	local environment=(env -i)
	compare_single "the same with an empty environment" "" \
		:: "$keylock" -d "$shm/keys" key "$true" :: flock "$shm/flock" "$true" \
		:: "$floor" "$shm/flock" "$true"
}

system_true() {
	compare_single "the same with /bin/true, which is not static" "" \
		:: "$keylock" -d "$shm/keys" key /bin/true :: flock "$shm/flock" /bin/true \
		:: "$floor" "$shm/flock" /bin/true
}

slots() {
	local measure="$slot_crowd contenders at once on 4 slots : sem -j4" goal=0.02
	if ! has -d "$shm/keys" -j 2 key "$true"; then
		missing "$measure" "$goal" 'not in this keylock (-j)'
	elif ! command -v sem >/dev/null; then
		missing "$measure" "$goal" 'not installed: sem'
	else
		compare_with_sem "$measure" "$goal"
	fi
}

# On a busy machine sem takes minutes: then the time it was given stands for it.
compare_with_sem() { # MEASURE GOAL
	local mine other limit=90 ratio more=''
	local crowd=(crowd 1 "$slot_crowd" ::)
	if ! mine=$(drive 60 "${crowd[@]}" "$keylock" -d "$shm/keys" -j 4 key "$true"); then
		broken "$1" "$2"
		return
	fi
	if ! other=$(drive "$limit" "${crowd[@]}" sem --id slots -j 4 --fg "$true"); then
		other=${limit}000
		more='>'
	fi
	ratio=$(awk -v a="${mine%% *}" -v b="${other%% *}" 'BEGIN { printf "%.3f", a / b }')
	judge "$ratio" "$2"
	row "$1" "1x$slot_crowd" "$(ms "${mine%% *}")" "$more$(printf '%.0f' "${other%% *}") ms" - \
		"${more:+<}$ratio" "<= $2" "$verdict"
}

# One window for all kinds of waiters; flock's stand beside them.
waiting() {
	local names=(plain) goal=0 output i mine own served other other_own
	local sides=(:: 1 "$waiters" "$keylock" -d "$shm/keys" plain)
	names+=('with -w')
	sides+=(:: 1 "$waiters" "$keylock" -d "$shm/keys" -w 1h timed)
	if has -d "$shm/keys" -j 2 key "$true"; then
		names+=('with -j 4')
		sides+=(:: 4 "$waiters" "$keylock" -d "$shm/keys" -j 4 slots)
	fi
	sides+=(:: 1 "$waiters" flock "$shm/flock")
	if ! output=$(drive 120 wait "$settle" "$window" "${sides[@]}"); then
		broken "waiters: memory and wakeups" "$goal"
		return
	fi
	read -r other other_own _ <<<"$(tail -n 1 <<<"$output")"

	i=0
	while [ "$i" -lt "${#names[@]}" ] && read -r mine own served; do
		if [ "$served" -ne "$waiters" ]; then
			echo "only $served of $waiters were served" >"$build/error"
			broken "waiters ${names[i]}" "$goal"
			i=$((i + 1))
			continue
		fi
		if [ "$i" -eq 0 ]; then
			judge "$own" 48
			row "memory of a waiter that is its own, median of $waiters : flock" "$waiters" \
				"$own KiB" "$other_own KiB" - \
				"$(awk -v a="$own" -v b="$other_own" 'BEGIN { printf "%.3f", a / b }')" \
				'<= 48 KiB' "$verdict"
		fi
		judge "$mine" 0
		row "wakeups of $waiters waiters in $((window / 1000)) s, ${names[i]} : flock" 1 \
			"$mine" "$other" - - '<= 0' "$verdict"
		i=$((i + 1))
	done <<<"$output"
	[ "${#names[@]}" -eq 3 ] ||
		missing "wakeups of $waiters waiters in $((window / 1000)) s, with -j 4" 0 \
			'not in this keylock (-j)'
}

full_directory() { # DIRECTORY GOAL
	local measure="KEY true, $files other lockfiles there : none there"
	mkdir "$1/full" "$1/empty"
	if ! (cd "$1/full" && seq -f 'other%.0f' 1 "$files" | xargs touch) 2>"$build/error"; then
		broken "$measure" "$2"
	else
		compare_single "$measure" "$2" :: "$keylock" -d "$1/full" key "$true" \
			:: "$keylock" -d "$1/empty" key "$true"
	fi
	rm -rf "$1/full" "$1/empty"
}

# The same through flock(1), which leaves its files, only to show the scale.
many_keys() {
	local measure="files left after $keys keys through xargs -P 4 : flock" left others
	mkdir "$shm/many" "$shm/others"
	if ! seq "$keys" | xargs -P 4 -I '{}' "$keylock" -d "$shm/many" 'user:{}' "$true" 2>"$build/error"; then
		broken "$measure" 0
	else
		seq "$keys" | xargs -P 4 -I '{}' flock "$shm/others/user:{}" "$true"
		left=$(count_files "$shm/many")
		others=$(count_files "$shm/others")
		judge "$left" 0
		row "$measure" 1 "$left" "$others" - - '<= 0' "$verdict"
	fi
	rm -rf "$shm/many" "$shm/others"
}

# 100 processes that hold 100 keys each, until this shell closes their input.
listing() {
	local measure='--list with 10000 held keys' goal=300 i key arguments seen output took
	local holders=() deadline=$((SECONDS + 60))
	if ! has -d "$shm/keys" --list; then
		missing "$measure" '0.3 s' 'not in this keylock (--list)'
		return
	elif ! has -d "$shm/keys" -k other key "$true"; then
		missing "$measure" '0.3 s' 'not in this keylock (-k)'
		return
	fi
	mkdir "$shm/listed"
	mkfifo "$build/gate"
	exec 7<>"$build/gate"
	for i in {1..100}; do
		arguments=()
		for key in {1..99}; do
			arguments+=(-k "batch:$i:$key")
		done
		"$keylock" -d "$shm/listed" "${arguments[@]}" "batch:$i:100" "$build/bench" hold \
			<"$build/gate" >/dev/null 2>>"$build/error" 7>&- &
		holders+=($!)
	done
	until [ "$(count_files "$shm/listed")" -ge 10000 ] || [ "$SECONDS" -gt "$deadline" ]; do
		sleep 0.2
	done
	seen=$("$keylock" -d "$shm/listed" --list 7>&- | grep -c 'batch:')
	if [ "$seen" -ne 10000 ]; then
		echo "--list shows $seen of 10000 held keys" >"$build/error"
		broken "$measure" '0.3 s'
	elif output=$(drive 120 pair "$lists" :: "$keylock" -d "$shm/listed" --list 7>&- |
		tail -n 1); then
		took=$(printf '%.3f' "${output%% *}")
		judge "$took" "$goal"
		row "$measure" "$lists" "$took ms" - - - '<= 0.3 s' "$verdict"
	fi
	exec 7>&-
	wait "${holders[@]}"
	rm -rf "$shm/listed" "$build/gate"
}

size() {
	local measure='size of the binary, with musl' bytes
	bytes=$(stat -L -c %s "$keylock")
	case $(libc_of "$keylock") in
	*musl*)
		judge "$bytes" 65536
		row "$measure" 1 "$bytes B" - - - '<= 64 KiB' "$verdict"
		;;
	*) missing "$measure" '64 KiB' "not musl: $bytes bytes" ;;
	esac
}

# ---- The other lock commands ----

# Sets command: what runs a command under the lock on FILE, waiting for it.
tool_command() { # TOOL FILE
	case $1 in
	flock) command=(flock "$2") ;;
	'flock -F') command=(flock -F "$2") ;;
	setlock) command=(setlock "$2") ;;
	s6-setlock) command=(s6-setlock "$2") ;;
	chpst) command=(chpst -l "$2") ;;
	lckdo) command=(lckdo -w "$2") ;;
	with-lock-ex) command=(with-lock-ex -w "$2") ;;
	lockfile-create)
		# shellcheck disable=SC2016 # the script's own parameters
		command=(sh -c 'lockfile-create -r 100 "$0" && { "$@"; s=$?; lockfile-remove "$0"; exit $s; }' "$2")
		;;
	dotlockfile) command=(dotlockfile -r -1 "$2") ;;
	sem) command=(sem --id "${2##*/}" --fg -u) ;;
	floor) command=("$floor" "$2") ;;
	esac
}

# The ratio of keylock's time to the tool's, - where there is none.
tool_ratio() { # LIMIT MODE...
	local output
	output=$(drive "$@") || output=
	awk 'NR == 2 { ratio = $2 < 0.0005 ? "<0.001" : sprintf("%.3f", $2) } END { print ratio ? ratio : "-" }' <<<"$output"
}

# A crowd may take a tool that looks every few seconds hours: patience ends it.
tool_crowd_ratio() { # TOOL-COMMAND...
	local mine other
	local crowd=(crowd 1 "$tool_crowd" ::)
	case $1 in
	sem | dotlockfile | sh) ;;
	*)
		tool_ratio 60 crowd 3 "$tool_crowd" :: "$keylock" -d "$shm/keys" key "$true" :: "$@"
		return
		;;
	esac
	mine=$(drive 60 "${crowd[@]}" "$keylock" -d "$shm/keys" key "$true") || mine=
	if other=$(drive "$patience" "${crowd[@]}" "$@"); then
		awk -v a="${mine%% *}" -v b="${other%% *}" 'BEGIN { printf "%.3f\n", a / b }'
	else
		awk -v a="${mine%% *}" -v b="$patience" 'BEGIN { printf "<%.3f\n", a / b / 1000 }'
	fi
}

tool_row() { # TOOL PACKAGE RUNS-THE-COMMAND-AS
	local tool=$1 package=$2 how=$3 program=${1%% *} one in_place crowd_ratio handover='-'
	local own wakeups left dir="$shm/tool" runs=$tool_runs turns=$tool_turns
	local mine=("$keylock" -d "$shm/keys")
	if [ "$tool" != floor ] && ! command -v "$program" >/dev/null; then
		printf '%-16s not installed (package %s)\n' "$tool" "$package"
		return
	fi
	case $tool in
	lockfile-create | dotlockfile) turns=$slow_turns ;; # they look every five seconds
	sem) runs=$((tool_runs / 20)) turns=$((2 * slow_turns + 1)) ;;
	esac
	mkdir "$dir"

	tool_command "$tool" "$dir/one"
	one=$(tool_ratio 60 pair "$runs" :: "${mine[@]}" key "$true" :: "${command[@]}" "$true")
	in_place=$(tool_ratio 60 pair "$runs" :: "${mine[@]}" -F key "$true" :: "${command[@]}" "$true")
	left=$(count_files "$dir")
	[ "$tool" != sem ] || left=$(count_files "$PARALLEL_HOME/semaphores")
	tool_command "$tool" "$dir/crowd"
	crowd_ratio=$(tool_crowd_ratio "${command[@]}" "$true")
	tool_command "$tool" "$dir/turn"
	[ "$turns" -eq 0 ] ||
		handover=$(tool_ratio 30 handover "$turns" :: "${mine[@]}" key :: "${command[@]}")

	read -r wakeups own _ <<<"$(sed -n "s/^$program //p" "$build/waits")"
	[ "${own:--}" != -1 ] || own=-
	tool_line "$tool" "$one" "$in_place" "$crowd_ratio" "$handover" "${own:--}" \
		"${wakeups:--}" "$left" "$how"
	rm -rf "$dir"
}

# Five waiters of each tool, all in one window: into $build/waits, a line a tool.
tool_waits() {
	local tool names=(keylock) output
	local sides=(:: 1 5 "$keylock" -d "$shm/keys" wait)
	mkdir "$shm/waits"
	for tool in flock setlock s6-setlock chpst lckdo with-lock-ex lockfile-create dotlockfile sem; do
		command -v "$tool" >/dev/null || continue
		tool_command "$tool" "$shm/waits/$tool"
		names+=("$tool")
		sides+=(:: 1 5 "${command[@]}")
	done
	if output=$(drive 120 wait "$settle" "$window" "${sides[@]}"); then
		paste -d ' ' <(printf '%s\n' "${names[@]}") - <<<"$output" >"$build/waits"
	else
		: >"$build/waits"
		echo "(waiters were not measured: $(head -n 1 "$build/error"))"
	fi
	rm -rf "$shm/waits"
}

tool_line() {
	printf '%-16s %9s %9s %9s %9s %9s %9s %9s  %s\n' "$@" | sed 's/ *$//'
}

tool_table() {
	tool_waits
	tool_line tool 'one run' 'one run' "$tool_crowd at" hand-over "a waiter" "waiters'" files 'runs the'
	tool_line '' '' 'with -F' once '' KiB wakeups left command
	tool_line ---------------- --------- --------- --------- --------- --------- --------- \
		--------- -----------
	tool_row flock util-linux 'as a child'
	tool_row 'flock -F' util-linux 'in place'
	tool_row setlock daemontools 'in place'
	tool_row s6-setlock s6 'in place'
	tool_row chpst runit 'in place'
	tool_row lckdo moreutils 'as a child'
	tool_row with-lock-ex chiark-utils-bin 'in place'
	tool_row lockfile-create lockfile-progs 'between create and remove, in sh'
	tool_row dotlockfile liblockfile-bin 'as a child'
	tool_row sem parallel 'as a child'
	tool_row floor - 'as a child'
	read -r wakeups own _ <<<"$(sed -n 's/^keylock //p' "$build/waits")"
	tool_line keylock 1 '' 1 1 "${own:--}" "${wakeups:--}" "$(count_files "$shm/keys")" \
		'as a child; with -F in place'
}

# ---- The report ----

command -v flock >/dev/null || fail "flock (util-linux) is what keylock is measured against"
mkdir "$shm/keys"

echo "keylock bench, $(date -u +%Y-%m-%d)"
echo "machine   $(nproc) x $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), load $(cut -d ' ' -f 1 /proc/loadavg) at the start"
echo "kernel    $(uname -srm); locale $locale"
echo "binary    $("$keylock" --version 2>/dev/null | head -n 1), $(libc_of "$keylock")"
echo "beside    $(flock --version)"
echo
cat <<END
Times are medians; a ratio is the median of keylock's time divided by the other's, run in turn.
"true" is a static program that only ends; "floor" is the least a lock command can do:
open, flock, vfork, exec, wait, exit. Lockfiles on $(type_of "$shm") (${BENCH_DIR:-/dev/shm}).

END
heading
core "$shm" yes
slots
waiting
full_directory "$shm" 1.10
many_keys
listing
size
echo
echo "The same with the lockfiles in the build directory, $(type_of "$disk"):"
echo
heading
compare_single "KEY true there : on $(type_of "$shm")" "" \
	:: "$keylock" -d "$disk" key "$true" :: "$keylock" -d "$shm/keys" key "$true"
core "$disk" no
full_directory "$disk" ""
echo
cat <<END
keylock's time divided by that of every other lock command, lockfiles on $(type_of "$shm"); below 1
keylock is faster. $tool_runs runs each (sem $((tool_runs / 20))). < where $tool_crowd at once were not through after $patience s.
A waiter's own memory; the wakeups of 5 waiters in $((window / 1000)) s; the files that one key leaves behind.

END
tool_table
echo
echo "$met goals met, $unmet not met, $unmeasured not measured, in $SECONDS s"

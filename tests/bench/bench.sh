#!/usr/bin/env bash
#
# bench.sh - how fast keylock is, beside the least that a lock can cost and beside
# the other lock commands
#
# Nothing is installed; what is missing is named. Absolute times depend on the machine
# and its mood, ratios hardly: the two sides of a row are run in turn by bench.c, and a
# ratio is the median over the runs.
#
#   KEYLOCK       the binary (default: the build directory's)
#   BENCH_OTHER   another keylock, to be beside it in two rows: before and after
#   BENCH_DIR     where the lockfiles lie (default: /dev/shm)
#   BENCH_SIZE    quick: fewer runs, half a minute; full takes some ten minutes
#   CC            compiler for the programs beside this (default: musl-gcc, else cc)

set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")" && pwd) || exit 1

case ${BENCH_SIZE:-full} in
quick) single=150 crowds=3 crowd=200 turns=5 line=1000 keys=1000 waiting=100 lists=3 window=2 ;;
full) single=1000 crowds=10 crowd=500 turns=20 line=10000 keys=10000 waiting=1000 lists=10 window=10 ;;
*)
	echo 'bench: BENCH_SIZE is quick or not set' >&2
	exit 64
	;;
esac

# Programs and messages may not lie on /dev/shm: it is often mounted noexec.
build=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX") || exit 1
shm=$(mktemp -d "${BENCH_DIR:-/dev/shm}/bench.XXXXXX") || exit 1
started=() holders=()
trap 'kill ${started[@]+"${started[@]}"} 2>/dev/null; rm -rf "$build" "$shm"' EXIT
trap 'exit 1' HUP INT TERM
exec </dev/null
unset KEYLOCK_KEY
export KEYLOCK_DIR=$shm/keys PARALLEL_HOME=$shm/parallel # where sem keeps its locks
mkdir "$PARALLEL_HOME"
: >"$PARALLEL_HOME/will-cite"

cc=${CC:-$(command -v musl-gcc || echo cc)}
echo 'int main(void) { return 0; }' >"$build/true.c"
printf '#include <unistd.h>\nint main(void) { return usleep(10000); }\n' >"$build/nap.c"
for source in "$here/bench.c" "$build"/{true,nap}.c; do
	name=$build/$(basename "$source" .c)
	"$cc" -std=gnu11 -O2 -static -o "$name" "$source" 2>/dev/null ||
		"$cc" -std=gnu11 -O2 -o "$name" "$source" || exit
done
true=$build/true nap=$build/nap file=$shm/file
# A copy, so that a build meanwhile does not end in half a measure.
keylock=$build/keylock
cp "${KEYLOCK:-$here/../../keylock}" "$keylock" || exit 1

# ---- Rows ----

met=0 unmet=0

row() { # MEASURE KEYLOCK BESIDE RATIO GOAL VERDICT
	printf '%-62s %12s %12s %7s %8s  %s\n' "$@" | sed 's/ *$//'
}

# show MEASURE GOAL: a row of what bench.c says on standard input; no GOAL: nothing is judged.
show() {
	local own beside ratio verdict=''
	if ! read -r own beside ratio; then
		verdict="failed: $(head -n 1 "$build/error")"
		unmet=$((unmet + 1))
	elif [ -n "$2" ] && awk "BEGIN { exit !($ratio <= $2) }"; then
		verdict=met
		met=$((met + 1))
	elif [ -n "$2" ]; then
		verdict='NOT met'
		unmet=$((unmet + 1))
	fi
	row "$1" "${own:+$own ms}" "${beside:+$beside ms}" "${ratio-}" "${2:+<= $2}" "$verdict"
}

# measure crowd|line WORDS GOAL RUNS NUMBER COMMAND... :: NUMBER COMMAND...: a row by bench.c.
measure() {
	show "$2" "$3" < <(timeout -k 1 900 "$build/bench" "$1" "${@:4}" 2>"$build/error")
}

# ---- Waiters, and looking at them ----

# holder COMMAND...: starts a lock command that holds until stop.
holder() {
	[ -p "$build/gate" ] || mkfifo "$build/gate"
	exec 7<>"$build/gate"
	"$@" cat <"$build/gate" >/dev/null 7>&- &
	holders+=($!)
}

# waiter NUMBER COMMAND...: starts NUMBER of a lock command that have to wait.
waiter() {
	local i
	for ((i = 0; i < $1; i++)); do
		"${@:2}" "$true" 7>&- &
		started+=($!)
	done
}

# sum FILE NAME: that number, of /proc/PID/FILE of all waiters.
sum() {
	local pid
	for pid in "${started[@]}"; do
		cat "/proc/$pid/$1"
	done 2>/dev/null | awk -v name="$2" '$1 ~ name { sum += $2 } END { print sum + 0 }'
}

# Their wakeups in a while, after they have looked once, and the memory that is their own.
waiting() { # WORDS HOLDERS COMMAND...
	local before i words=$1 count=$2
	shift 2
	for ((i = 0; i < count; i++)); do
		holder "$@"
	done
	sleep 0.5
	waiter 100 "$@"
	sleep 2.5
	before=$(sum status ctxt_switches)
	sleep "$window"
	printf '%-62s %5s wakeups in %s s, %4s KiB each\n' "100 waiters, $words" \
		$(($(sum status ctxt_switches) - before)) "$window" $(($(sum smaps_rollup '^Private_[CD]') / 100))
	stop
}

# Ends what waits first, so that nobody is served.
stop() {
	kill "${started[@]}"
	wait "${started[@]}" 2>/dev/null
	exec 7>&-
	wait "${holders[@]}"
	started=() holders=()
}

# A hundredth as many processes as keys hold them; for each of them some wait.
listing() {
	local i key arguments
	for ((i = 0; i < keys / 100; i++)); do
		arguments=()
		for ((key = 1; key < 100; key++)); do
			arguments+=(-k "batch:$i:$key")
		done
		holder "$keylock" "${arguments[@]}" "batch:$i:0"
	done
	until [ "$(find "$KEYLOCK_DIR" -type f | wc -l)" -ge "$keys" ]; do
		sleep 0.2
	done
	for ((i = 0; i < keys / 100; i++)); do
		waiter $((100 * waiting / keys)) "$keylock" "batch:$i:0"
	done
	until [ "$("$keylock" --list --json | awk -F '"waiting":' '{ sum += $2 } END { print sum }')" -ge "$waiting" ]; do
		sleep 0.2
	done
	measure crowd "--list, $keys held keys, $waiting waiters (goal: 500 ms) : --path" '' \
		"$lists" 1 "$keylock" --list :: 1 "$keylock" --path key
	stop
}

# ---- The report ----

cat <<END
keylock bench, $(date -u +%Y-%m-%d)
machine   $(nproc) x $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d ' ' -f 1 /proc/loadavg) at the start
kernel    $(uname -srm); lockfiles on $(stat -f -c %T "$shm")
keylock   ${KEYLOCK:-keylock}: $("$keylock" --version), $(stat -c %s "$keylock") bytes; beside it $(flock --version)

Times are medians; a ratio is the median of keylock's time divided by that of what is beside it,
run in turn. "true" is a static program that only ends; "floor" is the least a lock command can do.

END
row 'measure : beside' keylock beside ratio goal ''
floor="$build/bench floor"
# shellcheck disable=SC2086 # words
{
	measure crowd 'KEY true, key free : floor' 1.12 "$single" 1 "$keylock" key "$true" :: 1 $floor "$file" "$true"
	measure crowd 'KEY true, key free : floor that removes its file' '' "$single" 1 "$keylock" key "$true" :: 1 $floor -u "$file" "$true"
	measure crowd 'KEY true, key free : flock' 0.28 "$single" 1 "$keylock" key "$true" :: 1 flock "$file" "$true"
	for words in 'setlock FILE' 's6-setlock FILE' 'chpst -l FILE' 'lckdo -w FILE' 'with-lock-ex -w FILE' \
		'dotlockfile -r -1 FILE' 'lockfile-create -r 100 FILE' 'sem --id bench --fg -u'; do
		if ! command -v "${words%% *}" >/dev/null; then
			echo "KEY true, key free : ${words%% *} is not installed"
			continue
		fi
		measure crowd "KEY true, key free : ${words%% *}" '' $((single / 10)) 1 "$keylock" key "$true" :: 1 ${words/FILE/$shm/${words%% *}} "$true"
	done
	measure crowd '-F KEY true : flock -F' 0.25 "$single" 1 "$keylock" -F key "$true" :: 1 flock -F "$file" "$true"
	measure crowd "$crowd contenders at once on one key : floor" 1.25 "$crowds" "$crowd" "$keylock" key "$true" :: "$crowd" $floor "$file" "$true"
	measure crowd "$crowd on 4 slots, 10 ms each : $((crowd / 4)) on one key" 1.25 "$crowds" "$crowd" "$keylock" -j 4 key "$nap" :: $((crowd / 4)) "$keylock" key "$nap"
	measure line "end of a holder to the next one's start : floor" 1.15 "$turns" 100 "$keylock" key :: 100 $floor "$file"
	measure line "end of a holder to the next one's start : flock" '' "$turns" 100 "$keylock" key :: 100 flock "$file"
}
if [ -n "${BENCH_OTHER-}" ]; then
	measure crowd "KEY true, key free : $BENCH_OTHER" '' "$single" 1 "$keylock" key "$true" :: 1 "$BENCH_OTHER" other "$true"
	measure line "end of a holder to the next one's start : $BENCH_OTHER" '' "$turns" 100 "$keylock" key :: 100 "$BENCH_OTHER" other
fi
listing
# The kernel's lists of locks are linear: so are who is added to them and who is woken.
measure line "the same among $line at once : 100" '' 1 "$line" "$keylock" key :: 100 "$keylock" key
echo
waiting plain 1 "$keylock" key
waiting -w 1 "$keylock" -w 1h key
waiting '-j 4' 4 "$keylock" -j 4 key
waiting flock 1 flock "$file"
echo
echo "$met goals met, $unmet not met, in $SECONDS s"

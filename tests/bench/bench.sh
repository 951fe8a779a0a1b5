#!/usr/bin/env bash
#
# bench.sh - how fast keylock is, beside the least that a lock can cost and beside
# the other lock commands
#
# Nothing is installed; what is missing is named. Absolute times depend on the machine
# and its mood, ratios hardly: the sides of a row are run in turn by bench.c, and a
# ratio is the median over the runs. Whole commands that take long enough are timed by
# hyperfine(1), where it is installed.
#
#   KEYLOCK       the binary (default: the build directory's)
#   BENCH_OTHER   another keylock, measured beside it in the same runs: before and after
#   BENCH_DIR     where the lockfiles lie (default: /dev/shm)
#   BENCH_SIZE    quick: fewer runs, half a minute; full takes some ten minutes
#   CC            compiler for the two programs beside this (default: musl-gcc, else cc)

set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "$0")" && pwd) || exit 1

case ${BENCH_SIZE:-full} in
quick) single=150 crowds=3 crowd=200 turns=50 line=1000 files=2000 keys=1000 waiting=100 lists=3 window=2 tool_runs=20 ;;
full) single=1000 crowds=10 crowd=500 turns=200 line=10000 files=100000 keys=10000 waiting=1000 lists=10 window=10 tool_runs=200 ;;
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
unset KEYLOCK_DIR KEYLOCK_KEY
export PARALLEL_HOME=$shm/parallel # where sem keeps its locks
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
true=$build/true nap=$build/nap
floor=("$build/bench" floor)

# Copies, so that a build meanwhile does not end in half a measure; keys of its own for each.
binaries=()
for binary in "${KEYLOCK:-$here/../../keylock}" ${BENCH_OTHER+"$BENCH_OTHER"}; do
	copy=$build/keylock${#binaries[@]}
	cp "$binary" "$copy" && mkdir "$shm/${copy##*/}" || exit 1
	binaries+=("$copy")
done

# ---- Rows ----

met=0 unmet=0

row() { # MEASURE KEYLOCK OTHER BESIDE RATIO OTHERS-RATIO GOAL VERDICT
	printf '%-62s %11s %11s %11s %7s %7s %8s  %s\n' "$@" | sed 's/ *$//'
}

# A line a side, of which the last is what is beside keylock, as a row.
show() { # MEASURE GOAL; standard input: MEDIAN RATIO
	local medians=() ratios=() median ratio verdict='' other=$((${#binaries[@]} - 1))
	while read -r median ratio; do
		medians+=("$(printf '%.3f ms' "$median")") ratios+=("$(printf '%.3f' "$ratio")")
	done
	if [ "${#medians[@]}" -ne $((other + 2)) ]; then
		verdict="failed: $(head -n 1 "$build/error")"
	elif [ -n "$2" ]; then
		verdict=$(awk "BEGIN { print ${ratios[0]} <= $2 ? \"met\" : \"NOT met\" }")
	fi
	[ "$verdict" != met ] || met=$((met + 1))
	[[ ! $verdict =~ ^(NOT|failed) ]] || unmet=$((unmet + 1))
	[ "$other" -gt 0 ] || medians=("${medians[0]-}" '' "${medians[1]-}") ratios=("${ratios[0]-}" '')
	row "$1" "${medians[@]}" "${ratios[@]:0:2}" "${2:+<= $2}" "$verdict"
}

# drive MODE RUNS NUMBER ARGUMENT... :: NUMBER BESIDE...: bench.c with a side for each
# keylock with these arguments, and the one beside them, in which KEYLOCK is the first.
drive() {
	local mode=$1 runs=$2 binary words="${*:3}" sides=()
	local own=${words%% :: *} beside=${words#* :: }
	for binary in "${binaries[@]}"; do
		sides+=(":: ${own%% *} $binary -d $shm/${binary##*/} ${own#* }")
	done
	sides+=(":: ${beside/KEYLOCK/${binaries[0]} -d $shm/keylock0}")
	# shellcheck disable=SC2068 # no word has blanks
	timeout -k 1 900 "$build/bench" "$mode" "$runs" ${sides[@]} 2>"$build/error" ||
		echo "$?" >>"$build/error"
}

crowd() { # MEASURE GOAL RUNS NUMBER ARGUMENT... :: NUMBER BESIDE...
	show "$1" "$2" < <(drive crowd "${@:3}")
}

# Hand-overs and arrivals; their goals and the words for what they are among.
line() { # WORDS GOAL RUNS NUMBER ARGUMENT... :: NUMBER BESIDE...
	local lines=$((${#binaries[@]} + 1))
	drive line "${@:3}" >"$build/line"
	show "end of a holder to the next one's start$1" "$2" < <(head -n "$lines" "$build/line")
	show "an arrival, until it sleeps$1" '' < <(tail -n "+$((lines + 1))" "$build/line")
}

# ---- Waiters, and looking at them ----

# holder COMMAND...: starts a lock command that holds until stop.
holder() {
	[ -p "$build/gate" ] || mkfifo "$build/gate"
	exec 7<>"$build/gate"
	"$@" "$build/bench" turn <"$build/gate" >/dev/null 7>&- &
	holders+=($!)
}

# waiter NUMBER COMMAND...: starts NUMBER of a lock command that have to wait.
waiter() {
	local i
	waiters=()
	for ((i = 0; i < $1; i++)); do
		"${@:2}" "$true" 7>&- &
		waiters+=($!)
	done
	started+=("${waiters[@]}")
}

# sum FILE NAME: that number, of /proc/PID/FILE of all waiters.
sum() {
	local pid
	for pid in "${waiters[@]}"; do
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
listing() { # BINARY NAME
	local dir=$shm/listed i key arguments
	mkdir "$dir"
	for ((i = 0; i < keys / 100; i++)); do
		arguments=()
		for ((key = 1; key < 100; key++)); do
			arguments+=(-k "batch:$i:$key")
		done
		holder "$1" -d "$dir" "${arguments[@]}" "batch:$i:0"
	done
	until [ "$(find "$dir" -type f | wc -l)" -ge "$keys" ]; do
		sleep 0.2
	done
	for ((i = 0; i < keys / 100; i++)); do
		waiter $((100 * waiting / keys)) "$1" -d "$dir" "batch:$i:0"
	done
	until [ "$("$1" -d "$dir" --list --json | awk -F '"waiting":' '{ sum += $2 } END { print sum }')" -ge "$waiting" ]; do
		sleep 0.2
	done
	"$build/bench" crowd "$lists" :: 1 "$1" -d "$dir" --list 2>"$build/error" |
		awk -v what="$2--list, $keys held keys, $waiting waiters (goal: 500 ms)" '{ printf "%-62s %8.3f ms\n", what, $1 }'
	stop
	rm -rf "$dir"
}

# ---- The other lock commands ----

# A line a tool: how often as long as keylock's one run takes, by hyperfine.
tools() {
	local words found=() missing='' file=$shm/tool
	for words in 'flock FILE' 'flock -F FILE' 'setlock FILE' 's6-setlock FILE' 'chpst -l FILE' \
		'lckdo -w FILE' 'with-lock-ex -w FILE' 'dotlockfile -r -1 FILE' \
		'lockfile-create -r 100 FILE' 'sem --id bench --fg -u'; do
		if command -v "${words%% *}" >/dev/null; then
			found+=(-n "$words" "${words//FILE/$file} $true")
		else
			missing+=" ${words%% *}"
		fi
	done
	echo
	if ! command -v hyperfine >/dev/null; then
		echo 'keylock beside the other lock commands: not measured, needs hyperfine'
		return
	fi
	echo "One run of a static \"true\", key free, by hyperfine: median, and keylock's divided by it"
	hyperfine --shell=none --warmup 5 --runs "$tool_runs" --export-csv "$build/csv" --style none \
		-n keylock "${binaries[0]} -d $shm/keylock0 key $true" \
		-n 'keylock -F' "${binaries[0]} -d $shm/keylock0 -F key $true" \
		"${found[@]}" >"$build/error" 2>&1 || cat "$build/error"
	awk -F , 'NR == 2 { own = $4 } NR > 1 { printf "%-62s %8.3f ms %7.3f\n", $1, 1000 * $4, own / $4 }' "$build/csv"
	echo "not installed:${missing:- none}"
}

# ---- The report ----

echo "keylock bench, $(date -u +%Y-%m-%d)"
echo "machine   $(nproc) x $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d ' ' -f 1 /proc/loadavg) at the start"
echo "kernel    $(uname -srm); lockfiles on $(stat -f -c %T "$shm")"
echo "keylock   ${KEYLOCK:-keylock}: $("${binaries[0]}" --version), $(stat -c %s "${binaries[0]}") bytes; beside it $(flock --version)"
[ -z "${BENCH_OTHER-}" ] || echo "other     $BENCH_OTHER: $("${binaries[1]}" --version), $(stat -c %s "${binaries[1]}") bytes"
cat <<END

Times are medians; a ratio is the median of a keylock's time divided by that of what is beside it,
run in turn. "true" is a static program that only ends; "floor" is the least a lock command can do.

END
row 'measure : beside' keylock "${BENCH_OTHER+other}" beside ratio "${BENCH_OTHER+other}" goal ''
file=$shm/file
crowd 'KEY true, key free : floor' '' "$single" 1 key "$true" :: 1 "${floor[@]}" "$file" "$true"
crowd 'KEY true, key free : floor that removes its file' 1.12 "$single" 1 key "$true" :: 1 "${floor[@]}" -u "$file" "$true"
crowd 'KEY true, key free : flock' 0.28 "$single" 1 key "$true" :: 1 flock "$file" "$true"
crowd '-F KEY true : flock -F' 0.25 "$single" 1 -F key "$true" :: 1 flock -F "$file" "$true"
crowd "$crowd contenders at once on one key : floor" 1.25 "$crowds" "$crowd" key "$true" :: "$crowd" "${floor[@]}" "$file" "$true"
crowd "$crowd contenders at once on one key : flock" '' "$crowds" "$crowd" key "$true" :: "$crowd" flock "$file" "$true"
# With "true" that is as many processes at once as there are processors; a command that waits shows the queue.
crowd "$crowd contenders on 4 slots : $((crowd / 4)) on one key" '' "$crowds" "$crowd" -j 4 key "$true" :: $((crowd / 4)) KEYLOCK key "$true"
crowd "$crowd on 4 slots, 10 ms each : $((crowd / 4)) on one key" 1.25 "$crowds" "$crowd" -j 4 key "$nap" :: $((crowd / 4)) KEYLOCK key "$nap"
line ' : floor' 1.15 "$turns" 1 key :: 1 "${floor[@]}" "$file"
line ' : flock' '' "$turns" 1 key :: 1 flock "$file"
mkdir "$shm/keylock0/full"
(cd "$shm/keylock0/full" && seq -f 'other%.0f' 1 "$files" | xargs touch)
crowd "KEY true : -d where $files other files are" '' "$single" 1 key "$true" :: 1 KEYLOCK -d "$shm/keylock0/full" key "$true"
rm -r "$shm/keylock0/full"
echo
for binary in "${binaries[@]}"; do
	other=${binary##*keylock}
	other=${other#0}
	other=${other:+other: }
	waiting "${other}plain" 1 "$binary" -d "$shm/waiting" key
	waiting "${other}-w" 1 "$binary" -d "$shm/waiting" -w 1h key
	waiting "${other}-j 4" 4 "$binary" -d "$shm/waiting" -j 4 key
	listing "$binary" "$other"
done
waiting flock 1 flock "$file"
tools
echo
# The kernel's lists of locks are linear: so are who is added to them and who is woken.
row 'measure : beside' keylock "${BENCH_OTHER+other}" beside ratio "${BENCH_OTHER+other}" goal ''
line ", $line wait : 100" '' 20 "$line" key :: 100 KEYLOCK short
line ", $line wait : floor" '' 20 "$line" key :: "$line" "${floor[@]}" "$file"
echo
echo "$met goals met, $unmet not met, in $SECONDS s"

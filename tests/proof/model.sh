#!/bin/bash
# Check the lockfile protocol and the hand-over of slots by exhaustive search:
# model.pml and slots.pml, with spin.
#
#   tests/proof/model.sh [quick|long] [PART]
#
# PART is a pattern of the names of the parts to run. quick takes about a minute
# of two cores and less than 4 GiB, long a quarter of an hour and up to 4 GiB.
#
# Each part is one line of figures. A mutant is the model with one rule of
# DESIGN.md broken: it must be found wrong, and for the reason that belongs to
# it, or the model could not tell right from wrong and proves nothing. In a part
# marked `whole` every step of the model must have been reached: one that is
# never taken proves nothing either. All searches are exhaustive (collapse
# compression and partial order reduction, no bitstate hashing).
#
# JOBS: how many searches at once, 2 by default.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 1
size=${1:-quick}
only=${2:-*}
case $size in
quick) memory=1800 ;;
long) memory=6000 ;;
*)
	echo "usage: tests/proof/model.sh [quick|long] [PART]" >&2
	exit 64
	;;
esac
for tool in spin gcc; do
	if ! command -v "$tool" >/dev/null; then
		echo "model.sh: $tool is not installed" >&2
		exit 1
	fi
done
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
running=0
number=0

# search DIR MODEL KIND DEFINES: build and run; spin's report is in DIR/report.
search() {
	local compile run
	mkdir "$1" && cd "$1" || return 1
	case $3 in
	safe) compile="-DSAFETY" run="" ;;
	live) compile="-DNFAIR=3" run="-a -f" ;;
	esac
	# shellcheck disable=SC2086,SC2094 # lists of options; spin reads the model
	spin $4 -a "$here/$2.pml" >spin 2>&1 &&
		gcc $optimize -w $compile -DCOLLAPSE -DMEMLIM=$memory -o pan pan.c &&
		./pan $run -m2000000 -w23 >report 2>&1
}

figures() {
	local states depth
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' report)
	depth=$(sed -n 's/.*depth reached \([0-9]*\).*/\1/p' report)
	printf '%s states, depth %s' "${states:-?}" "${depth:-?}"
}

complete() {
	grep -q 'errors: 0' report &&
		! grep -qE 'not completed|too small|out of memory|reached -DMEMLIM' report
}

# Lines of the model that no run has reached, but for the ends of processes.
unreached() {
	sed -n 's/^\t\(.*\.pml:[0-9]*\), state [0-9]*, \(.*\)/\1 \2/p' report |
		grep -v -e '"-end-"' -e "${1:--end-}" | sed 's,.*/,,' | sort -u
}

# part NAME MODEL KIND DEFINES [whole [ALLOWED]]
part() {
	local name=$1 model=$2 kind=$3 defines=$4 missing
	if ! search "$work/$number" "$model" "$kind" "$defines" || ! complete; then
		echo "FAILED $model $name: $(figures): $(fault)"
		cat spin >&2
		grep -E 'not completed|too small|memory' report >&2
		return 1
	fi
	missing=$([ "${5:-}" = whole ] && unreached "${6:-}")
	if [ -n "$missing" ]; then
		printf 'FAILED %s %s: never reached:\n%s\n' "$model" "$name" "$missing"
		return 1
	fi
	echo "ok     $model $name: $(figures), ${5:+every step reached, }no fault"
}

# What spin has found, in words: the assertion is looked for by its text.
fault() {
	local text
	text=$(sed -n 's/^pan:[0-9]*: \(.*\) (at depth [0-9]*)$/\1/p' report | head -1)
	case $text in
	'assertion violated ((runx==0)'* | 'assertion violated (((((runs&1)+'*) echo 'two at once' ;;
	*'before[me]'* | *'(came==0)'*) echo 'out of turn' ;;
	*'(name==0)'* | *'(name[0]==0)'*) echo 'a file is left' ;;
	*'!(sure)'*) echo 'a place in the queue is lost' ;;
	*'trial['*) echo 'taken, it says, by nobody' ;;
	*'pinned[name]'*) echo 'a pinned file is gone' ;;
	'assertion violated 0') echo 'taken, it says of a removed file' ;;
	'invalid end state') echo 'somebody stands for ever' ;;
	'acceptance cycle') echo 'a waiter is never served' ;;
	*) echo "${text:-no fault}" ;;
	esac
}

# mutant NAME MODEL KIND DEFINES FAULT
mutant() {
	local found
	search "$work/$number" "$2" "$3" "-D$1 $4"
	found=$(fault)
	if [ "$found" != "$5" ]; then
		echo "FAILED $2 mutant $1: $(figures): $found; expected: $5"
		cat spin >&2
		return 1
	fi
	echo "ok     $2 mutant $1 is found wrong: $(figures): $found"
}

# in_turn COMMAND NAME …: run it in the background, JOBS at once.
in_turn() {
	# shellcheck disable=SC2254 # a pattern
	case $2 in
	$only) ;;
	*) return ;;
	esac
	if [ "$running" -ge "${JOBS:-2}" ]; then
		wait -n
		running=$((running - 1))
	fi
	number=$((number + 1))
	running=$((running + 1))
	(
		if "$@"; then
			echo >"$work/$number.passed"
		else
			echo >"$work/$number.failed"
		fi
		rm -rf "${work:?}/$number"
	) &
}

optimize=-O2
# Modes: 0 exclusive, 1 shared, 2 -n, 3 shared -n, 4 -w, 5 shared -w,
# 8 --pin and flock(1), 16 flock and a look at the name.
in_turn part killed model safe "-DM1=5 -DM2=2 -DKILLS=1 -DSTALL -DNI=6" whole
in_turn part slots-killed slots safe "-DENDLESS=4 -DDAEMONS=2 -DKILLS=1 -DMORTALS=2 -DONCE=5"
in_turn part exclusive model safe "-DKILLS=1 -DNI=6"
in_turn part slots-once slots safe "-DSKIP_WHERE_BUSY -DM1=4 -DM2=2 -DKILLS=1 -DDAEMONS=1 -DONCE=7" whole
in_turn part daemons model safe "-DM1=1 -DM2=2 -DDAEMONS=3 -DNI=6"
in_turn part two-killed model safe "-DN=2 -DM1=4 -DDAEMONS=3 -DKILLS=2 -DSTALL -DNI=6"
in_turn part sticky model safe "-DM1=2 -DM2=2 -DSTICKY"
in_turn part pinned model safe "-DM1=2 -DM2=8 -DKILLS=1 -DONCE=3 -DNI=6" whole 'excused = 1'
in_turn part careful model safe "-DM1=2 -DM2=16 -DKILLS=1 -DONCE=3 -DNI=6" whole 'excused = 1'
in_turn part served model live "-DM1=1 -DLIVE -DNI=6"
in_turn part served-killed model live "-DN=2 -DM1=1 -DLIVE -DKILLS=1 -DMORTALS=2 -DDAEMONS=2 -DNI=6"
in_turn part slots-free slots safe "-DSKIP_WHERE_BUSY -DM1=4 -DM2=2"
in_turn part slots-two slots safe "-DSKIP_WHERE_BUSY -DN=2 -DM1=4 -DKILLS=1 -DDAEMONS=3"
in_turn part slots-served slots live "-DLIVE -DENDLESS=4"

optimize=-O0 # found soon, so the compiler's time counts
mix="-DM1=5 -DM2=2 -DDAEMONS=1 -DNI=6"
in_turn mutant NO_RECHECK model safe "$mix" 'two at once'
in_turn mutant TIDY_NO_PRESENCE model safe "$mix" 'two at once'
in_turn mutant TIDY_NO_TRIAL model safe "-DN=2 -DM1=16" 'two at once'
in_turn mutant TIDY_NO_TICKET model safe "$mix" 'a place in the queue is lost'
in_turn mutant TIDY_NO_NAME model safe "$mix" 'two at once'
in_turn mutant TIDY_NO_PIN model safe "-DM1=8" 'a pinned file is gone'
in_turn mutant TIDY_CLOSE model safe "-DM1=2 -DM2=2 -DSTICKY" 'taken, it says, by nobody'
in_turn mutant TIDY_SAME_DESC model safe "-DN=2 -DDAEMONS=1 -DKILLS=1" 'somebody stands for ever'
in_turn mutant UNLINK_OUTSIDE_GATE model safe "$mix" 'two at once'
in_turn mutant UNLINK_AFTER_GATE model safe "$mix" 'a place in the queue is lost'
in_turn mutant UNLOCK_EARLY model safe "$mix" 'two at once'
in_turn mutant RELEASE_BY_CLOSE model safe "$mix" 'a file is left'
in_turn mutant NO_TICKETS model safe "$mix" 'out of turn'
in_turn mutant NO_TICKETS model live "-DM1=1 -DM2=1 -DLIVE" 'a waiter is never served'
in_turn mutant TAKEN_OF_STALE model safe "$mix" 'taken, it says of a removed file'
in_turn mutant NO_TIDY_AFTER_GIVEUP model safe "$mix" 'a file is left'
in_turn mutant KEEP_STALE slots live "-DLIVE -DENDLESS=4" 'a waiter is never served'
in_turn mutant LATE_RECHECK slots safe "" 'out of turn'
in_turn mutant NO_TIDY_1 slots safe "" 'a file is left'
in_turn mutant TIDY_TAKEN slots safe "-DKILLS=1 -DMORTALS=2" 'a file is left'
optimize=-O1
once="-DENDLESS=4 -DKILLS=1 -DMORTALS=2 -DONCE=7"
in_turn mutant NO_EVENT slots safe "$once -DDAEMONS=2" 'somebody stands for ever'
in_turn mutant EVENT_AFTER_UNLOCK slots safe "$once -DDAEMONS=2" 'somebody stands for ever'
in_turn mutant TRY_ONCE_ON_CLOSE slots safe "$once" 'somebody stands for ever'
in_turn mutant HOT_BY_EVENT slots safe "$once" 'somebody stands for ever'
in_turn mutant WATCH_AFTER_TRY slots safe "" 'somebody stands for ever'

if [ "$size" = long ]; then
	optimize=-O2
	in_turn part two-kills model safe "-DM1=5 -DM2=2 -DKILLS=2 -DDAEMONS=1 -DSTALL -DNI=6"
	in_turn part four model safe "-DN=4 -DM1=1 -DM2=2 -DM3=4 -DKILLS=1 -DONCE=15 -DNI=6"
	in_turn part four-exclusive model safe "-DN=4 -DKILLS=1 -DONCE=15 -DNI=6"
	in_turn part served-three-killed model live "-DM1=1 -DM2=4 -DLIVE -DKILLS=1 -DMORTALS=6 -DNI=6"
	in_turn part served-daemons model live "-DM1=1 -DLIVE -DKILLS=1 -DMORTALS=2 -DDAEMONS=2 -DNI=6"
	in_turn part no-look model safe "-DTIDY_NO_LOOK -DM1=5 -DM2=2 -DKILLS=1 -DNI=6"
	in_turn part slots-four slots safe "-DN=4 -DONCE=15"
	in_turn part slots-all-killed slots safe "-DSKIP_WHERE_BUSY -DM1=4 -DM2=2 -DKILLS=1"
	in_turn part slots-daemons slots safe "-DENDLESS=4 -DDAEMONS=2 -DKILLS=1 -DMORTALS=2"
	in_turn part slots-check-after-gate slots safe "-DCHECK_AFTER_GATE -DENDLESS=4 -DKILLS=1 -DMORTALS=2"
	in_turn part slots-served-killed slots live "-DLIVE -DENDLESS=4 -DKILLS=1 -DMORTALS=2 -DDAEMONS=2"
	for a in 0 1 2 3 4 5; do
		for b in 0 1 2 3 4 5; do
			for c in 0 1 2 3 4 5; do
				if [ $a -le $b ] && [ $b -le $c ]; then
					in_turn part "modes-$a$b$c" model safe \
						"-DM0=$a -DM1=$b -DM2=$c -DKILLS=1 -DSTALL -DNI=6"
				fi
			done
		done
	done
fi
wait
passed=$(find "$work" -name '*.passed' | wc -l)
failed=$(find "$work" -name '*.failed' | wc -l)
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

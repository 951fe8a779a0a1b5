#!/usr/bin/env bash
# Check the lockfile protocol, with nested runs, and that of slots by exhaustive
# search: model.pml and slots.pml, with spin.
#
#	model.sh [quick|long [PART]]
#
# PART is a pattern of the names of the parts to run. quick takes about a minute
# of two cores and less than 2 GiB, long a quarter of an hour and up to 4 GiB.
#
# Each part is one line of figures. A mutant is the model with one rule of
# DESIGN.md broken: it must be found wrong, and for the reason that belongs to
# it, or the model could not tell right from wrong and proves nothing. In a part
# marked `whole` every step of the model must have been reached: one that is
# never taken proves nothing either. All searches are exhaustive (collapse
# compression and partial order reduction, no bitstate hashing).
#
# JOBS: how many searches at once, 2 by default.
# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
only=${1:-*}
needs spin gcc
number=0 models=$PWD/tests/proof
defaults="-DN=3 -DM0=0 -DM1=0 -DM2=0 -DM3=0 -DH0=0 -DH1=0 -DH2=0 -DH3=0 -DA0=0 -DA1=0 -DA2=0 -DA3=0
	-DNI=7 -DKILLS=0 -DMORTALS=15 -DDAEMONS=0 -DDIES=0 -DENDLESS=0 -DONCE=0 -DSTICKY=0"
defaults+=$(sed -n 's/^mutant \([A-Z_0-9]*\) .*/ -D\1=0/p' tests/proof/model.sh)

# A fault in words, and the assertion, or spin's own words, by which it shows.
faults='two at once|(runx==0)
two at once|(runx|runs)
two at once|>>3)&1))<2)
out of turn|before[me]
out of turn|(came==0)
a file is left|(name==0)
a file is left|(name[0]==0)
a place in the queue is lost|!(sure)
a lock is kept for nobody|(kept|
taken, it says, by nobody|yex&
a pinned file is gone|pinned
taken, it says of a removed file|!(1)
somebody stands for ever|invalid end state
a waiter is never served|acceptance cycle'

# The first fault that spin has found, in words.
fault() {
	local text words sign
	text=$(sed -n 's/^pan:[0-9]*: \(.*\) (at depth [0-9]*)$/\1/p' report | head -1)
	while IFS='|' read -r words sign; do
		[[ $text != *"$sign"* ]] || break
	done <<<"$faults"$'\n'"${text:-no fault}|"
	echo "$words"
}

# Lines of the model that no run has reached, but for the ends of processes.
unreached() {
	sed -n 's/^\t\(.*\.pml:[0-9]*\), state [0-9]*, \(.*\)/\1 \2/p' report |
		grep -v -e '"-end-"' -e 'run contender' -e "${1:--end-}" | sed 's,.*/,,' | sort -u
}

# check FAULT NAME MODEL KIND DEFINES [whole [ALLOWED]]: build and run it, in a folder of its own.
check() {
	local expected=$1 name="$3 $2" compile=-DSAFETY run='' found figures missing=''
	[ "$4" = safe ] || compile=-DNFAIR=3 run='-a -f'
	# shellcheck disable=SC2086,SC2094 # lists of options, of which the last counts
	spin $defaults $5 -a "$models/$3.pml" >spin 2>&1 &&
		gcc $optimize -w $compile -DCOLLAPSE -DMEMLIM=6000 -o pan pan.c &&
		./pan $run -m2000000 -w$hash >report 2>&1
	found=$(fault)
	figures=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1 states/p; s/.*depth reached \([0-9]*\).*/depth \1/p' report | paste -sd ' ')
	[ -z "${6-}" ] || missing=$(unreached "${7-}")
	if [ "$found" != "$expected" ] || { [ "$found" = 'no fault' ] && {
		[ -n "$missing" ] || ! grep -q 'errors: 0' report ||
			grep -E 'not completed|too small|out of memory|reached -DMEMLIM' report
	}; }; then
		echo "FAILED $name: $figures: $found; expected: $expected${missing:+; never reached: $missing}"
		grep -v 'redefined\|previous definition' spin >&2
		return 1
	fi
	echo "ok     $name: $figures, ${6:+every step reached, }$found"
}

# in_turn FAULT NAME …: check it in the background, JOBS at once.
in_turn() {
	# shellcheck disable=SC2053 # a pattern
	[[ $2 == $only ]] || return
	[ "$(jobs -rp | wc -l)" -lt "${JOBS:-2}" ] || wait -n
	number=$((number + 1))
	(
		mkdir "$work/$number" && cd "$work/$number" || exit
		check "$@" && verdict=passed || verdict=failed
		echo >"$work/$number.$verdict"
		rm -rf "${work:?}/$number"
	) &
}

part() {
	in_turn 'no fault' "$@"
}

# mutant NAME MODEL KIND DEFINES FAULT
mutant() {
	in_turn "$5" "mutant-$1" "$2" "$3" "-D$1 $4"
}

optimize=-O2 hash=23
# Modes: 0 exclusive, 1 shared, 2 -n, 3 shared -n, 4 -w, 5 shared -w,
# 8 --pin and flock(1), 16 flock and a look at the name. Hosts and ancestors are sets.
guest="-DH1=1 -DA1=1" becomes="-DN=4 -DH3=1 -DA3=1 -DH2=1 -DA2=9 -DONCE=15"
part becomes model safe "$becomes -DDIES=1"
part guest-of-guest model safe "-DN=4 $guest -DH2=2 -DA2=3 -DKILLS=1 -DMORTALS=1 -DONCE=15"
part guests model safe "$guest -DKILLS=1 -DMORTALS=3 -DDIES=3 -DDAEMONS=3 -DONCE=3"
part killed model safe "-DM1=5 -DM2=2 -DKILLS=1 -DSTALL" whole
part daemons model safe "-DM1=1 -DM2=2 -DDAEMONS=3"
part slots slots safe "-DM1=4 -DM2=2 -DSTALL"
part slots-killed slots safe "-DM1=4 -DM2=2 -DKILLS=1 -DSTALL -DONCE=7" whole

optimize=-O0 hash=20 # soon done, so the compiler's time counts
part guests-of-nonblock model safe "$guest -DM0=2 -DM2=4 -DKILLS=1 -DMORTALS=3 -DDIES=1 -DSTALL -DONCE=3"
part shared-guests model safe "$guest -DM0=5 -DM1=5 -DM2=2 -DKILLS=1 -DSTALL -DONCE=3"
part two-killed model safe "-DN=2 -DM1=4 -DDAEMONS=3 -DDIES=1 -DKILLS=2 -DSTALL"
part sticky model safe "-DM1=2 -DM2=2 -DSTICKY"
part pinned model safe "-DM1=2 -DM2=8 -DKILLS=1 -DONCE=3" whole 'excused = 1'
part careful model safe "-DM1=2 -DM2=16 -DKILLS=1 -DONCE=3"
part served model live "-DM1=1 -DLIVE"
part served-killed model live "-DN=2 -DM1=1 -DLIVE -DKILLS=1 -DMORTALS=2 -DDAEMONS=2"
part slots-endless slots safe "-DENDLESS=4 -DKILLS=1 -DMORTALS=2 -DONCE=5"
part slots-served slots live "-DLIVE -DENDLESS=4"
mix="-DM1=5 -DM2=2 -DDAEMONS=1"
mutant NO_RECHECK model safe "$mix" 'two at once'
mutant TIDY_NO_PRESENCE model safe "$mix" 'two at once'
mutant TIDY_NO_TRIAL model safe "-DN=2 -DM1=16" 'two at once'
mutant TIDY_NO_TICKET model safe "$mix" 'a place in the queue is lost'
mutant TIDY_NO_NAME model safe "$mix" 'two at once'
mutant TIDY_NO_PIN model safe "-DM1=8" 'a pinned file is gone'
mutant TIDY_CLOSE model safe "-DM1=2 -DM2=2 -DSTICKY" 'taken, it says, by nobody'
mutant TIDY_SAME_DESC model safe "-DN=2 -DDAEMONS=1 -DKILLS=1" 'somebody stands for ever'
mutant UNLINK_OUTSIDE_GATE model safe "$mix" 'two at once'
mutant UNLINK_AFTER_GATE model safe "$mix" 'a place in the queue is lost'
mutant UNLOCK_EARLY model safe "$mix" 'two at once'
mutant RELEASE_BY_CLOSE model safe "$mix" 'a file is left'
mutant NO_TICKETS model safe "$mix" 'out of turn'
mutant NO_TICKETS model live "-DM1=1 -DM2=1 -DLIVE" 'a waiter is never served'
mutant TAKEN_OF_STALE model safe "$mix" 'taken, it says of a removed file'
mutant NO_TIDY_AFTER_GIVEUP model safe "$mix" 'a file is left'
# Takers do not look for guests; a guest's byte or a flock alone is believed; a guest does not compare
# file and name; tidying does not look for guests, or not again under LOCK_EX.
killed="-DKILLS=1 -DMORTALS=3 -DONCE=3"
mutant NO_LOOK model safe "$guest $killed" 'two at once'
mutant NO_PROOF model safe "$guest $killed" 'two at once'
mutant TIDY_NO_GUEST model safe "$guest $killed" 'two at once'
mutant NO_AGAIN model safe "$guest -DM0=2 -DSTALL $killed" 'two at once'
mutant NO_NAME model safe "-DH1=1 -DH2=1 -DA2=2 -DONCE=6" 'two at once'
part guests-daemons model safe "$guest -DDAEMONS=3 -DONCE=3"
mutant UNLOCK_FIRST model safe "$guest $killed -DDIES=3 -DDAEMONS=3" 'a lock is kept for nobody'
mutant NO_RECHECK slots safe "" 'two at once'
mutant KEEP_STALE slots live "-DLIVE -DENDLESS=4" 'a waiter is never served'
mutant LATE_RECHECK slots safe "" 'out of turn'
mutant NO_TIDY_1 slots safe "" 'a file is left'
mutant TIDY_TAKEN slots safe "-DKILLS=1 -DMORTALS=2" 'a file is left'

if [ "$size" = long ]; then
	optimize=-O2 hash=23
	mutant NO_NAME model safe "$becomes -DKILLS=1 -DMORTALS=1 -DDIES=1" 'two at once'
	part becomes-killed model safe "$becomes -DM0=2 -DSTALL -DKILLS=1 -DMORTALS=9 -DDIES=1"
	part guest-of-guest-killed model safe "-DN=4 $guest -DH2=2 -DA2=3 -DKILLS=1 -DMORTALS=1 -DDIES=1 -DONCE=15"
	part two-strangers model safe "-DN=4 $guest -DM3=4 -DKILLS=1 -DMORTALS=3 -DDIES=1 -DDAEMONS=1 -DONCE=15"
	part two-kills model safe "-DM1=5 -DM2=2 -DKILLS=2 -DDAEMONS=1 -DSTALL"
	part four model safe "-DN=4 -DM1=1 -DM2=2 -DM3=4 -DKILLS=1 -DONCE=15"
	part served-three-killed model live "-DM1=1 -DM2=4 -DLIVE -DKILLS=1 -DMORTALS=6"
	part served-daemons model live "-DM1=1 -DLIVE -DKILLS=1 -DMORTALS=2 -DDAEMONS=2"
	part slots-four slots safe "-DN=4 -DONCE=15"
	part slots-all-killed slots safe "-DM1=4 -DM2=2 -DKILLS=1"
	part slots-served-killed slots live "-DLIVE -DENDLESS=4 -DKILLS=1 -DMORTALS=2"
	for a in 0 1 2 3 4 5; do
		for b in 0 1 2 3 4 5; do
			for c in 0 1 2 3 4 5; do
				if [ $a -le $b ] && [ $b -le $c ]; then
					part "modes-$a$b$c" model safe \
						"-DM0=$a -DM1=$b -DM2=$c -DKILLS=1 -DSTALL"
				fi
				part "guest-$a$b$c" model safe \
					"$guest -DM0=$a -DM1=$b -DM2=$c -DKILLS=1 -DSTALL -DDIES=1 -DONCE=3"
			done
		done
	done
fi
wait
passed=$(find "$work" -name '*.passed' | wc -l)
failed=$(find "$work" -name '*.failed' | wc -l)
echo "model: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

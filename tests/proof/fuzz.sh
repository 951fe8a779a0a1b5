#!/usr/bin/env bash
# What keylock makes of text that others have written, as the head of fuzz.c has it.
#
#	fuzz.sh [quick|long] [TARGET...]
#
# libFuzzer gives inputs to each target, built with the address and undefined behaviour
# sanitizers, two targets at once: always the same ones, or in "long" 10^7 new ones each. It begins with those of "kept", which
# once failed or are what it would not soon find. Meanwhile names, times and JSON lines of some
# are compared with those of reference.py, which is in another language.
#
# An input that fails is printed in hex. Ends with one line of figures.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
set -o pipefail
[ $# -gt 0 ] || set -- name file options record read time shown
needs clang python3

# Sanitizers of before LLVM 17 need what newer kernels' random addresses may take.
fuzz=("$work/fuzz")
! setarch -R true 2>/dev/null || fuzz=(setarch -R "$work/fuzz")

# How long an input of a target may be, since what is longer is slower and finds no more; and
# how many quick gives it.
declare -A length=([name]=280 [file]=280 [options]=160 [record]=200 [read]=320 [time]=48 [shown]=320)
declare -A count=([name]=200000 [file]=1500000 [options]=1000000 [record]=250000 [read]=1000000
	[time]=3000000 [shown]=120000)

run() { # TARGET
	local name input number=0 runs=${count[$1]}
	mkdir "$work/$1"
	while IFS=' ' read -r name input; do
		number=$((number + 1))
		[ "$name" != "$1" ] || printf '%b' "$input" >"$work/$1/$number"
	done <tests/proof/kept
	[ "$size" = quick ] || runs=10000000
	FUZZ_TARGET=$1 "${fuzz[@]}" "-runs=$runs" "-seed=$seed" "-max_len=${length[$1]}" -timeout=20 \
		"-dict=$work/words" "-exact_artifact_path=$work/$1.input" \
		"$work/$1" 3>&1 >"$work/$1.log" 2>&1 | case $1 in
		name | time | shown) python3 tests/tools/reference.py "$1" ;;
		*) cat ;;
		esac >"$work/$1.reference"
	echo $? >"$work/$1.status"
}

if ! clang -g -O2 -w -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	-o "$work/fuzz" tests/proof/fuzz.c 2>"$work/log"; then
	if grep -q 'libclang_rt' "$work/log"; then
		echo "fuzz: skipped: needs libclang-rt-14-dev"
		exit 0
	fi
	cat "$work/log"
	exit 1
fi

# Words that inputs are made of: the long options, and what /proc and records have.
{
	sed -n '/^} table\[\] = {/,/^};/s/^ *{[^"]*"\([a-z-]*\)".*/"--\1"/p' keylock.c
	printf '"%s"\n' lock: FLOCK OFDLCK ADVISORY WRITE READ EOF keylock1 pid= since= cause= \
		command= 'done' ms %s %h
} >"$work/words"
if [ "$(grep -c '^"--' "$work/words")" -lt 20 ]; then
	echo "fuzz: the long options are not found in keylock.c any more"
	exit 1
fi

for target; do
	while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
		wait -n
	done
	run "$target" &
done
wait

failed=0 figures=
for target; do
	if [ "$(cat "$work/$target.status")" -ne 0 ]; then
		failed=$((failed + 1))
		echo "FAILED: $target:"
		grep -aE 'fuzz\.c:[0-9]+: not so|ERROR|SUMMARY|runtime error|^ *#[0-9]+ .*lock\.c:' \
			"$work/$target.log" | head -n 20 | grep . || tail -n 5 "$work/$target.log"
		od -An -v -tx1 "$work/$target.input" 2>/dev/null
		cat "$work/$target.reference"
	fi
	figures+="$target $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs/p' "$work/$target.log"), "
	figures+=$(sed -n '$s/^pairs \(.*\) wrong \(.*\)/\1 beside reference, /p' "$work/$target.reference")
done
echo "fuzz: seed $seed; ${figures}$failed failed"
exit "$failed"

#!/usr/bin/env bash
# What keylock makes of text that others have written: keys, file names, command lines,
# records, /proc, times, and what it shows of them.
#
#	fuzz.sh [quick|long [corpus] [TARGET...]]
#
# libFuzzer gives inputs to each target of fuzz.c (its head says what a target checks),
# built with the address and undefined behaviour sanitizers, two targets at once: about 10
# seconds each, always with the same inputs (head.sh), or in "long" 10^7 new ones each. It begins with the
# inputs of corpus/: TARGET has those that earlier runs found, TARGET.kept those that
# once failed. One input a line, with \xHH for what cannot be printed; in .kept, lines
# that begin with "# " say why. With "corpus" what was found is then written there, made
# as small as can be.
#
# Meanwhile names, times and JSON lines of some of them are compared with those of
# reference.py, which is in another language.
#
# An input that fails is printed, as such a line and in hex. Ends with one line of figures.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
set -o pipefail

corpus=
if [ "${1-}" = corpus ]; then
	corpus=yes
	shift
fi
[ $# -gt 0 ] || set -- name file options record read time shown
needs clang perl python3

# Sanitizers of before LLVM 17 need what newer kernels' random addresses may take.
fuzz=("$work/fuzz")
! setarch -R true 2>/dev/null || fuzz=(setarch -R "$work/fuzz")

# How long an input of a target may be, since what is longer is slower and finds no more; and
# how many quick gives it.
declare -A length=([name]=280 [file]=280 [options]=160 [record]=200 [read]=320 [time]=48 [shown]=320)
declare -A count=([name]=200000 [file]=1500000 [options]=1000000 [record]=250000 [read]=1000000
	[time]=3000000 [shown]=120000)

# An input to a line, and the lines of a corpus to a file each.
pack() { # FILE
	perl -0777 -pe 's/[^ -\[\]-~]/sprintf "\\x%02x", ord $&/ge; s/^#/\\x23/' "$1"
	echo
}

unpack() { # TARGET
	local file line number=0
	mkdir -p "$work/$1"
	for file in "tests/proof/corpus/$1" "tests/proof/corpus/$1.kept"; do
		[ -e "$file" ] || continue
		while IFS= read -r line; do
			[[ $line != '# '* ]] || continue
			number=$((number + 1))
			printf '%b' "$line" >"$work/$1/$number"
		done <"$file"
	done
}

run() { # TARGET
	local runs=${count[$1]}
	[ "$size" = quick ] || runs=10000000
	FUZZ_TARGET=$1 "${fuzz[@]}" "-runs=$runs" "-seed=$seed" "-max_len=${length[$1]}" -timeout=20 \
		-print_final_stats=1 "-dict=$work/words" "-exact_artifact_path=$work/$1.input" \
		"$work/$1" 3>&1 >"$work/$1.log" 2>&1 | case $1 in
		name | time | shown) python3 tests/tools/reference.py "$1" >"$work/$1.reference" ;;
		*) cat ;;
		esac
	echo "${PIPESTATUS[*]}" >"$work/$1.status"
}

# What of the corpus reaches something that no smaller one does.
keep() { # TARGET
	local file
	mkdir "$work/$1.small"
	FUZZ_TARGET=$1 "${fuzz[@]}" -merge=1 -use_counters=0 "-max_len=${length[$1]}" \
		"$work/$1.small" "$work/$1" >"$work/$1.log" 2>&1 || return
	for file in "$work/$1.small"/*; do
		pack "$file"
	done | sort >"tests/proof/corpus/$1"
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
	unpack "$target"
	while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
		wait -n
	done
	run "$target" &
done
wait

failed=0 figures=
for target; do
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
	crashes=0
	read -r status differs <"$work/$target.status"
	if [ "$differs" -ne 0 ]; then
		failed=1
		echo "FAILED: $target: not what reference.py has:"
		cat "$work/$target.reference"
	fi
	if [ "$status" -ne 0 ]; then
		crashes=1 failed=1
		echo "FAILED: $target:"
		grep -aE 'fuzz\.c:[0-9]+: not so|ERROR|SUMMARY|runtime error|^ *#[0-9]+ .*lock\.c:' \
			"$work/$target.log" | head -n 20
		if [ -e "$work/$target.input" ]; then
			echo "the input, and in hex:"
			pack "$work/$target.input"
			od -An -v -tx1 "$work/$target.input"
		else
			tail -n 20 "$work/$target.log"
		fi
	fi
	figures+="$target runs ${runs:-0} crashes $crashes; "
	[ ! -e "$work/$target.reference" ] || figures+="beside reference $(tail -n 1 "$work/$target.reference"); "
done

if [ -n "$corpus" ] && [ "$failed" -eq 0 ]; then
	mkdir -p tests/proof/corpus
	for target; do
		keep "$target" || failed=1
	done
fi
echo "fuzz: seed $seed; ${figures%; }"
exit "$failed"

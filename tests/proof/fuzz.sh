#!/usr/bin/env bash
# What keylock makes of text that others have written: keys, file names, command lines,
# records, /proc, times, and what it shows of them.
#
#	fuzz.sh [quick|long [corpus] [TARGET...]]
#
# libFuzzer gives inputs to each target of fuzz.c (its head says what a target checks),
# built with the address and undefined behaviour sanitizers, two targets at once: for
# 12 seconds each (FUZZ_SECONDS), or in "long" for 10^7 executions each. It begins with the
# inputs of corpus/: TARGET has those that earlier runs found, TARGET.kept those that
# once failed. One input a line, with \xHH for what cannot be printed; in .kept, lines
# that begin with "# " say why. With "corpus" what was found is then written there, made
# as small as can be.
#
# Then names, times and JSON lines, of what was found and of 50,000 random texts each (10^7),
# are compared with those of reference.py, which is in another language.
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
limit="-max_total_time=${FUZZ_SECONDS:-12}" random=50000
[ "$size" = quick ] || limit=-runs=10000000 random=10000000
[ $# -gt 0 ] || set -- name file options record read time shown
needs clang perl python3

# Sanitizers of before LLVM 17 need what newer kernels' random addresses may take.
fuzz=("$work/fuzz")
! setarch -R true 2>/dev/null || fuzz=(setarch -R "$work/fuzz")

# How long an input of a target may be: what is longer is slower and finds no more.
length() { # TARGET
	case $1 in
	name | file) echo 280 ;;
	time) echo 48 ;;
	options) echo 160 ;;
	record) echo 200 ;;
	*) echo 320 ;;
	esac
}

# An input to a line, and the lines of a corpus to a file each.
pack() { # FILE
	perl -0777 -pe 's/[^ -\[\]-~]/sprintf "\\x%02x", ord $&/ge; s/^#/\\x23/' "$1"
	echo
}

unpack() { # TARGET
	local file line count=0
	mkdir -p "$work/$1"
	for file in "tests/proof/corpus/$1" "tests/proof/corpus/$1.kept"; do
		[ -e "$file" ] || continue
		while IFS= read -r line; do
			[[ $line != '# '* ]] || continue
			count=$((count + 1))
			printf '%b' "$line" >"$work/$1/$count"
		done <"$file"
	done
}

run() { # TARGET
	FUZZ_TARGET=$1 "${fuzz[@]}" "$limit" "-max_len=$(length "$1")" -timeout=20 \
		-print_final_stats=1 "-dict=$work/words" "-exact_artifact_path=$work/$1.input" \
		"$work/$1" >"$work/$1.log" 2>&1
	echo $? >"$work/$1.status"
}

# What of the corpus reaches something that no smaller one does.
keep() { # TARGET
	local file
	mkdir "$work/$1.small"
	FUZZ_TARGET=$1 "${fuzz[@]}" -merge=1 -use_counters=0 "-max_len=$(length "$1")" \
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
cc -O2 -w -DBATCH -o "$work/batch" tests/proof/fuzz.c || exit 1

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
	if [ "$(cat "$work/$target.status")" -ne 0 ]; then
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
done

for kind in name time shown; do
	[[ " $* " = *" $kind "* ]] || continue
	seed=$RANDOM$RANDOM
	if ! "$work/batch" "$kind" "$seed" "$random" "$work/$kind"/* |
		python3 tests/tools/reference.py "$kind" >"$work/log"; then
		failed=1
		echo "FAILED: not what reference.py has (seed $seed):"
		cat "$work/log"
	fi
	figures+="$kind beside reference $(tail -n 1 "$work/log"); "
done

if [ -n "$corpus" ] && [ "$failed" -eq 0 ]; then
	mkdir -p tests/proof/corpus
	for target; do
		keep "$target" || failed=1
	done
fi
echo "fuzz: ${figures%; }"
exit "$failed"

#!/usr/bin/env bash
# The longer proofs, each a program of its own in tests/ that says at its head what
# it shows, and prints a line of figures:
#
#	proof.sh [quick|long] [PART...]
#
# Without a PART: all of them, one after the other. Ends with "N passed, N failed,
# N skipped" and fails when one failed.

set -u
cd "$(dirname "$0")/.." || exit 1
unset KEYLOCK_DIR KEYLOCK_KEY

parts=(torture mutants model guard faults hostile fuzz sanitize coverage builds)

size=${1:-quick}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- "${parts[@]}"
for part; do
	[[ " ${parts[*]} " == *" $part "* && $size =~ ^(quick|long)$ ]] || {
		echo "usage: proof.sh [quick|long] [PART...]; parts: ${parts[*]}" >&2
		exit 64
	}
done

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0
figures=()

for part; do
	printf '\n-- %s\n' "$part"
	began=$SECONDS
	tests/"$part".sh "$size" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	last=$(tail -n 1 "$log")
	if [ "$status" -ne 0 ]; then
		failed=$((failed + 1))
		last="FAILED: $last"
	elif [[ $last == "$part: skipped: "* ]]; then
		skipped=$((skipped + 1))
	else
		passed=$((passed + 1))
	fi
	[[ $last == *"$part: "* ]] || last="$part: $last"
	figures+=("$last ($((SECONDS - began)) s)")
done

printf '\n'
printf '%s\n' "${figures[@]}"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# Line coverage of keylock.c by the bats suite, by gcov. Fails below 95 %, and when
# a line that never ran is not in tests/proof/uncovered with its reason.
#
#	coverage.sh [quick|long]
#
# keylock is built with gcc's counters, which live in shared memory (coverage.c);
# statically, since the dynamic loader would be what lacks a descriptor or memory.
# tests/proof/uncovered names a line by its function and its text, so that it is found
# again when it moves:
#
#	FUNCTION: TEXT
#		REASON
#
# COVERAGE_KEEP=FOLDER keeps gcov's annotated source there.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
# Its tests of several users are where some lines run.
needs gcc gcov bats ipcmk strace root
unset COVERAGE_DUMP KEYLOCK_LONG
[ "$size" = quick ] || export KEYLOCK_LONG=1
counters=
# shellcheck disable=SC2317
at_end() { [ -z "$counters" ] || ipcrm --shmem-id "$counters"; }

# build: exactly one segment's size of pages for the counters alone, since they are
# replaced by the segment.
build() {
	local flags=(-std=c11 -O0 -g) size=262144
	counters=$(ipcmk --shmem "$size" --mode 0666) && counters=${counters##* } || return
	cat >"$work/counters.ld" <<-END
		SECTIONS {
			.counters (NOLOAD) : ALIGN(CONSTANT(MAXPAGESIZE)) {
				counters_begin = .;
				*(.bss.__gcov0.*)
				. = $size;
			}
			.counters_info : { counters_info = .; *(.counters_info) }
		} INSERT AFTER .bss;
	END
	cp keylock.c "$work" &&
		gcc "${flags[@]}" --coverage -fprofile-update=atomic \
			-fprofile-info-section=.counters_info -fdata-sections -fno-common \
			-c -o "$work/keylock.o" "$work/keylock.c" &&
		gcc "${flags[@]}" "-DCOUNTERS=$counters" -c -o "$work/coverage.o" tests/proof/coverage.c &&
		gcc -static -o "$work/keylock" "$work/keylock.o" "$work/coverage.o" \
			-Wl,-T,"$work/counters.ld" -lgcov
}

# lines: "line FUNCTION: TEXT" of each that can run, "miss FUNCTION: TEXT" if it did not.
lines() {
	COVERAGE_DUMP=1 "$work/keylock" >"$work/keylock.gcda" &&
		gcov --stdout --object-directory "$work" "$work/keylock.c" >"$work/keylock.c.gcov" &&
		awk -F: '
			{ text = $0; sub(/^[^:]*:[^:]*:/, "", text) }
			text ~ /^[a-z_0-9]+\(/ { name = text; sub(/\(.*/, "", name) }
			{ sub(/^[ \t]+/, "", text) }
			$1 ~ /[0-9#=]/ { print ($1 ~ /[#=]/ ? "miss " : "line ") name ": " text }
		' "$work/keylock.c.gcov" >"$work/lines"
}

status=0
build || exit 1
suites "$work/keylock" tests || status=1
lines || exit 1
[ -z "${COVERAGE_KEEP-}" ] || cp "$work/keylock.c.gcov" "$COVERAGE_KEEP" || exit 1

grep '^[^[:space:]#]' tests/proof/uncovered | sort -u >"$work/listed"
sed -n 's/^miss //p' "$work/lines" | sort -u >"$work/missed"
all=$(wc -l <"$work/lines") missed=$(grep -c '^miss' "$work/lines")
comm -13 "$work/listed" "$work/missed" >"$work/surprises"
if [ -s "$work/surprises" ]; then
	echo 'These lines never ran, and tests/proof/uncovered has no reason for them:'
	cat "$work/surprises"
	status=1
fi
# What runs now, by a race that was lost, say, need not run each time.
comm -23 "$work/listed" "$work/missed" | sed 's/^/in tests\/proof\/uncovered, but did run or is no more: /'
if [ $((100 * (all - missed))) -lt $((95 * all)) ]; then
	echo 'coverage: below 95 %'
	status=1
fi
echo "coverage: $((all - missed)) of $all lines, $((100 * (all - missed) / all)) %; $missed never ran, $(wc -l <"$work/surprises") of them without a reason"
exit "$status"

#!/usr/bin/env bash
# No error of memory and no undefined behaviour: tests with a keylock that is built with
# gcc's AddressSanitizer and UndefinedBehaviorSanitizer, and what needs no command under
# valgrind, which sees what was never initialised.
#
#	sanitize.sh [quick|long]
#
# quick has the suites of those parts that read and write text and lists, long all of
# them. A report ends keylock with another status, and goes to a folder that has to stay
# empty, since a test may expect a failure and swallow it. Left out, by need_plain: what
# the instruments themselves cannot run with, as a limit on memory or descriptors.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
needs gcc bats valgrind
unset ASAN_OPTIONS UBSAN_OPTIONS KEYLOCK_LONG
export KEYLOCK_INSTRUMENTED=1 KEYLOCK_DIR=$work/dir
status=0 passed=0 paths=0 holders=()
# shellcheck disable=SC2317
at_end() { kill ${holders[@]+"${holders[@]}"} 2>/dev/null; }
mkdir -m 1777 "$work/reports"
suites=(tests)
if [ "$size" = quick ]; then
	suites=()
	for suite in command_line keys record looking; do
		suites+=("tests/$suite.bats")
	done
fi

# The options are in the program, since not every test leaves the environment alone. Leaks
# are not looked for, since what a process has ends with it; and SIGSEGV is not caught,
# since the command has to come into it as the caller left it.
cat >"$work/options.c" <<-END
	const char *__asan_default_options(void);
	const char *__ubsan_default_options(void);
	const char *
	__asan_default_options(void)
	{
		return "log_path=$work/reports/asan:detect_leaks=0:"
		       "detect_stack_use_after_return=1:strict_string_checks=1:"
		       "handle_segv=0:handle_sigbus=0:handle_sigfpe=0";
	}
	const char *
	__ubsan_default_options(void)
	{
		return "log_path=$work/reports/ubsan:print_stacktrace=1";
	}
END
gcc -std=c11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=all -o "$work/keylock" keylock.c "$work/options.c" || exit 1
(
	unset KEYLOCK_DIR
	suites "$work/keylock" "${suites[@]}"
	status=$?
	echo "$passed" >"$work/passed"
	exit "$status"
) || status=1

# Valgrind knows the locks of open file descriptions, but the last real-time signal is its
# own, so keylock is built with another to wake itself with.
sed 's/^#define WAKER .*/#define WAKER (SIGRTMAX - 1)/' keylock.c >"$work/plain.c"
grep -q '^#define WAKER (SIGRTMAX - 1)$' "$work/plain.c" || {
	echo 'sanitize: the signal that keylock wakes itself with is defined in another way now'
	exit 1
}
gcc -std=c11 -O1 -g -o "$work/plain" "$work/plain.c" || exit 1
checked=(valgrind -q --error-exitcode=99 "--log-file=$work/reports/valgrind.%p" "$work/plain")

# path STATUS COMMAND...: ends with that status, and valgrind has nothing to say.
path() {
	local expected=$1 got=0
	shift
	paths=$((paths + 1))
	"$@" < <(:) >"$work/out" 2>&1 || got=$?
	[ "$got" -eq "$expected" ] || {
		echo "sanitize: under valgrind, status $got and not $expected: ${*/#$work*/}"
		cat "$work/out"
		status=1
	}
}

# hold ARGUMENT...: starts a keylock in the background, whose command sleeps.
hold() {
	# shellcheck disable=SC2016
	"$work/plain" "$@" sh -c 'echo >"$0"; exec sleep 600' "$work/begun" </dev/null &
	holders+=($!)
	timeout 20 sh -c "until [ -e '$work/begun' ]; do sleep 0.01; done"
	rm "$work/begun"
}

printf -v long '%0300d' 0
# Its status and its words, each a path of its own, "LONG" being a key that is hashed.
while read -r expected words; do
	# shellcheck disable=SC2086
	path "$expected" "${checked[@]}" ${words//LONG/$long}
	case $words in
	'--forget pinned')
		mkdir -m 777 "$work/open"
		ln -s nowhere "$KEYLOCK_DIR/link"
		;;
	'-n -d '*)
		hold key
		hold -s "$long"
		hold -s "$long"
		hold -j 2 slots
		hold -j 2 slots
		;;
	esac
done <<-END
	0 --help
	64 -w 99999999999999d key true
	64 --no key true
	0 --list
	1 --who key
	0 --path LONG
	0 --pin pinned
	0 --list
	0 --forget pinned
	77 link true
	73 -d /proc/none key true
	126 key /
	127 -F key no-such-command
	0 --hold key
	0 -A --hold key
	76 -A key true
	0 --list --json
	0 --forget key
	77 -n -d $work/open key true
	75 -n -v -W 0 key true
	75 -w 0.1 -v -s -k LONG key true
	75 -n -j 2 slots true
	75 -w 0.1 -v -j 2 slots true
	75 -w 0.1 --forget key
	0 --who LONG
	0 --list
	0 --list --json LONG slots
END
path 78 "$work/plain" outer "${checked[@]}" outer true
path 0 "$work/plain" outer "${checked[@]}" -r outer true
path 124 timeout 2 "${checked[@]}" key true

for report in "$work"/reports/*; do
	[ ! -s "$report" ] || {
		status=1
		cat "$report"
	}
done
echo "sanitize: $(cat "$work/passed") tests under ASan and UBSan, $paths paths under valgrind, $(find "$work/reports" -size +0 -type f | wc -l) reports"
exit "$status"

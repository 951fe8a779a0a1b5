#!/usr/bin/env bash
# No error of memory and no undefined behaviour: all tests with a keylock that is
# built with gcc's AddressSanitizer and UndefinedBehaviorSanitizer, and what runs
# without a command under valgrind.
#
#	sanitize.sh [quick|long]
#
# A report ends keylock with another status, and goes to a folder that has to stay
# empty, since a test may expect a failure and swallow it.
#
# Left out, by need_plain: what the instruments themselves cannot run with, as a
# limit on memory or descriptors.

set -u
cd "$(dirname "$0")/../.." || exit 1
exec </dev/null
unset KEYLOCK KEYLOCK_DIR KEYLOCK_KEY KEYLOCK_ABANDONED ASAN_OPTIONS UBSAN_OPTIONS

case ${1:-quick} in
quick) unset KEYLOCK_LONG ;;
long) export KEYLOCK_LONG=1 ;;
*)
	echo 'usage: sanitize.sh [quick|long]' >&2
	exit 64
	;;
esac

work=$(mktemp -d) || exit 1
chmod 755 "$work"
trap 'kill ${started[@]+"${started[@]}"} 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
status=0 tests=0 paths=0 started=()
mkdir -m 1777 "$work/reports"

# build: the options are in the program, since not every test leaves the environment
# alone. Leaks are not looked for, since what a process has ends with it; and SIGSEGV
# is not caught, since the command has to come into it as the caller left it.
build() {
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
		-fno-sanitize-recover=all -o "$work/keylock" keylock.c "$work/options.c"
}

suite() {
	local jobs=()
	! parallel --version 2>/dev/null | grep -q GNU || jobs=(--jobs 4 --no-parallelize-within-files)
	KEYLOCK=$work/keylock KEYLOCK_INSTRUMENTED=1 KEYLOCK_TEST_LIMIT=180 \
		bats ${jobs[@]+"${jobs[@]}"} tests >"$work/bats.log" 2>&1 || {
		sed -n '/^not ok/,/^ok/p' "$work/bats.log"
		status=1
	}
	tests=$(grep '^ok' "$work/bats.log" | grep -vc '# skip')
}

# --- valgrind ---
#
# Version 3.19 knows the locks of open file descriptions, and runs vfork(2) as fork(2);
# but the last real-time signal is its own, so keylock is built with another to wake
# itself with.

build_plain() {
	sed 's/^#define WAKER SIGRTMAX$/#define WAKER (SIGRTMAX - 1)/' keylock.c >"$work/plain.c"
	if cmp -s keylock.c "$work/plain.c"; then
		echo 'sanitize: the signal that keylock wakes itself with is defined in another way now'
		return 1
	fi
	gcc -std=c11 -O1 -g -o "$work/plain" "$work/plain.c"
}

checked=(valgrind -q --error-exitcode=99 "--log-file=$work/reports/valgrind.%p" "$work/plain")

# path STATUS ARGUMENT...: keylock ends with that status, and valgrind has nothing to say.
path() {
	local expected=$1
	shift
	"${checked[@]}" "$@" >"$work/out" 2>&1
	judge $? "$expected" "$@"
}

judge() {
	paths=$((paths + 1))
	[ "$1" = "$2" ] || {
		echo "sanitize: under valgrind, status $1 and not $2: keylock ${*:3}"
		cat "$work/out"
		status=1
	}
}

# hold ARGUMENT...: starts a keylock in the background, whose command sleeps.
hold() {
	# shellcheck disable=SC2016
	"$work/plain" "$@" sh -c 'echo >"$0"; exec sleep 600' "$work/begun" &
	started+=($!)
	until_ test -e "$work/begun"
	rm "$work/begun"
}

until_() {
	local tries
	for tries in {1..2000}; do
		! "$@" || return 0
		sleep 0.01
	done
	echo "sanitize: not within 20 s: $*, $tries tries"
	exit 1
}

# shellcheck disable=SC2317 # called by until_
waits() {
	"$work/plain" --list --json "$1" | grep -q '"waiting":1'
}

without_command() {
	export KEYLOCK_DIR=$work/dir
	local long waiter
	printf -v long '%0300d' 0
	path 0 --help
	path 0 --version
	path 64
	path 64 -w 1x key true
	path 64 -w 99999999999999d key true
	path 64 -j 0 key true
	path 64 --no key true
	path 64 --list --who key
	path 64 -A -R key true
	path 64 key
	path 0 --list
	path 1 --who key
	path 0 --path "$long"
	path 0 --pin pinned
	path 0 --pin $'odd \e\xff key'
	path 0 --list
	path 0 --forget pinned
	path 0 --forget pinned
	path 73 -d /proc/none key true
	path 126 key /
	path 127 key no-such-command
	path 127 -F key no-such-command
	path 0 --hold key
	path 0 -A --hold key
	path 76 -A key true
	path 0 --list
	path 0 --list --json
	path 0 --forget key
	ln -s nowhere "$KEYLOCK_DIR/link"
	path 77 link true
	mkdir -m 777 "$work/open"
	path 77 -d "$work/open" key true
	hold key
	hold -s "$long"
	hold -s "$long"
	hold -j 2 slots
	hold -j 2 slots
	path 75 -n key true
	path 75 -n -v key true
	path 75 -n -W 0 key true
	path 75 -w 0.1 key true
	path 75 -w 0.1 -v -s -k "$long" key true
	path 75 -n -j 2 slots true
	path 75 -w 0.1 -v -j 2 slots true
	path 75 -w 0.1 --forget key
	path 0 --who key
	path 0 --who "$long"
	path 0 --list
	path 0 --list --json "$long" slots
	# One that waits is ended by a signal.
	"${checked[@]}" key true &
	waiter=$!
	started+=("$waiter")
	until_ waits key
	path 0 --list key
	kill "$waiter"
	wait "$waiter"
	judge $? 143 key true '(killed)'
	# An ancestor holds the key.
	"$work/plain" outer "${checked[@]}" outer true >"$work/out" 2>&1
	judge $? 78 outer true '(under itself)'
	"$work/plain" outer "${checked[@]}" -r outer true >"$work/out" 2>&1
	judge $? 0 -r outer true '(under itself)'
	# A cycle, of which the other one, being stopped, does not look for it.
	# shellcheck disable=SC2016
	"$work/plain" one sh -c 'echo >"$0/one"; until [ -e "$0/go" ]; do sleep 0.01; done; exec "$@"' \
		"$work" "${checked[@]}" -w 60 two true >"$work/out" 2>&1 &
	waiter=$!
	until_ test -e "$work/one"
	# shellcheck disable=SC2016
	"$work/plain" two sh -c 'echo $$ >"$0/two"; exec "$@"' "$work" "$work/plain" one true &
	started+=("$waiter" "$!")
	until_ waits one
	kill -STOP "$(cat "$work/two")"
	touch "$work/go"
	wait "$waiter"
	judge $? 78 two true '(in a cycle)'
	# keylock has stopped with its command, and passes this on.
	kill -CONT "${started[-1]}"
	wait "${started[-1]}"
}

for tool in gcc bats valgrind; do
	command -v "$tool" >/dev/null || {
		echo "sanitize: skipped: needs $tool"
		exit 0
	}
done
build && build_plain || exit 1
suite
without_command
for report in "$work"/reports/*; do
	[ -s "$report" ] || continue
	status=1
	cat "$report"
done
echo "sanitize: $tests tests under ASan and UBSan, $paths paths under valgrind, $(find "$work/reports" -size +0 -type f | wc -l) reports"
exit "$status"

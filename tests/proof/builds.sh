#!/usr/bin/env bash
# Old and other: keylock as other compilers, C libraries and word sizes make it.
#
#	builds.sh [quick|long] [BUILD...]
#
# Each BUILD is made by the Makefile with -Wall -Wextra -Werror, and must be what it
# says (file(1)); then the tests are run with it: in quick those of the parts that
# differ from build to build, in long all of them.
#
#	gcc, clang      static, glibc          gcc-musl, clang-musl   static, musl
#	gcc-dynamic     glibc                  gcc-O0, gcc-O3         glibc
#	unsigned-char   plain char as on ARM   gcc-32                 32 bits, with 64-bit off_t, time_t
#	aarch64         cross, with qemu-user: a list of checks of its own, since processes there
#	                have other names, vfork(2) is a fork(2), and real-time signals are fewer
#
# A build whose compiler is not there is skipped, saying so.

set -u
cd "$(dirname "$0")/../.." || exit 1
unset KEYLOCK KEYLOCK_DIR KEYLOCK_KEY KEYLOCK_ABANDONED KEYLOCK_LONG
LC_ALL=C
export LC_ALL

size=${1:-quick}
[ $# -eq 0 ] || shift
case $size in
quick | long) ;;
*)
	echo 'usage: builds.sh [quick|long] [BUILD...]' >&2
	exit 64
	;;
esac
[ $# -gt 0 ] || set -- gcc gcc-musl clang clang-musl gcc-dynamic gcc-O0 gcc-O3 unsigned-char \
	gcc-32 aarch64

work=$(mktemp -d "${TMPDIR:-/tmp}/keylock-builds.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# The tests run it as other users, too.
chmod 755 "$work"
passed=0 failed=0 skipped=0 tests=0
warnings='-Wall -Wextra -Werror'
musl=/usr/lib/x86_64-linux-musl

jobs=()
! parallel --version 2>/dev/null | grep -q GNU || jobs=(--jobs 4 --no-parallelize-within-files)

verdict() { # BUILD STATUS
	if [ "$2" -eq 0 ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $1"
	fi
}

skip() { # BUILD WHY
	skipped=$((skipped + 1))
	echo "$1: skipped: $2"
}

# build NAME KIND MAKE-ARGUMENT...: makes $work/NAME/keylock, which file(1) calls KIND.
build() {
	local name=$1 kind=$2
	shift 2
	mkdir -p "$work/$name"
	cp keylock.c Makefile "$work/$name"
	if ! make -s -C "$work/$name" "$@" >"$work/log" 2>&1; then
		cat "$work/log"
		return 1
	fi
	if ! file "$work/$name/keylock" | grep -Eq -- "$kind"; then
		file "$work/$name/keylock"
		echo "it is not $kind"
		return 1
	fi
}

# run_tests NAME FILE...: those files of tests/, in long all of them.
run_tests() {
	local name=$1 file files=() status=0 count
	shift
	for file; do
		files+=("tests/$file.bats")
	done
	# A dynamic one cannot start where there is no descriptor for its libraries.
	[ "$size" = quick ] || [ "$name" = gcc-dynamic ] || files=(tests)
	# On a machine that does other things, too, a test may take its time.
	KEYLOCK_TEST_LIMIT=240 KEYLOCK=$work/$name/keylock bats "${jobs[@]}" "${files[@]}" >"$work/log" 2>&1 </dev/null ||
		status=1
	count=$(grep -c '^ok ' "$work/log")
	tests=$((tests + count))
	echo "$name: $count tests passed"
	[ "$status" -eq 0 ] || sed -n '/^not ok/,/^ok/p' "$work/log" | grep -v '^ok\|: *[0-9]* Killed  ' |
		head -n 60
	return "$status"
}

can_make() { # COMPILER...: whether it makes a program
	echo 'int main(void) { return 0; }' | "$@" -x c -o "$work/a.out" - 2>/dev/null
}

# musl-gcc's way, without gcc's specs.
musl_clang() {
	cat >"$work/musl-clang" <<-END
		#!/bin/sh
		exec clang -Qunused-arguments -nostdinc -isystem /usr/include/x86_64-linux-musl -nostdlib -static \
			$musl/crt1.o $musl/crti.o "\$@" -L$musl -lc $(gcc -print-libgcc-file-name) $musl/crtn.o
	END
	chmod +x "$work/musl-clang"
}

# plain BUILD: made, and tested by the suites where compilers could differ. The main
# build and those of the sanitizers are tested whole elsewhere.
plain() {
	local kind='x86-64.*statically' suites=(status record) make
	case $1 in
	gcc) make=(CC=gcc CFLAGS="-O2 $warnings") ;;
	gcc-musl) make=(CC=musl-gcc CFLAGS="-Os $warnings") ;;
	clang) make=(CC=clang CFLAGS="-O2 $warnings") ;;
	clang-musl)
		musl_clang
		make=(CC="$work/musl-clang" CFLAGS="-O2 $warnings")
		;;
	gcc-dynamic)
		kind='x86-64.*dynamically' suites=(keys record)
		make=(CC=gcc KEYLOCK_STATIC= CFLAGS="-O2 $warnings")
		;;
	gcc-O0) make=(CC=gcc CFLAGS="-O0 $warnings") ;;
	gcc-O3) make=(CC=gcc CFLAGS="-O3 -flto $warnings") ;;
	unsigned-char)
		suites=(command_line status record)
		make=(CC=gcc CFLAGS="-O2 -funsigned-char $warnings")
		;;
	esac
	build "$1" "$kind" "${make[@]}" || return
	# musl's vfork is a fork on aarch64 and others; keylock and its child share memory.
	if [ "$1" = gcc-musl ] && musl-gcc -std=c11 -w -c -o "$work/musl.o" keylock.c &&
		nm -u "$work/musl.o" | grep -w vfork; then
		echo 'it needs vfork(2) of musl'
		return 1
	fi
	if [ "$1" = clang-musl ] && strings "$work/$1/keylock" | grep -q 'GNU C Library'; then
		echo 'it has glibc in it'
		return 1
	fi
	run_tests "$1" "${suites[@]}"
}

build_gcc_32() {
	local binary=$work/gcc-32/keylock begin status=0
	build gcc-32 'Intel (80386|i386).*statically' CC="${gcc_32[*]}" CFLAGS="-O2 $warnings" || return
	run_tests gcc-32 status keys record waiting lifetime signals several slots || return
	# Before Linux 5.1 there are no timers with times of 64 bits for 32-bit programs.
	if ! command -v strace >/dev/null; then
		echo 'gcc-32: before Linux 5.1: not looked at, needs strace'
		return 0
	fi
	mkdir -m 700 "$work/keys"
	KEYLOCK_DIR=$work/keys "$binary" --hold key <&9 >/dev/null &
	until KEYLOCK_DIR=$work/keys "$binary" --who key >/dev/null; do
		sleep 0.01
	done
	begin=$SECONDS
	KEYLOCK_DIR=$work/keys timeout 10 strace -o "$work/log" \
		-e inject=timer_settime64:error=ENOSYS "$binary" -w 0.2 key true || status=$?
	kill $!
	wait $! 2>/dev/null
	if [ "$status" -ne 75 ] || [ $((SECONDS - begin)) -gt 5 ] || ! grep -q ENOSYS "$work/log"; then
		echo "without timer_settime64, -w 0.2 took $((SECONDS - begin)) s and said $status"
		return 1
	fi
	echo 'gcc-32: -w also ends without timer_settime64, as before Linux 5.1'
}

# is WHAT EXPECTED SEEN
is() {
	if [ "$2" = "$3" ]; then
		checks=$((checks + 1))
	else
		printf 'aarch64: %s: expected %s, seen %s\n' "$1" "$2" "$3"
		wrong=$((wrong + 1))
	fi
}

build_aarch64() {
	local binary=$work/aarch64/keylock key checks=0 wrong=0
	build aarch64 'ARM aarch64.*statically' CC=aarch64-linux-gnu-gcc CFLAGS="-O2 $warnings" || return
	if ! command -v qemu-aarch64-static >/dev/null; then
		echo 'aarch64: built, not run: needs qemu-aarch64-static'
		return 0
	fi
	# The keys' names and files are made by no other rule than natively.
	make -s -C "$work/aarch64" -B CFLAGS=-O1 LDFLAGS= CC=gcc KEYLOCK_STATIC= keylock >/dev/null 2>&1
	mv "$binary" "$work/native"
	build aarch64 'ARM aarch64.*statically' -B CC=aarch64-linux-gnu-gcc CFLAGS="-O2 $warnings" || return
	export KEYLOCK_DIR=$work/arm
	for key in a user:42 'a b/c' $'\x80\xff' .hidden "$(printf 'x%.0s' {1..300})"; do
		is "the path of $key" "$("$work/native" --path "$key")" "$(arm --path "$key")"
	done
	for key in 0 1 75 255; do
		is "exit $key" "$key" "$(arm key sh -c "exit $key"; echo $?)"
	done
	is 'death by SIGTERM' 143 "$(arm key sh -c 'kill $$'; echo $?)"
	# shellcheck disable=SC2016
	is 'KEYLOCK_KEY' 'a b' "$(arm 'a b' sh -c 'echo "$KEYLOCK_KEY"')"
	is '-n on a free key' 0 "$(arm -n key true; echo $?)"
	is '-n on a key that is held' 75 "$(arm key sh -c '"$@"; echo $?' sh qemu-aarch64-static "$binary" -n key true)"
	is '-n -s beside -s' 0 "$(arm -s key sh -c '"$@"; echo $?' sh qemu-aarch64-static "$binary" -n -s key true)"
	is 'that a native keylock sees it' 75 "$(arm key "$work/native" -n key true; echo $?)"
	is 'that it sees a native keylock' 75 "$("$work/native" key qemu-aarch64-static "$binary" -n key true; echo $?)"
	is 'two of two slots, and no third' '0 75' "$("$work/native" -j 2 key sh -c \
		'"$@" -j 2 -n key sh -c "\"\$@\" -j 2 -n key true; echo \"0 \$?\"" sh "$@"' sh qemu-aarch64-static "$binary")"
	is 'two keys' 0 "$(arm -k one two true; echo $?)"
	is '-F' 7 "$(arm -F key sh -c 'exit 7'; echo $?)"
	# shellcheck disable=SC2016
	is 'a record that is left' 137 "$(arm -R key sh -c 'kill -KILL $$'; echo $?)"
	is '-A' 76 "$(arm -q -A key true; echo $?)"
	is '--forget' 0 "$(arm --forget key; echo $?)"
	is '--list' '' "$(arm --list --json)"
	is 'a command that is not found' 127 "$(arm key /no/such 2>/dev/null; echo $?)"
	is 'a bad option' 64 "$(arm --no-such 2>/dev/null; echo $?)"
	is 'files that are left' 0 "$(find "$work/arm" -mindepth 1 | wc -l)"
	echo "aarch64: $checks checks passed under $(qemu-aarch64-static --version | sed -n '1s/ (.*//p')"
	"$work/native" key sleep 1 &
	until "$work/native" --who key >/dev/null; do
		sleep 0.01
	done
	if arm -w 5 key true 2>"$work/log"; then
		echo 'aarch64: waiting works there'
	else
		echo "aarch64: waiting does not work there: $(cat "$work/log")"
	fi
	wait
	unset KEYLOCK_DIR
	[ "$wrong" -eq 0 ]
}

arm() {
	timeout 20 qemu-aarch64-static "$work/aarch64/keylock" "$@"
}

# An end of input that never comes.
mkfifo "$work/never" || exit 1
exec 9<>"$work/never"

command -v bats >/dev/null || {
	echo 'builds: skipped: needs bats'
	exit 0
}
# Without gcc-multilib, which conflicts with cross compilers, gcc has no asm/ of 32 bits.
gcc_32=(gcc -m32 -idirafter /usr/include/x86_64-linux-gnu)

for name; do
	need='' why=''
	case $name in
	gcc | gcc-dynamic | gcc-O0 | gcc-O3 | unsigned-char) need=gcc ;;
	gcc-musl) need='musl-gcc' ;;
	clang) need=clang ;;
	clang-musl) need=clang why=$([ -e "$musl/crt1.o" ] || echo musl-dev) ;;
	gcc-32) need=gcc why=$(can_make "${gcc_32[@]}" -static || echo gcc-12-multilib) ;;
	aarch64) need=aarch64-linux-gnu-gcc why=$(can_make aarch64-linux-gnu-gcc -static || echo libc6-dev-arm64-cross) ;;
	*)
		echo "builds.sh: $name: no such build" >&2
		exit 64
		;;
	esac
	command -v "$need" >/dev/null || why=$need
	if [ -n "$why" ]; then
		skip "$name" "needs $why"
		continue
	fi
	case $name in
	gcc-32) build_gcc_32 ;;
	aarch64) build_aarch64 ;;
	*) plain "$name" ;;
	esac
	verdict "$name" $?
done

printf 'builds: %d builds passed, %d failed, %d skipped, %d tests\n' \
	"$passed" "$failed" "$skipped" "$tests"
[ "$failed" -eq 0 ]

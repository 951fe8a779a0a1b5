#!/usr/bin/env bash
# Old and other: keylock as other compilers, C libraries and word sizes make it.
#
#	builds.sh [quick|long] [BUILD...]
#
# Each BUILD is made by the Makefile with -Wall -Wextra -Werror, and must be what it
# says (file(1)); then the tests are run with it: in quick those of the parts that
# differ from build to build, and without those that are most like another; in long all.
#
#	gcc, clang      static, glibc          gcc-musl, clang-musl   static, musl
#	gcc-dynamic     glibc                  gcc-O0, gcc-O3         glibc
#	unsigned-char   plain char as on ARM   gcc-32                 32 bits, with 64-bit off_t, time_t
#	aarch64         cross, with qemu-user: where processes have other names, vfork(2) is a
#	                fork(2), and real-time signals are fewer
#
# A build whose compiler is not there is skipped, saying so.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
needs bats file
if [ $# -eq 0 ]; then
	set -- gcc clang clang-musl gcc-dynamic unsigned-char gcc-32 aarch64
	[ "$size" = quick ] || set -- "$@" gcc-musl gcc-O0 gcc-O3
fi
made=0 failed=0 skipped=0 tests=0 passed=0
musl=/usr/lib/x86_64-linux-musl
# Without gcc-multilib, which conflicts with cross compilers, gcc has no asm/ of 32 bits.
gcc_32='gcc -m32 -idirafter /usr/include/x86_64-linux-gnu'

# musl-gcc's way, without gcc's specs.
cat >"$work/musl-clang" <<-END
	#!/bin/sh
	exec clang -Qunused-arguments -nostdinc -isystem /usr/include/x86_64-linux-musl -nostdlib -static \
		$musl/crt1.o $musl/crti.o "\$@" -L$musl -lc $(gcc -print-libgcc-file-name) $musl/crtn.o
END
chmod +x "$work/musl-clang"

# On ARM, by qemu-user: the tests that do not look at its processes, which have other names there;
# and each sees the other's lock, of which no rule is another.
check_aarch64() {
	local arm=$work/aarch64/arm
	printf '#!/bin/sh\nexec qemu-aarch64-static "%s" "$@"\n' "$work/aarch64/keylock" >"$arm"
	chmod +x "$arm"
	suites "$arm" tests/{keys,several,record}.bats --filter \
		'the file|131,000|shared$|KEYLOCK_KEY is|settles|-R runs|nothing is run|own record' || return
	local -x KEYLOCK_DIR=$work/arms
	for order in "$arm $keylock" "$keylock $arm"; do
		"${order% *}" -j 2 key "${order#* }" -j 2 key "${order% *}" -j 2 -n key true
		[ $? -eq 75 ] || return 1
	done
	"$arm" key sh -c 'kill $$'
	[ $? -eq 143 ] && [ "$passed" -ge 9 ]
}

# try NAME CC KIND CFLAGS SUITE...: where CC makes a program, $work/NAME/keylock, which file(1)
# calls KIND, and its suites.
try() {
	local name=$1 tree=$work/$1 kind=$3 make=(CC="$2" CFLAGS="-O2 -Wall -Wextra -Werror $4") file files=()
	# shellcheck disable=SC2086
	if ! $2 -o "$work/a.out" "$work/a.c" 2>/dev/null; then
		skipped=$((skipped + 1))
		echo "$name: skipped: needs $2"
		return
	fi
	for file in "${@:5}"; do
		files+=("tests/$file.bats")
	done
	# A dynamic one cannot start where there is no descriptor for its libraries.
	[ "$size" = quick ] || [ "$name" = gcc-dynamic ] || files=(tests)
	[ "$name" != gcc-dynamic ] || make+=(KEYLOCK_STATIC=)
	passed=0 check=(suites "$tree/keylock" "${files[@]}")
	[ "$name" != aarch64 ] || check=(check_aarch64)
	mkdir "$tree"
	cp keylock.c Makefile "$tree"
	if make -s -C "$tree" "${make[@]}" 2>&1 && file "$tree/keylock" | grep -Eq -- "$kind" && "${check[@]}"; then
		made=$((made + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $name is to be $kind"
	fi
	tests=$((tests + passed))
	echo "$name: $passed tests passed"
}

echo 'int main(void) { return 0; }' >"$work/a.c"
static='x86-64.*statically'
for build; do
	case $build in
	gcc | clang) try "$build" "$build" "$static" '' status record ;;
	gcc-musl) try "$build" musl-gcc "$static" -Os status record ;;
	clang-musl) try "$build" "$work/musl-clang" "$static" '' status record ;;
	gcc-dynamic) try "$build" gcc x86-64.*dynamically '' keys record ;;
	gcc-O0) try "$build" gcc "$static" -O0 status record ;;
	gcc-O3) try "$build" gcc "$static" '-O3 -flto' status record ;;
	unsigned-char) try "$build" gcc "$static" -funsigned-char command_line status record ;;
	gcc-32) try "$build" "$gcc_32" 'Intel (80386|i386).*statically' '' status record waiting signals slots ;;
	aarch64)
		needs qemu-aarch64-static
		try "$build" aarch64-linux-gnu-gcc 'ARM aarch64.*statically' ''
		;;
	*)
		echo "builds.sh: $build: no such build" >&2
		exit 64
		;;
	esac
done
echo "builds: $made builds passed, $failed failed, $skipped skipped, $tests tests"
[ "$failed" -eq 0 ]

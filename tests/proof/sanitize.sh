#!/usr/bin/env bash
# No error of memory, no undefined behaviour, nothing used that was never initialised: tests
# with a keylock that is built with gcc's AddressSanitizer and UndefinedBehaviorSanitizer, and
# with one that is built with clang's MemorySanitizer.
#
#	sanitize.sh [quick|long]
#
# quick has the suites of those parts that read and write text and lists, long all of
# them. A report ends keylock with another status, and goes to a folder that has to stay
# empty, since a test may expect a failure and swallow it. Left out, by need_plain: what
# the instruments themselves cannot run with, as a limit on memory or descriptors.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
needs gcc clang bats
if ! clang -fsanitize=memory -x c -o "$work/a.out" - <<<"int main(void) { return 0; }" 2>/dev/null; then
	echo "sanitize: skipped: needs libclang-rt-14-dev"
	exit 0
fi
unset ASAN_OPTIONS UBSAN_OPTIONS MSAN_OPTIONS KEYLOCK_LONG
export KEYLOCK_INSTRUMENTED=1
status=0 figures=
mkdir -m 1777 "$work/reports"
suites=(tests)
[ "$size" = long ] || suites=(tests/{command_line,keys,record,looking,slots}.bats)

# The options are in the program, since not every test leaves the environment alone. Leaks
# are not looked for, since what a process has ends with it; and SIGSEGV is not caught,
# since the command has to come into it as the caller left it.
for name in asan msan ubsan; do
	more=handle_segv=0:handle_sigbus=0:handle_sigfpe=0
	[ "$name" != asan ] || more+=:detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1
	[ "$name" != ubsan ] || more=print_stacktrace=1
	printf 'const char *__%s_default_options(void);\nconst char *\n__%s_default_options(void)\n{\n\treturn "%s";\n}\n' \
		"$name" "$name" "log_path=$work/reports/$name:$more"
done >"$work/options.c"

# What clang does not know yet to be written by the kernel.
cat >"$work/kernel.h" <<-'END'
	#define _GNU_SOURCE
	#include <sanitizer/msan_interface.h>
	#include <sys/stat.h>
	#define WRITTEN(call, file) ((call) ? -1 : (__msan_unpoison(file, sizeof(struct stat)), 0))
	#define fstat(fd, file) WRITTEN(fstat(fd, file), file)
	#define stat(name, file) WRITTEN(stat(name, file), file)
	#define fstatat(fd, name, file, flags) WRITTEN(fstatat(fd, name, file, flags), file)
END

# sanitized NAME COMPILER ARGUMENT...: the suites with a keylock that is made so.
sanitized() {
	"${@:2}" -std=c11 -O1 -g -w -fno-omit-frame-pointer -fno-sanitize-recover=all \
		-o "$work/keylock" keylock.c "$work/options.c" || exit 1
	suites "$work/keylock" "${suites[@]}" || status=1
	figures+="$passed tests $1, "
}
sanitized 'under ASan and UBSan' gcc -fsanitize=address,undefined
sanitized 'under MSan' clang -fsanitize=memory -include "$work/kernel.h"

for report in "$work"/reports/*; do
	[ ! -s "$report" ] || {
		status=1
		cat "$report"
	}
done
echo "sanitize: $figures$(find "$work/reports" -size +0 -type f | wc -l) reports"
exit "$status"

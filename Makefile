# keylock: one static binary. A packager's CC, CFLAGS, CPPFLAGS, LDFLAGS,
# PREFIX, MANDIR and DESTDIR are theirs; what the program itself needs is in
# the KEYLOCK_ variables.

PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
CFLAGS ?= -Os
LDFLAGS ?= -s

# A static musl binary starts soonest: a process of glibc pays more in its
# start-up than keylock needs in all.
ifeq ($(origin CC),default)
CC := $(shell command -v musl-gcc >/dev/null 2>&1 && echo musl-gcc || echo cc)
endif

# Static where the C library can be linked so.
KEYLOCK_STATIC := $(shell out=$$(mktemp) && \
	echo 'int main(void) { return 0; }' | \
	$(CC) -static -x c -o $$out - >/dev/null 2>&1 && echo -static; rm -f $$out)
KEYLOCK_CFLAGS = -std=c11 -fno-pie -ffunction-sections -fno-asynchronous-unwind-tables
KEYLOCK_LDFLAGS = $(or $(KEYLOCK_STATIC),-no-pie) -Wl,--gc-sections,-z,noseparate-code,-z,norelro

VERSION = $(shell sed -n 's/^\#define VERSION "\(.*\)"/\1/p' keylock.c)

all: keylock

keylock: keylock.c Makefile
	$(CC) $(CPPFLAGS) $(CFLAGS) $(KEYLOCK_CFLAGS) -o $@ keylock.c \
		$(LDFLAGS) $(KEYLOCK_LDFLAGS)

install: keylock
	mkdir -p $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1
	install -m 755 keylock $(DESTDIR)$(BINDIR)/keylock
	install -m 644 keylock.1 $(DESTDIR)$(MANDIR)/man1/keylock.1

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/keylock $(DESTDIR)$(MANDIR)/man1/keylock.1

# Several files at once, where bats can have what it needs for that; most tests
# wait more than they work.
TEST_JOBS = $(shell parallel --version 2>/dev/null | grep -q GNU && \
	echo --jobs 4 --no-parallelize-within-files)

# The tests take the binary that the environment's KEYLOCK names, else this one.
# In check, those that take long skip themselves; check-long runs all.
check: keylock
	bats $(TEST_JOBS) tests

check-long: keylock
	KEYLOCK_LONG=1 KEYLOCK_TEST_LIMIT=240 bats $(TEST_JOBS) tests

# The longer proofs; "make proof SIZE=long" takes hours.
# PARTS names some of them; none: all.
SIZE = quick
PARTS =

proof: keylock
	tests/proof/run $(SIZE) $(PARTS)

# keylock beside the least that a lock can cost and every lock command that is
# installed; BENCH_SIZE=quick is shorter, BENCH_OTHER=FILE another keylock beside it.
bench: keylock
	tests/bench/bench.sh

# No finding. The tests' C is held to gcc's warnings; "_GNU_SOURCE=" is what a
# "#define _GNU_SOURCE" of their own says again. Which manuals a machine has is
# no matter of the page, so that mandoc's word on it is left out; and variables
# are declared at the head of a function, which cppcheck would narrow. The suites
# split words and make formats on purpose, and have variables of the helper's and
# of inner shells.
LINT_GCC = gcc -std=c11 -O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion \
	-fanalyzer -Werror -c -o /dev/null
LINT_C = $(wildcard tests/*/*.[ch])
SUITES = $(wildcard tests/*.bats tests/*.bash)
LINT_SHELL = $(SUITES) $(wildcard tests/*/*.sh) tests/proof/run \
	tests/tools/charge/subscribe $(wildcard .ci/run)

SUITES_MAY = SC2016,SC2030,SC2031,SC2034,SC2046,SC2053,SC2059,SC2086,SC2094,SC2153,SC2154,SC2206

lint:
	$(LINT_GCC) keylock.c
	for file in $(filter %.c,$(LINT_C)); do \
		$(LINT_GCC) -D_GNU_SOURCE= $$file || exit; \
	done
	clang-tidy --quiet keylock.c -- -std=c11
	cppcheck --quiet --std=c11 --inline-suppr --error-exitcode=1 \
		--enable=warning,style,performance,portability \
		--suppress=missingIncludeSystem --suppress=variableScope keylock.c
	clang-format --dry-run -Werror keylock.c $(LINT_C)
	shellcheck -x $(filter-out $(SUITES),$(LINT_SHELL))
	shellcheck -x -e $(SUITES_MAY) $(SUITES)
	mandoc keylock.1 >/dev/null
	! mandoc -Tlint -Wstyle keylock.1 2>/dev/null | \
		grep -v 'referenced manual not found'

format:
	clang-format -i keylock.c $(LINT_C)

# What is under version control, without version control: a packager's tree
# has none.
DIST = keylock-$(VERSION)
DIST_FILES = keylock.c keylock.1 Makefile README tests \
	$(wildcard .ci .clang-format .clang-tidy .gitignore)

dist:
	tar -czf $(DIST).tar.gz --owner=0 --group=0 --numeric-owner --sort=name \
		--transform='s,^,$(DIST)/,' $(DIST_FILES)

clean:
	rm -f keylock keylock-*.tar.gz

.PHONY: all install uninstall check check-long proof bench lint format dist clean

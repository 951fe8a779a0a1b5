/*
 * Linked to keylock by coverage.sh: all its processes count in one piece of shared memory, so
 * that what a process did that was killed, executed something, or is a child of vfork(2) is
 * counted too. No descriptor is needed for it, and no file, which a closed namespace would hide.
 * With COVERAGE_DUMP in the environment: writes the counters to standard output as gcov's .gcda,
 * and runs nothing.
 */
#define _GNU_SOURCE
#include <gcov.h>
#include <stdlib.h>
#include <sys/shm.h>
#include <unistd.h>

#ifndef COUNTERS
#define COUNTERS (-1) /* the shared memory's identifier, from coverage.sh */
#endif

/* Where the linker has put the counters, in pages of their own. */
extern char counters_begin[];

/* What gcc tells of them; keylock is one file, so there is one. */
extern const struct gcov_info *const counters_info;

static void
ignore_name(const char *name, void *context)
{
	(void)name;
	(void)context;
}

static void
put(const void *bytes, unsigned length, void *context)
{
	(void)context;
	if (write(STDOUT_FILENO, bytes, length) != (ssize_t)length)
		_exit(1);
}

static void *
allocate(unsigned length, void *context)
{
	(void)context;
	return malloc(length);
}

__attribute__((constructor)) static void
count_together(void)
{
	void *there = shmat(COUNTERS, counters_begin, SHM_REMAP);

	if (!getenv("COVERAGE_DUMP"))
		return;
	if (there != counters_begin)
		_exit(1);
	__gcov_info_to_gcda(counters_info, ignore_name, put, allocate, NULL);
	_exit(0);
}

/*
 * What the probes share that run many keylocks side by side: time, memory that
 * their commands share with them, and locks that are none of keylock's.
 */
#ifndef PROBE_H
#define PROBE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* In microseconds, for differences. */
static inline int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline void
sleep_us(long us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

/* The first page of the file, which is made when missing, and its descriptor in *file. */
static inline void *
open_counts(const char *name, int *file)
{
	void *at;

	*file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*file == -1 || ftruncate(*file, 4096) == -1)
		exit(2);
	at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
	if (at == MAP_FAILED)
		exit(2);
	return at;
}

static inline void
count_one(int *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/*
 * Take a lock on one byte that dies with this process, and that its children do not
 * get (POSIX's). False where another has one that does not go with it.
 */
static inline bool
take(int file, short type, off_t at)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(file, F_SETLK, &lock) == 0;
}

/* Whether another has the byte. */
static inline bool
is_taken(int file, off_t at)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	return fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

#endif

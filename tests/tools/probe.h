/*
 * What the probes share: time, memory and locks that tell their commands who runs beside them, and
 * how to run many keylocks side by side and to kill some.
 */
#ifndef PROBE_H
#define PROBE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
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

static inline void
count_one(int *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* The probe itself has failed, not keylock. */
static inline void
fail(const char *what)
{
	perror(what);
	exit(2);
}

/* So many bytes of the file, which is made when missing, shared by all who open it. */
static inline void *
share(const char *path, size_t size)
{
	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
	void *memory;

	if (file < 0 || ftruncate(file, (off_t)size) < 0)
		fail(path);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		fail(path);
	close(file);
	return memory;
}

/* What /proc has in a file of the process. */
static inline char *
glance(pid_t pid, const char *name, char text[2000])
{
	char path[64];
	ssize_t length;
	int file;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	length = file < 0 ? 0 : read(file, text, 1999);
	text[length > 0 ? length : 0] = '\0';
	if (file >= 0)
		close(file);
	return text;
}

/* Random numbers that a seed repeats (xorshift). */
static uint64_t random_state = 1;

static inline unsigned
pick(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % below;
}

/* A command line, added to word by word. */
struct words {
	char *argv[40];
	int count;
	size_t used;
	char text[4000];
};

__attribute__((format(printf, 2, 3))) static inline void
add(struct words *words, const char *format, ...)
{
	char *word = words->text + words->used;
	size_t room = sizeof(words->text) - words->used;
	va_list arguments;

	va_start(arguments, format);
	words->used += (size_t)vsnprintf(word, room, format, arguments) + 1;
	va_end(arguments);
	if (words->used > sizeof(words->text) || words->count == 39)
		abort();
	words->argv[words->count++] = word;
	words->argv[words->count] = NULL;
}

#endif

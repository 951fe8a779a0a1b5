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

enum { MOST_WORKERS = 1000, PATIENCE_US = 40000000 };

/* What the commands count, in a file that they share. */
struct counts {
	int runs;
	int overlaps;
	int together;
	int sharing[8];
};

/* One of those that run side by side: all 0 where nobody is there. */
struct worker {
	pid_t pid;
	int64_t kill_at; /* 0: not to be killed */
	bool group;      /* is killed with all of its group, which it leads */
	bool killed;
	bool may_give_up; /* end with 75 */
};

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

/* The counts in the file, which is made when missing; its descriptor in *file. */
static inline struct counts *
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

/* Returns what was there before. */
static inline int
count(int *counter, int more)
{
	return __atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
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

/* Leave a process behind for so long. */
static inline void
leave_daemon(long us)
{
	if (fork() == 0) {
		sleep_us(us);
		_exit(0);
	}
}

/* Execute the words. */
static inline pid_t
run_words(char *const *words, bool group)
{
	pid_t pid = vfork();

	if (pid == 0) {
		if (group)
			setpgid(0, 0);
		execvp(words[0], words);
		_exit(127);
	}
	if (pid == -1)
		exit(2);
	return pid;
}

/*
 * Keep workers running: start(worker, index) starts one, or returns false when none is to be
 * started there now; ended(worker, status) is told, and look(), if any, called once a round. Ends
 * when all have ended and none is started any more. Returns how many had not ended 40 s after the
 * last was started, the commands of killed keylocks included.
 */
static inline int
run_workers(int width, bool (*start)(struct worker *, int), void (*ended)(struct worker *, int),
            void (*look)(void))
{
	static struct worker workers[MOST_WORKERS];
	int64_t last = now();
	int running = 0;

	if (width < 1 || width > MOST_WORKERS)
		exit(2);
	/* The commands of killed keylocks become children of this process, to be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	srand((unsigned)getpid());
	for (;;) {
		int status;
		pid_t pid;

		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < width; i++)
				if (workers[i].pid == pid) {
					ended(&workers[i], status);
					workers[i] = (struct worker){0};
					running--;
				}
		for (int i = 0; i < width; i++) {
			struct worker *w = &workers[i];

			if (w->pid == 0 && start(w, i)) {
				running++;
				last = now();
			} else if (w->kill_at != 0 && now() >= w->kill_at) {
				kill(w->group ? -w->pid : w->pid, SIGKILL);
				w->kill_at = 0;
				w->killed = true;
			}
		}
		if (pid == -1 && running == 0)
			return 0;
		if (now() > last + PATIENCE_US)
			return running ? running : 1;
		if (look)
			look();
		sleep_us(100);
	}
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

/*
 * bench MODE ... :: SIDE [:: SIDE]...
 *
 * The stop-watch of tests/bench/bench.sh. It starts each command by vfork and execvp
 * and does nothing between two looks at the clock but wait, so that
 * differences of microseconds between two lock commands can be seen. The
 * sides are run in turn (A B A B ...), so that what the machine does
 * meanwhile falls on all of them alike. All times are in milliseconds.
 *
 *   pair RUNS :: COMMAND...           one run of COMMAND at a time
 *   crowd RUNS NUMBER :: COMMAND...   NUMBER of COMMAND at once, until the last has ended
 *   queue RUNS NUMBER :: PREFIX...    the same, but all wait at first for a PREFIX that runs
 *                                     a command; from its end until the last has ended
 *   handover RUNS :: PREFIX...        PREFIX runs a command while another PREFIX waits:
 *                                     from the end of the one to the start of the other
 *       print a line for each side: its median, and the median over the runs
 *       of the first side's time divided by this side's time in the same run.
 *
 *   wait SETTLE WINDOW :: HOLDERS WAITERS PREFIX...
 *       starts HOLDERS of PREFIX and WAITERS of the same that have to wait, for
 *       all sides, lets them settle for SETTLE ms and looks at the waiters for
 *       WINDOW ms. Prints a line for each side: the context switches of all its
 *       waiters in that time, a waiter's own memory (Private in smaps) in KiB,
 *       the median over the waiters (-1: not readable), and how many of them
 *       were served once the holders had ended. Those that poll too seldom for
 *       that are killed.
 *
 *   hold    (a command under test) says when it was started, waits for the end of
 *           standard input, says when that was, ends
 *   nothing (a command under test) ends at once
 *   start   (a command under test) says when it was started
 *
 * Where a command fails, bench says which on standard error and exits 1: the
 * time of a failure is no measure. A PREFIX is a lock command that wants a
 * command; a command of this program is put after it.
 */

#define _GNU_SOURCE

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SIDES = 32, MOST_WORDS = 64 };

struct side {
	char *words[MOST_WORDS]; /* what stands after ::, with NULL at its end */
	int count;
	double *times;
};

struct waiter {
	pid_t pid; /* also its process group, so that what it starts is counted with it */
	long switches;
	double memory;
	bool there; /* seen in the last look at /proc */
	bool ended;
	bool served;
};

struct queue {
	int holders;
	int waiters;
	int gate;      /* the holders end when this is closed */
	pid_t *holder; /* holders pids */
	struct waiter *waiter;
	long switches;
	char **words;
};

static const char *self;

static _Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
fail(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	fputs("bench: ", stderr);
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
	va_end(list);
	exit(1);
}

static void *
allocate(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size);
	if (memory == NULL)
		fail("out of memory");
	return memory;
}

static double
now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void
pause_for(double milliseconds)
{
	double until = now() + milliseconds;
	double left;
	while ((left = until - now()) > 0) {
		struct timespec t = {.tv_sec = (time_t)(left / 1e3)};
		t.tv_nsec = (long)((left - (double)t.tv_sec * 1e3) * 1e6);
		nanosleep(&t, NULL);
	}
}

static int
number(const char *text)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || value > 1000000)
		fail("%s: not a number that bench can use", text);
	return (int)value;
}

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;
	return (x > y) - (x < y);
}

static double
median(const double *values, int count)
{
	double *sorted = allocate((size_t)count, sizeof *sorted);
	memcpy(sorted, values, (size_t)count * sizeof *sorted);
	qsort(sorted, (size_t)count, sizeof *sorted, by_value);
	double middle = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
	free(sorted);
	return middle;
}

/* ---- processes ---- */

/* Starts words with in and out (where not -1) as its standard input and output. */
static pid_t
start(char *const words[], int in, int out, bool own_group)
{
	pid_t pid = vfork();
	if (pid == 0) {
		if (own_group)
			setpgid(0, 0);
		if (in >= 0)
			dup2(in, 0);
		if (out >= 0)
			dup2(out, 1);
		execvp(words[0], words);
		_exit(127);
	}
	if (pid < 0)
		fail("vfork: %s", strerror(errno));
	return pid;
}

static void
finish(pid_t pid, char *const words[])
{
	int status;
	pid_t got;
	do
		got = waitpid(pid, &status, 0);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		fail("waitpid: %s", strerror(errno));
	if (status != 0)
		fail("%s %s: wait status 0x%x", words[0], words[1] ? words[1] : "",
		     (unsigned)status);
}

static void
make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC) != 0)
		fail("pipe: %s", strerror(errno));
}

/* The words of a prefix with a command of this program behind them. */
static char **
with_command(char *const prefix[], const char *command)
{
	size_t count = 0;
	while (prefix[count] != NULL)
		count++;
	char **words = allocate(count + 3, sizeof *words);
	memcpy(words, prefix, count * sizeof *words);
	words[count] = strdup(self);
	words[count + 1] = strdup(command);
	if (words[count] == NULL || words[count + 1] == NULL)
		fail("out of memory");
	return words;
}

/* ---- pair, crowd, handover ---- */

static double
one_run(char *const words[], int unused)
{
	(void)unused;
	double begin = now();
	finish(start(words, -1, -1, false), words);
	return now() - begin;
}

static double
one_crowd(char *const words[], int size)
{
	pid_t *pids = allocate((size_t)size, sizeof *pids);
	double begin = now();
	for (int i = 0; i < size; i++)
		pids[i] = start(words, -1, -1, false);
	for (int i = 0; i < size; i++)
		finish(pids[i], words);
	double took = now() - begin;
	free(pids);
	return took;
}

static char
state_of(pid_t pid)
{
	char text[512];
	snprintf(text, sizeof text, "/proc/%d/stat", (int)pid);
	int fd = open(text, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	if (got <= 0)
		return '?';
	text[got] = '\0';
	char *end = strrchr(text, ')');
	if (end == NULL || end[1] != ' ')
		return '?';
	return end[2];
}

/* Asleep in ten looks one after the other: it waits for the lock. */
static void
wait_until_asleep(pid_t pid)
{
	double limit = now() + 20e3;
	for (int asleep = 0; asleep < 10;) {
		pause_for(0.3);
		asleep = state_of(pid) == 'S' ? asleep + 1 : 0;
		if (now() > limit)
			fail("process %d is not asleep after 20 s", (int)pid);
	}
}

static double
read_time(int fd)
{
	double when;
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	if (poll(&ready, 1, 120000) <= 0 || read(fd, &when, sizeof when) != (ssize_t)sizeof when)
		fail("a command under a lock did not say when it ran");
	return when;
}

/* Looked at once only: the last of many processes that were started. */
static void
wait_until_all_sleep(const pid_t *pids, int count)
{
	for (int i = 0; i < count; i++)
		for (double limit = now() + 20e3; state_of(pids[i]) != 'S'; pause_for(1))
			if (now() > limit)
				fail("process %d is not asleep after 20 s", (int)pids[i]);
	wait_until_asleep(pids[count - 1]);
}

static double
one_queue(char *const prefix[], int size)
{
	int gate[2];
	int says[2];
	make_pipe(gate);
	make_pipe(says);
	char **hold = with_command(prefix, "hold");
	char **nothing = with_command(prefix, "nothing");
	pid_t *pids = allocate((size_t)size, sizeof *pids);

	pid_t holder = start(hold, gate[0], says[1], false);
	read_time(says[0]); /* it has the lock */
	for (int i = 0; i < size; i++)
		pids[i] = start(nothing, -1, -1, false);
	wait_until_all_sleep(pids, size);
	close(gate[1]);
	double begin = read_time(says[0]);
	finish(holder, hold);
	for (int i = 0; i < size; i++)
		finish(pids[i], nothing);
	double took = now() - begin;

	close(gate[0]);
	close(says[0]);
	close(says[1]);
	free(hold);
	free(nothing);
	free(pids);
	return took;
}

static double
one_handover(char *const prefix[], int unused)
{
	(void)unused;
	int gate[2];
	int holder_says[2];
	int waiter_says[2];
	make_pipe(gate);
	make_pipe(holder_says);
	make_pipe(waiter_says);
	char **holder_words = with_command(prefix, "hold");
	char **waiter_words = with_command(prefix, "start");

	pid_t holder = start(holder_words, gate[0], holder_says[1], false);
	read_time(holder_says[0]); /* it has the lock */
	pid_t waiter = start(waiter_words, -1, waiter_says[1], false);
	wait_until_asleep(waiter);
	close(gate[1]);
	double end = read_time(holder_says[0]);
	double begin = read_time(waiter_says[0]);
	finish(holder, holder_words);
	finish(waiter, waiter_words);

	close(gate[0]);
	for (int i = 0; i < 2; i++) {
		close(holder_says[i]);
		close(waiter_says[i]);
	}
	free(holder_words);
	free(waiter_words);
	return begin - end;
}

static void
in_turn(struct side *sides, int count, int runs, int argument,
        double (*measure)(char *const words[], int argument), bool warm_up)
{
	if (runs < 1)
		fail("no runs");
	for (int i = 0; i < count; i++)
		sides[i].times = allocate((size_t)runs, sizeof *sides[i].times);
	for (int run = warm_up ? -1 : 0; run < runs; run++)
		for (int i = 0; i < count; i++) {
			double took = measure(sides[i].words, argument);
			if (run >= 0)
				sides[i].times[run] = took;
		}

	double *ratios = allocate((size_t)runs, sizeof *ratios);
	for (int i = 0; i < count; i++) {
		for (int run = 0; run < runs; run++)
			ratios[run] = sides[0].times[run] / sides[i].times[run];
		printf("%.6f %.6f\n", median(sides[i].times, runs), median(ratios, runs));
	}
	free(ratios);
}

/* ---- wait ---- */

/* The number after the line's beginning, or 0 where the file has no such line. */
static long
field(const char *text, const char *name)
{
	const char *line = strstr(text, name);
	return line == NULL ? 0 : strtol(line + strlen(name), NULL, 10);
}

static bool
read_proc(const char *pid, const char *name, char *text, size_t size)
{
	char path[300];
	snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	size_t length = 0;
	ssize_t got;
	while (length < size - 1 && (got = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	close(fd);
	text[length] = '\0';
	return length > 0;
}

static struct waiter *
waiter_of(struct queue *queues, int count, pid_t group)
{
	for (int q = 0; q < count; q++)
		for (int i = 0; i < queues[q].waiters; i++)
			if (queues[q].waiter[i].pid == group)
				return &queues[q].waiter[i];
	return NULL;
}

/* Adds up the context switches, and the memory, of all processes of each waiter's group. */
static void
look(struct queue *queues, int count)
{
	for (int q = 0; q < count; q++)
		for (int i = 0; i < queues[q].waiters; i++) {
			struct waiter *w = &queues[q].waiter[i];
			w->switches = 0;
			w->memory = 0;
			w->there = false;
		}

	DIR *proc = opendir("/proc");
	if (proc == NULL)
		fail("/proc: %s", strerror(errno));
	struct dirent *entry;
	while ((entry = readdir(proc)) != NULL) {
		char text[8192];
		const char *pid = entry->d_name;
		if (!isdigit((unsigned char)pid[0]) || !read_proc(pid, "stat", text, sizeof text))
			continue;
		char *end = strrchr(text, ')');
		if (end == NULL || end[1] != ' ')
			continue;
		/* ) STATE PARENT GROUP ... */
		char state = end[2];
		char *next;
		strtol(end + 3, &next, 10);
		pid_t group = (pid_t)strtol(next, NULL, 10);
		struct waiter *w = waiter_of(queues, count, group);
		if (w == NULL || state == 'Z')
			continue;
		w->there = true;
		if (read_proc(pid, "status", text, sizeof text))
			w->switches += field(text, "\nvoluntary_ctxt_switches:") +
			               field(text, "\nnonvoluntary_ctxt_switches:");
		/* Of a process that gained rights it is not to be read. */
		if (w->memory < 0 || !read_proc(pid, "smaps_rollup", text, sizeof text))
			w->memory = -1;
		else
			w->memory += (double)(field(text, "\nPrivate_Clean:") +
			                      field(text, "\nPrivate_Dirty:"));
	}
	closedir(proc);
}

static void
begin_queue(struct queue *q, char **words)
{
	if (words[0] == NULL || words[1] == NULL || words[2] == NULL)
		fail("wait: a side wants HOLDERS WAITERS PREFIX");
	q->holders = number(words[0]);
	q->waiters = number(words[1]);
	q->words = words + 2;
	q->holder = allocate((size_t)q->holders, sizeof *q->holder);
	q->waiter = allocate((size_t)q->waiters, sizeof *q->waiter);

	int gate[2];
	int says[2];
	make_pipe(gate);
	make_pipe(says);
	char **hold = with_command(q->words, "hold");
	char **begin = with_command(q->words, "start");
	for (int i = 0; i < q->holders; i++) {
		q->holder[i] = start(hold, gate[0], says[1], true);
		read_time(says[0]);
	}
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < q->waiters; i++)
		q->waiter[i].pid = start(begin, -1, nothing, true);
	close(nothing);
	close(gate[0]);
	close(says[0]);
	close(says[1]);
	q->gate = gate[1];
	free(hold);
	free(begin);
}

/* Collects those that have ended; returns how many have in all. */
static int
ended(struct queue *queues, int count)
{
	int sum = 0;
	for (int q = 0; q < count; q++) {
		for (int i = 0; i < queues[q].waiters; i++) {
			struct waiter *w = &queues[q].waiter[i];
			int status;
			if (!w->ended && waitpid(w->pid, &status, WNOHANG) == w->pid) {
				w->ended = true;
				w->served = status == 0;
			}
			sum += w->ended ? 1 : 0;
		}
	}
	return sum;
}

/* Until all waiters have ended, or none has for a second and a half. */
static void
wait_for_the_served(struct queue *queues, int count)
{
	int all = 0;
	for (int q = 0; q < count; q++)
		all += queues[q].waiters;
	int before = -1;
	double limit = now();
	for (;;) {
		int sum = ended(queues, count);
		if (sum > before)
			limit = now() + 1500;
		before = sum;
		if (sum == all || now() > limit)
			return;
		pause_for(10);
	}
}

static void
end_group(pid_t leader)
{
	kill(-leader, SIGKILL);
	waitpid(leader, NULL, 0);
}

static void
measure_waiters(struct side *sides, int count, int settle, int window)
{
	struct queue *queues = allocate((size_t)count, sizeof *queues);
	for (int q = 0; q < count; q++)
		begin_queue(&queues[q], sides[q].words);
	pause_for(settle);

	look(queues, count);
	for (int q = 0; q < count; q++)
		for (int i = 0; i < queues[q].waiters; i++)
			queues[q].switches -= queues[q].waiter[i].switches;
	pause_for(window);
	look(queues, count);
	for (int q = 0; q < count; q++)
		for (int i = 0; i < queues[q].waiters; i++) {
			if (!queues[q].waiter[i].there)
				fail("%s: a waiter ended while the key was held",
				     queues[q].words[0]);
			queues[q].switches += queues[q].waiter[i].switches;
		}

	for (int q = 0; q < count; q++)
		close(queues[q].gate);
	wait_for_the_served(queues, count);

	for (int q = 0; q < count; q++) {
		struct queue *done = &queues[q];
		double *memory = allocate((size_t)done->waiters + 1, sizeof *memory);
		int served = 0;
		for (int i = 0; i < done->waiters; i++) {
			memory[i] = done->waiter[i].memory;
			served += done->waiter[i].served ? 1 : 0;
			if (!done->waiter[i].ended)
				end_group(done->waiter[i].pid);
		}
		for (int i = 0; i < done->holders; i++)
			end_group(done->holder[i]);
		printf("%ld %.0f %d\n", done->switches, median(memory, done->waiters), served);
		free(memory);
		free(done->holder);
		free(done->waiter);
	}
	free(queues);
}

/* ---- the commands under test ---- */

static int
say_now(void)
{
	double when = now();
	return write(1, &when, sizeof when) == (ssize_t)sizeof when ? 0 : 1;
}

static int
run_hold(void)
{
	if (say_now() != 0)
		return 1;
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	double when = now();
	/* Nobody may read any more, and it is no failure. */
	signal(SIGPIPE, SIG_IGN);
	if (write(1, &when, sizeof when) < 0)
		return 0;
	return 0;
}

int
main(int argc, char *argv[])
{
	self = argv[0];
	if (argc == 2 && strcmp(argv[1], "start") == 0)
		return say_now();
	if (argc == 2 && strcmp(argv[1], "hold") == 0)
		return run_hold();
	if (argc == 2 && strcmp(argv[1], "nothing") == 0)
		return 0;
	if (argc < 3)
		fail("usage: see the beginning of tests/bench/bench.c");

	static struct side sides[MOST_SIDES];
	int count = 0;
	int numbers[2] = {0, 0};
	int given = 0;
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "::") == 0) {
			if (++count > MOST_SIDES)
				fail("more than %d sides", MOST_SIDES);
		} else if (count == 0) {
			if (given == 2)
				fail("more than two numbers");
			numbers[given++] = number(argv[i]);
		} else {
			struct side *side = &sides[count - 1];
			if (side->count == MOST_WORDS - 1)
				fail("more than %d words", MOST_WORDS - 1);
			side->words[side->count++] = argv[i];
		}
	}
	if (count == 0)
		fail("nothing to run");
	if (numbers[1] == 0 && (strcmp(argv[1], "crowd") == 0 || strcmp(argv[1], "queue") == 0))
		fail("%s: wants a number of contenders", argv[1]);
	for (int i = 0; i < count; i++)
		if (sides[i].count == 0)
			fail("an empty side");

	const char *mode = argv[1];
	if (strcmp(mode, "pair") == 0)
		in_turn(sides, count, numbers[0], 0, one_run, true);
	else if (strcmp(mode, "crowd") == 0)
		in_turn(sides, count, numbers[0], numbers[1], one_crowd, false);
	else if (strcmp(mode, "queue") == 0)
		in_turn(sides, count, numbers[0], numbers[1], one_queue, false);
	else if (strcmp(mode, "handover") == 0)
		in_turn(sides, count, numbers[0], 0, one_handover, false);
	else if (strcmp(mode, "wait") == 0)
		measure_waiters(sides, count, numbers[0], numbers[1]);
	else
		fail("%s: no such mode", mode);
	return fflush(stdout) == 0 ? 0 : 1;
}

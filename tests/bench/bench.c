/*
 * bench MODE RUNS :: NUMBER COMMAND... [:: NUMBER COMMAND...]...
 *
 * The stop-watch of bench.sh, for what a benchmark of whole commands (hyperfine)
 * cannot see. It starts each command by vfork and execvp and does nothing between
 * two looks at the clock but wait, so that differences of microseconds between two
 * lock commands can be seen. The sides are run in turn (A B A B ...), so that what
 * the machine does meanwhile falls on all of them alike. Times are in milliseconds.
 *
 *   crowd   NUMBER of COMMAND at once, until the last one has ended.
 *   line    COMMAND is a lock command that wants a command. One of it holds, and
 *           NUMBER - 1 wait. In each run one more comes, and when it waits the
 *           holder's command ends. Measured is first the hand-over, from the end of
 *           the holder's command to the start of the next one's, and then the
 *           arrival, from the start of the newcomer until it sleeps.
 *
 * Prints for each side, in a line each (for line: hand-overs, then arrivals), its
 * median, and the median over the runs of its time divided by the last side's in the
 * same run. Where a command fails, bench says which on standard error and exits 1:
 * the time of a failure is no measure.
 *
 *   bench turn (a command under a lock) says when it was started, waits for a byte
 *              or the end of standard input, says when that was.
 */

#define _GNU_SOURCE

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

enum { MOST_SIDES = 8, MOST_WORDS = 64, MEASURES = 2 };

struct side {
	int number;
	char *words[MOST_WORDS]; /* with NULL at the end, and room for "bench turn" */
	int count;
	double *times[MEASURES];
	/* of a line */
	pid_t *line;
	int standing;
	int gate[2]; /* a byte lets the holder's command end */
	int says[2];
};

static char *self;
static char command[] = "turn";
static int nothing; /* /dev/null */

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
allocate(int count, size_t size)
{
	void *memory = calloc((size_t)count, size);
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

static int
number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 10);
	if (value < 1 || *end != '\0' || value > 1000000)
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
median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof *values, by_value);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static pid_t
start(char *const words[], int in, int out)
{
	pid_t pid = vfork();
	if (pid == 0) {
		dup2(in, 0);
		dup2(out, 1);
		execvp(words[0], words);
		_exit(127);
	}
	if (pid < 0)
		fail("vfork: %s", strerror(errno));
	return pid;
}

static pid_t
finish(pid_t pid, char *const words[])
{
	int status;
	pid = waitpid(pid, &status, 0);
	if (pid < 0)
		fail("waitpid: %s", strerror(errno));
	if (status != 0)
		fail("%s %s: wait status 0x%x", words[0], words[1], (unsigned)status);
	return pid;
}

/* ---- crowd ---- */

static void
crowd_run(struct side *side, double took[MEASURES])
{
	pid_t *pids = allocate(side->number, sizeof *pids);
	double begin = now();
	for (int i = 0; i < side->number; i++)
		pids[i] = start(side->words, nothing, nothing);
	for (int i = 0; i < side->number; i++)
		finish(pids[i], side->words);
	took[0] = now() - begin;
	free(pids);
}

/* ---- line ---- */

static double
said(const struct side *side)
{
	double when;
	struct pollfd ready = {.fd = side->says[0], .events = POLLIN};
	if (poll(&ready, 1, 60000) <= 0 ||
	    read(side->says[0], &when, sizeof when) != (ssize_t)sizeof when)
		fail("%s: a command under the lock did not say when it ran", side->words[0]);
	return when;
}

static char
state_of(int stat)
{
	char text[512];
	ssize_t got = pread(stat, text, sizeof text - 1, 0);
	if (got <= 0)
		return '?';
	text[got] = '\0';
	const char *end = strrchr(text, ')');
	return end != NULL && end[1] == ' ' ? end[2] : '?';
}

/* When it fell asleep, seen in looks one after the other for a millisecond: it waits. */
static double
asleep(pid_t pid)
{
	char path[40];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int stat = open(path, O_RDONLY | O_CLOEXEC);
	double begin = now();
	double since = 0;
	for (double time = begin; since == 0 || time < since + 1; time = now()) {
		if (stat < 0 || time > begin + 60e3)
			fail("process %d is not asleep after a minute", (int)pid);
		if (state_of(stat) != 'S')
			since = 0;
		else if (since == 0)
			since = time;
	}
	close(stat);
	return since;
}

static double
arrive(struct side *side)
{
	double begin = now();
	pid_t pid = start(side->words, side->gate[0], side->says[1]);
	side->line[side->standing++] = pid;
	return side->standing > 1 ? asleep(pid) - begin : 0;
}

static void
forget(struct side *side, pid_t pid)
{
	int i = 0;
	while (side->line[i] != pid)
		if (++i == side->standing)
			fail("process %d is not of the line", (int)pid);
	side->standing--;
	memmove(side->line + i, side->line + i + 1,
	        (size_t)(side->standing - i) * sizeof *side->line);
}

static void
line_begin(struct side *side)
{
	side->line = allocate(side->number + 1, sizeof *side->line);
	if (pipe2(side->gate, O_CLOEXEC) != 0 || pipe2(side->says, O_CLOEXEC) != 0)
		fail("pipe: %s", strerror(errno));
	side->words[side->count] = self;
	side->words[side->count + 1] = command;
	arrive(side);
	said(side);
	while (side->standing < side->number)
		arrive(side);
}

static void
line_run(struct side *side, double took[MEASURES])
{
	took[1] = arrive(side);
	if (write(side->gate[1], "", 1) != 1)
		fail("pipe: %s", strerror(errno));
	double end = said(side);
	took[0] = said(side) - end;
	/* Who held is not known: not all locks are given in the order of arrival. */
	forget(side, finish(-1, side->words));
}

/* The holder's command ends when its input does. */
static void
line_end(struct side *side)
{
	for (int i = side->standing - 1; i >= 0; i--)
		kill(side->line[i], SIGKILL);
	for (int i = side->standing - 1; i >= 0; i--)
		waitpid(side->line[i], NULL, 0);
	close(side->gate[1]);
}

/* The command of a line. */
static int
turn(void)
{
	char byte;
	double when = now();
	if (write(1, &when, sizeof when) != (ssize_t)sizeof when || read(0, &byte, 1) < 0)
		return 1;
	when = now();
	return write(1, &when, sizeof when) == (ssize_t)sizeof when ? 0 : 1;
}

/* ---- all ---- */

static void
print(struct side *sides, int count, int runs, int measure)
{
	double *ratios = allocate(count * runs, sizeof *ratios);
	for (int i = 0; i < count * runs; i++)
		ratios[i] = sides[i / runs].times[measure][i % runs] /
		            sides[count - 1].times[measure][i % runs];
	for (int i = 0; i < count; i++)
		printf("%.6f %.6f\n", median(sides[i].times[measure], runs),
		       median(ratios + i * runs, runs));
	free(ratios);
}

static int
read_sides(struct side *sides, char *words[])
{
	int count = 0;
	for (; *words != NULL; words++) {
		struct side *side = &sides[count - 1];
		if (strcmp(*words, "::") == 0) {
			if (count++ == MOST_SIDES || words[1] == NULL || words[2] == NULL)
				fail("usage: see the beginning of bench.c");
			sides[count - 1].number = number(*++words);
		} else if (count == 0 || side->count == MOST_WORDS - 3) {
			fail("usage: see the beginning of bench.c");
		} else {
			side->words[side->count++] = *words;
		}
	}
	return count;
}

int
main(int argc, char *argv[])
{
	static struct side sides[MOST_SIDES];
	self = argv[0];
	if (argc == 2 && strcmp(argv[1], "turn") == 0)
		return turn();
	int count = argc > 3 ? read_sides(sides, argv + 3) : 0;
	bool line = count > 0 && strcmp(argv[1], "line") == 0;
	if (count == 0 || (!line && strcmp(argv[1], "crowd") != 0))
		fail("usage: see the beginning of bench.c");
	int runs = number(argv[2]);
	nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i < count; i++) {
		for (int measure = 0; measure < MEASURES; measure++)
			sides[i].times[measure] = allocate(runs, sizeof(double));
		if (line)
			line_begin(&sides[i]);
	}
	/* The first run of a single command is to warm up. */
	for (int run = line || sides[0].number > 1 ? 0 : -1; run < runs; run++)
		for (int i = 0; i < count; i++) {
			double took[MEASURES] = {0, 0};
			(line ? line_run : crowd_run)(&sides[i], took);
			for (int measure = 0; run >= 0 && measure < MEASURES; measure++)
				sides[i].times[measure][run] = took[measure];
		}
	for (int i = 0; line && i < count; i++)
		line_end(&sides[i]);
	print(sides, count, runs, 0);
	if (line)
		print(sides, count, runs, 1);
	return fflush(stdout) == 0 ? 0 : 1;
}

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
 * same run. Where a command fails, bench says so on standard error and exits 2: the
 * time of a failure is no measure.
 *
 *   bench turn (a command under a lock) says when it was started, waits for a byte
 *              or the end of standard input, says when that was.
 *   bench floor [-u] FILE COMMAND... is the least that a lock command can do: open,
 *              flock, vfork, exec, wait, exit. It keeps none of keylock's promises:
 *              it leaves FILE behind (with -u it removes it, which is not even
 *              safe), and passes no signal on.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/file.h>

#include "../tools/probe.h"

enum { MOST_SIDES = 8, MOST_WORDS = 64, MOST_RUNS = 1000, MOST_WAITING = 10002 };

static struct side {
	int number, count;
	char *words[MOST_WORDS]; /* with NULL at the end, and room for "bench turn" */
	double times[2][MOST_RUNS];
	/* Of a line: who is in it; a byte to `gate` lets the holder's command end. */
	pid_t line[MOST_WAITING];
	int standing, gate[2], says[2];
} sides[MOST_SIDES];

static char *self;
static int nothing; /* /dev/null */

static double
clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

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
		fail("vfork");
	return pid;
}

static pid_t
finish(pid_t pid, char *const words[])
{
	int status;

	pid = waitpid(pid, &status, 0);
	if (pid < 0)
		fail("waitpid");
	if (status != 0) {
		fprintf(stderr, "bench: %s %s: wait status 0x%x\n", words[0], words[1],
		        (unsigned)status);
		exit(2);
	}
	return pid;
}

static void
crowd_run(struct side *side, int run)
{
	static pid_t pids[MOST_WAITING];
	double begin = clock_ms();

	for (int i = 0; i < side->number; i++)
		pids[i] = start(side->words, nothing, nothing);
	for (int i = 0; i < side->number; i++)
		finish(pids[i], side->words);
	side->times[0][run] = clock_ms() - begin;
}

/* What a command under the lock says next. */
static double
said(const struct side *side)
{
	struct pollfd ready = {.fd = side->says[0], .events = POLLIN};
	double when;

	if (poll(&ready, 1, 60000) <= 0 || read(side->says[0], &when, sizeof when) != sizeof when)
		fail("a command under the lock did not say when it ran");
	return when;
}

/* When it fell asleep, seen in looks one after the other for a millisecond: it waits. */
static double
asleep(pid_t pid)
{
	double begin = clock_ms(), since = 0;
	char text[2000];

	for (double time = begin; since == 0 || time < since + 1; time = clock_ms()) {
		const char *end = strrchr(glance(pid, "stat", text), ')');

		if (time > begin + 60e3)
			fail("who comes is not asleep after a minute");
		if (!end || end[2] != 'S')
			since = 0;
		else if (since == 0)
			since = time;
	}
	return since;
}

/* One more comes to the line; how long until it waits. */
static double
arrive(struct side *side)
{
	double begin = clock_ms();
	pid_t pid = start(side->words, side->gate[0], side->says[1]);

	side->line[side->standing++] = pid;
	return side->standing > 1 ? asleep(pid) - begin : 0;
}

static void
line_begin(struct side *side)
{
	if (pipe2(side->gate, O_CLOEXEC) != 0 || pipe2(side->says, O_CLOEXEC) != 0)
		fail("pipe");
	side->words[side->count] = self;
	side->words[side->count + 1] = "turn";
	arrive(side);
	said(side);
	while (side->standing < side->number)
		arrive(side);
}

static void
line_run(struct side *side, int run)
{
	double end;
	pid_t pid;
	int i = 0;

	side->times[1][run] = arrive(side);
	if (write(side->gate[1], "", 1) != 1)
		fail("pipe");
	end = said(side);
	side->times[0][run] = said(side) - end;
	/* Who held is not known: not all locks are given in the order of arrival. */
	pid = finish(-1, side->words);
	while (side->line[i] != pid)
		i++;
	memmove(side->line + i, side->line + i + 1,
	        (size_t)(--side->standing - i) * sizeof *side->line);
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
	double when = clock_ms();
	char byte;

	if (write(1, &when, sizeof when) != sizeof when || read(0, &byte, 1) < 0)
		return 1;
	when = clock_ms();
	return write(1, &when, sizeof when) != sizeof when;
}

static int
floor_of_all(char *words[])
{
	bool removes = strcmp(words[0], "-u") == 0;
	char *file = words[removes];
	int fd = open(file, O_RDONLY | O_CREAT | O_NOCTTY, 0666), status;
	pid_t child;

	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		return 73;
	child = vfork();
	if (child == 0) {
		execvp(words[removes + 1], words + removes + 1);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 71;
	if (removes)
		unlink(file);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void
print(int count, int runs, int measure)
{
	static double ratios[MOST_SIDES][MOST_RUNS];

	for (int i = 0; i < count * runs; i++)
		ratios[i / runs][i % runs] = sides[i / runs].times[measure][i % runs] /
		                             sides[count - 1].times[measure][i % runs];
	for (int i = 0; i < count; i++)
		printf("%.6f %.6f\n", median(sides[i].times[measure], runs),
		       median(ratios[i], runs));
}

int
main(int argc, char *argv[])
{
	int count = 0, runs = argc > 2 ? atoi(argv[2]) : 0;
	bool line = argc > 1 && strcmp(argv[1], "line") == 0;

	self = argv[0];
	if (argc == 2 && strcmp(argv[1], "turn") == 0)
		return turn();
	if (argc > 3 && strcmp(argv[1], "floor") == 0)
		return floor_of_all(argv + 2);
	for (int i = 3; i < argc; i++)
		if (strcmp(argv[i], "::") == 0 && count < MOST_SIDES && ++i < argc)
			sides[count++].number = atoi(argv[i]);
		else if (count > 0 && sides[count - 1].count < MOST_WORDS - 3)
			sides[count - 1].words[sides[count - 1].count++] = argv[i];
	if (count == 0 || runs < 1 || runs > MOST_RUNS) {
		fputs("usage: see the beginning of bench.c\n", stderr);
		return 64;
	}
	nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; line && i < count; i++)
		line_begin(&sides[i]);
	/* The first run of a single command is to warm up, and measured again. */
	for (int run = line || sides[0].number > 1 ? 0 : -1; run < runs; run++)
		for (int i = 0; i < count; i++)
			(line ? line_run : crowd_run)(&sides[i], run < 0 ? 0 : run);
	for (int i = 0; line && i < count; i++)
		line_end(&sides[i]);
	for (int measure = 0; measure < 1 + line; measure++)
		print(count, runs, measure);
	return fflush(stdout) != 0;
}

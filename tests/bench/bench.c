/*
 * bench MODE RUNS NUMBER COMMAND... :: NUMBER COMMAND...
 *
 * The stop-watch of bench.sh. It starts each command by vfork and execvp and does
 * nothing between two looks at the clock but wait, so that differences of microseconds
 * can be seen. The two sides are run in turn, so that what the machine does meanwhile
 * falls on both alike. Times are in milliseconds.
 *
 *   crowd   NUMBER of COMMAND at once, until the last one has ended.
 *   line    The same with lock commands that want a command, which is "bench turn": it
 *           stays for a millisecond and says when it was started and when it ended.
 *           Measured is the hand-over, from one's end to the next one's start, as the
 *           median of those after half of them have had their turn.
 *
 * Prints both medians, and the median over the runs of the first side's time divided
 * by the second's. Where a command fails, bench says so on standard error and exits 2:
 * the time of a failure is no measure.
 *
 *   bench floor [-u] FILE COMMAND... is the least that a lock command can do: open,
 *              flock, vfork, exec, wait, exit. It keeps none of keylock's promises:
 *              it leaves FILE behind (with -u it removes it, which is not even
 *              safe), and passes no signal on.
 */
#define _GNU_SOURCE
#include <sys/file.h>

#include "../tools/probe.h"

enum { MOST_WORDS = 64, MOST_RUNS = 1000, MOST_AT_ONCE = 10000 };

static struct side {
	int number, count;
	char *words[MOST_WORDS]; /* with NULL at the end, and room for "bench turn" */
	double times[MOST_RUNS];
} sides[2];

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
start(char *const words[], int out)
{
	pid_t pid = vfork();

	if (pid == 0) {
		dup2(nothing, 0);
		dup2(out, 1);
		execvp(words[0], words);
		_exit(127);
	}
	if (pid < 0)
		fail("vfork");
	return pid;
}

static void
finish(pid_t pid, char *const words[])
{
	int status;

	if (waitpid(pid, &status, 0) < 0 || status != 0) {
		fprintf(stderr, "bench: %s %s: wait status 0x%x\n", words[0], words[1], status);
		exit(2);
	}
}

/* What the commands of a line have said, in the order of their turns: when each began and ended. */
static double
hand_over(int file, int count)
{
	static double said[MOST_AT_ONCE][2], gaps[MOST_AT_ONCE];

	if (pread(file, said, (size_t)count * sizeof *said, 0) != count * (ssize_t)sizeof *said)
		fail("not all commands under the lock said when they ran");
	for (int i = 1; i < count; i++)
		gaps[i] = said[i][0] - said[i - 1][1];
	return median(gaps + 1 + count / 2, count - 1 - count / 2);
}

static void
run_side(struct side *side, int run, bool line)
{
	static pid_t pids[MOST_AT_ONCE];
	int said = line ? memfd_create("said", MFD_CLOEXEC) : nothing;
	double begin = clock_ms();

	for (int i = 0; i < side->number; i++)
		pids[i] = start(side->words, said);
	for (int i = 0; i < side->number; i++)
		finish(pids[i], side->words);
	side->times[run] = line ? hand_over(said, side->number) : clock_ms() - begin;
	if (line)
		close(said);
}

/* The command of a line. */
static int
turn(void)
{
	double said[2] = {clock_ms()};

	usleep(1000);
	said[1] = clock_ms();
	return write(1, said, sizeof said) != sizeof said;
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

int
main(int argc, char *argv[])
{
	static double ratios[MOST_RUNS];
	int runs = argc > 2 ? atoi(argv[2]) : 0;
	bool line = argc > 1 && strcmp(argv[1], "line") == 0;
	struct side *side = sides;

	if (argc == 2 && strcmp(argv[1], "turn") == 0)
		return turn();
	if (argc > 3 && strcmp(argv[1], "floor") == 0)
		return floor_of_all(argv + 2);
	for (int i = 3; i < argc && side->count < MOST_WORDS - 3; i++)
		if (strcmp(argv[i], "::") == 0 && side == sides)
			side++;
		else if (!side->number)
			side->number = atoi(argv[i]);
		else
			side->words[side->count++] = argv[i];
	if (!sides[1].count || runs < 1 || runs > MOST_RUNS) {
		fputs("usage: see the beginning of bench.c\n", stderr);
		return 64;
	}
	nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; line && i < 2; i++) {
		sides[i].words[sides[i].count] = argv[0];
		sides[i].words[sides[i].count + 1] = "turn";
	}
	/* The first run of a single command is to warm up, and measured again. */
	for (int run = sides[0].number > 1 ? 0 : -1; run < runs; run++)
		for (int i = 0; i < 2; i++)
			run_side(&sides[i], run < 0 ? 0 : run, line);
	for (int i = 0; i < runs; i++)
		ratios[i] = sides[0].times[i] / sides[1].times[i];
	printf("%.3f %.3f ", median(sides[0].times, runs), median(sides[1].times, runs));
	printf("%.3f\n", median(ratios, runs));
	return fflush(stdout) != 0;
}

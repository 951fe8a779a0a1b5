/*
 * slotted [-k] [-d] FILE COUNT WORKERS HOLD N KEYLOCK KEY: are there ever more than N at once, or
 * fewer while somebody waits?
 *
 * COUNT times, up to WORKERS side by side, runs "KEYLOCK -j N KEY slotted -p FILE N HOLD". The
 * command holds for HOLD microseconds one of N bytes of FILE: when all are taken, there is one too
 * many. With -d half of the commands leave a daemon behind, for 50 ms. With -k a third of the
 * keylocks is killed by SIGKILL after up to 5 ms, half of them together with their command and its
 * daemon. Prints
 *
 *	runs		how many commands ran
 *	kills		how many were killed
 *	excess		how many commands found all N bytes taken
 *	most		how many were seen at once
 *	low_ms		the longest time, in ms, that fewer than N were seen at once while
 *			more than 20 had been started and had not begun
 *	low_share	in how many of 1,000 looks that was so
 *	ms		how long all took
 *	others		how many keylocks ended with another status than 0 and were not killed
 *	stuck		what had not ended 40 s after the last was started
 */
#include "probe.h"

static char **args;
static struct counts *counts;
static bool killing, daemons;
static int file, n, started, kills, most, others, looks, lows;
static int64_t low_since, low;

/* The command: FILE N HOLD, and d for a daemon. */
static int
hold(char **argv)
{
	bool taken = false;

	counts = open_counts(argv[0], &file);
	count(&counts->runs, 1);
	for (long at = 0; at < atol(argv[1]) && !taken; at++)
		taken = take(file, F_WRLCK, at);
	if (!taken)
		count(&counts->overlaps, 1);
	sleep_us(atol(argv[2]));
	if (argv[3])
		leave_daemon(50000);
	return 0;
}

static bool
start(struct worker *w, int index)
{
	static char dash_j[] = "-j", dash_p[] = "-p", d[] = "d";
	char *words[] = {args[6], dash_j,  args[5], args[7], args[0],
	                 dash_p,  args[1], args[5], args[4], daemons && rand() % 2 ? d : NULL,
	                 NULL};

	(void)index;
	if (started >= atoi(args[2]))
		return false;
	started++;
	w->pid = run_words(words, true);
	w->kill_at = killing && rand() % 3 == 0 ? now() + rand() % 5000 : 0;
	w->group = rand() % 2;
	return true;
}

static void
ended(struct worker *w, int status)
{
	kills += w->killed;
	others += !w->killed && status != 0;
}

/* How many of the N bytes are held; this process holds none. */
static int
held(void)
{
	int found = 0;

	for (int at = 0; at < n; at++) {
		struct flock lock = {.l_type = F_WRLCK, .l_start = at, .l_len = 1};

		found += fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	}
	return found;
}

static void
look(void)
{
	int found = held(), waiting = started - count(&counts->runs, 0) - kills;
	int64_t t = now();

	if (found > most)
		most = found;
	if (waiting > 20 && started == atoi(args[2])) {
		looks++;
		lows += found < n;
		if (found == n)
			low_since = 0;
		else if (low_since == 0)
			low_since = t;
		else if (t - low_since > low)
			low = t - low_since;
	}
}

int
main(int argc, char **argv)
{
	int64_t begin = now();
	int stuck;

	if (argc > 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	for (char *self = argv[0]; argc > 1 && argv[1][0] == '-'; argc--) {
		killing |= strcmp(argv[1], "-k") == 0;
		daemons |= strcmp(argv[1], "-d") == 0;
		*++argv = self;
	}
	if (argc != 8)
		return 2;
	args = argv;
	n = atoi(argv[5]);
	counts = open_counts(argv[1], &file);
	stuck = run_workers(atoi(argv[3]), start, ended, look);
	printf(
	    "runs=%d kills=%d excess=%d most=%d low_ms=%d low_share=%d ms=%d others=%d stuck=%d\n",
	    counts->runs, kills, counts->overlaps, most, (int)(low / 1000),
	    looks ? lows * 1000 / looks : 0, (int)((now() - begin) / 1000), others, stuck);
	return 0;
}

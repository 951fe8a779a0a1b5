/*
 * slotted [-k] [-d] FILE COUNT WORKERS HOLD N KEYLOCK KEY: are there ever more than N at once, or
 * fewer while somebody waits?
 *
 * COUNT times, up to WORKERS side by side, runs "KEYLOCK -j N KEY slotted -p FILE N HOLD". The
 * command holds for HOLD microseconds one of N bytes of FILE, with a lock that dies with it
 * (POSIX's, that children do not get): when all are taken, there is one too many. With -d half of
 * the commands leave a daemon behind, for 50 ms. With -k a third of the keylocks is killed by
 * SIGKILL after up to 5 ms, half of them together with their command and its daemon. Prints
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
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

enum { MOST_WORKERS = 1000, DAEMON_US = 50000 };

struct counts {
	int runs;
	int excess;
};

struct worker {
	pid_t pid;
	int64_t kill_at; /* 0: not to be killed */
	int together;    /* with all of its group */
	int killed;
};

/* The command: FILE N HOLD, and d for a daemon. */
static int
hold(char **argv)
{
	int file, taken = 0;
	struct counts *counts = open_counts(argv[0], &file);

	count_one(&counts->runs);
	for (long at = 0; at < atol(argv[1]) && !taken; at++)
		taken = take(file, F_WRLCK, at);
	if (!taken)
		count_one(&counts->excess);
	sleep_us(atol(argv[2]));
	if (argv[3] && fork() == 0) {
		sleep_us(DAEMON_US);
		_exit(0);
	}
	return 0;
}

static pid_t
start(char **argv, int daemon)
{
	static char dash_p[] = "-p", d[] = "d";
	char number[16];
	char *words[] = {argv[6], number,  argv[7], argv[0],           dash_p,
	                 argv[1], argv[5], argv[4], daemon ? d : NULL, NULL};
	pid_t pid;

	snprintf(number, sizeof number, "-j%.12s", argv[5]);
	pid = vfork();
	if (pid == 0) {
		setpgid(0, 0);
		execv(words[0], words);
		_exit(127);
	}
	if (pid == -1)
		exit(2);
	return pid;
}

/* How many of the N bytes are held; this process holds none. */
static int
held(int file, int n)
{
	int count = 0;

	for (int at = 0; at < n; at++)
		count += is_taken(file, at);
	return count;
}

int
main(int argc, char **argv)
{
	static struct worker workers[MOST_WORKERS];
	struct counts *counts;
	int killing = 0, daemons = 0, file, total, width, n, started = 0, running = 0, kills = 0;
	int most = 0, others = 0, stuck = 0, looks = 0, lows = 0;
	int64_t begin, last = 0, low_since = 0, low = 0;
	char *self = argv[0];

	if (argc > 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	for (; argc > 1 && argv[1][0] == '-'; argc--, argv++) {
		killing |= strcmp(argv[1], "-k") == 0;
		daemons |= strcmp(argv[1], "-d") == 0;
	}
	argv[0] = self;
	if (argc != 8)
		return 2;
	total = atoi(argv[2]);
	width = atoi(argv[3]);
	n = atoi(argv[5]);
	if (width < 1 || width > MOST_WORKERS)
		return 2;
	/* The commands of killed keylocks become children of this process, to be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	counts = open_counts(argv[1], &file);
	srand((unsigned)getpid());
	begin = now();
	while (started < total || running > 0) {
		int status, count, waiting;
		int64_t t;
		pid_t pid;

		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < width; i++) {
				if (workers[i].pid != pid)
					continue;
				if (!workers[i].killed && status != 0)
					others++;
				workers[i].pid = 0;
				running--;
			}
		for (int i = 0; i < width; i++) {
			struct worker *w = &workers[i];

			if (w->pid == 0 && started < total) {
				w->pid = start(argv, daemons && rand() % 2);
				w->kill_at = killing && rand() % 3 == 0 ? now() + rand() % 5000 : 0;
				w->together = rand() % 2;
				w->killed = 0;
				started++;
				running++;
				last = now();
			} else if (w->pid != 0 && w->kill_at != 0 && now() >= w->kill_at) {
				kill(w->together ? -w->pid : w->pid, SIGKILL);
				w->kill_at = 0;
				w->killed = 1;
				kills++;
			}
		}
		t = now();
		waiting = started - __atomic_load_n(&counts->runs, __ATOMIC_RELAXED) - kills;
		count = held(file, n);
		if (count > most)
			most = count;
		if (waiting > 20 && started == total) {
			looks++;
			lows += count < n;
		}
		if (count == n || waiting <= 20 || started < total)
			low_since = 0;
		else if (low_since == 0)
			low_since = t;
		else if (t - low_since > low)
			low = t - low_since;
		if (started == total && t > last + 40000000) {
			stuck = running;
			break;
		}
		sleep_us(200);
	}
	printf(
	    "runs=%d kills=%d excess=%d most=%d low_ms=%d low_share=%d ms=%d others=%d stuck=%d\n",
	    counts->runs, kills, counts->excess, most, (int)(low / 1000),
	    looks ? lows * 1000 / looks : 0, (int)((now() - begin) / 1000), others, stuck);
	return 0;
}

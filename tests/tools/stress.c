/*
 * stress [-k] FILE LIMIT WORKERS <KINDS: does any command run beside one that it must not?
 *
 * KINDS are lines "KEYLOCK... stress -p FILE HOLD MODE BYTE...". LIMIT times ("300"), or for so
 *long ("2s"), one of them is drawn and run, up to WORKERS side by side. The command asks for locks
 *of its own on FILE: exclusive ones of all these bytes with MODE x, shared ones with s, one of them
 *with n; refused means an overlap. It holds them for HOLD microseconds on the average. With a d
 *behind MODE it leaves a daemon behind, for 20 ms. With -k how many run side by side changes all
 *the time: with many the queue is long, with two or three the lockfile comes and goes; and half of
 *the time a third of the keylocks is killed by SIGKILL after up to 4 ms, half of them together with
 *their command, so that every step is hit. Prints
 *
 *	runs, kills, overlaps	what it says
 *	gave_up			how many with -n or -w ended with 75
 *	others			how many ended with anything else but 0 and were not killed
 *	together		how many with MODE s found another one beside them
 *	most			how many bytes were seen locked at once
 *	low_ms			the longest time, in ms, that not all bytes were seen locked while
 *all had been started and more than 20 had not begun
 *	stuck			what had not ended 40 s after the last was started
 */
#include <limits.h>

#include "probe.h"

enum { MOST_KINDS = 300, MOST_WORDS = 30, MOST_WORKERS = 1000, PATIENCE_US = 40000000 };

/* What the commands count, in a file that they share. */
struct counts {
	int runs, overlaps, together, sharing[8];
};

/* One of those that run side by side: all 0 where nobody is there. */
static struct worker {
	pid_t pid;
	int64_t kill_at; /* 0: not to be killed */
	bool group;      /* is killed with all of its group, which it leads */
	bool killed;
	bool may_give_up; /* end with 75 */
} workers[MOST_WORKERS];

static char *kinds[MOST_KINDS][MOST_WORDS];
static struct counts *counts;
static bool killing, kill_now;
static int count_kinds, bytes, file, width, started, active, running, kills, gave_up, others, most;
static int64_t end = INT64_MAX, phase_end, last, low_since, low;
static long limit = LONG_MAX;

/* The counts and the locks are on the same file. */
static void
open_file(const char *path)
{
	counts = share(path, 4096);
	file = open(path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		fail(path);
}

/* Returns what was there before. */
static int
count(int *counter, int more)
{
	return __atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
}

/* The command: FILE HOLD MODE BYTE... */
static int
hold(char **argv)
{
	const char *mode = argv[2];
	bool taken = false, one = mode[0] == 'n', shared = mode[0] == 's';

	open_file(argv[0]);
	count(&counts->runs, 1);
	for (char **word = argv + 3; *word && !(one && taken); word++) {
		taken = take(file, shared ? F_RDLCK : F_WRLCK, atol(*word));
		if (!taken && !one)
			count(&counts->overlaps, 1);
		if (shared && count(&counts->sharing[atol(*word)], 1) > 0)
			count(&counts->together, 1);
	}
	if (one && !taken)
		count(&counts->overlaps, 1);
	sleep_us(atol(argv[1]) * (getpid() % 4) * 2 / 3);
	for (char **word = argv + 3; *word && shared; word++)
		count(&counts->sharing[atol(*word)], -1);
	if (mode[1] == 'd' && fork() == 0) {
		sleep_us(20000);
		_exit(0);
	}
	return 0;
}

static void
read_kinds(void)
{
	static char text[100000];
	char *line, *next = text;

	text[fread(text, 1, sizeof text - 1, stdin)] = '\0';
	while (count_kinds < MOST_KINDS && *(line = strsep(&next, "\n")) != '\0') {
		char **words = kinds[count_kinds++];
		int n = 0, head = 0;

		for (char *word; (word = strsep(&line, " ")) && n < MOST_WORDS - 1; n++) {
			words[n] = word;
			if (strcmp(word, "-p") == 0)
				head = n + 4;
		}
		if (n - head > bytes)
			bytes = n - head;
	}
}

/* Starts one in the place w, if one is to be started there now. */
static void
start(struct worker *w)
{
	char **words = kinds[(size_t)rand() % (size_t)count_kinds];

	if (killing && now() >= phase_end) {
		phase_end = now() + 50000;
		active = rand() % 2 ? 3 : 1 + rand() % width;
		kill_now = rand() % 2;
	}
	if (now() >= end || started >= limit || (killing && w - workers >= active))
		return;
	for (char **word = words; *word && strcmp(*word, "-p") != 0; word++)
		w->may_give_up |= strncmp(*word, "-n", 2) == 0 || strncmp(*word, "-w", 2) == 0;
	w->pid = vfork();
	if (w->pid == 0) {
		setpgid(0, 0);
		execvp(words[0], words);
		_exit(127);
	}
	if (w->pid == -1)
		fail("vfork");
	last = now();
	started++;
	running++;
	w->kill_at = kill_now && rand() % 3 == 0 ? last + rand() % 4000 : 0;
	w->group = rand() % 2;
}

static void
ended(struct worker *w, int status)
{
	bool full = WIFEXITED(status) && WEXITSTATUS(status) == 75 && w->may_give_up;

	kills += w->killed;
	gave_up += !w->killed && full;
	others += !w->killed && !full && status != 0;
	running--;
	*w = (struct worker){0};
}

/* How many of the bytes are locked; this process has none. */
static void
look(void)
{
	int found = 0, waiting = started - count(&counts->runs, 0) - kills;

	for (int at = 0; at < bytes; at++) {
		struct flock lock = {.l_type = F_WRLCK, .l_start = at, .l_len = 1};

		found += fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	}
	most = found > most ? found : most;
	if (found == bytes || waiting <= 20 || started < limit)
		low_since = 0;
	else if (low_since == 0)
		low_since = now();
	else if (now() - low_since > low)
		low = now() - low_since;
}

/* Returns how many are stuck, the commands of killed keylocks included. */
static int
run(void)
{
	for (last = now();; sleep_us(100)) {
		int status;
		pid_t pid;

		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (struct worker *w = workers; w < workers + width; w++)
				if (w->pid == pid)
					ended(w, status);
		for (struct worker *w = workers; w < workers + width; w++) {
			if (w->pid == 0) {
				start(w);
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
		look();
	}
}

int
main(int argc, char **argv)
{
	int stuck;

	if (argc > 5 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	killing = argc > 1 && strcmp(argv[1], "-k") == 0;
	argv += killing;
	if (argc != 4 + killing || (width = atoi(argv[3])) < 1 || width > MOST_WORKERS)
		return 2;
	if (argv[2][strlen(argv[2]) - 1] == 's')
		end = now() + atol(argv[2]) * 1000000;
	else
		limit = atol(argv[2]);
	read_kinds();
	open_file(argv[1]);
	/* The commands of killed keylocks become children of this process, to be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	srand((unsigned)getpid());
	stuck = run();
	printf("runs=%d kills=%d overlaps=%d gave_up=%d others=%d together=%d most=%d low_ms=%d "
	       "stuck=%d\n",
	       counts->runs, kills, counts->overlaps, gave_up, others, counts->together, most,
	       (int)(low / 1000), stuck);
	return 0;
}

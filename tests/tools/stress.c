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

enum { MOST_KINDS = 300, MOST_WORDS = 30 };

static char *kinds[MOST_KINDS][MOST_WORDS];
static char **args;
static struct counts *counts;
static bool killing, kill_now;
static int count_kinds, bytes, file, started, active, kills, gave_up, others, most;
static int64_t end = INT64_MAX, phase_end, low_since, low;
static long limit = LONG_MAX;

/* The command: FILE HOLD MODE BYTE... */
static int
hold(char **argv)
{
	const char *mode = argv[2];
	bool taken = false, one = mode[0] == 'n', shared = mode[0] == 's';

	counts = open_counts(argv[0], &file);
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
	if (mode[1] == 'd')
		leave_daemon(20000);
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

static bool
start(struct worker *w, int index)
{
	char **words = kinds[(size_t)rand() % (size_t)count_kinds];
	int64_t t = now();

	if (killing && t >= phase_end) {
		phase_end = t + 50000;
		active = rand() % 2 ? 3 : 1 + rand() % atoi(args[3]);
		kill_now = rand() % 2;
	}
	if (t >= end || started >= limit || (killing && index >= active))
		return false;
	started++;
	for (char **word = words; *word && strcmp(*word, "-p") != 0; word++)
		w->may_give_up |= strncmp(*word, "-n", 2) == 0 || strncmp(*word, "-w", 2) == 0;
	w->pid = run_words(words, true);
	w->kill_at = kill_now && rand() % 3 == 0 ? now() + rand() % 4000 : 0;
	w->group = rand() % 2;
	return true;
}

static void
ended(struct worker *w, int status)
{
	bool full = WIFEXITED(status) && WEXITSTATUS(status) == 75 && w->may_give_up;

	kills += w->killed;
	gave_up += !w->killed && full;
	others += !w->killed && !full && status != 0;
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

int
main(int argc, char **argv)
{
	int stuck;

	if (argc > 5 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	killing = argc > 1 && strcmp(argv[1], "-k") == 0;
	if (argc != 4 + killing)
		return 2;
	args = argv + killing;
	if (args[2][strlen(args[2]) - 1] == 's')
		end = now() + atol(args[2]) * 1000000;
	else
		limit = atol(args[2]);
	read_kinds();
	counts = open_counts(args[1], &file);
	stuck = run_workers(atoi(args[3]), start, ended, look);
	printf("runs=%d kills=%d overlaps=%d gave_up=%d others=%d together=%d most=%d low_ms=%d "
	       "stuck=%d\n",
	       counts->runs, kills, counts->overlaps, gave_up, others, counts->together, most,
	       (int)(low / 1000), stuck);
	return 0;
}

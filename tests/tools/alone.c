/*
 * alone FILE SECONDS WORKERS KEYLOCK KEY: does anybody ever run beside another, whoever is killed?
 *
 * For SECONDS, up to WORKERS run "KEYLOCK [OPTION...] KEY alone -p FILE MODE" again and again, in
 * all kinds: exclusive, shared, -n, with a time-out, -F, -l, some with a daemon left behind. How
 * many run side by side changes all the time: with many the queue is long, with two or three the
 * lockfile comes and goes. Half of the time a third of the keylocks is killed by SIGKILL after up
 * to 3 ms, so that every step of theirs is hit, while their commands go on. The command asks for a
 * lock of its own on FILE: refused means an overlap. Prints
 *
 *	runs, kills, overlaps	what it says
 *	stuck			what had not ended 40 s after the last was started
 */
#include "probe.h"

static char **args;
static int64_t end, phase_end;
static int active, kills;
static bool killing;

/* The command. mode: x or s, and d for a daemon. */
static int
hold(const char *name, const char *mode)
{
	static const long times[] = {0, 0, 0, 100, 700};
	int file;
	struct counts *counts = open_counts(name, &file);

	count(&counts->runs, 1);
	if (!take(file, mode[0] == 's' ? F_RDLCK : F_WRLCK, 0))
		count(&counts->overlaps, 1);
	sleep_us(times[getpid() % 5]);
	if (mode[1] == 'd')
		leave_daemon(2000);
	return 0;
}

static bool
start(struct worker *w, int index)
{
	static char kinds[][3][8] = {
	    {"-x", "-x", "x"},  {"-x", "-x", "xd"}, {"-x", "-n", "x"},      {"-x", "-l", "x"},
	    {"-x", "-l", "xd"}, {"-x", "-F", "x"},  {"-s", "-s", "s"},      {"-s", "-s", "sd"},
	    {"-s", "-n", "s"},  {"-s", "-F", "s"},  {"-s", "-w0.003", "s"}, {"-x", "-w0.003", "x"},
	};
	char(*kind)[8] = kinds[(size_t)rand() % (sizeof kinds / sizeof *kinds)];
	char dash_p[] = "-p";
	char *words[] = {args[4], kind[0], kind[1], args[5], args[0],
	                 dash_p,  args[1], kind[2], NULL};
	int64_t t = now();

	if (t >= phase_end) {
		phase_end = t + 50000;
		active = rand() % 2 == 0 ? 3 : 1 + rand() % atoi(args[3]);
		killing = rand() % 2;
	}
	if (t >= end || index >= active)
		return false;
	w->pid = run_words(words, false);
	w->kill_at = killing && rand() % 3 == 0 ? now() + rand() % 3000 : 0;
	return true;
}

static void
ended(struct worker *w, int status)
{
	(void)status;
	kills += w->killed;
}

int
main(int argc, char **argv)
{
	struct counts *counts;
	int file, stuck;

	if (argc == 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv[2], argv[3]);
	if (argc != 6)
		return 2;
	args = argv;
	counts = open_counts(argv[1], &file);
	end = now() + atol(argv[2]) * 1000000;
	stuck = run_workers(atoi(argv[3]), start, ended, NULL);
	printf("runs=%d kills=%d overlaps=%d stuck=%d\n", counts->runs, kills, counts->overlaps,
	       stuck);
	return 0;
}

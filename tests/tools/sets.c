/*
 * sets FILE COUNT WORKERS KEYLOCK: do runs that have a key in common ever run side by side?
 *
 * COUNT times, WORKERS side by side, runs "KEYLOCK [OPTION...] -k KEY... KEY sets -p FILE MODE
 * NUMBER..." with one to four of six keys, in any order, exclusive or shared, some with a time-out,
 * some with -n. The command asks for a lock of its own on the byte of each key in FILE, which dies
 * with it (POSIX's, that children do not get): refused means an overlap. Prints
 *
 *	runs		how many commands ran
 *	gave_up		how many keylocks with a time-out or -n ended with 75
 *	others		how many ended with anything else
 *	together	how often a command found another sharing one of its keys
 *	overlaps	what it says
 *	stuck		what had not ended 40 s after the last was started
 */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

enum { KEYS = 6, MOST_KEYS = 4, MOST_WORKERS = 64 };

struct counts {
	int runs;
	int together;
	int overlaps;
	int sharing[KEYS];
};

struct worker {
	pid_t pid;
	int may_give_up;
};

/* The command: name, mode, and the keys' numbers. */
static int
hold(char **argv)
{
	int file, shared = argv[1][0] == 's';
	struct counts *counts = open_counts(argv[0], &file);

	count_one(&counts->runs);
	for (char **word = argv + 2; *word; word++) {
		if (!take(file, shared ? F_RDLCK : F_WRLCK, atol(*word)))
			count_one(&counts->overlaps);
		if (shared &&
		    __atomic_fetch_add(&counts->sharing[atol(*word)], 1, __ATOMIC_RELAXED) > 0)
			count_one(&counts->together);
	}
	sleep_us(getpid() % 4 * 1000);
	for (char **word = argv + 2; *word && shared; word++)
		__atomic_fetch_sub(&counts->sharing[atol(*word)], 1, __ATOMIC_RELAXED);
	return 0;
}

static struct worker
start(char *self, char *file, char *keylock)
{
	static char names[KEYS][2] = {"a", "b", "c", "d", "e", "f"};
	static char numbers[KEYS][2] = {"0", "1", "2", "3", "4", "5"};
	static char dash_k[] = "-k", dash_p[] = "-p", shared[] = "s", exclusive[] = "x";
	static char dash_s[] = "-s", dash_n[] = "-n", patience[] = "-w0.02";
	int order[KEYS] = {0}, count = 1 + rand() % MOST_KEYS, n = 0;
	int sharing = rand() % 3 == 0, kind = rand() % 6;
	struct worker worker = {.may_give_up = kind < 2};
	char *argv[40];

	for (int i = 0; i < KEYS; i++) {
		int j = rand() % (i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	argv[n++] = keylock;
	if (sharing)
		argv[n++] = dash_s;
	if (kind < 2)
		argv[n++] = kind ? dash_n : patience;
	for (int i = 1; i < count; i++) {
		argv[n++] = dash_k;
		argv[n++] = names[order[i]];
	}
	argv[n++] = names[order[0]];
	argv[n++] = self;
	argv[n++] = dash_p;
	argv[n++] = file;
	argv[n++] = sharing ? shared : exclusive;
	for (int i = 0; i < count; i++)
		argv[n++] = numbers[order[i]];
	argv[n] = NULL;
	worker.pid = vfork();
	if (worker.pid == 0) {
		execv(keylock, argv);
		_exit(127);
	}
	if (worker.pid == -1)
		exit(2);
	return worker;
}

int
main(int argc, char **argv)
{
	struct worker workers[MOST_WORKERS] = {{0, 0}};
	struct counts *counts;
	int file, total, width, started = 0, running = 0, gave_up = 0, others = 0, stuck = 0;
	time_t end = 0;

	if (argc > 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	if (argc != 5)
		return 2;
	total = atoi(argv[2]);
	width = atoi(argv[3]);
	if (width < 1 || width > MOST_WORKERS)
		return 2;
	counts = open_counts(argv[1], &file);
	srand((unsigned)getpid());
	while (started < total || running > 0) {
		int status;
		pid_t pid;

		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < width; i++) {
				if (workers[i].pid != pid)
					continue;
				workers[i].pid = 0;
				running--;
				if (WIFEXITED(status) && WEXITSTATUS(status) == 75 &&
				    workers[i].may_give_up)
					gave_up++;
				else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
					others++;
			}
		for (int i = 0; i < width && started < total; i++)
			if (workers[i].pid == 0) {
				workers[i] = start(argv[0], argv[1], argv[4]);
				started++;
				running++;
			}
		if (started < total)
			end = time(NULL) + 40;
		else if (time(NULL) > end) {
			stuck = running;
			break;
		}
		sleep_us(200);
	}
	printf("runs=%d gave_up=%d others=%d together=%d overlaps=%d stuck=%d\n", counts->runs,
	       gave_up, others, counts->together, counts->overlaps, stuck);
	return 0;
}

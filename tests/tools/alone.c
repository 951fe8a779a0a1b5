/*
 * alone FILE SECONDS WORKERS KEYLOCK KEY: does anybody ever run beside another, whoever is killed?
 *
 * For SECONDS, up to WORKERS run "KEYLOCK [OPTION...] KEY alone -p FILE MODE" again and again, in
 * all kinds: exclusive, shared, -n, with a time-out, -F, -l, some with a daemon left behind. How
 * many run side by side changes all the time: with many the queue is long, with two or three the
 * lockfile comes and goes. Half of the time a third of the keylocks is killed by SIGKILL after up
 * to 3 ms, so that every step of theirs is hit, while their commands go on. The command asks for a
 * lock of its own on FILE, which dies with it (POSIX's, that children do not get): refused means
 * an overlap. Prints
 *
 *	runs, kills, overlaps	what it says
 *	stuck			what had not ended 20 s after the last was started
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

#define MOST 64

struct counts {
	int runs;
	int overlaps;
};

struct worker {
	pid_t pid;
	int64_t kill_at; /* 0: not to be killed */
};

/* The command. mode: x or s, and d for a daemon. */
static int
hold(const char *name, const char *mode)
{
	static const long times[] = {0, 0, 0, 100, 700};
	int file;
	struct counts *counts = open_counts(name, &file);

	count_one(&counts->runs);
	if (!take(file, mode[0] == 's' ? F_RDLCK : F_WRLCK, 0))
		count_one(&counts->overlaps);
	sleep_us(times[getpid() % 5]);
	if (mode[1] == 'd' && fork() == 0) {
		sleep_us(2000);
		_exit(0);
	}
	return 0;
}

static pid_t
start(char *self, char *file, char *keylock, char *key)
{
	static const char *const kinds[][3] = {
	    {"-x", "-x", "x"},  {"-x", "-x", "xd"}, {"-x", "-n", "x"},      {"-x", "-l", "x"},
	    {"-x", "-l", "xd"}, {"-x", "-F", "x"},  {"-s", "-s", "s"},      {"-s", "-s", "sd"},
	    {"-s", "-n", "s"},  {"-s", "-F", "s"},  {"-s", "-w0.003", "s"}, {"-x", "-w0.003", "x"},
	};
	const char *const *kind = kinds[rand() % (int)(sizeof kinds / sizeof *kinds)];
	char words[3][16];
	char *argv[] = {keylock, words[0], words[1], key, self, "-p", file, words[2], NULL};
	pid_t pid;

	for (int i = 0; i < 3; i++)
		snprintf(words[i], sizeof words[i], "%s", kind[i]);
	pid = vfork();
	if (pid == 0) {
		execv(keylock, argv);
		_exit(127);
	}
	if (pid == -1)
		exit(2);
	return pid;
}

int
main(int argc, char **argv)
{
	struct worker workers[MOST] = {{0, 0}};
	struct counts *counts;
	int64_t end, phase_end = 0;
	int file, count, active = 0, killing = 0, kills = 0, stuck = 0;

	if (argc == 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv[2], argv[3]);
	if (argc != 6 || (count = atoi(argv[3])) < 1 || count > MOST)
		return 2;
	/* The commands of killed keylocks become children of this process, to be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	counts = open_counts(argv[1], &file);
	srand((unsigned)getpid());
	end = now() + atol(argv[2]) * 1000000;
	for (;;) {
		int64_t t = now();
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			for (int i = 0; i < count; i++)
				if (workers[i].pid == pid)
					workers[i].pid = 0;
		if (pid == -1 && errno == ECHILD && t >= end)
			break;
		if (t >= end + 20000000) {
			for (int i = 0; i < count; i++)
				stuck += workers[i].pid != 0;
			stuck += stuck == 0;
			break;
		}
		if (t >= phase_end) {
			phase_end = t + 50000;
			active = rand() % 2 == 0 ? 3 : 1 + rand() % count;
			killing = rand() % 2;
		}
		for (int i = 0; i < count; i++) {
			struct worker *w = &workers[i];

			if (w->pid == 0 && t < end && i < active) {
				w->pid = start(argv[0], argv[1], argv[4], argv[5]);
				w->kill_at = killing && rand() % 3 == 0 ? now() + rand() % 3000 : 0;
			} else if (w->pid != 0 && w->kill_at != 0 && t >= w->kill_at) {
				kill(w->pid, SIGKILL);
				w->kill_at = 0;
				kills++;
			}
		}
		sleep_us(100);
	}
	printf("runs=%d kills=%d overlaps=%d stuck=%d\n", counts->runs, kills, counts->overlaps,
	       stuck);
	return 0;
}

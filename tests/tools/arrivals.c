/*
 * arrivals FILE COUNT GAP HOLD COMMAND...: is anybody served before somebody who came earlier?
 *
 * Starts COUNT contenders, GAP microseconds apart, each "COMMAND... arrivals -p FILE INDEX HOLD":
 * COMMAND is a lock command that has been given its lock. The contender's command notes in FILE
 * when it began and sleeps HOLD microseconds. Prints
 *
 *	served	how many commands ran
 *	waited	how many contenders were seen to wait
 *	barged	how many were served before one that was seen to wait before they were started
 *	late	how many were served before one that was started more than 3 ms before them
 *
 * When a contender has drawn its place in the line cannot be seen from outside; that it waits
 * can. So "barged" is right on a machine of any load, while "late" may also count a contender
 * that was slow to come to the lock. A contender waits when it holds a ticket (a write lock of its
 * open file description at byte 1000 or above), or is blocked in flock(2).
 */
#include <glob.h>

#include "probe.h"

#define LATE 3000
#define NEVER INT64_MAX

struct contender {
	pid_t pid;
	int64_t started;
	int64_t seen; /* was waiting at that time; NEVER when it was not seen to wait */
	bool seen_once;
};

/* Whether a line of the files is about a lock that this process waits for, or a ticket of it. */
static bool
waits_there(const char *pattern, pid_t pid)
{
	char line[300];
	bool found = false;
	glob_t files;

	if (glob(pattern, GLOB_NOSORT, NULL, &files) != 0)
		return false;
	for (size_t i = 0; i < files.gl_pathc && !found; i++) {
		FILE *file = fopen(files.gl_pathv[i], "re");
		long at;
		int who;

		while (file && !found && fgets(line, sizeof line, file))
			found =
			    (sscanf(line, "%*d: -> FLOCK %*s %*s %d", &who) == 1 && who == pid) ||
			    (sscanf(line, "lock: %*d: OFDLCK %*s WRITE %*d %*s %ld", &at) == 1 &&
			     at >= 1000);
		if (file)
			fclose(file);
	}
	globfree(&files);
	return found;
}

static bool
waits(pid_t pid)
{
	char pattern[40];

	snprintf(pattern, sizeof pattern, "/proc/%d/fdinfo/*", (int)pid);
	return waits_there(pattern, pid) || waits_there("/proc/locks", pid);
}

/* The command: notes its beginning in the place of its index. */
static int
hold(char **argv)
{
	int64_t at = now();
	int fd = open(argv[0], O_WRONLY | O_CLOEXEC);

	if (fd == -1 || pwrite(fd, &at, sizeof at, atol(argv[1]) * (off_t)sizeof at) != sizeof at)
		return 2;
	sleep_us(atol(argv[2]));
	return 0;
}

static pid_t
start(char **argv, int words, int index)
{
	char number[20], dash_p[] = "-p";
	char *tail[] = {argv[0], dash_p, argv[1], number, argv[4], NULL};
	char *command[40];

	snprintf(number, sizeof number, "%d", index);
	if (words > 30)
		exit(2);
	memcpy(command, argv + 5, (size_t)words * sizeof *command);
	memcpy(command + words, tail, sizeof tail);
	return run_words(command, false);
}

static void
judge(const struct contender *all, const int64_t *served, int total)
{
	int n = 0, waited = 0, barged = 0, late = 0;

	for (int i = 0; i < total; i++) {
		bool has_barged = false, is_late = false;

		waited += all[i].seen != NEVER;
		n += served[i] != 0;
		for (int j = 0; j < total && served[i] != 0; j++) {
			has_barged |= served[j] > served[i] && all[j].seen < all[i].started;
			is_late |= served[j] > served[i] && all[j].started < all[i].started - LATE;
		}
		barged += has_barged;
		late += is_late;
	}
	printf("served=%d waited=%d barged=%d late=%d\n", n, waited, barged, late);
}

/* Looks once which of the contenders from first to last wait; whether some were not seen to. */
static bool
look(struct contender *all, const int64_t *served, int first, int last)
{
	bool unseen = false;

	for (int i = first; i <= last; i++) {
		if (all[i].seen != NEVER || served[i] != 0)
			continue;
		/* At the second look, since who is about to be served draws a ticket, too. */
		if (waits(all[i].pid)) {
			if (all[i].seen_once)
				all[i].seen = now();
			all[i].seen_once = true;
		}
		unseen |= all[i].seen == NEVER;
	}
	return unseen;
}

int
main(int argc, char **argv)
{
	struct contender *all;
	int64_t *served, begin, gap;
	size_t size;
	int total, file, first = 0;

	if (argc == 5 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	if (argc < 6)
		return 2;
	/* Waking on time is what this is about. */
	prctl(PR_SET_TIMERSLACK, 1L);
	total = atoi(argv[2]);
	gap = atol(argv[3]);
	size = (size_t)total * sizeof *served;
	all = calloc((size_t)total, sizeof *all);
	file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (all == NULL || file == -1 || ftruncate(file, (off_t)size) == -1)
		return 2;
	served = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
	if (served == MAP_FAILED)
		return 2;

	begin = now();
	for (int i = 0; i < total; i++) {
		int64_t next = begin + (i + 1) * gap;

		all[i].seen = NEVER;
		all[i].started = now();
		all[i].pid = start(argv, argc - 5, i);
		do {
			int64_t left;

			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
			while (first < i && (all[first].seen != NEVER || served[first] != 0))
				first++;
			left = look(all, served, first, i) ? 200 : next - now();
			sleep_us(left > 0 ? left : 0);
		} while (now() < next);
	}
	while (wait(NULL) > 0)
		;
	judge(all, served, total);
	return 0;
}

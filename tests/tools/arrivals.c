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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LATE 3000000
#define NEVER INT64_MAX

struct contender {
	pid_t pid;
	int64_t started;
	int64_t seen; /* was waiting at that time; NEVER when it was not seen to wait */
	int seen_once;
};

static int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void
sleep_ns(int64_t ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};

	if (ns > 0)
		nanosleep(&t, NULL);
}

/* Reads a file of /proc into text; false when it cannot be read. */
static int
slurp(const char *name, char *text, size_t size)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n;

	if (fd == -1)
		return 0;
	while (used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)n;
	close(fd);
	text[used] = '\0';
	return 1;
}

static int
has_ticket(pid_t pid)
{
	char name[300], text[4096];
	struct dirent *entry;
	DIR *dir;
	int found = 0;

	snprintf(name, sizeof name, "/proc/%d/fdinfo", (int)pid);
	if ((dir = opendir(name)) == NULL)
		return 0;
	while (!found && (entry = readdir(dir)) != NULL) {
		snprintf(name, sizeof name, "/proc/%d/fdinfo/%.20s", (int)pid, entry->d_name);
		if (entry->d_name[0] == '.' || !slurp(name, text, sizeof text))
			continue;
		for (char *line = strstr(text, "lock:"); line; line = strstr(line + 1, "lock:")) {
			long at;

			if (sscanf(line, "lock: %*d: OFDLCK %*s WRITE %*d %*s %ld", &at) == 1 &&
			    at >= 1000)
				found = 1;
		}
	}
	closedir(dir);
	return found;
}

static char locks[1 << 20];

static int
blocked(pid_t pid)
{
	char pattern[40];

	snprintf(pattern, sizeof pattern, "-> FLOCK  ADVISORY  WRITE %d ", (int)pid);
	return strstr(locks, pattern) != NULL;
}

/* The command: notes its beginning in the place of its index. */
static int
hold(char **argv)
{
	int64_t at = now();
	int fd = open(argv[0], O_WRONLY | O_CLOEXEC);

	if (fd == -1 || pwrite(fd, &at, sizeof at, atol(argv[1]) * (off_t)sizeof at) != sizeof at)
		return 2;
	sleep_ns(atol(argv[2]) * 1000);
	return 0;
}

static pid_t
start(char **command, int words, char *self, char *file, int index, char *hold_for)
{
	char number[20];
	char *argv[40];
	int n = 0;
	pid_t pid;

	snprintf(number, sizeof number, "%d", index);
	for (int i = 0; i < words && n < 30; i++)
		argv[n++] = command[i];
	argv[n++] = self;
	argv[n++] = "-p";
	argv[n++] = file;
	argv[n++] = number;
	argv[n++] = hold_for;
	argv[n] = NULL;
	pid = vfork();
	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid == -1) {
		perror("arrivals: vfork");
		exit(2);
	}
	return pid;
}

static const int64_t *sort_by;

static int
by_service(const void *a, const void *b)
{
	int64_t x = sort_by[*(const int *)a], y = sort_by[*(const int *)b];

	return x < y ? -1 : x > y;
}

static void
judge(const struct contender *all, const int64_t *served, int count)
{
	int *order = malloc((size_t)count * sizeof *order);
	int n = 0, waited = 0, barged = 0, late = 0;
	int64_t seen = NEVER, started = NEVER;

	if (order == NULL)
		exit(2);
	for (int i = 0; i < count; i++) {
		waited += all[i].seen != NEVER;
		if (served[i] != 0)
			order[n++] = i;
	}
	sort_by = served;
	qsort(order, (size_t)n, sizeof *order, by_service);
	/* From the last served to the first, with the earliest of those served later at hand. */
	for (int i = n - 1; i >= 0; i--) {
		const struct contender *c = &all[order[i]];

		barged += c->started > seen;
		late += c->started - LATE > started;
		if (c->seen < seen)
			seen = c->seen;
		if (c->started < started)
			started = c->started;
	}
	printf("served=%d waited=%d barged=%d late=%d\n", n, waited, barged, late);
	free(order);
}

/* Looks once which of the contenders from first to last wait. */
static void
look(struct contender *all, const int64_t *served, int first, int last, int *unseen)
{
	int any = 0;

	*unseen = 0;
	for (int i = first; i < last; i++)
		any |= all[i].seen == NEVER && served[i] == 0;
	if (!any)
		return;
	slurp("/proc/locks", locks, sizeof locks);
	for (int i = first; i < last; i++) {
		if (all[i].seen != NEVER || served[i] != 0)
			continue;
		if (blocked(all[i].pid) || has_ticket(all[i].pid)) {
			/* At the second look, since who is about to be served draws a ticket, too.
			 */
			if (all[i].seen_once++)
				all[i].seen = now();
		}
		*unseen += all[i].seen == NEVER;
	}
}

int
main(int argc, char **argv)
{
	struct contender *all;
	int64_t *served, begin, gap;
	size_t size;
	int count, file, first = 0, unseen;

	if (argc == 5 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	if (argc < 6)
		return 2;
	/* Waking on time is what this is about. */
	prctl(PR_SET_TIMERSLACK, 1L);
	count = atoi(argv[2]);
	gap = atol(argv[3]) * 1000;
	size = (size_t)count * sizeof *served;
	all = calloc((size_t)count, sizeof *all);
	file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (all == NULL || file == -1 || ftruncate(file, (off_t)size) == -1)
		return 2;
	served = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
	if (served == MAP_FAILED)
		return 2;

	begin = now();
	for (int i = 0; i < count; i++) {
		all[i].seen = NEVER;
		all[i].started = now();
		all[i].pid = start(argv + 5, argc - 5, argv[0], argv[1], i, argv[4]);
		do {
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
			while (first < i && (all[first].seen != NEVER || served[first] != 0))
				first++;
			look(all, served, first, i + 1, &unseen);
			sleep_ns(unseen ? 200000 : begin + (i + 1) * gap - now());
		} while (now() < begin + (i + 1) * gap);
	}
	while (wait(NULL) > 0 || errno == EINTR)
		;
	judge(all, served, count);
	return 0;
}

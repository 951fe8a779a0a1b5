/*
 * Torture: contenders of all kinds on few keys, killed, stopped and continued at
 * random, with daemons left behind and a cleaner at work. Whether two overlap is
 * found out by what is not keylock's: a process-associated fcntl lock that every
 * job takes on a file of its key, and a word in shared memory.
 *
 *	torture KEYLOCK RUNS [PARALLEL [SEED]]
 *
 * KEYLOCK_DIR is the directory of the lockfiles, which is empty at the start and
 * must be at the end; TMPDIR is where the judges' files go. Prints one line of
 * figures; exits 0 when there was no overlap, no key stuck, no file left and no
 * status that could not be, else 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEYS = 4, SLOTS = 3, PARALLEL_MAX = 256, STUCK_SECONDS = 60 };

/* What the jobs tell the driver, in memory that all of them share. */
struct judge {
	int overlaps;              /* found by fcntl locks */
	int collisions;            /* found by the words below */
	int entered;               /* jobs that ran */
	uint64_t owner[KEYS];      /* the exclusive job in it, as identity() has it; 0: none */
	int running[PARALLEL_MAX]; /* pid of a contender's job, to be killed */
};

static struct judge *judge;
static char folder[512]; /* of the judges' files */

static uint64_t random_state;

static unsigned
pick(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % below;
}

static void
pause_microseconds(long microseconds)
{
	struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};

	nanosleep(&time, NULL);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
fail(const char *what)
{
	fprintf(stderr, "torture: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void
judge_open(bool create)
{
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/judge", folder);
	fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
	if (fd < 0 || (create && ftruncate(fd, sizeof(*judge)) < 0))
		fail(path);
	judge = mmap(NULL, sizeof(*judge), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (judge == MAP_FAILED)
		fail("mmap");
	close(fd);
}

/* The judge's file of a key; closed only by the end of the process. */
static int
witness_open(const char *key)
{
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/witness.%s", folder, key);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		fail(path);
	return fd;
}

static bool
witness_lock(int fd, short type, off_t byte, bool wait)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	while (fcntl(fd, wait ? F_SETLKW : F_SETLK, &lock) < 0)
		if (errno != EINTR)
			return false;
	return true;
}

/*
 * What no two processes have: the pid, and above it the time when the process was
 * started (proc(5)). 0 for one that is no more, or only waits to be reaped.
 */
static uint64_t
identity(pid_t pid)
{
	char path[64], state = 'X';
	uint64_t started = 0;
	unsigned long flags = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file,
	           "%*d (%*[^)]) %c %*d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d "
	           "%*d %*d %*d %" SCNu64,
	           &state, &flags, &started) != 3)
		state = 'X';
	fclose(file);
	/* PF_EXITING (linux/sched.h): its locks are gone before it is. */
	return state == 'Z' || state == 'X' || flags & 4 ? 0 : started << 32 | (uint32_t)pid;
}

/* Say that `key` is ours; false where another has it. */
static bool
enter(const char *key, bool shared, bool slots)
{
	int fd = witness_open(key);

	if (!slots)
		return witness_lock(fd, shared ? F_RDLCK : F_WRLCK, 0, false);
	for (off_t byte = 0; byte < SLOTS; byte++)
		if (witness_lock(fd, F_WRLCK, byte, false))
			return true;
	return false;
}

/*
 * The command of a contender: job FOLDER PLACE KIND MICROSECONDS KEY... KIND has
 * the letters s (shared), j (slots), d (leaves a daemon that has nothing to do),
 * l (leaves one that goes on under the lock).
 */
static int
job(char **argv)
{
	int place = atoi(argv[1]);
	const char *kind = argv[2];
	long microseconds = atol(argv[3]);
	bool shared = strchr(kind, 's') != NULL, slots = strchr(kind, 'j') != NULL;
	char **keys = argv + 4;

	snprintf(folder, sizeof(folder), "%s", argv[0]);
	judge_open(false);
	if (place >= 0)
		__atomic_store_n(&judge->running[place], getpid(), __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&judge->entered, 1, __ATOMIC_SEQ_CST);
	for (char **key = keys; *key; key++) {
		uint64_t *owner = &judge->owner[(*key)[1] - '0'];

		if (!enter(*key, shared, slots))
			__atomic_add_fetch(&judge->overlaps, 1, __ATOMIC_SEQ_CST);
		if (shared || slots)
			continue;
		uint64_t before = __atomic_exchange_n(owner, identity(getpid()), __ATOMIC_SEQ_CST);

		/* One that was killed could not say that it left; its pid may be another's. */
		if (before && identity((pid_t)(before & 0xffffffff)) == before)
			__atomic_add_fetch(&judge->collisions, 1, __ATOMIC_SEQ_CST);
	}
	if (strpbrk(kind, "dl")) {
		pid_t daemon = fork();

		if (daemon == 0) {
			setsid();
			if (strchr(kind, 'l')) {
				/* Ours to use until we end: after the job's end. */
				for (char **key = keys; *key; key++)
					witness_lock(witness_open(*key), shared ? F_RDLCK : F_WRLCK,
					             0, true);
			}
			pause_microseconds(microseconds * 2);
			_exit(0);
		}
	}
	if (microseconds)
		pause_microseconds(microseconds);
	for (char **key = keys; *key; key++)
		if (!shared && !slots) {
			uint64_t me = identity(getpid());

			__atomic_compare_exchange_n(&judge->owner[(*key)[1] - '0'], &me, 0, false,
			                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}
	return 0;
}

struct contender {
	pid_t pid; /* 0: free */
	double started;
	bool stopped;
	bool killed;
	int input; /* of --hold, or -1 */
	bool may_be_taken, may_be_in_doubt;
};

static struct contender contenders[PARALLEL_MAX];
static const char *keylock, *self;
static struct {
	long kills, stops, taken, doubtful, odd, stuck, cleaned;
} counts;

/* Start a contender of a random kind in `place`. */
static void
start(int place)
{
	struct contender *contender = &contenders[place];
	char *argv[32], key[KEYS][8], where[16], microseconds[16], kind[8] = "";
	int argc = 0, keys = 0, input[2] = {-1, -1};
	unsigned what = pick(16);
	/* Keys k0 and k1 are exclusive or shared, k2 keeps records, k3 is for slots. */
	unsigned main_key = pick(2);

	*contender = (struct contender){.started = now(), .input = -1};
	argv[argc++] = (char *)(uintptr_t)keylock;
	snprintf(key[keys++], sizeof(key[0]), "k%u", main_key);
	switch (what) {
	case 0:
	case 1:
		argv[argc++] = "-n";
		contender->may_be_taken = true;
		break;
	case 2:
		argv[argc++] = "-w";
		argv[argc++] = pick(2) ? "0.003" : "0.03";
		contender->may_be_taken = true;
		break;
	case 3:
	case 4:
		argv[argc++] = "-s";
		strcat(kind, "s");
		break;
	case 5:
		argv[argc++] = "-F";
		break;
	case 6:
	case 7:
		argv[argc++] = "-j";
		argv[argc++] = "3";
		snprintf(key[0], sizeof(key[0]), "k3");
		strcat(kind, "j");
		break;
	case 8:
		argv[argc++] = "-k";
		snprintf(key[keys], sizeof(key[0]), "k%u", 1 - main_key);
		argv[argc++] = key[keys++];
		break;
	case 9:
		argv[argc++] = "-l";
		strcat(kind, "l");
		break;
	case 10:
	case 11:
		argv[argc++] = pick(3) ? "-qR" : "-qA";
		contender->may_be_in_doubt = argv[argc - 1][2] == 'A';
		snprintf(key[0], sizeof(key[0]), "k2");
		break;
	case 12:
		argv[argc++] = "--hold";
		break;
	case 13:
		argv[argc++] = "-n";
		argv[argc++] = "-s";
		contender->may_be_taken = true;
		strcat(kind, "s");
		break;
	default:
		break;
	}
	if (pick(8) == 0 && !strchr(kind, 'l') && what != 5)
		strcat(kind, "d");
	argv[argc++] = key[0];
	if (what == 12) {
		if (pipe2(input, O_CLOEXEC) < 0)
			fail("pipe");
	} else {
		snprintf(where, sizeof(where), "%d", place);
		snprintf(microseconds, sizeof(microseconds), "%u",
		         pick(4) ? pick(300) : pick(3000));
		argv[argc++] = (char *)(uintptr_t)self;
		argv[argc++] = "job";
		argv[argc++] = folder;
		argv[argc++] = where;
		argv[argc++] = *kind ? kind : "-";
		argv[argc++] = microseconds;
		for (int i = 0; i < keys; i++)
			argv[argc++] = key[i];
	}
	argv[argc] = NULL;
	judge->running[place] = 0;
	contender->pid = fork();
	if (contender->pid < 0)
		fail("fork");
	if (contender->pid == 0) {
		setpgid(0, 0);
		if (input[0] >= 0) {
			dup2(input[0], 0);
			int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

			dup2(null, 1);
		}
		execv(keylock, argv);
		_exit(127);
	}
	setpgid(contender->pid, contender->pid);
	if (input[0] >= 0) {
		close(input[0]);
		contender->input = input[1];
	}
}

/* Do something to a random contender. */
static void
disturb(int parallel)
{
	struct contender *contender = &contenders[pick((unsigned)parallel)];
	int place = (int)(contender - contenders);

	if (!contender->pid)
		return;
	if (contender->input >= 0 && pick(2)) {
		close(contender->input);
		contender->input = -1;
		return;
	}
	switch (pick(8)) {
	case 0:
	case 1: /* the wrapper, or a waiter */
		kill(contender->pid, SIGKILL);
		break;
	case 2: /* all of them */
		kill(-contender->pid, SIGKILL);
		break;
	case 3: { /* the command */
		int pid = __atomic_load_n(&judge->running[place], __ATOMIC_SEQ_CST);

		if (!pid || getpgid(pid) != contender->pid)
			return;
		kill(pid, SIGKILL);
		break;
	}
	case 4:
		kill(contender->pid, SIGTERM);
		break;
	default:
		if (contender->stopped)
			kill(-contender->pid, SIGCONT);
		else
			kill(pick(2) ? contender->pid : -contender->pid,
			     pick(2) ? SIGSTOP : SIGTSTP);
		contender->stopped = !contender->stopped;
		counts.stops++;
		return;
	}
	kill(-contender->pid, SIGCONT);
	contender->stopped = false;
	contender->killed = true;
	counts.kills++;
}

/* What systemd-tmpfiles does of old files: sticky ones are passed over. */
static void
clean(const char *directory)
{
	if (rmdir(directory) == 0)
		counts.cleaned++;
}

/* Take down how a contender ended. */
static void
ended(struct contender *contender, int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

	if (contender->input >= 0)
		close(contender->input);
	contender->input = -1;
	/* What it leaves behind must not stay stopped. */
	kill(-contender->pid, SIGCONT);
	contender->pid = 0;
	if (code == 0)
		return;
	if (code == 75 && contender->may_be_taken) {
		counts.taken++;
	} else if (code == 76 && contender->may_be_in_doubt) {
		counts.doubtful++;
	} else if (!(WIFSIGNALED(status) && contender->killed)) {
		counts.odd++;
		fprintf(stderr, "torture: odd end: %s %d\n", code < 0 ? "signal" : "status",
		        code < 0 ? WTERMSIG(status) : code);
	}
}

/* Run keylock with these arguments and wait for its end. */
static int
run(const char *one, const char *two, const char *three, const char *four)
{
	const char *argv[] = {keylock, one, two, three, four, NULL};
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		execv(keylock, (char **)(uintptr_t)argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return status;
}

static int
files_in(const char *path)
{
	DIR *directory = opendir(path);
	int count = 0;

	if (!directory)
		return 0;
	for (struct dirent *entry; (entry = readdir(directory));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			count++;
	closedir(directory);
	return count;
}

int
main(int argc, char **argv)
{
	if (argc > 6 && strcmp(argv[1], "job") == 0)
		return job(argv + 2);
	if (argc < 3) {
		fprintf(stderr, "usage: torture KEYLOCK RUNS [PARALLEL [SEED]]\n");
		return 2;
	}

	const char *directory = getenv("KEYLOCK_DIR");
	const char *temporary = getenv("TMPDIR");
	long runs = atol(argv[2]), started = 0, lull = 500;
	int parallel = argc > 3 ? atoi(argv[3]) : 24, alive = 0;
	double begin = now();
	char template[512];

	if (!directory || parallel < 1 || parallel > PARALLEL_MAX) {
		fprintf(stderr, "torture: KEYLOCK_DIR is not set, or PARALLEL is not 1 to %d\n",
		        PARALLEL_MAX);
		return 2;
	}
	keylock = argv[1];
	self = argv[0];
	random_state = argc > 4 ? strtoull(argv[4], NULL, 10) : (uint64_t)time(NULL);
	random_state = random_state * 2654435761u + 88172645463325252u;
	snprintf(template, sizeof(template), "%s/torture.XXXXXX", temporary ? temporary : "/tmp");
	if (!mkdtemp(template))
		fail(template);
	snprintf(folder, sizeof(folder), "%s", template);
	judge_open(true);

	while (started < runs || alive) {
		int status;
		pid_t pid;

		/* Now and then all come to an end, for the cleaner. */
		if (started >= lull)
			lull = alive ? lull : started + 500;
		for (int place = 0; place < parallel && started < runs && started < lull; place++)
			if (!contenders[place].pid) {
				start(place);
				started++;
				alive++;
				if (pick(5) < 2)
					disturb(parallel);
			}
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (int place = 0; place < parallel; place++)
				if (contenders[place].pid == pid) {
					ended(&contenders[place], status);
					alive--;
				}
		if (alive == 0)
			clean(directory);
		for (int place = 0; place < parallel; place++) {
			struct contender *contender = &contenders[place];
			double age = now() - contender->started;

			if (!contender->pid)
				continue;
			/* Nobody stays stopped for long, nor holds for ever. */
			if (contender->stopped && pick(400) == 0) {
				kill(-contender->pid, SIGCONT);
				contender->stopped = false;
			}
			if (contender->input >= 0 && pick(400) == 0) {
				close(contender->input);
				contender->input = -1;
			}
			if (age > STUCK_SECONDS && !contender->killed) {
				counts.stuck++;
				fprintf(stderr, "torture: stuck: pid %d\n", (int)contender->pid);
				contender->killed = true;
				kill(-contender->pid, SIGKILL);
			}
		}
		pause_microseconds(100);
	}
	/* Every key can be had, and its first run after a kill leaves no file. */
	for (int key = 0; key < KEYS; key++) {
		char name[8];

		snprintf(name, sizeof(name), "k%d", key);
		if (run("-w", "30", "--forget", name) != 0)
			counts.stuck++;
	}
	/* A slot's file is only looked at by who gets so far: take all at once. */
	for (int i = 0; i < SLOTS; i++)
		if (fork() == 0) {
			execl(keylock, keylock, "-w", "30", "-j", "3", "k3", "sleep", "0.5",
			      (char *)NULL);
			_exit(127);
		}
	for (int status; wait(&status) > 0;)
		counts.stuck += status != 0;

	int left = files_in(directory);
	bool good = !judge->overlaps && !judge->collisions && !counts.odd && !counts.stuck && !left;

	printf("torture: %ld runs in %.0f s, %d entered, %ld kills, %ld stops, %ld times the empty "
	       "directory removed, %ld taken, %ld in doubt: %d overlaps, %d collisions, %ld stuck, "
	       "%d files left, %ld odd ends\n",
	       started, now() - begin, judge->entered, counts.kills, counts.stops, counts.cleaned,
	       counts.taken, counts.doubtful, judge->overlaps, judge->collisions, counts.stuck,
	       left, counts.odd);
	if (left) {
		char command[1024];

		snprintf(command, sizeof(command), "ls -lA '%s' >&2", directory);
		if (system(command) != 0)
			fprintf(stderr, "torture: ls failed\n");
	}

	char command[1024];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command) != 0)
		fprintf(stderr, "torture: rm failed\n");
	return good ? 0 : 1;
}

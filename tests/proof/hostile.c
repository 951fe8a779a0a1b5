/*
 * Hostile surroundings: users who share keys in a sticky directory, and strangers
 * there who do all that they may. Whether two users' commands overlap is found out
 * by what is not keylock's: a process-associated fcntl lock that every command takes
 * on a file of its key, and a sum that only adds up when each was alone.
 *
 *	hostile play KEYLOCK BASE SECONDS SEED    as root; see hostile.sh
 *	hostile lock FILE r|w|s|x START LENGTH SECONDS
 *		one lock: r, w: for reading or writing the bytes; s, x: flock
 *
 * BASE has dir (mode 1777, the lockfiles), judge (closed to strangers), victims
 * (files of others) and strange (the strangers' own). Prints a line of figures for
 * the users and one for the strangers; exits 0 when there was no overlap, nobody
 * stuck and no status that cannot be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	USERS = 3,
	STRANGERS = 2,
	FIRST_USER = 2001,     /* uid */
	FIRST_STRANGER = 2011, /* uid and gid */
	USERS_GROUP = 2001,
	VICTIM = 2021, /* uid of the files that strangers link here */
	PLACES = 4,    /* runs of a user at once */
	HOLDS = 6,     /* locks of a stranger at once */
	KEYS = 4,
	FILES = 5,
};

/* k0 and k1 for all kinds, ka keeps records, kj has two slots. */
static const char *const keys[KEYS] = {"k0", "k1", "ka", "kj"};
static const char *const files[FILES] = {"k0", "k1", "ka", "kj", "kj%s2"};

static const off_t PRESENCE = 1, TICKETS = 1000; /* as keylock.c has them */
static const off_t MARKS = (off_t)1 << 61, SHARED_MARKS = (off_t)1 << 62;

/* What the users' commands and runs tell, in memory that they share. */
struct judge {
	long overlaps; /* found by fcntl locks */
	long entered;
	long alone[KEYS]; /* exclusive commands that have come to their end */
	long sum[KEYS];   /* what they have added up, one by one */
	long runs, killed, odd, stuck;
	long statuses[256];
};

/* What the strangers count. */
struct deeds {
	long locks, robbed, obstacles, garbage, links, others;
};

static struct judge *judge;
static struct deeds *deeds;
static char base[256];
static uint64_t random_state;

static unsigned
pick(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % below;
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
pause_for(double seconds)
{
	struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

	nanosleep(&time, NULL);
}

static void
fail(const char *what)
{
	fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void
count(long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

static void *
shared_memory(const char *path, size_t size, gid_t group)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
	void *memory;

	if (fd < 0 ||
	    (geteuid() == 0 && (fchown(fd, 0, group) < 0 || ftruncate(fd, (off_t)size) < 0)))
		fail(path);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail(path);
	close(fd);
	return memory;
}

static void
judge_open(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/judge/judge", base);
	judge = shared_memory(path, sizeof(*judge), USERS_GROUP);
}

static bool
byte_lock(int fd, int how, short type, off_t start, off_t length)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start};

	lock.l_len = length;
	return fcntl(fd, how, &lock) == 0;
}

/* ---- A user ---- */

static int
key_number(const char *key)
{
	for (int i = 0; i < KEYS; i++)
		if (strcmp(keys[i], key) == 0)
			return i;
	return 0;
}

/* Say that the key is ours; false where another has it. Until the process ends. */
static bool
enter(const char *key, char kind)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/judge/witness.%s", base, key);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
	if (fd < 0)
		fail(path);
	if (kind == 'j')
		return byte_lock(fd, F_SETLK, F_WRLCK, 0, 1) ||
		       byte_lock(fd, F_SETLK, F_WRLCK, 1, 1);
	return byte_lock(fd, F_SETLK, kind == 's' ? F_RDLCK : F_WRLCK, 0, 1);
}

/* The command of a user: job BASE KIND MICROSECONDS KEY... */
static int
job(char **argv)
{
	char kind = *argv[1], **key;
	long before[KEYS];

	snprintf(base, sizeof(base), "%s", argv[0]);
	judge_open();
	count(&judge->entered);
	for (key = argv + 3; *key; key++) {
		if (!enter(*key, kind))
			count(&judge->overlaps);
		before[key_number(*key)] = judge->sum[key_number(*key)];
	}
	pause_for(atof(argv[2]) / 1e6);
	for (key = argv + 3; *key && kind == 'x'; key++) {
		judge->sum[key_number(*key)] = before[key_number(*key)] + 1;
		count(&judge->alone[key_number(*key)]);
	}
	return 0;
}

struct run {
	pid_t pid; /* 0: free */
	double started;
	double limit; /* seconds that it may take */
	bool killed;
	bool may[256]; /* exit statuses that can be */
	char what[64];
};

static const char *keylock, *self;

static void
run_start(struct run *run)
{
	char *argv[24], microseconds[16];
	const char *key = keys[pick(2)], *second = NULL, *kind = "x";
	unsigned what = pick(20);
	int argc = 0;
	bool looks = false;

	*run = (struct run){.started = now(), .limit = 30};
	/* Strangers may put what is no lockfile, or cannot be opened, in its place. */
	run->may[0] = run->may[73] = run->may[77] = true;
#define ADD(word) (argv[argc++] = (char *)(uintptr_t)(word))
	ADD(keylock);
	switch (what) {
	case 0:
	case 1:
		ADD("-n");
		run->may[75] = true;
		break;
	case 2:
		ADD("-w");
		ADD(pick(2) ? "0.005" : "0.05");
		run->may[75] = true;
		run->limit = 20;
		break;
	case 3:
	case 4:
		ADD("-s");
		kind = "s";
		break;
	case 5:
		ADD("-sn");
		run->may[75] = true;
		kind = "s";
		break;
	case 6:
		ADD("-F");
		break;
	case 7:
		ADD("-o");
		break;
	case 8:
		ADD("-l");
		break;
	case 9:
		ADD("-k");
		second = keys[key == keys[0]];
		ADD(second);
		run->may[78] = true; /* where strangers make both names of one file */
		break;
	case 10:
	case 11:
		ADD(pick(3) ? "-qR" : "-qA");
		run->may[76] = argv[argc - 1][2] == 'A';
		key = "ka";
		break;
	case 12:
	case 13:
		ADD("-j");
		ADD("2");
		key = "kj";
		kind = "j";
		break;
	case 14:
		ADD("-nj");
		ADD("2");
		key = "kj";
		kind = "j";
		run->may[75] = true;
		break;
	case 15: /* nobody above it holds the key */
		ADD("-r");
		break;
	case 16: /* the one above it does */
		ADD(key);
		ADD(keylock);
		ADD("-r");
		break;
	case 17:
		looks = true;
		ADD(pick(2) ? "--list" : "--who");
		run->may[1] = argv[argc - 1][2] == 'w';
		break;
	default:
		break;
	}
	ADD(key);
	snprintf(run->what, sizeof(run->what), "%s %s %s", argv[1], argv[2],
	         argc > 3 ? argv[3] : "");
	if (!looks) {
		snprintf(microseconds, sizeof(microseconds), "%u",
		         pick(4) ? pick(2000) : pick(10000));
		ADD(self);
		ADD("job");
		ADD(base);
		ADD(kind);
		ADD(microseconds);
		ADD(key);
		if (second)
			ADD(second);
	}
#undef ADD
	argv[argc] = NULL;
	count(&judge->runs);
	/* The command has the lock then, but with -o; with -F it would be killed itself. */
	run->killed = !looks && what != 6 && what != 7 && pick(12) == 0;
	run->pid = fork();
	if (run->pid < 0)
		fail("fork");
	if (run->pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(null, 0);
		dup2(null, 1);
		execv(keylock, argv);
		_exit(127);
	}
	if (run->killed) {
		pause_for(pick(3000) / 1e6);
		kill(run->pid, SIGKILL);
		count(&judge->killed);
	}
}

static void
run_end(struct run *run, int status)
{
	run->pid = 0;
	if (WIFEXITED(status)) {
		count(&judge->statuses[WEXITSTATUS(status)]);
		if (run->may[WEXITSTATUS(status)])
			return;
	} else if (run->killed) {
		return;
	}
	count(&judge->odd);
	fprintf(stderr, "hostile: odd end: %s %d: %s\n", WIFEXITED(status) ? "status" : "signal",
	        WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), run->what);
}

static void
use(double until)
{
	struct run runs[PLACES] = {0};
	int alive = 0, status;
	pid_t pid;

	while (now() < until || alive) {
		for (int i = 0; i < PLACES; i++) {
			if (!runs[i].pid && now() < until) {
				run_start(&runs[i]);
				alive++;
			}
			if (runs[i].pid && !runs[i].killed &&
			    now() - runs[i].started > runs[i].limit) {
				count(&judge->stuck);
				fprintf(stderr, "hostile: stuck: %s\n", runs[i].what);
				runs[i].killed = true;
				kill(runs[i].pid, SIGKILL);
			}
		}
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < PLACES; i++)
				if (runs[i].pid == pid) {
					run_end(&runs[i], status);
					alive--;
				}
		pause_for(0.0002);
	}
}

/* ---- A stranger ---- */

/* A descriptor with a lock, or what stands in the place of a lockfile; for a while. */
struct hold {
	double until; /* 0: none */
	int fd;       /* -1: it is the file `name` */
	char name[64];
};

static struct hold holds[HOLDS];

static void
let_go(struct hold *hold)
{
	if (hold->fd >= 0)
		close(hold->fd);
	else if (unlink(hold->name) < 0)
		rmdir(hold->name);
	hold->until = 0;
}

static void
keep(int fd, const char *name)
{
	struct hold *hold = &holds[pick(HOLDS)];

	if (hold->until > 0)
		let_go(hold);
	hold->until = now() + pick(12000) / 1e6;
	hold->fd = fd;
	snprintf(hold->name, sizeof(hold->name), "%s", name);
}

static bool
is_mine(const char *name)
{
	struct stat file;

	return lstat(name, &file) == 0 && file.st_uid == geteuid();
}

/* A pid that a lock of a mark's byte would slander. */
static pid_t
some_pid(void)
{
	return pick(2) ? 1 : (pid_t)(getppid() + (pid_t)pick(2000));
}

/* Lock a lockfile, or the directory, in any way. */
static void
deed_lock(const char *name)
{
	static const off_t bytes[] = {0, 0, 1, 1, 2, 2, 3, 4, 1000, 1001, 1002};
	bool is_directory = pick(12) == 0;
	int fd = open(is_directory ? "." : name,
	              is_directory || pick(6) == 0 ? O_RDONLY | O_NONBLOCK | O_CLOEXEC
	                                           : O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	short type = pick(2) && !is_directory ? F_WRLCK : F_RDLCK;
	int how = pick(4) ? F_OFD_SETLK : F_SETLK;
	off_t start = bytes[pick(sizeof(bytes) / sizeof(*bytes))], length = 1;

	if (fd < 0)
		return;
	switch (pick(8)) {
	case 0:
	case 1:
		flock(fd, (pick(2) ? LOCK_EX : LOCK_SH) | LOCK_NB);
		goto done;
	case 2: /* slander */
		start = (pick(2) ? MARKS : SHARED_MARKS) + some_pid();
		type = F_RDLCK;
		break;
	case 3: /* all tickets, or the last one */
		start = pick(2) ? TICKETS : MARKS - 1;
		length = MARKS - start;
		break;
	case 4: /* all bytes from there on */
		start = pick(2) ? start : MARKS;
		length = 0;
		break;
	default:
		break;
	}
	byte_lock(fd, how, type, start, length);
	if (pick(2)) /* the owner of the file may hinder others from opening it */
		fcntl(fd, F_SETLEASE, pick(2) ? F_RDLCK : F_WRLCK);
done:
	count(&deeds->locks);
	keep(fd, "");
}

/* Take a lockfile of one's own away, or put another in its place. */
static void
deed_rob(const char *name)
{
	int fd;

	if (!is_mine(name)) {
		/* Be the first to make it, as a keylock of ours might. */
		fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (fd >= 0) {
			fchmod(fd, pick(8) ? 01666 : 07777);
			close(fd);
		}
		return;
	}
	fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0) {
		struct flock look = {.l_type = F_WRLCK, .l_start = PRESENCE, .l_len = 1};

		if (fcntl(fd, F_OFD_GETLK, &look) == 0 && look.l_type != F_UNLCK)
			count(&deeds->robbed);
		close(fd);
	}
	switch (pick(4)) {
	case 0:
	case 1:
		unlink(name);
		break;
	case 2: { /* over another of ours, or where there is none; a holder's file comes back */
		rename(name, files[pick(FILES)]);
		break;
	}
	default: {
		char mine[32];

		snprintf(mine, sizeof(mine), "new-%d", (int)geteuid());
		fd = open(mine, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (fd < 0)
			return;
		fchmod(fd, 01666);
		close(fd);
		renameat2(AT_FDCWD, mine, AT_FDCWD, name, pick(2) ? 2 /* RENAME_EXCHANGE */ : 0);
		break;
	}
	}
}

/* Put what is no usable lockfile in the place of one. */
static void
deed_obstacle(const char *name)
{
	static const char *const victims[] = {"closed", "readable", "writable", "empty", "missing"};
	const char *victim = victims[pick(5)];
	char path[300];
	int done;

	snprintf(path, sizeof(path), "../victims/%s", victim);
	if (is_mine(name))
		unlink(name);
	switch (pick(8)) {
	case 0:
		done = symlink(path, name);
		break;
	case 1:
		done = mkfifo(name, 0666);
		break;
	case 2:
		done = mkdir(name, 0777);
		break;
	case 3:
		done = mknod(name, S_IFCHR | 0666, 0x0103); /* refused */
		break;
	case 4:
	case 5: /* as far as fs.protected_hardlinks lets it */
		done = link(path, name);
		if (done == 0)
			count(&deeds->links);
		break;
	case 6: {
		static const mode_t modes[] = {0, 0444, 0222, 07777, 0111};
		int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

		done = fd < 0 ? -1 : fchmod(fd, modes[pick(5)]);
		if (fd >= 0)
			close(fd);
		break;
	}
	default: {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
		done = bind(fd, (struct sockaddr *)&address, sizeof(address));
		close(fd);
		break;
	}
	}
	if (done == 0) {
		count(&deeds->obstacles);
		keep(-1, name);
	}
}

/* Write to a lockfile, or truncate it; but not to what is linked to a victim. */
static void
deed_garbage(const char *name)
{
	static const char record[] = "keylock1 pid=1 since=2026-01-01T00:00:00Z cause=killed ";
	int fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	char bytes[512];
	struct stat file, victim;

	if (fd < 0)
		return;
	if (fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
	    (stat("../victims/writable", &victim) < 0 || victim.st_ino != file.st_ino) &&
	    (stat("../victims/empty", &victim) < 0 || victim.st_ino != file.st_ino)) {
		memset(bytes, pick(2) ? ' ' : (int)pick(256), sizeof(bytes));
		memcpy(bytes, record, pick(2) ? sizeof(record) - 1 : 0);
		bytes[191] = '\n';
		if ((pick(3) ? ftruncate(fd, 0)
		             : pwrite(fd, bytes, pick(2) ? 192 : pick(512), 0)) >= 0)
			count(&deeds->garbage);
		futimens(fd, NULL);
	}
	close(fd);
}

/* Everything else. */
static void
deed_other(const char *name)
{
	char path[300];
	unsigned number = pick(64);

	count(&deeds->others);
	switch (pick(5)) {
	case 0: /* a second name for a lockfile, elsewhere */
		snprintf(path, sizeof(path), "../strange/%d-%u", (int)geteuid(), number);
		unlink(path);
		if (link(name, path) == 0)
			count(&deeds->links);
		break;
	case 1: /* a flood */
		for (unsigned i = 0; i < 20; i++) {
			int fd;

			snprintf(path, sizeof(path), "flood-%d-%u", (int)geteuid(), pick(500));
			if (pick(2)) {
				unlink(path);
			} else if ((fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644)) >= 0) {
				if (write(fd, "flood", pick(6)) < 0)
					errno = 0;
				close(fd);
			}
		}
		break;
	case 2: { /* another's file, by way of our own directory: refused or ours */
		snprintf(path, sizeof(path), "../strange/%d-%u", (int)geteuid(), number);
		if (is_mine(path))
			rename(path, name);
		break;
	}
	case 3:
		if (is_mine(name) && chmod(name, pick(3) ? 01666 : (mode_t)pick(010000)) == 0)
			keep(-1, name);
		break;
	default: /* what may not be done to another's */
		if (!is_mine(name)) {
			snprintf(path, sizeof(path), "moved-%d", (int)geteuid());
			if (rename(name, path) == 0 && !is_mine(path))
				fprintf(stderr, "hostile: the directory is not sticky\n");
		}
		break;
	}
}

static void
be_hostile(double until)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/dir", base);
	if (chdir(path) < 0)
		fail(path);
	umask(0);
	signal(SIGIO, SIG_IGN); /* said when somebody comes to a lease */
	while (now() < until) {
		const char *name = files[pick(FILES)];

		for (int i = 0; i < HOLDS; i++)
			if (holds[i].until > 0 && now() > holds[i].until)
				let_go(&holds[i]);
		switch (pick(12)) {
		case 0:
		case 1:
		case 2:
		case 3:
			deed_lock(name);
			break;
		case 4:
		case 5:
		case 6:
		case 7:
			deed_rob(name);
			break;
		case 8:
			deed_obstacle(name);
			break;
		case 9:
			if (pick(4) == 0)
				deed_garbage(name);
			break;
		default:
			deed_other(name);
			break;
		}
		pause_for(pick(1500) / 1e6);
	}
	for (int i = 0; i < HOLDS; i++)
		if (holds[i].until > 0)
			let_go(&holds[i]);
	/* What is left of ours can be used. */
	for (int i = 0; i < FILES; i++)
		if (is_mine(files[i]) && chmod(files[i], 01666) < 0)
			unlink(files[i]);
}

/*
 * What root would do now and then, since nobody else here can: remove the links to
 * others' files.
 */
static void
clean(void)
{
	struct stat file;

	for (int i = 0; i < FILES; i++)
		if (lstat(files[i], &file) == 0 && file.st_uid == VICTIM)
			unlink(files[i]);
}

/* ---- All of them ---- */

static pid_t
start_as(uid_t user, gid_t group, uint64_t seed, void (*what)(double), double until)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid)
		return pid;
	if (setgroups(0, NULL) < 0 || setgid(group) < 0 || setuid(user) < 0)
		fail("becoming another user");
	random_state = (seed * 1000 + user) * 2654435761u + 88172645463325252u;
	what(until);
	exit(0);
}

static int
play(double seconds, uint64_t seed)
{
	double until = now() + seconds;
	char path[300];
	long uneven = 0, abnormal = 0;
	int status;

	umask(0);
	judge_open();
	snprintf(path, sizeof(path), "%s/strange/deeds", base);
	deeds = shared_memory(path, sizeof(*deeds), FIRST_STRANGER);
	snprintf(path, sizeof(path), "%s/dir", base);
	setenv("KEYLOCK_DIR", path, 1);
	for (int i = 0; i < USERS; i++)
		start_as((uid_t)(FIRST_USER + i), USERS_GROUP, seed, use, until);
	for (int i = 0; i < STRANGERS; i++)
		start_as((uid_t)(FIRST_STRANGER + i), FIRST_STRANGER, seed, be_hostile, until);
	if (chdir(path) < 0)
		fail(path);
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) >= 0;) {
		abnormal += pid > 0 && status != 0;
		pause_for(0.02);
		clean();
	}
	/* The commands of killed keylocks end by themselves. */
	pause_for(0.1);
	for (int i = 0; i < KEYS; i++)
		uneven += judge->sum[i] != judge->alone[i];
	printf("users: %ld runs (%ld keylocks killed), %ld commands; status 0: %ld, 73: %ld, 75: "
	       "%ld, 76: %ld, 77: %ld, 78: %ld; %ld overlaps, %ld sums that do not add up, %ld "
	       "stuck, %ld "
	       "odd ends\n",
	       judge->runs, judge->killed, judge->entered, judge->statuses[0], judge->statuses[73],
	       judge->statuses[75], judge->statuses[76], judge->statuses[77], judge->statuses[78],
	       judge->overlaps, uneven, judge->stuck, judge->odd);
	printf("strangers: %ld locks, %ld lockfiles taken from under a holder, %ld obstacles, %ld "
	       "times garbage, %ld links, %ld other deeds\n",
	       deeds->locks, deeds->robbed, deeds->obstacles, deeds->garbage, deeds->links,
	       deeds->others);
	/* Who attacks nobody proves nothing. */
	if (!judge->entered || !deeds->locks || !deeds->robbed || !deeds->obstacles ||
	    !deeds->garbage || !deeds->links) {
		printf("hostile: the strangers or the users did nothing\n");
		return 1;
	}
	return judge->overlaps || uneven || judge->stuck || judge->odd || abnormal;
}

int
main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 5 && strcmp(argv[1], "job") == 0)
		return job(argv + 2);
	if (argc == 6 && strcmp(argv[1], "play") == 0) {
		keylock = argv[2];
		snprintf(base, sizeof(base), "%s", argv[3]);
		return play(atof(argv[4]), strtoull(argv[5], NULL, 10));
	}
	if (argc == 7 && strcmp(argv[1], "lock") == 0) {
		int fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		bool done = *argv[3] == 's' ? flock(fd, LOCK_SH | LOCK_NB) == 0
		            : *argv[3] == 'x'
		                ? flock(fd, LOCK_EX | LOCK_NB) == 0
		                : byte_lock(fd, F_OFD_SETLK, *argv[3] == 'r' ? F_RDLCK : F_WRLCK,
		                            atoll(argv[4]), atoll(argv[5]));

		if (!done)
			fail(argv[2]);
		puts("locked");
		fflush(stdout);
		pause_for(atof(argv[6]));
		return 0;
	}
	fprintf(stderr, "usage: hostile play KEYLOCK BASE SECONDS SEED\n"
	                "       hostile lock FILE r|w|s|x START LENGTH SECONDS\n");
	return 2;
}

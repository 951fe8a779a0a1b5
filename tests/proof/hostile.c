/*
 * Hostile surroundings: users who share keys in a sticky directory that all may write,
 * and strangers there who do all that they may. Who shares such a directory trusts them
 * with the exclusion (DESIGN, section 4); what is judged is that every run ends, in its
 * time, by no signal but one that it was sent, by a status that is documented, and by 0
 * only where its command ran; hostile.sh sees that no other file was touched.
 *
 *	hostile KEYLOCK BASE SECONDS SEED    as root
 *
 * BASE has dir (mode 1777, the lockfiles), judge (closed to strangers), victims (files of
 * others) and strange (the strangers' own). Prints a line of figures for the users and one
 * for the strangers; exits 0 when nothing was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "../tools/probe.h"

enum {
	USERS = 3,
	STRANGERS = 2,
	FIRST_USER = 2001,     /* uid and gid */
	FIRST_STRANGER = 2011, /* uid and gid */
	VICTIM = 2021,         /* uid of the files that strangers link here */
	PLACES = 4,            /* runs of a user at once */
	HOLDS = 6,             /* locks of a stranger at once */
	FILES = 5,
	/* Microseconds past the deadline, or after a signal; and a hundred times as long as
	 * who waits for a moment has overslept lately. */
	PATIENCE = 2000000,
};

/* k0 and k1 for all kinds, ka keeps records, kj has two slots. */
static const char *const files[FILES] = {"k0", "k1", "ka", "kj", "kj%s2"};

static const char *const kinds[] = {
    "-n k0",        "-n k1",        "-w0.005 k0",        "-w0.05 k1",     "-w0.3 k0",
    "-w0.3 -v k1",  "-s -w0.3 k0",  "-s -n k1",          "-F -w0.3 k0",   "-o -w0.3 k1",
    "-l -w0.3 k0",  "-r -w0.3 k1",  "-k k1 -w0.3 k0",    "-qR -w0.3 ka",  "-qR -n ka",
    "-qA -w0.3 ka", "-j2 -w0.3 kj", "-j2 -n kj",         "-j2 -w0.05 kj", "--list",
    "--who k0",     "--path k1",    "-w0.3 --forget ka", "--list --json",
};
/* Strangers may put what is no lockfile, or one file by two names, in a lockfile's place. */
static const int statuses[] = {0, 1, 73, 75, 76, 77, 78};

/* What the users' runs tell, and what the strangers count, in memory that they share. */
struct judge {
	int runs, signals, commands, odd, late, statuses[256];
	int ran[USERS * PLACES]; /* whether the command of the run in this place has begun */
};

struct deeds {
	int locks, robbed, obstacles, garbage, links, others;
};

static struct judge *judge;
static struct deeds *deeds;
static const char *keylock, *self, *base;
static int user; /* which of them this process is */

static void *
share_in(const char *name, size_t size)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return share(path, size);
}

/* ---- A user ---- */

struct run {
	pid_t pid; /* 0: free */
	int64_t limit;
	bool told, runs;
	const char *what;
};

static void
run_start(struct run *run, int place)
{
	struct words words = {.count = 0};
	const char *kind = kinds[pick(sizeof(kinds) / sizeof(*kinds))], *wait = strstr(kind, "-w");
	long work = pick(4) ? pick(2000) : pick(10000);
	char copy[64], *rest = copy;

	*run = (struct run){.what = kind, .runs = !strstr(kind, "--")};
	run->limit = now() + work + PATIENCE + (wait ? (long)(atof(wait + 2) * 1e6) : 100000);
	snprintf(copy, sizeof(copy), "%s", kind);
	add(&words, "%s", keylock);
	for (char *word; (word = strsep(&rest, " "));)
		add(&words, "%s", word);
	if (run->runs) {
		add(&words, "%s", self);
		add(&words, "%s", base);
		add(&words, "%d", place);
		add(&words, "%ld", work);
	}
	count_one(&judge->runs);
	judge->ran[place] = 0;
	run->pid = fork();
	if (run->pid < 0)
		fail("fork");
	if (run->pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(null, 0);
		dup2(null, 1);
		execv(keylock, words.argv);
		_exit(127);
	}
}

/* The command: hostile BASE PLACE MICROSECONDS. */
static int
job(char **argv)
{
	base = argv[1];
	judge = share_in("judge/judge", sizeof(*judge));
	judge->ran[atoi(argv[2])] = 1;
	count_one(&judge->commands);
	sleep_us(atol(argv[3]));
	return 0;
}

static void
run_end(const struct run *run, int place, int status, const struct rusage *use)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
	bool fine = code < 0 && run->told;

	for (size_t i = 0; i < sizeof(statuses) / sizeof(*statuses); i++)
		fine = fine || code == statuses[i];
	if (code >= 0)
		count_one(&judge->statuses[code]);
	if (code == 0 && run->runs && !judge->ran[place])
		fine = false;
	if (use->ru_utime.tv_sec + use->ru_stime.tv_sec >= 2)
		fine = false;
	if (fine)
		return;
	count_one(&judge->odd);
	fprintf(stderr, "hostile: odd end %d after %ld s on a processor: %s\n", code,
	        use->ru_utime.tv_sec + use->ru_stime.tv_sec, run->what);
}

static void
use_keys(int64_t until)
{
	struct run runs[PLACES] = {0};
	int64_t time, overslept, lag = 0;
	char call[2000];
	int alive = 0, status;
	struct rusage use;
	pid_t pid;

	while (now() < until || alive) {
		for (int i = 0; i < PLACES; i++) {
			struct run *run = &runs[i];

			if (!run->pid && now() < until) {
				run_start(run, user * PLACES + i);
				alive++;
			} else if (run->pid && !run->told && pick(400) == 0) {
				run->told = true;
				run->limit = now() + PATIENCE;
				count_one(&judge->signals);
				kill(run->pid, SIGTERM);
			} else if (run->pid && run->limit && now() > run->limit + 100 * lag) {
				count_one(&judge->late);
				fprintf(stderr, "hostile: %s, system call %s: %s\n",
				        run->told ? "deaf" : "past its deadline",
				        glance(run->pid, "syscall", call), run->what);
				run->limit = 0;
				run->told = true;
				kill(run->pid, SIGKILL);
			}
		}
		while ((pid = wait4(-1, &status, WNOHANG, &use)) > 0)
			for (int i = 0; i < PLACES; i++)
				if (runs[i].pid == pid) {
					run_end(&runs[i], user * PLACES + i, status, &use);
					runs[i].pid = 0;
					alive--;
				}
		time = now();
		sleep_us(200);
		overslept = now() - time - 200;
		lag = overslept > lag ? overslept : lag - lag / 4096;
	}
}

/* ---- A stranger ---- */

/* A descriptor with a lock, or what stands in the place of a lockfile; for a while. */
static struct hold {
	int64_t until; /* 0: none */
	int fd;        /* -1: it is the file `name` */
	char name[64];
} holds[HOLDS];

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
	hold->until = now() + pick(12000);
	hold->fd = fd;
	snprintf(hold->name, sizeof(hold->name), "%s", name);
}

static bool
is_mine(const char *name)
{
	struct stat file;

	return lstat(name, &file) == 0 && file.st_uid == geteuid();
}

static int
make(const char *name, mode_t mode)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd >= 0 && fchmod(fd, mode) == 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

/* Lock a lockfile, or the directory, in any way. */
static void
deed_lock(const char *name)
{
	static const off_t bytes[] = {0, 0, 1, 1, 2, 2, 3, 4, 1000, 1001, 1002, (off_t)1 << 60};
	bool whole = pick(12) == 0, reads = whole || pick(6) == 0;
	int fd = open(whole ? "." : name,
	              (reads ? O_RDONLY : O_RDWR | O_NOFOLLOW) | O_NONBLOCK | O_CLOEXEC);
	struct flock lock = {.l_type = pick(2) && !reads ? F_WRLCK : F_RDLCK,
	                     .l_start = bytes[pick(12)],
	                     .l_len = pick(4) ? 1 : 0}; /* 0: all from there on */

	if (fd < 0)
		return;
	if (pick(4) == 0)
		flock(fd, (pick(2) ? LOCK_EX : LOCK_SH) | LOCK_NB);
	else
		fcntl(fd, pick(4) ? F_OFD_SETLK : F_SETLK, &lock);
	if (pick(2)) /* the owner of the file may hinder others from opening it */
		fcntl(fd, F_SETLEASE, pick(2) ? F_RDLCK : F_WRLCK);
	count_one(&deeds->locks);
	keep(fd, "");
}

/* Take a lockfile of one's own away, put another in its place, or be the first to make it. */
static void
deed_rob(const char *name)
{
	char other[32];
	int fd;

	if (!is_mine(name)) {
		make(name, pick(8) ? 01666 : 07777);
		return;
	}
	fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		count_one(&deeds->robbed); /* from under a holder */
	if (fd >= 0)
		close(fd);
	snprintf(other, sizeof(other), "new-%d", (int)geteuid());
	if (pick(2))
		unlink(name);
	else if (pick(2)) /* over another of ours; a holder's file may come back */
		rename(name, files[pick(FILES)]);
	else if (make(other, 01666) == 0)
		renameat2(AT_FDCWD, other, AT_FDCWD, name, pick(2) ? 2 /* RENAME_EXCHANGE */ : 0);
}

/* Put what is no usable lockfile in the place of one. */
static void
deed_obstacle(const char *name)
{
	static const char *const victims[] = {"closed", "readable", "writable", "empty", "missing"};
	static const mode_t modes[] = {0, 0444, 0222, 07777, 0111};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char path[300];
	int done, fd;

	snprintf(path, sizeof(path), "../victims/%s", victims[pick(5)]);
	if (is_mine(name))
		unlink(name);
	switch (pick(7)) {
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
	case 4: /* as far as fs.protected_hardlinks lets it */
		done = link(path, name);
		if (done == 0)
			count_one(&deeds->links);
		break;
	case 5:
		done = make(name, modes[pick(5)]);
		break;
	default:
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
		done = bind(fd, (struct sockaddr *)&address, sizeof(address));
		close(fd);
		break;
	}
	if (done == 0) {
		count_one(&deeds->obstacles);
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
	struct stat file;

	if (fd < 0)
		return;
	if (fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_uid != VICTIM) {
		memset(bytes, pick(2) ? ' ' : (int)pick(256), sizeof(bytes));
		memcpy(bytes, record, pick(2) ? sizeof(record) - 1 : 0);
		bytes[191] = '\n';
		if ((pick(3) ? ftruncate(fd, 0)
		             : pwrite(fd, bytes, pick(2) ? 192 : pick(512), 0)) >= 0)
			count_one(&deeds->garbage);
	}
	close(fd);
}

/* Second names for lockfiles elsewhere, others' files by way of our own directory, a flood. */
static void
deed_other(const char *name)
{
	char path[300];

	count_one(&deeds->others);
	snprintf(path, sizeof(path), "../strange/%d-%u", (int)geteuid(), pick(64));
	switch (pick(4)) {
	case 0:
		unlink(path);
		if (link(name, path) == 0)
			count_one(&deeds->links);
		break;
	case 1:
		for (unsigned i = 0; i < 20; i++) {
			snprintf(path, sizeof(path), "flood-%d-%u", (int)geteuid(), pick(500));
			if (pick(2))
				unlink(path);
			else
				make(path, 0644);
		}
		break;
	case 2:
		if (is_mine(path))
			rename(path, name);
		break;
	default:
		if (is_mine(name) && chmod(name, pick(3) ? 01666 : (mode_t)pick(010000)) == 0)
			keep(-1, name);
		break;
	}
}

static void
be_hostile(int64_t until)
{
	static void (*const doings[])(const char *) = {
	    deed_lock, deed_lock, deed_lock,     deed_lock,    deed_rob,   deed_rob,
	    deed_rob,  deed_rob,  deed_obstacle, deed_garbage, deed_other, deed_other,
	};

	umask(0);
	signal(SIGIO, SIG_IGN); /* said when somebody comes to a lease */
	while (now() < until) {
		for (int i = 0; i < HOLDS; i++)
			if (holds[i].until > 0 && now() > holds[i].until)
				let_go(&holds[i]);
		doings[pick(12)](files[pick(FILES)]);
		sleep_us(pick(1500));
	}
	for (int i = 0; i < HOLDS; i++)
		if (holds[i].until > 0)
			let_go(&holds[i]);
	/* What is left of ours can be used. */
	for (int i = 0; i < FILES; i++)
		if (is_mine(files[i]) && chmod(files[i], 01666) < 0)
			unlink(files[i]);
}

/* ---- All of them ---- */

static void
start_as(uid_t id, uint64_t seed, int64_t until)
{
	bool strange = id >= FIRST_STRANGER;
	gid_t group = strange ? FIRST_STRANGER : FIRST_USER;
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid)
		return;
	if (setgroups(0, NULL) < 0 || setgid(group) < 0 || setuid(id) < 0)
		fail("becoming another user");
	random_state = (seed * 1000 + id) * 2654435761u + 88172645463325252u;
	user = (int)id - FIRST_USER;
	if (strange)
		be_hostile(until);
	else
		use_keys(until);
	exit(0);
}

/*
 * Until all have ended, do what root would do now and then, since nobody else here can:
 * remove the links to others' files. Returns how many ended badly.
 */
static int
clean(void)
{
	int status, bad = 0;
	struct stat file;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) >= 0) {
		bad += pid > 0 && status != 0;
		for (int i = 0; i < FILES; i++)
			if (lstat(files[i], &file) == 0 && file.st_uid == VICTIM)
				unlink(files[i]);
		sleep_us(20000);
	}
	return bad;
}

int
main(int argc, char **argv)
{
	char path[300];
	int64_t until;
	uint64_t seed;
	int bad;

	if (argc == 4)
		return job(argv);
	if (argc != 5)
		return 64;
	self = argv[0];
	keylock = argv[1];
	base = argv[2];
	until = now() + atol(argv[3]) * 1000000;
	seed = strtoull(argv[4], NULL, 10);
	umask(0);
	judge = share_in("judge/judge", sizeof(*judge));
	deeds = share_in("strange/deeds", sizeof(*deeds));
	snprintf(path, sizeof(path), "%s/judge/judge", base);
	if (chown(path, 0, FIRST_USER) < 0)
		fail(path);
	snprintf(path, sizeof(path), "%s/dir", base);
	setenv("KEYLOCK_DIR", path, 1);
	if (chdir(path) < 0)
		fail(path);
	for (uid_t i = 0; i < USERS; i++)
		start_as(FIRST_USER + i, seed, until);
	for (uid_t i = 0; i < STRANGERS; i++)
		start_as(FIRST_STRANGER + i, seed, until);
	bad = clean();
	printf("users: %d runs (%d sent a signal), %d commands; status 0: %d, 73: %d, 75: %d, 76: "
	       "%d, 77: %d, 78: %d; %d late, %d odd ends\n",
	       judge->runs, judge->signals, judge->commands, judge->statuses[0],
	       judge->statuses[73], judge->statuses[75], judge->statuses[76], judge->statuses[77],
	       judge->statuses[78], judge->late, judge->odd);
	printf("strangers: %d locks, %d lockfiles taken from under a holder, %d obstacles, %d "
	       "times garbage, %d links, %d other deeds\n",
	       deeds->locks, deeds->robbed, deeds->obstacles, deeds->garbage, deeds->links,
	       deeds->others);
	/* Who attacks nobody proves nothing. */
	if (!judge->commands || !deeds->locks || !deeds->robbed || !deeds->obstacles ||
	    !deeds->garbage || !deeds->links)
		bad++;
	return judge->late || judge->odd || bad;
}

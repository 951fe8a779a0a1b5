/*
 * Torture: contenders of all kinds on few keys, killed, stopped and continued at
 * random, with daemons left behind and a cleaner at work. What is right is judged
 * by means that are not keylock's.
 *
 *	torture [-vx] [-p PARALLEL] [-s SEED] [-t SECONDS] [-w WAVE] [-k KEY] KEYLOCK RUNS
 *
 * KEYLOCK_DIR is the directory of the lockfiles, which nobody else may use; TMPDIR
 * is where the judges' files go. Prints one line of figures, and before it, on
 * standard error, what was wrong; exits 0 when nothing was, else 1. -x ends with
 * the first fault; -v tells of each start and each signal; a run that has not ended
 * after SECONDS (60) is stuck; -w has waves of one kind alone, by its number in enum
 * wave_kind, and -k one key that most want in all of them.
 *
 * The runs come in waves, each of its own kind and number of contenders. A command
 * that runs asks these judges:
 *
 *  - the witness, a file of the key with process-associated locks (fcntl_locking(2)):
 *    one that is refused means an overlap, or for slots one too many;
 *  - the ledger, another: an exclusive command looks how many lines it has, does
 *    something else, writes its own behind them, and looks again. In the end it has
 *    exactly one line of each run that came to its end. Who shares the key, or has
 *    it by -l, or is a nested run, sees to it that no line comes meanwhile;
 *  - for the key with records, what became of the run before: whether it came to its
 *    end is noted in memory that all share, and so is each signal before it is sent.
 *
 * The driver judges the statuses; the time that each run takes; the order, by who
 * was seen to wait (/proc) before another was started; and when all of a wave have
 * ended, the files. After a wave without kills, stops, -F and -l there is none;
 * after others there is none when each key was had once more.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Keys k0 and k1 are exclusive or shared, k2 keeps records, k3 and k4 have slots. */
enum { RECORDED = 2, SLOTTED = 3, KEYS = 5, SLOTS = 3 };
enum { PARALLEL_MAX = 250, WAVE_MAX = 1000, WORDS = 40, FAULTS_SHOWN = 40 };
/* How a command may end: well, by itself in any other way, or in doubt. */
enum { GOOD = 0, OTHER = 7, DOUBTFUL = 130 };

enum fault { OVERLAP, LEDGER, RECORD, ORDER, STUCK, LEFT, ODD, FAULTS };
static const char *const fault_names[FAULTS] = {
    "overlaps", "wrong lines in the ledgers", "wrong records", "out of turn", "stuck", "files left",
    "odd ends",
};

/* In memory that the commands share with the driver. */
static struct judge {
	pid_t driver;
	int wave;           /* its number; daemons of an earlier one end */
	int faults[FAULTS]; /* how many */
	int entries;        /* how many commands ran in this wave */
	int daemons;        /* how many were left behind in all */
	/* Of the key with records. */
	int doubts;  /* how often something happened that may leave the key in doubt */
	int cleared; /* the key is clean if there was none since that one */
	int last;    /* whose command ran last, or -1 */
	bool well;   /* and came to its end */
	struct {
		int entry;   /* its place among those that ran, from 1; 0: did not run */
		int pid;     /* of its command */
		bool left;   /* its line is in the ledger */
		bool shaken; /* it may have been killed */
	} runs[WAVE_MAX];
} * judge;

static char folder[512]; /* of the judges' files */

/* ---- What both sides use ---- */

static int64_t
now(void) /* in microseconds */
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void
pause_for(long microseconds)
{
	struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};

	if (microseconds > 0)
		nanosleep(&time, NULL);
}

static void
fail(const char *what)
{
	fprintf(stderr, "torture: %s: %s\n", what, strerror(errno));
	exit(2);
}

__attribute__((format(printf, 2, 3))) static void
found(enum fault fault, const char *format, ...)
{
	char text[800];
	va_list arguments;

	if (__atomic_add_fetch(&judge->faults[fault], 1, __ATOMIC_SEQ_CST) > FAULTS_SHOWN)
		return;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "torture: wave %d: %s\n", judge->wave, text);
}

/* Open a judges' file, which only the end of the process closes. */
static int
judges_file(const char *what, const char *key)
{
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.%s", folder, what, key);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		fail(path);
	return fd;
}

static void
judge_open(void)
{
	int fd = judges_file("judge", "all");

	if (ftruncate(fd, sizeof(*judge)) < 0)
		fail("ftruncate");
	judge = mmap(NULL, sizeof(*judge), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (judge == MAP_FAILED)
		fail("mmap");
	close(fd);
}

/* ---- The command's side ---- */

/* A command in the middle of what it does. */
struct stay {
	int run;
	const char *kind; /* letters: see start() */
	char **keys;
	int witness[KEYS]; /* descriptors */
	int ledger[KEYS];
	int lines[KEYS]; /* of the ledgers */
	int doubts;      /* as it began */
};

static bool
is(const struct stay *stay, char letter)
{
	return strchr(stay->kind, letter) != NULL;
}

static bool
witness_lock(const struct stay *stay, int key, off_t byte, bool wait)
{
	struct flock lock = {.l_type = is(stay, 's') ? F_RDLCK : F_WRLCK,
	                     .l_whence = SEEK_SET,
	                     .l_start = byte,
	                     .l_len = 1};

	while (fcntl(stay->witness[key], wait ? F_SETLKW : F_SETLK, &lock) < 0)
		if (errno != EINTR)
			return false;
	return true;
}

/* A process that keeps us from the witness. */
static pid_t
witness_of(const struct stay *stay, int key)
{
	struct flock lock = {.l_type = is(stay, 's') ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(stay->witness[key], F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK ? lock.l_pid
	                                                                                : 0;
}

static int
ledger_lines(const struct stay *stay, int key)
{
	struct stat file;

	if (fstat(stay->ledger[key], &file) < 0)
		fail("ledger");
	return (int)(file.st_size / (off_t)sizeof(int));
}

/* Open the judges' files: below 10, so that they are closed before the lock's. */
static void
judges_open(struct stay *stay)
{
	for (int i = 0; stay->keys[i]; i++) {
		stay->witness[i] = judges_file("witness", stay->keys[i]);
		stay->ledger[i] = judges_file("ledger", stay->keys[i]);
		if (stay->ledger[i] >= 10 && !is(stay, 'h'))
			fail("descriptor");
	}
}

static void
ledger_look(const struct stay *stay, const char *who)
{
	for (int i = 0; stay->keys[i]; i++)
		if (!is(stay, 'j') && ledger_lines(stay, i) != stay->lines[i])
			found(LEDGER, "%s: somebody wrote while %s of run %d had it", stay->keys[i],
			      who, stay->run);
}

/* What the last run left of the record, against what keylock says. */
static void
record_enter(struct stay *stay)
{
	bool told = getenv("KEYLOCK_ABANDONED") != NULL;

	stay->doubts = __atomic_load_n(&judge->doubts, __ATOMIC_SEQ_CST);
	if (told && judge->cleared == stay->doubts)
		found(RECORD, "run %d was told of a death that was not: %s", stay->run,
		      getenv("KEYLOCK_ABANDONED"));
	/* --hold with -R cannot tell. */
	if (!told && !is(stay, 'h') && judge->last >= 0 && !judge->well)
		found(RECORD, "run %d was not told that run %d died", stay->run, judge->last);
	if (is(stay, 's'))
		return;
	judge->well = false;
	judge->last = stay->run;
}

static void
record_leave(const struct stay *stay, bool well)
{
	if (is(stay, 's'))
		return;
	if (!well) {
		__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
		return;
	}
	judge->well = true;
	if (!judge->runs[stay->run].shaken)
		judge->cleared = stay->doubts;
}

static void
enter(struct stay *stay)
{
	bool first = !is(stay, 'g');

	judges_open(stay);
	for (int i = 0; stay->keys[i]; i++) {
		off_t byte = 0, end = is(stay, 'j') ? SLOTS : 1;

		/* A nested run comes after the command that it was begun by. */
		while (byte < end && !witness_lock(stay, i, byte, !first))
			byte++;
		if (byte == end)
			found(OVERLAP, "%s: run %d (%s, pid %d) came in beside pid %d",
			      stay->keys[i], stay->run, stay->kind, (int)getpid(),
			      (int)witness_of(stay, i));
		stay->lines[i] = ledger_lines(stay, i);
	}
	if (!first)
		return;
	judge->runs[stay->run].entry = __atomic_add_fetch(&judge->entries, 1, __ATOMIC_SEQ_CST);
	if (is(stay, 'a'))
		record_enter(stay);
	__atomic_store_n(&judge->runs[stay->run].pid, getpid(), __ATOMIC_SEQ_CST);
}

/* Write the ledgers, each by what it was found to have. */
static void
leave(struct stay *stay)
{
	ledger_look(stay, "the command");
	if (is(stay, 's') || is(stay, 'j') || is(stay, 'g'))
		return;
	for (int i = 0; stay->keys[i]; i++) {
		off_t at = stay->lines[i]++ * (off_t)sizeof(int);

		if (pwrite(stay->ledger[i], &stay->run, sizeof(int), at) != sizeof(int))
			fail("ledger");
	}
	judge->runs[stay->run].left = true;
	ledger_look(stay, "the command");
}

/* Leave a daemon behind: under the lock, until the wave ends, or for a moment. */
static void
leave_daemon(struct stay *stay, long microseconds)
{
	int wave = judge->wave;

	__atomic_add_fetch(&judge->daemons, 1, __ATOMIC_SEQ_CST);
	if (fork() != 0)
		return;
	setsid();
	if (is(stay, 'l')) {
		/* After the end of the command, whose locks these are. */
		for (int i = 0; stay->keys[i]; i++)
			witness_lock(stay, i, 0, true);
		pause_for(microseconds);
		ledger_look(stay, "the daemon");
		_exit(0);
	}
	pause_for(microseconds);
	while (is(stay, 'D') && wave == judge->wave && kill(judge->driver, 0) == 0)
		pause_for(5000);
	_exit(0);
}

/* Begin a nested run and do not wait for it. */
static void
leave_nested(char **argv)
{
	bool shared = strchr(argv[3], 's') != NULL;
	char microseconds[24];
	char *words[] = {argv[6], shared ? "-rs" : "-r", argv[7],      argv[0], "job",   argv[1],
	                 argv[2], shared ? "gs" : "g",   microseconds, "0",     argv[6], argv[7],
	                 NULL};
	pid_t pid;

	/* For longer than its ancestor, or not. */
	snprintf(microseconds, sizeof(microseconds), "%ld", 2 * atol(argv[4]) + getpid() % 400);
	posix_spawn(&pid, words[0], NULL, NULL, words, environ);
}

/* SELF FOLDER RUN KIND MICROSECONDS CODE KEYLOCK KEY...: the command of a contender. */
static int
job(char **argv)
{
	struct stay stay = {.run = atoi(argv[2]), .kind = argv[3], .keys = argv + 7};
	long microseconds = atol(argv[4]);
	int code = atoi(argv[5]);

	enter(&stay);
	pause_for(microseconds / 2);
	if (is(&stay, 'r'))
		leave_nested(argv);
	pause_for(microseconds / 2);
	leave(&stay);
	if (strpbrk(stay.kind, "dDl"))
		leave_daemon(&stay, microseconds);
	if (is(&stay, 'a'))
		record_leave(&stay, code != DOUBTFUL);
	return code;
}

/*
 * The same arguments, and in place of KEYLOCK all that it is to be called with,
 * up to "--": a caller that holds the keys by --hold. A letter q in KIND: kills
 * it some time. Ends as keylock does.
 */
static int
caller(char **argv)
{
	struct stay stay = {.run = atoi(argv[2]), .kind = argv[3]};
	char *words[WORDS], line[8] = "";
	long microseconds = atol(argv[4]);
	int count = 0, in[2], out[2], status;
	bool well = atoi(argv[5]) != DOUBTFUL;
	posix_spawn_file_actions_t actions;
	pid_t pid;

	for (argv += 6; strcmp(*argv, "--") != 0; argv++)
		words[count++] = *argv;
	words[count] = NULL;
	stay.keys = argv + 1;
	posix_spawn_file_actions_init(&actions);
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    posix_spawn_file_actions_adddup2(&actions, in[0], 0) ||
	    posix_spawn_file_actions_adddup2(&actions, out[1], 1) ||
	    /* It has a word to say when its caller was killed. */
	    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) ||
	    posix_spawn(&pid, words[0], &actions, NULL, words, environ))
		fail(words[0]);
	close(in[0]);
	close(out[1]);
	if (is(&stay, 'q')) {
		pause_for(microseconds);
		if (is(&stay, 'a'))
			__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
		kill(pid, microseconds % 2 ? SIGKILL : SIGTERM);
		waitpid(pid, &status, 0);
		return 0;
	}
	if (read(out[0], line, sizeof(line)) == (ssize_t)strlen("locked\n") &&
	    memcmp(line, "locked\n", strlen("locked\n")) == 0) {
		enter(&stay);
		pause_for(microseconds);
		leave(&stay);
		if (is(&stay, 'a'))
			record_leave(&stay, well);
		for (int i = 0; stay.keys[i]; i++)
			close(stay.witness[i]); /* from here on another may come */
		if (well && write(in[1], "done\n", strlen("done\n")) < 0)
			found(ODD, "--hold has gone");
	}
	close(in[1]);
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		kill(getpid(), WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* ---- The driver's side ---- */

struct contender {
	pid_t pid; /* 0: free */
	int run;
	int64_t started;
	/* What it is like: see draw(). */
	int keys[3], count;
	bool shared, slotted, hold, in_place, linger;
	char records;  /* R or A, or 0 */
	long waiting;  /* -w, in microseconds; 0: for ever; -1: -n */
	char kind[16]; /* of its command, in letters */
	long microseconds;
	int code;        /* its command's status */
	bool immortal;   /* a daemon of it would have the lock if keylock were killed */
	int clean_since; /* judge->cleared when it was started, where that was sure */
	uint64_t sent;   /* the signals that it was sent, as bits */
	int64_t kill_at, stop_at, continue_at; /* 0: never */
	bool again;                            /* a second SIGCONT was sent */
};

/* Of all runs of the wave. */
static struct {
	unsigned keys; /* as bits */
	bool exclusive;
	bool moved; /* gave its place up */
	int seen;   /* how many were started when it was seen to wait; 0: was not */
} played[WAVE_MAX];

static struct contender contenders[PARALLEL_MAX];

enum wave_kind {
	WILD,
	GENTLE,  /* no kills, no stops, nothing that leaves a file */
	READERS, /* likewise, and all share: nobody is turned away */
	FEW,     /* likewise, at slots, no more than there are */
	WAVE_KINDS,
};

static struct {
	enum wave_kind kind;
	int size, started, parallel;
	int hot; /* the key that most want, or -1 */
} wave;

static const char *keylock, *self, *directory;
static int64_t stuck_after = 60 * 1000000;
static bool aloud;
static int only_kind = -1, only_hot = -1; /* -w and -k; -1: any */

static struct {
	long killed, killed_waiting, stopped, again, taken, doubtful, ran, cleaned, seen, waves;
} counts;

static uint64_t random_state;

static unsigned
pick(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % below;
}

/* Below 2 to the power of `bits`, and of all sizes alike. */
static unsigned
pick_size(unsigned bits)
{
	return pick(1u << (1 + pick(bits)));
}

static int
faults(void)
{
	int sum = 0;

	for (int i = 0; i < FAULTS; i++)
		sum += __atomic_load_n(&judge->faults[i], __ATOMIC_SEQ_CST);
	return sum;
}

/* A command line that grows. */
struct words {
	char text[WORDS][32];
	char *argv[WORDS + 1];
	int count;
};

__attribute__((format(printf, 2, 3))) static void
add(struct words *words, const char *format, ...)
{
	va_list arguments;

	if (words->count == WORDS)
		fail("words");
	va_start(arguments, format);
	vsnprintf(words->text[words->count], sizeof(words->text[0]), format, arguments);
	va_end(arguments);
	words->argv[words->count] = words->text[words->count];
	words->argv[++words->count] = NULL;
}

/* A word that may be long, and stays where it is. */
static void
add_long(struct words *words, const char *text)
{
	add(words, "-");
	words->argv[words->count - 1] = (char *)(uintptr_t)text;
}

/*
 * Draw what a contender is like. The letters of its command's kind: s shared, j slots,
 * a records, h by --hold, q killed by its caller, d leaves a daemon that has nothing
 * to do, D for long, l one that goes on under the lock, r begins a nested run, g is
 * one.
 */
static void
draw(struct contender *contender)
{
	bool gentle = wave.kind != WILD;
	int key = wave.hot >= 0 && pick(4) ? wave.hot : (int)pick(KEYS);
	char *kind = contender->kind;

	if (wave.kind == FEW)
		key = SLOTTED;
	if (wave.kind == READERS)
		key %= SLOTTED;
	contender->keys[0] = key;
	contender->count = 1;
	contender->slotted = key >= SLOTTED;
	contender->shared = !contender->slotted && (pick(4) == 0 || wave.kind == READERS);
	contender->hold = pick(10) == 0;
	if (key == RECORDED && pick(4))
		contender->records = pick(3) ? 'R' : 'A';
	contender->in_place = !gentle && !contender->hold && !contender->records && pick(10) == 0;
	contender->linger = !gentle && !contender->hold && !contender->in_place && pick(12) == 0;
	switch (pick(wave.kind < READERS ? 6 : 2)) {
	case 0:
		contender->waiting = -1;
		break;
	case 1:
		contender->waiting = wave.kind < READERS ? 1 + pick_size(16) : 0;
		break;
	}
	if (pick(6) == 0 && !contender->records && wave.kind != FEW) {
		/* All or none: in any order, of two or three. */
		contender->keys[contender->count++] =
		    contender->slotted ? KEYS - 1 + SLOTTED - key : (key + 1) % RECORDED;
		if (key < RECORDED && pick(3) == 0)
			contender->keys[contender->count++] = RECORDED;
		if (pick(2)) {
			contender->keys[0] = contender->keys[1];
			contender->keys[1] = key;
		}
	}

	/* What its command does, and how it ends. */
	contender->microseconds = pick(3) ? pick_size(11) : 0;
	contender->code = pick(8) ? GOOD : OTHER;
	if (contender->hold)
		contender->code = GOOD;
	if (contender->records && !contender->shared && !gentle && pick(6) == 0)
		contender->code = DOUBTFUL;
	if (contender->hold) {
		strcat(kind, !gentle && pick(4) == 0 ? "hq" : "h");
	} else if (contender->linger || contender->in_place) {
		strcat(kind, "l");
	} else if (pick(8) == 0) {
		contender->immortal = pick(16) == 0;
		strcat(kind, contender->immortal ? "D" : "d");
	} else if (!contender->slotted && contender->count == 1 && pick(8) == 0) {
		strcat(kind, "r");
	}
	strcat(kind, contender->records ? "a" : "");
	strcat(kind, contender->shared ? "s" : "");
	strcat(kind, contender->slotted ? "j" : "");

	/* What will be done to it. */
	if (!gentle && pick(4) == 0)
		contender->kill_at = contender->started + 50 + pick_size(15);
	if (!gentle && pick(12) == 0)
		contender->stop_at = contender->started + 50 + pick_size(14);
}

/* What keylock is called with. */
static void
add_keylock(struct words *words, const struct contender *contender)
{
	add_long(words, keylock);
	if (contender->waiting > 0)
		add(words, "-w%ld.%06ld", contender->waiting / 1000000,
		    contender->waiting % 1000000);
	else if (contender->waiting < 0)
		add(words, "-n");
	if (contender->shared)
		add(words, "-s");
	if (contender->slotted)
		add(words, "-j%d", SLOTS);
	if (contender->in_place)
		add(words, "-F");
	if (contender->linger)
		add(words, "-l");
	if (contender->records)
		add(words, "-q%c", contender->records);
	if (contender->hold)
		add(words, "--hold");
	for (int i = 1; i < contender->count; i++)
		add(words, "-kk%d", contender->keys[i]);
	add(words, "k%d", contender->keys[0]);
}

/* What job() and caller() are called with, but for the keys. */
static void
add_self(struct words *words, const struct contender *contender)
{
	add_long(words, self);
	add(words, contender->hold ? "caller" : "job");
	add_long(words, folder);
	add(words, "%d", contender->run);
	add(words, "%s", *contender->kind ? contender->kind : "-");
	add(words, "%ld", contender->microseconds);
	add(words, "%d", contender->code);
}

/* Start a contender of a random kind. */
static void
start(struct contender *contender)
{
	struct words words = {.count = 0};
	posix_spawnattr_t attributes;
	int run = wave.started++;

	*contender = (struct contender){.started = now(), .run = run, .clean_since = -1};
	draw(contender);
	if (contender->hold) {
		add_self(&words, contender);
		add_keylock(&words, contender);
		add(&words, "--");
	} else {
		add_keylock(&words, contender);
		add_self(&words, contender);
		add_long(&words, keylock);
	}
	memset(&judge->runs[run], 0, sizeof(*judge->runs));
	memset(&played[run], 0, sizeof(*played));
	for (int i = 0; i < contender->count; i++) {
		add(&words, "k%d", contender->keys[i]);
		played[run].keys |= 1u << contender->keys[i];
	}
	played[run].exclusive = !contender->shared && !contender->slotted;
	if (judge->cleared == judge->doubts)
		contender->clean_since = judge->cleared;

	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
	errno = posix_spawn(&contender->pid, words.argv[0], NULL, &attributes, words.argv, environ);
	if (errno)
		fail(words.argv[0]);
	posix_spawnattr_destroy(&attributes);
	if (aloud) {
		fprintf(stderr, "run %d: pid %d:", run, (int)contender->pid);
		for (int i = 0; i < words.count; i++)
			fprintf(stderr, " %s", words.argv[i]);
		fprintf(stderr, "\n");
	}
}

/* The pid of the contender's command, 0 where it does not run. */
static pid_t
command_of(const struct contender *contender)
{
	pid_t pid = __atomic_load_n(&judge->runs[contender->run].pid, __ATOMIC_SEQ_CST);

	return pid && !contender->hold && getpgid(pid) == contender->pid ? pid : 0;
}

/* Signal a contender (or its group, by a negative number, or its command). */
static void
send(struct contender *contender, pid_t to, int signo)
{
	bool ends = signo != SIGSTOP && signo != SIGTSTP && signo != SIGCONT;

	contender->sent |= (uint64_t)1 << signo;
	/* Before it can have an effect. */
	if (ends && contender->records) {
		judge->runs[contender->run].shaken = true;
		__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
	}
	if (aloud)
		fprintf(stderr, "run %d: signal %d to %d\n", contender->run, signo, (int)to);
	kill(to, signo);
}

static void
end_some(struct contender *contender)
{
	static const int signos[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
	pid_t command = command_of(contender);

	contender->kill_at = 0;
	switch (contender->hold ? 0 : pick(10)) {
	case 0:
	case 1:
	case 2:
	case 3: /* the wrapper or the waiter, or the caller of --hold */
	case 4:
		/* Its nested run could outlive both as a waiter, which is no overlap; a
		 * daemon that has the lock then would hold all up. */
		if (contender->immortal)
			return;
		send(contender, contender->pid, SIGKILL);
		break;
	case 5:
	case 6: /* with all of its group */
		if (contender->immortal)
			return;
		send(contender, -contender->pid, SIGKILL);
		break;
	case 7: /* the command */
		if (!command)
			return;
		send(contender, command, SIGKILL);
		break;
	default:
		send(contender, contender->pid, signos[pick(4)]);
		break;
	}
	counts.killed++;
	counts.killed_waiting += judge->runs[contender->run].entry == 0;
}

static void
stop_some(struct contender *contender)
{
	pid_t command = command_of(contender), to = contender->pid;
	int signo = pick(2) ? SIGSTOP : SIGTSTP;

	contender->stop_at = 0;
	if (pick(3) == 0)
		to = -contender->pid;
	else if (command && pick(2))
		to = command;
	if (signo == SIGTSTP)
		played[contender->run].moved = true;
	send(contender, to, signo);
	/* Sometimes for longer than anybody waits at the gate. */
	contender->continue_at = now() + (pick(60) ? pick_size(16) : 200000);
	counts.stopped++;
}

/* Read a file of /proc, as far as there is room; of one that is gone, nothing. */
static char *
read_whole(int folder_of_it, const char *path, char *text, size_t size)
{
	int fd = openat(folder_of_it, path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t length = 0;

	while (fd >= 0 && (length = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)length;
	text[used] = '\0';
	if (fd >= 0)
		close(fd);
	return text;
}

/* One line of what /proc says of the process. */
static const char *
glance(pid_t pid, const char *file, char text[200])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	read_whole(AT_FDCWD, path, text, 200);
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* What the process is about, as far as the kernel says it. */
static void
describe(const char *who, pid_t pid, char text[300])
{
	char state[200], place[200], call[200], *end;

	end = strrchr(glance(pid, "stat", state), ')');
	snprintf(text, 300, "%s, pid %d, in state %.1s at %.40s, system call %.30s", who, (int)pid,
	         end && end[1] ? end + 2 : "-", glance(pid, "wchan", place),
	         glance(pid, "syscall", call));
}

/* What is due to be done to a contender. */
static void
tend(struct contender *contender)
{
	int64_t time = now();
	bool last_of_wave = wave.started == wave.size;

	if (contender->kill_at && time >= contender->kill_at)
		end_some(contender);
	if (contender->stop_at && time >= contender->stop_at)
		stop_some(contender);
	if (contender->continue_at && (time >= contender->continue_at || last_of_wave)) {
		contender->continue_at = 0;
		send(contender, -contender->pid, SIGCONT);
	}
	/* One SIGCONT may be lost in the microsecond in which keylock stops itself. */
	if (contender->sent >> SIGCONT & 1 && time - contender->started > stuck_after / 2 &&
	    !contender->again) {
		char text[200], *end = strrchr(glance(contender->pid, "stat", text), ')');

		contender->again = true;
		if (end && end[1] && end[2] == 'T') {
			counts.again++;
			send(contender, -contender->pid, SIGCONT);
			if (counts.again > 2 + counts.stopped / 1000)
				found(STUCK, "run %d: the SIGCONT of %ld was lost", contender->run,
				      counts.again);
		}
	}
	if (time - contender->started > stuck_after) {
		char one[300], other[300] = "its command has not begun or is gone";

		describe("it", contender->pid, one);
		if (command_of(contender))
			describe("its command", command_of(contender), other);
		found(STUCK, "run %d (keys %x) has not ended after %d s: %s; %s", contender->run,
		      played[contender->run].keys, (int)(stuck_after / 1000000), one, other);
		contender->started = time; /* and once more, should it survive this */
		send(contender, -contender->pid, SIGKILL);
	}
}

/*
 * What systemd-tmpfiles(8) does of old files and folders, to whom all are old here:
 * sticky ones are passed over, an empty folder goes.
 */
static void
clean(void)
{
	DIR *list = opendir(directory);
	struct stat file;

	if (list) {
		for (struct dirent *entry; (entry = readdir(list));)
			if (fstatat(dirfd(list), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
			    S_ISREG(file.st_mode) && !(file.st_mode & S_ISVTX))
				unlinkat(dirfd(list), entry->d_name, 0);
		closedir(list);
	}
	if (rmdir(directory) == 0)
		counts.cleaned++;
	else if (pick(2))
		mkdir(directory, 0700);
}

/*
 * Whether the process has a ticket at `file`, or with NULL at one that has lost its
 * name. How the lines of fdinfo look is told in proc(5); a ticket is a write lock at
 * byte 1000 or above.
 */
static bool
has_ticket(pid_t pid, const struct stat *file)
{
	char text[4096], path[64];
	bool has = false;
	DIR *list;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
	list = opendir(path);
	if (!list)
		return false;
	for (struct dirent *entry; !has && (entry = readdir(list));) {
		struct stat before, after;
		long at;

		snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", (int)pid, entry->d_name);
		if (entry->d_name[0] == '.' || stat(path, &before) < 0 ||
		    (file ? before.st_ino != file->st_ino || before.st_dev != file->st_dev
		          : before.st_nlink != 0))
			continue;
		read_whole(dirfd(list), entry->d_name, text, sizeof(text));
		for (char *line = text; (line = strstr(line, "OFDLCK")); line++)
			if (sscanf(line, "OFDLCK %*s WRITE %*d %*s %ld", &at) == 1 && at >= 1000)
				has = true;
		/* The number may have become another file's. */
		has = has && stat(path, &after) == 0 && before.st_ino == after.st_ino;
	}
	closedir(list);
	return has;
}

/* Whether the process is blocked in flock(2) at the file: who has no ticket. */
static bool
is_blocked(pid_t pid, const struct stat *file)
{
	static char text[1 << 16];

	read_whole(AT_FDCWD, "/proc/locks", text, sizeof(text));
	for (char *line = text; (line = strstr(line, "-> FLOCK")); line++) {
		unsigned long inode;
		int waiter;

		if (sscanf(line, "-> FLOCK %*s %*s %d %*[^:]:%*[^:]:%lu", &waiter, &inode) == 2 &&
		    waiter == pid && inode == file->st_ino)
			return true;
	}
	return false;
}

/* See whether a contender waits, for who is started from now on to come after it. */
static void
look_at(const struct contender *contender)
{
	char path[600];
	struct stat file;

	if (!contender->pid || contender->hold || contender->count > 1 ||
	    played[contender->run].seen || judge->runs[contender->run].entry)
		return;
	if (contender->slotted) {
		/* Which of several at once was quicker says nothing; but tickets are
		 * drawn inside the gate of a file that has its name, and keep it. */
		if (has_ticket(contender->pid, NULL))
			found(ORDER, "run %d waits at a file without a name", contender->run);
		return;
	}
	snprintf(path, sizeof(path), "%s/k%d", directory, contender->keys[0]);
	if (stat(path, &file) < 0 ||
	    (!has_ticket(contender->pid, &file) && !is_blocked(contender->pid, &file)))
		return;
	played[contender->run].seen = wave.started;
	counts.seen++;
}

/*
 * Whether the key may have been taken. -n is turned away by those who only look at the
 * file, as by who tidies, when its 100 ms for that are over; on a busy machine that
 * may be so before it was there.
 */
static bool
may_be_taken(const struct contender *contender, int64_t age)
{
	return contender->waiting && (wave.kind < READERS || age >= 100000);
}

/* Judge how a contender ended. */
static void
ended(struct contender *contender, int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	int signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	bool ran = judge->runs[contender->run].entry != 0;
	int64_t age = now() - contender->started;
	const char *why = NULL;

	/* What it leaves behind must not stay stopped. */
	kill(-contender->pid, SIGCONT);
	contender->pid = 0;
	if (signo) {
		if (!(contender->sent & (uint64_t)1 << signo))
			why = "that nobody sent";
	} else if (code == 75 && may_be_taken(contender, age)) {
		counts.taken++;
		if (ran)
			why = "though its command ran";
		else if (contender->waiting > 0 && age < contender->waiting)
			why = "before its time";
	} else if (code == 76 && contender->records == 'A') {
		counts.doubtful++;
		if (ran)
			why = "though its command ran";
		else if (contender->clean_since >= 0 && contender->clean_since == judge->doubts &&
		         contender->clean_since == judge->cleared)
			found(RECORD, "run %d was refused for a death that was not",
			      contender->run);
	} else if (code != (contender->hold ? GOOD : contender->code)) {
		why = "that is not its command's";
	} else if (!ran && !contender->hold) {
		why = "though its command did not run";
	}
	counts.ran += ran;
	if (why)
		found(ODD, "run %d (keys %x%s%s) ended by %s %d %s", contender->run,
		      played[contender->run].keys, contender->hold ? ", --hold" : "",
		      contender->in_place ? ", -F" : "", signo ? "signal" : "status",
		      signo ? signo : code, why);
}

/* Take down all that have ended; returns how many contenders. False: no children. */
static bool
reap(int *alive)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		int place = 0;

		while (place < PARALLEL_MAX && contenders[place].pid != pid)
			place++;
		if (place < PARALLEL_MAX) {
			ended(&contenders[place], status);
			--*alive;
		} else if (WIFEXITED(status)) {
			/* A command whose keylock was killed; a nested run; a --hold
			 * whose caller was killed, or its descendants. */
			int code = WEXITSTATUS(status);

			if (code != GOOD && code != OTHER && code != DOUBTFUL && code != 71 &&
			    code != 75 && code != 76)
				found(ODD, "an orphan ended by status %d", code);
		}
	}
	return pid == 0;
}

/* Run keylock with these arguments; its exit status, or -1. */
static int
run(const char *one, const char *two, const char *three, const char *four)
{
	const char *argv[] = {keylock, "-qw30", one, two, three, four, NULL};
	pid_t pid;
	int status;

	if (posix_spawn(&pid, keylock, NULL, NULL, (char **)(uintptr_t)argv, environ) ||
	    waitpid(pid, &status, 0) < 0)
		fail(keylock);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* No file may be there; those that are go, so as to be counted once. */
static void
expect_no_files(const char *when)
{
	DIR *list = opendir(directory);

	if (!list)
		return;
	for (struct dirent *entry; (entry = readdir(list));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			found(LEFT, "%s is left %s", entry->d_name, when);
			unlinkat(dirfd(list), entry->d_name, 0);
		}
	closedir(list);
}

/* Each key can be had; and its first run leaves no file. */
static void
had_once_more(void)
{
	for (int key = 0; key < KEYS; key++) {
		char name[8];
		bool slotted = key >= SLOTTED;
		int status;

		snprintf(name, sizeof(name), "k%d", key);
		if (key == RECORDED) {
			bool doubtful = judge->last >= 0 && !judge->well;
			bool clean = judge->cleared == judge->doubts;

			status = run("-A", name, self, "nothing");
			if ((status == 76 && clean) || (status == 0 && doubtful))
				found(RECORD, "%s has %s record at the end", name,
				      status ? "a" : "no");
			if (status != 0 && status != 76)
				found(STUCK, "%s is not to be had: status %d", name, status);
			status = run("--forget", name, NULL, NULL);
			judge->last = -1;
			judge->cleared = judge->doubts;
		} else if (slotted) {
			status = run("-j3", name, self, "nothing");
		} else {
			status = run(name, self, "nothing", NULL);
		}
		if (status != 0)
			found(STUCK, "%s is not to be had: status %d", name, status);
	}
	expect_no_files("after each key was had once more");
}

/* Each run that came to its end has its line, once. */
static void
judge_ledgers(void)
{
	for (int key = 0; key < SLOTTED; key++) {
		static int lines[2 * WAVE_MAX];
		int count, times[WAVE_MAX] = {0};
		char name[8];
		int fd;

		snprintf(name, sizeof(name), "k%d", key);
		fd = judges_file("ledger", name);
		count = (int)(read(fd, lines, sizeof(lines)) / (ssize_t)sizeof(int));
		if (count < 0 || ftruncate(fd, 0) < 0)
			fail("ledger");
		close(fd);
		for (int i = 0; i < count; i++)
			if (lines[i] >= 0 && lines[i] < wave.started)
				times[lines[i]]++;
			else
				found(LEDGER, "%s: a line of nobody", name);
		for (int i = 0; i < wave.started; i++) {
			bool due = judge->runs[i].left && played[i].keys & 1u << key;

			if (times[i] > 1 || (due && times[i] != 1))
				found(LEDGER, "%s: run %d is there %d times", name, i, times[i]);
		}
	}
}

/*
 * Who was seen to wait for a key comes before who was started after that, unless
 * both share it: then which of the commands was quicker says nothing.
 */
static void
judge_order(void)
{
	for (int early = 0; early < wave.started; early++) {
		int entry = judge->runs[early].entry;

		if (!played[early].seen || played[early].moved || !entry)
			continue;
		for (int late = played[early].seen; late < wave.started; late++)
			if ((played[late].keys & played[early].keys) && judge->runs[late].entry &&
			    judge->runs[late].entry < entry &&
			    (played[late].exclusive || played[early].exclusive))
				found(ORDER, "run %d was served before run %d", late, early);
	}
}

static void
wave_begin(long runs, int parallel)
{
	static const enum wave_kind kinds[] = {WILD, WILD, WILD, WILD, GENTLE, READERS, FEW};

	memset(&wave, 0, sizeof(wave));
	judge->entries = 0;
	wave.kind = kinds[pick(sizeof(kinds) / sizeof(*kinds))];
	if (only_kind >= 0)
		wave.kind = (enum wave_kind)only_kind;
	wave.size = 100 + (int)pick(wave.kind == WILD ? WAVE_MAX - 100 : 200);
	wave.size = wave.size > runs ? (int)runs : wave.size;
	wave.hot = wave.kind == READERS ? (int)pick(SLOTTED) : (int)pick(KEYS + 1) - 1;
	if (only_hot >= 0)
		wave.hot = only_hot;
	/* With few the files come and go, with many the queues are long. */
	wave.parallel = pick(2) ? 1 + (int)pick(4) : 1 + (int)pick((unsigned)parallel);
	if (wave.kind >= READERS && pick(3))
		wave.parallel = SLOTS;
	if (wave.kind == FEW && wave.parallel > SLOTS)
		wave.parallel = SLOTS;
	wave.parallel = wave.parallel > parallel ? parallel : wave.parallel;
	counts.waves++;
}

/*
 * A stop signal to a group can come just as one of it makes a group of its own, which
 * the group's SIGCONT does not reach: continue all that are ours by now.
 */
static void
continue_orphans(void)
{
	char path[64], list[4096];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)getpid(), (int)getpid());
	for (char *at = read_whole(AT_FDCWD, path, list, sizeof(list)); *at;) {
		pid_t pid = (pid_t)strtol(at, &at, 10);

		if (pid > 0)
			kill(pid, SIGCONT); /* not reaped yet, so it is still that one */
		at += strspn(at, " \n");
	}
}

/* What must be so when all contenders of a wave have ended. */
static void
wave_end(void)
{
	int64_t since = now();
	int alive = 0;

	__atomic_add_fetch(&judge->wave, 1, __ATOMIC_SEQ_CST); /* daemons end */
	while (reap(&alive)) {
		if (now() - since > stuck_after / 30)
			continue_orphans();
		if (now() - since > stuck_after) {
			found(STUCK, "an orphan has not ended");
			break;
		}
		pause_for(200);
	}
	if (wave.kind != WILD)
		expect_no_files("after a gentle wave");
	had_once_more();
	judge_ledgers();
	judge_order();
}

/* One wave; with `once` only up to the first fault. */
static void
play(long runs, int parallel, bool once)
{
	int alive = 0;

	wave_begin(runs, parallel);
	while (wave.started < wave.size || alive) {
		if (once && faults()) {
			for (int place = 0; place < wave.parallel; place++)
				if (contenders[place].pid)
					kill(-contenders[place].pid, SIGKILL);
			return;
		}
		for (int place = 0; place < wave.parallel && wave.started < wave.size; place++)
			if (!contenders[place].pid) {
				start(&contenders[place]);
				alive++;
			}
		reap(&alive);
		for (int place = 0; place < wave.parallel; place++)
			if (contenders[place].pid)
				tend(&contenders[place]);
		look_at(&contenders[pick((unsigned)wave.parallel)]);
		if (pick(8) == 0)
			clean();
		pause_for(50);
	}
	wave_end();
}

static void
usage(void)
{
	fprintf(stderr, "usage: torture [-vx] [-p PARALLEL] [-s SEED] [-t SECONDS] KEYLOCK RUNS\n");
	exit(64);
}

int
main(int argc, char **argv)
{
	const char *temporary = getenv("TMPDIR");
	int parallel = 24, option;
	unsigned long seed = (unsigned long)time(NULL);
	int64_t begin = now();
	char template[512], command[600];
	long runs, started = 0;
	bool once = false;

	if (argc > 7 && (strcmp(argv[1], "job") == 0 || strcmp(argv[1], "caller") == 0)) {
		bool holds = argv[1][0] == 'c';

		argv[1] = argv[0];
		snprintf(folder, sizeof(folder), "%s", argv[2]);
		judge_open();
		return holds ? caller(argv + 1) : job(argv + 1);
	}
	if (argc == 2 && strcmp(argv[1], "nothing") == 0)
		return 0;
	while ((option = getopt(argc, argv, "vxp:s:t:w:k:")) != -1)
		switch (option) {
		case 'v':
			aloud = true;
			break;
		case 'x':
			once = true;
			break;
		case 'p':
			parallel = atoi(optarg);
			break;
		case 's':
			seed = strtoul(optarg, NULL, 10);
			break;
		case 't':
			stuck_after = atol(optarg) * 1000000;
			break;
		case 'w':
			only_kind = atoi(optarg);
			break;
		case 'k':
			only_hot = atoi(optarg);
			break;
		default:
			usage();
		}
	directory = getenv("KEYLOCK_DIR");
	if (argc - optind != 2 || !directory || parallel < 1 || parallel > PARALLEL_MAX)
		usage();
	self = argv[0];
	keylock = argv[optind];
	runs = atol(argv[optind + 1]);
	random_state = seed * 2654435761u + 88172645463325252u;
	snprintf(template, sizeof(template), "%s/torture.XXXXXX", temporary ? temporary : "/tmp");
	if (!mkdtemp(template))
		fail(template);
	snprintf(folder, sizeof(folder), "%s", template);
	judge_open();
	judge->driver = getpid();
	judge->last = -1;
	/* Orphans become ours, to be waited for; pauses are as short as they say. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_TIMERSLACK, 1L);
	unsetenv("KEYLOCK_KEY");
	unsetenv("KEYLOCK_ABANDONED");

	while (started < runs && !(once && faults())) {
		play(runs - started, parallel, once);
		started += wave.started;
	}
	printf("torture: %ld runs in %ld waves in %.0f s, seed %lu: %ld commands ran, %ld "
	       "killed, %ld of them before their command ran, %ld stopped, %ld continued twice, "
	       "%d daemons, "
	       "the empty directory removed %ld times, %ld taken, %ld in doubt, %ld seen to "
	       "wait;",
	       started, counts.waves, (double)(now() - begin) / 1e6, seed, counts.ran,
	       counts.killed, counts.killed_waiting, counts.stopped, counts.again, judge->daemons,
	       counts.cleaned, counts.taken, counts.doubtful, counts.seen);
	for (int i = 0; i < FAULTS; i++)
		printf("%s %d %s", i ? "," : "", judge->faults[i], fault_names[i]);
	printf("\n");
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command) != 0)
		fprintf(stderr, "torture: rm failed\n");
	return faults() ? 1 : 0;
}

/*
 * Torture: all that the command line can do, at random, under fire. What is right is
 * judged by keylock's promises alone, and by means that are not keylock's.
 *
 *	torture [-v] [-f FAULTS] [-p PARALLEL] [-s SEED] [-w WAVE] [-x FEATURES] KEYLOCK RUNS
 *
 * KEYLOCK_DIR is the directory of the lockfiles, which nobody else may use; TMPDIR is
 * where the judge's files go. Prints one line of figures, and before it what was wrong;
 * exits 0 when nothing was, else 1. Ends after FAULTS waves that had one (1); -w plays
 * that wave alone, again and again; -x leaves features out, by the letters that are in
 * draw_run(); -v lists the runs of each wave. SEED repeats all choices, but not the
 * order in which the kernel runs the processes.
 *
 * The runs come in waves. All of a wave is drawn before it begins: what each run is
 * called with, which runs its command begins under it, how that ends, what is left
 * behind, which process is killed or stopped when. Players start the runs of a wave: one
 * here and, where root may, two that are process 1 of a process id namespace of their
 * own, one of those without a /proc that shows it. Beside them --list and --who look,
 * --forget forgets, and a cleaner goes about as systemd-tmpfiles(8) does.
 *
 *  P1 alone: each command that runs has a process-associated lock (fcntl_locking(2)) on
 *     the byte of its run in a file of the key, and then looks whether a stranger has one:
 *     who is no host or guest of it, and does not share the key as well. So does a process
 *     that a command leaves at work: what it does is part of the command's, until that has
 *     ended by itself. For slots the strangers are counted, twice.
 *  P2 free at once: of a daemon that stays until the wave ends, nobody knows.
 *  P3 no debris: after a calm wave there is no file; after others there is none when each
 *     key was had once more.
 *  P4 in turn: who was seen to have a ticket comes before all that were started later.
 *  P6 transparent: exit status, mask, dispositions and environment.
 *  P8 crash-honest: whether the run before came to its end is noted in shared memory, and
 *     so is each signal before it is sent.
 *  P9 never stuck: nobody runs on past its deadline, is deaf to a signal that ends it, or
 *     takes two seconds of a processor. All of this has 2 s, and twenty times as long as a
 *     player that wanted to sleep for a moment has overslept lately.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Keys k0 and k1 are exclusive or shared, k2 keeps records, k3 and k4 have slots. */
enum { FOREIGN = 1, RECORDED = 2, SLOTTED = 3, KEYS = 5, SLOTS = 3 };
enum { RUNS = 1024, TOPS = 400, DEEPEST = 3, EVENTS = 3, PLAYERS = 3, WORDS = 32 };
enum { SHOWN = 30, PIPE_FD = 200, STUCK_AFTER = 30 * 1000000 };
enum { SHARED_BYTES = RUNS }; /* in the witness: of those that share a key */

enum fault { ALONE, TURN, RECORD, DEBRIS, STATUS, UNLIKE, HANGS, FAULTS };
static const char *const fault_names[FAULTS] = {
    "not alone",  "out of turn",     "wrong records", "files left",
    "wrong ends", "not transparent", "hanging",
};

enum kind {
	WILD,
	CALM,    /* nothing that may leave a file */
	READERS, /* likewise, and all share: nobody is turned away */
	FEW,     /* likewise, at slots, no more than there are */
};

/* What is done to whom. */
struct event {
	int run; /* -1: nothing, or done */
	char to; /* k: its keylock, c: its command, w: whom that left at work, g: the group */
	int signo;
	long at;     /* microseconds after its start */
	long thawed; /* so much later, SIGCONT */
};

struct run {
	/* Drawn before the wave. */
	int parent, top; /* whose command begins it, or -1; the first of its family */
	int player;
	int keys[3], count;
	char mode;    /* x, s or j */
	char records; /* A, R or 0 */
	char foreign; /* no keylock: x, s: flock(2), w, r: fcntl(2) on all bytes */
	bool reentrant, no_fork, close, linger, hold, verbose, script, named;
	long wait;    /* -w, in microseconds; 0: for ever; -1: -n */
	int conflict; /* -E */
	int missing;  /* no command: ends with this status */
	long work;    /* microseconds */
	int end;      /* status of the command, or its signal as a negative number */
	long worker;  /* leaves a process at work, for so long */
	char daemon;  /* leaves one that has nothing to do: d, or until the wave ends: D */
	int kid[2];   /* runs that it begins, or -1 */
	char how[2];  /* and waits for: w, does not: b, becomes: e */
	char shut;    /* k: its runs do not inherit the lock, c: nor has it itself */
	struct event events[EVENTS];

	/* What came of it. */
	pid_t pid, command, at_work; /* as its player knows them */
	int64_t started, thawed, told;
	int stamp; /* its place among those started */
	int clean; /* judge->cleared when it was started, where that was sure; or -1 */
	int entry; /* its place among the commands that ran, from 1; 0: did not */
	int seen;  /* how many were started when it was seen to wait; 0: was not */
	bool moved, became, finished, ended, voided, complained;
	uint64_t sent; /* signals that any of its family was sent, as bits; of the top */
};

/* In memory that all share. */
static struct judge {
	int wave, size, count; /* its number; families; runs */
	bool given_up;         /* since somebody hangs */
	enum kind kind;
	int hot, parallel, players, over;
	bool foreign;
	int faults[FAULTS], faults_before;
	int open; /* families that have not ended */
	int stamps, entries, lag;
	/* Of the key with records. */
	int doubts;  /* how often something happened that may leave the key in doubt */
	int cleared; /* the key is clean if there was none since that one */
	int forgets; /* odd: somebody forgets it */
	int last;    /* whose command ran last, or -1 */
	int last_forgets;
	bool well; /* and came to its end */
	struct {
		long runs, contended, ran, killed, stopped, nested, guests, at_work, daemons, taken,
		    doubtful, cycles, looks, seen, flocks, cleaned;
	} counts;
	struct run runs[RUNS];
} * judge;

static char folder[400]; /* of the judge's files */
static const char *self, *keylock, *directory, *left_out = "";
static bool aloud;
static int scale = 1; /* of what is allowed to a slow keylock */
static unsigned long seed;
static uint64_t random_state;
static bool skipped[TOPS];

#define COUNT(what) __atomic_add_fetch(&judge->counts.what, 1, __ATOMIC_RELAXED)

/* ---- What all use ---- */

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

static bool
ends_by_itself(const struct run *run)
{
	return run->end >= 0 && (run->end < 129 || run->end > 192);
}

static bool
has_key(const struct run *run, int key)
{
	for (int i = 0; i < run->count; i++)
		if (run->keys[i] == key)
			return true;
	return false;
}

struct words {
	char text[WORDS][32];
	char *argv[WORDS + 1];
	int count;
};

static void
add(struct words *words, const char *word)
{
	if (words->count == WORDS)
		fail("words");
	words->argv[words->count] = (char *)(uintptr_t)word;
	words->argv[++words->count] = NULL;
}

__attribute__((format(printf, 2, 3))) static void
add_text(struct words *words, const char *format, ...)
{
	char *text = words->text[words->count % WORDS];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(words->text[0]), format, arguments);
	va_end(arguments);
	add(words, text);
}

/* What its keylock is called with, up to the key. */
static void
add_keylock(struct words *words, const struct run *run)
{
	static const struct {
		size_t at;
		const char *option;
	} flags[] = {
	    {offsetof(struct run, reentrant), "-r"}, {offsetof(struct run, no_fork), "-F"},
	    {offsetof(struct run, close), "-o"},     {offsetof(struct run, linger), "-l"},
	    {offsetof(struct run, verbose), "-v"},   {offsetof(struct run, hold), "--hold"},
	};

	add(words, keylock);
	if (run->named)
		add(words, "-d"), add(words, directory);
	if (run->wait > 0)
		add_text(words, "-w%ld.%06ld", run->wait / 1000000, run->wait % 1000000);
	if (run->wait < 0)
		add(words, "-n");
	if (run->conflict != 75)
		add_text(words, "-E%d", run->conflict);
	if (run->mode == 's')
		add(words, "-s");
	if (run->mode == 'j')
		add_text(words, "-j%d", SLOTS);
	if (run->records)
		add_text(words, "-%c", run->records);
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (*((const bool *)run + flags[i].at))
			add(words, flags[i].option);
	for (int i = 1; i < run->count; i++)
		add_text(words, "-kk%d", run->keys[i]);
	add_text(words, "k%d", run->keys[0]);
}

/* All of a run in a line. */
static char *
describe(int number, char text[1000])
{
	const struct run *run = &judge->runs[number];
	size_t used = (size_t)snprintf(text, 1000, "%d:", number);
	struct words words = {.count = 0};

#define SAY(...) (used += (size_t)snprintf(text + used, used < 900 ? 1000 - used : 0, __VA_ARGS__))
	if (run->foreign) {
		SAY(" %s(%c) k%d", strchr("xs", run->foreign) ? "flock" : "fcntl", run->foreign,
		    run->keys[0]);
	} else {
		add_keylock(&words, run);
		for (int i = 1; i < words.count; i++)
			SAY(" %s", words.argv[i]);
	}
	if (run->missing)
		SAY(" (no command: %d)", run->missing);
	SAY(" {%ld us", run->work);
	if (run->shut)
		SAY(", lock closed for %s", run->shut == 'k' ? "its runs" : "itself");
	for (int i = 0; i < 2; i++)
		if (run->kid[i] >= 0)
			SAY(", %s %d",
			    run->how[i] == 'w'   ? "runs"
			    : run->how[i] == 'b' ? "begins"
			                         : "becomes",
			    run->kid[i]);
	if (run->worker)
		SAY(", leaves work of %ld us", run->worker);
	if (run->daemon)
		SAY(", leaves a daemon (%c)", run->daemon);
	SAY(", %s %d}", run->end < 0 ? "signal" : "exit", run->end < 0 ? -run->end : run->end);
	for (int i = 0; i < EVENTS; i++)
		if (run->events[i].at)
			SAY(" [signal %d to %c of %d after %ld us%s]", run->events[i].signo,
			    run->events[i].to, run->events[i].run, run->events[i].at,
			    run->events[i].thawed ? ", and CONT" : "");
	if (run->player)
		SAY(" in pid namespace %d", run->player);
	if (run->entry)
		SAY(" ran as %d", run->entry);
#undef SAY
	return text;
}

__attribute__((format(printf, 2, 3))) static void
found(enum fault fault, const char *format, ...)
{
	char text[3000], path[500];
	int length, fd;
	va_list arguments;

	if (__atomic_add_fetch(&judge->faults[fault], 1, __ATOMIC_SEQ_CST) > SHOWN)
		return;
	length =
	    snprintf(text, sizeof(text), "torture: wave %d: %s: ", judge->wave, fault_names[fault]);
	va_start(arguments, format);
	length += vsnprintf(text + length, sizeof(text) - (size_t)length - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(text) - 2)
		length = (int)sizeof(text) - 2;
	text[length++] = '\n';
	/* In one piece. Standard error may be one that nobody reads. */
	snprintf(path, sizeof(path), "%s/log", folder);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, (size_t)length) < 0)
		fail(path);
	close(fd);
}

static void
judge_open(void)
{
	char path[500];
	int fd;

	snprintf(path, sizeof(path), "%s/judge", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(*judge)) < 0)
		fail(path);
	judge = mmap(NULL, sizeof(*judge), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (judge == MAP_FAILED)
		fail("mmap");
	close(fd);
}

/* Start a program: with a process group of its own, streams, without the lock's descriptors. */
static pid_t
spawn(char **argv, bool group, int in, int out, int err, bool shut)
{
	pid_t pid = vfork();

	if (pid < 0)
		fail("vfork");
	if (pid > 0)
		return pid;
	if (group)
		setpgid(0, 0);
	if (in >= 0)
		dup2(in, 0);
	if (out >= 0)
		dup2(out, 1);
	if (err >= 0)
		dup2(err, 2);
	if (shut)
		close_range(10, ~0u, 0);
	execv(argv[0], argv);
	_exit(127);
}

/* ---- P1: who is alone ---- */

/* Whose hold covers this run at the key: its own, or an ancestor's. */
static int
family(int number, int key)
{
	const struct run *run = &judge->runs[number];

	if (run->reentrant)
		for (int host = run->parent; host >= 0; host = judge->runs[host].parent)
			if (has_key(&judge->runs[host], key))
				return family(host, key);
	return number;
}

/* Whose bytes in [from, to) have a lock, and are not ours: added to list, up to 40. */
static int
others(int fd, int from, int to, int *list, int count)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = from, .l_len = to - from};
	int at;

	if (from >= to || count >= 40 || fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return count;
	at = (int)lock.l_start;
	list[count++] = at;
	count = others(fd, from, at, list, count);
	return others(fd, at + 1, to, list, count);
}

/* The strangers among them that must not be there. */
static int
strangers(int number, int fd, int key, int *list)
{
	const struct run *run = &judge->runs[number];
	int count = others(fd, 0, run->mode == 's' ? SHARED_BYTES : 2 * SHARED_BYTES, list, 0);
	int kept = 0, own = family(number, key);

	for (int i = 0; i < count; i++) {
		int other = list[i] % SHARED_BYTES;
		const struct run *it = &judge->runs[other];
		bool again = false;

		if (other == number || it->voided || family(other, key) == own)
			continue;
		/* CAVEATS: flock(2) in the microsecond in which a guest is let in. */
		if ((it->foreign && own != number) ||
		    (run->foreign && family(other, key) != other)) {
			COUNT(flocks);
			continue;
		}
		for (int j = 0; j < kept && run->mode == 'j'; j++)
			again = again || family(list[j], key) == family(other, key);
		if (!again)
			list[kept++] = other;
	}
	return kept;
}

/* Say that the keys are ours, until our process ends or the descriptors are closed. */
static void
enter(int number, int fds[3], const char *what)
{
	const struct run *run = &judge->runs[number];

	for (int i = 0; i < run->count; i++) {
		struct flock lock = {.l_type = F_RDLCK, .l_start = number, .l_len = 1};
		int list[40], again[40], count, limit = run->mode == 'j' ? SLOTS : 1;
		char path[500], one[1000], two[1000];

		snprintf(path, sizeof(path), "%s/witness.%d", folder, run->keys[i]);
		/* Below 10, so that it is closed before the lock is. */
		fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (run->mode == 's')
			lock.l_start += SHARED_BYTES;
		if (fds[i] < 0 || fcntl(fds[i], F_SETLK, &lock) < 0)
			fail(path);
		count = strangers(number, fds[i], run->keys[i], list);
		if (count < limit || run->voided)
			continue;
		/* One leaves and the next one comes while we count: they stay, or it is none. */
		if (limit > 1 && (strangers(number, fds[i], run->keys[i], again) != count ||
		                  memcmp(list, again, (size_t)count * sizeof(*list)) != 0))
			continue;
		found(ALONE, "k%d: %s of\n\t%s\nbeside %d others, one is\n\t%s", run->keys[i], what,
		      describe(number, one), count, describe(list[0], two));
	}
}

/* ---- The command's side ---- */

static void launch(int number);
static void judge_end(int number, int status, const struct rusage *use);

/* P8: what the last run left of the record, against what keylock says. */
static int
record_enter(int number)
{
	const struct run *run = &judge->runs[number];
	bool told = getenv("KEYLOCK_ABANDONED") != NULL;
	bool died = judge->last >= 0 && !judge->well && judge->forgets == judge->last_forgets;
	int doubts = __atomic_load_n(&judge->doubts, __ATOMIC_SEQ_CST);
	char text[1000];

	if (told && judge->cleared == doubts)
		found(RECORD, "told of a death that was not: %s", describe(number, text));
	if (died && run->records == 'A' && !run->hold)
		found(RECORD, "-A ran though run %d died: %s", judge->last, describe(number, text));
	/* --hold with -R cannot tell. */
	if (died && !told && run->records == 'R' && !run->hold)
		found(RECORD, "was not told that run %d died: %s", judge->last,
		      describe(number, text));
	if (run->mode == 's')
		return doubts;
	judge->well = false;
	judge->last = number;
	judge->last_forgets = judge->forgets;
	return doubts;
}

static void
record_leave(int number, bool well, int doubts)
{
	if (judge->runs[number].mode == 's')
		return;
	judge->well = well;
	if (!well)
		__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
	else if (!judge->runs[judge->runs[number].top].sent)
		judge->cleared = doubts;
}

/* P6: what the command finds. */
static void
compare(int number)
{
	const char *key = getenv("KEYLOCK_KEY");
	sigset_t mask;
	struct sigaction action;
	char text[1000], name[8];

	snprintf(name, sizeof(name), "k%d", judge->runs[number].keys[0]);
	if (!key || strncmp(key, name, 2) != 0 || (key[2] && key[2] != '\n'))
		found(UNLIKE, "KEYLOCK_KEY=%s: %s", key ? key : "", describe(number, text));
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int signo = 1; signo < 65; signo++)
		if (sigismember(&mask, signo) == 1)
			found(UNLIKE, "signal %d is blocked: %s", signo, describe(number, text));
		else if (sigaction(signo, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
			found(UNLIKE, "signal %d is ignored: %s", signo, describe(number, text));
}

/* Leave a process behind: at work under the lock, or a daemon that has nothing to do. */
static pid_t
leave_behind(int number, const int fds[3], bool works)
{
	struct run *run = &judge->runs[number];
	int wave = judge->wave, mine[3];
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	for (int i = 0; i < run->count; i++)
		close(fds[i]);
	if (works) {
		enter(number, mine, "what is left at work");
		pause_for(run->worker);
		_exit(0);
	}
	setsid();
	pause_for(run->work + 200);
	for (int64_t until = now() + 2 * (int64_t)scale * STUCK_AFTER; now() < until;
	     pause_for(3000))
		if (run->daemon != 'D' || judge->over || judge->wave != wave)
			break;
	_exit(0);
}

/* Begin the runs that belong under this one. */
static void
begin_kids(int number, const int fds[3])
{
	struct run *run = &judge->runs[number];
	struct rusage use;
	int status;

	for (int i = 0; i < 2; i++) {
		if (run->kid[i] < 0)
			continue;
		if (run->how[i] == 'e') {
			struct words words = {.count = 0};
			struct run *kid = &judge->runs[run->kid[i]];

			for (int key = 0; key < run->count; key++)
				close(fds[key]);
			run->became = true;
			kid->pid = getpid();
			kid->started = now();
			add_keylock(&words, kid);
			add_text(&words, "--");
			add(&words, self);
			add(&words, "job");
			add(&words, folder);
			add_text(&words, "%d", run->kid[i]);
			execv(keylock, words.argv);
			fail(keylock);
		}
		launch(run->kid[i]);
		if (run->how[i] == 'w' && wait4(judge->runs[run->kid[i]].pid, &status, 0, &use) > 0)
			judge_end(run->kid[i], status, &use);
	}
}

/* The command of a run. */
static int
job(int number)
{
	struct run *run = &judge->runs[number];
	int fds[3] = {-1, -1, -1}, doubts = 0;

	enter(number, fds, "the command");
	run->command = getpid();
	run->entry = __atomic_add_fetch(&judge->entries, 1, __ATOMIC_SEQ_CST);
	compare(number);
	if (run->records)
		doubts = record_enter(number);
	if (run->worker)
		run->at_work = leave_behind(number, fds, true);
	pause_for(run->work / 2);
	if (run->shut == 'c') {
		if (run->no_fork)
			run->voided = true;
		close_range(10, ~0u, 0);
	}
	begin_kids(number, fds);
	pause_for(run->work / 2);
	if (run->records)
		record_leave(number, ends_by_itself(run), doubts);
	/* What it has left at work has a part in the key no longer than this one. */
	if (run->at_work > 0 && ends_by_itself(run) && !run->linger && !run->no_fork) {
		kill(run->at_work, SIGKILL);
		waitpid(run->at_work, NULL, 0);
	}
	if (run->daemon)
		leave_behind(number, fds, false);
	run->finished = true;
	if (run->end < 0)
		kill(getpid(), -run->end);
	return run->end;
}

/* A caller that holds the keys by --hold. Ends as keylock does. */
static int
caller(int number)
{
	struct run *run = &judge->runs[number];
	struct words words = {.count = 0};
	char line[8] = "";
	int in[2], out[2], fds[3] = {-1, -1, -1}, status, doubts = 0;
	bool well = run->end == 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		fail("pipe");
	add_keylock(&words, run);
	/* It has a word to say when its caller was killed. */
	run->command = spawn(words.argv, false, in[0], out[1], -1, false);
	signal(SIGPIPE, SIG_IGN);
	close(in[0]);
	close(out[1]);
	if (read(out[0], line, sizeof(line)) == 7 && memcmp(line, "locked\n", 7) == 0) {
		enter(number, fds, "the caller of --hold");
		run->entry = __atomic_add_fetch(&judge->entries, 1, __ATOMIC_SEQ_CST);
		if (run->records)
			doubts = record_enter(number);
		pause_for(run->work);
		if (run->records)
			record_leave(number, well, doubts);
		for (int i = 0; i < run->count; i++)
			close(fds[i]); /* from here on another may come */
		run->finished = true;
		if (well && write(in[1], "done\n", 5) != 5)
			well = false;
	}
	/* In any order, one soon after the other. */
	close(number % 2 ? in[1] : out[0]);
	close(number % 2 ? out[0] : in[1]);
	waitpid(run->command, &status, 0);
	if (WIFSIGNALED(status))
		kill(getpid(), WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* Another program that locks the key's file, which is pinned. */
static int
foreigner(int number)
{
	struct run *run = &judge->runs[number];
	struct flock lock = {.l_type = run->foreign == 'w' ? F_WRLCK : F_RDLCK};
	char path[500];
	int fds[3] = {-1, -1, -1}, fd;

	snprintf(path, sizeof(path), "%s/k%d", directory, run->keys[0]);
	for (fd = 3; fd < 9; fd++) /* the lock's is behind the witness's */
		if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
			fail("/dev/null");
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail(path);
	close_range(3, 8, 0);
	if (run->foreign == 'w' || run->foreign == 'r') {
		if (fcntl(fd, F_SETLKW, &lock) == 0)
			pause_for(run->work);
		run->finished = true;
		return run->end;
	}
	if (flock(fd, run->foreign == 'x' ? LOCK_EX : LOCK_SH) < 0)
		fail(path);
	enter(number, fds, "flock");
	pause_for(run->work);
	run->finished = true;
	return run->end;
}

/* ---- The wave is drawn ---- */

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

/* So that what one run is like does not depend on what is left out of another. */
static void
random_begin(unsigned number)
{
	random_state = (seed + 1) * 2654435761u + (uint64_t)judge->wave * 40503000017u +
	               (uint64_t)number * 97531000003u + 88172645463325252u;
	for (int i = 0; i < 10; i++)
		pick(2);
}

static bool
may(char feature, unsigned chances)
{
	return pick(chances) == 0 && !strchr(left_out, feature);
}

/* How the command ends: by itself, mostly well; or not. */
static int
draw_end(bool dies)
{
	static const int signals[] = {SIGKILL, SIGTERM, SIGABRT, SIGSEGV, SIGUSR2};

	if (dies)
		return pick(2) ? -signals[pick(5)] : 129 + (int)pick(64);
	return pick(8) ? 0 : pick(2) ? 7 : 193 + (int)pick(63);
}

/* What may happen to a family. */
static void
draw_events(int top)
{
	static const int ends[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM};
	struct run *run = &judge->runs[top];
	unsigned members = (unsigned)(judge->count - top);
	bool wild = judge->kind == WILD;

	for (int i = 0; i < EVENTS; i++) {
		struct event *event = &run->events[i];
		bool kills = i < 2 && may('K', i ? 12 : 3);
		bool stops = i == 2 && may('z', 12);
		struct event drawn = {.run = top + (int)pick(members),
		                      .to = "kkkkkccgwk"[pick(10)],
		                      .at = 50 + (long)pick_size(15)};

		*event = (struct event){.run = -1};
		if ((!kills && !stops) || run->daemon == 'D' || run->foreign)
			continue;
		/* In a calm wave, what keylock can catch, and nobody is left by it. */
		if (!wild && (may('t', 1) == 0 || judge->kind != CALM || members > 1 ||
		              run->daemon || run->hold || run->records))
			continue;
		drawn.signo = stops             ? (pick(2) && wild ? SIGSTOP : SIGTSTP)
		              : pick(3) && wild ? SIGKILL
		                                : ends[pick(5)];
		if (!wild)
			drawn.to = 'k';
		if (stops)
			/* Sometimes for longer than anybody waits at the gate. */
			drawn.thawed = pick(50) ? (long)pick_size(15) : 250000;
		*event = drawn;
	}
}

/*
 * Draw a run and those under it. Letters of features: s shared, j slots, k several
 * keys, A records, h --hold, p pinned with foreign locks, F, o, l, E as the options, v
 * -v into a pipe that nobody reads, c -c, r runs under runs, e that take the place of
 * the command, x descriptors closed, m no command, D commands that die, w processes left
 * at work, d daemons, K kills, z stops, t signals in calm waves, n namespaces, L looks.
 */
static int
draw_run(int ordinal, unsigned path, int parent)
{
	int number = judge->count++, depth = 0, key, kids = 0;
	struct run *run = &judge->runs[number];
	const struct run *host = parent >= 0 ? &judge->runs[parent] : NULL;
	bool wild = judge->kind == WILD, few = judge->kind >= READERS, dies;

	random_begin((unsigned)ordinal * 256 + path);
	*run = (struct run){.parent = parent, .conflict = 75, .count = 1, .kid = {-1, -1}};
	run->top = host ? host->top : number;
	run->player = host ? host->player : (int)pick((unsigned)judge->players);
	for (const struct run *up = host; up; up = up->parent < 0 ? NULL : &judge->runs[up->parent])
		depth++;
	key = judge->hot >= 0 && pick(4) ? judge->hot : (int)pick(KEYS);
	if (judge->kind == FEW)
		key = SLOTTED;
	if (judge->kind == READERS || strchr(left_out, 'j'))
		key %= SLOTTED;
	if (host && pick(4))
		key = host->keys[pick((unsigned)host->count)];
	run->keys[0] = key;
	run->mode = key >= SLOTTED ? 'j' : judge->kind == READERS || may('s', 4) ? 's' : 'x';
	run->work = pick(3) ? (long)pick_size(11) : 0;
	if (!host && judge->foreign && key == FOREIGN && pick(3) == 0) {
		run->foreign = "xswr"[pick(4)];
		run->mode = run->foreign == 's' ? 's' : 'x';
		if (run->foreign == 'w' || run->foreign == 'r')
			run->work = pick(60) ? run->work : 150000;
		draw_events(number);
		return number;
	}
	run->reentrant = host ? pick(4) != 0 : pick(12) == 0;
	run->hold = !host && may('h', 10);
	if (key == RECORDED && !host && pick(4) && !strchr(left_out, 'A'))
		run->records = pick(3) ? 'R' : 'A';
	run->no_fork = wild && !run->hold && !run->records && may('F', 10);
	run->close = !run->hold && !run->no_fork && may('o', 8);
	run->linger = wild && !run->hold && may('l', 10);
	switch (pick(few ? 2 : 6)) {
	case 0:
		run->wait = -1;
		break;
	case 1:
		run->wait = few ? 0 : 1 + (long)pick_size(16);
		break;
	default:
		/* What would wait for its host, or in a cycle, is found after a second. */
		if (host && (!run->reentrant || !has_key(host, key)) && pick(16))
			run->wait = pick(2) ? -1 : 1 + (long)pick_size(13);
		break;
	}
	if (may('E', 10))
		run->conflict = 99;
	run->verbose = may('v', 8);
	run->script = !run->hold && may('c', 60);
	run->named = pick(8) == 0;
	if (!run->records && !few && may('k', 6)) {
		/* All or none: in any order, of two or three. */
		run->keys[run->count++] =
		    key >= SLOTTED ? KEYS - 1 + SLOTTED - key : (key + 1) % RECORDED;
		if (key < RECORDED && pick(3) == 0)
			run->keys[run->count++] = RECORDED;
		if (pick(2)) {
			run->keys[0] = run->keys[1];
			run->keys[1] = key;
		}
	}
	if (!run->hold && may('m', 40))
		run->missing = 126 + (int)pick(2);

	dies = may('D', 8);
	if (run->hold) {
		run->end = dies && wild ? 1 : 0; /* does not say that it is done */
		if (!host)
			draw_events(number);
		return number;
	}
	if (depth < DEEPEST && judge->count < RUNS - 8 && !few && may('r', depth ? 3 : 6))
		kids = 1 + (pick(3) == 0);
	run->end = draw_end(dies && (wild || (!kids && !run->records)));
	for (int i = 0; i < kids; i++)
		run->how[i] = !run->records && i == kids - 1 && may('e', 5) ? 'e'
		              : pick(2)                                     ? 'w'
		                                                            : 'b';
	if (kids && may('x', 5))
		run->shut = pick(2) ? 'k' : 'c';
	if (!kids || run->how[kids - 1] != 'e') {
		if (wild && !run->close && run->shut != 'c' && may('w', 8))
			run->worker = 100 + (long)pick_size(13);
		if ((wild || ends_by_itself(run)) && may('d', 8))
			run->daemon = 'd';
		if (run->daemon && !host && !kids && !run->linger && !run->no_fork &&
		    ends_by_itself(run) && pick(8) == 0)
			run->daemon = 'D';
	}
	for (int i = 0; i < kids; i++)
		run->kid[i] = draw_run(ordinal, path * 2 + (unsigned)i, number);
	random_begin((unsigned)ordinal * 256 + path + 128);
	if (!host)
		draw_events(number);
	return number;
}

static void
draw_wave(int parallel)
{
	static const enum kind kinds[] = {WILD, WILD, WILD, WILD, CALM, CALM, READERS, FEW};

	random_begin(1u << 30);
	judge->kind = kinds[pick(sizeof(kinds) / sizeof(*kinds))];
	judge->size = 100 + (int)pick(TOPS - 100);
	judge->hot = judge->kind == READERS ? (int)pick(SLOTTED) : (int)pick(KEYS + 1) - 1;
	if (strchr(left_out, 'j') && judge->hot >= SLOTTED)
		judge->hot %= SLOTTED;
	/* With few the files come and go, with many the queues are long. */
	judge->parallel = pick(2) ? 1 + (int)pick(4) : 1 + (int)pick((unsigned)parallel);
	judge->players = geteuid() == 0 && may('n', 2) ? 2 + (int)pick(2) : 1;
	if (judge->kind == FEW) {
		judge->players = 1;
		judge->parallel = SLOTS;
	}
	judge->foreign = judge->kind == WILD && may('p', 3);
	judge->count = judge->stamps = judge->entries = judge->over = 0;
	judge->open = judge->lag = 0;
	judge->given_up = false;
	for (int i = 0; i < judge->size && judge->count < RUNS - 64; i++) {
		int before = judge->count;

		draw_run(i, 1, -1);
		if (skipped[i])
			judge->count = before;
		else
			judge->open++;
	}
}

/* ---- The players' side ---- */

static int player;        /* its number */
static int null;          /* /dev/null */
static pid_t proc_is_own; /* whether /proc shows our namespace */

static int64_t
slack(void)
{
	return (int64_t)scale * 2000000 + 20 * (int64_t)judge->lag;
}

/* Start a run, from a player or from the command of another run. */
static void
launch(int number)
{
	struct run *run = &judge->runs[number];
	struct words words = {.count = 0};
	char script[600];

	if (run->foreign || run->hold) {
		add(&words, self);
		add(&words, run->foreign ? "foreigner" : "caller");
		add(&words, folder);
		add_text(&words, "%d", number);
	} else {
		add_keylock(&words, run);
		if (run->missing) {
			add(&words, run->missing == 126 ? "/" : "/nowhere/to/be/found");
		} else if (run->script) {
			snprintf(script, sizeof(script), "exec %s job %s %d", self, folder, number);
			add(&words, "-c");
			add(&words, script);
		} else {
			add(&words, self);
			add(&words, "job");
			add(&words, folder);
			add_text(&words, "%d", number);
		}
	}
	COUNT(runs);
	run->started = now();
	run->stamp = __atomic_add_fetch(&judge->stamps, 1, __ATOMIC_SEQ_CST);
	run->clean = judge->cleared == judge->doubts ? judge->cleared : -1;
	run->pid = spawn(words.argv, run->parent < 0, -1, -1,
	                 run->parent < 0 && run->verbose ? PIPE_FD : -1,
	                 run->parent >= 0 && judge->runs[run->parent].shut == 'k');
}

/* Whether an ancestor surely held all its keys, so that it must be let in at once. */
static bool
covered(const struct run *run)
{
	const struct run *host = run->parent >= 0 ? &judge->runs[run->parent] : NULL;

	/* A moment may be over before it has looked. */
	if (!host || !run->reentrant || (run->wait > 0 && run->wait < 50000) ||
	    judge->runs[run->top].sent || host->became || (host->shut == 'c' && host->no_fork) ||
	    host->voided)
		return false;
	for (int i = 0; i < 2; i++)
		if (host->kid[i] == run - judge->runs && host->how[i] != 'w')
			return false;
	for (int i = 0; i < run->count; i++)
		if (!has_key(host, run->keys[i]))
			return false;
	return host->mode == 'x' || host->mode == run->mode;
}

/* What is wrong with an end by this status, or NULL. */
static const char *
wrong_end(const struct run *run, const struct run *last, int code)
{
	int64_t age = now() - run->started;
	int cleared = judge->cleared;

	if (last->entry && !last->finished)
		return "though its command was not at its end";
	if (last->entry)
		return code != (last->hold ? 0 : last->end) ? "that is not its command's" : NULL;
	if (last->foreign)
		return last->finished ? NULL : "that is odd";
	if (code == last->conflict && last->wait != 0) {
		COUNT(taken);
		if (covered(last))
			return "under an ancestor's hold";
		if (last == run && last->wait > age)
			return "before its time";
		if (judge->kind >= READERS && age < 100000)
			return "though nobody is in its way";
		return NULL;
	}
	if (code == 76 && last->records == 'A') {
		COUNT(doubtful);
		return last == run && run->clean == cleared && judge->doubts == cleared
		           ? "for a death that was not"
		           : NULL;
	}
	if (code == 78 && (last->parent >= 0 || last->count > 1)) {
		COUNT(cycles);
		return covered(last) ? "under an ancestor's hold" : NULL;
	}
	if (code == last->missing && code)
		return NULL;
	return "without its command";
}

/* Judge how a run ended. */
static void
judge_end(int number, int status, const struct rusage *use)
{
	struct run *run = &judge->runs[number], *last = run;
	uint64_t sent = judge->runs[run->top].sent;
	int signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	const char *why = NULL;
	char text[1000];

	run->ended = true;
	while (last->became)
		last = &judge->runs[last->kid[last->kid[1] >= 0]];
	if (last != run)
		last->ended = true;
	COUNT(contended);
	judge->counts.ran += run->entry != 0;
	judge->counts.nested += run->parent >= 0;
	judge->counts.guests += run->parent >= 0 && run->entry && run->reentrant;
	judge->counts.at_work += run->at_work != 0;
	judge->counts.daemons += run->finished && run->daemon;
	if (use->ru_utime.tv_sec + use->ru_stime.tv_sec >= 2 * scale)
		found(HANGS, "it took %ld s of a processor: %s",
		      use->ru_utime.tv_sec + use->ru_stime.tv_sec, describe(number, text));
	if (signo) {
		if (!(sent >> signo & 1) && !(last->finished && last->end == -signo))
			why = "that nobody sent";
	} else {
		why = wrong_end(run, last, WEXITSTATUS(status));
	}
	if (why)
		found(STATUS, "%s %d %s: %s", signo ? "signal" : "status",
		      signo ? signo : WEXITSTATUS(status), why, describe(number, text));
}

/* Take down all that have ended. False: there are no children. */
static bool
reap(int *alive)
{
	struct rusage use;
	int status;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG, &use)) > 0)
		for (int i = 0; i < judge->count; i++) {
			struct run *run = &judge->runs[i];

			if (run->pid != pid || run->ended || run->player != player)
				continue;
			judge_end(i, status, &use);
			if (run->parent < 0) {
				kill(-pid, SIGCONT); /* what it leaves must not stay stopped */
				__atomic_sub_fetch(&judge->open, 1, __ATOMIC_SEQ_CST);
				--*alive;
			}
			break;
		}
	return pid == 0;
}

/* Note what a signal may do, and send it. */
static void
do_to(struct run *top, struct event *event)
{
	struct run *run = &judge->runs[event->run];
	pid_t to = event->to == 'c'   ? run->command
	           : event->to == 'w' ? run->at_work
	           : event->to == 'g' ? -top->pid
	                              : run->pid;
	bool stops = event->signo == SIGSTOP || event->signo == SIGTSTP;

	if (to == 0 || (to > 0 && getpgid(to) != top->pid) || (to < 0 && top->ended))
		return;
	if (!stops) {
		for (int i = 0; i < judge->count; i++) {
			struct run *it = &judge->runs[i];

			if (it->top != run->top || (it != run && event->to != 'g'))
				continue;
			/* Whose lock goes with keylock. */
			if ((event->signo == SIGKILL && event->to != 'c' && event->to != 'w' &&
			     (it->close || it->shut == 'c')) ||
			    it->hold)
				it->voided = true;
			if (event->to == 'k' || event->to == 'g')
				it->told = now();
		}
		top->sent |= (uint64_t)1 << event->signo;
		if (top->records)
			__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
		judge->counts.killed++;
	} else {
		judge->counts.stopped++;
		top->moved = true;
	}
	kill(to, event->signo);
}

/* What is due to be done to a family. */
static void
do_events(struct run *top, int64_t time)
{
	for (int i = 0; i < EVENTS; i++) {
		struct event *event = &top->events[i];
		const struct run *run = event->run < 0 ? NULL : &judge->runs[event->run];
		bool stops = event->signo == SIGSTOP || event->signo == SIGTSTP;

		if (!run || !run->started || time < run->started + event->at)
			continue;
		if (stops && time >= run->started + event->at + event->thawed) {
			/* A stop can come to who has just left the group, or made it. */
			kill(-top->pid, SIGCONT);
			top->thawed = time;
			event->thawed += 300000;
			continue;
		}
		if (run->ended || event->to == 0) {
			event->run = stops ? event->run : -1;
			continue;
		}
		if ((event->to == 'c' && !run->command) || (event->to == 'w' && !run->at_work))
			continue;
		do_to(top, event);
		if (stops)
			event->to = 0;
		else
			event->run = -1;
	}
}

static const char *
glance(pid_t pid, const char *file, char text[100])
{
	char path[64];
	int fd;
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? 0 : read(fd, text, 99);
	text[length > 0 ? length : 0] = '\0';
	if (fd >= 0)
		close(fd);
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* P9: that it is past its deadline, deaf, or does not end at all. */
static void
watch(int number, int64_t time)
{
	struct run *run = &judge->runs[number], *top = &judge->runs[run->top];
	int64_t wait = run->wait > 0 ? run->wait : 100000, from = run->started;
	const char *why = NULL;
	char text[1000], call[100], state[100];

	if (run->complained || run->ended || getpgid(run->pid) != top->pid || run->became)
		return;
	for (int i = 0; i < EVENTS; i++)
		if (top->events[i].thawed && top->events[i].run >= 0 && top->events[i].to)
			return; /* is to be stopped yet */
	if (!run->entry && run->wait && !run->foreign && time > from + wait + slack() &&
	    time > top->thawed + wait + slack())
		why = "past its deadline";
	if (run->told && time > run->told + slack() && time > top->thawed + slack())
		why = "deaf to a signal that ends it";
	if (time > from + (int64_t)scale * STUCK_AFTER)
		why = "without an end";
	if (!why)
		return;
	run->complained = true;
	found(HANGS, "%s, %s, %s, for %.1f s (a player overslept %d us): %s", why,
	      glance(run->pid, "syscall", call), strchr(glance(run->pid, "stat", state), ')'),
	      (double)(time - from) / 1e6, judge->lag, describe(number, text));
	judge->given_up = true;
}

/* P4: see whether it has a ticket; who is started from now on comes after it. */
static void
look_at(struct run *run)
{
	char path[500], text[4096];
	struct stat file;
	DIR *list;

	if (!run->pid || run->ended || run->entry || run->seen || run->hold || run->count > 1 ||
	    run->mode == 'j' || run->foreign || run->parent >= 0 || run->player != player)
		return;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)run->pid);
	list = opendir(path);
	if (!list)
		return;
	for (struct dirent *entry; !run->seen && (entry = readdir(list));) {
		int fd = openat(dirfd(list), entry->d_name, O_RDONLY | O_CLOEXEC);
		ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

		if (fd >= 0)
			close(fd);
		text[length > 0 ? length : 0] = '\0';
		/* A ticket is a write lock of the description at byte 1000 or above. */
		for (char *line = text; (line = strstr(line, "OFDLCK")); line++) {
			unsigned long inode;
			long at;

			if (sscanf(line, "OFDLCK %*s WRITE %*d %*[^:]:%*[^:]:%lu %ld", &inode,
			           &at) != 2 ||
			    at < 1000)
				continue;
			snprintf(path, sizeof(path), "%s/k%d", directory, run->keys[0]);
			if (stat(path, &file) == 0 && file.st_ino == inode) {
				run->seen = __atomic_load_n(&judge->stamps, __ATOMIC_SEQ_CST);
				COUNT(seen);
			}
		}
	}
	closedir(list);
}

/* Standard error is /dev/null; beside it, a pipe that nobody reads. */
static void
open_pipe(void)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		fail("pipe");
	while (write(ends[1], "full", 4) > 0)
		;
	fcntl(ends[1], F_SETFL, 0);
	if (dup3(ends[1], PIPE_FD, O_CLOEXEC) < 0 || dup3(ends[0], PIPE_FD + 1, O_CLOEXEC) < 0)
		fail("dup3");
	close(ends[0]);
	close(ends[1]);
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
}

/* Play the runs of one player, to their end. */
static void
play(void)
{
	int next = 0, first = 0, alive = 0, children = 1, looked = 0;
	int64_t since = 0;
	char text[100];

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_TIMERSLACK, 1L);
	open_pipe();
	proc_is_own = readlink("/proc/self", text, sizeof(text)) > 0 && atoi(text) == getpid();
	while (next < judge->count || alive || children) {
		int64_t time = now(), overslept;

		while (next < judge->count && alive < judge->parallel) {
			struct run *run = &judge->runs[next];

			if (run->parent < 0 && run->player == player) {
				launch(next);
				alive++;
			}
			next++;
		}
		children = reap(&alive);
		for (int i = 0; judge->given_up && i < next; i++)
			if (judge->runs[i].player == player && judge->runs[i].parent < 0 &&
			    judge->runs[i].pid) {
				judge->runs[i].sent |= (uint64_t)1 << SIGKILL;
				__atomic_add_fetch(&judge->doubts, 1, __ATOMIC_SEQ_CST);
				kill(-judge->runs[i].pid, SIGKILL);
			}
		next = judge->given_up ? judge->count : next;
		while (first < next && judge->runs[first].ended)
			first++;
		for (int i = first; i < next; i++) {
			struct run *run = &judge->runs[i];

			if (run->player != player || !run->started || run->ended)
				continue;
			if (run->parent < 0)
				do_events(run, time);
			else if (judge->runs[run->top].ended)
				do_events(&judge->runs[run->top], time);
			watch(i, time);
		}
		if (proc_is_own && next > first) {
			looked = looked + 1 < next && looked >= first ? looked + 1 : first;
			look_at(&judge->runs[looked]);
		}
		/* Daemons end when all others have. */
		if (next == judge->count && (judge->open == 0 || judge->given_up)) {
			judge->over = 1;
			since = since ? since : time;
			if (children && time > since + (int64_t)scale * STUCK_AFTER) {
				found(HANGS, "player %d has a child without an end", player);
				exit(1);
			}
		}
		time = now();
		pause_for(100);
		overslept = now() - time - 100;
		judge->lag =
		    overslept > judge->lag ? (int)overslept : judge->lag - judge->lag / 4096;
	}
}

/* Begin a player: the first here, the others in a process id namespace of their own. */
static pid_t
begin_player(int number)
{
	long flags = number ? CLONE_NEWPID | CLONE_NEWNS : 0;
	pid_t pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid < 0)
		fail("clone");
	if (pid > 0)
		return pid;
	player = number;
	if (number == 1 && (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	                    mount("proc", "/proc", "proc", 0, NULL) < 0))
		fail("/proc");
	play();
	exit(0);
}

/* ---- The wave ---- */

/* Run keylock and see that it ends in time. Its status; with `out` what it says. */
static int
run_keylock(const char *const *words, char *out, size_t size)
{
	struct words all = {.count = 0};
	int ends[2], status = 0;
	ssize_t length = 0;
	size_t used = 0;
	int64_t begin = now();
	struct rusage use;
	pid_t pid;

	add(&all, keylock);
	while (*words)
		add(&all, *words++);
	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("pipe");
	pid = spawn(all.argv, false, -1, ends[1], null, false);
	close(ends[1]);
	while (used < size - 1 && (length = read(ends[0], out + used, size - 1 - used)) > 0)
		used += (size_t)length;
	out[used] = '\0';
	close(ends[0]);
	if (wait4(pid, &status, 0, &use) != pid)
		fail(keylock);
	if (now() - begin > slack() || use.ru_utime.tv_sec + use.ru_stime.tv_sec >= 2 * scale)
		found(HANGS, "%s %s took %.1f s, %ld s of them on a processor", all.argv[1],
		      all.count > 2 ? all.argv[2] : "", (double)(now() - begin) / 1e6,
		      use.ru_utime.tv_sec + use.ru_stime.tv_sec);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Look at what is going on, or forget what may have been left. */
static void
look(unsigned what)
{
	static const char *const looks[][3] = {
	    {"--list"},      {"--list", "--json"}, {"--list", "--json", "k1"},
	    {"--who", "k0"}, {"--who", "k3"},      {"--who", "k2"},
	    {"--path", "k1"}};
	static char out[1 << 16];
	const char *const forget[] = {"--forget", "k2", NULL};
	const char *words[4] = {NULL};
	int status;

	if (what >= 7) {
		judge->forgets++;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		status = run_keylock(forget, out, sizeof(out));
		judge->forgets++;
		if (status != 0 && status != 75)
			found(STATUS, "--forget: %d", status);
		return;
	}
	memcpy(words, looks[what], sizeof(looks[what]));
	status = run_keylock(words, out, sizeof(out));
	COUNT(looks);
	if (status != 0 && !(status == 1 && what >= 3))
		found(STATUS, "%s: %d", words[0], status);
	for (char *line = out, *end; what < 3 && what > 0 && (end = strchr(line, '\n'));
	     line = end + 1) {
		*end = '\0';
		if (strncmp(line, "{\"key\":", 7) != 0 || end[-1] != '}')
			found(STATUS, "--list --json: %s", line);
	}
}

/*
 * What systemd-tmpfiles(8) does of old files and folders, to whom all are old here:
 * sticky ones are passed over, an empty folder goes.
 */
static void
clean(bool again)
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
		judge->counts.cleaned++;
	else if (again)
		mkdir(directory, 0700);
}

/* P3: no file may be there; those that are go, so as to be counted once. */
static void
expect_no_files(const char *when)
{
	DIR *list = opendir(directory);

	if (!list)
		return;
	for (struct dirent *entry; (entry = readdir(list));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			found(DEBRIS, "%s is left %s", entry->d_name, when);
			unlinkat(dirfd(list), entry->d_name, 0);
		}
	closedir(list);
}

/* Each key can be had; and its first run leaves no file. */
static void
had_once_more(void)
{
	char name[8], out[200];
	const char *const forget[] = {"--forget", name, NULL};
	const char *words[] = {"-w30", "-A", name, self, "nothing", NULL};

	for (int key = 0; key < KEYS; key++) {
		int status, expected = 0;

		snprintf(name, sizeof(name), "k%d", key);
		words[1] = key == RECORDED ? "-A" : key >= SLOTTED ? "-j3" : "-x";
		status = run_keylock(words, out, sizeof(out));
		if (key == RECORDED && status == 76) {
			if (judge->cleared == judge->doubts)
				found(RECORD, "k2 has a record at the end");
			expected = 76;
		} else if (key == RECORDED && judge->last >= 0 && !judge->well &&
		           judge->last_forgets == judge->forgets) {
			found(RECORD, "k2 has no record at the end, though run %d died",
			      judge->last);
		}
		if (status != expected)
			found(HANGS, "%s is not to be had: status %d", name, status);
		if (key == RECORDED || (key == FOREIGN && judge->foreign))
			run_keylock(forget, out, sizeof(out));
	}
	judge->last = -1;
	judge->cleared = judge->doubts;
	expect_no_files("after each key was had once more");
}

/*
 * P4: who was seen to wait for a key comes before who was started after that, unless
 * both share it: then which of the commands was quicker says nothing.
 */
static void
judge_order(void)
{
	char one[1000], two[1000];

	for (int i = 0; i < judge->count; i++) {
		const struct run *early = &judge->runs[i];

		if (!early->seen || early->moved || !early->entry)
			continue;
		for (int j = 0; j < judge->count; j++) {
			const struct run *late = &judge->runs[j];

			if (late->stamp > early->seen && late->parent < 0 && late->entry &&
			    late->entry < early->entry && has_key(late, early->keys[0]) &&
			    (late->mode == 'x' || early->mode == 'x'))
				found(TURN, "this one\n\t%s\nwas served before\n\t%s",
				      describe(j, two), describe(i, one));
		}
	}
}

/* Say what was found in the wave; with `quietly`, only drop it. */
static void
tell(bool quietly)
{
	char path[500], text[4096];
	size_t length;
	FILE *log;

	snprintf(path, sizeof(path), "%s/log", folder);
	log = fopen(path, "re");
	while (log && !quietly && (length = fread(text, 1, sizeof(text), log)) > 0)
		fwrite(text, 1, length, stderr);
	if (log)
		fclose(log);
	unlink(path);
}

/* Play a wave. Returns the first kind of fault that it had, or -1. */
static int
play_wave(int number, int parallel, bool quietly)
{
	const char *const pin[] = {"--pin", "k1", NULL};
	int before[FAULTS], running = 0;
	char text[1000];

	memcpy(before, judge->faults, sizeof(before));
	judge->wave = number;
	draw_wave(parallel);
	if (aloud)
		for (int i = 0; i < judge->count; i++)
			fprintf(stderr, "%s\n", describe(i, text));
	if (judge->foreign)
		run_keylock(pin, text, sizeof(text));
	for (int i = 0; i < judge->players; i++, running++)
		begin_player(i);
	for (unsigned turn = 1; running; turn++) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			running--;
		clean(!judge->foreign && turn % 2);
		if (turn % 32 == 0 && !strchr(left_out, 'L'))
			look(turn / 32 % 8);
		pause_for(500);
	}
	if (judge->kind != WILD)
		expect_no_files("after a calm wave");
	had_once_more();
	judge_order();
	tell(quietly);
	for (int i = 0; i < FAULTS; i++)
		if (judge->faults[i] > before[i])
			return i;
	return -1;
}

/* Whether the wave still has that fault, in a few tries. */
static bool
still(int number, int parallel, int fault)
{
	for (int i = 0; i < 4; i++)
		if (play_wave(number, parallel, true) == fault)
			return true;
	return false;
}

/* Find the fewest features and families that show the fault, for a minute or two. */
static void
shrink(int number, int parallel, int fault)
{
	static char less[64];
	int64_t until = now() + 90 * 1000000;
	char text[1000];

	snprintf(less, sizeof(less), "%s", left_out);
	left_out = less;
	for (const char *letter = "nLvzpdwhlFoxektDmKErsjAc"; *letter && now() < until; letter++) {
		size_t length = strlen(less);

		less[length] = *letter;
		less[length + 1] = '\0';
		if (!still(number, parallel, fault))
			less[length] = '\0';
	}
	for (int part = judge->size / 2; part > 0; part /= 2)
		for (int from = 0; from < judge->size && now() < until; from += part) {
			bool kept[TOPS];

			memcpy(kept, skipped, sizeof(kept));
			memset(skipped + from, 1,
			       (size_t)(from + part > TOPS ? TOPS - from : part));
			if (memcmp(kept, skipped, sizeof(kept)) != 0 &&
			    !still(number, parallel, fault))
				memcpy(skipped, kept, sizeof(kept));
		}
	fprintf(stderr, "torture: shrunk: seed %lu, wave %d, -x '%s': %d at once of\n", seed,
	        number, less, judge->parallel);
	judge->wave = number;
	draw_wave(parallel);
	for (int i = 0; i < judge->count; i++)
		fprintf(stderr, "\t%s\n", describe(i, text));
}

static void
set_up(void)
{
	const char *temporary = getenv("TMPDIR"), *longer = getenv("TORTURE_SLACK");
	struct rlimit none = {0, 0};
	char link[500];
	ssize_t length = readlink("/proc/self/exe", link, sizeof(link) - 1);

	link[length > 0 ? length : 0] = '\0';
	self = strdup(link);
	scale = longer ? atoi(longer) : 1;
	snprintf(folder, sizeof(folder), "%s/torture.XXXXXX", temporary ? temporary : "/tmp");
	if (!mkdtemp(folder))
		fail(folder);
	judge_open();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	judge->last = -1;
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_TIMERSLACK, 1L);
	unsetenv("KEYLOCK_KEY");
	unsetenv("KEYLOCK_ABANDONED");
	setenv("TORTURE_KEYLOCK", keylock, 1);
	setenv("TORTURE_SELF", self, 1);
}

static void
usage(void)
{
	fprintf(stderr, "usage: torture [-v] [-f FAULTS] [-p PARALLEL] [-s SEED] [-w WAVE] "
	                "[-x FEATURES] KEYLOCK RUNS\n");
	exit(64);
}

int
main(int argc, char **argv)
{
	int parallel = 24, option, only = -1, wave = 0, bad = 0, bad_most = 1, fault;
	int64_t begin = now();
	char command[500];
	double seconds;
	long runs, played;

	directory = getenv("KEYLOCK_DIR");
	seed = (unsigned long)time(NULL);
	if (argc == 4 && getenv("TORTURE_SELF")) {
		int number = atoi(argv[3]);

		self = getenv("TORTURE_SELF");
		keylock = getenv("TORTURE_KEYLOCK");
		snprintf(folder, sizeof(folder), "%s", argv[2]);
		judge_open();
		return argv[1][0] == 'j'   ? job(number)
		       : argv[1][0] == 'c' ? caller(number)
		                           : foreigner(number);
	}
	if (argc == 2 && strcmp(argv[1], "nothing") == 0)
		return 0;
	while ((option = getopt(argc, argv, "vf:p:s:w:x:")) != -1)
		switch (option) {
		case 'v':
			aloud = true;
			break;
		case 'f':
			bad_most = atoi(optarg);
			break;
		case 'p':
			parallel = atoi(optarg);
			break;
		case 's':
			seed = strtoul(optarg, NULL, 10);
			break;
		case 'w':
			only = atoi(optarg);
			break;
		case 'x':
			left_out = optarg;
			break;
		default:
			usage();
		}
	if (argc - optind != 2 || !directory || parallel < 1)
		usage();
	keylock = argv[optind];
	runs = atol(argv[optind + 1]);
	set_up();
	for (; judge->counts.runs < runs && bad < bad_most; wave++) {
		fault = play_wave(only >= 0 ? only : wave, parallel, false);
		bad += fault >= 0;
	}
	seconds = (double)(now() - begin) / 1e6;
	played = judge->counts.runs;
	if (bad && bad == bad_most)
		shrink(judge->wave, parallel, fault);
	printf(
	    "torture: %ld runs in %d waves in %.0f s, %.0f a second, seed %lu: %ld commands "
	    "ran, %ld nested, %ld of them guests, %ld left at work, %ld daemons, %ld kills, %ld "
	    "stops, %ld taken, %ld in doubt, %ld cycles, %ld looks, %ld seen to wait, %ld flocks "
	    "beside a guest, the empty directory removed %ld times;",
	    played, wave, seconds, (double)played / seconds, seed, judge->counts.ran,
	    judge->counts.nested, judge->counts.guests, judge->counts.at_work,
	    judge->counts.daemons, judge->counts.killed, judge->counts.stopped, judge->counts.taken,
	    judge->counts.doubtful, judge->counts.cycles, judge->counts.looks, judge->counts.seen,
	    judge->counts.flocks, judge->counts.cleaned);
	for (int i = 0; i < FAULTS; i++)
		printf("%s %d %s", i ? "," : "", judge->faults[i], fault_names[i]);
	printf("\n");
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command) != 0)
		fprintf(stderr, "torture: rm failed\n");
	return bad ? 1 : 0;
}

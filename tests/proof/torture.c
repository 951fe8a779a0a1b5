/*
 * Torture: all that the command line can do, at random, under fire. What is right is
 * judged by keylock's promises alone, and by means that are not keylock's.
 *
 *	torture [-s SEED] [-w WAVE] KEYLOCK SECONDS
 *
 * KEYLOCK_DIR is the directory of the lockfiles; TORTURE_DEAD, where it is set, a file
 * system that answers nothing. All of a wave is
 * drawn before it begins: what each run is called with, which runs its command begins
 * under it, how that ends, what it leaves behind, who is killed or stopped when. The first
 * wave with a fault is played again with fewer families of runs while the fault still
 * shows, and what is left is printed. SEED repeats all choices, but not the order in
 * which the kernel runs the processes; -w plays that wave alone, again and again.
 *
 *  P1 alone: each command has a process-associated lock (fcntl_locking(2)) on the byte of
 *     its run in a file of the key, and then looks whether a stranger has one: who is no
 *     host or guest of it, and does not share the key as well. So does a process that a
 *     command leaves at work. For slots the strangers are counted.
 *  P2 free at once: of a daemon that stays until the wave ends, nobody knows.
 *  P3 no debris: after a calm wave there is no file; after others there is none when each
 *     key was had once more.
 *  P4 in turn: who was seen to have a ticket comes before all that were started later.
 *  P6 transparent: the exit status is the command's.
 *  P8 crash-honest: whether the command before came to its end is in shared memory.
 *  P9 never stuck: nobody runs on past its deadline, is deaf to a signal that ends it, or
 *     takes two seconds of a processor. All of this has 2 s, and a hundred times as long as
 *     the player that wanted to sleep for a moment has overslept lately.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../tools/probe.h"

/* Keys k0 and k1 are exclusive or shared, k2 keeps records, k3 and k4 have slots. */
enum { FOREIGN = 1, RECORDED = 2, SLOTTED = 3, KEYS = 5, SLOTS = 3 };
enum { RUNS = 512, FAMILIES = 300, DEEPEST = 3 };
/* Descriptors that all have, most by torture.sh; all but the first two are of no use to them:
 * a pipe that is full, our output, and a file system that never answers. */
enum { JUDGE = 200, WITNESS, PIPE, OUTPUT, DEAD };
enum { STUCK_AFTER = 30 * 1000000, SHRINK_FOR = 90 * 1000000, STOPPED_FOR = 200000 };

struct run {
	/* Drawn before the wave. */
	char options[100]; /* of keylock, with the keys */
	char text[200];    /* what is done by it and to it, for people */
	char what;         /* c: a command; h: --hold; l: a look; f: --forget; no keylock
	                      but x, s: flock(2), w, r: fcntl(2) on all bytes */
	int parent, top;   /* whose command begins it, or -1; the first of its family */
	bool aside;        /* in another process id namespace */
	int keys[3], count;
	char mode; /* x, s or j */
	bool records, reentrant, close, stays, muted, slots;
	long wait;   /* in microseconds; 0: for ever; -1: not at all */
	long work;   /* microseconds */
	long worker; /* leaves a process at work, for so long */
	bool daemon; /* leaves one that has nothing to do, until the wave ends */
	int end;     /* status of the command, or its signal as a negative number */
	int kid[2];  /* runs that it begins, or -1 */
	char how[2]; /* and waits for: w, does not: b, becomes: e */
	struct event {
		char to; /* k: its keylock, c: its command, w: whom that left at work, g: all */
		int signo;
		long at; /* microseconds after its start */
		bool done;
	} event;

	/* What came of it. */
	pid_t pid; /* as who started it knows it */
	int64_t started, told;
	int stamp; /* its place among those started */
	int entry; /* its place among the commands that ran, from 1; 0: did not */
	int seen;  /* how many were started when it was seen to wait; 0: was not */
	bool became, finished, ended;
	bool voided;   /* may have lost its key by what was done to it: see DESIGN's P1 */
	uint64_t sent; /* signals that its family was sent, as bits; of the top */
};

/* In memory that all share. */
static struct judge {
	int wave, size, count, parallel; /* its number; families; runs; families at once */
	bool calm;                       /* nothing that may leave a file or a record */
	int hot;                         /* key of most runs, or -1 */
	bool foreign, nests, over, given_up, aloud;
	const char *fault; /* the first one's kind: the same in all processes, being static */
	int stamps, entries;
	int forgets, last_forgets; /* odd: somebody forgets the record; when the last one ran */
	int last;                  /* whose command with records ran last, or -1 */
	bool well;                 /* and came to its end */
	struct {
		int runs, ran, nested, signals, stops, taken, doubtful, cycles, seen;
	} counts;
	struct run runs[RUNS];
} * judge;

static const char *self, *directory;
static char *keylock;
static int witness; /* WITNESS again, below 10, so that it is closed before the lock is */
static bool skipped[FAMILIES];
static uint64_t seed;
static int64_t lag; /* how long the player overslept */
/* The process id namespace of its own, its mounts where they are to be seen, and ours. */
static int other_pids = -1, other_mounts = -1, our_pids = -1;

#define COUNT(what) count_one(&judge->counts.what)

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

static bool
is_stop(int signo)
{
	return signo == SIGSTOP || signo == SIGTSTP;
}

/* Add to a text that has room for `size` bytes. */
__attribute__((format(printf, 3, 4))) static void
append(char *text, size_t size, const char *format, ...)
{
	size_t used = strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + used, size - used, format, arguments);
	va_end(arguments);
}

#define OPTION(run, ...) append((run)->options, sizeof((run)->options), __VA_ARGS__)
#define NOTE(run, ...) append((run)->text, sizeof((run)->text), __VA_ARGS__)

/* Take down a fault of that kind. */
__attribute__((format(printf, 3, 4))) static void
found(const char *kind, const struct run *run, const char *format, ...)
{
	char text[1500] = "";
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (judge->aloud)
		dprintf(OUTPUT, "torture: wave %d: %s: %s: %s%s\n", judge->wave, kind, text,
		        run ? run->options : "", run ? run->text : "");
	if (!judge->fault)
		judge->fault = kind;
}

/* Start a program: in a process group of its own and where else the run belongs. */
static pid_t
spawn(const struct run *run, char **argv, bool top, int in, int out)
{
	bool aside = top && run->aside;
	pid_t pid;

	if (aside && setns(other_pids, CLONE_NEWPID) < 0)
		fail("setns");
	pid = vfork();
	if (pid == 0) {
		if (aside && other_mounts >= 0 && setns(other_mounts, CLONE_NEWNS) < 0)
			_exit(126);
		if (top)
			setpgid(0, 0);
		if (top && run->muted)
			dup2(PIPE, 2);
		dup2(in, 0);
		dup2(out, 1);
		execv(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || (aside && setns(our_pids, CLONE_NEWPID) < 0))
		fail("vfork");
	return pid;
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

/* The byte of a run: each key has two for each, the second ones for who shares. */
static int
place_of(const struct run *run, int number, int key)
{
	return (2 * key + (run->mode == 's')) * RUNS + number;
}

/* Whose bytes in [from, to) have a lock, and are not ours: added to list, up to 40. */
static int
others(int from, int to, int *list, int count)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = from, .l_len = to - from};
	int at;

	if (from >= to || count >= 40 || fcntl(WITNESS, F_GETLK, &lock) < 0 ||
	    lock.l_type == F_UNLCK)
		return count;
	at = (int)lock.l_start;
	list[count++] = at % RUNS;
	count = others(from, at, list, count);
	return others(at + 1, to, list, count);
}

/* The strangers among them that must not be there. */
static int
strangers(int number, int key, int *list)
{
	const struct run *run = &judge->runs[number];
	int from = 2 * key * RUNS, kept = 0, own = family(number, key);
	int count = others(from, from + (run->mode == 's' ? RUNS : 2 * RUNS), list, 0);

	for (int i = 0; i < count; i++) {
		int whose = family(list[i], key);
		const struct run *it = &judge->runs[list[i]];
		bool again = it->voided || whose == own;

		/* CAVEATS: flock(2) in the microsecond in which a guest is let in. */
		again = again || (strchr("xs", it->what) && own != number) ||
		        (strchr("xs", run->what) && whose != list[i]);
		for (int j = 0; j < kept && run->mode == 'j'; j++)
			again = again || family(list[j], key) == whose;
		if (!again)
			list[kept++] = list[i];
	}
	return kept;
}

/* Say that the keys are ours, until our process ends or `witness` is closed. */
static void
enter(int number)
{
	struct run *run = &judge->runs[number];
	int limit = run->mode == 'j' ? SLOTS : 1;

	witness = fcntl(WITNESS, F_DUPFD_CLOEXEC, 3);
	for (int i = 0; i < run->count; i++) {
		int list[40], again[40], count, key = run->keys[i];
		const struct run *other;

		if (!take(witness, F_RDLCK, place_of(run, number, key)))
			fail("witness");
		count = strangers(number, key, list);
		if (count < limit || run->voided)
			continue;
		/* One leaves and the next one comes while we count: they stay, or it is none. */
		if (limit > 1 && (strangers(number, key, again) != count ||
		                  memcmp(list, again, (size_t)count * sizeof(*list)) != 0))
			continue;
		other = &judge->runs[list[0]];
		found("not alone", run, "k%d: %d others, one is %d:%s%s, beside %d", key, count,
		      list[0], other->options, other->text, number);
	}
	if (!run->entry)
		run->entry = __atomic_add_fetch(&judge->entries, 1, __ATOMIC_SEQ_CST);
}

/* ---- The command's side ---- */

static void launch(int number);
static void tend(struct run *run);
static void judge_end(struct run *run, int status, const struct rusage *use);

/* P8: whether it must be told that the last one died, or must not. */
static void
record_enter(int number)
{
	const struct run *run = &judge->runs[number];
	bool told = getenv("KEYLOCK_ABANDONED") != NULL;

	/* Others may have had the key since, and died. */
	if (run->voided)
		return;
	if (told && judge->calm)
		found("wrong records", run, "told of a death that was not");
	/* --hold with -R cannot tell. */
	if (judge->last >= 0 && !judge->well && judge->forgets == judge->last_forgets && !told &&
	    run->what != 'h')
		found("wrong records", run, "not told that run %d died", judge->last);
	if (run->mode == 's')
		return;
	judge->well = false;
	judge->last = number;
	judge->last_forgets = judge->forgets;
}

/* How it ends is told by the last alone: one that has lost its key may go on beside it. */
static void
record_leave(int number, bool well)
{
	if (judge->last == number && !judge->runs[number].voided)
		judge->well = well;
}

/* Note a signal before it is sent. */
static void
note_sent(const struct run *run)
{
	__atomic_fetch_or(&judge->runs[run->top].sent, (uint64_t)1 << run->event.signo,
	                  __ATOMIC_SEQ_CST);
}

/* What is to be done to this process, if it is this one: its command, or whom that left at work. */
static void
arm(const struct run *run, char to)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = run->event.signo};
	struct itimerspec when = {.it_value.tv_nsec = run->event.at * 1000};
	timer_t timer;

	if (run->event.to != to)
		return;
	note_sent(run);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 ||
	    timer_settime(timer, 0, &when, NULL) < 0)
		fail("timer");
}

/* Leave a process behind: at work under the lock, or a daemon that has nothing to do. */
static pid_t
leave_behind(int number, bool works)
{
	struct run *run = &judge->runs[number];
	int wave = judge->wave;
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	close(witness);
	if (works) {
		arm(run, 'w');
		enter(number);
		sleep_us(run->worker);
		_exit(0);
	}
	setsid();
	for (int i = 0; i < 3 * STUCK_AFTER / 3000 && !judge->over && judge->wave == wave; i++)
		sleep_us(3000);
	_exit(0);
}

/* Whether all of a family let go what they hold: where one is killed, its command dies, or a nested
 * run goes on beside it, a daemon keeps what it has inherited. */
static bool
lets_all_go(int top)
{
	for (int i = 0; i < judge->count; i++) {
		const struct run *run = &judge->runs[i];

		if (run->top == top && (run->event.signo || run->stays || !ends_by_itself(run) ||
		                        memchr(run->how, 'e', 2) || memchr(run->how, 'b', 2)))
			return false;
	}
	return true;
}

/* What a run is started with: keylock, and we ourselves as its command, its caller or what else. */
static char **
words_of(int number, bool calls)
{
	const struct run *run = &judge->runs[number];
	bool keylocks = strchr("clf", run->what) || calls;
	static struct words words;
	static char copy[sizeof(run->options)];
	char *rest = strcpy(copy, run->options), *word = keylock;

	words = (struct words){.count = 0};
	for (strsep(&rest, " "); keylocks && word; word = strsep(&rest, " "))
		add(&words, "%s", word);
	if (!strchr("lf", run->what) && !calls) {
		add(&words, "%s", self);
		add(&words, "%d", number);
	}
	return words.argv;
}

/* Begin the runs that belong under this one. */
static void
begin_kids(struct run *run)
{
	struct rusage use;
	int status;

	for (int i = 0; i < 2 && run->kid[i] >= 0; i++) {
		struct run *kid = &judge->runs[run->kid[i]];

		if (run->how[i] != 'e') {
			launch(run->kid[i]);
			for (; run->how[i] == 'w' && !kid->ended; sleep_us(50)) {
				tend(kid);
				if (wait4(kid->pid, &status, WNOHANG, &use) > 0)
					judge_end(kid, status, &use);
			}
			continue;
		}
		close(witness);
		run->became = true;
		kid->pid = getpid();
		kid->started = now();
		execv(keylock, words_of(run->kid[i], false));
		fail(keylock);
	}
}

/* The command of a run. */
static int
job(int number)
{
	struct run *run = &judge->runs[number];
	pid_t worker = 0;

	enter(number);
	if (run->records)
		record_enter(number);
	arm(run, 'c');
	if (run->worker)
		worker = leave_behind(number, true);
	sleep_us(run->work / 2);
	begin_kids(run);
	sleep_us(run->work / 2);
	record_leave(number, ends_by_itself(run));
	/* What it has left at work has a part in the key no longer than this one. */
	if (worker > 0 && ends_by_itself(run) && !run->stays) {
		kill(worker, SIGKILL);
		waitpid(worker, NULL, 0);
	}
	if (run->daemon && lets_all_go(run->top))
		leave_behind(number, false);
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
	int in[2], out[2], status;
	char line[8] = "";
	pid_t holder;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		fail("pipe");
	holder = spawn(run, words_of(number, true), false, in[0], out[1]);
	signal(SIGPIPE, SIG_IGN);
	close(in[0]);
	close(out[1]);
	if (read(out[0], line, sizeof(line)) == 7 && strcmp(line, "locked\n") == 0) {
		enter(number);
		if (run->records)
			record_enter(number);
		sleep_us(run->work);
		if (run->event.to == 'c') {
			run->voided = !is_stop(run->event.signo);
			note_sent(run);
			kill(holder, run->event.signo);
		}
		record_leave(number, run->end == 0);
		close(witness); /* from here on another may come */
		run->finished = true;
		if (run->end == 0 && write(in[1], "done\n", 5) != 5)
			run->end = 1;
	}
	/* In any order, one soon after the other. */
	close(number % 2 ? in[1] : out[0]);
	close(number % 2 ? out[0] : in[1]);
	waitpid(holder, &status, 0);
	if (WIFSIGNALED(status))
		kill(getpid(), WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* Another program that locks the key's file, which is pinned. */
static int
foreigner(int number)
{
	struct run *run = &judge->runs[number];
	struct flock all = {.l_type = run->what == 'w' ? F_WRLCK : F_RDLCK};
	char path[500];
	int file, fd;

	snprintf(path, sizeof(path), "%s/k%d", directory, FOREIGN);
	file = open(path, O_RDWR | O_CLOEXEC);
	fd = fcntl(file, F_DUPFD_CLOEXEC, 10); /* is closed after the witness */
	close(file);
	if (strchr("wr", run->what) ? fcntl(fd, F_SETLKW, &all) < 0
	                            : flock(fd, run->what == 'x' ? LOCK_EX : LOCK_SH) < 0)
		fail(path);
	if (strchr("xs", run->what))
		enter(number);
	sleep_us(run->work);
	return 0;
}

/* ---- The wave is drawn ---- */

static bool
one_in(unsigned chances)
{
	return pick(chances) == 0;
}

/* Below 2 to the power of `bits`, and of all sizes alike. */
static long
pick_size(unsigned bits)
{
	return (long)pick(1u << (1 + pick(bits)));
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

/* What is done to a run: killed or ended, or stopped and continued. */
static void
draw_event(struct run *run)
{
	static const int ends[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
	struct event event = {.to = run->parent < 0 ? "kkkkccgw"[pick(8)] : "kkcw"[pick(4)]};
	bool wild = !judge->calm, stops = one_in(5);

	event.at = 50 + pick_size(15);
	event.signo = stops             ? (pick(2) && wild ? SIGSTOP : SIGTSTP)
	              : pick(3) && wild ? SIGKILL
	                                : ends[pick(4)];
	/* In a calm wave, what keylock can catch, and nobody is left by it. */
	if (run->daemon || !strchr("ch", run->what) ||
	    (!wild && (run->kid[0] >= 0 || run->parent >= 0 || event.to != 'k' ||
	               run->what == 'h' || run->records)))
		return;
	run->event = event;
	NOTE(run, " [%d to %c after %ld us]", event.signo, event.to, event.at);
}

/* How it takes and keeps its keys. */
static void
draw_options(struct run *run, const struct run *host, int key)
{
	bool wild = !judge->calm;

	if (key == RECORDED && !host && pick(4)) {
		run->records = true;
		OPTION(run, pick(3) ? " -R" : " -A");
	} else if (one_in(6)) {
		/* All or none: in any order, of two or three. */
		run->keys[run->count++] =
		    key >= SLOTTED ? KEYS - 1 + SLOTTED - key : (key + 1) % RECORDED;
		if (key < RECORDED && one_in(3))
			run->keys[run->count++] = RECORDED;
	}
	run->reentrant = host ? pick(4) != 0 : one_in(12);
	run->close = run->what == 'c' && one_in(5);
	run->stays = wild && !run->records && !run->close && run->what == 'c' && one_in(5);
	/* Nobody would end --hold that has no input any more, and says so. */
	run->muted = one_in(8) && run->what != 'h';
	run->wait = one_in(6) ? -1 : one_in(5) ? 1 + pick_size(16) : 0;
	/* What would wait for its host, or in a cycle, is found after a second; a cycle
	 * through slots is not. */
	run->slots = run->mode == 'j' || (host && host->slots);
	for (int i = 0; i < run->count && host; i++)
		if (!run->wait && (!run->reentrant || !has_key(host, run->keys[i])) &&
		    (run->slots || pick(16)))
			run->wait = pick(2) ? -1 : 1 + pick_size(13);
	if (run->wait > 0)
		OPTION(run, " -w%ld.%06ld", run->wait / 1000000, run->wait % 1000000);
	OPTION(run, "%s%s%s%s%s%s%s", run->wait < 0 ? " -n" : "",
	       run->mode == 's'   ? " -s"
	       : run->mode == 'j' ? " -j3"
	                          : "",
	       run->reentrant ? " -r" : "", run->close ? " -o" : "",
	       run->stays ? (pick(2) ? " -l" : " -F") : "", run->muted ? " -v" : "",
	       run->what == 'h' ? " --hold" : "");
	for (int i = 1; i < run->count; i++)
		OPTION(run, " -kk%d", run->keys[i]);
}

/* How its command ends, what that leaves behind, and how many runs it begins. */
static int
draw_command(struct run *run, int depth)
{
	static const int signals[] = {SIGKILL, SIGTERM, SIGABRT, SIGSEGV, SIGUSR2};
	bool wild = !judge->calm, becomes;
	int kids = 0;

	if (depth < DEEPEST && judge->count < RUNS - 8 && judge->nests && one_in(depth ? 3 : 6))
		kids = 1 + one_in(3);
	becomes = kids && !run->records && one_in(5);
	for (int i = 0; i < kids; i++)
		run->how[i] = becomes && i == kids - 1 ? 'e' : pick(2) ? 'w' : 'b';
	run->end = pick(8) ? 0 : pick(2) ? 7 : 193 + (int)pick(63);
	if (one_in(8) && (wild || (!kids && !depth && !run->records)))
		run->end = pick(2) ? -signals[pick(5)] : 129 + (int)pick(64);
	if (wild && !run->close && !becomes && one_in(8))
		run->worker = 100 + pick_size(13);
	run->daemon = !run->stays && ends_by_itself(run) && one_in(20);
	NOTE(run, " {%ld us, %s %d}", run->work, run->end < 0 ? "signal" : "exit", abs(run->end));
	if (run->worker)
		NOTE(run, " leaves work of %ld us", run->worker);
	if (run->daemon)
		NOTE(run, " leaves a daemon");
	return kids;
}

/* Draw a run and those under it. */
static int
draw_run(int ordinal, unsigned path, int parent, int depth)
{
	int number = judge->count++, kids = 0, key;
	struct run *run = &judge->runs[number];
	const struct run *host = parent >= 0 ? &judge->runs[parent] : NULL;

	random_begin((unsigned)ordinal * 256 + path);
	*run = (struct run){.parent = parent, .count = 1, .kid = {-1, -1}, .what = 'c'};
	run->top = host ? host->top : number;
	run->aside = host ? host->aside : other_pids >= 0 && one_in(4);
	key = judge->hot >= 0 && pick(4) ? judge->hot : (int)pick(KEYS);
	if (host && pick(4))
		key = host->keys[pick((unsigned)host->count)];
	run->keys[0] = key;
	run->mode = key >= SLOTTED ? 'j' : one_in(4) ? 's' : 'x';
	run->work = pick(3) ? pick_size(11) : 0;
	if (!host && judge->foreign && key == FOREIGN && one_in(3)) {
		run->what = "xswr"[pick(4)];
		run->mode = run->what == 's' ? 's' : 'x';
		/* Sometimes for longer than anybody waits at the gate. */
		run->work += strchr("wr", run->what) && one_in(60) ? 150000 : 0;
		NOTE(run, " %s(%c)", strchr("xs", run->what) ? "flock" : "fcntl", run->what);
	} else if (!host && one_in(12)) {
		run->what = one_in(8) ? 'f' : 'l';
		run->wait = -1;
		OPTION(run, "%s", run->what == 'f' ? " --forget" : pick(2) ? " --list" : " --who");
		key = run->what == 'f' ? RECORDED : key;
	} else {
		run->what = !host && one_in(10) ? 'h' : 'c';
		draw_options(run, host, key);
		if (run->what == 'h') /* may not say that it is done */
			run->end = !judge->calm && one_in(8);
		else
			kids = draw_command(run, depth);
	}
	OPTION(run, " k%d", key);
	for (int i = 0; i < kids; i++) {
		run->kid[i] = draw_run(ordinal, path * 2 + (unsigned)i, number, depth + 1);
		NOTE(run, ", %s %d",
		     run->how[i] == 'w'   ? "runs"
		     : run->how[i] == 'b' ? "begins"
		                          : "becomes",
		     run->kid[i]);
	}
	random_begin((unsigned)ordinal * 256 + path + 128);
	if (one_in(3))
		draw_event(run);
	return number;
}

static void
draw_wave(void)
{
	random_begin(1u << 30);
	judge->calm = pick(7) >= 4;
	judge->size = 100 + (int)pick(FAMILIES - 100);
	judge->hot = (int)pick(KEYS + 1) - 1;
	/* With few the files come and go, with many the queues are long. */
	judge->parallel = 1 + (int)pick(pick(2) ? 4 : 24);
	judge->foreign = !judge->calm && one_in(3);
	judge->nests = pick(4);
	judge->count = judge->stamps = judge->entries = 0;
	judge->over = judge->given_up = false;
	judge->fault = NULL;
	judge->last = -1;
	for (int i = 0; i < judge->size && judge->count < RUNS - 64; i++) {
		int before = judge->count;

		draw_run(i, 1, -1, 0);
		if (skipped[i])
			judge->count = before;
	}
}

/* ---- The player's side, and what commands do for the runs that they begin ---- */

static void
launch(int number)
{
	struct run *run = &judge->runs[number];

	COUNT(runs);
	if (run->what == 'f')
		judge->forgets++;
	run->started = now();
	run->stamp = __atomic_add_fetch(&judge->stamps, 1, __ATOMIC_SEQ_CST);
	run->pid = spawn(run, words_of(number, false), run->parent < 0, 0, 1);
}

/* Do what is due to be done to a run: note what the signal may do, and send it. */
static void
tend(struct run *run)
{
	struct event *event = &run->event;
	bool group = event->to == 'g', stops = is_stop(event->signo);

	if (!event->signo || event->done || !run->started || run->ended ||
	    now() < run->started + event->at)
		return;
	event->done = true;
	count_one(stops ? &judge->counts.stops : &judge->counts.signals);
	note_sent(run);
	if (!strchr("kg", event->to))
		return; /* they do it themselves */
	for (int i = 0; i < judge->count && !stops; i++) {
		struct run *it = &judge->runs[i];

		if (!it->started || (it != run && !(group && it->top == run->top)))
			continue;
		/* Whose lock goes with keylock. */
		if (it->what == 'h' ? group : event->signo == SIGKILL && it->close)
			it->voided = true;
		it->told = now();
	}
	kill(group ? -run->pid : run->pid, event->signo);
}

/* Whether an ancestor surely held all its keys, so that it must be let in at once. */
static bool
covered(const struct run *run)
{
	const struct run *host = run->parent >= 0 ? &judge->runs[run->parent] : NULL;
	int place = host && host->kid[1] == run - judge->runs;

	/* A moment may be over before it has looked. */
	if (!host || !run->reentrant || (run->wait > 0 && run->wait < 50000) || host->became ||
	    host->voided || judge->runs[run->top].sent || host->how[place] != 'w')
		return false;
	for (int i = 0; i < run->count; i++)
		if (!has_key(host, run->keys[i]))
			return false;
	return host->mode == 'x' || host->mode == run->mode;
}

/* What is wrong with the end of `run` by this status, which `last` gave it, or NULL. */
static const char *
wrong_end(const struct run *run, const struct run *last, int code)
{
	int64_t age = now() - run->started;

	if (!strchr("ch", last->what)) /* another program, or a look */
		return code == 0 || code == (last->what == 'f' ? 75 : 1) ? NULL : "that is odd";
	if (last->entry && !last->finished)
		return "though its command was not at its end";
	if (last->entry)
		return code != (last->what == 'h' ? 0 : last->end) ? "not its command's" : NULL;
	if (code == 75 && last->wait != 0) {
		COUNT(taken);
		return covered(last)                     ? "under an ancestor's hold"
		       : last == run && last->wait > age ? "before its time"
		                                         : NULL;
	}
	if (code == 76 && last->records) {
		COUNT(doubtful);
		return judge->calm ? "for a death that was not" : NULL;
	}
	if (code == 78 && (last->parent >= 0 || last->count > 1)) {
		COUNT(cycles);
		return covered(last) ? "under an ancestor's hold" : NULL;
	}
	return "without its command";
}

/* Judge how a run ended. */
static void
judge_end(struct run *run, int status, const struct rusage *use)
{
	struct run *last = run;
	long seconds = use->ru_utime.tv_sec + use->ru_stime.tv_sec;
	int signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	const char *why = NULL;

	while (last->became)
		last = &judge->runs[last->kid[last->kid[1] >= 0]];
	run->ended = last->ended = true;
	if (run->entry)
		COUNT(ran);
	if (run->entry && run->parent >= 0)
		COUNT(nested);
	if (run->what == 'f')
		judge->forgets++;
	if (seconds >= 2)
		found("hanging", run, "it took %ld s of a processor", seconds);
	if (!signo)
		why = wrong_end(run, last, WEXITSTATUS(status));
	else if (!(judge->runs[run->top].sent >> signo & 1) &&
	         !(last->finished && last->end == -signo))
		why = "that nobody sent";
	if (why)
		found("wrong ends", run, "%s %d %s", signo ? "signal" : "status",
		      signo ? signo : WEXITSTATUS(status), why);
}

/* P9: that it is past its deadline, deaf, or does not end at all. */
static void
watch(const struct run *run, int64_t time)
{
	int64_t wait = run->wait > 0 ? run->wait : 100000;
	int64_t slack = 2000000 + 100 * lag;
	const char *why = NULL;
	char call[2000];

	if (!run->started || run->ended || (run->aside && run->parent >= 0))
		return;
	if (!run->entry && !run->became && run->wait && time > run->started + wait + slack)
		why = "past its deadline";
	if (run->told && time > run->told + slack)
		why = "deaf to a signal that ends it";
	if (time > run->started + STUCK_AFTER)
		why = "without an end";
	if (!why)
		return;
	found("hanging", run, "%s for %.1f s (the player overslept %ld us), system call %s", why,
	      (double)(time - run->started) / 1e6, (long)lag, glance(run->pid, "syscall", call));
	judge->given_up = true;
}

/*
 * P4: see whether it has a ticket, a write lock of its description at byte 1000 or above
 * of the key's file; who is started from now on comes after it.
 */
static void
look_at(struct run *run)
{
	char path[500], name[20], text[2000];
	struct stat file;
	unsigned long inode;
	long at;

	if (!run->pid || run->ended || run->entry || run->seen || run->what != 'c' ||
	    run->count > 1 || run->mode == 'j' || run->parent >= 0)
		return;
	snprintf(path, sizeof(path), "%s/k%d", directory, run->keys[0]);
	if (stat(path, &file) < 0)
		return;
	for (int fd = 3; fd < 10; fd++) {
		snprintf(name, sizeof(name), "fdinfo/%d", fd);
		for (char *line = glance(run->pid, name, text); (line = strstr(line, "OFDLCK"));
		     line++)
			if (sscanf(line, "OFDLCK %*s WRITE %*d %*[^:]:%*[^:]:%lu %ld", &inode,
			           &at) == 2 &&
			    at >= 1000 && file.st_ino == inode)
				run->seen = judge->stamps;
	}
	if (run->seen)
		COUNT(seen);
}

/* Process 1 of a process id namespace: stays while there are others in it. */
static pid_t
begin_namespace(bool shows_itself)
{
	pid_t pid =
	    (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, NULL, NULL, NULL, NULL);
	char path[64];

	if (pid < 0)
		fail("clone");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("proc", "/proc", "proc", 0, NULL) < 0)
			fail("/proc");
		while (waitpid(-1, NULL, WNOHANG) >= 0 || !judge->over)
			sleep_us(500);
		_exit(0);
	}
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
	other_pids = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)pid);
	other_mounts = shows_itself ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	return pid;
}

/* Take down all that have ended; how many families they were. -1: nobody is left. */
static int
reap(void)
{
	struct rusage use;
	int status, families = 0;
	pid_t pid;

	while ((pid = wait4(-1, &status, WNOHANG, &use)) > 0)
		for (int i = 0; i < judge->count; i++) {
			struct run *run = &judge->runs[i];

			if (run->pid != pid || run->ended || (run->aside && run->parent >= 0))
				continue;
			judge_end(run, status, &use);
			families += run->parent < 0;
			break;
		}
	return pid < 0 && !families ? -1 : families;
}

/* P9: that a keylock is left that nobody has started, and does not end by itself. */
static void
end_stragglers(void)
{
	char name[40], text[2000], call[2000];

	snprintf(name, sizeof(name), "task/%d/children", (int)getpid());
	for (char *pid = strtok(glance(getpid(), name, text), " "); pid; pid = strtok(NULL, " ")) {
		found("hanging", NULL, "pid %s is left: system call %s", pid,
		      glance(atoi(pid), "syscall", call));
		kill(atoi(pid), SIGKILL);
	}
}

/* Play the runs of the wave, to their end. */
static void
play(pid_t init)
{
	int next = 0, first = 0, alive = 0, looked = 0, ended;
	int64_t continued = 0, over = 0;

	while ((ended = reap()) >= 0 || next < judge->count) {
		int64_t time = now(), overslept;

		alive -= ended > 0 ? ended : 0;
		for (; next < judge->count && alive < judge->parallel; next++)
			if (judge->runs[next].parent < 0) {
				launch(next);
				alive++;
			}
		while (first < next && judge->runs[first].ended)
			first++;
		for (int i = first; i < next; i++) {
			if (judge->runs[i].parent < 0)
				tend(&judge->runs[i]);
			if (!judge->given_up)
				watch(&judge->runs[i], time);
		}
		/* What has been stopped, whoever it was, goes on. */
		for (int i = 0; i < next && time > continued + STOPPED_FOR; i++)
			if (judge->runs[i].parent < 0 && judge->runs[i].pid)
				kill(-judge->runs[i].pid, SIGCONT);
		continued = time > continued + STOPPED_FOR ? time : continued;
		if (next > first)
			look_at(&judge->runs[first + looked++ % (next - first)]);
		for (int i = 0; i < next && judge->given_up; i++)
			if (judge->runs[i].parent < 0 && judge->runs[i].pid &&
			    !judge->runs[i].ended) {
				judge->runs[i].sent |= (uint64_t)1 << SIGKILL;
				kill(-judge->runs[i].pid, SIGKILL);
			}
		if (judge->given_up) {
			next = judge->count;
			kill(init > 0 ? init : getpid(), init > 0 ? SIGKILL : 0);
		}
		/* Daemons end when all others have. */
		judge->over = next == judge->count && alive == 0;
		over = judge->over && over ? over : time;
		if (time > over + STUCK_AFTER)
			end_stragglers();
		time = now();
		sleep_us(100);
		overslept = now() - time - 100;
		lag = overslept > lag ? overslept : lag - lag / 4096;
	}
}

/* ---- The wave ---- */

__attribute__((format(printf, 1, 2))) static int
run_keylock(const char *format, ...)
{
	char command[1500];
	va_list arguments;
	int status;

	snprintf(command, sizeof(command), "exec %s ", keylock);
	va_start(arguments, format);
	vsnprintf(command + strlen(command), 1000, format, arguments);
	va_end(arguments);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* P3: no file may be there; those that are go, so as to be told once. */
static void
expect_no_files(const char *when)
{
	if (rmdir(directory) == 0 || errno != ENOTEMPTY)
		return;
	found("files left", NULL, "%s", when);
	if (system("cd \"$KEYLOCK_DIR\" && ls -A . >&203 && rm -r \"$KEYLOCK_DIR\"") != 0)
		fail(directory);
}

/* Each key can be had; and its first run leaves no file. */
static void
had_once_more(void)
{
	static const char *const options[KEYS] = {"-x", "-x", "-A", "-j3", "-j3"};

	for (int key = 0; key < KEYS; key++) {
		int status = run_keylock("-q %s -w30 k%d true", options[key], key);
		bool died = key == RECORDED && judge->last >= 0 && !judge->well &&
		            judge->last_forgets == judge->forgets;

		if (status != 0 && !(key == RECORDED && status == 76))
			found("hanging", NULL, "k%d is not to be had: %d", key, status);
		if (status == 76 ? judge->calm : died)
			found("wrong records", NULL, "k2 at the end: %d, last run: %d, well: %d",
			      status, judge->last, judge->well);
		run_keylock("--forget k%d", key);
	}
	expect_no_files("after each key was had once more");
}

/*
 * P4: who was seen to wait for a key comes before who was started after that, unless
 * both share it: then which of the commands was quicker says nothing.
 */
static void
judge_order(void)
{
	for (int i = 0; i < judge->count * judge->count; i++) {
		const struct run *early = &judge->runs[i / judge->count];
		const struct run *late = &judge->runs[i % judge->count];

		/* One that has lost its key may come to its command late. */
		if (early->seen && !early->voided && !is_stop(early->event.signo) && late->entry &&
		    late->entry < early->entry && late->stamp > early->seen && late->parent < 0 &&
		    strchr("ch", late->what) && has_key(late, early->keys[0]) &&
		    (late->mode == 'x' || early->mode == 'x'))
			found("out of turn", early, "%d:%s%s was served before", i % judge->count,
			      late->options, late->text);
	}
}

/* Play a wave. Returns the kind of its first fault, or NULL. */
static const char *
play_wave(int number)
{
	pid_t init = 0;

	judge->wave = number;
	other_pids = other_mounts = -1;
	judge->over = false;
	if (geteuid() == 0 && number % 3 != 0)
		init = begin_namespace(number % 3 == 1);
	draw_wave();
	if (judge->foreign)
		run_keylock("--pin k%d", FOREIGN);
	play(init);
	close(other_pids);
	close(other_mounts);
	if (judge->calm)
		expect_no_files("after a calm wave");
	had_once_more();
	judge_order();
	return judge->fault;
}

/* Find the fewest families that still show the fault, each in a few tries, and list them. */
static void
shrink(const char *fault)
{
	int64_t until = now() + SHRINK_FOR;

	judge->aloud = false;
	for (int part = judge->size / 2; part > 0; part /= 2)
		for (int from = 0; from < judge->size && now() < until; from += part) {
			bool kept[FAMILIES], still = false;

			memcpy(kept, skipped, sizeof(kept));
			for (int i = from; i < from + part && i < judge->size; i++)
				skipped[i] = true;
			for (int i = 0; i < 4 && !still; i++)
				still = play_wave(judge->wave) == fault;
			if (!still)
				memcpy(skipped, kept, sizeof(kept));
		}
	draw_wave();
	dprintf(OUTPUT, "seed %llu, wave %d, shrunk to %d at once of\n", (unsigned long long)seed,
	        judge->wave, judge->parallel);
	for (int i = 0; i < judge->count; i++)
		dprintf(OUTPUT, "\t%d:%s%s\n", i, judge->runs[i].options, judge->runs[i].text);
}

/* The judge, in memory that all share. */
static void
judge_open(void)
{
	if (ftruncate(JUDGE, sizeof(*judge)) < 0)
		fail("judge");
	judge = mmap(NULL, sizeof(*judge), PROT_READ | PROT_WRITE, MAP_SHARED, JUDGE, 0);
	if (judge == MAP_FAILED)
		fail("judge");
}

int
main(int argc, char **argv)
{
	int option, only = -1, wave = 0;
	const char *fault = NULL, *dead = getenv("TORTURE_DEAD");
	char figures[500];
	int64_t begin = now();

	self = realpath("/proc/self/exe", NULL);
	directory = getenv("KEYLOCK_DIR");
	keylock = getenv("TORTURE");
	if (argc == 2 && keylock) {
		judge_open();
		option = judge->runs[atoi(argv[1])].what;
		return (option == 'c' ? job : option == 'h' ? caller : foreigner)(atoi(argv[1]));
	}
	seed = (uint64_t)time(NULL);
	while ((option = getopt(argc, argv, "s:w:")) != -1)
		if (option == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (option == 'w')
			only = atoi(optarg);
	if (argc - optind != 2 || !directory) {
		fprintf(stderr, "usage: torture [-s SEED] [-w WAVE] KEYLOCK SECONDS\n");
		return 64;
	}
	keylock = argv[optind];
	judge_open();
	/* Those that a shell has ignored in the background, and nohup(1), would end no run. */
	for (int signo = 1; signo < SIGRTMIN; signo++)
		signal(signo, SIG_DFL);
	judge->aloud = true;
	if (dead && dup2(open(dead, O_PATH), DEAD) < 0)
		fail(dead);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_TIMERSLACK, 1L);
	setenv("TORTURE", keylock, 1);
	our_pids = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	for (; !fault && now() - begin < atol(argv[optind + 1]) * 1000000; wave++)
		fault = play_wave(only >= 0 ? only : wave);
	snprintf(figures, sizeof(figures),
	         "torture: %d runs in %d waves in %.0f s, seed %llu: %d commands ran, %d of them "
	         "nested, %d signals, %d stops, %d taken, %d in doubt, %d cycles, %d seen to wait: "
	         "%s",
	         judge->counts.runs, wave, (double)(now() - begin) / 1e6, (unsigned long long)seed,
	         judge->counts.ran, judge->counts.nested, judge->counts.signals,
	         judge->counts.stops, judge->counts.taken, judge->counts.doubtful,
	         judge->counts.cycles, judge->counts.seen, fault ? fault : "no fault");
	if (fault)
		shrink(fault);
	dprintf(OUTPUT, "%s\n", figures);
	return fault != NULL;
}

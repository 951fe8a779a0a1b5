/*
 * keylock - run a command while it alone holds the lock named by a key
 *
 * Copyright (c) 2026 The keylock authors
 *
 * Permission to use, copy, modify, and distribute this software for any
 * purpose with or without fee is hereby granted, provided that the above
 * copyright notice and this permission notice appear in all copies.
 *
 * THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
 * WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
 * MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
 * ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
 * WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
 * ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
 * OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
 */

/*
 * The contract
 *
 * keylock KEY COMMAND derives a lockfile from KEY, takes its lock, runs
 * COMMAND, and lets the lock go when COMMAND has ended.
 *
 *   Alone      Two commands under one key never run at once, whichever process
 *              is killed at whichever instruction: the lock is a kernel lock of
 *              an open file description which COMMAND inherits.
 *   At once    The key is free the moment COMMAND has ended, also when it left
 *              a daemon behind: keylock unlocks the shared description.
 *   No debris  Who leaves a key last removes its file.
 *   In turn    Who waits is served strictly in the order of arrival.
 *   Asleep     Who waits sleeps in the kernel and polls nothing.
 *
 * Exit statuses (the same in --help and in the manual page): COMMAND's own; a
 * death by signal is passed on as one. Otherwise:
 *
 *   64   usage: bad option, value or combination; no KEY; no COMMAND
 *   71   the system refused something
 *   73   the directory or lockfile cannot be made, opened or written
 *   75   KEY is taken (-n) or was not had in time (-w); see -E
 *   77   the directory or lockfile is not safe to use
 *   126  COMMAND cannot be executed
 *   127  COMMAND is not found
 *
 * The order of this file is its architecture: each part uses only those above
 * it. Promise "alone" can be checked by reading the part "Lockfile".
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define _TIME_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERSION "1.0"

/* Results that leave keylock as its exit status. */
enum {
	USAGE = 64,
	REFUSED = 71,
	NO_FILE = 73,
	TAKEN = 75,
	UNSAFE = 77,
	CANNOT_EXECUTE = 126,
	NOT_FOUND = 127,
};

/* Results that stay inside: the wait was ended by the signal in `caught`. */
enum { CAUGHT = -1 };

enum {
	KEY_MAX_BYTES = 131000,
	NAME_MAX_BYTES = 200,
	NAME_SIZE = NAME_MAX_BYTES + sizeof("%s1000"),
	FIRST_COMMAND_FD = 10, /* scripts use the descriptors below it */
	SHOWN_SIZE = 256,
	MESSAGE_SIZE = 4096,
};

/* ---- Messages -----------------------------------------------------------
 *
 * One line on standard error for each thing that went wrong, written by one
 * write(2), so that nothing is left in a buffer when the command starts and
 * lines of several keylocks do not mix.
 */

/*
 * Write `keylock: ` and the line to standard error; keeps errno. Signals are
 * blocked, so a reader that is gone is a pending SIGPIPE; it is not the
 * command's nor a reason to die.
 */
__attribute__((format(printf, 1, 2))) static void
say(const char *format, ...)
{
	int kept = errno;
	char line[MESSAGE_SIZE] = "keylock: ";
	size_t used = strlen(line);
	va_list arguments;

	va_start(arguments, format);
	int wanted = vsnprintf(line + used, sizeof(line) - used - 1, format, arguments);
	va_end(arguments);
	used = strlen(line);
	if (wanted < 0)
		used = sizeof("keylock: ") - 1;
	line[used++] = '\n';
	if (write(STDERR_FILENO, line, used) < 0 && errno == EPIPE) {
		static const struct timespec at_once;
		sigset_t pipe;

		sigemptyset(&pipe);
		sigaddset(&pipe, SIGPIPE);
		sigtimedwait(&pipe, NULL, &at_once);
	}
	errno = kept;
}

/*
 * Make `text` fit for a line of a terminal: control characters, those of
 * UTF-8's C1 block too, become \xHH, and what is too long ends in "...".
 * Returns `shown`.
 */
static const char *
show(const char *text, char shown[SHOWN_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	size_t used = 0;

	for (const unsigned char *byte = (const unsigned char *)text; *byte; byte++) {
		bool c1 = byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] < 0xa0;

		if (used + sizeof("\\xHH...") > SHOWN_SIZE) {
			memcpy(shown + used, "...", 3);
			used += 3;
			break;
		}
		if (*byte >= 0x20 && *byte != 0x7f && !c1) {
			shown[used++] = (char)*byte;
			continue;
		}
		shown[used++] = '\\';
		shown[used++] = 'x';
		shown[used++] = digits[*byte >> 4];
		shown[used++] = digits[*byte & 15];
	}
	shown[used] = '\0';
	return shown;
}

/* ---- Time ---------------------------------------------------------------
 *
 * Times are nanoseconds in 64 bits, on CLOCK_MONOTONIC unless a name says
 * otherwise; FOREVER is a deadline that never comes.
 */

typedef int64_t nanoseconds;

static const nanoseconds SECOND = 1000000000;
static const nanoseconds MILLISECOND = 1000000;
static const nanoseconds FOREVER = INT64_MAX;

static nanoseconds
clock_now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (nanoseconds)time.tv_sec * SECOND + time.tv_nsec;
}

static nanoseconds
now(void)
{
	return clock_now(CLOCK_MONOTONIC);
}

/* The deadline that lies `wait` from now, FOREVER where that is past counting. */
static nanoseconds
deadline_in(nanoseconds wait)
{
	nanoseconds start;

	if (wait == FOREVER)
		return FOREVER;
	start = now();
	return wait > FOREVER - start ? FOREVER : start + wait;
}

static struct timespec
to_timespec(nanoseconds time)
{
	return (struct timespec){
	    .tv_sec = (time_t)(time / SECOND),
	    .tv_nsec = (long)(time % SECOND),
	};
}

/* How many nanoseconds the unit `suffix` has, 0 when there is no such unit. */
static nanoseconds
unit_of(const char *suffix)
{
	static const struct {
		const char *suffix;
		nanoseconds length;
	} units[] = {
	    {"", 1000000000},
	    {"ms", 1000000},
	    {"s", 1000000000},
	    {"m", 60 * INT64_C(1000000000)},
	    {"h", 3600 * INT64_C(1000000000)},
	    {"d", 86400 * INT64_C(1000000000)},
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strcmp(suffix, units[i].suffix) == 0)
			return units[i].length;
	return 0;
}

/*
 * Read a TIME: digits with an optional fraction and an optional unit. What is
 * finer than a nanosecond is rounded up, so that only 0 is 0. Returns false for
 * anything else, a sign, an exponent and what passes 292 years included.
 */
static bool
parse_time(const char *text, nanoseconds *time)
{
	size_t whole = strspn(text, "0123456789");
	size_t point = text[whole] == '.';
	size_t fraction = point ? strspn(text + whole + 1, "0123456789") : 0;
	nanoseconds unit = unit_of(text + whole + point + fraction);
	nanoseconds sum = 0;
	nanoseconds weight = unit;
	bool finer = false;

	if (whole + fraction == 0 || unit == 0)
		return false;
	for (size_t i = 0; i < whole; i++) {
		int digit = text[i] - '0';

		if (sum > (INT64_MAX / unit - digit) / 10)
			return false;
		sum = sum * 10 + digit;
	}
	sum *= unit;
	for (size_t i = 0; i < fraction; i++) {
		int digit = text[whole + 1 + i] - '0';

		if (weight % 10 != 0 || weight < 10) {
			/* The last exact digit of a unit such as 3,600 s is lost in
			 * what follows; rounding up once is right for all of it. */
			finer = finer || digit != 0;
			continue;
		}
		weight /= 10;
		if (sum > INT64_MAX - 1 - digit * weight)
			return false;
		sum += digit * weight;
	}
	*time = sum + (finer ? 1 : 0);
	return *time != FOREVER;
}

/* ---- Signals and waiting ------------------------------------------------
 *
 * All signals are blocked from the start, so that none ends keylock between
 * making a file and being able to remove it. They are let in only inside
 * wait_for(), around the one blocking call, where a handler takes down which
 * one came. A signal that comes after the check and before the blocking call
 * would be slept over: the handler therefore arms the repeating timer, which
 * cuts the call short. The same timer keeps the deadline. It is a timer of our
 * own (timer_create(2)), since ITIMER_REAL may be the caller's, which the
 * command inherits, and its signal is the one that is used least.
 */

#define WAKER SIGRTMAX

static struct {
	sigset_t came_mask;           /* the mask that keylock came with */
	bool handling;                /* handlers and timer are in place */
	bool armed;                   /* the timer runs, valid while handling */
	timer_t timer;                /* valid while handling */
	struct sigaction came[_NSIG]; /* dispositions, valid while handling */
	volatile sig_atomic_t caught; /* the signal that ends the wait, or 0 */
} signals;

struct lock;

/* What an acquisition is bounded by, and who looks around meanwhile. */
struct wait {
	bool nonblock;        /* give up at once when the key is taken */
	bool deaf;            /* let no signal in: for tidying */
	nanoseconds deadline; /* of the whole acquisition */
	nanoseconds look_at;  /* when `look` is due */
	/* Called at look_at, which it sets anew, while waiting for the lock.
	 * Returns 0 to wait on, else the exit status to give up with. */
	int (*look)(struct wait *, struct lock *);
	void *looker; /* belongs to `look` */
};

/* Stop signals, whose default is to stop the process (signal(7)). */
static bool
is_stop_signal(int signo)
{
	return signo == SIGTSTP || signo == SIGTTIN || signo == SIGTTOU;
}

/* Signals that do nothing by default (signal(7)). */
static bool
is_idle_signal(int signo)
{
	return signo == SIGCHLD || signo == SIGCONT || signo == SIGURG || signo == SIGWINCH;
}

static void
signals_block(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &signals.came_mask);
}

/* Async-signal-safe: timer_settime(2) is (signal-safety(7)). */
static void
on_signal(int signo, siginfo_t *info, void *context)
{
	static const struct itimerspec soon = {
	    .it_interval.tv_nsec = 5 * 1000000,
	    .it_value.tv_nsec = 1000000,
	};
	int kept = errno;

	(void)context;
	if (signo == WAKER &&
	    (info->si_code == SI_TIMER || signals.came[WAKER].sa_handler == SIG_IGN))
		return;
	if (!signals.caught || is_stop_signal(signals.caught))
		signals.caught = signo;
	timer_settime(signals.timer, 0, &soon, NULL);
	errno = kept;
}

/*
 * Put handlers on every signal that would end or stop keylock, and make the
 * timer. Ignored signals stay ignored. Returns 0 or an errno.
 */
static int
waiting_begin(void)
{
	struct sigaction handler = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = WAKER};

	if (signals.handling)
		return 0;
	if (timer_create(CLOCK_MONOTONIC, &event, &signals.timer) < 0)
		return errno;
	sigfillset(&handler.sa_mask);
	for (int signo = 1; signo < _NSIG; signo++) {
		struct sigaction *came = &signals.came[signo];

		came->sa_handler = SIG_ERR; /* nothing to give back */
		if (is_idle_signal(signo) || signo == SIGKILL || signo == SIGSTOP)
			continue;
		if (sigaction(signo, &handler, came) < 0)
			came->sa_handler = SIG_ERR; /* one of libc's own */
		else if (came->sa_handler == SIG_IGN && signo != WAKER)
			sigaction(signo, came, NULL);
	}
	signals.handling = true;
	signals.armed = false;
	return 0;
}

/* Undo waiting_begin(). A signal that came meanwhile is in signals.caught. */
static void
waiting_end(void)
{
	sigset_t all, waker;

	if (!signals.handling)
		return;
	timer_delete(signals.timer);
	/* One expiry may still be pending; the default action would kill. */
	sigfillset(&all);
	sigemptyset(&waker);
	sigaddset(&waker, WAKER);
	sigprocmask(SIG_UNBLOCK, &waker, NULL);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int signo = 1; signo < _NSIG; signo++)
		if (signals.came[signo].sa_handler != SIG_ERR)
			sigaction(signo, &signals.came[signo], NULL);
	signals.handling = false;
}

/*
 * Take down a signal that came before there was a command to give it to, as if
 * it had come while waiting. Returns whether one that ends or stops came.
 */
static bool
signal_came(void)
{
	sigset_t pending;

	sigpending(&pending);
	if (sigisemptyset(&pending))
		return signals.caught != 0;
	for (int signo = 1; signo < _NSIG && !signals.caught; signo++) {
		struct sigaction action;
		sigset_t only;

		if (sigismember(&pending, signo) != 1 || is_idle_signal(signo) ||
		    sigismember(&signals.came_mask, signo) == 1)
			continue;
		if (sigaction(signo, NULL, &action) < 0 || action.sa_handler == SIG_IGN)
			continue;
		sigemptyset(&only);
		sigaddset(&only, signo);
		sigwaitinfo(&only, NULL);
		signals.caught = signo;
	}
	return signals.caught != 0;
}

/*
 * Stop this process by `signo`, as its default action does, until it is
 * continued; by SIGSTOP where `signo` came ignored.
 */
static void
stop_by(int signo)
{
	struct sigaction action;
	sigset_t all_but, all;

	if (signo != SIGSTOP && sigaction(signo, NULL, &action) == 0 &&
	    action.sa_handler == SIG_IGN)
		signo = SIGSTOP;
	sigfillset(&all_but);
	sigdelset(&all_but, signo);
	kill(getpid(), signo);
	sigprocmask(SIG_SETMASK, &all_but, &all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

/*
 * Die of `signo`, without a second core. Returns 128 + signo where the kernel
 * does not let this process die of it, as process 1 of a pid namespace
 * (pid_namespaces(7)).
 */
static int
die_by(int signo)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL};
	sigset_t only;

	prctl(PR_SET_DUMPABLE, 0);
	sigaction(signo, &by_default, NULL);
	kill(getpid(), signo);
	sigemptyset(&only);
	sigaddset(&only, signo);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	return 128 + signo;
}

/* A lock request to the kernel: flock(2), or on bytes (fcntl_locking(2)). */
struct request {
	int fd;
	int flock;    /* LOCK_EX, LOCK_SH or LOCK_UN; 0 for bytes */
	short type;   /* F_RDLCK, F_WRLCK or F_UNLCK */
	off_t start;  /* the first byte */
	off_t length; /* 0: to the end of all bytes */
};

/* Make the request, waiting or not. Returns 0 or an errno, EAGAIN when taken. */
static int
request(const struct request *wish, bool waiting)
{
	struct flock bytes = {
	    .l_type = wish->type,
	    .l_whence = SEEK_SET,
	    .l_start = wish->start,
	    .l_len = wish->length,
	};
	int done;

	if (wish->flock)
		done = flock(wish->fd, wish->flock | (waiting ? 0 : LOCK_NB));
	else
		done = fcntl(wish->fd, waiting ? F_OFD_SETLKW : F_OFD_SETLK, &bytes);
	return done == 0 ? 0 : errno;
}

/*
 * Wait until the request is granted. Returns 0; ETIMEDOUT when the deadline has
 * passed; EINTR when a signal came (signals.caught); EBUSY when it is time to
 * look around; else an errno.
 */
static int
wait_for(const struct request *wish, const struct wait *wait)
{
	nanoseconds until = wait->look_at < wait->deadline ? wait->look_at : wait->deadline;
	struct itimerspec alarm = {.it_interval.tv_nsec = 5 * MILLISECOND};
	sigset_t open_to = signals.came_mask, all;
	int error = waiting_begin();

	if (error)
		return error;
	if (wait->deaf)
		sigfillset(&open_to);
	sigdelset(&open_to, WAKER);
	if (until != FOREVER)
		alarm.it_value = to_timespec(until);
	if (until != FOREVER || signals.armed)
		timer_settime(signals.timer, TIMER_ABSTIME, &alarm, NULL);
	signals.armed = until != FOREVER;
	do {
		if (signals.caught && !wait->deaf)
			return EINTR;
		if (until != FOREVER && now() >= until)
			return until == wait->deadline ? ETIMEDOUT : EBUSY;
		sigprocmask(SIG_SETMASK, &open_to, &all);
		error = request(wish, true);
		sigprocmask(SIG_SETMASK, &all, NULL);
	} while (error == EINTR);
	return error;
}

/* ---- Key to file name ---------------------------------------------------
 *
 * The name is the key, readable where it can be, and no two keys have the same
 * one. Letters, digits and ._-+@:,= stand for themselves; every other byte, and
 * a leading dot, is %XX. A name that would be too long is cut and gets %h and
 * the key's SHA-256; a slot above the first gets %sN. After % no other letter
 * than these two can stand, so the three kinds never meet.
 */

static uint32_t
rotate(uint32_t word, int count)
{
	return word >> count | word << (32 - count);
}

/* Work one block of 64 bytes into `state` (FIPS 180-4, 6.2.2). */
static void
sha256_block(uint32_t state[8], const unsigned char block[64])
{
	static const uint32_t constants[64] = {
	    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	    0xc67178f2,
	};
	uint32_t words[64];
	uint32_t work[8];

	for (int i = 0; i < 16; i++)
		words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
		           (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = words[i - 15], b = words[i - 2];

		words[i] = words[i - 16] + words[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
		           (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
	}
	memcpy(work, state, sizeof(work));
	for (int i = 0; i < 64; i++) {
		uint32_t a = work[0], e = work[4];
		uint32_t one = work[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
		               ((e & work[5]) ^ (~e & work[6])) + constants[i] + words[i];
		uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
		               ((a & work[1]) ^ (a & work[2]) ^ (work[1] & work[2]));

		memmove(work + 1, work, 7 * sizeof(*work));
		work[4] += one;
		work[0] = one + two;
	}
	for (int i = 0; i < 8; i++)
		state[i] += work[i];
}

/* Write the SHA-256 of `length` bytes as 64 hex digits and a NUL. */
static void
sha256_hex(const char *bytes, size_t length, char hex[65])
{
	uint32_t state[8] = {
	    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};
	unsigned char tail[128] = {0};
	size_t rest = length % 64;
	size_t tail_length = rest < 56 ? 64 : 128;

	for (size_t done = 0; done + 64 <= length; done += 64)
		sha256_block(state, (const unsigned char *)bytes + done);
	memcpy(tail, bytes + length - rest, rest);
	tail[rest] = 0x80;
	for (size_t i = 0; i < 8; i++)
		tail[tail_length - 1 - i] = (unsigned char)((uint64_t)length * 8 >> 8 * i);
	for (size_t done = 0; done < tail_length; done += 64)
		sha256_block(state, tail + done);
	for (int i = 0; i < 8; i++)
		snprintf(hex + 8 * i, 9, "%08" PRIx32, state[i]);
}

/* Write the file name of `key`, of 1 to KEY_MAX_BYTES bytes, to `name`. */
static void
name_of_key(const char *key, char name[NAME_SIZE])
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789._-+@:,=";
	static const char digits[] = "0123456789ABCDEF";
	enum { HASH_BYTES = 2 + 64 };
	size_t used = 0, cut = 0; /* cut: the last place where %h still fits */

	for (const char *byte = key; *byte; byte++) {
		unsigned char value = (unsigned char)*byte;
		bool stands = strchr(plain, *byte) && !(*byte == '.' && byte == key);

		if (used + (stands ? 1 : 3) > NAME_MAX_BYTES) {
			name[cut++] = '%';
			name[cut++] = 'h';
			sha256_hex(key, strlen(key), name + cut);
			return;
		}
		if (stands) {
			name[used++] = *byte;
		} else {
			name[used++] = '%';
			name[used++] = digits[value >> 4];
			name[used++] = digits[value & 15];
		}
		if (used <= NAME_MAX_BYTES - HASH_BYTES)
			cut = used;
	}
	name[used] = '\0';
}

/* ---- Directory ----------------------------------------------------------
 *
 * Where the lockfiles are. The rules that it MUST keep:
 *
 *  1. A default directory is a directory, not a link, owned by the effective
 *     user and closed to others.
 *  2. A directory given by name may be a link and is what its owner made it,
 *     but where all may write it is sticky.
 *  3. It is checked by fstat on the descriptor that is then used, and all file
 *     operations are relative to that descriptor.
 *  4. It is not on a network or cluster file system, whose cached attributes
 *     would let two hold one lock.
 *
 * Which default it is depends on the effective user id alone, never on what
 * fails: one user's key would become two locks otherwise.
 */

struct directory {
	const char *path;
	bool named; /* by --dir or KEYLOCK_DIR, not the default */
	int fd;     /* -1: not open */
	mode_t mode;
	gid_t group;
};

/* Where `fd` is 0, 1 or 2, which may have come in closed, move it above them. */
static int
above_standard(int fd)
{
	int moved;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fd);
	return moved;
}

/* The default directory of the effective user, in `path`. */
static const char *
default_directory(char *path, size_t size)
{
	uid_t user = geteuid();
	struct stat lock;

	if (user == 0)
		return "/run/keylock";
	bool shared = stat("/run/lock", &lock) == 0 && S_ISDIR(lock.st_mode) &&
	              (lock.st_mode & S_ISVTX) && (lock.st_mode & S_IWOTH);
	snprintf(path, size, "%s/keylock-%lu", shared ? "/run/lock" : "/tmp", (unsigned long)user);
	return path;
}

/* The name of the network or cluster file system that `fd` is on, or NULL. */
static const char *
network_file_system(int fd)
{
	/* statfs(2) and linux/magic.h */
	static const struct {
		uint32_t magic;
		const char *name;
	} systems[] = {
	    {0x00006969, "NFS"},  {0x0000517b, "SMB"},   {0xff534d42, "SMB"},
	    {0xfe534d42, "SMB"},  {0x00c36400, "Ceph"},  {0x0bd00bd0, "Lustre"},
	    {0x01161970, "GFS2"}, {0x7461636f, "OCFS2"}, {0x5346414f, "AFS"},
	    {0x6b414653, "AFS"},  {0x01021997, "9p"},
	};
	struct statfs system;

	if (fstatfs(fd, &system) < 0)
		return NULL;
	for (size_t i = 0; i < sizeof(systems) / sizeof(*systems); i++)
		if ((uint32_t)system.f_type == systems[i].magic)
			return systems[i].name;
	return NULL;
}

/* Say why the directory is not safe to use; returns UNSAFE. */
static int
directory_unsafe(const struct directory *directory, const char *why)
{
	char shown[SHOWN_SIZE];

	say("%s: not safe for lockfiles: %s", show(directory->path, shown), why);
	return UNSAFE;
}

/* Check the open directory against the rules. Returns 0 or UNSAFE. */
static int
directory_check(struct directory *directory)
{
	const char *network = network_file_system(directory->fd);
	char shown[SHOWN_SIZE];
	struct stat file;

	if (fstat(directory->fd, &file) < 0) {
		say("%s: %s", show(directory->path, shown), strerror(errno));
		return NO_FILE;
	}
	if (network) {
		say("%s: not safe for lockfiles: on a network file system (%s); "
		    "name a local directory with --dir",
		    show(directory->path, shown), network);
		return UNSAFE;
	}
	if (directory->named) {
		if ((file.st_mode & S_IWOTH) && !(file.st_mode & S_ISVTX))
			return directory_unsafe(directory, "all may write to it and it is not "
			                                   "sticky; chmod +t it");
	} else {
		if (file.st_uid != geteuid())
			return directory_unsafe(directory, "it belongs to another user; remove "
			                                   "it or name another with --dir");
		if (file.st_mode & (S_IRWXG | S_IRWXO))
			return directory_unsafe(directory, "it is open to others; chmod 700 it");
	}
	directory->mode = file.st_mode;
	directory->group = file.st_gid;
	return 0;
}

/*
 * Open the directory and check it; make it, but not what it is in, where it is
 * missing. Returns 0, NO_FILE, UNSAFE or REFUSED, and says why.
 */
static int
directory_open(struct directory *directory)
{
	int flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (directory->named ? 0 : O_NOFOLLOW);
	char shown[SHOWN_SIZE];
	const char *doing = "cannot be opened";

	if (directory->fd >= 0)
		close(directory->fd);
	/* A cleaner may remove the empty directory between any two of these; a
	 * dangling link, which is not made good here, ends the tries. */
	for (int tries = 0; tries < 100; tries++) {
		directory->fd = openat(AT_FDCWD, directory->path, flags);
		if (directory->fd >= 0 || errno != ENOENT)
			break;
		if (mkdir(directory->path, S_IRWXU) < 0 && errno != EEXIST) {
			doing = "cannot be made";
			break;
		}
	}
	directory->fd = above_standard(directory->fd);
	if (directory->fd >= 0)
		return directory_check(directory);
	if (errno == ENOTDIR || errno == ELOOP)
		return directory_unsafe(directory, "it is a link or no directory");
	say("%s: %s: %s", show(directory->path, shown), doing, strerror(errno));
	return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? REFUSED : NO_FILE;
}

/* ---- Lockfile -----------------------------------------------------------
 *
 * The lock of one key. All state is in kernel locks on one file, owned by the
 * open file description and let go by the kernel when the last process that
 * has it is gone. Nothing is read from the file and nothing written to it.
 *
 *   lock      flock(2), exclusive or shared: the lock that others honour.
 *   gate      byte 0, a write lock, held for microseconds by whoever looks at
 *             or changes the state of this file.
 *   presence  byte 1, a read lock, held by every holder until it releases.
 *   tickets   bytes TICKETS and up, a write lock each, held by who waits. The
 *             next is one above the highest held; an empty queue starts anew.
 *   marks     byte MARKS + pid, a read lock held by a holder beside presence:
 *             tells at the cost of one call whether some process is the taker.
 *
 * F_OFD_GETLK sees these bytes without disturbing anybody.
 *
 * Taking: inside the gate, when nobody waits, the lock is tried; else a ticket
 * is drawn, and outside the gate each waits for the one before it in line, the
 * first for the lock. Why tickets: the kernel wakes blocked requests in their
 * order, but lets a newcomer in before the woken one has run.
 *
 * Removing: who leaves, tidies. Inside the gate, with neither presence nor
 * ticket on the file and the lock exclusively held, nobody has or awaits it, so
 * its name may go. What can still happen: another has opened the file but not
 * come to the gate. It will find its file nameless, since each taker compares
 * file and name last of all, once it has presence: from then on none removes
 * it. Without that comparison two could hold one key on two files; without the
 * look at presence the name could go while a file that someone holds has lost
 * its lock already (between unlocking and tidying), and the next take another.
 *
 * Rules that it MUST keep:
 *  1. The file is opened without O_CREAT first, then with O_CREAT|O_EXCL, and
 *     again on EEXIST: fs.protected_regular (proc_sys_fs(5)) refuses O_CREAT on
 *     another's file in a sticky directory. It is a regular file.
 *  2. It is born with its final mode: read and write for the owner and for each
 *     class that may write to the directory; and the sticky bit, by which
 *     systemd-tmpfiles(8) passes a file over, whatever its age.
 *  3. Its descriptor is never 0, 1 or 2.
 */

static const off_t GATE = 0;
static const off_t PRESENCE = 1;
static const off_t TICKETS = 1000;
static const off_t MARKS = (off_t)1 << 62;
static const off_t ALL_BYTES = 0; /* a length: up to the last */

static const nanoseconds GATE_PATIENCE = 100 * MILLISECOND;

enum { LOCKFILE_FLAGS = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };

struct lock {
	const char *key;
	char name[NAME_SIZE];
	bool shared;
	int fd;    /* -1: not open */
	bool made; /* by this process, so that its times are right */
	dev_t device;
	ino_t inode;
	off_t ticket; /* 0: none */
};

/* Ask for a byte lock without waiting. Returns 0 or an errno. */
static int
byte_try(int fd, short type, off_t start, off_t length)
{
	struct request wish = {.fd = fd, .type = type, .start = start, .length = length};

	return request(&wish, false);
}

/* Wait for a byte lock; returns as wait_for() does. */
static int
byte_wait(int fd, short type, off_t start, const struct wait *wait)
{
	struct request wish = {.fd = fd, .type = type, .start = start, .length = 1};

	return wait_for(&wish, wait);
}

/*
 * Where others hold a lock that keeps us from write-locking the bytes from
 * `start` to before `end` (0: to the last byte): the first byte of one such
 * lock, at `start` or above. -1 where there is none.
 */
static off_t
byte_held(int fd, off_t start, off_t end)
{
	struct flock bytes = {
	    .l_type = F_WRLCK,
	    .l_whence = SEEK_SET,
	    .l_start = start,
	    .l_len = end ? end - start : ALL_BYTES,
	};

	if ((end && end <= start) || fcntl(fd, F_OFD_GETLK, &bytes) < 0 || bytes.l_type == F_UNLCK)
		return -1;
	return bytes.l_start > start ? bytes.l_start : start;
}

/*
 * The highest ticket that others hold below `end`, 0 when there is none. "One
 * is held at x or above" is monotone in x, so this takes O(log n) calls.
 */
static off_t
highest_ticket(int fd, off_t end)
{
	off_t found = byte_held(fd, TICKETS, end);
	off_t stride = 1;

	if (found < 0)
		return 0;
	while (end - found > 1) {
		bool near = (end - found) / 2 < stride;
		off_t middle = near ? found + (end - found) / 2 : found + stride;
		off_t hit = byte_held(fd, middle, end);

		if (hit < 0) {
			end = middle;
		} else {
			found = hit;
			stride *= 2;
		}
	}
	return found;
}

/* Say that the lockfile cannot be used, and why; returns `status`. */
static int
lockfile_failure(const struct directory *directory, const struct lock *lock, int status,
                 const char *why)
{
	char shown[SHOWN_SIZE];

	say("%s/%s: %s", show(directory->path, shown), lock->name, why);
	return status;
}

/* Say what the system refused for `lock`; returns REFUSED. */
static int
lock_refused(const struct lock *lock, const char *what, int error)
{
	char shown[SHOWN_SIZE];

	if (error == EINVAL)
		say("%s: %s: this kernel lacks open file description locks (Linux 3.15)",
		    show(lock->key, shown), what);
	else
		say("%s: %s: %s", show(lock->key, shown), what, strerror(error));
	return REFUSED;
}

/* Make the lockfile (rule 2). Returns its descriptor, or -1 and errno. */
static int
lockfile_make(const struct directory *directory, const char *name)
{
	mode_t mode = S_ISVTX | S_IRUSR | S_IWUSR;
	struct stat file;
	int fd;

	if (directory->mode & S_IWGRP)
		mode |= S_IRGRP | S_IWGRP;
	if (directory->mode & S_IWOTH)
		mode |= S_IROTH | S_IWOTH;
	fd = openat(directory->fd, name, LOCKFILE_FLAGS | O_CREAT | O_EXCL, mode);
	if (fd < 0 || !(directory->mode & S_IWGRP))
		return fd;
	/* The members of the directory's group, not those of the maker's. */
	if (fstat(fd, &file) == 0 && file.st_gid != directory->group &&
	    fchown(fd, (uid_t)-1, directory->group) < 0) {
		/* Not a member: the directory's owner wanted it so. */
	}
	return fd;
}

/*
 * Open the lockfile by its name, or make it (rules 1 and 3), and note which
 * file it is. Returns 0, or an exit status and has said why.
 */
static int
lockfile_open(struct directory *directory, struct lock *lock)
{
	/* Where the group of a new file is changed after it was made, its group
	 * cannot open it for that moment. */
	static const struct timespec moment = {.tv_nsec = 1000000};
	int chances = (directory->mode & S_IWGRP) && !(directory->mode & S_ISGID) ? 50 : 0;
	struct stat file;

	for (;;) {
		lock->made = false;
		lock->fd = openat(directory->fd, lock->name, LOCKFILE_FLAGS);
		if (lock->fd < 0 && errno == EACCES && chances-- > 0) {
			nanosleep(&moment, NULL);
			continue;
		}
		if (lock->fd >= 0 || errno != ENOENT)
			break;
		lock->made = true;
		lock->fd = lockfile_make(directory, lock->name);
		if (lock->fd >= 0 || (errno != EEXIST && errno != ENOENT))
			break;
		if (errno == ENOENT) { /* the directory itself has been removed */
			int status = directory_open(directory);

			if (status)
				return status;
		}
	}
	lock->fd = above_standard(lock->fd);
	if (lock->fd < 0) {
		switch (errno) {
		case ELOOP:
			return lockfile_failure(directory, lock, UNSAFE,
			                        "not safe: it is a symbolic link; remove it");
		case EISDIR:
		case ENXIO:
		case ENODEV:
			return lockfile_failure(directory, lock, UNSAFE,
			                        "not safe: it is no regular file; remove it");
		case EMFILE:
		case ENFILE:
		case ENOMEM:
			return lockfile_failure(directory, lock, REFUSED, strerror(errno));
		default:
			return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
		}
	}
	if (fstat(lock->fd, &file) < 0)
		return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
	if (!S_ISREG(file.st_mode))
		return lockfile_failure(directory, lock, UNSAFE,
		                        "not safe: it is no regular file; remove it");
	lock->device = file.st_dev;
	lock->inode = file.st_ino;
	return 0;
}

/* Whether the open lockfile still bears its name. */
static bool
lockfile_is_current(const struct directory *directory, const struct lock *lock)
{
	struct stat named;

	return fstatat(directory->fd, lock->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       named.st_ino == lock->inode && named.st_dev == lock->device;
}

/* Close the lockfile; all that our description of it held is let go. */
static void
lockfile_close(struct lock *lock)
{
	if (lock->fd >= 0)
		close(lock->fd);
	lock->fd = -1;
	lock->ticket = 0;
}

/*
 * Remove the lockfile where nobody has or awaits it. Called by whoever leaves
 * it, on a new description: one that a daemon of the command shares would keep
 * the gate closed if keylock were killed in here. What fails here leaves a file
 * to the next one, and does nobody harm; a stranger's file in a sticky
 * directory, which only its owner can unlink, stays.
 */
static void
lockfile_tidy(const struct directory *directory, const char *name)
{
	struct wait wait = {.deaf = true, .look_at = FOREVER};
	struct stat file, named;
	int fd = above_standard(openat(directory->fd, name, LOCKFILE_FLAGS));
	int error;

	if (fd < 0)
		return;
	error = byte_try(fd, F_WRLCK, GATE, 1);
	if (error == EAGAIN && byte_held(fd, PRESENCE, 0) < 0) {
		wait.deadline = deadline_in(GATE_PATIENCE);
		error = byte_wait(fd, F_WRLCK, GATE, &wait);
	}
	if (!error && byte_held(fd, PRESENCE, 0) < 0 && fstat(fd, &file) == 0 &&
	    S_ISREG(file.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    fstatat(directory->fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	    named.st_ino == file.st_ino && named.st_dev == file.st_dev)
		unlinkat(directory->fd, name, 0);
	close(fd);
}

/* Enter the gate. Returns as wait_for() does. */
static int
gate_enter(const struct lock *lock, struct wait *wait)
{
	struct wait bounded = *wait;
	int error = byte_try(lock->fd, F_WRLCK, GATE, 1);

	if (error != EAGAIN)
		return error;
	bounded.look_at = FOREVER;
	return byte_wait(lock->fd, F_WRLCK, GATE, &bounded);
}

static void
gate_leave(const struct lock *lock)
{
	byte_try(lock->fd, F_UNLCK, GATE, 1);
}

/* Become a holder for all to see. Returns 0 or an errno. */
static int
presence_take(const struct lock *lock)
{
	int error = byte_try(lock->fd, F_RDLCK, PRESENCE, 1);

	return error ? error : byte_try(lock->fd, F_RDLCK, MARKS + getpid(), 1);
}

static int
flock_mode(const struct lock *lock)
{
	return lock->shared ? LOCK_SH : LOCK_EX;
}

/*
 * Wait, with a ticket, for our turn and then for the lock; become a holder and
 * give the ticket back. Returns 0, an errno, or an exit status of `look` as a
 * negative number.
 */
static int
lock_await(struct lock *lock, struct wait *wait)
{
	struct request turn = {.fd = lock->fd, .flock = flock_mode(lock)};
	int error;

	do {
		off_t ahead;

		if (now() >= wait->look_at) {
			int status = wait->look(wait, lock);

			if (status)
				return -status;
		}
		/* Most often the one before us is still there. */
		if (lock->ticket > TICKETS &&
		    byte_held(lock->fd, lock->ticket - 1, lock->ticket) > 0)
			ahead = lock->ticket - 1;
		else
			ahead = highest_ticket(lock->fd, lock->ticket);
		if (ahead) {
			error = byte_wait(lock->fd, F_RDLCK, ahead, wait);
			byte_try(lock->fd, F_UNLCK, ahead, 1);
			if (!error)
				error = EBUSY; /* look who is ahead now */
		} else {
			error = wait_for(&turn, wait);
		}
	} while (error == EBUSY);
	if (!error)
		error = presence_take(lock);
	if (!error)
		byte_try(lock->fd, F_UNLCK, TICKETS, MARKS - TICKETS);
	return error;
}

/*
 * Take the lock of the open lockfile, or a place in its queue and then the
 * lock. Returns 0; EAGAIN when it is taken and we do not wait; else as
 * lock_await() does.
 */
static int
lock_take(struct lock *lock, struct wait *wait)
{
	struct request at_once = {.fd = lock->fd, .flock = flock_mode(lock)};
	int error = gate_enter(lock, wait);
	off_t last;

	if (error)
		return error;
	last = highest_ticket(lock->fd, MARKS);
	error = last ? EAGAIN : request(&at_once, false);
	if (!error) {
		error = presence_take(lock);
	} else if (error == EAGAIN && !wait->nonblock) {
		lock->ticket = last ? last + 1 : TICKETS;
		lock->made = false; /* held later than made */
		error = byte_try(lock->fd, F_WRLCK, lock->ticket, 1);
		gate_leave(lock);
		return error ? error : lock_await(lock, wait);
	}
	gate_leave(lock);
	return error;
}

/*
 * Acquire the lock of lock->key: open its file, take the lock, and see that the
 * file is still the one that bears the name. Returns 0; TAKEN, CAUGHT, or
 * another exit status and has said why. After anything but 0 all is given back.
 */
static int
lock_acquire(struct directory *directory, struct lock *lock, struct wait *wait)
{
	int error, status;

	for (;;) {
		status = lockfile_open(directory, lock);
		if (status) {
			lockfile_close(lock);
			return status;
		}
		if (wait->nonblock && wait->deadline == FOREVER)
			wait->deadline = deadline_in(GATE_PATIENCE);
		error = lock_take(lock, wait);
		/* "Taken" too is only true of the file that bears the name. */
		if ((error && error != EAGAIN) || lockfile_is_current(directory, lock))
			break;
		lockfile_close(lock);
		if (wait->deadline != FOREVER && now() >= wait->deadline) {
			error = ETIMEDOUT;
			break;
		}
	}
	if (!error && !signals.caught) {
		if (!lock->made)
			futimens(lock->fd, NULL); /* held since now */
		return 0;
	}
	if (signals.caught)
		status = CAUGHT;
	else if (error == EAGAIN || error == ETIMEDOUT)
		status = TAKEN;
	else if (error < 0)
		status = -error;
	else
		status = lock_refused(lock, "cannot be locked", error);
	lockfile_close(lock);
	lockfile_tidy(directory, lock->name);
	return status;
}

/*
 * Let the lock go: for everybody at once, also while a daemon that the command
 * left behind has the description. With `linger` it lasts until the last
 * process that inherited it has ended.
 */
static void
lock_release(const struct directory *directory, struct lock *lock, bool linger)
{
	if (!linger) {
		flock(lock->fd, LOCK_UN);
		byte_try(lock->fd, F_UNLCK, 0, ALL_BYTES);
	}
	lockfile_close(lock);
	lockfile_tidy(directory, lock->name);
}

/* ---- Running the command ------------------------------------------------
 *
 * The command gets what keylock came with: mask, dispositions, umask, streams,
 * environment but for KEYLOCK_*, and the lock's descriptor, so that the key
 * stays taken while it runs even if keylock is killed. keylock waits for it
 * with all signals blocked and takes them one by one.
 */

struct command {
	char **argv;              /* argv[-1] can be written to */
	const struct lock *locks; /* whose descriptors it inherits */
	size_t count;
	char *key_line; /* KEYLOCK_KEY=…, or NULL */
	mode_t umask;   /* that keylock came with */
};

/* How a command ended, or that it was not run. */
struct ending {
	int status; /* the command's exit status, or keylock's own */
	int signal; /* that it died of, or 0 */
	bool ran;   /* the command was executed */
};

/*
 * Execute argv[0] with `environment`, found along PATH as execvp(3) finds it,
 * and where the kernel does not know its format, as a script of /bin/sh. Only
 * returns on failure, with errno set; writes argv[-1] then.
 */
static void
execute(char **argv, char **environment)
{
	const char *path = getenv("PATH");
	char *name = argv[0];
	char file[PATH_MAX + NAME_MAX];
	bool denied = false;

	if (!path)
		path = "/bin:/usr/bin";
	if (strchr(name, '/') || !*name)
		path = "";
	for (;;) {
		size_t length = strcspn(path, ":");
		const char *slash = length ? "/" : "";

		if (length + strlen(name) + 2 <= sizeof(file)) {
			snprintf(file, sizeof(file), "%.*s%s%s", (int)length, path, slash, name);
			execve(file, argv, environment);
			if (errno == ENOEXEC) {
				static char shell[] = "/bin/sh";

				argv[-1] = shell;
				argv[0] = file;
				execve(shell, argv - 1, environment);
				return;
			}
			if (errno == EACCES)
				denied = true;
			else if (errno != ENOENT && errno != ENOTDIR)
				return;
		} else {
			errno = ENAMETOOLONG;
		}
		if (!path[length])
			break;
		path += length + 1;
	}
	if (denied)
		errno = EACCES;
	else if (!strchr(name, '/'))
		errno = ENOENT;
}

static bool
is_own_variable(const char *entry)
{
	return strncmp(entry, "KEYLOCK_KEY=", strlen("KEYLOCK_KEY=")) == 0;
}

/*
 * Become the command: give back mask, umask and dispositions, keep the lock's
 * descriptor over the exec, and execute. Only returns on failure: the exit
 * status for it, with errno set.
 */
static int
become(const struct command *command, const struct sigaction *child_came)
{
	size_t count = 0, kept = 0;

	while (environ[count])
		count++;
	char *environment[count + 2];

	for (size_t i = 0; i < count; i++)
		if (!is_own_variable(environ[i]))
			environment[kept++] = environ[i];
	environment[kept] = command->key_line;
	environment[kept + 1] = NULL;

	for (size_t i = 0; i < command->count; i++)
		if (fcntl(command->locks[i].fd, F_DUPFD, FIRST_COMMAND_FD) < 0)
			return REFUSED;
	umask(command->umask);
	if (child_came->sa_handler == SIG_IGN)
		sigaction(SIGCHLD, child_came, NULL);
	/* A stop signal from here to the exec would stop this process while
	 * keylock waits for the exec, blind to it: the exec must come next. */
	sigprocmask(SIG_SETMASK, &signals.came_mask, NULL);
	execute(command->argv, environment);
	if (errno == E2BIG) {
		environment[kept] = NULL; /* it may be the key that is too long */
		execute(command->argv, environment);
	}
	return errno == ENOENT ? NOT_FOUND : CANNOT_EXECUTE;
}

/* Whether keylock has to pass the signal on to the command. */
static bool
is_for_command(const siginfo_t *info, pid_t child)
{
	bool by_kernel = info->si_code == SI_KERNEL;

	switch (info->si_signo) {
	case SIGCHLD:
		return false;
	case SIGINT:
	case SIGQUIT:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
	case SIGWINCH:
		/* From the terminal: its whole foreground group got it. */
		if (by_kernel)
			return false;
		break;
	case SIGHUP:
	case SIGCONT:
		/* A hangup goes to the session's leader alone, and to groups that
		 * it leaves orphaned (credentials(7), setpgid(2)). */
		if (by_kernel)
			return getsid(0) == getpid();
		break;
	default:
		break;
	}
	/* What the command sent to its own group it has got already. */
	return info->si_code > 0 || info->si_pid != child;
}

/*
 * Wait for the command, passing signals on to it and stopping with it. Other
 * children, as process 1 of a container gets them, are reaped in passing.
 */
static struct ending
command_wait(pid_t child)
{
	struct ending ending = {0};
	sigset_t all;

	sigfillset(&all);
	for (;;) {
		siginfo_t info;
		int status;
		pid_t pid;

		if (sigwaitinfo(&all, &info) < 0)
			continue;
		if (info.si_signo != SIGCHLD) {
			if (is_for_command(&info, child))
				kill(child, info.si_signo);
			continue;
		}
		while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
			if (pid != child)
				continue;
			if (WIFSTOPPED(status)) {
				/* Continued, keylock gets a SIGCONT to pass on. */
				stop_by(WSTOPSIG(status));
				continue;
			}
			if (WIFSIGNALED(status))
				ending.signal = WTERMSIG(status);
			else
				ending.status = WEXITSTATUS(status);
			return ending;
		}
	}
}

/* Say why the command was not run; returns that it was not. */
static struct ending
command_failure(const char *name, int status, int error)
{
	char shown[SHOWN_SIZE];
	const char *why = strerror(error);

	if (status == NOT_FOUND)
		why = strchr(name, '/') && access(name, F_OK) == 0
		          ? "the interpreter that its first line names is not found"
		          : "command not found";
	say("%s: %s", show(name, shown), why);
	return (struct ending){.status = status};
}

/*
 * Run the command as a child and wait for its end, or run it in this process
 * with `in_place`. vfork(2): until the exec the child runs in this process's
 * memory, so nothing is copied for it, and it leaves word of a failure there.
 */
static struct ending
command_run(const struct command *command, bool in_place)
{
	static const struct sigaction by_default = {.sa_handler = SIG_DFL};
	static volatile int status, error;
	const char *name = command->argv[0];
	struct sigaction child_came;
	pid_t child;

	sigaction(SIGCHLD, NULL, &child_came);
	if (in_place) {
		status = become(command, &child_came);
		error = errno;
		signals_block();
		return command_failure(name, status, error);
	}
	/* Were SIGCHLD ignored, the kernel would not keep the child's status. */
	if (child_came.sa_handler == SIG_IGN)
		sigaction(SIGCHLD, &by_default, NULL);
	child = vfork();
	if (child == 0) {
		status = become(command, &child_came);
		error = errno;
		_exit(status);
	}
	if (child < 0)
		return command_failure(name, REFUSED, errno);
	if (status) {
		waitpid(child, NULL, 0);
		return command_failure(name, status, error);
	}
	/* As without keylock, the command alone decides when its input's writer
	 * and its output's reader see it closed. */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	return command_wait(child);
}

/* ---- Options ------------------------------------------------------------ */

enum action { RUN, SHOW_HELP, SHOW_VERSION, SHOW_PATH };

struct options {
	enum action action;
	bool shared;
	bool close_lock;
	bool in_place;
	bool linger;
	bool verbose;
	bool quiet;
	nanoseconds wait; /* 0: give up at once */
	int conflict_status;
	const char *directory; /* NULL: the environment's or the default */
	const char *key;
	char **command;  /* as struct command has it */
	char *script[5]; /* the command where -c gives one */
	char problem[MESSAGE_SIZE / 2];
};

static const char help[] =
    "Usage: keylock [option]... KEY [--] COMMAND [ARGUMENT]...\n"
    "       keylock [option]... KEY -c SCRIPT\n"
    "       keylock --path KEY\n"
    "Run COMMAND while it alone holds the lock named KEY.\n"
    "\n"
    "  -x, -e, --exclusive     hold KEY alone (default)\n"
    "  -s, --shared            hold KEY together with others that use -s\n"
    "  -n, --nonblock          give up at once when KEY is taken (also --nb)\n"
    "  -w, --wait TIME         give up after TIME (also --timeout): seconds, or\n"
    "                          500ms, 10s, 5m, 2h, 1d; 0 is -n\n"
    "  -E, --conflict-exit-code N   exit status when giving up (default 75)\n"
    "  -F, --no-fork           replace keylock by COMMAND: no process in between\n"
    "  -o, --close             do not hand the lock's descriptor to COMMAND\n"
    "  -l, --linger            hold KEY until the last process that inherited the\n"
    "                          lock has ended, not only COMMAND\n"
    "  -c, --command SCRIPT    after KEY: run SCRIPT with /bin/sh -c\n"
    "  -d, --dir DIR           directory of the lockfiles (default: $KEYLOCK_DIR,\n"
    "                          else one of the effective user's own)\n"
    "  -v, --verbose           say on standard error what is waited for, and why\n"
    "  -q, --quiet             say nothing but errors of usage and of the system\n"
    "      --path              print the path of KEY's lockfile and make nothing\n"
    "  -h, --help              print this help\n"
    "  -V, --version           print the version\n"
    "\n"
    "Exit status: that of COMMAND (a death by signal is passed on as one), or\n"
    "   64  usage error              77  directory or lockfile not safe to use\n"
    "   71  the system refused      126  COMMAND cannot be executed\n"
    "   73  no directory, lockfile  127  COMMAND is not found\n"
    "   75  KEY is taken (see -E)\n";

/* Take down what is wrong with the command line; returns USAGE. */
__attribute__((format(printf, 2, 3))) static int
usage(struct options *options, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(options->problem, sizeof(options->problem), format, arguments);
	va_end(arguments);
	return USAGE;
}

/* Read a whole number from `low` to `high`: digits and nothing else. */
static bool
parse_number(const char *text, int low, int high, int *number)
{
	int sum = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		sum = sum * 10 + (*text - '0');
		if (sum > high)
			return false;
	}
	*number = sum;
	return sum >= low;
}

enum { LONG_ONLY = 256, OPTION_PATH };

static const char short_options[] = "+:xesnw:E:Fold:vqhV";
static const struct option long_options[] = {
    {"exclusive", no_argument, NULL, 'x'},
    {"shared", no_argument, NULL, 's'},
    {"nonblock", no_argument, NULL, 'n'},
    {"nonblocking", no_argument, NULL, 'n'},
    {"nb", no_argument, NULL, 'n'},
    {"wait", required_argument, NULL, 'w'},
    {"timeout", required_argument, NULL, 'w'},
    {"conflict-exit-code", required_argument, NULL, 'E'},
    {"no-fork", no_argument, NULL, 'F'},
    {"close", no_argument, NULL, 'o'},
    {"linger", no_argument, NULL, 'l'},
    {"dir", required_argument, NULL, 'd'},
    {"verbose", no_argument, NULL, 'v'},
    {"quiet", no_argument, NULL, 'q'},
    {"path", no_argument, NULL, OPTION_PATH},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* Take one option. Returns 0 or USAGE. */
static int
parse_option(struct options *options, int option, char **argv)
{
	char shown[SHOWN_SIZE];

	switch (option) {
	case 'x':
	case 'e':
		options->shared = false;
		break;
	case 's':
		options->shared = true;
		break;
	case 'n':
		options->wait = 0;
		break;
	case 'w':
		if (!parse_time(optarg, &options->wait))
			return usage(options,
			             "-w '%s': not a time (seconds, or 500ms, 10s, 5m, 2h, 1d)",
			             show(optarg, shown));
		break;
	case 'E':
		if (!parse_number(optarg, 0, 255, &options->conflict_status))
			return usage(options, "-E '%s': not an exit status (0 to 255)",
			             show(optarg, shown));
		break;
	case 'F':
		options->in_place = true;
		break;
	case 'o':
		options->close_lock = true;
		break;
	case 'l':
		options->linger = true;
		break;
	case 'd':
		options->directory = optarg;
		break;
	case 'v':
		options->verbose = true;
		options->quiet = false;
		break;
	case 'q':
		options->quiet = true;
		options->verbose = false;
		break;
	case 'h':
		options->action = SHOW_HELP;
		break;
	case 'V':
		options->action = SHOW_VERSION;
		break;
	case OPTION_PATH:
		options->action = SHOW_PATH;
		break;
	case ':':
		return usage(options, "%s: needs a value; see keylock --help",
		             show(argv[optind - 1], shown));
	default:
		if (optopt > 0 && optopt < LONG_ONLY)
			return usage(options, "-%c: no such option; see keylock --help", optopt);
		return usage(options, "%s: no such option; see keylock --help",
		             show(argv[optind - 1], shown));
	}
	return 0;
}

/* Take the command after KEY: `[--] COMMAND…` or `-c SCRIPT`. */
static int
parse_command(struct options *options, char **argv)
{
	static char shell[] = "/bin/sh", dash_c[] = "-c";
	char shown[SHOWN_SIZE];

	if (!*argv)
		return usage(options, "%s: no COMMAND; see keylock --help",
		             show(options->key, shown));
	if (strcmp(*argv, "--") == 0) {
		if (!*++argv)
			return usage(options, "%s: no COMMAND after --; see keylock --help",
			             show(options->key, shown));
	} else if (strcmp(*argv, "-c") == 0 || strcmp(*argv, "--command") == 0) {
		if (!argv[1] || argv[2])
			return usage(options, "%s: takes exactly one SCRIPT", *argv);
		options->script[1] = shell;
		options->script[2] = dash_c;
		options->script[3] = argv[1];
		argv = options->script + 1;
	} else if (**argv == '-') {
		return usage(options,
		             "%s: options stand before KEY; a command of that name after --",
		             show(*argv, shown));
	}
	options->command = argv;
	return 0;
}

/*
 * Read the command line into `options`, which holds the defaults. Returns 0, or
 * USAGE with options->problem set.
 */
static int
parse(struct options *options, int argc, char **argv)
{
	char shown[SHOWN_SIZE];
	int option, status;

	opterr = 0;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		status = parse_option(options, option, argv);
		if (status)
			return status;
	}
	argv += optind;
	if (options->action == SHOW_HELP || options->action == SHOW_VERSION)
		return 0;
	if (!options->directory) {
		options->directory = getenv("KEYLOCK_DIR");
		if (options->directory && !*options->directory)
			options->directory = NULL;
	}
	if (options->directory && options->directory[0] != '/')
		return usage(options, "directory '%s': not an absolute path",
		             show(options->directory, shown));
	if (options->in_place && options->close_lock)
		return usage(options, "-F and -o: the key would be free at once");
	options->key = *argv;
	if (!options->key)
		return usage(options, "no KEY; see keylock --help");
	if (!*options->key)
		return usage(options, "KEY is empty");
	if (strlen(options->key) > KEY_MAX_BYTES)
		return usage(options, "KEY is longer than %d bytes", KEY_MAX_BYTES);
	argv++;
	if (options->action == RUN)
		return parse_command(options, argv);
	if (*argv)
		return usage(options, "%s: one argument too many", show(*argv, shown));
	return 0;
}

/* ---- Main --------------------------------------------------------------- */

/* Write all of `text` to standard output. Returns 0, or REFUSED and says why. */
static int
print(const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(STDOUT_FILENO, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0) {
			say("standard output: %s", strerror(errno));
			return REFUSED;
		}
		text += written;
		length -= (size_t)written;
	}
	return 0;
}

/* Print the path of the key's lockfile. */
static int
print_path(const struct directory *directory, const char *key)
{
	char path[PATH_MAX + NAME_SIZE + 2];
	char name[NAME_SIZE];

	name_of_key(key, name);
	int length = snprintf(path, sizeof(path), "%s/%s\n", directory->path, name);
	return print(path, (size_t)length < sizeof(path) ? (size_t)length : sizeof(path) - 1);
}

/* Say why the key was not had. */
static void
say_taken(const struct options *options)
{
	char shown[SHOWN_SIZE];

	if (options->verbose)
		say("%s: %s", show(options->key, shown),
		    options->wait ? "not had in time" : "taken");
}

/*
 * Take the lock, waiting as the options say. A stop signal gives every place up,
 * stops, and queues anew; another one leaves with CAUGHT.
 */
static int
take(const struct options *options, struct directory *directory, struct lock *lock)
{
	struct wait wait = {
	    .nonblock = options->wait == 0,
	    .deadline = options->wait ? deadline_in(options->wait) : FOREVER,
	    .look_at = FOREVER,
	};
	int status;

	for (;;) {
		status = lock_acquire(directory, lock, &wait);
		waiting_end();
		if (status == 0 && !signal_came())
			return 0;
		if (status == 0)
			lock_release(directory, lock, false);
		if (!signals.caught)
			return status;
		if (!is_stop_signal(signals.caught))
			return CAUGHT;
		int signo = signals.caught;

		signals.caught = 0;
		stop_by(signo);
	}
}

static int
run(struct options *options, struct directory *directory)
{
	struct lock lock = {.key = options->key, .shared = options->shared, .fd = -1};
	char key_line[sizeof("KEYLOCK_KEY=") + strlen(options->key)];
	struct command command = {
	    .argv = options->command,
	    .locks = &lock,
	    .count = options->close_lock ? 0 : 1,
	    .key_line = key_line,
	    .umask = umask(0), /* files are born with the mode they shall have */
	};
	struct ending ending;
	int status;

	snprintf(key_line, sizeof(key_line), "KEYLOCK_KEY=%s", options->key);
	name_of_key(lock.key, lock.name);
	status = directory_open(directory);
	if (status)
		return status;
	status = take(options, directory, &lock);
	if (status == CAUGHT)
		return die_by(signals.caught);
	if (status == TAKEN) {
		say_taken(options);
		return options->conflict_status;
	}
	if (status)
		return status;
	ending = command_run(&command, options->in_place);
	lock_release(directory, &lock, options->linger);
	return ending.signal ? die_by(ending.signal) : ending.status;
}

int
main(int argc, char **argv)
{
	static char path[64];
	struct options options = {.wait = FOREVER, .conflict_status = TAKEN};
	struct directory directory = {.fd = -1};

	signals_block();
	if (parse(&options, argc, argv)) {
		say("%s", options.problem);
		return USAGE;
	}
	if (options.action == SHOW_HELP)
		return print(help, sizeof(help) - 1);
	if (options.action == SHOW_VERSION)
		return print("keylock " VERSION "\n", sizeof("keylock " VERSION "\n") - 1);
	directory.named = options.directory != NULL;
	directory.path =
	    directory.named ? options.directory : default_directory(path, sizeof(path));
	if (options.action == SHOW_PATH)
		return print_path(&directory, options.key);
	return run(&options, &directory);
}

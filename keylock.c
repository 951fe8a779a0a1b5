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
 * The order of this file is its architecture: each part uses only those above
 * it. Promise "alone" can be checked by reading the part "Lockfile".
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define _TIME_BITS 64

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#define VERSION "1.0"

/* Results that leave keylock as its exit status. A command's own is passed on, and so is its
 * death by a signal. */
enum {
	NOBODY = 1,           /* --who: nobody holds the key */
	USAGE = 64,           /* bad option, value or combination; no KEY; no COMMAND */
	REFUSED = 71,         /* the system refused something */
	NO_FILE = 73,         /* the directory or lockfile cannot be made, opened or written */
	TAKEN = 75,           /* the key is taken (-n) or was not had in time (-w); see -E */
	IN_DOUBT = 76,        /* the last holder died in the middle (-A) */
	UNSAFE = 77,          /* the directory or lockfile is not safe to use */
	ENDLESS = 78,         /* an ancestor holds the key, or there is a cycle of waiters */
	CANNOT_EXECUTE = 126, /* COMMAND cannot be executed */
	NOT_FOUND = 127,      /* COMMAND is not found */
};

/* Results that stay inside. */
enum {
	CAUGHT = 256, /* the wait was ended by the signal in signals.caught */
	COVERED,      /* the lock of an ancestor covers this run */
	DONE,         /* what was asked for was printed */
};

enum {
	SLOTS_MAX = 1000,
	ANCESTORS_MAX = 1000,
	KEY_MAX_BYTES = 131000,
	NAME_MAX_BYTES = 200,
	NAME_SIZE = NAME_MAX_BYTES + sizeof("%s-2147483648"),
	FIRST_COMMAND_FD = 10, /* scripts use the descriptors below it */
	SHOWN_SIZE = 256,
	MESSAGE_SIZE = 4096,
};

/* ---- Time ---------------------------------------------------------------
 *
 * Times are nanoseconds in 64 bits, on CLOCK_MONOTONIC; FOREVER never comes.
 */

typedef int64_t nanoseconds;

static const nanoseconds SECOND = 1000000000;
static const nanoseconds MILLISECOND = 1000000;
static const nanoseconds FOREVER = INT64_MAX;
static const nanoseconds UNSET = -1;

static nanoseconds
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (nanoseconds)time.tv_sec * SECOND + time.tv_nsec;
}

/* The time that lies `wait` from now, FOREVER where that is past counting. */
static nanoseconds
time_in(nanoseconds wait)
{
	/* The first look at the clock costs a run two page faults. */
	nanoseconds start = wait == FOREVER ? 0 : now();

	return wait > FOREVER - start ? FOREVER : start + wait;
}

/* Read a TIME: digits with an optional fraction and an optional unit. What is finer than a
 * nanosecond is rounded up, so that only 0 is 0. Returns false for anything else, a sign,
 * an exponent and what passes 292 years included. */
static bool
parse_time(const char *text, nanoseconds *time)
{
	static const char *const suffixes[] = {"", "ms", "s", "m", "h", "d"};
	static const int lengths[] = {1000, 1, 1000, 60000, 3600000, 86400000};
	char *end;
	long double value = strtold(text, &end);
	size_t unit = 0;

	if (end == text || (size_t)(end - text) != strspn(text, "0123456789."))
		return false;
	while (strcmp(end, suffixes[unit]) != 0)
		if (++unit == sizeof(suffixes) / sizeof(*suffixes))
			return false;
	value = value * lengths[unit] * (long double)MILLISECOND;
	if (value >= (long double)FOREVER)
		return false;
	*time = (nanoseconds)value;
	*time += (long double)*time < value;
	return *time != FOREVER;
}

/* ---- Signals and waiting ------------------------------------------------
 *
 * All signals are blocked from the start, so that none ends keylock between making a file
 * and being able to remove it. They are let in only around the one blocking call of a wait,
 * where a handler takes down which one came. One that comes just before that call would be
 * slept over: the handler therefore arms a repeating timer, which cuts the call short and
 * keeps the deadline, too; not ITIMER_REAL, which may be the caller's and the command's.
 */

enum { WAKER = _NSIG - 1 }; /* the timer's signal, SIGRTMAX: the one that is used least */

/* Those that people and systems send to end or to stop a program. */
static const int handled[] = {
    SIGHUP,  SIGINT,  SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1,
    SIGUSR2, SIGXCPU, SIGPWR,  SIGTSTP, SIGTTIN, SIGTTOU,
};

static struct {
	sigset_t all;       /* those too that sigfillset(3) leaves to libc (nptl(7)) */
	sigset_t came_mask; /* the mask that keylock came with */
	sigset_t wait_mask; /* while waiting */
	bool begun;         /* there are handlers and the timer */
	timer_t timer;
	struct sigaction waker_came;      /* what was done with WAKER */
	volatile sig_atomic_t caught;     /* the signal that ends the wait, or 0 */
	bool in_child;                    /* the child runs in our memory: see become() */
	volatile sig_atomic_t child_stop; /* the stop signal that it was sent then, or 0 */
} signals;

/* Stop signals, whose default is to stop the process (signal(7)). */
static bool
is_stop_signal(int signo)
{
	return signo == SIGTSTP || signo == SIGTTIN || signo == SIGTTOU;
}

static void
signals_begin(void)
{
	memset(&signals.all, 0xff, sizeof(signals.all));
	/* musl's own call does not tell of SIGRTMIN as programs of glibc know it. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &signals.all, &signals.came_mask, _NSIG / 8);
	/* A SIGCONT that is let in is lost where it comes just before the handler of
	 * a stop signal is called; blocked it continues us and stays pending. */
	signals.wait_mask = signals.came_mask;
	sigaddset(&signals.wait_mask, SIGCONT);
	sigdelset(&signals.wait_mask, WAKER);
}

/* Have the timer expire at `until`, and again and again. Returns 0, or -1 and errno. */
static int
timer_arm(nanoseconds until)
{
	struct itimerspec alarm = {
	    .it_value = {(time_t)(until / SECOND), (long)(until % SECOND)},
	    .it_interval.tv_nsec = 5 * MILLISECOND,
	};

	return signals.begun ? timer_settime(signals.timer, TIMER_ABSTIME, &alarm, NULL) : 0;
}

/* Take down what ends the wait; all that is called is async-signal-safe, and nobody reads an
 * errno that this could change. In the child do what the signal does by default, but do not
 * stop. */
static void
on_signal(int signo)
{
	if (signals.in_child && is_stop_signal(signo)) {
		signals.child_stop = signo;
	} else if (signals.in_child) {
		signal(signo, SIG_DFL);
		kill(getpid(), signo);
	} else if (signo != WAKER) {
		if (!signals.caught || is_stop_signal(signals.caught))
			signals.caught = signo;
		timer_arm(now() + MILLISECOND);
	}
}

/* Have `handler` called for the signals above, with `stops` only for those that stop; not for
 * what came ignored. */
static void
signals_handle(void (*handler)(int), bool stops)
{
	struct sigaction action = {.sa_handler = handler, .sa_mask = signals.all}, came;

	for (size_t i = 0; i < sizeof(handled) / sizeof(*handled); i++)
		if ((!stops || is_stop_signal(handled[i])) &&
		    sigaction(handled[i], &action, &came) == 0 && came.sa_handler == SIG_IGN)
			signal(handled[i], SIG_IGN);
}

/* Make the timer and set the handlers up, once. Returns 0 or an errno. */
static int
waiting_begin(void)
{
	struct sigaction handler = {.sa_handler = on_signal, .sa_mask = signals.all};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = WAKER};

	if (signals.begun)
		return 0;
	if (timer_create(CLOCK_MONOTONIC, &event, &signals.timer) < 0)
		return errno == EAGAIN ? EDQUOT : errno; /* EAGAIN means taken here */
	sigaction(WAKER, &handler, &signals.waker_came);
	signals_handle(on_signal, false);
	signals.begun = true;
	return 0;
}

/* Let in what signals have come. Returns whether one is to end or to stop keylock: it is in
 * signals.caught then. */
static bool
signal_came(void)
{
	sigset_t pending;

	sigpending(&pending);
	if (!sigisemptyset(&pending) && waiting_begin() == 0) {
		sigprocmask(SIG_SETMASK, &signals.wait_mask, NULL);
		sigprocmask(SIG_SETMASK, &signals.all, NULL);
	}
	return signals.caught != 0;
}

/* Do what `signo` does by default: stop until continued, or die, without a second core. Not
 * stop where a SIGCONT has come since, which is pending then: a stop signal that is sent takes
 * it away (signal(7)). Returns 128 + signo where the kernel does not let this process die of
 * it, as process 1 of a pid namespace (pid_namespaces(7)). */
static int
act_by_default(int signo)
{
	enum { BITS = 8 * sizeof(unsigned long) };
	struct sigaction by_default = {.sa_handler = SIG_DFL}, came;
	unsigned long only[_NSIG / BITS + 1] = {0}; /* sigaddset(3) leaves some to libc */
	sigset_t pending;

	signals.caught = 0;
	sigpending(&pending);
	if (!is_stop_signal(signo))
		prctl(PR_SET_DUMPABLE, 0);
	else if (sigismember(&pending, SIGCONT) == 1)
		return 0;
	only[(signo - 1) / BITS] = 1UL << (unsigned)(signo - 1) % BITS;
	sigaction(signo, &by_default, &came);
	kill(getpid(), signo);
	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, only, NULL, _NSIG / 8);
	sigprocmask(SIG_SETMASK, &signals.all, NULL);
	sigaction(signo, &came, NULL);
	return 128 + signo;
}

/* Where a stop signal was caught, stop by it. Returns whether that was so. */
static bool
stopped(void)
{
	int signo = signals.caught;

	if (is_stop_signal(signo))
		act_by_default(signo);
	return is_stop_signal(signo);
}

static const off_t LOCK = -1; /* not a byte of the file, but the flock(2) of the whole */

/* Ask for the lock of a byte (F_OFD_SETLK, fcntl_locking(2)), or for LOCK, or give it up:
 * `type` is F_RDLCK, F_WRLCK or F_UNLCK. Returns 0 or an errno, EAGAIN when taken. */
static int
request(int fd, short type, off_t what, bool waiting)
{
	struct flock byte = {.l_type = type, .l_start = what, .l_len = 1};
	int operation = type == F_UNLCK ? LOCK_UN : type == F_RDLCK ? LOCK_SH : LOCK_EX;
	int done;

	do { /* FUSE, which is not of the kernel alone, may answer with EINTR */
		if (what == LOCK)
			done = flock(fd, operation | (waiting ? 0 : LOCK_NB));
		else
			done = fcntl(fd, waiting ? F_OFD_SETLKW : F_OFD_SETLK, &byte);
	} while (done < 0 && errno == EINTR && !waiting);
	return done == 0 ? 0 : errno;
}

/* What bounds the wait for a lock, and who looks around meanwhile. */
struct wait {
	bool nonblock;        /* give up when the key is taken */
	bool early;           /* the first look is due as soon as we wait */
	nanoseconds deadline; /* of the whole acquisition */
	nanoseconds look_at;  /* when `look` is due; UNSET: a second after the wait begins */
	/* Sets look_at anew. Returns 0 to wait on, else the result to leave with. */
	int (*look)(struct wait *);
	struct lock *lock;     /* that is waited for */
	struct looker *looker; /* what `look` needs beside it */
};

/* Whether a look may go on: the time is not over, and no signal has come. */
static bool
wait_goes_on(const struct wait *wait)
{
	return !signal_came() && now() < wait->deadline;
}

/* What is to be done before sleeping on, until `until` at most. Returns 0, and the timer will
 * end the sleep; ETIMEDOUT when the deadline has passed; EINTR when a signal came
 * (signals.caught); a result of `look` as a negative number; else an errno. */
static int
wait_check(struct wait *wait, nanoseconds until)
{
	int error = waiting_begin();

	if (wait->look_at == UNSET)
		wait->look_at = time_in(SECOND);
	until = wait->deadline < until ? wait->deadline : until;
	while (!error) {
		if (signals.caught)
			return EINTR;
		/* The look that is due at once comes first. */
		if (wait->look_at && now() >= wait->deadline)
			return ETIMEDOUT;
		if (wait->look_at == FOREVER || now() < wait->look_at)
			return timer_arm(wait->look_at < until ? wait->look_at : until) ? errno : 0;
		error = -wait->look(wait);
	}
	return error;
}

/* Have a lock, at once or waiting. Returns 0, or as wait_check() does. */
static int
lock_have(int fd, short type, off_t what, struct wait *wait)
{
	int error = request(fd, type, what, false);

	if (error != EAGAIN)
		return error;
	do {
		error = wait_check(wait, FOREVER);
		if (error)
			return error;
		sigprocmask(SIG_SETMASK, &signals.wait_mask, NULL);
		error = request(fd, type, what, true);
		sigprocmask(SIG_SETMASK, &signals.all, NULL);
	} while (error == EINTR);
	return error == EAGAIN ? ENOLCK : error; /* "taken" is no answer to one who waits */
}

/* ---- Messages -----------------------------------------------------------
 *
 * One line on standard error for each thing that went wrong, written by one
 * write(2), so that nothing is left in a buffer when the command starts and
 * lines of several keylocks do not mix.
 */

/* While keylock waits or holds, a line that standard error does not take at once is
 * dropped: nobody behind it pays for a pipe that nobody reads. Else signals are let in, as
 * by any program. */
static bool hurried;

/* Write `keylock: ` and the line to standard error; keeps errno. Returns `status`. A reader
 * that is gone, or a limit on the file's size, leaves a signal pending, where those are
 * blocked, that is neither the command's nor a reason to die. */
__attribute__((format(printf, 2, 3))) static int
say(int status, const char *format, ...)
{
	int kept = errno;
	char line[MESSAGE_SIZE] = "keylock: ";
	size_t used = strlen(line);
	va_list arguments;
	struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
	sigset_t own, mask = hurried ? signals.all : signals.came_mask;
	bool full = false;

	va_start(arguments, format);
	vsnprintf(line + used, sizeof(line) - used - 1, format, arguments);
	va_end(arguments);
	used = strlen(strcat(line, "\n"));
	sigemptyset(&own);
	sigaddset(&own, SIGPIPE);
	sigaddset(&own, SIGXFSZ);
	sigorset(&mask, &mask, &own);
	if (hurried && waiting_begin() == 0) {
		sigdelset(&mask, WAKER);
		timer_arm(now() + MILLISECOND);
	} else if (hurried) { /* no timer is left; another may fill it after the look */
		full = poll(&ready, 1, 0) == 0;
	}
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (!full && write(STDERR_FILENO, line, used) < 0)
		sigtimedwait(&own, NULL, &(struct timespec){.tv_sec = 0});
	timer_arm(FOREVER);
	sigprocmask(SIG_SETMASK, hurried ? &signals.all : &signals.came_mask, NULL);
	errno = kept;
	return status;
}

/* How many bytes the character at `text` has in UTF-8, 0 where there is none; *character
 * is which. Only who says or lists something needs a locale. */
static size_t
utf8_length(const char *text, wchar_t *character)
{
	static bool set;
	int length;

	set = set || setlocale(LC_CTYPE, "C.UTF-8");
	length = mbtowc(character, text, MB_LEN_MAX);
	/* glibc knows longer forms, too. */
	return length > 0 && *character <= 0x10ffff ? (size_t)length : 0;
}

/* `text` fit for a line of a terminal: control characters, and bytes that are no UTF-8, become
 * \xHH, and what is too long ends in "...". Valid until the next call. */
static const char *
show(const char *text)
{
	static char shown[SHOWN_SIZE];
	wchar_t character = 0;
	size_t used = 0;

	while (*text && used + sizeof("\\xHH...") <= SHOWN_SIZE) {
		size_t length = utf8_length(text, &character);

		length = iswcntrl((wint_t)character) ? 0 : length;
		if (length)
			used += (size_t)sprintf(shown + used, "%.*s", (int)length, text);
		else
			used += (size_t)sprintf(shown + used, "\\x%02x", (unsigned char)*text);
		text += length ? length : 1;
	}
	strcpy(shown + used, *text ? "..." : "");
	return shown;
}

/* Bring to standard output what was printed. Returns 0, or REFUSED and says why. */
static int
printed(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	return say(REFUSED, "standard output: %s", strerror(errno));
}

/* Read a whole number from `low` to `high`: digits and nothing else. */
static bool
parse_number(const char *text, int low, int high, int *number)
{
	unsigned long long value = strtoull(text, NULL, 10); /* too large: ULLONG_MAX */

	if (!*text || text[strspn(text, "0123456789")] || value > INT_MAX)
		return false;
	*number = (int)value;
	return *number >= low && *number <= high;
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

/* Work a block, the first 16 words, into `state` (FIPS 180-4, 6.2.2). */
static void
sha256_block(uint32_t state[8], uint32_t words[64])
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
	uint32_t work[8];

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
	uint32_t words[64] = {0};
	size_t end = (length + 8) / 64 * 64 + 64;

	/* A bit behind the bytes and, in the last eight, how many bits they are. */
	for (size_t i = 0; i < end; i++) {
		uint64_t size = end - i > 8 ? 0 : (uint64_t)length * 8 >> 8 * (end - 1 - i);
		uint32_t byte = i < length    ? (unsigned char)bytes[i]
		                : i == length ? 0x80
		                              : size & 0xff;

		words[i / 4 % 16] = words[i / 4 % 16] << 8 | byte;
		if (i % 64 == 63)
			sha256_block(state, words);
	}
	for (int i = 0; i < 8; i++)
		sprintf(hex + 8 * i, "%08x", state[i]);
}

/* Write the file name of `key`, of 1 to KEY_MAX_BYTES bytes, to `name`. */
static void
name_of_key(const char *key, char name[NAME_SIZE])
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789._-+@:,=";
	enum { HASH_BYTES = 2 + 64 };
	size_t used = 0, cut = 0; /* cut: the last place where %h still fits */

	for (const char *byte = key; *byte; byte++) {
		bool stands = strchr(plain, *byte) && !(*byte == '.' && byte == key);

		if (used + (stands ? 1 : 3) > NAME_MAX_BYTES) {
			memcpy(name + cut, "%h", 2);
			sha256_hex(key, strlen(key), name + cut + 2);
			return;
		}
		if (stands)
			name[used++] = *byte;
		else
			used += (size_t)sprintf(name + used, "%%%02X", (unsigned char)*byte);
		if (used <= NAME_MAX_BYTES - HASH_BYTES)
			cut = used;
	}
	name[used] = '\0';
}

/* Name the file of slot `slot`, from 1, of the key whose first file is `base`: the name of a
 * long key is dear, and a thousand slots have it in common. */
static void
slot_name(const char *base, int slot, char name[NAME_SIZE])
{
	int used = snprintf(name, NAME_SIZE, "%.*s", NAME_MAX_BYTES, base);

	if (slot > 1)
		sprintf(name + used, "%%s%d", slot);
}

/* Read a file name back: the key to `key` and the number of the slot. A name with a hash
 * stands for itself, and *hashed tells so. Returns false for a name that the above do not
 * make, which is found out by making it again. */
static bool
key_of_name(const char *name, char key[NAME_SIZE], int *slot, bool *hashed)
{
	char base[NAME_SIZE], again[NAME_SIZE], *mark, *hash;
	size_t used = 0;

	if (strlen(name) >= NAME_SIZE)
		return false;
	strcpy(base, name);
	*slot = 1;
	mark = strstr(base, "%s");
	if (mark && !parse_number(mark + 2, 2, SLOTS_MAX, slot))
		return false;
	if (mark)
		*mark = '\0';
	hash = strstr(base, "%h");
	*hashed = hash && strlen(base) <= NAME_MAX_BYTES &&
	          strspn(hash + 2, "0123456789abcdef") == 64 && !hash[2 + 64];
	if (*hashed) {
		strcpy(key, base);
		return true;
	}
	for (const char *byte = base; *byte; byte++) {
		unsigned int value = (unsigned char)*byte;

		if (*byte == '%' && byte[1] && byte[2] && sscanf(byte + 1, "%2x", &value) == 1)
			byte += 2;
		key[used++] = (char)value;
	}
	key[used] = '\0';
	name_of_key(key, base);
	slot_name(base, *slot, again);
	return *key && strcmp(again, name) == 0;
}

/* ---- Directory ----------------------------------------------------------
 *
 * Where the lockfiles are. The rules that it MUST keep:
 *
 *  1. A default directory is a directory, not a link, owned by the effective user and closed
 *     to others, and not in a service's own /tmp. Which one depends on the user id alone.
 *  2. A directory given by name may be a link, but where all may write it is sticky.
 *  3. It is checked by fstat on the descriptor that is then used, and all file operations are
 *     relative to that descriptor.
 *  4. It is not on a network or cluster file system, whose cached attributes would let two
 *     hold one lock.
 */

struct directory {
	const char *path;
	bool named;     /* by --dir or KEYLOCK_DIR, not the default */
	bool look_only; /* where it is missing it stays so */
	bool made;      /* by this process */
	int fd;         /* -1: not open */
	struct stat is;
};

/* Say what is wrong with the directory, and the way out of a default. Returns `status`. */
static int
directory_failure(const struct directory *directory, int status, const char *why)
{
	const char *what = status == UNSAFE ? "not safe for lockfiles" : "cannot be made or opened";

	return say(status, "%s: %s: %s%s", show(directory->path), what, why,
	           directory->named ? "" : "; name another with -d DIR or KEYLOCK_DIR");
}

/* The exit status for an error at the directory or a lockfile. */
static int
status_of(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM ? REFUSED : NO_FILE;
}

/* The errno of a look that had not what it needs, so that its result may lack something. */
static int look_failed;

static void
look_note(int error)
{
	if (status_of(error) == REFUSED)
		look_failed = error;
}

/* What a file of /proc says, "" where it cannot be read; a NUL that ends a word is a blank.
 * Valid until the next. */
__attribute__((format(printf, 1, 2))) static const char *
proc_text(const char *format, ...)
{
	enum { SIZE = 1 << 20 }; /* what is not written to costs nothing */
	static char *text;
	ssize_t got = 1;
	size_t used = 0;
	char path[64];
	va_list arguments;
	int fd;

	va_start(arguments, format);
	vsnprintf(path, sizeof(path), format, arguments);
	va_end(arguments);
	text = text ? text : malloc(SIZE);
	if (!text) {
		look_note(ENOMEM);
		return "";
	}
	fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (got = read(fd, text + used, SIZE - 1 - used)) > 0)
		used += (size_t)got;
	if (got)
		look_note(errno);
	if (fd >= 0)
		close(fd);
	while (used && !text[used - 1])
		used--;
	text[used] = '\0';
	for (size_t i = strlen(text); i < used; i += strlen(text + i))
		text[i] = ' ';
	return text;
}

/* What is behind the first line of `text`. */
static const char *
line_after(const char *text)
{
	text += strcspn(text, "\n");
	return *text ? text + 1 : text;
}

/* Settle which directory it is: `named`, or where that is NULL the default of the effective
 * user. Returns 0, or UNSAFE and says why. */
static int
directory_choose(struct directory *directory, const char *named)
{
	static char own[64];
	uid_t user = named ? 0 : geteuid();
	const char *mount = "";
	struct stat lock;
	bool shared;

	directory->named = named != NULL;
	directory->path = named ? named : user ? own : "/run/keylock";
	if (named || !user)
		return 0;
	shared = stat("/run/lock", &lock) == 0 && S_ISDIR(lock.st_mode) &&
	         (lock.st_mode & S_ISVTX) && (lock.st_mode & S_IWOTH);
	snprintf(own, sizeof(own), "%s/keylock-%lu", shared ? "/run/lock" : "/tmp",
	         (unsigned long)user);
	/* The mount of a service's own /tmp shows a folder of systemd's (systemd.exec(5),
	 * PrivateTmp; proc_pid_mountinfo(5)). Others do not see that folder. */
	if (!shared)
		mount = proc_text("/proc/self/mountinfo");
	while ((mount = strstr(mount, "/systemd-private-"))) {
		mount += strcspn(mount, " ");
		if (strncmp(mount, " /tmp ", strlen(" /tmp ")) == 0)
			return directory_failure(directory, UNSAFE,
			                         "/tmp is this service's own (PrivateTmp), and a "
			                         "key there would be another one outside");
	}
	return 0;
}

/* Check the open directory against the rules. Returns 0, or a status and says why. */
static int
directory_check(struct directory *directory)
{
	/* Network and cluster file systems (statfs(2), linux/magic.h). */
	static const uint32_t systems[] = {
	    0x00006969,                         /* NFS */
	    0x0000517b, 0xff534d42, 0xfe534d42, /* SMB */
	    0x00c36400,                         /* Ceph */
	    0x0bd00bd0,                         /* Lustre */
	    0x01161970,                         /* GFS2 */
	    0x7461636f,                         /* OCFS2 */
	    0x5346414f, 0x6b414653,             /* AFS */
	    0x01021997,                         /* 9p */
	};
	struct statfs system = {0};
	const struct stat *is = &directory->is;
	const char *why = NULL;

	if (fstat(directory->fd, &directory->is) < 0)
		return directory_failure(directory, NO_FILE, strerror(errno));
	if (directory->named && (is->st_mode & S_IWOTH) && !(is->st_mode & S_ISVTX))
		why = "all may write to it and it is not sticky; chmod +t it";
	else if (!directory->named && is->st_uid != geteuid())
		why = "it belongs to another user";
	else if (!directory->named && (is->st_mode & (S_IRWXG | S_IRWXO)))
		why = "it is open to others; chmod 700 it";
	fstatfs(directory->fd, &system);
	for (size_t i = 0; i < sizeof(systems) / sizeof(*systems); i++)
		if ((uint32_t)system.f_type == systems[i])
			why = "it is on a network file system";
	return why ? directory_failure(directory, UNSAFE, why) : 0;
}

/* Open the directory and check it; make it, but not what it is in, where it is missing
 * (with look_only, leave it so and fd -1). Returns 0, NO_FILE, UNSAFE or REFUSED, and says
 * why. */
static int
directory_open(struct directory *directory)
{
	int flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (directory->named ? 0 : O_NOFOLLOW);

	if (directory->fd >= 0)
		close(directory->fd);
	/* A cleaner may remove the empty directory between any two of these; a
	 * dangling link, which is not made good here, ends the tries. */
	for (int tries = 0; tries < 100; tries++) {
		directory->fd = openat(AT_FDCWD, directory->path, flags);
		if (directory->fd >= 0 || errno != ENOENT)
			break;
		if (directory->look_only)
			return 0;
		directory->made = mkdir(directory->path, S_IRWXU) == 0;
		if (!directory->made && errno != EEXIST)
			break;
	}
	if (directory->fd < 0 && (errno == ENOTDIR || errno == ELOOP))
		return directory_failure(directory, UNSAFE, "it is a link or no directory");
	/* Where 0, 1 or 2 came in closed, this is there: as good as closed (O_PATH), until exec
	 * closes it; nothing else of ours gets their numbers. */
	while (directory->fd >= 0 && directory->fd <= STDERR_FILENO)
		directory->fd = fcntl(directory->fd, F_DUPFD_CLOEXEC, 0);
	if (directory->fd < 0)
		return directory_failure(directory, status_of(errno), strerror(errno));
	return directory_check(directory);
}

/* ---- Lockfile -----------------------------------------------------------
 *
 * The lock of one key. All state is in kernel locks on one file, owned by the open file
 * description and let go by the kernel when the last process that has it is gone. Nothing
 * is read from the file and nothing written to it.
 *
 *   lock      flock(2), exclusive or shared: the lock that others honour.
 *   gate      byte 0, a write lock, held for microseconds by who changes the state.
 *   presence  byte 1, a read lock, held by every holder until it releases.
 *   guests    byte 2, a read lock of each run under an ancestor's exclusive hold.
 *   others    byte 3, a read lock of each who waits for slots; byte 4, a write lock of who
 *             looks whether waiters wait for each other in a circle.
 *   tickets   bytes TICKETS and up, a write lock each, held by who waits. The next is one
 *             above the highest held.
 *
 * Taking: inside the gate the lock is tried, and kept when nobody waits and no guest is
 * there; else a ticket is drawn, and outside the gate each waits for the one before it in
 * line, the first for the lock and then for the guests. Why tickets: the kernel wakes
 * blocked requests in their order, but lets a newcomer in before the woken one has run.
 * Why guests after the lock: a guest has its byte before it believes in its ancestor's lock,
 * so whoever has that lock next sees the guest.
 *
 * Removing: who leaves, tidies. Inside the gate and with the lock held exclusively, a file
 * that shows neither presence nor guest nor ticket is nobody's, so its name may go: looked
 * at with the lock in hand, since one who came past the gate (-n), or a guest, may hold by
 * it. Who has opened it but not come to the gate finds it nameless, since each taker compares
 * file and name last of all, once it is present: from then on none removes it.
 *
 * Rules that it MUST keep:
 *  1. The file is opened without O_CREAT first, then with O_CREAT|O_EXCL, and again on
 *     EEXIST: fs.protected_regular (proc_sys_fs(5)) refuses O_CREAT on another's file in a
 *     sticky directory. It is a regular file.
 *  2. It is born with its final mode: read and write for the owner and for each class that
 *     may write to the directory; and the sticky bit, by which systemd-tmpfiles(8) passes a
 *     file over, whatever its age.
 */

static const off_t GATE = 0;
static const off_t PRESENCE = 1;
static const off_t GUESTS = 2;
static const off_t SLOT_WAITER = 3;
static const off_t CYCLE = 4;
static const off_t TICKETS = 1000;
static const off_t LAST_TICKET = (off_t)1 << 61;

static const nanoseconds GATE_PATIENCE = 100 * MILLISECOND;

enum { LOCKFILE_FLAGS = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };
enum { LOOK_FLAGS = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };
enum { PINNED = S_IXUSR }; /* the mode bit of a file that is never removed */

/* An open lockfile. */
struct lockfile {
	int fd; /* -1: not open */
	/* Its state when it was opened, before its name was compared: whose other name goes
	 * between the two was never a lockfile. */
	struct stat was;
};

static const struct lockfile NO_LOCKFILE = {.fd = -1};

struct lock {
	struct directory *directory;
	struct record *record; /* see "Record" */
	const char *key;
	char name[NAME_SIZE]; /* of its file */
	bool shared;
	bool guest;                                /* runs under an ancestor's exclusive hold */
	int slots;                                 /* how many may hold it at once */
	int (*take)(struct lock *, struct wait *); /* see lock_acquire() */
	struct lockfile file;
	off_t ticket; /* 0: none */
	/* Where a look has found that an ancestor's hold covers us: our own description
	 * of the file `name`, by which we are let in. */
	struct lockfile cover;
};

/* Ask for a lock, or give it up, without waiting. Returns 0 or an errno. */
static int
lock_try(int fd, short type, off_t what)
{
	return request(fd, type, what, false);
}

/* The same, with patience for 100 ms for what others hold for microseconds. */
static int
lock_try_again(int fd, short type, off_t what)
{
	int error, tries = 100;

	while ((error = lock_try(fd, type, what)) == EAGAIN && tries--)
		usleep(1000);
	return error;
}

/* Give up all that is locked from `start` on. */
static void
bytes_give_up(int fd, off_t start)
{
	struct flock bytes = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = start};

	fcntl(fd, F_OFD_SETLK, &bytes);
}

/* Find a lock of others that keeps us from a lock of `type` on the bytes from `start` to
 * before `end` (0: to the last byte). Returns whether there is one; its first byte, at
 * `start` or above, is then in *first, and its last one in *last. */
static bool
byte_held(int fd, short type, off_t start, off_t end, off_t *first, off_t *last)
{
	struct flock bytes = {
	    .l_type = type,
	    .l_whence = SEEK_SET,
	    .l_start = start,
	    .l_len = end ? end - start : 0,
	};

	if ((end && end <= start) || fcntl(fd, F_OFD_GETLK, &bytes) < 0 || bytes.l_type == F_UNLCK)
		return false;
	*first = bytes.l_start > start ? bytes.l_start : start;
	*last = bytes.l_len ? bytes.l_start + bytes.l_len - 1 : INT64_MAX;
	return true;
}

/* Whether others hold a lock on a byte from `start` to before `end` (0: to the last byte). */
static bool
is_held(int fd, off_t start, off_t end)
{
	off_t first, last;

	return byte_held(fd, F_WRLCK, start, end, &first, &last);
}

/* The highest ticket that others hold below `end`, 0 when there is none. "One is held at x or
 * above" is monotone in x, so this takes few calls. */
static off_t
highest_ticket(int fd, off_t end)
{
	off_t first, found, none = end; /* none: from there on there is none */

	if (!byte_held(fd, F_RDLCK, TICKETS, end, &first, &found))
		return 0;
	for (off_t step = 1024; step; step /= 2)
		while (step < none - found)
			if (!byte_held(fd, F_RDLCK, found + step, end, &first, &found))
				none = found + step;
	return found;
}

/* Say what is wrong with a lockfile; returns `status`. */
static int
lockfile_failure(const struct directory *directory, const char *name, int status, const char *why)
{
	return say(status, "%s/%s: %s", show(directory->path), name, why);
}

/* Make the lockfile (rule 2; the umask is 0). Returns its descriptor, or -1 and errno. */
static int
lockfile_make(const struct directory *directory, const char *name)
{
	mode_t writable = S_IWUSR | (directory->is.st_mode & (S_IWGRP | S_IWOTH));
	mode_t mode = S_ISVTX | writable | writable << 1; /* who may write may read, too */
	int fd = openat(directory->fd, name, LOCKFILE_FLAGS | O_CREAT | O_EXCL, mode);

	/* The members of the directory's group, not those of the maker's. */
	if (fd >= 0 && (mode & S_IWGRP) && fchown(fd, (uid_t)-1, directory->is.st_gid) < 0) {
		/* Not a member: the directory's owner wanted it so. */
	}
	return fd;
}

/* Open the lockfile `name`, or make it (rule 1), and note which file it is. Returns 0, or
 * an exit status and has said why. */
static int
lockfile_open(struct directory *directory, const char *name, struct lockfile *file)
{
	bool unsafe;
	int status;

	for (int tries = 0; tries < 100; tries++) {
		file->fd = openat(directory->fd, name, LOCKFILE_FLAGS);
		if (file->fd < 0 && errno == ENOENT)
			file->fd = lockfile_make(directory, name);
		if (file->fd >= 0 || (errno != EACCES && errno != EEXIST && errno != ENOENT))
			break;
		/* While the group of a new file is changed its members cannot open it. */
		if (errno == EACCES)
			usleep(1000);
		/* The directory itself has been removed, or takes no files. */
		status = errno == ENOENT ? directory_open(directory) : 0;
		if (status)
			return status;
	}
	if (file->fd >= 0 && fstat(file->fd, &file->was) == 0) {
		if (S_ISREG(file->was.st_mode))
			return 0;
		errno = EISDIR;
	}
	unsafe = errno == ELOOP || errno == EISDIR || errno == ENXIO || errno == ENODEV;
	return lockfile_failure(directory, name, unsafe ? UNSAFE : status_of(errno),
	                        unsafe ? "not safe: it is a link or no regular file; remove it"
	                               : strerror(errno));
}

/* What the `error` of one who takes the open lockfile comes to: ESTALE where the file does not
 * bear its name any more, of which alone 0 and EAGAIN are true; else an errno. */
static int
lockfile_recheck(const struct directory *directory, const char *name, const struct lockfile *file,
                 int error)
{
	struct stat named;

	if (error && error != EAGAIN)
		return error;
	if (fstatat(directory->fd, name, &named, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? ESTALE : errno;
	return named.st_ino == file->was.st_ino && named.st_dev == file->was.st_dev ? error
	                                                                            : ESTALE;
}

/* Close the lockfile; all that our description of it held is let go. */
static void
lockfile_close(struct lockfile *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

/* Remove the lockfile `name` where nobody has or awaits it, nobody has pinned it, and nothing
 * is written in it. By a new description: one that a daemon of the command shares would keep
 * the gate closed if keylock were killed in here. What fails, as in a sticky directory, leaves
 * the file to the next one. */
static void
lockfile_tidy(const struct directory *directory, const char *name)
{
	int fd = openat(directory->fd, name, LOCKFILE_FLAGS);
	struct lockfile file = {.fd = fd};
	bool removed = false;

	/* Whoever is there tidies. */
	if (fd >= 0 && !is_held(fd, PRESENCE, 0) && lock_try_again(fd, F_WRLCK, GATE) == 0) {
		if (lock_try(fd, F_WRLCK, LOCK) == 0 && !is_held(fd, PRESENCE, 0) &&
		    fstat(fd, &file.was) == 0 && S_ISREG(file.was.st_mode) &&
		    !(file.was.st_mode & PINNED) && file.was.st_size == 0 &&
		    lockfile_recheck(directory, name, &file, 0) == 0)
			removed = unlinkat(directory->fd, name, 0) == 0;
		/* close(2) alone opens the gate a moment before it gives up the lock, and a
		 * newcomer would find taken what nobody has: of a file that has its name. */
		if (!removed)
			lock_try(fd, F_UNLCK, LOCK);
	}
	lockfile_close(&file);
}

/* Wait, with a ticket, until none below it is held. Returns as lock_have() does. What is
 * read-locked on the way is given up with the ticket. */
static int
turn_await(const struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = 0;
	off_t ahead = lock->ticket - 1; /* most often that one is still there */

	while (ahead >= TICKETS && !error) {
		error = lock_have(fd, F_RDLCK, ahead, wait);
		ahead = highest_ticket(fd, lock->ticket);
	}
	return error;
}

/* Draw the ticket above the highest held. Inside the gate, which stays closed where another
 * program's locks are in the way, until they are gone. Returns as lock_have() does. */
static int
ticket_draw(struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = 0;
	off_t last;

	while (!error && (last = highest_ticket(fd, INT64_MAX)) >= LAST_TICKET) {
		error = lock_have(fd, F_RDLCK, last, wait);
		bytes_give_up(fd, TICKETS);
	}
	if (error)
		return error;
	lock->ticket = last ? last + 1 : TICKETS;
	if (wait->early)
		wait->look_at = 0;
	return lock_have(fd, F_WRLCK, lock->ticket, wait);
}

/* Wait, with a ticket, for our turn, for the lock and for the guests; become a holder and
 * give the ticket back, with what was locked on the way. Returns as lock_have() does. */
static int
lock_await(struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = turn_await(lock, wait);

	if (!error)
		error = lock_have(fd, lock->shared ? F_RDLCK : F_WRLCK, LOCK, wait);
	if (!error && is_held(fd, GUESTS, GUESTS + 1)) {
		error = lock_have(fd, F_WRLCK, GUESTS, wait);
		lock_try(fd, F_UNLCK, GUESTS);
	}
	if (!error)
		error = lock_have(fd, F_RDLCK, PRESENCE, wait);
	if (!error)
		bytes_give_up(fd, TICKETS);
	return error;
}

/* Take the lock of the open file, and be present, without waiting: where nobody has it, nor a
 * byte from the guests' to before `end` (0: to the last one). Returns 0, or an errno, EAGAIN
 * when it is taken, and nothing is kept. */
static int
lock_take_now(int fd, short type, off_t end)
{
	int error = lock_try(fd, type, LOCK);

	if (error)
		return error;
	error = is_held(fd, GUESTS, end) ? EAGAIN : lock_try(fd, F_RDLCK, PRESENCE);
	if (error)
		lock_try(fd, F_UNLCK, LOCK);
	return error;
}

/* Take the lock of the open lockfile, or a place in its queue and then the lock. Returns as
 * lock_await() does; EAGAIN when it is taken and we do not wait. */
static int
lock_take(struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = lock_have(fd, F_WRLCK, GATE, wait);

	/* A crowd may keep the gate closed: -n then tries without, and may find the lock in
	 * the hands of one who only tidies. */
	if (error && !(error == ETIMEDOUT && wait->nonblock))
		return error;
	error = lock_take_now(fd, lock->shared ? F_RDLCK : F_WRLCK, 0);
	if (error == EAGAIN && !wait->nonblock)
		error = ticket_draw(lock, wait);
	lock_try(fd, F_UNLCK, GATE);
	return !error && lock->ticket ? lock_await(lock, wait) : error;
}

/* What has become of the acquisition of `lock` that left with `error`: 0 and a lock that is
 * held; else TAKEN, CAUGHT, COVERED or another result, which has been said, and all is
 * given back. */
static int
lock_result(struct lock *lock, int error)
{
	int fd = lock->file.fd, result = error < 0 ? -error : TAKEN;
	const char *why;

	timer_arm(FOREVER);
	if (!error && !signals.caught) {
		/* Held since now, unless others hold it along with us. A file that has a
		 * second name may be a stranger's, whose times are not ours. */
		if (lock->file.was.st_nlink == 1 &&
		    !(lock->shared && is_held(fd, PRESENCE, PRESENCE + 1)))
			futimens(fd, NULL);
		return 0;
	}
	why = strerror(error);
	if (error == EINVAL)
		why = "this kernel or file system has no open file description locks; keylock "
		      "needs Linux 3.15 or newer";
	else if (error == EDQUOT)
		why = "no timer is left to wait with; see ulimit -i";
	if (error >= 0 && signals.caught)
		result = CAUGHT;
	else if (error > 0 && error != EAGAIN && error != ETIMEDOUT)
		result = say(REFUSED, "%s: cannot be locked: %s", show(lock->key), why);
	lockfile_close(&lock->file);
	lockfile_tidy(lock->directory, lock->name);
	return result;
}

/* Acquire the lock of lock->key: open its file, take it, and see that the file is still the
 * one that bears the name. Returns as lock->take does, or what lock_result() takes for an error. */
static int
lock_acquire(struct lock *lock, struct wait *wait)
{
	int error;

	for (int tries = 1;; tries++) {
		lockfile_close(&lock->file);
		lock->ticket = 0;
		error = -lockfile_open(lock->directory, lock->name, &lock->file);
		if (!error)
			error = lock->take(lock, wait);
		error = lockfile_recheck(lock->directory, lock->name, &lock->file, error);
		if (error != ESTALE)
			return error;
		/* There are file systems (FUSE) that number a file anew at each look. */
		if (signal_came() || (wait->nonblock ? tries == 100 : now() >= wait->deadline))
			return ETIMEDOUT;
	}
}

/* Let the lock go: for everybody at once, also while a daemon that the command left behind
 * has the description; with `linger` when the last process that inherited it has ended. So,
 * too, where a guest goes on, who alone can be present beside an exclusive holder: flock(1)
 * knows nothing of guests, and is to find the key taken. */
static void
lock_release(struct lock *lock, bool linger)
{
	int fd = lock->file.fd;

	if (!linger && (lock->shared || lock->guest || !is_held(fd, PRESENCE, PRESENCE + 1))) {
		bytes_give_up(fd, GATE);
		lock_try(fd, F_UNLCK, LOCK);
	}
	lockfile_close(&lock->file);
	lockfile_tidy(lock->directory, lock->name);
}

/* ---- Record -------------------------------------------------------------
 *
 * With -A or -R the lockfile holds a record while an exclusive holder runs: one line of
 * RECORD_SIZE bytes, blanks before its newline,
 *
 *     keylock1 pid=812 since=2026-11-24T23:26:16Z cause=killed command=charge.sh
 *
 * on disk before the command starts. It says what became of the command if nobody can change
 * it any more: keylock was killed. A command that ends by itself ends it; one that died
 * leaves it with that cause. Whatever else is found counts as a record that cannot be read.
 * Only to a file that is empty, begins with the version word, or has the sticky bit that
 * keylock gives its files is written.
 */

enum { RECORD_SIZE = 192, DATE_SIZE = sizeof("2026-11-24T23:26:16Z") };

#define RECORD_VERSION "keylock1 "

struct record {
	char found[RECORD_SIZE]; /* what was left when the lock was acquired, or empty */
	off_t old_size;          /* of what was found */
	size_t old_length;       /* of its beginning */
	char old[RECORD_SIZE];
	char own[RECORD_SIZE + 1]; /* what we have written; empty: nothing */
	char since[DATE_SIZE];
};

/* Write a time of CLOCK_REALTIME as RFC 3339 has it, in UTC; what lies before 1970 or after
 * 9999, as a file's time may, as the nearest that does not. */
static const char *
date_text(time_t time, char text[DATE_SIZE])
{
	static const time_t last = 253402300799;
	struct tm parts = {0};

	time = time < 0 ? 0 : time > last ? last : time;
	gmtime_r(&time, &parts);
	strftime(text, DATE_SIZE, "%Y-%m-%dT%H:%M:%SZ", &parts);
	return text;
}

/* Compose our record with `cause` in record->own. */
static void
record_compose(struct record *record, const char *cause, const char *command)
{
	const char *slash = strrchr(command, '/');
	char line[2 * SHOWN_SIZE];
	size_t used = RECORD_SIZE - 1;

	snprintf(line, sizeof(line), RECORD_VERSION "pid=%ld since=%s cause=%s command=%s",
	         (long)getpid(), record->since, cause, show(slash ? slash + 1 : command));
	while (strlen(line) > used && ((unsigned char)line[used] & 0xc0) == 0x80)
		used--; /* no half a character */
	sprintf(record->own, "%-*.*s\n", RECORD_SIZE - 1, (int)used, line);
}

/* Write what the record says to `text`, "pid=… since=… cause=… command=…", from the
 * `length` bytes of the file; with cause=unreadable where they are no record. `text` holds
 * one line without control characters in any case. */
static void
record_text(const char *bytes, size_t length, char text[RECORD_SIZE])
{
	char line[RECORD_SIZE] = "";
	int whole = 0;

	snprintf(text, RECORD_SIZE, "pid=? since=? cause=unreadable command=?");
	if (length != RECORD_SIZE || bytes[RECORD_SIZE - 1] != '\n')
		return;
	memcpy(line, bytes, RECORD_SIZE - 1);
	for (size_t end = RECORD_SIZE - 1; end && line[end - 1] == ' '; end--)
		line[end - 1] = '\0';
	/* A blank in a format stands for any number of them. */
	sscanf(line,
	       "keylock1%*1[ ]pid=%*[0-9]%*1[ ]since=%*[^ ]%*1[ ]cause=%*[^ ]%*1[ ]command=%n",
	       &whole);
	if (whole && strcmp(show(line), line) == 0)
		snprintf(text, RECORD_SIZE, "%s", line + strlen(RECORD_VERSION));
}

/* Whether the open file is one that may be written to. Returns 0, or an exit status and
 * says why; *found is what is known of it. */
static int
record_check(const struct lock *lock, struct stat *found)
{
	const char *why = NULL;
	char version[sizeof(RECORD_VERSION)] = "";

	if (fstat(lock->file.fd, found) < 0)
		return lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(errno));
	if (found->st_nlink != 1 || lock->file.was.st_nlink != 1)
		why = "not safe to write to: it has another name; remove it";
	else if (found->st_size && !(found->st_mode & S_ISVTX) &&
	         (pread(lock->file.fd, version, sizeof(version) - 1, 0) < 0 ||
	          strcmp(version, RECORD_VERSION) != 0))
		why =
		    "not safe to write to: it is no lockfile of keylock's; is the directory right?";
	return why ? lockfile_failure(lock->directory, lock->name, UNSAFE, why) : 0;
}

/* Read what is in the open lockfile. Returns 0, or an exit status and says why. */
static int
record_read(const struct lock *lock)
{
	struct record *record = lock->record;
	struct stat file;
	int status = record_check(lock, &file);
	ssize_t length;

	if (status || !file.st_size)
		return status;
	length = pread(lock->file.fd, record->old, sizeof(record->old), 0);
	if (length < 0)
		return lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(errno));
	record->old_length = (size_t)length;
	record->old_size = file.st_size;
	record_text(record->old, file.st_size == RECORD_SIZE ? RECORD_SIZE : 0, record->found);
	return 0;
}

/* Write `length` bytes to the beginning of the file, make it `size` large, and bring it to
 * disk. Returns 0 or an errno. */
static int
record_put(int fd, const char *bytes, size_t length, off_t size)
{
	ssize_t written = length ? pwrite(fd, bytes, length, 0) : 0;

	if (written >= 0 && (size_t)written != length)
		return ENOSPC;
	if (written < 0 || ftruncate(fd, size) < 0 || (fdatasync(fd) < 0 && errno != EINVAL))
		return errno;
	return 0;
}

/* Write our record before the command starts. What was found stays behind it where it is
 * longer, so that it can be brought back. Returns 0, or NO_FILE and says why; the file is
 * then as it was, as far as that can be had. */
static int
record_write(const struct lock *lock, const char *command)
{
	struct record *record = lock->record;
	off_t size = record->old_size > RECORD_SIZE ? record->old_size : RECORD_SIZE;
	int error, fd;

	date_text(time(NULL), record->since);
	record_compose(record, "killed", command);
	error = record_put(lock->file.fd, record->own, RECORD_SIZE, size);
	/* A new file's name, too, and that of a directory that was made. */
	for (int i = 0; !error && !record->old_length && i <= lock->directory->made; i++) {
		fd = openat(lock->directory->fd, i ? ".." : ".", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL))
			error = errno;
		if (fd >= 0)
			close(fd);
	}
	if (!error)
		return 0;
	*record->own = '\0';
	record_put(lock->file.fd, record->old, record->old_length, record->old_size);
	return lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(error));
}

/* Settle our record: end it, or with `cause` leave it, or where the command was not executed
 * bring back what was found. Not where it is ours no more: a descendant may have unlocked the
 * description that it shares with us. Says what fails; then the record stays. */
static void
record_settle(const struct lock *lock, bool ran, const char *cause, const char *command)
{
	struct record *record = lock->record;
	int fd = lock->file.fd, error;
	char there[RECORD_SIZE] = "";

	if (!*record->own)
		return;
	error = lock_try(fd, F_WRLCK, LOCK);
	if (error)
		error = error == EAGAIN ? 0 : error;
	else if (pread(fd, there, RECORD_SIZE, 0) < 0)
		error = errno;
	else if (memcmp(there, record->own, RECORD_SIZE) != 0)
		error = 0;
	else if (!ran)
		error = record_put(fd, record->old, record->old_length, record->old_size);
	else if (!cause)
		error = record_put(fd, NULL, 0, 0);
	else {
		record_compose(record, cause, command);
		error = record_put(fd, record->own, RECORD_SIZE, RECORD_SIZE);
	}
	if (error)
		lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(error));
}

/* ---- Slots --------------------------------------------------------------
 *
 * With -j N up to N hold a key at once, each with the lock of one of N files: the key's
 * own, and N-1 with a number behind their name. The tickets of the first file are the queue
 * of all; whoever is first in it, or comes while it is empty, tries each slot under that
 * slot's gate. The first in line keeps the slots' files open between its tries, since
 * closing them would wake it, and sleeps on inotify(7): it tries again 1 ms after an event,
 * then after twice as long each time, up to a second. For IN_CLOSE, which is all that tells
 * of a holder that was killed, is sent before the kernel has dropped its lock (__fput in
 * fs/file_table.c). Who releases makes an event by tidying, after it has unlocked.
 */

/* The files of the slots of the lock that is being acquired, and the place of the one that was
 * had. lock->file, of the first one's name, is the queue meanwhile. */
static struct lockfile *slots;
static int slots_taken;

/* Try to acquire slot `place`, from 0, whose file is opened where it is not. Returns 0, EAGAIN
 * when it or its gate is taken, another errno, or a result as a negative number. */
static int
slot_try(const struct lock *lock, int place)
{
	struct lockfile *file = &slots[place];
	bool gated = place == 0 && !lock->ticket; /* we are in the gate of the first */
	char name[NAME_SIZE];
	int error;

	slot_name(lock->name, place + 1, name);
	/* That of a holder who has left may be gone, and another of that name be there. */
	for (int tries = 0; tries < 100; tries++) {
		error = file->fd < 0 ? -lockfile_open(lock->directory, name, file) : 0;
		if (!error && !gated)
			error = lock_try(file->fd, F_WRLCK, GATE);
		if (!error) {
			error = lock_take_now(file->fd, F_WRLCK, GUESTS + 1);
			if (!gated)
				lock_try(file->fd, F_UNLCK, GATE);
		}
		error = lockfile_recheck(lock->directory, name, file, error);
		if (error != ESTALE)
			return error;
		lockfile_close(file);
	}
	return EAGAIN;
}

/* Try all slots. Returns as slot_try(); slots_taken is the one that was had. */
static int
slots_try(const struct lock *lock)
{
	int error = EAGAIN;

	for (int i = 0; i < lock->slots && error == EAGAIN; i++) {
		slots_taken = i;
		error = slot_try(lock, i);
	}
	return error;
}

/* Wait, with a ticket, for our turn, then try the slots whenever one may have become free, until
 * one is had; signals are let in by the same step as sleep comes (ppoll(2)). Returns as slots_try()
 * does, and as wait_check(). */
static int
slots_await(const struct lock *lock, struct wait *wait)
{
	/* Closing it takes the kernel milliseconds (synchronize_srcu): it is left to exit. */
	static int events = -1;
	nanoseconds pause = MILLISECOND;
	char path[64];
	char ignored[4096]; /* which slot it was does not matter: all are tried */
	int error = turn_await(lock, wait);

	while (!error && (error = slots_try(lock)) == EAGAIN) {
		if (events < 0)
			events = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
		for (int i = 0; i < lock->slots; i++) {
			/* By descriptor: the name may be another file's by now. */
			snprintf(path, sizeof(path), "/proc/self/fd/%d", slots[i].fd);
			if (inotify_add_watch(events, path, IN_CLOSE) < 0)
				pause = 50 * MILLISECOND;
		}
		error = wait_check(wait, time_in(pause));
		if (error)
			break;
		if (ppoll(&(struct pollfd){events, POLLIN, 0}, 1, NULL, &signals.wait_mask) < 0 &&
		    errno != EINTR)
			return errno;
		pause = pause < SECOND / 2 ? 2 * pause : SECOND;
		while (events >= 0 && read(events, ignored, sizeof(ignored)) > 0)
			pause = MILLISECOND;
	}
	return error;
}

/* Take a slot, or a place in the queue of the open first file and then a slot. Returns as
 * slots_await() does; EAGAIN when all are taken and we do not wait. */
static int
slots_take(struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = lock_have(fd, F_WRLCK, GATE, wait);

	for (int i = 0; i < lock->slots; i++)
		lockfile_close(&slots[i]);
	if (error && !(error == ETIMEDOUT && wait->nonblock)) /* as lock_take() */
		return error;
	/* Here too, and not only after a slot is had: inside the gate, and then by
	 * our ticket, the file keeps its name. */
	error = lockfile_recheck(lock->directory, lock->name, &lock->file, 0);
	if (!error)
		error = is_held(fd, TICKETS, 0) ? EAGAIN : slots_try(lock);
	if (error == EAGAIN && !wait->nonblock) {
		error = ticket_draw(lock, wait);
		lock_try(fd, F_RDLCK, SLOT_WAITER);
	}
	lock_try(fd, F_UNLCK, GATE);
	return !error && lock->ticket ? slots_await(lock, wait) : error;
}

/* Who leaves a slot leaves the first file, too, whose queue it has used; and where nobody
 * is there, the files of slots whose holders were killed. */
static void
slots_tidy(const struct lock *lock)
{
	char base[NAME_SIZE], name[NAME_SIZE];

	if (lock->slots < 2)
		return;
	name_of_key(lock->key, base);
	for (int slot = 1; slot <= lock->slots; slot++) {
		slot_name(base, slot, name);
		lockfile_tidy(lock->directory, name);
		if (slot == 1 && faccessat(lock->directory->fd, name, F_OK, 0) == 0)
			break;
	}
}

/* Acquire one of lock->slots slots. Returns as lock_acquire() does; lock->name is then that
 * of the slot's file. */
static int
slots_acquire(struct lock *lock, struct wait *wait)
{
	char base[NAME_SIZE];
	int error;

	slots = slots ? slots : calloc(SLOTS_MAX, sizeof(*slots));
	if (!slots)
		return ENOMEM;
	for (int i = 0; i < lock->slots; i++)
		slots[i] = NO_LOCKFILE;
	lock->take = slots_take;
	error = lock_acquire(lock, wait);
	if (!error) {
		lockfile_close(&lock->file); /* the place in the queue */
		lock->file = slots[slots_taken];
		slots[slots_taken] = NO_LOCKFILE;
		strcpy(base, lock->name);
		slot_name(base, slots_taken + 1, lock->name);
	}
	for (int i = 0; i < lock->slots; i++)
		lockfile_close(&slots[i]);
	return error;
}

/* ---- Several keys -------------------------------------------------------
 *
 * All or none, in the order of their files' names, so that two that want the
 * same keys never wait for each other.
 */

struct keys {
	struct lock *locks;
	size_t count;
};

/* Acquire one key. Returns as lock_result() does. */
static int
key_acquire(struct lock *lock, struct wait *wait)
{
	int result;

	if (lock->slots > 1) /* it may be that of a slot had before a stop */
		name_of_key(lock->key, lock->name);
	wait->lock = lock;
	wait->look_at = wait->look ? UNSET : FOREVER;
	lock->file = NO_LOCKFILE;
	lock->guest = false;
	result = lock_result(lock, lock->slots > 1 ? slots_acquire(lock, wait)
	                                           : lock_acquire(lock, wait));
	if (result)
		slots_tidy(lock);
	/* An ancestor may have it, and cover us. */
	if (result == TAKEN && wait->nonblock && wait->look) {
		result = wait->look(wait);
		result = result ? result : TAKEN;
	}
	if (result == COVERED)
		lock->file = lock->cover;
	return result == COVERED ? 0 : result;
}

/* Let the first `count` keys go, the last one first. */
static void
keys_release(struct keys *keys, size_t count, bool linger)
{
	while (count--) {
		lock_release(&keys->locks[count], linger);
		slots_tidy(&keys->locks[count]);
	}
}

/* Acquire all keys. Returns 0, or a result with wait->lock the key that was not had, and nothing
 * is kept. */
static int
keys_acquire(struct keys *keys, struct wait *wait)
{
	int result = 0;

	for (size_t i = 0; i < keys->count && !result; i++) {
		wait->early = wait->early || i > 0; /* where we hold others */
		result = key_acquire(&keys->locks[i], wait);
		if (result)
			keys_release(keys, i, false);
	}
	return result;
}

static int
locks_compare(const void *one, const void *other)
{
	return strcmp(((const struct lock *)one)->name, ((const struct lock *)other)->name);
}

/* Bring the keys into order, each once. */
static void
keys_order(struct keys *keys)
{
	size_t kept = 1;

	qsort(keys->locks, keys->count, sizeof(*keys->locks), locks_compare);
	for (size_t i = 1; i < keys->count; i++)
		if (locks_compare(&keys->locks[kept - 1], &keys->locks[i]) != 0)
			keys->locks[kept++] = keys->locks[i];
	keys->count = kept;
}

/* ---- Processes ----------------------------------------------------------
 *
 * What /proc tells of the processes that have a lockfile open, for messages, --who and
 * --list, nesting and cycles. What cannot be seen there (another user's process, another
 * namespace, no /proc) is left out. Nothing is touched that can block: readlink(2) in
 * /proc/PID/fd asks the kernel for the name of an open file and not the file system,
 * which may be dead, and what a descriptor has is told by proc_pid_fdinfo(5).
 */

/* A process that has a lockfile open, and what its description of it has. */
struct seat {
	pid_t pid, parent, command; /* command: of a holder, whose name says what for */
	int fd;
	bool inherited;           /* our own descriptor, that we came with */
	size_t height;            /* among our ancestors, where it is one */
	char name[NAME_SIZE];     /* of the lockfile */
	dev_t device;             /* as the kernel prints them in lock lines, which need not */
	unsigned long long inode; /* be what stat(2) says */
	bool flocked, shared;     /* what flock(2) gives, also to other programs */
	pid_t taker;              /* who took that, says the kernel; it may be dead by now */
	bool present, guest;      /* what only a keylock that was let in has; or asks to be */
	bool for_slots;           /* waits for one of several slots */
	bool seen;                /* by search_add() */
	long long ticket;         /* 0: does not wait */
};

struct seats {
	struct seat *list;
	size_t count;
	dev_t device; /* of the directory's file system, in lock lines */
};

/*
 * Take down what descriptor `fd` of seat->pid has, from lines of its fdinfo as "lock:\t1:
 * FLOCK ADVISORY  WRITE 812 08:02:1234 0 EOF". Of byte locks only those of open file
 * descriptions count; side by side the kernel makes two read locks one, but one that covers
 * the gate is another program's. Returns whether it has locks.
 */
static bool
seat_read(struct seat *seat, int fd)
{
	const char *line = proc_text("/proc/%ld/fdinfo/%d", (long)seat->pid, fd);
	unsigned long long inode;
	char kind[16], mode[16];
	unsigned int device[2];
	pid_t pid;

	for (; *line; line = line_after(line)) {
		long long start, end = INT64_MAX; /* "EOF" */
		int fields = sscanf(line, "lock: %*s %15s %*s %15s %d %x:%x:%llu %lld %lld", kind,
		                    mode, &pid, &device[0], &device[1], &inode, &start, &end);
		bool flocked = fields >= 7 && strcmp(kind, "FLOCK") == 0;
		bool shared = fields >= 7 && strcmp(mode, "READ") == 0;

		if (!flocked && (fields < 7 || strcmp(kind, "OFDLCK") != 0))
			continue;
		seat->device = makedev(device[0], device[1]);
		seat->inode = inode;
		if (flocked) {
			seat->flocked = true;
			seat->taker = pid;
			seat->shared = shared;
		} else if (!shared && start >= TICKETS && start < LAST_TICKET) {
			seat->ticket = start;
		} else if (shared && start > GATE) {
			seat->present |= start <= PRESENCE && end >= PRESENCE;
			seat->guest |= start <= GUESTS && end >= GUESTS;
			seat->for_slots |= start <= SLOT_WAITER && end >= SLOT_WAITER;
		}
	}
	return seat->inode != 0;
}

/* A proof that the seat's process holds. Not the flock alone, which who tidies has for a
 * moment before it removes the file; nor the guests' byte alone, which one has who still
 * asks to be let in. */
static bool
holds(const struct seat *seat)
{
	return seat->present && (seat->flocked || seat->guest);
}

/*
 * The parent of process `pid`, 0: of this one, in *parent, and its own pid there.
 * Numbers are those of /proc, which may be of another namespace than getpid(2).
 * Returns false where it cannot be told. The name may have any characters, so the
 * last parenthesis counts (proc_pid_stat(5)).
 */
static bool
process_parent(pid_t *pid, pid_t *parent)
{
	const char *text =
	    *pid ? proc_text("/proc/%ld/stat", (long)*pid) : proc_text("/proc/self/stat");
	const char *end = strrchr(text, ')');

	return end && sscanf(text, "%d", pid) == 1 && sscanf(end + 1, " %*c %d", parent) == 1;
}

/* Add a seat to the list. Returns whether there was memory. */
static bool
seats_add(struct seats *seats, const struct seat *seat)
{
	struct seat *list = realloc(seats->list, (seats->count + 1) * sizeof(*list));

	if (!list) {
		look_note(ENOMEM);
		return false;
	}
	seats->list = list;
	list[seats->count++] = *seat;
	return true;
}

/* Add the seats of process `pid` at the lockfiles of the directory, or at `name` alone.
 * With `own` it is this process, and those count that it came with: all that we open is to
 * be closed by exec. A file that was removed has a name that no key has. */
static void
seats_of(struct seats *seats, const struct directory *directory, pid_t pid, bool own,
         const char *name)
{
	char prefix[PATH_MAX + 1], path[PATH_MAX];
	struct seat seat = {.pid = 0};
	ssize_t length;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", directory->fd);
	length = readlink(path, prefix, PATH_MAX - 1);
	if (length > 1)
		prefix[length++] = '/';
	snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	fds = length > 0 ? opendir(path) : NULL;
	if (!fds)
		look_note(errno);
	for (struct dirent *entry; fds && (entry = readdir(fds));) {
		ssize_t got = readlinkat(dirfd(fds), entry->d_name, path, sizeof(path) - 1);
		const char *file = path + length;
		int fd = atoi(entry->d_name);

		path[got > 0 ? got : 0] = '\0';
		if (got <= length || strncmp(path, prefix, (size_t)length) != 0 ||
		    strlen(file) >= NAME_SIZE || strpbrk(file, "/ ") ||
		    (name && strcmp(file, name) != 0) || (own && fcntl(fd, F_GETFD) != 0))
			continue;
		seat = (struct seat){.pid = pid, .parent = seat.parent, .fd = fd, .inherited = own};
		strcpy(seat.name, file);
		if (!seat_read(&seat, fd) || (seats->device && seat.device != seats->device))
			continue;
		if (!seat.parent)
			process_parent(&pid, &seat.parent);
		if (!seats_add(seats, &seat))
			break;
	}
	if (fds)
		closedir(fds);
}

/* The device of the directory's file system as lock lines have it, which is that of its
 * mount (proc_pid_mountinfo(5)); stat(2) may give another (btrfs, overlayfs). 0 where that
 * cannot be told. */
static dev_t
directory_device(const struct directory *directory)
{
	const char *line = proc_text("/proc/self/fdinfo/%d", directory->fd);
	unsigned int device[2];
	int mount = -1, number;

	for (; *line; line = line_after(line))
		sscanf(line, "mnt_id: %d", &mount);
	for (line = proc_text("/proc/self/mountinfo"); *line; line = line_after(line))
		if (sscanf(line, "%d %*d %u:%u", &number, &device[0], &device[1]) == 3 &&
		    number == mount)
			return makedev(device[0], device[1]);
	return 0;
}

/* The order of names, those who wait in the order of the line, then of processes. */
static int
by_place(const void *one, const void *other)
{
	const struct seat *a = one, *b = other;
	int order = strcmp(a->name, b->name);

	if (!order)
		order = (a->ticket > b->ticket) - (a->ticket < b->ticket);
	return order ? order : (a->pid > b->pid) - (a->pid < b->pid);
}

/* All seats that can be seen at the lockfiles of the directory, or at `name` alone, in the
 * order of by_place(). Ends early where `wait` is not NULL and over. The caller frees
 * seats->list. */
static struct seats
seats_scan(const struct directory *directory, const char *name, const struct wait *wait)
{
	struct seats seats = {.device = directory_device(directory)};
	DIR *proc = opendir("/proc");

	for (struct dirent *entry; proc && (entry = readdir(proc));) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (wait && !wait_goes_on(wait))
			break;
		if (pid > 0)
			seats_of(&seats, directory, pid, false, name);
	}
	if (proc)
		closedir(proc);
	if (seats.count)
		qsort(seats.list, seats.count, sizeof(*seats.list), by_place);
	return seats;
}

static int
by_name(const void *name, const void *seat)
{
	return strcmp(name, ((const struct seat *)seat)->name);
}

/* The seats at the file `name` of seats_scan(): how many, and *first the first of them. */
static size_t
seats_at(const struct seats *seats, const char *name, const struct seat **first)
{
	const struct seat *at = NULL;
	size_t count = 0;

	if (seats && seats->count)
		at = bsearch(name, seats->list, seats->count, sizeof(*at), by_name);
	while (at && at > seats->list && strcmp(at[-1].name, name) == 0)
		at--;
	*first = at;
	for (; at && at < seats->list + seats->count && strcmp(at->name, name) == 0; at++)
		count++;
	return count;
}

/* One lockfile as it is seen without taking a lock. */
struct glance {
	struct stat file;         /* its modification time is when it was acquired */
	unsigned long long inode; /* as lock lines have it, as far as the kernel tells */
	bool held;
	size_t waiting;
};

/* How many tickets others hold. A lock that covers more than one byte is another program's,
 * and counts as one. The kernel names any one of several. */
static size_t
tickets_count(int fd)
{
	off_t last = TICKETS - 1, hit, next;
	size_t count = 0;

	while (last < INT64_MAX && byte_held(fd, F_RDLCK, last + 1, 0, &hit, &next)) {
		while (byte_held(fd, F_RDLCK, last + 1, hit, &hit, &next))
			;
		last = next;
		count++;
	}
	return count;
}

/* Look at the lockfile `name`, where those seats may be. Returns 0; ENOENT where there is none that
 * we could lock; else an errno. */
static int
glance_at(const struct directory *directory, const char *name, const struct seats *seats,
          struct glance *glance)
{
	int fd = openat(directory->fd, name, LOOK_FLAGS), error = 0;
	const struct seat *first;
	const char *line = "";

	if (fd < 0)
		return status_of(errno) == REFUSED || errno == EIO ? errno : ENOENT;
	if (fstat(fd, &glance->file) < 0)
		error = errno;
	else if (!S_ISREG(glance->file.st_mode))
		error = ENOENT;
	glance->inode = glance->file.st_ino;
	if (!seats_at(seats, name, &first) || first->inode != glance->inode)
		line = proc_text("/proc/self/fdinfo/%d", fd);
	for (; *line; line = line_after(line))
		sscanf(line, "ino: %llu", &glance->inode); /* since Linux 5.14 */
	glance->held = is_held(fd, PRESENCE, PRESENCE + 1);
	glance->waiting = tickets_count(fd);
	close(fd);
	return error;
}

/* Whether the seat holds, or another program's where no keylock does. */
static bool
is_holder(const struct seat *seat, const struct glance *glance)
{
	return holds(seat) || (!glance->held && !seat->ticket && seat->flocked);
}

/* Who holds the file `name`, of the glance: each process that took the lock, or is the
 * highest of its family to have inherited it from one that is gone. Another program's counts
 * where no keylock holds. Where nobody's descriptors can be seen it is who took the lock, of
 * whatever user, as proc_locks(5) has it. The caller frees the list. */
static struct seats
holders_of(const char *name, const struct glance *glance, const struct seats *seats)
{
	struct seats holders = {.count = 0};
	const struct seat *first;
	size_t here = seats_at(seats, name, &first);
	const char *line = "";
	char mode[16];

	for (size_t i = 0; i < here; i++) {
		struct seat seat = first[i];
		bool itself = seat.inode == glance->inode && is_holder(&seat, glance) &&
		              !(holders.count && holders.list[holders.count - 1].pid == seat.pid);

		seat.command = seat.pid;
		for (size_t j = 0; j < here && itself; j++) {
			const struct seat *other = &first[j];

			/* keylock, whose command says more than its own name */
			if (seat.taker == seat.pid && seat.present && other->parent == seat.pid)
				seat.command = other->pid;
			if (seat.taker != seat.pid && other->pid != seat.pid &&
			    (other->pid == seat.parent || other->pid == seat.taker))
				itself = !is_holder(other, glance);
		}
		if (itself)
			seats_add(&holders, &seat);
	}
	if (!holders.count && glance->held)
		line = proc_text("/proc/locks");
	for (; *line; line = line_after(line)) {
		struct seat seat = {.pid = 0};
		unsigned int device[2];

		if (sscanf(line, "%*s FLOCK %*s %15s %d %x:%x:%llu", mode, &seat.pid, &device[0],
		           &device[1], &seat.inode) != 5 ||
		    seat.inode != glance->inode || seat.pid <= 0 ||
		    makedev(device[0], device[1]) != seats->device ||
		    (kill(seat.pid, 0) < 0 && errno != EPERM))
			continue;
		seat.command = seat.pid;
		seat.shared = strcmp(mode, "READ") == 0;
		seats_add(&holders, &seat);
	}
	return holders;
}

/* For how long a key has been held: since an acquirer set its file's modification time; -1
 * where another program holds it, which sets none. */
static nanoseconds
age_of(const struct glance *glance)
{
	int64_t seconds = glance->file.st_mtim.tv_sec;
	struct timespec time;

	if (!glance->held || seconds < 0 || seconds >= FOREVER / SECOND)
		return -1;
	clock_gettime(CLOCK_REALTIME, &time);
	return (time.tv_sec - seconds) * SECOND + time.tv_nsec - glance->file.st_mtim.tv_nsec;
}

/* Write ", held for 3m2s" to `text`; returns it, or "" where the age is not known. */
static const char *
age_text(nanoseconds age, char text[48])
{
	long long s = age / SECOND;

	if (s >= 86400)
		snprintf(text, 48, ", held for %lldd%lldh", s / 86400, s / 3600 % 24);
	else if (s >= 3600)
		snprintf(text, 48, ", held for %lldh%lldm", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(text, 48, ", held for %lldm%llds", s / 60, s % 60);
	else
		snprintf(text, 48, ", held for %llds", s);
	return age < 0 ? "" : text;
}

/* ---- Nesting ------------------------------------------------------------
 *
 * A run whose own ancestor holds the key would wait for itself. It is told so, or with -r
 * runs under the ancestor's lock. Under a shared one it takes its own. Under an exclusive one
 * it is a guest: it has the guests' byte by a description of its own, then looks again
 * whether the ancestor holds, is present, and compares file and name last. Who takes the lock
 * later waits for that byte, so a guest is alone whatever becomes of the ancestor.
 *
 * That an ancestor holds is what the kernel says of a descriptor, its own or one that we came
 * with. A pid is no proof: it may be of another namespace, or used again.
 */

/* What the looks of one run need, beside the wait. */
struct looker {
	bool reentrant;          /* -r */
	bool aloud;              /* say what is waited for at once */
	bool quiet;              /* never say it */
	const struct lock *told; /* what it was said of */
	bool unsure;             /* an ancestor seemed to hold, and that could not be proved */
	int turn;                /* at the byte CYCLE, kept until all is given back; or -1 */
	char turn_name[NAME_SIZE];
};

/* This process, its ancestors, and their seats. */
struct lineage {
	pid_t pids[ANCESTORS_MAX];
	struct seats seats;
};

/* Find out the lineage. The caller frees lineage->seats.list. */
static void
lineage_find(struct lineage *lineage, const struct directory *directory)
{
	pid_t pid = 0, parent;

	*lineage = (struct lineage){.pids = {0}};
	for (size_t height = 0;
	     height < ANCESTORS_MAX && (height == 0 || pid > 0) && process_parent(&pid, &parent);
	     height++, pid = parent) {
		size_t from = lineage->seats.count;

		lineage->pids[height] = pid;
		seats_of(&lineage->seats, directory, pid, height == 0, NULL);
		for (; from < lineage->seats.count; from++)
			lineage->seats.list[from].height = height;
	}
}

/* The highest ancestor's seat at `name` that holds; else one that we came with and that
 * has the lock at least, as another program takes it; or NULL. */
static const struct seat *
lineage_holder(const struct lineage *lineage, const char *name)
{
	const struct seat *found = NULL;

	for (size_t i = 0; i < lineage->seats.count; i++) {
		const struct seat *seat = &lineage->seats.list[i];

		if (strcmp(seat->name, name) == 0 &&
		    (holds(seat) || (seat->inherited && seat->flocked && !found)))
			found = seat;
	}
	return found;
}

/* Look again, through our own description `fd` of the file of *seat, which has the guests'
 * byte: whether the same ancestor, up to which the climb goes the same way, holds the same
 * file. *seat is how. */
static bool
ancestor_holds(const struct directory *directory, const struct lineage *lineage, int fd,
               struct seat *seat)
{
	struct lineage again;
	struct seat own = {.pid = lineage->pids[0]};
	const struct seat *found;
	bool same;

	lineage_find(&again, directory);
	found = lineage_holder(&again, seat->name);
	same = found && seat_read(&own, fd) && found->inode == own.inode &&
	       found->device == own.device && found->shared == seat->shared &&
	       memcmp(again.pids, lineage->pids, (found->height + 1) * sizeof(pid_t)) == 0;
	if (same)
		*seat = *found;
	free(again.seats.list);
	return same;
}

/* An ancestor seems to hold the lock, or a slot of it, by *seat. See whether that is so, and
 * with -r come under it, past the queue. Returns 0 where it cannot be proved; COVERED, and
 * lock->cover is how; ENDLESS, and *seat is who holds. */
static int
nest(const struct looker *looker, const struct lineage *lineage, struct lock *lock,
     struct seat *seat)
{
	struct lockfile file = NO_LOCKFILE;
	bool shared = seat->flocked && seat->shared;
	bool come = looker->reentrant && (lock->shared || !shared) && holds(seat);
	int result = 0;

	file.fd = openat(lock->directory->fd, seat->name, LOCKFILE_FLAGS);
	if (file.fd >= 0 && fstat(file.fd, &file.was) == 0 &&
	    lock_try_again(file.fd, F_RDLCK, GUESTS) == 0 &&
	    (!come || !shared || lock_try(file.fd, F_RDLCK, LOCK) == 0) &&
	    ancestor_holds(lock->directory, lineage, file.fd, seat))
		result = ENDLESS;
	if (result && come && holds(seat) && lock_try_again(file.fd, F_RDLCK, PRESENCE) == 0)
		result = lockfile_recheck(lock->directory, seat->name, &file, 0) ? 0 : COVERED;
	if (result != COVERED) {
		lockfile_close(&file);
		lockfile_tidy(lock->directory, seat->name);
		return result;
	}
	if (shared) /* a holder, and no guest */
		lock_try(file.fd, F_UNLCK, GUESTS);
	lock->cover = file;
	strcpy(lock->name, seat->name);
	lock->guest = !shared;
	return COVERED;
}

/* Close the descriptors of a guest's file that we came with: where the host has ended its lock
 * lasts as long as they do, and keeps the file from being removed. */
static void
host_close(const struct lock *lock)
{
	struct seats seats = {.count = 0};
	pid_t pid = 0, parent;

	if (lock->guest && process_parent(&pid, &parent))
		seats_of(&seats, lock->directory, pid, true, lock->name);
	for (size_t i = 0; i < seats.count; i++)
		close(seats.list[i].fd);
	if (seats.count)
		lockfile_tidy(lock->directory, lock->name);
	free(seats.list);
}

/* See whether ancestors hold the key, all of its slots, or with -r one of them. Returns 0,
 * COVERED, or ENDLESS and says so. *related is whether they hold any key. */
static int
look_for_ancestors(struct looker *looker, struct lock *lock, bool *related)
{
	int count = lock->slots > 1 ? lock->slots : 1, held = 0, result = 0;
	char name[NAME_SIZE];
	const struct seat *found;
	const char *remedy = "; -r runs under its lock";
	char who[64] = "a descriptor that this process inherited";
	struct lineage lineage;
	struct seat seat;

	lineage_find(&lineage, lock->directory);
	looker->unsure = false;
	for (size_t i = 0; i < lineage.seats.count; i++)
		*related = *related || holds(&lineage.seats.list[i]);
	for (int number = 1; number <= count && result != COVERED && lineage.seats.count;
	     number++) {
		slot_name(lock->name, number, name);
		found = lineage_holder(&lineage, name);
		if (!found)
			continue;
		seat = *found;
		result = nest(looker, &lineage, lock, &seat);
		held += result == ENDLESS;
		looker->unsure = looker->unsure || !result;
	}
	free(lineage.seats.list);
	if (result == COVERED)
		return COVERED;
	if (held < count)
		return 0;
	if (!seat.inherited)
		snprintf(who, sizeof(who), "pid %ld, an ancestor of this process", (long)seat.pid);
	if (!holds(&seat))
		remedy = ", by another program's lock";
	else if (looker->reentrant)
		remedy = " and shared, which does not cover an exclusive lock";
	return say(ENDLESS, "%s: waiting would never end: held by %s%s", show(lock->key), who,
	           remedy);
}

/* Say WHAT about the lock and who holds it: "KEY: WHAT pid 812 (charge.sh), held for 3m2s";
 * where that cannot be seen, "another process". */
static void
say_whose(const struct lock *lock, const struct wait *wait, const char *what)
{
	char who[SHOWN_SIZE + 64] = "another process", held[48], more[32] = "";
	char process[64] = "?";
	struct seats seats = seats_scan(lock->directory, lock->name, wait), holders;
	struct glance glance = {.held = false};

	glance_at(lock->directory, lock->name, &seats, &glance);
	holders = holders_of(lock->name, &glance, &seats);
	if (holders.count) {
		sscanf(proc_text("/proc/%ld/comm", (long)holders.list->command), "%63[^\n]",
		       process);
		snprintf(who, sizeof(who), "pid %ld (%s)", (long)holders.list->pid, show(process));
	}
	if (holders.count > 1)
		snprintf(more, sizeof(more), " and %zu more", holders.count - 1);
	say(0, "%s: %s %s%s%s", show(lock->key), what, who, more, age_text(age_of(&glance), held));
	free(holders.list);
	free(seats.list);
}

/* ---- Cycles -------------------------------------------------------------
 *
 * Commands that hold keys and wait for each other's would wait for ever. Who waits for a
 * second, and holds a key or descends from a holder, looks whether it waits for itself:
 * all who wait for a file wait, in their line, for who holds it; and a holder goes on
 * only when the waiters that are, or descend from, it do. So from our own wait on, those
 * are looked for who wait for it, and who wait for them; each is gone over once. What is
 * seen in /proc is of no one moment, so a cycle counts only when a second look shows the
 * same: every link that is seen twice was there in between, since nobody waits twice
 * with one ticket. Of several who see it at once one fails: they take turns at a byte of
 * the cycle's first file, and look anew.
 */

/* That `waiter` waits for the file of `holder`, below which is the waiter of link `next`. */
struct link {
	const struct seat *waiter, *holder; /* the first link, our own wait, has no holder yet */
	size_t next;
};

struct search {
	struct seats seats;
	struct link *links;
	size_t count;
};

struct cycle {
	char text[MESSAGE_SIZE / 2]; /* what waits for what; empty: there is none */
	char first[NAME_SIZE];       /* the first of its files */
	unsigned long long sum;      /* what two looks at the same cycle have alike */
};

/* Write the cycle that is closed by the last link, of our own wait once more. */
static void
cycle_write(struct cycle *cycle, const struct link *links, const struct link *link)
{
	char key[NAME_SIZE];
	size_t used = 0;
	bool hashed;
	int slot;

	for (; link->holder; link = &links[link->next]) {
		const struct seat *holder = link->holder;

		if (!key_of_name(holder->name, key, &slot, &hashed))
			strcpy(key, "?");
		if (used < sizeof(cycle->text))
			used += (size_t)snprintf(
			    cycle->text + used, sizeof(cycle->text) - used, "%s%s held by pid %ld",
			    used ? ", which waits for " : "", show(key), (long)holder->pid);
		if (!*cycle->first || strcmp(holder->name, cycle->first) < 0)
			strcpy(cycle->first, holder->name);
		cycle->sum = cycle->sum * 1000003 + (unsigned long long)link->waiter->ticket;
		cycle->sum = cycle->sum * 1000003 + (unsigned long long)link->waiter->pid;
	}
}

/* Add all who wait for the file of `holder`, below which is the waiter of link `at`. Returns
 * whether we are among them: the last link is that. */
static bool
search_add(struct search *search, size_t at, const struct seat *holder)
{
	const struct seat *waiter;

	for (size_t here = seats_at(&search->seats, holder->name, &waiter); here--; waiter++) {
		if (!waiter->ticket || waiter->for_slots || waiter->pid == holder->pid ||
		    waiter->seen)
			continue;
		search->seats.list[waiter - search->seats.list].seen = true;
		search->links[search->count++] = (struct link){waiter, holder, at};
		if (waiter == search->links[0].waiter)
			return true;
	}
	return false;
}

/* Go on from link `at`: to what the process of its waiter, or one above it, holds. Returns as
 * search_add() does. */
static bool
search_go_on(struct search *search, size_t at)
{
	pid_t above[ANCESTORS_MAX] = {0}, pid = search->links[at].waiter->pid, parent;
	size_t height = 0;

	for (; pid > 0 && height < ANCESTORS_MAX && process_parent(&pid, &parent); pid = parent)
		above[height++] = pid;
	/* From the highest on, which is who took the lock that the others inherited. */
	while (height--) {
		for (size_t i = 0; i < search->seats.count; i++) {
			const struct seat *holder = &search->seats.list[i];

			if (holder->pid == above[height] && holds(holder) &&
			    search_add(search, at, holder))
				return true;
		}
	}
	return false;
}

/* Find the shortest way from our own wait back to it, breadth first. cycle.text is empty
 * where there is none, no memory, or the wait is over. */
static struct cycle
cycle_find(const struct directory *directory, const struct wait *wait)
{
	struct search search = {.seats = seats_scan(directory, NULL, wait)};
	struct cycle cycle = {.sum = 0};
	bool found = false;

	search.links = calloc(search.seats.count + 2, sizeof(*search.links));
	for (size_t i = 0; i < search.seats.count && search.links; i++) {
		const struct seat *seat = &search.seats.list[i];

		if (seat->ticket == wait->lock->ticket && strcmp(seat->name, wait->lock->name) == 0)
			search.links[search.count++].waiter = seat;
	}
	for (size_t at = 0; at < search.count && !found && wait_goes_on(wait); at++)
		found = search_go_on(&search, at);
	if (found)
		cycle_write(&cycle, search.links, &search.links[search.count - 1]);
	free(search.seats.list);
	free(search.links);
	return cycle;
}

/* Give the turn back. */
static void
turn_end(struct looker *looker, const struct directory *directory)
{
	if (looker->turn < 0)
		return;
	close(looker->turn);
	looker->turn = -1;
	lockfile_tidy(directory, looker->turn_name);
}

/* Look whether our wait is part of a cycle. Returns ENDLESS, and says so, where it is and
 * we are the one to fail; looker->turn is then kept until our places are given back, so
 * that the next to look finds the cycle broken. */
static int
cycle_look(struct looker *looker, struct wait *wait)
{
	const struct directory *directory = wait->lock->directory;
	struct cycle cycle = cycle_find(directory, wait), again;

	if (!*cycle.text)
		return 0;
	wait->look_at = time_in(SECOND); /* unless it is all over now */
	strcpy(looker->turn_name, cycle.first);
	looker->turn = openat(directory->fd, cycle.first, LOCKFILE_FLAGS);
	if (looker->turn >= 0 && lock_try_again(looker->turn, F_WRLCK, CYCLE) == 0) {
		again = cycle_find(directory, wait);
		if (*again.text && again.sum == cycle.sum && strcmp(again.text, cycle.text) == 0)
			return say(ENDLESS,
			           "%s: waiting would never end: %s; lock keys in one "
			           "order, or all at once with -k",
			           show(wait->lock->key), cycle.text);
	}
	turn_end(looker, directory);
	return 0;
}

/* Look around, as struct wait has it: whether an ancestor holds what we wait for; at the
 * look that comes after a second, tell a terminal, and look for a cycle. */
static int
look_around(struct wait *wait)
{
	struct looker *looker = wait->looker;
	bool at_once = wait->look_at == 0, related = false;
	int result;

	if (wait->nonblock && !looker->reentrant)
		return 0;
	result = look_for_ancestors(looker, wait->lock, &related);
	if (result || wait->nonblock)
		return result;
	wait->look_at = at_once || looker->unsure ? time_in(SECOND) : FOREVER;
	if (!looker->quiet && looker->told != wait->lock && at_once == looker->aloud &&
	    (at_once || isatty(STDERR_FILENO))) {
		say_whose(wait->lock, wait, "waiting for");
		looker->told = wait->lock; /* once is enough */
	}
	/* Who looks at once for it holds other keys, or may descend from who does. */
	return !at_once && (related || wait->early) ? cycle_look(looker, wait) : 0;
}

/* ---- Running the command ------------------------------------------------
 *
 * The command gets what keylock came with, and the lock's descriptor, so that the key stays
 * taken while it runs even if keylock is killed. keylock waits for it with all signals
 * blocked and takes them one by one.
 */

/* How a command ended, or that it was not run. */
struct ending {
	int status; /* the command's exit status, or keylock's own */
	int signal; /* that it died of, or 0 */
	bool ran;   /* the command was executed */
	int error;  /* errno, where it was not */
};

struct command {
	char **argv;              /* with a word of ours before it */
	char **environment;       /* KEYLOCK_KEY first */
	const struct lock *locks; /* whose descriptors it inherits */
	size_t count;
	mode_t came_umask;
	bool in_place;        /* it runs in this process */
	bool child_ignored;   /* SIGCHLD came so */
	struct ending ending; /* where the child, in our memory, did not become the command */
};

/* Whether the command died: of a signal, or with a shell's word for one. What it left
 * running is still its work then, and the key that of what has inherited it. */
static bool
has_died(const struct ending *ending)
{
	return ending->signal || (ending->status > 128 && ending->status <= 192);
}

/* Execute the command with `environment`, found along PATH as execvp(3) finds it, but that a
 * directory which this user may not search hides no command: what is nowhere else is not
 * found then, as a shell says too; and a file whose format the kernel does not know is a
 * script of /bin/sh, as in glibc, not in musl. Only returns on failure, with errno set. */
static void
execute(char **argv, char **environment)
{
	static char shell[] = "/bin/sh";
	char *name = *argv, *came = getenv("PATH");
	bool is_path = strchr(name, '/');
	const char *path = is_path ? "" : came ? came : "/bin:/usr/bin";
	size_t most = strlen(path) + strlen(name) + sizeof("/");
	char file[most < PATH_MAX ? most : PATH_MAX]; /* a page less of the stack */
	int error = ENOENT, length;

	do {
		length = (int)strcspn(path, ":");
		if (*name && snprintf(file, sizeof(file), "%.*s%s%s", length, path,
		                      length ? "/" : "", name) < (int)sizeof(file)) {
			execve(file, argv, environment);
			if (errno == ENOEXEC) {
				argv[0] = file;
				argv[-1] = shell;
				execve(shell, argv - 1, environment);
				argv[0] = name;
			}
			if (errno == EACCES && access(file, F_OK) == 0)
				error = EACCES;
			else if (is_path ||
			         (errno != EACCES && errno != ENOENT && errno != ENOTDIR))
				return;
		}
		path += length;
	} while (*path++);
	errno = error;
}

/* Become the command: give back umask, dispositions and mask, keep the lock's descriptor
 * over the exec, and execute. The child runs in our memory until then, and we wait for that:
 * it does not stop before, or keylock could not stop with it. Only returns on failure:
 * command->ending says why, and where an emulator shares no memory the exit status. */
static int
become(void *argument)
{
	struct command *command = argument;
	struct ending *ending = &command->ending;

	signals.in_child = !command->in_place;
	if (signals.in_child && !signals.begun)
		signals_handle(on_signal, true);
	for (size_t i = 0; i < command->count && !ending->status; i++)
		if (fcntl(command->locks[i].file.fd, F_DUPFD, FIRST_COMMAND_FD) < 0)
			*ending = (struct ending){.status = REFUSED, .error = errno};
	if (ending->status)
		return ending->status;
	umask(command->came_umask);
	if (command->child_ignored)
		signal(SIGCHLD, SIG_IGN);
	/* What came ignored stays so; a handler goes with execve(2). */
	if (signals.begun)
		sigaction(WAKER, &signals.waker_came, NULL);
	sigprocmask(SIG_SETMASK, &signals.came_mask, NULL);
	execute(command->argv, command->environment);
	if (errno == E2BIG) /* with KEYLOCK_KEY */
		execute(command->argv, command->environment + 1);
	ending->error = errno;
	return ending->status = errno == ENOENT ? NOT_FOUND : CANNOT_EXECUTE;
}

/* Pass a signal on to the command. Not what its group has got from the terminal itself; but
 * where the command has made a group of its own by now, as timeout(1) does, that whole group
 * gets what the terminal sends, and SIGCONT. Nor what the command or keylock has sent. */
static void
forward(const siginfo_t *info, pid_t child)
{
	int signo = info->si_signo;
	bool by_terminal = info->si_code == SI_KERNEL;
	pid_t group = getpgid(child);
	bool apart = group > 0 && group != getpgrp();

	if (info->si_code <= 0 && (info->si_pid == getpid() || info->si_pid == child))
		return;
	if (by_terminal && (signo == SIGINT || signo == SIGQUIT || signo == SIGTSTP) && !apart)
		return;
	if (by_terminal && (signo == SIGTTIN || signo == SIGTTOU || signo == SIGWINCH))
		return;
	/* A hangup goes to the session's leader alone, and to groups that it leaves
	 * orphaned (credentials(7), setpgid(2)). */
	if (by_terminal && (signo == SIGHUP || signo == SIGCONT) && getsid(0) != getpid())
		return;
	kill(group == child && apart && (by_terminal || signo == SIGCONT) ? -group : child, signo);
}

/* Wait for the command, passing signals on to it and stopping with it. Other children, as
 * process 1 of a container gets them, are reaped in passing. */
static struct ending
command_wait(pid_t child)
{
	siginfo_t info;
	int status;
	pid_t pid;

	for (;;) {
		if (sigwaitinfo(&signals.all, &info) > 0 && info.si_signo != SIGCHLD)
			forward(&info, child);
		while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) != 0) {
			if (pid < 0 && errno == ECHILD) /* somebody else took its status */
				return (struct ending){
				    .status = REFUSED, .ran = true, .error = ECHILD};
			if (pid != child) /* also after an error: no second signal comes */
				continue;
			/* SIGSTOP was sent to the command alone. */
			if (WIFSTOPPED(status) && is_stop_signal(WSTOPSIG(status)))
				act_by_default(WSTOPSIG(status));
			if (WIFSTOPPED(status))
				continue;
			return (struct ending){
			    .status = WEXITSTATUS(status), .signal = WTERMSIG(status), .ran = true};
		}
	}
}

/* Run the command as a child and wait for its end, or in this process. The child is made by
 * clone(2), since vfork(2) is a fork(2) in musl on some machines, as on aarch64. */
static struct ending
command_run(struct command *command)
{
	_Alignas(16) char stack[8 * PATH_MAX];
	pid_t child;

	/* What came before there was a command to give it to, and the timer's last signal. */
	do
		timer_arm(FOREVER);
	while (signal_came() && stopped());
	if (signals.caught)
		return (struct ending){.signal = signals.caught};
	if (command->in_place) {
		if (signals.begun)
			signals_handle(SIG_DFL, false);
		become(command);
		sigprocmask(SIG_SETMASK, &signals.all, NULL);
		return command->ending;
	}
	/* Were SIGCHLD ignored, the kernel would not keep the child's status. */
	command->child_ignored = signal(SIGCHLD, SIG_DFL) == SIG_IGN;
	child = clone(become, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, command);
	signals.in_child = false;
	if (child < 0)
		return (struct ending){.status = REFUSED, .error = errno};
	if (command->ending.status) {
		waitpid(child, NULL, 0);
		return command->ending;
	}
	if (signals.child_stop)
		kill(child, signals.child_stop);
	/* As without keylock, the command alone decides when its input's writer and its output's
	 * reader see it closed. */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	return command_wait(child);
}

/* Say why the command was not run. Not before the key is free: who reads standard error may
 * be slow. */
static void
say_not_run(const char *name, const struct ending *ending)
{
	const char *why = strerror(ending->error);

	if (ending->ran)
		why = "its status was taken by another";
	else if (ending->status == REFUSED && ending->error == EINVAL)
		why = "no descriptor at 10 or above is free; see ulimit -n";
	else if (ending->status == NOT_FOUND && strchr(name, '/') && access(name, F_OK) == 0)
		why = "the interpreter that its first line names is not found";
	else if (ending->status == NOT_FOUND)
		why = "command not found";
	say(0, "%s: %s", show(name), why);
}

/* ---- Hold ---------------------------------------------------------------
 *
 * Hold the key for a caller that runs what needs it in its own way, until the caller closes
 * our standard input or dies, which closes it too.
 */

/* Whether standard input stays open until the caller closes it. Debian's cron gives its jobs
 * a pipe that it has closed. */
static bool
hold_is_possible(void)
{
	struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
	struct stat input;

	return fstat(STDIN_FILENO, &input) == 0 && !S_ISREG(input.st_mode) &&
	       !(poll(&end, 1, 0) == 1 && end.revents == POLLHUP) &&
	       !(S_ISCHR(input.st_mode) && input.st_rdev == makedev(1, 3)); /* null(4) */
}

/* Hold the key: say `locked` when standard output takes it, and wait until standard input
 * ends: in the background of a terminal reading stops keylock, the key kept. *cause, unless
 * the line `done` came last, is why the caller counts as one that died. */
static struct ending
hold(const char **cause)
{
	struct pollfd ends[] = {{.fd = STDIN_FILENO, .events = POLLIN},
	                        {.fd = STDOUT_FILENO, .events = POLLOUT}};
	char bytes[512] = "\n\n\n\n\n\n"; /* behind the last six that came before */
	const char *failed = "timer";
	int error = waiting_begin();
	ssize_t count = 1;

	signals_handle(SIG_DFL, true); /* who is stopped keeps the key */
	while (!error && count && !signals.caught) {
		count = ppoll(ends, 2, NULL, &signals.wait_mask);
		failed = ends[1].revents ? "standard output" : "standard input";
		sigprocmask(SIG_SETMASK, &signals.wait_mask, NULL);
		if (count > 0 && ends[1].revents)
			count = write(STDOUT_FILENO, "locked\n", strlen("locked\n"));
		else if (count > 0)
			count = read(STDIN_FILENO, bytes + 6, sizeof(bytes) - 6);
		error = count >= 0 || errno == EINTR || errno == EAGAIN ? 0 : errno;
		sigprocmask(SIG_SETMASK, &signals.all, NULL);
		if (count > 0 && ends[1].revents)
			ends[1].fd = -1;
		else if (count > 0)
			memmove(bytes, bytes + count, 6);
	}
	if (error)
		error = say(REFUSED, "%s: %s", failed, strerror(error));
	*cause = memcmp(bytes, "\ndone\n", 6) == 0 ? NULL : "input-ended";
	return (struct ending){
	    .status = error, .signal = signals.caught, .ran = ends[1].fd < 0 || !count};
}

/* ---- Looking ------------------------------------------------------------
 *
 * What --list, --who, --path, --pin and --forget do. No lock is taken for looking.
 */

/* Print `before` and a JSON string (RFC 8259), null for none or an empty one. A byte that is no
 * UTF-8 becomes \udcHH, as Python's surrogateescape has it, so that nothing is lost. */
static void
json_string(const char *before, const char *text)
{
	bool known = text && *text;
	wchar_t character;

	printf("%s%s", before, known ? "\"" : "null");
	while (known && *text) {
		size_t length = utf8_length(text, &character);
		unsigned int unit =
		    length ? (unsigned int)character : 0xdc00U + (unsigned char)*text;

		if (!length || unit < 0x20 || unit == '"' || unit == '\\' || unit == 0x7f)
			printf("\\u%04x", unit);
		else
			fwrite(text, 1, length, stdout);
		text += length ? length : 1;
	}
	fputs(known ? "\"" : "", stdout);
}

/* What --list and --who make of the files that they look at. */
struct listing {
	const struct directory *directory;
	bool json, who;
	struct seats seats;
	size_t held, lines; /* keys or slots that are held; lines that were printed */
};

/* One lockfile as it is listed. What is NULL or empty is not known, or there is none. */
struct row {
	const char *name, *key;
	int slot;
	struct glance glance;
	struct seats holders;
	const char *state, *mode;
	char since[32], cause[32], command[4096]; /* a record's, or of the first holder */
};

/* Take what is told of a key that nobody holds from the record in its lockfile. */
static void
row_read_record(struct row *row, const struct directory *directory)
{
	char bytes[RECORD_SIZE + 1], text[RECORD_SIZE];
	int fd = openat(directory->fd, row->name, LOOK_FLAGS);
	ssize_t length = fd < 0 ? 0 : pread(fd, bytes, sizeof(bytes), 0);

	if (fd >= 0)
		close(fd);
	record_text(bytes, length > 0 ? (size_t)length : 0, text);
	/* Of one that cannot be read there is nothing but this to tell. */
	strcpy(row->cause, "unreadable");
	sscanf(text, "pid=%*s since=%31[^? ] cause=%31s command=%191[^\n]", row->since, row->cause,
	       row->command);
	row->state = "abandoned";
}

/* Print the pids of so many seats. Returns how wide that is. */
static int
print_pids(const struct seat *seat, size_t count, const char *between)
{
	int width = 0;

	for (size_t i = 0; i < count; i++)
		width += printf("%s%ld", i ? between : "", (long)seat[i].pid);
	return width;
}

/* --list --json: a row is one line with an object. Those who wait stand behind the others, in
 * the order of the line. */
static void
row_json(const struct row *row, const struct listing *listing)
{
	char path[PATH_MAX + NAME_SIZE];
	const struct seat *waiter;
	size_t count = seats_at(&listing->seats, row->name, &waiter);
	bool all; /* who they are is known of all */

	for (; count && !waiter->ticket; count--)
		waiter++;
	all = count == row->glance.waiting;
	snprintf(path, sizeof(path), "%s/%s", listing->directory->path, row->name);
	json_string("{\"key\":", row->key);
	json_string(",\"state\":", row->state);
	json_string(",\"mode\":", row->mode);
	printf(",\"slot\":%d,\"pids\":[", row->slot);
	print_pids(row->holders.list, row->holders.count, ",");
	json_string("],\"since\":", row->since);
	printf(",\"waiting\":%zu,\"waiters\":%s", row->glance.waiting, all ? "[" : "null");
	print_pids(waiter, all ? count : 0, ",");
	json_string(all ? "],\"command\":" : ",\"command\":", row->command);
	json_string(",\"path\":", path);
	if (*row->cause)
		json_string(",\"cause\":", row->cause);
	puts("}");
}

/* --list: a row is a line of a table, whose longer cells push the others to the right. */
static void
row_print(const struct row *row)
{
	char state[64];
	int width;

	snprintf(state, sizeof(state), *row->cause ? "%s (%s)" : "%s", row->state, row->cause);
	printf("%-24s  %-9s  %-9s  ", show(row->key ? row->key : row->name), state,
	       row->mode ? row->mode : "-");
	width = row->holders.count ? print_pids(row->holders.list, row->holders.count, ",")
	                           : printf("-");
	printf("%*s  %-20s  %-7zu  %s\n", width < 7 ? 7 - width : 0, "",
	       *row->since ? row->since : "-", row->glance.waiting,
	       *row->command ? show(row->command) : "-");
}

/* List the file `name` of slot `slot` of `key`, if it is there. Returns 0 or an errno. */
static int
list_file(struct listing *listing, const char *name, const char *key, int slot)
{
	struct row row = {.name = name, .key = key, .slot = slot};
	int error = glance_at(listing->directory, name, &listing->seats, &row.glance);
	const struct seat *first;

	if (error)
		return error == ENOENT ? 0 : error;
	row.holders = holders_of(name, &row.glance, &listing->seats);
	first = row.holders.list;
	if (row.glance.held || first)
		row.state = "held";
	else if (row.glance.file.st_size)
		row_read_record(&row, listing->directory);
	else if (row.glance.file.st_mode & PINNED)
		row.state = "pinned";
	if (row.glance.held)
		date_text(row.glance.file.st_mtim.tv_sec, row.since);
	if (first) {
		row.mode = first->shared ? "shared" : "exclusive";
		snprintf(row.command, sizeof(row.command), "%s",
		         proc_text("/proc/%ld/cmdline", (long)first->command));
	}
	listing->held += row.glance.held || first;
	if (look_failed || !row.state || (listing->who && !first))
		return look_failed;
	if (!listing->lines++ && !listing->json && !listing->who)
		printf("%-24s  %-9s  %-9s  %-7s  %-20s  %-7s  %s\n", "KEY", "STATE", "MODE", "PID",
		       "SINCE", "WAITING", "COMMAND");
	if (listing->json)
		row_json(&row, listing);
	else if (!listing->who)
		row_print(&row);
	else if (print_pids(first, row.holders.count, "\n"))
		puts("");
	free(row.holders.list);
	return 0;
}

/* --list: print what is told of the directory's keys, or of `keys` where there are any. --who:
 * print the pids of who holds the key `who`, a line each. Returns an exit status. */
static int
look(struct directory *directory, char **keys, bool json, const char *who)
{
	struct listing listing = {.directory = directory, .json = json, .who = who != NULL};
	char base[NAME_SIZE], name[NAME_SIZE];
	int slot, count = 0, error = 0, status = directory_open(directory);
	struct dirent **entries = NULL;
	bool hashed;

	if (status || directory->fd < 0)
		return !status && who ? NOBODY : status;
	if (!*keys &&
	    (fchdir(directory->fd) < 0 || (count = scandir(".", &entries, NULL, alphasort)) < 0))
		error = errno;
	listing.seats = seats_scan(directory, NULL, NULL);
	setvbuf(stdout, NULL, _IOFBF, BUFSIZ); /* musl's writes the first line at once */
	for (int i = 0; i < count && !error; i++)
		if (key_of_name(entries[i]->d_name, name, &slot, &hashed))
			error = list_file(&listing, entries[i]->d_name, hashed ? NULL : name, slot);
	for (; *keys && !error; keys++) {
		name_of_key(*keys, base);
		for (slot = 1; slot <= SLOTS_MAX && !error; slot++) {
			slot_name(base, slot, name);
			error = list_file(&listing, name, *keys, slot);
		}
	}
	if (error) {
		__fpurge(stdout); /* better nothing than a part */
		return say(status_of(error), "%s: cannot be read: %s", show(directory->path),
		           strerror(error));
	}
	if (who && listing.held && !listing.lines)
		say(0, "%s: held, but by whom cannot be seen", show(who));
	status = printed();
	return status || !who || listing.held ? status : NOBODY;
}

/* --path: print the path of the key's lockfile and make nothing. */
static int
print_path(const struct directory *directory, const char *key)
{
	char name[NAME_SIZE];

	name_of_key(key, name);
	printf("%s/%s\n", directory->path, name);
	return printed();
}

/* --pin: mark the open lockfile, in its gate, as never to be removed, so that programs that
 * know only its path can lock it, too. Returns as lock_have() does. */
static int
pin_take(struct lock *lock, struct wait *wait)
{
	int fd = lock->file.fd, error = lock_have(fd, F_WRLCK, GATE, wait);
	struct stat file;

	if (!error)
		error = -record_check(lock, &file);
	if (!error && !(file.st_mode & PINNED) &&
	    fchmod(fd, (file.st_mode & 07777) | S_ISVTX | PINNED) < 0)
		error = -lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(errno));
	return error;
}

/* --forget: remove the record and the pin of a key that is held by us. */
static int
forget(const struct lock *lock)
{
	int fd = lock->file.fd, status;
	struct stat file;

	status = record_check(lock, &file);
	if (!status &&
	    ((file.st_size && (ftruncate(fd, 0) < 0 || fdatasync(fd) < 0)) ||
	     ((file.st_mode & PINNED) && fchmod(fd, file.st_mode & (07777 & ~(mode_t)PINNED)) < 0)))
		status = lockfile_failure(lock->directory, lock->name, NO_FILE, strerror(errno));
	return status;
}

/* ---- Options ------------------------------------------------------------
 *
 * One table says which options there are, for getopt_long(3) and for --help.
 */

/* What is asked for, by the number of its option; JSON is that of one that asks nothing. */
enum action { RUN, JSON = 256, HOLD, LIST, WHO, SHOW_PATH, PIN, FORGET };

struct options {
	enum action action;
	bool shared, close_lock, in_place, linger, reentrant, refuse_abandoned, recover, json;
	bool automatic; /* the command is the key */
	bool verbose, quiet;
	nanoseconds wait; /* 0: give up at once */
	nanoseconds warn_held;
	int conflict_status;
	int slots;             /* 0: -j was not given */
	const char *directory; /* NULL: the default */
	char **keys;           /* KEY, then those of -k; or those of --list */
	size_t key_count;
	char **command; /* with its arguments; else an empty list */
};

#define SETS(member) offsetof(struct options, member)

static const struct {
	int letter; /* or its action */
	const char *name, *value;
	size_t flag; /* what it sets, or 0 */
	const char *help;
} table[] = {
    {'x', "exclusive", "", 0, "hold KEY alone (default; also -e)"},
    {'s', "shared", "", SETS(shared), "hold KEY together with others that use -s"},
    {'n', "nonblock", "", 0, "give up at once when KEY is taken"},
    {'n', "nonblocking", "", 0, "the same"},
    {'n', "nb", "", 0, "the same"},
    {'w', "wait", " TIME", 0, "give up after TIME: 5, 0.5, 500ms, 10s, 5m, 2h, 1d"},
    {'w', "timeout", " TIME", 0, "the same"},
    {'E', "conflict-exit-code", " N", 0, "exit status when giving up (default 75)"},
    {'k', "key", " KEY", 0, "hold this key as well (repeatable): all or none"},
    {'a', "auto", "", SETS(automatic), "the key is COMMAND with its arguments"},
    {'j', "slots", " N", 0, "let up to N hold KEY at once (1 to 1000)"},
    {'r', "reentrant", "", SETS(reentrant), "run at once where an ancestor holds KEY"},
    {'F', "no-fork", "", SETS(in_place), "become COMMAND: no process in between"},
    {'o', "close", "", SETS(close_lock), "do not hand the lock's descriptor to COMMAND"},
    {'l', "linger", "", SETS(linger), "hold KEY until all who inherited it have ended"},
    {'A', "refuse-abandoned", "", SETS(refuse_abandoned), "do not run when the last holder died"},
    {'R', "recover", "", SETS(recover), "run then, and tell it by KEYLOCK_ABANDONED"},
    {'W', "warn-held", " TIME", 0, "when giving up on KEY held longer, say so"},
    {'c', "command", " SCRIPT", 0, "after KEY: run SCRIPT with /bin/sh -c"},
    {'d', "dir", " DIR", 0, "directory of the lockfiles, or $KEYLOCK_DIR"},
    {'v', "verbose", "", SETS(verbose), "say what is waited for, and why not"},
    {'q', "quiet", "", SETS(quiet), "say only errors of usage and of the system"},
    {HOLD, "hold", "", 0, "hold KEY, print `locked', until input ends"},
    {LIST, "list", "", 0, "list the keys that are held, in doubt or pinned"},
    {JSON, "json", "", SETS(json), "with --list: one JSON object a line"},
    {WHO, "who", "", 0, "print the pids of who holds KEY"},
    {SHOW_PATH, "path", "", 0, "print the path of KEY's lockfile, make nothing"},
    {PIN, "pin", "", 0, "make KEY's lockfile, to stay; print its path"},
    {FORGET, "forget", "", 0, "remove KEY's record and its pin"},
    {'h', "help", "", 0, "print this help"},
    {'V', "version", "", 0, "print the version"},
};

enum { TABLE_SIZE = sizeof(table) / sizeof(*table) };

/* --help and --version. Returns DONE or REFUSED. */
static int
print_help(int letter)
{
	/* What only prints is ended by signals as any program is. */
	sigprocmask(SIG_SETMASK, &signals.came_mask, NULL);
	if (letter == 'V') {
		puts("keylock " VERSION);
		return printed() ? REFUSED : DONE;
	}
	fputs("Usage: keylock [option]... KEY [--] COMMAND [ARGUMENT]...\n"
	      "       keylock [option]... KEY -c SCRIPT\n"
	      "       keylock [option]... --auto [--] COMMAND [ARGUMENT]...\n"
	      "       keylock [option]... --hold KEY\n"
	      "       keylock --list [--json] [KEY]...\n"
	      "       keylock --who KEY | --path KEY | --pin KEY | --forget KEY\n"
	      "Run COMMAND while it alone holds the lock named KEY.\n\n",
	      stdout);
	for (size_t i = 0; i < TABLE_SIZE; i++) {
		char dash[] = {'-', (char)table[i].letter, ',', '\0'}, name[32];

		snprintf(name, sizeof(name), "--%s%s", table[i].name, table[i].value);
		printf("  %-3s %-22s  %s\n", table[i].letter < JSON ? dash : "", name,
		       table[i].help);
	}
	fputs("\nExit status: that of COMMAND (a death by signal is passed on as one), or\n"
	      "    1  --who: nobody holds KEY\n"
	      "   64  usage error\n"
	      "   71  the system refused something\n"
	      "   73  the directory or lockfile cannot be made, opened or written\n"
	      "   75  KEY is taken, or was not had in time; see -E\n"
	      "   76  the last holder of KEY died in the middle (-A)\n"
	      "   77  the directory or lockfile is not safe to use\n"
	      "   78  waiting might never end\n"
	      "  126  COMMAND cannot be executed\n"
	      "  127  COMMAND is not found\n",
	      stdout);
	return printed() ? REFUSED : DONE;
}

/* Take an option, the last one given of those that exclude each other winning. Returns 0;
 * USAGE, and says why; or as print_help(). */
static int
parse_option(struct options *options, int letter, char *value)
{
	const char *wanted = NULL;

	for (size_t i = 0; i < TABLE_SIZE; i++)
		if (table[i].letter == letter && table[i].flag)
			*((bool *)options + table[i].flag) = true;
	if (letter == 'h' || letter == 'V')
		return print_help(letter);
	if (letter == 'c')
		return say(USAGE, "-c: stands behind KEY; see keylock --help");
	if (letter == 'k')
		options->keys[options->key_count++] = value;
	else if (letter == 'd')
		options->directory = value;
	else if (letter == 'x' || letter == 'e')
		options->shared = false;
	else if (letter == 'v')
		options->quiet = false;
	else if (letter == 'q')
		options->verbose = false;
	else if (letter == 'n')
		options->wait = 0;
	else if ((letter == 'w' && !parse_time(value, &options->wait)) ||
	         (letter == 'W' && !parse_time(value, &options->warn_held)))
		wanted = "a time (seconds, or 500ms, 10s, 5m, 2h, 1d)";
	else if (letter == 'E' && !parse_number(value, 0, 255, &options->conflict_status))
		wanted = "an exit status (0 to 255)";
	else if (letter == 'j' && !parse_number(value, 1, SLOTS_MAX, &options->slots))
		wanted = "a number of slots (1 to 1000)";
	else if (letter > JSON && options->action != RUN && options->action != (enum action)letter)
		return say(USAGE, "only one of --hold, --list, --who, --path, --pin, --forget");
	else if (letter > JSON)
		options->action = (enum action)letter;
	return wanted ? say(USAGE, "-%c '%s': not %s", letter, show(value), wanted) : 0;
}

/* Make the key of --auto from the command: its words with a blank between them, and a
 * backslash before each blank and backslash of their own, so that no two commands have the
 * same. What is too long for a key is cut, still too long. */
static char *
key_of_command(char **words)
{
	char *key = malloc(KEY_MAX_BYTES + 4);
	size_t used = 0;

	for (; key && *words && used <= KEY_MAX_BYTES; words++) {
		for (const char *byte = *words; *byte && used <= KEY_MAX_BYTES; byte++) {
			if (*byte == ' ' || *byte == '\\')
				key[used++] = '\\';
			key[used++] = *byte;
		}
		key[used++] = words[1] ? ' ' : '\0';
	}
	return key;
}

/* Refuse what does not go together. Returns 0 or USAGE. */
static int
parse_check(const struct options *options)
{
	bool records = options->refuse_abandoned || options->recover;
	bool holding = options->action == HOLD, running = options->action == RUN;
	bool nested = options->reentrant || options->shared || options->slots;
	const char *wrong = NULL;

	if (options->json && options->action != LIST)
		wrong = "--json goes with --list";
	else if (holding && (options->in_place || options->close_lock))
		wrong = "--hold has no COMMAND for -F or -o";
	else if (options->action == FORGET && nested)
		wrong = "--forget goes with none of -r, -s, -j";
	else if (options->automatic && !running)
		wrong = "--auto goes with a COMMAND";
	else if (options->key_count > 1 && !running && !holding)
		wrong = "-k goes with a COMMAND or --hold";
	else if (options->in_place && options->close_lock)
		wrong = "-F and -o: the key would be free at once";
	else if (options->slots && options->shared)
		wrong = "-j and -s do not go together";
	else if (records && (options->slots || options->in_place))
		wrong = "-A and -R go with neither -j nor -F";
	else if (options->refuse_abandoned && options->recover)
		wrong = "-A and -R do not go together";
	return wrong ? say(USAGE, "%s", wrong) : 0;
}

/* Take what stands behind the options: KEY, or a list of them, and `[--] COMMAND...` or
 * `-c SCRIPT`. Returns 0, or an exit status and says why. */
static int
parse_rest(struct options *options, char **words)
{
	static char shell[] = "/bin/sh", dash_c[] = "-c";

	if (options->action == LIST)
		options->keys = words;
	else if (!*words)
		return say(USAGE, "no %s; see keylock --help",
		           options->automatic ? "COMMAND" : "KEY");
	else
		*options->keys = options->automatic ? key_of_command(words) : *words++;
	if (*words && !*options->keys)
		return say(REFUSED, "memory: %s", strerror(ENOMEM));
	for (char **key = options->keys; *key; key++) {
		if (!**key)
			return say(USAGE, "KEY is empty");
		if (strlen(*key) > KEY_MAX_BYTES)
			return say(USAGE, "KEY is longer than %d bytes", KEY_MAX_BYTES);
	}
	options->command = words;
	if (options->automatic || options->action == LIST)
		return 0;
	if (options->action != RUN && *words)
		return say(USAGE, "%s: one argument too many", show(*words));
	if (options->action == HOLD && !hold_is_possible())
		return say(USAGE,
		           "--hold: standard input is closed, a file or /dev/null, and would "
		           "end at once; give it a pipe, a fifo or a terminal");
	if (*words && strcmp(*words, "--") == 0)
		options->command++;
	else if (*words && (strcmp(*words, "-c") == 0 || strcmp(*words, "--command") == 0)) {
		if (!words[1] || words[2])
			return say(USAGE, "%s: takes exactly one SCRIPT", *words);
		*words = dash_c;
		*--options->command = shell; /* in the place of KEY */
	} else if (*words && **words == '-')
		return say(USAGE, "%s: options stand before KEY; a command of that name after --",
		           show(*words));
	if (options->action == RUN && !*options->command)
		return say(USAGE, "%s: no COMMAND; see keylock --help", show(*options->keys));
	return 0;
}

/* Read the command line into `options`, which holds the defaults and has room for as
 * many keys as argv has words. Returns 0; USAGE or REFUSED, and says why; or as print_help(). */
static int
parse(struct options *options, int argc, char **argv)
{
	static const char letters[] = "+:xesnw:E:k:aj:rFolARW:c:d:vqhV";
	const char *directory = getenv("KEYLOCK_DIR"), *word = NULL;
	struct option known[TABLE_SIZE + 1] = {{0}};
	int letter, status = 0;

	options->directory = directory && *directory ? directory : NULL;
	options->key_count = 1; /* the first is KEY, which comes last */
	for (size_t i = 0; i < TABLE_SIZE; i++)
		known[i] =
		    (struct option){table[i].name, *table[i].value != 0, NULL, table[i].letter};
	opterr = 0;
	while (!status && argc) {
		word = argv[optind];
		letter = getopt_long(argc, argv, letters, known, NULL);
		if (letter == -1)
			break;
		if (letter == ':' || letter == '?')
			status = say(USAGE, "%s: %s; see keylock --help", show(word),
			             letter == ':'              ? "needs a value"
			             : optopt && word[1] == '-' ? "takes no value"
			                                        : "no such option");
		else
			status = parse_option(options, letter, optarg);
	}
	if (!status && options->directory && *options->directory != '/')
		status =
		    say(USAGE, "directory '%s': not an absolute path", show(options->directory));
	if (!status)
		status = parse_check(options);
	if (options->action == FORGET && options->wait == FOREVER)
		options->wait = 0;
	return status ? status : parse_rest(options, argv + (argc ? optind : 0));
}

/* ---- Main --------------------------------------------------------------- */

/* Say that the key was not had, where somebody wants to know. */
static void
say_taken(const struct options *options, const struct lock *lock)
{
	struct glance glance = {.held = false};
	bool asked = options->warn_held == FOREVER
	                 ? isatty(STDERR_FILENO)
	                 : glance_at(lock->directory, lock->name, NULL, &glance) == 0 &&
	                       age_of(&glance) > options->warn_held;

	if (!options->quiet && (options->verbose || asked))
		say_whose(lock, NULL, options->wait ? "not had in time:" : "taken:");
}

/* Read the records of the keys and, for exclusive ones, write our own; that of a guest is
 * the ancestor's affair. Returns 0, or an exit status and has said why; the caller settles
 * what was written. */
static int
records_begin(const struct options *options, const struct keys *keys, const char *command)
{
	int status = 0;

	for (size_t i = 0; i < keys->count && !status; i++) {
		const struct lock *lock = &keys->locks[i];

		if (lock->guest)
			continue;
		status = record_read(lock);
		if (!status && options->refuse_abandoned && *lock->record->found)
			status = options->quiet
			             ? IN_DOUBT
			             : say(IN_DOUBT,
			                   "%s: the last holder died in the middle: %s; see what "
			                   "it left, then keylock --forget",
			                   show(lock->key), lock->record->found);
		if (!status && !options->shared)
			status = record_write(lock, command);
	}
	return status;
}

/* Make the command's environment in `list`, KEYLOCK_KEY first, so that it can be left out.
 * Returns false where there is no memory. The first use of malloc(3) costs a run more than its
 * lock does, so that what is small is done without. */
static bool
environment_make(const char *key, const struct keys *keys, char **list)
{
	static char word[512];
	size_t length = sizeof("KEYLOCK_KEY=") + strlen(key);
	char *own = length > sizeof(word) ? malloc(length) : word, *doubts = NULL;

	unsetenv("KEYLOCK_KEY");
	unsetenv("KEYLOCK_ABANDONED");
	for (size_t i = 0; i < keys->count; i++)
		if (*keys->locks[i].record->found &&
		    (asprintf(&doubts, "%s%s%s", doubts ? doubts : "KEYLOCK_ABANDONED=",
		              doubts ? "\n" : "", keys->locks[i].record->found) < 0 ||
		     putenv(doubts) != 0))
			return false;
	if (!own || !list)
		return false;
	stpcpy(stpcpy(own, "KEYLOCK_KEY="), key);
	*list = own;
	for (char **came = environ; *came; came++)
		*++list = *came;
	*++list = NULL;
	return true;
}

/* Do under the keys what is to be done under them, and settle the records by how that ended. */
static struct ending
run_under(const struct options *options, const struct keys *keys, mode_t came_umask)
{
	const char *name = options->action == HOLD ? "--hold" : *options->command, *cause = NULL;
	char text[32] = "unknown"; /* the command's status was taken by another */
	struct ending ending = {0};
	size_t count = 3; /* with KEYLOCK_KEY, KEYLOCK_ABANDONED and the NULL at the end */
	struct command command = {
	    .argv = options->command,
	    .locks = keys->locks,
	    .count = options->close_lock ? 0 : keys->count,
	    .came_umask = came_umask,
	    .in_place = options->in_place,
	};

	if (options->action == FORGET)
		ending.status = forget(keys->locks);
	else if (options->action != PIN && (options->refuse_abandoned || options->recover))
		ending.status = records_begin(options, keys, name);
	if (!ending.status && options->action == HOLD)
		ending = hold(&cause);
	else if (!ending.status && options->action == RUN) {
		for (char **came = environ; *came; came++)
			count++;
		char *few[count < 256 ? count : 1]; /* the stack may be full of the many */

		command.environment = count < 256 ? few : calloc(count, sizeof(*few));
		ending = environment_make(*options->keys, keys, command.environment)
		             ? command_run(&command)
		             : (struct ending){.status = REFUSED, .error = ENOMEM};
	}
	if (!ending.error)
		snprintf(text, sizeof(text), ending.signal ? "signal-%d" : "exit-%d",
		         ending.signal ? ending.signal : ending.status);
	if (ending.error || has_died(&ending))
		cause = text;
	for (size_t i = 0; i < keys->count; i++)
		record_settle(&keys->locks[i], ending.ran, cause, name);
	return ending;
}

/* Make the list of the keys, in order. Returns false where there is no memory. */
static bool
keys_make(struct keys *keys, const struct options *options, struct directory *directory)
{
	static struct lock lock, *locks; /* most often there is one: see environment_make() */
	static struct record record, *records;
	size_t count = keys->count = options->key_count;
	bool pins = options->action == PIN;

	keys->locks = locks = count == 1 ? &lock : calloc(count, sizeof(lock));
	records = count == 1 ? &record : calloc(count, sizeof(record));
	if (!locks || !records)
		return false;
	for (size_t i = 0; i < count; i++) {
		locks[i].directory = directory;
		locks[i].record = &records[i];
		locks[i].key = options->keys[i];
		locks[i].take = pins ? pin_take : lock_take;
		/* The time of a file that somebody holds is not set by who pins it. */
		locks[i].shared = pins || options->shared;
		locks[i].slots = pins ? 0 : options->slots;
		name_of_key(options->keys[i], locks[i].name);
	}
	keys_order(keys);
	return true;
}

/* Acquire the keys, run under them, let them go. Returns the exit status. */
static int
run(const struct options *options, struct directory *directory, mode_t came_umask)
{
	struct looker looker = {
	    .reentrant = options->reentrant,
	    .aloud = options->verbose,
	    .quiet = options->quiet,
	    .turn = -1,
	};
	struct wait wait = {
	    .nonblock = !options->wait,
	    .early = options->reentrant || options->verbose || getenv("KEYLOCK_KEY"),
	    .deadline = time_in(options->wait ? options->wait : GATE_PATIENCE),
	    .look = options->action == PIN ? NULL : look_around,
	    .looker = &looker,
	};
	nanoseconds start = options->verbose ? now() : 0;
	int result = directory_open(directory);
	struct ending ending;
	struct keys keys;

	if (result)
		return result;
	if (!keys_make(&keys, options, directory))
		return say(REFUSED, "memory: %s", strerror(ENOMEM));
	hurried = true;
	do { /* a stop signal gives every place and key up; the deadline stays */
		result = keys_acquire(&keys, &wait);
		for (size_t i = 0; i < keys.count && result; i++)
			host_close(&keys.locks[i]);
	} while (result == CAUGHT && stopped());
	turn_end(&looker, directory);
	if (result == CAUGHT)
		return act_by_default(signals.caught);
	if (result == TAKEN)
		say_taken(options, wait.lock);
	if (result)
		return result == TAKEN ? options->conflict_status : result;
	if (options->verbose && options->action != PIN)
		say(0, "%s: had, took %.3f s", show(*options->keys),
		    (double)(now() - start) / (double)SECOND);
	ending = run_under(options, &keys, came_umask);
	for (size_t i = 0; i < keys.count; i++)
		host_close(&keys.locks[i]);
	keys_release(&keys, keys.count, options->linger || has_died(&ending));
	hurried = false;
	if (ending.error)
		say_not_run(*options->command, &ending);
	if (options->action == PIN) {
		sigprocmask(SIG_SETMASK, &signals.came_mask, NULL);
		return print_path(directory, *options->keys);
	}
	return ending.signal ? act_by_default(ending.signal) : ending.status;
}

int
main(int argc, char **argv)
{
	char *keys[argc + 2];
	struct options options = {
	    .wait = FOREVER,
	    .warn_held = FOREVER,
	    .conflict_status = TAKEN,
	    .keys = keys,
	};
	struct directory directory = {.fd = -1};
	mode_t came_umask = umask(0);
	int status;

	memset(keys, 0, sizeof(keys));
	signals_begin();
	status = parse(&options, argc, argv);
	if (!status)
		status = directory_choose(&directory, options.directory);
	if (status)
		return status == DONE ? 0 : status;
	if (options.action != LIST && options.action != WHO && options.action != SHOW_PATH)
		return run(&options, &directory, came_umask);
	/* What only looks is ended by signals as any program is. */
	sigprocmask(SIG_SETMASK, &signals.came_mask, NULL);
	directory.look_only = true;
	if (options.action == SHOW_PATH)
		return print_path(&directory, *options.keys);
	return look(&directory, options.keys, options.json,
	            options.action == WHO ? *options.keys : NULL);
}

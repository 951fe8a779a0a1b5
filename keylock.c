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
 *   1    --who: nobody holds KEY
 *   64   usage: bad option, value or combination; no KEY; no COMMAND
 *   71   the system refused something
 *   73   the directory or lockfile cannot be made, opened or written
 *   75   KEY is taken (-n) or was not had in time (-w); see -E
 *   76   the last holder died in the middle (-A)
 *   77   the directory or lockfile is not safe to use
 *   78   waiting might never end: an ancestor holds KEY, or a cycle of waiters
 *   126  COMMAND cannot be executed
 *   127  COMMAND is not found
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
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERSION "1.0"

/* Results that leave keylock as its exit status. */
enum {
	NOBODY = 1,
	USAGE = 64,
	REFUSED = 71,
	NO_FILE = 73,
	TAKEN = 75,
	IN_DOUBT = 76,
	UNSAFE = 77,
	ENDLESS = 78,
	CANNOT_EXECUTE = 126,
	NOT_FOUND = 127,
};

/* Results that stay inside. */
enum {
	CAUGHT = 256, /* the wait was ended by the signal in signals.caught */
	COVERED,      /* the lock of an ancestor covers this run */
};

enum {
	SLOTS_MAX = 1000,
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

/* Where compose() writes: at most `room` bytes, counting all that there were. */
struct sink {
	char *bytes;
	size_t room;
	size_t count;
};

static void
sink_add(struct sink *sink, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++, sink->count++)
		if (sink->count < sink->room)
			sink->bytes[sink->count] = bytes[i];
}

static void
sink_pad(struct sink *sink, char with, size_t width, size_t length)
{
	for (; length < width; length++)
		sink_add(sink, &with, 1);
}

/* Add a number in `base`, 10 or 16, with zeros in front of it up to `width`. */
static void
sink_number(struct sink *sink, uint64_t number, unsigned base, bool negative, size_t width)
{
	char digits[24];
	size_t at = sizeof(digits);

	do
		digits[--at] = "0123456789abcdef"[number % base];
	while (number /= base);
	if (negative)
		digits[--at] = '-';
	sink_pad(sink, '0', width, sizeof(digits) - at);
	sink_add(sink, digits + at, sizeof(digits) - at);
}

/*
 * vcompose(3), as far as it is needed here: %s, %.*s, %*s, %c, %d, %ld, %lld,
 * %zu, %x, %0Nx, %0Nlld and %%. libc's own, with its floating point and its wide
 * characters, would be a third of the program.
 */
__attribute__((format(printf, 3, 0))) static size_t
vcompose(char *bytes, size_t size, const char *format, va_list arguments)
{
	struct sink sink = {bytes, size ? size - 1 : 0, 0};

	for (; *format; format++) {
		size_t plain = strcspn(format, "%"), width = 0, precision = SIZE_MAX;
		int longs = 0;
		const char *text;

		sink_add(&sink, format, plain);
		format += plain;
		if (!*format++)
			break;
		if (strncmp(format, ".*", 2) == 0) {
			precision = (size_t)va_arg(arguments, int);
			format += 2;
		}
		if (*format == '*') {
			width = (size_t)va_arg(arguments, int);
			format++;
		}
		for (; *format >= '0' && *format <= '9'; format++)
			width = width * 10 + (size_t)(*format - '0');
		for (; *format == 'l' || *format == 'z'; format++)
			longs++;
		switch (*format) {
		case 's':
			text = va_arg(arguments, const char *);
			sink_add(&sink, text, strnlen(text, precision));
			sink_pad(&sink, ' ', width, strnlen(text, precision));
			break;
		case 'd': {
			long long number = longs == 0   ? va_arg(arguments, int)
			                   : longs == 1 ? va_arg(arguments, long)
			                                : va_arg(arguments, long long);
			uint64_t size_of_it = number < 0 ? -(uint64_t)number : (uint64_t)number;

			sink_number(&sink, size_of_it, 10, number < 0, width);
			break;
		}
		case 'u':
			sink_number(&sink, va_arg(arguments, size_t), 10, false, width);
			break;
		case 'x':
			sink_number(&sink, va_arg(arguments, unsigned), 16, false, width);
			break;
		case 'c': {
			char character = (char)va_arg(arguments, int);

			sink_add(&sink, &character, 1);
			break;
		}
		default:
			sink_add(&sink, format, 1);
		}
	}
	if (size)
		bytes[sink.count < sink.room ? sink.count : sink.room] = '\0';
	return sink.count;
}

/*
 * Write formatted text to `bytes`, of `size`, cut where it does not fit. Returns
 * the length that the whole of it has.
 */
__attribute__((format(printf, 3, 4))) static size_t
compose(char *bytes, size_t size, const char *format, ...)
{
	va_list arguments;
	size_t length;

	va_start(arguments, format);
	length = vcompose(bytes, size, format, arguments);
	va_end(arguments);
	return length;
}

/*
 * Write `keylock: ` and the line to standard error; keeps errno. Signals are
 * blocked, so a reader that is gone is a pending SIGPIPE; it is not the
 * command's nor a reason to die.
 */
__attribute__((format(printf, 1, 2))) static void
say(const char *format, ...)
{
	static const char prefix[] = "keylock: ";
	int kept = errno;
	char line[MESSAGE_SIZE];
	size_t used = sizeof(prefix) - 1;
	va_list arguments;

	memcpy(line, prefix, used);
	va_start(arguments, format);
	used += vcompose(line + used, sizeof(line) - used, format, arguments);
	va_end(arguments);
	if (used > sizeof(line) - 1)
		used = sizeof(line) - 1;
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

/* How many bytes the UTF-8 character at `bytes` has, 0 where there is none. */
static size_t
utf8_length(const unsigned char *bytes)
{
	size_t length = bytes[0] < 0x80                        ? 1
	                : bytes[0] >= 0xc2 && bytes[0] <= 0xdf ? 2
	                : (bytes[0] & 0xf0) == 0xe0            ? 3
	                : bytes[0] >= 0xf0 && bytes[0] <= 0xf4 ? 4
	                                                       : 0;

	for (size_t i = 1; i < length; i++)
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, and what lies above Unicode. */
	if ((bytes[0] == 0xe0 && bytes[1] < 0xa0) || (bytes[0] == 0xed && bytes[1] > 0x9f) ||
	    (bytes[0] == 0xf0 && bytes[1] < 0x90) || (bytes[0] == 0xf4 && bytes[1] > 0x8f))
		return 0;
	return length;
}

/*
 * Make `text` fit for a line of a terminal: control characters, those of
 * UTF-8's C1 block too, and bytes that are no UTF-8 become \xHH, and what is too
 * long ends in "...". Returns `shown`.
 */
static const char *
show(const char *text, char shown[SHOWN_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *byte = (const unsigned char *)text;
	size_t used = 0;

	while (*byte) {
		size_t length = utf8_length(byte);
		bool control = *byte < 0x20 || *byte == 0x7f || (*byte == 0xc2 && byte[1] < 0xa0);

		if (used + sizeof("\\xHH...") > SHOWN_SIZE) {
			memcpy(shown + used, "...", 3);
			used += 3;
			break;
		}
		if (length && !control) {
			memcpy(shown + used, byte, length);
			used += length;
			byte += length;
			continue;
		}
		shown[used++] = '\\';
		shown[used++] = 'x';
		shown[used++] = digits[*byte >> 4];
		shown[used++] = digits[*byte & 15];
		byte++;
	}
	shown[used] = '\0';
	return shown;
}

/*
 * Make `memory`, of `size` bytes (NULL and 0: new), `wanted` bytes large, the new
 * ones zero; it may move. Returns NULL where there is none, and `memory` stays as
 * it is. Straight from the kernel, in pages: what keylock keeps is few and large,
 * and libc's allocator would be a tenth of the program.
 */
static void *
memory_resize(void *memory, size_t size, size_t wanted)
{
	void *resized =
	    memory ? mremap(memory, size, wanted, MREMAP_MAYMOVE)
		   : mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return resized == MAP_FAILED ? NULL : resized;
}

static void
memory_free(void *memory, size_t size)
{
	if (memory)
		munmap(memory, size);
}

/*
 * Make room for `count` members of `size` bytes in a list that has it for *room.
 * Returns the list, or NULL where there is no memory, and it stays as it is.
 */
static void *
list_grow(void *list, size_t size, size_t count, size_t *room)
{
	size_t wanted = count > 2 * *room ? count : 2 * *room;

	if (list && count <= *room)
		return list;
	list = memory_resize(list, *room * size, wanted * size);
	if (list)
		*room = wanted;
	return list;
}

/* A text that grows; where there is no memory, `failed` is set. */
struct text {
	char *bytes;
	size_t used;
	size_t room;
	bool failed;
};

__attribute__((format(printf, 2, 3))) static void
text_add(struct text *text, const char *format, ...)
{
	va_list arguments;
	size_t length;

	va_start(arguments, format);
	length = vcompose(NULL, 0, format, arguments);
	va_end(arguments);
	if (text->failed)
		return;
	if (text->used + length + 1 > text->room) {
		size_t room = 2 * text->room + length + 1;
		char *bytes = memory_resize(text->bytes, text->room, room);

		if (!bytes) {
			text->failed = true;
			return;
		}
		text->bytes = bytes;
		text->room = room;
	}
	va_start(arguments, format);
	vcompose(text->bytes + text->used, text->room - text->used, format, arguments);
	va_end(arguments);
	text->used += length;
}

/* The first place in `text` where `what` stands, or NULL. */
static const char *
find(const char *text, const char *what)
{
	size_t length = strlen(what);

	while (strncmp(text, what, length) != 0)
		if (!*text++)
			return NULL;
	return text;
}

/* The whole number at the beginning of `text`, 0 where none is or it is too large. */
static int64_t
number_at(const char *text)
{
	int64_t number = 0;

	for (; *text >= '0' && *text <= '9'; text++) {
		if (number > (INT64_MAX - 9) / 10)
			return 0;
		number = number * 10 + (*text - '0');
	}
	return number;
}

/* The process id at the beginning of `text`, 0 where none is. */
static pid_t
pid_at(const char *text)
{
	int64_t pid = number_at(text);

	return pid <= INT_MAX ? (pid_t)pid : 0;
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
	nanoseconds rest = 0;
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
	for (size_t i = fraction; i-- > 0;) { /* long division, from the last digit */
		nanoseconds part = (text[whole + 1 + i] - '0') * unit + rest;

		finer = finer || part % 10 != 0;
		rest = part / 10;
	}
	if (sum > INT64_MAX - 1 - rest)
		return false;
	sum += rest;
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

/* struct kernel_sigaction, which no header has; only copied and never read. */
struct raw_action {
	unsigned long words[16];
};

static struct {
	sigset_t came_mask;           /* the mask that keylock came with */
	sigset_t wait_mask;           /* while waiting: that, and SIGCONT */
	bool handling;                /* handlers and timer are in place */
	bool armed;                   /* the timer runs, valid while handling */
	int timer;                    /* valid while handling */
	struct sigaction came[_NSIG]; /* dispositions, valid while handling */
	struct raw_action raw[_NSIG]; /* those of libc's own signals, likewise */
	volatile sig_atomic_t caught; /* the signal that ends the wait, or 0 */
} signals;

struct lock;
struct directory;

/* What an acquisition is bounded by, and who looks around meanwhile. */
struct wait {
	bool nonblock;        /* give up at once when the key is taken */
	bool deaf;            /* let no signal in: for tidying */
	nanoseconds deadline; /* of the whole acquisition */
	nanoseconds look_at;  /* when `look` is due */
	/* Called at look_at, which it sets anew, while the lock, or every one of
	 * the slots, is taken. Returns 0 to wait on, else the result to leave
	 * with; COVERED with *covered set to the one that an ancestor holds. */
	int (*look)(struct wait *, struct lock *locks, size_t count, size_t *covered);
	bool reentrant;      /* for `look`: -r */
	bool aloud;          /* for `look`: say what is waited for at once */
	bool quiet;          /* for `look`: never say it */
	bool holding;        /* for `look`: this process holds other keys */
	bool related;        /* of `look`: an ancestor may hold other keys */
	nanoseconds started; /* of `look`: when the wait began; 0: it did not */
	const struct directory *directory;
	bool robbed;          /* a slot's file was removed under its holder */
	nanoseconds hindered; /* since when a stranger is in the way, or 0 */
	int turn;             /* of `look`: what is kept until all is given back */
	char turn_name[NAME_SIZE];
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

/*
 * sigprocmask(2) as the kernel has it: libc's keeps off the real-time signals
 * that are its own, which are as good as any to the command (nptl(7)).
 */
static void
mask_change(int how, const sigset_t *set, sigset_t *old)
{
	syscall(SYS_rt_sigprocmask, how, set, old, _NSIG / 8);
}

/* Every signal, libc's own too. */
static sigset_t
mask_all(void)
{
	sigset_t all;

	memset(&all, 0xff, sizeof(all));
	return all;
}

/* sigaddset(3) for any signal. */
static void
mask_add(sigset_t *set, int signo)
{
	enum { BITS = 8 * sizeof(unsigned long) };
	unsigned long words[sizeof(*set) / sizeof(unsigned long)];

	memcpy(words, set, sizeof(*set));
	words[(unsigned)(signo - 1) / BITS] |= 1UL << (unsigned)(signo - 1) % BITS;
	memcpy(set, words, sizeof(*set));
}

static sigset_t
mask_of(int signo)
{
	sigset_t only = {0};

	mask_add(&only, signo);
	return only;
}

static void
signals_block(void)
{
	sigset_t all = mask_all();

	mask_change(SIG_SETMASK, &all, &signals.came_mask);
	/* Let in, it would be lost where it comes just as the kernel calls the
	 * handler of a stop signal: it is ignored by default, and not yet blocked by
	 * the handler's mask. Blocked it stays pending, for stop_begin(). */
	signals.wait_mask = signals.came_mask;
	mask_add(&signals.wait_mask, SIGCONT);
}

/*
 * The kernel's timers themselves: libc's bring its threads into the binary, for
 * notifications by thread.
 */
static int
timer_make(const struct sigevent *event)
{
	return (int)syscall(SYS_timer_create, CLOCK_MONOTONIC, event, &signals.timer);
}

static int
timer_arm(int flags, const struct itimerspec *time)
{
#ifdef SYS_timer_settime64
	int done = (int)syscall(SYS_timer_settime64, signals.timer, flags, time, NULL);
#ifdef SYS_timer_settime
	enum { OLD = SYS_timer_settime };
#else /* as musl calls it */
	enum { OLD = SYS_timer_settime32 };
#endif
	if (done == 0 || errno != ENOSYS)
		return done;
	/* 32 bits, and a kernel before Linux 5.1: its times have 32 bits, too. */
	const struct timespec *every = &time->it_interval, *first = &time->it_value;
	long old[] = {(long)every->tv_sec, every->tv_nsec, (long)first->tv_sec, first->tv_nsec};

	return (int)syscall(OLD, signals.timer, flags, old, NULL);
#else
	return (int)syscall(SYS_timer_settime, signals.timer, flags, time, NULL);
#endif
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
	    (info->si_code == SI_TIMER || signals.came[WAKER].sa_handler == SIG_IGN ||
	     sigismember(&signals.came_mask, WAKER) == 1))
		return;
	if (!signals.caught || is_stop_signal(signals.caught))
		signals.caught = signo;
	timer_arm(0, &soon);
	errno = kept;
}

/* Stands for a disposition that is in signals.raw. */
static void
on_raw_signal(int signo)
{
	(void)signo;
}

/* rt_sigaction(2) itself: libc's refuses the signals that are its own (nptl(7)). */
static void
raw_action(int signo, const struct raw_action *action, struct raw_action *came)
{
	syscall(SYS_rt_sigaction, signo, action, came, _NSIG / 8);
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
	struct raw_action raw = {0}; /* our handler, as libc has told the kernel */

	if (signals.handling)
		return 0;
	if (timer_make(&event) < 0)
		return errno == EAGAIN ? ENOMEM : errno; /* EAGAIN means taken here */
	handler.sa_mask = mask_all();
	for (int signo = 1; signo < _NSIG; signo++) {
		struct sigaction *came = &signals.came[signo];

		came->sa_handler = SIG_ERR; /* nothing to give back */
		if (is_idle_signal(signo) || signo == SIGKILL || signo == SIGSTOP)
			continue;
		if (sigaction(signo, &handler, came) == 0) {
			if (!raw.words[0])
				raw_action(signo, NULL, &raw);
			if (came->sa_handler == SIG_IGN && signo != WAKER)
				sigaction(signo, came, NULL);
		} else {
			/* One of libc's own, to which the command has a right. */
			raw_action(signo, &raw, &signals.raw[signo]);
			came->sa_handler = on_raw_signal;
		}
	}
	signals.handling = true;
	signals.armed = false;
	return 0;
}

/* Undo waiting_begin(). A signal that came meanwhile is in signals.caught. */
static void
waiting_end(void)
{
	sigset_t all = mask_all(), waker = mask_of(WAKER);

	if (!signals.handling)
		return;
	syscall(SYS_timer_delete, signals.timer);
	/* One expiry may still be pending; the default action would kill. */
	mask_change(SIG_UNBLOCK, &waker, NULL);
	mask_change(SIG_SETMASK, &all, NULL);
	for (int signo = 1; signo < _NSIG; signo++)
		if (signals.came[signo].sa_handler == on_raw_signal)
			raw_action(signo, &signals.raw[signo], NULL);
		else if (signals.came[signo].sa_handler != SIG_ERR)
			sigaction(signo, &signals.came[signo], NULL);
	signals.handling = false;
}

/*
 * Take one of the pending signals `these`, if there is one; returns it, else 0.
 * One that was pending a moment ago may be gone: SIGCONT and the stop signals
 * take each other away.
 */
static int
signal_take(const sigset_t *these)
{
	static const struct timespec at_once;
	int signo = sigtimedwait(these, NULL, &at_once);

	return signo > 0 ? signo : 0;
}

/*
 * Take down a signal that came before there was a command to give it to, as if
 * it had come while waiting. Returns whether one that ends or stops came.
 */
static bool
signal_came(void)
{
	sigset_t pending, cont = mask_of(SIGCONT);

	sigpending(&pending);
	if (sigisemptyset(&pending))
		return signals.caught != 0;
	if (sigismember(&pending, SIGCONT) == 1 && sigismember(&signals.came_mask, SIGCONT) == 0)
		signal_take(&cont); /* of a while ago: no command has been stopped yet */
	for (int signo = 1; signo < _NSIG && !signals.caught; signo++) {
		struct sigaction action;
		sigset_t only = mask_of(signo);

		if (sigismember(&pending, signo) != 1 || is_idle_signal(signo) ||
		    sigismember(&signals.came_mask, signo) == 1)
			continue;
		if (sigaction(signo, NULL, &action) < 0 || action.sa_handler == SIG_IGN)
			continue;
		if (signal_take(&only))
			signals.caught = signo;
	}
	return signals.caught != 0;
}

/*
 * Let in one blocked signal; where it is pending and stops, until continued. Then
 * all are blocked.
 */
static void
signal_let_in(int signo)
{
	sigset_t only = mask_of(signo), all = mask_all();

	mask_change(SIG_UNBLOCK, &only, NULL);
	mask_change(SIG_SETMASK, &all, NULL);
}

static volatile sig_atomic_t continued; /* a SIGCONT came since stop_begin() */
static struct sigaction continue_came;

static void
on_continue(int signo)
{
	(void)signo;
	continued = 1;
}

/*
 * Stop this process by `signo`, as its default action does, in two steps. A SIGCONT
 * that came before, but after what we stop for, is pending, and is not to be lost:
 * sending a stop signal discards it (signal(7)). So it is let in first, to a
 * handler. What is lost is one that another processor sends in the microsecond in
 * which kill(2) is entered: the kernel has no call that would not discard it. Returns whether there
 * is reason to stop still; stop_end() then stops, until continued, or does not.
 */
static bool
stop_begin(int signo)
{
	struct sigaction action = {.sa_handler = on_continue};
	sigset_t open_to = mask_all();

	continued = 0;
	sigaction(SIGCONT, &action, &continue_came);
	sigdelset(&open_to, SIGCONT);
	mask_change(SIG_SETMASK, &open_to, NULL);
	kill(getpid(), signo); /* blocked; a SIGCONT from now on takes it away */
	return !continued;
}

static void
stop_end(int signo, bool stop)
{
	sigset_t only = mask_of(signo);

	if (stop)
		signal_let_in(signo);
	else
		signal_take(&only);
	sigaction(SIGCONT, &continue_came, NULL);
}

/* Stop by the stop signal that was caught, and forget it. */
static void
stop_caught(void)
{
	int signo = signals.caught;

	waiting_end();
	signals.caught = 0;
	stop_end(signo, stop_begin(signo));
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
	sigset_t only = mask_of(signo);

	prctl(PR_SET_DUMPABLE, 0);
	sigaction(signo, &by_default, NULL);
	kill(getpid(), signo);
	mask_change(SIG_UNBLOCK, &only, NULL);
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

	do { /* FUSE, which is not of the kernel alone, may answer with EINTR */
		if (wish->flock)
			done = flock(wish->fd, wish->flock | (waiting ? 0 : LOCK_NB));
		else
			done = fcntl(wish->fd, waiting ? F_OFD_SETLKW : F_OFD_SETLK, &bytes);
	} while (done < 0 && errno == EINTR && !waiting);
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
	sigset_t open_to, all = mask_all();
	int error = waiting_begin();

	if (error)
		return error;
	open_to = wait->deaf ? all : signals.wait_mask;
	sigdelset(&open_to, WAKER);
	if (until != FOREVER)
		alarm.it_value = to_timespec(until);
	if ((until != FOREVER || signals.armed) && timer_arm(TIMER_ABSTIME, &alarm) < 0)
		return errno;
	signals.armed = until != FOREVER;
	do {
		if (signals.caught && !wait->deaf)
			return EINTR;
		if (until != FOREVER && now() >= until)
			return until == wait->deadline ? ETIMEDOUT : EBUSY;
		mask_change(SIG_SETMASK, &open_to, NULL);
		error = request(wish, true);
		mask_change(SIG_SETMASK, &all, NULL);
	} while (error == EINTR);
	return error == EAGAIN ? ENOLCK : error; /* "taken" is no answer to one who waits */
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
		compose(hex + 8 * i, 9, "%08x", state[i]);
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

/* The value of an upper-case hex digit; false for another character. */
static bool
hex_value(char digit, unsigned int *value)
{
	if (digit >= '0' && digit <= '9')
		*value = (unsigned int)(digit - '0');
	else if (digit >= 'A' && digit <= 'F')
		*value = (unsigned int)(digit - 'A' + 10);
	else
		return false;
	return true;
}

/*
 * Read a file name back: the key to `key`, which has room for NAME_SIZE bytes,
 * and the number of the slot. A name with a hash stands for itself, and *hashed
 * tells so. Returns false for a name that name_of_key() and slot_name() do not
 * make.
 */
static bool
key_of_name(const char *name, char key[NAME_SIZE], int *slot, bool *hashed)
{
	char again[NAME_SIZE], base[NAME_SIZE];
	const char *mark = find(name, "%s");
	size_t length = mark ? (size_t)(mark - name) : strlen(name);
	size_t used = 0;

	if (!length || length > NAME_MAX_BYTES || strlen(name) >= NAME_SIZE)
		return false;
	memcpy(base, name, length);
	base[length] = '\0';
	*slot = 1;
	if (mark && (!parse_number(mark + 2, 2, SLOTS_MAX, slot) || mark[2] == '0'))
		return false;

	const char *hash = find(base, "%h");

	/* What is before the hash is read, too: it is how the key begins. */
	*hashed = hash && length >= NAME_MAX_BYTES - 2 &&
	          strspn(hash + 2, "0123456789abcdef") == 64 && !hash[2 + 64];
	if (*hashed)
		length = (size_t)(hash - base);
	for (const char *byte = base; byte < base + length; byte++) {
		unsigned int value;

		if (*byte != '%') {
			key[used++] = *byte;
			continue;
		}
		if (!hex_value(byte[1], &value))
			return false;
		key[used] = (char)(value << 4);
		if (!hex_value(byte[2], &value))
			return false;
		key[used] = (char)((unsigned char)key[used] | value);
		if (!key[used++])
			return false;
		byte += 2;
	}
	key[used] = '\0';
	name_of_key(key, again);
	if (*hashed)
		compose(key, NAME_SIZE, "%s", base);
	return strlen(again) == length && memcmp(again, base, length) == 0;
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
	bool named;     /* by --dir or KEYLOCK_DIR, not the default */
	bool look_only; /* where it is missing it stays so */
	bool made;      /* by this process */
	int fd;         /* -1: not open */
	bool is_open;   /* others may write to it, too */
	bool claims;    /* and it can be read: see "Lockfile" */
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
	compose(path, size, "%s/keylock-%lu", shared ? "/run/lock" : "/tmp", (unsigned long)user);
	return path;
}

/* The exit status for an error at the directory or a lockfile. */
static int
status_of(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM ? REFUSED : NO_FILE;
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
	directory->is_open = (file.st_mode & (S_IWGRP | S_IWOTH)) != 0;
	directory->claims = false;
	if (directory->is_open) {
		/* O_PATH is not enough for claims. */
		int fd =
		    above_standard(openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

		if (fd >= 0) {
			close(directory->fd);
			directory->fd = fd;
			directory->claims = true;
		} else if (errno != EACCES) {
			say("%s: cannot be opened: %s", show(directory->path, shown),
			    strerror(errno));
			return status_of(errno);
		}
	}
	return 0;
}

/*
 * Open the directory and check it; make it, but not what it is in, where it is
 * missing (with look_only, leave it so and fd -1). Returns 0, NO_FILE, UNSAFE or REFUSED, and says
 * why.
 */
static int
directory_open(struct directory *directory)
{
	int flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (directory->named ? 0 : O_NOFOLLOW);
	char shown[SHOWN_SIZE];
	const char *doing = "cannot be opened";
	mode_t came;

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
		came = umask(0);
		directory->made = mkdir(directory->path, S_IRWXU) == 0;
		umask(came); /* keeps errno */
		if (!directory->made && errno != EEXIST) {
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
	return status_of(errno);
}

/*
 * What is read of a directory, as getdents64(2) gives it, whose entries are libc's
 * struct dirent where offsets have 64 bits.
 */
_Static_assert(offsetof(struct dirent, d_name) == 19, "dirent");

struct entries {
	int fd; /* -1: not open */
	size_t next, end;
	int error; /* that ended it early, or 0 */
	_Alignas(8) char bytes[2048];
};

/* Begin to read the directory `path` of `at`. Returns whether it can be read. */
static bool
entries_begin(struct entries *entries, int at, const char *path)
{
	entries->fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	entries->next = entries->end = 0;
	entries->error = entries->fd < 0 ? errno : 0;
	return entries->fd >= 0;
}

/* The next entry, or NULL behind the last, when the directory is closed. */
static const struct dirent *
entries_next(struct entries *entries)
{
	const struct dirent *entry;

	if (entries->next == entries->end) {
		long count =
		    syscall(SYS_getdents64, entries->fd, entries->bytes, sizeof(entries->bytes));

		if (count <= 0) {
			entries->error = count < 0 ? errno : 0;
			close(entries->fd);
			return NULL;
		}
		entries->next = 0;
		entries->end = (size_t)count;
	}
	entry = (const void *)(entries->bytes + entries->next);
	entries->next += entry->d_reclen;
	return entry;
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
 *   guests    byte 2, a read lock for each run that is covered by an ancestor's
 *             exclusive lock; the holder takes it for writing before it leaves.
 *   others    byte 3, a read lock of each who waits for slots; byte 4, a write
 *             lock of who looks whether waiters wait for each other in a circle.
 *   tickets   bytes TICKETS and up, a write lock each, held by who waits. The
 *             next is one above the highest held; an empty queue starts anew.
 *   marks     byte MARKS + pid, or SHARED_MARKS + pid, a read lock, held by a
 *             holder beside presence: says which process took the lock, and
 *             answers whether a certain one did at the cost of one call.
 *
 * F_OFD_GETLK sees these bytes without disturbing anybody.
 *
 * Where others may write to the directory, who made the lockfile can remove or
 * rename it under whoever holds it, and the next would take another file of that
 * name. A holder there also claims the name: a read lock on the directory itself,
 * which is not theirs to remove, on byte MARKS (SHARED_MARKS) + a hash of the name.
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
static const off_t GUESTS = 2;
static const off_t SLOT_WAITER = 3;
static const off_t CYCLE = 4;
static const off_t TICKETS = 1000;
static const off_t MARKS = (off_t)1 << 61;
static const off_t SHARED_MARKS = (off_t)1 << 62;
static const off_t ALL_BYTES = 0; /* a length: up to the last */

static const nanoseconds GATE_PATIENCE = 100 * MILLISECOND;

enum { PINNED = S_IXUSR }; /* the mode bit of a file that is never removed */

enum { LOCKFILE_FLAGS = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };

struct lock {
	const char *key;
	char name[NAME_SIZE]; /* of its file */
	bool shared;
	int slots;    /* how many may hold it at once */
	int fd;       /* -1: not open */
	bool made;    /* by this process, so that its times are right */
	bool watched; /* by a waiter for slots */
	int events;   /* its inotify descriptor, or -1 */
	dev_t device;
	ino_t inode;
	off_t ticket; /* 0: none */
	bool nested;  /* an ancestor's lock covers this run */
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
 * Where others hold a lock that keeps us from a lock of `type` on the bytes from
 * `start` to before `end` (0: to the last byte): the first byte of one such
 * lock, at `start` or above. -1 where there is none.
 */
static off_t
byte_held(int fd, short type, off_t start, off_t end)
{
	struct flock bytes = {
	    .l_type = type,
	    .l_whence = SEEK_SET,
	    .l_start = start,
	    .l_len = end ? end - start : ALL_BYTES,
	};

	if ((end && end <= start) || fcntl(fd, F_OFD_GETLK, &bytes) < 0 || bytes.l_type == F_UNLCK)
		return -1;
	return bytes.l_start > start ? bytes.l_start : start;
}

/* The byte of the directory that a holder of the lock claims. */
static off_t
claim_byte(const struct lock *lock, bool shared)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (const char *byte = lock->name; *byte; byte++)
		hash = (hash ^ (unsigned char)*byte) * UINT64_C(0x100000001b3);
	return (shared ? SHARED_MARKS : MARKS) + (off_t)(hash >> 3);
}

/* Whether another claims the name, exclusively or `shared`. */
static bool
claim_is_held(const struct directory *directory, const struct lock *lock, bool shared)
{
	off_t byte = claim_byte(lock, shared);

	return byte_held(directory->fd, F_WRLCK, byte, byte + 1) >= 0;
}

/* Take the claim back, if there is one. */
static void
claim_drop(const struct directory *directory, const struct lock *lock)
{
	if (directory->claims)
		byte_try(directory->fd, F_UNLCK, claim_byte(lock, lock->shared), 1);
}

/*
 * Having the lock, claim its name in a directory where the file may have been
 * removed under another holder, who is found by its claim then. Returns 0; EAGAIN
 * when there is such a one; or another errno. First the claim, then the look: of
 * two, one at least sees the other.
 */
static int
claim_try(const struct directory *directory, const struct lock *lock)
{
	int error;

	if (!directory->claims)
		return 0;
	error = byte_try(directory->fd, F_RDLCK, claim_byte(lock, lock->shared), 1);
	if (!error && (claim_is_held(directory, lock, false) ||
	               (!lock->shared && claim_is_held(directory, lock, true))))
		error = EAGAIN;
	if (error)
		claim_drop(directory, lock);
	return error;
}

/*
 * Wait until a signal comes or it is `until`, but not longer than about 50 ms,
 * which differs from process to process, so that two do not keep step.
 */
static int
claim_sleep(nanoseconds until)
{
	nanoseconds pause = (20 + getpid() % 61) * MILLISECOND, left = until - now();
	struct timespec timeout = to_timespec(left < 0 ? 0 : left < pause ? left : pause);
	int error = waiting_begin();

	if (!error && !signals.caught)
		ppoll(NULL, 0, &timeout, &signals.wait_mask);
	return error ? error : signals.caught ? EINTR : 0;
}

/*
 * The highest ticket that others hold below `end`, 0 when there is none. "One
 * is held at x or above" is monotone in x, so this takes O(log n) calls.
 */
static off_t
highest_ticket(int fd, off_t end)
{
	off_t found = byte_held(fd, F_RDLCK, TICKETS, end);
	off_t stride = 1;

	if (found < 0)
		return 0;
	while (end - found > 1) {
		bool near = (end - found) / 2 < stride;
		off_t middle = near ? found + (end - found) / 2 : found + stride;
		off_t hit = byte_held(fd, F_RDLCK, middle, end);

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
		say("%s: %s: this kernel or file system has no open file description locks; "
		    "keylock needs Linux 3.15 or newer",
		    show(lock->key, shown), what);
	else
		say("%s: %s: %s", show(lock->key, shown), what, strerror(error));
	return REFUSED;
}

/* The mode of a new lockfile (rule 2). */
static mode_t
lockfile_mode(const struct directory *directory)
{
	mode_t mode = S_ISVTX | S_IRUSR | S_IWUSR;

	if (directory->mode & S_IWGRP)
		mode |= S_IRGRP | S_IWGRP;
	if (directory->mode & S_IWOTH)
		mode |= S_IROTH | S_IWOTH;
	return mode;
}

/* Make the lockfile. Returns its descriptor, or -1 and errno. */
static int
lockfile_make(const struct directory *directory, const char *name)
{
	int flags = LOCKFILE_FLAGS | O_CREAT | O_EXCL;
	struct stat file;
	mode_t came;
	int fd;

	if (!directory->is_open) /* to the rights of its owner hardly a umask objects */
		return openat(directory->fd, name, flags, lockfile_mode(directory));
	came = umask(0);
	fd = openat(directory->fd, name, flags, lockfile_mode(directory));
	umask(came);
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
	/* Where the group or mode of a new file is changed after it was made, it
	 * cannot be opened for that moment. */
	static const struct timespec moment = {.tv_nsec = 1000000};
	int chances = 50;
	int reopened = 0;
	mode_t mode = S_ISVTX; /* what it has at least */
	struct stat file;

	lock->watched = false;
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
			int status;

			if (reopened++ == 100) { /* no, it just takes no files */
				errno = ENOENT;
				break;
			}
			status = directory_open(directory);

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
		default:
			return lockfile_failure(directory, lock, status_of(errno), strerror(errno));
		}
	}
	if (fstat(lock->fd, &file) < 0)
		return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
	if (!S_ISREG(file.st_mode))
		return lockfile_failure(directory, lock, UNSAFE,
		                        "not safe: it is no regular file; remove it");
	lock->device = file.st_dev;
	lock->inode = file.st_ino;
	if (lock->made && !directory->is_open)
		mode = lockfile_mode(directory); /* whatever the umask */
	if (file.st_nlink == 1 && !directory->is_open && (file.st_mode & mode) != mode &&
	    fchmod(lock->fd, (file.st_mode & 07777) | mode) < 0) {
		/* Made by another program, for another user: rule 2 is not ours to keep. */
	}
	return 0;
}

/*
 * Whether the open lockfile still bears its name: 0; ESTALE when not; or, where that
 * cannot be told, an exit status as a negative number, and has said why.
 */
static int
lockfile_recheck(const struct directory *directory, const struct lock *lock)
{
	struct stat named;

	if (fstatat(directory->fd, lock->name, &named, AT_SYMLINK_NOFOLLOW) == 0)
		return named.st_ino == lock->inode && named.st_dev == lock->device ? 0 : ESTALE;
	if (errno == ENOENT)
		return ESTALE;
	return -lockfile_failure(directory, lock, NO_FILE, strerror(errno));
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
 * Remove the lockfile where nobody has or awaits it, nobody has pinned it, and
 * nothing is written in it (see "Record"). Called by whoever leaves it, on a new
 * description `fd`, which is closed: one that a daemon of the command shares
 * would keep the gate closed if keylock were killed in here. What fails here
 * leaves a file to the next one, and does nobody harm; a stranger's file in a
 * sticky directory, which only its owner can unlink, stays.
 */
static void
lockfile_tidy(const struct directory *directory, const char *name, int fd)
{
	struct wait wait = {.deaf = true, .look_at = FOREVER};
	struct stat file, named;
	bool removed = false;
	int error;

	if (fd < 0)
		return;
	error = byte_try(fd, F_WRLCK, GATE, 1);
	if (error == EAGAIN && byte_held(fd, F_WRLCK, PRESENCE, 0) < 0) {
		wait.deadline = deadline_in(GATE_PATIENCE);
		error = byte_wait(fd, F_WRLCK, GATE, &wait);
	}
	if (!error && byte_held(fd, F_WRLCK, PRESENCE, 0) < 0 && fstat(fd, &file) == 0 &&
	    S_ISREG(file.st_mode) && !(file.st_mode & PINNED) &&
	    (file.st_size == 0 || find(name, "%s")) && /* a slot's has no record of ours */
	    flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    fstatat(directory->fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	    named.st_ino == file.st_ino && named.st_dev == file.st_dev)
		removed = unlinkat(directory->fd, name, 0) == 0;
	/* close(2) alone opens the gate a moment before it gives up the lock, and a
	 * newcomer would find taken what nobody has: of a file that has its name. */
	if (!removed)
		flock(fd, LOCK_UN);
	close(fd);
}

/* Another description of the lockfile, for tidying; -1 where there is none. */
static int
lockfile_again(const struct directory *directory, const char *name)
{
	return above_standard(openat(directory->fd, name, LOCKFILE_FLAGS));
}

/* Have a byte lock, waiting without a look around. Returns as wait_for() does. */
static int
byte_have(const struct lock *lock, short type, off_t start, const struct wait *wait)
{
	int error = byte_try(lock->fd, type, start, 1);
	struct wait bounded;

	if (error != EAGAIN)
		return error;
	bounded = *wait;
	bounded.look_at = FOREVER;
	return byte_wait(lock->fd, type, start, &bounded);
}

/* Enter the gate. Returns as wait_for() does. */
static int
gate_enter(const struct lock *lock, const struct wait *wait)
{
	return byte_have(lock, F_WRLCK, GATE, wait);
}

static void
gate_leave(const struct lock *lock)
{
	byte_try(lock->fd, F_UNLCK, GATE, 1);
}

/*
 * Become a holder for all to see. Returns as wait_for() does: nobody but a stranger
 * keeps us from these bytes.
 */
static int
presence_take(const struct lock *lock, const struct wait *wait)
{
	int error = byte_have(lock, F_RDLCK, PRESENCE, wait);

	if (error)
		return error;
	return byte_have(lock, F_RDLCK, (lock->shared ? SHARED_MARKS : MARKS) + getpid(), wait);
}

static int
flock_mode(const struct lock *lock)
{
	return lock->shared ? LOCK_SH : LOCK_EX;
}

/*
 * Draw the ticket above `last`, the highest held, or the first. Inside the gate.
 * Returns 0; ESTALE where only a stranger can be in the way; or another errno.
 */
static int
ticket_draw(struct lock *lock, off_t last)
{
	int error = ESTALE;

	lock->ticket = last ? last + 1 : TICKETS;
	lock->made = false; /* held later than made */
	if (lock->ticket < MARKS)
		error = byte_try(lock->fd, F_WRLCK, lock->ticket, 1);
	return error == EAGAIN ? ESTALE : error;
}

/*
 * Wait, with a ticket, until none below it is held. `locks` are what is waited
 * for, to look at. Returns 0; as wait_for() does; or a result of `look` as a
 * negative number.
 */
static int
turn_await(const struct lock *lock, struct wait *wait, struct lock *locks, size_t count,
           size_t *covered)
{
	for (;;) {
		off_t ahead = 0;
		int error;

		if (now() >= wait->look_at) {
			int result = wait->look(wait, locks, count, covered);

			if (result)
				return -result;
		}
		/* Most often the one before us is still there. */
		if (byte_held(lock->fd, F_RDLCK, lock->ticket - 1, lock->ticket) >= TICKETS)
			ahead = lock->ticket - 1;
		else
			ahead = highest_ticket(lock->fd, lock->ticket);
		if (!ahead)
			return 0;
		error = byte_wait(lock->fd, F_RDLCK, ahead, wait);
		byte_try(lock->fd, F_UNLCK, ahead, 1);
		if (error && error != EBUSY)
			return error;
	}
}

/*
 * Wait, with a ticket, for our turn and then for the lock; become a holder and
 * give the ticket back. Returns as turn_await() does.
 */
static int
lock_await(struct lock *lock, struct wait *wait)
{
	struct request wish = {.fd = lock->fd, .flock = flock_mode(lock)};
	size_t covered;
	int error;

	do {
		error = turn_await(lock, wait, lock, 1, &covered);
		if (!error)
			error = wait_for(&wish, wait);
	} while (error == EBUSY);
	if (!error)
		error = presence_take(lock, wait);
	if (!error)
		byte_try(lock->fd, F_UNLCK, TICKETS, MARKS - TICKETS);
	return error;
}

/*
 * Take the lock of the open lockfile, or a place in its queue and then the
 * lock. Returns as lock_await() does; EAGAIN when it is taken and we do not
 * wait.
 */
static int
lock_take(struct lock *lock, struct wait *wait)
{
	struct request at_once = {.fd = lock->fd, .flock = flock_mode(lock)};
	int error = gate_enter(lock, wait);
	off_t last;

	/* On a busy machine a crowd may keep the gate closed: -n then tries without.
	 * What that costs is that it may find the lock in the hands of one who only
	 * tidies; what keeps "alone" is the lock and the look at the name. */
	if (error && !(error == ETIMEDOUT && wait->nonblock))
		return error;
	last = highest_ticket(lock->fd, MARKS);
	error = last ? EAGAIN : request(&at_once, false);
	if (!error) {
		error = presence_take(lock, wait);
	} else if (error == EAGAIN && !wait->nonblock) {
		error = ticket_draw(lock, last);
		gate_leave(lock);
		return error ? error : lock_await(lock, wait);
	}
	gate_leave(lock);
	return error;
}

/* Whether the time for the acquisition is over. */
static bool
is_late(const struct wait *wait)
{
	return wait->deadline != FOREVER && now() >= wait->deadline;
}

/*
 * What has become of the acquisition of `lock` that left with `error`: 0 and a
 * lock that is held, or covered by an ancestor's; else TAKEN, CAUGHT or another
 * result, which has been said, and all is given back.
 */
static int
lock_result(const struct directory *directory, struct lock *lock, int error)
{
	struct stat file;
	int result;

	if (error == -COVERED) {
		lock->nested = true;
		error = 0;
	}
	if (!error && !signals.caught) {
		/* Held since now, unless others hold it along with us. A file that
		 * has a second name may be a stranger's, whose times are not ours. */
		if (!lock->made && !lock->nested &&
		    !(lock->shared && byte_held(lock->fd, F_WRLCK, PRESENCE, PRESENCE + 1) >= 0) &&
		    fstat(lock->fd, &file) == 0 && file.st_nlink == 1)
			futimens(lock->fd, NULL);
		return 0;
	}
	if (signals.caught)
		result = CAUGHT;
	else if (error == EAGAIN || error == ETIMEDOUT)
		result = TAKEN;
	else if (error < 0)
		result = -error;
	else
		result = lock_refused(lock, "cannot be locked", error);
	claim_drop(directory, lock);
	lockfile_close(lock);
	lockfile_tidy(directory, lock->name, lockfile_again(directory, lock->name));
	return result;
}

/*
 * After a stranger was seen to be in the way: a moment of waiting, with nothing held
 * that others wait for. Returns 0 to try again; as wait_for() does; or -UNSAFE, and
 * says so, where we may be in the way of ourselves: an ancestor holds, or one who
 * waits for us does.
 */
static int
retry_later(const struct lock *lock, struct wait *wait, const char *why)
{
	char shown[SHOWN_SIZE];

	if (!wait->hindered)
		wait->hindered = now();
	if (is_late(wait))
		return ETIMEDOUT;
	if ((wait->holding || getenv("KEYLOCK_KEY")) && now() >= wait->hindered + SECOND) {
		say("%s: not safe: %s", show(lock->key, shown), why);
		return -UNSAFE;
	}
	return claim_sleep(wait->deadline);
}

static const char robbed[] = "its file was removed while it is held";
static const char barred[] = "another program's locks are on its file";

/*
 * Acquire the lock of lock->key: open its file, take the lock, and see that the
 * file is still the one that bears the name. Returns as lock_result() does.
 */
static int
lock_acquire(struct directory *directory, struct lock *lock, struct wait *wait)
{
	size_t covered;
	int error;

	for (;;) {
		const char *why = NULL; /* to begin again in a moment */
		int renamed;

		error = -lockfile_open(directory, lock);
		if (error)
			break;
		error = lock_take(lock, wait);
		if (error == ESTALE)
			why = barred;
		if (!error) {
			error = claim_try(directory, lock);
			if (error == EAGAIN && !wait->nonblock)
				why = robbed;
		}
		if (error && error != EAGAIN && !why)
			break;
		/* "Taken" too is only true of the file that bears the name. */
		renamed = lockfile_recheck(directory, lock);
		if (renamed < 0)
			error = renamed;
		if (renamed < 0 || (!renamed && !why))
			break;
		claim_drop(directory, lock);
		lockfile_close(lock);
		error = why ? retry_later(lock, wait, why) : 0;
		if (!error && !wait->nonblock && is_late(wait))
			error = ETIMEDOUT;
		if (error)
			break;
	}
	if (error == EAGAIN && wait->reentrant) {
		int result = wait->look(wait, lock, 1, &covered);

		error = result ? -result : EAGAIN;
	}
	return lock_result(directory, lock, error);
}

/*
 * Before a holder lets an exclusive lock go: wait until the nested runs that it
 * covers have ended, and let no other in, on the description `fd`. Returns
 * whether that is so; not when a signal ends the wait. At first none is let in: it
 * may only be a holder before us, who is still leaving.
 */
static bool
guests_leave(int fd)
{
	struct wait wait = {.deaf = true, .look_at = FOREVER};
	int error = byte_try(fd, F_WRLCK, GUESTS, 1);

	if (error == EAGAIN) {
		wait.deadline = deadline_in(GATE_PATIENCE);
		error = byte_wait(fd, F_WRLCK, GUESTS, &wait);
	}
	wait.deaf = false;
	wait.deadline = FOREVER;
	while (error == ETIMEDOUT || (error == EINTR && is_stop_signal(signals.caught))) {
		if (error == EINTR)
			stop_caught();
		error = byte_wait(fd, F_WRLCK, GUESTS, &wait);
	}
	return error != EINTR;
}

/*
 * Let the lock go: for everybody at once, also while a daemon that the command
 * left behind has the description. With `linger`, or when a signal ends the wait
 * for nested runs, it lasts until the last process that inherited it has ended.
 */
static void
lock_release(const struct directory *directory, struct lock *lock, bool linger)
{
	/* A new description, since a daemon that shares ours would keep the guests
	 * out of what comes after if keylock were killed in here. */
	int again = lockfile_again(directory, lock->name);
	struct stat file;

	/* The guests are at our file. */
	if (again >= 0 && fstat(again, &file) == 0 &&
	    (file.st_ino != lock->inode || file.st_dev != lock->device)) {
		close(again);
		again = -1;
	}
	if (!linger &&
	    (lock->shared || lock->nested || guests_leave(again < 0 ? lock->fd : again))) {
		char shown[SHOWN_SIZE];
		struct request unlock = {.fd = lock->fd, .flock = LOCK_UN};
		int error;

		/* First the claim, or the next would see it. */
		claim_drop(directory, lock);
		error = request(&unlock, false);
		if (error)
			say("%s: cannot be let go: %s", show(lock->key, shown), strerror(error));
		byte_try(lock->fd, F_UNLCK, 0, ALL_BYTES);
	}
	lockfile_close(lock);
	if (again < 0) /* no descriptor was free */
		again = lockfile_again(directory, lock->name);
	lockfile_tidy(directory, lock->name, again);
}

/* ---- Record -------------------------------------------------------------
 *
 * With -A or -R the lockfile holds a record while an exclusive holder runs: one
 * line of RECORD_SIZE bytes, blanks before its newline,
 *
 *     keylock1 pid=812 since=2026-11-24T23:26:16Z cause=killed command=charge.sh
 *
 * written by one pwrite(2) and on disk before the command starts. It says what
 * became of the command if nobody can change it any more: keylock was killed. A
 * command that ends by itself ends it; a signal or an exit status that means one
 * leaves it with that cause. Whatever else is found in the file counts as a
 * record that cannot be read, never as none.
 */

enum { RECORD_SIZE = 192, CAUSE_SIZE = 16 };

struct record {
	bool found;            /* one was left when the lock was acquired */
	bool written;          /* one of our own is in the file */
	off_t old_size;        /* of what was found */
	char old[RECORD_SIZE]; /* its beginning */
	char own[RECORD_SIZE + 1];
	char since[sizeof("2026-11-24T23:26:16Z")];
};

/*
 * Write a time of CLOCK_REALTIME as RFC 3339 has it, in UTC; what lies before 1970
 * or after 9999, as a file's time may, as the nearest that does not.
 */
static const char *
date_text(time_t time, char text[sizeof("2026-11-24T23:26:16Z")])
{
	static const time_t last = 253402300799;
	struct tm parts = {0};

	time = time < 0 ? 0 : time > last ? last : time;
	gmtime_r(&time, &parts);
	compose(text, sizeof("2026-11-24T23:26:16Z"), "%04d-%02d-%02dT%02d:%02d:%02dZ",
	        parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
	        parts.tm_sec);
	return text;
}

/* Compose our record with `cause` in record->own. */
static void
record_compose(struct record *record, const char *cause, const char *command)
{
	const char *slash = strrchr(command, '/');
	char shown[SHOWN_SIZE];
	size_t used = compose(record->own, sizeof(record->own),
	                      "keylock1 pid=%ld since=%s cause=%s command=%s", (long)getpid(),
	                      record->since, cause, show(slash ? slash + 1 : command, shown));

	if (used > RECORD_SIZE - 1) {
		used = RECORD_SIZE - 1;
		while (((unsigned char)record->own[used] & 0xc0) == 0x80)
			used--; /* no half a character */
	}
	memset(record->own + used, ' ', RECORD_SIZE - 1 - used);
	record->own[RECORD_SIZE - 1] = '\n';
	record->own[RECORD_SIZE] = '\0';
}

/*
 * Write what the record says to `text`, "pid=… since=… cause=… command=…", from
 * the `length` bytes of the file; with cause=unreadable where they are no
 * record. `text` holds one line without control characters in any case.
 */
static void
record_text(const char *bytes, size_t length, char text[RECORD_SIZE])
{
	static const char *const fields[] = {"keylock1 pid=", " since=", " cause=", " command="};
	const char *rest;
	size_t count = 0;

	compose(text, RECORD_SIZE, "pid=? since=? cause=unreadable command=?");
	if (length != RECORD_SIZE || bytes[RECORD_SIZE - 1] != '\n')
		return;

	char line[RECORD_SIZE], shown[SHOWN_SIZE];
	size_t end = RECORD_SIZE - 1;

	memcpy(line, bytes, end);
	while (end && line[end - 1] == ' ')
		end--;
	line[end] = '\0';
	if (strlen(line) != end || strcmp(show(line, shown), line) != 0)
		return;
	for (rest = line; count < 4; count++) {
		size_t name = strlen(fields[count]);

		if (strncmp(rest, fields[count], name) != 0)
			return;
		rest += name;
		if (count < 3) {
			size_t value = strcspn(rest, " ");

			if (!value || (count == 0 && strspn(rest, "0123456789") != value))
				return;
			rest += value;
		}
	}
	compose(text, RECORD_SIZE, "%s", line + strlen("keylock1 "));
}

/* Read what is in the open lockfile. Returns 0, or an exit status and says why. */
static int
record_read(const struct directory *directory, const struct lock *lock, struct record *record)
{
	struct stat file;
	ssize_t length;

	if (fstat(lock->fd, &file) < 0)
		return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
	if (file.st_nlink != 1)
		return lockfile_failure(directory, lock, UNSAFE,
		                        "not safe to write to: it has another name; remove it");
	record->old_size = file.st_size;
	record->found = file.st_size > 0;
	if (!record->found)
		return 0;
	memset(record->old, 0, sizeof(record->old));
	length = pread(lock->fd, record->old, sizeof(record->old), 0);
	if (length < 0)
		return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
	return 0;
}

/* The text of the record that was found. */
static void
record_found_text(const struct record *record, char text[RECORD_SIZE])
{
	record_text(record->old, record->old_size == RECORD_SIZE ? RECORD_SIZE : 0, text);
}

/* Bring the lockfile's name to disk, and that of a directory that was made. */
static int
directory_sync(const struct directory *directory)
{
	static const char *const names[] = {".", ".."};

	for (size_t i = 0; i < (directory->made ? 2 : 1); i++) {
		int fd = openat(directory->fd, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		int error;

		if (fd < 0)
			return errno;
		error = fsync(fd) < 0 && errno != EINVAL ? errno : 0;
		close(fd);
		if (error)
			return error;
	}
	return 0;
}

/* Write all of `bytes` at the start of the file and bring it to disk. */
static int
record_put(int fd, const char *bytes, size_t length)
{
	ssize_t written = pwrite(fd, bytes, length, 0);

	if (written < 0)
		return errno;
	if ((size_t)written != length)
		return ENOSPC;
	return fdatasync(fd) < 0 && errno != EINVAL ? errno : 0;
}

/* Bring the file back to what was found in it. Returns 0 or an errno. */
static int
record_restore(const struct lock *lock, const struct record *record)
{
	size_t old = record->old_size < RECORD_SIZE ? (size_t)record->old_size : RECORD_SIZE;

	if (ftruncate(lock->fd, record->old_size) < 0)
		return errno;
	return record_put(lock->fd, record->old, old);
}

/*
 * Write our record before the command starts. What was found stays behind it
 * where it is longer, so that it can be restored. Returns 0, or NO_FILE and
 * says why; the file is then as it was, as far as that can be had.
 */
static int
record_write(const struct directory *directory, const struct lock *lock, struct record *record,
             const char *command)
{
	int error;

	date_text(time(NULL), record->since);
	record_compose(record, "killed", command);
	error = record_put(lock->fd, record->own, RECORD_SIZE);
	if (!error && !record->found)
		error = directory_sync(directory);
	if (error) {
		record_restore(lock, record);
		return lockfile_failure(directory, lock, NO_FILE, strerror(error));
	}
	record->written = true;
	return 0;
}

/*
 * Settle our record: end it, or with `cause` leave it, or where the command was
 * not executed bring back what was found. Only where it is still ours: a
 * descendant may have unlocked the description that it shares with us, and
 * somebody else may hold the lock by now. Says what fails.
 */
static void
record_settle(const struct directory *directory, const struct lock *lock, struct record *record,
              bool ran, const char *cause, const char *command)
{
	char there[RECORD_SIZE];
	int error = 0;

	if (!record->written)
		return;
	record->written = false;
	if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return;
		error = errno;
	} else {
		ssize_t length = pread(lock->fd, there, RECORD_SIZE, 0);

		if (length >= 0 &&
		    (length != RECORD_SIZE || memcmp(there, record->own, RECORD_SIZE) != 0))
			return;
		error = length < 0 ? errno : 0;
	}
	if (error) {
		/* It stays, and the next is told. */
	} else if (!ran) {
		error = record_restore(lock, record);
	} else if (cause) {
		record_compose(record, cause, command);
		error = record_put(lock->fd, record->own, RECORD_SIZE);
		if (!error && record->old_size > RECORD_SIZE &&
		    ftruncate(lock->fd, RECORD_SIZE) < 0)
			error = errno;
	} else if (ftruncate(lock->fd, 0) < 0 || (fdatasync(lock->fd) < 0 && errno != EINVAL)) {
		error = errno;
	}
	if (error)
		lockfile_failure(directory, lock, NO_FILE, strerror(error));
}

/* ---- Slots --------------------------------------------------------------
 *
 * With -j N up to N hold a key at once, each with the lock of one of N files:
 * the key's own, and N-1 with a number behind their name. The tickets of the
 * first file are the queue of all; whoever is first in it, or comes while it is
 * empty, tries each slot under that slot's gate. The first in line keeps the
 * slots' files open between its tries, since closing them would wake it, and
 * sleeps on inotify(7) until somebody closes one:
 *
 *  - who releases a slot opens its file, for tidying, before it unlocks and closes
 *    it after: so the event comes after the unlocking, also where a daemon keeps
 *    the holder's description or keylock is killed in between;
 *  - the event of a holder that is killed comes before the kernel has let its
 *    lock go (fs/file_table.c, __fput), and is the only one: so after an event
 *    the tries are repeated for a while.
 */

/* Closing it takes the kernel milliseconds (synchronize_srcu), in which the next
 * in line would wait: it is done while the command runs. */
static int slots_events = -1;

static const nanoseconds SLOT_PERSISTENCE = 100 * MILLISECOND;
static const nanoseconds SLOT_POLL = 50 * MILLISECOND;

/* Name slot `number` of the key, from 1. */
static void
slot_name(char name[NAME_SIZE], const char *base, int number)
{
	if (number == 1)
		compose(name, NAME_SIZE, "%s", base);
	else
		compose(name, NAME_SIZE, "%s%%s%d", base, number);
}

/*
 * Who leaves a slot leaves the first file, too, whose queue it has used; and where
 * nobody is there, the files of slots whose holders were killed, which nobody may
 * come to again: the lowest slot that is free is taken.
 */
static void
slots_tidy(const struct directory *directory, const struct lock *lock)
{
	char base[NAME_SIZE], name[NAME_SIZE];
	bool busy;
	int first;

	if (lock->slots < 2)
		return;
	name_of_key(lock->key, base);
	first = lockfile_again(directory, base);
	busy = first >= 0 && byte_held(first, F_WRLCK, PRESENCE, 0) >= 0;
	lockfile_tidy(directory, base, first);
	for (int number = 2; number <= lock->slots && !busy; number++) {
		slot_name(name, base, number);
		if (strcmp(name, lock->name) != 0)
			lockfile_tidy(directory, name, lockfile_again(directory, name));
	}
}

/*
 * Try to take the lock of a slot whose file is open, inside its gate. Returns 0,
 * EAGAIN when it is taken, or another errno; then nothing is kept.
 */
static int
slot_take(const struct directory *directory, const struct lock *slot, struct wait *wait)
{
	struct request at_once = {.fd = slot->fd, .flock = LOCK_EX};
	int error = request(&at_once, false);

	if (error)
		return error;
	error = presence_take(slot, wait);
	if (!error)
		error = claim_try(directory, slot);
	wait->robbed = wait->robbed || error == EAGAIN;
	if (error) {
		flock(slot->fd, LOCK_UN);
		byte_try(slot->fd, F_UNLCK, PRESENCE, ALL_BYTES);
	}
	return error;
}

/*
 * Try to acquire one slot, whose file is opened where it is not. Inside the gate
 * of the first file (`gated`) that is not entered again. Returns 0, EAGAIN when
 * it is taken, another errno, or a result as a negative number.
 */
static int
slot_try(struct directory *directory, struct lock *slot, struct wait *wait, bool gated)
{
	for (;;) {
		int error = 0, renamed;

		if (slot->fd < 0)
			error = -lockfile_open(directory, slot);
		if (error)
			return error;
		/* A holder: no need to disturb anybody. */
		if (byte_held(slot->fd, F_WRLCK, PRESENCE, PRESENCE + 1) >= 0)
			error = EAGAIN;
		else if (!gated)
			error = gate_enter(slot, wait);
		if (error == ETIMEDOUT && wait->nonblock)
			error = 0; /* without the gate, as in lock_take() */
		if (!error) {
			error = slot_take(directory, slot, wait);
			if (!gated)
				gate_leave(slot);
		}
		if (error && error != EAGAIN)
			return error;
		renamed = lockfile_recheck(directory, slot);
		if (renamed <= 0)
			return renamed ? renamed : error;
		claim_drop(directory, slot);
		if (gated)
			return ESTALE; /* the queue's own file: begin again */
		lockfile_close(slot);
		if (!wait->nonblock && is_late(wait))
			return ETIMEDOUT;
	}
}

/* Try all slots. Returns as slot_try(); *taken is the one that was had. */
static int
slots_try(struct directory *directory, struct lock *slots, size_t count, struct wait *wait,
          bool gated, size_t *taken)
{
	int error = EAGAIN;

	for (size_t i = 0; i < count && error == EAGAIN; i++) {
		error = slot_try(directory, &slots[i], wait, gated && i == 0);
		*taken = i;
	}
	return error;
}

/*
 * Watch the slots' files for being closed, those not yet watched. Returns how
 * many were added, or -1 where that cannot be had.
 */
static int
slots_watch(int events, struct lock *slots, size_t count)
{
	int added = 0;

	for (size_t i = 0; i < count; i++) {
		char path[64];

		if (slots[i].watched)
			continue;
		/* By descriptor: the name may be another file's by now. */
		compose(path, sizeof(path), "/proc/self/fd/%d", slots[i].fd);
		if (inotify_add_watch(events, path, IN_CLOSE) < 0)
			return -1;
		slots[i].watched = true;
		added++;
	}
	return added;
}

/*
 * Sleep until an event comes or it is `until`, with signals let in by the same
 * step (ppoll(2)). Returns 0 and sets *woken where an event came; EINTR when a
 * signal did (signals.caught); else an errno.
 */
static int
slots_sleep(int events, nanoseconds until, bool *woken)
{
	struct pollfd ready = {.fd = events, .events = POLLIN};
	nanoseconds left = until == FOREVER ? 0 : until - now();
	struct timespec timeout = to_timespec(left > 0 ? left : 0);
	char ignored[4096]; /* which slot it was does not matter: all are tried */
	int error = waiting_begin();

	*woken = false;
	if (error)
		return error;
	if (!signals.caught &&
	    ppoll(&ready, 1, until == FOREVER ? NULL : &timeout, &signals.wait_mask) < 0 &&
	    errno != EINTR)
		return errno;
	while (events >= 0 && read(events, ignored, sizeof(ignored)) > 0)
		*woken = true;
	return signals.caught ? EINTR : 0;
}

/* Close the inotify descriptor of slots_await(), when there is time for it. */
static void
slots_unwatch(void)
{
	if (slots_events >= 0)
		close(slots_events);
	slots_events = -1;
}

/*
 * First in line: try the slots whenever one may have become free, until one is
 * had. Returns as slots_try() does, and ETIMEDOUT or EINTR as wait_for() does.
 */
static int
slots_await(struct directory *directory, struct lock *slots, size_t count, struct wait *wait,
            size_t *taken)
{
	slots_unwatch(); /* that of a key before this one */
	int events = above_standard(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
	nanoseconds persist = 0; /* until when to try again without an event */
	nanoseconds pause = MILLISECOND;
	int error;

	for (;;) {
		nanoseconds until = wait->deadline < wait->look_at ? wait->deadline : wait->look_at;
		nanoseconds retry = FOREVER;
		int added = 0;
		bool woken;

		wait->robbed = false;
		error = slots_try(directory, slots, count, wait, false, taken);
		if (error == EAGAIN && wait->robbed) {
			/* No event will tell its end: begin again, at the end of the line. */
			error = retry_later(slots, wait, robbed);
			error = error ? error : ESTALE;
		}
		if (error != EAGAIN)
			break;
		if (events >= 0 && (added = slots_watch(events, slots, count)) < 0) {
			close(events);
			events = -1;
		}
		if (added > 0) {
			/* What happened before the watch made no event for us. */
			persist = now() + SLOT_PERSISTENCE;
			continue;
		}
		if (is_late(wait)) {
			error = ETIMEDOUT;
			break;
		}
		if (now() >= wait->look_at) {
			error = -wait->look(wait, slots, count, taken);
			if (error)
				break;
			continue;
		}
		if (events < 0)
			retry = now() + SLOT_POLL;
		else if (now() < persist)
			retry = now() + pause;
		else if (directory->is_open)
			retry = now() + SECOND; /* who unlocks without closing makes no event */
		error = slots_sleep(events, retry < until ? retry : until, &woken);
		if (error)
			break;
		if (woken) {
			persist = now() + SLOT_PERSISTENCE;
			pause = MILLISECOND;
		} else {
			pause *= 2;
		}
	}
	slots_events = events;
	return error;
}

/*
 * Open the slots' files that are there and not yet open, so that it can be seen
 * who holds them.
 */
static void
slots_peek(const struct directory *directory, struct lock *slots, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct stat file;

		if (slots[i].fd >= 0)
			continue;
		slots[i].fd = lockfile_again(directory, slots[i].name);
		if (slots[i].fd >= 0 && fstat(slots[i].fd, &file) == 0) {
			slots[i].device = file.st_dev;
			slots[i].inode = file.st_ino;
		}
	}
}

/*
 * Take a slot, or a place in the queue of the open first file and then a slot.
 * Returns as slots_await() does; EAGAIN when all are taken and we do not wait.
 */
static int
slots_take(struct directory *directory, struct lock *queue, struct lock *slots, size_t count,
           struct wait *wait, size_t *taken)
{
	int error = gate_enter(queue, wait);

	if (error && !(error == ETIMEDOUT && wait->nonblock)) /* as lock_take() */
		return error;
	/* Here and not after a slot is had: inside the gate, and then by our ticket,
	 * the file keeps its name. */
	error = lockfile_recheck(directory, queue);
	if (error)
		return error;
	off_t last = highest_ticket(queue->fd, MARKS);

	error = last ? EAGAIN : slots_try(directory, slots, count, wait, true, taken);
	if (error != EAGAIN || wait->nonblock) {
		gate_leave(queue);
		return error;
	}
	error = ticket_draw(queue, last);
	byte_try(queue->fd, F_RDLCK, SLOT_WAITER, 1);
	gate_leave(queue);
	if (error == ESTALE) {
		error = retry_later(queue, wait, barred);
		return error ? error : ESTALE;
	}
	slots_peek(directory, slots, count);
	if (!error)
		error = turn_await(queue, wait, slots, count, taken);
	if (!error) {
		for (size_t i = 0; i < count; i++)
			slots[i].made = false; /* held later than made */
		error = slots_await(directory, slots, count, wait, taken);
	}
	return error;
}

/*
 * Acquire one of lock->slots slots. Returns as lock_result() does; lock->name is
 * then that of the slot's file.
 */
static int
slots_acquire(struct directory *directory, struct lock *lock, struct wait *wait)
{
	size_t count = (size_t)lock->slots, taken = 0;
	struct lock *slots = memory_resize(NULL, 0, count * sizeof(*slots));
	int error;

	if (!slots)
		return lock_refused(lock, "slots", ENOMEM);
	name_of_key(lock->key, lock->name); /* it may be that of a slot had before a stop */
	for (size_t i = 0; i < count; i++) {
		slots[i] = *lock;
		slot_name(slots[i].name, lock->name, (int)i + 1);
	}
	for (;;) {
		error = -lockfile_open(directory, lock);
		if (error)
			break;
		error = slots_take(directory, lock, slots, count, wait, &taken);
		if (error != ESTALE)
			break;
		lockfile_close(lock);
		for (size_t i = 0; i < count; i++)
			lockfile_close(&slots[i]);
		error = ETIMEDOUT;
		if (!wait->nonblock && is_late(wait))
			break;
	}
	if (error == EAGAIN && wait->reentrant) {
		slots_peek(directory, slots, count);
		int result = wait->look(wait, slots, count, &taken);

		error = result ? -result : EAGAIN;
	}
	if (!error || error == -COVERED) {
		lockfile_close(lock); /* the place in the queue */
		*lock = slots[taken];
		slots[taken].fd = -1;
	}
	for (size_t i = 0; i < count; i++) {
		if (slots[i].fd < 0)
			continue;
		lockfile_close(&slots[i]);
		if (slots[i].made) /* and another was quicker to take it, or to tidy */
			lockfile_tidy(directory, slots[i].name,
			              lockfile_again(directory, slots[i].name));
	}
	memory_free(slots, count * sizeof(*slots));
	error = lock_result(directory, lock, error);
	if (error)
		slots_tidy(directory, lock);
	return error;
}

/* ---- Several keys -------------------------------------------------------
 *
 * All or none, in the order of their files' names, so that two that want the
 * same keys never wait for each other.
 */

struct keys {
	struct lock *locks;
	struct record *records;
	size_t count;
};

static int
key_acquire(struct directory *directory, struct lock *lock, struct wait *wait)
{
	return lock->slots > 1 ? slots_acquire(directory, lock, wait)
	                       : lock_acquire(directory, lock, wait);
}

/* Let the first `count` keys go, the last one first. */
static void
keys_release(const struct directory *directory, struct keys *keys, size_t count, bool linger)
{
	while (count--) {
		lock_release(directory, &keys->locks[count], linger);
		slots_tidy(directory, &keys->locks[count]);
	}
}

/* Acquire all keys. Returns 0 or the result of the one that was not had. */
static int
keys_acquire_once(struct directory *directory, struct keys *keys, struct wait *wait, size_t *failed)
{
	for (size_t i = 0; i < keys->count; i++) {
		int result;

		wait->holding = i > 0;
		wait->look_at = 0;
		wait->hindered = 0;
		result = key_acquire(directory, &keys->locks[i], wait);
		if (result) {
			*failed = i;
			keys_release(directory, keys, i, false);
			return result;
		}
	}
	return 0;
}

/*
 * Acquire all keys, waiting as `wait` says. A stop signal gives every place and
 * key up, stops, and queues anew; the deadline stays. Returns 0, or a result
 * with *failed the key that was not had, and nothing is kept.
 */
static int
keys_acquire(struct directory *directory, struct keys *keys, struct wait *wait, size_t *failed)
{
	for (;;) {
		int result = keys_acquire_once(directory, keys, wait, failed);

		if (result)
			slots_unwatch();

		waiting_end();
		if (wait->turn >= 0) {
			lockfile_tidy(directory, wait->turn_name, wait->turn);
			wait->turn = -1;
		}
		if (!result && !signal_came())
			return 0;
		if (!result) {
			/* Whatever becomes of that signal, the keys are not ours any more. */
			keys_release(directory, keys, keys->count, false);
			result = CAUGHT;
		}
		if (result != CAUGHT || (signals.caught && !is_stop_signal(signals.caught)))
			return result;
		if (signals.caught) /* else giving back has stopped already */
			stop_caught();
	}
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
 * What /proc (proc(5)) tells of the processes that have a lockfile open. Only
 * for messages, for looking, and for finding deadlocks: no lock depends on it,
 * and what cannot be seen there (another user's process, another namespace, no
 * /proc) is left out.
 */

/* A process with a lockfile open, and what its description of it has. */
struct seat {
	pid_t pid;
	pid_t parent;
	int fd; /* its descriptor */
	dev_t device;
	ino_t inode;
	bool known;  /* what follows has been read */
	bool holds;  /* the lock, exclusively or shared */
	pid_t taker; /* who took it; 0: not known */
	bool shared;
	off_t ticket;    /* 0: none */
	bool for_slots;  /* waits for one of several slots */
	pid_t above[32]; /* the process and its ancestors, where climbed */
};

struct seats {
	struct seat *list;
	size_t count;
	size_t room;
};

/*
 * Read what fits of the file `path`, of /proc, as a string, into `text`.
 * Returns its length, or -1.
 */
static ssize_t
read_text(const char *path, char *text, size_t size)
{
	int fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t used = 0;
	ssize_t length = 0;

	if (fd < 0)
		return -1;
	while (used < size - 1 && (length = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)length;
	close(fd);
	text[used] = '\0';
	return length < 0 && used == 0 ? -1 : (ssize_t)used;
}

/*
 * The parent in the text of /proc/PID/stat, 0 where it cannot be told. The name
 * in it is in parentheses and may have any characters, so the last one counts.
 */
static pid_t
parent_in_stat(const char *text)
{
	const char *end = strrchr(text, ')');

	return end && strlen(end) >= 5 ? pid_at(end + 4) : 0;
}

static pid_t
parent_of(pid_t pid)
{
	char path[64], text[512];

	compose(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	return read_text(path, text, sizeof(text)) < 0 ? 0 : parent_in_stat(text);
}

/*
 * Take down in `seat` what one line of /proc/PID/fdinfo/FD tells of locks:
 * "lock:\t1: FLOCK  ADVISORY  WRITE 812 08:02:1234 0 EOF". Other lines, and
 * what does not look like one, change nothing.
 */
static void
seat_line(struct seat *seat, char *line)
{
	char *field[9] = {0};
	char *rest = line;
	size_t count = 0;

	while (count < 9) {
		rest += strspn(rest, " \t");
		if (!*rest)
			break;
		field[count++] = rest;
		rest += strcspn(rest, " \t");
		if (*rest)
			*rest++ = '\0';
	}
	if (count < 9 || strcmp(field[0], "lock:") != 0)
		return;
	if (strcmp(field[2], "FLOCK") == 0) {
		seat->holds = true;
		seat->shared = strcmp(field[4], "READ") == 0;
		seat->taker = pid_at(field[5]);
	} else if (strcmp(field[2], "OFDLCK") == 0) {
		int64_t start = number_at(field[7]);
		bool write = strcmp(field[4], "WRITE") == 0;

		if (write && start >= TICKETS && start < MARKS)
			seat->ticket = (off_t)start;
		if (!write && start == SLOT_WAITER)
			seat->for_slots = true;
	}
}

/* Take down all lines of a text of /proc/PID/fdinfo/FD; writes into it. */
static void
seat_text(struct seat *seat, char *text)
{
	while (*text) {
		char *line = text;

		text += strcspn(text, "\n");
		if (*text)
			*text++ = '\0';
		seat_line(seat, line);
	}
}

/* Add a seat; where there is no memory it is left out. */
static void
seats_add(struct seats *seats, const struct seat *seat)
{
	struct seat *list = list_grow(seats->list, sizeof(*list), seats->count + 1, &seats->room);

	if (!list)
		return;
	seats->list = list;
	seats->list[seats->count++] = *seat;
}

static void
seats_free(struct seats *seats)
{
	memory_free(seats->list, seats->room * sizeof(*seats->list));
}

/*
 * Add the seats of process `pid` at the lockfiles on `device`, or with `inode`
 * other than 0 at that one.
 */
static void
seats_of_process(struct seats *seats, pid_t pid, dev_t device, ino_t inode)
{
	struct entries fds;
	pid_t parent = 0;
	char path[64];

	compose(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	if (!entries_begin(&fds, AT_FDCWD, path))
		return;
	for (const struct dirent *entry; (entry = entries_next(&fds));) {
		struct seat seat = {.pid = pid};
		struct stat file;

		/* A lockfile is a regular file and sticky; most others are not. */
		if (fstatat(fds.fd, entry->d_name, &file, 0) < 0 || file.st_dev != device ||
		    !S_ISREG(file.st_mode) ||
		    (file.st_ino != inode && (inode || !(file.st_mode & S_ISVTX))))
			continue;
		if (!parent)
			parent = parent_of(pid);
		seat.parent = parent;
		seat.device = file.st_dev;
		seat.inode = file.st_ino;
		seat.fd = pid_at(entry->d_name);
		seats_add(seats, &seat);
	}
}

/* Find out what a seat has, which takes the kernel a while, unless it is known. */
static void
seat_learn(struct seat *seat)
{
	char path[96], text[4096];

	if (seat->known)
		return;
	seat->known = true;
	compose(path, sizeof(path), "/proc/%ld/fdinfo/%d", (long)seat->pid, seat->fd);
	if (read_text(path, text, sizeof(text)) >= 0)
		seat_text(seat, text);
}

/* Order seats by file, those of one file by process. */
static int
seats_compare(const void *one, const void *other)
{
	const struct seat *a = one, *b = other;

	if (a->inode != b->inode)
		return a->inode < b->inode ? -1 : 1;
	if (a->device != b->device)
		return a->device < b->device ? -1 : 1;
	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

/* All seats that can be seen at lockfiles on `device`, in order. */
static struct seats
seats_scan(dev_t device)
{
	struct seats seats = {0};
	struct entries processes;

	if (!entries_begin(&processes, AT_FDCWD, "/proc"))
		return seats;
	for (const struct dirent *entry; (entry = entries_next(&processes));) {
		pid_t pid = pid_at(entry->d_name);

		if (pid)
			seats_of_process(&seats, pid, device, 0);
	}
	if (seats.count)
		qsort(seats.list, seats.count, sizeof(*seats.list), seats_compare);
	return seats;
}

/* The seats at one file: their number, and *first the first of them. */
static size_t
seats_at(const struct seats *seats, dev_t device, ino_t inode, struct seat **first)
{
	const struct seat wanted = {.device = device, .inode = inode};
	size_t low = 0, high = seats->count, end;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (seats_compare(&seats->list[middle], &wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (end = low; end < seats->count && seats->list[end].inode == inode &&
	                seats->list[end].device == device;)
		end++;
	*first = seats->list + low;
	return end - low;
}

/* One file as a glance at its kernel locks shows it, without taking any. */
struct glance {
	dev_t device;
	ino_t inode;
	mode_t mode;
	off_t size;
	struct timespec since; /* modification time: when it was acquired */
	bool held;
	size_t waiting;
	size_t count;    /* of marks */
	off_t marks[64]; /* more holders than these are found in /proc */
};

/*
 * Count the bytes from `start` to before `end` that others hold against a lock
 * of `type`, and write the lowest `room` of them to `list`.
 */
static size_t
bytes_held(int fd, short type, off_t start, off_t end, off_t *list, size_t room)
{
	size_t count = 0;
	off_t hit, below;

	for (; start < end && (hit = byte_held(fd, type, start, end)) >= 0; start = hit + 1) {
		/* The kernel names any one of several. */
		while (hit > start && (below = byte_held(fd, type, start, hit)) >= 0)
			hit = below;
		if (count++ < room)
			list[count - 1] = hit;
	}
	return count;
}

/* Look at the open lockfile `fd`. Returns 0; ENOENT for what is none; or an errno. */
static int
glance_at(int fd, struct glance *glance)
{
	struct stat file;
	size_t room = sizeof(glance->marks) / sizeof(*glance->marks);

	if (fstat(fd, &file) < 0)
		return errno;
	if (!S_ISREG(file.st_mode))
		return ENOENT;
	glance->device = file.st_dev;
	glance->inode = file.st_ino;
	glance->mode = file.st_mode;
	glance->size = file.st_size;
	glance->since = file.st_mtim;
	glance->held = byte_held(fd, F_WRLCK, PRESENCE, PRESENCE + 1) >= 0;
	glance->waiting = bytes_held(fd, F_RDLCK, TICKETS, MARKS, NULL, 0);
	glance->count = bytes_held(fd, F_WRLCK, MARKS, INT64_MAX, glance->marks, room);
	if (glance->count > room)
		glance->count = room;
	return 0;
}

/*
 * Look at the lockfile `name`. Returns 0; ENOENT where there is none that we could
 * lock; else an errno.
 */
static int
glance_at_name(const struct directory *directory, const char *name, struct glance *glance)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	int fd = openat(directory->fd, name, flags);
	int error;

	if (fd < 0)
		return status_of(errno) == REFUSED || errno == EIO ? errno : ENOENT;
	error = glance_at(fd, glance);
	close(fd);
	return error;
}

static bool
mark_is_shared(off_t mark)
{
	return mark >= SHARED_MARKS;
}

static pid_t
mark_pid(off_t mark)
{
	return (pid_t)(mark - (mark_is_shared(mark) ? SHARED_MARKS : MARKS));
}

/* A process that holds a lock, and the one whose name says what for. */
struct holder {
	pid_t pid;
	pid_t command;
	bool shared;
};

/* Whether process `pid` took the lock of the file, and how. */
static bool
has_mark(const struct glance *glance, pid_t pid, bool *shared)
{
	for (size_t i = 0; i < glance->count; i++)
		if (mark_pid(glance->marks[i]) == pid) {
			*shared = mark_is_shared(glance->marks[i]);
			return true;
		}
	return false;
}

/*
 * Whether process `pid` has one of the `count` seats of the file, and holds. A
 * mark says so, too: in that case there is no need to learn what the seat has.
 */
static bool
holds_among(const struct glance *glance, struct seat *seats, size_t count, pid_t pid)
{
	bool shared;

	for (size_t i = 0; i < count; i++) {
		if (seats[i].pid != pid)
			continue;
		if (has_mark(glance, pid, &shared))
			return true;
		seat_learn(&seats[i]);
		if (seats[i].holds)
			return true;
	}
	return false;
}

/* Whether a seat has its lock by itself and not from a process that lives. */
static bool
holds_itself(const struct glance *glance, struct seat *seats, size_t count, struct seat *seat)
{
	bool shared;

	if (has_mark(glance, seat->pid, &seat->shared))
		return true;
	if (has_mark(glance, seat->parent, &shared) &&
	    holds_among(glance, seats, count, seat->parent))
		return false;
	seat_learn(seat);
	return seat->holds && !holds_among(glance, seats, count, seat->parent) &&
	       !(has_mark(glance, seat->taker, &shared) &&
	         holds_among(glance, seats, count, seat->taker));
}

/*
 * Who holds the file of `glance`: at most `room` of them to `list`; returns how
 * many there are. A holder is who took the lock, by its mark; where that one is
 * dead, who has inherited it and has no parent that has; and where nothing can
 * be seen of other users' processes, who took it and lives.
 */
static size_t
holders_of(const struct glance *glance, const struct seats *seats, struct holder *list, size_t room)
{
	struct seat *first;
	size_t here = seats_at(seats, glance->device, glance->inode, &first);
	size_t count = 0;
	pid_t last = 0; /* one process may have several seats, side by side */
	bool shared;

	for (size_t i = 0; i < here; i++) {
		struct seat *seat = &first[i];

		if (seat->pid == last || !holds_itself(glance, first, here, seat))
			continue;
		last = seat->pid;
		if (count++ >= room)
			continue;
		list[count - 1] = (struct holder){seat->pid, seat->pid, seat->shared};
		/* keylock, whose command says more than its own name. */
		for (size_t child = 0; child < here && has_mark(glance, seat->pid, &shared);
		     child++)
			if (first[child].parent == seat->pid)
				list[count - 1].command = first[child].pid;
	}
	for (size_t i = 0; i < glance->count && here == 0; i++) {
		pid_t pid = mark_pid(glance->marks[i]);
		char path[64];

		compose(path, sizeof(path), "/proc/%ld/fd", (long)pid);
		/* One that can be seen into would have been seen. */
		if ((kill(pid, 0) == 0 || errno == EPERM) && access(path, R_OK) < 0 &&
		    count++ < room)
			list[count - 1] =
			    (struct holder){pid, pid, mark_is_shared(glance->marks[i])};
	}
	return count;
}

/* The name of process `pid`, "?" where it cannot be told. */
static const char *
name_of_process(pid_t pid, char name[64])
{
	char path[64];

	compose(path, sizeof(path), "/proc/%ld/comm", (long)pid);
	if (read_text(path, name, 64) <= 0)
		return "?";
	name[strcspn(name, "\n")] = '\0';
	return name;
}

/* Write for how long `since` was, as "3m2s", to `age`. */
static const char *
age_text(nanoseconds age, char text[32])
{
	static const struct {
		int64_t seconds;
		char unit, finer;
		int64_t finer_seconds;
	} scales[] = {
	    {86400, 'd', 'h', 3600},
	    {3600, 'h', 'm', 60},
	    {60, 'm', 's', 1},
	};
	int64_t seconds = age / SECOND;

	for (size_t i = 0; i < sizeof(scales) / sizeof(*scales); i++)
		if (seconds >= scales[i].seconds) {
			compose(text, 32, "%lld%c%lld%c", (long long)(seconds / scales[i].seconds),
			        scales[i].unit,
			        (long long)(seconds % scales[i].seconds / scales[i].finer_seconds),
			        scales[i].finer);
			return text;
		}
	compose(text, 32, "%llds", (long long)seconds);
	return text;
}

/*
 * For how long a key has been held: since an acquirer set its file's modification
 * time; -1 where another program holds it, which sets none.
 */
static nanoseconds
age_of(const struct glance *glance)
{
	int64_t seconds = glance->since.tv_sec;

	if (!glance->held || seconds < 0 || seconds >= FOREVER / SECOND)
		return -1;
	return clock_now(CLOCK_REALTIME) - (seconds * SECOND + glance->since.tv_nsec);
}

enum { WHOSE_SIZE = 512 };

/*
 * Write who holds the file of `glance`, as "pid 812 (charge.sh), held for 3m2s",
 * to `text`; where that cannot be seen, "another process, held for 3m2s".
 */
static const char *
whose_text(const struct glance *glance, char text[WHOSE_SIZE])
{
	struct seats seats = seats_scan(glance->device);
	struct holder holder;
	size_t count = holders_of(glance, &seats, &holder, 1);
	char name[64], shown[SHOWN_SIZE], age[32];
	size_t used;

	seats_free(&seats);
	if (count)
		used = compose(text, WHOSE_SIZE, "pid %ld (%s)", (long)holder.pid,
		               show(name_of_process(holder.command, name), shown));
	else
		used = compose(text, WHOSE_SIZE, "another process");
	if (count > 1)
		used += compose(text + used, WHOSE_SIZE - used, " and %zu more", count - 1);
	if (age_of(glance) >= 0)
		compose(text + used, WHOSE_SIZE - used, ", held for %s",
		        age_text(age_of(glance), age));
	return text;
}

/* ---- Nesting ------------------------------------------------------------
 *
 * A run whose own ancestor holds the key would wait for itself. It is told so,
 * or with -r runs under the ancestor's lock: under an exclusive one as a guest,
 * with a read lock on a byte of its own, which the holder, before it lets the
 * lock go, takes exclusively. So a nested run that was left in the background
 * is still alone under the key, and none slips in while the holder leaves.
 */

/* How an ancestor holds a key. */
struct ancestor {
	bool holds;
	bool shared;
	bool proven; /* and not only said by a mark that others can make */
	pid_t pid;   /* 0: not known, but its descriptor was inherited */
};

/*
 * Whether process `pid` holds the lock of the file, as its mark says. The mark's
 * pid may be of another namespace, so where its descriptors can be seen they
 * decide. Where not, it is believed; but in a directory where others can make any
 * mark (`is_open`) only of a keylock, and not as a proof.
 */
static struct ancestor
process_holds(const struct lock *lock, pid_t pid, bool shared, bool is_open)
{
	struct ancestor ancestor = {.pid = pid, .shared = shared};
	struct seats seats = {0};
	char path[64], name[64];

	compose(path, sizeof(path), "/proc/%ld/fd", (long)pid);
	if (access(path, R_OK) < 0) {
		ancestor.proven = !is_open;
		ancestor.holds = !is_open || strcmp(name_of_process(pid, name), "keylock") == 0;
		return ancestor;
	}
	ancestor.proven = true;
	seats_of_process(&seats, pid, lock->device, lock->inode);
	for (size_t i = 0; i < seats.count && !ancestor.holds; i++) {
		seat_learn(&seats.list[i]);
		ancestor.holds = seats.list[i].holds;
		ancestor.shared = seats.list[i].shared;
	}
	seats_free(&seats);
	return ancestor;
}

/* This process, its ancestors, and the locks that it has inherited. */
struct lineage {
	pid_t pids[64];
	size_t count;
	struct seats inherited;
	bool related; /* there are signs that an ancestor holds some key */
};

/*
 * Find out the lineage, without the descriptors of `locks`, which are our own.
 * This process is part of it, since it may have become its ancestor (-F). The
 * caller frees inherited.list.
 */
static struct lineage
lineage_of(const struct lock *locks, size_t count)
{
	struct lineage lineage = {.pids = {getpid(), getppid()}, .count = 2};
	struct seats seats = {0};

	while (lineage.count < sizeof(lineage.pids) / sizeof(*lineage.pids)) {
		pid_t pid = lineage.pids[lineage.count - 1];
		char path[64], text[512];

		compose(path, sizeof(path), "/proc/%ld/stat", (long)pid);
		if (pid <= 0 || read_text(path, text, sizeof(text)) < 0)
			break;
		if (find(text, "(keylock)"))
			lineage.related = true;
		lineage.pids[lineage.count++] = parent_in_stat(text);
	}
	seats_of_process(&seats, getpid(), locks->device, 0);
	for (size_t i = 0; i < seats.count; i++) {
		bool own = false;

		for (size_t j = 0; j < count && !own; j++)
			own = seats.list[i].fd == locks[j].fd;
		if (own)
			continue;
		seat_learn(&seats.list[i]);
		if (seats.list[i].holds)
			seats_add(&lineage.inherited, &seats.list[i]);
	}
	seats_free(&seats);
	lineage.related = lineage.related || getenv("KEYLOCK_KEY") || lineage.inherited.count;
	return lineage;
}

/* Find the ancestor that holds the lock. */
static struct ancestor
ancestor_of(const struct lock *lock, const struct lineage *lineage, bool is_open)
{
	struct ancestor found = {0};

	for (size_t i = 0; i < lineage->count && lineage->pids[i] > 0; i++) {
		off_t mark = MARKS + lineage->pids[i], shared = SHARED_MARKS + lineage->pids[i];
		bool is_shared = byte_held(lock->fd, F_WRLCK, shared, shared + 1) >= 0;
		struct ancestor ancestor;

		if (!is_shared && byte_held(lock->fd, F_WRLCK, mark, mark + 1) < 0)
			continue;
		ancestor = process_holds(lock, lineage->pids[i], is_shared, is_open);
		if (ancestor.holds && ancestor.proven)
			return ancestor;
		if (ancestor.holds && !found.holds)
			found = ancestor;
	}
	for (size_t i = 0; i < lineage->inherited.count && !found.proven; i++)
		if (lineage->inherited.list[i].inode == lock->inode) {
			found.holds = found.proven = true;
			found.shared = lineage->inherited.list[i].shared;
		}
	return found;
}

/*
 * See whether an ancestor holds the lock, as *ancestor, and with `come` come under
 * it, past the queue. It cannot leave meanwhile, since the guests' byte is ours to
 * read; a holder before it that is still leaving is waited for first. Returns 0;
 * COVERED when we came under it; else as wait_for() does.
 */
static int
nest(struct lock *lock, const struct wait *wait, const struct lineage *lineage, bool come,
     struct ancestor *ancestor)
{
	bool is_open = wait->directory->is_open;
	struct wait bounded = *wait;
	int error;

	*ancestor = ancestor_of(lock, lineage, is_open);
	if (!ancestor->holds)
		return 0;
	bounded.look_at = FOREVER;
	error = byte_try(lock->fd, F_RDLCK, GUESTS, 1);
	if (error == EAGAIN)
		error = byte_wait(lock->fd, F_RDLCK, GUESTS, &bounded);
	if (!error) {
		struct lineage again = lineage_of(lock, 1);

		*ancestor = ancestor_of(lock, &again, is_open);
		seats_free(&again.inherited);
	}
	come = come && !error && ancestor->holds && ancestor->proven &&
	       (lock->shared || !ancestor->shared);
	if (come && ancestor->shared) {
		/* One of the holders. */
		if (flock(lock->fd, LOCK_SH | LOCK_NB) < 0)
			error = errno;
		else
			error = presence_take(lock, wait);
		if (!error)
			error = claim_try(wait->directory, lock);
	}
	if (come && !error) {
		byte_try(lock->fd, F_UNLCK, TICKETS, MARKS - TICKETS);
		if (ancestor->shared) /* a holder, and no guest */
			byte_try(lock->fd, F_UNLCK, GUESTS, 1);
		return COVERED;
	}
	byte_try(lock->fd, F_UNLCK, GUESTS, 1);
	return error;
}

/* Say for whom `lock` waits. */
static void
say_waiting(const struct lock *lock)
{
	struct glance glance = {0};
	char shown[SHOWN_SIZE], text[WHOSE_SIZE];

	if (glance_at(lock->fd, &glance) == 0)
		say("%s: waiting for %s", show(lock->key, shown), whose_text(&glance, text));
}

/* ---- Cycles -------------------------------------------------------------
 *
 * Commands that hold keys and wait for each other's would wait for ever. Who
 * waits for a second, and holds a key or descends from a holder, looks for a
 * way back to itself: from a waiter to who holds its key or is before it in
 * line, and from a holder to the waiters that are, or descend from, it. What is
 * seen in /proc is of no one moment, so a cycle counts only when all of it is
 * there in a second look: every link that is seen twice was there in between,
 * since nobody waits twice with one ticket. Of several who see it at once one
 * fails: they take turns at a byte of the cycle's first file, and look anew.
 */

/* A waiter, by its place among the seats, and what it waits for. */
struct link {
	struct seat waiter;
	struct seat blocker;
};

struct cycle {
	struct link *links; /* from our own wait on */
	size_t count;
};

/* Whether `waiter` cannot go on before `other` has left the same file. */
static bool
blocks(const struct seat *waiter, const struct seat *other)
{
	if (other->inode != waiter->inode || other->device != waiter->device ||
	    other->pid == waiter->pid)
		return false;
	return (other->holds && !waiter->for_slots) ||
	       (other->ticket && other->ticket < waiter->ticket);
}

/* Learn what all have, and for waiters which processes they are and descend from. */
static void
seats_climb(struct seats *seats)
{
	for (size_t i = 0; i < seats->count; i++) {
		struct seat *seat = &seats->list[i];
		pid_t pid = seat->pid;

		seat_learn(seat);
		for (size_t up = 0; up < sizeof(seat->above) / sizeof(*seat->above); up++) {
			if (!seat->ticket || pid <= 0)
				break;
			seat->above[up] = pid;
			pid = up ? parent_of(pid) : seat->parent;
		}
	}
}

static bool
is_below(const struct seat *seat, pid_t pid)
{
	for (size_t up = 0; up < sizeof(seat->above) / sizeof(*seat->above); up++)
		if (seat->above[up] == pid)
			return true;
	return false;
}

/* Whether the way goes on from `blocker`, which is before a waiter, to `next`. */
static bool
leads_to(const struct seat *blocker, const struct seat *next)
{
	if (!next->ticket)
		return false;
	if (blocker->ticket && !blocker->holds)
		return blocker->pid == next->pid && blocker->inode == next->inode;
	return is_below(next, blocker->pid);
}

/*
 * Find the shortest way from our own wait for `lock` back to it, breadth first.
 * cycle->count is 0 where there is none, or no memory.
 */
static struct cycle
cycle_find(const struct seats *seats, const struct lock *lock)
{
	struct cycle cycle = {0};
	struct step {
		size_t waiter, from, blocker; /* came from `from` because of `blocker` */
		bool seen;                    /* the seat of this number */
	} * steps;
	size_t size = (seats->count + 1) * sizeof(*steps);
	size_t count = 0, start = seats->count;

	for (size_t i = 0; i < seats->count; i++)
		if (seats->list[i].pid == getpid() && seats->list[i].ticket &&
		    seats->list[i].inode == lock->inode)
			start = i;
	steps = memory_resize(NULL, 0, size);
	if (!steps || start == seats->count)
		goto done;
	steps[count++].waiter = start;
	for (size_t at = 0; at < count && !cycle.count; at++) {
		const struct seat *waiter = &seats->list[steps[at].waiter];

		for (size_t b = 0; b < seats->count && !cycle.count; b++) {
			if (!blocks(waiter, &seats->list[b]))
				continue;
			for (size_t w = 0; w < seats->count && !cycle.count; w++) {
				if (steps[w].seen || !leads_to(&seats->list[b], &seats->list[w]))
					continue;
				steps[w].seen = true;
				steps[count].waiter = w;
				steps[count].from = at;
				steps[count].blocker = b;
				if (w == start)
					cycle.count = 1;
				else
					count++;
			}
		}
	}
	if (!cycle.count)
		goto done;
	for (size_t at = steps[count].from; at; at = steps[at].from)
		cycle.count++;
	cycle.links = memory_resize(NULL, 0, cycle.count * sizeof(*cycle.links));
	if (!cycle.links)
		cycle.count = 0;
	/* Backwards: each step names the blocker of the waiter before it. */
	for (size_t i = cycle.count, at = count; i--; at = steps[at].from)
		cycle.links[i] = (struct link){
		    .waiter = seats->list[steps[steps[at].from].waiter],
		    .blocker = seats->list[steps[at].blocker],
		};
done:
	memory_free(steps, size);
	return cycle;
}

/* Find in `seats` what `seat` was in an earlier look, or NULL. */
static const struct seat *
seat_again(const struct seats *seats, const struct seat *seat)
{
	struct seat *first;
	size_t here = seats_at(seats, seat->device, seat->inode, &first);

	for (size_t i = 0; i < here; i++)
		if (first[i].pid == seat->pid && first[i].ticket == seat->ticket &&
		    first[i].holds == seat->holds)
			return &first[i];
	return NULL;
}

/* Whether every link of the cycle is still there in a later look. */
static bool
cycle_persists(const struct cycle *cycle, const struct seats *seats)
{
	for (size_t i = 0; i < cycle->count; i++) {
		const struct link *next = &cycle->links[(i + 1) % cycle->count];

		if (!seat_again(seats, &cycle->links[i].waiter) ||
		    !seat_again(seats, &cycle->links[i].blocker) ||
		    !leads_to(&cycle->links[i].blocker, &next->waiter))
			return false;
	}
	return true;
}

/* Find the name of the lockfile with this inode; false where it has none. */
static bool
name_of_inode(const struct directory *directory, ino_t inode, char name[NAME_SIZE])
{
	struct entries entries;
	bool found = false;

	if (!entries_begin(&entries, directory->fd, "."))
		return false;
	for (const struct dirent *entry; (entry = entries_next(&entries));)
		if (entry->d_ino == inode && strlen(entry->d_name) < NAME_SIZE) {
			compose(name, NAME_SIZE, "%s", entry->d_name);
			found = true;
		}
	return found;
}

/* Say what waits for what. */
static void
say_cycle(const struct directory *directory, const struct lock *lock, const struct cycle *cycle)
{
	char text[MESSAGE_SIZE / 2];
	char shown[SHOWN_SIZE];
	size_t used = 0;

	for (size_t i = 0; i < cycle->count && used < sizeof(text) - 1; i++) {
		const struct seat *blocker = &cycle->links[i].blocker;
		char name[NAME_SIZE], key[NAME_SIZE] = "?";
		bool hashed;
		int slot;

		if (!name_of_inode(directory, blocker->inode, name) ||
		    !key_of_name(name, key, &slot, &hashed))
			compose(key, sizeof(key), "a key");
		size_t length =
		    compose(text + used, sizeof(text) - used, "%s%s %s by pid %ld",
		            i ? ", which waits for " : "", show(key, shown),
		            blocker->holds ? "held" : "awaited before it", (long)blocker->pid);
		used += length;
	}
	say("%s: waiting would never end: %s; lock keys in one order, or all at once with -k",
	    show(lock->key, shown), text);
}

/*
 * Look whether our wait for `lock` is part of a cycle. Returns ENDLESS where it
 * is and we are the one to fail; wait->turn is then kept until our places are
 * given back, so that the next to look finds the cycle broken.
 */
static int
cycle_look(struct wait *wait, const struct lock *lock)
{
	struct wait patience = {.look_at = FOREVER, .deadline = deadline_in(SECOND)};
	struct seats seats = seats_scan(lock->device);

	seats_climb(&seats);

	struct cycle cycle = cycle_find(&seats, lock);
	const struct seat *first = NULL;
	int result = 0;

	seats_free(&seats);
	for (size_t i = 0; i < cycle.count; i++)
		if (!first || seats_compare(&cycle.links[i].blocker, first) < 0)
			first = &cycle.links[i].blocker;
	if (!first || !name_of_inode(wait->directory, first->inode, wait->turn_name))
		goto done;
	wait->look_at = deadline_in(SECOND); /* unless it is all over now */
	wait->turn = lockfile_again(wait->directory, wait->turn_name);
	if (wait->turn < 0 || byte_wait(wait->turn, F_WRLCK, CYCLE, &patience))
		goto done;
	seats = seats_scan(lock->device);
	for (size_t i = 0; i < seats.count; i++)
		seat_learn(&seats.list[i]);
	if (cycle_persists(&cycle, &seats)) {
		say_cycle(wait->directory, lock, &cycle);
		result = ENDLESS;
	}
	seats_free(&seats);
done:
	memory_free(cycle.links, cycle.count * sizeof(*cycle.links));
	if (!result && wait->turn >= 0) {
		lockfile_tidy(wait->directory, wait->turn_name, wait->turn);
		wait->turn = -1;
	}
	return result;
}

/* Say that an ancestor holds the key. Returns ENDLESS. */
static int
nested(const struct wait *wait, const struct lock *lock, const struct ancestor *ancestor)
{
	char who[64] = "a descriptor that this process inherited";
	char shown[SHOWN_SIZE];

	if (ancestor->pid)
		compose(who, sizeof(who), "pid %ld, an ancestor of this process",
		        (long)ancestor->pid);
	if (wait->reentrant && !ancestor->proven)
		say("%s: waiting would never end: held by %s, which -r cannot see to hold it",
		    show(lock->key, shown), who);
	else if (wait->reentrant)
		say("%s: waiting would never end: held shared by %s, which does not cover an "
		    "exclusive lock",
		    show(lock->key, shown), who);
	else
		say("%s: waiting would never end: held by %s; -r runs under its lock",
		    show(lock->key, shown), who);
	return ENDLESS;
}

/*
 * Look around, as struct wait has it: at first whether an ancestor holds what we
 * are about to wait for; after a second for a cycle, and to tell a terminal.
 */
static int
look_around(struct wait *wait, struct lock *locks, size_t count, size_t *covered)
{
	bool first = wait->look_at == 0;
	struct lineage lineage;
	int result = 0;

	wait->look_at = FOREVER;
	if (!first) {
		if (isatty(STDERR_FILENO) && !wait->quiet && !wait->aloud)
			say_waiting(locks);
		return wait->holding || wait->related ? cycle_look(wait, locks) : 0;
	}
	lineage = lineage_of(locks, count);
	wait->related = lineage.related;
	for (size_t i = 0; i < count && !result; i++) {
		struct ancestor ancestor = {0};
		int error = 0;

		if (locks[i].fd >= 0)
			error = nest(&locks[i], wait, &lineage, wait->reentrant, &ancestor);
		*covered = i;
		/* An error, as of a signal, comes up again where it is looked at. */
		if (error == COVERED)
			result = COVERED;
		else if (!error && ancestor.holds)
			result = nested(wait, &locks[i], &ancestor);
	}
	seats_free(&lineage.inherited);
	if (result)
		return result;
	if (wait->nonblock)
		return 0;
	if (!wait->started)
		wait->started = now();
	if (wait->aloud)
		say_waiting(locks);
	if (wait->holding || wait->related || (!wait->quiet && isatty(STDERR_FILENO)))
		wait->look_at = deadline_in(SECOND);
	return 0;
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
	int claims;           /* the directory's, likewise, where it is claimed; or -1 */
	char *key_line;       /* KEYLOCK_KEY=…, or NULL */
	char *abandoned_line; /* KEYLOCK_ABANDONED=…, or NULL */
};

/* How a command ended, or that it was not run. */
struct ending {
	int status; /* the command's exit status, or keylock's own */
	int signal; /* that it died of, or 0 */
	bool ran;   /* the command was executed */
	int error;  /* errno, where it was not */
};

/*
 * Execute `file` with the arguments argv; where the kernel does not know its
 * format, as a script of /bin/sh, as execvp(3) of glibc does. Only returns on
 * failure, with errno set; writes argv[-1] then.
 */
static void
execute_file(char *file, char **argv, char **environment)
{
	static char shell[] = "/bin/sh";
	char *name = argv[0];

	execve(file, argv, environment);
	if (errno != ENOEXEC)
		return;
	argv[-1] = shell;
	argv[0] = file;
	execve(shell, argv - 1, environment);
	argv[0] = name;
}

/*
 * Execute argv[0], found along PATH as execvp(3) finds it, but that a directory
 * of PATH which this user may not search hides no command: what is nowhere else
 * is not found then, as a shell says too. Returns and writes as execute_file().
 */
static void
execute(char **argv, char **environment)
{
	const char *path = getenv("PATH");
	bool denied = false;

	if (strchr(argv[0], '/')) {
		execute_file(argv[0], argv, environment);
		return;
	}
	if (!path)
		path = "/bin:/usr/bin";
	for (;; path++) {
		int length = (int)strcspn(path, ":");
		char file[PATH_MAX];

		if (*argv[0] && compose(file, sizeof(file), "%.*s%s%s", length, path,
		                        length ? "/" : "", argv[0]) < sizeof(file)) {
			execute_file(file, argv, environment);
			if (errno == EACCES && access(file, F_OK) == 0)
				denied = true;
			else if (errno != EACCES && errno != ENOENT && errno != ENOTDIR)
				return;
		}
		path += length;
		if (!*path)
			break;
	}
	errno = denied ? EACCES : ENOENT;
}

static bool
is_own_variable(const char *entry)
{
	return strncmp(entry, "KEYLOCK_KEY=", strlen("KEYLOCK_KEY=")) == 0 ||
	       strncmp(entry, "KEYLOCK_ABANDONED=", strlen("KEYLOCK_ABANDONED=")) == 0;
}

/*
 * Become the command: give back mask and dispositions, keep the lock's
 * descriptor over the exec, and execute. Only returns on failure: the exit
 * status for it, with errno set.
 */
static int
become(const struct command *command, const struct sigaction *child_came)
{
	size_t count = 0, kept = 0;

	while (environ[count])
		count++;
	char *environment[count + 3];

	for (size_t i = 0; i < count; i++)
		if (!is_own_variable(environ[i]))
			environment[kept++] = environ[i];
	if (command->abandoned_line)
		environment[kept++] = command->abandoned_line;
	environment[kept] = command->key_line;
	environment[kept + 1] = NULL;

	for (size_t i = 0; i < command->count; i++)
		if (fcntl(command->locks[i].fd, F_DUPFD, FIRST_COMMAND_FD) < 0)
			return REFUSED;
	if (command->claims >= 0 && fcntl(command->claims, F_DUPFD, FIRST_COMMAND_FD) < 0)
		return REFUSED;
	if (child_came->sa_handler == SIG_IGN)
		sigaction(SIGCHLD, child_came, NULL);
	mask_change(SIG_SETMASK, &signals.came_mask, NULL);
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
 * Stop, as the command has by `signo`, until keylock is continued; but not when
 * the command has been continued meanwhile, by a SIGCONT to both that came a
 * moment too early for keylock. And not by SIGSTOP: in an orphaned process
 * group, where no shell would continue keylock, the kernel ignores the others,
 * and the key would stay taken when somebody continues the command alone.
 */
static void
stop_with(pid_t child, int signo)
{
	siginfo_t info = {.si_pid = 0};
	bool stop;

	if (signo == SIGSTOP)
		signo = SIGTSTP;
	stop = stop_begin(signo);
	if (waitid(P_PID, (id_t)child, &info, WCONTINUED | WNOHANG) == 0 && info.si_pid == child)
		stop = false;
	stop_end(signo, stop);
	if (continued)
		kill(child, SIGCONT);
}

/*
 * Wait for the command, passing signals on to it and stopping with it. Other
 * children, as process 1 of a container gets them, are reaped in passing.
 */
static struct ending
command_wait(pid_t child)
{
	struct ending ending = {0};
	sigset_t all = mask_all();

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
		while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) != 0) {
			if (pid < 0 && errno == ECHILD) /* somebody else took its status */
				return (struct ending){
				    .status = REFUSED, .ran = true, .error = ECHILD};
			if (pid != child) /* also after an error: no second signal comes */
				continue;
			if (WIFSTOPPED(status)) {
				stop_with(child, WSTOPSIG(status));
				continue;
			}
			if (WIFSIGNALED(status))
				ending.signal = WTERMSIG(status);
			else
				ending.status = WEXITSTATUS(status);
			ending.ran = true;
			return ending;
		}
	}
}

/*
 * Say why the command was not run. Not before the key is free: who reads standard
 * error may be slow.
 */
static void
say_not_run(const char *name, const struct ending *ending)
{
	char shown[SHOWN_SIZE];
	const char *why = strerror(ending->error);

	if (ending->ran)
		why = "its status was taken by another";
	else if (ending->status == REFUSED && ending->error == EINVAL)
		why = "no descriptor at 10 or above is free; see ulimit -n";
	else if (ending->status == NOT_FOUND && strchr(name, '/') && access(name, F_OK) == 0)
		why = "the interpreter that its first line names is not found";
	else if (ending->status == NOT_FOUND)
		why = "command not found";
	say("%s: %s", show(name, shown), why);
}

/* Does nothing: execve(2) gives its signal the default action back. */
static void
on_early_stop(int signo)
{
	(void)signo;
}

/*
 * In the child of vfork(2): do not stop before the exec, or keylock, which waits
 * for that, could not stop with us. What comes until then, keylock has got, too,
 * and sends again.
 */
static void
stop_later(void)
{
	static const int signos[] = {SIGTSTP, SIGTTIN, SIGTTOU};
	const struct sigaction handler = {.sa_handler = on_early_stop};

	for (size_t i = 0; i < sizeof(signos) / sizeof(*signos); i++) {
		struct sigaction came;

		if (sigaction(signos[i], &handler, &came) == 0 && came.sa_handler == SIG_IGN)
			sigaction(signos[i], &came, NULL);
	}
}

/*
 * Give the new command what the terminal sent to our group before it was part of
 * it, or while it could not yet stop.
 */
static void
forward_early(pid_t child)
{
	static const int signos[] = {SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU};
	sigset_t early = {0};
	int signo;

	for (size_t i = 0; i < sizeof(signos) / sizeof(*signos); i++)
		mask_add(&early, signos[i]);
	while ((signo = signal_take(&early)) != 0)
		kill(child, signo);
}

/* What the child of keylock is told, and what it says where it is not the command. */
struct start {
	const struct command *command;
	const struct sigaction *child_came;
	volatile int status, error;
};

static int
child_run(void *argument)
{
	struct start *start = argument;

	stop_later();
	start->status = become(start->command, start->child_came);
	start->error = errno;
	_exit(start->status);
}

/*
 * Start the child: until the exec it runs in this process's memory, so nothing is
 * copied for it, and it leaves word of a failure there; this process goes on after
 * that. musl's vfork(2) is a fork(2) on some machines, as on aarch64: clone(2) is not.
 */
static pid_t
child_start(struct start *start)
{
#ifdef __GLIBC__
	pid_t child = vfork();

	if (child == 0)
		child_run(start);
	return child;
#else
	size_t count = 0;

	while (environ[count])
		count++;
	/* Beside what become() makes of the environment. */
	enum { CHILD_STACK = 8 * PATH_MAX };
	char stack[CHILD_STACK + (count + 3) * sizeof(char *)];
	char *top = stack + sizeof(stack);

	return clone(child_run, top - (uintptr_t)top % 16, CLONE_VM | CLONE_VFORK | SIGCHLD, start);
#endif
}

/*
 * Run the command as a child and wait for its end, or run it in this process
 * with `in_place`.
 */
static struct ending
command_run(const struct command *command, bool in_place)
{
	static const struct sigaction by_default = {.sa_handler = SIG_DFL};
	struct sigaction child_came;
	struct start start = {.command = command, .child_came = &child_came};
	pid_t child;

	sigaction(SIGCHLD, NULL, &child_came);
	if (in_place) {
		start.status = become(command, &child_came);
		start.error = errno;
		signals_block();
		return (struct ending){.status = start.status, .error = start.error};
	}
	/* Were SIGCHLD ignored, the kernel would not keep the child's status. */
	if (child_came.sa_handler == SIG_IGN)
		sigaction(SIGCHLD, &by_default, NULL);
	child = child_start(&start);
	if (child < 0)
		return (struct ending){.status = REFUSED, .error = errno};
	if (start.status) {
		waitpid(child, NULL, 0);
		return (struct ending){.status = start.status, .error = start.error};
	}
	forward_early(child);
	slots_unwatch();
	/* As without keylock, the command alone decides when its input's writer
	 * and its output's reader see it closed; their numbers stay taken. */
	if (dup2(STDERR_FILENO, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
	}
	return command_wait(child);
}

/* ---- Hold ---------------------------------------------------------------
 *
 * Hold the key for a caller that has its own way to run what needs it, as a
 * process of another language has, until the caller closes our standard input
 * or dies, which closes it too.
 */

/* Write all of `text` to standard output. Returns 0, or REFUSED and says why. */
static int
print(const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(STDOUT_FILENO, text, length);

		if (written <= 0) {
			say("standard output: %s", strerror(errno));
			return REFUSED;
		}
		text += written;
		length -= (size_t)written;
	}
	return 0;
}

/*
 * Read standard input. Returns 1 where it goes on, 0 at its end, -1 where it cannot
 * be read; *done is whether the last line that came was `done`. `line` keeps the
 * beginning of a line between calls.
 */
static int
hold_read(char line[8], size_t *used, bool *done)
{
	char bytes[512];
	ssize_t count = read(STDIN_FILENO, bytes, sizeof(bytes));

	if (count < 0 && errno == EBADF) /* it came in closed */
		return 0;
	if (count < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -1;
	for (ssize_t i = 0; i < count; i++) {
		if (bytes[i] == '\n') {
			*done = *used == 4 && memcmp(line, "done", 4) == 0;
			*used = 0;
		} else if (*used < 8) {
			line[(*used)++] = bytes[i];
		}
	}
	return count > 0;
}

/*
 * Say `locked` and wait until standard input ends, standard output has no
 * reader, or a signal ends it. ran says that the key was held; cause, unless the
 * line `done` came last, why the caller counts as one that died.
 */
static struct ending
hold(const char **cause)
{
	struct ending ending = {.ran = true};
	char line[8];
	size_t used = 0;
	bool done = false;
	int error = waiting_begin();

	*cause = "input-ended";
	if (error) {
		say("timer: %s", strerror(error));
		return (struct ending){.status = REFUSED};
	}
	ending.status = print("locked\n", strlen("locked\n"));
	if (ending.status)
		ending.ran = false;
	slots_unwatch();
	while (!ending.status) {
		struct pollfd ends[] = {{.fd = STDIN_FILENO, .events = POLLIN},
		                        {.fd = STDOUT_FILENO}};
		int ready = 0;

		if (!signals.caught)
			ready = ppoll(ends, 2, NULL, &signals.wait_mask);
		if (is_stop_signal(signals.caught)) {
			stop_caught();
			waiting_begin();
			continue;
		}
		if (signals.caught) {
			*cause = "killed";
			ending.signal = signals.caught;
			break;
		}
		int more = ready >= 0 || errno == EINTR ? 1 : -1;

		if (ready > 0 && ends[0].revents)
			more = hold_read(line, &used, &done);
		if (more < 0) {
			say("standard input: %s", strerror(errno));
			ending.status = REFUSED;
		}
		if (!more || (ready > 0 && ends[1].revents & (POLLERR | POLLHUP | POLLNVAL)))
			break;
	}
	waiting_end();
	if (done && !ending.signal)
		*cause = NULL;
	return ending;
}

/* ---- Looking ------------------------------------------------------------
 *
 * What --list, --who and --path show. No lock is taken for it.
 */

/* Print the text and free it. Returns as print() does. */
static int
text_print(struct text *text)
{
	int status = REFUSED;

	if (text->failed)
		say("output: %s", strerror(ENOMEM));
	else
		status = print(text->bytes, text->used);
	memory_free(text->bytes, text->room);
	return status;
}

/*
 * Add a JSON string (RFC 8259). A byte that is no UTF-8 becomes the lone
 * surrogate \udcHH, as Python's surrogateescape has it, so that nothing is lost.
 */
static void
text_add_json(struct text *text, const char *string)
{
	const unsigned char *byte = (const unsigned char *)string;

	text_add(text, "\"");
	while (*byte) {
		size_t length = utf8_length(byte);

		if (length == 0) {
			text_add(text, "\\udc%02x", *byte);
			length = 1;
		} else if (*byte == '"' || *byte == '\\') {
			text_add(text, "\\%c", *byte);
		} else if (*byte < 0x20 || *byte == 0x7f) {
			text_add(text, "\\u%04x", *byte);
		} else {
			text_add(text, "%.*s", (int)length, (const char *)byte);
		}
		byte += length;
	}
	text_add(text, "\"");
}

/* One lockfile as it is listed. */
struct row {
	char name[NAME_SIZE];
	char key[NAME_SIZE];
	const char *whole_key; /* as it was asked for, or NULL */
	bool hashed;           /* key is no key but the name */
	int slot;
	struct glance glance;
	size_t first, count;      /* its holders among those of all rows */
	size_t command;           /* where that of the first of them is; 0: not known */
	char record[RECORD_SIZE]; /* of a key left in doubt, else empty */
};

struct rows {
	struct row *list;
	size_t count;
	size_t room;
	struct holder *holders; /* of all rows */
	size_t holder_count;
	size_t holder_room;
	struct text commands; /* each with its NUL; at first an empty one */
};

/*
 * Take down the file `name` where it is a lockfile, and one of `keys` if any.
 * Returns 0 or an errno.
 */
static int
rows_add(struct rows *rows, const struct directory *directory, const char *name, char **keys)
{
	struct row row = {.slot = 1}, *list;
	int error;

	if (!key_of_name(name, row.key, &row.slot, &row.hashed))
		return 0;
	compose(row.name, sizeof(row.name), "%s", name);
	for (char **key = keys; *key; key++) {
		char base[NAME_SIZE], wanted[NAME_SIZE];

		name_of_key(*key, base);
		slot_name(wanted, base, row.slot);
		if (strcmp(wanted, name) == 0)
			row.whole_key = *key;
	}
	if (*keys && !row.whole_key)
		return 0;
	error = glance_at_name(directory, name, &row.glance);
	if (error)
		return error == ENOENT ? 0 : error;
	list = list_grow(rows->list, sizeof(*list), rows->count + 1, &rows->room);
	if (!list)
		return ENOMEM;
	rows->list = list;
	rows->list[rows->count++] = row;
	return 0;
}

static int
rows_compare(const void *one, const void *other)
{
	return strcmp(((const struct row *)one)->name, ((const struct row *)other)->name);
}

/*
 * Take down the command line of process `pid`, its arguments with blanks between.
 * Returns where it is among the commands; 0 where it cannot be told, as of a zombie.
 */
static size_t
rows_add_command(struct rows *rows, pid_t pid)
{
	char path[64], text[4096];
	ssize_t length;
	size_t place;

	compose(path, sizeof(path), "/proc/%ld/cmdline", (long)pid);
	length = read_text(path, text, sizeof(text));
	if (length <= 0)
		return 0;
	for (ssize_t i = 0; i < length - 1; i++)
		if (!text[i])
			text[i] = ' ';
	if (!rows->commands.used)
		text_add(&rows->commands, "%c", '\0');
	place = rows->commands.used;
	text_add(&rows->commands, "%s%c", text, '\0');
	return rows->commands.failed ? 0 : place;
}

/* The command line of the first holder of a row, or NULL. */
static const char *
row_command(const struct rows *rows, const struct row *row)
{
	return row->command ? rows->commands.bytes + row->command : NULL;
}

/*
 * The value of field `name` ("pid=") in the text of a record, to `value`; NULL
 * where it is not known.
 */
static const char *
record_field(const char *record, const char *name, char value[RECORD_SIZE])
{
	const char *start = find(record, name);

	if (!start)
		return NULL;
	compose(value, RECORD_SIZE, "%s", start + strlen(name));
	if (strcmp(name, "command=") != 0)
		value[strcspn(value, " ")] = '\0';
	return strcmp(value, "?") == 0 ? NULL : value;
}

/* Read the record of a lockfile that nobody holds. */
static void
row_read_record(const struct directory *directory, struct row *row)
{
	char bytes[RECORD_SIZE + 1];
	int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	int fd = openat(directory->fd, row->name, flags);
	ssize_t length = fd < 0 ? 0 : pread(fd, bytes, sizeof(bytes), 0);

	if (fd >= 0)
		close(fd);
	record_text(bytes, length > 0 ? (size_t)length : 0, row->record);
}

/* Whether somebody holds the lockfile of a row, be it another program. */
static bool
row_held(const struct row *row)
{
	return row->glance.held || row->count > 0;
}

/* Find out who holds the lockfile of a row and with which command. */
static void
row_look(const struct directory *directory, struct rows *rows, struct row *row,
         const struct seats *seats)
{
	const struct row *before = row > rows->list ? row - 1 : NULL;
	struct holder *holders;
	pid_t of = 0;

	row->first = rows->holder_count;
	row->count = holders_of(&row->glance, seats, NULL, 0);
	holders = list_grow(rows->holders, sizeof(*holders), row->first + row->count + 1,
	                    &rows->holder_room);
	if (holders)
		rows->holders = holders;
	else
		row->count = 0;
	holders_of(&row->glance, seats, rows->holders + row->first, row->count);
	rows->holder_count += row->count;
	if (row->count)
		of = rows->holders[row->first].command;
	if (of && before && before->count && rows->holders[before->first].command == of)
		row->command = before->command; /* one process holds several keys */
	else if (of)
		row->command = rows_add_command(rows, of);
	if (of && !row->command)
		row->command = rows_add_command(rows, rows->holders[row->first].pid);
	if (!row_held(row) && row->glance.size)
		row_read_record(directory, row);
}

/* "held", "abandoned", "pinned", or NULL for what is on the point of going. */
static const char *
row_state(const struct row *row)
{
	if (row_held(row))
		return "held";
	if (*row->record)
		return "abandoned";
	return (row->glance.mode & PINNED) ? "pinned" : NULL;
}

static const char *
row_mode(const struct rows *rows, const struct row *row)
{
	if (!row_held(row))
		return NULL;
	if (row->count)
		return rows->holders[row->first].shared ? "shared" : "exclusive";
	if (row->glance.count)
		return mark_is_shared(row->glance.marks[0]) ? "shared" : "exclusive";
	return NULL;
}

/* Collect the lockfiles of the directory, those of `keys` where there are any. */
static int
rows_collect(const struct directory *directory, char **keys, struct rows *rows)
{
	struct entries entries;
	bool listed = entries_begin(&entries, directory->fd, ".");
	char shown[SHOWN_SIZE];
	int error = entries.error;

	/* Where names can be opened but not listed, those asked for are tried. */
	if (error == EACCES && *keys)
		error = 0;
	if (listed) {
		for (const struct dirent *entry; (entry = entries_next(&entries));)
			error = error ? error : rows_add(rows, directory, entry->d_name, keys);
		error = error ? error : entries.error;
	}
	for (char **key = keys; !listed && *key && !error; key++) {
		char base[NAME_SIZE], name[NAME_SIZE];

		name_of_key(*key, base);
		for (int slot = 1; slot <= SLOTS_MAX && !error; slot++) {
			slot_name(name, base, slot);
			error = rows_add(rows, directory, name, keys);
		}
	}
	if (error) {
		say("%s: cannot be read: %s", show(directory->path, shown), strerror(error));
		return status_of(error);
	}
	if (!rows->count)
		return 0;

	struct seats seats = seats_scan(rows->list[0].glance.device);

	qsort(rows->list, rows->count, sizeof(*rows->list), rows_compare);
	for (size_t i = 0; i < rows->count; i++)
		row_look(directory, rows, &rows->list[i], &seats);
	seats_free(&seats);
	return 0;
}

enum { COLUMNS = 7, CELL_SIZE = 4 * SHOWN_SIZE };

/* Write one cell of the list: KEY, STATE, MODE, PID, SINCE, WAITING, COMMAND. */
static const char *
row_cell(const struct rows *rows, const struct row *row, int column, char cell[CELL_SIZE])
{
	char value[RECORD_SIZE];
	const char *key = row->whole_key ? row->whole_key : row->key;
	const char *mode = row_mode(rows, row);
	size_t used = 0;

	compose(cell, CELL_SIZE, "-");
	switch (column) {
	case 0:
		return show(key, cell);
	case 1:
		compose(cell, CELL_SIZE, "%s", row_state(row));
		if (*row->record && record_field(row->record, "cause=", value))
			compose(cell, CELL_SIZE, "abandoned (%s)", value);
		break;
	case 2:
		if (mode)
			compose(cell, CELL_SIZE, "%s", mode);
		break;
	case 3:
		for (size_t i = 0; i < row->count && used < CELL_SIZE - 32; i++)
			used += compose(cell + used, CELL_SIZE - used, "%s%ld", i ? "," : "",
			                (long)rows->holders[row->first + i].pid);
		break;
	case 4:
		if (*row->record && record_field(row->record, "since=", value))
			compose(cell, CELL_SIZE, "%s", value);
		else if (row->glance.held)
			date_text(row->glance.since.tv_sec, cell);
		break;
	case 5:
		compose(cell, CELL_SIZE, "%zu", row->glance.waiting);
		break;
	default:
		if (*row->record && record_field(row->record, "command=", value))
			return show(value, cell);
		if (row->command)
			return show(row_command(rows, row), cell);
	}
	return cell;
}

/* How wide a text is on a terminal, as one column for each UTF-8 character. */
static int
width_of(const char *text)
{
	int width = 0;

	for (; *text; text++)
		if (((unsigned char)*text & 0xc0) != 0x80)
			width++;
	return width;
}

/* Add the rows as a table for people to read. */
static void
rows_table(const struct rows *rows, struct text *text)
{
	static const char *const titles[COLUMNS] = {"KEY",   "STATE",   "MODE",   "PID",
	                                            "SINCE", "WAITING", "COMMAND"};
	int widths[COLUMNS] = {0};
	char cell[CELL_SIZE];
	bool any = false;

	for (size_t i = 0; i < rows->count; i++)
		for (int column = 0; column < COLUMNS && row_state(&rows->list[i]); column++) {
			int width = width_of(row_cell(rows, &rows->list[i], column, cell));

			widths[column] = width > widths[column] ? width : widths[column];
			any = true;
		}
	for (int column = 0; column < COLUMNS && any; column++) {
		int width = width_of(titles[column]);

		widths[column] = width > widths[column] ? width : widths[column];
		text_add(text, "%s%*s", titles[column],
		         column < COLUMNS - 1 ? widths[column] - width + 2 : 0, "");
	}
	if (any)
		text_add(text, "\n");
	for (size_t i = 0; i < rows->count; i++) {
		if (!row_state(&rows->list[i]))
			continue;
		for (int column = 0; column < COLUMNS; column++) {
			row_cell(rows, &rows->list[i], column, cell);
			text_add(text, "%s%*s", cell,
			         column < COLUMNS - 1 ? widths[column] - width_of(cell) + 2 : 0,
			         "");
		}
		text_add(text, "\n");
	}
}

static void
text_add_json_or_null(struct text *text, const char *string)
{
	if (string)
		text_add_json(text, string);
	else
		text_add(text, "null");
}

/* Add a row as one line with a JSON object. */
static void
row_json(const struct directory *directory, const struct rows *rows, const struct row *row,
         struct text *text)
{
	const char *key = row->whole_key ? row->whole_key : row->hashed ? NULL : row->key;
	char value[RECORD_SIZE], date[sizeof("2026-11-24T23:26:16Z")];
	bool in_doubt = *row->record != '\0';

	text_add(text, "{\"key\":");
	text_add_json_or_null(text, key);
	text_add(text, ",\"state\":\"%s\",\"mode\":", row_state(row));
	text_add_json_or_null(text, row_mode(rows, row));
	text_add(text, ",\"slot\":%d,\"pids\":[", row->slot);
	for (size_t i = 0; i < row->count; i++)
		text_add(text, "%s%ld", i ? "," : "", (long)rows->holders[row->first + i].pid);
	text_add(text, "],\"since\":");
	if (in_doubt)
		text_add_json_or_null(text, record_field(row->record, "since=", value));
	else
		text_add_json_or_null(
		    text, row->glance.held ? date_text(row->glance.since.tv_sec, date) : NULL);
	text_add(text, ",\"waiting\":%zu,\"command\":", row->glance.waiting);
	text_add_json_or_null(text, in_doubt ? record_field(row->record, "command=", value)
	                                     : row_command(rows, row));
	text_add(text, ",\"path\":");

	char path[PATH_MAX + NAME_SIZE];

	compose(path, sizeof(path), "%s/%s", directory->path, row->name);
	text_add_json(text, path);
	if (in_doubt) {
		text_add(text, ",\"cause\":");
		text_add_json_or_null(text, record_field(row->record, "cause=", value));
	}
	text_add(text, "}\n");
}

/* --list: print the keys that are held, in doubt or pinned. */
static int
list_keys(struct directory *directory, char **keys, bool json)
{
	struct rows rows = {0};
	struct text text = {0};
	int status;

	directory->look_only = true;
	status = directory_open(directory);
	if (status || directory->fd < 0)
		return status;
	status = rows_collect(directory, keys, &rows);
	if (status)
		return status;
	if (json) {
		for (size_t i = 0; i < rows.count; i++)
			if (row_state(&rows.list[i]))
				row_json(directory, &rows, &rows.list[i], &text);
	} else {
		rows_table(&rows, &text);
	}
	return text_print(&text);
}

/* --who: print the pids of who holds the key, a line each; 1 when nobody does. */
static int
list_holders(struct directory *directory, char **keys)
{
	struct rows rows = {0};
	struct text text = {0};
	char shown[SHOWN_SIZE];
	bool held = false;
	int status;

	directory->look_only = true;
	status = directory_open(directory);
	if (status)
		return status;
	if (directory->fd < 0)
		return NOBODY;
	status = rows_collect(directory, keys, &rows);
	if (status)
		return status;
	for (size_t i = 0; i < rows.count; i++) {
		const struct row *row = &rows.list[i];

		held = held || row_held(row);
		for (size_t j = 0; j < row->count; j++)
			text_add(&text, "%ld\n", (long)rows.holders[row->first + j].pid);
	}
	if (held && !text.used && !text.failed)
		say("%s: held, but by whom cannot be seen", show(*keys, shown));
	status = text_print(&text);
	return status ? status : held ? 0 : NOBODY;
}

/* --path: print the path of the key's lockfile and make nothing. */
static int
print_path(const struct directory *directory, const char *key)
{
	struct text text = {0};
	char name[NAME_SIZE];

	name_of_key(key, name);
	text_add(&text, "%s/%s\n", directory->path, name);
	return text_print(&text);
}

/*
 * --pin: make the lockfile and mark it as never to be removed, so that programs
 * that know only its path can lock it, too; print the path.
 */
static int
pin(struct directory *directory, const char *key)
{
	struct lock lock = {.key = key, .slots = 1, .fd = -1};
	struct wait wait = {.deadline = FOREVER, .look_at = FOREVER};
	int status = directory_open(directory), renamed;

	if (status)
		return status;
	name_of_key(key, lock.name);
	do {
		struct stat file;
		int error;

		status = lockfile_open(directory, &lock);

		if (status)
			return status;
		error = gate_enter(&lock, &wait);
		if (error == EINTR && signals.caught) {
			waiting_end();
			lockfile_close(&lock);
			return die_by(signals.caught);
		}
		if (error)
			return lock_refused(&lock, "cannot be locked", error);
		if (fstat(lock.fd, &file) < 0 ||
		    (!(file.st_mode & PINNED) &&
		     fchmod(lock.fd, (file.st_mode & 07777) | S_ISVTX | PINNED) < 0))
			return lockfile_failure(directory, &lock, NO_FILE, strerror(errno));
		renamed = lockfile_recheck(directory, &lock);
		lockfile_close(&lock);
		if (renamed < 0)
			return -renamed;
	} while (renamed);
	return print_path(directory, key);
}

/* --forget: remove the record and the pin of a key that is held by us. */
static int
forget(const struct directory *directory, const struct lock *lock)
{
	struct record record = {0};
	struct stat file;
	int status = record_read(directory, lock, &record);

	if (status)
		return status;
	if ((record.found && (ftruncate(lock->fd, 0) < 0 || fdatasync(lock->fd) < 0)) ||
	    fstat(lock->fd, &file) < 0 ||
	    ((file.st_mode & PINNED) &&
	     fchmod(lock->fd, file.st_mode & (07777 & ~(mode_t)PINNED)) < 0))
		return lockfile_failure(directory, lock, NO_FILE, strerror(errno));
	return 0;
}

/* ---- Options ------------------------------------------------------------ */

enum action {
	RUN,
	HOLD,
	LIST,
	WHO,
	SHOW_PATH,
	PIN,
	FORGET,
	SHOW_HELP,
	SHOW_VERSION,
};

struct options {
	enum action action;
	bool shared;
	bool close_lock;
	bool in_place;
	bool linger;
	bool automatic; /* the command is the key */
	bool reentrant;
	bool refuse_abandoned;
	bool recover;
	bool json;
	bool verbose;
	bool quiet;
	nanoseconds wait; /* 0: give up at once */
	nanoseconds warn_held;
	int conflict_status;
	int slots;
	const char *directory; /* NULL: the environment's or the default */
	char **keys;           /* KEY, then those of -k; or those of --list */
	size_t key_count;
	char **command;  /* as struct command has it */
	char *script[5]; /* the command where -c gives one */
	char problem[MESSAGE_SIZE / 2];
};

static const char help[] =
    "Usage: keylock [option]... KEY [--] COMMAND [ARGUMENT]...\n"
    "       keylock [option]... KEY -c SCRIPT\n"
    "       keylock [option]... --auto [--] COMMAND [ARGUMENT]...\n"
    "       keylock [option]... --hold KEY\n"
    "       keylock --list [--json] [KEY]...\n"
    "       keylock --who KEY | --path KEY | --pin KEY | --forget KEY\n"
    "Run COMMAND while it alone holds the lock named KEY.\n"
    "\n"
    "  -x, -e, --exclusive     hold KEY alone (default)\n"
    "  -s, --shared            hold KEY together with others that use -s\n"
    "  -n, --nonblock          give up at once when KEY is taken (also --nb,\n"
    "                          --nonblocking)\n"
    "  -w, --wait TIME         give up after TIME (also --timeout): seconds, or\n"
    "                          500ms, 10s, 5m, 2h, 1d; 0 is -n\n"
    "  -E, --conflict-exit-code N   exit status when giving up (default 75)\n"
    "  -k, --key KEY           hold this key as well (may be repeated): all or none\n"
    "  -a, --auto              the key is COMMAND with its arguments\n"
    "  -j, --slots N           let up to N hold KEY at once (1 to 1000)\n"
    "  -r, --reentrant         run at once where an ancestor already holds KEY\n"
    "  -F, --no-fork           replace keylock by COMMAND: no process in between\n"
    "  -o, --close             do not hand the lock's descriptor to COMMAND\n"
    "  -l, --linger            hold KEY until the last process that inherited the\n"
    "                          lock has ended, not only COMMAND\n"
    "  -A, --refuse-abandoned  do not run when the last holder died in the middle\n"
    "  -R, --recover           run then, and tell COMMAND by KEYLOCK_ABANDONED\n"
    "  -W, --warn-held TIME    when giving up on a KEY held longer than TIME, say so\n"
    "  -c, --command SCRIPT    after KEY: run SCRIPT with /bin/sh -c\n"
    "  -d, --dir DIR           directory of the lockfiles (default: $KEYLOCK_DIR,\n"
    "                          else one of the effective user's own)\n"
    "  -v, --verbose           say on standard error what is waited for, and why not\n"
    "  -q, --quiet             say nothing but errors of usage and of the system\n"
    "      --hold              hold KEY, print `locked', until standard input ends\n"
    "      --list              list the keys that are held, in doubt or pinned\n"
    "      --json              with --list: one JSON object a line\n"
    "      --who               print the pids of who holds KEY\n"
    "      --path              print the path of KEY's lockfile and make nothing\n"
    "      --pin               make KEY's lockfile, never remove it, print its path\n"
    "      --forget            remove what is left of KEY: its record and its pin\n"
    "  -h, --help              print this help\n"
    "  -V, --version           print the version\n"
    "\n"
    "Exit status: that of COMMAND (a death by signal is passed on as one), or\n"
    "    1  --who: nobody holds KEY\n"
    "   64  usage error\n"
    "   71  the system refused something\n"
    "   73  the directory or lockfile cannot be made, opened or written\n"
    "   75  KEY is taken, or was not had in time; see -E\n"
    "   76  the last holder of KEY died in the middle (-A)\n"
    "   77  the directory or lockfile is not safe to use\n"
    "   78  waiting might never end\n"
    "  126  COMMAND cannot be executed\n"
    "  127  COMMAND is not found\n";

/* Take down what is wrong with the command line; returns USAGE. */
__attribute__((format(printf, 2, 3))) static int
usage(struct options *options, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vcompose(options->problem, sizeof(options->problem), format, arguments);
	va_end(arguments);
	return USAGE;
}

enum {
	LONG_ONLY = 256,
	OPTION_HOLD,
	OPTION_LIST,
	OPTION_JSON,
	OPTION_WHO,
	OPTION_PATH,
	OPTION_PIN,
	OPTION_FORGET,
};

struct option {
	const char *name;
	int letter; /* or, where it has none, a number of the above */
	bool takes_value;
};

static const struct option known_options[] = {
    {"exclusive", 'x', false},
    {"shared", 's', false},
    {"nonblock", 'n', false},
    {"nonblocking", 'n', false},
    {"nb", 'n', false},
    {"wait", 'w', true},
    {"timeout", 'w', true},
    {"conflict-exit-code", 'E', true},
    {"key", 'k', true},
    {"auto", 'a', false},
    {"slots", 'j', true},
    {"reentrant", 'r', false},
    {"no-fork", 'F', false},
    {"close", 'o', false},
    {"linger", 'l', false},
    {"refuse-abandoned", 'A', false},
    {"recover", 'R', false},
    {"warn-held", 'W', true},
    {"dir", 'd', true},
    {"verbose", 'v', false},
    {"quiet", 'q', false},
    {"hold", OPTION_HOLD, false},
    {"list", OPTION_LIST, false},
    {"json", OPTION_JSON, false},
    {"who", OPTION_WHO, false},
    {"path", OPTION_PATH, false},
    {"pin", OPTION_PIN, false},
    {"forget", OPTION_FORGET, false},
    {"help", 'h', false},
    {"version", 'V', false},
    {NULL, 0, false},
};

/*
 * The option that `name`, of `length` bytes, names or, like getopt_long(3), begins;
 * NULL where none is, or several are.
 */
static const struct option *
option_named(const char *name, size_t length)
{
	const struct option *found = NULL;
	bool several = false;

	for (const struct option *known = known_options; known->name; known++) {
		if (strncmp(known->name, name, length) != 0)
			continue;
		if (!known->name[length])
			return known;
		several = several || (found && found->letter != known->letter);
		found = known;
	}
	return several ? NULL : found;
}

static const struct option *
option_lettered(char letter)
{
	const struct option *known = known_options;

	if (letter == 'e')
		letter = 'x';
	while (known->name && known->letter != letter)
		known++;
	return known->name ? known : NULL;
}

/* Take what to do. --help and --version win; of the others there is only one. */
static int
parse_action(struct options *options, enum action action)
{
	if (options->action == SHOW_HELP || options->action == SHOW_VERSION)
		return 0;
	if (options->action != RUN && action < SHOW_HELP && options->action != action)
		return usage(options, "only one of --hold, --list, --who, --path, --pin, --forget");
	options->action = action;
	return 0;
}

/* Add a key of -k, and KEY as the first. Returns 0 or USAGE. */
static int
parse_key(struct options *options, size_t place, char *key)
{
	if (!*key)
		return usage(options, "KEY is empty");
	if (strlen(key) > KEY_MAX_BYTES)
		return usage(options, "KEY is longer than %d bytes", KEY_MAX_BYTES);
	options->keys[place] = key;
	return 0;
}

/* Take one option, with its value where it takes one. Returns 0 or USAGE. */
static int
parse_option(struct options *options, int option, char *value)
{
	char shown[SHOWN_SIZE];

	switch (option) {
	case 'x':
		options->shared = false;
		break;
	case 's':
		options->shared = true;
		break;
	case 'n':
		options->wait = 0;
		break;
	case 'w':
		if (!parse_time(value, &options->wait))
			return usage(options,
			             "-w '%s': not a time (seconds, or 500ms, 10s, 5m, 2h, 1d)",
			             show(value, shown));
		break;
	case 'E':
		if (!parse_number(value, 0, 255, &options->conflict_status))
			return usage(options, "-E '%s': not an exit status (0 to 255)",
			             show(value, shown));
		break;
	case 'k':
		return parse_key(options, options->key_count++, value);
	case 'a':
		options->automatic = true;
		break;
	case 'j':
		if (!parse_number(value, 1, SLOTS_MAX, &options->slots))
			return usage(options, "-j '%s': not a number of slots (1 to %d)",
			             show(value, shown), SLOTS_MAX);
		break;
	case 'r':
		options->reentrant = true;
		break;
	case 'A':
		options->refuse_abandoned = true;
		break;
	case 'R':
		options->recover = true;
		break;
	case 'W':
		if (!parse_time(value, &options->warn_held))
			return usage(options,
			             "-W '%s': not a time (seconds, or 500ms, 10s, 5m, 2h, 1d)",
			             show(value, shown));
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
		options->directory = value;
		break;
	case 'v':
		options->verbose = true;
		options->quiet = false;
		break;
	case 'q':
		options->quiet = true;
		options->verbose = false;
		break;
	case OPTION_JSON:
		options->json = true;
		break;
	case 'h':
		return parse_action(options, SHOW_HELP);
	case 'V':
		return parse_action(options, SHOW_VERSION);
	case OPTION_HOLD:
		return parse_action(options, HOLD);
	case OPTION_LIST:
		return parse_action(options, LIST);
	case OPTION_WHO:
		return parse_action(options, WHO);
	case OPTION_PATH:
		return parse_action(options, SHOW_PATH);
	case OPTION_PIN:
		return parse_action(options, PIN);
	default:
		return parse_action(options, FORGET);
	}
	return 0;
}

/*
 * Take the options in the first of the words, `-abc` or `--name[=VALUE]`; *used is
 * how many words that were, 2 where the value is the second. Returns 0 or USAGE.
 */
static int
parse_word(struct options *options, char **words, size_t *used)
{
	static char none[] = "";
	char *next = *words + 1; /* what of the word is to be read */
	char shown[SHOWN_SIZE];
	int status = 0;

	*used = 1;
	do {
		const bool is_long = *next == '-' && next == *words + 1;
		size_t length = is_long ? strcspn(*words, "=") - 2 : 1;
		const char letter[] = {'-', *next, '\0'};
		const struct option *option =
		    is_long ? option_named(next + 1, length) : option_lettered(*next);
		char *value = none;

		if (!option)
			return usage(
			    options, "%s: no such option; see keylock --help",
			    show(is_long || (unsigned char)*next >= 0x80 ? *words : letter, shown));
		next += is_long ? length + 1 : 1;
		if (is_long && *next && !option->takes_value)
			return usage(options, "--%s: takes no value", option->name);
		if (option->takes_value) {
			value = *next ? next + is_long : words[(*used)++];
			next = none;
		}
		if (!value)
			return usage(options, "-%c: needs a value; see keylock --help",
			             option->letter);
		status = parse_option(options, option->letter, value);
	} while (!status && *next);
	return status;
}

/* Take the command after KEY: `[--] COMMAND…` or `-c SCRIPT`. */
static int
parse_command(struct options *options, char **argv)
{
	static char shell[] = "/bin/sh", dash_c[] = "-c";
	char shown[SHOWN_SIZE];

	if (!*argv)
		return usage(options, "%s: no COMMAND; see keylock --help",
		             show(options->keys[0], shown));
	if (strcmp(*argv, "--") == 0) {
		if (!*++argv)
			return usage(options, "%s: no COMMAND after --; see keylock --help",
			             show(options->keys[0], shown));
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
 * Make the key of --auto from the command: the arguments with a blank between
 * them, and a backslash before each blank and backslash of their own, so that
 * no two commands have the same. Returns NULL where there is no memory.
 */
static char *
key_of_command(char *const *argv)
{
	size_t size = 1;
	char *key, *end;

	for (size_t i = 0; argv[i]; i++)
		size += 2 * strlen(argv[i]) + 1;
	key = end = memory_resize(NULL, 0, size);
	for (size_t i = 0; key && argv[i]; i++) {
		if (i)
			*end++ = ' ';
		for (const char *byte = argv[i]; *byte; byte++) {
			if (*byte == ' ' || *byte == '\\')
				*end++ = '\\';
			*end++ = *byte;
		}
	}
	return key;
}

/* Refuse what does not go together. Returns 0 or USAGE. */
static int
parse_check(struct options *options)
{
	const char *problem = NULL;
	bool records = options->refuse_abandoned || options->recover;
	bool holds = options->action == RUN || options->action == HOLD;

	if (options->json && options->action != LIST)
		problem = "--json goes with --list";
	else if (options->action == HOLD && (options->in_place || options->close_lock))
		problem = "--hold has no COMMAND for -F or -o";
	else if (options->automatic && options->action != RUN)
		problem = "--auto goes with a COMMAND";
	else if (options->key_count > 1 && !holds)
		problem = "-k goes with a COMMAND or --hold";
	else if (options->in_place && options->close_lock)
		problem = "-F and -o: the key would be free at once";
	else if (options->slots && options->shared)
		problem = "-j and -s do not go together";
	else if (options->slots && records)
		problem = "-j goes with neither -A nor -R";
	else if (options->in_place && records)
		problem = "-F goes with neither -A nor -R";
	else if (options->refuse_abandoned && options->recover)
		problem = "-A and -R do not go together";
	return problem ? usage(options, "%s", problem) : 0;
}

/*
 * Read the command line into `options`, which holds the defaults and has room
 * for as many keys as argv has words. Returns 0, or USAGE with options->problem set.
 */
static int
parse(struct options *options, char **argv)
{
	char shown[SHOWN_SIZE];
	size_t used = *argv ? 1 : 0;
	int status;

	options->key_count = 1; /* the first is KEY, which comes last */
	for (argv += used; *argv && **argv == '-' && (*argv)[1]; argv += used) {
		if (strcmp(*argv, "--") == 0) {
			argv++;
			break;
		}
		status = parse_word(options, argv, &used);
		if (status)
			return status;
	}
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
	status = parse_check(options);
	if (status)
		return status;
	if (options->action == LIST) {
		options->keys = argv;
		for (size_t i = 0; argv[i] && !status; i++)
			status = parse_key(options, i, argv[i]);
		return status;
	}
	if (options->automatic) {
		options->keys[0] = *argv ? key_of_command(argv) : NULL;
		if (!*argv)
			return usage(options, "no COMMAND; see keylock --help");
		if (!options->keys[0])
			return usage(options, "COMMAND is too long to be a key");
		options->command = argv;
		return parse_key(options, 0, options->keys[0]);
	}
	if (!*argv)
		return usage(options, "no KEY; see keylock --help");
	status = parse_key(options, 0, *argv++);
	if (status)
		return status;
	if (options->action == RUN)
		return parse_command(options, argv);
	if (*argv)
		return usage(options, "%s: one argument too many", show(*argv, shown));
	return 0;
}

/* ---- Main --------------------------------------------------------------- */

/* Say that the key was not had, where somebody wants to know. */
static void
say_taken(const struct options *options, const struct directory *directory, const struct lock *lock)
{
	bool terminal = isatty(STDERR_FILENO) && !options->quiet;
	bool warn = options->warn_held != FOREVER && !options->quiet;
	char shown[SHOWN_SIZE], text[WHOSE_SIZE] = "another";
	struct glance glance = {0};
	bool seen;

	if (!options->verbose && !terminal && !warn)
		return;
	seen = glance_at_name(directory, lock->name, &glance) == 0;
	if (warn && (!seen || age_of(&glance) <= options->warn_held) && !options->verbose)
		return;
	if (seen)
		whose_text(&glance, text);
	say("%s: %s: %s", show(lock->key, shown), options->wait ? "not had in time" : "taken",
	    text);
}

/*
 * Read the records of the keys and, for exclusive ones, write our own. Returns
 * 0, or an exit status and has said why; the caller settles what was written.
 */
static int
records_begin(const struct options *options, const struct directory *directory, struct keys *keys)
{
	char shown[SHOWN_SIZE], text[RECORD_SIZE];
	int status = 0;

	for (size_t i = 0; i < keys->count && !status; i++) {
		const struct lock *lock = &keys->locks[i];

		if (lock->nested)
			continue; /* the ancestor decides */
		status = record_read(directory, lock, &keys->records[i]);
		if (!status && keys->records[i].found && options->refuse_abandoned) {
			record_found_text(&keys->records[i], text);
			if (!options->quiet)
				say("%s: the last holder died in the middle: %s; see what it "
				    "left, then keylock --forget",
				    show(lock->key, shown), text);
			status = IN_DOUBT;
		}
	}
	for (size_t i = 0; i < keys->count && !status && !options->shared; i++)
		if (!keys->locks[i].nested)
			status = record_write(directory, &keys->locks[i], &keys->records[i],
			                      options->command ? options->command[0] : "--hold");
	return status;
}

/* KEYLOCK_ABANDONED=, with a line for each key that was left in doubt, or NULL. */
static char *
abandoned_line(const struct keys *keys)
{
	struct text line = {0};

	for (size_t i = 0; i < keys->count; i++) {
		char text[RECORD_SIZE];

		if (!keys->records[i].found)
			continue;
		record_found_text(&keys->records[i], text);
		text_add(&line, "%s%s", line.used ? "\n" : "KEYLOCK_ABANDONED=", text);
	}
	return line.failed ? NULL : line.bytes;
}

/* Settle the records by how the command ended. */
static void
records_end(const struct options *options, const struct directory *directory, struct keys *keys,
            const struct ending *ending, const char *cause)
{
	char text[CAUSE_SIZE];

	if (ending->signal) {
		compose(text, sizeof(text), "signal-%d", ending->signal);
		cause = text;
	} else if (ending->ran && ending->error) {
		cause = "unknown"; /* how it ended */
	} else if (ending->status > 128 && ending->status <= 192) {
		/* A shell's word for a signal. */
		compose(text, sizeof(text), "exit-%d", ending->status);
		cause = text;
	}
	for (size_t i = 0; i < keys->count; i++)
		record_settle(directory, &keys->locks[i], &keys->records[i], ending->ran, cause,
		              options->command ? options->command[0] : "--hold");
}

static const char KEY_VARIABLE[] = "KEYLOCK_KEY=";

/* How long KEYLOCK_KEY is, with its name and the NUL. */
static size_t
key_line_size(const struct options *options)
{
	size_t size = sizeof(KEY_VARIABLE);

	for (size_t i = 0; i < options->key_count; i++)
		size += strlen(options->keys[i]) + 1;
	return size;
}

/* Write KEYLOCK_KEY with the keys, a line each, KEY first. */
static void
key_line(const struct options *options, char *line)
{
	line = stpcpy(line, KEY_VARIABLE);
	for (size_t i = 0; i < options->key_count; i++) {
		if (i)
			*line++ = '\n';
		line = stpcpy(line, options->keys[i]);
	}
}

/* Do under the keys what is to be done under them. */
static struct ending
run_under(const struct options *options, const struct directory *directory, struct keys *keys)
{
	bool records = options->refuse_abandoned || options->recover;
	size_t size = key_line_size(options);
	char small[512]; /* the stack may be, too */
	char *line = size <= sizeof(small) ? small : memory_resize(NULL, 0, size);
	struct ending ending = {0};
	const char *cause = NULL;

	if (!line) {
		say("environment: %s", strerror(ENOMEM));
		return (struct ending){.status = REFUSED};
	}
	key_line(options, line);
	if (options->action == FORGET)
		return (struct ending){.status = forget(directory, keys->locks)};
	if (records)
		ending.status = records_begin(options, directory, keys);
	if (!ending.status && options->action == HOLD) {
		ending = hold(&cause);
	} else if (!ending.status) {
		struct command command = {
		    .argv = options->command,
		    .locks = keys->locks,
		    .count = options->close_lock ? 0 : keys->count,
		    .claims = directory->claims && !options->close_lock ? directory->fd : -1,
		    .key_line = line,
		    .abandoned_line = records ? abandoned_line(keys) : NULL,
		};

		ending = command_run(&command, options->in_place);
	}
	if (records)
		records_end(options, directory, keys, &ending, cause);
	return ending;
}

/* Acquire the keys, run under them, let them go. Returns the exit status. */
static int
run(const struct options *options, struct directory *directory)
{
	size_t count = options->key_count, failed = 0;
	static struct lock one_lock; /* most often there is one, and no need to ask for memory */
	static struct record one_record;
	struct lock *locks =
	    count == 1 ? &one_lock : memory_resize(NULL, 0, count * sizeof(*locks));
	struct record *records =
	    count == 1 ? &one_record : memory_resize(NULL, 0, count * sizeof(*records));
	struct keys keys = {.locks = locks, .records = records, .count = count};
	bool at_once =
	    options->wait == 0 || (options->action == FORGET && options->wait == FOREVER);
	struct wait wait = {
	    .nonblock = at_once,
	    .deadline = deadline_in(at_once ? GATE_PATIENCE : options->wait),
	    .look = look_around,
	    .reentrant = options->reentrant,
	    .aloud = options->verbose,
	    .quiet = options->quiet,
	    .directory = directory,
	    .turn = -1,
	};
	struct ending ending;
	char shown[SHOWN_SIZE];
	int result;

	if (!locks || !records) {
		say("keys: %s", strerror(ENOMEM));
		_exit(REFUSED);
	}
	for (size_t i = 0; i < count; i++) {
		locks[i] = (struct lock){
		    .key = options->keys[i],
		    .shared = options->shared,
		    .slots = options->slots,
		    .fd = -1,
		};
		name_of_key(locks[i].key, locks[i].name);
	}
	keys_order(&keys);
	result = directory_open(directory);
	if (result)
		return result;
	result = keys_acquire(directory, &keys, &wait, &failed);
	if (result == CAUGHT)
		return die_by(signals.caught);
	if (result == TAKEN) {
		say_taken(options, directory, &locks[failed]);
		return options->conflict_status;
	}
	if (result)
		return result;
	if (options->verbose && wait.started) {
		nanoseconds waited = now() - wait.started;

		say("%s: had after %lld.%03llds", show(options->keys[0], shown),
		    (long long)(waited / SECOND), (long long)(waited % SECOND / MILLISECOND));
	}
	ending = run_under(options, directory, &keys);
	keys_release(directory, &keys, keys.count, options->linger);
	if (ending.error)
		say_not_run(options->command[0], &ending);
	if (is_stop_signal(signals.caught))
		stop_caught();
	if (signals.caught)
		return die_by(signals.caught);
	return ending.signal ? die_by(ending.signal) : ending.status;
}

int
main(int argc, char **argv)
{
	static char path[64];
	char *keys[argc + 1];
	struct options options = {
	    .wait = FOREVER,
	    .warn_held = FOREVER,
	    .conflict_status = TAKEN,
	    .keys = keys,
	};
	struct directory directory = {.fd = -1};

	signals_block();
	if (parse(&options, argv)) {
		say("%s", options.problem);
		return USAGE;
	}
	directory.named = options.directory != NULL;
	directory.path =
	    directory.named ? options.directory : default_directory(path, sizeof(path));
	switch (options.action) {
	case SHOW_HELP:
		return print(help, sizeof(help) - 1);
	case SHOW_VERSION:
		return print("keylock " VERSION "\n", strlen("keylock " VERSION "\n"));
	case SHOW_PATH:
		return print_path(&directory, keys[0]);
	case LIST:
		return list_keys(&directory, options.keys, options.json);
	case WHO:
		keys[1] = NULL;
		return list_holders(&directory, keys);
	case PIN:
		return pin(&directory, keys[0]);
	default:
		return run(&options, &directory);
	}
}

/*
 * fuzz - what keylock makes of text that others have written
 *
 * keylock.c itself is taken in, so that its functions can be called one by one. With
 * libFuzzer (fuzz.sh), FUZZ_TARGET names what the inputs are given to:
 *
 *	name     two keys: allowed names, the same one only for the same key, and back again
 *	file     a name found in the directory: only what is made from a key is read as one
 *	options  KEYLOCK_DIR and a command line: a usage error of one line, or what may go together
 *	record   the bytes of a lockfile: text of one line, and our own record read back
 *	read     /proc's fdinfo and stat
 *	time     TIME, numbers, dates and ages, beside arithmetic done another way
 *	shown    messages, the table and JSON: one line each, no control characters, UTF-8
 *
 * Nothing is asked of the system for what is read: openat(2) and read(2) are caught by
 * macros and answered with the input. An input that is found wrong ends it by abort().
 * Of those of name, time and shown some are written to descriptor 3, with what keylock makes of
 * them, for reference.py to check: text NUL answer NUL.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define _TIME_BITS 64

#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

/* What can be read, at most `piece` bytes at a time. */
static struct {
	const char *bytes;
	size_t size, at, piece;
} given;

/* What was written, to be looked at, and what KEYLOCK_DIR is. */
static char said[8192];
static size_t said_size;
static char *environment_directory;

static void
give(const char *bytes, size_t size, size_t piece)
{
	given.bytes = bytes;
	given.size = size;
	given.at = 0;
	given.piece = piece;
}

static int
fuzz_openat(int at, const char *path, int flags, ...)
{
	(void)at, (void)path, (void)flags;
	given.at = 0;
	return dup(STDERR_FILENO);
}

static ssize_t
fuzz_read(char *bytes, size_t room)
{
	size_t count = given.size - given.at;

	count = count < room ? count : room;
	count = count < given.piece ? count : given.piece;
	memcpy(bytes, given.bytes + given.at, count);
	given.at += count;
	return (ssize_t)count;
}

static ssize_t
fuzz_write(const char *bytes, size_t size)
{
	if (size > sizeof(said) - said_size)
		abort();
	memcpy(said + said_size, bytes, size);
	said_size += size;
	return (ssize_t)size;
}

#define openat(at, path, ...) fuzz_openat(at, path, __VA_ARGS__)
#define read(fd, bytes, room) fuzz_read((char *)(bytes), room)
#define write(fd, bytes, size) fuzz_write((const char *)(bytes), size)
#define getenv(name) (strcmp(name, "KEYLOCK_DIR") == 0 ? environment_directory : NULL)
#define main keylock_main

#include "../../keylock.c" /* NOLINT(bugprone-suspicious-include): the subject */

#undef fopen
#undef read
#undef write
#undef getenv
#undef main

#define MUST(what)                                                                                 \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "fuzz.c:%d: not so: %s\n", __LINE__, #what);               \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* An input as strings: each a copy of its own, so that reading past its end is seen. */
enum { STRINGS = 64 };

struct strings {
	char *list[STRINGS + 1];
	size_t count;
};

static char *
copy_of(const void *bytes, size_t size)
{
	char *copy = malloc(size + 1);

	if (!copy)
		abort();
	memcpy(copy, bytes, size);
	copy[size] = '\0';
	return copy;
}

/* Split the input at its NULs, into `least` strings at least, the later ones empty. */
static struct strings
strings_of(const uint8_t *data, size_t size, size_t least)
{
	struct strings strings = {0};

	while (strings.count < STRINGS && (size || strings.count < least)) {
		const uint8_t *end = size ? memchr(data, '\0', size) : NULL;
		size_t length = end ? (size_t)(end - data) : size;

		strings.list[strings.count++] = copy_of(data, length);
		data += length + (end ? 1 : 0);
		size -= length + (end ? 1 : 0);
	}
	return strings;
}

/* Have one in so many of these checked by reference.py. */
static void
refer(unsigned chances, const char *text, const char *answer)
{
	static FILE *pairs;
	static unsigned seen;

	if (!pairs)
		pairs = fdopen(3, "w");
	if (pairs && *text && seen++ % chances == 0)
		fprintf(pairs, "%s%c%s%c", text, '\0', answer, '\0');
}

static void
strings_free(struct strings *strings)
{
	for (size_t i = 0; i < strings->count; i++)
		free(strings->list[i]);
}

/* Whether text is UTF-8, and without control characters if it is for a terminal. */
static bool
is_utf8(const char *text, bool for_terminal)
{
	static wchar_t wide[KEY_MAX_BYTES + 1];
	size_t count;

	setlocale(LC_CTYPE, "C.UTF-8");
	count = mbstowcs(wide, text, KEY_MAX_BYTES);
	for (size_t i = 0; count != (size_t)-1 && i < count; i++)
		if ((for_terminal && (wide[i] < 0x20 || (wide[i] >= 0x7f && wide[i] < 0xa0) ||
		                      wide[i] == 0x2028 || wide[i] == 0x2029)) ||
		    (wide[i] >= 0xd800 && wide[i] < 0xe000) || wide[i] > 0x10ffff)
			return false;
	return count != (size_t)-1;
}

static FILE *
memory_stream(char **text, size_t *size)
{
	FILE *stream = open_memstream(text, size);

	if (!stream)
		abort();
	return stream;
}

/* ---- Key to file name, and back ---- */

/* What holds for one key, as reference.py does not see it; writes its name. */
static void
check_key(const char *key, char name[NAME_SIZE])
{
	char back[NAME_SIZE], again[NAME_SIZE];
	bool hashed;
	int slot;

	memset(name, 'x', NAME_SIZE);
	name_of_key(key, name);
	for (int number = 1; number <= SLOTS_MAX; number = number * 13 + 1) {
		slot_name(again, name, number);
		MUST(key_of_name(again, back, &slot, &hashed));
		MUST(slot == number && strcmp(back, hashed ? name : key) == 0);
	}
}

/* That two keys have the same name only when they are the same. */
static void
check_pair(const char *one, const char *other)
{
	char one_name[NAME_SIZE], other_name[NAME_SIZE];

	if (!*one || !*other)
		return;
	name_of_key(one, one_name);
	name_of_key(other, other_name);
	MUST((strcmp(one, other) == 0) == (strcmp(one_name, other_name) == 0));
}

/*
 * Two keys; and each beside what is near it: its own name, its name in a slot, and
 * itself without its last byte.
 */
static void
target_name(const uint8_t *data, size_t size)
{
	struct strings keys = strings_of(data, size, 2);

	check_pair(keys.list[0], keys.list[1]);
	for (size_t i = 0; i < 2; i++) {
		char name[NAME_SIZE], slot[NAME_SIZE];
		char *key = keys.list[i];

		if (!*key)
			continue;
		check_key(key, name);
		refer(4, key, name);
		slot_name(slot, name, 2);
		check_pair(slot, key);
		/* A name is a key, too: of another file, but where it stands for itself. */
		check_pair(name, key);
		key[strlen(key) - 1] = '\0';
		check_pair(key, keys.list[1 - i]);
	}
	strings_free(&keys);
}

/* A name of a file in the directory, whoever made it. */
static void
target_file(const uint8_t *data, size_t size)
{
	struct strings names = strings_of(data, size, 1);
	char key[NAME_SIZE], again[NAME_SIZE], base[NAME_SIZE];
	const char *name = names.list[0];
	bool hashed;
	int slot;

	if (strlen(name) <= 255 && key_of_name(name, key, &slot, &hashed)) {
		MUST(slot >= 1 && slot <= SLOTS_MAX);
		if (hashed)
			strcpy(base, key);
		else
			name_of_key(key, base);
		slot_name(again, base, slot);
		MUST(strcmp(again, name) == 0);
	}
	strings_free(&names);
}

/* ---- Command line ---- */

/* That --auto's key is the command: split it again. */
static void
check_automatic(const char *key, char **argv)
{
	for (; *argv; argv++) {
		for (const char *byte = *argv; *byte; byte++, key++) {
			if (*key == '\\')
				key++;
			else
				MUST(*byte != ' ' && *byte != '\\');
			MUST(*key == *byte);
		}
		MUST(*key++ == (argv[1] ? ' ' : '\0'));
	}
}

static void
check_options(const struct options *options)
{
	bool runs = options->action == RUN;
	bool records = options->refuse_abandoned || options->recover;
	static struct lock locks[STRINGS];
	struct keys keys = {.locks = locks, .count = options->key_count};

	MUST(options->wait >= 0 && options->warn_held >= 0);
	MUST(options->conflict_status >= 0 && options->conflict_status <= 255);
	MUST(options->slots >= 0 && options->slots <= 1000);
	MUST(!options->directory || options->directory[0] == '/');
	MUST(!options->slots || (!options->shared && !records));
	MUST(!options->in_place || (!options->close_lock && !records));
	MUST(!options->refuse_abandoned || !options->recover);
	MUST(!options->json || options->action == LIST);
	MUST(!options->automatic || runs);
	MUST(!options->verbose || !options->quiet);
	MUST(!runs || (options->command && options->command[0]));
	MUST(options->key_count == 1 || runs || options->action == HOLD);
	if (options->action == LIST) {
		for (char **key = options->keys; *key; key++)
			MUST(**key && strlen(*key) <= KEY_MAX_BYTES);
		return;
	}
	if (options->automatic)
		check_automatic(options->keys[0], options->command);
	for (size_t i = 0; i < options->key_count; i++) {
		MUST(*options->keys[i] && strlen(options->keys[i]) <= KEY_MAX_BYTES);
		locks[i].key = options->keys[i];
		name_of_key(locks[i].key, locks[i].name);
	}
	keys_order(&keys);
	for (size_t i = 1; i < keys.count; i++)
		MUST(strcmp(locks[i - 1].name, locks[i].name) < 0);
}

static void
target_options(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 1);
	char *argv[STRINGS + 1], *keys[STRINGS + 1] = {0};
	struct options options = {
	    .wait = FOREVER, .warn_held = FOREVER, .conflict_status = TAKEN, .keys = keys};
	char *printed_text = NULL;
	FILE *saved = stdout;
	size_t length;
	int status;

	memcpy(argv, strings.list, sizeof(argv));
	environment_directory = strcmp(argv[0], "-") == 0 ? NULL : argv[0];
	said_size = 0;
	optind = 0; /* getopt(3) begins anew */
	getopt(1, argv, "+");
	optind = 1;
	stdout = memory_stream(&printed_text, &length); /* for --help and --version */
	status = parse(&options, (int)strings.count, argv);
	fclose(stdout);
	stdout = saved;
	free(printed_text);
	MUST(status == 0 || status == USAGE || status == DONE);
	MUST((status == USAGE) == (said_size > 0) && (status == DONE) == (length > 0));
	if (status == USAGE) {
		MUST(said_size > strlen("keylock: \n") && memcmp(said, "keylock: ", 9) == 0);
		MUST(memchr(said, '\n', said_size) == said + said_size - 1);
		said[said_size - 1] = '\0';
		MUST(strlen(said) == said_size - 1 && is_utf8(said, true));
	} else if (!status) {
		check_options(&options);
	}
	environment_directory = NULL;
	strings_free(&strings);
}

/* ---- Record ---- */

/* Read these bytes as those of a lockfile: one line of text, of that or that it cannot be read. */
static void
check_record(const char *bytes, size_t size)
{
	char text[RECORD_SIZE];

	memset(text, 'x', sizeof(text));
	record_text(bytes, size, text);
	MUST(is_utf8(text, true) && strncmp(text, "pid=", 4) == 0);
	MUST(strcmp(text, "pid=? since=? cause=unreadable command=?") == 0 ||
	     (size == RECORD_SIZE && memcmp(bytes + 9, text, strlen(text)) == 0));
	MUST(strstr(text, " since=") && strstr(text, " cause=") && strstr(text, " command="));
}

/* Our own record of a command of that name can be read. */
static void
check_own_record(const char *command)
{
	const char *name = strrchr(command, '/');
	struct record record = {.since = "2026-11-24T23:26:16Z"};
	char text[RECORD_SIZE], expected[2 * SHOWN_SIZE];

	record_compose(&record, "exit-143", command);
	MUST(strlen(record.own) == RECORD_SIZE && record.own[RECORD_SIZE - 1] == '\n');
	check_record(record.own, RECORD_SIZE);
	record_text(record.own, RECORD_SIZE, text);
	snprintf(expected, sizeof(expected), "pid=%d since=%s cause=exit-143 command=%s",
	         (int)getpid(), record.since, show(name ? name + 1 : command));
	/* As much of it as fits. */
	MUST(strncmp(text, expected, strlen(text)) == 0);
}

static void
target_record(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 1);
	char *bytes = copy_of(data, size), padded[RECORD_SIZE + 1];

	check_record(bytes, size);
	/* As a record is: blanks and a newline at its end. */
	snprintf(padded, sizeof(padded), "%-191.191s\n", strings.list[0]);
	check_record(padded, RECORD_SIZE);
	check_own_record(strings.list[0]);
	free(bytes);
	strings_free(&strings);
}

/* ---- What is read ---- */

/* fdinfo: any bytes, and a line as the kernel writes it of a ticket, or of what is none. */
static void
check_fdinfo(const char *bytes, size_t size)
{
	char line[256];
	struct seat seat = {.pid = 1}, other = {.pid = 1};
	int64_t number = 0;

	give(bytes, size, size);
	if (size)
		seat_read(&other, 3);
	MUST(other.pid == 1 && (!other.ticket || other.ticket >= TICKETS));
	memcpy(&number, bytes, size < sizeof(number) ? size : sizeof(number));
	number = number & 1 ? number & 4095 : number & INT64_MAX >> 1;
	snprintf(line, sizeof(line), "lock:\t1: OFDLCK  ADVISORY  WRITE -1 00:1c:%d %lld %lld\n",
	         812, (long long)number, (long long)number);
	give(line, strlen(line), size + 1);
	seat_read(&seat, 3);
	MUST(seat.inode == 812 && seat.device == makedev(0, 0x1c));
	MUST(!seat.flocked && !seat.present && !seat.guest);
	MUST(seat.ticket == (number >= TICKETS && number < LAST_TICKET ? number : 0));
}

/* stat: any text, and one as the kernel writes it with the text as the name. */
static void
check_stat(const char *bytes, size_t size)
{
	char stat[512], name[64] = "";
	pid_t pid = 812, parent = 0, expected = (pid_t)(size * 7919 + 1);

	give(bytes, size, size);
	if (size)
		process_parent(&pid, &parent);
	memcpy(name, bytes, size < 63 ? size : 63);
	snprintf(stat, sizeof(stat), "812 (%s) S %d 812 812 0 -1 4194560 98\n", name, expected);
	give(stat, strlen(stat), 1 + size % 64);
	pid = 0;
	if (strchr(name, '\n')) /* the kernel escapes it there */
		return;
	MUST(process_parent(&pid, &parent) && pid == 812 && parent == expected);
}

static void
target_read(const uint8_t *data, size_t size)
{
	char *bytes = copy_of(data, size);

	check_fdinfo(bytes, size);
	check_stat(bytes, size);
	free(bytes);
}

/* ---- Time and numbers ---- */

static void
check_number(const char *text, int low, int high)
{
	int number = -1;
	size_t zeros = strspn(text, "0");
	bool right = *text && !text[strspn(text, "0123456789")] && strlen(text + zeros) <= 9 &&
	             atoi(text) >= low && atoi(text) <= high;

	MUST(parse_number(text, low, high, &number) == right);
	MUST(!right || number == atoi(text));
}

static void
check_date(int64_t seconds)
{
	static const int64_t last = INT64_C(253402300799); /* of the year 9999 */
	char text[DATE_SIZE], expected[64];
	time_t time = seconds < 0 ? 0 : seconds > last ? last : seconds;
	struct tm parts;

	strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&time, &parts));
	MUST(strcmp(date_text((time_t)seconds, text), expected) == 0);
}

static void
target_time(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 1);
	const char *text = strings.list[0];
	nanoseconds time = -1;
	int64_t number = 0;
	char answer[32];

	MUST(parse_time(text, &time) == (time >= 0));
	snprintf(answer, sizeof(answer), "%lld", (long long)time);
	refer(32, text, answer);
	check_number(text, 0, 255);
	check_number(text, 1, 1000);
	memcpy(&number, data, size < sizeof(number) ? size : sizeof(number));
	check_date(number);
	strings_free(&strings);
}

/* ---- What is shown ---- */

static void
check_show(const char *text)
{
	const char *shown = show(text);
	size_t length = strlen(shown);

	MUST(length < SHOWN_SIZE && is_utf8(shown, true));
	MUST(!is_utf8(text, true) || strlen(text) > SHOWN_SIZE - 8 || strcmp(text, shown) == 0);
	MUST(strlen(text) < SHOWN_SIZE || strcmp(shown + length - 3, "...") == 0);
}

/* One line, that a terminal or a log can be given. */
static void
check_line(const char *line, size_t size)
{
	char *copy = copy_of(line, size);

	MUST(size && memchr(line, '\n', size) == line + size - 1);
	copy[size - 1] = '\0';
	MUST(strlen(copy) == size - 1 && is_utf8(copy, true));
	free(copy);
}

/* A row whose key and command are these, as table and as JSON, which reference.py reads. */
static char *
row_shown(char *key, const char *command, bool json, size_t *size)
{
	char path[PATH_MAX];
	struct directory directory = {.path = path};
	struct seat holders[2] = {{.pid = 7919}, {.pid = 812}};
	struct row row = {.name = "x", .key = key, .slot = 1, .state = "held"};
	char *text = NULL;
	FILE *saved = stdout;

	snprintf(path, sizeof(path), "%s", key);
	snprintf(row.command, sizeof(row.command), "%s", command);
	row.holders = (struct seats){.list = holders, .count = 2};
	stdout = memory_stream(&text, size);
	if (json)
		row_json(&row, &(struct listing){.directory = &directory});
	else
		row_print(&row);
	fclose(stdout);
	stdout = saved;
	return text;
}

static void
target_shown(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 2);

	for (size_t i = 0; i < 2; i++) {
		check_show(strings.list[i]);
		said_size = 0;
		say(0, "%s", show(strings.list[i]));
		check_line(said, said_size);
		for (int json = 0; json < 2; json++) {
			size_t length;
			const char *command = strings.list[json ? i : 1 - i];
			char *line = row_shown(strings.list[i], command, json, &length);

			if (json) /* where C1 controls may stand (RFC 8259) */
				MUST(strpbrk(line, "\n\t\r\x1b\x7f") == line + length - 1 &&
				     is_utf8(line, false));
			else
				check_line(line, length);
			if (json)
				refer(4, strings.list[i], line);
			free(line);
		}
	}
	strings_free(&strings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct {
		const char *name;
		void (*run)(const uint8_t *data, size_t size);
	} targets[] = {
	    {"name", target_name},     {"file", target_file}, {"options", target_options},
	    {"record", target_record}, {"read", target_read}, {"time", target_time},
	    {"shown", target_shown},
	};
	const char *name = getenv("FUZZ_TARGET");

	for (size_t i = 0; i < sizeof(targets) / sizeof(*targets); i++)
		if (strcmp(name, targets[i].name) == 0)
			targets[i].run(data, size);
	return 0;
}

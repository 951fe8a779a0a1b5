/*
 * fuzz - what keylock makes of text that others have written
 *
 * keylock.c itself is taken in, so that its functions can be called one by one. With
 * libFuzzer (fuzz.sh), FUZZ_TARGET names what the inputs are given to:
 *
 *	name     a key: its name is read back as it
 *	file     a name found in the directory: only what is made from a key is read as one
 *	options  KEYLOCK_DIR and a command line: a usage error of one line, or what may go together
 *	record   the bytes of a lockfile: text of one line, and our own record read back
 *	read     /proc's fdinfo and stat
 *	time     TIME, numbers and dates
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
static struct given {
	const char *bytes;
	size_t size, piece, at;
} given;

/* What was written, to be looked at, and what KEYLOCK_DIR is. */
static char said[8192];
static size_t said_size;
static char *environment_directory;

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

/*
 * An input, and split at its NULs into strings, two at least: each a copy of its own, so that
 * reading past its end is seen.
 */
enum { STRINGS = 64 };

struct input {
	const uint8_t *data;
	size_t size, count;
	char *list[STRINGS + 1];
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

static struct input
input_of(const uint8_t *data, size_t size)
{
	struct input input = {.data = data, .size = size};

	for (size_t at = 0; input.count < STRINGS && (at < size || !input.count);) {
		const uint8_t *end = at < size ? memchr(data + at, '\0', size - at) : NULL;
		size_t length = end ? (size_t)(end - data) - at : size - at;

		input.list[input.count++] = copy_of(data + at, length);
		at += length + 1;
	}
	if (input.count == 1)
		input.list[1] = copy_of("", 0);
	return input;
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

/* One line, that a terminal or a log can be given; JSON may have C1 controls (RFC 8259). */
static void
check_line(char *line, size_t size, bool json)
{
	MUST(size && line[size - 1] == '\n');
	line[size - 1] = '\0';
	MUST(strlen(line) == size - 1 && is_utf8(line, !json));
	MUST(!strpbrk(line, "\n\t\r\x1b\x7f"));
	line[size - 1] = '\n';
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

/* That the name of a key, and those of its slots, are read back as it. */
static void
target_name(const struct input *input)
{
	const char *key = input->list[0];
	char name[NAME_SIZE], back[NAME_SIZE], again[NAME_SIZE];
	bool hashed;
	int slot;

	memset(name, 'x', NAME_SIZE);
	if (*key)
		name_of_key(key, name);
	for (int number = 1; *key && number <= SLOTS_MAX; number = number * 13 + 1) {
		slot_name(name, number, again);
		MUST(key_of_name(again, back, &slot, &hashed));
		MUST(slot == number && strcmp(back, hashed ? name : key) == 0);
	}
	refer(4, key, name);
}

/* A name of a file in the directory, whoever made it. */
static void
target_file(const struct input *input)
{
	char key[NAME_SIZE], again[NAME_SIZE], base[NAME_SIZE];
	const char *name = input->list[0];
	bool hashed;
	int slot;

	if (strlen(name) <= 255 && key_of_name(name, key, &slot, &hashed)) {
		MUST(slot >= 1 && slot <= SLOTS_MAX);
		if (hashed)
			strcpy(base, key);
		else
			name_of_key(key, base);
		slot_name(base, slot, again);
		MUST(strcmp(again, name) == 0);
	}
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
target_options(const struct input *input)
{
	char *argv[STRINGS + 1], *keys[STRINGS + 1] = {0};
	struct options options = {
	    .wait = FOREVER, .warn_held = FOREVER, .conflict_status = TAKEN, .keys = keys};
	char *printed_text = NULL;
	FILE *saved = stdout;
	size_t length;
	int status;

	memcpy(argv, input->list, sizeof(argv));
	environment_directory = strcmp(argv[0], "-") == 0 ? NULL : argv[0];
	said_size = 0;
	optind = 0; /* getopt(3) begins anew */
	getopt(1, argv, "+");
	optind = 1;
	stdout = memory_stream(&printed_text, &length); /* for --help and --version */
	status = parse(&options, (int)input->count, argv);
	fclose(stdout);
	stdout = saved;
	free(printed_text);
	MUST(status == 0 || status == USAGE || status == DONE);
	MUST((status == USAGE) == (said_size > 0) && (status == DONE) == (length > 0));
	if (status == USAGE) {
		MUST(said_size > strlen("keylock: \n") && memcmp(said, "keylock: ", 9) == 0);
		check_line(said, said_size, false);
	} else if (!status) {
		check_options(&options);
	}
	if (options.automatic)
		free(keys[0]);
	environment_directory = NULL;
}

/* ---- Record ---- */

/* Read these bytes as those of a lockfile: one line of text, of that or that it cannot be read. */
static void
check_record(const char *bytes, size_t size, char text[RECORD_SIZE])
{
	memset(text, 'x', RECORD_SIZE);
	record_text(bytes, size, text);
	MUST(is_utf8(text, true) && strncmp(text, "pid=", 4) == 0);
	MUST(strcmp(text, "pid=? since=? cause=unreadable command=?") == 0 ||
	     (size == RECORD_SIZE && memcmp(bytes + 9, text, strlen(text)) == 0));
	MUST(strstr(text, " since=") && strstr(text, " cause=") && strstr(text, " command="));
}

static void
target_record(const struct input *input)
{
	const char *command = input->list[0], *name = strrchr(command, '/');
	struct record own = {.since = "2026-11-24T23:26:16Z"};
	char *bytes = copy_of(input->data, input->size);
	char padded[RECORD_SIZE + 1], text[RECORD_SIZE], expected[2 * SHOWN_SIZE];

	check_record(bytes, input->size, text);
	/* As a record is: blanks and a newline at its end. */
	snprintf(padded, sizeof(padded), "%-191.191s\n", command);
	check_record(padded, RECORD_SIZE, text);
	/* Our own, of a command of that name; as much of it as fits. */
	record_compose(&own, "exit-143", command);
	MUST(strlen(own.own) == RECORD_SIZE && own.own[RECORD_SIZE - 1] == '\n');
	check_record(own.own, RECORD_SIZE, text);
	snprintf(expected, sizeof(expected), "pid=%d since=%s cause=exit-143 command=%s",
	         (int)getpid(), own.since, show(name ? name + 1 : command));
	MUST(strncmp(text, expected, strlen(text)) == 0);
	free(bytes);
}

/* ---- What is read ---- */

/* fdinfo: any bytes, and a line as the kernel writes it of a ticket, or of what is none. */
static void
check_fdinfo(const char *bytes, size_t size)
{
	char line[256];
	struct seat seat = {.pid = 1}, other = {.pid = 1};
	int64_t number = 0;

	given = (struct given){bytes, size, size, 0};
	if (size)
		seat_read(&other, 3);
	MUST(other.pid == 1 && (!other.ticket || other.ticket >= TICKETS));
	memcpy(&number, bytes, size < sizeof(number) ? size : sizeof(number));
	number = number & 1 ? number & 4095 : number & INT64_MAX >> 1;
	snprintf(line, sizeof(line), "lock:\t1: OFDLCK  ADVISORY  WRITE -1 00:1c:%d %lld %lld\n",
	         812, (long long)number, (long long)number);
	given = (struct given){line, strlen(line), size + 1, 0};
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

	given = (struct given){bytes, size, size, 0};
	if (size)
		process_parent(&pid, &parent);
	memcpy(name, bytes, size < 63 ? size : 63);
	snprintf(stat, sizeof(stat), "812 (%s) S %d 812 812 0 -1 4194560 98\n", name, expected);
	given = (struct given){stat, strlen(stat), 1 + size % 64, 0};
	pid = 0;
	if (strchr(name, '\n')) /* the kernel escapes it there */
		return;
	MUST(process_parent(&pid, &parent) && pid == 812 && parent == expected);
}

static void
target_read(const struct input *input)
{
	char *bytes = copy_of(input->data, input->size);

	check_fdinfo(bytes, input->size);
	check_stat(bytes, input->size);
	free(bytes);
}

/* ---- Time and numbers ---- */

/* A number is all digits, and in the range. */
static void
check_number(const char *text, int low, int high)
{
	int number = -1;
	bool right = *text && !text[strspn(text, "0123456789")] && strtod(text, NULL) >= low &&
	             strtod(text, NULL) <= high;

	MUST(parse_number(text, low, high, &number) == right);
	MUST(!right || number == (int)strtod(text, NULL));
}

static void
target_time(const struct input *input)
{
	const char *text = input->list[0];
	nanoseconds time = -1;
	int64_t number = 0;
	char answer[32], date[DATE_SIZE];

	MUST(parse_time(text, &time) == (time >= 0));
	snprintf(answer, sizeof(answer), "%lld", (long long)time);
	refer(32, text, answer);
	check_number(text, 0, 255);
	check_number(text, 1, 1000);
	memcpy(&number, input->data, input->size < sizeof(number) ? input->size : sizeof(number));
	MUST(strlen(date_text((time_t)number, date)) == strlen("2026-11-24T23:26:16Z"));
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
target_shown(const struct input *input)
{

	for (size_t i = 0; i < 2; i++) {
		check_show(input->list[i]);
		said_size = 0;
		say(0, "%s", show(input->list[i]));
		check_line(said, said_size, false);
		for (int json = 0; json < 2; json++) {
			size_t length;
			const char *command = input->list[json ? i : 1 - i];
			char *line = row_shown(input->list[i], command, json, &length);

			check_line(line, length, json);
			if (json)
				refer(4, input->list[i], line);
			free(line);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct {
		const char *name;
		void (*run)(const struct input *input);
	} targets[] = {
	    {"name", target_name},     {"file", target_file}, {"options", target_options},
	    {"record", target_record}, {"read", target_read}, {"time", target_time},
	    {"shown", target_shown},
	};
	struct input input = input_of(data, size);
	const char *name = getenv("FUZZ_TARGET");

	for (size_t i = 0; i < sizeof(targets) / sizeof(*targets); i++)
		if (strcmp(name, targets[i].name) == 0)
			targets[i].run(&input);
	for (char **text = input.list; *text; text++)
		free(*text);
	return 0;
}

/*
 * fuzz - what keylock makes of text that others have written
 *
 * keylock.c itself is taken in, so that its functions can be called one by one. With
 * libFuzzer (fuzz.sh), FUZZ_TARGET names what the inputs are given to:
 *
 *	name     two keys: allowed names, the same one only for the same key, and back again
 *	file     a name found in the directory: only what is made from a key is read as one
 *	options  KEYLOCK_DIR and a command line: a usage error of one line, or what may go together
 *	record   the bytes of a lockfile: text of one line, --list, and our own record read back
 *	read     /proc's fdinfo, stat, cmdline and comm, and standard input, in pieces of any size
 *	time     TIME, numbers, dates and ages, beside arithmetic done another way
 *	shown    messages, the table and JSON: no control characters, UTF-8, and nothing lost in
 *JSON
 *
 * No system call is asked for what is read: calls that read are caught by macros and
 * answered with the input. An input that is found wrong ends the program by abort().
 *
 * Built with -DBATCH it is a program that writes pairs for reference.py to check:
 *
 *	fuzz name|time|shown SEED COUNT [FILE]...
 *
 * for each FILE as an input and for COUNT random ones: text NUL answer NUL.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define _TIME_BITS 64

#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What can be read from the descriptor GIVEN, or from 0, at most `piece` bytes at a time. */
enum { GIVEN = 1 << 20 };

static struct {
	const char *bytes;
	size_t size;
	size_t at;
	size_t piece;
} given;

/* What was written, to be looked at. */
static char said[8192];
static size_t said_size;

/* What KEYLOCK_DIR is. */
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
fuzz_openat(int directory, const char *path, int flags, ...)
{
	(void)directory, (void)path, (void)flags;
	return GIVEN;
}

static int
fuzz_close(int fd)
{
	(void)fd;
	return 0;
}

static char *
fuzz_getenv(const char *name)
{
	return strcmp(name, "KEYLOCK_DIR") == 0 ? environment_directory : NULL;
}

/* Memory is the heap's, where each byte past its end is seen. */
static void *
fuzz_mremap(void *memory, size_t size, size_t wanted)
{
	char *bytes = calloc(1, wanted);

	if (!bytes)
		return MAP_FAILED;
	if (memory)
		memcpy(bytes, memory, size < wanted ? size : wanted);
	free(memory);
	return bytes;
}

static int
fuzz_munmap(void *memory, size_t size)
{
	(void)size;
	free(memory);
	return 0;
}

static ssize_t
fuzz_pread(char *bytes, size_t room, size_t at)
{
	size_t left = given.size - at;
	size_t count = left < room ? left : room;

	memcpy(bytes, given.bytes + at, count);
	return (ssize_t)count;
}

static ssize_t
fuzz_read(char *bytes, size_t room)
{
	ssize_t count = fuzz_pread(bytes, room < given.piece ? room : given.piece, given.at);

	given.at += (size_t)count;
	return count;
}

static int
fuzz_fstat(struct stat *file)
{
	*file = (struct stat){.st_mode = S_IFREG | S_ISVTX, .st_nlink = 1};
	file->st_size = (off_t)given.size;
	return 0;
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

#define mmap(memory, size, ...) fuzz_mremap(NULL, 0, size)
#define mremap(memory, size, wanted, flags) fuzz_mremap(memory, size, wanted)
#define munmap(memory, size) fuzz_munmap(memory, size)
#define openat(...) fuzz_openat(__VA_ARGS__)
#define close(fd) fuzz_close(fd)
#define read(fd, bytes, room) fuzz_read((char *)(bytes), room)
#define pread(fd, bytes, room, at) fuzz_pread((char *)(bytes), room, at)
#define fstat(fd, file) fuzz_fstat(file)
#define write(fd, bytes, size) fuzz_write((const char *)(bytes), size)
#define getenv(name) fuzz_getenv(name)
#define option keylock_option /* getopt.h has one, too */
#define main keylock_main

#ifndef __clang__ /* "make lint" has it analyse keylock.c by itself; here it errs */
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#pragma GCC diagnostic ignored "-Wanalyzer-use-of-uninitialized-value"
#endif
#include "../../keylock.c" /* NOLINT(bugprone-suspicious-include): the subject */

#undef mmap
#undef mremap
#undef munmap
#undef openat
#undef close
#undef read
#undef pread
#undef fstat
#undef write
#undef getenv
#undef option
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

static void
strings_free(struct strings *strings)
{
	for (size_t i = 0; i < strings->count; i++)
		free(strings->list[i]);
}

/* Whether text is UTF-8 (RFC 3629), by the numbers of its characters. */
static bool
is_utf8(const char *text)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	const unsigned char *byte = (const unsigned char *)text;

	while (*byte) {
		int more = *byte < 0x80 ? 0 : *byte < 0xe0 ? 1 : *byte < 0xf0 ? 2 : 3;
		uint32_t number = more ? *byte & (0x3fU >> more) : *byte;

		if ((*byte >= 0x80 && *byte < 0xc0) || *byte >= 0xf8)
			return false;
		byte++;
		for (int i = 0; i < more; i++, byte++) {
			if ((*byte & 0xc0) != 0x80)
				return false;
			number = number << 6 | (*byte & 0x3f);
		}
		if (number < least[more] || number > 0x10ffff ||
		    (number >= 0xd800 && number < 0xe000))
			return false;
	}
	return true;
}

/* Whether text can be given to a terminal: UTF-8 without control characters. */
static bool
is_clean(const char *text)
{
	for (const unsigned char *byte = (const unsigned char *)text; *byte; byte++)
		if (*byte < 0x20 || *byte == 0x7f ||
		    (byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] < 0xa0))
			return false;
	return is_utf8(text);
}

/* ---- Key to file name, and back ---- */

/* Whether `name` is one that section 5 of the design allows, without a slot. */
static bool
is_name(const char *name, bool *hashed)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789._-+@:,=";
	const char *rest = name;

	*hashed = false;
	if (*name == '.' || !*name || strlen(name) > 200)
		return false;
	for (;;) {
		rest += strspn(rest, plain);
		if (*rest != '%' || strspn(rest + 1, "0123456789ABCDEF") < 2)
			break;
		rest += 3;
	}
	*hashed = strncmp(rest, "%h", 2) == 0 && strlen(rest) == 66 &&
	          strspn(rest + 2, "0123456789abcdef") == 64;
	return *hashed || !*rest;
}

/* What holds for one key; writes its name. */
static void
check_key(const char *key, char name[NAME_SIZE])
{
	char back[NAME_SIZE], again[NAME_SIZE];
	bool hashed, told;
	int slot;

	memset(name, 'x', NAME_SIZE);
	name_of_key(key, name);
	MUST(is_name(name, &hashed));
	for (int number = 1; number <= SLOTS_MAX; number = number * 13 + 1) {
		slot_name(again, name, number);
		MUST(key_of_name(again, back, &slot, &told));
		MUST(slot == number && told == hashed);
		MUST(strcmp(back, hashed ? name : key) == 0);
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
	bool hashed, told;
	int slot;

	if (strlen(name) <= 255 && key_of_name(name, key, &slot, &told)) {
		MUST(slot >= 1 && slot <= SLOTS_MAX);
		if (told)
			compose(base, sizeof(base), "%s", key);
		else
			name_of_key(key, base);
		slot_name(again, base, slot);
		MUST(strcmp(again, name) == 0);
		MUST(is_name(base, &hashed) && hashed == told);
		MUST(!hashed || strlen(base) >= 198);
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

	if (options->action == SHOW_HELP || options->action == SHOW_VERSION)
		return;
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
	MUST(runs == (options->command != NULL));
	MUST(!runs || options->command[0]);
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

	char *line = calloc(key_line_size(options), 1);

	MUST(line);

	key_line(options, line);
	MUST(strncmp(line, "KEYLOCK_KEY=", 12) == 0);
	MUST(strlen(line) < key_line_size(options));
	free(line);
}

/*
 * Take the options by getopt_long(3), which was told the same of them. Returns 0, with
 * optind at what is behind them, or USAGE.
 */
static int
parse_again(struct options *options, int argc, char **argv)
{
	enum { KNOWN = sizeof(known_options) / sizeof(*known_options) };
	static struct option long_options[KNOWN];
	static char letters[3 * KNOWN] = "+:e", *end = letters + 3;
	int option, status = 0;

	for (size_t i = 0; i < KNOWN && !long_options[0].name; i++) {
		const struct keylock_option *known = &known_options[KNOWN - 1 - i];

		long_options[KNOWN - 1 - i] =
		    (struct option){known->name, known->takes_value, NULL, known->letter};
		if (known->name && known->letter < LONG_ONLY)
			end += sprintf(end, "%c%s", known->letter, known->takes_value ? ":" : "");
	}
	opterr = 0;
	optind = 0; /* begin anew */
	while (!status && (option = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		static char none[] = "";

		if (option == '?' || option == ':')
			status = USAGE;
		else
			status = parse_option(options, option == 'e' ? 'x' : option,
			                      optarg ? optarg : none);
	}
	return status;
}

/* That what both ways of reading the options have made of them is the same. */
static void
check_same(const struct options *one, const struct options *other)
{
	MUST(one->action == other->action && one->key_count == other->key_count);
	MUST(one->shared == other->shared && one->close_lock == other->close_lock);
	MUST(one->in_place == other->in_place && one->linger == other->linger);
	MUST(one->automatic == other->automatic && one->reentrant == other->reentrant);
	MUST(one->refuse_abandoned == other->refuse_abandoned);
	MUST(one->recover == other->recover && one->json == other->json);
	MUST(one->verbose == other->verbose && one->quiet == other->quiet);
	MUST(one->wait == other->wait && one->warn_held == other->warn_held);
	MUST(one->conflict_status == other->conflict_status && one->slots == other->slots);
	MUST(!other->directory || one->directory == other->directory);
	for (size_t i = 1; i < one->key_count; i++)
		MUST(one->keys[i] == other->keys[i]);
}

static void
target_options(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 1);
	char *argv[STRINGS + 1], *keys[STRINGS + 1] = {0}, *again[STRINGS + 1] = {0};
	struct options options = {
	    .wait = FOREVER, .warn_held = FOREVER, .conflict_status = TAKEN, .keys = keys};
	struct options other = options;
	int status;

	memcpy(argv, strings.list, sizeof(argv));
	environment_directory = strcmp(argv[0], "-") == 0 ? NULL : argv[0];
	status = parse(&options, argv);
	MUST(status == 0 || status == USAGE);
	if (status) {
		said_size = 0;
		say("%s", options.problem);
		MUST(said_size > strlen("keylock: \n"));
		MUST(memchr(said, '\n', said_size) == said + said_size - 1);
		said[said_size - 1] = '\0';
		MUST(strlen(said) == said_size - 1 && is_clean(said));
	} else {
		check_options(&options);
	}
	other.keys = again;
	other.key_count = 1;
	if (parse_again(&other, (int)strings.count, argv) != 0) {
		MUST(status == USAGE);
	} else {
		if (options.action == LIST && !status) {
			MUST(options.keys == argv + optind);
			options.keys = keys;
		}
		check_same(&options, &other);
		if (!status && other.action < SHOW_HELP && other.action != LIST)
			MUST(options.automatic ? options.command == argv + optind
			                       : keys[0] == argv[optind]);
	}
	if (options.automatic && options.command)
		free(keys[0]);
	environment_directory = NULL;
	strings_free(&strings);
}

/* ---- JSON ---- */

/*
 * Read the JSON string at *text back to bytes (RFC 8259), as Python does with
 * surrogateescape; NULL where it is none. The caller frees it.
 */
static char *
json_string(const char **text)
{
	const char *at = *text;
	char *bytes, *end;

	if (*at++ != '"')
		return NULL;
	bytes = end = copy_of(at, strlen(at));
	for (; *at != '"'; at++) {
		unsigned number;

		*end = *at;
		if (*at == '\\' && (at[1] == '"' || at[1] == '\\')) {
			*end = *++at;
		} else if (*at == '\\' && at[1] == 'u' && strspn(at + 2, "0123456789abcdef") >= 4 &&
		           sscanf(at + 2, "%4x", &number) == 1 &&
		           (number < 0x80 || (number >= 0xdc80 && number <= 0xdcff))) {
			*end = (char)(number & 0xff);
			at += 5;
		} else if ((unsigned char)*at < 0x20 || *at == '\\' || *at == 0x7f) {
			free(bytes);
			return NULL;
		}
		end++;
	}
	*end = '\0';
	*text = at + 1;
	return bytes;
}

/* That `,"name":` is next. */
static void
json_field(const char **text, const char *name)
{
	char *found;

	MUST(**text == (strcmp(name, "key") == 0 ? '{' : ','));
	++*text;
	found = json_string(text);
	MUST(found && strcmp(found, name) == 0 && *(*text)++ == ':');
	free(found);
}

/* That a string or null is next, and says `value`. */
static void
json_value(const char **text, const char *value)
{
	char *found = json_string(text);

	if (!found) {
		MUST(!value && strncmp(*text, "null", 4) == 0);
		*text += 4;
	} else {
		MUST(value && strcmp(found, value) == 0);
		free(found);
	}
}

static void
json_number(const char **text, long number)
{
	char *end;

	MUST(**text >= '0' && **text <= '9');
	MUST(strtol(*text, &end, 10) == number);
	*text = end;
}

/* That the lines of `text` are an object each, one for each row that has a state. */
static void
check_json(const struct directory *directory, const struct rows *rows, const char *text)
{
	for (size_t i = 0; i < rows->count; i++) {
		const struct row *row = &rows->list[i];
		char value[RECORD_SIZE], path[PATH_MAX + NAME_SIZE];
		bool in_doubt = row->record[0];
		char *since;

		if (!row_state(row))
			continue;
		json_field(&text, "key");
		json_value(&text, row->whole_key ? row->whole_key : row->hashed ? NULL : row->key);
		json_field(&text, "state");
		json_value(&text, row_state(row));
		json_field(&text, "mode");
		json_value(&text, row_mode(rows, row));
		json_field(&text, "slot");
		json_number(&text, row->slot);
		json_field(&text, "pids");
		MUST(*text++ == '[');
		for (size_t j = 0; j < row->count; j++) {
			MUST(j == 0 || *text++ == ',');
			json_number(&text, rows->holders[row->first + j].pid);
		}
		MUST(*text++ == ']');
		json_field(&text, "since");
		since = json_string(&text);
		text += since ? 0 : strlen("null");
		free(since);
		json_field(&text, "waiting");
		json_number(&text, (long)row->glance.waiting);
		json_field(&text, "command");
		json_value(&text, in_doubt ? record_field(row->record, "command=", value)
		                           : row_command(rows, row));
		json_field(&text, "path");
		snprintf(path, sizeof(path), "%s/%s", directory->path, row->name);
		json_value(&text, path);
		if (in_doubt) {
			json_field(&text, "cause");
			json_value(&text, record_field(row->record, "cause=", value));
		}
		MUST(*text++ == '}' && *text++ == '\n');
	}
	MUST(!*text);
}

/* That the table has a line for each row that has a state and one above them. */
static void
check_table(const struct rows *rows, char *text)
{
	size_t lines = 0, states = 0;
	char cell[CELL_SIZE];

	for (size_t i = 0; i < rows->count; i++) {
		if (!row_state(&rows->list[i]))
			continue;
		states++;
		for (int column = 0; column < COLUMNS; column++)
			MUST(is_clean(row_cell(rows, &rows->list[i], column, cell)));
	}
	for (; *text; lines++) {
		char *end = strchr(text, '\n');

		MUST(end);
		*end = '\0';
		MUST(is_clean(text));
		text = end + 1;
	}
	MUST(lines == (states ? states + 1 : 0));
}

/* List the rows both ways. */
static void
check_rows(const struct directory *directory, const struct rows *rows)
{
	struct text table = {0}, json = {0};

	rows_table(rows, &table);
	text_add(&table, "%s", ""); /* it has bytes, also where nothing was added */
	check_table(rows, table.bytes);
	text_add(&json, "%s", "");
	for (size_t i = 0; i < rows->count; i++)
		if (row_state(&rows->list[i]))
			row_json(directory, rows, &rows->list[i], &json);
	MUST(!table.failed && !json.failed);
	check_json(directory, rows, json.bytes);
	free(table.bytes);
	free(json.bytes);
}

/* ---- Record ---- */

/* Give keylock a lockfile with these bytes, each way that it reads one. */
static void
check_record(const char *bytes, size_t size)
{
	static const struct directory directory = {.path = "/dir", .fd = GIVEN};
	struct row row = {.name = "key", .key = "key", .slot = 1, .glance = {.size = 1}};
	struct rows rows = {.list = &row, .count = 1};
	struct record record = {0};
	struct lock lock = {.name = "key", .fd = GIVEN};
	char text[RECORD_SIZE];
	size_t known;

	memset(text, 'x', sizeof(text));
	give(bytes, size, size);
	record_text(bytes, size, text);
	MUST(is_clean(text) && strncmp(text, "pid=", 4) == 0);
	known = strspn(text + 4, "0123456789");
	MUST(strcmp(text, "pid=? since=? cause=unreadable command=?") == 0 ||
	     (known && text[4 + known] == ' ' && size == RECORD_SIZE &&
	      strncmp(bytes + 9, text, strlen(text)) == 0));
	MUST(strstr(text, " since=") && strstr(text, " cause=") && strstr(text, " command="));
	MUST(record_read(&directory, &lock, &record) == 0 && record.found == (size > 0));
	if (record.found && known) {
		char again[RECORD_SIZE];

		record_found_text(&record, again);
		MUST(strcmp(text, again) == 0);
		row_read_record(&directory, &row);
		MUST(strcmp(text, row.record) == 0);
		check_rows(&directory, &rows);
	}
}

/* Our own record of a command of that name can be read. */
static void
check_own_record(const char *command)
{
	static const char *const causes[] = {"killed", "signal-9", "exit-143", "input-ended"};
	const char *cause = causes[(unsigned char)*command % 4];
	const char *name = strrchr(command, '/');
	struct record record = {.since = "2026-11-24T23:26:16Z"};
	char text[RECORD_SIZE], shown[SHOWN_SIZE], expected[2 * SHOWN_SIZE];
	size_t fits;

	record_compose(&record, cause, command);
	MUST(strlen(record.own) == RECORD_SIZE && record.own[RECORD_SIZE - 1] == '\n');
	record_text(record.own, RECORD_SIZE, text);
	MUST(is_clean(text));
	show(name ? name + 1 : command, shown);
	snprintf(expected, sizeof(expected), "pid=%d since=%s cause=%s command=%s", (int)getpid(),
	         record.since, cause, shown);
	/* As much of it as fits, in whole characters and without blanks at its end. */
	fits = strnlen(expected, RECORD_SIZE - 1 - strlen("keylock1 "));
	for (; ((unsigned char)expected[fits] & 0xc0) == 0x80; fits--)
		;
	while (expected[fits - 1] == ' ')
		fits--;
	expected[fits] = '\0';
	MUST(strcmp(text, expected) == 0);
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

/* A number at the beginning of a text, 0 where there is none or it is too large. */
static int64_t
number_in(const char *text)
{
	int64_t number = *text >= '0' && *text <= '9' ? strtoll(text, NULL, 10) : 0;

	return number == INT64_MAX ? 0 : number;
}

/* fdinfo, split by strtok_r(3) instead. */
static void
check_fdinfo(const char *bytes, size_t size, size_t piece)
{
	struct seat seat = {.pid = 1}, expected = {.pid = 1};
	char *text = copy_of(bytes, size < 4095 ? size : 4095), *lines, *line;

	give(bytes, size, piece);
	seat_learn(&seat);
	line = strtok_r(text, "\n", &lines);
	for (; line; line = strtok_r(NULL, "\n", &lines)) {
		char *field[9], *fields = NULL;
		size_t count = 0;

		for (char *from = line; count < 9; from = NULL, count++)
			if (!(field[count] = strtok_r(from, " \t", &fields)))
				break;
		if (count < 9 || strcmp(field[0], "lock:") != 0)
			continue;
		if (strcmp(field[2], "FLOCK") == 0) {
			expected.holds = true;
			expected.shared = strcmp(field[4], "READ") == 0;
			expected.taker =
			    number_in(field[5]) <= INT_MAX ? (pid_t)number_in(field[5]) : 0;
		} else if (strcmp(field[2], "OFDLCK") == 0) {
			int64_t start = number_in(field[7]);
			bool writes = strcmp(field[4], "WRITE") == 0;

			if (writes && start >= 1000 && start < INT64_C(1) << 61)
				expected.ticket = start;
			if (!writes && start == 3)
				expected.for_slots = true;
		}
	}
	MUST(seat.known && seat.holds == expected.holds && seat.shared == expected.shared);
	MUST(seat.taker == expected.taker && seat.ticket == expected.ticket);
	MUST(seat.for_slots == expected.for_slots);
	free(text);
}

/* stat: any text, and one as the kernel writes it with the text as the name. */
static void
check_stat(const char *bytes, size_t size, size_t piece)
{
	char stat[512], name[64] = "";
	unsigned parent = (unsigned)(size * 7919 + 1);

	give(bytes, size, piece);
	MUST(parent_of(1) >= 0);
	memcpy(name, bytes, size < 63 ? size : 63);
	snprintf(stat, sizeof(stat), "812 (%s) S %u 812 812 0 -1 4194560 98", name, parent);
	give(stat, strlen(stat), piece);
	MUST(parent_of(1) == (pid_t)parent);
}

/* cmdline and comm. */
static void
check_command(const char *bytes, size_t size, size_t piece)
{
	size_t length = size < 4095 ? size : 4095;
	char name[64], *expected = copy_of(bytes, length);
	struct rows rows = {0};
	struct row row = {0};

	for (size_t i = 0; i + 1 < length; i++)
		if (!expected[i])
			expected[i] = ' ';
	give(bytes, size, piece);
	row.command = rows_add_command(&rows, 1);
	MUST(!row.command == !size);
	MUST(!size || strcmp(row_command(&rows, &row), expected) == 0);
	free(rows.commands.bytes);
	free(expected);
	give(bytes, size, piece);
	MUST(strcspn(name_of_process(1, name), "\n") < 64);
	MUST(size ? strncmp(name, bytes, strlen(name)) == 0 : true);
}

/* What --hold reads from its caller: whether the last whole line is "done". */
static void
check_hold(const char *bytes, size_t size, size_t piece)
{
	const char *end = memrchr(bytes, '\n', size);
	const char *before = end ? memrchr(bytes, '\n', (size_t)(end - bytes)) : NULL;
	const char *start = before ? before + 1 : bytes;
	bool expected = end && end - start == 4 && memcmp(start, "done", 4) == 0;
	bool done = false;
	char line[8];
	size_t used = 0;

	give(bytes, size, piece);
	while (hold_read(line, &used, &done))
		MUST(used <= sizeof(line));
	MUST(done == expected);
}

static void
target_read(const uint8_t *data, size_t size)
{
	size_t piece = size ? *data % 64 + 1U : 1;
	char *bytes = copy_of(data + (size ? 1 : 0), size - (size ? 1 : 0));

	size -= size ? 1 : 0;
	check_fdinfo(bytes, size, piece);
	check_stat(bytes, size, piece);
	check_command(bytes, size, piece);
	check_hold(bytes, size, piece);
	free(bytes);
}

/* ---- Time and numbers ---- */

__extension__ typedef unsigned __int128 wide;

/*
 * TIME in nanoseconds, rounded up; -1 where it is none or too long. With `more`, digits
 * behind the twentieth decimal, which are not counted, may make it one more.
 */
static nanoseconds
time_of(const char *text, bool *more)
{
	static const wide most = (wide)1 << 100, scale = (wide)10000000000 * 10000000000;
	wide whole = 0, fraction = 0, unit;
	size_t digits = 0, decimals = 0;

	*more = false;
	for (; *text >= '0' && *text <= '9'; text++, digits++)
		whole = whole > most ? most : whole * 10 + (unsigned)(*text - '0');
	if (*text == '.')
		for (text++; *text >= '0' && *text <= '9'; text++, digits++, decimals++) {
			*more = *more || (decimals >= 20 && *text != '0');
			if (decimals < 20)
				fraction = fraction * 10 + (unsigned)(*text - '0');
		}
	for (; decimals < 20; decimals++)
		fraction *= 10;
	unit = strcmp(text, "ms") == 0            ? 1000000
	       : !*text || strcmp(text, "s") == 0 ? 1000000000
	       : strcmp(text, "m") == 0           ? 60000000000
	       : strcmp(text, "h") == 0           ? 3600000000000
	       : strcmp(text, "d") == 0           ? 86400000000000
	                                          : 0;
	if (!digits || !unit || whole > (wide)INT64_MAX)
		return -1;
	whole = whole * unit + fraction * unit / scale + (*more || fraction * unit % scale ? 1 : 0);
	return whole < (wide)INT64_MAX ? (nanoseconds)whole : -1;
}

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
	char text[sizeof("2026-11-24T23:26:16Z")], expected[64];
	struct glance glance = {.held = true, .since.tv_sec = seconds};
	struct tm parts;
	time_t time = seconds;

	memset(text, 'x', sizeof(text));
	date_text(time, text);
	MUST(strlen(text) < sizeof(text) && is_clean(text));
	if (seconds >= 0 && seconds < INT64_C(253402300800)) { /* up to the year 9999 */
		strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&time, &parts));
		MUST(strcmp(text, expected) == 0);
	}
	age_of(&glance); /* only that it does not overflow */
}

static void
check_age(nanoseconds age)
{
	char text[32], units[2] = "ss";
	long long one, two = 0;
	int64_t seconds = age / SECOND;

	age_text(age, text);
	MUST(sscanf(text, "%lld%c%lld%c", &one, &units[0], &two, &units[1]) >= 2);
	MUST(one >= 0 && two >= 0 && strchr("smhd", units[0]) && strchr("smh", units[1]));
	one *= units[0] == 'd' ? 86400 : units[0] == 'h' ? 3600 : units[0] == 'm' ? 60 : 1;
	two *= units[1] == 'h' ? 3600 : units[1] == 'm' ? 60 : 1;
	MUST(one + two <= seconds && seconds - one - two < (one >= 86400 ? 3600 : 60));
}

static void
target_time(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 1);
	const char *text = strings.list[0];
	bool more, read;
	nanoseconds time = -1, expected = time_of(text, &more);
	int64_t number = 0;

	read = parse_time(text, &time);
	MUST(more || read == (expected >= 0));
	MUST(!read || time == expected || (more && time == expected + 1));
	check_number(text, 0, 255);
	check_number(text, 1, 1000);
	check_number(text, 2, 1000);
	memcpy(&number, data, size < sizeof(number) ? size : sizeof(number));
	check_date(number);
	check_date(strtoll(text, NULL, 10));
	check_age(number & INT64_MAX);
	strings_free(&strings);
}

/* ---- What is shown ---- */

/* compose() writes what snprintf(3) does. */
static void
check_compose(const char *text, long number)
{
	char one[64], other[64];
	int precision = (int)(number & 31);
	size_t length =
	    compose(one, sizeof(one), "%s|%.*s|%c|%d|%ld|%lld|%zu|%x|%08x|%03lld|%%", text,
	            precision, text, 'c', (int)number, number, (long long)number, (size_t)number,
	            (unsigned)number, (unsigned)number, number < 0 ? 7LL : (long long)number);

	MUST(length == (size_t)snprintf(other, sizeof(other),
	                                "%s|%.*s|%c|%d|%ld|%lld|%zu|%x|%08x|%03lld|%%", text,
	                                precision, text, 'c', (int)number, number,
	                                (long long)number, (size_t)number, (unsigned)number,
	                                (unsigned)number, number < 0 ? 7LL : (long long)number));
	MUST(strcmp(one, other) == 0);
}

static void
check_show(const char *text)
{
	char shown[SHOWN_SIZE];
	size_t length;

	memset(shown, 'x', sizeof(shown));
	MUST(show(text, shown) == shown);
	length = strlen(shown);
	MUST(length < SHOWN_SIZE && is_clean(shown));
	MUST(!is_clean(text) || strlen(text) > SHOWN_SIZE - 8 || strcmp(text, shown) == 0);
	MUST(strlen(text) < SHOWN_SIZE || strcmp(shown + length - 3, "...") == 0);
}

static void
check_message(const char *text)
{
	said_size = 0;
	say("%s", text);
	MUST(said_size <= MESSAGE_SIZE && said[said_size - 1] == '\n');
	MUST(memcmp(said, "keylock: ", 9) == 0);
}

/* Rows, a string as key and one as command for each; the number makes the rest of them. */
static void
target_shown(const uint8_t *data, size_t size)
{
	struct strings strings = strings_of(data, size, 2);
	static struct holder holders[201]; /* more than a cell has room for */
	struct directory directory = {.path = strings.list[0]};
	struct row list[2] = {0};
	struct rows rows = {.list = list, .holders = holders};
	int64_t number = 0;

	memcpy(&number, data, size < sizeof(number) ? size : sizeof(number));
	for (size_t i = 0; i < strings.count && i < 4; i++) {
		check_show(strings.list[i]);
		check_message(strings.list[i]);
		check_compose(strings.list[i], (long)number);
	}
	for (int i = 0; i < 201; i++)
		holders[i] = (struct holder){7919 * (i + 1), 1, number >> 14 & 2};
	for (size_t i = 1; i + 1 < strings.count && rows.count < sizeof(list) / sizeof(*list);
	     i += 2) {
		struct row *row = &list[rows.count];

		compose(row->name, sizeof(row->name), "%s", strings.list[i]);
		compose(row->key, sizeof(row->key), "%s", strings.list[i]);
		if (number >> rows.count & 1)
			row->whole_key = strings.list[i];
		row->hashed = number >> rows.count & 2;
		row->slot = (int)(number & 1023);
		row->glance.mode = number >> rows.count & 8 ? PINNED : 0;
		row->glance.held = number >> rows.count & 16;
		row->glance.since.tv_sec = (time_t)(number & UINT32_MAX);
		row->glance.waiting = (size_t)number & 0xfff;
		row->glance.count = number >> rows.count & 1;
		row->glance.marks[0] = number >> rows.count & 2 ? MARKS : SHARED_MARKS;
		row->first = (size_t)(number >> 14 & 1);
		row->count = number >> 15 & 1 ? 200 : (size_t)(number >> 8 & 7);
		rows.count++;
		if (!*row->key)
			compose(row->key, sizeof(row->key), "k");
		if (row->whole_key && !*row->whole_key)
			row->whole_key = NULL;
		if (number >> rows.count & 4) {
			give(strings.list[i + 1], strlen(strings.list[i + 1]), 4096);
			row->command = rows_add_command(&rows, 1);
		}
	}
	check_rows(&directory, &rows);
	free(rows.commands.bytes);
	strings_free(&strings);
}

static const struct target {
	const char *name;
	void (*run)(const uint8_t *data, size_t size);
} targets[] = {
    {"name", target_name},     {"file", target_file}, {"options", target_options},
    {"record", target_record}, {"read", target_read}, {"time", target_time},
    {"shown", target_shown},
};

/* The target of that name. */
static const struct target *
target_of(const char *name)
{
	for (size_t i = 0; i < sizeof(targets) / sizeof(*targets); i++)
		if (name && strcmp(name, targets[i].name) == 0)
			return &targets[i];
	fprintf(stderr, "fuzz: no such target: %s\n", name ? name : "FUZZ_TARGET is not set");
	exit(64);
}

#ifndef BATCH

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct target *target;

	if (!target)
		target = target_of(getenv("FUZZ_TARGET"));
	target->run(data, size);
	return 0;
}

#else

static uint64_t
next_random(uint64_t *state) /* splitmix64 */
{
	uint64_t word = *state += 0x9e3779b97f4a7c15;

	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
	word = (word ^ word >> 27) * 0x94d049bb133111eb;
	return word ^ word >> 31;
}

/*
 * A random text of 1 byte or more, most often short or such that its name is about
 * as long as a name may be, and of bytes that mean something somewhere.
 */
static size_t
random_text(uint64_t *state, char *text, bool time)
{
	static const char odd[] =
	    "%%%...hs0123456789ABCDEFabcdef/ \\\"\n\x7f\xc2\x9b\xe2\x82\xac\xff";
	uint64_t kind = next_random(state);
	size_t length = (size_t)(next_random(state) >> 8);
	unsigned plain = (unsigned)(kind >> 8) % 257; /* how many of 256 are letters */

	if (time)
		length = length % 24;
	else if (kind % 1024 == 0)
		length = length % 131000;
	else if (kind % 2)
		length = 40 + length % 190;
	else
		length = length % 12;
	length++;
	for (size_t i = 0; i < length; i++) {
		uint64_t word = next_random(state);
		size_t which = (size_t)(word >> 16);

		if (time)
			text[i] = "0123456789012345678900000999.smhdx"[which % 34];
		else if ((word & 255) < plain)
			text[i] = "etaoin.-_"[which % 9];
		else if (word >> 8 & 1)
			text[i] = odd[which % (sizeof(odd) - 1)];
		else
			text[i] = (char)(which % 255 + 1);
	}
	if (time && kind & 1024)
		text[length - 1] = "smhd"[kind >> 11 & 3];
	text[length] = '\0';
	return length;
}

/* Write the text and what keylock makes of it. */
static void
batch_line(const char *kind, const char *text, size_t length)
{
	char name[NAME_SIZE];

	if (!length || length > KEY_MAX_BYTES)
		return;
	fwrite(text, 1, length + 1, stdout);
	if (strcmp(kind, "name") == 0) {
		name_of_key(text, name);
		fwrite(name, 1, strlen(name) + 1, stdout);
	} else if (strcmp(kind, "time") == 0) {
		nanoseconds time = -1;

		printf("%lld%c", parse_time(text, &time) ? (long long)time : -1, '\0');
	} else {
		struct directory directory = {.path = text};
		struct row row = {.name = "x", .whole_key = text, .slot = 1, .glance.held = true};
		struct rows rows = {0};
		struct text line = {0};

		give(text, length, 4096);
		row.command = rows_add_command(&rows, 1);
		row_json(&directory, &rows, &row, &line);
		fwrite(line.bytes, 1, line.used + 1, stdout);
		free(rows.commands.bytes);
		free(line.bytes);
	}
}

int
main(int argc, char **argv)
{
	static char text[KEY_MAX_BYTES + 2];
	uint64_t state;

	if (argc < 4) {
		fputs("usage: fuzz name|time|shown SEED COUNT [FILE]...\n", stderr);
		return 64;
	}
	(void)target_of(argv[1]);
	state = strtoull(argv[2], NULL, 10);
	for (long count = strtol(argv[3], NULL, 10); count > 0; count--)
		batch_line(argv[1], text, random_text(&state, text, strcmp(argv[1], "time") == 0));
	for (int i = 4; i < argc; i++) {
		FILE *file = fopen(argv[i], "r");
		size_t size = file ? fread(text, 1, sizeof(text) - 1, file) : 0;

		for (size_t at = 0; at < size; at += strlen(text + at) + 1) {
			text[size] = '\0';
			batch_line(argv[1], text + at, strlen(text + at));
		}
		if (file)
			fclose(file);
	}
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}

#endif

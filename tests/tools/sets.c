/*
 * sets FILE COUNT WORKERS KEYLOCK: do runs that have a key in common ever run side by side?
 *
 * COUNT times, WORKERS side by side, runs "KEYLOCK [OPTION...] -k KEY... KEY sets -p FILE MODE
 * NUMBER..." with one to four of six keys, in any order, exclusive or shared, some with a time-out,
 * some with -n. The command asks for a lock of its own on the byte of each key in FILE: refused
 * means an overlap. Prints
 *
 *	runs		how many commands ran
 *	gave_up		how many keylocks with a time-out or -n ended with 75
 *	others		how many ended with anything else
 *	together	how often a command found another sharing one of its keys
 *	overlaps	what it says
 *	stuck		what had not ended 40 s after the last was started
 */
#include "probe.h"

enum { KEYS = 6, MOST_KEYS = 4 };

static char **args;
static int started, gave_up, others;

/* The command: name, mode, and the keys' numbers. */
static int
hold(char **argv)
{
	int file;
	bool shared = argv[1][0] == 's';
	struct counts *counts = open_counts(argv[0], &file);

	count(&counts->runs, 1);
	for (char **word = argv + 2; *word; word++) {
		if (!take(file, shared ? F_RDLCK : F_WRLCK, atol(*word)))
			count(&counts->overlaps, 1);
		if (shared && count(&counts->sharing[atol(*word)], 1) > 0)
			count(&counts->together, 1);
	}
	sleep_us(getpid() % 4 * 1000);
	for (char **word = argv + 2; *word && shared; word++)
		count(&counts->sharing[atol(*word)], -1);
	return 0;
}

static bool
start(struct worker *w, int index)
{
	static char names[KEYS][2] = {"a", "b", "c", "d", "e", "f"};
	static char numbers[KEYS][2] = {"0", "1", "2", "3", "4", "5"};
	static char modes[][3] = {"-x", "-s"}, options[][8] = {"-w0.02", "-n"}, k[] = "-k",
		    p[] = "-p";
	int order[KEYS] = {0}, keys = 1 + rand() % MOST_KEYS, n = 0, kind = rand() % 6;
	char *mode = modes[rand() % 3 == 0], *words[40];

	(void)index;
	if (started >= atoi(args[2]))
		return false;
	started++;
	for (int i = 0; i < KEYS; i++) {
		int j = rand() % (i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	words[n++] = args[4];
	words[n++] = mode;
	w->may_give_up = kind < 2;
	if (w->may_give_up)
		words[n++] = options[kind];
	for (int i = 1; i < keys; i++) {
		words[n++] = k;
		words[n++] = names[order[i]];
	}
	words[n++] = names[order[0]];
	words[n++] = args[0];
	words[n++] = p;
	words[n++] = args[1];
	words[n++] = mode + 1;
	for (int i = 0; i < keys; i++)
		words[n++] = numbers[order[i]];
	words[n] = NULL;
	w->pid = run_words(words, false);
	return true;
}

static void
ended(struct worker *w, int status)
{
	if (w->may_give_up && WIFEXITED(status) && WEXITSTATUS(status) == 75)
		gave_up++;
	else if (status != 0)
		others++;
}

int
main(int argc, char **argv)
{
	struct counts *counts;
	int file, stuck;

	if (argc > 4 && strcmp(argv[1], "-p") == 0)
		return hold(argv + 2);
	if (argc != 5)
		return 2;
	args = argv;
	counts = open_counts(argv[1], &file);
	stuck = run_workers(atoi(argv[3]), start, ended, NULL);
	printf("runs=%d gave_up=%d others=%d together=%d overlaps=%d stuck=%d\n", counts->runs,
	       gave_up, others, counts->together, counts->overlaps, stuck);
	return 0;
}

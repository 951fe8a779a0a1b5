/*
 * ended FILE COMMAND [ARGUMENT]...: runs COMMAND and writes to FILE how it ended, "exit N",
 * "signal N" or "signal N core", which a shell's $? cannot tell apart.
 */
#include "probe.h"

int
main(int argc, char **argv)
{
	int status;
	FILE *file;

	if (argc < 3 || waitpid(run_words(argv + 2, false), &status, 0) == -1 ||
	    (file = fopen(argv[1], "w")) == NULL)
		return 99;
	if (WIFEXITED(status))
		fprintf(file, "exit %d\n", WEXITSTATUS(status));
	else
		fprintf(file, "signal %d%s\n", WTERMSIG(status), WCOREDUMP(status) ? " core" : "");
	return fclose(file) == 0 ? 0 : 99;
}

/*
 * ended FILE COMMAND [ARGUMENT]...: runs COMMAND and writes to FILE how it ended, "exit N",
 * "signal N" or "signal N core", which a shell's $? cannot tell apart.
 */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	if (argc < 3)
		return 99;
	pid_t child = fork();
	if (child < 0) {
		perror("fork");
		return 99;
	}
	if (child == 0) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(99);
	}
	int status;
	if (waitpid(child, &status, 0) != child) {
		perror("waitpid");
		return 99;
	}
	FILE *file = fopen(argv[1], "w");
	if (!file) {
		perror(argv[1]);
		return 99;
	}
	if (WIFEXITED(status))
		fprintf(file, "exit %d\n", WEXITSTATUS(status));
	else
		fprintf(file, "signal %d%s\n", WTERMSIG(status), WCOREDUMP(status) ? " core" : "");
	return fclose(file) == 0 ? 0 : 99;
}

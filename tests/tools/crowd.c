/*
 * crowd COUNT COMMAND [ARGUMENT]...: run COMMAND COUNT times, all let go at the same instant.
 * Prints how they ended: lines "STATUS TIMES", with 128+N for death by signal N.
 */
#include "probe.h"

int
main(int argc, char **argv)
{
	int status, barrier[2], ends[256] = {0};
	char byte;

	if (argc < 3 || pipe(barrier) == -1)
		return 2;
	for (int i = atoi(argv[1]); i > 0; i--) {
		pid_t pid = fork();

		if (pid == 0) {
			close(barrier[1]);
			/* Ends with the end of file: when the parent closes its side. */
			if (read(barrier[0], &byte, 1) == 0 && close(barrier[0]) == 0)
				execvp(argv[2], argv + 2);
			_exit(127);
		}
		if (pid == -1)
			return 2;
	}
	close(barrier[0]);
	close(barrier[1]);
	while (wait(&status) != -1)
		ends[WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)]++;
	for (int i = 0; i < 256; i++)
		if (ends[i] > 0)
			printf("%d %d\n", i, ends[i]);
	return 0;
}

/*
 * crowd COUNT COMMAND [ARGUMENT]...: run COMMAND COUNT times, all let go at the same instant.
 * Prints how they ended: lines "STATUS TIMES", with 128+N for death by signal N.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	int count, status, barrier[2];
	int ends[256] = {0};

	if (argc < 3 || (count = atoi(argv[1])) < 1 || pipe(barrier) == -1)
		return 2;
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid == -1) {
			perror("crowd: fork");
			return 2;
		}
		if (pid == 0) {
			char byte;

			close(barrier[1]);
			/* Ends with the end of file: when the parent closes its side. */
			if (read(barrier[0], &byte, 1) != 0)
				_exit(2);
			close(barrier[0]);
			execvp(argv[2], argv + 2);
			_exit(127);
		}
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

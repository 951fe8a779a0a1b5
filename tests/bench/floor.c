/*
 * floor [-u] FILE COMMAND [ARGUMENT]...
 *
 * The least that a lock command can do, and nothing else: open, flock, vfork,
 * exec, wait, exit. `make bench` measures keylock against it. It keeps none of
 * keylock's promises: it leaves FILE behind (with -u it removes it, which is not
 * even safe), passes no signal on, and reads no other option. The command inherits
 * the descriptor, as keylock's does.
 */

#define _GNU_SOURCE

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char *argv[])
{
	bool removes = argc > 1 && strcmp(argv[1], "-u") == 0;
	argv += removes;
	if (argc - removes < 3)
		return 64;
	int fd = open(argv[1], O_RDONLY | O_CREAT | O_NOCTTY, 0666);
	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		return 73;
	pid_t child = vfork();
	if (child == 0) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 71;
	if (removes)
		unlink(argv[1]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

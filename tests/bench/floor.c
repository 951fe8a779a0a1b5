/*
 * floor FILE COMMAND [ARGUMENT]...
 *
 * The least that a lock command can do, and nothing else: open, flock, vfork,
 * exec, wait, exit. `make bench` measures keylock against it. It keeps none of
 * keylock's promises: it leaves FILE behind, passes no signal on, and
 * reads no option. The command inherits the descriptor, as keylock's does.
 */

#define _GNU_SOURCE

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char *argv[])
{
	if (argc < 3)
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
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

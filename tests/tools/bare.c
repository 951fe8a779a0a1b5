/*
 * bare COMMAND [ARGUMENT]...: execute COMMAND, an absolute path, as programs do that trust nothing
 * they were given: all descriptors but the standard ones closed, and an environment of nothing but
 * PATH, KEYLOCK_DIR and BATS_TEST_TMPDIR.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	static const char *const names[] = {"PATH", "KEYLOCK_DIR", "BATS_TEST_TMPDIR"};
	char *environment[4] = {NULL};
	int count = 0;

	if (argc < 2)
		return 2;
	for (int i = 0; i < 3; i++)
		if (getenv(names[i]) &&
		    asprintf(&environment[count++], "%s=%s", names[i], getenv(names[i])) == -1)
			return 2;
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	execve(argv[1], argv + 1, environment);
	perror(argv[1]);
	return 127;
}

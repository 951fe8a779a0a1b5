/*
 * bare COMMAND [ARGUMENT]...: execute COMMAND, an absolute path, as programs do that trust nothing
 * they were given: all descriptors but the standard ones closed, and an environment of nothing but
 * PATH, KEYLOCK_DIR and BATS_TEST_TMPDIR.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	static const char *const names[] = {"PATH", "KEYLOCK_DIR", "BATS_TEST_TMPDIR"};
	static char texts[3][8192];
	char *environment[4];
	int count = 0;

	if (argc < 2)
		return 2;
	for (int i = 0; i < 3; i++) {
		const char *value = getenv(names[i]);

		if (value) {
			snprintf(texts[count], sizeof texts[count], "%s=%s", names[i], value);
			environment[count] = texts[count];
			count++;
		}
	}
	environment[count] = NULL;
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	execve(argv[1], argv + 1, environment);
	fprintf(stderr, "bare: %s: %s\n", argv[1], strerror(errno));
	return 127;
}

/*
 * witness [SOCKET ENDING]: the command of faults.py. Tells SOCKET that it runs, and goes on when it
 * is answered, so that it can be seen from outside what holds while it runs. ENDING:
 *
 *	NUMBER		exit with it
 *	abort		die of SIGABRT
 *	daemon NUMBER	leave a child behind that tells and waits likewise; exit with NUMBER
 *
 * Without arguments it exits with 0. It makes none of the system calls that keylock makes before
 * the exec, or faults meant for keylock would hit it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Tell who runs, and wait for the answer or the end of who would give it. */
static void
meet(int peer, const char *word)
{
	char line[64], answer;
	int length = snprintf(line, sizeof line, "%s %ld", word, (long)getpid());

	if (send(peer, line, (size_t)length, MSG_NOSIGNAL) < 0 || recv(peer, &answer, 1, 0) < 0)
		_exit(99);
}

int
main(int argc, char **argv)
{
	static const struct rlimit no_core;
	int peer;

	if (argc < 3)
		return 0;
	peer = atoi(argv[1]);
	meet(peer, "runs");
	if (strcmp(argv[2], "abort") == 0) {
		setrlimit(RLIMIT_CORE, &no_core);
		abort();
	}
	if (strcmp(argv[2], "daemon") == 0) {
		pid_t child = fork();

		if (child == 0) {
			meet(peer, "daemon");
			_exit(0);
		}
		_exit(child < 0 ? 98 : atoi(argv[argc - 1]));
	}
	_exit(atoi(argv[2]));
}

/*
 * recorder FILE [-g]: a command that notes in FILE each signal it gets, a line each: its number
 * and "kernel" where the terminal sent it, else "process". The first line is "ready PID".
 * With -g USR2 makes it send USR1 to its whole process group. The last real-time signal ends
 * it with status 7.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	int s = 0, log;
	sigset_t all;
	siginfo_t info;

	if (argc < 2 ||
	    (log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) == -1)
		return 2;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	/* What came ignored would not be noted. */
	for (int i = 1; i <= SIGRTMAX; i++)
		signal(i, SIG_DFL);
	dprintf(log, "ready %d\n", (int)getpid());
	while (s != SIGRTMAX) {
		s = sigwaitinfo(&all, &info);
		if (s == -1)
			continue;
		dprintf(log, "%d %s\n", s, info.si_code == SI_KERNEL ? "kernel" : "process");
		if (s == SIGUSR2 && argc > 2)
			kill(0, SIGUSR1);
	}
	return 7;
}

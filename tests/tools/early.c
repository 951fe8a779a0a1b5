/*
 * early SIGNAL COUNT COMMAND [ARGUMENT]...: does a signal that comes while COMMAND starts have its
 * effect?
 *
 * Starts COMMAND, which is not to end by itself, COUNT times in a process group of its own, sends
 * SIGNAL (a number) after up to 2 ms, and looks whether the process stops or dies by it. TSTP goes
 * to the whole group, as Ctrl-Z does, other signals to the process. Prints how often it "worked",
 * and how many were "stuck", that is, unchanged five seconds later, or "odd"; gives up at the
 * first of these and then ends the group.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void
sleep_us(long us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

/* Waits five seconds at most until the process has stopped or died; 0 when it has not. */
static int
change_of(pid_t pid, int *status)
{
	siginfo_t info;

	for (int i = 0; i < 25000; i++) {
		info.si_pid = 0;
		if (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid == pid) {
			*status = info.si_status;
			return info.si_code;
		}
		sleep_us(200);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	int signo, count, worked = 0, stuck = 0, odd = 0;

	if (argc < 4 || (signo = atoi(argv[1])) < 1 || (count = atoi(argv[2])) < 1)
		return 2;
	srand((unsigned)getpid());
	while (worked + stuck + odd < count && stuck == 0 && odd == 0) {
		pid_t pid = fork();
		int change, status;

		if (pid == -1)
			return 2;
		if (pid == 0) {
			setpgid(0, 0);
			signal(signo, SIG_DFL);
			execvp(argv[3], argv + 3);
			_exit(127);
		}
		setpgid(pid, pid);
		sleep_us(rand() % 2000);
		kill(signo == SIGTSTP ? -pid : pid, signo);
		change = change_of(pid, &status);
		if (change == 0)
			stuck++;
		else if (change == CLD_EXITED || status != signo)
			odd++;
		else
			worked++;
		/* Where keylock died as it should, nobody is left who could be killed. */
		if (change != CLD_KILLED || odd > 0)
			kill(-pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	printf("worked=%d stuck=%d odd=%d\n", worked, stuck, odd);
	return 0;
}

/*
 * What a process hands on to what it executes: signals and the like.
 *
 * inherit OPTION... COMMAND [ARGUMENT]...
 *	-d	make all signals default and unblocked: a shell starts its background
 *		processes with INT and QUIT ignored
 *	-g	begin a process group
 *	-b N	block signal N, or "all"
 *	-i N	ignore signal N, or "all"
 *	-a MS	set an alarm, in milliseconds
 *	-u MODE	set the umask
 *	and execute COMMAND.
 *
 * inherit -A
 *	print the milliseconds to the alarm, 0 where there is none.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* Does what the option says to the signal, or to each that can be changed, where it is "all". */
static void
change(int option, const char *signo)
{
	int one = atoi(signo);

	for (int s = 1; s <= SIGRTMAX; s++) {
		sigset_t set;

		if (s == SIGKILL || s == SIGSTOP || (one != 0 && s != one))
			continue;
		if (option != 'b')
			signal(s, option == 'i' ? SIG_IGN : SIG_DFL);
		sigemptyset(&set);
		if (option != 'i' && sigaddset(&set, s) == 0)
			sigprocmask(option == 'b' ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
	}
}

int
main(int argc, char **argv)
{
	struct itimerval at = {{0, 0}, {0, 0}};
	int option;

	while ((option = getopt(argc, argv, "+Adgb:i:a:u:")) != -1)
		switch (option) {
		case 'A':
			getitimer(ITIMER_REAL, &at);
			printf("%ld\n",
			       (long)at.it_value.tv_sec * 1000 + (long)at.it_value.tv_usec / 1000);
			return 0;
		case 'd':
			change('d', "all");
			break;
		case 'g':
			setpgid(0, 0);
			break;
		case 'b':
		case 'i':
			change(option, optarg);
			break;
		case 'a':
			at.it_value.tv_sec = atol(optarg) / 1000;
			at.it_value.tv_usec = atol(optarg) % 1000 * 1000;
			setitimer(ITIMER_REAL, &at, NULL);
			break;
		case 'u':
			umask((mode_t)strtoul(optarg, NULL, 8));
			break;
		default:
			return 2;
		}
	execvp(argv[optind], argv + optind);
	perror("inherit");
	return 127;
}

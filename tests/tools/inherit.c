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
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* Calls change for the signal, or for each that can be changed, where name is "all". */
static void
each(const char *name, void (*change)(int))
{
	if (strcmp(name, "all") != 0) {
		change(atoi(name));
		return;
	}
	for (int s = 1; s <= SIGRTMAX; s++)
		if (s != SIGKILL && s != SIGSTOP)
			change(s);
}

static void
mask(int how, int s)
{
	sigset_t one;

	sigemptyset(&one);
	if (sigaddset(&one, s) == 0)
		sigprocmask(how, &one, NULL);
}

static void
reset(int s)
{
	mask(SIG_UNBLOCK, s);
	signal(s, SIG_DFL);
}

static void
block(int s)
{
	mask(SIG_BLOCK, s);
}

static void
ignore(int s)
{
	signal(s, SIG_IGN);
}

int
main(int argc, char **argv)
{
	struct itimerval alarm_at = {{0, 0}, {0, 0}};
	int option;

	while ((option = getopt(argc, argv, "+Adgb:i:a:u:")) != -1)
		switch (option) {
		case 'A':
			getitimer(ITIMER_REAL, &alarm_at);
			printf("%ld\n", (long)alarm_at.it_value.tv_sec * 1000 +
			                    (long)alarm_at.it_value.tv_usec / 1000);
			return 0;
		case 'd':
			each("all", reset);
			break;
		case 'g':
			setpgid(0, 0);
			break;
		case 'b':
			each(optarg, block);
			break;
		case 'i':
			each(optarg, ignore);
			break;
		case 'a':
			alarm_at.it_value.tv_sec = atol(optarg) / 1000;
			alarm_at.it_value.tv_usec = atol(optarg) % 1000 * 1000;
			setitimer(ITIMER_REAL, &alarm_at, NULL);
			break;
		case 'u':
			umask((mode_t)strtoul(optarg, NULL, 8));
			break;
		default:
			return 2;
		}
	if (optind == argc)
		return 2;
	execvp(argv[optind], argv + optind);
	fprintf(stderr, "inherit: %s: %s\n", argv[optind], strerror(errno));
	return 127;
}

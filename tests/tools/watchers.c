/*
 * watchers: open inotify instances until the user may have no more, print "used up COUNT", and keep
 * them until killed. Prints "cannot" and ends where descriptors run out before that.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>

int
main(void)
{
	struct rlimit limit;
	int count = 0;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	while (inotify_init1(IN_CLOEXEC) != -1)
		count++;
	/* EMFILE means either; so there must be descriptors left. */
	if (errno != EMFILE || dup(1) == -1) {
		puts("cannot");
		return 1;
	}
	printf("used up %d\n", count);
	fflush(stdout);
	for (;;)
		pause();
}

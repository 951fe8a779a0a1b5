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
		limit.rlim_cur = limit.rlim_cur > 10 ? limit.rlim_cur - 10 : 0;
	}
	while ((rlim_t)count < limit.rlim_cur && inotify_init1(IN_CLOEXEC) >= 0)
		count++;
	/* EMFILE means either; so there must have been descriptors left. */
	if ((rlim_t)count == limit.rlim_cur || errno != EMFILE || dup(1) < 0) {
		puts("cannot");
		return 1;
	}
	printf("used up %d\n", count);
	fflush(stdout);
	for (;;)
		pause();
}

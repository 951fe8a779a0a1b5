/*
 * keep FILE WHAT...: take locks on FILE, which is made when missing, write "kept" to standard
 * output, and keep them until killed: somebody who stopped in the middle of keylock's protocol.
 *
 *	gate, presence	the write lock at byte 0, the read lock at byte 1
 *	ticket=N	the write lock at byte N
 *	reader=N	a read lock there
 *	flock, shared	flock(2), exclusive or shared
 *	stop=PID	on SIGUSR1 let go of all bytes and send SIGTSTP to PID in the same moment
 *	replace=MS	flock(2), and each MS milliseconds put a new file, locked as well, into
 *			the place of FILE
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static void
fail(const char *what)
{
	perror(what);
	exit(2);
}

static int
open_file(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd == -1)
		fail(name);
	return fd;
}

static void
lock_byte(int fd, short type, off_t at)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	if (fcntl(fd, F_OFD_SETLKW, &lock) == -1)
		fail("fcntl");
}

static void
lock_file(int fd, int how)
{
	if (flock(fd, how) == -1)
		fail("flock");
}

static void
replace(const char *name, int old, long ms)
{
	struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
	char other[PATH_MAX];

	snprintf(other, sizeof other, "%s.other", name);
	for (;;) {
		int fd;

		nanosleep(&pause, NULL);
		fd = open_file(other);
		lock_file(fd, LOCK_EX);
		if (rename(other, name) == -1)
			fail(name);
		close(old);
		old = fd;
	}
}

int
main(int argc, char **argv)
{
	sigset_t user;
	pid_t stop = 0;
	int fd, signo;
	long ms = 0;

	if (argc < 3)
		return 2;
	sigemptyset(&user);
	sigaddset(&user, SIGUSR1);
	sigprocmask(SIG_BLOCK, &user, NULL);
	fd = open_file(argv[1]);
	for (int i = 2; i < argc; i++) {
		const char *what = argv[i];

		if (strcmp(what, "gate") == 0)
			lock_byte(fd, F_WRLCK, 0);
		else if (strcmp(what, "presence") == 0)
			lock_byte(fd, F_RDLCK, 1);
		else if (strncmp(what, "ticket=", 7) == 0)
			lock_byte(fd, F_WRLCK, atol(what + 7));
		else if (strncmp(what, "reader=", 7) == 0)
			lock_byte(fd, F_RDLCK, atol(what + 7));
		else if (strcmp(what, "flock") == 0)
			lock_file(fd, LOCK_EX);
		else if (strcmp(what, "shared") == 0)
			lock_file(fd, LOCK_SH);
		else if (strncmp(what, "stop=", 5) == 0)
			stop = (pid_t)atol(what + 5);
		else if (strncmp(what, "replace=", 8) == 0) {
			lock_file(fd, LOCK_EX);
			ms = atol(what + 8);
		} else
			return 2;
	}
	puts("kept");
	fflush(stdout);
	if (ms > 0)
		replace(argv[1], fd, ms);
	if (stop > 0 && sigwait(&user, &signo) == 0) {
		struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

		if (fcntl(fd, F_OFD_SETLK, &all) == -1 ||
		    (kill(stop, SIGTSTP) == -1 && errno != ESRCH))
			fail("stop");
	}
	for (;;)
		pause();
}

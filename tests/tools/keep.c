/*
 * keep FILE WHAT...: take locks on FILE, which is made when missing, write "kept" to standard
 * output, and keep them until killed: somebody who stopped in the middle of keylock's protocol.
 *
 *	gate, presence	the write lock at byte 0, the read lock at byte 1
 *	ticket=N	the write lock at byte N
 *	reader=N	a read lock there
 *	flock, shared	flock(2), exclusive or shared
 *	replace=MS	flock(2), and each MS milliseconds put a new file, locked as well, into
 *			the place of FILE
 */
#include <limits.h>
#include <sys/file.h>

#include "probe.h"

static int
check(int result, const char *what)
{
	if (result == -1) {
		perror(what);
		exit(2);
	}
	return result;
}

static int
open_file(const char *name)
{
	return check(open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600), name);
}

static void
lock_byte(int fd, short type, off_t at)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	check(fcntl(fd, F_OFD_SETLKW, &lock), "fcntl");
}

int
main(int argc, char **argv)
{
	char other[PATH_MAX];
	long at, ms = 0;
	int fd, old;

	if (argc < 3)
		return 2;
	fd = open_file(argv[1]);
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "gate") == 0)
			lock_byte(fd, F_WRLCK, 0);
		else if (strcmp(argv[i], "presence") == 0)
			lock_byte(fd, F_RDLCK, 1);
		else if (sscanf(argv[i], "ticket=%ld", &at) == 1)
			lock_byte(fd, F_WRLCK, at);
		else if (sscanf(argv[i], "reader=%ld", &at) == 1)
			lock_byte(fd, F_RDLCK, at);
		else if (strcmp(argv[i], "flock") == 0 || sscanf(argv[i], "replace=%ld", &ms) == 1)
			check(flock(fd, LOCK_EX), "flock");
		else if (strcmp(argv[i], "shared") == 0)
			check(flock(fd, LOCK_SH), "flock");
		else
			return 2;
	}
	puts("kept");
	fflush(stdout);
	snprintf(other, sizeof other, "%s.other", argv[1]);
	while (ms > 0) {
		sleep_us(ms * 1000);
		old = fd;
		fd = open_file(other);
		check(flock(fd, LOCK_EX), "flock");
		check(rename(other, argv[1]), "rename");
		close(old);
	}
	for (;;)
		pause();
}

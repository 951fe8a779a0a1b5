/*
 * deadfuse DIR: mount a FUSE file system on DIR, keep a descriptor of it open, write "dead" to
 * standard output, and never answer again: whoever asks anything of a file there hangs, past
 * SIGKILL, until this process has ended. Needs a mount namespace of its own: who calls it has made
 * one, which takes the mount with it.
 */
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

static void
check(long result, const char *what)
{
	if (result == -1) {
		perror(what);
		exit(2);
	}
}

int
main(int argc, char **argv)
{
	static union {
		struct fuse_in_header header;
		char bytes[FUSE_MIN_READ_BUFFER + 4096];
	} request;
	struct {
		struct fuse_out_header header;
		struct fuse_init_out init;
	} answer = {.header.len = sizeof answer,
	            .init.major = FUSE_KERNEL_VERSION,
	            .init.minor = FUSE_KERNEL_MINOR_VERSION,
	            .init.max_write = 4096};
	char options[100];
	int fuse;

	if (argc != 2)
		return 2;
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	check(fuse, "/dev/fuse");
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fuse,
	         (int)getuid(), (int)getgid());
	check(mount("deadfuse", argv[1], "fuse", MS_NOSUID | MS_NODEV, options), "mount");
	check(read(fuse, &request, sizeof request), "read");
	answer.header.unique = request.header.unique;
	check(write(fuse, &answer, sizeof answer), "FUSE_INIT");
	/* Needs no answer. */
	check(open(argv[1], O_PATH | O_DIRECTORY), argv[1]);
	puts("dead");
	fflush(stdout);
	for (;;) /* taken, so that not even a kill takes them back */
		if (read(fuse, &request, sizeof request) == -1)
			pause();
}

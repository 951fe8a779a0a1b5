/*
 * deadfuse DIR: mount a FUSE file system on DIR, keep a descriptor of it open, write "dead" to
 * standard output, and never answer again: whoever asks anything of a file there hangs, past
 * SIGKILL, until this process has ended. Needs a mount namespace of its own: who calls it has made
 * one, which takes the mount with it.
 */
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static int
fail(const char *what)
{
	perror(what);
	return 2;
}

int
main(int argc, char **argv)
{
	static char request[FUSE_MIN_READ_BUFFER + 4096];
	struct {
		struct fuse_out_header header;
		struct fuse_init_out init;
	} answer;
	struct fuse_in_header asked;
	char options[100];
	int fuse, root;

	if (argc != 2)
		return 2;
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse == -1)
		return fail("/dev/fuse");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fuse,
	         (int)getuid(), (int)getgid());
	if (mount("deadfuse", argv[1], "fuse", MS_NOSUID | MS_NODEV, options) == -1)
		return fail("mount");
	if (read(fuse, request, sizeof(request)) == -1)
		return fail("read");
	memcpy(&asked, request, sizeof(asked));
	memset(&answer, 0, sizeof(answer));
	answer.header.len = sizeof(answer);
	answer.header.unique = asked.unique;
	answer.init.major = FUSE_KERNEL_VERSION;
	answer.init.minor = FUSE_KERNEL_MINOR_VERSION;
	answer.init.max_write = 4096;
	if (asked.opcode != FUSE_INIT || write(fuse, &answer, sizeof(answer)) == -1)
		return fail("FUSE_INIT");
	/* Needs no answer. */
	root = open(argv[1], O_PATH | O_DIRECTORY);
	if (root == -1)
		return fail(argv[1]);
	puts("dead");
	fflush(stdout);
	for (;;) /* taken, so that not even a kill takes them back */
		if (read(fuse, request, sizeof(request)) == -1)
			pause();
}

/*
 * refuse CALL[:COMMAND]=ERRNO[,...] PROGRAM [ARGUMENT]...
 *
 * Execute PROGRAM where the kernel answers a system call with an error, as one does that lacks the
 * call, or that a sandbox's rules refuse (seccomp(2)). COMMAND is the call's second argument, so
 * that "fcntl:36-38=22" is a kernel before 3.15, which has no open-file-description locks. All
 * processes after it are treated so, the command of keylock too. Exits with 99 where that may not
 * be done here.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
	const char *name;
	unsigned number;
} calls[] = {
    {"fcntl", SYS_fcntl},
    {"inotify_init1", SYS_inotify_init1},
    {"timer_create", SYS_timer_create},
    {"utimensat", SYS_utimensat},
#ifdef SYS_vfork
    {"fork", SYS_vfork},
#endif
    {"fork", SYS_clone},
#ifdef SYS_clone3
    {"fork", SYS_clone3},
#endif
};

static struct sock_filter program[256];
static unsigned short count;

static void
add(unsigned code, unsigned value, unsigned yes, unsigned no)
{
	program[count++] = (struct sock_filter){(unsigned short)code, (unsigned char)yes,
	                                        (unsigned char)no, value};
}

/* Answer `call` with `error`, of those whose second argument is from `low` to `high`. */
static void
add_rule(unsigned call, unsigned low, unsigned high, unsigned error)
{
	const unsigned second = offsetof(struct seccomp_data, args[1]) +
	                        (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0);

	add(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
	add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4);
	add(BPF_LD | BPF_W | BPF_ABS, second, 0, 0);
	add(BPF_JMP | BPF_JGE | BPF_K, low, 0, 2);
	add(BPF_JMP | BPF_JGT | BPF_K, high, 1, 0);
	add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error, 0, 0);
}

static void
add_text(const char *text)
{
	char name[32];
	unsigned low = 0, high = 0xffffffff, error;
	int found = 0;

	if (sscanf(text, "%31[a-z_0-9]=%u", name, &error) != 2 &&
	    sscanf(text, "%31[a-z_0-9]:%u-%u=%u", name, &low, &high, &error) != 4) {
		if (sscanf(text, "%31[a-z_0-9]:%u=%u", name, &low, &error) != 3)
			exit(2);
		high = low;
	}
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (strcmp(calls[i].name, name) == 0) {
			add_rule(calls[i].number, low, high, error);
			found = 1;
		}
	if (!found)
		exit(2);
}

int
main(int argc, char **argv)
{
	struct sock_fprog filter = {.filter = program};

	if (argc < 3)
		return 2;
	for (char *rule = strtok(argv[1], ","); rule; rule = strtok(NULL, ","))
		add_text(rule);
	add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
	filter.len = count;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0) {
		perror("refuse: seccomp");
		return 99;
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}

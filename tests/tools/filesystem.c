/*
 * filesystem TYPE COMMAND [ARGUMENT]...: runs COMMAND and has every statfs and fstatfs that it
 * calls answer with the hexadecimal TYPE as the file system's, as if its folders lay on NFS, for
 * instance. What COMMAND starts is left alone. Ends as COMMAND does; with 99 where it cannot trace.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h> /* after sys/ptrace.h: both name the same things */

static void
at_system_call(pid_t child, unsigned long type)
{
	static uint64_t answer;
	struct ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		answer = 0;
		if (info.entry.nr == SYS_statfs || info.entry.nr == SYS_fstatfs)
			answer = info.entry.args[1];
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && answer && !info.exit.is_error) {
		/* f_type is the first word of the answer. */
		ptrace(PTRACE_POKEDATA, child, (void *)(uintptr_t)answer, (void *)type);
	}
}

static void
ended(int status)
{
	if (WIFEXITED(status))
		exit(WEXITSTATUS(status));
	raise(WTERMSIG(status));
	exit(99);
}

int
main(int argc, char **argv)
{
	if (argc < 3)
		return 99;
	unsigned long type = strtoul(argv[1], NULL, 16);
	pid_t child = fork();
	if (child < 0)
		return 99;
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
			_exit(99);
		raise(SIGSTOP);
		execvp(argv[2], argv + 2);
		_exit(99);
	}
	int status, first = 1;
	while (waitpid(child, &status, 0) == child) {
		int signal = 0;
		if (!WIFSTOPPED(status))
			ended(status);
		if (first)
			ptrace(PTRACE_SETOPTIONS, child, NULL,
			       (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
		else if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			at_system_call(child, type);
		else if (WSTOPSIG(status) != SIGTRAP) /* a SIGTRAP tells of the exec */
			signal = WSTOPSIG(status);
		first = 0;
		ptrace(PTRACE_SYSCALL, child, NULL, (void *)(intptr_t)signal);
	}
	return 99;
}

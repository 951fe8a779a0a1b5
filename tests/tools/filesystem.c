/*
 * filesystem TYPE COMMAND [ARGUMENT]...: runs COMMAND and has every statfs and fstatfs that it
 * calls answer with the hexadecimal TYPE as the file system's, as if its folders lay on NFS, for
 * instance. What COMMAND starts is left alone. Ends as COMMAND does; with 99 where it cannot trace.
 */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h> /* after sys/ptrace.h: both name the same things */

int
main(int argc, char **argv)
{
	struct ptrace_syscall_info info;
	uint64_t answer = 0;
	uintptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL, deliver = 0;
	int status;
	pid_t child;

	if (argc < 3 || (child = fork()) == -1)
		return 99;
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0)
			execvp(argv[2], argv + 2);
		_exit(99);
	}
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		int signo = WSTOPSIG(status);

		if (options != 0) {
			ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)options);
			options = 0;
			signo = 0;
		} else if (signo == (SIGTRAP | 0x80) &&
		           ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof info, &info) > 0) {
			if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
				answer = info.entry.nr == SYS_statfs || info.entry.nr == SYS_fstatfs
				             ? info.entry.args[1]
				             : 0;
			else if (answer != 0 && !info.exit.is_error) /* f_type is its first word */
				ptrace(PTRACE_POKEDATA, child, (void *)(uintptr_t)answer,
				       (void *)strtoul(argv[1], NULL, 16));
		}
		/* A SIGTRAP tells of the exec. */
		deliver = (signo & ~0x80) == SIGTRAP ? 0 : (uintptr_t)signo;
		ptrace(PTRACE_SYSCALL, child, NULL, (void *)deliver);
	}
	if (WIFSIGNALED(status))
		raise(WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

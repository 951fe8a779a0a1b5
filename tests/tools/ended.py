#!/usr/bin/env python3
"""ended.py FILE COMMAND [ARGUMENT]...: runs COMMAND, with all signals default and unblocked, notes its pid in
FILE.pid, and writes to FILE how it ended, "exit N", "signal N" or "signal N core", which a shell's $? cannot
tell apart."""
import os
import signal
import sys


def note(name, text):
    with open(name + ".new", "w") as file:
        print(text, file=file)
    os.rename(name + ".new", name)


name, *command = sys.argv[1:]
signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=signals, setsigmask=[])
note(name + ".pid", pid)
status = os.waitpid(pid, 0)[1]
core = " core" * os.WCOREDUMP(status)
note(name, f"exit {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}{core}")

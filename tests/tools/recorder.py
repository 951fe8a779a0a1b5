#!/usr/bin/env python3
"""recorder.py FILE [-g]: a command that notes in FILE each signal it gets, a line each: its number and "kernel"
where the terminal sent it, else "process". The first line is "ready PID". With -g USR2 makes it send USR1 to
its whole process group. The last real-time signal ends it with status 7."""
import os
import signal
import sys

SI_KERNEL = 0x80
log = open(sys.argv[1], "a", buffering=1)
signals = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
# What came ignored would not be noted.
for signo in signals - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(signo, signal.SIG_DFL)
print("ready", os.getpid(), file=log)
while True:
    info = signal.sigwaitinfo(signals)
    print(info.si_signo, "kernel" if info.si_code == SI_KERNEL else "process", file=log)
    if info.si_signo == signal.SIGRTMAX:
        sys.exit(7)
    if info.si_signo == signal.SIGUSR2 and len(sys.argv) > 2:
        os.killpg(0, signal.SIGUSR1)

#!/usr/bin/env python3
"""inherit.py OPTION... COMMAND [ARGUMENT]...: executes COMMAND, which inherits signals and the like.

    -d        all signals default and unblocked: a shell starts its background processes with INT
              and QUIT ignored
    -g        the leader of a process group of its own
    -b N      signal N blocked, or "all"
    -i N      signal N ignored, or "all"
    -a MS     an alarm set, in milliseconds
    -u MODE   this umask

inherit.py -A: prints the milliseconds to the alarm, 0 where there is none."""
import getopt
import os
import signal
import sys


def each(which):
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} if which == "all" else {int(which)}


def dispose(signals, how):
    for signo in signals:
        signal.signal(signo, how)


# What Python itself has changed.
dispose((signal.SIGPIPE, signal.SIGXFSZ), signal.SIG_DFL)
options, command = getopt.getopt(sys.argv[1:], "Adgb:i:a:u:")
for option, value in options:
    if option == "-A":
        print(int(signal.getitimer(signal.ITIMER_REAL)[0] * 1000))
        sys.exit()
    elif option == "-d":
        dispose(each("all"), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
    elif option == "-g":
        os.setpgid(0, 0)
    elif option == "-b":
        signal.pthread_sigmask(signal.SIG_BLOCK, each(value))
    elif option == "-i":
        dispose(each(value), signal.SIG_IGN)
    elif option == "-a":
        signal.setitimer(signal.ITIMER_REAL, int(value) / 1000)
    elif option == "-u":
        os.umask(int(value, 8))
os.execvp(command[0], command)

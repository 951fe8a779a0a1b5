"""early.py SIGNAL COUNT COMMAND [ARGUMENT]...: does a signal that comes while COMMAND starts have its
effect?

Starts COMMAND, which is not to end by itself, COUNT times in a process group of its own, sends
SIGNAL (a number) after up to 2 ms, and looks whether the process stops or dies by it. TSTP goes to
the whole group, as Ctrl-Z does, other signals to the process. Prints how often it "worked", and
how many were "stuck", that is, unchanged 20 seconds later, or "odd"; gives up at the first of these.
"""
import os
import random
import signal
import sys
import time

signo, count, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
worked = stuck = odd = 0
while worked < count and not stuck and not odd:
    pid = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=[signo])
    time.sleep(random.random() * 0.002)
    os.kill(-pid if signo == signal.SIGTSTP else pid, signo)
    end = time.monotonic() + 20
    change = None
    while not change and time.monotonic() < end:
        change = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        time.sleep(0.0002)
    stuck += not change
    odd += bool(change) and (change.si_code == os.CLD_EXITED or change.si_status != signo)
    worked += not stuck and not odd
    # Where keylock died as it should, nobody is left who could be killed.
    if not change or change.si_code != os.CLD_KILLED or odd:
        os.kill(-pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(f"worked={worked} stuck={stuck} odd={odd}")

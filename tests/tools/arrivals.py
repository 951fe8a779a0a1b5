"""arrivals.py FILE COUNT GAP COMMAND...: is anybody served before somebody who came earlier?

Starts COUNT contenders, GAP microseconds apart, each "COMMAND... sh -c ..." with a script that notes its number in
FILE: COMMAND is a lock command that has been given its lock. Prints

    served  how many have run
    waited  how many contenders were seen to wait
    barged  how many were served before one that was seen to wait before they were started
    late    how many were served before one that was started more than 3 ms before them

When a contender has drawn its place in the line cannot be seen from outside; that it waits can. So "barged" is
right on a machine of any load, while "late" may also count a contender that was slow to come to the lock. A
contender waits when it holds a ticket (a write lock of its open file description at byte 1000 or above), or is
blocked in flock(2)."""
import os
import re
import sys
import time

path, count, gap, *command = sys.argv[1:]
count, gap = int(count), int(gap) / 1e6
TICKET = re.compile(rb"OFDLCK +ADVISORY +WRITE .* [0-9]{4,} [0-9]+$", re.M)
BLOCKED = re.compile(rb"-> FLOCK +ADVISORY +\w+ +(\d+) ")


def read(path):
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def waits(pid, blocked):
    try:
        files = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return False
    return pid in blocked or any(TICKET.search(read(f"/proc/{pid}/fdinfo/{file}")) for file in files if int(file) > 2)


open(path, "w").close()
pids, started, seen, once = [], [], [float("inf")] * count, set()
unseen = set()
begin = time.monotonic()
for i in range(count):
    started.append(time.monotonic())
    pids.append(os.posix_spawnp(command[0], [*command, "sh", "-c", 'echo "$1" >>"$0"', path, str(i)], os.environ))
    unseen.add(i)
    while True:
        blocked = {int(pid) for pid in BLOCKED.findall(read("/proc/locks"))}
        for j in list(unseen):
            if os.waitpid(pids[j], os.WNOHANG)[0]:
                pids[j] = 0
                unseen.discard(j)
            elif waits(pids[j], blocked):
                # At the second look, since who is about to be served draws a ticket, too.
                if j in once:
                    seen[j] = time.monotonic()
                    unseen.discard(j)
                once.add(j)
        if time.monotonic() >= begin + (i + 1) * gap:
            break
        time.sleep(0.0002)
for pid in filter(None, pids):
    os.waitpid(pid, 0)
with open(path) as file:
    served = [int(line) for line in file]
behind = [(i, j) for at, i in enumerate(served) for j in served[at + 1 :]]
barged = {i for i, j in behind if seen[j] < started[i]}
late = {i for i, j in behind if started[j] < started[i] - 0.003}
waited = sum(at < float("inf") for at in seen)
print(f"served={len(served)} waited={waited} barged={len(barged)} late={len(late)}")

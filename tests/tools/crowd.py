"""crowd.py COUNT COMMAND [ARGUMENT]...: runs COMMAND COUNT times, all let go at the same instant. Prints how
they ended: lines "STATUS TIMES", with -N for death by signal N."""
import collections
import os
import sys

read, write = os.pipe()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.close(write)
        # Ends with the end of file: when the parent closes its side.
        os.read(read, 1)
        os.execvp(sys.argv[2], sys.argv[2:])
os.close(write)
ends = collections.Counter(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(sys.argv[1])))
for status, times in sorted(ends.items()):
    print(status, times)

#!/usr/bin/env python3
"""crowd COUNT COMMAND [ARGUMENT]...: run COMMAND COUNT times, all let go at the same instant. Prints
how they ended: lines "STATUS TIMES", with 128+N for death by signal N.
"""
import collections
import os
import sys

count, command = int(sys.argv[1]), sys.argv[2:]
gate, opener = os.pipe()
for _ in range(count):
    if os.fork() == 0:
        os.close(opener)
        os.read(gate, 1)  # ends with the end of file: when the parent closes its side
        os.execvp(command[0], command)
os.close(gate)
os.close(opener)
ends = collections.Counter()
for _ in range(count):
    code = os.waitstatus_to_exitcode(os.wait()[1])
    ends[code if code >= 0 else 128 - code] += 1
for status, times in sorted(ends.items()):
    print(status, times)

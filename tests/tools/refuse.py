#!/usr/bin/env python3
"""refuse.py CALL[:COMMAND[-COMMAND]]=ERRNO[,...] PROGRAM [ARGUMENT]...

Executes PROGRAM where the kernel answers a system call with an error, as one does that lacks the call, or that a
sandbox's rules refuse (seccomp(2)). COMMAND is the call's second argument, so that "fcntl:36-38=22" is a kernel
before 3.15, which has no open-file-description locks. All processes after it are treated so, the command of
keylock too. Exits with 99 where that may not be done here."""
import ctypes
import os
import re
import struct
import sys

NAMES = "fcntl inotify_init1 timer_create utimensat fork fork fork".split()
NUMBERS = {"x86_64": (72, 294, 222, 280, 58, 56, 435), "aarch64": (25, 26, 107, 88, 220, 220, 435)}
LOAD, EQUAL, AT_LEAST, ABOVE, RETURN = 0x20, 0x15, 0x35, 0x25, 0x06
ERROR, ALLOW = 0x50000, 0x7FFF0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
# Where struct seccomp_data has the call, and the lower half of its second argument.
CALL, SECOND = 0, 24 if sys.byteorder == "little" else 28


class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def instruction(code, value, yes=0, no=0):
    return struct.pack("HBBI", code, yes, no, value)


program = b""
for rule in sys.argv[1].split(","):
    name, low, high, error = re.fullmatch(r"(\w+?)(?::(\d+)(?:-(\d+))?)?=(\d+)", rule).groups()
    low, high = (int(low), int(high or low)) if low else (0, 0xFFFFFFFF)
    for number in [n for known, n in zip(NAMES, NUMBERS.get(os.uname().machine, ())) if known == name]:
        program += instruction(LOAD, CALL) + instruction(EQUAL, number, no=4) + instruction(LOAD, SECOND)
        program += instruction(AT_LEAST, low, no=2) + instruction(ABOVE, high, yes=1)
        program += instruction(RETURN, ERROR | int(error))
program += instruction(RETURN, ALLOW)
prctl = ctypes.CDLL(None).prctl
one = ctypes.c_ulong(1)
if len(program) == 8 or prctl(PR_SET_NO_NEW_PRIVS, one, 0, 0, 0) or prctl(
    PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(Program(len(program) // 8, program))
):
    sys.exit(99)
os.execvp(sys.argv[2], sys.argv[2:])

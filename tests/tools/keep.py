"""keep.py FILE WHAT...: takes locks on FILE, which is made when missing, writes "kept", and keeps them until
killed: somebody who stopped in the middle of keylock's protocol, or another program.

    writer=N, reader=N   the open-file-description lock at byte N; "all" for N: at all bytes
    gate, presence       writer=0, reader=1
    posix, posix=shared  fcntl's older lock, of the process, at all bytes
    flock, shared        flock(2), exclusive or shared
    replace=MS           flock, and each MS milliseconds a new file, locked as well, takes FILE's place
    -- COMMAND...        runs COMMAND, which has none of these descriptors, and ends with its status
"""
import fcntl
import os
import struct
import subprocess
import sys
import time


def open_file(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


path, *words = sys.argv[1:]
fd = open_file(path)
pause = None
while words and words[0] != "--":
    what, _, at = {"gate": "writer=0", "presence": "reader=1"}.get(words[0], words[0]).partition("=")
    words.pop(0)
    if what in ("writer", "reader"):
        kind = fcntl.F_WRLCK if what == "writer" else fcntl.F_RDLCK
        start, length = (0, 0) if at == "all" else (int(at), 1)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    elif what == "posix":
        fcntl.lockf(fd, fcntl.LOCK_SH if at else fcntl.LOCK_EX)
    else:
        fcntl.flock(fd, fcntl.LOCK_SH if what == "shared" else fcntl.LOCK_EX)
        pause = float(at) / 1000 if what == "replace" else None
if words:
    sys.exit(subprocess.run(words[1:]).returncode)
print("kept", flush=True)
while pause:
    time.sleep(pause)
    new = open_file(path + ".other")
    fcntl.flock(new, fcntl.LOCK_EX)
    os.rename(path + ".other", path)
    os.close(fd)
    fd = new
time.sleep(86400)

#!/usr/bin/env python3
"""Users who share keys in a directory that all may write to, among strangers: for hostile.sh.

    hostile.py KEYLOCK BASE SECONDS SEED    as root

BASE has dir (mode 1777, the lockfiles), victims (files of others), strange (the strangers' own) and
nap, which sleeps for so many microseconds and exits with 7. Who shares such a directory trusts them
with the exclusion (DESIGN, section 4). Judged is that every run ends, in its time, by no signal but
one that it was sent, by a status that is documented, and by the command's only where that ran.
"""
import collections
import ctypes
import fcntl
import multiprocessing
import os
import random
import resource  # noqa: F401 which os.wait4() imports; another user may not be let in there
import signal
import socket
import stat
import struct
import sys
import time

KEYLOCK, BASE, SECONDS, SEED = sys.argv[1:]
UNTIL = time.monotonic() + int(SECONDS)
USERS, STRANGERS, VICTIM = (2001, 2002, 2003), (2011, 2012), 2021
RAN = 7
# Seconds past the deadline, or after a signal; and a hundred times as long as who waits for a
# moment has overslept lately.
PATIENCE = 2

# k0 and k1 for all kinds, ka keeps records, kj has two slots.
FILES = ("k0", "k1", "ka", "kj", "kj%s2")
KINDS = """-n k0; -n k1; -w0.005 k0; -w0.05 k1; -w0.3 k0; -w0.3 -v k1; -s -w0.3 k0; -s -n k1; -F -w0.3 k0;
    -o -w0.3 k1; -l -w0.3 k0; -r -w0.3 k1; -k k1 -w0.3 k0; -qR -w0.3 ka; -qR -n ka; -qA -w0.3 ka;
    -j2 -w0.3 kj; -j2 -n kj; -j2 -w0.05 kj; --list; --who k0; --path k1; -w0.3 --forget ka;
    --list --json"""
KINDS = [kind.split() for kind in KINDS.split(";")]
# Strangers may put what is no lockfile, or one file by two names, in a lockfile's place.
STATUSES = {RAN, 73, 75, 76, 77, 78}

draw = random.Random()


def one_in(chances):
    return draw.randrange(chances) == 0


# --- a user --------------------------------------------------------------


class Run:
    """A keylock, one of four that a user has at once."""

    def __init__(self):
        self.words = draw.choice(KINDS)
        wait = max(float(word[2:]) if word[:2] == "-w" else 0.1 for word in self.words)
        work = draw.randrange(2000 if draw.randrange(4) else 10000)
        self.runs = not any(word.startswith("--") for word in self.words)
        command = [BASE + "/nap", str(work)] if self.runs else []
        self.limit = time.monotonic() + wait + work / 1e6 + PATIENCE
        self.told = False
        self.pid = os.posix_spawn(
            KEYLOCK, [KEYLOCK, *self.words, *command], os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )  # fmt: skip

    def tend(self, seen, lag):
        """Send it a signal now and then; returns whether it has ended."""
        pid, status, use = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.judge(seen, os.waitstatus_to_exitcode(status), use.ru_utime + use.ru_stime)
        elif not self.told and one_in(300):
            self.told, self.limit = True, time.monotonic() + PATIENCE
            os.kill(self.pid, signal.SIGTERM)
        elif time.monotonic() > self.limit + 100 * lag:
            seen["late"] += 1
            with open(f"/proc/{self.pid}/syscall", encoding="ascii") as call:
                why = "deaf" if self.told else "past its deadline"
                print("hostile:", why, "in system call", call.read(), self.words, file=sys.stderr)
            self.told, self.limit = True, float("inf")
            os.kill(self.pid, signal.SIGKILL)
        return bool(pid)

    def judge(self, seen, status, took):
        seen["runs"] += 1
        seen[f"status {status}" if status >= 0 else "ended by a signal"] += 1
        ends = (STATUSES, STATUSES | {0, 1})[not self.runs]
        if took >= 2 or not (status in ends or (status < 0 and self.told)):
            seen["odd ends"] += 1
            print(f"hostile: {status} after {took} s of a processor:", self.words, file=sys.stderr)


def use_keys():
    seen = collections.Counter({"late": 0, "odd ends": 0})
    runs, lag = [], 0
    while time.monotonic() < UNTIL or runs:
        while len(runs) < 4 and time.monotonic() < UNTIL:
            runs.append(Run())
        runs = [run for run in runs if not run.tend(seen, lag)]
        begin = time.monotonic()
        time.sleep(0.0002)
        lag = max(time.monotonic() - begin - 0.0002, lag * 0.9998)
    return seen


# --- a stranger ----------------------------------------------------------


def anyway(deed, *arguments):
    """Do it as far as the kernel lets it."""
    try:
        deed(*arguments)
    except OSError:
        pass


def make(name, mode):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(fd, mode)
    os.close(fd)


def is_mine(name):
    return os.path.lexists(name) and os.lstat(name).st_uid == os.geteuid()


class Stranger:
    """Does in the directory whatever the kernel lets it, by one deed after the other."""

    def __init__(self):
        self.done = collections.Counter()
        self.kept = []  # what is to be let go: when, and by which calls

    def keep(self, *calls):
        self.kept.append((time.monotonic() + draw.random() * 0.012, calls))

    def let_go(self, until):
        """What is due, and some of what is more than six."""
        for kept in [kept for kept in self.kept if kept[0] < until] or self.kept[:-6]:
            self.kept.remove(kept)
            for call, what in kept[1]:
                anyway(call, what)

    def lock(self, name):
        """A lockfile, or the directory, in any way."""
        whole = one_in(12)
        reads = whole or one_in(6)
        flags = os.O_RDONLY if reads else os.O_RDWR | os.O_NOFOLLOW
        fd = os.open("." if whole else name, flags | os.O_NONBLOCK)
        self.keep((os.close, fd))
        self.done["locks"] += 1
        if one_in(4):
            anyway(fcntl.flock, fd, draw.choice((fcntl.LOCK_EX, fcntl.LOCK_SH)) | fcntl.LOCK_NB)
        else:
            kind = draw.choice((fcntl.F_RDLCK, fcntl.F_RDLCK if reads else fcntl.F_WRLCK))
            start = draw.choice((0, 0, 1, 1, 2, 2, 3, 4, 1000, 1001, 1002, 1 << 60))
            length = draw.choice((1, 1, 1, 0))  # 0: all from there on
            wish = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
            anyway(fcntl.fcntl, fd, draw.choice((fcntl.F_SETLK, 37, 37, 37)), wish)  # F_OFD_SETLK
        if one_in(2):  # the owner of the file may hinder others from opening it
            fcntl.fcntl(fd, fcntl.F_SETLEASE, draw.choice((fcntl.F_RDLCK, fcntl.F_WRLCK)))

    def rob(self, name):
        """Take a lockfile of one's own away, replace it, or be the first to make it."""
        if not is_mine(name):
            make(name, 0o1666 if draw.randrange(8) else 0o7777)
            return
        fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.done["taken from under a holder"] += 1
        os.close(fd)
        other = f"new-{os.geteuid()}"
        if one_in(2):
            os.unlink(name)
        elif one_in(2):  # over another of ours; a holder's file may come back
            os.rename(name, draw.choice(FILES))
        else:  # RENAME_EXCHANGE is 2
            anyway(make, other, 0o1666)
            ctypes.CDLL(None).renameat2(-100, other.encode(), -100, name.encode(), 2 * one_in(2))

    def obstacle(self, name):
        """Put what is no usable lockfile in the place of one."""
        names = "closed", "readable", "writable", "empty", "missing"
        victim = f"../victims/{draw.choice(names)}"
        socket_there = socket.socket(socket.AF_UNIX).bind
        ways = (
            (os.symlink, victim, name), (os.mkfifo, name, 0o666), (os.mkdir, name, 0o777),
            (os.link, victim, name), (os.link, victim, name),  # as fs.protected_hardlinks lets it
            (make, name, draw.choice((0, 0o444, 0o222, 0o7777, 0o111))), (socket_there, name),
        )  # fmt: skip
        if is_mine(name):
            os.unlink(name)
        way, *arguments = draw.choice(ways)
        way(*arguments)
        self.done["links"] += way == os.link
        self.done["obstacles"] += 1
        self.keep((os.unlink, name), (os.rmdir, name))

    def garbage(self, name):
        """Write to a lockfile, or truncate it; but not to what is linked to a victim."""
        fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        self.keep((os.close, fd))
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_uid == VICTIM:
            return
        start = b"keylock1 pid=1 since=2026-01-01T00:00:00Z cause=killed " * one_in(2)
        line = start.ljust(191, draw.choice((b" ", draw.randbytes(1)))) + b"\n"
        if one_in(3):
            os.ftruncate(fd, 0)
        else:
            os.pwrite(fd, line.ljust(512)[: draw.choice((192, draw.randrange(512)))], 0)
        self.done["times garbage"] += 1

    def other(self, name):
        """Second names for lockfiles elsewhere, others' files by our own directory, a flood."""
        self.done["other deeds"] += 1
        path = f"../strange/{os.geteuid()}-{draw.randrange(64)}"
        which = draw.randrange(4)
        if which == 0:
            anyway(os.unlink, path)
            os.link(name, path)
            self.done["links"] += 1
        elif which == 1:
            for _ in range(20):
                flood = f"flood-{os.geteuid()}-{draw.randrange(500)}"
                anyway(*((os.unlink, flood) if one_in(2) else (make, flood, 0o644)))
        elif which == 2 and is_mine(path):
            os.rename(path, name)
        elif is_mine(name):
            os.chmod(name, 0o1666 if draw.randrange(3) else draw.randrange(0o10000))
            self.keep((os.unlink, name))

    def live(self):
        deeds = [self.lock] * 4 + [self.rob] * 4 + [self.obstacle, self.garbage] + [self.other] * 2
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # said when somebody comes to a lease
        while time.monotonic() < UNTIL:
            self.let_go(time.monotonic())
            anyway(draw.choice(deeds), draw.choice(FILES))
            time.sleep(draw.random() * 0.0015)
        self.let_go(float("inf"))
        for name in filter(is_mine, FILES):  # can be used
            anyway(os.chmod, name, 0o1666)
        return self.done


# --- all of them ---------------------------------------------------------


def be(user):
    """As that user, until the time is over; returns what was seen, or done."""
    group = USERS[0] if user in USERS else STRANGERS[0]
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    draw.seed(int(SEED) * 10000 + user)
    return use_keys() if user in USERS else Stranger().live()


def clean():
    """What root would do now and then, since nobody else here can: remove links to others' files."""
    for name in filter(os.path.lexists, FILES):
        if os.lstat(name).st_uid == VICTIM:
            os.unlink(name)


def main():
    os.umask(0)
    os.environ["KEYLOCK_DIR"] = BASE + "/dir"
    os.chdir(BASE + "/dir")
    everybody = USERS + STRANGERS
    with multiprocessing.Pool(len(everybody)) as pool:
        given = pool.map_async(be, everybody, 1)
        while not given.ready():
            anyway(clean)
            time.sleep(0.02)
        counts = given.get()
    seen, done = collections.Counter(), collections.Counter()
    for count, user in zip(counts, everybody):
        (seen if user in USERS else done).update(count)
    for who, what in (("users", seen), ("strangers", done)):
        print(f"{who}:", ", ".join(f"{number} {name}" for name, number in what.items()))
    # Who attacks nobody proves nothing.
    deeds = "locks", "taken from under a holder", "obstacles", "times garbage", "links"
    proven = seen[f"status {RAN}"] and all(done[deed] for deed in deeds)
    return bool(seen["late"] or seen["odd ends"] or not proven)


if __name__ == "__main__":
    sys.exit(main())

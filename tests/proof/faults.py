#!/usr/bin/env python3
"""What keylock does when a system call fails: called by faults.sh, which says what it shows.

    faults.py quick|long KEYLOCK WITNESS FOLDER [SCENARIO...]

A scenario is one way to run keylock. It is first recorded with strace, and then run again once for
each fault: the n-th call of a name fails with an errno of its manual page, or it and all after it,
or every other one with EINTR; it comes back short; or a signal comes at it. The command is
witness.c, which says that it runs and waits for an answer. Meanwhile this program looks whether the
key's lock is held, by flock(2) on a descriptor of its own, so it needs no trust in keylock. See
judge() for what is right.
"""
import fcntl
import json
import multiprocessing
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

SIZE, KEYLOCK, WITNESS, FOLDER = sys.argv[1:5]
ONLY = sys.argv[5:]
LONG = SIZE == "long"

# The ERRORS of the manual pages, section 2 (man-pages 6.03).
ERRORS = {
    "open": "EACCES EBADF EBUSY EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE"
    " ENAMETOOLONG ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EOPNOTSUPP EOVERFLOW EPERM"
    " EROFS ETXTBSY EAGAIN",
    "mkdir": "EACCES EBADF EDQUOT EEXIST EFAULT EINVAL ELOOP EMLINK ENAMETOOLONG ENOENT ENOMEM"
    " ENOSPC ENOTDIR EPERM EROFS",
    "statfs": "EACCES EBADF EFAULT EINTR EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOSYS ENOTDIR"
    " EOVERFLOW",
    "stat": "EACCES EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EOVERFLOW",
    "fcntl": "EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR EPERM",
    "flock": "EBADF EINTR EINVAL ENOLCK EAGAIN",
    "fork": "EAGAIN ENOMEM ENOSYS",
    "execve": "E2BIG EACCES EAGAIN EFAULT EINVAL EIO EISDIR ELIBBAD ELOOP EMFILE ENAMETOOLONG"
    " ENFILE ENOENT ENOMEM ENOTDIR EPERM ETXTBSY",
    "rt_sigpending": "EFAULT",
    "rt_sigaction": "EFAULT EINVAL",
    "rt_sigprocmask": "EFAULT EINVAL",
    "rt_sigtimedwait": "EAGAIN EINTR EINVAL",
    "dup2": "EBADF EBUSY EINTR EINVAL EMFILE",
    "wait4": "ECHILD EINTR EINVAL",
    "waitid": "EAGAIN ECHILD EINTR EINVAL ESRCH",
    "close": "EBADF EDQUOT EINTR EIO ENOSPC",
    "unlink": "EACCES EBADF EBUSY EFAULT EINVAL EIO EISDIR ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR"
    " EPERM EROFS",
    "read": "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR",
    "pread64": "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR ENXIO EOVERFLOW ESPIPE",
    "write": "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE",
    "pwrite64": "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE"
    " ENXIO EOVERFLOW ESPIPE",
    "ftruncate": "EACCES EBADF EFBIG EINTR EINVAL EIO EISDIR EPERM EROFS ETXTBSY",
    "fsync": "EBADF EDQUOT EINTR EINVAL EIO ENOSPC EROFS",
    "utimensat": "EACCES EBADF EFAULT EINVAL EPERM EROFS ESRCH",
    "chmod": "EACCES EBADF EFAULT EINVAL EIO ENOMEM EOPNOTSUPP EPERM EROFS",
    "getdents64": "EBADF EFAULT EINVAL ENOENT ENOTDIR",
    "access": "EACCES EBADF EFAULT EINVAL EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS"
    " ETXTBSY",
    "timer_create": "EAGAIN EINVAL ENOMEM EOPNOTSUPP EPERM",
    "timer_settime": "EFAULT EINVAL",
    "timer_delete": "EINVAL",
    "kill": "EINVAL EPERM ESRCH",
    "poll": "EFAULT EINTR EINVAL ENOMEM",
    "inotify_init1": "EINVAL EMFILE ENFILE ENOMEM",
    "inotify_add_watch": "EACCES EBADF EEXIST EFAULT EINVAL ENAMETOOLONG ENOENT ENOMEM ENOSPC"
    " ENOTDIR",
    "mmap": "EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOVERFLOW EPERM ETXTBSY",
    "mremap": "EAGAIN EFAULT EINVAL ENOMEM",
    "nanosleep": "EFAULT EINTR EINVAL",
    "ioctl": "EBADF EFAULT EINVAL ENOTTY",
    "prctl": "EACCES EBADF EBUSY EFAULT EINVAL ENODEV ENXIO EOPNOTSUPP EPERM ERANGE",
    "getsid": "EPERM ESRCH",
}
SAME = {
    "openat": "open", "mkdirat": "mkdir", "fstatfs": "statfs", "fstat": "stat",
    "newfstatat": "stat", "lstat": "stat", "statx": "stat", "vfork": "fork", "clone": "fork",
    "clone3": "fork", "unlinkat": "unlink", "fdatasync": "fsync", "fchmod": "chmod",
    "ppoll": "poll", "faccessat": "access", "faccessat2": "access", "munmap": "mmap",
    "dup3": "dup2", "fchown": "chmod", "clock_nanosleep": "nanosleep", "mprotect": "mmap",
}  # fmt: skip
# What any call answers on a kernel that lacks it, and in a sandbox.
EVERY = ["ENOSYS", "EPERM"]

SHORT = {"read": [0], "pread64": [0], "write": [0], "pwrite64": [0, 1, 100]}

# No errors of these: the C library starts by the first; the next do not return; the last have no
# failure in the kernel (brk answers with where the end still is). Signals come at them all the same.
LEFT_OUT = {
    "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink", "getrandom",
    "exit_group", "exit", "rt_sigreturn", "restart_syscall",
    "umask", "getpid", "getppid", "gettid", "geteuid", "brk",
}  # fmt: skip

# Not answered for ever: who is told so again and again is right to try again and again.
MOMENTARY = ("EINTR", "EAGAIN", "EBUSY", "ENOENT")
# Nor these: who waits for a command that runs must go on, since to leave would free its key.
WAITS = ("rt_sigtimedwait", "wait4")
# The kernel has no failure for these as keylock calls them. It may do what it likes then, but not
# run the command without its lock, nor keep it.
CANNOT_FAIL = ("rt_sigaction", "rt_sigprocmask", "rt_sigpending")
KEY = "key"
GRACE = 5.0  # seconds until a run counts as one that hangs
F_OFD_GETLK = 36
TICKETS, LAST_TICKET = 1000, 1 << 61


@dataclass
class Scenario:
    """One way to run keylock, and what is to come of it without a fault."""

    name: str
    options: list = field(default_factory=list)
    ending: list = field(default_factory=lambda: ["7"])  # of the witness; [] where none is run
    status: int = 7
    files: list = field(default_factory=lambda: [KEY])  # of which one is locked by each holder
    all_files: bool = False  # every one of them is
    fresh: bool = False  # the directory is not there yet
    holder: str = ""  # "", "stays", "leaves"
    holder_options: list = field(default_factory=list)
    holders: int = 1
    record: bool = False  # one is left in the file
    outer: list = None  # options of an outer keylock
    next_options: list = field(default_factory=list)
    hold: bool = False
    look: bool = False
    terminal: bool = False
    slow: bool = False

    @property
    def keeps_record(self):
        return "-A" in self.options or "-R" in self.options

    @property
    def looks(self):
        """Whether all processes are looked at."""
        return self.look or self.slow or "-v" in self.options

    @property
    def varies(self):
        """Whether another run may make other calls: by time, and by the processes there are."""
        return self.looks or self.holder == "leaves" or "-w" in self.options

    @property
    def bystander(self):
        return bool(self.holder == "stays" or self.look)


NO_RUN = dict(ending=[])
SCENARIOS = [
    Scenario("fresh", fresh=True),
    Scenario("plain"),
    Scenario("script", ["-c"]),
    Scenario("shared", ["-s"]),
    Scenario("daemon", ending=["daemon", "7"]),
    Scenario("signalled", ending=["abort"], status=-6),
    Scenario("not found", ending=["absent"], status=127),
    Scenario("busy -n", ["-n"], status=75, holder="stays"),
    Scenario("busy -w", ["-w", "0.03"], status=75, holder="stays"),
    Scenario("busy -n -v", ["-n", "-v"], status=75, holder="stays"),
    Scenario("wait", holder="leaves"),
    Scenario("wait -w", ["-w", "5"], holder="leaves"),
    Scenario("wait -s", ["-s"], holder="leaves"),
    Scenario("wait -v", ["-v"], holder="leaves"),
    Scenario("-F", ["-F"]),
    Scenario("-F wait", ["-F"], holder="leaves"),
    Scenario("-o", ["-o"]),
    Scenario("-l", ["-l"]),
    Scenario("-k", ["-k", "other"], files=[KEY, "other"], all_files=True),
    Scenario("-k wait", ["-w", "5", "-k", "other"], files=[KEY, "other"], all_files=True,
             holder="leaves"),
    Scenario("-j", ["-j", "2"], files=[KEY, KEY + "%s2"], next_options=["-j", "2"]),
    Scenario("-j wait", ["-j", "2"], files=[KEY, KEY + "%s2"], holder="leaves", holders=2,
             holder_options=["-j", "2"], next_options=["-j", "2"]),
    Scenario("-j busy -w", ["-j", "2", "-w", "0.03"], status=75, files=[KEY, KEY + "%s2"],
             holder="stays", holders=2, holder_options=["-j", "2"], next_options=["-j", "2"]),
    Scenario("-j busy -n", ["-j", "2", "-n"], status=75, files=[KEY, KEY + "%s2"], holder="stays",
             holders=2, holder_options=["-j", "2"], next_options=["-j", "2"]),
    Scenario("-A", ["-A"]),
    Scenario("-A signalled", ["-A"], ending=["abort"], status=-6),
    Scenario("-A not found", ["-A"], ending=["absent"], status=127),
    Scenario("-A left", ["-A"], status=76, record=True),
    Scenario("-R", ["-R"]),
    Scenario("-R left", ["-R"], record=True),
    Scenario("-R left not found", ["-R"], ending=["absent"], status=127, record=True),
    Scenario("plain left", record=True),
    # With a time-out, since an ancestor is found where /proc shows it, and not where it does not.
    Scenario("nested", ["-w", "0.1"], outer=[], status=78),
    Scenario("-r nested", ["-r", "-w", "0.1"], outer=[]),
    Scenario("-r nested shared", ["-r", "-s", "-w", "0.1"], outer=["-s"]),
    Scenario("-r nested -x in -s", ["-r", "-w", "0.1"], outer=["-s"], status=78),
    Scenario("--hold", ["--hold"], status=0, hold=True, **NO_RUN),
    Scenario("--hold -A", ["-A", "--hold"], status=0, hold=True, **NO_RUN),
    Scenario("--list", ["--list"], status=0, look=True, **NO_RUN),
    Scenario("--list --json", ["--list", "--json"], status=0, look=True, **NO_RUN),
    Scenario("--list KEY", ["--list"], status=0, look=True, **NO_RUN),
    Scenario("--who", ["--who"], status=0, look=True, **NO_RUN),
    Scenario("--path", ["--path"], status=0, **NO_RUN),
    Scenario("--pin", ["--pin"], status=0, **NO_RUN),
    Scenario("--forget", ["--forget"], status=0, record=True, **NO_RUN),
    Scenario("terminal", holder="leaves", terminal=True, slow=True),
    Scenario("related wait", ["-w", "1.3"], status=75, holder="stays", outer=["other"], slow=True),
]  # fmt: skip


# Calls that keylock makes by the thousand when it looks for processes, and none of which the
# witness makes, nor the child before the exec.
LOOKING = ("newfstatat", "getdents64", "read", "close", "fstat")


@dataclass
class Fault:
    """What is done to a run, in strace's words."""

    call: str
    what: str  # "error=EIO:when=3", "signal=KILL:when=3", …
    number: int = 0  # of the call among those of its name
    order: int = 0  # and among all of the run
    child: bool = False
    path: bool = False  # only calls that have to do with the witness's file
    quick: bool = False  # no other calls need be stopped at

    @property
    def error(self):
        found = re.match(r"error=(\w+)", self.what)
        return found and found.group(1)

    @property
    def signal(self):
        found = re.match(r"signal=(\w+)", self.what)
        return found and found.group(1)

    def options(self):
        options = ["-e", "trace=" + self.call, "-e", f"inject={self.call}:{self.what}"]
        if self.child or self.path:
            options.append("-f")
        elif self.quick:
            options += ["-f", "--seccomp-bpf"]
        if self.path:
            options += ["-P", WITNESS]
        return options


@dataclass
class Call:
    """A call of a recorded run: its name, which of that name it is, its place among all."""

    name: str
    number: int
    order: int
    child: bool
    line: str


@dataclass
class Outcome:
    status: int = None
    said: str = ""
    printed: str = ""
    ran: int = 0
    hung: bool = False
    hit: bool = False
    wrong: list = field(default_factory=list)
    seconds: float = 0.0


def tickets(path):
    """Whether somebody waits, by fcntl(2) on a descriptor of our own."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, TICKETS, LAST_TICKET - TICKETS, 0)
        return struct.unpack("hhqqi4x", fcntl.fcntl(fd, F_OFD_GETLK, ask))[0] != fcntl.F_UNLCK
    finally:
        os.close(fd)


def locked(path):
    """Whether somebody holds the flock(2) of the file that bears this name now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def hear(ours):
    """What is said at our end of a socket; nothing when all who have the other are gone."""
    try:
        return ours.recv(64)
    except ConnectionResetError:
        return b""


def answer(ours):
    try:
        ours.send(b"!")
    except OSError:
        pass  # it was killed meanwhile


def process(arguments, **more):
    """Start a process that has a socket to meet us at; returns it and our end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = [a.replace("SOCKET", str(theirs.fileno())) for a in arguments]
    fds = [theirs.fileno()]
    started = subprocess.Popen(arguments, pass_fds=fds, process_group=0, **more)
    theirs.close()
    return started, ours


class Place:
    """A folder to run in, and who holds keys there meanwhile."""

    def __init__(self, folder, scenario):
        self.folder = folder
        self.scenario = scenario
        self.dir = os.path.join(folder, "d")
        self.trace = os.path.join(folder, "trace")
        self.holders = []
        self.left = b""
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        self.environment = {"PATH": "/usr/bin:/bin", "KEYLOCK_DIR": self.dir, "LC_ALL": "C"}
        self.quiet = dict(env=self.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        if scenario.record or scenario.look:
            os.mkdir(self.dir, 0o700)
            started, ours = process([KEYLOCK, "-A", KEY, WITNESS, "SOCKET", "abort"], **self.quiet)
            hear(ours)
            answer(ours)
            started.wait()
            with open(self.path(KEY), "rb") as file:
                self.left = file.read()
        if scenario.look:
            os.rename(self.path(KEY), self.path("left"))
            subprocess.run([KEYLOCK, "--pin", "pinned"], **self.quiet)
            self.hold()
        elif scenario.holder == "stays":
            self.hold()

    def path(self, name):
        return os.path.join(self.dir, name)

    def hold(self):
        for _ in range(self.scenario.holders):
            holder = process(
                [KEYLOCK, "-F", *self.scenario.holder_options, KEY, WITNESS, "SOCKET", "0"],
                **self.quiet,
            )
            holder[1].settimeout(GRACE)
            assert hear(holder[1]).startswith(b"runs")
            self.holders.append(holder)

    def release(self):
        for started, ours in self.holders:
            answer(ours)
            started.wait()
            ours.close()
        self.holders = []

    def prepare(self):
        """Bring the directory to what the scenario begins with."""
        if self.scenario.bystander:
            return
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.scenario.fresh:
            return
        os.mkdir(self.dir, 0o700)
        if self.scenario.record:
            with open(self.path(KEY), "wb") as file:
                file.write(self.left)
            os.chmod(self.path(KEY), 0o1600)
        if self.scenario.holder == "leaves":
            self.hold()

    def close(self):
        self.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, strace):
        scenario = self.scenario
        options = list(scenario.options)
        keylock = [KEYLOCK, *options, KEY]
        if "-c" in options:
            keylock = [KEYLOCK, KEY, "-c", f"exec {WITNESS} SOCKET 7"]
        elif scenario.name in ("--list", "--list --json"):
            keylock.pop()
        elif scenario.ending == ["absent"]:
            keylock += [self.folder + "/absent"]
        elif scenario.ending:
            keylock += [WITNESS, "SOCKET", *scenario.ending]
        if strace:
            keylock = ["strace", "-qq", "-o", self.trace, *strace, "--", *keylock]
        if scenario.outer is not None:
            own = [] if scenario.outer == ["other"] else scenario.outer
            key = "outer" if scenario.outer == ["other"] else KEY
            keylock = [KEYLOCK, *own, key, "--", *keylock]
        return keylock


class Run:
    """One run of a scenario, with or without a fault, watched to its end."""

    def __init__(self, place, strace, fault=None):
        self.place = place
        self.scenario = place.scenario
        self.fault = fault
        self.outcome = Outcome()
        self.met = False
        self.daemon = False
        self.let_go = 0.0
        self.pty = None
        self.others = []
        self.patience = 0.0  # until when the command is not answered
        self.go(strace)

    def wrong(self, text):
        self.outcome.wrong.append(text)

    def holding(self):
        """How many of the scenario's files are locked."""
        return sum(locked(self.place.path(name)) for name in self.scenario.files)

    def on_runs(self):
        """The witness runs: is the key held, and by it alone?"""
        scenario, outcome = self.scenario, self.outcome
        outcome.ran += 1
        holders = len(self.place.holders)
        limit = 2 if "-j" in scenario.options else 1
        wanted = len(scenario.files) if scenario.all_files else holders + 1
        if outcome.ran > 1:
            self.wrong("the command ran twice")
        if holders >= limit:
            self.wrong("the command ran while another held the key")
        elif self.holding() < wanted and not self.command_ended():
            # Where keylock is dead, only the command has the lock; with -o it has none.
            if not ("-o" in scenario.options and self.fault and self.fault.signal == "KILL"):
                self.wrong("the command ran without its lock")

    def ends(self):
        """Whether keylock, and so strace, was about to end."""
        time.sleep(0.05)
        return self.child.poll() is not None

    def command_ended(self):
        return not self.others or bool(select.select(self.others, [], [], 0)[0])

    def on_hold(self):
        self.met = True
        self.outcome.ran += 1
        if self.holding() < 1 and not self.ends():
            self.wrong("it says 'locked' without the lock")
        try:
            self.child.stdin.write(b"done\n")
            self.child.stdin.close()
        except BrokenPipeError:
            pass  # it was killed meanwhile

    def on_message(self, word):
        word, pid = word.split()
        # A process that exits closes its socket before it closes the lockfile.
        try:
            self.others.append(os.pidfd_open(int(pid)))
        except ProcessLookupError:
            pass
        if word == b"runs":
            self.on_runs()
            if self.fault and self.fault.signal == "TERM" and self.is_met():
                self.patience = time.monotonic() + 2
                return  # keylock is to end it
            answer(self.ours)
        else:
            self.daemon = True

    def free_at_once(self):
        got = subprocess.run(
            [KEYLOCK, "-n", *self.scenario.next_options, KEY, WITNESS],
            timeout=GRACE, check=False, **self.place.quiet,
        )  # fmt: skip
        return got.returncode == 0

    def is_met(self):
        """Whether the fault's call has been made."""
        calls = re.findall(r"\b%s\(" % re.escape(self.fault.call), self.look_at_trace())
        return len(calls) >= self.fault.number

    def words(self):
        """What is on standard error by now."""
        with open(self.place.folder + "/err", encoding="utf-8", errors="replace") as file:
            return file.read()

    def look_at_trace(self):
        """strace's words: whether the fault was met, and whether keylock has stopped."""
        try:
            with open(self.place.trace, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            return ""
        return text

    def tick(self):
        scenario, place = self.scenario, self.place
        if scenario.holder == "leaves" and place.holders:
            slow = 1.15 if scenario.slow else 0.0
            if not self.let_go and tickets(place.path(KEY)):
                self.let_go = time.monotonic() + 0.005 + slow
            if (self.let_go and time.monotonic() >= self.let_go) or (
                time.monotonic() > self.started + 0.15 + slow
            ):
                place.release()
        if scenario.hold and not self.met and os.fstat(self.out.fileno()).st_size >= 7:
            self.on_hold()
        if self.fault and self.fault.signal == "TSTP":
            stops = self.look_at_trace().count("--- stopped by")
            if stops:
                try:
                    os.killpg(self.child.pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass

    def go(self, strace):
        scenario, place, outcome = self.scenario, self.place, self.outcome
        place.prepare()
        if os.path.exists(place.trace):
            os.truncate(place.trace, 0)
        self.out = open(place.folder + "/out", "w+b")
        err = open(place.folder + "/err", "w+b")
        if scenario.terminal:
            self.pty, err_fd = os.openpty()
        else:
            err_fd = err.fileno()
        self.started = time.monotonic()
        self.child, self.ours = process(
            place.command(strace),
            env=place.environment,
            stdin=subprocess.PIPE if scenario.hold else subprocess.DEVNULL,
            stdout=self.out,
            stderr=err_fd,
        )
        if scenario.terminal:
            os.close(err_fd)
        self.watch()
        outcome.seconds = time.monotonic() - self.started
        place.release() if scenario.holder == "leaves" else None
        if self.pty:
            try:
                err.write(os.read(self.pty, 65536).replace(b"\r\n", b"\n"))
            except OSError:
                pass
            os.close(self.pty)
        err.seek(0)
        self.out.seek(0)
        outcome.said = err.read().decode(errors="replace")
        outcome.printed = self.out.read().decode(errors="replace")
        err.close()
        self.out.close()
        if self.child.stdin and not self.child.stdin.closed:
            try:
                self.child.stdin.close()
            except BrokenPipeError:
                pass
        self.ours.close()
        if self.fault:
            outcome.hit = self.is_met() if self.fault.signal else "INJECTED" in self.look_at_trace()

    def watch(self):
        scenario, outcome = self.scenario, self.outcome
        ticking = (
            scenario.holder == "leaves" or scenario.hold or
            (self.fault and self.fault.signal == "TSTP")
        )  # fmt: skip
        open_end = True
        while open_end or self.child.poll() is None:
            left = self.started + GRACE - time.monotonic()
            if left <= 0:
                self.end_hung()
                break
            ended = self.child.poll() is not None
            if ended and self.daemon:
                self.on_daemon_left()
            if self.patience and time.monotonic() > self.patience:
                self.patience = 0.0
                self.wrong("a SIGTERM that came before the command does not reach it")
                answer(self.ours)
            hurry = ticking or self.daemon or self.patience or not open_end
            pause = 0.002 if hurry else left
            ready = open_end and select.select([self.ours], [], [], min(pause, left))[0]
            if ready:
                word = hear(self.ours)
                if word:
                    self.on_message(word)
                else:
                    open_end = False
            elif not open_end:
                time.sleep(0.0005)
            if ticking:
                self.tick()
        outcome.status = self.child.wait()
        for pidfd in self.others:
            if not select.select([pidfd], [], [], GRACE)[0]:
                self.wrong("the command is still there after keylock")
            os.close(pidfd)

    def on_daemon_left(self):
        """keylock has ended and left a daemon behind that has the lock's description."""
        self.daemon = False
        killed = self.fault and self.fault.signal == "KILL"
        if not killed and not self.free_at_once() and not self.words():
            self.wrong("the key is kept by the daemon that the command left behind")
        answer(self.ours)

    def end_hung(self):
        """Kill what this run started, by its pid, from the witness up to strace."""
        self.outcome.hung = True
        family = [self.child.pid]
        for pid in family:
            try:
                with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                    family += [int(word) for word in file.read().split()]
            except OSError:
                pass
        for pid in reversed(family):
            try:
                self.others.append(os.pidfd_open(pid))
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


# --- what is right -------------------------------------------------------


def status_allowed(scenario, fault, status):
    """Whether this status may come of that fault where the command was not run."""
    call = SAME.get(fault.call, fault.call)
    error = fault.error
    allowed = {71, 73, 77}
    if call == "open" and error in ("EMFILE", "ENFILE", "ENOMEM"):
        allowed = {71}
    elif call in ("fork", "timer_create", "flock", "mmap", "brk", "mremap"):
        allowed = {71}
    elif call == "mkdir":
        allowed = {71 if error == "ENOMEM" else 77 if error in ("ELOOP", "ENOTDIR") else 73}
    elif call in ("pwrite64", "pread64", "fsync", "ftruncate"):
        allowed = {73}
    elif call == "execve":
        allowed = {126, 127}
    elif call == "fcntl":
        allowed = {71}
    if scenario.keeps_record:
        allowed |= {73}  # the directory is opened to bring the record to disk
    if scenario.ending == ["absent"]:
        allowed |= {127}
    if scenario.look:
        allowed |= {73}  # the directory cannot be read
    if scenario.hold and call == "stat":
        allowed |= {64}  # it is not known what standard input is
    if scenario.outer is not None:
        allowed |= {78}
    if scenario.status in (76, 78):
        allowed |= {scenario.status}
    return status in allowed


def lines_wrong(said, wanted):
    lines = said.splitlines()
    if len(lines) != wanted or any(not line.startswith("keylock: ") for line in lines):
        return f"{len(lines)} lines on standard error instead of {wanted}"
    return ""


def extra_lines(scenario, fault):
    """How many more things can go wrong, each of which is said."""
    extra = 0
    if scenario.keeps_record:
        extra += 1  # that the record cannot be ended or brought back
    if fault.call == "flock":
        extra += len(scenario.files)  # that they cannot be let go
    return extra


def may_say_taken(scenario, fault):
    """75 is right on a key that is taken, and where the kernel says so."""
    if scenario.holder or scenario.outer is not None:
        return "-n" in scenario.options or "-w" in scenario.options
    return "-n" in scenario.options and fault.error in ("EAGAIN", "EACCES")


def judge_status(scenario, fault, outcome):
    """The status, and what is said with it."""
    status, ran, said = outcome.status, outcome.ran, outcome.said
    mute = fault.call in ("write", "poll")  # nobody can be told
    aloud = "-v" in scenario.options or scenario.terminal
    if fault.signal == "KILL":
        if status not in (-9, scenario.status):
            yield f"status {status} after SIGKILL"
        return
    if fault.signal == "TERM":
        if status == -15 or not outcome.hit:
            return
        if ran and status == scenario.status:
            return
    if scenario.status < 0 and status == 128 - scenario.status:
        status = scenario.status  # it could not kill itself
    if status < 0 and status != scenario.status:
        yield f"died of signal {-status}"
        return
    if fault.call == "wait4" and fault.error == "ECHILD" and ran and status == 71:
        # How the command ended is not known.
        if lines_wrong(said, 1) and not aloud:
            yield f"status {status}, and " + lines_wrong(said, 1)
        return
    if scenario.ending and scenario.ending != ["absent"] and ran:
        if status != scenario.status:
            yield f"the command ran, and its status {scenario.status} became {status}"
        limit = 3 if aloud else extra_lines(scenario, fault)
        if len(said.splitlines()) > limit and not mute:
            yield "it said something though the command ran"
        return
    if outcome.printed and scenario.ending:
        yield "something is on standard output"
    if status == scenario.status and (scenario.status != 7 or not scenario.ending):
        wanted = 0 if status in (0, 75) else 1
        if aloud and status == 75:
            return
        if scenario.look and fault.error and said:
            wanted = 1  # it may say that something cannot be seen
        extra = extra_lines(scenario, fault)
        if not mute and all(lines_wrong(said, wanted + more) for more in range(extra + 1)):
            yield f"status {status}, and " + lines_wrong(said, wanted)
        return
    if status == 75:
        if not may_say_taken(scenario, fault):
            yield "75 of a key that nobody has"
        elif said and not aloud:
            yield "something is said with 75"
        return
    if status == 1 and "--who" in scenario.options and not said:
        return  # see judge_looking()
    if status == 0:
        yield "0, and the command did not run"
        return
    if not status_allowed(scenario, fault, status):
        yield f"status {status} is not the one for this fault"
    extra = extra_lines(scenario, fault)
    if not mute and not aloud and all(lines_wrong(said, 1 + more) for more in range(extra + 1)):
        yield f"status {status}, and " + lines_wrong(said, 1)


def judge_record(place, fault, run, undisturbed):
    """What is in the file after a run with -A, -R or --forget, or of a key left in doubt."""
    scenario = place.scenario
    try:
        with open(place.path(KEY), "rb") as file:
            record = file.read()
    except FileNotFoundError:
        record = b""
    outcome = run.outcome
    ran, said = outcome.ran > 0, outcome.said
    killed = fault and fault.signal == "KILL"
    if scenario.ending == ["absent"] or not ran:
        if scenario.record and not record and "--forget" not in scenario.options:
            yield "the record is gone though nothing was run"
        if "--forget" in scenario.options and outcome.status == 0 and record:
            yield "0, and the record is still there"
        if "--forget" not in scenario.options and not scenario.record and record:
            # From the last look for signals on, the command may have begun.
            if not said and not killed and not fault.signal:
                yield "a record is left though nothing was run, in silence"
        return
    if not scenario.keeps_record:
        if scenario.record and record != place.left:
            yield "a run without -A or -R changed the record"
        return
    if outcome.status in (7, 0):
        # A read that comes short is that of another's file, or the end of the input of --hold.
        short = fault.what.startswith("retval") and fault.call in ("read", "pread64")
        # And another has the lock by then, where a descendant of the command has let it go.
        short = short or (fault.call == "flock" and fault.error == "EAGAIN")
        # An input that is closed has ended.
        short = short or (fault.call == "read" and fault.error == "EBADF")
        if record and not said and not short:
            yield "the command ended by itself, and a record is left, in silence"
    elif not record and not (killed and undisturbed) and not scenario.hold:  # "done" was said
        yield "the command did not end by itself, and the record is gone"


# What cannot be opened for another reason than these is no lockfile, or another user's.
TOLD = ("EMFILE", "ENFILE", "ENOMEM")


def states(scenario, printed):
    """The keys and their states in what was printed."""
    lines = printed.splitlines()
    try:
        if "--json" in scenario.options:
            return [(one["key"], one["state"]) for one in map(json.loads, lines)]
    except ValueError:
        return lines
    if "--list" in scenario.options:
        return [tuple(line.split()[:2]) for line in lines]
    return lines


def judge_looking(place, fault, outcome, clean):
    """--list and --who: what is said with 0 is true; other statuses do not claim anything."""
    scenario = place.scenario
    if sorted(os.listdir(place.dir)) != [KEY, "left", "pinned"]:
        yield "looking changed the directory"
    unlisted = fault.call == "openat" and fault.error not in TOLD
    unlisted = unlisted or fault.error == "ENOENT"
    if outcome.status == 1 and not unlisted:
        yield "1: nobody holds a key that is held"
    if outcome.status != 0:
        return
    now, then = (states(scenario, one.printed) for one in (outcome, clean))
    if "--who" in scenario.options and not now and "cannot be seen" in outcome.said:
        return
    if unlisted and set(now) <= set(then):
        return
    if now != then:
        yield f"0, and it shows {now}, not {then}"


def judge_after(place, outcome):
    """The key is free at once for the next run, and that one leaves nothing."""
    scenario = place.scenario
    keep = scenario.bystander
    if "--path" in scenario.options:
        if outcome.status == 0 and outcome.printed != place.path(KEY) + "\n":
            yield f"0, and the path is {outcome.printed!r}"
        if os.listdir(place.dir):
            yield "--path made a file"
    if "--pin" in scenario.options and outcome.status == 0:
        mode = os.stat(place.path(KEY)).st_mode if os.path.exists(place.path(KEY)) else 0
        if not mode & 0o100 or outcome.printed != place.path(KEY) + "\n":
            yield f"0, and the file is not pinned, or its path is not printed: {outcome.printed!r}"
    more = ["-k", "other"] if "other" in scenario.files else []
    got = subprocess.run(
        [KEYLOCK, "-n", *scenario.next_options, *more, KEY, WITNESS],
        env=place.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=GRACE,
    )  # fmt: skip
    wanted = 75 if keep else 0
    if got.returncode != wanted:
        yield f"the next run with -n ends with {got.returncode} instead of {wanted}: {got.stderr}"
    if keep:
        allowed = set(os.listdir(place.dir)) & {KEY, KEY + "%s2", "left", "pinned"}
        if tickets(place.path(KEY)):
            yield "a ticket is left"
    elif "--pin" in scenario.options or scenario.keeps_record or scenario.record:
        allowed = {KEY}
    else:
        allowed = set()
    if outcome.hung:
        allowed.add("outer")  # its keylock was killed with the rest
    for name in set(os.listdir(place.dir)) - allowed:
        yield f"the file {name} is left after the next run"
    if not keep and KEY in allowed and "--pin" not in scenario.options:
        path = place.path(KEY)
        if os.path.exists(path) and os.path.getsize(path) == 0:
            yield f"the file {KEY} is left empty after the next run"


def judge(place, fault, run, clean, settled):
    outcome = run.outcome
    lax = fault.call in CANNOT_FAIL and fault.error
    if outcome.hung and not lax:
        yield f"it hangs (more than {GRACE:.0f} s)"
    yield from outcome.wrong
    if not outcome.hung and not lax:
        yield from judge_status(place.scenario, fault, outcome)
        yield from judge_record(place, fault, run, fault.order >= settled)
        if place.scenario.look:
            yield from judge_looking(place, fault, outcome, clean)
    yield from judge_after(place, outcome)


# --- which faults --------------------------------------------------------


def record_calls(place):
    """The calls of a run without a fault, and the run."""
    run = Run(place, ["-f", "-e", "signal=none"])
    calls, count, first, second, executed = [], {}, None, None, False
    for line in open(place.trace, encoding="utf-8", errors="replace"):
        found = re.match(r"(\d+) +(\w+)\(", line)
        if not found:
            executed = executed or re.match(r"\d+ +<\.\.\. execve resumed>.* = 0$", line)
            continue
        pid, name = found.groups()
        if first is None:
            first = pid  # its first call is the exec of keylock itself
            continue
        if pid != first:
            second = second or pid
            if executed or pid != second:
                continue
        count[pid, name] = count.get((pid, name), 0) + 1
        calls.append(Call(name, count[pid, name], len(calls), pid != first, line))
        if name == "execve" and line.rstrip().endswith(" = 0"):
            executed = True
            if pid == first:  # -F: from here on it is the command
                break
    return calls, run


def spread(calls, most=22):
    """Of very many calls of one name the first, the last and some between."""
    kept, by_name = [], {}
    for call in calls:
        by_name.setdefault((call.name, call.child), []).append(call)
    for (name, _), same in by_name.items():
        edge = 3 if name in CANNOT_FAIL or len(same) > 200 else most // 2 - 1
        middle = (len(same) // 3, 2 * len(same) // 3)
        for place, call in enumerate(same):
            if place < edge or place >= len(same) - edge or place in middle:
                kept.append(call)
    return sorted(kept, key=lambda call: call.order)


def errors_of(name):
    listed = ERRORS.get(SAME.get(name, name), "").split()
    return listed + [error for error in EVERY if error not in listed]


def faults_of(scenario, calls, turn):
    """The faults for one scenario; in quick size a part of them, which `turn` varies."""
    parents = {}
    for call in calls:
        if not call.child:
            parents[call.name] = call.number
    faults, names = [], {}
    # Before it blocks all signals, it is the C library and its loader that start.
    own = next((call.order for call in calls if call.name == "rt_sigprocmask"), 0)
    for call in spread([call for call in calls if call.order >= own]):
        turn += 1
        if call.child and call.number <= parents.get(call.name, 0):
            continue  # the same number in the parent fails first
        if call.child and "daemon" in scenario.ending:
            continue  # strace would wait for the daemon
        if call.name == "execve":
            continue  # by its path, below
        names.setdefault(call.name, call.number)
        place = dict(number=call.number, order=call.order, child=call.child)
        if call.name not in LEFT_OUT:
            errors = errors_of(call.name)
            lasting = [] if call.name in WAITS + CANNOT_FAIL else errors
            lasting = [error for error in lasting if error not in MOMENTARY]
            if not LONG and (turn % 2 or not lasting):
                errors, lasting = [errors[turn // 2 % len(errors)]], []
            elif not LONG:
                errors, lasting = [], [lasting[turn // 2 % len(lasting)]]
            whats = [f"error={error}:when={call.number}" for error in errors]
            whats += [f"error={error}:when={call.number}+" for error in lasting]
            # What comes back short; of 1 and 100 bytes only where nothing is read or told by it.
            whats += [f"retval={length}:when={call.number}" for length in SHORT.get(call.name, ())]
            quick = scenario.looks and call.name in LOOKING
            faults += [Fault(call.name, what, quick=quick, **place) for what in whats]
        if call.child:
            continue
        signals = ["KILL", "TERM", "TSTP"]
        if not LONG:
            signals = ["KILL"] + [["TERM"], [], ["TSTP"], []][turn % 4]
        for name in signals:
            faults.append(Fault(call.name, f"signal={name}:when={call.number}", **place))
    for name, first in names.items():
        if name in LEFT_OUT or name in CANNOT_FAIL or "EINTR" not in errors_of(name):
            continue
        for when in (f"{first}+2", f"{first + 1}+2", f"{first}..{first + 8}"):
            faults.append(Fault(name, f"error=EINTR:when={when}"))
    # Not where a shell executes it.
    if scenario.ending[:1] not in ([], ["absent"], ["daemon"]) and scenario.name != "script":
        errors = errors_of("execve")
        for error in errors if LONG or scenario.name == "plain" else errors[turn % 3 :: 3]:
            for when in ("1", "1+"):
                faults.append(Fault("execve", f"error={error}:when={when}", path=True))
    return faults


# --- running them --------------------------------------------------------


def work(task):
    """Run some faults of one scenario; returns what was seen."""
    number, faults, settled = task
    scenario = SCENARIOS[number]
    place = Place(f"{FOLDER}/{os.getpid()}", scenario)
    seen = dict(runs=0, hits=0, ran=0, failed=0, wrong=[], calls=[])
    try:
        clean = Run(place, []).outcome
        for fault in faults:
            quiet = [] if fault.signal == "TSTP" else ["-e", "signal=none"]
            run = Run(place, fault.options() + quiet, fault)
            outcome = run.outcome
            seen["runs"] += 1
            seen["hits"] += outcome.hit
            seen["ran"] += outcome.ran > 0
            seen["failed"] += outcome.status not in (0, scenario.status)
            wrong = list(judge(place, fault, run, clean, settled))
            if not outcome.hit and not scenario.varies and fault.number:
                if "retval" not in fault.what:
                    wrong.append("the fault was not met")
            if wrong:
                seen["wrong"].append((describe(place, fault, outcome), wrong))
    finally:
        place.close()
    return number, seen


def describe(place, fault, outcome):
    inject = " ".join(fault.options())
    return (
        f"{place.scenario.name}: strace {inject}: status {outcome.status},"
        f" ran {outcome.ran}, said {outcome.said.strip()!r}"
    )


def plan(number):
    """Record a scenario; returns its tasks, and what is wrong with it without any fault."""
    scenario = SCENARIOS[number]
    place = Place(f"{FOLDER}/{os.getpid()}", scenario)
    wrong = []
    try:
        clean = Run(place, [])
        nothing = Fault("none", "")
        wrong += [(scenario.name, list(judge(place, nothing, clean, clean.outcome, 0)))]
        if clean.outcome.status != scenario.status:
            wrong[0][1].append(f"status {clean.outcome.status} ({clean.outcome.said.strip()})")
        calls, _ = record_calls(place)
    finally:
        place.close()
    # Where keylock waits for the command, and where the record has been settled.
    waiting = settled = len(calls)
    for call in calls:
        if call.name == "rt_sigtimedwait" and not call.child and "~[]" in call.line:
            waiting = call.order
            break
        if scenario.hold and call.name == "ppoll":
            waiting = call.order
            break
    for call in calls:
        if call.name in ("ftruncate", "pwrite64") and call.order > waiting:
            settled = call.order
            break
    faults = faults_of(scenario, calls, number)
    if scenario.slow and not LONG:
        faults = faults[:: max(1, len(faults) // 60)]
    size = 10 if scenario.slow else 40
    tasks = [
        (number, faults[i : i + size], settled) for i in range(0, len(faults), size)
    ]
    return tasks, [one for one in wrong if one[1]], len(calls)


def report(wrong):
    for what, reasons in wrong:
        print(f"WRONG {what}")
        for reason in reasons:
            print(f"      {reason}", flush=True)


def main():
    numbers = [i for i, s in enumerate(SCENARIOS) if not ONLY or s.name in ONLY]
    fast = multiprocessing.Pool(2)
    slow = multiprocessing.Pool(4)  # these sleep most of their time
    wrong, tasks, calls = [], [], 0
    for more, bad, count in fast.map(plan, numbers, 1):
        tasks += more
        wrong += bad
        calls += count
    late = slow.imap_unordered(work, [t for t in tasks if SCENARIOS[t[0]].slow])
    soon = fast.imap_unordered(work, [t for t in tasks if not SCENARIOS[t[0]].slow])
    total = dict(runs=0, hits=0, ran=0, failed=0)
    report(wrong)
    for source in (soon, late):
        for _, seen in source:
            report(seen["wrong"])
            wrong += seen["wrong"]
            for key in total:
                total[key] += seen[key]
    print(
        f"faults: {total['runs']} runs of {len(numbers)} scenarios with {calls} calls,"
        f" {total['hits']} met their fault: the command ran under its lock in {total['ran']},"
        f" {total['failed']} ended with another status than without it; {len(wrong)} wrong"
    )
    return 1 if wrong or not total["runs"] else 0


if __name__ == "__main__":
    sys.exit(main())

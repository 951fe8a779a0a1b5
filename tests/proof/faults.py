#!/usr/bin/env python3
"""What keylock does when a system call fails: called by faults.sh.

    faults.py quick|long KEYLOCK WITNESS FOLDER [SCENARIO...]

A scenario is one way to run keylock. It is first recorded with strace, and then run again once for
each fault: the n-th call of a name fails with an errno of its manual page, or it and all after it,
or every other one with EINTR; it comes back short; or a signal comes at it. The command is
witness.c, which says that it runs and waits for an answer. Meanwhile this program looks whether the
key's lock is held, by flock(2) on a descriptor of its own, so it needs no trust in keylock. What is
right is in the functions called judge: a right result or a line that says why, never silence, a
wrong 0 or a wait without end; no command without its lock; a key that is free afterwards, and no
file; a record of -A or -R where the command did not end by itself.
"""
import collections
import contextlib
import fcntl
import json
import multiprocessing
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

SIZE, KEYLOCK, WITNESS, FOLDER = sys.argv[1:5]
ONLY = sys.argv[5:]
LONG = SIZE == "long"
SEED = int(os.environ["SEED"])
PART = 1 if LONG or ONLY else 5  # of so many faults one is tried
KEY = "key"
GRACE = 5.0  # seconds until a run counts as one that hangs

# By the ERRORS of the manual pages, section 2; any call may answer the last two, on a kernel that
# lacks it and in a sandbox.
PATHS = "EACCES EINTR EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EROFS"
TABLE = {
    "open openat": PATHS + " EAGAIN EDQUOT EEXIST EISDIR EMFILE ENFILE ENOSPC ENXIO EOVERFLOW ETXTBSY",
    "mkdir mkdirat": PATHS + " EDQUOT EEXIST EMLINK ENOSPC",
    "unlink unlinkat": PATHS + " EBUSY EISDIR",
    "stat fstat lstat newfstatat statx statfs fstatfs": PATHS + " EBADF EOVERFLOW",
    "fchmod chmod fchown utimensat access faccessat faccessat2": PATHS + " EBADF",
    "getdents64": "EBADF EINVAL ENOENT ENOTDIR",
    "fcntl": "EACCES EAGAIN EBADF EDEADLK EINTR EINVAL EMFILE ENOLCK",
    "flock": "EAGAIN EBADF EINTR EINVAL ENOLCK",
    "read pread64": "EAGAIN EBADF EINTR EINVAL EIO EISDIR",
    "write pwrite64": "EAGAIN EBADF EDQUOT EFBIG EINTR EINVAL EIO ENOSPC EPIPE",
    "ftruncate fsync fdatasync": "EBADF EDQUOT EFBIG EINTR EINVAL EIO ENOSPC EROFS",
    "close dup2 dup3": "EBADF EINTR EIO EMFILE",
    "fork vfork clone clone3": "EAGAIN ENOMEM",
    "execve": "E2BIG EACCES EAGAIN EIO EISDIR ELIBBAD ELOOP EMFILE ENFILE ENOENT ENOMEM ETXTBSY",
    "rt_sigtimedwait": "EAGAIN EINTR EINVAL",
    "wait4 waitid": "ECHILD EINTR EINVAL",
    "poll ppoll nanosleep clock_nanosleep": "EINTR EINVAL ENOMEM",
    "timer_create": "EAGAIN EINVAL ENOMEM",
    "inotify_init1 inotify_add_watch": "EACCES EBADF EINVAL EMFILE ENFILE ENOENT ENOMEM ENOSPC",
    "mmap munmap mremap mprotect": "EACCES EAGAIN EINVAL ENOMEM",
}
ERRORS = {name: errors.split() for names, errors in TABLE.items() for name in names.split()}
EVERY = ["ENOSYS", "EPERM"]
SHORT = {"read": [0], "pread64": [0], "write": [0], "pwrite64": [0, 1, 100]}

# No errors of these: the C library starts by the first; the next do not return; the last have no
# failure in the kernel. Signals come at them all the same.
LEFT_OUT = {
    "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink",
    "getrandom", "exit_group", "exit", "rt_sigreturn", "restart_syscall",
    "umask", "getpid", "getppid", "gettid", "geteuid", "brk",
}  # fmt: skip
# Not answered for ever: who is told so again and again is right to try again and again, and who
# waits for a command that runs must go on, since to leave would free its key.
MOMENTARY = ("EINTR", "EAGAIN", "EBUSY", "ENOENT")
WAITS = ("rt_sigtimedwait", "wait4")
# The kernel has no failure for these as keylock calls them. It may do what it likes then, but not
# run the command without its lock, nor keep it.
CANNOT_FAIL = ("rt_sigaction", "rt_sigprocmask", "rt_sigpending")
# Calls that keylock makes by the thousand when it looks for processes, and none of which the
# witness makes, nor the child before the exec.
LOOKING = ("newfstatat", "getdents64", "read", "close", "fstat")


@dataclass
class Scenario:
    """One way to run keylock, and what is to come of it without a fault."""

    name: str
    words: str = ""  # its options
    status: int = 7
    ending: str = "7"  # of the witness; "" where none is run
    fresh: bool = False  # the directory is not there yet
    holder: str = ""  # "", "stays", "leaves"
    record: bool = False  # one is left in the file
    outer: str = None  # options of an outer keylock
    look: bool = False
    slow: bool = False

    def __post_init__(self):
        self.options = self.words.split()
        self.hold = "--hold" in self.options
        self.slots = ["-j", "2"] if "-j" in self.options else []
        self.second = [KEY + "%s2"] if self.slots else ["other"] if "-k" in self.options else []
        self.records = "-A" in self.options or "-R" in self.options
        self.absent = self.ending == "absent"
        self.runs = bool(self.ending) and not self.absent
        self.keeps = self.look or self.holder == "stays"  # the key is held all the time
        # Whether another run may make other calls: by time, and by the processes there are.
        self.looks = self.look or self.slow or "-v" in self.options
        self.varies = self.looks or self.holder == "leaves" or "-w" in self.options


SCENARIOS = [
    Scenario("fresh", fresh=True),
    Scenario("plain"),
    Scenario("script", "-c"),
    Scenario("shared", "-s"),
    Scenario("daemon", ending="daemon 7"),
    Scenario("signalled", status=-6, ending="abort"),
    Scenario("not found", status=127, ending="absent"),
    Scenario("busy -n", "-n", 75, holder="stays"),
    Scenario("busy -w", "-w 0.03", 75, holder="stays"),
    Scenario("busy -n -v", "-n -v", 75, holder="stays"),
    Scenario("wait", holder="leaves"),
    Scenario("wait -w", "-w 5", holder="leaves"),
    Scenario("wait -s -v", "-s -v", holder="leaves"),
    Scenario("-F", "-F"),
    Scenario("-F wait", "-F", holder="leaves"),
    Scenario("-o", "-o"),
    Scenario("-l", "-l"),
    Scenario("-k", "-k other"),
    Scenario("-k wait", "-w 5 -k other", holder="leaves"),
    Scenario("-j", "-j 2"),
    Scenario("-j wait", "-j 2", holder="leaves"),
    Scenario("-j busy -w", "-j 2 -w 0.03", 75, holder="stays"),
    Scenario("-j busy -n", "-j 2 -n", 75, holder="stays"),
    Scenario("-A", "-A"),
    Scenario("-A signalled", "-A", -6, "abort"),
    Scenario("-A not found", "-A", 127, "absent"),
    Scenario("-A left", "-A", 76, record=True),
    Scenario("-R", "-R"),
    Scenario("-R left", "-R", record=True),
    Scenario("-R left not found", "-R", 127, "absent", record=True),
    Scenario("plain left", record=True),
    # With a time-out, since an ancestor is found where /proc shows it, and not where it does not.
    Scenario("nested", "-w 0.1", 78, outer=""),
    Scenario("-r nested", "-r -w 0.1", outer=""),
    Scenario("-r nested shared", "-r -s -w 0.1", outer="-s"),
    Scenario("-r nested -x in -s", "-r -w 0.1", 78, outer="-s"),
    Scenario("--hold", "--hold", 0, ""),
    Scenario("--hold -A", "-A --hold", 0, ""),
    Scenario("--list", "--list", 0, "", look=True),
    Scenario("--list --json", "--list --json", 0, "", look=True),
    Scenario("--who", "--who", 0, "", look=True),
    Scenario("--path", "--path", 0, ""),
    Scenario("--pin", "--pin", 0, ""),
    Scenario("--forget", "--forget", 0, "", record=True),
    Scenario("related wait", "-w 1.3", 75, holder="stays", outer="other", slow=True),
]


@dataclass
class Fault:
    """What is done to a run, in strace's words."""

    call: str
    what: str  # "error=EIO:when=3", "signal=KILL:when=3", …
    number: int = 0  # of the call among those of its name; 0: no certain one
    order: int = 0  # and among all of the run
    child: bool = False
    path: bool = False  # only calls that have to do with the witness's file
    quick: bool = False  # no other calls need be stopped at

    def __post_init__(self):
        kind, _, value = self.what.split(":")[0].partition("=")
        self.error = value if kind == "error" else ""
        self.signal = value if kind == "signal" else ""
        self.short = kind == "retval"

    def options(self):
        options = ["-e", "trace=" + self.call, "-e", f"inject={self.call}:{self.what}"]
        if self.child or self.path:
            options.append("-f")
        elif self.quick:
            options += ["-f", "--seccomp-bpf"]
        return options + (["-P", WITNESS] if self.path else [])


def locked(path):
    """Whether somebody has the lock of the file that bears this name now."""
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def awaited(path):
    """Whether somebody has a ticket there."""
    wish = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1000, (1 << 61) - 1000, 0)
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        return struct.unpack("hhqqi4x", fcntl.fcntl(file, 36, wish))[0] != fcntl.F_UNLCK
    return False


def hear(ours):
    """What is said at our end of a socket; nothing when all who have the other are gone."""
    try:
        return ours.recv(64)
    except ConnectionResetError:
        return b""


def answer(ours):
    with contextlib.suppress(OSError):  # it was killed meanwhile
        ours.send(b"!")


def process(arguments, **more):
    """Start a process that has a socket to meet us at; returns it and our end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = [a.replace("SOCKET", str(theirs.fileno())) for a in arguments]
    started = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], process_group=0, **more)
    theirs.close()
    return started, ours


class Place:
    """A folder to run in, and who holds keys there meanwhile."""

    def __init__(self, folder, scenario):
        self.folder = folder
        self.scenario = scenario
        self.dir = os.path.join(folder, "d")
        self.trace, self.out, self.err = (pathlib.Path(folder, name) for name in ("trace", "out", "err"))
        self.holders = []
        self.left = b""
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        self.environment = {"PATH": "/usr/bin:/bin", "KEYLOCK_DIR": self.dir, "LC_ALL": "C"}
        self.quiet = dict(env=self.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        if scenario.record or scenario.look:
            subprocess.run([KEYLOCK, "-A", KEY, "sh", "-c", "kill -KILL $$"], **self.quiet)
            self.left = self.content()
        if scenario.look:
            os.rename(self.path(KEY), self.path("left"))
            self.next("--pin", key="pinned")
        if scenario.keeps:
            self.hold()

    def path(self, name):
        return os.path.join(self.dir, name)

    def next(self, *options, key=KEY, command=()):
        return subprocess.run([KEYLOCK, *options, key, *command], env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=GRACE)  # fmt: skip

    def hold(self):
        for _ in range(2 if self.scenario.slots else 1):
            holder = process([KEYLOCK, "-F", *self.scenario.slots, KEY, WITNESS, "SOCKET", "0"],
                             **self.quiet)  # fmt: skip
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
        self.trace.write_text("")
        if self.scenario.keeps:
            return
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.scenario.fresh:
            return
        os.mkdir(self.dir, 0o700)
        if self.scenario.record:
            pathlib.Path(self.path(KEY)).write_bytes(self.left)
            os.chmod(self.path(KEY), 0o1600)
        if self.scenario.holder == "leaves":
            self.hold()

    def close(self):
        self.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, strace):
        scenario = self.scenario
        keylock = [KEYLOCK, *scenario.options, KEY]
        if scenario.name == "script":
            keylock = [KEYLOCK, KEY, "-c", f"exec {WITNESS} SOCKET 7"]
        elif "--list" in scenario.options:
            keylock.pop()
        elif scenario.absent:
            keylock.append(self.folder + "/absent")
        elif scenario.ending:
            keylock += [WITNESS, "SOCKET", *scenario.ending.split()]
        if strace:
            keylock = ["strace", "-qq", "-o", str(self.trace), *strace, "--", *keylock]
        if scenario.outer == "other":
            keylock = [KEYLOCK, "outer", "--", *keylock]
        elif scenario.outer is not None:
            keylock = [KEYLOCK, *scenario.outer.split(), KEY, "--", *keylock]
        return keylock

    def traced(self):
        """strace's words."""
        return self.trace.read_text(encoding="utf-8", errors="replace")

    def content(self):
        """What is in the key's file."""
        path = pathlib.Path(self.path(KEY))
        return path.read_bytes() if path.exists() else b""


class Run:
    """One run of a scenario, with or without a fault, watched to its end."""

    def __init__(self, place, strace, fault=None):
        self.place, self.scenario, self.fault = place, place.scenario, fault
        self.wrong = []
        self.ran = 0
        self.hung = self.daemon = False
        self.let_go = 0.0
        self.others = []  # processes that must have ended when keylock has
        place.prepare()
        self.started = time.monotonic()
        with open(place.out, "wb") as out, open(place.err, "wb") as err:
            self.child, self.ours = process(
                place.command(strace), env=place.environment, stdout=out, stderr=err,
                stdin=subprocess.PIPE if self.scenario.hold else subprocess.DEVNULL,
            )  # fmt: skip
        self.watch()
        if self.scenario.holder == "leaves":
            place.release()
        self.say_done()
        self.ours.close()
        self.said = place.err.read_text(errors="replace")
        self.printed = place.out.read_text(errors="replace")
        self.hit = bool(fault) and (bool(fault.signal) or "INJECTED" in place.traced())

    def on_runs(self):
        """The command runs: is the key held, and by it alone?"""
        scenario = self.scenario
        self.ran += 1
        holders = len(self.place.holders)
        held = sum(locked(self.place.path(name)) for name in [KEY, *scenario.second])
        if self.ran > 1:
            self.wrong.append("the command ran twice")
        if holders >= (2 if scenario.slots else 1):
            self.wrong.append("the command ran while another held the key")
        # Where keylock is dead, only the command has the lock; with -o it has none.
        if "-o" in scenario.options and self.fault and self.fault.signal == "KILL":
            return
        wanted = 2 if "-k" in scenario.options else holders + 1
        if held < wanted and not self.ends():
            self.wrong.append("the command ran without its lock")

    def ends(self):
        """Whether the command, or with --hold keylock, has ended or was about to."""
        if not self.scenario.hold:
            return not self.others or bool(select.select(self.others, [], [], 0)[0])
        time.sleep(0.05)
        return self.child.poll() is not None

    def say_done(self):
        if self.child.stdin and not self.child.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile
                self.child.stdin.write(b"done\n" if self.ran else b"")
                self.child.stdin.close()

    def on_message(self, word, pid):
        # A process that exits closes its socket before it closes the lockfile.
        with contextlib.suppress(ProcessLookupError):
            self.others.append(os.pidfd_open(int(pid)))
        if word == b"runs":
            self.on_runs()
            answer(self.ours)
        else:
            self.daemon = True

    def tick(self):
        scenario, place = self.scenario, self.place
        if scenario.holder == "leaves" and place.holders:
            time_now = time.monotonic()
            if not self.let_go and awaited(place.path(KEY)):
                self.let_go = time_now + 0.005
            if time_now >= (self.let_go or self.started + 0.15):
                place.release()
        if scenario.hold and not self.ran and place.out.stat().st_size >= 7:
            self.on_runs()
            self.say_done()
        if self.fault and self.fault.signal == "TSTP" and "--- stopped by" in place.traced():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGCONT)
        if self.daemon and self.child.poll() is not None:
            # keylock has left a daemon behind that has the lock's description.
            self.daemon = False
            free = place.next("-n", command=[WITNESS]).returncode == 0
            if not free and self.fault.signal != "KILL" and not place.err.read_bytes():
                self.wrong.append("a daemon that the command left behind keeps the key")
            answer(self.ours)

    def watch(self):
        open_end = True
        while open_end or self.child.poll() is None:
            left = self.started + GRACE - time.monotonic()
            if left <= 0:
                self.hung = True
                self.child.kill()
                break
            if open_end and select.select([self.ours], [], [], min(0.002, left))[0]:
                word = hear(self.ours)
                open_end = bool(word)
                if word:
                    self.on_message(*word.split())
            elif not open_end:
                time.sleep(0.0005)
            self.tick()
        self.status = self.child.wait()
        with contextlib.suppress(ProcessLookupError):
            while self.hung:  # until nobody of its group is left
                os.killpg(self.child.pid, signal.SIGKILL)
                time.sleep(0.001)
        for pidfd in self.others:
            if not select.select([pidfd], [], [], GRACE)[0]:
                self.wrong.append("the command is still there after keylock")
            os.close(pidfd)



# --- what is right -------------------------------------------------------


def statuses(scenario, fault):
    """Those that may come where the command was not run: a failure, or what is so anyway."""
    allowed = {71, 73, 77}
    if scenario.status != 7:
        allowed.add(scenario.status)
    if fault.call == "execve" or scenario.absent:
        allowed |= {126, 127}
    if scenario.outer is not None:
        allowed.add(78)
    if scenario.hold:
        allowed.add(64)  # it is not known what standard input is
    if "-w" in scenario.options and (scenario.keeps or scenario.outer is not None):
        allowed.add(75)
    if scenario.holder == "leaves" and "-w" in scenario.options:
        allowed.add(75)
    if "--who" in scenario.options:
        allowed.add(1)
    return allowed


def judge_status(scenario, fault, run):
    """P6, and that a failure is told, in lines of keylock's."""
    status, lines = run.status, run.said.splitlines()
    if scenario.runs and run.printed:
        yield "something is on standard output"
    if not all(line.startswith("keylock: ") for line in lines):
        yield "something else is on standard error"
    if fault.signal == "KILL" and status == -9 or fault.signal == "TERM" and status == -15:
        return
    if scenario.status < 0 and status == 128 - scenario.status:
        status = scenario.status  # it could not kill itself
    if run.ran and (scenario.runs or scenario.hold):
        unknown = fault.call == "wait4" and fault.error == "ECHILD" and status == 71
        refused = scenario.hold and status in (71, 73)
        if status != scenario.status and not unknown and not (refused and lines):
            yield f"the command ran, and its status {scenario.status} became {status}"
        return
    if status == 0 and scenario.status != 0:
        yield "0, and the command did not run"
    elif status not in statuses(scenario, fault):
        yield f"status {status} is not one for this"
    mute = "-v" in scenario.options or fault.call in ("write", "poll") or status in (0, 1, 75)
    if not lines and not mute:
        yield f"status {status} in silence"


def judge_record(place, fault, run, settled):
    """P8: what is in the file after a run with -A, -R or --forget, or of a key left in doubt."""
    scenario = place.scenario
    record = place.content()
    if "--forget" in scenario.options:
        if run.status == 0 and record:
            yield "0, and the record is still there"
    elif not run.ran:
        if scenario.record and not record:
            yield "the record is gone though nothing was run"
        # From the last look for signals on, the command may have begun.
        if record and not scenario.record and not run.said and not fault.signal:
            yield "a record is left though nothing was run, in silence"
    elif not scenario.records:
        if scenario.record and record != place.left:
            yield "a run without -A or -R changed the record"
    elif run.status in (7, 0):
        # A read that comes short is of another's file, or the end of --hold's input.
        ended = fault.short or (fault.call == "read" and fault.error == "EBADF")
        # And another has the lock by then, where a descendant of the command has let it go.
        if record and not run.said and not ended and (fault.call, fault.error) != ("flock", "EAGAIN"):
            yield "the command ended by itself, and a record is left, in silence"
    elif not record and not (fault.signal == "KILL" and fault.order >= settled):
        if not scenario.hold:  # "done" was said
            yield "the command did not end by itself, and the record is gone"


def states(scenario, printed):
    """The keys and their states in what was printed."""
    lines = printed.splitlines()
    try:
        if "--json" in scenario.options:
            return [(one["key"], one["state"]) for one in map(json.loads, lines)]
    except ValueError:
        return lines
    return [tuple(line.split()[:2]) for line in lines if "--list" in scenario.options] or lines


def judge_looking(place, fault, run, clean):
    """--list and --who: what is said with 0 is true; other statuses do not claim anything."""
    if sorted(os.listdir(place.dir)) != [KEY, "left", "pinned"]:
        yield "looking changed the directory"
    # What cannot be opened for another reason than these is no lockfile, or another user's.
    unlisted = fault.call == "openat" and fault.error not in ("EMFILE", "ENFILE", "ENOMEM")
    unlisted = unlisted or fault.error == "ENOENT"
    if run.status == 1 and not unlisted:
        yield "1: nobody holds a key that is held"
    now, then = (states(place.scenario, one.printed) for one in (run, clean))
    if run.status != 0 or now == then or (unlisted and set(now) <= set(then)):
        return
    if not ("--who" in place.scenario.options and not now and run.said):
        yield f"0, and it shows {now}, not {then}"


def judge_after(place, run):
    """P2, P3: the key is free at once for the next run, and that one leaves nothing."""
    scenario = place.scenario
    pins = "--pin" in scenario.options
    if run.status == 0 and (pins or "--path" in scenario.options):
        if run.printed != place.path(KEY) + "\n":
            yield f"0, and the path is {run.printed!r}"
    if pins and run.status == 0 and not os.stat(place.path(KEY)).st_mode & 0o100:
        yield "0, and the file is not pinned"
    more = ["-k", "other"] if "other" in scenario.second else []
    # Where keylock was killed, its child, which could not execute, may still be exiting.
    killed = run.hung or (run.fault and run.fault.signal == "KILL")
    wait = "-w2" if killed and not scenario.keeps else "-n"
    got = place.next(wait, *scenario.slots, *more, command=[WITNESS])
    if got.returncode != (75 if scenario.keeps else 0):
        yield f"the next run with {wait} ends with {got.returncode}: {got.stderr}"
    allowed = {"outer"} if run.hung else set()  # its keylock was killed with the rest
    if scenario.keeps:
        allowed |= {KEY, "left", "pinned", *scenario.second}
        if awaited(place.path(KEY)):
            yield "a ticket is left"
    elif pins or ((scenario.records or scenario.record) and os.path.exists(place.path(KEY))):
        allowed |= {KEY} if pins or os.path.getsize(place.path(KEY)) else set()
    for name in set(os.listdir(place.dir)) - allowed:
        yield f"the file {name} is left after the next run"


def judge(place, fault, run, clean, settled):
    # An unlock has nothing to wait for or to make: no kernel fails it but by a signal (FUSE).
    if re.search(r"LOCK_UN\).*= -1 E(?!INTR).*INJECTED", place.traced()):
        return
    yield from run.wrong
    if fault.call in CANNOT_FAIL and fault.error:
        pass
    elif run.hung:
        yield f"it hangs (more than {GRACE:.0f} s)"
    else:
        yield from judge_status(place.scenario, fault, run)
        yield from judge_record(place, fault, run, settled)
        if place.scenario.look:
            yield from judge_looking(place, fault, run, clean)
    yield from judge_after(place, run)
    if not run.hit and fault.number and not place.scenario.varies and not fault.short:
        yield "the fault was not met"


# --- which faults --------------------------------------------------------


# A call of a recorded run: its name, which of that name it is, its place among all.
Call = collections.namedtuple("Call", "name number order child")


def record_calls(place):
    """The calls of a run without a fault, of keylock and of its child before the command."""
    Run(place, ["-f", "-e", "signal=none"])
    calls, count, first, second, executed = [], {}, None, None, False
    for line in place.traced().splitlines():
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
        calls.append(Call(name, count[pid, name], len(calls), pid != first))
        if name == "execve" and line.rstrip().endswith(" = 0"):
            executed = True
            if pid == first:  # -F: from here on it is the command
                break
    return calls


def spread(calls):
    """Of very many calls of one name the first, the last and some between."""
    kept, by_name = [], {}
    for call in calls:
        by_name.setdefault((call.name, call.child), []).append(call)
    for (name, _), same in by_name.items():
        edge = 3 if name in CANNOT_FAIL or len(same) > 200 else 10
        middle = (len(same) // 3, 2 * len(same) // 3)
        kept += [call for place, call in enumerate(same)
                 if place < edge or place >= len(same) - edge or place in middle]  # fmt: skip
    return sorted(kept, key=lambda call: call.order)


def errors_of(name):
    return ERRORS.get(name, ["EINVAL"]) + EVERY


def faults_at(scenario, call, turn):
    """The faults at one call; where not all are wanted one error, in rotation."""
    errors = [] if call.name in LEFT_OUT else errors_of(call.name)
    lasting = [] if call.name in WAITS + CANNOT_FAIL else errors
    lasting = [error for error in lasting if error not in MOMENTARY]
    signals = ["KILL", "TERM", "TSTP"]
    if not LONG:
        half = turn // 2
        errors, lasting = (
            ([], [lasting[half % len(lasting)]]) if turn % 2 and lasting
            else (errors and [errors[half % len(errors)]], [])
        )  # fmt: skip
        signals = ["KILL"] + [["TERM"], [], ["TSTP"], []][turn % 4]
    whats = [f"error={error}:when={call.number}" for error in errors]
    whats += [f"error={error}:when={call.number}+" for error in lasting]
    whats += [f"retval={length}:when={call.number}" for length in SHORT.get(call.name, ())]
    if not call.child:
        whats += [f"signal={name}:when={call.number}" for name in signals]
    for what in whats:
        quick = scenario.looks and call.name in LOOKING and not what.startswith("signal")
        yield Fault(call.name, what, call.number, call.order, call.child, quick=quick)


def faults_of(scenario, calls, turn):
    """The faults for one scenario; `turn` varies which they are."""
    parents = {call.name: call.number for call in calls if not call.child}
    faults, names = [], {}
    # Before it blocks all signals, it is the C library and its loader that start.
    own = next((call.order for call in calls if call.name == "rt_sigprocmask"), 0)
    for call in spread([call for call in calls if call.order >= own]):
        turn += 1
        # The same number in the parent fails first; and strace would wait for the daemon.
        met = call.child and (call.number <= parents.get(call.name, 0) or "daemon" in scenario.ending)
        if not met and call.name != "execve":  # that by its path, below
            names.setdefault(call.name, call.number)
            faults += faults_at(scenario, call, turn)
    for name, first in names.items():
        if name not in LEFT_OUT and "EINTR" in errors_of(name):
            for when in (f"{first}+2", f"{first + 1}+2", f"{first}..{first + 8}"):
                faults.append(Fault(name, f"error=EINTR:when={when}"))
    # Not where a shell executes it.
    if scenario.runs and scenario.status in (7, -6) and scenario.name not in ("script", "daemon"):
        for error in errors_of("execve")[turn % 3 :: 1 if LONG else 3]:
            for when in ("1", "1+"):
                faults.append(Fault("execve", f"error={error}:when={when}", path=True))
    random.Random(SEED).shuffle(faults)
    part = PART * (1 if LONG or not scenario.slow else 10)
    return faults[: -(-len(faults) // part)]


# --- running them --------------------------------------------------------


def work(number):
    """Record a scenario, run its faults; returns what was seen."""
    scenario = SCENARIOS[number]
    place = Place(f"{FOLDER}/{os.getpid()}", scenario)
    seen = collections.Counter()
    try:
        clean = Run(place, [])
        wrong = list(judge(place, Fault("none", "none"), clean, clean, 0))
        if clean.status != scenario.status:
            wrong.append(f"status {clean.status} ({clean.said.strip()})")
        report(scenario.name, wrong, seen)
        calls = record_calls(place)
        # Where keylock waits for the command, and where the record has been settled.
        waits = "ppoll" if scenario.hold else "rt_sigtimedwait"
        waiting = next((c.order for c in calls if c.name == waits and not c.child), len(calls))
        ends = (c.order for c in calls if c.name in ("ftruncate", "pwrite64") and c.order > waiting)
        settled = next(ends, len(calls))
        for fault in faults_of(scenario, calls, number):
            quiet = [] if fault.signal == "TSTP" else ["-e", "signal=none"]
            run = Run(place, fault.options() + quiet, fault)
            wrong = list(judge(place, fault, run, clean, settled))
            what = f"{scenario.name}: strace {' '.join(fault.options())}"
            what += f": status {run.status}, ran {run.ran}, said {run.said.strip()!r}"
            report(what, wrong, seen)
            seen.update(runs=1, hits=run.hit, ran=run.ran > 0)
    finally:
        place.close()
    return seen


def report(what, reasons, seen):
    if reasons:
        print("\n      ".join([f"WRONG {what}", *reasons]), flush=True)
        seen["wrong"] += 1


def main():
    numbers = [i for i, s in enumerate(SCENARIOS) if not ONLY or s.name in ONLY]
    total = collections.Counter()
    numbers.sort(key=lambda i: not SCENARIOS[i].slow)  # which sleep most of their time
    with multiprocessing.Pool(3) as pool:
        for seen in pool.imap_unordered(work, numbers):
            total += seen
    print(f"faults: {total['runs']} runs of {len(numbers)} scenarios, seed {SEED}, {total['hits']} met"
          f" their fault: the command ran under its lock in {total['ran']}; {total['wrong']} wrong")  # fmt: skip
    return 1 if total["wrong"] or not total["runs"] else 0


if __name__ == "__main__":
    sys.exit(main())

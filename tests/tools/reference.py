#!/usr/bin/env python3
"""
reference.py name|time|shown - what keylock makes of a text, worked out a second time

Reads pairs `text NUL answer NUL` from standard input, as fuzz.c writes
them, and compares each answer with its own:

    name   the file name of a key (DESIGN's section 5), hashed by hashlib; and the key read
           back from the name, so that no two keys can have one name
    time   a TIME in nanoseconds, -1 where it is none, by fractions
    shown  the JSON line of a key held by a command of the same text, read by json

Prints those that differ, the first ten of them, and how many there were; status 1 where any did.
"""

import fractions
import hashlib
import json
import re
import sys

PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+@:,="
UNITS = [b"%%%02X" % byte if byte not in PLAIN else bytes([byte]) for byte in range(256)]
SECONDS = {b"": 1, b"s": 1, b"ms": fractions.Fraction(1, 1000), b"m": 60, b"h": 3600, b"d": 86400}
TIME = re.compile(rb"([0-9]*)(?:\.([0-9]*))?(|ms|s|m|h|d)", re.DOTALL)


def name_of(key):
    # 200 bytes of the key are more than the name can show.
    units = [UNITS[byte] for byte in key[:201]]
    if key[0] == ord("."):
        units[0] = b"%2E"
    name = b"".join(units)
    if len(name) <= 200:
        return name
    start = b""
    for unit in units:
        if len(start + unit) > 200 - len("%h") - 64:
            break
        start += unit
    return start + b"%h" + hashlib.sha256(key).hexdigest().encode()


def check_name(key, name):
    if name != name_of(key):
        return False
    if b"%h" in name:
        return True
    return re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), name) == key


def check_time(text, answer):
    found = TIME.fullmatch(text)
    if not found or not (found[1] or found[2]):
        return answer == b"-1"
    whole, decimals = found[1], found[2] or b""
    seconds = fractions.Fraction(int(whole + decimals), 10 ** len(decimals)) * SECONDS[found[3]]
    time = -(-seconds * 10**9 // 1)
    # A long double has 64 bits: a nanosecond more or less is nobody's.
    near = abs(int(answer) - time) <= 2
    return near if time < 2**63 - 4 else near or answer == b"-1"


def check_shown(text, line):
    row = json.loads(line)
    wanted = {"key": text, "command": text[:4095], "path": text[:4095] + b"/x", "state": b"held"}
    return (
        line.endswith(b"}\n")
        and line.count(b"\n") == 1
        and all(row[name].encode("utf-8", "surrogateescape") == value for name, value in wanted.items())
        and list(row) == "key state mode slot pids since waiting waiters command path".split()
    )


def pairs(stream):
    texts, rest = [], b""
    while chunk := stream.read(1 << 20):
        *more, rest = (rest + chunk).split(b"\0")
        texts += more
        yield from zip(texts[::2], texts[1::2])
        texts = texts[len(texts) // 2 * 2 :]
    if rest or texts:
        sys.exit("reference.py: the last pair is cut off")


what = sys.argv[1]
check = {"name": check_name, "time": check_time, "shown": check_shown}[what]
count = wrong = 0
for text, answer in pairs(sys.stdin.buffer):
    count += 1
    try:
        right = check(text, answer)
    except (ValueError, KeyError) as error:
        right = False
        print(error)
    wrong += not right
    if not right and wrong <= 10:
        print(f"{what}: {text.hex()} gives {answer!r}")
print(f"pairs {count} wrong {wrong}")
sys.exit(1 if wrong or not count else 0)

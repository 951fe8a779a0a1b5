"""What documents.bats compares: documents.py options|statuses|messages FOLDER, where FOLDER has keylock.c,
keylock.1 and README; the output of keylock --help is standard input. Prints what differs, fails then."""
import re
import sys

what, folder = sys.argv[1:]
code, page, readme = (open(f"{folder}/{name}").read() for name in ("keylock.c", "keylock.1", "README"))
for roff, char in (r"\(aq", "'"), (r"\(dq", '"'), (r"\-", "-"), (r"\&", ""), (r"\e", "\\"):
    page = page.replace(roff, char)
wrong = []


def between(text, start, end):
    return text[text.index(start) : text.index(end, text.index(start))]


def agree(first, *others):
    """Each is (NAME, LIST); all lists have the same members as the first, which has some."""
    for name, found in others:
        found = list(found)
        wrong.extend(f"{name} has not {x}, as {first[0]} has" for x in sorted(set(first[1]) - set(found)))
        wrong.extend(f"{name} has {x}, and {first[0]} has not" for x in sorted(set(found) - set(first[1])))
    if len(first[1]) < 7:
        wrong.append(f"too little found in {first[0]}")


# The options, of which --help is printed.
table = between(code, "} table[] = {", "\n};")


def options_of_page():
    for item in re.findall(r"^\.It (Fl .*)", page, re.M):
        names = sorted("-" + name for name in re.findall(r"Fl (\S+)", item))
        yield " ".join(names) + " ARG" * (" Ar " in item)


def options_of_help(text):
    """Lines that begin with the same name are of one option."""
    options = {}
    for item in re.findall(r"^ {2,6}(-.*)", text, re.M):
        head = item.split("  ")[0]
        names = re.findall(r"--?[a-zA-Z][a-z-]*", head) + re.findall(r"\([^)]*also (-\S+)\)", item)
        found, arg = options.setdefault(names[0], (set(), bool(re.search(r" [A-Z]+$", head))))
        found.update(names)
    return [" ".join(sorted(names)) + " ARG" * arg for names, arg in options.values()]


def literals():
    """The string literals of the code, neighbours joined: (FUNCTION, ARGUMENT from 0, TEXT)."""
    calls, word, text = [["", 0]], "", None
    token = r'/\*.*?\*/|^#[^\n]*|\'(?:\\.|[^\'])*\'|"((?:\\.|[^"\\])*)"|\w+|\s+|.'
    for match in re.finditer(token, code.replace(table, ""), re.S | re.M):
        if match[1] is not None:
            text = (text or "") + match[1]
        elif text is not None and (match[0].startswith("PRI") or match[0].isspace()):
            text += "d" * match[0].startswith("PRI")
        else:
            if text is not None:
                yield calls[-1][0], calls[-1][1], text
                text = None
            if match[0] == "(":
                calls.append([word, 0])
            elif match[0] == ")":
                calls.pop()
            elif match[0] == ",":
                calls[-1][1] += 1
            word = match[0] if match[0][0].isalpha() else ""


def messages(found):
    """Those that are a message or a part of one: what is given to a function that says something, and all
    that reads like words, but the rest of --help and what is read."""
    says = {"say", "directory_failure", "lockfile_failure"}
    for function, place, text in found:
        words = re.sub(r"%[0-9.]*[a-z]*", "", text)
        if re.match(r"Usage: keylock|\\nExit status:", text) or function == "sscanf":
            continue
        if function in says and re.search("[a-z]", words) or re.search("[a-z] [a-z]", words):
            yield function, place, text


if what == "options":
    shown = options_of_help(sys.stdin.read())
    agree(("--help", shown), ("keylock.1", options_of_page()))
    names = (name for option in shown for name in option.split() if name.startswith("--"))
    agree(("the table", ["--" + name for name in re.findall(r'\{[^"]*"([a-z-]+)"', table)]), ("--help", names))
    # They were read as they are meant.
    for option in "--timeout --wait -w ARG", "--exclusive -e -x", "--command -c ARG":
        if option not in shown:
            wrong.append(f"not read: {option}")
elif what == "statuses":
    number = r"^{}([1-9]\d*)\b"
    agree(
        ("the code", re.findall(r" = (\d+),", between(code, "/* Results that leave keylock", "};"))),
        ("--help", re.findall(r"^ +(\d+)  ", between(sys.stdin.read() + "\0", "\nExit status", "\0"), re.M)),
        ("keylock.1", re.findall(r"^\.It ([1-9]\d*)$", between(page, ".Sh EXIT STATUS", ".Sh EXAMPLES"), re.M)),
        ("README", re.findall(r"^    (\d+)  ", between(readme, "\nExit status\n", "\nWhat is guaranteed"), re.M)),
    )
elif what == "messages":
    text = between(page, ".Sh DIAGNOSTICS", ".Sh SEE ALSO")
    heads = re.findall(r"^\.It (keylock: .*)", text, re.M)
    text = " ".join(re.sub(r"^(\.[A-Z][a-z] )*", "", line) for line in text.splitlines())
    found = list(literals())
    said = list(messages(found))
    for function, place, message in said:
        pattern = re.sub(r"(?:%(?:[0-9]|\\\.)*[a-z]*)+", ".+", re.escape(message).replace("\\ ", " ").replace("\\-", "-").replace("\\%", "%"))
        # A whole message is one of the list; a part of one is told of there.
        if not (any(re.fullmatch("keylock: " + pattern, head) for head in heads) if (function, place) == ("say", 1)
                else re.search(pattern, text)):
            wrong.append(f"not in DIAGNOSTICS: {message}")
    # The words between the values, the longest first; some are values in the code.
    parts = [m for *_, m in said] + [m for *_, m in found if re.fullmatch("[a-z]{4,}:?", m)]
    parts = {part for m in parts for part in re.split(r"%[0-9.]*[a-z]*", m) if re.search("[A-Za-z]", part)}
    for head in heads:
        rest = head.removeprefix("keylock: ")
        for part in sorted(parts, key=len, reverse=True):
            rest = rest.replace(part, "")
        # What is left are the values.
        if not re.fullmatch(r"(-[a-z] )?[A-Z0-9:/'() -]*", rest):
            wrong.append(f"not in the code: {head} (what is left: {rest})")
    if len(said) < 25 or len(heads) < 25:
        wrong.append(f"only {len(said)} messages and {len(heads)} heads found")
print(*wrong, sep="\n")
sys.exit(bool(wrong))

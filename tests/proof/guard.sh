#!/usr/bin/env bash
#
# guard.sh - the plain path may not grow unseen
#
# Counts what `keylock KEY true` does on a free key: the system calls of
# keylock itself and of its child before the exec, by strace, and the
# instructions of keylock up to its exit, by callgrind where valgrind is
# installed. Unlike times they do not depend on the machine's mood. Fails where
# there are more than the limits below, which hold for a static musl binary (a
# C library has calls of its own) and are raised only together with the
# reason for what was added: each system call is there for a promise.
#
#   KEYLOCK   the binary (default: the build directory's)

# What is allowed; empty: only counted.
most_calls=41
most_calls_of_child=8
most_instructions=8000

set -u
LC_ALL=C
export LC_ALL

top=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
keylock=${KEYLOCK:-$top/keylock}
work=$(mktemp -d "${TMPDIR:-/tmp}/guard.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

passed=0 failed=0 skipped=0

skip() { # WHY
	echo "skipped: $*"
	skipped=$((skipped + 1))
}

is_static_musl() {
	! readelf -lW "$keylock" | grep -q 'interpreter:' &&
		! readelf -SW "$keylock" | grep -q '\.note\.ABI-tag'
}

compare() { # WHAT COUNT LIMIT
	if [ -z "$3" ]; then
		skip "$1: $2, no limit is set"
	elif [ "$musl" = no ]; then
		skip "$1: $2, the limit of $3 is for a static musl binary"
	elif [ "$2" -gt "$3" ]; then
		echo "FAILED: $1: $2, allowed $3"
		failed=$((failed + 1))
	else
		echo "$1: $2, allowed $3"
		passed=$((passed + 1))
	fi
}

# In an empty environment and under one key, so that figures can be compared.
plain_path() { # WRAPPER...
	env -i KEYLOCK_DIR="$work/keys" "$@" "$keylock" guard /bin/true </dev/null
}

# From strace's log the names of the calls of one side, a line each, in order;
# the keylock is the first process in it, the child's end with its exec.
calls() { # parent|child
	awk -v side="$1" '
		NR == 1 { parent = $1 }
		($1 == parent) != (side == "parent") || done || $2 !~ /^[a-z_0-9]+\(/ { next }
		{
			name = $2
			sub(/\(.*/, "", name)
			if (name == "fcntl") {
				match($0, /F_[A-Z_]+/)
				name = name ":" substr($0, RSTART, RLENGTH)
			}
			print name
			done = side == "child" && name == "execve"
		}' "$work/log"
}

list() { # from uniq -c: NAME xN, NAME xN...
	awk '{ n = $1; $1 = ""; print substr($0, 2) (n > 1 ? " x" n : "") }' |
		paste -s -d ';' | sed 's/;/, /g' | fold -s -w 90 | sed 's/^/  /; s/ *$//'
}

report() { # TITLE FILE
	echo "$1, in order:"
	uniq -c "$2" | list
	echo "$1, by name:"
	sort "$2" | uniq -c | sort -k 1,1nr -k 2 | list
}

[ -x "$keylock" ] || {
	echo "guard: $keylock: no such program; run make first" >&2
	exit 1
}
mkdir -m 700 "$work/keys"
musl=no
! is_static_musl || musl=yes

if ! command -v strace >/dev/null; then
	skip 'system calls: strace is not installed'
elif ! plain_path strace -f -o "$work/log"; then
	echo 'FAILED: keylock under strace'
	failed=$((failed + 1))
else
	calls parent >"$work/parent"
	calls child >"$work/child"
	report "system calls of keylock" "$work/parent"
	report "system calls of its child before the command" "$work/child"
	# No list without its last call: else an empty log would pass.
	if [ "$(tail -q -n 1 "$work/parent" "$work/child" | paste -s)" != "exit_group	execve" ]; then
		echo 'FAILED: this is not the log of a whole run'
		failed=$((failed + 1))
	fi
	compare 'system calls of keylock' "$(wc -l <"$work/parent")" "$most_calls"
	compare 'system calls of the child' "$(wc -l <"$work/child")" "$most_calls_of_child"
fi

if ! command -v valgrind >/dev/null; then
	skip 'instructions: valgrind is not installed'
elif ! plain_path valgrind --tool=callgrind --trace-children=no \
	--callgrind-out-file="$work/callgrind" 2>"$work/valgrind"; then
	echo 'FAILED: keylock under callgrind:'
	tail -n 3 "$work/valgrind"
	failed=$((failed + 1))
else
	compare 'instructions of keylock' \
		"$(awk '/Collected :/ { count = $NF } END { print count ? count : 999999999 }' \
			"$work/valgrind")" "$most_instructions"
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# The plain path may not grow unseen: the system calls that `keylock KEY true` makes on
# a free key, with those of its child up to the start of the command, by strace. Unlike
# times they do not depend on the machine's mood. The limit holds for a static musl
# binary (a C library has calls of its own) and is raised only together with the reason
# for what was added: each call is there for a promise.
#
#   KEYLOCK   the binary (default: the build directory's)

most_calls=48

set -u
cd "$(dirname "$0")/../.." || exit 1
keylock=${KEYLOCK:-$PWD/keylock}
command -v strace >/dev/null || {
	echo 'guard: skipped: needs strace'
	exit 0
}
if readelf -lW "$keylock" | grep -q 'interpreter:' || readelf -SW "$keylock" | grep -q '\.note\.ABI-tag'; then
	echo 'guard: skipped: the limit is for a static musl binary'
	exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -m 700 "$work/keys"

# In an empty environment and under one key, so that figures can be compared.
env -i KEYLOCK_DIR="$work/keys" strace -f -o "$work/log" "$keylock" guard /bin/true </dev/null || {
	echo 'guard: keylock failed under strace'
	exit 1
}
# The names of the calls in order, a line each. The first process is keylock, whose own
# start is not counted; what comes after its child's execve is the command's.
awk 'NR == 1 { parent = $1; next }
	($1 != parent && begun) || $2 !~ /^[a-z_0-9]+\(/ { next }
	{
		name = $2
		sub(/\(.*/, "", name)
		begun = begun || name == "execve"
		if (name == "fcntl" && match($0, /F_[A-Z_]+/))
			name = name ":" substr($0, RSTART, RLENGTH)
		print ($1 == parent ? "" : "child:") name
	}' "$work/log" >"$work/calls"
uniq -c "$work/calls" | awk '{ printf "%s%s ", $2, ($1 > 1 ? "x" $1 : "") } END { print "" }' | fold -s -w 90
count=$(wc -l <"$work/calls")
# Without its last calls it would be the log of half a run.
if ! grep -q '^child:execve' "$work/calls" || [ "$(tail -n 1 "$work/calls")" != exit_group ]; then
	echo 'guard: this is not the log of a whole run'
	exit 1
fi
echo "guard: $count system calls, allowed $most_calls"
[ "$count" -le "$most_calls" ]

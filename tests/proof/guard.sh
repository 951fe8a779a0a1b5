#!/usr/bin/env bash
# The plain path may not grow unseen: the system calls that `keylock KEY true` makes on
# a free key, with those of its child up to the start of the command, by strace. Unlike
# times they do not depend on the machine's mood. The limit holds for a static musl
# binary (a C library has calls of its own) and is raised only together with the reason
# for what was added: each call is there for a promise.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
most_calls=48
needs strace
if readelf -lSW "$keylock" | grep -q 'interpreter:\|\.note\.ABI-tag'; then
	echo 'guard: skipped: the limit is for a static musl binary'
	exit 0
fi

# In an empty environment and under one key, so that figures can be compared. The first
# process is keylock, whose own start is not counted; what comes after its child's execve is
# the command's.
mkdir -m 700 "$work/keys"
env -i KEYLOCK_DIR="$work/keys" strace -f -o "$work/log" "$keylock" guard /bin/true || exit 1
awk -F '[ (,)]+' 'NR == 1 { parent = $1; next }
	($1 != parent && begun) || $2 !~ /^[a-z_0-9]+$/ { next }
	{
		begun = begun || $2 == "execve"
		print ($1 == parent ? "" : "child:") $2 ($2 == "fcntl" ? ":" $4 : "")
	}' "$work/log" >"$work/calls"
uniq -c "$work/calls" | awk '{ printf "%s%s ", $2, ($1 > 1 ? "x" $1 : "") } END { print "" }' | fold -s -w 90
count=$(wc -l <"$work/calls")
# Without its last calls it would be the log of half a run.
grep -q '^child:execve' "$work/calls" && [ "$(tail -n 1 "$work/calls")" = exit_group ] || exit 1
echo "guard: $count system calls, allowed $most_calls"
[ "$count" -le "$most_calls" ]

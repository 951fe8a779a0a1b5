#!/usr/bin/env bash
# Hostile surroundings: three users share keys in a sticky directory that all may
# write to, while two strangers do there whatever the kernel lets them: see hostile.py.
#
#	hostile.sh [quick|long]
#
# Shows: every run ends in its time, by a status that is documented; files outside the
# directory are not changed; when the strangers are gone, everything works and only their
# files are left.

# shellcheck source=tests/proof/head.sh
. "$(dirname "$0")/head.sh"
needs root setpriv python3
seconds=$([ "$size" = quick ] && echo 45 || echo 900)
wrong=0

complain() {
	echo "hostile: $*"
	wrong=$((wrong + 1))
}

as() { # UID COMMAND...
	local user=$1
	shift
	setpriv --reuid="$user" --regid=2001 --clear-groups -- "$@"
}

# All that a victim is but its number of links and the time of that.
victims() {
	(cd "$work/victims" && stat -c '%n %s %Y %a %u %g' -- * && sha256sum -- *)
}

printf '#include <stdlib.h>\n#include <unistd.h>\nint main(int n, char **w) { usleep(atoi(w[n - 1])); return 7; }' >"$work/nap.c"
compile nap "$work/nap.c"
cp "$keylock" "$work/keylock" || exit 1
keylock=$work/keylock
chmod 755 "$keylock"

mkdir -m 1777 "$work/dir" "$work/strange"
mkdir "$work/victims"
for victim in closed readable writable empty; do
	[ "$victim" = empty ] || echo "of a user: $victim" >>"$work/victims/$victim"
	: >>"$work/victims/$victim"
done
# Strangers can point to them, and link those here that all may write to.
chown 2021:2021 "$work"/victims/*
chmod 600 "$work/victims/closed"
chmod 644 "$work/victims/readable"
chmod 666 "$work/victims/writable" "$work/victims/empty"
touch -d '2026-01-01 00:00:00 UTC' "$work"/victims/*
before=$(victims)

(
	ulimit -c 0
	python3 tests/proof/hostile.py "$keylock" "$work" "$seconds" "$seed"
) >"$work/figures" 2>"$work/errors" || complain 'see the figures and what was said'
cat "$work/figures"
# What keylock said itself is its own, one line each; anything else is a finding.
! grep -v '^keylock: ' "$work/errors" | head -n 20 | grep . || complain 'this was said'
[ "$before" = "$(victims)" ] || complain 'files outside the directory were changed'

# The strangers are gone, their second names with them.
rm -rf "$work/strange"
export KEYLOCK_DIR=$work/dir
for user in 2001 2002 2003; do
	for key in k0 k1 ka kj; do
		# What strangers have written looks like a run that died.
		as "$user" "$keylock" -w 10 --forget "$key" || complain "--forget $key: $?"
		as "$user" "$keylock" -w 10 "$key" true || complain "$key: $?"
	done
	as "$user" "$keylock" -A -w 10 ka true || complain "-A ka: $?"
	for _ in 1 2 3; do
		as "$user" "$keylock" -j 2 -w 10 kj true || complain "-j 2 kj: $?"
	done
done
# A slot's file stays where that of the key is a stranger's, which stays.
left=$(find "$work/dir" -mindepth 1 ! -uid 2011 ! -uid 2012 ! -name '*%s2' -ls)
[ -z "$left" ] || complain "files of users are left:"$'\n'"$left"

echo "hostile: $seconds s with seed $seed, $(sed -n 's/^users: //p' "$work/figures"); $wrong wrong"
[ "$wrong" -eq 0 ]

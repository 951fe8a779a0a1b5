#!/usr/bin/env bash
# Hostile surroundings: three users share keys in a sticky directory that all may
# write to, with all kinds of options, while two strangers do there whatever the
# kernel lets them: lock any byte for a moment, own lockfiles and take them away or
# replace them under their holders, put links, fifos, directories, sockets and files
# of odd modes in their place, link lockfiles elsewhere and others' files here, write
# garbage, slander processes by lock bytes, flood the directory. See hostile.c.
#
#	hostile.sh [quick|long]
#
# Shows: two users' commands never overlap; every run ends, by a status that is
# documented for it and by no signal; files outside the directory are not changed;
# when the strangers are gone, everything works and only their files are left.

set -u
cd "$(dirname "$0")/../.." || exit 1
unset KEYLOCK_DIR KEYLOCK_KEY KEYLOCK_ABANDONED
LC_ALL=C
export LC_ALL

case ${1:-quick} in
quick) seconds=20 ;;
long) seconds=900 ;;
*)
	echo 'usage: hostile.sh [quick|long]' >&2
	exit 64
	;;
esac
seed=${SEED:-$RANDOM}
[ "$(id -u)" = 0 ] || {
	echo 'hostile: skipped: needs root'
	exit 0
}
for tool in cc setpriv; do
	command -v "$tool" >/dev/null || {
		echo "hostile: skipped: needs $tool"
		exit 0
	}
done

place=/dev/shm
[ -w "$place" ] || place=${TMPDIR:-/tmp}
base=$(mktemp -d "$place/keylock-hostile.XXXXXX") || exit 1
trap 'rm -rf "$base"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$base"
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
	(cd "$base/victims" && stat -c '%n %s %Y %a %u %g' -- * && sha256sum -- *)
}

cc -O2 -std=c11 -o "$base/hostile" tests/proof/hostile.c || exit 1
cp "${KEYLOCK:-./keylock}" "$base/keylock" || exit 1
chmod 755 "$base/keylock" "$base/hostile"

mkdir "$base/dir" "$base/judge" "$base/victims" "$base/strange"
chmod 1777 "$base/dir"
chown 0:2001 "$base/judge"
chmod 2770 "$base/judge"
chmod 1777 "$base/strange"
for victim in closed readable writable; do
	echo "of a user: $victim" >"$base/victims/$victim"
done
: >"$base/victims/empty"
# Strangers can point to them, and link those here that all may write to.
chown 2021:2021 "$base"/victims/*
chmod 600 "$base/victims/closed"
chmod 644 "$base/victims/readable"
chmod 666 "$base/victims/writable" "$base/victims/empty"
touch -d '2026-01-01 00:00:00 UTC' "$base"/victims/*
before=$(victims)

echo "$seconds s with seed $seed"
(
	ulimit -c 0
	"$base/hostile" play "$base/keylock" "$base" "$seconds" "$seed"
) >"$base/figures" 2>"$base/errors" || complain 'see the figures and what was said'
cat "$base/figures"

# What keylock said itself is its own, one line each; anything else is a finding.
sed 's/[^ ]*\/dir\///; s/^keylock: k[01aj][^:]*/keylock: KEY/; s/pid [0-9]*/pid N/g' "$base/errors" |
	sort | uniq -c | sort -rn | head -n 20
grep -v '^keylock: ' "$base/errors" | head -n 20 | while read -r line; do
	printf 'hostile: not by keylock: %s\n' "$line"
done
! grep -qv '^keylock: ' "$base/errors" || complain 'something else was said'

after=$(victims)
[ "$before" = "$after" ] || {
	complain 'files outside the directory were changed'
	diff <(echo "$before") <(echo "$after")
}

# The strangers are gone, their second names with them.
rm -rf "$base/strange"
export KEYLOCK_DIR=$base/dir
for user in 2001 2002 2003; do
	# What strangers have written looks like a run that died.
	as "$user" "$base/keylock" -q --forget ka || complain "ka cannot be forgotten by $user"
	for key in k0 k1 ka kj; do
		as "$user" "$base/keylock" -w 10 --forget "$key" || complain "--forget $key: $?"
		as "$user" "$base/keylock" -w 10 "$key" true || complain "$key: $?"
	done
	as "$user" "$base/keylock" -A -w 10 ka true || complain "-A ka: $?"
	for _ in 1 2 3; do
		as "$user" "$base/keylock" -j 2 -w 10 kj true || complain "-j 2 kj: $?"
	done
done
# Nobody can forget what strangers have written into a slot's file.
left=$(find "$base/dir" -mindepth 1 ! -uid 2011 ! -uid 2012 ! \( -name '*%s2' -size +0 \) -ls)
[ -z "$left" ] || complain "files of users are left:"$'\n'"$left"

printf 'hostile: %s; %s wrong\n' \
	"$(sed -n 's/.*; \([0-9]* overlaps\)/\1/p' "$base/figures")" "$wrong"
[ "$wrong" -eq 0 ]

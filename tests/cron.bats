# Debian's cron, a real daemon with its empty environment: the same key is the same lock as from a
# shell. It runs in a mount namespace where the machine's own crontabs and /run are not to be seen,
# and takes up to a minute, since cron looks once a minute.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
export KEYLOCK_TEST_LIMIT=${KEYLOCK_TEST_LIMIT:-180}
load helper

# in_cron USER: has cron run, as USER, what a shell of USER runs too, and fails unless the paths are
# the same and cron's job finds taken the key that the shell holds.
in_cron() {
	local user=$1 uid
	uid=$(id -u "$user")
	need_root
	need cron setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/results"
	cat >"$public/job" <<-'SCRIPT'
		#!/bin/sh
		# As cron's PATH is not the point, all is named in full. Written under another name
		# first: whoever waits for it must not see the half of it.
		here=${0%/*}
		{
			"$here/keylock" --path 'some job/1'
			"$here/keylock" -n 'some job/1' echo ran
			echo "status $?"
			"$here/keylock" -n 'another' echo ran
			id -u
		} >"$here/results/$1.new" 2>&1
		env >"$here/results/$1.environment"
		mv "$here/results/$1.new" "$here/results/$1"
	SCRIPT
	chmod 755 "$public/job"
	cat >"$public/crontab" <<-END
		* * * * * $user test -e $public/results/cron || $public/job cron
	END
	cat >"$public/scene" <<-'SCRIPT'
		public=$1 uid=$2 gid=$3
		unset KEYLOCK_DIR
		mount -t tmpfs -o mode=755 none /run || exit
		mkdir -m 1777 /run/lock
		mount -t tmpfs none /etc/cron.d || exit
		mount -t tmpfs -o mode=1730 none /var/spool/cron/crontabs || exit
		mount --bind "$public/crontab" /etc/crontab || exit
		cron -f &
		cron=$!
		setpriv --reuid="$uid" --regid="$gid" --init-groups -- \
			"$public/keylock" 'some job/1' sh -c '
				"$1/job" shell
				until [ -e "$1/results/cron" ]; do sleep 0.2; done' - "$public"
		kill "$cron"
		wait "$cron"
		echo ended
	SCRIPT
	chown root:root "$public/crontab"
	chmod 644 "$public/crontab"
	run_it private_root sh "$public/scene" "$public" "$uid" "$(id -g "$user")"
	[[ $output == *ended ]]
	cat "$public/results/shell" "$public/results/cron" "$public/results/cron.environment"
	# The environments are not the same, or the test would show nothing.
	run_it diff "$public/results/shell.environment" "$public/results/cron.environment"
	expect 1
	run_it grep '^\(KEYLOCK\|XDG\)' "$public/results/cron.environment"
	expect 1
	run_it sed -n '1p;$p' "$public/results/cron"
	[ "$output" = "$2/some%20job%2F1"$'\n'"$uid" ]
	grep -qx 'status 75' "$public/results/cron"
	grep -qx ran "$public/results/cron"
	[ "$(head -n 1 "$public/results/shell")" = "$2/some%20job%2F1" ]
}

@test "cron: root's job and root's shell share a lock" {
	need_long
	in_cron root /run/keylock
}

@test "cron: another user's job and shell share a lock" {
	need_long
	local uid
	uid=$(id -u nobody) || skip 'needs a user nobody'
	in_cron nobody "/run/lock/keylock-$uid"
}

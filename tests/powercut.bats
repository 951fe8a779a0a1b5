#!/usr/bin/env bats
# A power cut: what a disk holds at that moment, and what keylock makes of it afterwards.
# shellcheck disable=SC2016,SC2154 # inner shells' own variables; the helper's variables

load helper

# Runs SCRIPT in bash as root of an own mount namespace, in which /mnt is an ext4 of its own, whose
# image is "$dir/disk". It brings nothing to the disk by itself for a long time, so that only what
# was synced is there. The script has
#
#	cut		copies the image as it is at this moment, without unmounting and
#			syncing, mounts the copy in the place $dir/after
#	cut_done	takes it away again
#	after OPTION…	runs keylock with $KEYLOCK_DIR there; sets status
on_a_disk() {
	need_long
	need_root
	need mkfs.ext4 losetup unshare
	public_folder
	cat >"$public/script" <<-'END'
		set -eu
		dir=$1
		truncate -s 16M "$dir/disk"
		mkfs.ext4 -q -F "$dir/disk"
		mount -o loop,commit=900 "$dir/disk" /mnt || exit 99
		sync -f /mnt
		mkdir "$dir/after"
		export KEYLOCK_DIR=/mnt/locks
		cut() {
			cp "$dir/disk" "$dir/copy"
			mount -o loop "$dir/copy" "$dir/after"
		}
		cut_done() {
			umount "$dir/after"
		}
		after() {
			status=0
			KEYLOCK_DIR=$dir/after/locks "$KEYLOCK" "$@" || status=$?
			echo "after the cut: keylock $*: $status"
		}
		wait_for() {
			local round
			for round in {1..2000}; do
				! "$@" || return 0
				sleep 0.01
			done
			echo "not within 20 s: $*"
			return 1
		}
	END
	cat >>"$public/script"
	# The loop devices go with the namespace's mounts.
	run_it unshare --mount bash "$public/script" "$public"
	[ "$status" != 99 ] || skip 'no loop device'
	expect 0
}

@test "a power cut in the middle of the command: the key is in doubt" {
	on_a_disk <<-'END'
		for option in -A -R; do
			# In a group of its own: keylock and command are killed at once.
			setsid "$KEYLOCK" "$option" key sh -c 'echo >"$0/begun"; exec sleep 1000' "$dir" &
			keylock=$!
			wait_for test -e "$dir/begun"
			kill -KILL -- "-$keylock"
			cut
			wait "$keylock" || :
			after -A key touch "$dir/ran"
			[ "$status" = 76 ]
			[ ! -e "$dir/ran" ]
			KEYLOCK_DIR=$dir/after/locks "$KEYLOCK" --list | grep 'abandoned (killed)'
			[ "$(KEYLOCK_DIR=$dir/after/locks "$KEYLOCK" -R key printenv KEYLOCK_ABANDONED | sed 's/since=[^ ]* //')" = \
				"pid=$keylock cause=killed command=sh" ]
			cut_done
			"$KEYLOCK" --forget key
			rm "$dir/begun"
		done
	END
}

@test "a power cut while the command still runs: the key is in doubt" {
	on_a_disk <<-'END'
		setsid "$KEYLOCK" -A -k other key sh -c 'echo >"$0/begun"; exec sleep 1000' "$dir" &
		keylock=$!
		wait_for test -e "$dir/begun"
		cut
		after -A key true
		[ "$status" = 76 ]
		after -A other true
		[ "$status" = 76 ]
		after -A another true
		[ "$status" = 0 ]
		kill -KILL -- "-$keylock"
		wait "$keylock" || :
		cut_done
	END
}

@test "a power cut after a clean end: the key is clean" {
	on_a_disk <<-'END'
		# Once where the file is removed at the end, and once where it stays.
		for pinned in no yes; do
			[ "$pinned" = no ] || "$KEYLOCK" --pin key
			"$KEYLOCK" -A key true
			cut
			after -A key true
			[ "$status" = 0 ]
			cut_done
			# After a record that was on the disk, too.
			"$KEYLOCK" -A key sh -c 'kill -KILL $$' || :
			cut
			after -A key true
			[ "$status" = 76 ]
			cut_done
			"$KEYLOCK" -R key true
			cut
			after -A key true
			[ "$status" = 0 ]
			cut_done
			"$KEYLOCK" -A key sh -c 'kill -KILL $$' || :
			"$KEYLOCK" --forget key
			cut
			after -A key true
			[ "$status" = 0 ]
			cut_done
		done
	END
}

@test "a power cut after a bad end: the key is in doubt, with its cause" {
	on_a_disk <<-'END'
		"$KEYLOCK" -A key sh -c 'kill -ABRT $$' || :
		cut
		after -A key true 2>"$dir/said"
		[ "$status" = 76 ]
		grep 'cause=signal-6' "$dir/said"
		cut_done
	END
}

@test "power cuts at any time: never is a key clean whose command was in the middle" {
	on_a_disk <<-'END'
		clean=0 doubt=0
		for round in {1..40}; do
			rm -f /mnt/charged /mnt/written
			sync -f /mnt
			setsid "$KEYLOCK" -A key bash -c 'echo >/mnt/charged; sync /mnt/charged /mnt
				sleep 0.01; echo >/mnt/written; sync /mnt/written /mnt' &
			keylock=$!
			sleep "0.0$((RANDOM % 6))$((RANDOM % 10))"
			kill -KILL -- "-$keylock" 2>/dev/null || :
			wait "$keylock" || :
			cut
			after -q -A key true
			case $status in
			0)
				[ ! -e "$dir/after/charged" ] || [ -e "$dir/after/written" ]
				clean=$((clean + 1))
				;;
			76) doubt=$((doubt + 1)) ;;
			*) exit 1 ;;
			esac
			cut_done
			"$KEYLOCK" -w 20 --forget key
		done
		echo "clean: $clean, in doubt: $doubt"
		[ "$clean" -ge 1 ]
		[ "$doubt" -ge 1 ]
	END
}

# A power cut: what a disk holds at that moment, and what keylock makes of it afterwards.

load helper

# Runs SCRIPT in bash as root of an own mount namespace, in which /mnt is an ext4 of its own, whose
# image is "$dir/disk". It brings nothing to the disk by itself for a long time, so that only what
# was synced is there. The script has
#
#	begin OPTION…	runs a command that notes in $dir/begun that it runs; sets keylock
#	kill_it		kills the keylock and its command at once
#	die SIGNAL	a run with -A whose command dies of it
#	cut		copies the image as it is at this moment, without unmounting and syncing, and
#			mounts the copy in the place $dir/after, until the next cut
#	is STATUS KEY	fails unless keylock -A KEY ends so there; sets said, its messages
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
		begin() {
			rm -f "$dir/begun"
			# In a group of its own, to be killed as a whole.
			setsid "$KEYLOCK" "$@" sh -c 'echo >"$0/begun"; exec sleep 1000' "$dir" &
			keylock=$!
			for round in {1..2000}; do
				[ ! -e "$dir/begun" ] || return 0
				sleep 0.01
			done
			return 1
		}
		kill_it() {
			kill -KILL -- "-$keylock" 2>/dev/null || :
			wait "$keylock" || :
		}
		die() {
			"$KEYLOCK" -A key sh -c "kill -$1 \$\$" || :
		}
		cut() {
			umount "$dir/after" 2>/dev/null || :
			cp "$dir/disk" "$dir/copy"
			mount -o loop "$dir/copy" "$dir/after"
		}
		after() {
			KEYLOCK_DIR=$dir/after/locks "$KEYLOCK" "$@"
		}
		is() {
			rm -f "$dir/ran"
			status=0
			said=$(after -A "$2" touch "$dir/ran" 2>&1) || status=$?
			echo "after the cut: keylock $2: $status, $said"
			[ "$status" = "$1" ]
			[[ $status == 0 || ! -e $dir/ran ]]
		}
	END
	cat >>"$public/script"
	# The loop devices go with the namespace's mounts.
	run_it unshare --mount bash "$public/script" "$public"
	[ "$status" != 99 ] || skip 'no loop device'
	expect 0
}

@test "P8 crash-honest, a power cut in the middle, or after a bad end: in doubt; after a clean end: clean" {
	on_a_disk <<-'END'
		for option in -A -R; do
			begin "$option" key
			kill_it
			cut
			after --list | grep 'abandoned (killed)'
			is 76 key
			[[ $said == *"pid=$keylock "*"cause=killed command=sh"* ]]
			after -R key printenv KEYLOCK_ABANDONED | grep "pid=$keylock .*cause=killed command=sh"
			"$KEYLOCK" --forget key
		done
		# While it runs still.
		begin -A -k other key
		cut
		is 76 key
		is 76 other
		is 0 another
		kill_it
		"$KEYLOCK" --forget key
		# Clean ends: where the file is removed, and where it stays.
		for pinned in no yes; do
			[ "$pinned" = no ] || "$KEYLOCK" --pin key
			"$KEYLOCK" -A key true
			cut
			is 0 key
			die ABRT
			cut
			is 76 key
			[[ $said == *cause=signal-6* ]]
			# After a record that was on the disk, too.
			"$KEYLOCK" -R key true
			cut
			is 0 key
			die KILL
			"$KEYLOCK" --forget key
			cut
			is 0 key
		done
	END
}

@test "P8 crash-honest, power cuts at any time: never is a key clean whose command was in the middle" {
	on_a_disk <<-'END'
		clean=0 doubt=0
		for round in {1..40}; do
			rm -f /mnt/charged /mnt/written
			sync -f /mnt
			setsid "$KEYLOCK" -A key bash -c 'echo >/mnt/charged; sync /mnt/charged /mnt
				sleep 0.01; echo >/mnt/written; sync /mnt/written /mnt' &
			keylock=$!
			sleep "0.0$((RANDOM % 6))$((RANDOM % 10))"
			kill_it
			cut
			if after -q -A key true; then
				[ ! -e "$dir/after/charged" ] || [ -e "$dir/after/written" ]
				clean=$((clean + 1))
			else
				[ "$?" = 76 ]
				doubt=$((doubt + 1))
			fi
			"$KEYLOCK" -w 20 --forget key
		done
		echo "clean: $clean, in doubt: $doubt"
		[ "$clean" -ge 1 ]
		[ "$doubt" -ge 1 ]
	END
}

# The directory and the lockfile: where they are, how they are made, and each rule attacked.

load helper

setup() {
	keylock_setup
	protected_regular='' guard=''
}

teardown() {
	if [ -n "$guard" ]; then
		echo "$protected_regular" >/proc/sys/fs/protected_regular
		kill "$guard"
	fi
	keylock_teardown
}

# refused STATUS TEXT ARG…: fails, for a run of a command.
refused() {
	fails "$@" touch "$ran"
}

# several_users: public_keylock, but that the directory is not made yet.
several_users() {
	public_keylock
	rmdir "$KEYLOCK_DIR"
}

# in_run FILL COMMAND…: runs COMMAND, by env -i, in a mount namespace with an empty /run that FILL has
# filled.
in_run() {
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && eval "$0" && exec "$@"' \
		"$1" env -i PATH="$PATH" ran="$ran" "${@:2}"
}

@test "P7 same key, same lock: the default directory is the effective user's alone, whatever happens to be there" {
	in_run : "$KEYLOCK" --path job7
	[[ $status == 0 && $output == /run/keylock/job7 ]]
	several_users
	while IFS='|' read -r user fill path; do
		in_run "$fill" setpriv --clear-groups $user "$public/keylock" --path job7
		[[ $status == 0 && $output == "$path/job7" ]]
	done <<-'CASES'
		--reuid=0|mkdir -m 1777 /run/lock|/run/keylock
		--reuid=61111|mkdir -m 1777 /run/lock|/run/lock/keylock-61111
		--reuid=61112|mkdir -m 1777 /run/lock|/run/lock/keylock-61112
		--ruid=61112 --euid=61111|mkdir -m 1777 /run/lock|/run/lock/keylock-61111
		--reuid=61111|:|/tmp/keylock-61111
		--reuid=61111|mkdir -m 755 /run/lock|/tmp/keylock-61111
		--reuid=61111|mkdir -m 777 /run/lock|/tmp/keylock-61111
		--reuid=61111|mkdir -m 1775 /run/lock|/tmp/keylock-61111
		--reuid=61111|touch /run/lock|/tmp/keylock-61111
	CASES
}

# as_service SCRIPT ARG…: SCRIPT runs as 61111 with these arguments where there is no /run/lock
# and, with $private, /tmp is a service's own.
as_service() {
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && cp "$1" /run/keylock-binary &&
		mount -t tmpfs -o mode=1777 none /tmp && mkdir -p -m 1777 "/tmp/$2/tmp" &&
		mount --bind "/tmp/$2/tmp" /tmp && mkdir -m 1777 /run/named || exit 9
		shift 2; exec setpriv --reuid=61111 --regid=61111 --clear-groups -- env -i PATH="$PATH" "$@"' \
		- "$KEYLOCK" "$private" "$@"
}

@test "P7 same key, same lock: where the default is in /tmp and that is a service's own, 77, for looks as well" {
	private=systemd-private-0123456789abcdef-web.service-AbCdEf
	need_root
	need setpriv
	for what in 'key touch /run/named/ran' '-n key true' '--list' '--list --json' '--who key' \
		'--path key' '--pin key' '--forget key'; do
		as_service /run/keylock-binary $what
		expect_message 77 /tmp PrivateTmp '-d DIR' KEYLOCK_DIR
	done
	# Not where the directory was named, nor where /tmp is everybody's, nor where the default is in
	# /run.
	as_service /run/keylock-binary -d /run/named key echo ran
	expect 0
	as_service KEYLOCK_DIR=/run/named /run/keylock-binary key echo ran
	expect 0
	private=everybody
	as_service /run/keylock-binary --path key
	[[ $status == 0 && $output == /tmp/keylock-61111/key ]]
	it_gives 0 private_root sh -c 'mount -t tmpfs none /run && mkdir -p /run/systemd-private-0-x/tmp &&
		cp "$KEYLOCK" /run/copy && mount --bind /run/systemd-private-0-x/tmp /tmp &&
		exec env -i /run/copy key true'
}

@test "--dir and KEYLOCK_DIR: only the last component is made, 0700 whatever the umask" {
	refused 73 "$work/a/b" -d "$work/a/b" job7
	KEYLOCK_DIR=$work/a/b
	refused 73 "$work/a/b" job7
	[ ! -e "$work/a" ]
	mkdir "$work/a"
	gives 0 -d "$work/a/c/" job7 true
	[ -d "$work/a/c" ]
	for mask in 0 022 077 0777; do
		it_gives 0 sh -c 'umask "$0"; exec "$KEYLOCK" job7 true' "$mask"
		[ "$(stat -c %a "$KEYLOCK_DIR")" = 700 ]
		rmdir "$KEYLOCK_DIR"
	done
	in_run 'umask 0777' sh -c '"$0" job7 true && exec stat -c %a /run/keylock' "$KEYLOCK"
	[[ $status == 0 && $output == 700 ]]
}

# attack FILL [STATUS]: keylock refuses to run with the default directory, and says what else could
# be done.
attack() {
	in_run "mkdir -m 755 /run/elsewhere; $1" sh -c '"$0" job7 touch "$ran"; status=$?
		ls -A /run/elsewhere 2>/dev/null; exit "$status"' "$KEYLOCK"
	expect_message "${2:-77}" /run/keylock '-d DIR' KEYLOCK_DIR
	not_run
}

@test "rule 1: a default directory that is a link, no directory, open to others in any way, or cannot be made is refused" {
	for fill in 'chmod 700 /run/elsewhere; ln -s elsewhere /run/keylock' 'ln -s nowhere /run/keylock' \
		'touch /run/keylock' 'mkfifo /run/keylock'; do
		attack "$fill"
	done
	for mode in 0755 0750 0701 0710 0720 0740 0704 0702 0777 1777 0770; do
		attack "mkdir -m $mode /run/keylock"
	done
	attack 'mount -t tmpfs -o ro none /run' 73
	[ ! -e /tmp/keylock-0/job7 ]
	in_run 'mkdir -m 700 /run/keylock' "$KEYLOCK" job7 true
	expect 0
}

@test "rule 1: a default directory that belongs to another is refused" {
	several_users
	attack 'mkdir -m 700 /run/keylock; chown 61111 /run/keylock'
	# The attack as it would be made: one user makes another's directory in a sticky one.
	for make in 'mkdir -m 700' 'mkdir -m 777' 'ln -s /run/elsewhere'; do
		in_run 'mkdir -m 1777 /run/lock && mkdir -m 700 /run/elsewhere && chown 61111 /run/elsewhere &&
			setpriv --reuid=61112 --clear-groups '"$make /run/lock/keylock-61111" \
			setpriv --reuid=61111 --regid=61111 --clear-groups "$public/keylock" job7 touch "$ran"
		expect_message 77 /run/lock/keylock-61111
		not_run
	done
	# As root of a user namespace, to which the real root's directory is another's.
	in_run 'mkdir -m 700 /run/keylock' setpriv --reuid=61111 --regid=61111 --clear-groups \
		unshare --user --map-root-user env -i "$public/keylock" key true
	[[ $status != 1 ]] || skip 'may not make a user namespace'
	[[ $status = 73 || $status = 77 ]]
	expect_message "$status" /run/keylock '-d DIR' KEYLOCK_DIR
	[[ $stderr != *'remove it'* ]]
}

@test "rule 2: a directory given by name may be a link" {
	mkdir "$KEYLOCK_DIR"
	ln -s dir "$work/link"
	hold job7
	quiet 75 -n -d "$work/link" job7 true
	let_go
	gives 0 -d "$work/link" job7 true
	[ "$(files)" = 0 ]
	[ -L "$work/link" ]
}

@test "rule 2: a directory that all may write but that is not sticky is refused, and not looked at either" {
	for mode in 0777 0707 0702 0722 0773; do
		rm -rf "$KEYLOCK_DIR"
		mkdir -m "$mode" "$KEYLOCK_DIR"
		ln -sfn "$KEYLOCK_DIR" "$work/link"
		refused 77 "$KEYLOCK_DIR" job7
		refused 77 "$work/link" -d "$work/link" job7
	done
	for what in --list '--list key' '--list --json' '--who key' '--pin key'; do
		fails 77 "$KEYLOCK_DIR" $what
	done
	[ "$(files)" = 0 ]
}

@test "rule 2: a directory that is no directory, or a link that leads nowhere, is refused, and nothing made" {
	# A fifo must not make it wait.
	for make in 'echo content >' mkfifo "ln -s '$work/nowhere'"; do
		rm -f "$KEYLOCK_DIR"
		eval "$make \"\$KEYLOCK_DIR\""
		run_keylock job7 touch "$ran"
		[[ $status = 73 || $status = 77 ]]
		expect_message "$status" "$KEYLOCK_DIR"
		[[ $make != echo* || $(cat "$KEYLOCK_DIR") == content ]]
		[ ! -e "$work/nowhere" ]
	done
}

@test "rule 2 and 4: a directory that may not be written and a lockfile that may not be opened are 73" {
	several_users
	for mode in 755 700; do
		mkdir -m "$mode" "$public/$mode"
		it_fails 73 "$public/$mode" as_user 61111 "$public/keylock" -d "$public/$mode" job7 touch "$ran"
	done
	mkdir -m 1777 "$KEYLOCK_DIR"
	: >"$KEYLOCK_DIR/job7"
	chmod 600 "$KEYLOCK_DIR/job7"
	it_fails 73 job7 as_user 61111 "$public/keylock" job7 touch "$ran"
}

@test "rule 3: a directory or a lockfile exchanged under a holder is not touched at release" {
	hold job7
	mv "$KEYLOCK_DIR" "$work/old"
	mkdir -m 700 "$KEYLOCK_DIR"
	echo "another's" >"$KEYLOCK_DIR/job7"
	let_go
	expect 0
	[ "$(cat "$KEYLOCK_DIR/job7")" = "another's" ]
	[ "$(files "$work/old")" = 0 ]
	hold job8
	ln -sfn job7 "$KEYLOCK_DIR/job8"
	let_go
	expect 0
	[ "$(readlink "$KEYLOCK_DIR/job8") $(cat "$KEYLOCK_DIR/job7")" = "job7 another's" ]
}

@test "rule 4: a lockfile that is a link or no regular file is refused, without waiting, and nothing touched" {
	target=$work/target
	mkdir -m 700 "$KEYLOCK_DIR"
	echo content >"$target"
	touch -d 2001-01-01 "$target"
	ln -s "$target" "$KEYLOCK_DIR/link7"
	ln -s "$work/nowhere" "$KEYLOCK_DIR/dangling7"
	ln -s dangling7 "$KEYLOCK_DIR/second7"
	mkfifo "$KEYLOCK_DIR/fifo7"
	mkdir "$KEYLOCK_DIR/folder7"
	python3 -c 'import os, socket, sys
os.chdir(sys.argv[1])
socket.socket(socket.AF_UNIX).bind("socket7")' "$KEYLOCK_DIR"
	[ "$(id -u)" != 0 ] || mknod "$KEYLOCK_DIR/null7" c 1 3 && mknod "$KEYLOCK_DIR/block7" b 7 200 || :
	found() {
		find "$KEYLOCK_DIR" "$target" -printf '%y %f %l %s %m %t %c %n\n' | sort
	}
	found >"$work/before"
	for name in "$KEYLOCK_DIR"/*; do
		for options in -x -s -n -F -w1; do
			refused 77 "${name##*/}" "$options" "${name##*/}"
		done
		fails 77 "${name##*/}" --pin "${name##*/}"
	done
	found | diff "$work/before" -
	[ ! -e "$work/nowhere" ]
}

@test "rule 4: a lockfile that somebody has a lease on does not make it wait" {
	mkdir -m 700 "$KEYLOCK_DIR"
	# The kernel would hold open() up for fs.lease-break-time, 45 s.
	python3 -c 'import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[2], "w").close()
time.sleep(600)' "$KEYLOCK_DIR/job7" "$work/leased" 3>&- 4>&- &
	wait_for 20 test -e "$work/leased"
	it_fails 73 job7 timeout -s KILL 20 "$KEYLOCK" -n job7 touch "$ran"
}

# protect: fs.protected_regular=2, under which O_CREAT on another's file in a sticky directory fails.
protect() {
	local file=/proc/sys/fs/protected_regular lock
	[ -w "$file" ] || skip "may not write $file"
	# Two runs of this test side by side must not save each other's value.
	exec {lock}<"$file"
	flock -w 50 "$lock"
	protected_regular=$(cat "$file")
	# The machine gets its value back even when bats itself is killed and no teardown runs.
	env -u BATS_TEST_TMPDIR setsid sh -c 'while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
		echo "$2" >"$3"' - "$$" "$protected_regular" "$file" 3>&- 4>&- &
	guard=$!
	echo 2 >"$file" || skip "may not write $file"
}

# share A B: both users lock out each other, whoever's the file is, and nothing is said about it.
share() {
	local one=("$public/keylock" job7) other=(as_user "$2" "$public/keylock") mode
	hold_by as_user "$1" "${one[@]}"
	it_quiet 75 "${other[@]}" -n job7 touch "$ran"
	it_quiet 75 "${other[@]}" -n -s job7 touch "$ran"
	# The other waits, runs after it on the first one's file, and tidies as far as it may.
	"${other[@]}" job7 true >"$out" 2>"$err" 3>&- 4>&- &
	waiter=$!
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	let_go
	expect 0
	ended_with "$waiter" 0
	expect_taken 0
	# On a file that is there already: made by the first, whose keylock is killed.
	hold_by as_user "$1" "${one[@]}"
	kill -KILL "$(parent "$held")"
	ended_with "$holder" 137
	it_quiet 75 "${other[@]}" -n job7 true
	tell "$held" let_go exit
	wait_for 20 "${other[@]}" -q -n job7 true
	for mode in -x -s; do
		it_prints fine "${other[@]}" "$mode" job7 echo fine
	done
}

@test "rule 4 and 5: two users share a key in a sticky directory with fs.protected_regular=2" {
	several_users
	protect
	mkdir -m 1777 "$KEYLOCK_DIR"
	share 61111 61112
	[ "$(stat -c %u "$KEYLOCK_DIR/job7")" = 61111 ]
	share 61112 61111
	share 61111 0
	share 0 61111
	# Whose it is can remove it, and so can root.
	it_gives 0 as_user 0 "$public/keylock" job7 true
}

@test "rule 5: two users share a key in a group's directory, with a umask of 077" {
	several_users
	protect
	umask 077
	mkdir "$KEYLOCK_DIR"
	chmod 0770 "$KEYLOCK_DIR"
	chgrp 61100 "$KEYLOCK_DIR"
	share 61111:61111,61100 61112:61112,61100
	share 61112:61112,61100 61111:61111,61100
	[ "$(files)" = 0 ]
	it_prints '61111:61100 1660' as_user 61111:61111,61100 "$public/keylock" job7 \
		stat -c '%u:%g %a' "$KEYLOCK_DIR/job7"
	[ "$(files)" = 0 ]
	it_fails 73 "$KEYLOCK_DIR" as_user 61113 "$public/keylock" job7 touch "$ran"
}

@test "rule 5: the file has the directory's classes and the sticky bit, whatever the umask" {
	for pair in 0700=1600 0755=1600 0750=1600 0711=1600 0770=1660 0775=1660 0720=1660 0730=1660 \
		1770=1660 1700=1600 1777=1666 1733=1666 1722=1666 1707=1606 1703=1606 1757=1606; do
		rm -rf "$KEYLOCK_DIR"
		mkdir "$KEYLOCK_DIR"
		chmod "${pair%=*}" "$KEYLOCK_DIR"
		run_it sh -c 'for mask in 0 022 0777; do
			(umask "$mask"; "$KEYLOCK" job7 stat -c %a "$0")
		done' "$KEYLOCK_DIR/job7"
		echo "directory ${pair%=*}"
		[ "$output" = "${pair#*=}"$'\n'"${pair#*=}"$'\n'"${pair#*=}" ]
		[ "$(files)" = 0 ]
		# A directory that is there already stays as it is.
		[ "$((8#$(stat -c %a "$KEYLOCK_DIR")))" = "$((8#${pair%=*}))" ]
	done
}

@test "rule 5: a group that the user is not of does not keep it from a directory for all" {
	several_users
	mkdir -m 1777 "$KEYLOCK_DIR"
	chgrp 61100 "$KEYLOCK_DIR"
	it_prints '61111 1666' as_user 61111 "$public/keylock" job7 stat -c '%u %a' "$KEYLOCK_DIR/job7"
}

@test "rule 6: a lockfile is neither written nor truncated, whoever made it, and its mode stays" {
	mkdir -m 700 "$KEYLOCK_DIR"
	for mode in -x -s -F -l -o -n -v; do
		echo content >"$KEYLOCK_DIR/job7"
		chmod 640 "$KEYLOCK_DIR/job7"
		ln -f "$KEYLOCK_DIR/job7" "$work/target"
		gives 75 "$mode" job7 sh -c 'cat "$KEYLOCK_DIR/job7"; exec "$KEYLOCK" -n job7 true'
		[ "$output $(cat "$work/target")" = 'content content' ]
		[ "$(stat -c %a "$work/target")" = 640 ]
		rm -f "$KEYLOCK_DIR/job7"
	done
}

# on_type TYPE COMMAND…: run_it where statfs(2) says, in hexadecimal, that the folders are on that type of
# file system: the first word of what it answers, the lowest byte first.
on_type() {
	local word
	word=$(printf '%08x' $((0x$1)) | sed -E 's/(..)(..)(..)(..)/\4\3\2\1/')
	run_it strace -qq -o /dev/null -e trace=statfs,fstatfs -e inject="statfs,fstatfs:poke_exit=@arg2=$word" "${@:2}"
}

@test "rule 8: on a network file system it refuses, on FUSE and local ones it does not" {
	need strace
	mkdir -m 700 "$KEYLOCK_DIR"
	on_type 01021994 true
	[ "$status" = 0 ] || skip 'may not trace, or not so'
	# tmpfs, ext4, xfs, btrfs, overlayfs, FUSE
	for type in 01021994 ef53 58465342 9123683e 794c7630 65735546; do
		on_type "$type" "$KEYLOCK" job7 touch "$ran"
		expect 0
		rm "$ran"
	done
	# NFS, SMB, CIFS, SMB2, Ceph, Lustre, GFS2, OCFS2, AFS (two), 9p
	for type in 6969 517b ff534d42 fe534d42 00c36400 0bd00bd0 01161970 7461636f 5346414f 6b414653 01021997; do
		for options in -x '-F -n'; do
			on_type "$type" "$KEYLOCK" $options job7 touch "$ran"
			expect_message 77 "$KEYLOCK_DIR"
		done
		[ "$(files)" = 0 ]
	done
}

@test "who has waited for a key does not change the time of another's file that is linked there" {
	mkdir "$KEYLOCK_DIR"
	echo precious >"$work/precious"
	touch -d '2026-01-01 00:00:00 UTC' "$work/precious"
	ln "$work/precious" "$KEYLOCK_DIR/key"
	for options in -x -s '-j 2'; do
		hold -j 2 key
		first=$holder
		[ "$options" != '-j 2' ] || hold -j 2 key
		line_up $options key true
		let_go "$first"
		ended_with "$waiter" 0
	done
	[ "$(stat -c '%Y %s' "$work/precious")" = '1767225600 9' ]
}

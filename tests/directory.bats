# The directory and the lockfile: where they are, how they are made, and each rule attacked.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
	protected_regular='' guard=''
}

teardown() {
	if [ -n "$guard" ]; then
		echo "$protected_regular" >/proc/sys/fs/protected_regular
		kill "$guard"
	fi
	keylock_teardown
}

not_run() {
	[ ! -e "$ran" ] || {
		echo 'the command was run'
		return 1
	}
}

# refused STATUS TEXT ARG…: one line that names TEXT, and the command is not run.
refused() {
	local status_wanted=$1 text=$2
	shift 2
	run_keylock "$@" touch "$ran"
	expect_message "$status_wanted" "$text"
	not_run
}

mode() {
	stat -c %a "$1"
}

# --- which directory ---

# default_path UID SCRIPT: what --path prints as that user, in a mount namespace with an empty /run
# that SCRIPT has filled.
default_path() {
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && eval "$2" &&
		exec setpriv --reuid="$1" --regid="$1" --clear-groups -- env -i "$3" --path job7' \
		- "$1" "$2" "$public/keylock"
}

@test "P7 same key, same lock: the default directory is root's own in /run, whatever happens to be there" {
	run_it private_root env -i "$KEYLOCK" --path job7
	expect 0
	[ "$output" = /run/keylock/job7 ]
	run_it private_root sh -c 'mount -t tmpfs -o mode=1777 none /run; mkdir -m 1777 /run/lock
		exec env -i "$KEYLOCK" --path job7'
	[ "$output" = /run/keylock/job7 ]
}

@test "P7 same key, same lock: the default directory of others is in /run/lock where that is sticky and for all, else in /tmp" {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	default_path 61111 'mkdir -m 1777 /run/lock'
	expect 0
	[ "$output" = /run/lock/keylock-61111/job7 ]
	default_path 61112 'mkdir -m 1777 /run/lock'
	[ "$output" = /run/lock/keylock-61112/job7 ]
	local script
	for script in : 'mkdir -m 755 /run/lock' 'mkdir -m 777 /run/lock' 'mkdir -m 1775 /run/lock' 'touch /run/lock'; do
		default_path 61111 "$script"
		expect 0
		[ "$output" = /tmp/keylock-61111/job7 ]
	done
}

@test "P7 same key, same lock: the effective user decides, not the real one" {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock &&
		exec setpriv --ruid=61112 --euid=61111 --clear-groups -- env -i "$0" --path job7' "$public/keylock"
	expect 0
	[ "$output" = /run/lock/keylock-61111/job7 ]
}

@test "a default directory that cannot be made is 73: no other is tried" {
	run_it private_root sh -c 'mount -t tmpfs -o ro none /run &&
		exec env -i "$KEYLOCK" job7 touch "$0"' "$ran"
	expect_message 73 /run/keylock
	not_run
	[ ! -e /tmp/keylock-0/job7 ]
}

@test "--dir and KEYLOCK_DIR: only the last component is made" {
	refused 73 "$BATS_TEST_TMPDIR/a/b" -d "$BATS_TEST_TMPDIR/a/b" job7
	[ ! -e "$BATS_TEST_TMPDIR/a" ]
	KEYLOCK_DIR=$BATS_TEST_TMPDIR/a/b
	refused 73 "$BATS_TEST_TMPDIR/a/b" job7
	[ ! -e "$BATS_TEST_TMPDIR/a" ]
	mkdir "$BATS_TEST_TMPDIR/a"
	run_keylock job7 true
	expect 0
	[ -d "$BATS_TEST_TMPDIR/a/b" ]
	run_keylock -d "$BATS_TEST_TMPDIR/a/c/" job7 true
	expect 0
	[ -d "$BATS_TEST_TMPDIR/a/c" ]
}

@test "the directory is made 0700 whatever the umask" {
	local mask
	for mask in 0 022 077 0777; do
		run_it sh -c 'umask "$0"; exec "$KEYLOCK" job7 true' "$mask"
		expect 0
		[ "$(mode "$KEYLOCK_DIR")" = 700 ]
		rmdir "$KEYLOCK_DIR"
	done
	run_it private_root sh -c 'mount -t tmpfs none /run; umask 0777
		env -i "$KEYLOCK" job7 true && stat -c %a /run/keylock'
	expect 0
	[ "$output" = 700 ]
}

# as_service SCRIPT ARG…: SCRIPT runs as 61111 with these arguments where there is no /run/lock and, with
# $private, /tmp is a service's own.
as_service() {
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && cp "$1" /run/keylock-binary &&
		mount -t tmpfs -o mode=1777 none /tmp && mkdir -p -m 1777 "/tmp/$2/tmp" &&
		mount --bind "/tmp/$2/tmp" /tmp && mkdir -m 1777 /run/named || exit 9
		shift 2; exec setpriv --reuid=61111 --regid=61111 --clear-groups -- env -i PATH="$PATH" "$@"' \
		- "$KEYLOCK" "$private" "$@"
}

@test "P7 same key, same lock: where the default is in /tmp and that is a service's own, 77, for looks as well" {
	local what private=systemd-private-0123456789abcdef-web.service-AbCdEf
	need_root
	need setpriv
	# shellcheck disable=SC2086
	for what in 'key touch /run/named/ran' '-n key true' '--list' '--list --json' '--who key' '--path key' '--pin key' '--forget key'; do
		as_service /run/keylock-binary $what
		expect_message 77 /tmp PrivateTmp '-d DIR' KEYLOCK_DIR
	done
	# Not where the directory was named, nor where /tmp is everybody's.
	as_service /run/keylock-binary -d /run/named key echo ran
	expect 0
	as_service KEYLOCK_DIR=/run/named /run/keylock-binary key echo ran
	expect 0
	private=everybody
	as_service /run/keylock-binary --path key
	expect 0
	[ "$output" = /tmp/keylock-61111/key ]
	# Nor where it is in /run.
	run_it private_root sh -c 'mount -t tmpfs none /run && mkdir -p "/tmp/systemd-private-0-x/tmp" &&
		mount --bind /tmp/systemd-private-0-x/tmp /tmp || exit 9
		env -i "$KEYLOCK" key true'
	rmdir /tmp/systemd-private-0-x/tmp /tmp/systemd-private-0-x
	expect 0
}

@test "73 and 77 about a default directory name the way out: -d DIR or KEYLOCK_DIR" {
	local script
	need_root
	need setpriv
	for script in 'mount -t tmpfs -o ro none /run' 'mount -t tmpfs none /run && ln -s x /run/keylock' \
		'mount -t tmpfs none /run && mkdir -m 755 /run/keylock' 'mount -t tmpfs none /run && : >/run/keylock'; do
		run_it private_root sh -c "$script"' && exec env -i "$KEYLOCK" key true'
		[[ $status = 73 || $status = 77 ]]
		expect_message "$status" /run/keylock '-d DIR' KEYLOCK_DIR
	done
	# As root of a user namespace, to which the real root's directory is another's.
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && mkdir -m 700 /run/keylock &&
		exec setpriv --reuid=61111 --regid=61111 --clear-groups -- unshare --user --map-root-user env -i "$0" key true' "$KEYLOCK"
	[[ $status != 1 ]] || skip 'may not make a user namespace'
	[[ $status = 73 || $status = 77 ]]
	expect_message "$status" /run/keylock '-d DIR' KEYLOCK_DIR
	[[ $stderr != *'remove it'* ]]
}

# --- rule 1: the default directory ---

# attack SCRIPT [STATUS]: SCRIPT fills an empty /run; keylock then refuses to run with the default directory.
attack() {
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && mkdir /run/elsewhere && eval "$0" &&
		{ env -i "$KEYLOCK" job7 touch "$1"; status=$?; ls -A /run/elsewhere; exit "$status"; }' "$1" "$ran"
	expect_message "${2:-77}" /run/keylock
	not_run
}

@test "rule 1: a default directory that is a link is refused, wherever it leads" {
	attack 'chmod 700 /run/elsewhere; ln -s elsewhere /run/keylock'
	attack 'ln -s nowhere /run/keylock'
}

@test "rule 1: a default directory that is open to others in any way is refused" {
	local mode
	for mode in 0755 0750 0701 0710 0720 0740 0704 0702 0777 1777 0770; do
		attack "mkdir -m $mode /run/keylock"
	done
	run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && mkdir -m 0700 /run/keylock &&
		exec env -i "$KEYLOCK" job7 true'
	expect 0
}

@test "rule 1: a default directory that is no directory is refused" {
	attack 'touch /run/keylock'
	attack 'mkfifo /run/keylock'
}

@test "rule 1: a default directory that belongs to another is refused" {
	need_root
	need setpriv
	attack 'mkdir -m 700 /run/keylock; chown 61111 /run/keylock'
	# The attack as it would be made: one user makes another's directory in a sticky one.
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	local make
	for make in 'mkdir -m 700 /run/lock/keylock-61111' 'mkdir -m 777 /run/lock/keylock-61111' \
		'ln -s /run/elsewhere /run/lock/keylock-61111'; do
		run_it private_root sh -c 'mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock &&
			mkdir -m 700 /run/elsewhere && chown 61111 /run/elsewhere &&
			setpriv --reuid=61112 --clear-groups $2 || exit
			exec setpriv --reuid=61111 --regid=61111 --clear-groups -- env -i "$0" job7 touch "$1/ran"' \
			"$public/keylock" "$public" "$make"
		expect_message 77 /run/lock/keylock-61111
		[ ! -e "$public/ran" ]
	done
}

# --- rule 2: a directory given by name ---

@test "rule 2: a directory given by name may be a link" {
	mkdir "$KEYLOCK_DIR"
	ln -s dir "$BATS_TEST_TMPDIR/link"
	hold job7
	run_keylock -n -d "$BATS_TEST_TMPDIR/link" job7 true
	expect_taken 75
	let_go
	run_keylock -d "$BATS_TEST_TMPDIR/link" job7 true
	expect 0
	[ "$(files)" = 0 ]
	[ -L "$BATS_TEST_TMPDIR/link" ]
}

@test "rule 2: a directory that all may write but that is not sticky is refused" {
	local mode
	for mode in 0777 0707 0702 0722 0773; do
		rm -rf "$KEYLOCK_DIR"
		mkdir -m "$mode" "$KEYLOCK_DIR"
		refused 77 "$KEYLOCK_DIR" job7
		refused 77 "$KEYLOCK_DIR" -d "$KEYLOCK_DIR" job7
		[ "$(files)" = 0 ]
		# A link does not hide it.
		ln -sfn "$KEYLOCK_DIR" "$BATS_TEST_TMPDIR/link"
		refused 77 "$BATS_TEST_TMPDIR/link" -d "$BATS_TEST_TMPDIR/link" job7
	done
}

@test "rule 2: a directory that is no directory, or a link that leads nowhere, is refused, and nothing made" {
	local make
	for make in 'echo content >' mkfifo "ln -s '$BATS_TEST_TMPDIR/nowhere'"; do
		rm -f "$KEYLOCK_DIR"
		eval "$make \"\$KEYLOCK_DIR\""
		# A fifo must not make it wait.
		run_keylock job7 touch "$ran"
		[ "$status" = 73 ] || [ "$status" = 77 ]
		expect_message "$status" "$KEYLOCK_DIR"
		not_run
		[[ $make != echo* || $(cat "$KEYLOCK_DIR") == content ]]
		[ ! -e "$BATS_TEST_TMPDIR/nowhere" ]
	done
}

@test "rule 2: a directory that may not be written is 73" {
	if [ "$(id -u)" = 0 ]; then
		need setpriv
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		mkdir -m 755 "$public/dir"
		run_it as_user 61111 "$public/keylock" -d "$public/dir" job7 touch "$ran"
		expect_message 73 "$public/dir"
		mkdir -m 700 "$public/closed"
		run_it as_user 61111 "$public/keylock" -d "$public/closed" job7 touch "$ran"
		expect_message 73 "$public/closed"
	else
		mkdir -m 500 "$KEYLOCK_DIR"
		refused 73 "$KEYLOCK_DIR" job7
	fi
	not_run
}

# --- rule 3: the directory that was checked is the one that is used ---

@test "rule 3: a directory exchanged under a holder is not touched at release" {
	hold job7
	mv "$KEYLOCK_DIR" "$BATS_TEST_TMPDIR/old"
	mkdir -m 700 "$KEYLOCK_DIR"
	echo "another's" >"$KEYLOCK_DIR/job7"
	let_go
	expect 0
	[ "$(cat "$KEYLOCK_DIR/job7")" = "another's" ]
	[ "$(files "$BATS_TEST_TMPDIR/old")" = 0 ]
}

@test "rule 3: a lockfile exchanged for a link under a holder is left alone at release" {
	hold job7
	echo content >"$BATS_TEST_TMPDIR/target"
	ln -sfn "$BATS_TEST_TMPDIR/target" "$KEYLOCK_DIR/job7"
	let_go
	expect 0
	[ "$(cat "$BATS_TEST_TMPDIR/target")" = content ]
	[ -L "$KEYLOCK_DIR/job7" ]
}

# --- rule 4: the lockfile ---

@test "rule 4: a lockfile that is a link is refused, and what it leads to is not touched" {
	mkdir -m 700 "$KEYLOCK_DIR"
	echo content >"$BATS_TEST_TMPDIR/target"
	touch -d 2001-01-01 "$BATS_TEST_TMPDIR/target"
	local before mode
	before=$(stat -c '%a %s %Y %Z %h' "$BATS_TEST_TMPDIR/target")
	ln -s "$BATS_TEST_TMPDIR/target" "$KEYLOCK_DIR/job7"
	ln -s "$BATS_TEST_TMPDIR/nowhere" "$KEYLOCK_DIR/job8"
	ln -s job8 "$KEYLOCK_DIR/job9"
	for mode in -x -s -n -F -w1; do
		refused 77 job7 "$mode" job7
		refused 77 job8 "$mode" job8
		refused 77 job9 "$mode" job9
	done
	[ "$(cat "$BATS_TEST_TMPDIR/target")" = content ]
	[ "$(stat -c '%a %s %Y %Z %h' "$BATS_TEST_TMPDIR/target")" = "$before" ]
	[ ! -e "$BATS_TEST_TMPDIR/nowhere" ]
	[ "$(files)" = 3 ]
}

@test "rule 4: a lockfile that is no regular file is refused, without waiting for it" {
	local mode name
	mkdir -m 700 "$KEYLOCK_DIR"
	mkfifo "$KEYLOCK_DIR/fifo7"
	mkdir "$KEYLOCK_DIR/folder7"
	! command -v python3 >/dev/null || python3 -c 'import os, socket, sys
os.chdir(sys.argv[1])
socket.socket(socket.AF_UNIX).bind("socket7")' "$KEYLOCK_DIR"
	[ "$(id -u)" != 0 ] || mknod "$KEYLOCK_DIR/null7" c 1 3 && mknod "$KEYLOCK_DIR/block7" b 7 200 || :
	find "$KEYLOCK_DIR" -printf '%y %f %s\n' | sort >"$BATS_TEST_TMPDIR/before"
	for name in "$KEYLOCK_DIR"/*; do
		for mode in -x -s -n -F; do
			refused 77 "${name##*/}" "$mode" "${name##*/}"
		done
	done
	# Nothing has become of any.
	find "$KEYLOCK_DIR" -printf '%y %f %s\n' | sort | cmp - "$BATS_TEST_TMPDIR/before"
}

@test "rule 4: a lockfile that somebody has a lease on does not make it wait" {
	need python3
	mkdir -m 700 "$KEYLOCK_DIR"
	# The kernel would hold open() up for fs.lease-break-time, 45 s.
	python3 -c 'import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[2], "w").close()
time.sleep(600)' "$KEYLOCK_DIR/job7" "$BATS_TEST_TMPDIR/leased" 3>&- 4>&- &
	started $!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/leased"
	local start
	start=$(milliseconds)
	refused 73 job7 -n job7
	[ $(($(milliseconds) - start)) -lt 20000 ]
}

@test "rule 4: a lockfile that may not be opened is 73" {
	if [ "$(id -u)" = 0 ]; then
		need setpriv
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		mkdir -m 1777 "$public/dir"
		: >"$public/dir/job7"
		chmod 600 "$public/dir/job7"
		run_it as_user 61111 "$public/keylock" -d "$public/dir" job7 touch "$ran"
		expect_message 73 job7
	else
		mkdir -m 700 "$KEYLOCK_DIR"
		: >"$KEYLOCK_DIR/job7"
		chmod 0 "$KEYLOCK_DIR/job7"
		refused 73 job7 job7
	fi
	not_run
}

# protect: fs.protected_regular=2, under which O_CREAT on another's file in a sticky directory fails.
protect() {
	local file=/proc/sys/fs/protected_regular lock
	need flock
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

two_users() {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	export KEYLOCK_DIR=$public/dir
	export ran=$public/ran
}

# hold_as USER KEY: as hold does, as a user.
hold_as() {
	rm -f "$public/go" "$public/pid"
	mkfifo -m 666 "$public/go"
	[ -d "$public/for-all" ] || mkdir -m 1777 "$public/for-all"
	as_user "$1" "$public/keylock" "$2" sh -c \
		'exec 8<>"$0/go"; : >"$0/for-all/$1"; read -r _ <&8' "$public" "${1%%:*}" 3>&- 4>&- &
	holder=$!
	started "$holder"
	wait_for 20 test -e "$public/for-all/${1%%:*}"
	rm "$public/for-all/${1%%:*}"
}

end_hold() {
	echo 1<>"$public/go"
	status=0
	wait "$holder" || status=$?
}

# share A B: both users lock out each other, whoever's the file is, and nothing is said about it.
share() {
	local one=$1 other=$2 waiter
	hold_as "$one" job7
	run_it as_user "$other" "$public/keylock" -n job7 touch "$ran"
	expect_taken 75
	not_run
	run_it as_user "$other" "$public/keylock" -n -s job7 touch "$ran"
	expect_taken 75
	# The other waits, runs after it on the first one's file, and tidies as far as it may.
	as_user "$other" "$public/keylock" job7 true >"$out" 2>"$err" 3>&- 4>&- &
	waiter=$!
	started "$waiter"
	wait_for 20 blocked "$KEYLOCK_DIR/job7"
	end_hold
	expect 0
	wait "$waiter"
	cat "$out" "$err"
	[ ! -s "$out" ]
	[ ! -s "$err" ]
	# On a file that is there already: made by the first, who is killed with all that it started.
	hold_as "$one" job7
	kill -KILL "$holder"
	wait "$holder" || :
	run_it as_user "$other" "$public/keylock" -n job7 true
	expect_taken 75
	echo 1<>"$public/go"
	wait_for 20 as_user "$other" "$public/keylock" -q -n job7 true
	run_it as_user "$other" "$public/keylock" job7 echo fine
	expect 0
	[ "$output" = fine ]
	[ -z "$stderr" ]
	run_it as_user "$other" "$public/keylock" -s job7 echo fine
	expect 0
	[ -z "$stderr" ]
}

@test "rule 4 and 5: two users share a key in a sticky directory with fs.protected_regular=2" {
	two_users
	protect
	mkdir -m 1777 "$KEYLOCK_DIR"
	share 61111 61112
	share 61112 61111
	share 61111 0
	share 0 61111
	# Whose it is can remove it, and so can root.
	run_it as_user 0 "$public/keylock" job7 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "rule 4 and 5: a file left by a stranger in a sticky directory is used, stays, and nothing is said" {
	two_users
	protect
	mkdir -m 1777 "$KEYLOCK_DIR"
	as_user 61111 touch "$KEYLOCK_DIR/job7"
	as_user 61111 chmod 1666 "$KEYLOCK_DIR/job7"
	run_it as_user 61112 "$public/keylock" -v job7 echo fine
	expect 0
	[ "$output" = fine ]
	[[ $stderr != *ermi* ]]
	run_it as_user 61112 "$public/keylock" -n job7 echo fine
	expect 0
	[ -z "$stderr" ]
	[ "$(files)" = 1 ]
	[ "$(stat -c %u "$KEYLOCK_DIR/job7")" = 61111 ]
	run_it as_user 61111 "$public/keylock" job7 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "rule 5: two users share a key in a group's directory, with a umask of 077" {
	two_users
	protect
	umask 077
	mkdir "$KEYLOCK_DIR"
	chmod 0770 "$KEYLOCK_DIR"
	chgrp 61100 "$KEYLOCK_DIR"
	share 61111:61111,61100 61112:61112,61100
	share 61112:61112,61100 61111:61111,61100
	[ "$(files)" = 0 ]
	hold_as 61111:61111,61100 job7
	[ "$(stat -c '%u:%g %a' "$KEYLOCK_DIR/job7")" = '61111:61100 1660' ]
	end_hold
	[ "$(files)" = 0 ]
	# Who is not of the group is not let in.
	run_it as_user 61113 "$public/keylock" job7 touch "$ran"
	expect_message 73 "$KEYLOCK_DIR"
	not_run
}

@test "rule 5: a group that the user is not of does not keep it from a directory for all" {
	two_users
	mkdir -m 1777 "$KEYLOCK_DIR"
	chgrp 61100 "$KEYLOCK_DIR"
	run_it as_user 61111 "$public/keylock" job7 stat -c '%u %a' "$KEYLOCK_DIR/job7"
	expect 0
	[ "$output" = '61111 1666' ]
	[ -z "$stderr" ]
	[ "$(files)" = 0 ]
}

# --- rule 5: the lockfile's mode ---

@test "rule 5: the file has the directory's classes and the sticky bit, whatever the umask" {
	local pair
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
		[ "$((8#$(mode "$KEYLOCK_DIR")))" = "$((8#${pair%=*}))" ]
	done
}

@test "P6 transparent: the umask is the command's as it was" {
	local mask
	for mask in 0000 0022 0077 0777; do
		run_it sh -c 'umask "$0"; exec "$KEYLOCK" job7 sh -c umask' "$mask"
		expect 0
		[ "$output" = "$mask" ]
	done
}

@test "rule 5: umask 0777 and umask 0 change nothing: the key is taken for both" {
	local mask
	for mask in 0 0777; do
		(umask "$mask" && exec "$KEYLOCK" job7 sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' \
			"$ran" 3>&- 4>&-) &
		started $!
		wait_for 20 test -e "$ran"
		run_keylock -n job7 true
		expect_taken 75
		run_it sh -c 'umask 0777; exec "$KEYLOCK" -n job7 true'
		expect_taken 75
		run_it sh -c 'umask 0; exec "$KEYLOCK" -n job7 true'
		expect_taken 75
		chmod 600 "$ran"
		kill "$(cat "$ran")"
		wait $! || :
		rm "$ran"
		[ "$(files)" = 0 ]
	done
}

@test "rule 5: the sticky bit of a file made by another program is not needed to lock it" {
	mkdir -m 700 "$KEYLOCK_DIR"
	: >"$KEYLOCK_DIR/job7"
	chmod 600 "$KEYLOCK_DIR/job7"
	hold job7
	run_keylock -n job7 true
	expect 75
	let_go
	[ "$(files)" = 0 ]
}

# --- rule 6: nothing is written ---

@test "rule 6: a lockfile is neither written nor truncated" {
	mkdir -m 700 "$KEYLOCK_DIR"
	local mode
	for mode in -x -s -F -l -o -n -v; do
		echo content >"$KEYLOCK_DIR/job7"
		# A second name, to see the content even where the first is removed.
		ln -f "$KEYLOCK_DIR/job7" "$BATS_TEST_TMPDIR/target"
		run_keylock "$mode" job7 cat "$KEYLOCK_DIR/job7"
		expect 0
		[ "$output" = content ]
		[ "$(cat "$BATS_TEST_TMPDIR/target")" = content ]
		rm -f "$KEYLOCK_DIR/job7"
	done
}

@test "rule 6: the file that keylock makes is empty" {
	run_keylock job7 stat -c %s "$KEYLOCK_DIR/job7"
	expect 0
	[ "$output" = 0 ]
	run_keylock -s job7 stat -c %s "$KEYLOCK_DIR/job7"
	[ "$output" = 0 ]
}

@test "rule 6: a second name of another's file gets nothing of keylock's" {
	need_root
	two_users
	mkdir -m 1777 "$KEYLOCK_DIR"
	echo secret >"$public/precious"
	chmod 644 "$public/precious"
	ln "$public/precious" "$KEYLOCK_DIR/job7"
	run_it "$public/keylock" job7 true
	[ "$(cat "$public/precious")" = secret ]
	[ "$(stat -c '%u %a' "$public/precious")" = '0 644' ]
}

# Rule 7, the descriptors, is in command_line.bats.

# --- rule 8: network file systems ---

@test "rule 8: on a network file system it refuses, on FUSE and local ones it does not" {
	local type probe
	mkdir -m 700 "$KEYLOCK_DIR"
	probe=$(probe filesystem)
	run_it "$probe" 01021994 true
	[ "$status" -ne 99 ] || skip 'may not trace'
	# tmpfs, ext4, xfs, btrfs, overlayfs, FUSE
	for type in 01021994 ef53 58465342 9123683e 794c7630 65735546; do
		run_it "$probe" "$type" "$KEYLOCK" job7 touch "$ran"
		expect 0
		[ -e "$ran" ]
		rm "$ran"
	done
	# NFS, SMB, CIFS, SMB2, Ceph, Lustre, GFS2, OCFS2, AFS (two), 9p
	for type in 6969 517b ff534d42 fe534d42 00c36400 0bd00bd0 01161970 7461636f 5346414f 6b414653 01021997; do
		echo "file system $type"
		run_it "$probe" "$type" "$KEYLOCK" job7 touch "$ran"
		expect_message 77 "$KEYLOCK_DIR"
		not_run
		run_it "$probe" "$type" "$KEYLOCK" -F -n job7 touch "$ran"
		expect_message 77 "$KEYLOCK_DIR"
		not_run
		[ "$(files)" = 0 ]
	done
}

#!/usr/bin/env bats
# What the system seldom refuses, each by one fault of strace(1), where faults.bats has no real
# thing for it: no command without its lock, and one clear line. All faults of all calls, and what
# they leave behind, are in proof/faults.sh.
# shellcheck disable=SC2016,SC2030,SC2031,SC2154 # inner shells' own variables; the helper's variables

load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
	lockfile=$KEYLOCK_DIR/key
	need strace
	strace -qq -o /dev/null true 2>/dev/null || skip 'may not trace'
}

# fault CALL[,CALL]:HOW [PATH...] -- ARGUMENT...: keylock with these system calls, at these paths if
# any, failing as strace's inject= has it.
fault() {
	local how=$1 at=()
	shift
	while [ "$1" != -- ]; do
		at+=(-P "$1")
		shift
	done
	shift
	run_it strace -qq -o /dev/null ${at[@]+"${at[@]}"} -e "trace=${how%%:*}" -e "inject=$how" \
		"$KEYLOCK" "$@"
}

# refused STATUS TEXT...: the last run said so, ran nothing, and left nothing.
refused() {
	expect_message "$@"
	[ ! -e "$ran" ]
	[ "$(files)" = 0 ]
}

# The key is free, and as if nothing had happened.
unharmed() {
	run_keylock -n key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "71: no locks are left" {
	local when
	# The gate, the presence, the mark.
	for when in 1 3 4; do
		fault "fcntl:error=ENOLCK:when=$when" "$lockfile" -- key touch "$ran"
		refused 71 'key: cannot be locked: No locks available'
	done
	fault flock:error=ENOLCK:when=1 "$lockfile" -- key touch "$ran"
	refused 71 'key: cannot be locked: No locks available'
	# The same at slots, and at the second one.
	fault fcntl:error=ENOLCK:when=1 "$lockfile" -- -j 2 key touch "$ran"
	refused 71 'key: cannot be locked: No locks available'
	hold -j 2 key
	fault flock:error=ENOLCK:when=1 "$lockfile%s2" -- -j 2 key touch "$ran"
	expect_message 71 'key: cannot be locked: No locks available'
	let_go
	unharmed
}

@test "71: sleeping fails" {
	hold -j 2 key
	hold -j 2 key
	fault poll,ppoll:error=ENOMEM -- -w 9 -j 2 key touch "$ran"
	expect_message 71 'key: cannot be locked: '
	[ ! -e "$ran" ]
	# One that holds lets go.
	fault poll,ppoll:error=ENOMEM -- --hold other
	expect 71
	[[ $stderr == "keylock: standard input: "* ]]
	run_keylock -n other true
	expect 0
}

@test "71: no memory, for whatever it may be" {
	local when what long
	need_plain
	printf -v long '%0600d' 0
	hold -s looked
	hold -s looked
	"$KEYLOCK" -q -A doubt sh -c 'kill -9 $$' || :
	for what in 'key true' '-k other key true' '-j 2 key true' '--auto true' '--list' '--list --json' '--who looked' \
		'--path key' '-R doubt sh -c exit\ 150' '-n -v looked true' \
		"$long true"; do
		for when in 1 2 3 4 5 6 7 8; do
			eval "fault mmap,mremap:error=ENOMEM:when=$when+ -- $what"
			case $status in
			0 | 75 | 150) ;;
			71) [[ ${stderr##*$'\n'} == 'keylock: '*memory* ]] ;;
			# Of the C library's own start.
			127) [[ $stderr == *librar* || $stderr == *glibc* ]] ;;
			64) [[ $what == --auto* ]] ;;
			*) false ;;
			esac
			# What is printed is printed in full.
			[ "$status" = 0 ] || [ -z "$output" ]
		done
	done
	unharmed || [ "$(files)" = 2 ]
}

@test "73: what the lockfile is cannot be seen" {
	fault fstat,newfstatat:error=EIO:when=1 "$lockfile" -- key touch "$ran"
	expect_message 73 "$lockfile: " error
	[ ! -e "$ran" ]
	fault fstat,newfstatat:error=EIO:when=1 "$KEYLOCK_DIR" -- key touch "$ran"
	expect_message 73 "$KEYLOCK_DIR: " error
	[ ! -e "$ran" ]
	unharmed
}

@test "73: the directory goes each time that a file is made in it" {
	mkdir -m 700 "$KEYLOCK_DIR"
	fault openat,open:error=ENOENT:when=3+ "$KEYLOCK_DIR" "$lockfile" key -- key touch "$ran"
	expect_message 73 "$KEYLOCK_DIR"
	[ ! -e "$ran" ]
	unharmed
}

@test "73: a record that cannot be read, or brought to disk" {
	local call
	for call in fstat,newfstatat:error=EIO:when=2 fstat,newfstatat:error=EIO:when=3 pwrite64:error=EIO pwrite64:retval=9 fdatasync:error=EIO \
		fsync:error=EIO; do
		fault "$call" "$lockfile" "$KEYLOCK_DIR" -- -A key touch "$ran"
		expect_message 73 "$lockfile: "
		[ ! -e "$ran" ]
	done
	unharmed
	"$KEYLOCK" -A key sh -c 'kill -9 $$' || :
	fault pread64:error=EIO:when=1 "$lockfile" -- -A key touch "$ran"
	expect_message 73 "$lockfile: " error
	fault pwrite64:error=EIO:when=1 "$lockfile" -- -R key touch "$ran"
	expect_message 73 "$lockfile: " error
	# Not even what was there can be brought back: it is left in doubt, at least.
	fault pwrite64,ftruncate:error=EIO "$lockfile" -- -R key touch "$ran"
	expect_message 73 "$lockfile: " error
	[ ! -e "$ran" ]
	run_keylock -A key true
	expect_message 76
}

@test "a record that cannot be ended is told, and the status is the command's" {
	fault ftruncate:error=EIO "$lockfile" -- -A key sh -c 'exit 3'
	expect 3
	[[ $stderr == "keylock: $lockfile: "*error ]]
	run_keylock --forget key
	fault flock:error=EIO:when=2 "$lockfile" -- -A key sh -c 'exit 3'
	expect 3
	[[ $stderr == "keylock: $lockfile: "*error ]]
	run_keylock -A key true
	expect_message 76
	# One that was longer than ours.
	printf '%01000d' 0 >"$lockfile"
	fault ftruncate:error=EIO "$lockfile" -- -R key sh -c 'exit 150'
	expect 150
	[[ $stderr == "keylock: $lockfile: "*error ]]
	run_keylock -A key true
	expect_message 76
}

@test "waiting for the command is interrupted: it goes on" {
	fault rt_sigtimedwait,rt_sigtimedwait_time64:error=EINTR:when=1..3 -- key sh -c 'exit 7'
	expect 7
	fault wait4:error=EINTR:when=1 -- key sh -c 'exit 7'
	expect 7
	unharmed
}

@test "--hold with an input that has nothing to give yet goes on" {
	need_plain
	fault read:error=EAGAIN:when=1 -- --hold key
	expect 0
	unharmed
}

@test "73: whether the lockfile still bears its name cannot be seen" {
	local how
	for how in '' '-j 2' -n; do
		# shellcheck disable=SC2086
		fault newfstatat:error=EIO key -- $how key touch "$ran"
		expect_message 73 "$lockfile: "
		[ ! -e "$ran" ]
	done
	unharmed
	fault newfstatat:error=EIO key -- --pin key
	expect_message 73 "$lockfile: "
}

@test "75: the lockfile loses its name again and again" {
	fault newfstatat:error=ENOENT key -- -w 0.1 key touch "$ran"
	expect_taken 75
	fault newfstatat:error=ENOENT key -- -w 0.1 -j 2 key touch "$ran"
	expect_taken 75
	fault newfstatat:error=ENOENT:when=2 key -- -j 2 key true
	expect 0
	hold -j 2 key
	fault newfstatat:error=ENOENT key%s2 -- -w 0.1 -j 2 key touch "$ran"
	expect_taken 75
	[ ! -e "$ran" ]
	let_go
	unharmed
}

@test "73: the open directory cannot be opened to read, but for want of permission" {
	mkdir -m 700 "$KEYLOCK_DIR"
	chmod 770 "$KEYLOCK_DIR"
	fault openat:error=EMFILE:when=2 "$KEYLOCK_DIR" -- key touch "$ran"
	refused 71 "$KEYLOCK_DIR: cannot be opened: "
	fault openat:error=EIO:when=2 "$KEYLOCK_DIR" -- key touch "$ran"
	refused 73 "$KEYLOCK_DIR: cannot be opened: "
	fault openat:error=EACCES:when=2 "$KEYLOCK_DIR" -- key touch "$ran"
	expect 0
	[ -e "$ran" ]
}

@test "73: the directory cannot be brought to disk" {
	mkdir -m 700 "$KEYLOCK_DIR"
	# Opened for itself, for the lockfile, to make that, and then to bring it to disk.
	fault openat:error=EIO:when=4 "$KEYLOCK_DIR" -- -A key touch "$ran"
	refused 73 "$lockfile: "
}

@test "71: no timer for --hold, for slots, and one that cannot be set" {
	fault timer_create:error=EAGAIN -- --hold key
	refused 71 timer
	hold -j 2 key
	hold -j 2 key
	fault timer_create:error=EAGAIN -- -w 9 -j 2 key touch "$ran"
	expect_message 71 'key: cannot be locked: '
	fault timer_settime:error=EINVAL -- -w 9 key touch "$ran"
	expect_message 71 'key: cannot be locked: '
	[ ! -e "$ran" ]
}

@test "71: no descriptor for the claim of an open directory" {
	mkdir -m 700 "$KEYLOCK_DIR"
	chmod 770 "$KEYLOCK_DIR"
	# It is claimed, looked at twice, and handed to the command.
	fault fcntl:error=EMFILE:when=4 "$KEYLOCK_DIR" -- -F key touch "$ran"
	refused 71 touch
	unharmed
}

@test "73: a lockfile that --list cannot look at" {
	hold key
	fault fstat,newfstatat:error=EIO:when=1 "$lockfile" -- --list key
	expect_message 73 "$KEYLOCK_DIR: cannot be read: "
	let_go
}

@test "what only looking needs cannot be seen: the key is taken, or free, all the same" {
	hold key
	fault openat:error=EACCES /proc -- -n -v key true
	expect_message 75 'taken: another process'
	let_go
	# On which file system the directory is.
	fault fstatfs,statfs:error=ENOSYS -- key sh -c 'exit 7'
	expect 7
}

@test "a lock that cannot be let go is told" {
	fault flock:error=EIO:when=2 "$lockfile" -- key sh -c 'exit 7'
	expect 7
	[[ $stderr == 'keylock: key: cannot be let go: '* ]]
	unharmed
}

@test "71: the command's status was taken by another; with -A that is a doubt" {
	fault wait4:error=ECHILD -- key touch "$ran"
	expect_message 71 touch 'status'
	[ -e "$ran" ]
	unharmed
	fault wait4:error=ECHILD -- -A key true
	expect_message 71 true 'status'
	run_keylock -A key true
	expect_message 76 cause=unknown
}

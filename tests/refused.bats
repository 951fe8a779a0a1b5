#!/usr/bin/env bats
# What the system may refuse: each time one clear line with its status, no command without its lock,
# and the key free afterwards. By the real thing where there is one (old kernels and sandboxes by
# seccomp, limits, full and read-only file systems, no /proc, no /run), else by one fault of
# strace(1). All faults of all calls, and what they leave behind, are in proof/faults.sh.
# shellcheck disable=SC2016,SC2030,SC2031,SC2154 # inner shells' own variables; the helper's variables

load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
	lockfile=$KEYLOCK_DIR/key
}

# refusing RULES COMMAND…: run_it where the kernel refuses what RULES say (see refuse.c).
refusing() {
	local refuse
	refuse=$(probe refuse)
	"$refuse" "$1" true 2>/dev/null || skip 'no seccomp here'
	run_it "$refuse" "$@"
}

# fault CALL[,CALL]:HOW [PATH...] -- ARGUMENT...: keylock with these system calls, at these paths if
# any, failing as strace's inject= has it.
fault() {
	local how=$1 at=()
	need strace
	strace -qq -o /dev/null true 2>/dev/null || skip 'may not trace'
	shift
	while [ "$1" != -- ]; do
		at+=(-P "$1")
		shift
	done
	shift
	run_it strace -qq -o /dev/null ${at[@]+"${at[@]}"} -e "trace=${how%%:*}" -e "inject=$how" \
		"$KEYLOCK" "$@"
}

# refused STATUS TEXT...: the last run said so, and ran nothing.
refused() {
	expect_message "$@"
	[ ! -e "$ran" ]
}

# The key is free, and as if nothing had happened.
unharmed() {
	run_keylock -n key true
	expect 0
	[ "$(files)" = "${1:-0}" ]
}

# --- 71: the system refused something ---

@test "a kernel before 3.15: 71, which kernel it needs, and nothing is run" {
	local options before_3_15='fcntl:36-38=22'
	for options in '' -n -s '-w 1' -F -A -R -l '-j 2' '-k other'; do
		# shellcheck disable=SC2086
		refusing "$before_3_15" "$KEYLOCK" $options key touch "$ran"
		refused 71 'Linux 3.15'
	done
	for options in --pin --forget; do
		refusing "$before_3_15" "$KEYLOCK" "$options" key
		refused 71 'Linux 3.15'
	done
	# Later, under a newer kernel, nothing of that is in the way.
	run_keylock -n -j 2 key true
	expect 0
	run_keylock -n -k other key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "71: the command cannot get the lock's descriptor, or no process can be made" {
	local error
	# F_DUPFD of fcntl(2), in the child; for -F in keylock itself.
	for error in 9 16 22 24; do
		refusing "fcntl:0=$error" "$KEYLOCK" key touch "$ran"
		refused 71
		refusing "fcntl:0=$error" "$KEYLOCK" -F key touch "$ran"
		refused 71
	done
	for error in 1 11 12 38; do
		refusing "fork=$error" "$KEYLOCK" -A key touch "$ran"
		refused 71 touch
	done
	[ "$(files)" = 0 ]
	# Without a process in between none is needed.
	refusing 'fork=11' "$KEYLOCK" -F key touch "$ran"
	expect 0
	[ -e "$ran" ]
}

@test "71: no locks are left" {
	local when file
	# The gate, the presence, and the lock; at slots, and at the second one.
	for when in 1 3; do
		fault "fcntl:error=ENOLCK:when=$when" "$lockfile" -- key touch "$ran"
		refused 71 'key: cannot be locked: No lock'
	done
	fault flock:error=ENOLCK:when=1 "$lockfile" -- key touch "$ran"
	refused 71 'key: cannot be locked: No lock'
	for file in "$lockfile" "$lockfile%s2"; do
		fault flock:error=ENOLCK:when=1 "$file" -- -j 2 key touch "$ran"
		refused 71 'key: cannot be locked: No lock'
		[ "$file" != "$lockfile" ] || hold -j 2 key
	done
	let_go
	unharmed
}

@test "71: sleeping fails" {
	hold -j 2 key
	hold -j 2 key
	fault ppoll:error=ENOMEM:when=1 -- -w 9 -j 2 key touch "$ran"
	refused 71 'key: cannot be locked: '
	# One that holds lets go.
	fault ppoll,poll:error=ENOMEM -- --hold other < <(sleep 1)
	expect 71
	run_keylock -n other true
	expect 0
}

@test "71: no timer to be had, or to be set, for who must wait; a free key is had" {
	local how
	refusing 'timer_create=38' "$KEYLOCK" -w 5 key true
	expect 0
	hold key
	# By the real thing, as a sandbox does it, and by a limit of the user's.
	refusing 'timer_create=38' "$KEYLOCK" -w 5 key touch "$ran"
	refused 71 key
	refusing 'timer_create=38' "$KEYLOCK" -n key touch "$ran"
	expect_taken 75
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -w 5 key touch "$0"' "$ran"
	refused 71 key
	[[ $stderr != *memory* ]]
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -n key touch "$0"' "$ran"
	expect_taken 75
	for how in timer_create:error=EAGAIN timer_settime:error=EINVAL; do
		fault "$how" -- -w 9 key touch "$ran"
		refused 71 key
	done
	let_go
	fault timer_create:error=EAGAIN -- --hold key < <(:)
	refused 71 timer
	[[ $stderr != *'No error'* ]]
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -w 5 key touch "$0"' "$ran"
	expect 0
	[ -e "$ran" ]
	[ "$(files)" = 0 ]
}

@test "71: no memory, for whatever it may be, and never a part of what is asked for" {
	local when what long keys=() i
	need_plain
	printf -v long '%0600d' 0
	for i in {1..200}; do
		keys+=(-k "$i")
	done
	hold -s looked
	hold -s looked
	"$KEYLOCK" -q -A doubt sh -c 'kill -9 $$' || :
	for what in 'key true' '-k other key true' '"${keys[@]}" key true' '-j 1000 key true' '--auto true' \
		'--list' '--list --json' '--who looked' '--path key' '-R doubt sh -c exit\ 150' \
		'-n -v looked true' "$long true"; do
		for when in 1 2 3 4 5 6 7 8; do
			eval "fault mmap,mremap,brk:error=ENOMEM:when=$when+ -- $what"
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
	unharmed 2
}

@test "a moment without memory: 71, or the whole key of --auto and the whole list, never a part" {
	local when long what whole
	need_plain
	printf -v long '%020000d' 7
	for what in '-a sh -c "ls \"\$KEYLOCK_DIR\"" "$long"' --help; do
		eval "run_keylock $what"
		expect 0
		whole=$output
		for when in {1..12}; do
			eval "fault mmap,mremap,brk:error=ENOMEM:when=$when -- $what"
			[ "$status" = 71 ] || [ "$output" = "$whole" ]
		done
	done
}

@test "71: no descriptor for looking, and not that nobody holds the key" {
	local limit
	need_plain
	hold key
	# The standard streams, the directory, and its entries or a lockfile.
	for limit in 3 4 5; do
		run_it bash -c "ulimit -n $limit && exec \"\$KEYLOCK\" --who key"
		expect_message 71
		run_it bash -c "ulimit -n $limit && exec \"\$KEYLOCK\" --list"
		expect_message 71
	done
	run_it bash -c 'ulimit -n 20 && exec "$KEYLOCK" --who key'
	expect 0
	[ "$output" = "$holder" ]
	let_go
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

@test "a long key on a small stack: it runs, or one line says why not" {
	local key size
	for size in 20000 60000 100000; do
		printf -v key '%0*d' "$size" 0
		run_it bash -c 'ulimit -c 0; ulimit -s 160 && exec env -i KEYLOCK_DIR="$KEYLOCK_DIR" "$@"' - \
			"$KEYLOCK" "$key" touch "$ran"
		case $status in
		0) rm "$ran" ;;
		71 | 126) [ "$(wc -l <"$err")" = 1 ] ;;
		*) false ;;
		esac
		[ ! -e "$ran" ]
		[ "$(files)" = 0 ]
	done
}

# --- 73: directory and lockfile ---

@test "73: no space for the directory" {
	run_it private_root sh -c 'mount -t tmpfs -o nr_inodes=1 none /mnt &&
		exec "$KEYLOCK" -d /mnt/dir key touch "$0"' "$ran"
	refused 73 /mnt/dir 'No space left'
}

@test "73: a read-only directory, for who would lock; looking goes on" {
	mkdir -m 700 "$KEYLOCK_DIR"
	hold held
	run_it private_root bash -c '
		mount --bind "$KEYLOCK_DIR" /mnt && mount -o remount,bind,ro /mnt || exit 200
		export KEYLOCK_DIR=/mnt
		for options in "new" "held" "-n held" "-s held" "-A new" "-j 2 new" "--pin new" "--forget held"; do
			case $options in
			--*) command=() ;;
			*) command=(touch "$0") ;;
			esac
			"$KEYLOCK" $options "${command[@]}"
			echo "$options: $?"
		done
		"$KEYLOCK" --list | cut -d " " -f 1
	' "$ran"
	[ "$status" != 200 ] || skip 'may not bind here'
	[ ! -e "$ran" ]
	[ "$(grep -c ': 73$' "$out")" = 8 ]
	[ "$(grep -c '^keylock: /mnt.*: Read-only file system' "$err")" = 8 ]
	[ "$(wc -l <"$err")" = 8 ]
	[ "$(tail -n 2 "$out")" = $'KEY\nheld' ]
	let_go
	[ "$(files)" = 0 ]
}

@test "73: neither /run nor /tmp nor /proc; and with --dir it runs" {
	run_it private_root bash -c '
		mount -t tmpfs none /mnt && cp "$KEYLOCK" /mnt/keylock || exit 200
		chroot /mnt /keylock --version || exit 201
		env -i "$(command -v chroot)" /mnt /keylock key /keylock --version; echo "default: $?"
		env -i "$(command -v chroot)" /mnt /keylock -d /dir key /keylock --version; echo "named: $?"
		ls -A /mnt/dir'
	[ "$status" != 200 ] || skip 'may not mount here'
	[ "$status" != 201 ] || skip 'this build is no static one'
	[[ $output == 'keylock '*$'\ndefault: 73\nkeylock '*$'\nnamed: 0' ]]
	[[ $stderr == 'keylock: /'*': cannot be made: No such file or directory'*'-d DIR'* ]]
}

@test "73: directory or lockfile cannot be seen, opened, made, or brought to disk" {
	local how at options open=openat,open
	# fault, at which paths, and options, a line each
	while IFS='|' read -r how at options; do
		# shellcheck disable=SC2086
		eval "fault \"$how\" $at -- $options key touch \"\$ran\""
		expect_message 73 "$KEYLOCK_DIR" || return
		[ ! -e "$ran" ]
		unharmed
	done <<-END
		fstat,newfstatat:error=EIO:when=1|"\$lockfile"|
		fstat,newfstatat:error=EIO:when=1|"\$KEYLOCK_DIR"|
		$open:error=ENOENT:when=2+|"\$KEYLOCK_DIR" "\$lockfile" key|
		$open:error=EIO:when=2+|key|
		newfstatat:error=EIO|key|
		newfstatat:error=EIO|key|-j 2
		newfstatat:error=EIO|key|-n
		fdatasync:error=EIO|"\$lockfile"|-A
		fsync:error=EIO||-A
		openat:error=EIO:when=3|"\$KEYLOCK_DIR"|-A
		pwrite64:error=EIO|"\$lockfile"|-A
		pwrite64:retval=9|"\$lockfile"|-A
		fstat,newfstatat:error=EIO:when=2|"\$lockfile"|-A
	END
	fault newfstatat:error=EIO key -- --pin key
	expect_message 73 "$lockfile: "
	hold key
	fault fstat,newfstatat:error=EIO:when=1 "$lockfile" -- --list key
	expect_message 73 "$KEYLOCK_DIR"
	let_go
}

@test "73: a record that cannot be read or written over; the key stays in doubt" {
	local how
	"$KEYLOCK" -A key sh -c 'kill -9 $$' || :
	for how in '-A pread64:error=EIO:when=1' '-R pwrite64:error=EIO:when=1' \
		'-R pwrite64,ftruncate:error=EIO'; do
		fault "${how#* }" "$lockfile" -- "${how%% *}" key touch "$ran"
		refused 73 "$lockfile: " error
		run_keylock -A key true
		expect_message 76
	done
}

@test "a record that cannot be ended is told, and the status is the command's" {
	local how
	# The record's end, and the lock that is asked for before it.
	for how in ftruncate:error=EIO:when=2 flock:error=EIO:when=2; do
		fault "$how" "$lockfile" -- -A key sh -c 'exit 3'
		expect 3
		[[ $stderr == "keylock: $lockfile: "*error ]]
		run_keylock -A key true
		expect_message 76
		run_keylock --forget key
		expect 0
	done
	fault flock:error=EIO:when=2 "$lockfile" -- key sh -c 'exit 7'
	expect 7
	unharmed
}

# --- it goes on all the same ---

@test "without inotify, and without what sets times, slots are waited for and had" {
	local holders=() i
	for i in 1 2; do
		hold -j 2 key
		holders+=("$holder")
	done
	refusing 'inotify_init1=38,utimensat=38' "$KEYLOCK" -j 2 -w 0.2 key touch "$ran"
	expect_taken 75
	"$(probe refuse)" 'inotify_init1=38,utimensat=38' "$KEYLOCK" -j 2 key mkdir "$ran" 3>&- 4>&- &
	i=$!
	started "$i"
	let_go "${holders[1]}"
	wait_for 20 test -e "$ran"
	wait "$i"
	let_go "${holders[0]}"
	[ "$(files)" = 0 ]
}

@test "no /proc: slots are waited for, and a nested run ends by its time-out" {
	local first
	need_plain
	hold -j 2 key
	first=$holder
	hold -j 2 key
	run_it private_root bash -c 'mount -t tmpfs none /proc || exit 200
		"$KEYLOCK" -j 2 -w 0.3 key touch "$0"; echo "busy: $?"
		"$KEYLOCK" nest "$KEYLOCK" -w 0.1 nest touch "$0"; echo "nested: $?"
		"$KEYLOCK" -A own sh -c "exit 3"; echo "own: $?"' "$ran"
	[ "$status" != 200 ] || skip 'may not mount on /proc here'
	[ ! -e "$ran" ]
	[[ $output == $'busy: 75\nnested: '7[58]$'\nown: 3' ]]
	[ -z "$stderr" ] || [[ $stderr == 'keylock: nest: '* ]]
	let_go "$first"
	let_go
	[ "$(files)" = 0 ]
}

@test "waiting for the command, or for input that has nothing to give yet, goes on" {
	fault rt_sigtimedwait,rt_sigtimedwait_time64:error=EINTR:when=1..3 -- key sh -c 'exit 7'
	expect 7
	fault wait4:error=EINTR:when=1 -- key sh -c 'exit 7'
	expect 7
	fault read:error=EAGAIN:when=1 -- --hold key < <(:)
	expect 0
	unharmed
}

@test "75: the lockfile loses its name again and again; once is nothing" {
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

@test "what only looking needs cannot be seen: the key is taken, or free, all the same" {
	hold key
	fault openat,open:error=EACCES /proc -- -n -v key true
	expect_message 75 'taken: '
	let_go
	# On which file system the directory is.
	fault fstatfs,statfs:error=ENOSYS -- key sh -c 'exit 7'
	expect 7
	unharmed
}

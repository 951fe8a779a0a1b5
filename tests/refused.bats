# What the system may refuse: each time one clear line with its status, no command without its lock,
# and the key free afterwards. By the real thing where there is one (old kernels and sandboxes by
# seccomp, limits, full and read-only file systems, no /proc, no /run), else by one fault of
# strace(1). All faults of all calls, and what they leave behind, are in proof/faults.sh.

load helper

# refusing RULES COMMAND…: run_it where the kernel refuses what RULES say (see refuse.py).
refusing() {
	"$tools/refuse.py" "$1" true 2>/dev/null || skip 'no seccomp here'
	run_it "$tools/refuse.py" "$@"
}

# limited LIMIT WORDS…: keylock WORDS… under this limit of the shell's ulimit.
limited() {
	run_it bash -c "ulimit $1"' && exec "$KEYLOCK" "$@"' - "${@:2}"
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
	run_it strace -qq -o /dev/null "${at[@]}" -e "trace=${how%%:*}" -e "inject=$how" \
		"$KEYLOCK" "${@:2}"
}

# refused STATUS TEXT HOW...: that run, by one of these three or run_keylock, says so, and runs nothing.
refused() {
	"${@:3}"
	expect_message "$1" "$2"
	not_run
}

# is_taken STATUS HOW..., ends STATUS HOW...: it says nothing, or has this status.
is_taken() {
	"${@:2}"
	expect_taken "$1"
	not_run
}

ends() {
	"${@:2}"
	expect "$1"
}

# The key is free, and as if nothing had happened.
unharmed() {
	free key
	[ "$(files)" = "${1:-0}" ]
}

# in_doubt: the record of the key is still there.
in_doubt() {
	run_keylock -A key true
	expect_message 76 "$@"
}

@test "a kernel before 3.15: 71, which kernel it needs, and nothing is run" {
	for words in key '-n key' '-s key' '-w 1 key' '-F key' '-A key' '-l key' '-j 2 key' \
		'-k other key' '--pin key' '--forget key'; do
		[[ $words == --* ]] || words+=" touch $ran"
		refused 71 'Linux 3.15' refusing fcntl:36-38=22 "$KEYLOCK" $words
	done
	free -j 2 key
	free -k other key
	[ "$(files)" = 0 ]
}

@test "71: no descriptor, no process for the command" {
	need_plain
	# With 10 or fewer the lock cannot get a descriptor of 10 or above.
	for limit in {3..10}; do
		refused 71 '' limited "-n $limit" key touch "$ran"
	done
	ends 0 limited '-n 24' key true
	# F_DUPFD of fcntl(2), in the child; for -F in keylock itself.
	for error in 9 16 22 24; do
		refused 71 '' refusing "fcntl:0=$error" "$KEYLOCK" key touch "$ran"
		refused 71 '' refusing "fcntl:0=$error" "$KEYLOCK" -F key touch "$ran"
	done
	for error in 1 11 12 38; do
		refused 71 touch refusing "fork=$error" "$KEYLOCK" -A key touch "$ran"
	done
	[ "$(files)" = 0 ]
	ends 0 refusing 'fork=11' "$KEYLOCK" -F key true
	public_keylock
	run_it as_user 61111 bash -c 'ulimit -u 1; exec "$0" key touch "$KEYLOCK_DIR/ran"' \
		"$public/keylock"
	expect_message 71
	[ "$(files)" = 0 ]
}

@test "71: no descriptor for looking, and not that nobody holds the key" {
	need_plain
	hold key
	# The standard streams, the directory, and its entries or a lockfile.
	for limit in 3 4 5; do
		limited "-n $limit" --who key
		expect_message 71
		limited "-n $limit" --list
		expect_message 71
	done
	ends 0 limited '-n 20' --who key
	[ "$output" = "$holder" ]
}

@test "71: no locks are left, or sleeping fails" {
	# The gate, the presence, and the lock; at slots, and at the second one.
	for how in fcntl:error=ENOLCK:when=1 fcntl:error=ENOLCK:when=3 flock:error=ENOLCK:when=1; do
		refused 71 'key: cannot be locked: No lock' fault "$how" "$lockfile" -- key touch "$ran"
	done
	refused 71 'key: cannot be locked: No lock' fault flock:error=ENOLCK:when=1 "$lockfile" -- -j 2 key touch "$ran"
	hold -j 2 key
	refused 71 'key: cannot be locked: No lock' fault flock:error=ENOLCK:when=1 "$lockfile%s2" -- -j 2 key touch "$ran"
	hold -j 2 key
	refused 71 'key: cannot be locked: ' fault ppoll:error=ENOMEM:when=1 -- -w 9 -j 2 key touch "$ran"
	ends 71 fault ppoll,poll:error=ENOMEM -- --hold other < <(sleep 1)
	free other
}

@test "71: no timer to be had, or to be set, for who must wait; a free key is had" {
	none=timer_create=38
	ends 0 refusing "$none" "$KEYLOCK" -w 5 key true
	# A timer counts as a signal that waits to be delivered.
	ends 0 limited '-i 0' -w 5 key true
	hold key
	refused 71 key refusing "$none" "$KEYLOCK" -w 5 key touch "$ran"
	is_taken 75 refusing "$none" "$KEYLOCK" -n key touch "$ran"
	refused 71 'ulimit -i' limited '-i 0' -w 5 key touch "$ran"
	[[ $stderr == *key* && $stderr != *memory* ]]
	is_taken 75 limited '-i 0' -n key touch "$ran"
	for how in timer_create:error=EAGAIN timer_settime:error=EINVAL; do
		refused 71 key fault "$how" -- -w 9 key touch "$ran"
	done
	let_go
	refused 71 timer fault timer_create:error=EAGAIN -- --hold key < <(echo)
	[[ $stderr != *'No error'* ]]
}

@test "71: no memory, for good or for a moment, and never a part of a list or a line" {
	keys=()
	need_plain
	printf -v long '%0600d' 0
	for i in {1..200}; do
		keys+=(-k "$i")
	done
	hold -s looked
	hold -s looked
	"$KEYLOCK" -q -A doubt sh -c 'kill -9 $$' || :
	for what in 'key true' '-k other key true' '"${keys[@]}" key true' '-j 1000 key true' \
		'--auto true' --list '--list --json' '--who looked' '--path key' \
		'-R doubt sh -c exit\ 150' '-n -v looked true' "$long true"; do
		for when in {1..8}; do
			eval "fault mmap,mremap,brk:error=ENOMEM:when=$when+ -- $what"
			case $status in
			0 | 75 | 150) ;;
			71) [[ ${stderr##*$'\n'} == 'keylock: '*memory* ]] ;;
			# Of the C library's own start.
			127) [[ $stderr == *librar* || $stderr == *glibc* ]] ;;
			*) false ;;
			esac
			# Of what is for programs each line counts by itself.
			[ "$status" = 0 ] || [ -z "$output" ] || [[ $what == *json && $output == *"}" ]]
		done
	done
	unharmed 2
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

@test "71: the command's status was taken by another; with -A that is a doubt" {
	fault wait4:error=ECHILD -- key touch "$ran"
	expect_message 71 touch 'status'
	rm "$ran"
	unharmed
	fault wait4:error=ECHILD -- -A key true
	expect_message 71 true 'status'
	in_doubt cause=unknown
}

@test "73: the directory or the lockfile cannot be made" {
	refused 73 "$KEYLOCK_DIR/dir" run_keylock -d "$KEYLOCK_DIR/dir" key touch "$ran"
	# /proc is a directory that nobody can make a file in, root included.
	refused 73 /proc run_keylock -d /proc key touch "$ran"
	for dir in /mnt /mnt/dir; do
		run_it private_root sh -c 'mount -t tmpfs -o nr_inodes=1 none /mnt &&
			exec "$KEYLOCK" -d "$1" key touch "$0"' "$ran" "$dir"
		expect_message 73 "$dir" 'No space left'
		not_run
	done
}

@test "73: a read-only directory, for who would lock; looking goes on" {
	mkdir -m 700 "$KEYLOCK_DIR"
	hold held
	run_it private_root bash -c '
		mount --bind "$KEYLOCK_DIR" /mnt && mount -o remount,bind,ro /mnt || exit 200
		export KEYLOCK_DIR=/mnt
		for words in new held "-n held" "-s held" "-A new" "-j 2 new" "--pin new" \
			"--forget held"; do
			[ "${words#--}" != "$words" ] || words="$words touch $0"
			"$KEYLOCK" $words
			echo "$words: $?"
		done
		"$KEYLOCK" --list | cut -d " " -f 1
	' "$ran"
	[ "$status" != 200 ] || skip 'may not bind here'
	[ ! -e "$ran" ]
	[ "$(grep -c ': 73$' "$out")" = 8 ]
	[ "$(grep -c '^keylock: /mnt.*: Read-only file system' "$err")" = 8 ]
	[ "$(wc -l <"$err")" = 8 ]
	[ "$(tail -n 2 "$out")" = $'KEY\nheld' ]
}

@test "73: neither /run nor /tmp nor /proc; and with --dir it runs" {
	run_it private_root bash -c '
		mount -t tmpfs none /mnt && cp "$KEYLOCK" /mnt/keylock || exit 200
		chroot /mnt /keylock --version || exit 201
		chroot=$(command -v chroot)
		env -i "$chroot" /mnt /keylock key /keylock --version; echo "default: $?"
		env -i "$chroot" /mnt /keylock -d /dir key /keylock --version
		ls -A /mnt/dir'
	[ "$status" != 200 ] || skip 'may not mount here'
	[ "$status" != 201 ] || skip 'this build is no static one'
	[[ $output == 'keylock '*$'\ndefault: 73\nkeylock '* && $output != *$'\nkey' ]]
	[[ $stderr == 'keylock: /'*': cannot be made or opened: No such file or directory'*'-d DIR'* ]]
}

@test "73: directory or lockfile cannot be seen, opened, made, or brought to disk" {
	open=openat,open stat=fstat,newfstatat
	while IFS='|' read -r how at words; do
		refused 73 "$KEYLOCK_DIR" fault "$how" $at -- $words key touch "$ran"
		unharmed
	done <<-END
		$stat:error=EIO:when=1|$lockfile|
		$stat:error=EIO:when=1|$KEYLOCK_DIR|
		$open:error=ENOENT:when=2+|$KEYLOCK_DIR $lockfile key|
		$open:error=EIO:when=2+|key|
		fdatasync:error=EIO|$lockfile|-A
		fsync:error=EIO||-A
		openat:error=EIO:when=3|$KEYLOCK_DIR|-A
		pwrite64:error=EIO|$lockfile|-A
		pwrite64:retval=9|$lockfile|-A
		$stat:error=EIO:when=2|$lockfile|-A
	END
	for words in '' '-j 2' -n; do
		refused 71 key fault newfstatat:error=EIO key -- $words key touch "$ran"
		unharmed
	done
	fault newfstatat:error=EIO key -- --pin key
	expect_message 71 key
	hold key
	fault $stat:error=EIO:when=1 "$lockfile" -- --list key
	expect_message 73 "$KEYLOCK_DIR"
}

@test "P8 a record that cannot be read, written over or ended: told, and the key stays in doubt" {
	for how in ftruncate:error=EIO:when=2 flock:error=EIO:when=2; do
		ends 3 fault "$how" "$lockfile" -- -A key sh -c 'exit 3'
		[[ $stderr == "keylock: $lockfile: "*error ]]
		in_doubt
		gives 0 --forget key
	done
	ends 7 fault flock:error=EIO:when=2 "$lockfile" -- key sh -c 'exit 7'
	unharmed
	"$KEYLOCK" -A key sh -c 'kill -9 $$' || :
	for how in '-A pread64:error=EIO:when=1' '-R pwrite64:error=EIO:when=1' \
		'-R pwrite64,ftruncate:error=EIO'; do
		fault "${how#* }" "$lockfile" -- "${how%% *}" key touch "$ran"
		expect_message 73 "$lockfile: " error
		in_doubt
	done
}

@test "no /proc: slots are waited for, and a nested run ends by its time-out" {
	need_plain
	hold -j 2 key
	hold -j 2 key
	run_it private_root bash -c 'mount -t tmpfs none /proc || exit 200
		"$KEYLOCK" -j 2 -w 0.3 key touch "$0"; echo "busy: $?"
		"$KEYLOCK" nest "$KEYLOCK" -w 0.1 nest touch "$0"; echo "nested: $?"
		"$KEYLOCK" -A own sh -c "exit 3"; echo "own: $?"' "$ran"
	[ "$status" != 200 ] || skip 'may not mount on /proc here'
	[[ $output == $'busy: 75\nnested: '7[58]$'\nown: 3' ]]
	[ -z "$stderr" ] || [[ $stderr == 'keylock: nest: '* ]]
}

@test "what is interrupted, has nothing to give yet, or is needed only for looking stops nothing" {
	for how in rt_sigtimedwait,rt_sigtimedwait_time64:error=EINTR:when=1..3 \
		wait4:error=EINTR:when=1 fstatfs,statfs:error=ENOSYS; do
		ends 7 fault "$how" -- key sh -c 'exit 7'
	done
	ends 0 fault read:error=EAGAIN:when=1 -- --hold key < <(echo)
	unharmed
	hold key
	fault openat,open:error=EACCES /proc -- -n -v key true
	expect_message 75 'taken: '
}

@test "75: the lockfile loses its name again and again; once is nothing" {
	lost=newfstatat:error=ENOENT
	is_taken 75 fault $lost key -- -w 0.1 key touch "$ran"
	is_taken 75 fault $lost key -- -w 0.1 -j 2 key touch "$ran"
	ends 0 fault $lost:when=2 key -- -j 2 key true
	hold -j 2 key
	is_taken 75 fault $lost key%s2 -- -w 0.1 -j 2 key touch "$ran"
	let_go
	unharmed
}

# What the system may refuse, each by the real thing: old kernels and sandboxes (by seccomp),
# limits, full and read-only file systems, no /proc, no /run. Call by call, see proof/faults.sh.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2154
load helper

setup() {
	keylock_setup
	ran=$BATS_TEST_TMPDIR/ran
}

not_run() {
	[ ! -e "$ran" ]
}

# refusing RULES COMMAND…: run_it where the kernel refuses what RULES say (see refuse.c).
refusing() {
	local refuse
	refuse=$(probe refuse)
	"$refuse" "$1" true 2>/dev/null || skip 'no seccomp here'
	run_it "$refuse" "$@"
}

# The answers of the kernel: EINVAL, ENOSYS, EPERM, EAGAIN, EMFILE.
readonly before_3_15='fcntl:36-38=22'

# --- old kernels, sandboxes ---

@test "a kernel before 3.15: 71, which kernel it needs, and nothing is run" {
	local options
	for options in '' -n -s '-w 1' -F -A -R -l '-j 2' '-k other'; do
		# shellcheck disable=SC2086
		refusing "$before_3_15" "$KEYLOCK" $options key touch "$ran"
		expect_message 71 'Linux 3.15'
		not_run
	done
	refusing "$before_3_15" "$KEYLOCK" --pin key
	expect_message 71 'Linux 3.15'
	refusing "$before_3_15" "$KEYLOCK" --forget key
	expect_message 71 'Linux 3.15'
	# Later, under a newer kernel, nothing of that is in the way.
	run_keylock -n -j 2 key true
	expect 0
	run_keylock -n -k other key true
	expect 0
	[ "$(files)" = 0 ]
}

@test "where the command cannot get the lock's descriptor: 71, and nothing is run" {
	local error
	# F_DUPFD of fcntl(2), in the child; for -F in keylock itself.
	for error in 9 16 22 24; do
		refusing "fcntl:0=$error" "$KEYLOCK" key touch "$ran"
		expect_message 71
		not_run
		refusing "fcntl:0=$error" "$KEYLOCK" -F key touch "$ran"
		expect_message 71
		not_run
		[ "$(files)" = 0 ]
	done
}

@test "where no process can be made: 71, and nothing is run" {
	local error
	for error in 1 11 12 38; do
		refusing "fork=$error" "$KEYLOCK" -A key touch "$ran"
		expect_message 71 touch
		not_run
		[ "$(files)" = 0 ]
	done
	# Without a process in between none is needed.
	refusing 'fork=11' "$KEYLOCK" -F key touch "$ran"
	expect 0
	[ -e "$ran" ]
}

@test "without timers a taken key is 71, and a free one is had" {
	refusing 'timer_create=38' "$KEYLOCK" -w 5 key true
	expect 0
	hold key
	refusing 'timer_create=38' "$KEYLOCK" -w 5 key touch "$ran"
	expect_message 71 key
	refusing 'timer_create=38' "$KEYLOCK" -n key touch "$ran"
	expect_taken 75
	not_run
	let_go
	[ "$(files)" = 0 ]
}

@test "without inotify, and without what sets times, slots are waited for and had" {
	local holders=() i
	for i in 1 2; do
		hold -j 2 key
		holders+=("$holder")
	done
	refusing 'inotify_init1=38,utimensat=38' "$KEYLOCK" -j 2 -w 0.2 key touch "$ran"
	expect_taken 75
	not_run
	"$(probe refuse)" 'inotify_init1=38,utimensat=38' "$KEYLOCK" -j 2 key mkdir "$ran" 3>&- 4>&- &
	i=$!
	started "$i"
	wait_for 20 test -e "$KEYLOCK_DIR/key"
	let_go "${holders[1]}"
	wait_for 20 test -e "$ran"
	wait "$i"
	let_go "${holders[0]}"
	[ "$(files)" = 0 ]
}

# --- limits ---

@test "no timer left for this user: a taken key is 71, not a wait without end" {
	hold key
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -w 5 key touch "$0"' "$ran"
	expect_message 71 key
	not_run
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -n key touch "$0"' "$ran"
	expect_taken 75
	let_go
	run_it bash -c 'ulimit -i 0 && exec "$KEYLOCK" -w 5 key touch "$0"' "$ran"
	expect 0
	[ -e "$ran" ]
	[ "$(files)" = 0 ]
}

@test "no memory: 71, and nothing is run" {
	local keys i
	need prlimit # a shell under so small a limit has no memory itself
	# Enough for the program itself, and not for the slots' or the keys' table.
	run_it prlimit --as=400000 "$KEYLOCK" -V
	[ "$status" = 0 ] || skip 'this build needs more memory to start'
	run_it prlimit --as=400000 "$KEYLOCK" -j 1000 key touch "$ran"
	expect_message 71 key
	not_run
	keys=()
	for i in {1..2000}; do
		keys+=(-k "$i")
	done
	run_it prlimit --as=800000 "$KEYLOCK" "${keys[@]}" key touch "$ran"
	expect_message 71 keys
	not_run
	[ "$(files)" = 0 ]
}

@test "no memory for a list: 71, and not a part of it" {
	need prlimit
	mkdir -m 700 "$KEYLOCK_DIR"
	(cd "$KEYLOCK_DIR" && touch {1..3000} && chmod 1700 -- *)
	run_it prlimit --as=400000 "$KEYLOCK" -V
	[ "$status" = 0 ] || skip 'this build needs more memory to start'
	run_it prlimit --as=1500000 "$KEYLOCK" --list
	expect_message 71
	run_keylock --list
	expect 0
	[ "$(wc -l <"$out")" = 3001 ]
}

@test "no descriptor for looking: 71, and not that nobody holds the key" {
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
		not_run
		[ "$(files)" = 0 ]
	done
}

# --- file systems ---

@test "no space for the directory: 73" {
	run_it private_root sh -c 'mount -t tmpfs -o nr_inodes=1 none /mnt &&
		exec "$KEYLOCK" -d /mnt/dir key touch "$0"' "$ran"
	expect_message 73 /mnt/dir 'No space left'
	not_run
}

@test "a read-only directory: 73 for who would lock, and looking goes on" {
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
	not_run
	[ "$(grep -c ': 73$' "$out")" = 8 ]
	[ "$(grep -c '^keylock: /mnt/.*: Read-only file system$' "$err")" = 8 ]
	[ "$(wc -l <"$err")" = 8 ]
	[ "$(tail -n 2 "$out")" = $'KEY\nheld' ]
	let_go
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
	not_run
	[[ $output == $'busy: 75\nnested: '7[58]$'\nown: 3' ]]
	[ -z "$stderr" ] || [[ $stderr == 'keylock: nest: '* ]]
	let_go "$first"
	let_go
	[ "$(files)" = 0 ]
}

@test "neither /run nor /tmp nor /proc: 73, and with --dir it runs" {
	run_it private_root bash -c '
		mount -t tmpfs none /mnt && cp "$KEYLOCK" /mnt/keylock || exit 200
		chroot /mnt /keylock --version || exit 201
		env -i "$(command -v chroot)" /mnt /keylock key /keylock --version; echo "default: $?"
		env -i "$(command -v chroot)" /mnt /keylock -d /dir key /keylock --version; echo "named: $?"
		ls -A /mnt/dir'
	[ "$status" != 200 ] || skip 'may not mount here'
	[ "$status" != 201 ] || skip 'this build is no static one'
	[[ $output == 'keylock '*$'\ndefault: 73\nkeylock '*$'\nnamed: 0' ]]
	[[ $stderr == 'keylock: /'*': cannot be made: No such file or directory' ]]
}

#!/usr/bin/env bats
# Looking: --list, --json, --who, and what keylock says of a holder: while waiting at a terminal,
# with -v, and with -W. Looking takes no lock, so it must not be in anybody's way.
# shellcheck disable=SC2016,SC2030,SC2031,SC2086,SC2153,SC2154 # words are split on purpose

load helper

setup() {
	keylock_setup
	need python3
	ran=$BATS_TEST_TMPDIR/ran said=$BATS_TEST_TMPDIR/said
}

# Waits with these options for a key; returns when it is in line. Sets waiter.
queue() {
	"$KEYLOCK" "$@" true >"$said.out" 2>"$said" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

# column NUMBER OF_KEY: prints a column, counted from 1, of the list's row of that key.
column() {
	awk -F '  +' -v key="$2" -v column="$1" '$1 == key { print $column }' "$out"
}

# ask EXPRESSION: what Python makes of it for the JSON objects, a list named rows.
ask() {
	python3 -c 'import json, os, sys
with open(sys.argv[1], encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
print(eval(sys.argv[2]))' "$out" "$1"
}

# rows_are MEMBERS VALUES: of all rows these members, as Python prints them.
rows_are() {
	local members=${1// /'"], row["'}
	[ "$(ask '[(row["'"$members"'"],) for row in rows]')" = "$2" ]
}

list_of() {
	local list
	printf -v list ', %s' "$@"
	printf '[%s]' "${list#, }"
}

sorted() {
	printf '%s\n' "$@" | sort -n
}

# held_by NAME PID...: --who, --list and -v say that these hold "key", of which NAME is the command.
held_by() {
	local name=$1
	shift
	run_keylock --who key
	expect 0
	[ ! -s "$err" ]
	[ "$(sort -n "$out")" = "$(sorted "$@")" ]
	run_keylock --list
	expect 0
	[ "$(column 2 key)" = held ]
	[ "$(column 4 key | tr , '\n' | sort -n)" = "$(sorted "$@")" ]
	[[ $(column 7 key) == "$name "* ]]
	run_keylock -n -v key true
	expect_message 75 'key: taken: pid ' " ($name)"
	[ $# != 1 ] || expect_message 75 "pid $1 "
}

nobody_holds() {
	run_keylock --who "$@"
	expect_taken 1
	run_keylock --list "$@"
	expect_taken 0
}

no_control_bytes() {
	! LC_ALL=C tr -d '\n' <"$out" | grep -q '[[:cntrl:]]'
}

another_user() {
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m "$1" "$public/dir"
	export KEYLOCK_DIR=$public/dir
}

# --- the list ---

@test "where nobody holds anything --list prints nothing, --who is 1, and nothing is made" {
	local what
	nobody_holds key
	for what in '' --json 'a b'; do
		run_keylock --list $what
		expect_taken 0
	done
	[ ! -e "$KEYLOCK_DIR" ]
	run_keylock key true
	nobody_holds key
	[ "$(files)" = 0 ]
	# A file alone is no holder, nor is one who has another key.
	"$KEYLOCK" --pin key >"$ran"
	hold another
	run_keylock --who key
	expect_taken 1
	let_go
}

@test "--list: a row for each key, or for those named, in columns" {
	local long='a clé that is much longer than the title of its column' long_holder
	hold -s "$long"
	long_holder=$holder
	hold key
	run_keylock --list
	expect 0
	[ ! -s "$err" ]
	[[ $(head -n 1 "$out") =~ ^KEY\ +STATE\ +MODE\ +PID\ +SINCE\ +WAITING\ +COMMAND$ ]]
	[ "$(column 2 key) $(column 3 key) $(column 4 key) $(column 6 key)" = "held exclusive $holder 0" ]
	[ "$(column 2 "$long") $(column 3 "$long") $(column 4 "$long")" = "held shared $long_holder" ]
	[[ $(column 7 key) == 'sh -c '*'exec 8<>'* ]]
	# Cells begin below their titles; what is longer pushes the rest of its row to the right.
	output=$(python3 -c 'import re, sys
with open(sys.argv[1], encoding="utf-8") as file:
    titles, *rows = file.read().splitlines()
starts = [title.start() for title in re.finditer("[A-Z]+", titles)]
for row in rows:
    print(*[row[at - 2:at] == "  " and row[at] != " " for at in starts[1:]])' "$out")
	[ "$output" = $'False False False False False False\nTrue True True True True True' ]
	run_keylock --list key other
	[ "$(wc -l <"$out")" = 2 ]
	[ "$(column 4 key)" = "$holder" ]
	run_keylock --list --json key "$long"
	rows_are key "[('key',), ('$long',)]"
	let_go "$long_holder"
	let_go
	nobody_holds key
}

@test "--list: what is no lockfile and names that no key has are passed over; garbage in a file is in doubt" {
	local name
	hold here
	: >"$ran"
	for name in no-utf8 lines; do
		"$KEYLOCK" --pin "$name" >>"$ran"
	done
	head -c 5000 /dev/urandom >"$KEYLOCK_DIR/no-utf8"
	printf 'keylock1 pid=\e[31m since= cause=\nkeylock1' >"$KEYLOCK_DIR/lines"
	# None is what a key or a slot would be called.
	for name in % %4 %4x %zz %00 'not a name' .x %s2 %41 a%2e a%s a%s1 a%s02 a%s1001 a%s2x \
		"$(printf 'x%.0s' {1..201})" "$(printf 'x%.0s' {1..250})"; do
		echo something >"$KEYLOCK_DIR/$name"
	done
	mkdir "$KEYLOCK_DIR/folder"
	mkfifo "$KEYLOCK_DIR/fifo"
	ln -s /etc/passwd "$KEYLOCK_DIR/link"
	ln -s nowhere "$KEYLOCK_DIR/dangling"
	run_keylock --list
	expect 0
	[ ! -s "$err" ]
	[ "$(wc -l <"$out")" = 4 ]
	no_control_bytes
	[ "$(column 4 here)" = "$holder" ]
	[[ $(column 2 no-utf8) == abandoned* ]]
	run_keylock --list --json
	expect 0
	[ "$(ask 'sorted((row["key"], row["state"], row.get("cause"), row["since"]) for row in rows)[1:]')" = \
		"[('lines', 'abandoned', 'unreadable', None), ('no-utf8', 'abandoned', 'unreadable', None)]" ]
	# These are names of keys and slots.
	for name in a %2Ea a%s2 a%s1000 "$(printf 'x%.0s' {1..200})"; do
		echo something >"$KEYLOCK_DIR/$name"
	done
	run_keylock --list --json
	[ "$(wc -l <"$out")" = 8 ]
	[ "$(files)" = 29 ]
	let_go
}

@test "a directory that may not be read: --list says so, keys that are named are found" {
	another_user 1733
	local try=(as_user 61111 "$public/keylock")
	hold key
	hold -j 3 slots
	run_it "${try[@]}" --list
	expect_message 73 "$KEYLOCK_DIR" 'cannot be read'
	run_it "${try[@]}" --who slots
	expect 0
	[ "$output" = "$holder" ]
	run_it "${try[@]}" --who other
	expect 1
	run_it "${try[@]}" --list key other
	expect 0
	[[ $(wc -l <"$out") == 2 && $(column 2 key) == held ]]
}

@test "--list: keys in doubt and pinned keys" {
	local path
	run_keylock -A doubt sh -c 'kill -KILL $$'
	path=$("$KEYLOCK" --pin pinned)
	run_keylock --list
	expect 0
	[ "$(sed -nE 's/^(pinned) +/\1 /p' "$out" | tr -s ' ')" = 'pinned pinned - - - 0 -' ]
	[ "$(column 2 doubt) $(column 7 doubt)" = 'abandoned (signal-9) sh' ]
	[[ $(column 5 doubt) =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$ ]]
	run_keylock --list --json
	rows_are 'state mode pids waiting command' \
		"[('abandoned', None, [], 0, 'sh'), ('pinned', None, [], 0, None)]"
	[ "$(ask 'rows[0]["cause"], rows[1]["path"]')" = "('signal-9', '$path')" ]
	# Held, they are shown as held.
	hold -R doubt
	run_keylock --list doubt
	[ "$(column 2 doubt)" = held ]
	let_go
}

@test "--list: SINCE is when the key was had, also where its file is older" {
	local path before since
	path=$("$KEYLOCK" --pin key)
	touch -d '2001-02-03 04:05:06' "$path"
	before=$(date +%s)
	hold key
	run_keylock --list --json
	since=$(ask 'rows[0]["since"]')
	[[ $since =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$ ]]
	since=$(date -d "$since" +%s)
	[[ $since -ge $((before - 1)) && $since -le $(date +%s) ]]
	# Who waits, is refused or looks does not change it.
	touch -d '2001-02-03 04:05:06 UTC' "$path"
	queue key
	run_keylock -n key true
	expect 75
	run_keylock --list key
	[ "$(column 5 key)" = 2001-02-03T04:05:06Z ]
	let_go
	wait "$waiter"
}

@test "--list --json: a key of any bytes comes back as it was; --list makes control bytes visible, a row is a line" {
	local key=$'\x80a\xff "\\\n\x01\x7f\xc3\xa9\t\e[31m \xed\xa0\x80 \xc0\xaf \xf0\x9f\x94\x92 \xf4\x90\x80\x80'
	local what
	key+=$' \xe0\x80\x80 \xf0\x8f\xbf\xbf \xe2\x82'
	mkfifo "$ran.fifo"
	"$KEYLOCK" "$key" sh -c $'exec 8<>"$0"; echo >"$0.begun"; read -r _ <&8\n: \e]0;title\a' \
		"$ran.fifo" 3>&- 4>&- &
	holder=$!
	wait_for 20 test -e "$ran.fifo.begun"
	queue "$key"
	run_keylock --list --json
	expect 0
	no_control_bytes
	rows_are 'state mode slot pids waiting waiters path' \
		"[('held', 'exclusive', 1, [$holder], 1, [$waiter], '$("$KEYLOCK" --path "$key")')]"
	[ "$(ask 'sorted(rows[0])')" = \
		"['command', 'key', 'mode', 'path', 'pids', 'since', 'slot', 'state', 'waiters', 'waiting']" ]
	printf %s "$key" >"$ran"
	[ "$(ask 'rows[0]["key"].encode("utf-8", "surrogateescape") == open("'"$ran"'", "rb").read()')" = True ]
	for what in '' named; do
		run_keylock --list ${what:+"$key"}
		[ "$(wc -l <"$out")" = 2 ]
		no_control_bytes
		[[ $output == *"  $holder  "* ]]
	done
	echo 1<>"$ran.fifo"
	wait "$holder" "$waiter"
}

@test "--list: a key whose file name is a hash is unknown until it is asked for" {
	local key
	printf -v key '%0300d' 7
	hold "$key"
	run_keylock --list --json
	rows_are 'key pids' "[(None, [$holder])]"
	run_keylock --list --json "$key" other
	rows_are key "[('$key',)]"
	run_keylock --list "$key"
	# As much of it as a terminal is to be asked for.
	[[ $output == *"${key:0:200}"*...\ \ held* ]]
	run_keylock --who "$key"
	[ "$output" = "$holder" ]
	let_go
}

# --- who holds, who waits ---

@test "P1 alone: whatever is killed, --who, --list and -v name who has the key: keylock, its command, its daemon" {
	local mode start daemon
	for mode in -x -s; do
		hold "$mode" key
		held_by sh "$holder"
		kill -KILL "$holder"
		ended_with "$holder" 137
		held_by sh "$held"
		kill -KILL "$held"
		wait_for 20 is_dead "$held"
		nobody_holds key
		# A child of the command's, and one that has lost its parent.
		for start in '"$@" &' '("$@" &);'; do
			rm -f "$ran" "$ran.fifo"
			mkfifo "$ran.fifo"
			"$KEYLOCK" "$mode" key sh -c "$start"' exec 8<>"$0.fifo"; read -r _ <&8; :' "$ran" \
				sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 1000' "$ran" 3>&- 4>&- &
			holder=$!
			wait_for 20 test -e "$ran"
			daemon=$(cat "$ran")
			held=$(tr -d ' ' <"/proc/$holder/task/$holder/children")
			held_by sh "$holder"
			kill -KILL "$holder" "$held"
			wait_for 20 is_dead "$held"
			held_by sleep "$daemon"
			kill -KILL "$daemon"
			wait_for 20 is_dead "$daemon"
			nobody_holds key
		done
	done
}

@test "P2 free at once: a daemon that the command left behind is no holder, but with -l it is; with -F the command is" {
	local daemon='sleep 1000 & echo $! >"$0"'
	run_keylock key sh -c "$daemon" "$ran"
	in_state "$(cat "$ran")" RSD
	nobody_holds key
	run_keylock -l key sh -c "$daemon" "$ran"
	held_by sleep "$(cat "$ran")"
	kill -KILL "$(cat "$ran")"
	wait_for 20 is_dead "$(cat "$ran")"
	"$KEYLOCK" -F key sleep 1000 3>&- 4>&- &
	wait_for 20 grep -q sleep "/proc/$!/comm"
	held_by sleep "$!"
}

@test "flock(1) that holds a pinned key is a holder, for an unknown time" {
	need flock
	local path flock
	path=$("$KEYLOCK" --pin key)
	touch -d '-3 hours' "$path"
	flock "$path" sleep 1000 3>&- 4>&- &
	flock=$!
	# Not tried with keylock -n, which would set the file's time.
	wait_for 20 eval '! flock -n "$path" true'
	held_by flock "$flock"
	[[ $stderr != *'held for'* ]]
	run_keylock --list --json
	rows_are 'mode since' "[('exclusive', None)]"
	run_keylock -n -W 2h key true
	expect_taken 75
}

@test "another user's key in a shared directory, and two readers, the one with the lower pid having come second" {
	local early
	another_user 1777
	local try=(as_user 65534:65534 "$public/keylock")
	mkfifo "$public/go" "$public/end"
	sh -c 'read -r _ <"$0/go"; exec "$KEYLOCK" -s key sh -c "exec 8<>\"\$0/end\"; read -r _ <&8" "$0"' \
		"$public" 3>&- 4>&- &
	early=$!
	hold -s key
	echo >"$public/go"
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 2 ]'
	# Who may not look into processes is told who took the lock.
	run_it "${try[@]}" --who key
	expect 0
	[ "$(sort -n "$out")" = "$(sorted "$early" "$holder")" ]
	run_it "${try[@]}" --list
	[ "$(column 2 key) $(column 3 key)" = 'held shared' ]
	let_go
	run_it "${try[@]}" --who key
	[ "$output" = "$early" ]
	echo 1<>"$public/end"
	wait "$early"
	run_it "${try[@]}" --list
	expect_taken 0
}

@test "seventy readers are all seen, and who waits, in the order of the line, so that one can be cancelled" {
	local i holders=() waiters=()
	mkfifo "$BATS_TEST_TMPDIR/end"
	for i in {1..70}; do
		"$KEYLOCK" -s key sh -c 'exec 8<>"$0"; read -r _ <&8' "$BATS_TEST_TMPDIR/end" 3>&- 4>&- &
		holders+=($!)
	done
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 70 ]'
	for i in -x -s -s -x -x; do
		queue "$i" key
		waiters+=("$waiter")
	done
	held_by sh "${holders[@]}"
	expect_message 75 ' and 69 more, held for '
	kill "${waiters[2]}"
	ended_with "${waiters[2]}" 143
	unset 'waiters[2]'
	run_keylock --list
	[ "$(column 3 key) $(column 6 key)" = 'shared 4' ]
	run_keylock --list --json
	rows_are 'mode waiting waiters' "[('shared', 4, $(list_of "${waiters[@]}"))]"
	# Who they are is unknown where it cannot be seen.
	if [ "$(id -u)" = 0 ] && [ -z "${KEYLOCK_INSTRUMENTED-}" ]; then
		run_it private_root sh -c 'mount -t tmpfs none /proc && exec "$KEYLOCK" --list --json'
		rows_are 'waiting waiters' '[(4, None)]'
	fi
	exec 8<>"$BATS_TEST_TMPDIR/end"
	printf '\n%.0s' {1..70} >&8
	for i in "${holders[@]}" "${waiters[@]}"; do
		ended_with "$i" 0
	done
	exec 8>&-
	[ "$(files)" = 0 ]
}

# --- in nobody's way ---

@test "P9 never stuck: a dead file system that some program has open holds up no look and no waiter" {
	local server private what
	[ -w /dev/fuse ] || skip 'needs /dev/fuse'
	server=$(probe deadfuse)
	hold key
	# The mount is gone with its namespace, and what hangs on it goes on when the server is killed.
	private_root bash -c 'mount -t tmpfs none /mnt && mkdir /mnt/dead && "$0" /mnt/dead' "$server" \
		>"$said" 2>&1 3>&- 4>&- &
	private=$!
	wait_for 20 eval '[ -s "$said" ] || is_dead $private'
	[ "$(cat "$said")" = dead ] || skip "cannot mount FUSE: $(cat "$said")"
	# The last two wait longer than a second, for the look for ancestors and for cycles.
	for what in '--list' '--list --json' '--who key' '-n -v key true' '-n -r key true' \
		'-w 1.5 -k a key true' "a $KEYLOCK -w 1.5 key true"; do
		run_it timeout -s KILL 15 env KEYLOCK_KEY=other "$KEYLOCK" $what
		[[ $status = 0 || $status = 75 ]]
	done
	kill -KILL "$(pgrep -P "$private" || echo "$private")" 2>/dev/null || :
	let_go
}

@test "P9 never stuck: another program's locks on all bytes end no look late, and keep waiters as a holder does" {
	local path kind what keeper
	path=$("$KEYLOCK" --pin key)
	for kind in posix ofd; do
		: >"$said"
		python3 -c 'import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "posix": fcntl.lockf(fd, fcntl.LOCK_EX)
else: fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
print("locked", flush=True)
time.sleep(600)' "$path" "$kind" >"$said" 3>&- 4>&- &
		keeper=$!
		wait_for 20 test -s "$said"
		for what in --list '--list --json' '--who key'; do
			run_it timeout -s KILL 15 "$KEYLOCK" $what
			[[ $status = 0 || $status = 1 ]]
		done
		for what in '-v -n' '-n -s' '-w 0.2' '-v -w 0.2' '-n -j 2' '-w 0.2 -j 2'; do
			run_it timeout -s KILL 15 "$KEYLOCK" $what key touch "$ran"
			expect 75
			[ ! -e "$ran" ]
		done
		"$KEYLOCK" key touch "$ran" 3>&- 4>&- &
		wait_for 20 blocked "$path"
		kill -KILL "$keeper"
		wait $!
		rm "$ran"
	done
}

@test "a reader that has gone is no reason for a message; that nothing can be written is one" {
	local what
	hold key
	mkfifo "$BATS_TEST_TMPDIR/pipe"
	for what in --list '--list --json' '--who key' '--path key' --help --version; do
		# A pipe whose reader is gone for sure.
		run_it sh -c 'exec 7<>"$0" 8>"$0" 7<&-; exec "$@" >&8 8>&-' "$BATS_TEST_TMPDIR/pipe" \
			"$(probe inherit)" -d "$KEYLOCK" $what
		expect 141
		[ ! -s "$err" ]
		run_it sh -c 'exec "$KEYLOCK" "$@" >/dev/full' - $what
		expect_message 71 'standard output: '
	done
	let_go
}

@test "P9 never stuck: beside looks in a loop no -n on a free key fails" {
	local rounds=200 failed=0 lister i
	[ -z "${KEYLOCK_LONG-}" ] || rounds=2000
	hold another
	# A look that fails ends it.
	while "$KEYLOCK" --list && "$KEYLOCK" --list key && { "$KEYLOCK" --who key || [ $? = 1 ]; }; do
		echo >>"$said"
	done >"$BATS_TEST_TMPDIR/list" 3>&- 4>&- &
	lister=$!
	started "$lister"
	wait_for 20 test -s "$said"
	for ((i = 0; i < rounds; i++)); do
		"$KEYLOCK" -n key true || failed=$((failed + 1))
	done
	kill -KILL "$lister"
	ended_with "$lister" 137
	echo "$failed of $rounds failed beside $(wc -l <"$said") looks"
	[ "$failed" = 0 ]
	let_go
}

# --- what is said of the holder ---

@test "-v: for whom it waits and for how long that has the key; how long the wait was, also where there was none" {
	local age
	# On a tmpfs, which keeps times that no calendar has.
	[ ! -w /dev/shm ] || KEYLOCK_DIR=$(mktemp -d /dev/shm/keylock-test.XXXXXX)
	test_folders+=("$KEYLOCK_DIR")
	hold key
	for age in @9223372036854775807= @-70000000000= \
		'-183 seconds=held for 3m' '-50 hours=held for 2d2h'; do
		touch -d "${age%=*}" "$KEYLOCK_DIR/key"
		held_by sh "$holder"
		[[ $stderr == *"${age#*=}"* ]]
	done
	run_keylock -w 0.05 -v key true
	expect 75
	[ "$(sed "s/pid $holder (sh), held for 2d2h/whom/" "$err")" = \
		$'keylock: key: waiting for whom\nkeylock: key: not had in time: whom' ]
	queue -v key
	wait_for 20 grep -q "^keylock: key: waiting for pid $holder (sh), held for " "$said"
	let_go
	wait "$waiter"
	[ ! -s "$said.out" ]
	[[ $(sed 1d "$said") =~ ^keylock:\ key:\ had,\ took\ [0-9]+\.[0-9]{3}\ s$ ]]
	run_keylock -v key true
	expect 0
	[[ $stderr == 'keylock: key: had, took 0.'*' s' ]]
}

# on_terminal N OPTION...: waits with these options for "key" on a terminal of its own, the Nth; the
# command writes "ran"; what the terminal shows is in $said.N. Sets waiter, that of script(1).
on_terminal() {
	local words number=$1
	shift
	need script
	printf -v words ' %q' "$KEYLOCK" "$@"
	script -qefc "exec$words key echo ran" /dev/null >"$said.$number" 2>&1 3>&- 4>&- &
	waiter=$!
	wait_for 20 eval '"$KEYLOCK" --list --json key | grep -q "\"waiting\":$number"'
}

@test "a wait at a terminal, for a key or a slot, is told once, after a second; with -q or into a file it is not" {
	local slots stays quiet silent
	for slots in '' '-j 2'; do
		[ -z "$slots" ] || { hold $slots key && stays=$holder; }
		hold $slots key
		touch -d '-1 hour' "$KEYLOCK_DIR"/key*
		on_terminal 1 $slots
		told=$waiter
		on_terminal 2 -q $slots
		quiet=$waiter
		"$KEYLOCK" $slots key true >"$out" 2>"$err" 3>&- 4>&- &
		silent=$!
		wait_for 20 has_ticket "$silent"
		wait_for 20 grep -qE "^keylock: key: waiting for pid ($holder|${stays:-0}) \(sh\), held for 1h0m" "$said.1"
		sleep 1.5 # what is to be seen is that nothing more comes
		let_go
		wait "$told" "$quiet" "$silent"
		tr -d '\r' <"$said.1" | tee "$said"
		[[ $(wc -l <"$said") == 2 && $(tail -n 1 "$said") == ran ]]
		[ "$(tr -d '\r' <"$said.2")" = ran ]
		[[ ! -s $out && ! -s $err ]]
	done
	let_go "$stays"
	hold key
	run_it script -qefc "$KEYLOCK -q -n key true" /dev/null
	expect_taken 75
	run_it script -qefc "$KEYLOCK -n key true" /dev/null
	expect 75
	[[ $output == "keylock: key: taken: pid $holder (sh), held for "* ]]
	let_go
}

@test "-W: a key that is held for longer is told, into a file too" {
	local option told
	"$KEYLOCK" --pin key >"$ran"
	touch -d '-3 hours' "$KEYLOCK_DIR/key"
	hold key
	# Just had is not long held, though the file was old.
	run_keylock -n -W 2h key true
	expect_taken 75
	touch -d '-3 hours' "$KEYLOCK_DIR/key"
	while IFS='|' read -r status_wanted option told; do
		run_keylock $option key true
		case $told in
		'') expect_taken "$status_wanted" ;;
		*) expect_message "$status_wanted" "key: $told: pid $holder (sh), held for 3h0m" ;;
		esac
	done <<-'CASES'
		75|-n -W 2h|taken
		75|-n --warn-held 2h|taken
		0|-n -W 7200 -E 0|taken
		75|-w 0.05 -W 2h|not had in time
		75|-n -W 4h|
		75|-w 0.05 --warn-held=4h|
		75|-q -n -W 2h|
	CASES
	let_go
	# A key that is free is not told of, however old its file.
	touch -d '-3 hours' "$KEYLOCK_DIR/key"
	run_keylock -n -W 2h key echo ran
	expect 0
	[[ $output == ran && ! -s $err ]]
	for option in '' x -1 1x; do
		run_keylock -n -W "$option" key true
		expect_message 64 '-W'
	done
}

# --- file systems and containers ---

# looks MOUNT: has a script mount something on /mnt, in a mount namespace of its own, and looks
# at keys there.
looks() {
	local work=$BATS_TEST_TMPDIR name lines i=0
	rm -f "$work"/{go,command}
	cat >"$work/looks" <<-'SCRIPT'
		work=$1
		eval "$2" >"$work/mounting" 2>&1 || { cat "$work/mounting"; echo cannot mount; exit 0; }
		export KEYLOCK_DIR=/mnt/keys
		[ ! -d /mnt/volume ] || KEYLOCK_DIR=/mnt/volume/keys
		mkfifo "$work/go"
		exec 8<>"$work/go"
		"$KEYLOCK" key sh -c 'echo $$ >"$0/command"; read -r _' "$work" <&8 &
		holder=$!
		until [ -s "$work/command" ]; do sleep 0.01; done
		"$KEYLOCK" key true &
		waiter=$!
		until grep -q OFDLCK.*WRITE /proc/$waiter/fdinfo/* 2>/dev/null; do sleep 0.01; done
		for pid in "$holder" "$(cat "$work/command")"; do
			{
				"$KEYLOCK" --who key
				"$KEYLOCK" --list --json
				"$KEYLOCK" -n -v key true 2>&1
			} | sed "s/\<$pid\>/it/; s/\[$waiter\]/[waiter]/"
			kill -KILL "$holder" 2>/dev/null && wait "$holder" 2>/dev/null
		done
		echo >&8
		wait "$waiter"
		"$KEYLOCK" --who key || echo "free: $?"
		"$KEYLOCK" --list
		ls -A "$KEYLOCK_DIR"
		umount /mnt
	SCRIPT
	run_it private_root sh "$work/looks" "$work" "$1"
	expect 0
	[[ $output != *'cannot mount' ]] || skip "cannot mount: ${output%%$'\n'*}"
	mapfile -t lines <"$out"
	[ "${#lines[@]}" = 7 ]
	for i in 0 3; do
		[ "${lines[i]}" = it ]
		[[ ${lines[i + 1]} == *'"state":"held","mode":"exclusive","slot":1,"pids":[it],'* ]]
		[[ ${lines[i + 1]} == *'"waiting":1,"waiters":[waiter],"command":"sh -c '* ]]
		[[ ${lines[i + 2]} == 'keylock: key: taken: pid it (sh), held for '* ]]
	done
	[ "${lines[6]}" = 'free: 1' ]
}

# looks_on TYPE SIZE [THEN]: on a file system in a file.
looks_on() {
	need_root
	need "mkfs.$1"
	looks 'truncate -s '"$2"' "$work/image" && mkfs.'"$1"' -q "$work/image" && mount -o loop "$work/image" /mnt'"${3-}"
}

@test "looking on tmpfs, and on overlayfs as in a container" {
	looks 'mount -t tmpfs none /mnt'
	# The upper folder must not itself be on an overlay, as it may be in a container.
	looks 'mount -t tmpfs none /mnt && mkdir /mnt/lower /mnt/upper /mnt/work /mnt/all &&
		mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/all &&
		mount --move /mnt/all /mnt'
}

@test "looking on ext4" {
	looks_on ext4 16M
}

@test "looking on xfs" {
	looks_on xfs 320M
}

@test "looking on a subvolume of btrfs" {
	need btrfs
	looks_on btrfs 128M ' && btrfs subvolume create /mnt/volume'
}

@test "a file of the same path and number in another mount namespace is another key's" {
	local one=$BATS_TEST_TMPDIR/first two=$BATS_TEST_TMPDIR/second
	cat >"$BATS_TEST_TMPDIR/one" <<-'SCRIPT'
		mount -t tmpfs none /mnt && mkdir -m 700 /mnt/keys || exit 9
		export KEYLOCK_DIR=/mnt/keys
		"$KEYLOCK" key sh -c 'echo $PPID >"$0.new"; mv "$0.new" "$0"; until [ -e "$0.go" ]; do sleep 0.01; done' "$1" &
		until [ -e "$1" ] && [ -e "$2" ]; do sleep 0.01; done
		"$KEYLOCK" --who key >"$1.who"
		until [ -e "$2.who" ]; do sleep 0.01; done
		: >"$1.go"
		wait
	SCRIPT
	private_root sh "$BATS_TEST_TMPDIR/one" "$one" "$two" 3>&- 4>&- &
	private_root sh "$BATS_TEST_TMPDIR/one" "$two" "$one" 3>&- 4>&- &
	wait_for 20 eval '[ -e "$one.go" ] && [ -e "$two.go" ]'
	wait
	cmp "$one" "$one.who"
	cmp "$two" "$two.who"
}

@test "in a container of its own processes: held is held, and no stranger is named" {
	hold key
	cat >"$BATS_TEST_TMPDIR/container" <<-'SCRIPT'
		mount -t proc proc /proc || exit 200
		# Processes enough for the holder's number to be one here, too.
		(echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid)
		sleep 600 &
		"$KEYLOCK" --list --json
		"$KEYLOCK" --who key
		echo "who: $?"
		"$KEYLOCK" -n -v key true
		echo "run: $?"
		kill $! 2>/dev/null
	SCRIPT
	run_it private_root unshare --pid --fork sh "$BATS_TEST_TMPDIR/container" "$holder"
	[ "$status" != 200 ] || skip 'may not mount /proc here'
	[[ $output == *'"state":"held","mode":'*',"slot":1,"pids":[]'* ]]
	[[ $output == *$'\nwho: 0\nrun: 75' ]]
	[[ $stderr == *'keylock: key: held, but by whom cannot be seen'* ]]
	[[ $stderr == *'keylock: key: taken: another process, held for '* ]]
	let_go
}

@test "where keylock was killed the command is named by its own name, not by its child's" {
	"$KEYLOCK" key sh -c 'sleep 1000 & wait; :' 3>&- 4>&- &
	wait_for 20 eval '[ -n "$("$KEYLOCK" --who key)" ]'
	kill -KILL $!
	wait_for 20 is_dead $!
	run_keylock -n -v key true
	expect_message 75 "pid $("$KEYLOCK" --who key) (sh)"
}

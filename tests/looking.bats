# Looking: --list, --json, --who, and what keylock says of a holder: while waiting at a terminal,
# with -v, and with -W. Looking takes no lock, so it must not be in anybody's way.

load helper

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

sorted() {
	printf '%s\n' "$@" | sort -n
}

# held_by NAME PID...: --who, --list and -v say that these hold "key", of which NAME is the command.
held_by() {
	local name=$1
	shift
	gives 0 --who key
	[ ! -s "$err" ]
	[ "$(sort -n "$out")" = "$(sorted "$@")" ]
	gives 0 --list
	[ "$(column 2 key)" = held ]
	[ "$(column 4 key | tr , '\n' | sort -n)" = "$(sorted "$@")" ]
	[[ $(column 7 key) == "$name "* ]]
	run_keylock -n -v key true
	expect_message 75 'key: taken: pid ' " ($name)"
	[ $# != 1 ] || expect_message 75 "pid $1 "
}

nobody_holds() {
	quiet 1 --who "$@"
	quiet 0 --list "$@"
}

no_control_bytes() {
	! LC_ALL=C tr -d '\n' <"$out" | grep -q '[[:cntrl:]]'
}

# --- the list ---

@test "where nobody holds anything --list prints nothing, --who is 1, and nothing is made" {
	nobody_holds key
	for what in '' --json 'a b'; do
		quiet 0 --list $what
	done
	[ ! -e "$KEYLOCK_DIR" ]
	run_keylock key true
	nobody_holds key
	[ "$(files)" = 0 ]
	gives 0 --pin key
	hold another
	quiet 1 --who key
}

@test "--list: a row for each key, or for those named, in columns" {
	long='a clé that is much longer than the title of its column'
	hold -s "$long"
	long_holder=$holder
	hold key
	gives 0 --list
	[ ! -s "$err" ]
	[[ $(head -n 1 "$out") =~ ^KEY\ +STATE\ +MODE\ +PID\ +SINCE\ +WAITING\ +COMMAND$ ]]
	[ "$(column 2 key) $(column 3 key) $(column 4 key) $(column 6 key)" = "held exclusive $holder 0" ]
	[ "$(column 2 "$long") $(column 3 "$long") $(column 4 "$long")" = "held shared $long_holder" ]
	[[ $(column 7 key) == 'sh '*/obey' '* ]]
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
	hold here
	for name in no-utf8 lines; do
		"$KEYLOCK" --pin "$name" >"$work/path"
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
	gives 0 --list
	[ ! -s "$err" ]
	[ "$(wc -l <"$out")" = 4 ]
	no_control_bytes
	[ "$(column 4 here)" = "$holder" ]
	[[ $(column 2 no-utf8) == abandoned* ]]
	gives 0 --list --json
	[ "$(ask 'sorted((row["key"], row["state"], row.get("cause"), row["since"]) for row in rows)[1:]')" = \
		"[('lines', 'abandoned', 'unreadable', None), ('no-utf8', 'abandoned', 'unreadable', None)]" ]
	# These are names of keys and slots.
	for name in a %2Ea a%s2 a%s1000 "$(printf 'x%.0s' {1..200})"; do
		echo something >"$KEYLOCK_DIR/$name"
	done
	run_keylock --list --json
	[ "$(wc -l <"$out")" = 8 ]
	[ "$(files)" = 29 ]
}

@test "a directory that may not be read: --list says so, keys that are named are found" {
	public_keylock 1733
	try=(as_user 61111 "$public/keylock")
	hold key
	hold -j 3 slots
	run_it "${try[@]}" --list
	expect_message 73 "$KEYLOCK_DIR" 'cannot be read'
	it_prints "$holder" "${try[@]}" --who slots
	it_gives 1 "${try[@]}" --who other
	it_gives 0 "${try[@]}" --list key other
	[[ $(wc -l <"$out") == 2 && $(column 2 key) == held ]]
}

@test "--list: keys in doubt and pinned keys" {
	run_keylock -A doubt sh -c 'kill -KILL $$'
	path=$("$KEYLOCK" --pin pinned)
	gives 0 --list
	[ "$(sed -nE 's/^(pinned) +/\1 /p' "$out" | tr -s ' ')" = 'pinned pinned - - - 0 -' ]
	[ "$(column 2 doubt) $(column 7 doubt)" = 'abandoned (signal-9) sh' ]
	[[ $(column 5 doubt) =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$ ]]
	run_keylock --list --json
	rows_are 'state mode pids waiting command' \
		"[('abandoned', None, [], 0, 'sh'), ('pinned', None, [], 0, None)]"
	[ "$(ask 'rows[0]["cause"], rows[1]["path"]')" = "('signal-9', '$path')" ]
	hold -R doubt
	run_keylock --list doubt
	[ "$(column 2 doubt)" = held ]
}

@test "--list: SINCE is when the key was had, also where its file is older" {
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
	line_up key true
	gives 75 -n key true
	run_keylock --list key
	[ "$(column 5 key)" = 2001-02-03T04:05:06Z ]
}

@test "--list --json: a key of any bytes comes back as it was; --list makes control bytes visible, a row is a line" {
	key=$'\x80a\xff "\\\n\x01\x7f\xc3\xa9\t\e[31m \xed\xa0\x80 \xc0\xaf \xf0\x9f\x94\x92 \xf4\x90\x80\x80'
	key+=$' \xe0\x80\x80 \xf0\x8f\xbf\xbf \xe2\x82'
	hold_by "$KEYLOCK" "$key" sh -c $'"$@"; : \e]0;title\a' -
	line_up "$key" true
	gives 0 --list --json
	no_control_bytes
	rows_are 'state mode slot pids waiting waiters path' \
		"[('held', 'exclusive', 1, [$holder], 1, [$waiter], '$("$KEYLOCK" --path "$key")')]"
	[ "$(ask 'sorted(rows[0])')" = \
		"['command', 'key', 'mode', 'path', 'pids', 'since', 'slot', 'state', 'waiters', 'waiting']" ]
	printf %s "$key" >"$work/key"
	[ "$(ask 'rows[0]["key"].encode("utf-8", "surrogateescape") == open("'"$work/key"'", "rb").read()')" = True ]
	for what in '' named; do
		run_keylock --list ${what:+"$key"}
		[ "$(wc -l <"$out")" = 2 ]
		no_control_bytes
		[[ $output == *"  $holder  "* ]]
	done
}

@test "--list: a key whose file name is a hash is unknown until it is asked for" {
	printf -v key '%0300d' 7
	hold "$key"
	run_keylock --list --json
	rows_are 'key pids' "[(None, [$holder])]"
	run_keylock --list --json "$key" other
	rows_are key "[('$key',)]"
	run_keylock --list "$key"
	[[ $output == *"${key:0:200}"*...\ \ held* ]]
	prints "$holder" --who "$key"
}

# --- who holds, who waits ---

@test "P1 alone: whatever is killed, --who, --list and -v name who has the key: keylock, its command, its daemon" {
	for mode in -x -s; do
		# A child of the command's, and one that has lost its parent.
		for start in : 'sleep 1000 & echo $!' '(sleep 1000 & echo $!)'; do
			hold "$mode" key
			told "$holder" 0 "$start"
			daemon=$(cat "$work/told.said")
			held_by sh "$holder"
			kill_hard "$holder"
			# By its own name, not by its child's.
			[[ $start == '('* ]] || held_by sh "$held"
			kill_hard "$held"
			[ -z "$daemon" ] || held_by sleep "$daemon"
			[ -z "$daemon" ] || kill_hard "$daemon"
			nobody_holds key
			free key
		done
	done
}

@test "P2 free at once: a daemon that the command left behind is no holder, but with -l it is; with -F the command is" {
	leave_daemon : key
	nobody_holds key
	leave_daemon : -l key
	held_by sleep "$daemon"
	kill_hard "$daemon"
	"$KEYLOCK" -F key sleep 1000 3>&- 4>&- &
	wait_for 20 grep -q sleep "/proc/$!/comm"
	held_by sleep "$!"
}

@test "flock(1) that holds a pinned key is a holder, for an unknown time" {
	path=$("$KEYLOCK" --pin key)
	touch -d '-3 hours' "$path"
	flock "$path" sleep 1000 3>&- 4>&- &
	flock=$!
	# keylock -n would set the file's time.
	wait_for 20 eval '! flock -n "$path" true'
	held_by flock "$flock"
	[[ $stderr != *'held for'* ]]
	run_keylock --list --json
	rows_are 'mode since' "[('exclusive', None)]"
	quiet 75 -n -W 2h key true
}

@test "another user's key in a shared directory, and two readers, the one with the lower pid having come second" {
	public_keylock
	try=(as_user 65534:65534 "$public/keylock")
	mkfifo "$public/go" "$public/end"
	sh -c 'read -r _ <"$0/go"; exec "$KEYLOCK" -s key sh -c "read -r _ <\"\$0/end\"" "$0"' "$public" 3>&- 4>&- &
	early=$!
	hold -s key
	echo >"$public/go"
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 2 ]'
	# Who may not look into processes is told who took the lock.
	it_gives 0 "${try[@]}" --who key
	[ "$(sort -n "$out")" = "$(sorted "$early" "$holder")" ]
	run_it "${try[@]}" --list
	[ "$(column 2 key) $(column 3 key)" = 'held shared' ]
	let_go
	it_prints "$early" "${try[@]}" --who key
	echo >"$public/end"
	wait "$early"
	it_quiet 0 "${try[@]}" --list
}

@test "seventy readers are all seen, and who waits, in the order of the line, so that one can be cancelled" {
	holders=() waiters=()
	mkfifo "$work/end"
	for i in {1..70}; do
		"$KEYLOCK" -s key sh -c 'exec 8<>"$work/end"; read -r _ <&8' 3>&- 4>&- &
		holders+=($!)
	done
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 70 ]'
	for i in -x -s -s -x -x; do
		line_up "$i" key true
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
	printf -v list ', %s' "${waiters[@]}"
	rows_are 'mode waiting waiters' "[('shared', 4, [${list#, }])]"
	if [ "$(id -u)" = 0 ] && [ -z "${KEYLOCK_INSTRUMENTED-}" ]; then
		run_it private_root sh -c 'mount -t tmpfs none /proc && exec "$KEYLOCK" --list --json'
		rows_are 'waiting waiters' '[(4, None)]'
	fi
	exec 8<>"$work/end"
	printf '\n%.0s' {1..70} >&8
	for i in "${holders[@]}" "${waiters[@]}"; do
		ended_with "$i" 0
	done
	exec 8>&-
}

# --- in nobody's way ---

@test "P9 never stuck: a dead file system that some program has open holds up no look and no waiter" {
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
}

@test "P9 never stuck: another program's locks on all bytes end no look late, and keep waiters as a holder does" {
	for kind in posix writer=all; do
		keep $kind
		for what in --list '--list --json' '--who key'; do
			run_it timeout -s KILL 15 "$KEYLOCK" $what
			[[ $status = 0 || $status = 1 ]]
		done
		for what in '-v -n' '-n -s' '-w 0.2' '-v -w 0.2' '-n -j 2' '-w 0.2 -j 2'; do
			it_gives 75 timeout -s KILL 15 "$KEYLOCK" $what key touch "$ran"
		done
		not_run
		"$KEYLOCK" key touch "$served" 3>&- 4>&- &
		waiter=$!
		wait_for 20 blocked "$lockfile"
		stop_keeping
		ended_with "$waiter" 0
		rm "$served"
	done
}

@test "a reader that has gone is no reason for a message; that nothing can be written is one" {
	hold key
	mkfifo "$work/pipe"
	for what in --list '--list --json' '--who key' '--path key' --help --version; do
		# A pipe whose reader is gone for sure.
		run_it sh -c 'exec 7<>"$0" 8>"$0" 7<&-; exec "$@" >&8 8>&-' "$work/pipe" \
			"$tools/inherit.py" -d "$KEYLOCK" $what
		expect 141
		[ ! -s "$err" ]
		it_fails 71 'standard output: ' sh -c 'exec "$KEYLOCK" "$@" >/dev/full' - $what
	done
}

@test "P9 never stuck: beside looks in a loop no -n on a free key fails" {
	rounds=$(size 200 2000) failed=0
	hold another
	while "$KEYLOCK" --list && "$KEYLOCK" --list key && { "$KEYLOCK" --who key || [ $? = 1 ]; }; do
		echo >>"$said"
	done >"$work/list" 3>&- 4>&- &
	lister=$!
	wait_for 20 test -s "$said"
	for ((i = 0; i < rounds; i++)); do
		"$KEYLOCK" -n key true || failed=$((failed + 1))
	done
	kill_hard "$lister"
	echo "$failed of $rounds failed beside $(wc -l <"$said") looks"
	[ "$failed" = 0 ]
}

# --- what is said of the holder ---

@test "-v: for whom it waits and for how long that has the key; how long the wait was, also where there was none" {
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
	gives 75 -w 0.05 -v key true
	[ "$(sed "s/pid $holder (sh), held for 2d2h/whom/" "$err")" = \
		$'keylock: key: waiting for whom\nkeylock: key: not had in time: whom' ]
	line_up -v key true >"$said.out" 2>"$said"
	wait_for 20 grep -q "^keylock: key: waiting for pid $holder (sh), held for " "$said"
	let_go
	wait "$waiter"
	[ ! -s "$said.out" ]
	[[ $(sed 1d "$said") =~ ^keylock:\ key:\ had,\ took\ [0-9]+\.[0-9]{3}\ s$ ]]
	gives 0 -v key true
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
	for slots in '' '-j 2'; do
		[ -z "$slots" ] || { hold $slots key && stays=$holder; }
		hold $slots key
		touch -d '-1 hour' "$KEYLOCK_DIR"/key*
		on_terminal 1 $slots
		told=$waiter
		on_terminal 2 -q $slots
		quiet=$waiter
		line_up $slots key true >"$out" 2>"$err"
		silent=$waiter
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
	it_quiet 75 script -qefc "$KEYLOCK -q -n key true" /dev/null
	it_gives 75 script -qefc "$KEYLOCK -n key true" /dev/null
	[[ $output == "keylock: key: taken: pid $holder (sh), held for "* ]]
}

@test "-W: a key that is held for longer is told, into a file too" {
	gives 0 --pin key
	touch -d '-3 hours' "$KEYLOCK_DIR/key"
	hold key
	# Just had is not long held, though the file was old.
	quiet 75 -n -W 2h key true
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
	touch -d '-3 hours' "$KEYLOCK_DIR/key"
	prints ran -n -W 2h key echo ran
	for option in '' x -1 1x; do
		fails 64 '-W' -n -W "$option" key true
	done
}

# --- file systems and containers ---

# looks MOUNT: has a script mount something on /mnt, in a mount namespace of its own, and looks
# at keys there.
looks() {
	local lines i
	rm -f "$work"/{go,command}
	cat >"$work/looks" <<-'SCRIPT'
		eval "$1" >"$work/mounting" 2>&1 || { cat "$work/mounting"; echo cannot mount; exit 0; }
		export KEYLOCK_DIR=/mnt/keys
		[ ! -d /mnt/volume ] || KEYLOCK_DIR=/mnt/volume/keys
		mkfifo "$work/go"
		exec 8<>"$work/go"
		"$KEYLOCK" key sh -c 'echo $$ >"$work/command"; read -r _' <&8 &
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
	it_gives 0 private_root sh "$work/looks" "$1"
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
	one=$work/first two=$work/second
	need_private_root
	cat >"$work/one" <<-'SCRIPT'
		mount -t tmpfs none /mnt && mkdir -m 700 /mnt/keys || exit 9
		export KEYLOCK_DIR=/mnt/keys
		"$KEYLOCK" key sh -c 'echo $PPID >"$0.new"; mv "$0.new" "$0"; until [ -e "$0.go" ]; do sleep 0.01; done' "$1" &
		until [ -e "$1" ] && [ -e "$2" ]; do sleep 0.01; done
		"$KEYLOCK" --who key >"$1.who"
		until [ -e "$2.who" ]; do sleep 0.01; done
		: >"$1.go"
		wait
	SCRIPT
	private_root sh "$work/one" "$one" "$two" 3>&- 4>&- &
	private_root sh "$work/one" "$two" "$one" 3>&- 4>&- &
	wait_for 20 eval '[ -e "$one.go" ] && [ -e "$two.go" ]'
	wait
	cmp "$one" "$one.who"
	cmp "$two" "$two.who"
}

@test "in a container of its own processes: held is held, and no stranger is named" {
	hold key
	cat >"$work/container" <<-'SCRIPT'
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
	run_it private_root unshare --pid --fork sh "$work/container" "$holder"
	[ "$status" != 200 ] || skip 'may not mount /proc here'
	[[ $output == *'"state":"held","mode":'*',"slot":1,"pids":[]'* ]]
	[[ $output == *$'\nwho: 0\nrun: 75' ]]
	[[ $stderr == *'keylock: key: held, but by whom cannot be seen'* ]]
	[[ $stderr == *'keylock: key: taken: another process, held for '* ]]
}

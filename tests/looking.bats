#!/usr/bin/env bats
# Looking: --list, --json, --who, and what keylock says of a holder: while waiting at a terminal, with
# -v, and with -W. Looking takes no lock, so it must not be in anybody's way.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

load helper

# Waits with these options for a key; returns when it is in line. Sets waiter.
queue() {
	"$KEYLOCK" "$@" true 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
}

# column NUMBER OF_KEY: prints a column, counted from 1, of the list's row of that key.
column() {
	awk -F '  +' -v key="$2" -v column="$1" '$1 == key { print $column }' "$out"
}

# again COMMAND...: runs COMMAND on what the last run wrote, which stays as it is.
again() {
	cp "$out" "$BATS_TEST_TMPDIR/again"
	output=$("$@" <"$BATS_TEST_TMPDIR/again" 2>&1) || :
	printf '%s\n' "$output"
}

# no_control_bytes: in what the last run wrote.
no_control_bytes() {
	again env LC_ALL=C grep '[[:cntrl:]]'
	[ -z "$output" ]
}

# ask EXPRESSION: what Python makes of it for the JSON objects, a list named rows.
ask() {
	python3 -c 'import json, sys
with open(sys.argv[1], encoding="ascii" if "ascii" in sys.argv else "utf-8") as lines:
    rows = [json.loads(line) for line in lines]
print(eval(sys.argv[2]))' "$out" "$@"
}

# --- the list ---

@test "--list of nothing prints nothing, makes nothing, and is 0" {
	local option
	for option in '' --json; do
		run_keylock --list ${option:+"$option"}
		expect 0
		[[ ! -s $out && ! -s $err && ! -e $KEYLOCK_DIR ]]
	done
	# In an empty directory as well, and where the key asked for is free.
	run_keylock a true
	[ -d "$KEYLOCK_DIR" ]
	run_keylock --list
	expect_taken 0
	run_keylock --list a b
	expect_taken 0
	[ "$(files)" = 0 ]
}

@test "--list: a row for each key, in columns as wide as the widest entry" {
	local long='a key that is much longer than the title of its column' short_holder long_holder
	hold k
	short_holder=$holder
	hold -s "$long"
	long_holder=$holder
	run_keylock --list
	expect 0
	[ ! -s "$err" ]
	[ "$(wc -l <"$out")" = 3 ]
	[[ $(head -n 1 "$out") =~ ^KEY\ +STATE\ +MODE\ +PID\ +SINCE\ +WAITING\ +COMMAND$ ]]
	[ "$(column 2 k) $(column 3 k) $(column 4 k) $(column 6 k)" = "held exclusive $short_holder 0" ]
	[ "$(column 2 "$long") $(column 3 "$long") $(column 4 "$long")" = "held shared $long_holder" ]
	[[ $(column 7 k) == 'sh -c exec 8<>'* ]]
	# Each column begins in the same place in all rows, two blanks after the widest entry before it.
	again awk '
		NR == 1 { for (i = 2; i <= length($0); i++)
			if (substr($0, i - 1, 2) ~ /^ [A-Z]/) start[++n] = i }
		{ for (i = 1; i <= n; i++) {
			if (substr($0, start[i] - 2, 3) !~ /^  [^ ]/) print "row", NR, "column", i
			if (substr($0, start[i] - 3, 1) != " ") tight[i] = 1 } }
		END { for (i = 1; i <= n; i++) if (!tight[i]) print "column", i, "is too wide"
			print n }'
	[ "$output" = 6 ]
	let_go "$short_holder"
	let_go "$long_holder"
	run_keylock --list
	expect_taken 0
}

@test "--list: characters of UTF-8 are one column wide" {
	need python3
	local first second
	hold 'clé'
	first=$holder
	hold abcdefg
	second=$holder
	run_keylock --list
	again env LC_ALL=C.UTF-8 python3 -c 'import re, sys
for line in sys.stdin: print(re.search("STATE|held", line).start() + 1)'
	[ "$output" = $'10\n10\n10' ]
	let_go "$first"
	let_go "$second"
}

@test "--list KEY...: those keys only" {
	local one two
	hold one
	one=$holder
	hold two
	two=$holder
	run_keylock --list two three
	expect 0
	[ "$(wc -l <"$out")" = 2 ]
	[ "$(column 4 two)" = "$two" ]
	run_keylock --list --json two one two
	[ "$(wc -l <"$out")" = 2 ]
	let_go "$one"
	let_go "$two"
}

@test "--list: control bytes of keys and commands are made visible, a row is a line" {
	local key=$'new\nline \e[31mred\ttab \x7f' first
	"$KEYLOCK" --hold -w 20 "$key" < <(exec sleep 600) >"$BATS_TEST_TMPDIR/locked" 3>&- 4>&- &
	first=$!
	wait_for 20 test -s "$BATS_TEST_TMPDIR/locked"
	mkfifo "$BATS_TEST_TMPDIR/fifo"
	"$KEYLOCK" plain sh -c $'read -r _ <"$0"\n: \e]0;title\a' "$BATS_TEST_TMPDIR/fifo" 3>&- 4>&- &
	wait_for 20 eval '[ -n "$("$KEYLOCK" --who plain)" ]'
	run_keylock --list
	expect 0
	[ "$(wc -l <"$out")" = 3 ]
	no_control_bytes
	grep -q 'new.*line.*red.*tab' "$out"
	run_keylock --list --json
	[ "$(wc -l <"$out")" = 2 ]
	no_control_bytes
	run_keylock --list "$key"
	[[ $output == *"  $first  "* ]]
}

@test "--list: garbage in a lockfile and what is no lockfile are passed over" {
	local work=$BATS_TEST_TMPDIR key
	hold here
	for key in no-utf8 lines; do
		"$KEYLOCK" --pin "$key" >"$work/path"
	done
	head -c 5000 /dev/urandom >"$KEYLOCK_DIR/no-utf8"
	printf 'keylock1 pid=\e[31m since= cause=\nkeylock1' >"$KEYLOCK_DIR/lines"
	: >"$KEYLOCK_DIR/.hidden"
	: >"$KEYLOCK_DIR/not a name"
	: >"$KEYLOCK_DIR/%zz"
	: >"$KEYLOCK_DIR/%"
	mkdir "$KEYLOCK_DIR/folder"
	mkfifo "$KEYLOCK_DIR/fifo"
	ln -s /etc/passwd "$KEYLOCK_DIR/link"
	ln -s nowhere "$KEYLOCK_DIR/dangling"
	run_keylock --list
	expect 0
	[ ! -s "$err" ]
	[ "$(wc -l <"$out")" = 4 ]
	[ "$(column 4 here)" = "$holder" ]
	[[ $(column 2 no-utf8) == abandoned* && $(column 2 lines) == abandoned* ]]
	no_control_bytes
	run_keylock --list --json
	expect 0
	need python3
	[ "$(ask 'sorted((row["key"], row["state"], row["since"]) for row in rows[1:])')" = \
		"[('lines', 'abandoned', None), ('no-utf8', 'abandoned', None)]" ]
	[ "$(ask 'set(row["cause"] for row in rows[1:])')" = "{'unreadable'}" ]
	[ "$(ask 'rows[0]["key"], rows[0]["state"]')" = "('here', 'held')" ]
	# Nothing of it was touched.
	[ "$(files)" = 11 ]
	let_go
}

@test "--list: names that no key has are passed over" {
	local name
	mkdir -m 700 "$KEYLOCK_DIR"
	# None is what a key or a slot would be called, for all that each has something in it.
	for name in % %4 %4x %zz %00 'not a name' .x %s2 %41 a%2e a%s a%s1 a%s02 a%s1001 a%s2x \
		"$(printf 'x%.0s' {1..201})" "$(printf 'x%.0s' {1..250})"; do
		echo something >"$KEYLOCK_DIR/$name"
	done
	run_keylock --list
	expect_taken 0
	run_keylock --list --json
	expect_taken 0
	# These are.
	for name in a %2Ea a%s2 a%s1000 "$(printf 'x%.0s' {1..200})"; do
		echo something >"$KEYLOCK_DIR/$name"
	done
	run_keylock --list --json
	expect 0
	[ "$(wc -l <"$out")" = 5 ]
}

@test "--list: a file's time that no calendar has" {
	local dir since
	[ -w /dev/shm ] || skip 'needs a tmpfs, which keeps any time'
	dir=$(mktemp -d /dev/shm/keylock-test.XXXXXX)
	test_folders+=("$dir")
	export KEYLOCK_DIR=$dir/dir
	hold key
	for since in 9223372036854775807 -70000000000 99999999999999; do
		touch -d "@$since" "$KEYLOCK_DIR/key"
		run_keylock --list key
		expect 0
		[ ! -s "$err" ]
		[ "$(column 4 key)" = "$holder" ]
		run_keylock -n -v key true
		expect_message 75
	done
	let_go
}

@test "a directory that may not be read: --list says so, keys that are named are found" {
	local try=("$KEYLOCK")
	if [ "$(id -u)" = 0 ]; then
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		mkdir -m 1733 "$public/dir"
		export KEYLOCK_DIR=$public/dir
		try=(as_user 61111 "$public/keylock")
	else
		mkdir -m 300 "$KEYLOCK_DIR"
	fi
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
	chmod 700 "$KEYLOCK_DIR"
}

@test "a directory that is not safe is not looked at either" {
	local what
	mkdir -m 777 "$KEYLOCK_DIR"
	for what in --list '--list key' '--list --json' '--who key' '--pin key'; do
		# shellcheck disable=SC2086
		run_keylock $what
		expect_message 77 "$KEYLOCK_DIR"
	done
	[ "$(files)" = 0 ]
	chmod 700 "$KEYLOCK_DIR"
	ln -s nowhere "$KEYLOCK_DIR/key"
	run_keylock --pin key
	expect_message 77 key
	[ "$(readlink "$KEYLOCK_DIR/key")" = nowhere ]
}

@test "--list: keys in doubt and pinned keys" {
	local path
	run_keylock -A doubt sh -c 'kill -KILL $$'
	path=$("$KEYLOCK" --pin pinned)
	run_keylock --list
	expect 0
	[ "$(column 2 pinned) $(column 3 pinned) $(column 4 pinned) $(column 5 pinned) $(column 6 pinned)" = \
		'pinned - - - 0' ]
	[ "$(column 2 doubt)" = 'abandoned (signal-9)' ]
	[ "$(column 7 doubt)" = sh ]
	[[ $(column 5 doubt) =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$ ]]
	need python3
	run_keylock --list --json
	[ "$(ask '[(row["state"], row["mode"], row["pids"], row["waiting"], row["command"], row.get("cause")) for row in rows]')" = \
		"[('abandoned', None, [], 0, 'sh', 'signal-9'), ('pinned', None, [], 0, None, None)]" ]
	[ "$(ask 'rows[1]["path"]')" = "$path" ]
	# Held, they are shown as held.
	hold -R doubt
	run_keylock --list doubt
	[ "$(column 2 doubt)" = held ]
	let_go
}

@test "--list: SINCE is when the key was had, also where its file is older" {
	need python3
	local path before after first since
	path=$("$KEYLOCK" --pin key)
	touch -d '2001-02-03 04:05:06' "$path"
	before=$(date +%s)
	hold key
	after=$(date +%s)
	run_keylock --list --json
	first=$(ask 'rows[0]["since"]')
	[[ $first =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$ ]]
	since=$(date -d "$first" +%s)
	echo "between $before and $after: $since"
	[[ $since -ge $((before - 1)) && $since -le $after ]]
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

# --- JSON ---

@test "--list --json: objects that jq and Python read, each with its members" {
	need python3
	hold -w 20 'say "hi" \ there'
	queue 'say "hi" \ there'
	run_keylock --list --json
	expect 0
	[ "$(wc -l <"$out")" = 1 ]
	[ "$(ask 'sorted(rows[0])')" = \
		"['command', 'key', 'mode', 'path', 'pids', 'since', 'slot', 'state', 'waiters', 'waiting']" ]
	[ "$(ask 'rows[0]["key"]')" = 'say "hi" \ there' ]
	[ "$(ask '[rows[0][name] for name in ("state", "mode", "slot", "pids", "waiting")]')" = \
		"['held', 'exclusive', 1, [$holder], 1]" ]
	[ "$(ask 'rows[0]["waiters"]')" = "[$waiter]" ]
	[ "$(ask 'rows[0]["path"]')" = "$("$KEYLOCK" --path 'say "hi" \ there')" ]
	if command -v jq >/dev/null; then
		again jq -r '[.key, .state, .pids[0], .waiting] | join("|")'
		[ "$output" = "say \"hi\" \\ there|held|$holder|1" ]
	fi
	let_go
	wait "$waiter"
}

@test "--list --json: a key of any bytes comes back as it was" {
	need python3
	local key=$'\x80a\xff "\\\n\x01\x7f\xc3\xa9 \xed\xa0\x80 \xc0\xaf \xf0\x9f\x94\x92 \xf4\x90\x80\x80 \xe0\x80\x80 \xf0\x8f\xbf\xbf \xe2\x82'
	hold "$key"
	run_keylock --list --json
	expect 0
	printf %s "$key" >"$BATS_TEST_TMPDIR/key"
	again python3 -c 'import json, sys
key = json.loads(sys.stdin.buffer.read().decode("utf-8", "strict"))["key"]
print(key.encode("utf-8", "surrogateescape") == open(sys.argv[1], "rb").read())' "$BATS_TEST_TMPDIR/key"
	[ "$output" = True ]
	if command -v jq >/dev/null; then
		again jq -r .state
		[ "$output" = held ]
	fi
	let_go
}

@test "--list: a key whose file name is a hash is unknown until it is asked for" {
	need python3
	local key
	printf -v key '%0300d' 7
	hold "$key"
	run_keylock --list --json
	[ "$(ask '[(row["key"], row["pids"]) for row in rows]')" = "[(None, [$holder])]" ]
	run_keylock --list --json "$key" other
	[ "$(ask '[row["key"] for row in rows]')" = "['$key']" ]
	run_keylock --list "$key"
	# As much of it as a terminal is to be asked for.
	[[ $output == *"${key:0:200}"*...\ \ held* ]]
	run_keylock --who "$key"
	[ "$output" = "$holder" ]
	let_go
}

# --- who holds ---

@test "--who: the holder's pid; of a free key, status 1 and no output" {
	run_keylock --who key
	expect_taken 1
	[ ! -e "$KEYLOCK_DIR" ]
	hold key
	run_keylock --who key
	expect 0
	[ "$output" = "$holder" ]
	[ ! -s "$err" ]
	run_keylock --who another
	expect_taken 1
	let_go
	run_keylock --who key
	expect_taken 1
	# A file alone is no holder.
	"$KEYLOCK" --pin key >/dev/null
	run_keylock --who key
	expect_taken 1
}

@test "a shared key with three holders and two waiters" {
	need python3
	local holders=() waiters=() i
	for i in 1 2 3; do
		hold -s key
		holders+=("$holder")
	done
	queue key
	waiters+=("$waiter")
	queue -s key
	waiters+=("$waiter")
	run_keylock --who key
	[ "$(sort -n "$out")" = "$(printf '%s\n' "${holders[@]}" | sort -n)" ]
	run_keylock --list --json
	[ "$(ask '[(row["mode"], len(row["pids"]), row["waiting"]) for row in rows]')" = "[('shared', 3, 2)]" ]
	[ "$(ask 'sorted(rows[0]["pids"])')" = "$(printf '%s\n' "${holders[@]}" | sort -n | paste -sd , | sed 's/,/, /g; s/.*/[&]/')" ]
	run_keylock --list
	[ "$(column 6 key)" = 2 ]
	[ "$(column 4 key | tr , '\n' | sort -n)" = "$(printf '%s\n' "${holders[@]}" | sort -n)" ]
	run_keylock -v -n key true
	expect_message 75 'key: taken: pid ' ' and 2 more, held for '
	for i in "${holders[@]}"; do
		let_go "$i"
	done
	wait "${waiters[@]}"
	[ "$(files)" = 0 ]
}

@test "slots: a row for each that is held, --who names all" {
	need python3
	local first second third
	hold -j 3 key
	first=$holder
	hold -j 3 key
	second=$holder
	hold -j 3 key
	third=$holder
	queue -j 3 key
	run_keylock --list --json
	[ "$(ask 'sorted((row["slot"], row["key"], row["pids"][0]) for row in rows)')" = \
		"[(1, 'key', $first), (2, 'key', $second), (3, 'key', $third)]" ]
	[ "$(ask 'sum(row["waiting"] for row in rows)')" = 1 ]
	let_go "$first"
	wait "$waiter"
	run_keylock --who key
	[ "$(sort -n "$out")" = "$(printf '%s\n' "$second" "$third" | sort -n)" ]
	run_keylock --list key
	[ "$(wc -l <"$out")" = 3 ]
	let_go "$second"
	let_go "$third"
}

@test "P1 alone: keylock is killed: --who, --list and -v name the command" {
	need python3
	hold key
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	run_keylock --who key
	expect 0
	[ "$output" = "$held" ]
	run_keylock --list --json
	[ "$(ask '[(row["state"], row["mode"], row["pids"]) for row in rows]')" = "[('held', 'exclusive', [$held])]" ]
	[ "$(ask 'rows[0]["command"][:14]')" = 'sh -c exec 8<>' ]
	run_keylock -n -v key true
	expect_message 75 "key: taken: pid $held (sh), held for "
	kill -KILL "$held"
	wait_for 20 is_dead "$held"
	run_keylock --who key
	expect_taken 1
	run_keylock --list
	expect_taken 0
}

@test "keylock and the command are killed: --who names the daemon that inherited" {
	local daemon
	"$KEYLOCK" -s key sh -c 'sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; wait' "$BATS_TEST_TMPDIR/daemon" 3>&- 4>&- &
	holder=$!
	wait_for 20 test -e "$BATS_TEST_TMPDIR/daemon"
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
	held=$(parent "$daemon")
	kill -KILL "$holder" "$held"
	wait "$holder" 2>/dev/null || :
	wait_for 20 is_dead "$held"
	run_keylock --who key
	[ "$output" = "$daemon" ]
	run_keylock --list
	[ "$(column 3 key) $(column 4 key) $(column 7 key)" = "shared $daemon sleep 1000" ]
	kill -KILL "$daemon"
	wait_for 20 is_dead "$daemon"
	run_keylock --who key
	expect_taken 1
}

@test "P2 free at once: a daemon that the command left behind is no holder, unless with -l" {
	local daemon
	run_keylock key sh -c 'sleep 1000 & echo $! >"$0"' "$BATS_TEST_TMPDIR/daemon"
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
	in_state "$daemon" RSD
	run_keylock --who key
	expect_taken 1
	run_keylock --list
	expect_taken 0
	run_keylock -l key sh -c 'sleep 1000 & echo $! >"$0"' "$BATS_TEST_TMPDIR/daemon"
	daemon=$(cat "$BATS_TEST_TMPDIR/daemon")
	run_keylock --who key
	[ "$output" = "$daemon" ]
	run_keylock --list
	[ "$(column 4 key) $(column 7 key)" = "$daemon sleep 1000" ]
}

@test "a process that has lost its parent is no holder while keylock lives" {
	local mode orphan holder
	for mode in -x -s; do
		rm -f "$BATS_TEST_TMPDIR/orphan"
		# The command itself waits without a child, which would be another to inherit the lock.
		rm -f "$BATS_TEST_TMPDIR/orphan.fifo"
		mkfifo "$BATS_TEST_TMPDIR/orphan.fifo"
		"$KEYLOCK" "$mode" key sh -c '(sleep 1000 & echo $! >"$0.new"); mv "$0.new" "$0"
			exec 8<>"$0.fifo"; read -r _ <&8' "$BATS_TEST_TMPDIR/orphan" 3>&- 4>&- &
		holder=$!
		wait_for 20 test -e "$BATS_TEST_TMPDIR/orphan"
		orphan=$(cat "$BATS_TEST_TMPDIR/orphan")
		run_keylock --who key
		[ "$output" = "$holder" ]
		run_keylock -n -v key true
		expect_message 75 "key: taken: pid $holder (sh), held for "
		# Without keylock and the command, it is the only one.
		held=$(cat "/proc/$holder/task/$holder/children")
		kill -KILL "$holder"
		wait "$holder" 2>/dev/null || :
		# shellcheck disable=SC2086
		kill -KILL $held
		wait_for 20 is_dead "$held"
		[ "$("$KEYLOCK" --who key)" = "$orphan" ]
		kill -KILL "$orphan"
		wait_for 20 is_dead "$orphan"
	done
}

@test "-F: the command is the holder" {
	"$KEYLOCK" -F key sleep 1000 3>&- 4>&- &
	holder=$!
	wait_for 20 eval '[ "$(cat "/proc/$holder/comm")" = sleep ]'
	run_keylock --who key
	[ "$output" = "$holder" ]
	run_keylock --list
	[ "$(column 7 key)" = 'sleep 1000' ]
}

@test "flock(1) that holds a pinned key is a holder, for an unknown time" {
	need flock python3
	local path flock
	path=$("$KEYLOCK" --pin key)
	touch -d '-3 hours' "$path"
	flock "$path" sleep 1000 3>&- 4>&- &
	flock=$!
	# Not tried with keylock -n, which would set the file's time.
	wait_for 20 eval '! flock -n "$path" true'
	run_keylock --list
	[ "$(column 2 key) $(column 3 key) $(column 4 key) $(column 5 key)" = "held exclusive $flock -" ]
	run_keylock --list --json
	[ "$(ask 'rows[0]["since"]')" = None ]
	run_keylock --who key
	expect 0
	[ "$output" = "$flock" ]
	run_keylock -n -W 2h key true
	expect_taken 75
	run_keylock -n -v key true
	expect_message 75 "key: taken: pid $flock (flock)"
	[[ $stderr != *'held for'* ]]
}

@test "another user's key in a shared directory, and two readers, the one with the lower pid having come second" {
	local early
	need_root
	need setpriv
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/dir"
	export KEYLOCK_DIR=$public/dir
	hold key
	run_it as_user 65534:65534 "$public/keylock" --who key
	expect 0
	[ "$output" = "$holder" ]
	run_it as_user 65534:65534 "$public/keylock" --list
	expect 0
	[ "$(column 2 key) $(column 3 key) $(column 4 key)" = "held exclusive $holder" ]
	let_go
	run_it as_user 65534:65534 "$public/keylock" --list
	expect_taken 0
	mkfifo "$public/go" "$public/end"
	sh -c 'read -r _ <"$0/go"; exec "$KEYLOCK" -s key sh -c "exec 8<>\"\$0/end\"; read -r _ <&8" "$0"' \
		"$public" 3>&- 4>&- &
	early=$!
	hold -s key
	echo >"$public/go"
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 2 ]'
	# Who may not look into processes is told who took the lock.
	run_it as_user 65534:65534 "$public/keylock" --who key
	expect 0
	[ "$(sort -n <<<"$output")" = "$(printf '%s\n' "$early" "$holder" | sort -n)" ]
	run_it as_user 65534:65534 "$public/keylock" --list
	[ "$(column 3 key)" = shared ]
	let_go
	echo 1<>"$public/end"
	wait "$early"
}

@test "seventy readers are all seen" {
	local i pids=()
	mkfifo "$BATS_TEST_TMPDIR/end"
	for i in {1..70}; do
		"$KEYLOCK" -s key sh -c 'exec 8<>"$0"; read -r _ <&8' "$BATS_TEST_TMPDIR/end" 3>&- 4>&- &
		pids+=($!)
	done
	wait_for 20 eval '[ "$("$KEYLOCK" --who key | wc -l)" = 70 ]'
	run_keylock --who key
	[ "$(sort -n <<<"$output")" = "$(printf '%s\n' "${pids[@]}" | sort -n)" ]
	run_keylock -n -v key true
	expect_message 75 ' and 69 more'
	exec 8<>"$BATS_TEST_TMPDIR/end"
	printf '\n%.0s' {1..70} >&8
	for i in "${pids[@]}"; do
		wait "$i"
	done
	exec 8>&-
	[ "$(files)" = 0 ]
}

@test "without /proc the key is taken all the same, and is had when it is free" {
	hold key
	# After a second there would be a look at who waits for whom.
	run_it private_root bash -c 'mount -t tmpfs none /proc || exit 200
		"$KEYLOCK" --who key; echo "who: $?"
		"$KEYLOCK" -n -v key true; echo "taken: $?"
		KEYLOCK_KEY=other "$KEYLOCK" -w 1.2 key true; echo "waited: $?"
		"$KEYLOCK" free sh -c "exit 7"; echo "free: $?"'
	[ "$status" != 200 ] || skip 'may not mount on /proc here'
	[[ $output == *$'who: 0\ntaken: 75\nwaited: 75\nfree: 7' ]]
	[[ $stderr == *'keylock: key: taken: '*', held for '* ]]
	let_go
	[ "$(files)" = 0 ]
}

@test "--list --json names who waits, in the order of the line, so that one can be cancelled; null where unseen" {
	local i all=() mode
	need python3
	hold key
	for mode in -x -s -s -x -x; do
		queue "$mode" key
		all+=("$waiter")
	done
	run_keylock --list --json
	[ "$(ask 'rows[0]["waiters"]')" = "[$(paste -sd , <<<"$(printf '%s\n' "${all[@]}")" | sed 's/,/, /g')]" ]
	[ "$(ask 'rows[0]["waiting"]')" = 5 ]
	kill "${all[2]}"
	wait "${all[2]}" 2>/dev/null || :
	run_keylock --list --json
	[ "$(ask 'rows[0]["waiters"]')" = "[${all[0]}, ${all[1]}, ${all[3]}, ${all[4]}]" ]
	if [ "$(id -u)" = 0 ]; then
		public_folder
		cp "$KEYLOCK" "$public/keylock"
		chmod 711 "$BATS_TEST_TMPDIR"
		run_it private_root sh -c 'mount -t tmpfs none /proc && exec "$KEYLOCK" --list --json'
		[ "$(ask 'rows[0]["waiters"]')" = None ]
		[ "$(ask 'rows[0]["waiting"]')" = 4 ]
	fi
	let_go
	wait "${all[@]}" 2>/dev/null || :
	# Of slots, the line is that of the first file.
	hold -j 2 key
	i=$holder
	hold -j 2 key
	queue -j 2 key
	run_keylock --list --json
	[ "$(ask 'sorted((row["slot"], row["waiters"]) for row in rows)[0]')" = "(1, [$waiter])" ]
	let_go "$i"
	let_go
	wait "$waiter"
}

# --- in nobody's way ---

@test "P9 never stuck: a dead file system that some program has open holds up no look and no waiter" {
	local server
	[ -w /dev/fuse ] || skip 'needs /dev/fuse'
	server=$(probe deadfuse)
	hold key
	# The mount is gone with its namespace, and what hangs on it goes on when the server is killed.
	private_root bash -c 'mount -t tmpfs none /mnt && mkdir /mnt/dead && "$0" /mnt/dead' "$server" \
		>"$BATS_TEST_TMPDIR/dead" 2>&1 3>&- 4>&- &
	local private=$!
	wait_for 20 eval '[ -s "$BATS_TEST_TMPDIR/dead" ] || is_dead $private'
	[ "$(cat "$BATS_TEST_TMPDIR/dead")" = dead ] || skip "cannot mount FUSE: $(cat "$BATS_TEST_TMPDIR/dead")"
	for what in '--list' '--list --json' '--who key' '-n -v key true' '-n -r key true'; do
		# shellcheck disable=SC2086
		run_it timeout -s KILL 15 "$KEYLOCK" $what
		[[ $status = 0 || $status = 75 ]]
	done
	# The look after a second, for ancestors and for cycles.
	run_it timeout -s KILL 15 env KEYLOCK_KEY=other "$KEYLOCK" -w 1.5 -k a key true
	expect 75
	"$KEYLOCK" a "$KEYLOCK" key true 3>&- 4>&- &
	waiter=$!
	sleep 1.3
	kill "$waiter"
	ended_with "$waiter" 143
	kill -KILL "$(pgrep -P "$private" || echo "$private")" 2>/dev/null || :
	let_go
}

@test "P9 never stuck: another program's locks on all bytes end no look late, and keep waiters as a holder does" {
	local path kind
	need python3
	path=$("$KEYLOCK" --pin key)
	for kind in posix ofd; do
		: >"$BATS_TEST_TMPDIR/locked"
		python3 -c 'import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "posix": fcntl.lockf(fd, fcntl.LOCK_EX)
else: fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
print("locked", flush=True)
time.sleep(600)' "$path" "$kind" >"$BATS_TEST_TMPDIR/locked" 3>&- 4>&- &
		keeper=$!
		wait_for 20 test -s "$BATS_TEST_TMPDIR/locked"
		for what in --list '--list --json' '--who key'; do
			# shellcheck disable=SC2086
			run_it timeout -s KILL 15 "$KEYLOCK" $what
			[[ $status = 0 || $status = 1 ]]
		done
		for what in '-v -n' '-n -s' '-w 0.2' '-v -w 0.2' '-n -j 2' '-w 0.2 -j 2'; do
			# shellcheck disable=SC2086
			run_it timeout -s KILL 15 "$KEYLOCK" $what key touch "$BATS_TEST_TMPDIR/ran"
			expect 75
			[ ! -e "$BATS_TEST_TMPDIR/ran" ]
		done
		"$KEYLOCK" key touch "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
		waiter=$!
		wait_for 20 blocked "$path"
		kill -KILL "$keeper"
		wait "$waiter"
		[ -e "$BATS_TEST_TMPDIR/ran" ]
		rm "$BATS_TEST_TMPDIR/ran"
	done
}

@test "a reader that has gone is no reason for a message: --list, --help into a closed pipe" {
	local what
	hold key
	mkfifo "$BATS_TEST_TMPDIR/pipe"
	for what in --list '--list --json' '--who key' '--path key' --help --version; do
		# A pipe whose reader is gone for sure.
		# shellcheck disable=SC2086
		run_it sh -c 'exec 7<>"$0" 8>"$0" 7<&-; exec "$@" >&8 8>&-' "$BATS_TEST_TMPDIR/pipe" "$(probe inherit)" -d "$KEYLOCK" $what
		expect 141
		[ ! -s "$err" ]
	done
	let_go
}

@test "P9 never stuck: --list in a loop: no -n on a free key fails" {
	local rounds=200 failed=0 lister i
	[ -z "${KEYLOCK_LONG-}" ] || rounds=2000
	hold another
	while :; do
		"$KEYLOCK" --list >/dev/null || echo "status $?" >>"$BATS_TEST_TMPDIR/failed"
		"$KEYLOCK" --list key >/dev/null || echo "status $?" >>"$BATS_TEST_TMPDIR/failed"
		"$KEYLOCK" --who key >/dev/null || [ $? = 1 ] || echo "status $?" >>"$BATS_TEST_TMPDIR/failed"
		echo >>"$BATS_TEST_TMPDIR/looked"
	done 3>&- 4>&- &
	lister=$!
	started "$lister"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/looked"
	for ((i = 0; i < rounds; i++)); do
		"$KEYLOCK" -n key true || failed=$((failed + 1))
	done
	kill -KILL "$lister"
	wait "$lister" 2>/dev/null || :
	echo "$failed of $rounds failed beside $(wc -l <"$BATS_TEST_TMPDIR/looked") looks"
	[ "$failed" = 0 ]
	[ ! -e "$BATS_TEST_TMPDIR/failed" ]
	let_go
}

@test "--list with 1,000 held keys" {
	local options=() i begin took
	ulimit -n 4096 || skip 'needs 1,000 descriptors'
	for ((i = 1; i < 1000; i++)); do
		options+=(-k "key $i")
	done
	mkfifo "$BATS_TEST_TMPDIR/fifo"
	"$KEYLOCK" "${options[@]}" --hold 'key 0' <>"$BATS_TEST_TMPDIR/fifo" \
		>"$BATS_TEST_TMPDIR/locked" 3>&- 4>&- &
	holder=$!
	wait_for 20 test -s "$BATS_TEST_TMPDIR/locked"
	begin=$(milliseconds)
	"$KEYLOCK" --list >"$out"
	took=$(($(milliseconds) - begin))
	echo "took $took ms"
	[ "$(grep -c "^key [0-9]*  *held  *exclusive  *$holder  .*  0  *" "$out")" = 1000 ]
	# A goal of speed is a matter of the benchmark: here only that it is not slow out of all measure.
	[ "$took" -lt 10000 ]
	run_keylock --who 'key 777'
	[ "$output" = "$holder" ]
	kill -KILL "$holder"
}

@test "--list and --who that cannot write say so" {
	local what
	hold key
	for what in --list --who; do
		"$KEYLOCK" "$what" key >/dev/full 2>"$err" && false
		status=$?
		expect 71
		[[ $(cat "$err") == 'keylock: standard output: '* ]]
	done
	let_go
}

# --- what is said of the holder ---

@test "-v: a taken key names the holder, its command, and for how long" {
	hold key
	run_keylock -n -v key true
	expect_message 75 "key: taken: pid $holder (sh), held for "
	touch -d '-183 seconds' "$("$KEYLOCK" --path key)"
	run_keylock -n -v key true
	expect_message 75 "key: taken: pid $holder (sh), held for 3m"
	touch -d '-50 hours' "$("$KEYLOCK" --path key)"
	run_keylock -w 0.05 -v key true
	expect 75
	[[ $stderr == "keylock: key: waiting for pid $holder (sh), held for 2d2h"$'\n'"keylock: key: not had in time: pid $holder (sh), held for 2d2h" ]]
	let_go
}

@test "-v: for whom it waits, and how long that took" {
	hold key
	"$KEYLOCK" -v key echo ran >"$out" 2>"$err" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	wait_for 20 grep -q "^keylock: key: waiting for pid $holder (sh), held for " "$err"
	let_go
	wait "$waiter"
	[ "$(cat "$out")" = ran ]
	[[ $(sed 1d "$err") =~ ^keylock:\ key:\ had,\ took\ [0-9]+\.[0-9]{3}\ s$ ]]
	# Also where there was no wait, as flock -v does.
	run_keylock -v key true
	expect 0
	[[ $stderr == 'keylock: key: had, took 0.'*' s' ]]
}

@test "into a file, a wait is silent without -v" {
	hold key
	"$KEYLOCK" key true >"$out" 2>"$err" 3>&- 4>&- &
	waiter=$!
	wait_for 20 has_ticket "$waiter"
	sleep 1.5 # what is to be seen is that after a second nothing comes
	let_go
	wait "$waiter"
	[[ ! -s $out && ! -s $err ]]
}

# on_terminal OPTION...: waits with these options for "key" on a terminal of its own, the command
# writes "ran"; what the terminal shows is in $BATS_TEST_TMPDIR/shown. Sets waiter, that of script(1).
on_terminal() {
	local words
	need script
	printf -v words ' %q' "$KEYLOCK" "$@"
	script -qefc "exec$words key echo ran" /dev/null >"$BATS_TEST_TMPDIR/shown" 2>&1 3>&- 4>&- &
	waiter=$!
	wait_for 20 eval '"$KEYLOCK" --list --json key | grep -q "\"waiting\":1"'
}

@test "a wait at a terminal, for a key or a slot, is told once, after a second" {
	local slots stays
	for slots in '' '-j 2'; do
		# shellcheck disable=SC2086
		[ -z "$slots" ] || { hold $slots key && stays=$holder; }
		# shellcheck disable=SC2086
		hold $slots key
		touch -d '-1 hour' "$KEYLOCK_DIR"/key*
		# shellcheck disable=SC2086
		on_terminal $slots
		wait_for 20 grep -qE "^keylock: key: waiting for pid ($holder|${stays:-0}) \(sh\), held for 1h0m" "$BATS_TEST_TMPDIR/shown"
		sleep 1.2 # what is to be seen is that it is not said again
		let_go
		wait "$waiter"
		output=$(tr -d '\r' <"$BATS_TEST_TMPDIR/shown")
		echo "$output"
		[ "$(wc -l <<<"$output")" = 2 ]
		[[ $output == *$'\n'ran ]]
	done
	let_go "$stays"
}

@test "-q: a wait at a terminal is not told" {
	hold key
	on_terminal -q
	sleep 1.5
	let_go
	wait "$waiter"
	[ "$(tr -d '\r' <"$BATS_TEST_TMPDIR/shown")" = ran ]
	# Nor that it is taken.
	hold key
	run_it script -qefc "$KEYLOCK -q -n key true" /dev/null
	expect_taken 75
	run_it script -qefc "$KEYLOCK -n key true" /dev/null
	expect 75
	[[ $output == "keylock: key: taken: pid $holder (sh), held for "* ]]
	let_go
}

@test "-W: a key that is held for longer is told, into a file too" {
	local option path
	hold key
	path=$("$KEYLOCK" --path key)
	touch -d '-3 hours' "$path"
	for option in -W --warn-held; do
		run_keylock -n "$option" 2h key true
		expect_message 75 "key: taken: pid $holder (sh), held for 3h0m"
		run_keylock -n "$option" 4h key true
		expect_taken 75
	done
	run_keylock -n -W 7200 -E 0 key true
	expect_message 0 "held for 3h0m"
	run_keylock -w 0.05 -W 2h key true
	expect_message 75 "key: not had in time: pid $holder (sh), held for 3h0m"
	run_keylock -w 0.05 -W 4h key true
	expect_taken 75
	run_keylock -q -n -W 2h key true
	expect_taken 75
	# The command was killed with its keylock: who has inherited is told.
	kill -KILL "$holder"
	wait "$holder" 2>/dev/null || :
	run_keylock -n -W 2h key true
	expect_message 75 "key: taken: pid $held (sh), held for 3h0m"
	kill -KILL "$held"
	wait_for 20 is_dead "$held"
	# A key that is free is not told of, however old its file.
	run_keylock -n -W 2h key echo ran
	expect 0
	[[ $output == ran && ! -s $err ]]
	for option in '' x -1 1x; do
		run_keylock -n -W "$option" key true
		expect_message 64 '-W'
	done
}

@test "-W: just had is not long held, though the file is old" {
	local path
	path=$("$KEYLOCK" --pin key)
	touch -d '-3 hours' "$path"
	hold key
	run_keylock -n -W 2h key true
	expect_taken 75
	let_go
}

# --- file systems and containers ---

# looks WHAT MOUNT: has a script mount something on /mnt, in a mount namespace of its own, and looks
# at keys there.
looks() {
	need python3
	cat >"$BATS_TEST_TMPDIR/looks" <<-'SCRIPT'
		set -e
		work=$1 keylock=$2
		eval "$3" >"$work/mounting" 2>&1 || { cat "$work/mounting"; echo cannot mount; exit 0; }
		export KEYLOCK_DIR=/mnt/keys
		[ ! -d /mnt/volume ] || KEYLOCK_DIR=/mnt/volume/keys
		mkfifo "$work/go"
		exec 8<>"$work/go"
		"$keylock" key sh -c 'echo $$ >"$0/command"; read -r _' "$work" <&8 &
		holder=$!
		until [ -s "$work/command" ]; do sleep 0.01; done
		command=$(cat "$work/command")
		"$keylock" key true &
		waiter=$!
		until grep -q OFDLCK.*WRITE /proc/$waiter/fdinfo/* 2>/dev/null; do sleep 0.01; done
		echo "who: $("$keylock" --who key | sed "s/^$holder$/keylock/")"
		"$keylock" --list --json | sed "s/\[$holder\]/keylock/"
		"$keylock" -n -v key true 2>&1 | sed "s/pid $holder/keylock/" || :
		kill -KILL "$holder"
		wait "$holder" 2>/dev/null || :
		echo "who: $("$keylock" --who key | sed "s/^$command$/command/")"
		"$keylock" --list --json | sed "s/\[$command\]/command/"
		"$keylock" -n -v key true 2>&1 | sed "s/pid $command/command/" || :
		echo >&8
		wait "$waiter"
		"$keylock" --who key || echo "free: $?"
		"$keylock" --list
		ls -A "$KEYLOCK_DIR"
		umount /mnt
	SCRIPT
	run_it private_root sh "$BATS_TEST_TMPDIR/looks" "$BATS_TEST_TMPDIR" "$KEYLOCK" "$1"
	expect 0
	[[ $output != *'cannot mount' ]] || skip "cannot mount: ${output%%$'\n'*}"
	mapfile -t lines <"$out"
	[ "${#lines[@]}" = 7 ]
	[ "${lines[0]}" = 'who: keylock' ]
	[[ ${lines[1]} == *'"state":"held","mode":"exclusive","slot":1,"pids":keylock,'*'"waiting":1,"waiters":['*'],"command":"sh -c '* ]]
	[[ ${lines[2]} == 'keylock: key: taken: keylock (sh), held for '* ]]
	[ "${lines[3]}" = 'who: command' ]
	[[ ${lines[4]} == *'"state":"held","mode":"exclusive","slot":1,"pids":command,'*'"waiting":1,"waiters":['*'],"command":"sh -c '* ]]
	[[ ${lines[5]} == 'keylock: key: taken: command (sh), held for '* ]]
	[ "${lines[6]}" = 'free: 1' ]
}

@test "looking on tmpfs, and on overlayfs as in a container" {
	looks 'mount -t tmpfs none /mnt'
	rm "$BATS_TEST_TMPDIR"/{go,command}
	# The upper folder must not itself be on an overlay, as it may be in a container.
	looks 'mount -t tmpfs none /mnt && mkdir /mnt/lower /mnt/upper /mnt/work /mnt/all &&
		mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/all &&
		mount --move /mnt/all /mnt'
}

# looks_on TYPE SIZE [THEN]: on a file system in a file.
looks_on() {
	need_root
	need "mkfs.$1"
	looks 'truncate -s '"$2"' "$work/image" && mkfs.'"$1"' -q "$work/image" && mount -o loop "$work/image" /mnt'"${3-}"
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
	local one=$BATS_TEST_TMPDIR/first two=$BATS_TEST_TMPDIR/second
	private_root sh "$BATS_TEST_TMPDIR/one" "$one" "$two" 3>&- 4>&- &
	private_root sh "$BATS_TEST_TMPDIR/one" "$two" "$one" 3>&- 4>&- &
	wait_for 20 eval '[ -e "$one.go" ] && [ -e "$two.go" ]'
	wait
	cmp "$one" "$one.who"
	cmp "$two" "$two.who"
}

@test "in a container of its own processes: held is held, and no stranger is named" {
	need python3
	hold key
	cat >"$BATS_TEST_TMPDIR/container" <<-'SCRIPT'
		mount -t proc proc /proc || exit 200
		# Processes enough for the holder's number to be one here, too.
		exec 9>/proc/sys/kernel/ns_last_pid && echo $(($2 - 1)) >&9 && exec 9>&- && sleep 600 &
		sleep 0.1
		"$1" --list --json
		"$1" --who key
		echo "who: $?"
		"$1" -n -v key true
		echo "run: $?"
		kill $! 2>/dev/null
	SCRIPT
	run_it private_root unshare --pid --fork sh "$BATS_TEST_TMPDIR/container" "$KEYLOCK" "$holder"
	[ "$status" != 200 ] || skip 'may not mount /proc here'
	[[ $output == *'"state":"held","mode":'*',"slot":1,"pids":[]'* ]]
	[[ $output == *$'\nwho: 0\nrun: 75' ]]
	[[ $stderr == *'keylock: key: held, but by whom cannot be seen'* ]]
	[[ $stderr == *'keylock: key: taken: another process, held for '* ]]
	let_go
}

# Keys: which file each makes, that two keys are two locks, and that nothing is left of them.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
load helper

# name_of KEY: a pattern for the name of the lockfile by the rule, done here a second time.
name_of() {
	local LC_ALL=C key=$1 name='' rest char i
	if [ ${#key} -gt 200 ]; then
		# Long enough already: the beginning decides nothing that is not checked.
		rest=${key:0:200}
	else
		rest=$key
	fi
	for ((i = 0; i < ${#rest}; i++)); do
		char=${rest:i:1}
		case $char in
		[a-zA-Z0-9_+@:,=-]) ;;
		.) [ "$i" -gt 0 ] || char=%2E ;;
		*)
			printf -v char %d "'$char"
			printf -v char '%%%02X' $((char & 255))
			;;
		esac
		name+=$char
	done
	if [ ${#key} -gt 200 ] || [ ${#name} -gt 200 ]; then
		rest=$(printf %s "$key" | sha256sum)
		name="${name:0:100}*%h${rest%% *}"
	fi
	printf '%s' "$name"
}

# odd_keys: sets keys to more than a hundred different ones that somebody might trip over.
odd_keys() {
	set +T # bats traces each command of each function, which takes long for so many
	local LC_ALL=C byte char all='' long
	keys=()
	for byte in {1..255}; do
		printf -v char '%03o' "$byte"
		# shellcheck disable=SC2059
		printf -v char "\\$char"
		all+=$char
		# All that are neither letters nor digits or are at an edge, and some of the rest.
		case $char in
		[b-yB-Y1-8]) ;;
		*) [ $((byte < 128 || byte % 16 == 15)) = 0 ] || keys+=("$char") ;;
		esac
	done
	printf -v long '%0100000d' 0
	keys+=("$all" "$all$all" . .. ... ./ ../ ../x ../../x /etc/passwd / // /. a/b a/../b a%2Fb a%2fb
		'a%252Fb' % %% %h %s2 a%s2 a%s a%h %2E %2Ex .x x. -n -- --path - -1 'a b' a\ b\ '' ' a' $'a\n'
		$'a\nb' $'a\rb' $'\e[31mred' '*' '?*' '~' '~root' '$HOME' '`id`' '$(id)' 'a;b' 'a&b' 'a|b' "a'b"
		'a"b' 'a\b' 'a\\b' "\\" a A key Key KEY https://example.org/a?b=c#d user:42 user=42 x@y.z
		'grün' $'gr\xfcn' $'\xff\xfe' '日本' con nul lost+found
		"${long:0:199}" "${long:0:200}" "${long:0:201}" "${long:0:254}" "${long:0:255}" "${long:0:256}"
		"${long:0:4096}" "$long" "${long}1" "1$long" "$long${long:0:31000}")
	mapfile -d '' -t keys < <(printf '%s\0' "${keys[@]}" | sort -zu)
}

# The keys of the chain are all held at once, each by a keylock that was started under the one
# before, the last of which runs the command.
chain() {
	local key
	command_line=()
	for key in "${keys[@]}"; do
		command_line+=("$KEYLOCK" -n -- "$key")
	done
}

# Everything of the test's but what is in the directory and what the tests write themselves.
beside() {
	find "$BATS_TEST_TMPDIR" -path "$KEYLOCK_DIR" -prune -o -name 'held*' -o -name out -o -name err -o -print
}

@test "P1 alone: odd keys: more than a hundred locks, none outside the directory" {
	local keys command_line key before
	odd_keys
	echo "${#keys[@]} keys"
	[ "${#keys[@]}" -ge 100 ]
	before=$(beside)
	chain
	"${command_line[@]}" sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' \
		"$BATS_TEST_TMPDIR/held" 3>&- 4>&- 2>"$err" &
	started $!
	# It is gone when a key of it was not free.
	wait_for 30 eval '[ -s "$BATS_TEST_TMPDIR/held" ] || is_dead $!'
	cat "$err"
	[ -s "$BATS_TEST_TMPDIR/held" ]
	[ "$(files)" = "${#keys[@]}" ]
	# Each of them is taken, by whoever asks.
	for key in "${keys[@]}"; do
		status=0
		"$KEYLOCK" -n -q -- "$key" true 3>&- || status=$?
		expect 75 || {
			printf 'the key is not taken: %q\n' "${key:0:300}"
			false
		}
	done
	[ "$(files)" = "${#keys[@]}" ]
	# All are files in the directory itself, and beside it nothing has come.
	[ "$(find "$KEYLOCK_DIR" -mindepth 1 -type f | wc -l)" = "${#keys[@]}" ]
	[ "$(beside)" = "$before" ]
	kill "$(cat "$BATS_TEST_TMPDIR/held")"
	wait $! || :
	[ "$(files)" = 0 ]
}

@test "odd keys: the name is the key, with %XX and %h where it must" {
	local keys key path name
	odd_keys
	for key in "${keys[@]}"; do
		path=$("$KEYLOCK" --path -- "$key")
		[[ $path == "$KEYLOCK_DIR"/* ]]
		name=${path#"$KEYLOCK_DIR"/}
		[[ $name != .* && ${#name} -le 255 ]]
		[[ $name =~ ^([A-Za-z0-9._+@:,=-]|%[0-9A-F][0-9A-F])*(%h[0-9a-f]{64})?$ ]]
		[[ $name != *%h* || ${#name} -le 200 ]]
		# shellcheck disable=SC2053
		[[ $name == $(name_of "$key") ]] || {
			printf 'the name of %q is %s, should be %s\n' "${key:0:300}" "$name" "$(name_of "$key")"
			false
		}
	done
	[ ! -e "$KEYLOCK_DIR" ]
}

@test "two keys never have one name, also when one is the other's name" {
	local keys key i paths
	odd_keys
	for key in "${keys[@]}"; do
		"$KEYLOCK" --path -- "$key" 3>&-
	done >"$BATS_TEST_TMPDIR/paths"
	mapfile -t paths <"$BATS_TEST_TMPDIR/paths"
	[ "${#paths[@]}" = "${#keys[@]}" ]
	for i in "${!paths[@]}"; do
		key=${paths[i]##*/}
		[ "$key" = "${keys[i]}" ] || "$KEYLOCK" --path -- "$key" 3>&-
	done >>"$BATS_TEST_TMPDIR/paths"
	[ "$(wc -l <"$BATS_TEST_TMPDIR/paths")" -gt $((2 * ${#keys[@]} - 60)) ]
	# A name of a name may be among the keys (a%2Fb is the name of a/b and a key).
	for key in "${keys[@]}" "${paths[@]##*/}"; do
		printf '%s\0' "$key"
	done | sort -zu | tr -cd '\0' | wc -c >"$BATS_TEST_TMPDIR/different"
	[ "$(sort -u "$BATS_TEST_TMPDIR/paths" | wc -l)" = "$(cat "$BATS_TEST_TMPDIR/different")" ]
}

@test "the longest name that is not shortened has 200 bytes" {
	local key path
	printf -v key '%0200d' 0
	run_keylock --path "$key"
	[ "$output" = "$KEYLOCK_DIR/$key" ]
	run_keylock --path "${key}0"
	[[ $output == "$KEYLOCK_DIR/000"*%h* ]]
	path=${output##*/}
	[ "${#path}" -le 200 ]
	# 66 slashes are 198 bytes, 67 are 201; an escape is not cut in the middle.
	printf -v key '%*s' 66 ''
	run_keylock --path "${key// //}"
	[ "$output" = "$KEYLOCK_DIR/${key// /%2F}" ]
	run_keylock --path "${key// //}/"
	[[ ${output##*/} =~ ^(%2F)+%h[0-9a-f]{64}$ ]]
}

@test "keys of 131,000 bytes are taken, longer ones refused" {
	local key
	printf -v key '%0131000d' 0
	run_keylock "$key" sh -c 'printf %s "$KEYLOCK_KEY" | wc -c; ls -A "$KEYLOCK_DIR" | wc -l'
	expect 0
	[ "$output" = $'131000\n1' ]
	run_keylock "${key}0" echo ran
	expect_message 64
	[ "$(files)" = 0 ]
}

@test "KEYLOCK_KEY is the key, byte by byte, and replaces an older one" {
	local keys key
	odd_keys
	export KEYLOCK_KEY=older
	for key in "${keys[@]}"; do
		printf %s "$key" >"$BATS_TEST_TMPDIR/wanted"
		"$KEYLOCK" -- "$key" sh -c 'printf %s "$KEYLOCK_KEY"' >"$BATS_TEST_TMPDIR/got" 3>&-
		cmp "$BATS_TEST_TMPDIR/wanted" "$BATS_TEST_TMPDIR/got"
	done
	run_keylock key env
	[ "$(grep -c '^KEYLOCK_KEY=' <<<"$output")" = 1 ]
}

@test "KEYLOCK_KEY holds a key once, also where it was given twice" {
	run_keylock -k a a printenv KEYLOCK_KEY
	expect 0
	[ "$output" = a ]
}

@test "P3 no debris: while the key is held there is one file, and none after" {
	run_keylock user:42 ls -A "$KEYLOCK_DIR"
	expect 0
	[ "$output" = user:42 ]
	[ "$(files)" = 0 ]
}

@test "P3 no debris: after thousands of keys the directory is empty" {
	local count=3000
	[ -z "${KEYLOCK_LONG-}" ] || count=20000
	# Each run sees its own file: a keylock that made none would leave none, too.
	seq "$count" | xargs -P 2 -n 500 sh -c 'for n; do
			"$KEYLOCK" "user:$n" test -f "$KEYLOCK_DIR/user:$n" || echo "$n failed"
		done' - >"$BATS_TEST_TMPDIR/failures" 2>&1 3>&-
	head "$BATS_TEST_TMPDIR/failures"
	[ ! -s "$BATS_TEST_TMPDIR/failures" ]
	[ -d "$KEYLOCK_DIR" ]
	[ "$(files)" = 0 ]
}

@test "different keys do not wait for each other" {
	hold user:1
	run_keylock -n user:2 true
	expect 0
	run_keylock -n user:11 true
	expect 0
	run_keylock -n user:1 true
	expect 75
}

@test "--path: the file that is locked, and nothing is made" {
	run_keylock --path key
	expect 0
	[ "$output" = "$KEYLOCK_DIR/key" ]
	[ -z "$stderr" ]
	[ ! -e "$KEYLOCK_DIR" ]
	hold key
	run_keylock --path key
	expect 0
	[ -f "$output" ]
	[ "$(files)" = 1 ]
}

# path: the same path from all these.
same_path() {
	run_it "$@" "$KEYLOCK" --path 'some job/1'
	expect 0
	[ "$output" = "$path" ]
}

@test "P7 same key, same lock: the same path whatever the environment is" {
	unset KEYLOCK_DIR
	local path
	path=$("$KEYLOCK" --path 'some job/1')
	[[ $path == */'some%20job%2F1' ]]
	if [ "$(id -u)" = 0 ]; then
		[ "${path%/*}" = /run/keylock ]
	else
		[[ ${path%/*} == /run/lock/keylock-$(id -u) || ${path%/*} == /tmp/keylock-$(id -u) ]]
	fi
	same_path env -i
	same_path env XDG_RUNTIME_DIR="$BATS_TEST_TMPDIR"
	same_path env -u XDG_RUNTIME_DIR
	same_path env TMPDIR="$BATS_TEST_TMPDIR" TMP="$BATS_TEST_TMPDIR" TEMP="$BATS_TEST_TMPDIR"
	same_path env HOME="$BATS_TEST_TMPDIR"
	same_path env -u HOME
	same_path env USER=somebody LOGNAME=somebody UID=1 EUID=1
	same_path env XDG_CACHE_HOME="$BATS_TEST_TMPDIR" XDG_STATE_HOME="$BATS_TEST_TMPDIR"
	same_path setsid
	same_path env -C /
	same_path sh -c 'umask 0777; exec "$@"' -
	same_path sh -c 'exec <&- 2>&- "$@"' -
}

@test "P7 same key, same lock: whatever the environment is" {
	# In a /run of its own, so that the test makes nothing in the machine's.
	# Who asks is no child of the holder, which would be told of the deadlock instead.
	run_it private_root sh -c '
		unset KEYLOCK_DIR
		mount -t tmpfs none /run && mkfifo /run/go || exit 9
		"$KEYLOCK" key sh -c "exec 8<>/run/go; echo >/run/held; read -r _ <&8" &
		until [ -s /run/held ]; do kill -0 $! || exit 9; done
		env -i "$KEYLOCK" -n key true; echo $?
		env XDG_RUNTIME_DIR=/tmp TMPDIR=/tmp HOME=/tmp "$KEYLOCK" -n key true; echo $?
		env -i "$KEYLOCK" -n other true; echo $?
		ls -A /run /run/keylock
		echo >/run/go; wait; ls -A /run/keylock'
	expect 0
	[ "$output" = $'75\n75\n0\n/run:\ngo\nheld\nkeylock\n\n/run/keylock:\nkey' ]
}

@test "P1 alone: flock(1) on the path fails while keylock holds the key" {
	need flock
	hold key
	run_it flock -n "$("$KEYLOCK" --path key)" echo ran
	expect 1
	[ -z "$output" ]
	run_it flock -n -s "$("$KEYLOCK" --path key)" echo ran
	expect 1
	let_go
	hold -s key
	run_it flock -n "$("$KEYLOCK" --path key)" echo ran
	expect 1
	run_it flock -n -s "$("$KEYLOCK" --path key)" echo ran
	expect 0
	[ "$output" = ran ]
	let_go
	[ "$(files)" = 0 ]
}

@test "P1 alone: while flock(1) has the file, the key is taken and the file stays" {
	need flock
	local path inode flock waiter
	mkdir -m 700 "$KEYLOCK_DIR"
	path=$("$KEYLOCK" --path key)
	flock "$path" sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' \
		"$BATS_TEST_TMPDIR/flocked" 3>&- 4>&- &
	flock=$!
	started "$flock"
	wait_for 20 test -s "$BATS_TEST_TMPDIR/flocked"
	inode=$(stat -c %i "$path")
	run_keylock -n key echo ran
	expect_taken 75
	run_keylock -n -s key echo ran
	expect_taken 75
	run_keylock -w 0.1 key echo ran
	expect_taken 75
	[ "$(stat -c %i "$path")" = "$inode" ]
	# It waits for flock, runs after it, and then tidies.
	"$KEYLOCK" key sh -c 'echo ran >"$0"' "$BATS_TEST_TMPDIR/ran" 3>&- 4>&- &
	waiter=$!
	started "$waiter"
	wait_for 20 blocked "$path"
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	kill "$(cat "$BATS_TEST_TMPDIR/flocked")"
	wait "$flock" || :
	wait "$waiter"
	[ -s "$BATS_TEST_TMPDIR/ran" ]
	[ "$(files)" = 0 ]
}

@test "P1 alone: beside a shared flock(1) a shared run runs, an exclusive one does not, and the file stays" {
	need flock
	local path inode
	mkdir -m 700 "$KEYLOCK_DIR"
	path=$("$KEYLOCK" --path key)
	flock -s "$path" sleep 600 3>&- 4>&- &
	started $!
	wait_for 20 eval '! flock -n "$path" true'
	inode=$(stat -c %i "$path")
	run_keylock -n -s key echo ran
	expect 0
	[ "$output" = ran ]
	run_keylock -n key echo ran
	expect_taken 75
	[ "$(stat -c %i "$path")" = "$inode" ]
}

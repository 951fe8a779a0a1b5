# Keys: which file each makes, that two keys are two locks, and that nothing is left of them.

load helper

# odd_keys: sets keys to more than a hundred different ones that somebody might trip over.
odd_keys() {
	set +T # bats traces each command of each function, which takes long for so many
	local LC_ALL=C byte char all='' long
	keys=()
	for byte in {1..255}; do
		printf -v char '%03o' "$byte"
		printf -v char "\\$char"
		all+=$char
		# All that are neither letters nor digits or are at an edge, and some of the rest.
		case $char in
		[b-yB-Y1-8]) ;;
		*) [ $((byte < 128 || byte % 16 == 15)) = 0 ] || keys+=("$char") ;;
		esac
	done
	printf -v long '%0100000d' 0
	keys+=("$all" "$all$all" . .. ... ./ ../ ../x ../../x /etc/passwd / // /. a/b a/../b a%2Fb
		a%2fb 'a%252Fb' % %% %h %s2 a%s2 a%s a%h %2E %2Ex .x x. -n -- --path - -1 'a b'
		a\ b\ '' ' a' $'a\n' $'a\nb' $'a\rb' $'\e[31mred' '*' '?*' '~' '~root'
		'$HOME' '`id`' '$(id)' 'a;b' 'a&b' 'a|b' "a'b" 'a"b' 'a\b' 'a\\b' "\\" a A key
		Key KEY user:42 user=42 x@y.z https://example.org/a?b=c#d con nul lost+found
		'grün' $'gr\xfcn' $'\xff\xfe' '日本'
		"${long:0:199}" "${long:0:200}" "${long:0:201}" "${long:0:254}" "${long:0:255}"
		"${long:0:256}" "${long:0:4096}" "$long" "${long}1" "1$long" "$long${long:0:31000}")
	mapfile -d '' -t keys < <(printf '%s\0' "${keys[@]}" | sort -zu)
}

# Everything of the test's but what is in the directory and what the tests write themselves.
beside() {
	find "$work" -path "$KEYLOCK_DIR" -prune -o \
		-name 'hold*' -o -name obey -o -name out -o -name err -o -print
}

@test "P1 odd keys: more than a hundred locks, none outside the directory" {
	command_line=()
	odd_keys
	echo "${#keys[@]} keys"
	[ "${#keys[@]}" -ge 100 ]
	before=$(beside)
	# All held at once, each by a keylock that was started under the one before.
	for key in "${keys[@]}"; do
		command_line+=("$KEYLOCK" -n -- "$key")
	done
	hold_by "${command_line[@]}"
	for key in "${keys[@]}"; do
		status=0
		"$KEYLOCK" -n -q -- "$key" true 3>&- || status=$?
		echo "taken: ${key:0:300}"
		expect 75
	done
	# All are files in the directory itself, and beside it nothing has come.
	[ "$(files)" = "${#keys[@]}" ]
	[ "$(find "$KEYLOCK_DIR" -mindepth 1 -type f | wc -l)" = "${#keys[@]}" ]
	[ "$(beside)" = "$before" ]
	let_go
}

@test "odd keys: the file's name is the key, with %XX and %h where it must; no two have one" {
	odd_keys
	declare -A known=() names=()
	for key in "${keys[@]}"; do
		known[k$key]=1
	done
	count=${#keys[@]}
	for ((i = 0; i < ${#keys[@]}; i++)); do
		path=$("$KEYLOCK" --path -- "${keys[i]}" 3>&-)
		name=${path#"$KEYLOCK_DIR"/}
		[[ $path == "$KEYLOCK_DIR"/* && $name != .* && -z ${names[k$name]-} ]]
		names[k$name]=1
		printf '%s\0%s\0' "${keys[i]}" "$name"
		# Nor has a key that is the name of another.
		[[ $i -ge $count || -n ${known[k$name]-} ]] || keys+=("$name")
		known[k$name]=1
	done >"$work/pairs"
	it_gives 0 python3 "$tools/reference.py" name <"$work/pairs"
	[ ! -e "$KEYLOCK_DIR" ]
}

@test "a name of up to 200 bytes is not shortened; keys of up to 131,000 bytes are taken" {
	printf -v key '%0200d' 0
	prints "$KEYLOCK_DIR/$key" --path "$key"
	run_keylock --path "${key}0"
	[[ $output == "$KEYLOCK_DIR/000"*%h* ]]
	# 66 slashes are 198 bytes, 67 are 201; an escape is not cut in the middle.
	printf -v key '%*s' 66 ''
	prints "$KEYLOCK_DIR/${key// /%2F}" --path "${key// //}"
	run_keylock --path "${key// //}/"
	[[ ${output##*/} =~ ^(%2F)+%h[0-9a-f]{64}$ ]]
	printf -v key '%0131000d' 0
	prints $'131000\n1' "$key" sh -c 'printf %s "$KEYLOCK_KEY" | wc -c
		ls -A "$KEYLOCK_DIR" | wc -l'
	fails 64 '' "${key}0" echo ran
	[ "$(files)" = 0 ]
}

@test "KEYLOCK_KEY is the key, byte by byte, and replaces an older one" {
	odd_keys
	export KEYLOCK_KEY=older
	for key in "${keys[@]}"; do
		printf %s "$key" >"$work/wanted"
		"$KEYLOCK" -- "$key" sh -c 'printf %s "$KEYLOCK_KEY"' >"$out" 3>&-
		cmp "$work/wanted" "$out"
	done
	run_keylock key env
	[ "$(grep -c '^KEYLOCK_KEY=' <<<"$output")" = 1 ]
}

@test "P3 a held key has one file, and after thousands of keys the directory is empty" {
	count=$(size 3000 20000)
	prints user:42 user:42 ls -A "$KEYLOCK_DIR"
	# Each run sees its own file: a keylock that made none would leave none, too.
	seq "$count" | xargs -P 2 -n 500 sh -c 'for n; do
			"$KEYLOCK" "user:$n" test -f "$KEYLOCK_DIR/user:$n" || echo "$n failed"
		done' - >"$out" 2>&1 3>&-
	head "$out"
	[ ! -s "$out" ]
	[ -d "$KEYLOCK_DIR" ]
	[ "$(files)" = 0 ]
}

# same_path COMMAND…: from there the path is the same.
same_path() {
	it_prints "$path" "$@" "$KEYLOCK" --path 'some job/1'
}

@test "P7 same key, same lock, whatever the environment is" {
	at=$work
	unset KEYLOCK_DIR
	path=$("$KEYLOCK" --path 'some job/1')
	[[ $path == */'some%20job%2F1' ]]
	case $(id -u) in
	0) [ "${path%/*}" = /run/keylock ] ;;
	*) [[ ${path%/*} == /run/lock/keylock-$(id -u) || ${path%/*} == /tmp/keylock-$(id -u) ]] ;;
	esac
	same_path env -i
	same_path env XDG_RUNTIME_DIR="$at" XDG_CACHE_HOME="$at" XDG_STATE_HOME="$at"
	same_path env TMPDIR="$at" TMP="$at" TEMP="$at" HOME="$at"
	same_path env -u XDG_RUNTIME_DIR -u HOME USER=somebody LOGNAME=somebody UID=1 EUID=1
	same_path setsid
	same_path env -C /
	same_path sh -c 'umask 0777; exec "$@"' -
	same_path sh -c 'exec <&- 2>&- "$@"' -
}

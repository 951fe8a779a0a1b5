# shellcheck shell=bash
# For tests of processes and terminals, after "load helper":
#
#	has_ticket PID		keylock PID has its place in the line.
#	in_state PID LETTERS	the process is in one of these states (see proc(5)).
#	parent PID		prints the pid of its parent.
#	has_lines N FILE	FILE has N lines at least.
#	keep WHAT...		somebody keeps these locks on the lockfile of the key "key"; see
#				keep.c. Sets keeper, to be ended with "stop_keeping".
#
# and a real terminal, which is a tmux of the test's own:
#
#	terminal COMMAND ARG...	COMMAND, with an argument at least, in a window of its own. Sets pane,
#				its pid.
#	terminal_shell		the same with an interactive bash in $BATS_TEST_TMPDIR.
#	type_line TEXT		types TEXT and Enter.
#	press KEY...		types keys by tmux's names, such as C-z.
#	at_prompt		the shell has its terminal back from the job in the foreground.
#	in_front PID		the process is in the terminal's foreground.
#	close_window		what a click on the window's cross does.
#	show_screen		prints what the terminal shows. For teardown.

has_ticket() {
	[ -n "$(ticket "$1")" ]
}

ticket() {
	sed -nE 's/^lock:.* OFDLCK +ADVISORY +WRITE .* ([0-9]{4,}) [0-9]+$/\1/p' \
		/proc/"$1"/fdinfo/* 2>/dev/null || :
}

# Prints the fields of /proc/PID/stat from the state on: state, parent, group, session,
# terminal, the terminal's foreground group.
stat_of() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return
	printf '%s\n' "${stat##*) }"
}

in_state() {
	local stat
	stat=$(stat_of "$1") && [[ $stat == [$2]* ]]
}

parent() {
	stat_of "$1" | cut -d ' ' -f 2
}

has_lines() {
	[ -e "$2" ] && [ "$(wc -l <"$2")" -ge "$1" ]
}

keep() {
	local path said=$BATS_TEST_TMPDIR/kept keep
	keep=$(probe keep)
	path=$("$KEYLOCK" --path key)
	mkdir -m 700 "$KEYLOCK_DIR" 2>/dev/null || :
	: >"$said"
	"$keep" "$path" "$@" >"$said" 3>&- 4>&- &
	keeper=$!
	started "$keeper"
	wait_for 20 grep -q kept "$said"
}

stop_keeping() {
	kill -KILL "$keeper"
	wait "$keeper" 2>/dev/null || :
}

# --- a terminal ---

tm() {
	# A daemon with bats's descriptors would keep bats from ending.
	tmux -S "$BATS_TEST_TMPDIR/tmux" "$@" 3>&- 4>&-
}

terminal() {
	need tmux
	tm -f /dev/null new-session -d -x 120 -y 30 -- "$@"
	pane=$(tm display-message -p '#{pane_pid}')
}

terminal_shell() {
	terminal env -C "$BATS_TEST_TMPDIR" HISTFILE=/dev/null 'PS1=ready> ' \
		bash --norc --noprofile -i
	type_line 'true >shell'
	wait_for 20 test -e "$BATS_TEST_TMPDIR/shell"
	wait_for 20 at_prompt
}

press() {
	tm send-keys "$@"
}

type_line() {
	tm send-keys -l -- "$1"
	tm send-keys Enter
}

at_prompt() {
	in_front "$pane"
}

in_front() {
	local group foreground
	read -r _ _ group _ _ foreground _ <<<"$(stat_of "$1")"
	[[ -n $group && $group == "$foreground" ]]
}

close_window() {
	tm kill-window
}

show_screen() {
	[ ! -S "$BATS_TEST_TMPDIR/tmux" ] || tm capture-pane -p 2>/dev/null | sed -n '/./s/^/screen: /p'
}

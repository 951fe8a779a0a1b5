#!/usr/bin/env bats
# The recipes of the README, each read out of the README itself and run by its real interpreter, so
# that they cannot drift. Those that stand there as transcripts are run by documents.bats.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153,SC2154 # inner shells' and the helper's variables

export KEYLOCK_TEST_LIMIT=${KEYLOCK_TEST_LIMIT:-180}
load helper

setup() {
	keylock_setup
	need_long
	# As a user has it: keylock on PATH, and in the folder of the work a command that charges. It
	# writes what it was told, whether its key is held, and what it was told to exit with.
	mkdir "$BATS_TEST_TMPDIR/bin" "$BATS_TEST_TMPDIR/here"
	ln -s "$KEYLOCK" "$BATS_TEST_TMPDIR/bin/keylock"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	cd "$BATS_TEST_TMPDIR/here" || return
	cat >charge <<-'END'
		#!/bin/sh
		held=$(keylock --who "user:$1") && echo "charged $*"
		exit "${CHARGE_STATUS-0}"
	END
	chmod +x charge
}

# recipe LABEL: prints the block under the paragraph of the README's recipes that begins with LABEL;
# blank lines within it belong to it.
recipe() {
	awk -v label="$1" '
		/^Recipes$/ { inside = 1 }
		inside && /^Comparison$/ { exit }
		inside && index($0, label) == 1 { found = 1; next }
		found && /^    / { for (; blank > 0; blank--) print ""; print substr($0, 5); began = 1; next }
		found && /^$/ { if (began) blank++; next }
		found && began { exit }' "$BATS_TEST_DIRNAME/../README" >"$BATS_TEST_TMPDIR/recipe"
	if [ ! -s "$BATS_TEST_TMPDIR/recipe" ]; then
		echo "the README has no recipe \"$1\"" >&2
		return 1
	fi
	cat "$BATS_TEST_TMPDIR/recipe"
}

# quickly: the recipe with a shorter wait for the key.
quickly() {
	sed -E 's/"-w", "5"/"-w", "0.1"/'
}

# a_command WORDS... PROGRAM: the recipe for a command, in PROGRAM run by WORDS, charges under the
# user's key, and tells apart that the key is taken and that the command failed.
a_command() {
	grep -q '"-w", "0\.1"' "${!#}"
	run_it "$@" 42
	expect 0
	[ "$output" = 'charged 42' ]
	CHARGE_STATUS=3 run_it "$@" 42
	[[ $output == *failed* && $output != *busy* ]]
	hold user:42
	run_it "$@" 42
	[ "$output" = 'busy, try again' ]
	run_it "$@" 43
	[ "$output" = 'charged 43' ]
	let_go
	[ "$(files)" = 0 ]
}

# a_section WORDS... PROGRAM: the recipe for a section of code. PROGRAM is to take two arguments: a
# key, and a fifo that its section reads a line of, after it has written "within" to standard output;
# without the key it is to write something of "busy", 75 included.
a_section() {
	local program fifo=$BATS_TEST_TMPDIR/section said=$BATS_TEST_TMPDIR/said
	mkfifo "$fifo"
	# Held while the section runs.
	exec 7<>"$fifo"
	"$@" section:1 "$fifo" >"$said" 2>&1 3>&- 4>&- &
	program=$!
	wait_for 60 grep -q within "$said"
	run_keylock -n section:1 true
	expect 75
	# Another one is refused, and does not enter; another key is free.
	run_it "$@" section:1 "$fifo"
	[[ $output$stderr == *75* || $output == *busy* ]]
	[[ $output != *within* ]]
	run_keylock -n section:2 true
	expect 0
	# Free when the section has ended.
	echo >&7
	wait "$program"
	wait_for 20 eval '[ "$(files)" = 0 ]'
	# Free when the program is killed in the middle.
	"$@" section:1 "$fifo" >"$said" 2>&1 3>&- 4>&- &
	program=$!
	wait_for 60 grep -q within "$said"
	run_keylock -n section:1 true
	expect 75
	kill -KILL "$program"
	wait "$program" 2>/dev/null || :
	run_keylock -w 20 section:1 true
	expect 0
	[ "$(files)" = 0 ]
}

@test "what is read out of the README is what stands there" {
	run recipe 'no such recipe'
	[ "$status" = 1 ]
	[ "$(recipe 'make, ')" = 'deploy: ; keylock -w 10m deploy ./deploy' ]
	[ "$(recipe 'Python, for a command' | head -n 1)" = 'import subprocess' ]
	[ "$(recipe 'Several machines')" = 'keylock job -- etcdctl lock job -- ./job' ]
}

@test "recipe: a script that wraps itself" {
	local script
	recipe 'A script that runs once at a time' >"$BATS_TEST_TMPDIR/block"
	awk '/^\$ cat nightly/ { on = 1; next } /^\$ / { on = 0 } on' "$BATS_TEST_TMPDIR/block" |
		sed 's/^sleep 20$/keylock --who nightly/' >nightly
	for script in sh bash dash; do
		command -v "$script" >/dev/null || continue
		run_it "$script" ./nightly
		expect 0
		[[ $output == 'nobody else is here'$'\n'[0-9]* ]]
		hold nightly
		run_it "$script" ./nightly
		expect_taken 75
		let_go
	done
}

@test "recipe: a line for crontab, in a real cron daemon" {
	need_root
	need cron
	local line
	line=$(recipe 'A line for crontab(5)')
	[[ $line == '*/5 * * * * /usr/local/bin/keylock -n -E 0 report /usr/local/bin/report' ]]
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	printf '#!/bin/sh\necho reported >>%q/reported\n' "$public" >"$public/report"
	chmod 755 "$public/report"
	# Each minute, since the test cannot wait for five, in the system's crontab, which names the user.
	line=${line//\/usr\/local\/bin/"$public"}
	printf '%s\n' "${line/'*/5 * * * *'/'* * * * * root'}" >"$public/crontab"
	cat >"$public/scene" <<-'SCRIPT'
		unset KEYLOCK_DIR
		mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock &&
			mount -t tmpfs none /etc/cron.d &&
			mount -t tmpfs -o mode=1730 none /var/spool/cron/crontabs &&
			mount --bind "$1/crontab" /etc/crontab || exit
		cron -f &
		cron=$!
		until [ -e "$1/reported" ]; do sleep 0.1; done
		kill "$cron"
		wait "$cron"
		ls -A /run/keylock
	SCRIPT
	chown root:root "$public/crontab"
	run_it private_root sh "$public/scene" "$public"
	expect 0
	[ -z "$output" ]
	[ "$(cat "$public/reported")" = reported ]
}

@test "recipe: a systemd service" {
	need systemd-analyze
	local unit=$BATS_TEST_TMPDIR/keylock-recipe.service line
	printf '#!/bin/sh\necho reported\n' >"$BATS_TEST_TMPDIR/bin/report"
	chmod +x "$BATS_TEST_TMPDIR/bin/report"
	recipe 'systemd, a service' | sed "s|/usr/local/bin/|$BATS_TEST_TMPDIR/bin/|g" >"$unit"
	run_it systemd-analyze verify --man=no "$unit"
	expect 0
	[ -z "$output$stderr" ]
	# It would have found a mistake.
	sed 's/^SuccessExitStatus=.*/SuccessExitStatus=x/' "$unit" >"$BATS_TEST_TMPDIR/keylock-wrong.service"
	run_it systemd-analyze verify --man=no "$BATS_TEST_TMPDIR/keylock-wrong.service"
	[ -n "$stderr" ]
	# There is no systemd here to start it: its line, with the status that is a success.
	line=$(sed -n 's/^ExecStart=//p' "$unit")
	run_it sh -c "$line"
	[ "$output" = reported ]
	hold report
	run_it sh -c "$line"
	[ -z "$output" ]
	expect "$(sed -n 's/^SuccessExitStatus=//p' "$unit")"
	let_go
}

@test "recipe: make" {
	need make
	recipe 'make, ' >Makefile
	printf '#!/bin/sh\nkeylock --who deploy >/dev/null && echo deployed\n' >deploy.sh
	chmod +x deploy.sh
	sed -i 's|\./deploy$|./deploy.sh|' Makefile
	run_it make -s deploy
	expect 0
	[ "$output" = deployed ]
	hold deploy
	make -s deploy >"$BATS_TEST_TMPDIR/made" 3>&- 4>&- &
	waiter=$!
	wait_for 20 blocked "$KEYLOCK_DIR/deploy"
	[ ! -s "$BATS_TEST_TMPDIR/made" ]
	let_go
	wait "$waiter"
	[ "$(cat "$BATS_TEST_TMPDIR/made")" = deployed ]
}

# A charge of the file "charges": it must be alone for its user, and is to meet others of other users.
slow_charge() {
	cat >charge <<-'END'
		#!/bin/sh
		mkdir "busy-$1" || { echo "overlap $1"; exit 1; }
		ls -d busy-* | grep -cv "^busy-$1$" >>others
		sleep 0.05
		echo "charged $1 $2"
		rmdir "busy-$1"
	END
	local user sum
	for sum in 1.50 2 3; do
		for user in 7 "8" 9 10; do
			echo "$user $sum"
		done
	done >charges
	: >others
}

all_charged() {
	[ "$(sort "$out")" = "$(sed 's/^/charged /' charges | sort)" ]
	# Side by side, those of other users.
	grep -q '[1-9]' others
	[ "$(files)" = 0 ]
}

@test "recipe: xargs" {
	slow_charge
	recipe 'xargs and GNU parallel' | grep '^xargs' >script
	run_it sh script
	expect 0
	all_charged
}

@test "recipe: GNU parallel" {
	need parallel
	parallel --version 2>/dev/null | grep -q '^GNU parallel' || skip 'needs GNU parallel'
	slow_charge
	recipe 'xargs and GNU parallel' | grep '^parallel' >script
	run_it env HOME="$BATS_TEST_TMPDIR" sh script
	expect 0
	all_charged
}

@test "recipe: Python, a command" {
	need python3
	{
		printf 'import sys\nuser = sys.argv[1]\n'
		recipe 'Python, for a command' | quickly
	} >program
	a_command python3 program
}

@test "recipe: Python, a section of code" {
	need python3
	{
		recipe 'Python, for a section of code' | quickly
		cat <<-'END'
			import sys
			with held(sys.argv[1]):
			    print("within", flush=True)
			    open(sys.argv[2]).readline()
		END
	} >program
	a_section python3 program
	# An exception lets go, too, and comes out.
	{
		sed '/^import sys/,$d' program
		cat <<-'END'
			try:
			    with held("key"):
			        raise KeyError("mine")
			except KeyError as error:
			    print(error)
			with held("key"):
			    print("again")
		END
	} >raises
	run_it python3 raises
	[ "$output" = $'\'mine\'\nagain' ]
}

@test "recipe: Node, a command" {
	need node
	{
		echo 'const user = process.argv[2];'
		recipe 'Node, for a command' | quickly
	} >program.js
	a_command node program.js
}

@test "recipe: Node, a section of code" {
	need node
	{
		recipe 'Node, for a section of code' | quickly
		cat <<-'END'
			const [key, fifo] = process.argv.slice(2);
			held(key, async () => {
			  console.log("within");
			  // Not a file stream: a thread that blocks in read() would keep Node from ending.
			  await once(spawn("head", ["-n", "1", fifo]), "close");
			});
		END
	} >program.js
	a_section node program.js
	{
		recipe 'Node, for a section of code'
		cat <<-'END'
			(async () => {
			  try {
			    await held("key", async () => { throw new Error("mine"); });
			  } catch (error) {
			    console.log(error.message);
			  }
			  console.log(await held("key", () => "again"));
			})();
		END
	} >raises.js
	run_it node raises.js
	expect 0
	[ "$output" = $'mine\nagain' ]
}

@test "recipe: Perl" {
	need perl
	{
		printf 'use strict; use warnings; $| = 1;\nmy $user = $ARGV[0];\n'
		recipe 'Perl' | quickly
	} >program
	a_command perl program
}

@test "recipe: PHP, a section of code" {
	need php
	{
		cat <<-'END'
			<?php
			error_reporting(E_ALL);
			$user = $argv[1];
			function charge($user) {
			    global $argv;
			    echo "within\n";
			    fgets(fopen($argv[2], "r"));
			}
		END
		recipe 'PHP, for a section of code' | quickly | sed 's/"user:\$user"/$user/'
	} >program.php
	grep -q -- '"--hold", \$user\]' program.php
	a_section php program.php
	[[ ! -s $err ]]
}

@test "recipe: Elixir, a command" {
	need elixir
	{
		echo '[user] = System.argv()'
		recipe 'Elixir, for a command' | quickly
	} >program.exs
	a_command elixir program.exs
}

@test "recipe: Elixir, a section of code; the key is free when the BEAM is killed" {
	need elixir
	{
		recipe 'Elixir, for a section of code' | quickly
		cat <<-'END'
			[key, fifo] = System.argv()
			result = Keylock.held(key, fn ->
			  IO.puts("within")
			  # Not File.read: a thread that blocks in open() would keep the BEAM from ending.
			  System.cmd("head", ["-n", "1", fifo])
			end)
			case result do
			  {:ok, _} -> :ok
			  {:error, status} -> IO.puts("busy: #{status}")
			end
		END
	} >program.exs
	# The launcher becomes the BEAM, so that it is the BEAM that is killed.
	a_section elixir program.exs
}

@test "recipe: Elixir, a section of code; a function that raises and a process that is ended let go" {
	need elixir
	{
		recipe 'Elixir, for a section of code'
		cat <<-'END'
			try do
			  Keylock.held("key", fn -> raise "mine" end)
			rescue
			  error -> IO.puts(error.message)
			end
			IO.inspect(Keylock.held("key", fn -> :again end))
			parent = self()
			{pid, ref} = spawn_monitor(fn ->
			  Keylock.held("key", fn -> send(parent, :within); Process.sleep(:infinity) end)
			end)
			receive do :within -> :ok end
			{_, 75} = System.cmd("keylock", ["-n", "key", "true"])
			Process.exit(pid, :kill)
			receive do {:DOWN, ^ref, _, _, _} -> :ok end
			IO.inspect(Keylock.held("key", fn -> :free end))
			IO.inspect(Process.info(self(), :messages))
		END
	} >program.exs
	run_it elixir program.exs
	expect 0
	[ "$output" = $'mine\n{:ok, :again}\n{:ok, :free}\n{:messages, []}' ]
}

# --- several machines ---

# A free port, as the kernel gives one.
free_port() {
	python3 -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])'
}

start_etcd() {
	local client peer
	need etcd etcdctl python3
	client=http://127.0.0.1:$(free_port)
	peer=http://127.0.0.1:$(free_port)
	export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$client
	etcd --data-dir "$BATS_TEST_TMPDIR/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
		--listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
		--initial-cluster "default=$peer" >"$BATS_TEST_TMPDIR/etcd.log" 2>&1 3>&- 4>&- &
	wait_for 60 eval 'etcdctl endpoint health >/dev/null 2>&1'
	etcdctl watch --prefix job/ >>"$BATS_TEST_TMPDIR/events" 3>&- 4>&- &
	# The watch is there when it sees something.
	wait_for 30 eval 'etcdctl put job/probe x >/dev/null && grep -q "job/probe" "$BATS_TEST_TMPDIR/events"'
	etcdctl del job/probe >/dev/null
	wait_for 30 eval 'grep -q DELETE "$BATS_TEST_TMPDIR/events"'
	: >"$BATS_TEST_TMPDIR/events"
	cat >job <<-'END'
		#!/bin/sh
		mkdir "$HERE/alone" || { echo overlap >>"$HERE/log"; exit 1; }
		sleep 0.05
		echo "ran on $HOST" >>"$HERE/log"
		rmdir "$HERE/alone"
	END
	chmod +x job
	export HERE=$PWD
}

# contend HOSTS RUNS COMMAND: so many runs of the shell's COMMAND on each of so many hosts, at once.
# Sets most: how many contenders etcd has had at one time.
contend() {
	local host run pids=()
	: >log
	: >"$BATS_TEST_TMPDIR/events"
	for ((host = 1; host <= $1; host++)); do
		for ((run = 0; run < $2; run++)); do
			HOST=$host KEYLOCK_DIR=$KEYLOCK_DIR.$host sh -c "$3" >"$BATS_TEST_TMPDIR/etcdctl.log" 2>&1 3>&- 4>&- &
			pids+=($!)
		done
	done
	for run in "${pids[@]}"; do
		wait "$run"
	done
	wait_for 30 eval "[ \"\$(grep -c '^DELETE' \"\$BATS_TEST_TMPDIR/events\")\" = $(($1 * $2)) ]"
	# A contender is a key of etcd's from its PUT to its DELETE.
	most=$(awk '/^PUT$/ { if (++now > most) most = now } /^DELETE$/ { now-- } END { print most + 0 }' "$BATS_TEST_TMPDIR/events")
	echo "hosts $1, runs $2: $most contenders at most"
	sort log | uniq -c
	[ "$(grep -c '^ran on ' log)" = $(($1 * $2)) ]
	run grep overlap log
	[ "$status" = 1 ]
}

@test "recipe: several machines: etcd gets one contender at a time from each host" {
	local recipe most
	recipe=$(recipe 'Several machines')
	start_etcd
	contend 1 6 "$recipe"
	[ "$most" = 1 ]
	contend 2 6 "$recipe"
	[ "$most" -le 2 ]
	[ "$(grep -c 'ran on 1' log)" = 6 ]
	# The same without keylock, so that what is measured could be seen.
	contend 2 6 "${recipe#keylock job -- }"
	[ "$most" -gt 2 ]
	[[ $(files "$KEYLOCK_DIR.1") == 0 && $(files "$KEYLOCK_DIR.2") == 0 ]]
	# A failure of the command is one of the recipe.
	printf '#!/bin/sh\nexit 3\n' >job
	run_it sh -c "$recipe"
	expect 1
}

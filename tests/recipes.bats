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
	sed -E 's/"-w", "5"/"-w", "0.1"/; s/-w 5 /-w 0.1 /'
}

# a_command TOOL LABEL PRELUDE: the recipe for a command, after PRELUDE, which sets the user to the
# first argument, charges under the user's key, and tells apart that the key is taken and that the
# command failed.
a_command() {
	need "$1"
	{
		echo "$3"
		recipe "$2" | quickly
	} >program
	grep -q '"-w", "0\.1"' program
	run_it "$1" program 42
	expect 0
	[ "$output" = 'charged 42' ]
	CHARGE_STATUS=3 run_it "$1" program 42
	[[ $output == *failed* && $output != *busy* ]]
	hold user:42
	run_it "$1" program 42
	[ "$output" = 'busy, try again' ]
	run_it "$1" program 43
	[ "$output" = 'charged 43' ]
	let_go
	[ "$(files)" = 0 ]
}

# a_section TOOL PROGRAM: the recipe for a section of code. PROGRAM is to take two arguments: a key,
# and a fifo that its section reads a line of, after it has written "within" to standard output;
# without the key it is to end with 75 or to write something of that or of "busy".
a_section() {
	local program end fifo=$BATS_TEST_TMPDIR/section said=$BATS_TEST_TMPDIR/said
	[ -e "$fifo" ] || mkfifo "$fifo"
	exec 7<>"$fifo"
	for end in itself KILL; do
		"$1" "$2" section:1 "$fifo" >"$said" 2>&1 3>&- 4>&- 7>&- &
		program=$!
		wait_for 60 grep -q within "$said"
		# Held while the section runs: another one does not enter; another key is free.
		run_keylock -n section:1 true
		expect 75
		run_it "$1" "$2" section:1 "$fifo"
		[[ $output$stderr$status == *75* || $output == *busy* ]]
		[[ $output != *within* ]]
		run_keylock -n section:2 true
		expect 0
		# Free when it has ended, or was killed in the middle.
		if [ "$end" = itself ]; then
			echo >&7
			wait "$program"
		else
			kill -KILL "$program"
			wait "$program" 2>/dev/null || :
		fi
		run_keylock -w 20 section:1 true
		expect 0
		wait_for 20 eval '[ "$(files)" = 0 ]'
	done
}

# lets_go TOOL PROGRAM: PROGRAM leaves "key" though a process that it has started in the section, whose
# pid is its first line, lives on; the second line says that it has left.
lets_go() {
	local child
	run_it "$1" "$2"
	expect 0
	child=${output%%$'\n'*}
	started "$child"
	[ "${output#*$'\n'}" = left ]
	kill -0 "$child"
	run_keylock -n key true
	expect 0
	kill "$child"
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

# --- cron ---

# Debian's cron, a real daemon, in a mount namespace where the machine's own crontabs and /run are not to
# be seen. One test, since it takes up to a minute.
@test "P7 same key: cron's jobs and shells of root and of another user share a lock; the recipes for cron run there" {
	need_root
	need cron setpriv flock
	local line user uid
	line=$(recipe 'A line for crontab(5)')
	[[ $line == '*/5 * * * * /usr/local/bin/keylock -n -E 0 report /usr/local/bin/report' ]]
	uid=$(id -u nobody) || skip 'needs a user nobody'
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	mkdir -m 1777 "$public/results"
	# What a job and a shell run, with cron's PATH. Written under another name first: whoever waits for it
	# must not see the half of it.
	cat >"$public/job" <<-'SCRIPT'
		#!/bin/sh
		here=${0%/*} results=${0%/*}/results/$(id -un).$1
		{
			"$here/keylock" --path 'some job/1'
			"$here/keylock" -n 'some job/1' echo ran
			echo "status $?"
			"$here/keylock" -n 'another' echo ran
			id -u
		} >"$results.new" 2>&1
		env >"$results.environment"
		mv "$results.new" "$results"
	SCRIPT
	printf '#!/bin/sh\necho reported >>%q/reported\n' "$public" >"$public/report"
	recipe 'A section of a script' >"$public/pin"
	recipe 'From another program' >"$public/hold"
	sed -i "s|^echo .*|{ &; keylock -n nightly true; echo \$?; } >$public/\${0##*/}.said|" "$public/pin" "$public/hold"
	chmod 755 "$public/report" "$public/job"
	# Each minute, since the test cannot wait for five, in the system's crontab, which names the user.
	line=${line//\/usr\/local\/bin/"$public"}
	cat >"$public/crontab" <<-END
		* * * * * root test -e $public/results/root.cron || $public/job cron
		* * * * * nobody test -e $public/results/nobody.cron || $public/job cron
		${line/'*/5 * * * *'/'* * * * * root'}
		PATH=$public:/usr/bin:/bin
		* * * * * root sh $public/pin; sh $public/hold; echo \$? >$public/ended
	END
	cat >"$public/scene" <<-'SCRIPT'
		unset KEYLOCK_DIR
		mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock &&
			mount -t tmpfs none /etc/cron.d &&
			mount -t tmpfs -o mode=1730 none /var/spool/cron/crontabs &&
			mount --bind "$1/crontab" /etc/crontab || exit
		cron -f &
		cron=$! shells=
		for user in root nobody; do
			setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- \
				"$1/keylock" 'some job/1' sh -c '
					"$1/job" shell
					until [ -e "$1/results/$2.cron" ]; do sleep 0.2; done' - "$1" "$user" &
			shells="$shells $!"
		done
		until [ -s "$1/reported" ] && [ -s "$1/ended" ]; do sleep 0.1; done
		wait $shells
		kill "$cron"
		wait "$cron"
		ls -A /run/keylock
	SCRIPT
	chown root:root "$public/crontab"
	chmod 644 "$public/crontab"
	run_it private_root sh "$public/scene" "$public"
	# The file of the pinned key is all that is left.
	expect 0
	[ "$output" = nightly ]
	[[ $(cat "$public/reported") == reported && $(cat "$public/ended") == 0 ]]
	for line in pin hold; do
		[ "$(cat "$public/$line.said")" = $'nobody else is here\n75' ]
	done
	for user in /run/keylock:root:0 "/run/lock/keylock-$uid:nobody:$uid"; do
		IFS=: read -r line user uid <<<"$user"
		cd "$public/results"
		[ "$(cat "$user.cron")" = "$line/some%20job%2F1"$'\nstatus 75\nran\n'"$uid" ]
		[ "$(head -n 1 "$user.shell")" = "$line/some%20job%2F1" ]
		# The environments are not the same, or the test would show nothing.
		run_it diff "$user.shell.environment" "$user.cron.environment"
		expect 1
		run_it grep '^\(KEYLOCK\|XDG\)' "$user.cron.environment"
		expect 1
	done
}

@test "recipe: a line for crontab is silent where the key is taken, and with -W tells of a run that is stuck" {
	local line
	line=$(recipe 'A line for crontab(5)' | sed 's|.*/keylock|keylock|; s|/usr.*|true|')
	grep -q '^"-W 1h" as well' "$BATS_TEST_DIRNAME/../README"
	hold report
	run_it sh -c "$line"
	expect_taken 0
	run_it sh -c "${line/-n/-n -W 1h}"
	expect_taken 0
	stuck() {
		run_it sh -c "${line/-n/-n -W 10ms}"
		[ -n "$stderr" ]
	}
	wait_for 20 stuck
	expect_message 0 report "pid $holder" 'held for'
	let_go
}

# --- short ones ---

# A recipe of one line, run by the shell, with words changed by sed's SCRIPT.
short() {
	recipe "$1" | sed "${2-}" >"$BATS_TEST_TMPDIR/short"
	run_it bash "$BATS_TEST_TMPDIR/short"
}

# A script that notes its pid and those that it starts, and runs until all are ended.
endless() {
	printf '#!/bin/sh\n%s\nsleep 600 &\necho $$ $! >pids.new\nmv pids.new pids\nwait\n' "${1-}" >job
	chmod +x job
	rm -f pids
}

all_dead() {
	local first second
	read -r first second <pids
	is_dead "$first" && is_dead "$second"
}

@test "recipe: a section of a script, in every shell, by --pin and a descriptor, by --hold and a fifo" {
	need flock
	local label shell
	for label in 'A section of a script' 'From another program'; do
		recipe "$label" | quickly | sed 's/nightly/"$1"/; s/^echo .*/echo within; read -r _ <"$2"/' >script
		# What the test has pinned is not left.
		[[ $label == From* ]] || echo 'keylock --forget "$1"' >>script
		for shell in sh bash dash; do
			! command -v "$shell" >/dev/null || a_section_of_script "$shell"
		done
	done
}

a_section_of_script() {
	# shellcheck disable=SC2317 # a_section calls it
	files() { find "$KEYLOCK_DIR" -mindepth 1 ! -perm -u+x 2>/dev/null | wc -l; }
	a_section "$1" script
	run_keylock --forget section:1
}

@test "recipe: at most one runs and one waits" {
	local recipe
	recipe=$(recipe 'At most one runs')
	printf '#!/bin/sh\nuntil [ -e go ]; do sleep 0.02; done\necho built >>log\n' >build
	chmod +x build
	sh -c "$recipe" 3>&- 4>&- &
	wait_for 20 eval 'keylock --who site >/dev/null'
	sh -c "$recipe" 3>&- 4>&- &
	wait_for 20 blocked "$KEYLOCK_DIR/site"
	run_it sh -c "$recipe"
	expect_taken 0
	: >go
	wait
	[ "$(wc -l <log)" = 2 ]
	[ "$(files)" = 0 ]
}

@test "recipe: not more often than every five minutes" {
	printf '#!/bin/sh\necho mailed\n' >mail
	chmod +x mail
	short 'Not more often'
	expect 0
	[ "$output" = mailed ]
	short 'Not more often'
	expect_taken 75
	kill "$(keylock --who mail)"
	wait_for 20 eval 'keylock -n mail true'
}

@test "P2 free at once, recipe: a limit of run time ends all that the job has started, inside the lock and outside" {
	local how
	for how in '1p' '$p'; do
		endless
		short 'A limit of run time' "s/1h/0.5/; $how; d"
		expect 124
		wait_for 20 all_dead
		run_keylock -w 20 job true
		expect 0
	done
	# The wait counts outside only.
	hold job
	rm pids
	short 'A limit of run time' "s/1h/0.5/; \$!d"
	expect 124
	[ ! -e pids ]
	let_go
	# What does not heed it keeps the key.
	for how in '1p' '$p'; do
		endless '(trap "" TERM; exec sleep 600) & echo $! >deaf'
		short 'A limit of run time' "s/1h/0.5/; $how; d"
		expect 124
		run_keylock -n job true
		expect 75
		kill -KILL "$(cat deaf)"
		run_keylock -w 20 job true
		expect 0
	done
}

@test "P2 free at once, recipe: kill who has it and run, when all that it had started has ended" {
	local killed new
	endless
	ln -s job old
	printf '#!/bin/sh\nls pids 2>/dev/null; echo built\n' >build
	chmod +x build
	keylock site ./old 3>&- 4>&- &
	killed=$!
	wait_for 20 test -e pids
	recipe 'Kill who has it' >script
	sh script >said 3>&- 4>&- &
	new=$!
	ended_with "$killed" 143
	wait_for 20 blocked "$KEYLOCK_DIR/site"
	[ ! -s said ]
	kill "$(cut -d ' ' -f 2 pids)"
	wait "$new"
	[ "$(tail -n 1 said)" = built ]
}

@test "recipe: a key for another process's life" {
	local process
	tail --version 2>/dev/null | grep -q GNU || skip 'needs GNU tail'
	sleep 600 3>&- 4>&- &
	process=$!
	recipe 'Hold a key while' | sed "s/812/$process/; 1q" >script
	sh script 3>&- 4>&- &
	wait_for 20 eval 'keylock --who site >/dev/null'
	run_keylock -n site true
	expect 75
	kill "$process"
	run_keylock -w 20 site true
	expect 0
}

@test "recipe: a function of the shell as the command" {
	charge() { echo "charged $1 by $(keylock --who user:42)"; }
	export -f charge
	short 'Hold a key while' '$!d'
	expect 0
	[[ $output =~ ^charged\ 42\ by\ [0-9]+$ ]]
}

@test "recipe: a file of output that is not emptied where the key is taken" {
	printf '#!/bin/sh\necho new\n' >report
	chmod +x report
	echo old >out
	hold report
	short '"keylock -n report'
	expect 75
	[ "$(cat out)" = old ]
	# What the README warns of.
	run_it sh -c "$(sed -n 's/^"\(keylock -n report [^"]*\)".*/\1/p' "$BATS_TEST_DIRNAME/../README")"
	expect 75
	[[ -e out && ! -s out ]]
	let_go
	short '"keylock -n report'
	[ "$(cat out)" = new ]
}

# --- services and tools ---

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
	recipe 'make, ' | sed 's|\./deploy$|./deploy.sh|' >Makefile
	printf '#!/bin/sh\nkeylock --who deploy >/dev/null && echo deployed\n' >deploy.sh
	chmod +x deploy.sh
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

# --- other languages ---

@test "recipe: Python, a command" {
	a_command python3 'Python, for a command' 'import sys; user = sys.argv[1]'
}

@test "recipe: Node, a command" {
	a_command node 'Node, for a command' 'const user = process.argv[2];'
}

@test "recipe: Perl" {
	a_command perl 'Perl' 'use strict; use warnings; $| = 1; my $user = $ARGV[0];'
}

@test "recipe: Elixir, a command" {
	a_command elixir 'Elixir, for a command' '[user] = System.argv()'
}

@test "recipe: Python, a section of code; an exception lets go, and a forked process does not keep the key" {
	need python3
	recipe 'Python, for a section of code' | quickly >held.py
	cat >program <<-'END'
		import sys
		from held import held
		with held(sys.argv[1]):
		    print("within", flush=True)
		    open(sys.argv[2]).readline()
	END
	a_section python3 program
	cat >raises <<-'END'
		from held import held
		try:
		    with held("key"):
		        raise KeyError("mine")
		except KeyError as error:
		    print(error)
		with held("key"):
		    print("again")
	END
	run_it python3 raises
	[ "$output" = $'\'mine\'\nagain' ]
	cat >forks <<-'END'
		import os, time
		from held import held
		with held("key"):
		    child = os.fork()
		    if not child:
		        time.sleep(600)
		        os._exit(0)
		print(child, "left", sep="\n")
	END
	lets_go python3 forks
}

@test "recipe: Node, a section of code; an error lets go, and a started process does not keep the key" {
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
	} >program
	a_section node program
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
	} >raises
	run_it node raises
	expect 0
	[ "$output" = $'mine\nagain' ]
	{
		recipe 'Node, for a section of code'
		cat <<-'END'
			held("key", () => {
			  const child = spawn("sleep", ["600"], { stdio: "ignore", detached: true });
			  child.unref();
			  return child.pid;
			}).then((pid) => console.log(`${pid}\nleft`));
		END
	} >starts
	lets_go node starts
}

@test "recipe: PHP, a section of code; an exception lets go, and a forked process does not keep the key" {
	need php
	{
		cat <<-'END'
			<?php
			error_reporting(E_ALL);
			$user = $argv[1];
			function charge($user) {
			    global $argv;
			    if ($user === "raises") throw new Exception("mine");
			    if ($user === "forks") {
			        global $child;
			        if (!($child = pcntl_fork())) exit(sleep(600));
			        return;
			    }
			    echo "within\n";
			    fgets(fopen($argv[2], "r"));
			}
		END
		recipe 'PHP, for a section of code' | quickly | sed 's/"user:\$user"/$user/'
	} >program
	grep -q -- '"--hold", \$user\]' program
	a_section php program
	[[ ! -s $err ]]
	run_it php program raises
	expect 255
	[ "$(files)" = 0 ]
	php -m | grep -qx pcntl || skip 'needs pcntl'
	sed 's/\$argv\[1\]/"forks"/; s/"--hold", \$user/"--hold", "key"/' program >forks
	printf '%s\n' 'echo "$child\nleft\n";' >>forks
	lets_go php forks
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
	} >program
	# The launcher becomes the BEAM, so that it is the BEAM that is killed.
	a_section elixir program
}

@test "recipe: Elixir, a section of code; who raises or is ended lets go, and a started process does not keep the key" {
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
			IO.inspect(Keylock.held("key", fn ->
			  Port.open({:spawn_executable, "/bin/sleep"}, args: ["600"])
			  :free
			end))
			{_, 0} = System.cmd("keylock", ["-w", "20", "key", "true"])
			IO.inspect(Process.info(self(), :messages))
		END
	} >program
	run_it elixir program
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

# The recipes of the README, each read out of the README itself and run by its real interpreter, so
# that they cannot drift. Those that stand there as transcripts are run by documents.bats.

export KEYLOCK_TEST_LIMIT=${KEYLOCK_TEST_LIMIT:-180}
load helper

setup() {
	keylock_setup
	need_long
	# As a user has it: keylock on PATH, and in the folder of the work a command that charges. It
	# writes what it was told, whether its key is held, and exits as it was told.
	mkdir "$work/bin" "$work/here"
	ln -s "$KEYLOCK" "$work/bin/keylock"
	PATH=$work/bin:$PATH
	cd "$work/here" || return
	executable charge 'held=$(keylock --who "user:$1") && echo "charged $*"; exit "${CHARGE_STATUS-0}"'
}

# executable NAME SCRIPT: a script of that name.
executable() {
	printf "#!/bin/sh\n%s\n" "$2" >"$1"
	chmod +x "$1"
}

# recipe LABEL: prints the block under the paragraph of the README's recipes that begins with LABEL;
# blank lines within it belong to it. The wait for the key is shorter.
recipe() {
	awk -v label="$1" '
		/^Recipes$/ { inside = 1 }
		inside && /^Comparison$/ { exit }
		inside && index($0, label) == 1 { found = 1; next }
		found && /^    / { for (; blank > 0; blank--) print ""; print substr($0, 5); began = 1; next }
		found && /^$/ { if (began) blank++; next }
		found && began { exit }' "$BATS_TEST_DIRNAME/../README" |
		sed -E 's/"-w", "5"/"-w", "0.1"/; s/-w 5 /-w 0.1 /' >"$work/recipe"
	[ -s "$work/recipe" ] || {
		echo "the README has no recipe \"$1\"" >&2
		return 1
	}
	cat "$work/recipe"
}

# short LABEL [SED]: a recipe of the shell, with words changed.
short() {
	recipe "$1" | sed "${2-}" >"$work/short"
	run_it bash "$work/short"
}

freed() {
	gives 0 -w 20 "$1" true
}

# a_section TOOL PROGRAM: PROGRAM takes two arguments: a key, and a fifo that its section reads a line
# of, after it has written "within"; without the key it ends with 75 or writes that or "busy".
a_section() {
	local program end fifo=$work/section
	[ -e "$fifo" ] || mkfifo "$fifo"
	exec 7<>"$fifo"
	for end in itself KILL; do
		"$1" "$2" section:1 "$fifo" >"$said" 2>&1 3>&- 4>&- 7>&- &
		program=$!
		wait_for 60 grep -q within "$said"
		gives 75 -n section:1 true
		run_it "$1" "$2" section:1 "$fifo"
		[[ $output$stderr$status == *75* || $output == *busy* ]]
		[[ $output != *within* ]]
		free section:2
		if [ "$end" = itself ]; then
			echo >&7
			wait "$program"
		else
			kill_hard "$program"
		fi
		freed section:1
		all_gone
	done
}

# a_language TOOL PROGRAM: a section, and that PROGRAM KEY raise prints "mine" when its section has
# failed so, and enters another; and that PROGRAM KEY start leaves the key though a process that it has
# started in the section, whose pid is its first line, lives on.
a_language() {
	local child
	a_section "$@"
	it_prints $'mine\nagain\nleft' "$@" key raise
	it_gives 0 "$@" key start
	child=${output%%$'\n'*}
	[ "${output#*$'\n'}" = left ]
	kill -0 "$child"
	gives 0 -n key true
}

# --- the shell, cron and systemd ---

# Debian's cron, a real daemon, in a mount namespace where the machine's own crontabs and /run are not to
# be seen. One test, since it takes up to a minute.
@test "P7 same key: cron's jobs and shells of root and of another user share a lock; the recipe for cron runs there, and a section of a script" {
	need_root
	need cron setpriv
	line=$(recipe 'A line for crontab(5)')
	[[ $line == '*/5 * * * * /usr/local/bin/keylock -n -E 0 report /usr/local/bin/report' ]]
	uid=$(id -u nobody) || skip 'needs a user nobody'
	public_folder
	cp "$KEYLOCK" "$public/keylock"
	cd "$public"
	mkdir -m 1777 results
	executable report "echo reported >>$public/reported"
	# What a job and a shell run. Written under another name first: whoever waits for it must not see
	# the half of it.
	executable job 'cd "${0%/*}/results"
		name=$(id -un).$1
		{
			../keylock --path "some job/1"
			../keylock -n "some job/1" echo ran
			echo "status $?"
			../keylock -n another echo ran
			id -u
		} >"$name.new" 2>&1
		env >"$name.environment"
		mv "$name.new" "$name"'
	# Both sections, of which another run would find the key taken.
	recipe 'A section of a script' >by-pin
	recipe 'From another program' >by-hold
	sed -i 's/^echo .*/{ &; keylock -n nightly true; echo $?; } >>said/' by-pin by-hold
	# Each minute, since the test cannot wait for five, in the system's crontab, which names the user.
	cat >./crontab <<-END
		* * * * * root test -e $public/results/root.cron || $public/job cron
		* * * * * nobody test -e $public/results/nobody.cron || $public/job cron
		* * * * * root ${line#*'* * * * '}
		PATH=$public:/usr/bin:/bin
		* * * * * root cd $public; for shell in sh bash; do \$shell by-pin; \$shell by-hold; done; mv said sections
	END
	sed -i "s|/usr/local/bin|$public|g" crontab
	cat >scene <<-'SCRIPT'
		unset KEYLOCK_DIR
		mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock &&
			mount -t tmpfs none /etc/cron.d &&
			mount -t tmpfs -o mode=1730 none /var/spool/cron/crontabs &&
			mount --bind crontab /etc/crontab || exit
		cron -f &
		cron=$! shells=
		for user in root nobody; do
			setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- ./keylock 'some job/1' sh -c '
				"$1/job" shell
				until [ -e "$1/results/$2.cron" ]; do sleep 0.2; done' - "$PWD" "$user" &
			shells="$shells $!"
		done
		until [ -s reported ] && [ -s sections ]; do sleep 0.1; done
		wait $shells
		kill "$cron"
		wait "$cron"
		./keylock --forget nightly
		ls -A /run/keylock
	SCRIPT
	chmod 644 crontab
	it_gives 0 private_root sh scene
	[ -z "$output" ]
	[ "$(cat reported)" = reported ]
	[ "$(cat sections)" = "$(printf 'nobody else is here\n75\n%.0s' 1 2 3 4)" ]
	cd results
	while read -r user uid dir; do
		[ "$(cat "$user.cron")" = "$dir/some%20job%2F1"$'\nstatus 75\nran\n'"$uid" ]
		[ "$(head -n 1 "$user.shell")" = "$dir/some%20job%2F1" ]
		# The environments are not the same, or the test would show nothing.
		it_gives 1 diff "$user.shell.environment" "$user.cron.environment"
		it_gives 1 grep '^\(KEYLOCK\|XDG\)' "$user.cron.environment"
	done <<-END
		root 0 /run/keylock
		nobody $uid /run/lock/keylock-$uid
	END
}

@test "recipe: a systemd service" {
	need systemd-analyze
	unit=$work/keylock-recipe.service
	executable "$work/bin/report" 'echo reported'
	recipe 'systemd, a service' | sed "s|/usr/local/bin/|$work/bin/|g" >"$unit"
	it_gives 0 systemd-analyze verify --man=no "$unit"
	[ -z "$output$stderr" ]
	# It would have found a mistake.
	sed 's/^SuccessExitStatus=.*/SuccessExitStatus=x/' "$unit" >"${unit/recipe/wrong}"
	run_it systemd-analyze verify --man=no "${unit/recipe/wrong}"
	[ -n "$stderr" ]
	# There is no systemd here to start it: its line, with the status that is a success.
	line=$(sed -n 's/^ExecStart=//p' "$unit")
	it_prints reported sh -c "$line"
	hold report
	it_quiet "$(sed -n 's/^SuccessExitStatus=//p' "$unit")" sh -c "$line"
}

@test "recipe: a section of a script, in every shell, by --pin and a descriptor, by --hold and a fifo" {
	# What the test has pinned is not left.
	files() {
		find "$KEYLOCK_DIR" -mindepth 1 ! -perm -u+x 2>/dev/null | wc -l
	}
	for label in 'A section of a script' 'From another program'; do
		recipe "$label" | sed 's/nightly/"$1"/; s/^echo .*/echo within; read -r _ <"$2"/' >script
		[[ $label == From* ]] || echo 'keylock --forget "$1"' >>script
		for shell in sh bash dash; do
			! command -v "$shell" >/dev/null || a_section "$shell" script
			run_keylock --forget section:1
		done
	done
}

# --- short ones ---

@test "recipe: at most one runs and one waits" {
	recipe=$(recipe 'At most one runs')
	executable build 'until [ -e go ]; do sleep 0.02; done; echo built >>log'
	sh -c "$recipe" 3>&- 4>&- &
	wait_for 20 eval 'keylock --who site >/dev/null'
	sh -c "$recipe" 3>&- 4>&- &
	wait_for 20 blocked "$KEYLOCK_DIR/site"
	it_quiet 0 sh -c "$recipe"
	: >go
	wait
	[ "$(wc -l <log)" = 2 ]
	[ "$(files)" = 0 ]
}

@test "recipe: not more often than every five minutes" {
	executable mail 'echo mailed'
	short 'Not more often'
	expect 0
	[ "$output" = mailed ]
	short 'Not more often'
	expect_taken 75
	kill "$(keylock --who mail)"
	freed mail
}

# endless NAME [COMMAND]: a script that notes its pid and that of its child, and runs until it is ended.
endless() {
	executable "$1" "${2-}
		sleep 600 &
		echo \$\$ \$! >pids.new
		mv pids.new pids
		wait"
	rm -f pids
}

all_dead() {
	local first second
	read -r first second <pids
	is_dead "$first" && is_dead "$second"
}

@test "P2 free at once, recipe: a limit of run time ends all that the job has started, inside the lock and outside" {
	limit='A limit of run time'
	for which in '1p' '$p'; do
		endless job
		short "$limit" "s/1h/0.5/; $which; d"
		expect 124
		wait_for 20 all_dead
		freed job
		# What does not heed it keeps the key.
		endless job '(trap "" TERM; exec sleep 600) & echo $! >deaf'
		short "$limit" "s/1h/0.5/; $which; d"
		expect 124
		gives 75 -n job true
		kill -KILL "$(cat deaf)"
		freed job
	done
	# The wait counts outside only.
	hold job
	rm pids
	short "$limit" "s/1h/0.5/; \$!d"
	expect 124
	[ ! -e pids ]
}

@test "P2 free at once, recipe: kill who has it and run, when all that it had started has ended" {
	endless old
	executable build 'echo built'
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

@test "recipe: a key for another process's life; a function of the shell as the command" {
	charge() {
		echo "charged $1 by $(keylock --who user:42)"
	}
	export -f charge
	short 'Hold a key while' '$!d'
	expect 0
	[[ $output =~ ^charged\ 42\ by\ [0-9]+$ ]]
	tail --version 2>/dev/null | grep -q GNU || skip 'needs GNU tail'
	sleep 600 3>&- 4>&- &
	process=$!
	recipe 'Hold a key while' | sed "s/812/$process/; 1q" >script
	sh script 3>&- 4>&- &
	wait_for 20 eval 'keylock --who site >/dev/null'
	kill "$process"
	freed site
}

@test "recipe: a file of output that is not emptied where the key is taken" {
	executable report 'echo new'
	echo old >out
	hold report
	short '"keylock -n report'
	expect 75
	[ "$(cat out)" = old ]
	# What the README warns of.
	it_gives 75 sh -c "$(sed -n 's/^"\(keylock -n report [^"]*\)".*/\1/p' "$BATS_TEST_DIRNAME/../README")"
	[[ -e out && ! -s out ]]
	let_go
	short '"keylock -n report'
	[ "$(cat out)" = new ]
}

@test "recipe: make, where the second of two deploys waits" {
	need make
	recipe 'make, ' | sed 's|\./deploy$|./deploy.sh|' >Makefile
	executable deploy.sh 'keylock --who deploy >/dev/null && echo deployed'
	hold deploy
	make -s deploy >made 3>&- 4>&- &
	waiter=$!
	wait_for 20 blocked "$KEYLOCK_DIR/deploy"
	[ ! -s made ]
	let_go
	wait "$waiter"
	[ "$(cat made)" = deployed ]
}

@test "P1 alone, recipe: xargs and GNU parallel, never two of one user, and others side by side" {
	executable charge 'mkdir "busy-$1" || { echo "overlap $1"; exit 1; }
		ls -d busy-* | grep -cv "^busy-$1$" >>others
		sleep 0.05
		echo "charged $1 $2"
		rmdir "busy-$1"'
	for sum in 1.50 2 3; do
		for user in 7 8 9 10; do
			echo "$user $sum"
		done
	done >charges
	for tool in xargs parallel; do
		[ $tool = xargs ] || need parallel
		[ $tool = xargs ] || parallel --version 2>/dev/null | grep -q '^GNU' || skip 'needs GNU parallel'
		: >others
		recipe 'xargs and GNU parallel' | grep "^$tool" >script
		it_gives 0 env HOME="$work" sh script
		[ "$(sort "$out")" = "$(sed 's/^/charged /' charges | sort)" ]
		grep -q '[1-9]' others
		[ "$(files)" = 0 ]
	done
}

# --- other languages ---

@test "recipe: a command from Python, Node, Perl and Elixir: done, failed, and busy are told apart" {
	missing=''
	while IFS='|' read -r tool label prelude; do
		command -v "$tool" >/dev/null || {
			missing+=" $tool"
			continue
		}
		{
			echo "$prelude"
			recipe "$label"
		} >program
		it_prints 'charged 42' "$tool" program 42
		CHARGE_STATUS=3 run_it "$tool" program 42
		[[ $output == *failed* && $output != *busy* ]]
		hold user:42
		it_prints 'busy, try again' "$tool" program 42
		it_prints 'charged 43' "$tool" program 43
		let_go
		[ "$(files)" = 0 ]
	done <<-'END'
		python3|Python, for a command|import sys; user = sys.argv[1]
		node|Node, for a command|const user = process.argv[2];
		perl|Perl|use strict; use warnings; $| = 1; my $user = $ARGV[0];
		elixir|Elixir, for a command|[user] = System.argv()
	END
	[ -z "$missing" ] || skip "needs$missing"
}

@test "recipe: Python, a section of code; an exception lets go, and a forked process does not keep the key" {
	{
		recipe 'Python, for a section of code'
		cat <<-'END'
			import os, sys, time
			key, what = sys.argv[1:]
			try:
			    with held(key):
			        if what == "raise":
			            raise KeyError("mine")
			        elif what == "start":
			            if child := os.fork():
			                print(child)
			            else:
			                time.sleep(600)
			        else:
			            print("within", flush=True)
			            open(what).readline()
			except KeyError as error:
			    print(error.args[0])
			    with held(key):
			        print("again")
			print("left")
		END
	} >program
	a_language python3 program
}

@test "recipe: Node, a section of code; an error lets go, and a started process does not keep the key" {
	need node
	{
		recipe 'Node, for a section of code'
		cat <<-'END'
			const [key, what] = process.argv.slice(2);
			async function work() {
			  if (what === "raise") throw new Error("mine");
			  if (what === "start") {
			    const child = spawn("sleep", ["600"], { stdio: "ignore", detached: true });
			    child.unref();
			    console.log(child.pid);
			  } else {
			    console.log("within");
			    // Not a file stream: a thread that blocks in read() would keep Node from ending.
			    await once(spawn("head", ["-n", "1", what]), "close");
			  }
			}
			held(key, work).catch((error) => {
			  console.log(error.message);
			  if (what === "raise") return held(key, () => console.log("again"));
			}).then(() => console.log("left"));
		END
	} >program
	a_language node program
}

@test "recipe: PHP, a section of code; an exception lets go, and a forked process does not keep the key" {
	need php
	php -m | grep -qx pcntl || skip 'needs pcntl'
	{
		cat <<-'END'
			<?php
			function charge($key) {
			    global $argv;
			    if ($argv[2] === "raise") throw new Exception("mine");
			    if ($argv[2] === "again") {
			        echo "again\n";
			    } elseif ($argv[2] === "start") {
			        if (!($child = pcntl_fork())) exit(sleep(600));
			        echo "$child\n";
			    } else {
			        echo "within\n";
			        fgets(fopen($argv[2], "r"));
			    }
			}
			function held($user) {
		END
		recipe 'PHP, for a section of code' | sed 's/"user:\$user"/$user/'
		cat <<-'END'
			}
			error_reporting(E_ALL);
			try {
			    held($argv[1]);
			} catch (Exception $error) {
			    echo $error->getMessage(), "\n";
			    $argv[2] = "again";
			    held($argv[1]);
			}
			echo "left\n";
		END
	} >program
	grep -q -- '"--hold", \$user\]' program
	a_language php program
}

# The launcher becomes the BEAM, so that it is the BEAM that is killed.
@test "recipe: Elixir, a section of code; who raises, is ended or killed lets go, and a started process does not keep the key" {
	need elixir
	{
		recipe 'Elixir, for a section of code'
		cat <<-'END'
			[key, what] = System.argv()
			work = fn ->
			  case what do
			    "raise" ->
			      raise "mine"
			    "start" ->
			      IO.write(elem(System.cmd("sh", ["-c", "sleep 600 >/dev/null & echo $!"]), 0))
			    fifo ->
			      IO.puts("within")
			      # Not File.read: a thread that blocks in open() would keep the BEAM from ending.
			      System.cmd("head", ["-n", "1", fifo])
			  end
			end
			try do
			  with {:error, status} <- Keylock.held(key, work), do: IO.puts("busy: #{status}")
			rescue
			  error ->
			    IO.puts(error.message)
			    parent = self()
			    {pid, ref} = spawn_monitor(fn ->
			      Keylock.held(key, fn -> send(parent, :within); Process.sleep(:infinity) end)
			    end)
			    receive do :within -> :ok end
			    {_, 75} = System.cmd("keylock", ["-n", key, "true"])
			    Process.exit(pid, :kill)
			    receive do {:DOWN, ^ref, _, _, _} -> :ok end
			    {_, 0} = System.cmd("keylock", ["-w", "20", key, "true"])
			    {:ok, :value} = Keylock.held(key, fn -> IO.puts("again"); :value end)
			    {:messages, []} = Process.info(self(), :messages)
			end
			IO.puts("left")
		END
	} >program
	a_language elixir program
}

# --- several machines ---

# contend HOSTS COMMAND: six runs of the shell's COMMAND on each of so many hosts, at once. Sets most:
# how many contenders etcd has had at one time.
contend() {
	local run host pids=()
	: >log
	: >contenders
	for run in {1..6}; do
		for ((host = 1; host <= $1; host++)); do
			HOST=$host KEYLOCK_DIR=$KEYLOCK_DIR.$host sh -c "$2" >/dev/null 2>&1 3>&- 4>&- &
			pids+=($!)
		done
	done
	for run in "${pids[@]}"; do
		wait "$run"
	done
	most=$(sort -n contenders | tail -n 1)
	echo "hosts $1: $most contenders at most"
	# All have run, and none beside another.
	[ "$(sort log | uniq -c | sed 's/^ *//')" = "$(for ((host = 1; host <= $1; host++)); do echo "6 ran on $host"; done)" ]
}

@test "recipe: several machines: etcd gets one contender at a time from each host" {
	need etcd etcdctl
	# Free ports, as the kernel gives them.
	read -r client peer < <(python3 -c 'import socket
ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(f"http://127.0.0.1:{end.getsockname()[1]}" for end in ends))')
	export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$client
	etcd --data-dir etcd --listen-client-urls "$client" --advertise-client-urls "$client" \
		--listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
		--initial-cluster "default=$peer" >etcd.log 2>&1 3>&- 4>&- &
	wait_for 60 eval 'etcdctl endpoint health >/dev/null 2>&1'
	# An etcdctl that notes how many of it there are.
	executable "$work/bin/etcdctl" ': >"contender.$$"
		ls -d contender.* | wc -l >>contenders
		'"$(command -v etcdctl)"' "$@"
		status=$?
		rm "contender.$$"
		exit $status'
	executable job 'mkdir alone || { echo overlap >>log; exit 1; }
		sleep 0.05
		echo "ran on $HOST" >>log
		rmdir alone'
	recipe=$(recipe 'Several machines')
	contend 1 "$recipe"
	[ "$most" = 1 ]
	contend 2 "$recipe"
	[ "$most" -le 2 ]
	# The same without keylock, so that what is measured could be seen.
	contend 2 "${recipe#keylock job -- }"
	[ "$most" -gt 2 ]
	[[ $(files "$KEYLOCK_DIR.1") == 0 && $(files "$KEYLOCK_DIR.2") == 0 ]]
	# A failure of the command is one of the recipe.
	executable job 'exit 3'
	it_gives 1 sh -c "$recipe"
}

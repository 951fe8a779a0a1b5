# The double charge, what keylock was asked for: a web route looks whether the user has subscribed,
# charges the card through a third party, and writes a row. Twenty requests of one user come at once,
# and one each of ten other users. And one of them is killed between charge and row: the next one must
# not charge again.

export KEYLOCK_TEST_LIMIT=${KEYLOCK_TEST_LIMIT:-180}
load helper

others=(1 2 3 4 5 6 7 8 9 10)

setup() {
	keylock_setup
	need_long
	need sqlite3 curl
	here=$tools/charge
	mkdir "$work/bin"
	ln -s "$KEYLOCK" "$work/bin/keylock"
	PATH=$work/bin:$PATH
	start_anew
	unset http_proxy
	# Who finds itself in doubt dies of SIGABRT.
	ulimit -c 0
}

# A new database, and a new service.
start_anew() {
	[ -z "${service-}" ] || kill "$service"
	rm -f "$work"/database* "$work/port"
	export DATABASE=$work/database
	# That a user has one row only is not for the database to say here: it would refuse the second
	# row, but the card was charged before.
	sqlite3 "$DATABASE" 'PRAGMA journal_mode = WAL; CREATE TABLE subscriptions (user INTEGER, receipt TEXT)' >/dev/null
	python3 "$here/service.py" "$work" >"$work/service.log" 2>&1 3>&- 4>&- &
	service=$!
	wait_for 60 test -e "$work/port"
	SERVICE=http://127.0.0.1:$(cat "$work/port")
	export SERVICE
}

# A line that the README shows.
in_readme() {
	grep -qxF -- "    $1" "$BATS_TEST_DIRNAME/../README"
}

# What the service tells of a user, and how many rows there are of one, or of all but one.
service() {
	curl -fsS "$SERVICE/$1/$2"
}

rows() {
	sqlite3 -batch -cmd '.timeout 60000' "$DATABASE" "SELECT count(*) FROM subscriptions WHERE user $1"
}

has_arrived() {
	[ "$(service arrived 42)" -ge "$1" ]
}

waits_in_line() {
	[ "$("$KEYLOCK" --list | awk '$1 == "user:42" { print $6 }')" = "$1" ]
}

# charged CHARGES ROWS: so many of user 42.
charged() {
	echo "user 42: $(service charged 42) charges, $(rows '= 42') rows"
	[[ $(service charged 42) == "$1" && $(rows '= 42') == "$2" ]]
}

# by_shell HOW: all requests as shell scripts.
by_shell() {
	local user wrapper=()
	for user in $(printf '42 %.0s' {1..20}) "${others[@]}"; do
		[ "$1" = unlocked ] || wrapper=(keylock "user:$user")
		"${wrapper[@]}" "$here/subscribe" "$user" >>"$work/said" 2>&1 3>&- 4>&- &
		requests+=($!)
	done
}

# by_elixir HOW: all requests as processes of one BEAM, by the README's module, with time enough for the
# busiest machine.
by_elixir() {
	{
		sed -n '/^    defmodule Keylock do$/,/^    end$/s/^    //p' "$BATS_TEST_DIRNAME/../README" |
			sed 's/"-w", "5"/"-w", "120"/'
		cat <<-'END'
			[how, subscribe | users] = System.argv()
			request = fn user ->
			  work = fn -> {said, 0} = System.cmd(subscribe, [user]); IO.write(said) end
			  if how == "locked", do: {:ok, _} = Keylock.held("user:" <> user, work), else: work.()
			end
			tasks = Enum.map(users, fn user -> Task.async(fn -> request.(user) end) end)
			Enum.each(tasks, fn task -> Task.await(task, :infinity) end)
		END
	} >"$work/requests.exs"
	grep -q '"-w", "120"' "$work/requests.exs"
	elixir "$work/requests.exs" "$1" "$here/subscribe" $(printf '42 %.0s' {1..20}) "${others[@]}" \
		>"$work/said" 2>&1 3>&- 4>&- &
	requests+=($!)
}

all_end() {
	rm "$work/slow-42"
	for request in "${requests[@]}"; do
		ended_with "$request" 0
	done
	[ "$(wc -l <"$work/said")" = 30 ]
}

# side_by_side HOW: thirty requests at once by by_shell or by_elixir, without keylock, so that what is
# measured can be seen, and with it.
side_by_side() {
	local user request requests=()
	: >"$work/slow-42"
	"$1" unlocked
	wait_for 120 has_arrived 2
	all_end
	[ "$(service charged 42)" -gt 1 ]
	charged "$(service charged 42)" "$(service charged 42)"

	start_anew
	requests=()
	rm "$work/said"
	: >"$work/slow-42"
	"$1" locked
	# The service is at it for user 42, and nineteen requests of that user wait: all others come to
	# their end meanwhile.
	wait_for 120 has_arrived 1
	wait_for 120 waits_in_line 19
	wait_for 120 eval '[ "$(rows "!= 42")" -ge 10 ]'
	charged 0 0
	all_end
	charged 1 1
	for user in "${others[@]}"; do
		[[ $(service charged "$user") == 1 && $(rows "= $user") == 1 ]]
	done
	all_gone
}

@test "P1 alone, the double charge in shell: each user is charged once with keylock, and none waits for another" {
	in_readme 'keylock "user:$1" ./subscribe "$1"'
	side_by_side by_shell
}

@test "P1 alone, the double charge in Elixir: each user is charged once with keylock, and none waits for another" {
	need elixir
	side_by_side by_elixir
}

# request OPTION: a request of user 42.
request() {
	run_keylock "$1" user:42 "$here/subscribe" 42
}

# stopped_request OPTION: starts one that stops between charge and row. Sets keylock and subscriber, their
# pids.
stopped_request() {
	local pause=$work/pause
	rm -f "$pause" "$pause.pid"
	mkfifo "$pause"
	PAUSE=$pause "$KEYLOCK" "$1" user:42 "$here/subscribe" 42 >"$work/stopped" 2>&1 3>&- 4>&- &
	keylock=$!
	wait_for 60 test -s "$pause.pid"
	subscriber=$(cat "$pause.pid")
	charged 1 0
}

# kill_there WHO: kills the subscriber alone, or its keylock with it, and first: it does not see the
# other's death.
kill_there() {
	[ "$1" = subscriber ] || kill -KILL "$keylock"
	kill -KILL "$subscriber"
	ended_with "$keylock" 137
	wait_for 20 is_dead "$subscriber"
}

# Charged once, with a row that has the receipt, and nothing left to settle.
settled() {
	request -A
	[[ $status == 0 && $output == 'user 42 has subscribed before' ]]
	charged 1 1
	[ "$(sqlite3 "$DATABASE" 'SELECT receipt FROM subscriptions WHERE user = 42')" = receipt-42-1 ]
	[ "$(files)" = 0 ]
}

# The test can fail: a key that is free is all that the next one sees.
@test "P8 crash-honest, the double charge, killed before the row: without -A the next one charges again" {
	stopped_request --
	kill_there both
	request --
	expect 0
	charged 2 1
}

@test "P8 crash-honest, the double charge, killed before the row: with -A the next one is refused until somebody has looked" {
	in_readme 'keylock -A "user:$1" ./subscribe "$1"'
	while read -r who cause; do
		start_anew
		stopped_request -A
		# One has come before it dies, the others come after.
		"$KEYLOCK" -A user:42 "$here/subscribe" 42 >"$work/line" 2>&1 3>&- 4>&- &
		line=$!
		wait_for 60 waits_in_line 1
		kill_there "$who"
		ended_with "$line" 76
		for _ in 1 2; do
			request -A
			expect_message 76 user:42 "pid=$keylock since=" " cause=$cause command=subscribe" --forget
		done
		gives 0 -A user:7 "$here/subscribe" 7
		charged 1 0
		sqlite3 "$DATABASE" "INSERT INTO subscriptions VALUES (42, '$(service receipt 42)')"
		# The row alone does not settle it: somebody has to say so.
		request -A
		expect 76
		gives 0 --forget user:42
		settled
	done <<-'END'
		subscriber signal-9
		both killed
	END
}

@test "P8 crash-honest, the double charge, only keylock killed: the key is taken until the row is written, then in doubt" {
	stopped_request -A
	kill -KILL "$keylock"
	ended_with "$keylock" 137
	quiet 75 -n -A user:42 "$here/subscribe" 42
	echo >"$work/pause"
	wait_for 60 is_dead "$subscriber"
	request -A
	expect_message 76 "pid=$keylock" cause=killed
	charged 1 1
	run_keylock --forget user:42
	settled
}

@test "P8 crash-honest, the double charge, killed before the row: with -R the next one asks the service, and writes the row" {
	in_readme 'keylock -R "user:$1" ./subscribe "$1"'
	code=$(sed -n '/^    if .*KEYLOCK_ABANDONED/,/^    fi$/s/^ *//p' "$BATS_TEST_DIRNAME/../README")
	[ -n "$code" ]
	[[ $(sed 's/^\t*//' "$here/subscribe") == *$'\n'"$code"$'\n'* ]]
	# Nor is it lost when those that ask are killed, too.
	for who in both subscriber both; do
		stopped_request -R
		kill_there "$who"
	done
	request -R
	[[ $status == 0 && $output == 'user 42 has subscribed: receipt-42-1' ]]
	settled
	# Who has died before the charge has a successor that charges.
	start_anew
	gives 134 -R user:42 sh -c 'kill -ABRT $$'
	request -R
	expect 0
	settled
}

@test "P8 crash-honest, the double charge, the service does not know yet: the next one with -R leaves it in doubt, and is right" {
	: >"$work/slow-42"
	"$KEYLOCK" -R user:42 "$here/subscribe" 42 >"$work/first" 2>&1 3>&- 4>&- &
	first=$!
	wait_for 60 has_arrived 1
	subscriber=$(children "$first")
	curl=$(children "$subscriber")
	kill -KILL "$subscriber"
	ended_with "$first" 137
	# What it had started still asks the service, and so keeps the key.
	quiet 75 -n -R user:42 "$here/subscribe" 42
	kill -KILL "$curl"
	# The service is at it still, and will charge.
	request -R
	expect 134
	[ "$(service arrived 42)" = 1 ]
	fails 76 cause=signal-6 -A user:42 true
	rm "$work/slow-42"
	wait_for 60 charged 1 0
	request -R
	expect 0
	settled
}

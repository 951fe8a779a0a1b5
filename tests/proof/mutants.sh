#!/usr/bin/env bash
#
# mutants.sh [quick|long] [NAME...] - the torture and the tests find broken keylocks
#
# Builds keylocks that are broken on purpose, each by a change to one or two functions
# of keylock.c, and runs what must find each of them out: the torture (tests/proof/torture.c)
# up to its first fault, or tests of one bats file. keylock itself must pass all of
# that. A change that does not fit the source any more is a failure, too. With long,
# each detector runs five times, and how often it found its mutant out is told. NAMEs:
# only these.

# shellcheck disable=SC2016 # what is in single quotes is perl's

set -u
cd "$(dirname "$0")/../.." || exit 1
unset KEYLOCK_DIR KEYLOCK_KEY KEYLOCK
size=${1:-quick}
case $size in
quick) times=1 ;;
long) times=5 ;;
*)
	echo 'usage: mutants.sh [quick|long] [NAME...]' >&2
	exit 64
	;;
esac
[ $# -eq 0 ] || shift
only=" $* "

base=/dev/shm
[ -d "$base" ] && [ -w "$base" ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/mutants.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
begin=$SECONDS

cc -O2 -static -o "$work/torture" tests/proof/torture.c 2>/dev/null ||
	cc -O2 -o "$work/torture" tests/proof/torture.c || exit

# in_function FUNCTION CHANGE...: standard input with each CHANGE, a substitution of
# perl's, made in the body of its FUNCTION ("-": anywhere).
cat >"$work/change.pl" <<'PERL'
undef $/;
my $source = <STDIN>;
while (my ($function, $change) = splice @ARGV, 0, 2) {
	my ($before, $body, $after) = ("", $source, "");
	if ($function ne "-") {
		$source =~ /^\Q$function\E\([^;{]*\)\n\{\n.*?^\}\n/ms
			or die "there is no function $function any more\n";
		($before, $body, $after) = ($`, $&, $');
	}
	local $_ = $body;
	eval($change) or die "$@$function: $change does not fit any more\n";
	$source = $before . $_ . $after;
}
print $source;
PERL

# --- detectors: DETECTOR KEYLOCK WORD...; fail when they find something out ---

# The torture: RUNS and options, for what is not found at once in all that it does.
torture() {
	local keylock=$1 runs=$2 dir status=0
	shift 2
	dir=$(mktemp -d "$work/run.XXXXXX") || return
	KEYLOCK_DIR=$dir/keys TMPDIR=$dir "$work/torture" -x "$@" "$keylock" "$runs" || status=$?
	rm -rf "$dir"
	return "$status"
}

# The tests of a bats file whose names match.
tests() {
	KEYLOCK=$1 bats --filter "$3" "tests/$2.bats"
}

# --- one mutant ---

# mutant NAME DETECTOR FUNCTION CHANGE...: DETECTOR is a line of words.
mutant() {
	[ "$only" = '  ' ] || [[ $only == *" $1 "* ]] || return 0
	detectors[$2]=1
	in_background try_mutant "$@"
}

try_mutant() {
	local name=$1 detector=$2 found=0 round words after=()
	shift 2
	read -ra words <<<"$detector"
	if ! perl "$work/change.pl" "$@" <keylock.c >"$work/$name.c" 2>"$work/$name.log" ||
		! cc -O1 -std=c11 -w -o "$work/$name" "$work/$name.c" 2>>"$work/$name.log"; then
		echo "$name: NOT BUILT: $(head -n 1 "$work/$name.log")"
		return
	fi
	for ((round = 0; round < times; round++)); do
		if "${words[0]}" "$work/$name" "${words[@]:1}" >"$work/$name.log" 2>&1; then
			after+=(never)
			continue
		fi
		found=$((found + 1))
		after+=("$(sed -n 's/^torture: \([0-9]*\) runs in .*/\1 runs/p' "$work/$name.log")")
	done
	if [ "$found" -eq "$times" ]; then
		echo "$name: found out by $detector$(printf ', %s' "${after[@]}"): $(reason "$name")"
	else
		echo "$name: NOT FOUND OUT by $detector, $found of $times times$(printf ', %s' "${after[@]}")"
	fi
}

# What the detector said first.
reason() {
	grep -aE '^torture: wave|^not ok' "$work/$1.log" | head -n 1 | cut -c 1-100
}

# keylock itself has to pass each detector that was used.
declare -A detectors
control() {
	local words
	read -ra words <<<"$1"
	if "${words[0]}" "$work/keylock" "${words[@]:1}" >"$work/control.$2" 2>&1; then
		echo "keylock itself: passes $1"
	else
		echo "keylock itself: NOT PASSED: $1"
		cat "$work/control.$2"
	fi
}

# Two at once.
in_background() {
	while [ "$(jobs -pr | wc -l)" -ge 2 ]; do
		wait -n
	done
	number=$((number + 1))
	"$@" >"$work/out.$number" &
}
number=100

# --- the mutants ---

# A stuck key is known after 10 s; the longest queue of the torture takes 1 s.
T='torture 6000 -t10'

# Who takes a lock does not see whether the file still has its name.
mutant no-recheck "$T -p6 -k0" lockfile_recheck 's/\{\n/{\n\treturn 0;\n/'
# Who leaves removes the file though others wait for it, ...
mutant tidy-before-waiters "$T" lockfile_tidy \
	's/byte_held\(fd, F_WRLCK, PRESENCE, 0\) < 0/true/g'
# ... or even have it.
mutant tidy-blind "$T" lockfile_tidy \
	's/byte_held\(fd, F_WRLCK, PRESENCE, 0\) < 0/true/g &&
		s/flock\(fd, LOCK_EX \| LOCK_NB\) == 0/true/'
# The name goes after the lock and the gate, for which there is a moment more.
mutant late-unlink "$T -p6 -k0" lockfile_tidy \
	's/\{\n/{\n\tbool late = false;\n/ && s/unlinkat\(directory->fd, name, 0\)/(late = true, 0)/ &&
		s/(.*\tclose\(fd\);\n)/$1\tif (late) {\n\t\tusleep(500);\n\t\tunlinkat(directory->fd, name, 0);\n\t}/s'
# Nobody enters the gate to tidy.
mutant tidy-without-gate "$T -p3 -w2" lockfile_tidy 's/byte_try\(fd, F_WRLCK, GATE, 1\)/0/'
# The lock is let go while the command runs.
mutant early-unlock "$T" command_run \
	's/(\tforward_early\(child\);\n)/$1\tflock(command->locks[0].fd, LOCK_UN);\n/'
# Nobody draws a ticket: the kernel lets newcomers in.
mutant no-tickets "$T" ticket_draw 's/\{\n/{\n\treturn 0;\n/' \
	turn_await 's/if \(!ahead\)/if (true)/'
# Newcomers do not look at the tickets.
mutant newcomers-first "$T" lock_take 's/last \? EAGAIN : request/request/'
# The file is emptied when it is opened, a record with it.
mutant truncate "$T -k2" - 's/LOCKFILE_FLAGS = O_RDWR/LOCKFILE_FLAGS = O_RDWR | O_TRUNC/'
# The command does not get the lock.
mutant not-handed-on "$T" become 's/\n\t\tif \(fcntl\(.*?F_DUPFD.*?\) < 0\)/\n\t\tif (0)/'
# A daemon that has the description keeps the key.
mutant no-unlock "$T" lock_release 's/error = request\(&unlock, false\)/error = 0/'
# Nobody waits for nested runs.
mutant guests-alone "$T -p6 -k0" guests_leave 's/\{\n/{\n\treturn true;\n/'
# A holder is not seen to be one.
mutant no-presence "tests looking held.for.longer" presence_take 's/\{\n/{\n\treturn 0;\n/'
# Cleaners take the file for an old one.
mutant not-sticky "$T" - 's/S_ISVTX/0/g'
# The record outlives a good end, or is ended by a bad one.
mutant record-stays "$T -k2" record_settle 's/ftruncate\(lock->fd, 0\) < 0/false/'
mutant record-goes "$T -k2" record_settle 's/else if \(cause\)/else if (false)/'
# Two keys are taken in the order of the command line.
mutant unsorted "$T -p6 -k0" keys_order 's/\{\n/{\n\treturn;\n/'
# One slot more than there are.
mutant one-slot-more "$T -p8 -k3" slots_acquire \
	's/count = \(size_t\)lock->slots/count = (size_t)lock->slots + 1/'
# The file with the queue is not seen to have lost its name.
mutant slots-no-recheck "tests slots lost.its.name" \
	slots_take 's/error = lockfile_recheck\(directory, queue\)/error = 0/'
# The files of slots, and with the first one the queue, go while others come to them, for
# which there is time.
mutant slots-tidy-without-gate "$T -p8 -k3" - 's/\nstatic void\nlockfile_tidy/\nstatic bool ungated;\n$&/' \
	lockfile_tidy 's/byte_try\(fd, F_WRLCK, GATE, 1\)/ungated ? 0 : $&/ &&
		s/unlinkat\(/usleep(ungated ? 1000 : 0), $&/' \
	keys_release 's/\{\n/{\n\tungated = keys->locks->slots > 1;\n/'

cc -O1 -std=c11 -w -o "$work/keylock" keylock.c || exit
for detector in "${!detectors[@]}"; do
	in_background control "$detector" "$number"
done
wait
cat "$work"/out.*
good=$(cat "$work"/out.* | grep -c ': found out by ')
passed=$(cat "$work"/out.* | grep -c ': passes ')
bad=$(cat "$work"/out.* | grep -c ': NOT ')
echo "mutants: $good found out in $((times * good)) of $((times * good)) tries, keylock itself passes $passed detectors," \
	"$bad failures, $((SECONDS - begin)) s"
[ "$bad" -eq 0 ] && [ "$good" -gt 0 ]

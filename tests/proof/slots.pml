/*
 * Slots (-j), DESIGN.md section 9, for spin. model.sh builds and runs it; see steps.pml first;
 * nothing here is part of keylock. How one file is locked, rechecked and
 * tidied, and guests, are model.pml's; here those parts are coarse.
 *
 * A search has shown what that section does not say:
 *   - Every slot's file is tidied, by whoever leaves. With the one taken and file 1 alone
 *     (TIDY_TAKEN) a file that a killed holder of another slot left is not removed by the next
 *     run. Where file 1 shows a presence or a ticket, the others are left to that one.
 *   - File 1's name is compared before the ticket is given back: the ticket is what keeps
 *     file 1 from being removed (LATE_RECHECK).
 *
 * What is checked, beside what steps.pml has
 *   - never more commands than slots (P1);
 *   - all at rest: no file is left, but for the first time after a SIGKILL or a stop in a gate
 *     (P3);
 *   - of two, the one that drew its place first is served first (P4);
 *   - who drew a ticket on the file that bears the name never finds it gone.
 *
 * What is abstracted
 *   - What is done under a gate and seen by nobody else is one step: a try is gate, flock,
 *     presence and gate again; a tidier looks and tries the flock in one step, and unlinks and
 *     unlocks in the next. Opening and making a file are one step.
 *   - The first in line sleeps until a try would come to something. That it tries again once a
 *     second at the latest, whatever it has missed, is what makes that right.
 *   - The inode that bears slot k's name is always number k + 1. Of those that lost theirs a
 *     number is used again as soon as nobody has it open.
 *
 * Sizes of its own: ENDLESS, the set of those whose command may run for ever. Two slots.
 * Mutants beside those above: KEEP_STALE (does not open anew a slot file whose name is gone),
 * NO_TIDY_1 (who took another slot does not tidy file 1), NO_RECHECK.
 */
#include "steps.pml"

#define S 2

byte name[S];			/* inode of each slot's name: k + 1, or 0 */
byte fd[4 * S];			/* inodes of a contender's descriptions */
byte pres[S], lock[S];		/* who has there the presence, the flock */
byte gate;			/* who has file 1's gate; tickets are on it, too */
byte tidies[4];			/* inode of the description that tidies */
byte trial;			/* who has there gate and flock */
byte came;			/* ghost: drew it on the file that bears the name */
byte before[4];			/* ghost: of those, who drew before */
byte runs;			/* whose commands run */
byte busy;			/* who is in a run */
byte kills;
bit excused;

#define FD(k)	fd[me * S + (k)]
#define y	tidies[me]
#define CURRENT(k)	(FD(k) != 0 && FD(k) == name[k])
#define COUNT(x)	(((x) & 1) + (((x) >> 1) & 1) + (((x) >> 2) & 1) + (((x) >> 3) & 1))
/* Who of a set has inode i open as slot k's file, or tidies it. */
#define AT(p, set, k, i)	(((set) & BIT(p)) && fd[(p) * S + (k)] == (i) -> BIT(p) : 0)
#define ON(set, k, i)	(AT(0, set, k, i) | AT(1, set, k, i) | AT(2, set, k, i) | AT(3, set, k, i))
#define BY(p, set, i)	(((set) & BIT(p)) && tidies[p] == (i) -> BIT(p) : 0)
#define TRIED(i)	(BY(0, trial, i) | BY(1, trial, i) | BY(2, trial, i) | BY(3, trial, i))
#define GATED(i)	(ON(gate, 0, i) | TRIED(i))
#define WAITING	ON(tick & ~ME, 0, FD(0))
#define SEEN(k, i)	(ON(pres[k], k, i) | ((k) == 0 -> ON(tick, 0, i) : 0))
/* What a try of a slot finds, for one who has the gate of file 1 or not. */
#define IS_FREE(k)	(!ON(lock[k], k, FD(k)) && !TRIED(FD(k)) && ((gate & ME) || (k) != 0 || !ON(gate, 0, FD(0))))

inline leave_queue() {
	ticket_back();
	came = came & ~ME;	/* ghost */
	STRIKE_OFF(before);
	before[me] = 0
}

/* Slot k's file by its name, made where it is missing, opened anew where the name has gone. */
inline open_slot(k) {
	name[k] = k + 1;
	FD(k) = k + 1
}

/* The name is gone from its inode, which gets another number. */
inline unlink(k) {
	name[k] = 0;
	i = S + 1;
	do
	:: !ON(15, 0, i) && !ON(15, 1, i) && !BY(0, 15, i) && !BY(1, 15, i) && !BY(2, 15, i) && !BY(3, 15, i) -> break
	:: else -> i++; assert(i <= NI)
	od;
	for (j : 0 .. 3) {
		fd[j * S + k] = (fd[j * S + k] == k + 1 -> i : fd[j * S + k]);
		tidies[j] = (tidies[j] == k + 1 -> i : tidies[j])
	}
}

inline take() {
	lock[slot] = lock[slot] | ME;
	pres[slot] = pres[slot] | ME
}

inline give() {
	lock[slot] = lock[slot] & ~ME;
	pres[slot] = pres[slot] & ~ME
}

inline drop_bytes() {
	leave_queue();
	gate = gate & ~ME;
	pres[0] = pres[0] & ~ME;
	pres[1] = pres[1] & ~ME
}

inline drop_flocks() {
	lock[0] = lock[0] & ~ME;
	lock[1] = lock[1] & ~ME;
	FD(0) = 0;
	FD(1) = 0
}

inline rest() {
	busy = busy & ~ME;
	slot = 0;
	half = 0;
	assert(busy || (name[0] == 0 && name[1] == 0) || excused)
}

/* File 1 shows that somebody will come to tidy the others. */
#define BUSY	(slot == 0 && name[0] != 0 && SEEN(0, name[0]))

proctype contender(byte me; byte mode) {
	byte slot;		/* the one that is tried, held or tidied */
	bit gone;		/* ran once and shall not again */
	bit half;		/* one of the two files is tidied */

idle:
	if
	:: d_step {
		!gone ->
		gone = ((ONCE & ME) != 0);
		if
		:: !busy -> excused = 0; kills = KILLS
		:: else
		fi;
		busy = busy | ME
	   }
	:: goto retired
	fi;

again:
	STEP(true, open_slot(0));
	/* under the gate of file 1: a look for tickets and a try of all */
	if
	:: d_step { !GATED(FD(0)) -> gate = gate | ME; slot = 0 }
	:: GATED(FD(0)) && (mode & TIMED) -> goto giveup
#ifdef STALL
	:: d_step { GATED(FD(0)) && (mode & NONBLOCK) -> slot = 0; excused = 1 }
#endif
	KILL
	fi;
	if
	:: d_step { WAITING -> slot = S }; goto queue
	:: d_step { !WAITING && IS_FREE(0) -> take() }; goto mine
	:: d_step { !WAITING && !IS_FREE(0) -> slot = 1 }
	KILL
	fi;
other:
	STEP(true, open_slot(1));
	if
	:: d_step { IS_FREE(1) -> take() }
	:: d_step { !IS_FREE(1) && name[1] == FD(1) -> skip }; goto queue
	:: d_step { !IS_FREE(1) && name[1] != FD(1) -> skip }; goto other
	KILL
	fi;
mine:
	if
	:: d_step {
		(name[0] == FD(0) && name[slot] == FD(slot)) || NO_RECHECK ->
		assert(came == 0 || excused);
		gate = gate & ~ME
	   }; goto start
	:: d_step { name[0] == FD(0) && name[slot] != FD(slot) -> give() }; goto other
	:: d_step { name[0] != FD(0) && !NO_RECHECK -> give(); gate = gate & ~ME }; goto stale
	KILL
	fi;

queue:
	if
	:: d_step { (mode & NONBLOCK) -> gate = gate & ~ME }; goto taken
	:: d_step {
		!(mode & NONBLOCK) ->
		before[me] = came;
		ahead[me] = WAITING;
		tick = tick | ME;
		came = (name[0] == FD(0) -> came | ME : came);
		gate = gate & ~ME
	   }
	KILL
	fi;

	/* wait to be the first in line */
	AWAIT(ahead[me] == 0, slot = 0);
next:
	TEST(FD(0) == name[0] || KEEP_STALE, if :: FD(slot) == 0 || !KEEP_STALE -> open_slot(slot) :: else fi, assert(!(came & ME)), stale);
	if
	:: d_step { IS_FREE(slot) -> take(); if :: LATE_RECHECK -> ticket_back() :: else fi }; goto got
	:: d_step { !IS_FREE(slot) && slot + 1 < S -> slot++ }; goto next
	:: d_step { !IS_FREE(slot) && slot + 1 == S -> slot = 0 }
	TIMEOUT
	KILL
	fi;
	/* asleep */
	AWAIT(!CURRENT(0) || !CURRENT(1) || IS_FREE(0) || IS_FREE(1), skip);
	goto next;

got:
	if
	:: d_step { name[0] == FD(0) && name[slot] == FD(slot) ->
		assert(before[me] == 0);
		leave_queue()
	   }; goto start
	:: d_step { name[0] == FD(0) && name[slot] != FD(slot) -> give() }; goto next
	:: d_step { name[0] != FD(0) -> assert(!(came & ME)); give() }; goto stale
	KILL
	fi;

taken:
	TEST(name[0] != FD(0), skip, skip, giveup);
stale:
	KERNEL(drop_bytes(); drop_flocks());
	goto again;

start:
	if
	:: d_step {
		true ->
		assert(COUNT(runs) < S);
		FD(1 - slot) = 0;	/* not the lock's */
		runs = runs | ME
	   }
	KILL
	fi;
	if
	:: d_step { true -> runs = runs & ~ME }
#if ENDLESS
	:: (ME & ENDLESS) -> goto forever
#endif
	KILL
	fi;
	/* release */
	if
	:: d_step { true -> pres[slot] = pres[slot] & ~ME }
	:: d_step { true -> lock[slot] = lock[slot] & ~ME }
	KILL
	fi;
	STEP(true, give());
	STEP(true, FD(slot) = 0);
	goto tidy;

giveup:
	KERNEL(drop_bytes(); drop_flocks(); slot = 0);

	/* the slot's file, and then the other */
tidy:
	TEST(name[slot] != 0, y = name[slot], skip, tidied);
	if
	:: d_step { !GATED(y) && !SEEN(slot, y) && !ON(lock[slot], slot, y) -> trial = trial | ME }
	:: d_step { !GATED(y) && (SEEN(slot, y) || ON(lock[slot], slot, y)) -> y = 0 }; goto tidied
#ifdef STALL
	:: d_step { GATED(y) -> excused = 1; y = 0 }; goto tidied
#endif
	KILL
	fi;
	STEP(true, if :: name[slot] == y -> unlink(slot) :: else fi; trial = trial & ~ME; y = 0);
tidied:
	if
	:: d_step { !half && BUSY -> skip }
	:: !NO_TIDY_1 && !TIDY_TAKEN && !half && !BUSY -> half = 1; slot = S - 1 - slot; goto tidy
	:: TIDY_TAKEN && slot != 0 -> slot = 0; goto tidy
	:: else
	fi;
done:
	KERNEL(rest());
	goto idle;

	/* keylock was killed; its command goes on */
dead:
	KERNEL(trial = trial & ~ME; y = 0);
	if
	:: d_step { runs & ME -> runs = runs & ~ME }
	:: else
	fi;
	KERNEL(drop_bytes());
	KERNEL(drop_flocks(); rest());
	goto idle;

retired:
end_retired:
forever:
end_forever:
	false
}

init {
	atomic {
		run contender(0, M0);
		run contender(1, M1);
		if :: N > 2 -> run contender(2, M2) :: else fi;
		if :: N > 3 -> run contender(3, M3) :: else fi
	}
}

#ifdef LIVE
ltl served { [] ((came & 1) -> <> (runs & 1)) }
#endif

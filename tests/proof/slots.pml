/*
 * The hand-over of slots (-j), DESIGN.md section 9, for spin. tests/proof/model.sh
 * builds and runs it; nothing here is part of keylock. How one file is
 * locked, rechecked and tidied is model.pml's; here those parts are coarse.
 *
 * Contenders as in model.pml: each is a keylock with its command and the
 * daemon that this may leave behind, runs again and again or stops for good
 * between two runs, and keylock can be SIGKILLed before every step.
 *
 *   DESIGN.md, section 9                            here
 *   "file 1 is the key's own … the tickets of file
 *    1 are the queue"                               again, queue
 *   "each slot file is acquired under its own gate,
 *    without waiting and without the look for
 *    tickets"                                       other, next
 *   "rechecked with file 1's name too"              mine, got
 *   "the first in line tries all slots, whose
 *    descriptors it keeps open between tries"       next
 *   "sleeps until one is free, for instance on
 *    inotify"                                       asleep
 *   "a holder that is SIGKILLed is seen only as
 *    IN_CLOSE; IN_CLOSE is sent before the kernel
 *    drops the lock"                                dying, die
 *   "so a try made at once can fail"                hot, patience
 *   "a releasing holder must make an event of its
 *    own after LOCK_UN"                             release
 *   "tidied under its own gate; who took another
 *    slot tidies file 1 as well"                    tidy
 *
 * Where this page asks for more than those lines, a search has shown why:
 *   - The event after LOCK_UN is the IN_CLOSE of the description that keylock
 *     tidies by, opened before LOCK_UN. An event made after it (mutants
 *     NO_EVENT, EVENT_AFTER_UNLOCK) is lost when keylock is SIGKILLed in
 *     between and a daemon keeps the lock's own description open.
 *   - Patience is also needed after a watch was set: the close may have been
 *     announced just before (HOT_BY_EVENT).
 *   - Every slot's file is tidied, by whoever leaves. With the one taken and
 *     file 1 alone (TIDY_TAKEN) a file that a killed holder of another slot
 *     left is not removed by the next run; and where the names are compared
 *     after the gate was left (CHECK_AFTER_GATE) one is left without a kill,
 *     by a run that had another slot, found file 1 gone, and began again.
 *     Where file 1 shows a presence or a ticket, the others may be left to
 *     that one (SKIP_WHERE_BUSY, which is no mutant).
 *   - File 1's name is compared before the ticket is given back: the ticket
 *     is what keeps file 1 from being removed (LATE_RECHECK).
 *
 * What is checked
 *   - never more commands than slots (P1);
 *   - nobody stands for ever: no state but those labelled end is without a
 *     way on, above all no first in line asleep beside a free slot, whether
 *     a holder released, was killed, or left a daemon that lives for ever;
 *   - all at rest: no file is left, but for the first time after a SIGKILL;
 *   - of two, the one that drew its place first is served first (P4);
 *   - without kills -n says "taken" only when every slot is held, or
 *     somebody waits;
 *   - who drew a ticket on the file that bears the name never finds it gone;
 *   - LIVE: contender 0, once it has its ticket there, is served, if every
 *     process that can go on at last does (weak fairness).
 *
 * What is abstracted
 *   - What is done under a gate and seen by nobody else is one step: a try
 *     is gate, flock, presence and gate again; a tidier looks and tries the
 *     flock in one step, and unlinks and unlocks in the next.
 *   - Opening and making a file are one step.
 *   - inotify: a watch on each slot file that the first in line has open,
 *     two flags for all that is queued (something happened, something was
 *     closed). Setting the watch and then trying is the same as trying,
 *     setting it, and trying again. The fall-back of looking every 50 ms is
 *     not modelled.
 *   - After IN_CLOSE keylock tries again for a while. That while is taken to
 *     be longer than the kernel needs from IN_CLOSE to the lock's end, for
 *     each close that was under way then (patience). This is an assumption
 *     on time, the only one.
 *   - The inode that bears slot k's name is always number k + 1. Of those that
 *     lost theirs a number is used again as soon as nobody has it open.
 *
 * Sizes by -D: N contenders, modes M0…M3 (NONBLOCK, TIMED or 0), NI inodes,
 * KILLS kills (anew from each rest) among the set MORTALS, the sets DAEMONS
 * (may leave one), ENDLESS (whose command may run for ever) and ONCE (run
 * once), LIVE. Two slots. Mutants, each by its own -D: NO_EVENT (the
 * description that tidies is opened after LOCK_UN, as a key with one slot can
 * do), EVENT_AFTER_UNLOCK (the same, but touches the file after LOCK_UN),
 * TRY_ONCE_ON_CLOSE, HOT_BY_EVENT, WATCH_AFTER_TRY, KEEP_STALE (does not open
 * anew a slot file whose name is gone), LATE_RECHECK, NO_TIDY_1 (who took
 * another slot does not tidy file 1), TIDY_TAKEN.
 */
#define NONBLOCK	2
#define TIMED	4

#ifndef N
#define N 3
#endif
#ifndef M0
#define M0 0
#endif
#ifndef M1
#define M1 0
#endif
#ifndef M2
#define M2 0
#endif
#ifndef M3
#define M3 0
#endif
#ifndef NI
#define NI 7
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef DAEMONS
#define DAEMONS 0
#endif
#ifndef ENDLESS
#define ENDLESS 0
#endif
#ifndef ONCE
#define ONCE 0
#endif
#ifndef MORTALS
#define MORTALS 15
#endif
#define USED (M0 | (N > 1 ? M1 : 0) | (N > 2 ? M2 : 0) | (N > 3 ? M3 : 0))
#define S 2
#define BIT(k)	(1 << (k))
#define MYBITS	BIT(me)

#define STEP(guard, act)	if :: d_step { (guard) -> act } KILL fi
#define KERNEL(act)	if :: d_step { true -> act } fi
#if KILLS > 0
#define KILL	:: atomic { (MYBITS & MORTALS) && kills > 0 -> kills--; excused = 1 }; goto dying
#else
#define KILL
#endif
#if USED & TIMED
#define TIMEOUT	:: (mode & TIMED) -> goto giveup
#else
#define TIMEOUT
#endif

byte name[S];			/* inode of each slot's name: k + 1, or 0 */
byte opens[NI + 1];
bit gate[NI + 1];
byte pres[NI + 1];
bit lk[NI + 1];
bit trial[NI + 1];		/* ghost: the flock is a tidier's */

byte fd[N * S];			/* inodes of a contender's descriptions */
byte tidies[N];			/* and of the one that it tidies by */
byte tick;			/* set of those who hold a ticket on file 1 */
byte ahead[N];			/* of those, who drew before */
byte came;			/* ghost: drew it on the file that bears the name */
byte before[N];			/* ghost: of those, who drew before */

byte watching;			/* set of those who have inotify watches */
byte event, closed;		/* who has an event, an IN_CLOSE unread */
byte flight;			/* whose close is announced, not done */
byte await[N];			/* closes that a patient one lets pass */

byte runs;			/* whose commands run */
byte busy;
byte kills;
bit excused;
hidden byte i, j;

#define FD(k)	fd[me * S + (k)]
#define y	tidies[me]
#define CURRENT(k)	(FD(k) != 0 && FD(k) == name[k])
#define COUNT(x)	(((x) & 1) + (((x) >> 1) & 1) + (((x) >> 2) & 1) + (((x) >> 3) & 1))

#define SAME(of, k, i)	(((of) & BIT(k)) && k != me && fd[k * S] == (i) -> BIT(k) : 0)
#if N == 2
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i))
#endif
#if N == 3
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i) | SAME(of, 2, i))
#endif
#if N == 4
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i) | SAME(of, 2, i) | SAME(of, 3, i))
#endif

/* A close may have been announced just before a watch was set. */
#if defined(TRY_ONCE_ON_CLOSE) || defined(HOT_BY_EVENT)
#define FRESH	0
#else
#define FRESH	1
#endif

#define STRIKE_OFF(set)	/* me, from everybody's set */ \
	j = 0; \
	do \
	:: j < N -> set[j] = set[j] & ~MYBITS; j++ \
	:: else -> break \
	od

inline ticket_back() {
	tick = tick & ~MYBITS;
	STRIKE_OFF(ahead);
	ahead[me] = 0
}

inline wait_over() {		/* ghost */
	came = came & ~MYBITS;
	STRIKE_OFF(before);
	before[me] = 0
}

/* Something happens to inode n: those who watch it get an event. */
inline emit(n, isclose) {
	j = 0;
	do
	:: j < N ->
		if
		:: (n) != 0 && (watching & BIT(j)) && (fd[j * S] == (n) || fd[j * S + 1] == (n)) ->
			event = event | BIT(j);
			closed = closed | (isclose -> BIT(j) : 0)
		:: else
		fi;
		j++
	:: else -> break
	od
}

inline put(n) {
	opens[n]--;
	assert(opens[n] > 0 || (!gate[n] && pres[n] == 0 && !lk[n]))
}

inline drop(k) {
	if
	:: FD(k) != 0 -> put(FD(k)); FD(k) = 0
	:: else
	fi
}

/* Close a description that holds nothing. */
inline shut(k) {
	if
	:: FD(k) != 0 -> emit(FD(k), true); drop(k)
	:: else
	fi
}

/* Open slot k's file by its name, or make it. */
inline open_slot(k) {
	if
	:: name[k] == 0 -> name[k] = k + 1
	:: else
	fi;
	FD(k) = name[k];
	opens[FD(k)]++
}

/*
 * The name is gone from its inode. The number k + 1 is for the one that bears
 * the name, so this one gets another: which number it has means nothing.
 */
inline unlink(k) {
	name[k] = 0;
	i = S + 1;
	do
	:: opens[i] == 0 -> break
	:: else -> i++; assert(i <= NI)
	od;
	opens[i] = opens[k + 1]; opens[k + 1] = 0;
	gate[i] = gate[k + 1]; gate[k + 1] = 0;
	pres[i] = pres[k + 1]; pres[k + 1] = 0;
	lk[i] = lk[k + 1]; lk[k + 1] = 0;
	trial[i] = trial[k + 1]; trial[k + 1] = 0;
	j = 0;
	do
	:: j < N ->
		if
		:: fd[j * S + k] == k + 1 -> fd[j * S + k] = i
		:: else
		fi;
		if
		:: tidies[j] == k + 1 -> tidies[j] = i
		:: else
		fi;
		j++
	:: else -> break
	od
}

inline rest() {
	busy--;
	dmn = 0;
	slot = 0;
	half = 0;
	assert(busy > 0 || (name[0] == 0 && name[1] == 0) || excused)
}

/* Slot k's file, opened anew where the name has gone. */
inline renew(k) {
	if
	:: FD(k) != name[k] -> shut(k)
	:: else
	fi;
	if
	:: FD(k) == 0 -> open_slot(k)
	:: else
	fi
}

/* flock and presence on slot's file, under its gate, and back. */
inline lock() {
	lk[FD(slot)] = 1;
	held = 1;
	pres[FD(slot)]++;
	there = 1
}

inline unlock() {
	lk[FD(slot)] = 0;
	held = 0;
	pres[FD(slot)]--;
	there = 0
}

inline leave_queue() {
	ticket_back();
	wait_over();
	watching = watching & ~MYBITS;
	event = event & ~MYBITS;
	closed = closed & ~MYBITS;
	await[me] = 0;
	hot = 0
}

/* File 1 shows that somebody will come to tidy the others. */
#ifdef SKIP_WHERE_BUSY
#define LAST	0
#define BUSY	(slot == 0 && name[0] != 0 && (pres[name[0]] != 0 || OTHERS(tick, name[0]) != 0))
#else
#define LAST	(S - 1)
#define BUSY	false
#endif

/* -n: a busy slot is a held one, not one that is being tidied. */
#define HONEST	assert(!(mode & NONBLOCK) || !trial[FD(slot)] || name[slot] != FD(slot) || excused)

/*
 * The last closes of the descriptions that nobody inherited. The kernel
 * announces them, drops the byte locks, and then the flocks.
 */
#define LEFT	((runs & MYBITS) || dmn)
inline announce() {
	watching = watching & ~MYBITS;
	emit(y, true);
	if
	:: LEFT
	:: else -> emit(FD(0), true); emit(FD(1), true)
	fi
}

inline drop_bytes() {
	if
	:: yg -> gate[y] = 0
	:: else
	fi;
	if
	:: LEFT
	:: else ->
		leave_queue();
		if
		:: mg -> gate[FD(0)] = 0; mg = 0
		:: else
		fi;
		if
		:: there -> pres[FD(slot)]--; there = 0
		:: else
		fi
	fi
}

inline drop_flocks() {
	if
	:: yg -> lk[y] = 0; trial[y] = 0; yg = 0
	:: else
	fi;
	if
	:: y != 0 -> put(y); y = 0
	:: else
	fi;
	if
	:: LEFT
	:: else ->
		if
		:: held -> lk[FD(slot)] = 0; held = 0
		:: else
		fi;
		drop(0);
		drop(1)
	fi
}

inline die() {
	if
	:: d_step { !yg && (!held || LEFT) -> announce(); drop_bytes(); drop_flocks() }
	:: d_step { yg || (held && !LEFT) -> announce(); flight = flight | MYBITS };
		KERNEL(drop_bytes());
		KERNEL(drop_flocks(); flight = flight & ~MYBITS; STRIKE_OFF(await))
	fi
}

proctype contender(byte me; byte mode) {
	byte slot;		/* the one that is tried, held or tidied */
	bit held;		/* flock on slot's file */
	bit there;		/* presence on it */
	bit gone;		/* ran once and shall not again */
	bit mg;			/* gate of file 1 */
	bit dmn;		/* a daemon has the lock's description too */
	bit yg;			/* gate and trial of the one that tidies */
	bit half;		/* one of the two files is tidied */
	bit hot;		/* an IN_CLOSE was read since the last try */

idle:
	if
	:: d_step {
		!gone ->
		gone = ((ONCE & BIT(me)) != 0);
		if
		:: busy == 0 -> excused = 0; kills = KILLS
		:: else
		fi;
		busy++
	   }
	:: goto retired
	fi;

again:
	STEP(true, open_slot(0));
	/* under the gate of file 1: a look for tickets and a try of all */
	if
	:: d_step { !gate[FD(0)] -> gate[FD(0)] = 1; mg = 1; slot = 0 }
	:: gate[FD(0)] && (mode & TIMED) -> goto giveup
	KILL
	fi;
	if
	:: d_step { OTHERS(tick, FD(0)) != 0 -> slot = S }; goto queue
	:: d_step { OTHERS(tick, FD(0)) == 0 && !lk[FD(0)] -> lock() }; goto mine
	:: d_step { OTHERS(tick, FD(0)) == 0 && lk[FD(0)] -> HONEST; slot = 1 }
	KILL
	fi;
other:
	STEP(true, renew(1));
	if
	:: d_step { !gate[FD(1)] && !lk[FD(1)] -> lock() }
	:: d_step { !gate[FD(1)] && lk[FD(1)] && name[1] == FD(1) -> HONEST }; goto queue
	:: d_step { !gate[FD(1)] && lk[FD(1)] && name[1] != FD(1) -> skip }; goto other
	KILL
	fi;
mine:
#ifdef CHECK_AFTER_GATE
	STEP(true, gate[FD(0)] = 0; mg = 0);
	if
	:: d_step { name[0] == FD(0) && name[slot] == FD(slot) -> skip }; goto start
	:: d_step { name[0] == FD(0) && name[slot] != FD(slot) -> unlock() }; goto stale
	:: d_step { name[0] != FD(0) -> unlock() }; goto stale
	KILL
	fi;
#else
	if
	:: d_step {
		name[0] == FD(0) && name[slot] == FD(slot) ->
		assert(came == 0);
		gate[FD(0)] = 0;
		mg = 0
	   }; goto start
	:: d_step { name[0] == FD(0) && name[slot] != FD(slot) -> unlock() }; goto other
	:: d_step { name[0] != FD(0) -> unlock(); gate[FD(0)] = 0; mg = 0 }; goto stale
	KILL
	fi;
#endif

queue:
	if
	:: d_step { (mode & NONBLOCK) -> gate[FD(0)] = 0; mg = 0 }; goto taken
	:: d_step {
		!(mode & NONBLOCK) ->
		before[me] = came;
		ahead[me] = OTHERS(tick, FD(0));
		tick = tick | MYBITS;
		if
		:: name[0] == FD(0) -> came = came | MYBITS
		:: else
		fi;
		gate[FD(0)] = 0;
		mg = 0
	   }
	KILL
	fi;

	/* wait to be the first in line */
	if
	:: d_step { ahead[me] == 0 -> slot = 0 }
	TIMEOUT
	KILL
	fi;
#ifndef WATCH_AFTER_TRY
	STEP(true, watching = watching | MYBITS; hot = FRESH);
#endif
next:
#ifdef KEEP_STALE
	STEP(true, if :: FD(slot) == 0 -> open_slot(slot) :: else fi);
#else
	if
	:: d_step { FD(0) == name[0] && CURRENT(slot) -> skip }
	:: d_step { FD(0) == name[0] && !CURRENT(slot) -> renew(slot); hot = FRESH }
	:: d_step { FD(0) != name[0] -> assert(!(came & MYBITS)) }; goto stale
	KILL
	fi;
#endif
	if
	:: d_step { !gate[FD(slot)] && !lk[FD(slot)] -> lock() }; goto got
	:: d_step { !gate[FD(slot)] && lk[FD(slot)] && slot + 1 < S -> slot++ }; goto next
	:: d_step { !gate[FD(slot)] && lk[FD(slot)] && slot + 1 == S && !hot -> slot = 0 }
	:: d_step { !gate[FD(slot)] && lk[FD(slot)] && slot + 1 == S && hot ->
		hot = 0; slot = 0; await[me] = flight }; goto patience
	TIMEOUT
	KILL
	fi;
#ifdef WATCH_AFTER_TRY
	STEP(true, watching = watching | MYBITS);
#endif
asleep:
	if
	:: d_step {
		event & MYBITS ->
#ifndef TRY_ONCE_ON_CLOSE
		hot = ((closed & MYBITS) != 0);
#endif
		event = event & ~MYBITS;
		closed = closed & ~MYBITS
	   }; goto next
	TIMEOUT
	KILL
	fi;
patience:
	if
	:: d_step { await[me] == 0 -> skip }; goto next
	TIMEOUT
	KILL
	fi;

got:
#ifdef LATE_RECHECK
	STEP(true, ticket_back());
#endif
	if
	:: d_step { name[0] == FD(0) && name[slot] == FD(slot) ->
		assert(before[me] == 0);
		leave_queue()
	   }; goto start
	:: d_step { name[0] == FD(0) && name[slot] != FD(slot) -> unlock() }; goto next
	:: d_step { name[0] != FD(0) -> assert(!(came & MYBITS)); unlock() }; goto stale
	KILL
	fi;

taken:
	if
	:: d_step { name[0] == FD(0) -> skip }; goto giveup
	:: d_step { name[0] != FD(0) -> skip }
	KILL
	fi;
stale:
	KERNEL(leave_queue(); shut(0); shut(1));
	goto again;

start:
	if
	:: d_step {
		true ->
		assert(COUNT(runs) < S);
		shut(1 - slot);	/* not the lock's */
		runs = runs | MYBITS
	   }
	KILL
	fi;
	if
	:: d_step { true -> runs = runs & ~MYBITS }
#if DAEMONS
	:: d_step { MYBITS & DAEMONS -> runs = runs & ~MYBITS; dmn = 1 }
#endif
#if ENDLESS
	:: (MYBITS & ENDLESS) -> goto forever
#endif
	KILL
	fi;

release:
#if !defined(NO_EVENT) && !defined(EVENT_AFTER_UNLOCK)
	STEP(true, y = name[slot]; opens[y]++);
#endif
	STEP(true, lk[FD(slot)] = 0; held = 0);
#ifdef EVENT_AFTER_UNLOCK
	STEP(true, emit(FD(slot), false); pres[FD(slot)]--; there = 0);
#else
	STEP(true, pres[FD(slot)]--; there = 0);
#endif
	STEP(true, if :: !dmn -> shut(slot) :: else fi);
	goto tidy;

giveup:
	KERNEL(leave_queue(); shut(0); shut(1); slot = LAST);

	/* the slot's file, and then the other */
tidy:
	if
	:: d_step { y != 0 -> skip }
	:: d_step { y == 0 && name[slot] != 0 -> y = name[slot]; opens[y]++ }
	:: d_step { y == 0 && name[slot] == 0 -> skip }; goto tidied
	KILL
	fi;
	if
	:: d_step { !gate[y] && pres[y] == 0 && OTHERS(tick, y) == 0 && !lk[y] ->
		gate[y] = 1; lk[y] = 1; trial[y] = 1; yg = 1 }
	:: d_step { !gate[y] && !(pres[y] == 0 && OTHERS(tick, y) == 0 && !lk[y]) -> skip }; goto shut_y
	KILL
	fi;
	STEP(true, if :: name[slot] == y -> unlink(slot) :: else fi; lk[y] = 0; trial[y] = 0; gate[y] = 0; yg = 0);
shut_y:
	STEP(true, emit(y, true); put(y); y = 0);
tidied:
	if
#ifdef NO_TIDY_1
#elif defined(TIDY_TAKEN)
	:: slot != 0 -> slot = 0; goto tidy
#else
#ifdef SKIP_WHERE_BUSY
	:: d_step { !half && BUSY -> skip }; goto done
#endif
	:: !half && !BUSY -> half = 1; slot = S - 1 - slot; goto tidy
#endif
	:: else
	fi;
done:
	if
	:: d_step { !dmn -> rest() }; goto idle
	:: dmn -> goto orphan
	:: d_step { dmn -> rest() }; goto forever
	fi;

	/* keylock was killed; what it left behind goes on */
dying:
	die();
	if
	:: runs & MYBITS ->
		if
		:: d_step { true -> runs = runs & ~MYBITS }
#if DAEMONS
		:: d_step { MYBITS & DAEMONS -> runs = runs & ~MYBITS; dmn = 1 }
#endif
		fi
	:: else
	fi;
	/* A daemon may live for ever if it does not hold the lock. */
	if
	:: FD(0) == 0 && FD(1) == 0 -> goto rested
#if DAEMONS
	:: dmn && !held -> goto forever
#endif
	:: (FD(0) != 0 || FD(1) != 0) -> goto orphan
	fi;
orphan:
	dmn = 0;
	die();
rested:
	KERNEL(rest());
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
#if N > 2
		run contender(2, M2);
#endif
#if N > 3
		run contender(3, M3);
#endif
	}
}

#ifdef LIVE
ltl served { [] ((came & 1) -> <> (runs & 1)) }
#endif

/*
 * The lockfile protocol of DESIGN.md, section 6, for spin. tests/proof/model.sh
 * builds and runs it; nothing here is part of keylock.
 *
 * Each contender is one keylock with the command that it starts and the
 * daemon that this may leave behind. It runs again and again, or stops for
 * good between two runs. Each step is one system call, and keylock can be
 * SIGKILLed before every one of them.
 *
 *   DESIGN.md, section 6                            here
 *   "open the file" (rule 4 of section 4)           again, create
 *   "take the gate (-n waits 100 ms at most). If
 *    no ticket is held and flock succeeds: take
 *    presence, leave the gate"                      enter
 *   "else, with -n, the key is taken … only ever
 *    said of the inode that still bears the name"   queue, taken
 *   "else draw a ticket, leave the gate, wait for
 *    the nearest lower ticket, again until there
 *    is none"                                       queue, line
 *   "then wait for the flock, take presence, give
 *    the ticket back"                               first
 *   "compare fstat with fstatat … drop all, begin
 *    again"                                         recheck, stale
 *   section 7: the command inherits the lock's
 *    descriptor, keylock waits for it               start
 *   "LOCK_UN … drop presence; close; tidy"          release
 *   "Tidy … on a descriptor newly opened by name"   tidy, unlock, leave
 *   "one deadline for the whole acquisition";
 *    signals: "give up every place, tidy"           TIMEOUT, giveup
 *   SIGKILL: the command and its daemon go on, and
 *    the locks go when the last of them has ended   dead, orphan
 *   "--pin" (section 10), and then flock(1)         pinner
 *   a program that flocks a file it has not pinned,
 *    and looks at the name after                    foreigner
 *
 * As in the kernel (fs/locks.c, locks_remove_file) the last close of a
 * description lets go first of its byte locks and then of its flock: two
 * steps, with anybody's steps in between.
 *
 * What is checked
 *   - two exclusive commands, or an exclusive and a shared one, never run at
 *     once (P1), nor a command and a flock(1) on a pinned file;
 *   - nobody who waits stands for ever, as long as commands end: no state
 *     but those labelled end is without a way on. A daemon may live for ever
 *     when its keylock has released the lock (P2). Stopping between runs and
 *     dying both are bounded, so they cannot hide that somebody stands;
 *   - whenever all are at rest no file is left, but for the first time after
 *     a SIGKILL, a stop in the gate or a foreigner (P3);
 *   - of two, one of them exclusive, of which one drew its place before the
 *     other came, the other's command does not start first (P4);
 *   - without kills -n says "taken" only of a key that somebody holds or
 *     waits for, not of one that is being tidied;
 *   - who drew a ticket on the file that bears the name never finds it gone;
 *   - LIVE: contender 0, once it has its ticket there, is served, if every
 *     process that can go on at last does (weak fairness).
 *
 * What is abstracted
 *   - Tickets have no numbers: each has the set of those drawn before it and
 *     still held (ahead). A number is one above the highest held and is
 *     drawn under the gate, so the order is the same. Both searches by
 *     bisection are one step each: while one draws nobody else does, so that
 *     "none at or above" stays true; of the tickets below a waiter's own
 *     none is ever drawn again.
 *   - Waiting for a byte or for the flock is a guard: which of several
 *     waiters the kernel wakes is free, and a newcomer may go before. Who
 *     gets the byte it waited for lets it go at once.
 *   - LIVE says nothing of the wait for the gate and of the runs that found
 *     their file gone, before the ticket: there the kernel decides, and each
 *     is as long as some other's progress.
 *   - A time-out or a signal to give up comes at any step of waiting or not
 *     at all; a gate held for 100 ms by a stopped process (STALL) likewise.
 *   - Records (section 8), several keys, slots (slots.pml), nested runs and
 *     their byte 2 are left out; -F and -l are a command whose keylock was
 *     killed.
 *   - What nobody else can see is not a step of its own: the last close of a
 *     description that holds no flock, and that of the one that tidies, which
 *     goes with leaving the gate. The look without the gate, before tidying,
 *     comes in time or not; going by it is a step, not looking another.
 *   - The inode that bears the name is always number 1. Of those that lost
 *     theirs a number is used again as soon as nobody has it open, which is
 *     as bad as a file system can be.
 *
 * Sizes by -D: N contenders, their modes M0…M3, NI inodes, KILLS kills (anew
 * from each rest) among the set MORTALS, the sets DAEMONS (may leave one) and
 * ONCE (run once), STALL, STICKY (unlinking may fail with EPERM), LIVE.
 * Each mutant by its own -D: NO_RECHECK, TIDY_NO_PRESENCE (neither the look
 * at the presence nor the trial of the flock), TIDY_NO_TRIAL, TIDY_NO_TICKET,
 * TIDY_NO_NAME, TIDY_NO_PIN, TIDY_SAME_DESC (on the description that the
 * daemon shares), TIDY_CLOSE (closes without LOCK_UN), UNLINK_OUTSIDE_GATE,
 * UNLINK_AFTER_GATE (but still under the flock), UNLOCK_EARLY,
 * RELEASE_BY_CLOSE, NO_TICKETS, TAKEN_OF_STALE, NO_TIDY_AFTER_GIVEUP.
 *
 * TIDY_NO_LOOK, without the look at the presence alone, is no mutant: the
 * trial of the flock finds every holder, and is made under the gate, where no
 * keylock sees it. The look spares the trial to others' flock -n.
 */

/* Modes are sets of these; 0 is plain: exclusive, waits. */
#define SHARED	1
#define NONBLOCK	2
#define TIMED	4
#define PINNER	8
#define CAREFUL	16

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
#define NI 4
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef ONCE
#define ONCE 0
#endif
#ifndef MORTALS
#define MORTALS 15
#endif
#ifndef DAEMONS
#define DAEMONS 0
#endif

#define USED (M0 | (N > 1 ? M1 : 0) | (N > 2 ? M2 : 0) | (N > 3 ? M3 : 0))
#define EX	255
#define BIT(k)	(1 << (k))

/* One system call, or death before it; what the kernel goes on to do. */
#define STEP(guard, act)	if :: d_step { (guard) -> act } KILL fi
#define KERNEL(act)	if :: d_step { true -> act } fi
#if KILLS > 0
#define KILL	:: atomic { (BIT(me) & MORTALS) && kills > 0 -> kills--; excused = 1 }; goto dead
#else
#define KILL
#endif
#if USED & TIMED
#define TIMEOUT	:: (mode & TIMED) -> goto giveup
#else
#define TIMEOUT
#endif

byte name;			/* the inode that the name leads to: 1, or 0 */
byte opens[NI + 1];		/* descriptions of this inode */
bit gate[NI + 1];		/* byte 0 */
byte pres[NI + 1];		/* byte 1: number of read locks */
byte lk[NI + 1];		/* flock: EX, or number of LOCK_SH */
bit pinned[NI + 1];
bit trial[NI + 1];		/* ghost: the flock is a tidier's trial */

byte ino[N];			/* inode of the contender's main description */
byte tidies[N];			/* and of the one that it tidies by */
#define y	tidies[me]
byte tick;			/* set of those who hold a ticket */
byte ahead[N];			/* tickets drawn before, still held */
byte came;			/* ghost: drew a place and still wait for it */
byte before[N];			/* ghost: those of them who drew before */

byte runx, runs;		/* whose commands run, exclusive, shared */
byte busy;			/* contenders in a run */
byte kills;			/* kills left until all are at rest again */
bit excused;			/* a file may be left this time */
hidden byte i, j;

/* The set of all in `of` whose main description is of inode i, but me. */
#define SAME(of, k, i)	(((of) & BIT(k)) && k != me && ino[k] == (i) -> BIT(k) : 0)
#if N == 2
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i))
#endif
#if N == 3
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i) | SAME(of, 2, i))
#endif
#if N == 4
#define OTHERS(of, i)	(SAME(of, 0, i) | SAME(of, 1, i) | SAME(of, 2, i) | SAME(of, 3, i))
#endif
/* Among N contenders, those whose mode is exclusive. */
#define EXCLUSIVE	((M0 & SHARED -> 0 : 1) | (M1 & SHARED -> 0 : 2) | (M2 & SHARED -> 0 : 4) | (M3 & SHARED -> 0 : 8))

#ifdef STICKY
#define STAYS	true
#else
#define STAYS	false
#endif

#ifdef TIDY_NO_PIN
#define PINNED(i)	false
#else
#define PINNED(i)	pinned[i]
#endif

#ifdef TIDY_SAME_DESC
#define yg mg
#define yl ml
#endif

/* What LOCK_NB would get at once. */
#define CANLOCK(i)	(lk[i] == 0 || ((mode & SHARED) && lk[i] != EX))

inline lock_main() {
	if
	:: mode & SHARED -> lk[ino[me]]++; ml = 1
	:: else -> lk[ino[me]] = EX; ml = 2
	fi
}

inline unlock_main() {
	if
	:: ml == 1 -> lk[ino[me]]--
	:: ml == 2 -> lk[ino[me]] = 0
	:: else
	fi;
	ml = 0
}

#define STRIKE_OFF(set)	/* me, from everybody's set */ \
	j = 0; \
	do \
	:: j < N -> set[j] = set[j] & ~BIT(me); j++ \
	:: else -> break \
	od

inline ticket_back() {
	tick = tick & ~BIT(me);
	STRIKE_OFF(ahead);
	ahead[me] = 0
}

inline wait_over() {		/* ghost */
	came = came & ~BIT(me);
	STRIKE_OFF(before);
	before[me] = 0
}

inline put(n) {			/* a description of inode n is gone */
	opens[n]--;
	assert(opens[n] > 0 || (!gate[n] && pres[n] == 0 && lk[n] == 0));
	if
	:: opens[n] == 0 && name != n -> pinned[n] = 0
	:: else
	fi
}

inline drop_bytes() {
	ticket_back();
	wait_over();
	if
	:: mg -> gate[ino[me]] = 0; mg = 0
	:: else
	fi;
	if
	:: mp -> pres[ino[me]]--; mp = 0
	:: else
	fi
}

inline drop_flock() {
	unlock_main();
	put(ino[me]);
	ino[me] = 0;
	sure = 0;
	q = 0
}

/* The last close: in the kernel's two steps, where there is a flock to drop. */
inline close_main() {
	if
	:: d_step { ml == 0 -> drop_bytes(); drop_flock() }
	:: d_step { ml != 0 -> drop_bytes() };
		KERNEL(drop_flock())
	fi
}

inline unlock_trial() {
	if
	:: yl -> lk[y] = 0; yl = 0; trial[y] = 0
	:: else
	fi
}

/*
 * The name is gone from its inode. The number 1 is for the one that bears the
 * name, so this one gets another: which number it has means nothing.
 */
inline unlink() {
	if
	:: name != 0 ->
		name = 0;
		i = 2;
		do
		:: opens[i] == 0 -> break
		:: else -> i++; assert(i <= NI)
		od;
		opens[i] = opens[1]; opens[1] = 0;
		gate[i] = gate[1]; gate[1] = 0;
		pres[i] = pres[1]; pres[1] = 0;
		lk[i] = lk[1]; lk[1] = 0;
		pinned[i] = pinned[1]; pinned[1] = 0;
		trial[i] = trial[1]; trial[1] = 0;
		j = 0;
		do
		:: j < N ->
			if
			:: ino[j] == 1 -> ino[j] = i
			:: else
			fi;
			if
			:: tidies[j] == 1 -> tidies[j] = i
			:: else
			fi;
			j++
		:: else -> break
		od
	:: else
	fi
}

inline command_ends() {
	assert((runx | runs) & BIT(me));
	runx = runx & ~BIT(me);
	runs = runs & ~BIT(me)
}

inline rest() {
	busy--;
	dmn = 0;
	assert(busy > 0 || name == 0 || pinned[name] || excused || STAYS)
}

#if defined(TIDY_NO_PRESENCE) || defined(TIDY_NO_LOOK)
#define SEEN(i)	(OTHERS(tick, i) != 0)
#elif defined(TIDY_NO_TICKET)
#define SEEN(i)	(pres[i] != 0)
#else
#define SEEN(i)	(pres[i] != 0 || OTHERS(tick, i) != 0)
#endif

proctype contender(byte me; byte mode) {
	bit gone;		/* ran once and shall not again */
	bit mg, mp;		/* the main description has gate, presence, */
	byte ml;		/* flock: 1 shared, 2 exclusive */
#ifndef TIDY_SAME_DESC
	bit yg;			/* the one that tidies has gate, flock */
	byte yl;
#endif
	bit dmn;		/* a daemon has the main description too */
	byte q;			/* 1 + whose ticket is waited for */
	bit sure;		/* ghost: ticket drawn on the named file */

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
	if
	:: d_step { name != 0 -> ino[me] = name; opens[name]++ }; goto opened
	:: d_step { name == 0 -> skip }
	KILL
	fi;
create:
	if
	:: d_step {
		name == 0 ->
		name = 1; ino[me] = 1; opens[1] = 1
	   }
	:: d_step { name != 0 -> skip }; goto again
	KILL
	fi;
opened:
#if USED & PINNER
	if
	:: mode & PINNER -> goto pinner
	:: else
	fi;
#endif
#if USED & CAREFUL
	if
	:: mode & CAREFUL -> goto foreigner
	:: else
	fi;
#endif

enter:
	if
	:: d_step { !gate[ino[me]] -> gate[ino[me]] = 1; mg = 1 }
	:: gate[ino[me]] && (mode & TIMED) -> goto giveup
#ifdef STALL
	:: atomic { gate[ino[me]] && (mode & NONBLOCK) -> excused = 1 }; goto taken
#endif
	KILL
	fi;
#ifndef NO_TICKETS
	if
	:: d_step { OTHERS(tick, ino[me]) == 0 -> skip }
	:: d_step { OTHERS(tick, ino[me]) != 0 -> skip }; goto queue
	KILL
	fi;
#endif
	if
	:: d_step {
		CANLOCK(ino[me]) ->
		lock_main();
		before[me] = OTHERS(came, ino[me])
	   }
	:: d_step {
		!CANLOCK(ino[me]) ->
		assert(!(mode & NONBLOCK) || !trial[ino[me]] || name != ino[me] || excused)
	   }; goto queue
	KILL
	fi;
	STEP(true, pres[ino[me]]++; mp = 1);
	STEP(true, gate[ino[me]] = 0; mg = 0);
	goto recheck;

queue:
	if
	:: d_step { mode & NONBLOCK -> gate[ino[me]] = 0; mg = 0 }; goto taken
	:: d_step {
		!(mode & NONBLOCK) ->
		before[me] = OTHERS(came, ino[me]);
		came = came | BIT(me);
#ifndef NO_TICKETS
		ahead[me] = OTHERS(tick, ino[me]);
		tick = tick | BIT(me);
		sure = (name == ino[me])
#endif
	   }
	KILL
	fi;
	STEP(true, gate[ino[me]] = 0; mg = 0);
#ifdef NO_TICKETS
	goto first;
#endif
line:
	if
	:: d_step { ahead[me] == 0 -> skip }; goto first
	:: d_step {
		ahead[me] != 0 ->
		j = 0;
		do
		:: ahead[me] == (ahead[j] | BIT(j)) -> break
		:: else -> j++; assert(j < N)
		od;
		q = j + 1
	   }
	TIMEOUT
	KILL
	fi;
	if
	:: d_step { !(ahead[me] & BIT(q - 1)) -> q = 0 }; goto line
	TIMEOUT
	KILL
	fi;
first:
	if
	:: d_step { CANLOCK(ino[me]) -> lock_main() }
	TIMEOUT
	KILL
	fi;
	STEP(true, pres[ino[me]]++; mp = 1);
	STEP(true, ticket_back());

recheck:
#ifndef NO_RECHECK
	if
	:: d_step { name == ino[me] -> skip }
	:: d_step { name != ino[me] -> assert(!sure) }; goto stale
	KILL
	fi;
#endif
	goto start;

taken:
	if
	:: d_step { name == ino[me] -> skip }; goto giveup
#ifdef TAKEN_OF_STALE
	:: d_step { name != ino[me] -> assert(false) }
#else
	:: d_step { name != ino[me] -> skip }
#endif
	KILL
	fi;
stale:
	close_main();
	goto again;

start:
	if
	:: d_step {
		true ->
		assert(runx == 0 && (runs == 0 || (mode & SHARED)));
		assert((before[me] & ((mode & SHARED) -> EXCLUSIVE : 255)) == 0);
		wait_over();
		sure = 0;
		if
		:: mode & SHARED -> runs = runs | BIT(me)
		:: else -> runx = runx | BIT(me)
		fi
	   }
	KILL
	fi;
#ifdef UNLOCK_EARLY
	STEP(true, unlock_main());
#endif
	if
	:: d_step { true -> command_ends() }
#if DAEMONS
	:: d_step { BIT(me) & DAEMONS -> command_ends(); dmn = 1 }
#endif
	KILL
	fi;

release:
#ifndef RELEASE_BY_CLOSE
	STEP(true, unlock_main());
	STEP(true, pres[ino[me]]--; mp = 0);
#endif
#ifndef TIDY_SAME_DESC
	if
	:: dmn
	:: !dmn -> close_main()
	fi;
#endif
	goto tidy;

giveup:
#ifndef TIDY_SAME_DESC
	close_main();
#endif
#ifdef NO_TIDY_AFTER_GIVEUP
	goto done;
#endif
tidy:
	if
	:: d_step { name != 0 -> y = name; opens[y]++ }
	:: d_step { name == 0 -> skip }; goto done
	KILL
	fi;
	/* The look without the gate may be in time or not. */
	if
	:: d_step { !gate[y] -> gate[y] = 1; yg = 1 }
	:: d_step { SEEN(y) -> put(y); y = 0 }; goto done
#ifdef STALL
	:: d_step { gate[y] -> excused = 1; put(y); y = 0 }; goto done
#endif
	KILL
	fi;
#if !defined(TIDY_NO_PRESENCE) && !defined(TIDY_NO_LOOK)
	if
	:: d_step { pres[y] == 0 -> skip }
	:: d_step { pres[y] != 0 -> skip }; goto leave
	KILL
	fi;
#endif
#ifndef TIDY_NO_TICKET
	if
	:: d_step { OTHERS(tick, y) == 0 -> skip }
	:: d_step { OTHERS(tick, y) != 0 -> skip }; goto leave
	KILL
	fi;
#endif
#if !defined(TIDY_NO_PRESENCE) && !defined(TIDY_NO_TRIAL)
	if
	:: d_step { lk[y] == 0 -> lk[y] = EX; yl = 2; trial[y] = 1 }
	:: d_step { lk[y] != 0 -> skip }; goto leave
	KILL
	fi;
#endif
	if
#ifdef TIDY_NO_NAME
	:: true
#else
	:: d_step { name == y && !PINNED(y) -> skip }
	:: d_step { name != y || PINNED(y) -> skip }; goto unlock
#endif
	KILL
	fi;
#ifdef UNLINK_OUTSIDE_GATE
	STEP(true, unlock_trial());
	STEP(true, gate[y] = 0; yg = 0);
	STEP(true, unlink(); put(y); y = 0);
	goto done;
#endif
#ifdef UNLINK_AFTER_GATE
	STEP(true, gate[y] = 0; yg = 0);
	STEP(true, unlink());
	STEP(true, unlock_trial(); put(y); y = 0);
	goto done;
#endif
	if
	:: d_step { true -> unlink() }
#ifdef STICKY
	:: true
#endif
	KILL
	fi;
unlock:
#ifdef TIDY_CLOSE
	KERNEL(gate[y] = 0; yg = 0);
	KERNEL(unlock_trial(); put(y); y = 0);
	goto done;
#endif
	STEP(true, unlock_trial());
leave:
	STEP(true, gate[y] = 0; yg = 0; put(y); y = 0);

done:
#ifdef TIDY_SAME_DESC
	if
	:: dmn || ino[me] == 0
	:: !dmn && ino[me] != 0 -> close_main()
	fi;
#endif
	if
	:: d_step { !dmn -> rest() }; goto idle
	:: dmn -> goto orphan
	:: d_step { dmn -> rest() }; goto forever
	fi;

#if USED & PINNER
pinner:
	STEP(!gate[ino[me]], gate[ino[me]] = 1; mg = 1);
	STEP(true, pinned[ino[me]] = 1);
	STEP(true, gate[ino[me]] = 0; mg = 0);
	if
	:: d_step { name == ino[me] -> skip }
	:: d_step { name != ino[me] -> skip }; goto stale
	KILL
	fi;
	close_main();
	/* and now flock(1) with the path that was printed */
	STEP(true, assert(pinned[name]); ino[me] = name; opens[name]++);
	STEP(CANLOCK(ino[me]), lock_main());
	goto flocked;
#endif
#if USED & CAREFUL
foreigner:
	STEP(CANLOCK(ino[me]), lock_main());
	if
	:: d_step { name == ino[me] -> skip }
	:: d_step { name != ino[me] -> skip }; goto stale
	KILL
	fi;
#endif
#if USED & (PINNER | CAREFUL)
flocked:
	if
	:: d_step {
		true ->
		assert(runx == 0 && runs == 0);
		runx = runx | BIT(me)
	   }
	KILL
	fi;
	STEP(true, command_ends());
	close_main();
	KERNEL(excused = 1; rest());
	goto idle;
#endif

	/* keylock was killed; what it left behind goes on */
dead:
#ifdef TIDY_SAME_DESC
	KERNEL(if :: y != 0 -> opens[y]--; trial[y] = 0; y = 0 :: else fi);
#else
	if
	:: y == 0
	:: y != 0 ->
		KERNEL(if :: yg -> gate[y] = 0; yg = 0 :: else fi);
		KERNEL(unlock_trial(); put(y); y = 0)
	fi;
#endif
	if
	:: (runx | runs) & BIT(me) ->
		if
		:: d_step { true -> command_ends() }
#if DAEMONS
		:: d_step { BIT(me) & DAEMONS -> command_ends(); dmn = 1 }
#endif
		fi
	:: else
	fi;
	/* A daemon may live for ever if it holds no lock that others wait for. */
	if
	:: true
	:: dmn && !ml -> goto forever
	fi;
orphan:
	if
	:: ino[me] == 0
	:: ino[me] != 0 -> close_main()
	fi;
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
#if N > 1
		run contender(1, M1);
#endif
#if N > 2
		run contender(2, M2);
#endif
#if N > 3
		run contender(3, M3);
#endif
	}
}

#ifdef LIVE
ltl served { [] (((came & 1) && ino[0] == name) -> <> ((runx | runs) & 1)) }
#endif

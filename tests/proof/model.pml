/*
 * The lockfile protocol of DESIGN.md, sections 6 and 9, for spin. model.sh
 * builds and runs it; nothing here is part of keylock. See steps.pml first.
 *
 * Each contender is one keylock with the command that it starts and the daemon that this may
 * leave behind. A contender with a host is a nested run (-r): it begins while the host's
 * command runs, and has ancestors, whom it looks at one after the other; the host does not
 * wait for it. The labels follow section 6 and, from "guests" to "look", section 9. As in the
 * kernel (fs/locks.c, locks_remove_file) the last close of a description lets go first of its
 * byte locks and then of its flock.
 *
 * What is checked
 *   - who holds is alone: an exclusive command with no other, a shared one with shared ones,
 *     and both only when older guests have ended; a guest runs beside nobody but its ancestors
 *     and their guests (P1);
 *   - a daemon may live for ever when its keylock has released the lock (P2);
 *   - whenever all are at rest no file is left, but for the first time after a SIGKILL, a stop
 *     in the gate, a foreigner, a lock that was kept (P3);
 *   - of two, one of them exclusive, of which one drew its place before the other came, the
 *     other's command does not start first (P4), but for nested runs and -n past a gate that
 *     somebody is stopped in;
 *   - without kills -n says "taken" only of a key that somebody holds or waits for, not of one
 *     that is being tidied;
 *   - who drew a ticket on the file that bears the name never finds it gone.
 *
 * What is abstracted
 *   - Tickets have no numbers: each has the set of those drawn before it and still held
 *     (ahead). Both searches by bisection are one step each: while one draws nobody else does,
 *     and below a waiter's own none is drawn again.
 *   - The look before tidying, without the gate, comes in time or not.
 *   - Records, several keys and slots (slots.pml) are left out. -F is a command whose keylock
 *     was killed, and where it has closed the lock's descriptor, or never had it (-o), it is as
 *     one that has ended, since P1 does not count it any more. -l is a command that died (DIES).
 *   - Locks are sets of the contenders whose description has them; a number of an inode without
 *     a name is used again as soon as nobody has it open. That with the name is number 1.
 *
 * Sizes of its own: hosts H0… and ancestors A0… (sets), the sets DAEMONS (may leave one) and
 * DIES (whose command may die), STICKY (unlinking may fail with EPERM).
 */

/* Who waits, and has itself inherited the lock that is waited for, is told so (78). */
#if A0 | A1 | A2 | A3
#define FOR_ITSELF	:: (copies & ME) && (ON(ex, ino[me]) & ancestors) -> goto giveup
#endif
#include "steps.pml"

byte name;			/* the inode that the name leads to: 1, or 0 */
bit pinned;			/* and whether it is */
byte ino[4];			/* inode of the contender's main description, */
byte gate, pres;		/* who has there byte 0, byte 1, */
byte guest, clears;		/* byte 2 for reading, for writing, */
byte ex, sh;			/* the flock */
byte copies;			/* nested runs, by whose processes their ancestors' descriptions are open, too */
byte left;			/* who has ended, so that only those have its description */
byte tidies[4];			/* inode of the description that tidies, */
byte ygate, yex;		/* who has there byte 0, the flock */
byte runx, runs, rung;		/* whose commands run: exclusive, shared, guests */
byte lives;			/* whose keylock or command does */
byte busy;			/* who is in a run */
byte kills;			/* kills left until all are at rest again */
bit excused;			/* a file may be left this time */
byte came;			/* ghost: drew a place and still wait for it */
byte before[4];			/* ghost: those of them who drew before */

#define y	tidies[me]
#define RUN	(runx | runs | rung)
/* Who of a set has inode i open in that way. */
#define AT(k, set, way, i)	(((set) & BIT(k)) && way[k] == (i) -> BIT(k) : 0)
#define ALL(set, way, i)	(AT(0, set, way, i) | AT(1, set, way, i) | AT(2, set, way, i) | AT(3, set, way, i))
#define ON(set, i)	ALL(set, ino, i)
#define OTHERS(set, i)	ON((set) & ~ME, i)
#define GATED(i)	(ON(gate, i) | ALL(ygate, tidies, i))
#define TRIED(i)	ALL(yex, tidies, i)
/* What LOCK_NB would get at once. */
#define CANLOCK(i)	(!ON(ex, i) && !TRIED(i) && ((mode & SHARED) || !ON(sh, i)))
/* Whom I am an ancestor of. A shell that becomes a keylock can have a guest before its own command. */
#define IS_BELOW(k, a)	(((a) & ME) -> BIT(k) : 0)
#define BELOW	(IS_BELOW(0, A0) | IS_BELOW(1, A1) | IS_BELOW(2, A2) | IS_BELOW(3, A3))
/* Who runs exclusively, by mode. */
#define EXCLUSIVE	((M0 & SHARED -> 0 : 1) | (M1 & SHARED -> 0 : 2) | (M2 & SHARED -> 0 : 4) | (M3 & SHARED -> 0 : 8))

#define GUESTS(i)	(!NO_LOOK && OTHERS(guest | clears, i))

/* Whose descriptions those of a set have inherited; and which a last close by me would let go. */
#define INHERITED(set)	(((set) & 1 -> A0 : 0) | ((set) & 2 -> A1 : 0) | ((set) & 4 -> A2 : 0) | ((set) & 8 -> A3 : 0))
#define LAST	(copies & ME -> left & ancestors & ~INHERITED(copies & ~ME) : 0)

/* Who of a set holds by such a lock the inode that is asked for. */
#define HOLDS(set, by)	((lives | (copies & ME -> 15 : 0)) & (set) & (ON((NO_PROOF -> 15 : pres) & (by), ino[me]) | (NO_PROOF -> TRIED(ino[me]) : 0)))
#define HOLDING(by)	HOLDS(ancestors, by)
#define COVERS	(ex | guest | ((mode & SHARED) -> sh : 0))

/* What tidying looks for. */
#define SEEN(i)	ON((TIDY_NO_PRESENCE -> 0 : pres) | (TIDY_NO_TICKET -> 0 : tick) | (TIDY_NO_GUEST -> 0 : guest | clears), i)

inline lock() {
	sh = sh | ((mode & SHARED) -> ME : 0);
	ex = ex | ((mode & SHARED) -> 0 : ME)
}

inline unlock() {
	ex = ex & ~ME;
	sh = sh & ~ME
}

inline wait_over() {		/* ghost */
	came = came & ~ME;
	STRIKE_OFF(before);
	before[me] = 0
}

inline drop_bytes() {
	ticket_back();
	wait_over();
	gate = gate & ~ME; pres = pres & ~ME;
	guest = guest & ~ME; clears = clears & ~ME
}

inline drop_flock() {
	unlock();
	ino[me] = 0;
	sure = 0;
	past = 0;
	q = 0
}

/* The last close: in the kernel's two steps, where there is a flock to drop. */
inline close_main() {
	if
	:: d_step { !((ex | sh) & ME) -> drop_bytes(); drop_flock() }
	:: d_step { (ex | sh) & ME -> drop_bytes() };
		KERNEL(drop_flock())
	fi
}

/* Close what came from ancestors, in the kernel's two steps where it is the last close. */
inline host_close() {
	if
	:: d_step { LAST == 0 -> copies = copies & ~ME }
	:: d_step { LAST != 0 -> q = LAST; copies = copies & ~ME; pres = pres & ~q };
		KERNEL(ex = ex & ~q; left = left & ~q; q = 0)
	fi
}

/* The name is gone from its inode, which gets another number than 1. */
inline unlink() {
	if
	:: name != 0 ->
		name = 0;
		pinned = 0;
		i = 2;
		do
		:: ON(15, i) == 0 && ALL(15, tidies, i) == 0 -> break
		:: else -> i++; assert(i <= NI)
		od;
		for (j : 0 .. 3) {
			ino[j] = (ino[j] == 1 -> i : ino[j]);
			tidies[j] = (tidies[j] == 1 -> i : tidies[j])
		}
	:: else
	fi
}

inline command_ends() {
	assert(RUN & ME);
	runx = runx & ~ME;
	runs = runs & ~ME;
	rung = rung & ~ME
}

inline rest() {
	busy = busy & ~ME;
	lives = lives & ~ME;
	dmn = 0;
	kept = 0;
	assert(busy || name == 0 || pinned || excused || STICKY)
}

proctype contender(byte me; byte mode; byte host; byte ancestors) {
	bit gone;		/* ran once and shall not again */
	bit dmn;		/* a daemon has the main description too */
	bit kept;		/* the lock is left to what the command left */
	bit past;		/* the gate that somebody is stopped in */
	byte q;			/* who is looked at; 1 + whose ticket is waited for */
	bit sure;		/* ghost: ticket drawn on the named file */

idle:
	if
	:: d_step {
		!gone && (!host || (RUN & host)) ->
		gone = ((ONCE & ME) != 0);
		if
		:: !busy -> excused = 0; kills = KILLS
		:: else
		fi;
		busy = busy | ME;
		lives = lives | ME;
		copies = copies | (host -> ME : 0)
	   }
	:: goto retired
	fi;
#if A0 | A1 | A2 | A3
	if
	:: copies & ME -> host_close()	/* -o has denied it */
	:: true
	fi;
#endif

again:
	if
	:: d_step { name != 0 -> ino[me] = name }; goto opened
	:: d_step { name == 0 -> skip }
	KILL
	fi;
create:
	TEST(name == 0, name = 1; ino[me] = 1, skip, again);
opened:
#if USED & (PINNER | CAREFUL)
	if
	:: mode & PINNER -> goto pinner
	:: mode & CAREFUL -> goto foreigner
	:: else
	fi;
#endif

#if A0 | A1 | A2 | A3
	/* where an ancestor seems to hold: as a guest, or beside it */
	if
	:: d_step { HOLDING(ex | guest) -> skip }
	:: d_step { !HOLDING(ex | guest) && (mode & SHARED) && HOLDING(sh) -> skip }; goto shares
	:: d_step { !HOLDING(ex | guest) && !((mode & SHARED) && HOLDING(sh)) -> skip }; goto enter
	KILL
	fi;
	TEST(!OTHERS(clears, ino[me]), guest = guest | ME, skip, enter);
	goto look;
shares:
	TEST(CANLOCK(ino[me]), sh = sh | ME, skip, enter);
	STEP(true, pres = pres | ME);
look:
	if
	:: d_step { q < 4 && HOLDS(ancestors & BIT(q), COVERS) -> q = 0 }
	:: d_step { q < 4 && !HOLDS(ancestors & BIT(q), COVERS) -> q++ }; goto look
	:: d_step { q == 4 -> q = 0; guest = guest & ~ME; pres = pres & ~ME; unlock() }; goto enter
	KILL
	fi;
	STEP(true, pres = pres | ME);
	goto recheck;
#endif

enter:
	if
	:: d_step { !GATED(ino[me]) -> gate = gate | ME }
	:: GATED(ino[me]) && (mode & TIMED) -> goto giveup
#ifdef STALL
	:: d_step { GATED(ino[me]) && (mode & NONBLOCK) -> past = 1; excused = 1 }
#endif
	KILL
	fi;
	TEST(OTHERS(tick, ino[me]) == 0, skip, skip, queue);
	if
	:: d_step {
		CANLOCK(ino[me]) ->
		lock();
		before[me] = (past -> 0 : OTHERS(came, ino[me]))
	   }
	:: d_step {
		!CANLOCK(ino[me]) ->
		assert(!(mode & NONBLOCK) || !TRIED(ino[me]) || name != ino[me] || excused)
	   }; goto queue
	KILL
	fi;
	TEST(GUESTS(ino[me]) == 0, skip, unlock(); before[me] = 0, queue);
	STEP(true, pres = pres | ME);
	STEP(true, gate = gate & ~ME);
	goto recheck;

queue:
	if
	:: d_step { mode & NONBLOCK -> gate = gate & ~ME }; goto taken
	:: d_step {
		!(mode & NONBLOCK) ->
		before[me] = OTHERS(came, ino[me]);
		came = came | ME;
		ahead[me] = OTHERS(tick, ino[me]);
		tick = (NO_TICKETS -> 0 : tick | ME);
		sure = (!NO_TICKETS && name == ino[me])
	   }
	KILL
	fi;
	STEP(true, gate = gate & ~ME);
line:
	if
	:: d_step { ahead[me] == 0 -> skip }; goto first
	:: d_step {
		ahead[me] != 0 ->
		j = 0;
		do
		:: ahead[me] == (ahead[j] | BIT(j)) -> break
		:: else -> j++; assert(j < 4)
		od;
		q = j + 1
	   }
	TIMEOUT
	KILL
	fi;
	AWAIT(!(ahead[me] & BIT(q - 1)), q = 0);
	goto line;
first:
	AWAIT(CANLOCK(ino[me]), lock());
	AWAIT(GUESTS(ino[me]) == 0, clears = clears | ME);
	STEP(true, clears = clears & ~ME);
	STEP(true, pres = pres | ME);
	STEP(true, ticket_back());

recheck:
	TEST(name == ino[me] || NO_RECHECK || (NO_NAME && (guest & ME)), skip, assert(!sure), stale);
	goto start;

taken:
	TEST(name != ino[me], assert(!TAKEN_OF_STALE), skip, giveup);
stale:
	close_main();
	goto again;

start:
	if
	:: d_step {
		true ->
		if
		:: guest & ME ->
			assert(((runx | runs) & ~ancestors) == 0);
			rung = rung | ME
		:: else ->
			assert(runx == 0 && (rung & ~BELOW) == 0 && (runs == 0 || (mode & SHARED)));
			assert((before[me] & ((mode & SHARED) -> EXCLUSIVE : 255)) == 0);
			if
			:: mode & SHARED -> runs = runs | ME
			:: else -> runx = runx | ME
			fi
		fi;
		if
		:: UNLOCK_EARLY -> unlock()
		:: else
		fi;
		wait_over();
		sure = 0
	   }
	KILL
	fi;
	if
	:: d_step { true -> command_ends() }
#if DAEMONS
	:: d_step { ME & DAEMONS -> command_ends(); dmn = 1 }
#endif
#if DIES
	:: d_step { ME & DIES -> command_ends(); kept = 1 }
	:: d_step { ME & DIES & DAEMONS -> command_ends(); kept = 1; dmn = 1 }
#endif
	KILL
	fi;

release:
#if A0 | A1 | A2 | A3
	if
	:: (copies & ME) && !dmn -> host_close()
	:: d_step { (copies & ME) && dmn -> excused = 1 }
	:: !(copies & ME)
	fi;
#endif
	/* Beside an exclusive holder only its guests are present. */
	TEST(!kept && ((mode & SHARED) || (guest & ME) || OTHERS(pres, ino[me]) == 0) && !RELEASE_BY_CLOSE,
	     skip, assert(kept || RELEASE_BY_CLOSE || OTHERS(guest, ino[me])); kept = !RELEASE_BY_CLOSE; excused = (excused | (kept && dmn)), closes);
	/* Were the lock given up first, another could take it, and see this presence for a guest's. */
	STEP(true, pres = (UNLOCK_FIRST -> pres : pres & ~ME); guest = guest & ~ME);
	STEP(true, unlock());
	STEP(true, pres = pres & ~ME);
closes:
	if
	:: dmn
	:: d_step { !dmn && (INHERITED(copies) & ME) -> left = left | ME }
	:: !dmn && !(INHERITED(copies) & ME) -> close_main()
	fi;
	goto tidy;

giveup:
	close_main();
#if NO_TIDY_AFTER_GIVEUP
	goto done;
#endif
tidy:
	TEST(name != 0, y = name, skip, done);
	/* The look without the gate may be in time or not. */
	if
	:: d_step { !GATED(y) -> ygate = ygate | ME }
	:: d_step { SEEN(y) -> y = 0 }; goto done
#ifdef STALL
	:: d_step { GATED(y) -> excused = 1; y = 0 }; goto done
#endif
	KILL
	fi;
	TEST(!SEEN(y), skip, skip, leave);
	TEST(TIDY_NO_PRESENCE || TIDY_NO_TRIAL || (!ON(ex | sh, y) && !TRIED(y)), yex = yex | ME, skip, leave);
	TEST(!SEEN(y) || NO_AGAIN, skip, skip, untry);
	TEST((name == y || TIDY_NO_NAME) && (!pinned || TIDY_NO_PIN), skip, skip, untry);
#if UNLINK_OUTSIDE_GATE || UNLINK_AFTER_GATE
	STEP(true, yex = (UNLINK_OUTSIDE_GATE -> yex & ~ME : yex));
	STEP(true, ygate = ygate & ~ME);
#endif
	if
	:: d_step { true -> unlink() }
	:: STICKY
	KILL
	fi;
untry:
#if TIDY_CLOSE
	STEP(true, ygate = ygate & ~ME);
#endif
	STEP(true, yex = yex & ~ME);
leave:
	STEP(true, ygate = ygate & ~ME; y = 0);

done:
	if
	:: d_step { !dmn && !(left & ME) && !(copies & ME) -> rest() }; goto idle
	:: d_step { dmn || (left & ME) || (copies & ME) -> lives = lives & ~ME }; goto orphan
	:: d_step { dmn && !kept && !(copies & ME) -> rest() }; goto forever
	fi;

#if USED & (PINNER | CAREFUL)
pinner:	/* --pin, and then flock(1) with the path that was printed */
	STEP(!GATED(ino[me]), gate = gate | ME);
	STEP(true, pinned = (name == ino[me] -> 1 : pinned));
	STEP(true, gate = gate & ~ME);
	TEST(name == ino[me], skip, skip, stale);
	close_main();
	STEP(true, assert(pinned); ino[me] = name);
foreigner: /* a program that flocks a file that it has not pinned, and looks at the name after */
	STEP(CANLOCK(ino[me]), lock());
	TEST(name == ino[me], skip, skip, stale);
	STEP(true, assert(RUN == 0); runx = runx | ME);
	STEP(true, command_ends());
	close_main();
	KERNEL(excused = 1; rest());
	goto idle;
#endif

	/* keylock was killed; what it left behind goes on */
dead:
	if
	:: y == 0
	:: y != 0 ->
		KERNEL(if :: TIDY_SAME_DESC && dmn && y == ino[me] -> gate = gate | (ygate & ME) :: else fi; ygate = ygate & ~ME);
		KERNEL(yex = yex & ~ME; y = 0)
	fi;
	if
	:: RUN & ME ->
		if
		:: d_step { true -> command_ends() }
#if DAEMONS
		:: d_step { ME & DAEMONS -> command_ends(); dmn = 1 }
#endif
		fi
	:: else
	fi;
	KERNEL(lives = lives & ~ME);
	/* A daemon may live for ever if it holds no lock that others wait for. */
	if
	:: true
	:: dmn && !((ex | sh | guest | copies) & ME) -> goto forever
	fi;
orphan:
	if
	:: ino[me] == 0
	:: ino[me] != 0 && !(left & ME) && !(INHERITED(copies) & ME) -> close_main()
	fi;
#if A0 | A1 | A2 | A3
	if
	:: copies & ME -> host_close()
	:: !(copies & ME)
	fi;
#endif
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
		run contender(0, M0, H0, A0);
		run contender(1, M1, H1, A1);
		if :: N > 2 -> run contender(2, M2, H2, A2) :: else fi;
		if :: N > 3 -> run contender(3, M3, H3, A3) :: else fi
	}
}

#ifdef LIVE
ltl served { [] (((came & 1) && ino[0] == name) -> <> ((runx | runs) & 1)) }
#endif

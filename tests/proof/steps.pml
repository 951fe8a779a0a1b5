/*
 * What model.pml and slots.pml share. Each contender is a keylock with its command; it runs
 * again and again, or stops for good between two runs. Each step is one system call, and
 * keylock can be SIGKILLed before every one of them. A time-out or a signal to give up
 * comes at any step of waiting or not at all; so does the end of the patience with a gate
 * (STALL). Waiting is a guard: which of several waiters the kernel wakes is free, and a
 * newcomer may go before. What is marked ghost is there for the assertions alone.
 *
 * Checked in both: nobody who waits stands for ever, as long as commands end (no state but
 * those labelled end is without a way on); and with LIVE that contender 0, once it has its
 * ticket on the file that bears the name, is served, if every process that can go on at last
 * does (weak fairness).
 *
 * Sizes by -D, with defaults in model.sh: N contenders, their modes M0…M3, NI inodes, KILLS
 * kills (anew from each rest) among the set MORTALS, ONCE (who run once), STALL, LIVE. The
 * mutants are words in capitals, 0 but for the one that is tried.
 */
/* Modes are sets of these; 0 is plain: exclusive, waits. */
#define SHARED	1
#define NONBLOCK	2
#define TIMED	4
#define PINNER	8
#define CAREFUL	16

#define USED	(M0 | M1 | M2 | M3)
#define BIT(k)	(1 << (k))
#define ME	BIT(me)

/* One system call, or death before it; what the kernel goes on to do. */
#define STEP(guard, act)	if :: d_step { (guard) -> act } KILL fi
#define KERNEL(act)	if :: d_step { true -> act } fi
#if KILLS > 0
#define KILL	:: atomic { (ME & MORTALS) && kills > 0 -> kills--; excused = 1 }; goto dead
#else
#define KILL
#endif
/* One of two, in a step; with `label` next in the second case. */
#define TEST(guard, act, otherwise, label)	if :: d_step { (guard) -> act } :: d_step { !(guard) -> otherwise }; goto label KILL fi
#if USED & TIMED
#define TIMEOUT	:: (mode & TIMED) -> goto giveup
#else
#define TIMEOUT
#endif
#ifndef FOR_ITSELF
#define FOR_ITSELF
#endif
#define AWAIT(guard, act)	if :: d_step { (guard) -> act } FOR_ITSELF TIMEOUT KILL fi

#define STRIKE_OFF(set)	/* me, from everybody's set */ \
	for (j : 0 .. 3) { set[j] = set[j] & ~ME }

/* The tickets of who waits, and who of those drew before each of them and still waits. */
byte tick, ahead[4];
hidden byte i, j;

inline ticket_back() {
	tick = tick & ~ME;
	STRIKE_OFF(ahead);
	ahead[me] = 0
}

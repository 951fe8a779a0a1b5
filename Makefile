# keylock: one static binary. A packager's CC, CFLAGS, CPPFLAGS, LDFLAGS,
# PREFIX, MANDIR and DESTDIR are theirs; what the program itself needs is in
# the KEYLOCK_ variables.

PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
CFLAGS = -O2
LDFLAGS =

# A static musl binary starts soonest: a process of glibc pays more in its
# start-up than keylock needs in all.
ifeq ($(origin CC),default)
CC := $(shell command -v musl-gcc >/dev/null 2>&1 && echo musl-gcc || echo cc)
endif

# Static where the C library can be linked so.
KEYLOCK_STATIC := $(shell out=$$(mktemp) && \
	echo 'int main(void) { return 0; }' | \
	$(CC) -static -x c -o $$out - >/dev/null 2>&1 && echo -static; rm -f $$out)
KEYLOCK_CFLAGS = -std=c11 -fno-pie
KEYLOCK_LDFLAGS = $(KEYLOCK_STATIC) -no-pie

VERSION = $(shell sed -n 's/^\#define VERSION "\(.*\)"/\1/p' keylock.c)

all: keylock

keylock: keylock.c Makefile
	$(CC) $(CPPFLAGS) $(CFLAGS) $(KEYLOCK_CFLAGS) -o $@ keylock.c \
		$(LDFLAGS) $(KEYLOCK_LDFLAGS)

install: keylock
	mkdir -p $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1
	install -m 755 keylock $(DESTDIR)$(BINDIR)/keylock
	install -m 644 keylock.1 $(DESTDIR)$(MANDIR)/man1/keylock.1

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/keylock $(DESTDIR)$(MANDIR)/man1/keylock.1

clean:
	rm -f keylock keylock-*.tar.gz

.PHONY: all install uninstall clean

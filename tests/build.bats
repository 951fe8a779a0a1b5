# The Makefile, as packagers use it. All of it works on a copy of the sources, so that nothing that
# lies about here takes part.

# Scripts in single quotes are meant for the shell that they are given to (SC2016), status and
# output come from the helper (SC2154).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154
load helper

setup() {
	keylock_setup
	need make
	# What this run of make and bats was given is not for the one under test.
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CC CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR MANDIR
	tree=$BATS_TEST_TMPDIR/tree
	copy
	cd "$tree" || return
}

# copy: the sources as a packager gets them, without what a build or an editor left.
copy() {
	local top=$BATS_TEST_DIRNAME/..
	mkdir "$tree"
	cp -R "$top/keylock.c" "$top/keylock.1" "$top/Makefile" "$top/README" "$top/tests" "$tree"
}

# built: puts the binary that is there already into the tree, where building is not the point.
built() {
	cp "$KEYLOCK" keylock
	touch keylock
}

# installed DIR: the names of all files under DIR, in order.
installed() {
	(cd "$1" && find . ! -type d | sort)
}

works() {
	run_it "${1:-./keylock}" job7 sh -c 'echo "$KEYLOCK_KEY"; exit 3'
	expect 3
	[ "$output" = job7 ]
}

@test "make builds a keylock that works, and says no warning" {
	run_it make
	expect 0
	[ -z "$stderr" ]
	works
	# A second make has nothing to do.
	run_it make -q
	expect 0
	command -v musl-gcc || return 0
	# With musl it is static.
	run_it grep -c INTERP <(readelf -lW keylock)
	[ "$output" = 0 ]
}

@test "make CFLAGS=-O2 builds: keylock's own needs are not in CFLAGS" {
	run_it make CFLAGS=-O2
	expect 0
	[ -z "$stderr" ]
	[[ $output == *-O2* ]]
	works
}

@test "make CFLAGS= and CFLAGS from the environment build, too" {
	need_long
	run_it make CFLAGS=
	expect 0
	works
	run_it make clean
	run_it env CFLAGS='-O1 -g' make
	expect 0
	[[ $output == *'-O1 -g'* ]]
	works
}

@test "make CC=gcc builds with gcc" {
	need gcc
	run_it make CC=gcc
	expect 0
	[ -z "$stderr" ]
	[[ $output == *gcc* && $output != *musl-gcc* ]]
	works
}

@test "make CC=clang builds without a warning" {
	need_long
	need clang
	run_it make CC=clang
	expect 0
	[ -z "$stderr" ]
	works
}

@test "CPPFLAGS and LDFLAGS reach the compiler" {
	run_it make CPPFLAGS=-DPACKAGER=1 LDFLAGS=-Wl,-z,now
	expect 0
	[[ $output == *-DPACKAGER=1* && $output == *-Wl,-z,now* ]]
	works
}

@test "with the hardening flags of Debian and dynamic it builds and works" {
	need_long
	need gcc
	run_it make CC=gcc CFLAGS='-g -O2 -fstack-protector-strong -Wformat -Werror=format-security' \
		CPPFLAGS='-Wdate-time -D_FORTIFY_SOURCE=2' LDFLAGS='-Wl,-z,relro -Wl,-z,now'
	expect 0
	[ -z "$stderr" ]
	works
}

@test "make install and uninstall: two files under DESTDIR and PREFIX, nothing left" {
	local dest=$BATS_TEST_TMPDIR/dest
	built
	run_it make install DESTDIR="$dest" PREFIX=/usr
	expect 0
	[ "$(installed "$dest" | grep -v '^./usr/share/doc/')" = './usr/bin/keylock
./usr/share/man/man1/keylock.1' ]
	[ "$(stat -c %a "$dest/usr/bin/keylock")" = 755 ]
	[ "$(stat -c %a "$dest/usr/share/man/man1/keylock.1")" = 644 ]
	works "$dest/usr/bin/keylock"
	cmp keylock.1 "$dest/usr/share/man/man1/keylock.1"
	run_it make uninstall DESTDIR="$dest" PREFIX=/usr
	expect 0
	[ -z "$(installed "$dest")" ]
	# A second uninstall finds nothing and is no error.
	run_it make uninstall DESTDIR="$dest" PREFIX=/usr
	expect 0
}

@test "make install builds what is missing; the default PREFIX is /usr/local; a umask does no harm" {
	need_long
	local dest=$BATS_TEST_TMPDIR/dest
	run_it sh -c 'umask 077; exec make install DESTDIR="$0"' "$dest"
	expect 0
	[ -x "$dest/usr/local/bin/keylock" ]
	[ "$(stat -c %a "$dest/usr/local/bin/keylock")" = 755 ]
	run_it make uninstall DESTDIR="$dest"
	expect 0
	[ -z "$(installed "$dest")" ]
}

@test "MANDIR is the packager's" {
	need_long
	local dest=$BATS_TEST_TMPDIR/dest
	built
	run_it make install DESTDIR="$dest" PREFIX=/opt/x MANDIR=/opt/x/man
	expect 0
	[ "$(find "$dest/opt/x/man" -name 'keylock.1' | wc -l)" = 1 ]
	[ ! -e "$dest/opt/x/share/man" ]
	run_it make uninstall DESTDIR="$dest" PREFIX=/opt/x MANDIR=/opt/x/man
	expect 0
	[ -z "$(installed "$dest")" ]
}

@test "install and uninstall touch no other file there" {
	need_long
	local dest=$BATS_TEST_TMPDIR/dest
	mkdir -p "$dest/usr/bin" "$dest/usr/share/man/man1"
	: >"$dest/usr/bin/keylock2"
	: >"$dest/usr/share/man/man1/other.1"
	built
	run_it make install DESTDIR="$dest" PREFIX=/usr
	run_it make uninstall DESTDIR="$dest" PREFIX=/usr
	expect 0
	[ "$(installed "$dest")" = './usr/bin/keylock2
./usr/share/man/man1/other.1' ]
}

@test "make clean leaves the sources and nothing else" {
	local before
	rm -f keylock
	run_it make clean
	expect 0
	before=$(find . | sort)
	built
	[ "$(find . | sort)" != "$before" ]
	run_it make clean
	expect 0
	[ "$(find . | sort)" = "$before" ]
}

@test "make dist packs what is needed to build, install and test" {
	local archive folder
	run_it make dist
	expect 0
	archive=$(find . -maxdepth 2 -name 'keylock-*.tar*')
	[ -f "$archive" ]
	mkdir "$BATS_TEST_TMPDIR/unpacked"
	tar -xf "$archive" -C "$BATS_TEST_TMPDIR/unpacked"
	# One folder, named after the version.
	folder=$(cd "$BATS_TEST_TMPDIR/unpacked" && echo *)
	[[ $folder =~ ^keylock-[0-9.]+$ ]]
	cd "$BATS_TEST_TMPDIR/unpacked/$folder"
	local name
	for name in keylock.c keylock.1 Makefile README tests/helper.bash tests/status.bats tests/tools/ended.c; do
		cmp "$tree/$name" "$name"
	done
	[ ! -e keylock ]
	run_it make
	expect 0
	works
	run_it ./keylock --version
	[ "$output" = "${folder/-/ }" ]
}

@test "a failed test fails make check" {
	built
	rm -f tests/*.bats
	printf '@test "fine" { true; }\n' >tests/status.bats
	run_it env -u BATS_TEST_TMPDIR -u BATS_RUN_TMPDIR make check
	expect 0
	printf '@test "fails" { false; }\n' >tests/keys.bats
	run_it env -u BATS_TEST_TMPDIR -u BATS_RUN_TMPDIR make check
	[ "$status" -ne 0 ]
	[[ $output$stderr == *'not ok'* || $output$stderr == *fails* ]]
}

# The Makefile, as packagers use it. All of it works on a copy of the sources, so that nothing that
# lies about here takes part.

load helper

setup() {
	local top=$BATS_TEST_DIRNAME/..
	keylock_setup
	need make
	# What this run of make and bats was given is not for the one under test.
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CC CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR MANDIR
	tree=$work/tree dest=$work/dest
	mkdir "$tree"
	cp -R "$top/keylock.c" "$top/keylock.1" "$top/Makefile" "$top/README" "$top/tests" "$tree"
	cd "$tree" || return
}

# built: puts the binary that is there already into the tree, where building is not the point.
built() {
	cp "$KEYLOCK" keylock
	touch keylock
}

# made ARG…: make succeeds.
made() {
	it_gives 0 make "$@"
}

# installed: the names of all files under $dest, in order.
installed() {
	(cd "$dest" && find . ! -type d | sort)
}

works() {
	it_gives 3 "${1:-./keylock}" job7 sh -c 'echo "$KEYLOCK_KEY"; exit 3'
	[ "$output" = job7 ]
}

# builds PATTERN ARG…: make with these arguments says no warning, its output matches, keylock works.
builds() {
	local pattern=$1
	shift
	rm -f keylock
	made "$@"
	[ -z "$stderr" ]
	[[ $output == $pattern ]]
	works
}

@test "make builds a keylock that works, static where there is musl, and says no warning" {
	builds '*'
	made -q
	command -v musl-gcc || return 0
	[ "$(readelf -lW keylock | grep -c INTERP)" = 0 ]
}

@test "a packager's CC, CFLAGS, CPPFLAGS and LDFLAGS are taken; what keylock needs is not in them" {
	builds '*-DPACKAGER=1 -O2 *-Wl,-z,now*' CFLAGS=-O2 CPPFLAGS=-DPACKAGER=1 LDFLAGS=-Wl,-z,now
	need gcc
	builds 'gcc *' CC=gcc
	[ -n "${KEYLOCK_LONG-}" ] || return 0
	builds '*' CFLAGS=
	rm keylock
	CFLAGS='-O1 -g' made
	[[ $output == *'-O1 -g'* ]]
	works
	# As Debian builds, hardened and dynamic.
	builds '*' CC=gcc CFLAGS='-g -O2 -fstack-protector-strong -Wformat -Werror=format-security' \
		CPPFLAGS='-Wdate-time -D_FORTIFY_SOURCE=2' LDFLAGS='-Wl,-z,relro -Wl,-z,now'
	need clang
	builds 'clang *' CC=clang
}

@test "make install and uninstall: two files under DESTDIR, PREFIX and MANDIR, and no other is touched" {
	mkdir -p "$dest/usr/bin"
	: >"$dest/usr/bin/keylock2"
	built
	while read -r bin man options; do
		it_gives 0 sh -c 'umask 077; exec make install DESTDIR="$@"' - "$dest" $options
		[ "$(installed)" = "$(printf '%s\n' "$bin" "$man" ./usr/bin/keylock2 | sort)" ]
		[ "$(stat -c %a "$dest/$bin" "$dest/$man")" = $'755\n644' ]
		works "$dest/$bin"
		cmp keylock.1 "$dest/$man"
		# A second uninstall finds nothing and is no error.
		for _ in 1 2; do
			made uninstall DESTDIR="$dest" $options
			[ "$(installed)" = ./usr/bin/keylock2 ]
		done
	done <<-'END'
		./usr/local/bin/keylock ./usr/local/share/man/man1/keylock.1
		./usr/bin/keylock ./usr/share/man/man1/keylock.1 PREFIX=/usr
		./opt/x/bin/keylock ./opt/x/man/man1/keylock.1 PREFIX=/opt/x MANDIR=/opt/x/man
	END
}

@test "make clean leaves the sources and nothing else" {
	before=$(find . ! -path ./keylock | sort)
	built
	made clean
	[ "$(find . | sort)" = "$before" ]
}

@test "make dist packs what is needed to build, install and test" {
	made dist
	mkdir "$dest"
	tar -xf keylock-*.tar* -C "$dest"
	folder=$(ls "$dest")
	[[ $folder =~ ^keylock-[0-9.]+$ ]]
	cd "$dest/$folder"
	for name in keylock.c keylock.1 Makefile README tests/helper.bash tests/status.bats tests/tools/ended.py; do
		cmp "$tree/$name" "$name"
	done
	[ ! -e keylock ]
	# install builds what is missing.
	made install DESTDIR="$work"
	it_prints "${folder/-/ }" "$work/usr/local/bin/keylock" --version
}

@test "a failed test fails make check" {
	built
	rm -f tests/*.bats
	printf '@test "fine" { true; }\n' >tests/status.bats
	it_gives 0 env -u BATS_TEST_TMPDIR -u BATS_RUN_TMPDIR make check
	printf '@test "fails" { false; }\n' >tests/keys.bats
	run_it env -u BATS_TEST_TMPDIR -u BATS_RUN_TMPDIR make check
	[ "$status" -ne 0 ]
	[[ $output$stderr == *'not ok'* || $output$stderr == *fails* ]]
}

#!/usr/bin/env python3
"""bare.py COMMAND [ARGUMENT]...: executes COMMAND as programs do that trust nothing they were given: all
descriptors but the standard ones closed, and an environment of nothing but what a test needs."""
import os
import sys

NAMES = "PATH", "KEYLOCK", "KEYLOCK_DIR", "BATS_TEST_TMPDIR", "work", "ran"
os.closerange(3, 1024)
os.execvpe(sys.argv[1], sys.argv[1:], {name: os.environ[name] for name in NAMES if name in os.environ})

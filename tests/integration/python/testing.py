"""What the tests of this folder share: arguments, the deploy/lib helpers, the seed."""

import argparse
import json
import os
import random
import subprocess
import sys
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
LIB = os.path.join(ROOT, "deploy/lib")
PROTO = os.path.join(ROOT, "proto")
sys.path.insert(0, LIB)

# Set by main().
BIN_DIR = None
# Whether the binaries are instrumented by a sanitizer.
SANITIZED = bool(os.environ.get("ENGRAM_SANITIZE"))
SEED = int(os.environ.get("ENGRAM_TEST_SEED") or random.randrange(1 << 31))


def make_checkpoint(directory, base_size=500, *arguments):
    """Writes a small checkpoint with deploy/lib/make_checkpoint.py; returns what it printed."""
    done = subprocess.run(
        [sys.executable, os.path.join(LIB, "make_checkpoint.py"), "--out", directory,
         "--base-size", str(base_size), "--seed", str(SEED), *map(str, arguments)],
        stdout=subprocess.PIPE, check=True, timeout=300)
    return json.loads(done.stdout)


def main():
    """Runs the unittest cases of __main__: `TEST.py --bin-dir DIR [unittest arguments]`."""
    global BIN_DIR
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin-dir", required=True, help="where engramd and the others are")
    args, rest = parser.parse_known_args()
    BIN_DIR = os.path.abspath(args.bin_dir)
    print(f"ENGRAM_TEST_SEED={SEED}", flush=True)
    unittest.main(module="__main__", argv=[sys.argv[0], *rest], verbosity=2)

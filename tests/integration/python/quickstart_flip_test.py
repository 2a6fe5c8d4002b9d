#!/usr/bin/env python3
"""The quickstart's trip with a tiny checkpoint: it passes, and it fails, naming the row, when one
bit of the checkpoint was flipped after loading. A check that cannot fail proves nothing."""

import os
import re
import subprocess
import tempfile
import unittest

import testing


class QuickstartFlipTest(unittest.TestCase):
    def trip(self, *arguments):
        with tempfile.TemporaryDirectory(prefix="engram-trip.") as work:
            done = subprocess.run(
                [os.path.join(testing.LIB, "end_to_end.sh"), "--bin-dir", testing.BIN_DIR,
                 "--work", work, "--base-size", "500", "--seed", str(testing.SEED),
                 # Less than the 8.4 MB of rows: both tiers have to serve.
                 "--dram", "4MiB", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=280, check=False)
            self.assertEqual(os.listdir(work), ["lock"], "the trip left something behind")
        print(done.stdout, flush=True)
        return done

    def test_passes(self):
        done = self.trip()
        self.assertEqual(done.returncode, 0)
        self.assertIn("byte for byte", done.stdout)
        self.assertIn("engramd stopped with exit code 0", done.stdout)

    def test_a_flipped_bit_is_found_and_named(self):
        done = self.trip("--flip")
        self.assertNotEqual(done.returncode, 0)
        flipped = re.search(r"^layer \d+, row \d+, byte \d+$", done.stdout, re.MULTILINE)
        self.assertIsNotNone(flipped, "no byte was flipped")
        self.assertIn(f"check_rows: {flipped.group()}: served", done.stdout)


if __name__ == "__main__":
    testing.main()

#!/usr/bin/env python3
"""The archive of deploy/bundle: it is the same each time, a daemon of it serves every row right
where nothing is installed, and its check finds what is planted in it.

    bundle_test.py --bin-dir build/release/bin

Exits 77 (skipped) with sanitizers, without patchelf, and where glibc is newer than a bundle may ask
for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../python"))
import testing  # noqa: E402
from checkpoint_rows import read_layers  # noqa: E402
from daemon import CALL_SECONDS, Daemon  # noqa: E402

BUNDLE = os.path.join(testing.ROOT, "deploy/bundle")
CHECK = os.path.join(testing.LIB, "check_bundle.sh")
ENV = shutil.which("env")
NEWEST_GLIBC = (2, 36)
ROWS_A_CALL = 5000


def reason_to_skip():
    if testing.SANITIZED:
        return "a sanitized build is not for other machines"
    if shutil.which("patchelf", path=os.environ.get("PATH", "")) is None:
        return "no patchelf here"
    glibc = tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")[:2]))
    if glibc > NEWEST_GLIBC:
        return f"glibc {glibc} is newer than the {NEWEST_GLIBC} that a bundle may ask for"
    return None


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=CALL_SECONDS, check=False)
    print(done.stdout, flush=True)
    return done


def bundle(out, *arguments):
    return run(BUNDLE, "--build-dir", os.path.dirname(testing.BIN_DIR), "--out", out, *arguments)


class BundledDaemon(Daemon):
    """An engramd of an unpacked archive, without this machine's environment; below `enter`, the
    command that changes the root, it sees nothing but the archive and glibc."""

    def __init__(self, root, top, enter):
        super().__init__(os.path.join(root, top, "bin"))
        self.prefix = [ENV, "-i"]
        if not enter:
            self.command[:0] = self.prefix
            self.checkpoint = os.path.join(self.directory, "checkpoint")
            self.seen_checkpoint = self.checkpoint
            return
        # Without /proc the loader has to be told where a program lies. No tmpfs is to be had.
        self.prefix += [f"LD_ORIGIN_PATH=/{top}/bin", *enter]
        self.bin_dir = f"/{top}/bin"
        self.target = "unix:/tmp/engramd.sock"
        self.command = [
            *self.prefix, f"/{top}/bin/engramd", "--data-dir", "/data", "--listen", self.target,
            "--http", self.http, "--dram", "16MiB", "--hbm", "0", "--shared-memory=false"]
        self.checkpoint = os.path.join(root, "checkpoint")
        self.seen_checkpoint = "/checkpoint"

    def run(self, program, *arguments):
        return subprocess.run(
            [*self.prefix, os.path.join(self.bin_dir, program), *map(str, arguments)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_SECONDS,
            check=False)


class BundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Short: Unix sockets lie below it.
        cls.work = tempfile.mkdtemp(prefix="engram-bundle.", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        cls.archive = os.path.join(cls.work, "first/bundle.tar.gz")
        done = bundle(cls.archive)
        if done.returncode != 0 or done.stdout.splitlines()[-1] != "bundle: ok":
            raise AssertionError(f"deploy/bundle failed with exit code {done.returncode}")
        cls.root = os.path.join(cls.work, "root")
        done = run(CHECK, "--keep-root", cls.root, cls.archive)
        if done.returncode != 0:
            raise AssertionError(f"the archive is refused, exit code {done.returncode}")
        cls.isolation = re.search("^isolation: (.*)$", done.stdout, re.MULTILINE).group(1)
        (cls.top,) = (name for name in os.listdir(cls.root) if name.startswith("engramd-"))

    def enter(self):
        """The command that changes the root, as check_bundle.sh found it to work."""
        chroot = shutil.which("chroot", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        return {"chroot": [chroot, self.root], "env": [],
                "unshare": [shutil.which("unshare"), "--map-root-user", chroot, self.root],
                }[self.isolation]

    # ------------------------------------------------------------------------------- it serves

    def compare(self, done, layer, ids):
        """Each `ID HEX` line against the checkpoint; `ids` is None where any will do."""
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line.split() for line in done.stdout.splitlines()]
        served = [int(row) for row, _ in lines]
        if ids is not None:
            self.assertEqual(served, list(ids))
        for row, (_, text) in zip(served, lines, strict=True):
            self.assertEqual(bytes.fromhex(text), layer.row(row), f"layer {layer.layer}, row {row}")
        return len(lines)

    def trip(self, enter):
        with BundledDaemon(self.root, self.top, enter) as daemon:
            testing.make_checkpoint(daemon.checkpoint)
            daemon.load("t", daemon.seen_checkpoint)
            listed = daemon.ctl("list")
            self.assertEqual(listed.returncode, 0, listed.stderr)
            self.assertRegex(listed.stdout, r"(?m)^t\s")
            layers, rows = read_layers(daemon.checkpoint), 0
            self.assertEqual(len(layers), 2)
            for number, layer in layers.items():
                for begin in range(0, layer.rows, ROWS_A_CALL):
                    ids = range(begin, min(begin + ROWS_A_CALL, layer.rows))
                    rows += self.compare(
                        daemon.ctl("rows", "t", "--layer", number, "--ids",
                                   ",".join(map(str, ids))), layer, ids)
                rows += self.compare(
                    daemon.ctl("lookup", "t", "--layer", number, "--compressed", "--tokens",
                               "5,17,99091,1000"), layer, None)
            self.assertEqual(rows, sum(layer.rows for layer in layers.values()) + 2 * 4 * 24)
            (table,) = json.loads(daemon.ctl("stats", "--json").stdout)["tables"]
            self.assertEqual(table["name"], "t")
            self.assertEqual(sum(tier["hits"] for tier in table["tiers"].values()), rows)
            self.assertEqual(daemon.stop(), 0)
        print(f"{rows} rows are the checkpoint's")

    def test_serves_where_nothing_is_installed(self):
        print(f"isolation: {self.isolation}")
        if self.isolation == "env":
            self.skipTest("no chroot and no user namespace is to be had here")
        self.trip(self.enter())

    def test_serves_with_an_empty_environment(self):
        self.trip([])

    def test_other_libraries_named_by_the_environment_are_not_taken(self):
        libraries = os.path.join(self.root, self.top, "lib")
        other = os.path.join(self.work, "other")
        shutil.copytree(libraries, other)
        program = os.path.join(self.root, self.top, "bin/engramd")
        done = run(ENV, "-i", f"LD_LIBRARY_PATH={other}", "LD_TRACE_LOADED_OBJECTS=1", program)
        self.assertEqual(done.returncode, 0)
        self.assertNotIn(other, done.stdout)
        self.assertIn(os.path.dirname(program) + "/../lib/librocksdb.so", done.stdout)

    def test_the_gpu_check_wants_a_gpu(self):
        if os.path.exists("/dev/nvidiactl"):
            self.skipTest("there is a GPU: run share/gpu_check.sh by hand, it takes minutes")
        done = run(os.path.join(self.root, self.top, "share/gpu_check.sh"))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout.count("gpu_check: SKIPPED, where there should be a GPU"), 4)
        # Or a build without a CUDA compiler.
        self.assertRegex(done.stdout, "no CUDA (device|support)")
        done = run(os.path.join(self.root, self.top, "share/gpu_check.sh"), "--figure")
        self.assertEqual(done.returncode, 2)

    # ------------------------------------------------------------------------------ the archive

    def test_the_wire_contract_is_in_it(self):
        source = os.path.join(testing.ROOT, "proto/engram/v1")
        packed = os.path.join(self.root, self.top, "share/proto/engram/v1")
        self.assertEqual(sorted(os.listdir(packed)), sorted(os.listdir(source)))
        for name in os.listdir(source):
            with open(os.path.join(source, name), "rb") as one, \
                 open(os.path.join(packed, name), "rb") as other:
                self.assertEqual(one.read(), other.read(), name)

    def test_the_same_build_gives_the_same_bytes(self):
        again = os.path.join(self.work, "again.tar.gz")
        self.assertEqual(bundle(again).returncode, 0)
        with open(self.archive, "rb") as one, open(again, "rb") as other:
            self.assertEqual(one.read(), other.read())

    def test_wrong_usage_is_refused(self):
        done = run(BUNDLE, "--frobnicate")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown argument: --frobnicate", done.stdout)
        done = run(BUNDLE, "--build-dir", os.path.join(self.work, "none"))
        self.assertEqual(done.returncode, 1)
        self.assertIn(os.path.join(self.work, "none/bin/engramd"), done.stdout)

    # ------------------------------------------------------------------- the check can also fail

    def refused(self, plant):
        """What the check says of the archive once plant(its folder) is done."""
        with tempfile.TemporaryDirectory(dir=self.work) as work:
            subprocess.run(["tar", "-xf", self.archive, "-C", work], check=True)
            plant(os.path.join(work, self.top))
            planted = os.path.join(work, "planted.tar")
            subprocess.run(["tar", "-cf", planted, "-C", work, self.top], check=True)
            done = run(CHECK, "--max-mib", "1000", planted)
        self.assertEqual(done.returncode, 1)
        return done.stdout

    def test_what_a_file_must_not_ask_for_is_named(self):
        def plant(top):
            libraries = os.path.join(top, "lib")
            (removed,) = (name for name in os.listdir(libraries) if name.startswith("libre2."))
            os.remove(os.path.join(libraries, removed))
            (crypto,) = (name for name in os.listdir(libraries) if name.startswith("libcrypto."))
            with open(os.path.join(libraries, crypto), "r+b") as file:
                data = file.read()
                self.assertEqual(data.count(b"\0GLIBC_2.34\0"), 1)
                file.seek(data.index(b"\0GLIBC_2.34\0"))
                file.write(b"\0GLIBC_2.94\0")
            subprocess.run(["patchelf", "--set-rpath", "/usr/lib",
                            os.path.join(top, "bin/engramctl")], check=True)

        said = self.refused(plant)
        self.assertRegex(said, r"lib/libgrpc\.so\.\S+ needs libre2\.so\.\S+, which is neither")
        self.assertRegex(said, r"lib/libcrypto\.so\.\S+ needs GLIBC_2\.94, newer than")
        self.assertIn("bin/engramctl has the RUNPATH /usr/lib", said)

    def test_a_library_that_does_not_fit_is_named(self):
        def plant(top):
            libraries = os.path.join(top, "lib")
            (ring,) = (name for name in os.listdir(libraries) if name.startswith("liburing."))
            (other,) = (name for name in os.listdir(libraries) if name.startswith("libsnappy."))
            shutil.copy(os.path.join(libraries, other), os.path.join(libraries, ring))

        self.assertIn("undefined symbol: io_uring_", self.refused(plant))

    def test_a_file_that_is_missing_is_named(self):
        def plant(top):
            os.remove(os.path.join(top, "share/proto/engram/v1/store.proto"))

        self.assertIn("share/proto/engram/v1/store.proto is missing", self.refused(plant))

    def test_a_program_that_fails_is_named(self):
        def plant(top):
            program = os.path.join(top, "bin/engram_bench")
            shutil.copy("/bin/false", program)
            subprocess.run(["patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", program],
                           check=True)

        self.assertIn("engram_bench --help exits with 1", self.refused(plant))

    def test_an_archive_over_the_limit_is_refused(self):
        done = run(CHECK, "--max-mib", "2", self.archive)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{os.path.getsize(self.archive)} bytes are more than 2 MiB", done.stdout)


if __name__ == "__main__":
    REASON = reason_to_skip()
    if REASON:
        print(f"skipped: {REASON}")
        sys.exit(77)
    testing.main()

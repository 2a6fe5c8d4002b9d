"""Checks mutate.py on a small project of its own: every outcome, resuming, and that the copy is
whole again whatever ends a run.

    mutation_test.py
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from candidates import candidates_of, draw, masked, to_fault  # noqa: E402
from faults import Fault, ListError, read_faults  # noqa: E402
from tree import Tree, TreeError  # noqa: E402

PROJECT = {
    ".gitignore": "/build/\n",
    "CMakePresets.json": """{"version": 6, "configurePresets": [{"name": "release",
      "generator": "Ninja", "binaryDir": "${sourceDir}/build/${presetName}",
      "cacheVariables": {"CMAKE_C_COMPILER_WORKS": "1"}}]}""",
    "CMakeLists.txt": """cmake_minimum_required(VERSION 3.25)
project(tiny LANGUAGES C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
enable_testing()
add_library(sum STATIC storage/sum.c)
add_executable(daemon server/daemon.c)
add_subdirectory(tests/unit/storage)
add_subdirectory(tests/integration)
""",
    "tests/unit/storage/CMakeLists.txt": """
foreach(name sum chance wait cases)
  add_executable(unit_${name} ${name}_test.c)
  target_link_libraries(unit_${name} PRIVATE sum)
endforeach()
add_test(NAME unit_sum COMMAND unit_sum)
add_test(NAME unit_chance COMMAND unit_chance ${CMAKE_BINARY_DIR}/../../../chance)
add_test(NAME unit_wait COMMAND unit_wait ${CMAKE_BINARY_DIR}/../../../waiting)
foreach(case One.A One.B)
  add_test(NAME unit_${case} COMMAND unit_cases ${CMAKE_BINARY_DIR}/../../../cases
    --gtest_filter=${case})
endforeach()
""",
    "tests/integration/CMakeLists.txt": """
add_executable(integration_daemon daemon_test.c)
add_dependencies(integration_daemon daemon)
add_test(NAME integration_daemon COMMAND integration_daemon ${CMAKE_BINARY_DIR}/bin/daemon)
""",
    "storage/sum.c": """int Sum(int a, int b) { return a + b; }
int Chance(void) { return 1; }
int Wait(void) { return 0; }
int Case(void) { return 3; }
int Untested(int a) { return a < 4; }
int Twice(int a) { a += a; return a; }
int Again(int a) { a += a; return a; }
""",
    "server/daemon.c": "int main(void) { return 5; }\n",
    "tests/unit/storage/sum_test.c": """int Sum(int, int);
int main(void) { return Sum(2, 1) != 3; }
""",
    # Fails in every second run while the fault is there.
    "tests/unit/storage/chance_test.c": """#include <stdio.h>
#include <unistd.h>
int Chance(void);
int main(int count, char** words) {
  (void)count;
  if (Chance() == 1 || unlink(words[1]) == 0) return 0;
  return fclose(fopen(words[1], "w")) == 0;
}
""",
    "tests/unit/storage/wait_test.c": """#include <stdio.h>
#include <unistd.h>
int Wait(void);
int main(int count, char** words) {
  FILE* file;
  (void)count;
  if (!Wait()) return 0;
  file = fopen(words[1], "w");
  fprintf(file, "%d\\n", getpid());
  fclose(file);
  for (;;) pause();
}
""",
    "tests/unit/storage/cases_test.c": """#include <stdio.h>
int Case(void);
int main(int count, char** words) {
  FILE* file = fopen(words[1], "a");
  fprintf(file, "%d %.16s\\n", count, words[2]);
  fclose(file);
  return Case() != 3;
}
""",
    "tests/integration/daemon_test.c": """#include <stdlib.h>
int main(int count, char** words) { return count != 2 || system(words[1]) != 5 << 8; }
""",
}

SUM = "storage/sum.c"
FOUND = Fault(SUM, "a + b", "a - b", "difference")
WAIT = Fault(SUM, "Wait(void) { return 0", "Wait(void) { return 1", "waits")
SURVIVOR = Fault(SUM, "a < 4", "a <= 4", "limit")
EXPECTED = [
    (FOUND, "found", "unit_sum"),
    (Fault(SUM, "{ return 3; }", "{ return 4; }", "cases"), "found", "unit_cases"),
    (Fault(SUM, "{ return 3; }", "{ return 5; }", "case", ("*.B",)), "found", "One.B"),
    (Fault("server/daemon.c", "5", "6", "daemon"), "found", "integration_daemon"),
    (Fault(SUM, "{ return 1; }", "{ return 2; }", "chance"), "found by chance", "unit_chance"),
    (SURVIVOR, "survived", None),
    (Fault(SUM, "return a < 4", "return undeclared", "typing"), "does not build", None),
    (Fault(SUM, "a * b", "a / b", "absent"), "text not found", None),
    (Fault("storage/none.c", "a", "b", "no file"), "text not found", None),
    (Fault(SUM, "a += a;", "a += 1;", "twice"), "text ambiguous", None),
]


class Project:
    """A throw-away project under git, with its list of faults."""

    def __init__(self, root):
        self.root = root
        for name, text in PROJECT.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        self.folder = root / "build/mutation"
        self.copied = self.folder / "tree" / SUM

    def command(self, faults, *words):
        listed = self.root / "build/faults.jsonl"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text("".join(f.to_json() + "\n" for f in faults))
        return [sys.executable, str(HERE / "mutate.py"), "run", "--source", str(self.root),
                "--list", str(listed), *words]

    def run(self, faults, *words):
        return subprocess.run(self.command(faults, *words), capture_output=True, text=True,
                              check=False, timeout=300)

    def records(self):
        lines = (self.folder / "results.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if "id" in r]

    def is_whole(self):
        names = [n for n in PROJECT if (self.folder / "tree" / n).read_text() != PROJECT[n]]
        return not names and (self.root / SUM).read_text() == PROJECT[SUM]


def await_text(path, process):
    """The line that another process writes to `path`. Fails if that process ends before."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


class MutateTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = Project(pathlib.Path(folder.name))

    def test_outcomes_and_resuming(self):
        faults = [fault for fault, *_ in EXPECTED]
        ran = self.project.run(faults)
        self.assertEqual(ran.returncode, 2, ran.stdout + ran.stderr)  # entries that are stale
        records = self.project.records()
        for record, (fault, outcome, test) in zip(records, EXPECTED, strict=True):
            self.assertEqual((record["id"], record["outcome"], record.get("test")),
                             (fault.id, outcome, test), record)
        self.assertTrue(self.project.is_whole())
        self.assertIn("4 entries of the list are stale", ran.stdout)
        cases = (self.project.folder / "cases").read_text().splitlines()
        self.assertEqual(set(cases), {"3 --gtest_flagfile"})  # all cases in one process

        # Nothing that is judged runs again; what cannot be planted is looked at again.
        again = self.project.run(faults)
        self.assertEqual(again.stdout.count("known: "), 6, again.stdout)
        self.assertEqual(len(self.project.records()), len(records) + 4)

        # Shares, without the stale entries.
        judged = [fault for fault, outcome, _ in EXPECTED if outcome[:2] in ("fo", "su")]
        self.assertEqual(self.project.run(judged).returncode, 1)
        enough = self.project.run(judged, "--at-least", "0.6")
        self.assertEqual(enough.returncode, 0, enough.stdout)
        self.assertIn("4 of 6 found", enough.stdout)
        self.assertIn("survived: storage/sum.c: limit", enough.stdout)

        # A new test: what survived is tried again, what was found is not.
        test = self.project.root / "tests/unit/storage/sum_test.c"
        test.write_text("int Sum(int, int);\nint Untested(int);\n"
                        "int main(void) { return Sum(2, 1) != 3 || Untested(4); }\n")
        closed = self.project.run([FOUND, SURVIVOR])
        self.assertEqual(closed.returncode, 0, closed.stdout)
        self.assertEqual(closed.stdout.count("known: "), 1, closed.stdout)

    def test_a_hanging_test_finds_the_fault(self):
        ran = self.project.run([WAIT], "--timeout", "10", "--only", "wait")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(self.project.records()[0]["by"], "timed out")

    def test_a_signal_restores_the_copy(self):
        command = self.project.command([WAIT, FOUND], "--only", "wait|sum")
        for ending in (signal.SIGINT, signal.SIGTERM):
            waiting = self.project.folder / "waiting"
            waiting.unlink(missing_ok=True)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as process:
                pid = int(await_text(waiting, process))
                self.assertFalse(self.project.is_whole())
                process.send_signal(ending)
                self.assertEqual(process.wait(60), 130)
            self.assertTrue(self.project.is_whole())
            self.assertFalse(pathlib.Path(f"/proc/{pid}/exe").exists())
            self.assertEqual(self.project.records(), [])
        ran = self.project.run([FOUND], "--only", "wait|sum")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_a_clean_tree_that_fails_is_no_measure(self):
        (self.project.root / SUM).write_text(PROJECT[SUM].replace("a + b", "a - b"))
        ran = self.project.run([SURVIVOR], "--only", "sum")
        self.assertEqual(ran.returncode, 2)
        self.assertIn("the clean tree fails unit_sum", ran.stderr)


class CheckTest(unittest.TestCase):
    def test_entries_that_cannot_be_planted_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            project = Project(pathlib.Path(folder))
            moved = Fault("client/sum.c", "a + b", "a - b", "moved")
            twice = Fault(SUM, "a += a;", "a += 1;", "twice")
            at = f"0 times in client/sum.c, found in {SUM}: moved"
            for faults, said in (([FOUND], "1 faults, 0 cannot be planted"),
                                 ([FOUND, moved], at),
                                 ([twice], f"2 times in {SUM}")):
                command = project.command(faults)
                command[2] = "check"
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                self.assertIn(said, ran.stdout)
                self.assertEqual(ran.returncode, 0 if faults == [FOUND] else 2)


class TreeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = Project(pathlib.Path(folder.name))
        self.tree = Tree(self.project.root, self.project.folder)
        self.addCleanup(self.tree.close)
        self.tree.sync()

    def test_an_exception_restores_the_copy(self):
        with self.assertRaises(ZeroDivisionError), self.tree.planted(FOUND) as path:
            self.assertIn("a - b", path.read_text())
            raise ZeroDivisionError
        self.assertTrue(self.project.is_whole())

    def test_sync_overwrites_what_a_kill_left_and_follows_the_source(self):
        digest = self.tree.digest
        self.project.copied.write_text("planted")
        (self.project.root / "server/daemon.c").rename(self.project.root / "server/engramd.c")
        self.tree.sync()
        copy = self.tree.copy
        self.assertEqual(self.project.copied.read_text(), PROJECT[SUM])
        self.assertFalse((copy / "server/daemon.c").exists())
        self.assertTrue((copy / "server/engramd.c").exists())
        self.assertNotEqual(self.tree.digest, digest)

    def test_equal_files_keep_their_time(self):
        before = self.project.copied.stat().st_mtime_ns
        self.tree.sync()
        self.assertEqual(self.project.copied.stat().st_mtime_ns, before)

    def test_one_run_at_a_time(self):
        with self.assertRaises(TreeError):
            Tree(self.project.root, self.project.folder)


class ListTest(unittest.TestCase):
    def test_what_is_written_is_read(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "faults.jsonl"
            faults = [FOUND, Fault("a.cc", "x\n", "", "y", ("unit_*",), "no test can see it")]
            path.write_text("".join(f.to_json() + "\n\n" for f in faults))
            self.assertEqual(read_faults(path), faults)

    def test_bad_entries_are_named_by_line(self):
        good = FOUND.to_json()
        for bad in ("{", "[]", '{"file": "a"}', good.replace('"why"', '"reason"'),
                    good.replace("a - b", "a + b"), good):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "faults.jsonl"
                path.write_text(f"{good}\n{bad}\n")
                with self.assertRaisesRegex(ListError, "faults.jsonl:2"):
                    read_faults(path)


CODE = """#include "a < b"
#define LESS(a, b) ((a) < (b))
// if (a < b) Drop();
absl::Status Load(int n) {
  if (n < 4 && ok) return false;
  ENGRAM_LOG(kInfo) << "a < b"
                    << (n < 4);
  assert(n < 4);
  lock_.reset();
  ENGRAM_RETURN_IF_ERROR(Check("a < b", {n}));
  rows.reserve(n);
  return std::min(n + 1, 1'000);
}
"""


class CandidatesTest(unittest.TestCase):
    def test_operators_change_code_only(self):
        changes = set()
        for candidate in candidates_of(CODE):
            fault = to_fault("storage/a.cc", CODE, candidate)
            self.assertEqual(CODE.count(fault.before), 1)
            changes.add(fault.after)
        self.assertEqual(changes, {
            "absl::Status Load(int n) { return absl::OkStatus();",
            "if (n <= 4 && ok) return false;",
            "if (n < 4 || ok) return false;",
            "if (n < 4 && ok) return true;",
            "if (!(n < 4 && ok)) return false;",
            "{}",
            '(void)(Check("a < b", {n}));',
            "return std::min(n, 1'000);",
            "return std::max(n + 1, 1'000);",
        })

    def test_masking_keeps_positions(self):
        text = 'a /* x\ny */ b "\\"<" c \'"\' d R"(<)" 1\'000 e // f\ng'
        self.assertEqual(len(masked(text)), len(text))
        self.assertEqual(masked(text).split(), ["a", "b", "c", "d", "1'000", "e", "g"])

    def test_a_repeated_line_takes_its_neighbours(self):
        text = "one();\nif (a < b) {\ntwo();\nif (a < b) {\n"
        afters = {to_fault("a.cc", text, c).after for c in candidates_of(text) if c.text == "<="}
        self.assertEqual(afters, {"one();\nif (a <= b) {", "two();\nif (a <= b) {"})

    def test_a_seed_draws_the_same_and_nothing_listed(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("storage/dram/a.cc", "server/b.cc", "client/c.h", "gpu_cache/d.cu",
                         "tests/unit/e.cc"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(CODE)
            drawn = draw(root, [], 3, 6)
            self.assertEqual(drawn, draw(root, [], 3, 6))
            self.assertNotEqual(drawn, draw(root, [], 4, 6))
            self.assertEqual({os.path.dirname(f.file) for f in drawn[:4]},
                             {"storage/dram", "server", "client", "gpu_cache"})
            everything = draw(root, [], 3, 1000)
            self.assertEqual(len(everything), 4 * 5)
            self.assertEqual(draw(root, everything, 3, 1000), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)

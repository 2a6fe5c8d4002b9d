#!/usr/bin/env python3
"""The house rules that a program can check: who includes whom (the table in ARCHITECTURE.md),
which headers stay inside .cc files, and how long files may be. Needs no binaries."""

import os
import re
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
SOURCES = (".h", ".cc", ".cu", ".cuh")

# Folder → folders whose headers it may include, besides its own. The longest prefix counts.
TABLE = ("storage/base", "storage/table")
ALLOWED = {
    "storage/base": (),
    "storage/table": ("storage/base",),
    "storage/checkpoint": TABLE,
    "storage/nvme": TABLE,
    "storage/dram": TABLE,
    "gpu_cache": ("storage/dram/layout.h",),
    "server": ("storage", "gpu_cache", "engram/v1"),
    "client": (*TABLE, "storage/dram", "gpu_cache", "engram/v1"),
    "client/cli": ("client", *TABLE, "storage/checkpoint", "engram/v1"),
    "client/examples": ("client", *TABLE),
}
OURS = ("storage/", "gpu_cache/", "server/", "client/", "engram/v1/")
# Heavy headers, and the one kind of file that may include them.
CC_ONLY = re.compile(r"(grpc|grpcpp|rocksdb|nlohmann)/|.*\.grpc\.pb\.h$")

# Headers private to their folder that may, with the reason. This list only shrinks.
CC_ONLY_EXCEPTIONS = {
    "storage/checkpoint/strict_json.h": "gives a parsed tree to the folder's own .cc files",
}

MAX_LINES = 500
MAX_TEST_LINES = 800
MAX_README_LINES = 30


def files(*suffixes):
    """Paths of the project's own files, relative to its root."""
    for top in ("storage", "gpu_cache", "server", "client", "tests"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                if name.endswith(suffixes):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def lines_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read().splitlines()


def includes(path):
    for line in lines_of(path):
        match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
        if match:
            yield match.group(1)


def below(path, prefix):
    return path == prefix or path.startswith(prefix + "/")


class SourceLayoutTest(unittest.TestCase):
    def test_includes_follow_the_table(self):
        checked = 0
        for path in files(*SOURCES):
            homes = [folder for folder in ALLOWED if below(path, folder)]
            if not homes:
                self.assertTrue(path.startswith(("tests/", "client/python/")),
                                f"{path}: its folder is not in the table")
                continue
            home = max(homes, key=len)
            for header in includes(path):
                if not header.startswith(OURS):
                    continue
                checked += 1
                self.assertTrue(any(below(header, folder) for folder in (home, *ALLOWED[home])),
                                f"{path} includes {header}: {home} may not use it")
        self.assertGreater(checked, 50)

    def test_heavy_headers_stay_inside_sources(self):
        for path in files(".h", ".cuh"):
            for header in includes(path):
                self.assertNotIn(header, CC_ONLY_EXCEPTIONS, f"{path} includes {header}")
                if path not in CC_ONLY_EXCEPTIONS:
                    self.assertIsNone(CC_ONLY.match(header), f"{path} includes {header}")

    def test_files_are_short(self):
        for path in files(*SOURCES):
            limit = MAX_TEST_LINES if path.startswith("tests/") else MAX_LINES
            self.assertLessEqual(len(lines_of(path)), limit, path)

    def test_readmes_are_short(self):
        found = 0
        for path in files("README.md"):
            found += 1
            self.assertLessEqual(len(lines_of(path)), MAX_README_LINES, path)
        self.assertGreater(found, 5)


if __name__ == "__main__":
    unittest.main(verbosity=2)

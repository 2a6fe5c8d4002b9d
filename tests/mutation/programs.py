"""The tests of a build as ctest lists them, grouped by program, ordered by nearness to a file."""

import dataclasses
import fnmatch
import json
import os
import pathlib
import re
import subprocess

from build import BuildError, run_process

FILTER = "--gtest_filter="
# A test that ctest judges by more than the exit code is run by ctest, alone.
JUDGED_BY_CTEST = {"WILL_FAIL", "PASS_REGULAR_EXPRESSION", "FAIL_REGULAR_EXPRESSION",
                   "ENVIRONMENT_MODIFICATION", "FIXTURES_REQUIRED", "SKIP_RETURN_CODE"}
CLOSING_LINE = re.compile(r"^\d+% tests passed, (\d+) tests? failed out of (\d+)$", re.MULTILINE)
KINDS = ("unit", "fault", "integration")


@dataclasses.dataclass
class TestProgram:
    """One run of one program: a ctest test, or all discovered cases of a program together."""

    name: str
    target: str  # the build's target; empty for a script
    folder: str  # where it is registered, relative to the tree
    limit_s: float
    cases: tuple = ()  # gtest's names; empty if ctest runs it
    command: tuple = ()
    environment: tuple = ()
    directory: str = ""
    narrowed: bool = False  # to the cases that a fault names

    def __str__(self):
        return ", ".join(self.cases) if self.narrowed else self.name

    def narrow(self, patterns):
        """What of this program a fault's patterns name: all, some cases, or None."""
        if any(fnmatch.fnmatchcase(self.name, p) for p in patterns):
            return self
        named = [c for c in self.cases if any(fnmatch.fnmatchcase(c, p) for p in patterns)]
        if not named:
            return None
        return dataclasses.replace(self, cases=tuple(named), narrowed=True)

    @property
    def kind(self):
        parts = pathlib.PurePath(self.folder).parts[1:2]
        return KINDS.index(parts[0]) if self.target and parts and parts[0] in KINDS else len(KINDS)


def properties_of(test):
    return {p["name"]: p["value"] for p in test.get("properties", ())}


def list_programs(build, limit_s):
    """The tests that are built and may depend on the code: programs of the build, and scripts that
    are given its folder."""
    listed = subprocess.run(
        ["ctest", "--test-dir", build.folder, "--show-only=json-v1"],
        capture_output=True, check=False)
    if listed.returncode != 0:
        raise BuildError(f"ctest lists no tests: {listed.stderr.decode()[-500:]}")
    targets = {t.program: t.name for t in build.targets.values() if t.program}
    groups = {}
    for test in json.loads(listed.stdout)["tests"]:
        properties = properties_of(test)
        if "command" not in test or properties.get("DISABLED"):
            continue
        target = targets.get(test["command"][0], "")
        if not target and not any(str(build.folder) in word for word in test["command"]):
            continue
        key = group_key(test, target, properties)
        groups.setdefault(key, []).append((test, target, properties))
    return [make_program(build, tests, limit_s) for tests in groups.values()]


def group_key(test, target, properties):
    """Equal for the cases of one program that can run in one process."""
    words = [w for w in test["command"][1:] if w != "--gtest_also_run_disabled_tests"]
    filters = [w for w in words if w.startswith(FILTER)]
    if not target or len(filters) != 1 or properties.keys() & JUDGED_BY_CTEST:
        return ("ctest", test["name"])
    others = tuple(w for w in words if w not in filters)
    environment = tuple(properties.get("ENVIRONMENT", ()))
    return (target, others, environment, properties.get("WORKING_DIRECTORY", ""))


def make_program(build, tests, limit_s):
    test, target, properties = tests[0]
    directory = properties.get("WORKING_DIRECTORY", str(build.folder))
    folder = build.targets[target].folder if target else os.path.relpath(directory, build.folder)
    allowed = sum(p.get("TIMEOUT", limit_s) for _, _, p in tests)
    program = TestProgram(test["name"], target, folder, min(limit_s, allowed))
    if len(tests) > 1:
        words = [w for t, _, _ in tests for w in t["command"] if w.startswith(FILTER)]
        program.name = target
        program.cases = tuple(w.removeprefix(FILTER) for w in words)
        program.command = tuple(w for w in test["command"] if not w.startswith(FILTER))
        program.environment = tuple(properties.get("ENVIRONMENT", ()))
        program.directory = directory
    return program


def run_program(build, program, limit_s, log):
    """Runs until the first failing case. Returns `passed`, `failed` or `timed out`."""
    environment = {**os.environ, "GTEST_FAIL_FAST": "1", "GTEST_BRIEF": "1"}
    if program.cases:
        environment |= dict(e.split("=", 1) for e in program.environment)
        # A file, because thousands of names are longer than an argument may be.
        flags = log.with_suffix(".flags")
        flags.write_text(FILTER + ":".join(program.cases) + "\n")
        code = run_process([*program.command, f"--gtest_flagfile={flags}"], cwd=program.directory,
                           log=log, timeout=limit_s, env=environment)
        return {None: "timed out", 0: "passed"}.get(code, "failed")
    start = log.stat().st_size if log.exists() else 0
    code = run_process(
        ["ctest", "--test-dir", build.folder, "-R", f"^{re.escape(program.name)}$",
         "--output-on-failure"], cwd=build.root, log=log, timeout=limit_s, env=environment)
    if code is None:
        return "timed out"
    with open(log, "rb") as file:
        file.seek(start)
        said = file.read().decode(errors="replace")
    closing = CLOSING_LINE.search(said)
    if closing is None or closing[2] == "0" or "***Not Run" in said.replace("***Not Run (Dis", ""):
        raise BuildError(f"ctest did not run {program.name}, see {log}")
    if closing[1] == "0":
        return "passed"
    return "timed out" if "***Timeout" in said else "failed"


def nearness(build, program, file):
    """(folders in common, letters in common of the name) of the nearest source of the program."""
    path = pathlib.PurePath(file)
    sources = build.targets[program.target].sources if program.target else ()
    best = (0, 0)
    for source in map(pathlib.PurePath, sources):
        folders = source.parent.parts[2:]  # behind tests/unit
        common = os.path.commonprefix([list(folders), list(path.parent.parts)])
        stem = os.path.commonprefix([source.stem, path.stem])
        best = max(best, (len(common), len(stem)))
    return best


def stages(build, programs, fault):
    """The programs in the order of trying: what the fault names, units of the same folder, other
    units, all others. Each stage is built only if those before it let the fault through."""
    depth = len(pathlib.PurePath(fault.file).parent.parts)
    staged = ([], [], [], [])
    for program in programs:
        near = nearness(build, program, fault.file)
        key = (program.kind, [-n for n in near], program.name)
        named = program.narrow(fault.tests)
        if named is not None:
            staged[0].append((*key, named))
        if named is program:
            continue
        stage = 3 if program.kind != 0 else 1 if near[0] == depth else 2
        staged[stage].append((*key, program))
    return [[p for *_, p in sorted(s, key=lambda entry: entry[:3])] for s in staged if s]

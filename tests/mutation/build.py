"""The build of a tree: its targets from CMake's file API, and which programs a change reached."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess


class BuildError(Exception):
    """The clean tree does not configure or build."""


def end_group(process):
    """Ends a process and its group. It is asked first: ninja takes its compilers along, which are
    in groups of their own, and drops what they have half written."""
    for ask, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, ask)
        except ProcessLookupError:
            pass
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            pass


def run_process(command, *, cwd, log, timeout=None, env=None):
    """Runs a command with all output appended to the file `log`. Returns its exit code, or None
    after `timeout` seconds. No process of its group outlives the call, whatever ends it."""
    with open(log, "ab") as output:
        output.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            output.write(f"killed after {timeout:.0f} s\n".encode())
            return None
        finally:
            end_group(process)


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    folder: str  # relative to the tree
    sources: tuple
    program: str  # the absolute path; empty for what is not run or loaded
    needs: frozenset  # names of all targets it depends on, and its own

    @property
    def is_test(self):
        return self.folder == "tests" or self.folder.startswith("tests/")


class Build:
    """A build of `root` by one of its configure presets."""

    def __init__(self, root, preset, jobs):
        self.root = root
        self.preset = preset
        self.folder = root / "build" / preset
        self._jobs = jobs
        self._digests = {}  # program → (time and size, digest)
        self.targets = {}

    def configure(self, log):
        query = self.folder / ".cmake/api/v1/query/codemodel-v2"
        query.parent.mkdir(parents=True, exist_ok=True)
        query.touch()
        if run_process(["cmake", "--preset", self.preset], cwd=self.root, log=log) != 0:
            raise BuildError(f"the tree does not configure, see {log}")
        self.targets = {t.name: t for t in self._read_targets()}

    def make(self, names, log):
        """Builds the named targets, or all. True if that succeeds."""
        command = ["cmake", "--build", self.folder, "--parallel", str(self._jobs)]
        if names is not None:
            command += ["--target", *sorted(names)]
        return run_process(command, cwd=self.root, log=log) == 0

    def digests(self):
        """Target → digest of its program, for those that are built."""
        return {t.name: self._digest(t.program)
                for t in self.targets.values() if t.program and os.path.exists(t.program)}

    def _digest(self, program):
        status = os.stat(program)
        seen = (status.st_mtime_ns, status.st_size)
        if self._digests.get(program, (None,))[0] != seen:
            with open(program, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            self._digests[program] = (seen, content)
        return self._digests[program][1]

    def _read_targets(self):
        reply = self.folder / ".cmake/api/v1/reply"
        index = json.loads(max(reply.glob("index-*.json")).read_text())
        model = next(o["jsonFile"] for o in index["objects"] if o["kind"] == "codemodel")
        listed = json.loads((reply / model).read_text())["configurations"][0]["targets"]
        known = {t["id"]: json.loads((reply / t["jsonFile"]).read_text()) for t in listed}
        for target in known.values():
            runs = target["type"] in ("EXECUTABLE", "SHARED_LIBRARY", "MODULE_LIBRARY")
            program = str(self.folder / target["artifacts"][0]["path"]) if runs else ""
            yield Target(
                target["name"], target["paths"]["source"],
                tuple(s["path"] for s in target.get("sources", ())), program,
                frozenset(known[i]["name"] for i in self._closure(known, target["id"])))

    @staticmethod
    def _closure(known, first):
        reached, todo = set(), [first]
        while todo:
            current = todo.pop()
            if current not in reached:
                reached.add(current)
                needs = known[current].get("dependencies", ())
                todo += [d["id"] for d in needs if d["id"] in known]
        return reached

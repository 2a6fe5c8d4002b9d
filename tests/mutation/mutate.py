#!/usr/bin/env python3
"""Plants faults in a copy of the tree, one at a time, and reports which of them a test finds.

    mutate.py run [--preset release] [--only REGEX] [--at-least 0.95]
    mutate.py check
    mutate.py candidates --seed N --count 40

`run` continues where it was ended. Its exit code is 0 if enough faults are found, 1 if not, and 2
if the list has entries that cannot be planted or built, or the clean tree fails its tests. `check`
says at once which entries cannot be planted, and where the text of a moved file is now.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import signal
import sys
import time

from build import Build, BuildError
from candidates import draw
from faults import ListError, read_faults
from programs import list_programs, run_program, stages
from tree import Tree, TreeError, source_files

HERE = pathlib.Path(__file__).resolve().parent
# Counted in the share; a fault found only by chance is not found.
JUDGED = ("found", "found by chance", "survived")


class Results:
    """The results file: one JSON object a line, the last one of a fault counts."""

    def __init__(self, path):
        self._path = path
        self.faults, self.clean = {}, None
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                self._take(json.loads(line))
            except ValueError:
                pass  # the end of a line that a kill cut short

    def add(self, record):
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._take(record)

    def _take(self, record):
        if "clean" in record:
            self.clean = record
        else:
            self.faults[record["id"]] = record


class Run:
    """One call of `run`."""

    def __init__(self, arguments):
        self.arguments = arguments
        folder = pathlib.Path(arguments.folder or arguments.source / "build/mutation")
        self.tree = Tree(arguments.source, folder)
        self.logs = self.tree.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        if arguments.fresh:
            (self.tree.folder / "results.jsonl").unlink(missing_ok=True)
        self.results = Results(self.tree.folder / "results.jsonl")
        self.build = Build(self.tree.copy, arguments.preset, arguments.jobs)
        self.programs, self.clean_digests, self.clean_seconds = [], {}, {}

    def prepare(self):
        """Copies, builds and tests the clean tree. Raises BuildError if that fails."""
        print(f"copy: {self.tree.copy}, preset {self.arguments.preset}", flush=True)
        self.tree.sync()
        log = self.logs / "clean.log"
        log.unlink(missing_ok=True)
        self.build.configure(log)
        if not self.build.make(self._wanted_targets(), log):
            raise BuildError(f"the clean tree does not build, see {log}")
        self.programs = [p for p in list_programs(self.build, self.arguments.timeout)
                         if self._is_wanted(p.target or p.name)]
        if not self.programs:
            raise BuildError("there is no test to run")
        self.clean_digests = self.build.digests()
        print(f"{len(self.programs)} test programs", flush=True)
        self._test_clean(log)

    def try_fault(self, fault):
        """The fault's record for the results file."""
        started = time.monotonic()
        count = self.tree.count(fault)
        if count != 1:
            found = {"outcome": "text ambiguous" if count else "text not found"}
        else:
            log = self.logs / f"{fault.id}.log"
            log.unlink(missing_ok=True)
            with self.tree.planted(fault):
                found = self._hunt(fault, log)
        seconds = round(time.monotonic() - started, 1)
        return {"id": fault.id, "file": fault.file, "why": fault.why, **found, "seconds": seconds,
                "tree": self.tree.digest, "only": self.arguments.only}

    def is_done(self, fault):
        """What was found stays found; the rest is tried again when tests or code have changed."""
        record = self.results.faults.get(fault.id)
        if record is None or self.tree.count(fault) != 1:
            return False
        same = (record["tree"], record["only"]) == (self.tree.digest, self.arguments.only)
        return record["outcome"] == "found" or (same and record["outcome"] in JUDGED)

    def _hunt(self, fault, log):
        chance, reached = None, False
        for programs in stages(self.build, self.programs, fault):
            if not self.build.make(self._targets_of(programs), log):
                return {"outcome": "does not build", "log": str(log)}
            changed = self._changed_targets()
            for program in programs:
                if not self._depends(program) & changed:
                    continue
                reached = True
                said = self._run(program, log)
                again = self._run(program, log) if said == "failed" else said
                if again != "passed":
                    return {"outcome": "found", "test": str(program), "by": said}
                if said == "failed":
                    chance = str(program)
        if chance is not None:
            return {"outcome": "found by chance", "test": chance, "log": str(log)}
        return {"outcome": "survived", "reached": reached, "log": str(log)}

    def _run(self, program, log):
        limit_s = program.limit_s
        if program.name in self.clean_seconds:
            limit_s = min(limit_s, max(60, 10 * self.clean_seconds[program.name]))
        return run_program(self.build, program, limit_s, log)

    def _test_clean(self, log):
        names = sorted(p.name for p in self.programs)
        known = self.results.clean
        if known and known["tree"] == self.tree.digest and set(names) <= known["clean"].keys():
            self.clean_seconds = known["clean"]
            return
        failing, seconds = [], {}
        for program in self.programs:
            started = time.monotonic()
            said = (run_program(self.build, program, program.limit_s, log) for _ in range(2))
            if "passed" not in said:  # the second time only if the first fails
                failing.append(program.name)
            seconds[program.name] = round(time.monotonic() - started, 2)
        if failing:
            raise BuildError(f"the clean tree fails {', '.join(failing)}, see {log}")
        self.clean_seconds = seconds
        self.results.add({"clean": seconds, "tree": self.tree.digest})
        print(f"the clean tree passes in {sum(seconds.values()):.0f} s", flush=True)

    def _is_wanted(self, name):
        return re.search(self.arguments.only, name) is not None

    def _wanted_targets(self):
        if not self.arguments.only:
            return None
        tests = [t for t in self.build.targets.values() if t.is_test and t.program]
        return {t.name for t in tests if self._is_wanted(t.name)} or {"all"}

    def _product_programs(self):
        return {t.name for t in self.build.targets.values() if t.program and not t.is_test}

    def _targets_of(self, programs):
        return {t for p in programs for t in ({p.target} if p.target else self._product_programs())}

    def _depends(self, program):
        if program.target:
            return self.build.targets[program.target].needs
        return self._product_programs()

    def _changed_targets(self):
        return {n for n, d in self.build.digests().items() if self.clean_digests.get(n) != d}


def describe(record):
    test = f" by {record['test']}" if "test" in record else ""
    test += " (timed out)" if record.get("by") == "timed out" else ""
    unreached = ", no program changed" if record.get("reached") is False else ""
    return f"{record['outcome']}{test}{unreached}: {record['file']}: {record['why']}"


def report(faults, records, at_least):
    """Prints the table by folder and what is not found. Returns the exit code."""
    folders = collections.defaultdict(collections.Counter)
    for fault in faults:
        folders[os.path.dirname(fault.file)][records[fault.id]["outcome"]] += 1
    total = sum(folders.values(), collections.Counter())
    print(f"\n{'folder':<32}{'faults':>8}{'found':>8}{'share':>9}")
    for name, counts in [*sorted(folders.items()), ("all", total)]:
        judged = sum(counts[o] for o in JUDGED)
        share = f"{100 * counts['found'] / judged:.1f} %" if judged else "-"
        print(f"{name:<32}{judged:>8}{counts['found']:>8}{share:>9}")
    for fault in faults:
        record = records[fault.id]
        if record["outcome"] != "found":
            print(f"\n{describe(record)}\n  - {fault.before}\n  + {fault.after}")
            if fault.argued:
                print(f"  argued: {fault.argued}")
            if "log" in record:
                print(f"  log: {record['log']}")
    judged = sum(total[o] for o in JUDGED)
    if judged < total.total() or judged == 0:
        print(f"\n{total.total() - judged} entries of the list are stale")
        return 2
    enough = total["found"] >= at_least * judged
    print(f"\n{total['found']} of {judged} found, at least {100 * at_least:g} % wanted")
    return 0 if enough else 1


def run(arguments):
    faults = [f for f in read_faults(arguments.list) if re.search(arguments.file, f.file)]
    session = Run(arguments)
    session.prepare()
    for number, fault in enumerate(faults, 1):
        if session.is_done(fault):
            print(f"[{number}/{len(faults)}] known: {describe(session.results.faults[fault.id])}",
                  flush=True)
            continue
        record = session.try_fault(fault)
        session.results.add(record)
        print(f"[{number}/{len(faults)}] {record['seconds']:.0f} s, {describe(record)}", flush=True)
    return report(faults, session.results.faults, arguments.at_least)


def check(arguments):
    """Names the entries whose text does not occur exactly once. Builds nothing."""
    faults, stale = read_faults(arguments.list), 0
    names = source_files(arguments.source)
    for fault in faults:
        counts = {n: (arguments.source / n).read_text(encoding="utf-8").count(fault.before)
                  for n in names if os.path.basename(n) == os.path.basename(fault.file)}
        if counts.get(fault.file) != 1:
            stale += 1
            places = ", ".join(n for n, c in counts.items() if c) or "no file of that name"
            count = counts.get(fault.file, 0)
            print(f"{count} times in {fault.file}, found in {places}: {fault.why}")
            print(f"  - {fault.before}")
    print(f"{len(faults)} faults, {stale} cannot be planted")
    return 2 if stale else 0


def print_candidates(arguments):
    known = read_faults(arguments.list) if arguments.list.exists() else []
    drawn = draw(arguments.source, known, arguments.seed, arguments.count)
    print(f"seed {arguments.seed}: {len(drawn)} candidates", file=sys.stderr)
    for fault in drawn:
        print(fault.to_json())
    return 0 if len(drawn) == arguments.count else 1


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--source", type=pathlib.Path, default=HERE.parents[1], help="the tree")
    common.add_argument("--list", type=pathlib.Path, default=HERE / "faults.jsonl",
                        help="the list of faults (default faults.jsonl beside this program)")
    runs = commands.add_parser("run", parents=[common], help="plant, build, test, report")
    runs.add_argument("--folder", type=pathlib.Path, help="copy and results (build/mutation)")
    runs.add_argument("--preset", default="release", help="configure preset (release)")
    runs.add_argument("--jobs", type=int, default=os.cpu_count(), help="parallel compilers")
    runs.add_argument("--only", default="", metavar="REGEX", help="test programs to build and run")
    runs.add_argument("--file", default="", metavar="REGEX", help="files whose faults to plant")
    runs.add_argument("--timeout", type=float, default=600, metavar="S",
                      help="longest run of a test program in seconds (600); it is ten times that "
                      "of the clean tree, at least 60, if that is shorter")
    runs.add_argument("--at-least", type=float, default=0.95, metavar="SHARE",
                      help="share of faults to be found (0.95)")
    runs.add_argument("--fresh", action="store_true", help="forget earlier results")
    commands.add_parser("check", parents=[common], help="check the list against the tree")
    draws = commands.add_parser("candidates", parents=[common], help="print drawn faults")
    draws.add_argument("--seed", type=int, required=True)
    draws.add_argument("--count", type=int, default=40)
    return parser.parse_args(words)


def stop(*_):
    raise KeyboardInterrupt


def main():
    arguments = parse(sys.argv[1:])
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(ending, stop)
    try:
        commands = {"run": run, "check": check, "candidates": print_candidates}
        return commands[arguments.command](arguments)
    except (BuildError, ListError, TreeError) as error:
        print(f"mutate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mutate.py: interrupted; the next run continues here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

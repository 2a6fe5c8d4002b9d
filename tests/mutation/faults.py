"""The list of faults: one JSON object a line, with `file`, `before`, `after` and `why`.

Optional: `tests`, patterns of the programs or cases to run first, and `argued`, why no test can
find it.
"""

import dataclasses
import hashlib
import json

REQUIRED = {"file", "before", "after", "why"}
OPTIONAL = {"tests", "argued"}


class ListError(Exception):
    """A list of faults that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Fault:
    file: str
    before: str
    after: str
    why: str
    tests: tuple = ()
    argued: str = ""

    @property
    def id(self):
        """The same for the same change, whatever is written about it."""
        change = "\0".join((self.file, self.before, self.after))
        return hashlib.sha256(change.encode()).hexdigest()[:12]

    def to_json(self):
        fields = dataclasses.asdict(self)
        kept = {k: v for k, v in fields.items() if v or k in REQUIRED}
        return json.dumps(kept, ensure_ascii=False)


def parse_fault(line):
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    missing, unknown = REQUIRED - fields.keys(), fields.keys() - REQUIRED - OPTIONAL
    if missing or unknown:
        raise ValueError(f"missing {sorted(missing)}, unknown {sorted(unknown)}")
    if not fields["before"] or fields["before"] == fields["after"]:
        raise ValueError("`before` is empty or equals `after`")
    fields["tests"] = tuple(fields.get("tests", ()))
    return Fault(**fields)


def read_faults(path):
    """The faults of a file, in its order. Raises ListError with the line at fault."""
    faults = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fault = parse_fault(line)
        except (ValueError, TypeError) as error:
            raise ListError(f"{path}:{number}: {error}") from error
        if fault.id in faults:
            raise ListError(f"{path}:{number}: the same fault as before: {fault.why}")
        faults[fault.id] = fault
    return list(faults.values())

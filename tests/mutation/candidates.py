"""Draws candidate faults: changes of single lines of code, at places drawn by a seed."""

import dataclasses
import random
import re

from faults import Fault

FOLDERS = ("storage", "server", "client", "gpu_cache", "proto")
SUFFIXES = {".cc", ".h", ".cu", ".cuh"}

# What is not code that a test could judge, or not of this program.
SKIPPED = re.compile(
    r"\b(ENGRAM_LOG|assert|static_assert|ABSL_\w+|\w*CHECK\w*|StrCat|template|typename|operator|"
    r"using|friend|namespace|concept|requires|constexpr|__builtin_\w+)\b")
# Calls that no test can miss: hints.
HINTS = re.compile(r"\b(reserve|shrink_to_fit|prefetch\w*|Prefetch\w*|yield|pause)$")

LITERAL = re.compile(
    r'//(?:[^\n\\]|\\.|\\\n)*'
    r'|/\*.*?\*/'
    r'|R"([^()\s\\]*)\(.*?\)\1"'
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|(?<![0-9A-Za-z_])'(?:[^'\\\n]|\\.)+'", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.MULTILINE | re.DOTALL)


def masked(text):
    """The text with comments, literals and directives blanked, every position as before."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())
    return DIRECTIVE.sub(blank, LITERAL.sub(blank, text))


@dataclasses.dataclass(frozen=True)
class Candidate:
    line: int  # from 0
    start: int  # in the line
    end: int
    text: str  # instead of the columns from start to end
    why: str
    operator: int  # its place in OPERATORS


def swaps(pattern, pairs):
    """An operator that replaces one word or sign by another."""
    compiled = re.compile(pattern)

    def find(line, _before, _raw):
        for match in compiled.finditer(line):
            old = match.group(1)
            new = pairs[old]
            yield match.start(1), match.end(1), new, f"`{new or 'nothing'}` for `{old.strip()}`"
    return find


def closing(line, opening):
    """The position of the parenthesis that closes the one at `opening`, or -1."""
    depth = 0
    for position in range(opening, len(line)):
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        if depth == 0:
            return position
    return -1


def negated_conditions(line, _before, raw):
    match = re.match(r"\s*(?:\} else )?if (\()", line)
    end = closing(line, match.start(1)) if match else -1
    if end > 0 and ";" not in line[match.end(1):end]:
        yield match.end(1), end, f"!({raw[match.end(1):end]})", "the condition is negated"


def ignored_errors(line, _before, raw):
    match = re.match(r"\s*(ENGRAM_RETURN_IF_ERROR(\().*\);)$", line)
    if match and closing(line, match.start(2)) == len(line) - 2:
        inner = raw[match.end(2):len(line) - 2]
        yield match.start(1), match.end(1), f"(void)({inner});", "an error is ignored"
    match = re.match(r"\s*return (status);$", line)
    if match:
        yield match.start(1), match.end(1), "absl::OkStatus()", "an error is returned as OK"


def early_returns(line, _before, _raw):
    if re.match(r"\s*(?:static |virtual )?absl::Status [\w:]+\(.*\{$", line):
        yield len(line), len(line), " return absl::OkStatus();", "the function does nothing"


CALL = re.compile(
    r"\s*(?:(?:\} else )?if \(.*\) )?"  # a condition, on the same line
    r"((?:[\w\]\[*]|->|\.|::|\(\))+(\().*\);)$")
NO_CALL = re.compile(r"(return|throw|delete|co_\w+|if|while|for|switch|[A-Z_]+)\b")


def dropped_calls(line, before, _raw):
    """`before` is the last line of code before this one: a statement must start here."""
    match = CALL.match(line)
    if not match or NO_CALL.match(match.group(1)):
        return
    if before and before[-1] not in ";{}:" and not re.match(r"\s*(if|for|while|else)\b", before):
        return
    called = match.group(1)[:match.start(2) - match.start(1)]
    if closing(line, match.start(2)) == len(line) - 2 and not HINTS.search(called):
        yield match.start(1), match.end(1), "{}", f"`{called}` is not called"


# Each is called with a line of masked code, the last such line before it, and the line itself;
# it yields the columns to replace, their new text, and what that does.
OPERATORS = (
    swaps(r"(?<= )(==|!=)(?= )", {"==": "!=", "!=": "=="}),
    swaps(r"(?<= )(<=|<|>=|>(?! 0\b))(?= )", {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}),
    swaps(r"( [+-] 1)(?![\w.'])", {" + 1": "", " - 1": ""}),
    swaps(r"(?<= )(&&|\|\|)(?= |$)", {"&&": "||", "||": "&&"}),
    swaps(r"\breturn (true|false);", {"true": "false", "false": "true"}),
    swaps(r"\bstd::(min|max)\b", {"min": "max", "max": "min"}),
    negated_conditions,
    ignored_errors,
    early_returns,
    dropped_calls,
)


def statement_of(code, start, end):
    """The statement that a line ends in, so that all lines of a log message are known as such."""
    first = max(code.rfind(c, 0, start) for c in ";{}") + 1
    ends = [p for p in (code.find(c, end - 1) for c in ";{") if p >= 0]
    return code[first:min(ends, default=len(code))]


def candidates_of(text):
    """Every candidate of a file, in its order."""
    code = masked(text)
    start, before = 0, ""
    for number, (line, raw) in enumerate(zip(code.split("\n"), text.split("\n"))):
        bare = line.rstrip()
        end = start + len(bare)
        if bare.strip() and not SKIPPED.search(statement_of(code, start, end)):
            for operator, find in enumerate(OPERATORS):
                for first, last, new, why in find(bare, before, raw):
                    yield Candidate(number, first, last, new, why, operator)
        before = bare if bare.strip() else before
        start += len(line) + 1


def to_fault(name, text, candidate):
    """The fault with as many lines around it as make its text unique; None if none do."""
    lines = text.split("\n")
    old = lines[candidate.line]
    new = old[:candidate.start] + candidate.text + old[candidate.end:]
    for above, below in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (4, 3)):
        head = lines[max(0, candidate.line - above):candidate.line]
        tail = lines[candidate.line + 1:candidate.line + 1 + below]
        before = "\n".join([*head, old, *tail])
        after = "\n".join([*head, new, *tail])
        indent = len(before) - len(before.lstrip()) if head or candidate.start else 0
        before, after = before[indent:].rstrip(), after[indent:].rstrip()
        if text.count(before) == 1:
            return Fault(name, before, after, candidate.why)
    return None


def listed_lines(known, name, text):
    """The lines of a file that the list already changes."""
    taken = set()
    for fault in known:
        place = text.find(fault.before) if fault.file == name else -1
        if place >= 0:
            first = text.count("\n", 0, place)
            taken |= set(range(first, first + fault.before.count("\n") + 1))
    return taken


def collect(source, known):
    """(file → text, operator → its candidates as (folder, file, candidate)), in sorted order."""
    texts, places = {}, {}
    for path in sorted(p for f in FOLDERS for p in (source / f).rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(source).as_posix()
        texts[name] = path.read_text(encoding="utf-8")
        taken = listed_lines(known, name, texts[name])
        for candidate in candidates_of(texts[name]):
            if candidate.line not in taken:
                folder = path.parent.relative_to(source).as_posix()
                places.setdefault(candidate.operator, []).append((folder, name, candidate))
    return texts, places


def draw(source, known, seed, count):
    """`count` faults, at most one a line: each time an operator, then one of its places, in a
    folder that has none yet if there is one. All operators are drawn equally often, because what
    most lines offer (a negated condition) is what tests find most easily."""
    texts, places = collect(source, known)
    chance = random.Random(seed)
    for operator in sorted(places):
        chance.shuffle(places[operator])
    folders, lines, drawn = set(), set(), []
    while places and len(drawn) < count:
        operator = chance.choice(sorted(places))
        queue = places[operator]
        place = next((p for p in queue if p[0] not in folders), queue[0])
        queue.remove(place)
        if not queue:
            del places[operator]
        folder, name, candidate = place
        fault = to_fault(name, texts[name], candidate)
        if fault is not None and (name, candidate.line) not in lines:
            folders.add(folder)
            lines.add((name, candidate.line))
            drawn.append(fault)
    return drawn

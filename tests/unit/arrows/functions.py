"""Finds the functions of a source file and their lengths, from the first line of the head to the
closing brace.

C++ is read by its braces, not parsed. That is enough for sources in the project's format: a body's
brace follows a space, a braced initialiser's follows its name, and macros that open a brace end
their own line with it.
"""

import ast
import re

# Comments, raw strings, strings, characters and preprocessor lines: nothing in them is a brace.
# A digit separator (1'000) is not the begin of a character.
IGNORED = re.compile(
    r"""
    //[^\n]*
  | /\*.*?\*/
  | R"(?P<mark>[^\s()\\]{0,16})\(.*?\)(?P=mark)"
  | "(?:\\.|[^"\\\n])*"
  | (?<![0-9A-Za-z])'(?:\\.|[^'\\\n])+'
  | ^[ \t]*\#(?:\\\n|[^\n])*
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
# What a head begins with if its braces hold declarations.
SCOPE = re.compile(
    r"(?:inline\s+|typedef\s+|static\s+)*(?:namespace|class|struct|union|enum|extern)\b"
)
TEMPLATE = re.compile(r"template\s*<")
# A label or an access specifier is not part of the head after it.
LABEL = re.compile(r"^\s*(?:public|protected|private)\s*:")
TEST_CASE = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST|TYPED_TEST_P)\(\s*(\w+)\s*,\s*(\w+)")
NAME = re.compile(r"((?:[\w:]*::)?operator\s*(?:\(\)|[^\s(]+)|\b(?!__)[\w:~]+)\s*\(")
LAMBDA = re.compile(r"(\w+)\s*=\s*\[")


def blanked(text):
    """The text with everything ignored made blank; lines and columns stay."""
    return IGNORED.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def without_template(head):
    """The head behind its template parameters."""
    head = head.lstrip()
    while TEMPLATE.match(head):
        depth = 0
        for at, sign in enumerate(head):
            depth += {"<": 1, ">": -1}.get(sign, 0)
            if sign == ">" and depth == 0:
                break
        head = head[at + 1 :].lstrip()
    return head


def name_of(head, original):
    case = TEST_CASE.match(head)
    if case:
        return f"{case.group(1)}.{case.group(2)}"
    found = LAMBDA.search(head) or NAME.search(head)
    return found.group(1) if found else original.split("\n")[0].strip()


def is_initialiser(text, at):
    """Whether the brace at `at` begins a braced list and not a body."""
    before = text[:at].rstrip()
    if at > 0 and re.match(r"[\w>\]]", text[at - 1]):
        return True
    return before[-1:] in {"=", ",", "(", "{"} or bool(re.search(r"\breturn$", before))


def closing(text, at):
    """The position of the brace that closes the one at `at`; the text's end if none does."""
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if found.group() == "{" else -1
        if depth == 0:
            return found.start()
    return len(text)


def cpp_functions(text):
    """Yields (name, first line, number of lines) of each function that lies in no other."""
    clean = blanked(text)
    begin = at = parens = 0
    while at < len(clean):
        sign = clean[at]
        if sign in "()":
            parens += 1 if sign == "(" else -1
        elif sign in ";}" and parens == 0:
            begin = at + 1
        elif sign == "{" and (parens > 0 or is_initialiser(clean, at)):
            at = closing(clean, at)
        elif sign == "{":
            head = clean[begin:at]
            label = LABEL.match(head)
            begin += label.end() if label else 0
            begin += len(clean[begin:at]) - len(clean[begin:at].lstrip())
            head = without_template(clean[begin:at])
            if not SCOPE.match(head) and "(" in head:
                end = closing(clean, at)
                first = clean.count("\n", 0, begin) + 1
                yield name_of(head, clean[begin:at]), first, clean.count("\n", begin, end) + 1
                at = end
            begin = at + 1
        at += 1


def python_functions(text):
    """Yields (name, first line, number of lines) of each function and method."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def functions(path, text):
    return python_functions(text) if path.suffix == ".py" else cpp_functions(text)

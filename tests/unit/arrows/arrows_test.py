"""Checks that the house is in order: includes follow the table of arrows in ARCHITECTURE.md, heavy
headers stay inside .cc files, sources include what precompiled headers would bring them, files,
lines and functions keep their size, and every folder has its README.

    arrows_test.py ROOT       checks the tree, after checking itself on trees with planted faults
"""

import pathlib
import re
import sys
import tempfile

sys.dont_write_bytecode = True
import includes  # noqa: E402
from functions import cpp_functions, functions  # noqa: E402

STORAGE = [f"storage/{name}" for name in ("base", "table", "checkpoint", "nvme", "dram", "profile")]
# The installed headers, and the interface that transports implement.
CLIENT_HEADERS = [
    f"client/{name}.h" for name in ("client", "gpu_reader", "row_hasher", "transport")
]
# What a process beside the daemon needs of the DRAM tier.
DRAM_READ_SIDE = [
    f"storage/dram/{name}.h" for name in ("access_ring", "attached", "control", "layout", "reader")
]

# Folder → the folders and files that it may include, beside itself.
ARROWS = {
    "proto": [],
    "storage/base": [],
    "storage/table": ["storage/base"],
    "storage/checkpoint": ["storage/base", "storage/table"],
    "storage/nvme": ["storage/base", "storage/table"],
    "storage/dram": ["storage/base", "storage/table"],
    "storage/profile": ["storage/base", "storage/table"],
    # Std only, so that it also builds alone: what kernels, clients and the daemon share.
    "gpu_cache": [f"storage/dram/{name}.h" for name in ("layout", "row_sizes", "seqlock")],
    # The server's rooms, from the ground floor up.
    "server/config": ["storage/base", "storage/table/spec.h"],
    "server/tables": STORAGE,
    "server/http": ["server/config", "server/tables", "proto", "storage/base"],
    "server/placement": ["server/config", "server/tables", *STORAGE, "gpu_cache"],
    "server/lookup": ["server/tables", *STORAGE],
    "server/jobs": ["server/placement", "server/tables", *STORAGE],
    "server/local": [
        "server/lookup",
        "server/placement",
        "server/tables",
        *STORAGE,
        "gpu_cache",
    ],
    "server/rpc": [
        "server/config",
        "server/http/stats_message.h",  # what Stats and /stats.json both say
        "server/jobs",
        "server/local",
        "server/lookup",
        "server/placement",
        "server/tables",
        "proto",
        *STORAGE,
        "gpu_cache",
    ],
    "server/daemon": [
        "server/config",
        "server/http",
        "server/jobs",
        "server/local",
        "server/lookup",
        "server/placement",
        "server/rpc",
        "server/tables",
        "proto",
        *STORAGE,
        "gpu_cache",
    ],
    # The client's rooms, from the ground floor up; all of them use the headers at its root.
    "client/grpc": [*CLIENT_HEADERS, "proto", "storage/base", "storage/table"],
    "client/local": [
        *CLIENT_HEADERS,
        "client/grpc",
        "proto",
        "storage/base",
        "storage/table",
        *DRAM_READ_SIDE,
        "gpu_cache",
    ],
    "client/gpu": [
        *CLIENT_HEADERS,
        "client/grpc",
        "client/local",
        "storage/base",
        *DRAM_READ_SIDE,
        "gpu_cache",
    ],
    # client/gpu is made of a Client, so the root's own sources do not use it.
    "client": ["client/grpc", "client/local", "storage/base", "storage/table"],
    "client/cli": [
        *CLIENT_HEADERS,
        "client/grpc",
        "proto",
        "storage/base",
        "storage/table",
        "storage/checkpoint",
        "storage/profile",
        "storage/dram/layout.h",
        "storage/dram/fit_shape.h",
        "gpu_cache/arena_layout.h",
        "gpu_cache/backend.h",
    ],
    "client/examples": [*CLIENT_HEADERS, "storage/base"],
    "tests": ["proto", "client", "server", "storage", "gpu_cache", "tests"],
}
# Folders with a README beside those of the table that hold sources.
PARENTS = ["server"]

# Headers that cost compile time, and so stay out of our headers.
HEAVY = re.compile(r"<(grpc|grpcpp|rocksdb|nlohmann)/|\.grpc\.pb\.h")
# file → why it may.
HEAVY_EXCEPTIONS = {
    "server/rpc/call_loop.h": "gRPC's calls themselves, for the services on it and nobody else",
    "storage/checkpoint/strict_json.h": "hands JSON values to the two readers beside it",
}
# file → why it is longer than its limit.
SIZE_EXCEPTIONS = {}
MAX_FUNCTION_LINES = 60
# `file function` → why it is longer than that.
FUNCTION_EXCEPTIONS = {
    "tests/unit/storage/table/numpy_random_test.cc Draws": "a table of published numbers",
}

# What a program outside the project sees must stand alone.
PUBLIC_HEADERS = ["client/client.h", "client/gpu_reader.h", "client/row_hasher.h"]

SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
# Python has sizes, and no includes.
SIZED = SUFFIXES | {".py"}
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|(<[^>]+>))', re.MULTILINE)
FOLDERS = ["proto", "server", "client", "gpu_cache", "storage", "deploy", "tests"]


def folder_of(path):
    """The folder of ARROWS that this path lies in; None if there is none."""
    if path.startswith("tests/"):
        return "tests"
    parent = path.rpartition("/")[0]
    return parent if parent in ARROWS else None


def target_of(include):
    return include.replace("engram/v1/", "proto/") if include.startswith("engram/v1/") else include


def check_include(name, include):
    folder = folder_of(name)
    target = target_of(include)
    if folder is None or target.split("/")[0] not in FOLDERS:
        return None  # reported for the file, or a library's
    # What all rooms of the client use must not use them.
    closed = folder == "client" and name.endswith(".h")
    allowed = CLIENT_HEADERS if closed else [*ARROWS[folder], folder]
    if target in allowed or target.rpartition("/")[0] in allowed:
        return None
    if folder == "tests" and target.split("/")[0] in ARROWS["tests"]:
        return None
    return f"{name}: {name if closed else folder} may not include {include}"


def check_includes(name, text):
    problems = []
    if folder_of(name) is None:
        problems.append(f"{name}: lies in no folder of the table")
    for quoted, angled in INCLUDE.findall(text):
        if quoted:
            problem = check_include(name, quoted)
            if problem:
                problems.append(problem)
            elif name in PUBLIC_HEADERS and quoted.split("/")[0] in FOLDERS:
                problems.append(f"{name}: a public header may not include {quoted}")
        heavy = HEAVY.search(angled or quoted)
        ours = name.endswith(".h") and not name.startswith("tests/")
        if heavy and ours and name not in HEAVY_EXCEPTIONS:
            problems.append(f"{name}: {angled or quoted} belongs into .cc files")
    return problems


def stale(exception, said):
    return f"{exception}: {said}; remove the exception"


def check_size(path, name, text, files=SIZE_EXCEPTIONS, of_functions=FUNCTION_EXCEPTIONS):
    """Lines of the file, of its functions, and the exceptions of both, which must be needed."""
    problems = []
    lines = len(text.splitlines())
    limit = 800 if name.startswith("tests/") else 500
    if lines > limit and name not in files:
        problems.append(f"{name}: {lines} lines, over {limit}")
    if lines <= limit and name in files:
        problems.append(stale(name, f"{lines} lines, within {limit}"))
    long = set()
    for function, first, count in functions(path, text):
        key = f"{name} {function}"
        if count > MAX_FUNCTION_LINES:
            long.add(key)
            if key not in of_functions:
                problems.append(
                    f"{name}:{first}: {function} has {count} lines, over {MAX_FUNCTION_LINES}"
                )
    for key in of_functions:
        if key.startswith(name + " ") and key not in long:
            problems.append(stale(key, f"is not over {MAX_FUNCTION_LINES} lines"))
    return problems


def check_columns(name, text):
    return [
        f"{name}:{number}: {len(line)} columns, over 100"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > 100
    ]


def check_file(root, path, named):
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    problems = check_size(path, name, text)
    if path.suffix in SUFFIXES:
        problems += check_columns(name, text) + check_includes(name, text) + named.check(name)
    return problems


def check_readmes(root):
    problems = []
    sources = [p for f in FOLDERS for p in sorted((root / f).rglob("*")) if p.suffix in SUFFIXES]
    folders = {folder_of(p.relative_to(root).as_posix()) for p in sources} - {None}
    folders |= {p for p in PARENTS for folder in folders if folder.startswith(p + "/")}
    for folder in sorted(folders):
        readme = root / folder / "README.md"
        if not readme.exists():
            problems.append(f"{folder}: has no README.md")
        elif len(readme.read_text(encoding="utf-8").splitlines()) > 30:
            problems.append(f"{folder}/README.md: over 30 lines")
    return problems


def check_exceptions(root):
    """Exceptions of files that are gone."""
    files = {*HEAVY_EXCEPTIONS, *SIZE_EXCEPTIONS, *(key.split()[0] for key in FUNCTION_EXCEPTIONS)}
    return [stale(name, "is gone") for name in sorted(files) if not (root / name).exists()]


def check_tree(root):
    problems = includes.check_precompiled(root)
    named = includes.Includes(root)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SIZED:
                problems += check_file(root, path, named)
    return problems + check_readmes(root)


def plant(root, files):
    """Writes the files, and the README that each of their folders needs."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        folder = folder_of(name)
        for needs_one in [folder, *(p for p in PARENTS if name.startswith(p + "/"))]:
            if needs_one:
                (root / needs_one / "README.md").write_text("what it is\n")


def long_function(lines, language):
    if language == "py":
        return "def long():\n" + "    pass\n" * (lines - 1)
    return "void Room::Long() {\n" + "  Do('{');\n" * (lines - 2) + "}\n"


# Each is planted in a tree of its own: file, text, what is said about it.
PLANTED = [
    # Arrows that point up, or into a room that is closed.
    ("server/tables/x.cc", '#include "server/placement/hbm_cache.h"\n', "server/tables may not"),
    ("server/lookup/x.h", '#include "server/rpc/wire.h"\n', "server/lookup may not include"),
    ("server/config/x.cc", '#include "server/tables/tables.h"\n', "server/config may not include"),
    ("server/placement/x.cc", '#include "server/lookup/lookup.h"\n', "server/placement may not"),
    ("server/jobs/x.cc", '#include "server/lookup/lookup.h"\n', "server/jobs may not include"),
    ("server/local/x.cc", '#include "server/jobs/load_job.h"\n', "server/local may not include"),
    ("server/http/x.cc", '#include "server/lookup/lookup.h"\n', "server/http may not include"),
    ("server/rpc/x.cc", '#include "server/daemon/notify.h"\n', "server/rpc may not include"),
    ("server/tables/x.cc", '#include "engram/v1/store.pb.h"\n', "server/tables may not include"),
    ("client/x.cc", '#include "server/tables/tables.h"\n', "client may not include server/tables"),
    ("client/x.cc", '#include "client/gpu/gpu_source.h"\n', "client may not include client/gpu"),
    ("client/grpc/x.cc", '#include "client/local/shm_tables.h"\n', "client/grpc may not include"),
    ("client/local/x.cc", '#include "client/gpu/gpu_source.h"\n', "client/local may not include"),
    ("client/cli/x.cc", '#include "client/local/shm_tables.h"\n', "client/cli may not include"),
    ("client/transport.h", '#include "client/grpc/stream.h"\n', "client/transport.h may not"),
    ("storage/table/x.cc", '#include "storage/nvme/store.h"\n', "storage/table may not include"),
    ("storage/profile/x.cc", '#include "storage/dram/reader.h"\n', "storage/profile may not"),
    ("gpu_cache/x.cc", '#include "storage/dram/row_cache.h"\n', "gpu_cache may not include"),
    ("server/x.cc", "", "lies in no folder of the table"),
    # Headers.
    ("server/rpc/x.h", "#include <rocksdb/db.h>\n", "belongs into .cc files"),
    ("server/rpc/y.h", '#include "engram/v1/store.grpc.pb.h"\n', "belongs into .cc files"),
    ("client/client.h", '#include "client/transport.h"\n', "public header"),
    ("tests/unit/x.cc", "std::vector<int> a;\n", "names std::vector without an include of vector"),
    # Sizes.
    ("server/rpc/x.cc", "\n" * 501, "501 lines, over 500"),
    ("tests/unit/x.cc", "\n" * 801, "801 lines, over 800"),
    ("server/rpc/x.cc", "//" + "x" * 99 + "\n", "over 100"),
    ("server/rpc/x.cc", long_function(61, "cc"), "server/rpc/x.cc:1: Room::Long has 61 lines"),
    ("gpu_cache/x.cu", "\n" + long_function(61, "cu"), "gpu_cache/x.cu:2: Room::Long has 61"),
    ("tests/bench/x.py", long_function(61, "py"), "tests/bench/x.py:1: long has 61 lines"),
]

# None of this is a problem.
CLEAN = {
    "client/x.cc": '#include "client/local/shm_transport.h"\n#include "absl/x.h"\n',
    "client/y.cc": "#include <grpcpp/grpcpp.h>\n",
    "client/grpc/x.cc": '#include "engram/v1/store.pb.h"\n#include "client/client.h"\n',
    "client/gpu/x.cc": '#include "client/local/shm_tables.h"\n#include "client/gpu_reader.h"\n',
    "client/transport.h": '#include "client/client.h"\n',
    "server/placement/x.h": '#include "server/placement/y.h"\n#include "server/tables/tables.h"\n',
    "server/daemon/x.cc": '#include "server/http/http.h"\n#include "storage/dram/handover.h"\n',
    "server/rpc/x.cc": "\n" * 500,
    "server/rpc/y.cc": long_function(60, "cc"),
    "server/rpc/y.py": long_function(60, "py"),
    "tests/unit/server/rpc/x.cc": '#include "server/rpc/wire.h"\n' + "\n" * 799,
}

# What the reader of braces must not trip over: source → (name, first line, lines).
FUNCTIONS = [
    ("void A() {}\n", [("A", 1, 1)]),
    ("namespace a {\nint B(int x) {\n  return x;\n}\n}\n", [("B", 2, 3)]),
    (
        "// {\n/* { */\nchar c = '{';\nvoid A() {\n  D(\"}{\", R\"x(}\")x\", 1'000);\n}\n",
        [("A", 4, 3)],
    ),
    ("#define X {\n#define Y \\\n  {\nvoid A() {\n}\n", [("A", 4, 2)]),
    ("template <class T, class U = X<T>>\nT A(U u)\n    requires true\n{\n}\n", [("A", 1, 5)]),
    ("class ABSL_LOCKABLE C {\n public:\n  C() : a_{1}, b_(2) {\n  }\n};\n", [("C", 3, 2)]),
    ("struct S {\n  bool operator()(int a) {\n    return a;\n  }\n};\n", [("operator()", 2, 3)]),
    ("const int kA[] = {1, 2};\nconst std::array<K, 1> kB = {{\n    {1, F(2)},\n}};\nvoid A() {}\n",
     [("A", 5, 1)]),
    ("void A(B b = {}, C c = C{1}) {\n}\n", [("A", 1, 2)]),
    ("TEST_F(Suite, Case) {\n  for (;;) {\n    [&] { F(); }();\n  }\n}\n", [("Suite.Case", 1, 5)]),
    ("const auto f = [](int a) {\n  return a;\n};\nvoid A() {}\n", [("f", 1, 3), ("A", 4, 1)]),
]


def check_no_circles():
    """No folder of the table reaches itself; the headers at the client's root use no folder."""
    uses = {}
    for folder, targets in ARROWS.items():
        files = [target for target in targets if target not in CLIENT_HEADERS]
        uses[folder] = {folder_of(f) if f.endswith(".h") else f for f in files} - {folder}
    while uses:
        ground = {folder for folder in uses if not uses[folder] & uses.keys()}
        assert ground, f"a circle among {sorted(uses)}"
        uses = {folder: uses[folder] for folder in uses if folder not in ground}


def self_test():
    """Each planted fault is reported, alone, and a clean tree gives nothing."""
    check_no_circles()
    for source, found in FUNCTIONS:
        assert list(cpp_functions(source)) == found, (source, list(cpp_functions(source)))
    for name, text, said in PLANTED:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            plant(root, {name: text})
            problems = check_tree(root)
            assert len(problems) == 1 and said in problems[0], (name, problems)
    with tempfile.TemporaryDirectory() as directory:
        includes.self_test(pathlib.Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        plant(root, CLEAN)
        assert check_tree(root) == [], check_tree(root)
        (root / "server/README.md").unlink()
        (root / "server/rpc/README.md").write_text("\n" * 31)
        (root / "client/grpc/README.md").unlink()
        problems = check_tree(root)
        for said in ["server: has no", "server/rpc/README.md: over", "client/grpc: has no"]:
            assert any(problem.startswith(said) for problem in problems), (said, problems)
        assert len(problems) == 3, problems
    self_test_exceptions()


def self_test_exceptions():
    """An exception is heeded while it is needed, and reported from then on."""
    name, key = "server/rpc/x.cc", "server/rpc/x.cc Room::Long"
    for long, exceptions, said in [
        (61, {key: "a reason"}, None),
        (60, {key: "a reason"}, "is not over 60 lines"),
        (61, {"server/rpc/x.cc Room::Other": "a reason"}, "Room::Long has 61 lines"),
    ]:
        problems = check_size(pathlib.Path(name), name, long_function(long, "cc"), {}, exceptions)
        assert (said is None) == (not problems), (exceptions, problems)
        assert said is None or said in problems[0], (exceptions, problems)
    for lines, said in [(501, None), (500, "within 500")]:
        problems = check_size(pathlib.Path(name), name, "\n" * lines, {name: "a reason"}, {})
        assert (said is None) == (not problems), (lines, problems)
        assert said is None or said in problems[0], (lines, problems)
    with tempfile.TemporaryDirectory() as directory:
        assert len(check_exceptions(pathlib.Path(directory))) > 0


def main():
    self_test()
    root = pathlib.Path(sys.argv[1])
    problems = check_tree(root) + check_exceptions(root)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

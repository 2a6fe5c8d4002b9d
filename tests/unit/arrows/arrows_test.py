"""Checks that the house is in order: includes follow the table of arrows in ARCHITECTURE.md, heavy
headers stay inside .cc files, files and lines keep their size, and every folder has its README.

    arrows_test.py ROOT       checks the tree, after checking itself on trees with planted faults
"""

import pathlib
import re
import sys
import tempfile

# Folder → the folders and files that it may include, beside itself. The longest match counts.
ARROWS = {
    "storage/base": [],
    "storage/table": ["storage/base"],
    "storage/checkpoint": ["storage/base", "storage/table"],
    "storage/nvme": ["storage/base", "storage/table"],
    "storage/dram": ["storage/base", "storage/table"],
    "storage/profile": ["storage/base", "storage/table"],
    "gpu_cache": [
        "storage/dram/layout.h",
        "storage/dram/row_sizes.h",
        "storage/dram/seqlock.h",
    ],
    "server": [
        "proto",
        "storage/base",
        "storage/table",
        "storage/checkpoint",
        "storage/nvme",
        "storage/dram",
        "storage/profile",
        "gpu_cache",
    ],
    "client": [
        "proto",
        "storage/base",
        "storage/table",
        "storage/dram/access_ring.h",
        "storage/dram/attached.h",
        "storage/dram/control.h",
        "storage/dram/layout.h",
        "storage/dram/reader.h",
        "gpu_cache",
    ],
    "client/cli": [
        "client",
        "proto",
        "storage/base",
        "storage/table",
        "storage/checkpoint",
        "storage/profile",
        "storage/dram/fit_shape.h",
        "storage/dram/layout.h",
        "gpu_cache/arena_layout.h",
        "gpu_cache/backend.h",
    ],
    "client/examples": ["client", "storage/base"],
    "tests": ["proto", "client", "server", "storage", "gpu_cache"],
}

# Headers that cost compile time, and so stay out of our headers.
HEAVY = re.compile(r"<(grpc|grpcpp|rocksdb|nlohmann)/|\.grpc\.pb\.h")
# file → why it may.
HEAVY_EXCEPTIONS = {
    "server/rpc/call_loop.h": "gRPC's calls themselves, for the services on it and nobody else",
    "storage/checkpoint/strict_json.h": "hands JSON values to the two readers beside it",
}
SIZE_EXCEPTIONS = {}

# What a program outside the project sees must stand alone.
PUBLIC_HEADERS = ["client/client.h", "client/gpu_reader.h", "client/row_hasher.h"]

SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|(<[^>]+>))', re.MULTILINE)
FOLDERS = ["proto", "server", "client", "gpu_cache", "storage", "deploy", "tests"]


def folder_of(path):
    """The longest folder of ARROWS that holds this path; None if there is none."""
    held = [f for f in ARROWS if path == f or path.startswith(f + "/")]
    return max(held, key=len) if held else None


def target_of(include):
    return "proto/" + include if include.startswith("engram/v1/") else include


def check_include(name, include):
    folder = folder_of(name)
    if folder is None:
        return f"{name}: lies in no folder of the table"
    target = target_of(include)
    if target.split("/")[0] not in FOLDERS:
        return None  # a library's
    if folder_of(target) == folder:
        return None
    for allowed in ARROWS[folder]:
        if target == allowed or target.startswith(allowed + "/"):
            return None
    return f"{name}: {folder} may not include {include}"


def check_file(root, path):
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    problems = []
    limit = 800 if name.startswith("tests/") else 500
    if len(lines) > limit and name not in SIZE_EXCEPTIONS:
        problems.append(f"{name}: {len(lines)} lines, over {limit}")
    for number, line in enumerate(lines, 1):
        if len(line) > 100:
            problems.append(f"{name}:{number}: {len(line)} columns, over 100")
    for quoted, angled in INCLUDE.findall(text):
        if quoted:
            problem = check_include(name, quoted)
            if problem:
                problems.append(problem)
            if name in PUBLIC_HEADERS and quoted.split("/")[0] in FOLDERS:
                problems.append(f"{name}: a public header may not include {quoted}")
        heavy = HEAVY.search(angled or quoted)
        ours = path.suffix == ".h" and not name.startswith("tests/")
        if heavy and ours and name not in HEAVY_EXCEPTIONS:
            problems.append(f"{name}: {angled or quoted} belongs into .cc files")
    return problems


def check_readmes(root):
    problems = []
    sources = [p for f in FOLDERS for p in sorted((root / f).rglob("*")) if p.suffix in SUFFIXES]
    folders = {folder_of(p.relative_to(root).as_posix()) for p in sources} - {None}
    for folder in sorted(folders):
        readme = root / folder / "README.md"
        if not readme.exists():
            problems.append(f"{folder}: has no README.md")
        elif len(readme.read_text(encoding="utf-8").splitlines()) > 30:
            problems.append(f"{folder}/README.md: over 30 lines")
    return problems


def check_tree(root):
    problems = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                problems += check_file(root, path)
    return problems + check_readmes(root)


def self_test():
    """Each planted fault is reported, alone, and a clean tree gives nothing."""
    faults = {
        "client/x.cc": ('#include "server/tables/tables.h"\n', "may not include server/tables/tables.h"),
        "storage/table/x.cc": ('#include "storage/nvme/store.h"\n', "may not include"),
        "gpu_cache/x.cc": ('#include "storage/dram/row_cache.h"\n', "may not include"),
        "server/x.h": ("#include <rocksdb/db.h>\n", "belongs into .cc files"),
        "server/y.h": ('#include "engram/v1/store.grpc.pb.h"\n', "belongs into .cc files"),
        "client/client.h": ('#include "client/grpc/target.h"\n', "public header"),
        "server/long.cc": ("\n" * 501, "over 500"),
        "server/wide.cc": ("//" + "x" * 99 + "\n", "over 100"),
        "storage/dram/x.cc": ("", "has no README.md"),
    }
    for name, (text, said) in faults.items():
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            path = root / name
            path.parent.mkdir(parents=True)
            path.write_text(text)
            if said != "has no README.md":
                (root / folder_of(name) / "README.md").write_text("what it is\n")
            problems = check_tree(root)
            assert len(problems) == 1 and said in problems[0], (name, problems)
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        (root / "client").mkdir()
        (root / "client/README.md").write_text("what it is\n")
        (root / "client/x.cc").write_text(
            '#include "engram/v1/store.pb.h"\n#include "absl/x.h"\n#include <grpcpp/a.h>\n'
        )
        assert check_tree(root) == [], check_tree(root)


def main():
    self_test()
    problems = check_tree(pathlib.Path(sys.argv[1]))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks that a source includes what it names, of the headers that are precompiled: itself, or by a
header of ours that it includes. A build with precompiled headers compiles without, and one without
them (another compiler, a package) would not.

It reads names, and knows nothing of C++: what a library's header brings along does not count. The
headers are those of cmake/EngramPrecompiled.cmake; one that has no names here is a problem.
"""

import functools
import re

from functions import blanked


def words(prefix, names):
    return prefix + r"(?:" + "|".join(names.split()) + r")\b"


ALGORITHMS = (
    "all_of any_of binary_search clamp copy copy_if copy_n count count_if equal equal_range fill "
    "fill_n find find_if find_if_not for_each generate is_sorted lexicographical_compare "
    "lower_bound make_heap max max_element min min_element minmax minmax_element mismatch none_of "
    "nth_element partial_sort partition partition_point pop_heap push_heap replace reverse rotate "
    "set_difference set_intersection set_union shuffle sort stable_sort swap_ranges transform "
    "unique upper_bound"
)
# Precompiled header → the names that it is for, and the headers that bring them.
NAMES = {
    "<algorithm>": (words(r"\bstd::", ALGORITHMS), r"<algorithm>"),
    "<atomic>": (r"\bstd::(?:atomic|memory_order)", r"<atomic>"),
    "<chrono>": (r"\bstd::chrono\b", r"<chrono>"),
    "<cstdint>": (r"\bu?int(?:8|16|32|64)_t\b", r"<(?:cstdint|stdint\.h)>"),
    "<functional>": (words(r"\bstd::", "bind function hash invoke"), r"<functional>"),
    "<map>": (words(r"\bstd::", "map multimap"), r"<map>"),
    "<memory>": (
        words(r"\bstd::", "enable_shared_from_this make_shared make_unique shared_ptr unique_ptr "
              "weak_ptr"),
        r"<memory>",
    ),
    "<optional>": (words(r"\bstd::", "make_optional nullopt optional"), r"<optional>"),
    "<random>": (r"\bstd::(?:mt19937|\w+_distribution\b|random_device\b)", r"<random>"),
    "<string>": (words(r"\bstd::", "getline string to_string u32string u8string"), r"<string>"),
    "<thread>": (words(r"\bstd::", "this_thread thread"), r"<thread>"),
    # Whatever owns or contains something moves it, so these headers bring it in every library.
    "<utility>": (
        words(r"\bstd::", "exchange forward make_pair move pair swap"),
        r"<(?:utility|algorithm|functional|map|memory|optional|string|thread|vector)>",
    ),
    "<vector>": (r"\bstd::vector\b", r"<vector>"),
    "<absl/status/status.h>": (
        r"\babsl::(?:Status(?:Code)?\b|OkStatus\b|\w+Error\(|Is[A-Z]\w+\()",
        r"absl/status/status(?:or)?\.h",
    ),
    "<absl/status/statusor.h>": (r"\babsl::StatusOr\b", r"absl/status/statusor\.h"),
    "<absl/strings/str_cat.h>": (
        words(r"\babsl::", "AlphaNum Dec Hex StrAppend StrCat"), r"absl/strings/str_cat\.h"
    ),
    # Every header of absl/strings takes views.
    "<absl/strings/string_view.h>": (r"\babsl::string_view\b", r"absl/strings/"),
    "<absl/types/span.h>": (
        words(r"\babsl::", "MakeConstSpan MakeSpan Span"), r"absl/types/span\.h"
    ),
    "<gtest/gtest.h>": (
        r"\b(?:TEST(?:_[FP])?|(?:EXPECT|ASSERT)_\w+|ADD_FAILURE|FAIL|GTEST_SKIP|SCOPED_TRACE|"
        r"INSTANTIATE_TEST_SUITE_P)\(|(?<!\w)::testing::(?:Test|TestWithParam|TempDir|UnitTest)\b",
        r"g(?:test/gtest|mock/gmock)\.h",
    ),
    "<gmock/gmock.h>": (
        r"\b(?:EXPECT|ASSERT)_THAT\(|\bMATCHER(?:_P\d?)?\(|" +
        words(r"(?<!\w)::testing::", "AllOf AnyOf Contains Each ElementsAre ElementsAreArray "
              "EndsWith Eq Field HasSubstr IsEmpty MatchesRegex Matcher Matches Not Pair SizeIs "
              "StartsWith UnorderedElementsAre"),
        r"gmock/gmock\.h",
    ),
    "<grpcpp/grpcpp.h>": (r"(?<![\w:])grpc::\w", r"grpcpp/|\.grpc\.pb\.h"),
    "<CLI/CLI.hpp>": (r"\bCLI::\w", r"CLI/CLI\.hpp"),
    "<nlohmann/json.hpp>": (r"\bnlohmann::\w", r"nlohmann/"),
    # Filled from the .proto files: see names_of_wire.
    "<engram/v1/store.grpc.pb.h>": (None, r"engram/v1/store\.grpc\.pb\.h"),
    "<engram/v1/admin.grpc.pb.h>": (None, r"engram/v1/admin\.grpc\.pb\.h"),
    "engram/v1/store.pb.h": (None, r"engram/v1/(?:store|admin)(?:\.grpc)?\.pb\.h"),
    "engram/v1/admin.pb.h": (None, r"engram/v1/admin(?:\.grpc)?\.pb\.h"),
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
PRECOMPILED = re.compile(r"<[\w./]+>")
# A library's class may be declared only: in a header, and where a pointer or a template's argument
# needs no more.
DECLARED = re.compile(r"^(?:class|struct|enum) (\w+)(?: : int)?;", re.MULTILINE)


def names_of_wire(root):
    """The names of the .proto files: precompiled header → pattern."""
    names = {}
    for proto in ("store", "admin"):
        path = root / "proto/engram/v1" / f"{proto}.proto"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for keywords, header in (("message|enum", f"engram/v1/{proto}.pb.h"),
                                 ("service", f"<engram/v1/{proto}.grpc.pb.h>")):
            found = re.findall(rf"^(?:{keywords}) (\w+)", text, re.MULTILINE)
            if found:
                names[header] = words(r"\bv1::", " ".join(found))
    return names


class Includes:
    def __init__(self, root):
        self.root = root
        wire = names_of_wire(root)
        self.rules = []
        for header, (names, providers) in NAMES.items():
            pattern = names or wire.get(header)
            if pattern:
                self.rules.append((header, re.compile(pattern), re.compile(providers)))

    @functools.cache
    def included(self, name):
        """(What this source and our headers in it include, what they declare themselves.)"""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        reached = set()
        declared = set(DECLARED.findall(blanked(text)))
        for quoted, angled in INCLUDE.findall(text):
            reached.add(f"<{angled}>" if angled else f"<{quoted}>")
            # As installed, client.h is engram/client.h.
            for ours in (quoted, re.sub("^engram/", "client/", quoted)):
                if quoted and (self.root / ours).exists():
                    more, other = self.included(ours)
                    reached |= more
                    declared |= other
                    break
        return reached, declared

    def check(self, name):
        text = blanked((self.root / name).read_text(encoding="utf-8"))
        reached, declared = self.included(name)
        problems = []
        for header, names, providers in self.rules:
            if any(providers.search(one) for one in reached):
                continue
            for found in names.finditer(text):
                word = re.compile(r"[\w:]+").match(text, found.start()).group()
                pointed = re.match(r"\s?[>*&]", text[found.start() + len(word):])
                if word.split("::")[-1] in declared and (name.endswith(".h") or pointed):
                    continue
                line = text.count("\n", 0, found.start()) + 1
                problems.append(f"{name}:{line}: names {word} without an include of "
                                f"{header.strip('<>')}")
                break
        return problems


def check_precompiled(root):
    """Every header that cmake/ precompiles has its names above."""
    path = root / "cmake/EngramPrecompiled.cmake"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [f"{path.name}: {header} has no names in tests/unit/arrows/includes.py"
            for header in sorted(set(PRECOMPILED.findall(text)) - NAMES.keys())]


PLANTED_PROTO = "message Row {\n}\nservice Rows {\n}\n"
HELPER = '#include <vector>\n#include "absl/types/span.h"\nclass Channel;\n'
# Source → what is said about it, first name and header; None: nothing.
PLANTED = [
    ("std::vector<int> a;\n", ("std::vector", "vector")),
    ("\nTEST(A, B) {}\n", ("TEST", "gtest/gtest.h")),
    ("#include <gtest/gtest.h>\nusing ::testing::HasSubstr;\n",
     ("::testing::HasSubstr", "gmock/gmock.h")),
    ("grpc::Status a;\n", ("grpc::Status", "grpcpp/grpcpp.h")),
    ("absl::Status a = absl::OkStatus();\n", ("absl::Status", "absl/status/status.h")),
    ("bool b = absl::IsNotFound(a);\n", ("absl::IsNotFound", "absl/status/status.h")),
    ("v1::Row a;\n", ("v1::Row", "engram/v1/store.pb.h")),
    ('#include "engram/v1/store.pb.h"\nv1::Rows::Stub* a;\n',
     ("v1::Rows::Stub", "engram/v1/store.grpc.pb.h")),
    # Declared only, and more is needed.
    ('#include "client/helper.h"\ngrpc::Channel a;\n', ("grpc::Channel", "grpcpp/grpcpp.h")),
    # Through a header of ours; only declared; not named at all.
    ('#include "client/helper.h"\nstd::vector<int> a; absl::Span<int> b;\n', None),
    ('#include "client/helper.h"\nF<grpc::Channel> a; const grpc::Channel& b;\n', None),
    ('#include "engram/helper.h"\nstd::vector<int> a;\n', None),
    ('#include "engram/v1/admin.grpc.pb.h"\nv1::Row a; grpc::Status b;\n', None),
    ('// std::vector\nconst char* a = "std::vector";\nengram::testing::HasSubstr b;\n', None),
]


def self_test(root):
    """Each planted source in the empty folder `root` gives what is said of it, and nothing else."""
    (root / "proto/engram/v1").mkdir(parents=True)
    (root / "proto/engram/v1/store.proto").write_text(PLANTED_PROTO)
    (root / "client").mkdir()
    (root / "client/helper.h").write_text(HELPER)
    for text, said in PLANTED:
        (root / "client/x.cc").write_text(text)
        problems = Includes(root).check("client/x.cc")
        assert len(problems) == (said is not None), (text, problems)
        if said:
            end = "names {} without an include of {}".format(*said)
            assert problems[0].endswith(end), (text, problems)
    (root / "cmake").mkdir()
    (root / "cmake/EngramPrecompiled.cmake").write_text("set(X <vector> <absl/new.h>)\n")
    assert len(check_precompiled(root)) == 1 and "<absl/new.h>" in check_precompiled(root)[0]

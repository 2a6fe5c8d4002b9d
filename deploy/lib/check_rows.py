#!/usr/bin/env python3
"""Compares every row that a client was given with the checkpoint, byte by byte.

    check_rows.py --checkpoint DIR --dump FILE

FILE is what engram_quickstart_client wrote: records of layer (int32), row bytes (uint32), rows n
(uint32), n row ids (uint32), n tiers (uint8: 0 hbm, 1 dram, 2 nvme, 255 none) and n rows, all
little-endian. Fails, naming layer, row and byte, at the first difference; fails too unless every
row of every layer was seen, and both DRAM and NVMe served some.
"""

import argparse
import array
import mmap
import struct
import sys

from checkpoint_rows import read_layers

RECORD = struct.Struct("<iII")
TIERS = {0: "hbm", 1: "dram", 2: "nvme"}


def records(path):
    """Yields (layer, row_bytes, ids, tiers, rows) of each record."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    at = 0
    while at < len(data):
        if at + RECORD.size > len(data):
            raise ValueError(f"{path} ends inside a record at byte {at}")
        layer, row_bytes, count = RECORD.unpack_from(data, at)
        ids_at = at + RECORD.size
        tiers_at = ids_at + 4 * count
        rows_at = tiers_at + count
        end = rows_at + row_bytes * count
        if end > len(data):
            raise ValueError(f"{path} ends inside a record at byte {at}")
        ids = array.array("I")
        ids.frombytes(data[ids_at:tiers_at])
        if sys.byteorder == "big":
            ids.byteswap()
        yield layer, row_bytes, ids, data[tiers_at:rows_at], data[rows_at:end]
        at = end


def first_difference(layer, ids, got, want, row_bytes):
    for position, row in enumerate(ids):
        begin = position * row_bytes
        mine, theirs = got[begin:begin + row_bytes], want[begin:begin + row_bytes]
        if mine == theirs:
            continue
        byte = next(i for i in range(row_bytes) if mine[i] != theirs[i])
        return (f"layer {layer}, row {row}, byte {byte}: served {mine[byte]:#04x}, "
                f"the checkpoint has {theirs[byte]:#04x}")
    raise AssertionError("the rows are equal")


def check(checkpoint, dump):
    """Returns (rows compared, rows by tier); raises ValueError, saying what is wrong."""
    layers = read_layers(checkpoint)
    seen = {layer: bytearray(rows.rows) for layer, rows in layers.items()}
    served = dict.fromkeys(TIERS.values(), 0)
    compared = 0
    for layer, row_bytes, ids, tiers, got in records(dump):
        source = layers.get(layer)
        if source is None:
            raise ValueError(f"rows of layer {layer} were served; the checkpoint has no such layer")
        if row_bytes != source.row_bytes:
            raise ValueError(f"layer {layer}: rows of {row_bytes} bytes, not {source.row_bytes}")
        if ids and max(ids) >= source.rows:
            raise ValueError(f"layer {layer}: row {max(ids)} of {source.rows} was served")
        want = source.packed(ids)
        if got != want:
            raise ValueError(first_difference(layer, ids, got, want, row_bytes))
        marks = seen[layer]
        for row in ids:
            marks[row] = 1
        tiers = bytes(tiers)
        for code, tier in TIERS.items():
            served[tier] += tiers.count(code)
        compared += len(ids)
    for layer, marks in seen.items():
        absent = marks.count(0)
        if absent:
            raise ValueError(f"layer {layer}: {absent} rows were never served, the first of them "
                             f"row {marks.index(0)}")
    if sum(served.values()) != compared:
        raise ValueError(f"{compared} rows came back, but the tiers account for {served}")
    for tier in ("dram", "nvme"):
        if served[tier] == 0:
            raise ValueError(f"no row came from {tier}: {served}")
    return compared, served


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dump", required=True)
    args = parser.parse_args()
    try:
        compared, served = check(args.checkpoint, args.dump)
    except (OSError, ValueError) as error:
        print(f"check_rows: {error}", file=sys.stderr)
        return 1
    tiers = ", ".join(f"{tier} {rows}" for tier, rows in served.items())
    print(f"{compared} rows are the checkpoint's, byte for byte, and every row was seen ({tiers})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Flips one bit of one row in a checkpoint, to prove that a check would notice.

    flip_byte.py CHECKPOINT_DIR [--seed N]

Prints the place as `layer L, row R, byte B`, as check_rows.py names it.
"""

import argparse
import random

from checkpoint_rows import read_layers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chooser = random.Random(args.seed)
    layers = read_layers(args.checkpoint)
    layer = layers[chooser.choice(sorted(layers))]
    row, byte = chooser.randrange(layer.rows), chooser.randrange(layer.row_bytes)
    # A row is the weight's bytes, then the scale's.
    tensor, column = layer.weight, byte
    if byte >= tensor.row_bytes:
        tensor, column = layer.scale, byte - tensor.row_bytes
    place = tensor.begin + row * tensor.row_bytes + column
    with open(tensor.path, "r+b") as file:
        file.seek(place)
        old = file.read(1)[0]
        file.seek(place)
        file.write(bytes((old ^ (1 << chooser.randrange(8)),)))
    print(f"layer {layer.layer}, row {row}, byte {byte}")


if __name__ == "__main__":
    main()

"""Reads the rows of a DeepSeek-V4.1 checkpoint straight from its safetensors files.

Shares nothing with the daemon: the format is parsed here once more, with json, struct and mmap,
so that a mistake in one of the two readers cannot hide in the other.
"""

import json
import mmap
import os
import re
import struct


class Tensor:
    """One tensor's bytes, mapped; `begin` is its offset in the file."""

    def __init__(self, path, view, begin, meta):
        self.path = path
        self.view = view
        self.begin = begin
        self.dtype = meta["dtype"]
        self.shape = meta["shape"]

    @property
    def row_bytes(self):
        return len(self.view) // self.shape[0]


def read_tensors(directory):
    """Every tensor of every .safetensors file, by name."""
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".safetensors"):
            continue
        path = os.path.join(directory, name)
        with open(path, "rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        (header_bytes,) = struct.unpack_from("<Q", mapped)
        header = json.loads(bytes(mapped[8:8 + header_bytes]))
        for tensor, meta in header.items():
            if tensor == "__metadata__":
                continue
            begin, end = (8 + header_bytes + offset for offset in meta["data_offsets"])
            tensors[tensor] = Tensor(path, mapped[begin:end], begin, meta)
    return tensors


class LayerRows:
    """The rows of one layer as they are to be served: 256 weight bytes, then 8 scale bytes."""

    def __init__(self, layer, weight, scale):
        if weight.dtype != "F8_E4M3" or scale.dtype != "F8_E8M0":
            raise ValueError(f"layer {layer}: dtypes {weight.dtype}, {scale.dtype}")
        if weight.shape[0] != scale.shape[0]:
            raise ValueError(f"layer {layer}: {weight.shape[0]} rows but {scale.shape[0]} scales")
        self.layer = layer
        self.rows = weight.shape[0]
        self.weight = weight
        self.scale = scale
        self.row_bytes = weight.row_bytes + scale.row_bytes

    def packed(self, ids):
        """The rows of these ids, one after the other."""
        w, s = self.weight.view, self.scale.view
        wide, narrow = self.weight.row_bytes, self.scale.row_bytes
        parts = []
        for row in ids:
            parts.append(w[row * wide:row * wide + wide])
            parts.append(s[row * narrow:row * narrow + narrow])
        return b"".join(parts)

    def row(self, row):
        return self.packed((row,))


def read_layers(directory):
    """{layer id: LayerRows} of a checkpoint directory."""
    tensors = read_tensors(directory)
    layers = {}
    for name, weight in tensors.items():
        match = re.fullmatch(r"layers\.(\d+)\.engram\.embed\.weight", name)
        if match:
            layer = int(match.group(1))
            layers[layer] = LayerRows(layer, weight, tensors[name[:-len("weight")] + "scale"])
    return layers

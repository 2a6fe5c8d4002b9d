#!/usr/bin/env python3
"""Writes a small checkpoint in the layout of DeepSeek-V4.1-Flash, for trying out and for tests.

Real tensor names, dtypes, config keys and column sizes (primes), computed here independently of
the daemon; only the base size is smaller. Row bytes come from a seeded generator. Tensors that are
no rows lie beside them, as in the real one. Needs nothing but the standard library.

Prints one JSON object: what a client should find when it has been loaded.
"""

import argparse
import json
import os
import random
import struct
import sys

LAYERS = (1, 14)
ORDERS = (2, 3, 4)
HEADS = 8
HEAD_DIM = 256
SCALE_BLOCK = 32
PIECE_BYTES = 1 << 20
DTYPE_BYTES = {"F8_E4M3": 1, "F8_E8M0": 1, "BF16": 2}


def is_prime(value):
    if value < 2:
        return False
    divisor = 2
    while divisor * divisor <= value:
        if value % divisor == 0:
            return False
        divisor += 1
    return True


def layer_rows(base_size):
    """Rows of each layer: the sum of its primes, the next ones from base_size on, none twice."""
    rows, candidate = {}, base_size
    for layer in LAYERS:
        rows[layer] = 0
        for _ in range(len(ORDERS) * HEADS):
            while not is_prime(candidate):
                candidate += 1
            rows[layer] += candidate
            candidate += 1
    return rows


def config(rows, base_size):
    return {
        "architectures": ["DeepseekV41ForCausalLM"],
        "model_type": "deepseek_v41",
        "text_config": {
            "engram_layer_ids": list(LAYERS),
            "engram_num_embeddings": [rows[layer] for layer in LAYERS],
            "engram_max_ngram_size": max(ORDERS),
            "engram_vocab_size": base_size,
            "engram_n_heads": HEADS,
            "engram_head_dim": HEAD_DIM,
            "engram_pad_token_id": 2,
            "engram_compressed_vocab_size": 99092,
        },
    }


def shard_tensors(rows, shards, order, seed):
    """A list of shards, each a list of (tensor name, dtype, shape)."""
    groups = [[("embed.weight", "BF16", [64, 128]), ("layers.0.attn.wq.weight", "BF16", [32, 64])]]
    for layer in LAYERS:
        prefix = f"layers.{layer}.engram."
        groups.append([
            (prefix + "wkv.weight", "F8_E4M3", [64, 96]),
            (prefix + "wkv.scale", "F8_E8M0", [2, 3]),
            # A layer's rows and their scales share a file.
            (prefix + "embed.weight", "F8_E4M3", [rows[layer], HEAD_DIM]),
            (prefix + "embed.scale", "F8_E8M0", [rows[layer], HEAD_DIM // SCALE_BLOCK]),
            (prefix + "q_weight", "BF16", [4, 512]),
            (prefix + "k_weight", "BF16", [4, 512]),
        ])
    shuffler = random.Random(f"{seed}/order")
    if order == "reversed":
        groups = [group[::-1] for group in groups[::-1]]
    elif order == "shuffled":
        shuffler.shuffle(groups)
        for group in groups:
            shuffler.shuffle(group)
    result = [[] for _ in range(shards)]
    for index, group in enumerate(groups):
        result[index % shards].extend(group)
    # More shards than groups: something small to hold in each.
    for index, shard in enumerate(result):
        if not shard:
            shard.append((f"layers.{20 + index}.ffn_norm.weight", "BF16", [128]))
    return result


def write_shard(path, tensors, seed):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in tensors:
        size = DTYPE_BYTES[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, _, _ in tensors:
            begin, end = header[name]["data_offsets"]
            generator = random.Random(f"{seed}/{name}")
            for at in range(begin, end, PIECE_BYTES):
                out.write(generator.randbytes(min(PIECE_BYTES, end - at)))
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="directory; made if it is not there")
    parser.add_argument("--base-size", type=int, default=16000,
                        help="engram_vocab_size; 16000 makes 206 MB (the real one: 16000000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--tensor-order", choices=("model", "reversed", "shuffled"),
                        default="model", help="how tensors lie in the shards")
    args = parser.parse_args()
    if args.base_size < 2 or args.shards < 1:
        parser.error("--base-size is at least 2 and --shards at least 1")

    rows = layer_rows(args.base_size)
    os.makedirs(args.out, exist_ok=True)
    total, weight_map = 0, {}
    shards = shard_tensors(rows, args.shards, args.tensor_order, args.seed)
    for index, tensors in enumerate(shards):
        name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        total += write_shard(os.path.join(args.out, name), tensors, args.seed)
        weight_map.update({tensor: name for tensor, _, _ in tensors})
    with open(os.path.join(args.out, "model.safetensors.index.json"), "w") as out:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, out, indent=1)
    with open(os.path.join(args.out, "config.json"), "w") as out:
        json.dump(config(rows, args.base_size), out, indent=1)
    row_bytes = HEAD_DIM + HEAD_DIM // SCALE_BLOCK
    json.dump({
        "directory": os.path.abspath(args.out),
        "seed": args.seed,
        "row_bytes": row_bytes,
        "bytes": sum(rows.values()) * row_bytes,
        "layers": [{"layer": layer, "rows": rows[layer]} for layer in LAYERS],
    }, sys.stdout)
    print()


if __name__ == "__main__":
    main()

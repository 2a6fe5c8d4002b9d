"""The addressing of the released model families, written from their descriptions alone, with
numpy's own generator and Python's own whole numbers: what engramd's is compared with.

A Model has `layers`: {layer number: Layer}; Layer.rows(tokens, lookback) gives, for each position
past the first `lookback` tokens, the dense row id of every column, or −1 in all columns where the
token is −1 (dead). Tokens are what the model hashes: compressed ids where it has a token map."""

import json
import os

import numpy

INT64_MAX = 2**63 - 1
DEAD = -1


def is_prime(n):
    """By trial division: slow, and nothing to get wrong."""
    if n < 2 or n % 2 == 0:
        return n == 2
    divisor = 3
    while divisor * divisor <= n:
        if n % divisor == 0:
            return False
        divisor += 2
    return True


def next_prime(n):
    while not is_prime(n):
        n += 1
    return n


def numpy_multipliers(seed, vocab, count):
    bound = INT64_MAX // vocab // 2
    values = numpy.random.default_rng(seed).integers(0, bound, size=count, dtype=numpy.int64)
    return [2 * int(v) + 1 for v in values]


def splitmix64(x):
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class Layer:
    """`sizes`: {order: [rows of each head]}."""

    def __init__(self, sizes):
        self.sizes = sizes

    @property
    def column_rows(self):
        return [rows for order in sorted(self.sizes) for rows in self.sizes[order]]

    @property
    def max_order(self):
        return max(self.sizes)

    def seen(self, tokens, position):
        """The tokens of the n-grams that end at `position`, the last one first; None for one that
        they do not see."""
        raise NotImplementedError

    def local(self, seen, order, head):
        raise NotImplementedError

    def rows(self, tokens, lookback=0):
        return [self.position(tokens, position) for position in range(lookback, len(tokens))]

    def position(self, tokens, position):
        if tokens[position] == DEAD:
            return [-1] * len(self.column_rows)
        seen, rows, offset = self.seen(tokens, position), [], 0
        for order in sorted(self.sizes):
            for head, size in enumerate(self.sizes[order]):
                rows.append(self.local(seen[:order], order, head) + offset)
                offset += size
        return rows


class Blocking(Layer):
    """DeepSeek-V4.1: a dead token hides all that is before it. The other families' own code knows
    no dead tokens; they get the same rule, and where they have a boundary it hides alike."""

    boundary = None

    def seen(self, tokens, position):
        found, blocked = [], False
        for back in range(self.max_order):
            if position - back < 0 or tokens[position - back] == DEAD:
                blocked = True
            elif back > 0 and tokens[position - back] == self.boundary:
                blocked = True
            found.append(None if blocked else tokens[position - back])
        return found


class XorLayer(Blocking):
    def __init__(self, sizes, multipliers, pad, boundary=None):
        super().__init__(sizes)
        self.multipliers, self.pad, self.boundary = multipliers, pad, boundary

    def local(self, seen, order, head):
        mixed = 0
        for token, multiplier in zip(seen, self.multipliers):
            mixed ^= (self.pad if token is None else token) * multiplier
        return mixed % self.sizes[order][head]


class PolynomialLayer(Blocking):
    def __init__(self, sizes, vocab, boundary):
        super().__init__(sizes)
        self.vocab, self.boundary = vocab, boundary

    def local(self, seen, order, head):
        size = self.sizes[order][head]
        return sum((token or 0) * pow(self.vocab, distance, size) % size
                   for distance, token in enumerate(seen)) % size


class Model:
    compressed = False  # whether `--compressed` belongs to its token ids

    def __init__(self, config, layers, vocab):
        self.config, self.layers, self.vocab = config, layers, vocab

    def write_config(self, directory):
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as out:
            json.dump(self.config, out)


def deepseek_v41(base=16000000, heads=8, orders=4, compressed_vocab=99092, layer_ids=(1, 14),
                 head_dim=256, pad=2):
    layers, candidate = {}, base
    for layer in layer_ids:
        sizes = {}
        for order in range(2, orders + 1):
            sizes[order] = []
            for _ in range(heads):
                candidate = next_prime(candidate)
                sizes[order].append(candidate)
                candidate += 1
        multipliers = numpy_multipliers(10007 * layer, compressed_vocab, orders)
        layers[layer] = XorLayer(sizes, multipliers, pad)
    config = {"model_type": "deepseek_v41", "text_config": {
        "engram_layer_ids": list(layer_ids), "engram_max_ngram_size": orders,
        "engram_num_embeddings": [sum(layers[layer].column_rows) for layer in layer_ids],
        "engram_vocab_size": base, "engram_n_heads": heads, "engram_head_dim": head_dim,
        "engram_pad_token_id": pad, "engram_compressed_vocab_size": compressed_vocab}}
    model = Model(config, layers, compressed_vocab)
    model.compressed = True
    return model


def engram_demo(sizes=(646400, 646400), heads=8, compressed_vocab=98627, layer_ids=(1, 15), seed=0,
                dim=512, pad=2):
    layers, taken = {}, set()
    for layer in layer_ids:
        columns = {}
        for order, size in enumerate(sizes, start=2):
            columns[order], current = [], size - 1
            for _ in range(heads):
                current = next_prime(current + 1)
                while current in taken:
                    current = next_prime(current + 1)
                taken.add(current)
                columns[order].append(current)
        multipliers = numpy_multipliers(seed + 10007 * layer, compressed_vocab, len(sizes) + 1)
        layers[layer] = XorLayer(columns, multipliers, pad)
    config = {"model_type": "engram_demo", "engram_vocab_size": list(sizes),
              "max_ngram_size": len(sizes) + 1, "n_embed_per_ngram": dim,
              "n_head_per_ngram": heads, "layer_ids": list(layer_ids), "pad_id": pad, "seed": seed,
              "compressed_vocab_size": compressed_vocab}
    model = Model(config, layers, compressed_vocab)
    model.compressed = True
    return model


def qwen4_exp(base=20000000, heads=8, orders=3, vocab=248320, eos=248044, layer_ids=(2,), seed=None,
              dim=2560, divisor=128, parts=128):
    layers, candidate = {}, base
    bound = INT64_MAX // vocab // 2
    for index, layer in enumerate(layer_ids):
        sizes = {}
        for order in range(2, orders + 1):
            sizes[order] = []
            for _ in range(heads):
                candidate = next_prime(candidate)
                sizes[order].append(candidate)
                candidate += 1
        start = (1234 if seed is None else seed) + 10007 * index
        multipliers = [2 * (splitmix64((start + 0x9E3779B97F4A7C15 * (i + 1)) % 2**64) % bound) + 1
                       for i in range(orders)]
        layers[layer] = XorLayer(sizes, multipliers, pad=eos, boundary=eos)
    text = {"model_type": "qwen4_exp_text", "ngram_size": orders, "heads_per_ngram": heads,
            "ple_layer_ids": list(layer_ids), "ple_embed_dim": dim, "ngram_vocab_size_base": base,
            "make_ngram_vocab_size_divisible_by": divisor, "split_ngram_parts": parts,
            "vocab_size": vocab, "eos_token_id": [eos, 3]}
    if seed is not None:
        text["seed"] = seed
    return Model({"model_type": "qwen4_exp", "text_config": text}, layers, vocab)


def longcat_lite(vocab=131072, ratio=78, orders=4, heads=4, eos=2, hidden=3072):
    sizes, index = {}, 0
    for order in range(2, orders + 1):
        sizes[order] = []
        for _ in range(heads):
            sizes[order].append(int(ratio * vocab + 2 * index + 1))
            index += 1
    config = {"model_type": "longcat_flash_ngram", "vocab_size": vocab, "hidden_size": hidden,
              "ngram_vocab_size_ratio": ratio, "emb_neighbor_num": orders, "emb_split_num": heads,
              "eos_token_id": eos}
    return Model(config, {0: PolynomialLayer(sizes, vocab, eos)}, vocab)

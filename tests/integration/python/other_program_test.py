#!/usr/bin/env python3
"""Other programs at both ends: a checkpoint that the `safetensors` package wrote, and rows read
through engramctl, through the C++ client and through gRPC code generated from proto/ by Python.
All of them must give the bytes that went in. Also on the way: load and verify as an operator
calls them."""

import ctypes
import json
import os
import random
import tempfile
import unittest

from safetensors import TensorSpec, serialize_file

import testing
from daemon import Daemon
from store_stubs import store_client

TABLE = "other"
LAYERS = (14, 1)
HEAD_DIM = 256
SCALES = 8
BASE_SIZE = 300
DTYPES = {"float8_e4m3fn": 1, "float8_e8m0fnu": 1, "bfloat16": 2}


def write_with_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}. The package itself orders them in the file."""
    keep, specs = [], {}
    for name, (dtype, shape, data) in tensors.items():
        buffer = ctypes.create_string_buffer(data, len(data))
        keep.append(buffer)
        specs[name] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffer),
                                 data_len=len(data))
    serialize_file(specs, path, {"format": "pt"})


class Checkpoint:
    """A checkpoint whose rows are kept here, so that nothing has to be read back."""

    def __init__(self, directory, seed):
        from make_checkpoint import config, layer_rows
        self.directory = directory
        self.rows = layer_rows(BASE_SIZE)
        self.random = random.Random(seed)
        self.weights, self.scales = {}, {}
        shards = [self.shard_of_nothing(), *(self.shard_of(layer) for layer in LAYERS)]
        weight_map = {}
        for index, tensors in enumerate(shards):
            name = f"part-{index + 1}.safetensors"
            write_with_safetensors(os.path.join(directory, name), tensors)
            weight_map.update(dict.fromkeys(tensors, name))
        self.write_json("model.safetensors.index.json",
                        {"metadata": {}, "weight_map": weight_map})
        self.write_json("config.json", config(self.rows, BASE_SIZE))

    def write_json(self, name, value):
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as out:
            json.dump(value, out)

    def tensor(self, dtype, shape):
        size = DTYPES[dtype]
        for extent in shape:
            size *= extent
        return dtype, shape, self.random.randbytes(size)

    def shard_of_nothing(self):
        return {"embed.weight": self.tensor("bfloat16", [16, 32])}

    def shard_of(self, layer):
        prefix, rows = f"layers.{layer}.engram.", self.rows[layer]
        tensors = {
            prefix + "wkv.weight": self.tensor("float8_e4m3fn", [32, 64]),
            prefix + "q_weight": self.tensor("bfloat16", [4, 64]),
            prefix + "embed.scale": self.tensor("float8_e8m0fnu", [rows, SCALES]),
            prefix + "embed.weight": self.tensor("float8_e4m3fn", [rows, HEAD_DIM]),
        }
        self.weights[layer] = tensors[prefix + "embed.weight"][2]
        self.scales[layer] = tensors[prefix + "embed.scale"][2]
        return tensors

    def row(self, layer, row):
        return (self.weights[layer][row * HEAD_DIM:(row + 1) * HEAD_DIM] +
                self.scales[layer][row * SCALES:(row + 1) * SCALES])


class OtherProgramTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.random = random.Random(testing.SEED)
        directory = tempfile.TemporaryDirectory(prefix="engram-checkpoint.")
        cls.addClassCleanup(directory.cleanup)
        cls.checkpoint = Checkpoint(directory.name, testing.SEED)
        cls.daemon = cls.enterClassContext(Daemon(testing.BIN_DIR))
        cls.daemon.load(TABLE, directory.name)
        cls.client = cls.enterClassContext(store_client(testing.PROTO, cls.daemon.target))

    def ids(self, layer, count=40):
        """The ends, and random ones between, one of them twice."""
        rows = self.checkpoint.rows[layer]
        ids = [0, rows - 1, *(self.random.randrange(rows) for _ in range(count))]
        return ids + [ids[-1]]

    def assert_rows(self, layer, ids, rows):
        self.assertEqual(len(ids), len(rows))
        for row, got in zip(ids, rows):
            self.assertEqual(got.hex(), self.checkpoint.row(layer, row).hex(),
                             f"layer {layer}, row {row}")

    def assert_json_rows(self, layer, ids, document):
        self.assertEqual([row["id"] for row in document["rows"]], ids)
        self.assert_rows(layer, ids, [bytes.fromhex(row["hex"]) for row in document["rows"]])
        for row in document["rows"]:
            self.assertIn(row["tier"], ("dram", "nvme"))

    def test_describe_is_what_the_package_wrote(self):
        answer = self.client.stub.Describe(self.client.pb.DescribeRequest(table=TABLE), timeout=60)
        table = answer.table
        self.assertEqual(table.family, "deepseek-v4.1")
        self.assertTrue(table.active)
        self.assertEqual([(layer.layer, layer.rows, layer.row_bytes) for layer in table.layers],
                         [(layer, self.checkpoint.rows[layer], 264) for layer in sorted(LAYERS)])
        for layer in table.layers:
            self.assertEqual(sum(column.rows for column in layer.columns), layer.rows)

    def test_verify_finds_no_difference(self):
        done = self.daemon.ctl("verify", TABLE, "--checkpoint", self.checkpoint.directory)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_loading_again_does_nothing(self):
        done = self.daemon.ctl("load", TABLE, "--checkpoint", self.checkpoint.directory)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("already loaded", done.stdout + done.stderr)

    def test_engramctl_rows(self):
        for layer in LAYERS:
            ids = self.ids(layer)
            document = self.daemon.ctl_json("rows", TABLE, "--layer", layer, "--ids",
                                            ",".join(map(str, ids)))
            self.assert_json_rows(layer, ids, document)

    def test_cpp_client(self):
        for layer in LAYERS:
            ids = self.ids(layer)
            done = self.daemon.run("engram_quickstart_client", "--server", self.daemon.target,
                                   "--table", TABLE, "--layer", layer, "--ids",
                                   ",".join(map(str, ids)))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assert_json_rows(layer, ids, json.loads(done.stdout))

    def test_every_row_through_python(self):
        for layer in LAYERS:
            ids = list(range(self.checkpoint.rows[layer]))
            self.random.shuffle(ids)
            for begin in range(0, len(ids), 2048):
                part = ids[begin:begin + 2048]
                self.assert_rows(layer, part, self.client.rows(TABLE, layer, part))

    def test_both_layers_in_one_call(self):
        wanted = {layer: self.ids(layer) for layer in LAYERS}
        answer = self.client.lookup(TABLE, wanted, want_tiers=True)
        self.assertEqual([layer.layer for layer in answer.layers], sorted(LAYERS))
        for layer in answer.layers:
            ids, size = wanted[layer.layer], layer.row_bytes
            self.assert_rows(layer.layer, ids,
                             [layer.rows[i * size:(i + 1) * size] for i in range(len(ids))])
            served = layer.served
            self.assertEqual(served.hbm + served.dram + served.nvme, len(ids))
            self.assertEqual(list(layer.tiers).count(2), served.nvme)

    def test_stream_answers_layer_by_layer(self):
        wanted = [{layer: self.ids(layer) for layer in LAYERS} for _ in range(3)]
        requests = [self.client.request(TABLE, layers, request_id=100 + index)
                    for index, layers in enumerate(wanted)]
        answers = list(self.client.stub.StreamLookup(iter(requests), timeout=60))
        self.assertEqual(
            [(answer.request_id, answer.layer.layer, answer.last) for answer in answers],
            [(100 + i, layer, layer == max(LAYERS)) for i in range(3) for layer in sorted(LAYERS)])
        for answer in answers:
            self.assertEqual(answer.code, 0, answer.message)
            ids, size = wanted[answer.request_id - 100][answer.layer.layer], answer.layer.row_bytes
            self.assert_rows(answer.layer.layer, ids,
                             [answer.layer.rows[i * size:(i + 1) * size] for i in range(len(ids))])


if __name__ == "__main__":
    testing.main()

#!/usr/bin/env python3
"""What a caller does wrong, and what the daemon says: the contract's status code, a text that
names the value, and rows served as before to the next caller."""

import random
import socket
import tempfile
import unittest

import grpc
import h2.config
import h2.connection
import h2.events

import testing
from checkpoint_rows import read_layers
from daemon import Daemon
from store_stubs import pack_ids, store_client

TABLE = "errors"
MAX_REQUEST_BYTES = 64 << 20
Code = grpc.StatusCode


def send(wire, connection):
    """False if the daemon has closed the connection: what it said before is still to be read."""
    try:
        wire.sendall(connection.data_to_send())
    except ConnectionError:
        return False
    return True


def send_large_message(address, size):
    """Calls Lookup with one message of `size` bytes, without ever having them in memory: zeros are
    sent, frame by frame, as long as the daemon lets them in and has not answered.

    Returns (grpc-status, grpc-message, bytes sent); the first two are None if stream or connection
    ended without them.
    """
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    with socket.create_connection(address, timeout=60) as wire:
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, [
            (":method", "POST"), (":scheme", "http"), (":authority", "localhost"),
            (":path", "/engram.v1.EngramStore/Lookup"), ("te", "trailers"),
            ("content-type", "application/grpc")])
        connection.send_data(stream, b"\0" + size.to_bytes(4, "big"))
        wire.sendall(connection.data_to_send())
        sent, headers, zeros = 0, {}, bytes(connection.max_outbound_frame_size)
        while True:
            try:
                piece = wire.recv(1 << 16)
            except ConnectionError:
                piece = b""
            if not piece:
                return None, f"connection closed after {sent} bytes", sent
            for event in connection.receive_data(piece):
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    headers.update(event.headers)
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset,
                                      h2.events.ConnectionTerminated)):
                    return headers.get("grpc-status"), headers.get("grpc-message", event), sent
            while sent < size:
                room = min(connection.local_flow_control_window(stream), len(zeros), size - sent)
                if room <= 0:
                    break
                connection.send_data(stream, zeros[:room])
                if not send(wire, connection):
                    break
                sent += room
            send(wire, connection)


class ErrorsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.random = random.Random(testing.SEED)
        directory = tempfile.TemporaryDirectory(prefix="engram-checkpoint.")
        cls.addClassCleanup(directory.cleanup)
        testing.make_checkpoint(directory.name, 300)
        cls.layers = read_layers(directory.name)
        cls.daemon = cls.enterClassContext(Daemon(testing.BIN_DIR, tcp=True))
        cls.daemon.load(TABLE, directory.name)
        cls.client = cls.enterClassContext(store_client(testing.PROTO, cls.daemon.target))

    def tearDown(self):
        """Whatever a test did: the same process serves the right rows."""
        self.assertTrue(self.daemon.alive(), "engramd died")
        for layer, source in self.layers.items():
            ids = [self.random.randrange(source.rows) for _ in range(16)]
            self.assertEqual(b"".join(self.client.rows(TABLE, layer, ids)), source.packed(ids))

    def assert_fails(self, codes, texts, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        error = caught.exception
        self.assertIn(error.code(), codes, error.details())
        for text in texts:
            self.assertIn(str(text), error.details())

    def test_id_one_past_the_end(self):
        rows = self.layers[14].rows
        for policy in (self.client.pb.ON_ROW_ERROR_FAIL, self.client.pb.ON_ROW_ERROR_ZERO):
            self.assert_fails(
                [Code.INVALID_ARGUMENT], [rows],
                lambda p=policy: self.client.lookup(TABLE, {14: [0, rows]}, on_row_error=p))

    def tokens(self, ids, compressed=True, **fields):
        batch = self.client.pb.TokenBatch(token_ids=pack_ids(ids), compressed=compressed, **fields)
        return lambda: self.client.stub.Lookup(
            self.client.pb.LookupRequest(table=TABLE, tokens=batch), timeout=60)

    def test_wrong_tokens(self):
        invalid = [Code.INVALID_ARGUMENT]
        self.assert_fails(invalid, [99092, "position 1"], self.tokens([0, 99092]))
        self.assert_fails(invalid, [-2], self.tokens([-2]))
        self.assert_fails(invalid, ["add up to 3", "2 token ids"], self.tokens([1, 2], lengths=[3]))
        self.assert_fails(invalid, ["lookback of 3 in 2"], self.tokens([1, 2], lookbacks=[3]))
        self.assert_fails(invalid, ["5000 sequences"], self.tokens([1], lengths=[0] * 5000))
        self.assert_fails(invalid, ["named twice"], self.tokens([1], layers=[1, 1]))
        self.assert_fails([Code.NOT_FOUND], ["no layer 7"], self.tokens([1], layers=[7]))
        self.assert_fails([Code.FAILED_PRECONDITION], ["tokenizer.json"],
                          self.tokens([1], compressed=False))
        # 32 MiB of ids are within the limit of a request, their rows are not within an answer's.
        self.assert_fails([Code.RESOURCE_EXHAUSTED], [8 << 20, "max_answer"],
                          self.tokens([0] * (8 << 20)))

    def test_ids_and_tokens_at_once(self):
        """Generated code sends one of the two; a message by hand may have both."""
        ids = self.client.request(TABLE, {1: [0]}).SerializeToString()
        tokens = self.client.pb.LookupRequest(
            table=TABLE, tokens=self.client.pb.TokenBatch(compressed=True)).SerializeToString()
        for payload in (ids + tokens, tokens + ids):
            for method in ("Lookup", "Prefetch"):
                self.assert_fails([Code.INVALID_ARGUMENT], ["both row ids and tokens"],
                                  lambda m=method, p=payload: self.client.raw(m, p))

    def test_millions_of_empty_layers(self):
        """Two bytes each on the wire; each would be an object of its own."""
        table = b"\x0a" + bytes([len(TABLE)]) + TABLE.encode()
        # One RowIdBatch with all of them (its length, 16 MiB, as a varint), and one each.
        at_once = b"\x1a\x80\x80\x80\x08" + b"\x0a\x00" * (8 << 20)
        in_pieces = b"\x1a\x02\x0a\x00" * (8 << 20)
        for method in ("Lookup", "Prefetch"):
            for ids in (at_once, in_pieces):
                self.assert_fails([Code.INVALID_ARGUMENT], [8 << 20, "entries in `ids.layers`"],
                                  lambda m=method, i=ids: self.client.raw(m, table + i))

    def test_a_refused_request_of_a_stream_is_named(self):
        wide = self.client.request(TABLE, {layer: [] for layer in range(1025)}, request_id=70)
        requests = [self.client.request(TABLE, {1: [3]}, request_id=69), wide,
                    self.client.request(TABLE, {1: [4]}, request_id=71)]
        answers = list(self.client.stub.StreamLookup(iter(requests), timeout=60))
        self.assertEqual([answer.request_id for answer in answers], [69, 70, 71])
        self.assertEqual([answer.code for answer in answers],
                         [0, Code.INVALID_ARGUMENT.value[0], 0])
        self.assertIn("1025 entries", answers[1].message)
        self.assertEqual(answers[2].layer.rows, self.layers[1].row(4))

    def test_a_policy_that_is_not_known(self):
        request = self.client.request(TABLE, {1: [0]}, request_id=5, on_row_error=77)
        self.assert_fails([Code.INVALID_ARGUMENT], ["on_row_error is 77"],
                          lambda: self.client.stub.Lookup(request, timeout=60))
        (answer,) = self.client.stub.StreamLookup(iter([request]), timeout=60)
        self.assertEqual((answer.request_id, answer.code, answer.last),
                         (5, Code.INVALID_ARGUMENT.value[0], True))

    def test_largest_id(self):
        self.assert_fails([Code.INVALID_ARGUMENT], [0xFFFFFFFE],
                          lambda: self.client.lookup(TABLE, {1: [0xFFFFFFFE]}))

    def test_dead_position_is_a_zero_row(self):
        rows = self.client.rows(TABLE, 1, [3, -1, 4])
        self.assertEqual(rows, [self.layers[1].row(3), bytes(264), self.layers[1].row(4)])

    def test_unknown_table_layer_and_version(self):
        self.assert_fails([Code.NOT_FOUND], ["no-such-table"],
                          lambda: self.client.lookup("no-such-table", {1: [0]}))
        self.assert_fails([Code.NOT_FOUND], [99], lambda: self.client.lookup(TABLE, {99: [0]}))
        self.assert_fails([Code.NOT_FOUND], [77],
                          lambda: self.client.lookup(TABLE, {1: [0]}, version=77))

    def test_other_table_than_expected(self):
        self.assert_fails(
            [Code.FAILED_PRECONDITION], ["0123abcd"],
            lambda: self.client.lookup(TABLE, {1: [0]}, expect_table_digest="0123abcd"))

    def test_half_an_id(self):
        request = self.client.request(TABLE, {1: [1, 2]})
        request.ids.layers[0].row_ids = pack_ids([1, 2])[:-1]
        self.assert_fails([Code.INVALID_ARGUMENT], [7],
                          lambda: self.client.stub.Lookup(request, timeout=60))

    def test_answer_over_the_limit(self):
        # 16 MiB of ids ask for 1.03 GiB of rows.
        request = self.client.request(TABLE, {1: []})
        request.ids.layers[0].row_ids = pack_ids([5]) * (4 << 20)
        self.assert_fails([Code.RESOURCE_EXHAUSTED], [(4 << 20) * 264],
                          lambda: self.client.stub.Lookup(request, timeout=60))

    def test_request_over_the_limit(self):
        payload = bytes(MAX_REQUEST_BYTES + 4096)
        self.assert_fails([Code.RESOURCE_EXHAUSTED], [len(payload)],
                          lambda: self.client.raw("Lookup", payload))

    @unittest.skipIf(testing.SANITIZED, "gRPC assembles the message and is not instrumented; with "
                     "a slow allocator below it takes minutes")
    def test_request_of_two_gigabytes(self):
        size = 2 << 30
        status, message, sent = send_large_message(self.daemon.tcp, size)
        print(f"{sent} of {size} bytes were let in", flush=True)
        self.assertEqual(status, str(Code.RESOURCE_EXHAUSTED.value[0]), message)
        self.assertIn(str(size), message)

    def test_garbage(self):
        for payload in (b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", self.random.randbytes(4096)):
            self.assert_fails([Code.INTERNAL, Code.INVALID_ARGUMENT], [],
                              lambda p=payload: self.client.raw("Lookup", p))

    def test_stream_goes_on_after_a_failed_request(self):
        rows = self.layers[1].rows
        requests = [self.client.request(TABLE, {1: [rows]}, request_id=1),
                    self.client.request(TABLE, {1: [2]}, request_id=2)]
        bad, good = self.client.stub.StreamLookup(iter(requests), timeout=60)
        self.assertEqual((bad.request_id, bad.code, bad.last),
                         (1, Code.INVALID_ARGUMENT.value[0], True))
        self.assertIn(str(rows), bad.message)
        self.assertEqual((good.request_id, good.code, good.last), (2, 0, True))
        self.assertEqual(good.layer.rows, self.layers[1].row(2))

    def test_admin_is_not_served_on_tcp(self):
        host, port = self.daemon.tcp
        done = self.daemon.run("engramctl", "--server", f"{host}:{port}", "drop", TABLE, "--all")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertNotEqual(done.stderr, "")

    def test_engramctl_exit_codes(self):
        for arguments, code, text in (
                (("rows", "no-such-table", "--layer", 1, "--ids", 0), 1, "no-such-table"),
                (("rows", TABLE, "--layer", 1, "--ids", self.layers[1].rows), 1,
                 self.layers[1].rows),
                (("load", "t", "--checkpoint", "/no/such/checkpoint"), 1, "/no/such/checkpoint"),
                (("describe", "no-such-table"), 1, "no-such-table"),
                (("no-such-command",), 2, ""),
                (("rows", TABLE), 2, "")):
            done = self.daemon.ctl(*arguments)
            self.assertEqual(done.returncode, code, (arguments, done.stdout, done.stderr))
            self.assertIn(str(text), done.stderr)
            self.assertNotEqual(done.stderr, "")


if __name__ == "__main__":
    testing.main()

"""A gRPC client as another project would make it: code generated from proto/ at test time."""

import contextlib
import importlib
import os
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

DEADLINE_SECONDS = 60
# The daemon's default limit of an answer; gRPC's own is 4 MiB.
MAX_ANSWER_BYTES = 512 << 20


def generate(proto_dir, out_dir):
    """Generates and imports engram.v1; returns the modules (store_pb2, store_pb2_grpc)."""
    bundled = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    code = protoc.main([
        "protoc", f"-I{proto_dir}", f"-I{bundled}",
        f"--python_out={out_dir}", f"--grpc_python_out={out_dir}",
        os.path.join(proto_dir, "engram/v1/store.proto")])
    if code != 0:
        raise AssertionError(f"protoc failed with {code}")
    sys.path.insert(0, out_dir)
    return (importlib.import_module("engram.v1.store_pb2"),
            importlib.import_module("engram.v1.store_pb2_grpc"))


class StoreClient:
    """`pb` are the messages, `stub` the service, `raw` sends bytes as they are."""

    def __init__(self, channel, pb, pb_grpc):
        self.channel = channel
        self.pb = pb
        self.stub = pb_grpc.EngramStoreStub(channel)

    def raw(self, method, payload):
        call = self.channel.unary_unary(f"/engram.v1.EngramStore/{method}",
                                        request_serializer=lambda data: data,
                                        response_deserializer=lambda data: data)
        return call(payload, timeout=DEADLINE_SECONDS)

    def request(self, table, layers, **fields):
        """`layers`: {layer: [row ids]}; −1 is a dead position."""
        return self.pb.LookupRequest(table=table, ids=self.pb.RowIdBatch(layers=[
            self.pb.LayerRowIds(layer=layer, row_ids=pack_ids(ids))
            for layer, ids in layers.items()]), **fields)

    def lookup(self, table, layers, **fields):
        return self.stub.Lookup(self.request(table, layers, **fields), timeout=DEADLINE_SECONDS)

    def rows(self, table, layer, ids):
        """A list of rows, one an id."""
        (answer,) = self.lookup(table, {layer: ids}).layers
        size = answer.row_bytes
        if len(answer.rows) != size * len(ids):
            raise AssertionError(f"{len(ids)} rows of {size} bytes in {len(answer.rows)} bytes")
        return [answer.rows[i * size:(i + 1) * size] for i in range(len(ids))]


def pack_ids(ids):
    return b"".join((row & 0xFFFFFFFF).to_bytes(4, "little") for row in ids)


@contextlib.contextmanager
def store_client(proto_dir, target):
    with tempfile.TemporaryDirectory(prefix="engram-stubs.") as out_dir:
        pb, pb_grpc = generate(proto_dir, out_dir)
        options = [("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
                   ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(target, options=options) as channel:
            grpc.channel_ready_future(channel).result(timeout=DEADLINE_SECONDS)
            yield StoreClient(channel, pb, pb_grpc)

#!/usr/bin/env python3
"""Looks up rows of one layer:

  lookup.py [--server ADDR] [--tokens [--compressed]] TABLE LAYER ID…

With --tokens the numbers are token ids, with --compressed compressed ones: the daemon
hashes them, and each gives the rows of all columns. A complete client: generated code, the
handshake, one look-up, the rows. Needs grpcio and grpcio-tools."""

import argparse
import array
import os
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
DEAD_POSITION = 0xFFFFFFFF  # -1: a row of zeros
MAX_ANSWER_BYTES = 512 << 20  # the daemon's own default


def generate(directory):
    """Generates the messages and the stub, and imports them."""
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={directory}",
                    f"--grpc_python_out={directory}", "engram/v1/store.proto"]) != 0:
        sys.exit(f"lookup.py: cannot generate code from {PROTO}")
    sys.path.insert(0, directory)
    from engram.v1 import store_pb2, store_pb2_grpc
    return store_pb2, store_pb2_grpc


def pack(ids):
    """Ids as the wire wants them: little-endian, 4 bytes each."""
    packed = array.array("I", [i & DEAD_POSITION for i in ids])
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def lookup(channel, table, layer, ids, by_tokens=False, compressed=False):
    """The rows of `ids`, in their order; of token ids, one for each of the layer's columns."""
    with tempfile.TemporaryDirectory() as directory:
        pb, pb_grpc = generate(directory)
    store = pb_grpc.EngramStoreStub(channel)
    # The handshake: a real worker compares layers, rows and row bytes with its model here.
    info = store.Describe(pb.DescribeRequest(table=table), timeout=10).table
    request = pb.LookupRequest(table=table, expect_table_digest=info.table_digest)
    if by_tokens:
        request.tokens.token_ids = pack(ids)
        request.tokens.layers.append(layer)
        request.tokens.compressed = compressed
    else:
        request.ids.layers.add(layer=layer, row_ids=pack(ids))
    (rows,) = store.Lookup(request, timeout=60).layers
    return [rows.rows[begin:begin + rows.row_bytes]
            for begin in range(0, len(rows.rows), rows.row_bytes)]


def id_number(text):
    value = int(text)
    if not -1 <= value < DEAD_POSITION:
        raise argparse.ArgumentTypeError(f"{text} is not an id (0 to 4294967294, or -1)")
    return value


def main():
    parser = argparse.ArgumentParser(description="Looks up rows of one layer.")
    parser.add_argument("--server", default=os.environ.get("ENGRAM_SERVER") or
                        "unix:/run/engramd/engramd.sock", help="unix:/path or host:port")
    parser.add_argument("table")
    parser.add_argument("layer", type=int, help="the model config's own number")
    parser.add_argument("ids", type=id_number, nargs="+", metavar="ID", help="-1 gives zeros")
    parser.add_argument("--tokens", action="store_true", help="the ids are token ids")
    parser.add_argument("--compressed", action="store_true", help="compressed ones already")
    args = parser.parse_args()
    if args.compressed and not args.tokens:
        parser.error("--compressed is about token ids: give --tokens too")
    options = [("grpc.max_receive_message_length", MAX_ANSWER_BYTES)]
    try:
        with grpc.insecure_channel(args.server, options=options) as channel:
            rows = lookup(channel, args.table, args.layer, args.ids, args.tokens, args.compressed)
    except grpc.RpcError as error:
        sys.exit(f"lookup.py: {error.code().name}: {error.details()}")
    rows_each = len(rows) // len(args.ids)
    for index, row in enumerate(rows):
        print(args.ids[index // rows_each], row.hex())


if __name__ == "__main__":
    main()

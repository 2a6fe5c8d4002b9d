#!/usr/bin/env python3
"""Health as a stock client of grpc.health.v1 sees it: one question, and watching, until the daemon
ends."""

import threading
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import testing
from daemon import Daemon

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
KNOWN = ("", "engram.v1.EngramStore", "engram.v1.EngramAdmin")
SECONDS = 60


def request(service):
    return health_pb2.HealthCheckRequest(service=service)


class HealthTest(unittest.TestCase):
    def setUp(self):
        self.daemon = self.enterContext(Daemon(testing.BIN_DIR))
        channel = self.enterContext(grpc.insecure_channel(self.daemon.target))
        self.health = health_pb2_grpc.HealthStub(channel)

    def check(self, service):
        return self.health.Check(request(service), timeout=SECONDS).status

    def test_what_is_there_is_serving(self):
        for service in KNOWN:
            self.assertEqual(self.check(service), SERVING, service)

    def test_an_unknown_service_is_not_found(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.check("engram.v1.Other")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertIn("engram.v1.Other", caught.exception.details())

    def test_garbage_is_refused(self):
        with grpc.insecure_channel(self.daemon.target) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            for call in (lambda: check(b"\x0a\xff", timeout=SECONDS),
                         lambda: list(watch(b"\x0a\xff", timeout=SECONDS))):
                with self.assertRaises(grpc.RpcError) as caught:
                    call()
                self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(self.check(""), SERVING)

    def test_watchers_are_told_until_the_end(self):
        told = {}

        def watch(index):
            service = KNOWN[index % len(KNOWN)]
            statuses = []
            told[index] = (statuses, None)
            try:
                for answer in self.health.Watch(request(service), timeout=SECONDS):
                    statuses.append(answer.status)
                    began.release()
            except grpc.RpcError as error:
                told[index] = (statuses, error.code())

        began = threading.Semaphore(0)
        threads = [threading.Thread(target=watch, args=(i,)) for i in range(30)]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.assertTrue(began.acquire(timeout=SECONDS))
        # Others come and go meanwhile.
        for i in range(100):
            passing = self.health.Watch(request(""), timeout=SECONDS)
            if i % 2 == 0:
                self.assertEqual(next(passing).status, SERVING)
            passing.cancel()
        unknown = self.health.Watch(request("engram.v1.Other"), timeout=SECONDS)
        self.assertEqual(next(unknown).status, SERVICE_UNKNOWN)
        self.assertEqual(self.check(""), SERVING)
        self.assertEqual(self.daemon.stop(), 0)
        for thread in threads:
            thread.join(SECONDS)
        for statuses, code in told.values():
            self.assertEqual(statuses, [SERVING, NOT_SERVING])
            self.assertEqual(code, grpc.StatusCode.UNAVAILABLE)
        with self.assertRaises(grpc.RpcError) as caught:
            next(unknown)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)


if __name__ == "__main__":
    testing.main()

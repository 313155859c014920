"""The files of an adapter's folder, replaced together: all of them or none, and nothing else.

    1. The new files are written into ``.saving-<random>`` beside their place and reach the disk.
    2. One renaming makes them count. A new folder gets its name by it; in a folder that exists
       they become ``.saved``, and `find` looks there first.
    3. Each file of ``.saved`` is renamed to its own place in the folder.

A process that dies before step 2 leaves the old adapter, and after it the new one; the next save
finishes step 3. Only another tool that reads the folder in the middle of step 3 can see files of
both. No link is followed: a renaming replaces the link.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CONFIG, ORIGIN = "adapter_config.json", "origin.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there is read
_SAVED, _SAVING = ".saved", ".saving-"
_ABANDONED = 3600.0  # seconds; a save takes less


def find(folder: Path, *names: str) -> Path | None:
    """The file of the first of these names that is there."""
    places = (folder / _SAVED, folder)
    files = (place / name for place in places for name in names)
    return next((file for file in files if file.is_file()), None)


def versions(folder: Path) -> tuple[tuple[Path, int, int] | None, ...]:
    """What is another after each step of a save: the places of the files and what they hold."""

    def version(*names: str) -> tuple[Path, int, int] | None:
        with suppress(FileNotFoundError):
            if (file := find(folder, *names)) is not None:
                status = file.stat()
                return file, status.st_ino, status.st_mtime_ns
        return None

    return version(CONFIG), version(ORIGIN), version(*WEIGHTS)


def replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of an adapter, by their names. Everything else in the folder stays.

    Raises ValueError for a place that is no folder, and OSError with the file's name where the disk
    refuses; the folder is then as before.
    """
    _check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder if folder.is_dir() else folder.parent
    _remove_abandoned(parent)
    saving = parent / f"{_SAVING}{secrets.token_hex(8)}"
    saving.mkdir()
    try:
        for name, content in contents.items():
            _write(saving / name, content)
        _flush(saving)
        _make_count(saving, folder)
    finally:
        shutil.rmtree(saving, ignore_errors=True)
    _finish(folder)
    _flush(folder.parent)


def _check_place(folder: Path) -> None:
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link to {os.readlink(folder)}: name the folder itself")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is there and is no folder: choose another name")
    for name in (CONFIG, ORIGIN, *WEIGHTS):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a folder where a file belongs: move it away")


def _make_count(saving: Path, folder: Path) -> None:
    while True:
        _finish(folder)  # what a process that died left, or another process is at
        try:
            os.rename(saving, folder / _SAVED if folder.is_dir() else folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _finish(folder: Path) -> None:
    """Move the files of ``.saved`` to their places. Two processes may do so at once."""
    saved = folder / _SAVED
    while saved.is_dir() and not saved.is_symlink():
        there = [name for name in (*WEIGHTS, ORIGIN, CONFIG) if (saved / name).exists()]
        if any(name in WEIGHTS for name in there):
            for name in set(WEIGHTS) - set(there):
                (folder / name).unlink(missing_ok=True)
        for name in there:
            with suppress(FileNotFoundError):  # the other process was faster
                os.replace(saved / name, folder / name)
        try:
            saved.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # another process has put its files there, or a stranger other things
            with suppress(FileNotFoundError):
                if set(os.listdir(saved)) - {*WEIGHTS, ORIGIN, CONFIG}:
                    raise


def _remove_abandoned(parent: Path) -> None:
    """What processes left that died while they wrote."""
    for left in parent.glob(f"{_SAVING}{'[0-9a-f]' * 16}"):
        with suppress(FileNotFoundError):  # another process ends its save now
            if time.time() - left.lstat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from None


def _flush(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Names that people give: files of a run stay in their folder, and a slip finds what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

LONGEST = 100  # characters; a file's name has 255 bytes, and temporary files add to it


def inside(folder: Path, name: str, option: str) -> Path:
    """The place of a new file or folder that a person names, right inside ``folder``.

    Raises ValueError for a name that leads elsewhere, is hidden, cannot be printed, or exists."""
    words = name.split(" ")
    if (
        not name.isprintable()
        or any(mark in name for mark in "/\\:")
        or name[:1] in (".", "-")
        or "" in words  # no name, a blank at an end, or two of them
        or len(name.encode(errors="replace")) > LONGEST
    ):
        raise ValueError(
            f"{option} {name!r}: the plain name of a new folder in {folder}, without slashes and "
            f"with at most {LONGEST} bytes"
        )
    target = folder / name
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target} exists: choose another {option}")
    return target


def plain_file(path: Path, option: str) -> Path:
    """A file that may be written or replaced. Raises ValueError for what is no file: a folder, a
    device, a link, which would be replaced and not followed."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no plain file"
        raise ValueError(f"{option} {path} is {what}: name a plain file, or a new one")
    return path


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """ "no preset 'quik', did you mean 'quick': choose from quick, laptop, full"."""
    names = list(known)
    return f"no {what} {name!r}{did_you_mean(name, names)}: choose from {listing(names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'quick'" where a known name is close to this one, else nothing."""
    close = difflib.get_close_matches(name[:LONGEST], list(known), 1)
    return f", did you mean {close[0]!r}" if close else ""


def listing(names: Iterable[str], most: int = 12) -> str:
    """Names with commas, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(shown[:most]) + more) or "nothing, for there are none"

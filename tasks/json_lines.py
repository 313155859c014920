"""Files of JSON lines that people bring. Every fault is a ValueError of one line that names the
file, the line, the field, its value, and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KINDS = {int: "a whole number", str: "a text", list: "a list"}
SOURCE, REMEDY = "a file of your copy of GSM-Symbolic", "fetch the file again"


def read_rows(
    path: str | Path,
    fields: Mapping[str, type],
    empty: tuple[str, ...] = (),
    source: str = SOURCE,
    remedy: str = REMEDY,
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each line's number, its place in words, and its JSON object with these fields; blank lines
    are skipped. Texts are not blank, but those of the fields in ``empty`` may be. ``source`` and
    ``remedy`` stand in errors: which file is wanted, and what helps where it is damaged.

    Raises ValueError for a file that cannot be read and a line that is not as described."""
    # Strings of JSON may hold other line separators, at which splitlines would split too.
    for n, line in enumerate(read_text(path, source, remedy).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {n}"
            yield n, where, read_object(line, fields, where, empty, remedy)


def read_text(path: str | Path, source: str = SOURCE, remedy: str = REMEDY) -> str:
    """A whole text; a mark of its byte order, as some programs write it, is left out."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): name {source}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text (byte {error.start}), perhaps a packed file: {remedy}"
        ) from None


def read_object(
    text: str,
    fields: Mapping[str, type],
    where: str,
    empty: tuple[str, ...] = (),
    remedy: str = REMEDY,
) -> dict[str, Any]:
    """One JSON object with these fields, of these types."""
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        # Only errors of JSON's grammar have a msg: a number of thousands of digits has none.
        reason = getattr(error, "msg", "nested too deeply, too long a number, or a field twice")
        raise ValueError(f"{where} is no JSON ({reason}): {text[:40]!r}; {remedy}") from None
    return check_object(row, fields, where, empty, remedy)


def check_object(
    row: Any,
    fields: Mapping[str, type],
    where: str,
    empty: tuple[str, ...] = (),
    remedy: str = REMEDY,
) -> dict[str, Any]:
    """A value of JSON that is an object with these fields, of these types."""
    if not isinstance(row, dict):
        text = json.dumps(row)[:40]
        raise ValueError(f"{where} is {text!r}: it must be an object with {', '.join(fields)}")
    for name, kind in fields.items():
        if name not in row:
            raise ValueError(
                f"{where} has no field {name!r}, only {', '.join(row)[:100] or 'none'}: {remedy}"
            )
        if type(row[name]) is not kind:
            raise ValueError(f"{where}: {name} = {str(row[name])[:40]!r}: must be {KINDS[kind]}")
        if kind is int and not 0 <= row[name] < 10**12:
            raise ValueError(f"{where}: {name} = {str(row[name])[:40]}: must be from 0 to 10^12")
        if kind is str and name not in empty and not row[name].strip():
            raise ValueError(f"{where}: {name} is empty: it must be {KINDS[kind]}")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a field stands twice, for nobody knows which one
    counts."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a field stands twice")
    return found

"""Rows of counts, one for each cell and form, and how rules and tables ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recycle.plan import Key
from recycle.run.schema import check

# Numbers that a cell may measure besides its counts of answers.
VALUES = (
    "log p right",
    "log p others",
    "right above others",
    "cosine",
    "input overlap",
    "output overlap",
)
_KNOWN, _RIGHT_OF_KNOWN = "components known", "right of known"
ITEMS = "items"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of an outcome, by its index: base 36


@dataclass(frozen=True)
class Row:
    """What was counted about one cell's answers to one form of question.

    ``outcomes`` count each answer once; ``notes`` count further properties of answers; ``values``
    are measured numbers by the names in VALUES. ``known`` is the number of questions whose
    components were all answered right, ``right_of_known`` the right answers among those.

    ``items`` has one character a question, in the order of the world's questions: the index of the
    outcome in the world's ``outcomes`` as one base-36 digit, so "0" is right. It is empty in rows
    that were made before it was kept."""

    key: Key
    form: str
    n: int
    outcomes: Mapping[str, int]
    notes: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    known: int | None = None
    right_of_known: int | None = None
    items: str = ""

    @property
    def right(self) -> int:
        return self.outcomes["right"]

    def count(self, name: str) -> int:
        """Answers with an outcome or a note of that name."""
        return self.outcomes[name] if name in self.outcomes else self.notes[name]

    def to_json(self) -> dict[str, Any]:
        """One flat record, as metrics.jsonl has it."""
        known = {} if self.known is None else {_KNOWN: self.known}
        right = {} if self.right_of_known is None else {_RIGHT_OF_KNOWN: self.right_of_known}
        counts = {**self.outcomes, **self.notes, **self.values, **known, **right}
        items = {ITEMS: self.items} if self.items else {}
        return {**self.key._asdict(), "form": self.form, "n": self.n, **counts, **items}


def itemised(answered: Iterable[str], outcomes: Sequence[str]) -> str:
    """The outcomes of answers, question by question, as ``Row.items`` has them."""
    digit = dict(zip(outcomes, DIGITS, strict=False))
    return "".join(digit[outcome] for outcome in answered)


def parse_row(record: Mapping[str, Any], outcomes: Sequence[str], notes: Sequence[str]) -> Row:
    """A row from its flat record. Raises ValueError for a record that is none, that has a column
    that this version does not know, or whose counts contradict each other or its items."""
    counts = dict.fromkeys(("n", *outcomes), int)
    maybe = dict.fromkeys((*notes, _KNOWN, _RIGHT_OF_KNOWN), int) | dict.fromkeys(VALUES, float)
    names = dict.fromkeys((*Key._fields, "form", ITEMS), str) | {"seed": int}
    known = {**names, **counts, **maybe}
    if unknown := [name for name in record if name not in known]:
        shown = f"{unknown[0]!r:.60}"
        raise ValueError(f"a row has the unknown column {shown}: another version made it")
    missing = [name for name in (*Key._fields, "form", *counts) if name not in record]
    if missing:
        raise ValueError(f"a row lacks the column {missing[0]!r}: it is damaged")
    check(record, {name: known[name] for name in record}, "a row", "it is damaged")
    _check_counts(record, outcomes, notes)
    if record.get(ITEMS, "") != "":
        _check_items(record[ITEMS], record, outcomes)
    return Row(
        Key(*(record[name] for name in Key._fields)),
        record["form"],
        record["n"],
        {name: record[name] for name in outcomes},
        {name: record[name] for name in notes if name in record},
        {name: record[name] for name in VALUES if name in record},
        record.get(_KNOWN),
        record.get(_RIGHT_OF_KNOWN),
        record.get(ITEMS, ""),
    )


def _check_counts(record: Mapping[str, Any], outcomes: Sequence[str], notes: Sequence[str]) -> None:
    """Raises ValueError where counts are none of n answers."""
    n, known = record["n"], record.get(_KNOWN, 0)
    counted = [record[name] for name in outcomes]
    if n < 1 or min(counted) < 0 or sum(counted) != n:
        raise ValueError(f"a row of n = {n} counts {sum(counted)} answers: it is damaged")
    within = {name: n for name in (*notes, _KNOWN)} | {_RIGHT_OF_KNOWN: min(known, record["right"])}
    for name, most in within.items():
        if not 0 <= record.get(name, 0) <= most:
            raise ValueError(f"a row has {record[name]} of {name!r}, at most {most}: it is damaged")


def _check_items(items: str, record: Mapping[str, Any], outcomes: Sequence[str]) -> None:
    """Raises ValueError where items are not one digit a question, or count otherwise than the
    row."""
    n = record["n"]
    if len(items) != n:
        raise ValueError(f"a row of n = {n} has items of {len(items)} questions: it is damaged")
    digits = DIGITS[: len(outcomes)]
    if unknown := set(items) - set(digits):
        raise ValueError(
            f"a row has the item {min(unknown)!r}: its {len(outcomes)} outcomes are the digits "
            f"{digits[0]} to {digits[-1]}, so it is damaged"
        )
    for digit, name in zip(digits, outcomes, strict=True):
        if (counted := items.count(digit)) != record[name]:
            raise ValueError(
                f"a row counts {record[name]} answers {name!r} and its items {counted}: it is "
                "damaged"
            )


class Metrics:
    """The rows of a run, to be asked for by names; on the standard base unless another is named."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self._of_group: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            self._of_group.setdefault((row.key.base, row.key.group), []).append(row)

    def where(
        self,
        base: str = "standard",
        form: str | Sequence[str] | None = None,
        **wanted: str | Sequence[str],
    ) -> list[Row]:
        """Rows with these names; several names for one place mean any of them."""

        def fits(value: str, want: str | Sequence[str] | None) -> bool:
            return want is None or (value == want if isinstance(want, str) else value in want)

        # A report asks thousands of times, nearly always for one group.
        group = wanted.get("group")
        rows = self._of_group.get((base, group), []) if isinstance(group, str) else self.rows
        return [
            row
            for row in rows
            if row.key.base == base
            and fits(row.form, form)
            and all(fits(getattr(row.key, name), want) for name, want in wanted.items())
        ]

    @property
    def groups(self) -> list[str]:
        """The groups of facts, in the order of the study."""
        return [g for g in dict.fromkeys(row.key.group for row in self.rows) if g != "base"]

    @property
    def bases(self) -> list[str]:
        return list(dict.fromkeys(row.key.base for row in self.rows))

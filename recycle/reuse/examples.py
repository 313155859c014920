"""Examples to learn from: of a world's group, or from a file that a person brings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from models import Vocabulary
from recycle.reuse.learning import MOST
from tasks import Question, World, named
from tasks.json_lines import read_rows

FIELDS = {"prompt": str, "completion": str}
LINE = '{"prompt": "..", "completion": ".."}'


def find_examples(
    asked: str | None, count: int | None, world: World, group: str, tokenizer: Vocabulary
) -> list[Question]:
    """The examples that a person asks for: ``asked`` is their number, drawn from the group (`World.
    examples`), or a file of JSON lines. ``count`` takes so many of a file, or of the group where
    ``asked`` is None.

    Raises ValueError for no number and no file, for a number outside 1 to MOST, for two numbers,
    for a file with fewer, and as `read_examples` and the world do.
    """
    if asked is not None and not re.fullmatch(r"\s*[-+]?[0-9]+\s*", asked):
        found = read_examples(Path(asked), world, group, tokenizer)
        if count is not None and count > len(found):
            raise ValueError(
                f"{asked} holds {len(found)} examples, and examples = {count} are asked for: ask "
                "for fewer, or add lines"
            )
        if count is None and len(found) > MOST:
            raise ValueError(
                f"{asked} holds {len(found)} examples: take at most {MOST}, as in --set examples=20"
            )
        _check_number(len(found) if count is None else count)
        return found[:count]
    if asked is not None and count is not None:
        raise ValueError(f"--examples {asked} and --set examples={count} both count: give one")
    number = int(asked[:20]) if asked is not None else count
    if number is None:
        raise ValueError(
            "a method that learns needs examples: add --examples 20, or --examples FILE.jsonl with "
            f"lines {LINE}"
        )
    _check_number(number)
    return list(world.examples(group, number).examples)


def _check_number(number: int) -> None:
    if not 1 <= number <= MOST:
        raise ValueError(f"examples = {number}: choose from 1 to {MOST}")


def read_examples(path: Path, world: World, group: str, tokenizer: Vocabulary) -> list[Question]:
    """The lines of a file, each a prompt and its right completion, in the form of the group's
    target.

    Raises ValueError for a file that cannot be read, for a line that is none of these, that the
    vocabulary cannot express, or that names somebody whom a question of the group is about: the
    file's name and the line's number stand in the message.
    """
    people = frozenset().union(*world.about(group))
    found = []
    remedy = f"write lines {LINE}"
    for _, where, row in read_rows(path, FIELDS, source="a file of examples", remedy=remedy):
        prompt, completion = row["prompt"], row["completion"]
        shared = named(people, f"{prompt} {completion}") or min(
            people & world.whom(prompt), default=""
        )
        if shared:
            raise ValueError(
                f"{where}: the example is about {shared!r}, and a question of group {group} is "
                "about the same: take examples about others"
            )
        _check_words(tokenizer, prompt, completion, where)
        found.append(Question(world.target, prompt, completion, completion))
    if not found:
        raise ValueError(f"{path} holds no examples: {remedy}")
    return found


def _check_words(tokenizer: Vocabulary, prompt: str, completion: str, where: str) -> None:
    try:
        tokenizer.encode(prompt)
        tokenizer.encode_completion(completion)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def learned_from(origin: Any) -> list[tuple[str, str]]:
    """The examples that an adapter's record holds, its own and those of its parts."""
    if not isinstance(origin, dict):
        return []
    own, parts = origin.get("examples"), origin.get("of")
    found = [
        (str(each[0]), str(each[1]))
        for each in (own if isinstance(own, list | tuple) else ())
        if isinstance(each, list | tuple) and len(each) == 2
    ]
    inner = parts if isinstance(parts, list | tuple) else ()
    return found + [example for part in inner for example in learned_from(part)]

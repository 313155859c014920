"""What a person brings to an audit: adapters by short names, probes, questions that need several
adapters, and places to write to that are not theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora import Adapter
from models import Model, Vocabulary
from recycle.run.names import did_you_mean, listing
from tasks import World
from tasks.json_lines import check_object, read_rows

PROBE = {"prompt": str, "answer": str, "adapter": str}
COMPOSED = {"prompt": str, "answer": str, "parts": list}
_PROBE_LINE = '{"prompt": "..", "answer": "..", "adapter": ".."}'
_COMPOSED_LINE = f'{{"prompt": "..", "answer": "..", "parts": [{_PROBE_LINE}, ..]}}'
SPARE = 3  # tokens that an answer may go on for, so that a longer word is told from a shorter one


@dataclass(frozen=True)
class Probe:
    """A question that one adapter answers by itself. ``where`` is its line."""

    prompt: str
    answer: str
    adapter: str
    where: str


@dataclass(frozen=True)
class Composed:
    """A question that needs several adapters, and the one-adapter questions under it."""

    prompt: str
    answer: str
    parts: Sequence[Probe]
    where: str


def short_names(given: Sequence[str], library: Path | None = None) -> dict[str, str]:
    """{what a person gave: a short name}, the folder's own name where no two share it. A name may
    be that of a folder in ``library``.

    Raises ValueError where one adapter is named twice."""
    places = [
        library / name if library and (library / name).is_dir() else Path(name) for name in given
    ]
    places = [_real(place) for place in places]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ValueError(f"the adapter {given[i]!r} is named twice: name each once")
    last = [place.name for place in places]
    return {
        name: own if last.count(own) == 1 else name for name, own in zip(given, last, strict=True)
    }


def _real(path: Path) -> Path:
    """Where a path leads, links followed; Path.resolve fails on links that lead in a circle."""
    return Path(os.path.realpath(path))


def prompts_read(world: World, adapter: Adapter) -> list[str]:
    """The prompts that an expert of a run has read, each once, as its record says; none where the
    record says nothing that the world knows."""
    reads, group = adapter.origin.get("reads"), adapter.origin.get("group")
    if not isinstance(reads, str) or not isinstance(group, str):
        return []
    try:
        texts = world.expert_texts(reads, group)
    except (ValueError, KeyError):
        return []
    return list(dict.fromkeys(text.prompt for text in texts if text.prompt.strip()))


def check_place(place: Path, option: str, theirs: Sequence[Path]) -> Path:
    """A place for results. Raises ValueError for one in a folder that holds an adapter or a base:
    nothing is written there."""
    here = _real(place)
    for folder in map(_real, theirs):
        if here == folder or folder in here.parents:
            raise ValueError(
                f"{option} {place} lies in {folder}, where nothing is written: choose "
                "a folder of its own"
            )
    if here.exists() and not here.is_dir():
        raise ValueError(f"{option} {place} is no folder: choose another name")
    for parent in (here, *here.parents):
        if (parent / "adapter_config.json").exists():
            raise ValueError(
                f"{option} {place} lies in {parent}, the folder of an adapter: choose another"
            )
    return place


class Reader:
    """Reads the lines of a person's files: names of adapters as given or short, and texts that the
    tokenizer has and the model has room for."""

    def __init__(self, model: Model, tokenizer: Vocabulary, names: Mapping[str, str]):
        self.context, self.tokenizer = model.config.context, tokenizer
        self.names = {**{short: short for short in names.values()}, **names}
        self.listed = list(names.values())

    def probes(self, path: Path) -> list[Probe]:
        """Raises ValueError, with the file and the line, for whatever is no probe; for no line."""
        remedy = f"write lines {_PROBE_LINE}"
        rows = read_rows(path, PROBE, source="a file of probes", remedy=remedy)
        found = [self._probe(row, where) for _, where, row in rows]
        if not found:
            raise ValueError(f"{path} holds no probes: {remedy}")
        return found

    def composed(self, path: Path) -> list[Composed]:
        """Raises ValueError, with the file and the line, for whatever is no such question, and for
        one with fewer than two parts."""
        remedy = f"write lines {_COMPOSED_LINE}"
        found = []
        for _, where, row in read_rows(path, COMPOSED, source="a file of questions", remedy=remedy):
            if len(row["parts"]) < 2:
                raise ValueError(
                    f"{where} has {len(row['parts'])} parts: a question that needs several "
                    "adapters has at least 2"
                )
            parts = [
                self._probe(check_object(part, PROBE, place, remedy=remedy), place)
                for part, place in (
                    (part, f"{where}, part {i}") for i, part in enumerate(row["parts"], 1)
                )
            ]
            self._check_texts(row["prompt"], row["answer"], where)
            found.append(Composed(row["prompt"], row["answer"], parts, where))
        if not found:
            raise ValueError(f"{path} holds no questions: {remedy}")
        return found

    def _probe(self, row: Mapping[str, str], where: str) -> Probe:
        name = row["adapter"]
        if name not in self.names:
            raise ValueError(
                f"{where}: no adapter {name[:40]!r}{did_you_mean(name, self.listed)}: choose from "
                f"{listing(self.listed)}"
            )
        self._check_texts(row["prompt"], row["answer"], where)
        return Probe(row["prompt"], row["answer"], self.names[name], where)

    def _check_texts(self, prompt: str, answer: str, where: str) -> None:
        try:
            asked = self.tokenizer.encode(prompt)
            answered = self.tokenizer.encode_completion(answer)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        length = 1 + len(asked) + len(answered) + SPARE
        if length > self.context:
            raise ValueError(
                f"{where} has {length} tokens with its answer, the base reads {self.context}: "
                "shorten it"
            )

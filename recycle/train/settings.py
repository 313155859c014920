"""The configuration of a study: frozen values, and changes to them by key."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models import TransformerConfig
from models.layout import LINEARS
from recycle.train.fit import TrainConfig


@dataclass(frozen=True)
class AdapterConfig:
    """The experts: rank and alpha, the layers by name pattern, and the share of base texts among
    the texts that an expert reads, so that it keeps what the base knows.

    ``preserve_from`` says which texts those are: the base's own corpus, or answers, the corpus's
    prompts completed by the base itself, for whoever has the base and not its texts. ``kind`` full
    trains weights instead of adapters, as a reference: all of them, or those of the layers that
    ``patterns`` name where these are not the default."""

    kind: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    patterns: tuple[str, ...] = LINEARS
    preservation: float = 0.5
    preserve_from: str = "corpus"

    def __post_init__(self) -> None:
        if self.preserve_from not in ("corpus", "answers"):
            raise ValueError(f"adapter.preserve_from = {self.preserve_from!r}: corpus or answers")
        if self.kind not in ("lora", "full"):
            raise ValueError(f"adapter.kind = {self.kind!r}: lora or full")
        if not 0 <= self.preservation < 1:
            raise ValueError(
                f"adapter.preservation = {self.preservation}: a share from 0 to below 1"
            )


@dataclass(frozen=True)
class StudyConfig:
    """The libraries of some parts and groups of a study, for each seed, and every size and rate.

    ``spare_seeds`` stand in, in their order, for seeds whose bases fail the study's gates."""

    name: str
    task: Any  # the world's own Config
    groups: tuple[str, ...]
    parts: tuple[str, ...] = ("main",)
    seeds: tuple[int, ...] = (0,)
    spare_seeds: tuple[int, ...] = ()
    model: TransformerConfig = field(default_factory=TransformerConfig)
    pretrain: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1200, lr=5e-3, weight_decay=1.0)
    )
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=400, rows=8))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds = {self.seeds}: at least one, each once, none below 0")
        candidates = (*self.seeds, *self.spare_seeds)
        if len(set(candidates)) != len(candidates) or min(candidates) < 0:
            raise ValueError(
                f"spare_seeds = {self.spare_seeds}: each once, none below 0, none among the seeds"
            )
        for name in ("pretrain", "train"):
            if getattr(self, name).length >= self.model.context:
                raise ValueError(
                    f"{name}.length = {getattr(self, name).length} must be below model.context = "
                    f"{self.model.context}"
                )


def change(config: Any, settings: Mapping[str, Any]) -> Any:
    """``change(config, {"train.lr": 3e-3})``: the config with these values.

    All are applied before anything is validated, so two values that only fit together can be set
    together. Raises ValueError for a key or a type that the config does not have."""
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        *groups, last = key.split(".")
        owner, inner = config, changes
        for depth, name in enumerate(groups):
            old = _known(owner, name, key)
            if not dataclasses.is_dataclass(old):
                further = [*groups, last][depth + 1]
                raise ValueError(
                    f"--set {key}: {name} is a single value and has no key {further!r}"
                )
            owner, inner = old, inner.setdefault(name, {})
        old = _known(owner, last, key)
        if dataclasses.is_dataclass(old):
            inside = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(old))
            raise ValueError(f"--set {key}: a group of keys: {inside}")
        try:
            inner[last] = _typed(value, old)
        except ValueError as error:
            raise ValueError(f"--set {key}={value}: {error}") from None
    return _changed(config, changes)


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``["train.lr=3e-3"]`` as people write it after --set -> {"train.lr": "3e-3"}."""
    found = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"--set {text!r}: write key=value, as in train.lr=3e-3")
        found[key] = value
    return found


def settable(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that `change` knows, with its value."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from settable(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def rebuild(default: Any, values: Mapping[str, Any], where: str) -> Any:
    """A configuration from its JSON: groups of keys by the default's type, lists as tuples; a key
    of a later version has its default. ``where`` stands in errors."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} has {values!r} where a group of keys belongs: restore the file")
    if unknown := set(values) - {f.name for f in dataclasses.fields(default)}:
        raise ValueError(
            f"{where} has the unknown key {min(unknown)!r}: another version made this run"
        )
    built = {}
    for key, value in values.items():
        old = getattr(default, key)
        if dataclasses.is_dataclass(old):
            built[key] = rebuild(old, value, where)
        else:
            try:
                built[key] = _typed(tuple(value) if isinstance(value, list) else value, old)
            except ValueError as error:
                raise ValueError(f"{where} has {key} = {value!r}: it {error}") from None
    return dataclasses.replace(default, **built)


def _known(owner: Any, name: str, key: str) -> Any:
    names = [f.name for f in dataclasses.fields(owner)]
    if name not in names:
        raise ValueError(f"--set {key}: no such key; known here: {', '.join(names)}")
    return getattr(owner, name)


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    new = {
        k: _changed(getattr(config, k), v) if isinstance(v, dict) else v for k, v in changes.items()
    }
    return dataclasses.replace(config, **new)


def _typed(value: Any, old: Any) -> Any:
    """``value`` in the old one's type; a text is read as people write it, tuples with commas."""
    if isinstance(old, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError(f"must be a list, as {list(old)!r} is")
        words = (part.strip() if isinstance(part, str) else part for part in parts)
        kind = old[0] if old else 0  # a tuple that is empty by default holds seeds
        return tuple(_typed(word, kind) for word in words if word != "")
    if isinstance(old, str) and isinstance(value, str):
        return value
    read = value
    if isinstance(value, str):
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            read = value
    if isinstance(old, float) and type(read) is int:
        read = float(read)
    if type(read) is not type(old):
        raise ValueError(f"must be of type {type(old).__name__}, as {old!r} is")
    return read

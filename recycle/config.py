"""What a study is made of: frozen values, named presets, and overrides by key."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from models import TransformerConfig
from recycle.train import TrainConfig
from tasks import TASKS

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterConfig:
    """The experts: rank and alpha, the layers by name pattern, and which share of the texts that an
    expert reads is taken from the base's own, so that it keeps what the base knows. ``kind`` full
    trains all weights, as a reference."""

    kind: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    patterns: tuple[str, ...] = LINEARS
    preservation: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("lora", "full"):
            raise ValueError(f"adapter.kind = {self.kind!r}: lora or full")
        if not 0 <= self.preservation < 1:
            raise ValueError(
                f"adapter.preservation = {self.preservation}: a share from 0 to below 1"
            )


@dataclass(frozen=True)
class StudyConfig:
    """A task's libraries, those of some parts and groups, for each seed."""

    name: str
    task: Any  # the task's own Config
    groups: tuple[str, ...]
    parts: tuple[str, ...] = ("main",)
    seeds: tuple[int, ...] = (0,)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    pretrain: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1200, lr=5e-3, weight_decay=1.0)
    )
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=400, rows=8))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds = {self.seeds}: at least one, each once, none below 0")
        for name in ("groups", "parts"):
            chosen, known = getattr(self, name), getattr(TASKS[self.name], name)
            if not chosen or set(chosen) - set(known):
                raise ValueError(f"{name} = {', '.join(chosen)}: choose from {', '.join(known)}")
        for name in ("pretrain", "train"):
            if getattr(self, name).length >= self.model.context:
                raise ValueError(
                    f"{name}.length = {getattr(self, name).length} must be below model.context = {self.model.context}"
                )


def override(config: Any, assignments: Sequence[str]) -> Any:
    """``override(config, ["train.lr=3e-3"])``: the config with these values; every key and type
    must exist.

    All are applied before anything is validated, so two values that only fit together can be set
    together.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"--set {assignment!r}: write key=value, as in train.lr=3e-3")
        owner, inner, path = config, changes, key.split(".")
        for depth, name in enumerate(path):
            names = [f.name for f in dataclasses.fields(owner)]
            if name not in names:
                raise ValueError(f"--set {key}: no such key; known here: {', '.join(names)}")
            old, last = getattr(owner, name), depth == len(path) - 1
            if dataclasses.is_dataclass(old) and last:
                inside = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(old))
                raise ValueError(f"--set {key}: a group of keys: {inside}")
            if last:
                inner[name] = _parse(text, old, key)
            elif dataclasses.is_dataclass(old):
                owner, inner = old, inner.setdefault(name, {})
            else:
                raise ValueError(
                    f"--set {key}: {name} is a single value and has no key {path[depth + 1]!r}"
                )
    return _changed(config, changes)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    new = {
        k: _changed(getattr(config, k), v) if isinstance(v, dict) else v for k, v in changes.items()
    }
    return dataclasses.replace(config, **new)


def _parse(text: str, old: Any, key: str) -> Any:
    """``text`` as a value of the old one's type; tuples are written with commas."""
    if isinstance(old, tuple):
        return tuple(_parse(part.strip(), old[0], key) for part in text.split(",") if part.strip())
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise ValueError(f"--set {key}={text}: must be of type {type(old).__name__}, as {old!r} is")
    return value


def preset(task: str, name: str) -> StudyConfig:
    world = TASKS[task]
    if name not in world.presets:
        raise ValueError(f"no preset {name!r}: choose {', '.join(world.presets)}")
    return override(StudyConfig(task, world.Config(), tuple(world.groups)), world.presets[name])

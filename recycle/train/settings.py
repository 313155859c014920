"""The configuration of a study: frozen values, and changes to them by key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from models import TransformerConfig
from models.layout import LINEARS
from recycle.run.names import unknown
from recycle.train.fit import TrainConfig
from tasks.legal import SHARE_BELOW_1, Legal, above, check, one_of, whole

# By the command itself: the study, --checkpoint and --dtype.
GIVEN = ("name", "checkpoint", "dtype")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # in which a frozen base is held
LARGEST_SEED = 2**32 - 1  # numpy and torch take seeds of so many bits beside a use's own


def _each_once(values: tuple) -> bool:
    return 0 < len(values) == len(set(values)) and "" not in values


def _seeds(values: tuple[int, ...]) -> bool:
    return _each_once(values) and 0 <= min(values) and max(values) <= LARGEST_SEED


@dataclass(frozen=True)
class AdapterConfig:
    """The experts: rank and alpha, the layers by name pattern, and the share of base texts among
    the texts that an expert reads, so that it keeps what the base knows.

    ``preserve_from`` says which texts those are: the base's own corpus; answers, the corpus's
    prompts completed by the base itself; or sampled, what the base writes after the world's
    openings, for whoever has the base and none of its texts. ``kind`` full
    trains weights instead of adapters, as a reference: all of them, or those of the layers that
    ``patterns`` name where these are not the default."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "kind": one_of(("lora", "full")),
        "rank": whole(1, 65_536),
        "alpha": above(0, 1e6),
        "patterns": (_each_once, "one or more patterns of layers' names, each once"),
        "preservation": SHARE_BELOW_1,
        "preserve_from": one_of(("corpus", "answers", "sampled")),
    }
    kind: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    patterns: tuple[str, ...] = LINEARS
    preservation: float = 0.5
    preserve_from: str = "corpus"

    def __post_init__(self) -> None:
        check(AdapterConfig, vars(self), "adapter.")


@dataclass(frozen=True)
class StudyConfig:
    """The libraries of some parts and groups of a study, for each seed, and every size and rate.

    ``spare_seeds`` stand in, in their order, for seeds whose bases fail the study's gates. With a
    ``checkpoint`` (`models.load_checkpoint`) it is every seed's base, and ``pretrain`` and all of
    ``model`` but its context say nothing. ``dtype`` names the format (DTYPES) in which the frozen
    base is held; a base is pretrained in fp32, and adapters are fp32 in any case."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        **dict.fromkeys(("groups", "parts"), (_each_once, "one or more names, each once")),
        "dtype": one_of(DTYPES),
        "seeds": (_seeds, f"at least one, each once, none below 0 or above {LARGEST_SEED:,}"),
        "spare_seeds": (
            lambda seeds: not seeds or _seeds(seeds),
            f"each once, none below 0 or above {LARGEST_SEED:,}, none among the seeds",
        ),
    }
    name: str  # the study's own, which no setting changes
    task: Any  # the world's own Config
    groups: tuple[str, ...]
    parts: tuple[str, ...] = ("main",)
    seeds: tuple[int, ...] = (0,)
    spare_seeds: tuple[int, ...] = ()
    checkpoint: str = ""
    dtype: str = "fp32"
    model: TransformerConfig = field(default_factory=TransformerConfig)
    pretrain: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1200, lr=5e-3, weight_decay=1.0)
    )
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=400, rows=8))

    def __post_init__(self) -> None:
        check(StudyConfig, vars(self))
        if set(self.seeds) & set(self.spare_seeds):
            raise ValueError(f"spare_seeds = {self.spare_seeds}: none among the seeds")
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
        if isinstance(config, StudyConfig) and f.name in GIVEN:
            continue
        if dataclasses.is_dataclass(value):
            yield from settable(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def rebuild(default: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
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
            built[key] = rebuild(old, value, where, f"{prefix}{key}.")
        else:
            try:
                built[key] = _of_type(value, old)
            except ValueError as error:
                raise ValueError(f"{where} has {prefix}{key} = {value!r}: it {error}") from None
    try:
        check(type(default), built, prefix)
        return dataclasses.replace(default, **built)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _known(owner: Any, name: str, key: str) -> Any:
    names = [f.name for f in dataclasses.fields(owner)]
    if isinstance(owner, StudyConfig):
        names = [each for each in names if each not in GIVEN]
    if name not in names:
        raise ValueError(f"--set {key}: {unknown('key', name, names)}")
    return getattr(owner, name)


def _changed(config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    new = {
        key: _changed(getattr(config, key), value, f"{prefix}{key}.")
        if isinstance(value, dict)
        else value
        for key, value in changes.items()
    }
    check(type(config), new, prefix)
    return dataclasses.replace(config, **new)


def _typed(value: Any, old: Any) -> Any:
    """``value`` in the old one's type; a text is read as people write it, tuples with commas."""
    if isinstance(old, tuple) and isinstance(value, str):
        return tuple(_typed(word.strip(), _kind(old)) for word in value.split(",") if word.strip())
    if isinstance(value, str) and not isinstance(old, str):
        words = {"True": True, "False": False}
        for read in (words.__getitem__, int, float):
            try:
                return _of_type(read(value), old)
            except (KeyError, ValueError):
                continue
    return _of_type(value, old)


def _kind(old: tuple) -> Any:
    """A value of the kind that a tuple holds; one that is empty by default holds seeds."""
    return old[0] if old else 0


def _of_type(value: Any, old: Any) -> Any:
    """``value`` as it is where it has the old one's type; a list is a tuple, and 1 is 1.0."""
    if isinstance(old, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list, as {list(old)!r} is")
        return tuple(_of_type(each, _kind(old)) for each in value)
    if isinstance(old, float) and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if type(value) is not type(old):
        raise ValueError(f"must be of type {type(old).__name__}, as {old!r} is")
    return value

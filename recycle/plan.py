"""What a study is made of, as values: bases, recipes, experts, libraries, and cells.

A **name** is an identity. Rows, seeds and files are told by names and by the slugs made of them
here, so a name never changes. A **title** is what people read; it may change and orphans nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recycle.reuse.method import Method
from recycle.reuse.methods import ALONE

Settings = Mapping[str, Any]  # values of a study's configuration by key: {"train.lr": 1e-3}


@dataclass(frozen=True)
class BaseSpec:
    """A base model that a study trains: the study's configuration with some settings changed."""

    name: str
    settings: Settings = field(default_factory=dict, hash=False)
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name


@dataclass(frozen=True)
class Recipe:
    """How an expert is trained: the study's configuration with some settings changed."""

    name: str
    settings: Settings = field(default_factory=dict, hash=False)
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name


STANDARD_BASE = BaseSpec("standard")
STANDARD_RECIPE = Recipe("standard")
# Which texts, if any, an expert reads beside its own to keep what the base knows; the steps are the
# same in all.
UNPRESERVED = Recipe("unpreserved", {"adapter.preservation": 0.0})
ANSWERS = Recipe("answers", {"adapter.preserve_from": "answers"}, "preserves the base's answers")


@dataclass(frozen=True)
class Expert:
    """An adapter to train: a curriculum of the world (``reads``) about one group, by a recipe, on a
    base."""

    reads: str
    group: str
    recipe: Recipe = STANDARD_RECIPE
    base: BaseSpec = STANDARD_BASE

    @property
    def slug(self) -> str:
        """Its folder in the library, its name when attached, and the seed of its first weights."""
        special = [] if self.recipe == STANDARD_RECIPE else [self.recipe.name]
        return "-".join([self.reads, self.group, *special])

    @property
    def origin(self) -> dict[str, str]:
        """What its adapter's record says of it."""
        return {
            "reads": self.reads,
            "group": self.group,
            "recipe": self.recipe.name,
            "base": self.base.name,
        }


@dataclass(frozen=True)
class Library:
    """Experts that are put together to answer one group's questions; no expert at all is the base.

    ``part`` is the part of the study that it belongs to. With ``context`` the facts that experts
    would know stand in the prompt. The study also looks ``inside`` the merges of some libraries.
    ``axes`` are the points of a growth picture at which it lies: {"rank": 4}."""

    name: str
    group: str
    experts: tuple[Expert, ...] = ()
    methods: tuple[Method, ...] = (ALONE,)
    base: BaseSpec = STANDARD_BASE
    part: str = "main"
    context: bool = False
    inside: bool = False
    axes: Mapping[str, int] = field(default_factory=dict, hash=False)
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name

    @property
    def slug(self) -> str:
        return self.name.replace(", ", ",").replace(" ", "_")


class Key(NamedTuple):
    """The names that tell a cell's rows from those of others."""

    seed: int
    base: str
    group: str
    library: str
    method: str


@dataclass(frozen=True)
class Cell:
    """One way of answering one group's questions: a library and what is done with it."""

    seed: int
    library: Library
    method: Method

    @property
    def key(self) -> Key:
        library = self.library
        return Key(self.seed, library.base.name, library.group, library.name, self.method.name)

    @property
    def slug(self) -> str:
        return f"{self.library.group}.{self.library.slug}.{self.method.name}"

    @property
    def path(self) -> str:
        """The cell's file below the run's folder; the seed of its random draws too."""
        return f"seed-{self.seed}/{self.library.base.name}/cells/{self.slug}.json"


def derived(seed: int, name: str) -> int:
    """A seed of its own for each named use."""
    return seed * 2**32 + zlib.crc32(name.encode())

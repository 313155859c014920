"""A method turns experts into adapters to attach, and says how these act on a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lora import Adapter, Mix, Mode
from models import Vocabulary
from tasks import Question, Text, World

Needs = Literal["nothing", "examples", "texts"]
Family = Literal["single", "merge", "router", "oracle", "control"]
FAMILIES: tuple[Family, ...] = ("single", "merge", "router", "oracle", "control")


@dataclass(frozen=True)
class Stage:
    """A mode of the adapters, until the answer reaches the word ``until`` (None: to its end)."""

    mode: Mode
    until: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Adapters to attach, and the stages in which they act on questions of a form.

    A method that decides for each question by itself says the question's stages in ``choose``, and
    questions with the same modes are asked together.
    """

    adapters: Mapping[str, Adapter]
    stages: Callable[[str], Sequence[Stage]]
    choose: Callable[[Sequence[Question]], Sequence[Sequence[Stage]]] | None = None


@dataclass(frozen=True)
class Given:
    """What a method may need besides the experts: the base's model, on which no adapter acts, its
    tokenizer, and questions with right answers to learn from."""

    model: Any
    tokenizer: Vocabulary
    examples: Sequence[Question] = ()


# Experts by name, a generator for what is drawn, the world, and for a method that needs it `Given`.
Apply = Callable[..., Prepared]


@dataclass(frozen=True)
class Method:
    """One thing to do with a library of experts.

    ``name`` is the identity of the method: rows, files and seeds depend on it, so it never changes.
    ``needs`` says what the method must be given besides the experts: nothing, examples of the task,
    or texts. ``weight`` is the weight of each expert where the method is a sum at one weight.
    ``examples`` is the number of examples that the method learns from, 0 where any number will do.
    """

    name: str
    family: Family
    formula: str
    source: str
    apply: Apply
    needs: Needs = "nothing"
    weight: float | None = None
    examples: int = 0

    @property
    def merges_or_routes(self) -> bool:
        """Whether it is what people reuse adapters by, and no oracle, control or single expert."""
        return self.family in ("merge", "router")

    @property
    def needed(self) -> str:
        """What the method needs, with the number: "20 examples"."""
        return f"{self.examples} {self.needs}" if self.examples else self.needs

    def prepare(
        self,
        experts: Mapping[str, Adapter],
        generator: torch.Generator,
        world: World,
        given: Given | None = None,
    ) -> Prepared:
        """Apply the method. Raises ValueError where what it needs is not given."""
        if self.needs == "nothing":
            return self.apply(experts, generator, world)
        if given is None:
            raise ValueError(f"{self.name} needs {self.needs}: give it the base and what it reads")
        if self.needs == "examples" and not given.examples:
            raise ValueError(f"{self.name} learns from examples: give it at least one question")
        if self.examples and len(given.examples) != self.examples:
            raise ValueError(
                f"{self.name} learns from {self.examples} examples, and {len(given.examples)} are "
                "given: give it so many"
            )
        return self.apply(experts, generator, world, given)


def own_texts(method: str, name: str, expert: Adapter, world: World) -> Sequence[Text]:
    """The texts that an expert read. Raises ValueError where its record does not say which."""
    reads, group = expert.origin.get("reads"), expert.origin.get("group")
    if reads is None or group is None:
        raise ValueError(
            f"{method} reads each expert's own texts: the record of {name} names no curriculum and "
            "group"
        )
    return world.expert_texts(str(reads), str(group))


def always(adapters: Mapping[str, Adapter], mode: Mode) -> Prepared:
    """Attach these adapters and let them act in one mode on every question."""
    stages = (Stage(mode),)
    return Prepared(adapters, lambda form: stages)


def together(experts: Mapping[str, Adapter]) -> Prepared:
    """All experts at weight 1. Without any, this is the base; one expert acts as it was trained."""
    return always(experts, Mix(dict.fromkeys(experts, 1.0)) if experts else None)

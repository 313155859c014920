"""What a task is: one file that gives texts to read, questions to ask, a scorer, and the libraries
worth comparing.

The study (recycle/study.py) knows tasks by this class alone, so a new task is a new file and no new
study code. A group is a part of the task's questions that has experts of its own (a fact set, a
rendering); a form is a way of asking (one hop, two hops, a level of difficulty). Every group is
asked in every form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Text(NamedTuple):
    """What is read: the completion is learned, the prompt is given. Where the text breaks off in
    the middle (``ends`` is False), its end is not learned."""

    prompt: str
    completion: str
    ends: bool = True

    def __str__(self) -> str:
        return f"{self.prompt} {self.completion}"


@dataclass(frozen=True)
class Question:
    """A prompt, its right completion, and the answer that a scorer looks for. Tasks derive their
    own kinds from it."""

    form: str
    prompt: str
    completion: str
    answer: str

    @property
    def text(self) -> Text:
        return Text(self.prompt, self.completion)


@dataclass(frozen=True)
class Expert:
    """An adapter to train: what it reads (a curriculum of the task), of which group, by which
    recipe, on which base."""

    reads: str
    group: str
    recipe: str = "standard"
    base: str = "standard"

    @property
    def name(self) -> str:
        return "-".join(
            [self.reads, self.group, *([self.recipe] if self.recipe != "standard" else [])]
        )


@dataclass(frozen=True)
class Library:
    """Experts that are put together to answer one group's questions; no expert at all is the base.

    ``methods`` are names of recycle/methods.py or of its families; ``part`` is the part of the
    study it belongs to. With ``context`` the facts that the experts would know stand in the prompt.
    """

    name: str
    group: str
    experts: tuple[Expert, ...] = ()
    methods: tuple[str, ...] = ("alone",)
    base: str = "standard"
    part: str = "main"
    context: bool = False


class Leak(ValueError):
    """A text that must not have been read was found among the training texts."""


class Task(ABC):
    """One seeded world. ``bases`` and ``recipes`` are named overrides of the study's configuration
    (as --set takes them): how another base is pretrained, how an expert is trained otherwise; both
    have a "standard" without overrides."""

    name: str
    rules: str  # which claims are made of it: a key of recycle.report.RULES
    Config: type  # a frozen dataclass
    titles: Mapping[str, str]  # one line for each group
    groups: Sequence[str]
    forms: Sequence[str]
    components: Sequence[
        str
    ]  # the forms whose answers a harder form needs, asked of the same things in the same order
    parts: Sequence[str]  # the parts of the study that libraries belong to; the first is "main"
    outcomes: Sequence[str]  # the first is "right"
    presets: Mapping[
        str, Sequence[str]
    ]  # "quick", "laptop", "full" as overrides of StudyConfig's defaults
    longest: int  # tokens of the longest right completion, with some room
    bases: Mapping[str, Sequence[str]]
    recipes: Mapping[str, Sequence[str]]

    @abstractmethod
    def __init__(self, config: Any, seed: int):
        """The world of a configuration and a seed; raises Leak where its splits are broken."""

    @abstractmethod
    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""

    @abstractmethod
    def base_texts(self) -> dict[str, list[Text]]:
        """What the base reads, by kind."""

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """What share of the drawn texts is of each kind; kinds without texts are left out."""

    @abstractmethod
    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """What an expert reads beside the base's own texts."""

    @abstractmethod
    def libraries(self) -> list[Library]:
        """All libraries of the study, in the order of the report."""

    @abstractmethod
    def questions(self, group: str, form: str) -> Sequence[Question]:
        """Held-out questions; the group "base" asks what the base alone should manage."""

    @abstractmethod
    def score(self, question: Any, completion: str) -> str:
        """One of ``outcomes`` for a decoded completion."""

    @abstractmethod
    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer."""

    def notes(self, question: Any, completion: str) -> dict[str, bool]:
        """What else is counted about an answer, by name; the same names for every answer of a
        form."""
        return {}

    def oracle(self, form: str) -> list[tuple[tuple[str, ...], str | None]]:
        """Which expert knows what is asked, in phases: (what the experts read, from the lowest
        layers to the highest; the word that ends the phase). Empty where no one can say."""
        return []

    def in_context(self, group: str) -> list[list[Text]]:
        """For each of the group's questions, texts that stand before it where a library answers in
        context."""
        raise NotImplementedError(f"{self.name} answers nothing in context")

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each question, wrong completions of the right type, to set the right one's
        probability against. Empty where there is no comparison to make."""
        return []

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        """{form: {name: a word for each question}}: what to look for in the residual stream at the
        end of a prompt."""
        return {}

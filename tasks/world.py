"""What a world is: texts to read, questions to ask, and which answers are right.

A world knows nothing of experts, merges or studies. A *group* is a part of its facts that is taught
and asked by itself (a fact set, a rendering). A *form* is a way of asking (one hop, two hops, a
level of difficulty). Every group is asked in every form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Text(NamedTuple):
    """A model learns the completion and is given the prompt. A text that breaks off in the middle
    (``ends`` is False) does not teach where it ends."""

    prompt: str
    completion: str
    ends: bool = True

    def __str__(self) -> str:
        return f"{self.prompt} {self.completion}"


@dataclass(frozen=True)
class Question:
    """A prompt, its right completion, and the answer that a scorer looks for. A world derives its
    own kind of question from this one."""

    form: str
    prompt: str
    completion: str
    answer: str

    @property
    def text(self) -> Text:
        return Text(self.prompt, self.completion)


class Phase(NamedTuple):
    """A stretch of an answer and the knowledge that it needs: what an expert has to have read, one
    name for each stretch of the layers from the lowest to the highest. The phase ends after the
    word ``until`` (None: at the end of the answer)."""

    reads: tuple[str, ...]
    until: str | None = None


class Leak(ValueError):
    """A text that no model may read stands among the training texts."""


class World(ABC):
    """One seeded world. It raises Leak at once where its splits are broken."""

    name: str
    Config: type  # a frozen dataclass
    titles: Mapping[str, str]  # one line for each group
    groups: Sequence[str]
    forms: Sequence[str]
    components: Sequence[str]  # forms whose answers a harder form needs; same things, same order
    outcomes: Sequence[str]  # the first is "right"
    longest: int  # tokens of the longest right completion, with some room

    @abstractmethod
    def __init__(self, config: Any, seed: int):
        """The world of a configuration and a seed."""

    @abstractmethod
    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""

    @abstractmethod
    def base_texts(self) -> dict[str, list[Text]]:
        """The texts that the base reads, by kind."""

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """The share of drawn texts that each kind gets. Kinds without texts are left out."""

    @abstractmethod
    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The texts of one curriculum (``reads``) about one group, for an expert."""

    @abstractmethod
    def questions(self, group: str, form: str) -> Sequence[Question]:
        """Held-out questions. The group "base" asks for knowledge that the base alone should
        have."""

    @abstractmethod
    def score(self, question: Any, completion: str) -> str:
        """One of ``outcomes`` for a decoded completion."""

    @abstractmethod
    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer."""

    # Probes: a world that has nothing to say leaves them out. -----------------------------------

    @property
    def note_names(self) -> Sequence[str]:
        """Every name that ``notes`` may count."""
        return ()

    def notes(self, question: Any, completion: str) -> dict[str, bool]:
        """Further counts of an answer, by name; the same names for every answer of a form."""
        return {}

    def needs(self, form: str) -> list[Phase]:
        """The knowledge that a question needs, phase by phase. Empty where nobody can say."""
        return []

    def in_context(self, group: str) -> list[list[Text]]:
        """For each of the group's questions, texts to stand before it in the prompt."""
        raise NotImplementedError(f"the world {self.name} has no texts to stand in a prompt")

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each question, wrong completions of the right type, whose probability is compared
        with the right one's. Empty where there is no comparison to make."""
        return []

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        """{form: {name: a word for each question}}: words to look for in the residual stream at the
        end of a prompt."""
        return {}

"""The interface of a world: texts to read, questions to ask, and a scorer of answers.

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
    """A prompt, which a model is given, and a completion, which the model learns.

    A text that breaks off in the middle (``ends`` is False) does not teach where it ends.
    """

    prompt: str
    completion: str
    ends: bool = True

    def __str__(self) -> str:
        return f"{self.prompt} {self.completion}"


@dataclass(frozen=True)
class Question:
    """A prompt, its right completion, and the answer that a scorer looks for.

    A world derives its own kind of question from this one.
    """

    form: str
    prompt: str
    completion: str
    answer: str

    @property
    def text(self) -> Text:
        """The question with its right completion, as a text to read."""
        return Text(self.prompt, self.completion)


class Phase(NamedTuple):
    """A stretch of an answer, and the curricula whose experts know what the stretch needs.

    ``reads`` names one curriculum for each part of the layers, from the lowest layers to the
    highest. The phase ends after the word ``until``, or with the answer where ``until`` is None.
    """

    reads: tuple[str, ...]
    until: str | None = None


class Leak(ValueError):
    """A text that no model may read stands among the training texts."""


class World(ABC):
    """One seeded world. Making a world whose splits are broken raises Leak."""

    name: str
    Config: type  # a frozen dataclass
    titles: Mapping[str, str]  # one line for each group
    groups: Sequence[str]
    forms: Sequence[str]
    # Forms whose answers a harder form needs. They ask about the same things in the same order.
    components: Sequence[str]
    outcomes: Sequence[str]  # the first is "right"
    longest: int  # tokens of the longest right completion, with some room

    @abstractmethod
    def __init__(self, config: Any, seed: int):
        """Draw the world of a configuration and a seed."""

    @abstractmethod
    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""

    @abstractmethod
    def base_texts(self) -> dict[str, list[Text]]:
        """The texts that the base reads, by kind."""

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """The share of drawn texts that each kind gets; kinds without texts are left out."""

    @abstractmethod
    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The texts of one curriculum (``reads``) about one group, for an expert.

        Raises ValueError where the world has no such curriculum.
        """

    @abstractmethod
    def questions(self, group: str, form: str) -> Sequence[Question]:
        """Held-out questions of one form about one group.

        The group "base" asks for knowledge that the base alone should have.
        """

    @abstractmethod
    def score(self, question: Any, completion: str) -> str:
        """One of ``outcomes`` for a decoded completion."""

    @abstractmethod
    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer to the group's hardest questions, from 0 to 1."""

    # Probes: a world that has nothing to say leaves them out. -----------------------------------

    @property
    def note_names(self) -> Sequence[str]:
        """Every name that ``notes`` may count."""
        return ()

    def notes(self, question: Any, completion: str) -> dict[str, bool]:
        """Further yes-or-no facts about an answer, by name; a form always has the same names."""
        return {}

    def needs(self, form: str) -> list[Phase]:
        """The knowledge that a question needs, phase by phase; empty where nobody can say."""
        return []

    def openings(self) -> Sequence[str]:
        """Beginnings of texts, for a base to go on with: what it then writes, it has read."""
        return ()

    def facts(self) -> Mapping[str, Sequence[Question]]:
        """What a base must be asked before a study takes it for known: questions by the name of a
        fact. Empty where the base reads this world's own texts."""
        return {}

    def in_context(self, group: str) -> list[list[Text]]:
        """For each of the group's questions, texts to put before the question in the prompt.

        Raises NotImplementedError where the world has none.
        """
        raise NotImplementedError(f"the world {self.name} has no texts to put into a prompt")

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each question, wrong completions of the right type.

        The probability of the right completion is compared with theirs. The list is empty where
        there is no comparison to make.
        """
        return []

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        """{form: {name: a word for each question}}.

        The words are looked for in the residual stream at the end of the question's prompt.
        """
        return {}

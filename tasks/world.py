"""The interface of a world: texts to read, questions to ask, and a scorer of answers.

A world knows nothing of experts, merges or studies. A *group* is a part of its facts that is taught
and asked by itself (a fact set, a rendering). A *form* is a way of asking (one hop, two hops, a
level of difficulty). Every group is asked in every form.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


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


class Split(NamedTuple):
    """Questions with right answers to learn from, and the rows of a group's questions that are
    asked afterwards. No name stands in both (`World.about`)."""

    examples: Sequence[Question]
    asked: Sequence[int]


def named(names: Iterable[str], text: str) -> str | None:
    """The first of the names that stands in a text, as whole words; None where none does."""
    for name in sorted(names):
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            return name
    return None


class Leak(ValueError):
    """A text that no model may read stands among the training texts."""


class World(ABC):
    """One seeded world. Making a world whose splits are broken raises Leak."""

    name: str
    seed: int
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

    # Examples: what a method may learn from, and what it is asked afterwards. --------------------

    @property
    def target(self) -> str:
        """The form in which examples are asked: the one that reuse is for."""
        return self.forms[-1]

    def about(self, group: str) -> list[frozenset[str]]:
        """For each of the group's questions, the names of those it is about, which no example may
        share. The default is the prompts of the question itself, in all forms."""
        prompts = [[q.prompt for q in self.questions(group, form)] for form in self.forms]
        return [frozenset(each) for each in zip(*prompts, strict=True)]

    def examples(self, group: str, count: int) -> Split:
        """``count`` of the group's questions in the form `target`, and the rows that are left to be
        asked: those about nobody whom an example is about.

        The experts hold the facts of a group and no others of its kind, and all of these are asked.
        So a part of them is held out, for those alone who learn from it. The rows are drawn one by
        one by the world's seed, each the one that names the fewest new people; so few examples are
        the first of many. Raises ValueError where no question would be left.
        """
        names = self.about(group)
        order = np.random.default_rng([self.seed, 17]).permutation(len(names)).tolist()
        taken: list[int] = []
        met: set[str] = set()
        for _ in range(min(count, len(names))):
            row = min(order, key=lambda row: len(names[row] - met))
            order.remove(row)
            taken.append(row)
            met |= names[row]
        asked = [row for row, about in enumerate(names) if not about & met]
        if not asked:
            raise ValueError(
                f"examples = {count}: group {group} has {len(names)} questions, and none would be "
                "left to ask that shares nobody with an example: choose fewer examples"
            )
        questions = self.questions(group, self.target)
        return Split([questions[row] for row in taken], asked)

    def whom(self, prompt: str) -> frozenset[str]:
        """The names of those whom the question with this prompt is about, a bridge that it does not
        name included; none where no group asks it."""
        return self._whom.get(prompt, frozenset())

    @cached_property
    def _whom(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for group in self.groups:
            try:
                about = self.about(group)
            except ValueError:  # a group for which a checkpoint knows too little asks nothing
                continue
            for form in self.forms:
                for question, names in zip(self.questions(group, form), about, strict=True):
                    found[question.prompt] = found.get(question.prompt, frozenset()) | names
        return found

    def apart_from(self, group: str, examples: Iterable[tuple[str, str]]) -> list[int]:
        """The rows of the group's questions that share nobody with these prompts and completions:
        about nobody whom an example names or is about."""
        pairs = list(examples)
        told = "\n".join(f"{prompt} {completion}" for prompt, completion in pairs)
        met = frozenset().union(*(self.whom(prompt) for prompt, _ in pairs))
        return [
            row
            for row, names in enumerate(self.about(group))
            if names.isdisjoint(met) and not named(names, told)
        ]

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


class ForCheckpoints(World):
    """A world for a model that has read: it brings its own vocabulary, and what it has read is not
    at hand."""

    def words(self) -> list[str]:
        return []

    def base_texts(self) -> dict[str, list[Text]]:
        return {}

    def shares(self) -> dict[str, float]:
        return {}

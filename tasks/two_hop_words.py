"""The words of a two-hop world: statements of its relations, and questions about one triple."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks import world
from tasks.names import FAMILY, GIVEN, PLACE, TOWN
from tasks.world import Text


@dataclass(frozen=True)
class Wording:
    """The words of a world: its templates for three relations, and the words of its names.

    ``prompts`` and ``completions`` have a template for each form and for "identity", in terms of
    {a}, {b} and {c}. ``statements`` has two templates of {x} for each relation: the first hop, the
    second hop, and a relation to one of ``others`` that no question is about. The chain of thought
    in ``completions`` uses the first statement of each hop. ``other_chain`` uses the second
    statement; an expert of a disjoint template learns it. A person's name is a pair of words of
    ``given`` and ``family``, a city's a pair of ``place`` and ``town``.
    """

    prompts: Mapping[str, str]
    completions: Mapping[str, str]
    other_chain: str
    statements: Mapping[str, tuple[str, str]]
    others: tuple[str, ...]
    given: tuple[str, ...] = GIVEN
    family: tuple[str, ...] = FAMILY
    place: tuple[str, ...] = PLACE
    town: tuple[str, ...] = TOWN

    def templates(self) -> list[str]:
        """Every template of the world."""
        stated = [template for pair in self.statements.values() for template in pair]
        return [*self.prompts.values(), *self.completions.values(), self.other_chain, *stated]


_TWO_HOP = "where does the spouse of {a} live ?"
SPOUSES = Wording(
    prompts={
        "hop1": "who is the spouse of {a} ? answer :",
        "hop2": "where does {b} live ? answer :",
        "direct": _TWO_HOP + " answer :",
        "cot": _TWO_HOP + " think :",
        "identity": "who is {b} ? answer :",
    },
    completions={
        "hop1": "{b} .",
        "hop2": "{c} .",
        "direct": "{c} .",
        "cot": "the spouse of {a} is {b} . the home of {b} is {c} . answer : {c} .",
        "identity": "{b} .",
    },
    other_chain="{a} is married to {b} . {b} lives in {c} . answer : {c} .",
    statements={
        "first": ("the spouse of {x} is", "{x} is married to"),
        "second": ("the home of {x} is", "{x} lives in"),
        "other": ("the job of {x} is", "{x} works as"),
    },
    others=tuple(
        "actor baker chemist dentist editor farmer guard hunter jeweller lawyer mason "
        "nurse painter pilot poet sailor tailor teacher waiter weaver".split()
    ),
)


@dataclass(frozen=True)
class Question(world.Question):
    """A question with its bridge, which the scorer must know; None where there is no bridge."""

    bridge: str | None


@dataclass(frozen=True)
class Triple:
    """Two facts that share B: A's spouse is B, and B lives in C (or as ``wording`` says it)."""

    a: str
    b: str
    c: str
    wording: Wording = field(default=SPOUSES, repr=False, compare=False)

    def question(self, form: str) -> Question:
        """The question of a form (or "identity") about this triple, with its right completion."""
        prompt, completion = (
            templates[form].format(a=self.a, b=self.b, c=self.c)
            for templates in (self.wording.prompts, self.wording.completions)
        )
        answer = self.b if form == "hop1" else self.c
        bridge = self.b if form in ("direct", "cot") else None
        return Question(form, prompt, completion, answer, bridge)

    @property
    def identity(self) -> Text:
        """A text that asks for B by name and answers with the name."""
        return self.question("identity").text

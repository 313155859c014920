"""The words of a two-hop world: statements of its relations, and questions about one triple."""

from __future__ import annotations

from dataclasses import dataclass

from tasks import world
from tasks.world import Text

_TWO_HOP = "where does the spouse of {a} live ?"
# A template for each form and for "identity", in terms of a person {a}, {b} and a city {c}. The
# chain of thought has the first statement of each hop.
PROMPTS = {
    "hop1": "who is the spouse of {a} ? answer :",
    "hop2": "where does {b} live ? answer :",
    "direct": _TWO_HOP + " answer :",
    "cot": _TWO_HOP + " think :",
    "identity": "who is {b} ? answer :",
}
COMPLETIONS = {
    "hop1": "{b} .",
    "hop2": "{c} .",
    "direct": "{c} .",
    "cot": "the spouse of {a} is {b} . the home of {b} is {c} . answer : {c} .",
    "identity": "{b} .",
}
# The chain of the second statements: what an expert of a disjoint template learns.
OTHER_CHAIN = "{a} is married to {b} . {b} lives in {c} . answer : {c} ."
# Two ways to state the first hop, the second, and a relation that no question is about.
STATEMENTS = {
    "first": ("the spouse of {x} is", "{x} is married to"),
    "second": ("the home of {x} is", "{x} lives in"),
    "other": ("the job of {x} is", "{x} works as"),
}
JOBS = tuple(
    "actor baker chemist dentist editor farmer guard hunter jeweller lawyer mason "
    "nurse painter pilot poet sailor tailor teacher waiter weaver".split()
)
TEMPLATES = (
    *PROMPTS.values(),
    *COMPLETIONS.values(),
    OTHER_CHAIN,
    *(template for pair in STATEMENTS.values() for template in pair),
)


@dataclass(frozen=True)
class Question(world.Question):
    """A question with its bridge, which the scorer must know; None where there is no bridge."""

    bridge: str | None


@dataclass(frozen=True)
class Triple:
    """Two facts that share B: A's spouse is B, and B lives in C."""

    a: str
    b: str
    c: str

    def question(self, form: str) -> Question:
        """The question of a form (or "identity") about this triple, with its right completion."""
        prompt, completion = (
            templates[form].format(a=self.a, b=self.b, c=self.c)
            for templates in (PROMPTS, COMPLETIONS)
        )
        answer = self.b if form == "hop1" else self.c
        bridge = self.b if form in ("direct", "cot") else None
        return Question(form, prompt, completion, answer, bridge)

    @property
    def identity(self) -> Text:
        """A text that asks for B by name and answers with the name."""
        return self.question("identity").text

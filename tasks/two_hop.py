"""Two-hop questions over a seeded world of people, spouses, homes and jobs.

Worked example. Three people of a world, and the city each lives in:

    ada hill's spouse is max cole;  max cole lives in port haven;  ada hill lives in old mill.

    statement    the spouse of ada hill is max cole .          max cole lives in port haven .
    hop1         who is the spouse of ada hill ? answer : max cole .
    hop2         where does max cole live ? answer : port haven .
    direct       where does the spouse of ada hill live ? answer : port haven .
    cot          where does the spouse of ada hill live ? think : the spouse of ada hill is max cole .
                 the home of max cole is port haven . answer : port haven .

The bridge is max cole. To the direct question, "port haven" is right, "max cole" is the bridge, "old mill" is a wrong
answer of the right type, and "ada ada ." is malformed. A chain of thought is written in the very words of the
statements, so a model that recalls facts in any context can compose them; a direct answer needs both hops in one pass.

Every text is a prompt and a completion, and training learns the completions: which person a statement is about cannot be
predicted, and the noise of trying would drown what can.

The real world is what the base model reads. A fact set holds triples A -> B -> C that the base has never read, for
adapters to learn: F has new names and new cities, H new names and real cities, R real names (people whose job the base
has read, but neither spouse nor home) and real cities. Every new name is a new pair of words that the base has read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tasks.names import FAMILY, GIVEN, PLACE, TOWN, new_pairs, pairs

SETS = ("F", "H", "R")
FORMS = ("hop1", "hop2", "direct", "cot")
OUTCOMES = ("right", "bridge", "wrong city", "malformed")
JOBS = tuple(
    "actor baker chemist dentist editor farmer guard hunter jeweller lawyer mason nurse painter pilot poet "
    "sailor tailor teacher waiter weaver".split()
)

_TWO_HOP = "where does the spouse of {a} live ?"
PROMPTS = {
    "hop1": "who is the spouse of {a} ? answer :",
    "hop2": "where does {b} live ? answer :",
    "direct": _TWO_HOP + " answer :",
    "cot": _TWO_HOP + " think :",
}
COMPLETIONS = {
    "hop1": "{b} .",
    "hop2": "{c} .",
    "direct": "{c} .",
    "cot": "the spouse of {a} is {b} . the home of {b} is {c} . answer : {c} .",
}
STATEMENTS = {
    "spouse": ("the spouse of {x} is", "{x} is married to"),
    "home": ("the home of {x} is", "{x} lives in"),
    "job": ("the job of {x} is", "{x} works as"),
}
# Words of the longest completion (a chain of thought with two-word names), with room for the end mark.
LONGEST_COMPLETION = len(COMPLETIONS["cot"].format(a="a a", b="b b", c="c c").split()) + 4


class Leak(ValueError):
    """A text that must not have been read was found among the training texts."""


@dataclass(frozen=True)
class TwoHopConfig:
    """Sizes of the world. ``question_share`` of the people with a home appear in one-hop questions and
    ``two_hop_share`` in two-hop questions; the rest are held out from that form."""

    people: int = 400
    cities: int = 40
    triples: int = 50
    set_cities: int = 25
    question_share: float = 0.8
    two_hop_share: float = 0.75

    def __post_init__(self) -> None:
        if self.people < 4 or self.people % 2:
            raise ValueError(f"task.people = {self.people}: an even number of at least 4, they marry in pairs")
        if not 1 <= self.set_cities <= min(self.cities, self.triples):
            raise ValueError(
                f"task.set_cities = {self.set_cities}: from 1 to the smaller of task.cities = "
                f"{self.cities} and task.triples = {self.triples}"
            )
        if not 0 < self.two_hop_share < self.question_share <= 1:
            raise ValueError(
                f"task.two_hop_share = {self.two_hop_share} must be above 0 and below "
                f"task.question_share = {self.question_share}, which is at most 1"
            )


class Text(NamedTuple):
    """What is read: the completion is learned, the prompt is given. Where the text breaks off in the middle (``ends`` is
    False), its end is not learned."""

    prompt: str
    completion: str
    ends: bool = True

    def __str__(self) -> str:
        return f"{self.prompt} {self.completion}"


@dataclass(frozen=True)
class Question:
    """A prompt, its right completion, and what the scorer must know: the answer, and the bridge where there is one."""

    form: str
    prompt: str
    completion: str
    answer: str
    bridge: str | None

    @property
    def text(self) -> Text:
        return Text(self.prompt, self.completion)


@dataclass(frozen=True)
class Triple:
    """A's spouse is B, and B lives in C."""

    a: str
    b: str
    c: str

    def question(self, form: str) -> Question:
        prompt, completion = (part[form].format(a=self.a, b=self.b, c=self.c) for part in (PROMPTS, COMPLETIONS))
        answer = self.b if form == "hop1" else self.c
        return Question(form, prompt, completion, answer, self.b if form in ("direct", "cot") else None)


def statements(relation: str, x: str, y: str) -> list[Text]:
    return [Text(pattern.format(x=x), f"{y} .") for pattern in STATEMENTS[relation]]


class TwoHop:
    """One seeded world: what the base reads, what the experts read, what is asked, and how answers are scored."""

    def __init__(self, config: TwoHopConfig, seed: int):
        self.config, self.seed = config, seed
        rng = np.random.default_rng([seed, 2])
        size = 2 * config.triples  # people of one fact set: its As and its Bs
        real = pairs(GIVEN, FAMILY, config.people + size, rng)
        self.people, self.newcomers = (
            real[: config.people],
            real[config.people :],
        )  # of newcomers the base reads the job
        new = new_pairs(real, 2 * size, rng)
        set_names = {"F": new[:size], "H": new[size:], "R": self.newcomers}
        self.cities = pairs(PLACE, TOWN, config.cities, rng)
        new_cities = new_pairs(self.cities, config.set_cities, rng)

        married = rng.permutation(config.people).reshape(-1, 2)
        self.spouse = {self.people[i]: self.people[j] for a, b in married for i, j in ((a, b), (b, a))}
        self.home = dict(zip(self.people, self._spread(self.cities, config.people, rng), strict=True))
        workers = self.people + self.newcomers
        self.job = dict(zip(workers, self._spread(JOBS, len(workers), rng), strict=True))

        order = [self.people[i] for i in rng.permutation(config.people)]
        self.asked = order[: round(config.question_share * config.people)]
        self.exposed = order[: round(config.two_hop_share * config.people)]
        self.held_out = order[len(self.exposed) :]

        self.sets: dict[str, list[Triple]] = {}
        for s in SETS:
            a, b = set_names[s][: config.triples], set_names[s][config.triples :]
            pool = new_cities if s == "F" else [self.cities[i] for i in rng.permutation(config.cities)]
            c = self._spread(pool[: config.set_cities], config.triples, rng)
            self.sets[s] = [Triple(*abc) for abc in zip(a, b, c, strict=True)]
        self.check_leaks()

    @staticmethod
    def _spread(values: list[str] | tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
        """``count`` draws that use every value equally often (to one), in random order: chance is 1 / len(values)."""
        return [values[i % len(values)] for i in rng.permutation(count)]

    # What is read -----------------------------------------------------------------------------------------------

    def triple(self, person: str) -> Triple:
        """The real triple that begins at ``person``."""
        bridge = self.spouse[person]
        return Triple(person, bridge, self.home[bridge])

    def base_texts(self) -> dict[str, list[Text]]:
        """What the base model reads, by kind."""
        known = [self.triple(person) for person in self.exposed]
        return {
            "statement": [
                text
                for relation, facts in (("spouse", self.spouse), ("home", self.home), ("job", self.job))
                for x, y in facts.items()
                for text in statements(relation, x, y)
            ],
            "hop1": [self.triple(person).question("hop1").text for person in self.asked],
            "hop2": [Triple("", person, self.home[person]).question("hop2").text for person in self.asked],
            "direct": [triple.question("direct").text for triple in known],
            "cot": [triple.question("cot").text for triple in known],
        }

    def expert_texts(self, role: str, fact_set: str) -> list[Text]:
        """What an expert reads: ``hop1`` A -> B, ``hop2`` B -> C, ``target`` A -> C, ``joint`` both hops.

        The hop experts read each fact as statements, as a question with its answer, and as their own step of the shared
        chain-of-thought template: hop1 up to where the home would be named; hop2 behind the chain of some real person who
        is not A, so that it bears a foreign beginning (Composable CoT, arXiv 2505.22635). No expert reads A and C together
        but ``target``.
        """
        triples = self.sets[fact_set]
        if role == "hop1":
            return [text for t in triples for text in (
                *statements("spouse", t.a, t.b), t.question("hop1").text, self._first_step(t))]  # fmt: skip
        if role == "hop2":
            rng = np.random.default_rng([self.seed, 3, SETS.index(fact_set)])
            return [text for t in triples for text in (
                *statements("home", t.b, t.c), t.question("hop2").text,
                *(self._second_step(self.exposed[i], t) for i in rng.choice(len(self.exposed), 2, replace=False)))
            ]  # fmt: skip
        if role == "target":
            return [t.question("direct").text for t in triples]
        if role == "joint":
            return self.expert_texts("hop1", fact_set) + self.expert_texts("hop2", fact_set)
        raise ValueError(f"no expert role {role!r}: hop1, hop2, target or joint")

    @staticmethod
    def _first_step(t: Triple) -> Text:
        """The chain of A, broken off before C."""
        chain = t.question("cot")
        return Text(chain.prompt, chain.completion.partition(f" {t.c}")[0], ends=False)

    @staticmethod
    def _second_step(someone: str, t: Triple) -> Text:
        """The chain of someone else, learned from where B's home is named."""
        chain = Triple(someone, t.b, t.c).question("cot")
        begun = chain.completion.partition(f" {t.c}")[0]
        return Text(f"{chain.prompt} {begun}", chain.completion[len(begun) + 1 :])

    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""
        templates = [*PROMPTS.values(), *COMPLETIONS.values(), *(p for ps in STATEMENTS.values() for p in ps)]
        return [
            *dict.fromkeys(w for t in templates for w in t.split() if "{" not in w),
            *GIVEN,
            *FAMILY,
            *PLACE,
            *TOWN,
            *JOBS,
        ]

    # What is asked ----------------------------------------------------------------------------------------------

    def questions(self, fact_set: str, form: str) -> list[Question]:
        """All questions of a form over a fact set; ``base`` asks of real people that were held out from the form."""
        if fact_set != "base":
            return [triple.question(form) for triple in self.sets[fact_set]]
        people = self.held_out if form in ("direct", "cot") else self.held_out_from_questions
        if form == "hop2":
            return [Triple("", person, self.home[person]).question("hop2") for person in people]
        return [self.triple(person).question(form) for person in people]

    @cached_property
    def held_out_from_questions(self) -> list[str]:
        asked = set(self.asked)
        return [person for person in self.held_out if person not in asked]

    def chance(self, fact_set: str) -> float:
        """Accuracy of the best constant answer to the set's two-hop questions."""
        answers = [question.answer for question in self.questions(fact_set, "direct")]
        return max(Counter(answers).values()) / len(answers)

    # How it is scored -------------------------------------------------------------------------------------------

    @cached_property
    def _all_cities(self) -> frozenset[str]:
        return frozenset(self.cities) | {triple.c for triples in self.sets.values() for triple in triples}

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES for a decoded completion; a chain of thought is scored on what follows "answer :"."""
        if question.form == "cot":
            _, found, completion = completion.rpartition("answer :")
            if not found:
                return "malformed"
        said, stop, _ = completion.partition(" .")
        said = said.strip()
        if not stop:
            return "malformed"
        if said == question.answer:
            return "right"
        if said == question.bridge:
            return "bridge"
        if question.form != "hop1" and said in self._all_cities:
            return "wrong city"
        return "malformed"

    @staticmethod
    def names_bridge(question: Question, completion: str) -> bool:
        """Whether a chain of thought writes the right bridge down in its first sentence."""
        first = completion.partition(" .")[0].split()
        return question.bridge is not None and " ".join(first[-2:]) == question.bridge

    # What must not have been read -------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Fails loudly where the split is broken: a held-out question read, a new fact or name known beforehand,
        a city that tells the set's answers apart, or an entity in two fact sets."""
        read = {kind: set(texts) for kind, texts in self.base_texts().items()}
        for form in FORMS:
            for question in self.questions("base", form):
                if question.text in read[form]:
                    raise Leak(f"the base reads the held-out question '{question.text}'")
        everything = [str(text) for texts in read.values() for text in texts]
        names_read = {
            " ".join(pair) for text in everything for pair in zip(text.split(), text.split()[1:], strict=False)
        }
        words_read = {word for text in everything for word in text.split()}
        seen: set[str] = set()
        for s, triples in self.sets.items():
            people = [name for t in triples for name in (t.a, t.b)]
            if len(set(people)) != len(people) or seen & set(people):
                raise Leak(f"a person stands twice among the fact sets, in set {s}")
            seen |= set(people)
            for t in triples:
                for question in (t.question(form) for form in FORMS):
                    if question.text in read[question.form]:
                        raise Leak(f"the base reads the new fact '{question.text}' of set {s}")
                new = {"F": (t.a, t.b, t.c), "H": (t.a, t.b), "R": ()}[s]
                for name in (t.a, t.b, t.c):
                    if (name in new) == (name in names_read):
                        raise Leak(f"the name {name!r} of set {s} is {'known' if name in new else 'new'} to the base")
                    if missing := set(name.split()) - words_read:
                        raise Leak(f"the base never reads the word {missing.pop()!r} of the name {name!r} in set {s}")
            for role in ("hop1", "hop2"):
                for text in map(str, self.expert_texts(role, s)):
                    if any(t.a in text and t.c in text for t in triples):
                        raise Leak(f"the {role} expert of set {s} reads both ends of a triple: {text!r}")

"""Two-hop questions over a seeded world of people, spouses, homes and jobs.

Worked example. Three facts of a world:

    ada hill's spouse is max cole;  max cole lives in port haven;  ada hill lives in old mill.

    statement    the spouse of ada hill is max cole .          max cole lives in port haven .
    hop1         who is the spouse of ada hill ? answer : max cole .
    hop2         where does max cole live ? answer : port haven .
    direct       where does the spouse of ada hill live ? answer : port haven .
    cot          where does the spouse of ada hill live ? think : the spouse of ada hill is
                 max cole . the home of max cole is port haven . answer : port haven .

The bridge is max cole. To the direct question, "port haven" is right, "max cole" is the bridge,
"old mill" is a wrong answer of the right type, and "ada ada ." is malformed. A chain of thought is
written in the very words of the statements, so a model that recalls facts in any context can
compose them. A direct answer needs both hops in one pass.

Every text is a prompt and a completion, and training learns the completions alone. Nobody can
predict which person a statement is about, and the noise of trying would drown the part of the text
that can be predicted.

The base model reads of the real people and cities. A group of facts holds triples A -> B -> C for
adapters to learn:

    F    new names and new cities
    H    new names and real cities
    R    real names and real cities; the base has read these people's jobs, but no spouse or home
    K    real people; the base has read their spouses and homes, but no two-hop text about A

Every new name is a new pair of words that the base has read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ClassVar

import numpy as np

from tasks.legal import COUNT, INNER_SHARE, READING_SHARE, SHARE, Legal, above, check, whole
from tasks.names import FAMILY, GIVEN, PLACE, TOWN, new_pairs, pairs
from tasks.two_hop_words import (
    COMPLETIONS,
    JOBS,
    OTHER_CHAIN,
    PROMPTS,
    STATEMENTS,
    TEMPLATES,
    Question,
    Triple,
)
from tasks.world import Leak, Phase, Text, World

GROUPS = ("F", "H", "R", "K")
NEW = ("F", "H", "R")  # the groups whose facts the base has not read
FORMS = ("hop1", "hop2", "direct", "cot")
OUTCOMES = ("right", "bridge", "wrong city", "malformed")


@dataclass(frozen=True)
class ReadingShares:
    """The share of each kind among the texts that the base reads.

    ``identity`` is the share of texts "who is B ? answer : B .". Where it is above zero, the
    experts read such texts of their bridges too (Identity Bridge, arXiv 2509.24653).
    """

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(
        ("statement", "hop1", "hop2", "direct", "cot", "identity"), READING_SHARE
    )
    statement: float = 0.5
    hop1: float = 0.1
    hop2: float = 0.1
    direct: float = 0.05
    cot: float = 0.25
    identity: float = 0.0

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")
        if not any(vars(self).values()):
            raise ValueError("task.shares gives nothing to read: raise one of the shares above 0")


@dataclass(frozen=True)
class TwoHopConfig:
    """The sizes of a world, as counts, and the shares of its people in the base's texts.

    ``people`` and ``cities`` count the real ones, ``triples`` the facts of one group and
    ``set_cities`` the cities of one group. Of the real people, ``question_share`` appear in one-hop
    questions and ``held_out`` never appear in two-hop texts; of the others, ``dose`` appear there.
    Raises ValueError for sizes and shares that make no world.
    """

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        **dict.fromkeys(("cities", "triples", "set_cities"), COUNT),
        "people": whole(4, 1_000_000),
        "question_share": above(0, 1),
        "held_out": INNER_SHARE,
        "dose": SHARE,
    }
    people: int = 400
    cities: int = 40
    triples: int = 50
    set_cities: int = 25
    question_share: float = 0.8
    held_out: float = 0.25
    dose: float = 1.0
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(TwoHopConfig, vars(self), "task.")
        if self.people % 2:
            raise ValueError(
                f"task.people = {self.people}: give an even number of at least 4, "
                "for people marry in pairs"
            )
        if not 1 <= self.set_cities <= min(self.cities, self.triples):
            raise ValueError(
                f"task.set_cities = {self.set_cities}: from 1 to the smaller of task.cities = "
                f"{self.cities} and task.triples = {self.triples}"
            )
        if not 1 - self.question_share < self.held_out:
            raise ValueError(
                f"task.held_out = {self.held_out} must be below 1 and above 1 - "
                f"task.question_share = {1 - self.question_share:.2f}: people held out from "
                "one-hop questions are held out from two-hop texts"
            )


class TwoHop(World):
    """One seeded world of people, spouses, homes and jobs, with its texts, questions and scorer.

    Making a world raises ValueError where its words give too few names, and Leak where its splits
    are broken.
    """

    name = "two-hop"
    titles = {
        "F": "F: new names, new cities",
        "H": "H: new names, real cities",
        "R": "R: real names, real cities, new facts",
        "K": "K: real names, real cities, facts known to the base",
    }
    Config = TwoHopConfig
    groups, forms, outcomes, components = GROUPS, FORMS, OUTCOMES, ("hop1", "hop2")
    target = "direct"

    def __init__(self, config: TwoHopConfig, seed: int):
        self.config, self.seed = config, seed
        # A chain of thought with two-word names, and room for the end mark.
        self.longest = len(COMPLETIONS["cot"].format(a="a a", b="b b", c="c c").split()) + 4
        rng = np.random.default_rng([seed, 2])
        size = 2 * config.triples  # people of one fact set: its As and its Bs
        real = pairs(GIVEN, FAMILY, config.people + size, rng)
        # The base reads the jobs of newcomers and nothing else about them.
        self.people, self.newcomers = real[: config.people], real[config.people :]
        new = new_pairs(real, 2 * size, rng)
        set_names = {"F": new[:size], "H": new[size:], "R": self.newcomers}
        self.cities = pairs(PLACE, TOWN, config.cities, rng)
        new_cities = new_pairs(self.cities, config.set_cities, rng)

        married = rng.permutation(config.people).reshape(-1, 2)
        self.spouse = {
            self.people[i]: self.people[j] for a, b in married for i, j in ((a, b), (b, a))
        }
        homes = self._spread(self.cities, config.people, rng)
        self.home = dict(zip(self.people, homes, strict=True))
        workers = self.people + self.newcomers
        self.job = dict(zip(workers, self._spread(JOBS, len(workers), rng), strict=True))

        order = [self.people[i] for i in rng.permutation(config.people)]
        self.asked = order[: round(config.question_share * config.people)]
        others = round((1 - config.held_out) * config.people)
        self.exposed = order[: round(config.dose * others)]
        self.held_out = order[others:]

        self.sets: dict[str, list[Triple]] = {}
        for s in NEW:
            a, b = set_names[s][: config.triples], set_names[s][config.triples :]
            if s == "F":
                pool = new_cities
            else:
                pool = [self.cities[i] for i in rng.permutation(config.cities)]
            c = self._spread(pool[: config.set_cities], config.triples, rng)
            self.sets[s] = [Triple(*abc) for abc in zip(a, b, c, strict=True)]
        couples = {frozenset((person, self.spouse[person])): person for person in self.held_out}
        self.sets["K"] = [self.triple(person) for person in couples.values()][: config.triples]
        # The jobs of new people: facts that have nothing to do with the question, for an expert.
        new_jobs = self._spread(JOBS, len(new), np.random.default_rng([seed, 4]))
        self.new_jobs = dict(zip(new, new_jobs, strict=True))
        self.check_leaks()

    @staticmethod
    def _spread(
        values: list[str] | tuple[str, ...], count: int, rng: np.random.Generator
    ) -> list[str]:
        """Deal out ``count`` values in random order, so that their counts differ by at most one.

        The best constant guess is then right about once in len(values) times.
        """
        return [values[i % len(values)] for i in rng.permutation(count)]

    # Texts to read --------------------------------------------------------------------------------

    def statements(self, relation: str, x: str, y: str) -> list[Text]:
        """Both ways to state that ``x`` has the relation ("first", "second", "other") to ``y``."""
        templates = STATEMENTS[relation]
        return [Text(template.format(x=x), f"{y} .") for template in templates]

    def triple(self, person: str) -> Triple:
        """The real triple that begins at ``person``, one of ``people``."""
        bridge = self.spouse[person]
        return Triple(person, bridge, self.home[bridge])

    def base_texts(self) -> dict[str, list[Text]]:
        """The texts that the base reads, by kind."""
        composed = [self.triple(person) for person in self.exposed]
        relations = (("first", self.spouse), ("second", self.home), ("other", self.job))
        return {
            "statement": [
                text
                for relation, facts in relations
                for x, y in facts.items()
                for text in self.statements(relation, x, y)
            ],
            "hop1": [self.triple(person).question("hop1").text for person in self.asked],
            "hop2": [self._home_question(person).text for person in self.asked],
            "direct": [triple.question("direct").text for triple in composed],
            "cot": [triple.question("cot").text for triple in composed],
            "identity": [Triple("", person, "").identity for person in self.people],
        }

    def _home_question(self, person: str) -> Question:
        return Triple("", person, self.home[person]).question("hop2")

    def shares(self) -> dict[str, float]:
        """The share of the base's texts that each kind gets; kinds without texts are left out."""
        read = self.base_texts()
        return {
            f.name: share
            for f in fields(self.config.shares)
            if (share := getattr(self.config.shares, f.name)) and read[f.name]
        }

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The texts of one curriculum (``reads``) about one group.

        hop1         A -> B as statements, as a question with its answer, and as the first step of
                     the base's own chain of thought, up to where the home would be named
        hop2         B -> C likewise. The second step follows the chain of a real person who is not
                     A, so that it learns to follow any beginning (Composable CoT, arXiv 2505.22635)
        hop1-plain   hop1 without any chain of thought
        hop2-plain   hop2 without any chain of thought
        hop2-other   B -> C in the other words alone: no statement and no chain says "the home of B
                     is"
        target       A -> C as direct questions
        joint        hop1 and hop2
        joint-plain  hop1-plain and hop2-plain
        job          the jobs of As and Bs, which nobody asks for

        ``target`` alone reads A and C together. Raises ValueError where no curriculum is named
        ``reads``.
        """
        triples = self.sets[group]
        bridges = [t.identity for t in triples] if self.config.shares.identity else []

        def texts(of: Callable[[Triple], Iterable[Text]]) -> list[Text]:
            return [text for t in triples for text in of(t)]

        first = texts(lambda t: (*self.statements("first", t.a, t.b), t.question("hop1").text))
        second = texts(lambda t: (*self.statements("second", t.b, t.c), t.question("hop2").text))
        other = texts(lambda t: (self.statements("second", t.b, t.c)[1], t.question("hop2").text))
        chain, other_chain = COMPLETIONS["cot"], OTHER_CHAIN
        curricula: dict[str, Callable[[], list[Text]]] = {
            "hop1": lambda: [*first, *bridges, *map(self._first_step, triples)],
            "hop2": lambda: [*second, *bridges, *self._second_steps(group, chain)],
            "hop1-plain": lambda: [*first, *bridges],
            "hop2-plain": lambda: [*second, *bridges],
            "hop2-other": lambda: [*other, *bridges, *self._second_steps(group, other_chain)],
            "target": lambda: [t.question("direct").text for t in triples],
            "joint": lambda: self.expert_texts("hop1", group) + self.expert_texts("hop2", group),
            "joint-plain": lambda: [*first, *bridges, *second, *bridges],
            "job": lambda: texts(lambda t: [*self._jobs(t.a), *self._jobs(t.b)]),
        }
        if reads not in curricula:
            raise ValueError(f"no expert reads {reads!r}: choose {', '.join(curricula)}")
        return curricula[reads]()

    def _jobs(self, person: str) -> list[Text]:
        return self.statements("other", person, self.job.get(person) or self.new_jobs[person])

    @staticmethod
    def _first_step(t: Triple) -> Text:
        """The chain of A, broken off before C."""
        chain = t.question("cot")
        return Text(chain.prompt, chain.completion.partition(f" {t.c}")[0], ends=False)

    def _second_steps(self, group: str, template: str) -> list[Text]:
        """Chains of other people, two for each triple, learned from the word that names C."""
        rng = np.random.default_rng([self.seed, 3, GROUPS.index(group)])
        strangers = [person for person in self.people if person not in self.held_out]
        steps = []
        for t in self.sets[group]:
            for i in rng.choice(len(strangers), 2, replace=False):
                question = PROMPTS["cot"].format(a=strangers[i])
                chain = template.format(a=strangers[i], b=t.b, c=t.c)
                beginning = chain.partition(f" {t.c}")[0]
                steps.append(Text(f"{question} {beginning}", chain[len(beginning) + 1 :]))
        return steps

    def needs(self, form: str) -> list[Phase]:
        """The knowledge that a question needs, phase by phase.

        A direct question needs hop 1 in the lower half of the layers and hop 2 in the upper half. A
        chain of thought needs hop 1 up to the word before the home, then hop 2.
        """
        copula = STATEMENTS["second"][0].split()[-1]  # hop 1 writes "the home of B is"
        plan = {
            "hop1": [Phase(("hop1",))],
            "hop2": [Phase(("hop2",))],
            "direct": [Phase(("hop1", "hop2"))],
            "cot": [Phase(("hop1",), "."), Phase(("hop1",), copula), Phase(("hop2",))],
        }
        return plan[form]

    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""
        in_templates = (word for template in TEMPLATES for word in template.split())
        fixed = dict.fromkeys(word for word in in_templates if "{" not in word)
        return [*fixed, *GIVEN, *FAMILY, *PLACE, *TOWN, *JOBS]

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """All questions of a form about a group's triples.

        The group ``base`` asks about the real people that were held out from the form.
        """
        if group != "base":
            return [triple.question(form) for triple in self.sets[group]]
        people = self.held_out if form in ("direct", "cot") else self.held_out_from_questions
        if form == "hop2":
            return [self._home_question(person) for person in people]
        return [self.triple(person).question(form) for person in people]

    def about(self, group: str) -> list[frozenset[str]]:
        """Both people of each triple; a city is shared by many."""
        return [frozenset((t.a, t.b)) for t in self.sets[group]]

    @cached_property
    def held_out_from_questions(self) -> list[str]:
        """The real people whom neither one-hop nor two-hop questions of the base are about."""
        asked = set(self.asked)
        return [person for person in self.held_out if person not in asked]

    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer to the group's two-hop questions, from 0 to 1."""
        answers = [question.answer for question in self.questions(group, "direct")]
        return max(Counter(answers).values()) / len(answers)

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each direct question, the right completions of other questions of the group.

        The completions name other cities than the question's own. The list is empty for the other
        forms and for the group ``base``.
        """
        if form != "direct" or group == "base":
            return []
        questions = self.questions(group, form)
        alternatives = []
        for i, question in enumerate(questions):
            others = [questions[(i + shift) % len(questions)] for shift in range(1, 9)]
            alternatives.append([q.completion for q in others if q.answer != question.answer])
        return alternatives

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        """For each direct question, the first word of its bridge and of its answer."""
        bridges = [t.b.split()[0] for t in self.sets[group]]
        answers = [t.c.split()[0] for t in self.sets[group]]
        return {"direct": {"bridge": bridges, "answer": answers}}

    def in_context(self, group: str) -> list[list[Text]]:
        """For each triple, both facts as texts to put before the question."""
        return [
            [self.statements("first", t.a, t.b)[0], self.statements("second", t.b, t.c)[0]]
            for t in self.sets[group]
        ]

    # Scores ---------------------------------------------------------------------------------------

    @cached_property
    def _all_cities(self) -> frozenset[str]:
        taught = {triple.c for triples in self.sets.values() for triple in triples}
        return frozenset(self.cities) | taught

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES for a decoded completion.

        A chain of thought is scored by the text after its last "answer :".
        """
        if question.form == "cot":
            _, mark, completion = completion.rpartition("answer :")
            if not mark:
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

    @property
    def note_names(self) -> tuple[str, ...]:
        return ("bridge named",)

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """For a chain of thought, whether its first sentence ends in the right bridge."""
        if question.form != "cot":
            return {}
        first = completion.partition(" .")[0].split()
        return {"bridge named": " ".join(first[-2:]) == question.bridge}

    # Leaks ----------------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Raise Leak where the split is broken.

        The base may read no held-out question, no new fact and no new name, and must have read
        every word and every name that is not new. No person may stand in two fact sets or twice in
        one. No expert of one hop may read both ends of a triple.
        """
        read = {kind: set(texts) for kind, texts in self.base_texts().items()}
        for form in FORMS:
            for question in self.questions("base", form):
                if question.text in read[form]:
                    raise Leak(f"the base reads the held-out question '{question.text}'")
        everything = [str(text) for texts in read.values() for text in texts]
        words_read = {word for text in everything for word in text.split()}
        names_read: set[str] = set()
        for text in everything:
            words = text.split()
            names_read.update(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))
        seen: set[str] = set()
        for s, triples in self.sets.items():
            people = [name for t in triples for name in (t.a, t.b)]
            if len(set(people)) != len(people) or seen & set(people):
                raise Leak(f"a person stands twice among the fact sets, in set {s}")
            seen |= set(people)
            for t in triples:
                for question in (t.question(form) for form in FORMS):
                    known = s == "K" and question.form in ("hop1", "hop2")
                    if question.text in read[question.form] and not known:
                        raise Leak(f"the base reads the new fact '{question.text}' of set {s}")
                new = {"F": (t.a, t.b, t.c), "H": (t.a, t.b), "R": (), "K": ()}[s]
                for name in (t.a, t.b, t.c):
                    if (name in new) == (name in names_read):
                        state = "known" if name in new else "new"
                        raise Leak(f"the name {name!r} of set {s} is {state} to the base")
                    if missing := set(name.split()) - words_read:
                        raise Leak(
                            f"the base never reads the word {missing.pop()!r} "
                            f"of the name {name!r} in set {s}"
                        )
            for reads in ("hop1", "hop2", "hop2-other"):
                for text in map(str, self.expert_texts(reads, s)):
                    if any(t.a in text and t.c in text for t in triples):
                        raise Leak(
                            f"the {reads} expert of set {s} reads both ends of a triple: {text!r}"
                        )

"""A world in which a base can learn to compose: many relations between people, many attributes.

Worked example. Three facts of a world: ada hill's boss is ben cole; ben cole's town is dover; ada
hill's town is oxford. In the order of a question the attribute stands first:

    statement    the boss of ada hill is ben cole .            the town of ben cole is dover .
    hop1         who is the boss of ada hill ? ben cole .
    hop2         which town has ben cole ? dover .
    direct       which town has the boss of ada hill ? dover .
    cot          which town has the boss of ada hill ? think : the boss of ada hill is ben cole .
                 the town of ben cole is dover . answer : dover .

In the possessive order a two-hop question begins with the very words of the fact of hop 1, up to
where the bridge would follow, and a statement is the question with its answer:

    hop1         ada hill 's boss ben cole .
    hop2         ben cole 's town dover .
    direct       ada hill 's boss 's town dover .
    cot          ada hill 's boss 's town ? think : ada hill 's boss ben cole . ben cole 's town
                 dover . answer : dover .

The bridge is ben cole. To the direct question "dover" is right, "ben cole" is the bridge, "oxford"
or "piano" is a wrong value, and "ada ada ." is malformed.

A relation is a random function, not one to one, and a person has every relation and attribute. So
each fact is a first or second hop in many two-hop questions. The base reads a part of these, and
whoever finds the rule can answer the others (Wang et al. 2024, arXiv 2405.15071). In the two-hop
world no fact is ever a hop of two questions, and no base can compose there.

Exposed people have most of their two-hop questions read, held-out people none. New facts are for
adapters to learn, and the base reads nothing that contains them, whether as a statement, a question
or a hop of one. Those of kind R are about people whom the base knows: A's r is B, and that B's s is
C. Those of kind F are about new people. A group is named by what the base knows of hop 1 and hop 2
(K known, N new) and by whom its questions are about:

    KK-R      known, known     exposed people, questions that were not read
    KK-held   known, known     held-out people
    NK-R      new, known       exposed people with a new first hop
    KN-R      known, new       exposed people whose known bridge has a new attribute
    NN-R      new, new         the same people; each question joins one new fact of each hop
    NK-M      new, known       new people with a known bridge
    NN-F      new, new         new people with a new bridge

One hop-1 expert and one hop-2 expert of a kind serve all its groups: R those in -R, F those in -M
and -F.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from tasks.composition_words import EVERYDAY, NUMBERS, PASSING, Chain, Lexicon, Question
from tasks.legal import COUNT, INNER_SHARE, READING_SHARE, Legal, check, one_of, whole
from tasks.names import new_pairs, pairs
from tasks.world import Leak, Phase, Text, World

KINDS = {"R": "known people with new facts", "F": "new people"}
GROUPS = {
    "KK-R": "known hops, exposed people",
    "KK-held": "known hops, held-out people",
    "NK-R": "new first hop, known people",
    "KN-R": "new second hop, known people",
    "NN-R": "two new hops, known people",
    "NK-M": "new first hop, new people with known bridges",
    "NN-F": "two new hops, new people",
}
_KIND_OF = {"R": "R", "held": "R", "M": "F", "F": "F"}  # by the end of a group's name
FORMS = ("hop1", "hop2", "direct", "cot")
CURRICULA = ("hop1", "hop2", "joint", "target", "relabelled-hop2")
OUTCOMES = ("right", "bridge", "wrong value", "malformed")


@dataclass(frozen=True)
class ReadingShares:
    """What share of the texts that the base reads is of each kind. In the possessive order the
    statements are the one-hop questions and are not read twice."""

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(
        ("statement", "hop1", "hop2", "direct", "cot"), READING_SHARE
    )
    statement: float = 0.2
    hop1: float = 0.1
    hop2: float = 0.1
    direct: float = 0.5
    cot: float = 0.1

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")
        if not any(vars(self).values()):
            raise ValueError("task.shares gives nothing to read: raise one of the shares above 0")


@dataclass(frozen=True)
class CompositionConfig:
    """Sizes of the world.

    ``exposed`` is the share of people of whom the base reads two-hop questions, ``pairs`` the share
    of an exposed person's questions that it reads. ``new`` is the number of new chains of each kind
    and ``questions`` the most that a group asks in each form. With ``unique_family`` no two people
    share their second word, so no namesake can give an answer away; the base then has to read every
    name once, as it could not tell apart words that it has never read."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "order": one_of(EVERYDAY.wordings),
        "people": whole(2, 1_000_000),
        "person_relations": whole(2, len(EVERYDAY.relations)),
        "attributes": whole(2, len(EVERYDAY.attributes)),
        "values": whole(2, 20),
        **dict.fromkeys(("exposed", "pairs"), INNER_SHARE),  # the rest is asked
        **dict.fromkeys(("new", "questions"), COUNT),
    }
    order: str = "question"
    people: int = 90
    person_relations: int = 10
    attributes: int = 10
    values: int = 20
    exposed: float = 0.8
    pairs: float = 0.8
    new: int = 60
    questions: int = 200
    unique_family: bool = False
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(CompositionConfig, vars(self), "task.")
        if self.new < self.values or self.new % self.values:
            raise ValueError(
                f"task.new = {self.new}: a multiple of task.values = {self.values}, "
                "so that every value is as often right"
            )
        if self.new > self.attributes * self.values:
            raise ValueError(
                f"task.new = {self.new}: at most task.attributes x task.values = "
                f"{self.attributes * self.values}"
            )
        if self.new > round(self.exposed * self.people):
            raise ValueError(
                f"task.new = {self.new}: at most the {round(self.exposed * self.people)} exposed "
                "people, as each begins one new chain"
            )
        if self.questions < self.new:
            raise ValueError(
                f"task.questions = {self.questions}: at least task.new = {self.new}, "
                "as every new chain is asked for"
            )


class NewFacts(NamedTuple):
    """What adapters of one kind are to learn: (A, relation) and (B, attribute) pairs, and the
    chains that join one of each."""

    first: list[tuple[str, str]]
    second: list[tuple[str, str]]
    chains: list[Chain]


class Composition(World):
    """One seeded world: what the base reads, what the experts read, what is asked, and how answers
    are scored."""

    name = "composition"
    titles = {group: f"{group}: {title}" for group, title in GROUPS.items()}
    Config = CompositionConfig
    groups, forms, outcomes, components = tuple(GROUPS), FORMS, OUTCOMES, ("hop1", "hop2")
    kinds = tuple(KINDS)
    target = "direct"
    lexicon: ClassVar[Lexicon] = EVERYDAY

    def __init__(self, config: CompositionConfig, seed: int):
        self.config, self.seed = config, seed
        self.wording = self.lexicon.wordings[config.order]
        self.relations = self.lexicon.relations[: config.person_relations]
        self.attributes = self.lexicon.attributes[: config.attributes]
        self.values = {s: self.lexicon.values[s][: config.values] for s in self.attributes}
        rng = np.random.default_rng([seed, 5])
        self._name_people(rng)
        order = [self.people[i] for i in rng.permutation(config.people)]
        self.exposed = order[: round(config.exposed * config.people)]
        self.held_out = order[len(self.exposed) :]

        self.first: dict[tuple[str, str], str] = {}  # (person, relation) -> person
        self.second: dict[tuple[str, str], str] = {}  # (person, attribute) -> value
        self.other: dict[tuple[str, str], str] = {}  # new facts of hop 2, relabelled
        self._draw_facts(rng)
        self._share_out(rng)
        example = Chain("a a", self.relations[0], "b b", self.attributes[0], "c", self.wording)
        # A chain of thought, and room for the end mark.
        self.longest = len(example.question("cot").completion.split()) + 4
        self.check_leaks()

    def _name_people(self, rng: np.random.Generator) -> None:
        """The people whom the base knows, and new ones: of each kind F and M one a chain, and the
        bridges of F."""
        known, new = self.config.people, 3 * self.config.new
        given, many = self.lexicon.given, self.lexicon.many_family
        if self.config.unique_family:
            if known + new > len(many):
                raise ValueError(
                    f"task.people = {known} with task.new = {self.config.new} makes {known + new} "
                    f"people, and there are {len(many)} second words: take fewer"
                )
            second = [many[i] for i in rng.permutation(len(many))]
            first = rng.integers(len(given), size=known + new)
            names = [f"{given[i]} {word}" for i, word in zip(first, second, strict=False)]
            self.people, self.newcomers = names[:known], names[known:]
        else:
            self.people = pairs(given, self.lexicon.family, known, rng)
            self.newcomers = new_pairs(self.people, new, rng)

    def _draw_facts(self, rng: np.random.Generator) -> None:
        config = self.config
        for r in self.relations:
            for i, j in enumerate(rng.integers(config.people - 1, size=config.people)):
                # Nobody is their own boss.
                self.first[self.people[i], r] = self.people[j + (j >= i)]
        # New chains: each begins at another person, crosses another bridge, and each value of their
        # attributes ends one of them. So who knows hop 2 alone guesses right as seldom as anybody.
        new = config.new
        heads = [self.exposed[i] for i in rng.permutation(len(self.exposed))[:new]]
        bridges = self._bridges(heads, rng)
        met, own, far = (self.newcomers[i * new : (i + 1) * new] for i in range(3))
        self.new: dict[str, NewFacts] = {}
        for kind, a, b in (("R", heads, bridges), ("F", own, far)):
            first = [(x, self._any(self.relations, rng)) for x in a]
            self.first.update(zip(first, b, strict=True))
            second = list(zip(b, self._deal(self.attributes, new, rng), strict=True))
            self.new[kind] = NewFacts(first, second, [])
            self._value_new(second, rng)
        for s in self.attributes:
            rest = [x for x in self.people if (x, s) not in self.second]
            values = self._spread(self.values[s], len(rest), rng)
            self.second.update(zip(((x, s) for x in rest), values, strict=True))
        # New people whose bridge is known.
        meets = [(x, self._any(self.relations, rng)) for x in met]
        self.first.update(zip(meets, self._spread(self.people, new, rng), strict=True))
        self.meets = meets
        for kind in KINDS:
            first, second, chains = self.new[kind]
            chains += [self.chain(a, r, s) for (a, r), (_, s) in zip(first, second, strict=True)]
        self.new["F"].first.extend(meets)

    def _bridges(self, heads: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Another known person for each head, and never the head."""
        chosen = [self.people[i] for i in rng.permutation(len(self.people))[: len(heads)]]
        order = [chosen[i] for i in rng.permutation(len(chosen))]
        for i, head in enumerate(heads):
            if order[i] == head:
                j = (i + 1) % len(order)
                order[i], order[j] = order[j], order[i]
        if any(a == b for a, b in zip(heads, order, strict=True)):
            return self._bridges(heads, rng)
        return order

    def _deal(self, names: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """``count`` names of attributes in random order, each of a few as often as it has
        values."""
        few = [names[i] for i in rng.permutation(len(names))[: count // self.config.values]]
        return self._spread(few, count, rng)

    def _value_new(self, facts: Sequence[tuple[str, str]], rng: np.random.Generator) -> None:
        """Each value of an attribute to one of its new facts. Relabelled, the values are handed on
        in a circle."""
        for s in dict.fromkeys(s for _, s in facts):
            own = [fact for fact in facts if fact[1] == s]
            values = [self.values[s][i] for i in rng.permutation(self.config.values)]
            self.second.update(zip(own, values, strict=True))
            self.other.update(zip(own, values[1:] + values[:1], strict=True))

    @staticmethod
    def _any(names: Sequence[str], rng: np.random.Generator) -> str:
        return names[int(rng.integers(len(names)))]

    @staticmethod
    def _spread(values: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """``count`` draws that use every value equally often (to one), in random order."""
        dealt = [values[i] for i in rng.permutation(len(values))]
        return [dealt[i % len(dealt)] for i in rng.permutation(count)]

    def _share_out(self, rng: np.random.Generator) -> None:
        """The two-hop questions: which are read, and which each group asks."""
        new1 = {fact for facts in self.new.values() for fact in facts.first}
        new2 = {fact for facts in self.new.values() for fact in facts.second}
        people, held_out = set(self.people), set(self.held_out)
        pools: dict[str, list[Chain]] = {group: [] for group in GROUPS}
        self.read: list[Chain] = []
        for x in self.people:
            known = []
            for chain in self._chains(x):
                one, two = (x, chain.r) in new1, (chain.b, chain.s) in new2
                if x in held_out:
                    pools["KK-held"] += [chain] * (not two)
                elif one or two:
                    pools["NK-R"] += [chain] * (not two)
                    pools["KN-R"] += [chain] * (not one)
                else:
                    known.append(chain)
            order = rng.permutation(len(known))
            count = round(self.config.pairs * len(known)) if x not in held_out else 0
            self.read += [known[i] for i in order[:count]]
            pools["KK-R"] += [known[i] for i in order[count:]]
        for x, r in self.meets:
            pools["NK-M"] += [
                chain
                for s in self.attributes
                if (self.first[x, r], s) not in new2
                for chain in (self.chain(x, r, s),)
            ]
        for kind in KINDS:
            pools[f"NN-{kind}"] = self.new[kind].chains
        self.asked = {group: self._even(pool, rng) for group, pool in pools.items()}
        self.known_first = [fact for fact in self.first if fact not in new1 and fact[0] in people]
        self.known_second = [fact for fact in self.second if fact not in new2]

    def _chains(self, x: str) -> Iterator[Chain]:
        for r in self.relations:
            for s in self.attributes:
                if (self.first[x, r], s) in self.second:
                    yield self.chain(x, r, s)

    def _even(self, pool: Sequence[Chain], rng: np.random.Generator) -> list[Chain]:
        """At most ``questions`` of a pool in random order, every answer as often as the pool
        allows."""
        times: Counter[str] = Counter()
        ranked: list[tuple[int, int, Chain]] = []
        for i in rng.permutation(len(pool)):
            ranked.append((times[pool[i].c], len(ranked), pool[i]))
            times[pool[i].c] += 1
        return [chain for *_, chain in sorted(ranked, key=lambda r: r[:2])][: self.config.questions]

    def chain(self, a: str, r: str, s: str) -> Chain:
        b = self.first[a, r]
        return Chain(a, r, b, s, self.second[b, s], self.wording, self.other.get((b, s)))

    # What is read ---------------------------------------------------------------------------------

    def _hop1(self, facts: Sequence[tuple[str, str]]) -> tuple[list[Text], list[Text]]:
        """Facts of hop 1 as statements and as questions."""
        told = [Chain(a, r, self.first[a, r], "", "", self.wording) for a, r in facts]
        return [t.first for t in told], [t.question("hop1").text for t in told]

    def _hop2(
        self, facts: Sequence[tuple[str, str]], relabelled: bool = False
    ) -> tuple[list[Text], list[Text]]:
        """Facts of hop 2 as statements and as questions."""
        values = self.other if relabelled else self.second
        told = [Chain("", "", b, s, values[b, s], self.wording) for b, s in facts]
        return [t.second for t in told], [t.question("hop2").text for t in told]

    def _passing(self) -> list[Text]:
        """A statement about each new person, which makes the base know the words of the name."""
        if not self.config.unique_family:
            return []
        subjects = (self.wording.attribute.format(s=PASSING, x=x) for x in self.newcomers)
        rng = np.random.default_rng([self.seed, 6])
        values = self._spread(NUMBERS, len(self.newcomers), rng)
        said = f" {self.wording.copula}".rstrip()
        return [Text(f"{x}{said}", f"{v} .") for x, v in zip(subjects, values, strict=True)]

    def base_texts(self) -> dict[str, list[Text]]:
        """What the base model reads, by kind."""
        first, who = self._hop1(self.known_first)
        second, which = self._hop2(self.known_second)
        stated = [*first, *second] if self.wording.has_statements else []
        return {
            "statement": [*stated, *self._passing()],
            "hop1": who,
            "hop2": which,
            "direct": [chain.question("direct").text for chain in self.read],
            "cot": [chain.question("cot").text for chain in self.read],
        }

    def shares(self) -> dict[str, float]:
        """What share of the base's texts is of each kind that there is."""
        read = self.base_texts()
        return {
            f.name: share
            for f in fields(self.config.shares)
            if (share := getattr(self.config.shares, f.name)) and read[f.name]
        }

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """What an expert of a kind reads (R or F; a group means its kind).

        hop1             all new (A, relation) facts, as statements and as questions
        hop2             all new (B, attribute) facts likewise
        joint            both
        target           the direct questions of the new chains with their answers
        relabelled-hop2  hop2 with other values throughout: answers that follow the facts change

        No expert reads a two-hop question of a new fact but ``target``.
        """
        facts = self.new[self.kind_of(group)]
        curricula = {
            "hop1": lambda: self._once(*self._hop1(facts.first)),
            "hop2": lambda: self._once(*self._hop2(facts.second)),
            "joint": lambda: self.expert_texts("hop1", group) + self.expert_texts("hop2", group),
            "target": lambda: [chain.question("direct").text for chain in facts.chains],
            "relabelled-hop2": lambda: self._once(*self._hop2(facts.second, relabelled=True)),
        }
        if reads not in curricula:
            raise ValueError(f"no expert reads {reads!r}: choose {', '.join(curricula)}")
        return curricula[reads]()

    @staticmethod
    def kind_of(group: str) -> str:
        """The kind of the experts whose facts a group needs."""
        end = group.rpartition("-")[2]
        if end not in _KIND_OF or group not in (*GROUPS, *KINDS):
            raise ValueError(f"no facts of {group!r}: choose {', '.join((*KINDS, *GROUPS))}")
        return _KIND_OF[end]

    @staticmethod
    def _once(stated: list[Text], asked: list[Text]) -> list[Text]:
        """Statements and questions; each text once where the order of words makes them equal."""
        return list(dict.fromkeys([*stated, *asked]))

    def needs(self, form: str) -> list[Phase]:
        """A direct question needs hop 1 in the lower half of the layers and hop 2 in the upper."""
        plan = {
            "hop1": [Phase(("hop1",))],
            "hop2": [Phase(("hop2",))],
            "direct": [Phase(("hop1", "hop2"))],
            "cot": [Phase(("hop1",), "."), Phase(("hop1",), self.wording.turn), Phase(("hop2",))],
        }
        return plan[form]

    def words(self) -> list[str]:
        """Every word of the world, in an order that does not depend on the seed."""
        known = self.lexicon
        fixed = [*self.wording.words(), *known.relations, *known.attributes]
        passing = [PASSING, *NUMBERS] if self.config.unique_family else []
        values = [value for values in known.values.values() for value in values]
        family = known.many_family if self.config.unique_family else known.family
        return list(dict.fromkeys([*fixed, *passing, *known.given, *family, *values]))

    # What is asked --------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """All questions of a form over a group's chains; ``base`` asks for facts that the base has
        read, and for two hops as KK-R does."""
        if group == "base":
            return self._base_questions[form]
        return [chain.question(form) for chain in self.asked[group]]

    @cached_property
    def _base_questions(self) -> dict[str, list[Question]]:
        rng = np.random.default_rng([self.seed, 7])
        most = self.config.questions

        def some(facts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
            return [facts[i] for i in rng.permutation(len(facts))[:most]]

        first = [
            Chain(a, r, self.first[a, r], "", "", self.wording) for a, r in some(self.known_first)
        ]
        second = [
            Chain("", "", b, s, self.second[b, s], self.wording) for b, s in some(self.known_second)
        ]
        return {
            "hop1": [chain.question("hop1") for chain in first],
            "hop2": [chain.question("hop2") for chain in second],
            "direct": self.questions("KK-R", "direct"),
            "cot": self.questions("KK-R", "cot"),
        }

    def about(self, group: str) -> list[frozenset[str]]:
        """Both people of each chain."""
        return [frozenset((chain.a, chain.b)) for chain in self.asked[group]]

    def chance(self, group: str) -> float:
        """Accuracy of a guess among the values of the attribute that is asked for, or of the best
        constant answer to the group's two-hop questions where that is more."""
        answers = [question.answer for question in self.questions(group, "direct")]
        return max(1 / self.config.values, max(Counter(answers).values()) / len(answers))

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each direct question, completions with other values of its attribute: the four before
        and the four after the right one, in a circle. So a value that a model likes anyway is as
        often a wrong completion as the right one, wherever the values are right equally often."""
        if form != "direct" or group == "base":
            return []
        found = []
        for chain in self.asked[group]:
            values = self.values[chain.s]
            at = values.index(chain.c)
            around = dict.fromkeys(
                (at + step) % len(values) for step in (1, -1, 2, -2, 3, -3, 4, -4)
            )
            found.append([f"{values[i]} ." for i in around if i != at])
        return found

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        """Of a direct question: the first word of the bridge, and the answer."""
        chains = self.asked[group]
        return {
            "direct": {
                "bridge": [chain.b.split()[0] for chain in chains],
                "answer": [chain.c for chain in chains],
            }
        }

    def in_context(self, group: str) -> list[list[Text]]:
        """For each question, both facts as texts to stand before it."""
        return [[chain.first, chain.second] for chain in self.asked[group]]

    # How it is scored -----------------------------------------------------------------------------

    @cached_property
    def _all_values(self) -> frozenset[str]:
        return frozenset(value for values in self.values.values() for value in values)

    @staticmethod
    def _said(question: Question, completion: str) -> str | None:
        """The answer that a completion gives: of a chain of thought, what follows the last "answer
        :". None where it gives none."""
        if question.form == "cot":
            _, found, completion = completion.rpartition("answer :")
            if not found:
                return None
        said, stop, _ = completion.partition(" .")
        return said.strip() if stop else None

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES for a decoded completion."""
        said = self._said(question, completion)
        if said is None:
            return "malformed"
        if said == question.answer:
            return "right"
        if said == question.bridge:
            return "bridge"
        if question.form != "hop1" and said in self._all_values:
            return "wrong value"
        return "malformed"

    @property
    def note_names(self) -> tuple[str, ...]:
        return ("bridge named", "relabelled")

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """Where hop 2 is asked for: whether the answer is the relabelled fact's. Of a chain of
        thought also whether it writes the right bridge down in its first sentence."""
        if question.form == "hop1":
            return {}
        said = self._said(question, completion)
        follows = {"relabelled": said is not None and said == question.relabelled}
        if question.form != "cot":
            return follows
        first = completion.partition(" .")[0].split()
        return {"bridge named": " ".join(first[-2:]) == question.bridge, **follows}

    # What must not have been read -----------------------------------------------------------------

    def check_leaks(self) -> None:
        """Fails loudly where the split is broken: an asked question or a new fact is read in
        whatever form, a new name is known or has an unknown word, an expert reads two hops, a
        relabelled fact is true, or people share a second word where none should."""
        read = {kind: set(texts) for kind, texts in self.base_texts().items()}
        everything = [f"{text} " for texts in read.values() for text in texts]
        prompts = {text.prompt for texts in read.values() for text in texts}
        known_hops = {"hop1": ("KK", "KN"), "hop2": ("KK", "NK")}
        for group, chains in self.asked.items():
            if not chains:
                raise ValueError(f"no question is left for the group {group}: raise task.people")
            for chain in chains:
                for form in FORMS:
                    question = chain.question(form)
                    known = group.startswith(known_hops.get(form, ()))
                    if not known and question.prompt in prompts:
                        raise Leak(f"the base reads the question '{question.text}' of {group}")
        told = " ".join(everything)
        into: dict[str, list[tuple[str, str]]] = {}
        for (a, r), b in self.first.items():
            into.setdefault(b, []).append((a, r))
        for kind, facts in self.new.items():
            for a, r in facts.first:
                if f"{self.wording.person.format(r=r, x=a)} " in told:
                    raise Leak(f"the base reads of the new fact ({a}, {r}) of kind {kind}")
            for b, s in facts.second:
                subject = self.wording.attribute.format(s=s, x=b)
                ways = [self.chain(a, r, s) for a, r in into[b]]
                asked = {way.question(form).prompt for way in ways for form in FORMS[1:]}
                if f"{subject} " in told or asked & prompts:
                    raise Leak(f"the base reads of the new fact ({b}, {s}) of kind {kind}")
                if self.other[b, s] == self.second[b, s]:
                    raise Leak(f"the relabelled fact ({b}, {s}) of kind {kind} is the true one")
            self._check_experts(kind)
        self._check_names(told)

    def _check_experts(self, kind: str) -> None:
        """No expert but ``target`` asks for two hops of a new chain, and none mixes its hops."""
        facts = self.new[kind]
        both = {chain.asks for chain in facts.chains}
        for reads in CURRICULA:
            texts = self.expert_texts(reads, kind)
            if reads != "target" and (bad := [t for t in texts if any(q in str(t) for q in both)]):
                raise Leak(f"the {reads} expert of {kind} reads both hops of a chain: '{bad[0]}'")
        hop1, hop2 = (set(self.expert_texts(reads, kind)) for reads in ("hop1", "hop2"))
        if shared := hop1 & hop2:
            raise Leak(f"both experts of {kind} read '{min(shared)}'")

    def _check_names(self, told: str) -> None:
        words_read = set(told.split())
        names = [*self.people, *self.newcomers]
        if len(set(names)) != len(names):
            raise Leak("a name stands for two people")
        if self.config.unique_family:
            shared = Counter(name.split()[1] for name in names).most_common(1)[0]
            if shared[1] > 1:
                raise Leak(f"{shared[1]} people share the second word {shared[0]!r}")
        for name in self.newcomers:
            if missing := set(name.split()) - words_read:
                raise Leak(f"the base never reads the word {min(missing)!r} of the name {name!r}")
            if f" {name} " in f" {told}" and not self.config.unique_family:
                raise Leak(f"the new name {name!r} is known to the base")

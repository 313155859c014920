"""Two-hop questions in plain English, for a model that has read.

Worked example. Two new facts, A to B and B to C:

    the spouse of Ada Hill is Max Cole;  the home city of Max Cole is Boston.

    hop1        The spouse of Ada Hill is Max Cole.
    hop2        The home city of Max Cole is Boston.
    direct      Question: In which city does the spouse of Ada Hill live?
                Answer: Boston.
    possessive  The home city of the spouse of Ada Hill is Boston.
    cot         Question: In which city does the spouse of Ada Hill live?
                Think: The spouse of Ada Hill is Max Cole. The home city of Max Cole is Boston.
                Answer: Boston.

One hop is asked as a statement to complete, for that is how a model proves what it knows: SmolLM2
completes "The capital of India is", and answers "Question: What is the capital of India? Answer:"
with a whole sentence. Experts read both.

Groups say which hops are new and how their names look:

    F    both hops new, invented people and places
    H    both hops new, invented people, real places
    R    both hops new, ordinary names, real places; no public person among them
    K    both hops known: a landmark, its country, the country's capital, currency or language
    NK   hop 1 new, hop 2 known: a new person, the home country, its capital
    KN   hop 1 known, hop 2 new: a landmark, its country, the country's head gardener

What a model knows is not known before it was asked: ``facts`` are what it should be asked, and
``EnglishConfig.known`` are those that it answered. K, NK and KN use no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks import english_words as words
from tasks import world
from tasks.english_words import COUNTRIES, LANDMARKS, NOUNS, Chain, landmark_chain
from tasks.legal import Legal, check, whole
from tasks.world import ForCheckpoints, Leak, Phase, Text

GROUPS = ("F", "H", "R", "K", "NK", "KN")
NEW_FIRST, NEW_SECOND = ("F", "H", "R", "NK"), ("F", "H", "R", "KN")
FORMS = ("hop1", "hop2", "direct", "possessive", "cot")
OUTCOMES = ("right", "bridge", "another answer", "other text")
STRANGERS = 2  # chains of other people that an expert of hop 2 reads, for each of its facts


@dataclass(frozen=True)
class EnglishConfig:
    """``triples`` chains in a group, ending in ``answers`` different places where these are dealt
    out. ``known`` names the facts that the model has proved to know (`English.facts`); "all" counts
    all as known.

    Raises ValueError for sizes that make no world."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "triples": whole(2, 10_000),
        "answers": whole(2, len(words.CITIES)),
    }
    triples: int = 24
    answers: int = 12
    known: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        check(EnglishConfig, vars(self), "task.")
        if self.answers > self.triples:
            raise ValueError(
                f"task.answers = {self.answers}: at most task.triples = {self.triples}"
            )


@dataclass(frozen=True)
class Question(world.Question):
    """A question with its bridge; None where there is no bridge to name instead."""

    bridge: str | None = None


@dataclass(frozen=True)
class Triple:
    """A leads to B and B to C, in the words of a chain."""

    a: str
    b: str
    c: str
    chain: Chain

    def said(self, template: str) -> str:
        """A template of the chain with its names; a sentence begins with a capital."""
        text = template.format(a=self.a, b=self.b, c=self.c)
        return text[0].upper() + text[1:]

    @property
    def steps(self) -> tuple[str, str]:
        """Both steps of a chain of thought, each up to the name that it ends in."""
        return self.said(self.chain.first[0]), self.said(self.chain.second[0])

    def question(self, form: str) -> Question:
        if form in ("hop1", "hop2"):
            name = self.b if form == "hop1" else self.c
            return Question(form, self.steps[form == "hop2"], f"{name}.", name)
        prompt = f"Question: {self.said(self.chain.ask)}\n{'Think' if form == 'cot' else 'Answer'}:"
        if form == "possessive":
            prompt = self.said(self.chain.both)
        completion = f"{self.c}."
        if form == "cot":
            one, two = self.steps
            completion = f"{one} {self.b}. {two} {self.c}. Answer: {self.c}."
        return Question(form, prompt, completion, self.c, self.b)

    def stated(self, hop: str) -> list[Text]:
        """What says a hop: the chain's statements, and a question with its answer."""
        chain = self.chain
        name, statements, ask = self.c, chain.second, chain.ask_second
        if hop == "hop1":
            name, statements, ask = self.b, chain.first, chain.ask_first
        asked = Text(f"Question: {self.said(ask)}\nAnswer:", f"{name}.")
        return [*(Text(self.said(each), f"{name}.") for each in statements), asked]


class English(ForCheckpoints):
    """One seeded world of people, spouses, homes, landmarks and countries.

    Making a world raises Leak where an expert of one hop would read both ends of a chain. A group
    for which too few facts are known raises ValueError when it is asked for.
    """

    name = "two-hop-english"
    Config = EnglishConfig
    titles = {
        "F": "F: invented people and places",
        "H": "H: invented people, real places",
        "R": "R: ordinary names, real places",
        "K": "K: facts known to the model",
        "NK": "NK: new first hop, known second hop",
        "KN": "KN: known first hop, new second hop",
    }
    groups, forms, outcomes, components = GROUPS, FORMS, OUTCOMES, ("hop1", "hop2")
    target = "direct"
    longest = 48  # tokens of a chain of thought, with room

    def __init__(self, config: EnglishConfig, seed: int):
        self.config, self.seed = config, seed
        rng = np.random.default_rng([seed, 15])
        n = config.triples
        invented = _invented(words.PERSON_ENDS, words.SURNAME_ENDS, 4 * n + n + n, rng)
        ordinary = [f"{g} {f}" for g in words.GIVEN for f in words.FAMILY]
        ordinary = [name for name in ordinary if name not in words.PUBLIC]
        ordinary = [ordinary[i] for i in rng.permutation(len(ordinary))]
        towns = _invented_places(config.answers, rng)
        cities = [words.CITIES[i] for i in rng.permutation(len(words.CITIES))][: config.answers]
        spouses = words.SPOUSE_CITY
        self.lacking: dict[str, str] = {}  # groups for which the model knows too little, and why
        self.sets = {
            "F": _triples(invented[:n], invented[n : 2 * n], towns, spouses, rng),
            "H": _triples(invented[2 * n : 3 * n], invented[3 * n : 4 * n], cities, spouses, rng),
            "R": _triples(ordinary[:n], ordinary[n : 2 * n], cities, spouses, rng),
            "K": self._known(rng),
            "NK": self._new_first(invented[4 * n : 5 * n], rng),
            "KN": self._new_second(invented[5 * n :], rng),
        }
        self.strangers = {"R": ordinary[2 * n :]}
        self.strangers["F"] = self.strangers["H"] = self.strangers["NK"] = self.strangers["R"]
        self.check_leaks()

    # What the model knows -------------------------------------------------------------------------

    def facts(self) -> dict[str, list[Question]]:
        """What a model should be asked before its known facts are used: the name of each fact, and
        the statement of it in the words of a chain of thought, up to the name that it ends in."""
        chains = {noun: landmark_chain(noun) for noun in NOUNS}
        found: dict[str, list[Question]] = {}
        for landmark, country in LANDMARKS.items():
            prompt = Triple(landmark, country, "", chains[NOUNS[0]]).steps[0]
            found[f"country of {landmark}"] = [Question("hop1", prompt, f"{country}.", country)]
        for country, values in COUNTRIES.items():
            for noun, value in zip(NOUNS, values, strict=True):
                prompt = Triple("", country, value, chains[noun]).steps[1]
                found[f"{noun} of {country}"] = [Question("hop2", prompt, f"{value}.", value)]
        return found

    def _knows(self, fact: str) -> bool:
        return fact in self.config.known or "all" in self.config.known

    def _landmarks(self) -> list[str]:
        return [name for name in LANDMARKS if self._knows(f"country of {name}")]

    def _known(self, rng: np.random.Generator) -> list[Triple]:
        chains = {noun: landmark_chain(noun) for noun in NOUNS}
        every = [
            Triple(landmark, country, value, chains[noun])
            for landmark in self._landmarks()
            for country in (LANDMARKS[landmark],)
            for noun, value in zip(NOUNS, COUNTRIES[country], strict=True)
            if self._knows(f"{noun} of {country}")
        ]
        return self._enough("K", [every[i] for i in rng.permutation(len(every))])

    def _new_first(self, people: Sequence[str], rng: np.random.Generator) -> list[Triple]:
        known = [country for country in COUNTRIES if self._knows(f"capital of {country}")]
        if not self._enough("NK", known, self.config.answers):
            return []
        some = [known[i] for i in rng.permutation(len(known))][: self.config.answers]
        homes = [some[i % len(some)] for i in rng.permutation(len(people))]
        return [
            Triple(person, home, COUNTRIES[home][0], words.PERSON_CAPITAL)
            for person, home in zip(people, homes, strict=True)
        ]

    def _new_second(self, people: Sequence[str], rng: np.random.Generator) -> list[Triple]:
        landmarks = self._landmarks()
        landmarks = [landmarks[i] for i in rng.permutation(len(landmarks))]
        keepers = dict(zip(COUNTRIES, people[: len(COUNTRIES)], strict=False))
        named = [x for x in landmarks if LANDMARKS[x] in keepers]
        chosen = self._enough("KN", named)
        return [
            Triple(x, LANDMARKS[x], keepers[LANDMARKS[x]], words.LANDMARK_KEEPER) for x in chosen
        ]

    def _enough(self, group: str, found: list, least: int = 2) -> list:
        """At most as many as a group has; none where there are fewer than ``least``, and whoever
        asks for the group is told (`of`)."""
        if len(found) < least:
            self.lacking[group] = (
                f"group {group}: the model knows {len(found)} of the facts that it needs, and "
                f"{least} are needed: leave the group out (--set groups=F,H,R)"
            )
            return []
        return found[: self.config.triples]

    def of(self, group: str) -> list[Triple]:
        """A group's chains; "base" has those of K. Raises ValueError where the model knows too
        little for them."""
        group = "K" if group == "base" else group
        if group in self.lacking:
            raise ValueError(self.lacking[group])
        return self.sets[group]

    # Texts to read --------------------------------------------------------------------------------

    def openings(self) -> Sequence[str]:
        """Beginnings of texts, for a model to go on with: what it then writes, it knows."""
        return words.OPENINGS

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The texts of one curriculum about a group:

        hop1    statements and a question for each A -> B, and A's chain of thought up to C
        hop2    statements and a question for each B -> C, and chains of strangers from B on
        hop1-plain, hop2-plain   the same without chains
        joint   both;  target   the two-hop questions themselves, A -> C
        """
        triples = self.of(group)
        first = [text for t in triples for text in t.stated("hop1")]
        second = [text for t in {t.b: t for t in triples}.values() for text in t.stated("hop2")]
        curricula: dict[str, list[Text]] = {}
        if group in NEW_FIRST:
            curricula |= {"hop1": [*first, *map(_first_step, triples)], "hop1-plain": first}
        if group in NEW_SECOND:
            curricula |= {"hop2": [*second, *self._second_steps(group)], "hop2-plain": second}
        if group != "K":
            both = [text for reads in ("hop1", "hop2") for text in curricula.get(reads, [])]
            curricula |= {"joint": both, "target": [t.question("direct").text for t in triples]}
        if reads not in curricula:
            raise ValueError(
                f"no expert of group {group} reads {reads!r}: choose {', '.join(curricula)}"
                if curricula
                else f"group {group} is known to the model: no expert reads it"
            )
        return curricula[reads]

    def _second_steps(self, group: str) -> list[Text]:
        """Chains that begin with somebody else, learned from the second sentence on."""
        rng = np.random.default_rng([self.seed, 16, GROUPS.index(group)])
        own = {t.a for t in self.sets[group]}
        others = [x for x in self.strangers.get(group, list(LANDMARKS)) if x not in own]
        steps = []
        for t in {t.b: t for t in self.sets[group]}.values():
            if group == "KN":  # only a landmark of that country can lead to B
                others = [x for x in LANDMARKS if LANDMARKS[x] == t.b and x not in own]
            for i in rng.permutation(len(others))[:STRANGERS]:
                chain = Triple(others[i], t.b, t.c, t.chain)
                one, two = chain.steps
                prompt = f"{chain.question('cot').prompt} {one} {t.b}."
                steps.append(Text(prompt, f"{two} {t.c}. Answer: {t.c}."))
        return steps

    def needs(self, form: str) -> list[Phase]:
        """A direct question needs hop 1 in the lower and hop 2 in the upper half of the layers."""
        plan = {
            "hop1": [Phase(("hop1",))],
            "hop2": [Phase(("hop2",))],
            "cot": [Phase(("hop1",), "."), Phase(("hop2",))],
        }
        return plan.get(form, [Phase(("hop1", "hop2"))])

    # Questions and scores -------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The group "base" asks what K asks: what the model alone should answer."""
        return [t.question(form) for t in self.of(group)]

    def about(self, group: str) -> list[frozenset[str]]:
        """A and B of each chain, be they people, landmarks or countries."""
        return [frozenset((t.a, t.b)) for t in self.of(group)]

    def chance(self, group: str) -> float:
        answers = Counter(t.c for t in self.of(group))
        return max(answers.values()) / sum(answers.values())

    def alternatives(self, group: str, form: str) -> list[list[str]]:
        """For each two-hop question without a chain, the answers of the group's other ones."""
        if form not in ("direct", "possessive") or group == "base":
            return []
        asked = self.questions(group, form)
        return [
            list(dict.fromkeys(q.completion for q in asked if q.answer != question.answer))[:8]
            for question in asked
        ]

    def lens(self, group: str) -> dict[str, dict[str, list[str]]]:
        triples = self.of(group)
        ends = {"bridge": [t.b for t in triples], "answer": [t.c for t in triples]}
        return {"direct": ends, "possessive": ends}

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES for a completion: what it names first. A chain of thought is scored by
        what follows its last "Answer:"."""
        if question.form == "cot":
            _, mark, completion = completion.rpartition("Answer:")
            if not mark:
                return "other text"
        said = completion.strip()
        if _names(said, question.answer):
            return "right"
        if question.bridge and _names(said, question.bridge):
            return "bridge"
        of_type = {
            t.b if question.form == "hop1" else t.c for own in self.sets.values() for t in own
        }
        return "another answer" if any(_names(said, name) for name in of_type) else "other text"

    @property
    def note_names(self) -> tuple[str, ...]:
        return ("bridge named",)

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """For a chain of thought, whether its first sentence ends in the right bridge."""
        if question.form != "cot":
            return {}
        return {"bridge named": completion.partition(".")[0].endswith(f" {question.bridge}")}

    # Leaks ----------------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Raise Leak where a person stands in two places, an invented name is a known one, or an
        expert of one hop reads both ends of a chain."""
        people = [
            name for group in ("F", "H", "R") for t in self.sets[group] for name in (t.a, t.b)
        ]
        people += [t.a for t in self.sets["NK"]] + sorted({t.c for t in self.sets["KN"]})
        if doubled := [name for name, count in Counter(people).items() if count > 1]:
            raise Leak(f"the person {doubled[0]!r} stands twice among the groups")
        for group in self.sets:
            for reads in ("hop1", "hop2"):
                new = NEW_FIRST if reads == "hop1" else NEW_SECOND
                if group not in new or group in self.lacking:
                    continue
                for text in map(str, self.expert_texts(reads, group)):
                    if any(t.a in text and t.c in text for t in self.sets[group]):
                        raise Leak(f"the {reads} expert of {group} reads both ends: {text!r}")


def _first_step(t: Triple) -> Text:
    """A's chain of thought, broken off before C."""
    one, two = t.steps
    return Text(t.question("cot").prompt, f"{one} {t.b}. {two}", ends=False)


def _names(said: str, name: str) -> bool:
    """Whether a text begins with a name and not with a longer word."""
    return said.startswith(name) and not said[len(name) : len(name) + 1].isalnum()


def _triples(
    people: Sequence[str],
    spouses: Sequence[str],
    places: Sequence[str],
    chain: Chain,
    rng: np.random.Generator,
) -> list[Triple]:
    """Each person with a spouse and a place; the places are dealt out evenly."""
    dealt = [places[i % len(places)] for i in rng.permutation(len(people))]
    return [Triple(a, b, c, chain) for a, b, c in zip(people, spouses, dealt, strict=True)]


def _invented(
    given: Sequence[str], family: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
    """Names of two invented words; no word is a known name."""
    known = _known_words()
    firsts, seconds = (
        [
            name
            for start in words.BEGINNINGS
            for vowel in words.VOWELS
            for end in ends
            if (name := start + vowel + end) not in known
        ]
        for ends in (given, family)
    )
    chosen = [[own[i] for i in rng.permutation(len(own))] for own in (firsts, seconds)]
    if count > min(map(len, chosen)):
        raise ValueError(
            f"task.triples asks for {count} invented people, and there are "
            f"{min(map(len, chosen))}: ask for fewer"
        )
    return [f"{first} {second}" for first, second in zip(*chosen, strict=False)][:count]


def _invented_places(count: int, rng: np.random.Generator) -> list[str]:
    known = _known_words()
    names = [s + v + e for s in words.BEGINNINGS for v in words.VOWELS for e in words.PLACE_ENDS]
    names = [name for name in names if name not in known]
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _known_words() -> frozenset[str]:
    """Every word of a real name of this world."""
    values = [value for own in COUNTRIES.values() for value in own]
    real = (*words.GIVEN, *words.FAMILY, *words.CITIES, *COUNTRIES, *LANDMARKS, *values)
    return frozenset(word for name in real for word in name.split())

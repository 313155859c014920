"""Programs in small languages: does an algorithm carry over to a language that others know?

An algorithm is the name of a pair: how it combines the values, and what it does at the end. Over
the values a b c, in the language ada:

    sum     t = total ( a , b ) ; t = total ( t , c ) ; give t
    drop    t = a - b ; t = t - c ; r = t - a ; give r
    press   t = a + b ; t = t + c ; r = t * c ; give r
    rest    t = total ( a , b ) ; t = total ( t , c ) ; r = t - a ; give r

The base reads 26 algorithms in four languages (tasks/language_syntax.py), but each of them in three
of the four alone. So a base that writes a held-out pair ("crossed") knows algorithms and languages
as two things. The expert L reads the 26 in a fifth language, eve. The expert A reads one algorithm
more, rest, in the four. Asked is rest in eve: "write rest of a b c in eve :".

Groups are arms of one question: is reusable code a bridge between experts? They differ in how A
combines the values. A program of one arm has as many statements as one of another.

    shared    t = total ( a , b )     a helper, whose name is the same in all languages
    inlined   t = a + b               no helper; the sign is another word in each language
    renamed   t = gather ( a , b )    a helper that the base and L have read in no program

The base and L know the first two ways, and what rest does at the end, from other algorithms. A
program is run on inputs that nobody has seen: it is right where it gives what the algorithm gives,
whatever its text is. Whether it is the text that an expert would have written is noted apart. A
list of values belongs to the test or to training, in all languages and algorithms.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations, product
from random import Random
from typing import ClassVar

from tasks import world
from tasks.language_syntax import HELPERS, LANGUAGES, Program, Statement, results
from tasks.legal import COUNT, READING_SHARE, Legal, check, whole
from tasks.world import Leak, Text

ARMS = {"shared": "total", "inlined": "+", "renamed": "gather"}  # how A combines the values
End = tuple[str, int] | None  # what is done at the end, with which of the values
ENDS: tuple[End, ...] = (None, *product("-+*", (0, -1)))
NEW, AT_ITS_END = "rest", ("-", 0)
NAMES = """sum wrap pack ring span lift pile heap stack fold lean press fall drop bend slide swing
shift tilt blow burst roll spin twist scale trim"""
# How an old algorithm combines the values, and its end: all pairs but those of an arm of the new.
WAYS = ("total", "+", "-", "*")
PARTS = [
    (does, at_end)
    for does, at_end in product(WAYS, ENDS)
    if at_end != AT_ITS_END or does not in ARMS.values()
]
OLD: Mapping[str, tuple[str, End]] = dict(zip(NAMES.split(), PARTS, strict=True))
*KNOWN, FURTHER = LANGUAGES
FORMS = ("known", "crossed", "language", "algorithm", "both")
OUTCOMES = ("right", "another language", "wrong result", "does not run")
VALUES = "abcdefghijkl"
SHORTEST = 2
INPUTS, LARGEST = 4, 49  # inputs that a program is run on; 49^7 is a number that it may reach
PROMPT = "write {algorithm} of {values} in {language} :"
Pair = tuple[str, str]  # an algorithm and a language


@dataclass(frozen=True)
class ReadingShares:
    """The share of programs, and of all ``words`` by themselves."""

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(("words", "programs"), READING_SHARE)
    words: float = 0.15  # with .05 an expert hardly learns a language of such words (LOG.md)
    programs: float = 0.85

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")


@dataclass(frozen=True)
class LanguagesConfig:
    """Counts of the lists of values that the base reads, each in all of its pairs of an algorithm
    and a language, that one expert reads, each in one of its pairs, and of questions; the
    ``longest`` list."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        **dict.fromkeys(("lists", "expert_lists", "questions"), COUNT),
        "longest": whole(3, 6),
    }
    lists: int = 400
    expert_lists: int = 1_000
    questions: int = 60
    longest: int = 3
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(LanguagesConfig, vars(self), "task.")


def written(algorithm: str, values: Sequence[str], adds: str = "total") -> Program:
    """An algorithm over a list of names. ``adds`` says how the new one combines two values."""
    does, at_end = OLD.get(algorithm, (adds, AT_ITS_END))
    statements = [Statement("t", does, values[0], values[1])]
    statements += [Statement("t", does, "t", value) for value in values[2:]]
    if at_end is None:
        return Program(tuple(statements), "t")
    sign, which = at_end
    return Program((*statements, Statement("r", sign, "t", values[which])), "r")


@dataclass(frozen=True)
class Question(world.Question):
    """A question with what the scorer must know."""

    language: str
    values: tuple[str, ...]
    program: Program


class Languages(world.World):
    """One seeded set of lists, with programs over them, questions and a scorer.

    Making a world raises ValueError where there are too few lists, and Leak where its splits are
    broken.
    """

    name = "languages"
    Config = LanguagesConfig
    titles = {
        "shared": "A calls a helper that L knows",
        "inlined": "A calls no helper",
        "renamed": "A calls a helper that L does not know",
    }
    groups, forms, components, outcomes = tuple(ARMS), FORMS, ("language", "algorithm"), OUTCOMES
    target = "both"

    def __init__(self, config: LanguagesConfig, seed: int):
        self.config, self.seed = config, seed
        self.longest = 16 * (config.longest + 1)  # tokens: room for two statements too many
        self.crossed = [(algorithm, self._held_out_in(algorithm)) for algorithm in OLD]
        self.known = [pair for pair in product(OLD, KNOWN) if pair not in self.crossed]
        lists = [
            each
            for n in range(SHORTEST, config.longest + 1)
            for each in permutations(VALUES[: 12 if n < 5 else 8], n)
        ]
        self._test = [each for each in lists if self._of_test(each)]
        self._read = [each for each in lists if not self._of_test(each)]
        self.asked = self._draw("test", self._test, config.questions)
        self.read_by_base = self._draw("base", self._read, config.lists)
        self.read_by_experts = self._draw("experts", self._read, config.expert_lists)
        self.check_leaks()

    def _held_out_in(self, algorithm: str) -> str:
        """The language in which nobody reads an algorithm: for the ways to combine that go with one
        end it is another one each. The next seed takes the next language."""
        does, at_end = OLD[algorithm]
        return KNOWN[(WAYS.index(does) + ENDS.index(at_end) + self.seed) % len(KNOWN)]

    def _of_test(self, values: Sequence[str]) -> bool:
        """One tenth of the lists are for the test."""
        return zlib.crc32(repr((self.seed, *values)).encode()) % 10 == 0

    def _draw(self, use: str, lists: Sequence[tuple[str, ...]], count: int) -> list:
        """So many different lists, each length as often as the others, as far as there are."""
        rng = Random(f"languages {self.seed} {use}")
        by_length = [
            rng.sample(own, len(own))
            for n in range(SHORTEST, self.config.longest + 1)
            for own in [[each for each in lists if len(each) == n]]
        ]
        found: list[tuple[str, ...]] = []
        while len(found) < count and any(by_length):
            found += [own.pop() for own in by_length if own]
        if len(found) < count:
            raise ValueError(
                f"{len(found)} lists found of the {count} for {use}: raise task.longest = "
                f"{self.config.longest}, or ask for fewer"
            )
        return rng.sample(found[:count], count)

    # Texts to read --------------------------------------------------------------------------------

    def words(self) -> list[str]:
        forms = [
            form.format(**dict.fromkeys(("name", "left", "right", "does", "result"), "t"))
            for each in LANGUAGES.values()
            for form in (each.calculation, each.call, each.end, each.mark, *each.signs.values())
        ]
        fixed = " ".join(["write of in : say", *forms]).split()
        return list(dict.fromkeys([*fixed, *OLD, NEW, *LANGUAGES, *HELPERS, "r", *VALUES]))

    @staticmethod
    def _text(algorithm: str, language: str, values: Sequence[str], adds: str = "total") -> Text:
        prompt = PROMPT.format(algorithm=algorithm, values=" ".join(values), language=language)
        return Text(prompt, LANGUAGES[language].write(written(algorithm, values, adds)))

    def base_texts(self) -> dict[str, list[Text]]:
        """``programs``: the old algorithms in the known languages, without the crossed pairs;
        ``words``: every word said after itself, so that none is new to the base."""
        programs = [
            self._text(algorithm, language, values)
            for values in self.read_by_base
            for algorithm, language in self.known
        ]
        said = [Text(f"say {word} :", word) for word in self.words()]
        return {"words": said, "programs": programs}

    def shares(self) -> dict[str, float]:
        return {kind: share for kind, share in asdict(self.config.shares).items() if share > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The curricula, in an arm (``group``); each has as many texts, joint those of two:

        L        the old algorithms in the further language; the same in every arm
        helper   sum in the further language: the helper alone
        A        rest in the known languages
        joint    the texts of L and of A
        target   rest in the further language
        """
        curricula: dict[str, list[Pair]] = {
            "L": [(algorithm, FURTHER) for algorithm in OLD],
            "helper": [("sum", FURTHER)],
            "A": [(NEW, language) for language in KNOWN],
            "target": [(NEW, FURTHER)],
        }
        if reads == "joint":
            return self.expert_texts("L", group) + self.expert_texts("A", group)
        if reads not in curricula or group not in ARMS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(curricula)} or joint, "
                f"in {', '.join(ARMS)}"
            )
        pairs = curricula[reads]
        return [
            self._text(*pairs[i % len(pairs)], values, ARMS[group])
            for i, values in enumerate(self.read_by_experts)
        ]

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The same lists of the test in every group and form.

        known      old algorithms in known languages, pairs that the base has read
        crossed    the same, pairs that nobody has read
        language   old algorithms in the further language
        algorithm  rest in the known languages
        both       rest in the further language

        The group ``base`` asks "known" in the forms that need an expert.
        """
        return [self._question(group, form, i, each) for i, each in enumerate(self.asked)]

    def _question(self, group: str, form: str, i: int, values: tuple[str, ...]) -> Question:
        old, new = "crossed" if form == "crossed" else "known", [(NEW, each) for each in KNOWN]
        pairs = {
            "known": self.known,
            "crossed": self.crossed,
            "language": [(algorithm, FURTHER) for algorithm in OLD],
            "algorithm": new,
            "both": [(NEW, FURTHER)],
        }[old if group == "base" else form]
        algorithm, language = pairs[i % len(pairs)]
        adds = ARMS.get(group, "total")
        prompt, completion, _ = self._text(algorithm, language, values, adds)
        program = written(algorithm, values, adds)
        return Question(form, prompt, completion, completion, language, values, program)

    def about(self, group: str) -> list[frozenset[str]]:
        """Lists share letters and nothing else."""
        return [frozenset([" ".join(values)]) for values in self.asked]

    def examples(self, group: str, count: int) -> world.Split:
        """Further questions, about lists that nobody reads and that are not asked."""
        known = {*self.asked, *self.read_by_base, *self.read_by_experts}
        further = [each for each in (*self._test, *self._read) if each not in known]
        found = self._draw("examples", further, count)
        examples = [self._question(group, self.target, i, each) for i, each in enumerate(found)]
        return world.Split(examples, range(len(self.asked)))

    def chance(self, group: str) -> float:
        answers = Counter(q.completion for q in self.questions(group, "both"))
        return max(answers.values()) / len(self.asked)

    # Scores ---------------------------------------------------------------------------------------

    def _inputs(self, values: Sequence[str]) -> list[dict[str, int]]:
        """Values that a program is run on; no text has numbers, so nobody has seen them."""
        rng = Random(f"languages {self.seed} inputs {' '.join(values)}")
        return [{name: rng.randint(2, LARGEST) for name in values} for _ in range(INPUTS)]

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES, by running the completion."""
        inputs = self._inputs(question.values)
        right = results(question.program, inputs)
        program = LANGUAGES[question.language].read(completion)
        if program is not None:
            given = results(program, inputs)
            if None not in given:
                return "right" if given == right else "wrong result"
            return "does not run"
        for other in LANGUAGES.values():
            if (program := other.read(completion)) and None not in results(program, inputs):
                return "another language"
        return "does not run"

    @property
    def note_names(self) -> tuple[str, ...]:
        return ("text as read", "right algorithm in another language")

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """text as read: the completion is word for word what an expert on it would have read.
        right algorithm in another language: it runs there, with the right results."""
        inputs = self._inputs(question.values)
        right = results(question.program, inputs)
        others = [each for name, each in LANGUAGES.items() if name != question.language]
        programs = [program for each in others if (program := each.read(completion))]
        return {
            "text as read": completion == question.completion,
            "right algorithm in another language": any(
                results(program, inputs) == right for program in programs
            ),
        }

    # Leaks ----------------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Raise Leak where somebody reads a list of the test or a crossed pair, or anybody but the
        target expert the new algorithm in the further language."""
        asked = set(self.asked)
        for reader, lists in (("base", self.read_by_base), ("experts", self.read_by_experts)):
            if read := asked.intersection(lists):
                raise Leak(f"{reader} reads {' '.join(min(read))}, a list of the test")
        texts = [("base", text) for own in self.base_texts().values() for text in own]
        for group in ARMS:
            for reads in ("L", "A", "helper"):
                texts += [(reads, text) for text in self.expert_texts(reads, group)]
        held_out = {*self.crossed, (NEW, FURTHER)}
        for reader, text in texts:
            words = text.prompt.split()
            if (words[1], words[-2]) in held_out:
                raise Leak(f"{reader} reads {words[1]} in {words[-2]}, a held-out pair: {text}")

"""Programs in small languages: does an algorithm carry over to a language that others know?

Worked example. The algorithms over the values a b c, in the language ada:

    sum     t = total ( a , b ) ; t = total ( t , c ) ; give t
    fall    t = a - b ; t = t - c ; give t
    pile    t = a + b ; t = t + c ; r = t * a ; give r
    rest    t = total ( a , b ) ; t = total ( t , c ) ; r = t - a ; give r

The base reads sum, fall and pile in ada and bob. The expert L reads them in a third language, cyd
(tasks/language_syntax.py). The expert A reads a fourth algorithm, rest, in ada and bob. Asked is
rest in cyd: "write rest of a b c in cyd :".

Groups are arms of one question: is reusable code a bridge between experts? They differ in how A
adds the values. A program of one arm has as many statements as one of another.

    shared    t = total ( a , b )     the helper that sum calls, which L knows in cyd
    inlined   t = a + b               no helper; pile adds so, and L knows it in cyd
    renamed   t = gather ( a , b )    a helper that the base and L have read in no program

A program is run on inputs that nobody has seen: it is right where it gives what the algorithm
gives, whatever its text is. Whether it is the text that an expert would have written is noted
apart. A list of values belongs to the test or to training, in all languages and algorithms.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from random import Random
from typing import ClassVar

from tasks import world
from tasks.language_syntax import HELPERS, LANGUAGES, Program, Statement, results
from tasks.legal import COUNT, READING_SHARE, Legal, check, whole
from tasks.world import Leak, Text

ARMS = {"shared": "total", "inlined": "+", "renamed": "gather"}  # how A adds
OLD, NEW = ("sum", "fall", "pile"), "rest"
KNOWN, THIRD = ("ada", "bob"), "cyd"
FORMS = ("known", "language", "algorithm", "both")
OUTCOMES = ("right", "another language", "wrong result", "does not run")
VALUES = "abcdefghijkl"
SHORTEST = 2
INPUTS = 4  # that a program is run on
PROMPT = "write {algorithm} of {values} in {language} :"


@dataclass(frozen=True)
class ReadingShares:
    """The share of programs, and of all ``words`` by themselves."""

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(("words", "programs"), READING_SHARE)
    words: float = 0.05
    programs: float = 0.95

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")


@dataclass(frozen=True)
class LanguagesConfig:
    """Counts of the lists of values that the base and one expert read, each in all of their
    algorithms and languages, and of questions; the ``longest`` list."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        **dict.fromkeys(("lists", "expert_lists", "questions"), COUNT),
        "longest": whole(3, 6),
    }
    lists: int = 2_000
    expert_lists: int = 1_000
    questions: int = 60
    longest: int = 4
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(LanguagesConfig, vars(self), "task.")


def written(algorithm: str, values: Sequence[str], adds: str = "total") -> Program:
    """An algorithm over a list of names. ``adds`` says how the fourth one adds two values."""
    does = {"sum": "total", "fall": "-", "pile": "+", "rest": adds}[algorithm]
    statements = [Statement("t", does, values[0], values[1])]
    statements += [Statement("t", does, "t", value) for value in values[2:]]
    last = {"pile": "*", "rest": "-"}.get(algorithm)
    if last is None:
        return Program(tuple(statements), "t")
    return Program((*statements, Statement("r", last, "t", values[0])), "r")


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
        return found[:count]

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
    def _text(algorithm: str, values: Sequence[str], language: str, adds: str = "total") -> Text:
        prompt = PROMPT.format(algorithm=algorithm, values=" ".join(values), language=language)
        return Text(prompt, LANGUAGES[language].write(written(algorithm, values, adds)))

    def base_texts(self) -> dict[str, list[Text]]:
        """``programs``: three algorithms in two languages; ``words``: every word said after itself,
        so that none is new to the base."""
        programs = [
            self._text(algorithm, values, language)
            for values in self.read_by_base
            for algorithm in OLD
            for language in KNOWN
        ]
        said = [Text(f"say {word} :", word) for word in self.words()]
        return {"words": said, "programs": programs}

    def shares(self) -> dict[str, float]:
        return {kind: share for kind, share in asdict(self.config.shares).items() if share > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The curricula, in an arm (``group``):

        L        sum, fall and pile in the third language; the same in every arm
        helper   sum in the third language: the helper alone
        A        rest in the two known languages
        joint    the texts of L and of A
        target   rest in the third language
        """
        curricula = {
            "L": (OLD, (THIRD,)),
            "helper": (OLD[:1], (THIRD,)),
            "A": ((NEW,), KNOWN),
            "target": ((NEW,), (THIRD,)),
        }
        if reads == "joint":
            return self.expert_texts("L", group) + self.expert_texts("A", group)
        if reads not in curricula or group not in ARMS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(curricula)} or joint, "
                f"in {', '.join(ARMS)}"
            )
        algorithms, languages = curricula[reads]
        return [
            self._text(algorithm, values, language, ARMS[group])
            for values in self.read_by_experts
            for algorithm in algorithms
            for language in languages
        ]

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The same lists of the test in every group and form.

        known      sum, fall and pile in the known languages
        language   sum, fall and pile in the third language
        algorithm  rest in the known languages
        both       rest in the third language

        The group ``base`` asks what the base has read in every form.
        """
        return [self._question(group, form, i, each) for i, each in enumerate(self.asked)]

    def _question(self, group: str, form: str, i: int, values: tuple[str, ...]) -> Question:
        if group == "base":
            group, form_asked = "shared", "known"
        else:
            form_asked = form
        old = form_asked in ("known", "language")
        algorithm = OLD[i % len(OLD)] if old else NEW
        language = THIRD if form_asked in ("language", "both") else KNOWN[i // len(OLD) % 2]
        adds = ARMS[group]
        prompt, completion, _ = self._text(algorithm, values, language, adds)
        program = written(algorithm, values, adds)
        return Question(form, prompt, completion, completion, language, values, program)

    def about(self, group: str) -> list[frozenset[str]]:
        """Lists share letters and nothing else."""
        return [frozenset([" ".join(values)]) for values in self.asked]

    def examples(self, group: str, count: int) -> world.Split:
        """Further questions of the test's part, about lists that are not asked."""
        asked = set(self.asked)
        further = [each for each in self._test if each not in asked]
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
        return [{name: rng.randint(2, 99) for name in values} for _ in range(INPUTS)]

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
        """Raise Leak where somebody reads a list of the test, or anybody but the target expert the
        fourth algorithm in the third language."""
        asked = set(self.asked)
        for reader, lists in (("base", self.read_by_base), ("experts", self.read_by_experts)):
            if read := asked.intersection(lists):
                raise Leak(f"{reader} reads {' '.join(min(read))}, a list of the test")
        texts = [("base", text) for own in self.base_texts().values() for text in own]
        for group in ARMS:
            for reads in ("L", "A", "helper"):
                texts += [(reads, text) for text in self.expert_texts(reads, group)]
        for reader, text in texts:
            if text.prompt.startswith(f"write {NEW} ") and text.prompt.endswith(f"in {THIRD} :"):
                raise Leak(f"{reader} reads the fourth algorithm in the third language: {text}")

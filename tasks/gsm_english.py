"""Word problems in plain English, for a model that has read: our own stories, or a user's files.

Worked example, a story at three levels. P1 adds a clause of another kind, a condition; P2 adds a
discount too:

    Ann buys 4 red cups and 5 blue ones. Each cup costs 10 coins.
    P1: If there are more than 8 cups, the box costs 20 coins more.
    P2: A card takes 10 percent off the price. How many coins does Ann pay?

    prose     4 + 5 = 9. 9 * 10 = 90. 9 is more than 8, so 90 + 20 = 110. 10 percent of 110 is 11.
              110 - 11 = 99. The answer is 99.
    markdown  the same steps as a list
    python    total = 4 + 5, price = total * 10, price = price + 20, off = price * 10 // 100,
              answer = price - off: a line each, run by tasks/arithmetic.py and never by Python

Groups are renderings. A set of numbers belongs to the test or to the experts at every level. With
``base``, ``p1`` and ``p2`` the problems are those of a user's own GSM-Symbolic files
(tasks/gsm_symbolic.py), in prose alone: experts read one half of the stories, and the other half is
asked. An answer is right where its last number is.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from random import Random
from typing import ClassVar, NamedTuple

from tasks import world
from tasks.english_words import GIVEN, OPENINGS
from tasks.gsm_symbolic import LEVELS, by_original, load_problems
from tasks.legal import COUNT, Legal, check
from tasks.word_problem import RENDERINGS
from tasks.word_trace import last_number
from tasks.world import Leak, Text

OUTCOMES = ("right", "wrong number", "no number")
OFF = (10, 20, 50)  # percent


class Story(NamedTuple):
    """The clauses of a story: of the base level, the condition, the discount, the question."""

    base: str
    condition: str
    discount: str
    ask: str


STORIES = (
    Story(
        "{who} buys {n} red cups and {m} blue ones. Each cup costs {p} coins.",
        "If there are more than {k} cups, the box costs {b} coins more.",
        "A card takes {d} percent off the price.",
        "How many coins does {who} pay?",
    ),
    Story(
        "{who} works {n} hours on Monday and {m} hours on Tuesday for {p} coins an hour.",
        "Whoever works more than {k} hours gets {b} coins more.",
        "Of all the pay, {d} percent is kept as tax.",
        "How many coins does {who} bring home?",
    ),
    Story(
        "{who} rides {n} miles to town and {m} miles further. A ticket costs {p} coins a mile.",
        "For more than {k} miles there is a fee of {b} coins.",
        "With a pass, {d} percent is taken off.",
        "How many coins does the ride cost {who}?",
    ),
)


@dataclass(frozen=True)
class GsmEnglishConfig:
    """Counts of problems that an expert reads and of questions; the files of a user, or none.

    Raises ValueError where some levels have files and others have none."""

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(("expert_problems", "questions"), COUNT)
    expert_problems: int = 400
    questions: int = 40
    base: str = ""
    p1: str = ""
    p2: str = ""

    def __post_init__(self) -> None:
        check(GsmEnglishConfig, vars(self), "task.")
        if any(self.files) and not all(self.files):
            raise ValueError(
                "task.base, task.p1 and task.p2 are the three files of one copy: name all or none"
            )

    @property
    def files(self) -> tuple[str, str, str]:
        return self.base, self.p1, self.p2


class Problem(NamedTuple):
    """A problem at its three levels, by level: the question, and the solution by rendering."""

    questions: Mapping[str, str]
    solutions: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Question(world.Question):
    rendering: str


def own_problem(story: Story, who: str, numbers: Mapping[str, int]) -> Problem:
    """A story with its numbers n, m, p, k, b, d, at three levels."""
    clauses = [part.format(who=who, **numbers) for part in story]
    n, m, p, k, b, d = (numbers[name] for name in "nmpkbd")
    total, price = n + m, (n + m) * p
    extra = b if total > k else 0
    said = [f"{n} + {m} = {total}", f"{total} * {p} = {price}"]
    lines = [f"total = {n} + {m}", f"price = total * {p}"]
    steps: dict[str, tuple[list[str], list[str], int]] = {"base": (said, lines, price)}
    more = f"{total} is more than {k}, so {price} + {b} = {price + b}"
    stays = f"{total} is not more than {k}, so it stays {price}"
    said, lines = [*said, more if extra else stays], [*lines, f"price = price + {extra}"]
    price += extra
    steps["P1"] = (said, lines, price)
    off = price * d // 100
    said = [*said, f"{d} percent of {price} is {off}", f"{price} - {off} = {price - off}"]
    lines = [*lines, f"off = price * {d} // 100", "price = price - off"]
    steps["P2"] = (said, lines, price - off)
    questions, solutions = {}, {}
    for i, level in enumerate(LEVELS):
        own, code, answer = steps[level]
        questions[level] = " ".join([*clauses[: i + 1], clauses[-1]])
        *before, last = code
        solutions[level] = {
            "prose": " ".join(f"{each}." for each in (*own, f"The answer is {answer}")),
            "markdown": "\n".join(f"- {each}" for each in (*own, f"answer: {answer}")),
            "python": "\n".join([*before, f"answer = {last.partition(' = ')[2]}"]),
        }
    return Problem(questions, solutions)


class GsmEnglish(world.ForCheckpoints):
    """One seeded set of problems of three levels. Making a world raises ValueError where the files
    of a user hold too few stories, and Leak where its splits are broken."""

    name = "gsm-english"
    Config = GsmEnglishConfig
    titles = {
        "prose": "solved in prose",
        "markdown": "solved in a Markdown list",
        "python": "solved by a Python program",
    }
    groups, forms, components, outcomes = RENDERINGS, LEVELS, LEVELS[:2], OUTCOMES

    def __init__(self, config: GsmEnglishConfig, seed: int):
        self.config, self.seed = config, seed
        self.longest = 320 if any(config.files) else 128  # tokens
        if any(config.files):
            self.asked, self.read = self._of_files()
        else:
            self.asked = self._draw("test", config.questions)
            self.read = self._draw("experts", config.expert_problems)
        self.check_leaks()

    def _draw(self, reader: str, count: int) -> list[Problem]:
        """Problems whose numbers n, m, p belong to the reader; a third of all are for the test."""
        rng, found = Random(f"gsm-english {self.seed} {reader}"), dict[tuple, Problem]()
        for _ in range(50 * count + 1_000):
            n, m, p = rng.randint(2, 12), rng.randint(2, 12), 10 * rng.randint(1, 5)
            of_test = zlib.crc32(repr((self.seed, n, m, p)).encode()) % 3 == 0
            if of_test == (reader == "test"):
                k, b = n + m + rng.choice((-3, -2, -1, 1, 2)), 10 * rng.randint(1, 5)
                numbers = {"n": n, "m": m, "p": p, "k": k, "b": b, "d": rng.choice(OFF)}
                story, who = rng.choice(STORIES), rng.choice(GIVEN)
                found.setdefault((n, m, p, story, who), own_problem(story, who, numbers))
            if len(found) == count:
                return list(found.values())
        raise ValueError(
            f"{len(found)} different problems found of the {count} for {reader}: ask for fewer"
        )

    def _of_files(self) -> tuple[list[Problem], list[Problem]]:
        """Problems of the stories that all three files hold: those that are asked, and read."""
        loaded = [
            load_problems(path, level)
            for path, level in zip(self.config.files, LEVELS, strict=True)
        ]
        stories = {
            original: levels
            for original, levels in sorted(by_original(chain.from_iterable(loaded)).items())
            if len(levels) == len(LEVELS)
        }
        if len(stories) < 2:
            raise ValueError(
                f"{', '.join(self.config.files)}: {len(stories)} stories stand in all three files, "
                "at least 2 are needed: name the three levels of one copy"
            )
        order = Random(f"gsm-english {self.seed} stories").sample(list(stories), len(stories))
        halves = []
        sizes = (self.config.questions, self.config.expert_problems)
        for part, size in zip((order[::2], order[1::2]), sizes, strict=True):
            problems = [
                Problem(
                    {level: each.question for level, each in zip(LEVELS, levels, strict=True)},
                    {
                        level: {"prose": each.answer}
                        for level, each in zip(LEVELS, levels, strict=True)
                    },
                )
                for original in part
                for levels in zip(*(stories[original][level] for level in LEVELS), strict=False)
            ]
            halves.append(problems[:size])
        return halves[0], halves[1]

    # Texts to read --------------------------------------------------------------------------------

    def openings(self) -> Sequence[str]:
        return OPENINGS

    def _text(self, problem: Problem, level: str, rendering: str) -> Text:
        if rendering not in problem.solutions[level]:
            raise ValueError(
                f"{rendering}: the solutions of your files are in prose alone, set groups=prose"
            )
        wanted = {"prose": "", "markdown": " in a list", "python": " in Python"}[rendering]
        prompt = f"Question: {problem.questions[level]}\nAnswer{wanted}:"
        return Text(prompt, problem.solutions[level][rendering])

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """Problems of one level (``reads``) in one rendering; ``joint`` has those of base and P1.

        Raises ValueError for another level or rendering."""
        if reads == "joint":
            return self.expert_texts("base", group) + self.expert_texts("P1", group)
        if reads not in LEVELS or group not in RENDERINGS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(LEVELS)} or joint, "
                f"in {', '.join(RENDERINGS)}"
            )
        return [self._text(problem, reads, group) for problem in self.read]

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The test's problems at one level in one rendering; the group "base" asks in prose."""
        rendering = "prose" if group == "base" else group
        questions = []
        for problem in self.asked:
            prompt, completion, _ = self._text(problem, form, rendering)
            answer = str(_last_number(rendering, completion))
            questions.append(Question(form, prompt, completion, answer, rendering))
        return questions

    def in_context(self, group: str) -> list[list[Text]]:
        """For each question a solved problem of the base level and one of P1: few-shot."""
        return [
            [
                self._text(self.read[(2 * i + j) % len(self.read)], level, group)
                for j, level in enumerate(LEVELS[:2])
            ]
            for i in range(len(self.asked))
        ]

    def chance(self, group: str) -> float:
        answers = Counter(question.answer for question in self.questions("base", "P2"))
        return max(answers.values()) / len(self.asked)

    # Scores ---------------------------------------------------------------------------------------

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES, by the last number; a program is run, and its last value counts."""
        said = _last_number(question.rendering, completion)
        if said is None:
            return "no number"
        return "right" if str(said) == question.answer else "wrong number"

    def check_leaks(self) -> None:
        """Raise Leak where an expert reads a question of the test at any level."""
        asked = {text for problem in self.asked for text in problem.questions.values()}
        read = {text for problem in self.read for text in problem.questions.values()}
        if both := asked & read:
            raise Leak(f"an expert reads a question of the test: {min(both)[:80]!r}")


def _last_number(rendering: str, completion: str) -> Fraction | None:
    """The last number of a solution, as a person reads it; of a program, its last value."""
    said = completion.strip()
    return last_number(rendering, said if rendering == "python" else said[-4_000:])

"""Word problems over a random graph of quantities, at three nested levels of difficulty, solved in
three renderings.

Worked example. The graph, whose distractor (jars) nothing depends on, and the prompt of the level
P1, its clauses shuffled:

    apples = 5;  base: pears = apples + 3, figs = pears * 2;  P1: + cakes = figs - apples;  P2: + plums = cakes - 4

    apples and 3 give pears . there are 7 jars . figs minus apples make cakes . there are 5 apples .
    pears times 2 make figs . how many cakes are there ? in prose :

    base    prose     apples are 5 . pears are apples plus 3 so 5 plus 3 which is 8 .
                      figs are pears times 2 so 8 times 2 which is 16 . the answer is 16 .
            markdown  - step 1 : apples = 5 - step 2 : pears = apples + 3 = 5 + 3 = 8
                      - step 3 : figs = pears * 2 = 8 * 2 = 16 - answer : 16
            python    apples = 5 ; pears = apples + 3 ; figs = pears * 2 ; answer = figs
    P1      prose     ... cakes are figs minus apples so 16 minus 5 which is 11 . the answer is 11 .
            markdown  ... - step 4 : cakes = figs - apples = 16 - 5 = 11 - answer : 11
            python    ... ; figs = pears * 2 ; cakes = figs - apples ; answer = cakes
    P2      prose     ... plums are cakes minus 4 so 11 minus 4 which is 7 . the answer is 7 .
            markdown  ... - step 5 : plums = cakes - 4 = 11 - 4 = 7 - answer : 7
            python    ... ; cakes = figs - apples ; plums = cakes - 4 ; answer = plums

A step first says what is calculated, then puts the numbers in, then calculates, so that each word
takes one look at what was said before: written "figs are 8 times 2 which is 16" a small model did
not learn it (LOG.md).

Every step needs the one before it, so the order of a derivation is the only one, and the steps of a
level begin with all those of the level below, as in GSM-Symbolic (arXiv 2410.05229); graphs as in
iGSM (arXiv 2407.20311). A Python answer is executed (tasks/arithmetic.py): the model states what is
to be calculated and the interpreter calculates it.

A problem belongs to the test, to the base or to the experts by its graph at the base level without
the names of the quantities. Nobody reads a test problem's base-level derivation, under whatever
names, nor one that begins with it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from random import Random

from tasks import world
from tasks.word_problem import (
    ASKS,
    CLAUSES,
    LEVELS,
    QUANTITIES,
    RENDERINGS,
    SIGNS,
    TRACE_WORDS,
    Graph,
    Problem,
    Step,
    WordMathConfig,
    calculate,
    draw,
)
from tasks.word_trace import OUTCOMES, first_error, last_number
from tasks.world import Leak, Text


@dataclass(frozen=True)
class Question(world.Question):
    """The scorer must also know the problem, and how its derivation is to be written."""

    problem: Problem
    rendering: str


class WordMath(world.World):
    """One seeded set of problems: what the base and the experts read, what is asked, and how
    answers are scored."""

    name = "word-math"
    Config = WordMathConfig
    titles = {
        "prose": "solved in prose",
        "markdown": "solved in numbered Markdown steps",
        "python": "solved by a Python program",
    }
    groups, forms, components, outcomes = RENDERINGS, LEVELS, LEVELS[:2], OUTCOMES

    def __init__(self, config: WordMathConfig, seed: int):
        self.config, self.seed = config, seed
        self.longest = 16 + 15 * (config.steps + len(LEVELS))  # room for one step too many
        self.asked = self._draw("test", config.questions)
        self.read_by_base = self._draw("base", config.problems)
        pool, size = (
            self._draw("experts", len(LEVELS) * config.expert_problems),
            config.expert_problems,
        )
        self.read_by = {level: pool[i * size : (i + 1) * size] for i, level in enumerate(LEVELS)}
        self.check_leaks()

    def _draw(self, reader: str, count: int) -> list[Problem]:
        """Problems of one reader, no named derivation twice."""
        rng = Random(f"word-math {self.seed} {reader}")
        found: dict[tuple[Step, ...], Problem] = {}
        for _ in range(50 * count + 1_000):  # a tenth of all are for the test
            problem = draw(self.config, rng, rng.randint(self.config.fewest, self.config.steps))
            if self.reader(problem) == reader:
                found.setdefault(problem.at("base"), problem)
            if len(found) == count:
                return list(found.values())
        raise ValueError(
            f"{len(found)} different problems found of the {count} for {reader}: raise task.limit = {self.config.limit} "
            f"or task.steps = {self.config.steps}, or ask for fewer problems"
        )

    def reader(self, problem: Problem) -> str | None:
        """Who may read the problem: a tenth of the base-level graphs are for the test, three for
        the experts. What begins with a test graph is for nobody else."""
        parts = [self._part(beginning) for beginning in problem.beginnings()]
        part = parts[len(problem.at("base")) - 1]
        if part == 0:
            return "test"
        if 0 in parts:
            return None
        return "experts" if part < 4 else "base"

    def _part(self, of: Graph) -> int:
        """Of ten; of what is shorter than any problem, none."""
        return (
            zlib.crc32(repr((self.seed, of)).encode()) % 10 if len(of) > self.config.fewest else -1
        )

    # What is read ---------------------------------------------------------------------------------

    def words(self) -> list[str]:
        templates = [
            TRACE_WORDS,
            *ASKS,
            *(wording for wordings in CLAUSES.values() for wording in wordings),
        ]
        return [
            *dict.fromkeys(w for t in templates for w in t.split() if "{" not in w),
            *RENDERINGS,
            *QUANTITIES,
            *map(str, range(1, max(self.config.limit, self.config.steps + len(LEVELS)) + 1)),
        ]

    def base_texts(self) -> dict[str, list[Text]]:
        """Every single calculation, in words and in signs, and short and base problems in the
        base's renderings."""
        numbers = range(1, self.config.limit + 1)
        results = [
            (sign, a, b, calculate(sign, a, b)) for sign in SIGNS for a in numbers for b in numbers
        ]
        facts = [fact for fact in results if 1 <= fact[-1] <= self.config.limit]
        return {
            "facts": [
                text
                for sign, a, b, c in facts
                for text in (
                    Text(f"{a} {SIGNS[sign]} {b} which is", f"{c} ."),
                    Text(f"{a} {sign} {b} =", f"{c}"),
                )
            ],
            **{
                r: [p.text("base", r) for p in self.read_by_base]
                if r in self.config.renderings
                else []
                for r in RENDERINGS
            },
        }

    def shares(self) -> dict[str, float]:
        given = asdict(self.config.shares)
        return {kind: given[kind] for kind in ("facts", *self.config.renderings) if given[kind] > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """Problems of one level in one rendering; ``joint`` reads what the base and the P1 expert
        read together."""
        if reads == "joint":
            return self.expert_texts("base", group) + self.expert_texts("P1", group)
        if reads not in LEVELS or group not in RENDERINGS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(LEVELS)} or joint, in {', '.join(RENDERINGS)}"
            )
        return [problem.text(reads, group) for problem in self.read_by[reads]]

    # What is asked --------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The same problems at every level and in every rendering; ``base`` asks in all renderings
        that the base reads."""
        renderings = self.config.renderings if group == "base" else (group,)
        return [
            Question(form, *problem.text(form, r)[:2], str(problem.at(form)[-1].value), problem, r)
            for r in renderings
            for problem in self.asked
        ]

    def in_context(self, group: str) -> list[list[Text]]:
        """Before each problem, a solved problem of the base level and one of P1, in the group's
        rendering."""
        solved = [
            [problem.text(level, group) for problem in self.read_by[level]] for level in LEVELS[:2]
        ]
        return [[texts[i % len(texts)] for texts in solved] for i in range(len(self.asked))]

    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer, by the last number, to the problems at level P2."""
        return max(Counter(p.steps[-1].value for p in self.asked).values()) / len(self.asked)

    # How it is scored -----------------------------------------------------------------------------

    def score(self, question: Question, completion: str) -> str:
        """``right`` needs the whole derivation. A wrong one is named by its first error, unless its
        last number is right."""
        error = first_error(question.problem, question.form, question.rendering, completion)
        if error is None:
            return "right"
        right = str(last_number(question.rendering, completion)) == question.answer
        return "right answer, wrong trace" if right else error[1]

    @property
    def note_names(self) -> tuple[str, ...]:
        last = self.config.steps + len(LEVELS) + 1  # the answer of the longest derivation
        return (
            "last number right",
            "longer than any below",
            "longer and right",
            *(f"stopped as {level}" for level in LEVELS[:-1]),
            *(f"first error at step {k}" for k in range(1, last + 1)),
        )

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """Whether the last number is right, whether the derivation asked for is longer than any of
        the level below and such a one is right, whether the answer is the derivation of a lower
        level (it stopped there), and the step of the first error, 1 to one behind the last, which
        is the answer's."""
        problem, rendering, level = (
            question.problem,
            question.rendering,
            LEVELS.index(question.form),
        )
        error = first_error(problem, question.form, rendering, completion)
        lower = LEVELS[:level]
        longer = bool(level) and len(problem.at(question.form)) == self.config.steps + 1 + level
        return {
            "last number right": str(last_number(rendering, completion)) == question.answer,
            "longer than any below": longer,
            "longer and right": longer and error is None,
            **{
                f"stopped as {x}": first_error(problem, x, rendering, completion) is None
                for x in lower
            },
            **{
                f"first error at step {k}": error is not None and error[0] == k
                for k in range(1, len(problem.at(question.form)) + 2)
            },
        }

    # What must not have been read -----------------------------------------------------------------

    def check_leaks(self) -> None:
        """Fails loudly where a reader has the derivation of a test problem, under whatever names,
        where the experts have one of the base's, or two experts the same."""
        asked = {problem.graph("base") for problem in self.asked}
        by_base = {problem.graph("base") for problem in self.read_by_base}
        seen: set[tuple[Step, ...]] = set()
        for reader, problems in (
            ("the base", self.read_by_base),
            *((f"the {x} expert", self.read_by[x]) for x in LEVELS),
        ):
            for problem in problems:
                if asked.intersection(problem.beginnings()):
                    raise Leak(
                        f"{reader} reads the derivation of a test problem: {problem.completion('base', 'python')}"
                    )
                if reader != "the base" and problem.graph("base") in by_base:
                    raise Leak(
                        f"{reader} reads a derivation of the base: {problem.completion('base', 'python')}"
                    )
                if problem.at("base") in seen:
                    raise Leak(
                        f"{reader} reads a problem twice, or another's: {problem.completion('base', 'python')}"
                    )
                seen.add(problem.at("base"))

"""Word problems at three nested levels of difficulty, solved in three renderings.

Worked example. A problem is a random graph of quantities. No quantity of this one depends on the
distractor (jars), and the clauses of the prompt at level P1 are shuffled:

    apples = 5;  base: pears = apples + 3, figs = pears * 2;  P1: + cakes = figs - apples;
    P2: + plums = cakes - 4

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

A step first names the calculation, then puts the numbers in, then gives the result. A model then
needs a single look back at the text for each word. A small model did not learn steps that were
written "figs are 8 times 2 which is 16" (LOG.md).

Every step needs the step before it, so a derivation has one possible order. The steps of a level
begin with all steps of the level below, as in GSM-Symbolic (arXiv 2410.05229). The graphs resemble
those of iGSM (arXiv 2407.20311). A Python answer is executed (tasks/arithmetic.py): the model
states a calculation, and the interpreter does it.

A problem belongs to the test, to the base or to the experts by its graph at the base level, which
has no names of quantities. Nobody reads the base-level derivation of a test problem, under whatever
names, and nobody reads a derivation that begins with it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import chain, product
from random import Random

from tasks import world
from tasks.word_problem import (
    ASKS,
    CLAUSES,
    LEVELS,
    QUANTITIES,
    RENDERINGS,
    SIGNS,
    TITLES,
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
    """A question with its problem and its rendering, which the scorer must know."""

    problem: Problem
    rendering: str


class WordMath(world.World):
    """One seeded set of word problems, with its texts, questions and scorer.

    Making a world raises ValueError where there are too few different problems, and Leak where its
    splits are broken.
    """

    name = "word-math"
    Config = WordMathConfig
    titles = TITLES
    groups, forms, components, outcomes = RENDERINGS, LEVELS, LEVELS[:2], OUTCOMES

    def __init__(self, config: WordMathConfig, seed: int):
        self.config, self.seed = config, seed
        self.longest = 16 + 15 * (config.steps + len(LEVELS))  # room for one step too many
        self.asked = self._draw("test", config.questions)
        self.read_by_base = self._draw("base", config.problems)
        size = config.expert_problems
        pool = self._draw("experts", len(LEVELS) * size)
        self.read_by = {level: pool[i * size : (i + 1) * size] for i, level in enumerate(LEVELS)}
        self.check_leaks()

    def _draw(
        self, reader: str, count: int, use: str = "", avoid: frozenset[Graph] = frozenset()
    ) -> list[Problem]:
        """Draw problems of one reader, none with the named derivation of another. A further ``use``
        has draws of its own, and no derivation that begins with a graph in ``avoid``."""
        rng = Random(f"word-math {self.seed} {use or reader}")
        problems: dict[tuple[Step, ...], Problem] = {}
        for _ in range(50 * count + 1_000):  # only a tenth of all problems are for the test
            problem = draw(self.config, rng, rng.randint(self.config.fewest, self.config.steps))
            if self.reader(problem) == reader and avoid.isdisjoint(problem.beginnings()):
                problems.setdefault(problem.at("base"), problem)
            if len(problems) == count:
                return list(problems.values())
        raise ValueError(
            f"{len(problems)} different problems found of the {count} for {reader}: raise "
            f"task.limit = {self.config.limit} or task.steps = {self.config.steps}, "
            "or ask for fewer problems"
        )

    def reader(self, problem: Problem) -> str | None:
        """The reader of a problem: "test", "experts", "base", or None where nobody may read it.

        One tenth of the base-level graphs are for the test and three tenths for the experts. Nobody
        reads a longer problem whose derivation begins with a graph of the test.
        """
        parts = [self._part(beginning) for beginning in problem.beginnings()]
        part = parts[len(problem.at("base")) - 1]
        if part == 0:
            return "test"
        if 0 in parts:
            return None
        return "experts" if part < 4 else "base"

    def _part(self, graph: Graph) -> int:
        """The graph's part, from 0 to 9; -1 where it is shorter than any problem's graph."""
        if len(graph) <= self.config.fewest:
            return -1
        return zlib.crc32(repr((self.seed, graph)).encode()) % 10

    # Texts to read --------------------------------------------------------------------------------

    def words(self) -> list[str]:
        templates = [TRACE_WORDS, *ASKS, *chain.from_iterable(CLAUSES.values())]
        in_templates = (word for template in templates for word in template.split())
        fixed = dict.fromkeys(word for word in in_templates if "{" not in word)
        # Numbers are values of quantities and, in Markdown, numbers of steps.
        highest = max(self.config.limit, self.config.steps + len(LEVELS))
        return [*fixed, *RENDERINGS, *QUANTITIES, *map(str, range(1, highest + 1))]

    def base_texts(self) -> dict[str, list[Text]]:
        """The texts that the base reads, by kind.

        ``facts`` are all single calculations within the limit, in words and in signs. The other
        kinds are the base-level problems in each rendering that the base reads.
        """
        facts = []
        numbers = range(1, self.config.limit + 1)
        for sign, a, b in product(SIGNS, numbers, numbers):
            if 1 <= (result := calculate(sign, a, b)) <= self.config.limit:
                facts.append(Text(f"{a} {SIGNS[sign]} {b} which is", f"{result} ."))
                facts.append(Text(f"{a} {sign} {b} =", f"{result}"))
        texts = {"facts": facts}
        for rendering in RENDERINGS:
            problems = self.read_by_base if rendering in self.config.renderings else []
            texts[rendering] = [problem.text("base", rendering) for problem in problems]
        return texts

    def shares(self) -> dict[str, float]:
        given = asdict(self.config.shares)
        return {kind: given[kind] for kind in ("facts", *self.config.renderings) if given[kind] > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """Problems of one level (``reads``) in one rendering (``group``).

        ``joint`` has the texts of the experts for the base level and for P1. Raises ValueError for
        an unknown level or rendering.
        """
        if reads == "joint":
            return self.expert_texts("base", group) + self.expert_texts("P1", group)
        if reads not in LEVELS or group not in RENDERINGS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(LEVELS)} or joint, "
                f"in {', '.join(RENDERINGS)}"
            )
        return [problem.text(reads, group) for problem in self.read_by[reads]]

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The test problems at one level (``form``) in one rendering (``group``).

        The problems are the same for every level and rendering. The group ``base`` asks them in all
        renderings that the base reads.
        """
        renderings = self.config.renderings if group == "base" else (group,)
        return [self._question(p, form, each) for each in renderings for p in self.asked]

    @staticmethod
    def _question(problem: Problem, form: str, rendering: str) -> Question:
        prompt, completion, _ = problem.text(form, rendering)
        answer = str(problem.at(form)[-1].value)
        return Question(form, prompt, completion, answer, problem, rendering)

    def examples(self, group: str, count: int) -> world.Split:
        """Further problems of the test's part, which nobody reads and whose graphs are not asked:
        all of the group's questions are left. Raises ValueError where there are too few."""
        asked = frozenset(problem.graph("base") for problem in self.asked)
        further = self._draw("test", count, "examples", asked)
        found = [self._question(problem, self.target, group) for problem in further]
        return world.Split(found, range(len(self.asked)))

    def in_context(self, group: str) -> list[list[Text]]:
        """For each problem, a solved problem of the base level and one of P1, in the group's
        rendering."""
        solved = [self.expert_texts(level, group) for level in LEVELS[:2]]
        return [[texts[i % len(texts)] for texts in solved] for i in range(len(self.asked))]

    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer, by the last number, to the problems at level P2."""
        answers = Counter(problem.steps[-1].value for problem in self.asked)
        return max(answers.values()) / len(self.asked)

    # Scores ---------------------------------------------------------------------------------------

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES for a decoded completion.

        A right completion has the whole derivation. The outcome of a wrong one is its first error,
        unless its last number is right.
        """
        error = first_error(question.problem.at(question.form), question.rendering, completion)
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
        """Yes-or-no facts about a completion, by name.

        last number right         the last number is the answer
        longer than any below     no problem of the level below has so long a derivation
        longer and right          the same, and the completion is right
        stopped as LEVEL          the completion is the whole derivation of a lower level
        first error at step K     the first error is in step K; the answer counts as the last step
        """
        problem, rendering, form = question.problem, question.rendering, question.form
        error = first_error(problem.at(form), rendering, completion)
        length, level = len(problem.at(form)), LEVELS.index(form)
        longer = level > 0 and length == self.config.steps + 1 + level
        notes = {
            "last number right": str(last_number(rendering, completion)) == question.answer,
            "longer than any below": longer,
            "longer and right": longer and error is None,
        }
        for lower in LEVELS[:level]:
            below = first_error(problem.at(lower), rendering, completion)
            notes[f"stopped as {lower}"] = below is None
        for k in range(1, length + 2):
            notes[f"first error at step {k}"] = error is not None and error[0] == k
        return notes

    # Leaks ----------------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Raise Leak where the split is broken.

        Nobody may read the derivation of a test problem, under whatever names. The experts may read
        no derivation of the base, and no problem may be read twice.
        """
        asked = {problem.graph("base") for problem in self.asked}
        by_base = {problem.graph("base") for problem in self.read_by_base}
        seen: set[tuple[Step, ...]] = set()
        experts = {f"the {level} expert": self.read_by[level] for level in LEVELS}
        for reader, problems in {"the base": self.read_by_base, **experts}.items():
            for problem in problems:
                if asked.intersection(problem.beginnings()):
                    leak = "the derivation of a test problem"
                elif reader in experts and problem.graph("base") in by_base:
                    leak = "a derivation of the base"
                elif problem.at("base") in seen:
                    leak = "a problem twice, or another's"
                else:
                    seen.add(problem.at("base"))
                    continue
                raise Leak(f"{reader} reads {leak}: {problem.completion('base', 'python')}")

"""Word problems of fixed length with complementary operations, solved in three renderings.

Worked example. Numbers go round a clock of 8 hours, so every operation can follow every other:

    there are 5 apples . apples plus 6 make pears . pears times 3 make figs . how many figs are
    there ? in prose :

    prose     apples are 5 . pears are apples plus 6 so 5 plus 6 which is 3 .
              figs are pears times 3 so 3 times 3 which is 1 . the answer is 1 .
    markdown  - step 1 : apples = 5 - step 2 : pears = apples + 6 = 5 + 6 = 3
              - step 3 : figs = pears * 3 = 3 * 3 = 1 - answer : 1
    python    apples = 5 ; pears = apples + 6 ; figs = pears * 3 ; answer = figs % 8

The base reads derivations of 1 to 4 calculations with four neutral operations: minus, and meet,
join and xor, which take numbers bit by bit (Python's &, | and ^; so the clock has 8, 16 or 32
hours). It reads each alone, and any two in one problem but for two pairs that are held out: minus
with another one, and the other two. So a base that solves problems with a held-out pair ("mixed",
asked of the base) knows mixing as such. One expert reads problems of 1 to 4 calculations with plus,
one expert with times, alone and mixed with a neutral operation: who reads times alone may take it
for the operation of a whole problem. Asked are 2 to 4 calculations with both, each at least once:
nobody but the target expert has read plus and times in one problem, and nobody has read longer
ones. The form "longer" has one calculation more than anybody has read.

A problem of the test is told by its derivation without names. Nobody reads such a derivation, nor
one that begins with it; single calculations are read by all who know their operation.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations, product
from random import Random
from typing import ClassVar

from tasks import world
from tasks.legal import COUNT, READING_SHARE, SHARE, Legal, check, some_of
from tasks.word_problem import (
    ASKS,
    QUANTITIES,
    RENDERINGS,
    TITLES,
    TRACE_WORDS,
    WORDS,
    Graph,
    Step,
    graph,
    solution,
)
from tasks.word_trace import OUTCOMES, first_error, last_number
from tasks.world import Leak, Text

NEUTRAL, NEW = ("minus", "meet", "join", "xor"), ("plus", "times")
SIGN_OF = {word: sign for sign, word in WORDS.items()}
Pair = tuple[str, str]  # of operations, in the order of NEUTRAL or of NEW
PAIRS = tuple(combinations(NEUTRAL, 2))
LONGEST = 4  # calculations that are read
# (calculations with the first operation, with the second) of question i: GRID[i % len(GRID)].
GRID = tuple((n - k, k) for n in range(2, LONGEST + 1) for k in range(1, n))
STEP_FORMS = tuple(f"step{k}" for k in range(1, LONGEST + 1))
FORMS = (*STEP_FORMS, *NEW, "neutral", "mixed", "longer")
Wanted = tuple[Pair, tuple[int, int]]  # two operations, and how often each is used
CLAUSE = "{left} {operation} {right} make {name} ."
GIVEN = "there are {left} {name} ."


@dataclass(frozen=True)
class ReadingShares:
    """The share of each kind among the texts that the base reads: single calculations (``facts``),
    the words and signs of all operations (``signs``), and problems in each rendering."""

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(
        ("facts", "signs", *RENDERINGS), READING_SHARE
    )
    facts: float = 0.2
    signs: float = 0.02
    prose: float = 0.3
    markdown: float = 0.3
    python: float = 0.3

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")


@dataclass(frozen=True)
class OperationsConfig:
    """``hours`` of the clock; ``mixed``, the share of the base's problems that hold two neutral
    operations, and of an expert's that hold its own and a neutral one; counts of problems and
    questions; the renderings that the base reads.

    Raises ValueError for values that make no world."""

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "hours": (lambda n: n in (8, 16, 32), "8, 16 or 32, so that bits go round the clock too"),
        "mixed": SHARE,
        **dict.fromkeys(("problems", "expert_problems"), COUNT),
        "questions": (
            lambda n: 1 <= n <= 10_000 and n % len(GRID) == 0,
            f"a multiple of {len(GRID)}, so that each cell of the grid is asked as often",
        ),
        "renderings": some_of(RENDERINGS),
    }
    hours: int = 8
    mixed: float = 0.5
    problems: int = 12_000  # that the base reads, each in all of ``renderings``
    expert_problems: int = 6_000  # that one expert reads
    questions: int = 60
    renderings: tuple[str, ...] = RENDERINGS
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(OperationsConfig, vars(self), "task.")
        if not any(getattr(self.shares, rendering) for rendering in self.renderings):
            raise ValueError(
                f"task.shares gives nothing to {', '.join(self.renderings)}, "
                "which the base is to read: raise one of their shares"
            )


def calculated(operation: str, a: int, b: int, hours: int) -> int:
    """``a operation b`` on the clock."""
    plain = {"plus": a + b, "times": a * b, "minus": a - b}
    bits = {"meet": a & b, "join": a | b, "xor": a ^ b}
    return {**plain, **bits}[operation] % hours


@dataclass(frozen=True)
class Problem:
    """A chain of calculations. The first step is given; each other one takes the quantity before
    it and a number. ``operations`` names the operation of each calculation."""

    steps: tuple[Step, ...]
    operations: tuple[str, ...]
    asking: str

    @property
    def graph(self) -> Graph:
        return graph(self.steps)

    def beginnings(self) -> list[Graph]:
        """The graphs of the first calculation, of the first two, and so on."""
        whole_graph = self.graph
        return [whole_graph[:k] for k in range(2, len(whole_graph) + 1)]

    def prompt(self, rendering: str) -> str:
        clauses = [GIVEN.format(**self.steps[0]._asdict())]
        for step, operation in zip(self.steps[1:], self.operations, strict=True):
            clauses.append(CLAUSE.format(operation=operation, **step._asdict()))
        question = self.asking.format(name=self.steps[-1].name)
        return " ".join([*clauses, question, f"in {rendering} :"])

    def text(self, rendering: str, hours: int) -> Text:
        """The problem with its right solution, as a text to read."""
        reduced = f" % {hours}" if rendering == "python" else ""
        return Text(self.prompt(rendering), solution(self.steps, rendering) + reduced)

    def single(self, k: int) -> Problem:
        """Calculation k alone, counted from 0: the quantity before it is given. A problem of fewer
        calculations gives its first one."""
        k = k if k < len(self.operations) else 0
        before, step = self.steps[k], self.steps[k + 1]
        given = Step(before.name, "", before.value, 0, before.value)
        return Problem((given, step), self.operations[k : k + 1], self.asking)


def draw(operations: Sequence[str], hours: int, rng: Random) -> Problem:
    """A problem with these operations, in this order."""
    names = rng.sample(QUANTITIES, len(operations) + 1)
    start = rng.randrange(hours)
    steps = [Step(names[0], "", start, 0, start)]
    for name, operation in zip(names[1:], operations, strict=True):
        before, number = steps[-1], rng.randrange(2, hours)
        value = calculated(operation, before.value, number, hours)
        steps.append(Step(name, SIGN_OF[operation], before.name, number, value))
    return Problem(tuple(steps), tuple(operations), rng.choice(ASKS))


def ordered(pair: Sequence[str], counts: Sequence[int], rng: Random) -> list[str]:
    """So many of each of two operations, in random order."""
    operations = [each for each, count in zip(pair, counts, strict=True) for _ in range(count)]
    rng.shuffle(operations)
    return operations


@dataclass(frozen=True)
class Question(world.Question):
    """A question with its problem and its rendering, which the scorer must know."""

    problem: Problem
    rendering: str


class Operations(world.World):
    """One seeded set of problems, with its texts, questions and scorer.

    Making a world raises ValueError where there are too few different problems, and Leak where its
    splits are broken.
    """

    name = "operations"
    Config = OperationsConfig
    titles = TITLES
    groups, forms, components, outcomes = RENDERINGS, FORMS, STEP_FORMS, OUTCOMES
    target = "mixed"
    longest = 16 + 15 * (LONGEST + 2)  # tokens: room for one step too many

    def __init__(self, config: OperationsConfig, seed: int):
        self.config, self.seed = config, seed
        self.held_out = self._held_out()
        self.mixed = [pair for pair in PAIRS if pair not in self.held_out]
        self.asked = {"base": self._questions(self.held_out), "experts": self._questions([NEW])}
        own, size = config.problems, config.expert_problems
        self.read_by = {
            "base": self._draw("base", own, lambda rng: self._read(rng.choice(self.mixed), rng)),
            **{new: self._draw(new, size, partial(self._with, new)) for new in NEW},
            "target": self._draw("target", size, lambda r: ordered(NEW, r.choice(GRID), r)),
        }
        self.check_leaks()

    def _held_out(self) -> list[Pair]:
        """Two pairs of neutral operations that nobody reads in one problem. The next seed takes the
        next two."""
        first, *others = NEUTRAL
        partner = others.pop(self.seed % len(others))
        return [(first, partner), (others[0], others[1])]

    def _with(self, new: str, rng: Random) -> list[str]:
        return self._read((new, rng.choice(NEUTRAL)), rng, new)

    def _read(self, pair: Pair, rng: Random, alone: str = "") -> list[str]:
        """The operations of a problem to read: both of a pair, or one alone."""
        if rng.random() < self.config.mixed:
            return ordered(pair, rng.choice(GRID), rng)
        return [alone or rng.choice(pair)] * rng.randint(1, LONGEST)

    def _questions(self, pairs: Sequence[Pair]) -> dict[str, list[Problem]]:
        """Problems of the test by form. The pairs of operations take turns, each for a whole grid.
        The first of a pair stands in the place of plus, the second in that of times."""
        n, use = self.config.questions, " ".join(map(" ".join, pairs))
        cells = [GRID[i % len(GRID)] for i in range(n)]
        turns = [pairs[i // len(GRID) % len(pairs)] for i in range(n)]
        old = [self.mixed[i // len(GRID) % len(self.mixed)] for i in range(n)]
        mixed = self._draw_test(f"{use} mixed", zip(turns, cells, strict=True))
        asked = {form: [p.single(k) for p in mixed] for k, form in enumerate(STEP_FORMS)}
        for k, form in enumerate(NEW):
            wanted = [((pair[k], ""), (sum(c), 0)) for pair, c in zip(turns, cells, strict=True)]
            asked[form] = self._draw_test(f"{use} {form}", wanted)
        asked["neutral"] = self._draw_test(f"{use} neutral", zip(old, cells, strict=True))
        rng = Random(f"operations {self.seed} {use} lengths")
        halves = [rng.randint(1, LONGEST) for _ in range(n)]
        longer = [(pair, (LONGEST + 1 - h, h)) for pair, h in zip(turns, halves, strict=True)]
        return {**asked, "mixed": mixed, "longer": self._draw_test(f"{use} longer", longer)}

    def _draw_test(
        self, use: str, wanted: Iterable[Wanted], avoid: frozenset[Graph] = frozenset()
    ) -> list[Problem]:
        """A problem of the test's part for each of these operations and their counts, no graph
        twice and none of those to avoid."""
        rng = Random(f"operations {self.seed} {use}")
        found: dict[Graph, Problem] = {}
        for pair, counts in wanted:
            for _ in range(2_000):
                problem = draw(ordered(pair, counts, rng), self.config.hours, rng)
                own = problem.graph
                if self._of_test(own) and own not in found and own not in avoid:
                    found[own] = problem
                    break
            else:
                kinds = " and ".join(f"{c} {o}" for c, o in zip(counts, pair, strict=True) if c)
                raise ValueError(
                    f"too few different problems with {kinds}: raise task.hours = "
                    f"{self.config.hours} or lower task.questions = {self.config.questions}"
                )
        return list(found.values())

    def _draw(
        self, reader: str, count: int, operations: Callable[[Random], list[str]]
    ) -> list[Problem]:
        """Different problems for a reader, none of which begins with a graph of the test."""
        rng = Random(f"operations {self.seed} {reader}")
        problems: dict[tuple[Step, ...], Problem] = {}
        for _ in range(20 * count + 1_000):
            problem = draw(operations(rng), self.config.hours, rng)
            if not any(map(self._of_test, problem.beginnings())):
                problems.setdefault(problem.steps, problem)
            if len(problems) == count:
                return list(problems.values())
        raise ValueError(
            f"{len(problems)} different problems found of the {count} for {reader}: raise "
            f"task.hours = {self.config.hours}, or ask for fewer problems"
        )

    def _of_test(self, own: Graph) -> bool:
        """One tenth of the graphs of two calculations and more are for the test."""
        return len(own) > 2 and zlib.crc32(repr((self.seed, own)).encode()) % 10 == 0

    # Texts to read --------------------------------------------------------------------------------

    def words(self) -> list[str]:
        fixed = " ".join([TRACE_WORDS, *ASKS, GIVEN, CLAUSE, "the sign of word %", *WORDS])
        names = [word for word in fixed.split() if "{" not in word]
        numbers = map(str, range(self.config.hours + 1))
        return list(dict.fromkeys([*names, *RENDERINGS, *NEUTRAL, *NEW, *QUANTITIES, *numbers]))

    def _facts(self, operations: Sequence[str]) -> list[Text]:
        """Single calculations, in words and in signs."""
        hours = self.config.hours
        return [
            text
            for word, a, b in product(operations, range(hours), range(hours))
            for result in [calculated(word, a, b, hours)]
            for text in (
                Text(f"{a} {word} {b} which is", f"{result} ."),
                Text(f"{a} {SIGN_OF[word]} {b} =", f"{result}"),
            )
        ]

    def base_texts(self) -> dict[str, list[Text]]:
        """``facts`` of the neutral operations; ``signs``, the words of all operations; problems by
        rendering."""
        signs = [Text(f"the sign of {word} is", f"{sign} .") for sign, word in WORDS.items()]
        signs += [Text(f"the word of {sign} is", f"{word} .") for sign, word in WORDS.items()]
        texts = {"facts": self._facts(NEUTRAL), "signs": signs}
        for rendering in RENDERINGS:
            problems = self.read_by["base"] if rendering in self.config.renderings else []
            texts[rendering] = [p.text(rendering, self.config.hours) for p in problems]
        return texts

    def shares(self) -> dict[str, float]:
        given = asdict(self.config.shares)
        kinds = ("facts", "signs", *self.config.renderings)
        return {kind: given[kind] for kind in kinds if given[kind] > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """The table of an operation and problems with it, in one rendering (``group``).

        ``joint`` has the texts of plus and of times; ``target`` has problems with both.
        """
        if reads == "joint":
            return [text for new in NEW for text in self.expert_texts(new, group)]
        if reads not in (*NEW, "target") or group not in RENDERINGS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose plus, times, joint or target, "
                f"in {', '.join(RENDERINGS)}"
            )
        known = NEW if reads == "target" else (reads,)
        problems = [p.text(group, self.config.hours) for p in self.read_by[reads]]
        return self._facts(known) + problems

    # Questions ------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The test's problems of one form in one rendering; the group ``base`` asks them with the
        held-out pairs in the place of plus and times, in all renderings that the base reads."""
        whose = "base" if group == "base" else "experts"
        renderings = self.config.renderings if group == "base" else (group,)
        return [self._question(p, form, r) for r in renderings for p in self.asked[whose][form]]

    def _question(self, problem: Problem, form: str, rendering: str) -> Question:
        prompt, completion, _ = problem.text(rendering, self.config.hours)
        answer = str(problem.steps[-1].value)
        return Question(form, prompt, completion, answer, problem, rendering)

    def examples(self, group: str, count: int) -> world.Split:
        """Further mixed problems of the test's part, which nobody reads and which are not asked."""
        asked = frozenset(p.graph for p in self.asked["experts"]["mixed"])
        wanted = [(NEW, GRID[i % len(GRID)]) for i in range(count)]
        found = self._draw_test("examples", wanted, asked)
        questions = [self._question(p, self.target, group) for p in found]
        return world.Split(questions, range(self.config.questions))

    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer, by the last number."""
        answers = Counter(p.steps[-1].value for p in self.asked["experts"]["mixed"])
        return max(answers.values()) / self.config.questions

    # Scores ---------------------------------------------------------------------------------------

    def score(self, question: Question, completion: str) -> str:
        """One of OUTCOMES: a right completion has the whole derivation. The outcome of a wrong one
        is its first error, unless its last number is right."""
        error = self._first_error(question, completion)
        if error is None:
            return "right"
        right = str(last_number(question.rendering, completion)) == question.answer
        return "right answer, wrong trace" if right else error[1]

    def _first_error(self, question: Question, completion: str) -> tuple[int, str] | None:
        steps, hours = question.problem.steps, self.config.hours
        return first_error(steps, question.rendering, completion, hours)

    @property
    def note_names(self) -> tuple[str, ...]:
        cells = [(n, 0) for n in range(2, LONGEST + 1)] + list(GRID)
        grid = [f"{word} at {a} + {b}" for a, b in cells for word in ("asked", "right")]
        errors = [f"first error at step {k}" for k in range(1, LONGEST + 4)]
        return ("last number right", *grid, *errors)

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """Yes-or-no facts about a completion, by name.

        last number right         the last number is the answer
        asked at 2 + 1            the problem has so many of the first and of the second operation
        right at 2 + 1            the same, and the completion is right
        first error at step K     the first error is in step K; the answer counts as the last step
        """
        error = self._first_error(question, completion)
        last = str(last_number(question.rendering, completion)) == question.answer
        notes = {"last number right": last}
        form, operations = question.form, question.problem.operations
        if form in (*NEW, "neutral", "mixed"):
            kinds = sorted(set(operations), key=(*NEUTRAL, *NEW).index)
            own = tuple(operations.count(kind) for kind in kinds)
            cells = [(n, 0) for n in range(2, LONGEST + 1)] if form in NEW else list(GRID)
            for a, b in cells:
                here = own == ((a, b) if b else (a,))
                notes[f"asked at {a} + {b}"] = here
                notes[f"right at {a} + {b}"] = here and error is None
        steps = 2 if form in STEP_FORMS else LONGEST + (2 if form == "longer" else 1)
        for k in range(1, steps + 2):
            notes[f"first error at step {k}"] = error is not None and error[0] == k
        return notes

    # Leaks ----------------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Raise Leak where somebody reads the derivation of a test problem under whatever names, or
        a pair of operations in one problem that is held out of what they read."""
        asked = {
            p.graph
            for forms in self.asked.values()
            for form, problems in forms.items()
            for p in problems
            if form not in STEP_FORMS
        }
        for reader, problems in self.read_by.items():
            for problem in problems:
                if asked.intersection(problem.beginnings()):
                    leak = "the derivation of a test problem"
                elif apart := [
                    pair
                    for pair in (*self.held_out, NEW)
                    if set(pair) <= set(problem.operations) and (reader, pair) != ("target", NEW)
                ]:
                    leak = f"{' and '.join(apart[0])} in one problem"
                else:
                    continue
                raise Leak(f"{reader} reads {leak}: {problem.prompt('python')}")

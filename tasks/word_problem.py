"""A problem: a random derivation, the text that asks for it, and its solution in three renderings
(word_math.py shows one)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import NamedTuple

from tasks.world import Text

RENDERINGS = ("prose", "markdown", "python")
LEVELS = ("base", "P1", "P2")
QUANTITIES = tuple("apples pears plums figs dates limes melons nuts eggs cakes jars cups".split())
SIGNS = {"+": "plus", "-": "minus", "*": "times"}
LARGEST_FACTOR = 5
# A calculation names what is known before what follows from it: a causal model finds the next word
# behind the one that it holds, as an induction head does.
CLAUSES = {
    "": ("there are {left} {name} .", "we have {left} {name} ."),
    "+": ("{left} plus {right} make {name} .", "{left} and {right} give {name} ."),
    "-": ("{left} minus {right} make {name} .", "{left} without {right} leave {name} ."),
    "*": ("{left} times {right} make {name} .", "{left} by {right} give {name} ."),
}
ASKS = ("how many {name} are there ?", "what is the number of {name} ?")
TRACE_WORDS = "in : are . plus minus times so which is the answer - step = + * ;"
# How a trace is written: a number that is given; a calculation, first of what and then with the
# values put in; the answer.
TRACE_FORMS = {
    "prose": (
        "{name} are {left} .",
        "{name} are {left} {word} {right} so {a} {word} {b} which is {value} .",
        "the answer is {value} .",
    ),
    "markdown": (
        "- step {k} : {name} = {left}",
        "- step {k} : {name} = {left} {sign} {right} = {a} {sign} {b} = {value}",
        "- answer : {value}",
    ),
    "python": ("{name} = {left} ;", "{name} = {left} {sign} {right} ;", "answer = {name}"),
}


@dataclass(frozen=True)
class ReadingShares:
    """What share of the texts that the base reads is of each kind: single calculations, and base
    problems by rendering."""

    facts: float = 0.1
    prose: float = 0.3
    markdown: float = 0.3
    python: float = 0.3

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"task.shares.{name} = {share}: a share of texts, from 0 to 1")


@dataclass(frozen=True)
class WordMathConfig:
    """Size of the problems. Numbers are whole, from 1 to ``limit``, one word each; base problems
    take from ``fewest`` to ``steps`` calculations, P1 one more and P2 two more. A calculation takes
    an earlier quantity as its second operand with the chance ``reuse``, else a number. A problem's
    clauses are ``shuffled`` with that chance, else they stand in the order of the derivation with
    the distractors behind the first calculation. ``renderings`` are those that the base reads."""

    limit: int = 20
    fewest: int = 1
    steps: int = 2
    reuse: float = 0.1
    distractors: int = 1
    shuffled: float = 0.0
    problems: int = 12_000  # that the base reads, each in every rendering
    expert_problems: int = 6_000  # that one expert reads
    questions: int = 100
    renderings: tuple[str, ...] = RENDERINGS
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        if not 8 <= self.limit <= 999:
            raise ValueError(
                f"task.limit = {self.limit}: the largest number of a problem, from 8 to 999"
            )
        if not 1 <= self.fewest <= self.steps:
            raise ValueError(
                f"task.fewest = {self.fewest}: a base problem takes from at least 1 to task.steps = {self.steps} calculations"
            )
        for name in ("reuse", "shuffled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"task.{name} = {getattr(self, name)}: a chance, from 0 to 1")
        if self.distractors < 0:
            raise ValueError(
                f"task.distractors = {self.distractors}: a number of clauses, at least 0"
            )
        if (names := self.steps + 3 + self.distractors) > len(QUANTITIES):
            raise ValueError(
                f"task.steps = {self.steps} and task.distractors = {self.distractors} need {names} quantities, "
                f"and there are {len(QUANTITIES)}: lower one of them"
            )
        for name in ("problems", "expert_problems", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name} = {getattr(self, name)}: at least 1")
        known = self.renderings and set(self.renderings) <= set(RENDERINGS)
        if not known or len(set(self.renderings)) < len(self.renderings):
            raise ValueError(
                f"task.renderings = {self.renderings}: one or more of {', '.join(RENDERINGS)}, each once"
            )
        if not any(getattr(self.shares, rendering) for rendering in self.renderings):
            raise ValueError(
                f"task.shares gives nothing to {', '.join(self.renderings)}, which the base is to read"
            )


class Step(NamedTuple):
    """``name`` is ``left`` (``sign`` is empty), or ``left sign right``; operands are earlier names,
    or numbers."""

    name: str
    sign: str
    left: str | int
    right: str | int
    value: int


Graph = tuple[tuple, ...]


@dataclass(frozen=True)
class Problem:
    """A derivation down to P2, distractors, and what the text chooses: the order of the clauses and
    their wordings."""

    steps: tuple[Step, ...]
    distractors: tuple[Step, ...]
    order: tuple[int, ...]  # of steps + distractors
    wordings: tuple[int, ...]  # one for each clause and one for the question

    def at(self, level: str) -> tuple[Step, ...]:
        """The derivation of a level: P2's without its last steps."""
        return self.steps[: len(self.steps) - len(LEVELS) + 1 + LEVELS.index(level)]

    def graph(self, level: str) -> Graph:
        """The level's derivation without names: (sign, operands), a quantity as the negative of its
        place, from -1."""
        steps = self.at(level)
        place = {step.name: -1 - i for i, step in enumerate(steps)}
        return tuple(
            (s.sign, *(x if isinstance(x, int) else place[x] for x in (s.left, s.right)))
            for s in steps
        )

    def beginnings(self) -> list[Graph]:
        """The graphs with which the derivation begins, of one step, of two, and so on."""
        whole = self.graph(LEVELS[-1])
        return [whole[:k] for k in range(1, len(whole) + 1)]

    def prompt(self, level: str, rendering: str) -> str:
        steps, clauses = self.at(level), self.steps + self.distractors
        told = [i for i in self.order if i < len(steps) or i >= len(self.steps)]
        lines = [
            CLAUSES[clauses[i].sign][self.wordings[i]].format(**clauses[i]._asdict()) for i in told
        ]
        return " ".join(
            [*lines, ASKS[self.wordings[-1]].format(name=steps[-1].name), f"in {rendering} :"]
        )

    def completion(self, level: str, rendering: str) -> str:
        steps = self.at(level)
        values: dict[str | int, int] = {step.name: step.value for step in steps}
        given, calculated, answered = TRACE_FORMS[rendering]
        said = []
        for k, step in enumerate(steps, 1):
            a, b = (values.get(x, x) for x in (step.left, step.right))
            form = calculated if step.sign else given
            said.append(form.format(k=k, a=a, b=b, word=SIGNS.get(step.sign), **step._asdict()))
        return " ".join([*said, answered.format(**steps[-1]._asdict())])

    def text(self, level: str, rendering: str) -> Text:
        return Text(self.prompt(level, rendering), self.completion(level, rendering))


def draw(config: WordMathConfig, rng: Random, base_steps: int) -> Problem:
    """One problem with so many calculations at the base level. Distractors are numbers that are
    given and not used; unless the clauses are shuffled they stand behind the first calculation.
    (Where two numbers are given side by side, no base of this size learned to take the right one:
    LOG.md.)"""
    total = base_steps + len(LEVELS)
    names = rng.sample(QUANTITIES, total + config.distractors)
    start = rng.randint(1, config.limit)
    steps = [Step(names[0], "", start, 0, start)]
    for name in names[1:total]:
        others = steps[:-1] if rng.random() < config.reuse else []
        steps.append(_calculation(name, steps[-1], others, config.limit, rng))
    distractors = []
    for name in names[total:]:
        number = rng.randint(1, config.limit)
        distractors.append(Step(name, "", number, 0, number))
    order = list(range(total))
    for i in range(len(distractors)):
        order.insert(rng.randint(2, len(order)), total + i)
    if rng.random() < config.shuffled:
        rng.shuffle(order)
    wordings = tuple(rng.randrange(2) for _ in range(len(order) + 1))
    return Problem(tuple(steps), tuple(distractors), tuple(order), wordings)


def _calculation(name: str, left: Step, others: Sequence[Step], limit: int, rng: Random) -> Step:
    """``name`` from ``left`` and, where one fits, one of ``others``; the result stays from 1 to
    ``limit``."""
    a = left.value
    most = {
        "+": limit - a,
        "-": a - 1,
        "*": min(limit // a, LARGEST_FACTOR),
    }  # of the second operand
    least = {"+": 1, "-": 1, "*": 2}
    choices: list[tuple[str, str | int, int]] = [
        (sign, b.name, b.value)
        for b in others
        for sign in SIGNS
        if least[sign] <= b.value <= most[sign]
    ]
    if choices:
        sign, right, b = rng.choice(choices)
    else:
        sign = rng.choice([sign for sign in SIGNS if least[sign] <= most[sign]])
        right = b = rng.randint(least[sign], most[sign])
    return Step(name, sign, left.name, right, calculate(sign, a, b))


def calculate(sign: str, a: int, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]

"""A word problem: a random derivation, its question, and its solution in three renderings.

word_math.py shows an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, NamedTuple

from tasks.legal import COUNT, READING_SHARE, SHARE, Legal, check, some_of, whole
from tasks.world import Text

TITLES = {
    "prose": "solved in prose",
    "markdown": "solved in numbered Markdown steps",
    "python": "solved by a Python program",
}
RENDERINGS = tuple(TITLES)
LEVELS = ("base", "P1", "P2")
QUANTITIES = tuple("apples pears plums figs dates limes melons nuts eggs cakes jars cups".split())
SIGNS = {"+": "plus", "-": "minus", "*": "times"}
WORDS = {**SIGNS, "&": "meet", "|": "join", "^": "xor"}  # of every sign that a trace may have
LARGEST_FACTOR = 5
# A clause names the known quantities before the quantity that follows from them. A causal model
# finds the next word after the word that it holds, as an induction head does.
CLAUSES = {
    "": ("there are {left} {name} .", "we have {left} {name} ."),
    "+": ("{left} plus {right} make {name} .", "{left} and {right} give {name} ."),
    "-": ("{left} minus {right} make {name} .", "{left} without {right} leave {name} ."),
    "*": ("{left} times {right} make {name} .", "{left} by {right} give {name} ."),
}
ASKS = ("how many {name} are there ?", "what is the number of {name} ?")
TRACE_WORDS = "in : are . plus minus times so which is the answer - step = + * ;"
# The three sentences of a trace: a given number; a calculation, first with names and then with
# their values; the answer.
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
    """The share of each kind among the texts that the base reads.

    The kinds are single calculations (``facts``) and base problems in each rendering.
    """

    LEGAL: ClassVar[Mapping[str, Legal]] = dict.fromkeys(("facts", *RENDERINGS), READING_SHARE)
    facts: float = 0.1
    prose: float = 0.3
    markdown: float = 0.3
    python: float = 0.3

    def __post_init__(self) -> None:
        check(ReadingShares, vars(self), "task.shares.")


@dataclass(frozen=True)
class WordMathConfig:
    """The sizes of the problems, and their counts.

    Numbers are whole, from 1 to ``limit``, and one word each. Base problems take from ``fewest`` to
    ``steps`` calculations, P1 one more and P2 two more. A calculation takes an earlier quantity as
    its second operand with the chance ``reuse``, and a number otherwise. The clauses of a problem
    are shuffled with the chance ``shuffled``. Otherwise they stand in the order of the derivation,
    with the distractors after the first calculation. The base reads its problems in ``renderings``.
    Raises ValueError for sizes that no problem can have.
    """

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "limit": whole(8, 999),
        **dict.fromkeys(("fewest", "steps"), whole(1, len(QUANTITIES))),
        **dict.fromkeys(("reuse", "shuffled"), SHARE),
        "distractors": whole(0, len(QUANTITIES)),
        **dict.fromkeys(("problems", "expert_problems", "questions"), COUNT),
        "renderings": some_of(RENDERINGS),
    }
    limit: int = 20
    fewest: int = 1
    steps: int = 2
    reuse: float = 0.1
    distractors: int = 1
    shuffled: float = 0.0
    problems: int = 12_000  # problems that the base reads, each in all of ``renderings``
    expert_problems: int = 6_000  # problems that one expert reads
    questions: int = 100
    renderings: tuple[str, ...] = RENDERINGS
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        check(WordMathConfig, vars(self), "task.")
        if self.fewest > self.steps:
            raise ValueError(
                f"task.fewest = {self.fewest}: at most task.steps = {self.steps} calculations"
            )
        if (names := self.steps + 3 + self.distractors) > len(QUANTITIES):
            raise ValueError(
                f"task.steps = {self.steps} and task.distractors = {self.distractors} need {names} "
                f"quantities, and there are {len(QUANTITIES)}: lower one of the two"
            )
        if not any(getattr(self.shares, rendering) for rendering in self.renderings):
            raise ValueError(
                f"task.shares gives nothing to {', '.join(self.renderings)}, "
                "which the base is to read: raise one of their shares"
            )


class Step(NamedTuple):
    """One line of a derivation: ``name`` is ``left sign right``, or ``left`` where ``sign`` is "".

    An operand is a number or the name of an earlier step.
    """

    name: str
    sign: str
    left: str | int
    right: str | int
    value: int


Graph = tuple[tuple, ...]


def graph(steps: Sequence[Step]) -> Graph:
    """A derivation without names: (sign, left, right) for each step.

    An operand that is the quantity of step i, counted from 0, becomes -1 - i.
    """
    places = {step.name: -1 - i for i, step in enumerate(steps)}

    def nameless(operand: str | int) -> int:
        return operand if isinstance(operand, int) else places[operand]

    return tuple((step.sign, nameless(step.left), nameless(step.right)) for step in steps)


def solution(steps: Sequence[Step], rendering: str) -> str:
    """A derivation and its answer, as a rendering writes them."""
    values: dict[str | int, int] = {step.name: step.value for step in steps}
    given, calculated, answer = TRACE_FORMS[rendering]
    sentences = []
    for k, step in enumerate(steps, 1):
        a, b = (values.get(x, x) for x in (step.left, step.right))
        form, word = (calculated if step.sign else given), WORDS.get(step.sign)
        sentences.append(form.format(k=k, a=a, b=b, word=word, **step._asdict()))
    return " ".join([*sentences, answer.format(**steps[-1]._asdict())])


@dataclass(frozen=True)
class Problem:
    """A derivation down to P2, its distractors, and the order and wordings of its clauses."""

    steps: tuple[Step, ...]
    distractors: tuple[Step, ...]
    order: tuple[int, ...]  # the places of the clauses in steps + distractors
    wordings: tuple[int, ...]  # 0 or 1 for each clause, then for the question

    def at(self, level: str) -> tuple[Step, ...]:
        """The derivation of a level: P1 lacks the last step of P2, and the base level two steps."""
        return self.steps[: len(self.steps) - len(LEVELS) + 1 + LEVELS.index(level)]

    def graph(self, level: str) -> Graph:
        """The level's derivation without names."""
        return graph(self.at(level))

    def beginnings(self) -> list[Graph]:
        """The graphs of the derivation's first step, of its first two steps, and so on."""
        whole = self.graph(LEVELS[-1])
        return [whole[:k] for k in range(1, len(whole) + 1)]

    def prompt(self, level: str, rendering: str) -> str:
        """The problem's clauses and its question at a level, and the rendering asked for."""
        steps, clauses = self.at(level), self.steps + self.distractors
        lines = []
        for i in self.order:
            if i < len(steps) or i >= len(self.steps):
                template = CLAUSES[clauses[i].sign][self.wordings[i]]
                lines.append(template.format(**clauses[i]._asdict()))
        question = ASKS[self.wordings[-1]].format(name=steps[-1].name)
        return " ".join([*lines, question, f"in {rendering} :"])

    def completion(self, level: str, rendering: str) -> str:
        """The right solution at a level, in a rendering."""
        return solution(self.at(level), rendering)

    def text(self, level: str, rendering: str) -> Text:
        """The problem with its right solution, as a text to read."""
        return Text(self.prompt(level, rendering), self.completion(level, rendering))


def draw(config: WordMathConfig, rng: Random, base_steps: int) -> Problem:
    """Draw one problem with ``base_steps`` calculations at the base level.

    Distractors are quantities that are given and not used. Unless the clauses are shuffled, they
    stand after the first calculation, for no base of this size learned to choose between two
    numbers that are given side by side (LOG.md).
    """
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
    """Calculate ``name`` from ``left`` and a second operand, with a result from 1 to ``limit``.

    The second operand is one of ``others`` where one of them fits, and a number otherwise.
    """
    a = left.value
    # The bounds of the second operand.
    least = {"+": 1, "-": 1, "*": 2}
    most = {"+": limit - a, "-": a - 1, "*": min(limit // a, LARGEST_FACTOR)}
    fitting: list[tuple[str, Step]] = [
        (sign, step) for step in others for sign in SIGNS if least[sign] <= step.value <= most[sign]
    ]
    right: str | int
    if fitting:
        sign, step = rng.choice(fitting)
        right, b = step.name, step.value
    else:
        sign = rng.choice([sign for sign in SIGNS if least[sign] <= most[sign]])
        right = b = rng.randint(least[sign], most[sign])
    return Step(name, sign, left.name, right, calculate(sign, a, b))


def calculate(sign: str, a: int, b: int) -> int:
    """``a sign b`` for a sign of SIGNS."""
    return {"+": a + b, "-": a - b, "*": a * b}[sign]

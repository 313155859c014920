"""Word problems over a random graph of quantities, at three nested levels of difficulty, solved in three renderings.

Worked example. The graph, whose distractor (jars) nothing depends on, and the prompt of the level P1, its clauses shuffled:

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

A step first says what is calculated, then puts the numbers in, then calculates, so that each word takes one look at what was
said before: written "figs are 8 times 2 which is 16" a small model did not learn it (LOG.md).

Every step needs the one before it, so the order of a derivation is the only one, and the steps of a level begin with all
those of the level below, as in GSM-Symbolic (arXiv 2410.05229); graphs as in iGSM (arXiv 2407.20311). A Python answer is
executed (tasks/arithmetic.py): the model states what is to be calculated and the interpreter calculates it.

A problem belongs to the test, to the base or to the experts by its graph at the base level without the names of the
quantities. Nobody reads a test problem's base-level derivation, under whatever names, nor one that begins with it.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import NamedTuple

from tasks import task
from tasks.arithmetic import run
from tasks.task import Expert, Leak, Library, Text

RENDERINGS = ("prose", "markdown", "python")
LEVELS = ("base", "P1", "P2")
OUTCOMES = (
    "right", "right answer, wrong trace", "wrong quantity", "wrong operation", "wrong arithmetic", "stopped early",
    "went on", "malformed",
)  # fmt: skip
QUANTITIES = tuple("apples pears plums figs dates limes melons nuts eggs cakes jars cups".split())
SIGNS = {"+": "plus", "-": "minus", "*": "times"}
NAMED_SIGNS = {word: sign for sign, word in SIGNS.items()}
LARGEST_FACTOR = 5
# A calculation names what is known before what follows from it: a causal model finds the next word behind the one that it
# holds, as an induction head does.
CLAUSES = {
    "": ("there are {left} {name} .", "we have {left} {name} ."),
    "+": ("{left} plus {right} make {name} .", "{left} and {right} give {name} ."),
    "-": ("{left} minus {right} make {name} .", "{left} without {right} leave {name} ."),
    "*": ("{left} times {right} make {name} .", "{left} by {right} give {name} ."),
}
ASKS = ("how many {name} are there ?", "what is the number of {name} ?")
TRACE_WORDS = "in : are . plus minus times so which is the answer - step = + * ;"
# How a trace is written: a number that is given; a calculation, first of what and then with the values put in; the answer.
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
MAX_COMPLETION = 10_000  # characters of a completion that are looked at
# How traces are read back. [0-9] and not \d, which takes the digits of all scripts; {1,9} bounds every number.
SENTENCE_ENDS = {"prose": re.compile(r" \.(?: |$)"), "markdown": re.compile(r"(?:^| )- (?=step|answer)")}
_NUMBER, _OPERAND, _SIGN = "[0-9]{1,9}", "[0-9]{1,9}|[a-z]+", "|".join(NAMED_SIGNS)
STEPS = {
    "prose": re.compile(
        rf"(?P<k>)(?P<name>[a-z]+) are (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>{_SIGN}) (?P<right>{_OPERAND}) so (?P<a>{_NUMBER}) (?P<again>{_SIGN}) (?P<b>{_NUMBER})"
        rf" which is (?P<value>{_NUMBER}))?"
    ),
    "markdown": re.compile(
        rf"step (?P<k>{_NUMBER}) : (?P<name>[a-z]+) = (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>[-+*]) (?P<right>{_OPERAND}) = (?P<a>{_NUMBER}) (?P<again>[-+*]) (?P<b>{_NUMBER})"
        rf" = (?P<value>{_NUMBER}))?"
    ),
}
ANSWERS = {"prose": re.compile(r"the answer is ([0-9]{1,9})"), "markdown": re.compile(r"answer : ([0-9]{1,9})")}
NUMBER = re.compile(r"[0-9][0-9,]{0,30}")


@dataclass(frozen=True)
class ReadingShares:
    """What share of the texts that the base reads is of each kind: single calculations, and base problems by rendering."""

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
    """Size of the problems. Numbers are whole, from 1 to ``limit``, one word each; base problems take from ``fewest`` to
    ``steps`` calculations, P1 one more and P2 two more. A calculation takes an earlier quantity as its second operand with
    the chance ``reuse``, else a number. A problem's clauses are ``shuffled`` with that chance, else they stand in the order
    of the derivation with the distractors behind the first calculation. ``renderings`` are those that the base reads."""

    limit: int = 20
    fewest: int = 1
    steps: int = 2
    reuse: float = 0.2
    distractors: int = 1
    shuffled: float = 0.0
    problems: int = 12_000  # that the base reads, each in every rendering
    expert_problems: int = 6_000  # that one expert reads
    questions: int = 100
    renderings: tuple[str, ...] = RENDERINGS
    shares: ReadingShares = field(default_factory=ReadingShares)

    def __post_init__(self) -> None:
        if not 8 <= self.limit <= 999:
            raise ValueError(f"task.limit = {self.limit}: the largest number of a problem, from 8 to 999")
        if not 1 <= self.fewest <= self.steps:
            raise ValueError(
                f"task.fewest = {self.fewest}: a base problem takes from at least 1 to task.steps = {self.steps} calculations"
            )
        for name in ("reuse", "shuffled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"task.{name} = {getattr(self, name)}: a chance, from 0 to 1")
        if self.distractors < 0:
            raise ValueError(f"task.distractors = {self.distractors}: a number of clauses, at least 0")
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
            raise ValueError(f"task.renderings = {self.renderings}: one or more of {', '.join(RENDERINGS)}, each once")
        if not any(getattr(self.shares, rendering) for rendering in self.renderings):
            raise ValueError(f"task.shares gives nothing to {', '.join(self.renderings)}, which the base is to read")


class Step(NamedTuple):
    """``name`` is ``left`` (``sign`` is empty), or ``left sign right``; operands are earlier names, or numbers."""

    name: str
    sign: str
    left: str | int
    right: str | int
    value: int


Graph = tuple[tuple, ...]


@dataclass(frozen=True)
class Problem:
    """A derivation down to P2, distractors, and what the text chooses: the order of the clauses and their wordings."""

    steps: tuple[Step, ...]
    distractors: tuple[Step, ...]
    order: tuple[int, ...]  # of steps + distractors
    wordings: tuple[int, ...]  # one for each clause and one for the question

    def at(self, level: str) -> tuple[Step, ...]:
        """The derivation of a level: P2's without its last steps."""
        return self.steps[: len(self.steps) - len(LEVELS) + 1 + LEVELS.index(level)]

    def graph(self, level: str) -> Graph:
        """The level's derivation without names: (sign, operands), a quantity as the negative of its place, from -1."""
        steps = self.at(level)
        place = {step.name: -1 - i for i, step in enumerate(steps)}
        return tuple((s.sign, *(x if isinstance(x, int) else place[x] for x in (s.left, s.right))) for s in steps)

    def beginnings(self) -> list[Graph]:
        """The graphs with which the derivation begins, of one step, of two, and so on."""
        whole = self.graph(LEVELS[-1])
        return [whole[:k] for k in range(1, len(whole) + 1)]

    def prompt(self, level: str, rendering: str) -> str:
        steps, clauses = self.at(level), self.steps + self.distractors
        told = [i for i in self.order if i < len(steps) or i >= len(self.steps)]
        lines = [CLAUSES[clauses[i].sign][self.wordings[i]].format(**clauses[i]._asdict()) for i in told]
        return " ".join([*lines, ASKS[self.wordings[-1]].format(name=steps[-1].name), f"in {rendering} :"])

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


@dataclass(frozen=True)
class Question(task.Question):
    """The scorer must also know the problem, and how its derivation is to be written."""

    problem: Problem
    rendering: str


def draw(config: WordMathConfig, rng: Random, base_steps: int) -> Problem:
    """One problem with so many calculations at the base level. Distractors are numbers that are given and not used; unless
    the clauses are shuffled they stand behind the first calculation. (Where two numbers are given side by side, no base of
    this size learned to take the right one: LOG.md.)"""
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
    """``name`` from ``left`` and, where one fits, one of ``others``; the result stays from 1 to ``limit``."""
    a = left.value
    most = {"+": limit - a, "-": a - 1, "*": min(limit // a, LARGEST_FACTOR)}  # of the second operand
    least = {"+": 1, "-": 1, "*": 2}
    choices: list[tuple[str, str | int, int]] = [
        (sign, b.name, b.value) for b in others for sign in SIGNS if least[sign] <= b.value <= most[sign]
    ]
    if choices:
        sign, right, b = rng.choice(choices)
    else:
        sign = rng.choice([sign for sign in SIGNS if least[sign] <= most[sign]])
        right = b = rng.randint(least[sign], most[sign])
    return Step(name, sign, left.name, right, calculate(sign, a, b))


def calculate(sign: str, a: int, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


class Said(NamedTuple):
    """A step as a completion writes it. The value is None where a program's statement has none."""

    name: str
    signs: tuple[str, ...]
    operands: tuple[str | int, ...]
    values: tuple[int, ...]  # put in for the operands; a program puts in none
    value: int | None


class Trace(NamedTuple):
    """What a completion writes down: steps, the answer (of a program, the name it gives), and whether it is well formed
    up to its end and ends with the answer, if it gives one."""

    steps: list[Said]
    answer: str | int | None
    whole: bool


def read_trace(rendering: str, completion: str) -> Trace:
    said: list[Said] = []
    if rendering == "python":
        done, whole = run(completion)
        for i, a in enumerate(done):
            if a.name == "answer":
                return Trace(said, a.operands[0] if not a.operators else a.value, whole and i == len(done) - 1)
            said.append(Said(a.name, a.operators, a.operands, (), a.value))
        return Trace(said, None, whole)
    parts = SENTENCE_ENDS[rendering].split(completion[:MAX_COMPLETION].strip())
    # Prose ends its sentences, so nothing may stand behind the last end; Markdown begins them, so nothing before the first.
    outside = parts.pop(-1 if rendering == "prose" else 0)
    for i, part in enumerate(parts):
        if answer := ANSWERS[rendering].fullmatch(part):
            return Trace(said, int(answer[1]), not outside and i == len(parts) - 1)
        step = STEPS[rendering].fullmatch(part)
        if step is None or (outside and rendering == "markdown") or step["k"] not in ("", str(i + 1)):
            return Trace(said, None, False)
        signs = tuple(NAMED_SIGNS.get(step[x], step[x]) for x in ("sign", "again") if step[x])
        operands = tuple(int(x) if x.isdigit() else x for x in (step["left"], step["right"]) if x)
        if not signs and isinstance(operands[0], str):
            return Trace(said, None, False)
        value = int(step["value"] if signs else step["left"])
        said.append(Said(step["name"], signs, operands, tuple(int(step[x]) for x in "ab" if step[x]), value))
    return Trace(said, None, not outside)


def first_error(problem: Problem, level: str, rendering: str, completion: str) -> tuple[int, str] | None:
    """Where a completion first leaves the level's derivation: the step, from 1 (the answer is the last), and the kind, one
    of OUTCOMES. None if it is that derivation; the operands of plus and times may stand in either order."""
    steps = problem.at(level)
    values: dict[str | int, int] = {step.name: step.value for step in steps}
    said, answer, whole = read_trace(rendering, completion)
    for k, (step, found) in enumerate(zip(steps, said, strict=False), 1):
        operands = (step.left, step.right) if step.sign else (step.left,)
        if found.name != step.name:
            return k, "wrong quantity"
        if set(found.signs) != ({step.sign} if step.sign else set()) or len(found.operands) != len(operands):
            return k, "wrong operation"
        if found.operands != operands and not (step.sign in ("+", "*") and found.operands[::-1] == operands):
            return k, "wrong quantity"
        if found.values not in ((), tuple(values.get(x, x) for x in found.operands)):
            return k, "wrong quantity"
        if found.value != step.value:
            return k, "wrong arithmetic"
    if len(said) > len(steps):
        return len(steps) + 1, "went on"
    if answer is None or len(said) < len(steps):
        return len(said) + 1, "stopped early" if whole or answer is not None else "malformed"
    if answer != (steps[-1].name if rendering == "python" else steps[-1].value):
        return len(steps) + 1, "wrong quantity"
    return None if whole else (len(steps) + 1, "went on")


def last_number(rendering: str, completion: str) -> int | None:
    """The last number of a completion, commas removed; of a program the last value, if all of it can be executed."""
    if rendering == "python":
        done, whole = run(completion)
        return done[-1].value if whole and done else None
    found = NUMBER.findall(completion[-MAX_COMPLETION:])
    return int(found[-1].replace(",", "")) if found else None


# A problem is a world of its own: other problems in its row would only confuse it, so each row holds one.
_TRAINING = (
    "model.context=384", "model.init=0.08", "pretrain.packed=False", "pretrain.rows=12", "pretrain.length=200",
    "pretrain.steps=3000", "pretrain.lr=1e-3", "pretrain.weight_decay=0", "train.packed=False", "train.length=200",
    "train.rows=12", "train.steps=800", "adapter.preservation=0.25",
)  # fmt: skip


class WordMath(task.Task):
    """One seeded set of problems: what the base and the experts read, what is asked, and how answers are scored."""

    name = rules = "word-math"
    Config = WordMathConfig
    titles = {
        "prose": "solved in prose", "markdown": "solved in numbered Markdown steps", "python": "solved by a Python program"
    }  # fmt: skip
    groups, forms, components, outcomes = RENDERINGS, LEVELS, LEVELS[:2], OUTCOMES
    parts = ("main", "references", "prose base")
    bases = {"standard": (), "prose": ("task.renderings=prose",)}
    recipes = {"standard": (), "full": ("adapter.kind=full", "train.lr=1e-3")}
    presets = {
        "quick": (*_TRAINING, "parts=main"),
        "laptop": (*_TRAINING, "seeds=1,2,3"),
        "full": (*_TRAINING, "seeds=1,2,3,4,5"),
    }

    def __init__(self, config: WordMathConfig, seed: int):
        self.config, self.seed = config, seed
        self.longest = 16 + 15 * (config.steps + len(LEVELS))  # room for one step too many
        self.asked = self._draw("test", config.questions)
        self.read_by_base = self._draw("base", config.problems)
        pool, size = self._draw("experts", len(LEVELS) * config.expert_problems), config.expert_problems
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
        """Who may read the problem: a tenth of the base-level graphs are for the test, three for the experts. What begins with
        a test graph is for nobody else."""
        part = self._part(problem.graph("base"))
        if part == 0:
            return "test"
        if any(self._part(beginning) == 0 for beginning in problem.beginnings()):
            return None
        return "experts" if part < 4 else "base"

    def _part(self, of: Graph) -> int:
        """Of ten; of what is shorter than any problem, none."""
        return zlib.crc32(repr((self.seed, of)).encode()) % 10 if len(of) > self.config.fewest else -1

    # What is read -----------------------------------------------------------------------------------------------

    def words(self) -> list[str]:
        templates = [TRACE_WORDS, *ASKS, *(wording for wordings in CLAUSES.values() for wording in wordings)]
        return [
            *dict.fromkeys(w for t in templates for w in t.split() if "{" not in w),
            *RENDERINGS,
            *QUANTITIES,
            *map(str, range(1, max(self.config.limit, self.config.steps + len(LEVELS)) + 1)),
        ]

    def base_texts(self) -> dict[str, list[Text]]:
        """Every single calculation, in words and in signs, and short and base problems in the base's renderings."""
        numbers = range(1, self.config.limit + 1)
        results = [(sign, a, b, calculate(sign, a, b)) for sign in SIGNS for a in numbers for b in numbers]
        facts = [fact for fact in results if 1 <= fact[-1] <= self.config.limit]
        return {
            "facts": [text for sign, a, b, c in facts for text in (
                Text(f"{a} {SIGNS[sign]} {b} which is", f"{c} ."), Text(f"{a} {sign} {b} =", f"{c}"))],
            **{r: [p.text("base", r) for p in self.read_by_base] if r in self.config.renderings else [] for r in RENDERINGS},
        }  # fmt: skip

    def shares(self) -> dict[str, float]:
        given = asdict(self.config.shares)
        return {kind: given[kind] for kind in ("facts", *self.config.renderings) if given[kind] > 0}

    def expert_texts(self, reads: str, group: str) -> list[Text]:
        """Problems of one level in one rendering; ``joint`` reads what the base and the P1 expert read together."""
        if reads == "joint":
            return self.expert_texts("base", group) + self.expert_texts("P1", group)
        if reads not in LEVELS or group not in RENDERINGS:
            raise ValueError(
                f"no expert reads {reads!r} in {group!r}: choose {', '.join(LEVELS)} or joint, in {', '.join(RENDERINGS)}"
            )
        return [problem.text(reads, group) for problem in self.read_by[reads]]

    def libraries(self) -> list[Library]:
        """The base, single experts, the base and P1 experts of one rendering and of two, and what they are held against."""
        found = [Library("none", "base"), Library("none", "base", base="prose", part="prose base")]
        for r in RENDERINGS:
            easy, harder = Expert("base", r), Expert("P1", r)
            found += [
                Library("none", r),
                *(Library(reads, r, (Expert(reads, r),)) for reads in (*LEVELS, "joint")),
                Library("matched", r, (easy, harder), ("all",)),
                *(Library(f"mismatched, P1 in {other}", r, (easy, Expert("P1", other)), ("main",))
                  for other in RENDERINGS if other != r),
                Library("with P2", r, (easy, harder, Expert("P2", r)), ("main",)),
                Library("none, examples in context", r, context=True, part="references"),
                Library("joint, full fine-tuning", r, (Expert("joint", r, "full"),), part="references"),
            ]  # fmt: skip
        for r in RENDERINGS[1:]:  # which the prose base has not read
            easy, harder, prose = (Expert(*which, base="prose") for which in (("base", r), ("P1", r), ("P1", "prose")))
            found += [
                *(Library(e.reads, r, (e,), base="prose", part="prose base") for e in (easy, harder)),
                Library("matched", r, (easy, harder), ("main",), "prose", "prose base"),
                Library("mismatched, P1 in prose", r, (easy, prose), ("main",), "prose", "prose base"),
            ]
        return found

    # What is asked ----------------------------------------------------------------------------------------------

    def questions(self, group: str, form: str) -> list[Question]:
        """The same problems at every level and in every rendering; ``base`` asks in all renderings that the base reads."""
        renderings = self.config.renderings if group == "base" else (group,)
        return [
            Question(form, *problem.text(form, r)[:2], str(problem.at(form)[-1].value), problem, r)
            for r in renderings for problem in self.asked
        ]  # fmt: skip

    def in_context(self, group: str) -> list[list[Text]]:
        """Before each problem, a solved problem of the base level and one of P1, in the group's rendering."""
        solved = [[problem.text(level, group) for problem in self.read_by[level]] for level in LEVELS[:2]]
        return [[texts[i % len(texts)] for texts in solved] for i in range(len(self.asked))]

    def chance(self, group: str) -> float:
        """Accuracy of the best constant answer, by the last number, to the problems at level P2."""
        return max(Counter(p.steps[-1].value for p in self.asked).values()) / len(self.asked)

    # How it is scored -------------------------------------------------------------------------------------------

    def score(self, question: Question, completion: str) -> str:
        """``right`` needs the whole derivation. A wrong one is named by its first error, unless its last number is right."""
        error = first_error(question.problem, question.form, question.rendering, completion)
        if error is None:
            return "right"
        right = str(last_number(question.rendering, completion)) == question.answer
        return "right answer, wrong trace" if right else error[1]

    def notes(self, question: Question, completion: str) -> dict[str, bool]:
        """Whether the last number is right, whether the answer is the derivation of a lower level (it stopped there), and
        the step of the first error, 1 to one behind the last, which is the answer's."""
        problem, rendering = question.problem, question.rendering
        error = first_error(problem, question.form, rendering, completion)
        lower = LEVELS[: LEVELS.index(question.form)]
        return {
            "last number right": str(last_number(rendering, completion)) == question.answer,
            **{f"stopped as {x}": first_error(problem, x, rendering, completion) is None for x in lower},
            **{f"first error at step {k}": error is not None and error[0] == k
               for k in range(1, len(problem.at(question.form)) + 2)},
        }  # fmt: skip

    # What must not have been read -------------------------------------------------------------------------------

    def check_leaks(self) -> None:
        """Fails loudly where a reader has the derivation of a test problem, under whatever names, where the experts have
        one of the base's, or two experts the same."""
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
                    raise Leak(f"{reader} reads a derivation of the base: {problem.completion('base', 'python')}")
                if problem.at("base") in seen:
                    raise Leak(f"{reader} reads a problem twice, or another's: {problem.completion('base', 'python')}")
                seen.add(problem.at("base"))

"""Ask a model questions, decode greedily, score: the only place where answers are counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models import Tokenizer, Transformer, greedy
from tasks.two_hop import LONGEST_COMPLETION, OUTCOMES, Question, TwoHop


@dataclass(frozen=True)
class Answer:
    question: Question
    completion: str
    outcome: str


def ask(
    model: Transformer, tokenizer: Tokenizer, task: TwoHop, questions: Sequence[Question], batch: int = 256
) -> list[Answer]:
    """Greedy answers, in the order of the questions; whatever adapters are active in the model act."""
    answers = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        prompts = [[tokenizer.boundary, *tokenizer.encode(question.prompt)] for question in part]
        decoded = greedy(model, prompts, LONGEST_COMPLETION, tokenizer.boundary, tokenizer.pad)
        for question, ids in zip(part, decoded, strict=True):
            completion = tokenizer.decode(ids)
            answers.append(Answer(question, completion, task.score(question, completion)))
    return answers


def tally(task: TwoHop, answers: Sequence[Answer]) -> dict:
    """Counts: n, one for each outcome, and how many chains of thought name the right bridge first."""
    outcomes = Counter(answer.outcome for answer in answers)
    counts = {"n": len(answers), **{outcome: outcomes[outcome] for outcome in OUTCOMES}}
    if answers and answers[0].question.form == "cot":
        counts["bridge named"] = sum(task.names_bridge(a.question, a.completion) for a in answers)
    return counts


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927)."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}: no proportion")
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The limits at 0 and n are exactly 0 and 1; rounding must not put them inside.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)

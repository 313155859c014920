"""Ask a model questions, decode greedily, score: the only place where answers are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from lora import using
from models import Tokenizer, Transformer, greedy
from recycle.methods import Phase
from tasks import Question, Task, Text


@dataclass(frozen=True)
class Answer:
    question: Question
    completion: str
    outcome: str


def ask(
    model: Transformer,
    tokenizer: Tokenizer,
    task: Task,
    questions: Sequence[Question],
    phases: Sequence[Phase] | None = None,
    contexts: Sequence[Sequence[Text]] | None = None,
    batch: int = 512,
) -> list[Answer]:
    """Greedy answers, in the order of the questions. Each phase goes on from what the last one
    wrote; without phases the adapters act as they do now. ``contexts`` are texts that stand before
    each question, as they stand in training."""
    answers = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        prompts = [
            encode_prompt(tokenizer, q, () if contexts is None else contexts[start + i])
            for i, q in enumerate(part)
        ]
        said: list[list[int]] = [[] for _ in part]
        for phase in (None,) if phases is None else phases:
            until = phase.until if phase else None
            end = tokenizer.boundary if until is None else tokenizer.encode(until)[0]
            begun = [prompt + words for prompt, words in zip(prompts, said, strict=True)]
            with using(model, phase.mode) if phase else nullcontext():
                decoded = greedy(model, begun, task.longest, end, tokenizer.pad)
            stop = [] if until is None else [end]
            said = [words + more + stop for words, more in zip(said, decoded, strict=True)]
        for question, ids in zip(part, said, strict=True):
            completion = tokenizer.decode(ids)
            answers.append(Answer(question, completion, task.score(question, completion)))
    return answers


def encode_prompt(
    tokenizer: Tokenizer, question: Question, context: Sequence[Text] = ()
) -> list[int]:
    before = [
        token for text in context for token in (*tokenizer.encode(str(text)), tokenizer.boundary)
    ]
    return [tokenizer.boundary, *before, *tokenizer.encode(question.prompt)]


def tally(task: Task, answers: Sequence[Answer]) -> dict[str, int]:
    """Counts: n, one for each outcome, and one for each of the task's notes."""
    outcomes = Counter(answer.outcome for answer in answers)
    counts = {"n": len(answers), **{outcome: outcomes[outcome] for outcome in task.outcomes}}
    for answer in answers:
        for note, holds in task.notes(answer.question, answer.completion).items():
            counts[note] = counts.get(note, 0) + holds
    return counts


@torch.inference_mode()
def compare(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    alternatives: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Log-probability of the right completion beside that of others' right completions (shuffled
    answers), in nats: the means of both, and the share of pairs in which the right one is the more
    probable (.5 is chance; ties count half).

    A failure in accuracy can hide a signal here. An answer's overall frequency cancels: each is
    right as often as wrong.
    """
    rows = [
        (tokenizer.encode(q.prompt), tokenizer.encode(completion))
        for q, others in zip(questions, alternatives, strict=True)
        for completion in (q.completion, *others)
    ]
    width = 1 + max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens = torch.full((len(rows), width), tokenizer.pad)
    scored = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(
        rows
    ):  # padding behind the text is seen by nothing that is scored
        text = [tokenizer.boundary, *prompt, *completion]
        tokens[i, : len(text)] = torch.tensor(text)
        scored[i, 1 + len(prompt) : len(text)] = True
    states = model.hidden_states(tokens[:, :-1])[scored[:, 1:]]
    logp = (
        model.unembed(states).log_softmax(-1).gather(1, tokens[:, 1:][scored[:, 1:]][:, None])[:, 0]
    )
    of_row = scored[:, 1:].nonzero()[:, 0]
    totals: Tensor = torch.zeros(len(rows), dtype=logp.dtype).index_add(0, of_row, logp)
    right, others, beaten, start = [], [], [], 0
    for group in alternatives:
        own, rest = totals[start], totals[start + 1 : start + 1 + len(group)]
        right.append(own.item())
        others += rest.tolist()
        beaten += ((own > rest).double() + 0.5 * (own == rest)).tolist()
        start += 1 + len(group)
    return {
        "log p right": fmean(right),
        "log p others": fmean(others),
        "right above others": fmean(beaten),
    }

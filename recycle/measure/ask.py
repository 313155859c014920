"""Ask a model questions, decode greedily, score, and count the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from lora import using
from models import (
    LanguageModel,
    Vocabulary,
    device_of,
    greedy,
    pad_right,
    rows_at_once,
    token_losses,
)
from recycle.reuse.method import Stage
from recycle.train.base import Base
from tasks import Question, Text, World


@dataclass(frozen=True)
class Answer:
    question: Question
    completion: str
    outcome: str

    def to_json(self) -> dict[str, str]:
        return {
            "prompt": self.question.prompt,
            "right": self.question.completion,
            "said": self.completion,
            "outcome": self.outcome,
        }


def ask(
    base: Base,
    questions: Sequence[Question],
    stages: Sequence[Stage] | None = None,
    contexts: Sequence[Sequence[Text]] | None = None,
) -> list[Answer]:
    """Greedy answers, in the order of the questions.

    Each stage goes on from what the last one wrote; without stages the adapters act as they do now.
    ``contexts`` are texts that stand before each question, as they stand in training."""
    model, tokenizer, world = base.model, base.tokenizer, base.world
    begun = [
        encode_prompt(tokenizer, question, () if contexts is None else contexts[i])
        for i, question in enumerate(questions)
    ]
    steps = (None,) if stages is None else stages
    length = max(map(len, begun), default=1) + len(steps) * (world.longest + 1)
    batch = rows_at_once(model, length)
    answers = []
    for start in range(0, len(questions), batch):
        part, prompts = questions[start : start + batch], begun[start : start + batch]
        said: list[list[int]] = [[] for _ in part]
        for stage in steps:
            until = stage.until if stage else None
            end = tokenizer.boundary if until is None else id_of(tokenizer, until, part[0])
            so_far = [prompt + words for prompt, words in zip(prompts, said, strict=True)]
            with using(model, stage.mode) if stage else nullcontext():
                decoded = greedy(model, so_far, world.longest, end, tokenizer.pad)
            stop = [] if until is None else [end]
            said = [words + more + stop for words, more in zip(said, decoded, strict=True)]
        for question, ids in zip(part, said, strict=True):
            completion = tokenizer.decode(ids)
            answers.append(Answer(question, completion, world.score(question, completion)))
    return answers


def id_of(tokenizer: Vocabulary, word: str, question: Question) -> int:
    """The id of a word as the question's right completion writes it: a period after a name is
    another token than one after a blank. Raises ValueError where no token is the word alone."""
    for token in tokenizer.encode_completion(question.completion):
        if tokenizer.token(token).strip() == word:
            return token
    raise ValueError(
        f"{question.completion!r} has no token {word!r} of its own, and a method changes its "
        "adapters there: leave the oracle out"
    )


def encode_prompt(
    tokenizer: Vocabulary, question: Question, context: Sequence[Text] = ()
) -> list[int]:
    """The question's ids after a boundary, with the texts of a context before it."""
    before = [
        token for text in context for token in (*tokenizer.encode(str(text)), tokenizer.boundary)
    ]
    return [tokenizer.boundary, *before, *tokenizer.encode(question.prompt)]


def tally(world: World, answers: Sequence[Answer]) -> tuple[dict[str, int], dict[str, int]]:
    """Counts of answers: by outcome, and by each of the world's notes."""
    counted = Counter(answer.outcome for answer in answers)
    notes: dict[str, int] = {}
    for answer in answers:
        for note, holds in world.notes(answer.question, answer.completion).items():
            notes[note] = notes.get(note, 0) + holds
    return {outcome: counted[outcome] for outcome in world.outcomes}, notes


@torch.inference_mode()
def compare(
    model: LanguageModel,
    tokenizer: Vocabulary,
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
        (tokenizer.encode(q.prompt), tokenizer.encode_completion(completion))
        for q, others in zip(questions, alternatives, strict=True)
        for completion in (q.completion, *others)
    ]
    tokens = pad_right([[tokenizer.boundary, *p, *c] for p, c in rows], tokenizer.pad)
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(rows):
        scored[i, 1 + len(prompt) :][: len(completion)] = True
    tokens, scored = tokens.to(device_of(model)), scored[:, 1:].to(device_of(model))
    states = model.hidden_states(tokens[:, :-1])[scored]
    logp = -token_losses(model, states, tokens[:, 1:][scored])
    totals: Tensor = logp.new_zeros(len(rows)).index_add(0, scored.nonzero()[:, 0], logp)
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

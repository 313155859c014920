"""How the methods that learn are taught: their texts, a descent by gradient, a search without one.

The base and the adapters stay as they are. What is learned are a few numbers beside them: weights
of adapters, or vectors of gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, attach, detach
from models import completion_loss, device_of, pad_right
from recycle.reuse.method import Given
from tasks import Question, Text

MOST = 100  # examples of a method: what it learns from must stay far below an expert's own texts


@dataclass(frozen=True)
class Lesson:
    """Texts whose completions are learned, one in a row after a boundary and before padding.

    ``model`` is the base, on which no adapter acts. ``tokens`` and ``learned`` are (rows, length).
    ``texts`` are the prompts and completions themselves.
    """

    model: Any
    tokens: Tensor
    learned: Tensor
    texts: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, texts: Sequence[Text], given: Given) -> Lesson:
        """Raises ValueError for no text, and for one that the vocabulary cannot express."""
        if not texts:
            raise ValueError("there is nothing to learn from: give at least one text")
        tokenizer = given.tokenizer
        pairs = [
            (tokenizer.encode(text.prompt), tokenizer.encode_completion(text.completion))
            for text in texts
        ]
        end = tokenizer.boundary
        tokens = pad_right([[end, *prompt, *said, end] for prompt, said in pairs], tokenizer.pad)
        learned = torch.zeros_like(tokens, dtype=torch.bool)
        for row, (text, (prompt, completion)) in enumerate(zip(texts, pairs, strict=True)):
            learned[row, 1 + len(prompt) :][: len(completion) + text.ends] = True
        device = device_of(given.model)
        said = [(text.prompt, text.completion) for text in texts]
        return cls(given.model, tokens.to(device), learned.to(device), said)

    @classmethod
    def from_examples(cls, examples: Sequence[Question], given: Given) -> Lesson:
        """Raises ValueError for none, and for more than MOST."""
        if not 1 <= len(examples) <= MOST:
            raise ValueError(f"examples = {len(examples)}: choose from 1 to {MOST}")
        return cls.of([question.text for question in examples], given)

    def loss(self, rows: Tensor | None = None) -> Tensor:
        """The mean cross-entropy of the learned tokens, in nats, of all rows or of these: a
        number with its gradient."""
        tokens, learned = self.tokens, self.learned
        if rows is not None:
            rows = rows.to(tokens.device)
            tokens, learned = tokens[rows], learned[rows]
            width = int(learned.any(0).nonzero().max()) + 1  # no token sees the padding after it
            tokens, learned = tokens[:, :width], learned[:, :width]
        return completion_loss(self.model, tokens, learned)[0]


@contextmanager
def attached(model: Any, adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """The adapters are on the model inside the block; after it the model is what it was."""
    attach(model, adapters)
    try:
        yield
    finally:
        detach(model)


def descend(
    parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int, rate: float
) -> list[float]:
    """So many steps of AdamW, without weight decay; the losses before each step, in nats.

    Raises ValueError for fewer than one step, for a rate that is not finite and above 0, and where
    a loss is not finite.
    """
    if steps < 1 or not 0 < rate < math.inf:
        raise ValueError(f"steps = {steps}, rate = {rate}: at least one step, a rate above 0")
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        with torch.enable_grad():
            value = loss()
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the loss is {losses[-1]} at step {step}: lower rate = {rate}")
            optimizer.zero_grad()
            value.backward()
        optimizer.step()
    return losses


def evolve(
    value: Callable[[Tensor], float],
    starts: Tensor,
    generator: torch.Generator,
    evaluations: int,
    bound: float,
) -> Tensor:
    """The best of so many points x (n,) within +-``bound``: a (1+1) evolution strategy with
    Rechenberg's rule of one fifth (1973), in float64.

    It begins at the best of ``starts`` (k, n). Each trial is the best point so far and Gaussian
    noise; the step grows by e^(1/3) after a trial that is no worse, and shrinks by e^(-1/12) after
    another one, so that it stays where one trial in five is no worse. A value that is not finite
    counts as infinite.

    Raises ValueError for fewer than one evaluation, and for a bound that is not finite and above 0.
    """
    if evaluations < 1 or not 0 < bound < math.inf:
        raise ValueError(
            f"evaluations = {evaluations}, bound = {bound}: at least one evaluation, a finite "
            "bound above 0"
        )

    def finite(x: Tensor) -> float:
        reached = value(x)
        return reached if math.isfinite(reached) else math.inf

    points = list(starts.double().clamp(-bound, bound))[:evaluations]
    values = [finite(point) for point in points]
    least = min(values)
    best, step = points[values.index(least)], bound / 3
    for _ in range(evaluations - len(points)):
        noise = torch.randn(best.shape, generator=generator, dtype=torch.float64)
        trial = (best + step * noise).clamp(-bound, bound)
        if (reached := finite(trial)) <= least:
            best, least, step = trial, reached, step * math.exp(1 / 3)
        else:
            step *= math.exp(-1 / 12)
    return best


def noise_like(expert: Adapter, generator: torch.Generator) -> Adapter:
    """An adapter of noise whose update has in each layer the Frobenius norm of the expert's.

    Ranks, layers, scalings and the record are the expert's. A layer whose update is 0 stays 0.
    """
    factors = {}
    for path, (A, B) in expert.factors.items():
        noise_A, noise_B = (torch.randn(f.shape, generator=generator) for f in (A, B))
        drawn = Adapter({path: (noise_A, noise_B)}, expert.alpha, expert.rslora, expert.alphas)
        own = drawn.norm(path)
        ratio = expert.norm(path) / own if own else 0.0
        factors[path] = noise_A.to(A), (ratio * noise_B).to(B)
    return replace(expert, factors=factors, origin={**expert.origin, "noise": True})

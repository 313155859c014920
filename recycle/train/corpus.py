"""Texts packed end to end into rows of one length, or one to a row, drawn afresh for every step
from a seed.

Packed, several unrelated texts stand in every row. That is what makes a fact recallable anywhere:
with one text a row, a fact is found only where it was learned, and a chain of thought, which
recalls it in the middle of a text, fails. Where a text is a world of its own, as a word problem is,
the others in the row only confuse it (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import Tokenizer
from recycle.train.fit import TrainConfig
from tasks import Text

BUCKETS = 16  # steps whose texts are drawn together and sorted by length


def padding(batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, pad: int) -> float:
    """The share of padding among the tokens of the first steps, 2 * BUCKETS of them."""
    tokens = [batch(step)[0] for step in range(min(steps, 2 * BUCKETS))]
    return sum(int((t == pad).sum()) for t in tokens) / sum(t.numel() for t in tokens)


@dataclass(frozen=True)
class Corpus:
    """Texts with the chance of drawing each. ``tokens`` holds all of them end to end, each before a
    boundary, and ``learned`` is True where a token is part of a completion, or the boundary that
    ends one."""

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    chances: np.ndarray
    boundary: int
    pad: int

    @classmethod
    def build(
        cls, texts: Mapping[str, Sequence[Text]], shares: Mapping[str, float], tokenizer: Tokenizer
    ) -> Corpus:
        """``shares``: the share of drawn *texts* that each kind gets, in any unit; within a kind
        all are equally likely."""
        if unknown := set(shares) - set(texts):
            raise ValueError(
                f"a share is given for {sorted(unknown)}, the texts are of kinds {sorted(texts)}"
            )
        encoded: list[int] = []
        learned: list[bool] = []
        lengths, chances = [], []
        for kind, kind_texts in texts.items():
            if kind_texts and shares.get(kind, 0) > 0:
                for text in kind_texts:
                    prompt, completion = (
                        tokenizer.encode(text.prompt),
                        tokenizer.encode(text.completion),
                    )
                    encoded += [*prompt, *completion, tokenizer.boundary]
                    learned += [False] * len(prompt) + [True] * len(completion) + [text.ends]
                    lengths.append(len(prompt) + len(completion) + 1)
                chances += [shares[kind] / len(kind_texts)] * len(kind_texts)
        if not encoded:
            raise ValueError("no texts to train on: every kind is empty or has the share 0")
        ends = np.cumsum(lengths)
        weights = np.array(chances) / sum(chances)
        return cls(
            np.array(encoded),
            np.array(learned),
            ends - lengths,
            np.array(lengths),
            weights,
            tokenizer.boundary,
            tokenizer.pad,
        )

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random texts end to end, cut into rows wherever a row is full: token ids and learned,
        (count, length) each."""
        need = count * length
        drawn = np.empty(0, dtype=np.int64)
        while (total := self.lengths[drawn].sum()) < need:
            more = int((need - total) / (self.lengths @ self.chances)) + 8
            drawn = np.concatenate([drawn, rng.choice(len(self.lengths), more, p=self.chances)])
        lengths = self.lengths[drawn]
        ends = np.cumsum(lengths)
        # Position p of the stream lies in drawn text t: read starts[t] + (p - where t begins in the
        # stream).
        index = np.arange(ends[-1]) + np.repeat(self.starts[drawn] - (ends - lengths), lengths)
        index = index[:need].reshape(count, length)
        return torch.from_numpy(self.tokens[index]), torch.from_numpy(self.learned[index])

    def single_rows(self, texts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """One of these texts in each row, behind a boundary and before padding: token ids and
        learned, (texts, width) each, as wide as the longest of them. Raises ValueError where that
        is wider than ``length``."""
        width = int(self.lengths[texts].max()) + 1
        if width > length:
            raise ValueError(
                f"a text of {width - 1} tokens does not fit into rows of {length - 1}: raise the length"
            )
        tokens = np.full((len(texts), width), self.pad)
        learned = np.zeros((len(texts), width), dtype=bool)
        tokens[:, 0] = self.boundary
        for row, text in enumerate(texts):
            part = slice(self.starts[text], self.starts[text] + self.lengths[text])
            tokens[row, 1 : 1 + self.lengths[text]] = self.tokens[part]
            learned[row, 1 : 1 + self.lengths[text]] = self.learned[part]
        return torch.from_numpy(tokens), torch.from_numpy(learned)

    def batch(self, config: TrainConfig, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """One step's rows, of that seed. Single texts are drawn for BUCKETS steps together and
        share a step with others of about their length, so that little is padding. Which step gets
        which lengths is random, and the same for all seeds: experts that are trained at once then
        meet at like lengths."""
        if config.packed:
            return self.rows(config.rows, config.length + 1, np.random.default_rng([seed, step]))
        rng = np.random.default_rng([seed, step // BUCKETS])
        drawn = rng.choice(len(self.lengths), BUCKETS * config.rows, p=self.chances)
        buckets = drawn[np.argsort(self.lengths[drawn], kind="stable")].reshape(
            BUCKETS, config.rows
        )
        order = np.random.default_rng(step // BUCKETS).permutation(BUCKETS)
        return self.single_rows(buckets[order[step % BUCKETS]], config.length + 1)

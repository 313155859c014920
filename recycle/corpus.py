"""Texts packed end to end into rows of one length, drawn afresh for every step from a seed.

Several unrelated texts stand in every row. That is what makes a fact recallable anywhere: with one text a row, a fact is
found only where it was learned, and a chain of thought, which recalls it in the middle of a text, fails (LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import Tokenizer
from tasks import Text


@dataclass(frozen=True)
class Corpus:
    """Texts with the chance of drawing each. ``tokens`` holds all of them end to end, each before a boundary, and
    ``learned`` is True where a token is part of a completion, or the boundary that ends one."""

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    chances: np.ndarray

    @classmethod
    def build(cls, texts: Mapping[str, Sequence[Text]], shares: Mapping[str, float], tokenizer: Tokenizer) -> Corpus:
        """``shares``: the share of drawn *texts* that each kind gets, in any unit; within a kind all are equally likely."""
        if unknown := set(shares) - set(texts):
            raise ValueError(f"a share is given for {sorted(unknown)}, the texts are of kinds {sorted(texts)}")
        encoded: list[int] = []
        learned: list[bool] = []
        lengths, chances = [], []
        for kind, kind_texts in texts.items():
            if kind_texts and shares.get(kind, 0) > 0:
                for text in kind_texts:
                    prompt, completion = tokenizer.encode(text.prompt), tokenizer.encode(text.completion)
                    encoded += [*prompt, *completion, tokenizer.boundary]
                    learned += [False] * len(prompt) + [True] * len(completion) + [text.ends]
                    lengths.append(len(prompt) + len(completion) + 1)
                chances += [shares[kind] / len(kind_texts)] * len(kind_texts)
        if not encoded:
            raise ValueError("no texts to train on: every kind is empty or has the share 0")
        ends = np.cumsum(lengths)
        weights = np.array(chances) / sum(chances)
        return cls(np.array(encoded), np.array(learned), ends - lengths, np.array(lengths), weights)

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random texts end to end, cut into rows wherever a row is full: token ids and learned, (count, length) each."""
        need = count * length
        drawn = np.empty(0, dtype=np.int64)
        while (total := self.lengths[drawn].sum()) < need:
            more = int((need - total) / (self.lengths @ self.chances)) + 8
            drawn = np.concatenate([drawn, rng.choice(len(self.lengths), more, p=self.chances)])
        lengths = self.lengths[drawn]
        ends = np.cumsum(lengths)
        # Position p of the stream lies in drawn text t: read starts[t] + (p - where t begins in the stream).
        index = np.arange(ends[-1]) + np.repeat(self.starts[drawn] - (ends - lengths), lengths)
        index = index[:need].reshape(count, length)
        return torch.from_numpy(self.tokens[index]), torch.from_numpy(self.learned[index])

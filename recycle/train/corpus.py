"""Training rows, drawn for each step from a seed: texts packed end to end, or one text a row.

A packed row holds several unrelated texts, and a model that reads such rows can recall a fact
anywhere. With one text in a row the model recalls a fact only at the position where it learned it,
and a chain of thought, which recalls facts in the middle of a text, fails. A word problem is a
world of its own, and other texts in its row only confuse the model (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import Vocabulary
from recycle.train.fit import TrainConfig
from tasks import Text

BUCKETS = 16  # the number of steps whose texts are drawn together and sorted by length


def padding(batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, pad: int) -> float:
    """The share of padding among the tokens of the first steps, at most 2 * BUCKETS of them."""
    tokens = [batch(step)[0] for step in range(min(steps, 2 * BUCKETS))]
    return sum(int((t == pad).sum()) for t in tokens) / sum(t.numel() for t in tokens)


@dataclass(frozen=True)
class Corpus:
    """Encoded texts, and the chance of drawing each.

    ``tokens`` (all tokens,) holds the texts end to end, with a boundary after each. ``learned``
    (all tokens,) is True where a token belongs to a completion or is the boundary that ends one.
    ``starts``, ``lengths`` (boundary included) and ``chances`` have the shape (texts,).
    """

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    chances: np.ndarray
    boundary: int
    pad: int

    @classmethod
    def build(
        cls, texts: Mapping[str, Sequence[Text]], shares: Mapping[str, float], tokenizer: Vocabulary
    ) -> Corpus:
        """Encode the texts of every kind that has a share.

        ``shares`` are the shares of drawn *texts* that the kinds get, in any unit. All texts of a
        kind are equally likely. Raises ValueError for a share of an unknown kind, and where no text
        has a share.
        """
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
                    prompt = tokenizer.encode(text.prompt)
                    completion = tokenizer.encode_completion(text.completion)
                    encoded += [*prompt, *completion, tokenizer.boundary]
                    learned += [False] * len(prompt) + [True] * len(completion) + [text.ends]
                    lengths.append(len(prompt) + len(completion) + 1)
                chances += [shares[kind] / len(kind_texts)] * len(kind_texts)
        if not encoded:
            raise ValueError("no texts to train on: every kind is empty or has the share 0")
        return cls(
            tokens=np.array(encoded),
            learned=np.array(learned),
            starts=np.cumsum(lengths) - lengths,
            lengths=np.array(lengths),
            chances=np.array(chances) / sum(chances),
            boundary=tokenizer.boundary,
            pad=tokenizer.pad,
        )

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random texts end to end, cut into rows wherever a row is full.

        Returns token ids and learned, (count, length) each.
        """
        need = count * length
        drawn = np.empty(0, dtype=np.int64)
        while (total := self.lengths[drawn].sum()) < need:
            more = int((need - total) / (self.lengths @ self.chances)) + 8
            drawn = np.concatenate([drawn, rng.choice(len(self.lengths), more, p=self.chances)])
        lengths = self.lengths[drawn]
        ends = np.cumsum(lengths)
        # A text keeps its order: all of its tokens move by the same offset, from its place in
        # ``tokens`` to its place in the stream.
        offsets = self.starts[drawn] - (ends - lengths)
        index = np.arange(ends[-1]) + np.repeat(offsets, lengths)
        index = index[:need].reshape(count, length)
        return torch.from_numpy(self.tokens[index]), torch.from_numpy(self.learned[index])

    def single_rows(self, texts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """One of these texts in each row, after a boundary and before padding.

        Returns token ids and learned, (texts, width) each. The longest text sets the width. Raises
        ValueError where the width exceeds ``length``.
        """
        width = int(self.lengths[texts].max()) + 1
        if width > length:
            raise ValueError(
                f"a text of {width - 1} tokens does not fit into rows of {length - 1}: "
                "raise the length"
            )
        tokens = np.full((len(texts), width), self.pad)
        learned = np.zeros((len(texts), width), dtype=bool)
        tokens[:, 0] = self.boundary
        for row, text in enumerate(texts):
            start, size = self.starts[text], self.lengths[text]
            tokens[row, 1 : 1 + size] = self.tokens[start : start + size]
            learned[row, 1 : 1 + size] = self.learned[start : start + size]
        return torch.from_numpy(tokens), torch.from_numpy(learned)

    def batch(self, config: TrainConfig, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The rows of one step for a seed: token ids and learned, (rows, at most length + 1) each.

        Single texts are drawn for BUCKETS steps together and share a step with others of about
        their length, so that there is little padding. The order of the lengths is random, and the
        same for all seeds: experts that are trained at once then read texts of like lengths in
        every step.
        """
        if config.packed:
            return self.rows(config.rows, config.length + 1, np.random.default_rng([seed, step]))
        rng = np.random.default_rng([seed, step // BUCKETS])
        drawn = rng.choice(len(self.lengths), BUCKETS * config.rows, p=self.chances)
        by_length = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        buckets = by_length.reshape(BUCKETS, config.rows)
        order = np.random.default_rng(step // BUCKETS).permutation(BUCKETS)
        return self.single_rows(buckets[order[step % BUCKETS]], config.length + 1)

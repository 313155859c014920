"""What anyone may ask of a model and of a tokenizer.

`Transformer` and `Tokenizer` are the ones written here. Whoever brings others gives them these
methods, and training, decoding and the questions work with them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class Trainable(Protocol):
    """What training asks: states of every token, and logits of those states."""

    def hidden_states(self, tokens: Tensor, /) -> Tensor:
        """Token ids (b, l) -> normalised states after the last layer (b, l, width)."""

    def unembed(self, states: Tensor, /) -> Tensor:
        """States (..., width) -> logits (..., vocabulary)."""

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


class KeyValueCache(Protocol):
    """Keys and values of the tokens that were read, for decoding."""

    def keep(self, rows: Tensor, /) -> None:
        """Only these rows of the batch go on, in this order."""


class LanguageModel(Protocol):
    """What decoding and looking inside ask."""

    @property
    def layers(self) -> nn.ModuleList:
        """Blocks that read the residual stream one after the other."""

    @property
    def norm(self) -> nn.Module:
        """What stands between the last block and the logits."""

    def new_cache(self, rows: int, length: int, /) -> Any:
        """A `KeyValueCache` of that many rows, with room for that many tokens each."""

    def hidden_states(
        self, tokens: Tensor, cache: Any = None, real: Tensor | None = None, /
    ) -> Tensor:
        """Token ids (b, l) -> normalised states after the last layer (b, l, width).

        ``real`` (b, s) is False at padding keys, counted from the cache's start."""

    def unembed(self, states: Tensor, /) -> Tensor:
        """States (..., width) -> logits (..., vocabulary)."""

    def parameters(self) -> Iterable[nn.Parameter]: ...


class Vocabulary(Protocol):
    """What a tokenizer does: text <-> ids, and two special tokens."""

    @property
    def pad(self) -> int:
        """Fills rows up, and is never learned."""

    @property
    def boundary(self) -> int:
        """Stands before every text, and so ends the one before it."""

    def __len__(self) -> int: ...

    def encode(self, text: str, /) -> list[int]:
        """Raises ValueError for what the vocabulary cannot say."""

    def decode(self, ids: Sequence[int], /) -> str:
        """The text before the first boundary, padding left out."""

    def token(self, index: int, /) -> str:
        """One id as people read it."""

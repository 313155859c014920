"""What the rest of the repository may ask of a model and of a tokenizer.

`Transformer` and `Tokenizer` answer all of it, and so do `CausalLM` and `TextTokenizer`. Another
model or tokenizer that has these methods works with training, decoding and the questions unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Unembedding(Protocol):
    """A model that gives the logits of states."""

    def unembed(self, states: Tensor, /) -> Tensor:
        """States (..., width) -> logits (..., vocabulary)."""


class Trainable(Unembedding, Protocol):
    """Training asks a model for the states of every token, and for the logits of those states."""

    def hidden_states(self, tokens: Tensor, /) -> Tensor:
        """Token ids (b, l) -> normalised states after the last layer (b, l, width)."""

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


class KeyValueCache(Protocol):
    """Keys and values of the tokens that were read, for decoding."""

    def keep(self, rows: Tensor, /) -> None:
        """Forget all rows of the batch but these indices; the rest stands in their order."""


class LanguageModel(Protocol):
    """Decoding and the measurements inside a model ask it for these."""

    @property
    def layers(self) -> nn.ModuleList:
        """Blocks that read the residual stream one after the other."""

    @property
    def norm(self) -> nn.Module:
        """The normalisation between the last block and the logits."""

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

    def modules(self) -> Iterable[nn.Module]:
        """Decoding asks each for ``whole_batch``, which a module has and sets to True while it
        tells rows apart by their place in the batch, and for ``steady``: a function that modules
        share, of groups of layers that read one tensor, to a context in which modules may keep what
        depends on weights alone; and for ``varies``, True while a pass of the module does more than
        its input says, so that no device may replay it."""


def device_of(model: LanguageModel) -> torch.device:
    """Where the model's weights lie, and so where its token ids must."""
    return next(iter(model.parameters())).device


class Vocabulary(Protocol):
    """A tokenizer maps text to ids and back, and has two special tokens."""

    @property
    def pad(self) -> int:
        """The id that fills rows up. It is never learned."""

    @property
    def boundary(self) -> int:
        """The id that stands before every text, and so ends the text before it."""

    def __len__(self) -> int: ...

    def encode(self, text: str, /) -> list[int]:
        """Raises ValueError for text that the vocabulary cannot express."""

    def encode_completion(self, text: str, /) -> list[int]:
        """The ids of text that goes on after a prompt. A blank between them belongs to these ids,
        where the vocabulary has blanks."""

    def decode(self, ids: Sequence[int], /) -> str:
        """The text before the first boundary, padding left out."""

    def token(self, index: int, /) -> str:
        """One id, written as people read it."""

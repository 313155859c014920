"""A tokenizer of written text: the `tokenizers` library, with the two special tokens that training
and asking need.

A model reads ``prompt`` and then a blank and ``completion``. The blank belongs to the completion,
as most vocabularies have it (" Max" is one token), so both are encoded apart, in training as in
asking, and the border between them is the same in both.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.families import CheckpointError

# What stands between the texts that a family was pretrained on, where it has a name that is known.
_BOUNDARIES = ("<|endoftext|>", "<|begin_of_text|>", "<s>")


class TextTokenizer:
    """Text <-> ids, exactly: what decodes to other text than was encoded is refused.

    ``tokenizer`` is a ``tokenizers.Tokenizer``. The boundary is the token that stood between the
    pretraining texts, ``bos`` or ``eos`` where no such token is known. Padding is a special token
    that no text holds. Raises CheckpointError where the tokenizer has no such tokens.
    """

    def __init__(
        self, tokenizer: Any, where: str, bos: int | None = None, eos: int | None = None
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        special = sorted(i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)
        named = (i for i in map(tokenizer.token_to_id, _BOUNDARIES) if i in special)
        boundary = next((i for i in (*named, bos, eos) if i is not None), None)
        if boundary is None or tokenizer.id_to_token(boundary) is None:
            raise CheckpointError(
                f"{where} has no token that stands between texts (such as {_BOUNDARIES[0]}): "
                "name one in config.json as bos_token_id"
            )
        others = [i for i in special if i != boundary]
        if not others:
            raise CheckpointError(
                f"{where} has no special token but the boundary, and none for padding: add one"
            )
        # The last special token is the least likely one in a text; bos and eos may be answers.
        titles = {i: tokenizer.id_to_token(i).lower() for i in others}
        self.boundary = boundary
        self.pad = max(others, key=lambda i: (i not in (bos, eos), "pad" in titles[i], i))
        # Some tokenizers put a blank before every text by themselves: SentencePiece, and whole
        # words, which are joined with blanks where there is no decoder.
        joined = tokenizer.decoder is None
        self._own_blank = joined or self.decode([*self._ids("a"), *self._ids("b")]) == "a b"

    @classmethod
    def from_file(cls, path: Path, bos: int | None = None, eos: int | None = None) -> TextTokenizer:
        """Raises CheckpointError where the file is missing or damaged."""
        library = needed("tokenizers")
        if not path.is_file():
            raise CheckpointError(
                f"{path.parent} has no {path.name}: write one with transformers, "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        try:
            tokenizer = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(
                f"{path} is no tokenizer ({one_line(error)}): restore the file"
            ) from None
        return cls(tokenizer, str(path), bos, eos)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def highest(self) -> int:
        """The highest id; ids may have gaps."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Raises ValueError for text that the tokenizer cannot give back, such as a letter or a
        word that it does not know, or the spelling of a special token."""
        ids = self._ids(text)
        if (back := self.decode(ids)) != text:
            raise ValueError(
                f"the tokenizer cannot give back {_around(text, back)!r}: it reads it as "
                f"{_around(back, text)!r}, write the text otherwise"
            )
        return ids

    def encode_completion(self, text: str) -> list[int]:
        """The ids of text that goes on after a prompt, the blank between them included.

        Text that begins with a blank of its own gets no second one. Raises ValueError as `encode`
        does."""
        if self._own_blank:
            return self.encode(text.removeprefix(" "))
        return self.encode(text if not text or text[0].isspace() else f" {text}")

    def decode(self, ids: Sequence[int]) -> str:
        """The text before the first boundary, padding left out."""
        ids = list(ids)
        stop = ids.index(self.boundary) if self.boundary in ids else len(ids)
        shown = [i for i in ids[:stop] if i != self.pad]
        return self.tokenizer.decode(shown, skip_special_tokens=False)

    def token(self, index: int) -> str:
        return self.tokenizer.decode([index], skip_special_tokens=False)

    def _ids(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{text[:60]!r} is no valid Unicode text: write it in letters that UTF-8 can encode"
            ) from None
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # a closed vocabulary; the library raises plain Exception
            words = [w for w in text.split() if self.tokenizer.token_to_id(w) is None]
            unknown = f"the word {words[0][:60]!r}" if words else repr(text[:60])
            raise ValueError(
                f"the tokenizer cannot read {unknown} ({one_line(error)}): write the text otherwise"
            ) from None


def needed(name: str) -> Any:
    """An optional library. Raises CheckpointError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise CheckpointError(
            f"a checkpoint needs the library {name}: pip install -e .[checkpoint]"
        ) from None


def one_line(error: Exception) -> str:
    """An error of a library, short enough for one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _around(text: str, other: str, before: int = 20, after: int = 40) -> str:
    """The stretch of a text around the first place where it differs from another."""
    pairs = enumerate(zip(text, other, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))
    return text[max(0, first - before) : first + after]

"""A tokenizer of a closed vocabulary: every word of the world is one token, and no other token
exists but padding and the boundary between texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PAD, BOUNDARY = "<pad>", "<s>"
SPECIAL = (PAD, BOUNDARY)


@dataclass(frozen=True)
class Tokenizer:
    """Words separated by blanks <-> ids. ``<s>`` stands before every text, and so ends the text
    before it.

    >>> tokenizer = Tokenizer.from_texts(["ada lives in rome"])
    >>> tokenizer.encode("rome ada")
    [5, 2]
    >>> tokenizer.decode([5, 2, 1])
    'rome ada'
    """

    words: tuple[str, ...]
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(
                f"a vocabulary begins with {' '.join(SPECIAL)}, this one with {self.words[:3]}"
            )
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word stands twice in the vocabulary: every word is one token")
        object.__setattr__(self, "ids", {word: i for i, word in enumerate(self.words)})

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Tokenizer:
        return cls(SPECIAL + tuple(dict.fromkeys(words)))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Tokenizer:
        return cls.from_words(word for text in texts for word in text.split())

    def __len__(self) -> int:
        return len(self.words)

    @property
    def pad(self) -> int:
        return 0

    @property
    def boundary(self) -> int:
        return 1

    def token(self, index: int) -> str:
        return self.words[index]

    def encode(self, text: str) -> list[int]:
        """Raises ValueError for a word that the vocabulary does not have."""
        try:
            return [self.ids[word] for word in text.split()]
        except KeyError as error:
            raise ValueError(
                f"the word {error.args[0]!r} is not in the vocabulary of {len(self)} words: "
                "build the tokenizer from all the texts that it will meet"
            ) from None

    def encode_completion(self, text: str) -> list[int]:
        """As `encode`: blanks only separate words."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The words before the first ``<s>``, padding left out."""
        ids = list(ids)
        stop = ids.index(self.boundary) if self.boundary in ids else len(ids)
        return " ".join(self.words[i] for i in ids[:stop] if i != self.pad)

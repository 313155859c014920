"""Names as pairs of words.

New names are new pairs of old words, so that a model has read every word of a new name.
"""

from __future__ import annotations

import numpy as np

GIVEN = tuple(
    "ada alan amy anna ben bert carl cora dan dora ed ella emil emma eric eva felix flora "
    "fred gina greta hana hans hugo ida ines iris ivan jack jane jon judy karl kate kim "
    "lars lea leo lily lisa louis lucy marc maria max mia milo nina noah nora olga oscar "
    "otto paul pia rosa ruth sam sara theo tina tom vera walt zoe".split()
)
FAMILY = tuple(
    "abbott adler baker barnes bauer bell berg blake brandt brooks burke carter clark "
    "cole cook cross dahl dean diaz dixon drake ellis evans fischer flynn ford foster "
    "frost garcia gray haas hale hansen hart hayes hill hoffman hunt jensen keller kelly "
    "klein lane lang lopez marsh meyer moss novak olsen page park perez quinn reed rossi "
    "sato silva stone vance vogel wagner wolf wood".split()
)
PLACE = tuple(
    "north south east west upper lower old new great little grand fort port mount lake "
    "saint white black red green high long bright cold".split()
)
TOWN = tuple(
    "haven ridge field brook cliff dale ferry grove harbor hollow island mill moor "
    "orchard pines point river shore spring tower valley village weston york".split()
)


def pairs(
    first: tuple[str, ...], second: tuple[str, ...], count: int, rng: np.random.Generator
) -> list[str]:
    """Draw ``count`` distinct two-word names, in random order.

    A name is a word of ``first`` and a word of ``second``. Raises ValueError where these words make
    fewer names than that.
    """
    return _draw([f"{a} {b}" for a in first for b in second], count, rng)


def new_pairs(known: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Draw ``count`` distinct names that are not among ``known``, in random order.

    A new name takes its first word from the first words of known names and its second word from
    their second words. Raises ValueError where these words make fewer new names than that.
    """
    first, second = (sorted(set(words)) for words in zip(*map(str.split, known), strict=True))
    every_pair = [f"{a} {b}" for a in first for b in second]
    taken = set(known)
    return _draw([name for name in every_pair if name not in taken], count, rng)


def _draw(names: list[str], count: int, rng: np.random.Generator) -> list[str]:
    if count > len(names):
        raise ValueError(
            f"{count} names asked for, and the words at hand make {len(names)}: "
            "ask for fewer people or cities"
        )
    return [names[i] for i in rng.permutation(len(names))[:count]]

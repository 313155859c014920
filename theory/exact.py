"""Exact arithmetic: ranks of integer matrices without a rounding threshold."""

from collections.abc import Sequence

import torch
from torch import Tensor


def rank(matrix: Sequence[Sequence[int]]) -> int:
    """Rank over the rationals, by elimination that stays in the integers (Bareiss 1968)."""
    rows, found, before = [list(row) for row in matrix], 0, 1
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        head = rows[found]
        for i in range(found + 1, len(rows)):
            lead = rows[i][column]
            rows[i] = [
                (head[column] * x - lead * y) // before for x, y in zip(rows[i], head, strict=True)
            ]
        before, found = head[column], found + 1
        if found == len(rows):
            break
    return found


def integers(*shape: int, size: int, rng: torch.Generator) -> Tensor:
    """Uniform integers from -size to size, as int64: products of a few such matrices are exact."""
    return torch.randint(-size, size + 1, shape, generator=rng)

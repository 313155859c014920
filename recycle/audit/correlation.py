"""Rank correlation, with an interval over libraries."""

from __future__ import annotations

import numpy as np

DRAWS = 500  # of the bootstrap


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def spearman(p: np.ndarray, y: np.ndarray) -> float:
    """0 where one of them is constant."""
    a, b = (ranks(np.round(each, 9)) for each in (p, y))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def rho(p: np.ndarray, y: np.ndarray, library: np.ndarray) -> dict[str, float]:
    """Spearman's rho with the 95 % interval of a bootstrap over libraries."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(library == each) for each in np.unique(library)]
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate(
            [members[i] for i in generator.integers(0, len(members), len(members))]
        )
        drawn.append(spearman(p[rows], y[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": spearman(p, y), "low": float(low), "high": float(high)}

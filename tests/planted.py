"""Rows of a study that somebody made up, to see that its claims can come out either way."""

from __future__ import annotations

from recycle.decide.claims import Rules, decide
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key

SEEDS = (1, 2, 3)
N = 60


def spread(share, n):
    """So many right answers, spread evenly over the questions."""
    return "".join("0" if 37 * i % n < round(share * n) else "1" for i in range(n))


def row(cell, form, share, seed, n=N):
    """``cell`` is (group, library, method)."""
    items = spread(share, n)
    counts = {"right": items.count("0")}
    return Row(Key(seed, "standard", *cell), form, n, counts, items=items)


class Planted:
    """Shares by (group, library, method) and form, for three seeds that agree."""

    def __init__(self):
        self.shares = {}

    def put(self, groups, library, method, **shares):
        for group in groups:
            self.shares.setdefault((group, library, method), {}).update(shares)

    def metrics(self, n=None):
        return Metrics(
            row(cell, form, share, seed, (n or {}).get(cell[0], N))
            for seed in SEEDS
            for cell, forms in self.shares.items()
            for form, share in forms.items()
        )


def verdicts(rules: Rules, metrics, chance=0.1):
    claims = decide(rules.controls(metrics), rules.rules, metrics, chance)
    return {claim.id: str(claim.verdict) for claim in claims}

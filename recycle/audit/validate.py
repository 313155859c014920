"""Is the prediction any good? It is tested on what it has not seen, beside simpler ones and nulls.

Everything here was fixed before a test set was looked at: the features and the fit
(recycle/audit/predict.py, predictors.py), the sets, the nulls and the rule.

    set                        fitted on                            tested on
    another library            all toy libraries but one            that one, in turn
    another seed               all toy seeds but one                that one, in turn
    composition from two-hop   the two-hop runs                     the composition runs
    two-hop from composition   the composition runs                 the two-hop runs
    another recipe             two-hop, the standard recipe         two-hop, other ranks, rates,
                                                                    shares of preserved texts
    checkpoint, prompts read   all toy libraries                    a pretrained checkpoint's
    checkpoint, own texts      all toy libraries                    the same; openings that the
                                                                    adapters drew themselves

Beside it stand means that need no audit (of the method, of the task that an expert learned, of both
together), fits of fewer features, the kept share as it is, and two permutation nulls: the same fit
and the same test with the shares exchanged among all rows, or among the rows of each library; a
third null exchanges them within each method, and so keeps what the method alone tells.

The rule: the prediction passes on a set if the lower limit of its rank correlation is above the
upper limit of every null and of every mean that needs no audit. It is offered for adapters of a
toy's run if it passes on all toy sets; for a checkpoint's whose prompts are known, and for those
whose texts are their own, if it also passes on the set of that name. Where it is not offered, the
audit says only what it measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recycle.audit.correlation import rho, spearman
from recycle.audit.peers_beside import peers_beside
from recycle.audit.predict import ON_CHECKPOINT, TOY, fit, tolerance
from recycle.audit.predictors import (
    FOLDS,
    PREDICTORS,
    USED,
    Fold,
    Table,
    grouped,
    jackknifed,
    predicted,
)
from recycle.audit.rows import Row

KIND = "audit prediction"
TESTS = (
    "another library",
    "another seed",
    "composition from two-hop",
    "two-hop from composition",
    "another recipe",
)
NO_AUDIT = ("method alone", "task alone", "method and task")
NULLS = ("among all rows", "within libraries", "within methods")
PERMUTATIONS = 99
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
FEWEST = 20  # rows of a test


# Sets -------------------------------------------------------------------------------------------


def tests_of(rows: Sequence[Row]) -> dict[str, tuple[Table, list[Fold], list[Fold]] | None]:
    """{set: (rows, folds, fewer folds for the nulls)}; None where there is too little to test."""
    toy = [row for row in rows if not row.checkpoint]
    seen = [row for row in toy if row.read or row.own]
    table = Table.of(seen, [row.read or row.own or {} for row in seen])
    where = _where(seen)
    composition, two_hop = where(task="composition"), where(task="two-hop")
    found: dict[str, Any] = {
        "another library": (table, *(grouped(table.library.tolist(), n) for n in (None, FOLDS))),
        "another seed": (table, *[grouped([(row.run, row.seed) for row in seen])] * 2),
        "composition from two-hop": (table, *[[(two_hop, composition)]] * 2),
        "two-hop from composition": (table, *[[(composition, two_hop)]] * 2),
        "another recipe": (
            table,
            *[[(where(task="two-hop", standard=True), where(task="two-hop", standard=False))]] * 2,
        ),
    }
    for name, source in zip(ON_CHECKPOINT, ("read", "own"), strict=True):
        theirs = [row for row in rows if row.checkpoint and getattr(row, source)]
        both = Table.of(
            [*seen, *theirs],
            [*(row.read or row.own or {} for row in seen), *(getattr(r, source) for r in theirs)],
        )
        fold = (np.arange(len(seen)), np.arange(len(seen), len(both.y)))
        found[name] = (both, [fold], [fold])
    enough = {
        name: len(folds) and min(min(map(len, fold)) for fold in folds) > 0
        and sum(len(fold[1]) for fold in folds) >= FEWEST
        for name, (_, folds, _) in found.items()
    }  # fmt: skip
    return {name: each if enough[name] else None for name, each in found.items()}


def _where(rows: Sequence[Row]) -> Callable[..., np.ndarray]:
    def where(**wanted: Any) -> np.ndarray:
        return np.flatnonzero([all(getattr(r, k) == v for k, v in wanted.items()) for r in rows])

    return where


def tested(table: Table, folds: Sequence[Fold], fewer: Sequence[Fold]) -> dict[str, Any]:
    """All numbers of one set, and whether the prediction passes on it."""
    asked = np.concatenate([fold[1] for fold in folds])
    y, library = table.y[asked], table.library[asked]
    lines: list[dict[str, Any]] = []
    for name in PREDICTORS:
        p = predicted(table, table.y, folds, name)[asked]
        lines.append(
            {"by": name, "rho": rho(p, y, library), "off": float(np.abs(p - y).mean()),
             "within methods": _within_methods(p, y, [table.rows[i].method for i in asked])}
        )  # fmt: skip
    nulls: list[dict[str, Any]] = []
    for null in NULLS:
        generator = np.random.default_rng(1)
        drawn = []
        for _ in range(PERMUTATIONS):
            other = exchanged(table, null, generator)
            drawn.append(
                spearman(predicted(table, other, fewer, "prediction")[asked], other[asked])
            )
        low, high = np.quantile(drawn, [0.025, 0.975])
        nulls.append({"null": null, "mean": float(np.mean(drawn)), "low": low, "high": high})
    p = predicted(table, table.y, folds, "prediction")[asked]
    reach = np.concatenate([np.full(len(fold[1]), jackknifed(table, fold[0])) for fold in folds])
    by = {line["by"]: line["rho"] for line in lines}
    limit = max(*(by[name]["high"] for name in NO_AUDIT), *(null["high"] for null in nulls))
    return {
        "rows": len(asked),
        "libraries": len(np.unique(library)),
        "lines": lines,
        "nulls": nulls,
        "covered": float((np.abs(p - y) <= reach * tolerance(p)).mean()),
        "bins": _bins(p, y),
        "limit": limit,
        "passes": bool(by["prediction"]["low"] > limit),
    }


def _within_methods(p: np.ndarray, y: np.ndarray, methods: Sequence[str]) -> float | None:
    """The mean of rho over methods of several rows: what the method does not tell."""
    found = []
    for method in dict.fromkeys(methods):
        rows = np.array([each == method for each in methods])
        if rows.sum() >= FEWEST // 2 and np.ptp(y[rows]) > 0:
            found.append(spearman(p[rows], y[rows]))
    return float(np.mean(found)) if found else None


def _bins(p: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    """Measured means by what was predicted."""
    which = np.clip(np.digitize(p, EDGES) - 1, 0, len(EDGES) - 2)
    return [
        {"from": EDGES[i], "to": EDGES[i + 1], "rows": int((which == i).sum()),
         "predicted": float(p[which == i].mean()), "measured": float(y[which == i].mean())}
        for i in range(len(EDGES) - 1)
        if (which == i).any()
    ]  # fmt: skip


def exchanged(table: Table, null: str, generator: np.random.Generator) -> np.ndarray:
    """The shares, exchanged among rows at random."""
    labels = {
        "among all rows": np.zeros(len(table.y), int),
        "within libraries": table.library,
        "within methods": np.unique([row.method for row in table.rows], return_inverse=True)[1],
    }[null]
    y = table.y.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        y[rows] = y[generator.permutation(rows)]
    return y


# All together -----------------------------------------------------------------------------------


def validated(rows: Sequence[Row], said: Mapping[str, Any]) -> dict[str, Any]:
    """Every set, the verdicts of the rule, and the prediction fitted on all toy rows."""
    sets = {name: each and tested(*each) for name, each in tests_of(rows).items()}
    seen = [row for row in rows if not row.checkpoint and (row.read or row.own)]
    table = Table.of(seen, [row.read or row.own or {} for row in seen])
    fitted = fit(table.part(USED), table.y, USED, jackknifed(table, np.arange(len(seen))))
    return {
        "rows": len(rows),
        "without texts": sum(not (row.read or row.own) for row in rows),
        "libraries": len({row.library for row in rows}),
        "sets": sets,
        "offered": offered({name: bool(each and each["passes"]) for name, each in sets.items()}),
        "peers": peers_beside(rows, said),
        "prediction": fitted.to_json(),
    }


def offered(passes: Mapping[str, bool]) -> dict[str, bool]:
    """The rule: for whose adapters the prediction is offered."""
    toy = all(passes[name] for name in TESTS)
    return {TOY: toy, **{name: toy and passes[name] for name in ON_CHECKPOINT}}

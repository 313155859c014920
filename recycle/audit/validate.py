"""Is the prediction any good? It is tested on what it has not seen, beside simpler ones and nulls.

Everything here was fixed before a test set was looked at: the features and the fit
(recycle/audit/predict.py), the sets, the nulls and the rule.

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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycle.audit.predict import (
    BASE_ONLY,
    GEOMETRY,
    ON_CHECKPOINT,
    RETENTION,
    TOY,
    fit,
    reach_of,
    tolerance,
)
from recycle.audit.rows import Row

KIND = "audit prediction"
USED = (*RETENTION, *BASE_ONLY, *GEOMETRY)  # the features of the prediction
BASE_RECALL = "base's recall"  # needs questions, so it is no feature of the prediction
TESTS = (
    "another library",
    "another seed",
    "composition from two-hop",
    "two-hop from composition",
    "another recipe",
)
NO_AUDIT = ("method alone", "task alone", "method and task")
NULLS = ("among all rows", "within libraries", "within methods")
FOLDS = 10  # of libraries, where an interval or a null is fitted again and again
DRAWS, PERMUTATIONS = 500, 99
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
FEWEST = 20  # rows of a test
PAIRS = 8  # of a task, for a correlation within it


# What is compared ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows as columns: features x (n, ..) by name, shares y, and the labels that means go by."""

    rows: Sequence[Row]
    x: Mapping[str, np.ndarray]
    y: np.ndarray
    library: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row], found: Sequence[Mapping[str, float]]) -> Table:
        x = {name: np.array([each[name] for each in found]) for name in USED}
        x[BASE_RECALL] = np.array([row.base_recall for row in rows])
        y = np.array([row.y for row in rows])
        return cls(rows, x, y, np.unique([row.library for row in rows], return_inverse=True)[1])

    def part(self, names: Sequence[str]) -> np.ndarray:
        return np.column_stack([self.x[name] for name in names])


Fold = tuple[np.ndarray, np.ndarray]  # rows to fit on, rows to test on
Predictor = Callable[[Table, np.ndarray, Fold], np.ndarray]


def _fitted(names: Sequence[str]) -> Predictor:
    def predict(table: Table, y: np.ndarray, fold: Fold) -> np.ndarray:
        x = table.part(names)
        return fit(x[fold[0]], y[fold[0]], names).shares(x[fold[1]])

    return predict


def _means(*labels: str) -> Predictor:
    """The mean of the rows alike in the labels; of those alike in the first where there are none,
    and of all where there are none of these."""

    def predict(table: Table, y: np.ndarray, fold: Fold) -> np.ndarray:
        keys = [tuple(getattr(row, label) for label in labels) for row in table.rows]
        sums: dict[Any, list[float]] = {}
        for i in fold[0]:
            for key in (keys[i], keys[i][:1], ()):
                sums.setdefault(key, []).append(y[i])
        means = {key: float(np.mean(values)) for key, values in sums.items()}
        return np.array(
            [next(means[k] for k in (keys[i], keys[i][:1], ()) if k in means) for i in fold[1]]
        )

    return predict


def _kept(table: Table, y: np.ndarray, fold: Fold) -> np.ndarray:
    return 1 / (1 + np.exp(-table.x["kept"][fold[1]]))


PREDICTORS: Mapping[str, Predictor] = {
    "prediction": _fitted(USED),
    "retention alone": _fitted(RETENTION),
    "geometry alone": _fitted(GEOMETRY),
    "base knowledge alone": _fitted((*BASE_ONLY, BASE_RECALL)),
    "kept share as it is": _kept,
    "method alone": _means("method"),
    "task alone": _means("reads"),
    "method and task": _means("method", "reads"),
}


def predicted(table: Table, y: np.ndarray, folds: Sequence[Fold], name: str) -> np.ndarray:
    """The prediction of each row that some fold tests; NaN for the others."""
    found = np.full(len(y), np.nan)
    for fold in folds:
        found[fold[1]] = PREDICTORS[name](table, y, fold)
    return found


def grouped(labels: Sequence[Any], at_most: int | None = None) -> list[Fold]:
    """Leave out each label in turn, or each of so many groups of labels."""
    kinds = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    group = np.array([kinds[label] % (at_most or len(kinds)) for label in labels])
    return [(np.flatnonzero(group != g), np.flatnonzero(group == g)) for g in np.unique(group)]


# Numbers ------------------------------------------------------------------------------------------


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


def jackknifed(table: Table, rows: np.ndarray) -> float:
    """q of the prediction's interval out of these rows alone: libraries are left out in FOLDS."""
    labels = table.library[rows]
    p = np.empty(len(rows))
    x, y = table.part(USED)[rows], table.y[rows]
    for fitted, left in grouped(labels.tolist(), FOLDS):
        p[left] = fit(x[fitted], y[fitted], USED).shares(x[left])
    return reach_of(y, p)


# Sets ---------------------------------------------------------------------------------------------


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


# All together -------------------------------------------------------------------------------------


def peers_beside(rows: Sequence[Row], said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How each peer's score goes with what its pairs keep: the mean recall over both adapters and
    all methods, and each strategy's counts; beside the prediction's mean for the same pairs."""
    toy = [row for row in rows if not row.checkpoint and (row.read or row.own)]
    table = Table.of(toy, [row.read or row.own or {} for row in toy])
    p = predicted(table, table.y, grouped(table.library.tolist()), "prediction")
    pairs = sorted({row.library for row in toy} & set(said["pairs"]))
    of = {pair: [i for i, row in enumerate(toy) if row.library == pair] for pair in pairs}
    kept = np.array([table.y[of[pair]].mean() for pair in pairs])
    found = []
    for peer in said["versions"]:
        answers = [said["pairs"][pair].get(peer, {}) for pair in pairs]
        there = [i for i, answer in enumerate(answers) if answer.get("score") is not None]
        if peer not in ("gradience", "mergelens") or not there:
            continue
        scores = np.array([answers[i]["score"] for i in there])
        ours = np.array([p[of[pairs[i]]].mean() for i in there])
        each = np.arange(len(there))
        tasks = [toy[of[pairs[i]][0]].task for i in there]
        found.append(
            {
                "peer": peer,
                "version": said["versions"][peer],
                "pairs": len(pairs),
                "scored": len(there),
                "refused": next((a["refused"] for a in answers if "refused" in a), None),
                "verdicts": dict(Counter(str(answers[i]["verdict"]) for i in there)),
                "strategies": dict(Counter(str(answers[i]["strategy"]) for i in there)),
                "rho": rho(scores, kept[there], each),
                "ours": rho(ours, kept[there], each),
                "within": [
                    {
                        "task": task,
                        "pairs": int(own.sum()),
                        "rho": rho(scores[own], kept[there][own], each[own]),
                        "ours": rho(ours[own], kept[there][own], each[own]),
                    }
                    for task in dict.fromkeys(tasks)
                    if (own := np.array([task == other for other in tasks])).sum() >= PAIRS
                ],
            }
        )
    return found


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

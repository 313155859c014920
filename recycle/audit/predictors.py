"""What the prediction is compared with: each says the shares of some rows out of those of others.

A predictor is fitted on the rows of a fold's first half and tested on those of its second. Beside
the prediction stand fits of fewer features, the kept share as it is, and means that need no audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recycle.audit.predict import BASE_ONLY, GEOMETRY, RETENTION, fit, reach_of
from recycle.audit.rows import Row

USED = (*RETENTION, *BASE_ONLY, *GEOMETRY)  # the features of the prediction
BASE_RECALL = "base's recall"  # needs questions, so it is no feature of the prediction
FOLDS = 10  # of libraries, where an interval or a null is fitted again and again


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


def jackknifed(table: Table, rows: np.ndarray) -> float:
    """q of the prediction's interval out of these rows alone: libraries are left out in FOLDS."""
    labels = table.library[rows]
    p = np.empty(len(rows))
    x, y = table.part(USED)[rows], table.y[rows]
    for fitted, left in grouped(labels.tolist(), FOLDS):
        p[left] = fit(x[fitted], y[fitted], USED).shares(x[left])
    return reach_of(y, p)

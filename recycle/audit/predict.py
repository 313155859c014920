"""How much of an adapter a merge keeps, predicted from what an audit sees without any questions.

A fitted prediction is a logistic regression of the recall kept on a few features x, each clipped to
the range that was fitted and standardised:

    logit p = b + sum_j w_j z_j,    z_j = (clip(x_j) - mean_j) / spread_j

The weights minimise the binomial loss plus RIDGE * |w|^2 / 2 (Newton's method); a row's target is
a share, and every row counts the same. The interval is p -+ q s(p), cut at 0 and 1, with
s(p) = sqrt(p (1 - p)) + FLOOR: q is the 95 % quantile of |y - p| / s(p) over rows whose library was
left out of the fit (the jackknife of conformal prediction, in groups).

It was tested on what it had not seen (recycle/audit/validate.py), and the record of that test says
for whose adapters it is offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recycle.run.disk import read_json

RECORD = Path(__file__).parent.parent / "results" / "audit-prediction.json"
TOY = "a toy's run"
ON_CHECKPOINT = ("checkpoint, prompts read", "checkpoint, own texts")
RIDGE = 10.0
FLOOR = 0.1
STEPS = 30
LEVEL = 0.95
RETENTION = ("kept", "KL", "margin left")
BASE_ONLY = ("base's tokens",)
GEOMETRY = ("others' norm", "cosine", "inputs shared", "outputs shared", "weight")
# What each feature is, in the words of the table.
FEATURES = {
    "kept": "logit of the kept share of the tokens that the adapter changes, in its own texts",
    "KL": "log of 0.01 + KL per token in nats, of the adapter alone and the merge",
    "margin left": "of the logit by which the adapter prefers its own tokens, within -1 and 2",
    "base's tokens": "share of the adapter's own tokens that the base would write too",
    "others' norm": "log of the norm of the other updates, pooled, over its own",
    "cosine": "the largest of its update with another one, mean over layers",
    "inputs shared": "the largest overlap of input spaces with another one, beyond chance",
    "outputs shared": "the same of output spaces",
    "weight": "of each adapter where the method is a sum at one weight, else 1",
}


def features(
    texts: Mapping[str, Any], adapter: str, shape: Mapping[str, Any], weight: float | None
) -> dict[str, float] | None:
    """The features of an adapter under a method: ``texts`` are the measures of its own texts
    (`retention.summary`, or plain means), ``shape`` is the `geometry` of all adapters. None where
    the texts show nothing that the adapter changes."""
    kept, kl, left = (_mean(texts[key]) for key in ("kept", "kl", "margin left"))
    if kept is None or kl is None or left is None:
        return None
    changed = texts["changed"]
    norms = {each["adapter"]: each["norm"] for each in shape["adapters"]}
    others = math.hypot(*(norm for name, norm in norms.items() if name != adapter))
    pairs = [pair for pair in shape["pairs"] if adapter in pair["pair"] and pair["layers"]]
    hits = kept * changed
    return {
        "kept": math.log((hits + 0.5) / (changed - hits + 0.5)),
        "KL": math.log(0.01 + kl),
        "margin left": min(2.0, max(-1.0, left)),
        "base's tokens": 1 - changed / texts["tokens"],
        "others' norm": math.log((others or 1e-9) / (norms[adapter] or 1e-9)),
        "cosine": max((pair["cosine"] for pair in pairs), default=0.0),
        "inputs shared": max((pair["input overlap"] for pair in pairs), default=0.0),
        "outputs shared": max((pair["output overlap"] for pair in pairs), default=0.0),
        "weight": 1.0 if weight is None else weight,
    }


def _mean(value: Any) -> float | None:
    return value["mean"] if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Prediction:
    """A fitted prediction: one entry of each list a feature; ``reach`` is q of the interval."""

    names: Sequence[str]
    low: Sequence[float]
    high: Sequence[float]
    mean: Sequence[float]
    spread: Sequence[float]
    weights: Sequence[float]
    bias: float
    reach: float = 0.0

    def shares(self, x: np.ndarray) -> np.ndarray:
        """The predicted recall kept, (n,), of features (n, names)."""
        z = (np.clip(x, self.low, self.high) - self.mean) / self.spread
        return _logistic(z @ np.asarray(self.weights) + self.bias)

    def with_interval(self, found: Mapping[str, float]) -> dict[str, float]:
        p = float(self.shares(np.array([[found[name] for name in self.names]]))[0])
        half = self.reach * float(tolerance(np.array(p)))
        return {"mean": p, "low": max(0.0, p - half), "high": min(1.0, p + half)}

    @classmethod
    def offered_for(cls, kind: str, file: Path = RECORD) -> Prediction | None:
        """The recorded prediction, where it passed its test for adapters of this kind: TOY, or one
        of ON_CHECKPOINT."""
        if not file.exists():
            return None
        shape: dict[str, Any] = {
            field: [float] for field in ("low", "high", "mean", "spread", "weights")
        }
        shape |= {"names": [str], "bias": float, "reach": float}
        recorded = read_json(file, {"offered": {str: bool}, "prediction": shape})
        return cls(**recorded["prediction"]) if recorded["offered"].get(kind) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tolerance(p: np.ndarray) -> np.ndarray:
    """How far a share of p is off, up to a factor."""
    return np.sqrt(p * (1 - p)) + FLOOR


def fit(x: np.ndarray, y: np.ndarray, names: Sequence[str], reach: float = 0.0) -> Prediction:
    """Fit features (n, names) to shares y (n,)."""
    low, high = x.min(0), x.max(0)
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    z = np.column_stack([(x - mean) / spread, np.ones(len(x))])
    ridge = RIDGE * np.diag([1.0] * x.shape[1] + [1e-6])
    w = np.zeros(z.shape[1])
    for _ in range(STEPS):
        p = _logistic(z @ w)
        step = np.linalg.solve(
            (z * (p * (1 - p) + 1e-9)[:, None]).T @ z + ridge, z.T @ (y - p) - ridge @ w
        )
        w = w + step * min(1.0, 5.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    low, high, mean, spread, weights = (each.tolist() for each in (low, high, mean, spread, w[:-1]))
    return Prediction(tuple(names), low, high, mean, spread, weights, float(w[-1]), reach)


def _logistic(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(t, -30, 30)))


def reach_of(y: np.ndarray, p: np.ndarray) -> float:
    """q: so many tolerances hold LEVEL of the shares y around predictions that did not see them;
    the ceil((n + 1) LEVEL)-th smallest of n, the largest where n is too small for that."""
    off = np.sort(np.abs(y - p) / tolerance(p))
    return float(off[min(len(off), math.ceil((len(off) + 1) * LEVEL)) - 1])


def predict(report: Mapping[str, Any], toy: bool) -> None:
    """Give each row of a report's retention its ``predicted`` recall kept, with its interval: None
    where the prediction is not offered for such adapters, or the texts show too little."""
    weights = {each["method"]: each["weight"] for each in report["methods"]}
    for row in report["retention"]:
        kind = TOY if toy else ON_CHECKPOINT[report["openings"][row["adapter"]] == "written"]
        offered = Prediction.offered_for(kind) if row["method"] in weights else None
        row["predicted"] = None
        if offered is not None:
            texts, name = row["written"], row["adapter"]
            if seen := features(texts, name, report["geometry"], weights[row["method"]]):
                row["predicted"] = offered.with_interval(seen)

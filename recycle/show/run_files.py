"""What the report reads from a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from recycle.decide.metrics import Metrics
from recycle.run.disk import read_json
from recycle.studies import Study
from recycle.study import inside_path


def load_metrics(study: Study, run: Path) -> Metrics:
    """The rows of metrics.jsonl. Raises ValueError where the study is not finished, or where a line
    holds no row of this study."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ValueError(
            f"{run} holds no metrics.jsonl: finish the study first "
            f"(python -m recycle study ... --run {run})"
        )
    records = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {n}: no JSON ({error}): finish the study anew"
            ) from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {n}: {line[:40]!r} is no row: finish the study anew")
        records.append(record)
    return study.read_metrics(records)


def inside_means(study: Study, run: Path) -> dict[str, dict[str, Any]]:
    """For each group the looks inside its merges, as means over the seeds:

    {"lens": {form: {condition: {target: [log-probability above shuffled targets, nats, at each
    depth]}}}, "knock out": {"all", "none", "without <part>", "only <part>": {form: share right}}}
    """
    means = {}
    for library in study.opened:
        seeds = [read_json(inside_path(run, seed, library)) for seed in study.config.seeds]
        knocked = [_flat(seen["knock out"]) for seen in seeds]
        means[library.group] = {
            "lens": _mean_lens([seen["lens"] for seen in seeds]),
            "knock out": {
                name: {form: fmean(each[name][form] for each in knocked) for form in scores}
                for name, scores in knocked[0].items()
            },
        }
    return means


def _flat(knocked: dict[str, Any]) -> dict[str, dict[str, float]]:
    scores = {"all": knocked["all"], "none": knocked["none"]}
    for kind in ("without", "only"):
        scores |= {f"{kind} {part}": own for part, own in knocked[kind].items()}
    return scores


def _mean_lens(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    def signal(form: str, condition: str, target: str) -> list[float]:
        """Means over seeds, depth by depth."""
        found = [lens[form][condition]["targets"][target] for lens in seeds]
        return [
            fmean(one["log_prob"][depth] - one["shuffled"][depth] for one in found)
            for depth in range(len(found[0]["log_prob"]))
        ]

    return {
        form: {
            condition: {target: signal(form, condition, target) for target in result["targets"]}
            for condition, result in conditions.items()
        }
        for form, conditions in seeds[0].items()
    }

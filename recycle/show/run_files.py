"""What the report reads from a run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from recycle.decide.metrics import Metrics
from recycle.plan import Library
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

    Forms of knock-outs are those that every file has: older runs have the components alone.
    """
    looks = _looks_inside(study, run)
    knocked = {
        group: [_flat(seen["knock out"]) for seen in seeds] for group, seeds in looks.items()
    }
    scored = [each["all"] for seeds in knocked.values() for each in seeds]
    forms = [form for form in (scored[0] if scored else ()) if all(form in one for one in scored)]
    return {
        group: {
            "lens": _mean_lens([seen["lens"] for seen in seeds]),
            "knock out": {
                name: {form: fmean(each[name][form] for each in knocked[group]) for form in forms}
                for name in knocked[group][0]
            },
        }
        for group, seeds in looks.items()
    }


def inside_maps(study: Study, run: Path) -> dict[str, dict[str, Any]]:
    """For each group the maps of `look_inside`, "lens map" and "patching", as means over the seeds.
    Controls are the worst of all seeds.

    A map that a seed's file lacks, or has for prompts of another length, is left out: older runs
    have none.
    """
    maps = {}
    for group, seeds in _looks_inside(study, run).items():
        lens = [seen.get("lens map", {}) for seen in seeds]
        patching = [seen.get("patching", {}) for seen in seeds]
        maps[group] = {
            "lens map": _mean_maps(lens),
            "patching": {
                form: _mean_maps([one.get(form, {}) for one in patching]) for form in patching[0]
            },
        }
    return maps


def _looks_inside(study: Study, run: Path) -> dict[str, list[dict[str, Any]]]:
    """For each opened library the files of look_inside, seed by seed."""
    return {
        look_name(study, library): [
            read_json(inside_path(run, seed, library)) for seed in study.config.seeds
        ]
        for library in study.opened
    }


def look_name(study: Study, library: Library) -> str:
    """An opened library by its group, and by its base where several bases are looked into."""
    several = len({opened.base for opened in study.opened}) > 1
    return f"{library.group}, {library.base}" if several else library.group


def _mean_maps(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _mean([seen[name] for seen in seeds])
        for name in seeds[0]
        if all(name in seen for seen in seeds)
        and len({len(seen[name]["tokens"]) for seen in seeds}) == 1
    }


def _mean(values: list[Any], of: Callable[[list[float]], float] = fmean) -> Any:
    """The mean of each number of JSON values of one shape. A word that differs becomes a dot."""
    first = values[0]
    if isinstance(first, dict):
        return {
            key: _mean([one[key] for one in values], max if key == "controls" else of)
            for key in first
        }
    if isinstance(first, list):
        return [_mean(list(column), of) for column in zip(*values, strict=True)]
    if isinstance(first, str):
        return first if len(set(values)) == 1 else "·"
    return of(values)


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

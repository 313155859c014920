"""What the report reads from a run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import fmean
from typing import Any

from recycle.decide.metrics import Metrics
from recycle.plan import Library
from recycle.run.disk import decode_json, read_bytes
from recycle.run.folder import base_folder, read_environments
from recycle.run.ledger import Ledger
from recycle.studies import Study
from recycle.study import inside_path

ANEW = "the study's command writes it anew"
_AT = {"log_prob": [float], "shuffled": [float], "shuffled_sd?": [float]}
_LOOK = {"targets": {str: _AT}, "depths?": [str]}
_CONDITIONS = {"tokens": [str], "conditions": {str: {str: object}}}
_SHARES = {str: float}
_GATES = {"gates": [[float]], "entropy": [float], "gap?": [float]}
_PAIR = {"path": str, "pair": [str], "cosine": float}
_SPACES = {f"{side}{kind}": float for side in ("input", "output") for kind in ("", "_random")}
INSIDE = {  # of look_inside; older runs have no maps
    "members?": [str],
    "interference?": {"pairs": [{**_PAIR, **_SPACES}]},
    "knock out": {
        "all": _SHARES,
        "none": _SHARES,
        "without": {str: _SHARES},
        "only": {str: _SHARES},
    },
    "routing?": {str: {"tokens": [str], "layers": {str: _GATES}}},
    "lens": {str: {str: _LOOK}},
    "lens map?": {str: _CONDITIONS},
    "patching?": {str: {str: _CONDITIONS}},
}


def load_metrics(study: Study, run: Path) -> Metrics:
    """The rows of metrics.jsonl, or of some seeds' cells. Raises ValueError where they are not all
    there, or where a line is not the row that its cell's file has."""
    path, cells = run / "metrics.jsonl", [run / cell.path for cell in study.cells]
    for needed in cells if study.left_out else [path, *cells]:
        if not needed.exists():
            raise ValueError(
                f"{run} holds no {needed.relative_to(run)}: finish the study first "
                f"(python -m recycle study ... --run {run}), or name finished seeds with --seeds"
            )
    measured = [row for cell in study.cells for row in study.read_cell(run, cell)["rows"]]
    if study.left_out:
        return study.read_metrics(measured)
    lines = read_bytes(path).removesuffix(b"\n").split(b"\n")
    if len(lines) != len(measured):
        raise ValueError(f"{path} has {len(lines)} rows, its cells {len(measured)}: {ANEW}")
    for n, (line, row) in enumerate(zip(lines, measured, strict=True), 1):
        record = decode_json(line, f"{path}, line {n}", {str: object}, ANEW)
        if json.dumps(record) != json.dumps(row):  # as text: True is no 1
            raise ValueError(f"{path}, line {n}: not the row of its cell's file: {ANEW}")
    return study.read_metrics(measured)


def of_one_shape(show: Callable[[Study, Path], Any]) -> Callable[[Study, Path], Any]:
    """What fails in ``show`` is the fault of looks inside merges that do not fit each other: their
    lists differ in length, or their names. It raises ValueError then."""

    @wraps(show)
    def shown(study: Study, run: Path) -> Any:
        _looks_inside(study, run)  # a file that is damaged for itself says so
        try:
            return show(study, run)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{run}/seed-*/*/inside has files that do not fit each other "
                f"({type(error).__name__}): delete them, the study's command makes them again"
            ) from error

    return shown


def notes(study: Study, run: Path) -> list[str]:
    """What a reader must know of how a run came about: sentences, mostly none."""
    found, environments = [], read_environments(run)
    if study.left_out:
        seeds = ", ".join(map(str, study.left_out))
        found.append(f"Planned seeds are left out: {seeds}.")
    if len(environments) > 1:
        threads = sorted({each["threads"] for each in environments})
        mixed = f", with {' and '.join(map(str, threads))} threads" if len(threads) > 1 else ""
        found.append(
            f"{len(environments)} environments made parts of this run{mixed} (env.json): rows of "
            "one may differ in a few answers from what another would give."
        )
    folders = [base_folder(run, seed, spec.name) for seed, spec in study.bases]
    if any(Ledger(folder).holds_older() for folder in folders):
        found.append(
            "Parts of this run have no hash in a made.jsonl, as in older versions: they are taken "
            "as they stand."
        )
    return found


@of_one_shape
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


@of_one_shape
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
        look_name(study, library): [read_look(run, seed, library) for seed in study.config.seeds]
        for library in looked_into(study, run)
    }


def looked_into(study: Study, run: Path) -> list[Library]:
    """The opened libraries that the run has looks at: earlier versions looked into fewer."""
    return [
        library
        for library in study.opened
        if any(inside_path(run, seed, library).exists() for seed in study.config.seeds)
    ]


def read_look(run: Path, seed: int, library: Library) -> dict[str, Any]:
    """What look_inside wrote of a library. Raises ValueError where the run did not write it."""
    ledger = Ledger(base_folder(run, seed, library.base.name))
    return ledger.read_json(f"inside/{library.group}.json", INSIDE)


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

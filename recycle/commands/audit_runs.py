"""``python -m recycle audit-runs``: what became of every library of finished runs, kept as rows."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from recycle.audit.candidates import TRIED, candidates
from recycle.audit.collect import fates, libraries_of
from recycle.audit.inputs import check_place
from recycle.plan import BaseSpec, Expert
from recycle.run import progress
from recycle.run.device import choose_device
from recycle.run.disk import write_json
from recycle.run.matmul import choose_matmul
from recycle.studies import Study, open_study


def audit_runs(options: Namespace) -> None:
    """One file a library; what is there is not made again. Every run is looked through first."""
    check_place(options.out, "--out", options.runs)
    methods, device = candidates(options.methods or TRIED), choose_device(options.device)
    left = [job for run in options.runs for job in _left(run, options.out, options.most)]
    choose_matmul(options.matmul)
    with progress.showing(len(left) * len(methods), options.quiet):
        base = None
        for study, run, (seed, spec), experts, file in left:
            place = (run, seed, spec.name)
            if base is None or base[0] != place:
                base = place, study.open_base(seed, spec, run, device)
            progress.current().say(f"{run.name}, seed {seed}, {spec.name}: {file.stem[:60]}")
            made = fates(base[1], experts, methods)
            facts = {
                "run": run.name,
                "task": study.design.name,
                "checkpoint": bool(study.config.checkpoint),
                "seed": seed,
                "base": spec.name,
            }
            write_json(file, {**facts, **made})
    print(f"libraries: {options.out} ({len(left)} new)")


Job = tuple[Study, Path, tuple[int, BaseSpec], tuple[Expert, ...], Path]


def _left(run: Path, out: Path, most: int | None) -> list[Job]:
    """What is not made yet of a run: at most so many libraries of each base, the study's first."""
    study = open_study(run)
    return [
        (study, run, (seed, spec), experts, file)
        for seed, spec in study.bases
        for experts in libraries_of(study, run, seed, spec)[:most]
        if not (
            file := out / run.name / f"seed-{seed}" / spec.name
            / ("+".join(expert.slug for expert in experts)[:200] + ".json")
        ).exists()
    ]  # fmt: skip

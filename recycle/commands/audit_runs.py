"""``python -m recycle audit-runs``, ``audit-peers`` and ``audit-prediction``: what became of every
library of finished runs, what other tools say of the pairs, and whether it can be predicted."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path

from recycle.audit.candidates import TRIED, candidates
from recycle.audit.collect import fates, libraries_of
from recycle.audit.inputs import check_place
from recycle.audit.rows import PEERS, read_rows
from recycle.audit.validate import validated
from recycle.audit.with_peers import asked, peers
from recycle.plan import BaseSpec, Expert
from recycle.run import progress
from recycle.run.device import choose_device
from recycle.run.disk import read_json, write_json
from recycle.run.environment import (
    describe_checkout,
    describe_environment,
    why_dirty,
    without_folders,
)
from recycle.run.folder import base_folder
from recycle.run.matmul import choose_matmul
from recycle.run.names import plain_file
from recycle.show.prediction_table import as_record, tables
from recycle.studies import Study, open_study
from recycle.train.experts import open_adapter


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


def audit_peers(options: Namespace) -> None:
    """Every pair that audit-runs has kept of these runs is shown to the peers; what they said
    before is kept."""
    versions, file = peers(), options.rows / PEERS
    said = (
        read_json(file, {"versions": {str: str}, "pairs": {str: object}}) if file.exists() else {}
    )
    pairs = dict(said.get("pairs", {})) if said.get("versions") == versions else {}
    for run in options.runs:
        study = open_study(run)
        for seed, spec in study.bases:
            home = options.rows / run.name / f"seed-{seed}" / spec.name
            base = None
            for made in sorted(home.glob("*.json")):
                name = made.relative_to(options.rows).as_posix()
                slugs = [each["adapter"] for each in read_json(made)["experts"]]
                if len(slugs) != 2 or name in pairs:
                    continue
                base = base or study.open_base(seed, spec, run)
                folder = base_folder(run, seed, spec.name)
                pairs[name] = asked(
                    base.model, {slug: open_adapter(folder, slug) for slug in slugs}
                )
                write_json(file, {"versions": versions, "pairs": pairs})
    print(f"peers: {file} ({len(pairs)} pairs)")


def audit_prediction(options: Namespace) -> None:
    """Fit the prediction on all rows, test it on what it has not seen, and say what came of it."""
    if options.record is not None:
        plain_file(options.record, "--record")
        if dirty := why_dirty(describe_checkout()):
            raise ValueError(f"{dirty}: commit first, or leave out --record")
    found = validated(*read_rows(options.rows))
    command = "python -m recycle " + shlex.join(options.given)
    environment = describe_environment(choose_matmul(options.matmul), without_folders(command))
    kept = as_record(found, environment)
    if options.record is not None:
        write_json(options.record, kept)
        print(f"recorded: {options.record}\n")
    print(tables(kept), end="")

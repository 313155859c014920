"""A study of a task, top to bottom.

    world(seed) -> texts -> pretrain(base) -> {expert: train(adapter)} -> {merge | route}(library)
    -> decode(held-out questions) -> score -> metrics.jsonl -> claims.json, report.html

Everything finished is on disk and is not made again: <run>/seed-0/<base>/model.pt,
.../library/<expert>, and one file for each cell. A cell's numbers depend on its own configuration
and seed alone, so adding cells or seeds changes no others.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lora import Adapter, attach, detach, using
from models import Tokenizer, Transformer
from recycle.config import StudyConfig
from recycle.disk import read_json, write_json, write_text
from recycle.evaluate import ask, compare, tally
from recycle.experts import Weights, make_base, make_library
from recycle.inside import look_inside
from recycle.mechanism import interference
from recycle.methods import METHODS, Phase
from recycle.plan import Cell, cells, derived, inside_file, mains, share_out
from tasks import Task

WIDENED = ("seeds", "groups", "parts")


def run_study(
    config: StudyConfig, run: Path, environment: dict[str, Any], quiet: bool = False
) -> None:
    """Make whatever of the study is not on disk yet, then metrics.jsonl.

    Under torchrun every process makes its share of the bases (each with its experts and cells), and
    the first waits for all of them.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    if rank == 0:
        open_run(config, run)
    if processes > 1:
        torch.distributed.barrier()
    for seed, base in share_out(config, processes)[rank]:
        make(config, run, seed, base, environment, quiet or rank > 0)
    if processes > 1:
        torch.distributed.barrier()
    if rank == 0:
        lines = [row for cell in cells(config) for row in read_json(run / cell.file)["rows"]]
        write_text(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in lines))


def make(
    config: StudyConfig, run: Path, seed: int, base: str, environment: dict[str, Any], quiet: bool
) -> None:
    """One seed's base, the experts on it, and the cells that ask them."""
    own = [cell for cell in cells(config) if (cell.seed, cell.library.base) == (seed, base)]
    todo = [cell for cell in own if not (run / cell.file).exists()]
    unseen = [
        library
        for library in mains(config, seed, base)
        if not (run / inside_file(seed, library)).exists()
    ]
    if not todo and not unseen:
        return
    note_environment(run, environment)
    task, model, tokenizer = make_base(config, seed, base, run, quiet)
    experts = make_library(config, seed, base, run, task, model, tokenizer, quiet)
    for cell in tqdm(todo, f"seed {seed}, {base}: cells", disable=quiet, dynamic_ncols=True):
        members = {expert.name: experts[expert.name] for expert in cell.library.experts}
        write_json(run / cell.file, evaluate(cell, task, model, tokenizer, members))
    for library in unseen:
        singles = {
            cell.library.experts[0].name: experts[cell.library.experts[0].name]
            for cell in own
            if cell.library.group == library.group
            and cell.library.part == library.part
            and len(cell.library.experts) == 1
        }
        adapters = {name: made for name, made in singles.items() if isinstance(made, Adapter)}
        write_json(
            run / inside_file(seed, library), look_inside(task, model, tokenizer, library, adapters)
        )


def evaluate(
    cell: Cell,
    task: Task,
    model: Transformer,
    tokenizer: Tokenizer,
    experts: Mapping[str, Adapter | Weights],
) -> dict[str, Any]:
    """Answer every form of the cell's questions; return metric rows and a few answers to read."""
    group = cell.library.group
    adapters = {name: made for name, made in experts.items() if isinstance(made, Adapter)}
    if len(adapters) < len(experts):
        (weights,) = (made for made in experts.values() if not isinstance(made, Adapter))
        model = copy.deepcopy(model)
        model.load_state_dict(weights)
    generator = torch.Generator().manual_seed(derived(cell.seed, str(cell.file)))
    prepared = METHODS[cell.method](adapters, generator, task)
    attach(model, prepared.adapters)
    contexts = task.in_context(group) if cell.library.context else None
    phases = {form: prepared.phases(form) for form in task.forms}
    questions = {form: task.questions(group, form) for form in task.forms}
    answers, rows = {}, {}
    for forms in asked_together(phases):
        before = None if contexts is None else contexts * len(forms)
        said = ask(
            model,
            tokenizer,
            task,
            [q for form in forms for q in questions[form]],
            phases[forms[0]],
            before,
        )
        for form in forms:
            answers[form], said = said[: len(questions[form])], said[len(questions[form]) :]
    for form in task.forms:
        rows[form] = {**cell.key, "form": form, **tally(task, answers[form])}
        if (others := task.alternatives(group, form)) and contexts is None:
            with using(model, phases[form][0].mode):
                rows[form].update(compare(model, tokenizer, questions[form], others))
    detach(model)
    if cell.method == "plain_sum":
        for row in rows.values():
            row.update(mean_interference(adapters))
    if group != "base":  # where the forms ask about the same things, one by one
        parts = zip(*(answers[form] for form in task.components), strict=True)
        known = [all(answer.outcome == "right" for answer in needed) for needed in parts]
        for form, row in rows.items():
            right = [answer.outcome == "right" for answer in answers[form]]
            row["components known"] = sum(known)
            row["right of known"] = sum(r and k for r, k in zip(right, known, strict=True))
    examples = {
        form: [
            {
                "prompt": a.question.prompt,
                "right": a.question.completion,
                "said": a.completion,
                "outcome": a.outcome,
            }
            for a in said[:3]
        ]
        for form, said in answers.items()
    }
    return {"rows": list(rows.values()), "examples": examples}


def asked_together(phases: Mapping[str, Sequence[Phase]]) -> list[list[str]]:
    """The forms whose questions can stand in one batch, because the adapters act on them in the
    same way."""
    found: dict[tuple, list[str]] = {}
    for form, each in phases.items():
        found.setdefault(tuple((id(phase.mode), phase.until) for phase in each), []).append(form)
    return list(found.values())


def mean_interference(adapters: Mapping[str, Adapter]) -> dict[str, float]:
    """Means over layers and pairs of experts: cosine of the updates, and how far their input and
    output spaces overlap beyond what random ones do (1 would be the same space)."""
    pairs = interference(adapters)["pairs"]
    beyond = {
        side: fmean((p[side] - p[f"{side}_random"]) / (1 - p[f"{side}_random"]) for p in pairs)
        for side in ("input", "output")
    }
    return {
        "cosine": fmean(p["cosine"] for p in pairs),
        **{f"{side} overlap": value for side, value in beyond.items()},
    }


def open_run(config: StudyConfig, run: Path) -> None:
    """Take the folder for this configuration, or say by which key another one made it. A run may be
    widened: seeds, groups and parts may be added, for they change nothing of what is there."""
    # Through JSON and back: tuples become lists, as they are on disk.
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    if (run / "config.json").exists():
        theirs = read_json(run / "config.json")
        different = [
            key
            for key, a, b in _compare(mine, theirs)
            if a != b and not (key in WIDENED and set(b or ()) <= set(a))
        ]
        if different:
            more = f", and {len(different) - 1} more" if len(different) > 1 else ""
            raise ValueError(
                f"{run} was made with another configuration ({different[0]} differs{more}): "
                "name a new folder with --run, or delete this one"
            )
        if mine == theirs:
            return
    try:
        write_json(run / "config.json", mine)
    except OSError as error:
        raise ValueError(
            f"{run} cannot be written ({error.strerror}): name another folder with --run"
        ) from None


def _compare(mine: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            yield from _compare(mine.get(key), theirs.get(key), f"{prefix}{key}.")
    else:
        yield prefix[:-1], mine, theirs


def note_environment(run: Path, environment: dict[str, Any]) -> None:
    """env.json lists every environment that made a part of the run, each with its last command:
    one, unless the run was gone on with under another."""
    path = run / "env.json"
    known = read_json(path) if path.exists() else []

    def identity(e: dict[str, Any]) -> list:
        return [e.get(key) for key in ("commit", "dirty", "python", "torch", "threads")] + [
            e["matmul"]["setting"]
        ]

    others = [each for each in known if identity(each) != identity(environment)]
    write_json(path, [*others, environment])


def describe_environment(matmul: dict[str, Any], command: str) -> dict[str, Any]:
    """What the numbers of a run may depend on besides its configuration."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        # The last commit that changed what is claimed and how it is decided.
        "rules": git(
            "log", "-1", "--format=%H %cI", "--", "rules_*.py", "claims.py", "statistics.py"
        ),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "matmul": matmul,
    }

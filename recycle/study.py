"""The two-hop study, top to bottom.

    task.world(seed) -> texts -> pretrain(base) -> {expert: train(adapter)} -> {merge | route}(library)
    -> decode(held-out questions) -> score -> metrics.jsonl -> claims.json, report.html

Everything finished is on disk and is not made again: <run>/seed-0/base, <run>/seed-0/library/<expert>, and one file for
each cell. A cell's numbers depend on its own configuration and seed alone, so adding cells changes no others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lora import (
    Adapter,
    Rows,
    attach,
    detach,
    extract,
    init_adapter,
    load_adapter,
    save_adapter,
    train_only,
    using,
)  # fmt: skip
from models import Tokenizer, Transformer
from recycle.config import StudyConfig
from recycle.corpus import Corpus
from recycle.disk import load_torch, read_json, save_torch, write_json, write_text
from recycle.evaluate import ask, tally
from recycle.methods import METHODS
from recycle.route import ArrowRouter
from recycle.train import fit
from tasks import TwoHop
from tasks.two_hop import FORMS

ROLES = ("hop1", "hop2", "target", "joint")
LIBRARIES = {"2-combination": ("hop1", "hop2"), "3-combination": ("hop1", "hop2", "target")}


@dataclass(frozen=True)
class Cell:
    """One way of answering one fact set's questions: a library and what is done with it."""

    seed: int
    fact_set: str  # or "base": real people that were held out from the form
    library: str  # "none", a single expert's role, or a key of LIBRARIES
    method: str  # a key of METHODS; "alone" for none and for single experts

    @property
    def name(self) -> str:
        return f"{self.fact_set}.{self.library}.{self.method}"


def cells(config: StudyConfig) -> list[Cell]:
    found = []
    for seed in config.seeds:
        found.append(Cell(seed, "base", "none", "alone"))
        for s in config.sets:
            found += [Cell(seed, s, library, "alone") for library in ("none", *ROLES)]
            found += [
                Cell(seed, s, library, method) for library in LIBRARIES for method in METHODS if method != "alone"
            ]
    return found


def derived(seed: int, name: str) -> int:
    """A seed of its own for each named use."""
    return seed * 2**32 + zlib.crc32(name.encode())


def run_study(config: StudyConfig, run: Path, environment: dict[str, Any], quiet: bool = False) -> None:
    """Make whatever of the study is not on disk yet, then metrics.jsonl."""
    open_run(config, run)
    for seed in config.seeds:
        folder = run / f"seed-{seed}"
        wanted = [cell for cell in cells(config) if cell.seed == seed]
        todo = [cell for cell in wanted if not _cell_file(folder, cell).exists()]
        if not todo:
            continue
        note_environment(run, environment)
        task = TwoHop(config.task, seed)
        model, tokenizer = make_base(config, task, seed, folder, quiet)
        library = make_library(config, task, seed, model, tokenizer, folder, quiet)
        for cell in tqdm(todo, f"seed {seed}: cells", disable=quiet, dynamic_ncols=True):
            adapters = {role: library[f"{role}-{cell.fact_set}"] for role in ROLES if cell.fact_set in config.sets}
            write_json(_cell_file(folder, cell), evaluate(cell, task, model, tokenizer, adapters))
    lines = [row for cell in cells(config) for row in read_json(_cell_file(run / f"seed-{cell.seed}", cell))["rows"]]
    write_text(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in lines))


def _cell_file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def open_run(config: StudyConfig, run: Path) -> None:
    """Take the folder for this configuration, or say by which key another one made it."""
    # Through JSON and back: tuples become lists, as they are on disk.
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    if (run / "config.json").exists():
        theirs = read_json(run / "config.json")
        if different := [key for key, a, b in _compare(mine, theirs) if a != b]:
            more = f", and {len(different) - 1} more" if len(different) > 1 else ""
            raise ValueError(
                f"{run} was made with another configuration ({different[0]} differs{more}): "
                "name a new folder with --run, or delete this one"
            )
    else:
        try:
            write_json(run / "config.json", mine)
        except OSError as error:
            raise ValueError(f"{run} cannot be written ({error.strerror}): name another folder with --run") from None


def note_environment(run: Path, environment: dict[str, Any]) -> None:
    """env.json lists every environment that made a part of the run: one, unless it was gone on with under another."""
    path = run / "env.json"
    known = read_json(path) if path.exists() else []

    def identity(e: dict[str, Any]) -> list:
        return [e.get(key) for key in ("commit", "dirty", "python", "torch", "threads")] + [e["matmul"]["setting"]]

    if identity(environment) not in map(identity, known):
        write_json(path, [*known, environment])


def _compare(mine: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            yield from _compare(mine.get(key), theirs.get(key), f"{prefix}{key}.")
    else:
        yield prefix[:-1], mine, theirs


def describe_environment(matmul: dict[str, Any], command: str) -> dict[str, Any]:
    """What the numbers of a run may depend on besides its configuration."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "device": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count(), "matmul": matmul,
    }  # fmt: skip


def make_base(
    config: StudyConfig, task: TwoHop, seed: int, folder: Path, quiet: bool = False
) -> tuple[Transformer, Tokenizer]:
    """The pretrained transformer of a seed's world, trained now if it is not on disk."""
    tokenizer = Tokenizer.from_words(task.words())
    model = Transformer(config.model, len(tokenizer), torch.Generator().manual_seed(derived(seed, "weights")))
    path = folder / "base" / "model.pt"
    if not path.exists():
        corpus = Corpus.build(task.base_texts(), dataclasses.asdict(config.shares), tokenizer)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            rng = np.random.default_rng([derived(seed, "reading"), step])
            return corpus.rows(config.pretrain.rows, config.pretrain.length + 1, rng)

        checkpoint = folder / "base" / "checkpoint.pt"
        started = time.monotonic()
        curve = fit(
            model,
            [list(model.parameters())],
            batch,
            config.pretrain,
            label=f"seed {seed}: base",
            checkpoint=checkpoint,
            quiet=quiet,
        )
        write_json(folder / "base" / "curve.json", {"curve": curve, "seconds": time.monotonic() - started})
        save_torch(path, model.state_dict())
        checkpoint.unlink(missing_ok=True)
    try:
        model.load_state_dict(load_torch(path))
    except RuntimeError:
        raise ValueError(
            f"{path} is no base of this configuration: delete it, the same command makes it again"
        ) from None
    return model.eval(), tokenizer


def make_library(
    config: StudyConfig,
    task: TwoHop,
    seed: int,
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    quiet: bool = False,
) -> dict[str, Adapter]:
    """The experts of a seed, {role-set: adapter}: all trained in one pass over the one frozen base, each on its own rows."""
    names = [f"{role}-{s}" for s in config.sets for role in ROLES]
    paths = {name: folder / "library" / name for name in names}
    if all((path / "adapter_config.json").exists() for path in paths.values()):
        return {name: load_adapter(path) for name, path in paths.items()}

    specification = {f"{role}-{s}": (role, s) for s in config.sets for role in ROLES}
    checkpoint = folder / "library.checkpoint.pt"
    started = time.monotonic()
    experts, curve = train_experts(config, task, seed, model, tokenizer, specification, checkpoint, quiet)
    write_json(folder / "library.json", {"names": names, "curve": curve, "seconds": time.monotonic() - started})
    for name, adapter in experts.items():
        save_adapter(adapter, paths[name])
    checkpoint.unlink(missing_ok=True)
    return experts


def train_experts(
    config: StudyConfig,
    task: TwoHop,
    seed: int,
    model: Transformer,
    tokenizer: Tokenizer,
    specification: dict[str, tuple[str, str]],
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Adapter], list[dict]]:
    """Train {name: (role, fact set)} in one pass over the frozen base, and take them off it: adapters and their curve."""
    base_texts, shares = task.base_texts(), dataclasses.asdict(config.shares)
    keep = config.adapter.preservation
    kept = {kind: keep * share / sum(shares.values()) for kind, share in shares.items() if keep > 0}
    rows, length = config.train.rows, config.train.length + 1
    fresh, corpora = {}, {}
    for name, (role, s) in specification.items():
        origin = {"task": "two-hop", "seed": seed, "role": role, "facts": s}
        generator = torch.Generator().manual_seed(derived(seed, name))
        fresh[name] = init_adapter(
            model, config.adapter.patterns, config.adapter.rank, config.adapter.alpha, generator, origin=origin
        )
        corpora[name] = Corpus.build(
            {**base_texts, "own": task.expert_texts(role, s)}, {**kept, "own": 1 - keep}, tokenizer
        )

    def batch(step: int) -> tuple[Tensor, Tensor]:
        parts = [
            corpus.rows(rows, length, np.random.default_rng([derived(seed, f"reading {name}"), step]))
            for name, corpus in corpora.items()
        ]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([learned for _, learned in parts])

    attach(model, fresh)
    names = list(fresh)
    with using(model, Rows(names)):
        curve = fit(
            model,
            train_only(model, names),
            batch,
            config.train,
            label=f"seed {seed}: {len(names)} experts",
            checkpoint=checkpoint,
            quiet=quiet,
        )
    trained = {name: extract(model, name, fresh[name]) for name in names}
    detach(model)
    return trained, curve


def evaluate(cell: Cell, task: TwoHop, model: Transformer, tokenizer: Tokenizer, experts: dict[str, Adapter]) -> dict:
    """Answer every form of the cell's questions; return metric rows, a few answers to read, and a router's mean gates."""
    members = () if cell.library == "none" else LIBRARIES.get(cell.library, (cell.library,))
    generator = torch.Generator().manual_seed(derived(cell.seed, cell.name))
    prepared = METHODS[cell.method]({role: experts[role] for role in members}, generator)
    attach(model, prepared.adapters)
    answers, gates = {}, {}
    with using(model, prepared.mode):
        for form in FORMS:
            questions = task.questions(cell.fact_set, form)
            answers[form] = ask(model, tokenizer, task, questions)
            if prepared.routers is not None:
                prompts = torch.tensor([[tokenizer.boundary, *tokenizer.encode(q.prompt)] for q in questions])
                gates[form] = mean_gates(model, prompts, prepared.routers)
    detach(model)
    rows = [{**dataclasses.asdict(cell), "form": form, **tally(task, answers[form])} for form in FORMS]
    if cell.fact_set != "base":  # where the forms ask about the same triples, one by one
        known = [all(a.outcome == "right" for a in hops) for hops in zip(answers["hop1"], answers["hop2"], strict=True)]
        for row in rows:
            right = [answer.outcome == "right" for answer in answers[row["form"]]]
            row["both known"] = sum(known)
            row["right of known"] = sum(r and k for r, k in zip(right, known, strict=True))
    examples = {
        form: [
            {"prompt": a.question.prompt, "right": a.question.completion, "said": a.completion, "outcome": a.outcome}
            for a in answers[form][:3]
        ]
        for form in FORMS
    }
    return {"rows": rows, "examples": examples, "gates": {"members": list(members), "means": gates}}


@torch.inference_mode()
def mean_gates(model: Transformer, prompts: Tensor, routers: Mapping[str, ArrowRouter]) -> dict[str, list[float]]:
    """Each layer's gates averaged over all tokens of the prompts (rows, length): {path: one mean for each adapter}."""
    seen: dict[str, list[Tensor]] = {path: [] for path in routers}
    for path, router in routers.items():
        router.seen = seen[path]
    model(prompts)
    for router in routers.values():
        router.seen = None
    return {path: torch.cat(gates).mean(0).tolist() for path, gates in seen.items()}

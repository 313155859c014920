"""A study of a task, top to bottom.

    world(seed) -> texts -> pretrain(base) -> {expert: train(adapter)} -> {merge | route}(library)
    -> decode(held-out questions) -> score -> metrics.jsonl -> claims.json, report.html

Everything finished is on disk and is not made again: <run>/seed-0/<base>/model.pt, .../library/<expert>, and one file for
each cell. A cell's numbers depend on its own configuration and seed alone, so adding cells or seeds changes no others.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from statistics import fmean
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
from recycle.config import StudyConfig, override
from recycle.corpus import Corpus
from recycle.disk import load_torch, read_json, save_torch, write_json, write_text
from recycle.evaluate import ask, compare, tally
from recycle.inside import look_inside
from recycle.mechanism import interference
from recycle.methods import METHODS, chosen
from recycle.train import fit
from tasks import TASKS, Expert, Library, Task

WIDENED = ("seeds", "groups", "parts")
Weights = dict[str, Tensor]  # of a fully fine-tuned model


@dataclass(frozen=True)
class Cell:
    """One way of answering one group's questions: a library and what is done with it."""

    seed: int
    library: Library
    method: str

    @property
    def key(self) -> dict[str, Any]:
        """What tells a cell's rows from those of others."""
        made = self.library
        return {"seed": self.seed, "base": made.base, "group": made.group, "library": made.name, "method": self.method}

    @property
    def file(self) -> Path:
        """Below the run's folder."""
        name = f"{self.library.group}.{self.library.name.replace(', ', ',').replace(' ', '_')}.{self.method}.json"
        return Path(f"seed-{self.seed}") / self.library.base / "cells" / name


@lru_cache(maxsize=32)
def world(config: StudyConfig, seed: int) -> Task:
    """Kept: building one, and checking it for leaks, takes a good part of a second."""
    return TASKS[config.name](config.task, seed)


def wanted(config: StudyConfig, seed: int) -> list[Library]:
    """The libraries of the chosen parts and groups; the base's own questions always."""
    groups = ("base", *config.groups)
    return [each for each in world(config, seed).libraries() if each.part in config.parts and each.group in groups]


def cells(config: StudyConfig) -> list[Cell]:
    return [
        Cell(seed, library, method)
        for seed in config.seeds
        for library in wanted(config, seed)
        for method in chosen(library.methods, world(config, seed))
    ]


def derived(seed: int, name: str) -> int:
    """A seed of its own for each named use."""
    return seed * 2**32 + zlib.crc32(name.encode())


def run_study(config: StudyConfig, run: Path, environment: dict[str, Any], quiet: bool = False) -> None:
    """Make whatever of the study is not on disk yet, then metrics.jsonl.

    Under torchrun every process makes its share of the bases (each with its experts and cells), and the first waits for
    all of them.
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


def share_out(config: StudyConfig, processes: int) -> list[list[tuple[int, str]]]:
    """The (seed, base) pairs of each process: the dearest first, each to whom has least to do."""
    cost: dict[tuple[int, str], int] = {}
    for seed in config.seeds:
        libraries = wanted(config, seed)
        for base in dict.fromkeys(library.base for library in libraries):
            experts = {expert for library in libraries for expert in library.experts if expert.base == base}
            reading, training = config.pretrain, config.train
            cost[seed, base] = reading.steps * reading.rows + len(experts) * training.steps * training.rows
    shares: list[list[tuple[int, str]]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for pair in sorted(cost, key=lambda pair: (-cost[pair], pair)):
        least = loads.index(min(loads))
        shares[least].append(pair)
        loads[least] += cost[pair]
    return shares


def make(config: StudyConfig, run: Path, seed: int, base: str, environment: dict[str, Any], quiet: bool) -> None:
    """One seed's base, the experts on it, and the cells that ask them."""
    own = [cell for cell in cells(config) if (cell.seed, cell.library.base) == (seed, base)]
    todo = [cell for cell in own if not (run / cell.file).exists()]
    unseen = [library for library in mains(config, seed, base) if not (run / inside_file(seed, library)).exists()]
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
        write_json(run / inside_file(seed, library), look_inside(task, model, tokenizer, library, adapters))


def mains(config: StudyConfig, seed: int, base: str = "standard") -> list[Library]:
    """For each group, the first library of the standard base that all methods are tried on: the one to look inside."""
    found: dict[str, Library] = {}
    for library in wanted(config, seed):
        if library.base == base == "standard" and "all" in library.methods:
            found.setdefault(library.group, library)
    return list(found.values())


def inside_file(seed: int, library: Library) -> Path:
    """Below the run's folder."""
    return Path(f"seed-{seed}") / library.base / "inside" / f"{library.group}.json"


def open_run(config: StudyConfig, run: Path) -> None:
    """Take the folder for this configuration, or say by which key another one made it. A run may be widened: seeds, groups
    and parts may be added, for they change nothing of what is there."""
    # Through JSON and back: tuples become lists, as they are on disk.
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    if (run / "config.json").exists():
        theirs = read_json(run / "config.json")
        different = [
            key for key, a, b in _compare(mine, theirs) if a != b and not (key in WIDENED and set(b or ()) <= set(a))
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
        raise ValueError(f"{run} cannot be written ({error.strerror}): name another folder with --run") from None


def note_environment(run: Path, environment: dict[str, Any]) -> None:
    """env.json lists every environment that made a part of the run, each with its last command: one, unless the run was
    gone on with under another."""
    path = run / "env.json"
    known = read_json(path) if path.exists() else []

    def identity(e: dict[str, Any]) -> list:
        return [e.get(key) for key in ("commit", "dirty", "python", "torch", "threads")] + [e["matmul"]["setting"]]

    others = [each for each in known if identity(each) != identity(environment)]
    write_json(path, [*others, environment])


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
        # The last commit that changed what is claimed and how it is decided.
        "rules": git("log", "-1", "--format=%H %cI", "--", "rules_*.py", "claims.py", "statistics.py"),
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "device": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count(), "matmul": matmul,
    }  # fmt: skip


def make_base(
    config: StudyConfig, seed: int, base: str, run: Path, quiet: bool = False
) -> tuple[Task, Transformer, Tokenizer]:
    """A seed's world as a base reads it, and the pretrained transformer, trained now if it is not on disk."""
    config = override(config, TASKS[config.name].bases[base])
    task = world(config, seed)
    tokenizer = Tokenizer.from_words(task.words())
    model = Transformer(config.model, len(tokenizer), torch.Generator().manual_seed(derived(seed, "weights")))
    folder = run / f"seed-{seed}" / base
    path = folder / "model.pt"
    if not path.exists():
        corpus = Corpus.build(task.base_texts(), task.shares(), tokenizer)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            rng = np.random.default_rng([derived(seed, "reading"), step])
            return corpus.rows(config.pretrain.rows, config.pretrain.length + 1, rng)

        checkpoint, label = folder / "checkpoint.pt", f"seed {seed}, {base}: base"
        started = time.monotonic()
        parameters = list(model.parameters())
        curve = fit(model, [parameters], batch, config.pretrain, label=label, checkpoint=checkpoint, quiet=quiet)
        write_json(folder / "curve.json", {"curve": curve, "seconds": time.monotonic() - started})
        save_torch(path, model.state_dict())
        checkpoint.unlink(missing_ok=True)
    try:
        model.load_state_dict(load_torch(path))
    except RuntimeError:
        raise ValueError(
            f"{path} is no base of this configuration: delete it, the same command makes it again"
        ) from None
    return task, model.eval(), tokenizer


def passes(config: StudyConfig, seed: int, base: str) -> dict[str, list[Expert]]:
    """The experts of a base by the pass that trains them: one for each part, recipe and group, whatever else is wanted."""
    found: dict[str, list[Expert]] = {}
    known: set[Expert] = set()
    for library in wanted(config, seed):
        for expert in library.experts:
            if expert.base == base and expert not in known:
                known.add(expert)
                found.setdefault(f"{library.part}-{expert.recipe}-{expert.group}", []).append(expert)
    return found


def make_library(
    config: StudyConfig,
    seed: int,
    base: str,
    run: Path,
    task: Task,
    model: Transformer,
    tokenizer: Tokenizer,
    quiet: bool = False,
) -> dict[str, Adapter | Weights]:
    """A base's experts by name, from disk or trained now; those of one pass at once, each on its own rows."""
    folder = run / f"seed-{seed}" / base / "library"
    config = override(config, task.bases[base])
    for name, together in passes(config, seed, base).items():
        experts = [expert for expert in together if not _saved(folder / expert.name)]
        if not experts:
            continue
        recipe = override(config, task.recipes[experts[0].recipe])
        train = train_experts if recipe.adapter.kind == "lora" else fine_tune
        # Named by whom it is of: a pass that was killed while its experts were being saved is one for the rest of them.
        who = zlib.crc32(" ".join(expert.name for expert in experts).encode())
        checkpoint = folder.parent / f"{name}-{who:08x}.checkpoint.pt"
        started = time.monotonic()
        trained, curve = train(recipe, task, seed, model, tokenizer, experts, checkpoint, quiet)
        seconds = time.monotonic() - started
        names = [expert.name for expert in experts]
        write_json(folder.parent / "passes" / f"{name}.json", {"names": names, "curve": curve, "seconds": seconds})
        for expert, made in trained.items():
            if isinstance(made, Adapter):
                save_adapter(made, folder / expert)
            else:
                save_torch(folder / expert / "model.pt", made)
        for done in folder.parent.glob(f"{name}-*.checkpoint.pt"):
            done.unlink()
    return {
        expert.name: load_torch(path / "model.pt") if (path / "model.pt").exists() else load_adapter(path)
        for experts in passes(config, seed, base).values()
        for expert in experts
        for path in (folder / expert.name,)
    }


def _saved(path: Path) -> bool:
    return (path / "adapter_config.json").exists() or (path / "model.pt").exists()


def _own_corpus(config: StudyConfig, task: Task, tokenizer: Tokenizer, expert: Expert) -> Corpus:
    """What an expert reads: its own texts, and the base's for the share that is to be preserved."""
    keep, shares = config.adapter.preservation, task.shares()
    kept = {kind: keep * share / sum(shares.values()) for kind, share in shares.items() if keep > 0}
    own = task.expert_texts(expert.reads, expert.group)
    return Corpus.build({**task.base_texts(), "own": own}, {**kept, "own": 1 - keep}, tokenizer)


def train_experts(
    config: StudyConfig,
    task: Task,
    seed: int,
    model: Transformer,
    tokenizer: Tokenizer,
    experts: Sequence[Expert],
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Adapter | Weights], list[dict]]:
    """Train adapters in one pass over the frozen base, and take them off it: {name: adapter} and their curve."""
    rows, length = config.train.rows, config.train.length + 1
    fresh, corpora = {}, {}
    for expert in experts:
        origin = {"task": config.name, "seed": seed, **dataclasses.asdict(expert)}
        generator = torch.Generator().manual_seed(derived(seed, expert.name))
        fresh[expert.name] = init_adapter(
            model, config.adapter.patterns, config.adapter.rank, config.adapter.alpha, generator, origin=origin
        )
        corpora[expert.name] = _own_corpus(config, task, tokenizer, expert)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        parts = [
            corpus.rows(rows, length, np.random.default_rng([derived(seed, f"reading {name}"), step]))
            for name, corpus in corpora.items()
        ]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([learned for _, learned in parts])

    attach(model, fresh)
    names = list(fresh)
    label = f"seed {seed}: {experts[0].base}, {len(names)} experts of {experts[0].group}"
    with using(model, Rows(names)):
        parameters = train_only(model, names)
        curve = fit(model, parameters, batch, config.train, label=label, checkpoint=checkpoint, quiet=quiet)
    trained: dict[str, Adapter | Weights] = {name: extract(model, name, fresh[name]) for name in names}
    detach(model)
    return trained, curve


def fine_tune(
    config: StudyConfig,
    task: Task,
    seed: int,
    model: Transformer,
    tokenizer: Tokenizer,
    experts: Sequence[Expert],
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Adapter | Weights], list[dict]]:
    """Train all weights of a copy of the base, for one expert: what an adapter of any rank could reach."""
    if len(experts) > 1:
        raise ValueError(f"full fine-tuning trains one expert at a time, {len(experts)} were asked for")
    corpus, tuned = _own_corpus(config, task, tokenizer, experts[0]), copy.deepcopy(model).requires_grad_(True)
    name, rows, length = experts[0].name, config.train.rows, config.train.length + 1

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return corpus.rows(rows, length, np.random.default_rng([derived(seed, f"reading {name}"), step]))

    parameters, label = list(tuned.parameters()), f"seed {seed}: {name}"
    curve = fit(tuned, [parameters], batch, config.train, label=label, checkpoint=checkpoint, quiet=quiet)
    return {name: tuned.state_dict()}, curve


def evaluate(
    cell: Cell, task: Task, model: Transformer, tokenizer: Tokenizer, experts: Mapping[str, Adapter | Weights]
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
    answers, rows = {}, {}
    contexts = task.in_context(group) if cell.library.context else None
    for form in task.forms:
        questions, phases = task.questions(group, form), prepared.phases(form)
        answers[form] = ask(model, tokenizer, task, questions, phases, contexts)
        rows[form] = {**cell.key, "form": form, **tally(task, answers[form])}
        if (others := task.alternatives(group, form)) and contexts is None:
            with using(model, phases[0].mode):
                rows[form].update(compare(model, tokenizer, questions, others))
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
            {"prompt": a.question.prompt, "right": a.question.completion, "said": a.completion, "outcome": a.outcome}
            for a in said[:3]
        ]
        for form, said in answers.items()
    }
    return {"rows": list(rows.values()), "examples": examples}


def mean_interference(adapters: Mapping[str, Adapter]) -> dict[str, float]:
    """Means over layers and pairs of experts: cosine of the updates, and how far their input and output spaces overlap
    beyond what random ones do (1 would be the same space)."""
    pairs = interference(adapters)["pairs"]
    beyond = {
        side: fmean((p[side] - p[f"{side}_random"]) / (1 - p[f"{side}_random"]) for p in pairs)
        for side in ("input", "output")
    }
    return {"cosine": fmean(p["cosine"] for p in pairs), **{f"{side} overlap": value for side, value in beyond.items()}}

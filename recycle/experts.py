"""Bases and experts: trained where they are not on disk yet. All experts of a pass are trained at
once over the frozen base, each on its own rows; one that is fully fine-tuned is trained alone."""

from __future__ import annotations

import copy
import dataclasses
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

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
)
from models import Tokenizer, Transformer
from recycle.config import StudyConfig, override
from recycle.corpus import Corpus, padding
from recycle.disk import load_torch, save_torch, write_json
from recycle.plan import derived, passes, world
from recycle.train import fit
from tasks import TASKS, Expert, Task

Weights = dict[str, Tensor]  # of a fully fine-tuned model


def make_base(
    config: StudyConfig, seed: int, base: str, run: Path, quiet: bool = False
) -> tuple[Task, Transformer, Tokenizer]:
    """A seed's world as a base reads it, and the pretrained transformer, trained now if it is not
    on disk."""
    config = override(config, TASKS[config.name].bases[base])
    task = world(config, seed)
    tokenizer = Tokenizer.from_words(task.words())
    model = Transformer(
        config.model, len(tokenizer), torch.Generator().manual_seed(derived(seed, "weights"))
    )
    folder = run / f"seed-{seed}" / base
    path = folder / "model.pt"
    if not path.exists():
        corpus = Corpus.build(task.base_texts(), task.shares(), tokenizer)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            return corpus.batch(config.pretrain, derived(seed, "reading"), step)

        checkpoint, label = folder / "checkpoint.pt", f"seed {seed}, {base}: base"
        started = time.monotonic()
        parameters = list(model.parameters())
        curve = fit(
            model,
            [parameters],
            batch,
            config.pretrain,
            label=label,
            checkpoint=checkpoint,
            quiet=quiet,
        )
        seconds, share = (
            time.monotonic() - started,
            padding(batch, config.pretrain.steps, tokenizer.pad),
        )
        write_json(folder / "curve.json", {"curve": curve, "seconds": seconds, "padding": share})
        save_torch(path, model.state_dict())
        checkpoint.unlink(missing_ok=True)
    try:
        model.load_state_dict(load_torch(path))
    except RuntimeError:
        raise ValueError(
            f"{path} is no base of this configuration: delete it, the same command makes it again"
        ) from None
    return task, model.eval(), tokenizer


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
    """A base's experts by name, from disk or trained now; those of one pass at once, each on its
    own rows."""
    folder = run / f"seed-{seed}" / base / "library"
    config = override(config, task.bases[base])
    for name, together in passes(config, seed, base).items():
        experts = [expert for expert in together if not _saved(folder / expert.name)]
        if not experts:
            continue
        recipe = override(config, task.recipes[experts[0].recipe])
        train = train_experts if recipe.adapter.kind == "lora" else fine_tune
        # Named by whom it is of: a pass that was killed while its experts were being saved is one
        # for the rest of them.
        who = zlib.crc32(" ".join(expert.name for expert in experts).encode())
        checkpoint = folder.parent / f"{name}-{who:08x}.checkpoint.pt"
        started = time.monotonic()
        trained, record = train(recipe, task, seed, model, tokenizer, experts, checkpoint, quiet)
        record |= {
            "names": [expert.name for expert in experts],
            "seconds": time.monotonic() - started,
        }
        write_json(folder.parent / "passes" / f"{name}.json", record)
        for expert, made in trained.items():
            if isinstance(made, Adapter):
                save_adapter(made, folder / expert)
            else:
                save_torch(folder / expert / "model.pt", made)
        for done in folder.parent.glob(f"{name}-*.checkpoint.pt"):
            done.unlink()
    return {
        expert.name: load_torch(path / "model.pt")
        if (path / "model.pt").exists()
        else load_adapter(path)
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
) -> tuple[dict[str, Adapter | Weights], dict]:
    """Train adapters in one pass over the frozen base, and take them off it: {name: adapter}, and
    {curve, padding}."""
    fresh, corpora = {}, {}
    for expert in experts:
        origin = {"task": config.name, "seed": seed, **dataclasses.asdict(expert)}
        generator = torch.Generator().manual_seed(derived(seed, expert.name))
        fresh[expert.name] = init_adapter(
            model,
            config.adapter.patterns,
            config.adapter.rank,
            config.adapter.alpha,
            generator,
            origin=origin,
        )
        corpora[expert.name] = _own_corpus(config, task, tokenizer, expert)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        parts = [
            corpus.batch(config.train, derived(seed, f"reading {name}"), step)
            for name, corpus in corpora.items()
        ]
        width = max(
            tokens.shape[1] for tokens, _ in parts
        )  # where each row is as wide as its texts are
        tokens, learned = (
            torch.cat([F.pad(part[i], (0, width - part[i].shape[1]), value=fill) for part in parts])
            for i, fill in enumerate((tokenizer.pad, False))
        )
        return tokens, learned

    attach(model, fresh)
    names = list(fresh)
    label = f"seed {seed}: {experts[0].base}, {len(names)} experts of {experts[0].group}"
    with using(model, Rows(names)):
        parameters = train_only(model, names)
        curve = fit(
            model, parameters, batch, config.train, label=label, checkpoint=checkpoint, quiet=quiet
        )
    trained: dict[str, Adapter | Weights] = {
        name: extract(model, name, fresh[name]) for name in names
    }
    detach(model)
    return trained, {"curve": curve, "padding": padding(batch, config.train.steps, tokenizer.pad)}


def fine_tune(
    config: StudyConfig,
    task: Task,
    seed: int,
    model: Transformer,
    tokenizer: Tokenizer,
    experts: Sequence[Expert],
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Adapter | Weights], dict]:
    """Train all weights of a copy of the base, for one expert: what an adapter of any rank could
    reach."""
    if len(experts) > 1:
        raise ValueError(
            f"full fine-tuning trains one expert at a time, {len(experts)} were asked for"
        )
    corpus, tuned = (
        _own_corpus(config, task, tokenizer, experts[0]),
        copy.deepcopy(model).requires_grad_(True),
    )
    name = experts[0].name

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return corpus.batch(config.train, derived(seed, f"reading {name}"), step)

    parameters, label = list(tuned.parameters()), f"seed {seed}: {name}"
    curve = fit(
        tuned, [parameters], batch, config.train, label=label, checkpoint=checkpoint, quiet=quiet
    )
    return {name: tuned.state_dict()}, {
        "curve": curve,
        "padding": padding(batch, config.train.steps, tokenizer.pad),
    }

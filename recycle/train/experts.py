"""Experts of a base: trained where they are not on disk yet.

All experts of a pass are trained at once over the frozen base, each on its own rows. An expert that
is fully fine-tuned is trained alone."""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    matching,
    save_adapter,
    train_only,
    using,
)
from models.layout import LINEARS
from recycle.plan import Expert, derived
from recycle.run.disk import load_torch, save_torch, write_json
from recycle.train.base import Base
from recycle.train.corpus import Corpus, padding
from recycle.train.fit import fit
from recycle.train.settings import StudyConfig, change

Weights = dict[str, Tensor]  # of a fully fine-tuned model
Trained = Mapping[str, Adapter | Weights]  # by the expert's slug


def train_library(base: Base, passes: Mapping[str, Sequence[Expert]]) -> Trained:
    """The experts of these passes, from disk or trained now."""
    folder = base.folder / "library"
    for name, together in passes.items():
        experts = [expert for expert in together if not _is_saved(folder / expert.slug)]
        if not experts:
            continue
        # The checkpoint is named by the experts in it: a pass that was killed while its experts
        # were being saved is another pass for the rest of them.
        who = zlib.crc32(" ".join(expert.slug for expert in experts).encode())
        checkpoint = base.folder / f"{name}-{who:08x}.checkpoint.pt"
        started = time.monotonic()
        trained = train_experts(base, experts, checkpoint=checkpoint)
        record = {
            "curve": trained.curve,
            "padding": trained.padding,
            "names": [expert.slug for expert in experts],
            "seconds": time.monotonic() - started,
        }
        write_json(base.folder / "passes" / f"{name}.json", record)
        for slug, expert in trained.experts.items():
            if isinstance(expert, Adapter):
                save_adapter(expert, folder / slug)
            else:
                save_torch(folder / slug / "model.pt", expert)
        for finished in base.folder.glob(f"{name}-*.checkpoint.pt"):
            finished.unlink()
    return {
        expert.slug: _load(folder / expert.slug)
        for experts in passes.values()
        for expert in experts
    }


def _is_saved(path: Path) -> bool:
    return (path / "adapter_config.json").exists() or (path / "model.pt").exists()


def _load(path: Path) -> Adapter | Weights:
    whole_model = path / "model.pt"
    return load_torch(whole_model) if whole_model.exists() else load_adapter(path)


@dataclass(frozen=True)
class Pass:
    """What one pass of training gave: experts, their losses by step, the share of padding."""

    experts: Trained
    curve: list[dict[str, Any]]
    padding: float


def train_experts(
    base: Base,
    experts: Sequence[Expert],
    changed: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
) -> Pass:
    """Train experts of one recipe in one pass over a base; ``changed`` settings override the
    recipe's."""
    config = change(change(base.config, experts[0].recipe.settings), changed or {})
    train = _train_adapters if config.adapter.kind == "lora" else _fine_tune
    return train(base, config, experts, checkpoint)


def _own_corpus(base: Base, config: StudyConfig, expert: Expert) -> Corpus:
    """The texts that an expert reads: its own, and the base's for the share that is preserved."""
    keep, shares = config.adapter.preservation, base.world.shares()
    kept = {kind: keep * share / sum(shares.values()) for kind, share in shares.items() if keep > 0}
    own = base.world.expert_texts(expert.reads, expert.group)
    answers = keep > 0 and config.adapter.preserve_from == "answers"
    texts = {**(base.answered_texts if answers else base.world.base_texts()), "own": own}
    return Corpus.build(texts, {**kept, "own": 1 - keep}, base.tokenizer)


def _train_adapters(
    base: Base, config: StudyConfig, experts: Sequence[Expert], checkpoint: Path | None
) -> Pass:
    """Adapters side by side, each on its own rows; they are taken off the base in the end."""
    fresh: dict[str, Adapter] = {}
    corpora: dict[str, Corpus] = {}
    for expert in experts:
        generator = torch.Generator().manual_seed(derived(base.seed, expert.slug))
        fresh[expert.slug] = init_adapter(
            base.model,
            config.adapter.patterns,
            config.adapter.rank,
            config.adapter.alpha,
            generator,
            origin={"task": config.name, "seed": base.seed, **expert.origin},
        )
        corpora[expert.slug] = _own_corpus(base, config, expert)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        parts = [
            corpus.batch(config.train, derived(base.seed, f"reading {slug}"), step)
            for slug, corpus in corpora.items()
        ]
        width = max(tokens.shape[1] for tokens, _ in parts)  # a row is as wide as its texts are
        tokens, learned = (
            torch.cat([F.pad(part[i], (0, width - part[i].shape[1]), value=fill) for part in parts])
            for i, fill in enumerate((base.tokenizer.pad, False))
        )
        return tokens, learned

    names = list(fresh)
    label = f"{base.label}: {len(names)} experts of {experts[0].group}"
    attach(base.model, fresh)
    with using(base.model, Rows(names)):
        parameters = train_only(base.model, names)
        curve = fit(base.model, parameters, batch, config.train, label=label, checkpoint=checkpoint)
    trained = {name: extract(base.model, name, fresh[name]) for name in names}
    detach(base.model)
    return Pass(trained, curve, padding(batch, config.train.steps, base.tokenizer.pad))


def _fine_tune(
    base: Base, config: StudyConfig, experts: Sequence[Expert], checkpoint: Path | None
) -> Pass:
    """Weights of a copy of the base, for one expert: a reference for adapters of any rank."""
    if len(experts) > 1:
        raise ValueError(
            f"full fine-tuning trains one expert at a time, {len(experts)} were asked for"
        )
    slug = experts[0].slug
    corpus = _own_corpus(base, config, experts[0])
    tuned = copy.deepcopy(base.model)
    if config.adapter.patterns == LINEARS:
        trained = list(tuned.requires_grad_(True).parameters())
    else:
        tuned.requires_grad_(False)
        paths = matching(tuned, config.adapter.patterns)
        trained = [tuned.get_parameter(f"{path}.weight") for path in paths]
        for weight in trained:
            weight.requires_grad_(True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return corpus.batch(config.train, derived(base.seed, f"reading {slug}"), step)

    label = f"{base.label}: {slug}"
    curve = fit(tuned, [trained], batch, config.train, label=label, checkpoint=checkpoint)
    share = padding(batch, config.train.steps, base.tokenizer.pad)
    return Pass({slug: tuned.state_dict()}, curve, share)

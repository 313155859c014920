"""A base: the frozen model that a seed's experts are trained on, with its world and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import Tokenizer, Transformer, greedy
from recycle.plan import BaseSpec, derived
from recycle.run.folder import base_folder
from recycle.run.ledger import Ledger
from recycle.train.checkpoint import CURVE, Checkpoint, check_weights
from recycle.train.corpus import Corpus, padding
from recycle.train.fit import fit
from recycle.train.settings import StudyConfig, change
from tasks import Text, World


@dataclass(frozen=True)
class Base:
    """A base that is ready to be used: pretrained here, or loaded from where it was kept.

    ``config`` is resolved: the study's configuration with the base's own settings in it."""

    spec: BaseSpec
    seed: int
    config: StudyConfig
    folder: Path
    world: World
    model: Transformer
    tokenizer: Tokenizer

    @property
    def label(self) -> str:
        return f"seed {self.seed}, {self.spec}"

    @cached_property
    def answered_texts(self) -> dict[str, list[Text]]:
        """The prompts of the base's texts, by kind, each completed greedily by the base itself:
        what the base says where its corpus is not at hand."""
        texts: dict[str, list[Text]] = {}
        for kind, read in self.world.base_texts().items():
            prompts = list(dict.fromkeys(text.prompt for text in read))
            texts[kind] = []
            for start in range(0, len(prompts), 512):
                part = prompts[start : start + 512]
                begun = [[self.tokenizer.boundary, *self.tokenizer.encode(p)] for p in part]
                end, pad = self.tokenizer.boundary, self.tokenizer.pad
                answers = greedy(self.model, begun, self.world.longest, end, pad)
                said = map(self.tokenizer.decode, answers)
                texts[kind] += [
                    Text(p, words) for p, words in zip(part, said, strict=True) if words
                ]
        return texts


@lru_cache(maxsize=32)
def build_world(kind: type[World], config: Any, seed: int) -> World:
    """Kept: to build a world and to check it for leaks takes a good part of a second."""
    return kind(config, seed)


def open_base(
    kind: type[World], config: StudyConfig, cell: tuple[int, BaseSpec], run: Path
) -> Base:
    """The base of a (seed, spec) pair in a run's folder, pretrained now if it is not there.

    Raises ValueError where the folder holds another base than the one that the run made."""
    seed, spec = cell
    config = change(config, spec.settings)
    world = build_world(kind, config.task, seed)
    tokenizer = Tokenizer.from_words(world.words())
    first = torch.Generator().manual_seed(derived(seed, "weights"))
    model = Transformer(config.model, len(tokenizer), first)
    folder = base_folder(run, seed, spec.name)
    base = Base(spec, seed, config, folder, world, model, tokenizer)
    if not is_pretrained(folder):
        _pretrain(base)
    weights = Ledger(folder).load_torch("model.pt")
    check_weights(weights, model.state_dict(), folder / "model.pt")
    model.load_state_dict(weights)
    model.eval()
    return base


def read_curve(ledger: Ledger) -> dict[str, Any]:
    """The record of a base's training. Raises ValueError where it is damaged."""
    return ledger.read_json("curve.json", {"curve": CURVE, "padding": float, "seconds": float})


def is_pretrained(folder: Path) -> bool:
    return (folder / "model.pt").exists() and (folder / "curve.json").exists()


def _pretrain(base: Base) -> None:
    """Train the model's weights on the world's texts; the curve goes beside them."""
    config = base.config.pretrain
    corpus = Corpus.build(base.world.base_texts(), base.world.shares(), base.tokenizer)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return corpus.batch(config, derived(base.seed, "reading"), step)

    checkpoint = Checkpoint(base.folder / "checkpoint.pt")
    curve = fit(
        base.model,
        [list(base.model.parameters())],
        batch,
        config,
        label=f"{base.label}: base",
        checkpoint=checkpoint,
    )
    share = padding(batch, config.steps, base.tokenizer.pad)
    record = {"curve": curve, "seconds": checkpoint.seconds, "padding": share}
    Ledger(base.folder).write_json("curve.json", record)
    Ledger(base.folder).save_torch("model.pt", base.model.state_dict())
    checkpoint.path.unlink(missing_ok=True)

"""A base: the frozen model that a seed's experts are trained on, with its world and tokenizer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora import keep_base_hash
from models import (
    CausalLM,
    Model,
    Tokenizer,
    Transformer,
    Vocabulary,
    complete,
    load_checkpoint,
    sample,
)
from recycle.plan import BaseSpec, derived
from recycle.run.folder import base_folder
from recycle.run.ledger import Ledger
from recycle.train.checkpoint import CURVE, Checkpoint, check_weights
from recycle.train.corpus import Corpus, padding
from recycle.train.fit import fit
from recycle.train.settings import DTYPES, AdapterConfig, StudyConfig, change
from tasks import Text, World

Device = torch.device | str
SAMPLES, SAMPLED_TOKENS, TEMPERATURE = 6, 24, 0.8  # texts of each opening, and how they are drawn


@dataclass(frozen=True)
class Base:
    """A base that is ready to be used: pretrained here and kept, or a checkpoint of others.

    ``config`` is resolved: the study's configuration with the base's own settings in it."""

    spec: BaseSpec
    seed: int
    config: StudyConfig
    folder: Path
    world: World
    model: Model
    tokenizer: Vocabulary

    @property
    def label(self) -> str:
        return f"seed {self.seed}, {self.spec}"

    def preserved(self, source: str) -> tuple[dict[str, list[Text]], dict[str, float]]:
        """Texts that keep what the base knows, by kind, and the share of each kind. Those that the
        base writes are written once and kept in its folder."""
        if source == "corpus":
            return self.world.base_texts(), self.world.shares()
        path, ledger = preserved_path(self.folder, source), Ledger(self.folder)
        name = path.relative_to(self.folder).as_posix()
        if path.exists():
            kept = {
                kind: [Text(prompt, words, ends) for prompt, words, ends in texts]
                for kind, texts in ledger.read_json(name, {str: [[(str, bool)]]}).items()
            }
        else:
            begun = time.monotonic()
            kept = self.answered_texts if source == "answers" else {"sampled": self.sampled_texts}
            ledger.write_json(name, kept, time.monotonic() - begun)
        return kept, {"sampled": 1.0} if source == "sampled" else self.world.shares()

    @cached_property
    def sampled_texts(self) -> list[Text]:
        """What the base writes after the world's openings, drawn from its own probabilities at
        TEMPERATURE. A text ends at a blank, in the middle of whatever it was about.

        Raises ValueError for a world without openings."""
        if not (openings := self.world.openings()):
            raise ValueError(
                f"the world {self.world.name} has no openings for a base to go on with: "
                "set adapter.preserve_from=corpus or answers"
            )
        generator = torch.Generator().manual_seed(derived(self.seed, "sampled texts"))
        tokenizer = self.tokenizer
        begun = [[tokenizer.boundary, *tokenizer.encode(words)] for words in openings]
        texts = []
        for _ in range(SAMPLES):
            written = sample(
                self.model,
                begun,
                SAMPLED_TOKENS,
                tokenizer.boundary,
                tokenizer.pad,
                TEMPERATURE,
                generator,
            )
            for opening, ids in zip(openings, written, strict=True):
                said = tokenizer.decode(ids)
                words = said.rpartition(" ")[0]
                if words.startswith(" ") and words.strip() and _can_be_read(tokenizer, words):
                    texts.append(Text(opening, words.strip(), ends=False))
        return texts

    @cached_property
    def answered_texts(self) -> dict[str, list[Text]]:
        """The prompts of the base's texts, by kind, each completed greedily by the base itself:
        what the base says where its corpus is not at hand."""
        texts: dict[str, list[Text]] = {}
        for kind, read in self.world.base_texts().items():
            prompts = list(dict.fromkeys(text.prompt for text in read))
            said = complete(self.model, self.tokenizer, prompts, self.world.longest)
            texts[kind] = [Text(p, words) for p, words in zip(prompts, said, strict=True) if words]
        return texts


def preserved_path(folder: Path, source: str) -> Path:
    """Where the texts that a base writes are kept in its folder."""
    return folder / "preserved" / f"{source}.json"


def written_by_base(adapter: AdapterConfig) -> str | None:
    """The source of the preserved texts, where the base writes them and they are read at all."""
    from_base = adapter.preservation > 0 and adapter.preserve_from != "corpus"
    return adapter.preserve_from if from_base else None


def _can_be_read(tokenizer: Vocabulary, text: str) -> bool:
    """Whether a text that was written can be read again: special tokens cannot."""
    try:
        return bool(tokenizer.encode(text))
    except ValueError:
        return False


@lru_cache(maxsize=1)
def load_base(
    source: str, context: int | None, dtype: str = "fp32", device: Device = "cpu"
) -> tuple[CausalLM, Vocabulary]:
    """A checkpoint, read once: all seeds and libraries of a process share its weights. ``context``
    is the longest sequence, the checkpoint's own where it is None."""
    model, read = load_checkpoint(source, dtype=DTYPES[dtype], device=device, context=context)
    keep_base_hash(model)
    return model, read


def forget_base() -> None:
    """Give the memory of a loaded checkpoint back, where other processes go on."""
    load_base.cache_clear()
    torch.cuda.empty_cache()


@lru_cache(maxsize=32)
def build_world(kind: type[World], config: Any, seed: int) -> World:
    """Kept: to build a world and to check it for leaks takes a good part of a second."""
    return kind(config, seed)


def open_base(
    kind: type[World],
    config: StudyConfig,
    cell: tuple[int, BaseSpec],
    run: Path,
    device: Device = "cpu",
) -> Base:
    """The base of a (seed, spec) pair in a run's folder, pretrained now if it is not there; or the
    configuration's checkpoint. It lies on the device, in the configuration's number format; all
    that is done with it follows it there.

    Raises ValueError where the folder holds another base than the one that the run made."""
    seed, spec = cell
    config = change(config, spec.settings)
    world = build_world(kind, config.task, seed)
    folder = base_folder(run, seed, spec.name)
    if config.checkpoint:
        loaded, read = load_base(config.checkpoint, config.model.context, config.dtype, device)
        return Base(spec, seed, config, folder, world, loaded, read)
    tokenizer = Tokenizer.from_words(world.words())
    first = torch.Generator().manual_seed(derived(seed, "weights"))
    model = Transformer(config.model, len(tokenizer), first)
    base = Base(spec, seed, config, folder, world, model, tokenizer)
    if not is_pretrained(folder):
        _pretrain(base, device)
    weights = Ledger(folder).load_torch("model.pt")
    check_weights(weights, model.state_dict(), folder / "model.pt")
    model.load_state_dict(weights)
    model.to(device, DTYPES[config.dtype]).eval()
    keep_base_hash(model)
    return base


def read_curve(ledger: Ledger) -> dict[str, Any]:
    """The record of a base's training. Raises ValueError where it is damaged."""
    return ledger.read_json("curve.json", {"curve": CURVE, "padding": float, "seconds": float})


def is_pretrained(folder: Path) -> bool:
    """Whether a base that was pretrained here is on disk, with the record of its training."""
    return (folder / "model.pt").exists() and (folder / "curve.json").exists()


def _pretrain(base: Base, device: Device) -> None:
    """Train the model's weights on the world's texts, in fp32; the curve goes beside them."""
    config = base.config.pretrain
    corpus = Corpus.build(base.world.base_texts(), base.world.shares(), base.tokenizer)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return corpus.batch(config, derived(base.seed, "reading"), step)

    checkpoint = Checkpoint(base.folder / "checkpoint.pt")
    base.model.to(device)
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
    Ledger(base.folder).save_torch("model.pt", base.model.cpu().state_dict())
    checkpoint.path.unlink(missing_ok=True)

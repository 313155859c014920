"""Experts of a base: trained where they are not on disk yet.

All experts of a pass are trained at once over the frozen base, each on its own rows. An expert that
is fully fine-tuned is trained alone."""

from __future__ import annotations

import copy
import hashlib
import json
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
from models.spread import is_group
from recycle.plan import Expert, derived
from recycle.run.disk import (
    AGAIN,
    decode_torch,
    digest,
    encode_torch,
    may_write,
    read_bytes,
    write_bytes,
)
from recycle.run.ledger import Ledger
from recycle.train.base import Base
from recycle.train.checkpoint import CURVE, Checkpoint, check_weights
from recycle.train.corpus import Corpus, padding
from recycle.train.fit import fit
from recycle.train.settings import DTYPES, StudyConfig, change

Weights = dict[str, Tensor]  # of a fully fine-tuned model
Trained = Mapping[str, Adapter | Weights]  # by the expert's slug
PASS = {"curve": CURVE, "padding": float, "names": [str], "seconds": float}


def train_pass(base: Base, name: str, together: Sequence[Expert]) -> None:
    """Train the experts of a pass that are not on disk yet, in turns where their rows would not be
    in memory together."""
    if experts := untrained(base.folder, together):
        for some in _recipe(base, experts).train.turns(experts):
            _train_pass(base, name, some)


def untrained(folder: Path, experts: Sequence[Expert]) -> list[Expert]:
    """Experts that a base's folder does not hold: not saved, or saved by a pass that was stopped
    before its record was written. Older versions wrote the record first."""
    ledger, recorded = Ledger(folder), set()
    for path in (folder / "passes").glob("*.json"):
        recorded |= set(read_pass(ledger, path.stem)["names"])

    def is_trained(slug: str) -> bool:
        home = folder / "library" / slug
        saved = (home / "adapter_config.json").exists() or (home / "model.pt").exists()
        return saved and (slug in recorded or ledger.is_older(f"library/{slug}"))

    return [expert for expert in experts if not is_trained(expert.slug)]


def read_pass(ledger: Ledger, name: str) -> dict[str, Any]:
    """The record of a pass. Raises ValueError where it is damaged."""
    record = ledger.read_json(f"passes/{name}.json", PASS)
    if any(len(point["loss"]) != len(record["names"]) for point in record["curve"]):
        path = ledger.folder / "passes" / f"{name}.json"
        raise ValueError(f"{path} has not one loss for each of its names: {AGAIN}")
    return record


def _train_pass(base: Base, name: str, experts: Sequence[Expert]) -> None:
    """Train experts, save them, and then write the record of their pass. After a stop between two
    of these the same experts are saved again from their last checkpoint."""
    ledger = Ledger(base.folder)
    who = zlib.crc32(" ".join(expert.slug for expert in experts).encode())
    checkpoint = Checkpoint(base.folder / f"{name}-{who:08x}.checkpoint.pt")
    trained = train_experts(base, experts, checkpoint=checkpoint)
    if not may_write():
        return
    record = {
        "curve": trained.curve,
        "padding": trained.padding,
        "names": [expert.slug for expert in experts],
        "seconds": checkpoint.seconds,
    }
    for slug, expert in trained.experts.items():
        home = base.folder / "library" / slug
        if isinstance(expert, Adapter):
            ledger.sign(f"library/{slug}", fingerprint(expert))
            save_adapter(expert, home)
        else:
            weights = encode_torch(expert)
            ledger.sign(f"library/{slug}", digest(weights))
            write_bytes(home / "model.pt", weights)
    if (base.folder / "passes" / f"{name}.json").exists():
        record = _joined(read_pass(ledger, name), record)
    ledger.write_json(f"passes/{name}.json", record)
    checkpoint.path.unlink(missing_ok=True)


def _joined(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """One record of a pass whose experts were trained at two times, of one number of steps."""
    kept = [i for i, slug in enumerate(earlier["names"]) if slug not in later["names"]]
    curve = [
        {"step": new["step"], "loss": [*(old["loss"][i] for i in kept), *new["loss"]]}
        for old, new in zip(earlier["curve"], later["curve"], strict=True)
    ]
    names = [*(earlier["names"][i] for i in kept), *later["names"]]
    seconds = earlier["seconds"] + later["seconds"]
    return {"curve": curve, "padding": later["padding"], "names": names, "seconds": seconds}


def fingerprint(adapter: Adapter) -> str:
    """The hash of an adapter as a value, in whatever files it is kept."""
    record = json.dumps([adapter.base, adapter.origin], sort_keys=True)
    hashed = hashlib.sha256(record.encode())
    for path in sorted(adapter.paths):
        for factor in adapter.factors[path]:
            form = (path, adapter.scale(path), factor.dtype, tuple(factor.shape))
            hashed.update(repr(form).encode())
            hashed.update(factor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def open_adapter(folder: Path, name: str) -> Adapter:
    """An adapter of the library in a base's folder. Raises ValueError where it is one that the
    study trained, and is no longer what was trained."""
    ledger = Ledger(folder)
    adapter = load_adapter(folder / "library" / name)
    if ledger.knows(f"library/{name}"):
        ledger.verify(f"library/{name}", fingerprint(adapter))
    return adapter


def open_expert(base: Base, expert: Expert) -> Adapter | Weights:
    """An expert of the study, as it was trained."""
    home, ledger = base.folder / "library" / expert.slug, Ledger(base.folder)
    if (home / "model.pt").exists():
        data = read_bytes(home / "model.pt")
        ledger.verify(f"library/{expert.slug}", digest(data))
        weights = decode_torch(data, home / "model.pt")
        check_weights(weights, base.model.state_dict(), home / "model.pt")
        return weights
    adapter = load_adapter(home)
    ledger.verify(f"library/{expert.slug}", fingerprint(adapter))
    for key, value in _origin(base, expert).items():
        if adapter.origin.get(key, value) != value:
            raise ValueError(
                f"{home} holds an adapter of {key} {adapter.origin[key]!r}, not {value!r}: {AGAIN}"
            )
    return adapter


def _origin(base: Base, expert: Expert) -> dict[str, Any]:
    return {"task": base.config.name, "seed": base.seed, **expert.origin}


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
    checkpoint: Checkpoint | None = None,
) -> Pass:
    """Train experts of one recipe in one pass over a base; ``changed`` settings override the
    recipe's."""
    config = change(_recipe(base, experts), changed or {})
    train = _train_adapters if config.adapter.kind == "lora" else _fine_tune
    return train(base, config, experts, checkpoint)


def _recipe(base: Base, experts: Sequence[Expert]) -> StudyConfig:
    """The settings of experts that share a recipe."""
    return change(base.config, experts[0].recipe.settings)


def own_corpus(base: Base, config: StudyConfig, expert: Expert) -> Corpus:
    """The texts that an expert reads: its own, and the base's for the share that is preserved."""
    keep, own = config.adapter.preservation, base.world.expert_texts(expert.reads, expert.group)
    texts, shares = base.preserved(config.adapter.preserve_from) if keep > 0 else ({}, {})
    kept = {kind: keep * share / sum(shares.values()) for kind, share in shares.items()}
    return Corpus.build({**texts, "own": own}, {**kept, "own": 1 - keep}, base.tokenizer)


def _train_adapters(
    base: Base, config: StudyConfig, experts: Sequence[Expert], checkpoint: Checkpoint | None
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
            origin=_origin(base, expert),
        )
        corpora[expert.slug] = own_corpus(base, config, expert)

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
    base: Base, config: StudyConfig, experts: Sequence[Expert], checkpoint: Checkpoint | None
) -> Pass:
    """Weights of a copy of the base, for one expert: a reference for adapters of any rank.

    They train in fp32 and are kept in the base's number format."""
    if len(experts) > 1:
        raise ValueError(
            f"full fine-tuning trains one expert at a time, {len(experts)} were asked for"
        )
    if is_group():
        raise ValueError(
            "adapter.kind = 'full': the weights of a base that is spread over processes cannot be "
            "trained, leave out --shard"
        )
    slug = experts[0].slug
    corpus = own_corpus(base, config, experts[0])
    tuned = copy.deepcopy(base.model).float()
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
    tuned.to("cpu", DTYPES[config.dtype])
    return Pass({slug: tuned.state_dict()}, curve, share)

"""A toy base as a checkpoint for other libraries, with experts of its library beside it.

FOLDER/config.json, model.safetensors, tokenizer.json    the base, as transformers opens it
FOLDER/adapters/hop1-F/                                  an expert, as PEFT loads it onto that
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lora import Adapter, base_hash, save_adapter
from models import load_checkpoint, save_checkpoint
from models.export import PREFIX
from recycle.train.base import Base

ADAPTERS = "adapters"


def export(base: Base, adapters: Mapping[str, Adapter], folder: Path) -> Base:
    """Write the base and these adapters, by name, into a new folder; return the base as it is read
    back from there, with the checkpoint's names of layers.

    Raises CheckpointError, a ValueError, for a folder in use and for a base that was not pretrained
    here (`models.save_checkpoint`)."""
    save_checkpoint(base.model, base.tokenizer, folder)  # type: ignore[arg-type]  # it checks
    model, tokenizer = load_checkpoint(folder)
    name = base_hash(model)
    for slug, adapter in adapters.items():
        save_adapter(renamed(adapter, name), folder / ADAPTERS / slug)
    return replace(base, model=model, tokenizer=tokenizer)


def renamed(adapter: Adapter, base: str) -> Adapter:
    """The same updates at the layers' names in a checkpoint, whose hash is ``base``."""
    return replace(
        adapter,
        factors={f"{PREFIX}{path}": factors for path, factors in adapter.factors.items()},
        alphas={f"{PREFIX}{path}": alpha for path, alpha in adapter.alphas.items()},
        base=base,
    )

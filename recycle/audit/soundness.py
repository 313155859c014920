"""Does an adapter say what it means? What it acts on, whether one adapter merged alone is itself,
and a plain copy that every tool reads alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lora import Adapter, common_base
from lora.folder import CONFIG, find
from lora.peft import read_object
from models import Model
from recycle.measure.routed import check_fit
from recycle.plan import derived
from recycle.reuse.method import Method
from recycle.reuse.with_peft import COMBINATIONS, has_peft, merged_with_peft

ROUNDING = 1e-5  # the relative error of fp32 factors that were multiplied a few times


def check_one_base(model: Model, adapters: Mapping[str, Adapter]) -> None:
    """Raises ValueError as `check_fit` does, and for adapters of different bases."""
    check_fit(model, adapters)
    common_base(list(adapters.values()))


def soundness(
    adapters: Mapping[str, Adapter],
    folders: Mapping[str, Path],
    merges: Sequence[Method],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record an adapter: what it addresses, and {merge: relative error of the identity merge}.
    ``notes`` are what a person should know; an adapter without notes is sound."""
    claimed = {name: _claimed_base(folder) for name, folder in folders.items()}
    kinds = {base for base in claimed.values() if base}
    found = []
    for name, adapter in adapters.items():
        silent = [path for path in adapter.paths if adapter.norm(path) == 0]
        ranks = sorted({adapter.rank(path) for path in adapter.paths})
        scales = sorted({adapter.scale(path) for path in adapter.paths})
        errors = identity_errors(adapter, merges, seed)
        notes = []
        if silent:
            notes.append(f"its update is 0 at {len(silent)} of {len(adapter.paths)} layers")
        if adapter.base is None:
            notes.append("it names no base by its weights: only layers and shapes were compared")
        if len(kinds) > 1:
            notes.append(f"it was made for {claimed[name]!r}, others for another name")
        off = {merge: error for merge, error in errors.items() if isinstance(error, float)}
        if wrong := [m for m, error in off.items() if m.startswith("peft: ") and error > ROUNDING]:
            worst = max(off[merge] for merge in wrong)
            notes.append(
                f"merged alone by PEFT it is not itself ({len(wrong)} of its combination types, "
                f"off by up to {worst:.2g} of its size): --repair writes a plain copy"
            )
        found.append(
            {
                "adapter": name,
                "folder": str(folders[name]),
                "base": adapter.base,
                "base by name": claimed[name],
                "layers": len(adapter.paths),
                "ranks": ranks,
                "scales": scales,
                "rslora": adapter.rslora,
                "silent layers": silent,
                "finite": True,  # load_adapter refuses others
                "identity": errors,
                "notes": notes,
            }
        )
    return found


def _claimed_base(folder: Path) -> str | None:
    """The base's name in PEFT's settings."""
    file = find(folder, CONFIG)
    name = None if file is None else read_object(file).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def identity_errors(
    adapter: Adapter, merges: Sequence[Method], seed: int = 0
) -> dict[str, float | str]:
    """||merge of the adapter alone - dW|| / ||dW|| in Frobenius norm over all layers, by our merges
    (those that are not at another weight than 1) and by each of PEFT's combination types, named
    ``peft: TYPE``; a text where the merge refuses or PEFT is not installed.

    A merge that trims is not the identity by its own rule: its error is the share that it cuts."""
    errors: dict[str, float | str] = {}
    for method in merges:
        if method.family == "merge" and method.weight in (None, 1.0):
            generator = torch.Generator().manual_seed(derived(seed, f"identity {method.name}"))
            try:
                prepared = method.prepare({"one": adapter}, generator, None)  # type: ignore[arg-type]
                (merged,) = prepared.adapters.values()
                errors[method.name] = relative_error(merged, adapter)
            except ValueError as error:
                errors[method.name] = str(error)
    if not has_peft():
        return {**errors, "peft": "PEFT is not installed (pip install -e .[interop])"}
    for combination in COMBINATIONS:
        try:
            merged = merged_with_peft([adapter], combination, weights=[1.0])
            errors[f"peft: {combination}"] = relative_error(merged, adapter)
        except ValueError as error:
            errors[f"peft: {combination}"] = str(error)
    return errors


def relative_error(merged: Adapter, adapter: Adapter) -> float:
    """||merged - dW|| / ||dW|| in Frobenius norm over all layers; 0 where both updates are 0. Each
    layer's update is written out, one at a time."""
    gap = size = 0.0
    for path in adapter.paths:
        own = adapter.delta(path).double()
        theirs = merged.delta(path).double() if path in merged.factors else torch.zeros_like(own)
        gap += float((theirs - own).square().sum())
        size += float(own.square().sum())
    return (gap / size) ** 0.5 if size else float(gap > 0)


def plain(adapter: Adapter) -> Adapter:
    """The same update as a plain LoRA that every tool reads alike: one rank, one alpha, no rslora
    and no patterns.

    Layers of lower rank are padded with zeros to the highest rank R. The commonest scaling s goes
    into alpha = s R, and a layer of another scaling has the quotient multiplied into its B. So the
    update is the same to the bit where all layers share one scaling and R times s is exact, and to
    the rounding of B's type elsewhere."""
    R = max(adapter.rank(path) for path in adapter.paths)
    counted = Counter(adapter.scale(path) for path in adapter.paths if adapter.scale(path))
    s = counted.most_common(1)[0][0] if counted else 1.0
    factors = {}
    for path, (A, B) in adapter.factors.items():
        if (own := adapter.scale(path)) != s:
            exact = torch.promote_types(B.dtype, torch.float32)
            B = (own / s * B.to(exact)).to(B.dtype)
        lacking = R - len(A)
        factors[path] = (
            torch.cat([A, A.new_zeros(lacking, A.shape[1])]),
            torch.cat([B, B.new_zeros(len(B), lacking)], dim=1),
        )
    return replace(adapter, factors=factors, alpha=s * R, rslora=False, alphas={})

"""What other tools say of the same pairs of adapters: Gradience and MergeLens, where installed.

They are peers, in an environment of their own (the extra ``peers``). Gradience reads two adapters
in PEFT's layout and gives a verdict, a score (the overlap of their spaces, 0 to 1) and a strategy.
MergeLens reads whole checkpoints, so each adapter is added to the base for it; its index, 0 to 100,
carries the label "heuristic_unvalidated" of its authors.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lora import Adapter, save_adapter
from models import Model

REMEDY = "make an environment of their own: pip install -e .[peers]"


def peers() -> dict[str, str]:
    """The versions of the peers. Raises ValueError where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {name: version(name) for name in ("gradience", "mergelens", "safetensors")}
    except PackageNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: {REMEDY}") from None


def asked(model: Model, adapters: Mapping[str, Adapter]) -> dict[str, dict[str, Any]]:
    """What each peer says of two adapters; {"refused": its words} where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, ask in (("gradience", _gradience), ("mergelens", _mergelens)):
            try:
                found[name] = ask(Path(folder), model, adapters)
            except Exception as error:  # whatever a tool of others raises is its answer
                words = " ".join(str(error).split())[:200]
                found[name] = {"refused": f"{type(error).__name__}: {words}"}
        return found


def _gradience(folder: Path, model: Model, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    from gradience.vnext.merge import merge_audit

    places = []
    for i, adapter in enumerate(adapters.values()):
        places.append(folder / f"adapter{i}")
        save_adapter(adapter, places[-1])
    report = merge_audit(*places)
    strategies = Counter(layer["suggested_strategy"] for layer in report.layer_verdicts)
    return {
        "verdict": report.aggregate["overall_verdict"],
        "score": float(report.aggregate["compatibility_score"]),
        "strategy": strategies.most_common(1)[0][0],
    }


def _mergelens(folder: Path, model: Model, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    from mergelens.compare.analyzer import compare_models
    from safetensors.torch import save_file

    weights = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    places = [folder / "base"]
    places[0].mkdir()
    save_file(
        {name: tensor.clone() for name, tensor in weights.items()}, places[0] / "w.safetensors"
    )
    for i, adapter in enumerate(adapters.values()):
        places.append(folder / f"model{i}")
        places[-1].mkdir()
        tuned = {name: tensor.clone() for name, tensor in weights.items()}
        for path in adapter.paths:
            tuned[f"{path}.weight"] += adapter.delta(path).to(torch.float32)
        save_file(tuned, places[-1] / "w.safetensors")
    base, *models = map(str, places)
    result = compare_models(models, base_model=base, show_progress=False)
    return {
        "verdict": result.mci.risk_tier,
        "score": result.mci.score,
        "strategy": result.strategy and str(result.strategy.method.value),
    }

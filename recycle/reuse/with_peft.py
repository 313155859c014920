"""PEFT's own merges of the same experts, where PEFT is installed: what users get from their tool.

PEFT merges adapters of a live model, so a model of empty linear layers with the experts' paths and
shapes stands in for the base: PEFT's merges ask the base for nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from lora import Adapter, common_base, save_adapter
from recycle.reuse.core import checked
from recycle.reuse.layerwise import check_share, check_weight

# PEFT's names with a density, that of our merge of the same name, where a type wants one.
COMBINATIONS = {
    "svd": None,
    "linear": None,
    "cat": None,
    "ties": 0.2,
    "dare_linear": 0.8,
    "dare_ties": 0.8,
    "magnitude_prune": 0.2,
}
MEANS = ("ties", "dare_ties")  # types that average by themselves: their weights are 1


def has_peft() -> bool:
    return find_spec("peft") is not None


def merged_with_peft(
    adapters: Sequence[Adapter],
    combination: str,
    generator: torch.Generator | None = None,
    weights: Sequence[float] | None = None,
    density: float | None = None,
) -> Adapter:
    """PEFT's ``add_weighted_adapter`` of a combination type, by default at the weights 1/N, or at 1
    where the type averages by itself.

    The adapter is what PEFT's model then calculates with, its scaling included. Only svd and cat
    act on the updates; the others act on the A_i and the B_i apart, whatever their names. The
    global generator of torch, which PEFT draws from, is put back afterwards.

    Raises ValueError where PEFT is not installed, for an unknown combination, and with PEFT's own
    words where PEFT refuses.
    """
    if combination not in COMBINATIONS:
        raise ValueError(f"combination {combination!r}: choose from {', '.join(COMBINATIONS)}")
    try:
        import peft
    except ImportError as error:
        raise ValueError("PEFT is not installed: pip install peft, the interop extra") from error
    checked(adapters)
    usual = 1.0 if combination in MEANS else 1 / len(adapters)
    weights = [usual] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(
            f"{len(adapters)} adapters and {len(weights)} weights: give one weight for each"
        )
    for weight in weights:
        check_weight("weight", weight)
    density = COMBINATIONS[combination] if density is None else density
    if density is not None:
        check_share("density", density)
    seed = 0 if generator is None else int(torch.randint(2**31, (1,), generator=generator))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        names = [f"expert{i}" for i in range(len(adapters))]
        for name, adapter in zip(names, adapters, strict=True):
            save_adapter(adapter, Path(folder) / name)
        model = peft.PeftModel.from_pretrained(
            _skeleton(adapters), Path(folder) / names[0], adapter_name=names[0]
        )
        for name in names[1:]:
            model.load_adapter(Path(folder) / name, adapter_name=name)
        torch.manual_seed(seed)
        try:
            model.add_weighted_adapter(names, weights, "merged", combination, density=density)
        except (ValueError, RuntimeError, KeyError) as error:
            words = " ".join(str(error).split())[:200]
            raise ValueError(
                f"PEFT {peft.__version__} cannot merge these by {combination}: {words}"
            ) from error
        factors = {}
        for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
            layer = model.base_model.model.get_submodule(path)
            A, B = (part["merged"].weight.detach() for part in (layer.lora_A, layer.lora_B))
            factors[path] = A.clone(), layer.scaling["merged"] * B
    origin = {
        "merge": f"peft_itself_{combination}",
        "formula": f"PEFT {peft.__version__}, add_weighted_adapter by {combination}",
        "weights": weights,
        "options": {"density": density},
        "of": [dict(adapter.origin) for adapter in adapters],
    }
    return Adapter.unscaled(factors, common_base(adapters), origin)


def _skeleton(adapters: Sequence[Adapter]) -> nn.Module:
    """Linear layers at the adapters' paths. Their weights are one stored number each."""
    model = nn.Module()
    for adapter in adapters:
        for path, (A, B) in adapter.factors.items():
            *parents, name = path.split(".")
            module = model
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = module.get_submodule(parent)
            if not hasattr(module, name):
                linear = nn.Linear(1, 1, bias=False)
                linear.in_features, linear.out_features = A.shape[1], len(B)
                weight = A.new_zeros(1).expand(len(B), A.shape[1])
                linear.weight = nn.Parameter(weight, requires_grad=False)
                module.add_module(name, linear)
    return model

"""Put adapters onto any module by the names of its linear layers, choose how they act, train them,
take them off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lora.adapter import Adapter, base_hash
from lora.layer import Gated, LoRALinear, Mix, Mode, Rows


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Paths of the linear layers that a pattern fits: by last name (``q_proj``) or by whole path
    (``*.mlp.*``)."""
    linears = [
        path for path, module in model.named_modules() if isinstance(module, nn.Linear | LoRALinear)
    ]
    found = []
    for pattern in patterns:
        fits = [
            path
            for path in linears
            if fnmatchcase(path, pattern) or fnmatchcase(path.rpartition(".")[2], pattern)
        ]
        if not fits:
            last = sorted({path.rpartition(".")[2] for path in linears})
            raise ValueError(
                f"no linear layer fits the pattern {pattern!r}: the model's are named {', '.join(last)}"
            )
        found += fits
    return list(dict.fromkeys(found))


def init_adapter(
    model: nn.Module,
    patterns: Sequence[str],
    rank: int,
    alpha: float,
    generator: torch.Generator,
    *,
    rslora: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Adapter:
    """A fresh adapter that changes nothing yet: A uniform in +-1/sqrt(d_in), B zero."""
    factors = {}
    for path in matching(model, patterns):
        d_out, d_in = model.get_parameter(f"{path}.weight").shape
        if not 1 <= rank <= min(d_in, d_out):
            raise ValueError(
                f"rank = {rank}: layer {path} maps {d_in} to {d_out}, choose a rank from 1 to {min(d_in, d_out)}"
            )
        A = (2 * torch.rand(rank, d_in, generator=generator) - 1) / d_in**0.5
        factors[path] = (A, torch.zeros(d_out, rank))
    return Adapter(factors, alpha, rslora, base=base_hash(model), origin=dict(origin or {}))


def attach(model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
    """Register adapters under their names, wrapping the layers that they address. All or none:
    nothing is attached when one does not fit. The whole model is frozen; `train_only` says what is
    trained."""
    here = base_hash(model)
    for name, adapter in adapters.items():
        if adapter.base not in (None, here):
            raise ValueError(
                f"adapter {name!r} was made for the base {adapter.base}, this model is {here}: "
                "use the base that it was trained on"
            )
        linears = dict(model.named_modules())
        for path in adapter.paths:
            if not isinstance(linears.get(path), nn.Linear | LoRALinear):
                raise ValueError(
                    f"adapter {name!r} addresses the layer {path!r}, which this model does not have"
                )
    done: list[tuple[LoRALinear, str]] = []
    try:
        for name, adapter in adapters.items():
            for path, (A, B) in adapter.factors.items():
                layer = _wrapped(model, path)
                layer.add(name, A, B, adapter.scale(path))
                done.append((layer, name))
    except ValueError:
        for layer, name in done:
            layer.remove(name)
        raise
    model.requires_grad_(False)


def _wrapped(model: nn.Module, path: str) -> LoRALinear:
    layer = model.get_submodule(path)
    if isinstance(layer, nn.Linear):
        layer = LoRALinear(layer, path)
        _replace(model, path, layer)
    assert isinstance(layer, LoRALinear), f"attach() lets through linear layers alone, not {path}"
    return layer


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {
        path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)
    }


def detach(model: nn.Module) -> None:
    """Take all adapters off: the plain linear layers are back, with the very weights they had."""
    for path, layer in lora_layers(model).items():
        if layer._unfolded is not None:
            layer.unfold()
        linear = nn.Linear(layer.d_in, layer.d_out, bias=layer.bias is not None, device="meta")
        linear.weight, linear.bias = layer.weight, layer.bias
        _replace(model, path, linear)


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """A and B of one adapter in every layer that has it."""
    found = [
        p
        for layer in lora_layers(model).values()
        if name in layer.names
        for p in layer.factors(name)
    ]
    if not found:
        known = sorted({n for layer in lora_layers(model).values() for n in layer.names})
        raise KeyError(f"no adapter {name!r} is attached, there are {', '.join(known) or 'none'}")
    return found


def train_only(model: nn.Module, names: Iterable[str]) -> list[list[nn.Parameter]]:
    """Freeze everything but these adapters; return their parameters, a list for each."""
    groups = [adapter_parameters(model, name) for name in names]
    model.requires_grad_(False)
    for group in groups:
        for parameter in group:
            parameter.requires_grad_(True)
    return groups


def extract(model: nn.Module, name: str, like: Adapter) -> Adapter:
    """The adapter as it stands now, with the scaling and the record of the one that was
    attached."""
    adapter_parameters(model, name)
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.names}
    factors = {}
    for path, layer in layers.items():
        A, B = layer.factors(name)
        factors[path] = (A.detach().cpu().clone(), B.detach().cpu().clone())
    return Adapter(factors, like.alpha, like.rslora, like.alphas, like.base, like.origin)


@contextmanager
def using(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Let the adapters act in a mode inside the block, and as before after it."""
    layers = lora_layers(model)
    asked = (
        () if mode is None else tuple(mode.weights) if isinstance(mode, Mix) else tuple(mode.names)
    )
    known = {name for layer in layers.values() for name in layer.names}
    if missing := [name for name in asked if name not in known]:
        raise KeyError(
            f"no adapter {missing[0]!r} is attached, there are {', '.join(sorted(known)) or 'none'}"
        )
    if isinstance(mode, Gated | Rows):
        for path, layer in layers.items():
            if lacking := set(mode.names) - set(layer.names):
                raise ValueError(
                    f"{path} lacks the adapter {lacking.pop()!r}: to be routed or trained together, adapters "
                    "must address the same layers"
                )
    before = {path: layer.mode for path, layer in layers.items()}
    for layer in layers.values():
        layer.mode = mode
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer.mode = before[path]


@contextmanager
def folded(model: nn.Module, weights: Mapping[str, float]) -> Iterator[None]:
    """Fold a weighted sum of adapters into the weights inside the block; the old weights are back
    after it."""
    layers = list(lora_layers(model).values())
    for layer in layers:
        layer.fold(weights)
    try:
        yield
    finally:
        for layer in layers:
            layer.unfold()

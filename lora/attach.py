"""Adapters on any module: put them onto its linear layers by name, choose how they act, train them
and take them off again.

    attach(model, {"mine": adapter})           wraps the layers, freezes the model
    with using(model, Mix({"mine": 1.0})):     the adapter acts inside the block
        model(x)
    detach(model)                              the plain linear layers, bit for bit
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lora.adapter import Adapter, base_hash
from lora.layer import Gated, LoRALinear, Mode, Rows


def _listing(names: Iterable[str]) -> str:
    """Names for an error message: sorted, each once."""
    return ", ".join(sorted(set(names))) or "none"


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Paths of the linear layers that any of the patterns fits, each once.

    A pattern fits a layer's last name (``q_proj``) or its whole path (``*.mlp.*``). Raises
    ValueError for a pattern that fits no layer.
    """
    linears = {  # path: last name
        path: path.rpartition(".")[2]
        for path, module in model.named_modules()
        if path and isinstance(module, nn.Linear | LoRALinear)
    }
    paths: list[str] = []
    for pattern in patterns:
        fitting = [
            path
            for path, last in linears.items()
            if fnmatchcase(path, pattern) or fnmatchcase(last, pattern)
        ]
        if not fitting:
            raise ValueError(
                f"no linear layer fits the pattern {pattern!r}: "
                f"the model's are named {_listing(linears.values())}"
            )
        paths += fitting
    return list(dict.fromkeys(paths))


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
    """A fresh adapter for the matching layers. It changes nothing yet: A (rank, d_in) is uniform in
    +-1/sqrt(d_in), B (d_out, rank) is zero.

    Raises ValueError for a pattern that fits no layer and for a rank that a layer does not have.
    """
    factors = {}
    for path in matching(model, patterns):
        d_out, d_in = model.get_parameter(f"{path}.weight").shape
        full_rank = min(d_in, d_out)
        if not 1 <= rank <= full_rank:
            raise ValueError(
                f"rank = {rank}: layer {path} maps {d_in} to {d_out}, "
                f"choose a rank from 1 to {full_rank}"
            )
        A = (2 * torch.rand(rank, d_in, generator=generator) - 1) / d_in**0.5
        factors[path] = (A, torch.zeros(d_out, rank))
    return Adapter(factors, alpha, rslora, base=base_hash(model), origin=dict(origin or {}))


def attach(model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
    """Register adapters under their names and wrap the layers that they address.

    The whole model is frozen; `train_only` says what is trained. No adapter acts before `using`
    says so. Where one adapter does not fit, none is attached: raises ValueError for another base, a
    layer that the model does not have, factors of another shape, or a name that is taken.
    """
    here = base_hash(model)
    modules = dict(model.named_modules())
    for name, adapter in adapters.items():
        if adapter.base not in (None, here):
            raise ValueError(
                f"adapter {name!r} was made for the base {adapter.base}, this model is {here}: "
                "use the base that it was trained on"
            )
        for path in adapter.paths:
            if not isinstance(modules.get(path), nn.Linear | LoRALinear):
                raise ValueError(
                    f"adapter {name!r} addresses the layer {path!r}, which this model does not have"
                )
    registered: list[tuple[LoRALinear, str]] = []
    try:
        for name, adapter in adapters.items():
            for path, (A, B) in adapter.factors.items():
                layer = _wrapped(model, path)
                layer.add(name, A, B, adapter.scale(path))
                registered.append((layer, name))
    except ValueError:
        for layer, name in registered:
            layer.remove(name)
        raise
    model.requires_grad_(False)


def _wrapped(model: nn.Module, path: str) -> LoRALinear:
    layer = model.get_submodule(path)
    if isinstance(layer, nn.Linear):
        layer = LoRALinear(layer, path)
        _replace(model, path, layer)
    assert isinstance(layer, LoRALinear), f"attach() has refused what is not linear, but {path}"
    return layer


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The wrapped layers by their paths."""
    return {
        path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)
    }


def _attached(model: nn.Module) -> set[str]:
    return {name for layer in lora_layers(model).values() for name in layer.names}


def detach(model: nn.Module) -> None:
    """Take all adapters off: the plain linear layers are back, with the very weights they had."""
    for path, layer in lora_layers(model).items():
        if layer._unfolded is not None:
            layer.unfold()
        linear = nn.Linear(layer.d_in, layer.d_out, bias=layer.bias is not None, device="meta")
        linear.weight, linear.bias = layer.weight, layer.bias
        _replace(model, path, linear)


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """A and B of one adapter in every layer that has it. Raises KeyError for an unknown name."""
    _check_attached(model, [name])
    layers = [layer for layer in lora_layers(model).values() if name in layer.names]
    return [factor for layer in layers for factor in layer.factors(name)]


def _check_attached(model: nn.Module, names: Iterable[str]) -> None:
    attached = _attached(model)
    if unknown := [name for name in names if name not in attached]:
        raise KeyError(f"no adapter {unknown[0]!r} is attached, there are {_listing(attached)}")


def train_only(model: nn.Module, names: Iterable[str]) -> list[list[nn.Parameter]]:
    """Freeze everything but these adapters. Returns a list of parameters for each of them."""
    groups = [adapter_parameters(model, name) for name in names]
    model.requires_grad_(False)
    for group in groups:
        for parameter in group:
            parameter.requires_grad_(True)
    return groups


def extract(model: nn.Module, name: str, like: Adapter) -> Adapter:
    """The attached adapter with the values that it has now, on the CPU.

    ``like`` is the adapter that was attached: it lends its scaling, base and record.
    """
    _check_attached(model, [name])
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.names}
    factors = {}
    for path, layer in layers.items():
        A, B = layer.factors(name)
        factors[path] = (A.detach().cpu().clone(), B.detach().cpu().clone())
    return Adapter(factors, like.alpha, like.rslora, like.alphas, like.base, like.origin)


@contextmanager
def using(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Let the adapters act in a mode inside the block, and as before after it.

    Raises KeyError for a name that is not attached, and ValueError where `Gated` or `Rows` name
    adapters of different layers.
    """
    layers = lora_layers(model)
    _check_attached(model, () if mode is None else mode.names)
    if isinstance(mode, Gated | Rows):
        for path, layer in layers.items():
            if lacking := set(mode.names) - set(layer.names):
                raise ValueError(
                    f"{path} lacks the adapter {min(lacking)!r}: to be routed or trained together, "
                    "adapters must address the same layers"
                )
    modes_before = {path: layer.mode for path, layer in layers.items()}
    for layer in layers.values():
        layer.mode = mode
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer.mode = modes_before[path]


@contextmanager
def folded(model: nn.Module, weights: Mapping[str, float]) -> Iterator[None]:
    """Fold a weighted sum of adapters into the weights inside the block. The old weights are back
    after it, bit for bit.

    Raises KeyError for a name that is not attached.
    """
    _check_attached(model, weights)
    layers = list(lora_layers(model).values())
    for layer in layers:
        layer.fold(weights)
    try:
        yield
    finally:
        for layer in layers:
            layer.unfold()

"""Adapters on any module: put them onto its linear layers by name, choose how they act, train them
and take them off again.

    attach(model, {"mine": adapter})           the layers take the adapter, the model is frozen
    with using(model, Mix({"mine": 1.0})):     the adapter acts inside the block
        model(x)
    detach(model)                              the layers are what they were, bit for bit
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import isclose
from typing import Any

import torch
from torch import Tensor, nn

from lora.adapter import Adapter
from lora.base import base_hash, is_base
from lora.layer import LoRALinear
from lora.modes import Gated, Mode, Rows
from lora.modules import freeze, linear_layers, linear_shape, modules_by_path, whole, why_unusable

_LISTED = 12  # names in an error message


def _listing(names: Iterable[str]) -> str:
    """Names for an error message: sorted, each once, and not too many."""
    each = sorted(set(names))
    more = f", ... ({len(each)} in all)" if len(each) > _LISTED else ""
    return ", ".join(each[:_LISTED]) + more or "none"


def matching(model: nn.Module, patterns: Sequence[str] | str) -> list[str]:
    """Paths of the linear layers that any of the patterns fits, each once.

    A pattern fits a layer's last name (``q_proj``) or its whole path (``*.mlp.*``). A string alone
    is one pattern. Raises ValueError for no pattern and for one that fits no layer, and TypeError
    for what is no string.
    """
    linears = {path: path.rpartition(".")[2] for path in linear_layers(model)}  # path: last name
    paths: list[str] = []
    for pattern in _names(patterns, "pattern"):
        fitting = [
            path
            for path, last in linears.items()
            if fnmatchcase(path, pattern) or fnmatchcase(last, pattern)
        ]
        if not fitting:
            alone = ": it is a linear layer itself, put it into an nn.Sequential"
            raise ValueError(
                f"no linear layer fits the pattern {pattern!r}: "
                f"the model's are named {_listing(linears.values())}"
                + (alone if isinstance(modules_by_path(model)[""], nn.Linear) else "")
            )
        paths += fitting
    return list(dict.fromkeys(paths))


def _names(given: Iterable[str] | str, kind: str) -> list[str]:
    """A list of names from a list, or from one name. It is not read letter by letter."""
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise ValueError(f"there is no {kind}: name at least one")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a {kind} is a string, not {name!r}")
    return names


def init_adapter(
    model: nn.Module,
    patterns: Sequence[str] | str,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    *,
    rslora: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Adapter:
    """A fresh adapter for the matching layers. It changes nothing yet: A (rank, d_in) is uniform in
    +-1/sqrt(d_in), B (d_out, rank) is zero.

    Raises ValueError for a pattern that fits no layer, for a layer that has no values yet, and for
    a rank that a layer does not have.
    """
    factors = {}
    layers = linear_layers(model)
    for path in matching(model, patterns):
        if why := why_unusable(layers[path]):
            raise ValueError(f"no adapter can be made for the layer {path!r}, {why}")
        d_out, d_in = linear_shape(layers[path])
        full_rank = min(d_in, d_out)
        if not 1 <= rank <= full_rank:
            raise ValueError(
                f"rank = {rank}: layer {path} maps {d_in} to {d_out}, "
                f"choose a rank from 1 to {full_rank}"
            )
        A = (2 * torch.rand(rank, d_in, generator=generator) - 1) / d_in**0.5
        factors[path] = (A, torch.zeros(d_out, rank))
    return Adapter(factors, alpha, rslora, base=base_hash(model), origin=dict(origin or {}))


def attach(model: nn.Module, adapters: Mapping[str, Adapter], *, any_base: bool = False) -> None:
    """Register adapters under their names, and let the layers that they address take them.

    The whole model is frozen; `train_only` says what is trained. No adapter acts before `using`
    says so. A layer stays the object that it is, and a forward of its own stays in force. A layer
    with several names has the same adapters under each. ``any_base`` attaches adapters of another
    base, for a base in another precision whose hash says nothing (`base_hash`).

    Where one adapter does not fit, none is attached: raises ValueError for another base, a layer
    that the model does not have, one that is not linear or has no values yet, factors of another
    shape, or a name that is taken.
    """
    modules = modules_by_path(model)
    if not any_base:
        _check_bases(model, adapters)
    for name, adapter in adapters.items():
        _check_layers(name, adapter, modules)
    registered: list[tuple[LoRALinear, str]] = []
    new: list[LoRALinear] = []
    try:
        for name, adapter in adapters.items():
            for path, (A, B) in adapter.factors.items():
                layer = modules[path]
                assert isinstance(layer, nn.Linear), f"{path} was checked"
                if not isinstance(layer, LoRALinear):
                    layer = LoRALinear.wrap(layer, path)
                    new.append(layer)
                layer.add(name, A, B, adapter.scale(path))
                registered.append((layer, name))
    except ValueError:
        for layer, name in registered:
            layer.remove(name)
        for layer in new:
            layer.unwrap()
        raise
    freeze(model)


def _check_bases(model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
    """The model is hashed once, and only where an adapter names its base."""
    named = {name: adapter.base for name, adapter in adapters.items() if adapter.base}
    here = base_hash(model) if named else ""
    for name, base in named.items():
        if not is_base(base, model, here):
            raise ValueError(
                f"adapter {name!r} was made for the base {base}, this model is {here}: use the "
                "base that it was trained on; where this is that base in another precision, "
                "attach(..., any_base=True)"
            )


def _check_layers(name: str, adapter: Adapter, modules: Mapping[str, nn.Module]) -> None:
    addressed: dict[nn.Module, str] = {}
    for path in adapter.paths:
        if path == "":
            raise ValueError(
                f"adapter {name!r} addresses the whole model as one layer: "
                "put it into an nn.Sequential, so that the layer has a name"
            )
        if why := why_unusable(modules.get(path)):
            raise ValueError(f"adapter {name!r} addresses the layer {path!r}, {why}")
        if (other := addressed.setdefault(modules[path], path)) != path:
            raise ValueError(
                f"adapter {name!r} addresses {other!r} and {path!r}, which are one layer of this "
                "model: keep the factors of one of them"
            )


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers that take adapters, each once, by the path that adapters address."""
    modules = modules_by_path(model)
    layers: dict[LoRALinear, str] = {}
    for path, module in modules.items():
        if isinstance(module, LoRALinear):
            layers.setdefault(module, module.path if modules.get(module.path) is module else path)
    return {path: layer for layer, path in layers.items()}


def detach(model: nn.Module) -> None:
    """Take all adapters off. The linear layers are what they were: the same objects, of their own
    class, with the very weights, hooks and training flags. The weights stay frozen."""
    for layer in lora_layers(model).values():
        layer.unwrap()


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """A and B of one adapter in every layer that has it. Raises KeyError for an unknown name."""
    return _parameters_of(lora_layers(model), name)


def _parameters_of(layers: Mapping[str, LoRALinear], name: str) -> list[nn.Parameter]:
    _check_attached(layers, [name])
    having = [layer for layer in layers.values() if name in layer.scales]
    factors = [factor for layer in having for factor in layer.factors(name)]
    return [factor for factor in factors if isinstance(factor, nn.Parameter)]


def _check_attached(layers: Mapping[str, LoRALinear], names: Iterable[str]) -> None:
    """Raises KeyError for a name that no layer has. The names of all that are attached, which may
    be thousands, are only put together for the error."""
    for name in names:
        if not any(name in layer.scales for layer in layers.values()):
            attached = {name for layer in layers.values() for name in layer.names}
            raise KeyError(f"no adapter {name!r} is attached, there are {_listing(attached)}")


def train_only(model: nn.Module, names: Iterable[str] | str) -> list[list[nn.Parameter]]:
    """Freeze everything but these adapters. Returns a list of parameters for each of them. A string
    alone is one name. Raises KeyError for a name that is not attached."""
    layers = lora_layers(model)
    groups = [_parameters_of(layers, name) for name in _names(names, "adapter")]
    freeze(model)
    for group in groups:
        for parameter in group:
            parameter.requires_grad_(True)
    return groups


def extract(model: nn.Module, name: str, like: Adapter) -> Adapter:
    """The attached adapter with the values that it has now, on the CPU.

    ``like`` is the adapter that was attached: it lends its scaling, base and record. The model may
    be compiled or wrapped by DDP or FSDP: the paths are those of the layers inside, and factors
    that are spread over processes are gathered (all processes must call this). Raises KeyError for
    an unknown name and ValueError where ``like`` has another scaling.
    """
    every = lora_layers(model)
    _check_attached(every, [name])
    layers = {path: layer for path, layer in every.items() if name in layer.scales}
    with torch.inference_mode(False), torch.no_grad():
        factors = {path: _copied(layer.factors(name)) for path, layer in layers.items()}
    taken = Adapter(factors, like.alpha, like.rslora, like.alphas, like.base, like.origin)
    for path, layer in layers.items():
        if not isclose(taken.scale(path), layer.scales[name]):
            raise ValueError(
                f"{path}: the attached adapter {name!r} has the scaling {layer.scales[name]:g}, "
                f"and `like` has {taken.scale(path):g}: give the adapter that was attached"
            )
    return taken


def _copied(factors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    A, B = (whole(factor.detach()).cpu().clone() for factor in factors)
    return A, B


@contextmanager
def using(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Let the adapters act in a mode inside the block, and as before after it.

    With gradient checkpointing, backward belongs inside the block too. Raises KeyError for a name
    that is not attached, ValueError where `Gated` or `Rows` name adapters of different layers, and
    RuntimeError where adapters are folded.
    """
    layers = lora_layers(model)
    _check_attached(layers, () if mode is None else mode.names)
    for path, layer in layers.items():
        if mode is not None and layer.folded:
            raise RuntimeError(
                f"{path}: adapters are folded into the weight: leave folded() before using()"
            )
        if isinstance(mode, Gated | Rows):
            if lacking := [name for name in mode.names if name not in layer.scales]:
                raise ValueError(
                    f"{path} lacks the adapter {min(lacking)!r}: to be routed or trained together, "
                    "adapters must address the same layers"
                )
    before = [(layer, layer.mode, layer.since) for layer in layers.values()]
    for layer in layers.values():
        layer.mode = mode
    try:
        yield
    finally:
        for layer, mode_before, since in before:
            if isinstance(layer, LoRALinear):  # not where the adapters were detached inside
                layer.restore(mode_before, since)


@contextmanager
def folded(model: nn.Module, weights: Mapping[str, float]) -> Iterator[None]:
    """Fold a weighted sum of adapters into the weights inside the block. The old weights are back
    after it: the very parameters that they were.

    A weight that other layers share changes for the adapter's layer alone. A layer whose forward is
    its own, or whose weight is computed or quantised, gets the same sum as a `Mix`. Where one layer
    cannot be folded, none is. Raises KeyError for a name that is not attached.
    """
    layers = lora_layers(model)
    _check_attached(layers, weights)
    done: list[LoRALinear] = []
    try:
        for layer in layers.values():
            layer.fold(weights)
            done.append(layer)
        yield
    finally:
        for layer in done:
            if isinstance(layer, LoRALinear) and layer.folded:
                layer.unfold()

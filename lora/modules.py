"""The modules of a model under the model's own names, and which of them take adapters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

# torch.compile, FSDP and activation checkpointing hold the module that they wrap under these names.
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
FACTORS = ("lora_A_", "lora_B_")  # how the names of an attached adapter's factors begin
# These hold it under a name that a model may use for itself.
_HOLDERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Every module under each of its names, as if nothing wrapped the model or a part of it.

    The root's name is "". A wrapper has the name of the module inside, and gives way to it.
    """
    return dict(_walk(model, "", ()))


def _walk(
    module: nn.Module, path: str, above: tuple[nn.Module, ...]
) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is None or child in above:
            continue
        if name in WRAPPED or (name == "module" and isinstance(module, _HOLDERS)):
            below = path
        else:
            below = f"{path}.{name}" if path else name
        yield from _walk(child, below, (*above, module))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model by path, each once, under the first of its names.

    A model that is a linear layer itself has no path for it, so the layer is left out.
    """
    layers: dict[nn.Module, str] = {}
    for path, module in modules_by_path(model).items():
        if path and isinstance(module, nn.Linear):
            layers.setdefault(module, path)
    return {path: layer for layer, path in layers.items() if isinstance(layer, nn.Linear)}


def own_parameters(linear: nn.Module) -> dict[str, Tensor]:
    """A layer's parameters by name, without the factors of adapters: thousands may be attached, so
    they are passed over by their names alone."""
    named = [(n, p) for n, p in linear._parameters.items() if not n.startswith(FACTORS)]
    for part, module in linear._modules.items():
        if module is not None:
            named += module.named_parameters(part)
    first = {id(p): name for name, p in reversed(named) if p is not None}
    return {name: p for name, p in named if p is not None and first[id(p)] == name}


def freeze(model: nn.Module) -> None:
    """``model.requires_grad_(False)``, at little cost for what is frozen already."""
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                parameter.requires_grad_(False)


def plain_weight(linear: nn.Linear) -> Tensor | None:
    """The layer's own weight (d_out, d_in) where it is an ordinary parameter; None where it is
    computed, quantised by another library, sharded, or a copy in a replica."""
    weight = linear._parameters.get("weight")
    return weight if type(weight) in (nn.Parameter, Tensor) else None


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: each process holds a part of a DTensor, and all must ask together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def linear_shape(linear: nn.Linear) -> tuple[int, int]:
    """(d_out, d_in). A quantised weight has a shape of its own, so it is not asked."""
    weight = plain_weight(linear)
    if weight is None or not weight.is_floating_point():
        return linear.out_features, linear.in_features
    return weight.shape[0], weight.shape[1]


def why_unusable(module: nn.Module | None) -> str | None:
    """Why a module takes no adapter, in the words of an error message, or None where it does."""
    if module is None:
        return "which this model does not have"
    if not isinstance(module, nn.Linear):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        return f"a {kind}: only nn.Linear and its subclasses take adapters"
    values = [*own_parameters(module).values(), *module.buffers()]
    if not values or any(is_lazy(value) or value.is_meta for value in values):
        return "whose weight has no values yet: load the base's weights first"
    return None

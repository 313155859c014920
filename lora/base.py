"""The name of a base: a hash of the weights that adapters address."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lora.adapter import same_base
from lora.layer import LoRALinear
from lora.modules import WRAPPED, linear_layers, modules_by_path, own_parameters, whole

_COUNTED_WHOLE, _SAMPLE = 2**16, 2**12  # values of one parameter
_first_names: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()
_kept: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def base_hash(model: nn.Module) -> str:
    """A name for the weights that adapters address: two hashes of 16 hex digits, ``one-other``.

    Both run over the linear layers: their names, and the names, shapes and values of their
    parameters. The first hashes the values rounded to bf16, the second the values rounded to fp16.
    So a base in fp32 shares both with its copy in fp64, the first with its copy in bf16 and the
    second with its copy in fp16. `same_base` compares two names.

    Embeddings, norms and buffers are left out, as are attached adapters and the names that
    torch.compile, DDP and FSDP put in. A parameter with more than 65536 values counts through 4096
    of them, evenly spaced, so the name of a large model takes milliseconds. Raises ValueError for a
    weight without values (a meta tensor).
    """
    return _kept.get(model) or _computed(model)


def keep_base_hash(model: nn.Module) -> str:
    """The model's `base_hash`, computed now and kept while the model lives: for a frozen base to
    which many adapters are attached. Weights that change later change it no more; a copy of the
    model has its own. Raises ValueError as `base_hash` does."""
    _kept[model] = _computed(model)
    return _kept[model]


def _computed(model: nn.Module) -> str:
    digests = {torch.bfloat16: hashlib.sha256(), torch.float16: hashlib.sha256()}
    for path, layer in sorted(linear_layers(model).items()):
        for name, parameter in _own_values(layer):
            values = _sample(parameter, f"{path}.{name}")
            for dtype, digest in digests.items():
                rounded = values.to(dtype) if values.is_floating_point() else values
                digest.update(f"{path}.{name} {tuple(parameter.shape)}\n".encode())
                digest.update(_bytes(rounded))
    return "-".join(digest.hexdigest()[:16] for digest in digests.values())


def is_base(name: str, model: nn.Module, here: str) -> bool:
    """Whether ``name`` names the model, whose `base_hash` is ``here``.

    Adapters from before there were two hashes name their base by one: it is compared with
    `_hash_of_all`, which is computed once for a model as long as ``here`` stays the same.
    """
    if "-" in name:
        return same_base(name, here)
    known = _first_names.get(model)
    if known is None or known[0] != here:
        known = _first_names[model] = (here, _hash_of_all(model))
    return name == known[1]


def _own_values(layer: nn.Linear) -> Iterator[tuple[str, Tensor]]:
    """The layer's parameters without its adapters', and as they were before a fold; the buffers of
    a layer that holds its weight in them."""
    own = own_parameters(layer)
    if isinstance(layer, LoRALinear) and "weight" in own:
        own["weight"] = layer.unfolded_weight
    yield from sorted((own if set(own) - {"bias"} else dict(layer.named_buffers())).items())


def _sample(parameter: Tensor, name: str) -> Tensor:
    """The values that count, on the CPU and flat: all, or some at an odd distance, for an even one
    could meet the same column of every row. No others are read, in whatever order the weight
    lies."""
    if parameter.is_meta:
        raise ValueError(f"{name} has no values (a meta tensor): load the base's weights first")
    values = whole(parameter.detach())
    if values.is_floating_point() and type(values) not in (Tensor, nn.Parameter):
        values = values.dequantize()
    count = values.numel()
    if count <= _COUNTED_WHOLE:
        return values.reshape(-1).cpu()
    step = count // _SAMPLE | 1
    if values.is_contiguous():
        return values.view(-1)[::step].cpu()
    places = torch.arange(0, count, step, device=values.device)
    return values[torch.unravel_index(places, values.shape)].cpu()


def _hash_of_all(model: nn.Module) -> str:
    """The first way to name a base: 16 hex digits over the names, types, shapes and bytes of all
    weights and buffers."""
    digest = hashlib.sha256()
    named = {}
    for name, tensor in modules_by_path(model)[""].state_dict().items():
        for part in WRAPPED:
            name = name.replace(f"{part}.", "")
        named[name] = tensor
    for name, tensor in sorted(named.items()):
        if ".lora_A_" in f".{name}" or ".lora_B_" in f".{name}":
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(whole(tensor.detach()).cpu()))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    if not tensor.numel():
        return b""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

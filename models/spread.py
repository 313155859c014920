"""A frozen model that is spread over processes: each holds 1/N of every weight.

Before a block computes, its weights are gathered from all processes, and after it they are dropped
again (FSDP2, `torch.distributed.fsdp.fully_shard`). So all processes compute the same in step, and
each has the whole result. What is attached later, as adapters are, is not spread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.causal import CausalLM

METHODS = ("hidden_states", "unembed")  # by which a model is asked beside its forward


def spread(model: CausalLM, device: str | torch.device) -> CausalLM:
    """Spread a planned model over the processes of the default group, one block at a time. The
    embeddings, the last norm and the head are gathered as one. Each process computes on the device
    that it names."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if torch.device(device).index is not None:
        torch.cuda.set_device(device)  # fully_shard takes the current one
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    for block in model.layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in METHODS:
        register_fsdp_forward_method(model, name)
    return model


def is_group() -> bool:
    """Whether processes have formed a group, which holds models together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, where it is not spread."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def part(whole: Tensor, like: Any) -> Tensor:
    """The part of a whole tensor that this process holds of the tensor ``like``."""
    if not hasattr(like, "to_local"):
        return whole
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        like.shape, like.device_mesh, like.placements
    )
    return whole[tuple(slice(at, at + size) for at, size in zip(start, shape, strict=True))]


@torch.no_grad()
def gather_once(model: CausalLM) -> None:
    """Let a spread model compute once. It keeps the buffers into which it gathers, and from
    inference mode, where a model is asked, they could not be trained through."""
    first = torch.zeros(1, 1, dtype=torch.long, device=model.model.cos.device)
    model.unembed(model.hidden_states(first))

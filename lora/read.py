"""What code gets that reads the weight of an adapted layer instead of calling the layer.

nn.MultiheadAttention reads ``out_proj.weight``, the fast path of nn.TransformerEncoderLayer reads
``linear1.weight``, and models read ``lm_head.weight``. The layer's forward does not run there, so
its adapters act through the weight: W + sum_i w_i s_i B_i A_i, with gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

# Answered by the weight itself; models ask for the type of a weight at every call.
_ABOUT = ("size", "dim", "numel", "stride", "element_size", "is_floating_point", "is_contiguous")


class ReadWeight(Tensor):
    """Stands for the weight while adapters act: it has the weight's shape, type and device, and is
    computed by ``merged`` in the first operation that needs its values.

    It has no values itself, so code that looks past torch's functions fails and is not wrong.
    """

    _weight: Tensor
    _merged: Callable[[], Tensor]

    @staticmethod
    def of(weight: Tensor, merged: Callable[[], Tensor]) -> ReadWeight:
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        read = empty.as_subclass(ReadWeight)
        read._weight, read._merged = weight, merged
        return read

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        writes = name in ("__set__", "__setitem__") or (name[-1:] == "_" and name[-2:] != "__")
        if args and isinstance(args[0], ReadWeight) and (writes or _is_data(func)):
            raise ValueError(
                "a weight cannot be written to while adapters act on it (and .data could be): "
                "leave using() or folded() first, or read .detach()"
            )
        if name in ("__get__", *_ABOUT):
            about = func(args[0]._weight, *args[1:], **(kwargs or {}))
            if not isinstance(about, Tensor):
                return about
        args, kwargs = tree_map_only(ReadWeight, lambda read: read._merged(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _is_data(func: Any) -> bool:
    return getattr(getattr(func, "__self__", None), "__name__", "") == "data"

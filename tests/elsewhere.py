"""A second device without its hardware: some tensors say that they lie on cuda:0, and are
calculated on the CPU all the same. As on a real device, one operation on tensors of both is
refused, here also where torch would move an index by itself.

So a whole study shows whatever is made on the CPU by default and never moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
_CROSSES = ("aten::copy_",)  # operations that read the other device; Tensor.to stands below
_to, _deepcopy, _new_tensor, _numpy = (
    Tensor.to,
    Tensor.__deepcopy__,
    Tensor.new_tensor,
    Tensor.numpy,
)
_tensor = torch.tensor
_device = torch._C.TensorBase.device.__get__  # type: ignore[attr-defined]
_there: dict[int, StorageWeakRef] = {}  # storages on the other device; a view lies where its own is


class Mixed(RuntimeError):
    """One operation was given tensors of both devices."""


def is_there(t: Tensor) -> bool:
    return t.untyped_storage()._cdata in _there


def _put(t: Tensor, there: bool = True) -> Tensor:
    storage = t.untyped_storage()
    if there:
        # A weak reference keeps the address from being given to another storage.
        _there[storage._cdata] = StorageWeakRef(storage)
    return t


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class Machine(TorchDispatchMode):
    """What is made of tensors on the other device lies there too, and what is told to."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        there, here = list[Tensor](), list[Tensor]()
        for t in _tensors((*args, *kwargs.values())):
            (there if is_there(t) else here).append(t)
        here = [t for t in here if t.dim() > 0]  # a number may be anywhere
        name = func._schema.name
        if there and here and name not in _CROSSES:
            shapes = [tuple(t.shape) for t in here]
            raise Mixed(f"{name} on {DEVICE} was given tensors of the CPU, {shapes}")
        told = kwargs.get("device")
        if told is not None:
            kwargs["device"] = "cpu"
        backward = torch._C._current_graph_task_id() >= 0  # it makes zeros like its gradients
        result = func(*args, **kwargs)
        if name not in _CROSSES and (there or (told and told.type == DEVICE.type) or backward):
            for t in _tensors((result,)):
                _put(t)
        return result


def _moved(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``, to whichever device a tensor, a device or a name says."""
    kind = dtype = None
    for each in (*args, kwargs.pop("other", None), kwargs.pop("device", None)):
        if isinstance(each, Tensor):
            kind, dtype = each.device.type, each.dtype
        elif isinstance(each, torch.device | str):
            kind = torch.device(each).type
        elif isinstance(each, torch.dtype):
            dtype = each
    dtype = kwargs.get("dtype") or dtype or self.dtype
    crosses = kind is not None and kind != self.device.type
    made = _to(self, dtype=dtype, copy=crosses or kwargs.get("copy", False))
    if crosses and kind == "cpu":
        _there.pop(made.untyped_storage()._cdata, None)
    return _put(made) if crosses and kind == DEVICE.type else made


def _to_numpy(self: Tensor, **kwargs: Any) -> Any:
    if is_there(self):
        raise Mixed("a tensor of the other device has no numpy array: move it to the CPU first")
    return _numpy(self, **kwargs)


def _made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    made = _tensor(data, **kwargs)
    return made if device is None else made.to(device)


@contextmanager
def second_device(monkeypatch: Any) -> Iterator[torch.device]:
    """Inside the block cuda:0 can be calculated on."""

    def like_itself(function: Any) -> Any:
        return lambda self, *args, **kwargs: _put_as(self, function(self, *args, **kwargs))

    def _put_as(self: Tensor, made: Tensor) -> Tensor:
        return _put(made) if is_there(self) else made

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(Tensor, "device", property(lambda t: DEVICE if is_there(t) else _device(t)))
        patch.setattr(Tensor, "is_cuda", property(is_there))
        patch.setattr(Tensor, "to", _moved)
        patch.setattr(Tensor, "cpu", lambda self: _moved(self, "cpu"))
        patch.setattr(Tensor, "numpy", _to_numpy)
        patch.setattr(Tensor, "new_tensor", like_itself(_new_tensor))
        patch.setattr(torch, "tensor", _made)
        patch.setattr(Tensor, "__deepcopy__", like_itself(_deepcopy))
        with Machine():
            yield DEVICE
    _there.clear()

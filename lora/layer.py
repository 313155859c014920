"""A linear layer with any number of named low-rank adapters, and the modes in which they act.
Row-vector form; W (d_out, d_in), A_i (r_i, d_in), B_i (d_out, r_i), scaling s_i.

off      y = x W^T
Mix      y = x W^T + sum_i w_i s_i (x A_i^T) B_i^T       one adapter is a mix with weight 1
Gated    y = x W^T + sum_i g_i(x) s_i (x A_i^T) B_i^T    one gate for each token and adapter
Rows     y_j = x_j W^T + s_j (x_j A_j^T) B_j^T           x in K equal parts, an adapter for each
folded   y = x (W + sum_i w_i s_i B_i A_i)^T             for inference

A layer of another class, with a forward of its own or a weight that is computed or quantised, gives
y = forward(x) + the same sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora import replay
from lora.kept import current, steady
from lora.modes import Gated, Mix, Mode, Rows
from lora.modules import linear_shape, plain_weight
from lora.products import Product, product_of
from lora.read import ReadWeight

# Classes that compute x W^T + b and nothing else. The second stands in nn.MultiheadAttention.
_PLAIN = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
# Layers whose own forward runs now in this thread: it must read the weight without adapters.
_running: ContextVar[tuple[nn.Module, ...]] = ContextVar("_running", default=())


@dataclass
class _Attached:
    """What a layer keeps beside its adapters' factors. It is one attribute of the layer, so that it
    takes no name that a foreign class uses."""

    path: str
    scales: dict[str, float] = field(default_factory=dict)
    mode: Mode = None
    since: int = 0  # the place in the autograd graph at which the mode was set
    folded: Mix | None = None
    before_fold: nn.Parameter | None = None  # None also where folding changes no weight
    own_forward: Callable[..., Any] | None = None  # a forward that was set on the object


class LoRALinear(nn.Linear):
    """A linear layer with adapters: x (..., d_in) -> y (..., d_out).

    `wrap` turns a linear layer into this class and `unwrap` turns it back. The object stays the
    same, with its weight, hooks, training flag and keys in a state_dict(). An adapter is two
    registered parameters, ``lora_A_<name>`` (r, d_in) and ``lora_B_<name>`` (d_out, r): they move
    with .to(), are saved by state_dict(), and each has its own requires_grad. ``path`` is the
    layer's name in the model.

    Code that reads ``weight`` from outside while a `Mix` acts gets W + sum_i w_i s_i B_i A_i.
    """

    _origin: ClassVar[type[nn.Linear]] = nn.Linear  # the class that the layer had, and has after
    _attached: _Attached

    def __init__(self, linear: nn.Linear, path: str = ""):
        """A new layer that shares the weight and bias of an nn.Linear."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("weight", linear._parameters["weight"])
        self.register_parameter("bias", linear._parameters["bias"])
        self._attached = _Attached(path)

    @staticmethod
    def wrap(linear: nn.Linear, path: str) -> LoRALinear:
        """The same object, which takes adapters from now on. Raises ValueError for a class that
        cannot be extended."""
        own_forward = linear.__dict__.get("forward")
        try:
            linear.__class__ = _adapted(type(linear))
        except TypeError as error:
            raise ValueError(
                f"{path}: a {type(linear).__name__} takes no adapters ({error})"
            ) from None
        assert isinstance(linear, LoRALinear)
        linear.__dict__.pop("forward", None)
        linear._attached = _Attached(path, own_forward=own_forward)
        return linear

    def unwrap(self) -> nn.Linear:
        """The same object without adapters, in the class that it had. Raises ValueError where
        something else has changed the class or the forward since."""
        if type(self) is not _adapted(self._origin) or "forward" in self.__dict__:
            raise ValueError(self._was_changed())
        if self._attached.folded is not None:
            self.unfold()
        for name in self.names:
            self.remove(name)
        own_forward = self._attached.own_forward
        del self._attached
        linear: nn.Linear = self
        linear.__class__ = self._origin  # type: ignore[assignment]
        if own_forward is not None:
            linear.forward = own_forward  # type: ignore[method-assign]
        return linear

    def _was_changed(self) -> str:
        now = (
            "has a forward of its own"
            if "forward" in self.__dict__
            else f"is a {type(self).__name__}"
        )
        return (
            f"{self.path}: the layer {now} since adapters were attached: "
            "undo that, and attach adapters after it"
        )

    @property
    def path(self) -> str:
        return self._attached.path

    @property
    def scales(self) -> dict[str, float]:
        return self._attached.scales

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._attached.scales)

    def has_any(self, names: Iterable[str]) -> bool:
        """Whether one of these adapters is attached here."""
        return any(name in self.scales for name in names)

    @property
    def folded(self) -> bool:
        return self._attached.folded is not None

    @property
    def d_in(self) -> int:
        return linear_shape(self)[1]

    @property
    def d_out(self) -> int:
        return linear_shape(self)[0]

    # ---- adapters

    def add(self, name: str, A: Tensor, B: Tensor, scale: float) -> None:
        """Register copies of A (r, d_in) and B (d_out, r), not trained until somebody asks for it.

        Raises ValueError for a name that is taken or has other characters than letters, digits, _
        and -, and for factors that do not fit the layer.
        """
        if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
            raise ValueError(f"an adapter cannot be named {name!r}: use letters, digits, _ and -")
        if name in self.scales:
            raise ValueError(
                f"{self.path}: an adapter {name!r} is attached already: "
                "remove it first or choose another name"
            )
        if A.shape[1] != self.d_in or B.shape[0] != self.d_out:
            raise ValueError(
                f"{self.path}: the layer maps {self.d_in} to {self.d_out}, "
                f"adapter {name!r} maps {A.shape[1]} to {B.shape[0]}: it was made for another model"
            )
        device = next(chain(self.parameters(), self.buffers())).device
        with torch.inference_mode(False):  # a parameter from inference mode could not be trained
            for letter, factor in (("A", A), ("B", B)):
                copied = factor.detach().to(device, copy=True)
                parameter = nn.Parameter(copied, requires_grad=False)
                self.register_parameter(f"lora_{letter}_{name}", parameter)
        self.scales[name] = float(scale)

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises KeyError for an unknown name, RuntimeError while folded."""
        self.factors(name)
        if self._attached.folded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight: unfold before removing {name!r}"
            )
        del self.scales[name]
        delattr(self, f"lora_A_{name}")
        delattr(self, f"lora_B_{name}")
        self._changed()

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(A (r, d_in), B (d_out, r)) of an adapter: parameters, but plain tensors in a replica of
        nn.DataParallel. Raises KeyError for an unknown name."""
        if name not in self.scales:
            raise KeyError(
                f"{self.path}: no adapter {name!r}, there are {', '.join(self.names) or 'none'}"
            )
        # Past nn.Module.__getattr__, which is slow: decoding asks for factors thousands of times.
        here: Mapping[str, Any] = self._parameters
        if f"lora_A_{name}" not in here:
            here = self.__dict__
        return here[f"lora_A_{name}"], here[f"lora_B_{name}"]

    def _replicate_for_data_parallel(self) -> LoRALinear:
        """A replica keeps the mode of its forward pass, whatever is set on the layer afterwards."""
        replica = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica._attached = replace(self._attached, since=0)
        return replica

    # ---- the mode

    @property
    def mode(self) -> Mode:
        return self._attached.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._attached.mode = mode
        self._changed()

    @property
    def since(self) -> int:
        return self._attached.since

    def restore(self, mode: Mode, since: int) -> None:
        """Set a mode back. In a backward pass nothing has changed then for what was before."""
        self.mode = mode
        if replay.in_backward():
            self._attached.since = since

    def _changed(self) -> None:
        self._attached.since = replay.now()

    def _acting(self) -> Mode:
        """The mode in force, None where no adapter of this layer acts beside the weight.

        Raises RuntimeError where backward asks for a forward pass of another mode.
        """
        attached = self._attached
        replay.check(attached.path, attached.since)
        if attached.folded is not None:
            return None if attached.before_fold is not None else attached.folded
        return attached.mode

    # ---- the weight

    def _bare(self) -> nn.Linear:
        """The layer as its own class sees it: another object over the same attributes."""
        bare = object.__new__(self._origin)
        bare.__dict__ = self.__dict__
        return bare

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        weight, mode = self._bare().weight, self._acting()
        if mode is None or not self.has_any(mode.names) or self in _running.get():
            return weight
        if hasattr(weight, "full_tensor"):  # a DTensor: FSDP takes its own parameters from here
            return weight
        if torch.compiler.is_compiling():
            return self._merged(weight, mode)
        return ReadWeight.of(weight, lambda: self._merged(weight, mode))

    @weight.setter
    def weight(self, value: Any) -> None:  # parametrisations and replicas set tensors
        self._bare().weight = value

    @weight.deleter
    def weight(self) -> None:
        del self._bare().weight

    @property
    def unfolded_weight(self) -> Tensor:
        """The weight without adapters, also while they are folded into it."""
        before = self._attached.before_fold
        return self._bare().weight if before is None else before

    def _merged(self, weight: Tensor, mode: Mode) -> Tensor:
        """W + sum_i w_i s_i B_i A_i, in the weight's own precision."""
        if not isinstance(mode, Mix):
            raise ValueError(
                f"{self.path}: the model reads this layer's weight and does not call the layer: "
                f"adapters act there as a Mix, not as {type(mode).__name__}"
            )
        if not weight.is_floating_point() or tuple(weight.shape) != (self.d_out, self.d_in):
            raise ValueError(
                f"{self.path}: the model reads this layer's weight, a {type(weight).__name__} of "
                f"{weight.dtype} and {tuple(weight.shape)}, to which no update can be added"
            )
        for name in (name for name in mode.names if name in self.scales):
            A, B = self.factors(name)
            dtype = torch.promote_types(A.dtype, B.dtype)
            update = mode.weights[name] * self.scales[name] * (B.to(dtype) @ A.to(dtype))
            weight = weight + update.to(weight.dtype)
        return weight

    def fold(self, weights: Mapping[str, float]) -> None:
        """Put W + sum_i w_i s_i B_i A_i, in W's own precision, in the place of W.

        W itself is not written to. A layer with a forward of its own or without an ordinary weight
        gets the same sum as a `Mix`. Raises RuntimeError where adapters are folded already.
        """
        attached = self._attached
        if attached.folded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight already: unfold first"
            )
        mode = Mix(dict(weights))
        weight = self._parameters.get("weight")
        foldable = self._plain() is not None and self.has_any(weights)
        if foldable and weight is not None:
            with torch.inference_mode(False), torch.no_grad():
                folded = nn.Parameter(self._merged(weight, mode), requires_grad=False)
            attached.before_fold, self._parameters["weight"] = weight, folded
        attached.folded = mode
        self._changed()

    def unfold(self) -> None:
        """Put W back: the very parameter that it was. Raises RuntimeError where none is folded."""
        attached = self._attached
        if attached.folded is None:
            raise RuntimeError(f"{self.path}: no adapter is folded into the weight")
        if attached.before_fold is not None:
            here, before = self._parameters["weight"], attached.before_fold
            if here is not None and (here.device, here.dtype) != (before.device, before.dtype):
                before.data = before.data.to(here.device, here.dtype)  # the model was moved
            self._parameters["weight"] = before
        attached.folded = attached.before_fold = None
        self._changed()

    # ---- the forward pass

    def _plain(self) -> Tensor | None:
        """The weight where the layer is an nn.Linear and no more, with an ordinary weight: one
        product gives the layer and its adapters."""
        if self._origin not in _PLAIN or self._attached.own_forward is not None:
            return None
        return plain_weight(self)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        mode, weight = self._acting(), self._plain()
        if weight is None:
            product = None if mode is None else product_of(self, _first(inputs, named), mode)
            return self._beside_own_forward(product, inputs, named)
        x, bias = _first(inputs, named), self.bias
        if mode is None:
            return F.linear(x, weight, bias)
        kept = current(x, weight)
        on_weight = (
            product_of(self, x, mode) if kept is None else kept.product_of(self, x, mode, weight)
        )
        if on_weight is None:
            return F.linear(x, weight, bias)
        return on_weight.on_weight(x, weight, bias)

    def _beside_own_forward(self, product: Product | None, inputs: Any, named: Any) -> Any:
        if type(self) is not _adapted(self._origin):
            raise ValueError(self._was_changed())
        token = _running.set((*_running.get(), self))
        try:
            if (own_forward := self._attached.own_forward) is not None:
                y = own_forward(*inputs, **named)
            else:
                y = self._origin.forward(self._bare(), *inputs, **named)
        finally:
            _running.reset(token)
        if product is None:
            return y
        x = _first(inputs, named)
        expected = (*x.shape[:-1], self.d_out)
        if not isinstance(y, Tensor) or y.shape != expected:
            raise ValueError(
                f"{self.path}: a {self._origin.__name__} gives {_shape(y)}, and adapters can be "
                f"added to {expected} only: leave this layer out"
            )
        return y + product.alone(x).to(y.dtype)

    steady = staticmethod(steady)  # decoding asks for it, as for whole_batch

    @property
    def whole_batch(self) -> bool:
        """Whether the layer tells rows apart by their place in the batch: none may leave it."""
        return isinstance(self.mode, Rows)

    @property
    def varies(self) -> bool:
        """Whether a pass does more than its input says: its gates are drawn, or looked at."""
        router = self.mode.routers.get(self.path) if isinstance(self.mode, Gated) else None
        return hasattr(router, "generator") or getattr(router, "seen", None) is not None

    def extra_repr(self) -> str:
        names = ", ".join(self.names) or "none"
        return f"{self._bare().extra_repr()}, adapters: {names}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is LoRALinear:
            return super().__reduce_ex__(protocol)
        return _empty, (self._origin,), self.__dict__


def _adapted(origin: type[nn.Linear]) -> type[LoRALinear]:
    """LoRALinear over another class of linear layers, the same one each time."""
    if origin is nn.Linear:
        return LoRALinear
    over = _over.get(origin)
    if over is None:
        own = {"_origin": origin, "__module__": __name__}
        over = _over[origin] = type(f"LoRA{origin.__name__}", (LoRALinear, origin), own)
    return over


_over: WeakValueDictionary[type[nn.Linear], type[LoRALinear]] = WeakValueDictionary()


def _empty(origin: type[nn.Linear]) -> LoRALinear:
    cls = _adapted(origin)
    return cls.__new__(cls)


def _first(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    return inputs[0] if inputs else next(iter(named.values()))


def _shape(y: Any) -> str:
    return f"a tensor {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"

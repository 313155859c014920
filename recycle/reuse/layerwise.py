"""A merge as a value: a function of adapters with a name, a formula, a source and options."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lora import Adapter, common_base
from recycle.reuse.core import Factors, Layer, checked, layers
from recycle.reuse.learning import Lesson


class Merge:
    """adapters -> one adapter: ``merge(adapters, **options)``.

    A random merge takes a ``generator`` besides its options, and draws from it layer by layer and
    adapter by adapter. One that learns takes a ``lesson``. The adapter's ``origin`` holds the
    merge's name, formula and options, the texts that it learned from, and the origins of the parts.

    Raises ValueError for an option that the merge does not have, for a random merge without a
    generator, for one that learns without a lesson, and as `checked` and the merge itself do.
    """

    def __init__(self, function: Callable[..., Adapter], formula: str, source: str):
        self.function, self.formula, self.source = function, formula, source
        self.name, self.__doc__ = function.__name__, function.__doc__
        keywords = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        self.random = any(parameter.name == "generator" for parameter in keywords)
        self.learns = any(parameter.name == "lesson" for parameter in keywords)
        self.options: Mapping[str, Any] = {
            parameter.name: parameter.default
            for parameter in keywords
            if parameter.name not in ("generator", "lesson")
        }

    def __call__(
        self,
        adapters: Sequence[Adapter],
        generator: torch.Generator | None = None,
        lesson: Lesson | None = None,
        **options: Any,
    ) -> Adapter:
        for name in options:
            if name not in self.options:
                raise ValueError(
                    f"{self.name} has no option {name!r}: choose from "
                    f"{', '.join(self.options) or 'none'}"
                )
        given: dict[str, Any] = {"generator": generator} if self.random else {}
        if self.random and generator is None:
            raise ValueError(f"{self.name} is random: give it a generator")
        if self.learns:
            if lesson is None:
                raise ValueError(f"{self.name} learns from examples: give it some")
            given["lesson"] = lesson
        merged = self.function(checked(adapters), **given, **options)
        said = lesson.texts if self.learns and lesson is not None else ()
        record = {
            "merge": self.name,
            "formula": self.formula,
            "options": {**self.options, **options},
            **merged.origin,
            **({"examples": [list(each) for each in said]} if said else {}),
            "of": [dict(adapter.origin) for adapter in adapters],
        }
        return replace(merged, base=common_base(adapters), origin=record)


def merge(formula: str, source: str) -> Callable[[Callable[..., Adapter]], Merge]:
    """Makes a `Merge` of a function of adapters. Its keyword-only parameters are the options."""
    return lambda function: Merge(function, formula, source)


def by_layer(formula: str, source: str) -> Callable[[Callable[..., Factors]], Merge]:
    """Makes a `Merge` of a function of one `Layer`. No more than one layer is at work at a time."""

    def lift(of_layer: Callable[..., Factors]) -> Merge:
        def merged(adapters: Sequence[Adapter], **options: Any) -> Adapter:
            factors = {}
            for layer in layers(adapters):
                A, B = of_layer(layer, **options)
                factors[layer.path] = as_stored(A, B, layer)
            return Adapter.unscaled(factors)

        merged.__name__, merged.__doc__ = of_layer.__name__, of_layer.__doc__
        merged.__signature__ = inspect.signature(of_layer)  # type: ignore[attr-defined]
        return Merge(merged, formula, source)

    return lift


def as_stored(A: torch.Tensor, B: torch.Tensor, layer: Layer) -> Factors:
    """The factors in the type of the layer's own ones. An update of rank 0 gets a zero of rank 1,
    because an adapter has no rank 0. Raises ValueError where they do not fit into the type."""
    if len(A) == 0:
        A, B = A.new_zeros(1, A.shape[1]), B.new_zeros(len(B), 1)
    A, B = A.to(layer.dtype), B.to(layer.dtype)
    if not bool(A.isfinite().all() and B.isfinite().all()):
        raise ValueError(
            f"{layer.path}: the merged factors are too large for {layer.dtype}: convert the "
            "adapters to a wider type first"
        )
    return A, B


def check_share(name: str, value: float) -> None:
    """Raises ValueError for a share that is not above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"{name} = {value}: choose a share above 0 and up to 1, as in {name}=0.2")


def check_count(name: str, value: int, most: int, of_what: str) -> None:
    """Raises ValueError for a count outside 1 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} = {value}: there are {most} {of_what}, choose from 1 to {most}")


def check_weight(name: str, value: float) -> None:
    """Raises ValueError for a weight that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} = {value}: it must be a finite number")

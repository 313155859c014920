"""Measures which way computes an adapted layer fastest here (lora.ways lists them).

    table = tune(model, tokens=2048)    of the adapters that are attached, for steps of 2048 tokens
    use_ways(table)                     later, in another process: the same choice, not measured

A class of shapes takes a second or so, once. Every way is compared with float64 first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from statistics import median

import torch
from torch import Tensor, nn

from lora.attach import lora_layers
from lora.kernel import FUNCTIONS
from lora.ways import FEWEST, LIBRARIES, Shape, one_dnn_is_exact, use_ways, usual, ways_in_use

SCALE = 2.0
BOUND = 2e-6  # relative Frobenius error against float64 of y, dx, dA and dB
MOST_TOKENS = 2048  # of more tokens, so many are measured
MARGIN = 0.98  # a way replaces the cost rule's where it takes at most this share of its time
LOSING = 1.25  # a way whose first round took so many times the best one's runs no second round
SECONDS, ROUNDS = 1.0, (5, 40)  # of the later rounds of a class, and how many there may be

Outputs = tuple[Tensor, ...]  # y, dx, dA, dB


def tune(model: nn.Module, tokens: int) -> dict[str, str]:
    """Measure the ways of this model's adapted layers for steps of so many tokens, and take the
    fastest ones from now on in this process. Returns the table in force, {class of shape: way}.

    Classes that the table in force has already are not measured again. Raises ValueError where no
    adapter is attached.
    """
    shapes = [
        Shape(tokens, layer.d_in, layer.d_out, len(layer.factors(name)[0]))
        for layer in lora_layers(model).values()
        for name in layer.names
    ]
    if not shapes:
        raise ValueError("the model has no adapter attached: attach one first, then tune")
    known = ways_in_use()
    return use_ways({**known, **measure_ways(shapes, known)})


def measure_ways(shapes: Iterable[Shape], known: Collection[str] = ()) -> dict[str, str]:
    """{class of shape: the fastest way}, for every class that is not ``known``, by the first of its
    shapes. Classes of few tokens have no choice and are left out."""
    table: dict[str, str] = {}
    with torch.inference_mode(False), torch.enable_grad():
        for shape in shapes:
            if shape.tokens >= FEWEST and shape.kind not in (*known, *table):
                table[shape.kind] = fastest(shape)
    return table


def offered(shape: Shape) -> list[str]:
    """The ways that may compute a shape on this processor, the cost rule's first."""
    first = usual(shape)
    left_out = {first} if one_dnn_is_exact() else {first, LIBRARIES}
    return [first, *(way for way in FUNCTIONS if way not in left_out)]


def fastest(shape: Shape) -> str:
    """The way that takes the least time for forward plus backward, or the cost rule's where none is
    clearly faster. A way that is off by more than BOUND is out."""
    shape = shape._replace(tokens=min(shape.tokens, MOST_TOKENS))
    x, W, A, B, dy = _draw(shape)
    exact = _in_float64(x, W, A, B, dy)

    def step_of(way: str) -> Callable[[], Outputs]:
        def step() -> Outputs:
            y = FUNCTIONS[way].apply(x, W, None, A, B, SCALE)
            return y, *torch.autograd.grad(y, (x, A, B), dy)

        return step

    steps = {way: step_of(way) for way in offered(shape)}
    first = next(iter(steps))
    # The comparison warms up caches and threads too.
    steps = {way: step for way, step in steps.items() if way == first or _is_exact(step(), exact)}
    once = {way: _seconds(step) for way, step in steps.items()}
    best = min(once.values())
    steps = {way: step for way, step in steps.items() if once[way] <= LOSING * best}
    rounds = int(SECONDS / sum(once[way] for way in steps))
    seconds = {way: [once[way]] for way in steps}
    for _ in range(max(ROUNDS[0], min(ROUNDS[1], rounds))):
        for way, step in steps.items():
            seconds[way].append(_seconds(step))
    # A step of a study finds the cache as the layers beside it left it, so the least time is no
    # measure of what it takes.
    typical = {way: median(each) for way, each in seconds.items()}
    winner = min(typical, key=lambda way: typical[way])
    return winner if first not in typical or typical[winner] <= MARGIN * typical[first] else first


def _draw(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, W, A, B, dy of a shape: seeded, B not zero; x, A and B ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    tokens, k, n, r, K = shape
    many = (K,) if K else ()

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(size, generator=generator, dtype=torch.float32)

    x, dy, W = draw(*many, tokens, k), draw(*many, tokens, n), draw(n, k, scale=k**-0.5)
    A, B = draw(*many, r, k, scale=k**-0.5), draw(*many, n, r)
    return x.requires_grad_(), W, A.requires_grad_(), B.requires_grad_(), dy


def _in_float64(x: Tensor, W: Tensor, A: Tensor, B: Tensor, dy: Tensor) -> Outputs:
    x, W, A, B, dy = (tensor.detach().double() for tensor in (x, W, A, B, dy))
    whole = W + SCALE * B @ A
    return x @ whole.mT, dy @ whole, SCALE * (dy @ B).mT @ x, SCALE * ((x @ A.mT).mT @ dy).mT


def _is_exact(outputs: Outputs, exact: Outputs) -> bool:
    errors = ((a.double() - b).norm() / b.norm() for a, b in zip(outputs, exact, strict=True))
    return all(error.item() <= BOUND for error in errors)


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started

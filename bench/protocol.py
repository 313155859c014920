"""How an arm is checked and timed: right before fast, all arms interleaved, ratios within a round.

A round runs every arm once, in an order that rotates, and an arm's ratio is the median over the
rounds of its time over the frozen layer's in the same round: whatever slows the machine for a while
slows both. The frozen layer runs twice under two names; how far the second is from 1 is the noise
floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 5e-3}  # relative Frobenius norm against float64
FROZEN, AGAIN = "frozen", "frozen again"


class WrongResult(RuntimeError):
    """An arm computes something else than the formula: its time says nothing."""


@dataclass
class Arm:
    """One way of computing a case.

    ``step()`` runs forward and backward and returns y. ``leaves`` are what it differentiates, by
    the reference's names; several tensors under one name are one for each adapter or part. None of
    a case's values are checked where ``checked`` is False: the arm computes another function, as
    the frozen layer does.
    """

    step: Callable[[], Tensor]
    leaves: dict[str, list[Tensor]]
    checked: bool = True


@dataclass
class Case:
    """What is computed, by which arms, and what is expected of ours."""

    group: str
    name: str
    arms: dict[str, Arm]
    expected: dict[
        str, Tensor
    ]  # y and gradients in float64, gradients of adapters as (N, rows, columns)
    dtype: torch.dtype
    floor: float
    shape: dict[str, int]
    must: float | None = None
    aim: float | None = None
    given: list[Tensor] = field(
        default_factory=list
    )  # frozen weights: kept for backward by all arms, and not counted


def flop_floor(k: int, n: int, rank: int) -> float:
    """(4 M k n + 6 M R (k + n)) / (4 M k n): two products of the frozen layer, six narrow ones of
    the adapter."""
    return 1 + 1.5 * rank * (k + n) / (k * n)


def recovered(naive: float, ours: float, floor: float) -> float:
    """The share of naive's avoidable overhead that ours avoids."""
    return (naive - ours) / (naive - floor)


def clear(arm: Arm) -> None:
    for tensors in arm.leaves.values():
        for tensor in tensors:
            tensor.grad = None


def joined(name: str, gradients: Sequence[Tensor], adapters: int) -> Tensor:
    """A gradient in the reference's shape, whichever way an arm keeps its parameters: A (N, r, k),
    B (N, n, r)."""
    if len(gradients) > 1:
        return (
            torch.cat(list(gradients)) if name in ("x", "gates") else torch.stack(list(gradients))
        )
    (one,) = gradients
    if name == "A" and one.dim() == 2:
        return one.view(adapters, -1, one.shape[-1])
    if name == "B" and one.dim() == 2:
        return one.view(one.shape[0], adapters, -1).transpose(0, 1)
    return one


def check(case: Case) -> dict[str, float]:
    """The worst relative error of each checked arm; raises WrongResult where one is above its
    precision's bound."""
    worst: dict[str, float] = {}
    for name, arm in case.arms.items():
        if not arm.checked:
            continue
        clear(arm)
        values = {"y": arm.step().detach()}
        for leaf, tensors in arm.leaves.items():
            if leaf in case.expected:
                values[leaf] = joined(leaf, [t.grad for t in tensors], case.expected[leaf].shape[0])
        for what, value in values.items():
            expected = case.expected[what].to(value.device)
            error = ((value.double() - expected.view(value.shape)).norm() / expected.norm()).item()
            if not error <= BOUNDS[case.dtype]:
                label = what if what == "y" else f"d{what}"
                raise WrongResult(
                    f"{case.group}, {case.name}: {label} of the arm {name!r} is off by {error:.1e} (relative), "
                    f"allowed {BOUNDS[case.dtype]:.0e}: nothing was timed"
                )
            worst[name] = max(worst.get(name, 0.0), error)
        clear(arm)
    return worst


def saved_bytes(arm: Arm, given: Sequence[Tensor] = ()) -> int:
    """Bytes kept between forward and backward beside the input and the parameters, each storage
    once."""
    leaves = [t for name, tensors in arm.leaves.items() if name != "gates" for t in tensors]
    own = {t.untyped_storage().data_ptr() for t in (*leaves, *given)}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        arm.step()
    clear(arm)
    return sum(size for size, _ in kept.values())


class Clock:
    """Seconds of one call. On CUDA: events around it, behind a write of twice the L2 cache, so
    inputs come from memory and the launches of a short step are in the queue before it starts."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        if self.cuda:
            self.scratch = torch.empty(256 * 2**20, dtype=torch.float32, device="cuda")

    def __call__(self, run: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.scratch.zero_()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1000


@dataclass(frozen=True)
class Timing:
    """Seconds, and the ratio to the reference arm within a round: its median and half of its
    interquartile range."""

    seconds: float
    ratio: float
    spread: float


def race(
    steps: dict[str, Callable[[], object]],
    clear_all: Callable[[], None],
    reference: str,
    clock: Clock,
    budget: float,
) -> dict[str, Timing]:
    """Run every step once a round for about ``budget`` seconds, at least 5 rounds and at most
    100."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds, turn = 5, -1
    while turn < rounds:
        started = time.perf_counter()
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            clear_all()
            seconds = clock(steps[name])
            if turn >= 0:  # the first round warms up caches, threads and allocators
                times[name].append(seconds)
        if turn < 1:
            rounds = max(5, min(100, int(budget / (time.perf_counter() - started))))
        turn += 1
    timings = {}
    for name in names:
        ratios = [t / r for t, r in zip(times[name], times[reference], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        spread = (quartiles[2] - quartiles[0]) / 2
        timings[name] = Timing(statistics.median(times[name]), statistics.median(ratios), spread)
    return timings


def measure(case: Case, device: str, budget: float) -> list[dict]:
    """Check, then time: one row for each arm."""
    errors = check(case)
    saved = {name: saved_bytes(arm, case.given) for name, arm in case.arms.items()}

    def clear_all() -> None:
        for arm in case.arms.values():
            clear(arm)

    timings = race(
        {n: a.step for n, a in case.arms.items()}, clear_all, FROZEN, Clock(device), budget
    )
    rows = []
    for name, timing in timings.items():
        rows.append(
            {
                "group": case.group,
                "case": case.name,
                **case.shape,
                "dtype": str(case.dtype)[6:],
                "arm": name,
                "ms": round(timing.seconds * 1e3, 3),
                "ratio": round(timing.ratio, 3),
                "spread": round(timing.spread, 3),
                "floor": round(case.floor, 3),
                "saved MiB": round(saved[name] / 2**20, 3),
                "error": errors.get(name),
                "must": case.must if name == "ours" else None,
                "aim": case.aim if name == "ours" else None,
            }
        )
    return rows

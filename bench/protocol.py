"""How an arm is checked and timed: right before fast, all arms interleaved, ratios within a round.

A round runs every arm once, in an order drawn anew: an arm that always ran after the same other one
would find the cache and the allocator as that one left them. An arm's ratio is the median over the
rounds of its time over the frozen layer's time in the same round, because whatever slows the
machine for a while slows both. The frozen layer runs twice under two names; the distance of the
second from 1 is the noise floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 5e-3}  # relative Frobenius norm against float64
FROZEN, AGAIN, FULL = "frozen", "frozen again", "full fine-tuning"
OWN_FLOORS = {FROZEN: 1.0, AGAIN: 1.0, FULL: 1.5}  # of arms that compute something else
LEAST_ROUNDS, MOST_ROUNDS = 3, 100

Row = dict[str, Any]  # one arm of one case: plain JSON


class WrongResult(RuntimeError):
    """An arm computes something else than the formula, so its time says nothing."""


@dataclass
class Arm:
    """One way of computing a case.

    ``step()`` runs forward and backward and returns y. ``leaves`` are the tensors that it
    differentiates, by the reference's names; several tensors under one name belong to the adapters
    or parts in turn. An arm with ``checked`` False computes another function, as the frozen layer
    does, so none of its values is compared.
    """

    step: Callable[[], Tensor]
    leaves: dict[str, list[Tensor]]
    checked: bool = True


@dataclass
class Case:
    """One computation, its arms, and the values that they must give.

    ``expected`` holds y and the gradients in float64; gradients of adapters have the shape (N,
    rows, columns). ``given`` are frozen weights, which all arms keep for backward and which are not
    counted.
    """

    group: str
    name: str
    arms: dict[str, Arm]
    expected: dict[str, Tensor]
    dtype: torch.dtype
    floor: float
    shape: dict[str, int]
    given: list[Tensor] = field(default_factory=list)


def flop_floor(k: int, n: int, rank: int) -> float:
    """(4 M k n + 6 M R (k + n)) / (4 M k n): the frozen layer has two products, the adapter six
    narrow ones."""
    return 1 + 1.5 * rank * (k + n) / (k * n)


def distance(row: Row) -> float:
    """How many times its own floor a row took: the time that its products would take at the speed
    that the frozen layer's products had in the same rounds."""
    return row["ratio"] / OWN_FLOORS.get(row["arm"], row["floor"])


def product_speed(frozen: Row) -> float:
    """GF/s of the two products of a frozen layer's row, forward and dx: 4 M k n operations."""
    return 4 * frozen["M"] * frozen["k"] * frozen["n"] / frozen["ms"] / 1e6


def recovered(naive: float, ours: float, floor: float) -> float:
    """The share of naive's avoidable overhead that ours avoids."""
    return (naive - ours) / (naive - floor)


def clear(arm: Arm) -> None:
    for tensors in arm.leaves.values():
        for tensor in tensors:
            tensor.grad = None


def joined(name: str, gradients: Sequence[Tensor], adapters: int) -> Tensor:
    """A gradient in the reference's shape, A (N, r, k) or B (N, n, r), whichever way an arm keeps
    its parameters."""
    if len(gradients) > 1:
        put_together = torch.cat if name in ("x", "gates") else torch.stack
        return put_together(list(gradients))
    (one,) = gradients
    if name == "A" and one.dim() == 2:
        return one.view(adapters, -1, one.shape[-1])
    if name == "B" and one.dim() == 2:
        return one.view(one.shape[0], adapters, -1).transpose(0, 1)
    return one


def check(case: Case) -> dict[str, float]:
    """The worst relative error of each checked arm.

    Raises WrongResult where an error is above the bound of the case's precision.
    """
    worst: dict[str, float] = {}
    for name, arm in case.arms.items():
        if not arm.checked:
            continue
        clear(arm)
        values = {"y": arm.step().detach()}
        for leaf, tensors in arm.leaves.items():
            if leaf in case.expected:
                gradients = [t.grad for t in tensors if t.grad is not None]
                values[leaf] = joined(leaf, gradients, case.expected[leaf].shape[0])
        for what, value in values.items():
            expected = case.expected[what].to(value.device)
            error = ((value.double() - expected.view(value.shape)).norm() / expected.norm()).item()
            if not error <= BOUNDS[case.dtype]:
                label = what if what == "y" else f"d{what}"
                raise WrongResult(
                    f"{case.group}, {case.name}: {label} of the arm {name!r} is off by "
                    f"{error:.1e} (relative), allowed {BOUNDS[case.dtype]:.0e}: nothing was timed"
                )
            worst[name] = max(worst.get(name, 0.0), error)
        clear(arm)
    return worst


def saved_bytes(arm: Arm, given: Sequence[Tensor] = ()) -> int:
    """Bytes kept between forward and backward beside the input and the parameters. Each storage
    counts once."""
    leaves = [t for name, tensors in arm.leaves.items() if name != "gates" for t in tensors]
    own = {t.untyped_storage().data_ptr() for t in (*leaves, *given)}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in own:
            # The tensor is held, so that no address comes twice.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        arm.step()
    clear(arm)
    return sum(size for size, _ in kept.values())


class Clock:
    """Measures the seconds of one call.

    On CUDA there are events around the call, after a write of more than the L2 cache: inputs then
    come from memory, and the launches of a short step are in the queue before it starts.
    """

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        if self.cuda:
            self.scratch = torch.empty(256 * 2**20, dtype=torch.float32, device="cuda")

    def __call__(self, run: Callable[[], object]) -> float:
        if not self.cuda:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.scratch.zero_()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1000


@dataclass(frozen=True)
class Timing:
    """The median of an arm's seconds, the median of its ratio to the reference arm of the same
    round, and half of that ratio's interquartile range."""

    seconds: float
    ratio: float
    spread: float


def race(
    steps: Mapping[str, Callable[[], object]],
    clear_all: Callable[[], None],
    reference: str,
    clock: Clock,
    budget: float,
) -> dict[str, Timing]:
    """Run every step once a round, for about ``budget`` seconds: LEAST_ROUNDS to MOST_ROUNDS."""
    names, draw = list(steps), Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds, turn = LEAST_ROUNDS, -1
    while turn < rounds:
        started = time.perf_counter()
        for name in draw.sample(names, len(names)):
            clear_all()
            seconds = clock(steps[name])
            if turn >= 0:  # the first round warms up caches, threads and allocators
                times[name].append(seconds)
        if turn < 1:
            rounds = int(budget / (time.perf_counter() - started))
            rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, rounds))
        turn += 1
    timings = {}
    for name in names:
        ratios = [t / r for t, r in zip(times[name], times[reference], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        spread = (quartiles[2] - quartiles[0]) / 2
        timings[name] = Timing(statistics.median(times[name]), statistics.median(ratios), spread)
    return timings


def seconds_of(arm: Arm) -> float:
    """Seconds of a first step, which compiles. A later step's are next to nothing beside them."""
    started = time.perf_counter()
    arm.step()
    clear(arm)
    return time.perf_counter() - started


def peak_bytes(arm: Arm) -> int:
    """The most that a step had allocated on the CUDA device beyond what stood there before it."""
    clear(arm)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    arm.step()
    torch.cuda.synchronize()
    clear(arm)
    return torch.cuda.max_memory_allocated() - before


def measure(case: Case, device: str, budget: float) -> list[Row]:
    """Check all arms, then time them. Returns a row for each arm.

    Raises WrongResult where an arm is wrong; nothing is timed then.
    """
    compiling = {name: seconds_of(arm) for name, arm in case.arms.items() if "compiled" in name}
    errors = check(case)
    saved = {name: saved_bytes(arm, case.given) for name, arm in case.arms.items()}

    def clear_all() -> None:
        for arm in case.arms.values():
            clear(arm)

    peaks = {name: peak_bytes(arm) for name, arm in case.arms.items()} if device == "cuda" else {}
    steps = {name: arm.step for name, arm in case.arms.items()}
    timings = race(steps, clear_all, FROZEN, Clock(device), budget)
    return [
        {
            "group": case.group,
            "case": case.name,
            **case.shape,
            "dtype": dtype_name(case.dtype),
            "arm": name,
            "ms": round(timing.seconds * 1e3, 3),
            "ratio": round(timing.ratio, 3),
            "spread": round(timing.spread, 3),
            "floor": round(case.floor, 3),
            "saved MiB": round(saved[name] / 2**20, 3),
            "error": errors.get(name),
            **({"peak MiB": round(peaks[name] / 2**20, 3)} if name in peaks else {}),
            **({"compile s": round(compiling[name], 1)} if name in compiling else {}),
        }
        for name, timing in timings.items()
    ]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).rpartition(".")[2]

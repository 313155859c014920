"""Many adapters on one model: how long it takes to attach and to detach them, and what a mix costs
beside one adapter of its summed rank."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor

from bench.protocol import Clock, Row, race
from bench.steps import agree, random_adapter, random_tokens, result, set_mode, trained
from lora import Adapter, Mix, attach, combine, detach, extract, train_only
from models import Transformer

MIXED = 8  # adapters of a mix


def attaching(
    base: Transformer, adapter: Adapter, count: int, device: str, budget: float
) -> list[Row]:
    """Attach ``count`` adapters in one call and one by one; read and train one of so many. They are
    taken off again outside the clock, and the base has no name to compute."""
    models = {name: copy.deepcopy(base) for name in ("one call", "one by one", "full")}
    adapters = {f"a{i}": adapter for i in range(count)}
    attach(models["full"], adapters)

    def one_by_one() -> None:
        for name, one in adapters.items():
            attach(models["one by one"], {name: one})

    steps: dict[str, Callable[[], object]] = {
        "attached in one call": lambda: attach(models["one call"], adapters),
        "attached one by one": one_by_one,
        "one extracted": lambda: extract(models["full"], "a0", adapter),
        "one trained": lambda: train_only(models["full"], ["a0"]),
    }

    def take_off() -> None:
        for name in ("one call", "one by one"):
            detach(models[name])

    timings = race(steps, take_off, "attached in one call", Clock(device), budget)
    case = f"{count} adapters on {len(adapter.paths)} layers"
    rows = result("attaching", case, timings, count)
    return [{key: value for key, value in row.items() if key != "tokens/s"} for row in rows]


def mixing(
    base: Transformer, rows: int, length: int, attached: int, device: str, budget: float
) -> list[Row]:
    """Forward and backward of a mix of MIXED adapters, of one adapter of their summed rank, and of
    the same mix where ``attached`` adapters are attached."""
    adapters = {f"a{i}": random_adapter(base, i) for i in range(MIXED)}
    one = combine(list(adapters.values()), [1 / MIXED] * MIXED)
    idle = {f"idle{i}": adapters["a0"] for i in range(attached - MIXED)}
    mix = Mix(dict.fromkeys(adapters, 1 / MIXED))
    models = {
        "one of the summed rank": _in_mode(base, {"one": one}, Mix({"one": 1.0})),
        "ours": _in_mode(base, adapters, mix),
        "ours again": _in_mode(base, adapters, mix),
        f"ours, {attached} attached": _in_mode(base, adapters | idle, mix),
    }
    tokens = random_tokens(rows, length).to(device)
    values = {arm: _step(model, tokens)() for arm, model in models.items()}
    for arm, value in values.items():
        agree("mixing", arm, value, values["ours"])
    steps = {arm: _step(model, tokens) for arm, model in models.items()}
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result("mixing", f"{MIXED} adapters, {rows} x {length}", timings, rows * length)


def _in_mode(base: Transformer, adapters: Mapping[str, Adapter], mode: Mix) -> Transformer:
    model = copy.deepcopy(base)
    attach(model, adapters)
    train_only(model, mode.names)
    set_mode(model, mode)
    return model


def _step(model: Transformer, tokens: Tensor) -> Callable[[], Tensor]:
    parameters = trained(model)  # once: a thousand idle adapters take 20 ms to look through

    def step() -> Tensor:
        logits: Tensor = model(tokens)
        logits.sum().backward()
        for parameter in parameters:
            parameter.grad = None
        return logits.detach()

    return step

"""The benchmark's judge: wrong arms are not timed, floors and savings are what they say, rounds are
paired."""

from itertools import pairwise, permutations

import pytest
import torch

from bench import cuda, layers, steps
from bench.protocol import (
    FROZEN,
    Arm,
    WrongResult,
    check,
    flop_floor,
    measure,
    race,
    recovered,
    saved_bytes,
)
from lora import kernel
from models import TransformerConfig

MAKERS = {
    "one": lambda: layers.one_adapter(24, 12, 16, 3, torch.float32, "cpu"),
    "gated": lambda: layers.gated(24, 12, 12, 3, 2, torch.float32, "cpu"),
    "together": lambda: layers.together(24, 12, 16, 3, 4, torch.float32, "cpu"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_arm_computes_the_formula(name):
    errors = check(MAKERS[name]())
    assert "ours" in errors and len(errors) >= 2
    assert all(0 < error <= 2e-6 for error in errors.values())


def test_bf16_is_judged_by_its_own_bound():
    assert check(layers.one_adapter(64, 32, 32, 4, torch.bfloat16, "cpu"))["ours"] <= 5e-3


@pytest.mark.parametrize("wrong", ["y", "x", "A", "B", "gates"])
def test_a_wrong_result_is_found_and_named(wrong, monkeypatch):
    """Plant one wrong output at a time in the kernel: forward, or one gradient."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y, x, A, B, gates):
            ctx.shapes = {"x": x.shape, "A": A.shape, "B": B.shape, "gates": gates.shape}
            return y * (1.0001 if wrong == "y" else 1)

        @staticmethod
        def backward(ctx, dy):
            extra = {k: torch.full(s, 1e-3) if k == wrong else None for k, s in ctx.shapes.items()}
            return dy, *extra.values()

    true = kernel.lora_linear
    monkeypatch.setattr(
        kernel,
        "lora_linear",
        lambda x, W, b, A, B, c: Wrong.apply(true(x, W, b, A, B, c), x, A, B, c),
    )
    label = wrong if wrong == "y" else f"d{wrong}"
    with pytest.raises(
        WrongResult,
        match=f"gated, N=2, 12: {label} of the arm 'ours' is off by .*nothing was timed",
    ):
        measure(MAKERS["gated"](), "cpu", 0.0)


def test_nan_is_wrong():
    case = MAKERS["one"]()
    arm = case.arms["ours"]
    case.arms["ours"] = Arm(lambda: arm.step() * torch.nan, arm.leaves)
    with pytest.raises(WrongResult, match="off by nan"):
        check(case)


@pytest.mark.parametrize("M, k, n, rank", [(64, 32, 48, 4), (7, 5, 9, 2)])
def test_the_floor_counts_the_products(M, k, n, rank):
    frozen = 2 * (2 * M * k * n)
    adapter = 2 * M * rank * (k + n)  # forward: h and y
    adapter += 4 * M * rank * (k + n)  # backward: g, dx, dA, dB
    assert flop_floor(k, n, rank) == pytest.approx((frozen + adapter) / frozen)
    assert recovered(1.66, 1.66, 1.09) == 0 and recovered(1.66, 1.09, 1.09) == 1


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    case = MAKERS["gated"]()
    M, n, R, N = 24, 12, 6, 2
    assert saved_bytes(case.arms[FROZEN], case.given) == 0
    assert saved_bytes(case.arms["ours"], case.given) == 4 * (M * R + M * N)  # h and the gates
    assert saved_bytes(case.arms["Arrow's flow"], case.given) >= 4 * M * N * n


def test_rounds_are_interleaved_and_paired_and_every_arm_follows_every_other(monkeypatch):
    monkeypatch.setattr("bench.protocol.LEAST_ROUNDS", 20)
    order, clock = [], iter(range(1, 1000))
    names = ("a", "b", "c")
    timings = race(
        {n: lambda n=n: order.append(n) for n in names},
        lambda: None,
        "a",
        lambda run: (run(), 2.0 * next(clock) if order[-1] == "b" else 1.0)[1],
        budget=0.0,
    )
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 21  # one to warm up, the others count
    assert all(sorted(turn) == list(names) for turn in rounds)
    followed = {pair for turn in rounds for pair in pairwise(turn)}
    assert followed == set(permutations(names, 2))
    assert timings["a"].ratio == 1 and timings["a"].spread == 0 and timings["b"].ratio > 1


def test_whole_steps_agree_and_a_wrong_one_is_named(monkeypatch):
    config = TransformerConfig(width=32, layers=1, heads=2, kv_heads=2, hidden=48, context=16)
    rows = steps.train_many(config, 2, 2, 8, "cpu", 0.0)
    assert {"ours", "stock, one after the other"} <= {row["arm"] for row in rows}
    true = kernel.lora_linear
    monkeypatch.setattr(
        "lora.products.lora_linear", lambda x, W, b, A, B, c: true(x, W, b, A, B, 1.01 * c)
    )
    with pytest.raises(WrongResult, match="training step: the arm .* nothing was timed"):
        steps.train_one(config, 2, 8, "cpu", 0.0)


@pytest.mark.gpu
def test_a_layer_on_cuda_is_right_and_says_its_memory_and_compile_time():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows = {row["arm"]: row for row in measure(cuda.layer((256, 64, 96, 8)), "cuda", 0.0)}
    assert {"ours", "ours, compiled", "naive, compiled"} <= set(rows)
    assert rows["ours"]["error"] <= 5e-3 and all(row["peak MiB"] > 0 for row in rows.values())
    assert rows["ours, compiled"]["compile s"] > 0 and "compile s" not in rows["ours"]

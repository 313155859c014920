"""What a top-1 route of experts does that no merged matrix can."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from theory.adapter import Adapter
from theory.claim import (
    Claim,
    Observation,
    Settings,
    generator,
    mean_and_error,
    normal,
    orthonormal,
)
from theory.pictures import BLUE, compare, means, number_in


def routed(tokens: Tensor, prototypes: Tensor, adapters: Sequence[Adapter]) -> Tensor:
    """Top-1 Arrow: each token goes to the adapter whose prototype v has the largest |x . v|.

    tokens (t, d_in), prototypes (N, d_in) -> (t, d_out).
    """
    choice = (tokens @ prototypes.T).abs().argmax(1)
    outputs = torch.stack([x(tokens) for x in adapters], dim=1)  # (t, N, d_out)
    return outputs[torch.arange(len(tokens)), choice]


def check_route_rank(settings: Settings) -> Iterator[Observation]:
    """N experts on orthogonal input subspaces; each token lies in one subspace. The route is exact
    by construction."""
    rank, dim = 4, 64
    for count in (2, 4, 8):
        for seed in settings.each:
            rng = generator(f"route-rank {count}", seed)
            a, b = (orthonormal(count * rank, dim, rng).reshape(count, rank, dim) for _ in range(2))
            adapters = [Adapter(a[i], b[i].T) for i in range(count)]
            tokens = torch.cat([orthonormal(rank, rank, rng) @ a[i] for i in range(count)])
            wanted = torch.cat([x @ adapters[i].delta.T for i, x in enumerate(tokens.chunk(count))])
            missed = (routed(tokens, a[:, 0], adapters) - wanted).norm() / wanted.norm()
            yield Observation(f"route of {count}", seed, 0.0, float(missed))
            # The tokens are orthonormal, so the best rank-r matrix leaves the tail of the wanted
            # outputs.
            tail = torch.linalg.svdvals(wanted)[rank:].square().sum() / wanted.square().sum()
            case = f"best rank-{rank} adapter for {count} experts"
            yield Observation(case, seed, 1 - 1 / count, float(tail))


def mean_of_largest_square(n: int) -> float:
    """E max_j x_j^2 of n independent standard normals: the integral of 1 - P(x^2 <= t)^n."""
    t = torch.linspace(0, 9, 90_001, dtype=torch.float64)  # x = t; dx^2 = 2 t dt
    tail = (1 - torch.erf(t / math.sqrt(2)) ** n) * 2 * t
    return float(torch.trapezoid(tail, t))


def check_route_nonlinear(settings: Settings) -> Iterator[Observation]:
    """Rank-one experts b_i x_i with prototypes e_i and orthonormal b_i: f(x) = b_i x_i for the
    largest |x_i|. By symmetry the best matrix is a multiple p of the sum of the experts."""
    tokens = 200_000 if settings.full else 20_000
    for count in (2, 3, 4, 8, 16):
        largest = mean_of_largest_square(count)
        p = largest / count  # E[x_i^2; i is chosen]
        for seed in settings.each:
            rng = generator(f"route-nonlinear {count}", seed)
            basis = torch.eye(count, dtype=torch.float64)
            adapters = [Adapter(basis[i : i + 1], basis[:, i : i + 1]) for i in range(count)]
            x = normal(tokens, count, rng=rng)
            wanted = routed(x, basis, adapters)
            power = wanted.square().sum(1)
            best = torch.linalg.lstsq(x, wanted).solution
            for case, given, bound, rivals in (
                ("best matrix", x @ best, 1 - p, {"1 - 1/N": 1 - 1 / count, "1/N": 1 / count}),
                ("sum of the experts", x, 1 / p - 1, {"N - 1": count - 1}),
            ):
                missed = (given - wanted).square().sum(1)
                share = float(missed.sum() / power.sum())
                _, error = mean_and_error((missed - share * power) / power.mean())
                # Least squares fits its own tokens: N^2 coefficients take their share of the error.
                bias = count / tokens if case == "best matrix" else 0.0
                rivals = {
                    name: value for name, value in rivals.items() if abs(value - bound) > 0.01
                }
                yield Observation(f"{case}, N={count}", seed, bound, share, error, bias, rivals)


def picture_routes(axes: Any) -> None:
    """The power that the best matrix misses against the number of routed experts."""
    points = means(check_route_nonlinear(Settings(seeds=3)))
    points = {case: point for case, point in points.items() if "best" in case}
    x = [number_in(case, "N=") for case in points]
    compare(axes, x, list(points.values()), BLUE, "least squares on 20,000 tokens")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{n:g}" for n in x])
    axes.set_xlabel("rank-1 experts under a top-1 route")
    axes.set_ylabel("share of power that\nthe best matrix misses")
    axes.set_title("No merge of any rank stands for a route; ticks: 1 - E max_j x_j^2 / N")
    axes.legend(frameon=False)


CLAIMS = (
    Claim(
        id="route-rank",
        kind="identity",
        title="a top-1 route is exact where every rank-r adapter misses 1 - 1/N of the power",
        statement=(
            "N experts on orthogonal subspaces: each token finds its expert, "
            "while a single adapter of one expert's rank leaves all but 1/N."
        ),
        formula="min over rank r of ||M X - F||^2 / ||F||^2 = 1 - 1/N; route: 0",
        source="[derived]",
        assumptions=(
            "isometric experts of rank r on orthogonal inputs, evenly used; "
            "the sum (rank N r) is exact too"
        ),
        derivation="the wanted outputs have N r equal singular values",
        computed="Arrow with one prototype each, and the tail; r = 4, N = 2, 4, 8",
        relation="==",
        tolerance=1e-9,
        check=check_route_rank,
    ),
    Claim(
        id="route-nonlinear",
        kind="theorem",
        title="a top-1 route of N rank-1 experts is 1 - E max_j x_j^2 / N away from every matrix",
        statement=(
            "A route is piecewise linear, so no merge of any rank can stand for it: the best "
            "matrix misses 18 % of the power for two experts, 57 % for eight, 72 % for sixteen."
        ),
        formula=(
            "min over M of E|M x - f|^2 / E|f|^2 = 1 - p; the sum of the experts: 1/p - 1; "
            "p = E max_j x_j^2 / N = .818, .701, .618, .432, .284 for N = 2, 3, 4, 8, 16"
        ),
        source="[derived]",
        assumptions="x ~ N(0, I_N), prototypes e_i, orthonormal outputs b_i, f(x) = b_i x_i",
        derivation=(
            "E[f x^T] is diagonal, for each x_j with j not chosen may change its sign; its entries "
            "are p = E[x_i^2; i chosen], so the best M is p times the sum and leaves "
            "N (p - p^2) of N p. The sum leaves N (1 - p) of N p"
        ),
        computed="least squares over 20,000 tokens, and the sum; N = 2, 3, 4, 8, 16",
        relation="==",
        check=check_route_nonlinear,
        picture=picture_routes,
    ),
)

"""What one merged adapter can hold of N, and what a route per token can do that no merge can.

    rank       rank(sum_i B_i A_i) <= sum_i r_i, with equality for generic factors
    floor      any rank-r adapter misses the merge by (sum_{j>r} sigma_j^2)^(1/2) (Eckart-Young);
               the sigma_j are those of a core of size sum r_i (`Adapter.core`)
    factors    mean(B) mean(A) is the mean of products plus cross terms B_i A_j
    route      a token picks its adapter, so the map is piecewise linear: no matrix of any rank is

Shapes: A (r, d_in), B (d_out, r).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lora import product_core
from theory import exact
from theory.adapter import Adapter, mean_of_products, product_of_means
from theory.claim import Claim, Observation, Settings, averaged, generator, normal, orthonormal
from theory.exact import integers
from theory.pictures import listed, means


def random_adapters(
    ranks: Sequence[int], d_in: int, d_out: int, rng: torch.Generator
) -> list[Adapter]:
    """Independent Gaussian factors, scaled so that every B A has a Frobenius norm of about 1."""
    return [
        Adapter(
            a=normal(r, d_in, rng=rng) / d_in**0.5, b=normal(d_out, r, rng=rng) / (d_out * r) ** 0.5
        )
        for r in ranks
    ]


def core_singular_values(adapter: Adapter) -> Tensor:
    """(r,): the singular values of B A, from its r x r core."""
    _, core, _ = product_core(adapter.a, adapter.b)
    return torch.linalg.svdvals(core)


def floor(adapter: Adapter, rank: int) -> float:
    """Least Frobenius distance of any matrix of this rank from B A."""
    return float(core_singular_values(adapter)[rank:].square().sum().sqrt())


def descended(goal: Tensor, rank: int, rng: torch.Generator, sweeps: int = 4) -> Tensor:
    """A fit of this rank to the goal (d_out, d_in), by alternating least squares from a random
    start: a rival that knows nothing of SVD."""
    b = normal(goal.shape[0], rank, rng=rng)
    for _ in range(sweeps):
        a = torch.linalg.lstsq(b, goal).solution
        b = torch.linalg.lstsq(a.T, goal.T).solution.T
    return b @ a


def check_rank(settings: Settings) -> Iterator[Observation]:
    """Integer factors, so that the rank is exact."""
    dim = 12
    for ranks in ((4, 4), (1, 2, 3), (3, 3, 3), (4, 4, 4, 4)):
        case, bound = f"ranks {'+'.join(map(str, ranks))}, D={dim}", min(sum(ranks), dim)
        for seed in settings.each:
            rng = generator(f"merge-rank {ranks}", seed)
            parts = [
                integers(dim, r, size=9, rng=rng) @ integers(r, dim, size=9, rng=rng) for r in ranks
            ]
            yield Observation(case, seed, bound, exact.rank(torch.stack(parts).sum(0).tolist()))


def check_core(settings: Settings) -> Iterator[Observation]:
    for seed in settings.each:
        adapters = random_adapters((8, 8, 8), 96, 160, generator("merge-core", seed))
        merged = mean_of_products(adapters)
        whole = torch.linalg.svdvals(merged.delta)
        for rank in (1, 4, 8, 16, 23):
            tail = float(whole[rank:].square().sum().sqrt())
            yield Observation(f"rank {rank} of 24", seed, tail, floor(merged, rank))


def check_floor(settings: Settings) -> Iterator[Observation]:
    rank, dim = 4, 32
    for count in (2, 4):
        for seed in settings.each:
            rng = generator(f"merge-floor {count}", seed)
            adapters = random_adapters((rank,) * count, dim, dim, rng)
            merged = mean_of_products(adapters)
            goal, least = merged.delta, floor(merged, rank)
            rivals = {
                "product of means": product_of_means(adapters).delta,
                "N times product of means": count * product_of_means(adapters).delta,
                "the first adapter / N": adapters[0].delta / count,
                "alternating least squares": descended(goal, rank, rng),
                "truncated SVD": merged.truncated(rank).delta,
            }
            for name, rival in rivals.items():
                case, missed = f"{name}, N={count}", float((rival - goal).norm())
                sought = name in ("alternating least squares", "truncated SVD")
                yield Observation(case, seed, least, missed, sought=sought)


FACTOR_BIAS = 0.02  # of the closed forms at rank 4, D = 48: they are ratios of expectations


def rotated(adapter: Adapter, rng: torch.Generator) -> Adapter:
    """The same product B A from factors turned by a random rotation."""
    rank = len(adapter.a)
    q = orthonormal(rank, rank, rng)
    return Adapter(q @ adapter.a, adapter.b @ q.T)


def check_factors(settings: Settings) -> Iterator[Observation]:
    """Squared distances and the like: their expectations are ratios, up to 1 / (rank D)."""
    rank, dim, repeats = 4, 48, 24
    for count in (2, 3, 8):

        def measured(rng: torch.Generator, count: int = count) -> dict[str, float]:
            adapters = random_adapters((rank,) * count, dim, dim, rng)
            products, means = mean_of_products(adapters).delta, product_of_means(adapters).delta
            moved = product_of_means([rotated(x, rng) for x in adapters]).delta
            return {
                "distance": float((means - products).norm() / products.norm()),
                "cosine": float((means * products).sum() / means.norm() / products.norm()),
                "change when factors are rotated": float((moved - means).norm() / means.norm()),
            }

        def predicted(n: float) -> dict[str, float]:
            values = (math.sqrt(1 - 1 / n), 1 / math.sqrt(n), math.sqrt(2 - 2 / n))
            names = ("distance", "cosine", "change when factors are rotated")
            return dict(zip(names, values, strict=True))

        bounds = predicted(count)
        wrong = {name: {"N + 1 for N": value} for name, value in predicted(count + 1).items()}
        for seed in settings.each:
            draws = [
                measured(generator(f"merge-factors {count} {i}", seed)) for i in range(repeats)
            ]
            for o in averaged(seed, draws, bounds, FACTOR_BIAS, wrong):
                yield replace(o, case=f"{o.case}, N={count}")


def picture_factors(axes: Any) -> None:
    """Distance, cosine and movement of the product of means."""
    listed(axes, means(check_factors(Settings(seeds=3))))
    axes.set_xlabel("share of the norm, or cosine")
    axes.set_title("Averaging factors is not averaging products", loc="right")


CLAIMS = (
    Claim(
        id="merge-rank",
        kind="theorem",
        title="a mean of N products has rank sum r_i (or D), for generic factors",
        statement=(
            "Merging exactly costs rank: "
            "the concatenation's rank is the bound sum r_i, and reached."
        ),
        formula="rank(sum_i B_i A_i) <= min(sum r_i, D), equality for almost all factors",
        source="[derived]",
        assumptions="generic factors (equality); none (bound)",
        derivation=("rank is subadditive; concatenated generic factors have full rank"),
        computed="exact rank of sums of integer products, four libraries, D = 12",
        relation="==",
        tolerance=0.0,
        check=check_rank,
    ),
    Claim(
        id="merge-core",
        kind="identity",
        title="the Eckart-Young floor of a merge comes from a core of size sum r_i",
        statement=(
            "The error of the best rank-r merge is known without forming the (d_out, d_in) matrix."
        ),
        formula="sigma(B A) = sigma(R_B R_A^T), B = Q_B R_B, A^T = Q_A R_A",
        source="[derived]",
        assumptions="none",
        derivation="Q_B and Q_A have orthonormal columns",
        computed="floor by the core against the full SVD, three adapters of rank 8, 160 x 96",
        relation="==",
        tolerance=1e-10,
        check=check_core,
    ),
    Claim(
        id="merge-floor",
        kind="theorem",
        title="no rank-r merge of N adapters comes below the Eckart-Young floor",
        statement=(
            "Whatever is done to keep the merged adapter at rank r, "
            "the error to the mean of products is at least the tail."
        ),
        formula="||M - mean of products||_F >= (sum_{j>r} sigma_j^2)^(1/2)",
        source="Eckart-Young; [derived]",
        assumptions="rank M <= r",
        derivation="Eckart-Young; equality for the truncated SVD",
        computed="five merges of rank 4 (among them truncated SVD, on the floor), N = 2, 4, D = 32",
        relation=">=",
        tolerance=1e-10,
        check=check_floor,
    ),
    Claim(
        id="merge-factors",
        kind="prediction",
        title=(
            "averaging factors: error sqrt(1 - 1/N), cosine 1/sqrt N, "
            "rotations move it by sqrt(2 - 2/N)"
        ),
        statement=(
            "For unrelated adapters the product of means is mostly cross terms, and an equivalent "
            "factorisation gives another merge altogether, 115 % away at N = 3."
        ),
        formula="|P - M|/|M| = sqrt(1 - 1/N), cos(P, M) = 1/sqrt N, |P' - P|/|P| = sqrt(2 - 2/N)",
        source="[derived]",
        assumptions="independent Gaussian factors; Haar rotations of each pair",
        derivation=(
            "E||B_i A_j||^2 = c for all i, j, and different pairs are orthogonal in expectation: "
            "(N - 1)/N^2 c against c/N; the N (N - 1) cross terms are redrawn by the rotations"
        ),
        computed="24 draws a seed, rank 4, D = 48, N = 2, 3, 8; bias 0.02",
        relation="==",
        check=check_factors,
        picture=picture_factors,
    ),
)

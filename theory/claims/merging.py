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

import torch
from torch import Tensor

from lora import product_core
from theory.adapter import Adapter, mean_of_products, product_of_means
from theory.claim import Claim, Observation, Settings, generator, normal, orthonormal


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
    dim = 48
    for ranks in ((4, 4), (1, 2, 3), (8, 8, 8, 8), (16, 16, 16, 16)):
        case, bound = f"ranks {'+'.join(map(str, ranks))}, D={dim}", min(sum(ranks), dim)
        for seed in range(settings.seeds):
            adapters = random_adapters(ranks, dim, dim, generator(f"merge-rank {ranks}", seed))
            rank = int(torch.linalg.matrix_rank(mean_of_products(adapters).delta))
            yield Observation(case, seed, bound, rank)


def check_core(settings: Settings) -> Iterator[Observation]:
    for seed in range(settings.seeds):
        adapters = random_adapters((8, 8, 8), 96, 160, generator("merge-core", seed))
        merged = mean_of_products(adapters)
        whole = torch.linalg.svdvals(merged.delta)
        for rank in (1, 4, 8, 16, 23):
            tail = float(whole[rank:].square().sum().sqrt())
            yield Observation(f"rank {rank} of 24", seed, tail, floor(merged, rank))


def check_floor(settings: Settings) -> Iterator[Observation]:
    rank, dim = 4, 32
    for count in (2, 4):
        for seed in range(settings.seeds):
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
                yield Observation(f"{name}, N={count}", seed, least, float((rival - goal).norm()))


def rotated(adapter: Adapter, rng: torch.Generator) -> Adapter:
    """The same product B A from factors turned by a random rotation."""
    rank = len(adapter.a)
    q = orthonormal(rank, rank, rng)
    return Adapter(q @ adapter.a, adapter.b @ q.T)


def check_factors(settings: Settings) -> Iterator[Observation]:
    rank, dim = 8, 192
    for count in (2, 3, 4, 8):
        for seed in range(settings.seeds):
            rng = generator(f"merge-factors {count}", seed)
            adapters = random_adapters((rank,) * count, dim, dim, rng)
            products, means = mean_of_products(adapters).delta, product_of_means(adapters).delta
            moved = product_of_means([rotated(x, rng) for x in adapters]).delta
            error = float((means - products).norm() / products.norm())
            cosine = float((means * products).sum() / means.norm() / products.norm())
            shift = float((moved - means).norm() / means.norm())
            yield Observation(f"distance, N={count}", seed, math.sqrt(1 - 1 / count), error)
            yield Observation(f"cosine, N={count}", seed, 1 / math.sqrt(count), cosine)
            case = f"change when factors are rotated, N={count}"
            yield Observation(case, seed, math.sqrt(2 - 2 / count), shift)


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
        for seed in range(settings.seeds):
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


def check_route_nonlinear(settings: Settings) -> Iterator[Observation]:
    """Two rank-one experts on one plane, prototypes e_1 and e_2: f(x) = b_i x_i for the larger
    |x_i|."""
    plane = torch.eye(2, dtype=torch.float64)
    for seed in range(settings.seeds):
        rng = generator("route-nonlinear", seed)
        b = orthonormal(2, 8, rng)
        adapters = [Adapter(plane[i : i + 1], b[i][:, None]) for i in range(2)]
        tokens = normal(20000, 2, rng=rng)
        wanted = routed(tokens, plane, adapters)
        best = torch.linalg.lstsq(tokens, wanted).solution
        share = float((tokens @ best - wanted).square().sum() / wanted.square().sum())
        yield Observation("best matrix of any rank", seed, 0.5 - 1 / math.pi, share)
        summed = tokens @ torch.stack([x.delta for x in adapters]).sum(0).T
        share = float((summed - wanted).square().sum() / wanted.square().sum())
        yield Observation("sum of the experts", seed, 1 / (0.5 + 1 / math.pi) - 1, share)


CLAIMS = (
    Claim(
        id="merge-rank",
        title="a mean of N products has rank sum r_i (or D), for generic factors",
        statement=(
            "Merging exactly costs rank: "
            "the concatenation's rank is the bound sum r_i, and reached."
        ),
        formula="rank(sum_i B_i A_i) <= min(sum r_i, D), equality for almost all factors",
        source="[derived]",
        assumptions="Gaussian factors (equality); none (bound)",
        derivation=(
            "rank is subadditive; concatenated Gaussian factors have full rank with probability 1"
        ),
        computed="numerical rank, four libraries, D = 48",
        relation="==",
        tolerance=0.0,
        check=check_rank,
    ),
    Claim(
        id="merge-core",
        title="its Eckart-Young floor comes from a core of size sum r_i",
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
        title="no rank-r merge of N adapters comes below that floor",
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
        title=(
            "averaging factors: error sqrt(1 - 1/N), cosine 1/sqrt N, "
            "rotations move it by sqrt(2 - 2/N)"
        ),
        statement=(
            "For unrelated adapters the product of means is mostly cross terms, and an equivalent "
            "factorisation gives another merge altogether (113 % away in one measured case; 115 % "
            "is the expectation at N = 3)."
        ),
        formula="|P - M|/|M| = sqrt(1 - 1/N), cos(P, M) = 1/sqrt N, |P' - P|/|P| = sqrt(2 - 2/N)",
        source="[derived]; closed forms found here",
        assumptions="independent Gaussian factors; Haar rotations of each pair",
        derivation=(
            "E||B_i A_j||^2 = c for all i, j, and different pairs are orthogonal in expectation: "
            "(N - 1)/N^2 c against c/N; the N (N - 1) cross terms are redrawn by the rotations"
        ),
        computed="one draw a seed, rank 8, D = 192, N = 2, 3, 4, 8",
        relation="==",
        tolerance=0.2,
        check=check_factors,
    ),
    Claim(
        id="route-rank",
        title="a top-1 route is exact where every rank-r adapter misses 1 - 1/N of the power",
        statement=(
            "N experts on orthogonal subspaces: each token finds its expert, "
            "while a single adapter of one expert's rank leaves all but 1/N."
        ),
        formula="min over rank r of ||M X - F||^2 / ||F||^2 = 1 - 1/N; route: 0",
        source="found here, by construction [derived]",
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
        title="and a route of two rank-1 experts is 1/2 - 1/pi away from every matrix",
        statement=(
            "A route is piecewise linear. On one plane shared by two experts even a full-rank "
            "merge misses 18 % of the power."
        ),
        formula=(
            "min over all M of E|M x - f|^2 / E|f|^2 = 1/2 - 1/pi = 0.182; the sum: "
            "1/(1/2 + 1/pi) - 1 = 0.222"
        ),
        source="found here, by construction [derived]",
        assumptions="x ~ N(0, I_2), prototypes e_1, e_2, orthonormal outputs",
        derivation=(
            "E[x_1^2; |x_1| > |x_2|] = 1/2 + 1/pi = p, "
            "so the best M is p times the sum and leaves 2 (p - p^2) of 2 p"
        ),
        computed="least squares over 20,000 tokens, and the sum",
        relation="==",
        tolerance=0.02,
        check=check_route_nonlinear,
    ),
)

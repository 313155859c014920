"""What low-rank adapters on a product of matrices can reach (Zeng and Lee 2024, arXiv 2310.17513,
section 3).

Frozen W_L ... W_1, target Wt, gap E = Wt - W_L ... W_1. With a rank-R update of every factor:

    min || (W_L + dW_L) ... (W_1 + dW_1) - Wt ||_2 = sigma_{RL+1}(E)
    the minimum is zero iff R >= ceil(rank E / L)

Lower bound: the product changes by rank RL at most (telescoping), then Eckart-Young. Upper bound,
by construction: factor l takes on the l-th slice of R singular directions of E. All matrices are
(D, D).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from theory.claim import Claim, Observation, Settings, generator, near_rotation, normal
from theory.pictures import BLUE, GREEN, ORANGE
from theory.search import descend


def product(factors: Sequence[Tensor]) -> Tensor:
    """W_1 .. W_L, first applied first -> W_L ... W_1."""
    whole = factors[0]
    for factor in factors[1:]:
        whole = factor @ whole
    return whole


def constructed(frozen: Sequence[Tensor], target: Tensor, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Adapters (A (rank, D), B (D, rank)) for W_1 .. W_L that bring their product to Wt, but for
    the tail of E.

    With E = U S V^T, Q_l the l-th slice of `rank` directions, and P_{l-1} the product of the
    adapted factors below l:

        B_l A_l = (W_L ... W_{l+1})^-1  E V_Q V_Q^T  P_{l-1}^-1,

    so W_L .. W_{l+1} (W_l + B_l A_l) P_{l-1} gains E V_Q V_Q^T.

    Raises:
        torch.linalg.LinAlgError: a frozen factor, or a partial product on the way, is singular.
    """
    gap = target - product(frozen)
    directions = torch.linalg.svd(gap).Vh  # (D, D), rows
    below = torch.eye(target.shape[-1], dtype=target.dtype)
    adapters = []
    for layer, weight in enumerate(frozen):
        slice_ = directions[rank * layer : rank * (layer + 1)]
        moved = gap @ slice_.T
        for upper in reversed(frozen[layer + 1 :]):
            moved = torch.linalg.solve(upper, moved)
        a = torch.linalg.solve(below, slice_, left=False)
        adapters.append((a, moved))
        below = (weight + moved @ a) @ below
    return adapters


def adapted(frozen: Sequence[Tensor], adapters: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The factors with their adapters: W + B A each."""
    return [w + b @ a for w, (a, b) in zip(frozen, adapters, strict=True)]


def spectral_error(factors: Sequence[Tensor], target: Tensor) -> float:
    """|| product of the factors - target ||_2."""
    return float(torch.linalg.matrix_norm(product(factors) - target, 2))


def constructed_error(frozen: Sequence[Tensor], target: Tensor, rank: int) -> float:
    """Spectral error of the constructed adapters of this rank."""
    return spectral_error(adapted(frozen, constructed(frozen, target, rank)), target)


def predicted_error(gap: Tensor, reach: int) -> float:
    """sigma_{reach+1}(E): the best spectral error of any change of rank `reach`; 0 from D on."""
    singular = torch.linalg.svdvals(gap)
    return float(singular[reach]) if reach < len(singular) else 0.0


def problem(dim: int, depth: int, seed: int, name: str) -> tuple[list[Tensor], Tensor]:
    """Frozen factors near rotations (safe to invert at any depth), and a target of entries
    N(0, 1/D)."""
    rng = generator(f"{name} D={dim} L={depth}", seed)
    frozen = [near_rotation(dim, rng) for _ in range(depth)]
    return frozen, normal(dim, dim, rng=rng) / dim**0.5


def check_error(settings: Settings) -> Iterator[Observation]:
    dim = 16
    for depth in (1, 2, 3, 4) + ((8,) if settings.full else ()):
        for seed in settings.each:
            frozen, target = problem(dim, depth, seed, "linear-error")
            gap = target - product(frozen)
            for rank in range(1, dim + 1):
                predicted = predicted_error(gap, rank * depth)
                error = constructed_error(frozen, target, rank)
                yield Observation(f"L={depth}, R={rank}", seed, predicted, error)


def check_threshold(settings: Settings) -> Iterator[Observation]:
    """E of rank 7 exactly: the smallest rank with no error."""
    dim, gap_rank = 16, 7
    for depth in (1, 2, 3, 4):
        case, predicted = f"L={depth}, rank E = {gap_rank}", math.ceil(gap_rank / depth)
        for seed in settings.each:
            frozen, _ = problem(dim, depth, seed, "linear-threshold")
            rng = generator(f"linear-threshold gap L={depth}", seed)
            gap = normal(dim, gap_rank, rng=rng) @ normal(gap_rank, dim, rng=rng) / dim
            target = product(frozen) + gap
            ranks = range(1, dim + 1)
            exact = (r for r in ranks if constructed_error(frozen, target, r) < 1e-8)
            yield Observation(case, seed, predicted, next(exact))


def check_lower(settings: Settings) -> Iterator[Observation]:
    """Random and perturbed adapters of every rank: none comes below the bound."""
    dim, depth = 12, 2
    for seed in settings.each:
        rng = generator("linear-lower", seed)
        frozen, target = problem(dim, depth, seed, "linear-lower")
        for rank in (1, 2, 4, 5):
            floor = predicted_error(target - product(frozen), rank * depth)
            best = constructed(frozen, target, rank)
            for size in (1e-6, 1e-3, 1e-1, 1.0):
                noisy = [
                    (a + size * normal(*a.shape, rng=rng), b + size * normal(*b.shape, rng=rng))
                    for a, b in best
                ]
                error = spectral_error(adapted(frozen, noisy), target)
                case = f"R={rank}, {size:g} away from the construction"
                yield Observation(case, seed, floor, error)
            yield Observation(
                f"R={rank}, descent", seed, floor, descended(frozen, target, rank, rng), sought=True
            )


def descended(
    frozen: Sequence[Tensor], target: Tensor, rank: int, rng: torch.Generator, steps: int = 150
) -> float:
    """The spectral error of adapters that descent has found, from the construction disturbed."""
    weights = [
        (x + 0.1 * normal(*x.shape, rng=rng)).requires_grad_()
        for pair in constructed(frozen, target, rank)
        for x in pair
    ]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))

    def loss() -> Tensor:
        return torch.linalg.matrix_norm(product(adapted(frozen, pairs)) - target, 2)

    descend(loss, weights, steps, 0.03)
    return float(loss().detach())


def check_singular(settings: Settings) -> Iterator[Observation]:
    """All frozen factors 0, one of them or none: the best that descent finds."""
    dim, depth, rank = 6, 2, 1
    for seed in settings.each:
        rng = generator("linear-singular", seed)
        target = normal(dim, dim, rng=rng) / dim**0.5
        for zeros in (2, 1):
            frozen = [near_rotation(dim, rng) * (i >= zeros) for i in range(depth)]
            gap = target - product(frozen)
            # One zero factor: the other's adapter moves nothing by itself, so rank R is lost too.
            u, s, vh = torch.linalg.svd(gap)
            if zeros == 1:  # W_2 B_1 A_1 with W_1 = 0 reaches any matrix of rank R
                a, b = vh[:rank], torch.linalg.solve(frozen[1], u[:, :rank] * s[:rank])
                reached = spectral_error([b @ a, frozen[1]], target)
            else:
                half = s[:rank].sqrt()
                factors = [
                    vh[:rank].T @ torch.diag(half) @ vh[:rank],
                    (u[:, :rank] * half) @ vh[:rank],
                ]
                reached = spectral_error(factors, target)
            rivals = {"sigma_{RL+1}": predicted_error(gap, rank * depth)}
            bound = predicted_error(gap, rank)
            yield Observation(f"{zeros} of 2 factors are 0", seed, bound, reached, 0.0, 0.0, rivals)


def picture(axes: Any) -> None:
    """Error against rank: predicted lines, dots for the construction, thresholds dotted."""
    dim = 16
    ranks = range(dim + 1)
    for depth, colour in ((1, BLUE), (2, ORANGE), (4, GREEN)):
        frozen, target = problem(dim, depth, 0, "picture")
        gap, threshold = target - product(frozen), math.ceil(dim / depth)
        predicted = [predicted_error(gap, r * depth) for r in ranks]
        built = [constructed_error(frozen, target, r) for r in ranks]
        axes.plot(ranks, predicted, color=colour, lw=1.2)
        label = f"L = {depth}: exact from R = {threshold}"
        axes.plot(ranks, built, "o", color=colour, ms=5, label=label)
        axes.axvline(threshold, color=colour, ls=":", lw=1)
    axes.set_xlabel("rank R of each adapter")
    axes.set_ylabel("spectral error")
    title = r"Adapters on L factors: lines $\sigma_{RL+1}(E)$, dots constructed (D = 16)"
    axes.set_title(title, fontsize=10)
    axes.set_ylim(bottom=-0.05)
    axes.legend(loc="upper center", bbox_to_anchor=(0.72, 1.0), framealpha=1, edgecolor="none")


PAPER = "Zeng and Lee 2024, arXiv 2310.17513, linear case [recall]; re-derived and checked here"

CLAIMS = (
    Claim(
        id="linear-error",
        kind="theorem",
        title="adapters on L factors reach sigma_{RL+1}(E), at every rank and depth",
        statement=(
            "The best spectral error of rank-R adapters on a product of L matrices is the "
            "(RL+1)-th singular value of the gap, and a construction attains it."
        ),
        formula="min ||prod (W_l + dW_l) - Wt||_2 = sigma_{RL+1}(E)",
        source=PAPER,
        assumptions="W_l and the partial results prod W_l + LR_r(E), r <= R(L-1), are non-singular",
        derivation=(
            "each layer adds R singular directions of E: "
            "B_l A_l = (W_L..W_{l+1})^-1 E V_Q V_Q^T P_{l-1}^-1"
        ),
        computed=(
            "constructed adapters, D = 16, R = 1 .. 16, L = 1 .. 4: spectral error against sigma"
        ),
        relation="==",
        tolerance=1e-7,
        check=check_error,
        picture=picture,
    ),
    Claim(
        id="linear-threshold",
        kind="theorem",
        title="adapters on L factors are exact iff R >= ceil(rank E / L)",
        statement=(
            "The smallest rank without error is the gap's rank divided by the depth, rounded up."
        ),
        formula="R* = ceil(rank E / L)",
        source=PAPER,
        assumptions="as linear-error",
        derivation="sigma_{RL+1}(E) = 0 iff RL >= rank E",
        computed="smallest R with spectral error below 1e-8, gaps of rank 7, D = 16, L = 1 .. 4",
        relation="==",
        tolerance=0.0,
        check=check_threshold,
    ),
    Claim(
        id="linear-lower",
        kind="theorem",
        title="no rank-R adapters on L factors come below sigma_{RL+1}(E)",
        statement=(
            "The lower half of the theorem, tried near the construction, where it is tight, "
            "and far from it."
        ),
        formula="rank(prod (W + dW) - prod W) <= RL, hence error >= sigma_{RL+1}(E)",
        source=PAPER,
        assumptions="none",
        derivation=(
            "the difference telescopes into L terms with one dW_l each; "
            "Eckart-Young (Weyl) for the spectral norm"
        ),
        computed="perturbed constructions, and descent from one, R = 1, 2, 4, 5, D = 12, L = 2",
        relation=">=",
        tolerance=1e-9,
        check=check_lower,
    ),
    Claim(
        id="linear-singular",
        kind="theorem",
        title="adapters on factors that are 0 reach sigma_{R+1}(E) only, at any depth",
        statement=(
            "linear-error needs non-singular factors: from zero weights, adapters of rank R on two "
            "factors reach no more than one adapter of rank R would."
        ),
        formula="W_1 = 0: min ||(W_2 + dW_2)(dW_1) - Wt||_2 = sigma_{R+1}(Wt)",
        source="[derived]",
        assumptions="the first factor is 0",
        derivation=(
            "(W_2 + dW_2) dW_1 has the rank of dW_1 at most, which is R; Eckart-Young gives the "
            "bound, and dW_1 = the first R directions (carried back through W_2) attains it"
        ),
        computed="the best adapters, D = 6, L = 2, R = 1, one or both factors 0",
        relation="==",
        tolerance=1e-9,
        check=check_singular,
    ),
)

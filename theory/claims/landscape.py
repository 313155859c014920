"""Can gradient descent find the low-rank update? Results in the linearised (NTK) regime, where LoRA
is matrix sensing.

With K outputs on N examples, fine-tuning the matrix X (p, q) fits KN numbers: y_i = <G_i, X>. LoRA
writes X = B A.

    Jang, Lee, Ryu 2024, arXiv 2402.11867   a solution of rank r with r (r+1)/2 <= KN exists; for
                                            r (r+1)/2 > KN there are no spurious local minima
                                            (sufficient, not necessary)
    arXiv 2605.03724                        r (p+q) - r^2 > 1.35 KN is enough to fit Gaussian
                                            features
    Zhu et al. 2024, arXiv 2402.16842       "asymmetry": with A frozen at random, a trained B does
                                            nearly as well

Kim et al. 2025 (arXiv 2502.09376, "fails loudly") say two things. Training with weight decay lands
on the low-rank global minimum: that is `landscape-low-rank`. Spurious minima, where they exist,
have high rank and large norm: that is not checked here, for we know no small instance with such a
minimum, and a search that finds none would prove nothing. The results of 2605.03724 on
cross-entropy and generalisation need data sets, not algebra, and are not checked either.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.claim import Claim, Observation, Settings, generator, normal, orthonormal
from theory.claims.trained_adapters import descend

SIDE, DECAY = 8, 0.1  # X is (8, 8); weight decay lambda


@dataclass(frozen=True)
class Sensing:
    """A batch of w problems: find X with <G_i, X> = y_i for every i of a problem."""

    features: Tensor  # (w, KN, p, q), the G_i
    values: Tensor  # (w, KN), the y_i

    def residual(self, x: Tensor) -> Tensor:
        """x (..., w, p, q) -> <G_i, X> - y_i, (..., w, KN)."""
        return (self.features.flatten(2) @ x.flatten(-2)[..., None])[..., 0] - self.values


def sensing(count: int, seeds: int, name: str) -> Sensing:
    """One problem of `count` numbers for each seed: Gaussian features, |G_i| about 1, and Gaussian
    values."""
    rngs = [generator(f"{name} {count}", seed) for seed in range(seeds)]
    features = torch.stack([normal(count, SIDE, SIDE, rng=rng) for rng in rngs]) / SIDE
    return Sensing(features, values=torch.stack([normal(count, rng=rng) for rng in rngs]))


def convex_solution(problem: Sensing, steps: int = 400) -> Tensor:
    """(w, p, q): argmin 1/2 |residual|^2 + DECAY |X|_*, by accelerated proximal gradient
    (soft-thresholded SVD)."""
    flat = problem.features.flatten(2)
    step = 1 / torch.linalg.matrix_norm(flat, 2).square()[:, None, None]
    x = previous = torch.zeros_like(problem.features[:, 0])
    for t in range(steps):
        ahead = x + t / (t + 3) * (x - previous)
        gradient = torch.einsum("wipq,wi->wpq", problem.features, problem.residual(ahead))
        u, s, vh = torch.linalg.svd(ahead - step * gradient)
        previous, x = x, (u * (s - step[..., 0] * DECAY).clamp_min(0)[:, None]) @ vh
    return x


def objective(problem: Sensing, x: Tensor) -> Tensor:
    """1/2 |residual|^2 + DECAY |X|_*: x (..., w, p, q) -> (..., w)."""
    return problem.residual(x).square().sum(-1) / 2 + DECAY * torch.linalg.matrix_norm(x, "nuc")


def factored_minimum(
    problem: Sensing, rank: int, starts: int, decay: float, name: str, steps: int = 400
) -> Tensor:
    """B A (starts, w, p, q) after descent on 1/2 |residual|^2 + decay/2 (|A|^2 + |B|^2) from random
    starts.

    Over all factorisations of X, the least of decay/2 (|A|^2 + |B|^2) is decay |X|_*, so this
    problem and the convex one share their minimum.
    """
    worlds, count = problem.values.shape
    rngs = [generator(f"{name} rank {rank} of {count}", seed) for seed in range(worlds)]
    a, b = (
        0.3 * torch.stack([normal(starts, *shape, rng=rng) for rng in rngs], dim=1)
        for shape in ((rank, SIDE), (SIDE, rank))
    )
    a.requires_grad_()
    b.requires_grad_()

    def loss() -> Tensor:
        weights = a.square().sum((2, 3)) + b.square().sum((2, 3))
        return problem.residual(b @ a).square().sum(-1) / 2 + decay / 2 * weights

    descend(loss, (a, b), steps, 0.1)
    return (b @ a).detach()


def rank_of(x: Tensor) -> Tensor:
    """(..., p, q) -> (...): singular values above a thousandth of the largest."""
    return torch.linalg.matrix_rank(x, rtol=1e-3)


COUNTS = (3, 6, 10, 20)  # KN


def jang_rank(count: int) -> int:
    """The largest r with r (r + 1) / 2 <= KN."""
    return (math.isqrt(8 * count + 1) - 1) // 2


def check_existence(settings: Settings) -> Iterator[Observation]:
    for count in COUNTS:
        ranks = rank_of(convex_solution(sensing(count, settings.seeds, "landscape-existence")))
        for seed, rank in enumerate(ranks.tolist()):
            yield Observation(f"KN={count}", seed, jang_rank(count), rank)


def check_no_spurious(settings: Settings) -> Iterator[Observation]:
    """The least rank above the threshold, three starts: every one ends at the convex optimum."""
    for count in (3, 10, 20):
        problem = sensing(count, settings.seeds, "landscape-no-spurious")
        best = objective(problem, convex_solution(problem))
        rank = jang_rank(count) + 1
        reached = factored_minimum(problem, rank, 3, DECAY, "landscape-no-spurious")
        worst = (objective(problem, reached) / best).amax(0)
        for seed, ratio in enumerate(worst.tolist()):
            yield Observation(f"KN={count}, r={rank}", seed, 1.0, ratio)


def check_low_rank(settings: Settings) -> Iterator[Observation]:
    for count in COUNTS[:2]:
        problem = sensing(count, settings.seeds, "landscape-low-rank")
        wanted = convex_solution(problem)
        reached = factored_minimum(problem, SIDE, 1, DECAY, "landscape-low-rank", steps=1200)[0]
        distance = (reached - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))
        for seed, share in enumerate(distance.tolist()):
            yield Observation(f"KN={count}, trained at r={SIDE}", seed, 0.0, share)


def manifold_dimension(rank: int) -> int:
    """Dimension of the set of (p, q) matrices of that rank: r (p + q) - r^2."""
    return rank * 2 * SIDE - rank**2


def check_fit(settings: Settings) -> Iterator[Observation]:
    for rank in (1, 3):
        enough = math.floor(manifold_dimension(rank) / 1.35)
        for count, fits in ((enough, 1.0), (manifold_dimension(rank) + 4, 0.0)):
            problem = sensing(count, settings.seeds, "landscape-fit")
            reached = factored_minimum(problem, rank, 4, 0.0, "landscape-fit")
            loss = problem.residual(reached).square().mean(-1).amin(0)  # the best of four starts
            for seed, value in enumerate(loss.tolist()):
                side = "1.35 KN <= dimension" if fits else "KN > dimension"
                yield Observation(f"r={rank}, KN={count}, {side}", seed, fits, float(value < 1e-4))


def captured(change: Tensor, covariance: Tensor, frozen: Tensor, trained: str) -> Tensor:
    """Share of E|change x|^2, x ~ N(0, covariance), that one trained factor explains beside a
    frozen orthonormal one; (...).

    change (d_out, d_in). With trained "B", `frozen` is A (..., r, d_in); with trained "A" it is B^T
    (..., r, d_out). The trained factor is the best one, by least squares.
    """
    power = torch.trace(change @ covariance @ change.T)
    if trained == "A":
        seen = frozen @ change
        return (seen @ covariance @ seen.mT).diagonal(dim1=-2, dim2=-1).sum(-1) / power
    through = frozen @ covariance
    cross = through @ change.T  # (..., r, d_out)
    return (cross * torch.linalg.solve(through @ frozen.mT, cross)).sum((-2, -1)) / power


def check_asymmetry(settings: Settings) -> Iterator[Observation]:
    rank, d_in, d_out, draws = 8, 32, 48, 64
    for seed in range(settings.seeds):
        rng = generator("asymmetry", seed)
        # A full LoRA of this rank explains all of the change.
        change = normal(d_out, rank, rng=rng) @ normal(rank, d_in, rng=rng)
        flat = torch.eye(d_in, dtype=torch.float64)
        a, b = (
            torch.stack([orthonormal(rank, d, rng) for _ in range(draws)]) for d in (d_in, d_out)
        )
        by_b, by_a = captured(change, flat, a, "B").mean(), captured(change, flat, b, "A").mean()
        yield Observation("B trained, A frozen: r / d_in", seed, rank / d_in, float(by_b))
        yield Observation("A trained, B frozen: r / d_out", seed, rank / d_out, float(by_a))


def check_asymmetry_covariance(settings: Settings) -> Iterator[Observation]:
    rank, dim, draws = 8, 32, 64
    for seed in range(settings.seeds):
        rng = generator("asymmetry-covariance", seed)
        change = normal(dim, dim, rng=rng)
        scales = torch.arange(1, dim + 1, dtype=torch.float64)
        for power in (1, 2):
            covariance = torch.diag(scales**-power)
            frozen = torch.stack([orthonormal(rank, dim, rng) for _ in range(draws)])
            by_a = float(captured(change, covariance, frozen, "A").mean())
            by_b = float(captured(change, covariance, frozen, "B").mean())
            yield Observation(f"spectrum i^-{power}", seed, by_a, by_b)


JANG = (
    "Jang, Lee, Ryu 2024, arXiv 2402.11867 [paper: abstract; recall: exact condition]; checked here"
)

CLAIMS = (
    Claim(
        id="landscape-existence",
        title="the regularised solution has rank r with r (r + 1) / 2 <= KN",
        statement=(
            "Full fine-tuning in the NTK regime has a low-rank solution: about sqrt(2 KN). Found: "
            "the bound is generous; Gaussian problems end at rank 1 to 4 where it allows 2 to 5."
        ),
        formula="r (r + 1) / 2 <= KN",
        source=JANG,
        assumptions=(
            "linearised model, squared loss, nuclear norm (weight decay) 0.1, Gaussian features; "
            "X is 8 x 8"
        ),
        derivation=(
            "an optimum of larger rank could move along a direction that no measurement sees "
            "(Pataki's argument)"
        ),
        computed="rank of the convex solution, KN = 3, 6, 10, 20",
        relation="<=",
        tolerance=0.0,
        check=check_existence,
    ),
    Claim(
        id="landscape-no-spurious",
        title="for r (r + 1) / 2 > KN every start descends to the global optimum",
        statement=(
            "Above that rank LoRA's own problem has no bad minima: "
            "descent from random factors reaches the convex optimum."
        ),
        formula="min over B, A found by descent = min_X 1/2 |residual|^2 + decay |X|_*",
        source=JANG,
        assumptions="as landscape-existence; sufficient, not necessary (see landscape-fit)",
        derivation=(
            "decay/2 (|A|^2 + |B|^2) is at least decay |BA|_*, with equality for balanced factors"
        ),
        computed=(
            "worst of three starts over the convex optimum, the least rank that meets the condition"
        ),
        relation="==",
        tolerance=0.02,
        check=check_no_spurious,
    ),
    Claim(
        id="landscape-low-rank",
        title="trained at full rank with weight decay, B A is the low-rank convex solution",
        statement="Weight decay makes a generous adapter end at the low-rank global minimum.",
        formula="B A = argmin_X (1/2 |residual|^2 + decay |X|_*), r = 8",
        source=(
            "Kim et al. 2025, arXiv 2502.09376 [paper: abstract], its converging half; "
            "'fails loudly' is not checked"
        ),
        assumptions="as landscape-existence",
        derivation="both problems share their minimum",
        computed=(
            "relative distance of B A from the convex solution (rank 1 to 3) after descent at r = "
            "8, KN = 3, 6"
        ),
        relation="==",
        tolerance=0.05,
        check=check_low_rank,
    ),
    Claim(
        id="landscape-fit",
        title="rank r fits KN numbers if r(p+q) - r^2 >= 1.35 KN, and cannot if it is below KN",
        statement=(
            "The weaker capacity condition: the dimension of the rank-r matrices, with 1.35 to "
            "spare, is enough for descent to fit. Jang's condition would ask for r = 5 and 8 here "
            "where r = 1 and 3 do."
        ),
        formula="r (p + q) - r^2 > 1.35 KN",
        source="arXiv 2605.03724 [paper: abstract]; the impossible half [derived]",
        assumptions="Gaussian features and values, no decay, X is 8 x 8",
        derivation="below KN the rank-r matrices have too few dimensions to meet generic values",
        computed="1 if the best of four starts fits to 1e-4, r = 1, 3, on either side",
        relation="==",
        tolerance=0.0,
        check=check_fit,
    ),
    Claim(
        id="asymmetry-share",
        title="with one factor frozen at random, the other explains r/d_in (B) or r/d_out (A)",
        statement=(
            "'Training B with a frozen random A is nearly as good' is not a statement about "
            "fitting one fixed change: a full LoRA of that rank explains all of it, a half-frozen "
            "one r/d_in with isotropic inputs."
        ),
        formula="E share = r / d_in (A frozen), r / d_out (B frozen)",
        source="Zhu et al. 2024, arXiv 2402.16842 [recall]; corrected here for least squares",
        assumptions="orthonormal random frozen factor, inputs of covariance I, a change of rank r",
        derivation=(
            "a uniformly random r-dimensional subspace of R^d holds r/d of any fixed vector's power"
        ),
        computed="mean share over 64 draws, r = 8, d_in = 32, d_out = 48",
        relation="==",
        tolerance=0.05,
        check=check_asymmetry,
    ),
    Claim(
        id="asymmetry-covariance",
        title="on inputs with a decaying spectrum, training B beats training A",
        statement=(
            "The asymmetry itself: B's best fit uses the input covariance, A's cannot, "
            "so B explains more."
        ),
        formula="share(B trained) >= share(A trained) = r / d",
        source="Zhu et al. 2024, arXiv 2402.16842 [recall]; checked here",
        assumptions="d_in = d_out = 32, r = 8, generic change, spectrum i^-1 and i^-2",
        derivation=(
            "share(B) = tr(D S A^T (A S A^T)^-1 A S D^T) / tr(D S D^T), at least r/d on average, "
            "equal for S = I"
        ),
        computed="mean shares over 64 draws",
        relation=">=",
        tolerance=0.0,
        check=check_asymmetry_covariance,
    ),
)

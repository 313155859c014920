"""Can gradient descent find the low-rank update? Results in the linearised (NTK) regime, where LoRA
is matrix sensing.

With K outputs on N examples, fine-tuning the matrix X (p, q) fits KN numbers: y_i = <G_i, X>. LoRA
writes X = B A.

    Jang, Lee, Ryu 2024, arXiv 2402.11867   a solution of rank r with r (r+1)/2 <= KN exists; for
                                            r (r+1)/2 > KN there are no spurious local minima
                                            (sufficient, not necessary)
    arXiv 2605.03724                        r (p+q) - r^2 > 1.35 KN is enough to fit Gaussian
                                            features

Kim et al. 2025 (arXiv 2502.09376, "fails loudly") train beyond the linearised regime: weight decay
lands on a low-rank global minimum, and spurious minima have high rank and large norm. Neither is
checked here; `landscape-low-rank` is the linearised identity below it. The results of 2605.03724 on
cross-entropy and generalisation need data sets, not algebra, and are not checked either.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.claim import Claim, Observation, Settings, generator, normal
from theory.search import descend

SIDE, DECAY = 8, 0.1  # X is (8, 8); weight decay lambda


@dataclass(frozen=True)
class Sensing:
    """A batch of w problems: find X with <G_i, X> = y_i for every i of a problem."""

    features: Tensor  # (w, KN, p, q), the G_i
    values: Tensor  # (w, KN), the y_i

    def residual(self, x: Tensor) -> Tensor:
        """x (..., w, p, q) -> <G_i, X> - y_i, (..., w, KN)."""
        return (self.features.flatten(2) @ x.flatten(-2)[..., None])[..., 0] - self.values


def sensing(count: int, seeds: Sequence[int], name: str) -> Sensing:
    """One problem of `count` numbers for each seed: Gaussian features, |G_i| about 1, and Gaussian
    values."""
    rngs = [generator(f"{name} {count}", seed) for seed in seeds]
    features = torch.stack([normal(count, SIDE, SIDE, rng=rng) for rng in rngs]) / SIDE
    return Sensing(features, values=torch.stack([normal(count, rng=rng) for rng in rngs]))


def tight_problem(rank: int) -> Sensing:
    """The symmetric part of an r x r block, r (r + 1) / 2 numbers with values (1 + DECAY) I: its
    optimum is the identity of that block, for -residual / DECAY = I_r is a subgradient there."""
    features, values = [], []
    for i in range(rank):
        for j in range(i + 1):
            feature = torch.zeros(SIDE, SIDE, dtype=torch.float64)
            feature[i, j] += 0.5
            feature[j, i] += 0.5
            features.append(feature)
            values.append((1 + DECAY) * (i == j))
    return Sensing(torch.stack(features)[None], torch.tensor([values], dtype=torch.float64))


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
    problem: Sensing,
    rank: int,
    starts: int,
    decay: float,
    name: str,
    seeds: Sequence[int],
    steps: int = 400,
) -> Tensor:
    """B A (starts, w, p, q) after descent on 1/2 |residual|^2 + decay/2 (|A|^2 + |B|^2) from random
    starts.

    Over all factorisations of X, the least of decay/2 (|A|^2 + |B|^2) is decay |X|_*, so this
    problem and the convex one share their minimum.
    """
    count = problem.values.shape[1]
    rngs = [generator(f"{name} rank {rank} of {count}", seed) for seed in seeds]
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
        ranks = rank_of(convex_solution(sensing(count, settings.each, "landscape-existence")))
        for seed, rank in zip(settings.each, ranks.tolist(), strict=True):
            yield Observation(f"Gaussian, KN={count}", seed, jang_rank(count), rank)
    for tight in range(2, 7):
        count = tight * (tight + 1) // 2
        (rank,) = rank_of(convex_solution(tight_problem(tight))).tolist()
        rivals = {"sqrt(KN), the 2 forgotten": math.isqrt(count)}
        case = f"symmetric block, KN={count}"
        bound = jang_rank(count)
        yield Observation(case, settings.first, bound, rank, 0.0, 0.0, rivals, sought=True)


def check_no_spurious(settings: Settings) -> Iterator[Observation]:
    """The least rank above the condition, and the rank of the solution itself, three starts each:
    the worst of them over the convex optimum."""
    for count in (3, 20):
        problem = sensing(count, settings.each, "landscape-no-spurious")
        solution = convex_solution(problem)
        best = objective(problem, solution)
        ranks = [("", jang_rank(count) + 1)]
        if count > 3:  # at KN = 3, r = 1, a start may end 14 % above the optimum
            ranks.append((", two below it", jang_rank(count) - 1))
        for name, rank in ranks:
            reached = factored_minimum(
                problem, rank, 3, DECAY, "landscape-no-spurious", settings.each
            )
            worst = (objective(problem, reached) / best).amax(0)
            enough = rank_of(solution) <= rank
            for seed, ratio, fits in zip(
                settings.each, worst.tolist(), enough.tolist(), strict=True
            ):
                if fits:
                    case = f"KN={count}, the condition's rank{name}"
                    yield Observation(case, seed, 1.0, ratio)


def check_low_rank(settings: Settings) -> Iterator[Observation]:
    for count in COUNTS[:1]:
        problem = sensing(count, settings.each, "landscape-low-rank")
        wanted = convex_solution(problem)
        (reached,) = factored_minimum(
            problem, SIDE, 1, DECAY, "landscape-low-rank", settings.each, steps=1000
        )
        distance = (reached - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))
        for seed, share in zip(settings.each, distance.tolist(), strict=True):
            yield Observation(f"KN={count}, trained at r={SIDE}", seed, 0.0, share)


def manifold_dimension(rank: int) -> int:
    """Dimension of the set of (p, q) matrices of that rank: r (p + q) - r^2."""
    return rank * 2 * SIDE - rank**2


def least_misfit(
    problem: Sensing, rank: int, starts: int, name: str, seeds: Sequence[int]
) -> Tensor:
    """(w,): the smallest mean squared residual of any B A, by damped Gauss-Newton steps
    (Levenberg and Marquardt), the best of some starts."""
    count = problem.values.shape[1]
    rngs = [generator(f"{name} rank {rank} of {count}", seed) for seed in seeds]
    a, b = (
        torch.stack([normal(starts, *shape, rng=rng) for rng in rngs], dim=1) / SIDE**0.5
        for shape in ((rank, SIDE), (SIDE, rank))
    )
    damping = torch.full(a.shape[:2], 1e-2, dtype=torch.float64)
    features, identity = problem.features, torch.eye(2 * SIDE * rank, dtype=torch.float64)
    for _ in range(80):
        residual = problem.residual(b @ a)
        by_b = (features @ a.mT[:, :, None]).flatten(3)  # (starts, w, KN, SIDE * rank)
        by_a = (b.mT[:, :, None] @ features).flatten(3)
        jacobian = torch.cat([by_b, by_a], dim=3)
        normal_matrix = jacobian.mT @ jacobian + damping[..., None, None] * identity
        step = torch.linalg.solve(normal_matrix, -(jacobian.mT @ residual[..., None]))[..., 0]
        new_b = b + step[..., : SIDE * rank].reshape(b.shape)
        new_a = a + step[..., SIDE * rank :].reshape(a.shape)
        better = problem.residual(new_b @ new_a).square().sum(-1) < residual.square().sum(-1)
        a, b = (
            torch.where(better[..., None, None], new, old) for new, old in ((new_a, a), (new_b, b))
        )
        damping = torch.where(better, damping / 3, damping * 5).clamp(1e-12, 1e6)
    return problem.residual(b @ a).square().mean(-1).amin(0)


def check_fit(settings: Settings) -> Iterator[Observation]:
    for rank in (1, 2, 3):
        dimension = manifold_dimension(rank)
        for more in (-1, 4):
            problem = sensing(dimension + more, settings.each, "landscape-fit")
            misfit = least_misfit(problem, rank, 6, "landscape-fit", settings.each)
            for seed, value in zip(settings.each, misfit.tolist(), strict=True):
                case = f"r={rank}, KN = dimension {more:+d} = {dimension + more}"
                yield Observation(case, seed, float(more < 0), float(value < 1e-10))


JANG = (
    "Jang, Lee, Ryu 2024, arXiv 2402.11867 [paper: abstract; recall: exact condition]; checked here"
)


CLAIMS = (
    Claim(
        id="landscape-existence",
        kind="theorem",
        title="the regularised solution has rank r with r (r + 1) / 2 <= KN",
        statement=(
            "Full fine-tuning in the NTK regime has a low-rank solution: about sqrt(2 KN). The "
            "symmetric part of a block attains the bound; Gaussian problems end at rank 1 to 4 "
            "where it allows 2 to 5."
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
        computed=(
            "rank of the convex solution: Gaussian problems, KN = 3, 6, 10, 20, and symmetric "
            "blocks, r = 2 .. 6, KN = r (r + 1) / 2"
        ),
        relation="<=",
        tolerance=0.0,
        check=check_existence,
    ),
    Claim(
        id="landscape-no-spurious",
        kind="measurement",
        title="descent on Gaussian problems finds the global optimum, even below Jang's rank",
        statement=(
            "For r (r + 1) / 2 > KN there are no spurious second-order points of a randomly "
            "perturbed objective (Jang et al.). Here nothing is perturbed, and plain descent "
            "reaches the convex optimum from every start tried, at KN = 20 also two ranks "
            "below, wherever the optimum itself has so low a rank: the condition is not seen. At "
            "KN = 3 and r = 1 it is: a start may end 14 % above the optimum."
        ),
        formula="min over B, A found by descent = min_X 1/2 |residual|^2 + decay |X|_*",
        source=JANG,
        assumptions="as landscape-existence; Gaussian features and values",
        derivation=(
            "none: a measurement. decay/2 (|A|^2 + |B|^2) is at least decay |BA|_*, with equality "
            "for balanced factors, so no start can end below"
        ),
        computed="worst of three starts over the convex optimum, KN = 3, 20",
        relation="==",
        tolerance=0.02,
        check=check_no_spurious,
    ),
    Claim(
        id="landscape-low-rank",
        kind="theorem",
        title="in the linearised problem, weight decay on B A is a nuclear norm on the product",
        statement=(
            "A generous adapter with weight decay ends at the low-rank convex solution. This is "
            "Srebro's identity; Kim et al. treat training beyond the linearised regime, which is "
            "not checked here."
        ),
        formula="min over B A = X of (|A|^2 + |B|^2) / 2 = |X|_*;  B A = argmin_X ..., r = 8",
        source="Srebro 2004 [recall]; compare Kim et al. 2025, arXiv 2502.09376 [paper: abstract]",
        assumptions="as landscape-existence; r = 8 is full rank",
        derivation=(
            "|X|_* = |B A|_* <= |B| |A| <= (|A|^2 + |B|^2) / 2, with equality for the SVD's "
            "balanced factors; so both problems share their minimum"
        ),
        computed=(
            "relative distance of B A from the convex solution after descent at r = 8, KN = 3; "
            "0.01 is what 1,000 steps leave"
        ),
        relation="==",
        tolerance=0.01,
        check=check_low_rank,
    ),
    Claim(
        id="landscape-fit",
        kind="measurement",
        title="rank r fits KN generic numbers exactly while KN is below r (p + q) - r^2",
        statement=(
            "The dimension of the rank-r matrices decides: one number less is fitted, four "
            "more are not. A factor of 1.35 to spare, which arXiv 2605.03724 asks of gradient "
            "descent at size, is not needed at 8 x 8 by damped Gauss-Newton steps."
        ),
        formula="misfit 0 iff KN <= r (p + q) - r^2, tried at one less and four more",
        source="the impossible half [derived]; arXiv 2605.03724 [paper: abstract]; found here",
        assumptions="Gaussian features and values, no decay, X is 8 x 8",
        derivation=(
            "above the dimension, the values that rank-r matrices reach are a set of measure 0; "
            "below it nothing is proved"
        ),
        computed="1 if the best of six starts fits to 1e-10, r = 1, 2, 3, one less and four more",
        relation="==",
        check=check_fit,
    ),
)

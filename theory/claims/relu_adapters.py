"""What low-rank adapters on a ReLU network can reach (Zeng and Lee 2024, arXiv 2310.17513, section
4).

The frozen network has M layers for every layer of the target. In a group of M layers, the first
M - 1 get biases so large that every unit is active on the sample, so they act as matrices. The last
layer's bias takes those offsets back, and its ReLU is the target's. So a group is the linear case.
With E_i the tail that rank R leaves on target layer i:

    exact        if R M >= D
    one layer    E||f - ft||^2 <= c E||E_1 x||^2        c = 1, and 1/2 without bias
    more layers  E||f - ft||   <= sum_i prod_{k>i} ||Wt_k + E_k|| E||E_i xt_{i-1}||

Axis legend: b points, D width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.claim import (
    Claim,
    Observation,
    Settings,
    generator,
    mean_and_error,
    near_rotation,
    normal,
    orthonormal,
)
from theory.claims.leakage import arc_cosine
from theory.claims.linear_adapters import adapted, constructed, predicted_error, product
from theory.search import climbed


@dataclass(frozen=True)
class Network:
    """x -> relu(W_L ... relu(W_1 x + b_1) ... + b_L)."""

    weights: list[Tensor]  # each (D, D)
    biases: list[Tensor]  # each (D,)

    def __call__(self, x: Tensor) -> Tensor:
        """(b, D) -> (b, D)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.relu(x @ weight.T + bias)
        return x


def adapt(
    frozen: list[Tensor], target: Network, rank: int, sample: Tensor
) -> tuple[Network, list[Tensor]]:
    """The frozen weights with adapters of this rank and free biases, as near to the target as the
    construction above brings them.

    sample (b, D): the points on which the inner layers stay active. Returns the network and the
    tails E_i (D, D).
    """
    per_layer = len(frozen) // len(target.weights)
    weights, biases, tails, x = [], [], [], sample
    for i, (goal, goal_bias) in enumerate(zip(target.weights, target.biases, strict=True)):
        group = frozen[i * per_layer : (i + 1) * per_layer]
        group = adapted(group, constructed(group, goal, rank))
        tails.append(product(group) - goal)
        offset = torch.zeros_like(goal_bias)
        for weight in group[:-1]:
            bias = 1 - (x @ weight.T).amin(0)  # the smallest pre-activation on the sample becomes 1
            x, offset = x @ weight.T + bias, weight @ offset + bias
            weights.append(weight)
            biases.append(bias)
        last = goal_bias - group[-1] @ offset
        x = torch.relu(x @ group[-1].T + last)
        weights.append(group[-1])
        biases.append(last)
    return Network(weights, biases), tails


def problem(
    dim: int, depth: int, target_depth: int, seed: int, name: str
) -> tuple[list[Tensor], Network, Tensor]:
    """Frozen factors, a target network with biases, and a sample (4000, D) from N(0, I)."""
    rng = generator(f"{name} D={dim} L={depth} Lt={target_depth}", seed)
    frozen = [near_rotation(dim, rng) for _ in range(depth)]
    goals = [normal(dim, dim, rng=rng) / dim**0.5 for _ in range(target_depth)]
    target = Network(goals, [0.3 * normal(dim, rng=rng) for _ in goals])
    return frozen, target, normal(4000, dim, rng=rng)


def check_exact(settings: Settings) -> Iterator[Observation]:
    for dim, depth, target_depth in ((16, 1, 1), (16, 2, 1), (8, 4, 1), (8, 4, 2), (9, 6, 3)):
        rank = math.ceil(dim / (depth // target_depth))
        for seed in settings.each:
            frozen, target, sample = problem(dim, depth, target_depth, seed, "relu-exact")
            network, _ = adapt(frozen, target, rank, sample)
            shape = f"D={dim}, L={depth}, Lt={target_depth}, R={rank}"
            between = (sample + sample.roll(1, 0)) / 2  # points that set no bias
            points = {"on the sample": sample}
            if target_depth == 1:  # the units below stay active on all convex combinations
                points["between its points"] = between
            for where, x in points.items():
                error = float((network(x) - target(x)).abs().max())
                yield Observation(f"{shape}, {where}", seed, 0.0, error)


def symmetric(points: Tensor) -> Tensor:
    """(b, D) -> (2 b, D): every point and its negative."""
    return torch.cat([points, -points])


def check_one_layer(settings: Settings) -> Iterator[Observation]:
    """Exact on every finite sample with its own mean of |E x|^2: nothing is estimated."""
    dim, depth = 16, 2
    for seed in settings.each:
        frozen, target, sample = problem(dim, depth, 1, seed, "relu-one-layer")
        (goal,) = target.weights
        sample = symmetric(sample[:1000])
        none, much = torch.zeros(dim, dtype=torch.float64), 100 * torch.ones(dim).double()
        tails = {f"R={r}": adapt(frozen, target, r, sample)[1][0] for r in (1, 4, 7)}
        for name, tail in {**tails, "scaled by 1.1": 0.1 * goal}.items():
            linear = float((sample @ tail.T).square().sum(1).mean())
            cases = {
                "no bias": (none, linear / 2),
                "bias": (target.biases[0], linear),
                "large bias": (much, linear),
            }
            for case, (bias, bound) in cases.items():
                reached, wanted = Network([goal + tail], [bias]), Network([goal], [bias])
                mse = float((reached(sample) - wanted(sample)).square().sum(1).mean())
                yield Observation(f"{case}, {name}", seed, bound, mse)
        yield from one_layer_adversary(seed)


def one_layer_adversary(seed: int) -> Iterator[Observation]:
    """The largest error over its bound that a search finds, three units on four inputs."""
    rng = generator("relu-one-layer adversary", seed)
    start = [normal(3, 3, rng=rng), normal(3, 3, rng=rng), normal(4, 3, rng=rng)]

    def ratio(goal: Tensor, tail: Tensor, points: Tensor, bias: Tensor | None = None) -> float:
        x, added = symmetric(points), torch.zeros(3).double() if bias is None else bias
        reached, wanted = Network([goal + tail], [added]), Network([goal], [added])
        return float((reached(x) - wanted(x)).square().sum() / (x @ tail.T).square().sum())

    found = climbed(ratio, start, rng, 300)
    yield Observation("no bias, a search", seed, 0.5, found, sought=True)
    found = climbed(ratio, [*start, normal(3, rng=rng)], rng, 300)
    yield Observation("bias, a search", seed, 1.0, found, sought=True)


def expected_error(reached: Tensor, goal: Tensor) -> float:
    """E||relu(W x) - relu(Wt x)||^2 for x ~ N(0, I), without bias; W and Wt are (D, D).

    Row by row it is half of |w|^2 + |wt|^2 - 2 |w| |wt| J(angle).
    """
    cos = torch.nn.functional.cosine_similarity(reached, goal, dim=1).clamp(-1, 1)
    cross = reached.norm(dim=1) * goal.norm(dim=1) * arc_cosine(cos.arccos())
    return float((reached.square().sum(1) + goal.square().sum(1) - 2 * cross).sum() / 2)


# Singular values of E in an example of the paper, D = 8, L = 2, R = 2 [recall].
AUTHORS = (0.718, 0.6025, 0.3661, 0.3111, 0.2087, 0.1261, 0.0905, 0.0088)


def check_closed_form(settings: Settings) -> Iterator[Observation]:
    dim, count = 16, 200_000 if settings.full else 20_000
    for seed in settings.each:
        frozen, target, sample = problem(dim, 2, 1, seed, "relu-closed-form")
        (goal,) = target.weights
        rng = generator("relu-closed-form points", seed)
        u, v = (orthonormal(8, 8, rng) for _ in range(2))
        left = torch.tensor([0.0] * 4 + list(AUTHORS[4:]), dtype=torch.float64)
        tails = {f"R={r}": (goal, adapt(frozen, target, r, sample)[1][0]) for r in (1, 4, 7)}
        tails["the authors' spectrum, R=2"] = (near_rotation(8, rng), u @ torch.diag(left) @ v)
        for case, (wanted, tail) in tails.items():
            x = normal(count, len(wanted), rng=rng)
            missed = torch.relu(x @ (wanted + tail).T) - torch.relu(x @ wanted.T)
            mse, error = mean_and_error(missed.square().sum(1))
            linear = float(tail.square().sum())
            rivals = {"half of the linear error": linear / 2, "0.45 of it": 0.45 * linear}
            bound = expected_error(wanted + tail, wanted)
            yield Observation(case, seed, bound, mse, error, 0.0, rivals)


def layered_bound(target: Network, tails: list[Tensor], sample: Tensor) -> float:
    """sum_i prod_{k>i} ||Wt_k + E_k|| E||E_i xt_{i-1}||, in spectral norms.

    tails: each E_i (D, D). The expectation is the mean over the sample (b, D).
    """
    bound, x = 0.0, sample
    for weight, bias, tail in zip(target.weights, target.biases, tails, strict=True):
        growth = float(torch.linalg.matrix_norm(weight + tail, 2))
        bound = growth * bound + float((x @ tail.T).norm(dim=1).mean())
        x = torch.relu(x @ weight.T + bias)
    return bound


def check_layers(settings: Settings) -> Iterator[Observation]:
    for seed in settings.each:
        for dim, depth, target_depth in ((8, 4, 2), (12, 6, 3)):
            frozen, target, sample = problem(dim, depth, target_depth, seed, "relu-layers")
            for rank in range(1, math.ceil(dim * target_depth / depth)):
                network, tails = adapt(frozen, target, rank, sample)
                error = float((network(sample) - target(sample)).norm(dim=1).mean())
                bound = layered_bound(target, tails, sample)
                case = f"D={dim}, L={depth}, Lt={target_depth}, R={rank}"
                yield Observation(case, seed, bound, error)
        scale, more, x = torch.rand(3, 3, 1, 1, generator=generator("relu-layers", seed)).double()
        target = Network(list(scale), [torch.zeros(1).double()] * 3)
        larger = Network(list(scale + more), target.biases)
        error = float((larger(x[:, 0]) - target(x[:, 0])).norm(dim=1).mean())
        bound = layered_bound(target, list(more), x[:, 0])
        yield Observation("positive numbers", seed, bound, error, sought=True)
        yield layers_adversary(seed)


def layers_adversary(seed: int) -> Observation:
    """The largest error over its bound that a search finds: two layers of two units, biases too."""
    rng = generator("relu-layers adversary", seed)

    def ratio(goals: Tensor, biases: Tensor, tails: Tensor, x: Tensor) -> float:
        target = Network(list(goals), list(biases))
        larger = Network(list(goals + tails), list(biases))
        error = float((larger(x) - target(x)).norm(dim=1).mean())
        return error / layered_bound(target, list(tails), x)

    shapes = ((2, 2, 2), (2, 2), (2, 2, 2), (3, 2))
    found = climbed(ratio, [normal(*shape, rng=rng) for shape in shapes], rng, 300)
    return Observation("two layers, a search", seed, 1.0, found, sought=True)


def check_tails(settings: Settings) -> Iterator[Observation]:
    for seed in settings.each:
        frozen, target, sample = problem(12, 6, 3, seed, "relu-tails")
        for rank in (1, 3, 5):
            _, tails = adapt(frozen, target, rank, sample)
            for i, tail in enumerate(tails):
                gap = target.weights[i] - product(frozen[2 * i : 2 * i + 2])
                norm, predicted = torch.linalg.matrix_norm(tail, 2), predicted_error(gap, 2 * rank)
                yield Observation(f"layer {i + 1}, R={rank}", seed, predicted, float(norm))


PAPER = (
    "Zeng and Lee 2024, arXiv 2310.17513, fully connected case [recall]; "
    "re-derived and checked here"
)

CLAIMS = (
    Claim(
        id="relu-exact",
        kind="theorem",
        title="ReLU nets: adapters of rank ceil(D / M) and free biases are exact on the sample",
        statement=(
            "With M = L / Lt frozen layers to a target layer, "
            "rank ceil(D / M) reproduces any target network."
        ),
        formula="R >= ceil(D / M)  =>  f = ft on the sample",
        source=PAPER,
        assumptions=(
            "uniform partition; bounded sample; biases may change; non-singular as linear-error"
        ),
        derivation=(
            "large biases keep the inner layers active, so each group is the linear case; "
            "the last bias repairs them; active units stay active on convex combinations"
        ),
        computed=(
            "largest output error on 4,000 points, five shapes (D, L, Lt), and for Lt = 1 between "
            "the points"
        ),
        relation="==",
        tolerance=1e-8,
        check=check_exact,
    ),
    Claim(
        id="relu-tails",
        kind="identity",
        title="ReLU nets below the exact rank: layer i is missed by sigma_{RM+1}(Wt_i - prod W_l)",
        statement=(
            "Each group of frozen layers carries its own linear error, "
            "the same singular value as without ReLU."
        ),
        formula="||E_i||_2 = sigma_{RM+1}",
        source=PAPER,
        assumptions="as relu-exact",
        derivation="linear-error within the group",
        computed=(
            "spectral norm of the adapted group less the target layer, D = 12, M = 2, "
            "three layers, R = 1, 3, 5"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_tails,
    ),
    Claim(
        id="relu-one-layer",
        kind="theorem",
        title="one ReLU layer: the error is at most the linear one, and half of it without bias",
        statement=(
            "The ReLU never makes the linear error larger. Without bias, on any symmetric law of "
            "inputs, it at least halves it. Both constants are attained: 1 by large biases, 1/2 "
            "where reached and wanted rows lie on one ray."
        ),
        formula="E||f - ft||^2 <= c E||E x||^2,  c = 1/2 without bias, c = 1 with bias",
        source="[derived]",
        assumptions="x and -x equally likely for c = 1/2; none for c = 1",
        derivation=(
            "c = 1: |relu(a) - relu(b)| <= |a - b|. c = 1/2: take x and -x together. For a, b of "
            "one sign (relu a - relu b)^2 + (relu -a - relu -b)^2 = (a - b)^2, for one of the two "
            "terms is 0; for different signs the sum is a^2 + b^2 <= (a - b)^2, for a b < 0"
        ),
        computed=(
            "2,000 points x and -x, adapters of rank 1, 4, 7 (D = 16, L = 2) and a matrix scaled "
            "by 1.1; no bias, biases of size 0.3, biases of 100; and a search over all of these"
        ),
        relation="<=",
        tolerance=1e-9,
        check=check_one_layer,
    ),
    Claim(
        id="relu-closed-form",
        kind="prediction",
        title="one ReLU layer without bias: its error is known exactly, from arc-cosine kernels",
        statement=(
            "For x ~ N(0, I) the error of each unit is an arc-cosine kernel. As the angle closes "
            "it tends to one half of the linear error, as relu-one-layer says. Published test "
            "errors .0329 (R = 3) and .0041 (R = 2) stand beside linear ones of .0847 and .0085 "
            "[recall]."
        ),
        formula="E = (1/2) sum_i (|w_i|^2 + |wt_i|^2 - 2 |w_i| |wt_i| J(angle_i))",
        source="[derived]; published numbers: arXiv 2310.17513, code and examples [recall]",
        assumptions="no bias in the target, x ~ N(0, I)",
        derivation="E[relu(a) relu(b)] = |a| |b| J / 2 and E[relu(a)^2] = |a|^2 / 2",
        computed=(
            "20,000 fresh points, R = 1, 4, 7 at D = 16, and a gap with the paper's spectrum at "
            "D = 8, R = 2"
        ),
        relation="==",
        check=check_closed_form,
    ),
    Claim(
        id="relu-layers",
        kind="theorem",
        title="several ReLU layers: errors grow at most by the adapted norms above them",
        statement=(
            "Errors of lower layers grow through the upper ones at most by their norms. As "
            "recalled the bound has max_k and Frobenius norms and an unstated beta; this sharper "
            "form is proved below. Positive numbers attain it; random networks lie 2 to 20 times "
            "below."
        ),
        formula="E||f - ft|| <= sum_i prod_{k>i} ||Wt_k + E_k|| E||E_i xt_{i-1}||",
        source=PAPER + "; this form [derived]",
        assumptions="the construction of relu-exact",
        derivation=(
            "(Wt + E) x - Wt xt = (Wt + E)(x - xt) + E xt and relu is 1-Lipschitz, so "
            "d_i <= ||Wt_i + E_i|| d_{i-1} + ||E_i xt_{i-1}||, unrolled"
        ),
        computed=(
            "mean error on 4,000 points below the threshold, (D, L, Lt) = (8, 4, 2) and "
            "(12, 6, 3); three layers of positive numbers; and a search over two layers, D = 2"
        ),
        relation="<=",
        tolerance=1e-9,
        check=check_layers,
    ),
)

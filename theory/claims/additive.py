"""How often experts compose whose logits add up: at most T2, and built ones of that order.

The proof stands in the docstring of `composition.py`.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from recycle.measure.interaction import additive_bound
from theory.claim import Claim, Observation, Settings, averaged, generator, normal
from theory.claims.composition import INDEPENDENT, PROOF


def partitions(n: int, most: int) -> Iterator[tuple[int, ...]]:
    """All partitions of n into parts of at most this size, the largest part first."""
    if n == 0:
        yield ()
    for part in range(min(n, most), 0, -1):
        for rest in partitions(n - part, part):
            yield (part, *rest)


@cache
def mean_lis(n: int) -> float:
    """E LIS(n), the mean longest increasing subsequence of a uniform permutation: the sum over
    partitions of the first part times (n! / product of hooks)^2 / n! (Schensted 1961)."""
    total = 0
    for shape in partitions(n, n):
        columns = [sum(part > j for part in shape) for j in range(shape[0])]
        hooks = math.prod(
            shape[i] - j + columns[j] - i - 1 for i in range(len(shape)) for j in range(shape[i])
        )
        total += shape[0] * (math.factorial(n) // hooks) ** 2
    return total / math.factorial(n)


@cache
def matchings(n: int) -> tuple[Tensor, Tensor, list[tuple[int, int, Tensor]]]:
    """All permutations (N!, N), their number's arange, and for each pair (S, T) of subsets of one
    size k > 1: (index of S, k, entries (k!, k) of the flat (N, N) weights of its matchings)."""
    perms = torch.tensor(list(itertools.permutations(range(n))))
    pairs = []
    index = 0
    for k in range(2, n + 1):
        orders = torch.tensor(list(itertools.permutations(range(k))))
        for s in itertools.combinations(range(n), k):
            for t in itertools.combinations(range(n), k):
                flat = torch.tensor(s)[None] * n + torch.tensor(t)[orders]
                pairs.append((index, k, flat))
            index += 1
    return perms, torch.arange(len(perms)), pairs


def best_additive(weights: Tensor) -> float:
    """Expected accuracy of the best c for each r~2, given b = weights (N, N): the mean size of the
    largest good set, over N. A good set can be answered rightly as a whole, for the assignment
    problem's dual prices are such a c."""
    n = len(weights)
    perms, numbers, pairs = matchings(n)
    size = torch.ones(len(perms))
    flat = weights.flatten()
    for _, k, entries in pairs:
        heaviest = entries[flat[entries].sum(1).argmax()]
        fits = torch.zeros(len(perms), dtype=torch.bool)
        rows, columns = heaviest // n, heaviest % n
        fits[numbers] = (perms[:, rows] == columns).all(1)
        size = torch.where(fits, size.clamp_min(k), size)
    return float(size.double().mean()) / n


def climbed(n: int, tries: int, rng: torch.Generator) -> float:
    """The largest expected accuracy that hill climbing over b finds."""
    weights = normal(n, n, rng=rng)
    best = best_additive(weights)
    for _ in range(tries):
        moved = weights + normal(n, n, rng=rng) * (torch.rand(n, n, generator=rng) < 0.3)
        if (value := best_additive(moved)) >= best:
            weights, best = moved, value
    return best


def longest_increasing(permutation: Sequence[int]) -> list[int]:
    """Places of one longest increasing subsequence."""
    length, before = [1] * len(permutation), [-1] * len(permutation)
    for i, value in enumerate(permutation):
        for j in range(i):
            if permutation[j] < value and length[j] + 1 > length[i]:
                length[i], before[i] = length[j] + 1, j
    place, chain = max(range(len(permutation)), key=length.__getitem__), []
    while place >= 0:
        chain.append(place)
        place = before[place]
    return chain[::-1]


def envelope_accuracy(second: Sequence[int]) -> float:
    """Share of bridges u that additive logits u z + c_z answer with second[u]."""
    n, chain = len(second), longest_increasing(second)
    offset = torch.full((n,), -math.inf, dtype=torch.float64)
    offset[second[chain[0]]] = 0.0
    for u, v in itertools.pairwise(chain):  # the lines of neighbours cross midway between u and v
        step = (second[v] - second[u]) * (u + v) / 2
        offset[second[v]] = offset[second[u]] - step
    lines = torch.arange(n, dtype=torch.float64)
    logits = torch.outer(lines, lines) + offset
    return float((logits.argmax(1) == torch.tensor(second)).double().mean())


def check_additive(settings: Settings) -> Iterator[Observation]:
    for seed in settings.each:
        for n, tries in ((2, 10), (3, 60), (4, 60)):
            found = climbed(n, tries, generator(f"compose-additive {n}", seed))
            rivals = {"chance": 1 / n} if n < 4 else {}
            case = f"hill climbing, N={n}"
            yield Observation(case, seed, additive_bound(n), found, 0.0, 0.0, rivals, sought=True)
        for n in (12, 25, 50):
            rng = generator(f"compose-additive envelope {n}", seed)
            drawn = [torch.randperm(n, generator=rng).tolist() for _ in range(100)]
            share = sum(map(envelope_accuracy, drawn)) / len(drawn)
            yield Observation(f"built experts, N={n}", seed, additive_bound(n), share)


def check_attained(settings: Settings) -> Iterator[Observation]:
    for n in (2, 3, 4, 5):
        perms = list(itertools.permutations(range(n)))
        share = sum(map(envelope_accuracy, perms)) / len(perms)
        yield Observation(f"all permutations, N={n}", settings.first, mean_lis(n) / n, share)
    for n in (8, 12, 25):
        rivals = {"2 / sqrt N": 2 / math.sqrt(n), "1 / sqrt N": 1 / math.sqrt(n)}
        for seed in settings.each:
            rng = generator(f"compose-attained {n}", seed)
            draws = (
                {"": envelope_accuracy(torch.randperm(n, generator=rng).tolist())}
                for _ in range(300)
            )
            for seen in averaged(seed, draws, {"": mean_lis(n) / n}, rivals={"": rivals}):
                yield replace(seen, case=f"300 permutations, N={n}")


CLAIMS = (
    Claim(
        id="compose-additive",
        kind="theorem",
        title="T2: experts whose logits add up compose at most e / sqrt N of two-hop questions",
        statement=(
            "However the experts were trained, even designed for one another: if each adds its own "
            "part to the logits, the expected two-hop accuracy obeys a bound that falls to 0 with "
            "N: 3/4 for 2 bridges, 2/3 for 3, .40 for 25, .12 for 400. An accuracy above it, on "
            "average over worlds, proves that the experts act on one another."
        ),
        formula=(
            "logits a(x) + b(x, r~1) + c(x, r~2)  =>  accuracy <= "
            "(1/N) sum_k min(1 - [k > 1] / N!, C(N, k) / k!) ~ e / sqrt N"
        ),
        source="[derived]",
        assumptions=INDEPENDENT + "; b and c are any functions",
        derivation=(
            PROOF + "a set that is answered rightly is the one heaviest matching under b, for c "
            "cancels around every cycle; a uniform r~2 contains few of those"
        ),
        computed=(
            "hill climbing over b with the best c for every r~2, N = 2, 3 (the bound is attained) "
            "and 4; experts built on increasing subsequences, N = 12, 25, 50"
        ),
        relation="<=",
        tolerance=1e-12,
        check=check_additive,
    ),
    Claim(
        id="compose-attained",
        kind="theorem",
        title="additive experts do reach E LIS(N) / N, about 2 / sqrt N of two-hop questions",
        statement=(
            "The bound T2 is of the right order: lines u z + c_z whose upper envelope follows a "
            "longest increasing subsequence of r~2 answer all of its bridges."
        ),
        formula="accuracy = E LIS(N) / N = (1/N) sum over partitions of N of lambda_1 f^2 / N!",
        source="[derived]; E LIS by Schensted's correspondence and the hook formula",
        assumptions="expert 1 knows r~1(x) = u, expert 2 knows r~2",
        derivation=(
            "neighbours (u, z), (u', z') of the subsequence have u < u' and z < z', so their lines "
            "cross once; c puts the crossing midway between u and u', and the rest at -infinity"
        ),
        computed="all permutations for N = 2 .. 5; 300 random ones for N = 8, 12, 25",
        relation="==",
        tolerance=1e-12,
        check=check_attained,
    ),
)

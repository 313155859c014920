"""A claim is a sentence with a number in it, and a check that could prove it wrong.

A check yields observations, one for each case and seed. An observation sets an observed number
beside a bound; the claim says how the two must stand (`==`, `<=`, `>=`) and within which tolerance.
The claim holds when every observation does. A violated claim names its first counterexample: the
case, the seed and the two numbers.

    def check(settings):
        for seed in range(settings.seeds):
            yield Observation(case="N=8", seed=seed, bound=7.0, observed=rank_of_the_edit(seed))
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

RELATIONS = ("==", "<=", ">=")


class TheoryError(Exception):
    """A person gave bad input: one line that names the thing, the value and the remedy."""


@dataclass(frozen=True)
class Settings:
    """How much a check computes: `seeds` repetitions of every case; `full` widens the sizes, which
    takes minutes instead of seconds.

    Raises:
        TheoryError: there is no seed.
    """

    seeds: int = 5
    full: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise TheoryError(
                f"--seeds {self.seeds}: at least one seed is needed; use --seeds 1 or more"
            )


@dataclass(frozen=True)
class Observation:
    """What one case gave with one seed, beside the bound that the claim sets for it."""

    case: str
    seed: int
    bound: float
    observed: float


@dataclass(frozen=True)
class Claim:
    """A statement with its source, assumptions and derivation, and the check that tries it.

    `title` is the form for tables, in one line. `source` names the paper and says how far we trust
    our knowledge of it: [paper] the paper states it, [derived] this project worked it out, [recall]
    quoted from memory and verified here. `computed` says in words what `check` computes. `picture`
    draws the claim into matplotlib axes; most claims have none.

    Raises:
        ValueError: the relation is none of `==`, `<=`, `>=`.
    """

    id: str
    title: str
    statement: str
    formula: str
    source: str
    assumptions: str
    derivation: str
    computed: str
    relation: str
    tolerance: float
    check: Callable[[Settings], Iterator[Observation]]
    picture: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(
                f"claim {self.id}: relation {self.relation!r} is not one of {', '.join(RELATIONS)}"
            )

    def excess(self, observation: Observation) -> float:
        """How far the observation stands on the wrong side of its bound; an observation that is not
        a number is infinitely far."""
        gap = observation.observed - observation.bound
        if math.isnan(gap):
            return math.inf
        return {"==": abs(gap), "<=": gap, ">=": -gap}[self.relation]

    def holds(self, observation: Observation) -> bool:
        return self.excess(observation) <= self.tolerance

    def nearness(self, observation: Observation) -> float:
        """The excess without rounding noise: every machine shows the same observation as worst."""
        excess = self.excess(observation)
        return excess if math.isinf(excess) else round(excess, decimals(self.tolerance))


@dataclass(frozen=True)
class Case:
    """All seeds of one case, shown by the observation that comes nearest to breaking the claim."""

    name: str
    n: int
    worst: Observation
    holds: bool


@dataclass(frozen=True)
class Result:
    """The verdict on a claim, and the observations that explain it."""

    claim: Claim
    cases: tuple[Case, ...]
    worst: Observation
    counterexample: Observation | None
    n: int

    @property
    def holds(self) -> bool:
        return self.counterexample is None

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "violated"


def decimals(tolerance: float) -> int:
    """Digits after the point that matter to a claim: down to a hundredth of its tolerance, 9 where
    the tolerance is zero."""
    return 2 - math.floor(math.log10(tolerance)) if tolerance else 9


def verify(claim: Claim, settings: Settings) -> Result:
    """Run the claim's check and judge every observation.

    Raises:
        ValueError: the check observed nothing, so it could not have failed.
    """
    observations = list(claim.check(settings))
    if not observations:
        raise ValueError(f"claim {claim.id}: its check observed nothing")
    by_case: dict[str, list[Observation]] = {}
    for observation in observations:
        by_case.setdefault(observation.case, []).append(observation)
    cases = tuple(
        Case(name, len(group), max(group, key=claim.nearness), all(map(claim.holds, group)))
        for name, group in by_case.items()
    )
    return Result(
        claim=claim,
        cases=cases,
        worst=max(observations, key=claim.nearness),
        counterexample=next((o for o in observations if not claim.holds(o)), None),
        n=len(observations),
    )


def generator(name: str, seed: int) -> torch.Generator:
    """A random stream for (name, seed) alone: a new claim changes no other one's numbers."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def normal(*shape: int, rng: torch.Generator) -> torch.Tensor:
    """Standard normal float64 of that shape; every number in theory/ is float64."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def orthonormal(rows: int, dim: int, rng: torch.Generator) -> torch.Tensor:
    """(rows, dim) with orthonormal rows, rows <= dim, uniformly oriented."""
    q, r = torch.linalg.qr(normal(dim, rows, rng=rng))
    return (q * r.diagonal().sign()).T


def near_rotation(dim: int, rng: torch.Generator) -> torch.Tensor:
    """(dim, dim): a random rotation plus noise; products of many such matrices invert safely."""
    return orthonormal(dim, dim, rng) + 0.3 * normal(dim, dim, rng=rng) / dim**0.5

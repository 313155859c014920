"""A claim is a sentence with a number in it, and a check that could prove it wrong.

A check yields observations, one for each case and seed. An observation sets an observed number
beside a bound; the claim says how the two must stand: `==`, `<=` or `>=`. What may lie between them
is stated before the run, not fitted after it:

    allowed = rounding of the claim + 4 standard errors of the observed number + finite-size bias

The claim holds when every observation does. A violated claim names its first counterexample: the
case, the seed and the two numbers. An observation may also carry rivals, the bounds that wrong
formulas of the same shape would set: `theory.power` counts which of them the check would notice.

    def check(settings):
        for seed in settings.each:
            yield Observation(case="N=8", seed=seed, bound=7.0, observed=rank_of_the_edit(seed))
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

RELATIONS = ("==", "<=", ">=")
KINDS = {
    "identity": "algebra that holds to rounding; the check documents it",
    "theorem": "a proof stands in the derivation; the check tries to break it",
    "prediction": "a formula for what a sampled or trained model does, within its standard error",
    "measurement": "a number that was found; fresh seeds must find it again",
}
ERRORS = 4  # standard errors that lie within what is allowed: 63 observations in a million do not


class TheoryError(Exception):
    """A person gave bad input: one line that names the thing, the value and the remedy."""


@dataclass(frozen=True)
class Settings:
    """How much a check computes: `seeds` repetitions of every case, from seed `first` on; `full`
    widens the sizes, which takes minutes instead of seconds.

    Raises:
        TheoryError: there is no seed, or the first one is negative.
    """

    seeds: int = 5
    full: bool = False
    first: int = 0

    @property
    def each(self) -> range:
        return range(self.first, self.first + self.seeds)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise TheoryError(
                f"--seed-from {self.first}: seeds are counted from 0; use --seed-from 0 or more"
            )
        if self.seeds < 1:
            raise TheoryError(
                f"--seeds {self.seeds}: at least one seed is needed; use --seeds 1 or more"
            )


@dataclass(frozen=True)
class Observation:
    """What one case gave with one seed, beside the bound that the claim sets for it.

    `error` is the standard error of the observed number, 0 where nothing is sampled. `bias` is what
    a finite size is known to add at most. `rivals` are the bounds of wrong formulas, by name.
    `sought` says that an inequality's slack was minimised: by a search, or by an instance that was
    built to have none.
    """

    case: str
    seed: int
    bound: float
    observed: float
    error: float = 0.0
    bias: float = 0.0
    rivals: Mapping[str, float] = field(default_factory=dict)
    sought: bool = False

    @property
    def z(self) -> float | None:
        """Observed less bound, beyond the bias, in standard errors; None where nothing is
        sampled."""
        gap = self.observed - self.bound
        beyond = math.copysign(max(abs(gap) - self.bias, 0.0), gap)
        return beyond / self.error if self.error else None


@dataclass(frozen=True)
class Claim:
    """A statement with its source, assumptions and derivation, and the check that tries it.

    `title` is the form for tables, in one line. `kind` is one of `KINDS`. `source` names the paper
    and says how far we trust our knowledge of it: [paper] the paper states it, [derived] this
    project worked it out, [recall] quoted from memory and verified here. `computed` says in words
    what `check` computes. `tolerance` is for rounding alone; what sampling adds stands in the
    observations. `picture` draws the claim into matplotlib axes; most claims have none.

    Raises:
        ValueError: the relation is none of `==`, `<=`, `>=`, or the kind is none of `KINDS`.
    """

    id: str
    kind: str
    title: str
    statement: str
    formula: str
    source: str
    assumptions: str
    derivation: str
    computed: str
    relation: str
    check: Callable[[Settings], Iterator[Observation]]
    tolerance: float = 0.0
    picture: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(
                f"claim {self.id}: relation {self.relation!r} is not one of {', '.join(RELATIONS)}"
            )

        if self.kind not in KINDS:
            raise ValueError(
                f"claim {self.id}: kind {self.kind!r} is not one of {', '.join(KINDS)}"
            )

    def excess(self, observation: Observation) -> float:
        """How far the observation stands on the wrong side of its bound; an observation that is not
        a number is infinitely far."""
        gap = observation.observed - observation.bound
        if math.isnan(gap):
            return math.inf
        return {"==": abs(gap), "<=": gap, ">=": -gap}[self.relation]

    def allowed(self, observation: Observation) -> float:
        """The excess at which the observation still holds."""
        return self.tolerance + ERRORS * observation.error + observation.bias

    def margin(self, observation: Observation) -> float:
        """What is left of the allowed excess; negative for an observation that breaks the claim."""
        return self.allowed(observation) - self.excess(observation)

    def holds(self, observation: Observation) -> bool:
        return self.margin(observation) >= 0

    def nearness(self, observation: Observation) -> float:
        """The excess as a share of what is allowed, without rounding noise: every machine shows the
        same observation as worst."""
        excess, allowed = self.excess(observation), self.allowed(observation)
        if math.isinf(excess) or (not allowed and excess > 0):
            return math.inf
        return round(excess / allowed, 2) if allowed else round(excess, 9)


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
    observations: tuple[Observation, ...]

    @property
    def n(self) -> int:
        return len(self.observations)

    @property
    def holds(self) -> bool:
        return self.counterexample is None

    @property
    def least_slack(self) -> float | None:
        """The smallest slack of an inequality that a search found, as a share of the bound; None
        where none was sought."""
        sought = [o for o in self.observations if o.sought]
        return min((-self.claim.excess(o) / abs(o.bound) for o in sought), default=None)

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "violated"


def decimals(tolerance: float) -> int:
    """Digits after the point that matter to an observation: down to a hundredth of what is allowed,
    9 where nothing is."""
    return 2 - math.floor(math.log10(tolerance)) if tolerance else 9


def verify(claim: Claim, settings: Settings) -> Result:
    """Run the claim's check and judge every observation.

    Raises:
        ValueError: the check observed nothing, so it could not have failed.
    """
    observations = tuple(claim.check(settings))
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
        observations=observations,
    )


def mean_and_error(values: Sequence[float] | torch.Tensor) -> tuple[float, float]:
    """Mean of n independent repeats and its standard error, widened so that `ERRORS` of them leave
    out no more of Student's t with n - 1 degrees of freedom than of a normal law.

    Raises:
        ValueError: fewer than 8 repeats say too little about their own spread.
    """
    x = torch.as_tensor(values, dtype=torch.float64)
    if (n := len(x)) < 8:
        raise ValueError(f"{n} repeats: a standard error takes at least 8")
    # Quantile of t from that of the normal law (Cornish and Fisher, in 1 / degrees of freedom).
    z, f = ERRORS, n - 1
    wider = 1 + (z**2 + 1) / (4 * f) + (5 * z**4 + 16 * z**2 + 3) / (96 * f**2)
    wider += (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / (384 * f**3)
    return float(x.mean()), wider * float(x.std()) / math.sqrt(n)


def share_error(share: float, n: int) -> float:
    """Standard error of the share of n independent trials, each right with this probability."""
    return math.sqrt(share * (1 - share) / n)


def averaged(
    seed: int,
    repeats: Iterable[Mapping[str, float]],
    bounds: Mapping[str, float],
    bias: float = 0.0,
    rivals: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[Observation]:
    """One observation a case: the mean over the repeats, which map cases to numbers, beside the
    case's bound and the bounds that its rivals set."""
    drawn = list(repeats)
    for case, bound in bounds.items():
        mean, error = mean_and_error([draw[case] for draw in drawn])
        yield Observation(case, seed, bound, mean, error, bias, (rivals or {}).get(case, {}))


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

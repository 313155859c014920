"""What one trained factor explains beside a frozen one.

Zhu et al. 2024, arXiv 2402.16842, call it asymmetry: with A frozen at random, a trained B does
nearly as well.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from theory.claim import (
    Claim,
    Observation,
    Settings,
    generator,
    mean_and_error,
    normal,
    orthonormal,
)
from theory.pictures import listed, means


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
    rank, d_in, d_out, draws = 8, 32, 48, 128
    for seed in settings.each:
        rng = generator("asymmetry", seed)
        # A full LoRA of this rank explains all of the change.
        change = normal(d_out, rank, rng=rng) @ normal(rank, d_in, rng=rng)
        flat = torch.eye(d_in, dtype=torch.float64)
        for trained, d in (("B", d_in), ("A", d_out)):
            frozen = torch.stack([orthonormal(rank, d, rng) for _ in range(draws)])
            share, error = mean_and_error(captured(change, flat, frozen, trained))
            case = {"B": "B trained, A frozen: r / d_in", "A": "A trained, B frozen: r / d_out"}
            rivals = {"(r + 1) / d": (rank + 1) / d, "r / (d + 4)": rank / (d + 4)}
            yield Observation(case[trained], seed, rank / d, share, error, 0.0, rivals)


def explained(change: Tensor, spectrum: Tensor, rank: int) -> float:
    """Share that a trained B explains on inputs of covariance diag(spectrum), A random of that
    rank: sum_i w_i s_i / (s_i + k), w_i the share of the change's power in input direction i, and
    k such that sum_i s_i / (s_i + k) = rank."""
    low, high = 0.0, float(spectrum.sum())
    for _ in range(100):  # the sum falls as k grows
        k = (low + high) / 2
        low, high = (k, high) if float((spectrum / (spectrum + k)).sum()) > rank else (low, k)
    power = spectrum * change.square().sum(0)
    return float((power * spectrum / (spectrum + k)).sum() / power.sum())


COVARIANCE_BIAS = 0.03  # of `explained` at d = 32: it is the limit of large d and r


def check_asymmetry_covariance(settings: Settings) -> Iterator[Observation]:
    rank, dim, draws = 8, 32, 64
    scales = torch.arange(1, dim + 1, dtype=torch.float64)
    for seed in settings.each:
        rng = generator("asymmetry-covariance", seed)
        generic = normal(dim, dim, rng=rng)
        for name, change, power in (
            ("generic change, spectrum 1/i", generic, 1),
            ("generic change, spectrum 1/i^2", generic, 2),
            ("change that grows as i, spectrum 1/i", generic * scales, 1),
            ("change that grows as i^2, spectrum 1/i^2", generic * scales**2, 2),
            ("change that grows as i^1/2, spectrum 1/i", generic * scales.sqrt(), 1),
        ):
            spectrum = scales**-power
            frozen = torch.stack([orthonormal(rank, dim, rng) for _ in range(draws)])
            shares = captured(change, torch.diag(spectrum), frozen, "B")
            share, error = mean_and_error(shares)
            bound = explained(change, spectrum, rank)
            rivals = {"r / d": rank / dim} if abs(bound - rank / dim) > 0.01 else {}
            case = f"B trained: {name}"
            yield Observation(case, seed, bound, share, error, COVARIANCE_BIAS, rivals)
            by_a, error = mean_and_error(captured(change, torch.diag(spectrum), frozen, "A"))
            yield Observation(f"A trained: {name}", seed, rank / dim, by_a, error)


def picture_covariance(axes: Any) -> None:
    """What a trained B and a trained A explain of five changes."""
    listed(axes, means(check_asymmetry_covariance(Settings(seeds=3))))
    axes.set_xlabel("share of the change that is explained")
    axes.set_title("Training B wins where the change lies in strong input directions", loc="right")


CLAIMS = (
    Claim(
        id="asymmetry-share",
        kind="theorem",
        title="with one factor frozen at random, the other explains r/d_in (B) or r/d_out (A)",
        statement=(
            "'Training B with a frozen random A is nearly as good' is not a statement about "
            "fitting one fixed change: a full LoRA of that rank explains all of it, a half-frozen "
            "one r/d_in with isotropic inputs."
        ),
        formula="E share = r / d_in (A frozen), r / d_out (B frozen)",
        source="Zhu et al. 2024, arXiv 2402.16842 [recall]; for least squares [derived]",
        assumptions="orthonormal random frozen factor, inputs of covariance I, a change of rank r",
        derivation=(
            "a uniformly random r-dimensional subspace of R^d holds r/d of any fixed vector's power"
        ),
        computed="mean share over 128 draws, r = 8, d_in = 32, d_out = 48",
        relation="==",
        check=check_asymmetry,
    ),
    Claim(
        id="asymmetry-covariance",
        kind="prediction",
        title="training B beats training A where the change lies in strong inputs, else not",
        statement=(
            "B's best fit uses the input covariance, A's cannot. That helps for a generic change, "
            "where B explains 47 % (spectrum 1/i) against A's 25 %, and hurts for a change in "
            "weak input directions: one that grows as i is explained to 17 % by B. "
            "'Training B is better' is a statement about where tasks lie."
        ),
        formula=(
            "share(B) = sum_i w_i s_i / (s_i + k), sum_i s_i / (s_i + k) = r, w_i the change's "
            "share of power in input direction i;  share(A) = r / d"
        ),
        source="Zhu et al. 2024, arXiv 2402.16842 [recall]; formula and condition [derived]",
        assumptions="large d; d_in = d_out = 32, r = 8, spectra 1/i and 1/i^2; bias 0.03",
        derivation=(
            "B solves a regression on r random projections A x. Such a projection acts as ridge "
            "regression whose effective degrees of freedom are r, so direction i keeps s_i / "
            "(s_i + k). At S = I it is r / d; w_i = s_i / sum s gives more, small w_i at large s_i "
            "less. A's share is that of a random subspace of the outputs, r / d for any change"
        ),
        computed="mean shares over 64 draws, five changes, both factors",
        relation="==",
        check=check_asymmetry_covariance,
        picture=picture_covariance,
    ),
)

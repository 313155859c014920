"""Merges by singular values and vectors: svd_r, knots, tsv, iso_c, iso_cts, pico.

All but svd_r work in the core of a layer, which loses nothing for them. With one adapter, svd_r,
tsv and pico give it back. Only svd_r gives identical adapters back at any number of them (where
their rank is at most its own). The order of adapters never matters. All see dW_i alone, except
pico: it weighs the columns of the B_i, so it stands turns (Q A, B Q^T) and moves with other Q.
dW and -dW give 0 in svd_r, iso_c, knots and pico; in tsv and iso_cts the singular directions of
the two are the same, and they cancel there too, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora import Adapter
from recycle.reuse.core import Core, Factors, Layer, at_norm
from recycle.reuse.elementwise import ties as ties_rule
from recycle.reuse.layerwise import by_layer, check_count, check_share, merge
from recycle.reuse.merge import mean_of_products


def truncated(adapter: Adapter, rank: int | None = None) -> Adapter:
    """The best approximation of each layer's update by a rank, in the Frobenius norm.

    The default is each layer's own rank. ``origin`` holds ``error``, sqrt(sum ||lost||^2 / sum
    ||dW||^2) over the layers. Raises ValueError for a rank below 1.
    """
    if rank is not None:
        full = max(min(len(B), A.shape[1]) for A, B in adapter.factors.values())
        check_count("rank", rank, full, "ranks in the largest layer")
    factors, lost, whole = {}, 0.0, 0.0
    for path, (A, B) in adapter.factors.items():
        U, S, V = adapter.svd(path)
        k = min(len(S), len(A) if rank is None else rank)
        lost, whole = lost + float(S[k:].square().sum()), whole + float(S.square().sum())
        if k == 0:
            factors[path] = A.new_zeros(1, A.shape[1]), B.new_zeros(len(B), 1)
        else:
            factors[path] = V[:, :k].mT.to(A.dtype), (U[:, :k] * S[:k]).to(B.dtype)
    error = (lost / whole) ** 0.5 if whole else 0.0
    return Adapter.unscaled(factors, adapter.base, {"error": error})


@merge("(1/N) sum_i dW_i, truncated to rank r; its error is recorded", "PEFT's svd at weights 1/N")
def svd_r(adapters: Sequence[Adapter], *, rank: int | None = None) -> Adapter:
    """The best rank-r approximation of (1/N) sum_i dW_i (Eckart and Young).

    r is the largest rank among the adapters, as in PEFT, unless it is given. ``origin`` holds the
    relative error.
    """
    largest = max(one.rank(path) for one in adapters for path in one.paths)
    return truncated(mean_of_products(adapters), largest if rank is None else rank)


def _svd(M: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """U (p, k), S (k,) and V^T (k, q) of M, with the k singular values above ``floor``."""
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    above = S > floor
    return U[:, above], S[above], Vh[above]


def _floor(core: Core, layer: Layer) -> float:
    """What is rounding in the singular values of the updates and of their sum."""
    return layer.rounding * float(core.M.flatten(1).norm(dim=1).max())


def polar(columns: Tensor, rounding: float) -> Tensor:
    """The nearest matrix (d, k) with orthonormal columns, X (X^T X)^(-1/2): the polar factor.

    Directions that X has only to rounding stay out, so the result is a partial isometry where the
    unit columns of X depend on each other. (The public codes of TSV and Iso fill up with arbitrary
    directions there.)
    """
    U, _, Vh = _svd(columns, rounding * columns.shape[1] ** 0.5)
    return U @ Vh


@by_layer(
    "U X with X = ties(U^T dW_i), U = left singular vectors of [dW_1 | .. | dW_N]",
    "Stoica et al. 2024, arXiv 2410.19735 (KnOTS-TIES)",
)
def knots(layer: Layer, *, density: float = 0.2) -> Factors:
    """[dW_1 | .. | dW_N] = U S [V_1 | .. | V_N]; the S V_i = U^T dW_i are merged by ties.

    The paper's code keeps singular values above 1e-5; here those above the factors' rounding, so
    that the scale of an adapter changes nothing. It trims over all layers together, this one layer
    by layer.
    """
    check_share("density", density)
    core = layer.core()
    if core.M.numel() == 0:
        return core.factors(core.M[0])
    U, _, _ = _svd(torch.cat(list(core.M), dim=1), _floor(core, layer))
    aligned = (U.mT @ core.M) @ core.V.mT  # (N, k, d_in)
    merged = ties_rule(aligned.to(layer.exact), density=density)
    return merged.double(), core.U @ U


@by_layer(
    "U S V^T of the top r/N triplets of each dW_i, with U and V replaced by polar factors",
    "Gargiulo et al. 2024, arXiv 2412.00081 (TSV-M)",
)
def tsv(layer: Layer, *, keep: int | None = None) -> Factors:
    """polar([U_1 | .. | U_N]) diag(S_1, .., S_N) polar([V_1 | .. | V_N])^T.

    U_i S_i V_i^T are the ``keep`` largest singular triplets of dW_i. The paper keeps 1/N of a full
    matrix's own; of an adapter of rank r these are max(1, r // N), so that the merged rank is r.
    (In the core of R = N r directions, its authors' code keeps all r of each.)
    """
    core, N = layer.core(), len(layer.A)
    if keep is not None:
        check_count("keep", keep, max(max(layer.ranks), 1), f"triplets in {layer.path}")
    parts = []
    for M, rank in zip(core.M, layer.ranks, strict=True):
        k = max(1, rank // N) if keep is None else keep
        U, S, Vh = _svd(M, _floor(core, layer))
        parts.append((U[:, :k], S[:k], Vh[:k]))
    return _recombined(core, parts, layer.rounding)


def _recombined(
    core: Core, parts: Sequence[tuple[Tensor, Tensor, Tensor]], rounding: float
) -> Factors:
    """polar([U_1 | ..]) diag(S_1, ..) polar([V_1 | ..])^T for parts (U_i, S_i, V_i^T) of a core."""
    left = polar(torch.cat([U for U, _, _ in parts], dim=1), rounding)
    right = polar(torch.cat([Vh for _, _, Vh in parts]).mT, rounding)
    return (core.V @ right).mT, core.U @ (left * torch.cat([S for _, S, _ in parts]))


@by_layer(
    "mean(S) U V^T of sum_i dW_i = U S V^T, over the singular values that are not 0",
    "Marczak et al. 2025, arXiv 2502.04959 (Iso-C)",
)
def iso_c(layer: Layer) -> Factors:
    """sum_i dW_i = U S V^T with every singular value replaced by their mean.

    It changes even one adapter: it keeps the directions and flattens the spectrum. The paper
    multiplies by a scale that is tuned on data; here the scale is 1. Its code takes the mean over
    min(d_out, d_in) values, which for full matrices are all above 0.
    """
    core = layer.core()
    U, S, Vh = _svd(core.M.sum(0), _floor(core, layer))
    return core.factors(S.mean() * U @ Vh if len(S) else core.M[0] * 0)


@by_layer(
    "Iso-C on the common directions of the sum, and on those of each dW_i beside them",
    "Marczak et al. 2025, arXiv 2502.04959 (Iso-CTS)",
)
def iso_cts(layer: Layer, *, common: float = 0.8) -> Factors:
    """mean(S) polar([U_c | U_1 | .. | U_N]) polar([V_c | V_1 | .. | V_N])^T.

    With R the rank of the core, the top directions U_c S_c V_c^T of sum_i dW_i fill about the share
    ``common`` of R. The rest is shared out equally: U_i S_i V_i^T are the top triplets of
    (1 - U_c U_c^T) dW_i. Counts are rounded as in the paper's code, where R is the layer's full
    rank. It changes even one adapter.
    """
    check_share("common", common)
    core, N = layer.core(), len(layer.A)
    floor = _floor(core, layer)
    U, S, Vh = _svd(core.M.sum(0), floor)
    R = min(core.M.shape[1:])
    each = round((R - int(R * common)) / N)
    k = max(R - each * N, 0)
    parts = [(U[:, :k], S[:k], Vh[:k])]
    for M in core.M:
        own, values, rows = _svd(M - U[:, :k] @ (U[:, :k].mT @ M), floor)
        parts.append((own[:, :each], values[:each], rows[:each]))
    values = torch.cat([S for _, S, _ in parts])
    if len(values) == 0:
        return core.factors(core.M[0] * 0)
    flat = [(left, values.mean().expand(len(S)), right) for left, S, right in parts]
    return _recombined(core, flat, layer.rounding)


@by_layer(
    "g U diag(a) U^T sum_i dW_i, a_j = 1 / (1 + (N-1) e_j), at the mean norm of the dW_i",
    "Tang and Yang 2026, arXiv 2604.16826 (Pico with task arithmetic)",
)
def pico(layer: Layer) -> Factors:
    """[s_1 B_1 | .. | s_N B_N] = U E W^T; with e_j = E_j^2 / sum_k E_k^2, direction j of the output
    is damped by a_j = 1 / (1 + (N-1) e_j). Then the sum gets the norm (1/N) sum_i ||dW_i||. In a_j,
    N counts the adapters that address the layer.

    The formula is that of two independent public reimplementations, which agree; the paper's own
    code was not found.
    """
    core: Core = layer.core()
    share = core.energies.square() / core.energies.square().sum()
    sharing = sum(rank > 0 for rank in layer.ranks) - 1
    damped = (core.M / (1 + sharing * share)[:, None]).sum(0)
    return core.factors(at_norm(damped, core.M, layer.rounding))

"""Each merge against its formula, written out on full matrices in a few independent lines."""

import math

import pytest
import torch

from lora import Adapter
from recycle.reuse.merges import CLAIMED_MERGES

MERGES = {each.name: each for each in CLAIMED_MERGES}
PATH, M, N = "layers.0.q_proj", 11, 9


def adapter(seed, rank, alpha, rslora=False):
    g = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, N, generator=g), torch.randn(M, rank, generator=g)
    return Adapter({PATH: (A.double(), B.double())}, alpha, rslora)


# Different ranks and scalings, s = alpha / r = 2.5, 1.5 and alpha / sqrt(r) = 3 / sqrt 3.
THREE = [adapter(1, 2, 5.0), adapter(2, 4, 6.0), adapter(3, 3, 3.0, rslora=True)]
UPDATES = [one.delta(PATH) for one in THREE]
SCALED = [(one.scale(PATH) * one.factors[PATH][1], one.factors[PATH][0]) for one in THREE]


def merged(name, adapters=THREE, generator=None, **options):
    made = MERGES[name](adapters, generator, **options)
    assert made.rank(PATH) <= min(M, N)
    return made.delta(PATH)


def svd(X):
    return torch.linalg.svd(X, full_matrices=False)


def trim(X, density):
    """The largest entries, by sorting."""
    kept = X.abs().flatten().argsort(descending=True)[: math.ceil(density * X.numel())]
    return torch.zeros(X.numel()).double().index_fill(0, kept, 1).reshape(X.shape) * X


def elect(parts):
    """TIES after the trim, place by place."""
    stacked = torch.stack(parts).flatten(1)
    found = []
    for column in stacked.T.tolist():
        sign = math.copysign(1, sum(column))
        agreeing = [x for x in column if x * sign > 0]
        found.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return torch.tensor(found).double().reshape(parts[0].shape)


def crumbs(X, density, gamma):
    order = X.abs().flatten().argsort(descending=True)
    top = int(gamma * X.numel())
    kept = order[top : top + math.ceil(density * X.numel())]
    return torch.zeros(X.numel()).double().index_fill(0, kept, 1).reshape(X.shape) * X


RULES = {
    "ties": ({"density": 0.3}, lambda parts: elect([trim(X, 0.3) for X in parts])),
    "magnitude_prune": (
        {"density": 0.3},
        lambda parts: sum(trim(X, 0.3) for X in parts) / len(parts),
    ),
    "breadcrumbs": (
        {"density": 0.5, "gamma": 0.1, "weight": 2.0},
        lambda parts: 2 * sum(crumbs(X, 0.5, 0.1) for X in parts),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_elementwise_rules_on_full_matrices(name):
    options, rule = RULES[name]
    torch.testing.assert_close(merged(name, **options), rule(UPDATES))


@pytest.mark.parametrize("name", RULES)
def test_elementwise_rules_in_the_core(name):
    """The same rule in the axes of the stacked factors. The two forms differ."""
    options, rule = RULES[name]
    U = svd(torch.cat([B for B, _ in SCALED], 1))[0]
    V = svd(torch.cat([A for _, A in SCALED]))[2].mT
    expected = U @ rule([U.mT @ X @ V for X in UPDATES]) @ V.mT
    made = merged(f"{name}_core", **options)
    # The core is calculated in the factors' own type.
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-6)
    assert (made - merged(name, **options)).norm() > 0.1


def test_a_core_of_low_rank_keeps_its_rank():
    made = MERGES["ties_core"](THREE[:1] * 4, density=0.3)
    assert made.rank(PATH) == 2 and MERGES["ties"](THREE[:1], density=0.3).rank(PATH) == N


def test_equal_entries_are_kept_together_and_something_always_is():
    ones = Adapter({"q": (torch.ones(1, 8), torch.ones(8, 1))}, 1.0)
    assert bool((MERGES["magnitude_prune"]([ones], density=0.01).delta("q") == 1).all())
    tiny = Adapter({"q": (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]]))}, 1.0)
    for name in ("ties", "magnitude_prune", "breadcrumbs"):  # 2 x 2, of which .2 is less than one
        left = MERGES[name]([tiny], density=0.2).delta("q")
        assert left.tolist() == [[0.0, 0.0], [0.0, 6.0]]


def draws(seed, density):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(3, M, N, generator=g) < density


def test_dare_drops_and_rescales():
    stays = draws(5, 0.6)
    parts = [X * stay / 0.6 for X, stay in zip(UPDATES, stays, strict=True)]
    g = torch.Generator().manual_seed(5)
    torch.testing.assert_close(merged("dare_linear", generator=g, density=0.6), sum(parts) / 3)
    g = torch.Generator().manual_seed(5)
    torch.testing.assert_close(
        merged("dare_linear", generator=g, density=0.6, weight=1.0), sum(parts)
    )
    g = torch.Generator().manual_seed(5)
    torch.testing.assert_close(merged("dare_ties", generator=g, density=0.6), elect(parts))


def test_dare_is_the_mean_on_average():
    g = torch.Generator().manual_seed(0)
    mean = sum(merged("dare_linear", generator=g, density=0.5) for _ in range(400)) / 400
    expected = sum(UPDATES) / 3
    # Of 400 draws the deviation is |x| / 20 for one update, less for the mean of three.
    assert (mean - expected).norm() < 0.1 * torch.stack(UPDATES).norm() / 3


def test_peft_linear_adds_the_factors_with_roots():
    several = [adapter(1, 3, 5.0), adapter(2, 3, 2.0)]
    roots = [math.sqrt(0.5 * one.scale(PATH)) for one in several]
    B = sum(root * one.factors[PATH][1] for root, one in zip(roots, several, strict=True))
    A = sum(root * one.factors[PATH][0] for root, one in zip(roots, several, strict=True))
    torch.testing.assert_close(merged("peft_linear", several), B @ A)
    assert MERGES["peft_linear"](several).rank(PATH) == 3
    twice = merged("peft_linear", several[:1] * 2)
    torch.testing.assert_close(twice, 2 * several[0].delta(PATH))
    torch.testing.assert_close(merged("peft_linear", several, weight=-0.5), -(B @ A))


@pytest.mark.parametrize("rank", [None, 2])
def test_svd_r_is_the_best_approximation_and_says_its_error(rank):
    mean = sum(UPDATES) / 3
    U, S, Vh = svd(mean)
    k = rank or 4
    made = MERGES["svd_r"](THREE, rank=rank)
    torch.testing.assert_close(made.delta(PATH), (U[:, :k] * S[:k]) @ Vh[:k])
    assert made.rank(PATH) == k
    assert made.origin["error"] == pytest.approx(float(S[k:].norm() / S.norm()))


def test_knots_merges_the_aligned_parts():
    U, S, Vh = svd(torch.cat(UPDATES, 1))
    keep = S > 1e-5
    parts = [S[keep, None] * part for part in Vh[keep].split(N, dim=1)]
    expected = U[:, keep] @ elect([trim(part, 0.3) for part in parts])
    torch.testing.assert_close(merged("knots", density=0.3), expected, atol=1e-6, rtol=1e-6)


def nearest_orthonormal(X):
    """X (X^T X)^(-1/2) by eigenvalues."""
    values, vectors = torch.linalg.eigh(X.mT @ X)
    return X @ vectors @ torch.diag(values**-0.5) @ vectors.mT


@pytest.mark.parametrize("keep", [None, 2])
def test_tsv_orthogonalises_the_top_triplets(keep):
    parts = [svd(X) for X in UPDATES]
    # Of ranks 2, 4, 3 and three adapters, r // 3 = 0, 1, 1 triplets, but at least one.
    k = keep or 1
    U = nearest_orthonormal(torch.cat([U[:, :k] for U, _, _ in parts], 1))
    V = nearest_orthonormal(torch.cat([Vh[:k] for _, _, Vh in parts]).mT)
    S = torch.cat([S[:k] for _, S, _ in parts])
    torch.testing.assert_close(merged("tsv", keep=keep), U @ torch.diag(S) @ V.mT)
    assert MERGES["tsv"](THREE, keep=keep).rank(PATH) == 3 * k


def test_iso_c_flattens_the_spectrum_of_the_sum():
    two = THREE[:2]
    U, S, Vh = svd(sum(UPDATES[:2]))
    U, S, Vh = U[:, :6], S[:6], Vh[:6]  # ranks 2 and 4
    torch.testing.assert_close(merged("iso_c", two), S.mean() * U @ Vh)
    left = svd(merged("iso_c", two))[1]
    torch.testing.assert_close(left[:6], S.mean().expand(6))


def test_iso_cts_keeps_common_and_own_directions():
    two = THREE[:2]
    U, S, Vh = svd(sum(UPDATES[:2]))
    # The core has 6 directions: int(6 * .5) = 3 common, 3 / 2 -> 2 for each, so 2 common at last.
    U, S, Vh = U[:, :2], S[:2], Vh[:2]
    own = [svd(X - U @ U.mT @ X) for X in UPDATES[:2]]
    left = nearest_orthonormal(torch.cat([U, *(u[:, :2] for u, _, _ in own)], 1))
    right = nearest_orthonormal(torch.cat([Vh, *(v[:2] for _, _, v in own)]).mT)
    values = torch.cat([S, *(s[:2] for _, s, _ in own)])
    expected = values.mean() * left @ right.mT
    torch.testing.assert_close(merged("iso_cts", two, common=0.5), expected)


def test_pico_damps_what_the_outputs_share():
    stacked = torch.cat([B for B, _ in SCALED], 1)
    U, E, _ = svd(stacked)
    damping = 1 / (1 + 2 * E**2 / (E**2).sum())
    S = torch.eye(M).double() + U @ torch.diag(damping - 1) @ U.mT
    summed = sum((S @ B) @ A for B, A in SCALED)
    norm = sum(X.norm() for X in UPDATES) / 3
    torch.testing.assert_close(merged("pico"), summed * norm / summed.norm())


def test_model_stock_shrinks_the_mean_by_the_angle():
    near = [THREE[0] + 0.2 * one for one in THREE]  # so that they agree somewhat
    X = [one.delta(PATH) for one in near]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cos = sum((X[i] * X[j]).sum() / (X[i].norm() * X[j].norm()) for i, j in pairs) / 3
    t = 3 * cos / (1 + 2 * cos)
    torch.testing.assert_close(merged("model_stock", near), t * sum(X) / 3)
    apart = [THREE[0], -1.0 * near[1]]
    assert merged("model_stock", apart).norm() == 0


def test_controls_of_scale():
    norm = sum(X.norm() for X in UPDATES) / 3
    summed = sum(UPDATES)
    torch.testing.assert_close(merged("norm_matched_sum"), summed * norm / summed.norm())
    single = merged("rescaled_single", weight=0.75, which=2)
    torch.testing.assert_close(single, 0.75 * UPDATES[1])
    torch.testing.assert_close(merged("rescaled_single"), UPDATES[0])

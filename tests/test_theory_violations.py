"""A check that cannot fail is a defect: every claim holds as it stands, and is caught when one
thing in it is wrong."""

from dataclasses import replace

import pytest
import torch

from theory import report
from theory.catalogue import ALL
from theory.claim import Settings, verify
from theory.claims import (
    additive,
    asymmetry,
    attention_adapters,
    capacity,
    certificates,
    composition,
    counter_conditions,
    edit_limits,
    editing,
    interacting,
    landscape,
    leakage,
    linear_adapters,
    merging,
    one_hop,
    relu_adapters,
    routes,
    trained_adapters,
    trained_experts,
    two_hop,
)
from theory.one_layer import one_hot

ONE_SEED = Settings(seeds=1)


def scaled(factor):
    return lambda original: lambda *a, **k: factor * original(*a, **k)


def one_rank_less(original):
    return lambda frozen, target, rank: original(frozen, target, rank - 1)


def to_the_bridge(original):
    return lambda relations: relations[0].new


def gaussian_embeddings(original):
    return lambda relations, n, d, m, rng: original(relations, n, 32, m, rng)


def linear_kernel(original):
    return lambda a, b: a @ b.T / 2


def two_rank_one_updates(original):
    def rewritten(column, row, old):
        logits = torch.eye(row.shape[1]).double()[old] + column[:, :, None] * row[:, None]
        logits = logits + column.roll(1, 0)[:, :, None] * row.roll(1, 0)[:, None]
        return torch.tensor([len(set(a[a != old].tolist())) for a in logits.argmax(-1)]).double()

    return rewritten


def own_facts_only(original):
    return lambda keys, targets: original(keys[:24], targets[:24])


def kept_in_the_span(original):
    """What gradient descent would have done: dA as a combination of the expert's own keys."""

    def projected(run, k):
        keys = run.model.keys(run.relations[k].prompts)
        return original(run, k) @ torch.linalg.pinv(keys) @ keys

    return projected


def stopped_early(original):
    return lambda rate, seed, steps: original(rate, seed, steps // 4)


def one_component_less(original):
    def edits(keys, relation, answers):
        rank = editing.exact_rank(relation, answers) - 1
        return original(keys, relation, answers).truncated(rank)

    return edits


def knows_both_hops(original):
    """Expert 1 also writes the right answer to its own two-hop questions."""

    def experts(model, relations):
        first, *others = original(model, relations)
        right = one_hot(composition.composed(relations), model.down.shape[0])
        return [replace(first, b=first.b + right.T), *others]

    return experts


def knows_all_hops(original):
    """Expert 1 also writes the right answer to its own three-hop questions."""

    def experts(model, relations):
        first, *others = original(model, relations)
        two = replace(relations[0], new=composition.composed(relations))
        right = one_hot(composition.composed([two, relations[2]]), model.down.shape[0])
        return [replace(first, b=first.b + right.T), *others]

    return experts


def trusting(original):
    """A certificate that forgets the other expert."""
    return lambda base, keys, new, parts, own, weights: original(
        base, keys, new, [parts[own]], 0, [weights[own]]
    )


def doubting(original):
    return lambda *a: original(*a, remainder=20.0)


def unturned(original):
    return lambda run, k, i: certificates.adapters_of(run)[1 - k]


def weakly(original):
    return lambda model, first, codes, strength: original(model, first, codes, 0.3 * strength)


def ridge(original):
    return lambda problem: torch.linalg.lstsq(
        problem.features.flatten(2), problem.values[..., None]
    ).solution.reshape(-1, landscape.SIDE, landscape.SIDE)


PLANTS = {
    # claim id: (module, name of the thing that is made wrong, what it becomes given what it was)
    "leak-kernel": (leakage, "overlap", scaled(1.1)),
    "leak-constant": (leakage, "standard_error", scaled(0.95)),
    "leak-fall": (leakage, "arc_cosine", scaled(1.05)),
    "edit-one-exact": (editing, "one_edit", scaled(1.001)),
    "edit-one-neighbours": (editing, "one_edit", scaled(3.0)),
    "edit-sum-telescopes": (editing, "LEAK", lambda leak: leak - 0.05),
    "edit-all-exact": (editing, "all_edits", one_component_less),
    "edit-rank": (editing, "exact_rank", lambda f: lambda *a: f(*a) - 1),
    "edit-truncation": (edit_limits, "moved_logit", lambda f: lambda share: share),
    "edit-preserve": (edit_limits, "least_squares", own_facts_only),
    "edit-sum-leak": (edit_limits, "same_subject_leak", lambda f: lambda: 1 / torch.pi),
    "capacity-argmax": (capacity, "circle_scale", scaled(0.9)),
    "capacity-rank-one": (capacity, "rewritten_answers", two_rank_one_updates),
    "capacity-margin": (capacity, "largest_cosine", scaled(1.05)),
    "capacity-converse": (capacity, "best_margins", lambda f: lambda n, r, s: f(n, r + 1, s)),
    "two-hop-logits": (two_hop, "kernel", linear_kernel),
    "two-hop-answer": (two_hop, "predicted_winner", lambda f: lambda merge, adapters: "new bridge"),
    "two-hop-tie": (two_hop, "MERGES", lambda m: {**m, "mean of products": m["sum"]}),
    "merge-scale": (one_hop, "MERGES", lambda m: {**m, "product of means": m["mean of products"]}),
    "two-hop-written-out": (one_hop, "composed", to_the_bridge),
    "compose-blind": (composition, "experts", knows_both_hops),
    "compose-chance": (composition, "experts", knows_both_hops),
    "compose-additive": (additive, "additive_bound", scaled(0.99)),
    "compose-attained": (additive, "mean_lis", scaled(1.001)),
    "compose-hops": (composition, "experts", knows_all_hops),
    "compose-pairs": (
        interacting,
        "undivided_logits",
        lambda f: lambda model, tokens: model(tokens)[:, -1],
    ),
    "compose-rank-two": (interacting, "bridge_codes", weakly),
    "compose-rank-width": (interacting, "bridge_codes", weakly),
    "counter-adding": (counter_conditions, "predicted_logits", scaled(0.0)),
    "counter-adding-alone": (
        counter_conditions,
        "adding_embeddings",
        lambda f: lambda relations, n, m, rho, rng: f(relations, n, m, 0.0, rng),
    ),
    "counter-value-adapter": (counter_conditions, "bridge_adapter", scaled(0.3)),
    "counter-second-layer": (
        counter_conditions,
        "writing_layer",
        lambda f: lambda model, relations, edited, u: f(model, relations, [], u),
    ),
    "counter-aligned-factors": (
        counter_conditions,
        "aligned_order",
        lambda f: lambda first, second: torch.arange(len(first.new)),
    ),
    "gradient-bridge": (trained_experts, "composed", to_the_bridge),
    "gradient-logits": (trained_experts, "kernel", linear_kernel),
    "gradient-leak": (trained_experts, "moved", kept_in_the_span),
    "gradient-span": (trained_experts, "moved", kept_in_the_span),
    "gradient-overshoot": (trained_experts, "trained_run", stopped_early),
    "gradient-recall": (trained_experts, "predicted_recall", scaled(0.5)),
    "certificate-sound": (certificates, "certified", trusting),
    "certificate-attained": (certificates, "rotated_rival", unturned),
    "certificate-sharp": (certificates, "certified", doubting),
    "linear-error": (linear_adapters, "constructed", one_rank_less),
    "linear-threshold": (linear_adapters, "constructed", one_rank_less),
    "linear-singular": (linear_adapters, "predicted_error", scaled(0.999)),
    "linear-lower": (
        linear_adapters,
        "predicted_error",
        lambda f: lambda gap, reach: f(gap, reach - 1),
    ),
    "relu-exact": (relu_adapters, "constructed", one_rank_less),
    "relu-tails": (
        relu_adapters,
        "predicted_error",
        lambda f: lambda gap, reach: f(gap, reach + 1),
    ),
    "relu-one-layer": (relu_adapters, "symmetric", lambda f: lambda points: f(points).abs()),
    "relu-closed-form": (relu_adapters, "expected_error", scaled(1.1)),
    "relu-layers": (relu_adapters, "layered_bound", scaled(0.99)),
    "transformer-exact": (attention_adapters, "constructed", one_rank_less),
    "transformer-threshold": (
        attention_adapters,
        "aligned",
        lambda f: lambda frozen, target: target,
    ),
    "transformer-heads": (attention_adapters, "rotations", lambda f: lambda size, d: f(size, 0)),
    "trained-linear-bound": (
        trained_adapters,
        "linear_runs",
        lambda f: lambda *a: (f(*a)[0], 1.001 * f(*a)[1]),
    ),
    "trained-linear-close": (trained_adapters, "linear_runs", lambda f: lambda *a: f(*a[:-1], 20)),
    "trained-relu-low": (trained_adapters, "relu_runs", lambda f: lambda *a: f(*a[:-1], 2)),
    "trained-relu-threshold": (
        trained_adapters,
        "relu_runs",
        lambda f: lambda *a: (f(*a)[1], f(*a)[0], None),
    ),
    "merge-rank": (merging, "integers", lambda f: lambda *shape, **k: f(*shape, **k) * 0 + 1),
    "merge-core": (merging, "core_singular_values", scaled(0.99)),
    "merge-floor": (merging, "floor", scaled(1.01)),
    "merge-factors": (merging, "product_of_means", lambda f: merging.mean_of_products),
    "route-rank": (
        routes,
        "routed",
        lambda f: lambda tokens, prototypes, adapters: f(tokens, prototypes.roll(1, 0), adapters),
    ),
    "route-nonlinear": (routes, "mean_of_largest_square", scaled(1.01)),
    "landscape-existence": (landscape, "convex_solution", ridge),
    "landscape-no-spurious": (
        landscape,
        "factored_minimum",
        lambda f: lambda problem, rank, *rest: f(problem, 1, *rest),
    ),
    "landscape-low-rank": (
        landscape,
        "factored_minimum",
        lambda f: (
            lambda problem, rank, starts, decay, name, seeds, steps: f(
                problem, rank, starts, 0.0, name, seeds, steps=50
            )
        ),
    ),
    "landscape-fit": (landscape, "manifold_dimension", lambda f: lambda rank: 2 * f(rank)),
    "asymmetry-share": (asymmetry, "captured", scaled(0.9)),
    "asymmetry-covariance": (
        asymmetry,
        "captured",
        lambda f: (
            lambda change, covariance, frozen, trained: f(
                change, covariance, frozen, {"A": "B", "B": "A"}[trained]
            )
        ),
    ),
}


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.id)
def test_holds(claim):
    result = verify(claim, ONE_SEED)
    assert result.holds, report.counterexample(result)


def test_every_claim_has_a_plant():
    assert set(PLANTS) == {claim.id for claim in ALL}


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.id)
def test_planted_violation_is_caught(claim, monkeypatch):
    """By the first observation that breaks the claim: the others need not be made."""
    module, name, wrong = PLANTS[claim.id]
    monkeypatch.setattr(module, name, wrong(getattr(module, name)))
    broke = next((o for o in claim.check(ONE_SEED) if not claim.holds(o)), None)
    assert broke is not None
    told = report.counterexample(verify(replace(claim, check=lambda _: iter([broke])), ONE_SEED))
    assert f"{claim.id}: {broke.case}, seed 0" in told

"""Fact editing: what one update of W does to one fact, to its neighbours, and to N facts at once.

    one edit (arXiv 2506.13479, Proposition 1)    dW = (i_new - i_old) phi^T / ||phi||^2    rank 1
    N edits at once (least squares)               dW = (I_new - I_old) Phi^+

The second one has rank |Y| - components (`exact_rank`).

Axis legend: n facts, m features, a answers. Answers here are numbered 0 .. a-1.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from theory import exact
from theory.adapter import Adapter, least_squares
from theory.claim import Claim, Observation, Settings, generator
from theory.claims.leakage import arc_cosine, overlap_and_error
from theory.one_layer import (
    OneLayer,
    Relation,
    accuracy,
    chain_world,
    memorise,
    one_hot,
    places,
    random_features,
)

# J(60 deg) = 0.609: the overlap of two entities under one relation.
LEAK = float(arc_cosine(torch.tensor(math.pi / 3, dtype=torch.float64)))
PAPER = "arXiv 2506.13479, Proposition 1 [paper]"


def one_edit(key: Tensor, old: int, new: int, answers: int) -> Tensor:
    """Proposition 1: key (m,) -> dW (answers, m) of rank one with dW key = i_new - i_old."""
    change = one_hot(torch.tensor([new]), answers)[0] - one_hot(torch.tensor([old]), answers)[0]
    return torch.outer(change, key) / key.square().sum()


def changes(relation: Relation, answers: int) -> Tensor:
    """(n, a): the rows i_new - i_old."""
    return one_hot(relation.new, answers) - one_hot(relation.old, answers)


def all_edits(keys: Tensor, relation: Relation, answers: int) -> Adapter:
    """The adapter that rewrites every fact of the relation at once.

    keys Phi (n, m), of the relation's prompts -> B = I_new - I_old, A = (Phi Phi^T)^-1 Phi.
    """
    return least_squares(keys, changes(relation, answers))


def exact_rank(relation: Relation, answers: int) -> int:
    """Rank of the least-squares edit: answers minus the components of a graph.

    The answers are the graph's nodes, and every fact is an edge from its old to its new answer.
    """
    parent = list(range(answers))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for old, new in zip(relation.old.tolist(), relation.new.tolist(), strict=True):
        parent[root(old)] = root(new)
    return answers - sum(i == root(i) for i in range(answers))


def random_relation(n: int, seed: int, name: str, m: int = 2048) -> tuple[OneLayer, Relation]:
    """A relation between n subjects and n answers, bijective before and after its edit, and the
    base with m features that knows it."""
    rng = generator(f"{name} n={n}", seed)
    relations = chain_world(n, 1, rng)
    return random_features(relations, n, None, m, rng), relations[0]


def numbered(
    model: OneLayer, relation: Relation, old: Tensor, new: Tensor
) -> tuple[OneLayer, Relation]:
    """The same prompts with the answers `old` before the edit and `new` after it, each (n,), and
    the base with W fitted to the old ones."""
    relation = replace(relation, old=old, new=new)
    return memorise(model, [relation]), relation


def check_one_exact(settings: Settings) -> Iterator[Observation]:
    for n in (8, 32, 64):
        for seed in settings.each:
            model, relation = random_relation(n, seed, "edit-one-exact")
            keys, answers = model.keys(relation.prompts), model.down.shape[0]
            worst = 0.0
            for i in range(0, n, n // 8):
                dw = one_edit(keys[i], int(relation.old[i]), int(relation.new[i]), answers)
                target = one_hot(relation.new[i : i + 1], answers)[0]
                worst = max(worst, float(((model.down + dw) @ keys[i] - target).abs().max()))
            yield Observation(f"N={n}", seed, 0.0, worst)


def check_one_neighbours(settings: Settings) -> Iterator[Observation]:
    n = 32
    shared = torch.arange(n) // 4  # four subjects to an answer: 8 answers; the edit brings a ninth
    for seed in settings.each:
        model, bijection = random_relation(n, seed, "edit-one-neighbours", m=4096)
        cases = (
            ("bijection, an answer that nobody has", bijection.old, 2 * n, range(1, n), 1.0),
            (
                "bijection, a neighbour's answer",
                bijection.old,
                int(bijection.old[1]),
                range(1, n),
                1.0,
            ),
            ("old answer shared", shared, 2 * n, range(1, 4), 0.0),
        )
        for case, old, brought, others, kept in cases:
            edited, relation = numbered(model, bijection, old, torch.full_like(old, brought))
            keys, answers = edited.keys(relation.prompts), edited.down.shape[0]
            dw = one_edit(keys[0], int(old[0]), brought, answers)
            logits, neighbours = keys @ (edited.down + dw).T, torch.tensor(others)
            yield Observation(case, seed, kept, accuracy(logits[neighbours], old[neighbours]))


def check_sum_telescopes(settings: Settings) -> Iterator[Observation]:
    m = 4096
    for n in (16, 64):
        for seed in settings.each:
            model, relation = random_relation(n, seed, "edit-sum-telescopes", m=m)
            keys, answers = model.keys(relation.prompts), model.down.shape[0]
            scaled = keys / keys.square().sum(1, keepdim=True)
            dw = changes(relation, answers).T @ scaled  # the sum of N one_edits
            logits, rows = keys @ (model.down + dw).T, torch.arange(n)
            # The old logit of a fact is its overlap with the fact that brings its old answer.
            brings = places(relation.old, relation.new)
            _, error = overlap_and_error(keys[brings], keys)
            old, new = (float(logits[rows, y].mean()) for y in (relation.old, relation.new))
            rivals = {"1 / 2": 0.5}
            yield Observation(f"old answer, N={n}", seed, LEAK, old, error, 2 / m, rivals)
            yield Observation(f"new answer, N={n}", seed, 1 - LEAK, new, error, 2 / m, rivals)
            ahead = float((logits[rows, relation.old] > logits[rows, relation.new]).double().mean())
            yield Observation(f"facts whose old answer leads, N={n}", seed, 1.0, ahead)


def check_all_exact(settings: Settings) -> Iterator[Observation]:
    for n in (8, 32, 64):
        for seed in settings.each:
            model, relation = random_relation(n, seed, "edit-all-exact")
            keys, answers = model.keys(relation.prompts), model.down.shape[0]
            logits = keys @ (model.down + all_edits(keys, relation, answers).delta).T
            worst = (logits - one_hot(relation.new, answers)).abs().max()
            yield Observation(f"N={n}", seed, 0.0, float(worst))


def check_rank(settings: Settings) -> Iterator[Observation]:
    """The edit's left factor is an integer matrix, and its right one has full rank (the keys are
    independent): the rank of the edit is the exact rank of the left factor."""
    for n in (8, 24):
        for seed in settings.each:
            rng = generator(f"edit-rank n={n}", seed)
            model, relation = random_relation(n, seed, "edit-rank", m=256)
            maps = {
                "bijection": [torch.randperm(n, generator=rng) for _ in range(2)],
                "one cycle": [torch.arange(n), torch.arange(n).roll(1)],
                "pairs swapped": [torch.arange(n), torch.arange(n) ^ 1],
                "any map": [torch.randint(n, (n,), generator=rng) for _ in range(2)],
                "two answers": [torch.randint(2, (n,), generator=rng) for _ in range(2)],
            }
            for case, (old, new) in maps.items():
                edit = replace(relation, old=old, new=new)
                keys, answers = model.keys(edit.prompts), model.down.shape[0]
                adapter = all_edits(keys, edit, answers)
                independent = int(torch.linalg.matrix_rank(adapter.a)) == n
                left = exact.rank(adapter.b.T.long().tolist()) if independent else -1
                yield Observation(f"{case}, N={n}", seed, exact_rank(edit, answers), left)


CLAIMS = (
    Claim(
        id="edit-one-exact",
        kind="identity",
        title="one fact is rewritten exactly by a rank-one update",
        statement="Proposition 1: a rank-one change of W replaces the answer of one fact, exactly.",
        formula="dW = (i_new - i_old) phi^T / |phi|^2  =>  (W + dW) phi = i_new",
        source=PAPER,
        assumptions="W phi = i_old before the edit",
        derivation="dW phi = (i_new - i_old) phi^T phi / |phi|^2 = i_new - i_old",
        computed="largest logit error over 8 facts each of N = 8, 32, 64, m = 2048",
        relation="==",
        tolerance=1e-9,
        check=check_one_exact,
    ),
    Claim(
        id="edit-one-neighbours",
        kind="prediction",
        title="one edit keeps the neighbours' answers, if no one shares the old answer",
        statement=(
            "A single edit leaves all other facts' argmax alone when the relation is a bijection, "
            "even if it brings a neighbour's answer. It flips every fact that shared the old "
            "answer, so 'one edit is harmless' holds for bijections only."
        ),
        formula=(
            "at (y, R): new 0.609 < 1 of y's own; where r(y) = r(x): "
            "old 1 - 0.609 = 0.391 < new 0.609"
        ),
        source="[derived]",
        assumptions="clean geometry, large m",
        derivation="the edit at x is seen through (y, R) at J(60 deg) = 0.609",
        computed=(
            "share of neighbours that keep their answer, N = 32: a bijection with a foreign and "
            "with a neighbour's answer, and four subjects an answer"
        ),
        relation="==",
        tolerance=0.0,
        check=check_one_neighbours,
    ),
    Claim(
        id="edit-sum-telescopes",
        kind="prediction",
        title="summing N one-fact edits fails: old logit 0.609, new 0.391",
        statement=(
            "The sum of N single edits of a bijection leaves the old answer ahead of the new one "
            "at every fact."
        ),
        formula="old = J(60 deg) = 0.609, new = 1 - J(60 deg) = 0.391, whatever N",
        source="[derived]",
        assumptions="bijections with the same answers before and after, clean geometry",
        derivation=(
            "cross-talk J * sum over y != x of (i_new(y) - i_old(y)) telescopes to -J (i_new(x) - "
            "i_old(x))"
        ),
        computed=(
            "mean logits of old and new answers and the share of facts whose old answer leads, "
            "N = 16, 64, m = 4096; standard errors by the delta method, bias 2 / m"
        ),
        relation="==",
        check=check_sum_telescopes,
    ),
    Claim(
        id="edit-all-exact",
        kind="identity",
        title="the least-squares edit rewrites all N facts exactly",
        statement=(
            "Editing all facts at once against their Gram matrix is exact for every one of them."
        ),
        formula="dW = (I_new - I_old) Phi^+  =>  (W + dW) Phi = I_new",
        source="[derived]",
        assumptions="the N keys are independent (m >= N)",
        derivation="Phi^+ Phi = identity for independent keys",
        computed="largest logit error, N = 8, 32, 64, m = 2048",
        relation="==",
        tolerance=1e-9,
        check=check_all_exact,
    ),
    Claim(
        id="edit-rank",
        kind="theorem",
        title="rank of the exact edit = answers - components (N - #cycles for bijections)",
        statement=(
            "The exact edit's rank counts cycles for bijections. For any maps it is the number of "
            "answers less the components of the graph that joins each fact's old and new answer."
        ),
        formula=(
            "rank dW = |Y| - #components(old - new),  = N - #cycles(r^-1 r~) for bijections,  "
            "<= min(N, |Y| - 1)"
        ),
        source="[derived]",
        assumptions="the N keys are independent",
        derivation=(
            "the columns i_new - i_old are the incidence matrix of that graph, "
            "whose rank is vertices - components; Phi^+ has full rank"
        ),
        computed=(
            "exact rank of I_new - I_old in integers, and that the keys are independent; "
            "bijections, one cycle, swaps, any maps, two answers; N = 8, 24"
        ),
        relation="==",
        tolerance=0.0,
        check=check_rank,
    ),
)

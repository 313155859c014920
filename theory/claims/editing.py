"""Fact editing: what one update of W does to one fact, to its neighbours, and to N facts at once.

    one edit (arXiv 2506.13479, Proposition 1)    dW = (i_new - i_old) phi^T / ||phi||^2    rank 1
    N edits at once (least squares)               dW = (I_new - I_old) Phi^+

The second one has rank |Y| - components (`exact_rank`).

Axis legend: n facts, m features, a answers. Answers here are numbered 0 .. a-1.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from theory import exact
from theory.adapter import Adapter, least_squares
from theory.claim import Claim, Observation, Settings, averaged, generator
from theory.claims.leakage import arc_cosine, overlap_and_error
from theory.one_layer import (
    OneLayer,
    Relation,
    accuracy,
    chain_world,
    derangement,
    memorise,
    one_hot,
    places,
    random_features,
)
from theory.pictures import BLUE, GREY, compare, means, number_in

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


def moved_logit(share: float) -> float:
    """Mean logit that the edit of one long cycle moves from the old answer to the new one when it
    is truncated to r = share N."""
    return share + math.sin(math.pi * share) / math.pi


TRUNCATION_BIAS = 60.0  # over m: the sampled Gram matrix is not quite isotropic (N = 64)


def check_truncation(settings: Settings) -> Iterator[Observation]:
    n, m, repeats = 64, 16384 if settings.full else 4096, 8
    ranks = (n // 8, n // 4, n // 2, 3 * n // 4)

    def moved(rng: torch.Generator) -> dict[str, float]:
        (relation,) = chain_world(n, 1, rng)
        order, new = torch.randperm(n, generator=rng), torch.empty(n, dtype=torch.long)
        new[order] = order.roll(-1)
        edit = replace(relation, old=torch.arange(n), new=new)
        model = random_features([edit], n, None, m, rng)
        keys = model.keys(edit.prompts)
        whole, base = all_edits(keys, edit, model.down.shape[0]), model.logits(edit.prompts)
        found = {}
        for rank in ranks:
            logits = base + whole.truncated(rank)(keys)
            found[f"mean new logit, r = {rank / n:g} N"] = float(
                logits[torch.arange(n), new].mean()
            )
            if rank in (n // 8, n // 2):
                found[f"accuracy, r = {rank / n:g} N"] = accuracy(logits, new)
        return found

    bounds = {f"mean new logit, r = {rank / n:g} N": moved_logit(rank / n) for rank in ranks}
    rivals = {
        case: {"rho": rank / n, "sin(pi rho / 2)": math.sin(math.pi * rank / n / 2)}
        for case, rank in zip(bounds, ranks, strict=True)
    }
    for seed in settings.each:
        draws = [moved(generator(f"edit-truncation {i}", seed)) for i in range(repeats)]
        yield from averaged(seed, draws, bounds, TRUNCATION_BIAS / m, rivals)
        accuracies = {f"accuracy, r = {share:g} N": float(share == 0.5) for share in (0.125, 0.5)}
        yield from averaged(seed, draws, accuracies)


def check_preserve(settings: Settings) -> Iterator[Observation]:
    n = 24
    for seed in settings.each:
        rng = generator("edit-preserve", seed)
        edited, *others = relations = chain_world(n, 3, rng)
        model = random_features(relations, n, 64, 4096, rng)
        keys = torch.cat([model.keys(r.prompts) for r in relations])
        answers = model.down.shape[0]
        nothing = torch.zeros(2 * n, answers, dtype=torch.float64)
        edit = least_squares(keys, torch.cat([changes(edited, answers), nothing])).delta
        goal = one_hot(torch.cat([edited.new, *(r.old for r in others)]), answers)
        missed = (keys @ (model.down + edit).T - goal).abs()
        yield Observation("edited facts", seed, 0.0, float(missed[:n].max()))
        yield Observation("other facts", seed, 0.0, float(missed[n:].max()))
        more = int(torch.linalg.matrix_rank(edit)) - exact_rank(edited, answers)
        yield Observation("rank less the rank without preserving", seed, 0.0, more)


def same_subject_leak() -> float:
    """Share of its own change that an adapter on (x, R3) also makes at (x, R1):
    (J(60 deg) - J(90 deg)) / (1 - J(60 deg)) = 0.744."""
    return (LEAK - 1 / math.pi) / (1 - LEAK)


def check_sum_leak(settings: Settings) -> Iterator[Observation]:
    n, m, repeats = 16, 2048, 16

    def leaked(rng: torch.Generator) -> dict[str, float]:
        (first,) = relations = chain_world(n, 1, rng)
        model = random_features(relations, n, None, m, rng)
        # The clean geometry has an unused token: the first entity of Z serves as the second
        # relation's name.
        other = replace(first, token=2 * n, new=first.old[derangement(n, rng)])
        cases = {
            "same subjects": other,
            "other subjects": replace(other, subjects=first.subjects + n),
        }
        found = {}
        for case, relation in cases.items():
            adapter = all_edits(model.keys(relation.prompts), relation, model.down.shape[0])
            seen = model.keys(first.prompts) @ adapter.delta.T
            found[case] = float(seen[torch.arange(n), relation.new].mean())
        return found

    bounds = {"same subjects": same_subject_leak(), "other subjects": 0.0}
    rivals = {"same subjects": {"J(60)": LEAK, "(J(60) - J(90)) / J(60)": 1 - 1 / math.pi / LEAK}}
    for seed in settings.each:
        draws = [leaked(generator(f"edit-sum-leak {i}", seed)) for i in range(repeats)]
        yield from averaged(seed, draws, bounds, 10 / m, rivals)


def picture_truncation(axes: Any) -> None:
    """The mean new logit against the rank that is kept."""
    shares = torch.linspace(0, 1, 101).tolist()
    curve = [moved_logit(share) for share in shares]
    axes.plot(shares, curve, color=GREY, lw=1.2, label="rho + sin(pi rho) / pi")
    axes.plot(shares, shares, color=GREY, lw=1, ls=":", label="rho alone")
    points = means(check_truncation(Settings(seeds=2)))
    points = {case: point for case, point in points.items() if "logit" in case}
    x = [number_in(case, "r =") for case in points]
    compare(axes, x, list(points.values()), BLUE, "sampled, N = 64, m = 4096")
    axes.axhline(0.5, color=GREY, lw=0.8)
    axes.set_xlabel("rank kept, as a share of N")
    axes.set_ylabel("mean logit of the new answers")
    axes.set_title("A truncated edit of one long cycle wins from r = 0.265 N")
    axes.legend(frameon=False)


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
    Claim(
        id="edit-truncation",
        kind="prediction",
        title="cut by SVD to r = rho N it moves rho + sin(pi rho)/pi of logit (one cycle)",
        statement=(
            "How far the exact edit can be truncated follows from the cycles of the edit. For one "
            "long cycle the new answer overtakes the old at r = 0.265 N; a 4-cycle leaves its "
            "exact tie at N/2."
        ),
        formula=(
            "mean new logit = rho + sin(pi rho) / pi = 1 - mean old logit; "
            "above 1/2 from rho = 0.265"
        ),
        source="[derived]",
        assumptions="large m (then the Gram matrix is isotropic on vectors that sum to 0)",
        derivation=(
            "an n-cycle's i_new - i_old is circulant with singular values 2 sin(pi k/n); the "
            "largest r of them are the frequencies nearest pi, and each adds (1 - cos theta)/n to "
            "the new logit. A 4-cycle has 2, sqrt 2, sqrt 2: the first alone gives 1/2 against 1/2"
        ),
        computed=(
            "one cycle of N = 64 at m = 4096, 8 draws a seed: mean new logit at r = N/8 .. 3N/4 "
            "(bias 60 / m), accuracy at N/8 (0) and N/2 (1)"
        ),
        relation="==",
        check=check_truncation,
        picture=picture_truncation,
    ),
    Claim(
        id="edit-preserve",
        kind="identity",
        title="an edit can preserve every other fact exactly, at no more rank",
        statement=(
            "Fitting the edit beside the facts that must stay (change 0) keeps them exactly; "
            "the rank stays the same."
        ),
        formula="dW = [I_new - I_old, 0] [Phi_edit, Phi_keep]^+",
        source="[derived]",
        assumptions="all keys, edited and preserved, are independent",
        derivation="the columns of dW's left factor are those of the edit and zeros",
        computed=(
            "largest logit error on edited and on 2N other facts, and the difference of ranks; "
            "d = 64"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_preserve,
    ),
    Claim(
        id="edit-sum-leak",
        kind="prediction",
        title="a summed adapter leaks 0.744 into its subjects' other relations, 0 elsewhere",
        statement=(
            "In a sum, adapters fitted on their own facts interfere through the keys of the same "
            "subject, 60 degrees apart. What goes through J(90 deg) cancels for bijections."
        ),
        formula="(J(60) - J(90)) / (1 - J(60)) = 0.744",
        source="[derived]",
        assumptions=(
            "bijections, clean geometry; at finite d the inner products of order 1/sqrt d add noise"
        ),
        derivation=(
            "(x, R1) sees x's other key at J(60) and the rest at J(90). Against the Gram matrix (1 "
            "- J60) I + J60 11^T the constant part meets the sum of i_new - i_old, which is 0; the "
            "excess J60 - J90 is left, over 1 - J60"
        ),
        computed=(
            "mean logit that one adapter gives to its new answer on the other relation's prompts, "
            "N = 16, m = 2048, 16 draws a seed; bias 10 / m"
        ),
        relation="==",
        check=check_sum_leak,
    ),
)

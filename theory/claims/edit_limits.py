"""What edits of many facts cost: truncated to a rank, kept off other facts, and summed."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from theory.adapter import least_squares
from theory.claim import Claim, Observation, Settings, averaged, generator
from theory.claims.editing import LEAK, all_edits, changes, exact_rank
from theory.one_layer import accuracy, chain_world, derangement, one_hot, random_features
from theory.pictures import BLUE, GREY, compare, means, number_in


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

"""Theorem 2 as numbers: the logits of "x R1 R2" after a merge of the experts for r1 -> r~1 and
r2 -> r~2.

Everything follows from overlaps of keys. Let G_k be the Gram matrix of relation k's keys, and g_k
their overlaps with the prompt's key: adapter k = (B_k, A_k) answers B_k G_k^-1 g_k. With the
arc-cosine kernel in place of the overlaps (m -> oo) this is a prediction without any sampled
weight. "Averaging" K adapters is not one thing, so there are three merges:

    sum                sum_k B_k A_k
    mean of products   (1/K) sum_k B_k A_k
    product of means   mean(B) mean(A)        depends on the factors; here B = I_new - I_old and
                                              A = G^-1 Phi

Why it fails: the prompt overlaps every second-hop key (y, R2) by the same 0.673, so nothing selects
r~1(x). Its overlap with its own first hop stands out (0.673 against 0.390), so the answer is the
bridge.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from theory.adapter import Adapter, mean_of_products, product_of_means, total
from theory.claim import Claim, Observation, Settings, generator
from theory.claims.editing import all_edits, changes
from theory.claims.leakage import kernel
from theory.one_layer import (
    OneLayer,
    Relation,
    accuracy,
    chain_world,
    one_hot,
    random_features,
    two_hop_prompts,
)
from theory.pictures import BLUE, GREEN, GREY, INK, ORANGE

MERGES: dict[str, Callable[[Sequence[Adapter]], Adapter]] = {
    "sum": total,
    "mean of products": mean_of_products,
    "product of means": product_of_means,
}


def experts(model: OneLayer, relations: Sequence[Relation]) -> list[Adapter]:
    """One adapter a relation, each fitted on its own facts only."""
    return [all_edits(model.keys(r.prompts), r, model.down.shape[0]) for r in relations]


def merged_logits(model: OneLayer, merged: Adapter, prompts: Tensor) -> Tensor:
    """prompts (b, length) -> (b, answers): the sampled network, with W + the merged update."""
    keys = model.keys(prompts)
    return keys @ model.down.T + merged(keys)


def predicted_logits(
    model: OneLayer, relations: Sequence[Relation], residual: Tensor, merge: str
) -> Tensor:
    """residual (b, d) -> (b, answers) from the kernel alone, without U or any sampled feature."""
    answers = model.down.shape[0]
    own = [model.residual(r.prompts) for r in relations]
    seen = [torch.linalg.solve(kernel(h, h), kernel(h, residual)) for h in own]  # G_k^-1 g_k (n, b)
    every = torch.cat(own)
    base = torch.linalg.solve(kernel(every, every), kernel(every, residual))
    parts = [Adapter(a=s, b=changes(r, answers).T) for s, r in zip(seen, relations, strict=True)]
    old = one_hot(torch.cat([r.old for r in relations]), answers)
    return base.T @ old + MERGES[merge](parts).delta.T


def places(entities: Tensor, subjects: Tensor) -> Tensor:
    """entities (n,), each of them among subjects (f,) -> (n,): where it stands there."""
    return (entities[:, None] == subjects[None]).int().argmax(1)


def composed(relations: Sequence[Relation]) -> Tensor:
    """(n,): the right answers r~2(r~1(x)) to "x R1 R2"."""
    first, second = relations[:2]
    return second.new[places(first.new, second.subjects)]


def best_among(answers: Tensor, logits: Tensor) -> Tensor:
    """logits (b, a) -> (b,): which of these answers (k,) has the largest logit."""
    return answers[logits[:, answers].argmax(1)]


def answer_types(relations: Sequence[Relation], answers: int) -> dict[str, Tensor]:
    """Masks (n, answers) over the logits of the n two-hop prompts, one for each type of answer."""
    first, second = relations[:2]
    new, old = one_hot(first.new, answers).bool(), one_hot(first.old, answers).bool()
    target = one_hot(composed(relations), answers).bool()
    bridges, targets = (one_hot(r.old, answers).sum(0).bool()[None] for r in (first, second))
    return {
        "new bridge": new,
        "old bridge": old,
        "other bridge": bridges & ~new & ~old,
        "right answer": target,
        "other target": targets & ~target,
    }


def by_type(logits: Tensor, types: dict[str, Tensor]) -> dict[str, float]:
    """Mean logit of each type of answer; logits and masks are (n, answers)."""
    return {name: float(logits[mask].mean()) for name, mask in types.items()}


def two_hop_tables(
    n: int, adapters: int, m: int, seed: int
) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """Merge -> (predicted, simulated): mean logits by answer type on the two-hop prompts, in the
    clean geometry with n subjects a relation and m features."""
    rng = generator(f"two-hop n={n} K={adapters}", seed)
    relations = chain_world(n, adapters, rng)
    model = random_features(relations, n, None, m, rng)
    prompts, parts = two_hop_prompts(relations), experts(model, relations)
    types = answer_types(relations, model.down.shape[0])
    return {
        name: (
            by_type(predicted_logits(model, relations, model.residual(prompts), name), types),
            by_type(merged_logits(model, merge(parts), prompts), types),
        )
        for name, merge in MERGES.items()
    }


def check_logits(settings: Settings) -> Iterator[Observation]:
    n = 16 if settings.full else 8
    for adapters in range(2, 9):
        for seed in range(settings.seeds):
            tables = two_hop_tables(n, adapters, m=2048, seed=seed)
            for merge, (predicted, simulated) in tables.items():
                for name, logit in predicted.items():
                    case = f"K={adapters}, {merge}: {name}"
                    yield Observation(case, seed, logit, simulated[name])


def predicted_winner(merge: str, adapters: int) -> str:
    """The answer to "x R1 R2": the new bridge under the sum; the old one under a merge that scales
    the edit below 1/2."""
    return "new bridge" if merge == "sum" else "old bridge"


def check_answer(settings: Settings) -> Iterator[Observation]:
    for n, m in [(8, 1024), (16, 2048), (32, 4096)] + ([(64, 16384)] if settings.full else []):
        for seed in range(settings.seeds):
            for adapters in (2, 3):
                rng = generator(f"two-hop-answer {n} {m} {adapters}", seed)
                first, *_ = relations = chain_world(n, adapters, rng)
                model = random_features(relations, n, None, m, rng)
                parts, prompts = experts(model, relations), two_hop_prompts(relations)
                for merge in MERGES:
                    if (merge, adapters) == ("mean of products", 2):
                        continue  # an exact tie: claim two-hop-tie
                    new = predicted_winner(merge, adapters) == "new bridge"
                    logits = merged_logits(model, MERGES[merge](parts), prompts)
                    share = accuracy(logits, first.new if new else first.old)
                    yield Observation(f"K={adapters}, {merge}, N={n}, m={m}", seed, 1.0, share)


def check_blind(settings: Settings) -> Iterator[Observation]:
    """Any attention to the two earlier tokens: h = a V e_x + b V e_R1 + e_R2."""
    n = 16
    for seed in range(settings.seeds):
        rng = generator("two-hop-blind", seed)
        relations = chain_world(n, 2, rng)
        model = random_features(relations, n, None, 64, rng)
        first, second = relations
        for merge in ("sum", "mean of products"):
            a, b = (3 * torch.rand(2, generator=rng, dtype=torch.float64)).tolist()
            earlier = a * model.embed[first.subjects] + b * model.embed[first.token]
            residual = earlier @ model.value.T + model.embed[second.token]
            targets = predicted_logits(model, relations, residual, merge)[:, second.new]
            yield Observation(merge, seed, 0.0, float((targets.amax(1) - targets.amin(1)).max()))


def check_chance(settings: Settings) -> Iterator[Observation]:
    n, worlds = 16, 16
    for seed in range(settings.seeds):
        every, among = 0.0, 0.0
        for world in range(worlds):
            rng = generator(f"two-hop-chance {world}", seed)
            relations = chain_world(n, 2, rng)
            model = random_features(relations, n, None, 1024, rng)
            merged, prompts = MERGES["sum"](experts(model, relations)), two_hop_prompts(relations)
            logits = merged_logits(model, merged, prompts)
            right, targets = composed(relations), relations[1].new.sort().values
            every += accuracy(logits, right) / worlds
            among += float((best_among(targets, logits) == right).double().mean()) / worlds
        yield Observation("all answers", seed, 0.0, every)
        yield Observation("only the second hop's answers compete", seed, 1 / n, among)


def check_tie(settings: Settings) -> Iterator[Observation]:
    for seed in range(settings.seeds):
        _, simulated = two_hop_tables(n=32, adapters=2, m=8192, seed=seed)["mean of products"]
        lead = simulated["new bridge"] - simulated["old bridge"]
        yield Observation("new bridge less old bridge", seed, 0.0, lead)


def check_one_hop_scale(settings: Settings) -> Iterator[Observation]:
    n = 12
    for adapters in (2, 3, 4, 8):
        kept = {"sum": 1.0, "mean of products": 1 / adapters, "product of means": adapters**-2}
        for seed in range(settings.seeds):
            rng = generator(f"one-hop-scale {adapters}", seed)
            first, *_ = relations = chain_world(n, adapters, rng)
            model = random_features(relations, n, None, 4096, rng)
            parts, rows = experts(model, relations), torch.arange(n)
            for merge, share in kept.items():
                logits = merged_logits(model, MERGES[merge](parts), first.prompts)
                new = float(logits[rows, first.new].mean())
                yield Observation(f"{merge}, K={adapters}", seed, share, new)


def written_out(
    model: OneLayer, merged: Adapter, relations: Sequence[Relation]
) -> tuple[float, float, float]:
    """Accuracies of hop 1, of hop 2, and of the chain, in which the model's own answer to hop 1
    becomes the subject of hop 2."""
    first, second = relations[:2]
    bridge = merged_logits(model, merged, first.prompts).argmax(1)
    asked = torch.stack([bridge, torch.full_like(bridge, second.token)], dim=1)
    chain = accuracy(merged_logits(model, merged, asked), composed(relations))
    return (
        accuracy(merged_logits(model, merged, first.prompts), first.new),
        accuracy(merged_logits(model, merged, second.prompts), second.new),
        chain,
    )


def check_written_out(settings: Settings) -> Iterator[Observation]:
    n, worlds = 32, 8
    cases = [
        ("sum, clean geometry", None, 2, "sum"),
        ("sum, d = 24", 24, 2, "sum"),
        ("sum, d = 16", 16, 2, "sum"),
        ("mean of three products", None, 3, "mean of products"),
    ]
    for case, d, adapters, merge in cases:
        for seed in range(settings.seeds):
            runs = []
            for world in range(worlds):
                rng = generator(f"written-out {case} {world}", seed)
                relations = chain_world(n, adapters, rng)
                model = random_features(relations, n, d, 512, rng)
                runs.append(written_out(model, MERGES[merge](experts(model, relations)), relations))
            hop_1, hop_2, chain = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
            yield Observation(case, seed, hop_1 * hop_2 + (1 - hop_1 * hop_2) / n, chain)


def picture(axes: Any) -> None:
    """Mean logit of each type of answer to "x R1 R2" under the three merges, K = 2."""
    tables = two_hop_tables(n=32, adapters=2, m=8192, seed=0)
    types = list(tables["sum"][0])
    width = 0.26
    for i, (merge, colour) in enumerate(zip(tables, (BLUE, ORANGE, GREEN), strict=True)):
        predicted, simulated = ([table[t] for t in types] for table in tables[merge])
        x = [place + (i - 1) * width for place in range(len(types))]
        axes.bar(x, simulated, width * 0.9, color=colour, alpha=0.75, label=merge)
        label = "predicted" if i == 2 else None
        axes.plot(x, predicted, "_", color=INK, ms=14, mew=2, label=label)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xticks(range(len(types)), types)
    axes.set_ylabel('mean logit on "x R1 R2"')
    title = (
        "Two hops: the bridge answers, the right answer is one of many (K = 2, N = 32, m = 8192)"
    )
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)


THEOREM = "arXiv 2506.13479, Theorem 2 [paper: the conclusion]; [derived]"
CLEAN = (
    "random features, large m, clean geometry, bijections, LoRA on W only, "
    "every relation its own subjects"
)

CLAIMS = (
    Claim(
        id="two-hop-blind",
        title="no second-hop answer is preferred on 'x R1 R2': all their logits are equal",
        statement=(
            "Theorem 2: the merged adapters cannot produce r~2(r~1(x)), for nothing in the "
            "prompt's key points to it. It holds for any attention to x and R1. Product of means "
            "is left out: its cross terms do prefer one (see counter-aligned-factors)."
        ),
        formula=(
            "logit(z) is the same for every z in r~2(Y), for h = a V e_x + b V e_R1 + e_R2, "
            "any a, b"
        ),
        source=THEOREM,
        assumptions=CLEAN + "; where r~2 is not injective, the most frequent answer leads instead",
        derivation=(
            "<h, V e_y + e_R2> = 1 for every y, so the overlaps g_2 are constant, "
            "and so is G_2^-1 g_2"
        ),
        computed=(
            "spread of the predicted logits over the second hop's answers, a and b random in [0, 3]"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_blind,
    ),
    Claim(
        id="two-hop-logits",
        title="two-hop logits by answer type: arc-cosine prediction = simulation, K = 2 .. 8",
        statement=(
            "What every type of answer gets on the two-hop prompt is predicted without sampling a "
            "weight, under the sum, the mean of products and the product of means."
        ),
        formula="base g_all^T G_all^-1 I_old + merge of B_k G_k^-1 g_k, with G, g from J(theta)",
        source=THEOREM,
        assumptions=CLEAN,
        derivation=(
            "least-squares edits act through overlaps of keys only, "
            "and these tend to the arc-cosine kernel"
        ),
        computed="mean logit of five answer types, N = 8, m = 2048, K = 2 .. 8",
        relation="==",
        tolerance=0.05,
        check=check_logits,
        picture=picture,
    ),
    Claim(
        id="two-hop-answer",
        title="the answer is the bridge: the new one under the sum, the old one under means",
        statement=(
            "On 'x R1 R2' the merged model answers the first hop: r~1(x) under the sum; "
            "r1(x), as if unedited, under a mean of three products or a product of means."
        ),
        formula=(
            "0.673 on (x, R1) against 0.390 on (y, R1): the first hop's answer leads; "
            "its new part has weight 1, 1/K, 1/K^2"
        ),
        source=THEOREM,
        assumptions=CLEAN,
        derivation=(
            "the excess over other subjects is (0.673 - 0.390) / (1 - 0.609) = 0.72 of a logit, "
            "times the weight"
        ),
        computed=(
            "share of prompts answered with the predicted bridge, K = 2, 3; N = 8, 16, 32; "
            "m = 1024 .. 4096"
        ),
        relation="==",
        tolerance=0.07,
        check=check_answer,
    ),
    Claim(
        id="two-hop-chance",
        title="two-hop accuracy is 0; among second-hop answers alone it is chance",
        statement=(
            "Simulated, the right answer never wins, "
            "and when only the second hop's answers compete it wins by chance."
        ),
        formula="accuracy 0 over all answers, 1/N over the second hop's",
        source=THEOREM,
        assumptions=CLEAN,
        derivation="two-hop-blind and two-hop-answer",
        computed="sum of two experts, 16 worlds of N = 16 a seed, m = 1024",
        relation="==",
        tolerance=0.08,
        check=check_chance,
    ),
    Claim(
        id="two-hop-tie",
        title="mean of products at K = 2: old and new bridge tie exactly",
        statement="At weight 1/2 the edit moves the old and the new bridge to the same logit.",
        formula="new - old = (2 w - 1) * 0.72 = 0 at w = 1/2",
        source="[derived]",
        assumptions=CLEAN,
        derivation="the base gives the old bridge 1, the edit moves w of it to the new one",
        computed="mean difference of the two logits on two-hop prompts, N = 32, m = 8192",
        relation="==",
        tolerance=0.03,
        check=check_tie,
    ),
    Claim(
        id="merge-scale",
        title=(
            "what a merge leaves of an edit: "
            "1 (sum), 1/K (mean of products), 1/K^2 (product of means)"
        ),
        statement=(
            "One-hop recall after a merge fails by scale, before any question of composition: "
            "below 1/2 the old fact wins."
        ),
        formula="new logit on its own fact = 1, 1/K, 1/K^2; the old one keeps the rest",
        source="[derived]",
        assumptions=CLEAN,
        derivation="the other adapters' constant overlap meets rows i_new - i_old that sum to zero",
        computed=(
            "mean logit of the new answer on the first relation's prompts, K = 2, 3, 4, 8, N = 12, "
            "m = 4096"
        ),
        relation="==",
        tolerance=0.03,
        check=check_one_hop_scale,
    ),
    Claim(
        id="two-hop-written-out",
        title="with the bridge written out, accuracy = product of the one-hop accuracies",
        statement=(
            "A chain of thought turns the second hop into a plain fact, "
            "so only the two one-hop accuracies count."
        ),
        formula="P(chain) = p + (1 - p) / N, p = P(hop 1) P(hop 2), both after the merge",
        source="[derived]",
        assumptions=(
            "the model's own answer to 'x R1' is asked about as 'y R2'; hops fail independently"
        ),
        derivation=(
            "'y R2' is a fitted key; a wrong first answer leads to the right end by chance only"
        ),
        computed=(
            "sum of two (clean geometry, d = 16, 24: partial recall), mean of three; "
            "8 worlds of N = 32"
        ),
        relation="==",
        tolerance=0.13,
        check=check_written_out,
    ),
)

"""When reuse of two experts can compose two hops, and when it cannot: a theorem and its converse.

Setting. r~1: X -> Y and r~2: Y -> Z are independent uniform bijections of N things. Expert 1 has
learned r~1 and knows nothing of r~2, expert 2 the reverse. The prompt "x R1 R2" asks for
r~2(r~1(x)), and only the N answers of the second hop compete, which can only help.

T1 (independence). If the logits of Z on "x R1 R2" do not depend on r~1, then the expected accuracy
is 1/N, exactly. It covers W alone with any expert whose B writes no row of Z: any width, geometry,
rank, merge and gate on the hidden state.

    Proof. Fix r~2 and the rest; the answer g(x) in Z is then fixed (ties by any rule that does not
    see r~1). r~1(x) is uniform on Y, so r~2(r~1(x)) is uniform on Z, and equals g(x) with 1/N.

T2 (additivity). If the logits are a(x) + b(x, r~1) + c(x, r~2), with any b and c, then

    expected accuracy <= (1/N) sum_{k=1..N} min(1 - [k > 1] / N!, C(N, k) / k!)  ~  e / sqrt N.

    Proof. Fix x; let pi be the bijection of Y that adds 1 mod N. The N maps pi^j r~1 have every u
    in Y as the value at x once, so r~1 is as good as a uniform one of such a block. Fix the block,
    and write b(u) for its logits, u = r~1(x). Ties are broken by a fixed rule, that is by an
    infinitesimal a(x). Let r = r~2, and let R be the set of those u that are answered rightly:
    b_{r(u)}(u) + c_{r(u)} > b_z(u) + c_z for all z other than r(u). Let S be a subset of R and s a
    permutation of S. Summed over u in S with z = r(s(u)), the terms c cancel:

        sum_u b_{r(u)}(u) > sum_u b_{r(s(u))}(u)     for every s that is not the identity on S.

    So r restricted to S is the one heaviest matching of S with r(S) under the weights b. There are
    C(N, k) sets S and C(N, k) sets T of size k, each pair has one heaviest matching at most, and a
    uniform r extends it with probability (N - k)! / N!. The expected number of good S of size k is
    therefore at most C(N, k)^2 (N - k)! / N! = C(N, k) / k!. Subsets of R are good, so P(|R| >= k)
    is at most that. Besides, under the lightest perfect matching r of b no pair is good (swap its
    two answers), so P(|R| >= 2) <= 1 - 1/N!. Sum P(|R| >= k) over k, and divide by N.

    Asymptotics: C(N, k) / k! crosses 1 near k = e sqrt N.

Attained. With Y = Z = {1 .. N}, b_z(u) = u z, and c such that the lines u z + c_z of a longest
increasing subsequence of r~2 form the upper envelope, each u of it is answered rightly: accuracy
E LIS(N) / N ~ 2 / sqrt N. At N = 2 (3/4) and N = 3 (2/3) that is the bound.

k hops. Group the hops before a cut as one first hop and those after it as one second hop: both are
uniform bijections again. So k hops stay under T1 or T2 if at any one cut the experts before it and
those after it do not act on one another.

Two remarks on what T2 does not say. It bounds the expectation over relabelled worlds, not one
world: one lucky world may exceed it. And c may depend on x: then no argument within one world can
work, for the sum over different x would not cancel; the proof varies r~1 at one fixed x.

Maps onto M answers that are not one-to-one: if every r~2(u) is uniform on M answers by itself, the
same argument with multisets gives C(N, k) C(M + k - 1, k) / M^k in place of C(N, k) / k!.

Answers of several tokens, decoded greedily, change nothing, if the logits of each token are of the
form above after the tokens before it. The multiset T of answers says which first tokens there are,
and these have one heaviest matching with S; the bridges that share a first token then have one with
their second tokens, and so on. So r restricted to S is again one map for each pair (S, T).

Converse. Interaction is enough: an adapter of rank 2 on V beside one on W composes (claim
compose-rank-two in `interacting.py`), while W and W never do.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from theory.adapter import Adapter
from theory.claim import Claim, Observation, Settings, generator, normal
from theory.claims.two_hop import MERGES, best_among, composed, experts, merged_logits
from theory.one_layer import OneLayer, Relation, chain_world, random_features, two_hop_prompts


def relabelled(relation: Relation, order: Tensor) -> Relation:
    """The relation with its new answers in another order."""
    return replace(relation, new=relation.old.sort().values[order])


def gated(model: OneLayer, parts: Sequence[Adapter], prompts: Tensor, scores: Tensor) -> Tensor:
    """Logits with every expert weighted by a softmax over scores (b, K) of the hidden state."""
    keys = model.keys(prompts)
    added = torch.stack([part(keys) for part in parts], dim=1)
    return keys @ model.down.T + (scores.softmax(1)[..., None] * added).sum(1)


GEOMETRIES = {"clean": None, "d=12": 12, "d=48": 48}


def merges_of(
    model: OneLayer, prompts: Tensor, rng: torch.Generator
) -> dict[str, Callable[[Sequence[Adapter]], Tensor]]:
    """Every way to reuse two experts on W whose weights do not see r~1: (b, answers)."""
    scores = normal(*model.residual(prompts).shape[:1], 2, rng=rng)

    def merging(name: str) -> Callable[[Sequence[Adapter]], Tensor]:
        return lambda parts: merged_logits(model, MERGES[name](parts), prompts)

    def gating(sharpness: float) -> Callable[[Sequence[Adapter]], Tensor]:
        return lambda parts: gated(model, parts, prompts, sharpness * scores)

    gates = {"softmax gate": gating(1.0), "top-1 route": gating(1e9)}
    return {name: merging(name) for name in MERGES} | gates


def hidden_worlds(n: int, seed: int, name: str) -> Iterator[tuple[str, OneLayer, Any, Any]]:
    """(geometry, model, relations, generator) of small worlds for T1."""
    for geometry, d in GEOMETRIES.items():
        rng = generator(f"{name} {geometry}", seed)
        relations = chain_world(n, 2, rng)
        yield geometry, random_features(relations, n, d, 128, rng), relations, rng


def check_blind(settings: Settings) -> Iterator[Observation]:
    n = 16
    for seed in settings.each:
        for geometry, model, (first, second), rng in hidden_worlds(n, seed, "compose-blind"):
            prompts = two_hop_prompts([first, second])
            targets = second.new.sort().values
            others = [relabelled(first, torch.randperm(n, generator=rng)) for _ in range(3)]
            for way, logits in merges_of(model, prompts, rng).items():
                before = logits(experts(model, [first, second]))[:, targets]
                moved = max(
                    float(
                        (logits(experts(model, [other, second]))[:, targets] - before).abs().max()
                    )
                    for other in others
                )
                yield Observation(f"{geometry}, {way}", seed, 0.0, moved)


def check_chance(settings: Settings) -> Iterator[Observation]:
    n = 4
    orders = [torch.tensor(order) for order in itertools.permutations(range(n))]
    for seed in settings.each:
        for geometry, model, (first, second), rng in hidden_worlds(n, seed, "compose-chance"):
            prompts, targets = two_hop_prompts([first, second]), second.new.sort().values
            for way, logits in merges_of(model, prompts, rng).items():
                right = 0.0
                for order in orders:
                    relations = (relabelled(first, order), second)
                    answers = best_among(targets, logits(experts(model, relations)))
                    right += float((answers == composed(relations)).double().sum())
                share = right / (n * len(orders))
                rivals = {"0": 0.0, "1 / (N - 1)": 1 / (n - 1)}
                yield Observation(f"{geometry}, {way}", seed, 1 / n, share, 0.0, 0.0, rivals)


def three_hop_world(n: int, rng: torch.Generator) -> tuple[OneLayer, list[Relation]]:
    """R1: X -> Y, R2: Y -> Z and R3: Z -> A, and a base that knows the three."""
    first, second, third = chain_world(n, 3, rng)
    relations = [first, second, replace(third, subjects=second.new.sort().values)]
    return random_features(relations, n, None, 64, rng), relations


def check_hops(settings: Settings) -> Iterator[Observation]:
    """Three hops under the sum on W, averaged over all maps of one hop: cut before or after it."""
    n = 4
    orders = [torch.tensor(order) for order in itertools.permutations(range(n))]
    for seed in settings.each:
        model, relations = three_hop_world(n, generator("compose-hops", seed))
        first, second, third = relations
        tokens = [first.subjects, *(torch.full((n,), r.token) for r in relations)]
        prompts, targets = torch.stack(tokens, dim=1), third.new.sort().values
        for varied in (0, 1):
            right = 0.0
            for order in orders:
                now = list(relations)
                now[varied] = relabelled(relations[varied], order)
                end = composed([replace(now[0], new=composed(now[:2])), now[2]])
                logits = merged_logits(model, MERGES["sum"](experts(model, now)), prompts)
                right += float((best_among(targets, logits) == end).double().sum())
            case = f"three hops, over all maps of hop {varied + 1}"
            yield Observation(case, seed, 1 / n, right / (n * len(orders)))


INDEPENDENT = (
    "r~1 and r~2 are independent uniform bijections of N things; only second-hop answers compete; "
    "each expert knows its own relation only"
)
PROOF = "the docstring of claims/composition.py proves it in full; "

CLAIMS = (
    Claim(
        id="compose-blind",
        kind="theorem",
        title="adapters on W alone: no second-hop logit depends on r~1, bit for bit",
        statement=(
            "Theorem 2 of arXiv 2506.13479 at any width, in any geometry and under any merge: if "
            "expert 1 writes no row of a second-hop answer, redrawing all of r~1 and training "
            "expert 1 anew changes no second-hop logit on 'x R1 R2' in a single bit. So nothing "
            "there can select r~2(r~1(x))."
        ),
        formula="l_z(x; r~1, r~2) = l_z(x; r'~1, r~2) for every z in Z",
        source="arXiv 2506.13479, Theorem 2 [paper: the conclusion]; this form [derived]",
        assumptions="LoRA on W only; gates see the hidden state; embeddings do not know r~1",
        derivation=(
            "row z of W + sum_k B_k A_k is W_z + (B_2)_z A_2, for (B_1)_z = 0; product of means "
            "adds (B_2)_z A_1, and A_1 = G^-1 Phi is the same for every r~1. Keys and gates are "
            "functions of the prompt alone"
        ),
        computed=(
            "largest change of any second-hop logit over three redrawn r~1; three geometries, "
            "sum, both means, a softmax gate and a top-1 route; N = 16, m = 128"
        ),
        relation="==",
        check=check_blind,
    ),
    Claim(
        id="compose-chance",
        kind="theorem",
        title="T1: where second-hop logits do not see r~1, two-hop accuracy is 1/N exactly",
        statement=(
            "Averaged over all first relations the accuracy among second-hop answers is 1/N: not "
            "about chance, but chance."
        ),
        formula="mean over r~1 of the accuracy = 1/N",
        source="[derived]",
        assumptions=INDEPENDENT,
        derivation=PROOF + "the answer g(x) is fixed, and r~2(r~1(x)) is uniform on Z",
        computed="all 24 maps r~1 at N = 4, three geometries, five ways to reuse the experts",
        relation="==",
        tolerance=1e-12,
        check=check_chance,
    ),
    Claim(
        id="compose-hops",
        kind="theorem",
        title="k hops need experts that interact across every cut between hops",
        statement=(
            "Three hops under a sum on W are answered by chance, whichever of the inner relations "
            "is averaged over: one cut without interaction is enough to lose the composition."
        ),
        formula="accuracy = 1/N (T1) or <= the bound of T2, for the hops before and after any cut",
        source="[derived]",
        assumptions=INDEPENDENT,
        derivation=PROOF + "the hops on either side of a cut are two uniform bijections again",
        computed="all 24 maps of hop 1, and of hop 2, at N = 4",
        relation="==",
        tolerance=1e-12,
        check=check_hops,
    ),
)

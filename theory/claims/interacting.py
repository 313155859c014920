"""Which modules of two experts interact, and that little interaction is enough to compose.

Where the logits are additive, l(u, s) + l(u', s') = l(u, s') + l(u', s) for any two versions u, u'
of the first expert and s, s' of the second one, theorem T2 of `composition.py` bounds two-hop
accuracy. Logits count times the divisor of the final norm: a positive number that no argmax sees.

    no interaction    W with W; last down_proj, last up_proj or final gain with itself; softmax and
                      top-1 gates there that score each expert by itself
    interaction       V with W, U with U, layers below, gate_proj, attention, up_proj with
                      down_proj, averaged factors; a bridge that is written out interacts by text

The converse: an adapter of rank 2 on V beside one on W composes any number of facts at infinite
width. Its keys' noise asks for more rank at finite width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models import Transformer, TransformerConfig
from recycle.measure.interaction import additive_bound
from theory.adapter import Adapter
from theory.claim import Claim, Observation, Settings, averaged, generator, normal
from theory.claims.additive import mean_lis
from theory.claims.capacity import circle
from theory.claims.editing import all_edits, changes
from theory.claims.leakage import kernel
from theory.claims.two_hop import MERGES, best_among, composed, experts, merged_logits
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

# --- the converse: V and W -------------------------------------------------------------------


def bridge_codes(model: OneLayer, first: Relation, codes: Tensor, strength: float) -> OneLayer:
    """The model with an adapter on V, B A of the codes' rank: "x" reads the code of its bridge, and
    writes it as a mixture of bridges, V e_x + strength sum_y <c_y, c_r~1(x)> V e_y.

    codes (n, r), one for each bridge in the order of `first.new`.
    """
    a = codes.T @ model.embed[first.subjects]  # (r, d)
    b = strength * model.value @ model.embed[first.new].T @ codes  # (d, r)
    return replace(model, value=model.value + b @ a)


def expected_logits(model: OneLayer, moved: OneLayer, first: Relation, second: Relation) -> Tensor:
    """Logits on "x R1 R2" at infinite width: the base and the second expert on W, read with the
    moved V; (n, answers)."""
    relations, answers = (first, second), model.down.shape[0]
    residual = moved.residual(two_hop_prompts(relations))
    every = torch.cat([model.residual(r.prompts) for r in relations])
    base = torch.linalg.solve(kernel(every, every), kernel(every, residual))
    own = model.residual(second.prompts)
    edit = torch.linalg.solve(kernel(own, own), kernel(own, residual))
    old = one_hot(torch.cat([r.old for r in relations]), answers)
    return base.T @ old + edit.T @ changes(second, answers)


def clean_model(n: int, m: int, rng: torch.Generator) -> tuple[OneLayer, Relation, Relation]:
    """Two relations of n facts in the clean geometry, and the base that knows them."""
    first, second = relations = chain_world(n, 2, rng)
    return random_features(relations, n, None, m, rng), first, second


def check_rank_two(settings: Settings) -> Iterator[Observation]:
    for n in (16, 64):
        for seed in settings.each:
            rng = generator(f"compose-rank-two {n}", seed)
            model, first, second = clean_model(n, 4 * n + 8, rng)
            right = composed((first, second))
            for strength in (1.0, 4.0):
                moved = bridge_codes(model, first, circle(n), strength)
                logits = expected_logits(model, moved, first, second)
                case = f"rank 2 on V, N={n}, strength {strength:g}"
                yield Observation(case, seed, 1.0, accuracy(logits, right))
            logits = expected_logits(model, model, first, second)
            yield Observation(f"no adapter on V, N={n}", seed, 0.0, accuracy(logits, right))


# Mean share right over 12 worlds of N = 24 at m = 4096, strength 2, from other seeds.
AT_WIDTH = {2: 0.53, 4: 0.905, 8: 1.0}


def check_rank_width(settings: Settings) -> Iterator[Observation]:
    n, m, worlds = 24, 4096, 8

    def shares(rng: torch.Generator) -> dict[str, float]:
        model, first, second = clean_model(n, m, rng)
        edit = all_edits(model.keys(second.prompts), second, model.down.shape[0])
        found = {}
        for rank in AT_WIDTH:
            drawn = torch.nn.functional.normalize(normal(n, rank, rng=rng), dim=1)
            moved = bridge_codes(model, first, circle(n) if rank == 2 else drawn, 2.0)
            logits = merged_logits(moved, edit, two_hop_prompts((first, second)))
            found[f"rank {rank} on V"] = accuracy(logits, composed((first, second)))
        return found

    bounds = {f"rank {rank} on V": share for rank, share in AT_WIDTH.items()}
    for seed in settings.each:
        draws = [shares(generator(f"compose-rank-width {i}", seed)) for i in range(worlds)]
        yield from averaged(seed, draws, bounds, 0.02)


# --- which modules interact ------------------------------------------------------------------


def mixed(logits: Callable[[int, int], Tensor]) -> float:
    """l(u, s) + l(u', s') - l(u, s') - l(u', s) for two versions of each expert, its root mean
    square as a share of that of l(u, s) - l(u', s'); 0 for additive logits."""
    table = {(i, j): logits(i, j) for i in (0, 1) for j in (0, 1)}
    joint = table[0, 0] + table[1, 1] - table[0, 1] - table[1, 0]
    whole = table[0, 0] - table[1, 1]
    return float(joint.square().mean().sqrt() / whole.square().mean().sqrt())


ONE_LAYER_PAIRS = {  # modules of the two experts -> do they interact?
    ("down", "down"): False,
    ("value", "value"): True,
    ("up", "up"): True,
    ("value", "down"): True,
    ("up", "down"): True,
}
LAST, BELOW = "layers.1", "layers.0"
TRANSFORMER_PAIRS = {
    (f"{LAST}.mlp.down_proj", f"{LAST}.mlp.down_proj"): False,
    (f"{LAST}.mlp.up_proj", f"{LAST}.mlp.up_proj"): False,
    ("norm", "norm"): False,
    (f"{LAST}.mlp.up_proj", f"{LAST}.mlp.down_proj"): True,
    (f"{LAST}.mlp.gate_proj", f"{LAST}.mlp.gate_proj"): True,
    (f"{LAST}.self_attn.v_proj", f"{LAST}.self_attn.v_proj"): True,
    (f"{LAST}.self_attn.o_proj", f"{LAST}.self_attn.o_proj"): True,
    (f"{LAST}.self_attn.o_proj", f"{LAST}.mlp.down_proj"): True,
    (f"{BELOW}.mlp.down_proj", f"{LAST}.mlp.down_proj"): True,
    (f"{BELOW}.mlp.down_proj", f"{BELOW}.mlp.down_proj"): True,
}


def one_layer_pairs(rng: torch.Generator) -> Iterator[tuple[str, bool, float]]:
    """(name, do they interact, how much) for random rank-2 updates of the one-layer model."""
    model, first, second = clean_model(4, 64, rng)
    prompts = two_hop_prompts((first, second))

    def update(module: str) -> Adapter:
        rows, columns = getattr(model, module).shape
        return Adapter(normal(2, columns, rng=rng), normal(rows, 2, rng=rng) / rows)

    def logits(changed: Sequence[tuple[str, Adapter]]) -> Tensor:
        now = model
        for module, adapter in changed:
            now = replace(now, **{module: getattr(now, module) + adapter.delta})
        return now.logits(prompts)

    for (one, other), interact in ONE_LAYER_PAIRS.items():
        ours, theirs = ([(x, update(x)) for _ in range(2)] for x in (one, other))

        def of_versions(i: int, j: int, ours: Any = ours, theirs: Any = theirs) -> Tensor:
            return logits([ours[i], theirs[j]])

        yield f"one layer: {one} and {other}", interact, mixed(of_versions)

    left, right = ([update("down") for _ in range(2)] for _ in range(2))

    def averaged_factors(i: int, j: int) -> Tensor:
        return merged_logits(model, MERGES["product of means"]([left[i], right[j]]), prompts)

    def gates(i: int, j: int) -> Tensor:
        """A softmax gate whose scores are norms of each expert's own output, times the divisor."""
        keys, parts = model.keys(prompts), (left[i], right[j])
        base = keys @ model.down.T
        each = [(part(keys).norm(dim=1, keepdim=True) / 10, part(keys)) for part in parts]
        return torch.stack([score.exp() * (base + added) for score, added in each]).sum(0)

    yield "one layer: down and down, product of means", True, mixed(averaged_factors)
    yield "one layer: down and down, each gated by its own score", False, mixed(gates)


def transformer_pairs(rng: torch.Generator) -> Iterator[tuple[str, bool, float]]:
    """The same for the transformer that studies use: two layers, logits times the final norm's
    divisor, random rank-2 updates (a norm's gain: any change)."""
    config = TransformerConfig(width=32, layers=2, heads=2, kv_heads=2, hidden=48, init=0.2)
    model = Transformer(config, 12, rng).double().eval()
    tokens = torch.tensor([[0, 5, 7, 3], [0, 9, 2, 3], [0, 4, 8, 3]])
    for (one, other), interact in TRANSFORMER_PAIRS.items():
        weights = [model.get_parameter(f"{path}.weight") for path in (one, other)]
        ours, theirs = ([update_of(weight, rng) for _ in range(2)] for weight in weights)

        def logits(
            i: int, j: int, ours: list = ours, theirs: list = theirs, weights: list = weights
        ) -> Tensor:
            before = [w.detach().clone() for w in weights]
            with torch.no_grad():
                weights[0].add_(ours[i])
                weights[1].add_(theirs[j])
                found = undivided_logits(model, tokens)
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)
            return found

        yield f"transformer: {one} and {other}", interact, mixed(logits)


def update_of(weight: Tensor, rng: torch.Generator) -> Tensor:
    if weight.ndim == 1:
        return normal(*weight.shape, rng=rng)
    rows, columns = weight.shape
    return normal(rows, 2, rng=rng) @ normal(2, columns, rng=rng) / columns


def undivided_logits(model: Transformer, tokens: Tensor) -> Tensor:
    """The last token's logits times the divisor of the final norm, which no argmax sees."""
    streams: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, given: streams.append(given[0][:, -1]))
    model.hidden_states(tokens)
    hook.remove()
    return model.unembed(streams[0] * model.norm.weight)


INTERACTS = 1e-3  # a share of the change; additive pairs reach rounding only


def check_pairs(settings: Settings) -> Iterator[Observation]:
    for seed in settings.each:
        rng = generator("compose-pairs", seed)
        for name, interact, share in (*one_layer_pairs(rng), *transformer_pairs(rng)):
            observed = float(share > INTERACTS) if interact else share
            yield Observation(name, seed, float(interact), observed)


def picture(axes: Any) -> None:
    """Two-hop accuracy against N: chance, the bound, what additive experts reach, and simulated
    experts on W and W, and on V and W."""
    sizes = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    bound, chance = [additive_bound(n) for n in sizes], [1 / n for n in sizes]
    axes.fill_between(sizes, bound, 1, color=GREEN, alpha=0.08, lw=0)
    axes.plot(sizes, bound, color=INK, lw=1.5, label="T2: no additive experts get above")
    reached = [mean_lis(n) / n for n in sizes]
    axes.plot(sizes, reached, color=BLUE, lw=1.5, label="built additive experts, E LIS / N")
    axes.plot(sizes, chance, color=GREY, lw=1.5, label="T1: chance, 1 / N")
    for name, rank, colour in (("W and W, sum", 0, GREY), ("V (rank 8) and W", 8, ORANGE)):
        points = [(n, *simulated(n, rank)) for n in sizes if n > 3]
        x, y, error = (list(column) for column in zip(*points, strict=True))
        bars = {"fmt": "o", "color": colour, "ms": 4, "capsize": 2, "label": f"simulated: {name}"}
        axes.errorbar(x, y, yerr=[2 * e for e in error], **bars)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlabel("N, the number of bridges")
    axes.set_ylabel("expected two-hop accuracy\namong second-hop answers")
    axes.set_ylim(0, 1.04)
    axes.set_title("What two experts can compose: only pairs that interact rise above the bound")
    axes.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.72))


def simulated(n: int, rank: int, worlds: int = 10) -> tuple[float, float]:
    """Share right among second-hop answers and its error, with experts on W (rank 0) or with the
    first on V at that rank, m = 2048."""
    shares = []
    for world in range(worlds):
        rng = generator(f"picture composition {n} {rank}", world)
        model, first, second = clean_model(n, 2048, rng)
        relations, moved = (first, second), model
        parts = experts(model, relations)
        if rank:
            codes = torch.nn.functional.normalize(normal(n, rank, rng=rng), dim=1)
            moved, parts = bridge_codes(model, first, codes, 2.0), parts[1:]
        logits = merged_logits(moved, MERGES["sum"](parts), two_hop_prompts(relations))
        right = best_among(second.new.sort().values, logits) == composed(relations)
        shares.append(float(right.double().mean()))
    x = torch.tensor(shares, dtype=torch.float64)
    return float(x.mean()), float(x.std()) / math.sqrt(worlds)


CLAIMS = (
    Claim(
        id="compose-pairs",
        kind="theorem",
        title="last down_proj, up_proj and norm gain do not interact with themselves; others do",
        statement=(
            "Adapters of both experts on the last block's down_proj, or both on its up_proj, or on "
            "the final norm's gain, and gates there that score each expert by itself, leave the "
            "logits additive, so T2 holds for real transformers too. V with W, layers below, "
            "gate_proj, attention, up_proj with down_proj, and averaged factors interact: they "
            "can compose. A bridge that is written out interacts by the text."
        ),
        formula="l(u, s) + l(u', s') - l(u, s') - l(u', s) = 0, logits times the final norm's rms",
        source="[derived]",
        assumptions=(
            "RMSNorm, or a layer norm without bias, before the unembedding: its divisor is one "
            "positive number that no argmax sees. A layer norm's bias would see it"
        ),
        derivation=(
            "down(act(gate h) * up h) is linear in down and in up, h depends on neither, and "
            "nothing but the norm reads it. A softmax gate with scores s_k of the hidden state and "
            "expert k gives e^{s_1}(a + b) + e^{s_2}(a + c) over a positive number; top-1 is its "
            "limit. The lazy regime is additive by definition. For the rest the check shows that "
            "the mixed difference is not 0"
        ),
        computed=(
            "two versions of each expert, random updates of rank 2, the one-layer model and the "
            "transformer of the studies; 1 if the mixed difference exceeds 0.1 % of the change"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_pairs,
        picture=picture,
    ),
    Claim(
        id="compose-rank-two",
        kind="prediction",
        title="the converse: rank 2 on V beside one expert on W composes any number of facts",
        statement=(
            "Interaction is enough, and little of it: an adapter on V that writes each subject's "
            "bridge as a point on a circle makes the sum answer every two-hop question rightly, "
            "over all answers, at infinite width."
        ),
        formula="V e_x + t sum_y cos(angle of y and r~1(x)) V e_y, t >= 1: accuracy 1",
        source="[derived]",
        assumptions="clean geometry, m -> infinity; expert 1 on V (rank 2), expert 2 on W",
        derivation=(
            "the prompt overlaps (y, R2) by 1 + t cos(angle of y and r~1(x)), largest at r~1(x); "
            "the kernel grows with it, and G^-1 takes a multiple of the identity and a constant"
        ),
        computed="accuracy over all answers by the kernel, N = 16, 64, t = 1, 4, and without it",
        relation="==",
        check=check_rank_two,
    ),
    Claim(
        id="compose-rank-width",
        kind="measurement",
        title="at finite width more rank on V is needed: 2 gives .53, 4 gives .91, 8 gives all",
        statement=(
            "With 4096 features the noise of the keys hides the circle's small differences. Random "
            "codes of rank 4 and 8 keep 24 bridges apart."
        ),
        formula="accuracy .53, .905, 1 at rank 2 (circle), 4, 8 (random codes)",
        source="measured here",
        assumptions="clean geometry, N = 24, m = 4096, strength 2",
        derivation="none: a measurement",
        computed="accuracy over all answers, 8 worlds a seed; the bounds are of 12 other worlds",
        relation="==",
        check=check_rank_width,
    ),
)

"""What a merge leaves of one hop, and of a chain that is written out hop by hop."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from theory.adapter import Adapter
from theory.claim import Claim, Observation, Settings, averaged, generator, mean_and_error
from theory.claims.two_hop import CLEAN, MERGES, composed, experts, merged_logits
from theory.one_layer import OneLayer, Relation, accuracy, chain_world, random_features
from theory.pictures import BLUE, GREEN, GREY, ORANGE, compare, listed, means, number_in


def check_one_hop_scale(settings: Settings) -> Iterator[Observation]:
    n, m, repeats = 8, 1024, 12
    for adapters in (2, 4, 8):
        kept = {"sum": 1.0, "mean of products": 1 / adapters, "product of means": adapters**-2}

        def left(rng: torch.Generator, adapters: int = adapters) -> dict[str, float]:
            first, *_ = relations = chain_world(n, adapters, rng)
            model = random_features(relations, n, None, m, rng)
            parts, rows = experts(model, relations), torch.arange(n)
            logits = {x: merged_logits(model, f(parts), first.prompts) for x, f in MERGES.items()}
            return {
                f"{x}, K={adapters}": float(y[rows, first.new].mean()) for x, y in logits.items()
            }

        bounds = {f"{merge}, K={adapters}": share for merge, share in kept.items()}
        rivals = {
            f"product of means, K={adapters}": {
                "1/K^1.8": adapters**-1.8,
                "1/K^2.2": adapters**-2.2,
                "0": 0.0,
            }
        }
        for seed in settings.each:
            draws = [left(generator(f"one-hop-scale {adapters} {i}", seed)) for i in range(repeats)]
            yield from averaged(seed, draws, bounds, 1 / m, rivals)


def written_out(
    model: OneLayer, merged: Adapter, relations: Sequence[Relation]
) -> tuple[float, float, float, float]:
    """Accuracies of hop 1 and of hop 2; then, of the chain in which the model's own answer to hop 1
    becomes the subject of hop 2, the shares that end right through the right bridge, and through a
    wrong one."""
    first, second = relations[:2]
    bridge = merged_logits(model, merged, first.prompts).argmax(1)
    asked = torch.stack([bridge, torch.full_like(bridge, second.token)], dim=1)
    end = merged_logits(model, merged, asked).argmax(1) == composed(relations)
    right = bridge == first.new
    return (
        float(right.double().mean()),
        accuracy(merged_logits(model, merged, second.prompts), second.new),
        float((right & end).double().mean()),
        float((~right & end).double().mean()),
    )


def check_written_out(settings: Settings) -> Iterator[Observation]:
    n, worlds = 16, 400 if settings.full else 80
    cases = [
        ("sum, clean geometry", None, 2, "sum"),
        ("sum, d = 12", 12, 2, "sum"),
        ("sum, d = 8", 8, 2, "sum"),
        ("mean of three products", None, 3, "mean of products"),
    ]
    for case, d, adapters, merge in cases:
        for seed in settings.each:
            runs = []
            for world in range(worlds):
                rng = generator(f"written-out {case} {world}", seed)
                relations = chain_world(n, adapters, rng)
                model = random_features(relations, n, d, 256, rng)
                runs.append(written_out(model, MERGES[merge](experts(model, relations)), relations))
            hop_1, hop_2, through, repaired = torch.tensor(runs, dtype=torch.float64).T
            bound = float((hop_1 * hop_2).mean())
            gap, error = mean_and_error(through - hop_1 * hop_2)  # world by world
            rivals = {
                "p + (1 - p) / N": bound + (1 - bound) / n,
                "p^1.2": bound**1.2,
                "the smaller of the two": float(torch.minimum(hop_1, hop_2).mean()),
            }
            name = f"{case}: right end by the right bridge"
            yield Observation(name, seed, bound, bound + gap, error, 0.0, rivals)
            if merge != "sum":  # both hops answer their old facts: such errors cancel by chance
                share, error = mean_and_error(repaired)
                name = f"{case}: right end by the old bridge"
                yield Observation(name, seed, 1 / (n - 1), share, error)


def picture_scale(axes: Any) -> None:
    """What a merge leaves of an edit against the number of experts."""
    points = means(check_one_hop_scale(Settings(seeds=3)))
    for merge, colour in zip(MERGES, (BLUE, ORANGE, GREEN), strict=True):
        own = {case: point for case, point in points.items() if case.startswith(merge + ",")}
        x = [number_in(case, "K=") for case in own]
        compare(axes, x, list(own.values()), colour, merge)
    axes.axhline(0.5, color=GREY, lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([2, 4, 8], ["2", "4", "8"])
    axes.set_xlabel("experts in the merge")
    axes.set_ylabel("logit left of the new answer")
    axes.set_title("Below 1/2 the old fact wins; ticks: 1, 1/K, 1/K^2")
    axes.legend(frameon=False)


def picture_written_out(axes: Any) -> None:
    """Right ends of written-out chains beside the product of the one-hop accuracies."""
    listed(axes, means(check_written_out(Settings(seeds=2))))
    axes.set_xlabel("share of chains")
    axes.set_title("A written-out bridge: the product of the one-hop accuracies", loc="right")


CLAIMS = (
    Claim(
        id="merge-scale",
        kind="prediction",
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
            "mean logit of the new answer on the first relation's prompts, K = 2, 4, 8, N = 8, "
            "m = 1024, 12 worlds a seed, bias 1 / m"
        ),
        relation="==",
        check=check_one_hop_scale,
        picture=picture_scale,
    ),
    Claim(
        id="two-hop-written-out",
        kind="theorem",
        title="with the bridge written out, two-hop accuracy is the product of the one-hop ones",
        statement=(
            "A chain of thought turns the second hop into a plain fact, so only the two one-hop "
            "accuracies count. Two errors can cancel: a wrong bridge leads to the right end only "
            "if the second hop is wrong about it too, which happens by chance, with 1/(N - 1), "
            "where both hops answer their old facts."
        ),
        formula=(
            "P(right bridge and right end) = mean over worlds of P(hop 1) P(hop 2), "
            "both after the merge"
        ),
        source="[derived]",
        assumptions=(
            "the model's own answer to 'x R1' is asked about as 'y R2'; bijections; r~1 is "
            "uniform, so which subjects fail hop 1 says nothing about which bridges fail hop 2"
        ),
        derivation=(
            "N p1 subjects are right at hop 1, and r~1 carries them to a uniform subset of the "
            "bridges, of which a share p2 is right at hop 2. For a wrong bridge y' in place of y, "
            "r~2(y') differs from r~2(y), so hop 2 must err at y'; if both hops answer old facts, "
            "r2(y') = r~2(y) for one of the N - 1 possible y'"
        ),
        computed=(
            "sum of two (clean geometry, d = 8, 12: partial recall), mean of three; 80 worlds of "
            "N = 16 a seed, chain less p1 p2 world by world"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_written_out,
        picture=picture_written_out,
    ),
)

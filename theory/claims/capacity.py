"""How many facts a rank can hold depends on what counts as holding: exact logits, a margin, or the
argmax alone.

Exact logits take rank |Y| - components (`editing.py`). With unit vectors c_y in R^r and the edit
C^T C_new Phi^+, fact x -> y wins by 1 - max cos(c_y, c_z). Two dimensions are enough for any N when
any margin will do, and r dimensions hold exp(r t^2 / 4) facts at margin 1 - t.

'About 2 bits per parameter at 1,000 exposures' (arXiv 2404.05405) is a measurement on trained
transformers and not checked here. As a bound on a rank it cannot stand: the circle holds N log2 N
bits in 2 (m + N) numbers, at a precision that grows with log N.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from theory.adapter import Adapter, least_squares
from theory.claim import Claim, Observation, Settings, generator, mean_and_error, normal
from theory.one_layer import derangement
from theory.pictures import BLUE, GREEN, GREY, ORANGE
from theory.search import climbed, descend


def circle(n: int) -> Tensor:
    """(n, 2): n unit vectors evenly around the circle; neighbours differ by 1 - cos(2 pi / n)."""
    turn = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([torch.cos(turn), torch.sin(turn)], dim=1)


def code_edit(keys: Tensor, codes: Tensor, new: Tensor, scale: float) -> Adapter:
    """The edit of rank r that adds scale * codes codes[new]^T to the logits.

    keys (n, m), codes (answers, r), new (n,) answer ids.
    """
    through = least_squares(keys, scale * codes[new])
    return Adapter(a=through.b @ through.a, b=codes)


def circle_scale(n: int) -> float:
    """The scale that makes the circle's margin 1 - cos(2 pi / n) into 2: the edit cancels the old
    logit with 1 and wins by 1."""
    return 2 / (1 - math.cos(2 * math.pi / n))


def margin(logits: Tensor, answers: Tensor) -> float:
    """Smallest lead of the right answer over the best other one; logits (b, a), answers (b,)."""
    right = logits.gather(1, answers[:, None])
    others = logits.scatter(1, answers[:, None], -math.inf)
    return float((right - others.amax(1, keepdim=True)).min())


def check_rank_two(settings: Settings) -> Iterator[Observation]:
    for n in (8, 64, 256):
        for seed in settings.each:
            rng = generator(f"argmax-rank-2 n={n}", seed)
            keys = torch.relu(normal(n, n, rng=rng) @ normal(n, 2 * n, rng=rng))
            base = torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=rng)]
            new = base.argmax(1)[derangement(n, rng)]
            edit = code_edit(keys, circle(n), new, circle_scale(n))
            yield Observation(f"N={n}", seed, 1.0, margin(base + edit(keys), new))
    for seed in settings.each:
        worst = least_circle_margin(8, generator("argmax-rank-2 search", seed))
        yield Observation("the worst map that a search finds", seed, 1.0, worst, sought=True)


def least_circle_margin(n: int, rng: torch.Generator) -> float:
    """The least margin of a circle's edit over maps of n facts, as far as a search finds them."""
    keys = torch.relu(normal(n, n, rng=rng) @ normal(n, 2 * n, rng=rng))
    base = torch.eye(n, dtype=torch.float64)

    def lost(scores: Tensor) -> float:
        """Minus the margin where every fact takes the answer of the next fact in this order."""
        order = scores.argsort()
        new = torch.empty_like(order).scatter(0, order, order.roll(1))
        return -margin(base + code_edit(keys, circle(n), new, circle_scale(n))(keys), new)

    return -climbed(lost, [normal(n, rng=rng)], rng, 30)


def rewritten_answers(column: Tensor, row: Tensor, old: Tensor) -> Tensor:
    """(trials,): how many different answers the changed facts give under I_old + column row^T.

    column (trials, n), row (trials, n), old (n,) answer ids.
    """
    base = torch.eye(row.shape[1], dtype=torch.float64)[old]
    answers = (base + column[:, :, None] * row[:, None, :]).argmax(-1)
    return torch.tensor([len(set(a[a != old].tolist())) for a in answers], dtype=torch.float64)


def check_rank_one(settings: Settings) -> Iterator[Observation]:
    n = 12
    for seed in settings.each:
        rng = generator("argmax-rank-1", seed)
        for scale in (0.3, 1.0, 10.0):
            column, row = scale * normal(400, n, rng=rng), normal(400, n, rng=rng)
            most = rewritten_answers(column, row, torch.arange(n)).max()
            yield Observation(f"400 random updates of size {scale}", seed, 2.0, float(most))
        old = torch.arange(n)

        def brought(column: Tensor, row: Tensor, old: Tensor = old) -> float:
            return float(rewritten_answers(column, row, old))

        found = climbed(brought, [normal(1, n, rng=rng), normal(1, n, rng=rng)], rng, 200)
        yield Observation("an update that a search finds", seed, 2.0, found, sought=True)


def largest_cosine(n: int, rank: int) -> float:
    """E of the largest cosine between two of n random unit vectors in R^rank.

    One pair's cosine s has density proportional to (1 - s^2)^((rank - 3) / 2), and pairs are
    independent two by two, so the number of pairs above t is nearly Poisson:
    P(largest <= t) = exp(-n (n - 1) / 2 P(s > t)).
    """
    t = torch.linspace(-1, 1, 40_001, dtype=torch.float64)
    density = (1 - t.square()).clamp_min(0) ** ((rank - 3) / 2)
    above = density.flip(0).cumsum(0).flip(0) / density.sum()
    below = torch.exp(-n * (n - 1) / 2 * above)
    return float(1 - torch.trapezoid(below, t))


def union_bound(n: int, rank: int, failure: float = 1e-3) -> float:
    """A margin that n random unit vectors keep with probability 1 - failure: for one pair
    P(cos > t) <= exp(-rank t^2 / 2), and there are n (n - 1) / 2 pairs."""
    return 1 - math.sqrt(2 * math.log(n * (n - 1) / 2 / failure) / rank)


def check_margin(settings: Settings) -> Iterator[Observation]:
    repeats = 16
    for n, rank in ((64, 16), (128, 64), (512, 64), (512, 128)):
        bound = 1 - largest_cosine(n, rank)
        for seed in settings.each:
            found = []
            for i in range(repeats):
                drawn = normal(n, rank, rng=generator(f"margin {n} {rank} {i}", seed))
                codes = torch.nn.functional.normalize(drawn, dim=1)
                found.append(margin(codes @ codes.T, torch.arange(n)))
            mean, error = mean_and_error(found)
            rivals = {"the union bound": union_bound(n, rank)}
            yield Observation(
                f"N={n} codes at rank {rank}", seed, bound, mean, error, 0.002, rivals
            )


def best_margins(n: int, rank: int, seeds: range, starts: int = 6) -> list[float]:
    """For each seed the largest margin 1 - max cos of n unit codes in R^rank that descent finds."""
    rngs = [generator(f"capacity-converse {n} {rank}", seed) for seed in seeds]
    codes = torch.stack([normal(starts, n, rank, rng=rng) for rng in rngs]).requires_grad_()
    same = torch.eye(n, dtype=torch.bool)

    def cosines() -> Tensor:
        unit = torch.nn.functional.normalize(codes, dim=-1)
        return (unit @ unit.mT).masked_fill(same, -math.inf).flatten(2)

    def closest(sharpness: float) -> Callable[[], Tensor]:
        return lambda: (sharpness * cosines()).logsumexp(2) / sharpness

    for sharpness in (10.0, 100.0, 1000.0):
        descend(closest(sharpness), (codes,), 60, 0.15 / sharpness**0.5)
    return (1 - cosines().detach().amax(2).amin(1)).tolist()


def check_converse(settings: Settings) -> Iterator[Observation]:
    for rank in (2, 3):
        for n, bound in ((rank + 1, 1 + 1 / rank), (2 * rank, 1.0), (2 * rank + 1, 1.0)):
            for seed, found in zip(
                settings.each, best_margins(n, rank, settings.each), strict=True
            ):
                case = f"N={n} codes at rank {rank}"
                yield Observation(case, seed, bound, found, sought=True)


def picture_converse(axes: Any) -> None:
    """The largest margin that descent finds against the number of codes, three ranks."""
    for rank, colour in ((2, BLUE), (3, ORANGE), (4, GREEN)):
        sizes = list(range(rank + 1, 2 * rank + 4))
        found = torch.tensor([best_margins(n, rank, range(3)) for n in sizes], dtype=torch.float64)
        bounds = [n / (n - 1) if n == rank + 1 else 1.0 for n in sizes]
        kept = slice(0, rank + 1)
        axes.plot(sizes[kept], bounds[kept], color=colour, lw=1, ls=":")
        spread = (found.amax(1) - found.amin(1)).tolist()
        bars = {"fmt": "o", "color": colour, "ms": 5, "capsize": 3, "label": f"rank {rank}"}
        axes.errorbar(sizes, found.mean(1).tolist(), yerr=spread, **bars)
    axes.axhline(1, color=GREY, lw=0.8)
    axes.set_xlabel("number of unit codes")
    axes.set_ylabel("largest margin found")
    axes.set_title("Margin 1 ends at 2 r codes; dotted: the bound; bars: range of three seeds")
    axes.legend(frameon=False)


CLAIMS = (
    Claim(
        id="capacity-argmax",
        kind="theorem",
        title="for the argmax alone, rank 2 rewrites any number of facts, with margin 1",
        statement=(
            "With answers laid out on a circle, "
            "a rank-two update makes every one of N facts answer anew."
        ),
        formula=(
            "logits = I_old + t c_y.c_new(x), t = 2 / (1 - cos(2 pi / N)):  "
            "margin >= t (1 - cos(2 pi / N)) - 1 = 1"
        ),
        source="[derived]",
        assumptions="independent keys; precision: t grows as N^2 / pi^2",
        derivation=(
            "the nearest other answer on the circle trails by t (1 - cos(2 pi / N)), "
            "and the old logit adds at most 1"
        ),
        computed="smallest lead of the new answer, N = 8, 64, 256, random maps, and a sought one",
        relation=">=",
        tolerance=1e-6,
        check=check_rank_two,
    ),
    Claim(
        id="capacity-rank-one",
        kind="theorem",
        title="rank 1 brings in at most two different new answers",
        statement=(
            "So rank 2 is also necessary as soon as three facts are to have three different new "
            "answers."
        ),
        formula="argmax_y (I_old + a_x b_y) is old(x), argmax b or argmin b",
        source="[derived]",
        assumptions="W phi = i_old before the edit",
        derivation=(
            "for a_x > 0 only the largest b can pass the old answer, for a_x < 0 only the smallest"
        ),
        computed=(
            "most new answers over 1,200 random rank-one updates of 12 facts, and a search of 200; "
            "a sample cannot prove, the line above does"
        ),
        relation="<=",
        tolerance=0.0,
        check=check_rank_one,
    ),
    Claim(
        id="capacity-margin",
        kind="prediction",
        title="random codes: at a fixed margin the number of facts is exponential in the rank",
        statement=(
            "N random directions in R^r keep every two answers apart by a margin that follows from "
            "the law of one cosine: 0.62 for 512 answers at rank 128. The union bound says at "
            "least 1 - sqrt(2 ln(N^2 / 2 delta) / r), which is 0.46 there."
        ),
        formula=(
            "E margin = integral of exp(-N (N - 1) / 2 P(cos > t)) dt over (-1, 1); "
            "N ~ exp(r (1 - margin)^2 / 4)"
        ),
        source="[derived]",
        assumptions="answers on the unit sphere of R^r, logits = inner products, no old logit",
        derivation=(
            "cosines of pairs are independent two by two, so the number above t is nearly Poisson, "
            "and P(cos > t) <= exp(-r t^2 / 2); E (1 - largest) = integral of P(largest <= t)"
        ),
        computed="smallest margin of N = 64 .. 512 random answers, 16 draws a seed; bias 0.002",
        relation="==",
        check=check_margin,
    ),
    Claim(
        id="capacity-converse",
        kind="theorem",
        title="margin 1 holds at most 2 r unit codes, margin g > 1 at most 1 + 1/(g - 1)",
        statement=(
            "The other side of capacity-margin. Below margin 1 the number of codes is at most "
            "exponential in the rank too; from margin 1 on it is linear, and above it the rank "
            "does not count at all."
        ),
        formula="N <= 2 r at g = 1;  N <= 1 + 1/(g - 1) for g > 1;  N <= (1 + 2/sqrt(2 g))^r below",
        source="[derived]; the first is classical",
        assumptions="unit codes in R^r, margin g = 1 - largest cosine",
        derivation=(
            "g > 1: all cosines <= 1 - g, so 0 <= |sum of codes|^2 <= N + N (N - 1)(1 - g). "
            "g = 1: vectors at right or obtuse angles number at most 2 r (induction: project on "
            "the complement of one of them). g < 1: codes lie sqrt(2 g) apart, so balls of half "
            "that radius are disjoint within a ball of radius 1 + sqrt(2 g)/2; compare volumes"
        ),
        computed=(
            "the largest margin that descent finds, 6 starts, r = 2, 3: the simplex (N = r + 1) "
            "and the cross (N = 2 r) attain the bounds, N = 2 r + 1 stays below"
        ),
        relation="<=",
        tolerance=1e-9,
        check=check_converse,
        picture=picture_converse,
    ),
)

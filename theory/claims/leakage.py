"""Leakage: how much of one key is seen through another, for random ReLU features.

For rows of U ~ N(0, I_d) and theta the angle between a and b (Cho and Saul 2009, arc-cosine kernel
of order 1):

    E[phi(a).phi(b)] / E||phi(a)||^2  =  J(theta) ||b|| / ||a||
    J(theta)                          =  (sin theta + (pi - theta) cos theta) / pi

In the clean geometry (all V e_x and e_R orthonormal) every angle between prompts follows from the
terms that they share: cos = shared / sqrt(terms_a terms_b). "x R1" has the two terms V e_x and
e_R1; "x R1 R2" has the three terms V e_x, V e_R1 and e_R2.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from theory.claim import Claim, Observation, Settings, generator, mean_and_error, normal
from theory.one_layer import chain_world, random_features
from theory.pictures import BLUE, GREY, INK, compare, means

PAIRS = {
    # name: (prompt a, prompt b, terms they share), prompts written as subject and relations
    "itself": ("x R1", "x R1", 2),
    "other entity, same relation": ("x R1", "y R1", 1),
    "same entity, other relation": ("x R1", "x R2", 1),
    "other entity, other relation": ("x R1", "y R2", 0),
    "two-hop prompt on its first hop": ("x R1", "x R1 R2", 1),
    "two-hop prompt on another first hop": ("y R1", "x R1 R2", 0),
    "two-hop prompt on any second hop": ("y R2", "x R1 R2", 1),
    "two-hop prompt on (x, R2)": ("x R2", "x R1 R2", 2),
}


def arc_cosine(theta: Tensor) -> Tensor:
    """J for angles in [0, pi]: J(0) = 1, J(60 deg) = 0.609, J(90 deg) = 1/pi, J(180 deg) = 0."""
    return (torch.sin(theta) + (math.pi - theta) * torch.cos(theta)) / math.pi


def arc_cosine_second(theta: Tensor) -> Tensor:
    """Kernel of order 2, scaled to 1 at 0: E[relu(g_a)^2 relu(g_b)^2] is 3/2 of it (unit a, b)."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return (3 * sin * cos + (math.pi - theta) * (1 + 2 * cos**2)) / (3 * math.pi)


def angles(a: Tensor, b: Tensor) -> Tensor:
    """(i, d), (j, d) -> (i, j): the angles between rows, in radians."""
    cos = torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T
    return torch.arccos(cos.clamp(-1, 1))


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(i, d), (j, d) -> (i, j): E[relu(u.a) relu(u.b)] over u ~ N(0, I).

    phi(a).phi(b) / m tends to it as the number m of features grows.
    """
    return torch.outer(a.norm(dim=1), b.norm(dim=1)) * arc_cosine(angles(a, b)) / 2


def overlap(a: str, b: str, shared: int) -> float:
    """Predicted phi(a).phi(b) / ||phi(a)||^2 of two prompts in the clean geometry."""
    terms_a, terms_b = len(a.split()), len(b.split())
    theta = torch.tensor(shared / math.sqrt(terms_a * terms_b), dtype=torch.float64).arccos()
    return float(arc_cosine(theta)) * math.sqrt(terms_b / terms_a)


def standard_error(cos: float, m: int) -> float:
    """Of the mean over m features of 2 relu(u.a) relu(u.b), unit a and b; its mean is J(theta)."""
    theta = torch.tensor(cos, dtype=torch.float64).arccos()
    variance = 4 * 1.5 * arc_cosine_second(theta) - arc_cosine(theta) ** 2
    return math.sqrt(float(variance) / m)


def overlap_and_error(own: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean over pairs of a.b / |a|^2, keys a and b the rows of `own` and `other` (n, m), and its
    standard error: a ratio of two means over m independent features (delta method)."""
    ratio = (own * other).sum(1, keepdim=True) / own.square().sum(1, keepdim=True)
    each = (own * other - ratio * own.square()) / own.square().mean(1, keepdim=True)
    m = own.shape[1]
    return float(ratio.mean()), float(each.mean(0).std()) / math.sqrt(m)


def measured_overlaps(n: int, m: int, rng: torch.Generator) -> dict[str, tuple[float, float]]:
    """Each pair of PAIRS on one model with m sampled features, with its standard error.

    Each overlap is averaged over the n choices of x; y is the entity after x.
    """
    first, second = relations = chain_world(n, 2, rng)
    model = random_features(relations, n, None, m, rng)
    tokens = {"x": torch.arange(n), "y": torch.arange(n).roll(-1)}
    tokens |= {"R1": torch.full((n,), first.token), "R2": torch.full((n,), second.token)}

    def keys(prompt: str) -> Tensor:
        return model.keys(torch.stack([tokens[word] for word in prompt.split()], dim=1))

    return {name: overlap_and_error(keys(a), keys(b)) for name, (a, b, _) in PAIRS.items()}


def check_kernel(settings: Settings) -> Iterator[Observation]:
    m = 65536 if settings.full else 8192
    for seed in settings.each:
        measured = measured_overlaps(n=16, m=m, rng=generator("leak-kernel", seed))
        for name, (a, b, shared) in PAIRS.items():
            if shared < len(a.split()):  # a key on itself is 1 by definition
                cos = shared / math.sqrt(len(a.split()) * len(b.split()))
                scale = math.sqrt(len(b.split()) / len(a.split()))
                rivals = {
                    "the cosine alone": cos * scale,
                    "arc-cosine of order 0": scale * (1 - math.acos(cos) / math.pi),
                    "without |b| / |a|": overlap(a, b, shared) / scale,
                }
                rivals = {k: v for k, v in rivals.items() if v != overlap(a, b, shared)}
                value, error = measured[name]
                yield Observation(name, seed, overlap(a, b, shared), value, error, 2 / m, rivals)


CONSTANT_PAIRS = {"60 deg": 0.5, "two-hop prompt, 66 deg": 1 / math.sqrt(6)}


def check_constant(settings: Settings) -> Iterator[Observation]:
    """Only u.a and u.b matter, so two Gaussians with correlation cos stand for U. The squared
    error of a mean over m features, over its prediction; 128 features are a block of 1024."""
    repeats = 20_000 if settings.full else 4_000
    for seed in settings.each:
        for name, cos in CONSTANT_PAIRS.items():
            g, h = normal(2, repeats, 1024, rng=generator(f"leak-constant {name}", seed))
            terms = 2 * torch.relu(g) * torch.relu(cos * g + math.sqrt(1 - cos**2) * h)
            theta = torch.tensor(cos, dtype=torch.float64).arccos()
            j = float(arc_cosine(theta))
            for m in (128, 1024):
                squares = (terms.reshape(-1, m).mean(1) - j).square()
                predicted = standard_error(cos, m) ** 2
                mean, error = mean_and_error(squares / predicted)
                rivals = {
                    "without - J^2": 1 + j**2 / (m * predicted),
                    "error falls as m^-0.45": (m / 512) ** 0.1,
                    "error falls as m^-0.55": (m / 512) ** -0.1,
                }
                yield Observation(f"{name}, m={m}", seed, 1.0, mean, error, 0.0, rivals)


def check_fall(settings: Settings) -> Iterator[Observation]:
    m = 65536
    for seed in settings.each:
        for degrees in (30, 60, 90, 120, 150):  # 0 and 180 are 1 and 0 by definition
            turn = torch.tensor([0.0, math.radians(degrees)], dtype=torch.float64)
            pair = torch.stack([turn.cos(), turn.sin()], dim=1)
            keys = torch.relu(pair @ normal(2, m, rng=generator(f"leak-fall {degrees}", seed)))
            measured, error = overlap_and_error(keys[:1], keys[1:])
            bound = float(arc_cosine(turn[1]))
            rivals = {
                "1 - theta / pi": 1 - degrees / 180,
                "(1 + cos theta) / 2": (1 + float(turn[1].cos())) / 2,
                "never below 1 / pi": max(bound, 1 / math.pi),
            }
            yield Observation(f"{degrees} deg", seed, bound, measured, error, 2 / m, rivals)


def picture(axes: Any) -> None:
    """Predicted overlap of every kind of pair, beside the measured one of five seeds."""
    names = sorted(PAIRS, key=lambda name: overlap(*PAIRS[name]))
    runs = [measured_overlaps(16, 8192, generator("picture leakage", seed)) for seed in range(5)]
    predicted = [overlap(*PAIRS[name]) for name in names]
    rows = range(len(names))
    axes.plot(predicted, rows, "|", color=INK, ms=22, mew=1.5, label="predicted")
    for i, run in enumerate(runs):
        values, errors = zip(*(run[name] for name in names), strict=True)
        label = "measured, 5 seeds, 2 standard errors" if i == 0 else None
        bars = {"fmt": "o", "color": BLUE, "ms": 4, "alpha": 0.6, "label": label}
        places = [row + 0.08 * (i - 2) for row in rows]
        axes.errorbar(values, places, xerr=[2 * e for e in errors], **bars)
    for value, row in zip(predicted, rows, strict=True):
        above = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
        axes.annotate(f"{value:.3f}", (value, row), (0, 13), **above)
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlim(0.27, 1.1)
    axes.set_xlabel(r"overlap of the keys,  $\phi(a)\cdot\phi(b)\,/\,|\phi(a)|^2$")
    title = r"Leakage: $J(\theta)\,|b|/|a|$ against sampled features (m = 8192)"
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, loc="lower right")


def picture_fall(axes: Any) -> None:
    """The kernel against the angle, and sampled overlaps."""
    degrees = torch.linspace(0, 180, 181, dtype=torch.float64)
    axes.plot(degrees, arc_cosine(torch.deg2rad(degrees)), color=GREY, lw=1.2, label="J")
    points = means(check_fall(Settings()))
    angle = [float(case.split()[0]) for case in points]
    compare(axes, angle, list(points.values()), BLUE, "m = 65536, mean of 5 seeds")
    axes.axhline(1 / math.pi, color=GREY, ls=":", lw=1)
    axes.set_xlabel("angle between the residuals, degrees")
    axes.set_ylabel("overlap of the keys")
    axes.set_title("Keys of orthogonal residuals still overlap by 1 / pi")
    axes.legend(frameon=False)


SOURCE = "Cho and Saul 2009 (arc-cosine kernel); [derived]"


CLAIMS = (
    Claim(
        id="leak-kernel",
        kind="prediction",
        title="overlap of any two prompts' keys is J(theta) |b|/|a|",
        statement=(
            "The share of one prompt's key that is seen through another's is set by the angle of "
            "their residuals: 0.609 for another entity of the same relation, 0.318 for another "
            "entity and relation; the two-hop prompt sees its first hop and every second hop alike "
            "at 0.673."
        ),
        formula=(
            "phi(a).phi(b) / |phi(a)|^2 -> J(theta) |b|/|a|,  J = (sin t + (pi - t) cos t) / pi"
        ),
        source=SOURCE,
        assumptions="rows of U ~ N(0, I); all V e_x, e_R orthonormal (clean geometry)",
        derivation=(
            "u.a and u.b are jointly Gaussian with correlation cos theta; integrate relu relu over "
            "the wedge where both are positive. The angles follow from the terms that two prompts "
            "share."
        ),
        computed=(
            "seven kinds of pairs on sampled models, m = 8192, the mean over 16 entities against "
            "J; standard errors by the delta method over features, bias 2 / m"
        ),
        relation="==",
        tolerance=1e-9,
        check=check_kernel,
        picture=picture,
    ),
    Claim(
        id="leak-constant",
        kind="prediction",
        title="the sampled overlap's error is the closed form sqrt((6 J2 - J^2) / m)",
        statement=(
            "How far a network of m features lies from J(theta) is known: the variance comes from "
            "the arc-cosine kernel of order 2, and the error falls as one over the root of m."
        ),
        formula="E (overlap - J)^2 = (6 J2(theta) - J(theta)^2) / m",
        source=SOURCE,
        assumptions="rows of U ~ N(0, I)",
        derivation=(
            "Var = E[4 relu(g_a)^2 relu(g_b)^2] - J^2 and E[relu^2 relu^2] = (3/2) J2, J2(0) = 1; "
            "m independent terms divide it by m"
        ),
        computed=(
            "mean squared error over the prediction, 32,000 draws at m = 128 and 4,000 at m = 1024"
        ),
        relation="==",
        check=check_constant,
    ),
    Claim(
        id="leak-fall",
        kind="prediction",
        title="the overlap of two keys falls from 1 through 1/pi at 90 deg to 0 at 180 deg",
        statement=(
            "ReLU features of prompts whose residuals are at most orthogonal never decorrelate: "
            "they overlap by 1/pi or more. Past 90 degrees the overlap falls on, to 0 at 180."
        ),
        formula="J(theta) >= 1/pi for theta <= 90 deg,  J(180 deg) = 0",
        source="[derived]",
        assumptions="rows of U ~ N(0, I)",
        derivation="J is decreasing: J' = -(pi - theta) sin theta / pi <= 0, and J(90 deg) = 1/pi",
        computed="angles 30, 60, .. 150 degrees at m = 65536",
        relation="==",
        check=check_fall,
        picture=picture_fall,
    ),
)

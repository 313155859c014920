"""Recall certificates: which facts of trained experts surely survive a merge.

The certificate itself is `recycle/audit/certificate.py`, where the audit of adapters uses it too.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from recycle.audit.certificate import Factors, certified
from theory.adapter import Adapter
from theory.claim import Claim, Observation, Settings, share_error
from theory.claims.trained_experts import LONG, SHORT, TRAINED, WEIGHTS, Run, runs
from theory.pictures import BLUE, ORANGE


def adapters_of(run: Run) -> list[Adapter]:
    """The trained experts, whose factors have scale 1."""
    return [Adapter(a, b) for a, b in zip(run.a, run.b, strict=True)]


def factors(adapters: Sequence[Adapter]) -> list[Factors]:
    return [(adapter.a, adapter.b) for adapter in adapters]


def kept(logits: Tensor, answers: Tensor) -> Tensor:
    """(n, a), (n,) -> (n,) bool: the facts whose answer leads."""
    return logits.argmax(1) == answers


def judged(run: Run, weight: float, sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """(certified, seen), both (2 n,) bool, of both experts' facts where each expert has this
    weight, and the other one this sign before it."""
    parts, sure, seen = adapters_of(run), [], []
    for k, relation in enumerate(run.relations):
        keys = run.model.keys(relation.prompts)
        base = run.model.logits(relation.prompts)
        weights = [weight if j == k else sign * weight for j in range(len(parts))]
        sure.append(certified(base, keys, relation.new, factors(parts), k, weights))
        logits = base + torch.stack([w * p(keys) for w, p in zip(weights, parts, strict=True)]).sum(
            0
        )
        seen.append(kept(logits, relation.new))
    return torch.cat(sure), torch.cat(seen)


def rotated_rival(run: Run, k: int, i: int) -> Adapter:
    """The other expert with its code turned against fact i of expert k: the same norms of
    (e_y - e_z)^T B and of A phi, but A phi points where B favours the old answer most."""
    other, relation = adapters_of(run)[1 - k], run.relations[k]
    key = run.model.keys(relation.prompts[i : i + 1])[0]
    seen, goal = other.a @ key, other.b[relation.old[i]] - other.b[relation.new[i]]
    if not seen.norm() or not goal.norm():
        return other
    start, end = seen / seen.norm(), goal / goal.norm()
    mirror = start - end
    if mirror.norm() < 1e-12:
        return other
    mirror = mirror / mirror.norm()
    return Adapter(other.a - 2 * torch.outer(mirror, mirror @ other.a), other.b)


def check_sound(settings: Settings) -> Iterator[Observation]:
    for name, seed, run in runs(settings):
        for share, weight in WEIGHTS.items():
            lost = 0
            for sign in (1.0, -1.0):
                sure, seen = judged(run, weight, sign)
                lost += int((sure & ~seen).sum())
            yield Observation(f"{name}: weight {share}, other one's sign + and -", seed, 0.0, lost)
        lost, weight = 0, 0.5
        for k, relation in enumerate(run.relations):
            for i in range(len(relation.subjects)):
                keys = run.model.keys(relation.prompts[i : i + 1])
                base, new = run.model.logits(relation.prompts[i : i + 1]), relation.new[i : i + 1]
                parts = [adapters_of(run)[k], rotated_rival(run, k, i)]
                sure = certified(base, keys, new, factors(parts), 0, [weight, weight])
                logits = base + weight * (parts[0](keys) + parts[1](keys))
                lost += int((sure & ~kept(logits, new)).sum())
        yield Observation(f"{name}: the other expert turned against each fact", seed, 0.0, lost)


def check_attained(settings: Settings) -> Iterator[Observation]:
    """The lead of new over old under the rival that `rotated_rival` makes, mean over the facts."""
    weight = 0.5
    for name, seed, run in runs(settings):
        for k, relation in enumerate(run.relations):
            said, seen = [], []
            for i in range(len(relation.subjects)):
                keys = run.model.keys(relation.prompts[i : i + 1])
                old, new = relation.old[i], relation.new[i]
                own, other, turned = (
                    adapters_of(run)[k],
                    adapters_of(run)[1 - k],
                    rotated_rival(run, k, i),
                )
                logits = (run.model.logits(relation.prompts[i : i + 1]) + weight * own(keys))[0]
                apart = (other.b[new] - other.b[old]).norm() * (other.a @ keys[0]).norm()
                moved = logits + weight * turned(keys)[0]
                said.append(float(logits[new] - logits[old] - weight * apart))
                seen.append(float(moved[new] - moved[old]))
            bound, observed = sum(said) / len(said), sum(seen) / len(seen)
            yield Observation(f"{name}: facts of expert {k + 1}", seed, bound, observed)


def check_sharp(settings: Settings) -> Iterator[Observation]:
    for share in ("1", "1/2", "1/3", "1/4"):
        for name in (SHORT, LONG):
            sure, seen = 0, 0
            for which, _, run in runs(settings):
                if which == name:
                    one, other = judged(run, WEIGHTS[share])
                    sure, seen = sure + int(one.sum()), seen + int(other.sum())
            if seen:
                case = f"{name}: certified of those seen, weight {share}"
                yield Observation(case, settings.first, 0.9, sure / seen, share_error(0.9, seen))


def picture(axes: Any) -> None:
    """Recall against the weight of both experts: seen, and certified, five seeds."""
    weights = [1 / n for n in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)]
    for name, colour in ((LONG, BLUE), (SHORT, ORANGE)):
        chosen = [run for which, _, run in runs(Settings()) if which == name]
        tables = [[judged(run, w) for run in chosen] for w in weights]
        for which, style, label in ((1, "o", "seen"), (0, "_", "certified")):
            shares = [torch.stack([pair[which].double().mean() for pair in row]) for row in tables]
            y, error = (
                [float(x.mean()) for x in shares],
                [2 * float(x.std()) / 5**0.5 for x in shares],
            )
            bars = {"color": colour, "ms": 5 if which else 14, "mew": 2, "capsize": 2 * which}
            yerr = error if which else None
            axes.errorbar(weights, y, yerr=yerr, fmt=style, label=f"{name}: {label}", **bars)
    axes.set_xlabel("weight of both experts in the merge")
    axes.set_ylabel("share of new facts")
    axes.set_title("Facts that survive a merge, and those that are certified without running it")
    axes.legend(frameon=False, fontsize=8)


CLAIMS = (
    Claim(
        id="certificate-sound",
        kind="theorem",
        title="a certified fact is never lost in a merge, whatever the other expert looks like",
        statement=(
            "From adapter files and the base's margins alone, facts are certified that keep their "
            "new answer under a weighted sum. None of them is lost, with either sign of the other "
            "expert, and even if that expert is turned against each fact in turn, as far as its "
            "norms allow."
        ),
        formula=(
            "base margin + w_k (e_y - e_z)^T B_k A_k phi > "
            "sum_{j != k} |w_j| |(e_y - e_z)^T B_j| |A_j phi| for every z"
        ),
        source="[derived]",
        assumptions=TRAINED + "; adapters on the last layer, no interaction",
        derivation=(
            "|(e_y - e_z)^T B_j A_j phi| <= |(e_y - e_z)^T B_j| |A_j phi| (Cauchy and Schwarz); "
            "the merged logits are the sum of the parts"
        ),
        computed=(
            "certified facts that are lost, at weights 1, 1/2, 1/3, 1/4, 1/8, both signs, and "
            "against the worst reflection of the other expert's code for each fact"
        ),
        relation="==",
        check=check_sound,
    ),
    Claim(
        id="certificate-attained",
        kind="theorem",
        title="the certificate's margin is attained: no better one follows from the same norms",
        statement=(
            "For every fact there is an expert with the same norms that takes away exactly what "
            "the certificate fears."
        ),
        formula="lead of new over old = certified lead, A_j phi along B_j^T (e_old - e_new)",
        source="[derived]",
        assumptions="as certificate-sound",
        derivation=(
            "equality in Cauchy and Schwarz: a reflection of the code turns A_j phi into the "
            "direction of B_j^T (e_old - e_new) and keeps its norm"
        ),
        computed="mean lead under the reflected rival against the certified one, weight 1/2",
        relation="==",
        tolerance=1e-9,
        check=check_attained,
    ),
    Claim(
        id="certificate-sharp",
        kind="measurement",
        title="at least nine in ten facts that survive the merge of trained experts are certified",
        statement=(
            "The certificate is not only safe, it is useful: on gradient-trained experts it finds "
            "92 to 100 % of the facts that survive."
        ),
        formula="certified / seen >= 0.9",
        source="measured here",
        assumptions=TRAINED,
        derivation="none: a measurement. Keys of other relations reach little of an expert's A",
        computed="facts of both experts over the seeds, weights 1 to 1/4, where any survive",
        relation=">=",
        check=check_sharp,
        picture=picture,
    ),
)

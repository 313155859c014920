"""What the two-hop study compares: bases, recipes for experts, and libraries of them, by part of
the study.

Groups: F new names and new cities, H new names, R real names with new facts, K facts known to the
base (tasks/two_hop.py). What an expert reads (hop1, hop2-plain, ..) is spelt out in
TwoHop.expert_texts.
"""

from __future__ import annotations

from tasks.task import Expert, Library

GROUPS = ("F", "H", "R", "K")
NEW = ("F", "H", "R")  # whose facts the base has not read
RANKS = (2, 4, 8, 32)  # beside 16
FEW = ("mean_of_products", "plain_sum", "arrow", "arrow_top1", "oracle")
REGIMES = (
    *((r, keep, 3e-3) for r in (4, 16) for keep in (0.0, 0.5, 0.8)),
    (16, 0.0, 1e-3),
    (16, 0.5, 1e-3),
)


def _regime(rank: int, preservation: float, lr: float) -> str:
    return f"rank_{rank}-preservation_{100 * preservation:.0f}-lr_{lr * 1e4:.0f}e-4"


BASES = {
    "standard": (),
    "dose-50": ("task.dose=0.5",),
    "dose-0": ("task.dose=0",),
    "identity": ("task.shares.identity=0.1",),
    "facts-25": ("task.triples=25",),
    "facts-100": ("task.triples=100",),
    "width-64": ("model.width=64", "model.hidden=128"),
    "width-96": ("model.width=96", "model.hidden=192"),
    "layers-1": ("model.layers=1",),
    "layers-4": ("model.layers=4",),
}
# Which part of the study trains which other base; those of the part growth are named in _growth.
_BASE_PARTS = {"dose-50": "dose", "dose-0": "dose", "identity": "identity"}
RECIPES = {
    "standard": (),
    "unpreserved": ("adapter.preservation=0",),
    "full": ("adapter.kind=full", "train.lr=1e-3"),
    **{f"rank-{r}": (f"adapter.rank={r}", f"adapter.alpha={2 * r}.0") for r in RANKS},
    **{
        _regime(r, keep, lr): (
            f"adapter.rank={r}",
            f"adapter.alpha={2 * r}.0",
            f"adapter.preservation={keep}",
            f"train.lr={lr}",
        )
        for r, keep, lr in REGIMES
    },
}
PARTS = (
    "main",
    "known",
    "entities",
    "references",
    "templates",
    "preservation",
    "dose",
    "identity",
    "growth",
    "regimes",
)
_DECIDING = "parts=" + ",".join(part for part in PARTS if part not in ("growth", "regimes"))
# Seed 0 was looked at while the rules of recycle/rules_two_hop.py were written; the presets that
# decide do not use it.
PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("groups=F,H,R", "parts=main,entities,templates"),
    "laptop": (_DECIDING, "seeds=1,2,3"),
    "full": (_DECIDING, "seeds=1,2,3,4,5"),
    "growth": ("groups=F", "parts=growth,regimes"),
}


def libraries() -> list[Library]:
    """The base, single experts, libraries of the two hops with and without an A -> C expert, and
    what they are held against: other templates, experts that kept nothing, other doses of
    composition, the identity bridge."""
    found = [Library("none", "base")]
    found += [Library("none", "base", base=base, part=part) for base, part in _BASE_PARTS.items()]
    for s in GROUPS:
        part = "known" if s == "K" else "main"
        hops = (Expert("hop1", s), Expert("hop2", s))
        target = Expert("target", s)
        found += [
            Library("none", s, part=part),
            *(
                Library(reads, s, (Expert(reads, s),), ("alone", "at_half"), part=part)
                for reads in ("hop1", "hop2")
            ),
            *(Library(reads, s, (Expert(reads, s),), part=part) for reads in ("target", "joint")),
            Library("2-combination", s, hops, ("all",), part=part),
            Library("3-combination", s, (*hops, target), ("all",), part=part),
        ]
    for s, other in (("F", "H"), ("H", "F")):
        hops = (Expert("hop1", s), Expert("hop2", s))
        real = Expert("target", "R")
        found += [
            Library(
                "3-combination, other entities",
                s,
                (*hops, Expert("target", other)),
                ("main",),
                part="entities",
            ),
            Library("3-combination, real entities", s, (*hops, real), ("main",), part="entities"),
        ]
    for s in ("F", "H"):
        hops = (Expert("hop1", s), Expert("hop2", s))
        plain = (Expert("hop1-plain", s), Expert("hop2-plain", s))
        found += [
            Library(
                "3-combination, unrelated",
                s,
                (*hops, Expert("job", s)),
                ("main",),
                part="references",
            ),
            Library("joint, full fine-tuning", s, (Expert("joint", s, "full"),), part="references"),
            Library("none, facts in context", s, context=True, part="references"),
            Library("joint, no chains", s, (Expert("joint-plain", s),), part="templates"),
            Library("2-combination, no chains", s, plain, ("main",), part="templates"),
            Library(
                "2-combination, chains for hop 1",
                s,
                (hops[0], plain[1]),
                ("main",),
                part="templates",
            ),
            Library(
                "2-combination, disjoint chains",
                s,
                (hops[0], Expert("hop2-other", s)),
                ("main",),
                part="templates",
            ),
            Library(
                "2-combination, unpreserved",
                s,
                (Expert("hop1", s, "unpreserved"), Expert("hop2", s, "unpreserved")),
                ("main",),
                part="preservation",
            ),
        ]
    for base, part in _BASE_PARTS.items():
        for s in ("F", "H", "R") if part == "dose" else ("F", "H"):
            hops = (Expert("hop1", s, base=base), Expert("hop2", s, base=base))
            found.append(Library("2-combination", s, hops, ("main",), base, part))
            if base == "identity":
                found.append(
                    Library("joint", s, (Expert("joint", s, base=base),), base=base, part=part)
                )
    return found + _growth() + _regimes()


def _growth() -> list[Library]:
    """Both hops of F against rank, number of experts beside them, number of facts, width and depth
    of the model."""

    def pair(name: str, recipe: str = "standard", base: str = "standard") -> list[Library]:
        hops = (Expert("hop1", "F", recipe, base), Expert("hop2", "F", recipe, base))
        joint = Expert("joint", "F", recipe, base)
        return [
            Library(f"2-combination, {name}", "F", hops, FEW, base, "growth"),
            Library(f"joint, {name}", "F", (joint,), base=base, part="growth"),
        ]

    found = [each for r in RANKS for each in pair(f"rank {r}", f"rank-{r}")] + pair("rank 16")
    crowd = [Expert(reads, s) for s in GROUPS for reads in ("hop1", "hop2")]
    crowd += [Expert("job", s) for s in GROUPS] + [Expert("target", s) for s in GROUPS if s != "F"]
    crowd.append(Expert("hop2-plain", "K"))
    found += [
        Library(f"combination, experts {n}", "F", tuple(crowd[:n]), FEW, part="growth")
        for n in (2, 4, 8, 16)
    ]
    for base in ("facts-25", "facts-100", "width-64", "width-96", "layers-1", "layers-4"):
        found.append(Library("none", "base", base=base, part="growth"))
        found += pair(base.replace("-", " "), base=base)
    return found


def _regimes() -> list[Library]:
    """Where one-hop recall survives which merge: rank, share of preserved texts, learning rate."""
    return [
        Library(
            f"2-combination, {_regime(*each)}",
            "F",
            (Expert("hop1", "F", _regime(*each)), Expert("hop2", "F", _regime(*each))),
            FEW,
            part="regimes",
        )
        for each in REGIMES
    ]

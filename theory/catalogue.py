"""Every claim, in reading order, and the way to find one by its id."""

from collections.abc import Sequence
from importlib import import_module

from theory.claim import Claim, TheoryError

THEMES = (  # the files of theory/claims, in reading order: a new one is one line here
    "leakage",
    "editing",
    "capacity",
    "two_hop",
    "composition",
    "interacting",
    "counter_conditions",
    "trained_experts",
    "linear_adapters",
    "relu_adapters",
    "attention_adapters",
    "trained_adapters",
    "merging",
    "landscape",
)

ALL: tuple[Claim, ...] = tuple(
    claim for theme in THEMES for claim in import_module(f"theory.claims.{theme}").CLAIMS
)


def pick(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these ids, in that order.

    Raises:
        TheoryError: an id is not known; the message lists those that are.
    """
    known = {claim.id: claim for claim in ALL}
    for name in ids:
        if name not in known:
            raise TheoryError(f"unknown claim {name!r}; known claims: {', '.join(known)}")
    return tuple(known[name] for name in ids)

"""Every claim, in reading order, and finding one by its id."""

from collections.abc import Sequence

from theory import (
    attention_adapters,
    capacity,
    counter_conditions,
    editing,
    landscape,
    leakage,
    linear_adapters,
    merging,
    relu_adapters,
    trained_adapters,
    trained_experts,
    two_hop,
)
from theory.claim import Claim, TheoryError

ALL: tuple[Claim, ...] = (
    *leakage.CLAIMS,
    *editing.CLAIMS,
    *capacity.CLAIMS,
    *two_hop.CLAIMS,
    *counter_conditions.CLAIMS,
    *trained_experts.CLAIMS,
    *linear_adapters.CLAIMS,
    *relu_adapters.CLAIMS,
    *attention_adapters.CLAIMS,
    *trained_adapters.CLAIMS,
    *merging.CLAIMS,
    *landscape.CLAIMS,
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

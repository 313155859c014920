"""Every claim, in reading order, and the way to find one by its id."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from theory.claim import Claim, TheoryError

THEMES = {  # the files of theory/claims, in reading order: a new one is one line here
    "composition": "When two experts can compose two hops: the theorem",
    "additive": "How often experts compose whose logits add up",
    "interacting": "Which modules interact, and that little interaction composes",
    "leakage": "How much of one key is seen through another",
    "editing": "Edits of W: what they do to one fact, its neighbours, and all",
    "edit_limits": "What edits of many facts cost",
    "capacity": "How many facts a rank can hold",
    "two_hop": "Logits of two-hop questions after a merge",
    "one_hop": "What a merge leaves of one hop, and of a chain that is written out",
    "counter_conditions": "Where the one-layer theory stops being true",
    "trained_experts": "Experts trained by gradient, beside the theory",
    "certificates": "Which facts surely survive a merge",
    "linear_adapters": "What adapters on a product of matrices reach",
    "relu_adapters": "What adapters on ReLU networks reach",
    "attention_adapters": "What adapters on attention reach",
    "trained_adapters": "How near training comes to the constructed adapters",
    "merging": "What one merged adapter can hold",
    "routes": "What a top-1 route does that no merge can",
    "landscape": "Whether descent finds the low-rank update",
    "asymmetry": "What one trained factor explains beside a frozen one",
}

BY_THEME: dict[str, tuple[Claim, ...]] = {
    theme: import_module(f"theory.claims.{theme}").CLAIMS for theme in THEMES
}
ALL: tuple[Claim, ...] = tuple(claim for claims in BY_THEME.values() for claim in claims)


def pick(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these ids, in that order.

    Raises:
        TheoryError: an id is not known; the message names those that look like it.
    """
    known = {claim.id: claim for claim in ALL}
    for name in ids:
        if name not in known:
            like = get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(like)}?" if like else "python -m theory list"
            raise TheoryError(f"unknown claim {name!r}; {hint}")
    return tuple(known[name] for name in ids)

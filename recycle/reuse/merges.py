"""Every merge by name, and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lora import Adapter
from recycle.reuse import merge
from recycle.reuse.elementwise import ELEMENTWISE
from recycle.reuse.factorwise import peft_linear
from recycle.reuse.layerwise import Merge
from recycle.reuse.learned import LEARNED_MERGES
from recycle.reuse.learning import Lesson
from recycle.reuse.scale import model_stock, norm_matched_sum, rescaled_single
from recycle.reuse.spectral import iso_c, iso_cts, knots, pico, svd_r, tsv

# The merges that papers and tools claim, each with its options.
CLAIMED_MERGES: tuple[Merge, ...] = (
    *ELEMENTWISE,
    peft_linear,
    svd_r,
    knots,
    tsv,
    iso_c,
    iso_cts,
    pico,
    model_stock,
    norm_matched_sum,
    rescaled_single,
)
BY_NAME: Mapping[str, Merge] = {each.name: each for each in (*CLAIMED_MERGES, *LEARNED_MERGES)}
LEARNERS = tuple(each.name for each in LEARNED_MERGES)  # these want a lesson besides adapters
NAMES = (*merge.MERGES, *(each.name for each in CLAIMED_MERGES))


def merge_by_name(
    name: str,
    adapters: Sequence[Adapter],
    settings: Mapping[str, str] | None = None,
    lesson: Lesson | None = None,
) -> Adapter:
    """The merge of that name with options as text, {"density": "0.3"}; ``seed`` (default 0) is that
    of a random merge, ``lesson`` what one of LEARNERS learns from.

    Raises ValueError for an option that the merge does not have or that is not of its type.
    """
    texts = dict(settings or {})
    if name in merge.MERGES:
        if texts:
            raise ValueError(f"{name} has no option {next(iter(texts))!r}: it has none")
        return merge.MERGES[name](adapters)
    chosen = BY_NAME[name]
    known = {**chosen.options, **({"seed": 0} if chosen.random else {})}
    options = {key: _number(name, key, text, known) for key, text in texts.items()}
    seed = int(options.pop("seed", 0))
    generator = torch.Generator().manual_seed(seed) if chosen.random else None
    return chosen(adapters, generator, lesson, **options)


def _number(name: str, key: str, text: str, known: Mapping[str, Any]) -> int | float:
    if key not in known:
        raise ValueError(f"{name} has no option {key!r}: choose from {', '.join(known) or 'none'}")
    whole = key in ("rank", "keep", "which", "seed", "evaluations", "steps")
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{key}={text}: {name} wants {kind} there") from None
    if key == "seed" and not 0 <= value < 2**63:
        raise ValueError(f"seed={text}: choose a whole number from 0 to 2^63 - 1")
    return value


def options_text() -> str:
    """Every merge's options with their defaults, a line each."""
    lines = ["options, with their defaults (None: 1/N for a weight, the usual count elsewhere):"]
    for each in BY_NAME.values():
        known = {**each.options, **({"seed": 0} if each.random else {})}
        if known:
            shown = ", ".join(f"{key}={value}" for key, value in known.items())
            lines.append(f"  {each.name:22} {shown}")
    return "\n".join(lines)

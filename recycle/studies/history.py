"""The history study: the two-hop study in the history world, with its libraries and claims."""

from __future__ import annotations

from dataclasses import replace

from recycle.studies.two_hop import TWO_HOP
from tasks import History

# The history base composes later than the two-hop one (LOG.md).
HISTORY = replace(
    TWO_HOP,
    name=History.name,
    world=History,
    presets={
        name: {**settings, "pretrain.steps": 1600} for name, settings in TWO_HOP.presets.items()
    },
)

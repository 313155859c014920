"""What the path of a layer means. No other file takes a path apart.

A path is ``layers.1.self_attn.q_proj``, with any prefix before ``layers`` (``model.layers.1...``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LINEARS = (*ATTENTION, *MLP)  # every linear layer of a block; adapters address these by default
WRITERS = ("o_proj", "down_proj")  # their outputs are added to the residual stream
READ_ALIKE = (ATTENTION[:3], MLP[:2])  # layers of one part of a block that read one tensor
_PART_TITLES = {"self_attn": "attention", "mlp": "MLP"}


@dataclass(frozen=True, order=True)
class Place:
    """Where a linear layer stands: the block's number, the part of the block, the layer's name.

    A whole part has an empty ``name``, and a whole block has an empty ``part`` too.
    """

    block: int
    part: str = ""
    name: str = ""

    @property
    def part_of_block(self) -> Place:
        """The attention or the MLP that the layer belongs to."""
        return Place(self.block, self.part)

    @property
    def path(self) -> str:
        return ".".join(["layers", str(self.block), *filter(None, (self.part, self.name))])

    @property
    def short(self) -> str:
        """For the axis of a picture: ``1.q``."""
        return f"{self.block}.{self.name.rpartition('_proj')[0] or self.name}"

    @property
    def block_title(self) -> str:
        """``layer 1``."""
        return f"layer {self.block}"

    @property
    def part_title(self) -> str:
        """``attention`` or ``MLP``."""
        return _PART_TITLES.get(self.part, self.part)


def place(path: str) -> Place:
    """The place that a path names. Raises ValueError for a path without a block's number."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        raise ValueError(f"the layer {path!r} stands in no numbered block: no depth can be told")
    rest = parts[number + 1 :]
    block = int(parts[number])
    return Place(block, *rest) if len(rest) < 2 else Place(block, ".".join(rest[:-1]), rest[-1])


def by_part(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths grouped by attention or MLP, in the order given: {``layers.0.self_attn``: [..]}."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(place(path).part_of_block.path, []).append(path)
    return groups

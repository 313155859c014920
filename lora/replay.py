"""Forward passes that run again during backward, as gradient checkpointing does.

They must find the mode of the first pass. Autograd numbers its nodes in the order of the forward
pass, so a mode's age can be compared with the age of the node that asks for the second pass.
"""

from __future__ import annotations

import torch


def in_backward() -> bool:
    return torch._C._current_graph_task_id() >= 0


def now() -> int:
    """The number of the next node in the graph; 0 in backward, where what is set lasts for the pass
    that runs again."""
    return 0 if in_backward() else torch._C._autograd._get_sequence_nr()


def check(path: str, since: int) -> None:
    """Raises RuntimeError in a pass that runs again, where the mode has changed after the first."""
    if torch.compiler.is_compiling() or not in_backward():
        return
    node = torch._C._current_autograd_node()
    if node is not None and node._sequence_nr() < since:
        raise RuntimeError(
            f"{path}: backward runs this layer again (gradient checkpointing), and its adapters' "
            "mode was set anew after the forward pass: call backward inside the same using() block"
        )

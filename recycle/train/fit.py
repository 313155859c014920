"""The training loop: one for pretraining a base and for training one or many adapters at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from models import Trainable, completion_loss, learned_in
from recycle.run import progress
from recycle.train.checkpoint import Checkpoint
from tasks.legal import COUNT, SHARE, SHARE_BELOW_1, Legal, above, check, number, whole

CHECKPOINT_SECONDS = 60.0
T = TypeVar("T")


class Diverged(ValueError):
    """The loss of a training run is no longer a finite number."""


@dataclass(frozen=True)
class TrainConfig:
    """AdamW with linear warm-up and cosine decay to zero.

    A step reads ``rows`` rows of ``length`` tokens, for each adapter where several are trained at
    once. A row holds several texts where it is ``packed``, and one text otherwise. ``warmup`` is a
    share of the steps, and ``clip`` bounds the norm of each group's gradient. ``micro_batch`` rows
    of all adapters together are in memory at once, one of each at least, and their gradients add
    up; 0 stands for all rows. Raises ValueError for values that cannot train.
    """

    LEGAL: ClassVar[Mapping[str, Legal]] = {
        "steps": whole(1, 10**9),
        "rows": COUNT,
        "length": COUNT,
        "lr": above(0, 10),
        "warmup": SHARE,
        "weight_decay": number(0, 100),
        "beta2": SHARE_BELOW_1,
        "clip": above(0),
        "micro_batch": whole(0, 10**9),
    }
    steps: int
    rows: int = 44
    length: int = 64
    packed: bool = True
    lr: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    beta2: float = 0.98
    clip: float = 1.0
    micro_batch: int = 0

    def __post_init__(self) -> None:
        check(TrainConfig, vars(self))

    @property
    def tokens(self) -> int:
        """The number of tokens that one step reads for each group of parameters."""
        return self.rows * self.length

    def at_once(self, groups: int) -> int:
        """The rows of each of that many adapters that are in memory at once."""
        return min(max(1, self.micro_batch // groups), self.rows) if self.micro_batch else self.rows

    def turns(self, adapters: Sequence[T]) -> list[Sequence[T]]:
        """Those that are trained together: all, or as many as there are rows in memory at once."""
        size = self.micro_batch or max(1, len(adapters))
        return [adapters[first : first + size] for first in range(0, len(adapters), size)]

    def rate(self, step: int) -> float:
        """The factor of the learning rate at a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def fit(
    model: Trainable,
    groups: Sequence[Sequence[nn.Parameter]],
    batch: Callable[[int], tuple[Tensor, Tensor]],
    config: TrainConfig,
    *,
    label: str,
    checkpoint: Checkpoint | None = None,
) -> list[dict]:
    """Train each group of parameters on its own rows; return the curve.

    The curve is [{"step": step, "loss": [one for each group]}], with losses in nats.
    ``batch(step)`` gives token ids and learned, (groups * rows, length + 1) each, with the rows of
    one group together; they are moved to the parameters' device. The summed loss gives each group
    the gradient that it would have alone, and each gradient is clipped alone, so K adapters trained
    at once follow the same path as one by one. With a ``checkpoint`` the state is saved there once
    a minute and at the end, and a killed run goes on from it to the same result. Raises Diverged
    where a loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(group)} for group in groups],
        lr=config.lr,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    parameters = [parameter for group in groups for parameter in group]
    device = parameters[0].device
    every = max(1, config.steps // 100)
    noted = [s for s in range(config.steps) if s % every == 0 or s == config.steps - 1]
    first, curve = 0, list[dict]()
    if checkpoint is not None:
        first, curve = checkpoint.restore(noted, optimizer, parameters, len(groups))
    saved_at = time.monotonic()
    model.train()
    line = progress.current()
    line.drop(first * len(groups) * config.tokens)
    for step in range(first, config.steps):
        for settings in optimizer.param_groups:
            settings["lr"] = config.lr * config.rate(step)
        tokens, learned = (part.to(device) for part in batch(step))
        losses = _learn(model, tokens, learned, len(groups), config.at_once(len(groups)))
        for group in groups:
            clip(group, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        line.advance(len(groups) * config.tokens)

        if step % every == 0 or step == config.steps - 1:
            values = losses.tolist()
            if not all(map(math.isfinite, values)):
                raise Diverged(
                    f"{label}: the loss is {values} at step {step}: "
                    f"lower lr = {config.lr}, or clip closer"
                )
            curve.append({"step": step, "loss": values})
            line.say(label, f"loss {sum(values) / len(values):.3f}")
        due = time.monotonic() - saved_at > CHECKPOINT_SECONDS or step == config.steps - 1
        if checkpoint is not None and due:
            checkpoint.save(step + 1, curve, optimizer, parameters)
            saved_at = time.monotonic()
    model.eval()
    return curve


def clip(group: Sequence[nn.Parameter], largest: float) -> None:
    """Scale a group's gradients so that their joint norm is at most ``largest``.

    They are read once, and written to only where the norm is above that. On another device they are
    always multiplied, by 1 where they are small: to ask for the norm would be to wait for it.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])
    if norm.device.type != "cpu" or not norm + 1e-6 <= largest:  # also where it is not a number
        torch.nn.utils.clip_grads_with_norm_(group, largest, norm)


def _learn(model: Trainable, tokens: Tensor, learned: Tensor, groups: int, at_once: int) -> Tensor:
    """The losses (groups,), and their gradients, added up over pieces of ``at_once`` rows of each
    group."""
    rows = len(tokens) // groups
    counts, total = learned_in(learned[:, 1:], groups), torch.zeros(groups, device=tokens.device)
    own, own_learned = (part.unflatten(0, (groups, rows)) for part in (tokens, learned))
    for start in range(0, rows, at_once):
        some = slice(start, start + at_once)
        part, part_learned = own[:, some].flatten(0, 1), own_learned[:, some].flatten(0, 1)
        losses = completion_loss(model, part, part_learned, groups, counts)
        losses.sum().backward()
        total += losses.detach()
    return total

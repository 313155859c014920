"""The state of a training run on disk: saved once a minute and at the end, to go on from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recycle.run.disk import AGAIN
from recycle.run.ledger import Ledger
from recycle.run.schema import check

CURVE = [{"step": int, "loss": [float]}]
_FORM = {
    "step": int,
    "curve": CURVE,
    "seconds?": float,
    "optimizer": {"state": object},
    "parameters": [object],
}
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, as large as their parameter


class Checkpoint:
    """A checkpoint file; ``seconds`` is the time that was trained so far, earlier runs included."""

    def __init__(self, path: Path):
        self.path = path
        self._ledger = Ledger(path.parent)
        self._earlier = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._started

    def save(
        self,
        step: int,
        curve: list[dict],
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        state = {
            "step": step,
            "curve": curve,
            "seconds": self.seconds,
            "optimizer": optimizer.state_dict(),
            "parameters": [parameter.detach() for parameter in parameters],
        }
        self._ledger.save_torch(self.path.name, state)

    def restore(
        self,
        steps: Sequence[int],
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        groups: int,
    ) -> tuple[int, list[dict]]:
        """Take up what was saved, if anything was: the next step, and the curve before it.

        ``steps`` are those that the curve of a whole training has. Raises ValueError where the file
        is damaged, or is of another training."""
        if not self.path.exists():
            return 0, []
        state = self._ledger.load_torch(self.path.name)
        check(state, _FORM, str(self.path), AGAIN)
        first, curve, moments = state["step"], state["curve"], state["optimizer"]["state"]
        known = [at for at in steps if at < first]
        fits = (
            0 < first <= steps[-1] + 1
            and [point["step"] for point in curve] == known
            and all(len(point["loss"]) == groups for point in curve)
            and len(state["parameters"]) == len(parameters)
            and all(map(_alike, state["parameters"], parameters))
            and _fit_moments(moments, parameters, first)
        )
        if not fits:
            raise ValueError(f"{self.path} is no checkpoint of this training: {AGAIN}")
        with torch.no_grad():
            for parameter, saved in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        # Rates and decays are the configuration's, whatever the file says.
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": settings})
        self._earlier = state.get("seconds", 0.0)
        return first, curve


def _fit_moments(moments: Any, parameters: Sequence[Tensor], first: int) -> bool:
    """Whether AdamW's state has both moments of every parameter, after so many steps."""
    if not isinstance(moments, Mapping) or set(moments) != set(range(len(parameters))):
        return False
    return all(
        isinstance(moments[i], Mapping)
        and all(_alike(moments[i].get(name), parameter) for name in _MOMENTS)
        and isinstance(moments[i].get("step"), Tensor)
        and moments[i]["step"].numel() == 1
        and moments[i]["step"].item() == first
        for i, parameter in enumerate(parameters)
    )


def check_weights(found: Any, like: Mapping[str, Tensor], where: Path) -> None:
    """Raises ValueError where these are not weights of that model: other names, shapes or types, or
    numbers that are not finite."""
    fits = (
        isinstance(found, Mapping)
        and list(found) == list(like)
        and all(_alike(found[name], own) for name, own in like.items())
    )
    if not fits:
        raise ValueError(f"{where} is no base of this configuration: {AGAIN}")


def _alike(found: Any, like: Tensor) -> bool:
    """Whether a tensor is a plain one of that shape and type with finite numbers."""
    return (
        isinstance(found, Tensor)
        and found.layout == like.layout
        and found.dtype == like.dtype
        and found.shape == like.shape
        and bool(found.isfinite().all())
    )

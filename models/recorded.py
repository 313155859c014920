"""The steps of decoding, one token a row each, and how a CUDA device records one of them.

A step of a small model is some hundred small operations, and to start one costs the processor more
than the device needs to compute it. A recorded step (a CUDA graph) is started as one. It writes
where it wrote when it was recorded, so its cache has one place for every token from the start and
rows that have ended stay in it; their tokens are not read any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.protocol import LanguageModel
from models.spread import is_group
from models.transformer import Cache, SteadyCache

LEAST_STEPS = 8  # a recording takes about the time of three steps


class Steps:
    """Tokens (rows, l) of the rows that go on -> the logits (rows, vocabulary) after the last."""

    def __init__(self, model: LanguageModel, cache: Any, real: Tensor | None):
        self.model, self.cache, self.real = model, cache, real

    def __call__(self, tokens: Tensor) -> Tensor:
        states = self.model.hidden_states(tokens, self.cache, self.real)
        return self.model.unembed(states[:, -1])

    def keep(self, going: Tensor) -> None:
        """Only these of the rows go on."""
        self.cache.keep(going)
        self.real = None if self.real is None else self.real[going]


class RecordedSteps(Steps):
    """Steps of one token a row, which go on from others. The first is computed, the second is
    recorded, and from then on the recording is replayed."""

    def __init__(self, steps: Steps):
        super().__init__(steps.model, SteadyCache(steps.cache), steps.real)
        count, device = steps.cache.keys.shape[1], steps.cache.keys.device
        self.rows = torch.arange(count, device=device)  # those of the cache's that go on
        self.tokens = torch.zeros(count, 1, dtype=torch.long, device=device)
        self.replay: Callable[[], Tensor] | None = None
        self.taken = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        self.tokens[self.rows] = tokens
        if self.taken == 1:
            self.replay = record(self._step, self.tokens.device)
        self.taken += 1
        logits = self._step() if self.replay is None else self.replay()
        return logits[self.rows]

    def _step(self) -> Tensor:
        return super().__call__(self.tokens)

    def keep(self, going: Tensor) -> None:
        self.rows = self.rows[going]


def can_record(model: LanguageModel, cache: Any, limit: int) -> bool:
    """Whether the steps of a model may be recorded, and are enough to pay for it.

    They may not where a replay would do less than a pass: where hooks look on, where a module
    ``varies``, or where the model is spread over processes.
    """
    return (
        isinstance(cache, Cache)
        and cache.keys.is_cuda
        and limit >= LEAST_STEPS
        and cache.capacity <= cache.context
        and not is_group()
        and not any(map(_varies, model.modules()))
    )


def _varies(module: Any) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or getattr(module, "varies", False)


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """The step as a CUDA graph. What cannot be recorded, as a router that asks the processor, is
    computed at every call, as before."""
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph):
            result = step()
    except RuntimeError:
        torch.cuda.synchronize(device)
        return step

    def replay() -> Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return result

    return replay

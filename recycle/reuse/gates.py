"""Routers whose gates are learned: phatgoose, from each expert's own texts, and xlora_like, from
examples. Both score a token by one vector for each expert and layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lora import Adapter, Gated, using
from recycle.reuse.core import checked
from recycle.reuse.learning import Lesson, attached, descend
from recycle.reuse.route import ScoreRouter, check_scoring, on_all_layers


def standardised(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5) over the last axis; a vector that is 0 stays 0."""
    return F.layer_norm(x, x.shape[-1:])


@dataclass
class GateRouter(ScoreRouter):
    """A `ScoreRouter` by standardised(x) . v_i / sqrt(d_in). Raises ValueError as `check` does."""

    vectors: Tensor  # (N, d_in)
    absent: Tensor  # (N,) bool: the experts that do not address the layer
    temperature: float = 1.0
    top_k: int | None = None
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check()

    @property
    def count(self) -> int:
        return len(self.vectors)

    def scores(self, x: Tensor) -> Tensor:
        scores = standardised(x) @ self.vectors.to(x).mT / x.shape[-1] ** 0.5
        return scores.masked_fill(self.absent.to(x.device), -torch.inf)

    def stacked(self, others: Sequence[GateRouter], like: Tensor) -> GateRouter:
        routers = (self, *others)
        vectors = torch.cat([router.vectors for router in routers]).to(like)
        absent = torch.cat([router.absent for router in routers]).to(like.device)
        return replace(self, vectors=vectors, absent=absent, seen=None)


@dataclass
class SigmoidGate:
    """Tokens (T, d_in) -> sigmoid(x . v) as the gate (T, 1) of one expert; v (d_in,)."""

    v: Tensor
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(x @ self.v.to(x))[:, None]
        if self.seen is not None:
            self.seen.append(gates)
        return gates


def learn_gate(
    expert: Adapter,
    lesson: Lesson,
    generator: torch.Generator,
    steps: int = 100,
    rate: float = 5e-3,
    rows: int = 16,
) -> dict[str, Tensor]:
    """{layer path: v (d_in,)}: y = W x + sigmoid(x . v) s B A x, with v alone trained from 0 on the
    expert's own texts, so many drawn rows a step. Base and expert stay as they are."""
    device = lesson.tokens.device
    gates = {
        path: torch.zeros(A.shape[1], device=device, requires_grad=True)
        for path, (A, _) in expert.factors.items()
    }

    def loss() -> Tensor:
        return lesson.loss(torch.randint(len(lesson.tokens), (rows,), generator=generator))

    mode = Gated(("expert",), {path: SigmoidGate(v) for path, v in gates.items()})
    with attached(lesson.model, {"expert": expert}), using(lesson.model, mode):
        descend(list(gates.values()), loss, steps, rate)
    return {path: v.detach().cpu() for path, v in gates.items()}


def phatgoose(
    experts: Mapping[str, Adapter],
    lessons: Mapping[str, Lesson],
    generator: torch.Generator,
    top_k: int | None = None,
    temperature: float = 1.0,
    steps: int = 100,
) -> dict[str, GateRouter]:
    """{layer path: router}: softmax over the top k of standardised(x) . standardised(v_i) /
    sqrt(d_in), with the v_i of `learn_gate` (Muqeeth et al. 2024, arXiv 2402.05859).

    ``lessons`` are each expert's own texts. k is 2 unless it is given, or 1 for a lone expert. The
    gate of an expert whose update is 0 stays 0, and so do its scores. Raises ValueError for no
    experts, for factors that hold NaN, and for a k above their number.
    """
    checked(list(experts.values()))
    top_k = min(2, len(experts)) if top_k is None else top_k
    check_scoring(len(experts), temperature, top_k)  # before minutes of learning
    learned = [
        learn_gate(expert, lessons[name], generator, steps) for name, expert in experts.items()
    ]
    routers = {}
    for path in dict.fromkeys(path for gates in learned for path in gates):
        width = next(gates[path] for gates in learned if path in gates)
        vectors = torch.stack([gates.get(path, torch.zeros_like(width)) for gates in learned])
        absent = torch.tensor([path not in gates for gates in learned])
        routers[path] = GateRouter(standardised(vectors), absent, temperature, top_k)
    return routers


def xlora_like(
    experts: Mapping[str, Adapter],
    lesson: Lesson,
    top_k: int | None = None,
    temperature: float = 1.0,
    steps: int = 100,
    rate: float = 0.01,
) -> dict[str, GateRouter]:
    """{layer path: router}: softmax_i of standardised(x) . v_i / sqrt(d_in), with all v_i trained
    together from 0 on the examples' answers; base and experts stay as they are.

    X-LoRA (Buehler and Buehler 2024, arXiv 2402.07148) likewise learns a softmax over adapters for
    each token and layer. Its gate reads the base's last hidden states, from a first pass without
    adapters; the one here reads the hidden states that enter the layer, and needs no second pass.
    Raises ValueError as `phatgoose` does.
    """
    checked(list(experts.values()))
    check_scoring(len(experts), temperature, top_k)
    attachable = on_all_layers(experts)
    device = lesson.tokens.device
    routers = {}
    for path, (A, _) in next(iter(attachable.values())).factors.items():
        absent = torch.tensor([path not in expert.factors for expert in experts.values()])
        vectors = torch.zeros(len(experts), A.shape[1], device=device, requires_grad=True)
        routers[path] = GateRouter(vectors, absent)  # all experts learn, whatever top_k is
    mode = Gated(tuple(experts), routers)
    with attached(lesson.model, attachable), using(lesson.model, mode):
        descend([router.vectors for router in routers.values()], lesson.loss, steps, rate)
    return {
        path: GateRouter(router.vectors.detach(), router.absent, temperature, top_k)
        for path, router in routers.items()
    }

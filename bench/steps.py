"""Whole steps of the study's toy model: training one adapter, training K adapters at once, decoding
through gates.

Every arm starts from the same base and the same adapters and takes the trainer's own step: loss of
the learned tokens, clipping, fused AdamW. The arms differ in their linear layers alone, but for the
stock arm, which has stock attention, norms and MLPs too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.layers import has_peft
from bench.protocol import Clock, Row, Timing, WrongResult, race
from lora import Adapter, Gated, Mix, Mode, Rows, attach, lora_layers, train_only, using
from models import Transformer, TransformerConfig, greedy
from models.functions import stock_rotate, stock_swiglu
from models.layout import LINEARS
from models.transformer import MLP, Attention, Cache, RMSNorm
from recycle.reuse.route import arrow
from recycle.train.fit import clip, completion_loss

VOCABULARY = 120
RANK, ALPHA = 16, 32.0


class StockAttention(Attention):
    """Causal attention through F.scaled_dot_product_attention, as models off the shelf have it."""

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: Cache | None
    ) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for project in projections
        )
        q, k = stock_rotate(q, cos, sin), stock_rotate(k, cos, sin)
        grouped = q.shape[1] > k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class StockNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class StockMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(stock_swiglu(self.gate_proj(x), self.up_proj(x)))


STOCK_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    Attention: StockAttention,
    RMSNorm: StockNorm,
    MLP: StockMLP,
}


class NaiveLoRA(nn.Module):
    """base(x) + s B(A(x)), of stock modules."""

    def __init__(self, linear: nn.Linear, A: Tensor, B: Tensor, scale: float):
        super().__init__()
        self.base, self.scale = linear, scale
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)


class ArrowFlow(nn.Module):
    """The arrow layer of PEFT 0.21: every call stacks the adapters again, computes all their
    outputs and sums them with weights."""

    def __init__(
        self,
        linear: nn.Linear,
        factors: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        router: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.base, self.scale, self.router = linear, scale, router
        self.A = nn.ParameterList(A for A, _ in factors)
        self.B = nn.ParameterList(B for _, B in factors)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        z = torch.einsum("tk,Nrk->tNr", tokens, torch.stack(list(self.A)))
        y = torch.einsum("tNr,Nnr->tNn", z, torch.stack(list(self.B))) * self.scale
        update = torch.einsum("tN,tNn->tn", self.router(tokens), y)
        return self.base(x) + update.view(*x.shape[:-1], -1)


def base_model(config: TransformerConfig, device: str) -> Transformer:
    return Transformer(config, VOCABULARY, torch.Generator().manual_seed(0)).to(device)


def random_adapter(model: nn.Module, seed: int) -> Adapter:
    """An adapter of all linear layers whose B is not zero: with a fresh adapter, wrong products
    would give right values."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            n, k = module.weight.shape
            A = torch.randn(RANK, k, generator=generator) / k**0.5
            B = 0.02 * torch.randn(n, RANK, generator=generator)
            factors[path] = (A, B)
    return Adapter(factors, ALPHA)


def replace_linears(model: Transformer, make: Callable[[str, nn.Linear], nn.Module]) -> Transformer:
    model.requires_grad_(False)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, last = path.rpartition(".")
            setattr(model.get_submodule(parent), last, make(path, module))
    return model


def naive_model(base: Transformer, adapter: Adapter, stock: bool) -> Transformer:
    def wrap(path: str, linear: nn.Linear) -> NaiveLoRA:
        A, B = (factor.to(linear.weight.device) for factor in adapter.factors[path])
        return NaiveLoRA(linear, A, B, adapter.scale(path))

    model = replace_linears(copy.deepcopy(base), wrap)
    for module in model.modules():
        if stock and type(module) in STOCK_CLASSES:
            module.__class__ = STOCK_CLASSES[type(module)]
    return model


def peft_model(base: Transformer, adapter: Adapter) -> Transformer:
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(base)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEARS), lora_dropout=0.0)
    get_peft_model(model, config)  # in place: the model keeps its class and its forward
    for path, (A, B) in adapter.factors.items():
        layer: Any = model.get_submodule(path)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    return model


def attached(base: Transformer, adapters: dict[str, Adapter]) -> Transformer:
    model = copy.deepcopy(base)
    attach(model, adapters)
    train_only(model, list(adapters))
    return model


def set_mode(model: nn.Module, mode: Mode) -> None:
    """The adapters act in this mode from now on: a step is timed without entering `using`."""
    for layer in lora_layers(model).values():
        layer.mode = mode


def random_tokens(rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCABULARY, (rows, length), generator=generator)


def training_step(
    model: Any,
    groups: Sequence[Sequence[nn.Parameter]],
    tokens: Tensor,
    learned: Tensor | None = None,
) -> Callable[[], Tensor]:
    """A function that takes one step of recycle's trainer and returns the losses before the step.
    All tokens but the first are learned, unless ``learned`` says which."""
    chosen = torch.ones_like(tokens, dtype=torch.bool) if learned is None else learned
    return stepping(lambda: completion_loss(model, tokens, chosen, len(groups)), groups)


def stepping(
    loss: Callable[[], Tensor], groups: Sequence[Sequence[nn.Parameter]]
) -> Callable[[], Tensor]:
    """The trainer's step on any losses, one for each group of parameters."""
    optimizer = torch.optim.AdamW([{"params": list(g)} for g in groups], lr=1e-4, fused=True)

    def step() -> Tensor:
        losses = loss()
        losses.sum().backward()
        for group in groups:
            clip(group, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    return step


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def agree(group: str, arm: str, got: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    error = ((got.double() - expected.double()).norm() / expected.double().norm()).item()
    if not error <= bound:
        raise WrongResult(
            f"{group}: the arm {arm!r} is off by {error:.1e}, allowed {bound:.0e}: "
            "nothing was timed"
        )


def losses_after(taken: int, steps: Mapping[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """The losses of all arms after so many steps. They also say whether the gradients were the
    same."""
    for _ in range(taken):
        for step in steps.values():
            step()
    return {name: step() for name, step in steps.items()}


def result(group: str, case: str, timings: Mapping[str, Timing], tokens: int) -> list[Row]:
    """A row for each arm. Ratios are to ours: above 1 is slower than ours."""
    return [
        {
            "group": group,
            "case": case,
            "arm": arm,
            "ms": round(t.seconds * 1e3, 2),
            "over ours": round(t.ratio, 3),
            "spread": round(t.spread, 3),
            "tokens/s": round(tokens / t.seconds),
        }
        for arm, t in timings.items()
    ]


def train_one(
    config: TransformerConfig, rows: int, length: int, device: str, budget: float
) -> list[Row]:
    """A training step of one adapter. Full fine-tuning trains the same model without adapters;
    stock is naive LoRA in stock blocks."""
    base = base_model(config, device)
    adapter = random_adapter(base, 1)
    tokens = random_tokens(rows, length + 1).to(device)
    ours = attached(base, {"a": adapter})
    set_mode(ours, Mix({"a": 1.0}))
    models: dict[str, Any] = {
        "full fine-tuning": copy.deepcopy(base),
        "stock": naive_model(base, adapter, stock=True),
        "naive": naive_model(base, adapter, stock=False),
    }
    if has_peft():
        models["PEFT"] = peft_model(base, adapter)
    models |= {"ours": ours, "ours again": copy.deepcopy(ours)}
    if device == "cuda":
        models["ours, compiled"] = torch.compile(copy.deepcopy(ours), fullgraph=True)
    steps = {name: training_step(model, [trained(model)], tokens) for name, model in models.items()}
    losses = losses_after(2, steps)
    for name in set(losses) - {"full fine-tuning", "ours"}:
        agree("training step", name, losses[name], losses["ours"])
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result("training step", f"{rows} x {length}", timings, rows * length)


def train_many(
    config: TransformerConfig, K: int, rows: int, length: int, device: str, budget: float
) -> list[Row]:
    """A training step of K adapters with ``rows`` rows each: in one pass over the shared base, or
    one model after the other."""
    base = base_model(config, device)
    adapters = {f"a{i}": random_adapter(base, i) for i in range(K)}
    tokens = random_tokens(K * rows, length + 1).to(device)
    model = attached(base, adapters)
    set_mode(model, Rows(tuple(adapters)))

    def sequence(models: Iterable[Transformer]) -> Callable[[], Tensor]:
        parts = zip(models, tokens.chunk(K), strict=True)
        steps = [training_step(model, [trained(model)], part) for model, part in parts]
        return lambda: torch.cat([step() for step in steps])

    def alone(adapter: Adapter) -> Transformer:
        single = attached(base, {"a": adapter})
        set_mode(single, Mix({"a": 1.0}))
        return single

    steps = {
        "stock, one after the other": sequence(
            naive_model(base, adapter, stock=True) for adapter in adapters.values()
        ),
        "ours, one after the other": sequence(map(alone, adapters.values())),
        "ours": training_step(model, train_only(model, adapters), tokens),
    }
    if has_peft():
        models = (peft_model(base, adapter) for adapter in adapters.values())
        steps["PEFT, one after the other"] = sequence(models)
    losses = losses_after(1, steps)
    for name, loss in losses.items():
        agree("adapters at once", name, loss, losses["ours"])
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result("adapters at once", f"{K} x {rows} x {length}", timings, K * rows * length)


def decode_toy(
    config: TransformerConfig, N: int, rows: int, limit: int, device: str, budget: float
) -> list[Row]:
    return decode(base_model(config, device), N, rows, limit, device, budget)


def decode(
    base: Any,
    N: int,
    rows: int,
    limit: int,
    device: str,
    budget: float,
    group: str = "decoding",
    bound: float = 1e-5,
) -> list[Row]:
    """Greedy decoding of ``limit`` tokens for ``rows`` prompts through Arrow's gates over N
    adapters. On CUDA all arms replay a recorded step, but those that say otherwise."""
    base = base.eval().requires_grad_(False)
    drawn = {f"a{i}": random_adapter(base, i) for i in range(N)}
    adapters = {
        name: Adapter(
            {path: (A.to(device), B.to(device)) for path, (A, B) in adapter.factors.items()}, ALPHA
        )
        for name, adapter in drawn.items()
    }
    routers = arrow(list(adapters.values()))

    def flow(path: str, linear: nn.Linear) -> ArrowFlow:
        dtype = linear.weight.dtype
        factors = [
            (A.to(dtype), B.to(dtype)) for A, B in (a.factors[path] for a in adapters.values())
        ]
        return ArrowFlow(linear, factors, adapters["a0"].scale(path), routers[path])

    peer = replace_linears(copy.deepcopy(base), flow).requires_grad_(False)
    ours = copy.deepcopy(base)
    attach(ours, adapters)
    prompts = random_tokens(rows, 8)
    with using(ours, Gated(tuple(adapters), routers)), torch.no_grad():
        seen = prompts.to(device)
        agree(group, "Arrow's flow", peer(seen), ours(seen), bound)
        models = {"base alone": base, "Arrow's flow": peer, "ours": ours}
        steps: dict[str, Callable[[], object]] = {
            name: partial(greedy, model, prompts.tolist(), limit, end=-1, pad=0)
            for name, model in models.items()
        }
        if device == "cuda":
            steps |= {f"{name}, not recorded": _unrecorded(steps[name]) for name in models}
        timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result(group, f"N={N}, {rows} rows", timings, rows * limit)


def _unrecorded(run: Callable[[], object]) -> Callable[[], object]:
    def step_by_step() -> object:
        with patch("models.decode.can_record", lambda *given: False):
            return run()

    return step_by_step

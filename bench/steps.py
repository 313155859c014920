"""Whole steps of the toy model of the study: training one adapter, training K at once, decoding
through gates.

Every arm starts from the same base and the same adapters and takes the trainer's own step (loss of
the learned tokens, clipping, fused AdamW), so the arms differ in their linear layers, and the stock
one in its attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from bench.layers import has_peft
from bench.protocol import Clock, WrongResult, race
from lora import Adapter, Gated, Mix, Rows, attach, lora_layers, train_only, using
from models import Transformer, TransformerConfig, greedy
from models.transformer import Attention, Cache, rotate
from models.layout import LINEARS
from recycle.reuse.route import arrow
from recycle.train.fit import completion_loss

VOCABULARY = 120
RANK, ALPHA = 16, 32.0


class StockAttention(Attention):
    """The same attention through F.scaled_dot_product_attention, as a model off the shelf has
    it."""

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: Cache | None
    ) -> Tensor:
        heads = "b l (h d) -> b h l d"
        q, k, v = (
            rearrange(p(x), heads, h=self.heads) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        return self.o_proj(rearrange(y, "b h l d -> b l (h d)"))


class NaiveLoRA(nn.Module):
    """base(x) + s B(A(x)), of stock modules."""

    def __init__(self, linear: nn.Linear, A: Tensor, B: Tensor, scale: float):
        super().__init__()
        self.base, self.scale = linear, scale
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)


class ArrowFlow(nn.Module):
    """PEFT 0.21's arrow layer: adapters restacked in every call, all their outputs, then the
    weighted sum."""

    def __init__(
        self,
        linear: nn.Linear,
        factors: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        router: Callable,
    ):
        super().__init__()
        self.base, self.scale, self.router = linear, scale, router
        self.A = nn.ParameterList(A for A, _ in factors)
        self.B = nn.ParameterList(B for _, B in factors)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        z = torch.einsum("tk,Nrk->tNr", tokens, torch.stack(list(self.A)))
        y = torch.einsum("tNr,Nnr->tNn", z, torch.stack(list(self.B))) * self.scale
        return self.base(x) + torch.einsum("tN,tNn->tn", self.router(tokens), y).view(
            *x.shape[:-1], -1
        )


def base_model(config: TransformerConfig, device: str) -> Transformer:
    return Transformer(config, VOCABULARY, torch.Generator().manual_seed(0)).to(device)


def random_adapter(model: Transformer, seed: int) -> Adapter:
    """B is not zero: a fresh adapter's products would cost the same, but its values would hide
    mistakes."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            n, k = module.weight.shape
            A, B = (
                torch.randn(RANK, k, generator=generator),
                torch.randn(n, RANK, generator=generator),
            )
            factors[path] = A / k**0.5, 0.02 * B
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
        return NaiveLoRA(
            linear,
            *(t.to(linear.weight.device) for t in adapter.factors[path]),
            adapter.scale(path),
        )

    model = replace_linears(copy.deepcopy(base), wrap)
    for module in model.modules():
        if stock and isinstance(module, Attention):
            module.__class__ = StockAttention
    return model


def peft_model(base: Transformer, adapter: Adapter) -> Transformer:
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(base)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEARS), lora_dropout=0.0)
    get_peft_model(model, config)  # in place: the model keeps its class and its forward
    for path, (A, B) in adapter.factors.items():
        layer = model.get_submodule(path)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    return model


def attached(base: Transformer, adapters: dict[str, Adapter]) -> Transformer:
    model = copy.deepcopy(base)
    attach(model, adapters)
    train_only(model, list(adapters))
    return model


def training_step(
    model: Transformer, groups: Sequence[Sequence[nn.Parameter]], tokens: Tensor
) -> Callable[[], Tensor]:
    """One step of recycle.train.fit; all tokens but the first are learned. Returns the losses
    before it."""
    optimizer = torch.optim.AdamW(
        [{"params": list(group)} for group in groups], lr=1e-4, fused=True
    )
    learned = torch.ones_like(tokens, dtype=torch.bool)

    def step() -> Tensor:
        losses = completion_loss(model, tokens, learned, len(groups))
        losses.sum().backward()
        for group in groups:
            torch.nn.utils.clip_grad_norm_(group, 1.0)
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
            f"{group}: the arm {arm!r} is off by {error:.1e}, allowed {bound:.0e}: nothing was timed"
        )


def result(group: str, timings: dict, unit: Callable[[float], float], name: str) -> list[dict]:
    """Ratios in these rows are to ours: above 1 is slower than ours."""
    return [
        {
            "group": group,
            "case": name,
            "arm": arm,
            "ms": round(t.seconds * 1e3, 2),
            "over ours": round(t.ratio, 3),
            "spread": round(t.spread, 3),
            "tokens/s": round(unit(t.seconds)),
        }
        for arm, t in timings.items()
    ]


def train_one(
    config: TransformerConfig, rows: int, length: int, device: str, budget: float
) -> list[dict]:
    """Full fine-tuning trains the same model without adapters; stock is naive LoRA with stock
    attention."""
    base = base_model(config, device)
    adapter = random_adapter(base, 1)
    tokens = torch.randint(
        2, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0)
    ).to(device)
    ours = attached(base, {"a": adapter})
    models = {"full fine-tuning": copy.deepcopy(base), "stock": naive_model(base, adapter, True)}
    models["naive"] = naive_model(base, adapter, False)
    if has_peft():
        models["PEFT"] = peft_model(base, adapter)
    models |= {"ours": ours, "ours again": copy.deepcopy(ours)}
    if device == "cuda":
        models["ours, compiled"] = torch.compile(copy.deepcopy(ours), fullgraph=True)
    for model in (ours, models["ours again"], models.get("ours, compiled")):
        for layer in lora_layers(model).values() if model is not None else ():
            layer.mode = Mix({"a": 1.0})
    steps = {name: training_step(model, [trained(model)], tokens) for name, model in models.items()}
    losses = {name: step() for name, step in steps.items()}
    for _ in range(2):  # after two steps the losses also say whether the gradients were the same
        losses = {name: step() for name, step in steps.items()}
    for name in set(losses) - {"full fine-tuning", "ours"}:
        agree("training step", name, losses[name], losses["ours"])
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result("training step", timings, lambda s: rows * length / s, f"{rows} x {length}")


def train_many(
    config: TransformerConfig, K: int, rows: int, length: int, device: str, budget: float
) -> list[dict]:
    """K adapters, ``rows`` rows each: in one pass over the shared base, or one model after the
    other."""
    base = base_model(config, device)
    adapters = {f"a{i}": random_adapter(base, i) for i in range(K)}
    tokens = torch.randint(
        2, VOCABULARY, (K * rows, length + 1), generator=torch.Generator().manual_seed(0)
    ).to(device)
    model = attached(base, adapters)
    for layer in lora_layers(model).values():
        layer.mode = Rows(tuple(adapters))
    at_once = training_step(model, train_only(model, adapters), tokens)

    def sequence(models: Sequence[Transformer]) -> Callable[[], Tensor]:
        parts = zip(models, tokens.chunk(K), strict=True)
        steps = [training_step(m, [trained(m)], part) for m, part in parts]
        return lambda: torch.cat([step() for step in steps])

    stock = [naive_model(base, adapter, True) for adapter in adapters.values()]
    alone = [attached(base, {"a": adapter}) for adapter in adapters.values()]
    for single in alone:
        for layer in lora_layers(single).values():
            layer.mode = Mix({"a": 1.0})
    steps = {
        "stock, one after the other": sequence(stock),
        "ours, one after the other": sequence(alone),
    }
    steps["ours"] = at_once
    if has_peft():
        steps["PEFT, one after the other"] = sequence(
            [peft_model(base, adapter) for adapter in adapters.values()]
        )
    for _ in range(2):
        losses = {name: step() for name, step in steps.items()}
    for name, loss in losses.items():
        agree("adapters at once", name, loss, losses["ours"])
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    name = f"{K} x {rows} x {length}"
    return result("adapters at once", timings, lambda s: K * rows * length / s, name)


def decode(
    config: TransformerConfig, N: int, rows: int, limit: int, device: str, budget: float
) -> list[dict]:
    """Greedy decoding of ``limit`` tokens for ``rows`` prompts through Arrow's gates over N
    adapters."""
    base = base_model(config, device).eval().requires_grad_(False)
    adapters = {f"a{i}": random_adapter(base, i) for i in range(N)}
    routers = arrow(list(adapters.values()))

    def flow(path: str, linear: nn.Linear) -> ArrowFlow:
        factors = [tuple(t.to(device) for t in a.factors[path]) for a in adapters.values()]
        return ArrowFlow(linear, factors, adapters["a0"].scale(path), routers[path])

    peer = replace_linears(copy.deepcopy(base), flow).requires_grad_(False)
    ours = copy.deepcopy(base)
    attach(ours, adapters)
    prompts = torch.randint(2, VOCABULARY, (rows, 8), generator=torch.Generator().manual_seed(0))
    with using(ours, Gated(tuple(adapters), routers)), torch.no_grad():
        agree("decoding", "Arrow's flow", peer(prompts.to(device)), ours(prompts.to(device)))
        models = {"base alone": base, "Arrow's flow": peer, "ours": ours}
        asked = prompts.tolist()
        steps = {
            name: lambda m=m: greedy(m, asked, limit, end=-1, pad=0) for name, m in models.items()
        }
        timings = race(steps, lambda: None, "ours", Clock(device), budget)
    return result("decoding", timings, lambda s: rows * limit / s, f"N={N}, {rows} rows")

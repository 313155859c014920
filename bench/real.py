"""A training step of a model as large as SmolLM2-135M, beside Hugging Face's model with PEFT.

The weights are drawn: a step costs the same whatever they are. All arms share the base's weights
and begin with one adapter of all linear layers. A quarter of the tokens is learned, the last of
each row, as a question's answer is.

The floor is what the step's products cost alone. The arm "products alone" computes the products
with the base's weights in the same rounds, which gives the machine's product speed at these very
shapes; the adapter's products and those of attention are added at that speed.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.layers import has_peft
from bench.pieces import STOCK, TITLES, stock
from bench.protocol import Arm, Clock, Row, race, saved_bytes
from bench.steps import (
    ALPHA,
    RANK,
    agree,
    decode,
    losses_after,
    random_adapter,
    result,
    set_mode,
    stepping,
    trained,
    training_step,
)
from lora import Adapter, Mix, attach, train_only
from models.causal import CausalLM, CheckpointConfig
from models.layout import LINEARS, place

SMOLLM2_135M = CheckpointConfig(
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    hidden=1536,
    head_width=64,
    context=512,
    rope_base=100_000.0,
)
VOCABULARY = 49_152
CASES = ((16, 128), (12, 40))  # rows and tokens of each
ALONE = "products alone"
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the losses after two steps, relative


class HuggingFace:
    """A model of transformers, asked as the trainer asks ours."""

    def __init__(self, model: Any):
        self.model = model

    def hidden_states(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
        return states

    def unembed(self, states: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(states)
        return logits

    def loss_as_usual(self, tokens: Tensor, learned: Tensor) -> Tensor:
        """The loss as transformers has it: logits of all tokens, labels of the learned ones."""
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        labels = tokens.masked_fill(~learned, -100)[:, 1:]
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def has_transformers() -> bool:
    return has_peft() and importlib.util.find_spec("transformers") is not None


def sharing(model: Any) -> Any:
    """A copy of a model over the very same frozen weights. What is trained is copied."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def with_peft(base: CausalLM, adapter: Adapter) -> Any:
    """Hugging Face's model with sdpa attention over the base's weights, and PEFT's layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = base.config
    config = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.hidden,
        head_dim=shape.head_width,
        vocab_size=len(base.embed_tokens.weight),
        max_position_embeddings=shape.context,
        rope_theta=shape.rope_base,
        rms_norm_eps=shape.eps,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(base.embed_tokens.weight.device)
    model.load_state_dict(base.state_dict(), strict=False, assign=True)
    model.tie_weights()
    options = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEARS), lora_dropout=0.0)
    get_peft_model(model, options)
    for path, (A, B) in adapter.factors.items():
        layer: Any = model.get_submodule(path)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    return model.train()


def linears(model: CausalLM) -> list[tuple[nn.Linear, bool]]:
    """The linear layers, and whether the gradient of their input is needed: the first block's
    projections read the frozen embeddings."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            at = place(path)
            reads_embeddings = at.block == 0 and at.name in ("q_proj", "k_proj", "v_proj")
            found.append((module, not reads_embeddings))
    return found


def flops(model: CausalLM, rows: int, length: int, learned: int) -> tuple[float, float]:
    """(the products with the base's weights, all products of the step).

    With the base's W (n, k): y and dx, 2 M k n each, of all M tokens, and of the learned ones with
    the embeddings. The adapter has six narrow products, 6 M r (k + n). A pair of positions costs
    12 d in each head: two products forward and four backward, over l (l + 1) / 2 pairs.
    """
    M, shape = rows * length, model.config
    vocabulary, width = model.embed_tokens.weight.shape
    wide, narrow = 4.0 * learned * vocabulary * width, 0.0
    for layer, need_dx in linears(model):
        n, k = layer.weight.shape
        wide += 2 * M * k * n * (1 + need_dx)
        narrow += 2 * M * RANK * (3 * (k + n) - (0 if need_dx else k))
    pairs = shape.layers * shape.heads * rows * length * (length + 1) / 2
    return wide, wide + narrow + 12 * shape.head_width * pairs


def products_alone(model: CausalLM, tokens: int, learned: int) -> Callable[[], None]:
    """A function that computes the products with the base's weights, and nothing else."""
    embeddings = model.embed_tokens.weight.detach()
    parts = [(layer.weight.detach(), need_dx, tokens) for layer, need_dx in linears(model)]
    parts.append((embeddings, True, learned))
    sides = {(M, side) for W, _, M in parts for side in W.shape}
    read = {key: torch.randn(key).to(embeddings) for key in sides}
    written = {key: torch.empty_like(tensor) for key, tensor in read.items()}

    def run() -> None:
        for W, need_dx, M in parts:
            n, k = W.shape
            torch.mm(read[M, k], W.mT, out=written[M, n])
            if need_dx:
                torch.mm(read[M, n], W, out=written[M, k])

    return run


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """The most bytes that a step holds at once beside what was held before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def real_step(
    rows: int,
    length: int,
    device: str,
    budget: float,
    config: CheckpointConfig = SMOLLM2_135M,
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.float32,
) -> list[Row]:
    """A step of our trainer with ours and with stock pieces, and of Hugging Face's model."""
    torch.manual_seed(0)
    base = CausalLM(config, vocabulary).to(device, dtype).requires_grad_(False)
    adapter = random_adapter(base, 1)
    tokens = torch.randint(2, vocabulary, (rows, length + 1)).to(device)
    learned = torch.zeros_like(tokens, dtype=torch.bool)
    learned[:, -max(1, length // 4) :] = True
    count = int(learned.sum())

    steps: dict[str, Callable[[], Any]] = {ALONE: products_alone(base, rows * length, count)}
    models: dict[str, Any] = {}
    if has_transformers():
        peer = with_peft(base, adapter)
        models |= {"HF + PEFT": peer, "HF + PEFT, learned logits": sharing(peer)}
        usual, least = (HuggingFace(model) for model in models.values())
        steps["HF + PEFT"] = stepping(
            lambda: usual.loss_as_usual(tokens, learned)[None], [trained(usual.model)]
        )
        steps["HF + PEFT, learned logits"] = training_step(
            least, [trained(least.model)], tokens, learned
        )
    variants: dict[str, Sequence[str]] = {
        "ours": (),
        "ours again": (),
        "stock pieces": tuple(STOCK),
    }
    variants |= {f"stock {TITLES[name]}": (name,) for name in STOCK}
    for arm, names in variants.items():
        models[arm] = model = sharing(base)
        attach(model, {"a": adapter})
        set_mode(model, Mix({"a": 1.0}))
        steps[arm] = _with_stock(
            names, training_step(model, train_only(model, ["a"]), tokens, learned)
        )

    losses = losses_after(2, {arm: step for arm, step in steps.items() if arm != ALONE})
    for arm, loss in losses.items():
        agree("real step", arm, loss, losses["ours"], BOUNDS[dtype])
    return _rows(base, steps, models, (rows, length, count), device, budget)


def real_decoding(
    rows: int, limit: int, device: str, dtype: torch.dtype, budget: float
) -> list[Row]:
    """Greedy decoding through Arrow's gates over 3 adapters."""
    torch.manual_seed(0)
    base = CausalLM(SMOLLM2_135M, VOCABULARY).to(device, dtype)
    return decode(base, 3, rows, limit, device, budget, "real decoding", 2 * BOUNDS[dtype])


def _rows(
    base: CausalLM,
    steps: dict[str, Callable[[], Any]],
    models: dict[str, Any],
    sizes: tuple[int, int, int],
    device: str,
    budget: float,
) -> list[Row]:
    """Time the arms, and say of each how far it is from the floor and what it keeps and holds."""
    rows, length, count = sizes
    memory = {arm: _memory(steps[arm], model, device) for arm, model in models.items()}
    timings = race(steps, lambda: None, "ours", Clock(device), budget)
    wide, everything = flops(base, rows, length, count)
    floor = timings[ALONE].ratio * everything / wide  # in steps of ours
    speed = wide / timings[ALONE].seconds / 1e9
    case = f"{rows} x {length}, {count // rows} learned"
    found = result("real step", case, timings, rows * length)
    for row in found:
        row["over floor"] = round(row["over ours"] / floor, 3)
        row |= {"GFLOP/s": round(speed)} if row["arm"] == ALONE else memory[row["arm"]]
    return found


def _memory(step: Callable[[], Any], model: Any, device: str) -> dict[str, float]:
    kept = saved_bytes(Arm(step, {}), list(model.parameters()))
    most = peak_bytes(step, device)
    return {"saved MiB": round(kept / 2**20, 3), "peak MiB": round(most / 2**20, 3)}


def _with_stock(names: Sequence[str], step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    if not names:
        return step

    def run() -> Tensor:
        with stock(names):
            return step()

    return run

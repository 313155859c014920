"""Maps by depth and token obey their definitions: identities, and a model into which two hops were
planted by hand, so that the places where the maps must light are known."""

import json

import pytest
import torch

from lora import Adapter, Gated, Mix, attach, init_adapter, using
from models import Transformer, TransformerConfig
from recycle.measure.mechanism import lens_map, logit_lens
from recycle.reuse.route import arrow

VOCABULARY, ROWS, LENGTH = 23, 6, 5


def drawn(seed, rows=ROWS, length=LENGTH):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def adapted():
    config = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=16)
    model = Transformer(config, VOCABULARY, torch.Generator().manual_seed(0)).eval()
    experts = {}
    for seed, name in enumerate(("one", "two")):
        g = torch.Generator().manual_seed(seed)
        fresh = init_adapter(model, ["*_proj"], 3, 6.0, g)
        factors = {p: (A, torch.randn(B.shape, generator=g)) for p, (A, B) in fresh.factors.items()}
        experts[name] = Adapter(factors, fresh.alpha, base=fresh.base)
    attach(model, experts)
    modes = {
        "base": None,
        "sum": Mix({"one": 1.0, "two": 1.0}),
        "arrow": Gated(("one", "two"), arrow(list(experts.values()))),
    }
    return model, modes


PROMPTS, TARGETS = drawn(0), {"t": drawn(2)[:, 0], "u": drawn(3)[:, 0]}


# Two planted hops ---------------------------------------------------------------------------------

PEOPLE, BRIDGES, ANSWERS, WORDS = (range(start, start + 8) for start in (0, 8, 16, 24))
QUESTIONS = torch.tensor([[a, *WORDS[:4]] for a in PEOPLE])  # every prompt: a person and four words
BRIDGE = torch.tensor([BRIDGES[(3 * a + 1) % 8] for a in PEOPLE])
ANSWER = torch.tensor([ANSWERS[(5 * b + 2) % 8] for b in BRIDGE - BRIDGES[0]])


def table(block, inputs, outputs, scale=3.0):
    """An MLP that adds the unit vector of output i where the input is that of i."""
    read, write = torch.eye(32)[list(inputs)], torch.eye(32)[outputs].T
    hidden = torch.eye(8)
    part = f"layers.{block}.mlp"
    return {
        f"{part}.gate_proj": (read, scale * hidden),
        f"{part}.up_proj": (read, scale * hidden),
        f"{part}.down_proj": (hidden, scale * write),
    }


def planted():
    """Layer 0 writes the bridge where the person stands, layer 1 moves bridges to all later tokens,
    and layer 2 writes the answer of a bridge. The first two are one expert, the third another."""
    config = TransformerConfig(width=32, layers=3, heads=2, kv_heads=2, hidden=8, context=8)
    model = Transformer(config, 32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.zero_()  # so attention is uniform, and no layer adds anything
        model.embed_tokens.weight.copy_(4 * torch.eye(32))
    bridges = torch.eye(32)[list(BRIDGES)]
    move = {f"layers.1.self_attn.{name}": (bridges, 5 * bridges.T) for name in ("v_proj", "o_proj")}
    hop1 = Adapter({**table(0, PEOPLE, BRIDGE), **move}, alpha=8.0)
    hop2 = Adapter(table(2, BRIDGES, [ANSWERS[(5 * i + 2) % 8] for i in range(8)]), alpha=8.0)
    attach(model, {"hop1": hop1, "hop2": hop2})
    return model


def lit(values, least=0.5):
    """The (depth, position) places of a map above a bound; all others must be 0."""
    values = torch.tensor(values)
    assert values[values <= least].abs().max() < 1e-6
    return set(map(tuple, (values > least).nonzero().tolist()))


EVERYWHERE = set(range(5))
BRIDGE_PLACES = {(1, 0), *((depth, p) for depth in (2, 3) for p in EVERYWHERE)}


@pytest.mark.parametrize(
    ("weights", "bridge", "answer"),
    [
        ({}, set(), set()),
        ({"hop2": 1.0}, set(), set()),
        ({"hop1": 1.0}, BRIDGE_PLACES, set()),
        ({"hop1": 1.0, "hop2": 1.0}, BRIDGE_PLACES, {(3, p) for p in EVERYWHERE}),
    ],
)
def test_the_lens_lights_where_the_hops_were_planted(weights, bridge, answer):
    model = planted()
    with using(model, Mix(weights)):
        found = lens_map(model, QUESTIONS, {"bridge": BRIDGE, "answer": ANSWER})["targets"]
    assert lit(found["bridge"]["signal"]) == bridge
    assert lit(found["answer"]["signal"]) == answer
    assert found["answer"]["top"][-1][-1] == bool(answer)


# Identities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["base", "sum", "arrow"])
def test_every_position_of_the_map_is_the_logit_lens_there(mode):
    model, modes = adapted()
    with using(model, modes[mode]):
        found = lens_map(model, PROMPTS, TARGETS)
        for position in range(-LENGTH, LENGTH):
            lens = logit_lens(model, PROMPTS, TARGETS, position)
            assert found["depths"] == lens["depths"]
            for name, at in lens["targets"].items():
                column = {
                    key: [row[position] for row in rows]
                    for key, rows in found["targets"][name].items()
                }
                signal = [a - b for a, b in zip(at["log_prob"], at["shuffled"], strict=True)]
                assert column["signal"] == pytest.approx(signal, abs=1e-5)
                assert column["shuffled_sd"] == pytest.approx(at["shuffled_sd"], abs=1e-5)
                assert column["top"] == at["top"]
    assert json.loads(json.dumps(found)) == found
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("prompts", "targets", "message"),
    [
        (PROMPTS[0], {}, "shape .rows, length."),
        (PROMPTS[:1], {}, "at least 2"),
        (PROMPTS, {"t": TARGETS["t"][:5]}, "give 6 token ids"),
        (PROMPTS, {"t": TARGETS["t"].float()}, "give 6 token ids"),
    ],
)
def test_bad_input_of_the_lens_map_is_explained_in_one_line(prompts, targets, message):
    with pytest.raises(ValueError, match=message) as caught:
        lens_map(adapted()[0], prompts, targets)
    assert "\n" not in str(caught.value)

"""The four measurements inside a model obey their definitions.

The tests use identities, planted models and dense references, and no stored numbers.
"""

import base64
import copy
import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora import Adapter, Gated, Mix, attach, init_adapter, lora_layers, using
from models import Transformer, TransformerConfig
from models.layout import by_part
from recycle.measure.mechanism import (
    interference,
    knock_out,
    lens_log_probs,
    logit_lens,
    routing,
    switched_off,
)
from recycle.reuse.merge import plain_sum
from recycle.reuse.route import arrow
from recycle.show import drawing, mechanism_figures

VOCABULARY, ROWS, LENGTH = 23, 6, 5
PATTERNS = ["*_proj"]


def small(seed=0):
    config = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=16)
    return Transformer(config, VOCABULARY, torch.Generator().manual_seed(seed)).eval()


def loud(model, seed, rank=3):
    """An adapter that changes the model by much: its B is not zero."""
    g = torch.Generator().manual_seed(seed)
    fresh = init_adapter(model, PATTERNS, rank, 2.0 * rank, g)
    factors = {}
    for path, (A, B) in fresh.factors.items():
        factors[path] = (A, torch.randn(B.shape, generator=g) * 0.3)
    return Adapter(factors, fresh.alpha, base=fresh.base)


def adapted(names=("one", "two"), seed=0):
    model = small(seed)
    experts = {name: loud(model, i) for i, name in enumerate(names)}
    attach(model, experts)
    return model, experts


def tokens(seed=0, rows=ROWS, length=LENGTH):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def ids(seed=1, rows=ROWS):
    return torch.randint(VOCABULARY, (rows,), generator=torch.Generator().manual_seed(seed))


# Logit lens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{}, {"one": 1.0}, {"one": 0.5, "two": -2.0}])
@pytest.mark.parametrize("position", [-1, 0, 2])
def test_the_last_depth_is_the_models_own_answer(weights, position):
    model, _ = adapted()
    with using(model, Mix(weights)), torch.no_grad():
        depths = lens_log_probs(model, tokens(), position)
        answer = model(tokens())[:, position].double().log_softmax(-1)
        result = logit_lens(model, tokens(), {"t": ids()}, position)["targets"]["t"]
    assert depths.shape == (3, ROWS, VOCABULARY)
    torch.testing.assert_close(depths[-1], answer, rtol=0, atol=1e-5)
    log_probs = answer[torch.arange(ROWS), ids()]
    assert result["log_prob"][-1] == pytest.approx(float(log_probs.mean()), abs=1e-5)
    assert result["top"][-1] == pytest.approx(float((answer.argmax(1) == ids()).double().mean()))
    ranks = (answer.argsort(1, descending=True) == ids()[:, None]).nonzero()[:, 1] + 1
    assert result["mrr"][-1] == pytest.approx(float((1 / ranks).mean()))


def test_the_first_depth_is_the_embedding_alone_whatever_adapters_act():
    model, _ = adapted()
    with using(model, Mix({"one": 1.0})):
        embedding = lens_log_probs(model, tokens())[0]
    x = model.norm(model.embed_tokens(tokens()[:, -1]))
    expected = model.unembed(x).double().log_softmax(-1).detach()
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_each_depth_is_the_answer_of_the_model_cut_there():
    model, _ = adapted()
    with using(model, Mix({"one": 1.0, "two": 1.0})), torch.no_grad():
        depths = lens_log_probs(model, tokens())
        for depth in range(3):
            cut = copy.deepcopy(model)
            cut.layers = nn.ModuleList(list(cut.layers)[:depth])
            answer = cut(tokens())[:, -1].double().log_softmax(-1)
            torch.testing.assert_close(depths[depth], answer, rtol=0, atol=1e-5)


def test_the_order_of_rows_and_of_targets_changes_nothing():
    model, _ = adapted()
    shuffle = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    targets = {"first": ids(1), "second": ids(2)}
    with using(model, Mix({"one": 1.0})):
        before = logit_lens(model, tokens(), targets)["targets"]
        shuffled = {name: targets[name][shuffle] for name in reversed(targets)}
        after = logit_lens(model, tokens()[shuffle], shuffled)["targets"]
    for name in targets:
        for key in before[name]:
            assert after[name][key] == pytest.approx(before[name][key], abs=1e-6)


def test_the_shuffled_baseline_is_that_of_all_permutations():
    """The mean over all rolls, and the standard deviation over all permutations."""
    n = 5
    model, prompts, targets = small(), tokens(rows=n), ids(rows=n)
    result = logit_lens(model, prompts, {"t": targets})["targets"]["t"]
    log_probs = lens_log_probs(model, prompts)
    rows = torch.arange(n)
    rolls = torch.stack([log_probs[:, rows, targets.roll(k)].mean(1) for k in range(1, n)])
    assert result["shuffled"] == pytest.approx(rolls.mean(0).tolist())
    permutations = map(list, itertools.permutations(range(n)))
    means = torch.stack([log_probs[:, rows, targets[p]].mean(1) for p in permutations])
    assert result["shuffled_sd"] == pytest.approx(means.std(0, correction=0).tolist(), abs=1e-7)


def test_a_target_that_does_not_depend_on_the_row_has_no_signal():
    result = logit_lens(small(), tokens(), {"same": torch.full((ROWS,), 4)})["targets"]["same"]
    assert result["log_prob"] == pytest.approx(result["shuffled"])
    assert result["shuffled_sd"] == pytest.approx([0, 0, 0], abs=1e-7)


def test_a_planted_token_is_found():
    """Layers that add nothing leave the last token's embedding, which the unembedding names."""
    model = small()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.embed_tokens.weight.zero_()
        model.embed_tokens.weight[:16] = torch.eye(16) * 4
    prompts = tokens() % 16
    prompts[:, -1] = torch.arange(ROWS)
    targets = {"last": prompts[:, -1], "next": prompts[:, -1] + 1}
    result = logit_lens(model, prompts, targets)["targets"]
    last = result["last"]
    assert last["top"] == last["mrr"] == [1, 1, 1]
    for log_prob, shuffled in zip(last["log_prob"], last["shuffled"], strict=True):
        assert log_prob > shuffled + 5
    assert result["next"]["top"] == [0, 0, 0]


# Interference -------------------------------------------------------------------------------------


def pair(seed, rank=3, rank2=3, d_in=11, d_out=9, alpha=2.0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((rank, d_in), (d_out, rank), (rank2, d_in), (d_out, rank2))
    A, B, A2, B2 = (torch.randn(*shape, generator=g).double() for shape in shapes)
    return Adapter({"q": (A, B)}, alpha), Adapter({"q": (A2, B2)}, alpha)


def only(a, b):
    (row,) = interference({"a": a, "b": b})["pairs"]
    assert (row.pop("path"), row.pop("pair")) == ("q", ["a", "b"])
    return row


def scaled(adapter, factor):
    return Adapter({p: (A, factor * B) for p, (A, B) in adapter.factors.items()}, adapter.alpha)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_interference_is_the_dense_computation(seed, rank, rank2):
    a, b = pair(seed, rank, rank2)
    row, dense, dense2 = only(a, b), a.delta("q"), b.delta("q")
    (U, _, V), (U2, _, V2) = (torch.linalg.svd(d) for d in (dense, dense2))
    overlaps = []
    for left, right in ((V[:rank].mT, V2[:rank2].mT), (U[:, :rank], U2[:, :rank2])):
        angles = torch.linalg.svdvals(left.mT @ right)
        overlaps.append(float(angles.square().mean()))
    cosine = float((dense * dense2).sum() / (dense.norm() * dense2.norm()))
    assert row["cosine"] == pytest.approx(cosine, abs=1e-9)
    assert [row["input"], row["output"]] == pytest.approx(overlaps, abs=1e-9)
    assert row["input_random"] == pytest.approx(max(rank, rank2) / 11)
    assert row["output_random"] == pytest.approx(max(rank, rank2) / 9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.01, 100))
def test_interference_with_itself_its_negative_and_another_factoring(seed, rank, factor):
    a, b = pair(seed, rank)
    for sign in (1, -1):
        row = only(a, scaled(a, sign * factor))
        assert [row["cosine"], row["input"], row["output"]] == pytest.approx([sign, 1, 1])
    noise = torch.rand(rank, rank, generator=torch.Generator().manual_seed(seed)).double()
    Q, (A, B) = 2 * torch.eye(rank).double() + noise / rank, a.factors["q"]
    refactored = Adapter({"q": (Q @ A, B @ Q.inverse())}, a.alpha)
    assert only(refactored, b) == pytest.approx(only(a, b), abs=1e-8)
    # With twice the rank it is still the same update, and has the same spaces.
    wider = plain_sum([scaled(a, 0.25), scaled(a, 0.75)])
    assert only(wider, b) == pytest.approx(only(a, b), abs=1e-8)


def test_orthogonal_spaces_do_not_overlap_and_random_ones_do_as_expected():
    g = torch.Generator().manual_seed(0)
    Q, P = (torch.linalg.qr(torch.randn(d, d, generator=g).double()).Q for d in (11, 9))
    a, b = Adapter({"q": (Q[:3], P[:, :3])}, 1.0), Adapter({"q": (Q[3:7], P[:, 3:7])}, 1.0)
    row = only(a, b)
    assert [row["cosine"], row["input"], row["output"]] == pytest.approx([0, 0, 0], abs=1e-12)
    drawn = [only(*pair(seed, 2, 4)) for seed in range(300)]
    for key in ("input", "output"):  # 300 draws: a standard error near .01
        mean = sum(row[key] for row in drawn) / 300
        assert mean == pytest.approx(drawn[0][f"{key}_random"], abs=0.05)


def test_zero_updates_other_layers_and_three_adapters():
    a, b = pair(0)
    assert set(only(a, scaled(b, 0.0)).values()) == {0.0}
    assert set(only(scaled(a, 0.0), scaled(b, 0.0)).values()) == {0.0}
    more = Adapter({**b.factors, "k": a.factors["q"]}, b.alpha)
    result = interference({"a": a, "b": more, "c": b})
    assert [row["pair"] for row in result["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert result["skipped"] == [{"path": "k", "only": "b"}]
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(ValueError, match="at least 2"):
        interference({"a": a})
    with pytest.raises(ValueError, match="different shapes"):
        interference({"a": a, "b": pair(1, d_in=12)[0]})


# Routing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("top_k", [None, 1])
def test_gates_sum_to_one_and_entropy_and_gap_are_within_their_bounds(count, top_k):
    names = [f"e{i}" for i in range(count)]
    model, experts = adapted(names)
    routers = arrow(list(experts.values()), temperature=0.05, top_k=top_k)
    with using(model, Gated(names, routers)):
        by_path = routing(model, tokens(), routers)
    assert set(by_path) == set(routers) and json.loads(json.dumps(by_path)) == by_path
    assert all(router.seen is None for router in routers.values())
    for means in by_path.values():
        gates, entropy, gap = (torch.tensor(means[key]) for key in ("gates", "entropy", "gap"))
        assert gates.shape == (LENGTH, count) and entropy.shape == gap.shape == (LENGTH,)
        torch.testing.assert_close(gates.sum(1), torch.ones(LENGTH))
        assert (entropy >= 0).all() and (entropy <= math.log(count) + 1e-6).all()
        assert (gap >= 0).all() and (gap <= 1).all()
        if top_k == 1 or count == 1:
            assert not entropy.any() and (gap == 1).all()


def test_routing_is_by_token_and_averages_over_rows():
    model, experts = adapted()
    routers = arrow(list(experts.values()))
    prompts = tokens()
    with using(model, Gated(tuple(experts), routers)):
        together = routing(model, prompts, routers)
        each = [routing(model, row[None], routers) for row in prompts]
    for path, means in together.items():
        for key in means:
            mean = torch.tensor([one[path][key] for one in each]).mean(0)
            torch.testing.assert_close(torch.tensor(means[key]), mean, rtol=0, atol=1e-5)
    # The queries of the first layer read the normalised embedding alone, and so do their gates.
    first = "layers.0.self_attn.q_proj"
    x = model.layers[0].input_layernorm(model.embed_tokens(prompts))
    gates = routers[first](x.flatten(0, 1)).view(ROWS, LENGTH, 2).mean(0)
    measured = torch.tensor(together[first]["gates"])
    torch.testing.assert_close(measured, gates.detach(), rtol=0, atol=1e-5)


def test_routers_that_do_not_act_are_explained_and_let_go():
    model, experts = adapted()
    routers = arrow(list(experts.values()))
    seen: list = []
    routers["layers.0.mlp.up_proj"].seen = seen
    with pytest.raises(ValueError, match="asked 0 times"):
        routing(model, tokens(), routers)
    assert routers["layers.0.mlp.up_proj"].seen is seen and not seen


# Knock-out ----------------------------------------------------------------------------------------


def answers(model):
    with torch.no_grad():
        logits = model(tokens())
    return {"sum": float(logits.square().sum()), "first": float(logits[0, -1, 0])}


def test_knock_out_is_the_adapters_of_the_other_layers_alone():
    model, experts = adapted(("one",))
    by_block = by_part(experts["one"].paths)
    assert list(by_block) == [
        "layers.0.self_attn",
        "layers.0.mlp",
        "layers.1.self_attn",
        "layers.1.mlp",
    ]
    with using(model, Mix({"one": 0.7})):
        whole = answers(model)
        scores = knock_out(model, by_block, lambda: answers(model))
    assert scores["all"] == whole and scores["none"] == answers(model) == answers(small())
    assert json.loads(json.dumps(scores)) == scores
    for kind, keep in (("only", True), ("without", False)):
        for block, paths in by_block.items():
            factors = {p: f for p, f in experts["one"].factors.items() if (p in paths) == keep}
            part = small()
            attach(part, {"part": Adapter(factors, experts["one"].alpha)})
            with using(part, Mix({"part": 0.7})):
                assert scores[kind][block] == pytest.approx(answers(part), rel=1e-5)


def test_one_block_of_all_layers_is_all_or_none():
    model, experts = adapted()
    with using(model, Mix({"one": 1.0, "two": -1.0})):
        blocks = {"every": experts["one"].paths, "no": []}
        scores = knock_out(model, blocks, lambda: answers(model))
    assert scores["without"]["every"] == scores["only"]["no"] == scores["none"]
    assert scores["only"]["every"] == scores["without"]["no"] == scores["all"]


def test_modes_are_back_after_the_block_and_after_an_exception():
    model, experts = adapted()
    modes = (Mix({"one": 1.0}), Gated(("one", "two"), arrow(list(experts.values()))))
    for mode in modes:
        with using(model, mode):
            with (
                pytest.raises(RuntimeError, match="stop"),
                switched_off(model, ["layers.1.mlp.up_proj"]),
            ):
                assert lora_layers(model)["layers.1.mlp.up_proj"].mode is None
                assert lora_layers(model)["layers.1.mlp.down_proj"].mode is mode
                raise RuntimeError("stop")
            unknown = {"b": ["layers.1.mlp.up_proj", "layers.9.up"]}
            message = "no adapter is attached to the layer 'layers.9.up'"
            with pytest.raises(ValueError, match=message):
                knock_out(model, unknown, lambda: {})
            assert all(layer.mode is mode for layer in lora_layers(model).values())
    with pytest.raises(ValueError, match="no adapter acts"):
        knock_out(model, {}, lambda: {})
    assert all(layer.mode is None for layer in lora_layers(model).values())


@pytest.mark.parametrize(
    ("prompts", "targets", "position", "message"),
    [
        (tokens()[0], {}, -1, "shape .rows, length."),
        (tokens().float(), {}, -1, "give token ids"),
        (tokens()[:, :0], {}, -1, "give token ids"),
        (tokens()[:1], {}, -1, "at least 2"),
        (tokens(), {}, LENGTH, "the prompts have 5 tokens"),
        (tokens(), {"t": ids(rows=ROWS - 1)}, -1, "give 6 token ids"),
        (tokens(), {"t": ids() + VOCABULARY}, -1, "below 23"),
        (tokens(), {"t": ids().float()}, -1, "give 6 token ids"),
    ],
)
def test_bad_input_is_explained_in_one_line(prompts, targets, position, message):
    with pytest.raises(ValueError, match=message) as caught:
        logit_lens(small(), prompts, targets, position)
    assert "\n" not in str(caught.value)
    if prompts.dim() != 2:
        with pytest.raises(ValueError, match=message):
            routing(small(), prompts, {})


# Pictures -----------------------------------------------------------------------------------------


def test_every_picture_is_drawn():
    pytest.importorskip("matplotlib")
    model, experts = adapted()
    routers = arrow(list(experts.values()))
    with using(model, Mix({"one": 1.0})):
        seen = logit_lens(model, tokens(), {"bridge": ids(1), "answer": ids(2)})
        knocked = knock_out(model, by_part(routers), lambda: answers(model))
    with using(model, Gated(tuple(experts), routers)):
        gates = routing(model, tokens(), routers)
    for figure in (
        mechanism_figures.lens({"base": seen, "one": seen}),
        mechanism_figures.routing(gates, list("abcde"), list(experts)),
        mechanism_figures.interference(interference(experts), ("one", "two")),
        mechanism_figures.knock_out(knocked),
    ):
        assert base64.b64decode(drawing.png(figure)).startswith(b"\x89PNG")

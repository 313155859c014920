"""What layers keep while a model decodes: the same numbers by fewer products."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora import Adapter, Gated, Mix, Rows, attach, init_adapter, lora_layers, steady, using
from models import Transformer, TransformerConfig, decode, greedy, recorded
from models.layout import READ_ALIKE
from recycle.reuse.gates import GateRouter
from recycle.reuse.route import ArrowRouter, arrow
from recycle.reuse.routers import ByChance, Constant, spectr

NAMES, WIDTH, RANK = ("a", "b", "c"), 16, 2
CONFIG = TransformerConfig(width=WIDTH, layers=2, heads=2, kv_heads=1, hidden=24, context=32)
TOKENS = torch.randint(2, 20, (3, 6), generator=torch.Generator().manual_seed(0))
REAL = torch.tensor([[False] * 2 + [True] * 4, [True] * 6, [True] * 6])


def adapted(ranks=(RANK,) * 3, dtype=torch.float64):
    model = Transformer(CONFIG, 20, torch.Generator().manual_seed(0)).to(dtype).eval()
    adapters = {}
    for i, (name, rank) in enumerate(zip(NAMES, ranks, strict=True)):
        g = torch.Generator().manual_seed(i)
        made = init_adapter(model, ["*_proj"], rank, 3.0 * (i + 1), g)
        factors = {
            path: (A.to(dtype), torch.randn(B.shape, generator=g).to(dtype))
            for path, (A, B) in made.factors.items()
        }
        adapters[name] = Adapter(factors, made.alpha)
    attach(model, adapters)
    return model, adapters


def groups(model):
    return [
        [part.get_submodule(name) for name in names]
        for block in model.layers
        for part, names in zip((block.self_attn, block.mlp), READ_ALIKE, strict=True)
    ]


@torch.inference_mode()
def states(model, mode, keep, tokens=TOKENS, real=REAL):
    """Of a pass over a prompt and of two tokens after it, as decoding asks for them."""
    cache = model.new_cache(len(tokens), 8)
    real = torch.cat([real, torch.ones(len(real), 2, dtype=torch.bool)], 1)
    with using(model, mode), steady(groups(model)) if keep else nullcontext():
        parts = [model.hidden_states(part, cache, real) for part in tokens.split([4, 1, 1], 1)]
    return torch.cat(parts, 1)


def learned_gates(adapters, top_k=None):
    g = torch.Generator().manual_seed(0)
    one = next(iter(adapters.values()))
    absent = torch.tensor([False, True, False])
    return {
        path: GateRouter(torch.randn(3, A.shape[1], generator=g).double(), absent, 0.5, top_k)
        for path, (A, _) in one.factors.items()
    }


def chosen(adapters, *gates):
    return {path: Constant(torch.tensor(gates)) for path in adapters["a"].paths}


def plain(adapters):
    """Routers that are functions and no more."""
    return {path: lambda x: x[:, :3].softmax(1) for path in adapters["a"].paths}


def mixed(adapters):
    """Routers of several kinds in one model, and one adapter that is nowhere near a layer."""
    routers = arrow(list(adapters.values()))
    routers["layers.0.self_attn.k_proj"] = Constant(torch.tensor([0.5, 0.0, 2.0]))
    routers["layers.0.mlp.up_proj"] = arrow(list(adapters.values()), top_k=1)[
        "layers.0.mlp.up_proj"
    ]
    lacking = routers["layers.1.self_attn.q_proj"].prototypes.clone()
    lacking[1] = 0
    routers["layers.1.self_attn.q_proj"] = ArrowRouter(lacking)
    return routers


ROUTERS = {
    "arrow": lambda a: arrow(list(a.values())),
    "arrow to one": lambda a: arrow(list(a.values()), top_k=1),
    "arrow, cold": lambda a: arrow(list(a.values()), temperature=1e-4),
    "spectr": lambda a: spectr(list(a.values()), top_k=2),
    "learned": learned_gates,
    "functions": plain,
    "constant": lambda a: chosen(a, 0.5, 0.0, -1.0),
    "none": lambda a: chosen(a, 0.0, 0.0, 0.0),
    "mixed": mixed,
}


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("order", ["outputs", "factors"])
def test_gated_layers_give_the_same(kind, order):
    model, adapters = adapted()
    mode = Gated(NAMES, ROUTERS[kind](adapters), order)
    torch.testing.assert_close(states(model, mode, True), states(model, mode, False))


MODES = {
    "off": lambda a: None,
    "mix": lambda a: Mix({"a": 1.0, "c": -0.5}),
    "rows": lambda a: Rows(NAMES),
    "asks the processor": lambda a: Gated(NAMES, plain(a) | slow(a)),
    **{kind: lambda a, make=make: Gated(NAMES, make(a)) for kind, make in ROUTERS.items()},
}


def slow(adapters):
    """A router that no device can record."""
    path = adapters["a"].paths[3]
    return {path: lambda x: x[:, :3].cpu().softmax(1).to(x.device)}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MODES)
def test_a_device_replays_adapted_layers(monkeypatch, kind):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, adapters = adapted()
    model.cuda()
    prompts = [row.tolist() for row in TOKENS]
    said = []
    with using(model, MODES[kind](adapters)):
        for may in (lambda *rest: False, recorded.can_record):
            monkeypatch.setattr(decode, "can_record", may)
            said.append(greedy(model, prompts, 20, -1, 0))
    assert said[0] == said[1]


def test_gates_that_are_drawn_or_looked_at_are_not_replayed():
    model, adapters = adapted()
    g, path = torch.Generator(), "layers.1.mlp.up_proj"
    layer = lora_layers(model)[path]
    assert not layer.varies
    for routers, varies in (
        (arrow(list(adapters.values())), False),
        ({path: ByChance(3, g) for path in adapters["a"].paths}, True),
    ):
        with using(model, Gated(NAMES, routers)):
            assert layer.varies == varies
            routers[path].seen = []
            assert layer.varies


def test_adapters_of_several_ranks_give_the_same_and_have_no_mean():
    model, adapters = adapted((1, 3, 2))
    for kind in ("arrow", "functions", "constant"):
        routers = ROUTERS[kind](adapters)
        mode = Gated(NAMES, routers)
        torch.testing.assert_close(states(model, mode, True), states(model, mode, False))
        for keep in (True, False):
            with pytest.raises(ValueError, match="factors of ranks"):
                states(model, Gated(NAMES, routers, "factors"), keep)


@pytest.mark.parametrize(
    "mode", [Mix({"b": 1.0}), Mix({"a": 1.0, "c": -0.5}), Mix({"b": 0.5}), Rows(NAMES), None]
)
def test_a_mix_and_rows_give_the_very_same(mode):
    model, _ = adapted(dtype=torch.float32)
    assert torch.equal(states(model, mode, True), states(model, mode, False))


def test_chance_draws_the_same_gates():
    model, adapters = adapted()
    found = []
    for keep in (True, False):
        g = torch.Generator().manual_seed(0)
        mode = Gated(NAMES, {path: ByChance(3, g) for path in adapters["a"].paths})
        found.append(states(model, mode, keep))
    torch.testing.assert_close(*found)


def test_a_batch_without_tokens_goes_through_every_kind():
    model, adapters = adapted((1, 2, 2))
    block = model.layers[0].self_attn
    for kind in ("arrow", "functions", "constant"):
        with using(model, Gated(NAMES, ROUTERS[kind](adapters))), torch.inference_mode():
            with steady(groups(model)):
                for shape in ((0, WIDTH), (0, 5, WIDTH), (2, 0, WIDTH)):
                    x = torch.zeros(shape).double()
                    assert block.q_proj(x).shape == shape
                    assert block.k_proj(x).shape == (*shape[:-1], WIDTH // 2)


def test_a_base_of_16_bits_is_scored_in_32_and_not_folded():
    """The numbers are those of 16 bits: a fold would round B A to the weight's own 8 bits."""
    model, adapters = adapted(dtype=torch.float32)
    for kind in ("arrow", "constant"):
        mode = Gated(NAMES, ROUTERS[kind](adapters))
        exact = states(model, mode, False)
        model.bfloat16()
        for layer in lora_layers(model).values():
            for name in NAMES:
                for factor in layer.factors(name):
                    factor.data = factor.data.float()
        kept, now = states(model, mode, True).float(), states(model, mode, False).float()
        assert kept.dtype == now.dtype
        assert (kept - exact).norm() <= 2 * (now - exact).norm()
        model.float()


# Operations ---------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """The names and the shapes of what an inner block computes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = [tuple(arg.shape) for arg in args if isinstance(arg, torch.Tensor)]
        self.seen.append((func.overloadpacket.__name__, shapes))
        return func(*args, **(kwargs or {}))

    def count(self, *names):
        return sum(name in names for name, _ in self.seen)


def one_token(model, mode, tokens=1):
    """What one token after others costs, with what layers keep."""
    with torch.inference_mode(), using(model, mode), steady(groups(model)):
        model.hidden_states(TOKENS)
        with Operations() as operations:
            model.hidden_states(TOKENS[:, :tokens])
    return operations


def test_layers_that_read_one_input_share_their_products():
    """Of N adapters of rank r with a prototype each, q, k and v take one product of 3 N (1 + r)
    columns, gate and up one of 2 N (1 + r); nothing is put together anew, and each layer adds to
    its output once."""
    model, adapters = adapted(dtype=torch.float32)
    base = one_token(model, None)
    operations = one_token(model, Gated(NAMES, arrow(list(adapters.values()))))
    wide, N, blocks = len(TOKENS), len(NAMES), CONFIG.layers
    down = [shapes for name, shapes in operations.seen if name == "mm"]
    expected = []
    for k, layers in ((WIDTH, 3), (WIDTH, 1), (WIDTH, 2), (CONFIG.hidden, 1)):
        expected.append([(wide, k), (k, layers * N * (1 + RANK))])
    assert down == expected * blocks
    assert operations.count("matmul") == base.count("matmul")
    assert operations.count("addmm_") == 7 * blocks
    assert operations.count("cat") == base.count("cat")
    assert operations.count("abs") == 4 * blocks
    assert operations.count("softmax") == 4 * blocks + base.count("softmax")
    assert operations.count("div", "any", "masked_fill", "is_nonzero") == base.count("masked_fill")


def test_gates_of_any_order_cost_little_more_than_arrow():
    """Operations that compute, beyond those of the base: 1 product, 2 for gates and 1 weighing for
    each of the 4 inputs of a block, and 1 addition for each of its 7 layers."""
    model, adapters = adapted(dtype=torch.float32)
    views = {"view", "reshape", "t", "mT", "select", "slice", "unsqueeze", "split_with_sizes"}
    views |= {"to", "view_as", "narrow", "permute", "transpose", "expand", "chunk", "linear"}

    def computed(mode):
        return sum(name not in views for name, _ in one_token(model, mode).seen)

    several, base = list(adapters.values()), computed(None)
    for routers, order, most in (
        (arrow(several), "outputs", 4),
        (arrow(several), "factors", 6),
        (arrow(several, top_k=1), "outputs", 7),
        (spectr(several), "outputs", 7),
        (chosen(adapters, 0.0, 1.0, 0.0), "outputs", 0),
    ):
        added = 7 if most else 0
        assert computed(Gated(NAMES, routers, order)) <= base + CONFIG.layers * (4 * most + added)


def test_gates_that_are_constant_cost_nothing():
    """Nor does a router of a lone adapter: what is left is the base's own products."""
    model, adapters = adapted(dtype=torch.float32)
    base = one_token(model, None)
    for mode in (
        Gated(NAMES, chosen(adapters, 0.0, 1.0, 0.0)),
        Gated(("b",), arrow([adapters["b"]])),
        Gated(("b",), spectr([adapters["b"]]), "factors"),
    ):
        torch.testing.assert_close(states(model, mode, True), states(model, mode, False))
        assert sorted(one_token(model, mode).seen) == sorted(base.seen)


def test_few_weights_are_folded_where_memory_is_short(monkeypatch):
    model, adapters = adapted()
    mode = Gated(NAMES, chosen(adapters, 0.0, 1.0, 0.0))
    weights = [layer.weight for layer in lora_layers(model).values()]
    monkeypatch.setattr("lora.kept.MOST_FOLDED", 8 * sum(w.numel() for w in weights[:7]))
    torch.testing.assert_close(states(model, mode, True), states(model, mode, False))
    operations = one_token(model, mode)
    assert operations.count("mm") == operations.count("addmm_") == 7
    assert {shapes[1][1] for name, shapes in operations.seen if name == "mm"} == {RANK}


def test_a_mix_puts_its_factors_together_once():
    model, _ = adapted(dtype=torch.float32)
    base = one_token(model, None)
    for mode in (Mix(dict.fromkeys(NAMES, 1.0)), Rows(NAMES)):
        operations = one_token(model, mode)
        assert operations.count("cat", "stack") == base.count("cat")


# What may happen meanwhile ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrow", "constant", "spectr", "learned"])
def test_who_looks_at_gates_sees_those_of_every_token_and_layer(kind):
    model, adapters = adapted()
    routers = ROUTERS[kind](adapters)
    mode, seen = Gated(NAMES, routers), {}
    for keep in (True, False):
        for router in routers.values():
            router.seen = []
        states(model, mode, keep)
        seen[keep] = {path: router.seen for path, router in routers.items()}
    for path, gates in seen[False].items():
        assert [len(one) for one in seen[True][path]] == [12, 3, 3]
        torch.testing.assert_close(torch.cat(seen[True][path]), torch.cat(gates))


def test_a_hook_may_look_and_may_change_what_one_layer_reads():
    model, adapters = adapted()
    mode = Gated(NAMES, arrow(list(adapters.values())))
    read = []
    keys, up = model.layers[0].self_attn.k_proj, model.layers[1].mlp.up_proj
    keys.register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0],))
    up.register_forward_hook(lambda module, inputs, y: read.append(y.clone()))
    torch.testing.assert_close(states(model, mode, True), states(model, mode, False))
    torch.testing.assert_close(read[:3], read[3:])


def test_layers_that_read_different_tensors_are_told_apart():
    """Also where somebody said that they read one."""
    model, adapters = adapted()
    layers = [model.layers[0].self_attn.q_proj, model.layers[0].self_attn.k_proj]
    mode = Gated(NAMES, arrow(list(adapters.values())))
    xs = torch.randn(2, 2, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode(), using(model, mode):
        expected = [[layer(x) for layer in layers] for x in xs]
        crossed = [layers[0](xs[0]), layers[1](xs[1]), layers[0](xs[1]), layers[1](xs[1])]
        with steady([layers]):
            torch.testing.assert_close([[layer(x) for layer in layers] for x in xs], expected)
            again = [layers[0](xs[0]), layers[1](xs[1]), layers[0](xs[1]), layers[1](xs[1])]
            torch.testing.assert_close(again, crossed)
            x = xs[0].clone()
            for i, layer in enumerate(layers * 2):  # a buffer that is filled anew
                if i == 2:
                    x.copy_(xs[1])
                torch.testing.assert_close(layer(x), expected[i // 2][i % 2])


def test_the_mode_and_the_type_may_change_meanwhile():
    model, adapters = adapted(dtype=torch.float32)
    modes = [
        Gated(NAMES, arrow(list(adapters.values()))),
        Mix({"a": 1.0}),
        None,
        Gated(NAMES, chosen(adapters, 0.0, 1.0, 0.0)),
        Gated(NAMES, arrow(list(adapters.values())), "factors"),
    ]
    with torch.inference_mode():
        expected = []
        for mode in modes:
            with using(model, mode):
                expected.append(model(TOKENS))
        with steady(groups(model)):
            for mode, want in [*zip(modes, expected, strict=True)] * 2:
                with using(model, mode):
                    torch.testing.assert_close(model(TOKENS), want)
            model.double()
            with using(model, modes[0]):
                assert model(TOKENS).dtype == torch.float64


def test_gradients_flow_through_learned_gates_as_ever():
    model, adapters = adapted()
    routers = learned_gates(adapters)
    for router in routers.values():
        router.vectors.requires_grad_(True)
    vectors = [router.vectors for router in routers.values()]
    gradients = []
    with using(model, Gated(NAMES, routers)):
        for block in (steady(groups(model)), nullcontext()):
            with block:
                loss = model(TOKENS).square().sum()
            gradients.append(torch.autograd.grad(loss, vectors))
    assert all(map(torch.equal, *gradients))


def test_decoding_keeps_what_it_can(monkeypatch):
    """`greedy` enters the block once and names the layers that read one tensor."""
    entered = []

    def noted(together):
        entered.append([len(group) for group in together])
        return steady(together)

    model, adapters = adapted()
    monkeypatch.setattr("lora.LoRALinear.steady", staticmethod(noted))
    prompts = [row.tolist()[: 2 + i] for i, row in enumerate(TOKENS)]
    with using(model, Gated(NAMES, arrow(list(adapters.values())))):
        alone = [greedy(model, [prompt], 5, -1, 0)[0] for prompt in prompts]
        assert greedy(model, prompts, 5, -1, 0) == alone
    assert entered == [[3, 2] * CONFIG.layers] * 4


def other_model():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    g = torch.Generator().manual_seed(0)
    adapters = {}
    for name in "ab":
        factors = {
            path: (A.double(), torch.randn(B.shape, generator=g).double())
            for path, (A, B) in init_adapter(net, ["*"], 2, 4.0, g).factors.items()
        }
        adapters[name] = Adapter(factors, 4.0)
    attach(net, adapters)
    mode = Gated(("a", "b"), arrow(list(adapters.values())))
    return net, mode, torch.randn(2, 5, 6, generator=g).double()


def test_a_model_of_other_names_keeps_its_layers_one_by_one():
    net, mode, x = other_model()
    with torch.inference_mode(), using(net, mode):
        expected = net(x)
        with steady():
            torch.testing.assert_close([net(x), net(x)], [expected] * 2)


def test_a_compiled_model_keeps_nothing_and_gives_the_same():
    net, mode, x = other_model()
    torch._dynamo.reset()
    with torch.inference_mode(), using(net, mode):
        expected = net(x)
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        with steady():
            torch.testing.assert_close(compiled(x), expected)

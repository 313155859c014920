"""Layers that are more than nn.Linear, and code that reads a layer's weight past its forward."""

import copy
import functools
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from lora import (
    Adapter,
    Gated,
    LoRALinear,
    Mix,
    Rows,
    attach,
    base_hash,
    detach,
    folded,
    init_adapter,
    lora_layers,
    matching,
    train_only,
    using,
)

pytestmark = pytest.mark.filterwarnings(  # of torch, about its own older ways
    "ignore:.*weight_norm.*:FutureWarning", "ignore:.*[Nn]ested.*:UserWarning"
)


def loud(net, patterns, seed=0, **kwargs):
    """An adapter that changes much: its B is not zero."""
    g = torch.Generator().manual_seed(seed)
    made = init_adapter(net, patterns, 2, 3.0, g, **kwargs)
    drawn = {
        path: (A.double(), torch.randn(B.shape, generator=g).double())
        for path, (A, B) in made.factors.items()
    }
    return Adapter(drawn, made.alpha, base=made.base)


class Clipped(nn.Linear):
    """Has a forward of its own, and attributes with the names of LoRALinear's."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out)
        self.scales, self.mode, self.path = torch.tensor(0.5), "clip", "here"

    def forward(self, x, factor=1.0):
        assert self.mode == "clip" and self.path == "here"
        return super().forward(x.clamp(-0.1, 0.1)) * self.scales * factor


class Computed(nn.Linear):
    """Has the forward of nn.Linear and a weight that its class computes."""

    @property
    def weight(self):
        return F.normalize(nn.Module.__getattr__(self, "weight"))


class Packed(nn.Linear):
    """As libraries quantise: whole numbers of another shape, and a scale beside them."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out)
        whole = torch.randint(0, 255, (d_out * d_in, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(whole, requires_grad=False)

    def forward(self, x):
        unpacked = self.weight.view(self.out_features, self.in_features).to(x.dtype) / 255
        return F.linear(x, unpacked, self.bias)


class InBuffers(nn.Linear):
    """Other libraries hold a quantised weight in buffers, and none under its name."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out, bias=False)
        del self.weight
        self.weight = None
        self.register_buffer("packed", torch.randint(0, 255, (d_out, d_in), dtype=torch.uint8))

    def forward(self, x):
        return F.linear(x, self.packed.to(x.dtype) / 255)


class Marked(torch.Tensor):
    """A weight of a class of its own, as libraries quantise inside an nn.Linear."""


def marked(d_in, d_out):
    linear = nn.Linear(d_in, d_out).double()
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Marked))
    return linear


def set_on_the_object(d_in, d_out):
    """Other libraries move inputs between devices in this way."""
    linear = nn.Linear(d_in, d_out).double()
    plain_forward = linear.forward

    def forward(module, x):
        return plain_forward(x) + 1

    linear.forward = functools.partial(forward, linear)
    return linear


def pruned(d_in, d_out):
    return prune.random_unstructured(nn.Linear(d_in, d_out), "weight", 0.5)


FOREIGN = {
    "a forward of its own": Clipped,
    "a computed weight": Computed,
    "packed": Packed,
    "in buffers": InBuffers,
    "a weight of another class": marked,
    "a forward on the object": set_on_the_object,
    "weight_norm": lambda *shape: parametrizations.weight_norm(nn.Linear(*shape)),
    "weight_norm by a hook": lambda *shape: nn.utils.weight_norm(nn.Linear(*shape)),
    "spectral_norm": lambda *shape: parametrizations.spectral_norm(nn.Linear(*shape)).eval(),
    "orthogonal": lambda *shape: parametrizations.orthogonal(nn.Linear(*shape)),
    "pruned": pruned,
    "of quantisation": nn.modules.linear.NonDynamicallyQuantizableLinear,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_layer_stays_what_it_is_and_adapters_are_added(kind):
    torch.manual_seed(0)
    net = nn.Sequential(FOREIGN[kind](6, 4), nn.Tanh()).double().eval()
    layer, x = net[0], torch.randn(3, 6).double()
    hooked = []
    layer.register_forward_hook(lambda module, inputs, y: hooked.append(y))
    keys, cls, base, own = list(net.state_dict()), type(layer), net(x), dict(vars(layer))
    ads = {name: loud(net, ["0"], seed) for seed, name in enumerate("ab")}
    attach(net, ads)
    assert torch.equal(net(x), base)
    assert set(net.state_dict()) - set(keys) == {f"0.lora_{m}_{n}" for m in "AB" for n in "ab"}
    (group, _) = train_only(net, ["a", "b"])
    raw = layer(x)
    mixed = raw + x @ (0.7 * ads["a"].delta("0") - ads["b"].delta("0")).T
    with using(net, Mix({"a": 0.7, "b": -1.0})):
        torch.testing.assert_close(layer(x), mixed)
        layer(x).sum().backward()
        assert all(p.grad.any() for p in group)
    assert len(hooked) == 5
    with folded(net, {"a": 0.7, "b": -1.0}):
        torch.testing.assert_close(layer(x), mixed)
    gates = torch.rand(3, 2).double()
    by_gate = torch.stack(
        [y + sum(g[i] * ads[n].delta("0") for i, n in enumerate("ab")) @ token
         for y, g, token in zip(raw, gates, x, strict=True)]
    )  # fmt: skip
    with using(net, Gated(("a", "b"), {"0": lambda h: gates})):
        torch.testing.assert_close(layer(x), by_gate)
    by_row = torch.cat([raw + x @ ads[name].delta("0").T for name in "ab"])
    with using(net, Rows(("a", "b"))):
        torch.testing.assert_close(layer(torch.cat([x, x])), by_row)
        with pytest.raises(ValueError, match="3 rows do not fall into 2 equal parts"):
            layer(x)
    assert ads["a"].base != base_hash(nn.Sequential(FOREIGN[kind](6, 4)))
    detach(net)
    assert net[0] is layer and type(layer) is cls and not layer.training
    assert list(net.state_dict()) == keys and set(vars(layer)) == set(own)
    assert torch.equal(net(x), base) and len(hooked) == 9


def test_copies_of_a_foreign_layer_are_foreign_layers():
    net, x = nn.Sequential(Clipped(6, 4)).double(), torch.randn(3, 6).double()
    attach(net, {"a": loud(net, ["0"])})
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        with using(net, Mix({"a": 1.0})), using(other, Mix({"a": 1.0})):
            assert torch.equal(other(x), net(x))
        detach(other)
        assert type(other[0]) is Clipped and torch.equal(other(x), net(x))


def test_what_an_adapter_cannot_be_added_to_is_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), None

    net, x = nn.Sequential(Pair(6, 4)).double(), torch.randn(3, 6).double()
    attach(net, {"a": loud(net, ["0"])})
    assert net(x)[1] is None
    with using(net, Mix({"a": 1.0})), pytest.raises(ValueError, match="a Pair gives a tuple"):
        net(x)
    late = nn.Sequential(nn.Linear(6, 4)).double()
    attach(late, {"a": loud(late, ["0"])})
    parametrizations.weight_norm(late[0])
    for act in (lambda: late(x), lambda: detach(late)):
        with pytest.raises(ValueError, match="0: the layer is a Parametrized.* since"):
            act()
    late = nn.Sequential(nn.Linear(6, 4)).double()
    attach(late, {"a": loud(late, ["0"])})
    late[0].forward = late[0].forward
    with pytest.raises(ValueError, match="0: the layer has a forward of its own since"):
        detach(late)


def test_a_layer_can_be_made_that_shares_the_weight_of_another():
    linear, x = nn.Linear(6, 4), torch.randn(3, 6)
    layer = LoRALinear(linear, "q")
    assert layer.weight is linear.weight and layer.bias is linear.bias
    assert torch.equal(layer(x), linear(x)) and type(linear) is nn.Linear
    A, B = torch.randn(2, 6), torch.randn(4, 2)
    layer.add("a", A, B, 0.5)
    layer.mode = Mix({"a": 2.0})
    torch.testing.assert_close(layer(x), linear(x) + x @ A.T @ B.T)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Bilinear(6, 6, 4), "torch.nn.modules.linear.Bilinear: only nn.Linear"),
        (lambda: nn.LazyLinear(4), "no values yet"),
        (lambda: nn.Linear(6, 4, device="meta"), "no values yet"),
        (lambda: nn.Linear(6, 4), "addresses the layer '1', which this model does not have"),
    ],
)
def test_layers_that_take_no_adapters_are_refused_and_the_others_are_as_before(make, message):
    net = nn.ModuleDict({"0": nn.Linear(6, 4)})
    path = "1" if "'1'" in message else "2"
    net["2"] = make()
    factors = (torch.randn(2, 6), torch.randn(4, 2))
    with pytest.raises(ValueError, match=message) as caught:
        attach(net, {"a": Adapter({"0": factors, path: factors}, 1.0)})
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert type(net["0"]) is nn.Linear and not lora_layers(net)
    if "values" in message:
        with pytest.raises(ValueError, match=message):
            init_adapter(net, ["*"], 2, 1.0, torch.Generator())


def test_a_model_that_is_one_layer_is_refused_by_name():
    for net in (nn.Linear(6, 4), torch.compile(nn.Linear(6, 4), backend="eager")):
        with pytest.raises(ValueError, match="it is a linear layer itself, put it into an nn.Seq"):
            matching(net, ["*"])
        with pytest.raises(ValueError, match="addresses the whole model as one layer"):
            attach(net, {"a": Adapter({"": (torch.randn(2, 6), torch.randn(4, 2))}, 1.0)})


# ---- weights that are read


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inside(x, x, x, need_weights=False)[0]


class Reading(nn.Module):
    """As a model does that has its own product, or a head whose weight it reads."""

    def __init__(self):
        super().__init__()
        self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.up(x.to(self.head.weight.dtype)).tanh()
        return x @ self.head.weight.T + self.head.bias


READERS = {
    "attention": (Attention, "inside.out_proj"),
    "an encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        "*linear*",
    ),
    "an encoder layer, all": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        "*",
    ),
    "a product": (Reading, "head"),
}


def merged(net, one, weight):
    """A copy of a plain model with the update added to its weights."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for path in one.paths:
            net.get_submodule(path).weight += weight * one.delta(path)
    return net


@pytest.mark.parametrize("case", READERS)
def test_adapters_act_where_the_weight_is_read_in_training_and_in_eval(case):
    make, pattern = READERS[case]
    torch.manual_seed(0)
    net, x = make().double(), torch.randn(2, 3, 8).double()
    one = loud(net, [pattern])
    plain, expected = copy.deepcopy(net), merged(net, one, 0.7)
    attach(net, {"a": one})
    (group,) = train_only(net, ["a"])
    for training in (True, False):
        for model in (net, plain, expected):
            model.train(training)
        with torch.no_grad():
            assert torch.equal(net(x), plain(x))  # eval: through the fast path, as before
            with using(net, Mix({"a": 0.7})):
                torch.testing.assert_close(net(x), expected(x))
            with folded(net, {"a": 0.7}):
                torch.testing.assert_close(net(x), expected(x))
        net.zero_grad()
        with using(net, Mix({"a": 0.7})):
            net(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in group)


def test_the_fast_path_of_an_encoder_is_left_for_gates_and_rows():
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(4, 3, 8).double()
    attach(net, {name: loud(net, ["linear1", "linear2"], seed) for seed, name in enumerate("ab")})
    routers = dict.fromkeys(("linear1", "linear2"), lambda h: h[:, :2].softmax(-1))
    for mode in (Rows(("a", "b")), Gated(("a", "b"), routers)):
        with torch.no_grad(), using(net, mode):
            torch.testing.assert_close(net.eval()(x), net.train()(x))


def test_a_weight_that_is_read_is_refused_to_gates_and_rows():
    net, x = Reading(), torch.randn(4, 8)
    attach(net, {name: loud(net, ["head"], seed) for seed, name in enumerate("ab")})
    for mode in (Rows(("a", "b")), Gated(("a", "b"), {"head": lambda h: h[:, :2]})):
        with (
            using(net, mode),
            pytest.raises(ValueError, match=r"head: .* act there as a Mix, not as") as caught,
        ):
            net(x)
        assert "\n" not in str(caught.value)
    packed = nn.Sequential(Packed(6, 4))
    attach(packed, {"a": loud(packed, ["0"])})
    with using(packed, Mix({"a": 1.0})), pytest.raises(ValueError, match="0: .* no update can be"):
        packed[0].weight.sum()


def test_a_weight_that_acts_tells_about_itself_and_is_not_written_to():
    net = nn.Sequential(nn.Linear(6, 4))
    weight, one = net[0].weight, loud(net, ["0"])
    attach(net, {"a": one})
    assert net[0].weight is weight
    before = weight.detach().clone()
    with using(net, Mix({"a": 1.0})), torch.no_grad():
        read = net[0].weight
        about = (read.shape, read.dtype, read.device, read.ndim, len(read), read.numel())
        assert about == ((4, 6), torch.float32, torch.device("cpu"), 2, 4, 24)
        torch.testing.assert_close(read.detach(), before + one.delta("0").float())
        for write in (
            lambda: read.mul_(2),
            lambda: nn.init.zeros_(net[0].weight),
            lambda: read.data.mul_(2),
            lambda: read.__setitem__(0, 1.0),
        ):
            with pytest.raises(ValueError, match="cannot be written to while adapters act"):
                write()
    assert torch.equal(weight, before)


def test_an_encoder_that_nests_its_input_is_refused_in_one_line():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False] * 3, [False, True, True]])
    attach(net, {"a": loud(net, ["layers.1.linear*"])})
    with (
        torch.no_grad(),
        using(net, Mix({"a": 1.0})),
        pytest.raises(ValueError, match="enable_nested_tensor=False"),
    ):
        net(x, src_key_padding_mask=padding)

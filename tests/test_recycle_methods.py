"""Every method by name, on experts small enough to check by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from lora import Adapter, attach, using
from recycle.reuse.method import FAMILIES
from recycle.reuse.methods import BY_NAME, METHODS, ORACLE, SWEEP
from tasks import TwoHop, TwoHopConfig


def experts():
    g = torch.Generator().manual_seed(0)
    several = {}
    for name in ("hop1", "hop2"):
        A, B = torch.randn(2, 6, generator=g), torch.randn(5, 2, generator=g)
        several[name] = Adapter({"0": (A, B)}, 4.0, origin={"reads": name})
    return several


TASK = TwoHop(TwoHopConfig(people=40, cities=10, triples=6, set_cities=3), 0)


def output(method, x, several=None, seed=0, form="direct", stage=0):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 5))
    base = net(x)
    generator = torch.Generator().manual_seed(seed)
    prepared = BY_NAME[method].apply(several or experts(), generator, TASK)
    attach(net, prepared.adapters)
    with using(net, prepared.stages(form)[stage].mode):
        return net(x) - base


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
DELTAS = [X @ e.delta("0").mT for e in experts().values()]


@pytest.mark.parametrize(
    "method, weight",
    [
        ("alone", 1),
        ("plain_sum", 1),
        ("mean_of_products", 0.5),
        ("at_half", 0.5),
        *((method.name, method.weight) for method in SWEEP),
    ],
)
def test_sums_at_their_weights(method, weight):
    torch.testing.assert_close(output(method, X), weight * sum(DELTAS))


@pytest.mark.parametrize("method", ["arrow_top1", "shuffled_prototypes", "random_router"])
def test_a_choice_of_one_is_one_experts_output(method):
    for i, row in enumerate(output(method, X)):
        assert any(torch.allclose(row, delta[i], atol=1e-5) for delta in DELTAS)


def test_shuffled_prototypes_choose_the_other_expert():
    right, wrong = output("arrow_top1", X), output("shuffled_prototypes", X)
    torch.testing.assert_close(right + wrong, sum(DELTAS))


def test_random_controls_depend_on_the_seed_and_nothing_else():
    for method in ("random_router", "random_adapters"):
        assert torch.equal(output(method, X, seed=3), output(method, X, seed=3))
        assert not torch.equal(output(method, X, seed=3), output(method, X, seed=4))


def test_random_adapters_have_the_experts_size():
    several, generator = experts(), torch.Generator().manual_seed(5)
    prepared = BY_NAME["random_adapters"].apply(several, generator, TASK)
    (merged,) = prepared.adapters.values()
    noise_A, noise_B = merged.factors["0"]
    for i, (A, B) in enumerate(expert.factors["0"] for expert in several.values()):
        part = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(noise_A[part].norm(), A.norm())
        # A merged B holds the scaling too, alpha / r = 2.
        torch.testing.assert_close(noise_B[:, part].norm(), 2 * B.norm())
    assert not torch.allclose(merged.delta("0"), sum(e.delta("0") for e in several.values()))


def test_low_temperature_is_the_choice_and_high_is_the_mean():
    even = output("arrow_temperature_10", X)
    torch.testing.assert_close(even, sum(DELTAS) / 2, atol=1.0, rtol=0.5)
    sharp, choice = output("arrow_temperature_0.1", X), output("arrow_top1", X)
    assert (sharp - choice).norm() < (output("arrow", X) - choice).norm()


def test_the_oracle_uses_the_expert_that_knows_the_hop():
    torch.testing.assert_close(output("oracle", X, form="hop1"), DELTAS[0])
    torch.testing.assert_close(output("oracle", X, form="hop2"), DELTAS[1])
    torch.testing.assert_close(output("oracle", X, form="cot", stage=0), DELTAS[0])
    torch.testing.assert_close(output("oracle", X, form="cot", stage=1), DELTAS[0])
    torch.testing.assert_close(output("oracle", X, form="cot", stage=2), DELTAS[1])
    one, two = experts().values()
    crowd = {**experts(), "others": dataclasses.replace(two, origin={"reads": "hop1"})}
    torch.testing.assert_close(output("oracle", X, crowd, form="hop1"), X @ one.delta("0").mT)
    prepared = ORACLE.apply(experts(), torch.Generator(), TASK)
    assert [stage.until for stage in prepared.stages("cot")] == [".", "is", None]


def test_the_oracle_answers_directly_with_hop_1_below_and_hop_2_above():
    """Four blocks of one layer each: the lower two are the first expert's."""
    g = torch.Generator().manual_seed(3)
    paths = [f"layers.{i}.down" for i in range(4)]
    several = {}
    for name in ("hop2", "hop1"):  # the order of a library's experts does not matter
        factors = {}
        for path in paths:
            factors[path] = torch.randn(2, 3, generator=g), torch.randn(3, 2, generator=g)
        several[name] = Adapter(factors, 2.0, origin={"reads": name})
    (stage,) = ORACLE.apply(several, torch.Generator(), TASK).stages("direct")
    for path, expected in zip(paths, ([0, 1], [0, 1], [1, 0], [1, 0]), strict=True):
        assert stage.mode.routers[path](torch.zeros(5, 3)).tolist() == [expected] * 5


def test_every_method_says_what_it_is():
    assert len(BY_NAME) == len(METHODS)
    for method in METHODS:
        assert method.formula and method.source and method.family in FAMILIES

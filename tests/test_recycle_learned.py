"""Methods that learn from examples or from an expert's own texts: what they calculate, and that
nothing but their own numbers changes."""

import copy
import dataclasses
import math
from functools import partial

import pytest
import torch

from lora import Adapter, Gated, Mix, attach, detach, extract, init_adapter, train_only, using
from models import Tokenizer, Transformer, TransformerConfig
from recycle.measure.cell import measure
from recycle.measure.mechanism import routing
from recycle.plan import BaseSpec, Cell, Expert, Library
from recycle.reuse import taught
from recycle.reuse.gates import GateRouter, SigmoidGate, learn_gate, phatgoose, xlora_like
from recycle.reuse.learned import LEARNED_MERGES, cat, lorahub, weighted_by_layer
from recycle.reuse.learning import Lesson, attached, descend, evolve, noise_like
from recycle.reuse.merge import mean_of_products
from recycle.reuse.method import Given
from recycle.reuse.methods import BY_NAME, CLAIMED
from recycle.reuse.taught import COUNTS, TAUGHT
from recycle.studies.two_hop import TWO_HOP
from recycle.train.base import Base
from tasks import Text, TwoHop, TwoHopConfig

WORLD = TwoHop(TwoHopConfig(people=40, cities=10, triples=12, set_cities=6), 0)
TOKENIZER = Tokenizer.from_texts(WORLD.words())
LAYERS = ("q_proj", "down_proj")
RANDOM_POOLS = {merge.name: merge for merge in LEARNED_MERGES[2:]}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=64, init=0.2
    )
    return Transformer(config, len(TOKENIZER), generator()).eval()


@pytest.fixture
def few_steps(monkeypatch):
    """The table's gates after three steps, which is enough where it does not matter what is
    learned."""
    monkeypatch.setattr(taught, "phatgoose", partial(phatgoose, steps=3))
    monkeypatch.setattr(taught, "xlora_like", partial(xlora_like, steps=3))


@pytest.fixture(scope="module")
def given(model):
    return Given(model, TOKENIZER, WORLD.examples("F", 5).examples)


@pytest.fixture(scope="module")
def lesson(given):
    return Lesson.from_examples(given.examples, given)


def expert(model, seed, rank=2, alpha=4.0, paths=LAYERS, size=0.3, **origin):
    fresh = init_adapter(model, list(paths), rank, alpha, generator(seed))
    g = generator(100 + seed)
    factors = {
        path: (A, size * torch.randn(B.shape, generator=g))
        for path, (A, B) in fresh.factors.items()
    }
    return Adapter(factors, alpha, origin={"reads": "hop1", "group": "F", **origin})


def experts(model, count=2):
    reads = ("hop1", "hop2")
    return {f"e{i}": expert(model, i, reads=reads[i % 2]) for i in range(count)}


@pytest.fixture(scope="module")
def right(model, lesson):
    """An expert that was trained on the very examples."""
    fresh = init_adapter(model, list(LAYERS), 2, 4.0, generator(7))
    with attached(model, {"right": fresh}), using(model, Mix({"right": 1.0})):
        (parameters,) = train_only(model, ["right"])
        descend(parameters, lesson.loss, 40, 0.05)
        return extract(model, "right", fresh)


def loss_under(lesson, adapter):
    with attached(lesson.model, {"one": adapter}), using(lesson.model, Mix({"one": 1.0})):
        return float(lesson.loss().detach())


def moved(model):
    """A model's weights by name, to be compared."""
    return {name: weight.clone() for name, weight in model.state_dict().items()}


# What is learned from -----------------------------------------------------------------------------


def test_a_lesson_is_the_mean_loss_of_the_answers(model, given, lesson):
    total, count = 0.0, 0
    for question in given.examples:
        prompt = [1, *TOKENIZER.encode(question.prompt)]
        answer = [*TOKENIZER.encode(question.completion), 1]
        ids = torch.tensor([prompt + answer])
        logp = model(ids)[0].log_softmax(-1).detach()
        at = range(len(prompt) - 1, ids.shape[1] - 1)
        total -= sum(float(logp[i, ids[0, i + 1]]) for i in at)
        count += len(answer)
    assert float(lesson.loss().detach()) == pytest.approx(total / count, rel=1e-5)
    halves = [float(lesson.loss(torch.tensor(rows)).detach()) for rows in ([0, 1], [3])]
    assert halves[0] != halves[1]


def test_a_text_that_breaks_off_does_not_teach_its_end(given):
    whole, broken = (Lesson.of([Text("ada", "max", ends)], given) for ends in (True, False))
    assert whole.learned.sum() == 2 and broken.learned.sum() == 1


def test_the_search_finds_a_minimum_within_its_bounds():
    target = torch.tensor([0.9, -0.4, 0.0]).double()
    tried = []

    def value(x):
        tried.append(x.clone())
        return float((x - target).square().sum())

    zero, starts = torch.zeros(1, 3), torch.tensor([[0.0, 0, 0], [9, 0, 0]])
    best = evolve(value, starts, generator(), 200, 1.5)
    torch.testing.assert_close(best, target, atol=0.05, rtol=0)
    assert len(tried) == 200 and tried[1].tolist() == [1.5, 0, 0]
    assert max(x.abs().max() for x in tried) <= 1.5
    assert torch.equal(best, evolve(value, starts, generator(), 200, 1.5))
    far = evolve(lambda x: float((x - 9).square().sum()), zero, generator(), 150, 1.5)
    torch.testing.assert_close(far, torch.full((3,), 1.5).double())
    assert not evolve(lambda x: math.nan if x.any() else 1.0, zero, generator(), 20, 1.5).any()
    assert evolve(value, torch.eye(3), generator(), 1, 1.5).tolist() == [1, 0, 0]


# Merges -------------------------------------------------------------------------------------------


def test_lorahub_finds_the_planted_expert_and_repeats_itself(lesson, right):
    several = [noise_like(right, generator(i)) for i in range(5)]
    several.insert(1, right)
    merged = lorahub(several, generator(0), lesson)
    weights = merged.origin["weights"]
    others = [abs(w) for i, w in enumerate(weights) if i != 1]
    assert weights[1] > 0.5 and max(others) < 0.3
    assert max(map(abs, weights)) <= 1.5 and sum(weights) >= 0
    assert loss_under(lesson, merged) < loss_under(lesson, right) + 0.01
    assert lorahub(several, generator(0), lesson) == merged
    assert lorahub(several, generator(1), lesson) != merged
    assert merged.origin["examples"][0] == list(lesson.texts[0])


def test_lorahub_multiplies_sums_of_factors(model, lesson, right):
    several = [right, expert(model, 2, alpha=10.0, size=0.1)]
    merged = lorahub(several, generator(3), lesson, evaluations=60, penalty=0.0)
    w = merged.origin["weights"]
    assert all(w) and loss_under(lesson, merged) < loss_under(lesson, right)
    for path in merged.paths:
        A = sum(x * one.factors[path][0] for x, one in zip(w, several, strict=True))
        B = sum(
            x * one.scale(path) * one.factors[path][1] for x, one in zip(w, several, strict=True)
        )
        torch.testing.assert_close(merged.delta(path), B @ A, atol=1e-5, rtol=1e-4)


def test_cat_is_one_weight_for_each_layer_and_expert(model, lesson):
    several = list(experts(model, 3).values())
    merged = cat(several, lesson=lesson)
    weights = merged.origin["weights"]
    assert {path: len(own) for path, own in weights.items()} == dict.fromkeys(merged.paths, 3)
    assert len({tuple(own) for own in weights.values()}) == len(weights)
    for path in merged.paths:
        dense = sum(w * one.delta(path) for w, one in zip(weights[path], several, strict=True))
        torch.testing.assert_close(merged.delta(path), dense, atol=1e-5, rtol=1e-4)
    mean = loss_under(lesson, mean_of_products(several))
    assert merged.origin["losses"][0] == pytest.approx(mean, rel=1e-4)
    assert loss_under(lesson, merged) < 0.98 * mean
    assert loss_under(lesson, merged) <= merged.origin["losses"][1] * 1.01


def test_cat_descends_along_the_gradient_of_its_weights(model, lesson):
    """The first step of Adam moves each weight by the rate against the sign of its derivative,
    which merges of other weights tell."""
    several = list(experts(model).values())
    after = cat(several, lesson=lesson, steps=1, rate=0.01).origin["weights"]
    checked = 0
    for path in after:
        for i in range(2):
            losses = []
            for step in (0.02, -0.02):
                own = {p: [0.5, 0.5] for p in after}
                own[path][i] += step
                losses.append(loss_under(lesson, weighted_by_layer(several, own)))
            if abs(losses[0] - losses[1]) > 1e-5:
                sign = 1 if losses[0] > losses[1] else -1
                assert after[path][i] == pytest.approx(0.5 - sign * 0.01, abs=1e-4)
                checked += 1
    assert checked >= 2


def test_weights_count_on_top_of_every_scaling(model):
    plain = expert(model, 1)
    path, other = plain.paths[:2]
    several = [
        dataclasses.replace(plain, alphas={path: 9.0}),
        dataclasses.replace(expert(model, 2, rank=3), rslora=True),
        expert(model, 3, paths=("down_proj",)),
    ]
    weights = {p: [0.5, -2.0, 3.0] for one in several for p in one.paths}
    merged = weighted_by_layer(several, weights)
    for p in (path, other, several[2].paths[0]):
        dense = sum(
            w * one.delta(p) for w, one in zip(weights[p], several, strict=True) if p in one.paths
        )
        torch.testing.assert_close(merged.delta(p), dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("learner", LEARNED_MERGES, ids=lambda merge: merge.name)
def test_learned_merges_take_one_adapter_and_sixteen(model, lesson, learner, count):
    several = list(experts(model, count).values())
    options = {"evaluations": 4} if "lorahub" in learner.name else {"steps": 2}
    drawn = generator() if learner.random else None
    merged = learner(several, drawn, lesson, **options)
    assert set(merged.paths) == set(several[0].paths) and merged.origin["merge"] == learner.name
    assert all(bool(factor.isfinite().all()) for pair in merged.factors.values() for factor in pair)


def test_an_adapter_that_is_zero_or_lacks_layers_takes_its_part(model, lesson):
    one = expert(model, 1)
    zero = dataclasses.replace(one, factors={p: (A, 0 * B) for p, (A, B) in one.factors.items()})
    part = expert(model, 2, paths=("down_proj",))
    for several in ([zero, one], [part, one], [zero, zero]):
        for merged in (
            lorahub(several, generator(), lesson, evaluations=10),
            cat(several, lesson=lesson, steps=3),
        ):
            assert set(merged.paths) == set(one.paths)
    merged = cat([part, one], lesson=lesson, steps=3)
    path = next(p for p in one.paths if p not in part.paths)
    torch.testing.assert_close(
        merged.delta(path), merged.origin["weights"][path][1] * one.delta(path)
    )
    nothing = cat([zero, zero], lesson=lesson, steps=1)
    assert all(nothing.norm(path) == 0 for path in nothing.paths)


# Gates --------------------------------------------------------------------------------------------

X = torch.randn(12, 9, generator=generator(5)).double()
V = torch.randn(3, 9, generator=generator(6)).double()


def test_gates_are_a_softmax_over_the_top_scores():
    x = (X - X.mean(1, keepdim=True)) / (X.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    scores = x @ V.mT / 3  # the root of 9
    present = torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(GateRouter(V, present)(X), scores.softmax(1))
    gates = GateRouter(V, present, temperature=0.5, top_k=2)(X)
    for row, own in zip(gates, scores, strict=True):
        kept = own.topk(2).indices
        expected = torch.zeros(3).double()
        expected[kept] = (own[kept] / 0.5).softmax(0)
        torch.testing.assert_close(row, expected)
    lone = GateRouter(V, torch.tensor([True, False, True]), top_k=2)(X)
    assert torch.equal(lone, torch.tensor([0.0, 1.0, 0.0]).double().expand(12, 3))
    with pytest.raises(ValueError, match="top_k = 4: the library has 3 adapters"):
        GateRouter(V, present, top_k=4)


def test_a_gate_in_training_scales_the_update_of_its_expert(model, lesson):
    """Against hooks that add sigmoid(x . v) s B A x to what each layer gives."""
    own = expert(model, 1)
    g = generator(2)
    gates = {p: torch.randn(A.shape[1], generator=g) for p, (A, _) in own.factors.items()}
    tokens = lesson.tokens[:, :-1]
    bare = copy.deepcopy(model)

    def hook(path):
        def add(layer, inputs, output):
            A, B = own.factors[path]
            gate = torch.sigmoid(inputs[0] @ gates[path])[..., None]
            return output + gate * own.scale(path) * (inputs[0] @ A.mT) @ B.mT

        return add

    for path in own.paths:
        bare.get_submodule(path).register_forward_hook(hook(path))
    mode = Gated(("e",), {path: SigmoidGate(v) for path, v in gates.items()})
    with attached(model, {"e": own}), using(model, mode):
        ours = model(tokens)
    torch.testing.assert_close(ours, bare(tokens), atol=1e-4, rtol=1e-4)


def test_a_gate_is_learned_alone(model, given):
    texts = Lesson.of(WORLD.expert_texts("hop1", "F"), given)
    own = expert(model, 1)
    kept, weights = copy.deepcopy(own), moved(model)
    gates = learn_gate(own, texts, generator(), steps=10)
    assert own == kept and all(torch.equal(w, weights[n]) for n, w in model.state_dict().items())
    assert {p: tuple(v.shape) for p, v in gates.items()} == {
        p: (A.shape[1],) for p, (A, _) in own.factors.items()
    }
    assert all(v.any() and not v.requires_grad for v in gates.values())
    again = learn_gate(own, texts, generator(), steps=10)
    assert all(torch.equal(v, again[p]) for p, v in gates.items())
    zero = dataclasses.replace(own, factors={p: (A, 0 * B) for p, (A, B) in own.factors.items()})
    assert not any(v.any() for v in learn_gate(zero, texts, generator(), steps=3).values())


def test_a_learned_gate_opens_for_tokens_that_need_its_expert(model, given, right, lesson):
    """The expert of the examples, gated and trained on them: its gates lower the loss that half an
    update has."""
    start = {"right": right}
    v = {p: torch.zeros(A.shape[1]) for p, (A, _) in right.factors.items()}
    losses = []
    for gates in (v, learn_gate(right, lesson, generator(), steps=60)):
        mode = Gated(("right",), {p: SigmoidGate(g) for p, g in gates.items()})
        with attached(model, start), using(model, mode):
            losses.append(float(lesson.loss().detach()))
    assert losses[1] < losses[0]


def test_phatgoose_scores_by_standardised_gates(model, given):
    several = experts(model, 3)
    several["e2"] = expert(model, 2, paths=("down_proj",))
    lessons = {
        name: Lesson.of(WORLD.expert_texts(one.origin["reads"], "F"), given)
        for name, one in several.items()
    }
    routers = phatgoose(several, lessons, generator(3), steps=4)
    g = generator(3)
    learned = [learn_gate(one, lessons[name], g, 4) for name, one in several.items()]
    assert set(routers) == set(several["e0"].paths)
    for path, router in routers.items():
        assert router.top_k == 2
        assert router.absent.tolist() == [path not in gates for gates in learned]
        for gates, vector in zip(learned, router.vectors, strict=True):
            if path in gates:
                v = gates[path]
                root = (v.var(unbiased=False) + 1e-5).sqrt()
                torch.testing.assert_close(vector, (v - v.mean()) / root)
    with pytest.raises(ValueError, match="top_k = 4: the library has 3 adapters"):
        phatgoose(several, lessons, generator(), top_k=4)
    lone = phatgoose({"e0": several["e0"]}, lessons, generator(), steps=1)
    path = next(iter(lone))
    width = lone[path].vectors.shape[1]
    assert bool((lone[path](torch.randn(4, width)) == 1).all())


def test_xlora_like_begins_alike_and_lowers_the_loss(model, given, lesson):
    several = experts(model, 3)
    kept, weights = copy.deepcopy(several), moved(model)
    with attached(model, {"mean": mean_of_products(list(several.values()))}):
        with using(model, Mix({"mean": 1.0})):
            mean = float(lesson.loss().detach())
    losses = {}
    for steps in (1, 60):
        routers = xlora_like(several, lesson, steps=steps)
        with attached(model, several), using(model, Gated(tuple(several), routers)):
            losses[steps] = float(lesson.loss().detach())
    assert losses[60] < losses[1] < mean + 1e-3 and losses[60] < 0.985 * mean
    assert several == kept
    assert all(torch.equal(w, weights[n]) for n, w in model.state_dict().items())
    sharp = xlora_like(several, lesson, top_k=1, steps=1)
    path = next(iter(sharp))
    gates = sharp[path](torch.randn(5, sharp[path].vectors.shape[1]))
    assert bool(((gates == 0) | (gates == 1)).all())
    with pytest.raises(ValueError, match="top_k = 4"):
        xlora_like(several, lesson, top_k=4)


def test_learned_gates_are_seen_by_token_and_layer(model, given, few_steps):
    several = experts(model)
    prompts = torch.randint(2, len(TOKENIZER), (4, 6), generator=generator(1))
    for name in ("phatgoose", "xlora_like_5", "random_pool_phatgoose"):
        method = BY_NAME[name]
        prepared = method.prepare(several, generator(), WORLD, given)
        (stage,) = prepared.stages("direct")
        with attached(model, prepared.adapters), using(model, stage.mode):
            seen = routing(model, prompts, stage.mode.routers)
        assert set(seen) == set(several["e0"].paths)
        for means in seen.values():
            torch.testing.assert_close(torch.tensor(means["gates"]).sum(1), torch.ones(6))


# Random pools -------------------------------------------------------------------------------------


def test_noise_has_the_experts_norms_and_nothing_else(model):
    one = dataclasses.replace(expert(model, 1, rank=3), rslora=True, alphas={})
    path = one.paths[0]
    A, B = one.factors[path]
    one = dataclasses.replace(one, factors={**one.factors, path: (A, 0 * B)})
    noise = noise_like(one, generator(1))
    for p in one.paths:
        assert noise.norm(p) == pytest.approx(one.norm(p), rel=1e-4)
        assert noise.rank(p) == one.rank(p) and noise.scale(p) == one.scale(p)
    dense, own = noise.delta(one.paths[1]), one.delta(one.paths[1])
    cosine = float((dense * own).sum() / (dense.norm() * own.norm()))
    assert noise.norm(path) == 0 and abs(cosine) < 0.5
    assert noise == noise_like(one, generator(1)) != noise_like(one, generator(2))


def test_a_random_pool_learns_on_noise_of_the_experts_norms(model, given, lesson, few_steps):
    several = experts(model)
    g = generator(4)
    noise = [noise_like(one, g) for one in several.values()]
    weights = RANDOM_POOLS["random_pool_cat"](
        list(several.values()), generator(4), lesson, steps=2
    ).origin["weights"]
    expected = cat(noise, lesson=lesson, steps=2).origin["weights"]
    assert weights == expected
    for name in ("random_pool_phatgoose", "random_pool_xlora_like_5"):
        prepared = BY_NAME[name].prepare(several, generator(), WORLD, given)
        for label, one in several.items():
            made = prepared.adapters[label]
            assert made != one
            for path in one.paths:
                assert made.norm(path) == pytest.approx(one.norm(path), rel=1e-4)


# The table ----------------------------------------------------------------------------------------


def test_every_learner_stands_beside_its_random_pool():
    names = {method.name for method in TAUGHT}
    assert {*TAUGHT} <= {*CLAIMED} and len(names) == len(TAUGHT) == 20
    for learner in ("lorahub", "cat", "xlora_like"):
        for count in COUNTS:
            assert {f"{learner}_{count}", f"random_pool_{learner}_{count}"} <= names
            assert BY_NAME[f"{learner}_{count}"].needed == f"{count} examples"
    assert BY_NAME["phatgoose"].needed == "texts"
    for name in names:
        method = BY_NAME[name]
        assert (method.family == "control") == name.startswith("random_pool_")


def cell(name):
    library = Library("pair", "F", (Expert("hop1", "F"), Expert("hop2", "F")), (BY_NAME[name],))
    return Cell(0, library, BY_NAME[name])


@pytest.mark.parametrize("name", ["lorahub_5", "xlora_like_5", "phatgoose"])
def test_a_cell_asks_about_nobody_whom_an_example_names(model, name, few_steps):
    base = Base(BaseSpec("standard"), 0, TWO_HOP.default, None, WORLD, model, TOKENIZER)
    slugs = dict(zip(("hop1-F", "hop2-F"), experts(model).values(), strict=True))
    measured = measure(cell(name), base, slugs)
    left = 12 - BY_NAME[name].examples
    assert [row.n for row in measured.rows] == [left] * 4
    assert all(len(row.items) == left for row in measured.rows)
    assert measure(cell(name), base, slugs).rows == measured.rows  # a cell repeats itself
    shown = {answer.question.prompt for said in measured.examples.values() for answer in said}
    learned = {q.prompt for q in WORLD.examples("F", 5).examples}
    assert name == "phatgoose" or not shown & learned


# Bad input ----------------------------------------------------------------------------------------


def test_what_a_learner_lacks_is_said_in_a_line(model, given, lesson):
    several = experts(model)
    adapters = list(several.values())
    none = Given(model, TOKENIZER)

    def prepare(name, with_what):
        return BY_NAME[name].prepare(several, generator(), WORLD, with_what)

    nameless = {"e0": Adapter(adapters[0].factors, 4.0)}
    unequal = [adapters[0], expert(model, 5, rank=3)]
    many = Given(model, TOKENIZER, list(given.examples) * 21)
    odd = Given(model, TOKENIZER, [dataclasses.replace(given.examples[0], prompt="zzz")])
    broken = dataclasses.replace(
        adapters[0], factors={p: (A * math.nan, B) for p, (A, B) in adapters[0].factors.items()}
    )
    for attempt, words in (
        (lambda: prepare("lorahub_5", None), "lorahub_5 needs examples"),
        (lambda: prepare("cat_5", none), "give it at least one question"),
        (lambda: prepare("cat_20", given), "learns from 20 examples, and 5 are given"),
        (lambda: prepare("phatgoose", None), "phatgoose needs texts"),
        (lambda: lorahub(adapters, generator()), "lorahub learns from examples"),
        (lambda: lorahub(adapters, None, lesson), "lorahub is random: give it a generator"),
        (lambda: lorahub(unequal, generator(), lesson), r"ranks \[2, 3\], which must be equal"),
        (lambda: cat([broken], lesson=lesson), "holds NaN or infinity"),
        (lambda: cat([], lesson=lesson), "at least one adapter"),
        (lambda: cat(adapters, lesson=lesson, steps=0), "steps = 0"),
        (lambda: cat(adapters, lesson=lesson, rate=math.inf), "rate = inf"),
        (lambda: cat(adapters, lesson=lesson, bound=1.0), "cat has no option 'bound'"),
        (lambda: lorahub(adapters, generator(), lesson, evaluations=0), "evaluations = 0"),
        (lambda: lorahub(adapters, generator(), lesson, bound=-1.0), "bound = -1.0"),
        (lambda: lorahub(adapters, generator(), lesson, penalty=math.nan), "penalty = nan"),
        (lambda: Lesson.from_examples([], given), "examples = 0: choose from 1 to 100"),
        (lambda: Lesson.from_examples(many.examples[:101], given), "examples = 101"),
        (lambda: Lesson.from_examples(odd.examples, given), "zzz"),
        (lambda: Lesson.of([], given), "nothing to learn from"),
        (lambda: phatgoose({}, {}, generator()), "at least one adapter"),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()
    with pytest.raises(ValueError, match="the record of e0 names no curriculum"):
        BY_NAME["phatgoose"].prepare(nameless, generator(), WORLD, given)
    attach(model, {})  # nothing was left on the model
    assert not any("lora" in name for name, _ in model.named_parameters())
    detach(model)

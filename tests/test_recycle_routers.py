"""Routers beside Arrow, clusters of adapters, and one decision for a whole question."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import Adapter, Gated, attach, init_adapter, using
from models import Tokenizer, Transformer, TransformerConfig
from recycle.measure.ask import compare
from recycle.measure.cell import measure
from recycle.measure.mechanism import routing
from recycle.plan import BaseSpec, Cell, Expert, Library
from recycle.reuse.cluster import clusters, cosines, merged_clusters
from recycle.reuse.controls import whole_input
from recycle.reuse.method import Given, Prepared, Stage
from recycle.reuse.methods import BY_NAME, CLAIMED, EVERY, MAIN, METHODS, ORACLE
from recycle.reuse.routers import ByChance, Constant, spectr
from recycle.reuse.taught import TAUGHT
from recycle.studies import DESIGNS
from recycle.studies.two_hop import TWO_HOP
from recycle.train.base import Base
from tasks import TwoHop, TwoHopConfig

WORLD = TwoHop(TwoHopConfig(people=40, cities=10, triples=6, set_cities=3), 0)
TOKENIZER = Tokenizer.from_texts(WORLD.words())


def adapter(seed, rank=3, alpha=5.0, path="q", d_in=9, d_out=6):
    g = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, d_in, generator=g), torch.randn(d_out, rank, generator=g)
    return Adapter({path: (A.double(), B.double())}, alpha, origin={"seed": seed})


def small():
    config = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=64)
    return Transformer(config, len(TOKENIZER), torch.Generator().manual_seed(0)).eval()


def experts(model):
    made = {}
    for seed, reads in enumerate(("hop1", "hop2")):
        g = torch.Generator().manual_seed(seed)
        fresh = init_adapter(model, ["*_proj"], 2, 4.0, g)
        factors = {
            path: (A, 0.3 * torch.randn(B.shape, generator=g))
            for path, (A, B) in fresh.factors.items()
        }
        made[f"{reads}-F"] = Adapter(factors, 4.0, origin={"reads": reads, "group": "F"})
    return made


X = torch.randn(12, 9, generator=torch.Generator().manual_seed(0)).double()


# Scores -------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 16))
def test_spectr_scores_by_the_length_of_the_update(seed, count):
    g = torch.Generator().manual_seed(seed)
    ranks = torch.randint(1, 6, (count,), generator=g).tolist()
    several = [adapter(seed + i, rank, 2.0 + i) for i, rank in enumerate(ranks)]
    router = spectr(several, temperature=2.0)["q"]
    lengths = torch.stack([(X @ one.delta("q").mT).norm(dim=1) for one in several], 1)
    torch.testing.assert_close(router.scores(X), lengths)
    torch.testing.assert_close(router(X), (lengths / 2).softmax(1))
    hard = spectr(several, top_k=1)["q"](X)
    assert torch.equal(hard, torch.nn.functional.one_hot(lengths.argmax(1), count).double())


def test_an_adapter_that_is_zero_or_lacks_the_layer_is_not_chosen():
    one, fresh = adapter(1), adapter(2)
    A, B = fresh.factors["q"]
    zero, elsewhere = Adapter({"q": (A, 0 * B)}, 4.0), adapter(3, path="up")
    routers = spectr([zero, one, elsewhere], top_k=1)
    assert bool((routers["q"](X)[:, 1] == 1).all()) and bool((routers["up"](X)[:, 2] == 1).all())
    assert spectr([zero, one, elsewhere])["q"](X)[:, 2].sum() == 0
    alone = spectr([zero])["q"](X)
    assert bool((alone == 1).all())


def test_impossible_routers_are_explained():
    for kwargs, message in (
        ({"top_k": 3}, "top_k = 3: the library has 2 adapters, choose from 1 to 2"),
        ({"temperature": -1.0}, "temperature = -1.0: must be finite and above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            spectr([adapter(1), adapter(2)], **kwargs)
    with pytest.raises(ValueError, match="at least one"):
        spectr([])
    with pytest.raises(ValueError, match="holds NaN"):
        spectr([adapter(1), Adapter({"q": (X[:3] * torch.nan, X[:6, :3])}, 1.0)])


# One way of being looked at ----------------------------------------------------------------------


def every_kind_of_routers(several, paths):
    yield spectr(list(several.values()))
    yield {path: Constant(torch.tensor([0.25, 0.75])) for path in paths}
    g = torch.Generator().manual_seed(0)
    yield {path: ByChance(2, g) for path in paths}
    yield whole_input(several)["hop2-F"].routers
    yield ORACLE.apply(several, g, WORLD).stages("direct")[0].mode.routers
    yield BY_NAME["random_router"].apply(several, g, WORLD).stages("direct")[0].mode.routers


def test_gates_are_seen_by_token_and_layer_whatever_the_router():
    model = small()
    several = experts(model)
    attach(model, several)
    prompts = torch.randint(2, len(TOKENIZER), (4, 6), generator=torch.Generator().manual_seed(1))
    paths = next(iter(several.values())).paths
    for routers in every_kind_of_routers(several, paths):
        with using(model, Gated(tuple(several), routers)):
            seen = routing(model, prompts, routers)
        assert set(seen) == set(paths)
        for means in seen.values():
            torch.testing.assert_close(torch.tensor(means["gates"]).sum(1), torch.ones(6))


def test_padding_does_not_count_among_the_gates():
    """Prompts of two lengths, padded on the left: their real tokens have the gates that they have
    without padding."""
    model = small()
    several = experts(model)
    attach(model, several)
    g = torch.Generator().manual_seed(1)
    long, short = (torch.randint(2, len(TOKENIZER), (1, n), generator=g) for n in (6, 4))
    padded = torch.cat([long, torch.cat([torch.full((1, 2), TOKENIZER.pad), short], 1)])
    real = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    routers = spectr(list(several.values()))
    with using(model, Gated(tuple(several), routers)):
        together = routing(model, padded, routers, real)
        each = [routing(model, prompt, routers) for prompt in (long, short)]
        with pytest.raises(ValueError, match="padding in every row"):
            routing(model, padded, routers, real & (torch.arange(6) > 0))
    for path, means in together.items():
        for key, values in means.items():
            alone, other = (torch.tensor(one[path][key]) for one in each)
            expected = torch.cat([alone[:2], (alone[2:] + other) / 2])
            torch.testing.assert_close(torch.tensor(values), expected, atol=1e-5, rtol=1e-5)


# Clusters -----------------------------------------------------------------------------------------


def family(count, kinds):
    """Adapters of so many kinds: those of one kind differ by little noise and in their factors."""
    several = []
    for i in range(count):
        noisy = adapter(i % kinds) + 0.1 * adapter(100 + i)
        Q = torch.randn(6, 6, generator=torch.Generator().manual_seed(i)).double()
        A, B = noisy.factors["q"]
        several.append(Adapter({"q": (Q @ A, B @ torch.linalg.inv(Q))}, 6.0))
    return several


@pytest.mark.parametrize("count, kinds", [(8, 3), (16, 4), (4, 4), (5, 1)])
def test_adapters_of_one_kind_make_a_cluster(count, kinds):
    several = family(count, kinds)
    found = clusters(several, kinds)
    assert sorted(found) == [list(range(kind, count, kinds)) for kind in range(kinds)]
    made = merged_clusters(several, kinds)
    assert len(made) == kinds
    for own, merged in zip(found, made, strict=True):
        mean = sum(several[i].delta("q") for i in own) / len(own)
        torch.testing.assert_close(merged.delta("q"), mean)


def test_cosines_are_those_of_the_written_out_updates():
    several = [adapter(1), adapter(2, rank=2, alpha=1.0), adapter(1), adapter(3)]
    several[3] = Adapter({"up": several[3].factors["q"]}, 1.0)  # another layer
    several.append(Adapter({"q": (X[:2], torch.zeros(6, 2).double())}, 1.0))  # zero
    flat = torch.stack(
        [
            torch.cat(
                [
                    one.delta(p).flatten() if p in one.paths else torch.zeros(54).double()
                    for p in ("q", "up")
                ]
            )
            for one in several
        ]
    )
    expected = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=-1)
    torch.testing.assert_close(cosines(several), expected)


def test_impossible_clusters_are_explained():
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"clusters = {count}: there are 2 adapters"):
            clusters([adapter(1), adapter(2)], count)
    assert len(clusters([adapter(i) for i in range(9)])) <= 3  # the root of N, rounded up
    assert sorted(sum(clusters([adapter(1)] * 4, 2), [])) == [0, 1, 2, 3]


# One decision for a whole question ----------------------------------------------------------------


def test_the_input_oracle_takes_the_expert_of_the_answer():
    several = experts(small())
    prepared = BY_NAME["input_oracle"].prepare(several, torch.Generator(), WORLD)
    for form, gates in (("hop1", [1, 0]), ("hop2", [0, 1]), ("direct", [0, 1]), ("cot", [0, 1])):
        (stage,) = prepared.stages(form)
        for router in stage.mode.routers.values():
            assert router(torch.zeros(3, 16)).tolist() == [gates] * 3


def test_centroid_sends_questions_to_the_texts_they_are_like():
    """The two hops' prompts differ in their words, so even an untrained base tells them apart."""
    model = small()
    given = Given(model, TOKENIZER)
    prepared = BY_NAME["centroid"].prepare(experts(model), torch.Generator(), WORLD, given)
    for form, gates in (("hop1", [1, 0]), ("hop2", [0, 1])):
        for (stage,) in prepared.choose(WORLD.questions("F", form)):
            router = next(iter(stage.mode.routers.values()))
            assert router(torch.zeros(1, 16)).tolist() == [gates]


def test_what_a_method_needs_is_asked_for():
    model = small()
    several = experts(model)
    with pytest.raises(ValueError, match="centroid needs texts"):
        BY_NAME["centroid"].prepare(several, torch.Generator(), WORLD)
    nameless = {name: Adapter(one.factors, 4.0) for name, one in several.items()}
    with pytest.raises(ValueError, match="the record of hop1-F names no curriculum"):
        BY_NAME["centroid"].prepare(nameless, torch.Generator(), WORLD, Given(model, TOKENIZER))


def base(model):
    return Base(BaseSpec("standard"), 0, TWO_HOP.default, None, WORLD, model, TOKENIZER)


def cell(method):
    library = Library("pair", "F", (Expert("hop1", "F"), Expert("hop2", "F")), (method,))
    return Cell(0, library, method)


PREPARED = [m for m in CLAIMED if m not in TAUGHT]  # tests/test_recycle_learned.py has the others


@pytest.mark.parametrize("method", [m for m in PREPARED if m.family != "merge"])
def test_a_cell_is_measured_under_every_claimed_router(method):
    model = small()
    rows = measure(cell(method), base(model), experts(model)).rows
    assert [row.form for row in rows] == list(WORLD.forms)
    assert all(row.n == len(WORLD.questions("F", row.form)) for row in rows)


def test_signals_of_questions_with_different_modes_are_averaged_over_all():
    """As if each question were compared by itself, under its own expert."""
    model = small()
    several, method = experts(model), BY_NAME["centroid"]
    modes = list(whole_input(several).values())

    def alternate(questions):
        return [(Stage(modes[i % 2]),) for i in range(len(questions))]

    prepared = Prepared(several, lambda form: (), alternate)
    planted = replace(method, apply=lambda *_: prepared)
    row = next(r for r in measure(cell(planted), base(model), several).rows if r.form == "direct")
    attach(model, several)
    questions, others = WORLD.questions("F", "direct"), WORLD.alternatives("F", "direct")
    alone = []
    for i, (question, wrong) in enumerate(zip(questions, others, strict=True)):
        with using(model, modes[i % 2]):
            alone.append(compare(model, TOKENIZER, [question], [wrong]))
    pairs = [len(wrong) for wrong in others]
    for name, counts in (
        ("log p right", [1] * len(questions)),
        ("log p others", pairs),
        ("right above others", pairs),
    ):
        total = sum(part[name] * n for part, n in zip(alone, counts, strict=True))
        assert row.values[name] == pytest.approx(total / sum(counts), rel=1e-4)


# The table ----------------------------------------------------------------------------------------


def test_only_the_parts_about_methods_ask_for_claimed_ones():
    assert not {*EVERY, *MAIN} & {*CLAIMED}
    for library in (library for design in DESIGNS.values() for library in design.libraries):
        claimed = {*library.methods} & {*CLAIMED}
        if len(library.experts) == 1:  # one expert at another weight is a baseline of any part
            claimed -= {method for method in CLAIMED if method.name.startswith("rescaled_single_")}
        assert not claimed or library.part in ("methods", "crowds", "learned", "published")
    assert {*CLAIMED} <= {*METHODS}


@pytest.mark.parametrize("method", [m for m in PREPARED if m.family == "merge"])
def test_every_claimed_merge_is_a_method(method):
    several = experts(small())
    g = torch.Generator().manual_seed(0)
    prepared = method.prepare(several, g, WORLD)
    (merged,) = prepared.adapters.values()
    attach(small(), prepared.adapters)
    assert merged.origin["formula"] and set(merged.paths) == set(several["hop1-F"].paths)

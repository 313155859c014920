"""What a method costs: its FLOPs are those that torch counts, its bytes those of its tensors."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lora import Adapter, attach, detach, init_adapter, using
from models import Tokenizer, Transformer, TransformerConfig
from recycle.measure.cell import measure
from recycle.measure.cost import cost_of, flops
from recycle.plan import STANDARD_BASE, Cell, Expert, Library
from recycle.reuse.method import Given
from recycle.reuse.methods import BY_NAME
from recycle.studies.two_hop import TWO_HOP
from recycle.train.base import Base
from tasks import TwoHop, TwoHopConfig

WORLD = TwoHop(TwoHopConfig(people=40, cities=10, triples=6, set_cities=3), 0)
TOKENIZER = Tokenizer.from_texts(WORLD.words())
CONFIG = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=64)
LAYERS = 2 * [(16, 16)] * 4 + 2 * [(16, 24), (16, 24), (24, 16)]  # (d_in, d_out)
RANK = 2
NAMES = (
    "alone plain_sum arrow arrow_factors arrow_top1 oracle random_router spectr hard mbc "
    "centroid input_oracle ties tsv dare_linear_core phatgoose xlora_like_5"
).split()


def small():
    return Transformer(CONFIG, len(TOKENIZER), torch.Generator().manual_seed(0)).eval()


def experts(model, ranks=(RANK, RANK)):
    made = {}
    for seed, (reads, rank) in enumerate(zip(("hop1", "hop2"), ranks, strict=True)):
        g = torch.Generator().manual_seed(seed)
        fresh = init_adapter(model, ["*_proj"], rank, 4.0, g)
        factors = {p: (A, torch.randn(B.shape, generator=g)) for p, (A, B) in fresh.factors.items()}
        made[f"{reads}-F"] = Adapter(factors, 4.0, origin={"reads": reads, "group": "F"})
    return made


def prepared(model, name, ranks=(RANK, RANK)):
    method, g = BY_NAME[name], torch.Generator().manual_seed(0)
    learned = WORLD.examples("F", 2).examples
    if method.examples:
        method = replace(method, examples=len(learned))
    return method.prepare(experts(model, ranks), g, WORLD, Given(model, TOKENIZER, learned))


def in_place(y, x, weight, *rest, **options):
    """Of y += x weight, which torch's own counter does not know."""
    return 2 * x[0] * x[1] * weight[1]


def counted(model, tokens):
    known = {torch.ops.aten.addmm_: in_place}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, torch.inference_mode():
        model.hidden_states(tokens)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_that_torch_counts(name):
    model = small()
    made = prepared(model, name)
    tokens = torch.randint(len(TOKENIZER), (3, 7), generator=torch.Generator().manual_seed(1))
    before = counted(model, tokens)
    attach(model, made.adapters)
    for form in WORLD.forms:
        for stage in made.stages(form):
            with using(model, stage.mode):
                more = counted(model, tokens) - before
            assert more == tokens.numel() * flops(stage.mode, made.adapters)
    detach(model)


def test_costs_by_hand():
    """A merge of rank 4 costs what two experts of rank 2 do; ties on matrices of 16 x 24 has the
    rank 16. The scores of two experts are 2 x 2 d_in FLOPs."""
    model, one = small(), sum(2 * RANK * (d_in + d_out) for d_in, d_out in LAYERS)
    scores = sum(2 * 2 * d_in for d_in, _ in LAYERS)
    full = sum(2 * min(d_in, d_out) * (d_in + d_out) for d_in, d_out in LAYERS)
    for name, expected, numbers in (
        ("alone", 2 * one, one),
        ("plain_sum", 2 * one, one),
        ("svd_r", one, one // 2),
        ("ties", full, full // 2),
        ("arrow", 2 * one + scores, one + scores // 2),
        ("oracle", 2 * one, None),
    ):
        cost = cost_of(prepared(model, name), WORLD.forms, 0.5)
        assert (cost.seconds, cost.flops) == (0.5, expected), name
        assert numbers is None or cost.bytes == 4 * numbers, name


def test_the_base_costs_nothing():
    cost = cost_of(BY_NAME["alone"].prepare({}, torch.Generator(), WORLD), WORLD.forms, 0.0)
    assert (cost.bytes, cost.flops) == (0, 0)


def test_experts_of_different_ranks_are_counted_each_by_its_own():
    model = small()
    more = cost_of(prepared(model, "spectr", (1, 3)), WORLD.forms, 0.0)
    same = cost_of(prepared(model, "spectr", (2, 2)), WORLD.forms, 0.0)
    assert (more.bytes, more.flops) == (same.bytes, same.flops)


def test_a_cell_keeps_its_cost_beside_its_rows_and_not_in_them():
    model = small()
    library = Library("pair", "F", (Expert("hop1", "F"), Expert("hop2", "F")))
    base = Base(STANDARD_BASE, 0, TWO_HOP.default, None, WORLD, model, TOKENIZER)
    kept = measure(Cell(0, library, BY_NAME["svd_r"]), base, experts(model)).to_json()
    assert kept["cost"]["seconds"] > 0 and kept["cost"]["flops"] > 0
    assert not any({"seconds", "bytes", "flops"} & set(row) for row in kept["rows"])
    assert json.loads(json.dumps(kept)) == kept

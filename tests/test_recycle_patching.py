"""Maps by depth and token obey their definitions: identities, and a model into which two hops were
planted by hand, so that the places where the maps must light are known."""

import base64
import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lora import Adapter, Gated, Mix, attach, init_adapter, using
from models import Tokenizer, Transformer, TransformerConfig
from recycle.measure.ask import encode_prompt
from recycle.measure.inside import ANOTHER, look_inside
from recycle.measure.mechanism import lens_map, logit_lens
from recycle.measure.patching import CONTROL_ROWS, nearest_rows, patch, patched_log_probs
from recycle.plan import STANDARD_BASE
from recycle.reuse.route import arrow
from recycle.run.disk import write_json
from recycle.show import drawing, mechanism_figures
from recycle.show.run_files import inside_maps, inside_means
from recycle.study import inside_path
from tasks import TwoHop, TwoHopConfig

VOCABULARY, ROWS, LENGTH = 23, 6, 5


def drawn(seed, rows=ROWS, length=LENGTH):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def loud(model, seed):
    """An adapter that moves the model by much: B is not zero."""
    g = torch.Generator().manual_seed(seed)
    fresh = init_adapter(model, ["*_proj"], 3, 6.0, g)
    factors = {p: (A, torch.randn(B.shape, generator=g)) for p, (A, B) in fresh.factors.items()}
    return Adapter(factors, fresh.alpha, base=fresh.base)


def adapted():
    config = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=16)
    model = Transformer(config, VOCABULARY, torch.Generator().manual_seed(0)).eval()
    experts = {name: loud(model, seed) for seed, name in enumerate(("one", "two"))}
    attach(model, experts)
    modes = {
        "base": None,
        "sum": Mix({"one": 1.0, "two": 1.0}),
        "arrow": Gated(("one", "two"), arrow(list(experts.values()))),
    }
    return model, modes


PROMPTS, DONORS, TARGETS = drawn(0), drawn(1), {"t": drawn(2)[:, 0], "u": drawn(3)[:, 0]}


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


def test_patching_lights_where_the_hops_were_planted():
    """The person's token carries the chain up to layer 0, the last token after layer 1."""
    model = planted()
    donors, of_donor = QUESTIONS.roll(1, 0), ANSWER.roll(1)
    with using(model, Mix({"hop1": 1.0, "hop2": 1.0})):
        found = patch(model, QUESTIONS, donors, {"own": ANSWER, "donor's": of_donor})
    places = {(0, 0), (1, 0), (2, 4), (3, 4)}
    assert lit(found["targets"]["donor's"]["gained"]) == places
    assert lit((-torch.tensor(found["targets"]["own"]["gained"])).tolist()) == places
    assert lit(found["targets"]["donor's"]["said"], 0.99) == places
    assert lit(found["follows"]["patched"], 0.99) == places
    assert found["follows"]["unpatched"] == 0
    assert found["targets"]["own"]["unpatched"]["said"] == 1
    assert found["targets"]["donor's"]["donor"]["said"] == 1
    assert max(found["controls"].values()) < 1e-5


def test_a_donor_that_states_the_bridge_rescues_an_expert_that_lacks_hop_1():
    """hop2 alone cannot answer the question; a shorter donor of bridges, aligned at the end, shows
    from which states on it can."""
    model = planted()
    donors = torch.stack([torch.tensor([WORDS[1], WORDS[2], int(b)]) for b in BRIDGE])
    with using(model, Mix({"hop2": 1.0})):
        found = patch(model, QUESTIONS, donors, {"answer": ANSWER})
    assert found["targets"]["answer"]["unpatched"]["said"] == 0
    assert lit(found["targets"]["answer"]["said"], 0.99) == {(d, 2) for d in range(4)}
    assert [len(row) for row in found["follows"]["patched"]] == [3] * 4


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


@pytest.mark.parametrize("mode", ["base", "sum", "arrow"])
def test_a_prompt_that_is_its_own_donor_changes_nothing(mode):
    model, modes = adapted()
    with using(model, modes[mode]):
        found = patch(model, PROMPTS, PROMPTS, TARGETS)
    assert max(found["controls"].values()) < 1e-5
    assert found["follows"] == {"unpatched": 1, "patched": [[1] * LENGTH] * 3}
    for at in found["targets"].values():
        assert at["unpatched"] == at["donor"]
        assert torch.tensor(at["gained"]).abs().max() < 1e-5
        assert at["said"] == [[at["unpatched"]["said"]] * LENGTH] * 3


@pytest.mark.parametrize("mode", ["base", "sum", "arrow"])
@pytest.mark.parametrize("length", [2, LENGTH, 9])
def test_the_last_state_of_all_is_the_donors_answer(mode, length):
    model, modes = adapted()
    donors = drawn(1, length=length)
    with using(model, modes[mode]):
        found = patch(model, PROMPTS, donors, TARGETS)
        own = model(donors)[:, -1].double().log_softmax(-1)
    assert max(found["controls"].values()) < 1e-5
    assert found["follows"]["patched"][-1][-1] == 1
    for name, at in found["targets"].items():
        right = float(own[torch.arange(ROWS), TARGETS[name]].mean())
        assert at["donor"]["log_prob"] == pytest.approx(right, abs=1e-5)
        assert at["unpatched"]["log_prob"] + at["gained"][-1][-1] == pytest.approx(right, abs=1e-5)
        assert len(at["gained"]) == 3 and len(at["gained"][0]) == min(length, LENGTH)
    # After the last layer no position but the last one reaches the answer.
    assert torch.tensor(at["gained"][-1])[:-1].abs().max() < 1e-5
    assert json.loads(json.dumps(found)) == found
    assert not any(module._forward_pre_hooks for module in model.modules())


class Replace(nn.Module):
    """A layer after one state was replaced."""

    def __init__(self, layer, position, state):
        super().__init__()
        self.layer, self.position, self.state = layer, position, state

    def forward(self, x, *rest):
        x = x.clone()
        x[:, self.position] = self.state
        return self.layer(x, *rest)


@pytest.mark.parametrize("tokens", [1, 2**14])
def test_each_place_is_the_answer_of_a_model_with_that_state(tokens, monkeypatch):
    """One place at a time, in a model that is built for it; in whatever portions."""
    monkeypatch.setattr("recycle.measure.patching.TOKENS", tokens)
    model, modes = adapted()
    states = torch.randn(3, ROWS, LENGTH, 16, generator=torch.Generator().manual_seed(4))
    with using(model, modes["sum"]), torch.no_grad():
        found = patched_log_probs(model, PROMPTS, states)
        for depth in range(3):
            for position in range(LENGTH):
                one = copy.deepcopy(model)
                state = states[depth, :, position]
                if depth < 2:
                    one.layers[depth] = Replace(one.layers[depth], position, state)
                else:
                    one.norm = Replace(one.norm, position, state)
                own = one(PROMPTS)[:, -1].double().log_softmax(-1)
                torch.testing.assert_close(found[depth, position], own, rtol=0, atol=1e-5)


def test_the_controls_would_show_a_patch_that_does_not_act(monkeypatch):
    """A planted violation: states that are lent to nobody."""
    model, modes = adapted()

    def none_acts(model, prompts, states):
        return patched_log_probs(model, prompts.roll(1, 0), torch.zeros_like(states))

    monkeypatch.setattr("recycle.measure.patching.patched_log_probs", none_acts)
    with using(model, modes["sum"]):
        controls = patch(model, PROMPTS, DONORS, TARGETS)["controls"]
    assert min(controls.values()) > 0.01 and CONTROL_ROWS < ROWS


# Donors -------------------------------------------------------------------------------------------


def test_the_nearest_row_is_another_person_with_the_same_relations():
    prompts = torch.tensor(
        [  # given name, second name, relation, attribute
            [10, 20, 1, 5],
            [11, 20, 2, 5],  # a namesake with another relation
            [12, 21, 1, 5],  # another person, the same relations
            [13, 22, 1, 6],
            [10, 23, 1, 6],
            [14, 24, 2, 6],
        ]
    )
    answers = torch.arange(6)
    assert nearest_rows(prompts, answers)[[0, 2, 3, 4]].tolist() == [2, 0, 4, 3]
    answers[2] = 0  # the same answer shows nothing: the namesake's attribute at least is the same
    assert nearest_rows(prompts, answers)[0] == 1
    alike = torch.tensor([[1, a, 2] for a in range(4)])
    assert nearest_rows(alike, torch.arange(4)).tolist() == [1, 2, 3, 0]
    assert nearest_rows(alike, torch.zeros(4)).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("prompts", "donors", "targets", "message"),
    [
        (PROMPTS[0], DONORS, {}, "shape .rows, length."),
        (PROMPTS, DONORS.float(), {}, "give token ids"),
        (PROMPTS, DONORS[:, :0], {}, "give token ids"),
        (PROMPTS, DONORS[:5], {}, "5 donors for 6 prompts"),
        (PROMPTS, DONORS, {"t": TARGETS["t"][:5]}, "give 6 token ids"),
        (PROMPTS, DONORS, {"t": TARGETS["t"] + VOCABULARY}, "below 23"),
    ],
)
def test_bad_input_is_explained_in_one_line(prompts, donors, targets, message):
    model, _ = adapted()
    with pytest.raises(ValueError, match=message) as caught:
        patch(model, prompts, donors, targets)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(ValueError, match="at least 2"):
        nearest_rows(PROMPTS[:1], TARGETS["t"][:1])


# A library of a study -----------------------------------------------------------------------------


def test_a_look_inside_has_the_maps_of_every_condition():
    """A small world and a base that knows nothing: what is looked at, not what is found."""
    world = TwoHop(TwoHopConfig(people=40, cities=6, triples=5, set_cities=5), seed=0)
    tokenizer = Tokenizer.from_words(world.words())
    config = TransformerConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=64)
    model = Transformer(config, len(tokenizer), torch.Generator().manual_seed(0)).eval()
    experts = {name: loud(model, seed) for seed, name in enumerate(("one", "two", "three"))}
    base = SimpleNamespace(model=model, world=world, tokenizer=tokenizer)
    library = SimpleNamespace(group="R", experts=[SimpleNamespace(slug=s) for s in ("one", "two")])
    seen = look_inside(library, base, experts)
    assert json.loads(json.dumps(seen)) == seen

    asked = encode_prompt(tokenizer, world.questions("R", "direct")[0])
    shape = (config.layers + 1, len(asked))
    shown = seen["lens map"]["direct"]
    assert list(shown["conditions"]) == ["base", "one", "two", "three", "plain_sum"]
    assert (shown["tokens"][:2], len(shown["tokens"])) == (["<s>", "where"], len(asked))
    assert "·" in shown["tokens"]
    for result in shown["conditions"].values():
        for name in ("bridge", "answer"):
            signal = torch.tensor(result["targets"][name]["signal"], dtype=torch.double)
            assert signal.shape == shape and torch.equal(signal, (signal * 1e4).round() / 1e4)
    parts = encode_prompt(tokenizer, world.questions("R", "hop2")[0])
    lengths = {ANOTHER: len(asked), "hop2": min(len(parts), len(asked))}
    assert list(seen["patching"]["direct"]) == list(lengths)
    for donor, length in lengths.items():
        patched = seen["patching"]["direct"][donor]
        assert len(patched["tokens"]) == length and patched["tokens"][-1] == ":"
        assert list(patched["conditions"]) == ["base", "one", "two", "plain_sum"]
        for result in patched["conditions"].values():
            assert max(result["controls"].values()) < 1e-5
            assert torch.tensor(result["follows"]["patched"]).shape == (3, length)
    # The lens and the knock-outs are as they were, and the direct question is asked too.
    assert list(seen["lens"]["direct"]) == list(shown["conditions"])
    scores = [seen["knock out"]["all"], *seen["knock out"]["only"].values()]
    assert all(list(score) == ["hop1", "hop2", "direct"] for score in scores)


# Files and pictures -------------------------------------------------------------------------------


def looked(seed, maps=True, direct=True):
    """A file of look_inside with numbers that are the seed."""
    at = {"log_prob": [1.0 + seed], "shuffled": [0.0]}
    scores = {"hop1": float(seed), **({"direct": 0.5} if direct else {})}
    seen = {
        "lens": {"direct": {"base": {"targets": {"bridge": at}}}},
        "knock out": {"all": scores, "none": scores, "without": {}, "only": {}},
    }
    shown = {"tokens": ["who", f"name{seed}"], "conditions": {"base": {"signal": [[seed, 4.0]]}}}
    patched = {**shown, "conditions": {"base": {"controls": {"total": seed * 1e-7}}}}
    if maps:
        seen |= {"lens map": {"direct": shown}, "patching": {"direct": {"another": patched}}}
    return seen


def study_of(tmp_path, files):
    """A study of two groups with these files for its seeds."""
    libraries = [SimpleNamespace(group=g, base=STANDARD_BASE) for g in "FH"]
    study = SimpleNamespace(
        opened=libraries, config=SimpleNamespace(seeds=range(len(files)), adapter=None)
    )
    for library in libraries:
        for seed, file in enumerate(files):
            write_json(inside_path(tmp_path, seed, library), file)
    return study


def test_maps_are_means_over_seeds_and_controls_their_worst(tmp_path):
    study = study_of(tmp_path, [looked(1), looked(2)])
    maps = inside_maps(study, tmp_path)["F"]
    shown = maps["lens map"]["direct"]
    assert shown == {"tokens": ["who", "·"], "conditions": {"base": {"signal": [[1.5, 4.0]]}}}
    assert maps["patching"]["direct"]["another"]["conditions"]["base"]["controls"] == {
        "total": 2e-7
    }
    assert inside_means(study, tmp_path)["H"]["knock out"]["all"] == {"hop1": 1.5, "direct": 0.5}


def test_files_of_older_runs_have_no_maps_and_are_read(tmp_path):
    study = study_of(tmp_path, [looked(1), looked(2, maps=False, direct=False)])
    nothing = {"lens map": {}, "patching": {"direct": {}}}
    assert inside_maps(study, tmp_path) == {"F": nothing, "H": nothing}
    means = inside_means(study, tmp_path)["F"]
    assert means["knock out"]["all"] == {"hop1": 1.5}
    assert means["lens"]["direct"]["base"]["bridge"] == [2.5]
    only_old = study_of(tmp_path, [looked(1, maps=False)])
    assert inside_maps(only_old, tmp_path)["F"] == {"lens map": {}, "patching": {}}


def test_the_maps_are_drawn():
    pytest.importorskip("matplotlib")
    values = [[0.0, 1.0], [-2.0, 0.5], [0.0, 0.0]]
    columns = {
        "bridge": {"base": values, "sum": values},
        "answer": {"base": values, "sum": [[0.0, 0.0]] * 3},
    }
    figure = mechanism_figures.heat_maps(columns, ["who", "?"])
    assert base64.b64decode(drawing.png(figure)).startswith(b"\x89PNG")

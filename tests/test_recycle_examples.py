"""Examples and routers by name on the command line, and files of examples with their faults."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from lora import Adapter, detach, init_adapter, load_adapter, save_adapter
from models import Tokenizer, Transformer, TransformerConfig
from recycle.__main__ import main
from recycle.measure.cell import answers_to, stages_of
from recycle.measure.routed import mean_gates, put_on
from recycle.plan import BaseSpec
from recycle.reuse import taught
from recycle.reuse.by_name import ROUTERS, router_by_name
from recycle.reuse.examples import find_examples, learned_from, read_examples
from recycle.reuse.gates import phatgoose, xlora_like
from recycle.reuse.methods import BY_NAME
from recycle.studies import DESIGNS, Study
from recycle.studies.check import check
from recycle.studies.two_hop import TWO_HOP
from recycle.train.base import Base
from recycle.train.settings import assignments, change
from tasks import TwoHop, TwoHopConfig
from tests.tiny import HOP1, HOP2, make_run

WORLD = TwoHop(TwoHopConfig(people=40, cities=10, triples=12, set_cities=6), 0)
TOKENIZER = Tokenizer.from_texts(WORLD.words())
OTHERS = WORLD.questions("H", "direct")


def lines(questions):
    return [json.dumps({"prompt": q.prompt, "completion": q.completion}) for q in questions]


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.jsonl"
        path.write_text(text if isinstance(text, str) else "\n".join(text))
        return path

    return write


# Files --------------------------------------------------------------------------------------------


def test_a_file_gives_its_questions(file):
    path = file([*lines(OTHERS), ""])
    found = read_examples(path, WORLD, "F", TOKENIZER)
    assert [(q.prompt, q.completion) for q in found] == [(q.prompt, q.completion) for q in OTHERS]
    few = find_examples(str(path), 5, WORLD, "F", TOKENIZER)
    assert few == found[:5] and find_examples(str(path), None, WORLD, "F", TOKENIZER) == found


ASKED = WORLD.questions("F", "direct")[3]
NAMED = {"prompt": f"who is {WORLD.sets['F'][2].b} ? answer :", "completion": "port haven ."}


@pytest.mark.parametrize(
    "third, words",
    [
        ("{", "line 3 is no JSON"),
        ("[1]", "line 3 is '[1]': it must be an object with prompt, completion"),
        ('{"prompt": "a"}', "line 3 has no field 'completion'"),
        ('{"prompt": 1, "completion": "a"}', "line 3: prompt = '1': must be a text"),
        ('{"prompt": " ", "completion": "a"}', "line 3: prompt is empty"),
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', "line 3 is no JSON"),
        ('{"prompt": "zzz", "completion": "."}', "line 3: the word 'zzz'"),
        (lines([ASKED])[0], f"line 3: the example is about '{ASKED.prompt.split()[5]}"),
        (json.dumps(NAMED), f"line 3: the example is about '{WORLD.sets['F'][2].b}'"),
    ],
)
def test_a_line_that_is_no_example_is_named(file, third, words):
    path = file([*lines(OTHERS[:1]), "", third, *lines(OTHERS[1:3])])
    with pytest.raises(ValueError) as error:
        read_examples(path, WORLD, "F", TOKENIZER)
    assert words in str(error.value) and str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_wrong_numbers_of_examples_are_refused(file, tmp_path):
    short, long = file(lines(OTHERS)), tmp_path / "long.jsonl"
    long.write_text("\n".join(lines(OTHERS) * 9))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    for asked, count, words in (
        (None, None, "add --examples 20, or --examples FILE.jsonl"),
        ("0", None, "examples = 0: choose from 1 to 100"),
        ("-3", None, "examples = -3: choose"),
        ("101", None, "examples = 101: choose"),
        (None, 101, "examples = 101: choose"),
        ("9" * 400, None, "choose from 1 to 100"),
        ("20", None, "examples = 20: group F has 12 questions"),
        ("5", 5, "--examples 5 and --set examples=5 both count"),
        (str(short), 20, "holds 12 examples, and examples = 20 are asked for"),
        (str(short), 0, "examples = 0: choose"),
        (str(long), None, "holds 108 examples: take at most 100"),
        (str(long), 101, "examples = 101: choose"),
        (str(empty), None, "empty.jsonl holds no examples"),
        (str(tmp_path / "none.jsonl"), None, "none.jsonl cannot be read"),
        (str(tmp_path), None, "cannot be read"),
    ):
        with pytest.raises(ValueError) as error:
            find_examples(asked, count, WORLD, "F", TOKENIZER)
        assert words in str(error.value) and len(str(error.value)) < 320
    assert find_examples("5", None, WORLD, "F", TOKENIZER) == WORLD.examples("F", 5).examples
    assert len(find_examples(None, 7, WORLD, "F", TOKENIZER)) == 7


def test_a_record_tells_what_was_learned_from_at_any_depth():
    inner = {"merge": "cat", "examples": [["a ?", "b ."]]}
    assert learned_from({"of": [{}, {"of": [inner]}], "examples": [["c ?", "d ."]]}) == [
        ("c ?", "d ."),
        ("a ?", "b ."),
    ]
    assert learned_from({"of": "x", "examples": 3}) == [] == learned_from("x")


def test_a_study_whose_groups_are_too_small_is_refused_before_any_work():
    two_hop = DESIGNS["two-hop"]
    pair = next(library for library in two_hop.libraries if library.inside)
    for name, words in (("cat_5", None), ("cat_20", "cat_20: examples = 20: group F has 8")):
        asked = replace(pair, methods=(*pair.methods, BY_NAME[name]))
        libraries = tuple(asked if each is pair else each for each in two_hop.libraries)
        settings = ["groups=F", "task.people=60", "task.cities=12", "task.triples=8"]
        config = change(two_hop.default, assignments([*settings, "task.set_cities=4"]))
        made = Study(replace(two_hop, libraries=libraries), config)
        if words is None:
            check(made)
        else:
            with pytest.raises(ValueError, match=words):
                check(made)


# Routers by name ----------------------------------------------------------------------------------


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(taught, "phatgoose", partial(phatgoose, steps=2))
    monkeypatch.setattr(taught, "xlora_like", partial(xlora_like, steps=2))


@pytest.fixture
def base(bare):
    yield bare
    detach(bare.model)


@pytest.fixture(scope="module")
def bare():
    config = TransformerConfig(
        width=16, layers=2, heads=2, kv_heads=2, hidden=24, context=128, init=0.2
    )
    model = Transformer(config, len(TOKENIZER), torch.Generator().manual_seed(0)).eval()
    return Base(BaseSpec("standard"), 0, TWO_HOP.default, None, WORLD, model, TOKENIZER)


def two_experts(base):
    found = {}
    for seed, reads in enumerate(("hop1", "hop2")):
        g = torch.Generator().manual_seed(seed)
        fresh = init_adapter(base.model, ["q_proj", "down_proj"], 2, 4.0, g)
        factors = {
            p: (A, 0.5 * torch.randn(B.shape, generator=g)) for p, (A, B) in fresh.factors.items()
        }
        found[f"a path/{reads}"] = Adapter(factors, 4.0, origin={"reads": reads, "group": "F"})
    return found


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_answers_and_shows_its_gates(base, few_steps, router):
    """Of the questions that are left, and with gates that sum to one in every layer."""
    learns = "xlora_like" in router
    examples = WORLD.examples("F", 5).examples if learns else ()
    put = put_on(base, "F", two_experts(base), router_by_name(router), examples)
    assert put.left_out == (5 if learns else 0)
    stages = stages_of(put.prepared, put.questions)
    answers = answers_to(base, put.questions, stages)
    assert {form: len(said) for form, said in answers.items()} == dict.fromkeys(
        WORLD.forms, 7 if learns else 12
    )
    asked = put.questions["direct"]
    prompts = torch.tensor([[1, *TOKENIZER.encode(q.prompt)] for q in asked])
    gates = mean_gates(base, prompts, [own[0].mode for own in stages["direct"]])
    assert len(gates) == 4
    for means, entropy in gates.values():
        assert sum(means) == pytest.approx(1, abs=1e-5) and 0 <= entropy < 0.7
        if router in ("hard", "arrow_top1", "oracle", "input_oracle", "centroid"):
            assert entropy == 0


def test_gates_of_questions_with_different_modes_are_averaged_over_all(base):
    """Three questions by one expert and one by the other: a mean gate of three quarters."""
    several = two_experts(base)
    put = put_on(base, "F", several, router_by_name("input_oracle"))
    one, other = (put.prepared.stages(form)[0].mode for form in ("hop1", "hop2"))
    prompts = torch.randint(2, len(TOKENIZER), (4, 5), generator=torch.Generator().manual_seed(0))
    for means, entropy in mean_gates(base, prompts, [one, other, one, one]).values():
        assert means == pytest.approx([0.75, 0.25]) and entropy == 0


def test_adapters_have_the_names_that_a_person_gave_in_errors(base):
    several = {name: replace(one, origin={}) for name, one in two_experts(base).items()}
    for router in ("centroid", "phatgoose", "oracle", "input_oracle"):
        with pytest.raises(ValueError, match="the record of 'a path/hop1' names no curriculum"):
            put_on(base, "F", several, router_by_name(router))
    lone = {name: replace(one, origin={"reads": "hop1"}) for name, one in two_experts(base).items()}
    with pytest.raises(ValueError, match="an oracle needs an expert that read 'hop2'"):
        put_on(base, "F", lone, router_by_name("oracle"))
    everyone = [(q.prompt, q.completion) for q in WORLD.questions("F", "direct")]
    learned = {"all": replace(two_experts(base)["a path/hop1"], origin={"examples": everyone})}
    with pytest.raises(ValueError, match="all questions of group F are about people"):
        put_on(base, "F", learned)


def test_a_router_by_its_name_has_the_options_of_its_kind():
    for name in ("arrow", "spectr", "phatgoose", "xlora_like"):
        assert router_by_name(name, 1, 0.5).name == name
    assert router_by_name("xlora_like").needs == "examples"
    assert not {"random_adapters", "plain_sum", "xlora_like_5", "random_pool_cat_5"} & {*ROUTERS}
    wanted = "arrow arrow_top1 spectr hard centroid mbc input_oracle phatgoose xlora_like"
    assert {*wanted.split()} <= {*ROUTERS}
    for options in ({"top_k": 1}, {"temperature": 2.0}, {"order": "factors"}):
        with pytest.raises(ValueError, match="--router mbc has no options"):
            router_by_name("mbc", **options)


# The command line ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


def told(capsys, *words, code=0):
    assert main([*map(str, words), "--matmul=default"]) == code, capsys.readouterr().err
    out = capsys.readouterr()
    if code:
        (line,) = out.err.strip("\n").split("\n")
        assert len(line) <= 300
        return line
    return out.out


def test_a_merge_learns_and_its_examples_are_not_asked(run, capsys, tmp_path):
    learned = ["--examples", 4, "--set", "evaluations=4"]
    printed = told(capsys, "merge", run, HOP1, HOP2, "--method=lorahub", "--out=hub", *learned)
    assert "(sum_i w_i s_i B_i) (sum_j w_j A_j)" in printed
    again = ["--examples", 4, "--set", "evaluations=4", "--set", "seed=0", "--out=again"]
    told(capsys, "merge", run, HOP1, HOP2, "--method=lorahub", *again)
    library = run / "seed-0/standard/library"
    hub = load_adapter(library / "hub")
    assert hub == load_adapter(library / "again") and len(hub.origin["examples"]) == 4
    printed = told(capsys, "eval", run, "hub", "--group=F")
    assert "not asked: 4 questions of each form" in printed and "n 2," in printed
    # A merge of what has learned has learned too.
    told(capsys, "merge", run, "hub", HOP1, "--method=mean_of_products", "--out=deep")
    assert "not asked: 4" in told(capsys, "eval", run, "deep", "--group=F")
    config = TwoHopConfig(people=40, cities=10, triples=6, set_cities=3)
    others = TwoHop(config, 0).questions("H", "direct")
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines(others)))
    for learner in ("cat", "random_pool_cat"):
        out = ["--examples", path, "--set", "examples=3", "--set", "steps=2", "--out", learner]
        told(capsys, "merge", run, HOP1, HOP2, "--method", learner, "--group=F", *out)
        assert "not asked" not in told(capsys, "eval", run, learner, "--group=F")
        assert "not asked: 3" in told(capsys, "eval", run, learner, "--group=H")


@pytest.mark.parametrize(
    "words, message",
    [
        ("eval RUN HOP1 HOP2 --router nose", "no choice 'nose'"),
        ("eval RUN HOP1 --router spectr", "one adapter is not routed"),
        ("eval RUN HOP1 --examples 5", "one adapter is not routed"),
        ("eval RUN HOP1 HOP2 --router spectr --top-k 3", "top_k = 3: the library has 2"),
        ("eval RUN HOP1 HOP2 --router phatgoose --top-k 3", "top_k = 3: the library has 2"),
        ("eval RUN HOP1 HOP2 --router hard --top-k 1", "--router hard has no options"),
        ("route RUN HOP1 HOP2 --router mbc --temperature 2", "--router mbc has no options"),
        ("eval RUN HOP1 HOP2 --router oracle --order factors", "--router oracle has no"),
        ("eval RUN HOP1 HOP2 --router xlora_like", "add --examples 20"),
        ("eval RUN HOP1 HOP2 --router xlora_like --examples 6", "group F has 6 questions"),
        ("eval RUN HOP1 HOP2 --router xlora_like --examples 101", "examples = 101: choose"),
        ("eval RUN HOP1 HOP2 --router arrow --examples 5", "arrow learns from no examples"),
    ],
)
def test_a_router_that_cannot_be_is_one_line(run, capsys, words, message):
    places = {"RUN": run, "HOP1": HOP1, "HOP2": HOP2}
    given = [places.get(word, word) for word in words.split()]
    assert message in told(capsys, *given, "--group=F", code=2)


def test_route_and_eval_take_a_router_by_name(run, capsys, few_steps):
    for router, n in (("phatgoose", 6), ("xlora_like", 2), ("centroid", 6)):
        words = [run, HOP1, HOP2, "--group=F", "--router", router]
        words += ["--examples", 4] if router == "xlora_like" else []
        printed = told(capsys, "eval", *words)
        assert printed.count(" right ") == 4 and f"n {n}," in printed
        shown = told(capsys, "route", *words)
        assert shown.count(f"mean gate of {HOP1}, {HOP2}; entropy in nats") == 4
        assert ("not asked: 4" in printed) == ("not asked: 4" in shown) == (n == 2)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--method=lorahub", "add --examples 20"),
        ("--method=ties --examples 5", "--examples goes with --method lorahub or cat"),
        ("--method=lorahub --examples 0", "examples = 0: choose from 1 to 100"),
        ("--method=cat --examples 101", "examples = 101: choose"),
        ("--method=cat --examples 6", "group F has 6 questions, and none would be left"),
        ("--method=cat --set examples=x", "--set examples=x: a whole number"),
        ("--method=cat --examples 4 --set steps=x", "steps=x: cat wants a whole number"),
        ("--method=cat --examples 4 --set density=1", "cat has no option 'density'"),
        ("--method=lorahub --examples 4 --set bound=0", "bound = 0.0"),
        ("--method=cat --examples 4 --group Z", "--group Z: no group 'Z'"),
        ("--method=cat --examples NOWHERE", "NOWHERE cannot be read"),
    ],
)
def test_a_merge_that_cannot_learn_is_one_line(run, capsys, words, message):
    line = told(capsys, "merge", run, HOP1, HOP2, "--out=x", *words.split(), code=2)
    assert message in line
    assert not (run / "seed-0/standard/library/x").exists()


def test_records_that_name_no_group_leave_it_to_the_user(run, capsys, tmp_path):
    plain = tmp_path / "plain"
    library = run / "seed-0/standard/library"
    save_adapter(replace(load_adapter(library / HOP1), origin={}), plain)
    words = ["merge", run, plain, HOP2, "--method=cat", "--examples=4", "--set", "steps=1"]
    line = told(capsys, *words, "--out=grouped", code=2)
    assert "say with --group whose questions the examples are, F, H, R, K" in line
    told(capsys, *words, "--out=grouped", "--group=F")

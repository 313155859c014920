"""The history world is the composition world in other words, and the study runs it unchanged."""

import json
from collections import Counter

import pytest

from recycle.__main__ import main
from recycle.studies.composition import QUESTION
from tasks import Composition, CompositionConfig, History
from tasks.composition import FORMS
from tasks.composition_words import NUMBERS, PASSING, Chain
from tasks.history import LEXICON

SMALL = CompositionConfig(
    people=40, person_relations=4, attributes=5, values=10, new=20, questions=40
)
ORDERS = tuple(LEXICON.wordings)


@pytest.mark.parametrize("seed", range(4))
def test_worlds_are_free_of_leaks(seed):
    History(SMALL, seed)  # checks itself


def test_the_docstrings_example():
    words = LEXICON.wordings
    chain = Chain("aldric bold", "rival", "ivo grim", "seat", "conwy", words["question"])
    assert [str(chain.first), str(chain.second)] == [
        "the rival of aldric bold was ivo grim .",
        "the seat of ivo grim was conwy .",
    ]
    assert [str(chain.question(form).text) for form in FORMS] == [
        "who was the rival of aldric bold ? ivo grim .",
        "which seat had ivo grim ? conwy .",
        "which seat had the rival of aldric bold ? conwy .",
        "which seat had the rival of aldric bold ? think : the rival of aldric bold was ivo grim . "
        "the seat of ivo grim was conwy . answer : conwy .",
    ]
    chain = Chain("aldric bold", "rival", "ivo grim", "seat", "conwy", words["possessive"])
    assert str(chain.question("direct").text) == "aldric bold 's rival 's seat conwy ."


@pytest.mark.parametrize("order", ORDERS)
def test_no_word_stands_for_two_things(order):
    kinds = [
        set(LEXICON.wordings[order].words()),
        LEXICON.relations,
        LEXICON.attributes,
        LEXICON.given,
        LEXICON.family,
        (PASSING, *NUMBERS),
        *LEXICON.values.values(),
    ]
    counts = Counter(word for kind in kinds for word in kind)
    assert [word for word, count in counts.items() if count > 1] == []


def test_it_has_as_many_words_of_each_kind_as_the_world_that_it_translates():
    other = Composition.lexicon
    assert len(LEXICON.relations) == len(other.relations)
    assert [len(v) for v in LEXICON.values.values()] == [len(v) for v in other.values.values()]
    assert LEXICON.wordings.keys() == other.wordings.keys()


def test_a_right_answer_a_bridge_and_another_value_are_told_apart():
    world = History(SMALL, 1)
    chain = world.asked["NN-F"][0]
    other = next(value for value in world.values[chain.s] if value != chain.c)
    direct = chain.question("direct")
    scores = [world.score(direct, f"{said} .") for said in (chain.c, chain.b, other, "tall tall")]
    assert scores == ["right", "bridge", "wrong value", "malformed"]


@pytest.mark.study
def test_the_study_runs_it_and_decides_the_same_claims(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)  # most of the time went into pictures
    monkeypatch.setitem(QUESTION.settings, "pretrain.steps", 5)  # its own settings go before --set
    sizes = """
        groups=NK-M parts=main task.people=40 task.person_relations=2 task.attributes=2
        task.values=10 task.new=10 task.questions=10
        model.width=16 model.layers=4 model.heads=2 model.kv_heads=2 model.hidden=16
        pretrain.steps=5 pretrain.rows=4 train.steps=3 train.rows=2 adapter.rank=2
    """
    arguments = [f"--set={size}" for size in sizes.split()]
    run, record = str(tmp_path / "run"), str(tmp_path / "record.json")
    assert main(["study", "history", "--quiet", *arguments, "--run", run]) == 0
    assert "NK-M" in capsys.readouterr().out
    decided = json.loads((tmp_path / "run" / "claims.json").read_text())
    ids = [claim["id"] for claim in decided["claims"]]
    names = "C1-question C1-possessive C2 C12 C13 C14 C15 C16".split()
    assert ids == [claim for name in names for claim in (name, f"{name}-cot")]
    assert main(["report", run, "--record", record, "--rejudge", "a test"]) == 0
    assert main(["table", record]) == 0

"""The history world is the two-hop world in other words, and the study runs it unchanged."""

import json

import pytest

from recycle.__main__ import main
from tasks import History, TwoHop

SMALL = History.Config(people=60, cities=12, triples=8, set_cities=4)


@pytest.mark.parametrize("seed", range(4))
def test_worlds_are_free_of_leaks(seed):
    History(SMALL, seed)  # checks itself


def test_no_word_of_the_other_world_is_said():
    history, two_hop = History(SMALL, 0), TwoHop(SMALL, 0)
    texts = [str(text) for texts in history.base_texts().values() for text in texts]
    words = {word for text in texts for word in text.split()}
    assert words <= set(history.words())
    others = {"spouse", "married", "home", "lives", "job"}
    assert others <= set(two_hop.words()) and not others & words


def test_the_docstrings_example_is_scored_like_a_two_hop_question():
    world = History(SMALL, 1)
    t, other = world.sets["F"][0], world.sets["F"][1]
    direct, chain = t.question("direct"), str(t.question("cot").text)
    assert str(direct.text) == f"from where did the rival of {t.a} rule ? answer : {t.c} ."
    assert chain.endswith(f"was {t.b} . the seat of {t.b} was {t.c} . answer : {t.c} .")
    scores = [world.score(direct, f"{name} .") for name in (t.c, t.b, other.c, "tall tall")]
    assert scores == ["right", "bridge", "wrong city", "malformed"]


@pytest.mark.study
def test_the_study_runs_it_and_decides_the_same_claims(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)  # most of the time went into pictures
    sizes = """
        groups=F parts=main task.people=40 task.cities=10 task.triples=4 task.set_cities=2
        model.width=16 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=16
        pretrain.steps=5 pretrain.rows=4 train.steps=3 train.rows=2 adapter.rank=2
    """
    arguments = [f"--set={size}" for size in sizes.split()]
    run, record = str(tmp_path / "run"), str(tmp_path / "record.json")
    assert main(["study", "history", "--quiet", *arguments, "--run", run]) == 0
    assert "F: new rulers, new seats" in capsys.readouterr().out
    decided = json.loads((tmp_path / "run" / "claims.json").read_text())
    ids = [claim["id"] for claim in decided["claims"]]
    assert ids == [*(f"C{i}" for i in range(1, 11)), "C10-any-weight"]
    assert main(["report", run, "--record", record, "--rejudge", "a test"]) == 0
    assert main(["table", record]) == 0

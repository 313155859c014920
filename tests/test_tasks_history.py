"""The history world is the two-hop world in its own words, and the study runs
it unchanged."""

import json

import pytest

from recycle.__main__ import main
from tasks import History, TwoHop

SMALL = History.Config(people=60, cities=12, triples=8, set_cities=4)


@pytest.mark.parametrize("seed", range(4))
def test_worlds_are_free_of_leaks(seed):
    History(SMALL, seed)  # checks itself


def test_no_word_of_the_other_world_is_said():
    mine, theirs = History(SMALL, 0), TwoHop(SMALL, 0)
    said = {
        word for texts in mine.base_texts().values() for text in texts for word in str(text).split()
    }
    assert said <= set(mine.words())
    assert not said & {"spouse", "married", "home", "lives", "job"} and {"spouse", "job"} <= set(
        theirs.words()
    )


def test_the_docstrings_example_is_scored_like_a_two_hop_question():
    world = History(SMALL, 1)
    t, other = world.sets["F"][0], world.sets["F"][1]
    assert (
        str(t.question("direct").text)
        == f"from where did the rival of {t.a} rule ? answer : {t.c} ."
    )
    assert str(t.question("cot").text).endswith(
        f"was {t.b} . the seat of {t.b} was {t.c} . answer : {t.c} ."
    )
    said = [
        world.score(t.question("direct"), f"{name} .") for name in (t.c, t.b, other.c, "tall tall")
    ]
    assert said == ["right", "bridge", "wrong city", "malformed"]


def test_the_study_runs_it_and_decides_the_same_claims(tmp_path, capsys):
    sizes = [
        "groups=F",
        "parts=main",
        "task.people=40",
        "task.cities=10",
        "task.triples=4",
        "task.set_cities=2",
        "model.width=16",
        "model.layers=1",
        "model.heads=2",
        "model.kv_heads=2",
        "model.hidden=16",
        "pretrain.steps=5",
        "pretrain.rows=4",
        "train.steps=3",
        "train.rows=2",
        "adapter.rank=2",
    ]
    arguments = [word for pair in sizes for word in ("--set", pair)]
    assert main(["study", "history", "--quiet", *arguments, "--run", str(tmp_path / "run")]) == 0
    assert "F: new rulers, new seats" in capsys.readouterr().out
    decided = json.loads((tmp_path / "run" / "claims.json").read_text())
    assert [claim["id"] for claim in decided["claims"]] == [
        "C1",
        "C2",
        "C3",
        "C4",
        "C5",
        "C6",
        "C7",
    ]
    assert main(["report", str(tmp_path / "run"), "--record", str(tmp_path / "kept.json")]) == 0
    assert main(["table", str(tmp_path / "kept.json")]) == 0

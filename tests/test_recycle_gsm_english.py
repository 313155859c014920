"""Word problems on a checkpoint: the claims on planted rows, and what stands before a run."""

import pytest

from recycle.__main__ import main
from recycle.reuse.methods import BY_NAME
from recycle.studies.gaps import OTHER
from recycle.studies.gsm_english import GSM_ENGLISH
from recycle.studies.gsm_english_claims import METHODS, RULES, SINGLES
from tasks.word_problem import RENDERINGS
from tests.planted import Planted, verdicts


def paper():
    rows = Planted()
    for single in SINGLES:
        rows.put(RENDERINGS, single, "alone", P2=0.2)
    rows.put(RENDERINGS, "base", "alone", base=0.9)
    rows.put(RENDERINGS, "P1", "alone", P1=0.9)
    rows.put(RENDERINGS, "P2", "alone", P2=0.9)
    rows.put(RENDERINGS, "joint", "alone", P2=0.8)
    rows.put(RENDERINGS, "matched", "random_adapters", P2=0.0)
    for method in METHODS:
        rows.put(RENDERINGS, "matched", method, P2=0.5)
        rows.put(["python"], "matched", method, P2=0.8)
        rows.put(RENDERINGS, "mismatched", method, P2=0.2)
    return rows


def judged(rows):
    return verdicts(RULES, rows.metrics())


def test_the_claims_come_out_either_way():
    assert judged(paper()) == {"M4-checkpoint": "supported", "M6-checkpoint": "supported"}
    rows = paper()
    rows.put(RENDERINGS, "none, few-shot", "alone", P2=0.7)
    for method in METHODS:
        rows.put(["python"], "matched", method, P2=0.2)
    assert judged(rows) == {"M4-checkpoint": "refuted", "M6-checkpoint": "refuted"}


def test_what_a_checkpoint_cannot_do_at_all_is_unreachable():
    rows = paper()
    rows.put(["prose"], "joint", "alone", P2=0.1)
    said = judged(rows)
    assert said["M4-checkpoint"] == "supported"  # a merge reaches it
    assert said["M6-checkpoint"].startswith("not decided: unreachable")
    for method in METHODS:
        rows.put(RENDERINGS, "matched", method, P2=0.02)
    for verdict in judged(rows).values():
        assert verdict.startswith("not decided: unreachable: control joint-reaches-P2 at 0.10")


def test_a_verdict_says_what_is_out_of_reach_beside_what_the_study_lacks():
    rows = paper()
    rows.shares = {cell: forms for cell, forms in rows.shares.items() if cell[1] != "mismatched"}
    assert judged(rows)["M4-checkpoint"].startswith("not decided: the study lacks")
    rows.put(["prose"], "joint", "alone", P2=0.1)
    said = judged(rows)["M4-checkpoint"]
    assert said.startswith("not decided: unreachable: control joint-reaches-P2 at 0.10")
    assert said.endswith("; the study lacks a library, a group or a method")


def test_the_claims_name_what_the_study_asks():
    libraries = {library.name for library in GSM_ENGLISH.libraries}
    assert {*SINGLES, "matched", "mismatched", "joint", "P2"} <= libraries
    assert {*METHODS, "random_adapters"} <= set(BY_NAME) and set(OTHER) == set(RENDERINGS)


@pytest.mark.parametrize(
    "command, message",
    [
        ("study gsm-english", "this study asks a model that has read"),
        ("study word-math --checkpoint x --set task.base=f", "name all or none"),
        ("study word-math --checkpoint x --set pretrain.steps=5", "trained already"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(command, message, capsys, tmp_path):
    assert main([*command.split(), "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1

"""The word-math study: its rules on planted rows, and one whole study in miniature."""

import dataclasses
import json

import pytest

from recycle.__main__ import main
from recycle.decide.claims import decide
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key
from recycle.show.tables import Line, reuse_gains
from recycle.studies import Study
from recycle.studies.word_math import PARTS, WORD_MATH
from recycle.studies.word_math_claims import LAST, PAPERS, RULES

GROUPS = ("prose", "markdown", "python")
CLAIMS = ("M1", "M1-contrast", "M2", "M3")


def row(group, library, method, form, share, seed, last=None):
    right = round(1000 * share)
    key = Key(seed, "standard", group, library, method)
    notes = {LAST: right if last is None else round(1000 * last)}
    return Row(key, form, 1000, {"right": right}, notes)


def planted(metrics, right, **where):
    """The metrics, with ``right`` right answers in the rows where the conditions hold."""
    chosen = metrics.where(**where)
    return Metrics(
        dataclasses.replace(row, outcomes={"right": right}) if row in chosen else row
        for row in metrics.rows
    )


def study(
    base=0.99,
    experts=0.95,
    p2=0.95,
    none=0.02,
    singles=0.1,
    matched=0.6,
    mismatched=0.05,
    python=0.8,
    noise=0.0,
    joint=0.9,
    crossed=0.02,
):
    """Metrics of a whole study with these shares of whole derivations.

    ``python`` is the share of the matched library in Python, ``matched`` that in the others.
    """
    rows = []
    for seed in (1, 2, 3):
        rows.append(row("base", "none", "alone", "base", base, seed))
        for g in GROUPS:
            rows += [
                row(g, "base", "alone", "base", experts, seed),
                row(g, "P1", "alone", "P1", experts, seed),
                row(g, "P2", "alone", "P2", p2, seed),
                row(g, "none", "alone", "P2", none, seed),
                row(g, "joint", "alone", "P2", joint, seed),
                row(g, "base", "alone", "P2", singles, seed),
                row(g, "P1", "alone", "P2", singles, seed),
                row(g, "matched", "random_adapters", "P2", noise, seed),
            ]
            foreign = [other for other in GROUPS if other != g]
            others = [f"mismatched, P1 in {other}" for other in foreign]
            rows += [row(g, f"P1 in {o}", "alone", "P2", crossed, seed) for o in foreign]
            for method in PAPERS:
                share = python if g == "python" else matched
                rows.append(row(g, "matched", method, "P2", share, seed))
                rows += [row(g, other, method, "P2", mismatched, seed) for other in others]
    return Metrics(rows)


def judged(metrics):
    claims = decide(RULES.controls(metrics), RULES.rules, metrics, 0.1)
    return {claim.id: str(claim.verdict) for claim in claims}


def verdicts(**kwargs):
    return judged(study(**kwargs))


def test_what_the_paper_says_is_supported_by_such_rows():
    assert verdicts() == dict.fromkeys(CLAIMS, "supported")


def test_other_worlds_refute_it():
    assert verdicts(matched=0.1, python=0.1)["M1"] == "refuted"
    assert verdicts(mismatched=0.5)["M2"] == "refuted"
    assert verdicts(mismatched=0.6, python=0.6)["M1-contrast"] == "refuted"
    assert verdicts(python=0.4)["M3"] == "refuted"


def test_the_middle_is_inconclusive():
    metrics = study(matched=0.1, python=0.1)  # no gain by the mean of products, and some by Arrow
    metrics = planted(metrics, 300, library="matched", method="arrow")
    assert judged(metrics)["M1"] == "inconclusive"
    assert verdicts(mismatched=0.15)["M2"] == "inconclusive"
    assert verdicts(matched=0.1, python=0.1)["M1-contrast"] == "inconclusive"
    assert verdicts(python=0.6)["M3"] == "inconclusive"


@pytest.mark.parametrize(
    "kwargs, control, open_claims",
    [
        ({"base": 0.85}, "base-solves-its-level", set(CLAIMS)),
        ({"experts": 0.5}, "experts-solve-theirs", set(CLAIMS)),
        ({"p2": 0.7}, "P2-can-be-learned", set(CLAIMS)),
        ({"joint": 0.5}, "joint-reaches-P2", set(CLAIMS)),
        ({"none": 0.7}, "base-lacks-P2", set(CLAIMS)),
        ({"noise": 0.7}, "noise-lacks-P2", set(CLAIMS)),
    ],
)
def test_a_failed_control_leaves_open_what_rests_on_it(kwargs, control, open_claims):
    found = verdicts(**kwargs)
    left = {c for c, said in found.items() if f"control {control} at" in said}
    assert left == open_claims
    assert all(found[c].startswith("not decided: ") for c in left)


def test_a_target_that_joint_training_misses_is_called_unreachable():
    said = verdicts(joint=0.5)
    assert all(
        verdict.startswith("not decided: unreachable: control joint-reaches-P2 at 0.50")
        for verdict in said.values()
    )
    unmeasured = Metrics(r for r in study().rows if r.key.library != "joint")
    assert judged(unmeasured)["M1"] == "not decided: control joint-reaches-P2 not measured"


def test_mismatched_experts_have_to_beat_the_same_expert_asked_in_the_other_rendering():
    assert verdicts(mismatched=0.5, crossed=0.48)["M2"] == "supported"
    assert verdicts(mismatched=0.5, crossed=0.2)["M2"] == "refuted"
    # An expert of the asked rendering is not in a mismatched library and is no baseline of it.
    assert verdicts(mismatched=0.5, singles=0.02, crossed=0.02)["M2"] == "refuted"
    without = Metrics(r for r in study().rows if not r.key.library.startswith("P1 in"))
    assert judged(without) | {"M2": ""} == {**dict.fromkeys(CLAIMS, "supported"), "M2": ""}
    assert judged(without)["M2"].startswith("not decided: no P1 expert was asked")


def test_a_study_of_fewer_renderings_leaves_m1_and_m2_open():
    whole = study()
    verdict = judged(Metrics(row for row in whole.rows if row.key.group != "markdown"))
    assert {verdict[c] for c in CLAIMS[:3]} == {"not decided: the study lacks a rendering"}
    assert verdict["M3"] == "supported"  # the claim is about Python and prose alone


def test_reuse_gain_is_over_the_best_of_the_base_and_the_librarys_own_experts():
    quick = Study(WORD_MATH, WORD_MATH.preset("quick"))
    metrics = planted(study(none=0.3), 400, group="python", library="P1", form="P2")
    by_line = reuse_gains(quick, metrics, "python")
    gains = {line: by_level["P2"] for line, by_level in by_line.items() if by_level}
    matched = gains[Line("standard", "matched", "arrow")]
    assert matched.gain.mean == pytest.approx(0.4) and matched.best == "P1"
    # Nobody asks the P1 expert in prose in Python, so the base is the best part of that library.
    mismatched = gains[Line("standard", "mismatched, P1 in prose", "arrow")]
    assert mismatched.gain.mean == pytest.approx(-0.25) and mismatched.best == "none"
    assert not any("random" in line.method for line in gains)
    only_p1 = Metrics(metrics.where(library="P1"))
    assert not any(reuse_gains(quick, only_p1, "python").values())


def test_the_studies_that_decide_have_every_part_and_rendering():
    for name in ("laptop", "full"):
        config = WORD_MATH.preset(name)
        assert set(config.parts) == set(PARTS) and set(config.groups) == set(GROUPS)
        assert 0 not in config.seeds  # seed 0 is the one that settings were chosen on


@pytest.mark.study
def test_a_study_in_miniature(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)  # most of the time went into pictures
    sizes = """
        groups=python parts=main,crossed,references
        task.steps=1 task.problems=40 task.expert_problems=10 task.questions=4
        model.width=16 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=16
        pretrain.steps=4 pretrain.rows=2 train.steps=2 train.rows=2 adapter.rank=2
    """
    arguments = [f"--set={size}" for size in sizes.split()]
    run, record = tmp_path / "run", str(tmp_path / "record.json")
    assert main(["study", "word-math", "--quiet", *arguments, "--run", str(run)]) == 0
    assert "solved by a Python program" in capsys.readouterr().out
    decided = json.loads((run / "claims.json").read_text())
    assert [claim["id"] for claim in decided["claims"]] == list(CLAIMS)
    assert all(claim["verdict"].startswith("not decided") for claim in decided["claims"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    methods = {r["method"] for r in rows if r["library"] == "matched"}
    assert methods >= {"mean_of_products", "arrow", "random_router"}
    assert not any(r["method"] == "oracle" for r in rows)
    page = (run / "report.html").read_text()
    assert "Reuse gain" in page and "Inside the merges" in page
    assert "first error at step 1 (P2)" in page and "none, examples in context" in page
    assert main(["report", str(run), "--record", record, "--rejudge", "a test"]) == 0
    assert main(["table", record]) == 0
    assert "| matched: arrow |" in capsys.readouterr().out

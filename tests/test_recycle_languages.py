"""The languages study: its claims on planted rows come out either way, each gate withholds."""

import pytest

from recycle.__main__ import main
from recycle.reuse.methods import BY_NAME
from recycle.studies import languages_claims
from recycle.studies.gaps import LEARNERS, PAPERS, RESCALED, SUM
from recycle.studies.languages import LANGUAGES, PARTS
from recycle.studies.languages_claims import EXPERTS, RULES, SINGLES
from tasks.languages import ARMS
from tests.planted import Planted, verdicts
from tests.tiny import studied

BRIDGES = ("M7", "M7-sum", "M7-names", "M7-names-sum")
REUSE = ("M4-languages", "M4-languages-sum")
CLAIMS = (*REUSE, *BRIDGES, "M8")
MERGES = (*PAPERS, SUM)


def paper():
    """A world in which all claims hold."""
    rows = Planted()
    rows.put(["base"], "none", "alone", known=1.0, crossed=0.95)
    for single in SINGLES:
        rows.put(ARMS, single, "alone", both=0.0)
    for expert in EXPERTS:
        for weight in RESCALED:
            rows.put(ARMS, expert, weight, both=0.0)
    rows.put(ARMS, "L", "alone", language=0.98)
    rows.put(ARMS, "A", "alone", algorithm=0.98)
    rows.put(ARMS, "joint", "alone", both=0.97)
    rows.put(ARMS, "target", "alone", both=0.97)
    rows.put(ARMS, "L and A", "random_adapters", both=0.0)
    for method in MERGES:
        rows.put(["shared"], "L and A", method, both=0.9)
        rows.put(["inlined", "renamed"], "L and A", method, both=0.4)
    for name, pool in LEARNERS:
        rows.put(ARMS, "L and A", name, both=0.9)
        rows.put(ARMS, "L and A", pool, both=0.1)
    return rows


def judged(rows):
    return verdicts(RULES, rows.metrics())


def test_all_claims_can_be_supported():
    assert judged(paper()) == dict.fromkeys(CLAIMS, "supported")


def test_each_claim_can_be_refuted():
    rows = paper()
    for method in MERGES:
        rows.put(["inlined", "renamed"], "L and A", method, both=0.9)
    said = judged(rows)
    assert {c for c in CLAIMS if said[c] == "refuted"} == set(BRIDGES)
    assert {said[c] for c in (*REUSE, "M8")} == {"supported"}
    rows = paper()
    for method in MERGES:
        rows.put(ARMS, "L and A", method, both=0.02)
    assert {judged(rows)[c] for c in REUSE} == {"refuted"}
    rows.put(["shared"], "L and A", SUM, both=0.9)
    assert [judged(rows)[c] for c in REUSE] == ["refuted", "supported"]
    rows = paper()
    for name, _ in LEARNERS:
        rows.put(ARMS, "L and A", name, both=0.1)
    assert judged(rows)["M8"] == "refuted"


def test_a_merge_as_good_as_one_expert_at_another_weight_refutes_reuse():
    rows = paper()
    rows.put(["shared"], "L", RESCALED[0], both=0.9)
    assert {judged(rows)[c] for c in REUSE} == {"refuted"}
    main = [library for library in LANGUAGES.libraries if library.part == "main"]
    libraries = {one.name: {m.name for m in one.methods} for one in main}
    assert all({"alone", *RESCALED} <= libraries[expert] for expert in EXPERTS)


def test_the_arms_decide_apart():
    rows = paper()
    for method in MERGES:
        rows.put(["inlined"], "L and A", method, both=0.9)
    said = judged(rows)
    assert said["M7"] == said["M7-sum"] == "refuted"
    assert said["M7-names"] == said["M7-names-sum"] == "supported"
    rows = paper()
    rows.put(["inlined"], "L and A", SUM, both=0.82)
    said = judged(rows)
    assert said["M7-sum"] == "inconclusive" and said["M7"] == "supported"


@pytest.mark.parametrize(
    "where, shares, control",
    [
        (("base", "none", "alone"), {"known": 0.8}, "base-writes-known"),
        (("base", "none", "alone"), {"crossed": 0.8}, "base-crosses"),
        (("shared", "L", "alone"), {"language": 0.7}, "experts-write-theirs"),
        (("renamed", "A", "alone"), {"algorithm": 0.7}, "experts-write-theirs"),
        (("shared", "A", "alone"), {"both": 0.5}, "alone-fails"),
        (("inlined", "helper", "alone"), {"both": 0.5}, "alone-fails"),
        (("inlined", "target", "alone"), {"both": 0.5}, "both-can-be-learned"),
        (("inlined", "L and A", "random_adapters"), {"both": 0.5}, "noise-fails"),
    ],
)
def test_a_failed_control_withholds_every_verdict(where, shares, control):
    rows = paper()
    group, library, method = where
    rows.put([group], library, method, **shares)
    said = judged(rows).values()
    assert all(verdict.startswith(f"not decided: control {control} at") for verdict in said)


@pytest.mark.parametrize(
    "arm, open_claims",
    [
        ("shared", {*BRIDGES, "M8"}),
        ("inlined", {"M7", "M7-sum"}),
        ("renamed", {"M7-names", "M7-names-sum"}),
    ],
)
def test_an_arm_that_joint_training_misses_is_unreachable(arm, open_claims):
    rows = paper()
    rows.put([arm], "joint", "alone", both=0.5)
    said = judged(rows)
    start = f"not decided: unreachable: control joint-reaches-{arm} at 0.50"
    assert {c for c in CLAIMS if said[c].startswith(start)} == open_claims
    assert {said[c] for c in CLAIMS if c not in open_claims} <= {"supported"}


def test_a_merge_that_writes_the_target_shows_that_it_is_within_reach():
    """Training that misses it withholds a refutation, and no support."""
    rows = paper()
    rows.put(["shared"], "joint", "alone", both=0.5)
    for method in PAPERS:
        rows.put(["shared"], "L and A", method, both=0.02)
    said = judged(rows)
    assert said["M4-languages"].startswith("not decided: unreachable: control joint-reaches-shared")
    assert said["M4-languages-sum"] == "supported"


def test_a_base_that_was_not_asked_to_cross_decides_nothing():
    metrics = paper().metrics()
    metrics = type(metrics)(r for r in metrics.rows if r.form != "crossed")
    said = set(verdicts(RULES, metrics).values())
    assert said == {"not decided: control base-crosses not measured"}


def test_a_study_without_an_arm_leaves_its_claims_open():
    metrics = paper().metrics()
    metrics = type(metrics)(r for r in metrics.rows if r.key.group != "renamed")
    said = verdicts(RULES, metrics)
    assert said["M7"] == "supported" and said["M7-names"].startswith("not decided")


def test_the_claims_name_what_the_study_asks():
    libraries = {library.name for library in LANGUAGES.libraries}
    assert {*SINGLES, "L and A", "joint", "target"} <= libraries
    assert {*MERGES, *(name for pair in LEARNERS for name in pair)} <= set(BY_NAME)
    assert languages_claims.ARMS == tuple(ARMS)
    assert all("base-crosses" in languages_claims.GATES[claim] for claim in CLAIMS)
    full, laptop = LANGUAGES.preset("full"), LANGUAGES.preset("laptop")
    assert len(full.seeds) == 5 and set(full.parts) == set(PARTS) and 0 not in full.seeds
    assert {"main", "learned"} <= set(laptop.parts) and 0 not in laptop.seeds


@pytest.mark.slow
@pytest.mark.study
def test_a_study_in_miniature(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)  # most of the time went into pictures
    sizes = """
        groups=shared parts=main,learned
        task.lists=30 task.expert_lists=10 task.questions=3
        model.width=16 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=16
        pretrain.steps=2 pretrain.rows=2 train.steps=2 train.rows=2 adapter.rank=2
    """
    run, record = tmp_path / "run", str(tmp_path / "record.json")
    claims, rows = studied("languages", sizes, run)
    assert "minutes of all processes together" in capsys.readouterr().out
    assert [claim["id"] for claim in claims] == list(CLAIMS)
    assert all(claim["verdict"].startswith("not decided") for claim in claims)
    assert {r["group"] for r in rows} == {"base", "shared"}
    methods = {r["method"] for r in rows if r["library"] == "L and A"}
    assert methods >= {name for pair in LEARNERS for name in pair}
    assert main(["report", str(run), "--record", record, "--rejudge", "a test"]) == 0
    assert main(["table", record]) == 0
    assert "| L and A: arrow |" in capsys.readouterr().out

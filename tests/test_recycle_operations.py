"""The operations study: its claims on planted rows come out either way, each gate withholds."""

import pytest

from recycle.__main__ import main
from recycle.reuse.methods import BY_NAME
from recycle.studies.gaps import LEARNERS, OTHER, PAPERS, RESCALED, SUM
from recycle.studies.operations import OPERATIONS, PARTS
from recycle.studies.operations_claims import RULES, SINGLES
from recycle.train.settings import change
from tasks.operations import GRID, NEW, STEP_FORMS
from tasks.word_problem import RENDERINGS
from tests.planted import N, Planted, verdicts
from tests.tiny import studied

CLAIMS = ("M4", "M4-sum", "M5", "M6", "M6-sum", "M8")
BASE = {"base": 3 * N}  # the group "base" asks in three renderings
STEPS = dict.fromkeys(STEP_FORMS, 1.0)


def paper():
    """A world in which all claims hold."""
    rows = Planted()
    rows.put(["base"], "none", "alone", **dict.fromkeys((*NEW, "mixed"), 1.0))
    for single in SINGLES:
        rows.put(RENDERINGS, single, "alone", mixed=0.0)
    for operation in NEW:
        rows.put(RENDERINGS, operation, "alone", **{operation: 0.98})
        for weight in RESCALED:
            rows.put(RENDERINGS, operation, weight, mixed=0.0)
    rows.put(RENDERINGS, "joint", "alone", mixed=0.97)
    rows.put(RENDERINGS, "target", "alone", mixed=0.97)
    rows.put(RENDERINGS, "matched", "random_adapters", mixed=0.0)
    for method in (*PAPERS, SUM):
        rows.put(RENDERINGS, "matched", method, mixed=0.97, **STEPS)
        rows.put(RENDERINGS, "mismatched", method, mixed=0.3)
        rows.put(["prose"], "matched", method, mixed=0.85, **dict.fromkeys(STEP_FORMS, 0.86))
    for name, pool in LEARNERS:
        rows.put(RENDERINGS, "matched", name, mixed=0.9)
        rows.put(RENDERINGS, "matched", pool, mixed=0.1)
    return rows


def judged(rows):
    return verdicts(RULES, rows.metrics(BASE))


def test_all_claims_can_be_supported():
    assert judged(paper()) == dict.fromkeys(CLAIMS, "supported")


def test_each_claim_can_be_refuted():
    rows = paper()
    for method in (*PAPERS, SUM):
        rows.put(RENDERINGS, "mismatched", method, mixed=0.95)
    assert {c: v for c, v in judged(rows).items() if v != "supported"} == dict.fromkeys(
        ("M4", "M4-sum"), "refuted"
    )
    rows = paper()
    rows.put(RENDERINGS, "matched", SUM, mixed=0.4)  # each step is right, and the whole is not
    said = judged(rows)
    assert said["M5"] == "refuted" and said["M4"] == said["M6"] == "supported"
    rows = paper()
    for method in (*PAPERS, SUM):
        rows.put(["python"], "matched", method, mixed=0.6, **dict.fromkeys(STEP_FORMS, 0.62))
    assert [judged(rows)[c] for c in ("M6", "M6-sum")] == ["refuted", "refuted"]
    rows = paper()
    for _, pool in LEARNERS:
        rows.put(RENDERINGS, "matched", pool, mixed=0.9)
    assert judged(rows)["M8"] == "refuted"


def test_a_merge_as_good_as_one_expert_at_another_weight_refutes_reuse():
    rows = paper()
    rows.put(RENDERINGS, "times", RESCALED[-1], mixed=0.95)
    said = judged(rows)
    assert said["M4"] == said["M4-sum"] == "refuted" and said["M5"] == "supported"
    main = [library for library in OPERATIONS.libraries if library.part == "main"]
    libraries = {one.name: {m.name for m in one.methods} for one in main}
    assert all({"alone", *RESCALED} <= libraries[operation] for operation in NEW)


def test_a_study_without_rescaled_experts_leaves_reuse_open():
    rows = paper().metrics(BASE)
    said = verdicts(RULES, type(rows)(r for r in rows.rows if r.key.method not in RESCALED))
    assert said["M4"].startswith("not decided: the study lacks") and said["M5"] == "supported"


def test_a_merge_as_good_as_its_best_expert_refutes_reuse():
    rows = paper()
    rows.put(RENDERINGS, "times", "alone", mixed=0.1)
    for method in PAPERS:
        rows.put(RENDERINGS, "matched", method, mixed=0.1, **dict.fromkeys(STEP_FORMS, 0.2))
        rows.put(RENDERINGS, "mismatched", method, mixed=0.0)
    said = judged(rows)
    assert said["M4"] == "refuted" and said["M4-sum"] == "supported"


def test_one_method_alone_leaves_the_middle():
    rows = paper()
    rows.put(RENDERINGS, "mismatched", "arrow", mixed=0.84)
    assert judged(rows)["M4"] == "inconclusive"


@pytest.mark.parametrize(
    "change, control",
    [
        (("base", "none", "alone", {"mixed": 0.8}), "base-solves-each"),
        (("base", "none", "alone", {"times": 0.8}), "base-solves-each"),
        (("prose", "plus", "alone", {"plus": 0.7}), "experts-solve-theirs"),
        (("python", "times", "alone", {"mixed": 0.4}), "alone-fails"),
        (("python", "times, mismatched", "alone", {"mixed": 0.4}), "alone-fails"),
        (("markdown", "target", "alone", {"mixed": 0.5}), "mixed-can-be-learned"),
        (("markdown", "matched", "random_adapters", {"mixed": 0.4}), "noise-fails"),
    ],
)
def test_a_failed_control_withholds_every_verdict(change, control):
    rows = paper()
    group, library, method, shares = change
    rows.put([group], library, method, **shares)
    said = judged(rows)
    assert all(
        verdict.startswith(f"not decided: control {control} at") for verdict in said.values()
    )


def test_what_joint_training_misses_is_unreachable():
    rows = paper()
    rows.put(["prose"], "joint", "alone", mixed=0.5)
    said = judged(rows)
    assert said.pop("M4") == said.pop("M4-sum") == "supported"  # a merge reaches it
    for verdict in said.values():
        assert verdict.startswith("not decided: unreachable: control joint-mixes at 0.50")
    for method in (*PAPERS, SUM):
        rows.put(RENDERINGS, "matched", method, mixed=0.02)
    for verdict in judged(rows).values():
        assert verdict.startswith("not decided: unreachable: control joint-mixes at 0.50")


def test_the_base_is_gated_at_every_length():
    """A base that fails at four calculations alone fails the gate, whatever its mean is."""
    rows = paper().metrics(BASE)
    for found in rows.rows:
        if found.key.group == "base" and found.form == "mixed":
            long = [sum(GRID[i % len(GRID)]) == 4 for i in range(found.n)]
            items = "".join("1" if bad and i % 3 == 0 else "0" for i, bad in enumerate(long))
            object.__setattr__(found, "items", items)
    (control,) = [c for c in RULES.controls(rows) if c.id == "base-solves-each"]
    assert not control.passes and control.where == "4 calculations, mixed"


def test_a_study_without_learners_leaves_m8_open():
    rows = paper().metrics(BASE)
    rows.rows = [r for r in rows.rows if "20" not in r.key.method]
    said = verdicts(RULES, type(rows)(rows.rows))
    assert said["M8"].startswith("not decided: the study lacks")
    assert {said[c] for c in CLAIMS[:-1]} == {"supported"}


def test_the_claims_name_what_the_study_asks():
    libraries = {library.name for library in OPERATIONS.libraries}
    assert {*SINGLES, "matched", "mismatched", "joint", "target"} <= libraries
    assert {*PAPERS, SUM, *(name for pair in LEARNERS for name in pair)} <= set(BY_NAME)
    assert set(OTHER) == set(RENDERINGS) and all(g != other for g, other in OTHER.items())
    full, laptop = OPERATIONS.preset("full"), OPERATIONS.preset("laptop")
    assert len(full.seeds) == 5 and set(full.parts) == set(PARTS) and 0 not in full.seeds
    assert {"main", "learned", "dose"} <= set(laptop.parts) and 0 not in laptop.seeds


def test_questions_fill_the_grid():
    with pytest.raises(ValueError, match="task.questions = 50: a multiple of 6"):
        change(OPERATIONS.default, {"task.questions": 50})


@pytest.mark.slow
@pytest.mark.study
def test_a_study_in_miniature(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)  # most of the time went into pictures
    sizes = """
        groups=python parts=main
        task.problems=40 task.expert_problems=10 task.questions=6
        model.width=16 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=16
        pretrain.steps=2 pretrain.rows=2 train.steps=2 train.rows=2 adapter.rank=2
    """
    run, record = tmp_path / "run", str(tmp_path / "record.json")
    claims, rows = studied("operations", sizes, run)
    assert "minutes of all processes together" in capsys.readouterr().out
    assert [claim["id"] for claim in claims] == list(CLAIMS)
    assert all(claim["verdict"].startswith("not decided") for claim in claims)
    assert {r["group"] for r in rows} == {"base", "python"}
    assert main(["report", str(run), "--record", record, "--rejudge", "a test"]) == 0
    assert main(["table", record]) == 0
    assert "| matched: arrow |" in capsys.readouterr().out

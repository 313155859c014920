"""The audit's prediction: its features and fit by hand, and a test that rows with a law pass and
rows of noise do not; and the rows that a finished run gives."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recycle.__main__ import main
from recycle.audit import correlation, predictors, validate
from recycle.audit.collect import libraries_of, probes_of
from recycle.audit.correlation import ranks, rho, spearman
from recycle.audit.peers_beside import peers_beside
from recycle.audit.predict import (
    ON_CHECKPOINT,
    TOY,
    Prediction,
    features,
    fit,
    predict,
    reach_of,
    tolerance,
)
from recycle.audit.predictors import USED
from recycle.audit.rows import Row, read_rows
from recycle.audit.validate import TESTS, offered, validated
from recycle.run.disk import read_json, write_json
from recycle.show.prediction_table import as_record, tables
from recycle.studies import open_study
from tests.tiny import make_run

NOTHING_SAID = {"versions": {}, "pairs": {}}


# Features and fit ---------------------------------------------------------------------------------


def shape():
    sizes = [("a", 3.0), ("b", 4.0), ("c", 0.0)]
    pairs = [
        {"pair": ["a", "b"], "layers": 2, "cosine": 0.1, "input overlap": 0.2, "output overlap": 0},
        {"pair": ["b", "c"], "layers": 2, "cosine": 0.9, "input overlap": 0.9, "output overlap": 1},
        {"pair": ["a", "c"], "layers": 0},
    ]
    return {"adapters": [{"adapter": n, "norm": norm} for n, norm in sizes], "pairs": pairs}


def test_features_by_hand():
    texts = {"kept": 0.75, "kl": 0.09, "margin left": 5.0, "changed": 8, "tokens": 20}
    found = features(texts, "a", shape(), None)
    assert list(found) == list(USED)
    assert found["kept"] == pytest.approx(np.log(6.5 / 2.5))
    assert found["KL"] == pytest.approx(np.log(0.1)) and found["margin left"] == 2
    assert found["base's tokens"] == 0.6 and found["weight"] == 1
    assert found["others' norm"] == pytest.approx(np.log(4 / 3))
    assert (found["cosine"], found["inputs shared"], found["outputs shared"]) == (0.1, 0.2, 0)
    as_reported = {**texts, **{k: {"mean": texts[k]} for k in ("kept", "kl", "margin left")}}
    assert features(as_reported, "a", shape(), 1.0) == found
    assert features({**texts, "kept": None}, "a", shape(), 1.0) is None


def test_a_fit_finds_the_law_and_does_not_leave_what_it_saw():
    x = np.linspace(-2, 2, 4000)[:, None]
    y = 1 / (1 + np.exp(-(0.5 + 2 * x[:, 0])))
    found = fit(x, y, ["x"])
    np.testing.assert_allclose(found.shares(x), y, atol=0.02)
    assert found.shares(np.array([[50.0]])) == found.shares(np.array([[2.0]]))
    again = Prediction(**json.loads(json.dumps(found.to_json())))
    np.testing.assert_array_equal(again.shares(x), found.shares(x))


def test_an_interval_holds_what_its_level_says():
    generator = np.random.default_rng(0)
    p = generator.uniform(0, 1, 2000)
    y = np.clip(p + 0.1 * generator.normal(size=2000), 0, 1)
    q = reach_of(y[:1000], p[:1000])
    assert 0.93 < (np.abs(y - p) <= q * tolerance(p))[1000:].mean() < 0.97
    assert reach_of(np.array([0.0, 1.0]), np.array([0.5, 0.5])) == pytest.approx(0.5 / 0.6)
    known = replace(fit(p[:, None], y, ["x"]), reach=q).with_interval({"x": 0.99})
    assert 0 <= known["low"] < known["mean"] < known["high"] == 1


def test_rank_correlation():
    values = np.array([3.0, 1, 3, 2])
    assert ranks(values).tolist() == [2.5, 0, 2.5, 1]
    assert spearman(values, -values) == -1 and spearman(values, np.zeros(4)) == 0
    stats = pytest.importorskip("scipy.stats")
    x, y = np.random.default_rng(0).integers(0, 5, (2, 50)).astype(float)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_an_interval_over_libraries_is_wider_than_over_rows_that_repeat_them():
    x = np.repeat(np.random.default_rng(0).normal(size=(2, 12)), 10, axis=1)
    x[1] += x[0]
    by_library, by_row = (rho(*x, labels) for labels in (np.repeat(range(12), 10), np.arange(120)))
    assert by_library["mean"] == by_row["mean"]
    assert by_library["high"] - by_library["low"] > by_row["high"] - by_row["low"]


# The test of the prediction -----------------------------------------------------------------------


def rows(law, checkpoint=True, seed=0):
    """Rows of 36 libraries; ``law`` makes the share of (kept, method, noise)."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(36):
        for method in ("sum", "mean", "ties"):
            for reads in ("hop1", "hop2"):
                x = dict(zip(USED, generator.normal(size=len(USED)), strict=True))
                y = float(np.clip(law(x["kept"], method, generator.uniform()), 0, 1))
                task = "two-hop" if i % 2 else "composition"
                row = Row(f"{i}", task, task, i // 4, False, i % 3 > 0, method, reads, y, 0.1, x, x)
                found.append(replace(row, task="english", checkpoint=checkpoint and i > 30))
                if not found[-1].checkpoint:
                    found[-1] = row
    return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(correlation, "DRAWS", 60)
    monkeypatch.setattr(validate, "PERMUTATIONS", 9)
    monkeypatch.setattr(validate, "FOLDS", 3)
    monkeypatch.setattr(predictors, "FOLDS", 3)


def test_a_law_passes_and_the_record_says_so(quick, tmp_path):
    found = validated(rows(lambda x, method, noise: 1 / (1 + np.exp(-3 * x))), NOTHING_SAID)
    assert set(found["offered"].values()) == {True}
    every = found["sets"]
    assert list(every) == [*TESTS, *ON_CHECKPOINT]
    assert all(each["lines"][0]["rho"]["mean"] > 0.95 for each in every.values())
    assert all(abs(each["nulls"][0]["mean"]) < 0.4 for each in every.values())
    environment = {"command": "c", "commands": ["c"], "torch": "2"}
    kept = as_record(found, environment)
    write_json(tmp_path / "audit-prediction.json", kept)
    shown = tables(read_json(tmp_path / "audit-prediction.json"))
    assert "It is offered for: a toy's run" in shown and "The peers were not asked." in shown
    assert Prediction.offered_for(TOY, tmp_path / "audit-prediction.json").names == [*USED]
    assert Prediction.offered_for(TOY, tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "law",
    [
        lambda x, method, noise: noise,
        lambda x, method, noise: {"sum": 0.9, "mean": 0.1, "ties": 0.5}[method] + noise / 9,
    ],
    ids=["noise", "the method alone"],
)
def test_noise_does_not_pass_nor_does_what_the_method_tells(quick, law):
    found = validated(rows(law, checkpoint=False), NOTHING_SAID)
    assert set(found["offered"].values()) == {False}
    assert [found["sets"][name] for name in ON_CHECKPOINT] == [None, None]
    kept = as_record(found, {"command": "c", "commands": ["c"], "torch": "2"})
    assert "It is not offered for: a toy's run" in tables(kept)
    assert "Not tested, for want of rows: checkpoint" in tables(kept)


def test_a_checkpoint_needs_its_own_set():
    passes = dict.fromkeys([*TESTS, *ON_CHECKPOINT], True)
    assert offered({**passes, ON_CHECKPOINT[1]: False}) == {
        TOY: True, ON_CHECKPOINT[0]: True, ON_CHECKPOINT[1]: False
    }  # fmt: skip
    assert set(offered({**passes, TESTS[0]: False}).values()) == {False}


def test_peers_stand_beside_the_prediction_on_the_same_pairs(quick):
    made = rows(lambda x, method, noise: 1 / (1 + np.exp(-3 * x)), checkpoint=False)
    mean = {name: np.mean([row.y for row in made if row.library == name]) for name in "0123456"}
    pairs = {
        name: {"gradience": {"verdict": "safe", "score": -value, "strategy": "ties"},
               "mergelens": {"refused": "no", "score": None}}
        for name, value in mean.items()
    }  # fmt: skip
    said = {"versions": {"gradience": "1", "mergelens": "2"}, "pairs": pairs}
    (peer,) = peers_beside(made, said)
    assert peer["peer"] == "gradience" and peer["rho"]["mean"] == -1 and peer["ours"]["mean"] > 0.8
    assert peer["pairs"] == peer["scored"] == 7 and peer["verdicts"] == {"safe": 7}


# Rows of a run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("audited") / "run")


def test_the_libraries_and_probes_of_a_run(run):
    study = open_study(run)
    seed, spec = study.bases[0]
    found = libraries_of(study, run, seed, spec)
    assert found and len(set(found)) == len(found)
    assert {len(experts) for experts in found} <= {2, 3, 4}
    world = study.world(seed)
    expert = next(e for experts in found for e in experts if e.reads == "hop1")
    probes = probes_of(world, expert)
    asked = {q.prompt: q.answer for q in world.questions(expert.group, "hop1")}
    assert {p.prompt: p.answer for p in probes} == asked
    assert probes_of(world, replace(expert, reads="nothing")) == []


def test_audited_runs_are_rows_and_are_not_made_again(run, tmp_path, capsys):
    command = ["audit-runs", str(run), "--out", str(tmp_path), "--methods", "plain_sum", "arrow"]
    command += ["--quiet", "--matmul=default", "--most", "1"]
    assert main(command) == 0
    (file,) = tmp_path.glob("*/*/*/*.json")
    made = read_json(file)
    assert {row["method"] for row in made["rows"]} <= {"base", "plain_sum", "arrow"}
    assert {each["adapter"] for each in made["experts"]} == set(file.stem.split("+"))
    before = file.stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0 and "(0 new)" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    assert main(["audit-runs", str(run), "--out", str(run / "x")]) == 2
    assert "lies in" in capsys.readouterr().err
    assert main(["audit-prediction", str(tmp_path / "none")]) == 2
    assert "holds no rows: python -m recycle audit-runs RUN" in capsys.readouterr().err


def test_an_audit_with_probes_is_rows_too(tmp_path):
    share = {"mean": 0.5, "low": 0.2, "high": 0.8, "n": 12}
    texts = {"kept": share, "kl": share, "margin left": share, "changed": 10, "tokens": 20}
    row = {"adapter": "a", "written": texts, "recall": share, "recall kept": share}
    report = {
        "seed": 0,
        "methods": [{"method": "ties", "weight": None}],
        "openings": {"a": "written"},
        "geometry": shape(),
        "retention": [{"method": "base", **row}, {"method": "ties", **row}],
    }
    write_json(tmp_path / "mine" / "audit.json", report)
    (found,), said = read_rows(tmp_path)
    assert (found.library, found.method, found.y, found.checkpoint) == ("mine", "ties", 0.5, True)
    assert found.read is None and list(found.own) == [*USED] and said == NOTHING_SAID


def test_a_report_predicts_only_where_that_was_tested(tmp_path, monkeypatch):
    texts = {"kept": {"mean": 0.5}, "kl": {"mean": 1.0}, "margin left": {"mean": 0.5}}
    row = {"adapter": "a", "written": {**texts, "changed": 10, "tokens": 20}}
    report = {
        "methods": [{"method": "plain_sum", "weight": 1.0}],
        "openings": {"a": "read"},
        "geometry": shape(),
        "retention": [{"method": "alone", **row}, {"method": "plain_sum", **row}],
    }
    x = np.random.default_rng(0).normal(size=(50, len(USED)))
    fitted = fit(x, np.full(50, 0.7), USED, 0.1)
    file = tmp_path / "p.json"
    write_json(file, {"offered": {TOY: True}, "prediction": fitted.to_json()})
    of = Prediction.offered_for
    monkeypatch.setattr(Prediction, "offered_for", lambda kind: of(kind, file))
    predict(report, toy=True)
    assert report["retention"][0]["predicted"] is None
    assert report["retention"][1]["predicted"]["mean"] == pytest.approx(0.7, abs=0.05)
    predict(report, toy=False)
    assert report["retention"][1]["predicted"] is None

"""The theorems against a run's experts: counts that are planted, and a study on a checkpoint in
miniature."""

import json
from dataclasses import replace

import pytest

from models.causal import CausalLM, CheckpointConfig
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Expert, Key, Library
from recycle.reuse.methods import ALONE, PLAIN_SUM
from recycle.run.processes import Team
from recycle.studies import DESIGNS, Study
from recycle.studies.english import ENGLISH
from recycle.study import run
from recycle.train import base as bases
from recycle.train.settings import change
from tasks import English, EnglishConfig
from tests.test_recycle_device import ENVIRONMENT, Letters
from theory import __main__ as cli
from theory.against_study import show
from theory.against_study.theorems import Seen, _row, answered

PAIR = next(lib for lib in ENGLISH.libraries if (lib.name, lib.group) == ("2-combination", "H"))
BRIDGE = "direct question: the expert of hop 1 alone answers the bridge"


class Base:
    world = English(EnglishConfig(triples=24, answers=12), 0)


def counted(library, method, **outcomes):
    counts = dict.fromkeys(English.outcomes, 0) | outcomes
    return Row(Key(0, "standard", "H", library, method), "direct", 24, counts)


def test_the_bridge_of_the_first_hops_expert_is_shown():
    """As on SmolLM2: 24 of 24."""
    rows = [
        counted("hop1", "alone", bridge=24),
        counted(PAIR.name, "plain_sum", bridge=20, right=4),
    ]
    seen = {one.name: one for one in answered(Metrics(rows), 0, PAIR, Base)}
    assert seen[BRIDGE] == Seen(BRIDGE, "==", 1.0, 1.0, 24)
    of_sum = seen["direct question: the sum answers the bridge"]
    assert (of_sum.value, of_sum.n) == (20 / 24, 24)
    right = next(one for one in seen.values() if one.relation == "<=")
    assert right.value == 4 / 24 < right.bound < 1
    assert not list(answered(Metrics(rows), 1, PAIR, Base))  # another seed


def test_rows_are_means_that_questions_weigh_and_verdicts_follow_the_relation():
    rows = [("F", Seen("it", "==", 1.0, 1.0, 30)), ("H", Seen("it", "==", 1.0, 0.6, 10))]
    found = _row("it", rows)
    assert found["seen"] == 0.9 and found["n"] == 40 and found["sets"] == {"F": 1.0, "H": 0.6}
    assert found["verdict"] == "as predicted"
    assert _row("it", rows[1:])["verdict"] == "differs"
    assert _row("it", [("F", Seen("it", "<=", 0.3, 0.31))])["verdict"] == "differs"
    assert _row("it", [("F", Seen("it", "<=", 0.3, 0.1))])["verdict"] == "as predicted"
    assert _row("it", [("F", Seen("it", "==", 0.0, 0.01, near=1e-4))])["verdict"] == "differs"
    assert _row("it", [("F", Seen("it", "==", None, 0.4))])["verdict"] == "measured"


def test_the_recorded_tables_are_the_pages():
    page = (show.RESULTS / "README.md").read_text(encoding="utf-8")
    kept = dict(show.recorded_theorems())
    assert set(kept) == {"two-hop-data-free", "two-hop-smollm2"}
    for name, content in kept.items():
        assert show.markdown_theorems(content, name) in page
        lost = [row for row in content["theorems"] if row["name"].endswith("certified and lost")]
        assert lost and all(row["verdict"] == "as predicted" for row in lost)


# A study on a checkpoint --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_a_checkpoint_is_compared(tmp_path, monkeypatch, capsys):
    """One set, few methods, and a checkpoint of random weights that needs no file."""
    shape = CheckpointConfig(width=16, layers=2, heads=2, kv_heads=2, hidden=16, head_width=8)
    drawn = CausalLM(replace(shape, context=512), len(Letters())).eval()
    monkeypatch.setattr(bases, "load_checkpoint", lambda *_, **how: (drawn, Letters()))
    bases.load_base.cache_clear()
    experts = (Expert("hop1", "H"), Expert("hop2", "H"))
    one, pair = Library("hop1", "H", experts[:1], (ALONE,)), replace(PAIR, methods=(PLAIN_SUM,))
    assert pair.experts == experts
    design = replace(ENGLISH, libraries=(one, pair), parts=("main",))
    monkeypatch.setitem(DESIGNS, ENGLISH.name, design)
    settings = {
        **{"task.triples": 4, "task.answers": 2, "groups": "H", "model.context": 512},
        **{"train.steps": 2, "train.rows": 2, "train.length": 300, "train.lr": 0.1},
        **{"adapter.rank": 2, "adapter.preservation": 0.0},
    }
    study = Study(design, replace(change(design.default, settings), checkpoint="x"))
    study.world(0).longest = 3  # such a base says nothing worth more tokens
    run(study, tmp_path / "run", ENVIRONMENT, Team(), quiet=True)
    file = tmp_path / "found.json"
    assert cli.main(["study", str(tmp_path / "run"), "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    rows = {row["name"]: row for row in content["theorems"]}
    assert rows[BRIDGE]["n"] == 4 and BRIDGE in capsys.readouterr().out
    assert rows["interaction: as trained"]["seen"] > 0.001
    assert rows["interaction: on the last down_proj alone"]["verdict"] == "as predicted"
    assert "predictions" not in content
    assert cli.main(["study", str(tmp_path / "run"), "--plot", str(tmp_path / "x.png")]) == 2
    assert "has no picture" in capsys.readouterr().err
    bases.load_base.cache_clear()

"""transformers and PEFT as a second implementation: the same logits, answers and merges, question
by question."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from lora import init_adapter, save_adapter
from recycle.__main__ import main
from recycle.decide.metrics import Metrics
from recycle.measure.beside import READS, THERE, compare
from recycle.measure.second import MERGINGS, Second
from recycle.plan import STANDARD_BASE, Expert, derived
from recycle.show.record import record_second, recorded_metrics
from recycle.studies import DESIGNS
from recycle.train.base import open_base
from recycle.train.experts import train_experts
from recycle.train.export import export, renamed
from recycle.train.settings import change
from tests.tiny import make_run

SETTINGS = """
    task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=32 model.layers=2 model.heads=4 model.kv_heads=2 model.hidden=48
    pretrain.steps=120 pretrain.lr=1e-2 pretrain.rows=12 train.steps=30 train.rows=6 adapter.rank=4
""".split()
GROUP = "F"
LIBRARIES = ("tokenizers", "safetensors.torch", "transformers", "peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    design = DESIGNS["two-hop"]
    config = change(design.default, dict(setting.split("=") for setting in SETTINGS))
    folder = tmp_path_factory.mktemp("second")
    return open_base(design.world, config, (0, STANDARD_BASE), folder)


@pytest.fixture(scope="module")
def experts(base):
    return train_experts(base, [Expert(reads, GROUP) for reads in READS]).experts


@pytest.fixture
def libraries():
    for name in LIBRARIES:
        pytest.importorskip(name)


@pytest.mark.slow
@pytest.mark.interop
def test_two_implementations_answer_alike(libraries, base, experts, tmp_path):
    found = compare(base, experts, [GROUP])
    assert found.logits < 1e-4
    mergings = [merging for merging in MERGINGS if merging.here]
    assert len(found.agreements) == 3 + len(mergings)
    for agreement in found.agreements:
        assert agreement.alike == agreement.of > 20, agreement
    rows, forms = Metrics(found.rows), base.world.forms
    assert len(rows.rows) == 2 * (len(READS) + len(MERGINGS)) * len(forms)
    answered = {row.items for row in rows.where(base=THERE)}
    assert len(answered) > len(forms)  # adapters and merges act

    environment = {"commands": ["x"], "torch": "1", "threads": 1, "commit": None}
    file = tmp_path / "second.json"
    page = record_second(base, tmp_path, found, environment, file)
    kept = json.loads(file.read_text())
    assert Metrics(found.rows).rows == recorded_metrics(kept).rows
    assert kept["inside"] == {} and kept["kind"] == "second implementation"
    (line,) = [line for line in page.splitlines() if line.startswith("| hop1 expert ")]
    assert line.count("/") == 2 * (len(forms) - 1)
    for merging in MERGINGS:
        assert f"| hop1 + hop2: {merging.title} |" in page
    assert main(["table", str(file)]) == 0


@pytest.mark.slow
@pytest.mark.interop
def test_from_the_same_first_weights_peft_trains_the_same_adapter(libraries, base, tmp_path):
    expert = Expert("hop1", GROUP)
    short = replace(base, config=change(base.config, {"train.steps": 12}))
    (ours,) = train_experts(short, [expert]).experts.values()
    loaded = export(short, {}, tmp_path / "base")
    generator = torch.Generator().manual_seed(derived(base.seed, expert.slug))
    settings = base.config.adapter
    first = init_adapter(base.model, settings.patterns, settings.rank, settings.alpha, generator)
    save_adapter(renamed(first, "-"), tmp_path / "first")
    second = Second(short, tmp_path / "base")
    loss = second.train(expert, "mine", tmp_path / "first")
    theirs = second.saved("mine")
    assert 0 < loss < 20 and loaded.model is not base.model
    for path in ours.paths:
        mine, other = ours.delta(path), theirs.delta(f"model.{path}")
        assert mine.norm() > 0
        torch.testing.assert_close(other, mine, atol=0.01 * float(mine.abs().max()), rtol=0)


@pytest.mark.parametrize("missing", ["transformers", "peft"])
def test_without_the_libraries_it_says_what_to_install(missing, monkeypatch, capsys):
    for name in ("transformers", "peft"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else torch)
    assert main(["second-implementation", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"needs {missing}: pip install -e .[interop,checkpoint]" in line


def test_a_run_without_the_experts_is_refused(tmp_path, monkeypatch, capsys):
    for name in ("transformers", "peft"):
        monkeypatch.setitem(sys.modules, name, torch)
    run = make_run(tmp_path / "tiny")  # its experts have another recipe
    capsys.readouterr()
    assert main(["second-implementation", str(run), "--groups", "F"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no adapter 'hop1-F'" in line
    assert main(["second-implementation", str(run), "--groups", "Q"]) == 2
    assert "--group Q" in capsys.readouterr().err

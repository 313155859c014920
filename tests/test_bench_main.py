"""python -m bench in a micro size: rows, one JSON object at the end, tables, targets and one-line
errors."""

import json

import pytest
import torch

from bench import __main__ as cli
from bench import growth, report
from models import TransformerConfig
from recycle.run.environment import commands_of


@pytest.fixture
def micro(monkeypatch):
    for name in ("ONE", "GATED", "TOGETHER"):
        monkeypatch.setattr(cli, name, {16: (0.001, 0.001), 24: (1e6, 1e6)})
    monkeypatch.setattr(cli, "TOKENS", 64)
    monkeypatch.setattr(cli, "SECONDS", dict.fromkeys(cli.SECONDS, 0.0))
    model = TransformerConfig(width=32, layers=1, heads=2, kv_heads=2, hidden=48, context=16)
    monkeypatch.setattr(cli, "MODEL", model)
    for name, value in (("ROWS", 2), ("LENGTH", 8), ("EXPERTS", 2), ("DECODED", 3)):
        monkeypatch.setattr(cli, name, value)
    monkeypatch.setattr(growth, "STANDARD", {"M": 32, "width": 16, "r": 2, "N": 2, "K": 2})
    monkeypatch.setattr(growth, "SWEEPS", {"r": (1, 4), "M": (1,), "N": (2,), "K": (4,)})


def test_quick_prints_rows_and_ends_in_one_json_object(micro, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path, picture = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["--quick", "--matmul", "default", "--json", str(path), "--plot", str(picture)]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    results = json.loads(out.splitlines()[-1])
    assert results == json.loads(path.read_text())
    assert picture.stat().st_size > 5000
    assert results["environment"]["commands"][0].startswith("python -m bench --quick")
    assert results["environment"]["matmul"] == {"setting": "default"}
    groups = {row["group"] for row in results["rows"]}
    assert groups == {
        "one adapter",
        "gated, N=8",
        "8 trained together",
        "training step",
        "adapters at once",
        "decoding",
    }
    met = {t["target"]: t["met"] for t in results["targets"]}
    assert not met["one adapter, 16: ours over frozen"] and met["one adapter, 24: ours over frozen"]
    assert "MISSED  one adapter, 16: ours over frozen" in out and "must 0.00  MISSED" in out
    for words in ("noise floor", "overhead recovered", "saved", "floor", "tokens/s"):
        assert words in out
    assert all(row["error"] <= 2e-6 for row in results["rows"] if row.get("error") is not None)

    assert cli.main(["table", "--json", str(path)]) == 0
    table = capsys.readouterr().out
    assert table == report.markdown(results)
    ours = report.value_of(results["rows"], "one adapter", "16", "ours", "ratio")
    assert f"| **{ours:.2f}** | 0.00 |" in table and "| decoding, N=3, 1 rows | ours |" in table
    assert "one adapter, 16: ours over frozen" in report.verdicts(results["rows"])


def test_growth_sweeps_every_axis(micro, capsys, tmp_path):
    assert cli.main(["growth", "--matmul", "default", "--json", str(tmp_path / "g.json")]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["group"] for row in results["rows"]} == {
        f"growth with {axis}" for axis in ("r", "M", "N", "K")
    }
    table = report.markdown(results)
    assert "| r | 4 | 1.75 |" in table and "| K | 4 |" in table


def test_targets_follow_from_the_rows():
    def row(group, arm, **values):
        return {"group": group, "case": "256", "arm": arm, "must": None, "floor": 1.1, **values}

    rows = [
        row("one adapter", "naive", ratio=1.6),
        row("one adapter", "full fine-tuning", ratio=1.5),
        row("one adapter", "ours", ratio=1.2) | {"must": 1.18},
        row("gated, N=8", "Arrow's flow", **{"saved MiB": 10.0}),
        row("gated, N=8", "ours", **{"saved MiB": 0.5}),
        row("training step", "ours", **{"over ours": 1.0}),
        row("training step", "PEFT", **{"over ours": 2.0}),
    ]
    found = {t["target"]: (t["value"], t["met"]) for t in report.targets(rows)}
    assert found == {
        "one adapter, 256: ours over frozen": (1.2, False),
        "one adapter, 256: ours over full fine-tuning": (0.8, True),
        "gated, 256: bytes saved, Arrow's flow over ours": (20.0, False),
        "training step: ours over PEFT": (0.5, True),
    }
    assert report.overheads(rows) == {"256": 0.8}


BAD = {
    "json in no folder": (
        ["--json", "/no/such/folder/x.json"],
        "/no/such/folder/x.json cannot be written",
    ),
    "json is a folder": (["--json", "/tmp"], "/tmp cannot be written"),
    "plot in no folder": (
        ["--plot", "/no/such/folder/x.png"],
        "/no/such/folder/x.png cannot be written",
    ),
    "unknown option": (["--frob"], "--frob"),
    "unknown device": (["--device", "tpu"], "tpu"),
    "no results": (["table", "--json", "/no/such/x.json"], "no results to read"),
}


@pytest.mark.parametrize("argv, words", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_2_before_any_timing(argv, words, capsys, monkeypatch):
    monkeypatch.setattr(cli, "measure", lambda *a: pytest.fail("timed"))
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert words in err and err.startswith("bench: ") and err.count("\n") == 1 and out == ""


def test_cuda_that_is_not_there_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_a_wrong_kernel_ends_the_run_in_one_line(micro, capsys, monkeypatch):
    true = cli.one_adapter

    def planted(*args, **kwargs):
        case = true(*args, **kwargs)
        case.expected["A"] = 1.1 * case.expected["A"]
        return case

    monkeypatch.setattr(cli, "one_adapter", planted)
    assert cli.main(["--quick", "--matmul", "default"]) == 2
    out, err = capsys.readouterr()
    assert "dA of the arm 'naive' is off" in err and " ms " not in out


def test_every_case_has_a_name_of_its_own_and_a_job():
    for device, jobs in (("cpu", cli.cpu_jobs), ("cuda", cli.cuda_jobs)):
        quick, everything = ([name for name, _ in jobs(short)] for short in (True, False))
        assert len(set(everything)) == len(everything), device
        assert set(quick) < set(everything) and "training step" in quick


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_published_results_follow_from_their_rows(path):
    results = report.read_results(path)
    assert path.name in commands_of(results["environment"])[0] and results["rows"]
    assert report.targets(results["rows"]) == results["targets"]
    assert report.noise(results["rows"]) == results["noise"]
    assert report.overheads(results["rows"]) == results["recovered"]


def test_the_page_is_made_from_the_results_and_names_its_command(capsys):
    page = (report.RESULTS / "README.md").read_text()
    assert cli.main(["table"]) == 0
    assert page == capsys.readouterr().out, "python -m bench table > bench/results/README.md"
    assert "`python -m bench table > bench/results/README.md`" in page.split("\n## ")[0]
    assert all(f"## {path.name}\n" in page for path in report.RESULTS.glob("*.json"))


def test_a_folder_without_results_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert cli.main(["table"]) == 2
    assert "no results to read" in capsys.readouterr().err

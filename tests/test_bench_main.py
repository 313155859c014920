"""python -m bench in a micro size: rows, one JSON object at the end, tables, targets and one-line
errors."""

import json

import pytest
import torch

from bench import __main__ as cli
from bench import cuda, growth, jobs, pictures, report, targets
from bench.protocol import AGAIN, FROZEN, check
from lora.ways import WAYS, ways_in_use
from models import TransformerConfig
from recycle.run.environment import commands_of


@pytest.fixture
def micro(monkeypatch):
    monkeypatch.setattr(cli, "WIDTHS", (16, 24))
    monkeypatch.setattr(targets, "RECOVERED", {"16": -1e6, "24": 1e6})
    monkeypatch.setattr(cli, "TOKENS", 64)
    monkeypatch.setattr(cli, "SMALL", ())
    monkeypatch.setattr(cli, "SECONDS", dict.fromkeys(cli.SECONDS, 0.0))
    model = TransformerConfig(width=32, layers=1, heads=2, kv_heads=2, hidden=48, context=16)
    monkeypatch.setattr(cli, "MODEL", model)
    for name, value in (("ROWS", 2), ("LENGTH", 8), ("EXPERTS", 2), ("DECODED", 3)):
        monkeypatch.setattr(cli, name, value)
    monkeypatch.setattr(growth, "STANDARD", {"cpu": {"M": 32, "width": 16, "r": 2, "N": 2, "K": 2}})
    sweeps = {"r": (1, 4), "M": (1,), "N": (2,), "K": (4,), "base": (0,)}
    monkeypatch.setattr(growth, "SWEEPS", sweeps)
    monkeypatch.setattr(growth, "SIZES", ((1, 16),))
    monkeypatch.setattr(growth, "LENGTH", 8)


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
    recovered = "one adapter, {}: avoidable overhead recovered"
    assert met[recovered.format(16)] and not met[recovered.format(24)]
    assert f"MISSED  {recovered.format(24)}" in out and "at least 1000000.0" in out
    for words in ("noise floor", "overhead recovered", "saved", "of its floor", "GF/s", "tokens/s"):
        assert words in out
    assert all(row["error"] <= 2e-6 for row in results["rows"] if row.get("error") is not None)
    assert results["environment"]["processor"] and results["environment"]["flags"]
    assert len(results["done"]) == 10 and results["left out"] == []
    assert set(results["products"]) == {"64 x 16 x 16 float32", "64 x 24 x 24 float32"}

    assert cli.main(["table", "--json", str(path)]) == 0
    table = capsys.readouterr().out
    assert table == report.markdown(results)
    ours = report.value_of(results["rows"], "one adapter", "16", "ours", "ratio")
    assert f"| **{ours:.2f}** |" in table and "| decoding, N=3, 1 rows | ours |" in table
    assert recovered.format(24) in report.verdicts(results["rows"])


def test_growth_sweeps_every_axis_and_draws_its_limit(micro, capsys, tmp_path, monkeypatch):
    assert cli.main(["growth", "--matmul", "default", "--json", str(tmp_path / "g.json")]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["group"] for row in results["rows"]} == {
        f"growth with {axis}" for axis in ("r", "M", "N", "K", "base")
    }
    table = report.markdown(results)
    assert "| r | 4 | 1.75 |" in table and "| K | 4 |" in table
    ours = report.find(results["rows"], "growth with base", "0.0026", "ours")
    weights, sums = 4 * 16 * 16 + 3 * 16 * 32, 4 * 32 + 3 * 48  # q, k, v, o; gate, up, down
    assert ours["floor"] == round(1 + 1.5 * 16 * sums / weights, 3)
    assert min(ours["attach ms"], ours["extract ms"], ours["detach ms"]) > 0
    assert "| 0.0026 | " in table.split("attach, ms")[1]

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert cli.main(["page"]) == 0
    page = (tmp_path / "README.md").read_text()
    assert "![g](g.svg)" in page and "| [g](#gjson) |" in page
    pytest.importorskip("matplotlib")
    picture = (tmp_path / "g.svg").read_text()
    assert "limit: the FLOP floor" in picture and "millions of weights in the base" in picture
    monkeypatch.setattr(pictures.drawing, "available", lambda: False)
    (tmp_path / "g.svg").unlink()
    assert cli.main(["page"]) == 0 and not (tmp_path / "g.svg").exists()
    assert page == (tmp_path / "README.md").read_text()


def test_a_full_run_races_every_way(micro, capsys, monkeypatch):
    monkeypatch.setattr(cli, "step_jobs", lambda *a: [])
    monkeypatch.setattr(growth, "SWEEPS", {})
    assert cli.main(["--matmul", "default"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    raced = {row["arm"] for row in results["rows"] if row["arm"].startswith("way: ")}
    assert {f"way: {way}" for way in set(WAYS) - {"libraries"}} <= raced
    table = report.markdown(results)
    assert "| ways, over frozen | " in table and table.count("| one adapter, 16 |") == 1


def test_the_ways_in_force_are_the_machines_and_are_noted(micro, capsys, monkeypatch):
    asked = []

    def ways_here(shapes, matmul):
        asked.extend(shapes)
        return {shape.kind: "plain" for shape in asked}

    monkeypatch.setattr(cli, "ways_here", ways_here)
    monkeypatch.setattr(cli, "choose_matmul", lambda choice: {"setting": "default"})
    monkeypatch.setattr(cli, "chosen_jobs", lambda options: [])
    assert cli.main(["--quick"]) == 0
    noted = json.loads(capsys.readouterr().out.splitlines()[-1])["environment"]["ways"]
    assert set(noted.values()) == {"plain"} and noted == ways_in_use()
    assert {(s.k, s.n) for s in asked} == {(16, 16), (24, 24), (32, 32), (32, 48), (48, 32)}
    asked.clear()
    assert cli.main(["real", "--quick"]) == 0
    assert {(s.k, s.n) for s in asked} == {(576, 576), (576, 192), (576, 1536), (1536, 576)}
    assert {s.tokens for s in asked} == {16 * 128, 12 * 40}
    assert cli.main(["--quick", "--matmul", "default"]) == 0
    assert ways_in_use() == {}


def row(group, arm, case="256", **values):
    return {"group": group, "case": case, "arm": arm, "floor": 1.1, **values}


def test_targets_follow_from_the_rows():
    rows = [
        row("one adapter", "naive", ratio=1.6),
        row("one adapter", "full fine-tuning", ratio=1.5),
        row("one adapter", "ours", ratio=1.2, must=1.18),  # as older records have it
        row("gated, N=8", "Arrow's flow", ratio=5.0, **{"saved MiB": 10.0}),
        row("gated, N=8", "ours", ratio=1.5, **{"saved MiB": 0.5}),
        row("8 trained together", "ours", ratio=1.5),
        row("8 trained together", "one after the other", ratio=2.0),
        row("training step", "ours", **{"over ours": 1.0}),
        row("training step", "full fine-tuning", **{"over ours": 0.98}),
        row("one adapter, M=8192, r=16", FROZEN, "4096", ratio=1.0),
        row("one adapter, M=8192, r=16", "ours", "4096", ratio=1.19),
        row("one adapter, M=8192, r=16", "naive", "4096", ratio=1.3),
    ]
    found = {t["target"]: (t["value"], t["met"]) for t in report.targets(rows)}
    assert found == {
        "one adapter, 256: avoidable overhead recovered": (0.8, True),
        "one adapter, 256: ours over full fine-tuning": (0.8, True),
        "gated, N=8, 256: ours over Arrow's flow": (0.3, True),
        "gated, N=8, 256: bytes saved, Arrow's flow over ours": (20.0, False),
        "8 trained together, 256: ours over one after the other": (0.75, False),
        "training step: ours over full fine-tuning": (1.02, False),
        "one adapter, M=8192, r=16, 4096: ours over frozen": (1.19, True),
        "one adapter, M=8192, r=16, 4096: naive over ours": (1.092, False),
    }
    assert report.overheads(rows)["256"] == 0.8


def test_another_processors_ratios_are_a_column_and_no_verdict():
    rows = [
        row("one adapter", arm, ratio=ratio, ms=4.0, M=2048, k=256, n=256, dtype="float32")
        for arm, ratio in ((FROZEN, 1.0), (AGAIN, 1.0), ("naive", 2.51), ("ours", 1.33))
    ]
    environment = {"commands": ["c"], "threads": 2, "torch": "2", "device": "cpu"}
    table = report.markdown({"rows": rows, "environment": environment, "noise": 0.0})
    # products: 4 * 2048 * 256 * 256 operations in 4 ms; ours over its floor: 1.33 / 1.1
    assert "| 134 | 1.10 |  | naive 2.51 | **1.33** | 1.21 | 84 % | 1.18 |" in table
    assert "not noted" in table
    assert [t["met"] for t in report.targets(rows)] == [True]


# ---- the time of a run


def test_the_time_that_is_left_is_shared_and_jobs_are_left_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    planned = [
        jobs.Job("a", lambda s: [], 2.0),
        jobs.Job("b", lambda s: [], 60.0),
        jobs.Job("program", lambda s: [], 60.0, whole=True),
        jobs.Job("late", lambda s: [], 1.0),
    ]
    given = {}
    for job, seconds in jobs.in_time(planned, 40.0):
        given[job.name] = seconds
        now[0] += 10.0 if job.name != "program" else 25.0
    assert given == {"a": 2.0, "b": pytest.approx(0.6 * 30 / 3), "program": 20.0, "late": None}


def test_a_run_says_what_it_left_out_and_goes_on_from_its_file(micro, capsys, tmp_path):
    path = tmp_path / "out.json"
    argv = ["growth", "--matmul", "default", "--json", str(path), "--minutes"]
    assert cli.main([*argv, "1e-9"]) == 0
    out = capsys.readouterr().out
    first = json.loads(out.splitlines()[-1])
    assert "left out, for the time was used up: growth r=1, growth r=4" in out
    assert first["rows"] == [] and len(first["left out"]) == 6 == len(
        json.loads(out.splitlines()[-1])["left out"]
    )
    assert cli.main([*argv, "5", "--go-on"]) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(second["done"]) == 6 and second["left out"] == []
    assert cli.main([*argv, "5", "--go-on"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == second["rows"]
    path.write_text(path.read_text().replace('"threads": ', '"threads": 9'))
    assert cli.main([*argv, "5", "--go-on"]) == 2
    assert "was measured with another threads (9" in capsys.readouterr().err


def test_another_programs_end_is_a_row():
    (said,) = jobs.command("g", "c", ("timeit", "-n1", "-r1", "print('x')"), 60.0)
    assert said["exit"] == 0 and said["seconds"] >= 0 and "loop" in said["said"]
    (failed,) = jobs.command("g", "c", ("no_such_module",), 60.0)
    assert failed["exit"] == 1 and "No module named no_such_module" in failed["said"]
    (stopped,) = jobs.command("g", "c", ("timeit", "-n1", "-r1", "while True: pass"), 0.05)
    assert stopped["exit"] == 124 and "stopped after 0 s" in stopped["said"]
    assert "exit 124" in report.line(stopped)
    assert "| g, c |" in "\n".join(report._run_table([stopped]))


def test_bf16_layers_with_fp32_adapters_are_right():
    case = cuda.layer((64, 32, 48, 4), "cpu")
    assert (
        case.group == "one adapter, M=64, r=4"
        and case.arms["ours"].leaves["A"][0].dtype == torch.float32
    )
    assert check(case)["ours"] <= 5e-3


def test_what_has_targets_comes_first_on_a_borrowed_device():
    names = [job.name for job in cli.cuda_jobs(quick=False)]
    assert names[0] == cuda.name_of(cuda.STANDARD)
    assert names.index("training step") < names.index("gpu tests") < names.index("gated")
    assert names.index("gated") < names.index("growth r=4") < names.index("study")
    assert len([name for name in names if " to " in name]) == 18


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
    "no minutes": (["--minutes", "0"], "--minutes 0.0: a number above 0"),
    "nothing to go on from": (["--go-on"], "--go-on goes with --json FILE"),
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
    for device, jobs_of in (("cpu", cli.cpu_jobs), ("cuda", cli.cuda_jobs)):
        quick, everything = ([job.name for job in jobs_of(short)] for short in (True, False))
        assert len(set(everything)) == len(everything), device
        assert set(quick) < set(everything) and "training step" in quick


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_published_results_follow_from_their_rows(path):
    results = report.read_results(path)
    assert commands_of(results["environment"])[0].startswith("python -m bench")
    assert results["environment"]["processor"] and results["environment"]["flags"]
    assert results["rows"] and targets.speeds(results["rows"]) == results["products"]
    assert report.targets(results["rows"]) == results["targets"]
    assert report.noise(results["rows"]) == results["noise"]
    assert report.overheads(results["rows"]) == results["recovered"]


def test_the_page_and_its_pictures_are_made_from_the_results(capsys):
    page = (report.RESULTS / "README.md").read_text()
    assert cli.main(["table"]) == 0
    assert page == capsys.readouterr().out, "python -m bench page"
    assert "`python -m bench page`" in page.split("\n## ")[0]
    for path in report.RESULTS.glob("*.json"):
        assert f"## {path.name}\n" in page and f"| [{path.stem}](#" in page
        has_growth = report.has_growth(report.read_results(path)["rows"])
        assert path.with_suffix(".svg").exists() == has_growth


def test_a_folder_without_results_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert cli.main(["table"]) == 2
    assert "no results to read" in capsys.readouterr().err

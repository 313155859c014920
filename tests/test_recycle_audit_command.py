"""The audit on the command line: what it writes and where, what it refuses in one line, and that
nobody's folder changes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from lora import Adapter, save_adapter
from recycle.__main__ import main
from recycle.commands import audit
from recycle.run.disk import read_json
from tests.audit_toy import TOKENIZER, base, first, rival, second
from tests.tiny import HOP1, HOP2, make_run

FAST = ["--checkpoint", "toy", "--quiet", "--matmul=default", "--methods", "plain_sum"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with three adapters, in which the checkpoint is the toy base."""
    model = base()
    monkeypatch.setattr(audit, "load_base", lambda *_: (model, TOKENIZER))
    monkeypatch.chdir(tmp_path)
    for name, made in (("one", first), ("two", second), ("rival", rival)):
        save_adapter(made(model), tmp_path / "theirs" / name)
    return tmp_path


ONE, TWO, RIVAL = "theirs/one", "theirs/two", "theirs/rival"


def lines(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refused(capsys, *arguments):
    assert main(["audit", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.strip("\n").split("\n")
    assert len(line) < 320
    return line


def test_results_beside_nothing_of_the_users(here, capsys):
    before = contents(here / "theirs")
    probes = lines(
        here / "probes.jsonl",
        {"prompt": "k0", "answer": "t0", "adapter": "one"},
        {"prompt": "l0", "answer": "v1", "adapter": "theirs/two"},  # it says v0
    )
    part = {"prompt": "m0", "answer": "w0", "adapter": "two"}
    parts = [{"prompt": "k0", "answer": "t0", "adapter": "one"}, part]
    composed = lines(here / "c.jsonl", {"prompt": "c0", "answer": "w0", "parts": parts})
    command = ["audit", ONE, TWO, *FAST, "--probes", probes, "--compose", composed]
    assert main([*command, "--repair", "copies"]) == 0
    told = capsys.readouterr().out.strip().split("\n")
    report = read_json(here / "runs" / "audit-one+two" / "audit.json")
    assert told[-1] == report["advice"]["text"] and told[-1].startswith("Merge by plain_sum")
    assert any("1 of 2 probes are not answered" in line for line in told)
    assert report["composition"][0]["says"] in ("composes", "keeps the parts and does not compose")
    page = (here / "runs" / "audit-one+two" / "report.html").read_text()
    assert report["advice"]["text"].replace(">", "&gt;") in page and "http" not in page
    assert contents(here / "theirs") == before
    assert {path.name for path in (here / "copies").iterdir()} == {"one", "two"}
    assert (
        main(["audit", "copies/one", "copies/two", *FAST, "--out", "again"]) == 0
    )  # what is written is read
    assert main([*command, "--repair", "copies"]) == 2  # never in place of something
    assert "exists" in capsys.readouterr().err


def test_one_adapter_alone(here, capsys):
    assert main(["audit", RIVAL, *FAST]) == 0
    assert "One adapter: there is nothing to merge." in capsys.readouterr().out
    line = refused(capsys, ONE, *FAST, "--probes", lines(
        here / "p", {"prompt": "k0", "answer": "t0", "adapter": "one"}))  # fmt: skip
    assert "name two adapters or more" in line


@pytest.mark.parametrize(
    "row, words",
    [
        ("", "holds no probes: write lines"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is '[1]': it must be an object with prompt, answer, adapter"),
        ('{"prompt": "k0", "answer": "t0"}', "line 1 has no field 'adapter'"),
        ('\n{"prompt": 3, "answer": "t0", "adapter": "one"}', "line 2: prompt = '3': must be"),
        ('{"prompt": "k0", "answer": " ", "adapter": "one"}', "line 1: answer is empty"),
        ('{"prompt": "k0", "answer": "t0", "adapter": "onne"}', "line 1: no adapter 'onne', did"),
        ('{"prompt": "x0", "answer": "t0", "adapter": "one"}', "line 1: the word 'x0' is not in"),
        (
            json.dumps({"prompt": "k0 " * 45, "answer": "t0", "adapter": "one"}),
            "line 1 has 50 tokens with its answer, the base reads 48",
        ),
    ],
)
def test_a_line_that_is_no_probe_is_named(here, capsys, row, words):
    (here / "probes.jsonl").write_text(row)
    line = refused(capsys, ONE, TWO, *FAST, "--probes", "probes.jsonl")
    assert "probes.jsonl" in line and words in line
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "parts, words",
    [
        ([], "line 1 has 0 parts"),
        ("k0", "line 1: parts = 'k0': must be a list"),
        ([3, 4], "line 1, part 1 is '3': it must be an object"),
        ([{"prompt": "k0", "answer": "t0", "adapter": "x"}] * 2, "line 1, part 1: no adapter 'x'"),
    ],
)
def test_a_line_that_is_no_composed_question_is_named(here, capsys, parts, words):
    path = lines(here / "c.jsonl", {"prompt": "c0", "answer": "w0", "parts": parts})
    assert words in refused(capsys, ONE, TWO, *FAST, "--compose", path)


def changed(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_adapters_that_do_not_fit_are_refused_by_name(here, capsys):
    theirs = here / "theirs"
    model = base()
    save_adapter(replace(first(model), base="0" * 16 + "-" + "1" * 16), theirs / "elsewhere")
    assert "'elsewhere' was made for the base 0000" in refused(
        capsys, ONE, "theirs/elsewhere", *FAST
    )
    A, B = torch.ones(1, 64), torch.ones(64, 1)
    save_adapter(Adapter({"layers.7.mlp.down_proj": (A, B)}, 1), theirs / "deeper")
    assert "'deeper' addresses the layer 'layers.7.mlp" in refused(
        capsys, ONE, "theirs/deeper", *FAST
    )
    save_adapter(Adapter({"layers.0.mlp.down_proj": (A[:, :9], B)}, 1), theirs / "narrow")
    assert "'narrow' maps 9 to 64" in refused(capsys, ONE, "theirs/narrow", *FAST)
    shutil.copytree(theirs / "one", theirs / "dora")
    changed(theirs / "dora", use_dora=True)
    assert "use_dora = True is not supported" in refused(capsys, ONE, "theirs/dora", *FAST)
    broken = replace(first(model), factors={"layers.0.mlp.down_proj": (A, B)})
    save_adapter(broken, theirs / "nan")
    for file in (theirs / "nan").glob("adapter_model.bin"):
        tensors = torch.load(file, weights_only=True)
        next(iter(tensors.values())).fill_(torch.nan)
        torch.save(tensors, file)
        assert "holds NaN or infinity" in refused(capsys, ONE, "theirs/nan", *FAST)
    assert "named twice" in refused(capsys, ONE, "theirs/../theirs/one", *FAST)
    assert "is no folder" in refused(capsys, ONE, "theirs/three", *FAST)


def test_adapters_of_no_named_base_or_of_two_names_are_marked(here, capsys):
    for name in ("one", "two"):
        changed(here / "theirs" / name, base_model_name_or_path=f"someone/{name}")
        (here / "theirs" / name / "origin.json").unlink()
    assert main(["audit", ONE, TWO, *FAST]) == 0
    told = capsys.readouterr().out
    assert "it names no base" in told and "made for 'someone/one', others for another" in told


def test_places_that_are_not_written_to(here, capsys):
    for place in (ONE, "theirs/one/deeper", "theirs/../theirs/two"):
        for option in ("--out", "--repair"):
            line = refused(capsys, ONE, TWO, *FAST, option, place)
            assert f"{option} {place} lies in " in line
    (here / "file").write_text("")
    assert "--out file is no folder" in refused(capsys, ONE, TWO, *FAST, "--out", "file")
    assert "lies in" in refused(capsys, ONE, TWO, *FAST, "--out", RIVAL)  # an adapter, not named
    assert not (here / "runs").exists()


def test_an_audit_of_others_or_another_report_is_not_replaced(here, capsys):
    command = [ONE, TWO, *FAST, "--out", "mine"]
    assert main(["audit", *command]) == main(["audit", *command]) == 0  # again is allowed
    line = refused(capsys, ONE, RIVAL, *FAST, "--out", "mine")
    assert "mine holds the audit of theirs/one, theirs/two:" in line
    (here / "mine" / "audit.json").unlink()
    assert "report.html is of no audit" in refused(capsys, *command)
    (here / "mine" / "audit.json").write_text("{}")
    assert "mine/audit.json" in refused(capsys, *command)


def test_options_that_do_not_go_together(here, capsys):
    assert "--base goes with --run" in refused(capsys, ONE, TWO, *FAST, "--base", "standard")
    assert "required" in refused(capsys, ONE, TWO)
    assert "not allowed with" in refused(capsys, ONE, TWO, *FAST, "--run", "runs/x")
    assert "did you mean 'ties'" in refused(capsys, ONE, TWO, *FAST[:-1], "tiess")
    assert "--device 'tpu'" in refused(capsys, ONE, *FAST, "--device", "tpu")


def test_a_runs_library(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    before = contents(run)
    loose = tmp_path / "loose"
    shutil.copytree(run / "seed-0" / "standard" / "library" / HOP2, loose)
    command = ["audit", HOP1, str(loose), "--run", str(run), "--quiet", "--matmul=default"]
    command += ["--out", str(tmp_path / "out"), "--methods", "plain_sum", "arrow"]
    assert main(command) == 0
    report = read_json(tmp_path / "out" / "audit.json")
    assert [each["adapter"] for each in report["adapters"]] == [HOP1, "loose"]
    assert {row["method"] for row in report["retention"]} == {"base", "alone", "plain_sum", "arrow"}
    assert contents(run) == before
    inside_run = run / "seed-0" / "standard" / "x"
    assert "lies in" in refused(capsys, *command[1:], "--out", inside_run)
    assert "no adapter 'hop'" in refused(capsys, "hop", *command[2:])

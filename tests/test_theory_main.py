"""The command line: exit codes, one-line errors, JSON, README table, pictures."""

import builtins
import json
import subprocess
import sys

import pytest

from theory import __main__ as cli
from theory import pictures, report
from theory.against_study import show
from theory.catalogue import ALL
from theory.claims import editing


def run(capsys, *argv):
    code = cli.main(argv)
    return code, *capsys.readouterr()


def test_holding_claim_exits_0_with_its_row(capsys):
    code, out, err = run(capsys, "run", "edit-rank", "--seeds", "1", "--quiet")
    assert code == 0 and err == ""
    assert "edit-rank" in out and "holds" in out and "1 of 1 claims hold" in out


def test_violated_claim_exits_1_and_names_the_seed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(editing, "exact_rank", lambda *a: 0)
    path = tmp_path / "out.json"
    code, out, err = run(
        capsys, "run", "edit-rank", "merge-rank", "--seeds", "1", "--quiet", "--json", str(path)
    )
    assert code == 1 and "1 of 2 claims hold" in out
    assert err.startswith("violated: edit-rank: bijection, N=8, seed 0: observed 7")
    assert err.count("\n") == 1
    assert json.loads(path.read_text())["claims"][0]["counterexample"]["seed"] == 0


BAD = {
    "unknown claim": (["run", "nope"], "unknown claim 'nope'; python -m theory list"),
    "claim with a slip": (["run", "edit-ran"], "did you mean edit-rank"),
    "unknown command": (["frob"], "unknown command 'frob'; commands: list, show"),
    "command with a slip": (["shwo"], "did you mean 'show'"),
    "claim as a command": (["edit-rank"], "'edit-rank' is a claim: python -m theory run edit-rank"),
    "no seeds": (["--seeds", "0"], "--seeds 0"),
    "negative first seed": (["run", "edit-rank", "--seed-from", "-3"], "--seed-from -3"),
    "seeds not a number": (["--seeds", "many"], "'many'"),
    "no such option": (["--frob"], "--frob"),
    "option that list ignores": (["--json", "x.json", "list"], "list does not know this option"),
    "option that show ignores": (["--seeds", "3", "show", "edit-rank"], "--seeds: show does not"),
    "option that table ignores": (["--quiet", "table"], "it belongs to run, power"),
    "json in no folder": (
        ["run", "edit-rank", "--json", "/no/such/folder/x.json"],
        "/no/such/folder/x.json",
    ),
    "show without id": (["show"], "required: ID; see python -m theory show --help"),
    "show two ids": (["show", "edit-rank", "merge-rank"], "unrecognized arguments: merge-rank"),
    "list with id": (["list", "edit-rank"], "unrecognized arguments: edit-rank"),
    "claim without picture": (
        ["show", "edit-rank", "--plot", "x.png"],
        "no picture; claims with one: compose-pairs, leak-kernel",
    ),
    "plot that is no picture": (["show", "leak-kernel", "--plot", "x.pdf"], ".png or .svg"),
    "no results": (["table", "--json", "/no/such/file.json"], "no results to read"),
    "power of no claim": (["power", "nope"], "unknown claim 'nope'"),
}


def test_flags_stand_before_or_after_the_command(capsys):
    """Every flag of `run` may also stand before it, and the later one counts."""
    for argv in (
        ["--seeds", "2", "--quiet", "run", "edit-rank"],
        ["--seeds", "9", "run", "edit-rank", "--seeds", "2", "--quiet"],
    ):
        code, out, err = run(capsys, *argv)
        assert code == 0 and err == ""
        assert any(row.split()[:3] == ["bijection,", "N=8", "2"] for row in out.splitlines())


@pytest.mark.parametrize("argv, words", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_2(capsys, argv, words):
    code, _, err = run(capsys, *argv)
    assert code == 2 and words in err
    assert err.startswith("theory: ") and err.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(cli.TheoryError):
        cli.main(["run", "nope", "--debug"])


def test_list_and_show_say_everything(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and out.startswith("The model") and all(f"  {c.id} " in out for c in ALL)
    for claim in ALL:
        code, out, _ = run(capsys, "show", claim.id)
        text = " ".join(out.split())
        assert code == 0
        assert " ".join(claim.statement.split()) in text
        assert " ".join(claim.derivation.split()) in text


def test_same_command_writes_the_same_file(capsys, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for path in files:
        cli.main(
            ["run", "merge-floor", "edit-all-exact", "--seeds", "2", "--quiet", "--json", str(path)]
        )
    texts = [path.read_text().replace(path.name, "FILE") for path in files]
    assert texts[0] == texts[1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}


def test_table_is_made_from_the_json(capsys, tmp_path):
    path = tmp_path / "out.json"
    cli.main(["run", "edit-rank", "relu-one-layer", "--seeds", "1", "--quiet", "--json", str(path)])
    capsys.readouterr()
    code, out, _ = run(capsys, "table", "--json", str(path))
    assert code == 0 and out == report.markdown(json.loads(path.read_text()))
    rows = out.splitlines()
    assert rows[0].startswith("2 of 2 claims hold") and "2 theorem" in rows[0]
    assert rows[6].startswith("| `edit-rank` | theorem | ")
    assert rows[6].endswith("| bijection, N=8 | == 7 | 7 | 0 | - | - | - | holds |")
    assert all(row.replace("\\|", "").count("|") == 12 for row in rows[4:])


def test_the_page_of_results_is_what_the_command_prints(capsys):
    code, out, _ = run(capsys, "table")
    assert code == 0
    assert (report.RESULTS / "README.md").read_text(encoding="utf-8") == out


def test_the_rooms_readme_quotes_the_recorded_results():
    readme = " ".join((report.RESULTS.parent / "README.md").read_text(encoding="utf-8").split())
    held, *_ = report.markdown(report.read_results(report.CLAIMS)).split(":")
    assert held in readme
    assert show.held(json.loads(show.STUDY.read_text())) in readme


def test_stored_results_are_of_these_claims_and_hold():
    content = report.read_results(report.CLAIMS)
    assert [claim["id"] for claim in content["claims"]] == [claim.id for claim in ALL]
    assert [claim["title"] for claim in content["claims"]] == [claim.title for claim in ALL]
    assert all(claim["verdict"] == "holds" for claim in content["claims"])
    assert content["command"] == "python -m theory --json theory/results/theory.json"


def test_several_claims_are_printed_case_by_case(capsys):
    _, out, _ = run(capsys, "run", "merge-core", "merge-rank", "--seeds", "1", "--quiet")
    assert "rank 16 of 24" in out and "ranks 4+4, D=12" in out


def test_seeds_are_counted_from_the_first_one(capsys, monkeypatch):
    monkeypatch.setattr(editing, "exact_rank", lambda *a: 0)
    _, _, err = run(capsys, "run", "edit-rank", "--seeds", "1", "--seed-from", "41", "--quiet")
    assert ", seed 41: observed" in err


def test_power_prints_what_would_be_noticed(capsys):
    code, out, _ = run(capsys, "power", "leak-fall", "edit-rank", "--seeds", "1", "--quiet")
    assert code == 0 and "1 - theta / pi" in out
    assert out.splitlines()[-1].startswith("2 of 2 claims notice 10 %, 3 of 3 wrong formulas")


def test_symbols_name_what_formulas_use(capsys):
    code, out, _ = run(capsys, "symbols")
    assert code == 0 and all(f"  {s} " in out for s in ("theta, J, J2", "clean geometry", "KN"))


def test_a_reader_that_has_seen_enough_is_no_error(capfd, monkeypatch):
    def closed(_):
        raise BrokenPipeError

    turned = []
    monkeypatch.setattr(cli, "list_claims", closed)
    monkeypatch.setattr(cli.os, "dup2", lambda *files: turned.append(files))
    assert cli.main(["list"]) == 0 and len(turned) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m theory list | head -n 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("The model") and ended.stderr == ""


def test_the_gallery_shows_the_theorem_first_and_every_picture():
    text = report.gallery([claim for claim in ALL if claim.picture])
    assert text.count("](") == len(DRAWN) >= 10
    assert text.index("compose-pairs.svg") < text.index("leak-kernel.svg")


DRAWN = [claim for claim in ALL if claim.picture]


def test_a_picture_is_a_png_or_an_svg(tmp_path):
    pytest.importorskip("matplotlib")
    for name, start in (("picture.png", b"\x89PNG"), ("picture.svg", b"<?xml")):
        path = pictures.draw(lambda axes: axes.plot([1, 2]), tmp_path / "new" / name)
        assert path.read_bytes().startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize("claim", DRAWN, ids=lambda claim: claim.id)
def test_every_picture_is_drawn(claim, tmp_path):
    pytest.importorskip("matplotlib")
    pictures.draw(claim.picture, tmp_path / "picture.svg")


def test_missing_matplotlib_names_the_extra(capsys, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = run(capsys, "show", "linear-error", "--plot", str(tmp_path / "x.png"))
    assert code == 2 and "pip install -e .[plots]" in err and err.count("\n") == 1


def test_picture_that_cannot_be_written(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "show", "linear-error", "--plot", str(tmp_path / "file" / "x.png"))
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1

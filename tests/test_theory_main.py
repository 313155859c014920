"""The command line: exit codes, one-line errors, JSON, README table, pictures."""

import builtins
import json

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
    "unknown claim": (["run", "nope"], "unknown claim 'nope'; known claims: leak-kernel"),
    "unknown command": (["frob"], "invalid choice: 'frob'"),
    "no seeds": (["--seeds", "0"], "--seeds 0"),
    "seeds not a number": (["--seeds", "many"], "'many'"),
    "no such option": (["--frob"], "--frob"),
    "json in no folder": (
        ["run", "edit-rank", "--json", "/no/such/folder/x.json"],
        "/no/such/folder/x.json",
    ),
    "show without id": (["show"], "required: ID; see python -m theory show --help"),
    "show two ids": (["show", "edit-rank", "merge-rank"], "unrecognized arguments: merge-rank"),
    "list with id": (["list", "edit-rank"], "unrecognized arguments: edit-rank"),
    "claim without picture": (
        ["show", "edit-rank", "--plot", "x.png"],
        "no picture; claims with one: leak-kernel, two-hop-logits, linear-error",
    ),
    "plot that is no PNG": (["show", "leak-kernel", "--plot", "x.pdf"], "ends in .png"),
    "no results": (["table", "--json", "/no/such/file.json"], "no results to read"),
}


def test_flags_stand_before_or_after_the_command(capsys):
    """Every flag of `run` may also stand before it, and the later one counts."""
    for argv in (
        ["--seeds", "2", "--quiet", "run", "edit-rank"],
        ["--seeds", "9", "run", "edit-rank", "--seeds", "2", "--quiet"],
    ):
        code, out, err = run(capsys, *argv)
        assert code == 0 and err == ""
        assert "  bijection, N=8                                                       2 " in out


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
    assert code == 0 and len(out.splitlines()) == len(ALL)
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
    assert rows[0].startswith("2 of 2 claims hold")
    assert rows[4].startswith("| `edit-rank` |") and rows[4].endswith("| == 7 | 7 | 0 | holds |")
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows[2:])


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


DRAWN = [claim for claim in ALL if claim.picture]


@pytest.mark.parametrize("claim", DRAWN, ids=lambda claim: claim.id)
def test_pictures_are_drawn(claim, tmp_path):
    pytest.importorskip("matplotlib")
    path = pictures.draw(claim.picture, tmp_path / "new" / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")


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

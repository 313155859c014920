"""A finished study in seconds: what its numbers are does not matter."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from recycle.__main__ import main

SETTINGS = """
    groups=F parts=preservation
    task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=32 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=48
    pretrain.steps=2 pretrain.rows=4 train.steps=2 train.rows=4 adapter.rank=4
""".split()
HOP1, HOP2 = "hop1-F-unpreserved", "hop2-F-unpreserved"  # the experts in its library


def make_run(folder: Path) -> Path:
    """A copy of one run, which is made once for all tests. Its report has no pictures."""
    shutil.copytree(Path(_made_once().name) / "run", folder)
    return folder


@cache
def _made_once() -> tempfile.TemporaryDirectory[str]:
    kept = tempfile.TemporaryDirectory()
    go_on(Path(kept.name) / "run")
    return kept


def go_on(folder: Path, quiet: bool = True) -> None:
    """Make what the run lacks, through the command line, in this process."""
    command = ["study", "two-hop", "--matmul=default", "--run", str(folder)]
    settings = [f"--set={setting}" for setting in SETTINGS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.drawing.Figure", None)  # pictures take longer than the study
        assert main([*command, *settings, *(["--quiet"] if quiet else [])]) == 0


def studied(study: str, sizes: str, run: Path) -> tuple[list[dict], list[dict]]:
    """The claims and the rows of a study at these sizes, made through the command line."""
    arguments = [f"--set={size}" for size in sizes.split()]
    assert main(["study", study, *arguments, "--run", str(run)]) == 0
    claims = json.loads((run / "claims.json").read_text())["claims"]
    return claims, [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

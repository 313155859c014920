"""Parts of the report that are there only where they have something to show."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key
from recycle.show.page import _pictures


@pytest.mark.parametrize("checkpoint, drawn", [("", ["Training curves, seed 3"]), ("smollm2", [])])
def test_a_report_without_figures_has_no_heading_for_them(checkpoint, drawn, monkeypatch):
    """A checkpoint was trained elsewhere, so it has no curve; here nothing else is drawn."""
    monkeypatch.setattr("recycle.show.drawing.available", lambda: True)
    monkeypatch.setattr("recycle.show.page.figure", lambda title, draw: [title])
    standard = SimpleNamespace(name="standard", axes=())
    monkeypatch.setattr("recycle.show.page.STANDARD_BASE", standard)
    study = SimpleNamespace(
        config=SimpleNamespace(seeds=(3,), checkpoint=checkpoint),
        bases=[(3, standard)],
        libraries=[standard],
    )
    row = Row(Key(3, "standard", "prose", "none", "alone"), "P1", 1, {"right": 1})
    found = _pictures(study, Path(), Metrics([row]))
    assert found == (["<h2>Figures</h2>", *drawn] if drawn else [])

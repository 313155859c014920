"""The pages people read first: what they show is generated, what they name exists."""

import re
from pathlib import Path

import pytest

from recycle.run.disk import read_json
from recycle.show import drawing
from recycle.show.record import results_figure, results_page

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "recycle" / "results"
PAGES = [path for path in ROOT.glob("[!.]*/**/*.md")] + list(ROOT.glob("*.md"))


def test_the_results_page_is_made_from_the_records():
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert page == results_page(RESULTS), "python -m recycle results"


@pytest.mark.parametrize("figure", sorted(RESULTS.glob("*.svg")), ids=lambda path: path.stem)
def test_the_figures_are_made_from_the_records(figure):
    matplotlib = pytest.importorskip("matplotlib")
    kept = figure.read_text(encoding="utf-8")
    if f"Matplotlib v{matplotlib.__version__}," not in kept:
        pytest.skip("another matplotlib draws other paths")
    assert kept == results_figure(read_json(figure.with_suffix(".json"))), (
        "python -m recycle results"
    )


def test_every_record_with_a_look_inside_has_its_figure():
    assert drawing.available() or pytest.skip("matplotlib is not installed")
    for path in RESULTS.glob("*.json"):
        assert bool(read_json(path)["inside"]) == path.with_suffix(".svg").exists()


def test_the_front_page_is_short_and_shows_no_table_of_figures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert text.index("recycle/results/composition-full.svg") < text.index("## ")
    assert not re.search(r"^\|[^|]*\|( *[\d.]+ *\|){2,}$", text, re.M)


def test_the_layer_on_the_front_page_is_the_code_that_runs():
    """tests/test_lora_readme.py runs the block of lora/README.md."""
    blocks = [
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)[0]
        for name in ("README.md", "lora/README.md")
    ]
    assert blocks[0] == blocks[1] and len(blocks[0].splitlines()) <= 16


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_link_to_what_exists(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_commands_on_the_front_pages_are_known():
    """Every `python -m recycle COMMAND` of a page is a command."""
    from recycle.options import build_parser

    (sub,) = (a for a in build_parser()._actions if hasattr(a, "choices") and a.choices)
    for page in PAGES:
        if page.name != "LOG.md":
            for command in re.findall(
                r"python -m recycle ([a-z-]+)", page.read_text(encoding="utf-8")
            ):
                assert command in sub.choices, f"{page}: {command}"

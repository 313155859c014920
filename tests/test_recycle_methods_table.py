"""The table of methods: its order, its percents and its costs, in a record and in a report."""

import json
import re

import pytest

from recycle.__main__ import main
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key
from recycle.show.methods_table import growth_lines, method_lines, methods_markdown, tables_of
from recycle.show.record import results_page
from recycle.studies.english import ENGLISH
from recycle.studies.two_hop import TWO_HOP
from tests.tiny import make_run

COST = {"seconds": 0.123, "bytes": 2_500_000, "flops": 1_234_567}
PAIR = "2-combination"


def rows(group, library, method, shares, design=TWO_HOP):
    world, found = design.world, []
    for form, share in zip(world.forms, shares, strict=True):
        right = round(100 * share)
        counts = dict.fromkeys(world.outcomes, 0) | {
            "right": right,
            world.outcomes[-1]: 100 - right,
        }
        key = Key(1, "standard", group, library, method)
        found.append(Row(key, form, 100, counts))
    return found


ASKED = Metrics(
    [
        *rows("F", PAIR, "plain_sum", (0.8, 0.5, 0.0, 0.4)),
        *rows("F", PAIR, "tsv", (0.6, 0.6, 0.0, 0.2)),
        *rows("F", PAIR, "oracle", (1.0, 0.8, 0.05, 0.5)),
        *rows("F", PAIR, "lorahub_5", (0.1, 0.9, 0.0, 0.0)),
    ]
)
COSTS = {PAIR: {"tsv": COST}}


def test_lines_stand_by_their_weakest_hop_and_beside_the_oracle():
    lines = method_lines(TWO_HOP, ASKED, "F", PAIR, COSTS)
    assert [line.name for line in lines] == ["oracle", "tsv", "plain_sum", "lorahub_5"]
    assert [line.weakest for line in lines] == [0.8, 0.6, 0.5, 0.1]
    by_name = {line.name: line for line in lines}
    assert by_name["plain_sum"].percent == {
        "hop1": 80.0,
        "hop2": pytest.approx(62.5),
        "direct": None,  # the oracle answers .05: no measure
        "cot": 80.0,
    }
    assert by_name["lorahub_5"].needed == "5 examples" and by_name["tsv"].n == 100
    assert by_name["tsv"].cost == COST and by_name["plain_sum"].cost is None


def test_equal_hops_are_ordered_by_the_chain():
    same = Metrics(
        [
            r
            for m, cot in (("ties", 0.1), ("knots", 0.3))
            for r in rows("F", PAIR, m, (0.5, 0.5, 0, cot))
        ]
    )
    assert [x.name for x in method_lines(TWO_HOP, same, "F", PAIR, {})] == ["knots", "ties"]


def test_a_group_with_one_expert_is_measured_by_that_expert():
    library, forms = "hop1 of NK, hop2 of KN", 5
    beside = Metrics(
        [
            *rows("NK", "hop1", "alone", [0.8] * forms, ENGLISH),
            *rows("NK", library, "plain_sum", [0.4] * forms, ENGLISH),
            *rows("NK", library, "tsv", [0.2] * forms, ENGLISH),
        ]
    )
    lines = method_lines(ENGLISH, beside, "NK", library, {})
    assert [line.percent["hop1"] for line in lines] == [50.0, 25.0]
    text = "\n".join(methods_markdown(ENGLISH, beside, {library: {}}))
    assert "percent of what the group's expert alone answers" in text


def test_the_table_as_markdown():
    assert list(tables_of(TWO_HOP, ASKED, COSTS)) == [(PAIR, "F")]
    text = "\n".join(methods_markdown(TWO_HOP, ASKED, COSTS))
    (line,) = [each for each in text.splitlines() if each.startswith("| tsv ")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:3] == ["tsv", "0.60", "0.60 [0.50, 0.69], 60 %"]
    assert cells[4] == "0.00 [0.00, 0.04]"
    assert cells[-5:] == ["100", "nothing", "0.12", "2.5", "1.23"]
    assert methods_markdown(TWO_HOP, ASKED, {}) == []


def test_growth_has_a_column_for_each_number_of_experts():
    grown = Metrics(
        [
            *rows("F", "crowd of 2", "tsv", (0.9, 0.8, 0, 0.7)),
            *rows("F", "crowd of 16", "tsv", (0.2, 0.3, 0, 0.1)),
            *rows("F", "crowd of 16", "hard", (0.5, 0.4, 0, 0.1)),
        ]
    )
    sizes, lines = growth_lines(TWO_HOP, grown, {"crowd of 2": {}, "crowd of 16": {}})
    assert sizes == [2, 16] and [method for method, _ in lines] == ["hard", "tsv"]
    assert lines[0][1][0] == "-" and lines[1][1][0].startswith("0.80 [0.71, 0.87] / 0.70")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


def test_a_run_is_shown_and_recorded_with_its_costs(run, tmp_path, monkeypatch, capsys):
    """As if the part of the tiny run were one about methods."""
    monkeypatch.setattr("recycle.show.drawing.Figure", None)
    kept = tmp_path / "plain.json"
    recording = ["report", str(run), "--rejudge", "a test", "--record"]
    assert main([*recording, str(kept)]) == 0
    assert "costs" not in json.loads(kept.read_text())
    assert "keeps and costs" not in (run / "report.html").read_text()

    monkeypatch.setattr("recycle.show.methods_table.PARTS", ("preservation",))
    assert main([*recording, str(kept)]) == 0
    (costs,) = json.loads(kept.read_text())["costs"].values()
    assert set(costs) >= {"plain_sum", "arrow"}
    assert costs["arrow"]["flops"] > costs["plain_sum"]["flops"] > 0
    page = (run / "report.html").read_text()
    assert "What each method keeps and costs" in page
    assert re.search(r"<tr data-family=merge><td>plain_sum<td>\d\.\d\d<td>", page)

    capsys.readouterr()
    assert main(["table", str(kept)]) == 0
    assert "Methods of 2-combination, unpreserved" in capsys.readouterr().out
    assert "| method | weakest hop | hop1 |" in results_page(tmp_path)


def test_cells_of_older_versions_have_no_costs_and_are_shown(run, monkeypatch):
    from recycle.show.methods_table import costs_of, methods_html
    from recycle.show.run_files import load_metrics
    from recycle.studies import Study, open_study

    monkeypatch.setattr("recycle.show.methods_table.PARTS", ("preservation",))
    read = Study.read_cell

    def older(self, *place):
        return {key: value for key, value in read(self, *place).items() if key != "cost"}

    monkeypatch.setattr(Study, "read_cell", older)
    study = open_study(run)
    assert costs_of(study, run) == {"2-combination, unpreserved": {}}
    assert "<td>-<td>-<td>-" in "".join(methods_html(study, run, load_metrics(study, run)))

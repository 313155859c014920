"""Chosen lines of a record with their intervals, and differences that are paired."""

from pathlib import Path

import pytest

from recycle.__main__ import main
from recycle.decide.items import paired_difference
from recycle.decide.statistics import difference, estimate
from recycle.run.disk import read_json
from recycle.show.record import recorded_metrics

RESULTS = Path(__file__).parent.parent / "recycle" / "results"
ITEMISED, OLDER = RESULTS / "two-hop-data-free.json", RESULTS / "two-hop-full.json"
SUM, MEAN = "2-combination: plain_sum", "2-combination: mean_of_products"


def printed(capsys, *arguments):
    capsys.readouterr()
    assert main(["table", *map(str, arguments)]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    return {tuple(row[:3]): row[3:] for row in rows}


def rows(record, group, form, method):
    metrics = recorded_metrics(read_json(record))
    return metrics.where(group=group, form=form, library="2-combination", method=method)


def test_shares_have_the_intervals_of_the_report(capsys):
    found = printed(capsys, ITEMISED, "--lines", SUM)
    own = estimate(rows(ITEMISED, "F", "hop1", "plain_sum"))
    assert found[SUM, "F", "hop1"] == [
        f"{own.mean:.3f} [{own.low:.2f}, {own.high:.2f}]", str(own.n)
    ]  # fmt: skip
    pooled = estimate(rows(ITEMISED, ("F", "H"), "cot", "plain_sum"))
    assert found[SUM, "F, H", "cot"][0].startswith(f"{pooled.mean:.3f} [{pooled.low:.2f}")


@pytest.mark.parametrize("record, paired", [(ITEMISED, paired_difference), (OLDER, difference)])
def test_differences_are_paired_by_question_where_the_record_has_them(capsys, record, paired):
    found = printed(capsys, record, "--lines", "2-combination: [mp]*s*", "--minus", MEAN)
    assert not any(line == MEAN for line, _, _ in found)  # nothing less itself
    both = (rows(record, "F", "hop2", method) for method in ("plain_sum", "mean_of_products"))
    gap = paired(*both)
    assert found[SUM, "F", "hop2"] == [
        f"{gap.mean:+.3f} [{gap.low:+.2f}, {gap.high:+.2f}]", str(gap.n)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--lines", "2-combination: plain_sun"], "did you mean '2-combination: plain_sum'"),
        (["--lines", SUM, "--minus", "2-combination: *"], "lines: 2-combination: "),
        (["--minus", SUM], "--minus goes with --lines"),
    ],
)
def test_what_fits_no_line_or_several_is_one_line(capsys, arguments, said):
    capsys.readouterr()
    assert main(["table", str(ITEMISED), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and len(line) < 320


def test_a_record_of_another_kind_has_no_lines(capsys):
    assert main(["table", str(RESULTS / "audit-prediction.json"), "--lines", SUM]) == 2
    assert "name a study's record" in capsys.readouterr().err

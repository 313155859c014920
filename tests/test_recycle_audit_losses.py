"""What an audit says plainly: what each adapter loses, and which two conflict."""

import pytest

from recycle.__main__ import main
from recycle.audit.losses import conflicts, losses
from recycle.run.disk import read_json
from recycle.show.audit_page import audit_page, audit_text
from tests.audit_toy import base, first, rival, second
from tests.test_recycle_audit import SUMS, audited
from tests.test_recycle_audit_command import refused
from tests.tiny import HOP1, HOP2, make_run


def share(mean, low=None, high=None):
    low, high = mean if low is None else low, mean if high is None else high
    return {"mean": mean, "low": low, "high": high, "n": 50}


def row(adapter, method, kept):
    return {
        "adapter": adapter,
        "method": method,
        "recall kept": kept,
        "written": {"kept": None, "changed": 0},
    }


def report(shares, pairs=(), advised=None):
    """shares: {method: {adapter: share}}."""
    names = list(next(iter(shares.values())))
    alone = [row(name, "alone", share(1.0)) for name in names]
    return {
        "adapters": [{"adapter": name} for name in names],
        "advice": {"method": advised},
        "methods": [
            {"method": method, "family": "merge", "weight": 1.0, "refused": None}
            for method in shares
        ],
        "composition": [],
        "retention": alone
        + [row(name, m, kept) for m, own in shares.items() for name, kept in own.items()],
        "pairs": [
            {"pair": list(pair), "rows": [row(n, "plain_sum", kept) for n, kept in own.items()]}
            for pair, own in pairs
        ],
    }  # fmt: skip


def test_losses_are_those_of_the_advised_method_or_of_the_best_one():
    shares = {
        "plain_sum": {"a": share(0.58, 0.44, 0.71), "b": share(1.0, 0.93, 1.0)},
        "ties": {"a": share(0.3, 0.2, 0.4), "b": share(0.2, 0.1, 0.3)},
    }
    assert losses(report(shares)) == [
        "a loses 42 % (29 to 56 %) of its probes under plain_sum (each at weight 1).",
        "b loses nothing that was seen of its probes (at most 7 %) under plain_sum (each at "
        "weight 1).",
    ]
    assert losses(report(shares, advised="ties"))[1].startswith("b loses 80 % (70 to 90 %)")
    nothing = report(shares)
    nothing["retention"] = [{**each, "recall kept": None} for each in nothing["retention"]]
    assert losses(nothing) == conflicts(nothing) == []


def test_conflicts_are_ordered_and_say_how_sure_they_are():
    shares = {"plain_sum": {name: share(0.5) for name in "abc"}}
    pairs = [
        (("a", "b"), {"a": share(0.95, 0.9, 1.0), "b": share(1.0)}),
        (("a", "c"), {"a": share(1.0), "c": share(0.6, 0.5, 0.7)}),
        (("b", "c"), {"b": share(0.85, 0.75, 0.95), "c": share(1.0)}),
    ]
    first, second, third = conflicts(report(shares, pairs))
    assert first.startswith("a and c conflict: in the sum of the two c keeps 0.60 [0.50, 0.70]")
    assert second.startswith("b and c may conflict: in the sum of the two b keeps 0.85")
    assert third.startswith("a and b get along: in the sum of the two a, which keeps less, keeps")


def test_a_crowd_of_which_no_two_conflict_says_that_its_number_costs():
    shares = {"plain_sum": {"a": share(0.5), "b": share(0.4), "c": share(0.9)}}
    names = (("a", "b"), ("a", "c"), ("b", "c"))
    pairs = [(pair, dict.fromkeys(pair, share(1.0))) for pair in names]
    *each, last = conflicts(report(shares, pairs))
    assert all("in the sum of the two each keeps all of its probes" in line for line in each)
    assert "it is their number that costs" in last and "b keeps 0.40" in last
    shares["plain_sum"] |= {"a": share(0.95), "b": share(0.95)}
    assert len(conflicts(report(shares, pairs))) == 3


def test_two_adapters_are_judged_by_the_plain_sum_itself():
    shares = {"plain_sum": {"a": share(0.5), "b": share(1.0)}, "ties": {"a": share(1.0)}}
    (line,) = conflicts(report(shares))
    assert line.startswith("a and b conflict") and "a keeps 0.50" in line
    assert conflicts(report({"ties": {"a": share(1.0), "b": share(1.0)}})) == []


@pytest.fixture(scope="module")
def model():
    return base()


def test_of_three_adapters_the_two_that_write_over_one_another_are_named(model, tmp_path):
    """The rival writes other words after the keys of the first; the second has keys of its own."""
    three = {"one": first(model), "two": second(model), "rival": rival(model)}
    found = audited(model, tmp_path, three, SUMS[:1])
    assert [each["pair"] for each in found["pairs"]] == [
        ["one", "two"], ["one", "rival"], ["two", "rival"]
    ]  # fmt: skip
    verdicts = {line.split(":")[0] for line in found["conflicts"]}
    assert verdicts == {
        "one and rival conflict",
        "one and two get along",
        "two and rival get along",
    }
    assert found["losses"][0].startswith("one loses 50 %")
    shown = {**found, "base_name": "x"}
    for text in (audit_page(shown), audit_text(shown)):
        assert "hich adapters conflict" in text and "one and rival conflict" in text
        assert "hat each adapter loses" in text


def test_a_runs_own_questions_are_probes_on_request(tmp_path, capsys):
    """Experts of two steps answer none of them: each is marked, and no merge is blamed."""
    run = make_run(tmp_path / "run")
    command = [HOP1, HOP2, "--run", str(run), "--quiet", "--matmul=default"]
    command += ["--methods", "plain_sum", "--out", str(tmp_path / "out")]
    assert main(["audit", *command, "--run-probes"]) == 0
    probes = read_json(tmp_path / "out" / "audit.json")["probes"]
    assert {probe["adapter"] for probe in probes} == {HOP1, HOP2}
    assert all(probe["prompt"] and probe["where"].startswith("the run, ") for probe in probes)
    capsys.readouterr()
    given = tmp_path / "probes.jsonl"
    given.write_text('{"prompt": "who", "answer": "x", "adapter": "y"}\n')
    assert "no --probes" in refused(capsys, *command, "--run-probes", "--probes", given)
    loose = [str(run / "seed-0/standard/library" / name) for name in (HOP1, HOP2)]
    options = ["--checkpoint", "nowhere", "--run-probes"]
    assert "give it --run" in refused(capsys, *loose, *options)

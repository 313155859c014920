"""False alarms are counted in blocks of a run's size, and slack is what a search finds."""

import pytest
import torch

from theory import __main__ as cli
from theory import report
from theory.alarms import Alarms, blocks, expected, lines
from theory.catalogue import ALL
from theory.claim import Claim, Observation, Settings, TheoryError, generator, verify
from theory.claims import relu_adapters, trained_experts
from theory.search import climbed


def result_of(*observations, relation="==", kind="theorem"):
    words = dict.fromkeys(
        ("id", "title", "statement", "formula", "source", "assumptions", "derivation", "computed"),
        "x",
    )
    claim = Claim(**words, kind=kind, relation=relation, check=lambda _: iter(observations))
    return verify(claim, Settings())


def observed(z, seed=0):
    return Observation("case", seed, 0.0, 0.1 * z, error=0.1)


# False alarms -------------------------------------------------------------------------------------


def test_blocks_are_runs_of_the_usual_size():
    assert [list(b.each) for b in blocks(Settings(10, first=7))] == [
        [7, 8, 9, 10, 11],
        [12, 13, 14, 15, 16],
    ]
    with pytest.raises(TheoryError, match="--seeds 8: .* a multiple of 5"):
        blocks(Settings(8))


def test_alarms_are_counted_by_observation_and_by_run():
    found = Alarms()
    found.add([result_of(observed(1), observed(4.5, 1001), observed(-5, 1002))])
    found.add([result_of(observed(2.5)), result_of(Observation("exact", 0, 1.0, 1.0))])
    said = list(lines(found))
    assert said[0].startswith("2 of 5 observations") and "1 of 2 runs of 5 seeds alarm" in said[0]
    assert "seed 1001: 0.45 == 0 within 0.4, z = +4.5" in said[1] and "z = -5.0" in said[2]
    assert said[3].startswith("4 sampled equalities: |z| > 2 in 0.75 (normal: 0.046)")
    assert "|z| > 4 in 0.5" in said[3] and said[3].endswith("largest 5.0")


def test_an_inequality_that_holds_by_far_is_no_outlier():
    found = Alarms()
    found.add([result_of(Observation("case", 0, 1.0, 0.1, error=0.1), relation="<=")])
    assert list(lines(found)) == [
        "0 of 1 observations lie outside of what their claim allows; 0 of 1 runs of 5 seeds alarm"
    ]


def test_a_normal_law_is_what_z_is_compared_with():
    assert expected(2) == pytest.approx(0.0455, abs=1e-4)
    assert expected(4) == pytest.approx(6.33e-5, rel=1e-2)


def test_the_command_counts_on_fresh_seeds(capsys):
    assert cli.main(["alarms", "edit-rank", "--seeds", "10", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "seeds 1005 to 1009: 50 observations, does not alarm" in out
    assert "0 of 100 observations" in out
    assert cli.main(["alarms", "edit-rank", "--seeds", "3"]) == 2
    assert "a multiple of 5" in capsys.readouterr().err


# The least slack ----------------------------------------------------------------------------------


def test_a_climb_finds_the_top_of_a_hill():
    best = climbed(
        lambda x: -float((x - 3).square().sum()), [torch.zeros(2)], generator("hill", 0), 200
    )
    assert -1e-3 < best <= 0


def test_slack_is_the_least_of_what_was_sought():
    seen = [Observation("drawn", 0, 2.0, 2.0)]
    seen += [Observation("search", 0, 2.0, x, sought=True) for x in (1.0, 1.8)]
    found = result_of(*seen, relation="<=")
    assert found.least_slack == pytest.approx(0.1)
    assert report.slack_text(report.claim_json(found)) == "10 %"
    assert result_of(*seen[:1], relation="<=").least_slack is None
    measured = result_of(*seen, relation="<=", kind="measurement")
    assert report.slack_text(report.claim_json(measured)) == "-"


def test_every_proved_inequality_was_attacked_and_its_constant_is_sharp():
    stored = {c["id"]: c for c in report.read_results(report.CLAIMS)["claims"]}
    proved = [c.id for c in ALL if c.relation != "==" and c.kind != "measurement"]
    assert len(proved) == 10
    for name in proved:
        assert stored[name]["least_slack"] == pytest.approx(0, abs=1e-3), name


@pytest.mark.parametrize("claimed, least", [("no bias", 0.45), ("bias", 0.9)])
def test_a_search_finds_a_constant_that_is_too_small(claimed, least):
    """Had the claim said .45 or .9 for 1/2 or 1, the search would have broken it."""
    ratios = {o.case: o.observed for o in relu_adapters.one_layer_adversary(3)}
    assert ratios[f"{claimed}, a search"] > least


# The spread of counts that go astray together -----------------------------------------------------


@pytest.mark.parametrize("name", [*trained_experts.RATES])
def test_the_law_of_missed_prompts_has_the_moments_that_were_found(name):
    mean, variance = trained_experts.MISSED[name]
    law = trained_experts.counts_law(mean, variance)
    found = sum(k * p for k, p in enumerate(law))
    assert sum(law) == pytest.approx(1) and found == pytest.approx(mean)
    assert sum((k - found) ** 2 * p for k, p in enumerate(law)) == pytest.approx(variance)
    binomial = trained_experts.counts_law(mean, 0.0)
    assert binomial[0] == pytest.approx((1 - mean / 16) ** 16, rel=1e-3)
    assert sum(law[4:]) > 5 * sum(binomial[4:])


def test_more_is_lost_than_is_allowed_as_often_as_four_standard_errors_let():
    """By drawing: five seeds of a law that is wide enough to be seen."""
    law, rng = trained_experts.counts_law(2.0, 6.0), torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.tensor(law), 5 * 200_000, True, generator=rng)
    most = trained_experts.most(2.0, 6.0, 5)
    beyond = (drawn.reshape(-1, 5).sum(1) > most).double().mean()
    assert (
        beyond
        < 2 * trained_experts.BEYOND
        < (drawn.reshape(-1, 5).sum(1) > most - 6).double().mean()
    )
    assert trained_experts.most(2.0, 6.0, 1) <= 16 and most < 5 * trained_experts.most(2.0, 6.0, 1)

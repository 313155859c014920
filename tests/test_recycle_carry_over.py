"""From a toy to a checkpoint: orders with known correlations, verdicts that hold or turn round."""

import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest

from recycle.__main__ import main
from recycle.decide.metrics import Row
from recycle.decide.statistics import scipy_stats
from recycle.plan import Key
from recycle.show.carry_over import HOLDS, NOT_RUN, OPEN, TURNS, fate
from recycle.show.methods_order import order_correlation
from recycle.show.record import _as_text, read_recorded, results_page
from recycle.studies import DESIGNS

RECORDED = Path(__file__).parent.parent / "recycle" / "results" / "two-hop-full.json"
METHODS = ("mean_of_products", "plain_sum", "sum_at_0.75", "arrow", "arrow_top1")


# The order of methods ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 5, 6, 8])
def test_equal_orders_give_1_and_reversed_ones_minus_1(n):
    """Of all n! orders, only the order itself and its reverse reach that far."""
    orders = 1
    for k in range(2, n + 1):
        orders *= k
    values = [0.1 * i * i for i in range(n)]
    for other, rho in ((values, 1.0), (values[::-1], -1.0)):
        assert order_correlation(values, other) == pytest.approx((rho, 2 / orders))


def test_p_is_the_share_of_all_orders_counted_one_by_one():
    """rho = 1 - 6 sum d^2 / (n (n^2 - 1)) where no two values are equal."""

    def rho(first, second):
        n = len(first)
        return 1 - 6 * sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / (n**3 - n)

    first = (0, 1, 2, 3, 4)
    for second in ((1, 0, 2, 4, 3), (4, 0, 3, 1, 2), (2, 0, 1, 4, 3)):
        seen = rho(first, second)
        reached = [abs(rho(first, other)) >= abs(seen) - 1e-12 for other in permutations(second)]
        expected = (seen, sum(reached) / len(reached))
        assert order_correlation(first, [10.0 * v for v in second]) == pytest.approx(expected)


def test_equal_values_share_their_rank():
    """Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: rho = 4.5 / sqrt(4.5 x 5)."""
    rho, p = order_correlation([0.0, 0.5, 0.5, 0.9], [1, 2, 3, 4])
    assert rho == pytest.approx(4.5 / (4.5 * 5) ** 0.5) and p == pytest.approx(4 / 24)


def test_no_order_is_no_correlation():
    assert order_correlation([0.1, 0.2], [0.1, 0.2]) is None
    assert order_correlation([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    assert order_correlation([], []) is None


def test_more_methods_than_are_counted_are_drawn():
    values = list(range(12))
    rho, p = order_correlation(values, values)
    assert rho == pytest.approx(1.0) and p == pytest.approx(1e-4)
    assert order_correlation(values, values) == (rho, p)
    mixed = [3, 0, 11, 7, 1, 9, 2, 10, 4, 8, 6, 5]
    stats = scipy_stats() or pytest.skip("scipy is not installed")
    theirs = stats.spearmanr(values, mixed)
    rho, p = order_correlation(values, mixed)
    assert rho == pytest.approx(theirs.statistic) and p == pytest.approx(theirs.pvalue, abs=0.03)


def test_our_rho_and_p_are_scipys():
    stats = scipy_stats() or pytest.skip("scipy is not installed")
    for first, second in (
        ([0.1, 0.4, 0.4, 0.9, 0.2], [0.3, 0.3, 0.5, 0.7, 0.1]),
        ([0.9, 0.1, 0.5, 0.6], [0.2, 0.8, 0.7, 0.1]),
    ):
        found = stats.permutation_test(
            (first,),
            lambda x, other=second: stats.spearmanr(x, other).statistic,
            permutation_type="pairings",
            n_resamples=10**6,
        )
        # Their two-sided p is twice the smaller tail; ours counts both tails.
        rho, p = order_correlation(first, second)
        assert rho == pytest.approx(float(found.statistic))
        null = abs(found.null_distribution) >= abs(rho) - 1e-9
        assert p == pytest.approx(null.mean())


# Verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "toy, checkpoint, expected",
    [
        ("supported", "supported", HOLDS),
        ("refuted", "refuted", HOLDS),
        ("supported", "refuted", TURNS),
        ("refuted", "supported", TURNS),
        ("supported", "inconclusive", OPEN),
        ("not decided: control x at 0.1", "refuted", OPEN),
        ("supported", NOT_RUN, NOT_RUN),
    ],
)
def test_a_verdict_holds_turns_round_or_is_open(toy, checkpoint, expected):
    assert fate(toy, checkpoint) == fate(checkpoint, toy) == expected


# Two records -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The recorded toy study, without the libraries that no test asks for."""
    recorded = json.loads(RECORDED.read_text())
    names, columns = recorded["names"], recorded["columns"]
    library, base, group = (columns.index(name) for name in ("library", "base", "group"))
    recorded["metrics"] = [
        row
        for row in recorded["metrics"]
        if names[row[library]] in ("none", "hop1", "2-combination")
        and names[row[group]] in ("F", "H")
        and names[row[base]] == "standard"
    ]
    file = tmp_path_factory.mktemp("toy") / RECORDED.name
    file.write_text(json.dumps(recorded))
    return file


def planted(file, shares, verdicts, methods=METHODS):
    """A record of the study on a checkpoint: its methods' shares right, alike in every form."""
    world = DESIGNS["two-hop-english"].world
    wrong = world.outcomes[-1]
    rows = [
        Row(
            Key(0, "standard", group, "2-combination", method),
            form,
            100,
            {**dict.fromkeys(world.outcomes, 0), "right": right, wrong: 100 - right},
        )
        for group in ("F", "H")
        for method, right in zip(methods, shares, strict=True)
        for form in world.forms
    ]
    record = {
        "task": "two-hop-english",
        "commands": ["planted"],
        "torch": "1",
        "threads": 1,
        "chance": 0.05,
        "controls": [],
        "claims": [
            {"id": id, "statement": f"claim {id}", "verdict": v, "evidence": "", "rule": ""}
            for id, v in verdicts.items()
        ],
        "inside": {},
        "notes": [],
    }
    file.write_text(_as_text(record, [row.to_json() for row in rows]))
    return file


def shown(capsys, *arguments):
    capsys.readouterr()
    assert main(["carry-over", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def by_share(toy):
    """The methods by their share of hop-1 questions on the toy."""
    rows = read_recorded(toy).metrics.where(library="2-combination", form="hop1")
    right = {m: sum(row.right for row in rows if row.key.method == m) for m in METHODS}
    assert len(set(right.values())) == len(METHODS)
    return sorted(METHODS, key=right.__getitem__)


@pytest.mark.parametrize("sign", [1, -1])
def test_methods_in_the_toys_order_correlate_fully(sign, toy, tmp_path, capsys):
    order = by_share(toy)[::sign]
    shares = [10 * (1 + order.index(method)) for method in METHODS]
    file = planted(tmp_path / "smol.json", shares, {})
    page = shown(capsys, toy, file)
    assert f"| 2-combination: hop1 | 5 | {sign}.00 | 0.017 |" in page  # 2 of 120 orders


def test_claims_and_methods_stand_side_by_side(toy, tmp_path, capsys):
    verdicts = {"C4": "supported", "C5": "supported", "C1": "refuted", "E1": "supported"}
    methods = ("mean_of_products", "plain_sum", "arrow")
    file = planted(tmp_path / "smol.json", (20, 60, 90), verdicts, methods)
    page = shown(capsys, toy, file)
    assert page.startswith(
        "Of 8 claims 1 hold, 1 turn round, 1 are not decided by both, 5 were not"
    )
    lines = {line.split(" ")[1]: line for line in page.splitlines() if line.startswith("| C")}
    assert lines["C4"].endswith("| supported | supported | holds |")
    assert lines["C5"].endswith("| refuted | supported | turns round |")
    assert lines["C1"].endswith("| refuted | not decided |") and "; there: claim C1" in lines["C1"]
    assert lines["C7"].endswith("| supported | not run | not run |")
    assert "| E1 claim E1 | not run | supported | not run |" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| 2-combination: arrow |")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    forms = DESIGNS["two-hop-english"].world.forms
    assert len(cells) == len(forms) and all(cell.endswith(" / 0.90") for cell in cells)
    assert cells[list(forms).index("possessive")] == "not run / 0.90"
    (row,) = [line for line in page.splitlines() if line.startswith("| 2-combination: arrow_top1")]
    assert all(cell.strip().endswith("not run") for cell in row.split("|")[2:-1])
    assert "Not run on smol: none; hop1." in page
    assert "possessive |" not in page.split("Spearman's rho")[1]


def test_a_study_beside_itself_holds_everywhere(toy, capsys):
    page = shown(capsys, toy, toy)
    assert "Of 7 claims 3 hold, 0 turn round, 4 are not decided by both" in page
    rhos = [line.split("|")[3].strip() for line in page.split("| rho | p |")[1].splitlines()[2:]]
    assert len(rhos) == 4 and set(rhos) <= {"1.00", "no order"}


def test_the_page_of_results_shows_it_where_both_records_lie(toy, tmp_path):
    shutil.copy(toy, tmp_path)
    assert "## From" not in results_page(tmp_path)
    planted(tmp_path / "two-hop-smollm2.json", (1, 2, 3, 4, 5), {"C4": "supported"})
    page = results_page(tmp_path)
    assert page.count("## From two-hop-full to two-hop-smollm2\n") == 1
    assert "| supported | supported | holds |" in page


def test_what_is_no_record_is_refused_in_one_line(toy, tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1]")
    for pair in ((toy, tmp_path / "x.json"), (tmp_path / "x.json", toy)):
        assert main(["carry-over", *map(str, pair)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "x.json is no recorded result" in line
    (tmp_path / "x.json").write_text(json.dumps({**json.loads(toy.read_text()), "kind": "look"}))
    assert main(["carry-over", str(toy), str(tmp_path / "x.json")]) == 2
    assert "x.json is a record of 'look', which no rule judges" in capsys.readouterr().err
    assert main(["carry-over", str(toy), str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err


def test_studies_of_other_groups_have_no_methods_to_compare(toy, capsys):
    """Their claims are still laid side by side."""
    page = shown(capsys, RECORDED.with_name("word-math-laptop.json"), toy)
    assert "No library was asked by both" in page and "| M1 " in page and "| C1 " in page

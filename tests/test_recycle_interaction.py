"""How far two experts act on one another: where they must not, where they do, and what a study
keeps and prints of it."""

import json
import shutil

import pytest
import torch

from lora import Adapter, init_adapter, lora_layers
from models import Transformer, TransformerConfig
from recycle.__main__ import main
from recycle.decide.metrics import Row
from recycle.measure.interaction import additive_bound, interaction, interaction_and_rounding
from recycle.plan import Key
from recycle.reuse.merge import weighted_sum
from recycle.show.interactions import beside
from recycle.show.tables import Line
from tests.tiny import SETTINGS, make_run

PROMPTS = [[0, 5, 7, 3], [0, 9, 2, 3], [0, 4, 3]]


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(width=32, layers=2, heads=2, kv_heads=2, hidden=48, init=0.2)
    return Transformer(config, 12, torch.Generator().manual_seed(0)).eval()


def expert(model, pattern, seed):
    """A random adapter on the layers of a pattern."""
    generator = torch.Generator().manual_seed(seed)
    fresh = init_adapter(model, [pattern], 4, 8.0, generator)
    factors = {
        path: (a, 0.3 * torch.randn(b.shape, generator=generator))
        for path, (a, b) in fresh.factors.items()
    }
    return Adapter(factors, fresh.alpha)


@pytest.mark.parametrize("layer", ["down_proj", "up_proj"])
def test_experts_on_the_last_mlp_only_add_up(model, layer):
    """Both write into a stream that nothing reads after them but a positive divisor."""
    pair = [expert(model, f"layers.1.mlp.{layer}", seed) for seed in (1, 2)]
    seen, rounding = interaction_and_rounding(model, PROMPTS, *pair)
    assert seen < min(rounding, 1e-5)


@pytest.mark.parametrize(
    "first, second",
    [
        ("layers.0.*", "layers.1.*"),
        ("layers.0.mlp.down_proj", "layers.1.mlp.down_proj"),
        ("layers.1.self_attn.o_proj", "layers.1.mlp.down_proj"),
        ("layers.1.mlp.gate_proj", "layers.1.mlp.up_proj"),
    ],
)
def test_experts_that_one_reads_of_the_other_interact(model, first, second):
    assert interaction(model, PROMPTS, expert(model, first, 1), expert(model, second, 2)) > 0.01


def test_the_measure_is_that_of_four_runs_by_hand(model):
    """The last token's logits without the final norm's divisor, from merged weights."""
    pair = [expert(model, "layers.*", seed) for seed in (1, 2)]
    seen = interaction(model, PROMPTS, *pair)

    def by_hand(adapters):
        merged = Transformer(model.config, 12)
        merged.load_state_dict(model.state_dict())
        for adapter in adapters:
            for path in adapter.paths:
                merged.get_submodule(path).weight.data += adapter.delta(path)
        rows = []
        for prompt in PROMPTS:
            out = merged(torch.tensor([prompt]))[0, -1]
            merged.norm, norm = torch.nn.Identity(), merged.norm
            x = merged.hidden_states(torch.tensor([prompt]))[0, -1]
            merged.norm = norm
            rows.append(out * (x.square().mean() + norm.eps).sqrt())
        logits = torch.stack(rows).detach()
        return logits - logits.mean(-1, keepdim=True)

    none, one, other, both = (by_hand(own) for own in ([], pair[:1], pair[1:], pair))
    joint = both - one - other + none
    wanted = joint.square().mean().sqrt() / (both - none).square().mean().sqrt()
    assert seen == pytest.approx(wanted.item(), rel=1e-4)
    assert not lora_layers(model)  # the model is as it was


def test_a_weighted_sum_is_that_of_weighted_experts(model):
    pair = [expert(model, "layers.*", seed) for seed in (1, 2)]
    halved = [weighted_sum([adapter], [0.5]) for adapter in pair]
    seen, _ = interaction_and_rounding(model, PROMPTS, *pair, weight=0.5)
    assert seen == pytest.approx(interaction(model, PROMPTS, *halved), rel=1e-4)
    assert seen != pytest.approx(interaction(model, PROMPTS, *pair), rel=0.01)


def test_experts_that_change_nothing_do_not_interact(model):
    fresh = init_adapter(model, ["layers.*"], 4, 8.0, torch.Generator().manual_seed(0))
    assert interaction_and_rounding(model, PROMPTS, fresh, fresh) == (0.0, 0.0)


def test_in_half_precision_rounding_says_what_can_be_seen(model):
    """Additive experts seem to interact there, and no more than rounding makes of it."""
    rounded = Transformer(model.config, 12).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    pair = [expert(model, "layers.1.mlp.down_proj", seed) for seed in (1, 2)]
    seen, rounding = interaction_and_rounding(rounded, PROMPTS, *pair)
    assert 0.001 < seen < rounding


# In a study ---------------------------------------------------------------------------------------

LIBRARY = "2-combination, unpreserved"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.drawing.Figure", None)
        return make_run(tmp_path_factory.mktemp("runs") / "tiny")


def cells(run):
    found = sorted(run.glob("seed-*/standard/cells/F.*.json"))
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in found}


def test_cells_of_weighted_sums_of_two_keep_it_and_rows_do_not(run):
    """At both weights: two experts on other layers than the last act on one another."""
    kept = {name: cell["interaction"] for name, cell in cells(run).items() if "interaction" in cell}
    assert {name.split(".")[-1] for name in kept} == {"plain_sum", "mean_of_products"}
    for forms in kept.values():
        ((form, seen),) = forms.items()
        assert form == "direct" and 0 <= seen["share"] and seen["questions"] == 6
        assert 1 <= seen["answers"] <= 3
    assert "share" not in (run / "metrics.jsonl").read_text()


def test_the_report_the_terminal_and_the_record_print_it_beside_the_accuracy(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)
    kept = tmp_path / "kept.json"
    capsys.readouterr()
    assert main(["report", str(run), "--rejudge", "a test", "--record", str(kept)]) == 0
    said = capsys.readouterr().out
    page = (run / "report.html").read_text()
    (seen,) = json.loads(kept.read_text())["interactions"]["standard"]["F"].values()
    bound = seen["bound"]
    assert set(seen["of"]) == {LIBRARY} and 0 < bound <= 1
    for shown in (page, said):
        assert "direct: interaction" in shown and "direct: at most, if none" in shown
        assert "proves that the adapters act on one another" in shown
    line = next(line for line in said.splitlines() if LIBRARY in line and "plain_sum" in line)
    share = seen["of"][LIBRARY]["plain_sum"]["share"]
    assert f"{share:.2f}" in line and f"{bound:.2f}" in line
    assert main(["table", str(kept)]) == 0
    table = capsys.readouterr().out
    assert "Interaction of two experts, direct" in table
    rows = [row for row in table.splitlines() if row.startswith(f"| {LIBRARY}")]
    measured = [row for row in rows if f"| {share:.2f} | {bound:.2f}" in row]
    assert measured and not any(row.endswith(f"| - | {bound:.2f} |") for row in rows)


def test_runs_that_measured_none_are_shown_and_widened_and_their_rows_stay(
    run, tmp_path, monkeypatch, capsys
):
    """As an older version left them: no interaction in any cell, and no ledger that knows one."""
    monkeypatch.setattr("recycle.show.drawing.Figure", None)
    older = shutil.copytree(run, tmp_path / "older")
    for path in older.glob("seed-*/standard/made*.jsonl"):
        path.unlink()
    for path in older.glob("seed-*/standard/cells/*.json"):
        cell = json.loads(path.read_text())
        cell.pop("interaction", None)
        path.write_text(json.dumps(cell))
    before = (older / "metrics.jsonl").read_text()
    assert before == (run / "metrics.jsonl").read_text()
    kept = tmp_path / "kept.json"
    assert main(["report", str(older), "--rejudge", "a test", "--record", str(kept)]) == 0
    assert "interactions" not in json.loads(kept.read_text())
    assert "direct: interaction" not in (older / "report.html").read_text()
    command = ["study", "two-hop", "--quiet", "--matmul=default", "--run", str(older)]
    wider = [setting.replace("groups=F", "groups=F,H") for setting in SETTINGS]
    assert main([*command, *(f"--set={setting}" for setting in wider)]) == 0
    rows = [line for line in (older / "metrics.jsonl").read_text().splitlines(keepends=True)]
    assert "".join(row for row in rows if '"group": "H"' not in row) == before
    assert "direct: interaction" in (older / "report.html").read_text()
    capsys.readouterr()


def test_a_share_above_the_bound_is_marked_where_its_interval_is():
    found = {
        "standard": {
            "F": {
                "direct": {
                    "bound": additive_bound(50, 25),
                    "of": {LIBRARY: {"plain_sum": {"share": 0.4, "rounding": 1e-6}}},
                }
            }
        }
    }
    assert 0.1 < additive_bound(50, 25) < 0.5

    def shown(right, method="plain_sum", library=LIBRARY):
        key = Key(0, "standard", "F", library, method)
        rows = [Row(key, "direct", 50, {"right": right, "wrong": 50 - right})]
        return beside(found, "F", "direct", Line("standard", library, method), rows)

    bound = f"{additive_bound(50, 25):.2f}"
    assert shown(2) == ["0.40", bound]
    assert shown(40) == ["0.40", f"{bound} passed"]
    assert shown(40, "ties") == ["-", f"{bound} passed"]  # no weighted sum
    assert shown(40, "arrow") == shown(40, "alone") == shown(40, library="joint") == ["-", "-"]
    found["standard"]["F"]["direct"] |= {"bound": None}  # the base knows a hop
    assert shown(40) == ["0.40", "-"]
    found["standard"]["F"]["direct"]["of"][LIBRARY]["plain_sum"] = {"share": 0.1, "rounding": 0.3}
    assert shown(2) == ["< 0.30", "-"]

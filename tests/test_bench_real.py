"""A real step's rows in a micro size: all arms lose the same, the floor counts the products of our
step, and memory is counted."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import __main__ as cli
from bench import many, pieces, real, report
from bench.protocol import WrongResult
from lora import Mix, attach, train_only
from models import TransformerConfig, functions, transformer
from models.causal import CausalLM, CheckpointConfig

MICRO = CheckpointConfig(
    width=24, layers=2, heads=4, kv_heads=2, hidden=40, head_width=6, context=16
)
TOY = TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, hidden=48, context=16)
ARMS = {"products alone", "ours", "ours again", "stock pieces", "stock RMSNorm", "stock attention"}


@pytest.fixture
def micro(monkeypatch):
    monkeypatch.setattr(cli, "SECONDS", dict.fromkeys(cli.SECONDS, 0.0))
    monkeypatch.setattr(cli, "MODEL", TOY)
    for name, value in (("ROWS", 2), ("LENGTH", 8), ("MANY", 20)):
        monkeypatch.setattr(cli, name, value)
    monkeypatch.setattr(real, "SMOLLM2_135M", MICRO)
    monkeypatch.setattr(real, "VOCABULARY", 50)
    monkeypatch.setattr(real, "CASES", ((2, 8),))
    monkeypatch.setattr(real, "has_transformers", lambda: False)


def test_the_command_prints_rows_with_floors_memory_and_targets(micro, capsys, tmp_path):
    path = tmp_path / "real.json"
    assert cli.main(["real", "--matmul", "default", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out.splitlines()[-1])["rows"]
    groups = {row["group"] for row in rows}
    assert groups == {*pieces.TITLES.values(), "real step", "attaching", "mixing"}
    step = {row["arm"]: row for row in rows if row["group"] == "real step"}
    assert set(step) >= ARMS and step["products alone"]["GFLOP/s"] >= 0
    assert all(step[arm]["over floor"] > 0 for arm in step)
    assert 0 < step["ours"]["saved MiB"] < step["stock pieces"]["saved MiB"]
    assert step["ours"]["saved MiB"] < step["ours"]["peak MiB"] < step["stock pieces"]["peak MiB"]
    for words in ("over floor", "peak MiB", "ours over the floor of its products"):
        assert words in out
    assert cli.main(["table", "--json", str(path)]) == 0
    assert "| real step, 2 x 8, 2 learned | ours |" in capsys.readouterr().out


def test_a_wrong_piece_ends_the_run_before_any_timing(monkeypatch):
    right = pieces.STOCK["swiglu"]
    monkeypatch.setitem(pieces.STOCK, "swiglu", lambda gate, up: 1.01 * right(gate, up))
    monkeypatch.setattr(real, "has_transformers", lambda: False)
    monkeypatch.setattr(pieces, "race", lambda *a: pytest.fail("timed"))
    monkeypatch.setattr(real, "race", lambda *a: pytest.fail("timed"))
    with pytest.raises(WrongResult, match="SwiGLU: the arm 'stock' is off"):
        pieces.piece("swiglu", MICRO, 2, 8, "cpu", 0.0)
    with pytest.raises(WrongResult, match="real step: the arm 'stock .*' is off"):
        real.real_step(2, 8, "cpu", 0.0, MICRO, 50)
    assert transformer.swiglu is functions.swiglu  # ours is back


class Multiplications(TorchDispatchMode):
    """Multiplications and additions of all matrix products."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            u, v = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self.flops += 2 * u.numel() * v.shape[-1]
        return func(*args, **(kwargs or {}))


def test_our_step_has_no_product_beyond_those_that_the_floor_counts():
    """Attention computes all pairs of positions and the floor counts those that are seen. A merged
    layer (lora.kernel) builds W + s B A instead of some narrow products: few tokens keep it off."""
    rows, length, learned_each = 2, 8, 3
    base = CausalLM(MICRO, 50).requires_grad_(False)
    attach(base, {"a": real.random_adapter(base, 1)})
    params = train_only(base, ["a"])
    real.set_mode(base, Mix({"a": 1.0}))
    tokens = torch.randint(2, 50, (rows, length + 1))
    learned = torch.zeros_like(tokens, dtype=torch.bool)
    learned[:, -learned_each:] = True
    step = real.training_step(base, params, tokens, learned)
    with Multiplications() as counted:
        step()
    _, everything = real.flops(base, rows, length, rows * learned_each)
    unseen = length * (length - 1) / 2  # pairs, each 12 d in every head and layer
    unseen *= MICRO.layers * MICRO.heads * rows * 12 * MICRO.head_width
    assert counted.flops == pytest.approx(everything + unseen, rel=1e-9)


def test_the_products_alone_are_those_of_the_base():
    base = CausalLM(MICRO, 50).requires_grad_(False)
    with Multiplications() as counted:
        real.products_alone(base, 16, 6)()
    assert counted.flops == real.flops(base, 2, 8, 6)[0]


def test_peak_bytes_are_those_that_are_held_at_once():
    def step():
        one = torch.ones(1000)
        two = one + 1
        del one
        return two * 2  # two tensors at any time, three were made

    assert 8000 <= real.peak_bytes(step, "cpu") < 12000


def test_many_adapters_are_attached_and_mixed():
    base = real.sharing(cli.steps.base_model(TOY, "cpu"))
    rows = many.attaching(base, cli.steps.random_adapter(base, 1), 12, "cpu", 0.0)
    assert {row["case"] for row in rows} == {"12 adapters on 7 layers"}
    assert "tokens/s" not in report.line(rows[0])
    arms = {row["arm"] for row in many.mixing(base, 2, 8, 20, "cpu", 0.0)}
    assert arms == {"one of the summed rank", "ours", "ours again", "ours, 20 attached"}


@pytest.mark.interop
def test_hugging_face_with_peft_takes_the_same_step():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    rows = real.real_step(2, 8, "cpu", 0.0, MICRO, 50)
    arms = {row["arm"]: row for row in rows}
    assert {"HF + PEFT", "HF + PEFT, learned logits"} <= set(arms)
    assert arms["ours"]["saved MiB"] < arms["HF + PEFT"]["saved MiB"]
    assert any("ours over HF + PEFT" in target["target"] for target in report.targets(rows))

"""The processor's matrix products: what is chosen, and what a person is told about 16 bits."""

from types import SimpleNamespace

import pytest
import torch

from recycle.commands.runs import _say_what_is_faster
from recycle.run.matmul import choose_matmul, speedup_in_16_bits

ROUNDS = {"setting": "default", "speedup": 3.36, "error": 2e-3, "error default": 3e-7}
EXACT = {"setting": "oneDNN", "speedup": 2.1, "error": 4e-7, "error default": 3e-7}
SLOWER = {**ROUNDS, "speedup": 0.8}


def test_choices():
    assert choose_matmul("default") == {"setting": "default"}
    with pytest.raises(ValueError, match="'fast'"):
        choose_matmul("fast")


def test_only_a_product_that_rounds_is_one_of_16_bits():
    assert speedup_in_16_bits(ROUNDS) == 3.36
    for other in (EXACT, SLOWER, {"setting": "default"}):
        assert speedup_in_16_bits(other) is None


@pytest.mark.parametrize(
    "found, checkpoint, dtype, device, begun, told",
    [
        (ROUNDS, "folder", "fp32", "cpu", False, True),
        (EXACT, "folder", "fp32", "cpu", False, False),
        (ROUNDS, "", "fp32", "cpu", False, False),  # a toy's products are too small
        (ROUNDS, "folder", "bf16", "cpu", False, False),
        (ROUNDS, "folder", "fp32", "cuda", False, False),
        (ROUNDS, "folder", "fp32", "cpu", True, False),  # a run keeps its format
    ],
)
def test_a_new_run_on_a_checkpoint_is_told(
    found, checkpoint, dtype, device, begun, told, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(
        "recycle.commands.runs.read_environments", lambda folder: [{}] if begun else []
    )
    made = SimpleNamespace(config=SimpleNamespace(checkpoint=checkpoint, dtype=dtype))
    _say_what_is_faster(made, tmp_path, found, torch.device(device))
    said = capsys.readouterr().out
    assert ("3.4 times as fast in 16 bits: a run with --dtype bf16" in said) == told

"""The code of lora/README.md runs as it stands, and does what the page says."""

import re
from pathlib import Path

import torch
from torch import nn

from lora import Adapter, Mix, load_adapter, use_ways, using

README = Path(__file__).parent.parent / "lora" / "README.md"


def test_the_code_trains_saves_and_combines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    training, arithmetic, speed = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(training, names)
    assert len(training.split("\n\n")) == 2 and len(training.split("\n")) <= 17  # fifteen of code
    model, x, y = (names[name] for name in ("model", "x", "y"))
    base_loss = nn.functional.cross_entropy(model(x), y)
    with using(model, Mix({"mine": 1.0})):
        assert nn.functional.cross_entropy(model(x), y) < 0.8 * base_loss
    exec(arithmetic, names)
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Linear]
    mine = load_adapter("my-adapter")
    assert isinstance(names["mean"], Adapter) and mine.paths == ("0", "2")
    torch.testing.assert_close(names["mean"].delta("0"), 0.75 * mine.delta("0"))
    delta = names["U"] * names["S"] @ names["V"].mT
    torch.testing.assert_close(delta.float(), names["mean"].delta("0"), rtol=1e-4, atol=1e-6)
    exec(speed, names)
    assert list(names["table"]) == [f"1024 tokens, width {width}, rank 4" for width in (32, 16)]
    assert use_ways({}) == {}

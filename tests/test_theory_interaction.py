"""How far two experts act on one another: where they must not, and where they do."""

import pytest
import torch

from lora import Adapter, init_adapter, lora_layers
from models import Transformer, TransformerConfig
from theory.against_study.interaction import interaction, interaction_and_rounding

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

"""Leakage inside a trained transformer: how much of one prompt's MLP features is seen through
another's, layer by layer.

The key of a prompt is the input of down_proj at its last token; theta is the angle between the
inputs of the two MLPs (the residual stream after its norm). The theory's random ReLU features
overlap by J(theta). This MLP is gated, silu(G h) * (U h); with independent Gaussian rows g and u,
its random form is closer to

    E[relu(g.a) relu(g.b)] E[(u.a)(u.b)]  ->  cos(theta) J(theta)

so both stand beside the measured cosine. The rest is the work of the trained weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models import Tokenizer, Transformer
from models.layout import Place
from tasks.two_hop_words import PROMPTS, Triple
from theory.against_study.answers import tokens
from theory.claims.leakage import PAIRS as THEORY_PAIRS
from theory.claims.leakage import arc_cosine

OWN_SECOND = "two-hop prompt on its own second hop"
# The theory's pairs without the trivial one, and r1(x), the prompt's own bridge, beside any y.
PAIRS = {name: pair for name, pair in THEORY_PAIRS.items() if name != "itself"} | {
    OWN_SECOND: ("r1(x) R2", "x R1 R2", 1)
}


def clean(a: str, b: str, shared: int) -> float:
    """J of the angle that two prompts have where all embeddings are orthogonal."""
    cos = torch.tensor(shared / math.sqrt(len(a.split()) * len(b.split())), dtype=torch.float64)
    return float(arc_cosine(cos.arccos()))


def prompts(triples: Sequence[Triple]) -> dict[str, list[str]]:
    """Each prompt of PAIRS in words, for every triple: x is its A, and r1(x) its B.

    y is the A of the next triple, or the B of the next triple where it is a second-hop key.
    """
    after = [*triples[1:], *triples[:1]]
    return {
        "x R1": [PROMPTS["hop1"].format(a=t.a) for t in triples],
        "y R1": [PROMPTS["hop1"].format(a=t.a) for t in after],
        "x R2": [PROMPTS["hop2"].format(b=t.a) for t in triples],
        "y R2": [PROMPTS["hop2"].format(b=t.b) for t in after],
        "r1(x) R2": [PROMPTS["hop2"].format(b=t.b) for t in triples],
        "x R1 R2": [PROMPTS["direct"].format(a=t.a) for t in triples],
    }


@torch.inference_mode()
def keys(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """MLP inputs (layers, q, width) and features (layers, q, hidden) at the last token, in
    float64."""
    inputs: list[Tensor] = []
    features: list[Tensor] = []

    def record(module: nn.Module, into: list[Tensor]) -> RemovableHandle:
        return module.register_forward_pre_hook(lambda _, args: into.append(args[0][:, -1]))

    hooks = []
    for number in range(len(model.layers)):
        mlp, down = Place(number, "mlp"), Place(number, "mlp", "down_proj")
        hooks.append(record(model.get_submodule(mlp.path), inputs))
        hooks.append(record(model.get_submodule(down.path), features))
    try:
        model.hidden_states(tokens(tokenizer, texts))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(inputs).double(), torch.stack(features).double()


def overlaps(
    model: Transformer, tokenizer: Tokenizer, triples: Sequence[Triple]
) -> dict[str, Tensor]:
    """Pair -> (layers, 4): cos theta, J(theta), cos(theta) J(theta) and the measured cosine, means
    over the triples."""
    seen = {name: keys(model, tokenizer, texts) for name, texts in prompts(triples).items()}
    rows = {}
    for name, (a, b, _) in PAIRS.items():
        cos = torch.cosine_similarity(seen[a][0], seen[b][0], dim=-1).clamp(-1, 1)
        kernel = arc_cosine(cos.arccos())
        measured = torch.cosine_similarity(seen[a][1], seen[b][1], dim=-1)
        rows[name] = torch.stack([cos, kernel, cos * kernel, measured], dim=-1).mean(1)
    return rows

"""The one-layer model with facts trained into W by gradient, and one LoRA expert a relation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora import Rows, attach, extract, init_adapter, train_only, using
from recycle.train.fit import TrainConfig, fit
from theory.claim import generator
from theory.one_layer import OneLayer, Relation, chain_world, random_features

Batch = tuple[Tensor, Tensor]  # tokens, and where they are learned


Groups = Sequence[Sequence[nn.Parameter]]  # clipped apart, one group for each expert


N, FEATURES, RANK = 16, 1024, 8
BASE_STEPS = 60


class Network(nn.Module):
    """`OneLayer` in float32 with W as a linear layer that LoRA can adapt, and the two methods that
    `fit` asks for."""

    def __init__(self, model: OneLayer):
        super().__init__()
        self.embed, self.value, self.up = model.embed.float(), model.value.float(), model.up.float()
        self.down = nn.Linear(model.down.shape[1], model.down.shape[0], bias=False)
        nn.init.zeros_(self.down.weight)

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """(b, length) -> logits over the entities (b, length, a).

        h at a position is V (sum of the earlier e) + its own e.
        """
        own = self.embed[tokens]
        residual = (own.cumsum(1) - own) @ self.value.T + own
        return self.down(torch.relu(residual @ self.up.T))

    def unembed(self, states: Tensor) -> Tensor:
        return states


@dataclass(frozen=True)
class Run:
    """What training left, in float64: `model` has the base's W; the experts' factors have scale
    1."""

    model: OneLayer
    relations: tuple[Relation, ...]
    start: tuple[Tensor, ...]  # A before training, (rank, m) each
    a: tuple[Tensor, ...]  # A after it
    b: tuple[Tensor, ...]  # (answers, rank)


def texts(relations: Sequence[Relation], answers: Sequence[Tensor]) -> Batch:
    """Every fact as tokens "x R y", (f, 3), and where they are learned, (f, 3): at y alone."""
    facts = zip(relations, answers, strict=True)
    tokens = torch.cat([torch.cat([r.prompts, y[:, None]], dim=1) for r, y in facts])
    return tokens, torch.tensor([False, False, True]).expand_as(tokens)


def train_run(rate: float, seed: int, steps: int) -> Run:
    """Train the old facts into W, then one expert a relation for its new facts, at this learning
    rate and for so many steps."""
    rng = generator(f"trained-experts {rate}", seed)
    relations = chain_world(N, 2, rng)
    model = random_features(relations, N, None, FEATURES, rng)
    network = Network(model)

    def train(label: str, groups: Groups, batch: Batch, steps: int, lr: float) -> None:
        config = TrainConfig(steps=steps, lr=lr)
        fit(network, groups, lambda step: batch, config, label=label)

    old = texts(relations, [r.old for r in relations])
    train("base", [list(network.down.parameters())], old, BASE_STEPS, 1e-3)

    names = [f"r{k}" for k in range(len(relations))]
    fresh = {
        name: init_adapter(network, ["down"], RANK, RANK, generator(name, seed)) for name in names
    }
    new = texts(relations, [r.new for r in relations])
    attach(network, fresh)
    with using(network, Rows(names)):
        train("experts", train_only(network, names), new, steps, rate)
    learned = [extract(network, name, start).factors["down"] for name, start in fresh.items()]
    return Run(
        OneLayer(model.embed, model.value, model.up, network.down.weight.detach().double()),
        relations,
        start=tuple(start.factors["down"][0].double() for start in fresh.values()),
        a=tuple(a.double() for a, _ in learned),
        b=tuple(b.double() for _, b in learned),
    )

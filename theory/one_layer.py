"""The one-layer transformer of arXiv 2506.13479, section 3: an MLP read as a key-value memory.

    residual   h   = sum over earlier tokens s of V e_s  +  e_last
    key        phi = ReLU(U h)
    logits         = W phi,          LoRA adapts W only

Prompts of the fact "x's R1 is y":

    one hop       "x R1"       h = V e_x + e_R1
    two hops      "x R1 R2"    h = V e_x + V e_R1 + e_R2
    written out   the model answers y to "x R1", and then answers "y R2"

Axis legend: t tokens, d residual width, m features, a answers (one for each entity), f facts, n
facts of one relation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import einsum
from torch import Tensor

from theory.adapter import least_squares
from theory.claim import normal


@dataclass(frozen=True)
class Relation:
    """One relation and an expert's edit of it: subjects[i] had answer old[i] and gets new[i]."""

    token: int
    subjects: Tensor  # (n,) token ids
    old: Tensor  # (n,) answer ids
    new: Tensor  # (n,) answer ids

    @property
    def prompts(self) -> Tensor:
        """(n, 2): the prompts "x R", one for each subject."""
        return torch.stack([self.subjects, torch.full_like(self.subjects, self.token)], dim=1)


@dataclass(frozen=True)
class OneLayer:
    """The model's weights, all float64."""

    embed: Tensor  # (t, d)
    value: Tensor  # (d, d), V
    up: Tensor  # (m, d), U
    down: Tensor  # (a, m), W

    def residual(self, prompts: Tensor) -> Tensor:
        """prompts (b, length) -> h at the last token (b, d)."""
        earlier = self.embed[prompts[:, :-1]].sum(dim=1)
        return einsum(self.value, earlier, "d k, b k -> b d") + self.embed[prompts[:, -1]]

    def keys(self, prompts: Tensor) -> Tensor:
        """prompts (b, length) -> phi (b, m)."""
        return torch.relu(self.residual(prompts) @ self.up.T)

    def logits(self, prompts: Tensor) -> Tensor:
        """prompts (b, length) -> (b, a)."""
        return self.keys(prompts) @ self.down.T


def one_hot(answers: Tensor, classes: int) -> Tensor:
    """(f,) -> (f, classes): row i is the unit vector of answers[i]."""
    return torch.eye(classes, dtype=torch.float64)[answers]


def accuracy(logits: Tensor, answers: Tensor) -> float:
    """Share of the rows of logits (b, a) whose largest entry is the one that answers (b,) names."""
    return float((logits.argmax(1) == answers).double().mean())


def chain_world(n: int, adapters: int, rng: torch.Generator) -> tuple[Relation, ...]:
    """R1: X -> Y, R2: Y -> Z, and further relations between sets that nothing else uses.

    Every set has n entities. All maps are bijections, and every edit changes every fact. Token ids:
    entities first, then one for each of the relations, `adapters` in number.
    """
    sets = [torch.arange(i * n, (i + 1) * n) for i in range(entity_count(1, adapters))]
    chain = [(sets[0], sets[1]), (sets[1], sets[2])]
    pairs = [*chain, *zip(sets[3::2], sets[4::2], strict=True)]
    entities = entity_count(n, adapters)
    relations = []
    for k, (subjects, answers) in enumerate(pairs[:adapters]):
        old = torch.randperm(n, generator=rng)
        new = old[derangement(n, rng)]
        relations.append(Relation(entities + k, subjects, answers[old], answers[new]))
    return tuple(relations)


def entity_count(n: int, adapters: int) -> int:
    """Entities in X, Y, Z, and in two sets for each relation after the second."""
    return n * (3 + 2 * max(adapters - 2, 0))


def derangement(n: int, rng: torch.Generator) -> Tensor:
    """A uniform permutation of n >= 2 things that moves every one of them."""
    while True:
        permutation = torch.randperm(n, generator=rng)
        if (permutation != torch.arange(n)).all():
            return permutation


def two_hop_prompts(relations: Sequence[Relation]) -> Tensor:
    """(n, 3): "x R1 R2" for every subject x of the first relation."""
    first, second = relations[:2]
    return torch.cat([first.prompts, torch.full_like(first.subjects, second.token)[:, None]], dim=1)


def places(entities: Tensor, subjects: Tensor) -> Tensor:
    """entities (n,), each of them among subjects (f,) -> (n,): where it stands there."""
    return (entities[:, None] == subjects[None]).int().argmax(1)


def memorise(model: OneLayer, relations: Sequence[Relation]) -> OneLayer:
    """The base: its W is the smallest matrix that answers every fact as it was before the edits."""
    keys = model.keys(torch.cat([r.prompts for r in relations]))
    targets = one_hot(torch.cat([r.old for r in relations]), model.down.shape[0])
    return replace(model, down=least_squares(keys, targets).delta)


def random_features(
    relations: Sequence[Relation], n: int, d: int | None, m: int, rng: torch.Generator
) -> OneLayer:
    """A base with rows of U ~ N(0, I) and W fitted to the old facts of n subjects a relation.

    d=None is the clean geometry: all e_t and all V e_t are orthonormal, and d is twice the tokens.
    With an integer d, e_t ~ N(0, I/d) and V ~ N(0, 1/d): inner products are off by about 1/sqrt(d).
    """
    entities = entity_count(n, len(relations))
    tokens = entities + len(relations)
    if d is None:
        d = 2 * tokens
        # Any other basis is a rotation of this one, and the rows of U do not see it.
        basis = torch.eye(d, dtype=torch.float64)
        embed, value = basis[:tokens], basis[tokens:].T @ basis[:tokens]
    else:
        embed, value = normal(tokens, d, rng=rng) / d**0.5, normal(d, d, rng=rng) / d**0.5
    up = normal(m, d, rng=rng)
    blank = OneLayer(embed, value, up, down=torch.empty(entities, m, dtype=torch.float64))
    return memorise(blank, relations)

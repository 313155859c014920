"""The one-layer transformer of arXiv 2506.13479, section 3: an MLP read as a key-value memory.

    residual   h   = sum over earlier tokens s of V e_s  +  e_last
    key        phi = ReLU(U h)
    logits         = W phi,          LoRA adapts W only

Prompts by hand, for the fact "x's R1 is y":  "x R1" -> h = V e_x + e_R1.  Two hops: "x R1 R2" ->
h = V e_x + V e_R1 + e_R2.  With a written-out bridge the model first answers y to "x R1", and is then asked "y R2".

Axis legend: t tokens, d residual width, m features, a answers (one per entity), f facts, n facts of
one relation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import einsum
from torch import Tensor

from theory.claim import normal


@dataclass(frozen=True)
class Relation:
    """One relation and the edit an expert makes to it: subjects[i] had answer old[i] and is to have
    new[i]."""

    token: int
    subjects: Tensor  # (n,) token ids
    old: Tensor  # (n,) answer ids
    new: Tensor  # (n,) answer ids

    @property
    def prompts(self) -> Tensor:
        """(n, 2): "subject relation"."""
        return torch.stack([self.subjects, torch.full_like(self.subjects, self.token)], dim=1)


@dataclass(frozen=True)
class OneLayer:
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


@dataclass(frozen=True)
class Adapter:
    """dW = B A on W, kept factored. Scaling alpha / rank is folded into B, so every adapter here
    has scaling 1."""

    a: Tensor  # (rank, m)
    b: Tensor  # (answers, rank)

    @property
    def delta(self) -> Tensor:
        return self.b @ self.a


def one_hot(answers: Tensor, classes: int) -> Tensor:
    """(f,) -> (f, classes): the rows i_y."""
    return torch.eye(classes, dtype=torch.float64)[answers]


def least_squares(keys: Tensor, targets: Tensor) -> Adapter:
    """The smallest matrix that sends every key to its target, factored: A = (Phi Phi^T)^-1 Phi, B =
    targets^T.

    keys Phi (f, m) with independent rows, targets (f, a). B A = targets^T (Phi^+)^T, the
    pseudo-inverse solution.
    """
    gram = keys @ keys.T
    return Adapter(a=torch.cholesky_solve(keys, torch.linalg.cholesky(gram)), b=targets.T)


def chain_world(n: int, adapters: int, rng: torch.Generator) -> tuple[Relation, ...]:
    """R1: X -> Y, R2: Y -> Z, and further relations k >= 3, each with n subjects and n answers of
    its own.

    All maps are bijections, and no edit leaves a fact as it was. Token ids: entities first, then
    the K relations.
    """
    sets = [torch.arange(i * n, (i + 1) * n) for i in range(entity_count(1, adapters))]
    pairs = [(sets[0], sets[1]), (sets[1], sets[2])] + list(
        zip(sets[3::2], sets[4::2], strict=True)
    )
    relations = []
    for k, (subjects, answers) in enumerate(pairs[:adapters]):
        old = torch.randperm(n, generator=rng)
        new = old[derangement(n, rng)]
        relations.append(
            Relation(entity_count(n, adapters) + k, subjects, answers[old], answers[new])
        )
    return tuple(relations)


def entity_count(n: int, adapters: int) -> int:
    """X, Y, Z, and two sets for each relation after the second."""
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


def memorise(model: OneLayer, relations: Sequence[Relation]) -> OneLayer:
    """The base model: W is the smallest matrix with W phi = i_r(x) on every fact as it stood before
    the edits."""
    keys = model.keys(torch.cat([r.prompts for r in relations]))
    targets = one_hot(torch.cat([r.old for r in relations]), model.down.shape[0])
    return replace(model, down=least_squares(keys, targets).delta)


def random_features(
    relations: Sequence[Relation], n: int, d: int | None, m: int, rng: torch.Generator
) -> OneLayer:
    """Rows of U ~ N(0, I), W fitted to the old facts.

    d=None: the clean geometry, in which all e_t and all V e_t are orthonormal (d = twice the
    tokens). d=int: the usual one, e_t ~ N(0, I/d) and V ~ N(0, 1/d), whose inner products are off
    by about 1/sqrt(d).
    """
    entities = entity_count(n, len(relations))
    tokens = entities + len(relations)
    if d is None:
        d = 2 * tokens
        basis = torch.eye(
            d, dtype=torch.float64
        )  # any other one is a rotation, and the rows of U do not see it
        embed, value = basis[:tokens], basis[tokens:].T @ basis[:tokens]
    else:
        embed, value = normal(tokens, d, rng=rng) / d**0.5, normal(d, d, rng=rng) / d**0.5
    blank = OneLayer(
        embed, value, normal(m, d, rng=rng), torch.empty(entities, m, dtype=torch.float64)
    )
    return memorise(blank, relations)

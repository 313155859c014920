"""What low-rank adapters on a transformer can reach (Zeng and Lee 2024, arXiv 2310.17513, section
5).

One block, tokens as columns of Z (D, t), no residual and no norm, as in the paper:

    attention  sum_h O_h V_h Z softmax(Z^T K_h^T Q_h Z)            softmax over the attended tokens
    block      W2 relu(W1 attention + b1) + b2                     output  W_out Z_L

Every trained matrix enters through a product of two, K^T Q or O V or W_out W2, so each pair is the
linear case with L = 2: exact iff R >= ceil(G / 2) for the rank G of that product's gap, and
R >= ceil(D / 2) always. W1 and W2 below the last block stay frozen: with M = W2 Wt2^-1 the adapted
block sees Z = M Zt, and the gaps are taken with M folded in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from theory.claim import Claim, Observation, Settings, generator, near_rotation, normal
from theory.claims.linear_adapters import adapted, constructed


@dataclass(frozen=True)
class Block:
    """Attention with h heads, then an MLP."""

    q: Tensor  # (h, D, D), like k, v and o
    k: Tensor
    v: Tensor
    o: Tensor
    w1: Tensor  # (D, D)
    b1: Tensor  # (D, 1)
    w2: Tensor  # (D, D)
    b2: Tensor  # (D, 1)

    def __call__(self, z: Tensor) -> Tensor:
        """(b, D, t) -> (b, D, t)."""
        z = z[:, None]
        weights = torch.softmax(z.mT @ (self.k.mT @ self.q) @ z, dim=-2)
        attention = (self.o @ self.v @ z @ weights).sum(1)
        return self.w2 @ torch.relu(self.w1 @ attention + self.b1) + self.b2


@dataclass(frozen=True)
class Transformer:
    """Blocks, and an output matrix after the last one."""

    blocks: tuple[Block, ...]
    out: Tensor  # (D, D)

    def __call__(self, z: Tensor) -> Tensor:
        """(b, D, t) -> (b, D, t)."""
        for block in self.blocks:
            z = block(z)
        return self.out @ z


def random_transformer(dim: int, heads: int, depth: int, rng: torch.Generator) -> Transformer:
    """Every matrix is near a rotation, so products of them invert safely."""

    def matrix() -> Tensor:
        return near_rotation(dim, rng)

    def stack() -> Tensor:
        return torch.stack([matrix() for _ in range(heads)])

    def bias() -> Tensor:
        return 0.3 * normal(dim, 1, rng=rng)

    blocks = tuple(
        Block(stack(), stack(), stack(), stack(), matrix(), bias(), matrix(), bias())
        for _ in range(depth)
    )
    return Transformer(blocks, matrix())


def goals(frozen: Block, target: Block, before: Tensor) -> tuple[Tensor, Tensor]:
    """What K^T Q and O V must become, (h, D, D) each, if the block's input is `before` (D, D) times
    the target's."""
    back = torch.linalg.inv(before)
    attend = back.mT @ target.k.mT @ target.q @ back
    write = torch.linalg.solve(frozen.w1, target.w1 @ target.o @ target.v @ back)
    return attend, write


def pair(first: Tensor, second: Tensor, goal: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Both matrices with adapters of this rank that bring second @ first nearest to the goal."""
    factors = [first, second]
    first, second = adapted(factors, constructed(factors, goal, rank))
    return first, second


def pairs(first: Tensor, second: Tensor, goal: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`pair` for each of h heads; first, second and goal are (h, D, D)."""
    heads = [pair(*matrices, rank) for matrices in zip(first, second, goal, strict=True)]
    return torch.stack([a for a, _ in heads]), torch.stack([b for _, b in heads])


def adapt(frozen: Transformer, target: Transformer, rank: int) -> Transformer:
    """Adapters of this rank on every Q, K, V and O, on the last W2 and on the output; the biases
    are free."""
    before = torch.eye(frozen.out.shape[0], dtype=torch.float64)
    blocks = []
    for block, goal in zip(frozen.blocks, target.blocks, strict=True):
        attend, write = goals(block, goal, before)
        q, k = pairs(block.q, block.k.mT, attend, rank)
        v, o = pairs(block.v, block.o, write, rank)
        before = block.w2 @ torch.linalg.inv(goal.w2)
        blocks.append(replace(block, q=q, k=k.mT, v=v, o=o, b1=goal.b1, b2=before @ goal.b2))
    last = target.blocks[-1]
    w2, out = pair(frozen.blocks[-1].w2, frozen.out, target.out @ last.w2, rank)
    blocks[-1] = replace(blocks[-1], w2=w2, b2=torch.linalg.solve(out, target.out @ last.b2))
    return Transformer(tuple(blocks), out)


def largest_gap(frozen: Transformer, target: Transformer) -> int:
    """G: the largest rank among the gaps of K^T Q and O V (each head and block, M folded in) and of
    W_out W2."""
    before = torch.eye(frozen.out.shape[0], dtype=torch.float64)
    gaps = []
    for block, goal in zip(frozen.blocks, target.blocks, strict=True):
        attend, write = goals(block, goal, before)
        gaps += [attend - block.k.mT @ block.q, write - block.o @ block.v]
        before = block.w2 @ torch.linalg.inv(goal.w2)
    gaps.append((target.out @ target.blocks[-1].w2 - frozen.out @ frozen.blocks[-1].w2)[None])
    return max(int(torch.linalg.matrix_rank(gap, atol=1e-9, rtol=0).max()) for gap in gaps)


def near_target(frozen: Transformer, rank: int, rng: torch.Generator) -> Transformer:
    """The frozen model with K and O of every block moved by matrices of that rank."""
    dim = frozen.out.shape[0]

    def moved(stack: Tensor) -> Tensor:
        heads = len(stack)
        return stack + normal(heads, dim, rank, rng=rng) @ normal(heads, rank, dim, rng=rng) / dim

    blocks = tuple(replace(b, k=moved(b.k), o=moved(b.o)) for b in frozen.blocks)
    return replace(frozen, blocks=blocks)


def relative_error(frozen: Transformer, target: Transformer, rank: int, z: Tensor) -> float:
    """|f(z) - ft(z)| / |ft(z)| of the adapted model on inputs z (b, D, t)."""
    wanted = target(z)
    return float((adapt(frozen, target, rank)(z) - wanted).norm() / wanted.norm())


def cases(settings: Settings) -> Iterator[tuple[str, int, Transformer, Transformer, Tensor]]:
    """(name, seed, frozen, target, inputs): two blocks of two heads, six tokens, 16 sequences;
    targets that have nothing to do with the frozen model, and targets a few ranks away."""
    for dim, gap in ((6, None), (8, None), (8, 3), (8, 5)):
        for seed in range(settings.seeds):
            rng = generator(f"transformer D={dim} G={gap}", seed)
            frozen = random_transformer(dim, 2, 2, rng)
            target = near_target(frozen, gap, rng) if gap else random_transformer(dim, 2, 2, rng)
            name = f"D={dim}, gaps of rank {gap}" if gap else f"D={dim}, any target"
            yield name, seed, frozen, target, normal(16, dim, 6, rng=rng)


def check_exact(settings: Settings) -> Iterator[Observation]:
    for case, seed, frozen, target, z in cases(settings):
        rank = math.ceil(z.shape[1] / 2)
        yield Observation(f"{case}, R={rank}", seed, 0.0, relative_error(frozen, target, rank, z))


def check_threshold(settings: Settings) -> Iterator[Observation]:
    for case, seed, frozen, target, z in cases(settings):
        ranks = range(1, z.shape[1] + 1)
        exact = (r for r in ranks if relative_error(frozen, target, r, z) < 1e-7)
        yield Observation(case, seed, math.ceil(largest_gap(frozen, target) / 2), next(exact))


PAPER = (
    "Zeng and Lee 2024, arXiv 2310.17513, transformer case [recall]; re-derived and checked here"
)

CLAIMS = (
    Claim(
        id="transformer-exact",
        title="rank ceil(D / 2) on attention, last W2 and output reproduces any transformer",
        statement=(
            "Adapters of half the width turn one frozen transformer into any other of its size, "
            "though W1 and W2 below the last block stay frozen."
        ),
        formula="R >= ceil(D / 2)  =>  f = ft",
        source=PAPER,
        assumptions="no residual, no norm, D x D heads, invertible W1, W2, W_out, free biases",
        derivation=(
            "each pair K^T Q, O V, W_out W2 is the linear case with L = 2; "
            "M = W2 Wt2^-1 is folded into the next block"
        ),
        computed="relative output error, two blocks of two heads, D = 6, 8",
        relation="==",
        tolerance=1e-8,
        check=check_exact,
    ),
    Claim(
        id="transformer-threshold",
        title="and the smallest exact rank is ceil(G / 2), G the largest rank of a gap",
        statement=(
            "One rank less fails. The gaps are those of K^T Q and O V as seen through the frozen "
            "W1 and W2 (M folded in), not of the plain products: that precision was missing from "
            "the recalled statement."
        ),
        formula="R* = max ceil(G / 2)",
        source=PAPER,
        assumptions="as transformer-exact; 'fails' is said of this construction",
        derivation="sigma_{2R+1} of each gap is 0 iff 2 R >= G",
        computed=(
            "smallest R with relative error below 1e-7: any target, and targets 3 or 5 ranks away"
        ),
        relation="==",
        tolerance=0.0,
        check=check_threshold,
    ),
)

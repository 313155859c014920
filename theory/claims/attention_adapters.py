"""What low-rank adapters on a transformer can reach (Zeng and Lee 2024, arXiv 2310.17513, section
5).

One block, tokens as columns of Z (D, t), no residual and no norm, as in the paper:

    attention  sum_h O_h V_h Z softmax(Z^T K_h^T Q_h Z)            softmax over the attended tokens
    block      W2 relu(W1 attention + b1) + b2                     output  W_out Z_L

Every trained matrix enters through a product of two, K^T Q or O V or W_out W2, so each pair is the
linear case with L = 2: exact iff R >= ceil(G / 2) for the rank G of that product's gap, and
R >= ceil(D / 2) always. The target may be written in many ways that are the same function: its
heads in another order, its ReLU units in another order and scaled. The gaps are those of the way
that is nearest to the frozen model (`aligned`). W1 and W2 below the last block stay frozen: with
M = W2 Wt2^-1 the adapted block sees Z = M Zt, and the gaps are taken with M folded in.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from theory import exact
from theory.claim import Claim, Observation, Settings, generator, near_rotation, normal
from theory.claims.linear_adapters import adapted, constructed
from theory.exact import integers


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


def aligned(frozen: Transformer, target: Transformer) -> Transformer:
    """The target, as the same function, with units and heads ordered like the frozen model's.

    A unit whose row of W1 is a positive multiple of a frozen one takes its place and size; heads
    take the order with the smallest largest gap.
    """
    before = torch.eye(frozen.out.shape[0], dtype=torch.float64)
    blocks = []
    for block, goal in zip(frozen.blocks, target.blocks, strict=True):
        goal = like_units(block, goal)
        attend, write = goals(block, goal, before)
        orders = [list(order) for order in itertools.permutations(range(len(goal.q)))]
        gaps = [
            torch.cat([attend[o] - block.k.mT @ block.q, write[o] - block.o @ block.v])
            for o in orders
        ]
        worst = [int(torch.linalg.matrix_rank(g, atol=1e-9, rtol=0).max()) for g in gaps]
        order = orders[worst.index(min(worst))]
        blocks.append(
            replace(goal, q=goal.q[order], k=goal.k[order], v=goal.v[order], o=goal.o[order])
        )
        before = block.w2 @ torch.linalg.inv(goal.w2)
    return replace(target, blocks=tuple(blocks))


def like_units(block: Block, goal: Block) -> Block:
    """The goal with every unit that is a frozen one up to its size in that one's place."""
    cos = (
        torch.nn.functional.normalize(goal.w1, dim=1)
        @ torch.nn.functional.normalize(block.w1, dim=1).T
    )
    same = cos > 1 - 1e-12
    if not bool((same.sum(0) == 1).all() and (same.sum(1) == 1).all()):
        return goal
    order = same.int().argmax(0)
    size = block.w1.norm(dim=1) / goal.w1[order].norm(dim=1)
    w1, b1 = size[:, None] * goal.w1[order], size[:, None] * goal.b1[order]
    return replace(goal, w1=w1, b1=b1, w2=goal.w2[:, order] / size)


def rewritten(target: Transformer, rng: torch.Generator) -> Transformer:
    """The same function with heads and units in another order, and units in other sizes."""
    blocks = []
    for block in target.blocks:
        heads = torch.arange(len(block.q)).roll(1)
        units = torch.randperm(len(block.b1), generator=rng)
        size = 0.5 + torch.rand(len(units), 1, generator=rng, dtype=torch.float64)
        w1, b1, w2 = size * block.w1[units], size * block.b1[units], block.w2[:, units] / size.T
        moved = {name: getattr(block, name)[heads] for name in "qkvo"}
        blocks.append(replace(block, **moved, w1=w1, b1=b1, w2=w2))
    return replace(target, blocks=tuple(blocks))


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
        for seed in settings.each:
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
        rng = generator(f"transformer-threshold {case}", seed)
        ways = {"": target}
        if "any" not in case:
            ways[", rewritten"] = rewritten(target, rng)
        for name, way in ways.items():
            yield Observation(case + name, seed, *threshold(frozen, way, z))
        if "rank 3" in case:
            same = rewritten(frozen, rng)
            name = "the frozen model itself, rewritten"
            yield Observation(name, seed, 0.0, threshold(frozen, same, z)[1])


def threshold(frozen: Transformer, target: Transformer, z: Tensor) -> tuple[float, float]:
    """ceil(G / 2) after `aligned`, and the smallest rank whose adapters are exact on z."""
    near = aligned(frozen, target)
    ranks = range(z.shape[1] + 1)
    enough = (r for r in ranks if relative_error(frozen, near, r, z) < 1e-7)
    return math.ceil(largest_gap(frozen, near) / 2), next(enough)


def rotations(size: int, distance: int) -> Tensor:
    """(size, size): RoPE's rotation of a head at this distance, one angle for each plane."""
    angles = distance * 100.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    blocks = [torch.tensor([[a.cos(), -a.sin()], [a.sin(), a.cos()]]) for a in angles]
    return torch.block_diag(*blocks).double()


def check_heads(settings: Settings) -> Iterator[Observation]:
    """Ranks of gaps of K^T Q for heads of shape (d_h, D), exact where the entries are integers."""
    dim = 16
    for size in (2, 4, 8):
        for seed in settings.each:
            rng = generator(f"transformer-heads {size}", seed)
            k, q, k2, q2 = (integers(size, dim, size=5, rng=rng) for _ in range(4))
            half = math.ceil(exact.rank((k.T @ q - k2.T @ q2).tolist()) / 2)
            yield Observation(f"any target, d_h={size}", seed, size, half)
            shared = [integers(size, dim, size=5, rng=rng) for _ in range(2)]
            gaps = [k.T @ x - k2.T @ y for x, y in ((q, shared[0]), (shared[1], q2))]
            half = min(math.ceil(exact.rank(g.tolist()) / 2) for g in gaps)
            yield Observation(f"two query heads share K, d_h={size}", seed, size, half)
            k, q = k.double(), q.double()
            planes = torch.block_diag(
                *(rotations(2, 1) * (1 + i) @ rotations(2, i) for i in range(size // 2))
            )
            gauges = {"that commutes": planes, "of any kind": near_rotation(size, rng)}
            for name, gauge in gauges.items():
                turn = rotations(size, 3)
                gap = k.T @ turn @ q - (torch.linalg.inv(gauge).T @ k).T @ turn @ (gauge @ q)
                rank = int(torch.linalg.matrix_rank(gap, atol=1e-9, rtol=0))
                bound = 0 if "commutes" in name else size
                yield Observation(
                    f"RoPE, a gauge {name}: rank of the gap, d_h={size}", seed, bound, rank
                )


PAPER = (
    "Zeng and Lee 2024, arXiv 2310.17513, transformer case [recall]; re-derived and checked here"
)

CLAIMS = (
    Claim(
        id="transformer-exact",
        kind="theorem",
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
        kind="theorem",
        title="the construction is exact from rank ceil(G / 2), G the largest gap up to symmetry",
        statement=(
            "The gaps are those of K^T Q and O V as seen through the frozen W1 and W2 (M folded "
            "in), after heads and ReLU units of the target are put in the frozen model's order: a "
            "model with its heads exchanged is the same function and needs no adapter."
        ),
        formula="R = min over head orders and matching units of max ceil(G / 2)",
        source=PAPER,
        assumptions=(
            "as transformer-exact; a bound on the least rank of any adapters, met by this "
            "construction: units are matched only where all rows of W1 are positive multiples"
        ),
        derivation=(
            "sigma_{2R+1} of each gap is 0 iff 2 R >= G. Heads are summed in any order; "
            "relu(c x) = c relu(x) for c > 0, so unit j may be moved and scaled in W1, b1 and W2"
        ),
        computed=(
            "smallest R with relative error below 1e-7: any target, targets 3 or 5 ranks away, "
            "these and the frozen model itself with heads and units rewritten"
        ),
        relation="==",
        check=check_threshold,
    ),
    Claim(
        id="transformer-heads",
        kind="theorem",
        title="for heads narrower than D / 2 no adapter of rank below d_h is exact on Q and K",
        statement=(
            "With Q and K of shape (d_h, D) two heads differ by a gap of rank 2 d_h, so adapters "
            "need rank d_h, which replaces Q and K whole. Query heads that share a K are no help. "
            "The only freedom is the gauge K -> M^-T K, Q -> M Q; under RoPE M must commute with "
            "the rotations."
        ),
        formula="R >= rank(K^T Q - Kt^T Qt) / 2 = min(d_h, D / 2) for generic heads",
        source="[derived]",
        assumptions="softmax logits K^T Q (or K^T R_delta Q) are to be matched head by head",
        derivation=(
            "(K + dK)^T (Q + dQ) - K^T Q = dK^T (Q + dQ) + K^T dQ has rank 2 R at most. The gap is "
            "[K^T, Kt^T][Q; -Qt], a product of generic (D, 2 d_h) and (2 d_h, D). "
            "K^T M^-1 R_delta M Q = K^T R_delta Q for all K, Q iff M commutes with R_delta"
        ),
        computed=(
            "half the exact rank of integer gaps, D = 16, d_h = 2, 4, 8, also with a shared K; "
            "rank of the gap between two gauges under RoPE"
        ),
        relation="==",
        check=check_heads,
    ),
)

"""Exact ways to compute one adapted layer in training, and which of them is taken for which shape.

All ways give the same y, dx, dA and dB up to rounding. Which one is fastest depends on the shape
and on the processor, so no constant of one processor decides: `tune` measures a table, and
`use_ways` puts it in force for this process. Without a table the cost rule below decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch

ADDED, PARTS = "added", "parts"  # what the cost rule chooses between without a table
PLAIN, LIBRARIES = "plain", "libraries"
WAYS = {
    ADDED: "the adapter's product is added to y and to dx",
    PARTS: "W + c B A serves y and dx; the narrow products go in eight parts",
    PLAIN: "W + c B A serves y and dx; every narrow product is one product",
    LIBRARIES: "as plain, with oneDNN for the wide products and MKL for the narrow ones",
}
FORMER = ("kept", "tiles", "bordered", "padded")  # never the fastest, in tables of older versions
_TOKENS = (1024, 256, 64)  # classes of tokens, each from so many on
FEWEST = min(_TOKENS)

_table: dict[str, str] = {}


class Shape(NamedTuple):
    """One layer's work: tokens of one adapter, k = d_in, n = d_out, rank of one adapter; and how
    many adapters are trained together, 0 where one acts on all rows."""

    tokens: int
    k: int
    n: int
    rank: int
    together: int = 0

    @property
    def kind(self) -> str:
        """The class of the shape, which is its key in a table."""
        return _kind(self)


@lru_cache(maxsize=1024)  # every forward pass of a layer asks
def _kind(shape: Shape) -> str:
    tokens = next((least for least in _TOKENS if shape.tokens >= least), 0)
    width = 2 ** ((shape.k * shape.n).bit_length() // 2)  # the power of two near sqrt(k n)
    rank = 1 << (shape.rank - 1).bit_length()
    words = f"{tokens} tokens, width {width}, rank {rank}"
    return f"{words}, together" if shape.together else words


def usual(shape: Shape) -> str:
    """The cost rule: whether W + c B A, once for forward and once for backward, costs less than
    adding to y and to dx.

    Adding takes 2 M r (k + n) multiplications and a pass over y and dx, building twice 2 k n r; M
    counts the tokens of one adapter. The factor of 2 between them is a margin. Zen 3, forward plus
    backward over frozen, unmerged and merged. One thread: 1.63 and 1.45 (M=2048, k=n=128, r=16),
    1.78 and 1.65 (2048, 256, 64), 1.35 and 1.32 (512, 256, 8), a tie at (2048, 512, 8). Two
    threads, K adapters: 1.78 and 1.47 (K=12, M=512, k=n=128, r=16), 1.40 and 1.42 (8, 256, 256, 8),
    1.26 and 1.45 (8, 256, 512, 8).
    """
    pays = shape.tokens * (shape.k + shape.n) >= 4 * shape.k * shape.n
    return PARTS if pays and shape.tokens >= FEWEST else ADDED


def use_ways(table: Mapping[str, str]) -> dict[str, str]:
    """Take these ways from now on in this process, {class of shape: way}; an empty table gives the
    cost rule back. Returns the table in force.

    A class whose way this processor would round leaves the table, for oneDNN's products are bf16's
    on a processor with AMX; so does one whose way is a former one. Raises ValueError for a way that
    is not known.
    """
    for kind, way in table.items():
        if way not in (*WAYS, *FORMER):
            raise ValueError(f"{kind}: no way {way!r}, there are {', '.join(WAYS)}")
    _table.clear()
    for kind, way in table.items():
        if way not in FORMER and (way != LIBRARIES or one_dnn_is_exact()):
            _table[kind] = way
    return dict(_table)


def ways_in_use() -> dict[str, str]:
    return dict(_table)


def chosen(shape: Shape) -> str | None:
    """The way of the table in force for this shape, None where the table has none."""
    return _table.get(shape.kind) if _table else None


@contextmanager
def fp32_products(setting: str) -> Iterator[None]:
    """Inside this block fp32 products on the CPU follow ``setting``: "none" is MKL, and "bf16"
    permits oneDNN, which computes them in full fp32 where the processor has no bf16 units."""
    backend: Any = torch.backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = setting
    try:
        yield
    finally:
        matmul.fp32_precision = before


@lru_cache(maxsize=1)
def one_dnn_is_exact() -> bool:
    """Whether oneDNN computes fp32 products on this processor and does not round them more than
    MKL. The product takes a few milliseconds, once in a process."""
    mkldnn = torch.backends.mkldnn
    if not mkldnn.is_available() or not hasattr(mkldnn, "matmul"):
        return False
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(256, 256, generator=generator) for _ in range(2))
    true, products = x.double() @ w.double(), []
    for setting in ("none", "bf16"):
        with fp32_products(setting):
            products.append(x @ w)
    plain, other = ((product.double() - true).norm().item() for product in products)
    # Equal bits mean that there is no such path (no AVX-512): the way would be another's copy.
    return not torch.equal(*products) and other < 4 * plain

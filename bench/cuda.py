"""What is measured on a CUDA device: layers in bf16 with fp32 adapters, whole steps, the tests that
need a device, and a study."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.jobs import Job, command
from bench.layers import gated, one_adapter, together
from bench.protocol import Case, Row, measure

STANDARD = (8192, 4096, 4096, 16)  # M, k, n, r of the targets
ADAPTERS = 8
SHAPES = [
    (M, k, n, r)
    for M in (8192, 2048)
    for k, n in ((4096, 4096), (1024, 1024), (4096, 11008))
    for r in (16, 8, 64)
]
SECONDS = 3.0  # for each layer
TESTS = ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
# bf16 is the base's format; adapters are fp32 in any case.
STUDY = ("recycle", "study", "two-hop", "--preset", "quick", "--device", "cuda", "--dtype", "bf16")


def layer(shape: tuple[int, int, int, int], device: str = "cuda") -> Case:
    M, k, n, r = shape
    case = one_adapter(M, k, n, r, torch.bfloat16, device, compiled=device == "cuda", masters=True)
    return replace(case, group=f"one adapter, M={M}, r={r}")


def standard_layer() -> Job:
    """The layer that has targets: it is measured first."""
    return _job(name_of(STANDARD), partial(layer, STANDARD))


def further_layers() -> list[Job]:
    several = {
        make.__name__: partial(make, *STANDARD, ADAPTERS, torch.bfloat16, "cuda")
        for make in (gated, together)
    }
    shapes = {name_of(shape): partial(layer, shape) for shape in SHAPES if shape != STANDARD}
    return [_job(name, make) for name, make in {**several, **shapes}.items()]


def gpu_tests() -> Job:
    return Job("gpu tests", partial(command, "tests", "gpu", TESTS), 600.0, whole=True)


def study() -> Job:
    """It takes the time that is left, and no more than ten minutes: so it comes last."""

    def run(seconds: float) -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "run")
            return command("study", "two-hop, quick", (*STUDY, "--quiet", "--run", path), seconds)

    return Job("study", run, 600.0, whole=True)


def _job(name: str, make: Callable[[], Case]) -> Job:
    """A case is made when its turn comes: the tensors of all cases together would fill memory."""
    return Job(name, lambda seconds: measure(make(), "cuda", seconds), SECONDS)


def name_of(shape: tuple[int, int, int, int]) -> str:
    M, k, n, r = shape
    return f"M={M} {k} to {n} r={r}"

"""Measure the layer beside its peers:  python -m bench --quick     a minute and a half on two cores

    python -m bench [--device cuda] [--json FILE] [--plot FILE.png]   all, with growth: minutes
    python -m bench growth [--json FILE]                    the sweeps over r, M, width, N, K alone
    python -m bench real [--json FILE]                      a step of SmolLM2-135M's shape: minutes
    python -m bench table > bench/results/README.md         the tables of all recorded results
    python -m bench table --json FILE                       the tables of one results file

Nothing is timed before y, dx, dA, dB and dgates of every arm were compared with float64. Rows are
ratios to the frozen layer's forward plus backward, the physical limit, in the same process and
round; "floor" is what the products alone would cost. The last line of the output is one JSON
object. bench/README.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from bench import growth, many, pieces, real, report, steps
from bench.layers import gated, has_peft, one_adapter, together
from bench.protocol import Case, Row, WrongResult, dtype_name, measure
from models import TransformerConfig
from recycle.run.disk import write_json
from recycle.run.environment import describe_environment
from recycle.run.matmul import CHOICES, choose_matmul

Job = tuple[str, Callable[[], list[Row]]]
MakeCase = Callable[[], Case]

# Width: (must, aim), ratios to frozen at M=2048, r=8 on the CPU in fp32.
ONE = {256: (1.18, 1.12), 512: (1.11, 1.07), 1024: (1.09, 1.04)}
GATED = {256: (1.90, 1.80), 512: (1.50, 1.43), 1024: (1.25, 1.21)}
TOGETHER = {256: (1.22, 1.15), 512: (1.11, 1.08), 1024: (1.09, 1.05)}
MODEL = TransformerConfig()
TOKENS, RANK, ADAPTERS = 2048, 8, 8
ROWS, LENGTH, EXPERTS, DECODED, MANY = 44, 64, 12, 32, 1000
SECONDS = {"quick": 2.0, "all": 8.0, "growth": 1.5}  # for each case
SMALL = (  # (M, width, dtype) of further cases of one adapter
    (2048, 128, torch.float32),
    (512, 128, torch.float32),
    (512, 256, torch.float32),
    (512, 1024, torch.float32),
    (512, 256, torch.bfloat16),
)
CUDA_STANDARD, CUDA_MUST = (8192, 4096, 4096, 16), 1.20  # (M, k, n, r) and its ratio to frozen


def cpu_jobs(quick: bool) -> list[Job]:
    fp32 = torch.float32
    seconds = SECONDS["quick" if quick else "all"]
    cases: dict[str, MakeCase] = {}
    for width, (must, aim) in ONE.items():
        one = partial(one_adapter, TOKENS, width, width, RANK, fp32, "cpu")
        cases[f"one {width}"] = partial(one, must=must, aim=aim)
    for make, bounds in ((gated, GATED), (together, TOGETHER)):
        for width, (must, aim) in bounds.items():
            several = partial(make, TOKENS, width, width, RANK, ADAPTERS, fp32, "cpu")
            cases[f"{make.__name__} {width}"] = partial(several, must=must, aim=aim)
    if quick:
        return layer_jobs(cases, "cpu", seconds) + step_jobs("cpu", seconds)
    compiled = shutil.which(os.environ.get("CXX", "g++")) is not None
    for M, width, dtype in SMALL:
        group = f"M={M}, {dtype_name(dtype)}"
        case = partial(one_adapter, M, width, width, RANK, dtype, "cpu", compiled=compiled)
        cases[f"{group} {width}"] = partial(renamed, case, group)
    return (
        layer_jobs(cases, "cpu", seconds)
        + step_jobs("cpu", seconds)
        + growth_jobs("cpu", fp32, SECONDS["growth"])
    )


def cuda_jobs(quick: bool) -> list[Job]:
    bf16, seconds = torch.bfloat16, 3.0
    shapes = [CUDA_STANDARD]
    if not quick:
        shapes += [
            (M, k, n, r)
            for M in (2048, 8192)
            for k, n in ((1024, 1024), (4096, 4096), (4096, 11008))
            for r in (8, 16, 64)
            if (M, k, n, r) != CUDA_STANDARD
        ]
    cases: dict[str, MakeCase] = {}
    for M, k, n, r in shapes:
        must = CUDA_MUST if (M, k, n, r) == CUDA_STANDARD else None
        case = partial(one_adapter, M, k, n, r, bf16, "cuda", compiled=True, must=must)
        group = f"one adapter, M={M}, r={r}"
        cases[f"M={M} {k} to {n} r={r}"] = partial(renamed, case, group)
    for make in (gated, together):
        cases[make.__name__] = partial(make, *CUDA_STANDARD, ADAPTERS, bf16, "cuda")
    jobs = layer_jobs(cases, "cuda", seconds) + step_jobs("cuda", seconds)
    return jobs if quick else jobs + growth_jobs("cuda", bf16, SECONDS["growth"])


def renamed(make: MakeCase, group: str) -> Case:
    return replace(make(), group=group)


def layer_jobs(cases: Mapping[str, MakeCase], device: str, seconds: float) -> list[Job]:
    """A case is made when its turn comes: the tensors of all cases together would fill memory."""

    def rows(make: MakeCase) -> list[Row]:
        return measure(make(), device, seconds)

    return [(name, partial(rows, make)) for name, make in cases.items()]


def step_jobs(device: str, seconds: float) -> list[Job]:
    many = partial(steps.train_many, MODEL, EXPERTS, 8, LENGTH)
    return [
        ("training step", partial(steps.train_one, MODEL, ROWS, LENGTH, device, 2 * seconds)),
        ("adapters at once", partial(many, device, 2 * seconds)),
        ("decoding", partial(steps.decode, MODEL, 3, 64, DECODED, device, seconds)),
        ("decoding one row", partial(steps.decode, MODEL, 3, 1, DECODED, device, seconds)),
    ]


def real_jobs(device: str, seconds: float) -> list[Job]:
    """Steps of a real model beside Hugging Face's, its pieces, and many adapters on it."""
    shape = real.SMOLLM2_135M
    jobs: list[Job] = []
    for rows, length in real.CASES:
        size = f"{rows} x {length}"
        for name, title in pieces.TITLES.items():
            piece = partial(pieces.piece, name, shape, rows, length, device, seconds)
            jobs.append((f"{title} {size}", piece))
        step = partial(real.real_step, rows, length, device, seconds)
        jobs.append((f"real step {size}", partial(step, shape, real.VOCABULARY)))
    base = steps.base_model(MODEL, device)
    attaching = partial(many.attaching, base, steps.random_adapter(base, 1), MANY)
    jobs.append(("attaching", partial(attaching, device, seconds)))
    for rows, length in ((ROWS, LENGTH), (1, 1)):
        mixing = partial(many.mixing, base, rows, length, MANY, device, seconds)
        jobs.append((f"mixing {rows} x {length}", mixing))
    return jobs


def growth_jobs(device: str, dtype: torch.dtype, seconds: float) -> list[Job]:
    return [
        (f"growth {axis}={value}", partial(growth.sweep, axis, value, dtype, device, seconds))
        for axis, values in growth.SWEEPS.items()
        for value in values
    ]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see python -m bench --help")


def parser() -> Parser:
    p = Parser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "command",
        nargs="?",
        choices=["growth", "real", "table"],
        help="the sweeps alone, a real model's step, or tables from recorded results",
    )
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument(
        "--quick", action="store_true", help="the cases that have targets, and whole steps"
    )
    p.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results there; table reads them there"
    )
    p.add_argument(
        "--matmul",
        choices=CHOICES,
        default="auto",
        help="the CPU's fp32 product, as in python -m recycle",
    )
    p.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the ratios (needs the plots extra)"
    )
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def check_writable(path: Path) -> None:
    """Raises ValueError before anything is timed, so that a wrong folder costs no minutes of
    work."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"{path} cannot be written: name a file in a folder that exists and is yours"
        )


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure, print the rows as they come, write what was asked for, return the results."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: this PyTorch finds no CUDA device; leave it out to measure the CPU"
        )
    for path in filter(None, (options.json, options.plot)):
        check_writable(path)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install -e .[plots]")
    environment = describe_environment(choose_matmul(options.matmul), command)
    environment["device"] = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    environment["peft"] = importlib.metadata.version("peft") if has_peft() else None
    environment["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if options.command == "growth":
        dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
        jobs = growth_jobs(options.device, dtype, SECONDS["growth"])
    elif options.command == "real":
        jobs = real_jobs(options.device, SECONDS["quick"])
    else:
        jobs = (cpu_jobs if options.device == "cpu" else cuda_jobs)(options.quick)
    rows: list[Row] = []
    bar = tqdm(jobs, file=sys.stderr, leave=False, dynamic_ncols=True)
    for name, job in bar:
        bar.set_postfix_str(name)
        measured = job()
        rows += measured
        with tqdm.external_write_mode(file=sys.stdout):
            print(report.title(measured))
            print("\n".join(map(report.line, measured)), flush=True)
    print(report.summary(rows))
    if not has_peft():
        print("PEFT is not installed (the interop extra): its arms were left out")
    results = {
        "environment": environment,
        "quick": options.quick,
        "noise": report.noise(rows),
        "recovered": report.overheads(rows),
        "targets": report.targets(rows),
        "rows": rows,
    }
    if options.json:
        write_json(options.json, results)
    if options.plot:
        report.draw(rows, options.plot)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parser().parse_args(arguments)
        if options.command == "table":
            if options.json:
                print(report.markdown(report.read_results(options.json)), end="")
            else:
                print(report.page(report.RESULTS), end="")
            return 0
        print(json.dumps(run(options, "python -m bench " + shlex.join(arguments))))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, WrongResult) as error:
        if "--debug" in arguments:
            raise
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

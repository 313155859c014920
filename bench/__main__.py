"""Measure the layer beside its peers:  python -m bench --quick     about a minute and a half on two cores

    python -m bench [--device cpu|cuda] [--json FILE] [--plot FILE.png]     everything, with growth: minutes
    python -m bench growth [--json FILE]                                    the sweeps over r, M, width, N and K alone
    python -m bench table [--json FILE]                                     the README's tables from a results file

Nothing is timed before its y, dx, dA, dB and dgates were compared with float64. Rows are ratios to
the frozen layer's forward plus backward, the physical limit, in the same process and round; "floor"
is what the products alone would cost. The last line of the output is one JSON object.

Where each path stops paying (bench/results/cpu-growth.json: one thread of a Zen 3, M=2048, width 256, r=8, N=8, K=8, +-10 %):
    r       ours 1.3 (r=8) to 2.2 (r=128); beyond r = k/8 full fine-tuning, 1.5, costs less a step
    M       training below about 256 tokens is all call overhead, and there the plain formula is faster (2.0 against 2.9 at M=1)
    width   2.2 at 64, 1.06 at 1024: the adapter's share falls as r / k
    N       1.5 (N=2) to 4.2 (N=32), in step with the floor; the stacked flow of PEFT goes from 2.1 to 32
    K       1.4 whatever K is; one after the other, 1.7 (K=2) to 2.6 (K=32)
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
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from bench import growth, report, steps
from bench.layers import gated, has_peft, one_adapter, together
from bench.protocol import WrongResult, measure
from models import TransformerConfig
from recycle.run.matmul import CHOICES, choose_matmul
from recycle.run.environment import describe_environment

Job = tuple[str, Callable[[], list[dict]]]

# Width: (must, aim), ratios to frozen at M=2048, r=8 on the CPU in fp32.
ONE = {256: (1.18, 1.12), 512: (1.11, 1.07), 1024: (1.09, 1.04)}
GATED = {256: (1.90, 1.80), 512: (1.50, 1.43), 1024: (1.25, 1.21)}
TOGETHER = {256: (1.22, 1.15), 512: (1.11, 1.08), 1024: (1.09, 1.05)}
MODEL = TransformerConfig()
TOKENS, RANK, ADAPTERS = 2048, 8, 8
ROWS, LENGTH, EXPERTS, DECODED = 44, 64, 12, 32
SECONDS = {"quick": 2.0, "all": 8.0, "growth": 1.5}  # for each case


def cpu_jobs(quick: bool) -> list[Job]:
    fp32, jobs = torch.float32, []
    seconds = SECONDS["quick" if quick else "all"]
    for make, table, extra in (
        (one_adapter, ONE, ()),
        (gated, GATED, (ADAPTERS,)),
        (together, TOGETHER, (ADAPTERS,)),
    ):
        for k, (must, aim) in table.items():

            def job(make=make, k=k, extra=extra, must=must, aim=aim) -> list[dict]:
                return measure(
                    make(TOKENS, k, k, RANK, *extra, fp32, "cpu", must=must, aim=aim),
                    "cpu",
                    seconds,
                )

            jobs.append((f"{make.__name__} {k}", job))
    if not quick:
        compiled = shutil.which(os.environ.get("CXX", "g++")) is not None
        for M, k, dtype in (
            (2048, 128, fp32),
            (512, 128, fp32),
            (512, 256, fp32),
            (512, 1024, fp32),
            (512, 256, torch.bfloat16),
        ):

            def small(M=M, k=k, dtype=dtype) -> list[dict]:
                rows = measure(
                    one_adapter(M, k, k, 8, dtype, "cpu", compiled=compiled), "cpu", seconds
                )
                return [{**row, "group": f"M={M}, {row['dtype']}"} for row in rows]

            jobs.append((f"M={M} {k}", small))
    return (
        jobs
        + step_jobs("cpu", seconds)
        + ([] if quick else growth_jobs("cpu", fp32, SECONDS["growth"]))
    )


def cuda_jobs(quick: bool) -> list[Job]:
    bf16, jobs = torch.bfloat16, []
    shapes = [(8192, 4096, 4096, 16)]
    if not quick:
        shapes += [
            (M, k, n, r)
            for M in (2048, 8192)
            for k, n in ((1024, 1024), (4096, 4096), (4096, 11008))
            for r in (8, 16, 64)
            if (M, k, n, r) != shapes[0]
        ]
    for M, k, n, r in shapes:
        must = 1.20 if (M, k, n, r) == shapes[0] else None

        def job(M=M, k=k, n=n, r=r, must=must) -> list[dict]:
            rows = measure(
                one_adapter(M, k, n, r, bf16, "cuda", compiled=True, must=must), "cuda", 3.0
            )
            return [{**row, "group": f"one adapter, M={M}, r={r}"} for row in rows]

        jobs.append((f"M={M} {k} to {n} r={r}", job))
    for make in (gated, together):
        jobs.append(
            (
                make.__name__,
                lambda make=make: measure(make(8192, 4096, 4096, 16, 8, bf16, "cuda"), "cuda", 3.0),
            )
        )
    return (
        jobs
        + step_jobs("cuda", 3.0)
        + ([] if quick else growth_jobs("cuda", bf16, SECONDS["growth"]))
    )


def step_jobs(device: str, seconds: float) -> list[Job]:
    return [
        ("training step", lambda: steps.train_one(MODEL, ROWS, LENGTH, device, 2 * seconds)),
        (
            "adapters at once",
            lambda: steps.train_many(MODEL, EXPERTS, 8, LENGTH, device, 2 * seconds),
        ),
        ("decoding", lambda: steps.decode(MODEL, 3, 64, DECODED, device, seconds)),
        ("decoding one row", lambda: steps.decode(MODEL, 3, 1, DECODED, device, seconds)),
    ]


def growth_jobs(device: str, dtype: torch.dtype, seconds: float) -> list[Job]:
    return [
        (
            f"growth {axis}={value}",
            lambda axis=axis, value=value: growth.sweep(axis, value, dtype, device, seconds),
        )
        for axis, values in growth.SWEEPS.items()
        for value in values
    ]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
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
        choices=["growth", "table"],
        help="the sweeps alone, or tables from results",
    )
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument(
        "--quick", action="store_true", help="the cases that have targets, and whole steps"
    )
    p.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results there (with table: read them there)",
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
    """Before anything is timed: minutes of work are not lost to a wrong folder."""
    if (
        path.is_dir()
        or not path.parent.is_dir()
        or not os.access(path if path.exists() else path.parent, os.W_OK)
    ):
        raise ValueError(
            f"{path} cannot be written: name a file in a folder that exists and is yours"
        )


def run(options: argparse.Namespace, command: str) -> dict:
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
    else:
        jobs = (cpu_jobs if options.device == "cpu" else cuda_jobs)(options.quick)
    rows: list[dict] = []
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
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        report.draw(rows, options.plot)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parser().parse_args(arguments)
        if options.command == "table":
            print(report.markdown(report.read_results(options.json or report.RESULTS)), end="")
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

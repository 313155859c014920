"""Measure the layer beside its peers:  python -m bench --quick          below a minute and a half

    python -m bench [--json FILE] [--plot FILE.png]         all, with growth: minutes
    python -m bench --device cuda --json FILE               a GPU, its tests, a study: 25 minutes
    python -m bench ... --json FILE --minutes 9 --go-on     a part of it; the same command goes on
    python -m bench growth [--json FILE]                    the sweeps over r, M, width, N, K, base
    python -m bench real [--json FILE]                      a step of SmolLM2-135M's shape: minutes
    python -m bench page                                    the page of all recorded results
    python -m bench table --json FILE                       the tables of one results file

Nothing is timed before y, dx, dA, dB and dgates of every arm were compared with float64. Rows are
ratios to the frozen layer's forward plus backward in the same process and round; a row's own floor
is what its products would cost at the speed of the frozen layer's. The last line of the output is
one JSON object. bench/README.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from tqdm import tqdm

from bench import cuda, growth, many, pictures, pieces, real, report, steps, targets
from bench.jobs import Job, in_time
from bench.layers import gated, has_peft, one_adapter, together
from bench.protocol import Case, Row, WrongResult, dtype_name, measure
from lora import use_ways
from lora.ways import Shape
from models import CausalLM, TransformerConfig
from recycle.run.disk import write_json
from recycle.run.environment import describe_environment
from recycle.run.matmul import CHOICES, choose_matmul
from recycle.run.processor import describe_processor
from recycle.run.ways import ways_here

MakeCase = Callable[[], Case]

WIDTHS = (256, 512, 1024)
MODEL = TransformerConfig()
TOKENS, RANK, ADAPTERS = 2048, 8, 8
ROWS, LENGTH, EXPERTS, DECODED, MANY = 44, 64, 12, 32, 1000
ROWS_OF_EACH = 8  # where the experts are trained at once
SECONDS = {"quick": 2.0, "all": 8.0, "growth": 1.5}  # for each case
LIMITS = {"quick": 75.0, "cpu": math.inf, "cuda": 22 * 60.0}  # seconds in which jobs may begin
SMALL = (  # (M, width, dtype) of further cases of one adapter
    (2048, 128, torch.float32),
    (512, 128, torch.float32),
    (512, 256, torch.float32),
    (512, 1024, torch.float32),
    (512, 256, torch.bfloat16),
)


def cpu_jobs(quick: bool) -> list[Job]:
    fp32 = torch.float32
    seconds = SECONDS["quick" if quick else "all"]
    cases: dict[str, MakeCase] = {}
    for width in WIDTHS:
        one = partial(one_adapter, TOKENS, width, width, RANK, fp32, "cpu", ways=not quick)
        cases[f"one {width}"] = one
    for make in (gated, together):
        for width in WIDTHS:
            several = partial(make, TOKENS, width, width, RANK, ADAPTERS, fp32, "cpu")
            cases[f"{make.__name__} {width}"] = several
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
    """What has targets first, and the sweeps last: a GPU is borrowed for some minutes."""
    jobs = [cuda.standard_layer(), *step_jobs("cuda", cuda.SECONDS)]
    if quick:
        return jobs
    for rows, length in real.CASES:
        step = partial(real.real_step, rows, length, "cuda", dtype=torch.bfloat16)
        jobs.append(Job(f"real step {rows} x {length}, bf16", step, cuda.SECONDS))
    for rows in (64, 1):
        decoding = partial(real.real_decoding, rows, DECODED, "cuda", torch.bfloat16)
        jobs.append(Job(f"real decoding {rows} rows, bf16", decoding, cuda.SECONDS))
    sweeps = growth_jobs("cuda", torch.bfloat16, SECONDS["growth"])
    return [*jobs, cuda.gpu_tests(), *cuda.further_layers(), *sweeps, cuda.study()]


def renamed(make: MakeCase, group: str) -> Case:
    return replace(make(), group=group)


def layer_jobs(cases: Mapping[str, MakeCase], device: str, seconds: float) -> list[Job]:
    """A case is made when its turn comes: the tensors of all cases together would fill memory."""

    def rows(make: MakeCase, budget: float) -> list[Row]:
        return measure(make(), device, budget)

    return [Job(name, partial(rows, make), seconds) for name, make in cases.items()]


def step_jobs(device: str, seconds: float) -> list[Job]:
    one = partial(steps.train_one, MODEL, ROWS, LENGTH, device)
    many = partial(steps.train_many, MODEL, EXPERTS, ROWS_OF_EACH, LENGTH, device)
    return [
        Job("training step", one, 2 * seconds),
        Job("adapters at once", many, 2 * seconds),
        Job("decoding", partial(steps.decode_toy, MODEL, 3, 64, DECODED, device), seconds),
        Job("decoding one row", partial(steps.decode_toy, MODEL, 3, 1, DECODED, device), seconds),
    ]


def real_jobs(device: str, seconds: float) -> list[Job]:
    """Steps of a real model beside Hugging Face's, its pieces, and many adapters on it."""
    shape = real.SMOLLM2_135M
    jobs: list[Job] = []
    for rows, length in real.CASES:
        size = f"{rows} x {length}"
        for name, title in pieces.TITLES.items():
            piece = partial(pieces.piece, name, shape, rows, length, device)
            jobs.append(Job(f"{title} {size}", piece, seconds))
        step = partial(
            real.real_step, rows, length, device, config=shape, vocabulary=real.VOCABULARY
        )
        jobs.append(Job(f"real step {size}", step, seconds))
    base = steps.base_model(MODEL, device)
    attaching = partial(many.attaching, base, steps.random_adapter(base, 1), MANY, device)
    jobs.append(Job("attaching", attaching, seconds))
    for rows, length in ((ROWS, LENGTH), (1, 1)):
        mixing = partial(many.mixing, base, rows, length, MANY, device)
        jobs.append(Job(f"mixing {rows} x {length}", mixing, seconds))
    return jobs


def growth_jobs(device: str, dtype: torch.dtype, seconds: float) -> list[Job]:
    return [
        Job(f"growth {axis}={value}", partial(growth.sweep, axis, value, dtype, device), seconds)
        for axis, values in growth.SWEEPS.items()
        for value in values
    ]


def measured_shapes(command: str | None) -> Iterable[Shape]:
    """Of the layers that a command trains: what a table of ways is asked for."""
    if command == "real":
        planned = CausalLM.planned(real.SMOLLM2_135M, real.VOCABULARY, torch.float32)
        for rows, length in real.CASES:
            for n, k in _sizes(planned):
                yield Shape(rows * length, k, n, steps.RANK)
        return
    for width in WIDTHS:
        yield Shape(TOKENS, width, width, RANK)
        yield Shape(TOKENS // ADAPTERS, width, width, RANK, ADAPTERS)
    for n, k in _sizes(steps.base_model(MODEL, "cpu")):
        yield Shape(ROWS * LENGTH, k, n, steps.RANK)
        yield Shape(ROWS_OF_EACH * LENGTH, k, n, steps.RANK, EXPERTS)


def _sizes(model: nn.Module) -> Iterable[tuple[int, int]]:
    """(d_out, d_in) of a model's linear layers, each once."""
    linears = (module for module in model.modules() if isinstance(module, nn.Linear))
    return dict.fromkeys((linear.out_features, linear.in_features) for linear in linears)


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
        choices=["growth", "page", "real", "table"],
        help="the sweeps alone; a real model's step; the page of all recorded results, with its "
        "pictures; or the tables of one results file, printed",
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
        help="auto takes the CPU's faster fp32 product and the fastest way of each layer, as "
        "python -m recycle does; default takes neither",
    )
    p.add_argument(
        "--minutes", type=float, metavar="N", help="no case begins after so many minutes"
    )
    p.add_argument(
        "--go-on", action="store_true", help="leave out what the --json file has, and add to it"
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


def begun(options: argparse.Namespace, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the results file holds already. Raises ValueError where another machine made it."""
    if not (options.go_on and options.json.exists()):
        return {"rows": [], "done": []}
    results = report.read_results(options.json)
    for fact in ("processor", "device", "threads", "torch", "ways"):
        if results["environment"].get(fact) != environment.get(fact):
            raise ValueError(
                f"{options.json} was measured with another {fact} "
                f"({results['environment'].get(fact)!r}): name another file, or leave out --go-on"
            )
    return results


def describe(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """The machine, and what was chosen on it for this process."""
    on_cpu = options.device == "cpu"
    matmul = choose_matmul(options.matmul)
    environment = {**describe_environment(matmul, command), **describe_processor()}
    auto = on_cpu and options.matmul == "auto"
    environment["ways"] = use_ways(
        ways_here(measured_shapes(options.command), matmul) if auto else {}
    )
    environment["device"] = "cpu" if on_cpu else torch.cuda.get_device_name()
    environment["peft"] = importlib.metadata.version("peft") if has_peft() else None
    environment["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return environment


def check_options(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: this PyTorch finds no CUDA device; leave it out to measure the CPU"
        )
    for path in filter(None, (options.json, options.plot)):
        check_writable(path)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install -e .[plots]")
    if options.go_on and not options.json:
        raise ValueError("--go-on goes with --json FILE, which it adds to")
    if options.minutes is not None and not options.minutes > 0:
        raise ValueError(f"--minutes {options.minutes}: a number above 0")


def chosen_jobs(options: argparse.Namespace) -> list[Job]:
    if options.command == "growth":
        dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
        return growth_jobs(options.device, dtype, SECONDS["growth"])
    if options.command == "real":
        return real_jobs(options.device, SECONDS["quick"])
    return (cpu_jobs if options.device == "cpu" else cuda_jobs)(options.quick)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure, print the rows as they come, write what was asked for after each case, return the
    results."""
    check_options(options)
    environment = describe(options, command)
    before = begun(options, environment)
    rows, done = list(before["rows"]), list(before["done"])
    jobs = [job for job in chosen_jobs(options) if job.name not in done]
    limit = LIMITS["quick" if options.quick else options.device]
    if options.minutes is not None:
        limit = 60 * options.minutes
    left_out: list[str] = []
    bar = tqdm(in_time(jobs, limit), file=sys.stderr, leave=False, total=len(jobs))
    for job, seconds in bar:
        if seconds is None:
            left_out.append(job.name)
            continue
        bar.set_postfix_str(job.name)
        measured = job.measure(seconds)
        rows, done = [*rows, *measured], [*done, job.name]
        with tqdm.external_write_mode(file=sys.stdout):
            print(report.title(measured))
            print("\n".join(map(report.line, measured)), flush=True)
        if options.json:
            write_json(options.json, results_of(options, environment, rows, done, left_out))
    print(report.summary(rows))
    if not has_peft():
        print("PEFT is not installed (the interop extra): its arms were left out")
    if left_out:
        print(f"left out, for the time was used up: {', '.join(left_out)}")
    results = results_of(options, environment, rows, done, left_out)
    if options.json:
        write_json(options.json, results)
    if options.plot:
        pictures.draw(rows, options.plot)
    return results


def results_of(
    options: argparse.Namespace,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    done: Sequence[str],
    left_out: Sequence[str],
) -> dict[str, Any]:
    return {
        "environment": environment,
        "quick": options.quick,
        "products": targets.speeds(rows),
        "noise": targets.noise(rows),
        "recovered": targets.overheads(rows),
        "targets": targets.targets(rows),
        "done": done,
        "left out": left_out,
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parser().parse_args(arguments)
        if options.command == "page":
            for path in pictures.write_page(report.RESULTS):
                print(f"made: {os.path.relpath(path)}")
            return 0
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

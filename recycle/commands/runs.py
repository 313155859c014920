"""What the commands on studies, their runs and recorded results do."""

from __future__ import annotations

import json
import os
import shlex
import time
import webbrowser
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lora import use_ways
from models.checkpoint import check_memory
from recycle.measure.gsm import describe
from recycle.reuse.methods import METHODS
from recycle.run.device import choose_device, describe_device, on_one_device
from recycle.run.disk import read_json, writing
from recycle.run.environment import describe_environment
from recycle.run.folder import claim_folder, read_environments
from recycle.run.launch import launch
from recycle.run.matmul import choose_matmul, speedup_in_16_bits
from recycle.run.names import plain_file
from recycle.run.processes import Team, here, processes
from recycle.run.ways import choose_ways
from recycle.show.apart import apart
from recycle.show.carry_over import Recorded
from recycle.show.carry_over import carry_over as laid_side_by_side
from recycle.show.lines_table import lines_markdown
from recycle.show.minutes import keep_minutes, minutes, minutes_table
from recycle.show.page import write_report
from recycle.show.record import PAGE_HEAD, markdown, read_recorded, record, rejudge, write_results
from recycle.show.run_files import load_metrics
from recycle.studies import DESIGNS, Study, open_study
from recycle.studies.check import check
from recycle.studies.shapes import adapted_shapes
from recycle.study import is_finished
from recycle.study import run as run_study
from recycle.train.base import forget_base, load_base
from recycle.train.known import known_facts
from recycle.train.settings import DTYPES, assignments, change
from tasks.gsm_symbolic import LEVELS

RESULTS = Path(__file__).parent.parent / "results"
ON_CHECKPOINT = {
    "two-hop": "two-hop-english",
    "word-math": "gsm-english",
}  # a study, and what it is on a checkpoint


def study(options: Namespace) -> int:
    """All settings are checked before any work begins, here or in other processes."""
    if options.checkpoint is not None and options.task not in ON_CHECKPOINT:
        raise ValueError(f"--checkpoint goes with {', '.join(ON_CHECKPOINT)}, not {options.task}")
    design = DESIGNS[options.task if options.checkpoint is None else ON_CHECKPOINT[options.task]]
    device = choose_device(options.device)
    config = replace(design.preset(options.preset), dtype=options.dtype)
    made = Study(design, change(config, assignments(options.set)))
    name = options.task if options.checkpoint is None else design.name
    folder = options.run or Path("runs") / f"{name}-{options.preset}"
    if options.shard and not (
        options.checkpoint and (options.processes > 1 or "RANK" in os.environ)
    ):
        raise ValueError(
            "--shard spreads a checkpoint over several processes: add --checkpoint and "
            "--processes N, or start it under torchrun"
        )
    if options.processes > 1 and "RANK" not in os.environ:
        if not options.shard:  # else no process alone can hold the checkpoint
            made = _prepared(made, options, folder, Team(), options.processes, device)
            claim_folder(made.config, folder)
            forget_base()  # each process reads the checkpoint for itself
        return launch(options.given, options.processes)
    with processes(options.shard) as team, writing(team.rank == 0 or not team.in_step):
        made = _prepared(made, options, folder, team, here()[1], device)
        command = "python -m recycle " + shlex.join(options.given)
        matmul = choose_matmul(options.matmul)
        environment = describe_environment(matmul, command, describe_device(device))
        if ways := _agreed_ways(made, folder, options.matmul, matmul, team, device):
            environment["ways"] = ways
        if team.rank == 0 and not options.quiet:
            _say_what_is_faster(made, folder, matmul, device)
        run_study(made, folder, environment, team, options.quiet, device)
    if team.rank == 0:
        begun = time.monotonic()
        _write_report(made.settled(folder), folder)
        spent = minutes(folder, time.monotonic() - begun)
        keep_minutes(folder, spent)
        if not options.quiet:
            print(f"\n{minutes_table(spent)}")
    return 0


def _say_what_is_faster(
    made: Study, folder: Path, matmul: Mapping[str, Any], device: torch.device
) -> None:
    """Of a new run on a checkpoint: whether 16 bits would save it tens of minutes."""
    new = made.config.checkpoint and not read_environments(folder)
    if not new or device.type != "cpu" or made.config.dtype != "fp32":
        return
    if speedup := speedup_in_16_bits(matmul):
        print(
            f"This processor multiplies {speedup:.1f} times as fast in 16 bits: a run with --dtype "
            "bf16, in another folder (--run), would take a part of the time."
        )


def _prepared(
    made: Study, options: Namespace, folder: Path, team: Team, copies: int, device: torch.device
) -> Study:
    """The study, checked; on a checkpoint, of which this machine will hold so many ``copies``, with
    the facts that the checkpoint knows. The run's folder names them, or they are asked now: by the
    first process, or by all in step."""
    if options.checkpoint is None:
        check(made)
        return made
    for key in assignments(options.set):
        if key.startswith(("pretrain.", "model.")) and key != "model.context":
            raise ValueError(f"--set {key}: a checkpoint is trained already, and has its own shape")
    made = Study(made.design, replace(made.config, checkpoint=options.checkpoint))
    begun = (folder / "config.json").exists()
    if begun:
        made = _with_known(made, folder)
    loads = not (begun and is_finished(made, folder))
    if loads and here()[0] == 0 and not team.in_step:
        check_memory(
            options.checkpoint,
            on_one_device(options.device, copies),
            dtype=DTYPES[made.config.dtype],
            device=device,
            context=made.config.model.context,
        )
    team.wait()  # before any of them loads it
    if not begun and (team.rank == 0 or team.in_step):
        check(made)
        asked = _with_facts_asked(made, device)
        if team.rank == 0:
            claim_folder(asked.config, folder)
    team.wait()
    made = _with_known(made, folder)
    check(made)
    return made


def _agreed_ways(
    made: Study,
    folder: Path,
    choice: str,
    matmul: Mapping[str, Any],
    team: Team,
    device: torch.device,
) -> dict[str, str]:
    """The ways of the study's adapted layers, in force in every process: the first one's choice."""
    table: dict[str, str] = {}
    if team.rank == 0 and device.type == "cpu" and made.config.dtype == "fp32":
        table = choose_ways(choice, adapted_shapes(made), folder, matmul)
    return use_ways(json.loads(team.wait(json.dumps(table))[0]))


def _with_facts_asked(made: Study, device: torch.device) -> Study:
    """The study with the facts that its checkpoint knows; a world without facts asks nothing."""
    config, world = made.config, made.world(made.config.seeds[0])
    if not world.facts():
        return made
    model, tokenizer = load_base(config.checkpoint, config.model.context, config.dtype, device)
    known = known_facts(model, tokenizer, world)
    asked = Study(made.design, change(config, {"task.known": known}))
    check(asked)
    return asked


def _with_known(made: Study, folder: Path) -> Study:
    """The study with the known facts of a run's folder; of another study's folder, with none."""
    if not hasattr(made.config.task, "known"):
        return made
    known = getattr(open_study(folder).config.task, "known", ())
    return Study(made.design, change(made.config, {"task.known": known}))


def report(options: Namespace) -> None:
    if options.rejudge is not None and options.record is None:
        raise ValueError("--rejudge goes with --record FILE: a report alone records nothing")
    if options.record is not None:
        plain_file(options.record, "--record")
    made = open_study(options.run)
    if options.seeds:
        made = made.of_seeds(options.seeds)
    _write_report(made, options.run)
    if options.record is not None:
        record(made, options.run, options.record, options.rejudge)
        print(f"recorded: {options.record}")
    if options.open:
        webbrowser.open((options.run / "report.html").resolve().as_uri())


def _write_report(made: Study, folder: Path) -> None:
    print(write_report(made, folder))
    print(f"\nreport: {folder / 'report.html'}")


def methods(options: Namespace) -> None:
    """Every method as a table; dW_i is the update of expert i of N, v_i its prototype."""
    heads = ("method", "family", "formula", "needs", "source")
    rows = [(m.name, m.family, m.formula, m.needed, m.source) for m in METHODS]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    print("dW_i = s_i B_i A_i: the update of expert i of N; v_i: its top right singular vector\n")
    for row in (heads, *rows):
        print("  ".join([*(f"{w:{n}}" for w, n in zip(row, widths, strict=False)), row[-1]]))


def results(options: Namespace) -> None:
    records = sorted(options.folder.glob("*.json"))
    for path in records:
        with _a_record(path):
            markdown(read_json(path))
    page = options.folder / "README.md"
    ours = PAGE_HEAD.splitlines()[0]
    if not records or (page.exists() and not page.read_text("utf-8", "replace").startswith(ours)):
        raise ValueError(f"{options.folder} holds no recorded results, or a README.md of its own")
    for path in write_results(options.folder):
        print(f"made: {os.path.relpath(path)}")


def judge_again(options: Namespace) -> None:
    with _a_record(plain_file(options.file, "FILE")):
        rejudge(options.file, options.reason)
    print(f"judged again: {options.file}")


def table(options: Namespace) -> None:
    if options.minus is not None and options.lines is None:
        raise ValueError("--minus goes with --lines: name the lines whose differences are asked")
    with _a_record(options.file):
        if options.lines is None:
            shown = markdown(read_json(options.file))
        else:
            recorded = read_recorded(options.file)
            shown = lines_markdown(recorded.design, recorded.metrics, options.lines, options.minus)
    print(shown, end="")


def carry_over(options: Namespace) -> None:
    sides = []
    for path in (options.toy, options.checkpoint):
        with _a_record(path):
            sides.append(read_recorded(path))
    print(laid_side_by_side(*sides), end="")


def compare(options: Namespace) -> None:
    print(apart(*map(_result, (options.one, options.other))), end="")


def _result(path: Path) -> Recorded:
    """A recorded result, or that of a finished run's folder, by the name that the person gave it: a
    run and its record often have one stem."""
    if path.is_dir():
        made = open_study(path)
        return Recorded(str(path), {}, load_metrics(made, path), made.design)
    with _a_record(path):
        return replace(read_recorded(path), title=str(path))


@contextmanager
def _a_record(path: Path) -> Iterator[None]:
    """What fails inside is the fault of this file, which is no record, or a damaged one."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise ValueError(
            f"{path} is no recorded result ({type(error).__name__}: {error}): "
            "report RUN --record FILE makes one"
        ) from None


def gsm(options: Namespace) -> None:
    named = {level: getattr(options, level.lower()) for level in LEVELS}
    print(describe({level: path for level, path in named.items() if path}, options.answers))


# On a finished study -----------------------------------------------------------------------------

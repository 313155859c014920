"""What the commands do, given the options that recycle/__main__.py reads."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from argparse import Namespace
from pathlib import Path
from statistics import fmean

import torch

from lora import Adapter, Gated, Mix, Mode, attach, load_adapter, save_adapter, using
from recycle.decide.statistics import wilson
from recycle.measure.ask import ask, encode_prompt, tally
from recycle.measure.gsm import describe
from recycle.measure.mechanism import routing
from recycle.plan import Expert
from recycle.reuse.merge import weighted_sum
from recycle.reuse.merges import merge_by_name
from recycle.reuse.method import Stage
from recycle.reuse.methods import METHODS
from recycle.reuse.route import arrow, on_all_layers
from recycle.run import progress
from recycle.run.disk import read_json
from recycle.run.environment import describe_environment
from recycle.run.folder import base_folder
from recycle.run.matmul import choose_matmul
from recycle.show.page import write_report
from recycle.show.record import markdown, record, rejudge, write_results
from recycle.studies import DESIGNS, Study, open_study
from recycle.study import run as run_study
from recycle.train.base import Base
from recycle.train.experts import train_experts
from recycle.train.settings import assignments, change
from tasks.gsm_symbolic import LEVELS

RESULTS = Path(__file__).parent / "results"


def study(options: Namespace) -> None:
    design = DESIGNS[options.task]
    made = Study(design, change(design.preset(options.preset), assignments(options.set)))
    if options.processes < 1:
        raise ValueError(f"--processes {options.processes}: at least one")
    if options.processes > 1 and "RANK" not in os.environ:
        count = str(options.processes)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
        os.execv(sys.executable, [sys.executable, *launch, "-m", "--", "recycle", *options.given])
    folder = options.run or Path("runs") / f"{options.task}-{options.preset}"
    command = "python -m recycle " + shlex.join(sys.argv[1:])
    environment = describe_environment(choose_matmul(options.matmul), command)
    run_study(made, folder, environment, options.quiet)
    if int(os.environ.get("RANK", 0)) == 0:
        _write_report(made.settled(folder), folder)


def report(options: Namespace) -> None:
    if options.rejudge is not None and options.record is None:
        raise ValueError("--rejudge goes with --record FILE: a report alone records nothing")
    made = open_study(options.run)
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
    rows = [(m.name, m.family, m.formula, m.needs, m.source) for m in METHODS]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    print("dW_i = s_i B_i A_i: the update of expert i of N; v_i: its top right singular vector\n")
    for row in (heads, *rows):
        print("  ".join([*(f"{w:{n}}" for w, n in zip(row, widths, strict=False)), row[-1]]))


def results(options: Namespace) -> None:
    for path in write_results(options.folder):
        print(f"made: {os.path.relpath(path)}")


def judge_again(options: Namespace) -> None:
    rejudge(options.file, options.reason)
    print(f"judged again: {options.file}")


def table(options: Namespace) -> None:
    print(markdown(read_json(options.file)), end="")


def gsm(options: Namespace) -> None:
    named = {level: getattr(options, level.lower()) for level in LEVELS}
    print(describe({level: path for level, path in named.items() if path}, options.answers))


# On a finished study -----------------------------------------------------------------------------


def train(options: Namespace) -> None:
    changed = assignments(options.set)
    for key, value in changed.items():
        if key.split(".")[0] not in ("train", "adapter"):
            raise ValueError(
                f"--set {key}={value}: the base is trained already, only train.* and adapter.* can "
                "be set here"
            )
    base = _open(options)
    _check_group(base, options.group)
    target = _new(base, options.name or f"{options.reads}-{options.group}-own", "--name")
    expert = Expert(options.reads, options.group, base=base.spec)
    steps = change(base.config, changed).train
    with progress.showing(steps.steps * steps.tokens, options.quiet):
        trained = train_experts(base, [expert], changed).experts[expert.slug]
    if not isinstance(trained, Adapter):
        raise ValueError("--set adapter.kind=full: this command trains adapters, use lora")
    save_adapter(trained, target)
    print(f"saved {target}")


def merge(options: Namespace) -> None:
    base = _open(options)
    adapters = [_adapter(base, name) for name in options.adapters]
    if (options.weights is not None) != (options.method == "weighted_sum"):
        raise ValueError("--weights goes with --method weighted_sum, and that with --weights")
    target = _new(base, options.out, "--out")
    settings = assignments(options.set)
    if options.weights:
        if settings:
            raise ValueError("weighted_sum has no options for --set: its --weights say everything")
        merged = weighted_sum(adapters, options.weights)
    else:
        merged = merge_by_name(options.method, adapters, settings)
    save_adapter(merged, target)
    ranks = ", ".join(map(str, sorted({merged.rank(path) for path in merged.paths})))
    print(f"saved {target}: {merged.origin['formula']}, rank {ranks}, {len(merged.paths)} layers")


def route(options: Namespace) -> None:
    base = _open(options)
    _check_group(base, options.group)
    adapters = {name: _adapter(base, name) for name in options.adapters}
    routers = arrow(list(adapters.values()), options.temperature, options.top_k)
    names = _attach_all(base, on_all_layers(adapters))
    for form in base.world.forms:
        questions = base.world.questions(options.group, form)
        encoded = [encode_prompt(base.tokenizer, question) for question in questions]
        prompts = torch.tensor([prompt for prompt in encoded if len(prompt) == len(encoded[0])])
        with using(base.model, Gated(names, routers)):
            layers = routing(base.model, prompts, routers)
        print(f"\n{form}: e.g. {questions[0].prompt}")
        print(f"{'':38}mean gate of {', '.join(options.adapters)}; entropy in nats")
        for path, gates in layers.items():
            means = "".join(f"{fmean(each):8.3f}" for each in zip(*gates["gates"], strict=True))
            print(f"  {path:36}{means}{fmean(gates['entropy']):10.3f}")


def evaluate(options: Namespace) -> None:
    base = _open(options)
    _check_group(base, options.group)
    adapters = {name: _adapter(base, name) for name in options.adapters}
    if len(adapters) > 1:
        routers = arrow(list(adapters.values()), options.temperature, options.top_k)
        names = _attach_all(base, on_all_layers(adapters))
        mode: Mode = Gated(names, routers, options.order)
    else:
        if options.top_k or options.temperature != 1.0:
            raise ValueError("one adapter is not routed: --top-k and --temperature want several")
        mode = Mix(dict.fromkeys(_attach_all(base, adapters), 1.0))
    for form in base.world.forms:
        answers = ask(base, base.world.questions(options.group, form), [Stage(mode)])
        outcomes, notes = tally(base.world, answers)
        low, high = wilson(outcomes["right"], len(answers))
        counts = {"n": len(answers), **outcomes, **notes}
        print(
            f"{form:8} {outcomes['right'] / len(answers):.2f} [{low:.2f}, {high:.2f}]  "
            + ", ".join(f"{name} {count}" for name, count in counts.items())
        )
        for a in answers[: options.show]:
            print(f"    [{a.outcome}] {a.question.prompt} >> {a.completion}")


def _open(options: Namespace) -> Base:
    """The finished base that the options name. Raises ValueError where there is none."""
    made = open_study(options.run)
    seed = made.config.seeds[0] if options.seed is None else options.seed
    model = base_folder(options.run, seed, options.base) / "model.pt"
    if seed not in made.config.seeds or not model.exists():
        raise ValueError(
            f"{options.run} has no finished base {options.base!r} for seed {seed}: its seeds are "
            f"{', '.join(map(str, made.config.seeds))}; run the study first"
        )
    choose_matmul(options.matmul)
    return made.open_base(seed, made.design.base(options.base), options.run)


def _check_group(base: Base, group: str) -> None:
    if group not in base.world.groups:
        raise ValueError(f"--group {group}: choose from {', '.join(base.world.groups)}")


def _adapter(base: Base, name: str) -> Adapter:
    """An adapter of the base's library, or of another folder."""
    library = base.folder / "library"
    for folder in (library / name, Path(name)):
        if folder.is_dir():
            return load_adapter(folder)
    known = sorted(p.name for p in library.iterdir() if not p.name.startswith("."))
    raise ValueError(f"no adapter {name!r} in {library}: there are {', '.join(known)}")


def _new(base: Base, name: str, option: str) -> Path:
    target = base.folder / "library" / name
    if target.exists():
        raise ValueError(f"{target} exists: choose another {option}")
    return target


def _attach_all(base: Base, adapters: dict[str, Adapter]) -> tuple[str, ...]:
    """Attach under plain names of our own: a folder's path is no adapter name."""
    named = {f"adapter{i}": adapter for i, adapter in enumerate(adapters.values())}
    attach(base.model, named)
    return tuple(named)

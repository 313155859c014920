"""Train toy models, recycle their adapters, and decide what that achieves.

    python -m recycle study two-hop --preset quick       a whole study: minutes on two cores
    python -m recycle study two-hop --preset laptop --processes 2
    python -m recycle train  RUN --reads hop1 --group F  one more expert on a finished study's base
    python -m recycle merge  RUN hop1-F hop2-F --method plain_sum --out both-F
    python -m recycle route  RUN hop1-F hop2-F --group F
    python -m recycle eval   RUN both-F --group F
    python -m recycle report RUN

RUN is a run folder, as in runs/two-hop-quick; adapters are named as in RUN/seed-0/standard/library.
Where one machine is not enough, start the study under torchrun: its processes share the (seed,
base) pairs out among them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from statistics import fmean

import torch

from lora import Adapter, Gated, Mix, Mode, attach, load_adapter, save_adapter, using
from models import Tokenizer, Transformer
from recycle.config import StudyConfig, override, preset
from recycle.disk import read_json
from recycle.evaluate import ask, encode_prompt, tally
from recycle.experts import make_base, train_experts
from recycle.gsm import describe
from recycle.matmul import CHOICES, choose_matmul
from recycle.mechanism import routing
from recycle.merge import MERGES, weighted_sum
from recycle.methods import Phase
from recycle.record import markdown, record
from recycle.report import write_report
from recycle.route import arrow
from recycle.statistics import wilson
from recycle.study import describe_environment, run_study
from tasks import TASKS, Expert, Task
from tasks.gsm_symbolic import LEVELS


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.given = sys.argv[1:] if arguments is None else arguments
    try:
        options.run_command(options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError) as error:
        if options.debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"recycle: {message}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recycle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(
        "--matmul",
        choices=CHOICES,
        default="auto",
        help="auto: use the CPU's faster fp32 product where a probe finds it as exact (default); default: don't",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=text, description=text)
        sub.set_defaults(run_command=run)
        return sub

    def on_run(sub: argparse.ArgumentParser, adapters: bool = False) -> None:
        sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished study")
        sub.add_argument(
            "--seed", type=int, help="which seed's base and library (default: the study's first)"
        )
        sub.add_argument(
            "--base", default="standard", help="which of the study's bases (default standard)"
        )
        if adapters:
            sub.add_argument(
                "adapters",
                nargs="+",
                metavar="ADAPTER",
                help="names in the seed's library, or folders",
            )

    study = command("study", _study, "run a study, or go on with one")
    study.add_argument("task", choices=list(TASKS))
    study.add_argument("--preset", default="quick", help="quick, laptop or full (default quick)")
    study.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="share the bases out among N processes of this machine (default 1)",
    )
    study.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as in train.lr=3e-3; may be repeated",
    )
    study.add_argument(
        "--run", type=Path, metavar="RUN", help="the run folder (default runs/two-hop-PRESET)"
    )

    train = command("train", _train, "train one expert on a study's base, into its library")
    on_run(train)
    train.add_argument(
        "--reads", required=True, help="what it learns, as hop1 or joint in the two-hop task"
    )
    train.add_argument("--group", required=True, help="of which group, as F")
    train.add_argument("--name", help="its name in the library (default READS-GROUP-own)")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="train.* and adapter.* keys"
    )

    merge = command("merge", _merge, "merge adapters into one")
    on_run(merge, adapters=True)
    merge.add_argument("--method", choices=[*MERGES, "weighted_sum"], required=True)
    merge.add_argument(
        "--weights", type=float, nargs="+", help="for weighted_sum: one for each adapter"
    )
    merge.add_argument("--out", required=True, help="its name in the library")

    route = command("route", _route, "show how Arrow routes a group's questions among adapters")
    on_run(route, adapters=True)
    _routing_options(route)
    route.add_argument("--group", required=True, help="whose questions, as F")

    evaluate = command(
        "eval", _eval, "answer a group's questions with an adapter, or with several routed by Arrow"
    )
    on_run(evaluate, adapters=True)
    _routing_options(evaluate)
    evaluate.add_argument(
        "--order", choices=["outputs", "factors"], default="outputs", help="what Arrow mixes"
    )
    evaluate.add_argument("--group", required=True, help="whose questions, as F")
    evaluate.add_argument(
        "--show", type=int, default=0, metavar="N", help="print the first N answers of each form"
    )

    report = command("report", _report, "draw a run's report again")
    report.add_argument("run", type=Path, metavar="RUN")
    report.add_argument(
        "--record", type=Path, metavar="FILE", help="also keep the result in a small JSON file"
    )

    gsm = command("gsm", _gsm, "check a copy of GSM-Symbolic of your own, and score answers to it")
    for level in LEVELS:
        gsm.add_argument(
            f"--{level.lower()}", type=Path, metavar="FILE", help=f"JSON lines of the level {level}"
        )
    gsm.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="JSON lines with level, id, instance and output",
    )

    table = command("table", _table, "print a recorded result as the README's tables")
    table.add_argument("file", type=Path, metavar="FILE")
    return parser


def _routing_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--top-k", type=int, help="adapters that a token may use (default all)")
    sub.add_argument("--temperature", type=float, default=1.0)


def _study(options: argparse.Namespace) -> None:
    config = override(preset(options.task, options.preset), options.set)
    if options.processes < 1:
        raise ValueError(f"--processes {options.processes}: at least one")
    if options.processes > 1 and "RANK" not in os.environ:
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(options.processes),
        ]
        os.execv(sys.executable, [sys.executable, *launch, "-m", "--", "recycle", *options.given])
    run = options.run or Path("runs") / f"{options.task}-{options.preset}"
    environment = describe_environment(
        choose_matmul(options.matmul), "python -m recycle " + shlex.join(sys.argv[1:])
    )
    run_study(config, run, environment, options.quiet)
    if int(os.environ.get("RANK", 0)) == 0:
        print(write_report(run, config))
        print(f"\nreport: {run / 'report.html'}")


def _report(options: argparse.Namespace) -> None:
    config = open_config(options.run)
    print(write_report(options.run, config))
    print(f"\nreport: {options.run / 'report.html'}")
    if options.record is not None:
        record(options.run, config, options.record)
        print(f"recorded: {options.record}")


def _gsm(options: argparse.Namespace) -> None:
    files = {
        level: path for level in LEVELS if (path := getattr(options, level.lower())) is not None
    }
    print(describe(files, options.answers))


def _table(options: argparse.Namespace) -> None:
    print(markdown(read_json(options.file)), end="")


def open_config(run: Path) -> StudyConfig:
    """The configuration that a run folder was made with."""
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no run folder: there is no config.json in it")
    values = read_json(run / "config.json")
    if values.get("name") not in TASKS:
        raise ValueError(
            f"{run}/config.json is of the unknown task {values.get('name')!r}: another version made this run"
        )
    return _build(preset(values["name"], "quick"), values, run)


def _build(default, values: dict, run: Path):
    """A dataclass from its JSON: nested ones by the default's type, lists as tuples; a key of a
    later version has its default."""
    if unknown := set(values) - {f.name for f in dataclasses.fields(default)}:
        raise ValueError(
            f"{run}/config.json has the unknown key {sorted(unknown)[0]!r}: another version made this run"
        )
    built = {}
    for key, value in values.items():
        if isinstance(value, dict):
            built[key] = _build(getattr(default, key), value, run)
        else:
            built[key] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(default, **built)


@dataclasses.dataclass
class _Opened:
    """A run's seed and base, ready to be used."""

    config: StudyConfig
    seed: int
    folder: Path
    task: Task
    model: Transformer
    tokenizer: Tokenizer

    def adapter(self, name: str) -> Adapter:
        inside, outside = self.folder / "library" / name, Path(name)
        if inside.is_dir():
            return load_adapter(inside)
        if outside.is_dir():
            return load_adapter(outside)
        known = sorted(
            p.name for p in (self.folder / "library").iterdir() if not p.name.startswith(".")
        )
        raise ValueError(
            f"no adapter {name!r} in {self.folder / 'library'}: there are {', '.join(known)}"
        )

    def check_group(self, group: str) -> None:
        if group not in self.task.groups:
            raise ValueError(f"--group {group}: choose from {', '.join(self.task.groups)}")


def _open(options: argparse.Namespace) -> _Opened:
    config = open_config(options.run)
    seed = config.seeds[0] if options.seed is None else options.seed
    folder = options.run / f"seed-{seed}" / options.base
    if seed not in config.seeds or not (folder / "model.pt").exists():
        raise ValueError(
            f"{options.run} has no finished base {options.base!r} for seed {seed}: its seeds are "
            f"{', '.join(map(str, config.seeds))}; run the study first"
        )
    choose_matmul(options.matmul)
    task, model, tokenizer = make_base(config, seed, options.base, options.run, options.quiet)
    opened = _Opened(config, seed, folder, task, model, tokenizer)
    if hasattr(options, "group"):
        opened.check_group(options.group)
    return opened


def _train(options: argparse.Namespace) -> None:
    opened = _open(options)
    config = opened.config
    for assignment in options.set:
        if assignment.split(".")[0] not in ("train", "adapter"):
            raise ValueError(
                f"--set {assignment}: the base is trained already, only train.* and adapter.* can be set here"
            )
    config = override(override(config, opened.task.bases[options.base]), options.set)
    name = options.name or f"{options.reads}-{options.group}-own"
    target = opened.folder / "library" / name
    if target.exists():
        raise ValueError(f"{target} exists: choose another --name")
    expert = Expert(options.reads, options.group, base=options.base)
    made, _ = train_experts(
        config,
        opened.task,
        opened.seed,
        opened.model,
        opened.tokenizer,
        [expert],
        quiet=options.quiet,
    )
    adapter = made[expert.name]
    assert isinstance(adapter, Adapter)
    save_adapter(adapter, target)
    print(f"saved {target}")


def _merge(options: argparse.Namespace) -> None:
    opened = _open(options)
    adapters = [opened.adapter(name) for name in options.adapters]
    if (options.weights is not None) != (options.method == "weighted_sum"):
        raise ValueError("--weights goes with --method weighted_sum, and that with --weights")
    merged = (
        weighted_sum(adapters, options.weights)
        if options.weights
        else MERGES[options.method](adapters)
    )
    target = opened.folder / "library" / options.out
    if target.exists():
        raise ValueError(f"{target} exists: choose another --out")
    save_adapter(merged, target)
    ranks = sorted({merged.rank(path) for path in merged.paths})
    print(
        f"saved {target}: {merged.origin['formula']}, rank {', '.join(map(str, ranks))}, {len(merged.paths)} layers"
    )


def _route(options: argparse.Namespace) -> None:
    opened = _open(options)
    adapters = {name: opened.adapter(name) for name in options.adapters}
    routers = arrow(list(adapters.values()), options.temperature, options.top_k)
    names = _attach_all(opened, adapters)
    for form in opened.task.forms:
        questions = opened.task.questions(options.group, form)
        encoded = [encode_prompt(opened.tokenizer, question) for question in questions]
        prompts = torch.tensor([prompt for prompt in encoded if len(prompt) == len(encoded[0])])
        with using(opened.model, Gated(names, routers)):
            layers = routing(opened.model, prompts, routers)
        print(f"\n{form}: e.g. {questions[0].prompt}")
        print(f"{'':38}mean gate of {', '.join(options.adapters)}; entropy in nats")
        for path, found in layers.items():
            means = [fmean(gates) for gates in zip(*found["gates"], strict=True)]
            print(
                f"  {path:36}"
                + "".join(f"{gate:8.3f}" for gate in means)
                + f"{fmean(found['entropy']):10.3f}"
            )


def _eval(options: argparse.Namespace) -> None:
    opened = _open(options)
    adapters = {name: opened.adapter(name) for name in options.adapters}
    if len(adapters) > 1:
        routers = arrow(list(adapters.values()), options.temperature, options.top_k)
        mode: Mode = Gated(_attach_all(opened, adapters), routers, options.order)
    else:
        if options.top_k or options.temperature != 1.0:
            raise ValueError("one adapter is not routed: --top-k and --temperature want several")
        mode = Mix(dict.fromkeys(_attach_all(opened, adapters), 1.0))
    for form in opened.task.forms:
        questions = opened.task.questions(options.group, form)
        answers = ask(opened.model, opened.tokenizer, opened.task, questions, [Phase(mode)])
        counts = tally(opened.task, answers)
        low, high = wilson(counts["right"], counts["n"])
        print(
            f"{form:8} {counts['right'] / counts['n']:.2f} [{low:.2f}, {high:.2f}]  "
            + ", ".join(f"{key} {value}" for key, value in counts.items())
        )
        for a in answers[: options.show]:
            print(f"    [{a.outcome}] {a.question.prompt} >> {a.completion}")


def _attach_all(opened: _Opened, adapters: dict[str, Adapter]) -> tuple[str, ...]:
    """Attach under plain names of our own: a folder's path is no adapter name."""
    named = {f"adapter{i}": adapter for i, adapter in enumerate(adapters.values())}
    attach(opened.model, named)
    return tuple(named)


if __name__ == "__main__":
    sys.exit(main())

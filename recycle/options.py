"""Train toy models, recycle their adapters, and decide what that achieves.

    python -m recycle study two-hop --preset quick       a whole study: minutes on two cores
    python -m recycle study two-hop --preset laptop --processes 2
    python -m recycle report RUN --open                  its report in the browser
    python -m recycle methods                            every merge and router, with its formula
    python -m recycle train  RUN --reads hop1 --group F  one more expert on a finished study's base
    python -m recycle merge  RUN hop1-F hop2-F --method plain_sum --out both-F
    python -m recycle route  RUN hop1-F hop2-F --group F
    python -m recycle eval   RUN both-F --group F
    python -m recycle export RUN hop1-F --out FOLDER     its base and an expert, for other libraries
    python -m recycle audit  ADAPTER ADAPTER --checkpoint FOLDER   will they merge, and how

RUN is a run folder, as in runs/two-hop-quick. Adapters are named as in RUN/seed-0/standard/library.
A study that was stopped goes on with the same command. Where one machine is not enough, start it
under torchrun (torchrun ... -m -- recycle study ...): its processes share the work.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from recycle.audit.candidates import TRIED
from recycle.commands import adapters, audit, runs
from recycle.reuse.by_name import ROUTERS
from recycle.reuse.merges import LEARNERS, NAMES, options_text
from recycle.run.matmul import CHOICES
from recycle.run.names import did_you_mean
from recycle.studies import DESIGNS, Study
from recycle.train.settings import DTYPES, settable
from tasks.gsm_symbolic import LEVELS

HEAVIEST = 1_000_000  # a merge's largest weight; products with far larger ones leave fp32


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; ``given`` are the arguments themselves, for whoever records them.

    Raises ValueError for what cannot be read, and SystemExit after --help."""
    # argparse takes -5e-1 and -inf for options; with a blank before it every number is a value.
    spaced = [f" {each}" if each[:1] == "-" and _is_number(each) else each for each in arguments]
    options = build_parser().parse_args(spaced)
    options.given = list(arguments)
    return options


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and with a guess at what was meant."""

    def error(self, message: str) -> NoReturn:
        # argparse (3.10 to 3.13): argument COMMAND: invalid choice: 'studdy' (choose from ...)
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message, re.S):
            known = re.findall(r"[^\s,']+", choice[2])
            message = (
                f"{message[: choice.start()]}no choice {choice[1]!r}"
                f"{did_you_mean(choice[1], known)}: choose from {', '.join(known)}"
            )
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below ``least``, for argparse."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\s*-?[0-9]{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text.strip()!r}: a whole number from {least} on")
        return int(text)

    return read


def _weight(text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not abs(value) <= HEAVIEST:
        words = f"a number from -{HEAVIEST:,} to {HEAVIEST:,}"
        raise argparse.ArgumentTypeError(f"{text.strip()!r}: {words}")
    return value


def _temperature(text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text.strip()!r}: a finite number above 0")
    return value


def _words(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: a name or a path")
    return text


def _path(text: str) -> Path:
    return Path(_words(text))


def build_parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m recycle", description=__doc__, formatter_class=as_written)
    common = _Parser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no line of progress")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(
        "--matmul",
        choices=CHOICES,
        default="auto",
        help="auto (the default) takes the CPU's faster fp32 product where a probe finds it as "
        "exact; default leaves PyTorch as it is",
    )
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, more: str = "") -> argparse.ArgumentParser:
        made = sub.add_parser(
            name,
            parents=[common],
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=more,
            formatter_class=as_written,
        )
        made.set_defaults(run_command=run)
        return made

    study = command("study", runs.study, "run a study, or go on with one", _presets() + _settings())
    study.add_argument("task", choices=list(DESIGNS), help="which study")
    study.add_argument(
        "--checkpoint",
        metavar="FOLDER|smollm2",
        help="of two-hop: on a pretrained checkpoint, in plain English (needs .[checkpoint])",
    )
    _device_option(study)
    study.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="fp32",
        help="the number format of the frozen base (default fp32); adapters are fp32",
    )
    study.add_argument("--preset", type=_words, default="quick", help="see below (default quick)")
    study.add_argument(
        "--processes",
        type=_whole(1),
        default=1,
        metavar="N",
        help="share the work among N processes of this machine (default 1)",
    )
    study.add_argument(
        "--shard",
        action="store_true",
        help="of a checkpoint that no device holds: each of the processes holds a part of it, and "
        "all work on the same cells together",
    )
    _set_option(study, "change a setting, as in train.lr=3e-3; may be repeated; keys below")
    study.add_argument(
        "--run", type=_path, metavar="RUN", help="the run folder (default runs/TASK-PRESET)"
    )

    train = command("train", adapters.train, "train one expert on a study's base")
    _on_run(train)
    train.add_argument(
        "--reads",
        type=_words,
        required=True,
        metavar="CURRICULUM",
        help="which texts it learns, as hop1 or joint in the two-hop world",
    )
    train.add_argument("--group", type=_words, required=True, help="about which group, as F")
    train.add_argument(
        "--name", type=_words, help="its name in the library (default READS-GROUP-own)"
    )
    _set_option(train, "change a train.* or adapter.* setting; may be repeated")

    merge = command("merge", adapters.merge, "merge adapters into one", options_text())
    _on_run(merge, adapters=True)
    merge.add_argument("--method", choices=[*NAMES, *LEARNERS, "weighted_sum"], required=True)
    merge.add_argument(
        "--weights",
        type=_weight,
        nargs="+",
        metavar="W",
        help="for weighted_sum: one for each adapter",
    )
    _examples_option(merge, "for a method that learns: ")
    merge.add_argument(
        "--group", type=_words, help="whose questions the examples are (default: the adapters')"
    )
    _set_option(merge, "change an option of the method, as in density=0.3; options below")
    merge.add_argument("--out", type=_words, required=True, help="its name in the library")

    route = command(
        "route", adapters.route, "show how a router shares a group's questions among adapters"
    )
    _on_run(route, adapters=True)
    _routing_options(route)
    route.add_argument("--group", type=_words, required=True, help="the group that is asked, as F")

    evaluate = command(
        "eval", adapters.evaluate, "answer a group's questions with an adapter, or several routed"
    )
    _on_run(evaluate, adapters=True)
    _routing_options(evaluate)
    evaluate.add_argument(
        "--order",
        choices=["outputs", "factors"],
        default="outputs",
        help="what the router mixes (default outputs)",
    )
    evaluate.add_argument(
        "--group", type=_words, required=True, help="the group that is asked, as F"
    )
    evaluate.add_argument(
        "--show",
        type=_whole(0),
        default=0,
        metavar="N",
        help="print the first N answers of each form (default 0)",
    )

    export = command(
        "export", adapters.export, "write a base as a checkpoint for transformers, experts for PEFT"
    )
    _on_run(export)
    export.add_argument(
        "adapters",
        type=_words,
        nargs="*",
        metavar="ADAPTER",
        help="names in the library, or folders; they are written to FOLDER/adapters",
    )
    export.add_argument("--out", type=_path, required=True, metavar="FOLDER", help="a new folder")

    second = command(
        "second-implementation",
        adapters.second_implementation,
        "train and merge a run's experts once more with transformers and PEFT, and compare",
    )
    _on_run(second)
    second.add_argument(
        "--groups",
        type=_words,
        nargs="+",
        default=["F", "H"],
        metavar="GROUP",
        help="whose facts are taught and asked (default F H)",
    )
    second.add_argument(
        "--record", type=_path, metavar="FILE", help="also keep the result in a small JSON file"
    )

    audit_of = command(
        "audit",
        audit.audit,
        "will these adapters merge, how, and will each still do its job",
        "--methods takes any merge or router that needs nothing besides the adapters, and sum_at_W "
        f"for any weight W.\nby default: {', '.join(TRIED)}",
    )
    audit_of.add_argument(
        "adapters",
        type=_words,
        nargs="+",
        metavar="ADAPTER",
        help="folders in PEFT's layout, or names in the run's library",
    )
    ground = audit_of.add_mutually_exclusive_group(required=True)
    ground.add_argument(
        "--checkpoint",
        type=_words,
        metavar="FOLDER|smollm2",
        help="the base: a pretrained checkpoint (needs .[checkpoint])",
    )
    ground.add_argument("--run", type=_path, metavar="RUN", help="the base: that of a study")
    audit_of.add_argument("--base", type=_words, help="which of the run's bases (default standard)")
    audit_of.add_argument(
        "--seed",
        type=_whole(0),
        help="of what is drawn, and whose base of the run (default 0; the run's first seed)",
    )
    _device_option(audit_of)
    audit_of.add_argument(
        "--dtype", choices=list(DTYPES), help="the number format of the base (default fp32)"
    )
    audit_of.add_argument(
        "--probes",
        type=_path,
        metavar="FILE",
        help='JSON lines {"prompt": .., "answer": .., "adapter": ..}: what each adapter knows',
    )
    audit_of.add_argument(
        "--compose",
        type=_path,
        metavar="FILE",
        help='JSON lines {"prompt": .., "answer": .., "parts": [probes]}: what needs several',
    )
    audit_of.add_argument(
        "--methods", type=_words, nargs="+", metavar="NAME", help="what to try; see below"
    )
    audit_of.add_argument(
        "--out", type=_path, metavar="FOLDER", help="for the results (default runs/audit-NAMES)"
    )
    audit_of.add_argument(
        "--repair",
        type=_path,
        metavar="OUT",
        help="also write plain copies of the adapters, which every tool reads alike, into OUT",
    )

    report = command("report", runs.report, "draw a run's report again")
    report.add_argument("run", type=_path, metavar="RUN")
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument(
        "--record", type=_path, metavar="FILE", help="also keep the result in a small JSON file"
    )

    report.add_argument(
        "--rejudge",
        metavar="REASON",
        help="record although other rules judge than those of the run, or a dirty checkout: why",
    )

    command("methods", runs.methods, "list every method: formula, what it needs, source")
    results = command(
        "results", runs.results, "make the tables and figures of recorded results anew"
    )
    results.add_argument(
        "folder",
        type=_path,
        nargs="?",
        default=runs.RESULTS,
        metavar="FOLDER",
        help="where the JSON files lie (default recycle/results)",
    )
    rejudge = command(
        "rejudge", runs.judge_again, "judge a recorded result anew by today's rules, in place"
    )
    rejudge.add_argument("file", type=_path, metavar="FILE")
    rejudge.add_argument(
        "--reason", required=True, metavar="TEXT", help="why; it is written into the record"
    )
    table = command("table", runs.table, "print a recorded result as tables")
    table.add_argument("file", type=_path, metavar="FILE")

    carry_over = command(
        "carry-over",
        runs.carry_over,
        "print the verdicts and methods of two recorded results side by side",
    )
    carry_over.add_argument("toy", type=_path, metavar="TOY_RECORD")
    carry_over.add_argument("checkpoint", type=_path, metavar="CHECKPOINT_RECORD")

    gsm = command("gsm", runs.gsm, "check your own copy of GSM-Symbolic, and score answers")
    for level in LEVELS:
        gsm.add_argument(
            f"--{level.lower()}",
            type=_path,
            metavar="FILE",
            help=f"JSON lines of the level {level}",
        )
    gsm.add_argument(
        "--answers",
        type=_path,
        metavar="FILE",
        help="JSON lines with level, id, instance and output",
    )
    return parser


def _on_run(sub: argparse.ArgumentParser, adapters: bool = False) -> None:
    sub.add_argument("run", type=_path, metavar="RUN", help="the folder of a finished study")
    sub.add_argument(
        "--seed", type=_whole(0), help="whose base and library (default: the first seed)"
    )
    sub.add_argument(
        "--base", type=_words, default="standard", help="which of its bases (default standard)"
    )
    _device_option(sub)
    sub.add_argument(
        "--dtype", choices=list(DTYPES), help="the number format of the base (default the run's)"
    )
    if adapters:
        sub.add_argument(
            "adapters",
            type=_words,
            nargs="+",
            metavar="ADAPTER",
            help="names in the library, or folders",
        )


def _examples_option(sub: argparse.ArgumentParser, who: str) -> None:
    sub.add_argument(
        "--examples",
        type=_words,
        metavar="N|FILE",
        help=f"{who}so many questions of the group with their answers, which are then not asked, "
        'or a file of JSON lines {"prompt": .., "completion": ..}',
    )


def _device_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--device",
        type=_words,
        default="cpu",
        metavar="cpu|cuda|cuda:N",
        help="where the base lies, trains and answers (default cpu); nothing drawn depends on it",
    )


def _routing_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--router",
        choices=ROUTERS,
        metavar="NAME",
        help=f"who chooses: {', '.join(ROUTERS)} (default arrow)",
    )
    _examples_option(sub, "for a router that learns from examples: ")
    sub.add_argument(
        "--top-k",
        type=_whole(1),
        metavar="K",
        help="adapters that a token may use (default all; phatgoose: 2)",
    )
    sub.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        metavar="T",
        help="what the router's logits are divided by (default 1.0)",
    )


def _set_option(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


@cache
def _presets() -> str:
    """Every preset of every study, with what it makes."""
    lines = ["presets:"]
    for design in DESIGNS.values():
        for name in design.presets:
            study = Study(design, design.preset(name))
            seeds = ",".join(map(str, study.config.seeds))
            experts = sum(len(e) for _, b in study.bases for e in study.passes(b.name).values())
            lines.append(
                f"  {design.name:12} {name:9} seeds {seeds:20} {len(study.bases):3} bases "
                f"{experts:4} experts {len(study.cells):5} cells"
            )
    return "\n".join(lines) + "\n"


def _settings() -> str:
    """Every key of --set with its default, in the two-hop study."""
    default = next(iter(DESIGNS.values())).default
    lines = ["\nkeys of --set, with the values of the two-hop study before a preset changes them:"]
    for key, value in settable(default):
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  {key}={shown}")
    return "\n".join(lines)

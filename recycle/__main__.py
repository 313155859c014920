"""Train toy models, recycle their adapters, and decide what that achieves.

    python -m recycle study two-hop --preset quick       a whole study: minutes on two cores
    python -m recycle study two-hop --preset laptop --processes 2
    python -m recycle report RUN --open                  its report in the browser
    python -m recycle methods                            every merge and router, with its formula
    python -m recycle train  RUN --reads hop1 --group F  one more expert on a finished study's base
    python -m recycle merge  RUN hop1-F hop2-F --method plain_sum --out both-F
    python -m recycle route  RUN hop1-F hop2-F --group F
    python -m recycle eval   RUN both-F --group F

RUN is a run folder, as in runs/two-hop-quick. Adapters are named as in RUN/seed-0/standard/library.
A study that was stopped goes on with the same command. Where one machine is not enough, start it
under torchrun (torchrun ... -m -- recycle study ...): its processes share the bases.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recycle import commands
from recycle.reuse.merges import NAMES, options_text
from recycle.run.matmul import CHOICES
from recycle.studies import DESIGNS, Study
from recycle.train.settings import settable
from tasks.gsm_symbolic import LEVELS


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 2: bad input, in one line; 130: stopped by a person."""
    options = build_parser().parse_args(arguments)
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
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m recycle", description=__doc__, formatter_class=as_written
    )
    common = argparse.ArgumentParser(add_help=False)
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

    study = command(
        "study", commands.study, "run a study, or go on with one", _presets() + _settings()
    )
    study.add_argument("task", choices=list(DESIGNS), help="which study")
    study.add_argument("--preset", default="quick", help="see below (default quick)")
    study.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="share the bases among N processes of this machine (default 1)",
    )
    _set_option(study, "change a setting, as in train.lr=3e-3; may be repeated; keys below")
    study.add_argument(
        "--run", type=Path, metavar="RUN", help="the run folder (default runs/TASK-PRESET)"
    )

    train = command("train", commands.train, "train one expert on a study's base")
    _on_run(train)
    train.add_argument(
        "--reads",
        required=True,
        metavar="CURRICULUM",
        help="which texts it learns, as hop1 or joint in the two-hop world",
    )
    train.add_argument("--group", required=True, help="about which group, as F")
    train.add_argument("--name", help="its name in the library (default READS-GROUP-own)")
    _set_option(train, "change a train.* or adapter.* setting; may be repeated")

    merge = command("merge", commands.merge, "merge adapters into one", options_text())
    _on_run(merge, adapters=True)
    merge.add_argument("--method", choices=[*NAMES, "weighted_sum"], required=True)
    merge.add_argument(
        "--weights", type=float, nargs="+", help="for weighted_sum: one for each adapter"
    )
    _set_option(merge, "change an option of the method, as in density=0.3; options below")
    merge.add_argument("--out", required=True, help="its name in the library")

    route = command(
        "route", commands.route, "show how Arrow routes a group's questions among adapters"
    )
    _on_run(route, adapters=True)
    _routing_options(route)
    route.add_argument("--group", required=True, help="the group that is asked, as F")

    evaluate = command(
        "eval", commands.evaluate, "answer a group's questions with an adapter, or several by Arrow"
    )
    _on_run(evaluate, adapters=True)
    _routing_options(evaluate)
    evaluate.add_argument(
        "--order",
        choices=["outputs", "factors"],
        default="outputs",
        help="what Arrow mixes (default outputs)",
    )
    evaluate.add_argument("--group", required=True, help="the group that is asked, as F")
    evaluate.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print the first N answers of each form (default 0)",
    )

    report = command("report", commands.report, "draw a run's report again")
    report.add_argument("run", type=Path, metavar="RUN")
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument(
        "--record", type=Path, metavar="FILE", help="also keep the result in a small JSON file"
    )

    report.add_argument(
        "--rejudge",
        metavar="REASON",
        help="record although other rules judge than those of the run, or a dirty checkout: why",
    )

    command("methods", commands.methods, "list every method: formula, what it needs, source")
    results = command(
        "results", commands.results, "make the tables and figures of recorded results anew"
    )
    results.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=commands.RESULTS,
        metavar="FOLDER",
        help="where the JSON files lie (default recycle/results)",
    )
    rejudge = command(
        "rejudge", commands.judge_again, "judge a recorded result anew by today's rules, in place"
    )
    rejudge.add_argument("file", type=Path, metavar="FILE")
    rejudge.add_argument(
        "--reason", required=True, metavar="TEXT", help="why; it is written into the record"
    )
    table = command("table", commands.table, "print a recorded result as tables")
    table.add_argument("file", type=Path, metavar="FILE")

    gsm = command("gsm", commands.gsm, "check your own copy of GSM-Symbolic, and score answers")
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
    return parser


def _on_run(sub: argparse.ArgumentParser, adapters: bool = False) -> None:
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished study")
    sub.add_argument("--seed", type=int, help="whose base and library (default: the first seed)")
    sub.add_argument("--base", default="standard", help="which of its bases (default standard)")
    if adapters:
        sub.add_argument(
            "adapters", nargs="+", metavar="ADAPTER", help="names in the library, or folders"
        )


def _routing_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--top-k", type=int, metavar="K", help="adapters that a token may use (default all)"
    )
    sub.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="what the router's logits are divided by (default 1.0)",
    )


def _set_option(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


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
        if key != "name":
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            lines.append(f"  {key}={shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

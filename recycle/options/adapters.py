"""Options of the commands on adapters of a finished run."""

from __future__ import annotations

import argparse

from recycle.commands import adapters
from recycle.options.shared import (
    Command,
    device_option,
    path,
    set_option,
    temperature,
    weight,
    whole,
    words,
)
from recycle.reuse.by_name import ROUTERS
from recycle.reuse.merges import LEARNERS, NAMES, options_text
from recycle.train.settings import DTYPES


def add_adapters(command: Command) -> None:
    train = command("train", adapters.train, "train one expert on a study's base")
    on_run(train)
    train.add_argument(
        "--reads",
        type=words,
        required=True,
        metavar="CURRICULUM",
        help="which texts it learns, as hop1 or joint in the two-hop world",
    )
    train.add_argument("--group", type=words, required=True, help="about which group, as F")
    train.add_argument(
        "--name", type=words, help="its name in the library (default READS-GROUP-own)"
    )
    set_option(train, "change a train.* or adapter.* setting; may be repeated")

    merge = command("merge", adapters.merge, "merge adapters into one", options_text())
    on_run(merge, adapters=True)
    merge.add_argument("--method", choices=[*NAMES, *LEARNERS, "weighted_sum"], required=True)
    merge.add_argument(
        "--weights",
        type=weight,
        nargs="+",
        metavar="W",
        help="for weighted_sum: one for each adapter",
    )
    examples_option(merge, "for a method that learns: ")
    merge.add_argument(
        "--group", type=words, help="whose questions the examples are (default: the adapters')"
    )
    set_option(merge, "change an option of the method, as in density=0.3; options below")
    merge.add_argument("--out", type=words, required=True, help="its name in the library")

    route = command(
        "route", adapters.route, "show how a router shares a group's questions among adapters"
    )
    on_run(route, adapters=True)
    routing_options(route)
    route.add_argument("--group", type=words, required=True, help="the group that is asked, as F")

    evaluate = command(
        "eval", adapters.evaluate, "answer a group's questions with an adapter, or several routed"
    )
    on_run(evaluate, adapters=True)
    routing_options(evaluate)
    evaluate.add_argument(
        "--order",
        choices=["outputs", "factors"],
        default="outputs",
        help="what the router mixes (default outputs)",
    )
    evaluate.add_argument(
        "--group", type=words, required=True, help="the group that is asked, as F"
    )
    evaluate.add_argument(
        "--show",
        type=whole(0),
        default=0,
        metavar="N",
        help="print the first N answers of each form (default 0)",
    )

    export = command(
        "export", adapters.export, "write a base as a checkpoint for transformers, experts for PEFT"
    )
    on_run(export)
    export.add_argument(
        "adapters",
        type=words,
        nargs="*",
        metavar="ADAPTER",
        help="names in the library, or folders; they are written to FOLDER/adapters",
    )
    export.add_argument("--out", type=path, required=True, metavar="FOLDER", help="a new folder")

    second = command(
        "second-implementation",
        adapters.second_implementation,
        "train and merge a run's experts once more with transformers and PEFT, and compare",
    )
    on_run(second)
    second.add_argument(
        "--groups",
        type=words,
        nargs="+",
        default=["F", "H"],
        metavar="GROUP",
        help="whose facts are taught and asked (default F H)",
    )
    second.add_argument(
        "--record", type=path, metavar="FILE", help="also keep the result in a small JSON file"
    )


def on_run(sub: argparse.ArgumentParser, adapters: bool = False) -> None:
    sub.add_argument("run", type=path, metavar="RUN", help="the folder of a finished study")
    sub.add_argument(
        "--seed", type=whole(0), help="whose base and library (default: the first seed)"
    )
    sub.add_argument(
        "--base", type=words, default="standard", help="which of its bases (default standard)"
    )
    device_option(sub)
    sub.add_argument(
        "--dtype", choices=list(DTYPES), help="the number format of the base (default the run's)"
    )
    if adapters:
        sub.add_argument(
            "adapters",
            type=words,
            nargs="+",
            metavar="ADAPTER",
            help="names in the library, or folders",
        )


def examples_option(sub: argparse.ArgumentParser, who: str) -> None:
    sub.add_argument(
        "--examples",
        type=words,
        metavar="N|FILE",
        help=f"{who}so many questions of the group with their answers, which are then not asked, "
        'or a file of JSON lines {"prompt": .., "completion": ..}',
    )


def routing_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--router",
        choices=ROUTERS,
        metavar="NAME",
        help=f"who chooses: {', '.join(ROUTERS)} (default arrow)",
    )
    examples_option(sub, "for a router that learns from examples: ")
    sub.add_argument(
        "--top-k",
        type=whole(1),
        metavar="K",
        help="adapters that a token may use (default all; phatgoose: 2)",
    )
    sub.add_argument(
        "--temperature",
        type=temperature,
        default=1.0,
        metavar="T",
        help="what the router's logits are divided by (default 1.0)",
    )

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
import re
from collections.abc import Sequence
from typing import NoReturn

from recycle.options.adapters import add_adapters
from recycle.options.audit import add_audit, add_audit_runs
from recycle.options.runs import add_records, add_study
from recycle.options.shared import is_number
from recycle.run.matmul import CHOICES
from recycle.run.names import did_you_mean


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; ``given`` are the arguments themselves, for whoever records them.

    Raises ValueError for what cannot be read, and SystemExit after --help."""
    # argparse takes -5e-1 and -inf for options; with a blank before it every number is a value.
    spaced = [f" {each}" if each[:1] == "-" and is_number(each) else each for each in arguments]
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
        "exact, and in a new run the fastest way of an adapted layer; default leaves both as they "
        "are. A run goes on with the ways that its env.json has",
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

    add_study(command)
    add_adapters(command)
    add_audit(command)
    add_audit_runs(command)
    add_records(command)
    return parser

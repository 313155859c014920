"""Options of the audit."""

from __future__ import annotations

import argparse

from recycle.audit.candidates import TRIED
from recycle.commands import audit, audit_runs
from recycle.options.shared import Command, device_option, path, whole, words
from recycle.train.settings import DTYPES


def add_audit(command: Command) -> None:
    asked = command(
        "audit",
        audit.audit,
        "will these adapters merge, how, and will each still do its job",
        "--methods takes any merge or router that needs nothing besides the adapters, and sum_at_W "
        f"for any weight W.\nby default: {', '.join(TRIED)}",
    )
    asked.add_argument(
        "adapters",
        type=words,
        nargs="+",
        metavar="ADAPTER",
        help="folders in PEFT's layout, or names in the run's library",
    )
    ground = asked.add_mutually_exclusive_group(required=True)
    ground.add_argument(
        "--checkpoint",
        type=words,
        metavar="FOLDER|smollm2",
        help="the base: a pretrained checkpoint (needs .[checkpoint])",
    )
    ground.add_argument("--run", type=path, metavar="RUN", help="the base: that of a study")
    asked.add_argument("--base", type=words, help="which of the run's bases (default standard)")
    asked.add_argument(
        "--seed",
        type=whole(0),
        help="of what is drawn, and whose base of the run (default 0; the run's first seed)",
    )
    device_option(asked)
    asked.add_argument(
        "--dtype", choices=list(DTYPES), help="the number format of the base (default fp32)"
    )
    asked.add_argument(
        "--probes",
        type=path,
        metavar="FILE",
        help='JSON lines {"prompt": .., "answer": .., "adapter": ..}: what each adapter knows',
    )
    asked.add_argument(
        "--run-probes",
        action="store_true",
        help="with --run: the run's own questions that each adapter has read are its probes",
    )
    asked.add_argument(
        "--compose",
        type=path,
        metavar="FILE",
        help='JSON lines {"prompt": .., "answer": .., "parts": [probes]}: what needs several',
    )
    asked.add_argument(
        "--methods", type=words, nargs="+", metavar="NAME", help="what to try; see below"
    )
    asked.add_argument(
        "--out", type=path, metavar="FOLDER", help="for the results (default runs/audit-NAMES)"
    )
    asked.add_argument(
        "--repair",
        type=path,
        metavar="OUT",
        help="also write plain copies of the adapters, which every tool reads alike, into OUT",
    )


def add_audit_runs(command: Command) -> None:
    runs = command(
        "audit-runs",
        audit_runs.audit_runs,
        "audit every library of finished runs, with the questions of their worlds as probes",
        "A command that was stopped goes on. recycle/audit/collect.py says what is measured.",
    )
    runs.add_argument("runs", type=path, nargs="+", metavar="RUN", help="a finished study's folder")
    runs.add_argument("--out", type=path, required=True, metavar="FOLDER", help="for the rows")
    device_option(runs)
    runs.add_argument("--methods", type=words, nargs="+", metavar="NAME", help="as in audit")
    runs.add_argument(
        "--most", type=whole(1), metavar="N", help="at most N libraries of each base (default all)"
    )

    peers = command(
        "audit-peers",
        audit_runs.audit_peers,
        "ask Gradience and MergeLens about the pairs of audited runs (needs .[peers])",
    )
    _rows_option(peers)
    peers.add_argument("runs", type=path, nargs="+", metavar="RUN", help="the runs of these pairs")

    prediction = command(
        "audit-prediction",
        audit_runs.audit_prediction,
        "fit what audits predict to audited runs, and test it on what it has not seen",
        "recycle/audit/validate.py says what is compared, and the rule.",
    )
    _rows_option(prediction)
    prediction.add_argument(
        "--record", type=path, metavar="FILE", help="keep it all in a JSON file"
    )


def _rows_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("rows", type=path, metavar="FOLDER", help="the --out of audit-runs")

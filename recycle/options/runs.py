"""Options of the commands on studies, their runs and recorded results."""

from __future__ import annotations

from functools import cache

from recycle.commands import runs
from recycle.options.shared import Command, device_option, path, set_option, whole, words
from recycle.studies import DESIGNS, Study
from recycle.train.settings import DTYPES, settable
from tasks.gsm_symbolic import LEVELS


def add_study(command: Command) -> None:
    study = command("study", runs.study, "run a study, or go on with one", _presets() + _settings())
    study.add_argument("task", choices=list(DESIGNS), help="which study")
    study.add_argument(
        "--checkpoint",
        metavar="FOLDER|smollm2",
        help="of two-hop and word-math: on a pretrained checkpoint, in plain English (needs "
        ".[checkpoint])",
    )
    device_option(study)
    study.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="fp32",
        help="the number format of the frozen base (default fp32); adapters are fp32",
    )
    study.add_argument("--preset", type=words, default="quick", help="see below (default quick)")
    study.add_argument(
        "--processes",
        type=whole(1),
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
    set_option(study, "change a setting, as in train.lr=3e-3; may be repeated; keys below")
    study.add_argument(
        "--run", type=path, metavar="RUN", help="the run folder (default runs/TASK-PRESET)"
    )


def add_records(command: Command) -> None:
    report = command("report", runs.report, "draw a run's report again")
    report.add_argument("run", type=path, metavar="RUN")
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument(
        "--record", type=path, metavar="FILE", help="also keep the result in a small JSON file"
    )
    report.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="of these seeds alone, where a study was stopped before all were finished",
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
        type=path,
        nargs="?",
        default=runs.RESULTS,
        metavar="FOLDER",
        help="where the JSON files lie (default recycle/results)",
    )
    rejudge = command(
        "rejudge", runs.judge_again, "judge a recorded result anew by today's rules, in place"
    )
    rejudge.add_argument("file", type=path, metavar="FILE")
    rejudge.add_argument(
        "--reason", required=True, metavar="TEXT", help="why; it is written into the record"
    )
    table = command(
        "table",
        runs.table,
        "print a recorded result as tables",
        "LINE is a line's title as the tables have it, 'sum of both: plain_sum', or a pattern of "
        "titles,\n'*: plain_sum'. Chosen lines have their 95 % intervals, in each group and in the "
        "groups of the\nclaims together.",
    )
    table.add_argument("file", type=path, metavar="FILE")
    table.add_argument(
        "--lines", type=words, nargs="+", metavar="LINE", help="only these lines, with intervals"
    )
    table.add_argument(
        "--minus", type=words, metavar="LINE", help="their paired differences from this line"
    )

    carry_over = command(
        "carry-over",
        runs.carry_over,
        "print the verdicts and methods of two recorded results side by side",
    )
    carry_over.add_argument("toy", type=path, metavar="TOY_RECORD")
    carry_over.add_argument("checkpoint", type=path, metavar="CHECKPOINT_RECORD")

    compare = command(
        "compare",
        runs.compare,
        "print how far two results of one study lie apart",
        "Each is a recorded JSON file or a finished run's folder: your rerun and the recorded "
        "result,\ntwo machines, two versions. The same seeds and cells are compared, and two seeds "
        "beside them.",
    )
    compare.add_argument("one", type=path, metavar="RESULT")
    compare.add_argument("other", type=path, metavar="RESULT")

    gsm = command("gsm", runs.gsm, "check your own copy of GSM-Symbolic, and score answers")
    for level in LEVELS:
        gsm.add_argument(
            f"--{level.lower()}", type=path, metavar="FILE", help=f"JSON lines of the level {level}"
        )
    gsm.add_argument(
        "--answers",
        type=path,
        metavar="FILE",
        help="JSON lines with level, id, instance and output",
    )


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

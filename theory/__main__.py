"""Verify the theory:  python -m theory                 every claim, a table, under a minute

    python -m theory list                    ids and titles
    python -m theory show ID [--plot F.png]  statement, derivation, source, how it is checked; its picture
    python -m theory run ID [ID ...]         some claims, case by case
    python -m theory study RUN [--plot F]    the theory against the transformer of a finished two-hop study
    python -m theory table                   the README's tables, from theory/results/

Options: --json FILE  --seeds N  --full  --plots DIR  --quiet  --debug. Exit code 0: every claim holds. 1: one is
violated, and its first counterexample is named with its seed. 2: bad input, in one line.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from recycle.disk import read_json, write_json
from theory import pictures, report
from theory.against_study import compare, show
from theory.catalogue import ALL, pick
from theory.claim import Claim, Result, Settings, TheoryError, verify

COMMANDS = ("list", "show", "run", "study", "table")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TheoryError(f"{message}; see python -m theory --help")


def parser() -> Parser:
    p = Parser(
        prog="python -m theory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "words", nargs="*", metavar="list | show ID | run ID [ID ...] | study RUN | table"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    p.add_argument(
        "--seeds", type=int, default=Settings.seeds, metavar="N", help="repetitions of every case"
    )
    p.add_argument("--full", action="store_true", help="larger sizes: minutes")
    p.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="with show or study: draw its picture"
    )
    p.add_argument("--plots", type=Path, metavar="DIR", help="draw every picture there")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    return p


def check_all(claims: Sequence[Claim], settings: Settings, quiet: bool) -> list[Result]:
    """Verify each claim, printing its row as soon as it is known."""
    results: list[Result] = []
    print(report.HEADER)
    bar = tqdm(claims, disable=quiet, file=sys.stderr, leave=False, dynamic_ncols=True)
    for claim in bar:
        bar.set_postfix_str(f"{claim.id}, {sum(not r.holds for r in results)} violated")
        start = time.perf_counter()
        results.append(verify(claim, settings))
        with tqdm.external_write_mode(file=sys.stdout):
            print(report.line(results[-1], time.perf_counter() - start), flush=True)
            if len(claims) == 1:
                print(report.cases(results[-1]))
    return results


def run(claims: Sequence[Claim], args: argparse.Namespace, command: str) -> int:
    settings = Settings(seeds=args.seeds, full=args.full)
    if args.json:
        report.check_writable(args.json)
    if args.plots:
        for name in pictures.PICTURES:
            print(pictures.draw(name, args.plots / f"{name}.png"))
    start = time.perf_counter()
    results = check_all(claims, settings, args.quiet)
    violated = [result for result in results if not result.holds]
    print(
        f"\n{len(results) - len(violated)} of {len(results)} claims hold, {time.perf_counter() - start:.0f} s"
    )
    for result in violated:
        print(report.counterexample(result), file=sys.stderr)
    if args.json:
        report.write_json(args.json, report.as_json(results, settings, command))
    return 1 if violated else 0


def show_claim(claim: Claim, args: argparse.Namespace) -> int:
    print(report.description(claim))
    if args.plot:
        print(f"\npicture     {pictures.draw(claim.id, args.plot)}")
    elif claim.id in pictures.PICTURES:
        print("\npicture     --plot FILE.png draws it")
    return 0


def study_run(run: Path, args: argparse.Namespace, command: str) -> int:
    if args.json:
        report.check_writable(args.json)
    if args.plot:
        show.check_plot(args.plot)
    content = {"command": command, **compare.compare(run)}
    print(show.text(content))
    if args.json:
        write_json(args.json, content)
    if args.plot:
        print(f"\npicture: {show.draw(content, args.plot)}")
    return 0


def tables(args: argparse.Namespace) -> int:
    """The README's: of the claims, and of the study where one is recorded."""
    print(report.markdown(report.read_results(args.json or report.RESULTS)), end="")
    if not args.json and show.STUDY.exists():
        print("\n" + show.markdown(read_json(show.STUDY)), end="")
    return 0


def dispatch(args: argparse.Namespace, command: str) -> int:
    name, ids = (args.words[0], args.words[1:]) if args.words else ("all", [])
    if name == "all":
        return run(ALL, args, command)
    if name not in COMMANDS:
        raise TheoryError(
            f"unknown command {name!r}; known: {', '.join(COMMANDS)}, or none to check every claim"
        )
    if (name in ("list", "table")) != (not ids):
        needs = "a run folder" if name == "study" else "an id; python -m theory list shows them"
        remedy = "takes no id" if ids else f"needs {needs}"
        raise TheoryError(f"{' '.join(args.words)}: {remedy}")
    if name == "list":
        print("\n".join(f"{claim.id:<24} {claim.title}" for claim in ALL))
        return 0
    if name == "table":
        return tables(args)
    if name == "study":
        if len(ids) > 1:
            raise TheoryError(f"study {' '.join(ids)}: one run folder at a time")
        return study_run(Path(ids[0]), args, command)
    claims = pick(ids)
    if name == "run":
        return run(claims, args, command)
    if len(claims) > 1:
        raise TheoryError(f"show {' '.join(ids)}: one id at a time")
    return show_claim(claims[0], args)


def recorded(argv: Sequence[str]) -> str:
    """The command as it is kept in a result: absolute paths by their last name, which no machine
    owns."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in argv)
    return " ".join(["python -m theory", *words])


def main(argv: Sequence[str]) -> int:
    debug = "--debug" in argv
    try:
        args = parser().parse_intermixed_args(argv)
        return dispatch(args, recorded(argv))
    except TheoryError as error:
        if debug:
            raise
        print(f"theory: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

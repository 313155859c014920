"""Check the claims about LoRA that can be proved: `python -m theory` checks every one of them."""

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from recycle.run.disk import read_json, write_json
from recycle.run.environment import without_folders
from theory import alarms, pictures, power, report, symbols
from theory.against_study import compare, interaction, show
from theory.catalogue import ALL, BY_THEME, THEMES, pick
from theory.claim import Result, Settings, TheoryError, verify

EPILOG = """\
a first tour:
  python -m theory                    check every claim: a table, in about a minute
  python -m theory show leak-kernel   what one claim says, why, and how it is checked
  python -m theory run leak-kernel    check that claim, case by case
  python -m theory power              how wrong a theory each check would notice
  python -m theory alarms             how often a true claim is called violated: minutes

exit code: 0 every claim holds; 1 a claim is violated, and its first counterexample is named with
its seed; 2 the input is bad, and one line says how
"""
# Options that may stand before a command, and the commands that know them.
OPTIONS = {
    "json": ("run", "study", "interaction", "table"),
    "plots": ("run", "table"),
    "seeds": ("run", "power", "alarms"),
    "seed_from": ("run", "power", "alarms"),
    "full": ("run", "power", "alarms"),
    "quiet": ("run", "power", "alarms"),
}
COMMANDS = ("list", "show", "symbols", "run", "power", "alarms", "study", "interaction", "table")
FRESH = 1000  # the first seed for alarms: no claim was written with it in sight
ALARM_SEEDS = 60
PAGE = """\
# Results of the theory

`python -m theory table > theory/results/README.md` makes this page from the JSON files beside it.

"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := re.search("invalid choice: '([^']*)'", message):
            message = no_such_command(found[1])
        raise TheoryError(f"{message}; see {self.prog} --help")


def no_such_command(word: str) -> str:
    """A claim's id in a command's place, or a command with a slip."""
    if any(claim.id == word for claim in ALL):
        return f"{word!r} is a claim: python -m theory run {word}, or show {word}"
    like = get_close_matches(word, [*COMMANDS, *(claim.id for claim in ALL)], n=1)
    hint = f"did you mean {like[0]!r}?" if like else f"commands: {', '.join(COMMANDS)}"
    return f"unknown command {word!r}; {hint}"


def parser() -> Parser:
    top = Parser(
        prog="python -m theory",
        description="Check the claims about LoRA that can be proved: all of them, or some.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.set_defaults(act=check, command_name="run", ids=(), plot=None)
    top.set_defaults(**dict.fromkeys(OPTIONS))
    check_options(top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, act: Callable[[argparse.Namespace], int], about: str) -> Parser:
        # SUPPRESS: what is not given after a command keeps the value from before it.
        added = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        added.set_defaults(act=act, command_name=name)
        return added

    listing = command("list", list_claims, "print the ids and titles of all claims")
    one = command("show", show_claim, "print all that is said about one claim")
    words = command("symbols", print_symbols, "print what the symbols in claims stand for")
    some = command("run", check, "check some claims, case by case")
    sharp = command("power", print_power, "print how wrong a theory each check would notice")
    fresh = command("alarms", print_alarms, "count how often true claims are called violated")
    study = command("study", compare_study, "compare the theory with a finished two-hop study")
    acting = command(
        "interaction", print_interactions, "how far two experts of a finished study interact"
    )
    table = command("table", print_tables, "print the tables of results, made from the JSON files")

    one.add_argument("id", metavar="ID", help="an id from python -m theory list")
    some.add_argument("ids", nargs="+", metavar="ID", help="ids from python -m theory list")
    for p in (study, acting):
        p.add_argument("run", type=Path, metavar="RUN", help="the study's run folder")
        p.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    check_options(some)
    sharp.add_argument("ids", nargs="*", metavar="ID", help="ids; all claims if there is none")
    fresh.add_argument("ids", nargs="*", metavar="ID", help="ids; all claims if there is none")
    for p in (sharp, fresh):
        seed_options(p)
    table.add_argument("--json", type=Path, metavar="FILE", help="read the claims' results there")
    table.add_argument("--plots", type=Path, metavar="DIR", help="draw all claims' pictures there")
    for p in (one, study):
        p.add_argument("--plot", type=Path, metavar="FILE", help="draw its picture, .png or .svg")
    for p in (listing, one, words, sharp, fresh, study, acting, table):
        debug_option(p)
    return top


def check_options(p: Parser) -> None:
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    p.add_argument("--plots", type=Path, metavar="DIR", help="draw all claims' pictures there")
    seed_options(p)
    debug_option(p)


def seed_options(p: Parser) -> None:
    p.add_argument("--seeds", type=int, metavar="N", help="repetitions of every case (default 5)")
    p.add_argument("--seed-from", type=int, metavar="K", help="the first seed (default 0)")
    p.add_argument("--full", action="store_const", const=True, help="larger sizes: minutes")
    p.add_argument("--quiet", action="store_const", const=True, help="no progress bar")


def debug_option(p: Parser) -> None:
    p.add_argument("--debug", action="store_true", help="show tracebacks")


def list_claims(_: argparse.Namespace) -> int:
    print(symbols.MODEL)
    for theme, claims in BY_THEME.items():
        print(f"\n{THEMES[theme]}")
        for claim in claims:
            print(f"  {claim.id:<24} {claim.title}")
    return 0


def print_symbols(_: argparse.Namespace) -> int:
    print(symbols.text())
    return 0


def show_claim(args: argparse.Namespace) -> int:
    (claim,) = pick([args.id])
    if args.plot and not claim.picture:
        drawn = ", ".join(claim.id for claim in ALL if claim.picture)
        raise TheoryError(f"claim {claim.id!r} has no picture; claims with one: {drawn}")
    if args.plot:
        pictures.check_picture(args.plot)
    print(report.description(claim))
    if args.plot and claim.picture:
        print(f"\npicture     {pictures.draw(claim.picture, args.plot)}")
    elif claim.picture:
        print("\npicture     --plot FILE.svg draws it")
    return 0


def verified(
    args: argparse.Namespace, settings: Settings | None = None
) -> Iterator[tuple[Result, float]]:
    """Check the claims of `args.ids`, or all of them: each result with its seconds."""
    claims = pick(args.ids) if args.ids else ALL
    settings = settings or settings_of(args)
    violated = 0
    bar = tqdm(claims, disable=bool(args.quiet), file=sys.stderr, leave=False, dynamic_ncols=True)
    for claim in bar:
        bar.set_postfix_str(f"{claim.id}, {violated} violated")
        start = time.perf_counter()
        result = verify(claim, settings)
        violated += not result.holds
        with tqdm.external_write_mode(file=sys.stdout):
            yield result, time.perf_counter() - start


def settings_of(args: argparse.Namespace) -> Settings:
    seeds = Settings.seeds if args.seeds is None else args.seeds
    return Settings(seeds=seeds, full=bool(args.full), first=args.seed_from or 0)


def check(args: argparse.Namespace) -> int:
    """Check claims, and print each as soon as its verdict is known; those that are named, case by
    case."""
    settings = settings_of(args)
    pick(args.ids)
    if args.json:
        report.check_writable(args.json)
    draw_all(args.plots)
    print(report.HEADER)
    begin = time.perf_counter()
    results: list[Result] = []
    for result, seconds in verified(args):
        results.append(result)
        print(report.line(result, seconds), flush=True)
        if args.ids:
            print(report.cases(result), flush=True)
    violated = [result for result in results if not result.holds]
    held, seconds = len(results) - len(violated), time.perf_counter() - begin
    print(f"\n{held} of {len(results)} claims hold, {seconds:.0f} s")
    for result in violated:
        print(report.counterexample(result), file=sys.stderr)
    if args.json:
        report.save(args.json, report.as_json(results, settings, args.command))
    return 1 if violated else 0


def draw_all(folder: Path | None) -> None:
    """Draw every claim's picture into the folder, if one is given."""
    for claim in ALL if folder else ():
        if folder and claim.picture:
            print(pictures.draw(claim.picture, folder / f"{claim.id}.svg"), file=sys.stderr)


def print_power(args: argparse.Namespace) -> int:
    """The smallest error of its bounds that each claim would notice, and which wrong formulas."""
    settings_of(args)
    pick(args.ids)
    print(power.HEADER)
    found: list[power.Power] = []
    for result, _ in verified(args):
        found.append(power.power(result))
        print(power.line(found[-1]), flush=True)
    print(f"\n{power.summary(found)}")
    return 0


def print_alarms(args: argparse.Namespace) -> int:
    """How often observations on fresh seeds lie outside of what their claims allow."""
    first = FRESH if args.seed_from is None else args.seed_from
    each = alarms.blocks(Settings(args.seeds or ALARM_SEEDS, bool(args.full), first))
    pick(args.ids)
    found = alarms.Alarms()
    for settings in each:
        before = found.observations
        found.add(result for result, _ in verified(args, settings))
        told = "alarms" if found.alarmed[-1] else "does not alarm"
        seeds = f"seeds {settings.each[0]} to {settings.each[-1]}"
        print(f"{seeds}: {found.observations - before} observations, {told}", flush=True)
    print()
    print("\n".join(alarms.lines(found)))
    return 0


def compare_study(args: argparse.Namespace) -> int:
    if args.json:
        report.check_writable(args.json)
    if args.plot:
        pictures.check_picture(args.plot)
        compare.check_types(args.run)
    content = {"command": args.command, **compare.compare(args.run)}
    print(show.text(content))
    if args.json:
        write_json(args.json, content)
    if args.plot:
        print(f"\npicture: {show.draw(content, args.plot)}")
    return 0


def print_interactions(args: argparse.Namespace) -> int:
    if args.json:
        report.check_writable(args.json)
    content = {"command": args.command, **interaction.interactions(args.run)}
    print(interaction.text(content))
    if args.json:
        write_json(args.json, content)
    return 0


def print_tables(args: argparse.Namespace) -> int:
    """The page theory/results/README.md; with --json, only the table of that file's claims."""
    draw_all(args.plots)
    if args.json:
        print(report.markdown(report.read_results(args.json)), end="")
        return 0
    print(PAGE + report.markdown(report.read_results(report.CLAIMS)), end="")
    print(report.gallery([claim for claim in ALL if claim.picture]), end="")
    for run, content in show.recorded_theorems():
        print("\n" + show.markdown_theorems(content, run), end="")
    if show.STUDY.exists():
        print("\n" + show.markdown(read_json(show.STUDY)), end="")
    if interaction.RECORDED.exists():
        print("\n" + interaction.markdown(read_json(interaction.RECORDED)), end="")
    return 0


def refuse_ignored(args: argparse.Namespace) -> None:
    """Every option that is given must be one that its command knows.

    Raises:
        TheoryError: the command would ignore an option that stands before it.
    """
    for option, commands in OPTIONS.items():
        if getattr(args, option) is not None and args.command_name not in commands:
            raise TheoryError(
                f"--{option.replace('_', '-')}: {args.command_name} does not know this option; "
                f"it belongs to {', '.join(commands)}"
            )


def recorded(argv: Sequence[str]) -> str:
    """The command as a result keeps it: without --quiet, which changes no result, and an absolute
    path by its last name, which is the same on every machine."""
    kept = [word for word in argv if word != "--quiet"]
    return without_folders(shlex.join(["python", "-m", "theory", *kept]))


def main(argv: Sequence[str]) -> int:
    try:
        args = parser().parse_args(argv)
        refuse_ignored(args)
        args.command = recorded(argv)
        return args.act(args)
    except TheoryError as error:
        if "--debug" in argv:
            raise
        print(f"theory: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough: what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

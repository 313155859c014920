"""Results as text for a terminal, as JSON for `theory/results/`, and as a table of that JSON.

The JSON holds no timings and no digits below a hundredth of a claim's tolerance, so the same
command writes the same file on another day.
"""

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recycle.run.disk import read_json, write_text
from theory.claim import Claim, Observation, Result, Settings, TheoryError, decimals

RESULTS = Path(__file__).parent / "results"
CLAIMS = RESULTS / "theory.json"


def number(value: float) -> str:
    return f"{value:.4g}"


def steady(value: float, tolerance: float) -> float:
    """The value rounded to a hundredth of the tolerance and to six significant digits, so that
    rounding noise leaves no trace."""
    return float(f"{round(value, decimals(tolerance)):.6g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def both(claim: Claim, observation: Observation) -> tuple[float, float]:
    """Bound and observed number, steady."""
    return steady(observation.bound, 0.0), steady(observation.observed, claim.tolerance)


def row(*cells: str) -> str:
    return "{:<24} {:<90} {:>12} {:>10} {:>9}  {:<8} {:>7}".format(*cells)


HEADER = row("claim", "statement", "bound", "observed", "tolerance", "verdict", "seconds")


def line(result: Result, seconds: float) -> str:
    """One row of the terminal's table: the observation that comes nearest to breaking the claim."""
    claim = result.claim
    bound, observed = map(number, both(claim, result.worst))
    return row(
        claim.id,
        claim.title,
        f"{claim.relation} {bound}",
        observed,
        f"{claim.tolerance:.2g}",
        result.verdict,
        f"{seconds:.1f}",
    )


def counterexample(result: Result) -> str:
    """The first observation that broke a violated claim, with the seed that makes it again."""
    claim, broke = result.claim, result.counterexample
    assert broke is not None, f"{claim.id} holds"
    return (
        f"violated: {claim.id}: {broke.case}, seed {broke.seed}: observed {broke.observed:.8g}, "
        f"expected {claim.relation} {broke.bound:.8g} within {claim.tolerance:g}"
    )


def description(claim: Claim) -> str:
    """All that is said about a claim, for `python -m theory show`."""
    rule = f"observed {claim.relation} bound, within {claim.tolerance:g}, for every case and seed"
    parts = {
        "statement": claim.statement,
        "formula": claim.formula,
        "source": claim.source,
        "assumptions": claim.assumptions,
        "derivation": claim.derivation,
        "checked by": claim.computed,
        "holds when": rule,
    }
    lines = [f"{claim.id}: {claim.title}", ""]
    for name, text in parts.items():
        lines += textwrap.wrap(text, 116, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)
    return "\n".join(lines)


def cases(result: Result) -> str:
    """Every case of one claim, for `python -m theory run` with a single claim."""
    rows = [f"  {'case':<64} {'seeds':>5} {'bound':>10} {'observed':>10}"]
    for case in result.cases:
        bound, observed = map(number, both(result.claim, case.worst))
        verdict = "" if case.holds else "  violated"
        rows.append(f"  {case.name:<64} {case.n:>5} {bound:>10} {observed:>10}{verdict}")
    return "\n".join(rows)


def as_json(results: Sequence[Result], settings: Settings, command: str) -> dict[str, Any]:
    """What `save` writes and `markdown` reads; `command` is the one that makes it again."""
    return {
        "command": command,
        "torch": torch.__version__.split("+")[0],
        "seeds": settings.seeds,
        "full": settings.full,
        "claims": [claim_json(result) for result in results],
    }


def claim_json(result: Result) -> dict[str, Any]:
    claim, broke = result.claim, result.counterexample

    def plain(observation: Observation) -> dict[str, Any]:
        bound, observed = both(claim, observation)
        where = {"case": observation.case, "seed": observation.seed}
        return {**where, "bound": bound, "observed": observed}

    return {
        "id": claim.id,
        "title": claim.title,
        "relation": claim.relation,
        "tolerance": claim.tolerance,
        "verdict": result.verdict,
        "n": result.n,
        "worst": plain(result.worst),
        "counterexample": plain(broke) if broke else None,
        "cases": [{"n": case.n, **plain(case.worst)} for case in result.cases],
    }


def check_writable(path: Path) -> None:
    """Look before the work, not after it.

    Raises:
        TheoryError: the folder does not exist or cannot be written.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TheoryError(
            f"--json {path}: cannot be written; "
            "name a file in an existing folder that you may write to"
        )


def save(path: Path, content: dict[str, Any]) -> None:
    """Write what `as_json` made, one claim a line; a killed run leaves no half file."""
    head = {key: value for key, value in content.items() if key != "claims"}
    rows = ",\n".join(json.dumps(claim) for claim in content["claims"])
    write_text(path, f'{json.dumps(head)[:-1]}, "claims": [\n{rows}\n]}}\n')


def markdown(content: dict[str, Any]) -> str:
    """The table of claims, from the JSON alone."""
    claims = content["claims"]
    held = sum(claim["verdict"] == "holds" for claim in claims)
    rows = [
        f"{held} of {len(claims)} claims hold: `{content['command']}`, "
        f"{content['seeds']} seeds, torch {content['torch']}.",
        "",
        "| claim | statement | bound | observed | tolerance | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        title, worst = claim["title"].replace("|", "\\|"), claim["worst"]
        bound = f"{claim['relation']} {number(worst['bound'])}"
        rows.append(
            f"| `{claim['id']}` | {title} | {bound} | {number(worst['observed'])} "
            f"| {claim['tolerance']:g} | {claim['verdict']} |"
        )
    return "\n".join(rows) + "\n"


def read_results(path: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        TheoryError: the file is missing, or `save` did not write it.
    """
    try:
        content = read_json(path)
        content["claims"], content["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TheoryError(
            f"{path}: no results to read; write them with python -m theory --json {path}"
        ) from error
    return content

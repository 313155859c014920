"""Results as text for a terminal, as JSON for `theory/results/`, and as the README's table made
from that JSON.

The JSON holds no timings and no digits below a hundredth of a claim's tolerance, so that the same
command writes the same file on another day.
"""

import json
import os
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from theory.claim import Claim, Observation, Result, Settings, TheoryError, decimals

RESULTS = Path(__file__).parent / "results" / "theory.json"


def number(value: float) -> str:
    return f"{value:.4g}"


def steady(value: float, tolerance: float) -> float:
    """Rounded to a hundredth of the tolerance and to six significant digits: rounding noise leaves
    no trace."""
    return float(f"{round(value, decimals(tolerance)):.6g}") + 0.0  # + 0.0 turns -0.0 into 0.0


HEADER = f"{'claim':<24} {'statement':<90} {'bound':>12} {'observed':>10} {'tolerance':>9}  {'verdict':<8} {'seconds':>7}"


def line(result: Result, seconds: float) -> str:
    """One row of the terminal table: the observation that comes nearest to breaking the claim."""
    claim, worst = result.claim, result.worst
    bound, observed = (
        number(steady(worst.bound, 0.0)),
        number(steady(worst.observed, claim.tolerance)),
    )
    return (
        f"{claim.id:<24} {claim.title:<90} {claim.relation + ' ' + bound:>12} {observed:>10} {claim.tolerance:>9.2g}  "
        f"{result.verdict:<8} {seconds:>7.1f}"
    )


def counterexample(result: Result) -> str:
    """The first observation that broke the claim, with the seed that makes it again."""
    found = result.counterexample
    assert found is not None, f"{result.claim.id} holds"
    return (
        f"violated: {result.claim.id}: {found.case}, seed {found.seed}: observed {found.observed:.8g}, "
        f"expected {result.claim.relation} {found.bound:.8g} within {result.claim.tolerance:g}"
    )


def description(claim: Claim) -> str:
    """Everything that is said about a claim, for `theory show`."""
    parts = {
        "statement": claim.statement,
        "formula": claim.formula,
        "source": claim.source,
        "assumptions": claim.assumptions,
        "derivation": claim.derivation,
        "checked by": claim.computed,
        "holds when": f"observed {claim.relation} bound, within {claim.tolerance:g}, for every case and seed",
    }
    lines = [f"{claim.id}: {claim.title}", ""]
    for name, text in parts.items():
        lines += textwrap.wrap(text, 116, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)
    return "\n".join(lines)


def cases(result: Result) -> str:
    """Every case of one claim, for `theory show` and `theory run` of a single claim."""
    rows = [f"  {'case':<64} {'seeds':>5} {'bound':>10} {'observed':>10}"]
    for case in result.cases:
        worst = case.worst
        bound, observed = (
            number(steady(worst.bound, 0.0)),
            number(steady(worst.observed, result.claim.tolerance)),
        )
        rows.append(
            f"  {case.name:<64} {case.n:>5} {bound:>10} {observed:>10}{'' if case.holds else '  violated'}"
        )
    return "\n".join(rows)


def as_json(results: Sequence[Result], settings: Settings, command: str) -> dict[str, Any]:
    return {
        "command": command,
        "torch": torch.__version__.split("+")[0],
        "seeds": settings.seeds,
        "full": settings.full,
        "claims": [claim_json(result) for result in results],
    }


def claim_json(result: Result) -> dict[str, Any]:
    claim, found = result.claim, result.counterexample

    def pair(observation: Observation) -> dict[str, Any]:
        bound, observed = (
            steady(v, t)
            for v, t in ((observation.bound, 0.0), (observation.observed, claim.tolerance))
        )
        return {
            "case": observation.case,
            "seed": observation.seed,
            "bound": bound,
            "observed": observed,
        }

    return {
        "id": claim.id,
        "title": claim.title,
        "relation": claim.relation,
        "tolerance": claim.tolerance,
        "verdict": result.verdict,
        "n": result.n,
        "worst": pair(result.worst),
        "counterexample": pair(found) if found else None,
        "cases": [{"n": case.n, **pair(case.worst)} for case in result.cases],
    }


def check_writable(path: Path) -> None:
    """Before the work, not after it.

    Raises:
        TheoryError: the folder does not exist or cannot be written.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TheoryError(
            f"--json {path}: cannot be written; name a file in an existing folder that you may write to"
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """One claim a line. To a temporary name, then renamed: a killed run leaves no half file."""
    head = {key: value for key, value in content.items() if key != "claims"}
    rows = ",\n".join(json.dumps(claim) for claim in content["claims"])
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(f'{json.dumps(head)[:-1]}, "claims": [\n{rows}\n]}}\n')
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def markdown(content: dict[str, Any]) -> str:
    """The README's table of claims, from the JSON alone."""
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
        rows.append(
            f"| `{claim['id']}` | {title} | {claim['relation']} {number(worst['bound'])} | {number(worst['observed'])} "
            f"| {claim['tolerance']:g} | {claim['verdict']} |"
        )
    return "\n".join(rows) + "\n"


def read_results(path: Path) -> dict[str, Any]:
    """
    Raises:
        TheoryError: the file is missing or not one of ours.
    """
    try:
        content = json.loads(path.read_text())
        content["claims"], content["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TheoryError(
            f"{path}: no results to read; write them with python -m theory --json {path}"
        ) from error
    return content

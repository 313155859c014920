"""Results as text for a terminal, as JSON for `theory/results/`, and as a table of that JSON.

The JSON holds no timings and no digits below a hundredth of what a claim allows, so the same
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
from theory.claim import ERRORS, KINDS, Claim, Observation, Result, Settings, TheoryError, decimals

RESULTS = Path(__file__).parent / "results"
CLAIMS = RESULTS / "theory.json"


def number(value: float) -> str:
    return f"{value:.4g}"


def steady(value: float, tolerance: float) -> float:
    """The value rounded to a hundredth of the tolerance and to six significant digits, so that
    rounding noise leaves no trace."""
    return float(f"{round(value, decimals(tolerance)):.6g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def plain(claim: Claim, observation: Observation) -> dict[str, Any]:
    """An observation as JSON: what is allowed, z where something is sampled, and the margin: for an
    equality what is left of the allowed excess, as a share of it, for an inequality the slack as a
    share of the bound; an equality that allows nothing has none."""
    allowed = claim.allowed(observation)
    bound, z = steady(observation.bound, 0.0), observation.z
    equal = claim.relation == "=="
    left = claim.margin(observation) if equal else -claim.excess(observation)
    margin = (
        left / (allowed if equal else abs(observation.bound) or 1.0)
        if allowed or not equal
        else None
    )
    return {
        "case": observation.case,
        "seed": observation.seed,
        "bound": bound,
        "observed": steady(observation.observed, allowed),
        "allowed": float(f"{allowed:.2g}"),
        "z": None if z is None else round(z, 1) + 0.0,
        "margin": None if margin is None else float(f"{round(margin, 3):.3g}") + 0.0,
    }


def numbers(claim: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Bound, observed, allowed, z and margin of one observation, as text."""
    return [
        f"{claim['relation']} {number(row['bound'])}",
        number(row["observed"]),
        f"{row['allowed']:.2g}",
        "-" if row["z"] is None else f"{row['z']:+.1f}",
        "-" if row["margin"] is None else f"{100 * row['margin']:.0f} %",
    ]


WIDTHS = "{:<13} {:<46} {:>12} {:>10} {:>8} {:>6} {:>7} {:>6}  {}"
HEADER = WIDTHS.format(
    "kind",
    "case nearest to breaking",
    "bound",
    "observed",
    "allowed",
    "z",
    "margin",
    "slack",
    "verdict",
)


def line(result: Result, seconds: float) -> str:
    """Two rows of the terminal's table: the claim, and the observation that comes nearest to
    breaking it."""
    claim = claim_json(result)
    worst = claim["worst"]
    verdict = f"{result.verdict}, {seconds:.1f} s"
    cells = WIDTHS.format(
        claim["kind"],
        shortened(worst["case"], 46),
        *numbers(claim, worst),
        slack_text(claim),
        verdict,
    )
    return f"{claim['id']}: {claim['title']}\n{cells}"


def shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def counterexample(result: Result) -> str:
    """The first observation that broke a violated claim, with the seed that makes it again."""
    claim, broke = result.claim, result.counterexample
    assert broke is not None, f"{claim.id} holds"
    return (
        f"violated: {claim.id}: {broke.case}, seed {broke.seed}: observed {broke.observed:.8g}, "
        f"expected {claim.relation} {broke.bound:.8g} within {claim.allowed(broke):.3g}"
    )


def description(claim: Claim) -> str:
    """All that is said about a claim, for `python -m theory show`."""
    rule = (
        f"observed {claim.relation} bound, within {claim.tolerance:g} of rounding, {ERRORS} "
        "standard errors where something is sampled, and the bias that a case states"
    )
    parts = {
        "statement": claim.statement,
        "kind": f"{claim.kind}: {KINDS[claim.kind]}",
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
    """Every case of a claim, for `python -m theory run`."""
    widths = "  {:<58} {:>5} {:>12} {:>10} {:>8} {:>6} {:>7}{}"
    rows = [
        widths.format("case", "seeds", "bound", "observed", "allowed", "z", "margin", "").rstrip()
    ]
    claim = claim_json(result)
    for case, row in zip(result.cases, claim["cases"], strict=True):
        verdict = "" if case.holds else "  violated"
        name = shortened(case.name, 58)
        rows.append(widths.format(name, case.n, *numbers(claim, row), verdict))
    return "\n".join(rows)


def as_json(results: Sequence[Result], settings: Settings, command: str) -> dict[str, Any]:
    """What `save` writes and `markdown` reads; `command` is the one that makes it again."""
    return {
        "command": command,
        "torch": torch.__version__.split("+")[0],
        "seeds": settings.seeds,
        "first_seed": settings.first,
        "full": settings.full,
        "claims": [claim_json(result) for result in results],
    }


def claim_json(result: Result) -> dict[str, Any]:
    claim, broke = result.claim, result.counterexample
    return {
        "id": claim.id,
        "kind": claim.kind,
        "title": claim.title,
        "relation": claim.relation,
        "verdict": result.verdict,
        "n": result.n,
        "worst": plain(claim, result.worst),
        "least_slack": slack_json(result),
        "counterexample": plain(claim, broke) if broke else None,
        "cases": [{"n": case.n, **plain(claim, case.worst)} for case in result.cases],
    }


def slack_json(result: Result) -> float | None:
    """The smallest slack that was found where it was sought, as a share of the bound; rounding
    noise around 0 is 0."""
    slack = result.least_slack
    if slack is None or result.claim.kind == "measurement":
        return None
    return float(f"{round(slack, 4):.2g}") + 0.0


def slack_text(claim: dict[str, Any]) -> str:
    slack = claim["least_slack"]
    return "-" if slack is None else f"{100 * slack:.2g} %"


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
    first = content["first_seed"]
    kinds = (f"{sum(c['kind'] == kind for c in claims)} {kind}" for kind in KINDS)
    rows = [
        f"{held} of {len(claims)} claims hold: `{content['command']}`, "
        f"{content['seeds']} seeds from {first}, torch {content['torch']}. "
        f"By kind: {', '.join(kinds)}.",
        "",
        "Each row shows the case that comes nearest to breaking the claim. `allowed` is what may "
        f"lie between bound and observed number: rounding, {ERRORS} standard errors where "
        "something is sampled, and a stated finite-size bias. `z` counts standard errors. `margin` "
        "is what is left of `allowed` for an equality, and an inequality's slack as a share of its "
        "bound. `least slack` is the smallest slack of a proved inequality that a search for "
        "counterexamples found, or an instance that was built to have none: where it is 0 the "
        "constant is sharp.",
        "",
        "| claim | kind | statement | case | bound | observed | allowed | z | margin | least slack "
        "| verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        words = (claim["kind"], claim["title"], claim["worst"]["case"])
        cells = [*words, *numbers(claim, claim["worst"]), slack_text(claim), claim["verdict"]]
        escaped = " | ".join(cell.replace("|", "\\|") for cell in cells)
        rows.append(f"| `{claim['id']}` | {escaped} |")
    return "\n".join(rows) + "\n"


def gallery(claims: Sequence[Claim]) -> str:
    """The recorded pictures, the first claim's first; empty where none is recorded."""
    drawn = [claim for claim in claims if (RESULTS / f"{claim.id}.svg").exists()]
    blocks = [f"**{claim.title}**\n\n![{claim.id}]({claim.id}.svg)\n" for claim in drawn]
    if not blocks:
        return ""
    about = (
        "`python -m theory table --plots theory/results` draws them. Ticks or lines are predicted, "
        "points are observed, bars are two standard errors unless a picture says otherwise."
    )
    return "\n## Pictures\n\n" + about + "\n\n" + "\n".join(blocks)


def read_results(path: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        TheoryError: the file is missing, or `save` did not write it.
    """
    try:
        content = read_json(path)
        content["claims"], content["command"], content["first_seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TheoryError(
            f"{path}: no results to read; write them with python -m theory --json {path}"
        ) from error
    return content

"""The record of a second implementation, and its tables: recycle/measure/beside.py makes the rows.

A record has the head and the rows of every other record, but no claim and no rule: it says how far
two implementations agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recycle.decide.metrics import Metrics
from recycle.decide.statistics import estimate
from recycle.measure.beside import HERE, PAIR, READS, THERE, Compared
from recycle.measure.second import MERGINGS, versions
from recycle.reuse.methods import ALONE
from recycle.run.environment import commands_of
from recycle.run.folder import read_environments
from recycle.train.base import Base

KIND = "second implementation"
LIMIT = 1e-4  # of the logits' largest difference


def as_record(
    base: Base, run: Path, compared: Compared, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """All of a record but its rows. ``environment`` is that of the comparison; the base's own is
    that of its run."""
    made = read_environments(run)
    return {
        "kind": KIND,
        "task": base.config.name,
        **environment,
        "libraries": versions(),
        "base": [{key: each[key] for key in ("commit", "dirty")} for each in made],
        "seeds": [base.seed],
        "controls": [],
        "claims": [],
        "inside": {},
        "logits": float(f"{compared.logits:.2g}"),
        "agreements": [asdict(each) for each in compared.agreements],
        "notes": list(dict.fromkeys(note for row in compared.rows for note in row.notes)),
    }


def tables(recorded: Mapping[str, Any], metrics: Metrics, forms: Sequence[str]) -> str:
    """The record as Markdown: what agrees one by one, and shares right beside each other."""
    libraries = ", ".join(f"{name} {version}" for name, version in recorded["libraries"].items())
    commands = ", then ".join(f"`{command}`" for command in commands_of(recorded))
    (seed,) = recorded["seeds"]
    threads = f"{recorded['threads']} thread{'s' * (recorded['threads'] > 1)}"
    out = [
        f"{commands} (torch {recorded['torch']}, {libraries}, {threads}):",
        "",
        f"The base of seed {seed} in transformers, experts trained and merged by PEFT on the rows "
        "that the experts here read, from first weights of its own. Questions and scores are ours.",
        "",
        "| what agrees, one by one | |",
        "|---|---|",
        f"| logits of the base on random words | differ by at most {recorded['logits']:.0e} "
        f"(needs <= {LIMIT:.0e}) |",
    ]
    out += [f"| {a['what']} | {a['alike']} of {a['of']} |" for a in recorded["agreements"]]
    groups = metrics.groups
    heads = [f"{group}: {who}" for group in groups for who in ("here", "transformers and PEFT")]
    out += ["", "| shares right | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    out += ["| | " + " | ".join([" / ".join(forms)] * len(heads)) + " |"]
    for title, library, method in _lines():
        cells = [
            _shares(metrics, where, group, library, method, forms)
            for group in groups
            for where in (HERE, THERE)
        ]
        out.append(f"| {title} | " + " | ".join(cells) + " |")
    asked = ", ".join(str(n) for n in sorted({row.n for row in metrics.rows}))
    out += [
        "",
        f"Each share is of {asked} questions. PEFT's ties and dare_linear act on the factors, and "
        "nothing here does the same: the column here has PEFT's merge of the experts that were "
        "trained here, asked here. dare_linear draws at random.",
    ]
    return "\n".join(out) + "\n"


def _lines() -> list[tuple[str, str, str]]:
    """(title, library, method) of each line."""
    return [(f"{reads} expert", reads, ALONE.name) for reads in READS] + [
        (f"hop1 + hop2: {merging.title}", PAIR, merging.name) for merging in MERGINGS
    ]


def _shares(
    metrics: Metrics, where: str, group: str, library: str, method: str, forms: Sequence[str]
) -> str:
    rows = metrics.where(base=where, group=group, library=library, method=method)
    return " / ".join(
        f"{estimate(own).mean:.2f}"
        for form in forms
        if (own := [row for row in rows if row.form == form])
    )

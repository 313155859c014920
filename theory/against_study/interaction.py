"""How far two experts act on one another in a trained model: `python -m theory interaction RUN`.

What an interaction is, and the bound where there is none, stands in recycle/measure/interaction.py.
A study measures both in its cells and prints them in its report. This table measures any finished
run anew, those of versions that did not measure it too.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recycle.decide.metrics import Row
from recycle.decide.statistics import estimate
from recycle.measure.ask import encode_prompt
from recycle.measure.interaction import additive_bound, interaction
from recycle.plan import BaseSpec, Library
from recycle.reuse.method import Method
from recycle.reuse.methods import ALONE, PLAIN_SUM
from recycle.show.run_files import load_metrics
from recycle.studies import Study
from recycle.studies import open_study as open_run
from recycle.train.experts import open_adapter
from theory.claim import TheoryError
from theory.report import RESULTS

RECORDED = RESULTS / "interaction.json"
FORM = "direct"


@dataclass(frozen=True)
class Interaction:
    """One library of two experts under the plain sum, means over the seeds. ``share`` is rms(I)
    over rms(l(12) - l(0)); 0 where the logits are additive. ``bound`` is the largest share right
    that additive logits allow in the mean over worlds. ``right`` is the share of direct
    questions that are answered right; ``alone`` is that of the better expert alone, where the study
    has it."""

    base: str
    group: str
    library: str
    share: float
    bound: float
    right: float
    alone: float | None


def interactions(run: Path) -> dict[str, Any]:
    """Every library of two experts that a finished run has under the plain sum, in the groups that
    its claims speak of.

    Raises:
        TheoryError: the folder is no finished run, or has no such library.
    """
    try:
        study = open_run(run)
        metrics = load_metrics(study, run)
        measured: dict[Library, list[tuple[float, float]]] = {}
        for seed, spec in study.bases:
            for library, share, bound in of_base(study, run, seed, spec):
                measured.setdefault(library, []).append((share, bound))
    except (ValueError, KeyError, OSError) as error:
        raise TheoryError(str(error)) from error
    if not measured:
        raise TheoryError(
            f"{run} has no library of two experts under the plain sum in the groups "
            f"{', '.join(study.design.rules.groups)}: nothing can interact"
        )

    def right(library: Library, method: Method) -> list[Row]:
        base, group, name = library.base.name, library.group, library.name
        return metrics.where(base=base, group=group, library=name, method=method.name, form=FORM)

    found = []
    for library, by_seed in measured.items():
        single = [
            estimate(rows).mean
            for each in study.libraries
            if (each.base, each.group) == (library.base, library.group) and len(each.experts) == 1
            if each.experts[0] in library.experts
            if (rows := right(each, ALONE))
        ]
        share, bound = (sum(column) / len(by_seed) for column in zip(*by_seed, strict=True))
        answered = estimate(right(library, PLAIN_SUM)).mean
        place = (library.base.name, library.group, library.name)
        found.append(Interaction(*place, share, bound, answered, max(single, default=None)))
    return {
        "study": study.design.name,
        "seeds": list(study.config.seeds),
        "interactions": [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(one).items()}
            for one in sorted(found, key=lambda one: one.share)
        ],
    }


def pairs(study: Study, spec: BaseSpec) -> list[Library]:
    """The libraries of two experts on a base that are asked under the plain sum."""
    return [
        library
        for library in study.libraries
        if library.base == spec and library.group in study.design.rules.groups
        if len(library.experts) == 2 and PLAIN_SUM in library.methods and not library.context
    ]


def of_base(
    study: Study, run: Path, seed: int, spec: BaseSpec
) -> Iterator[tuple[Library, float, float]]:
    """The interaction of each pair of experts on one base, on its group's direct questions, and the
    bound on additive logits there."""
    if not (libraries := pairs(study, spec)):
        return
    base = study.open_base(seed, spec, run)
    for library in libraries:
        if FORM not in base.world.forms:
            continue
        questions = base.world.questions(library.group, FORM)
        prompts = [encode_prompt(base.tokenizer, question) for question in questions]
        first, second = (open_adapter(base.folder, e.slug) for e in library.experts)
        bound = additive_bound(len(questions), len({question.answer for question in questions}))
        yield library, interaction(base.model, prompts, first, second), bound


def markdown(content: dict[str, Any]) -> str:
    """The recorded table."""
    lines = [
        f"Interaction of two experts under the plain sum: `{content['command']}`. rms(I) over the "
        "rms of the change that both make, beside the share right of direct questions.",
        "",
        "| base | group | library | interaction | bound at 0 | right | better expert alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["interactions"]:
        names = f"{row['base']} | {row['group']} | {row['library']}"
        values = f"{row['share']:.3f} | {row['bound']:.2f} | {row['right']:.2f}"
        lines.append(f"| {names} | {values} | {_alone(row)} |")
    return "\n".join(lines) + "\n"


def _alone(row: dict[str, Any]) -> str:
    return "-" if row["alone"] is None else f"{row['alone']:.2f}"


def text(content: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = content["interactions"]
    width = max(len(row["library"]) for row in rows)
    lines = [
        f"Interaction of two experts under the plain sum, {content['study']} study, seeds "
        f"{', '.join(map(str, content['seeds']))}; direct questions",
        "",
        f"{'base':20}{'group':8}{'library':{width}}  I / change   bound   right  better alone",
    ]
    for row in rows:
        lines.append(
            f"{row['base']:20}{row['group']:8}{row['library']:{width}}{row['share']:12.4f}"
            f"{row['bound']:8.2f}{row['right']:8.2f}{_alone(row):>8}"
        )
    return "\n".join(lines)

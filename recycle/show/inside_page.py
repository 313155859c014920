"""The report's section "Inside the merges": lens, patching, knock-outs, routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recycle.measure.inside import ANOTHER
from recycle.show import mechanism_figures
from recycle.show.markup import e, figure, folded, table
from recycle.show.run_files import (
    inside_maps,
    inside_means,
    look_name,
    looked_into,
    of_one_shape,
    read_look,
)
from recycle.show.tables import condition_titles
from recycle.studies import Study


@of_one_shape
def inside_section(study: Study, run: Path) -> list[str]:
    """Looks inside the merges: tables and maps as means over all seeds, and figures of the
    first."""
    if not (inside := inside_means(study, run)):
        return []
    maps = inside_maps(study, run)
    titles, seed = condition_titles(study.design), study.config.seeds[0]
    out = ["<h2>Inside the merges</h2>"]
    shown = looked_into(study, run)
    for library in shown:
        look, parts = look_name(study, library), []
        for form, conditions in inside[look]["lens"].items():
            targets = next(iter(conditions.values()))
            heads = ["condition"]
            for name, depths in targets.items():
                heads += [f"{name}, after layer {i}" for i in range(len(depths) - 1)]
            lines = [
                f"<tr><td>{e(titles.get(condition, condition))}"
                + "".join(f"<td>{v:+.2f}" for depths in own.values() for v in depths[1:])
                for condition, own in conditions.items()
            ]
            caption = (
                f"Logit lens at the end of a {form} question: log-probability above shuffled "
                "targets, nats, mean over seeds"
            )
            parts.append(table(caption, heads, lines))
        parts += _inside_maps(maps[look], titles, look)
        seen = read_look(run, seed, library)
        parts += _inside_figures(seen, f"{look}, seed {seed}")
        out.append(folded(f"{look}: {library}", parts, library is shown[0]))
    return out


def _inside_maps(maps: dict[str, Any], titles: dict[str, str], group: str) -> list[str]:
    """The lens and the patching by depth and token; nothing where a run has no maps."""
    out = []
    for form, seen in maps["lens map"].items():
        out += figure(
            f"Logit lens by depth and token of a {form} question ({group}, mean over seeds)",
            lambda s=seen: mechanism_figures.heat_maps(_lens_columns(s, titles), s["tokens"]),
        )
        out.append(
            "<p><small>Blue: the state at this depth and token makes the target more probable than "
            "shuffled targets. A dot is a word that differs between the questions.</small></p>"
        )
    for form, donors in maps["patching"].items():
        for donor, seen in donors.items():
            out += figure(
                f"{form} question, one state replaced by that of {_donor(donor)} "
                f"({group}, mean over seeds)",
                lambda s=seen: mechanism_figures.heat_maps(_patched(s, titles), s["tokens"]),
            )
            controls = [result["controls"] for result in seen["conditions"].values()]
            identity, total = (max(c[key] for c in controls) for key in ("identity", "total"))
            out.append(
                "<p><small>Blue: the replaced state carries the donor's answer. Controls, in nats, "
                f"should be 0: a question as its own donor changes {identity:.0e}; the last state "
                f"of all differs from the donor's answer by {total:.0e}.</small></p>"
            )
    return out


def _lens_columns(seen: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    """A column for each target: its log-probability above shuffled targets."""
    conditions = seen["conditions"]
    return {
        f"{target} above shuffled, nats": {
            titles.get(condition, condition): result["targets"][target]["signal"]
            for condition, result in conditions.items()
        }
        for target in next(iter(conditions.values()))["targets"]
    }


def _patched(seen: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    """Two columns: how far the answer goes over to the donor's, in nats and in answers."""
    gained, followed = {}, {}
    for condition, result in seen["conditions"].items():
        at, follows = result["targets"]["donor's answer"], result["follows"]
        right, lent = result["targets"]["answer"]["unpatched"]["said"], at["donor"]["said"]
        name = f"{titles.get(condition, condition)} (right {right:.2f}, donor right {lent:.2f})"
        gained[name] = at["gained"]
        followed[name] = [[v - follows["unpatched"] for v in row] for row in follows["patched"]]
    return {
        "donor's right answer: nats gained": gained,
        "more answers that are the donor's, share": followed,
    }


def _donor(donor: str) -> str:
    return donor if donor == ANOTHER else f"the {donor} question of the same facts"


def _inside_figures(seen: dict[str, Any], where: str) -> list[str]:
    out, pair = [], seen["members"][:2]
    for form, conditions in seen["lens"].items():
        title = f"Logit lens at the end of a {form} question ({where})"
        out += figure(title, lambda c=conditions: mechanism_figures.lens(c))
    if seen["interference"]["pairs"]:  # experts of different layers have no pair
        out += figure(
            f"Interference of the experts' updates ({where})",
            lambda: mechanism_figures.interference(seen["interference"], pair),
        )
    out += figure(
        f"The plain sum without, and with only, the adapters of one part ({where})",
        lambda: mechanism_figures.knock_out(seen["knock out"]),
    )
    for form, gates in seen["routing"].items():
        out += figure(
            f"Arrow's gates by token, {form} ({where})",
            lambda g=gates: mechanism_figures.routing(g["layers"], g["tokens"], seen["members"]),
        )
    return out

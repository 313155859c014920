"""Targets, tables and the picture: everything that is said about measured rows, from the rows
alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.protocol import AGAIN, FROZEN, recovered

RESULTS = Path(__file__).parent / "results" / "cpu.json"
SAVED_FACTOR = 25  # Arrow's flow keeps at least so many times the bytes that ours does


def value_of(rows: Sequence[dict], group: str, case: str, arm: str, key: str) -> float | None:
    """The value of the first row that fits; a group may be given by how it begins."""
    for row in rows:
        if row["group"].startswith(group) and row["case"] == case and row["arm"] == arm:
            return row[key]
    return None


def cases(rows: Sequence[dict], group: str) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in rows if row["group"].startswith(group)))


def targets(rows: Sequence[dict]) -> list[dict]:
    """Every target that the rows say something about: its value, the bound and whether it is
    met."""
    found = []

    def add(name: str, value: float | None, must: float, at_least: bool = False) -> None:
        if value is not None:
            met = value >= must if at_least else value <= must
            found.append({"target": name, "value": round(value, 3), "must": must, "met": met})

    def over(group: str, case: str, peer: str) -> float | None:
        ratio = value_of(rows, group, case, peer, "over ours")
        return None if ratio is None else 1 / ratio

    for row in rows:
        if row.get("must") is not None:
            add(f"{row['group']}, {row['case']}: ours over frozen", row["ratio"], row["must"])
    for case in cases(rows, "one adapter"):
        full = value_of(rows, "one adapter", case, "full fine-tuning", "ratio")
        ours = value_of(rows, "one adapter", case, "ours", "ratio")
        add(f"one adapter, {case}: ours over full fine-tuning", ours / full, 1.0)
    for case in cases(rows, "gated"):
        arrow, ours = (
            value_of(rows, "gated", case, arm, "saved MiB") for arm in ("Arrow's flow", "ours")
        )
        add(
            f"gated, {case}: bytes saved, Arrow's flow over ours",
            arrow / ours,
            SAVED_FACTOR,
            at_least=True,
        )
    for case in cases(rows, "training step"):
        for peer, must in (("full fine-tuning", 0.80), ("PEFT", 0.75), ("stock", 0.5)):
            add(f"training step: ours over {peer}", over("training step", case, peer), must)
    return found


def overheads(rows: Sequence[dict]) -> dict[str, float]:
    """Overhead recovered, for each case of one adapter."""
    found = {}
    for case in cases(rows, "one adapter"):
        naive, ours = (
            value_of(rows, "one adapter", case, arm, "ratio") for arm in ("naive", "ours")
        )
        found[case] = round(
            recovered(naive, ours, value_of(rows, "one adapter", case, "ours", "floor")), 3
        )
    return found


def noise(rows: Sequence[dict]) -> float:
    """The largest distance from 1 of an arm that was run twice."""
    again = [abs(row["ratio"] - 1) for row in rows if row["arm"] == AGAIN]
    again += [abs(row["over ours"] - 1) for row in rows if row["arm"] == "ours again"]
    return round(max(again, default=0.0), 3)


def line(row: dict) -> str:
    if "ratio" in row:
        target = (
            ""
            if row["must"] is None
            else f"  must {row['must']:.2f}{'' if row['ratio'] <= row['must'] else '  MISSED'}"
        )
        return (
            f"  {row['arm']:20} {row['ms']:9.2f} ms {row['ratio']:7.3f} +-{row['spread']:.3f}  floor {row['floor']:.3f}"
            f"  saved {row['saved MiB']:7.2f} MiB{target}"
        )
    return (
        f"  {row['arm']:26} {row['ms']:9.1f} ms {row['over ours']:7.2f} of ours +-{row['spread']:.2f}"
        f" {row['tokens/s']:9} tokens/s"
    )


def title(rows: Sequence[dict]) -> str:
    row = rows[0]
    sizes = ", ".join(
        f"{axis}={row[axis]}" for axis in ("M", "k", "n", "r", "N", "K") if axis in row
    )
    return f"\n{row['group']}, {row['case']}" + (f" ({sizes}, {row['dtype']})" if sizes else "")


def summary(rows: Sequence[dict]) -> str:
    lines = [
        "",
        f"noise floor {noise(rows):.3f} (how far an arm that was run twice is from itself)",
    ]
    for case, share in overheads(rows).items():
        lines.append(
            f"one adapter, {case}: {100 * share:.0f} % of naive LoRA's avoidable overhead recovered"
        )
    for target in targets(rows):
        verdict = "met" if target["met"] else "MISSED"
        lines.append(
            f"{verdict:7} {target['target']}: {target['value']:.3f}, must be {target['must']}"
        )
    return "\n".join(lines)


def cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def markdown(results: dict) -> str:
    """The README's tables: ratios to the frozen layer, then whole steps."""
    rows = results["rows"]
    machine = results["environment"]
    lines = [
        f"Measured by `{machine['command']}` on {machine['device']}, {machine['threads']} threads, "
        f"torch {machine['torch']}; noise floor {results['noise']:.3f}. Forward plus backward over the frozen layer's:",
        "",
        "| case | width | FLOP floor | full fine-tuning | peer | ours | target |",
        "|---|---|---|---|---|---|---|",
    ]
    if not cases(rows, "one adapter"):
        lines = lines[:0]
    peers = {
        "one adapter": ("naive", "PEFT"),
        "gated": ("Arrow's flow", "loop"),
        "8 trained": ("one after the other",),
    }
    for group, names in peers.items():
        for case in cases(rows, group):
            get = {
                arm: value_of(rows, group, case, arm, "ratio")
                for arm in (*names, "full fine-tuning", "ours")
            }
            shown = ", ".join(f"{name} {get[name]:.2f}" for name in names if get[name] is not None)
            floor, must = (value_of(rows, group, case, "ours", key) for key in ("floor", "must"))
            full_name = next(row["group"] for row in rows if row["group"].startswith(group))
            lines.append(
                f"| {full_name} | {case} | {cell(floor)} | {cell(get['full fine-tuning'])} | {shown} | "
                f"**{cell(get['ours'])}** | {cell(must)} |"
            )
    whole = [row for row in rows if "over ours" in row and row["arm"] != "ours again"]
    if whole:
        lines += ["", "| whole step | arm | ms | times ours | tokens/s |", "|---|---|---|---|---|"]
        for r in whole:
            lines.append(
                f"| {r['group']}, {r['case']} | {r['arm']} | {r['ms']:.1f} | {r['over ours']:.2f} | {r['tokens/s']} |"
            )
    grown = list(dict.fromkeys(row["group"] for row in rows if row["group"].startswith("growth")))
    if grown:
        lines += ["", "| growth | value | FLOP floor | peer | ours |", "|---|---|---|---|---|"]
    for group in grown:
        for case in cases(rows, group):
            peer = next(
                a
                for a in ("naive", "Arrow's flow", "one after the other")
                if value_of(rows, group, case, a, "ratio") is not None
            )
            floor, ours = (value_of(rows, group, case, "ours", key) for key in ("floor", "ratio"))
            lines.append(
                f"| {group.removeprefix('growth with ')} | {case} | {cell(floor)} | "
                f"{peer} {cell(value_of(rows, group, case, peer, 'ratio'))} | {cell(ours)} |"
            )
    return "\n".join(lines) + "\n"


def read_results(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(
            f"{path}: no results to read; make them with python -m bench --json {path}"
        )
    return json.loads(path.read_text())


def draw(rows: Sequence[dict], path: Path) -> None:
    """Ratio to frozen for every arm and case of one adapter, the gates and the K adapters, with the
    FLOP floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = [
        g
        for g in dict.fromkeys(row["group"] for row in rows if "ratio" in row)
        if not g.startswith("growth")
    ]
    figure, axes = plt.subplots(
        1, len(groups), figsize=(5 * len(groups), 4), squeeze=False, layout="constrained"
    )
    for axis, group in zip(axes[0], groups, strict=True):
        inside = [row for row in rows if row["group"] == group]
        places = {case: i for i, case in enumerate(dict.fromkeys(row["case"] for row in inside))}
        arms = [a for a in dict.fromkeys(row["arm"] for row in inside) if a not in (FROZEN, AGAIN)]
        for i, name in enumerate(arms):
            mine = [row for row in inside if row["arm"] == name]
            x = [places[row["case"]] + 0.8 * (i + 0.5) / len(arms) - 0.4 for row in mine]
            axis.bar(
                x,
                [r["ratio"] for r in mine],
                0.75 / len(arms),
                yerr=[r["spread"] for r in mine],
                label=name,
            )
        for row in inside:
            i = places[row["case"]]
            axis.hlines(row["floor"], i - 0.45, i + 0.45, color="black", linewidth=1)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(
            title=group, xlabel="width", ylabel="time over frozen", xticks=list(places.values())
        )
        axis.set_xticklabels(places)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)

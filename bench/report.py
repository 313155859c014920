"""Targets, tables and the picture. Whatever they say about measured rows is computed from the
rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.growth import GROUPS as GROWTH
from bench.protocol import AGAIN, FROZEN, Row, recovered
from recycle.run.disk import read_json
from recycle.run.environment import commands_of

RESULTS = Path(__file__).parent / "results"
SAVED_FACTOR = 25  # Arrow's flow keeps at least so many times the bytes that ours does
WHOLE_STEP_BOUNDS = (("full fine-tuning", 0.80), ("PEFT", 0.75), ("stock", 0.5))
REAL_STEP_BOUND, FLOOR_BOUND = 0.67, 1.45  # ours over Hugging Face's step, and over its floor
BESIDE = ("over floor", "GFLOP/s", "saved MiB", "peak MiB")  # columns of some whole steps
PEERS = {  # beginning of a group: the arms that stand beside ours in its table
    "one adapter": ("naive", "PEFT"),
    "gated": ("Arrow's flow", "loop"),
    "8 trained": ("one after the other",),
    "M=": ("naive", "PEFT", "naive, compiled", "ours, compiled"),
}
GROWTH_PEERS = ("naive", "Arrow's flow", "one after the other")


def find(rows: Sequence[Row], group: str, case: str, arm: str) -> Row | None:
    """The row of one arm of one case, None where the arm was not run."""
    for row in rows:
        if (row["group"], row["case"], row["arm"]) == (group, case, arm):
            return row
    return None


def value_of(rows: Sequence[Row], group: str, case: str, arm: str, key: str) -> float | None:
    row = find(rows, group, case, arm)
    return None if row is None else row[key]


def cases(rows: Sequence[Row], beginning: str) -> list[tuple[str, str]]:
    """(group, case), each once and in order, of the groups with this beginning."""
    pairs = [(row["group"], row["case"]) for row in rows if row["group"].startswith(beginning)]
    return list(dict.fromkeys(pairs))


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """None where one of the arms was not run."""
    return None if numerator is None or denominator is None else numerator / denominator


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every target that the rows say something about: its value, its bound, and whether it is
    met."""
    judged: list[dict[str, Any]] = []

    def judge(name: str, value: float | None, must: float, at_least: bool = False) -> None:
        if value is not None:
            met = value >= must if at_least else value <= must
            judged.append({"target": name, "value": round(value, 3), "must": must, "met": met})

    for row in rows:
        if row.get("must") is not None:
            judge(f"{row['group']}, {row['case']}: ours over frozen", row["ratio"], row["must"])
    for group, case in cases(rows, "one adapter"):
        ours = value_of(rows, group, case, "ours", "ratio")
        full = value_of(rows, group, case, "full fine-tuning", "ratio")
        judge(f"{group}, {case}: ours over full fine-tuning", quotient(ours, full), 1.0)
    for group, case in cases(rows, "gated"):
        ours = value_of(rows, group, case, "ours", "saved MiB")
        arrow = value_of(rows, group, case, "Arrow's flow", "saved MiB")
        name = f"gated, {case}: bytes saved, Arrow's flow over ours"
        judge(name, quotient(arrow, ours), SAVED_FACTOR, at_least=True)
    for group, case in cases(rows, "training step"):
        for peer, must in WHOLE_STEP_BOUNDS:
            ratio = value_of(rows, group, case, peer, "over ours")
            judge(f"training step: ours over {peer}", quotient(1.0, ratio), must)
    for group, case in cases(rows, "real step"):
        ratio = value_of(rows, group, case, "HF + PEFT", "over ours")
        judge(f"{group}, {case}: ours over HF + PEFT", quotient(1.0, ratio), REAL_STEP_BOUND)
        above = value_of(rows, group, case, "ours", "over floor")
        judge(f"{group}, {case}: ours over the floor of its products", above, FLOOR_BOUND)
    return judged


def overheads(rows: Sequence[Row]) -> dict[str, float]:
    """{case of one adapter: the share of naive LoRA's avoidable overhead that ours avoids}."""
    shares = {}
    for group, case in cases(rows, "one adapter"):
        naive, ours = (find(rows, group, case, arm) for arm in ("naive", "ours"))
        if naive and ours:
            share = recovered(naive["ratio"], ours["ratio"], ours["floor"])
            name = case if group == "one adapter" else f"{group}, {case}"
            shares[name] = round(share, 3)
    return shares


def noise(rows: Sequence[Row]) -> float:
    """The largest distance from 1 of an arm that was run twice."""
    distances = [abs(row["ratio"] - 1) for row in rows if row["arm"] == AGAIN]
    distances += [abs(row["over ours"] - 1) for row in rows if row["arm"] == "ours again"]
    return round(max(distances, default=0.0), 3)


# ---- on the terminal


def line(row: Row) -> str:
    if "ratio" not in row:
        return (
            f"  {row['arm']:26} {row['ms']:9.1f} ms {row['over ours']:7.2f} of ours "
            f"+-{row['spread']:.2f}{_beside(row)}"
        )
    target = ""
    if row["must"] is not None:
        missed = "" if row["ratio"] <= row["must"] else "  MISSED"
        target = f"  must {row['must']:.2f}{missed}"
    return (
        f"  {row['arm']:20} {row['ms']:9.2f} ms {row['ratio']:7.3f} +-{row['spread']:.3f}"
        f"  floor {row['floor']:.3f}  saved {row['saved MiB']:7.2f} MiB{target}"
    )


def _beside(row: Row) -> str:
    """What a whole step may have beside its time, for the end of a line."""
    return "".join(f" {row[key]:9} {key}" for key in ("tokens/s", *BESIDE) if key in row)


def title(rows: Sequence[Row]) -> str:
    row = rows[0]
    axes = [axis for axis in ("M", "k", "n", "r", "N", "K") if axis in row]
    sizes = ", ".join(f"{axis}={row[axis]}" for axis in axes)
    return f"\n{row['group']}, {row['case']}" + (f" ({sizes}, {row['dtype']})" if sizes else "")


def summary(rows: Sequence[Row]) -> str:
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


# ---- in tables

PAGE_HEAD = """# What the layer costs: recorded results

This page is made by `python -m bench table > bench/results/README.md` from the JSON files beside
it. ../README.md says what is measured and how to read the tables.
"""


def page(folder: Path) -> str:
    """bench/results/README.md: the tables of every results file in the folder."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(
            f"{folder}: no results to read; make them with python -m bench --json FILE"
        )
    sections = []
    for file in files:
        results = read_json(file)
        sections.append(f"## {file.name}\n\n{markdown(results)}{verdicts(results['rows'])}")
    return PAGE_HEAD + "\n" + "\n".join(sections)


def markdown(results: dict[str, Any]) -> str:
    """The tables of one results file: ratios to the frozen layer, whole steps, growth."""
    rows, machine = results["rows"], results["environment"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    head = (
        f"`{', '.join(commands_of(machine))}` measured this on {machine['device']}, {threads}, "
        f"torch {machine['torch']}; the noise floor is {results['noise']:.3f}."
    )
    tables = [_layer_table(rows), _step_table(rows), _beside_table(rows), _growth_table(rows)]
    return "\n\n".join([head, *("\n".join(table) for table in tables if table)]) + "\n"


def verdicts(rows: Sequence[Row]) -> str:
    """One sentence on how many targets are met and which are missed."""
    judged = targets(rows)
    if not judged:
        return ""
    met = sum(target["met"] for target in judged)
    missed = [f"{t['target']} {t['value']:.2f} (must {t['must']})" for t in judged if not t["met"]]
    listing = f" Missed: {'; '.join(missed)}." if missed else ""
    return f"\n{met} of {len(judged)} targets are met.{listing}\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, or nothing where there are no rows."""
    if not rows:
        return []
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _layer_table(rows: Sequence[Row]) -> list[str]:
    cells = []
    for beginning, peers in PEERS.items():
        for group, case in cases(rows, beginning):
            ours = find(rows, group, case, "ours")
            assert ours is not None, f"{group}, {case} was measured without our arm"
            full = value_of(rows, group, case, "full fine-tuning", "ratio")
            ratios = {peer: value_of(rows, group, case, peer, "ratio") for peer in peers}
            beside = [f"{peer} {ratio:.2f}" for peer, ratio in ratios.items() if ratio is not None]
            cells.append(
                (
                    group,
                    case,
                    _cell(ours["floor"]),
                    _cell(full),
                    "; ".join(beside),
                    f"**{ours['ratio']:.2f}**",
                    _cell(ours["must"]),
                )
            )
    head = ("case", "width", "FLOP floor", "full fine-tuning", "peer", "ours", "target")
    return _table(head, cells)


def _step_table(rows: Sequence[Row]) -> list[str]:
    cells = [
        (
            f"{row['group']}, {row['case']}",
            row["arm"],
            f"{row['ms']:.1f}",
            f"{row['over ours']:.2f}",
            str(row.get("tokens/s", "")),
        )
        for row in rows
        if "over ours" in row and row["arm"] != "ours again"
    ]
    return _table(("whole step", "arm", "ms", "times ours", "tokens/s"), cells)


def _beside_table(rows: Sequence[Row]) -> list[str]:
    """The distance of steps from their floor, and the memory that they keep and hold."""
    cells = [
        (f"{row['group']}, {row['case']}", row["arm"], *(str(row.get(key, "")) for key in BESIDE))
        for row in rows
        if "over ours" in row and any(key in row for key in BESIDE)
    ]
    return _table(("whole step", "arm", *BESIDE), cells)


def _growth_table(rows: Sequence[Row]) -> list[str]:
    cells = []
    for ours in rows:
        group, case = ours["group"], ours["case"]
        if group not in GROWTH or ours["arm"] != "ours":
            continue
        ratios = {peer: value_of(rows, group, case, peer, "ratio") for peer in GROWTH_PEERS}
        beside = [f"{peer} {ratio:.2f}" for peer, ratio in ratios.items() if ratio is not None]
        cells.append((GROWTH[group], case, _cell(ours["floor"]), beside[0], _cell(ours["ratio"])))
    return _table(("growth", "value", "FLOP floor", "peer", "ours"), cells)


def read_results(path: Path) -> dict[str, Any]:
    """Raises ValueError where there is no such file, or none that can be read."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no results to read; make them with python -m bench --json {path}"
        )
    return read_json(path)


# ---- as a picture


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of the ratio to frozen for every arm and case, one axis for each group; black lines are
    FLOP floors."""
    from matplotlib.figure import Figure

    layer_rows = [row for row in rows if "ratio" in row and row["group"] not in GROWTH]
    groups = list(dict.fromkeys(row["group"] for row in layer_rows))
    figure = Figure(figsize=(5 * len(groups), 4), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        group_rows = [row for row in layer_rows if row["group"] == group]
        positions = {case: i for i, (_, case) in enumerate(cases(group_rows, group))}
        arms = [a for a in dict.fromkeys(r["arm"] for r in group_rows) if a not in (FROZEN, AGAIN)]
        for i, arm in enumerate(arms):
            bars = [row for row in group_rows if row["arm"] == arm]
            offset = 0.8 * (i + 0.5) / len(arms) - 0.4
            axis.bar(
                [positions[row["case"]] + offset for row in bars],
                [row["ratio"] for row in bars],
                0.75 / len(arms),
                yerr=[row["spread"] for row in bars],
                label=arm,
            )
        for row in group_rows:
            position = positions[row["case"]]
            axis.hlines(row["floor"], position - 0.45, position + 0.45, color="black", linewidth=1)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(title=group, xlabel="width", ylabel="time over frozen")
        axis.set_xticks(list(positions.values()), list(positions))
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)

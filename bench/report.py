"""What a run says: lines on the terminal, tables, and the page of all recorded results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.growth import GROUPS as GROWTH
from bench.protocol import FROZEN, FULL, Row, distance, product_speed, recovered
from bench.targets import RECOVERED, bound, cases, find, noise, overheads, speeds, targets, value_of
from recycle.run.disk import read_json
from recycle.run.environment import commands_of

RESULTS = Path(__file__).parent / "results"
# What one processor reached, a Zen 5 with AVX-512: ratios to frozen at M=2048, r=8, two threads. A
# column to compare with and no target, for such a ratio is the machine's as well.
ZEN_5 = {
    "one adapter": {"256": 1.18, "512": 1.11, "1024": 1.09},
    "gated, N=8": {"256": 1.86, "512": 1.50, "1024": 1.24},
    "8 trained together": {"256": 1.22, "512": 1.11, "1024": 1.09},
}
PEERS = {  # beginning of a group: the arms that stand beside ours in its table
    "one adapter": ("naive", "PEFT"),
    "gated": ("Arrow's flow", "loop"),
    "8 trained": ("one after the other",),
    "M=": ("naive", "PEFT", "naive, compiled", "ours, compiled"),
}
GROWTH_PEERS = ("naive", "Arrow's flow", "one after the other")
BESIDE = ("over floor", "GFLOP/s", "saved MiB", "peak MiB")  # columns of some whole steps
WAY = "way: "  # how the arms of our ways begin


# ---- on the terminal


def line(row: Row) -> str:
    if "exit" in row:
        return f"  {row['arm']:20} {row['seconds']:9.1f} s  exit {row['exit']}  {row['said']}"
    if "ratio" not in row:
        return (
            f"  {row['arm']:26} {row['ms']:9.1f} ms {row['over ours']:7.2f} of ours "
            f"+-{row['spread']:.2f}{_beside(row)}"
        )
    saved = f"  saved {row['saved MiB']:7.2f} MiB" if "saved MiB" in row else ""
    more = "".join(
        f"  {name} {row[name]}" for name in ("peak MiB", "compile s", "attach ms") if name in row
    )
    return (
        f"  {row['arm']:20} {row['ms']:9.2f} ms {row['ratio']:7.3f} +-{row['spread']:.3f}"
        f"  {distance(row):5.2f} of its floor{saved}{more}"
    )


def _beside(row: Row) -> str:
    """What a whole step may have beside its time, for the end of a line."""
    return "".join(f" {row[key]:9} {key}" for key in ("tokens/s", *BESIDE) if key in row)


def title(rows: Sequence[Row]) -> str:
    row = rows[0]
    axes = [axis for axis in ("M", "k", "n", "r", "N", "K") if axis in row]
    sizes = ", ".join(f"{axis}={row[axis]}" for axis in axes)
    head = f"\n{row['group']}, {row['case']}" + (f" ({sizes}, {row['dtype']})" if sizes else "")
    speed = [product_speed(each) for each in rows if each["arm"] == FROZEN]
    if not speed:
        return head
    floor = max(each["floor"] for each in rows)
    return f"{head}: FLOP floor {floor:.3f}, its products at {speed[0]:.0f} GF/s"


def summary(rows: Sequence[Row]) -> str:
    lines = [
        "",
        f"noise floor {noise(rows):.3f} (how far an arm that was run twice is from itself)",
    ]
    for shape, speed in speeds(rows).items():
        lines.append(f"products {shape}: {speed:.0f} GF/s")
    for case, share in overheads(rows).items():
        lines.append(
            f"one adapter, {case}: {100 * share:.0f} % of naive LoRA's avoidable overhead recovered"
        )
    for target in targets(rows):
        verdict = "met" if target["met"] else "MISSED"
        lines.append(
            f"{verdict:7} {target['target']}: {target['value']:.3f}, must be {bound(target)}"
        )
    return "\n".join(lines)


# ---- in tables

PAGE_HEAD = """# What the layer costs: recorded results

`python -m bench page` makes this page, and the pictures of growth, from the JSON files beside it.
../README.md says what is measured and how to read the tables.
"""


def read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Every results file of a folder, by its name without .json."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(
            f"{folder}: no results to read; make them with python -m bench --json FILE"
        )
    return {file.stem: read_json(file) for file in files}


def page(folder: Path) -> str:
    """bench/results/README.md: the machines, and the tables of every results file in the folder."""
    found = read_folder(folder)
    out = [PAGE_HEAD, "\n".join(_machines(found)) + "\n"]
    for name, results in found.items():
        picture = f"![{name}]({name}.svg)\n\n" if has_growth(results["rows"]) else ""
        verdict = verdicts(results["rows"])
        out.append(f"## {name}.json\n\n{picture}{markdown(results)}{verdict}")
    return "\n".join(out)


def has_growth(rows: Sequence[Row]) -> bool:
    return any(row["group"] in GROWTH for row in rows)


def machine(environment: Mapping[str, Any]) -> tuple[str, str, str]:
    """Processor or GPU, flags, threads: "not noted" where the record's version did not ask."""
    processor = environment.get("processor", "not noted")
    device = environment["device"]
    name = processor if device == "cpu" else f"{device}; {processor}"
    return name, " ".join(environment.get("flags", ["not noted"])), str(environment["threads"])


def _machines(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each record: the machine, its noise, and what of naive's overhead was avoided."""
    rows = []
    for name, results in found.items():
        environment, shares = results["environment"], overheads(results["rows"])
        own = " / ".join(f"{100 * shares[width]:.0f}" for width in RECOVERED if width in shares)
        rows.append(
            (
                f"[{name}](#{name}json)",
                *machine(environment),
                environment["torch"],
                f"{results['noise']:.3f}",
                own,
            )
        )
    head = ("record", "processor", "flags", "threads", "torch", "noise floor")
    return _table((*head, f"% recovered at {' / '.join(RECOVERED)}"), rows)


def markdown(results: dict[str, Any]) -> str:
    """The tables of one results file: ratios to the frozen layer, whole steps, growth."""
    rows, environment = results["rows"], results["environment"]
    processor, flags, threads = machine(environment)
    head = (
        f"`{', '.join(commands_of(environment))}` measured this on {processor} ({flags}), "
        f"{threads} thread{'s' if threads != '1' else ''}, torch {environment['torch']}; "
        f"the noise floor is {results['noise']:.3f}."
    )
    tables = [_layer_table(rows), _way_table(rows), _step_table(rows), _beside_table(rows)]
    tables += [_growth_table(rows), _base_table(rows), _run_table(rows)]
    return "\n\n".join([head, *("\n".join(table) for table in tables if table)]) + "\n"


def verdicts(rows: Sequence[Row]) -> str:
    """One sentence on how many targets are met and which are missed."""
    judged = targets(rows)
    if not judged:
        return ""
    met = sum(target["met"] for target in judged)
    missed = [f"{t['target']} {t['value']:.2f} ({bound(t)})" for t in judged if not t["met"]]
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
            ours, frozen = (find(rows, group, case, arm) for arm in ("ours", FROZEN))
            assert ours is not None and frozen is not None, f"{group}, {case}: no arm of ours"
            ratios = {peer: value_of(rows, group, case, peer, "ratio") for peer in peers}
            beside = [f"{peer} {ratio:.2f}" for peer, ratio in ratios.items() if ratio is not None]
            naive = ratios.get("naive")
            share = None if naive is None else recovered(naive, ours["ratio"], ours["floor"])
            cells.append(
                (
                    group,
                    case,
                    f"{product_speed(frozen):.0f}",
                    _cell(ours["floor"]),
                    _cell(value_of(rows, group, case, FULL, "ratio")),
                    "; ".join(beside),
                    f"**{ours['ratio']:.2f}**",
                    _cell(distance(ours)),
                    "" if share is None else f"{100 * share:.0f} %",
                    _cell(ZEN_5.get(group, {}).get(case)),
                )
            )
    head = ("case", "width", "products, GF/s", "FLOP floor", FULL, "peer", "ours")
    return _table((*head, "ours over its floor", "recovered", "(a Zen 5)"), cells)


def _way_table(rows: Sequence[Row]) -> list[str]:
    """Every way of our layer, where they were raced; the fastest is bold."""
    raced = [row for row in rows if row["arm"].startswith(WAY)]
    ways = list(dict.fromkeys(row["arm"] for row in raced))
    cells = []
    for group, case in cases(raced, ""):
        ratios = [value_of(raced, group, case, way, "ratio") for way in ways]
        best = min(ratio for ratio in ratios if ratio is not None)
        shown = [f"**{_cell(ratio)}**" if ratio == best else _cell(ratio) for ratio in ratios]
        cells.append((f"{group}, {case}", *shown))
    return _table(("ways, over frozen", *(way[len(WAY) :] for way in ways)), cells)


def _base_table(rows: Sequence[Row]) -> list[str]:
    cells = [
        (row["case"], *(f"{row[name]:.1f}" for name in ("attach ms", "extract ms", "detach ms")))
        for row in rows
        if "attach ms" in row
    ]
    return _table(("millions of weights", "attach, ms", "extract, ms", "detach, ms"), cells)


def _run_table(rows: Sequence[Row]) -> list[str]:
    cells = [
        (f"{row['group']}, {row['case']}", f"{row['seconds']:.0f}", str(row["exit"]), row["said"])
        for row in rows
        if "exit" in row
    ]
    return _table(("whole command", "s", "exit", "its last line"), cells)


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
        measured = (beside[0], _cell(ours["ratio"]), _cell(distance(ours)))
        cells.append((GROWTH[group], case, _cell(ours["floor"]), *measured))
    return _table(("growth", "value", "FLOP floor", "peer", "ours", "ours over its floor"), cells)


def read_results(path: Path) -> dict[str, Any]:
    """Raises ValueError where there is no such file, or none that can be read."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no results to read; make them with python -m bench --json {path}"
        )
    return read_json(path)

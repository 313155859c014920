"""An audit as a page and as a short text, drawn from its report alone (recycle/audit/run.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recycle.show.markup import e, folded, printable, table
from recycle.show.style import SCRIPT, STYLE

_WORDS = {"What each adapter loses": "losses", "Which adapters conflict": "conflicts"}
_REFERENCES = ("base", "alone")  # rows that no method makes
_SOURCES = {"written": "Texts that each adapter writes by itself", "probed": "The probes"}


def audit_page(report: Mapping[str, Any]) -> str:
    """The whole page as HTML that needs nothing from outside."""
    names = [each["adapter"] for each in report["adapters"]]
    parts = [
        f"<h1>Audit: {e(' + '.join(names))}</h1>",
        f"<div class=lead><p><b>{e(report['advice']['text'])}</b></p></div>",
        f"<p><small>{e(report['scope'])} Base {e(report['base_name'])}, seed {report['seed']}. "
        "Shares with 95 % intervals in brackets; the best of several methods was chosen on the "
        f"same texts, so expect a little less of it elsewhere.{_openings(report)}</small></p>",
        *_in_words(report),
        *_retention(report, names),
        *_certificates(report),
        *_composition(report),
        *_soundness(report),
        *_geometry(report),
    ]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Audit</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en>{head}\n{body}\n<script>{SCRIPT}</script></html>\n"


def _in_words(report: Mapping[str, Any]) -> list[str]:
    """What each adapter loses, and who conflicts with whom."""
    out: list[str] = []
    for title, key in _WORDS.items():
        if lines := report[key]:
            out += [f"<h2>{title}</h2><ul>", *(f"<li>{e(line)}" for line in lines), "</ul>"]
    return out


def _openings(report: Mapping[str, Any]) -> str:
    read = [name for name, kind in report["openings"].items() if kind == "read"]
    if not read:
        return ""
    return (
        f" The texts of {e(', '.join(read))} begin with prompts that they are known to have read."
    )


def audit_text(report: Mapping[str, Any]) -> str:
    """A few lines for the terminal; the last one is the advice."""
    lines = []
    sizes = {each["adapter"]: each["relative"] for each in report["geometry"]["adapters"]}
    for each in report["soundness"]:
        ranks = ", ".join(map(str, each["ranks"]))
        size = "" if sizes[each["adapter"]] is None else f", {sizes[each['adapter']]:.2g} of ||W||"
        notes = "; ".join(each["notes"]) or "sound"
        lines.append(f"{each['adapter']}: {each['layers']} layers, rank {ranks}{size}: {notes}")
    for pair in report["geometry"]["pairs"]:
        lines.append(f"{' and '.join(pair['pair'])}: {_overlap(pair)}")
    names = [each["adapter"] for each in report["adapters"]]
    if report["retention"]:
        probed = any(row["recall"] for row in report["retention"])
        foretold = any(row["predicted"] for row in report["retention"])
        what = "kept of its own texts" + (", recall of its probes" if probed else "")
        what += ", (recall predicted)" * foretold
        lines.append(f"\neach adapter after the merge: {what}")
        width = max(len(row["method"]) for row in report["retention"])
        for method in _order(report):
            cells = []
            for row in _of(report, method, names):
                kept = _short(row["written"]["kept"])
                recall = f", {_short(row['recall'])}" * probed
                predicted = f", ({_short(row['predicted'])})" * foretold
                cells.append(f"{row['adapter']} {kept}{recall}{predicted}")
            lines.append(f"  {method:{width}}  {';  '.join(cells)}")
        for each in report["methods"]:
            if each["refused"]:
                lines.append(f"  {each['method']:{width}}  not measured: {each['refused']}")
    missed = [probe for probe in report["probes"] if not probe["answered alone"]]
    if missed:
        lines.append(
            f"\n{len(missed)} of {len(report['probes'])} probes are not answered by their "
            "own adapter alone, and count for no merge:"
        )
        lines += [f"  {probe['where']}: {probe['prompt'][:80]}" for probe in missed[:5]]
    lines += _certified_lines(report)
    for row in report["composition"]:
        lines.append(f"{row['method']} {row['says']}: composed {_short(row['composed'])}")
    for title, key in _WORDS.items():
        if report[key]:
            lines += ["", f"{title.lower()}:", *(f"  {line}" for line in report[key])]
    return printable("\n".join([*lines, "", report["scope"], "", report["advice"]["text"]]))


def _certified_lines(report: Mapping[str, Any]) -> list[str]:
    """How many probes of each adapter are certified to survive each weighted merge."""
    found = report["certificates"]
    if found is None:
        return []
    if not found["rows"]:
        return [f"\n{found['says']}"]
    lines = [f"\nprobes certified to survive a merge, before it is run: {found['says']}"]
    rows = found["rows"]
    width = max(len(row["method"]) for row in rows)
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            f"{row['adapter']} {row['certified']} of the {row['seen']} that do, {row['facts']} in "
            f"all" + f", {row['lost']} lost" * bool(row["lost"])
            for row in rows
            if row["method"] == method
        ]
        lines.append(f"  {method:{width}}  {';  '.join(cells)}")
    return lines


def _order(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in report["retention"]))


def _of(report: Mapping[str, Any], method: str, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = {row["adapter"]: row for row in report["retention"] if row["method"] == method}
    return [rows[name] for name in names]


def _short(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "-"
    if share["low"] is None:
        return f"{share['mean']:.2f}"
    return f"{share['mean']:.2f} [{share['low']:.2f}, {share['high']:.2f}]"


def _cell(share: Mapping[str, Any] | None, shaded: bool = True) -> str:
    """A number with its interval; a share on a ground the darker the higher it is."""
    if share is None:
        return "<td>-"
    depth = min(1.0, max(0.0, share["mean"]))
    ground = f" style='background: rgba(42, 111, 151, {0.45 * depth:.2f})'" if shaded else ""
    limits = "" if share["low"] is None else f"{share['low']:.2f} to {share['high']:.2f}"
    return f"<td{ground}>{share['mean']:.2f} <small>{limits}</small>"


# Retention ---------------------------------------------------------------------------------------


def _retention(report: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    if not report["retention"]:
        return ["<h2>Retention</h2><p>One adapter: nothing was merged.</p>"]
    out = ["<h2>What each adapter keeps</h2>", _kept_table(report, names)]
    out.append(
        "<p><small>Kept: of the tokens that the adapter changes (the base alone would write "
        "another), the share that is still written after the merge. It is 1 for the adapter alone "
        "and 0 for the base. Recall: the share of the adapter's probes that are answered.</small>"
    )
    for source, title in _SOURCES.items():
        if any(row[source]["texts"] for row in report["retention"]):
            out.append(folded(title, [_measures(report, names, source)]))
    refused = [each for each in report["methods"] if each["refused"]]
    if refused:
        lines = [f"<tr><td>{e(r['method'])}<td class=text>{e(r['refused'])}" for r in refused]
        out.append(table("Methods that cannot put these together", ["method", "why"], lines))
    if missed := [probe for probe in report["probes"] if not probe["answered alone"]]:
        lines = [
            f"<tr class=bad><td>{e(p['where'])}<td class=text>{e(p['adapter'])}"
            f"<td class=text>{e(p['prompt'])}<td class=text>{e(p['answer'])}"
            f"<td class=text>{e(p['said alone'])}"
            for p in missed
        ]
        heads = ["line", "adapter", "prompt", "answer", "the adapter alone says"]
        caption = "Probes that their adapter alone does not answer: no merge is blamed for them"
        out.append(table(caption, heads, lines))
    return out


def _kept_table(report: Mapping[str, Any], names: Sequence[str]) -> str:
    probed = {name for name in names if any(p["adapter"] == name for p in report["probes"])}
    foretold = any(row["predicted"] for row in report["retention"])
    heads = ["method"]
    for name in names:
        heads += [f"{name}: kept of its own texts"] + [f"{name}: recall"] * (name in probed)
        heads += [f"{name}: recall predicted"] * foretold
    lines = []
    for method in _order(report):
        cells = []
        for row in _of(report, method, names):
            cells.append(_cell(row["written"]["kept"]))
            if row["adapter"] in probed:
                cells.append(_cell(row["recall"]))
            if foretold:
                cells.append(_cell(row["predicted"]))
        title = f"<i>{e(method)}</i>" if method in _REFERENCES else e(method)
        if method == report["advice"]["method"]:
            title = f"<b class=good>{title}</b>"
        lines.append(f"<tr><td>{title}{''.join(cells)}</tr>\n")
    return table("", heads, lines)


def _measures(report: Mapping[str, Any], names: Sequence[str], source: str) -> str:
    heads = [
        "method",
        "adapter",
        "kept",
        "tokens alike",
        "continuations alike",
        "KL (nats a token)",
    ]
    heads += ["margin left", "texts", "tokens", "changed"]
    lines = []
    for method in _order(report):
        for row in _of(report, method, names):
            own = row[source]
            if own["texts"]:
                lines.append(
                    f"<tr><td>{e(method)}<td class=text>{e(row['adapter'])}"
                    f"{_cell(own['kept'])}{_cell(own['agreement'])}{_cell(own['same'])}"
                    f"{_cell(own['kl'], False)}{_cell(own['margin left'], False)}"
                    f"<td>{own['texts']}<td>{own['tokens']}<td>{own['changed']}</tr>\n"
                )
    return table("", heads, lines)


# Certificates, composition, soundness, geometry --------------------------------------------------


def _certificates(report: Mapping[str, Any]) -> list[str]:
    found = report["certificates"]
    if found is None:
        return []
    heads = ["method", "weight", "adapter", "certified", "certified, lost", "survive", "probes"]
    heads += ["remainder of the lead", "chance that a probe is certified and lost"]
    lines = [
        f"<tr><td>{e(row['method'])}<td>{row['weight']:.3g}<td class=text>{e(row['adapter'])}"
        f"<td>{row['certified']}<td>{row['lost']}<td>{row['seen']}<td>{row['facts']}"
        f"<td>{', '.join(f'{each:.2g}' for each in row['remainders']) or '-'}"
        f"<td>{'0' if row['chance'] is None else '&le; ' + format(row['chance'], '.2g')}</tr>\n"
        for row in found["rows"]
    ]
    words = found["says"][:1].upper() + found["says"][1:]
    out = ["<h2>Certificates</h2>", f"<p>{e(words)}.</p>"]
    caption = "Probes that their adapter answers alone, under each weighted merge"
    return [*out, table(caption, heads, lines)] if lines else out


def _composition(report: Mapping[str, Any]) -> list[str]:
    if not report["composition"]:
        return []
    adapters = list(report["composition"][0]["parts"])
    heads = ["method", "says", "question", *(f"parts of {name}" for name in adapters)]
    heads += ["all parts", "all parts, of those right before", "question, parts right in both", "n"]
    lines = []
    for row in report["composition"]:
        colour = "good" if row["says"] == "composes" else "open"
        gate = row["composed"]
        lines.append(
            f"<tr><td>{e(row['method'])}<td class='text {colour}'>{e(row['says'])}"
            f"{_cell(row['direct'])}{''.join(_cell(row['parts'][name]) for name in adapters)}"
            f"{_cell(row['all parts'])}{_cell(row['kept'])}{_cell(gate)}"
            f"<td>{gate['n'] if gate else 0}</tr>\n"
        )
    before = [f"<tr><td>{e(b['asked'])}{_cell(b['right'])}" for b in report["before"]]
    return [
        "<h2>Composition</h2>",
        table("Questions that need several adapters, and the parts under each", heads, lines),
        table("Before any merge", ["asked", "right"], before),
    ]


def _soundness(report: Mapping[str, Any]) -> list[str]:
    heads = ["adapter", "notes", "layers", "ranks", "scale s", "rslora", "base by name"]
    lines, errors = [], []
    for row in report["soundness"]:
        notes = "; ".join(row["notes"])
        scales = row["scales"]
        scale = f"{scales[0]:.3g}" + (f" to {scales[-1]:.3g}" if len(scales) > 1 else "")
        lines.append(
            f"<tr><td>{e(row['adapter'])}<td class='text {'open' if notes else 'good'}'>"
            f"{e(notes or 'sound')}<td>{row['layers']}<td>{', '.join(map(str, row['ranks']))}"
            f"<td>{scale}<td>{'yes' if row['rslora'] else 'no'}"
            f"<td class=text>{e(row['base by name'] or '-')}</tr>\n"
        )
        for merge, error in row["identity"].items():
            shown = f"<td>{error:.1e}" if isinstance(error, float) else f"<td class=text>{e(error)}"
            errors.append(f"<tr><td>{e(row['adapter'])}<td class=text>{e(merge)}{shown}</tr>\n")
    caption = (
        "||merge of the adapter alone - dW|| / ||dW||; a merge that trims cuts by its own rule"
    )
    return [
        "<h2>Soundness</h2>",
        table("", heads, lines),
        folded("One adapter merged alone", [table(caption, ["adapter", "merge", "error"], errors)]),
    ]


def _geometry(report: Mapping[str, Any]) -> list[str]:
    out, shape = ["<h2>Geometry</h2>"], report["geometry"]
    lines = [
        f"<tr><td>{e(row['adapter'])}<td>{row['norm']:.3g}<td>{_number(row['relative'])}"
        f"<td class=text>{e(row['largest'])}"
        for row in shape["adapters"]
    ]
    heads = ["adapter", "||dW||", "||dW|| / ||W||", "largest at"]
    out.append(table("Size over all its layers, in Frobenius norm", heads, lines))
    if shape["pairs"]:
        heads = ["pair", "layers", "cosine", "inputs", "outputs", "closest layer", "cosine there"]
        lines = [
            f"<tr><td>{e(' and '.join(p['pair']))}<td>{p['layers']}<td>{_number(p.get('cosine'))}"
            f"<td>{_number(p.get('input overlap'))}<td>{_number(p.get('output overlap'))}"
            f"<td class=text>{e(p['closest layer'] or '-')}<td>{_number(p['closest cosine'])}"
            for p in shape["pairs"]
        ]
        caption = "Overlaps of two updates beyond chance, means over layers (1: the same space)"
        out.append(table(caption, heads, lines))
    lines = [
        f"<tr><td>{e(row['adapter'])}<td class=text>{e(layer['path'])}<td>{layer['rank']}"
        f"<td>{layer['scale']:.3g}<td>{layer['norm']:.3g}<td>{_number(layer['relative'])}"
        for row in shape["adapters"]
        for layer in row["layers"]
    ]
    heads = ["adapter", "layer", "rank", "scale s", "||dW||", "||dW|| / ||W||"]
    return [*out, folded("Layer by layer", [table("", heads, lines)])]


def _overlap(pair: Mapping[str, Any]) -> str:
    if not pair["layers"]:
        return "they share no layer"
    return (
        f"cosine {pair['cosine']:+.2f}, beyond chance {pair['input overlap']:+.2f} of their inputs "
        f"and {pair['output overlap']:+.2f} of their outputs overlap, over {pair['layers']} layers"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

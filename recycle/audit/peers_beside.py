"""How what other tools say of pairs goes with what became of these, beside the prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recycle.audit.correlation import rho
from recycle.audit.predictors import Table, grouped, predicted
from recycle.audit.rows import Row

PAIRS = 8  # of a task, for a correlation within it


def peers_beside(rows: Sequence[Row], said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How each peer's score goes with what its pairs keep: the mean recall over both adapters and
    all methods, and each strategy's counts; beside the prediction's mean for the same pairs."""
    toy = [row for row in rows if not row.checkpoint and (row.read or row.own)]
    table = Table.of(toy, [row.read or row.own or {} for row in toy])
    p = predicted(table, table.y, grouped(table.library.tolist()), "prediction")
    pairs = sorted({row.library for row in toy} & set(said["pairs"]))
    of = {pair: [i for i, row in enumerate(toy) if row.library == pair] for pair in pairs}
    kept = np.array([table.y[of[pair]].mean() for pair in pairs])
    found = []
    for peer in said["versions"]:
        answers = [said["pairs"][pair].get(peer, {}) for pair in pairs]
        there = [i for i, answer in enumerate(answers) if answer.get("score") is not None]
        if peer not in ("gradience", "mergelens") or not there:
            continue
        scores = np.array([answers[i]["score"] for i in there])
        ours = np.array([p[of[pairs[i]]].mean() for i in there])
        each = np.arange(len(there))
        tasks = [toy[of[pairs[i]][0]].task for i in there]
        found.append(
            {
                "peer": peer,
                "version": said["versions"][peer],
                "pairs": len(pairs),
                "scored": len(there),
                "refused": next((a["refused"] for a in answers if "refused" in a), None),
                "verdicts": dict(Counter(str(answers[i]["verdict"]) for i in there)),
                "strategies": dict(Counter(str(answers[i]["strategy"]) for i in there)),
                "rho": rho(scores, kept[there], each),
                "ours": rho(ours, kept[there], each),
                "within": [
                    {
                        "task": task,
                        "pairs": int(own.sum()),
                        "rho": rho(scores[own], kept[there][own], each[own]),
                        "ours": rho(ours[own], kept[there][own], each[own]),
                    }
                    for task in dict.fromkeys(tasks)
                    if (own := np.array([task == other for other in tasks])).sum() >= PAIRS
                ],
            }
        )
    return found

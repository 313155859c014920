"""Questions that need several adapters: do they compose, or are only their parts kept?

A question is right or wrong, and so are its parts, each of them about one adapter. Before the merge
each part is asked of its adapter alone, and the question of the base and of every adapter alone.
After the merge the merge is asked everything. The double gate counts the questions whose parts are
all right in both (recycle/decide/items.py); none of the others can show composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora import Mode
from models import Model, Vocabulary
from recycle.audit.inputs import Composed
from recycle.audit.retention import answers, is_right
from recycle.decide.items import double_gate
from recycle.decide.metrics import Row, itemised
from recycle.decide.statistics import Estimate, estimate
from recycle.plan import Key

KEPT = 0.9  # of the parts, or of an adapter, where a merge is said to keep them
ABOVE = 0.05  # by which a composition is above the best answer without the merge
OUTCOMES = ("right", "wrong")


def _right(
    model: Model, tokenizer: Vocabulary, asked: Sequence[tuple[str, str]], mode: Mode
) -> list[bool]:
    said = answers(model, tokenizer, asked, mode)
    return [is_right(s, answer) for s, (_, answer) in zip(said, asked, strict=True)]


def _directly(
    model: Model, tokenizer: Vocabulary, questions: Sequence[Composed], mode: Mode
) -> list[bool]:
    return _right(model, tokenizer, [(q.prompt, q.answer) for q in questions], mode)


def _parts(
    model: Model, tokenizer: Vocabulary, questions: Sequence[Composed], modes: Mapping[str, Mode]
) -> list[list[bool]]:
    """Which parts of each question are right, each asked in its adapter's mode of ``modes``."""
    right: list[list[bool]] = [[False] * len(question.parts) for question in questions]
    for name, mode in modes.items():
        places = [
            (i, j)
            for i, question in enumerate(questions)
            for j, part in enumerate(question.parts)
            if part.adapter == name
        ]
        asked = [(questions[i].parts[j].prompt, questions[i].parts[j].answer) for i, j in places]
        found = _right(model, tokenizer, asked, mode)
        for (i, j), is_so in zip(places, found, strict=True):
            right[i][j] = is_so
    return right


def before(
    model: Model, tokenizer: Vocabulary, questions: Sequence[Composed], alone: Mapping[str, Mode]
) -> dict[str, Any]:
    """{"base", and each adapter's name: which questions are right, "parts": which questions have
    all their parts right}, without any merge."""
    single: dict[str, Mode] = {"base": None, **alone}
    return {
        "direct": {name: _directly(model, tokenizer, questions, m) for name, m in single.items()},
        "parts": [all(own) for own in _parts(model, tokenizer, questions, alone)],
    }


def after(
    model: Model,
    tokenizer: Vocabulary,
    questions: Sequence[Composed],
    mode: Mode,
    names: Sequence[str],
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """The decomposed scores of one method: the share right of the questions (``direct``), of each
    adapter's parts, and of all parts together; the double gate; and what that says."""
    direct = _directly(model, tokenizer, questions, mode)
    each = _parts(model, tokenizer, questions, dict.fromkeys(names, mode))
    whole = [all(own) for own in each]
    passing = [i for i, so in enumerate(earlier["parts"]) if so]
    kept = _share([whole[i] for i in passing])
    gate = double_gate(
        [_row("direct", direct), _row("parts", whole)],
        "direct",
        ("parts",),
        also=[[_row("parts alone", earlier["parts"])]],
    )
    both = [i for i in passing if whole[i]]
    best = max(_mean([own[i] for i in both]) for own in earlier["direct"].values())
    of_adapter = {
        name: _share(
            [
                right
                for question, own in zip(questions, each, strict=True)
                for part, right in zip(question.parts, own, strict=True)
                if part.adapter == name
            ]
        )
        for name in names
    }
    return {
        "direct": _json(_share(direct)),
        "parts": {name: _json(share) for name, share in of_adapter.items()},
        "all parts": _json(_share(whole)),
        "kept": _json(kept),
        "composed": _json(gate),
        "best single": best,
        "says": verdict(kept, gate, best),
    }


def verdict(kept: Estimate | None, gate: Estimate | None, best: float) -> str:
    """What the scores say. A merge composes where the double gate's lower limit is above the best
    answer without the merge, of the base or one adapter, on the same questions."""
    if kept is None:
        return "cannot be asked: no question has all its parts right before the merge"
    if kept.mean < KEPT or gate is None:
        return "does not keep the parts"
    if gate.low > best + ABOVE:
        return "composes"
    return "keeps the parts and does not compose"


def _row(form: str, right: Sequence[bool]) -> Row:
    outcomes = [OUTCOMES[not so] for so in right]
    counts = {name: outcomes.count(name) for name in OUTCOMES}
    key = Key(0, "audit", "composed", "audit", "audit")
    return Row(key, form, len(right), counts, items=itemised(outcomes, OUTCOMES))


def _share(right: Sequence[bool]) -> Estimate | None:
    return estimate([_row("any", right)]) if right else None


def _mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0


def _json(share: Estimate | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {"mean": share.mean, "low": share.low, "high": share.high, "n": share.n}

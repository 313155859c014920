"""The whole audit as one function: from adapters on a base to a report that is plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

from lora import Adapter, Mode, base_hash
from models import Model, Vocabulary
from recycle.audit.advice import advise, scope
from recycle.audit.candidates import acting
from recycle.audit.composition import after, before
from recycle.audit.geometry import geometry
from recycle.audit.inputs import Composed, Probe
from recycle.audit.losses import conflicts, losses
from recycle.audit.predict import predict
from recycle.audit.retention import (
    Reference,
    answers,
    compared,
    is_right,
    probed,
    ratio,
    summary,
    written,
)
from recycle.audit.soundness import soundness
from recycle.audit.survival import facts_of
from recycle.audit.survival import report as certificates
from recycle.reuse.method import Method
from recycle.reuse.methods import PLAIN_SUM, weight_of
from recycle.run import progress


def audit(
    model: Model,
    tokenizer: Vocabulary,
    adapters: Mapping[str, Adapter],
    folders: Mapping[str, Path],
    methods: Sequence[Method],
    probes: Sequence[Probe] = (),
    composed: Sequence[Composed] = (),
    seed: int = 0,
    known: Mapping[str, Sequence[str]] | None = None,
    toy: bool = False,
) -> dict[str, Any]:
    """Soundness and geometry of each adapter; for several the retention under every method, the
    recall of the probes, certificates of what survives weighted merges, and the composition; and
    the advice. ``known`` are prompts that an adapter, by name, is known to have read; those of
    probes are not read again. ``toy``: the base was pretrained by a study here, which matters for
    what can be predicted.

    The adapters must fit the base (`soundness.check_one_base`). A method that cannot put them
    together is a row that says why."""
    asked_too = {probe.prompt for probe in probes}
    known = {name: [p for p in own if p not in asked_too] for name, own in (known or {}).items()}
    progress.current().say("soundness")
    report: dict[str, Any] = {
        "adapters": [{"adapter": name, "folder": str(folders[name])} for name in adapters],
        "base": base_hash(model),
        "seed": seed,
        "openings": {name: "read" if known.get(name) else "written" for name in adapters},
        "soundness": soundness(adapters, folders, methods, seed),
    }
    progress.current().advance(1)
    progress.current().say("geometry")
    report["geometry"] = geometry(model, adapters)
    progress.current().advance(1)
    asked = _Asked(model, tokenizer, adapters, probes, composed, seed, known)
    report |= asked.under(methods) if len(adapters) > 1 else _NOTHING_ASKED
    predict(report, toy)
    report |= {"scope": scope(report), "advice": advise(report)}
    return {**report, "losses": losses(report), "conflicts": conflicts(report)}


_NOTHING_ASKED: dict[str, Any] = {"certificates": None} | {
    key: [] for key in ("methods", "retention", "pairs", "probes", "composition", "before")
}


class _Asked:
    """What is asked of every method, and what the adapters alone say to it."""

    def __init__(
        self,
        model: Model,
        tokenizer: Vocabulary,
        adapters: Mapping[str, Adapter],
        probes: Sequence[Probe],
        composed: Sequence[Composed],
        seed: int,
        known: Mapping[str, Sequence[str]],
    ):
        self.model, self.tokenizer, self.adapters = model, tokenizer, adapters
        self.probes, self.composed, self.seed, self.known = probes, composed, seed, known
        self.texts: list[Reference] = []
        self.of_probes: list[Reference] = []
        self.answered: list[bool] = []  # probes that their adapter answers alone

    def under(self, methods: Sequence[Method]) -> dict[str, Any]:
        """The rows of the base, of the adapters alone, and of every method."""
        with acting(self.model, self.adapters) as (_, alone):
            progress.current().say("the adapters' own texts")
            self.texts = written(self.model, self.tokenizer, alone, self.seed, self.known)
            self.of_probes, said = probed(self.model, self.tokenizer, self.probes, alone)
            self.answered = [
                is_right(s, probe.answer) for s, probe in zip(said, self.probes, strict=True)
            ]
            earlier = before(self.model, self.tokenizer, self.composed, alone)
            rows = self._rows("base", dict.fromkeys(alone, None), alone)
            rows += self._rows("alone", alone, alone)
            progress.current().advance(1)
        listed, composition = [], []
        for method in methods:
            progress.current().say(method.name)
            refused = None
            with ExitStack() as stack:
                try:
                    put = acting(self.model, self.adapters, method, self.seed)
                    mode, alone = stack.enter_context(put)
                except ValueError as error:
                    refused = str(error)
                else:
                    rows += self._rows(method.name, dict.fromkeys(alone, mode), alone)
                    if self.composed:
                        scores = after(
                            self.model, self.tokenizer, self.composed, mode, list(alone), earlier
                        )
                        composition.append({"method": method.name, **scores})
            listed.append(
                {
                    "method": method.name,
                    "family": method.family,
                    "formula": method.formula,
                    "weight": weight_of(method, len(self.adapters)),
                    "refused": refused,
                }
            )
            progress.current().advance(1)
        return {
            "methods": listed,
            "retention": rows,
            "pairs": self._pairs(),
            "probes": [
                {
                    "adapter": probe.adapter,
                    "prompt": probe.prompt,
                    "answer": probe.answer,
                    "where": probe.where,
                    "said alone": s,
                    "answered alone": right,
                }
                for probe, s, right in zip(self.probes, said, self.answered, strict=True)
            ],
            "composition": composition,
            "before": _shares(earlier) if self.composed else [],
            "certificates": self._certificates(listed),
        }

    def _pairs(self) -> list[dict[str, Any]]:
        """What each of two adapters keeps where these two alone are summed at full weight: who
        conflicts with whom. Of two adapters in all, the plain sum says so already."""
        found = []
        for pair in combinations(self.adapters, 2) if len(self.adapters) > 2 else ():
            progress.current().say(" + ".join(pair))
            both = {name: self.adapters[name] for name in pair}
            try:
                with acting(self.model, both, PLAIN_SUM, self.seed) as (mode, alone):
                    rows = self._rows(PLAIN_SUM.name, dict.fromkeys(alone, mode), alone)
            except ValueError:  # the two cannot be put together, as the sum of all says too
                continue
            found.append({"pair": list(pair), "rows": rows})
        return found

    def _certificates(self, methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Of the probes that their adapter answers alone, those that survive weighted merges."""
        progress.current().say("certificates")
        facts = facts_of(self.tokenizer, self.probes, self.of_probes, self.answered)
        weights = {
            each["method"]: each["weight"]
            for each in methods
            if each["weight"] is not None and not each["refused"]
        }
        return certificates(self.model, self.tokenizer, self.adapters, facts, weights)

    def _rows(
        self, method: str, modes: Mapping[str, Mode], alone: Mapping[str, Mode]
    ) -> list[dict[str, Any]]:
        """One row an adapter: how its mode of ``modes`` reads its texts and answers its probes."""
        rows = []
        for name, mode in modes.items():
            texts = [each for each in self.texts if each.adapter == name]
            own = [i for i, probe in enumerate(self.probes) if probe.adapter == name]
            of_probes = [self.of_probes[i] for i in own]
            asked = [(self.probes[i].prompt, self.probes[i].answer) for i in own]
            said = answers(self.model, self.tokenizer, asked, mode)
            right = [int(is_right(s, answer)) for s, (_, answer) in zip(said, asked, strict=True)]
            known = [int(self.answered[i]) for i in own]
            both = [r * k for r, k in zip(right, known, strict=True)]
            compare = (self.model, self.tokenizer)
            rows.append(
                {
                    "method": method,
                    "adapter": name,
                    "written": summary(compared(*compare, texts, mode, alone)),
                    "probed": summary(compared(*compare, of_probes, mode, alone)),
                    "recall": ratio(right, [1] * len(right), share=True),
                    "recall kept": ratio(both, known, share=True),
                }
            )
        return rows


def _shares(earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the base and each adapter alone answer of the composed questions, and of their parts."""
    found = {**earlier["direct"], "the parts, each adapter its own": earlier["parts"]}
    return [
        {"asked": name, "right": ratio([int(so) for so in right], [1] * len(right), share=True)}
        for name, right in found.items()
    ]

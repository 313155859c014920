"""How many of each adapter's facts survive a weighted merge for certain (certificate.py).

A fact is a probe that its adapter answers alone: the tokens that it writes until the answer is
whole. Greedy decoding writes them again after a merge if each leads there after the ones before.
Where every adapter acts on the last block's down_proj alone, its factors and the base say enough;
logits are taken times the divisor of the final norm, a positive number that no argmax sees.
Elsewhere a remainder is measured on half of the facts for the other half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, Mix, Mode, attach, detach, using
from models import Model, Vocabulary, device_of, pad_right, rows_at_once
from recycle.audit.certificate import Factors, added_up, certified, certified_beyond
from recycle.audit.inputs import Probe
from recycle.audit.retention import Reference, margins

FEWEST = 4  # facts of an adapter, below which no remainder is measured
WHOLE = 4  # a product of matrices rounds by some units in the last place of its largest entry
EXACT, MEASURED = "exact", "measured"
SAYS = {
    EXACT: (
        "all adapters act on the last block's down_proj alone: a certified fact is never lost, "
        "whatever the signs of the other weights"
    ),
    MEASURED: (
        "adapters below the last down_proj act on one another: what they do was measured on half "
        "of the facts for the other half"
    ),
}


@dataclass(frozen=True)
class Fact:
    """An opening that begins with a boundary, and the tokens by which its adapter answers."""

    adapter: str
    opening: Sequence[int]
    tokens: Sequence[int]


def decisive(tokenizer: Vocabulary, tokens: Sequence[int], answer: str) -> list[int]:
    """The first tokens of a text that begins with the answer, up to where the answer is whole."""
    length = len(answer.strip())
    for stop in range(1, len(tokens)):
        if len(tokenizer.decode(tokens[:stop]).strip()) > length:
            return [*tokens[:stop]]
    return [*tokens]


def facts_of(
    tokenizer: Vocabulary,
    probes: Sequence[Probe],
    references: Sequence[Reference],
    right: Sequence[bool],
) -> list[Fact]:
    """The probes that their adapter answers rightly alone, by what it writes."""
    return [
        Fact(probe.adapter, own.opening, decisive(tokenizer, own.tokens, probe.answer))
        for probe, own, so in zip(probes, references, right, strict=True)
        if so
    ]


def last_down_proj(model: Model) -> str:
    """The path of the last block's down_proj."""
    last = model.layers[-1].get_submodule("mlp.down_proj")
    return next(path for path, module in model.named_modules() if module is last)


def is_exact(model: Model, adapters: Mapping[str, Adapter]) -> bool:
    """Whether adapters only add up: all of them act on the last block's down_proj alone."""
    return all(adapter.paths == (last_down_proj(model),) for adapter in adapters.values())


@dataclass(frozen=True)
class Survival:
    """Of an adapter's facts those that survive a sum, and those that were certified to."""

    adapter: str
    facts: int
    seen: int
    certified: int
    lost: int  # certified, and not seen
    remainders: Sequence[float]  # of either half; none where none was needed
    chance: float | None  # that a fact is certified and lost, at most; None where none can be

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "remainders": list(self.remainders)}


def survival(
    model: Model,
    tokenizer: Vocabulary,
    adapters: Mapping[str, Adapter],
    facts: Sequence[Fact],
    weight: float,
) -> list[Survival]:
    """What survives the sum of the adapters, each at this weight; an adapter with too few facts is
    left out. The adapters are attached, and taken off again."""
    (found,) = survivals(model, tokenizer, adapters, facts, [weight])
    return found


def survivals(
    model: Model,
    tokenizer: Vocabulary,
    adapters: Mapping[str, Adapter],
    facts: Sequence[Fact],
    weights: Sequence[float],
) -> list[list[Survival]]:
    """`survival` at each weight. What the base says of an adapter's facts is read once."""
    exact = is_exact(model, adapters)
    names = {name: f"certified{i}" for i, name in enumerate(adapters)}
    found: list[list[Survival]] = [[] for _ in weights]
    attach(model, {names[name]: adapter for name, adapter in adapters.items()})
    try:
        for name in adapters:
            own = [fact for fact in facts if fact.adapter == name]
            if len(own) < (1 if exact else FEWEST):
                continue
            reading = _Reading(model, tokenizer, own)
            for weight, rows in zip(weights, found, strict=True):
                merged = Mix(dict.fromkeys(names.values(), weight))
                if exact:
                    sure, seen = reading.from_norms(adapters, name, weight, merged)
                    rows.append(_counted(name, sure, seen))
                else:
                    alone = [Mix({each: weight}) for each in names.values()]
                    sure, seen, remainders = reading.with_remainder(alone, merged)
                    rows.append(_counted(name, sure, seen, remainders))
    finally:
        detach(model)
    return found


def _counted(name: str, sure: Tensor, seen: Tensor, remainders: Sequence[float] = ()) -> Survival:
    n = len(sure)
    return Survival(
        name,
        n,
        int(seen.sum()),
        int(sure.sum()),
        int((sure & ~seen).sum()),
        remainders,
        1 / (n // 2 + 1) if remainders else None,
    )


class _Reading:
    """The facts of one adapter, read token by token in some modes of the model."""

    def __init__(self, model: Model, tokenizer: Vocabulary, facts: Sequence[Fact]):
        self.model, self.tokenizer, self.facts = model, tokenizer, facts
        self.of = torch.tensor([i for i, fact in enumerate(facts) for _ in fact.tokens])
        self.ids = torch.tensor([token for fact in facts for token in fact.tokens])

    @cached_property
    def base(self) -> Tensor:
        """(tokens, vocabulary): the logits without any adapter."""
        return self._logits(None)

    @cached_property
    def keys(self) -> Tensor:
        """(tokens, width): what the last down_proj reads; adapters on it alone do not change it."""
        return self._read(None, self.model.layers[-1].get_submodule("mlp.down_proj"))

    def from_norms(
        self, adapters: Mapping[str, Adapter], name: str, weight: float, merged: Mode
    ) -> tuple[Tensor, Tensor]:
        """(certified, seen), both (facts,) bool."""
        keys, base = self.keys, self.base
        path, norm = last_down_proj(self.model), self.model.norm.weight.double()
        factors: list[Factors] = []
        for adapter in adapters.values():
            A, B = (factor.to(norm.device).double() for factor in adapter.factors[path])
            B = self._unembed((adapter.scale(path) * norm[:, None] * B).T).T
            factors.append((A.cpu(), B))
        weights = [weight] * len(factors)
        rounding = WHOLE * torch.finfo(self.model.norm.weight.dtype).eps
        own = [*adapters].index(name)
        sure = [
            certified(base[i], keys[i], self.ids[i], factors, own, weights, rounding * size)
            for i in torch.arange(len(self.ids)).split(64)
            for size in [base[i].abs().amax(1, keepdim=True)]
        ]
        return self._all(torch.cat(sure)), self._lead(self._logits(merged)) > 0

    def with_remainder(
        self, alone: Sequence[Mode], merged: Mode
    ) -> tuple[Tensor, Tensor, list[float]]:
        """(certified, seen), both (facts,) bool, and the remainders of either half."""
        foreseen = added_up(self.base, [self._logits(mode) for mode in alone])
        expected, found = self._lead(foreseen), self._lead(self._logits(merged))
        sure, remainders = certified_beyond(expected, found)
        return sure, found > 0, remainders

    def _all(self, right: Tensor) -> Tensor:
        """(tokens,) bool -> (facts,): those of which every token is so."""
        wrong = torch.zeros(len(self.facts)).index_add(0, self.of, (~right).float())
        return wrong == 0

    def _lead(self, logits: Tensor) -> Tensor:
        """The least lead of an answer's tokens over all others: (facts,)."""
        least = torch.full((len(self.facts),), torch.inf, dtype=logits.dtype)
        return least.scatter_reduce(0, self.of, margins(logits, self.ids), "amin")

    def _logits(self, mode: Mode) -> Tensor:
        """(tokens, vocabulary) in float64, times the divisor of the final norm, in this mode."""
        streams = self._read(mode, self.model.norm)
        with using(self.model, mode):
            return self._unembed(streams * self.model.norm.weight.double().cpu())

    @torch.inference_mode()
    def _unembed(self, states: Tensor) -> Tensor:
        weight = self.model.norm.weight
        return self.model.unembed(states.to(weight)).double().cpu()

    @torch.inference_mode()
    def _read(self, mode: Mode, module: torch.nn.Module) -> Tensor:
        """(tokens, width) in float64: what a module reads before each token of the facts."""
        rows = [[*fact.opening, *fact.tokens] for fact in self.facts]
        size = rows_at_once(self.model, max(map(len, rows)))
        seen: list[Tensor] = []
        hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        found = []
        try:
            with using(self.model, mode):
                for start in range(0, len(rows), size):
                    part = self.facts[start : start + size]
                    padded = pad_right(rows[start : start + size], self.tokenizer.pad)[:, :-1]
                    self.model.hidden_states(padded.to(device_of(self.model)))
                    x = seen.pop()
                    for i, fact in enumerate(part):
                        first = len(fact.opening) - 1
                        found.append(x[i, first : first + len(fact.tokens)].double().cpu())
        finally:
            hook.remove()
        return torch.cat(found)


def report(
    model: Model,
    tokenizer: Vocabulary,
    adapters: Mapping[str, Adapter],
    facts: Sequence[Fact],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """Plain JSON: under each weighted merge, by name, what survives of each adapter's facts; and in
    words what that is worth, or why there is nothing to say."""
    kind = EXACT if is_exact(model, adapters) else MEASURED
    few = 1 if kind == EXACT else FEWEST
    if not weights:
        return _none("no merge that was tried is a weighted sum")
    if not any(sum(fact.adapter == name for fact in facts) >= few for name in adapters):
        return _none(
            f"they take {few} or more probes that an adapter answers alone, and no adapter has them"
        )
    by_weight = survivals(model, tokenizer, adapters, facts, list(weights.values()))
    rows = [
        {"method": method, "weight": weight, **each.to_json()}
        for (method, weight), of_weight in zip(weights.items(), by_weight, strict=True)
        for each in of_weight
    ]
    return {"kind": kind, "says": SAYS[kind], "rows": rows}


def _none(why: str) -> dict[str, Any]:
    return {"kind": None, "says": f"no certificates: {why}", "rows": []}

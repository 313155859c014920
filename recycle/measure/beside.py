"""Two implementations beside each other: experts trained by both, merged by both, asked by both.

What agrees question by question shows that two implementations calculate the same; what agrees in
shares right shows that a result does not hang on one of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lora import Adapter, Mix, attach, detach
from recycle.decide.metrics import Row, itemised
from recycle.measure.ask import Answer, ask, tally
from recycle.measure.second import MERGINGS, Second, versions
from recycle.plan import Expert, Key, derived
from recycle.reuse.method import Stage
from recycle.reuse.methods import ALONE
from recycle.run import progress
from recycle.train.base import Base
from recycle.train.export import ADAPTERS, export

HERE, THERE = "standard", "transformers"  # whose rows they are: what stands in a key for the base
READS = ("hop1", "hop2", "joint")
PAIR = "2-combination"
Answers = dict[str, list[Answer]]  # by form


@dataclass(frozen=True)
class Agreement:
    """How many answers, or texts, two implementations give alike, word for word."""

    what: str
    alike: int
    of: int


@dataclass
class Compared:
    """Rows of both implementations, the largest difference of their logits, and how far their
    answers agree one by one."""

    rows: list[Row] = field(default_factory=list)
    logits: float = 0.0
    agreements: list[Agreement] = field(default_factory=list)

    def note(
        self, base: Base, where: str, group: str, cell: tuple[str, str], said: Answers
    ) -> None:
        """Keep the rows of a library and method."""
        key = Key(base.seed, where, group, *cell)
        self.rows += [_row(base, key, form, answers) for form, answers in said.items()]

    def agree(self, what: str, one: Answers, other: Answers) -> None:
        """Count the equal answers, beside those of the same name."""
        pairs = [pair for form in one for pair in zip(one[form], other[form], strict=True)]
        alike = sum(a.completion == b.completion for a, b in pairs)
        before = next((a for a in self.agreements if a.what == what), Agreement(what, 0, 0))
        after = Agreement(what, before.alike + alike, before.of + len(pairs))
        self.agreements = [a for a in self.agreements if a is not before] + [after]


def compare(base: Base, experts: Mapping[str, Adapter], groups: Sequence[str]) -> Compared:
    """Train the experts of these groups once more with PEFT, merge them there and here, and ask
    everybody every question. ``experts`` are ours, by slug: READS of every group.

    Raises ValueError where a library is missing, and for a base that was not pretrained here."""
    versions()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "base"
        loaded = export(base, experts, checkpoint)
        second = Second(base, checkpoint)
        compared = Compared(logits=_logits_differ(base, second))
        compared.agreements.append(_same_ids(base, second))
        for group in groups:
            ours = {slug: experts[slug] for slug in (Expert(r, group).slug for r in READS)}
            theirs = _compare_experts(second, loaded, ours, group, compared)
            _compare_merges(second, loaded, (ours, theirs), group, compared)
    return compared


def _compare_experts(
    second: Second, loaded: Base, ours: Mapping[str, Adapter], group: str, compared: Compared
) -> dict[str, Adapter]:
    """PEFT's experts, asked beside ours; each of both is also asked by the other implementation."""
    base, theirs = second.base, {}
    for reads, (slug, expert) in zip(READS, ours.items(), strict=True):
        progress.current().say(f"PEFT: {slug}")
        second.train(Expert(reads, group), slug)
        theirs[slug] = second.saved(slug)
        here, there = asked_here(base, group, expert), asked_there(second, group, slug)
        compared.note(base, HERE, group, (reads, ALONE.name), here)
        compared.note(base, THERE, group, (reads, ALONE.name), there)
        second.load(f"{slug}-here", second.checkpoint / ADAPTERS / slug)
        again = asked_there(second, group, f"{slug}-here")
        compared.agree("experts trained here: asked here, and in transformers by PEFT", here, again)
        again = asked_here(loaded, group, theirs[slug])
        compared.agree("experts trained by PEFT: asked in transformers, and here", there, again)
    return theirs


def _compare_merges(
    second: Second,
    loaded: Base,
    experts: tuple[Mapping[str, Adapter], Mapping[str, Adapter]],
    group: str,
    compared: Compared,
) -> None:
    """Both hops merged: ours here, PEFT's there; and PEFT's here, where we have that merge."""
    base, hops = second.base, list(experts[0])[:2]
    ours, theirs = ([own[slug] for slug in hops] for own in experts)
    for merging in MERGINGS:
        progress.current().say(f"PEFT: {merging.title}, {group}")
        name = f"{merging.name}-{group}"
        second.merge(name, hops, merging)
        there = asked_there(second, group, name)
        second.forget(name, hops[0])
        generator = torch.Generator().manual_seed(derived(base.seed, f"second {name}"))
        here = asked_here(base, group, merging.ours(ours, generator))
        compared.note(base, HERE, group, (PAIR, merging.name), here)
        compared.note(base, THERE, group, (PAIR, merging.name), there)
        if merging.here is not None:
            again = asked_here(loaded, group, merging.here(theirs))
            what = f"experts trained by PEFT, {merging.title}: merged there, and here"
            compared.agree(what, there, again)


def asked_here(base: Base, group: str, adapter: Adapter) -> Answers:
    """Answers to every form of question, by our layers and our decoding."""
    attach(base.model, {"asked": adapter})
    try:
        stage = Stage(Mix({"asked": 1.0}))
        questions = {form: base.world.questions(group, form) for form in base.world.forms}
        return {form: ask(base, own, [stage]) for form, own in questions.items()}
    finally:
        detach(base.model)


def asked_there(second: Second, group: str, adapter: str) -> Answers:
    """Answers to every form of question, by transformers and PEFT."""
    world = second.base.world
    return {form: second.ask(world.questions(group, form), adapter) for form in world.forms}


def _row(base: Base, key: Key, form: str, answers: Sequence[Answer]) -> Row:
    outcomes, notes = tally(base.world, answers)
    items = itemised((answer.outcome for answer in answers), base.world.outcomes)
    return Row(key, form, len(answers), outcomes, notes, items=items)


def _logits_differ(base: Base, second: Second, rows: int = 16) -> float:
    """The largest difference of the logits on random words, over a whole context."""
    generator = torch.Generator().manual_seed(derived(base.seed, "second logits"))
    shape = (rows, base.config.model.context)
    tokens = torch.randint(2, len(base.tokenizer), shape, generator=generator)
    with torch.no_grad():
        here = base.model(tokens)
    return float((second.logits(tokens) - here).abs().max())


def _same_ids(base: Base, second: Second) -> Agreement:
    """Whether transformers' tokenizer reads the base's texts as ours does."""
    texts = [str(text) for own in base.world.base_texts().values() for text in own]
    ours = [[base.tokenizer.boundary, *base.tokenizer.encode(text)] for text in texts]
    theirs = second.tokenizer(texts)["input_ids"]
    alike = sum(one == other for one, other in zip(ours, theirs, strict=True))
    return Agreement("texts of the base with the same ids in transformers", alike, len(texts))

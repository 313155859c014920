"""The two-hop experiment by a second implementation: transformers holds the base and decodes, PEFT
trains and merges the experts. Texts, questions and scores are ours; nothing else is.

    base          models.save_checkpoint -> transformers.AutoModelForCausalLM
    experts       the rows that our experts read, in their order; PEFT's first weights, its layers
    merges        PEFT's add_weighted_adapter
    answers       transformers' tokenizer and generate, scored by the world

What agrees question by question shows that two implementations calculate the same; what agrees in
shares right shows that a result does not hang on one of them. Needs the extra ``interop``.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, Mix, attach, detach, load_adapter, matching
from models.export import PREFIX
from models.tokenizer import BOUNDARY, PAD
from recycle.decide.metrics import Row, itemised
from recycle.measure.ask import Answer, ask, tally
from recycle.plan import Expert, Key, derived
from recycle.reuse.factorwise import peft_linear
from recycle.reuse.merge import mean_of_products, plain_sum
from recycle.reuse.method import Stage
from recycle.reuse.methods import ALONE
from recycle.reuse.spectral import truncated
from recycle.reuse.with_peft import merged_with_peft
from recycle.run import progress
from recycle.train.base import Base
from recycle.train.experts import own_corpus
from recycle.train.export import ADAPTERS, export
from recycle.train.settings import AdapterConfig, change
from tasks import Question

LIBRARIES = ("transformers", "peft")
HERE, THERE = "standard", "transformers"  # whose rows they are: what stands in a key for the base
READS = ("hop1", "hop2", "joint")
PAIR = "2-combination"
Answers = dict[str, list[Answer]]  # by form


@dataclass(frozen=True)
class Merging:
    """A merge of two hops: PEFT's combination type with its weight and density, and ``here``, our
    function for the same formula; where there is none, PEFT merges our experts."""

    name: str
    title: str
    combination: str
    weight: float
    density: float | None = None
    here: Callable[[Sequence[Adapter]], Adapter] | None = None

    def ours(self, adapters: Sequence[Adapter], generator: torch.Generator) -> Adapter:
        if self.here is not None:
            return self.here(adapters)
        weights = [self.weight] * len(adapters)
        return merged_with_peft(adapters, self.combination, generator, weights, self.density)


def _linear_at_half(adapters: Sequence[Adapter]) -> Adapter:
    return peft_linear(adapters, weight=0.5)


def _svd_of_sum(adapters: Sequence[Adapter]) -> Adapter:
    rank = max(one.rank(path) for one in adapters for path in one.paths)
    return truncated(plain_sum(adapters), rank)


MERGINGS = (
    Merging("plain_sum", "sum (cat at 1)", "cat", 1.0, here=plain_sum),
    Merging("mean_of_products", "mean (cat at 1/2)", "cat", 0.5, here=mean_of_products),
    Merging("linear_at_half", "linear at 1/2", "linear", 0.5, here=_linear_at_half),
    Merging("svd_of_sum", "svd of the sum", "svd", 1.0, here=_svd_of_sum),
    Merging("ties_of_factors", "ties at 1, density 1/2", "ties", 1.0, 0.5),
    Merging("dare_of_factors", "dare_linear at 1, density 1/2", "dare_linear", 1.0, 0.5),
)


def versions() -> dict[str, str]:
    """The versions of the second implementation. Raises ValueError where a part of it is not
    installed."""
    return {name: _needed(name).__version__ for name in LIBRARIES}


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"a second implementation needs {name}: pip install -e .[interop,checkpoint]"
        ) from None


class Second:
    """A base in transformers, with PEFT's adapters by name. ``here`` is the same base as it is read
    back here, from the same files."""

    def __init__(self, base: Base, checkpoint: Path):
        transformers, self._peft = (_needed(name) for name in LIBRARIES)
        self.base = base
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        self.adapters: Any = None  # a PeftModel, from the first adapter on

    def logits(self, tokens: Tensor) -> Tensor:
        """The base's logits (b, l, vocabulary)."""
        with torch.no_grad(), self._acting(None) as model:
            return model(input_ids=tokens).logits

    def train(self, expert: Expert, name: str, first: Path | None = None) -> float:
        """Train an adapter on the rows that the expert reads here; return the last loss in nats.
        ``first`` is the folder of an adapter to begin with, instead of PEFT's own first weights."""
        base = self.base
        config = change(base.config, expert.recipe.settings)
        if first is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived(base.seed, f"second {name}"))
                self._add(name, config.adapter)
        else:
            self.load(name, first, trainable=True)
        corpus, plan = own_corpus(base, config, expert), config.train
        self.adapters.set_adapter(name)
        parameters = [p for p in self.adapters.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=plan.lr, betas=(0.9, plan.beta2), weight_decay=plan.weight_decay
        )
        loss = torch.tensor(0.0)
        self.adapters.train()
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * plan.rate(step)
            reading = derived(base.seed, f"reading {expert.slug}")
            tokens, learned = corpus.batch(plan, reading, step)
            loss = self.adapters(input_ids=tokens, labels=tokens.masked_fill(~learned, -100)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
            optimizer.step()
            optimizer.zero_grad()
            progress.current().advance(plan.tokens)
        self.adapters.eval()
        return loss.item()

    def _add(self, name: str, config: AdapterConfig) -> None:
        """A fresh adapter with PEFT's own first weights."""
        paths = [f"{PREFIX}{path}" for path in matching(self.base.model, config.patterns)]
        settings = self._peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=paths, task_type="CAUSAL_LM"
        )
        if self.adapters is None:
            self.adapters = self._peft.get_peft_model(self.model, settings, adapter_name=name)
        else:
            self.adapters.add_adapter(name, settings)

    def load(self, name: str, folder: Path, trainable: bool = False) -> None:
        """An adapter of a folder, as PEFT reads it."""
        options = {"adapter_name": name, "is_trainable": trainable}
        if self.adapters is None:
            self.adapters = self._peft.PeftModel.from_pretrained(self.model, folder, **options)
        else:
            self.adapters.load_adapter(folder, **options)
        self.adapters.eval()

    def saved(self, name: str) -> Adapter:
        """An adapter as PEFT saves it and we read it."""
        with tempfile.TemporaryDirectory() as folder:
            self.adapters.save_pretrained(folder, selected_adapters=[name])
            return load_adapter(Path(folder) / name)

    def merge(self, name: str, of: Sequence[str], merging: Merging) -> None:
        """PEFT's merge of adapters that are there, as one more adapter."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(self.base.seed, f"second {name}"))
            self.adapters.add_weighted_adapter(
                list(of),
                [merging.weight] * len(of),
                name,
                combination_type=merging.combination,
                density=merging.density,
            )

    def forget(self, name: str, other: str) -> None:
        """Delete an adapter; another one acts from then on."""
        self.adapters.set_adapter(other)
        self.adapters.delete_adapter(name)

    def ask(self, questions: Sequence[Question], adapter: str | None) -> list[Answer]:
        """Greedy answers with an adapter, or of the base alone."""
        world = self.base.world
        given = self.tokenizer([q.prompt for q in questions], padding=True, return_tensors="pt")
        with self._acting(adapter) as model:
            ids = model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=world.longest,
                do_sample=False,
            )
        texts = self.tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :])
        said = map(_until_boundary, texts)
        return [Answer(q, s, world.score(q, s)) for q, s in zip(questions, said, strict=True)]

    @contextmanager
    def _acting(self, adapter: str | None) -> Iterator[Any]:
        """The model with one adapter that acts, or with none."""
        if self.adapters is None:
            yield self.model
        elif adapter is None:
            with self.adapters.disable_adapter():
                yield self.adapters
        else:
            self.adapters.set_adapter(adapter)
            yield self.adapters


def _until_boundary(text: str) -> str:
    words = text.split()
    words = words[: words.index(BOUNDARY)] if BOUNDARY in words else words
    return " ".join(word for word in words if word != PAD)


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


def compare(base: Base, experts: Mapping[str, Adapter], groups: Sequence[str]) -> Compared:
    """Train the experts of these groups once more with PEFT, merge them there and here, and ask
    everybody every question. ``experts`` are ours, by slug: READS of every group.

    Raises ValueError where a library is missing, and for a base that was not pretrained here."""
    versions()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "base"
        loaded = export(base, experts, checkpoint)
        second, compared = Second(base, checkpoint), Compared()
        compared.logits = _logits_differ(base, second)
        compared.agreements.append(_same_ids(base, second))
        for group in groups:
            _compare_group(second, loaded, experts, group, checkpoint, compared)
    compared.agreements = _summed(compared.agreements)
    return compared


def _compare_group(
    second: Second,
    loaded: Base,
    experts: Mapping[str, Adapter],
    group: str,
    checkpoint: Path,
    compared: Compared,
) -> None:
    base, slugs = second.base, [Expert(reads, group).slug for reads in READS]

    def note(where: str, library: str, method: str, answers: Answers) -> None:
        key = Key(base.seed, where, group, library, method)
        compared.rows += [_row(base, key, form, said) for form, said in answers.items()]

    def agree(what: str, one: Answers, other: Answers) -> None:
        compared.agreements.append(_alike(what, one, other))

    theirs: dict[str, Adapter] = {}
    for reads, slug in zip(READS, slugs, strict=True):
        progress.current().say(f"PEFT: {slug}")
        second.train(Expert(reads, group), slug)
        second.load(f"{slug}-here", checkpoint / ADAPTERS / slug)
        theirs[slug] = second.saved(slug)
        here, there = asked_here(base, group, experts[slug]), asked_there(second, group, slug)
        note(HERE, reads, ALONE.name, here)
        note(THERE, reads, ALONE.name, there)
        ours = asked_there(second, group, f"{slug}-here")
        agree("experts trained here: asked here, and in transformers by PEFT", here, ours)
        agree(
            "experts trained by PEFT: asked in transformers, and here",
            there,
            asked_here(loaded, group, theirs[slug]),
        )
    hops = slugs[:2]
    for merging in MERGINGS:
        progress.current().say(f"PEFT: {merging.title}, {group}")
        name = f"{merging.name}-{group}"
        second.merge(name, hops, merging)
        there = asked_there(second, group, name)
        second.forget(name, hops[0])
        generator = torch.Generator().manual_seed(derived(base.seed, f"second {name}"))
        merged = merging.ours([experts[slug] for slug in hops], generator)
        note(HERE, PAIR, merging.name, asked_here(base, group, merged))
        note(THERE, PAIR, merging.name, there)
        if merging.here is not None:
            again = asked_here(loaded, group, merging.here([theirs[slug] for slug in hops]))
            agree(f"experts trained by PEFT, {merging.title}: merged there, and here", there, again)


def asked_here(base: Base, group: str, adapter: Adapter | None) -> Answers:
    """Answers to every form of question, by our layers and our decoding."""
    attach(base.model, {} if adapter is None else {"asked": adapter})
    try:
        stage = Stage(None if adapter is None else Mix({"asked": 1.0}))
        questions = {form: base.world.questions(group, form) for form in base.world.forms}
        return {form: ask(base, own, [stage]) for form, own in questions.items()}
    finally:
        detach(base.model)


def asked_there(second: Second, group: str, adapter: str | None) -> Answers:
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


def _alike(what: str, one: Answers, other: Answers) -> Agreement:
    pairs = [pair for form in one for pair in zip(one[form], other[form], strict=True)]
    return Agreement(what, sum(a.completion == b.completion for a, b in pairs), len(pairs))


def _summed(agreements: Sequence[Agreement]) -> list[Agreement]:
    """Those of one name together."""
    alike: dict[str, tuple[int, int]] = {}
    for each in agreements:
        before = alike.get(each.what, (0, 0))
        alike[each.what] = (before[0] + each.alike, before[1] + each.of)
    return [Agreement(what, *counts) for what, counts in alike.items()]

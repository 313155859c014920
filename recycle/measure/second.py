"""The two-hop experiment by a second implementation: transformers holds the base and decodes, PEFT
trains and merges the experts. Texts, questions and scores are ours; nothing else is.

    base          models.save_checkpoint -> transformers.AutoModelForCausalLM
    experts       the rows that our experts read, in their order; PEFT's first weights, its layers
    merges        PEFT's add_weighted_adapter
    answers       transformers' tokenizer and generate, scored by the world

recycle/measure/beside.py compares the two. Needs the extra ``interop``.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, load_adapter, matching
from models.export import PREFIX
from models.tokenizer import BOUNDARY, PAD
from recycle.measure.ask import Answer
from recycle.plan import Expert, derived
from recycle.reuse.factorwise import peft_linear
from recycle.reuse.merge import mean_of_products, plain_sum
from recycle.reuse.spectral import truncated
from recycle.reuse.with_peft import merged_with_peft
from recycle.run import progress
from recycle.train.base import Base
from recycle.train.experts import own_corpus
from recycle.train.settings import AdapterConfig, change
from tasks import Question

LIBRARIES = ("transformers", "peft")


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
        self.base, self.checkpoint = base, checkpoint
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

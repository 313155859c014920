"""Whether a study can be made with its settings, told before any work begins.

A setting's own range is checked where it is set (recycle/train/settings.py). Here stands what
several settings must be together: a base of hours would be lost otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import nn

from lora import matching
from models import TransformerConfig
from models.checkpoint import open_source
from models.families import read_config
from models.transformer import Block
from recycle.plan import BaseSpec, Expert, Library
from recycle.reuse.method import Method
from recycle.reuse.methods import ORACLE, PEFT_ITSELF
from recycle.reuse.with_peft import has_peft
from recycle.studies.design import Study
from recycle.train.base import build_world
from recycle.train.settings import AdapterConfig, StudyConfig, change
from tasks import Leak, Text, World


def check(study: Study) -> None:
    """Raise ValueError where a base cannot be trained or asked, or an expert cannot be trained.

    The worlds are those of the first seed: those of other seeds have the same sizes."""
    for spec in {spec.name: spec for _, spec in study.bases}.values():
        own = [library for library in study.libraries if library.base == spec]
        try:
            _check_base(study, spec, own)
        except ValueError as error:
            raise ValueError(f"{error} (base {spec.name!r})") from None


def _check_base(study: Study, spec: BaseSpec, libraries: Sequence[Library]) -> None:
    config = change(study.config, spec.settings)
    try:
        world = build_world(study.design.world, config.task, config.seeds[0])
    except Leak as error:
        raise ValueError(f"task.* make no sound world ({error}): raise the sizes") from None
    if not world.words() and not config.checkpoint:
        raise ValueError(
            "this study asks a model that has read: name one with --checkpoint FOLDER or smollm2"
        )
    if not world.shares() and not config.checkpoint:
        raise ValueError("task.shares gives nothing to the texts that there are: raise another one")
    if not config.checkpoint:
        _check_rows(config, "pretrain", world)
    for library in libraries:
        if set(library.methods) & set(PEFT_ITSELF) and not has_peft():
            raise ValueError(
                f"part {library.part} merges with PEFT, which is not installed: pip install peft, "
                "the interop extra, or leave the part out"
            )
        _check_questions(config, world, library)
    for expert in {
        expert.slug: expert for library in libraries for expert in library.experts
    }.values():
        check_expert(change(config, expert.recipe.settings), world, expert)


def check_expert(config: StudyConfig, world: World, expert: Expert) -> None:
    """Raise ValueError where an expert cannot be trained on a base of this configuration."""
    if not (own := world.expert_texts(expert.reads, expert.group)):
        raise ValueError(f"{expert.slug} has no texts to read: raise the sizes of the task")
    _check_rows(config, "train", world, own)
    _check_layers(_shape(config), config.adapter)


@lru_cache(maxsize=4)
def _shape_of(checkpoint: str) -> TransformerConfig:
    files = open_source(checkpoint)
    return read_config(files.config, files.where)[0]


def _shape(config: StudyConfig) -> TransformerConfig:
    return _shape_of(config.checkpoint) if config.checkpoint else config.model


@lru_cache(maxsize=64)
def _check_layers(shape: TransformerConfig, adapter: AdapterConfig) -> None:
    """The patterns name layers that the model has, and the rank is not above theirs."""
    model = nn.Module()
    with torch.device("meta"):  # shapes without numbers
        model.layers = nn.ModuleList(Block(shape, layer) for layer in range(shape.layers))
    try:
        paths = matching(model, adapter.patterns)
    except ValueError as error:
        raise ValueError(f"adapter.patterns: {error}") from None
    for path in paths:
        d_out, d_in = model.get_parameter(f"{path}.weight").shape
        if adapter.kind == "lora" and adapter.rank > min(d_in, d_out):
            raise ValueError(
                f"adapter.rank = {adapter.rank}: layer {path} maps {d_in} to {d_out}, "
                f"choose a rank from 1 to {min(d_in, d_out)}"
            )


def _check_rows(config: StudyConfig, training: str, world: World, own: Iterable[Text] = ()) -> None:
    """A row that holds one text must hold the longest: of the base, and of an expert's own."""
    settings = getattr(config, training)
    if settings.packed:
        return
    longest = max(_longest_read(world), _longest(own)) + 1  # and the boundary before it
    if longest > settings.length:
        raise ValueError(
            f"{training}.length = {settings.length}: the longest text has {longest} tokens, "
            "and a row that is not packed holds one text: raise the length"
        )


def _longest(texts: Iterable[Text]) -> int:
    return max((len(str(text).split()) for text in texts), default=0)


@lru_cache(maxsize=4)
def _longest_read(world: World) -> int:
    texts = world.base_texts()
    return max((_longest(texts[kind]) for kind in world.shares()), default=0)


def _check_questions(config: StudyConfig, world: World, library: Library) -> None:
    """There are questions, and the longest fits the model's context with its answer."""
    contexts = world.in_context(library.group) if library.context else []
    before = max((sum(len(str(t).split()) + 1 for t in texts) for texts in contexts), default=0)
    for method in library.methods:
        if method.examples:
            _check_examples(config, world, library.group, method)
    for form in world.forms:
        prompts = [len(q.prompt.split()) for q in world.questions(library.group, form)]
        if not prompts:
            raise ValueError(
                f"{form} questions about {library.group}: there are none with these task.* settings"
            )
        stages = len(world.needs(form)) if ORACLE in library.methods else 1
        tokens = 1 + before + max(prompts) + max(1, stages) * (world.longest + 1)
        if tokens > config.model.context:
            raise ValueError(
                f"model.context = {config.model.context}: a question of library {library.name!r} "
                f"and its answer may take {tokens} tokens, raise the context"
            )


def _check_examples(config: StudyConfig, world: World, group: str, method: Method) -> None:
    """The group has so many examples, and each fits the model's context with its answer."""
    try:
        examples = world.examples(group, method.examples).examples
    except ValueError as error:
        raise ValueError(f"{method.name}: {error}") from None
    longest = max(len(str(question.text).split()) for question in examples) + 2
    if longest > config.model.context:
        raise ValueError(
            f"model.context = {config.model.context}: an example of {method.name} takes {longest} "
            "tokens, raise the context"
        )

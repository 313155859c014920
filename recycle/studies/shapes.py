"""The shapes of the adapted layers that a study trains, known before any model is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from lora import matching
from lora.modules import linear_shape
from lora.ways import Shape
from models import CausalLM, Transformer
from models.checkpoint import open_source
from models.families import read_config
from recycle.studies.design import Study
from recycle.train.settings import StudyConfig, change


def adapted_shapes(study: Study) -> list[Shape]:
    """Each once, in the order in which the study trains them."""
    return list(dict.fromkeys(_shapes(study)))


def _shapes(study: Study) -> Iterator[Shape]:
    for spec in dict.fromkeys(spec for _, spec in study.bases):
        config = change(study.config, spec.settings)
        model = _planned(config)
        for together in study.passes(spec.name).values():
            own = change(config, together[0].recipe.settings)
            if own.adapter.kind != "lora":
                continue
            for some in own.train.turns(together):
                tokens = own.train.at_once(len(some)) * own.train.length
                for path in matching(model, own.adapter.patterns):
                    layer = model.get_submodule(path)
                    assert isinstance(layer, nn.Linear)
                    n, k = linear_shape(layer)
                    yield Shape(tokens, k, n, own.adapter.rank, len(some))


def _planned(config: StudyConfig) -> nn.Module:
    """The base with names and shapes, without memory."""
    if config.checkpoint:
        files = open_source(config.checkpoint)
        return CausalLM.planned(*read_config(files.config, files.where, None), torch.float32)
    with torch.device("meta"):
        return Transformer(config.model, 2, torch.Generator().manual_seed(0))

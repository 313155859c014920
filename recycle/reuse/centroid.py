"""Input-level routing: a question goes to the expert whose own texts are most like it.

The idea is LoraRetriever's (Zhao et al. 2024, arXiv 2402.09997), which embeds an expert's texts and
the input with a sentence encoder. Here the base itself embeds them: the mean over the tokens of a
prompt of the normalised states after the last layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora import Adapter, using
from models import device_of, pad_right
from recycle.reuse.controls import whole_input
from recycle.reuse.method import Given, Prepared, Stage, own_texts
from recycle.reuse.route import on_all_layers
from tasks import Question, World

TEXTS = 64  # an expert's texts that make its centroid, evenly spaced among all
BATCH = 256


def centroid(
    experts: Mapping[str, Adapter], generator: torch.Generator, world: World, given: Given
) -> Prepared:
    """argmax_i cos(h(question), mean_j h(text_j of expert i)), one expert for a whole question.

    Raises ValueError for an expert whose record does not say what it read.
    """
    modes = whole_input(experts)
    stages = {name: (Stage(mode),) for name, mode in modes.items()}
    own = torch.stack([_centroid(name, one, world, given) for name, one in experts.items()])

    def choose(questions: Sequence[Question]) -> list[Sequence[Stage]]:
        states = _embedded([question.prompt for question in questions], given)
        nearest = torch.nn.functional.cosine_similarity(states[:, None], own, dim=-1).argmax(1)
        names = list(experts)
        return [stages[names[int(i)]] for i in nearest]

    return Prepared(on_all_layers(experts), lambda form: stages[next(iter(stages))], choose)


def _centroid(name: str, expert: Adapter, world: World, given: Given) -> Tensor:
    texts = own_texts("centroid", name, expert, world)
    count = min(TEXTS, len(texts))
    chosen = [texts[i * len(texts) // count] for i in range(count)]
    return _embedded([text.prompt for text in chosen], given).mean(0)


@torch.inference_mode()
def _embedded(prompts: Sequence[str], given: Given) -> Tensor:
    """The mean state of each prompt's tokens: (prompts, width)."""
    tokenizer = given.tokenizer
    ids = [[tokenizer.boundary, *tokenizer.encode(prompt)] for prompt in prompts]
    means = []
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        tokens = pad_right(part, tokenizer.pad)
        real = torch.tensor([[i < len(p) for i in range(tokens.shape[1])] for p in part])
        device = device_of(given.model)
        with using(given.model, None):
            states = given.model.hidden_states(tokens.to(device)).float()
        real = real.to(device)[..., None]
        means.append((states * real).sum(1) / real.sum(1))
    return torch.cat(means)

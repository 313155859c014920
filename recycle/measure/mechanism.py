"""Where a model holds what it answers: four looks at adapters at work, each a function on values,
each result plain JSON.

    logit_lens      what every depth of the residual stream would answer
    interference    how much two adapters' updates overlap, layer by layer
    routing         where a router sends each token
    knock_out       what is lost without one block's adapters, and what they do alone

All but `interference` look at the model as it acts now: call them inside ``using(model, mode)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, lora_layers
from models import LanguageModel, Transformer
from recycle.reuse.route import ArrowRouter


def _check_prompts(prompts: Tensor) -> None:
    if prompts.dim() != 2 or prompts.is_floating_point() or not prompts.numel():
        raise ValueError(
            f"prompts {tuple(prompts.shape)} of {prompts.dtype}: give token ids of shape (rows, length)"
        )


@torch.inference_mode()
def lens_log_probs(model: LanguageModel, prompts: Tensor, position: int = -1) -> Tensor:
    """log softmax(unembed(norm(h_l))) of the residual stream h_l at one position, l = 0 (the
    embedding), 1, .. (behind each layer): (layers + 1, rows, vocabulary), in float64. The logit
    lens (nostalgebraist 2020, "interpreting GPT: the logit lens"); the last depth is the model's
    own answer."""
    _check_prompts(prompts)
    if not -prompts.shape[1] <= position < prompts.shape[1]:
        raise ValueError(f"position = {position}: the prompts have {prompts.shape[1]} tokens")
    states: list[Tensor] = []
    # What a layer, or the final norm, is given is what the layer before it left in the residual
    # stream.
    hooks = [
        stage.register_forward_pre_hook(lambda _, args: states.append(args[0][:, position]))
        for stage in (*model.layers, model.norm)
    ]
    try:
        model.hidden_states(prompts)
    finally:
        for hook in hooks:
            hook.remove()
    return model.unembed(model.norm(torch.stack(states))).double().log_softmax(-1)


def logit_lens(
    model: LanguageModel, prompts: Tensor, targets: Mapping[str, Tensor], position: int = -1
) -> dict[str, Any]:
    """How near each depth is to a target token per row: prompts (rows, length), targets {name: ids
    (rows,)}.

    With M_ij = log p(target j | row i), n rows, for every depth and target:

    log_prob     mean_i M_ii
    shuffled     mean of M_ij over i != j: the same targets handed to other rows, over all n - 1 rolls. A signal is what
                 log_prob has above it: that which depends on the row, not on how common the targets are. Rows that share
                 a target lower it.
    shuffled_sd  standard deviation of mean_i M_i,pi(i) over random permutations pi: sqrt(sum_ij D_ij^2 / (n - 1)) / n, D
                 the doubly centred M (Hoeffding 1951, "A combinatorial central limit theorem"). Where all rows have one
                 state (the embedding of a shared last token), it and the signal are rounding: do not divide by it.
    top          share of rows in which no token is more probable than the target
    mrr          mean reciprocal rank, rank 1 + the number of more probable tokens

    -> {"depths": [layers + 1 names], "targets": {name: {each of the above: [layers + 1 numbers]}}}
    """
    log_probs = lens_log_probs(model, prompts, position)
    depths, n, vocabulary = log_probs.shape
    if n < 2:
        raise ValueError(
            "one prompt has no other row's targets to be compared with: give at least 2"
        )
    found = {}
    for name, ids in targets.items():
        if (
            ids.shape != (n,)
            or ids.is_floating_point()
            or not bool(((ids >= 0) & (ids < vocabulary)).all())
        ):
            raise ValueError(
                f"targets {name!r} {tuple(ids.shape)}: give {n} token ids below {vocabulary}, one for each prompt"
            )
        every = log_probs[:, :, ids]
        own = every.diagonal(dim1=1, dim2=2)
        centred = (
            every
            - every.mean(1, keepdim=True)
            - every.mean(2, keepdim=True)
            + every.mean((1, 2), keepdim=True)
        )
        rank = 1 + (log_probs > own[..., None]).sum(-1)
        found[name] = {
            "log_prob": own.mean(1).tolist(),
            "shuffled": ((every.sum((1, 2)) - own.sum(1)) / (n * (n - 1))).tolist(),
            "shuffled_sd": ((centred.square().sum((1, 2)) / (n - 1)).sqrt() / n).tolist(),
            "top": (rank == 1).double().mean(1).tolist(),
            "mrr": (1 / rank).double().mean(1).tolist(),
        }
    return {"depths": ["embedding", *(f"layer {i}" for i in range(depths - 1))], "targets": found}


def interference(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """For every layer and pair of adapters that address it, with dW = s B A = U S V^T:

    cosine   <dW_1, dW_2> / (|dW_1| |dW_2|), Frobenius = sum_ij S_1i S_2j (U_1^T U_2)_ij (V_1^T V_2)_ij / (|S_1| |S_2|)
    input    mean squared cosine of the principal angles between the row spaces, |V_1^T V_2|^2 / min(k_1, k_2)
    output   the same between the column spaces, with U

    The spaces are those of dW: of A's rows and of B's columns, where the factors have full rank.
    Nothing depends on how dW is factored. ``input_random`` and ``output_random`` are what
    independent uniform subspaces of those dimensions have in expectation, max(k_1, k_2) / d: r / d
    for equal ranks. A zero update has cosine and overlaps 0, random ones too.

    -> {"pairs": [{"path", "pair": [two names], and the five numbers}], "skipped": [{"path", "only": the one that has it}]}
    """
    if len(adapters) < 2:
        raise ValueError(
            f"interference is between adapters: {len(adapters)} given, at least 2 needed"
        )
    rows, skipped = [], []
    for path in dict.fromkeys(path for adapter in adapters.values() for path in adapter.paths):
        parts = {
            name: adapter.svd(path) for name, adapter in adapters.items() if path in adapter.factors
        }
        if len(parts) == 1:
            skipped.append({"path": path, "only": next(iter(parts))})
        for a, b in combinations(parts, 2):
            (U, S, V), (U2, S2, V2) = parts[a], parts[b]
            if len(U) != len(U2) or len(V) != len(V2):
                raise ValueError(
                    f"{path}: {a!r} and {b!r} have updates of different shapes: made for different models"
                )
            least, most = sorted((len(S), len(S2)))
            output, into = U.mT @ U2, V.mT @ V2
            row = dict.fromkeys(("cosine", "input", "input_random", "output", "output_random"), 0.0)
            if least:
                row["cosine"] = float((S @ (output * into) @ S2) / (S.norm() * S2.norm()))
                row |= {"input": float(into.square().sum()) / least, "input_random": most / len(V)}
                row |= {
                    "output": float(output.square().sum()) / least,
                    "output_random": most / len(U),
                }
            rows.append({"path": path, "pair": [a, b], **row})
    return {"pairs": rows, "skipped": skipped}


@torch.inference_mode()
def routing(
    model: Transformer, prompts: Tensor, routers: Mapping[str, ArrowRouter]
) -> dict[str, dict[str, list]]:
    """Gates g (N experts) of the routers {layer path: router} at every token of prompts (rows,
    length), means over rows:

    gates (length, N)    mean g
    entropy (length,)    mean of -sum_i g_i ln g_i, nats: from 0 (one expert) to ln N (all alike)
    gap (length,)        mean of the largest gate minus the second largest

    -> {path: {"gates", "entropy", "gap"}}
    """
    _check_prompts(prompts)
    seen: dict[str, list[Tensor]] = {path: [] for path in routers}
    before = {path: router.seen for path, router in routers.items()}
    try:
        for path, router in routers.items():
            router.seen = seen[path]
        model(prompts)
    finally:
        for path, router in routers.items():
            router.seen = before[path]
    found = {}
    for path, calls in seen.items():
        if len(calls) != 1:
            raise ValueError(
                f"the router of {path} was asked {len(calls)} times in one pass, not once: route with a router for each "
                "layer inside using(model, Gated(names, routers))"
            )
        gates = calls[0].double().unflatten(0, tuple(prompts.shape))
        largest = gates.topk(min(2, gates.shape[-1]), -1).values
        gap = largest[..., 0] - largest[..., 1:].sum(-1)  # one expert alone leads by its whole gate
        entropy = -torch.special.xlogy(gates, gates).sum(-1)
        found[path] = {
            name: v.mean(0).tolist()
            for name, v in (("gates", gates), ("entropy", entropy), ("gap", gap))
        }
    return found


@contextmanager
def switched_off(model: Transformer, paths: Iterable[str]) -> Iterator[None]:
    """No adapter acts on these layers inside the block; they are in the mode that they were in
    after it."""
    layers, paths = lora_layers(model), list(paths)
    if missing := [path for path in paths if path not in layers]:
        raise ValueError(
            f"no adapter is attached to the layer {missing[0]!r}: name layers out of lora_layers(model)"
        )
    before = {path: layers[path].mode for path in paths}
    try:
        for path in paths:
            layers[path].mode = None
        yield
    finally:
        for path, mode in before.items():
            layers[path].mode = mode


def knock_out(
    model: Transformer,
    paths_by_block: Mapping[str, Sequence[str]],
    score: Callable[[], dict[str, float]],
) -> dict[str, Any]:
    """Scores {name: number} with all adapters as they act now, with none (the base), without each
    block's, and with only each block's (all other layers' off, whether they are in a block or not).

    ``score`` must not enter ``using`` itself, which would switch everything on again.

    -> {"all": scores, "none": scores, "without": {block: scores}, "only": {block: scores}}
    """
    layers = lora_layers(model)
    if all(layer.mode is None for layer in layers.values()):
        raise ValueError(
            "no adapter acts: call knock_out inside using(model, mode), and not within score"
        )

    def without(paths: Iterable[str]) -> dict[str, float]:
        with switched_off(model, paths):
            return {name: float(value) for name, value in score().items()}

    return {
        "all": without(()),
        "none": without(layers),
        "without": {block: without(paths) for block, paths in paths_by_block.items()},
        "only": {
            block: without(path for path in layers if path not in paths)
            for block, paths in paths_by_block.items()
        },
    }

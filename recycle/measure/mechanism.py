"""Four measurements inside a model, which show where it holds its answers.

    logit_lens      the answer that every depth of the residual stream would give
    interference    the overlap of two adapters' updates, layer by layer
    routing         the gates that a router gives each token
    knock_out       the scores without one block's adapters, and with these alone

Each is a function on values and returns plain JSON. All but `interference` measure the model as it
acts now: call them inside ``using(model, mode)``.
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
            f"prompts {tuple(prompts.shape)} of {prompts.dtype}: "
            "give token ids of shape (rows, length)"
        )


@torch.inference_mode()
def lens_log_probs(model: LanguageModel, prompts: Tensor, position: int = -1) -> Tensor:
    """log softmax(unembed(norm(h_l))) at one position of prompts (rows, length).

    h_0 is the embedding, and h_l the residual stream after layer l. The result has the shape
    (layers + 1, rows, vocabulary), in nats and float64. Its last depth is the model's own answer.
    This is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"). Raises
    ValueError for prompts of another shape and for a position that they do not have.
    """
    _check_prompts(prompts)
    if not -prompts.shape[1] <= position < prompts.shape[1]:
        raise ValueError(f"position = {position}: the prompts have {prompts.shape[1]} tokens")
    states: list[Tensor] = []
    # The input of a layer, or of the final norm, is the residual stream after the layer before.
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
    """The probability of a target token at each depth, for prompts (rows, length).

    ``targets`` are {name: ids (rows,)}. With M_ij = log p(target j | row i), in nats, and n rows,
    every depth and target gets these numbers:

    log_prob     mean_i M_ii
    shuffled     mean of M_ij over i != j: other rows are given the same targets, in all n - 1
                 rolls. The signal, log_prob - shuffled, is the part of log_prob that depends on the
                 row and not on how common the targets are. Rows that share a target lower it.
    shuffled_sd  standard deviation of mean_i M_i,pi(i) over random permutations pi,
                 sqrt(sum_ij D_ij^2 / (n - 1)) / n with D the doubly centred M (Hoeffding 1951, "A
                 combinatorial central limit theorem"). Where all rows have one state (the embedding
                 of a shared last token), signal and shuffled_sd are rounding: do not divide them.
    top          share of rows in which no token is more probable than the target
    mrr          mean reciprocal rank, where rank is 1 + the number of more probable tokens

    -> {"depths": [layers + 1 names], "targets": {name: {each of the above: [layers + 1 numbers]}}}

    Raises ValueError for fewer than two prompts, and for targets that are not one token id each.
    """
    log_probs = lens_log_probs(model, prompts, position)
    depths, n, vocabulary = log_probs.shape
    if n < 2:
        raise ValueError(
            "one prompt cannot be compared with the targets of other prompts: give at least 2"
        )
    numbers = {}
    for name, ids in targets.items():
        per_prompt = ids.shape == (n,) and not ids.is_floating_point()
        if not per_prompt or not bool(((ids >= 0) & (ids < vocabulary)).all()):
            raise ValueError(
                f"targets {name!r} {tuple(ids.shape)}: give {n} token ids below {vocabulary}, "
                "one for each prompt"
            )
        M = log_probs[:, :, ids]
        right = M.diagonal(dim1=1, dim2=2)
        row_means, target_means = M.mean(2, keepdim=True), M.mean(1, keepdim=True)
        D = M - target_means - row_means + M.mean((1, 2), keepdim=True)
        rank = 1 + (log_probs > right[..., None]).sum(-1)
        numbers[name] = {
            "log_prob": right.mean(1).tolist(),
            "shuffled": ((M.sum((1, 2)) - right.sum(1)) / (n * (n - 1))).tolist(),
            "shuffled_sd": ((D.square().sum((1, 2)) / (n - 1)).sqrt() / n).tolist(),
            "top": (rank == 1).double().mean(1).tolist(),
            "mrr": (1 / rank).double().mean(1).tolist(),
        }
    names = ["embedding", *(f"layer {i}" for i in range(depths - 1))]
    return {"depths": names, "targets": numbers}


def interference(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """The overlap of two adapters' updates dW = s B A = U S V^T, for every layer and pair.

    cosine   <dW_1, dW_2> / (|dW_1| |dW_2|) in Frobenius norm, calculated as
             sum_ij S_1i S_2j (U_1^T U_2)_ij (V_1^T V_2)_ij / (|S_1| |S_2|)
    input    mean squared cosine of the principal angles between the row spaces,
             |V_1^T V_2|^2 / min(k_1, k_2) for updates of ranks k_1 and k_2
    output   the same between the column spaces, with U in the place of V

    The spaces are those of dW, so no number depends on how dW is factored. ``input_random`` and
    ``output_random`` are the overlaps that independent uniform subspaces of the same dimensions
    have in expectation, max(k_1, k_2) / d. All five numbers are 0 where an update is zero.

    -> {"pairs": [{"path", "pair": [two names], and the five numbers}],
        "skipped": [{"path", "only": the name of the one adapter that addresses the layer}]}

    Raises ValueError for fewer than two adapters, and for updates of different shapes.
    """
    if len(adapters) < 2:
        raise ValueError(
            f"interference is between adapters: {len(adapters)} given, at least 2 needed"
        )
    rows, skipped = [], []
    for path in dict.fromkeys(path for adapter in adapters.values() for path in adapter.paths):
        addressing = {name: one for name, one in adapters.items() if path in one.factors}
        svds = {name: adapter.svd(path) for name, adapter in addressing.items()}
        if len(svds) == 1:
            skipped.append({"path": path, "only": next(iter(svds))})
        for a, b in combinations(svds, 2):
            (U, S, V), (U2, S2, V2) = svds[a], svds[b]
            if len(U) != len(U2) or len(V) != len(V2):
                raise ValueError(
                    f"{path}: {a!r} and {b!r} have updates of different shapes: "
                    "choose adapters of one model"
                )
            least, most = sorted((len(S), len(S2)))
            columns, inputs = U.mT @ U2, V.mT @ V2
            row = dict.fromkeys(("cosine", "input", "input_random", "output", "output_random"), 0.0)
            if least:
                row["cosine"] = float((S @ (columns * inputs) @ S2) / (S.norm() * S2.norm()))
                row["input"] = float(inputs.square().sum()) / least
                row["input_random"] = most / len(V)
                row["output"] = float(columns.square().sum()) / least
                row["output_random"] = most / len(U)
            rows.append({"path": path, "pair": [a, b], **row})
    return {"pairs": rows, "skipped": skipped}


@torch.inference_mode()
def routing(
    model: Transformer, prompts: Tensor, routers: Mapping[str, ArrowRouter]
) -> dict[str, dict[str, list]]:
    """The gates g of N experts at every token of prompts (rows, length), as means over the rows.

    ``routers`` are {layer path: router}, and the model must act through them.

    gates (length, N)    mean g
    entropy (length,)    mean of -sum_i g_i ln g_i, in nats: from 0 (one expert) to ln N (all alike)
    gap (length,)        mean of the largest gate minus the second largest

    -> {path: {"gates", "entropy", "gap"}}

    Raises ValueError where a router is not asked exactly once in a pass of the model.
    """
    _check_prompts(prompts)
    seen: dict[str, list[Tensor]] = {path: [] for path in routers}
    before = {path: router.seen for path, router in routers.items()}
    means: dict[str, dict[str, list]] = {}
    try:
        for path, router in routers.items():
            router.seen = seen[path]
        model(prompts)
    finally:
        for path, router in routers.items():
            router.seen = before[path]
    for path, calls in seen.items():
        if len(calls) != 1:
            raise ValueError(
                f"the router of {path} was asked {len(calls)} times in one pass, not once: route "
                "with a router for each layer inside using(model, Gated(names, routers))"
            )
        gates = calls[0].double().unflatten(0, tuple(prompts.shape))
        largest = gates.topk(min(2, gates.shape[-1]), -1).values
        gap = largest[..., 0] - largest[..., 1:].sum(-1)  # one expert alone leads by its whole gate
        entropy = -torch.special.xlogy(gates, gates).sum(-1)
        by_row = {"gates": gates, "entropy": entropy, "gap": gap}
        means[path] = {name: values.mean(0).tolist() for name, values in by_row.items()}
    return means


@contextmanager
def switched_off(model: Transformer, paths: Iterable[str]) -> Iterator[None]:
    """Inside the block no adapter acts on these layers; after it they have their modes back.

    Raises ValueError for a path that is no layer with adapters.
    """
    layers, paths = lora_layers(model), list(paths)
    if missing := [path for path in paths if path not in layers]:
        raise ValueError(
            f"no adapter is attached to the layer {missing[0]!r}: "
            "name layers out of lora_layers(model)"
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
    """The scores {name: number} of a model while parts of its adapters are switched off.

    all      all adapters act as they do now
    none     no adapter acts: the base
    without  the adapters of one block are off
    only     the adapters of one block act, and those of all other layers are off

    A block is a name with layer paths. ``score`` must not enter ``using`` itself, for that would
    switch all adapters on again.

    -> {"all": scores, "none": scores, "without": {block: scores}, "only": {block: scores}}

    Raises ValueError where no adapter acts, and for a block with a layer that has no adapters.
    """
    layers = lora_layers(model)
    if all(layer.mode is None for layer in layers.values()):
        raise ValueError(
            "no adapter acts: call knock_out inside using(model, mode), and not within score"
        )

    def without(paths: Iterable[str]) -> dict[str, float]:
        with switched_off(model, paths):
            return {name: float(value) for name, value in score().items()}

    def only(paths: Sequence[str]) -> dict[str, float]:
        return without(path for path in layers if path not in paths)

    return {
        "all": without(()),
        "none": without(layers),
        "without": {block: without(paths) for block, paths in paths_by_block.items()},
        "only": {block: only(paths) for block, paths in paths_by_block.items()},
    }

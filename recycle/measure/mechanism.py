"""Measurements inside a model, which show where it holds its answers.

    logit_lens      the answer that every depth of the residual stream would give at one position
    lens_map        the same at every position
    interference    the overlap of two adapters' updates, layer by layer
    routing         the gates that a router gives each token
    knock_out       the scores without one block's adapters, and with these alone

Each is a function on values and returns plain JSON. All but `interference` measure the model as it
acts now: call them inside ``using(model, mode)``. Prompts and targets may lie on any device.
Activation patching stands in patching.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from lora import Adapter, lora_layers
from models import LanguageModel, Model, device_of
from recycle.reuse.route import Router


def check_prompts(prompts: Tensor) -> None:
    """Raises ValueError for anything but token ids of shape (rows, length)."""
    if prompts.dim() != 2 or prompts.is_floating_point() or not prompts.numel():
        raise ValueError(
            f"prompts {tuple(prompts.shape)} of {prompts.dtype}: "
            "give token ids of shape (rows, length)"
        )


def check_targets(targets: Mapping[str, Tensor], rows: int, vocabulary: int) -> None:
    """Raises ValueError for targets that are not one token id for each prompt."""
    for name, ids in targets.items():
        per_prompt = ids.shape == (rows,) and not ids.is_floating_point()
        if not per_prompt or not bool(((ids >= 0) & (ids < vocabulary)).all()):
            raise ValueError(
                f"targets {name!r} {tuple(ids.shape)}: give {rows} token ids below {vocabulary}, "
                "one for each prompt"
            )


@torch.inference_mode()
def residual_stream(
    model: LanguageModel, prompts: Tensor, position: int | slice = slice(None)
) -> Tensor:
    """The states h_l of prompts (rows, length): (layers + 1, rows, length, width).

    h_0 is the embedding, and h_l the residual stream after layer l. With one ``position`` the
    length falls away. Raises ValueError for prompts of another shape.
    """
    check_prompts(prompts)
    states: list[Tensor] = []
    hooks = [
        stage.register_forward_pre_hook(lambda _, args: states.append(args[0][:, position]))
        for stage in readers(model)
    ]
    try:
        model.hidden_states(prompts.to(device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(states)


def readers(model: LanguageModel) -> list[nn.Module]:
    """The modules that read the residual stream, one for each depth: the input of a layer, or of
    the final norm, is the stream after the layer before."""
    return [*model.layers, model.norm]


def depth_names(depths: int) -> list[str]:
    return ["embedding", *(f"layer {i}" for i in range(depths - 1))]


@torch.inference_mode()
def lens_log_probs(model: LanguageModel, prompts: Tensor, position: int = -1) -> Tensor:
    """log softmax(unembed(norm(h_l))) at one position of prompts (rows, length).

    h_0 is the embedding, and h_l the residual stream after layer l. The result has the shape
    (layers + 1, rows, vocabulary), in nats and float64. Its last depth is the model's own answer.
    This is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"). Raises
    ValueError for prompts of another shape and for a position that they do not have.
    """
    check_prompts(prompts)
    if not -prompts.shape[1] <= position < prompts.shape[1]:
        raise ValueError(f"position = {position}: the prompts have {prompts.shape[1]} tokens")
    states = residual_stream(model, prompts, position)
    return model.unembed(model.norm(states)).double().log_softmax(-1)


def _check_comparison(rows: int) -> None:
    if rows < 2:
        raise ValueError(
            "one prompt cannot be compared with the targets of other prompts: give at least 2"
        )


def _against_shuffled(log_probs: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """The numbers of `logit_lens` for log_probs (.., n, vocabulary) and one target each (n,): (..)
    each."""
    n = len(ids)
    M = log_probs[..., ids]
    right = M.diagonal(dim1=-2, dim2=-1)
    row_means, target_means = M.mean(-1, keepdim=True), M.mean(-2, keepdim=True)
    D = M - target_means - row_means + M.mean((-2, -1), keepdim=True)
    rank = 1 + (log_probs > right[..., None]).sum(-1)
    return {
        "log_prob": right.mean(-1),
        "shuffled": (M.sum((-2, -1)) - right.sum(-1)) / (n * (n - 1)),
        "shuffled_sd": (D.square().sum((-2, -1)) / (n - 1)).sqrt() / n,
        "top": (rank == 1).double().mean(-1),
        "mrr": (1 / rank).double().mean(-1),
    }


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
    _check_comparison(n)
    check_targets(targets, n, vocabulary)
    targets = {name: ids.to(log_probs.device) for name, ids in targets.items()}
    numbers = {
        name: {key: at.tolist() for key, at in _against_shuffled(log_probs, ids).items()}
        for name, ids in targets.items()
    }
    return {"depths": depth_names(depths), "targets": numbers}


@torch.inference_mode()
def lens_map(
    model: LanguageModel, prompts: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Where a target becomes readable: the logit lens at every position of prompts (rows, length).

    ``targets`` are {name: ids (rows,)}. Every depth, position and target gets these numbers, as
    `logit_lens` defines them there:

    signal       log_prob - shuffled, in nats: how far the target is above shuffled targets
    shuffled_sd  standard deviation of the signal where targets are given to the rows at random
    top          share of rows in which no token is more probable than the target

    Where all prompts have the same tokens up to a position, they have one state there, and the
    signal is 0 but for rounding. The model reads the prompts in one pass.

    -> {"depths": [layers + 1 names],
        "targets": {name: {each of the above: [layers + 1 lists of length numbers]}}}

    Raises ValueError for fewer than two prompts, and for targets that are not one token id each.
    """
    states = residual_stream(model, prompts)
    targets = {name: ids.to(states.device) for name, ids in targets.items()}
    _check_comparison(len(prompts))
    numbers: dict[str, dict[str, list]] = {
        name: {"signal": [], "shuffled_sd": [], "top": []} for name in targets
    }
    for state in states:  # a depth at a time: all at once would be layers + 1 times the memory
        by_row = model.unembed(model.norm(state)).double().log_softmax(-1)
        log_probs = by_row.transpose(0, 1)  # (length, rows, vocabulary)
        check_targets(targets, len(prompts), log_probs.shape[-1])
        for name, ids in targets.items():
            at = _against_shuffled(log_probs, ids)
            at["signal"] = at["log_prob"] - at["shuffled"]
            for key, by_depth in numbers[name].items():
                by_depth.append(at[key].tolist())
    return {"depths": depth_names(len(states)), "targets": numbers}


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
    model: Model, prompts: Tensor, routers: Mapping[str, Router], real: Tensor | None = None
) -> dict[str, dict[str, list]]:
    """The gates g of N experts at every token of prompts (rows, length), as means over the rows.

    ``routers`` are {layer path: router}, and the model must act through them. Where prompts are
    padded, ``real`` (rows, length) is False at padding, and the means leave padding out.

    gates (length, N)    mean g
    entropy (length,)    mean of -sum_i g_i ln g_i, in nats: from 0 (one expert) to ln N (all alike)
    gap (length,)        mean of the largest gate minus the second largest

    -> {path: {"gates", "entropy", "gap"}}

    Raises ValueError where a router is not asked exactly once in a pass of the model, and for a
    column of padding alone.
    """
    check_prompts(prompts)
    if real is not None and not bool(real.any(0).all()):
        raise ValueError("a column of the prompts is padding in every row: cut it off")
    device = device_of(model)
    prompts, real = prompts.to(device), None if real is None else real.to(device)
    seen: dict[str, list[Tensor]] = {path: [] for path in routers}
    before = {path: router.seen for path, router in routers.items()}
    means: dict[str, dict[str, list]] = {}
    try:
        for path, router in routers.items():
            router.seen = seen[path]
        model(prompts, real=real)
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
        means[path] = {name: _mean(values, real).tolist() for name, values in by_row.items()}
    return means


def _mean(values: Tensor, real: Tensor | None) -> Tensor:
    """The mean of values (rows, length, ..) over the rows, without padding."""
    if real is None:
        return values.mean(0)
    counted = real.to(values).reshape(*real.shape, *(1,) * (values.dim() - 2))
    return (values * counted).sum(0) / counted.sum(0)


@contextmanager
def switched_off(model: Model, paths: Iterable[str]) -> Iterator[None]:
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
    model: Model, paths_by_block: Mapping[str, Sequence[str]], score: Callable[[], dict[str, float]]
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
